//! What gateways fetch: manifests and the key log by long polls, everything else as immutable blobs.
//!
//! Nothing here is made for one client: answers are bytes that are shared by all who ask for the same, and of a client
//! that waits there is nothing but its future.

mod blobs;
mod body;
mod cache;
mod cache_log;
mod deltas;
mod keys;
mod poll;
mod revision;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::Body};
use bytes::Bytes;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admission::{Admission, Calendar, Slot};
use super::config;
use super::manifests::Manifests;
use super::metrics::{Kind, Meters};
use super::plane::Plane;
use super::problem::Problem;

/// What is smaller does not keep the link busy, and never waits behind what is larger.
const SMALL: u64 = 64 << 10;

/// How many small ones are sent at a time.
const SMALL_SLOTS: u32 = 4096;

/// What changes with the settings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// How revisions reach gateways.
    pub distribution: config::Distribution,
    /// Keys.
    pub keys: config::Keys,
}

/// What a node keeps ready for gateways.
pub struct Delivery {
    /// As configured.
    pub settings: Settings,
    /// The manifest of each environment.
    pub manifests: Manifests,
    /// What was sent.
    pub meters: Meters,
    polls: poll::Polls,
    blobs: blobs::Blobs,
    deltas: deltas::Deltas,
    pages: keys::Pages,
    large: Calendar,
    small: Calendar,
    /// The beginning of the calendars.
    since: Instant,
}

impl Delivery {
    /// Nothing is ready yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let config::Distribution {
            snapshot_slots,
            bandwidth,
            polls,
            ..
        } = settings.distribution;
        Self {
            settings,
            manifests: Manifests::default(),
            meters: Meters::default(),
            polls: poll::Polls::new(polls),
            blobs: blobs::Blobs::new(),
            deltas: deltas::Deltas::new(),
            pages: keys::Pages::new(),
            large: Calendar::new(snapshot_slots, bandwidth),
            small: Calendar::new(SMALL_SLOTS, bandwidth),
            since: Instant::now(),
        }
    }

    /// These environments exist, and no others.
    pub fn know(&self, environments: HashSet<String>) {
        self.polls.know(environments);
    }

    /// A place for an answer of so many bytes, and how long it may take; or when to come for it.
    fn admit(&self, bytes: u64) -> Result<(Slot, Duration), Problem> {
        let calendar = if bytes < SMALL { &self.small } else { &self.large };
        match calendar.admit(bytes, self.since.elapsed(), rand::random()) {
            // Ten times as long as with every slot taken: who is so slow is better off alone, later.
            Admission::Now(slot) => Ok((slot, calendar.stream(bytes) * 10 + Duration::from_secs(60))),
            Admission::Later(wait) => {
                self.meters.deferred.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Err(Problem::Busy {
                    retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                })
            }
        }
    }
}

/// The routes of gateways.
pub fn router() -> OpenApiRouter<Arc<Plane>> {
    OpenApiRouter::new()
        .routes(routes!(revision::poll))
        .routes(routes!(deltas::fetch))
        .routes(routes!(blobs::fetch))
        .routes(routes!(keys::poll))
        .routes(routes!(keys::resolve))
        .routes(routes!(cache_log::poll))
        .routes(routes!(signing_keys))
}

/// What manifests are signed with
///
/// The public keys that gateways trust, in base64. They are no secret, and this needs no token.
#[utoipa::path(get, path = "/v1/signing-keys", tag = "distribution", security(()),
    responses((status = OK, description = "`{\"keys\": [\"base64\"]}`", body = Object)))]
async fn signing_keys(State(plane): State<Arc<Plane>>) -> Json<Value> {
    Json(json!({ "keys": [plane.signing.public().to_string()] }))
}

/// What stands in a path, or a problem instead of the plain text that axum would answer.
fn path<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Problem> {
    path.map(|Path(value)| value)
        .map_err(|rejection| Problem::BadRequest(rejection.body_text()))
}

/// The same for a query.
fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query
        .map(|Query(value)| value)
        .map_err(|rejection| Problem::BadRequest(rejection.body_text()))
}

/// Bytes whose name will never stand for others: whoever is in between may keep them.
fn immutable(plane: &Plane, kind: Kind, bytes: Bytes) -> Result<Response, Problem> {
    let (slot, patience) = plane.delivery.admit(bytes.len() as u64)?;
    plane.delivery.meters.sent(kind, bytes.len());
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000, immutable"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let body = Body::new(body::Paced::new(bytes, slot, Instant::now() + patience));
    Ok((headers, body).into_response())
}

#[cfg(test)]
mod tests;
