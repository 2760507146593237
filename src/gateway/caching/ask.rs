//! What a request asks for, as the cache has it: whether it may be answered from there at all, and under what key.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, RANGE, TRANSFER_ENCODING, UPGRADE};
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

/// Fields in which trusted proxies say how the client came to them, beside its address.
const WAY: [&str; 6] = [
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-server",
];

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
        let about = About {
            is_grpc: journey.is_grpc,
            has_content: journey.has_content || has_content(headers),
        };
        if let Some(bypass) = bypass(&request.method, headers, about, policy) {
            return Err(bypass);
        }
        let snapshot = journey.snapshot.as_ref().ok_or(Bypass::UnknownCaller)?;
        let caller = journey.caller.as_ref().ok_or(Bypass::UnknownCaller)?;
        let application = snapshot.application_of(caller).map(|(name, _)| name.as_str());
        let circumstances = Circumstances {
            scheme: &way(headers, journey.scheme, journey.origin.trusted),
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
    // The upstream is told the application too, and the same subject may come with tokens of several.
    let issuer = caller
        .subject_hash()
        .map(|hash| [&hash.to_string(), " ", application.unwrap_or_default()].concat());
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

/// What the head of a request does not say, or not in every version of HTTP.
#[derive(Debug, Clone, Copy, Default)]
pub struct About {
    /// It is a gRPC call.
    pub is_grpc: bool,
    /// It has content, announced or not.
    pub has_content: bool,
}

/// Whether a head announces content, as HTTP/1.1 does.
#[must_use]
pub fn has_content(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// Whether `Connection` takes fields away from the origin. A client could name one there by which answers are selected.
fn names_fields(headers: &HeaderMap) -> bool {
    let options = headers.get_all(CONNECTION).iter();
    let mut options = options.flat_map(|line| line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii));
    options.any(|option| {
        let is = |known: &str| option.eq_ignore_ascii_case(known.as_bytes());
        !(option.is_empty() || is("close") || is("keep-alive") || is("te") || is("upgrade"))
    })
}

/// Why a request has nothing to do with the cache although its route has.
#[must_use]
pub fn bypass(method: &Method, headers: &HeaderMap, about: About, policy: &Policy) -> Option<Bypass> {
    let answers = match *method {
        Method::GET => policy.methods.get,
        Method::HEAD => policy.methods.head,
        _ => false,
    };
    if !answers {
        Some(Bypass::Method)
    } else if about.is_grpc {
        Some(Bypass::Grpc)
    } else if headers.contains_key(UPGRADE) {
        Some(Bypass::Upgrade)
    } else if about.has_content {
        Some(Bypass::Content)
    } else if conditional::needs_origin(headers) {
        Some(Bypass::Precondition)
    } else if names_fields(headers) {
        Some(Bypass::Connection)
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

/// How the client came here, as the upstream is told: answers may contain links. What trusted proxies say of it is as
/// long as they like, and is hashed.
fn way(headers: &HeaderMap, scheme: &'static str, trusted: bool) -> Cow<'static, str> {
    if !trusted {
        return Cow::Borrowed(scheme);
    }
    let mut hash = Sha256::new();
    for (position, name) in WAY.iter().enumerate() {
        let lines = headers.get_all(*name).iter().map(HeaderValue::as_bytes);
        let pieces = lines.flat_map(|line| line.split(|byte| *name == "forwarded" && matches!(byte, b',' | b';')));
        // Whom it came from and through is nobody's key, as in X-Forwarded-For.
        let is_address = |piece: &[u8]| {
            let name = piece.trim_ascii().get(..3).unwrap_or_default();
            name.eq_ignore_ascii_case(b"for") || name.eq_ignore_ascii_case(b"by=")
        };
        for piece in pieces.filter(|piece| *name != "forwarded" || !is_address(piece)) {
            hash.update([u8::try_from(position).unwrap_or(u8::MAX)]);
            hash.update(piece.len().to_be_bytes());
            hash.update(piece);
        }
    }
    let digest = hash.finalize();
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
    Cow::Owned(scheme.chars().chain([' ']).chain(digits).collect())
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
        assert_eq!(way(&headers, "http", false), "http");
        let trusted = |headers: &HeaderMap| way(headers, "http", true).into_owned();
        assert_ne!(trusted(&headers), trusted(&HeaderMap::new()));
        let mut longer = headers.clone();
        longer.append("x-forwarded-host", HeaderValue::from_static("b"));
        assert_ne!(trusted(&headers), trusted(&longer), "every line counts");
        let mut upper = headers.clone();
        upper.insert("x-forwarded-host", HeaderValue::from_static("EVIL.example.com"));
        assert_ne!(trusted(&headers), trusted(&upper), "the upstream may tell them apart");
        let forwarded = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("forwarded", HeaderValue::from_static(value));
            trusted(&headers)
        };
        assert_eq!(
            forwarded("for=1.2.3.4;proto=https"),
            forwarded("for=\"[::1]\";proto=https")
        );
        assert_ne!(
            forwarded("for=1.2.3.4;proto=https"),
            forwarded("for=1.2.3.4;proto=http")
        );
    }

    #[test]
    fn fields_that_connection_takes_away_select_nothing() {
        let names = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("connection", HeaderValue::from_static(value));
            names_fields(&headers)
        };
        for value in ["close", "Keep-Alive", "upgrade, te", "", ", close ,"] {
            assert!(!names(value), "{value}");
        }
        for value in ["x-lang", "close, X-Lang", "keep-alive,accept-language"] {
            assert!(names(value), "{value}");
        }
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
