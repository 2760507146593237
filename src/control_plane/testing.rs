//! A real control plane for tests: on a free port, with a store of its own.

use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::config;
use super::plane::Plane;
use super::server::ControlPlane;
use super::store::{Changes, Expected, NewRevision, ObjectChange, ObjectKind, PublishedRevision};
use crate::clock::unix_ms;
use crate::distribution::{Content, Manifest, PublicKey, Signed, Topic};
use crate::document::Environment;

/// The administrator's token of every node.
pub(super) const TOKEN: &str = "a-token-that-only-tests-know";

/// Nothing takes so long, on any machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A node that answers. Ends when stopped, or with the process.
pub(super) struct Node {
    pub(super) url: String,
    pub(super) plane: Arc<Plane>,
    pub(super) http: Client,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Node {
    /// One with this store (`sqlite: PATH` or `postgres: URL`) and these lines more.
    pub(super) async fn start(store: &str, more: &str) -> Self {
        let text = format!(
            "store: {{ {store} }}\nbootstrap_token: {TOKEN}\nlistener: {{ address: \"127.0.0.1:0\" }}\n{more}\n"
        );
        Self::of(&text, "http", client()).await
    }

    /// One with exactly this configuration.
    pub(super) async fn of(text: &str, scheme: &str, http: Client) -> Self {
        let environment = Environment::fixed([], jiff::Timestamp::UNIX_EPOCH);
        let loaded = config::parse(text, "test.yaml", &environment, None).unwrap_or_else(|error| panic!("{error}"));
        let node = tokio::task::spawn_blocking(|| ControlPlane::prepare(loaded.config).map_err(|e| e.to_string()))
            .await
            .unwrap()
            .unwrap_or_else(|error| panic!("{error}"));
        let url = format!("{scheme}://{}", node.address());
        let plane = Arc::clone(node.plane());
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(node.serve(async {
            let _ = stopped.await;
        }));
        Self {
            url,
            plane,
            http,
            stop,
            served,
        }
    }

    /// Ends it gracefully.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        tokio::time::timeout(PATIENCE, self.served).await.unwrap().unwrap();
    }

    /// Asks for a path with the administrator's token.
    pub(super) async fn get(&self, path: &str) -> Response {
        self.asking(path)
            .send()
            .await
            .unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    pub(super) fn asking(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.url)).bearer_auth(TOKEN)
    }

    pub(super) fn posting(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}{path}", self.url))
            .bearer_auth(TOKEN)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    /// The manifest of an environment, checked as a gateway does.
    pub(super) async fn manifest(&self, environment: &str) -> Manifest {
        let answer = self.get(&format!("/v1/environments/{environment}/revision")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        verified(
            &answer.bytes().await.unwrap(),
            Topic::Manifest,
            self.plane.signing.public(),
        )
    }

    /// Makes an environment.
    pub(super) async fn environment(&self, name: &str, environment_type: &str) {
        let change = ObjectChange {
            kind: ObjectKind::Environment,
            name: name.to_owned(),
            expected: Expected::Anything,
            value: Some(json!({ "name": name, "type": environment_type }).to_string()),
        };
        let changes = Changes {
            objects: vec![change],
            ..Default::default()
        };
        self.plane.store.commit(&changes, unix_ms()).await.unwrap();
    }

    /// Publishes to an environment, on this node.
    pub(super) async fn publish(&self, environment: &str, content: &Content) -> PublishedRevision {
        let after = self
            .plane
            .store
            .head(environment)
            .await
            .unwrap()
            .map_or(0, |head| head.seq);
        let committed = self
            .plane
            .store
            .commit(&changes(environment, after, content), unix_ms())
            .await;
        let revision = committed.unwrap().revisions.remove(0);
        self.plane.heads.published(&revision);
        revision
    }
}

/// What publishes a content.
pub(super) fn changes(environment: &str, after: u64, content: &Content) -> Changes {
    let (blob, bytes) = content.to_snapshot().unwrap();
    Changes {
        blobs: vec![(blob.sha256, bytes)],
        revisions: vec![NewRevision {
            environment: environment.to_owned(),
            after,
            root: content.root(),
            snapshot: blob.sha256,
            snapshot_raw_size: blob.raw_size,
            routes: content.len() as u64,
            source: "{}".to_owned(),
            author: "test".to_owned(),
            note: String::new(),
            rollback_of: None,
        }],
        ..Default::default()
    }
}

/// A content with so many APIs, each a little different, in this edition.
pub(super) fn content(apis: usize, edition: &str) -> Content {
    let apis: Vec<Value> = (0..apis)
        .map(|number| {
            json!({
                "name": format!("api-{number}"), "base_path": format!("/{number}"), "auth": "none", "upstream": "u",
                "note": crate::distribution::ContentHash::of(number.to_string().as_bytes()),
                "edition": if number == 0 { edition } else { "" },
            })
        })
        .collect();
    Content::of_document(&json!({ "version": 1, "apis": apis })).unwrap()
}

/// A signed text, if it is signed for this and by this key.
pub(super) fn verified<T: serde::de::DeserializeOwned>(bytes: &[u8], topic: Topic, key: PublicKey) -> T {
    let signed: Signed = serde_json::from_slice(bytes).unwrap();
    serde_json::from_str(signed.verify(topic, &[key]).unwrap()).unwrap()
}

/// A client that goes nowhere but where it is sent.
pub(super) fn client() -> Client {
    Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// What this process logs from now on, as far as the operator's log would show it: everything of ours, and of others what
/// is not below `info`. Other tests log too; that does not harm.
pub(super) struct Log;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Log {
    /// Listens, from the first call on.
    pub(super) fn listen() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            log::set_logger(&Self).unwrap();
            log::set_max_level(log::LevelFilter::Trace);
        });
        Self
    }

    /// Every line until now.
    pub(super) fn lines(&self) -> Vec<String> {
        LINES.lock().unwrap().clone()
    }
}

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info || metadata.target().starts_with("tollgate")
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut lines = LINES.lock().unwrap();
        if self.enabled(record.metadata()) && lines.len() < 100_000 {
            lines.push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}
