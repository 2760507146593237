//! What clients and operators are told about the cache: `Cache-Status` (RFC 9211) and counters.

use std::time::{Duration, SystemTime};

use http::header::HeaderName;
use pingora::cache::CachePhase;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::{Bypass, Caching, Visit};
use crate::cache::status_field::{CacheStatus, Forward};
use crate::gateway::journey::Journey;
use crate::telemetry::cache_metrics::{Outcome, Tier};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

impl Caching {
    /// Adds to an answer what the cache did.
    pub fn tell(&self, session: &Session, journey: &Journey, answer: &mut ResponseHeader) {
        let status = match (&journey.visit, journey.bypass) {
            (Some(visit), _) if visit.policy.tell => visited(session, visit, answer),
            (None, Some(bypass)) if journey.tells_cache() => passed(bypass),
            _ => return,
        };
        // Caches between the origin and here have said theirs before (RFC 9211 section 2).
        let _ = answer.append_header(CACHE_STATUS, status.value());
    }

    /// Counts what came of a request that may have been answered from the cache.
    pub fn count(&self, session: &Session, journey: &mut Journey) {
        let Some(visit) = &mut journey.visit else {
            journey.outcome.cache = journey.bypass.map_or("", |_| "bypass");
            return;
        };
        if let Some(refresh) = &mut visit.refresh {
            let done = matches!(
                session.cache.phase(),
                CachePhase::Revalidated | CachePhase::Expired | CachePhase::Miss
            );
            self.metrics.refreshed(refresh.why.as_str(), done);
            if done {
                refresh.done();
            }
            return;
        }
        let tier = match (&visit.course.found, visit.course.is_shared) {
            (None, _) => Tier::None,
            (Some(_), true) => Tier::Redis,
            (Some(_), false) => Tier::Memory,
        };
        let outcome = match session.cache.phase() {
            CachePhase::Hit if visit.course.is_stale => Outcome::Stale,
            CachePhase::Hit if visit.course.is_collapsed => Outcome::Collapsed,
            CachePhase::Hit => Outcome::Hit,
            CachePhase::Stale | CachePhase::StaleUpdating => Outcome::Stale,
            CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_) => Outcome::Revalidated,
            CachePhase::Expired => Outcome::Expired,
            CachePhase::Disabled(_) | CachePhase::Bypass if visit.course.why_not.is_some() => Outcome::NotKept,
            _ => Outcome::Miss,
        };
        self.metrics.asked(tier, outcome);
        journey.outcome.cache = outcome.as_str();
        if let Some(why) = visit.course.why_not {
            self.metrics.not_kept(why);
        }
    }
}

/// What is said of a request that may have been answered from the cache.
fn visited(session: &Session, visit: &Visit, answer: &ResponseHeader) -> CacheStatus {
    let now = SystemTime::now();
    let course = &visit.course;
    let hit = || {
        let left = course.found.as_ref().map_or(0, |entry| entry.lifetime.remaining(now));
        CacheStatus::hit(left)
    };
    let why = match (&course.found, course.is_demanded) {
        (Some(_), true) => Forward::Request,
        (Some(_), false) => Forward::Stale,
        (None, _) if *visit.key.bytes() != visit.base => Forward::VaryMiss,
        (None, _) => Forward::UriMiss,
    };
    let forwarded = |status: u16| CacheStatus {
        forward_status: Some(status),
        detail: course.why_not,
        ..CacheStatus::forwarded(why)
    };
    let stored = |status: CacheStatus| CacheStatus {
        is_stored: true,
        ttl: session
            .cache
            .maybe_cache_meta()
            .map(|meta| remaining(meta.fresh_until(), now)),
        ..status
    };
    match session.cache.phase() {
        CachePhase::Hit => CacheStatus {
            is_collapsed: course.is_collapsed,
            ..hit()
        },
        CachePhase::Stale | CachePhase::StaleUpdating => CacheStatus {
            forward_status: course.failed_with.map(|status| status.as_u16()),
            detail: Some("stale_if_error"),
            ..hit()
        },
        CachePhase::Revalidated => stored(forwarded(304)),
        CachePhase::RevalidatedNoCache(_) => forwarded(304),
        CachePhase::Miss | CachePhase::Expired => stored(forwarded(answer.status.as_u16())),
        _ => forwarded(answer.status.as_u16()),
    }
}

/// What is said of a request that has nothing to do with the cache although its route has.
fn passed(bypass: Bypass) -> CacheStatus {
    let why = match bypass {
        Bypass::Method => Forward::Method,
        Bypass::NoStore | Bypass::Precondition => Forward::Request,
        Bypass::Partial => Forward::UriMiss,
        Bypass::Content
        | Bypass::Upgrade
        | Bypass::Grpc
        | Bypass::Connection
        | Bypass::Credential
        | Bypass::UnknownCaller => Forward::Bypass,
    };
    CacheStatus {
        detail: Some(bypass.as_str()),
        ..CacheStatus::forwarded(why)
    }
}

fn remaining(until: SystemTime, now: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match until.duration_since(now) {
        Ok(left) => seconds(left),
        Err(over) => -seconds(over.duration()),
    }
}
