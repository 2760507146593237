//! What requests carry, read so that every mistake is answered with a problem document.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;

use super::super::problem::Problem;
use super::super::store::Expected;
use crate::document::{Grammar as _, Name};

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::TooLarge(format!(
                "this body may have {} bytes at most",
                super::BODY
            ))),
            Err(rejection) => Err(Problem::BadRequest(rejection.body_text())),
        }
    }
}

/// The query of a URL.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::BadRequest(rejection.body_text())),
        }
    }
}

/// What has to be there, as `If-Match` and `If-None-Match` say; none if they say nothing.
///
/// # Errors
/// When they say something that is no version.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<Expected>, Problem> {
    let single = |name: header::HeaderName| -> Result<Option<String>, Problem> {
        let mut fields = headers.get_all(&name).iter();
        match (fields.next(), fields.next()) {
            (None, _) => Ok(None),
            (Some(field), None) => match field.to_str() {
                Ok(text) => Ok(Some(text.trim().to_owned())),
                Err(_) => Err(Problem::BadRequest(format!("{name} is not ASCII"))),
            },
            _ => Err(Problem::BadRequest(format!("{name} may be given once"))),
        }
    };
    match (single(header::IF_MATCH)?, single(header::IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (Some(text), None) if text == "*" => Ok(Some(Expected::Present)),
        (None, Some(text)) if text == "*" => Ok(Some(Expected::Absent)),
        (Some(text), None) => {
            let version = text
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'))
                .and_then(|number| number.parse().ok());
            match version {
                // What exists without ever having been written has the version 0.
                Some(0) => Ok(Some(Expected::Absent)),
                Some(version) => Ok(Some(Expected::Version(version))),
                None => Err(Problem::BadRequest(
                    "If-Match has to be * or one ETag as it was given, such as \"3\"".to_owned(),
                )),
            }
        }
        _ => Err(Problem::BadRequest(
            "of preconditions, If-Match: \"VERSION\" and If-None-Match: * are understood, one at a time".to_owned(),
        )),
    }
}

/// The version of an object as an `ETag`.
pub(super) fn etag(version: u64) -> (header::HeaderName, HeaderValue) {
    // Digits between quotes are always a header value.
    let value = HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""));
    (header::ETAG, value)
}

/// A name, or what is wrong with it. `what` tells whose.
///
/// # Errors
/// When it is no name.
pub(super) fn name(what: &str, text: &str) -> Result<(), Problem> {
    match Name::read(text) {
        Ok(_) => Ok(()),
        Err(why) => Err(Problem::BadRequest(format!("{what}: {why}"))),
    }
}

/// A name that stands in a path of this API: it has no slash either.
///
/// # Errors
/// When it is no such name.
pub(super) fn pool_name(text: &str) -> Result<(), Problem> {
    name("the name of the pool", text)?;
    if text.contains('/') {
        return Err(Problem::BadRequest(
            "the name of the pool: it stands in URLs; write it without slashes".to_owned(),
        ));
    }
    Ok(())
}

/// A text in which nothing can trick a terminal: other control characters than line ends and tabs are replaced, and
/// what is longer than `most` bytes is cut.
pub(super) fn plain(text: &str, most: usize) -> String {
    let mut plain = String::with_capacity(text.len().min(most));
    for c in text.chars() {
        let c = match c {
            '\n' | '\t' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        if plain.len() + c.len_utf8() > most {
            break;
        }
        plain.push(c);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_a_gateway_is_cut_at_a_character_and_has_no_escapes() {
        assert_eq!(plain("a\u{1b}[31mred\n\tb", 100), "a\u{fffd}[31mred\n\tb");
        assert_eq!(plain("äöü", 5), "äö");
        assert_eq!(plain("abc", 3), "abc");
    }

    #[test]
    fn preconditions_are_versions_as_they_were_given_and_nothing_else() {
        let ask = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            expected(&headers).map_err(|_| ())
        };
        assert_eq!(ask(&[]), Ok(None));
        assert_eq!(ask(&[("if-match", "\"7\"")]), Ok(Some(Expected::Version(7))));
        assert_eq!(ask(&[("if-match", "\"0\"")]), Ok(Some(Expected::Absent)));
        assert_eq!(ask(&[("if-match", "*")]), Ok(Some(Expected::Present)));
        assert_eq!(ask(&[("if-none-match", "*")]), Ok(Some(Expected::Absent)));
        for refused in [
            &[("if-match", "7")][..],
            &[("if-match", "W/\"7\"")],
            &[("if-match", "\"7\", \"8\"")],
            &[("if-match", "\"7\""), ("if-match", "\"8\"")],
            &[("if-match", "\"7\""), ("if-none-match", "*")],
            &[("if-none-match", "\"7\"")],
        ] {
            assert_eq!(ask(refused), Err(()), "{refused:?}");
        }
    }
}
