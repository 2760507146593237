//! The key log, in signed pages, and keys by their hashes for gateways that do not keep them all.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};
use utoipa::IntoParams;

use super::cache::Ready;
use super::poll::{self, Wait};
use super::{Kind, path, query};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::manifests::signed;
use crate::control_plane::plane::Plane;
use crate::control_plane::problem::{Problem, ProblemDocument};
use crate::control_plane::store::StoreError;
use crate::distribution::protocol::{
    KEY_EXPORT_MOST, KEY_PAGE_MOST, NONCE_MOST, RESOLVE_MOST, Resolve, Resolved, ResolvedFor,
};
use crate::distribution::{KeyPage, Signed, Topic};

/// Bytes of pages that are kept in memory.
const ROOM: u64 = 32 << 20;

/// The longest list of hashes.
const RESOLVE_BYTES: usize = 64 * 1024;

/// How long it may take to come.
const RESOLVE_TIME: Duration = Duration::from_secs(10);

/// A client that is ahead of the log is not answered sooner: it would ask again at once.
const AHEAD: Duration = Duration::from_secs(1);

/// What may be kept of an answer in between.
const CACHED: HeaderValue = HeaderValue::from_static("max-age=0, s-maxage=1");

/// What a poll of the log says.
#[derive(Debug, Default, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// What the client has already; 0 is nothing.
    #[serde(default)]
    after: Option<u64>,
    /// For how many seconds it waits for something newer; at most 60. Default 0.
    #[serde(default)]
    wait: Option<u64>,
    /// How many records at most: 1,000 unless it is said, 20,000 at most.
    #[serde(default)]
    limit: Option<usize>,
}

/// Pages that were asked for.
pub(super) struct Pages(Ready<Page>);

/// One page: what is asked for, and the end of the log at that time.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Page {
    environment: String,
    after: u64,
    limit: usize,
    head: u64,
}

impl Pages {
    pub(super) fn new() -> Self {
        Self(Ready::new(1024, ROOM))
    }

    async fn get(&self, plane: &Plane, page: &Page) -> Result<Bytes, Problem> {
        self.0.get(page, make(plane, page)).await
    }
}

/// The changes of keys
///
/// Answers at once if there are records after `after`, else waits for some. All environments have the same keys; which of
/// them let in where, gateways decide by their types.
#[utoipa::path(get, path = "/v1/environments/{environment}/keys/log", tag = "distribution",
    params(("environment" = String, Path, description = "Its name"), Part),
    responses(
        (status = OK, description = "A signed page of at most so many records", body = Object),
        (status = NOT_MODIFIED, description = "Nothing new"),
        (status = GONE, description = "These records are not kept any more: begin at the base", body = ProblemDocument),
        (status = NOT_FOUND, description = "No such environment", body = ProblemDocument),
        (status = SERVICE_UNAVAILABLE, description = "Too many wait", body = ProblemDocument)))]
pub(super) async fn poll(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    environment: Result<Path<String>, PathRejection>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Response, Problem> {
    let environment = path(environment)?;
    caller.need_in(Scope::Gateway, &environment)?;
    let Part { after, wait, limit } = query(part)?;
    let wait = Wait { after, wait };
    let _place = poll::enter(&plane, &environment).await?;
    let after = wait.after.unwrap_or(0);
    let until = wait.until();
    let mut news = plane.heads.watch_keys();
    if after > *news.borrow() && after > plane.store.key_head().await?.seq {
        // It has read another log, or this one before it was restored from a copy: the page says which log this is.
        tokio::select! {
            () = sleep_until(until.min(Instant::now() + AHEAD)) => {}
            () = plane.left() => {}
        }
    } else if !poll::newer(&plane, &mut news, after, until).await {
        return Ok((StatusCode::NOT_MODIFIED, [(header::CACHE_CONTROL, CACHED)]).into_response());
    }
    let page = Page {
        environment,
        after,
        limit: limit.unwrap_or(KEY_PAGE_MOST).clamp(1, KEY_EXPORT_MOST),
        head: *news.borrow(),
    };
    let bytes = plane.delivery.pages.get(&plane, &page).await?;
    plane.delivery.meters.sent(Kind::Keys, bytes.len());
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, CACHED),
    ];
    Ok((headers, bytes).into_response())
}

async fn make(plane: &Plane, page: &Page) -> Result<Bytes, Problem> {
    let records = match plane.store.key_log(page.after, page.limit).await {
        Ok(records) => records,
        Err(StoreError::NotFound(what)) => {
            return Err(Problem::Gone(format!("{what}; begin at the key base of the manifest")));
        }
        Err(error) => return Err(error.into()),
    };
    let head = plane.store.key_head().await?;
    let last = records.last().map_or(0, |record| record.seq);
    let text = serde_json::to_string(&KeyPage {
        environment: page.environment.clone(),
        epoch: head.epoch,
        after: page.after,
        head: head.seq.max(last),
        records,
    });
    let text = text.map_err(|error| {
        log::error!("key log: {error}");
        Problem::Internal
    })?;
    signed(plane, Topic::Keys, text)
}

/// Keys by their hashes
///
/// For gateways that do not keep all keys. Those that are missing in the answer do not let in.
#[utoipa::path(post, path = "/v1/keys:resolve", tag = "distribution", request_body = Object,
    responses(
        (status = OK, description = "Those of them that let in, and the end of the key log", body = Object),
        (status = BAD_REQUEST, description = "Not a list of hashes", body = ProblemDocument),
        (status = PAYLOAD_TOO_LARGE, description = "More than 1,000 hashes", body = ProblemDocument)))]
pub(super) async fn resolve(State(plane): State<Arc<Plane>>, caller: Caller, body: Body) -> Result<Response, Problem> {
    caller.need(Scope::Gateway)?;
    let read = timeout(RESOLVE_TIME, to_bytes(body, RESOLVE_BYTES)).await;
    let bytes = read
        .map_err(|_| Problem::BadRequest("the body did not come in time".to_owned()))?
        .map_err(|_| Problem::TooLarge(format!("a body is at most {RESOLVE_BYTES} bytes here")))?;
    let Resolve { h: hashes, nonce } = serde_json::from_slice(&bytes).map_err(|error| {
        Problem::BadRequest(format!(
            "this is not a list of hashes, {{\"h\": [\"32 hex digits\"]}}: {error}"
        ))
    })?;
    if hashes.len() > RESOLVE_MOST {
        return Err(Problem::TooLarge(format!(
            "{} hashes are asked for, and at most {RESOLVE_MOST} may be",
            hashes.len()
        )));
    }
    if nonce.len() > NONCE_MOST {
        return Err(Problem::BadRequest(format!(
            "a nonce has at most {NONCE_MOST} characters"
        )));
    }
    let (seq, keys) = plane.store.resolve_keys(&hashes).await?;
    let answer = ResolvedFor {
        nonce,
        answer: Resolved { seq, keys },
    };
    let text = serde_json::to_string(&answer).map_err(|error| {
        log::error!("keys:resolve: {error}");
        Problem::Internal
    })?;
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, Json(Signed::new(Topic::Resolved, text, &plane.signing))).into_response())
}
