//! What every request to the control plane has at hand.

use std::sync::Arc;

use tokio::sync::watch;

use super::access::Tokens;
use super::authoring;
use super::delivery::{self, Delivery};
use super::heads::Heads;
use super::key_manager::{self, KeyManager};
use super::pools::{self, Pools};
use super::store::Store;
use crate::clock::unix_ms;
use crate::distribution::SigningKey;

/// Unix time in milliseconds. Tests bring their own.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

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
    /// What gateways fetch.
    pub delivery: Delivery,
    /// Which gateways there are, and how they are doing.
    pub pools: Pools,
    /// What tokens and keys are worth.
    pub key_manager: KeyManager,
    /// Whether the process is leaving.
    leaving: watch::Sender<bool>,
    clock: Clock,
}

/// What the configuration decides about a node.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// About what gateways fetch.
    pub delivery: delivery::Settings,
    /// About seats.
    pub pools: pools::Settings,
    /// About tokens.
    pub key_manager: key_manager::Settings,
}

impl Plane {
    /// A node on this store, with the defaults. Nothing runs in the background yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, signing: Arc<SigningKey>) -> Arc<Self> {
        Self::configured(store, signing, Settings::default())
    }

    /// A node on this store. Nothing runs in the background yet.
    #[must_use]
    pub fn configured(store: Arc<dyn Store>, signing: Arc<SigningKey>, settings: Settings) -> Arc<Self> {
        Self::with_clock(store, signing, settings, Arc::new(unix_ms))
    }

    /// The same with another clock for seats, keys and tokens.
    #[must_use]
    pub fn with_clock(store: Arc<dyn Store>, signing: Arc<SigningKey>, settings: Settings, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            heads: Heads::new(),
            tokens: Tokens::new(Arc::clone(&store)),
            delivery: Delivery::new(settings.delivery),
            pools: Pools::new(settings.pools, clock()),
            key_manager: KeyManager::new(settings.key_manager),
            leaving: watch::Sender::new(false),
            store,
            signing,
            clock,
            authoring: authoring::Shared::default(),
        })
    }

    /// Unix time in milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        (self.clock)()
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
