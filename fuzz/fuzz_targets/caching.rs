//! Fields of any bytes are read without a panic, and what forbids to keep an answer is heard whatever stands before it.
#![no_main]

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use tollgate::cache::conditional::{confirms, needs_origin, not_modified};
use tollgate::cache::vary::variant;
use tollgate::cache::{Lifetime, RequestDirectives, ResponseDirectives, Vary};

/// A line of the input begins with the digit of its field.
const FIELDS: [&str; 9] = [
    "cache-control",
    "cdn-cache-control",
    "vary",
    "etag",
    "if-none-match",
    "if-modified-since",
    "last-modified",
    "pragma",
    "accept-encoding",
];

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n') {
        let Some((digit, value)) = line.split_first() else {
            continue;
        };
        let name = FIELDS.get(usize::from(digit.wrapping_sub(b'0')));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            headers.append(HeaderName::from_static(name), value);
        }
    }

    forbidden_stays_forbidden(&headers);
    let _ = RequestDirectives::of(&headers).accepts(&lifetime(), SystemTime::UNIX_EPOCH);
    let _ = (needs_origin(&headers), confirms(&headers, &headers));
    let _ = not_modified(&headers, StatusCode::OK, &headers);
    if let Vary::Fields(fields) = Vary::of(&headers) {
        let (mut once, mut again) = (Vec::new(), Vec::new());
        variant(&fields, &headers, &mut once);
        variant(&fields, &headers, &mut again);
        assert_eq!(once, again);
    }
});

/// A `no-store` behind anything else on the line is heard, unless a field for us takes the line's place.
fn forbidden_stays_forbidden(headers: &HeaderMap) {
    for line in headers.get_all("cache-control") {
        let mut longer = line.as_bytes().to_vec();
        longer.extend_from_slice(b",no-store");
        let mut one = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&longer) {
            one.append("cache-control", value);
            assert!(ResponseDirectives::of(&one).no_store);
        }
    }
    let _ = ResponseDirectives::of(headers);
}

fn lifetime() -> Lifetime {
    Lifetime {
        born: SystemTime::UNIX_EPOCH,
        fresh_until: SystemTime::UNIX_EPOCH + Duration::from_secs(9),
        stale_while_revalidate: 0,
        stale_if_error: 0,
        must_revalidate: false,
        explicit: true,
    }
}
