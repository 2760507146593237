//! The cache of this process, put together: its memory, what gateways share, and how they tell each other what is not
//! valid any more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use crate::cache::{Cache, TierCounters};
use crate::config::Config;
use crate::gateway::caching::Caching;
use crate::telemetry::{CacheMetrics, Metrics};

/// How often what is past every use is looked for, and how much of it at most at a time.
const SWEEP: Duration = Duration::from_secs(2);
const SWEEP_AT_MOST: usize = 4096;

/// The cache of this process.
pub struct Keeping {
    cache: &'static Cache,
    metrics: CacheMetrics,
}

impl Keeping {
    /// Puts it together. The engine wants a cache that never ends, and a process has one.
    #[must_use]
    pub fn start(config: &Config, metrics: &Arc<Metrics>, side: &Handle) -> Self {
        let metrics = metrics.cache().clone();
        let cache: &'static Cache = Box::leak(Box::new(Cache::new(256 << 20, metrics.tier())));
        side.spawn(sweep(cache));
        let _ = config;
        Self { cache, metrics }
    }

    /// The memory itself.
    #[must_use]
    pub fn cache(&self) -> &'static Cache {
        self.cache
    }

    /// As requests use it.
    #[must_use]
    pub fn for_requests(&self) -> Caching {
        Caching::new(self.cache, self.metrics.clone())
    }
}

async fn sweep(cache: &'static Cache) {
    let mut sweeper = cache.sweeper();
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        sweeper.step(SystemTime::now(), SWEEP_AT_MOST);
    }
}
