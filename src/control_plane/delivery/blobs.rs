//! `GET /v1/blobs/{sha256}`: snapshots and key bases, by what they are.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;

use super::cache::Ready;
use super::{Kind, immutable, path};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::plane::Plane;
use crate::control_plane::problem::{Problem, ProblemDocument};
use crate::distribution::ContentHash;

/// Bytes that are kept in memory.
const ROOM: u64 = 256 << 20;

/// Blobs that were asked for.
pub(super) struct Blobs(Ready<ContentHash>);

impl Blobs {
    pub(super) fn new() -> Self {
        Self(Ready::new(64, ROOM))
    }

    /// One of them.
    pub(super) async fn get(&self, plane: &Plane, hash: &ContentHash) -> Result<Bytes, Problem> {
        let read = async {
            let bytes = plane.store.blob(hash).await?;
            bytes
                .map(Bytes::from)
                .ok_or_else(|| Problem::NotFound(format!("there is no blob {hash}")))
        };
        self.0.get(hash, read).await
    }
}

/// A blob
///
/// Immutable: its name is the SHA-256 of its bytes, which are zstd.
#[utoipa::path(get, path = "/v1/blobs/{sha256}", tag = "distribution",
    params(("sha256" = String, Path, description = "64 hex digits")),
    responses(
        (status = OK, description = "Its bytes", content_type = "application/zstd"),
        (status = NOT_FOUND, description = "No such blob", body = ProblemDocument),
        (status = SERVICE_UNAVAILABLE, description = "Come back when Retry-After says, and not before", body = ProblemDocument)))]
pub(super) async fn fetch(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    hash: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    // Not bound to an environment: environments share blobs, and who knows the name has seen a manifest that names it.
    caller.need(Scope::Gateway)?;
    let hash: ContentHash = path(hash)?
        .parse()
        .map_err(|error| Problem::BadRequest(format!("{error}")))?;
    let bytes = plane.delivery.blobs.get(&plane, &hash).await?;
    immutable(&plane, Kind::Blob, bytes)
}
