//! What an API or a route says about keeping its answers, running.

use std::time::Duration;

use crate::revision::{self, CacheShare, Caching, RouteCaching, RouteRule};
use crate::units::Ratio;

/// What may be kept of a route's answers. A route without one keeps nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Whether GET is answered from the cache, and HEAD.
    pub methods: Methods,
    /// How long an answer is fresh that says nothing about it, and whose status allows it to be kept all the same.
    pub ttl: Duration,
    /// The same for answers that say that there is nothing: 404, 405, 410, 414 and 501.
    pub negative_ttl: Duration,
    /// The longest time that an answer is fresh from its arrival on, whatever it says.
    pub ttl_max: Duration,
    /// Share of a lifetime, from 0 to 1, by which it is made shorter or longer at random, so that what came together does
    /// not end together. What the origin has said is never made longer.
    pub jitter: f64,
    /// How long a stale answer may be given while it is fetched anew, when the origin does not say (RFC 5861 section 3).
    pub stale_while_revalidate: Duration,
    /// How long a stale answer may be given when the origin fails, when the origin does not say (RFC 5861 section 4).
    pub stale_if_error: Duration,
    /// Share of a lifetime, from 0 to 1, before whose end an answer that is asked for often is fetched anew; 0: never.
    pub refresh_ahead: f64,
    /// Largest body that is kept, in bytes.
    pub body_bytes: u64,
    /// Who may be given an answer that was made for somebody.
    pub share: Share,
    /// Whether answers to requests with `Authorization` may be kept although they do not say so. Only for credentials that
    /// this gateway has checked, and only with [`Share::Caller`] (RFC 9111 section 3.5 leaves no other way).
    pub authorized: bool,
    /// Whether an answer with `Set-Cookie` may be kept when it says itself how long it is fresh; never otherwise.
    pub set_cookie: bool,
    /// Whether clients may say with `Cache-Control` and `Pragma` what they want of the cache.
    pub client_directives: bool,
    /// Whether answers say with `Cache-Status` (RFC 9211) what the cache did.
    pub tell: bool,
    /// Name of the API, and the route's pattern: what a key begins with, so that two routes never share an answer.
    pub place: Place,
}

impl Policy {
    /// What a route's answers are kept by: what the route says, or what its API says. `None` when nothing is kept of them:
    /// nobody says it, the route switches it off, answers by itself, or answers none of the methods.
    #[must_use]
    pub fn compile(api: &revision::Api, rule: &RouteRule) -> Option<Self> {
        let caching = match &rule.cache {
            RouteCaching::Off => return None,
            RouteCaching::Own(caching) => caching,
            RouteCaching::AsApi => api.cache.as_ref()?,
        };
        let action = rule.edits.as_ref().map(|edits| &edits.action);
        if !action.is_none_or(|action| matches!(action, revision::Action::Forward { .. })) {
            return None;
        }
        let methods = Methods::of(caching, rule);
        (methods.get || methods.head).then(|| Self {
            methods,
            ttl: caching.ttl,
            negative_ttl: caching.negative_ttl,
            ttl_max: caching.max_ttl,
            jitter: share_of_one(caching.jitter),
            stale_while_revalidate: caching.stale_while_revalidate,
            stale_if_error: caching.stale_if_error,
            refresh_ahead: share_of_one(caching.refresh_ahead),
            body_bytes: caching.body_bytes,
            share: caching.share.into(),
            authorized: caching.authorized,
            set_cookie: caching.set_cookie,
            client_directives: caching.client_directives,
            tell: caching.cache_status,
            place: Place {
                api: api.name.as_str().into(),
                route: rule.path.as_str().into(),
            },
        })
    }
}

impl Methods {
    /// Those of a policy that a route answers. A route for GET answers HEAD too.
    fn of(caching: &Caching, rule: &RouteRule) -> Self {
        let answers = |method: &str| rule.methods.is_empty() || rule.methods.contains(method);
        Self {
            get: caching.get && answers("GET"),
            head: caching.head && (answers("HEAD") || answers("GET")),
        }
    }
}

impl From<CacheShare> for Share {
    fn from(share: CacheShare) -> Self {
        match share {
            CacheShare::Caller => Self::Caller,
            CacheShare::Application => Self::Application,
            CacheShare::Everyone => Self::Everyone,
        }
    }
}

fn share_of_one(share: Ratio) -> f64 {
    f64::from(share.parts_per_million()) / f64::from(Ratio::WHOLE.parts_per_million())
}

/// Which methods are answered from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    /// GET.
    pub get: bool,
    /// HEAD.
    pub head: bool,
}

/// Who may be given an answer that was made for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// The same key, certificate or subject of tokens.
    Caller,
    /// Every caller of the same application; callers without one only themselves.
    Application,
    /// Everybody: the operator knows that answers do not differ by caller.
    Everyone,
}

/// The route that a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the API.
    pub api: Box<str>,
    /// Pattern of the route.
    pub route: Box<str>,
}
