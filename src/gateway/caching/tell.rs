//! What clients and operators are told about the cache: `Cache-Status` (RFC 9211) and counters.

use std::time::SystemTime;

use pingora::cache::CachePhase;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::{Bypass, Caching, Visit};
use crate::cache::status_field::{CACHE_STATUS, CacheStatus, Forward};
use crate::gateway::journey::Journey;
use crate::telemetry::cache_metrics::{Outcome, Tier};

impl Caching {
    /// Adds to an answer what the cache did.
    pub fn tell(&self, session: &Session, journey: &Journey, answer: &mut ResponseHeader) {
        let status = match (&journey.visit, journey.bypass) {
            (Some(visit), _) if visit.policy.tell => visited(session, visit, answer),
            (None, Some(bypass)) => passed(bypass, journey),
            _ => None,
        };
        if let Some(status) = status {
            // Caches between the origin and here have said theirs before (RFC 9211 section 2).
            let _ = answer.append_header(CACHE_STATUS, status.field());
        }
    }

    /// Counts what came of a request that may have been answered from the cache.
    pub fn count(&self, session: &Session, journey: &Journey) {
        let Some(visit) = &journey.visit else {
            return;
        };
        if let Some(refresh) = &visit.refresh {
            let done = matches!(
                session.cache.phase(),
                CachePhase::Revalidated | CachePhase::Expired | CachePhase::Miss
            );
            self.metrics.refreshed(refresh.why.as_str(), done);
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
        if let Some(why) = visit.course.why_not {
            self.metrics.not_kept(why);
        }
    }
}

/// What is said of a request that may have been answered from the cache.
fn visited(session: &Session, visit: &Visit, answer: &ResponseHeader) -> Option<CacheStatus> {
    let now = SystemTime::now();
    let ttl = visit.course.found.as_ref().map(|entry| seconds_left(entry.lifetime.fresh_until, now));
    let course = &visit.course;
    let forward = match (&course.found, course.is_demanded) {
        (Some(_), true) => Forward::Request,
        (Some(_), false) => Forward::Stale,
        (None, _) if visit.key != visit.base => Forward::VaryMiss,
        (None, _) => Forward::UriMiss,
    };
    let status = match session.cache.phase() {
        CachePhase::Hit => CacheStatus::hit(ttl).collapsed(course.is_collapsed),
        CachePhase::Stale | CachePhase::StaleUpdating => CacheStatus::hit(ttl).failed_with(course.failed_with),
        CachePhase::Revalidated => CacheStatus::forwarded(forward).answered(304).stored(ttl_of(session, now)),
        CachePhase::RevalidatedNoCache(_) => CacheStatus::forwarded(forward).answered(304),
        CachePhase::Miss | CachePhase::Expired => CacheStatus::forwarded(forward)
            .answered(answer.status.as_u16())
            .stored(ttl_of(session, now)),
        _ => CacheStatus::forwarded(forward).answered(answer.status.as_u16()).because(course.why_not),
    };
    Some(status)
}

/// What is said of a request that has nothing to do with the cache although its route has.
fn passed(bypass: Bypass, journey: &Journey) -> Option<CacheStatus> {
    let (route, _) = journey.route_and_api()?;
    route.cache.as_ref().filter(|policy| policy.tell)?;
    let forward = match bypass {
        Bypass::Method => Forward::Method,
        Bypass::NoStore | Bypass::Precondition => Forward::Request,
        Bypass::Partial => Forward::UriMiss,
        Bypass::Content | Bypass::Upgrade | Bypass::Grpc | Bypass::UnknownCaller => Forward::Bypass,
    };
    Some(CacheStatus::forwarded(forward).because(Some(bypass.as_str())))
}

fn ttl_of(session: &Session, now: SystemTime) -> Option<i64> {
    (session.cache.maybe_cache_meta()).map(|meta| seconds_left(meta.fresh_until(), now))
}

fn seconds_left(until: SystemTime, now: SystemTime) -> i64 {
    let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match until.duration_since(now) {
        Ok(left) => seconds(left),
        Err(over) => -seconds(over.duration()),
    }
}
