//! What every request to the control plane has at hand.

use std::sync::Arc;

use super::access::Tokens;
use super::authoring;
use super::heads::Heads;
use super::store::Store;
use crate::distribution::SigningKey;

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
    /// What authoring keeps in memory.
    pub(super) authoring: authoring::Shared,
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
            authoring: authoring::Shared::default(),
        })
    }
}
