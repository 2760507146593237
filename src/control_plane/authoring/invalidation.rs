//! `/v1/environments/{environment}/cache/invalidations`: what the gateways of an environment are to forget of the answers
//! that they keep.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::environment::missing;
use super::exchange::{Answer, Asked, List, Named, Node, Sent, answer, limit};
use crate::cache::order::{LARGEST, Order};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::problem::Problem;
use crate::control_plane::store::ObjectKind;
use crate::distribution::CacheRecord;

/// An invalidation that was written down.
#[derive(Debug, Serialize, ToSchema)]
pub struct Written {
    /// Its number.
    pub seq: u64,
    /// How many things are to be forgotten.
    pub invalidated: usize,
    /// How gateways learn of it.
    #[schema(value_type = String)]
    pub spread: &'static str,
}

/// How much of the list is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Newest {
    /// How many at most: 100 unless it is said, 1,000 at most. Fewer come if they are large: a mebibyte together.
    limit: Option<usize>,
}

/// Makes answers that gateways of an environment keep invalid. They learn of it within seconds, also those that are away now
/// and come back; none waits for another.
#[utoipa::path(post, path = "/v1/environments/{environment}/cache/invalidations", tag = "cache", request_body = Order,
    params(("environment" = String, Path, description = "Which one.")),
    responses((status = 202, body = Written, description = "It is written down, and on its way.")))]
pub(super) async fn create(node: Node, caller: Caller, Named(environment): Named<String>, sent: Sent) -> Answer {
    // Gateways pass on what they are told, and what unsafe methods have changed.
    if caller.need_in(Scope::Gateway, &environment).is_err() {
        caller.need_in(Scope::Gateways, &environment)?;
    }
    let order: Order = sent.json_of(LARGEST).await?;
    let items = order.items().map_err(Problem::BadRequest)?;
    known(&node, &environment).await?;
    let what = serde_json::to_string(&order).map_err(|_| Problem::Internal)?;
    let seq = (node.store)
        .write_invalidation(&environment, &caller.id, &what, node.now_ms())
        .await?;
    node.heads.invalidated(seq);
    if order.from.is_none() {
        log::info!(
            "invalidation {seq} in {environment} by {}: {} things are forgotten",
            caller.id,
            items.len()
        );
    }
    let written = Written {
        seq,
        invalidated: items.len(),
        spread: "control_plane",
    };
    Ok(answer(StatusCode::ACCEPTED, &written))
}

/// Lists what gateways of an environment were told to forget, the newest first.
#[utoipa::path(get, path = "/v1/environments/{environment}/cache/invalidations", tag = "cache",
    params(("environment" = String, Path, description = "Which one."), Newest),
    responses((status = 200, body = List<CacheRecord>)))]
pub(super) async fn list(
    node: Node,
    caller: Caller,
    Named(environment): Named<String>,
    Asked(newest): Asked<Newest>,
) -> Answer {
    caller.need_in(Scope::Read, &environment)?;
    let limit = limit(newest.limit)?;
    known(&node, &environment).await?;
    let items = node.store.newest_invalidations(&environment, limit).await?;
    Ok(answer(StatusCode::OK, &List { items, next: None }))
}

async fn known(node: &Node, environment: &str) -> Result<(), Problem> {
    let found = node.store.object(ObjectKind::Environment, environment).await?;
    found.map(drop).ok_or_else(|| missing(environment))
}
