//! `RateLimit`, `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11) and `Retry-After`.
//!
//! In `RateLimit-Policy`, `q` and `w` are the count and the period of the rate, for every kind of window: it is what
//! the operator wrote and the client signed up for, and it looks the same in every answer. For a token bucket `r` may
//! therefore exceed `q`, up to the burst: it says what may be sent at once, now. A month is 2,592,000 seconds (30
//! days) in `w`, because the length of this month would change the policy twelve times a year; `t` is exact.
//!
//! Limits in shadow mode are never shown: they promise nothing.

use http::HeaderValue;
use smallvec::SmallVec;

use super::rule::Rule;
use super::window::nominal_length;
use crate::names::LimitName;

/// Room for a field on the stack: a name of 60 characters fits.
const FIELD: usize = 96;

/// The `RateLimit-Policy` field for a set of limits, to be built with the snapshot. None if there is nothing to show.
#[must_use]
pub fn policy_field<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Option<HeaderValue> {
    let items: Vec<String> = rules
        .into_iter()
        .filter(|rule| rule.enforced())
        .map(|rule| {
            let seconds = nominal_length(rule.rate().period) / 1_000_000_000;
            format!("{};q={};w={seconds}", quoted(rule.name()), rule.rate().count)
        })
        .collect();
    if items.is_empty() {
        return None;
    }
    HeaderValue::try_from(items.join(", ")).ok()
}

/// The `Retry-After` field.
#[must_use]
pub fn retry_after_field(seconds: u64) -> HeaderValue {
    HeaderValue::from(seconds.max(1))
}

/// What the `RateLimit` fields of a limit begin with.
pub(super) fn limit_prefix(name: &LimitName) -> Box<[u8]> {
    format!("{};r=", quoted(name)).into_bytes().into()
}

/// One `RateLimit` field. It is put together on the stack; only the value itself takes memory.
pub(super) fn limit_field(prefix: &[u8], remaining: u32, reset: u64) -> HeaderValue {
    let mut text: SmallVec<[u8; FIELD]> = SmallVec::from_slice(prefix);
    let mut number = itoa::Buffer::new();
    text.extend_from_slice(number.format(remaining).as_bytes());
    text.extend_from_slice(b";t=");
    text.extend_from_slice(number.format(reset).as_bytes());
    // The prefix is printable ASCII, so this cannot fail; an empty field is ignored by clients.
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A name as a structured-field string. These are ASCII: what is not, is shown as `?`.
fn quoted(name: &LimitName) -> String {
    let mut text = String::from("\"");
    for character in name.as_str().chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            ' '..='~' => text.push(character),
            _ => text.push('?'),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::{limit, rule};
    use super::*;
    use crate::revision::{Mode, WindowKind};

    #[test]
    fn the_policy_names_every_enforced_limit_with_its_rate() {
        let rules = [
            rule(&limit("burst", "200/s", WindowKind::TokenBucket { burst: 400 })),
            rule(&limit("minute", "5000/m", WindowKind::Fixed)),
            rule(&limit("month", "1000000/month", WindowKind::Sliding)),
        ];
        assert_eq!(
            policy_field(&rules).unwrap(),
            r#""burst";q=200;w=1, "minute";q=5000;w=60, "month";q=1000000;w=2592000"#
        );
    }

    #[test]
    fn limits_in_shadow_mode_are_not_shown() {
        let mut trial = limit("trial", "1/s", WindowKind::Fixed);
        trial.mode = Mode::Shadow;
        assert_eq!(policy_field(&[rule(&trial)]), None);
        let both = [rule(&trial), rule(&limit("day", "9/d", WindowKind::Fixed))];
        assert_eq!(policy_field(&both).unwrap(), r#""day";q=9;w=86400"#);
    }

    #[test]
    fn the_limit_field_reads_as_the_draft_wants_it() {
        let minute = rule(&limit("minute", "5000/m", WindowKind::Fixed));
        assert_eq!(minute.limit_field(4_999, 42), r#""minute";r=4999;t=42"#);
        assert_eq!(
            minute.limit_field(u32::MAX, u64::MAX),
            r#""minute";r=4294967295;t=18446744073709551615"#
        );
    }

    #[test]
    fn a_name_cannot_break_out_of_its_quotes() {
        let odd = rule(&limit("a\"b\\c\r\nü", "1/s", WindowKind::Fixed));
        assert_eq!(odd.limit_field(1, 1), r#""a\"b\\c???";r=1;t=1"#);
        let long = rule(&limit(&"x".repeat(500), "1/s", WindowKind::Fixed));
        assert_eq!(long.limit_field(1, 1).len(), 500 + 10);
    }

    #[test]
    fn a_client_is_never_told_to_come_back_at_once() {
        assert_eq!(retry_after_field(0), "1");
        assert_eq!(retry_after_field(3_600), "3600");
    }
}
