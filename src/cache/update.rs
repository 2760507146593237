//! What is kept of an answer's head (RFC 9111 section 3.1), and how a 304 makes it new (section 3.2).

use std::time::SystemTime;

use http::header::{AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderName};
use http::header::{PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use pingora::http::ResponseHeader;
use smallvec::SmallVec;

use super::directives::ResponseDirectives;
use super::freshness::{Lifetime, digits};
use super::members::trim;
use super::policy::Policy;
use super::storability::{Asked, WhyNot, storability};

/// Fields of one connection or of one proxy. `Age` is told anew with every hit.
const NOT_KEPT: [HeaderName; 11] = [
    AGE,
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that tell what the kept body is like. A 304 has none, so what it says of one is about another.
const OF_THE_BODY: [HeaderName; 5] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    HeaderName::from_static("content-md5"),
    CONTENT_RANGE,
    ETAG,
];

/// The head of an answer as it is kept: without the fields of its connection, those that `no-cache="…"` and `private="…"`
/// name, `Age`, and a length that is none.
#[must_use]
pub fn storable(answer: &ResponseHeader) -> ResponseHeader {
    let mut kept = answer.clone();
    for name in named_by_connection(answer) {
        kept.remove_header(&name);
    }
    for name in &NOT_KEPT {
        kept.remove_header(name);
    }
    for name in ResponseDirectives::of(&answer.headers).withheld() {
        kept.remove_header(name);
    }
    let mut lengths = answer.headers.get_all(CONTENT_LENGTH).iter();
    let is_plain = lengths.next().is_some_and(|value| digits(value.as_bytes()).is_some()) && lengths.next().is_none();
    if !is_plain {
        kept.remove_header(&CONTENT_LENGTH);
    }
    kept
}

/// The kept head after a 304: every field of that takes the place of those with its name, all lines of it, except what
/// tells of the body.
#[must_use]
pub fn merged(kept: &ResponseHeader, not_modified: &ResponseHeader) -> ResponseHeader {
    let fresh = storable(not_modified);
    let mut merged = kept.clone();
    for name in fresh.headers.keys().filter(|name| !OF_THE_BODY.contains(name)) {
        merged.remove_header(name);
    }
    for (name, value) in fresh.case_header_iter() {
        let is_of_the_body = OF_THE_BODY
            .iter()
            .any(|known| known.as_str().as_bytes().eq_ignore_ascii_case(name.as_slice()));
        if !is_of_the_body {
            // Fails only at a number of fields that no head within its bounds has; the field is then absent.
            let _ = merged.append_header(name.clone(), value.clone());
        }
    }
    // It may say `no-cache="…"` of fields that were kept before.
    storable(&merged)
}

/// The kept head after a 304, and its lifetime from now on, with the age that the 304 has and not that of the kept answer.
///
/// # Errors
///
/// Why it must not be kept any longer; it may be given this once.
pub fn refreshed(
    asked: &Asked<'_>,
    kept: &ResponseHeader,
    not_modified: &ResponseHeader,
    arrived: SystemTime,
    policy: &Policy,
    dice: f64,
) -> (ResponseHeader, Result<Lifetime, WhyNot>) {
    let mut merged = merged(kept, not_modified);
    // A 304 without a date is as new as its arrival, whatever the date of the answer that it confirms (RFC 9110 section
    // 6.6.1).
    if !not_modified.headers.contains_key(DATE) && arrived > SystemTime::UNIX_EPOCH {
        let _ = merged.insert_header(DATE, httpdate::fmt_http_date(arrived));
    }
    let mut judged = merged.clone();
    for age in not_modified.headers.get_all(AGE) {
        let _ = judged.append_header(AGE, age.clone());
    }
    let lifetime = storability(asked, &judged, arrived, policy, dice);
    (merged, lifetime)
}

fn named_by_connection(answer: &ResponseHeader) -> SmallVec<[HeaderName; 4]> {
    let lines = answer.headers.get_all(CONNECTION).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(trim));
    members.filter_map(|name| HeaderName::from_bytes(name).ok()).collect()
}
