//! What a request presents: a key, a token, nothing, or too much.
//!
//! A second credential is never ignored. Gateways that take the first of two and upstreams that take the last have
//! been a way around authorisation more than once, so two of a kind, or a key beside a token, is a refusal. An API
//! whose upstream wants an `Authorization` of its own renames its `token_header`.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::auth::{Denial, Invalid};
use crate::revision::CredentialPlaces;

/// What a request presents. The parts are secrets: there is no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential<'a> {
    /// The text of a key. Owned only when it was percent-encoded in the query.
    Key(Cow<'a, str>),
    /// A token.
    Token(&'a str),
}

/// Reads the one credential that the request presents, if any.
///
/// # Errors
/// [`Denial::CredentialAmbiguous`] for more than one, [`Invalid::Malformed`] for one that cannot be read.
pub fn extract<'a>(
    places: &CredentialPlaces,
    headers: &'a HeaderMap,
    query: Option<&'a str>,
) -> Result<Option<Credential<'a>>, Denial> {
    let from_header = match only(headers, &places.key_header)? {
        // One header for both: what is not a bearer token is a key.
        Some(value) if places.key_header == places.token_header => match bearer(value)? {
            Some(token) => Some(Credential::Token(token)),
            None => Some(Credential::Key(Cow::Borrowed(text(value)?))),
        },
        Some(value) => Some(Credential::Key(Cow::Borrowed(text(value)?))),
        None => None,
    };
    let from_query = match (&places.key_query, query) {
        (Some(name), Some(query)) => parameter(query, name)?.map(Credential::Key),
        _ => None,
    };
    let from_token = match only(headers, &places.token_header)? {
        Some(value) if places.key_header != places.token_header => bearer(value)?.map(Credential::Token),
        _ => None,
    };
    match (from_header, from_query, from_token) {
        (None, None, None) => Ok(None),
        (Some(one), None, None) | (None, Some(one), None) | (None, None, Some(one)) => Ok(Some(one)),
        _ => Err(Denial::CredentialAmbiguous),
    }
}

/// The headers that must not reach the upstream; none when the API forwards credentials.
pub fn headers_to_strip(places: &CredentialPlaces) -> impl Iterator<Item = &HeaderName> {
    [&places.key_header, &places.token_header]
        .into_iter()
        .filter(|_| !places.forward)
}

/// The query parameter that must not reach the upstream; none when the API forwards credentials.
#[must_use]
pub fn parameter_to_strip(places: &CredentialPlaces) -> Option<&str> {
    places.key_query.as_deref().filter(|_| !places.forward)
}

/// The query without any parameter of this name, however its name is encoded. Borrowed when there is none.
#[must_use]
pub fn strip_query_parameter<'a>(query: &'a str, name: &str) -> Cow<'a, str> {
    if !query.split('&').any(|pair| named(pair, name).is_some()) {
        return Cow::Borrowed(query);
    }
    let mut kept = String::with_capacity(query.len());
    for pair in query.split('&').filter(|pair| named(pair, name).is_none()) {
        if !kept.is_empty() {
            kept.push('&');
        }
        kept.push_str(pair);
    }
    Cow::Owned(kept)
}

/// The value of a header that may stand on one field line only.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Denial> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        _ => Err(Denial::CredentialAmbiguous),
    }
}

fn text(value: &HeaderValue) -> Result<&str, Denial> {
    value.to_str().map_err(|_| MALFORMED)
}

/// The token of `Bearer token`; `None` for other schemes, which are none of our business.
fn bearer(value: &HeaderValue) -> Result<Option<&str>, Denial> {
    let bytes = value.as_bytes();
    let Some((scheme, rest)) = bytes.split_at_checked(SCHEME.len()) else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Ok(None);
    }
    match rest {
        [b' ', token @ ..] if !token.is_empty() && token.iter().all(u8::is_ascii_graphic) => {
            std::str::from_utf8(token).map(Some).map_err(|_| MALFORMED)
        }
        // `Bearerish` is another scheme; `Bearer`, `Bearer  x`, `Bearer x y` and `Bearer,x` are ours and broken.
        [next, ..] if next.is_ascii_alphanumeric() => Ok(None),
        _ => Err(MALFORMED),
    }
}

/// The decoded value of a query parameter that may occur once only.
fn parameter<'a>(query: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, Denial> {
    let mut values = query.split('&').filter_map(|pair| named(pair, name));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => decode(value).map(Some).ok_or(MALFORMED),
        _ => Err(Denial::CredentialAmbiguous),
    }
}

/// The raw value of a pair that has this name once its name is decoded.
///
/// The name is compared decoded, because an upstream decodes it too: `%61pi_key` must neither escape the search for
/// duplicates nor the stripping.
fn named<'a>(pair: &'a str, name: &str) -> Option<&'a str> {
    let (raw, value) = pair.split_once('=').unwrap_or((pair, ""));
    let mut expected = name.bytes();
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' => b' ',
            other => other,
        };
        if expected.next() != Some(byte) {
            return None;
        }
    }
    expected.next().is_none().then_some(value)
}

/// Percent-decodes a value. `+` stays: no key contains a space, but keys in base64 contain a plus.
fn decode(value: &str) -> Option<Cow<'_, str>> {
    if !value.contains('%') {
        return Some(Cow::Borrowed(value));
    }
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            other => other,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

const SCHEME: &[u8] = b"bearer";
const MALFORMED: Denial = Denial::CredentialInvalid(Invalid::Malformed);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_read_from_its_header_and_from_the_query_only_if_the_api_says_so() {
        let headers = headers(&[("x-api-key", "k-12345678")]);
        assert_eq!(read(&places(), &headers, None), Ok(Some(key("k-12345678"))));

        let none = HeaderMap::new();
        assert_eq!(read(&places(), &none, Some("api_key=k-12345678")), Ok(None));
        assert_eq!(
            read(&with_query(), &none, Some("a=1&api_key=k-12345678")),
            Ok(Some(key("k-12345678")))
        );
        assert_eq!(read(&with_query(), &none, Some("a=1&api_keys=k")), Ok(None));
    }

    #[test]
    fn a_query_key_is_percent_decoded_and_borrowed_when_there_is_nothing_to_decode() {
        let none = HeaderMap::new();
        assert_eq!(
            read(&with_query(), &none, Some("api%5Fkey=a%2Bb%2fc+d")),
            Ok(Some(key("a+b/c+d")))
        );
        for broken in ["api_key=%", "api_key=%4", "api_key=%zz", "api_key=%ff%fe"] {
            assert_eq!(read(&with_query(), &none, Some(broken)), Err(MALFORMED), "{broken}");
        }
        let places = with_query();
        let Ok(Some(Credential::Key(text))) = extract(&places, &none, Some("api_key=plain")) else {
            panic!("no key")
        };
        assert!(matches!(text, Cow::Borrowed("plain")));
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(
                read(&places(), &headers, None),
                Ok(Some(Credential::Token("a.b.c"))),
                "{value}"
            );
        }
    }

    #[test]
    fn other_schemes_are_no_credential_of_ours() {
        for value in ["Basic dXNlcjpwYXNz", "Bearerish abc", "Digest a=b", "", "x"] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(read(&places(), &headers, None), Ok(None), "{value}");
        }
    }

    #[test]
    fn a_bearer_scheme_without_exactly_one_token_is_malformed() {
        for value in [
            "Bearer",
            "Bearer ",
            "Bearer  a",
            "Bearer a b",
            "Bearer a ",
            "Bearer\ta",
            "Bearer,a",
            "Bearer a\t",
        ] {
            let headers = headers(&[("authorization", value)]);
            assert_eq!(read(&places(), &headers, None), Err(MALFORMED), "{value:?}");
        }
        let mut raw = HeaderMap::new();
        raw.insert("authorization", HeaderValue::from_bytes(b"Bearer \xff\xfe").unwrap());
        assert_eq!(read(&places(), &raw, None), Err(MALFORMED));
        let mut raw = HeaderMap::new();
        raw.insert("x-api-key", HeaderValue::from_bytes(b"key\xff12345").unwrap());
        assert_eq!(read(&places(), &raw, None), Err(MALFORMED));
    }

    #[test]
    fn two_credentials_are_ambiguous_even_when_they_agree() {
        type Lines<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Lines, Option<&str>); 6] = [
            (&[("x-api-key", "same-key"), ("x-api-key", "same-key")], None),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer a")], None),
            (&[("authorization", "Basic a"), ("authorization", "Bearer a")], None),
            (&[("x-api-key", "k"), ("authorization", "Bearer a")], None),
            (&[("x-api-key", "k")], Some("api_key=k")),
            (&[], Some("api_key=k&%61pi_key=k")),
        ];
        for (lines, query) in cases {
            assert_eq!(
                read(&with_query(), &headers(lines), query),
                Err(Denial::CredentialAmbiguous),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_key_beside_a_foreign_scheme_is_one_credential() {
        let headers = headers(&[("x-api-key", "k-12345678"), ("authorization", "Basic dXNlcjpwYXNz")]);
        assert_eq!(read(&places(), &headers, None), Ok(Some(key("k-12345678"))));
    }

    #[test]
    fn one_header_may_carry_either_kind() {
        let mut places = places();
        places.key_header = HeaderName::from_static("authorization");
        assert_eq!(
            read(&places, &headers(&[("authorization", "Bearer a.b.c")]), None),
            Ok(Some(Credential::Token("a.b.c")))
        );
        assert_eq!(
            read(&places, &headers(&[("authorization", "k-12345678")]), None),
            Ok(Some(key("k-12345678")))
        );
    }

    #[test]
    fn what_carries_a_credential_is_named_for_stripping_unless_the_api_forwards_it() {
        let mut places = with_query();
        let names: Vec<_> = headers_to_strip(&places).map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-api-key", "authorization"]);
        assert_eq!(parameter_to_strip(&places), Some("api_key"));
        places.forward = true;
        assert_eq!(headers_to_strip(&places).count(), 0);
        assert_eq!(parameter_to_strip(&places), None);
    }

    #[test]
    fn stripping_a_parameter_leaves_the_others_as_they_were() {
        for (query, expected) in [
            ("a=1&b=%20", "a=1&b=%20"),
            ("api_key=k", ""),
            ("a=1&api_key=k&b=2", "a=1&b=2"),
            ("%61pi_key=k&a=1&api_key", "a=1"),
            ("", ""),
        ] {
            assert_eq!(strip_query_parameter(query, "api_key"), expected, "{query}");
        }
        assert!(matches!(
            strip_query_parameter("a=1&&b", "api_key"),
            Cow::Borrowed("a=1&&b")
        ));
    }

    proptest! {
        #[test]
        fn any_request_can_be_read(
            values in proptest::collection::vec((0_usize..3, proptest::collection::vec(any::<u8>(), 0..40)), 0..4),
            query in proptest::option::of("[a-z_&=%+0-9;é]{0,60}"),
        ) {
            let mut headers = HeaderMap::new();
            for (which, bytes) in values {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    headers.append(["x-api-key", "authorization", "x-other"][which], value);
                }
            }
            let _ = extract(&with_query(), &headers, query.as_deref());
        }

        #[test]
        fn what_is_stripped_is_not_found_again(query in "(api_key|%61pi_key|a|%zz|&|=|b){0,12}") {
            let stripped = strip_query_parameter(&query, "api_key");
            prop_assert_eq!(parameter(&stripped, "api_key"), Ok(None));
            prop_assert_eq!(strip_query_parameter(&stripped, "api_key"), stripped.as_ref());
        }
    }

    /// The credential with a printable error, for comparison only.
    fn read<'a>(
        places: &CredentialPlaces,
        headers: &'a HeaderMap,
        query: Option<&'a str>,
    ) -> Result<Option<Credential<'a>>, Denial> {
        extract(places, headers, query)
    }

    impl std::fmt::Debug for Credential<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Self::Key(text) => write!(f, "Key({text})"),
                Self::Token(text) => write!(f, "Token({text})"),
            }
        }
    }

    fn key(text: &str) -> Credential<'_> {
        Credential::Key(Cow::Borrowed(text))
    }

    fn places() -> CredentialPlaces {
        CredentialPlaces {
            key_header: HeaderName::from_static("x-api-key"),
            key_query: None,
            token_header: HeaderName::from_static("authorization"),
            forward: false,
        }
    }

    fn with_query() -> CredentialPlaces {
        CredentialPlaces {
            key_query: Some("api_key".to_owned()),
            ..places()
        }
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::try_from(*value).unwrap(),
            );
        }
        headers
    }
}
