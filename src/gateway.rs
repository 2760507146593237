//! The journey of a request, in order.
//!
//! ```text
//! listener → normalise → route → screen → authenticate → throttle → answer here, or from the cache, or choose upstream → proxy → record
//! ```
//!
//! `Gateway::admit` tells the first half; the rest are the engine's phases, each a few lines. `upstream_peer` runs
//! again on every retry, so nothing that must happen once per request happens there; `logging` runs once at the end,
//! and what it would miss (a panic, a deadline) is caught by the journey's `Drop`.

pub mod caching;
pub mod counter_name;
pub mod downstream;
pub mod drain;
pub mod edits;
pub mod explain;
pub mod forward;
pub mod grpc;
pub mod journey;
pub mod refusal;
pub mod request_id;
pub mod stream;
pub mod tries;
pub mod wire;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{DATE, HOST, IF_RANGE, TRANSFER_ENCODING};
use ipnet::IpNet;
use pingora::cache::key::{CacheKey, HashBinary};
use pingora::cache::{CacheMeta, ForcedFreshness, HitHandler, NoCacheReason, RespCacheable};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::http::date::get_cached_date;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, RangeType, Session, range_header_filter};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use prometheus::{Histogram, IntCounter};

use crate::auth::{Denial, Identity, credential};
use crate::cache::conditional;
use crate::edit::Action;
use crate::edit::local_answer::LocalAnswer;
use crate::framing::BodyFault;
use crate::revision::Protocol;
use crate::route::Miss;
use crate::route::path::normalise;
use crate::snapshot::{Api, Route};
use crate::sync::Revisions;
use crate::telemetry::metrics::seconds;
use crate::telemetry::{AccessLog, Metrics};
use crate::throttle::{Exceeded, Throttle, headers};
use caching::{Caching, refresh};
use downstream::Downstream;
use drain::Drain;
use forward::{Origin, Told};
use journey::{Admission, Journey};
use refusal::{Answer, RateLimited, Refusal, X_REQUEST_ID};
use request_id::Ids;

/// More parts than this are answered with the whole.
const RANGES_MAX: usize = 16;

/// Serves requests, each with the revision that is applied when it arrives.
pub struct Gateway {
    revisions: Arc<Revisions>,
    throttle: Arc<Throttle>,
    caching: Caching,
    trusted_proxies: Vec<IpNet>,
    in_flight_max: i64,
    request_timeout: Duration,
    drain: Drain,
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    credentials_accepted: IntCounter,
    phases: Phases,
}

/// Time per stage, for one request in 64.
struct Phases {
    route: Histogram,
    authenticate: Histogram,
    throttle: Histogram,
    cache: Histogram,
}

impl Gateway {
    /// A gateway that serves what `revisions` holds.
    #[must_use]
    pub fn new(
        revisions: Arc<Revisions>,
        (throttle, caching): (Arc<Throttle>, Caching),
        (trusted_proxies, in_flight_max, request_timeout): (Vec<IpNet>, usize, Duration),
        drain: Drain,
        (metrics, access_log): (Arc<Metrics>, AccessLog),
    ) -> Self {
        Self {
            revisions,
            throttle,
            caching,
            trusted_proxies,
            in_flight_max: i64::try_from(in_flight_max).unwrap_or(i64::MAX),
            request_timeout,
            drain,
            phases: Phases {
                route: metrics.phase_seconds("route"),
                authenticate: metrics.phase_seconds("authenticate"),
                throttle: metrics.phase_seconds("throttle"),
                cache: metrics.phase_seconds("cache"),
            },
            credentials_accepted: metrics.key_lookup("valid"),
            metrics,
            access_log,
        }
    }

    /// Decides whether a request is let in: the journey up to the upstream, or to an answer that needs none.
    async fn admit(&self, request: &RequestHeader, journey: &mut Journey) -> Result<Option<LocalAnswer>, Refusal> {
        let (raw_path, query) = split_target(request)?;
        journey.saw(request, raw_path);
        if !journey.enter(self.in_flight_max) {
            return Err(Refusal::Overloaded("requests_in_flight"));
        }
        let snapshot = journey.snapshot.clone().ok_or(Refusal::NotReady)?;
        let mut stopwatch = Stopwatch::start(journey.is_timed());

        if raw_path == "*" {
            // OPTIONS about the server as a whole (RFC 9112 section 3.2.4): no API is that.
            return Err(Refusal::RouteNotFound);
        }
        let path = normalise(raw_path).map_err(|error| Refusal::BadRequest(error.as_str()))?;
        if let Cow::Owned(path) = &path {
            journey.normalised(path);
        }
        let host = request
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        let preflight = edits::preflight(&snapshot, host, &path, (&request.method, &request.headers));
        let position = match &preflight {
            Some((position, _)) => *position,
            None => snapshot.find(host, &path, &request.method).map_err(missed)?,
        };
        let (route, api) = snapshot.route_and_api(position).ok_or(Refusal::Internal)?;
        journey.matched(position);
        journey.screen((route, api), &request.headers)?;
        stopwatch.lap(&self.phases.route);
        if let (Some((_, asked)), Some(cors), Some(verdict)) = (&preflight, &api.edits.cors, &journey.cors) {
            return Ok(Some(cors.preflight(verdict, asked)));
        }

        let caller = snapshot
            .authenticator()
            .identify(
                route.api,
                &route.scopes,
                &request.headers,
                query,
                journey.certificate.as_deref(),
                journey.now_ms,
            )
            .await
            .map_err(|denial| {
                self.metrics.key_lookup(denial.reason()).inc();
                denied(denial, api)
            })?;
        if !matches!(caller.identity(), Identity::Anonymous) {
            self.credentials_accepted.inc();
        }
        let now = self.throttle.time(journey.arrived(), journey.now());
        let client = journey.origin.client;
        let caller = journey.caller.insert(caller);
        stopwatch.lap(&self.phases.authenticate);

        let demands = snapshot.demands(route, api, caller, client);
        let policy = snapshot.policy(api, caller);
        let permit = self
            .throttle
            .admit(&demands, 1, now)
            .await
            .map_err(|exceeded| limited(&exceeded, &demands, policy))?;
        stopwatch.lap(&self.phases.throttle);

        journey.would_deny = permit.would_deny.is_some();
        journey.admission = Some(Admission {
            route: position,
            rate_limit: permit.tightest.and_then(|standing| {
                demands
                    .get(standing.rule)
                    .map(|demand| demand.rule.limit_field(standing.remaining, standing.reset))
            }),
            policy: policy.cloned(),
        });
        if let Some(answer) = edits::local_answer(route, api, &path, query) {
            return Ok(Some(answer));
        }
        let asker = edits::asker(caller, client, &request.headers);
        let choice = api.split.as_ref().and_then(|split| split.choose(&asker, rand::random));
        journey.destination = Some(choice.ok_or(Refusal::Internal)?.upstream);
        journey.target = upstream_target((route, api), raw_path, &path, query);
        if snapshot.caches() {
            self.caching.enter(request, (&path, query), (route, api), journey).await;
            stopwatch.lap(&self.phases.cache);
        }
        Ok(None)
    }

    /// Writes a refusal.
    async fn refuse(&self, session: &mut Session, journey: &mut Journey, refusal: &Refusal) -> Result<()> {
        journey.refused(refusal);
        let mut answer = match journey.is_grpc {
            true => refusal.grpc_answer(journey.ids.request_id_text()),
            false => refusal.answer(journey.ids.request_id_text()),
        };
        journey.tell_browser(answer.headers_mut());
        self.write(session, answer).await
    }

    /// Writes what the gateway says itself without refusing.
    async fn answer(&self, session: &mut Session, journey: &mut Journey, local: LocalAnswer) -> Result<()> {
        let mut answer = Answer::of(local, journey.ids.request_id());
        // A preflight is admitted by nobody, and says all that it has to say.
        if journey.admission.is_some() {
            journey.edit_response(answer.headers_mut());
            journey.tell_browser(answer.headers_mut());
            journey.tell_limits(answer.headers_mut());
        }
        self.write(session, answer).await
    }

    /// Writes an answer. The connection goes on when the client has sent all of its request, or a short rest of it.
    async fn write(&self, session: &mut Session, answer: Answer) -> Result<()> {
        let (header, body) = answer.into_response()?;
        let no_body = session.req_header().method == http::Method::HEAD || body.is_empty();
        if no_body && let Some(stream) = session.as_downstream_mut().as_custom_mut() {
            // The engine's own way to write a head has no word for one that is the whole answer, and a gRPC client takes
            // no other for a refusal.
            return stream.write_response_header(Box::new(header), true).await;
        }
        session.write_response_header(Box::new(header), no_body).await?;
        if !no_body {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed: the engine moves it through futures that it copies whole, several times a request.
    type CTX = Box<Journey>;

    fn new_ctx(&self) -> Box<Journey> {
        Box::new(Journey::begin(
            self.revisions.current(),
            Arc::clone(&self.metrics),
            self.access_log.clone(),
        ))
    }

    /// None: the default set holds a compressor that costs every request an allocation and does nothing.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// Who is there: before anything is decided, so that every answer has an id and every record a client.
    async fn early_request_filter(&self, session: &mut Session, journey: &mut Box<Journey>) -> Result<()> {
        if self.drain.is_begun() {
            session.set_keepalive(None);
        }
        let downstream = Downstream::of(session);
        if let Some(downstream) = downstream {
            journey.came_from(downstream);
        }
        let peer = downstream
            .and_then(Downstream::transport)
            .and_then(|transport| transport.peer);
        let headers = &session.req_header().headers;
        journey.origin = Origin::find(peer, headers, &self.trusted_proxies);
        journey.ids = Ids::of(headers);
        forward::forget_spelling(session.req_header_mut());
        Ok(())
    }

    /// Needed to fetch in the background what is kept; costs a reference.
    fn allow_spawning_subrequest(&self, _session: &Session, journey: &Box<Journey>) -> bool {
        journey.snapshot.as_ref().is_some_and(|snapshot| snapshot.caches())
    }

    async fn request_filter(&self, session: &mut Session, journey: &mut Box<Journey>) -> Result<bool> {
        if refresh::resume(session, journey) {
            return Ok(false);
        }
        if Downstream::of(session).is_some_and(Downstream::is_too_large) {
            let (path, _) = split_target(session.req_header()).unwrap_or_default();
            journey.saw(session.req_header(), path);
            self.refuse(session, journey, &Refusal::BodyTooLarge).await?;
            return Ok(true);
        }
        match self.admit(session.req_header(), journey).await {
            Ok(None) => {
                // A bound that the API or the route sets is still for all of it.
                if journey.is_grpc
                    && journey
                        .upstream()
                        .is_some_and(|upstream| upstream.terms().protocol != Protocol::Http1)
                    && let Some(downstream) = Downstream::of(session)
                {
                    downstream.carries_messages();
                }
                Ok(false)
            }
            Ok(Some(local)) => {
                self.answer(session, journey, local).await?;
                Ok(true)
            }
            Err(refusal) => {
                self.refuse(session, journey, &refusal).await?;
                Ok(true)
            }
        }
    }

    fn request_cache_filter(&self, session: &mut Session, journey: &mut Box<Journey>) -> Result<()> {
        self.caching.enable(session, journey);
        Ok(())
    }

    fn cache_key_callback(&self, _session: &Session, journey: &mut Box<Journey>) -> Result<CacheKey> {
        Caching::key(journey).ok_or_else(|| Error::explain(ErrorType::InternalError, "a visit without a key").into_in())
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        _meta: &CacheMeta,
        hit: &mut HitHandler,
        _is_fresh: bool,
        journey: &mut Box<Journey>,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(self.caching.found(session, journey, hit))
    }

    fn cache_miss(&self, session: &mut Session, journey: &mut Box<Journey>) {
        Caching::missed(session, journey);
    }

    fn cache_not_modified_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        _journey: &mut Box<Journey>,
    ) -> Result<bool> {
        Ok(conditional::not_modified(
            &session.req_header().headers,
            response.status,
            &response.headers,
        ))
    }

    fn should_serve_stale(&self, _session: &mut Session, journey: &mut Box<Journey>, error: Option<&Error>) -> bool {
        Caching::endures(journey, error)
    }

    /// Only what has to be fetched comes here.
    async fn proxy_upstream_filter(&self, session: &mut Session, journey: &mut Box<Journey>) -> Result<bool> {
        if Caching::is_declined(journey) {
            // Others may wait for what this one will not fetch.
            session.cache.disable(NoCacheReason::DeclinedToUpstream);
            self.refuse(session, journey, &Refusal::NotKept).await?;
            return Ok(false);
        }
        Ok(true)
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        journey: &mut Box<Journey>,
    ) -> Result<RespCacheable> {
        Ok(self.caching.judge(session, response, journey))
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        journey: &mut Box<Journey>,
        request: &RequestHeader,
    ) -> Option<HashBinary> {
        Caching::variant(meta, journey, request)
    }

    /// Parts are for GET alone (RFC 9110 section 14.2), and of an answer that is known for sure (section 13.1.5).
    fn range_header_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _journey: &mut Box<Journey>,
    ) -> RangeType {
        let request = session.req_header();
        let is_weak = |condition: &HeaderValue| condition.as_bytes().starts_with(b"W/");
        if request.method != http::Method::GET || request.headers.get(IF_RANGE).is_some_and(is_weak) {
            return RangeType::None;
        }
        range_header_filter(request, response, Some(RANGES_MAX))
    }

    async fn upstream_peer(&self, session: &mut Session, journey: &mut Box<Journey>) -> Result<Box<HttpPeer>> {
        tries::begin(session, journey, self.request_timeout).await
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        journey: &mut Box<Journey>,
        mut error: Box<Error>,
    ) -> Box<Error> {
        tries::not_connected(journey, &mut error);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        journey: &mut Box<Journey>,
        reused: bool,
    ) -> Box<Error> {
        tries::failed(session, journey, &mut error, reused);
        error
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        journey: &mut Box<Journey>,
    ) -> Result<()> {
        if response.status.is_informational() && response.status.as_u16() != 101 {
            return Ok(());
        }
        self.caching.answered(response, journey);
        // A gRPC service that can not serve says so with HTTP 200 (14 is UNAVAILABLE).
        let is_away = journey.is_grpc
            && response
                .headers
                .get(grpc::GRPC_STATUS)
                .is_some_and(|status| status == "14");
        let status = if is_away { 503 } else { response.status.as_u16() };
        tries::answered(session, journey, status)
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        journey: &mut Box<Journey>,
    ) -> Result<()> {
        let (Some(snapshot), Some(admission), Some(caller)) = (&journey.snapshot, &journey.admission, &journey.caller)
        else {
            return Err(Error::explain(ErrorType::InternalError, "a request without admission").into_in());
        };
        let matched = snapshot.route_and_api(admission.route);
        let downstream = Downstream::of(session);
        let transport = downstream.and_then(Downstream::transport);
        forward::prepare(
            request,
            &Told {
                origin: journey.origin,
                peer: match &journey.visit {
                    Some(visit) if visit.refresh.is_some() => {
                        visit.refresh.as_ref().and_then(|refresh| refresh.peer.as_ref())
                    }
                    _ => transport.and_then(|transport| transport.peer_field.as_ref()),
                },
                scheme: journey.scheme,
                grpc: journey.is_grpc,
                grpc_timeout: downstream.and_then(Downstream::grpc_time_left).map(grpc::timeout_field),
                ids: &journey.ids,
                application: snapshot.application_of(caller).map(|(_, header)| header),
                key_type: caller.key_type().map(crate::revision::KeyType::as_str),
                credentials: matched.map_or(&[][..], |(_, api)| &api.stripped_headers),
                underscores: journey.underscores,
                edits: matched.map_or([None; 2], |(route, api)| edits::of_request(route, api)),
            },
        );
        if let Some(target) = &journey.target {
            request.set_raw_path(target)?;
        }
        Ok(())
    }

    /// What API or route allow may be less than what the connection does. What was announced was refused before; this is
    /// for what comes without a length.
    async fn request_body_filter(
        &self,
        session: &mut Session,
        _body: &mut Option<Bytes>,
        end_of_stream: bool,
        journey: &mut Box<Journey>,
    ) -> Result<()> {
        if end_of_stream && let Some(attempt) = &mut journey.attempt {
            attempt.sent();
        }
        match journey.body_bytes {
            Some(most) if session.body_bytes_read() as u64 > most => {
                journey.fault = Some(BodyFault::TooLarge);
                Err(Error::explain(ErrorType::InvalidHTTPHeader, "the body is larger than allowed").into_down())
            }
            _ => Ok(()),
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        journey: &mut Box<Journey>,
    ) -> Result<()> {
        if response.status.as_u16() == 101 {
            // What passes a tunnel is no body.
            journey.body_bytes = None;
            if let Some(wire) = Downstream::of(session).and_then(Downstream::wire) {
                wire.become_tunnel();
            }
        } else if response.status.is_informational() {
            return Ok(());
        } else {
            forward::frame_once(response)?;
        }
        if forward::is_long_lived(response) || journey.is_grpc {
            journey.long_lived = Some(self.drain.long_lived());
        }
        let knows_chunks = session.req_header().version != http::Version::HTTP_10;
        forward::tell(response, |headers| {
            headers.reserve(3);
            if !knows_chunks {
                // RFC 9112 section 6.1. Without a length, the end of the connection ends the answer.
                headers.remove(TRANSFER_ENCODING);
            }
            journey.edit_response(headers);
            journey.tell_browser(headers);
            headers.insert(X_REQUEST_ID, journey.ids.request_id().clone());
            journey.tell_limits(headers);
        });
        self.caching.tell(session, journey, response);
        if let (Some(date), Some(Downstream::Http1(wire))) = (response.headers.get(DATE), Downstream::of(session))
            && date.as_bytes() != get_cached_date().as_bytes()
        {
            wire.home().is_of(date);
        }
        if self.drain.is_begun() {
            session.set_keepalive(None);
        } else if session.req_header().version == http::Version::HTTP_11
            && Downstream::of(session)
                .and_then(Downstream::wire)
                .is_some_and(|wire| wire.is_received() && wire.head().is_some_and(|head| head.expect_continue))
        {
            // The engine took the 100 for an answer before the end of the body, and gave the connection up.
            session.set_keepalive(Some(0));
        }
        Ok(())
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, journey: &mut Box<Journey>) -> FailToProxy {
        let fault = Downstream::of(session).and_then(Downstream::fault).or(journey.fault);
        let nothing_written = session
            .response_written()
            .is_none_or(|header| header.status.is_informational());
        let refusal = match (failure(error, fault), nothing_written) {
            (Some(refusal), true) => refusal,
            (Some(refusal), false) => {
                // The client has a part of an answer: cutting the connection is the only way to say that it is one.
                journey.cut(refusal.code(), refusal.reason());
                return FailToProxy {
                    error_code: 0,
                    can_reuse_downstream: false,
                };
            }
            (None, _) => {
                journey.left();
                return FailToProxy {
                    error_code: 0,
                    can_reuse_downstream: false,
                };
            }
        };
        let written = self.refuse(session, journey, &refusal).await.is_ok();
        // The client was told that the connection goes on when all of its request is here, or a short rest is missing.
        if written
            && session.get_keepalive().is_some()
            && session.as_downstream_mut().drain_request_body().await.is_ok()
            && let Some(wire) = Downstream::of(session).and_then(Downstream::wire)
            && wire.is_received()
        {
            wire.keep();
        }
        FailToProxy {
            error_code: refusal.status(),
            can_reuse_downstream: written,
        }
    }

    /// What the engine asks for when it wants to name a request in its own log: never the query, which may hold a key.
    fn request_summary(&self, session: &Session, journey: &Box<Journey>) -> String {
        format!("{} {}", session.req_header().method, journey.request_id())
    }

    /// Like [`Self::suppress_error_log`]: the tries of a request are in its access log line.
    fn suppress_proxy_warn_log(
        &self,
        session: &Session,
        journey: &Box<Journey>,
        error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        self.suppress_error_log(session, journey, error)
    }

    /// Failures are in the access log, with more than the engine knows about them.
    fn suppress_error_log(&self, _session: &Session, _journey: &Box<Journey>, error: &Error) -> bool {
        // Not the error itself: the engine puts the bytes it could not read into it, an upstream's cookies for one.
        log::debug!("{} {}", error.esource().as_str(), error.etype().as_str());
        true
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, journey: &mut Box<Journey>) {
        if journey.outcome.status == 0 {
            journey.outcome.status = session.response_written().map_or(499, |header| header.status.as_u16());
        }
        self.caching.count(session, journey);
        journey.outcome.bytes_in = session.body_bytes_read() as u64;
        journey.outcome.bytes_out = session.body_bytes_sent() as u64;
        if let (Some(elapsed), Some(histogram)) = (journey.upstream_elapsed, journey.upstream_seconds()) {
            histogram.observe(seconds(elapsed));
        }
        journey.report();
    }
}

/// Times stages, or does nothing.
struct Stopwatch(Option<Instant>);

impl Stopwatch {
    fn start(timed: bool) -> Self {
        Self(timed.then(Instant::now))
    }

    fn lap(&mut self, histogram: &Histogram) {
        if let Some(since) = &mut self.0 {
            let now = Instant::now();
            histogram.observe(seconds(now.duration_since(*since)));
            *since = now;
        }
    }
}

/// Path and query as the client wrote them. Heads were inspected, so the target is ASCII; this does not rely on it.
fn split_target(request: &RequestHeader) -> Result<(&str, Option<&str>), Refusal> {
    let target =
        std::str::from_utf8(request.raw_path()).map_err(|_| Refusal::BadRequest("the request target is not ASCII"))?;
    let mark = memchr::memchr(b'?', target.as_bytes());
    Ok(match mark.and_then(|mark| target.split_at_checked(mark)) {
        Some((path, query)) => (path, query.get(1..)),
        None => (target, None),
    })
}

/// Path and query for the upstream: the matched path, without what this API keeps to itself, or the one that its route
/// makes of it. `None` when that is what the client sent.
fn upstream_target((route, api): (&Route, &Api), raw_path: &str, path: &str, query: Option<&str>) -> Option<Vec<u8>> {
    let stripped = if api.strip_base_path {
        path.strip_prefix(api.base_path.trim_end_matches('/'))
    } else {
        None
    };
    let path = match (edits::action(route), stripped) {
        (Action::Rewrite(target), _) => Cow::Owned(target.fill(path)),
        (_, Some("")) => Cow::Borrowed("/"),
        (_, Some(rest)) => Cow::Borrowed(rest),
        (_, None) => Cow::Borrowed(path),
    };
    let query = match (query, api.stripped_parameter.as_deref()) {
        (Some(query), Some(name)) => Some(credential::strip_query_parameter(query, name)),
        (query, _) => query.map(Cow::Borrowed),
    };
    let unchanged = path == raw_path && !matches!(query, Some(Cow::Owned(_)));
    if unchanged {
        return None;
    }
    let query = query.filter(|query| !query.is_empty());
    let mut target = Vec::with_capacity(path.len() + 1 + query.as_ref().map_or(0, |query| query.len()));
    target.extend_from_slice(path.as_bytes());
    if let Some(query) = query {
        target.push(b'?');
        target.extend_from_slice(query.as_bytes());
    }
    Some(target)
}

fn denied(denial: Denial, api: &Api) -> Refusal {
    let challenges = &api.challenges;
    match denial {
        Denial::CredentialMissing => Refusal::CredentialMissing(challenges.missing.clone()),
        Denial::CredentialAmbiguous => {
            Refusal::CredentialInvalid(challenges.ambiguous.clone(), Denial::CredentialAmbiguous.reason())
        }
        Denial::CredentialInvalid(why) => Refusal::CredentialInvalid(challenges.invalid.clone(), why.reason()),
        Denial::CredentialExpired => Refusal::CredentialExpired(challenges.invalid.clone()),
        Denial::KeyTypeMismatch => Refusal::KeyTypeMismatch,
        Denial::SubscriptionMissing => Refusal::SubscriptionMissing,
        Denial::ScopeInsufficient { required } => Refusal::ScopeInsufficient(scope_challenge(&required)),
        Denial::KeysUnavailable | Denial::NotAsked => Refusal::KeyServiceUnavailable(denial.reason()),
    }
}

fn missed(miss: Miss<'_>) -> Refusal {
    match miss {
        Miss::NotFound => Refusal::RouteNotFound,
        Miss::MethodNotAllowed { allow } => Refusal::MethodNotAllowed(allow.clone()),
    }
}

fn limited(exceeded: &Exceeded, demands: &[crate::throttle::Demand<'_>], policy: Option<&HeaderValue>) -> Refusal {
    let Some(demand) = demands.get(exceeded.tightest.rule) else {
        return Refusal::Internal;
    };
    Refusal::RateLimited(Box::new(RateLimited {
        limit: Arc::from(demand.rule.name().as_str()),
        rate_limit: demand
            .rule
            .limit_field(exceeded.tightest.remaining, exceeded.tightest.reset),
        policy: policy.cloned().unwrap_or_else(|| HeaderValue::from_static("")),
        retry_after: headers::retry_after_field(exceeded.retry_after),
        unasked: exceeded.unasked,
    }))
}

fn scope_challenge(required: &[String]) -> HeaderValue {
    let text = [
        "Bearer error=\"insufficient_scope\", scope=\"",
        &required.join(" "),
        "\"",
    ]
    .concat();
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"insufficient_scope\""))
}

/// What a failure is called; `None` when the client has gone and nobody is left to be told.
fn failure(error: &Error, fault: Option<BodyFault>) -> Option<Refusal> {
    match (fault, error.esource(), error.etype()) {
        (Some(BodyFault::TooLarge), ..) => Some(Refusal::BodyTooLarge),
        (Some(fault), ..) => Some(Refusal::BadRequest(fault.as_str())),
        (None, ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Refusal::RequestTimeout),
        (None, ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => {
            Some(Refusal::BadRequest("a header field of the request is malformed"))
        }
        (None, ErrorSource::Downstream, _) => None,
        (None, ErrorSource::Upstream, kind) => Some(match kind {
            ErrorType::ConnectTimedout
            | ErrorType::TLSHandshakeTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout => Refusal::UpstreamTimeout,
            ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert => {
                Refusal::UpstreamFailed(tries::handshake_fault(error))
            }
            ErrorType::ConnectNoRoute => Refusal::UpstreamUnavailable,
            kind if *kind == tries::NO_ROOM => Refusal::Overloaded("upstream_connections"),
            ErrorType::ConnectRefused => Refusal::UpstreamFailed("connection_refused"),
            ErrorType::ConnectError => Refusal::UpstreamFailed("connection_failed"),
            ErrorType::InvalidHTTPHeader => Refusal::UpstreamFailed("invalid_answer"),
            ErrorType::ConnectionClosed => Refusal::UpstreamFailed("connection_closed"),
            ErrorType::ReadError | ErrorType::WriteError => Refusal::UpstreamFailed("connection_reset"),
            _ => Refusal::UpstreamFailed("protocol"),
        }),
        (None, ErrorSource::Internal | ErrorSource::Unset, _) => Some(Refusal::Internal),
    }
}
