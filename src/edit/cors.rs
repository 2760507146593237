//! The CORS protocol (Fetch standard, section 3.3): what browsers are told about scripts of other origins.
//!
//! An origin that is not let in gets its answer without the fields, and the browser keeps it from the script. Nothing is
//! refused here: a program that is not a browser may write any origin, so this protects visitors and not the API.

use std::collections::HashSet;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use super::local_answer::LocalAnswer;
use crate::revision::{self, OriginPattern};

/// Every field of an answer in which an upstream may have its own word.
const FIELDS: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// What an API says to browsers, ready to be written.
#[derive(Debug)]
pub struct Cors {
    any: bool,
    exact: HashSet<Box<[u8]>>,
    subdomains: Box<[Subdomains]>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: Option<HeaderValue>,
}

/// Origins that begin and end so, with labels of a host between.
#[derive(Debug)]
struct Subdomains {
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
}

/// What is said about the origin of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The request names none, so nobody asks.
    NotAsked,
    /// Its scripts may not read the answer.
    Refused,
    /// They may; the value of `Access-Control-Allow-Origin`.
    Allowed(HeaderValue),
}

impl Cors {
    /// Compiles it.
    #[must_use]
    pub fn compile(cors: &revision::Cors) -> Self {
        let exact = cors.origins.iter().filter_map(|origin| match origin {
            OriginPattern::Exact(origin) => Some(origin.as_bytes().into()),
            _ => None,
        });
        let subdomains = cors.origins.iter().filter_map(|origin| match origin {
            OriginPattern::Subdomains { prefix, suffix } => Some(Subdomains {
                prefix: prefix.as_bytes().into(),
                suffix: suffix.as_bytes().into(),
            }),
            _ => None,
        });
        Self {
            any: cors.origins.contains(&OriginPattern::Any),
            exact: exact.collect(),
            subdomains: subdomains.collect(),
            methods: cors.methods.as_deref().and_then(list),
            headers: list(&cors.headers),
            expose: list(&cors.expose),
            credentials: cors.credentials,
            max_age: cors.max_age.map(|max_age| HeaderValue::from(max_age.as_secs())),
        }
    }

    /// What is said about the origin of a request with these fields.
    #[must_use]
    pub fn verdict(&self, headers: &HeaderMap) -> Verdict {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return Verdict::NotAsked;
        };
        if origins.next().is_some() {
            return Verdict::Refused;
        }
        if self.any {
            return Verdict::Allowed(ANY);
        }
        let bytes = origin.as_bytes();
        if self.exact.contains(bytes) || self.subdomains.iter().any(|pattern| pattern.holds(bytes)) {
            return Verdict::Allowed(origin.clone());
        }
        Verdict::Refused
    }

    /// Writes it into an answer, in the place of what the upstream has said.
    pub fn tell(&self, verdict: &Verdict, headers: &mut HeaderMap) {
        for name in &FIELDS {
            headers.remove(name);
        }
        if !self.any {
            // Also where nobody asked: a cache must not give this answer to somebody who does.
            headers.append(VARY, VARY_ORIGIN);
        }
        let Verdict::Allowed(origin) = verdict else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// The answer to a preflight that asks about this method, which the route answers.
    #[must_use]
    pub fn preflight(&self, verdict: &Verdict, asked: &Method) -> LocalAnswer {
        let mut answer = LocalAnswer::empty(http::StatusCode::NO_CONTENT);
        let headers = &mut answer.headers;
        headers.insert(VARY, VARY_PREFLIGHT);
        let Verdict::Allowed(origin) = verdict else {
            return answer;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        let methods = self
            .methods
            .clone()
            .or_else(|| HeaderValue::from_str(asked.as_str()).ok());
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone()),
            (ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
        ] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        answer
    }
}

/// The method that a preflight asks about; `None` for any other request. A method that no request can have is none.
#[must_use]
pub fn asked_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

impl Subdomains {
    /// Whether there are labels of a host between, and nothing that could end a host.
    fn holds(&self, origin: &[u8]) -> bool {
        let labels = origin
            .strip_prefix(&*self.prefix)
            .and_then(|rest| rest.strip_suffix(&*self.suffix))
            .unwrap_or_default();
        let is_label = |label: &[u8]| {
            let is_one = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(byte);
            !label.is_empty() && label.iter().all(is_one)
        };
        labels.split(|byte| *byte == b'.').all(is_label)
    }
}

/// A list as one field; `None` when there is nothing in it.
fn list(items: &[String]) -> Option<HeaderValue> {
    // Tokens, all of them, so they fit.
    (!items.is_empty()).then(|| HeaderValue::from_str(&items.join(", ")).ok())?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors(origins: &[OriginPattern]) -> Cors {
        Cors::compile(&revision::Cors {
            origins: origins.to_vec(),
            methods: None,
            headers: vec!["content-type".into(), "x-api-key".into()],
            expose: vec!["x-request-id".into()],
            credentials: !origins.contains(&OriginPattern::Any),
            max_age: Some(Duration::from_secs(600)),
        })
    }

    fn from(origin: &str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, HeaderValue::from_str(origin).unwrap())])
    }

    fn below_example_org() -> OriginPattern {
        OriginPattern::Subdomains {
            prefix: "https://".into(),
            suffix: ".example.org".into(),
        }
    }

    #[test]
    fn an_origin_is_let_in_exactly_or_below_a_domain_and_never_because_it_looks_alike() {
        let cors = cors(&[
            OriginPattern::Exact("https://app.example.com".into()),
            below_example_org(),
        ]);
        for origin in [
            "https://app.example.com",
            "https://a.example.org",
            "https://a.b-1.example.org",
        ] {
            let verdict = cors.verdict(&from(origin));
            assert_eq!(
                verdict,
                Verdict::Allowed(HeaderValue::from_str(origin).unwrap()),
                "{origin}"
            );
        }
        for origin in [
            "https://example.org",
            "https://.example.org",
            "https://a..example.org",
            "https://evilexample.org",
            "http://a.example.org",
            "https://a.example.org:8443",
            "https://a.example.org.evil.com",
            "https://evil.com/.example.org",
            "https://evil.com#.example.org",
            "https://evil.com\\.example.org",
            "https://evil.com:1@x.example.org",
            "https://A.example.org",
            "https://app.example.com.evil.com",
            "https://app.example.com:443",
            "null",
            "",
            "*",
        ] {
            assert_eq!(cors.verdict(&from(origin)), Verdict::Refused, "{origin}");
        }
        assert_eq!(cors.verdict(&HeaderMap::new()), Verdict::NotAsked);
        let mut two = from("https://app.example.com");
        two.append(ORIGIN, HeaderValue::from_static("https://app.example.com"));
        assert_eq!(cors.verdict(&two), Verdict::Refused);
    }

    #[test]
    fn null_is_an_origin_only_where_it_is_listed() {
        let listed = cors(&[OriginPattern::Exact("null".into())]);
        assert!(matches!(listed.verdict(&from("null")), Verdict::Allowed(_)));
        assert_eq!(cors(&[below_example_org()]).verdict(&from("null")), Verdict::Refused);
    }

    #[test]
    fn what_the_upstream_says_is_replaced_for_those_let_in_and_taken_away_for_others() {
        let cors = cors(&[OriginPattern::Exact("https://app.example.com".into())]);
        let told = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                ACCESS_CONTROL_ALLOW_ORIGIN,
                HeaderValue::from_static("https://evil.com"),
            );
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
            headers.insert(VARY, HeaderValue::from_static("Accept"));
            cors.tell(&cors.verdict(&from(origin)), &mut headers);
            headers
        };
        let allowed = told("https://app.example.com");
        assert_eq!(allowed[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example.com");
        assert_eq!(allowed[ACCESS_CONTROL_EXPOSE_HEADERS], "x-request-id");
        assert!(allowed.get_all(VARY).iter().eq(["Accept", "Origin"]));
        let refused = told("https://evil.com");
        assert!(!refused.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(!refused.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert!(refused.get_all(VARY).iter().eq(["Accept", "Origin"]));
    }

    #[test]
    fn a_preflight_is_told_what_may_be_sent_and_a_stranger_nothing() {
        let cors = cors(&[OriginPattern::Exact("https://app.example.com".into())]);
        let verdict = cors.verdict(&from("https://app.example.com"));
        let headers = cors.preflight(&verdict, &Method::DELETE).headers;
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "DELETE");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "content-type, x-api-key");
        assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "600");
        let headers = cors.preflight(&Verdict::Refused, &Method::DELETE).headers;
        assert_eq!(headers.keys().collect::<Vec<_>>(), [VARY]);
    }

    #[test]
    fn for_every_origin_the_answer_is_the_same_and_needs_no_vary() {
        let cors = cors(&[OriginPattern::Any]);
        let mut headers = HeaderMap::new();
        cors.tell(&cors.verdict(&from("https://anybody.example")), &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!headers.contains_key(VARY));
    }

    #[test]
    fn only_options_with_an_origin_and_a_method_is_a_preflight() {
        let mut headers = from("https://app.example.com");
        assert_eq!(asked_method(&Method::OPTIONS, &headers), None);
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
        assert_eq!(asked_method(&Method::OPTIONS, &headers), Some(Method::PUT));
        assert_eq!(asked_method(&Method::GET, &headers), None);
        headers.remove(ORIGIN);
        assert_eq!(asked_method(&Method::OPTIONS, &headers), None);
    }
}
