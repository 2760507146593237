//! `GET /v1/environments/{environment}/delta/{from}/{to}`: what makes one revision of another.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::cache::Ready;
use super::{Kind, immutable, path};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::manifests::snapshot;
use crate::control_plane::plane::Plane;
use crate::control_plane::problem::{Problem, ProblemDocument};
use crate::control_plane::store::PublishedRevision;
use crate::distribution::Content;

/// Bytes that are kept in memory.
const ROOM: u64 = 64 << 20;

/// Deltas that are made at a time: each has two contents in memory.
const MAKERS: usize = 2;

/// Deltas that were asked for.
pub(super) struct Deltas {
    /// Empty bytes stand for a delta that is not worth it.
    ready: Ready<Ends>,
    makers: Semaphore,
}

/// What a delta leads from and to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Ends {
    environment: String,
    from: u64,
    to: u64,
}

impl Deltas {
    pub(super) fn new() -> Self {
        Self {
            ready: Ready::new(1024, ROOM),
            makers: Semaphore::new(MAKERS),
        }
    }

    async fn make(&self, plane: &Plane, ends: &Ends) -> Result<Bytes, Problem> {
        let from = revision(plane, ends, ends.from).await?;
        let to = revision(plane, ends, ends.to).await?;
        // Never closed.
        let _maker = self.makers.acquire().await;
        let blobs = &plane.delivery.blobs;
        let from_bytes = blobs.get(plane, &from.snapshot).await?;
        let to_bytes = blobs.get(plane, &to.snapshot).await?;
        let made = tokio::task::spawn_blocking(move || {
            let content = |revision: &PublishedRevision, bytes: &[u8]| {
                Content::from_snapshot(&snapshot(revision), bytes)
                    .map_err(|error| format!("revision {} of {}: {error}", revision.seq, revision.environment))
            };
            let delta = content(&from, &from_bytes)?
                .delta(&content(&to, &to_bytes)?)
                .map_err(|error| error.to_string())?;
            let is_worth_it = (delta.len() as u64) < to.snapshot_size;
            Ok::<_, String>(if is_worth_it { Bytes::from(delta) } else { Bytes::new() })
        });
        match made.await {
            Ok(Ok(delta)) => Ok(delta),
            Ok(Err(error)) => {
                log::error!("delta: {error}");
                Err(Problem::Internal)
            }
            Err(error) => {
                log::error!("delta: {error}");
                Err(Problem::Internal)
            }
        }
    }
}

/// What changed between two revisions
///
/// Immutable. Whether it was the right one, the root of what comes out says.
#[utoipa::path(get, path = "/v1/environments/{environment}/delta/{from}/{to}", tag = "distribution",
    params(
        ("environment" = String, Path, description = "Its name"),
        ("from" = u64, Path, description = "The revision that the gateway has"),
        ("to" = u64, Path, description = "The revision that it wants")),
    responses(
        (status = OK, description = "Lines of objects, zstd", content_type = "application/zstd"),
        (status = NOT_FOUND, description = "Take the snapshot", body = ProblemDocument),
        (status = SERVICE_UNAVAILABLE, description = "Come back when Retry-After says", body = ProblemDocument)))]
pub(super) async fn fetch(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    ends: Result<Path<(String, u64, u64)>, PathRejection>,
) -> Result<Response, Problem> {
    let (environment, from, to) = path(ends)?;
    caller.need_in(Scope::Gateway, &environment)?;
    let ends = Ends { environment, from, to };
    let deltas = &plane.delivery.deltas;
    let delta = deltas.ready.get(&ends, deltas.make(&plane, &ends)).await?;
    if delta.is_empty() {
        return Err(Problem::NotFound(format!(
            "the difference between {from} and {to} is larger than the snapshot"
        )));
    }
    immutable(&plane, Kind::Delta, delta)
}

async fn revision(plane: &Plane, ends: &Ends, seq: u64) -> Result<PublishedRevision, Problem> {
    let found = plane.store.revision(&ends.environment, seq).await?;
    found.ok_or_else(|| Problem::NotFound(format!("there is no revision {seq} of \"{}\"", ends.environment)))
}
