//! Pools themselves: how many gateways they may have.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::access::{Caller, Scope};
use super::super::plane::Plane;
use super::super::problem::{Problem, ProblemDocument};
use super::super::store::{Changes, Expected, Object, ObjectChange, ObjectKind, StoreError, StoreResult};
use super::request::{self, Asked, Body};
use super::roster::unreadable;

/// Items of a list without `limit`, and at most.
pub(super) const PAGE: (usize, usize) = (100, 1000);

/// A pool.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pool {
    /// Unique.
    name: String,
    /// How many gateways may run; null is no limit.
    max_instances: Option<u32>,
    /// How many do.
    live: u32,
    /// How many are too many, after the limit was lowered: they may stay, and nobody else comes in.
    over_by: u32,
}

/// A pool to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPool {
    /// Unique.
    name: String,
    /// How many gateways may run; null or nothing is no limit.
    #[serde(default)]
    max_instances: Option<u32>,
}

/// A pool as it shall be. What is only read may be sent back; it changes nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolChange {
    /// The same name as in the path.
    #[serde(default)]
    name: Option<String>,
    /// How many gateways may run; null is no limit. It has to be said.
    #[serde(deserialize_with = "Option::deserialize")]
    max_instances: Option<u32>,
    /// Read only.
    #[serde(default, rename = "live")]
    _live: Option<u32>,
    /// Read only.
    #[serde(default, rename = "over_by")]
    _over_by: Option<u32>,
}

/// Some pools.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pools {
    /// In the order of their names.
    items: Vec<Pool>,
    /// What to ask for next with `after`; nothing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Beginning after this one.
    pub(super) after: Option<String>,
    /// How many at most: 100 unless told, at most 1000.
    pub(super) limit: Option<usize>,
}

/// What is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    max_instances: Option<u32>,
}

/// Lists pools: those that were created, and those in which gateways are alive.
#[utoipa::path(
    get, path = "/v1/pools", tag = "pools", params(Page),
    responses((status = 200, body = Pools), (status = 403, body = ProblemDocument))
)]
pub(super) async fn list(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(page): Asked<Page>,
) -> Result<Json<Pools>, Problem> {
    caller.need(Scope::Read)?;
    let now_ms = plane.now_ms();
    plane.pools.roster.fresh(plane.store.as_ref(), now_ms).await?;
    let limit = page.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
    let after = page.after.as_deref().unwrap_or("");

    let mut limits: BTreeMap<String, Option<u32>> = BTreeMap::new();
    let stored = plane.store.objects(ObjectKind::Pool, page.after.as_deref(), limit + 1);
    for object in stored.await? {
        limits.insert(object.name.clone(), limit_of(&object)?);
    }
    let alive_since_ms = plane.pools.alive_since_ms(now_ms);
    for member in plane.pools.roster.members() {
        let instance = &member.instance;
        if instance.is_alive(alive_since_ms) && instance.pool.as_str() > after && !limits.contains_key(&instance.pool) {
            limits.insert(instance.pool.clone(), None);
        }
    }
    let more = limits.len() > limit;
    let items: Vec<Pool> = limits
        .into_iter()
        .take(limit)
        .map(|(name, max)| view(&plane, name, max, now_ms))
        .collect();
    let next = items.last().filter(|_| more).map(|pool| pool.name.clone());
    Ok(Json(Pools { items, next }))
}

/// Creates a pool.
#[utoipa::path(
    post, path = "/v1/pools", tag = "pools", request_body = NewPool,
    responses(
        (status = 201, body = Pool), (status = 400, body = ProblemDocument), (status = 403, body = ProblemDocument),
        (status = 409, description = "There is one of this name", body = ProblemDocument),
    )
)]
pub(super) async fn create(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Body(pool): Body<NewPool>,
) -> Result<Response, Problem> {
    caller.need(Scope::Pools)?;
    request::pool_name(&pool.name)?;
    let stored = write(&plane, &pool.name, Expected::Absent, Some(pool.max_instances))
        .await
        .map_err(|error| match error {
            StoreError::Conflict(_) => Problem::Conflict(format!("there is a pool \"{}\" already", pool.name)),
            other => other.into(),
        })?;
    answer(&plane, StatusCode::CREATED, pool.name, stored).await
}

/// Shows a pool.
#[utoipa::path(
    get, path = "/v1/pools/{name}", tag = "pools",
    responses((status = 200, body = Pool), (status = 404, body = ProblemDocument))
)]
pub(super) async fn show(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    caller.need(Scope::Read)?;
    let now_ms = plane.now_ms();
    let object = plane.store.object(ObjectKind::Pool, &name).await?;
    if object.is_none() {
        plane.pools.roster.fresh(plane.store.as_ref(), now_ms).await?;
        let alive_since_ms = plane.pools.alive_since_ms(now_ms);
        if plane.pools.roster.live(&name, alive_since_ms, now_ms) == 0 {
            return Err(no_such(&name));
        }
    }
    answer(&plane, StatusCode::OK, name, object).await
}

/// Changes a pool, or creates it. Lowering `max_instances` stops no gateway.
#[utoipa::path(
    put, path = "/v1/pools/{name}", tag = "pools", request_body = PoolChange,
    params(("If-Match" = Option<String>, Header, description = "The ETag that it has to have")),
    responses(
        (status = 200, body = Pool), (status = 201, body = Pool), (status = 400, body = ProblemDocument),
        (status = 403, body = ProblemDocument), (status = 412, body = ProblemDocument),
    )
)]
pub(super) async fn replace(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    Body(pool): Body<PoolChange>,
) -> Result<Response, Problem> {
    caller.need(Scope::Pools)?;
    request::pool_name(&name)?;
    if pool.name.is_some_and(|other| other != name) {
        return Err(Problem::BadRequest(format!(
            "\"name\" is not the pool of the path, \"{name}\"; a pool keeps its name"
        )));
    }
    let condition = request::expected(&headers)?;
    let is_new = plane.store.object(ObjectKind::Pool, &name).await?.is_none();
    let stored = write(
        &plane,
        &name,
        condition.unwrap_or(Expected::Anything),
        Some(pool.max_instances),
    )
    .await
    .map_err(|error| refused(error, condition, &name))?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    answer(&plane, status, name, stored).await
}

/// Removes a pool, and with it the limit. Not while gateways of it are alive.
#[utoipa::path(
    delete, path = "/v1/pools/{name}", tag = "pools",
    params(("If-Match" = Option<String>, Header, description = "The ETag that it has to have")),
    responses(
        (status = 204), (status = 403, body = ProblemDocument), (status = 404, body = ProblemDocument),
        (status = 409, description = "Gateways of it are alive", body = ProblemDocument),
        (status = 412, body = ProblemDocument),
    )
)]
pub(super) async fn delete(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.need(Scope::Pools)?;
    let condition = request::expected(&headers)?;
    let now_ms = plane.now_ms();
    plane.pools.roster.fresh(plane.store.as_ref(), now_ms).await?;
    let alive_since_ms = plane.pools.alive_since_ms(now_ms);
    let live = plane.pools.roster.live(&name, alive_since_ms, now_ms);
    if live > 0 {
        return Err(Problem::Conflict(format!(
            "{live} gateways of the pool \"{name}\" are alive, and without it nothing would limit them; drain them \
             first, or set max_instances to null"
        )));
    }
    write(&plane, &name, condition.unwrap_or(Expected::Present), None)
        .await
        .map_err(|error| refused(error, condition, &name))?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many instances a pool may have, as the store says now; none is no limit.
///
/// # Errors
/// When the store fails.
pub(super) async fn limit(plane: &Plane, name: &str) -> StoreResult<Option<u32>> {
    let object = plane.store.object(ObjectKind::Pool, name).await?;
    let limit = object.as_ref().map(limit_of).transpose()?;
    plane.pools.roster.set_limit(name, limit);
    Ok(limit.flatten())
}

/// What a stored pool says.
///
/// # Errors
/// When it can not be read.
pub(super) fn limit_of(object: &Object) -> StoreResult<Option<u32>> {
    serde_json::from_str::<Stored>(&object.value)
        .map(|stored| stored.max_instances)
        .map_err(|error| unreadable(&format!("the pool \"{}\"", object.name), &error))
}

/// Writes a pool with this limit, or removes it.
async fn write(
    plane: &Plane,
    name: &str,
    expected: Expected,
    limit: Option<Option<u32>>,
) -> StoreResult<Option<Object>> {
    let value = limit
        .map(|max_instances| serde_json::to_string(&Stored { max_instances }))
        .transpose()
        .map_err(|error| StoreError::Failed(error.to_string()))?;
    let changes = Changes {
        objects: vec![ObjectChange {
            kind: ObjectKind::Pool,
            name: name.to_owned(),
            expected,
            value,
        }],
        ..Changes::default()
    };
    let committed = plane.store.commit(&changes, plane.now_ms()).await?;
    plane.pools.roster.set_limit(name, limit);
    Ok(committed.objects.into_iter().next())
}

fn refused(error: StoreError, condition: Option<Expected>, name: &str) -> Problem {
    match (error, condition) {
        (StoreError::Failed(why), _) => StoreError::Failed(why).into(),
        (_, Some(_)) => Problem::PreconditionFailed(format!(
            "the pool \"{name}\" is not the one that the precondition names; read it again and repeat the change"
        )),
        (StoreError::NotFound(_) | StoreError::Conflict(_), None) => no_such(name),
    }
}

fn no_such(name: &str) -> Problem {
    Problem::NotFound(format!("there is no pool \"{name}\""))
}

async fn answer(plane: &Plane, status: StatusCode, name: String, object: Option<Object>) -> Result<Response, Problem> {
    let now_ms = plane.now_ms();
    plane.pools.roster.fresh(plane.store.as_ref(), now_ms).await?;
    let max = object.as_ref().map(limit_of).transpose()?.flatten();
    let tag = request::etag(object.map_or(0, |object| object.version));
    let body = Json(view(plane, name, max, now_ms));
    Ok((status, [tag, (header::CACHE_CONTROL, no_store())], body).into_response())
}

fn no_store() -> axum::http::HeaderValue {
    axum::http::HeaderValue::from_static("no-store")
}

fn view(plane: &Plane, name: String, max_instances: Option<u32>, now_ms: u64) -> Pool {
    let alive_since_ms = plane.pools.alive_since_ms(now_ms);
    let live = plane.pools.roster.live(&name, alive_since_ms, now_ms);
    Pool {
        name,
        max_instances,
        live,
        over_by: max_instances.map_or(0, |max| live.saturating_sub(max)),
    }
}
