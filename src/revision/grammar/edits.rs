//! The texts of what is changed on the way: names and values of header fields, origins, targets of redirects.

use http::{HeaderName, HeaderValue};
use schemars::{Schema, json_schema};

use super::super::edits::OriginPattern;
use super::is_host_name;
use super::path::TargetPath;
use crate::document::{Grammar, quote};

/// The longest value of a header field.
const LONGEST_VALUE: usize = 4096;

/// The name of any header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct FieldName(pub(in crate::revision) HeaderName);

impl Grammar for FieldName {
    const WHAT: &'static str = "the name of a header";

    fn read(text: &str) -> Result<Self, String> {
        HeaderName::from_bytes(text.as_bytes())
            .map(Self)
            .map_err(|_| format!("{} is not the name of a header", quote(text)))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "examples": ["X-Tenant"] })
    }
}

/// The value of a header field: printable ASCII on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct FieldValue(pub(in crate::revision) HeaderValue);

impl Grammar for FieldValue {
    const WHAT: &'static str = "the value of a header";

    fn read(text: &str) -> Result<Self, String> {
        // The text itself is not shown: it may be a credential.
        if text.contains(['\r', '\n', '\0']) {
            return Err("the value of a header can not have a line break or NUL in it".to_owned());
        }
        if text.len() > LONGEST_VALUE {
            return Err(format!("the value of a header is at most {LONGEST_VALUE} bytes long"));
        }
        let printable = |byte: u8| matches!(byte, b' '..=b'~' | b'\t');
        match HeaderValue::from_str(text) {
            Ok(value) if text.bytes().all(printable) && text.trim() == text => Ok(Self(value)),
            _ => Err("the value of a header is printable ASCII without spaces around it".to_owned()),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"], "maxLength": LONGEST_VALUE })
    }
}

/// The name of a cookie (RFC 6265 section 4.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct CookieName(pub(in crate::revision) String);

impl Grammar for CookieName {
    const WHAT: &'static str = "the name of a cookie";

    fn read(text: &str) -> Result<Self, String> {
        // A token, as the names of headers are.
        if text.len() > 128 || HeaderName::from_bytes(text.as_bytes()).is_err() {
            return Err(format!("{} is not the name of a cookie", quote(text)));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$", "examples": ["session"] })
    }
}

/// An entry of a CORS list of methods or header fields: a token, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct CorsToken(pub(in crate::revision) String);

impl Grammar for CorsToken {
    const WHAT: &'static str = "a name, or *";

    fn read(text: &str) -> Result<Self, String> {
        if HeaderName::from_bytes(text.as_bytes()).is_err() {
            return Err(format!("{} is neither a name nor *", quote(text)));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$" })
    }
}

/// An origin as browsers send it (RFC 6454 section 6.2), or a pattern of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct OriginText(pub(in crate::revision) OriginPattern);

impl Grammar for OriginText {
    const WHAT: &'static str = "an origin such as https://app.example.com";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            Err(format!(
                "{} {why}; write scheme, host and port as browsers send them, such as https://app.example.com or \
                 https://*.example.org:8443",
                quote(text)
            ))
        };
        match text {
            "*" => return Ok(Self(OriginPattern::Any)),
            "null" => return Ok(Self(OriginPattern::Exact(text.to_owned()))),
            _ => {}
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return wrong("has to be lower case");
        }
        let Some((scheme, authority)) = text.split_once("://") else {
            return wrong("has no scheme");
        };
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && (scheme.bytes())
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
        if !is_scheme {
            return wrong("has no scheme that browsers know");
        }
        if authority.contains(['/', '?', '#']) {
            return wrong("has more than an origin has: no slash at the end, no path");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        if let Some(port) = port {
            let number = port.parse::<u16>().ok().filter(|number| number.to_string() == port);
            match (scheme, number) {
                (_, None | Some(0)) => return wrong("has no port from 1 to 65535 behind its colon"),
                ("http", Some(80)) | ("https", Some(443)) => {
                    return wrong("has the port that browsers leave out; leave it out");
                }
                _ => {}
            }
        }
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        if let Some(suffix) = host.strip_prefix("*.") {
            if !is_host_name(suffix) {
                return wrong("has no host name behind *.");
            }
            return Ok(Self(OriginPattern::Subdomains {
                prefix: format!("{scheme}://"),
                suffix: format!(".{suffix}{port}"),
            }));
        }
        if host.contains('*') {
            return wrong("has a * where none can be; it stands for whole labels at the front: *.example.org");
        }
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_address = bracketed.is_some_and(|address| {
            (address.parse::<std::net::Ipv6Addr>()).is_ok_and(|parsed| parsed.to_string() == address)
        });
        if !is_address && !is_host_name(host) {
            return wrong("has no host name");
        }
        Ok(Self(OriginPattern::Exact(text.to_owned())))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^(\*|null|[a-z][a-z0-9+.-]*://[^/?#]+)$",
            "examples": ["https://app.example.com", "https://*.example.org", "*"]
        })
    }
}

/// Where a redirect leads: a path, or an `http:` or `https:` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct RedirectTarget {
    /// Scheme and authority; none for a path on the same host.
    pub(in crate::revision) origin: Option<String>,
    pub(in crate::revision) path: String,
}

impl Grammar for RedirectTarget {
    const WHAT: &'static str = "a path such as /new/* or a URL";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("the target {} {why}", quote(text)));
        if text.starts_with('/') {
            let TargetPath(path) = TargetPath::read(text)?;
            return Ok(Self { origin: None, path });
        }
        let Some((scheme, rest)) = text
            .split_once("://")
            .filter(|(scheme, _)| ["http", "https"].contains(scheme))
        else {
            return wrong("is neither a path that starts with / nor an http: or https: URL");
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        if authority.contains(['{', '}', '*']) {
            return wrong("takes its host from the request, which would let clients choose where others are sent");
        }
        match authority.parse::<http::uri::Authority>() {
            Ok(parsed) if !authority.contains('@') && !parsed.host().is_empty() => {}
            _ => return wrong("has no host that a browser could go to"),
        }
        let TargetPath(path) = TargetPath::read(path)?;
        Ok(Self {
            origin: Some(format!("{scheme}://{authority}")),
            path,
        })
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^(/|https?://)[^?#;\\]*$",
            "examples": ["/new/*", "https://new.example.com/{id}"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{accepts, refuses};
    use super::*;

    #[test]
    fn the_value_of_a_header_stays_on_its_line() {
        accepts::<FieldValue>(&["", "1", "a b", "max-age=1; x=\"y\""]);
        for text in ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"] {
            refuses::<FieldValue>(text, "line break");
        }
        for text in [" a", "a ", "caf\u{e9}", "\u{7f}"] {
            refuses::<FieldValue>(text, "printable ASCII");
        }
        refuses::<FieldValue>(&"x".repeat(5000), "at most 4096");
    }

    #[test]
    fn an_origin_is_what_browsers_send_and_a_wildcard_stands_for_whole_labels() {
        accepts::<OriginText>(&[
            "*",
            "null",
            "https://app.example.com",
            "http://localhost:3000",
            "https://*.example.org",
            "https://*.example.org:8443",
            "http://[::1]:3000",
            "capacitor://localhost",
        ]);
        for (text, expected) in [
            ("app.example.com", "no scheme"),
            ("https://App.example.com", "lower case"),
            ("https://app.example.com/", "no slash at the end"),
            ("https://app.example.com:443", "leave it out"),
            ("http://app.example.com:080", "no port"),
            ("https://app.*.com", "* where none can be"),
            ("https://*example.org", "* where none can be"),
            ("https://*.", "no host name"),
            ("https://", "no host name"),
            ("https://a@b", "no host name"),
        ] {
            refuses::<OriginText>(text, expected);
        }
    }

    #[test]
    fn the_host_of_a_redirect_is_written_and_never_taken_from_a_request() {
        accepts::<RedirectTarget>(&[
            "/",
            "/new/*",
            "/{id}",
            "https://new.example.com",
            "http://h:8080/a/{b}/*",
        ]);
        for (text, expected) in [
            ("//evil.example.com", "empty segment"),
            ("/\\evil", "different ways"),
            ("https://{host}/", "clients choose"),
            ("https://*.example.com/", "clients choose"),
            ("https://a@b/", "no host"),
            ("https:///x", "no host"),
            ("javascript:alert(1)", "neither a path"),
            ("ftp://h/", "neither a path"),
            ("new", "neither a path"),
            ("/a?b", "query"),
            ("/a\r\nX: y", "percent-encoded"),
        ] {
            refuses::<RedirectTarget>(text, expected);
        }
    }
}
