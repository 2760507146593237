//! What every request to the control plane has at hand.

use std::sync::Arc;

use tokio::sync::watch;

use super::access::Tokens;
use super::delivery::{self, Delivery};
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
    /// What gateways fetch.
    pub delivery: Delivery,
    /// Whether the process is leaving.
    leaving: watch::Sender<bool>,
}

impl Plane {
    /// A node on this store, with every setting as it is by default. Nothing runs in the background yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, signing: Arc<SigningKey>) -> Arc<Self> {
        Self::with(store, signing, delivery::Settings::default())
    }

    /// The same with these settings.
    #[must_use]
    pub fn with(store: Arc<dyn Store>, signing: Arc<SigningKey>, delivery: delivery::Settings) -> Arc<Self> {
        Arc::new(Self {
            heads: Heads::new(),
            tokens: Tokens::new(Arc::clone(&store)),
            delivery: Delivery::new(delivery),
            leaving: watch::Sender::new(false),
            store,
            signing,
        })
    }

    /// The process is leaving: who waits for news is answered at once.
    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }

    /// Returns when the process is leaving.
    pub async fn left(&self) {
        // The sender is here, so that it can not be gone.
        let _ = self.leaving.subscribe().wait_for(|leaving| *leaving).await;
    }
}
