//! Byte classes, and the field names that carry framing or identity.

use std::net::Ipv6Addr;

/// A byte of a token (RFC 9110 5.6.2): methods and field names.
pub(super) const TOKEN: u8 = 1;
/// A byte of a field value: visible, SP, HTAB or obs-text.
pub(super) const VALUE: u8 = 1 << 1;
/// A byte that the path of a target may consist of as far as framing goes; `route::path` is stricter.
pub(super) const PATH: u8 = 1 << 2;
/// A byte that the query of a target may consist of. Wider than the RFC by what browsers leave bare.
pub(super) const QUERY: u8 = 1 << 3;
/// A byte of a chunk extension: visible ASCII, SP or HTAB.
pub(super) const EXTENSION: u8 = 1 << 4;

const CLASSES: [u8; 256] = {
    let mut classes = [0_u8; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        let b = byte as u8;
        let mut class = 0;
        if b.is_ascii_alphanumeric() || is_one_of(b, b"!#$%&'*+-.^_`|~") {
            class |= TOKEN;
        }
        if b == b'\t' || (b >= 0x20 && b != 0x7f) {
            class |= VALUE;
        }
        if b == b'\t' || (b >= 0x20 && b < 0x7f) {
            class |= EXTENSION;
        }
        // The engine's URI type takes neither of these raw, so refusing them here gives a clean 400 instead of a
        // connection that just closes.
        if b.is_ascii_graphic() && !is_one_of(b, b"#?<>`") {
            class |= PATH;
        }
        if b.is_ascii_graphic() && !is_one_of(b, b"#<>\"") {
            class |= QUERY;
        }
        classes[byte] = class;
        byte += 1;
    }
    classes
};

const fn is_one_of(byte: u8, set: &[u8]) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == byte {
            return true;
        }
        i += 1;
    }
    false
}

/// Whether the byte belongs to the class.
#[inline]
pub(super) fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// How many bytes at the start of `bytes` belong to the class.
#[inline]
pub(super) fn run(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|&byte| !is(byte, class)).unwrap_or(bytes.len())
}

/// How many bytes at the start of `bytes` may stand in a field value; eight at a time, because values are most of a
/// head.
#[inline]
pub(super) fn value_run(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES * 0x80;
    let mut words = bytes.chunks_exact(8);
    let mut at = 0;
    for word in words.by_ref() {
        let Ok(word) = <[u8; 8]>::try_from(word) else { break };
        let word = u64::from_le_bytes(word);
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let delete = delete.wrapping_sub(ONES) & !delete;
        if (below_space | delete) & HIGHS != 0 {
            // Either the end of the value or a tab.
            let run = run(&bytes[at..at + 8], VALUE);
            if run < 8 {
                return at + run;
            }
        }
        at += 8;
    }
    at + run(words.remainder(), VALUE)
}

/// Without spaces and tabs at both ends.
#[inline]
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Fields that nobody may have dropped by naming them in `Connection`: the gateway frames, authenticates, limits or
/// identifies by them, or writes them itself.
const PROTECTED: [&str; 25] = [
    "host",
    "content-length",
    "transfer-encoding",
    "authorization",
    "proxy-authorization",
    "cookie",
    "expect",
    "forwarded",
    "via",
    "traceparent",
    "tracestate",
    "x-api-key",
    "x-application",
    "x-key-type",
    "x-subject",
    "x-request-id",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
];

/// Every field that starts like one of these is protected too.
const PROTECTED_PREFIXES: [&str; 2] = ["x-forwarded-", "x-consumer-"];

/// Fields that mean nothing good behind a body, beside the protected ones (RFC 9110 6.5.1): an origin that merges
/// trailers into the head would let them through behind the gateway's back.
const NOT_IN_TRAILERS: [&str; 17] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "content-encoding",
    "content-type",
    "content-range",
    "range",
    "cache-control",
    "pragma",
    "max-forwards",
    "set-cookie",
    "age",
    "vary",
];

/// No name in the lists is longer, so a longer one is compared by its first bytes only.
pub(super) const LONGEST_LISTED: usize = 22;

/// The protected field of this name, if it is one.
pub(super) fn protected(name: &[u8]) -> Option<&'static str> {
    let same = |listed: &&&str| listed.as_bytes().eq_ignore_ascii_case(name);
    let starts = |prefix: &&&str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    PROTECTED
        .iter()
        .find(same)
        .or_else(|| PROTECTED_PREFIXES.iter().find(starts))
        .copied()
}

/// Whether the field may not stand behind a body.
pub(super) fn forbidden_in_trailers(name: &[u8]) -> bool {
    protected(name).is_some()
        || NOT_IN_TRAILERS
            .iter()
            .any(|listed| listed.as_bytes().eq_ignore_ascii_case(name))
}

/// Whether the text is a `host[:port]` that can be read in one way only.
///
/// Narrower than the RFC: no percent escapes, no sub-delimiters, no empty port, no empty label. None of those occurs
/// in a name that resolves, and each has been read differently by two programs in a row.
pub(super) fn is_authority(text: &[u8]) -> bool {
    if let Some(inner) = text.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', inner) else {
            return false;
        };
        let address = std::str::from_utf8(&inner[..end])
            .ok()
            .and_then(|text| text.parse::<Ipv6Addr>().ok());
        return address.is_some() && is_port_part(&inner[end + 1..]);
    }
    let name_end = memchr::memchr(b':', text).unwrap_or(text.len());
    let (name, port) = text.split_at(name_end);
    is_host_name(name) && is_port_part(port)
}

fn is_host_name(name: &[u8]) -> bool {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() || name.len() > 253 {
        return false;
    }
    let mut label = 0;
    for &byte in name {
        match byte {
            b'.' if label == 0 => return false,
            b'.' => label = 0,
            b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' if label < 63 => label += 1,
            _ => return false,
        }
    }
    label > 0
}

fn is_port_part(text: &[u8]) -> bool {
    let Some(digits) = text.strip_prefix(b":") else {
        return text.is_empty();
    };
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let port = digits
        .iter()
        .fold(0_u32, |port, digit| port * 10 + u32::from(digit - b'0'));
    (1..=65_535).contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_listed_name_is_longer_than_the_trailer_buffer_or_written_in_upper_case() {
        for name in PROTECTED.iter().chain(&NOT_IN_TRAILERS).chain(&PROTECTED_PREFIXES) {
            assert!(name.len() <= LONGEST_LISTED, "{name}");
            assert!(name.bytes().all(|b| is(b, TOKEN) && !b.is_ascii_uppercase()), "{name}");
        }
    }

    #[test]
    fn the_fast_value_scan_stops_where_the_slow_one_does() {
        for byte in 0..=255_u8 {
            for at in 0..20 {
                let mut value = [b'v'; 20];
                value[at] = byte;
                assert_eq!(value_run(&value), run(&value, VALUE), "byte {byte:#04x} at {at}");
                value[(at + 3) % 20] = b'\t';
                assert_eq!(
                    value_run(&value),
                    run(&value, VALUE),
                    "byte {byte:#04x} at {at} with a tab"
                );
            }
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for good in [
            "a",
            "api.example.com",
            "api.example.com.",
            "a_b.internal",
            "A.B:80",
            "10.0.0.1:65535",
            "[::1]",
            "[::1]:8443",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        let long_label = "a".repeat(64);
        let long_name = format!("{}a", "abc.".repeat(64));
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a..",
            "a:",
            "a:0",
            "a:+80",
            "a:65536",
            "a:000080",
            "a:8a",
            "a:80:80",
            "u@a",
            "a/b",
            "a,b",
            "a b",
            "a%2eb",
            "::1",
            "[::1",
            "[]",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[v1.a]",
            "a\\b",
            "ä",
            "*.a",
            "a?b",
            &long_label,
            &long_name,
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
