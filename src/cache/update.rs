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

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::tests::{answer, at, before, policy, written};
    use super::*;

    /// As it would be on the wire, lines of one name in their order.
    fn lines(header: &ResponseHeader) -> Vec<String> {
        let mut lines: Vec<_> = header
            .case_header_iter()
            .map(|(name, value)| {
                let name = String::from_utf8(name.as_slice().to_vec()).unwrap();
                format!("{name}: {}", value.to_str().unwrap())
            })
            .collect();
        lines.sort_by_key(|line| line.split(':').next().map(str::to_owned));
        lines
    }

    /// RFC 9111 section 3.1.
    #[test]
    fn fields_of_the_connection_and_of_its_proxy_are_not_kept() {
        let kept = storable(&answer(
            200,
            &[
                ("Connection", "close, X-Hop"),
                ("connection", "x-other"),
                ("X-Hop", "1"),
                ("X-Other", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Authenticate", "Basic"),
                ("Proxy-Authentication-Info", "a"),
                ("Proxy-Authorization", "a"),
                ("Proxy-Connection", "close"),
                ("TE", "trailers"),
                ("Trailer", "a"),
                ("Transfer-Encoding", "chunked"),
                ("Upgrade", "a"),
                ("Age", "5"),
                ("Content-Length", "10"),
                ("Set-Cookie", "a=b"),
                ("Set-Cookie2", "a=b"),
                ("X-Test", "1"),
                ("X-Test", "2"),
            ],
        ));
        let expected = [
            "Content-Length: 10",
            "Set-Cookie: a=b",
            "Set-Cookie2: a=b",
            "X-Test: 1",
            "X-Test: 2",
        ];
        assert_eq!(lines(&kept), expected);
        assert_eq!(kept.status, 200);
    }

    /// RFC 9111 sections 5.2.2.4 and 5.2.2.7.
    #[test]
    fn fields_that_must_not_be_given_unasked_are_not_kept() {
        let kept = storable(&answer(
            200,
            &[
                ("Cache-Control", "no-cache=\"a, B\", private=c"),
                ("A", "1"),
                ("B", "1"),
                ("C", "1"),
                ("D", "1"),
            ],
        ));
        assert_eq!(lines(&kept), ["Cache-Control: no-cache=\"a, B\", private=c", "D: 1"]);
    }

    #[test]
    fn a_length_that_is_not_one_number_is_not_kept() {
        for value in ["x", "-1", "1, 1", "", "+1"] {
            assert!(
                lines(&storable(&answer(200, &[("Content-Length", value)]))).is_empty(),
                "{value}"
            );
        }
        assert!(
            lines(&storable(&answer(
                200,
                &[("Content-Length", "1"), ("Content-Length", "1")]
            )))
            .is_empty()
        );
    }

    /// RFC 9111 section 3.2.
    #[test]
    fn a_304_replaces_what_it_says_and_leaves_the_rest_and_what_tells_of_the_body() {
        let kept = answer(
            200,
            &[
                ("Content-Encoding", "gzip"),
                ("Content-Length", "10"),
                ("Content-Type", "text/plain"),
                ("ETag", "\"a\""),
                ("X-Gone", "1"),
                ("X-Kept", "1"),
                ("X-Test", "1"),
                ("X-Test", "2"),
            ],
        );
        let fresh = answer(
            304,
            &[
                ("Connection", "x-kept"),
                ("content-encoding", "br"),
                ("Content-Length", "0"),
                ("Content-MD5", "a"),
                ("Content-Range", "bytes 0-1/2"),
                ("Content-Type", "text/html"),
                ("ETag", "W/\"a\""),
                ("Transfer-Encoding", "chunked"),
                ("X-Kept", "2"),
                ("Age", "3"),
                ("x-TEST", "3"),
                ("x-TEST", "4"),
                ("Cache-Control", "max-age=5, no-cache=\"X-Gone\""),
            ],
        );
        let merged = merged(&kept, &fresh);
        assert_eq!(
            lines(&merged),
            [
                "Cache-Control: max-age=5, no-cache=\"X-Gone\"",
                "Content-Encoding: gzip",
                "Content-Length: 10",
                "Content-Type: text/html",
                "ETag: \"a\"",
                "X-Kept: 1",
                "x-TEST: 3",
                "x-TEST: 4",
            ]
        );
        assert_eq!(merged.status, 200);
    }

    /// RFC 9111 section 4.3.4.
    #[test]
    fn what_a_304_confirms_is_as_old_as_the_304() {
        let headers = HeaderMap::new();
        let asked = Asked {
            method: &Method::GET,
            headers: &headers,
            at: at(0),
            is_authorized: false,
        };
        let old = written(before(1_000));
        let kept = answer(
            200,
            &[
                ("Cache-Control", "max-age=100"),
                ("Date", old.as_str()),
                ("ETag", "\"a\""),
            ],
        );
        let refreshed = |lines: &[(&str, &str)]| {
            let (header, lifetime) = refreshed(&asked, &kept, &answer(304, lines), at(0), &policy(), 0.0);
            let date = header.headers.get("date").unwrap().to_str().unwrap().to_owned();
            assert!(!header.headers.contains_key("age"));
            (date, lifetime.map(|lifetime| lifetime.remaining(at(0))))
        };
        let now = written(at(0));
        let late = written(before(30));
        assert_eq!(refreshed(&[("Date", now.as_str())]), (now.clone(), Ok(100)));
        assert_eq!(refreshed(&[]), (now.clone(), Ok(100)));
        assert_eq!(refreshed(&[("Date", late.as_str())]), (late.clone(), Ok(70)));
        assert_eq!(refreshed(&[("Age", "60")]), (now.clone(), Ok(40)));
        assert_eq!(refreshed(&[("Cache-Control", "max-age=7")]), (now.clone(), Ok(7)));
        assert_eq!(refreshed(&[("Cache-Control", "no-store")]), (now, Err(WhyNot::NoStore)));
    }
}
