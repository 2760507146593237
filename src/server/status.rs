//! The status listener: liveness, readiness, metrics. On its own thread, so that a busy gateway still answers its
//! supervisor.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::watch;

use crate::auth::{KeySetStatus, KeySets};
use crate::clock::unix_ms;
use crate::config;
use crate::gateway::drain::Drain;
use crate::gateway::explain::counter::health;
use crate::redis::{self, Redis};
use crate::side_http;
use crate::sync::keys::{KeyFollower, KeyStatus};
use crate::sync::seat::Standing;
use crate::sync::{self, Revisions};
use crate::telemetry::{Metrics, metrics};
use crate::throttle::{Throttle, Time};

/// What the status listener tells about.
pub struct Status {
    /// Which gateway this is.
    pub gateway: config::Gateway,
    /// Revisions.
    pub revisions: Arc<Revisions>,
    /// Issuers' keys.
    pub key_sets: KeySets,
    /// Counters.
    pub throttle: Arc<Throttle>,
    /// Where they are shared, if they are.
    pub redis: Option<Redis>,
    /// Whether this gateway has a seat in its pool; None without a control plane.
    pub standing: Option<watch::Receiver<Standing>>,
    /// Keys of the key log, with a control plane.
    pub keys: Option<Arc<KeyFollower>>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Whether it is leaving.
    pub drain: Drain,
}

/// The answer of `/status/ready`.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    gateway: String,
    environment: String,
    labels: Vec<String>,
    pool: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_not: Option<&'static str>,
    revision: sync::Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<ControlPlane>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<KeyStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    key_sets: Vec<KeySet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    redis: Vec<Node>,
}

/// The control plane. That it is away is no reason for 503: what was applied serves on.
#[derive(Serialize)]
struct ControlPlane {
    seat: &'static str,
    answers: bool,
}

/// A server that holds shared counters. Never a reason for 503 either: a gateway that does not reach it goes on by its
/// share of each limit.
#[derive(Serialize)]
struct Node {
    node: String,
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

/// An issuer's keys. Never a reason for 503: an issuer that is away must not take every gateway out of rotation.
#[derive(Serialize)]
struct KeySet {
    source: String,
    keys: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

/// Answers on this listener until `end`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, status: Arc<Status>, end: impl Future<Output = ()>) -> std::io::Result<()> {
    side_http::serve_until(
        listener,
        side_http::Plain,
        router(status),
        side_http::Bounds::BESIDE,
        end,
    )
    .await
}

fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/status", get(live))
        .route("/healthz", get(live))
        .route("/status/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/health", get(ready))
        .route("/metrics", get(render))
        .with_state(status)
}

/// 200 while the process works.
async fn live(State(status): State<Arc<Status>>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok", "gateway": status.gateway.id, "version": env!("CARGO_PKG_VERSION") }))
}

/// 200 with a revision applied and not leaving.
async fn ready(State(status): State<Arc<Status>>) -> Response {
    let revision = status.revisions.status();
    let standing = status.standing.as_ref().map(|standing| *standing.borrow());
    let keys = status.keys.as_ref().map(|keys| keys.status());
    let answers = status.metrics.control_plane().up.get() == 1;
    // A process that was followed is not who is asked for: the service goes on.
    let why_not = if status.drain.is_announced() && !status.drain.is_followed() {
        Some("draining")
    } else if let Some(why_not) = standing.and_then(Standing::why_not) {
        Some(why_not)
    } else if revision.digest.is_none() {
        Some("no revision is applied")
    } else if let Some(keys) = &keys
        && waits_for_keys(standing, answers, &revision, keys.ready)
    {
        Some("the keys are not known yet")
    } else {
        None
    };
    let code = if why_not.is_none() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = Ready {
        ready: why_not.is_none(),
        gateway: status.gateway.id.clone(),
        environment: status.gateway.environment.clone(),
        labels: status.gateway.labels.clone(),
        pool: status.gateway.pool.clone(),
        zone: status.gateway.zone.clone(),
        version: env!("CARGO_PKG_VERSION"),
        why_not,
        revision,
        keys,
        control_plane: standing.map(|standing| ControlPlane {
            seat: standing.as_str(),
            answers,
        }),
        key_sets: status.key_sets.status().into_iter().map(KeySet::from).collect(),
        redis: status.redis.iter().flat_map(Redis::nodes).map(Node::from).collect(),
    };
    (code, Json(body)).into_response()
}

/// Whether no key of the key log can be checked, and soon can be: each of them would be answered with 503 here, and not by
/// the next gateway. With the control plane away that may last, and everything else serves.
fn waits_for_keys(standing: Option<Standing>, answers: bool, revision: &sync::Status, are_ready: bool) -> bool {
    standing == Some(Standing::Seated) && answers && revision.environment_seq.is_some() && !are_ready
}

impl From<KeySetStatus> for KeySet {
    fn from(status: KeySetStatus) -> Self {
        Self {
            source: status.source,
            keys: status.keys,
            age_seconds: status.age.map(|age| age.as_secs()),
            last_error: status.last_error,
        }
    }
}

impl From<Arc<redis::Node>> for Node {
    fn from(node: Arc<redis::Node>) -> Self {
        Self {
            node: node.name().to_owned(),
            health: health(node.health()),
            last_error: node.trouble(),
        }
    }
}

/// By how many seconds the store's clock is ahead of this host's.
fn ahead(store: Time) -> f64 {
    let here = Time::from(SystemTime::now());
    // Of the nanoseconds of a day, a float keeps hundredths.
    (store.since(here) as f64 - here.since(store) as f64) / 1e9
}

async fn render(State(status): State<Arc<Status>>) -> Response {
    let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    status.metrics.throttle_counters.set(gauge(status.throttle.entries()));
    status
        .metrics
        .throttle_evictions
        .set(i64::try_from(status.throttle.evictions()).unwrap_or(i64::MAX));
    if let Some(shared) = status.throttle.sharing() {
        let meters = shared.meters();
        meters.instances.set(i64::from(shared.instances()));
        // Of the nanoseconds of a day, a float keeps hundredths.
        meters.clock_offset.set(ahead(shared.clock().now()));
    }
    let sets = status.key_sets.status();
    status.metrics.set_key_sets(
        sets.iter()
            .map(|set| (set.source.as_str(), set.keys, set.age, set.failures)),
    );
    match status.metrics.render(unix_ms()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_seated_gateway_with_a_revision_of_a_control_plane_that_answers_waits_for_keys() {
        let published = sync::Status {
            environment_seq: Some(1),
            ..sync::Status::default()
        };
        let waits = |standing, answers, revision: &sync::Status, are_ready| {
            waits_for_keys(standing, answers, revision, are_ready)
        };
        let seated = Some(Standing::Seated);
        assert!(waits(seated, true, &published, false));
        assert!(!waits(seated, true, &published, true));
        assert!(!waits(seated, false, &published, false), "it is away");
        assert!(!waits(seated, true, &sync::Status::default(), false), "from a file");
        assert!(!waits(Some(Standing::Remembered), true, &published, false));
        assert!(
            !waits(Some(Standing::NotNeeded), true, &published, false),
            "a directory"
        );
    }
}
