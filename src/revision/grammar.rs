//! The texts of a revision: hosts, methods, hashes; paths are in `path`. Each says what was expected when it is not met.

mod edits;
mod path;

use jiff::Timestamp;
use jsonwebtoken::Algorithm;
use schemars::{Schema, json_schema};

pub(super) use edits::{CookieName, CorsToken, FieldName, FieldValue, OriginText, RedirectTarget};
pub(super) use path::{BasePath, RoutePath, TargetPath};

use super::HostPattern;
use crate::document::{Grammar, did_you_mean, quote};
use crate::san::San;

/// A host or a wildcard of hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostText(pub(super) HostPattern);

impl Grammar for HostText {
    const WHAT: &'static str = "a host name";

    fn read(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        if lower != text {
            return Err(format!("host {} has to be lower case: {}", quote(text), quote(&lower)));
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            if is_host_name(suffix) {
                return Ok(Self(HostPattern::Wildcard(suffix.to_owned())));
            }
            return Err(format!("{} is not a host name after *.", quote(text)));
        }
        if text.contains('*') {
            return Err(format!(
                "{} has a * where none can be; only *.example.org, as the whole first label, is a wildcard \
                 (for every host, leave `hosts` out)",
                quote(text)
            ));
        }
        if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return match address.parse::<std::net::Ipv6Addr>() {
                Ok(address) => Ok(Self(HostPattern::Exact(format!("[{address}]")))),
                Err(_) => Err(format!("{} is not an IPv6 address in brackets", quote(text))),
            };
        }
        if text.contains("://") || text.contains('/') {
            return Err(format!("{} is a URL; write only its host", quote(text)));
        }
        if let Some((host, port)) = text.rsplit_once(':')
            && is_host_name(host)
            && port.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(format!(
                "{} has a port; write only the host, it counts on every port",
                quote(text)
            ));
        }
        if text.ends_with('.') && is_host_name(text.trim_end_matches('.')) {
            return Err(format!("{} ends in a dot; write it without", quote(text)));
        }
        if !text.is_ascii() {
            return Err(format!(
                "{} is not ASCII; write the host as it is sent, in its xn-- form",
                quote(text)
            ));
        }
        if !is_host_name(text) {
            return Err(format!("{} is not a host name", quote(text)));
        }
        Ok(Self(HostPattern::Exact(text.to_owned())))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$|^\[[0-9a-f:.]+\]$",
            "examples": ["api.example.com", "*.example.org"]
        })
    }
}

/// Lower-case labels of letters, digits, `-` and `_`; an IPv4 address is one too.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// A service in DNS, as RFC 2782 names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceName(pub(super) String);

impl Grammar for ServiceName {
    const WHAT: &'static str = "a service in DNS such as _http._tcp.orders.internal";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{} {why}; write the name of its SRV records, such as _http._tcp.orders.internal",
                quote(text)
            )
        };
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        if name.len() > 253 || !name.contains('.') {
            return Err(wrong("is not a service in DNS"));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && (label.bytes()).all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if !name.split('.').all(is_label) {
            return Err(wrong("is not a name in DNS"));
        }
        Ok(Self(name))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["_http._tcp.orders.internal"] })
    }
}

/// A host and a port of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Grammar for Address {
    const WHAT: &'static str = "a host and port such as 10.0.0.1:8080";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "{} {why}; write host:port, such as 10.0.0.1:8080, orders.internal:8080 or [2001:db8::1]:8080",
                quote(text)
            )
        };
        if text.contains('/') {
            return Err(wrong("is not an address (no scheme and no path here)"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(wrong("has no port"));
        };
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 && !text.ends_with("+0") => port,
            _ => return Err(wrong("has no port from 1 to 65535")),
        };
        if let Some(address) = host.strip_prefix('[') {
            let address = address
                .strip_suffix(']')
                .and_then(|address| address.parse::<std::net::Ipv6Addr>().ok());
            return match address {
                Some(address) => Ok(Self {
                    host: address.to_string(),
                    port,
                }),
                None => Err(wrong("is not an IPv6 address in brackets")),
            };
        }
        if host.contains(':') {
            return Err(wrong("needs brackets around its IPv6 address"));
        }
        let host = host.to_ascii_lowercase();
        if !is_host_name(host.strip_suffix('.').unwrap_or(&host)) {
            return Err(wrong("is not an address"));
        }
        // What ends in a number is meant as an IPv4 address, and resolvers disagree about everything else.
        let numeric = host
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if numeric && host.parse::<std::net::Ipv4Addr>().is_err() {
            return Err(wrong("is not an IPv4 address"));
        }
        Ok(Self { host, port })
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r":[0-9]+$",
            "examples": ["10.0.0.1:8080", "orders.internal:8080", "[2001:db8::1]:8080"]
        })
    }
}

/// A request method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Method(pub(super) String);

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

impl Grammar for Method {
    const WHAT: &'static str = "a method such as GET";

    fn read(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        if METHODS.contains(&text) {
            return Ok(Self(text.to_owned()));
        }
        if upper != text && METHODS.contains(&upper.as_str()) {
            return Err(format!(
                "methods are case-sensitive; write {} for {}",
                quote(&upper),
                quote(text)
            ));
        }
        if text == "*" {
            return Err("for every method, leave `methods` out".to_owned());
        }
        if text == "CONNECT" {
            return Err("CONNECT asks for a tunnel, and a gateway opens none".to_owned());
        }
        let token = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        let meant = did_you_mean(text, METHODS);
        if text.is_empty() || text.len() > 32 || !text.bytes().all(token) || !meant.is_empty() {
            return Err(format!(
                "{} is not a method; a method is a word in upper case{meant}",
                quote(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Z0-9_-]{1,32}$", "examples": METHODS })
    }
}

/// A scope as it stands in tokens (RFC 6749 section 3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScopeToken(pub(super) String);

impl Grammar for ScopeToken {
    const WHAT: &'static str = "a scope such as orders:write";

    fn read(text: &str) -> Result<Self, String> {
        let allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if text.is_empty() || text.len() > 256 || !text.bytes().all(allowed) {
            return Err(format!(
                "{} is not a scope; write one scope for each item, in ASCII, without spaces and quotes",
                quote(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[!#-\[\]-~]{1,256}$", "examples": ["orders:write"] })
    }
}

/// SHA-256 in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sha256(pub(super) [u8; 32]);

impl Grammar for Sha256 {
    const WHAT: &'static str = "64 hex digits";

    fn read(text: &str) -> Result<Self, String> {
        let wrong = || {
            // Not the text itself: whoever mistakes this for the place of the key has just written the key.
            format!(
                "expected the 64 hex digits of a SHA-256, found {} characters; `tollgate key new` prints the record \
                 of a key",
                text.chars().count()
            )
        };
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(wrong());
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let value = hex(digit.to_ascii_uppercase()).ok_or_else(wrong)?;
                *byte = *byte << 4 | value;
            }
        }
        Ok(Self(hash))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9a-fA-F]{64}$" })
    }
}

/// An instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry(pub(super) Timestamp);

impl Grammar for Expiry {
    const WHAT: &'static str = "an instant such as 2027-01-01T00:00:00Z";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!(
                "{} is not an instant; write date, time and offset, such as 2027-01-01T00:00:00Z",
                quote(text)
            )
        })
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}",
            "examples": ["2027-01-01T00:00:00Z"]
        })
    }
}

impl Grammar for San {
    const WHAT: &'static str = "a name in a certificate such as uri:spiffe://example.org/mobile";

    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|why| format!("{}: {why}", quote(text)))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(uri|dns|email|ip):",
            "examples": ["uri:spiffe://example.org/mobile", "dns:mobile.example.org"]
        })
    }
}

/// A time zone of the IANA database, as the database spells it. None is UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ZoneName(pub(super) Option<String>);

/// Names of UTC itself: with them a limit is what it is without `time_zone`, down to the name of its counter.
const UTC: [&str; 6] = ["UTC", "Etc/UTC", "Etc/UCT", "Etc/Universal", "Etc/Zulu", "Zulu"];

impl Grammar for ZoneName {
    const WHAT: &'static str = "a time zone such as Europe/Berlin";

    fn read(text: &str) -> Result<Self, String> {
        // Offsets have no summer time, and abbreviations are not unique, so there are names only.
        let zone = jiff::tz::db().get(text).ok().filter(|zone| !zone.is_unknown());
        match zone.as_ref().and_then(|zone| zone.iana_name()) {
            Some(name) if UTC.contains(&name) => Ok(Self(None)),
            Some(name) => Ok(Self(Some(name.to_owned()))),
            None => Err(format!(
                "{} is not a time zone; write its IANA name, such as Europe/Berlin{}",
                quote(text),
                zone_meant(text)
            )),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "examples": ["Europe/Berlin", "America/New_York"] })
    }
}

/// The zone that somebody may have meant: one whose city it is, or one that is spelled nearly so.
fn zone_meant(text: &str) -> String {
    let names: Vec<_> = jiff::tz::db().available().collect();
    let names = || names.iter().map(jiff::tz::TimeZoneName::as_str);
    let city = text.replace(' ', "_");
    let with_city = names().find(|name| {
        name.rsplit_once('/')
            .is_some_and(|(_, last)| last.eq_ignore_ascii_case(&city))
    });
    match with_city {
        Some(name) => format!("; did you mean {}?", quote(name)),
        None => did_you_mean(text, names()),
    }
}

/// A header that may carry a credential; lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header(pub(super) http::HeaderName);

/// Headers that say how a request is framed, routed or forwarded; read as a credential they would be cut out.
const NOT_FOR_CREDENTIALS: [&str; 14] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "cookie",
    "x-application",
    "x-key-type",
    "x-request-id",
];

impl Grammar for Header {
    const WHAT: &'static str = "the name of a header";

    fn read(text: &str) -> Result<Self, String> {
        let Ok(name) = http::HeaderName::from_bytes(text.as_bytes()) else {
            return Err(format!("{} is not the name of a header", quote(text)));
        };
        if NOT_FOR_CREDENTIALS.contains(&name.as_str()) {
            return Err(format!(
                "the header {} has another meaning and cannot carry a credential",
                quote(text)
            ));
        }
        Ok(Self(name))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", "examples": ["X-API-Key"] })
    }
}

/// A query parameter that may carry a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter(pub(super) String);

impl Grammar for Parameter {
    const WHAT: &'static str = "the name of a query parameter";

    fn read(text: &str) -> Result<Self, String> {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(unreserved) {
            return Err(format!(
                "{} cannot be the name of a query parameter; write letters, digits, - . _ and ~",
                quote(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9._~-]{1,128}$", "examples": ["api_key"] })
    }
}

/// A signature algorithm of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AlgorithmName(pub(super) Algorithm);

const ALGORITHMS: [&str; 12] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512",
];

impl Grammar for AlgorithmName {
    const WHAT: &'static str = "an algorithm such as RS256";

    fn read(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("none") {
            return Err(
                "\"none\" would let in tokens that nobody has signed; name what the issuer signs with".to_owned(),
            );
        }
        text.parse().map(Self).map_err(|_| {
            format!(
                "{} is not an algorithm; there are {}{}",
                quote(text),
                ALGORITHMS.join(", "),
                did_you_mean(text, ALGORITHMS)
            )
        })
    }

    fn schema() -> Schema {
        json_schema!({ "enum": ALGORITHMS })
    }
}

/// The value of an upper-case hex digit, which is how normal form writes them.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn refuses<T: Grammar>(text: &str, expected: &str) {
        match T::read(text) {
            Ok(_) => panic!("{text:?} was accepted"),
            Err(message) => assert!(message.contains(expected), "{text:?} gave: {message}"),
        }
    }

    pub(super) fn accepts<T: Grammar>(texts: &[&str]) {
        for text in texts {
            if let Err(message) = T::read(text) {
                panic!("{text:?} was refused: {message}");
            }
        }
    }

    #[test]
    fn hosts_are_lower_case_names_without_port_or_a_leading_wildcard() {
        accepts::<HostText>(&[
            "api.example.com",
            "localhost",
            "10.0.0.1",
            "[::1]",
            "xn--bcher-kva.example",
            "a_b.c",
        ]);
        assert_eq!(
            HostText::read("*.example.org"),
            Ok(HostText(HostPattern::Wildcard("example.org".into())))
        );
        for (text, expected) in [
            ("API.example.com", "lower case: \"api.example.com\""),
            ("api.example.com:8080", "has a port"),
            ("https://api.example.com", "is a URL"),
            ("a.*.org", "has a *"),
            ("*", "leave `hosts` out"),
            ("*.", "not a host name"),
            ("api.example.com.", "ends in a dot"),
            ("bücher.example", "xn--"),
            ("-a.example", "not a host name"),
            ("a..b", "not a host name"),
            ("", "not a host name"),
            ("[::x]", "not an IPv6"),
        ] {
            refuses::<HostText>(text, expected);
        }
    }

    #[test]
    fn addresses_are_a_host_and_a_port() {
        let address = |text: &str| Address::read(text).map(|address| (address.host, address.port));
        assert_eq!(address("10.0.0.1:80"), Ok(("10.0.0.1".into(), 80)));
        assert_eq!(address("[2001:DB8::1]:443"), Ok(("2001:db8::1".into(), 443)));
        assert_eq!(address("Orders.internal:8080"), Ok(("orders.internal".into(), 8080)));
        for (text, expected) in [
            ("10.0.0.1", "has no port"),
            ("10.0.0.1:0", "from 1 to 65535"),
            ("10.0.0.1:65536", "from 1 to 65535"),
            ("http://10.0.0.1:80", "no scheme"),
            ("::1:80", "brackets"),
            ("[::1:80", "brackets"),
            ("10.0.0.256:80", "IPv4"),
            ("a b:80", "is not an address"),
            (":80", "is not an address"),
            ("unix:/run/x", "no scheme"),
        ] {
            refuses::<Address>(text, expected);
        }
    }

    #[test]
    fn methods_are_words_in_upper_case() {
        accepts::<Method>(&["GET", "DELETE", "PURGE", "PROPFIND", "VERSION-CONTROL"]);
        refuses::<Method>("get", "write \"GET\"");
        refuses::<Method>("PSOT", "did you mean \"POST\"?");
        refuses::<Method>("CONNECT", "tunnel");
        refuses::<Method>("*", "leave `methods` out");
        refuses::<Method>("GET POST", "not a method");
        refuses::<Method>("", "not a method");
    }

    #[test]
    fn a_key_written_in_the_place_of_its_hash_is_not_repeated() {
        accepts::<Sha256>(&[&"a0".repeat(32), &"A0".repeat(32)]);
        for text in ["sk_live_4f9a", &"g0".repeat(32), &"ä".repeat(32)] {
            let message = Sha256::read(text).unwrap_err();
            assert!(!message.contains(text), "{message}");
        }
    }

    #[test]
    fn algorithms_go_by_name_and_none_is_none_of_them() {
        accepts::<AlgorithmName>(&ALGORITHMS);
        refuses::<AlgorithmName>("none", "nobody has signed");
        refuses::<AlgorithmName>("None", "nobody has signed");
        refuses::<AlgorithmName>("RS265", "did you mean \"RS256\"?");
        refuses::<AlgorithmName>("rs256", "did you mean \"RS256\"?");
    }

    #[test]
    fn credentials_cannot_be_read_from_headers_that_mean_something_else() {
        accepts::<Header>(&["X-API-Key", "authorization", "X-Token"]);
        refuses::<Header>("Host", "another meaning");
        refuses::<Header>("X Key", "not the name");
        accepts::<Parameter>(&["api_key", "key"]);
        refuses::<Parameter>("a=b", "cannot be");
    }

    #[test]
    fn time_zones_go_by_their_iana_names_and_utc_is_none() {
        for (text, zone) in [
            ("Europe/Berlin", Some("Europe/Berlin")),
            ("america/new_york", Some("America/New_York")),
            ("UTC", None),
            ("Etc/UTC", None),
        ] {
            assert_eq!(ZoneName::read(text), Ok(ZoneName(zone.map(str::to_owned))), "{text}");
        }
        refuses::<ZoneName>("Europe/Belrin", "did you mean \"Europe/Berlin\"?");
        refuses::<ZoneName>("Berlin", "did you mean \"Europe/Berlin\"?");
        refuses::<ZoneName>("new york", "did you mean \"America/New_York\"?");
        for text in [
            "+02:00",
            "CEST2",
            "",
            "Etc/Unknown",
            "../../etc/passwd",
            "/etc/localtime",
        ] {
            refuses::<ZoneName>(text, "is not a time zone; write its IANA name");
        }
    }

    #[test]
    fn expiry_needs_an_offset_and_scopes_no_spaces() {
        accepts::<Expiry>(&["2027-01-01T00:00:00Z", "2027-01-01T00:00:00+02:00"]);
        refuses::<Expiry>("2027-01-01", "date, time and offset");
        refuses::<Expiry>("2027-01-01T00:00:00", "date, time and offset");
        accepts::<ScopeToken>(&["orders:write", "https://example.com/scope"]);
        refuses::<ScopeToken>("read write", "one scope for each item");
    }
}
