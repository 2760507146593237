//! The log of what gateways are to forget of kept answers, in signed pages.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use serde::Deserialize;
use utoipa::IntoParams;

use super::poll::{self, Wait};
use super::{path, query};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::manifests::signed;
use crate::control_plane::plane::Plane;
use crate::control_plane::problem::{Problem, ProblemDocument};
use crate::control_plane::store::StoreError;
use crate::distribution::{CachePage, Topic};

/// Records of a page.
const RECORDS: usize = 100;

/// Nothing in between may keep it: it would be late.
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");

/// What a poll of the log says.
#[derive(Debug, Default, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Part {
    /// The last record that the client has; absent: only the end is told.
    #[serde(default)]
    after: Option<u64>,
    /// The log that it is of. Whoever has read another one is answered at once.
    #[serde(default)]
    epoch: Option<u64>,
    /// For how many seconds it waits for something newer; at most 60. Default 0.
    #[serde(default)]
    wait: Option<u64>,
}

/// What is to be forgotten of kept answers
///
/// Answers at once if there are records after `after`, else waits for some. Without `after` it tells only where the log ends:
/// a gateway that starts keeps nothing yet, and needs nothing of what was said before.
#[utoipa::path(get, path = "/v1/environments/{environment}/cache/log", tag = "distribution",
    params(("environment" = String, Path, description = "Its name"), Part),
    responses(
        (status = OK, description = "A signed page", body = Object),
        (status = NOT_MODIFIED, description = "Nothing new"),
        (status = GONE, description = "These records are not kept any more: forget everything, and begin at the end",
            body = ProblemDocument),
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
    let Part { after, epoch, wait } = query(part)?;
    let wait = Wait { after, wait };
    let _place = poll::enter(&plane, &environment).await?;
    let own = plane.store.key_head().await?.epoch;
    let page = match after {
        None => end(&plane, environment, own).await?,
        Some(after) => {
            let mut news = plane.heads.watch_invalidations();
            // Who is ahead has read a log that this one is not any more: he is told at once where it ends.
            let is_ahead = after > *news.borrow() && after > plane.store.invalidation_head().await?;
            let is_lost = is_ahead || epoch.is_some_and(|epoch| epoch != own);
            if !is_lost && !poll::newer(&plane, &mut news, after, wait.until()).await {
                return Ok((StatusCode::NOT_MODIFIED, [(header::CACHE_CONTROL, NOT_KEPT)]).into_response());
            }
            page(&plane, environment, own, after).await?
        }
    };
    let text = serde_json::to_string(&page).map_err(|error| {
        log::error!("the log of invalidations: {error}");
        Problem::Internal
    })?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, NOT_KEPT),
    ];
    Ok((headers, signed(&plane, Topic::Cache, text)?).into_response())
}

/// Where it ends.
async fn end(plane: &Plane, environment: String, epoch: u64) -> Result<CachePage, Problem> {
    // Before the last record: what is written in between comes with the next page.
    let next = plane.store.invalidation_head().await?;
    let last = plane.store.newest_invalidations(&environment, 1).await?;
    Ok(CachePage {
        environment,
        epoch,
        after: None,
        next,
        quiet_ms: last.first().map(|last| plane.now_ms().saturating_sub(last.at_ms)),
        records: Vec::new(),
    })
}

async fn page(plane: &Plane, environment: String, epoch: u64, after: u64) -> Result<CachePage, Problem> {
    // Before the records: what is written in between comes with the next page.
    let head = plane.store.invalidation_head().await?;
    let records = match plane.store.invalidations(&environment, after, RECORDS).await {
        Ok(records) => records,
        Err(StoreError::NotFound(what)) => return Err(Problem::Gone(what)),
        Err(error) => return Err(error.into()),
    };
    // There may be more of them: a page has a bound of bytes too.
    let next = records.last().map_or(head, |record| record.seq);
    Ok(CachePage {
        environment,
        epoch,
        after: Some(after),
        next,
        quiet_ms: None,
        records,
    })
}
