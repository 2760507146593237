//! Invalidations through Redis: one stream, to which every gateway adds and which every gateway reads.
//!
//! A reader knows its place by a record that it has read, and reads from that one on: as long as the record is still there,
//! nothing behind it can be gone, whether the stream is cut at its old end or was evicted as a whole. If it is not there any
//! more, or the server has other data than before, something may have been missed, and then everything counts as
//! invalidated. So that there is always such a record, a gateway adds an empty one when it begins.
//!
//! What was invalidated before a gateway began is read back, a day at most, for no record of an answer lives longer than
//! that (see [`super::super::shared`]); and what is older than the stream counts as invalidated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::RngExt;
use redis::{Pipeline, ServerError, Value};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::super::key;
use super::super::marks::{Invalidation, SKEW_MS};
use super::Channel;
use super::outbox::{Outbox, RECORD_BYTES};
use crate::redis::{Node, Redis, Slot};
use crate::telemetry::CacheSharedMetrics;

/// About so many records are kept, each with up to some hundreds of invalidations.
const LENGTH: u32 = 10_000;

/// How often it is read, give or take a half.
const READ_EVERY: Duration = Duration::from_millis(400);
/// How many records are read together.
const READ: usize = 64;
/// Between two records that are added, and after one that could not be.
const GATHER: Duration = Duration::from_millis(50);
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// Between two lines about what the server refuses.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// What was read longer ago says too little.
const CURRENT: Duration = Duration::from_secs(5);

/// How far back a beginner reads.
const BACK_MS: u64 = 24 * 3_600_000;

/// A clock that differs from the server's by more makes the times at which answers were asked for mean nothing. Two gateways
/// may differ by twice as much, and by what a clock goes wrong until that is seen: the marks allow for it.
const CLOCKS_MS: u64 = 2_000;
const _: () = assert!(2 * CLOCKS_MS + 1_000 <= SKEW_MS, "marks allow for two clocks");

/// What applies an invalidation here, with the time at which it was told.
pub(crate) type Apply = Arc<dyn Fn(&Invalidation, u64) + Send + Sync>;

/// The way through Redis. Ends when it is dropped.
pub struct Spread {
    outbox: Arc<Outbox>,
    view: Arc<View>,
    metrics: CacheSharedMetrics,
    tasks: [AbortHandle; 2],
}

/// Knows whether the stream was read. Cheap to clone.
#[derive(Clone)]
pub struct Current(Arc<View>);

/// What is known of the stream.
struct View {
    begun: Instant,
    /// When it was read last, in milliseconds from the beginning on; 0: not yet.
    read_ms: AtomicU64,
    /// This host's clock and the server's differ too much.
    clocks_differ: AtomicBool,
}

impl Spread {
    /// Begins to tell the gateways of an environment and to listen to them, on this runtime. What others tell goes to `apply`.
    pub(crate) fn start(
        redis: Redis,
        environment: &str,
        metrics: CacheSharedMetrics,
        apply: Apply,
        runtime: &Handle,
    ) -> Self {
        let outbox = Arc::new(Outbox::default());
        let view = Arc::new(View {
            begun: Instant::now(),
            read_ms: AtomicU64::new(0),
            clocks_differ: AtomicBool::new(false),
        });
        // Tells what this process has told from what others tell, those of an earlier process of this gateway too.
        let token = format!("{:016x}", rand::rng().random::<u64>());
        let pen = Arc::new(Pen {
            redis,
            stream: Stream::of(environment),
            token,
            said: Mutex::new(None),
        });
        let teller = Teller {
            pen: Arc::clone(&pen),
            outbox: Arc::clone(&outbox),
            metrics: metrics.clone(),
        };
        let reader = Reader {
            pen,
            view: Arc::clone(&view),
            metrics: metrics.clone(),
            apply,
            place: None,
            has_missed: false,
        };
        let tasks = [
            runtime.spawn(teller.run()).abort_handle(),
            runtime.spawn(reader.run()).abort_handle(),
        ];
        Self {
            outbox,
            view,
            metrics,
            tasks,
        }
    }

    /// Whether everything that others had told until a few seconds ago has taken effect here.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.view.is_current()
    }

    /// The same for who asks later.
    #[must_use]
    pub fn current(&self) -> Current {
        Current(Arc::clone(&self.view))
    }

    /// Waits until everything was told, no longer than this. For when a process ends. False if it was not.
    pub async fn flush(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        while !self.outbox.is_empty() {
            if Instant::now() >= until {
                return false;
            }
            sleep(Duration::from_millis(5)).await;
        }
        true
    }
}

impl Channel for Spread {
    fn publish(&self, what: &Invalidation, _: u64) {
        let merged = self.outbox.put(what.clone());
        self.metrics.invalidations_merged.inc_by(merged as u64);
    }
}

impl Drop for Spread {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.metrics.current.set(0);
    }
}

impl Current {
    /// [`Spread::is_current`].
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.0.is_current()
    }
}

impl View {
    fn is_current(&self) -> bool {
        let read = self.read_ms.load(Ordering::Acquire);
        let read = self.begun + Duration::from_millis(read);
        self.read_ms.load(Ordering::Acquire) > 0
            && read.elapsed() <= CURRENT
            && !self.clocks_differ.load(Ordering::Relaxed)
    }

    fn was_read(&self, asked: Instant) {
        let read = asked.saturating_duration_since(self.begun).as_millis();
        let read = u64::try_from(read).unwrap_or(u64::MAX).max(1);
        self.read_ms.store(read, Ordering::Release);
    }
}

/// Tells what waits to be told.
struct Teller {
    pen: Arc<Pen>,
    outbox: Arc<Outbox>,
    metrics: CacheSharedMetrics,
}

impl Teller {
    async fn run(self) {
        loop {
            let batch = self.outbox.take().await;
            // Told twice is as good as told once, so a reply that is lost is no harm.
            if self.pen.add(&batch).await.is_some() {
                self.metrics.invalidations_sent.inc_by(batch.len() as u64);
                self.outbox.told();
                sleep(GATHER).await;
            } else {
                let merged = self.outbox.put_back(batch);
                self.metrics.invalidations_merged.inc_by(merged as u64);
                sleep(around(TRY_AGAIN)).await;
            }
        }
    }
}

/// What the stream of an environment is called, and where it lies.
#[derive(Debug)]
pub(in crate::cache) struct Stream {
    pub(in crate::cache) name: String,
    slot: Slot,
}

impl Stream {
    /// Of an environment: gateways of another one have nothing to do with what is invalidated here.
    pub(in crate::cache) fn of(environment: &str) -> Self {
        let tag = ["cache:", &key::realm(environment)].concat();
        Self {
            name: ["tollgate:{", &tag, "}:invalidations"].concat(),
            slot: Slot::of_tag(tag.as_bytes()),
        }
    }
}

/// Adds to the stream.
struct Pen {
    redis: Redis,
    stream: Stream,
    /// Stands in each record, so that it is known by who wrote it.
    token: String,
    said: Mutex<Option<Instant>>,
}

impl Pen {
    /// Adds a record. None: nobody knows whether it was added.
    async fn add(&self, batch: &[Invalidation]) -> Option<Id> {
        let mut text = serde_json::to_string(batch).ok()?;
        // Paths full of what JSON escapes. Whoever begins reads thousands of records, none of which may be large.
        if text.len() > RECORD_BYTES {
            text = serde_json::to_string(&[Invalidation::All]).ok()?;
        }
        let mut pipeline = Pipeline::new();
        let command = pipeline
            .cmd("XADD")
            .arg(&self.stream.name)
            .arg("MAXLEN")
            .arg("~")
            .arg(LENGTH);
        command.arg("*").arg("n").arg(&self.token).arg("i").arg(text);
        let reply = self.node()?.send(&pipeline).await.ok()?;
        match reply.values.into_iter().next()? {
            Ok(value) => Id::of(&value),
            Err(error) => {
                self.complain(&error);
                None
            }
        }
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.redis.node_of(self.stream.slot)
    }

    fn complain(&self, error: &ServerError) {
        let now = Instant::now();
        let mut said = self.said.lock();
        if said.is_none_or(|then| now - then >= SAY_AGAIN) {
            *said = Some(now);
            let details = error.details().unwrap_or_default();
            log::warn!(
                "shared cache: what is invalidated can not be told to the other gateways: {} {details}",
                error.code()
            );
        }
    }
}

/// Reads the stream.
struct Reader {
    pen: Arc<Pen>,
    view: Arc<View>,
    metrics: CacheSharedMetrics,
    apply: Apply,
    place: Option<Place>,
    /// Something may have been missed, and those who begin later were not told yet.
    has_missed: bool,
}

/// Up to where the stream was read, and of which data.
#[derive(Clone, Copy)]
struct Place {
    id: Id,
    data: u64,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let asked = Instant::now();
            if self.catch_up().await.is_some() {
                self.view.was_read(asked);
            }
            self.metrics.current.set(i64::from(self.view.is_current()));
            sleep(around(READ_EVERY)).await;
        }
    }

    /// Reads up to the end. None: nobody knows what there is.
    async fn catch_up(&mut self) -> Option<()> {
        let node = self.pen.node()?;
        self.compare_clocks(&node).await?;
        let Some(mut place) = self.place else {
            return self.begin(&node).await;
        };
        loop {
            let records = read(&node, &self.pen.stream, place.id, READ + 1).await?;
            let ours = records.first().is_some_and(|record| record.id == place.id);
            if !ours || node.data_identity() != place.data {
                return self.begin_anew(&node).await;
            }
            for record in records.iter().skip(1) {
                self.heed(record);
                place.id = record.id;
            }
            self.place = Some(place);
            if records.len() <= READ {
                return Some(());
            }
        }
    }

    /// Finds a place for the first time, and reads back what was told before.
    async fn begin(&mut self, node: &Node) -> Option<()> {
        let data = node.data_identity();
        let hello = self.hello().await?;
        let first = read(node, &self.pen.stream, Id::default(), 1).await?.first()?.id;
        let window = Id {
            ms: hello.ms.saturating_sub(BACK_MS),
            number: 0,
        };
        // Of what was before the stream, or before the window, nobody knows anything.
        (self.apply)(&Invalidation::All, first.ms.max(window.ms));
        let mut id = window;
        loop {
            let records = read(node, &self.pen.stream, id, READ).await?;
            for record in &records {
                self.heed(record);
            }
            let last = records.last()?.id;
            if last >= hello || records.len() < READ {
                self.place = Some(Place { id: last, data });
                return Some(());
            }
            id = last.next();
        }
    }

    /// Something may have been missed: everything counts as invalidated, and from now on it is read again. It is told too:
    /// a server that has gone back to an older copy has the answers of then, and who begins later knows of no gap.
    async fn begin_anew(&mut self, node: &Node) -> Option<()> {
        self.place = None;
        self.has_missed = true;
        self.metrics.gaps.inc();
        // Whether or not it is known what is there now, what was before is not.
        (self.apply)(&Invalidation::All, unix_ms());
        let data = node.data_identity();
        let hello = self.hello().await;
        log::warn!("shared cache: invalidations may have been missed, so everything counts as invalidated");
        self.place = Some(Place { id: hello?, data });
        Some(())
    }

    /// Adds the record from which on it is read: an empty one, unless others have to be told of a gap.
    async fn hello(&mut self) -> Option<Id> {
        let told: &[Invalidation] = if self.has_missed { &[Invalidation::All] } else { &[] };
        let hello = self.pen.add(told).await?;
        if std::mem::take(&mut self.has_missed) {
            (self.apply)(&Invalidation::All, hello.ms);
        }
        Some(hello)
    }

    fn heed(&self, record: &Record) {
        if record.token.as_deref() == Some(self.pen.token.as_bytes()) {
            return;
        }
        let told: Vec<Invalidation> = match record.text.as_deref().map(serde_json::from_slice) {
            Some(Ok(told)) => told,
            // Of a later version, perhaps: in doubt everything.
            _ => vec![Invalidation::All],
        };
        for what in &told {
            (self.apply)(what, record.id.ms);
        }
        if !told.is_empty() {
            self.metrics.invalidations_received.inc_by(told.len() as u64);
            let lag = unix_ms().saturating_sub(record.id.ms);
            self.metrics.lag_seconds.set(Duration::from_millis(lag).as_secs_f64());
        }
    }

    async fn compare_clocks(&self, node: &Node) -> Option<()> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME");
        let before = unix_ms();
        let reply = node.send(&pipeline).await.ok()?;
        let after = unix_ms();
        let Some(Ok(Value::Array(time))) = reply.values.first() else {
            return None;
        };
        let [seconds, micros] = time.as_slice() else {
            return None;
        };
        let theirs = number(seconds)? * 1_000 + number(micros)? / 1_000;
        let differ = theirs + CLOCKS_MS < before || theirs > after + CLOCKS_MS;
        if self.view.clocks_differ.swap(differ, Ordering::Relaxed) != differ {
            let name = node.name();
            if differ {
                log::warn!(
                    "shared cache: the clocks of this host and of {name} differ by more than {CLOCKS_MS} ms, so that \
                     kept answers are not shared; let both follow the same time (NTP)"
                );
            } else {
                log::info!("shared cache: the clocks of this host and of {name} agree again");
            }
        }
        Some(())
    }
}

/// The name of a record: the server's time in milliseconds, and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Id {
    ms: u64,
    number: u64,
}

impl Id {
    fn of(value: &Value) -> Option<Self> {
        let Value::BulkString(bytes) = value else { return None };
        let (ms, number) = std::str::from_utf8(bytes).ok()?.split_once('-')?;
        Some(Self {
            ms: ms.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    /// The first one that may come behind it.
    fn next(self) -> Self {
        Self {
            number: self.number + 1,
            ..self
        }
    }
}

/// What one gateway told at a time.
#[derive(Debug)]
struct Record {
    id: Id,
    token: Option<Vec<u8>>,
    text: Option<Vec<u8>>,
}

/// Up to `count` records from this one on. None: nobody knows.
async fn read(node: &Node, stream: &Stream, from: Id, count: usize) -> Option<Vec<Record>> {
    let mut pipeline = Pipeline::new();
    let command = pipeline.cmd("XRANGE").arg(&stream.name);
    command.arg(format!("{}-{}", from.ms, from.number)).arg("+");
    command.arg("COUNT").arg(count);
    let reply = node.send(&pipeline).await.ok()?;
    match reply.values.into_iter().next()? {
        Ok(Value::Array(records)) => records.into_iter().map(record).collect(),
        _ => None,
    }
}

fn record(value: Value) -> Option<Record> {
    let Value::Array(parts) = value else { return None };
    let [id, Value::Array(fields)] = parts.as_slice() else {
        return None;
    };
    let field = |name: &[u8]| {
        let pairs = fields.chunks_exact(2);
        pairs.into_iter().find_map(|pair| match pair {
            [Value::BulkString(key), Value::BulkString(value)] if key == name => Some(value.clone()),
            _ => None,
        })
    };
    Some(Record {
        id: Id::of(id)?,
        token: field(b"n"),
        text: field(b"i"),
    })
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Gateways must not read as one.
fn around(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}
