//! Counters as the configuration wants them: of this process alone, or shared through Redis.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::cache;
use crate::config::{self, CacheRedis, Config};
use crate::redis::{Redis, ServerUrl, Settings, SettingsError};
use crate::telemetry::Metrics;
use crate::throttle::courier::Courier;
use crate::throttle::shared::Nowhere;
use crate::throttle::{Defaults, Shared, Throttle, shared};

/// How long a start waits until Redis was tried: then the first requests do not have to do without it. A start does not
/// fail for want of Redis.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// How long an end may take to give tickets back.
const SETTLE: Duration = Duration::from_secs(1);

/// From which round trip on Redis is slow, if requests never wait for it.
const SLOW: Duration = Duration::from_millis(20);

/// The counters, and what keeps them in step with Redis.
pub struct Sharing {
    /// The stage.
    pub throttle: Arc<Throttle>,
    /// None while counters are this process's own.
    courier: Option<Courier>,
    redis: Option<Redis>,
}

impl Sharing {
    /// Connects, if there is a Redis to connect to.
    ///
    /// # Errors
    /// When the settings can not be used: a certificate that can not be read, for one.
    pub fn start(config: &Config, metrics: &Metrics, runtime: &Handle) -> Result<Self, SettingsError> {
        let max_counters = usize::try_from(config.throttle.max_counters).unwrap_or(usize::MAX);
        let Some(settings) = settings(config)? else {
            return Ok(Self {
                throttle: Arc::new(Throttle::new(max_counters)),
                courier: None,
                redis: None,
            });
        };
        let redis = Redis::new(&settings, metrics.store())?;
        redis.start(runtime);
        let shared = Arc::new(Shared::new(
            shared_settings(config, max_counters),
            Arc::new(redis.clone()),
            metrics.sharing(),
        ));
        let courier = Courier::start(Arc::clone(&shared), redis.clone(), runtime);
        let ready = runtime.block_on(redis.ready(FIRST_ANSWER));
        if !ready {
            log::warn!("Redis has not answered yet; limits go by this gateway's share until it does");
        }
        Ok(Self {
            throttle: Arc::new(Throttle::shared(shared)),
            courier: Some(courier),
            redis: Some(redis),
        })
    }

    /// Redis, if counters are shared through one.
    #[must_use]
    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    /// Gives back every ticket and charges every debt. For when no request is served any more.
    pub fn settle(self, runtime: &Handle) {
        if let Some(courier) = self.courier
            && !runtime.block_on(courier.close(SETTLE))
        {
            log::warn!("not every ticket went back to Redis: some limits are tighter until their windows end");
        }
        drop(self.redis);
    }
}

/// A stage with the limits' own terms and without counters or Redis: to look at what a gateway would do.
#[must_use]
pub fn unconnected(config: &Config, metrics: &Metrics) -> Throttle {
    /// Nothing is counted, so nothing is kept.
    const ROOM: usize = 64;
    match config.redis {
        None => Throttle::new(ROOM),
        Some(_) => Throttle::shared(Arc::new(Shared::new(
            shared_settings(config, ROOM),
            Arc::new(Nowhere),
            metrics.sharing(),
        ))),
    }
}

fn shared_settings(config: &Config, max_counters: usize) -> shared::Settings {
    shared::Settings {
        instances: config.throttle.instances,
        max_wait: config.throttle.max_wait,
        term: config.throttle.lease,
        max_counters,
    }
}

/// What limits are shared by where they say nothing themselves.
#[must_use]
pub fn defaults(config: &Config) -> Defaults {
    Defaults {
        environment: config.gateway.environment.clone(),
        max_overrun: config.throttle.max_overrun,
        on_store_down: config.throttle.on_store_down,
        on_timeout: config.throttle.on_timeout,
    }
}

/// How Redis is reached. None if counters are this process's own.
///
/// # Errors
/// When a URL can not be used.
pub fn settings(config: &Config) -> Result<Option<Settings>, SettingsError> {
    let max_wait = config.throttle.max_wait;
    let slow_after = if max_wait.is_zero() { SLOW } else { max_wait };
    let redis = config.redis.as_ref();
    redis.map(|redis| connection(redis, slow_after)).transpose()
}

/// How the Redis is reached and used in which kept answers are shared. None if each gateway keeps its own.
///
/// # Errors
/// When a URL can not be used.
pub fn answers(config: &Config) -> Result<Option<cache::shared::Settings>, SettingsError> {
    let Some(CacheRedis {
        redis,
        budget,
        object_bytes,
        lease,
    }) = &config.cache.redis
    else {
        return Ok(None);
    };
    Ok(Some(cache::shared::Settings {
        environment: config.gateway.environment.clone(),
        redis: connection(redis, *budget)?,
        budget: *budget,
        object_bytes: usize::try_from(*object_bytes).unwrap_or(usize::MAX),
        lease: *lease,
    }))
}

fn connection(redis: &config::Redis, slow_after: Duration) -> Result<Settings, SettingsError> {
    let urls: Result<Vec<ServerUrl>, _> = redis.urls.iter().map(|url| url.parse()).collect();
    Ok(Settings {
        username: redis.username.clone(),
        password: redis.password.clone(),
        tls_ca: redis.ca.clone(),
        connect_timeout: redis.connect_timeout,
        response_timeout: redis.response_timeout,
        slow_after,
        ..Settings::new(urls?)
    })
}
