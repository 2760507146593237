//! gRPC: calls that have a deadline of their own, and refusals that a gRPC client can read.
//!
//! The rest of gRPC needs nothing from a gateway: a call is a request of HTTP/2 whose answer ends in trailers.
//! Source: "gRPC over HTTP2" (PROTOCOL-HTTP2.md) and "HTTP to gRPC Status Code Mapping" of the gRPC project.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// How long the caller is willing to wait.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// How the call ended, as a number.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// How the call ended, in words.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// What answers to calls are.
pub const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A longer timeout is taken for this one: nobody waits that long, and it can be added to any time.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A call of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// How long it may take in all, if it says so.
    pub timeout: Option<Duration>,
}

/// `grpc-timeout` is not one to eight digits and a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadTimeout;

impl BadTimeout {
    /// One plain sentence without a full stop; it may be shown to the client.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        "grpc-timeout is not one to eight digits and one of H M S m u n"
    }
}

impl Call {
    /// The call that this request is, if it is one. Calls are always POST; the type alone would make a call of anything
    /// that a browser or a probe asks for, whose client could not read such a refusal.
    ///
    /// # Errors
    /// When it is one and its timeout can not be read.
    pub fn of(method: &Method, headers: &HeaderMap) -> Result<Option<Self>, BadTimeout> {
        if *method != Method::POST || !is_call(headers) {
            return Ok(None);
        }
        let mut timeouts = headers.get_all(GRPC_TIMEOUT).iter();
        let timeout = match (timeouts.next(), timeouts.next()) {
            (None, _) => None,
            (Some(timeout), None) => Some(parse_timeout(timeout.as_bytes()).ok_or(BadTimeout)?),
            (Some(_), Some(_)) => return Err(BadTimeout),
        };
        Ok(Some(Self { timeout }))
    }
}

/// `application/grpc`, alone or with a codec or a parameter. `application/grpc-web` is another protocol.
fn is_call(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let grpc = APPLICATION_GRPC;
    let (kind, grpc) = (kind.as_bytes(), grpc.as_bytes());
    kind.get(..grpc.len())
        .is_some_and(|kind| kind.eq_ignore_ascii_case(grpc))
        && matches!(kind.get(grpc.len()), None | Some(b'+' | b';' | b' '))
}

fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.min(TIMEOUT_MAX))
}

/// What is left of a timeout, as the next hop reads it: the finest unit that fits into eight digits, rounded down.
#[must_use]
pub fn timeout_field(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [
        (left.as_nanos(), b'n'),
        (left.as_micros(), b'u'),
        (left.as_millis(), b'm'),
    ];
    let (number, unit) = units
        .into_iter()
        .find(|(number, _)| *number <= MOST)
        .unwrap_or((u128::from(left.as_secs()).min(MOST), b'S'));
    let mut digits = itoa::Buffer::new();
    let mut text = Vec::with_capacity(9);
    text.extend_from_slice(digits.format(number).as_bytes());
    text.push(unit);
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

/// What a refusal with this HTTP status is called in gRPC.
#[must_use]
pub fn status_of(http: u16) -> HeaderValue {
    HeaderValue::from_static(match http {
        400 | 414 | 417 => "3",
        401 => "16",
        403 => "7",
        404 | 405 | 501 | 505 => "12",
        408 | 504 => "4",
        413 | 429 | 431 => "8",
        502 | 503 => "14",
        _ => "13",
    })
}

/// Words for `grpc-message`: printable ASCII as it is, everything else and `%` percent-encoded.
#[must_use]
pub fn message_field(text: &str) -> HeaderValue {
    let mut encoded = Vec::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            encoded.push(byte);
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(encoded)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(fields: &[(&'static str, &'static str)]) -> Result<Option<Call>, BadTimeout> {
        let headers = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        Call::of(&Method::POST, &headers)
    }

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=1"] {
            assert_eq!(
                call(&[("content-type", kind)]),
                Ok(Some(Call { timeout: None })),
                "{kind}"
            );
        }
        for kind in [
            "application/grpc-web",
            "application/grpcx",
            "application/json",
            "application/grp",
        ] {
            assert_eq!(call(&[("content-type", kind)]), Ok(None), "{kind}");
        }
        assert_eq!(call(&[("grpc-timeout", "garbage")]), Ok(None));
    }

    #[test]
    fn only_post_makes_a_call() {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, APPLICATION_GRPC)]);
        assert_eq!(Call::of(&Method::POST, &headers), Ok(Some(Call { timeout: None })));
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::OPTIONS] {
            assert_eq!(Call::of(&method, &headers), Ok(None), "{method}");
        }
    }

    #[test]
    fn a_timeout_is_read_in_each_unit_and_garbage_is_refused() {
        for (text, timeout) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("00000000n", Duration::ZERO),
            ("99999999H", TIMEOUT_MAX),
        ] {
            let call = call(&[("content-type", "application/grpc"), ("grpc-timeout", text)]);
            assert_eq!(call, Ok(Some(Call { timeout: Some(timeout) })), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S", "1SS"] {
            let call = call(&[("content-type", "application/grpc"), ("grpc-timeout", text)]);
            assert_eq!(call, Err(BadTimeout), "{text}");
        }
        let twice = [
            ("content-type", "application/grpc"),
            ("grpc-timeout", "1S"),
            ("grpc-timeout", "2S"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in twice {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(Call::of(&Method::POST, &headers), Err(BadTimeout));
    }

    #[test]
    fn what_is_left_never_grows_on_its_way() {
        for (left, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(60), "60000000u"),
            (Duration::from_secs(3600), "3600000m"),
            (TIMEOUT_MAX, "2592000S"),
        ] {
            assert_eq!(timeout_field(left), text);
            assert!(parse_timeout(text.as_bytes()).unwrap() <= left);
        }
    }

    #[test]
    fn every_status_of_a_refusal_has_a_code_and_words_are_encoded() {
        for (http, grpc) in [
            (400, "3"),
            (401, "16"),
            (403, "7"),
            (404, "12"),
            (405, "12"),
            (408, "4"),
            (413, "8"),
            (429, "8"),
            (500, "13"),
            (502, "14"),
            (503, "14"),
            (504, "4"),
        ] {
            assert_eq!(status_of(http), grpc, "{http}");
        }
        assert_eq!(
            message_field("limit \"a\" is 100 % used \u{fc}p\n"),
            "limit \"a\" is 100 %25 used %C3%BCp%0A"
        );
    }
}
