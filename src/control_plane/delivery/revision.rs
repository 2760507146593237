//! `GET /v1/environments/{environment}/revision`: the manifest, or that there is no newer one.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::poll::{self, Wait};
use super::{Kind, path, query};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::manifests::Ready;
use crate::control_plane::plane::Plane;
use crate::control_plane::problem::{Problem, ProblemDocument};

/// What the answer may be kept for by caches in between: nothing by clients, and by a tier of proxies as long as it takes
/// to give it to everybody who asked for the same.
const CACHED: HeaderValue = HeaderValue::from_static("max-age=0, s-maxage=1");

/// The newest revision of an environment
///
/// Answers at once if there is a newer one than `after` (or than `If-None-Match` names), else waits for one. Without a
/// condition and a wait it answers with what there is.
#[utoipa::path(get, path = "/v1/environments/{environment}/revision", tag = "distribution",
    params(("environment" = String, Path, description = "Its name"), Wait),
    responses(
        (status = OK, description = "The signed manifest", body = Object),
        (status = NOT_MODIFIED, description = "Nothing newer"),
        (status = NOT_FOUND, description = "No such environment", body = ProblemDocument),
        (status = SERVICE_UNAVAILABLE, description = "Too many wait", body = ProblemDocument)))]
pub(super) async fn poll(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    environment: Result<Path<String>, PathRejection>,
    wait: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let environment = path(environment)?;
    caller.need_in(Scope::Gateway, &environment)?;
    let wait = query(wait)?;
    let _place = poll::enter(&plane, &environment).await?;
    let manifests = &plane.delivery.manifests;
    let mut after = wait.after.unwrap_or(0);
    if let Some(tag) = headers.get(header::IF_NONE_MATCH)
        && let Some(ready) = manifests.get(&plane, &environment).await?
        && names(tag, &ready.etag)
    {
        after = after.max(ready.seq);
    }
    // Whoever neither waits nor says what he has in a condition gets what there is: an answer of 304 would tell nothing to
    // curl, or to who makes copies.
    if wait.wait.unwrap_or(0) == 0
        && !headers.contains_key(header::IF_NONE_MATCH)
        && let Some(ready) = manifests.get(&plane, &environment).await?
    {
        return Ok(answer(&plane, &ready));
    }
    let until = wait.until();
    let mut news = plane.heads.watch(&environment);
    // What is said to be newer may turn out to be gone, with its environment: then there is nothing to wait for but time.
    let mut waited_for = after;
    while poll::newer(&plane, &mut news, waited_for, until).await {
        match manifests.get(&plane, &environment).await? {
            Some(ready) if ready.seq > after => return Ok(answer(&plane, &ready)),
            _ => waited_for = *news.borrow(),
        }
    }
    Ok(nothing_new(manifests.get(&plane, &environment).await?.as_deref()))
}

fn answer(plane: &Plane, ready: &Ready) -> Response {
    plane.delivery.meters.sent(Kind::Manifest, ready.body.len());
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, CACHED),
        (header::ETAG, ready.etag.clone()),
    ];
    (headers, ready.body.clone()).into_response()
}

fn nothing_new(ready: Option<&Ready>) -> Response {
    let mut answer = StatusCode::NOT_MODIFIED.into_response();
    answer.headers_mut().insert(header::CACHE_CONTROL, CACHED);
    if let Some(ready) = ready {
        answer.headers_mut().insert(header::ETAG, ready.etag.clone());
    }
    answer
}

/// Whether a list of entity tags names this one (RFC 9110 §13.1.2: compared weakly).
fn names(field: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(field), Ok(etag)) = (field.to_str(), etag.to_str()) else {
        return false;
    };
    field
        .split(',')
        .map(|tag| tag.trim())
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_is_compared_weakly() {
        let named = |field| names(&HeaderValue::from_static(field), &HeaderValue::from_static("\"3-abc\""));
        for field in ["\"3-abc\"", "W/\"3-abc\"", "\"2-x\", \"3-abc\"", "*"] {
            assert!(named(field), "{field}");
        }
        for field in ["", "3-abc", "\"3-abcd\"", "\"2-x\""] {
            assert!(!named(field), "{field}");
        }
    }
}
