//! How old an answer is, and how long it stays fresh (RFC 9111 section 4.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};

use super::date;
use super::directives::{LONGEST, ResponseDirectives, Seconds};

/// For how long a kept answer may be given, and what may be done with it afterwards.
///
/// What was never fresh (`no-cache`, `max-age=0`, an `Expires` that is past) is a lifetime that ended before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// When it was made, as far as can be told: now less this is the current age (RFC 9111 section 4.2.3).
    pub born: SystemTime,
    /// It is fresh before this moment, and stale from it on.
    pub fresh_until: SystemTime,
    /// How many seconds it may be given while it is stale and fetched anew (RFC 5861 section 3).
    pub stale_while_revalidate: u32,
    /// How many seconds it may be given while it is stale and the origin fails (RFC 5861 section 4).
    pub stale_if_error: u32,
    /// It must never be given while it is stale, whoever would accept that.
    pub must_revalidate: bool,
    /// The origin said how long it is fresh.
    pub explicit: bool,
}

impl Lifetime {
    /// Its current age, as `Age` tells it in whole seconds.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.born).unwrap_or_default()
    }

    /// Whether it may be given without asking anybody.
    #[must_use]
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        now < self.fresh_until
    }

    /// Whole seconds for which it stays fresh; negative, or 0, since when it is stale.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match self.fresh_until.duration_since(now) {
            Ok(left) => seconds(left),
            Err(over) => -seconds(over.duration()),
        }
    }
}

/// What an answer's dates say of it, at its arrival.
pub(super) struct Origin {
    /// When it was made, as far as can be told.
    pub born: SystemTime,
    /// What its `Date` says, or when it arrived.
    pub date: SystemTime,
    /// When it arrived.
    pub arrived: SystemTime,
}

/// Reads `Date` and `Age`, and corrects by the time that the answer took (RFC 9111 section 4.2.3).
pub(super) fn origin(headers: &HeaderMap, asked: SystemTime, arrived: SystemTime) -> Origin {
    // Of several dates the oldest: it makes an answer older, never younger. One that is none counts as absent, for which
    // RFC 9110 section 6.6.1 has the time of arrival.
    let dates = headers
        .get_all(DATE)
        .iter()
        .filter_map(|value| date::parse(value, arrived));
    let date = dates.min().unwrap_or(arrived);
    let age_value = age_value(headers);
    // A date has no parts of a second: an answer of this second is not old.
    let apparent = Duration::from_secs(arrived.duration_since(date).unwrap_or_default().as_secs());
    let delay = arrived.duration_since(asked).unwrap_or_default();
    let initial = apparent.max(age_value.saturating_add(delay));
    let born = arrived.checked_sub(initial).unwrap_or(UNIX_EPOCH);
    Origin {
        born,
        date,
        arrived,
    }
}

/// How long an answer says it is fresh, from its birth on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// It says nothing.
    Nothing,
    /// What it says can not be read: it counts as stale, and as nobody's permission to keep it (RFC 9111 section 4.2.1).
    Invalid,
    /// It says this, which may be no time at all.
    Time(Duration),
}

/// Reads what an answer says, in the order of RFC 9111 section 4.2.1.
pub(super) fn said(directives: &ResponseDirectives, headers: &HeaderMap, origin: &Origin) -> Said {
    match directives.s_maxage.or(directives.max_age) {
        Some(Seconds::Said(seconds)) => return Said::Time(Duration::from_secs(u64::from(seconds))),
        Some(Seconds::Invalid) => return Said::Invalid,
        None => {}
    }
    // A field for us alone goes before `Expires` too (RFC 9213 section 2.2).
    if directives.is_targeted || !headers.contains_key(EXPIRES) {
        return Said::Nothing;
    }
    match date::only_date(headers, EXPIRES, origin.arrived) {
        Some(expires) => Said::Time(expires.duration_since(origin.date).unwrap_or_default()),
        None => Said::Invalid,
    }
}

/// A tenth of the time for which it had not changed when it was made (RFC 9111 section 4.2.2), or what the operator says
/// where that is not known, and never more than that.
pub(super) fn guessed(headers: &HeaderMap, origin: &Origin, most: Duration) -> Duration {
    match date::only_date(headers, LAST_MODIFIED, origin.arrived) {
        Some(modified) => (origin.date.duration_since(modified).unwrap_or_default() / 10).min(most),
        None => most,
    }
}

/// The `Age` of an answer: the first member of what may be a list, and nothing if that is no non-negative integer. RFC 9111
/// section 5.1 has both; to take the largest, or to call the answer stale, was tried and is stricter than that, and keeps
/// answers away from clients behind proxies that write `Age` twice.
fn age_value(headers: &HeaderMap) -> Duration {
    let first = headers.get(AGE).map(|line| line.as_bytes().split(|byte| *byte == b',').next());
    let first = first.flatten().unwrap_or_default().trim_ascii();
    Duration::from_secs(digits(first).map_or(0, u64::from))
}

/// A delta-seconds (RFC 9111 section 1.2.2). What is too large is as large as it gets.
pub(super) fn digits(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = text.iter().fold(0_u64, |value, digit| {
        (value * 10 + u64::from(digit - b'0')).min(u64::from(LONGEST))
    });
    u32::try_from(value).ok()
}
