//! Whether a request would be answered from the cache, told: what is looked for, and for how long an answer is kept.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH, IF_UNMODIFIED_SINCE, PRAGMA};
use http::header::{TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method};
use serde::Serialize;

use super::Question;
use crate::auth::{Caller, Identity};
use crate::cache::policy::{Policy, Share};
use crate::snapshot::{Api, Route, Snapshot};

/// What the cache would do with a request whose route has one.
#[derive(Debug, Serialize)]
pub struct CacheFacts {
    /// Whether a kept answer would be looked for.
    pub looked_up: bool,
    /// Why not, as in `tollgate_cache_bypass_total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass: Option<&'static str>,
    /// What the answer is kept under, part by part: two requests that differ in one of them never share an answer. The
    /// fields that the answer's `Vary` names come on top.
    pub key: Vec<KeyPart>,
    /// `caller`, `application` or `everyone`.
    pub share: &'static str,
    /// What the client says to caches, if it says something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_directives: Option<String>,
    /// Whether that counts.
    pub directives_count: bool,
    /// How long an answer is fresh that does not say it.
    pub ttl_seconds: f64,
    /// The same for answers that say that there is nothing.
    pub negative_ttl_seconds: f64,
    /// The longest time, whatever an answer says.
    pub max_ttl_seconds: f64,
    /// Where the answer does not say it: how long after its end it is given while it is fetched anew.
    pub stale_while_revalidate_seconds: f64,
    /// Where the answer does not say it: how long after its end it is given when the upstream fails.
    pub stale_if_error_seconds: f64,
    /// Largest content that is kept.
    pub body_bytes: u64,
}

/// A part of a key.
#[derive(Debug, Serialize)]
pub struct KeyPart {
    /// What it is.
    pub part: &'static str,
    /// What it is here.
    pub value: String,
}

impl CacheFacts {
    /// What is true for a route with a policy; `path` is the normalised one.
    pub(super) fn of(
        snapshot: &Snapshot,
        (route, api): (&Route, &Api),
        caller: &Caller,
        question: &Question<'_>,
        path: &str,
        upstream: Option<&str>,
    ) -> Option<Self> {
        let policy = route.cache.as_deref()?;
        let bypass = bypass(question.method, question.headers, policy);
        let mut parts = vec![
            ("host", question.host.to_ascii_lowercase()),
            ("path", path.to_owned()),
            ("query", query(question.query, api.credential_parameter.as_deref())),
            ("route", format!("{} of api {}", policy.place.route, policy.place.api)),
        ];
        parts.extend(upstream.map(|upstream| ("upstream", upstream.to_owned())));
        parts.extend(
            caller
                .key_type()
                .map(|key_type| ("key_type", key_type.as_str().to_owned())),
        );
        parts.push(("caller", whose(policy.share, snapshot, caller)));
        let says = client_says(question.headers);
        Some(Self {
            looked_up: bypass.is_none(),
            bypass,
            key: parts.into_iter().map(|(part, value)| KeyPart { part, value }).collect(),
            share: match policy.share {
                Share::Caller => "caller",
                Share::Application => "application",
                Share::Everyone => "everyone",
            },
            directives_count: policy.client_directives && says.is_some(),
            client_directives: says,
            ttl_seconds: policy.ttl.as_secs_f64(),
            negative_ttl_seconds: policy.negative_ttl.as_secs_f64(),
            max_ttl_seconds: policy.ttl_max.as_secs_f64(),
            stale_while_revalidate_seconds: policy.stale_while_revalidate.as_secs_f64(),
            stale_if_error_seconds: policy.stale_if_error.as_secs_f64(),
            body_bytes: policy.body_bytes,
        })
    }

    /// The same for people.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::with_capacity(4);
        sentences.push(match self.bypass {
            None => "a kept answer is looked for".to_owned(),
            Some(why) => format!("has nothing to do with it: {}", because(why)),
        });
        if self.looked_up {
            let parts = self.key.iter().map(|KeyPart { part, value }| format!("{part} {value}"));
            sentences.push(format!("kept by {}", parts.collect::<Vec<_>>().join(", ")));
            sentences.push(format!(
                "fresh for {} s ({} s if there is nothing) unless the upstream says otherwise, never longer than {} s; at most \
                 {} bytes",
                self.ttl_seconds, self.negative_ttl_seconds, self.max_ttl_seconds, self.body_bytes
            ));
        }
        if let Some(says) = &self.client_directives {
            let counts = if self.directives_count {
                "which counts"
            } else {
                "which does not count here"
            };
            sentences.push(format!("the client says {says}, {counts}"));
        }
        sentences
    }
}

/// Why a request has nothing to do with the cache although its route has one.
fn bypass(method: &Method, headers: &HeaderMap, policy: &Policy) -> Option<&'static str> {
    let answered = match *method {
        Method::GET => policy.methods.get,
        Method::HEAD => policy.methods.head,
        _ => false,
    };
    let is_grpc = (headers.get(CONTENT_TYPE)).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let has_content =
        headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    let reasons = [
        (!answered, "method"),
        (is_grpc, "grpc"),
        (headers.contains_key(UPGRADE), "upgrade"),
        (has_content, "content"),
        (
            headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE),
            "precondition",
        ),
    ];
    reasons.into_iter().find_map(|(applies, why)| applies.then_some(why))
}

/// A reason in words.
fn because(why: &str) -> &str {
    match why {
        "method" => "the policy does not answer this method",
        "grpc" => "it is a gRPC call",
        "upgrade" => "it wants another protocol",
        "content" => "it has content, on which the answer may depend",
        "precondition" => "it has a condition that only the upstream can judge",
        other => other,
    }
}

/// Whose answer it is.
fn whose(share: Share, snapshot: &Snapshot, caller: &Caller) -> String {
    let application = snapshot.application_of(caller).map(|(name, _)| name);
    match (share, application) {
        (Share::Everyone, _) => return "everyone".to_owned(),
        (Share::Application, Some(application)) => return format!("application {application}"),
        (Share::Application, None) | (Share::Caller, _) => {}
    }
    let name = caller.key_id().or(caller.subject()).unwrap_or_default();
    match caller.identity() {
        Identity::Anonymous => "everyone".to_owned(),
        Identity::Key(_) => format!("key {name}"),
        Identity::Certificate(_) => format!("certificate {name}"),
        Identity::Token(_) => format!("subject {name}"),
    }
}

/// The query without the parameter that carries a credential. One that is absent is another key than one that is empty.
fn query(query: Option<&str>, credential: Option<&str>) -> String {
    let Some(query) = query else {
        return "(none)".to_owned();
    };
    let is_secret = |pair: &&str| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
        credential == Some(name)
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_secret(pair)).collect();
    format!("?{}", kept.join("&"))
}

fn client_says(headers: &HeaderMap) -> Option<String> {
    let mut said = Vec::new();
    for name in [CACHE_CONTROL, PRAGMA] {
        let values = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok());
        said.extend(values.map(|value| format!("{name}: {value}")));
    }
    (!said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::policy::{Methods, Place};

    fn policy(methods: Methods) -> Policy {
        Policy {
            methods,
            ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(10),
            ttl_max: Duration::from_secs(3600),
            jitter: 0.0,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            refresh_ahead: 0.0,
            body_bytes: 1,
            share: Share::Everyone,
            authorized: false,
            set_cookie: true,
            client_directives: true,
            tell: true,
            place: Place {
                api: "a".into(),
                route: "/a".into(),
            },
        }
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn what_can_not_be_answered_from_the_cache_says_why() {
        let both = policy(Methods { get: true, head: true });
        let of = |method: &Method, headers| bypass(method, &fields(headers), &both);
        assert_eq!(of(&Method::GET, &[]), None);
        assert_eq!(of(&Method::HEAD, &[("content-length", "0")]), None);
        assert_eq!(of(&Method::POST, &[]), Some("method"));
        assert_eq!(of(&Method::GET, &[("content-length", "5")]), Some("content"));
        assert_eq!(of(&Method::GET, &[("upgrade", "websocket")]), Some("upgrade"));
        assert_eq!(
            of(&Method::GET, &[("content-type", "application/grpc+proto")]),
            Some("grpc")
        );
        assert_eq!(of(&Method::GET, &[("if-match", "\"a\"")]), Some("precondition"));
        let get = policy(Methods { get: true, head: false });
        assert_eq!(bypass(&Method::HEAD, &fields(&[]), &get), Some("method"));
        for why in ["method", "grpc", "upgrade", "content", "precondition"] {
            assert_ne!(because(why), why, "every reason has words");
        }
    }

    #[test]
    fn a_credential_in_the_query_is_not_shown() {
        assert_eq!(query(Some("a=1&api_key=secret&b"), Some("api_key")), "?a=1&b");
        assert_eq!(query(Some(""), None), "?");
        assert_eq!(query(None, None), "(none)");
    }
}
