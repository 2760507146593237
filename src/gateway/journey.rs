//! What one request owns, from its head to the end of its answer.
//!
//! `record` is for operators and is filled as facts appear; `admission` is for decisions and is complete or absent.
//! Nothing decides by reading the record.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::header::HOST;
use http::{HeaderMap, HeaderValue};
use pingora::http::RequestHeader;
use prometheus::{Histogram, IntGauge};

use super::forward::{Origin, TRACEPARENT};
use super::refusal::{Refusal, X_REQUEST_ID};
use super::request_id::{self, Trace};
use super::wire::{Home, Wire};
use crate::auth::Caller;
use crate::snapshot::{Api, Route, Snapshot};
use crate::telemetry::{AccessLog, Metrics, Record};
use crate::throttle::Time;
use crate::upstream::{Tried, Upstream};

/// One request in this many has its stages timed.
const TIMED_EVERY: u32 = 64;

/// Longest host and path that are logged, in bytes.
const LOGGED_MAX: usize = 1024;

/// A request on its way.
pub struct Journey {
    /// Pinned for the whole request: a new revision does not touch it.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Facts for the log.
    pub record: Record,
    /// The decision to let it in; absent until it was made.
    pub admission: Option<Admission>,
    /// Where it came from.
    pub origin: Origin,
    /// Its trace.
    pub trace: Option<Trace>,
    /// The endpoints that could not be connected to.
    pub tried: Tried,
    /// The endpoint that is used now.
    pub endpoint: Option<usize>,
    /// When it was chosen.
    pub upstream_started: Option<Instant>,
    /// From then to the head of its answer.
    pub upstream_elapsed: Option<Duration>,
    /// Path and query for the upstream, when they differ from what the client sent.
    pub target: Option<Vec<u8>>,
    /// Whether the client sent names with underscores.
    pub underscores: bool,
    /// The arrival as unix time, for decisions: read once.
    pub now_ms: u64,
    now: Time,
    /// When its head was complete.
    started: Option<Instant>,
    dice: u32,
    /// Position of the matched route, for the counters.
    route: Option<u32>,
    in_flight: Option<InFlight>,
    home: Option<Arc<Home>>,
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    reported: bool,
}

/// The decision to let a request in: route, caller and what the answer says about limits; all or nothing.
pub struct Admission {
    /// Position of the route in the snapshot.
    pub route: u32,
    /// Who calls.
    pub caller: Caller,
    /// Value of `RateLimit` for the answer, when a limit counts this request.
    pub rate_limit: Option<HeaderValue>,
    /// Value of `RateLimit-Policy`.
    pub policy: Option<HeaderValue>,
}

/// One request in flight; gives its place back when dropped.
pub struct InFlight(IntGauge);

impl InFlight {
    /// Takes a place, unless all are taken.
    #[must_use]
    pub fn enter(gauge: &IntGauge, max: i64) -> Option<Self> {
        gauge.inc();
        let entered = Self(gauge.clone());
        (gauge.get() <= max).then_some(entered)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Journey {
    /// Begins, with the revision that is applied now.
    #[must_use]
    pub fn begin(snapshot: Option<Arc<Snapshot>>, metrics: Arc<Metrics>, access_log: AccessLog) -> Self {
        let clock = SystemTime::now();
        let unix = clock.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Self {
            record: Record {
                time_ms: now_ms,
                ..Record::default()
            },
            snapshot,
            admission: None,
            origin: Origin::default(),
            trace: None,
            tried: Tried::default(),
            endpoint: None,
            upstream_started: None,
            upstream_elapsed: None,
            target: None,
            underscores: false,
            now_ms,
            now: Time::from(clock),
            started: None,
            dice: rand::random(),
            route: None,
            in_flight: None,
            home: None,
            metrics,
            access_log,
            reported: false,
        }
    }

    /// The arrival, for counters.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// Whether the stages of this request are timed.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.dice.is_multiple_of(TIMED_EVERY)
    }

    /// The upstream that it goes to.
    #[must_use]
    pub fn upstream(&self) -> Option<&Upstream> {
        let snapshot = self.snapshot.as_ref()?;
        let (_, api) = snapshot.route_and_api(self.admission.as_ref()?.route)?;
        snapshot.upstream_of(api)
    }

    /// The histogram of that upstream.
    #[must_use]
    pub fn upstream_seconds(&self) -> Option<&Histogram> {
        let snapshot = self.snapshot.as_ref()?;
        let (_, api) = snapshot.route_and_api(self.admission.as_ref()?.route)?;
        snapshot.upstream_seconds_of(api)
    }

    /// Keeps its place among the requests in flight until the end.
    pub fn hold(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }

    /// Remembers its connection, to know how an exchange ended that the engine did not report.
    pub fn came_from(&mut self, wire: &Wire) {
        self.home = Some(Arc::clone(wire.home()));
        self.started = wire.arrived();
        self.underscores = wire.head().is_some_and(|head| head.has_underscore_names);
    }

    /// Takes over or makes its ids.
    pub fn identify(&mut self, headers: &HeaderMap) {
        self.record.request_id = request_id::accept(headers.get(X_REQUEST_ID));
        let trace = request_id::trace(headers.get(TRACEPARENT));
        self.record.trace_id = Arc::clone(&trace.trace_id);
        self.trace = Some(trace);
    }

    /// Notes what is asked for.
    pub fn saw(&mut self, request: &RequestHeader, path: &str) {
        let host = request
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        self.record.client = self.origin.client;
        self.record.method = Some(request.method.clone());
        self.record.host = clipped(host).to_owned();
        self.record.path = clipped(path).to_owned();
    }

    /// Notes the path that is matched, when it is not the one that was asked for.
    pub fn normalised(&mut self, path: &str) {
        clipped(path).clone_into(&mut self.record.path);
    }

    /// Notes the route.
    pub fn matched(&mut self, position: u32, route: &Route, api: &Api) {
        self.route = Some(position);
        self.record.api = Some(api.name.clone());
        self.record.route = Some(Arc::clone(&route.pattern));
    }

    /// Notes the caller.
    pub fn identified(&mut self, caller: &Caller, snapshot: &Snapshot) {
        self.record.application = snapshot.application_of(caller).map(|(name, _)| name.clone());
        self.record.key_id = caller.key_id().cloned();
        self.record.subject = caller.subject().map(Arc::from);
    }

    /// Notes that the gateway answers itself.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.record.client = self.origin.client;
        self.record.status = refusal.status();
        self.record.code = refusal.code();
        self.record.reason = refusal.reason();
        self.record.limit = refusal.limit();
    }

    /// Notes that the upstream's answer begins.
    pub fn answered(&mut self) {
        if self.upstream_elapsed.is_none() {
            self.upstream_elapsed = self.upstream_started.map(|started| started.elapsed());
        }
    }

    /// Notes that an answer had to be cut off after its head.
    pub fn cut(&mut self, code: &'static str, reason: &'static str) {
        self.record.code = code;
        self.record.reason = reason;
    }

    /// Notes that the client left before the end.
    pub fn left(&mut self) {
        self.record.status = 499;
        self.record.reason = "client_left";
    }

    /// Counts and logs the request, once.
    pub fn report(&mut self) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let elapsed = self.started.map_or(Duration::ZERO, |started| started.elapsed());
        let (status, code) = (self.record.status, self.record.code);
        match self.snapshot.as_ref().zip(self.route) {
            Some((snapshot, route)) => snapshot.count(route, status, code, elapsed),
            None => self.metrics.unrouted(status, code),
        }
        if self.access_log.wants(status, code, self.dice) {
            self.record.duration_us = micros(elapsed);
            self.record.upstream_us = self.upstream_elapsed.map(micros);
            self.record.upstream = self.upstream().map(|upstream| upstream.name().clone());
            if let Some(snapshot) = &self.snapshot {
                self.record.revision = Arc::clone(snapshot.short_digest());
            }
            self.access_log.push(&self.record);
        }
    }
}

impl Drop for Journey {
    /// The engine reports every request that it ends itself. One that was cut by a deadline, by a panic or by the end
    /// of the process is reported here.
    fn drop(&mut self) {
        if self.reported {
            return;
        }
        if self.record.status == 0 {
            let received = self.home.as_ref().is_some_and(|home| home.is_received());
            (self.record.status, self.record.code) = match (std::thread::panicking(), received) {
                (true, _) => (500, "internal"),
                (false, true) => (504, "upstream_timeout"),
                (false, false) => (408, "request_timeout"),
            };
        }
        self.report();
    }
}

/// At most so much of a text that a client chose, cut between characters.
fn clipped(text: &str) -> &str {
    &text[..text.floor_char_boundary(LOGGED_MAX)]
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
