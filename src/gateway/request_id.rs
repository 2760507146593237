//! Ids that tie a request's log lines together: `X-Request-Id`, and W3C Trace Context.

use std::sync::Arc;

use http::HeaderValue;

/// Longest request id that is taken over from a client.
const ID_LENGTH_MAX: usize = 128;

/// A new request id: 128 random bits in hex.
#[must_use]
pub fn new() -> Arc<str> {
    hex128(rand::random())
}

/// The client's id when it is well formed (letters, digits, `-`, `_`, `.`; at most 128), else a new one. Anything else
/// could break a log line or a downstream parser.
#[must_use]
pub fn accept(given: Option<&HeaderValue>) -> Arc<str> {
    given
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            !id.is_empty()
                && id.len() <= ID_LENGTH_MAX
                && id
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        })
        .map_or_else(new, Arc::from)
}

/// The trace that a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// 32 hex digits, shared by all parties.
    pub trace_id: Arc<str>,
    /// The header for the upstream: the same trace, with this gateway as the parent.
    pub parent: HeaderValue,
}

/// Continues the client's trace, or starts one (<https://www.w3.org/TR/trace-context/>, section 3.2). A trace that starts
/// here is not sampled: nobody asked for it.
#[must_use]
pub fn trace(given: Option<&HeaderValue>) -> Trace {
    let (trace_id, flags) = given
        .and_then(|value| parse(value.as_bytes()))
        .map_or_else(|| (new(), *b"00"), |(id, flags)| (Arc::from(id), flags));
    let mut text = [0_u8; 55];
    text[..3].copy_from_slice(b"00-");
    text[3..35].copy_from_slice(trace_id.as_bytes());
    text[35] = b'-';
    hex(&rand::random::<u64>().max(1).to_be_bytes(), &mut text[36..52]);
    text[52] = b'-';
    text[53..].copy_from_slice(&flags);
    let parent = HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    Trace { trace_id, parent }
}

/// Trace id and flags of a well-formed `traceparent`; of later versions only what version 00 promises.
fn parse(text: &[u8]) -> Option<(&str, [u8; 2])> {
    let version = text.get(..2)?;
    let well_formed = text.len() >= 55
        && version != b"ff"
        && (text.len() == 55 || (version != b"00" && text[55] == b'-'))
        && text[2] == b'-'
        && text[35] == b'-'
        && text[52] == b'-';
    let (trace_id, parent, flags) = (text.get(3..35)?, text.get(36..52)?, text.get(53..55)?);
    let lower_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let not_zero = |part: &[u8]| part.iter().any(|byte| *byte != b'0');
    let valid = well_formed
        && [version, trace_id, parent, flags].into_iter().all(lower_hex)
        && not_zero(trace_id)
        && not_zero(parent);
    if !valid {
        return None;
    }
    Some((std::str::from_utf8(trace_id).ok()?, [flags[0], flags[1]]))
}

fn hex128(number: u128) -> Arc<str> {
    let mut text = [0_u8; 32];
    hex(&number.max(1).to_be_bytes(), &mut text);
    Arc::from(std::str::from_utf8(&text).unwrap_or_default())
}

fn hex(bytes: &[u8], into: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(into.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_bytes(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_well_formed_id_is_kept_and_anything_else_replaced() {
        assert_eq!(&*accept(Some(&value("order-7_a.B"))), "order-7_a.B");
        for bad in ["", "a b", "a\"b", "é", "a;b", &"x".repeat(129)] {
            let id = accept(Some(&value(bad)));
            assert_eq!(id.len(), 32, "{bad}");
        }
        assert_ne!(new(), new());
    }

    #[test]
    fn a_trace_is_continued_under_a_new_parent() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = trace(Some(&value(given)));
        assert_eq!(&*trace.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        let parent = trace.parent.to_str().unwrap();
        assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(parent.ends_with("-01"));
        assert_ne!(parent, given);
    }

    #[test]
    fn a_malformed_trace_is_replaced_by_a_new_one() {
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            let trace = trace(Some(&value(bad)));
            assert!(!bad.contains(&*trace.trace_id), "{bad}");
            assert!(trace.parent.to_str().unwrap().ends_with("-00"));
        }
    }
}
