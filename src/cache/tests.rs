//! What the tests of this stage share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::ResponseHeader;

use super::policy::{Methods, Place, Policy, Share};

/// Sunday, 6 November 1994, 08:49:37: the date of RFC 9110's examples.
pub(super) const NOW: Duration = Duration::from_secs(784_111_777);

/// That moment, or one after it.
pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + NOW + Duration::from_secs(seconds)
}

/// One before it.
pub(super) fn before(seconds: u64) -> SystemTime {
    UNIX_EPOCH + NOW - Duration::from_secs(seconds)
}

/// How it is written.
pub(super) fn written(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

/// Field lines, in their order.
pub(super) fn fields<V: AsRef<[u8]>>(lines: &[(&str, V)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_ref()).unwrap());
    }
    headers
}

/// An answer with these field lines.
pub(super) fn answer<V: AsRef<[u8]>>(status: u16, lines: &[(&str, V)]) -> ResponseHeader {
    let mut answer = ResponseHeader::build(status, None).unwrap();
    for (name, value) in lines {
        answer.append_header((*name).to_owned(), value.as_ref()).unwrap();
    }
    answer
}

/// Keeps for five minutes, for ten seconds what is not there, and an hour at most; without jitter.
pub(super) fn policy() -> Policy {
    Policy {
        methods: Methods { get: true, head: true },
        ttl: Duration::from_secs(300),
        negative_ttl: Duration::from_secs(10),
        ttl_max: Duration::from_secs(3_600),
        jitter: 0.0,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        refresh_ahead: 0.0,
        body_bytes: 1 << 20,
        share: Share::Everyone,
        authorized: false,
        set_cookie: false,
        client_directives: true,
        tell: true,
        place: Place {
            api: "a".into(),
            route: "/".into(),
        },
    }
}
