//! Every "no" of the control plane, and the one place where it becomes HTTP (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::store::StoreError;
use crate::document::Mistakes;

/// Why a request was not served.
#[derive(Debug)]
pub enum Problem {
    /// It can not be understood; says how.
    BadRequest(String),
    /// No token, or one that is not known.
    Unauthorized,
    /// A token without this right.
    Forbidden(String),
    /// There is no such thing; says what.
    NotFound(String),
    /// There is no such method here.
    MethodNotAllowed,
    /// It is there already, or somebody else was first; says what.
    Conflict(String),
    /// `If-Match` names another version than the one that is there.
    PreconditionFailed(String),
    /// The change would break something; every mistake, with its place.
    Refused(Vec<String>),
    /// The pool has no seat.
    PoolFull {
        /// What is full.
        message: String,
        /// When there may be one, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// The seat is not known: register again.
    SeatUnknown,
    /// Records that are not kept any more: begin at the base.
    Gone(String),
    /// The body is too large.
    TooLarge(String),
    /// The body did not come.
    TooSlow,
    /// Too many want this at the same time.
    Busy {
        /// When to come back, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// The store does not work; why is in the log only.
    Unavailable,
    /// A fault of the control plane itself; what is in the log only.
    Internal,
}

/// Milliseconds after which to try again, for who can count them: `Retry-After` knows whole seconds only.
pub const RETRY_AFTER_MS: &str = "tollgate-retry-after-ms";

/// The body of every refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemDocument {
    /// `urn:tollgate:problem:` and the code.
    pub r#type: String,
    /// The status in words.
    pub title: &'static str,
    /// The status.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// What programs look at.
    pub code: &'static str,
    /// Every mistake of a document, with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<String>,
}

impl Problem {
    /// A document with these mistakes.
    #[must_use]
    pub fn of_mistakes(mistakes: &Mistakes) -> Self {
        Self::Refused(mistakes.iter().map(ToString::to_string).collect())
    }

    fn facts(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "credential_invalid"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "scope_insufficient"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::PreconditionFailed(_) => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            Self::Refused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            Self::PoolFull { .. } => (StatusCode::CONFLICT, "pool_full"),
            Self::SeatUnknown => (StatusCode::NOT_FOUND, "seat_unknown"),
            Self::Gone(_) => (StatusCode::GONE, "gone"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "body_too_slow"),
            Self::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::BadRequest(what)
            | Self::Forbidden(what)
            | Self::NotFound(what)
            | Self::Conflict(what)
            | Self::PreconditionFailed(what)
            | Self::Gone(what)
            | Self::TooLarge(what) => what.clone(),
            Self::PoolFull { message, .. } => message.clone(),
            Self::Unauthorized => "this needs a token that is known here, as Authorization: Bearer".to_owned(),
            Self::MethodNotAllowed => "this path does not answer this method".to_owned(),
            Self::Refused(mistakes) => format!("nothing was changed: {} mistakes", mistakes.len()),
            Self::SeatUnknown => "this seat is not known; register again".to_owned(),
            Self::TooSlow => "the body did not come in time; send it again".to_owned(),
            Self::Busy { .. } => "too many at the same time; come back when Retry-After says".to_owned(),
            Self::Unavailable => "the store does not answer; try again".to_owned(),
            Self::Internal => "the control plane failed; its log says how".to_owned(),
        }
    }

    /// Not of a store that does not answer: gateways take the field for an appointment with this node, and would not ask
    /// another one meanwhile.
    fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::PoolFull { retry_after_ms, .. } | Self::Busy { retry_after_ms } => Some(*retry_after_ms),
            _ => None,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(what) => Self::Conflict(what),
            StoreError::NotFound(what) => Self::NotFound(what),
            StoreError::Failed(why) => {
                log::error!("store: {why}");
                Self::Unavailable
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code) = self.facts();
        let detail = self.detail();
        let retry_after_ms = self.retry_after_ms();
        let document = ProblemDocument {
            r#type: format!("urn:tollgate:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail,
            code,
            mistakes: match self {
                Self::Refused(mistakes) => mistakes,
                _ => Vec::new(),
            },
        };
        let mut answer = (status, Json(document)).into_response();
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(milliseconds) = retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(milliseconds.div_ceil(1000)));
            headers.insert(RETRY_AFTER_MS, HeaderValue::from(milliseconds));
        }
        answer
    }
}
