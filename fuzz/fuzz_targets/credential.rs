//! What a client presents as a credential: read without a panic, and never as two.
#![no_main]

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tollgate::auth::credential::{self, Credential};
use tollgate::auth::{jwt, key};
use tollgate::revision::CredentialPlaces;

// A line for the key's header, one for the token's, and the query.
fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(3, |&byte| byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (api_key, authorization) = (line(), line());
    let Ok(query) = std::str::from_utf8(line()) else { return };
    let places = CredentialPlaces {
        key_header: HeaderName::from_static("x-api-key"),
        key_query: Some("key".to_owned()),
        token_header: AUTHORIZATION,
        forward: false,
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [(&places.key_header, api_key), (&places.token_header, authorization)] {
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let stripped = credential::strip_query_parameter(query, "key");
    assert_eq!(credential::strip_query_parameter(&stripped, "key"), stripped);
    match credential::extract(&places, &headers, Some(query)) {
        Ok(Some(Credential::Key(text))) => drop(key::inspect(&text)),
        Ok(Some(Credential::Token(text))) => token(text),
        Ok(None) | Err(_) => {}
    }
    token(query);
});

fn token(text: &str) {
    let _ = jwt::parse::header(text.as_bytes());
    let _ = jwt::parse::claims(text.as_bytes(), Some("azp"));
    let Ok(parts) = jwt::parse::split(text) else { return };
    let (header, claims) = (jwt::parse::decode(parts.header), jwt::parse::decode(parts.payload));
    let _ = header.map(|header| jwt::parse::header(&header));
    let _ = claims.map(|claims| jwt::parse::claims(&claims, Some("azp")));
}
