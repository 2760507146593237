//! Answers on their way to Redis: a bounded queue behind the requests, and a task that empties it.
//!
//! What does not fit is dropped: the next one who needs it fetches it, as if there were no Redis. So is what comes while it is
//! not known what was invalidated lately, or what time it is: others would take it for newer than it is. Leases are given back by
//! the same queue, so that whoever waits for one finds the answer that was fetched under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use http::HeaderName;
use http::header::{ETAG, LAST_MODIFIED};
use redis::{Pipeline, ServerError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::entry::Entry;
use super::codec::{self, Unfit};
use super::names::Name;
use crate::cache::spread::Current;
use crate::redis::{Health, Node, Redis};
use crate::telemetry::CacheSharedMetrics;

/// What may wait.
const JOBS: usize = 1_024;
const BYTES: usize = 16 << 20;

/// What is sent together at most.
const BATCH_JOBS: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// A stale answer with a validator is worth keeping for a while: the origin may say that it is still good.
const VALIDATOR: Duration = Duration::from_secs(60);
/// What is gone sooner than this is of no use to anybody.
const SHORTEST: Duration = Duration::from_secs(1);
/// Invalidations of the last day are read at a start. What was kept before would be invalidated by nobody.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Between two lines about what Redis refuses.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Gives a lease back if it is still ours.
const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// The way to the task.
#[derive(Clone)]
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    bytes: Arc<AtomicUsize>,
    most: usize,
    current: Current,
    metrics: CacheSharedMetrics,
}

/// Something to write.
pub(super) enum Job {
    /// An answer, and by what answers of its base differ.
    Fill {
        base: Bytes,
        vary: Option<Arc<[HeaderName]>>,
        entry: Arc<Entry>,
        /// Counted while it waits.
        bytes: usize,
    },
    /// A lease is over.
    Release { name: Name, token: String },
}

impl Queue {
    /// The queue, and the task that empties it; it ends with the last clone of the queue. Records of at most so many bytes
    /// are written, for this realm.
    pub(super) fn new(
        redis: Redis,
        (realm, most): (&str, usize),
        current: Current,
        metrics: CacheSharedMetrics,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (jobs, inbox) = mpsc::channel(JOBS);
        let queue = Self {
            jobs,
            bytes: Arc::default(),
            most,
            current,
            metrics: metrics.clone(),
        };
        let writer = Writer {
            redis,
            realm: realm.to_owned(),
            most,
            metrics,
            bytes: Arc::clone(&queue.bytes),
            complained: None,
        };
        (queue, writer.run(inbox))
    }

    /// Puts an answer in, if there is room.
    pub(super) fn fill(&self, base: Bytes, vary: Option<Arc<[HeaderName]>>, entry: Arc<Entry>) {
        if !self.current.is_current() {
            self.metrics.fills.not_current.inc();
            return;
        }
        // Known at once, and no reason to keep others out of the queue.
        if codec::is_too_large(&entry, self.most) {
            self.metrics.fills.too_large.inc();
            return;
        }
        let bytes = usize::try_from(entry.weight()).unwrap_or(usize::MAX);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let job = Job::Fill {
            base,
            vary,
            entry,
            bytes,
        };
        if before.saturating_add(bytes) > BYTES || self.jobs.try_send(job).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.fills.dropped.inc();
        }
    }

    /// Gives a lease back behind what is in the queue. Without room it ends by itself.
    pub(super) fn release(&self, name: Name, token: String) {
        let _ = self.jobs.try_send(Job::Release { name, token });
    }

    /// Bytes that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The record of an answer; of a large one it is made on a thread of its own, so that nobody waits behind it.
async fn record_of(entry: &Arc<Entry>, most: usize) -> Result<Vec<u8>, Unfit> {
    if entry.body.len() <= codec::LARGE {
        return codec::entry(entry, most);
    }
    let entry = Arc::clone(entry);
    let made = tokio::task::spawn_blocking(move || codec::entry(&entry, most)).await;
    // The process ends.
    made.unwrap_or(Err(Unfit::TooLarge))
}

/// For how long an answer is of use. None: it is not worth the way.
pub(super) fn time_to_live(entry: &Entry, now: SystemTime) -> Option<Duration> {
    let lifetime = &entry.lifetime;
    let stale = if lifetime.must_revalidate {
        0
    } else {
        lifetime.stale_while_revalidate.max(lifetime.stale_if_error)
    };
    let headers = &entry.header.headers;
    let validator = if headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED) {
        VALIDATOR
    } else {
        Duration::ZERO
    };
    let end = lifetime
        .fresh_until
        .checked_add(Duration::from_secs(stale.into()) + validator)?;
    let left = end.duration_since(now).ok()?;
    (left >= SHORTEST).then(|| left.min(LONGEST))
}

/// Empties the queue.
struct Writer {
    redis: Redis,
    realm: String,
    most: usize,
    metrics: CacheSharedMetrics,
    bytes: Arc<AtomicUsize>,
    complained: Option<Instant>,
}

/// What goes to one node in one go.
struct Batch {
    node: Arc<Node>,
    pipeline: Pipeline,
    /// For each command, whether it is the record of an answer.
    counted: Vec<bool>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, counted: bool, bytes: usize) -> &mut Pipeline {
        self.counted.push(counted);
        self.bytes += bytes;
        &mut self.pipeline
    }
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH_JOBS);
        while inbox.recv_many(&mut jobs, BATCH_JOBS).await > 0 {
            let mut batches: Vec<Batch> = Vec::new();
            for job in jobs.drain(..) {
                let size = if let Job::Fill { bytes, .. } = &job { *bytes } else { 0 };
                self.pack(job, &mut batches).await;
                self.bytes.fetch_sub(size, Ordering::Relaxed);
                if batches.iter().map(|batch| batch.bytes).sum::<usize>() >= BATCH_BYTES {
                    self.send(&mut batches).await;
                }
            }
            self.send(&mut batches).await;
        }
    }

    async fn pack(&self, job: Job, batches: &mut Vec<Batch>) {
        match job {
            Job::Fill { base, vary, entry, .. } => {
                let Some(left) = time_to_live(&entry, SystemTime::now()) else {
                    self.metrics.fills.too_short.inc();
                    return;
                };
                let record = record_of(&entry, self.most)
                    .await
                    .map(|record| (&entry.key, record, true));
                let fields = vary.map(|fields| codec::varies(&base, &fields, self.most));
                let fields = fields
                    .transpose()
                    .map(|record| record.map(|record| (&base, record, false)));
                let (record, fields) = match (record, fields) {
                    (Ok(record), Ok(fields)) => (record, fields),
                    (Err(unfit), _) | (_, Err(unfit)) => {
                        debug_assert_eq!(unfit, Unfit::TooLarge);
                        self.metrics.fills.too_large.inc();
                        return;
                    }
                };
                // The answer first: who reads what it differs by finds it. By what answers differ is known for as long as any
                // answer may be there: one that is soon gone must not hide those that stay.
                let records = [Some((record, left)), fields.map(|fields| (fields, LONGEST))];
                for ((key, record, counted), left) in records.into_iter().flatten() {
                    let name = Name::of(&self.realm, key);
                    let Some(batch) = self.batch(&name, batches) else {
                        self.metrics.fills.dropped.inc_by(u64::from(counted));
                        continue;
                    };
                    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                    let pipeline = batch.push(counted, record.len());
                    pipeline.cmd("SET").arg(name.record).arg(record).arg("PX").arg(millis);
                }
            }
            Job::Release { name, token } => {
                if let Some(batch) = self.batch(&name, batches) {
                    let pipeline = batch.push(false, 0);
                    pipeline.cmd("EVAL").arg(RELEASE).arg(1).arg(name.lease()).arg(token);
                }
            }
        }
    }

    /// What goes to the node that has this name. None if it takes nothing now.
    fn batch<'a>(&self, name: &Name, batches: &'a mut Vec<Batch>) -> Option<&'a mut Batch> {
        let node = self.redis.node_of(name.slot)?;
        if node.health() == Health::Down {
            return None;
        }
        let place = batches.iter().position(|batch| Arc::ptr_eq(&batch.node, &node));
        let place = place.unwrap_or_else(|| {
            batches.push(Batch {
                node,
                pipeline: Pipeline::new(),
                counted: Vec::new(),
                bytes: 0,
            });
            batches.len() - 1
        });
        batches.get_mut(place)
    }

    async fn send(&mut self, batches: &mut Vec<Batch>) {
        let sent = join_all(batches.drain(..).map(async |batch| {
            let reply = batch.node.send(&batch.pipeline).await;
            (batch, reply)
        }))
        .await;
        for (batch, reply) in sent {
            let fills = batch.counted.iter().filter(|counted| **counted).count() as u64;
            let reply = match reply {
                Ok(reply) => reply,
                // The node counts why, and says it.
                Err(_) => {
                    self.metrics.fills.failed.inc_by(fills);
                    continue;
                }
            };
            for (counted, value) in batch.counted.iter().zip(&reply.values) {
                match value {
                    Ok(_) => self.metrics.fills.written.inc_by(u64::from(*counted)),
                    Err(error) => {
                        self.metrics.fills.failed.inc_by(u64::from(*counted));
                        self.complain(&batch.node, error);
                    }
                }
            }
        }
    }

    fn complain(&mut self, node: &Node, error: &ServerError) {
        let now = Instant::now();
        if self.complained.is_none_or(|then| now - then >= SAY_AGAIN) {
            self.complained = Some(now);
            let details = error.details().unwrap_or_default();
            log::warn!("{}: shared cache: {} {details}", node.name(), error.code());
        }
    }
}
