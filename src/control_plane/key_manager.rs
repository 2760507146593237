//! The key manager: what a key or token is worth (RFC 7662), tokens for applications (RFC 6749 §4.4, RFC 9068), and their
//! end (RFC 7009).
//!
//! Gateways need none of it to serve: keys reach them by the key log, and they verify tokens with the published key set.
//! It is for everybody else who is shown a key, and for gateways of other makers.

mod access_token;
mod client;
mod form;
mod introspect;
mod memory;
mod metadata;
mod problem;
mod revoke;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::client::Attempts;
use self::memory::Memory;
use super::plane::Plane;

/// What tokens say of where they come from, and how long they last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The `iss` of tokens, and where the endpoints are: the URL of the control plane without a slash at its end.
    pub issuer: String,
    /// How long an access token is good. At least a second.
    pub token_lifetime: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            issuer: "http://127.0.0.1:9443".to_owned(),
            token_lifetime: Duration::from_hours(1),
        }
    }
}

/// The longest form that is read.
const BODY: usize = 32 << 10;

/// What a node remembers of keys, and of those who guess them.
pub struct KeyManager {
    settings: Settings,
    memory: Memory,
    attempts: Attempts,
}

impl KeyManager {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            memory: Memory::new(),
            attempts: Attempts::new(),
        }
    }
}

/// The routes of the key manager.
#[must_use]
pub fn router() -> OpenApiRouter<Arc<Plane>> {
    OpenApiRouter::new()
        .routes(routes!(introspect::introspect))
        .routes(routes!(token::token))
        .routes(routes!(revoke::revoke))
        .routes(routes!(metadata::jwks))
        .routes(routes!(metadata::metadata))
        .layer(DefaultBodyLimit::max(BODY))
}
