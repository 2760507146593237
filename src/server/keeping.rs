//! The cache of this process, put together: its memory, what gateways share, and how they tell each other what is not
//! valid any more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use super::admin::cache::Way;
use super::sharing;
use crate::cache::invalidator::Callers;
use crate::cache::shared::Shared;
use crate::cache::spread::{Channel, Spreading};
use crate::cache::{Cache, TierCounters};
use crate::config::Config;
use crate::gateway::caching::Caching;
use crate::redis::SettingsError;
use crate::sync::invalidations::Teller;
use crate::sync::remote::Remote;
use crate::telemetry::{CacheMetrics, Metrics};

/// How often what is past every use is looked for, and how much of it at most at a time.
const SWEEP: Duration = Duration::from_secs(2);
const SWEEP_AT_MOST: usize = 4096;

/// How long an end may take to tell what was invalidated.
const SETTLE: Duration = Duration::from_secs(1);

/// The cache of this process.
pub struct Keeping {
    cache: &'static Cache,
    callers: Callers,
    shared: Option<Shared>,
    /// Who this process is among those that the control plane tells what to forget: one that takes over has to do what the
    /// one before it has told.
    name: String,
    teller: Option<Arc<Teller>>,
    metrics: CacheMetrics,
}

impl Keeping {
    /// Puts it together. The engine wants a cache that never ends, and a process has one.
    ///
    /// # Errors
    /// When the settings of its Redis can not be used: a certificate that can not be read, for one.
    pub fn start(
        config: &Config,
        metrics: &Metrics,
        side: &Handle,
        callers: Callers,
        remote: Option<&Remote>,
    ) -> Result<Self, SettingsError> {
        let counted = metrics.cache().clone();
        let memory = config.cache.memory;
        counted.budget_bytes().set(i64::try_from(memory).unwrap_or(i64::MAX));
        let cache: &'static Cache = Box::leak(Box::new(Cache::new(memory, tier(&counted))));
        side.spawn(sweep(cache));
        let forgotten = callers.clone();
        let forget = move |user: &str| forgotten.forget(user);
        let shared = sharing::answers(config)?
            .map(|settings| Shared::start(settings, cache, forget, metrics.cache_shared(), side))
            .transpose()?;
        let gateway = &config.gateway;
        let name = format!("{}/{:016x}", gateway.id, rand::random::<u64>());
        // In a directory there is nobody who listens.
        let client = remote.map(Remote::client).filter(|client| !client.is_directory());
        let teller = client.map(|client| Arc::new(Teller::new(client.clone(), &gateway.environment, &name)));
        if let Some(teller) = &teller {
            side.spawn(Arc::clone(teller).run());
        }
        Ok(Self {
            cache,
            callers,
            shared,
            name,
            teller,
            metrics: counted,
        })
    }

    /// The memory itself.
    #[must_use]
    pub fn cache(&self) -> &'static Cache {
        self.cache
    }

    /// What is remembered of who callers are, and is forgotten with what is kept for them.
    #[must_use]
    pub fn callers(&self) -> &Callers {
        &self.callers
    }

    /// Who tells the control plane what was forgotten here, and the name by which it is known.
    #[must_use]
    pub fn teller(&self) -> Option<(&Arc<Teller>, &str)> {
        self.teller.as_ref().map(|teller| (teller, self.name.as_str()))
    }

    /// The gateways with which this one shares answers.
    #[must_use]
    pub fn sharing(&self) -> Option<Arc<dyn Channel>> {
        let shared = self.shared.clone()?;
        Some(Arc::new(shared))
    }

    /// As requests use it. What they change is told by one way: through Redis if answers are shared there, for it is the
    /// shorter one, and else through the control plane.
    #[must_use]
    pub fn for_requests(&self) -> Caching {
        let teller = || self.teller.clone().map(|teller| teller as Arc<dyn Channel>);
        let channel = self.sharing().or_else(teller);
        Caching::new(
            self.cache,
            self.shared.clone(),
            Spreading::new(channel.into_iter().collect()),
            self.metrics.clone(),
        )
    }

    /// Tells other gateways what they were not told yet. For when no request is served any more.
    pub fn settle(&self, runtime: &Handle) {
        let told = runtime.block_on(async {
            let shared = async {
                match &self.shared {
                    Some(shared) => shared.spread().flush(SETTLE).await,
                    None => true,
                }
            };
            let control_plane = async {
                match &self.teller {
                    Some(teller) => teller.flush(SETTLE).await,
                    None => true,
                }
            };
            let (shared, control_plane) = tokio::join!(shared, control_plane);
            shared && control_plane
        });
        if !told {
            log::warn!(
                "cache: other gateways were not told of the last invalidations; tell them, or wait until answers end"
            );
        }
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
