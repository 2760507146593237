//! From a revision that is complete to one that runs, is kept, and has proven that it takes nothing down.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Remembered;
use super::crash_guard::{CrashGuard, PROVEN};
use super::pull::Pull;
use super::verify::{Refusal, follow};
use crate::clock::unix_ms;
use crate::distribution::Manifest;
use crate::distribution::protocol::Applied;
use crate::snapshot::Nowhere;

impl Pull {
    /// Starts from disk, or for want of anything there from this gateway's own objects. Blocks. True if something runs.
    ///
    /// What took the process down twice comes last: it may do so again, but a machine that lost its power twice, with
    /// one revision on its disk, must not stay out for good.
    pub fn boot(&self) -> bool {
        let trusted = self.trust.known();
        let mut refused = None;
        for revision in self.last_good.revisions(&trusted, &self.expected) {
            let manifest = revision.manifest();
            if self.guard.refuses(manifest.root) {
                log::warn!(
                    "revision {}: the process ended twice after it, the one before is taken",
                    manifest.seq
                );
                refused.get_or_insert(revision);
                continue;
            }
            if self.start_from(&revision) {
                log::info!("revision {} is the last good one on disk", manifest.seq);
                return true;
            }
        }
        if self.revisions.local().is_empty() {
            return refused.is_some_and(|revision| {
                log::error!(
                    "revision {}: the process ended twice after it, and it may end again; there is nothing else to serve",
                    revision.manifest().seq
                );
                self.start_from(&revision)
            });
        }
        let applied = self.revisions.apply_local(unix_ms());
        if let Err(refused) = &applied {
            let refusal = Refusal::new(0, refused.reason, refused.mistakes.join("\n"));
            self.revisions.refuse(&refusal, unix_ms());
        }
        applied.is_ok()
    }

    /// The process before this one has stopped writing: if it took up another revision since this one has read, that is
    /// taken up here as well. Blocks.
    pub fn take_over(&self) {
        let running = self.revisions.published();
        if running.is_some_and(|running| !self.last_good.is_current(&running.manifest)) {
            self.boot();
        }
    }

    /// Applies what was read from disk; true if it runs. After a restart nothing is known of any name, and one that is gone
    /// just now must not take down what served before.
    fn start_from(&self, revision: &Remembered) -> bool {
        let manifest = revision.manifest();
        let taken = follow(manifest, None, &self.expected).and_then(|()| self.swap_in(revision, Nowhere::Told));
        match taken {
            Ok(()) => {
                told(manifest, self.last_good.choose(manifest));
                self.tell(manifest);
                true
            }
            Err(refusal) => {
                self.revisions.refuse(&refusal, unix_ms());
                false
            }
        }
    }

    /// Compiles, swaps and keeps. Blocks.
    pub(super) fn apply(&self, revision: &Remembered) -> Result<(), Refusal> {
        self.swap_in(revision, Nowhere::Refused)?;
        // Only now, because packing may take as long as everything before. A gateway that ends here starts from the
        // revision before, and asks.
        let manifest = revision.manifest();
        told(manifest, self.last_good.keep(revision));
        self.tell(manifest);
        Ok(())
    }

    fn swap_in(&self, revision: &Remembered, nowhere: Nowhere) -> Result<(), Refusal> {
        let manifest = revision.manifest();
        let before_swap = || {
            self.swaps.fetch_add(1, Ordering::Relaxed);
            self.guard.change(|guard| guard.swap(manifest.root));
        };
        self.revisions
            .apply_published(&revision.published, unix_ms(), nowhere, &before_swap)
            .map_err(|refused| Refusal::new(manifest.seq, refused.reason, refused.mistakes.join("\n")))
    }

    fn tell(&self, manifest: &Manifest) {
        self.manifests.send_if_modified(|known| {
            let new = known.as_ref().is_none_or(|known| known.seq < manifest.seq);
            if new {
                *known = Some(manifest.clone());
            }
            new
        });
        self.progress.applied(Applied {
            seq: manifest.seq,
            root: manifest.root.to_string(),
        });
    }

    /// A minute without an end after the last swap proves it. To be run beside everything else.
    pub async fn prove(self: Arc<Self>) {
        let mut reported = self.progress.reported();
        loop {
            let swaps = self.swaps.load(Ordering::Relaxed);
            if reported.borrow_and_update().applied.is_some() {
                tokio::time::sleep(PROVEN).await;
                if self.swaps.load(Ordering::Relaxed) != swaps {
                    continue;
                }
                let guard = Arc::clone(&self.guard);
                let cleared = tokio::task::spawn_blocking(move || guard.change(CrashGuard::clear));
                let _ = cleared.await;
            }
            if reported.changed().await.is_err() {
                return;
            }
        }
    }
}

/// A revision that is not on disk serves all the same.
fn told(manifest: &Manifest, written: std::io::Result<()>) {
    if let Err(error) = written {
        log::error!(
            "revision {} serves but could not be kept on disk: {error}",
            manifest.seq
        );
    }
}
