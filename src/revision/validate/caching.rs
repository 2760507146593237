//! What is kept of answers.

use std::time::Duration;

use http::header::AUTHORIZATION;

use super::super::grammar::Method;
use super::super::raw::{RawCache, RawRoute, RawRouteCache};
use super::super::{Action, AuthMethod, CacheShare, Caching, CredentialPlaces, RouteCaching, RouteRule};
use super::Checker;
use crate::document::{At, Place, Size, Text, quote};
use crate::units::Ratio;

/// The longest lifetime that can be written.
const LONGEST_TTL: Duration = Duration::from_secs(30 * 86_400);
/// The longest time after its end that an answer can be given.
const LONGEST_STALE: Duration = Duration::from_secs(7 * 86_400);
/// The largest content that can be kept: one answer has to be a small part of what memory there is for all of them.
const LARGEST_BODY: u64 = 64 << 20;

/// What the ways in of an API mean for what is kept.
pub(super) struct Callers<'a> {
    /// `None` when they could not be read, which has been said.
    auth: Option<&'a [AuthMethod]>,
    places: &'a CredentialPlaces,
}

impl<'a> Callers<'a> {
    pub(super) fn new(auth: Option<&'a [AuthMethod]>, places: &'a CredentialPlaces) -> Self {
        Self { auth, places }
    }

    /// Whether there is nothing that tells callers apart.
    fn are_nobody(&self) -> bool {
        self.auth.is_some_and(<[AuthMethod]>::is_empty)
    }

    /// Whether a credential in `Authorization` is one that the gateway checks.
    fn show_authorization(&self) -> bool {
        self.auth.is_none_or(|auth| {
            (auth.iter().any(AuthMethod::is_token) && self.places.token_header == AUTHORIZATION)
                || (auth.contains(&AuthMethod::ApiKey) && self.places.key_header == AUTHORIZATION)
        })
    }
}

impl Checker<'_> {
    /// What an API says.
    pub(super) fn caching(&mut self, raw: Option<&At<RawCache>>, who: &str, callers: &Callers<'_>) -> Option<Caching> {
        raw.map(|raw| self.cache(&raw.value, raw.place, who, callers))
    }

    /// What a route says.
    pub(super) fn route_caching(&mut self, route: &At<RawRoute>, who: &str, callers: &Callers<'_>) -> RouteCaching {
        let RawRoute {
            cache,
            redirect,
            respond,
            methods,
            ..
        } = &route.value;
        let Some(cache) = cache else {
            return RouteCaching::AsApi;
        };
        let raw = match &cache.value {
            RawRouteCache::Off => return RouteCaching::Off,
            RawRouteCache::Own(raw) => raw,
        };
        let itself = [
            redirect.as_ref().map(|_| "redirect"),
            respond.as_ref().map(|_| "respond"),
        ];
        if let Some(itself) = itself.into_iter().flatten().next() {
            let message = format!(
                "a route of {who} has both \"cache\" and {}; what the gateway answers itself is never kept, remove \"cache\"",
                quote(itself)
            );
            self.report.error(cache.place, message);
        }
        let whose = format!("a route of {who}");
        let caching = self.cache(raw, cache.place, &whose, callers);
        let answers = |wanted: &[&str]| {
            (methods.as_ref())
                .is_none_or(|methods| methods.iter().any(|method| wanted.contains(&method.get().0.as_str())))
        };
        if !(caching.get && answers(&["GET"]) || caching.head && answers(&["GET", "HEAD"])) {
            let message = format!("\"cache\" of {whose} keeps nothing, because the route answers none of its methods");
            self.report.warning(cache.place, message);
        }
        RouteCaching::Own(Box::new(caching))
    }

    /// Says it when no route of an API keeps what the API says.
    pub(super) fn caching_of_no_route(&mut self, raw: Option<&At<RawCache>>, who: &str, routes: &[RouteRule]) {
        let Some(raw) = raw else {
            return;
        };
        let kept = |route: &RouteRule| {
            let itself = route.edits.as_ref().map(|edits| &edits.action);
            let forwards = itself.is_none_or(|action| matches!(action, Action::Forward { .. }));
            let methods = &route.methods;
            let reads = methods.is_empty() || methods.contains("GET") || methods.contains("HEAD");
            route.cache == RouteCaching::AsApi && forwards && reads
        };
        if !routes.iter().any(kept) {
            let message = format!(
                "\"cache\" of {who} counts for none of its routes: each has its own, answers by itself, or answers neither \
                 GET nor HEAD"
            );
            self.report.warning(raw.place, message);
        }
    }

    fn cache(&mut self, raw: &RawCache, place: Place, who: &str, callers: &Callers<'_>) -> Caching {
        let RawCache {
            methods,
            ttl,
            negative_ttl,
            max_ttl,
            jitter,
            stale_while_revalidate,
            stale_if_error,
            refresh_ahead,
            body_bytes,
            share,
            authorized,
            set_cookie,
            client_directives,
            cache_status,
        } = raw;
        let (get, head) = self.cached_methods(place, methods.as_ref(), who);
        let longest = self.at_most(max_ttl.as_ref(), "max_ttl", 3600, LONGEST_TTL, "30d");
        if longest.is_zero()
            && let Some(max_ttl) = max_ttl
        {
            let message = "with a \"max_ttl\" of nothing, nothing is kept; to keep nothing, remove \"cache\" or write \
                           cache: off in the route";
            self.report.error(max_ttl.place, message);
        }
        let share = self.shared_by(share.as_ref(), who, callers);
        let authorized = self.authorized(authorized.as_ref(), who, callers, share);
        Caching {
            get,
            head,
            ttl: self.below(ttl.as_ref(), "ttl", 300, longest),
            negative_ttl: self.below(negative_ttl.as_ref(), "negative_ttl", 10, longest),
            max_ttl: longest,
            jitter: self.half(jitter.as_ref(), "jitter", 10),
            stale_while_revalidate: self.at_most(
                stale_while_revalidate.as_ref(),
                "stale_while_revalidate",
                0,
                LONGEST_STALE,
                "7d",
            ),
            stale_if_error: self.at_most(stale_if_error.as_ref(), "stale_if_error", 0, LONGEST_STALE, "7d"),
            refresh_ahead: self.half(refresh_ahead.as_ref(), "refresh_ahead", 0),
            body_bytes: self.largest_kept(body_bytes.as_ref()),
            share,
            authorized,
            set_cookie: set_cookie.unwrap_or(true),
            client_directives: client_directives.unwrap_or(true),
            cache_status: cache_status.unwrap_or(true),
        }
    }

    /// Whether GET and HEAD are answered from the cache.
    fn cached_methods(&mut self, item: Place, raw: Option<&At<Vec<At<Text<Method>>>>>, who: &str) -> (bool, bool) {
        let Some(raw) = raw else {
            return (true, true);
        };
        if raw.is_empty() && !self.dropped.contains(item, "methods") {
            let message = "an empty list of methods to keep; for GET and HEAD, remove \"methods\"";
            self.report.error(raw.place, message);
        }
        for method in &raw.value {
            let name = &method.get().0;
            if name != "GET" && name != "HEAD" {
                let message = format!(
                    "\"cache\" of {who} can not keep answers to {name}: only GET and HEAD are sure to ask for the same \
                     thing and to change nothing; remove it"
                );
                self.report.error(method.place, message);
            }
        }
        let has = |name: &str| raw.iter().any(|method| method.get().0 == name);
        (has("GET"), has("HEAD"))
    }

    fn shared_by(&mut self, raw: Option<&At<CacheShare>>, who: &str, callers: &Callers<'_>) -> CacheShare {
        let nobody = callers.are_nobody();
        let Some(raw) = raw else {
            return if nobody {
                CacheShare::Everyone
            } else {
                CacheShare::Caller
            };
        };
        if nobody && raw.value != CacheShare::Everyone {
            let message = format!(
                "{who} asks nobody for a credential, so that callers can not be told apart for \"share\": {}; remove it, or \
                 give the API credentials to ask for",
                raw.value.as_str()
            );
            self.report.error(raw.place, message);
        }
        raw.value
    }

    fn authorized(&mut self, raw: Option<&At<bool>>, who: &str, callers: &Callers<'_>, share: CacheShare) -> bool {
        let Some(raw) = raw.filter(|raw| raw.value) else {
            return false;
        };
        if share != CacheShare::Caller {
            let message = format!(
                "\"authorized\" of {who} goes with share: caller only: what was made for one credential must not be given to \
                 another unless the upstream allows it (RFC 9111 section 3.5)"
            );
            self.report.error(raw.place, message);
        } else if !callers.show_authorization() {
            let message = format!(
                "\"authorized\" means nothing here: {who} reads no credential from Authorization, so that one there belongs \
                 to the upstream, which alone can say what may be kept; remove it"
            );
            self.report.error(raw.place, message);
        }
        true
    }

    fn largest_kept(&mut self, raw: Option<&At<Text<Size>>>) -> u64 {
        let Some(raw) = raw else {
            return 1 << 20;
        };
        let bytes = raw.get().0;
        if bytes == 0 || bytes > LARGEST_BODY {
            self.report.error(
                raw.place,
                "\"body_bytes\" of a cache has to be at least 1B and at most 64MiB",
            );
        }
        bytes
    }

    fn at_most(
        &mut self,
        raw: Option<&At<Text<Duration>>>,
        key: &str,
        default_seconds: u64,
        most: Duration,
        shown: &str,
    ) -> Duration {
        let Some(raw) = raw else {
            return Duration::from_secs(default_seconds);
        };
        if *raw.get() > most {
            self.report
                .error(raw.place, format!("{} is at most {shown}", quote(key)));
        }
        *raw.get()
    }

    /// A lifetime that is at most the longest one, as its default is too.
    fn below(&mut self, raw: Option<&At<Text<Duration>>>, key: &str, default_seconds: u64, most: Duration) -> Duration {
        let Some(raw) = raw else {
            return Duration::from_secs(default_seconds).min(most);
        };
        if *raw.get() > most {
            let message = format!(
                "{} is longer than \"max_ttl\", which is {} s here; make it shorter, or \"max_ttl\" longer",
                quote(key),
                most.as_secs_f64()
            );
            self.report.error(raw.place, message);
        }
        *raw.get()
    }

    fn half(&mut self, raw: Option<&At<Text<Ratio>>>, key: &str, default_percent: u8) -> Ratio {
        let Some(raw) = raw else {
            return Ratio::percent(default_percent);
        };
        if *raw.get() > Ratio::percent(50) {
            self.report.error(raw.place, format!("{} is at most 50%", quote(key)));
        }
        *raw.get()
    }
}
