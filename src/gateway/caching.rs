//! Stage 4 of the journey: kept answers.
//!
//! Before the engine looks for a kept answer, [`Caching::enter`] decides whether this request may be answered from one at
//! all, and under what key; the rest are the engine's questions on its way, answered by [`crate::cache`]. Who calls and
//! how much he may call was decided before.
//!
//! A stale answer that may be given while it is fetched anew, and a fresh one that is asked for often and about to end,
//! are given as they are; the fetch is a request of its own in the background ([`refresh`]). The engine's own way to do
//! that makes the request anew from the client's bytes, with nobody to say who was let in and why.

pub mod refresh;
mod tell;
mod unsafe_methods;
mod visit;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, RANGE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, StatusCode};
use pingora::cache::key::CacheKey;
use pingora::cache::{CacheMeta, CacheOptionOverrides, ForcedFreshness, HitHandler, NoCacheReason, RespCacheable};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

pub use self::refresh::{Refresh, Refreshing, Why};
pub use self::unsafe_methods::Change;
use self::visit::Course;
pub use self::visit::{Bypass, Visit};

use super::journey::Journey;
use super::tries;
use crate::auth::{Caller, Identity, credential};
use crate::cache::directives::{Acceptance, RequestDirectives};
use crate::cache::entry::Entry;
use crate::cache::key::{self, CallerPart, Key, KeyParts};
use crate::cache::marks::{Invalidation, MarkId};
use crate::cache::memory::{Cache, Found};
use crate::cache::policy::{Policy, Share};
use crate::cache::shared::{self, Shared, Turn};
use crate::cache::spread::Spreading;
use crate::cache::storability::{Asked, WhyNot, storability};
use crate::cache::storage::{Filling, Hit};
use crate::cache::vary::{self, Vary};
use crate::cache::{conditional, update};
use crate::clock::unix_ms;
use crate::revision::KeyType;
use crate::snapshot::{Api, Route};
use crate::telemetry::CacheMetrics;

/// How long a request waits for another one's fetch of the same answer before it fetches by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks again after such a wait.
const LOOKS_MAX: usize = 3;

/// Why an answer is not kept that was selected by what this gateway says of a request.
pub const SELECTED_BY_GATEWAY: &str = "vary_by_gateway";

/// Why an answer is not kept that has more tags than can be remembered.
pub const TOO_MANY_TAGS: &str = "too_many_tags";

/// So many tags may one answer have.
const TAGS_MAX: usize = 64;

/// Where they stand: separated by commas in the one, by spaces in the other.
static TAG_FIELDS: [HeaderName; 2] = [
    HeaderName::from_static("cache-tag"),
    HeaderName::from_static("surrogate-key"),
];

/// So many times an answer was given before it is worth to be fetched anew ahead of its end.
const HOT: u32 = 10;

/// The cache of this process, as requests use it.
pub struct Caching {
    cache: &'static Cache,
    shared: Option<Shared>,
    spreading: Spreading,
    refreshing: Arc<Refreshing>,
    metrics: CacheMetrics,
}

impl Caching {
    /// With this memory, and with what gateways share if there is such a tier.
    #[must_use]
    pub fn new(cache: &'static Cache, shared: Option<Shared>, spreading: Spreading, metrics: CacheMetrics) -> Self {
        Self {
            cache,
            shared,
            spreading,
            refreshing: Arc::default(),
            metrics,
        }
    }

    /// Stage 4: whether this request may be answered from what is kept, and under what key. What gateways share is asked
    /// here, so that the engine finds it in memory.
    pub async fn enter(
        &self,
        request: &RequestHeader,
        (path, query): (&str, Option<&str>),
        (route, api): (&Route, &Api),
        journey: &mut Journey,
    ) {
        let query = own_query(query, api.credential_parameter.as_deref());
        let target = Target {
            path,
            query: query.as_deref(),
        };
        if !request.method.is_safe() {
            journey.change = Some(Box::new(Change::of(request, target.text(), api)));
        }
        let Some(policy) = &route.cache else {
            return;
        };
        let mut visit = match self.visit(request, target, journey, policy) {
            Ok(visit) => visit,
            Err(bypass) => return self.pass(journey, bypass),
        };
        self.look(request, &mut visit);
        if let Some(shared) = &self.shared
            && !visit.is_fresh(SystemTime::now())
        {
            self.look_further(shared, &request.headers, &mut visit).await;
        }
        if visit.course.found.is_none() && !visit.directives.only_if_cached {
            // The engine would fetch all of it, which is more than was asked for.
            if request.method == Method::HEAD || request.headers.contains_key(RANGE) {
                return self.pass(journey, Bypass::Partial);
            }
            if visit.directives.no_store {
                return self.pass(journey, Bypass::NoStore);
            }
        }
        journey.visit = Some(Box::new(visit));
    }

    /// Has the engine look, if this request may be answered from what is kept.
    pub fn enable(&self, session: &mut Session, journey: &Journey) {
        let Some(visit) = &journey.visit else {
            return;
        };
        let mut overrides = CacheOptionOverrides::default();
        overrides.wait_timeout = Some(PATIENCE);
        overrides.max_lock_retries = Some(LOOKS_MAX);
        session.cache.enable(
            self.cache,
            None,
            Some(self.cache.predictor()),
            Some(self.cache.lock()),
            Some(overrides),
        );
        session
            .cache
            .set_max_file_size_bytes(usize::try_from(visit.policy.body_bytes).unwrap_or(usize::MAX));
    }

    /// What the engine looks for.
    #[must_use]
    pub fn key(journey: &Journey) -> Option<CacheKey> {
        journey.visit.as_ref().map(|visit| visit.key.for_engine())
    }

    /// Something was found: whether it is given as it is, or is validated first.
    pub fn found(&self, session: &Session, journey: &mut Journey, hit: &HitHandler) -> Option<ForcedFreshness> {
        let entry = hit.as_any().downcast_ref::<Hit>()?.entry();
        let visit = journey.visit.as_mut()?;
        let entry = Arc::clone(visit.course.found.insert(Arc::clone(entry)));
        let now = SystemTime::now();
        let is_fresh = entry.lifetime.fresh_until > now;
        visit.course.is_collapsed |= session.cache.lock_duration().is_some();
        if visit.refresh.is_some() {
            // Somebody else may have done it meanwhile.
            return (entry.asked_ms <= visit.asked_ms).then_some(ForcedFreshness::ForceExpired);
        }
        match visit.directives.accepts(&entry.lifetime, now) {
            Acceptance::AsIs => {
                if refresh_is_due(&entry, &visit.policy, now) {
                    self.refresh(session, journey, Why::Ahead);
                }
                Some(ForcedFreshness::ForceFresh)
            }
            Acceptance::Stale => {
                visit.course.is_stale = true;
                Some(ForcedFreshness::ForceFresh)
            }
            // It was fetched for requests that were waiting, this one among them (RFC 9111 section 4): one validation
            // is enough for all that were there before it.
            Acceptance::Validate if is_fresh && entry.asked_ms > visit.asked_ms => Some(ForcedFreshness::ForceFresh),
            Acceptance::Validate if is_fresh => {
                visit.course.is_demanded = true;
                Some(ForcedFreshness::ForceExpired)
            }
            Acceptance::Validate => {
                if is_demanded(&visit.directives, &entry, now) {
                    visit.course.is_demanded = true;
                    return Some(ForcedFreshness::ForceExpired);
                }
                let window = Duration::from_secs(u64::from(entry.lifetime.stale_while_revalidate));
                if now < entry.lifetime.fresh_until + window {
                    visit.course.is_stale = true;
                    self.refresh(session, journey, Why::Stale);
                    return Some(ForcedFreshness::ForceFresh);
                }
                None
            }
        }
    }

    /// Nothing was found. Whoever asked for a part does not fetch the whole.
    pub fn missed(session: &mut Session, journey: &mut Journey) {
        if let Some(visit) = &mut journey.visit {
            visit.course.found = None;
        }
        let request = session.req_header();
        if request.method == Method::HEAD || request.headers.contains_key(RANGE) {
            session.cache.disable(NoCacheReason::Custom(Bypass::Partial.as_str()));
            return;
        }
        session.cache.cache_miss();
    }

    /// Whether the client wants nothing that would have to be fetched (RFC 9111 section 5.2.1.7).
    #[must_use]
    pub fn is_declined(journey: &Journey) -> bool {
        journey
            .visit
            .as_ref()
            .is_some_and(|visit| visit.directives.only_if_cached)
    }

    /// Whether a stale answer is given because the origin has failed (RFC 5861 section 4). The engine has seen that its
    /// time for that is not over. While it is only being fetched anew, [`Self::found`] has decided.
    #[must_use]
    pub fn endures(journey: &mut Journey, error: Option<&Error>) -> bool {
        let Some(error) = error.filter(|error| error.esource == ErrorSource::Upstream) else {
            return false;
        };
        let failed_with = match error.etype {
            ErrorType::HTTPStatus(status @ (500 | 502 | 503 | 504)) => StatusCode::from_u16(status).ok(),
            ErrorType::HTTPStatus(_) => return false,
            _ => None,
        };
        if let Some(status) = failed_with {
            tries::noted(journey, status.as_u16());
        }
        let Some(visit) = &mut journey.visit else {
            return false;
        };
        visit.course.is_stale = true;
        visit.course.failed_with = failed_with;
        true
    }

    /// An answer begins to arrive. Remembers what says that a kept one is still good, and makes invalid what an unsafe
    /// method has changed.
    pub fn answered(&self, answer: &ResponseHeader, journey: &mut Journey) {
        if let Some(visit) = &mut journey.visit {
            let says_so = answer.status == StatusCode::NOT_MODIFIED;
            visit.not_modified = says_so.then(|| Box::new(answer.clone()));
        }
        if let Some(change) = journey.change.take() {
            for mark in change.made_by(answer) {
                self.spreading
                    .invalidate(self.cache, &Invalidation::Mark(mark), unix_ms());
                self.metrics.invalidated("url", "unsafe_method");
            }
        }
    }

    /// Whether an answer is kept, and for how long.
    pub fn judge(&self, session: &Session, answer: &ResponseHeader, journey: &mut Journey) -> RespCacheable {
        let elapsed = journey
            .upstream_started
            .map_or(Duration::ZERO, |started| started.elapsed());
        let Some(visit) = &mut journey.visit else {
            return RespCacheable::Uncacheable(NoCacheReason::NeverEnabled);
        };
        let now = SystemTime::now();
        let asked = Asked {
            // The engine fetches all of what a HEAD wants validated.
            method: &Method::GET,
            headers: &session.req_header().headers,
            at: now.checked_sub(elapsed).unwrap_or(now),
            is_authorized: session.req_header().headers.contains_key(AUTHORIZATION),
        };
        let kept = session.cache.maybe_cache_meta().map(CacheMeta::response_header);
        let not_modified = visit.not_modified.take();
        let confirmed = not_modified.as_ref().and(visit.course.found.clone());
        let (header, lifetime) = match (not_modified, kept) {
            // The engine's own merge leaves out fields that it does not know.
            (Some(not_modified), Some(kept)) => {
                update::refreshed(&asked, kept, &not_modified, now, &visit.policy, rand::random())
            }
            _ => {
                let lifetime = storability(&asked, answer, now, &visit.policy, rand::random());
                (update::storable(answer), lifetime)
            }
        };
        let verdict = lifetime.map_err(WhyNot::as_str).and_then(|lifetime| {
            let fields = selecting(&header, &visit.policy)?;
            let tags = tags(&header.headers).ok_or(TOO_MANY_TAGS)?;
            Ok((lifetime, fields, tags))
        });
        let (lifetime, fields, tags) = match verdict {
            Ok(verdict) => verdict,
            Err(why) => {
                visit.course.why_not = Some(why);
                return RespCacheable::Uncacheable(NoCacheReason::Custom(why));
            }
        };
        let key = match &fields {
            Some(fields) => variant_key(&visit.base, fields, asked.headers),
            None => visit.base.clone(),
        };
        let mut marks = visit.marks(journey.snapshot.as_deref(), journey.caller.as_ref());
        marks.extend(tags);
        let mut meta = CacheMeta::new(
            lifetime.fresh_until,
            lifetime.born,
            lifetime.stale_while_revalidate,
            lifetime.stale_if_error,
            header,
        );
        meta.extensions_mut().insert(Filling {
            base: visit.base.clone(),
            key,
            vary: fields,
            marks,
            sequence: visit.sequence,
            asked_ms: visit.asked_ms,
            lifetime,
            body_bytes: visit.policy.body_bytes,
            confirmed,
        });
        RespCacheable::Cacheable(meta)
    }

    fn visit(
        &self,
        request: &RequestHeader,
        target: Target<'_>,
        journey: &Journey,
        policy: &Arc<Policy>,
    ) -> Result<Visit, Bypass> {
        let headers = &request.headers;
        if let Some(bypass) = bypass(request, journey.is_grpc, policy) {
            return Err(bypass);
        }
        let snapshot = journey.snapshot.as_ref().ok_or(Bypass::UnknownCaller)?;
        let caller = journey.caller.as_ref().ok_or(Bypass::UnknownCaller)?;
        let application = snapshot.application_of(caller).map(|(name, _)| name.as_str());
        let issuer = caller.subject_hash().map(|hash| hash.to_string());
        let base = Bytes::from(key::base(&KeyParts {
            scheme: &scheme(headers, journey.scheme, journey.origin.trusted),
            host: text(headers.get(HOST)),
            path: target.path,
            query: target.query,
            place: &policy.place,
            upstream: journey.upstream().map_or("", |upstream| upstream.name().as_str()),
            key_type: caller.key_type().map(KeyType::as_str),
            caller: caller_part(policy.share, caller, application, issuer.as_deref())?,
        }));
        Ok(Visit {
            directives: match policy.client_directives {
                true => RequestDirectives::of(headers),
                false => RequestDirectives::default(),
            },
            policy: Arc::clone(policy),
            key: Key::of(base.clone()),
            base,
            sequence: self.cache.marks().sequence(),
            asked_ms: journey.now_ms,
            course: Course::default(),
            turn: None,
            not_modified: None,
            refresh: None,
        })
    }

    /// Looks into memory.
    fn look(&self, request: &RequestHeader, visit: &mut Visit) {
        visit.course.found = match self.cache.find_by(visit.key.fingerprint(), &visit.base) {
            Found::Nothing => None,
            Found::Entry(entry) => Some(entry),
            Found::Varies(fields) => {
                visit.key = Key::of(variant_key(&visit.base, &fields, &request.headers));
                self.cache.find_variant_by(visit.key.fingerprint(), visit.key.bytes())
            }
        };
    }

    /// Looks into what gateways share, and puts what is found there into memory. Where there is nothing, and gateways
    /// fetch one at a time, waits for whose turn it is.
    async fn look_further(&self, shared: &Shared, request: &HeaderMap, visit: &mut Visit) {
        let base = visit.base.clone();
        let select = |fields: &[HeaderName]| variant_key(&base, fields, request).into();
        if let Some(hit) = shared.get(&base, select).await {
            self.take(hit, visit);
        }
        let is_wanted = visit.course.found.is_none() && !visit.directives.only_if_cached && !visit.directives.no_store;
        if !is_wanted || !shared.has_leases() {
            return;
        }
        let (key, request) = (visit.key.bytes().clone(), request.clone());
        let select = {
            let base = base.clone();
            move |fields: &[HeaderName]| variant_key(&base, fields, &request).into()
        };
        let turn = shared.turn(&key, &base, select).await;
        if let Turn::Filled(hit) = &*turn {
            self.take(hit.clone(), visit);
        }
        visit.turn = Some(turn);
    }

    /// Takes what another gateway has kept, if that is newer.
    fn take(&self, hit: shared::Hit, visit: &mut Visit) {
        let kept = visit.course.found.as_ref();
        if kept.is_some_and(|kept| kept.lifetime.fresh_until >= hit.entry.lifetime.fresh_until) {
            return;
        }
        visit.key = Key::of(hit.entry.key.clone());
        self.cache.put(&visit.base, hit.vary, Arc::clone(&hit.entry));
        visit.course.found = Some(hit.entry);
        visit.course.is_shared = true;
    }

    fn refresh(&self, session: &Session, journey: &Journey, why: Why) {
        let Some(visit) = &journey.visit else {
            return;
        };
        if let Some(refresh) = self.refreshing.begin(visit.key.fingerprint(), why) {
            refresh::start(session, journey, refresh);
        }
    }

    fn pass(&self, journey: &mut Journey, bypass: Bypass) {
        self.metrics.bypassed(bypass.as_str());
        journey.bypass = Some(bypass);
    }
}

/// What a request is for, as keys have it.
#[derive(Clone, Copy)]
struct Target<'a> {
    path: &'a str,
    query: Option<&'a str>,
}

impl Target<'_> {
    fn text(self) -> String {
        match self.query {
            Some(query) => [self.path, "?", query].concat(),
            None => self.path.to_owned(),
        }
    }
}

/// The query without the credential, which says who asks and not what for.
fn own_query<'a>(query: Option<&'a str>, parameter: Option<&str>) -> Option<Cow<'a, str>> {
    match (query, parameter) {
        (Some(query), Some(parameter)) => {
            let left = credential::strip_query_parameter(query, parameter);
            (!left.is_empty()).then_some(left)
        }
        (query, _) => query.map(Cow::Borrowed),
    }
}

/// By what an origin wants to be able to make an answer invalid; `None` when that is more than can be remembered.
fn tags(headers: &HeaderMap) -> Option<SmallVec<[MarkId; 4]>> {
    let mut marks = SmallVec::new();
    for name in &TAG_FIELDS {
        for line in headers.get_all(name) {
            let tags = line.to_str().unwrap_or_default().split([',', ' ']);
            marks.extend(tags.filter(|tag| !tag.is_empty()).take(TAGS_MAX + 1).map(MarkId::tag));
            if marks.len() > TAGS_MAX {
                return None;
            }
        }
    }
    Some(marks)
}

/// Why a request has nothing to do with the cache although its route has.
#[must_use]
pub fn bypass(request: &RequestHeader, is_grpc: bool, policy: &Policy) -> Option<Bypass> {
    let headers = &request.headers;
    let answers = match request.method {
        Method::GET => policy.methods.get,
        Method::HEAD => policy.methods.head,
        _ => false,
    };
    let has_content =
        headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if !answers {
        Some(Bypass::Method)
    } else if is_grpc {
        Some(Bypass::Grpc)
    } else if headers.contains_key(UPGRADE) {
        Some(Bypass::Upgrade)
    } else if has_content {
        Some(Bypass::Content)
    } else if conditional::needs_origin(headers) {
        Some(Bypass::Precondition)
    } else {
        None
    }
}

/// The variant of an answer that a request selects. What fields say may be a secret (`Vary: Authorization`), and keys
/// are written down where several gateways share them: it is hashed.
fn variant_key(base: &Bytes, fields: &[HeaderName], request: &HeaderMap) -> Bytes {
    let mut selecting = Vec::new();
    vary::variant(fields, request, &mut selecting);
    let mut key = Vec::with_capacity(base.len() + 32);
    key.extend_from_slice(base);
    key.extend_from_slice(&Sha256::digest(&selecting));
    key.into()
}

/// The fields by which an answer was selected among others.
///
/// # Errors
/// When it was selected by what this gateway says of a request and is not in its key.
fn selecting(answer: &ResponseHeader, policy: &Policy) -> Result<Option<Arc<[HeaderName]>>, &'static str> {
    let fields = match Vary::of(&answer.headers) {
        Vary::Nothing => return Ok(None),
        Vary::Everything => return Err(WhyNot::Vary.as_str()),
        Vary::Fields(fields) => fields,
    };
    let is_hidden = |field: &HeaderName| match field.as_str() {
        "x-application" => policy.share == Share::Everyone,
        "forwarded" | "traceparent" | "tracestate" | "x-forwarded-for" | "x-real-ip" | "x-request-id" => true,
        _ => false,
    };
    if fields.iter().any(is_hidden) {
        return Err(SELECTED_BY_GATEWAY);
    }
    Ok(Some(fields.iter().cloned().collect()))
}

/// Whose answer it is.
fn caller_part<'a>(
    share: Share,
    caller: &'a Caller,
    application: Option<&'a str>,
    issuer: Option<&'a str>,
) -> Result<CallerPart<'a>, Bypass> {
    match (share, application) {
        (Share::Everyone, _) => return Ok(CallerPart::Everyone),
        (Share::Application, Some(application)) => return Ok(CallerPart::Application(application)),
        (Share::Application, None) | (Share::Caller, _) => {}
    }
    match caller.identity() {
        Identity::Anonymous => Ok(CallerPart::Anonymous),
        Identity::Key(_) => caller.key_id().map(CallerPart::Key).ok_or(Bypass::UnknownCaller),
        Identity::Certificate(_) => caller
            .key_id()
            .map(CallerPart::Certificate)
            .ok_or(Bypass::UnknownCaller),
        Identity::Token(_) => match (issuer, caller.subject()) {
            (Some(issuer), Some(subject)) => Ok(CallerPart::Token { issuer, subject }),
            _ => Err(Bypass::UnknownCaller),
        },
    }
}

/// How the client came here, as the upstream is told: answers may contain links.
fn scheme(headers: &HeaderMap, own: &'static str, trusted: bool) -> Cow<'static, str> {
    if !trusted {
        return Cow::Borrowed(own);
    }
    let told = |name: &str| text(headers.get(name));
    let told = [
        own,
        told("x-forwarded-proto"),
        told("x-forwarded-host"),
        told("x-forwarded-port"),
        told("x-forwarded-prefix"),
    ];
    Cow::Owned(told.join(","))
}

/// Whether it is the client who wants a stale answer validated, so that it is not given while it is fetched anew.
fn is_demanded(directives: &RequestDirectives, entry: &Entry, now: SystemTime) -> bool {
    let is_too_old = |most: u64| entry.lifetime.age(now).as_secs() >= most;
    directives.no_cache || directives.min_fresh.is_some() || directives.max_age.is_some_and(is_too_old)
}

/// Whether a fresh answer is fetched anew because it is asked for often and will not be fresh for long.
fn refresh_is_due(entry: &Entry, policy: &Policy, now: SystemTime) -> bool {
    if policy.refresh_ahead <= 0.0 || entry.hits() < HOT {
        return false;
    }
    let lifetime = &entry.lifetime;
    let whole = lifetime.fresh_until.duration_since(lifetime.born).unwrap_or_default();
    let left = lifetime.fresh_until.duration_since(now).unwrap_or_default();
    left < whole.mul_f64(policy.refresh_ahead)
}

fn text(value: Option<&http::HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}
