//! What one request owns, from its head to the end of its answer.
//!
//! `admission` is the decision to let it in, complete or absent. Everything else is facts, noted as they appear; at the
//! end counters and log are written from them, and nothing decides by reading the outcome.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method};
use pingora::http::RequestHeader;
use prometheus::Histogram;

use super::caching::{Bypass, Change, Visit};
use super::downstream::Downstream;
use super::drain::LongLived;
use super::forward::Origin;
use super::refusal::Refusal;
use super::request_id::Ids;
use super::tries::Plan;
use super::wire::Home;
use crate::auth::Caller;
use crate::edit::cors;
use crate::framing::BodyFault;
use crate::snapshot::{Api, Route, Snapshot};
use crate::telemetry::{AccessLog, Metrics, Record};
use crate::throttle::Time;
use crate::transport::{ClientIdentity, Transport};
use crate::upstream::{Attempt, Moment, Tried, Upstream, hash};

/// One request in this many has its stages timed.
const TIMED_EVERY: u32 = 64;

/// Longest host and path that are logged, in bytes.
const LOGGED_MAX: usize = 1024;

/// A request on its way.
pub struct Journey {
    /// Pinned for the whole request: a new revision does not touch it.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Its ids.
    pub ids: Ids,
    /// Whose certificate the client has shown in its handshake.
    pub certificate: Option<Arc<ClientIdentity>>,
    /// Who calls; absent until that is known.
    pub caller: Option<Caller>,
    /// The decision to let it in; absent until it was made.
    pub admission: Option<Admission>,
    /// Where it came from.
    pub origin: Origin,
    /// Position of the upstream that answers, chosen once for all tries; absent while there is none.
    pub destination: Option<usize>,
    /// What its API tells the browser about the origin of the script; absent unless the API has CORS.
    pub cors: Option<cors::Verdict>,
    /// Largest body, when route or API say it.
    pub body_bytes: Option<u64>,
    /// What was wrong with its body, beside what the connection has found.
    pub fault: Option<BodyFault>,
    /// What holds for all its tries; absent before the first.
    pub plan: Option<Plan>,
    /// The try that is under way.
    pub attempt: Option<Attempt>,
    /// How many of its tries found out whether a broken endpoint works again.
    pub probes: u32,
    /// The endpoints where tries failed.
    pub tried: Tried,
    /// What the endpoint of the last try is called.
    pub endpoint: Option<Arc<str>>,
    /// When it was chosen.
    pub upstream_started: Option<Instant>,
    /// From then to the head of its answer.
    pub upstream_elapsed: Option<Duration>,
    /// Path and query for the upstream, when they differ from what the client sent.
    pub target: Option<Vec<u8>>,
    /// Whether the client sent names with underscores.
    pub underscores: bool,
    /// Whether it is a gRPC call, whose refusals are told as gRPC.
    pub is_grpc: bool,
    /// What it has to do with the cache; absent unless it may be answered from there.
    pub visit: Option<Box<Visit>>,
    /// Why it may not, when its route may.
    pub bypass: Option<Bypass>,
    /// What it changes, so that kept answers are not valid any more; absent unless its method is unsafe.
    pub change: Option<Box<Change>>,
    /// It has content that its head does not announce, as HTTP/2 allows, or may have: its end had not come with its head.
    pub has_content: bool,
    /// `https` or `http`: how the client spoke to this gateway.
    pub scheme: &'static str,
    /// Set while its answer is one that may last: a tunnel, an event stream, a call.
    pub long_lived: Option<LongLived>,
    /// Whether a limit in shadow mode would have refused it.
    pub would_deny: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// The arrival as unix time, for decisions: read once.
    pub now_ms: u64,
    now: Time,
    /// When its head was complete.
    started: Option<Instant>,
    dice: u32,
    method: Option<Method>,
    host: Option<HeaderValue>,
    path: String,
    /// Position of the matched route.
    route: Option<u32>,
    in_flight: bool,
    home: Option<Arc<Home>>,
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    reported: bool,
}

/// How a request ended, for counters and log.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Status that the client was sent; 0 while there is none.
    pub status: u16,
    /// Code of the refusal, when the gateway answered itself.
    pub code: &'static str,
    /// Why, in more detail than the client is told.
    pub reason: &'static str,
    /// The limit that refused.
    pub limit: Option<Arc<str>>,
    /// What the cache did; empty where there is none.
    pub cache: &'static str,
    /// Endpoints tried.
    pub tries: u32,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
}

/// The decision to let a request in: the route and what the answer says about limits; all or nothing.
pub struct Admission {
    /// Position of the route in the snapshot.
    pub route: u32,
    /// Value of `RateLimit` for the answer, when a limit counts this request.
    pub rate_limit: Option<HeaderValue>,
    /// Value of `RateLimit-Policy`.
    pub policy: Option<HeaderValue>,
}

impl Journey {
    /// Begins, with the revision that is applied now.
    #[must_use]
    pub fn begin(snapshot: Option<Arc<Snapshot>>, metrics: Arc<Metrics>, access_log: AccessLog) -> Self {
        let clock = SystemTime::now();
        let unix = clock.duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Self {
            ids: Ids::none(),
            certificate: None,
            caller: None,
            snapshot,
            admission: None,
            origin: Origin::default(),
            destination: None,
            cors: None,
            body_bytes: None,
            fault: None,
            plan: None,
            attempt: None,
            probes: 0,
            tried: Tried::new(),
            endpoint: None,
            upstream_started: None,
            upstream_elapsed: None,
            target: None,
            underscores: false,
            is_grpc: false,
            visit: None,
            bypass: None,
            change: None,
            has_content: false,
            scheme: "http",
            long_lived: None,
            would_deny: false,
            outcome: Outcome::default(),
            now_ms,
            now: Time::from(clock),
            started: None,
            dice: rand::random(),
            method: None,
            host: None,
            path: String::new(),
            route: None,
            in_flight: false,
            home: None,
            metrics,
            access_log,
            reported: false,
        }
    }

    /// Its id, as the client and the upstream see it.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.ids.request_id_text()
    }

    /// The arrival by this host's clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// The arrival, for clocks that are not this host's.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.started.unwrap_or_else(Instant::now)
    }

    /// Whether the stages of this request are timed.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.dice.is_multiple_of(TIMED_EVERY)
    }

    /// A random number, another one for each try.
    #[must_use]
    pub fn dice(&self) -> u64 {
        hash::stir(u64::from(self.dice) | u64::from(self.outcome.tries + 1) << 32)
    }

    /// The upstream that it goes to.
    #[must_use]
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.snapshot.as_ref()?.upstream(self.destination?)
    }

    /// The histogram of that upstream.
    #[must_use]
    pub fn upstream_seconds(&self) -> Option<&Histogram> {
        self.snapshot.as_ref()?.upstream_seconds(self.destination?)
    }

    /// Takes a place among the requests in flight, until its end. False when all are taken.
    #[must_use]
    pub fn enter(&mut self, max: i64) -> bool {
        let gauge = &self.metrics.requests_in_flight;
        gauge.inc();
        self.in_flight = gauge.get() <= max;
        if !self.in_flight {
            gauge.dec();
        }
        self.in_flight
    }

    /// Remembers its connection, to know how an exchange ended that the engine did not report.
    pub fn came_from(&mut self, downstream: Downstream<'_>) {
        self.home = Some(Arc::clone(downstream.home()));
        self.started = downstream.arrived();
        let transport = downstream.transport();
        self.certificate = transport.and_then(|transport| transport.identity.clone());
        self.scheme = transport.map_or("http", Transport::scheme);
        self.underscores = downstream.has_underscore_names();
        self.is_grpc = downstream.is_grpc();
        self.has_content = downstream.has_unannounced_content();
    }

    /// Notes what is asked for.
    pub fn saw(&mut self, request: &RequestHeader, path: &str) {
        self.method = Some(request.method.clone());
        self.host = request.headers.get(HOST).cloned();
        self.path = clipped(path).to_owned();
    }

    /// Notes the path that is matched, when it is not the one that was asked for.
    pub fn normalised(&mut self, path: &str) {
        clipped(path).clone_into(&mut self.path);
    }

    /// Notes the position of the route.
    pub fn matched(&mut self, route: u32) {
        self.route = Some(route);
    }

    /// Goes on where another request was, which nobody waits for: it is in no log and counts for nobody.
    pub fn go_on_unseen(&mut self, snapshot: Arc<Snapshot>, route: u32) {
        self.snapshot = Some(snapshot);
        self.route = Some(route);
        self.admission = Some(Admission {
            route,
            rate_limit: None,
            policy: None,
        });
        self.reported = true;
    }

    /// The route that was matched, and its API.
    #[must_use]
    pub fn route_and_api(&self) -> Option<(&Route, &Api)> {
        self.snapshot.as_ref()?.route_and_api(self.route?)
    }

    /// Whether answers of its route say what the cache did.
    #[must_use]
    pub fn tells_cache(&self) -> bool {
        let policy = self.route_and_api().and_then(|(route, _)| route.cache.as_ref());
        policy.is_some_and(|policy| policy.tell)
    }

    /// Notes that the gateway answers itself.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.outcome.status = refusal.status();
        self.outcome.code = refusal.code();
        self.outcome.reason = refusal.reason();
        self.outcome.limit = refusal.limit();
    }

    /// Notes that the upstream's answer begins.
    pub fn answered(&mut self, now: Instant) {
        if self.upstream_elapsed.is_none() {
            self.upstream_elapsed = self
                .upstream_started
                .map(|started| now.saturating_duration_since(started));
        }
    }

    /// Notes that an answer had to be cut off after its head.
    pub fn cut(&mut self, code: &'static str, reason: &'static str) {
        self.outcome.code = code;
        self.outcome.reason = reason;
    }

    /// Notes that the client left before the end.
    pub fn left(&mut self) {
        self.outcome.status = 499;
        self.outcome.reason = "client_left";
    }

    /// Counts and logs the request, once.
    pub fn report(&mut self) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        let elapsed = self.started.map_or(Duration::ZERO, |started| started.elapsed());
        let (status, code) = (self.outcome.status, self.outcome.code);
        match self.snapshot.as_ref().zip(self.route) {
            Some((snapshot, route)) => snapshot.count(route, status, code, elapsed),
            None => self.metrics.unrouted(status, code),
        }
        if self.access_log.wants(status, code, self.dice) {
            self.access_log.push(&self.record(elapsed));
        }
    }

    fn record(&self, elapsed: Duration) -> Record<'_> {
        let snapshot = self.snapshot.as_deref();
        let matched = snapshot
            .zip(self.route)
            .and_then(|(snapshot, route)| snapshot.route_and_api(route));
        let caller = self.caller.as_ref();
        let application = snapshot
            .zip(caller)
            .and_then(|(snapshot, caller)| snapshot.application_of(caller));
        // A kept answer was nobody's work.
        let was_asked = self.outcome.cache.is_empty() || self.outcome.tries > 0;
        let upstream = self.upstream().filter(|_| was_asked);
        let host = self.host.as_ref().and_then(|host| host.to_str().ok());
        Record {
            time_ms: self.now_ms,
            request_id: self.ids.request_id_text(),
            trace_id: self.ids.trace_id(),
            client: self.origin.client,
            method: self.method.as_ref().map_or("", Method::as_str),
            host: host.map_or("", clipped),
            path: &self.path,
            api: matched.map_or("", |(_, api)| api.name.as_str()),
            route: matched.map_or("", |(route, _)| &route.pattern),
            application: application.map_or("", |(name, _)| name.as_str()),
            key_id: caller.and_then(Caller::key_id).unwrap_or_default(),
            subject: caller.and_then(Caller::subject).unwrap_or_default(),
            status: self.outcome.status,
            code: self.outcome.code,
            reason: self.outcome.reason,
            limit: self.outcome.limit.as_deref().unwrap_or_default(),
            would_deny: self.would_deny,
            upstream: upstream.map_or("", |upstream| upstream.name().as_str()),
            endpoint: self.endpoint.as_deref().unwrap_or_default(),
            tries: self.outcome.tries,
            bytes_in: self.outcome.bytes_in,
            bytes_out: self.outcome.bytes_out,
            duration_us: micros(elapsed),
            upstream_us: self.upstream_elapsed.map(micros),
            cache: self.outcome.cache,
            revision: snapshot.map_or("", |snapshot| snapshot.short_digest()),
        }
    }
}

impl Drop for Journey {
    /// The engine reports every request that it ends itself. One that was cut by a deadline, by a panic or by the end
    /// of the process is reported here.
    fn drop(&mut self) {
        if self.in_flight {
            self.metrics.requests_in_flight.dec();
        }
        if self.reported {
            return;
        }
        // It was cut short. Whose failure that is depends on who had his time: deadlines of clients, and what is left of
        // them after a slow upload or another endpoint, say nothing about this one.
        if let Some(attempt) = &mut self.attempt
            && !std::thread::panicking()
        {
            attempt.given_up(Moment::now());
        }
        if let Some(home) = &self.home {
            home.leave_request_id(self.ids.request_id_text());
            if self.cors.is_some() {
                let mut fields = HeaderMap::new();
                self.tell_browser(&mut fields);
                home.leave_fields(fields);
            }
        }
        if self.outcome.status == 0 && self.home.as_ref().is_some_and(|home| home.is_tunnel()) {
            (self.outcome.status, self.outcome.reason) = (101, "tunnel_silent");
        }
        if self.outcome.status == 0 {
            let received = self.home.as_ref().is_some_and(|home| home.is_received());
            let out_of_time = self.home.as_ref().is_some_and(|home| home.is_out_of_time());
            (self.outcome.status, self.outcome.code) = match (std::thread::panicking(), out_of_time || received) {
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
