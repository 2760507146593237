//! The end of a key, told by who holds it (RFC 7009).

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::super::access::{Caller, Scope};
use super::super::plane::Plane;
use super::super::problem::ProblemDocument;
use super::super::store::KeyWrite;
use super::access_token::Claims;
use super::client::{Credentials, hash_of, is_live};
use super::form::Parameters;
use super::problem::{OAuthError, OAuthProblem, no_store};

/// The request.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes the form; `Parameters` reads it")]
#[schema(as = RevocationRequest)]
pub(super) struct Revocation {
    /// A key.
    token: String,
    /// What it may be; not needed.
    token_type_hint: Option<String>,
    /// The application; or in HTTP Basic.
    client_id: Option<String>,
    /// One of its keys; or in HTTP Basic.
    client_secret: Option<String>,
}

/// Revokes a key. Asks an application with one of its keys for its own, or a bearer token with `keys:write` for any. A key
/// that is not known, or ended already, is no mistake.
#[utoipa::path(
    post, path = "/oauth2/revoke", tag = "oauth2",
    request_body(content = Revocation, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200), (status = 400, body = OAuthError), (status = 401, body = OAuthError),
        (status = 403, body = ProblemDocument),
    )
)]
pub(super) async fn revoke(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
    form: Parameters,
) -> Result<Response, OAuthProblem> {
    let owner = owner(&plane, &headers, &form).await?;
    let token = form.needed_secret("token")?;
    let issuer = &plane.key_manager.settings.issuer;
    if Claims::of_token(token.expose(), issuer, &plane.signing).is_some() {
        return Err(OAuthProblem::UnsupportedTokenType(
            "an access token ends by itself; revoke the key that it was got with",
        ));
    }
    let now_ms = plane.now_ms();
    let key = plane.store.key_by_hash(&hash_of(token.expose())).await?;
    if let Some(key) = key.filter(|key| is_live(key, now_ms)) {
        if owner.is_some_and(|owner| owner != key.entry.application) {
            return Err(OAuthProblem::UnauthorizedClient("this key is another application's"));
        }
        log::info!("the key {} is revoked by who holds it", key.entry.id);
        let seq = plane
            .store
            .write_keys(&[KeyWrite::RevokeId(key.entry.id)], now_ms)
            .await?;
        plane.heads.keys_written(seq);
    }
    let mut answer = StatusCode::OK.into_response();
    no_store(answer.headers_mut());
    Ok(answer)
}

/// Whose keys may be revoked: an application's, or everybody's.
async fn owner(plane: &Arc<Plane>, headers: &HeaderMap, form: &Parameters) -> Result<Option<String>, OAuthProblem> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|field| field.to_str().ok())
        .and_then(|field| field.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if let Some((_, text)) = bearer {
        let caller: Caller = plane.tokens.identify(text.trim()).await?;
        caller.need(Scope::Keys)?;
        return Ok(None);
    }
    let credentials = Credentials::of_request(headers, form)?.ok_or(OAuthProblem::InvalidClient)?;
    let key = credentials.check(plane).await?;
    Ok(Some(key.entry.application))
}
