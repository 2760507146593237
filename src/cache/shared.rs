//! The second tier: answers that gateways share through Redis. It is asked after a miss in memory, and filled behind the
//! answer.
//!
//! It may be away, slow, full or wrong, and no request is the worse for it than by the budget: nobody is asked while the
//! server is not well (see [`crate::redis`]) or while it is not known what was invalidated lately (see [`super::spread`]),
//! and whatever comes too late, can not be read or belongs to another key is a miss. Two connections, so that no request
//! waits behind what is written.

mod codec;
mod fills;
mod flights;
mod lease;
mod names;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use redis::{Pipeline, Value};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

pub use self::lease::{Lease, Turn};

use self::codec::{Record, Unfit};
use self::fills::Queue;
use self::flights::Flights;
use self::names::Name;
use super::entry::Entry;
use super::key;
use super::marks::Invalidation;
use super::memory::Cache;
use super::spread::{Channel, Spread};
use crate::redis::{Health, Redis, SettingsError};
use crate::telemetry::CacheSharedMetrics;

/// Keys that are looked up at a time; beyond it nobody is asked.
const LOOKUPS: usize = 1_024;

/// Large records that are unpacked at a time, beside the thread on which everything else waits.
const UNPACKED: usize = 4;

/// From which round trip on the connection is slow on which nobody waits.
const SLOW_BEHIND: Duration = Duration::from_secs(1);

/// How the shared tier is reached and used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Gateways of other environments share nothing with this one, also when they share the Redis.
    pub environment: String,
    /// Where it is. It counts as slow, and is not asked, when more than a tenth of its answers take longer than the budget.
    pub redis: crate::redis::Settings,
    /// How long a request may wait for it in all.
    pub budget: Duration,
    /// The largest record, in bytes.
    pub object_bytes: usize,
    /// For how long one gateway fetches while the others wait. None: each fetches for itself.
    pub lease: Option<Duration>,
}

/// The second tier. Cheap to clone; ends with its last clone.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

/// An answer that was found.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The answer: it was not invalidated, and may be stale.
    pub entry: Arc<Entry>,
    /// By which fields of the request answers of its base differ, if they do.
    pub vary: Option<Arc<[HeaderName]>>,
}

struct Inner {
    settings: Settings,
    /// What stands for the environment in names.
    realm: String,
    cache: &'static Cache,
    lookups: Redis,
    flights: Arc<Flights<Looked>>,
    unpacking: Arc<Semaphore>,
    turns: Arc<Flights<Arc<Turn>>>,
    queue: Queue,
    spread: Spread,
    metrics: CacheSharedMetrics,
    runtime: Handle,
    writer: AbortHandle,
}

/// What came of the question for one key.
type Looked = Result<Found, Miss>;

/// What stands under a key.
#[derive(Clone)]
enum Found {
    Varies(Arc<[HeaderName]>),
    Entry(Arc<Entry>),
}

/// Why there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Miss {
    /// It is not there, or was invalidated.
    Absent,
    /// It did not come in time.
    Timeout,
    /// Redis is away or slow.
    Down,
    /// It can not be read.
    Broken,
    /// Too many questions are under way.
    Busy,
    /// It is not known what was invalidated lately.
    NotCurrent,
}

impl Channel for Shared {
    fn publish(&self, what: &Invalidation, at_ms: u64) {
        self.0.spread.publish(what, at_ms);
    }
}

impl Shared {
    /// Connects, and starts what stands beside the requests on this runtime. What `cache` is filled with is written, and
    /// what others have invalidated is applied to it, from then on; whom they have forgotten is forgotten by `forget_user`
    /// too. Nothing is waited for: until all of that is there, nobody is asked.
    ///
    /// # Errors
    /// When the settings can not be used: a certificate that can not be read, for one.
    pub fn start(
        settings: Settings,
        cache: &'static Cache,
        forget_user: impl Fn(&str) + Send + Sync + 'static,
        metrics: CacheSharedMetrics,
        runtime: &Handle,
    ) -> Result<Self, SettingsError> {
        let lookups = Redis::new(&settings.redis, metrics.lookup_store.clone())?;
        let behind = crate::redis::Settings {
            slow_after: SLOW_BEHIND,
            ..settings.redis.clone()
        };
        let behind = Redis::new(&behind, metrics.fill_store.clone())?;
        lookups.start(runtime);
        behind.start(runtime);
        let realm = key::realm(&settings.environment);
        let apply = move |what: &Invalidation, at_ms| {
            cache.invalidate(what, at_ms);
            if let Invalidation::User(user) = what {
                forget_user(user);
            }
        };
        let apply = Arc::new(apply);
        let spread = Spread::start(behind.clone(), &settings.environment, metrics.clone(), apply, runtime);
        let (queue, writer) = Queue::new(
            behind,
            (&realm, settings.object_bytes),
            spread.current(),
            metrics.clone(),
        );
        let filled = queue.clone();
        cache.on_filled(Box::new(move |base, vary, entry| {
            filled.fill(base.clone(), vary.cloned(), Arc::clone(entry));
        }));
        Ok(Self(Arc::new(Inner {
            settings,
            realm,
            cache,
            lookups,
            flights: Arc::new(Flights::new(LOOKUPS)),
            unpacking: Arc::new(Semaphore::new(UNPACKED)),
            turns: Arc::new(Flights::new(LOOKUPS)),
            queue,
            spread,
            metrics,
            runtime: runtime.clone(),
            writer: runtime.spawn(writer).abort_handle(),
        })))
    }

    /// Looks for an answer: under the key without a variant, and if answers differ by fields of the request, under the full
    /// key that `variant` makes of those. None after the budget at the latest.
    pub async fn get(&self, base: &[u8], variant: impl FnOnce(&[HeaderName]) -> Vec<u8>) -> Option<Hit> {
        let looked = self.look_for(base, variant).await;
        let lookups = &self.0.metrics.lookups;
        match &looked {
            Ok(_) => lookups.hit.inc(),
            Err(Miss::Absent) => lookups.miss.inc(),
            Err(Miss::Timeout) => lookups.timeout.inc(),
            Err(Miss::Down) => lookups.down.inc(),
            Err(Miss::Broken) => lookups.broken.inc(),
            Err(Miss::Busy) => lookups.busy.inc(),
            Err(Miss::NotCurrent) => lookups.not_current.inc(),
        }
        looked.ok()
    }

    /// Writes an answer behind the requests, if it is worth it and there is room: under its own key, and under `base` by
    /// which fields of the request answers differ.
    pub fn put(&self, base: &Bytes, vary: Option<Arc<[HeaderName]>>, entry: Arc<Entry>) {
        self.0.queue.fill(base.clone(), vary, entry);
    }

    /// The way by which invalidations go to the other gateways.
    #[must_use]
    pub fn spread(&self) -> &Spread {
        &self.0.spread
    }

    /// Whether answers that are nowhere are fetched by one gateway at a time.
    #[must_use]
    pub fn has_leases(&self) -> bool {
        self.0.settings.lease.is_some()
    }

    /// As [`get`](Self::get), for who looks again and again and is counted elsewhere.
    async fn look(&self, base: &[u8], variant: impl FnOnce(&[HeaderName]) -> Vec<u8>) -> Option<Hit> {
        self.look_for(base, variant).await.ok()
    }

    async fn look_for(&self, base: &[u8], variant: impl FnOnce(&[HeaderName]) -> Vec<u8>) -> Result<Hit, Miss> {
        let until = Instant::now() + self.0.settings.budget;
        let (entry, vary) = match self.read(base, until).await? {
            Found::Entry(entry) => (entry, None),
            Found::Varies(fields) => match self.read(&variant(&fields), until).await? {
                Found::Entry(entry) => (entry, Some(fields)),
                Found::Varies(_) => return Err(Miss::Absent),
            },
        };
        // Whoever came later than the question was asked is told of what was invalidated since.
        if !self.0.spread.is_current() {
            return Err(Miss::NotCurrent);
        }
        if self.0.is_invalid(&entry) {
            return Err(Miss::Absent);
        }
        Ok(Hit { entry, vary })
    }

    async fn read(&self, key: &[u8], until: Instant) -> Looked {
        let inner = &self.0;
        if !inner.spread.is_current() {
            return Err(Miss::NotCurrent);
        }
        let name = Name::of(&inner.realm, key);
        if inner.lookups.health_of(name.slot) != Health::Up {
            return Err(Miss::Down);
        }
        let ask = |key: Bytes| {
            let inner = Arc::clone(&self.0);
            async move { inner.ask(&name, &key, Instant::now() + inner.settings.budget).await }
        };
        let landing = inner.flights.join(key, &inner.runtime, ask).ok_or(Miss::Busy)?;
        landing.wait(until).await.unwrap_or(Err(Miss::Timeout))
    }
}

impl Inner {
    /// Asks Redis for a record, and reads it.
    async fn ask(&self, name: &Name, key: &[u8], until: Instant) -> Looked {
        let node = self.lookups.node_of(name.slot).ok_or(Miss::Down)?;
        // What is invalidated while the record is on its way is later than this, and so counts for it.
        let sequence = self.cache.marks().sequence();
        let mut pipeline = Pipeline::new();
        pipeline.cmd("GET").arg(&name.record);
        let reply = match timeout_at(until, node.send(&pipeline)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => return Err(Miss::Down),
            Err(_) => return Err(Miss::Timeout),
        };
        let record = match reply.values.into_iter().next() {
            Some(Ok(Value::BulkString(record))) => record,
            Some(Ok(Value::Nil)) => return Err(Miss::Absent),
            _ => return Err(Miss::Broken),
        };
        match self.unpacked(key, record, sequence, until).await? {
            Ok(Record::Varies(fields)) => Ok(Found::Varies(fields)),
            Ok(Record::Entry(entry)) => Ok(Found::Entry(Arc::new(*entry))),
            Err(Unfit::Foreign) => Err(Miss::Absent),
            Err(Unfit::Broken | Unfit::TooLarge) => Err(Miss::Broken),
        }
    }

    /// Reads a record: a large one on a thread of its own, of which there are few.
    async fn unpacked(
        &self,
        key: &[u8],
        record: Vec<u8>,
        sequence: u64,
        until: Instant,
    ) -> Result<Result<Record, Unfit>, Miss> {
        let most = self.settings.object_bytes;
        if codec::length(&record) <= codec::LARGE {
            return Ok(codec::read(key, &record, sequence, most));
        }
        let place = timeout_at(until, Arc::clone(&self.unpacking).acquire_owned()).await;
        let place = place.map_err(|_| Miss::Timeout)?.map_err(|_| Miss::Busy)?;
        let key = Bytes::copy_from_slice(key);
        // It is read to its end, also when nobody waits for it any more.
        let read = self.runtime.spawn_blocking(move || {
            let _place = place;
            codec::read(&key, &record, sequence, most)
        });
        let read = timeout_at(until, read).await.map_err(|_| Miss::Timeout)?;
        Ok(read.unwrap_or(Err(Unfit::Broken)))
    }

    /// Whether it was asked for before it was invalidated, as far as this can be told of another process's clock.
    fn is_invalid(&self, entry: &Entry) -> bool {
        let Some(target) = key::target(&entry.key) else {
            return true;
        };
        let marks = self.cache.marks();
        !marks.is_valid_elsewhere(&entry.marks, target.host, target.path, entry.asked_ms)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.writer.abort();
    }
}
