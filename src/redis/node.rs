//! One server: its connection, its breaker, and the task that keeps both true.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{Pipeline, ServerError, Value};
use parking_lot::Mutex;
use prometheus::Gauge;
use rand::RngExt;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout_at};

use super::connect::{Dial, Driver, Facts, Kind, Opened, Trouble, inspect, says};
use super::redirect::{asked_elsewhere, asking, put_in_place};
use super::refusals::{Refusals, is_refusal};
use super::round_trips::{RoundTrips, Verdict};
use super::settings::Endpoint;
use crate::telemetry::StoreMetrics;

/// A pipeline without a reply for this long makes its server slow, before the deadline of the reply.
const OVERDUE: Duration = Duration::from_millis(50);

/// This many response timeouts in a row open the breaker.
const TIMEOUTS: u32 = 2;

/// How often a server is looked at: while it is away, while it is slow, and when nothing is to be sent.
const LOOK_DOWN: Duration = Duration::from_millis(250);
const LOOK_SLOW: Duration = Duration::from_millis(100);
const LOOK_IDLE: Duration = Duration::from_secs(1);

/// How soon to look again when the last second says too little.
const LOOK_UNCLEAR: Duration = Duration::from_millis(20);

/// How often to try what only an operator can mend. Each try with a wrong password is a line in the server's log.
const LOOK_SETTINGS: Duration = Duration::from_secs(2);

/// Between two lines that say why a server is down, if the reason changes.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers in time.
    Up,
    /// It answers, but not in time for a request that waits.
    Slow,
    /// It does not answer, or takes no writes. Nothing is sent.
    Down,
}

/// The replies to a pipeline.
#[derive(Debug)]
pub struct Reply {
    /// One for each command, in order. A command's own error (MOVED, NOSCRIPT, OOM) is a value here.
    pub values: Vec<Result<Value, ServerError>>,
    /// When the pipeline was handed to the connection.
    pub sent: Instant,
    /// When the last reply was here.
    pub received: Instant,
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The server is down or being connected to. Nothing was sent.
    Unavailable,
    /// No reply in time. The pipeline was sent; whether it took effect is unknown, and no late reply will come.
    Timeout,
    /// The connection broke. Whether the pipeline took effect is unknown.
    Lost,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the server is not available",
            Self::Timeout => "no reply in time",
            Self::Lost => "the connection broke",
        })
    }
}

impl std::error::Error for Failure {}

/// One server. Stays the same for as long as the deployment has a server at this address.
pub struct Node {
    name: String,
    endpoint: Endpoint,
    surroundings: Arc<Surroundings>,
    health: AtomicU8,
    identity: AtomicU64,
    /// Nanoseconds.
    typical: AtomicU64,
    tried: AtomicBool,
    state: Mutex<State>,
    /// Something happened that the upkeep should look at.
    wake: Notify,
    up: Gauge,
}

/// What nodes have in common.
pub(super) struct Surroundings {
    pub(super) dial: Dial,
    pub(super) slow_after: Duration,
    pub(super) metrics: StoreMetrics,
    /// A node went down, or said that a slot is elsewhere: the cluster is worth a look.
    pub(super) look: Notify,
    /// A node was tried for the first time, or the topology changed.
    pub(super) progress: watch::Sender<u64>,
    /// The nodes that are kept now.
    pub(super) peers: Mutex<Vec<Weak<Node>>>,
}

impl Surroundings {
    fn peer(&self, endpoint: &Endpoint) -> Option<Arc<Node>> {
        let peers = self.peers.lock();
        let mut peers = peers.iter().filter_map(Weak::upgrade);
        peers.find(|node| node.endpoint == *endpoint)
    }
}

struct State {
    link: Option<Arc<Link>>,
    /// Why the breaker is open.
    down: Option<Trouble>,
    /// Response timeouts in a row.
    timeouts: u32,
    /// Pipelines in flight for longer than [`OVERDUE`].
    overdue: u32,
    trips: RoundTrips,
    refusals: Refusals,
    /// When a reply came last.
    heard: Instant,
    connected_before: bool,
    said: Option<(String, Instant)>,
    retired: bool,
}

/// A connection. It is told from the ones before by its address in memory ([`Arc::ptr_eq`]).
struct Link {
    connection: MultiplexedConnection,
    driver: tokio::task::AbortHandle,
}

impl Node {
    pub(super) fn new(endpoint: Endpoint, surroundings: Arc<Surroundings>) -> Self {
        let name = endpoint.to_string();
        let up = surroundings.metrics.up.with_label_values(&[&name]);
        up.set(0.0);
        let now = Instant::now();
        Self {
            name,
            endpoint,
            health: AtomicU8::new(encode(Health::Down)),
            identity: AtomicU64::new(0),
            typical: AtomicU64::new(0),
            tried: AtomicBool::new(false),
            state: Mutex::new(State {
                link: None,
                down: Some(Kind::Connect.because("not tried yet")),
                timeouts: 0,
                overdue: 0,
                trips: RoundTrips::new(surroundings.slow_after, now),
                refusals: Refusals::default(),
                heard: now,
                connected_before: false,
                said: None,
                retired: false,
            }),
            wake: Notify::new(),
            up,
            surroundings,
        }
    }

    /// `host:port`, or the path of the socket; for metrics and logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is, as far as is known now. One atomic load.
    #[must_use]
    pub fn health(&self) -> Health {
        decode(self.health.load(Ordering::Acquire))
    }

    /// A number that changes whenever the data behind this node may be other data: the server was restarted, or
    /// replaced, or became the copy of another one. No two servers have the same. 0 before the first connection.
    ///
    /// A server that may not say who it is (INFO is forbidden) gets a new number with every connection.
    #[must_use]
    pub fn data_identity(&self) -> u64 {
        self.identity.load(Ordering::Acquire)
    }

    /// How long a round trip takes these days: a moving average. Zero before the first.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        Duration::from_nanos(self.typical.load(Ordering::Relaxed))
    }

    /// Sends a pipeline and waits for its replies, at most as long as the settings say.
    ///
    /// A transaction is sent as such; then the replies include those to MULTI and EXEC. Commands that are answered
    /// more or less than once (SUBSCRIBE, MONITOR, CLIENT REPLY) must not be sent. A future that is dropped early
    /// leaves its pipeline in flight.
    ///
    /// While a slot of a cluster moves from here to another known node, the commands that this one sends elsewhere (ASK)
    /// are sent there, once, and their replies are the other node's. To a node that is not known yet, because it has no
    /// slot, or that is down, they are not: then ASK is the reply.
    ///
    /// # Errors
    /// See [`Failure`]; it says whether the pipeline may have taken effect. If the other node does not reply, this counts
    /// for the pipeline as a whole.
    pub async fn send(&self, pipeline: &Pipeline) -> Result<Reply, Failure> {
        let Some(link) = self.link() else {
            self.count("unavailable");
            return Err(Failure::Unavailable);
        };
        let mut reply = self
            .exchange(&link, pipeline, self.surroundings.dial.response_timeout)
            .await?;
        self.heed(&link, pipeline, &reply);
        self.ask_others(pipeline, &mut reply).await?;
        Ok(reply)
    }

    /// Why it is down, for people. Without secrets.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state.lock().down.as_ref().map(|trouble| trouble.text.clone())
    }

    /// Whether the first attempt to connect is over.
    pub(super) fn was_tried(&self) -> bool {
        self.tried.load(Ordering::Acquire)
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Keeps the connection and the breaker true until the future is dropped.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            let attempt = Instant::now();
            match self.surroundings.dial.open(&self.endpoint).await {
                Ok(opened) => {
                    let (link, mut driver) = self.opened(opened);
                    self.tend(&link, &mut driver).await;
                    // What breaks as soon as it is there is not tried again at once.
                    if attempt.elapsed() < LOOK_DOWN / 2 {
                        sleep(around(LOOK_DOWN)).await;
                    }
                }
                Err(trouble) => {
                    let pause = if trouble.kind == Kind::Settings {
                        LOOK_SETTINGS
                    } else {
                        LOOK_DOWN
                    };
                    self.count(trouble.kind.label());
                    self.went_down(None, trouble);
                    self.note_tried();
                    sleep(around(pause)).await;
                }
            }
        }
    }

    /// Closes the connection for good. Whoever still holds the node is told that it is down.
    pub(super) fn retire(&self) {
        let mut state = self.state.lock();
        state.retired = true;
        state.down = Some(Kind::Connect.because("not in use any more"));
        if let Some(link) = state.link.take() {
            link.driver.abort();
        }
        self.settle(state);
        // What it counts from now on is shown nowhere. A server that comes back is a new node.
        let _ = self.surroundings.metrics.up.remove_label_values(&[&self.name]);
    }

    /// Watches a connection until it is gone.
    async fn tend(&self, link: &Arc<Link>, driver: &mut Driver) {
        while self.holds(link) {
            tokio::select! {
                _ = &mut driver.0 => self.cut(link, Kind::Lost.because("the connection was closed")),
                () = self.wake.notified() => {}
                () = sleep(self.until_next_look()) => self.look(link).await,
            }
        }
    }

    fn until_next_look(&self) -> Duration {
        let state = self.state.lock();
        let now = Instant::now();
        let verdict = state.trips.verdict(now);
        if state.down.is_none() && state.refusals.trial().is_some() {
            return Duration::ZERO;
        }
        match &state.down {
            Some(trouble) if trouble.kind == Kind::Settings => around(LOOK_SETTINGS),
            Some(_) => around(LOOK_DOWN),
            None if verdict == Verdict::Unclear => around(LOOK_UNCLEAR),
            None if verdict == Verdict::Slow || state.overdue > 0 => around(LOOK_SLOW),
            None => around(LOOK_IDLE).saturating_sub(now.saturating_duration_since(state.heard)),
        }
    }

    /// Asks the server how it is.
    async fn look(&self, link: &Arc<Link>) {
        let (open, trial) = {
            let state = self.state.lock();
            (state.down.is_some(), state.refusals.trial().cloned())
        };
        let mut pipeline = Pipeline::new();
        if open || trial.is_some() {
            inspect(&mut pipeline, self.surroundings.dial.cluster);
        } else {
            pipeline.cmd("PING");
        }
        let trial_at = pipeline.len();
        if let Some(trial) = &trial {
            trial.add_to(&mut pipeline);
        }
        // What goes wrong is dealt with in there.
        let deadline = self.surroundings.dial.response_timeout;
        let Ok(reply) = self.exchange(link, &pipeline, deadline).await else {
            return;
        };
        if !open && trial.is_none() {
            self.heed(link, &pipeline, &reply);
            return;
        }
        let mut values = reply.values;
        let tried = values.split_off(trial_at.min(values.len()));
        let refused = tried.into_iter().filter_map(Result::err).find(is_refusal);
        let values: Vec<Value> = values
            .into_iter()
            .map(|value| value.unwrap_or_else(Value::ServerError))
            .collect();
        let trouble = match (Facts::read(&values), refused) {
            (Err(trouble), _) => trouble,
            (Ok(_), Some(error)) => {
                let kind = if error.code() == "NOPERM" {
                    Kind::Settings
                } else {
                    Kind::Refused
                };
                kind.because(format!("it takes no writes: {}", says(&error)))
            }
            (Ok(facts), None) => {
                if trial.is_some() {
                    self.state.lock().refusals.forget();
                }
                self.learned(link, &facts);
                return;
            }
        };
        if !open {
            self.count(Kind::Refused.label());
        }
        self.went_down(Some(link), trouble);
    }

    /// Sends what this node sent elsewhere to there.
    async fn ask_others(&self, pipeline: &Pipeline, reply: &mut Reply) -> Result<(), Failure> {
        let deadline = self.surroundings.dial.response_timeout;
        for (target, positions) in asked_elsewhere(pipeline, &reply.values, &self.endpoint) {
            let peer = self.surroundings.peer(&target);
            let Some((peer, link)) = peer.and_then(|peer| peer.link().map(|link| (peer, link))) else {
                self.surroundings.look.notify_one();
                continue;
            };
            // A node that is given no time to answer would be taken for one that does not.
            let left = deadline.saturating_sub(reply.sent.elapsed());
            if left < deadline / 2 {
                continue;
            }
            let asking = asking(pipeline, &positions);
            let there = peer.exchange(&link, &asking, left).await?;
            peer.heed(&link, &asking, &there);
            put_in_place(&mut reply.values, &positions, there.values);
            reply.received = there.received;
        }
        Ok(())
    }

    /// Sends, whether the breaker is open or not, and draws the conclusions from how long it takes.
    async fn exchange(&self, link: &Arc<Link>, pipeline: &Pipeline, deadline: Duration) -> Result<Reply, Failure> {
        let replies = pipeline.len() + if pipeline.is_transaction() { 2 } else { 0 };
        let sent = Instant::now();
        if replies == 0 {
            return Ok(Reply {
                values: Vec::new(),
                sent,
                received: sent,
            });
        }
        let mut connection = link.connection.clone();
        let mut answer = std::pin::pin!(connection.send_packed_commands(pipeline, 0, replies));
        let mut flight = Flight::new(self, sent);
        let mut landed = timeout_at((sent + OVERDUE.min(deadline)).into(), &mut answer).await;
        if landed.is_err() {
            flight.is_overdue();
            landed = timeout_at((sent + deadline).into(), &mut answer).await;
        }
        match landed {
            Ok(Ok(values)) => {
                let received = Instant::now();
                flight.landed(received);
                Ok(Reply {
                    values: values.into_iter().map(own_error).collect(),
                    sent,
                    received,
                })
            }
            Ok(Err(error)) => {
                self.cut(link, Kind::Lost.because(format!("the connection broke: {error}")));
                Err(Failure::Lost)
            }
            Err(_) => {
                self.cut(link, Kind::Timeout.because(format!("no reply within {deadline:?}")));
                Err(Failure::Timeout)
            }
        }
    }

    /// Errors of commands that say something about the server.
    fn heed(&self, link: &Arc<Link>, pipeline: &Pipeline, reply: &Reply) {
        {
            let mut state = self.state.lock();
            if holds(&state, link) && state.refusals.note(pipeline, &reply.values, reply.received) {
                self.wake.notify_one();
            }
        }
        for error in reply.values.iter().filter_map(|value| value.as_ref().err()) {
            match error.code() {
                "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" => {
                    self.count(Kind::Refused.label());
                    let text = format!("it takes no writes: {}", says(error));
                    self.went_down(Some(link), Kind::Refused.because(text));
                    return;
                }
                "MOVED" => self.surroundings.look.notify_one(),
                _ => {}
            }
        }
    }

    fn opened(&self, opened: Opened) -> (Arc<Link>, Driver) {
        let link = Arc::new(Link {
            connection: opened.connection,
            driver: opened.driver.0.abort_handle(),
        });
        let again = {
            let mut state = self.state.lock();
            if !state.retired {
                state.link = Some(Arc::clone(&link));
            }
            if state.down.is_some() {
                state.timeouts = 0;
            }
            // What was slow was the server before, or the way to it.
            state.trips = RoundTrips::new(self.surroundings.slow_after, opened.sent);
            state.heard = opened.received;
            std::mem::replace(&mut state.connected_before, true)
        };
        if again {
            self.surroundings.metrics.reconnects.inc();
        } else if opened.facts.identity.is_none() {
            log::warn!(
                "redis {}: it does not say who it is, so that after every reconnection its data counts as changed; let \
                 the user run INFO",
                self.name
            );
        }
        let identity = opened
            .facts
            .identity
            .unwrap_or_else(|| rand::rng().random::<u64>().max(1));
        self.identity.store(identity, Ordering::Release);
        self.learned(&link, &opened.facts);
        self.note_tried();
        (link, opened.driver)
    }

    /// Opens or closes the breaker by what a server says of itself.
    fn learned(&self, link: &Arc<Link>, facts: &Facts) {
        if let Some(identity) = facts.identity {
            self.identity.store(identity, Ordering::Release);
        }
        if let Some(trouble) = facts.objection(self.surroundings.dial.cluster) {
            self.went_down(Some(link), trouble);
            return;
        }
        let mut state = self.state.lock();
        // Where a trial is due, being there is not enough.
        if holds(&state, link) && state.refusals.trial().is_none() {
            state.down = None;
        }
        self.settle(state);
    }

    /// Opens the breaker. With a link: only if that is still the connection in use.
    fn went_down(&self, link: Option<&Arc<Link>>, trouble: Trouble) {
        let mut state = self.state.lock();
        if link.is_none_or(|link| holds(&state, link)) {
            state.down = Some(trouble);
        }
        self.settle(state);
    }

    /// Gives up a connection, and with it every reply that may still come. Others may have done so already.
    fn cut(&self, link: &Arc<Link>, trouble: Trouble) {
        let mut state = self.state.lock();
        if !holds(&state, link) {
            return;
        }
        state.link = None;
        link.driver.abort();
        self.count(trouble.kind.label());
        if trouble.kind == Kind::Timeout {
            state.timeouts = state.timeouts.saturating_add(1);
        }
        if trouble.kind != Kind::Timeout || state.timeouts >= TIMEOUTS {
            state.down = Some(trouble);
        }
        self.settle(state);
        self.wake.notify_one();
    }

    /// Publishes what follows from the state.
    fn settle(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        let now = Instant::now();
        let health = if state.down.is_some() {
            Health::Down
        } else if state.link.is_none() || state.overdue > 0 || state.trips.verdict(now) == Verdict::Slow {
            Health::Slow
        } else {
            Health::Up
        };
        let before = decode(self.health.swap(encode(health), Ordering::AcqRel));
        let changed = before != health;
        let line = state.down.as_ref().filter(|_| !state.retired).and_then(|trouble| {
            let said = state.said.as_ref();
            let news = said.is_none_or(|(said, at)| *said != trouble.text && now.duration_since(*at) >= SAY_AGAIN);
            news.then(|| trouble.text.clone())
        });
        if let Some(text) = &line {
            state.said = Some((text.clone(), now));
        } else if state.down.is_none() {
            state.said = None;
        }
        let retired = state.retired;
        self.up.set(match health {
            Health::Up => 1.0,
            Health::Slow => 0.5,
            Health::Down => 0.0,
        });
        drop(state);
        if let Some(text) = line {
            log::warn!("redis {}: down: {text}", self.name);
        }
        if !changed || retired {
            return;
        }
        self.wake.notify_one();
        match health {
            Health::Up => log::info!("redis {}: up", self.name),
            Health::Slow => log::warn!("redis {}: slow", self.name),
            Health::Down => self.surroundings.look.notify_one(),
        }
    }

    fn note_tried(&self) {
        if !self.tried.swap(true, Ordering::AcqRel) {
            self.surroundings.progress.send_modify(|step| *step += 1);
        }
    }

    /// The connection, if something may be sent on it.
    fn link(&self) -> Option<Arc<Link>> {
        let state = self.state.lock();
        if state.down.is_some() {
            return None;
        }
        state.link.clone()
    }

    fn holds(&self, link: &Arc<Link>) -> bool {
        holds(&self.state.lock(), link)
    }

    fn count(&self, kind: &str) {
        self.surroundings.metrics.failures.with_label_values(&[kind]).inc();
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({}, {:?})", self.name, self.health())
    }
}

fn holds(state: &State, link: &Arc<Link>) -> bool {
    state.link.as_ref().is_some_and(|held| Arc::ptr_eq(held, link))
}

fn own_error(value: Value) -> Result<Value, ServerError> {
    match value {
        Value::ServerError(error) => Err(error),
        value => Ok(value),
    }
}

/// A pipeline in flight. However its future ends, the books are right.
struct Flight<'a> {
    node: &'a Node,
    sent: Instant,
    overdue: bool,
    landed: bool,
}

impl<'a> Flight<'a> {
    fn new(node: &'a Node, sent: Instant) -> Self {
        Self {
            node,
            sent,
            overdue: false,
            landed: false,
        }
    }

    fn is_overdue(&mut self) {
        self.overdue = true;
        let mut state = self.node.state.lock();
        state.overdue += 1;
        self.node.settle(state);
    }

    fn landed(&mut self, received: Instant) {
        self.landed = true;
        let took = received.saturating_duration_since(self.sent);
        self.node
            .surroundings
            .metrics
            .round_trip_seconds
            .observe(took.as_secs_f64());
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let before = self.node.typical.load(Ordering::Relaxed);
        // Two replies at the same time may lose one of their samples, which does no harm.
        let typical = if before == 0 {
            took_ns
        } else {
            before - before / 8 + took_ns / 8
        };
        self.node.typical.store(typical, Ordering::Relaxed);
        let mut state = self.node.state.lock();
        state.timeouts = 0;
        state.heard = state.heard.max(received);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.node.state.lock();
        if self.overdue {
            state.overdue = state.overdue.saturating_sub(1);
        }
        // One that nobody waits for any more took at least this long.
        let was_clear = state.trips.verdict(now);
        state.trips.note(self.sent, now.saturating_duration_since(self.sent));
        let verdict = state.trips.verdict(now);
        self.node.settle(state);
        if verdict == Verdict::Unclear && was_clear != verdict {
            self.node.wake.notify_one();
        }
    }
}

/// A pause of this length, give or take a half: gateways that lost the same server must not come back as one.
pub(super) fn around(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

fn encode(health: Health) -> u8 {
    match health {
        Health::Up => 0,
        Health::Slow => 1,
        Health::Down => 2,
    }
}

fn decode(number: u8) -> Health {
    match number {
        0 => Health::Up,
        1 => Health::Slow,
        _ => Health::Down,
    }
}
