//! Where a request is sent, and whether it is sent again.
//!
//! The engine asks for a peer before each try and reports how the try failed; what is decided here is which endpoint it
//! goes to, what the failure says about that endpoint, and whether there is another try:
//!
//! | what happened | who may be tried again |
//! |---|---|
//! | no connection, or HTTP/2 says that the request was not looked at | every request: nothing was done with it |
//! | a kept connection turned out closed | those that may arrive twice, also at the same endpoint |
//! | the connection broke, nothing came in time, 502, 503 or 504 | those that may arrive twice |
//!
//! Never once the client was sent a part of an answer, never when more of the body has gone than is kept, and never
//! beyond `retries.attempts`, the budget and `timeouts.total`.

use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::{HeaderName, UPGRADE};
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result, RetryType};

use super::downstream::Downstream;
use super::journey::Journey;
use super::wire::Watch;
use crate::auth::Caller;
use crate::revision::{Balance, HashKey};
use crate::upstream::attempt::{Unsent, is_failure};
use crate::upstream::line;
use crate::upstream::{Ask, Attempt, Moment, Upstream, hash, split, upgrade};

/// How often one request is sent at most when kept connections turn out to be closed.
const RESENDS_MAX: u32 = 3;

/// A request with it may arrive twice, whatever its method: the service sees to it that it counts once
/// (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// No timeout is shorter: to some, none at all is no timeout.
const SHORTEST: Duration = Duration::from_millis(1);

/// Says why a try was given up whose answer is not for the client.
const ANOTHER: ErrorType = ErrorType::Custom("another endpoint is tried");

/// Says that no connection was free.
pub const NO_ROOM: ErrorType = ErrorType::Custom("no connection is free");

/// What is fixed for all tries of a request.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// It may arrive twice.
    repeatable: bool,
    /// It becomes a tunnel, if the endpoint agrees.
    upgrade: bool,
    /// When the answer has to have begun.
    until: Option<Moment>,
    /// What `consistent_hash` goes by.
    key: u64,
}

/// Chooses an endpoint, and says what the engine has to know about it.
///
/// # Errors
/// When there is none to be chosen, or it has no room.
pub async fn begin(session: &mut Session, journey: &mut Journey, request_timeout: Duration) -> Result<Box<HttpPeer>> {
    // The one before is over.
    journey.attempt = None;
    let Some(upstream) = journey.upstream().cloned() else {
        return Err(Error::explain(ErrorType::InternalError, "a request without an upstream").into_in());
    };
    let started = Instant::now();
    let now = Moment::of(started);
    let plan = match journey.plan {
        Some(plan) => plan,
        None => {
            upstream.standing().budget.asked(now);
            *journey
                .plan
                .insert(Plan::of(session.req_header(), journey, &upstream, now))
        }
    };
    let ask = Ask {
        dice: journey.dice(),
        key: plan.key,
        tried: &journey.tried,
        repeatable: plan.repeatable,
        now,
    };
    let (attempt, mut peer) = Attempt::begin(&upstream, &ask, plan.until).await.map_err(unsent)?;
    journey.upstream_started = Some(started);
    journey.outcome.tries += 1;
    journey.probes += u32::from(attempt.is_probe());
    journey.endpoint = Some(attempt.label().clone());
    let attempt = journey.attempt.insert(attempt);
    if plan.upgrade {
        upgrade::prepare(&mut peer);
    }
    // Room may have been waited for.
    let left = plan.until.map(|until| until.since(Moment::now()).max(SHORTEST));
    if let Some(left) = left {
        let options = &mut peer.options;
        options.total_connection_timeout = options.total_connection_timeout.map(|connect| connect.min(left));
    }
    peer.options.read_timeout = silence(session, attempt, &plan, (&upstream, left), request_timeout);
    // Room may have been waited for.
    let waits = upstream.terms().pool.max_connections.is_some();
    attempt.dial(&mut peer, if waits { Instant::now() } else { started });
    Ok(peer)
}

/// No connection stands: nothing was sent, so any request may go to the next endpoint.
pub fn not_connected(journey: &mut Journey, error: &mut Error) {
    let now = Moment::now();
    if matches!(error.etype, ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert)
        && let Some(attempt) = &journey.attempt
        && attempt.endpoint().may_complain(now)
    {
        // What the engine says of it holds names and reasons, nothing that was sent.
        let said = error.context.as_ref().map_or("", |text| text.as_str());
        log::warn!("upstream endpoint {}: no TLS with it: {said}", attempt.label());
    }
    give_up(journey, now);
    let again = another(journey, now);
    error.set_retry(again);
}

/// The head of an answer came. Says that another endpoint is tried instead.
///
/// # Errors
/// When it does.
pub fn answered(session: &Session, journey: &mut Journey, status: u16) -> Result<()> {
    let came = Instant::now();
    let now = Moment::of(came);
    if let Some(attempt) = &mut journey.attempt {
        attempt.answered(status, now);
    }
    // A 500 is the service's word, unless it only shows that an endpoint that is tried out is still broken.
    let probe = journey.attempt.as_ref().is_some_and(Attempt::is_probe);
    let fleeting = is_failure(status) && (status != 500 || probe);
    if fleeting && may_arrive_twice(session, journey) && another(journey, now) {
        return Err(Error::new(ANOTHER).into_up());
    }
    journey.answered(came);
    Ok(())
}

/// The head of an answer came that the client is not given, because a kept one is.
pub fn noted(journey: &mut Journey, status: u16) {
    let came = Instant::now();
    if let Some(attempt) = &mut journey.attempt {
        attempt.answered(status, Moment::of(came));
    }
    journey.answered(came);
}

/// A try failed after a connection stood.
pub fn failed(session: &Session, journey: &mut Journey, error: &mut Error, reused: bool) {
    if error.etype == ANOTHER {
        note_tried(journey);
        error.set_retry(true);
        return;
    }
    if error.esource == ErrorSource::Downstream || error.esource == ErrorSource::Internal {
        // The client's doing, or ours.
        if let Some(attempt) = &mut journey.attempt {
            attempt.ended();
        }
        error.set_retry(false);
        return;
    }
    if line::timed_out(error) {
        error.etype = match error.etype {
            ErrorType::WriteError => ErrorType::WriteTimedout,
            _ => ErrorType::ReadTimedout,
        };
    }
    let now = Moment::now();
    if is_written(session) {
        give_up(journey, now);
        error.set_retry(false);
        return;
    }
    let reused = reused || journey.attempt.as_ref().is_some_and(Attempt::is_reused);
    let closed = reused && error.retry == RetryType::ReusedOnly;
    let unseen = error.retry == RetryType::Decided(true)
        && error.etype != ErrorType::InvalidH2
        && !session.as_ref().retry_buffer_truncated();
    let resend = unseen || (closed && may_arrive_twice(session, journey));
    if resend && journey.outcome.tries < RESENDS_MAX {
        // The connection was old, or is about to end, which says nothing about the endpoint.
        if let Some(attempt) = &mut journey.attempt {
            attempt.ended();
        }
        error.set_retry(true);
        return;
    }
    if unseen || closed {
        if let Some(attempt) = &mut journey.attempt {
            attempt.ended();
        }
        note_tried(journey);
    } else {
        give_up(journey, now);
    }
    let again = (unseen || may_arrive_twice(session, journey)) && another(journey, now);
    error.set_retry(again);
}

/// Why there is no TLS with an endpoint, in a word for the log.
#[must_use]
pub fn handshake_fault(error: &Error) -> &'static str {
    let said = error.context.as_ref().map_or("", |text| text.as_str());
    let faults = [
        ("UnknownIssuer", "certificate_of_unknown_issuer"),
        ("not valid for name", "certificate_of_another_name"),
        ("certificate expired", "certificate_expired"),
        ("not valid yet", "certificate_not_valid_yet"),
        ("BadSignature", "certificate_badly_signed"),
        ("invalid peer certificate", "certificate_refused"),
    ];
    let found = faults.iter().find(|(text, _)| said.contains(text));
    found.map_or("handshake_failed", |(_, fault)| fault)
}

impl Plan {
    fn of(request: &RequestHeader, journey: &Journey, upstream: &Upstream, now: Moment) -> Self {
        let headers = &request.headers;
        // The engine takes all others away.
        let is_websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
        let upgrade = request.version == http::Version::HTTP_11 && headers.get(UPGRADE).is_some_and(is_websocket);
        let terms = upstream.terms();
        Self {
            repeatable: !upgrade && (request.method.is_idempotent() || headers.contains_key(IDEMPOTENCY_KEY)),
            upgrade,
            until: terms.timeouts.total.map(|total| now.plus(total)),
            key: match &terms.balance {
                Balance::ConsistentHash(key) => hashed(key, request, journey),
                _ => 0,
            },
        }
    }
}

/// What `consistent_hash` goes by; what the request lacks is replaced by the client's address.
fn hashed(key: &HashKey, request: &RequestHeader, journey: &Journey) -> u64 {
    let found = match key {
        HashKey::ClientIp => None,
        HashKey::Caller => {
            let caller = journey.caller.as_ref();
            caller
                .and_then(Caller::key_hash)
                .or_else(|| caller.and_then(Caller::subject_hash))
        }
        HashKey::Header(name) => request.headers.get(name).map(|value| hash::of(value.as_bytes())),
        HashKey::Cookie(name) => split::cookie(&request.headers, name.as_bytes()).map(hash::of),
    };
    found.unwrap_or_else(|| match journey.origin.client {
        Some(std::net::IpAddr::V4(address)) => hash::of(&address.octets()),
        Some(std::net::IpAddr::V6(address)) => hash::of(&address.octets()),
        None => 0,
    })
}

/// How long the endpoint may be silent. The engine's clock runs while the request is still being sent, so for a request
/// that is not all here it only has the last word: what is silent after its end is noticed by the connection.
fn silence(
    session: &Session,
    attempt: &mut Attempt,
    plan: &Plan,
    (upstream, left): (&Upstream, Option<Duration>),
    request_timeout: Duration,
) -> Option<Duration> {
    let timeouts = &upstream.terms().timeouts;
    let own = timeouts.per_try.unwrap_or(timeouts.read).min(timeouts.read);
    let downstream = Downstream::of(session);
    let whole = downstream.is_none_or(Downstream::is_whole);
    // That less is left than its own time is not the endpoint's fault.
    attempt.give(own, !whole);
    let patience = left.map_or(own, |left| left.min(own));
    let Some(downstream) = downstream else {
        return Some(patience);
    };
    downstream.tried_anew();
    let home = downstream.home();
    if plan.upgrade {
        home.expect_silence(patience, timeouts.tunnel, Watch::Always);
        // Both sides may speak first, and the connection listens to both.
        return None;
    }
    if whole {
        home.expect_nothing();
        return Some(patience);
    }
    home.expect_silence(patience, timeouts.tunnel, Watch::UntilAnswered);
    if downstream.is_grpc() {
        return None;
    }
    Some(timeouts.read.max(request_timeout))
}

fn unsent(unsent: Unsent) -> Box<Error> {
    match unsent {
        Unsent::NoEndpoint => Error::explain(ErrorType::ConnectNoRoute, "no endpoint can be tried").into_up(),
        Unsent::Full(_) => Error::explain(NO_ROOM, "the endpoint has no room").into_up(),
    }
}

fn may_arrive_twice(session: &Session, journey: &Journey) -> bool {
    journey.plan.is_some_and(|plan| plan.repeatable)
        && !session.as_ref().retry_buffer_truncated()
        && !is_written(session)
}

/// Whether there may be another try, and an endpoint for it. Takes it out of the budget.
fn another(journey: &Journey, now: Moment) -> bool {
    let Some(upstream) = journey.upstream() else {
        return false;
    };
    let retries = &upstream.terms().retries;
    let in_time = (journey.plan.and_then(|plan| plan.until)).is_none_or(|until| now < until);
    let tried = journey.attempt.as_ref().map(|attempt| attempt.endpoint().id());
    let elsewhere = || {
        let is_other = |id: u32| Some(id) != tried && !journey.tried.contains(&id);
        upstream.view().can_pick(is_other)
    };
    // Whoever was sent to find out whether an endpoint works again pays nothing for it.
    let probe = journey.attempt.as_ref().is_some_and(Attempt::is_probe);
    if probe && in_time && elsewhere() {
        upstream.counters().retried.inc();
        return true;
    }
    let counted = journey.outcome.tries.saturating_sub(journey.probes);
    if counted >= retries.attempts || !in_time || !elsewhere() {
        return false;
    }
    if !upstream.standing().budget.take(retries.budget, now) {
        upstream.counters().budget_spent.inc();
        return false;
    }
    upstream.counters().retried.inc();
    true
}

/// The endpoint failed.
fn give_up(journey: &mut Journey, now: Moment) {
    if let Some(attempt) = &mut journey.attempt {
        attempt.failed(now);
    }
    note_tried(journey);
}

fn note_tried(journey: &mut Journey) {
    if let Some(attempt) = &journey.attempt {
        journey.tried.push(attempt.endpoint().id());
    }
}

fn is_written(session: &Session) -> bool {
    session
        .response_written()
        .is_some_and(|header| !header.status.is_informational())
}
