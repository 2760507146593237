//! Whether an answer may be kept, and for how long (RFC 9111 section 3 and 4.2): as a shared cache.

use std::time::{Duration, SystemTime};

use http::header::{ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED};
use http::header::{RANGE, SET_COOKIE};
use http::{HeaderMap, Method, StatusCode};
use pingora::http::ResponseHeader;

use super::directives::{RequestDirectives, ResponseDirectives};
use super::freshness::{self, Lifetime, Origin, Said};
use super::policy::{Policy, Share};
use super::vary::Vary;

/// The request that an answer is for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The method that the origin was sent.
    pub method: &'a Method,
    /// The fields of the client.
    pub headers: &'a HeaderMap,
    /// When it was sent to the origin.
    pub at: SystemTime,
    /// It had `Authorization`, whoever has taken that away since.
    pub is_authorized: bool,
}

/// Why an answer is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhyNot {
    /// The method is not GET.
    Method,
    /// The request says `no-store`.
    RequestNoStore,
    /// The answer is a part, a validation, or an informational one.
    Partial,
    /// The answer depends on a condition or a range of its request.
    Conditional,
    /// The answer wants to be kept only by those that understand its status.
    NotUnderstood,
    /// The answer says `no-store`.
    NoStore,
    /// The answer says `private`.
    Private,
    /// The answer says `Vary: *`, or something there that is no name of a field.
    Vary,
    /// The request had `Authorization`, and nothing permits to keep its answer.
    Authorization,
    /// The answer has `Set-Cookie`.
    SetCookie,
    /// Neither the answer nor its status says that it may be kept.
    Status,
    /// It would be stale at once, and nothing in it can be validated.
    NeverFresh,
}

impl WhyNot {
    /// Every reason, for the metrics.
    pub const ALL: [Self; 12] = [
        Self::Method,
        Self::RequestNoStore,
        Self::Partial,
        Self::Conditional,
        Self::NotUnderstood,
        Self::NoStore,
        Self::Private,
        Self::Vary,
        Self::Authorization,
        Self::SetCookie,
        Self::Status,
        Self::NeverFresh,
    ];

    /// The reason in a word, as metrics, `Cache-Status` and `explain` show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::RequestNoStore => "request_no_store",
            Self::Partial => "partial",
            Self::Conditional => "conditional",
            Self::NotUnderstood => "not_understood",
            Self::NoStore => "no_store",
            Self::Private => "private",
            Self::Vary => "vary",
            Self::Authorization => "authorization",
            Self::SetCookie => "set_cookie",
            Self::Status => "status",
            Self::NeverFresh => "never_fresh",
        }
    }
}

/// Whether this is a reason that says nothing of the next request for the same.
#[must_use]
pub fn is_of_one_request(reason: &str) -> bool {
    let of_one = [
        WhyNot::Authorization,
        WhyNot::Conditional,
        WhyNot::Partial,
        WhyNot::RequestNoStore,
    ];
    of_one.iter().any(|why| why.as_str() == reason)
}

/// Whether the answer to `asked` may be kept, and its lifetime. `dice`, from 0 to 1, is thrown for the jitter.
///
/// An answer that is kept may still have to be validated before every use: then its lifetime has ended already.
///
/// # Errors
///
/// The first reason against it.
pub fn storability(
    asked: &Asked<'_>,
    answer: &ResponseHeader,
    arrived: SystemTime,
    policy: &Policy,
    dice: f64,
) -> Result<Lifetime, WhyNot> {
    if *asked.method != Method::GET {
        return Err(WhyNot::Method);
    }
    if policy.client_directives && RequestDirectives::of(asked.headers).no_store {
        return Err(WhyNot::RequestNoStore);
    }
    let headers = &answer.headers;
    let directives = ResponseDirectives::of(headers);
    is_permitted(asked, answer.status, headers, &directives, policy)?;

    let origin = freshness::origin(headers, asked.at, arrived);
    let said = freshness::said(&directives, headers, &origin);
    if headers.contains_key(SET_COOKIE)
        && !(policy.set_cookie && matches!(said, Said::Time(_)))
        && !directives.withheld().any(|name| name == SET_COOKIE)
    {
        return Err(WhyNot::SetCookie);
    }
    let may_be_guessed = is_heuristic(answer.status) || directives.public;
    let whole = match said {
        Said::Time(said) => said,
        Said::Invalid if may_be_guessed => Duration::ZERO,
        Said::Nothing if may_be_guessed => guess(answer.status, headers, &origin, policy),
        Said::Nothing | Said::Invalid => return Err(WhyNot::Status),
    };
    let explicit = said != Said::Nothing;
    let lifetime = lifetime(whole, explicit, &directives, &origin, policy, dice);
    let is_of_use = lifetime.fresh_until > arrived
        || lifetime.stale_while_revalidate > 0
        || lifetime.stale_if_error > 0
        || headers.contains_key(ETAG)
        || headers.contains_key(LAST_MODIFIED);
    if is_of_use {
        Ok(lifetime)
    } else {
        Err(WhyNot::NeverFresh)
    }
}

/// What forbids keeping an answer, whatever its lifetime.
fn is_permitted(
    asked: &Asked<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    policy: &Policy,
) -> Result<(), WhyNot> {
    if status == StatusCode::PARTIAL_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || !(200..600).contains(&status.as_u16())
    {
        return Err(WhyNot::Partial);
    }
    // These two say something of one request, and the next client's may be without its condition.
    let has = |name| asked.headers.contains_key(name);
    let is_failed_condition = status == StatusCode::PRECONDITION_FAILED
        && (has(IF_MATCH) || has(IF_NONE_MATCH) || has(IF_MODIFIED_SINCE) || has(IF_UNMODIFIED_SINCE));
    if is_failed_condition || (status == StatusCode::RANGE_NOT_SATISFIABLE && has(RANGE)) {
        return Err(WhyNot::Conditional);
    }
    if directives.must_understand && !is_understood(status) {
        return Err(WhyNot::NotUnderstood);
    }
    if directives.no_store && !directives.must_understand {
        return Err(WhyNot::NoStore);
    }
    if directives.private.is_whole() {
        return Err(WhyNot::Private);
    }
    if Vary::of(headers) == Vary::Everything {
        return Err(WhyNot::Vary);
    }
    let is_for_its_caller = policy.authorized && policy.share == Share::Caller;
    if asked.is_authorized && !directives.permits_authorized && !is_for_its_caller {
        return Err(WhyNot::Authorization);
    }
    Ok(())
}

fn guess(status: StatusCode, headers: &HeaderMap, origin: &Origin, policy: &Policy) -> Duration {
    if is_negative(status) {
        return policy.negative_ttl;
    }
    freshness::guessed(headers, origin, policy.ttl)
}

fn lifetime(
    whole: Duration,
    explicit: bool,
    directives: &ResponseDirectives,
    origin: &Origin,
    policy: &Policy,
    dice: f64,
) -> Lifetime {
    let must_validate = directives.no_cache.is_whole();
    let is_stale_at_once = must_validate || whole.is_zero();
    let ends = origin.born.checked_add(whole).unwrap_or(origin.arrived);
    let left = match ends.duration_since(origin.arrived) {
        Ok(left) if !is_stale_at_once => jittered(left.min(policy.ttl_max), explicit, policy, dice),
        _ => Duration::ZERO,
    };
    let fresh_until = match left {
        // It ended when it ended: `max-stale` and the windows count from there, not from its arrival.
        Duration::ZERO if is_stale_at_once => origin.born,
        Duration::ZERO => ends.min(origin.arrived),
        left => origin.arrived.checked_add(left).unwrap_or(origin.arrived),
    };
    let must_revalidate =
        must_validate || directives.must_revalidate || directives.proxy_revalidate || directives.s_maxage.is_some();
    let window = |said: Option<u32>, own: Duration| match said {
        _ if must_revalidate => 0,
        Some(said) => said,
        None => u32::try_from(own.as_secs()).unwrap_or(u32::MAX),
    };
    // Who says that an answer is never fresh does not expect that it is given once more: unasked, the operator's window
    // is for what was fresh once.
    let own_revalidate = if is_stale_at_once {
        Duration::ZERO
    } else {
        policy.stale_while_revalidate
    };
    Lifetime {
        born: origin.born,
        fresh_until,
        stale_while_revalidate: window(directives.stale_while_revalidate.map(|said| said.get()), own_revalidate),
        stale_if_error: window(directives.stale_if_error.map(|said| said.get()), policy.stale_if_error),
        must_revalidate,
        explicit,
    }
}

/// Of what is left at the arrival: never longer than the origin said or the operator allows, and never by so much that
/// less than a second is left of more.
fn jittered(left: Duration, explicit: bool, policy: &Policy, dice: f64) -> Duration {
    let (jitter, dice) = (policy.jitter.clamp(0.0, 1.0), dice.clamp(0.0, 1.0));
    let share = if explicit {
        1.0 - jitter * dice
    } else {
        1.0 + jitter * (2.0 * dice - 1.0)
    };
    let shared = Duration::try_from_secs_f64(left.as_secs_f64() * share).unwrap_or(left);
    let most = if explicit { left } else { policy.ttl_max };
    shared.max(left.min(Duration::from_secs(1))).min(most)
}

/// Statuses whose answers may be kept although they say nothing about it (RFC 9110 section 15.1), less 206: parts are not
/// kept.
fn is_heuristic(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308) || is_negative(status)
}

/// Those of them that say that there is nothing.
fn is_negative(status: StatusCode) -> bool {
    matches!(status.as_u16(), 404 | 405 | 410 | 414 | 501)
}

/// The statuses of RFC 9110 section 15.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}

#[cfg(test)]
mod tests;
