//! Gateways as operators see them: where each stands, and what to do with it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::access::{Caller, Scope};
use super::super::plane::Plane;
use super::super::problem::{Problem, ProblemDocument};
use super::super::store::StoreResult;
use super::pool::PAGE;
use super::request::Asked;
use super::roster::{Member, unreadable};
use crate::distribution::protocol::{Applied, Heartbeat, Nack};

/// A gateway.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Gateway {
    /// Tells this installation from all others.
    id: String,
    /// What its configuration calls it.
    name: String,
    /// Where it has its seat.
    pool: String,
    /// What it serves.
    environment: String,
    /// The labels of the APIs that it takes.
    labels: Vec<String>,
    /// Where it stands.
    zone: Option<String>,
    /// The version of the program.
    version: String,
    /// Whether it is there.
    state: Presence,
    /// The revision that it serves.
    applied: Option<Applied>,
    /// The newest revision of its environment.
    latest_seq: u64,
    /// How the two compare.
    drift: Standing,
    /// The newest revision that it refused, and why. Its text comes from the gateway.
    refused: Option<Nack>,
    /// Requests per second.
    requests_per_second: f64,
    /// Share of them that ended with 5xx, 0.0 to 1.0.
    errors: f64,
    /// Their 99th percentile in milliseconds.
    p99_ms: f64,
    /// How its Redis is; null without one.
    redis: Option<String>,
    /// How far it has read the key log.
    key_seq: u64,
    /// How many records it is behind.
    key_lag: u64,
    /// When it registered (RFC 3339).
    #[schema(format = "date-time")]
    since: String,
    /// Its last sign of life (RFC 3339).
    #[schema(format = "date-time")]
    seen: String,
}

/// Whether a gateway is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GatewayState)]
pub(super) enum Presence {
    /// It is.
    Alive,
    /// It was stopped, or gave no sign of life for longer than a seat lasts.
    Gone,
    /// It is leaving, or was told to.
    Draining,
}

/// How what a gateway serves compares with what it should serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GatewayDrift)]
pub(super) enum Standing {
    /// The newest revision.
    InSync,
    /// An older one, or none yet.
    Behind,
    /// An older one, because it refused a newer one.
    Refused,
    /// Something that was never published under that number.
    Drift,
}

/// Some gateways.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Gateways {
    /// In the order of their ids.
    items: Vec<Gateway>,
    /// What to ask for next with `after`; nothing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which gateways.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Of this pool only.
    pool: Option<String>,
    /// Of this environment only.
    environment: Option<String>,
    /// Beginning after this id.
    after: Option<String>,
    /// How many at most: 100 unless told, at most 1000.
    limit: Option<usize>,
}

/// Lists gateways.
#[utoipa::path(
    get, path = "/v1/gateways", tag = "gateways", params(Filter),
    responses((status = 200, body = Gateways), (status = 403, body = ProblemDocument))
)]
pub(super) async fn list(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(filter): Asked<Filter>,
) -> Result<Json<Gateways>, Problem> {
    caller.need(Scope::Read)?;
    let now_ms = plane.now_ms();
    plane.pools.roster.fresh(plane.store.as_ref(), now_ms).await?;
    let limit = filter.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
    let mut members: Vec<Member> = plane.pools.roster.members();
    members.retain(|member| {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        is(&filter.pool, &member.instance.pool)
            && is(&filter.environment, &member.about.environment)
            && filter
                .after
                .as_deref()
                .is_none_or(|after| member.instance.id.as_str() > after)
    });
    let more = members.len() > limit;
    members.truncate(limit);
    let mut heads = Heads::default();
    let mut items = Vec::with_capacity(members.len());
    for member in &members {
        items.push(view(&plane, member, &mut heads, now_ms).await?);
    }
    let next = items.last().filter(|_| more).map(|gateway| gateway.id.clone());
    Ok(Json(Gateways { items, next }))
}

/// Shows a gateway, by its id or its name.
#[utoipa::path(
    get, path = "/v1/gateways/{id}", tag = "gateways",
    responses(
        (status = 200, body = Gateway), (status = 404, body = ProblemDocument),
        (status = 409, description = "Several gateways have this name", body = ProblemDocument),
    )
)]
pub(super) async fn show(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Gateway>, Problem> {
    caller.need(Scope::Read)?;
    let now_ms = plane.now_ms();
    let member = find(&plane, &id, now_ms).await?;
    Ok(Json(view(&plane, &member, &mut Heads::default(), now_ms).await?))
}

/// Tells a gateway, by its id or its name, to leave gracefully. It learns it with its next heartbeat.
#[utoipa::path(
    post, path = "/v1/gateways/{id}/drain", tag = "gateways",
    responses(
        (status = 202, body = Gateway), (status = 403, body = ProblemDocument), (status = 404, body = ProblemDocument),
    )
)]
pub(super) async fn drain(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Gateway>), Problem> {
    caller.need(Scope::Gateways)?;
    let now_ms = plane.now_ms();
    let member = find(&plane, &id, now_ms).await?;
    let id = member.instance.id.as_str();
    let roster = &plane.pools.roster;
    log::info!("the gateway {id} is told to leave, by token {}", caller.id);
    let there = roster
        .change(async {
            let there = plane.store.set_drain(id, true).await?;
            roster.set_drain(id, true);
            Ok(there)
        })
        .await?;
    let member = roster.member(id).filter(|_| there).ok_or_else(|| no_such(id))?;
    let gateway = view(&plane, &member, &mut Heads::default(), now_ms).await?;
    Ok((StatusCode::ACCEPTED, Json(gateway)))
}

/// Forgets a gateway, by its id or its name: its seat is free. One that is still there registers again, like a new one.
#[utoipa::path(
    delete, path = "/v1/gateways/{id}", tag = "gateways",
    responses((status = 204), (status = 403, body = ProblemDocument), (status = 404, body = ProblemDocument))
)]
pub(super) async fn forget(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.need(Scope::Gateways)?;
    let now_ms = plane.now_ms();
    let member = find(&plane, &id, now_ms).await?;
    log::info!(
        "the gateway {} is forgotten, by token {}",
        member.instance.id,
        caller.id
    );
    plane
        .pools
        .roster
        .remove(plane.store.as_ref(), &member.instance.id)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Newest revisions that were looked up for one answer.
#[derive(Default)]
struct Heads {
    revisions: HashMap<String, u64>,
    keys: Option<u64>,
}

impl Heads {
    async fn latest_seq(&mut self, plane: &Plane, environment: &str) -> StoreResult<u64> {
        if let Some(seq) = self.revisions.get(environment) {
            return Ok(*seq);
        }
        let seq = match plane.heads.seq(environment) {
            // Maybe this node has only not looked yet.
            0 => plane.store.head(environment).await?.map_or(0, |head| head.seq),
            seq => seq,
        };
        self.revisions.insert(environment.to_owned(), seq);
        Ok(seq)
    }

    async fn key_seq(&mut self, plane: &Plane) -> StoreResult<u64> {
        if let Some(seq) = self.keys {
            return Ok(seq);
        }
        let seq = match plane.heads.key_seq() {
            0 => plane.store.key_head().await?.seq,
            seq => seq,
        };
        self.keys = Some(seq);
        Ok(seq)
    }
}

async fn find(plane: &Plane, id: &str, now_ms: u64) -> Result<Member, Problem> {
    let roster = &plane.pools.roster;
    roster.fresh(plane.store.as_ref(), now_ms).await?;
    if let Some(member) = roster.member_or_read(plane.store.as_ref(), id).await? {
        return Ok(member);
    }
    let alive_since_ms = plane.pools.alive_since_ms(now_ms);
    let mut named = roster.members();
    named.retain(|member| member.about.name == id);
    if named.len() > 1 {
        // Those that are gone do not make a living one ambiguous.
        let alive = |member: &Member| member.instance.is_alive(alive_since_ms);
        if named.iter().any(alive) {
            named.retain(alive);
        }
    }
    match named.as_slice() {
        [] => Err(no_such(id)),
        [member] => Ok(member.clone()),
        several => {
            let ids: Vec<&str> = several
                .iter()
                .take(10)
                .map(|member| member.instance.id.as_str())
                .collect();
            Err(Problem::Conflict(format!(
                "{} gateways are called \"{id}\"; say which one by its id: {}",
                several.len(),
                ids.join(", ")
            )))
        }
    }
}

fn no_such(id: &str) -> Problem {
    Problem::NotFound(format!("there is no gateway \"{id}\""))
}

async fn view(plane: &Plane, member: &Member, heads: &mut Heads, now_ms: u64) -> StoreResult<Gateway> {
    let Member { instance, about, .. } = member;
    let beat: Heartbeat = match instance.heartbeat.as_str() {
        "" => Heartbeat::default(),
        text => serde_json::from_str(text)
            .map_err(|error| unreadable(&format!("the heartbeat of the gateway {}", instance.id), &error))?,
    };
    let latest_seq = heads.latest_seq(plane, &about.environment).await?;
    let state = if !instance.is_alive(plane.pools.alive_since_ms(now_ms)) {
        Presence::Gone
    } else if instance.drain || beat.draining {
        Presence::Draining
    } else {
        Presence::Alive
    };
    Ok(Gateway {
        id: instance.id.clone(),
        name: about.name.clone(),
        pool: instance.pool.clone(),
        environment: about.environment.clone(),
        labels: about.labels.clone(),
        zone: about.zone.clone(),
        version: about.version.clone(),
        state,
        drift: drift(plane, &about.environment, &beat, latest_seq).await?,
        applied: beat.applied,
        latest_seq,
        refused: beat.refused,
        requests_per_second: beat.requests_per_second,
        errors: beat.errors,
        p99_ms: beat.p99_ms,
        redis: beat.redis,
        key_seq: beat.key_seq,
        key_lag: heads.key_seq(plane).await?.saturating_sub(beat.key_seq),
        since: rfc3339(instance.since_ms),
        seen: rfc3339(instance.seen_ms),
    })
}

async fn drift(plane: &Plane, environment: &str, beat: &Heartbeat, latest_seq: u64) -> StoreResult<Standing> {
    let applied_seq = beat.applied.as_ref().map_or(0, |applied| applied.seq);
    if let Some(applied) = &beat.applied {
        let published = root(plane, environment, applied.seq).await?;
        let is_published = match published {
            Some(root) => root == applied.root,
            // Old revisions are pruned; a number that is yet to come was never published.
            None => applied.seq < latest_seq,
        };
        if !is_published {
            return Ok(Standing::Drift);
        }
    }
    Ok(match &beat.refused {
        // A gateway that can not say which one it refused has the number 0 for it.
        Some(refused) if refused.seq > applied_seq || (refused.seq == 0 && applied_seq < latest_seq) => {
            Standing::Refused
        }
        _ if applied_seq < latest_seq => Standing::Behind,
        _ => Standing::InSync,
    })
}

/// The root of a revision, as the 64 hex digits that gateways report.
async fn root(plane: &Plane, environment: &str, seq: u64) -> StoreResult<Option<String>> {
    let key = (environment.to_owned(), seq);
    if let Some(root) = plane.pools.roots.get(&key) {
        return Ok(Some(root.to_string()));
    }
    let revision = plane.store.revision(environment, seq).await?;
    Ok(revision.map(|revision| {
        plane.pools.roots.insert(key, revision.root);
        revision.root.to_string()
    }))
}

fn rfc3339(ms: u64) -> String {
    let timestamp = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    timestamp.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
