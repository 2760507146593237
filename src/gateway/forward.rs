//! What goes to the upstream and what does not: forwarding headers, identity, credentials, the target.
//!
//! The engine strips hop-by-hop fields (RFC 9110 section 7.6.1) before this runs, so nothing that a client nominates in
//! `Connection` can take away what is set here.
//!
//! Names go out in lower case both ways, as in HTTP/2, but for some that the engine spells itself. It would keep the
//! sender's spelling in a second map beside the first, and then every field that is added costs three allocations and
//! two insertions more: together a tenth of what a whole request costs.

use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode};
use ipnet::IpNet;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};
use smallvec::SmallVec;

use super::grpc::GRPC_TIMEOUT;
use super::refusal::X_REQUEST_ID;
use super::request_id::Ids;
use crate::edit::fields::FieldEdits;

/// Who called, for the upstream.
pub const X_APPLICATION: HeaderName = HeaderName::from_static("x-application");
/// What kind of key was used, for the upstream.
pub const X_KEY_TYPE: HeaderName = HeaderName::from_static("x-key-type");
/// W3C Trace Context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields that only a gateway or a trusted proxy may set: dropped when a stranger sends them.
const FORWARDING: [&str; 6] = [
    "forwarded",
    "x-real-ip",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-client-ip",
];

/// Fields that claim an identity or override what was matched: dropped whoever sends them. Upstreams of other gateways
/// trust the `x-consumer-*` family, so it is not let through either.
const NEVER: [&str; 20] = [
    "x-application",
    "x-key-type",
    "x-consumer-id",
    "x-consumer-custom-id",
    "x-consumer-username",
    "x-consumer-groups",
    "x-credential-identifier",
    "x-anonymous-consumer",
    "x-authenticated-userid",
    "x-authenticated-scope",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "client-cert",
    "client-cert-chain",
    "x-client-cert",
    "x-forwarded-client-cert",
    "x-ssl-client-cert",
];

/// How many fields are added at most, so that the map grows once.
const ADDED_MAX: usize = 7;

/// Whom to believe about the client, and who it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin {
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Whether the socket's peer is a trusted proxy.
    pub trusted: bool,
}

impl Origin {
    /// Finds the client. Behind trusted proxies it is the rightmost address of `X-Forwarded-For` that is not one of
    /// them: what stands further left was written by the client itself.
    #[must_use]
    pub fn find(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
        if trusted.is_empty() || !peer.as_ref().is_some_and(is_trusted) {
            return Self {
                client: peer,
                trusted: false,
            };
        }
        let mut client = peer;
        'fields: for field in headers.get_all(X_FORWARDED_FOR).iter().rev() {
            for entry in field.to_str().unwrap_or_default().rsplit(',') {
                let Some(address) = parse_address(entry.trim()) else {
                    break 'fields;
                };
                client = Some(address);
                if !is_trusted(&address) {
                    break 'fields;
                }
            }
        }
        Self { client, trusted: true }
    }
}

/// What is told to the upstream about a request.
pub struct Told<'a> {
    /// Where it came from.
    pub origin: Origin,
    /// The address of the connection's peer, as text; made once for a connection.
    pub peer: Option<&'a HeaderValue>,
    /// `https` or `http`: how the client spoke to this gateway.
    pub scheme: &'static str,
    /// Its ids.
    pub ids: &'a Ids,
    /// The application's name, when there is one.
    pub application: Option<&'a HeaderValue>,
    /// The key's type, when a key was used.
    pub key_type: Option<&'static str>,
    /// Header fields that carry credentials of this API and are not passed on.
    pub credentials: &'a [HeaderName],
    /// Whether the client sent names with underscores, which some servers take for hyphens.
    pub underscores: bool,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// What is left of such a call's own time, when it brought any.
    pub grpc_timeout: Option<HeaderValue>,
    /// What API and route change, in this order.
    pub edits: [Option<&'a FieldEdits>; 2],
}

/// Forgets how the client spelled the names. Before the engine copies the header for the upstream: it would copy the
/// spelling too, only to have it dropped in [`prepare`].
pub fn forget_spelling(request: &mut RequestHeader) {
    *request = RequestHeader::from(take_parts(request));
}

/// Makes the request for the upstream out of the client's.
pub fn prepare(request: &mut RequestHeader, told: &Told<'_>) {
    let mut parts = take_parts(request);
    let headers = &mut parts.headers;
    headers.reserve(ADDED_MAX);
    strip(headers, told);

    let trusted = told.origin.trusted;
    match forwarded_for(headers, told) {
        Some(chain) => headers.insert(X_FORWARDED_FOR, chain),
        None => headers.remove(X_FORWARDED_FOR),
    };
    if !trusted || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(told.scheme));
    }
    if (!trusted || !headers.contains_key(X_FORWARDED_HOST))
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_REQUEST_ID, told.ids.request_id().clone());
    headers.insert(TRACEPARENT, told.ids.traceparent().clone());
    if let Some(application) = told.application {
        headers.insert(X_APPLICATION, application.clone());
    }
    if let Some(key_type) = told.key_type {
        headers.insert(X_KEY_TYPE, HeaderValue::from_static(key_type));
    }
    if told.grpc {
        // The engine has dropped it with the fields of the connection; servers of gRPC take a call without it for one
        // that came through something which loses trailers.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = &told.grpc_timeout {
            headers.insert(GRPC_TIMEOUT, timeout.clone());
        }
    }
    for edits in told.edits.into_iter().flatten() {
        edits.apply(headers);
    }
    *request = RequestHeader::from(parts);
}

/// The parts of a request, without the spelling of its names. The target is in origin form or `*` here (the connection
/// has seen to that), which is what a header can tell from its parts.
fn take_parts(request: &mut RequestHeader) -> http::request::Parts {
    let blank = RequestHeader::from(http::Request::new(()).into_parts().0);
    std::mem::replace(request, blank).into()
}

/// Tells the client about its request, in the answer of the upstream.
pub fn tell(response: &mut ResponseHeader, add: impl FnOnce(&mut HeaderMap)) {
    let blank = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let answer = std::mem::replace(response, blank);
    let canonical = answer.status.canonical_reason();
    let reason = answer
        .get_reason_phrase()
        .filter(|reason| Some(*reason) != canonical)
        .map(str::to_owned);
    let mut parts = http::response::Parts::from(answer);
    add(&mut parts.headers);
    *response = ResponseHeader::from(parts);
    if reason.is_some() {
        // The upstream's own, so it can be said again.
        let _ = response.set_reason_phrase(reason.as_deref());
    }
}

/// Drops what must not reach the upstream. The names that came are looked at once each; looking up each name that must
/// not come would hash two dozen names for every request.
fn strip(headers: &mut HeaderMap, told: &Told<'_>) {
    for name in told.credentials {
        headers.remove(name);
    }
    let reserved: SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| is_reserved(name.as_str(), told))
        .cloned()
        .collect();
    for name in &reserved {
        headers.remove(name);
    }
}

fn is_reserved(name: &str, told: &Told<'_>) -> bool {
    let is_one = |name: &str| NEVER.contains(&name) || (!told.origin.trusted && FORWARDING.contains(&name));
    // Nearly all of them begin alike. `Client-Cert` is whoever ends TLS to tell (RFC 9440 section 4).
    if (name.starts_with("x-") || name == FORWARDING[0] || name.starts_with("client-cert")) && is_one(name) {
        return true;
    }
    told.underscores && is_lookalike(name, told)
}

/// `X_Application` is `X-Application` to a CGI server: such names are dropped when they look like a field of ours.
fn is_lookalike(name: &str, told: &Told<'_>) -> bool {
    if !name.contains('_') {
        return false;
    }
    let plain = name.replace('_', "-");
    let ours = [
        X_FORWARDED_FOR,
        X_FORWARDED_PROTO,
        X_FORWARDED_HOST,
        X_REQUEST_ID,
        TRACEPARENT,
    ];
    NEVER.contains(&plain.as_str())
        || FORWARDING.contains(&plain.as_str())
        || ours.iter().chain(told.credentials).any(|own| own.as_str() == plain)
}

/// Whether an answer may go on for as long as both sides like: a tunnel, or a stream of events.
#[must_use]
pub fn is_long_lived(response: &ResponseHeader) -> bool {
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return true;
    }
    let content_type = response.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| {
        let media_type = value.split(|&byte| byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// Makes sure that a client can read the upstream's answer in one way only, the way it was read here: the engine passes
/// repeated lengths and other encodings on as they came, and an old version with an encoding it does not have.
///
/// # Errors
/// When its encoding is not exactly one `chunked`, so what its content is cannot be said.
pub fn frame_once(response: &mut ResponseHeader) -> Result<()> {
    let mut encodings = response.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next()
        && (encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "transfer encoding").into_up());
    }
    let mut lengths = response.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || length.as_bytes().contains(&b','))
    {
        // The engine has made sure that they agree.
        let one = length.as_bytes().split(|&byte| byte == b',').next().unwrap_or_default();
        let one = HeaderValue::from_bytes(one.trim_ascii())
            .map_err(|_| Error::explain(ErrorType::InvalidHTTPHeader, "content length").into_up())?;
        response.insert_header("Content-Length", one)?;
    }
    if response.status == http::StatusCode::NO_CONTENT {
        response.remove_header(&TRANSFER_ENCODING);
        response.remove_header(&CONTENT_LENGTH);
    }
    // RFC 9110 section 2.5: the version is that of whoever sends the message.
    response.set_version(http::Version::HTTP_11);
    Ok(())
}

/// The peer's address, behind what a trusted peer sent.
fn forwarded_for(headers: &HeaderMap, told: &Told<'_>) -> Option<HeaderValue> {
    let peer = told.peer?;
    let mut sent = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .filter(|_| told.origin.trusted)
        .peekable();
    if sent.peek().is_none() {
        return Some(peer.clone());
    }
    let mut text = Vec::with_capacity(64);
    for field in sent {
        text.extend_from_slice(field.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(peer.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
}

/// An entry of `X-Forwarded-For`: an address, perhaps with a port, perhaps in brackets.
fn parse_address(entry: &str) -> Option<IpAddr> {
    let address: IpAddr = match (entry.parse(), entry.parse::<std::net::SocketAddr>()) {
        (Ok(address), _) => address,
        (_, Ok(socket)) => socket.ip(),
        _ => entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/orders", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn told<'a>(origin: Origin, peer: &'a HeaderValue, ids: &'a Ids) -> Told<'a> {
        Told {
            origin,
            peer: Some(peer),
            scheme: "http",
            ids,
            application: None,
            key_type: None,
            credentials: &[],
            underscores: true,
            grpc: false,
            grpc_timeout: None,
            edits: [None; 2],
        }
    }

    fn ids() -> Ids {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("id-1"));
        Ids::of(&headers)
    }

    fn stranger() -> Origin {
        let peer = Some([192, 0, 2, 7].into());
        Origin {
            client: peer,
            trusted: false,
        }
    }

    #[test]
    fn what_a_stranger_says_about_himself_is_replaced() {
        let ids = ids();
        let mut request = request(&[
            ("host", "api.example.com"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("x-application", "admin"),
            ("x_application", "admin"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x_harmless", "yes"),
            ("x-consumer-username", "admin"),
            ("x-original-url", "/admin"),
            ("x-http-method-override", "DELETE"),
        ]);
        prepare(
            &mut request,
            &told(stranger(), &HeaderValue::from_static("192.0.2.7"), &ids),
        );
        let get = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(get("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(get("x-forwarded-proto"), Some("http"));
        assert_eq!(get("x-forwarded-host"), Some("api.example.com"));
        assert_eq!(get("x-request-id"), Some("id-1"));
        assert_eq!(get("x_harmless"), Some("yes"));
        for gone in [
            "forwarded",
            "x-real-ip",
            "x-application",
            "x_application",
            "x_forwarded_for",
            "x-consumer-username",
            "x-original-url",
            "x-http-method-override",
        ] {
            assert_eq!(get(gone), None, "{gone}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_extended() {
        let ids = ids();
        let peer: Option<IpAddr> = Some([10, 0, 0, 2].into());
        let mut request = request(&[
            ("host", "inner"),
            ("x-forwarded-for", "198.51.100.4, 10.0.0.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "api.example.com"),
        ]);
        let nets = ["10.0.0.0/8".parse().unwrap()];
        let origin = Origin::find(peer, &request.headers, &nets);
        assert_eq!(origin.client, Some([198, 51, 100, 4].into()));
        prepare(&mut request, &told(origin, &HeaderValue::from_static("10.0.0.2"), &ids));
        assert_eq!(request.headers["x-forwarded-for"], "198.51.100.4, 10.0.0.9, 10.0.0.2");
        assert_eq!(request.headers["x-forwarded-proto"], "https");
        assert_eq!(request.headers["x-forwarded-host"], "api.example.com");
    }

    #[test]
    fn certificates_that_a_client_only_claims_to_have_shown_go_no_further() {
        let ids = ids();
        let peer = HeaderValue::from_static("192.0.2.7");
        let names = [
            "client-cert",
            "client-cert-chain",
            "x-forwarded-client-cert",
            "x-ssl-client-cert",
        ];
        let mut request = request(&names.map(|name| (name, "forged")));
        prepare(&mut request, &told(stranger(), &peer, &ids));
        assert!(names.iter().all(|name| !request.headers.contains_key(*name)));
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_trusted() {
        let nets = ["10.0.0.0/8".parse().unwrap()];
        let peer: Option<IpAddr> = Some([10, 0, 0, 2].into());
        let client = |chain: &str| {
            Origin::find(peer, &request(&[("x-forwarded-for", chain)]).headers, &nets)
                .client
                .unwrap()
                .to_string()
        };
        assert_eq!(client("6.6.6.6, 198.51.100.4, 10.1.1.1"), "198.51.100.4");
        assert_eq!(client("6.6.6.6, garbage, 10.1.1.1"), "10.1.1.1");
        assert_eq!(client("garbage"), "10.0.0.2");
        assert_eq!(client("198.51.100.4:5512"), "198.51.100.4");
        assert_eq!(client("[2001:db8::1]"), "2001:db8::1");
        assert_eq!(client("6.6.6.6, ::ffff:198.51.100.4, ::ffff:10.1.1.1"), "198.51.100.4");
        let stranger = Origin::find(
            Some([192, 0, 2, 7].into()),
            &request(&[("x-forwarded-for", "9.9.9.9")]).headers,
            &nets,
        );
        assert_eq!(stranger.client.unwrap().to_string(), "192.0.2.7");
    }

    #[test]
    fn the_target_and_the_version_survive() {
        let ids = ids();
        let peer = HeaderValue::from_static("192.0.2.7");
        for target in ["*", "/", "/a?b=c%20d", "/x;y=1/%C3%A9"] {
            let mut request = RequestHeader::build("OPTIONS", target.as_bytes(), None).unwrap();
            request.set_version(http::Version::HTTP_11);
            request.append_header("X-Some", "1").unwrap();
            request.append_header("x-sOME", "2").unwrap();
            forget_spelling(&mut request);
            prepare(&mut request, &told(stranger(), &peer, &ids));
            assert_eq!(request.raw_path(), target.as_bytes());
            assert_eq!(request.method, http::Method::OPTIONS);
            assert_eq!(request.version, http::Version::HTTP_11);
            assert!(request.headers.get_all("x-some").iter().eq(["1", "2"]));
        }
    }

    #[test]
    fn the_client_is_told_and_the_rest_of_the_answer_survives() {
        let mut response = ResponseHeader::build(404, None).unwrap();
        response.set_reason_phrase(Some("Nobody Home")).unwrap();
        response.append_header("Set-Cookie", "a=1").unwrap();
        response.append_header("Set-Cookie", "b=2").unwrap();
        tell(&mut response, |headers| {
            headers.insert(X_REQUEST_ID, HeaderValue::from_static("id-1"));
        });
        assert_eq!(response.status, 404);
        assert_eq!(response.get_reason_phrase(), Some("Nobody Home"));
        assert_eq!(response.headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(response.headers["x-request-id"], "id-1");
    }
}
