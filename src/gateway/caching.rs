//! Stage 4 of the journey: kept answers.
//!
//! Before the engine looks for a kept answer, [`Caching::enter`] decides whether this request may be answered from one at
//! all, and under what key; the rest are the engine's questions on its way, answered by [`crate::cache`]. Who calls and
//! how much he may call was decided before.
//!
//! A stale answer that may be given while it is fetched anew, and a fresh one that is asked for often and about to end,
//! are given as they are; the fetch is a request of its own in the background ([`refresh`]). The engine's own way to do
//! that makes the request anew from the client's bytes, with nobody to say who was let in and why.

pub mod ask;
mod judge;
pub mod refresh;
mod tell;
mod unsafe_methods;
mod visit;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderName, RANGE};
use http::{HeaderMap, Method, StatusCode};
use pingora::cache::key::{CacheKey, HashBinary};
use pingora::cache::{CacheMeta, CacheOptionOverrides, ForcedFreshness, HitHandler, NoCacheReason};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use self::ask::{Target, own_query, variant_key};
pub use self::refresh::{Refresh, Refreshing, Why};
pub use self::unsafe_methods::Change;
pub use self::visit::{Bypass, Visit};

use super::journey::Journey;
use super::tries;
use crate::auth::{Caller, Identity};
use crate::cache::conditional;
use crate::cache::directives::{Acceptance, RequestDirectives};
use crate::cache::entry::Entry;
use crate::cache::key::{self, Key};
use crate::cache::marks::Invalidation;
use crate::cache::memory::{Cache, Found};
use crate::cache::policy::{Policy, Share};
use crate::cache::shared::{self, Shared, Turn};
use crate::cache::spread::Spreading;
use crate::cache::storage::{Filling, Hit, Varies};
use crate::clock::unix_ms;
use crate::snapshot::{Api, Route};
use crate::telemetry::CacheMetrics;

/// How long a request waits for another one's fetch of the same answer before it fetches by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks again after such a wait.
const LOOKS_MAX: usize = 3;

/// The fields of a 304 that the engine writes into what it gives.
const MERGED_BY_ENGINE: [&str; 5] = ["cache-control", "cache-tag", "cdn-cache-control", "etag", "expires"];

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
        let credential = api.credential_parameter.as_deref();
        let own_query = own_query(query, credential);
        // What goes upstream has to be in the key, and a credential has not.
        let is_forwarded = api.stripped_parameter.is_none() && own_query.as_deref() != query;
        let target = Target {
            path,
            query: own_query.as_deref(),
        };
        if !request.method.is_safe() {
            journey.change = Some(Box::new(Change::of(request, target.text(), api)));
        }
        let Some(policy) = &route.cache else {
            return;
        };
        let is_own = matches!(journey.caller.as_ref().map(Caller::identity), Some(Identity::Key(_)));
        if is_forwarded && !(is_own && policy.share == Share::Caller) {
            return self.pass(journey, Bypass::Credential);
        }
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
            if visit.is_partial {
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
        // Who wants nothing fetched waits for no fetch.
        let patience = if visit.directives.only_if_cached {
            Duration::ZERO
        } else {
            PATIENCE
        };
        overrides.wait_timeout = Some(patience);
        overrides.max_lock_retries = Some(LOOKS_MAX);
        // What is kept is looked for, whatever became of the last answer: it may be fresh, or be needed because the origin
        // fails.
        let predictor = (visit.course.found.is_none()).then(|| self.cache.predictor());
        session
            .cache
            .enable(self.cache, None, predictor, Some(self.cache.lock()), Some(overrides));
        session
            .cache
            .set_max_file_size_bytes(usize::try_from(visit.policy.body_bytes).unwrap_or(usize::MAX));
    }

    /// What the engine looks for.
    #[must_use]
    pub fn key(journey: &Journey) -> Option<CacheKey> {
        journey.visit.as_ref().map(|visit| visit.key.for_engine())
    }

    /// Which of several answers it is, by the fingerprint of its whole key. The engine asks of what it has found when it did
    /// not know that answers vary, and of what is to be kept.
    #[must_use]
    pub fn variant(meta: &CacheMeta, journey: &mut Journey, request: &RequestHeader) -> Option<HashBinary> {
        let visit = journey.visit.as_mut()?;
        if let Some(Varies(fields)) = meta.extensions().get() {
            visit.key = Key::of(variant_key(&visit.base, fields, &request.headers));
            return Some(visit.key.fingerprint().0);
        }
        let filling: &Filling = meta.extensions().get()?;
        filling.vary.is_some().then(|| key::fingerprint(&filling.key).0)
    }

    /// Something was found: whether it is given as it is, or is validated first.
    pub fn found(&self, session: &Session, journey: &mut Journey, hit: &HitHandler) -> Option<ForcedFreshness> {
        let entry = hit.as_any().downcast_ref::<Hit>()?.entry();
        let visit = journey.visit.as_mut()?;
        let entry = Arc::clone(entry);
        let is_new =
            (visit.course.found.replace(Arc::clone(&entry))).is_none_or(|before| !Arc::ptr_eq(&before, &entry));
        if *visit.key.bytes() != entry.key {
            visit.key = Key::of(entry.key.clone());
        }
        let now = SystemTime::now();
        let is_fresh = entry.lifetime.fresh_until > now;
        visit.course.is_collapsed |= session.cache.lock_duration().is_some();
        if let Some(refresh) = &visit.refresh {
            // Somebody else may have done it meanwhile.
            return Arc::ptr_eq(&refresh.of, &entry).then_some(ForcedFreshness::ForceExpired);
        }
        match visit.directives.accepts(&entry.lifetime, now) {
            Acceptance::AsIs => {
                if refresh_is_due(&entry, &visit.policy, now) {
                    self.refresh(session, journey, &entry, Why::Ahead);
                }
                Some(ForcedFreshness::ForceFresh)
            }
            Acceptance::Stale => {
                visit.course.is_stale = true;
                Some(ForcedFreshness::ForceFresh)
            }
            // It was fetched while this request waited for that: one fetch is enough for all that were there before it.
            Acceptance::Validate
                if is_fresh && visit.course.is_collapsed && is_new && entry.asked_ms > visit.asked_ms =>
            {
                Some(ForcedFreshness::ForceFresh)
            }
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
                    self.refresh(session, journey, &entry, Why::Stale);
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
    pub fn answered(&self, answer: &mut ResponseHeader, journey: &mut Journey) {
        if let Some(visit) = &mut journey.visit {
            let says_so = answer.status == StatusCode::NOT_MODIFIED;
            visit.not_modified = says_so.then(|| Box::new(answer.clone()));
            let kept = visit.course.found.as_ref();
            if says_so && kept.is_some_and(|kept| !conditional::confirms(&kept.header.headers, &answer.headers)) {
                // What it says is about something else (RFC 9111 section 4.3.4), and the engine would take it over.
                MERGED_BY_ENGINE
                    .iter()
                    .for_each(|name| drop(answer.remove_header(*name)));
            }
        }
        // An answer that is not the last one, because another endpoint is tried, changes nothing.
        if let Some(change) = &journey.change {
            for mark in change.made_by(answer) {
                let what = Invalidation::Mark(mark);
                if change.is_worth_telling() {
                    self.spreading.invalidate(self.cache, &what, unix_ms());
                } else {
                    self.cache.invalidate(&what, unix_ms());
                }
                self.metrics.invalidated("url", "unsafe_method");
            }
        }
    }

    /// Looks into memory.
    fn look(&self, request: &RequestHeader, visit: &mut Visit) {
        let found = match self.cache.find_by(visit.key.fingerprint(), &visit.base) {
            Found::Varies(fields) => {
                visit.key = Key::of(variant_key(&visit.base, &fields, &request.headers));
                self.cache.find_by(visit.key.fingerprint(), visit.key.bytes())
            }
            found => found,
        };
        if let Found::Entry(entry) = found {
            visit.course.found = Some(entry);
        }
    }

    /// Looks into what gateways share, and puts what is found there into memory. Where there is nothing, and gateways
    /// fetch one at a time, waits for whose turn it is.
    async fn look_further(&self, shared: &Shared, request: &HeaderMap, visit: &mut Visit) {
        let base = visit.base.clone();
        let select = |fields: &[HeaderName]| variant_key(&base, fields, request).into();
        if let Some(hit) = shared.get(&base, select).await {
            self.take(hit, visit);
        }
        let is_fetched = visit.course.found.is_none()
            && !visit.directives.only_if_cached
            && !visit.directives.no_store
            && !visit.is_partial;
        if !is_fetched || !shared.has_leases() || !self.is_likely_kept(&visit.key) {
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

    /// Whether nothing was learnt that speaks against it.
    fn is_likely_kept(&self, key: &Key) -> bool {
        self.cache.predictor().cacheable_prediction(&key.for_engine())
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

    fn refresh(&self, session: &Session, journey: &Journey, entry: &Arc<Entry>, why: Why) {
        if let Some(refresh) = self.refreshing.begin(entry, why, Instant::now()) {
            refresh::start(session, journey, refresh);
        }
    }

    fn pass(&self, journey: &mut Journey, bypass: Bypass) {
        self.metrics.bypassed(bypass.as_str());
        journey.bypass = Some(bypass);
    }
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
