//! A gateway's seat: taken, kept by heartbeats, given up.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use super::super::access::{Caller, Scope};
use super::super::plane::Plane;
use super::super::problem::{Problem, ProblemDocument};
use super::super::store::{Instance, SeatAnswer, SeatRequest, StoreError};
use super::request::{self, Asked, Body};
use super::seat_token::SeatClaim;
use super::{MOST_GATEWAYS, millis, pool};
use crate::distribution::protocol::{Command, Heartbeat, HeartbeatReply, Register, Seat};

/// How old a token may be that proves a seat.
const PROOF: Duration = Duration::from_hours(7 * 24);

/// After so long a gateway is asked to register again, so that the token that it keeps always proves something. Each
/// gateway waits up to as long again: those that were started together do not come together.
const RENEW: Duration = Duration::from_hours(24);

/// The longest message of a gateway that is kept, in bytes.
const MESSAGE: usize = 4 << 10;

/// The longest of its other texts, and how many there may be in a list.
const TEXT: usize = 128;
const TEXTS: usize = 64;

/// Carries the seat token of a gateway that leaves, if the body does not.
const SEAT: &str = "x-tollgate-seat";

/// What a gateway that leaves may send instead of the header.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[schema(as = SeatToken)]
pub(super) struct Leaving {
    /// Its seat token.
    seat: String,
}

/// How a gateway leaves.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Leave {
    /// Whether it was stopped, and may be started again at once.
    #[serde(default)]
    may_return: bool,
}

/// Gives a seat to a gateway. One that has it already, or had it lately, or has proof that it had it, gets it whatever
/// the limit.
#[utoipa::path(
    post, path = "/v1/pools/{pool}/instances", tag = "gateways", request_body = Register,
    responses(
        (status = 201, body = Seat), (status = 400, body = ProblemDocument), (status = 403, body = ProblemDocument),
        (status = 409, description = "The pool is full (pool_full)", body = ProblemDocument),
    )
)]
pub(super) async fn register(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(pool): Path<String>,
    Body(mut about): Body<Register>,
) -> Result<(StatusCode, Json<Seat>), Problem> {
    request::pool_name(&pool)?;
    check(&about)?;
    caller.need_in(Scope::Gateway, &about.environment)?;
    let id = about.instance_id.clone();
    let claim = about
        .seat
        .take()
        .and_then(|token| SeatClaim::of_token(&token, &id, &plane.signing));
    let replaces = about.replaces.take().filter(|other| *other != id);

    let now_ms = plane.now_ms();
    let pools = &plane.pools;
    let store = plane.store.as_ref();
    pools.roster.fresh(store, now_ms).await?;
    let before = pools.roster.member_or_read(store, &id).await?;
    // A token of one environment takes no seat from the gateways of another.
    if let Some(before) = &before {
        caller.need_in(Scope::Gateway, &before.about.environment)?;
    }
    if let Some(replaced) = &replaces
        && let Some(replaced) = pools.roster.member_or_read(store, replaced).await?
    {
        caller.need_in(Scope::Gateway, &replaced.about.environment)?;
    }
    if before.is_none() && replaces.is_none() && pools.roster.len() >= MOST_GATEWAYS {
        return Err(Problem::Conflict(format!(
            "{MOST_GATEWAYS} gateways are known, which is as many as there can be; forget those that are gone"
        )));
    }
    let max = pool::limit(&plane, &pool).await?;
    if max.is_some() {
        // The store decides, so it has to know what this node knows.
        pools.roster.flush(store).await?;
    }
    let ttl_ms = pools.settings.seat_ttl_ms();
    let request = SeatRequest {
        id: id.clone(),
        pool: pool.clone(),
        registration: serde_json::to_string(&about).map_err(|error| StoreError::Failed(error.to_string()))?,
        replaces: replaces.clone(),
        max,
        alive_since_ms: pools.alive_since_ms(now_ms),
        known_since_ms: pools.known_since_ms(now_ms),
        held_since_ms: pools.held_since_ms(now_ms),
        has_proof: claim.is_some_and(|claim| pools.is_proof(&claim, &pool, now_ms)),
        now_ms,
    };
    let answer = pools
        .roster
        .change(async {
            let answer = store.take_seat(&request).await?;
            if matches!(answer, SeatAnswer::Seated { .. }) {
                if before.is_some_and(|before| before.instance.drain) {
                    // It has left as it was told, and somebody has started it again.
                    store.set_drain(&id, false).await?;
                }
                if let Some(replaced) = &replaces {
                    pools.roster.forget(replaced);
                }
                pools.roster.seat(Instance {
                    id: id.clone(),
                    pool: pool.clone(),
                    registration: request.registration.clone(),
                    heartbeat: String::new(),
                    since_ms: now_ms,
                    seen_ms: now_ms,
                    drain: false,
                    left_ms: 0,
                });
            }
            Ok(answer)
        })
        .await?;
    let live = match answer {
        SeatAnswer::Seated { live } => live,
        SeatAnswer::Full { live, oldest_seen_ms } => {
            log::info!("the gateway {id} finds no seat in the pool {pool}: {live} are alive");
            let free_ms = oldest_seen_ms
                .saturating_add(ttl_ms)
                .max(pools.still_learning_ms(now_ms, ttl_ms));
            return Err(full(&pool, live, max.unwrap_or(live), free_ms.saturating_sub(now_ms)));
        }
    };
    let claim = SeatClaim {
        instance_id: id.clone(),
        pool: pool.clone(),
        store: pools.roster.epoch(),
        issued_ms: now_ms,
    };
    let seat = Seat {
        token: claim.to_token(&plane.signing).ok_or(Problem::Internal)?,
        instance_id: id,
        pool,
        ttl_s: ttl_ms.div_ceil(1000),
        live,
        max,
    };
    Ok((StatusCode::CREATED, Json(seat)))
}

/// Notes a sign of life, and tells the gateway what is new.
#[utoipa::path(
    post, path = "/v1/instances/{id}/heartbeat", tag = "gateways", request_body = Heartbeat,
    responses(
        (status = 200, body = HeartbeatReply), (status = 400, body = ProblemDocument),
        (status = 404, description = "Register again (seat_unknown)", body = ProblemDocument),
    )
)]
pub(super) async fn heartbeat(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(beat): Body<Heartbeat>,
) -> Result<Json<HeartbeatReply>, Problem> {
    caller.need(Scope::Gateway)?;
    // A token that is not ours any more is no mistake of the gateway: it gets a new one by registering.
    let claim = SeatClaim::of_token(&beat.seat, &id, &plane.signing).ok_or(Problem::SeatUnknown)?;
    let now_ms = plane.now_ms();
    let pools = &plane.pools;
    pools.roster.fresh(plane.store.as_ref(), now_ms).await?;
    let member = pools.roster.member_or_read(plane.store.as_ref(), &id).await?;
    let member = member.ok_or(Problem::SeatUnknown)?;
    caller.need_in(Scope::Gateway, &member.about.environment)?;
    // One that was given up is asked for again, should its gateway be there after all.
    let is_its = member.instance.pool == claim.pool && member.instance.left_ms == 0;
    if !is_its || !pools.roster.sign(&id, noted(beat)?, now_ms) {
        return Err(Problem::SeatUnknown);
    }
    let drain = member.instance.drain;
    if !drain && renew_after_ms(&id) < now_ms.saturating_sub(claim.issued_ms) {
        return Err(Problem::SeatUnknown);
    }
    let alive_since_ms = pools.alive_since_ms(now_ms);
    Ok(Json(HeartbeatReply {
        ttl_s: pools.settings.seat_ttl_ms().div_ceil(1000),
        latest_seq: plane.heads.seq(&member.about.environment),
        key_seq: plane.heads.key_seq(),
        live: pools.roster.live(&claim.pool, alive_since_ms, now_ms),
        max: pools.roster.limit(&claim.pool).flatten(),
        commands: if drain { vec![Command::Drain] } else { Vec::new() },
    }))
}

/// Frees a seat: for a gateway that leaves and shows its seat token, or for an operator. At once, or, if the gateway may
/// return, when it has not done so within seconds: a restart finds its seat in a full pool.
#[utoipa::path(
    delete, path = "/v1/instances/{id}", tag = "gateways", request_body = Option<Leaving>,
    params(Leave, ("x-tollgate-seat" = Option<String>, Header, description = "The seat token; or {\"seat\": …} as body")),
    responses((status = 204), (status = 403, body = ProblemDocument), (status = 404, body = ProblemDocument))
)]
pub(super) async fn leave(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
    Asked(leave): Asked<Leave>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    if !caller.may(Scope::Gateways) {
        caller.need(Scope::Gateway)?;
        let token = seat_in(&headers, &body)?;
        let claim = token.and_then(|token| SeatClaim::of_token(&token, &id, &plane.signing));
        if claim.is_none() {
            return Err(Problem::Forbidden(format!(
                "this needs the seat token of the gateway \"{id}\" in the header {SEAT}, or a token with the scope {}",
                Scope::Gateways
            )));
        }
    }
    let (roster, store) = (&plane.pools.roster, plane.store.as_ref());
    let was_there = match leave.may_return {
        true => roster.give_up(store, &id, plane.now_ms()).await?,
        false => roster.remove(store, &id).await?,
    };
    if !was_there && caller.may(Scope::Gateways) {
        return Err(Problem::NotFound(format!("there is no gateway \"{id}\"")));
    }
    Ok(StatusCode::NO_CONTENT)
}

impl super::Pools {
    /// Whether a claim shows that the store has forgotten a seat. What the store can know, it knows better: a gateway that
    /// was silent for too long, or gave its seat to another, has a token all the same.
    fn is_proof(&self, claim: &SeatClaim, pool: &str, now_ms: u64) -> bool {
        let is_forgotten = claim.store != self.roster.epoch() || self.roster.may_have_lost(claim.issued_ms);
        claim.pool == pool && is_forgotten && now_ms.saturating_sub(claim.issued_ms) < millis(PROOF)
    }

    /// Until when nobody is taken for gone because this node has just started; 0 if that is over.
    fn still_learning_ms(&self, now_ms: u64, ttl_ms: u64) -> u64 {
        Some(self.roster.learned_ms(ttl_ms))
            .filter(|learned_ms| now_ms < *learned_ms)
            .unwrap_or(0)
    }
}

fn full(pool: &str, live: u32, max: u32, retry_after_ms: u64) -> Problem {
    Problem::PoolFull {
        message: format!(
            "the pool \"{pool}\" is full: {live} gateways are alive and max_instances is {max}; raise it \
             (tollgate pool set-max-instances \"{pool}\" N), drain a gateway (tollgate gateway drain ID), or let this \
             one take the seat of another (replaces)"
        ),
        retry_after_ms: retry_after_ms.max(1000),
    }
}

/// How old a seat token gets before the gateway is asked for another registration.
fn renew_after_ms(id: &str) -> u64 {
    let digest = Sha256::digest(id.as_bytes());
    let share = u64::from(u16::from_be_bytes([digest[0], digest[1]]));
    let renew_ms = millis(RENEW);
    renew_ms + renew_ms * share / u64::from(u16::MAX)
}

fn seat_in(headers: &HeaderMap, body: &[u8]) -> Result<Option<String>, Problem> {
    if let Some(field) = headers.get(SEAT) {
        return Ok(field.to_str().ok().map(str::to_owned));
    }
    if body.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice::<Leaving>(body) {
        Ok(leaving) => Ok(Some(leaving.seat)),
        // Not why: the text may be a part of the token.
        Err(_) => Err(Problem::BadRequest(
            "the body has to be {\"seat\": \"TOKEN\"}".to_owned(),
        )),
    }
}

/// Whether a registration is one that can be kept and shown.
fn check(about: &Register) -> Result<(), Problem> {
    let id = about.instance_id.as_str();
    let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.' | b':');
    if id.is_empty() || id.len() > TEXT || !id.bytes().all(fits) || id.bytes().all(|c| c == b'.') {
        return Err(Problem::BadRequest(format!(
            "instance_id: 1 to {TEXT} letters, digits, - _ . : are expected"
        )));
    }
    request::name("environment", &about.environment)?;
    request::name("name", &about.name)?;
    let lists = [("labels", &about.labels), ("capabilities", &about.capabilities)];
    for (what, list) in lists {
        if list.len() > TEXTS {
            return Err(Problem::BadRequest(format!("{what}: {TEXTS} at most")));
        }
        list.iter().try_for_each(|text| request::name(what, text))?;
    }
    request::name("version", &about.version)?;
    about.zone.as_deref().map_or(Ok(()), |zone| request::name("zone", zone))
}

/// A heartbeat as it is kept: without the token, and with texts that are bounded and harmless.
fn noted(mut beat: Heartbeat) -> Result<String, StoreError> {
    beat.seat.clear();
    if let Some(refused) = &mut beat.refused {
        refused.code = request::plain(&refused.code, TEXT);
        refused.message = request::plain(&refused.message, MESSAGE);
    }
    if let Some(applied) = &mut beat.applied {
        applied.root = request::plain(&applied.root, TEXT);
    }
    if let Some(redis) = &mut beat.redis {
        *redis = request::plain(redis, TEXT);
    }
    beat.requests_per_second = beat.requests_per_second.max(0.0);
    beat.errors = beat.errors.clamp(0.0, 1.0);
    beat.p99_ms = beat.p99_ms.max(0.0);
    serde_json::to_string(&beat).map_err(|error| StoreError::Failed(error.to_string()))
}
