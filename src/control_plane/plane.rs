//! What every request to the control plane has at hand.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{Mutex, Semaphore};

use super::access::Tokens;
use super::heads::Heads;
use super::store::Store;
use crate::distribution::{ContentHash, SigningKey};

/// How many documents are read and checked at the same time: each may be 64 MiB, and take several times that.
const DOCUMENTS: usize = 4;

/// A node of the control plane. Cheap to clone is its [`Arc`]; everything that must outlive it is in the store.
pub struct Plane {
    /// What is authored and published.
    pub store: Arc<dyn Store>,
    /// What vouches for manifests, key pages and seats.
    pub signing: Arc<SigningKey>,
    /// The newest revision of each environment and the end of the key log, and who waits for them.
    pub heads: Heads,
    /// Who may do what.
    pub tokens: Tokens,
    /// Changes of what is authored wait here for each other.
    pub(super) changes: Mutex<()>,
    /// Who reads a large document has one of these.
    pub(super) documents: Semaphore,
    /// What is known of the newest revisions, for the catalogue and for keys that stand in documents.
    pub(super) published: super::authoring::published::Cache,
    pinned: RwLock<Vec<ContentHash>>,
}

impl Plane {
    /// A node on this store. Nothing runs in the background yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, signing: Arc<SigningKey>) -> Arc<Self> {
        Arc::new(Self {
            heads: Heads::new(),
            tokens: Tokens::new(Arc::clone(&store)),
            store,
            signing,
            changes: Mutex::new(()),
            documents: Semaphore::new(DOCUMENTS),
            published: super::authoring::published::cache(),
            pinned: RwLock::default(),
        })
    }

    /// Says which blobs are in use although no revision has them, such as bases of keys: they are not removed with old
    /// revisions. Replaces what was said before.
    pub fn pin(&self, blobs: Vec<ContentHash>) {
        *self.pinned.write().unwrap_or_else(PoisonError::into_inner) = blobs;
    }

    /// The blobs that are in use although no revision has them.
    #[must_use]
    pub fn pinned(&self) -> Vec<ContentHash> {
        self.pinned.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
