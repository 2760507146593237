//! Where revisions come from, and how one becomes the running snapshot.
//!
//! `load → compile → swap`, all off the request threads. Whatever goes wrong changes nothing: the last good revision
//! serves on, and why the new one was refused is logged, counted and shown by `/status/ready`.
//!
//! Revisions come from a file, from a control plane, or from both: then the file holds objects of this gateway alone.

pub mod apply;
pub mod client;
pub mod crash_guard;
pub mod fetch;
pub mod file;
pub mod heartbeat;
pub mod invalidations;
pub mod keys;
pub mod last_good;
pub mod local;
pub mod progress;
pub mod pull;
pub mod remote;
pub mod seat;
#[cfg(test)]
mod seat_tests;
pub mod state_dir;
pub mod status;
#[cfg(test)]
mod succession_tests;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod trust;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;

use crate::clock::unix_ms;
use crate::config::SkipList;
use crate::distribution::{Content, Manifest, Signed};
use crate::document::{Environment, Mistakes};
use crate::memory;
use crate::revision;
use crate::snapshot::{Compiler, Nowhere, Snapshot};
use crate::telemetry::Metrics;
pub use status::{Refused, Status};
use verify::Refusal;

/// The running snapshot and how it came to be. One per process.
pub struct Revisions {
    current: ArcSwapOption<Snapshot>,
    compiler: Compiler,
    metrics: Arc<Metrics>,
    status: Mutex<Status>,
    /// What the running snapshot was made of.
    sources: Mutex<Sources>,
    /// Held while another one is made, so that the file and the control plane do not overwrite each other's.
    building: Mutex<()>,
    /// None: what is in the file is all there is.
    beside: Option<SkipList>,
    /// Replaced snapshots, kept until no request holds them, so that no request thread frees a large table.
    replaced: Mutex<Vec<Arc<Snapshot>>>,
}

/// What a snapshot is made of.
#[derive(Clone, Default)]
struct Sources {
    /// The objects of this gateway, and where their file is. Beside a control plane only.
    local: Option<(Arc<Content>, PathBuf)>,
    published: Option<Arc<Published>>,
}

/// A revision of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What is said of it, by somebody who is trusted.
    pub manifest: Manifest,
    /// What it says: its root is the manifest's.
    pub content: Content,
}

/// A revision, with what it takes to believe it again.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// The manifest as it was signed.
    pub signed: Signed,
    /// The snapshot as it was sent, if it was.
    pub snapshot: Option<Vec<u8>>,
    /// Both, read.
    pub published: Arc<Published>,
}

impl Remembered {
    /// What is said of it.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.published.manifest
    }
}

impl Revisions {
    /// Nothing applied yet; revisions come from a file alone.
    #[must_use]
    pub fn new(compiler: Compiler, metrics: Arc<Metrics>) -> Self {
        Self {
            current: ArcSwapOption::empty(),
            compiler,
            metrics,
            status: Mutex::default(),
            sources: Mutex::default(),
            building: Mutex::default(),
            beside: None,
            replaced: Mutex::default(),
        }
    }

    /// The same beside a control plane, from which these names are not taken: a file holds what is local.
    #[must_use]
    pub fn beside_control_plane(self, skipped: SkipList) -> Self {
        Self {
            beside: Some(skipped),
            ..self
        }
    }

    /// The running snapshot, to be pinned by a request.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.load_full()
    }

    /// What operators see.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let age = |at_ms| unix_ms().saturating_sub(at_ms) / 1000;
        status.age_seconds = status.applied_at_ms.map(age);
        status
    }

    /// The objects that are this gateway's own, beside a control plane: `api/orders`.
    #[must_use]
    pub fn local(&self) -> Vec<String> {
        let sources = self.sources();
        let local = sources.local.as_ref();
        local.map(|(content, _)| local::names(content)).unwrap_or_default()
    }

    /// The control plane's revision that is running.
    #[must_use]
    pub fn published(&self) -> Option<Arc<Published>> {
        self.sources().published
    }

    /// Reads a revision file and applies it. Blocks: not for a request thread.
    ///
    /// # Errors
    /// The mistakes, when it is refused; the last good revision then still runs.
    pub fn apply_file(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        self.try_file(path, now_ms).inspect_err(|refused| self.note(refused))
    }

    /// The first file of a process: whoever starts it tells the mistakes.
    ///
    /// # Errors
    /// As for [`Self::apply_file`].
    pub fn apply_first(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        self.try_file(path, now_ms)
    }

    /// The same for a file that was refused and did not change: what has been reported is not reported again.
    ///
    /// # Errors
    /// As for [`Self::apply_file`].
    pub fn apply_file_again(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        self.try_file(path, now_ms)
            .inspect_err(|refused| self.note_once(refused))
    }

    /// Beside a control plane: reads this gateway's own objects and applies nothing yet.
    ///
    /// # Errors
    /// The mistakes.
    pub fn read_local(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        let local = read_local(path).map_err(|mistakes| Refused::invalid(&mistakes, now_ms))?;
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = Sources {
            local: Some(local),
            ..self.sources()
        };
        self.set_sources(sources);
        Ok(())
    }

    /// Applies a control plane's revision. `before_swap` is called when it is certain that another snapshot will run;
    /// `nowhere` says what comes of names that do not exist. Blocks.
    ///
    /// # Errors
    /// The mistakes, when it is refused; it is not noted yet (see [`Self::refuse`]).
    pub fn apply_published(
        &self,
        published: &Arc<Published>,
        now_ms: u64,
        nowhere: Nowhere,
        before_swap: &dyn Fn(),
    ) -> Result<(), Refused> {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.sources();
        let manifest = &published.manifest;
        let is_the_same = |running: &Arc<Published>| {
            running.manifest.root == manifest.root && running.manifest.environment_type == manifest.environment_type
        };
        let fresh = Sources {
            published: Some(Arc::clone(published)),
            ..before.clone()
        };
        if before.published.as_ref().is_some_and(is_the_same) && self.current().is_some() {
            self.set_sources(fresh);
            self.renumber(manifest);
            return Ok(());
        }
        let built = self.build(&fresh, now_ms, nowhere)?;
        before_swap();
        self.set_sources(fresh);
        self.swap(built, Some(manifest), now_ms);
        Ok(())
    }

    /// Beside a control plane: applies this gateway's own objects alone, for want of anything published.
    ///
    /// # Errors
    /// The mistakes, when they do not fit together.
    pub fn apply_local(&self, now_ms: u64) -> Result<(), Refused> {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let built = self.build(&self.sources(), now_ms, Nowhere::Refused)?;
        self.swap(built, None, now_ms);
        Ok(())
    }

    /// Notes that a control plane's revision is not taken: once for each number and reason.
    pub fn refuse(&self, refusal: &Refusal, now_ms: u64) {
        self.note_once(&Refused {
            at_ms: now_ms,
            reason: refusal.code,
            environment_seq: Some(refusal.seq),
            mistakes: refusal.message.lines().map(str::to_owned).collect(),
        });
    }

    fn try_file(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        if self.beside.is_some() {
            let fresh = Sources {
                local: Some(read_local(path).map_err(|mistakes| Refused::invalid(&mistakes, now_ms))?),
                ..self.sources()
            };
            // Whether anything may be served yet is not decided here.
            if self.current().is_none() {
                self.set_sources(fresh);
                return Ok(());
            }
            let built = self.build(&fresh, now_ms, Nowhere::Refused)?;
            self.set_sources(fresh.clone());
            self.swap(
                built,
                fresh.published.as_ref().map(|published| &published.manifest),
                now_ms,
            );
            return Ok(());
        }
        let name = path.display().to_string();
        let built = self.guarded(&name, now_ms, || {
            let loaded = revision::load(path, &Environment::of_process())?;
            self.compiler.compile(loaded)
        })?;
        self.swap(built, None, now_ms);
        Ok(())
    }

    fn sources(&self) -> Sources {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_sources(&self, sources: Sources) {
        *self.sources.lock().unwrap_or_else(PoisonError::into_inner) = sources;
    }

    /// A snapshot of what is published and what is local.
    fn build(&self, sources: &Sources, now_ms: u64, nowhere: Nowhere) -> Result<Snapshot, Refused> {
        let manifest = sources.published.as_ref().map(|published| &published.manifest);
        let name = match (manifest, &sources.local) {
            (Some(manifest), _) => format!("environment {} revision {}", manifest.environment, manifest.seq),
            (None, Some((_, path))) => path.display().to_string(),
            (None, None) => "no revision".to_owned(),
        };
        self.guarded(&name, now_ms, || {
            let nothing = Content::default();
            let published = sources
                .published
                .as_ref()
                .map_or(&nothing, |published| &published.content);
            let own = sources.local.as_ref().map(|(content, _)| content.as_ref());
            let skipped = self.beside.clone().unwrap_or_default();
            let text = local::merged(published, own, &skipped).to_document();
            // What a local object refers to by a relative path is relative to its file.
            let directory = sources.local.as_ref().and_then(|(_, path)| path.parent());
            let environment = Environment::of_process().of_published();
            let mut loaded = revision::parse(&text, &name, directory.unwrap_or(Path::new("/")), &environment)?;
            let mut environment_type = self.compiler.environment_type;
            if let Some(manifest) = manifest {
                loaded.revision.digest = manifest.root.to_string();
                environment_type = manifest.environment_type;
            }
            self.compiler.compile_as(loaded, environment_type, nowhere)
        })
    }

    /// Builds on a thread of its own. A fault of ours in a compiler must not take down a gateway that serves; and memory
    /// that a thread has taken goes back to the system when that thread has ended, while one that sleeps until the next
    /// revision keeps it: five times what a hundred thousand routes need was measured.
    fn guarded(
        &self,
        name: &str,
        now_ms: u64,
        build: impl FnOnce() -> Result<(Snapshot, Mistakes), Mistakes> + Send,
    ) -> Result<Snapshot, Refused> {
        let built = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("compile".to_owned());
            thread
                .spawn_scoped(scope, build)
                .map(std::thread::ScopedJoinHandle::join)
        });
        let built = built.map_err(|error| Refused {
            at_ms: now_ms,
            reason: "no_thread",
            environment_seq: None,
            mistakes: vec![format!("{name}: there is no thread to compile it: {error}")],
        })?;
        match built {
            Ok(Ok((snapshot, warnings))) => {
                for warning in &warnings {
                    log::warn!("{warning}");
                }
                Ok(snapshot)
            }
            Ok(Err(mistakes)) => Err(Refused::invalid(&mistakes, now_ms)),
            Err(_) => Err(Refused {
                at_ms: now_ms,
                reason: "panicked",
                environment_seq: None,
                mistakes: vec![format!("{name}: the compiler panicked; this is a bug of tollgate")],
            }),
        }
    }

    /// Frees replaced snapshots that no request holds any more. Called now and then from a background thread.
    pub fn bury(&self) {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        let before = replaced.len();
        replaced.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        if replaced.len() < before {
            memory::give_back();
        }
    }

    /// Logs, counts and shows a refusal.
    fn note(&self, refused: &Refused) {
        for mistake in &refused.mistakes {
            log::error!("revision refused: {mistake}");
        }
        self.metrics.revision_refused(refused.reason);
        self.status.lock().unwrap_or_else(PoisonError::into_inner).refused = Some(refused.clone());
    }

    fn note_once(&self, refused: &Refused) {
        let known = self.status().refused.is_some_and(|before| {
            (before.mistakes == refused.mistakes || refused.environment_seq.is_some())
                && before.reason == refused.reason
                && before.environment_seq == refused.environment_seq
        });
        if !known {
            self.note(refused);
        }
    }

    /// The running snapshot has another number now, and nothing else is new.
    fn renumber(&self, manifest: &Manifest) {
        log::info!("revision {} is what runs already", manifest.seq);
        self.metrics.revision_seq(manifest.seq);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.environment_seq = Some(manifest.seq);
        status.refused = None;
    }

    fn swap(&self, snapshot: Snapshot, manifest: Option<&Manifest>, now_ms: u64) {
        let fresh = Status {
            digest: Some(snapshot.digest().to_owned()),
            source: Some(if manifest.is_some() { "control plane" } else { "file" }),
            environment_seq: manifest.map(|manifest| manifest.seq),
            root: manifest.map(|manifest| manifest.root.to_string()),
            applied_at_ms: Some(now_ms),
            age_seconds: None,
            routes: snapshot.route_count(),
            keys: snapshot.key_count(),
            refused: None,
        };
        log::info!(
            "revision {} applied: {} routes, {} keys",
            snapshot.short_digest(),
            fresh.routes,
            fresh.keys
        );
        self.metrics.revision_applied(snapshot.digest(), now_ms);
        self.metrics.revision_seq(fresh.environment_seq.unwrap_or(0));
        let old = self.current.swap(Some(Arc::new(snapshot)));
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        if let Some(old) = old {
            self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        }
        self.bury();
        // What reading and compiling took: of a hundred thousand routes three times what is left of them.
        memory::give_back();
    }
}

fn read_local(path: &Path) -> Result<(Arc<Content>, PathBuf), Mistakes> {
    let content = local::read(path, &Environment::of_process())?;
    Ok((Arc::new(content), path.to_owned()))
}
