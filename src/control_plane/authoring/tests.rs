//! Stories of authoring and publishing: the real router on a real store.

mod access;
mod catalogue;
mod invalidations;
mod keys;
mod objects;
mod openapi;
mod races;
mod revisions;

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::control_plane::access::{Scope, TokenRecord};
use crate::control_plane::plane::Plane;
use crate::control_plane::store::tests::postgres_server::PostgresServer;
use crate::control_plane::store::{Location, open};
use crate::distribution::SigningKey;

/// An upstream, two APIs, a plan and an application with a key.
const FIRST: &str = "
version: 1
upstreams: [{ name: orders, endpoints: [{ address: 'orders.internal:80' }] }]
plans: [{ name: basic, limits: [{ name: minute, rate: 5000/m }] }]
apis:
  - { name: orders, base_path: /orders, auth: [api_key], upstream: orders, routes: [{ path: /, methods: [GET] }] }
  - { name: open, base_path: /open, auth: none, upstream: orders }
applications:
  - name: mobile
    subscriptions: [{ api: orders, plan: basic }]
    keys: [{ id: mobile-1, sha256: '9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f' }]
";

/// A revision of the API `stock`.
const STOCK: &str = "
upstreams: [{ name: stock, endpoints: [{ address: 'stock.internal:80' }] }]
apis: [{ name: stock, base_path: /stock, auth: [api_key], upstream: stock }]
";

/// A control plane with an administrator.
struct Node {
    plane: Arc<Plane>,
    token: String,
    location: Location,
    _directory: Option<Arc<TempDir>>,
}

/// What was answered.
#[derive(Debug)]
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
    body: Value,
}

impl Node {
    async fn start() -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let location = Location::Sqlite(directory.path().join("store.db"));
        Self::on(location, Some(directory)).await
    }

    async fn on_postgres() -> Self {
        let url = tokio::task::spawn_blocking(|| PostgresServer::shared().database())
            .await
            .unwrap();
        Self::on(Location::Postgres(url.into()), None).await
    }

    /// Another node on the same store.
    async fn beside(&self) -> Self {
        Self::on(self.location.clone(), self._directory.clone()).await
    }

    async fn on(location: Location, directory: Option<Arc<TempDir>>) -> Self {
        let store = open(&location).await.unwrap();
        let (signing, _) = SigningKey::generate().unwrap();
        let mut node = Self {
            plane: Plane::new(store, Arc::new(signing)),
            token: String::new(),
            location,
            _directory: directory,
        };
        node.token = node.token_of(&[Scope::Admin]).await;
        node
    }

    async fn token_of(&self, scopes: &[Scope]) -> String {
        self.token_with(scopes, &[], &[]).await
    }

    async fn token_with(&self, scopes: &[Scope], environments: &[&str], roles: &[&str]) -> String {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let record = |sha256| TokenRecord {
            sha256,
            note: String::new(),
            scopes: scopes.to_vec(),
            environments: texts(environments),
            roles: texts(roles),
            expires_ms: None,
        };
        self.plane.tokens.create(record).await.unwrap().1.expose().to_owned()
    }

    async fn ask(&self, method: Method, path: &str, fields: &[(&str, &str)], body: Option<&Value>) -> Answered {
        let mut request = Request::builder().method(method).uri(path);
        if !fields.iter().any(|(name, _)| *name == "authorization") {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        let (router, _) = super::router().split_for_parts();
        let answer = router
            .with_state(Arc::clone(&self.plane))
            .oneshot(request.body(body).unwrap())
            .await
            .unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        Answered {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or_default(),
            text,
        }
    }

    async fn get(&self, path: &str) -> Answered {
        self.ask(Method::GET, path, &[], None).await
    }

    async fn post(&self, path: &str, body: Value) -> Answered {
        self.ask(Method::POST, path, &[], Some(&body)).await
    }

    async fn put(&self, path: &str, body: Value) -> Answered {
        self.ask(Method::PUT, path, &[], Some(&body)).await
    }

    async fn delete(&self, path: &str) -> Answered {
        self.ask(Method::DELETE, path, &[], None).await
    }

    /// With environments of these names.
    async fn with(environments: &[&str]) -> Self {
        Self::start().await.having(environments).await
    }

    async fn having(self, environments: &[&str]) -> Self {
        for name in environments {
            self.post("/v1/environments", json!({ "name": name })).await.is(201);
        }
        self
    }

    async fn publish(&self, environments: &[&str], document: &str) -> Answered {
        let body = json!({ "environments": environments, "document": document, "name": "revision.yaml" });
        self.post("/v1/revisions", body).await
    }

    /// Creates the API `stock` with a first revision.
    async fn stock(&self) {
        self.post("/v1/apis", json!({ "name": "stock" })).await.is(201);
        self.post("/v1/apis/stock/revisions", json!({ "document": STOCK }))
            .await
            .is(201);
    }

    async fn deploy(&self, revision: u32, environments: &[&str]) -> Answered {
        let path = format!("/v1/apis/stock/revisions/{revision}/deploy");
        self.post(&path, json!({ "environments": environments })).await
    }

    /// The document of the newest revision.
    async fn document(&self, environment: &str) -> Value {
        let seq = self.plane.store.head(environment).await.unwrap().unwrap().seq;
        let path = format!("/v1/environments/{environment}/revisions/{seq}");
        self.get(&path).await.is(200).body["document"].clone()
    }
}

impl Answered {
    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    /// A problem document with this code that says this.
    #[track_caller]
    fn refused(self, status: u16, code: &str, says: &str) -> Self {
        let answered = self.is(status);
        assert_eq!(answered.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(answered.body["code"], code, "{}", answered.text);
        assert!(
            answered.body.to_string().replace("\\\"", "\"").contains(says),
            "{says}: {}",
            answered.text
        );
        answered
    }

    fn etag(&self) -> String {
        self.headers[header::ETAG].to_str().unwrap().to_owned()
    }

    fn published(&self) -> &[Value] {
        self.body["published"].as_array().map_or(&[], Vec::as_slice)
    }
}

/// The names of a list.
fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|item| item["name"].as_str())
        .collect()
}
