//! What the log has said since the base: few keys, changed by one and read by all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;

use super::stored::StoredKey;
use crate::distribution::KeyHash;

/// So that readers of different keys hardly ever meet.
const SHARDS: usize = 64;

/// The newest change of each key since the base.
pub struct Overlay {
    shards: Box<[RwLock<HashMap<KeyHash, Change>>]>,
    len: AtomicUsize,
}

/// What the log said of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The record that said it.
    pub seq: u64,
    /// What is true since then.
    pub now: Now,
}

/// What is true of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// It lets in.
    Key(Arc<StoredKey>),
    /// It does not.
    Revoked {
        /// Whether the log had not known it before: it stands in a published document.
        foreign: bool,
    },
}

impl Overlay {
    /// What the log said of a key. While it has said nothing at all, nothing is locked.
    #[must_use]
    pub fn find(&self, hash: &KeyHash) -> Option<Change> {
        if self.is_empty() {
            return None;
        }
        self.shard(hash)?.read().get(hash).cloned()
    }

    /// Notes what the log says.
    pub fn insert(&self, hash: KeyHash, change: Change) {
        if let Some(shard) = self.shard(&hash) {
            let mut shard = shard.write();
            if shard.insert(hash, change).is_none() {
                self.len.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// A copy of all changes that are asked for, in the order of hashes.
    #[must_use]
    pub fn sorted(&self, wanted: impl Fn(&Change) -> bool) -> Vec<(KeyHash, Change)> {
        let mut all: Vec<_> = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.read();
            let matching = shard.iter().filter(|(_, change)| wanted(change));
            all.extend(matching.map(|(hash, change)| (*hash, change.clone())));
        }
        all.sort_unstable_by_key(|(hash, _)| *hash);
        all
    }

    /// How many changes are as asked for.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(&Change) -> bool) -> usize {
        let count = |shard: &RwLock<HashMap<KeyHash, Change>>| shard.read().values().filter(|c| wanted(c)).count();
        self.shards.iter().map(count).sum()
    }

    /// How many keys were changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, hash: &KeyHash) -> Option<&RwLock<HashMap<KeyHash, Change>>> {
        // The table inside goes by other bits.
        let [.., last] = hash.0;
        self.shards.get(usize::from(last) % SHARDS)
    }
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            len: AtomicUsize::new(0),
        }
    }
}

impl FromIterator<(KeyHash, Change)> for Overlay {
    fn from_iter<T: IntoIterator<Item = (KeyHash, Change)>>(changes: T) -> Self {
        let overlay = Self::default();
        for (hash, change) in changes {
            overlay.insert(hash, change);
        }
        overlay
    }
}
