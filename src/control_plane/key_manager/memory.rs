//! What is remembered of keys for a minute, so that a thousand questions about one cost one look into the store. A key
//! that changes through this node, or whose change this node has heard of, is looked up again at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::super::plane::Plane;
use super::super::store::{StoreError, StoreResult, StoredKey};
use crate::distribution::KeyHash;
use crate::distribution::protocol::KEY_PAGE_MOST;

/// How many keys are remembered, unknown ones included.
const ENTRIES: usize = 100_000;

/// For how long.
const KEPT: Duration = Duration::from_secs(60);

/// Pages of the key log that are read to learn what changed; beyond them everything is forgotten instead.
const PAGES: usize = 10;

/// Keys by their hashes.
pub(super) struct Memory {
    keys: Cache<KeyHash, Known>,
    /// The record of the key log up to which changes are known.
    followed: AtomicU64,
    /// One reader of the log at a time.
    following: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Known {
    at: Instant,
    /// None: there is no such key.
    key: Option<StoredKey>,
}

impl Memory {
    /// Empty.
    pub(super) fn new() -> Self {
        Self {
            keys: Cache::new(ENTRIES),
            followed: AtomicU64::new(0),
            following: tokio::sync::Mutex::new(()),
        }
    }

    /// The key with this hash, from memory if that is allowed and fresh.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn key(&self, plane: &Plane, hash: &KeyHash, from_memory: bool) -> StoreResult<Option<StoredKey>> {
        self.follow(plane).await?;
        if from_memory
            && let Some(known) = self.keys.get(hash)
            && known.at.elapsed() < KEPT
        {
            return Ok(known.key);
        }
        // What is looked up from now on is at least as new as this record.
        let seq = self.followed.load(Ordering::SeqCst);
        let key = plane.store.key_by_hash(hash).await?;
        self.keep(hash, key.clone(), seq);
        Ok(key)
    }

    /// Remembers what was looked up after the log was followed up to `seq`.
    fn keep(&self, hash: &KeyHash, key: Option<StoredKey>, seq: u64) {
        let at = Instant::now();
        self.keys.insert(*hash, Known { at, key });
        if self.followed.load(Ordering::SeqCst) != seq {
            // The log went on meanwhile, maybe about this very key: a lookup under way must not bring it back.
            self.keys.remove(hash);
        }
    }

    /// Forgets what the key log has changed. Costs one comparison when there is nothing new.
    async fn follow(&self, plane: &Plane) -> StoreResult<()> {
        let head = plane.heads.key_seq();
        if self.followed.load(Ordering::SeqCst) >= head {
            return Ok(());
        }
        let _turn = self.following.lock().await;
        let mut followed = self.followed.load(Ordering::SeqCst);
        for _ in 0..PAGES {
            if followed >= head {
                return Ok(());
            }
            let page = match plane.store.key_log(followed, KEY_PAGE_MOST).await {
                Ok(page) => page,
                // The log was trimmed beyond what is known here: nothing is known any more, and it goes on from the end.
                Err(StoreError::NotFound(_)) => break,
                Err(error) => return Err(error),
            };
            let is_next = page.first().is_some_and(|record| record.seq == followed + 1);
            let Some(last) = page.last().filter(|_| is_next) else {
                break;
            };
            followed = last.seq;
            // First the number, then the keys: whoever has looked one up before it sees the number and drops it itself.
            self.followed.store(followed, Ordering::SeqCst);
            for record in &page {
                self.keys.remove(&record.change.hash());
            }
        }
        if followed < head {
            // Too much to read, or the log does not go back that far.
            self.followed.store(head, Ordering::SeqCst);
            self.keys.clear();
        }
        Ok(())
    }

    /// Ends a lookup that was under way since the log was followed up to `seq`, with what it had found.
    #[cfg(test)]
    pub(super) fn land(&self, hash: &KeyHash, key: Option<StoredKey>, seq: u64) {
        self.keep(hash, key, seq);
    }

    #[cfg(test)]
    pub(super) fn followed(&self) -> u64 {
        self.followed.load(Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(super) fn remembers(&self, hash: &KeyHash) -> bool {
        self.keys.get(hash).is_some()
    }
}
