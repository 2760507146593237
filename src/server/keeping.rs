//! The cache of this process, put together: its memory, what gateways share, and how they tell each other what is not
//! valid any more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use super::admin::cache::Way;
use super::sharing;
use crate::cache::shared::Shared;
use crate::cache::spread::{Channel, Spreading};
use crate::cache::{Cache, TierCounters};
use crate::config::Config;
use crate::gateway::caching::Caching;
use crate::redis::SettingsError;
use crate::telemetry::{CacheMetrics, Metrics};

/// How often what is past every use is looked for, and how much of it at most at a time.
const SWEEP: Duration = Duration::from_secs(2);
const SWEEP_AT_MOST: usize = 4096;

/// The cache of this process.
pub struct Keeping {
    cache: &'static Cache,
    shared: Option<Shared>,
    metrics: CacheMetrics,
}

impl Keeping {
    /// Puts it together. The engine wants a cache that never ends, and a process has one.
    ///
    /// # Errors
    /// When the settings of its Redis can not be used: a certificate that can not be read, for one.
    pub fn start(config: &Config, metrics: &Metrics, side: &Handle) -> Result<Self, SettingsError> {
        let counted = metrics.cache().clone();
        let memory = config.cache.memory;
        counted.budget_bytes().set(i64::try_from(memory).unwrap_or(i64::MAX));
        let cache: &'static Cache = Box::leak(Box::new(Cache::new(memory, tier(&counted))));
        side.spawn(sweep(cache));
        let shared = sharing::answers(config)?
            .map(|settings| Shared::start(settings, cache, metrics.cache_shared(), side))
            .transpose()?;
        Ok(Self {
            cache,
            shared,
            metrics: counted,
        })
    }

    /// The memory itself.
    #[must_use]
    pub fn cache(&self) -> &'static Cache {
        self.cache
    }

    /// As requests use it.
    #[must_use]
    pub fn for_requests(&self) -> Caching {
        let channel = |shared: &Shared| Arc::new(shared.clone()) as Arc<dyn Channel>;
        let channels = self.shared.iter().map(channel).collect();
        Caching::new(
            self.cache,
            self.shared.clone(),
            Spreading::new(channels),
            self.metrics.clone(),
        )
    }

    /// The way to other gateways, if they share what they keep.
    #[must_use]
    pub fn way(&self) -> Option<Way> {
        let shared = self.shared.clone()?;
        let current = shared.clone();
        Some(Way {
            name: "redis",
            tell: Box::new(move |_, items, at_ms| items.iter().for_each(|item| shared.publish(&item.what, at_ms))),
            is_current: Box::new(move || current.spread().is_current()),
        })
    }
}

fn tier(metrics: &CacheMetrics) -> TierCounters {
    TierCounters {
        entries: metrics.entries().clone(),
        bytes: metrics.bytes().clone(),
        filling: metrics.filling_bytes().clone(),
        evicted: metrics.evictions().clone(),
        refused: metrics.fills("too_large").clone(),
        truncated: metrics.fills("truncated").clone(),
        expired: metrics.dropped("expired").clone(),
        invalidated: metrics.dropped("invalid").clone(),
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
