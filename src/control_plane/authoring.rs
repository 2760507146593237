//! The REST surface of what is authored and published: a file for each noun.

pub mod api;
pub mod application;
pub mod catalogue;
pub mod environment;
mod exchange;
pub mod invalidation;
pub mod key;
pub mod plan;
mod published;
pub mod revision;
pub mod token;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::plane::Plane;

pub use environment::make_first as make_first_environment;
pub use exchange::{List, Written};

/// How many documents are read and checked at the same time: each may be 64 MiB, and take several times that.
const DOCUMENTS: usize = 4;

/// What authoring keeps in memory. Nothing of it outlives the process.
pub(super) struct Shared {
    /// Changes of what is authored wait here for each other.
    pub(super) changes: Mutex<()>,
    /// Who reads a large document has one of these.
    documents: Semaphore,
    /// What is known of the newest revisions, for the catalogue and for keys that stand in documents.
    published: published::Cache,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            changes: Mutex::new(()),
            documents: Semaphore::new(DOCUMENTS),
            published: published::cache(),
        }
    }
}

/// Every route of authoring and publishing, with its description.
#[must_use]
pub fn router() -> OpenApiRouter<Arc<Plane>> {
    OpenApiRouter::new()
        .routes(routes!(environment::list, environment::create))
        .routes(routes!(environment::get, environment::put, environment::delete))
        .routes(routes!(invalidation::list, invalidation::create))
        .routes(routes!(plan::list, plan::create))
        .routes(routes!(plan::get, plan::put, plan::delete))
        .routes(routes!(api::list, api::create))
        .routes(routes!(api::get, api::put, api::delete))
        .routes(routes!(api::revisions, api::create_revision))
        .routes(routes!(api::revision))
        .routes(routes!(api::deploy))
        .routes(routes!(api::undeploy))
        .routes(routes!(application::list, application::create))
        .routes(routes!(application::get, application::put, application::delete))
        .routes(routes!(application::subscribe, application::unsubscribe))
        .routes(routes!(key::create))
        .routes(routes!(key::import))
        .routes(routes!(key::list))
        .routes(routes!(key::get, key::revoke))
        .routes(routes!(revision::publish))
        .routes(routes!(revision::list))
        .routes(routes!(revision::get))
        .routes(routes!(revision::diff))
        .routes(routes!(revision::rollback))
        .routes(routes!(token::list, token::create))
        .routes(routes!(token::revoke))
        .routes(routes!(catalogue::list))
        .routes(routes!(catalogue::get))
}
