//! The connection to Redis, and the only place that opens one. It knows nothing of what is kept there.
//!
//! A deployment is one server or a cluster. Every server is a [`Node`] with one connection and a breaker: whoever
//! sends learns at once that a server is away, waits for a reply no longer than the settings say, and is told whether
//! what was sent may have taken effect. Tasks in the background connect again, look at silent servers, and follow a
//! cluster when slots move. Whoever reads ([`Redis::health_of`], [`Redis::node_of`]) waits for none of them.

mod connect;
mod node;
mod probe;
mod redirect;
mod refusals;
mod round_trips;
mod settings;
mod slot;
mod topology;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

pub use self::node::{Failure, Health, Node, Reply};
pub use self::probe::{Description, Purpose, probe};
pub use self::settings::{ServerUrl, Settings, SettingsError};
pub use self::slot::{SLOTS, Slot};

use self::connect::Dial;
use self::node::Surroundings;
use self::topology::Topology;
use crate::telemetry::StoreMetrics;

/// A Redis deployment: one server, or a cluster. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Redis(Arc<Deployment>);

struct Deployment {
    topology: Arc<Topology>,
    upkeep: Mutex<Option<AbortHandle>>,
}

impl Redis {
    /// Prepares everything; nothing is connected before [`start`](Self::start). Reads the trusted certificates.
    ///
    /// # Errors
    /// When settings contradict each other, or the certificates can not be read.
    pub fn new(settings: &Settings, metrics: StoreMetrics) -> Result<Self, SettingsError> {
        let surroundings = Arc::new(Surroundings {
            dial: Dial::new(settings)?,
            slow_after: settings.slow_after,
            metrics,
            look: Notify::new(),
            progress: watch::Sender::new(0),
            peers: Mutex::default(),
        });
        let seeds = settings.urls.iter().map(|url| url.endpoint.clone()).collect();
        Ok(Self(Arc::new(Deployment {
            topology: Arc::new(Topology::new(seeds, surroundings)),
            upkeep: Mutex::new(None),
        })))
    }

    /// Starts the upkeep on this runtime: connecting, connecting again, looking at silent servers, following the
    /// cluster. It ends when the last clone is dropped. A second call does nothing.
    pub fn start(&self, runtime: &Handle) {
        let mut upkeep = self.0.upkeep.lock();
        if upkeep.is_none() {
            *upkeep = Some(runtime.spawn(Arc::clone(&self.0.topology).keep()).abort_handle());
        }
    }

    /// Waits until it is known which servers there are, and each was tried once, whether or not it answered. False if
    /// that takes longer than `within`.
    pub async fn ready(&self, within: Duration) -> bool {
        let mut progress = self.0.topology.progress();
        let all_tried = progress.wait_for(|_| self.0.topology.all_tried());
        timeout(within, all_tried).await.is_ok_and(|seen| seen.is_ok())
    }

    /// The server that has this slot; none if no server of a cluster has it. Never waits.
    #[must_use]
    pub fn node_of(&self, slot: Slot) -> Option<Arc<Node>> {
        self.0.topology.node_of(slot)
    }

    /// Every server, of a cluster every one with slots.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.0.topology.nodes()
    }

    /// How the server of this slot is; down if there is none. Never waits.
    #[must_use]
    pub fn health_of(&self, slot: Slot) -> Health {
        self.0.topology.health_of(slot)
    }

    /// Changes whenever servers come or go, or slots move.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.topology.changed()
    }

    /// Looks soon at which server has which slot. May be called as often as one likes. Answers of [`Node::send`] that
    /// say that a slot is elsewhere do so by themselves.
    pub fn refresh(&self) {
        self.0.topology.look();
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if let Some(upkeep) = self.upkeep.get_mut().take() {
            upkeep.abort();
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(&self.nodes()).finish()
    }
}
