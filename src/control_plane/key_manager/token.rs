//! Tokens for applications: the client credentials grant (RFC 6749 §4.4).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::plane::Plane;
use super::super::store::{ObjectKind, StoreError, StoreResult};
use super::access_token::Claims;
use super::client::Credentials;
use super::form::Parameters;
use super::problem::{OAuthError, OAuthProblem, no_store};

/// Whom a token may be for, at most.
const AUDIENCES: usize = 8;

/// The longest of them, and of what is asked as scope.
const LONGEST: usize = 1024;

/// The request.
#[derive(Debug, Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes the form; `Parameters` reads it")]
#[schema(as = AccessTokenRequest)]
pub(super) struct Grant {
    /// `client_credentials`.
    grant_type: String,
    /// The application; or in HTTP Basic.
    client_id: Option<String>,
    /// One of its keys; or in HTTP Basic.
    client_secret: Option<String>,
    /// Scopes among those that the application was granted.
    scope: Option<String>,
    /// Who the token is for; without it, the issuer.
    audience: Option<String>,
    /// The same as a URI (RFC 8707); may be given several times.
    resource: Option<Vec<String>>,
}

/// The answer (RFC 6749 §5.1).
#[derive(Serialize, ToSchema)]
#[schema(as = AccessTokenAnswer)]
pub(super) struct Granted {
    /// A JWT.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds until it ends.
    expires_in: u64,
    /// The scopes that it has; nothing if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// Gives an application a token.
#[utoipa::path(
    post, path = "/oauth2/token", tag = "oauth2",
    request_body(content = Grant, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, body = Granted), (status = 400, body = OAuthError), (status = 401, body = OAuthError),
        (status = 429, description = "Too many wrong secrets", body = OAuthError),
    )
)]
pub(super) async fn token(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
    form: Parameters,
) -> Result<Response, OAuthProblem> {
    match form.one("grant_type")? {
        Some("client_credentials") => {}
        Some(_) => return Err(OAuthProblem::UnsupportedGrantType),
        None => return Err(OAuthProblem::InvalidRequest("grant_type is missing".to_owned())),
    }
    let credentials = Credentials::of_request(&headers, &form)?.ok_or(OAuthProblem::InvalidClient)?;
    let key = credentials.check(&plane).await?;
    let scope = scope(&plane, &key.entry.application, form.one("scope")?).await?;
    let settings = &plane.key_manager.settings;
    let mut aud = audience(&form)?;
    if aud.is_empty() {
        aud.push(settings.issuer.clone());
    }
    let now_ms = plane.now_ms();
    let iat = now_ms / 1000;
    let lifetime = settings.token_lifetime.as_secs().max(1);
    // A token does not outlive the key that it was got with.
    let key_end = key.entry.expires_ms.map_or(u64::MAX, |ms| ms / 1000);
    let exp = iat.saturating_add(lifetime).min(key_end);
    if exp <= iat {
        // The key ends within this second.
        return Err(OAuthProblem::InvalidClient);
    }
    let claims = Claims {
        iss: settings.issuer.clone(),
        sub: key.entry.application.clone(),
        client_id: key.entry.application.clone(),
        azp: key.entry.application,
        aud,
        exp,
        iat,
        jti: Claims::fresh_id()?,
        scope,
        key_type: key.entry.key_type,
        key_id: key.entry.id,
    };
    let granted = Granted {
        access_token: claims.to_token(&plane.signing)?.expose().to_owned(),
        token_type: "Bearer",
        expires_in: exp - iat,
        scope: claims.scope,
    };
    let mut answer = Json(granted).into_response();
    no_store(answer.headers_mut());
    Ok(answer)
}

/// The scopes that were asked for, if the application was granted all of them: it lists them in `scopes`.
async fn scope(plane: &Plane, application: &str, asked: Option<&str>) -> Result<Option<String>, OAuthProblem> {
    let Some(asked) = asked else { return Ok(None) };
    let of_scope = |c: char| matches!(c, '!' | '#'..='[' | ']'..='~' | ' ');
    if asked.len() > LONGEST || !asked.chars().all(of_scope) {
        return Err(OAuthProblem::InvalidScope(
            "scope has to be words of visible ASCII without quotes and backslashes, with spaces between them"
                .to_owned(),
        ));
    }
    let granted = granted_scopes(plane, application).await?;
    let mut scopes: Vec<&str> = Vec::new();
    for word in asked.split(' ').filter(|word| !word.is_empty()) {
        if !granted.iter().any(|scope| scope == word) {
            return Err(OAuthProblem::InvalidScope(format!(
                "the application was not granted the scope {word}"
            )));
        }
        if !scopes.contains(&word) {
            scopes.push(word);
        }
    }
    Ok(Some(scopes.join(" ")).filter(|scopes| !scopes.is_empty()))
}

async fn granted_scopes(plane: &Plane, application: &str) -> StoreResult<Vec<String>> {
    #[derive(Deserialize)]
    struct Stored {
        #[serde(default)]
        scopes: Vec<String>,
    }
    let Some(object) = plane.store.object(ObjectKind::Application, application).await? else {
        return Ok(Vec::new());
    };
    serde_json::from_str::<Stored>(&object.value)
        .map(|stored| stored.scopes)
        .map_err(|error| StoreError::Failed(format!("the application \"{application}\" can not be read: {error}")))
}

/// Who the token is for, as it was asked.
fn audience(form: &Parameters) -> Result<Vec<String>, OAuthProblem> {
    let mut audience: Vec<String> = Vec::new();
    for resource in form.all("resource") {
        let is_absolute = resource.parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some());
        if !is_absolute || resource.contains('#') {
            return Err(OAuthProblem::InvalidTarget(
                "resource has to be an absolute URI without a fragment".to_owned(),
            ));
        }
        audience.push(resource.to_owned());
    }
    audience.extend(form.one("audience")?.map(str::to_owned));
    let is_bounded = audience.len() <= AUDIENCES && audience.iter().all(|text| text.len() <= LONGEST);
    if !is_bounded || audience.iter().any(|text| text.chars().any(char::is_control)) {
        return Err(OAuthProblem::InvalidTarget(format!(
            "at most {AUDIENCES} audiences of at most {LONGEST} printable characters are expected"
        )));
    }
    audience.dedup();
    Ok(audience)
}
