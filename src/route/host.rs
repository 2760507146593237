//! The host of a request as host patterns are written.

/// Room for every host that can be matched: names are at most 253 bytes, and the final dot.
pub(super) const HOST_BYTES_MAX: usize = 256;

/// Without port and final dot, in lower case; the buffer is used only if there is upper case.
///
/// `None` if it is too long to be any host.
pub(super) fn canonical<'a>(raw: &'a str, buffer: &'a mut [u8; HOST_BYTES_MAX]) -> Option<&'a str> {
    let end = if raw.starts_with('[') {
        raw.find(']').map(|end| end + 1)
    } else {
        raw.find(':')
    };
    let host = raw.get(..end.unwrap_or(raw.len()))?;
    let host = host.strip_suffix('.').unwrap_or(host);
    if !host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(host);
    }
    let lower = buffer.get_mut(..host.len())?;
    lower.copy_from_slice(host.as_bytes());
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// What a wildcard could be written for, longest first: of `a.b.c`, first `b.c`, then `c`.
///
/// Suffixes longer than `longest` are left out, so that a client cannot make this long with a name of many labels.
pub(super) fn suffixes(host: &str, longest: usize) -> impl Iterator<Item = &str> {
    let first = host.len().saturating_sub(longest + 1).max(1);
    let tail = host.as_bytes().get(first..).unwrap_or_default();
    memchr::memchr_iter(b'.', tail).filter_map(move |dot| host.get(first + dot + 1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_case_and_final_dot_do_not_count() {
        for (raw, host) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.com:8080", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com.:443", "api.example.com"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("", ""),
            (":80", ""),
            ("[::1", "[::1"),
        ] {
            assert_eq!(canonical(raw, &mut [0; HOST_BYTES_MAX]), Some(host), "{raw}");
        }
        assert_eq!(canonical(&"A".repeat(257), &mut [0; HOST_BYTES_MAX]), None);
    }

    #[test]
    fn suffixes_come_longest_first_and_never_longer_than_asked() {
        let all = |host, longest| suffixes(host, longest).collect::<Vec<_>>();
        assert_eq!(all("a.b.c", 99), ["b.c", "c"]);
        assert_eq!(all("a.b.c", 3), ["b.c", "c"]);
        assert_eq!(all("a.b.c", 2), ["c"]);
        assert_eq!(all(".b.c", 99), ["c"], "something has to stand before the dot");
        assert!(all("localhost", 99).is_empty() && all("", 99).is_empty());
    }
}
