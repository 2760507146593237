//! What a request asks for, as the cache has it: whether it may be answered from there at all, and under what key.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, RANGE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method};
use pingora::http::RequestHeader;
use sha2::{Digest, Sha256};

use super::Caching;
use super::visit::{Bypass, Course, Visit};
use crate::auth::{Caller, Identity, credential};
use crate::cache::conditional;
use crate::cache::directives::RequestDirectives;
use crate::cache::key::{self, CallerPart, Key, KeyParts};
use crate::cache::policy::{Policy, Share};
use crate::cache::vary;
use crate::gateway::journey::Journey;
use crate::revision::KeyType;

impl Caching {
    /// What this request asks for.
    ///
    /// # Errors
    /// When it has nothing to do with the cache.
    pub(super) fn visit(
        &self,
        request: &RequestHeader,
        target: Target<'_>,
        journey: &Journey,
        policy: &Arc<Policy>,
    ) -> Result<Visit, Bypass> {
        let headers = &request.headers;
        if let Some(bypass) = bypass(&request.method, headers, journey.is_grpc, policy) {
            return Err(bypass);
        }
        let snapshot = journey.snapshot.as_ref().ok_or(Bypass::UnknownCaller)?;
        let caller = journey.caller.as_ref().ok_or(Bypass::UnknownCaller)?;
        let application = snapshot.application_of(caller).map(|(name, _)| name.as_str());
        let circumstances = Circumstances {
            scheme: &scheme(headers, journey.scheme, journey.origin.trusted),
            host: text(headers.get(HOST)),
            target,
            upstream: journey.upstream().map_or("", |upstream| upstream.name().as_str()),
        };
        let base = base_key(policy, (caller, application), &circumstances)?;
        Ok(Visit {
            directives: match policy.client_directives {
                true => RequestDirectives::of(headers),
                false => RequestDirectives::default(),
            },
            policy: Arc::clone(policy),
            key: Key::of(base.clone()),
            base,
            is_partial: request.method == Method::HEAD || headers.contains_key(RANGE),
            sequence: self.cache.marks().sequence(),
            asked_ms: journey.now_ms,
            course: Course::default(),
            turn: None,
            not_modified: None,
            refresh: None,
        })
    }
}

/// What a key says of a request beside its route and who calls.
pub struct Circumstances<'a> {
    /// How the client came here.
    pub scheme: &'a str,
    /// `Host`.
    pub host: &'a str,
    /// Path and query.
    pub target: Target<'a>,
    /// The arm of the split.
    pub upstream: &'a str,
}

/// The key of a request, without the variant.
///
/// # Errors
/// When its answer is for its caller alone, and he has no name.
pub fn base_key(
    policy: &Policy,
    (caller, application): (&Caller, Option<&str>),
    circumstances: &Circumstances<'_>,
) -> Result<Bytes, Bypass> {
    let issuer = caller.subject_hash().map(|hash| hash.to_string());
    let key = key::base(&KeyParts {
        scheme: circumstances.scheme,
        host: circumstances.host,
        path: circumstances.target.path,
        query: circumstances.target.query,
        place: &policy.place,
        upstream: circumstances.upstream,
        key_type: caller.key_type().map(KeyType::as_str),
        caller: caller_part(policy.share, caller, application, issuer.as_deref())?,
    });
    Ok(key.into())
}

/// What a request is for, as keys have it.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Normalised.
    pub path: &'a str,
    /// Without the credential.
    pub query: Option<&'a str>,
}

impl Target<'_> {
    /// Both, as in a request line.
    #[must_use]
    pub fn text(self) -> String {
        match self.query {
            Some(query) => [self.path, "?", query].concat(),
            None => self.path.to_owned(),
        }
    }
}

/// The query without the credential, which says who asks and not what for.
#[must_use]
pub fn own_query<'a>(query: Option<&'a str>, parameter: Option<&str>) -> Option<Cow<'a, str>> {
    match (query, parameter) {
        (Some(query), Some(parameter)) => {
            let left = credential::strip_query_parameter(query, parameter);
            (!left.is_empty()).then_some(left)
        }
        (query, _) => query.map(Cow::Borrowed),
    }
}

/// Why a request has nothing to do with the cache although its route has.
#[must_use]
pub fn bypass(method: &Method, headers: &HeaderMap, is_grpc: bool, policy: &Policy) -> Option<Bypass> {
    let answers = match *method {
        Method::GET => policy.methods.get,
        Method::HEAD => policy.methods.head,
        _ => false,
    };
    let has_content =
        headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if !answers {
        Some(Bypass::Method)
    } else if is_grpc {
        Some(Bypass::Grpc)
    } else if headers.contains_key(UPGRADE) {
        Some(Bypass::Upgrade)
    } else if has_content {
        Some(Bypass::Content)
    } else if conditional::needs_origin(headers) {
        Some(Bypass::Precondition)
    } else {
        None
    }
}

/// The variant of an answer that a request selects. What fields say may be a secret (`Vary: Authorization`), and keys
/// are written down where several gateways share them: it is hashed.
#[must_use]
pub fn variant_key(base: &Bytes, fields: &[HeaderName], request: &HeaderMap) -> Bytes {
    let mut selecting = Vec::new();
    vary::variant(fields, request, &mut selecting);
    let mut key = Vec::with_capacity(base.len() + 32);
    key.extend_from_slice(base);
    key.extend_from_slice(&Sha256::digest(&selecting));
    key.into()
}

/// Whose answer it is.
fn caller_part<'a>(
    share: Share,
    caller: &'a Caller,
    application: Option<&'a str>,
    issuer: Option<&'a str>,
) -> Result<CallerPart<'a>, Bypass> {
    match (share, application) {
        (Share::Everyone, _) => return Ok(CallerPart::Everyone),
        (Share::Application, Some(application)) => return Ok(CallerPart::Application(application)),
        (Share::Application, None) | (Share::Caller, _) => {}
    }
    match caller.identity() {
        Identity::Anonymous => Ok(CallerPart::Anonymous),
        Identity::Key(_) => caller.key_id().map(CallerPart::Key).ok_or(Bypass::UnknownCaller),
        Identity::Certificate(_) => caller
            .key_id()
            .map(CallerPart::Certificate)
            .ok_or(Bypass::UnknownCaller),
        Identity::Token(_) => match (issuer, caller.subject()) {
            (Some(issuer), Some(subject)) => Ok(CallerPart::Token { issuer, subject }),
            _ => Err(Bypass::UnknownCaller),
        },
    }
}

/// How the client came here, as the upstream is told: answers may contain links.
fn scheme(headers: &HeaderMap, own: &'static str, trusted: bool) -> Cow<'static, str> {
    if !trusted {
        return Cow::Borrowed(own);
    }
    let told = |name: &str| text(headers.get(name));
    let told = [
        own,
        told("x-forwarded-proto"),
        told("x-forwarded-host"),
        told("x-forwarded-port"),
        told("x-forwarded-prefix"),
    ];
    Cow::Owned(told.join(","))
}

fn text(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_in_the_query_is_no_part_of_what_is_asked_for() {
        let own = |query, parameter| own_query(query, parameter).map(Cow::into_owned);
        assert_eq!(
            own(Some("a=1&api_key=secret&b"), Some("api_key")).as_deref(),
            Some("a=1&b")
        );
        assert_eq!(own(Some("api_key=secret"), Some("api_key")), None);
        assert_eq!(own(Some(""), None).as_deref(), Some(""));
        assert_eq!(own(None, Some("api_key")), None);
    }

    #[test]
    fn what_an_untrusted_client_says_of_its_way_is_no_part_of_the_key() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        headers.insert("x-forwarded-host", HeaderValue::from_static("evil.example.com"));
        assert_eq!(scheme(&headers, "http", false), "http");
        assert_ne!(scheme(&headers, "http", true), scheme(&HeaderMap::new(), "http", true));
    }

    #[test]
    fn a_variant_s_key_does_not_show_what_it_was_selected_by() {
        let base = Bytes::from_static(b"base");
        let mut request = HeaderMap::new();
        request.insert("authorization", HeaderValue::from_static("Bearer secret"));
        let key = variant_key(&base, &[http::header::AUTHORIZATION], &request);
        assert!(memchr::memmem::find(&key, b"secret").is_none());
        request.insert("authorization", HeaderValue::from_static("Bearer other"));
        assert_ne!(key, variant_key(&base, &[http::header::AUTHORIZATION], &request));
    }
}
