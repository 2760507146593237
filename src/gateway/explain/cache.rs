//! Whether a request would be answered from the cache, told: what is looked for, and for how long an answer is kept.

use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use serde::Serialize;

use super::Question;
use crate::auth::{Caller, Identity};
use crate::cache::policy::Share;
use crate::cache::{Cache, Found};
use crate::gateway::caching::ask::{
    About, Circumstances, Target, base_key, bypass, has_content, own_query, variant_key,
};
use crate::snapshot::{Api, Route, Snapshot};

/// What the cache would do with a request whose route has one.
#[derive(Debug, Serialize)]
pub struct CacheFacts {
    /// Whether a kept answer would be looked for.
    pub looked_up: bool,
    /// Why not, as in `tollgate_cache_bypass_total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bypass: Option<&'static str>,
    /// What is kept in this process for such a request; absent when nothing is, or nobody looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptFacts>,
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

/// A kept answer.
#[derive(Debug, Serialize)]
pub struct KeptFacts {
    /// Its status.
    pub status: u16,
    /// How old it is.
    pub age_seconds: u64,
    /// How long it is fresh; negative since when it is not.
    pub ttl_seconds: i64,
    /// Its content, in bytes.
    pub bytes: usize,
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
        let headers = question.headers;
        let is_grpc =
            (headers.get(CONTENT_TYPE)).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        let own_query = own_query(question.query, api.credential_parameter.as_deref());
        let circumstances = Circumstances {
            scheme: question.scheme,
            host: question.host,
            target: Target {
                path,
                query: own_query.as_deref(),
            },
            upstream: upstream.unwrap_or_default(),
        };
        let application = snapshot.application_of(caller).map(|(name, _)| name.as_str());
        let about = About {
            is_grpc,
            has_content: has_content(headers),
        };
        let base = match bypass(question.method, headers, about, policy) {
            Some(bypass) => Err(bypass),
            None => base_key(policy, (caller, application), &circumstances),
        };
        let bypass = base.as_ref().err().map(|bypass| bypass.as_str());
        let kept = base
            .ok()
            .zip(question.kept)
            .and_then(|(base, cache)| kept(cache, &base, headers));
        let mut parts = vec![
            ("scheme", question.scheme.to_owned()),
            ("host", question.host.to_ascii_lowercase()),
            ("path", path.to_owned()),
            (
                "query",
                own_query.map_or_else(|| "(none)".to_owned(), |query| format!("?{query}")),
            ),
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
            kept,
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
        if let Some(kept) = &self.kept {
            sentences.push(match kept.ttl_seconds {
                left @ 1.. => format!(
                    "{} is kept, {} s old, fresh for {left} s",
                    kept.status, kept.age_seconds
                ),
                over => format!(
                    "{} is kept, {} s old, stale since {} s",
                    kept.status, kept.age_seconds, -over
                ),
            });
        }
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

/// A reason in words.
fn because(why: &str) -> &str {
    match why {
        "method" => "the policy does not answer this method",
        "grpc" => "it is a gRPC call",
        "upgrade" => "it wants another protocol",
        "content" => "it has content, on which the answer may depend",
        "precondition" => "it has a condition that only the upstream can judge",
        "connection" => "its Connection takes fields away from the upstream",
        "credential" => "it carries a credential that the upstream is sent and its key would not tell from another one",
        "unknown_caller" => "its answer is for its caller alone, and he has no name",
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

/// What is kept for such a request. Fields by which answers differ are those of the question.
fn kept(cache: &Cache, base: &Bytes, request: &HeaderMap) -> Option<KeptFacts> {
    let found = match cache.peek(base) {
        Found::Varies(fields) => cache.peek(&variant_key(base, &fields, request)),
        found => found,
    };
    let Found::Entry(entry) = found else {
        return None;
    };
    let now = SystemTime::now();
    Some(KeptFacts {
        status: entry.header.status.as_u16(),
        age_seconds: entry.lifetime.age(now).as_secs(),
        ttl_seconds: entry.lifetime.remaining(now),
        bytes: entry.body.len(),
    })
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

    use http::Method;

    use super::*;
    use crate::cache::policy::{Methods, Place, Policy};
    use crate::gateway::caching::Bypass;

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
        let about = |headers: &[(&'static str, &'static str)]| About {
            is_grpc: false,
            has_content: has_content(&fields(headers)),
        };
        let of = |method: &Method, headers| bypass(method, &fields(headers), about(headers), &both).map(Bypass::as_str);
        assert_eq!(of(&Method::GET, &[]), None);
        assert_eq!(of(&Method::HEAD, &[("content-length", "0")]), None);
        assert_eq!(of(&Method::POST, &[]), Some("method"));
        assert_eq!(of(&Method::GET, &[("content-length", "5")]), Some("content"));
        assert_eq!(of(&Method::GET, &[("upgrade", "websocket")]), Some("upgrade"));
        assert_eq!(
            bypass(
                &Method::GET,
                &fields(&[]),
                About {
                    is_grpc: true,
                    has_content: false
                },
                &both
            ),
            Some(Bypass::Grpc)
        );
        assert_eq!(of(&Method::GET, &[("if-match", "\"a\"")]), Some("precondition"));
        let get = policy(Methods { get: true, head: false });
        assert_eq!(
            bypass(&Method::HEAD, &fields(&[]), About::default(), &get),
            Some(Bypass::Method)
        );
        for why in [
            "method",
            "grpc",
            "upgrade",
            "content",
            "precondition",
            "connection",
            "credential",
            "unknown_caller",
        ] {
            assert_ne!(because(why), why, "every reason has words");
        }
    }
}
