//! What everybody may know: the key that verifies tokens (RFC 7517), and where the endpoints are (RFC 8414).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::plane::Plane;
use super::access_token::jwk;

/// The key set. It changes with the signing key of the control plane alone.
#[utoipa::path(
    get, path = "/oauth2/jwks.json", tag = "oauth2", security(()),
    responses((status = 200, description = "A JSON Web Key Set", body = Value))
)]
pub(super) async fn jwks(State(plane): State<Arc<Plane>>) -> Response {
    public(json!({ "keys": [jwk(&plane.signing.public())] }))
}

/// Where the endpoints are, and what they can do.
#[utoipa::path(
    get, path = "/.well-known/oauth-authorization-server", tag = "oauth2", security(()),
    responses((status = 200, description = "Authorization server metadata", body = Value))
)]
pub(super) async fn metadata(State(plane): State<Arc<Plane>>) -> Response {
    let issuer = plane.key_manager.settings.issuer.as_str();
    let at = |path: &str| format!("{}{path}", issuer.trim_end_matches('/'));
    let clients = json!(["client_secret_basic", "client_secret_post"]);
    public(json!({
        "issuer": issuer,
        "token_endpoint": at("/oauth2/token"),
        "jwks_uri": at("/oauth2/jwks.json"),
        "introspection_endpoint": at("/oauth2/introspect"),
        "introspection_endpoint_auth_methods_supported": ["bearer"],
        "revocation_endpoint": at("/oauth2/revoke"),
        "revocation_endpoint_auth_methods_supported": clients,
        "token_endpoint_auth_methods_supported": clients,
        "grant_types_supported": ["client_credentials"],
        // There is no authorization endpoint.
        "response_types_supported": [],
        "service_documentation": at("/openapi.json"),
    }))
}

fn public(body: Value) -> Response {
    let cached = HeaderValue::from_static("public, max-age=300");
    ([(header::CACHE_CONTROL, cached)], Json(body)).into_response()
}
