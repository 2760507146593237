//! The head of an HTTP/2 request, held to the rules that an HTTP/1.1 one is held to, and brought into its form.
//!
//! The library that reads frames has refused most of what RFC 9113 section 8 calls malformed before this runs: names in
//! upper case, pseudo-header fields that are repeated, unknown or behind a regular one, fields of a connection, a length
//! that is not the body's. What is left is what it does not look at, and what every later stage relies on: one `Host`,
//! and a target in origin form, so that a route, a key and a limit can not tell which protocol a request came by.

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::field::{self, PATH, QUERY, TOKEN};
use super::head::{HeadError, HeadLimits, Malformed, content_length};

/// What a head says about the message, beside its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Http2Head {
    /// The announced length of the body.
    pub length: Option<u64>,
    /// Whether a field name contains `_`, which many origins cannot tell from `-`.
    pub has_underscore_names: bool,
}

/// Refuses a head unless it can be read in one way only, and brings it into the form of HTTP/1.1: the authority as
/// `Host`, the target as a path, the crumbs of `Cookie` in one field (RFC 9113 section 8.2.3).
///
/// # Errors
/// See [`HeadError`]; only this stream is concerned.
pub fn inspect_http2(parts: &mut Parts, limits: &HeadLimits) -> Result<Http2Head, HeadError> {
    let method = parts.method.as_str();
    if method.len() > limits.method || is_tunnel(method) {
        return Err(HeadError::MethodNotImplemented);
    }
    let path = target(&parts.uri, &parts.method, limits)?;
    let head = fields(&parts.headers, method.len() + path.as_str().len(), limits)?;
    let host = host(&parts.uri, &parts.headers)?;
    if let Some(host) = host {
        parts.headers.insert(HOST, host);
    }
    join_cookies(&mut parts.headers);
    parts.uri = Uri::from(path);
    Ok(head)
}

/// Tunnels and loopbacks are no business of a gateway.
fn is_tunnel(method: &str) -> bool {
    method.eq_ignore_ascii_case("CONNECT") || method.eq_ignore_ascii_case("TRACE")
}

/// Path and query, held to the bytes that a target may consist of.
fn target(uri: &Uri, method: &Method, limits: &HeadLimits) -> Result<http::uri::PathAndQuery, HeadError> {
    let target = uri.path_and_query().ok_or(Malformed::TargetForm)?;
    let bytes = target.as_str().as_bytes();
    if bytes.len() > limits.target {
        return Err(HeadError::UriTooLong);
    }
    let path_end = memchr::memchr(b'?', bytes).unwrap_or(bytes.len());
    let (path, query) = bytes.split_at(path_end);
    let query = query.strip_prefix(b"?").unwrap_or_default();
    if field::run(path, PATH) != path.len() || query.iter().any(|&byte| !field::is(byte, QUERY)) {
        return Err(Malformed::TargetByte.into());
    }
    if path.starts_with(b"/") || (bytes == b"*" && method == Method::OPTIONS) {
        return Ok(target.clone());
    }
    Err(Malformed::TargetForm.into())
}

/// Looks at every field once. `used` is what the request line of HTTP/1.1 would have taken.
fn fields(headers: &HeaderMap, used: usize, limits: &HeadLimits) -> Result<Http2Head, HeadError> {
    if headers.len() > limits.fields {
        return Err(HeadError::HeadersTooLarge);
    }
    let mut size = used;
    let mut head = Http2Head::default();
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        size += name.len() + value.len() + 4;
        if field::run(name, TOKEN) != name.len() {
            return Err(Malformed::FieldName.into());
        }
        // RFC 9113 section 8.2.1: a space around a value would be lost on the way to an HTTP/1.1 service.
        if field::value_run(value.as_bytes()) != value.len() || field::trim(value.as_bytes()).len() != value.len() {
            return Err(Malformed::FieldValue.into());
        }
        head.has_underscore_names |= memchr::memchr(b'_', name).is_some();
    }
    if size > limits.bytes {
        return Err(HeadError::HeadersTooLarge);
    }
    if let Some(expected) = headers.get(EXPECT)
        && !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(HeadError::ExpectationFailed);
    }
    head.length = match only(headers, &CONTENT_LENGTH, Malformed::ContentLengthRepeated)? {
        Some(length) => Some(content_length(length.as_bytes()).ok_or(Malformed::ContentLengthInvalid)?),
        None => None,
    };
    Ok(head)
}

/// The host, when it does not stand in `Host` already. RFC 9113 section 8.3.1: `Host` may repeat the authority, and may
/// not say anything else.
fn host(uri: &Uri, headers: &HeaderMap) -> Result<Option<HeaderValue>, HeadError> {
    let field = only(headers, &HOST, Malformed::HostRepeated)?;
    let Some(authority) = uri.authority() else {
        let host = field.ok_or(Malformed::HostMissing)?;
        return match field::is_authority(host.as_bytes()) {
            true => Ok(None),
            false => Err(Malformed::HostInvalid.into()),
        };
    };
    let authority = authority.as_str().as_bytes();
    if !field::is_authority(authority) {
        return Err(Malformed::HostInvalid.into());
    }
    match field {
        Some(host) if !host.as_bytes().eq_ignore_ascii_case(authority) => Err(Malformed::TargetHostMismatch.into()),
        Some(_) => Ok(None),
        None => HeaderValue::from_bytes(authority)
            .map(Some)
            .map_err(|_| Malformed::HostInvalid.into()),
    }
}

/// The value of a field that may stand there once.
fn only<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    repeated: Malformed,
) -> Result<Option<&'a HeaderValue>, HeadError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(repeated.into()),
    }
}

fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(_), Some(_)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = Vec::new();
    for crumb in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(cookie) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder()
            .method(method)
            .uri(uri)
            .version(http::Version::HTTP_2);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn verdict(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Http2Head, HeadError> {
        inspect_http2(&mut request(method, uri, fields), &HeadLimits::default())
    }

    #[test]
    fn a_request_takes_the_form_of_http_1() {
        let mut parts = request(
            "GET",
            "https://api.example.com:8443/orders/1?x=%20y",
            &[("cookie", "a=1"), ("cookie", "b=2"), ("x_odd", "1")],
        );
        let head = inspect_http2(&mut parts, &HeadLimits::default()).unwrap();
        assert!(head.has_underscore_names);
        assert_eq!(head.length, None);
        assert_eq!(parts.headers[HOST], "api.example.com:8443");
        assert_eq!(parts.uri.to_string(), "/orders/1?x=%20y");
        assert!(parts.headers.get_all(COOKIE).iter().eq(["a=1; b=2"]));
    }

    #[test]
    fn host_may_repeat_the_authority_and_say_nothing_else() {
        assert!(verdict("GET", "http://a.example/", &[("host", "A.example")]).is_ok());
        assert!(verdict("GET", "/", &[("host", "a.example")]).is_ok());
        for (uri, fields, why) in [
            (
                "http://a.example/",
                &[("host", "b.example")][..],
                Malformed::TargetHostMismatch,
            ),
            (
                "http://a.example/",
                &[("host", "a.example"), ("host", "a.example")],
                Malformed::HostRepeated,
            ),
            ("http://u@a.example/", &[], Malformed::HostInvalid),
            ("/", &[("host", "u@a.example")], Malformed::HostInvalid),
            ("/", &[], Malformed::HostMissing),
        ] {
            assert_eq!(
                verdict("GET", uri, fields),
                Err(HeadError::Malformed(why)),
                "{uri} {fields:?}"
            );
        }
    }

    #[test]
    fn targets_are_held_to_the_bytes_of_http_1() {
        for bad in ["http://a/\"", "http://a/{x}`", "http://a/x?<"] {
            if let Ok(uri) = bad.parse::<Uri>() {
                let mut parts = request("GET", "http://a/", &[]);
                parts.uri = uri;
                let verdict = inspect_http2(&mut parts, &HeadLimits::default());
                assert!(
                    verdict.is_err() || !bad.contains(['`', '<']),
                    "{bad} was let in: {verdict:?}"
                );
            }
        }
        let long = format!("http://a/{}", "x".repeat(8192));
        assert_eq!(verdict("GET", &long, &[]), Err(HeadError::UriTooLong));
        let mut everything = request("OPTIONS", "*", &[("host", "a")]);
        assert!(inspect_http2(&mut everything, &HeadLimits::default()).is_ok());
        assert_eq!(
            verdict("GET", "*", &[("host", "a")]),
            Err(HeadError::Malformed(Malformed::TargetForm))
        );
    }

    #[test]
    fn methods_lengths_and_expectations_are_judged_as_in_http_1() {
        for method in ["CONNECT", "TRACE", "connect", &"X".repeat(33)] {
            assert_eq!(
                verdict(method, "http://a/", &[]),
                Err(HeadError::MethodNotImplemented),
                "{method}"
            );
        }
        assert_eq!(
            verdict("POST", "http://a/", &[("content-length", "5")]).unwrap().length,
            Some(5)
        );
        for (value, why) in [
            ("+5", Malformed::ContentLengthInvalid),
            ("5,5", Malformed::ContentLengthInvalid),
        ] {
            assert_eq!(
                verdict("POST", "http://a/", &[("content-length", value)]),
                Err(HeadError::Malformed(why))
            );
        }
        assert_eq!(
            verdict("POST", "http://a/", &[("content-length", "5"), ("content-length", "5")]),
            Err(HeadError::Malformed(Malformed::ContentLengthRepeated))
        );
        assert_eq!(
            verdict("POST", "http://a/", &[("expect", "miracles")]),
            Err(HeadError::ExpectationFailed)
        );
    }

    #[test]
    fn fields_are_bounded_in_number_and_size_and_have_no_spaces_around() {
        let limits = HeadLimits {
            bytes: 100,
            fields: 3,
            ..HeadLimits::default()
        };
        let verdict =
            |fields: &[(&str, &str)]| inspect_http2(&mut request("GET", "http://a/", fields), &limits).map(|_| ());
        assert_eq!(verdict(&[("a", "1"), ("b", "2"), ("c", "3")]), Ok(()));
        assert_eq!(
            verdict(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]),
            Err(HeadError::HeadersTooLarge)
        );
        assert_eq!(verdict(&[("a", &"x".repeat(100))]), Err(HeadError::HeadersTooLarge));
        let spaced = HeadError::Malformed(Malformed::FieldValue);
        assert_eq!(verdict(&[("a", " 1")]), Err(spaced));
        assert_eq!(verdict(&[("a", "1\t")]), Err(spaced));
    }
}
