//! Conditions of requests, as far as a cache evaluates them (RFC 9110 section 13, RFC 9111 section 4.3.2).

use http::header::{DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};
use std::time::SystemTime;

use super::date;
use super::members::trim;

/// Whether a GET or HEAD for which this answer is kept is answered with 304.
///
/// `If-None-Match` alone decides where it is given (RFC 9110 section 13.2.2). Only of a 200: other kept answers are given
/// as they are (section 13.2.1).
#[must_use]
pub fn not_modified(request: &HeaderMap, status: StatusCode, answer: &HeaderMap) -> bool {
    if status != StatusCode::OK {
        return false;
    }
    if request.contains_key(IF_NONE_MATCH) {
        let own = only_tag(answer);
        return request
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|line| names(line.as_bytes(), own));
    }
    // A clock is only for dates with two digits of a year, which those of kept answers agree with.
    let now = SystemTime::now();
    let Some(since) = date::only_date(request, IF_MODIFIED_SINCE, now) else {
        return false;
    };
    // Without the date of its last change, that of its making will do (RFC 9111 section 4.3.2).
    let changed = if answer.contains_key(LAST_MODIFIED) {
        date::only_date(answer, LAST_MODIFIED, now)
    } else {
        date::only_date(answer, DATE, now)
    };
    changed.is_some_and(|changed| changed <= since)
}

/// Whether the request has a condition that only the origin can evaluate (RFC 9111 section 4.3.2).
#[must_use]
pub fn needs_origin(request: &HeaderMap) -> bool {
    request.contains_key(IF_MATCH) || request.contains_key(IF_UNMODIFIED_SINCE)
}

/// The opaque part of the answer's own tag, quotes included. With two, nobody knows which one is.
fn only_tag(answer: &HeaderMap) -> Option<&[u8]> {
    let mut values = answer.get_all(ETAG).iter();
    let (tag, behind) = tag(trim(values.next()?.as_bytes()))?;
    (behind.is_empty() && values.next().is_none()).then_some(tag)
}

/// Whether a line of `If-None-Match` names this tag, by the weak comparison (RFC 9110 section 8.8.3.2). `*` names any.
fn names(line: &[u8], own: Option<&[u8]>) -> bool {
    if trim(line) == b"*" {
        return true;
    }
    let mut rest = line;
    loop {
        while let [b',' | b' ' | b'\t', behind @ ..] = rest {
            rest = behind;
        }
        if rest.is_empty() {
            return false;
        }
        match tag(rest).map(|(tag, behind)| (tag, trim_start(behind))) {
            Some((tag, behind @ ([] | [b',', ..]))) => {
                if own == Some(tag) {
                    return true;
                }
                rest = behind;
            }
            // No tag: what is behind the next comma may be one.
            _ => {
                let comma = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
                rest = rest.get(comma..).unwrap_or_default();
            }
        }
    }
}

/// The entity tag that `text` begins with, without `W/`, and what is behind it (RFC 9110 section 8.8.3).
fn tag(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let opaque = text.strip_prefix(b"W/").unwrap_or(text);
    let [b'"', inner @ ..] = opaque else {
        return None;
    };
    let length = inner
        .iter()
        .take_while(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..))
        .count();
    if inner.get(length) != Some(&b'"') {
        return None;
    }
    opaque.split_at_checked(length + 2)
}

fn trim_start(text: &[u8]) -> &[u8] {
    let space = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    text.get(space..).unwrap_or_default()
}
