//! Where everything stands: the newest revision of each environment, the end of the key log, and who waits for them.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use super::store::PublishedRevision;

/// The newest of everything, as far as this node knows. Written by who publishes here, and by the task that looks for
/// what other nodes have published.
#[derive(Default)]
pub struct Heads {
    revisions: RwLock<HashMap<String, watch::Sender<u64>>>,
    keys: watch::Sender<u64>,
    invalidations: watch::Sender<u64>,
}

impl Heads {
    /// Nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A revision was published, here or elsewhere. Wakes who waits for it.
    pub fn published(&self, revision: &PublishedRevision) {
        self.seen(&revision.environment, revision.seq);
    }

    /// The same, for who knows its number only.
    pub fn seen(&self, environment: &str, seen: u64) {
        grow(&self.of(environment), seen);
    }

    /// Records were written to the key log, here or elsewhere, up to this one. Wakes who waits for them.
    pub fn keys_written(&self, head: u64) {
        grow(&self.keys, head);
    }

    /// Records of what gateways are to forget were written, here or elsewhere, up to this one. Wakes who waits for them.
    pub fn invalidated(&self, head: u64) {
        grow(&self.invalidations, head);
    }

    /// The newest revision of an environment; 0 if none is known.
    #[must_use]
    pub fn seq(&self, environment: &str) -> u64 {
        let revisions = self.revisions.read().unwrap_or_else(PoisonError::into_inner);
        revisions.get(environment).map_or(0, |seq| *seq.borrow())
    }

    /// The newest revision of every environment that is known, in the order of names.
    #[must_use]
    pub fn all(&self) -> Vec<(String, u64)> {
        let revisions = self.revisions.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<(String, u64)> = revisions
            .iter()
            .map(|(environment, seq)| (environment.clone(), *seq.borrow()))
            .collect();
        all.sort_unstable();
        all
    }

    /// The end of the key log.
    #[must_use]
    pub fn key_seq(&self) -> u64 {
        *self.keys.borrow()
    }

    /// Tells when the newest revision of an environment is another one. The environment has to exist: nothing is ever
    /// removed here.
    #[must_use]
    pub fn watch(&self, environment: &str) -> watch::Receiver<u64> {
        self.of(environment).subscribe()
    }

    /// Tells when the key log has grown.
    #[must_use]
    pub fn watch_keys(&self) -> watch::Receiver<u64> {
        self.keys.subscribe()
    }

    /// Tells when there is more to forget.
    #[must_use]
    pub fn watch_invalidations(&self) -> watch::Receiver<u64> {
        self.invalidations.subscribe()
    }

    fn of(&self, environment: &str) -> watch::Sender<u64> {
        let known = {
            let revisions = self.revisions.read().unwrap_or_else(PoisonError::into_inner);
            revisions.get(environment).cloned()
        };
        known.unwrap_or_else(|| {
            let mut revisions = self.revisions.write().unwrap_or_else(PoisonError::into_inner);
            revisions.entry(environment.to_owned()).or_default().clone()
        })
    }
}

fn grow(head: &watch::Sender<u64>, seen: u64) {
    head.send_if_modified(|seq| {
        let newer = seen > *seq;
        *seq = seen.max(*seq);
        newer
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_by_news_of_his_environment_and_nothing_goes_back() {
        let heads = Heads::new();
        let revision = |environment: &str, seq| PublishedRevision {
            environment: environment.to_owned(),
            seq,
            root: crate::distribution::ContentHash([0; 32]),
            snapshot: crate::distribution::ContentHash([0; 32]),
            snapshot_size: 0,
            snapshot_raw_size: 0,
            routes: 0,
            source: String::new(),
            author: String::new(),
            note: String::new(),
            rollback_of: None,
            published_ms: 0,
        };
        let mut prod = heads.watch("prod");
        heads.published(&revision("test", 1));
        assert!(!prod.has_changed().unwrap());
        heads.published(&revision("prod", 3));
        prod.changed().await.unwrap();
        heads.published(&revision("prod", 2));
        assert!(!prod.has_changed().unwrap());
        assert_eq!((heads.seq("prod"), heads.seq("test"), heads.seq("none")), (3, 1, 0));
        let mut keys = heads.watch_keys();
        heads.keys_written(5);
        keys.changed().await.unwrap();
        assert_eq!(heads.key_seq(), 5);
    }
}
