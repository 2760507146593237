//! What a key or token is worth (RFC 7662).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::access::{Caller, Scope};
use super::super::plane::Plane;
use super::super::problem::{Problem, ProblemDocument};
use super::super::store::{StoreResult, StoredKey};
use super::access_token::Claims;
use super::client::{hash_of, is_live};
use super::form::Parameters;
use super::problem::{OAuthProblem, no_store};
use crate::revision::KeyType;

/// The longest key or token that is looked at; what is longer is not active.
const LONGEST: usize = 16 << 10;

/// The question.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes the form; `Parameters` reads it")]
#[schema(as = IntrospectionRequest)]
pub(super) struct Question {
    /// A key or token.
    token: String,
    /// What it may be; not needed.
    token_type_hint: Option<String>,
}

/// The answer. Of what is not active nothing else is told.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = IntrospectionAnswer)]
pub(super) struct Worth {
    /// Whether it lets in.
    active: bool,
    /// The application.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// The public name of the key, or of the key that the token was got with.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// What it may be used for.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_type: Option<KeyType>,
    /// `api_key` or `Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    /// Unix seconds from which on it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    /// Unix seconds at which it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    /// Who the token is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    /// Who the token is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Vec<String>>,
    /// Who made the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    /// Tells the token from all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    /// The scopes of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// Tells what a key or token is worth. `Cache-Control: no-cache` asks the store itself.
#[utoipa::path(
    post, path = "/oauth2/introspect", tag = "oauth2",
    request_body(content = Question, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Worth), (status = 401, body = ProblemDocument), (status = 403, body = ProblemDocument))
)]
pub(super) async fn introspect(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    headers: HeaderMap,
    form: Parameters,
) -> Result<Response, OAuthProblem> {
    if !caller.may(Scope::Introspect) && !caller.may(Scope::Gateway) {
        return Err(Problem::Forbidden(format!(
            "this needs a token with the scope {} or {}",
            Scope::Introspect,
            Scope::Gateway
        ))
        .into());
    }
    let token = form.needed_secret("token")?;
    let worth = worth(&plane, token.expose(), !says_no_cache(&headers)).await?;
    let mut answer = Json(worth).into_response();
    no_store(answer.headers_mut());
    Ok(answer)
}

async fn worth(plane: &Plane, text: &str, from_memory: bool) -> StoreResult<Worth> {
    if text.len() > LONGEST {
        return Ok(Worth::default());
    }
    let now_ms = plane.now_ms();
    let issuer = &plane.key_manager.settings.issuer;
    // Tokens are not remembered: checking a signature costs less than a look into the store does.
    if let Some(claims) = Claims::of_token(text, issuer, &plane.signing) {
        let key = plane.store.key_by_id(&claims.key_id).await?;
        let is_live = now_ms / 1000 < claims.exp && key.is_some_and(|key| is_live(&key, now_ms));
        return Ok(if is_live {
            Worth::of_token(claims)
        } else {
            Worth::default()
        });
    }
    let memory = &plane.key_manager.memory;
    let key = memory.key(plane, &hash_of(text), from_memory).await?;
    Ok(match key.filter(|key| is_live(key, now_ms)) {
        Some(key) => Worth::of_key(key),
        None => Worth::default(),
    })
}

impl Worth {
    fn of_key(key: StoredKey) -> Self {
        Self {
            active: true,
            client_id: Some(key.entry.application),
            key_id: Some(key.entry.id),
            key_type: Some(key.entry.key_type),
            token_type: Some("api_key"),
            exp: key.entry.expires_ms.map(|ms| ms / 1000),
            iat: Some(key.created_ms / 1000),
            ..Self::default()
        }
    }

    fn of_token(claims: Claims) -> Self {
        Self {
            active: true,
            client_id: Some(claims.client_id),
            key_id: Some(claims.key_id),
            key_type: Some(claims.key_type),
            token_type: Some("Bearer"),
            exp: Some(claims.exp),
            iat: Some(claims.iat),
            sub: Some(claims.sub),
            aud: Some(claims.aud),
            iss: Some(claims.iss),
            jti: Some(claims.jti),
            scope: claims.scope,
        }
    }
}

fn says_no_cache(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::CACHE_CONTROL).iter();
    let mut directives = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','));
    directives.any(|directive| directive.trim().eq_ignore_ascii_case("no-cache"))
}
