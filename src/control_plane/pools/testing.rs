//! A node of the control plane on a real store, asked through its routes, with a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::control_plane::access::{Scope, TokenRecord};
use crate::control_plane::plane::{Plane, Settings};
use crate::control_plane::store::{Location, Store, open};
use crate::control_plane::{key_manager, pools};
use crate::distribution::SigningKey;
use crate::document::Secret;

/// When every story begins.
pub(crate) const NOW: u64 = 1_800_000_000_000;

/// How long seats last in these stories, and how long after that they may be claimed, in milliseconds.
pub(crate) const TTL: u64 = 30_000;
pub(crate) const RECLAIM: u64 = 300_000;

/// A node, and who asks it.
pub(crate) struct House {
    pub(crate) plane: Arc<Plane>,
    pub(crate) clock: Arc<AtomicU64>,
    pub(crate) admin: Secret,
    pub(crate) gateway: Secret,
    routes: Router,
    _directory: Option<TempDir>,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl House {
    /// A new node on a new store.
    pub(crate) async fn new() -> Self {
        let (signing, _) = SigningKey::generate().unwrap();
        Self::on_new_store(Arc::new(signing), Arc::new(AtomicU64::new(NOW))).await
    }

    /// A new node on the store of this one, later.
    pub(crate) async fn restarted(&self, after_ms: u64) -> Self {
        self.clock.fetch_add(after_ms, Ordering::SeqCst);
        let store = Arc::clone(&self.plane.store);
        Self::on(store, Arc::clone(&self.plane.signing), Arc::clone(&self.clock), None).await
    }

    /// A new node that has the signing key of this one, but not its store.
    pub(crate) async fn wiped(&self, after_ms: u64) -> Self {
        self.clock.fetch_add(after_ms, Ordering::SeqCst);
        Self::on_new_store(Arc::clone(&self.plane.signing), Arc::clone(&self.clock)).await
    }

    /// Lets time pass.
    pub(crate) fn wait(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::SeqCst);
    }

    /// A token with these rights.
    pub(crate) async fn token(&self, scopes: &[Scope], environments: &[&str]) -> Secret {
        token(&self.plane, scopes, environments).await
    }

    /// Asks with JSON.
    pub(crate) async fn ask(&self, method: Method, path: &str, token: &Secret, body: Option<Value>) -> Answer {
        self.ask_with(method, path, token, &[], body).await
    }

    /// Asks with JSON and header fields.
    pub(crate) async fn ask_with(
        &self,
        method: Method,
        path: &str,
        token: &Secret,
        fields: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", token.expose()));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        self.send(request.unwrap()).await
    }

    /// Asks anything.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let answer = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &self.admin, None).await
    }

    /// Registers a gateway in the pool `default`.
    pub(crate) async fn register(&self, id: &str) -> Answer {
        self.register_with(id, json!({})).await
    }

    /// Registers a gateway that says more of itself.
    pub(crate) async fn register_with(&self, id: &str, more: Value) -> Answer {
        let mut about = json!({
            "instance_id": id, "name": format!("name of {id}"), "environment": "prod", "version": "0.1.0",
        });
        about.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = "/v1/pools/default/instances";
        self.ask(Method::POST, path, &self.gateway, Some(about)).await
    }

    /// Gives a sign of life.
    pub(crate) async fn beat(&self, id: &str, seat: &str) -> Answer {
        self.beat_with(id, seat, json!({})).await
    }

    /// Gives a sign of life that says more.
    pub(crate) async fn beat_with(&self, id: &str, seat: &str, more: Value) -> Answer {
        let mut beat = json!({ "seat": seat });
        beat.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = format!("/v1/instances/{id}/heartbeat");
        self.ask(Method::POST, &path, &self.gateway, Some(beat)).await
    }

    /// Sets the limit of the pool `default`.
    pub(crate) async fn limit(&self, max: Option<u32>) {
        let body = json!({ "max_instances": max });
        let answer = self
            .ask(Method::PUT, "/v1/pools/default", &self.admin, Some(body))
            .await;
        assert!(answer.status.is_success(), "{}", answer.text);
    }

    async fn on_new_store(signing: Arc<SigningKey>, clock: Arc<AtomicU64>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(directory.path().join("control-plane.db"));
        Self::on(open(&location).await.unwrap(), signing, clock, Some(directory)).await
    }

    async fn on(
        store: Arc<dyn Store>,
        signing: Arc<SigningKey>,
        clock: Arc<AtomicU64>,
        directory: Option<TempDir>,
    ) -> Self {
        let settings = Settings {
            pools: pools::Settings {
                seat_ttl: Duration::from_millis(TTL),
                reclaim: Duration::from_millis(RECLAIM),
            },
            key_manager: key_manager::Settings {
                issuer: "https://cp.example.com".to_owned(),
                token_lifetime: Duration::from_secs(600),
            },
            ..Settings::default()
        };
        let now = Arc::clone(&clock);
        let plane = Plane::with_clock(store, signing, settings, Arc::new(move || now.load(Ordering::SeqCst)));
        let (routes, _) = pools::router().merge(key_manager::router()).split_for_parts();
        Self {
            admin: token(&plane, &[Scope::Admin], &[]).await,
            gateway: token(&plane, &[Scope::Gateway], &["prod"]).await,
            routes: routes.with_state(Arc::clone(&plane)),
            plane,
            clock,
            _directory: directory,
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The seat token of a registration that went well.
    pub(crate) fn seat(&self) -> String {
        assert_eq!(self.status, StatusCode::CREATED, "{}", self.text);
        self.json()["token"].as_str().unwrap().to_owned()
    }

    /// The status and the code of a problem document.
    pub(crate) fn problem(&self) -> (u16, String) {
        let code = self.json()["code"]
            .as_str()
            .unwrap_or_else(|| panic!("{}", self.text))
            .to_owned();
        (self.status.as_u16(), code)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name}"))
            .to_str()
            .unwrap()
    }
}

async fn token(plane: &Plane, scopes: &[Scope], environments: &[&str]) -> Secret {
    let record = |sha256| TokenRecord {
        sha256,
        note: String::new(),
        scopes: scopes.to_vec(),
        environments: environments.iter().map(|&name| name.to_owned()).collect(),
        roles: Vec::new(),
        expires_ms: None,
    };
    plane.tokens.create(record).await.unwrap().1
}
