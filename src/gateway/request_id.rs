//! Ids that tie a request's log lines together: `X-Request-Id`, and W3C Trace Context.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::forward::TRACEPARENT;
use super::refusal::X_REQUEST_ID;

/// Longest request id that is taken over from a client.
const ID_LENGTH_MAX: usize = 128;

/// Digits of a request id of ours, and of a trace id.
const ID: usize = 32;

/// Length of a `traceparent` of version 00.
const TRACEPARENT_LENGTH: usize = 55;

/// A new request id: 128 random bits in hex.
#[must_use]
pub fn new() -> String {
    let [high, low]: [u64; 2] = rand::random();
    String::from_utf8([hex(high), hex(low)].concat()).unwrap_or_default()
}

/// The ids of one request, as the fields that carry them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    request_id: HeaderValue,
    traceparent: HeaderValue,
}

impl Ids {
    /// None yet.
    #[must_use]
    pub fn none() -> Self {
        Self {
            request_id: HeaderValue::from_static(""),
            traceparent: HeaderValue::from_static(""),
        }
    }

    /// Takes over what the client sent, or makes what it did not.
    ///
    /// A request id is taken over when it is well formed (letters, digits, `-`, `_`, `.`; at most 128): anything else
    /// could break a log line or a downstream parser. A trace is continued
    /// (<https://www.w3.org/TR/trace-context/>, section 3.2) with this gateway as the parent; one that starts here is
    /// not sampled, because nobody asked for it.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(X_REQUEST_ID).filter(|id| is_well_formed(id.as_bytes()));
        let trace = headers.get(TRACEPARENT).and_then(|trace| parse(trace.as_bytes()));

        // All that is new stands in one piece of memory, whose parts both fields share.
        let [id_high, id_low, trace_high, trace_low, parent]: [u64; 5] = rand::random();
        let mut text = Vec::with_capacity(ID + TRACEPARENT_LENGTH);
        text.extend_from_slice(&hex(id_high));
        text.extend_from_slice(&hex(id_low));
        text.extend_from_slice(b"00-");
        match trace {
            Some((trace_id, _)) => text.extend_from_slice(trace_id),
            None => {
                text.extend_from_slice(&hex(trace_high));
                // Not zero, which would be no trace.
                text.extend_from_slice(&hex(trace_low.max(1)));
            }
        }
        text.push(b'-');
        text.extend_from_slice(&hex(parent.max(1)));
        text.push(b'-');
        text.extend_from_slice(trace.map_or(b"00", |(_, flags)| flags));
        let text = Bytes::from(text);
        let field = |part| HeaderValue::from_maybe_shared(part).unwrap_or_else(|_| HeaderValue::from_static(""));
        Self {
            request_id: given.cloned().unwrap_or_else(|| field(text.slice(..ID))),
            traceparent: field(text.slice(ID..)),
        }
    }

    /// The request id, as a field.
    #[must_use]
    pub fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// The request id.
    #[must_use]
    pub fn request_id_text(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// For the upstream: the same trace, with this gateway as the parent.
    #[must_use]
    pub fn traceparent(&self) -> &HeaderValue {
        &self.traceparent
    }

    /// The trace that the request belongs to: 32 hex digits, shared by all parties.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        let part = self.traceparent.as_bytes().get(3..3 + ID).unwrap_or_default();
        std::str::from_utf8(part).unwrap_or_default()
    }
}

fn is_well_formed(id: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !id.is_empty() && id.len() <= ID_LENGTH_MAX && id.iter().all(fits)
}

/// Trace id and flags of a well-formed `traceparent`; of later versions only what version 00 promises.
fn parse(text: &[u8]) -> Option<(&[u8], &[u8; 2])> {
    let version = text.get(..2)?;
    let well_formed = text.len() >= TRACEPARENT_LENGTH
        && version != b"ff"
        && (text.len() == TRACEPARENT_LENGTH || (version != b"00" && text.get(TRACEPARENT_LENGTH) == Some(&b'-')))
        && [2, 35, 52].iter().all(|&dash| text.get(dash) == Some(&b'-'));
    let (trace_id, parent, flags) = (text.get(3..35)?, text.get(36..52)?, text.get(53..55)?);
    let lower_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let not_zero = |part: &[u8]| part.iter().any(|byte| *byte != b'0');
    let valid = well_formed
        && [version, trace_id, parent, flags].into_iter().all(lower_hex)
        && not_zero(trace_id)
        && not_zero(parent);
    valid.then_some((trace_id, flags.try_into().ok()?))
}

/// Sixteen lower-case digits.
fn hex(number: u64) -> [u8; 16] {
    const PAIRS: [[u8; 2]; 256] = {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
            byte += 1;
        }
        pairs
    };
    let mut text = [0; 16];
    for (pair, byte) in text.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair.copy_from_slice(&PAIRS[usize::from(byte)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: http::header::HeaderName, text: &str) -> Ids {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(text.as_bytes()).unwrap());
        Ids::of(&headers)
    }

    #[test]
    fn a_well_formed_id_is_kept_and_anything_else_replaced() {
        assert_eq!(ids(X_REQUEST_ID, "order-7_a.B").request_id_text(), "order-7_a.B");
        let longest = "x".repeat(128);
        assert_eq!(ids(X_REQUEST_ID, &longest).request_id_text(), longest);
        for bad in ["", "a b", "a\"b", "é", "a;b", &"x".repeat(129)] {
            let ids = ids(X_REQUEST_ID, bad);
            let id = ids.request_id_text();
            assert_eq!(id.len(), 32, "{bad}");
            assert!(id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        }
        assert_ne!(new(), new());
        assert_eq!(new().len(), 32);
    }

    #[test]
    fn a_trace_is_continued_under_a_new_parent() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let ids = ids(TRACEPARENT, given);
        assert_eq!(ids.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let parent = ids.traceparent().to_str().unwrap();
        assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(parent.ends_with("-01"));
        assert!(parse(parent.as_bytes()).is_some(), "{parent}");
        assert_ne!(parent, given);
    }

    #[test]
    fn a_malformed_trace_is_replaced_by_a_new_one() {
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            let ids = ids(TRACEPARENT, bad);
            assert!(!bad.contains(ids.trace_id()), "{bad}");
            let parent = ids.traceparent().to_str().unwrap();
            assert!(
                parse(parent.as_bytes()).is_some() && parent.ends_with("-00"),
                "{parent}"
            );
        }
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX] {
            assert_eq!(hex(number), format!("{number:016x}").as_bytes());
        }
    }
}
