//! What a request with an unsafe method makes invalid (RFC 9111 section 4.4).
//!
//! What is kept for its target, whoever it is kept for, and for the places that its answer names in `Location` and
//! `Content-Location`, if they are on the same host. At once here, before the client learns of the answer; on other
//! gateways as soon as they hear of it.

use std::borrow::Cow;

use http::header::{CONTENT_LOCATION, HOST, LOCATION};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::cache::marks::MarkId;
use crate::route::path::normalise;
use crate::snapshot::Api;

/// What a request with an unsafe method is about to change.
pub struct Change {
    host: Box<str>,
    target: Box<str>,
    /// Its API keeps answers, so that other gateways may have some.
    told: bool,
    /// The part of paths that the upstream does not know of.
    stripped: Option<Box<str>>,
}

impl Change {
    /// What this request is about to change.
    #[must_use]
    pub fn of(request: &RequestHeader, target: String, api: &Api) -> Self {
        let host = request.headers.get(HOST).and_then(|host| host.to_str().ok());
        Self {
            host: host.unwrap_or_default().to_ascii_lowercase().into(),
            target: target.into(),
            told: api.caches,
            stripped: api.strip_base_path.then(|| api.base_path.trim_end_matches('/').into()),
        }
    }

    /// Whether other gateways are told. Where an API keeps nothing, each of its many changes would be told in vain.
    #[must_use]
    pub fn is_worth_telling(&self) -> bool {
        self.told
    }

    /// What is not valid any more after this answer; nothing when it says that nothing was changed.
    pub fn made_by(&self, answer: &ResponseHeader) -> Vec<MarkId> {
        if !(answer.status.is_success() || answer.status.is_redirection()) {
            return Vec::new();
        }
        let mut marks = vec![MarkId::url(&self.host, &self.target)];
        for name in [LOCATION, CONTENT_LOCATION] {
            let named = answer
                .headers
                .get_all(name)
                .iter()
                .filter_map(|value| value.to_str().ok());
            for target in named.filter_map(|reference| self.resolve(reference)) {
                marks.push(MarkId::url(&self.host, &target));
                if let Some(stripped) = &self.stripped {
                    marks.push(MarkId::url(&self.host, &[stripped, target.as_str()].concat()));
                }
            }
        }
        marks
    }

    /// Path and query of a reference (RFC 3986 section 4.1) on this host, as keys have them; `None` when it is elsewhere.
    fn resolve(&self, reference: &str) -> Option<String> {
        let reference = reference.trim();
        let reference = reference.split('#').next().unwrap_or_default();
        let local = match after_scheme(reference) {
            Some(rest) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (authority, local) = rest.split_at_checked(end)?;
                if !self.is_here(authority) {
                    return None;
                }
                local
            }
            None => reference,
        };
        let (path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (local, None),
        };
        let own = self.target.split('?').next().unwrap_or_default();
        let whole = match path {
            "" if after_scheme(reference).is_some() => Cow::Borrowed("/"),
            "" => Cow::Borrowed(own),
            path if path.starts_with('/') => Cow::Borrowed(path),
            path => {
                let directory = own.rfind('/').and_then(|slash| own.get(..=slash)).unwrap_or("/");
                Cow::Owned([directory, path].concat())
            }
        };
        let path = normalise(&whole).ok()?;
        Some(match query {
            Some(query) => [&*path, "?", query].concat(),
            None => path.into_owned(),
        })
    }

    /// Whether this is the host that the request was for. A port that is the scheme's own may be left out.
    fn is_here(&self, authority: &str) -> bool {
        let without_port = |host: &'_ str| -> String {
            let host = host.to_ascii_lowercase();
            let bare = host.strip_suffix(":80").or_else(|| host.strip_suffix(":443"));
            bare.unwrap_or(&host).to_owned()
        };
        without_port(authority) == without_port(&self.host)
    }
}

/// What follows `http://`, `https://` or `//`.
fn after_scheme(reference: &str) -> Option<&str> {
    let after = |prefix: &str| {
        let head = reference.get(..prefix.len())?;
        head.eq_ignore_ascii_case(prefix).then(|| &reference[prefix.len()..])
    };
    after("http://").or_else(|| after("https://")).or_else(|| after("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        Change {
            host: "api.example.com".into(),
            target: "/orders/list?page=2".into(),
            told: true,
            stripped: None,
        }
    }

    #[test]
    fn references_are_resolved_as_a_browser_would() {
        let cases = [
            ("/orders/1", Some("/orders/1")),
            ("http://API.example.com/orders/1", Some("/orders/1")),
            ("https://api.example.com:443/orders/1?x=1#part", Some("/orders/1?x=1")),
            ("//api.example.com/a", Some("/a")),
            ("https://api.example.com", Some("/")),
            ("1", Some("/orders/1")),
            ("../invoices/7", Some("/invoices/7")),
            ("?page=3", Some("/orders/list?page=3")),
            ("https://elsewhere.example.com/orders/1", None),
            ("https://api.example.com:8443/orders/1", None),
            ("//elsewhere.example.com/orders/1", None),
        ];
        for (reference, expected) in cases {
            assert_eq!(change().resolve(reference).as_deref(), expected, "{reference}");
        }
    }

    #[test]
    fn an_answer_that_says_that_nothing_was_done_makes_nothing_invalid() {
        let answer = |status: u16| {
            let mut answer = ResponseHeader::build(status, None).expect("a status");
            answer.insert_header("Location", "/orders/1").expect("a field");
            change().made_by(&answer).len()
        };
        assert_eq!(answer(201), 2);
        assert_eq!(answer(303), 2);
        assert_eq!(answer(404), 0);
        assert_eq!(answer(500), 0);
    }

    #[test]
    fn behind_a_base_path_that_is_cut_off_a_location_is_meant_both_ways() {
        let mut answer = ResponseHeader::build(201, None).expect("a status");
        answer.insert_header("Location", "/1").expect("a field");
        let change = Change {
            stripped: Some("/orders".into()),
            ..change()
        };
        assert!(
            change
                .made_by(&answer)
                .contains(&MarkId::url("api.example.com", "/orders/1"))
        );
    }
}
