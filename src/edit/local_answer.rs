//! Answers that the gateway gives itself and that are no refusals: to preflights, redirects, and those of the revision.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::target::Target;
use crate::revision;

/// An answer without an upstream. Its length is written by whoever sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAnswer {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Content.
    pub body: Bytes,
}

/// Sends clients elsewhere.
#[derive(Debug)]
pub struct Redirect {
    /// Where.
    pub to: Target,
    /// How.
    pub status: StatusCode,
}

/// What a revision has the gateway say.
#[derive(Debug)]
pub struct Respond {
    status: StatusCode,
    headers: Box<[(HeaderName, HeaderValue)]>,
    body: Bytes,
}

impl LocalAnswer {
    /// One without content.
    #[must_use]
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

impl Redirect {
    /// The answer to a request for this path, as it was matched, with this query.
    #[must_use]
    pub fn answer(&self, path: &str, query: Option<&str>) -> LocalAnswer {
        let mut location = self.to.fill(path);
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            location.push('?');
            location.push_str(query);
        }
        let mut answer = LocalAnswer::empty(self.status);
        // Path and query are ASCII without control characters, or the request would not have come this far.
        if let Ok(location) = HeaderValue::try_from(location) {
            answer.headers.insert(LOCATION, location);
        }
        answer
    }
}

impl Respond {
    /// Compiles it.
    #[must_use]
    pub fn compile(respond: &revision::Respond) -> Self {
        let content_type = respond.content_type.clone().map(|value| (CONTENT_TYPE, value));
        Self {
            status: respond.status,
            headers: content_type
                .into_iter()
                .chain(respond.headers.iter().cloned())
                .collect(),
            body: Bytes::from(respond.body.clone()),
        }
    }

    /// The answer, the same for every request.
    #[must_use]
    pub fn answer(&self) -> LocalAnswer {
        LocalAnswer {
            status: self.status,
            headers: self.headers.iter().cloned().collect(),
            body: self.body.clone(),
        }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_keeps_the_query_and_a_response_is_always_the_same() {
        let redirect = Redirect {
            to: Target::compile(
                "/old/*",
                &revision::Target {
                    origin: None,
                    path: "/new/*".into(),
                },
            ),
            status: StatusCode::PERMANENT_REDIRECT,
        };
        let location = |query| redirect.answer("/old/a", query).headers[LOCATION].clone();
        assert_eq!(location(None), "/new/a");
        assert_eq!(location(Some("")), "/new/a");
        assert_eq!(location(Some("b=%2F%2Fc")), "/new/a?b=%2F%2Fc");

        let respond = Respond::compile(&revision::Respond {
            status: StatusCode::OK,
            content_type: Some(HeaderValue::from_static("text/plain")),
            body: "pong".into(),
            headers: vec![(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"))],
        });
        assert_eq!(respond.answer(), respond.answer());
        assert_eq!(respond.answer().headers[CONTENT_TYPE], "text/plain");
        assert_eq!(respond.answer().body, "pong");
    }
}
