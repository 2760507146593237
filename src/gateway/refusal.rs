//! Every "no" of the gateway, and the one place where it becomes HTTP.
//!
//! A [`Refusal`] states a fact. From it alone follow the status, the headers, the problem document (RFC 9457), the
//! code in the access log and the label of the metric, so that they can not disagree. What a client is told is
//! constant per code: nothing about keys, addresses or other tenants leaks through an error.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::date::get_cached_date;
use serde::Serialize;

use super::grpc;
use crate::edit::local_answer::LocalAnswer;

/// `RateLimit` of draft-ietf-httpapi-ratelimit-headers-11.
pub const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// `RateLimit-Policy` of the same draft.
pub const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The request id, on every answer.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Why a request was not served.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The message is malformed or ambiguous; says how, in words about the request only.
    BadRequest(&'static str),
    /// `Expect` asks for something that is not understood.
    ExpectationFailed,
    /// The client took too long to send its request.
    RequestTimeout,
    /// No credential where one is needed.
    CredentialMissing(HeaderValue),
    /// A credential that is not valid; why is for the log only.
    CredentialInvalid(HeaderValue, &'static str),
    /// A credential that was valid once.
    CredentialExpired(HeaderValue),
    /// A sandbox key at a production gateway, or the reverse.
    KeyTypeMismatch,
    /// The application is not subscribed to the API.
    SubscriptionMissing,
    /// The API does not let this client address in.
    AddressDenied,
    /// The token lacks a scope.
    ScopeInsufficient(HeaderValue),
    /// Nothing is published here.
    RouteNotFound,
    /// Published, but not with this method; the header lists those that are.
    MethodNotAllowed(HeaderValue),
    /// A method that no API can have (CONNECT, TRACE, or longer than any).
    MethodNotImplemented,
    /// Not a version of HTTP that this listener speaks.
    VersionNotSupported,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The target is longer than allowed.
    UriTooLong,
    /// Too many or too large header fields.
    HeadersTooLarge,
    /// A limit is used up.
    RateLimited(Box<RateLimited>),
    /// The client wants only what is kept, and nothing is (RFC 9111 section 5.2.1.7).
    NotKept,
    /// The upstream could not be reached or answered garbage.
    UpstreamFailed(&'static str),
    /// No endpoint is left to try.
    UpstreamUnavailable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// A bound of this gateway is reached.
    Overloaded(&'static str),
    /// The issuer's keys have never been reached, or the service that knows the token is away; which is for the log.
    KeyServiceUnavailable(&'static str),
    /// No revision is applied yet.
    NotReady,
    /// A fault of the gateway itself.
    Internal,
}

/// What a 429 says.
#[derive(Debug, Clone)]
pub struct RateLimited {
    /// The limit that refused.
    pub limit: Arc<str>,
    /// Value of `RateLimit`.
    pub rate_limit: HeaderValue,
    /// Value of `RateLimit-Policy`.
    pub policy: HeaderValue,
    /// Value of `Retry-After`, in seconds.
    pub retry_after: HeaderValue,
    /// Whether it is not known to be used up, but could not be counted: its store is away.
    pub unasked: bool,
}

/// An answer that is ready to be written, by the engine or by hand.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Refusal {
    /// Status, stable code and the one sentence a client is told.
    fn facts(&self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest(how) => (400, "bad_request", how),
            Self::ExpectationFailed => (
                417,
                "expectation_failed",
                "Expect asks for something other than 100-continue",
            ),
            Self::RequestTimeout => (408, "request_timeout", "the request did not arrive in time"),
            Self::CredentialMissing(_) => (401, "credential_missing", "this API needs a credential"),
            Self::CredentialInvalid(..) => (401, "credential_invalid", "the credential is not valid"),
            Self::CredentialExpired(_) => (401, "credential_expired", "the credential has expired"),
            Self::KeyTypeMismatch => (
                403,
                "key_type_mismatch",
                "this gateway does not accept keys of this type",
            ),
            Self::SubscriptionMissing => (
                403,
                "subscription_missing",
                "the application is not subscribed to this API",
            ),
            Self::AddressDenied => (403, "address_denied", "this API is not open to this address"),
            Self::ScopeInsufficient(_) => (
                403,
                "scope_insufficient",
                "the token lacks a scope that this route needs",
            ),
            Self::RouteNotFound => (404, "route_not_found", "nothing is published at this host and path"),
            Self::MethodNotAllowed(_) => (405, "method_not_allowed", "this path does not answer this method"),
            Self::MethodNotImplemented => (501, "method_not_implemented", "this gateway does not know the method"),
            Self::VersionNotSupported => (505, "version_not_supported", "this listener speaks HTTP/1.1"),
            Self::BodyTooLarge => (413, "body_too_large", "the body is larger than allowed"),
            Self::UriTooLong => (414, "uri_too_long", "the request target is longer than allowed"),
            Self::HeadersTooLarge => (
                431,
                "headers_too_large",
                "the header fields are larger or more than allowed",
            ),
            Self::RateLimited(_) => (429, "rate_limited", "a limit is used up"),
            Self::NotKept => (
                504,
                "not_kept",
                "only a kept answer was asked for, and there is none that may be given",
            ),
            Self::UpstreamFailed(_) => (502, "upstream_failed", "the service behind this API failed to answer"),
            Self::UpstreamUnavailable => (
                503,
                "upstream_unavailable",
                "the service behind this API can not be reached",
            ),
            Self::UpstreamTimeout => (
                504,
                "upstream_timeout",
                "the service behind this API did not answer in time",
            ),
            Self::Overloaded(_) => (503, "overloaded", "the gateway is at its limit"),
            Self::KeyServiceUnavailable(_) => (
                503,
                "key_service_unavailable",
                "tokens can not be checked at the moment",
            ),
            Self::NotReady => (503, "overloaded", "the gateway is not ready yet"),
            Self::Internal => (
                500,
                "internal",
                "the gateway failed; the request id helps to find out why",
            ),
        }
    }

    /// Status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.facts().0
    }

    /// The stable code: in the body, the log and the metric.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.facts().1
    }

    /// More than the client is told, for the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CredentialInvalid(_, why)
            | Self::BadRequest(why)
            | Self::UpstreamFailed(why)
            | Self::KeyServiceUnavailable(why)
            | Self::Overloaded(why) => why,
            Self::RateLimited(limited) if limited.unasked => "store_away",
            _ => "",
        }
    }

    /// A 429 without the particulars of a moment: for explanations.
    #[must_use]
    pub fn limited_by(limit: &str) -> Self {
        let empty = HeaderValue::from_static("");
        Self::RateLimited(Box::new(RateLimited {
            limit: Arc::from(limit),
            rate_limit: empty.clone(),
            policy: empty,
            retry_after: HeaderValue::from_static("1"),
            unasked: false,
        }))
    }

    /// The name of the limit that refused.
    #[must_use]
    pub fn limit(&self) -> Option<Arc<str>> {
        match self {
            Self::RateLimited(limited) => Some(Arc::clone(&limited.limit)),
            _ => None,
        }
    }

    /// What the client is told.
    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::RateLimited(limited) if limited.unasked => {
                Cow::Owned(["limit \"", limited.limit.as_ref(), "\" can not be counted now"].concat())
            }
            Self::RateLimited(limited) => Cow::Owned(["limit \"", limited.limit.as_ref(), "\" is used up"].concat()),
            _ => Cow::Borrowed(self.facts().2),
        }
    }

    /// The HTTP of it.
    #[must_use]
    pub fn answer(&self, request_id: &str) -> Answer {
        let (code, name, _) = self.facts();
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = self.detail();
        let problem = Problem {
            r#type: ["urn:tollgate:problem:", name].concat(),
            title: status.canonical_reason().unwrap_or("Error"),
            status: code,
            detail,
            code: name,
            request_id,
            violated_policies: self.limit().as_deref().map(|limit| [limit.to_owned()]),
        };
        // Serialising a struct of strings and numbers to memory can not fail; an empty body would still be an answer.
        let body = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());

        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(CACHE_CONTROL, NO_STORE);
        self.particulars(request_id, &mut headers);
        Answer { status, headers, body }
    }

    /// The same for a gRPC call: an answer that is nothing but a head with the status, which is what the protocol calls
    /// trailers-only. The log and the metrics keep the status and the code of HTTP.
    #[must_use]
    pub fn grpc_answer(&self, request_id: &str) -> Answer {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, grpc::APPLICATION_GRPC);
        // Its status is 200, which a cache would keep.
        headers.insert(CACHE_CONTROL, NO_STORE);
        headers.insert(grpc::GRPC_STATUS, grpc::status_of(self.status()));
        headers.insert(grpc::GRPC_MESSAGE, grpc::message_field(&self.detail()));
        self.particulars(request_id, &mut headers);
        Answer {
            status: StatusCode::OK,
            headers,
            body: Bytes::new(),
        }
    }

    /// The fields that say more than the body does.
    fn particulars(&self, request_id: &str, headers: &mut HeaderMap) {
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        match self {
            Self::CredentialMissing(challenge)
            | Self::CredentialInvalid(challenge, _)
            | Self::CredentialExpired(challenge)
            | Self::ScopeInsufficient(challenge) => {
                headers.insert(WWW_AUTHENTICATE, challenge.clone());
            }
            Self::MethodNotAllowed(allow) => {
                headers.insert(ALLOW, allow.clone());
            }
            Self::RateLimited(limited) => {
                headers.insert(RETRY_AFTER, limited.retry_after.clone());
                headers.insert(RATE_LIMIT, limited.rate_limit.clone());
                headers.insert(RATE_LIMIT_POLICY, limited.policy.clone());
            }
            Self::UpstreamUnavailable | Self::Overloaded(_) | Self::KeyServiceUnavailable(_) | Self::NotReady => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
    }
}

impl Answer {
    /// What the gateway says without refusing anything.
    #[must_use]
    pub fn of(local: LocalAnswer, request_id: &HeaderValue) -> Self {
        let LocalAnswer {
            status,
            mut headers,
            body,
        } = local;
        // RFC 9110 section 8.6: where no content can be, its length can not be told.
        if ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        headers.insert(X_REQUEST_ID, request_id.clone());
        Self { status, headers, body }
    }

    /// Its fields, to add to them.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// For the engine: header and body.
    ///
    /// # Errors
    /// When the engine refuses a header, which none of ours gives a reason for.
    pub fn into_response(self) -> Result<(ResponseHeader, Bytes), Box<pingora::Error>> {
        let mut header = ResponseHeader::build(self.status, Some(self.headers.len() + 2))?;
        for (name, value) in &self.headers {
            header.append_header(name.clone(), value.clone())?;
        }
        Ok((header, self.body))
    }

    /// For a stream of HTTP/2 on which the engine never answered: head and body.
    #[must_use]
    pub fn into_stream_response(self) -> (http::Response<()>, Bytes) {
        let mut response = http::Response::new(());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.extend(self.headers);
        headers.insert(DATE, get_cached_date());
        (response, self.body)
    }

    /// For a connection on which the engine never saw a request: the whole answer, which closes the connection.
    #[must_use]
    pub fn into_closing_bytes(self, without_body: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512 + self.body.len());
        bytes.extend_from_slice(b"HTTP/1.1 ");
        bytes.extend_from_slice(self.status.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(self.status.canonical_reason().unwrap_or("Error").as_bytes());
        bytes.extend_from_slice(b"\r\n");
        let ends = [
            (DATE, get_cached_date()),
            (CONNECTION, HeaderValue::from_static("close")),
        ];
        for (name, value) in (self.headers.iter()).chain(ends.iter().map(|(name, value)| (name, value))) {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        if !without_body {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// RFC 9457, with our `code` and `request_id`, and `violated-policies` of the rate limit draft.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: Cow<'a, str>,
    code: &'a str,
    request_id: &'a str,
    #[serde(rename = "violated-policies", skip_serializing_if = "Option::is_none")]
    violated_policies: Option<[String; 1]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(answer: Answer) -> serde_json::Value {
        serde_json::from_slice(&answer.body).unwrap()
    }

    #[test]
    fn a_refusal_is_a_problem_document_with_code_and_request_id() {
        let answer = Refusal::RouteNotFound.answer("req-1");
        assert_eq!(answer.status, 404);
        let problem = problem(answer);
        assert_eq!(problem["code"], "route_not_found");
        assert_eq!(problem["status"], 404);
        assert_eq!(problem["request_id"], "req-1");
        assert_eq!(problem["title"], "Not Found");
    }

    #[test]
    fn no_cache_keeps_a_refusal() {
        for answer in [Refusal::NotReady.answer("a"), Refusal::NotReady.grpc_answer("a")] {
            assert_eq!(answer.headers.get(CACHE_CONTROL), Some(&NO_STORE));
        }
    }

    #[test]
    fn why_a_credential_is_invalid_is_for_the_log_and_not_for_the_client() {
        let challenge = HeaderValue::from_static("Bearer");
        let signature = Refusal::CredentialInvalid(challenge.clone(), "signature");
        let unknown = Refusal::CredentialInvalid(challenge, "unknown_key");
        assert_eq!(signature.answer("x").body, unknown.answer("x").body);
        assert_eq!(signature.reason(), "signature");
    }

    #[test]
    fn a_429_names_the_limit_and_says_when_to_come_back() {
        let refusal = Refusal::RateLimited(Box::new(RateLimited {
            limit: "minute".into(),
            rate_limit: HeaderValue::from_static("\"minute\";r=0;t=7"),
            policy: HeaderValue::from_static("\"minute\";q=5;w=60"),
            retry_after: HeaderValue::from_static("7"),
            unasked: false,
        }));
        let text = String::from_utf8(refusal.answer("id").into_closing_bytes(false)).unwrap();
        assert!(text.starts_with("HTTP/1.1 429 Too Many Requests\r\n"));
        assert!(text.contains("retry-after: 7\r\n"));
        assert!(text.contains("ratelimit: \"minute\";r=0;t=7\r\n"));
        assert!(text.contains("connection: close\r\n"));
        assert_eq!(problem(refusal.answer("id"))["violated-policies"][0], "minute");
    }
}
