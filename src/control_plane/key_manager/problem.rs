//! Every "no" of the OAuth endpoints, as RFC 6749 §5.2 wants it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::problem::Problem;
use super::super::store::StoreError;

/// Why an OAuth request was not served.
#[derive(Debug)]
pub(super) enum OAuthProblem {
    /// It can not be understood; says how.
    InvalidRequest(String),
    /// Who asks is not known.
    InvalidClient,
    /// It may not do that.
    UnauthorizedClient(&'static str),
    /// There is one grant here.
    UnsupportedGrantType,
    /// It was not granted that scope.
    InvalidScope(String),
    /// The resource is no URI.
    InvalidTarget(String),
    /// Tokens of this kind end by themselves.
    UnsupportedTokenType(&'static str),
    /// Too many wrong secrets.
    TooManyAttempts,
    /// Something that has nothing to do with OAuth.
    Other(Problem),
}

/// The body of a refusal.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OAuthError {
    /// What programs look at.
    error: &'static str,
    /// What is wrong with this request.
    error_description: String,
}

impl OAuthProblem {
    fn facts(self) -> Result<(StatusCode, &'static str, String), Problem> {
        let bad = StatusCode::BAD_REQUEST;
        Ok(match self {
            Self::InvalidRequest(how) => (bad, "invalid_request", how),
            Self::InvalidClient => (
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "client_id has to be an application and client_secret one of its keys that is neither revoked nor \
                 expired"
                    .to_owned(),
            ),
            Self::UnauthorizedClient(why) => (bad, "unauthorized_client", why.to_owned()),
            Self::UnsupportedGrantType => (
                bad,
                "unsupported_grant_type",
                "grant_type has to be client_credentials".to_owned(),
            ),
            Self::InvalidScope(why) => (bad, "invalid_scope", why),
            Self::InvalidTarget(why) => (bad, "invalid_target", why),
            Self::UnsupportedTokenType(why) => (bad, "unsupported_token_type", why.to_owned()),
            Self::TooManyAttempts => (
                StatusCode::TOO_MANY_REQUESTS,
                "invalid_client",
                "too many wrong secrets for this client_id; try again in a second".to_owned(),
            ),
            Self::Other(problem) => return Err(problem),
        })
    }
}

impl From<Problem> for OAuthProblem {
    fn from(problem: Problem) -> Self {
        Self::Other(problem)
    }
}

impl From<StoreError> for OAuthProblem {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

impl IntoResponse for OAuthProblem {
    fn into_response(self) -> Response {
        let (status, error, error_description) = match self.facts() {
            Ok(facts) => facts,
            Err(problem) => return problem.into_response(),
        };
        let body = OAuthError {
            error,
            error_description,
        };
        let mut answer = (status, Json(body)).into_response();
        let headers = answer.headers_mut();
        no_store(headers);
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"tollgate\", charset=\"UTF-8\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

/// Nobody keeps this answer.
pub(super) fn no_store(headers: &mut axum::http::HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
}
