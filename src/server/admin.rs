//! The admin listener: what operators ask of one gateway. Whoever asks has to show the token; before that nothing of a
//! request is looked at.

pub mod cache;
mod explain;
pub mod performance;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::document::Secret;
use crate::gateway::drain::Leave;
use crate::gateway::explain::counter;
use crate::side_http;
use crate::sync::{self, Revisions};
use crate::throttle::{Throttle, Time};
use crate::upstream::{Moment, Registry, Upstream, balance};
use performance::Performance;

/// The longest body. What can be asked here is short.
const BODY_BYTES: usize = 64 * 1024;

/// What the admin listener tells about.
pub struct Admin {
    /// SHA-256 of the token. Hashes have one length, so that comparing takes one time.
    token: [u8; 32],
    revisions: Arc<Revisions>,
    throttle: Arc<Throttle>,
    registry: Arc<Registry>,
    leave: Arc<Leave>,
    performance: Arc<Performance>,
    cache: Option<cache::Desk>,
}

impl Admin {
    /// For those who know the token.
    #[must_use]
    pub fn new(token: &Secret, leave: Arc<Leave>, performance: Performance) -> Self {
        Self {
            token: Sha256::digest(token.expose()).into(),
            revisions: Arc::clone(&performance.revisions),
            throttle: Arc::clone(&performance.throttle),
            registry: Arc::clone(&performance.registry),
            leave,
            performance: Arc::new(performance),
            cache: None,
        }
    }

    /// With a cache, about which can be asked too.
    #[must_use]
    pub fn with_cache(mut self, desk: cache::Desk) -> Self {
        self.cache = Some(desk);
        self
    }

    fn now(&self) -> Time {
        self.throttle.time(Instant::now(), Time::from(SystemTime::now()))
    }

    fn knows(&self, token: &[u8]) -> bool {
        let presented: [u8; 32] = Sha256::digest(token).into();
        presented.ct_eq(&self.token).into()
    }
}

/// Answers on this listener until `end`.
///
/// # Errors
/// When the listener can not be used.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, end: impl Future<Output = ()>) -> std::io::Result<()> {
    side_http::serve_until(
        listener,
        side_http::Plain,
        router(admin),
        side_http::Bounds::BESIDE,
        end,
    )
    .await
}

fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/admin/throttle/{*counter}", get(throttle))
        .route("/admin/revision", get(revision))
        .route("/admin/upstreams", get(upstreams))
        .route("/admin/explain", post(explained))
        .route("/admin/drain", post(drain))
        .route("/debug/performance", get(performance))
        .merge(cache::router())
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin)
}

/// Lets through who shows the token, with a request that is not too large.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    match bearer(request.headers()) {
        None => {
            return unauthorized(
                "credential_missing",
                "this listener needs the admin token, as a bearer token",
            );
        }
        Some(token) if !admin.knows(token) => {
            return unauthorized("credential_invalid", "this is not the admin token");
        }
        Some(_) => {}
    }
    let length = request.headers().get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > BODY_BYTES) {
        let detail = format!("a body is at most {BODY_BYTES} bytes here");
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
    }
    let mut answer = next.run(request).await;
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The bearer token of a request, if it has one `Authorization` and that is one.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (field, None) = (fields.next()?, fields.next()) else {
        return None;
    };
    let (scheme, token) = field.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// How the counter with this name stands.
async fn throttle(State(admin): State<Arc<Admin>>, name: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(name)) = name else {
        let detail = "the name of a counter is UTF-8 when it is percent-decoded";
        return problem(StatusCode::BAD_REQUEST, "bad_request", detail);
    };
    let Some(snapshot) = admin.revisions.current() else {
        return no_revision();
    };
    match counter::look(&snapshot, &admin.throttle, &name, admin.now()) {
        Ok(facts) => Json(facts).into_response(),
        Err(error) => problem(StatusCode::NOT_FOUND, "counter_not_found", error.0),
    }
}

/// What would happen to a request, and why: `{"method", "url", "headers", "client", "client_certificate"}`, of which only
/// `url` has to be there. The facts are those of `tollgate explain --output json`, with the counters and the endpoints as this
/// process sees them.
async fn explained(State(admin): State<Arc<Admin>>, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(error) => return problem(error.status(), "bad_request", error.body_text()),
    };
    let Some(snapshot) = admin.revisions.current() else {
        return no_revision();
    };
    let kept = admin.cache.as_ref().map(cache::Desk::kept);
    match explain::answer(&body, &snapshot, &admin.throttle, kept, admin.now()) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(wrong) => problem(StatusCode::BAD_REQUEST, "bad_request", wrong),
    }
}

/// What the process does with its time and memory. Looked at on a thread that may wait.
async fn performance(State(admin): State<Arc<Admin>>) -> Response {
    let performance = Arc::clone(&admin.performance);
    match tokio::task::spawn_blocking(move || performance.look()).await {
        Ok(facts) => Json(facts).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", error.to_string()),
    }
}

/// What is told of the revision.
#[derive(Serialize)]
struct Revision {
    #[serde(flatten)]
    status: sync::Status,
    /// Beside a control plane: this gateway's own objects, as `api/orders`.
    local: Vec<String>,
}

/// Which revision is applied, since when, and which one was refused since then.
async fn revision(State(admin): State<Arc<Admin>>) -> Json<Revision> {
    Json(Revision {
        status: admin.revisions.status(),
        local: admin.revisions.local(),
    })
}

/// What is told of an upstream.
#[derive(Serialize)]
struct UpstreamFacts {
    name: String,
    #[serde(flatten)]
    facts: balance::Facts,
}

/// What is told of all of them.
#[derive(Serialize)]
struct Upstreams {
    upstreams: Vec<UpstreamFacts>,
}

/// How every upstream stands: which endpoints get how much, and why others get nothing.
async fn upstreams(State(admin): State<Arc<Admin>>) -> Json<Upstreams> {
    let now = Moment::now();
    let told = |upstream: &Arc<Upstream>| UpstreamFacts {
        name: upstream.name().to_string(),
        facts: upstream.view().describe(now),
    };
    let mut upstreams: Vec<_> = admin.registry.newest().iter().map(told).collect();
    upstreams.sort_by(|a, b| a.name.cmp(&b.name));
    Json(Upstreams { upstreams })
}

/// Leaves, as after a SIGTERM. The answer comes at once; how it goes is seen in readiness and in the log.
async fn drain(State(admin): State<Arc<Admin>>) -> Response {
    log::info!("asked to leave by an administrator");
    admin.leave.ask();
    (StatusCode::ACCEPTED, Json(serde_json::json!({ "leaving": true }))).into_response()
}

fn no_revision() -> Response {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "no revision is applied yet",
    )
}

async fn nothing_here() -> Response {
    let detail = "there are /admin/throttle/{counter}, /admin/revision, /admin/upstreams, /admin/explain, /admin/drain, \
                  /admin/cache and /debug/performance";
    problem(StatusCode::NOT_FOUND, "route_not_found", detail)
}

async fn wrong_method() -> Response {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not answer this method",
    )
}

fn unauthorized(code: &'static str, detail: &'static str) -> Response {
    let mut answer = problem(StatusCode::UNAUTHORIZED, code, detail);
    answer
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// RFC 9457, as the gateway's own refusals are.
#[derive(Serialize)]
struct Problem {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    code: &'static str,
}

fn problem(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Response {
    let document = Problem {
        r#type: format!("urn:tollgate:problem:{code}"),
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail: detail.into(),
        code,
    };
    let mut answer = (status, Json(document)).into_response();
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token_of(fields: &[&str]) -> Option<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        }
        bearer(&headers).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme_and_nothing_else_is() {
        assert_eq!(token_of(&["Bearer abc"]).unwrap(), b"abc");
        assert_eq!(token_of(&["bEARER   abc"]).unwrap(), b"abc");
        for fields in [
            &[][..],
            &["abc"],
            &["Basic abc"],
            &["Bearerabc"],
            &["Bearer"],
            &["Bearer abc", "Bearer abc"],
        ] {
            assert_eq!(token_of(fields), None, "{fields:?}");
        }
        assert_eq!(
            token_of(&["Bearer "]).unwrap_or_default(),
            b"",
            "and nobody's token is empty"
        );
    }
}
