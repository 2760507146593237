//! Between pulling and heartbeat: what was applied and refused, and what the control plane says is newest.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use crate::distribution::protocol::{Applied, Nack};

/// Where the pulling stands, for the heartbeat; and what the heartbeat has heard, for the pulling.
#[derive(Default)]
pub struct Progress {
    reported: watch::Sender<Reported>,
    /// The newest revision that needs nothing more to be done.
    settled: AtomicU64,
    /// The newest revision that there is.
    newest: AtomicU64,
    wake: Notify,
}

/// What is told to the control plane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reported {
    /// What runs.
    pub applied: Option<Applied>,
    /// What was refused since.
    pub refused: Option<Nack>,
}

impl Progress {
    /// Tells when something was applied or refused.
    #[must_use]
    pub fn reported(&self) -> watch::Receiver<Reported> {
        self.reported.subscribe()
    }

    /// This runs now.
    pub fn applied(&self, applied: Applied) {
        self.reported.send_replace(Reported {
            applied: Some(applied),
            refused: None,
        });
    }

    /// This was refused; what is known already wakes nobody.
    pub fn refused(&self, nack: Nack) {
        self.reported.send_if_modified(|reported| {
            let is_new = reported.refused.as_ref() != Some(&nack);
            reported.refused = Some(nack);
            is_new
        });
    }

    /// Nothing more is to be done for the revision of this number.
    pub fn settled(&self, seq: u64) {
        self.settled.store(seq, Ordering::Relaxed);
    }

    /// The newest revision has this number: who waits for it is to ask at once.
    pub fn newest_is(&self, seq: u64) {
        self.newest.store(seq, Ordering::Relaxed);
        if self.is_behind() {
            self.wake.notify_one();
        }
    }

    /// Waits until there is something newer than what is settled.
    pub async fn behind(&self) {
        loop {
            self.wake.notified().await;
            // It may have been fetched since.
            if self.is_behind() {
                return;
            }
        }
    }

    fn is_behind(&self) -> bool {
        self.newest.load(Ordering::Relaxed) > self.settled.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_what_is_newer_than_what_is_settled_wakes() {
        let progress = Progress::default();
        let woken = async || {
            let behind = progress.behind();
            tokio::time::timeout(Duration::from_millis(20), behind).await.is_ok()
        };
        progress.settled(3);
        progress.newest_is(3);
        assert!(!woken().await);
        progress.newest_is(4);
        assert!(woken().await);
        progress.newest_is(5);
        progress.settled(5);
        assert!(!woken().await, "fetched before it was noticed");
    }
}
