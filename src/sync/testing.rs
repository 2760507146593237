//! For tests: a control plane that signs, serves and counts, on a free port; and a gateway without listeners.

mod gateway;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as Segments, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::seat::Standing;
use super::verify::Expected;
use super::{Published, Remembered};
use crate::distribution::protocol::{Heartbeat, HeartbeatReply, Register, Seat};
use crate::distribution::{Content, KeysHead, Kind, Manifest, PublicKey, Signed, SigningKey, Topic};
use crate::revision::EnvironmentType;
pub use gateway::{Gateway, configured};

/// What tests wait for comes in milliseconds; this is for machines that are busy with something else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until this holds.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory of a test.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Whether this gateway may serve.
pub fn standing(gateway: &Gateway) -> Standing {
    *gateway.remote.as_ref().unwrap().standing().borrow()
}

/// What gateways of tests take.
pub fn expected() -> Expected {
    Expected {
        environment: "prod".into(),
        environment_type: None,
        max_bytes: 1 << 20,
        max_routes: 100,
    }
}

/// A revision with these open APIs, each at its name.
pub fn document(apis: &[&str]) -> Content {
    let apis: Vec<Value> = (apis.iter())
        .map(|name| json!({ "name": name, "base_path": format!("/{name}"), "auth": "none", "upstream": "u" }))
        .collect();
    let upstreams = json!([{ "name": "u", "endpoints": [{ "address": "127.0.0.1:1" }] }]);
    Content::of_document(&json!({ "version": 1, "upstreams": upstreams, "apis": apis })).unwrap()
}

/// Who signs.
pub struct Author(SigningKey);

impl Author {
    /// Somebody with a key of his own.
    pub fn somebody() -> Self {
        Self(SigningKey::generate().unwrap().0)
    }

    /// His key.
    pub fn public(&self) -> PublicKey {
        self.0.public()
    }

    /// A manifest of a content, and the content as a snapshot.
    pub fn manifest(seq: u64, content: &Content) -> (Manifest, Vec<u8>) {
        let (snapshot, bytes) = content.to_snapshot().unwrap();
        let manifest = Manifest {
            environment: "prod".into(),
            environment_type: EnvironmentType::Hybrid,
            seq,
            schema: 1,
            requires: Vec::new(),
            published_at_ms: 1,
            root: content.root(),
            snapshot,
            routes: content.iter().filter(|(kind, ..)| *kind == Kind::Api).count() as u64,
            keys: KeysHead {
                epoch: 1,
                count: 0,
                base: None,
                filter: None,
                revoked: None,
            },
            spread_ms: 0,
            wait_s: 30,
        };
        (manifest, bytes)
    }

    /// Signs one.
    pub fn sign(&self, manifest: &Manifest) -> Signed {
        Signed::new(Topic::Manifest, serde_json::to_string(manifest).unwrap(), &self.0)
    }

    /// A revision of these APIs, as it is kept on disk.
    pub fn remembered(&self, seq: u64, apis: &[(&str, Value)]) -> Remembered {
        let mut content = Content::default();
        for (name, value) in apis {
            content.insert(Kind::Api, name, value);
        }
        let (manifest, bytes) = Self::manifest(seq, &content);
        Remembered {
            signed: self.sign(&manifest),
            snapshot: Some(bytes),
            published: Arc::new(Published { manifest, content }),
        }
    }
}

/// What a control plane knows, and what it was asked.
#[derive(Default)]
pub struct Knows {
    /// The answer to who asks for a revision.
    pub newest: Option<Signed>,
    /// Its number.
    pub seq: u64,
    /// All contents, for deltas.
    pub contents: BTreeMap<u64, Content>,
    /// Blobs by their names.
    pub blobs: HashMap<String, Vec<u8>>,
    /// Deltas that are not made but given.
    pub deltas: HashMap<(u64, u64), Vec<u8>>,
    /// Whether there are deltas at all.
    pub without_deltas: bool,
    /// How often a blob is not served yet (503), and when to come back.
    pub busy: u32,
    /// Answered to everything, instead of an answer.
    pub broken: Option<StatusCode>,
    /// How many seats there are; none is without pools.
    pub seats: Option<usize>,
    /// Whether a seat that was given is not known afterwards.
    pub forgetful: bool,
    /// Who sits.
    pub seated: BTreeMap<String, Register>,
    /// Whose seats are given up, and held for them alone.
    pub held: BTreeSet<String>,
    /// What gateways have told.
    pub heartbeats: Vec<Heartbeat>,
    /// What they are told.
    pub reply: HeartbeatReply,
    /// Every path that was asked for.
    pub asked: Vec<String>,
    /// The tokens that were shown.
    pub tokens: Vec<Option<String>>,
}

struct Shared {
    author: Author,
    knows: Mutex<Knows>,
    published: watch::Sender<u64>,
}

/// A control plane, until it is dropped.
pub struct Plane {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Plane {
    /// Starts one that has published nothing and has no pools.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            author: Author::somebody(),
            knows: Mutex::new(Knows {
                reply: HeartbeatReply {
                    ttl_s: 30,
                    live: 1,
                    ..HeartbeatReply::default()
                },
                ..Knows::default()
            }),
            published: watch::Sender::new(0),
        });
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = router(Arc::clone(&shared));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            shared,
            address,
            runtime: Some(runtime),
        }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Who signs.
    pub fn author(&self) -> &Author {
        &self.shared.author
    }

    /// What it knows.
    pub fn knows(&self) -> MutexGuard<'_, Knows> {
        self.shared.knows.lock().unwrap()
    }

    /// Publishes a content, and wakes who waits.
    pub fn publish(&self, seq: u64, content: &Content) {
        self.publish_as(seq, content, |_| {});
    }

    /// The same, with another manifest.
    pub fn publish_as(&self, seq: u64, content: &Content, change: impl FnOnce(&mut Manifest)) {
        let (mut manifest, bytes) = Author::manifest(seq, content);
        change(&mut manifest);
        let signed = self.author().sign(&manifest);
        let blob = manifest.snapshot.sha256.to_string();
        {
            let mut knows = self.knows();
            knows.blobs.insert(blob, bytes);
            knows.contents.insert(seq, content.clone());
        }
        self.publish_signed(seq, signed);
    }

    /// Publishes whatever this is.
    pub fn publish_signed(&self, seq: u64, signed: Signed) {
        let mut knows = self.knows();
        knows.seq = seq;
        knows.newest = Some(signed);
        knows.reply.latest_seq = seq;
        drop(knows);
        self.shared.published.send_modify(|count| *count += 1);
    }

    /// How often a path that contains this was asked for.
    pub fn asked(&self, part: &str) -> usize {
        self.knows().asked.iter().filter(|path| path.contains(part)).count()
    }

    /// The newest thing that a gateway refused.
    pub fn nack(&self) -> Option<(u64, String)> {
        let knows = self.knows();
        let refused = knows.heartbeats.last()?.refused.as_ref()?;
        Some((refused.seq, refused.code.clone()))
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/signing-keys", get(signing_keys))
        .route("/v1/environments/prod/revision", get(revision))
        .route("/v1/environments/prod/delta/{from}/{to}", get(delta))
        .route("/v1/blobs/{name}", get(blob))
        .route("/v1/pools/{pool}/instances", post(register))
        .route("/v1/instances/{id}/heartbeat", post(heartbeat))
        .route("/v1/instances/{id}", delete(leave))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), note))
        .with_state(shared)
}

async fn note(
    State(shared): State<Arc<Shared>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let broken = {
        let mut knows = shared.knows.lock().unwrap();
        knows.asked.push(format!("{} {}", request.method(), request.uri()));
        let token = request.headers().get("authorization");
        let token = token.map(|token| token.to_str().unwrap().to_owned());
        knows.tokens.push(token);
        knows.broken
    };
    match broken {
        Some(status) => status.into_response(),
        None => next.run(request).await,
    }
}

async fn signing_keys(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "keys": [shared.author.public().to_string()] }))
}

async fn revision(State(shared): State<Arc<Shared>>, Query(query): Query<HashMap<String, u64>>) -> Response {
    let mut published = shared.published.subscribe();
    let until = Instant::now() + Duration::from_secs(query["wait"]);
    loop {
        {
            let knows = shared.knows.lock().unwrap();
            if knows.seq != query["after"]
                && let Some(newest) = &knows.newest
            {
                return Json(newest.clone()).into_response();
            }
        }
        if tokio::time::timeout_at(until.into(), published.changed())
            .await
            .is_err()
        {
            return StatusCode::NOT_MODIFIED.into_response();
        }
    }
}

async fn delta(State(shared): State<Arc<Shared>>, Segments((from, to)): Segments<(u64, u64)>) -> Response {
    let knows = shared.knows.lock().unwrap();
    if let Some(given) = knows.deltas.get(&(from, to)) {
        return given.clone().into_response();
    }
    match (knows.contents.get(&from), knows.contents.get(&to)) {
        (Some(from), Some(to)) if !knows.without_deltas => from.delta(to).unwrap().into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn blob(State(shared): State<Arc<Shared>>, Segments(name): Segments<String>) -> Response {
    let mut knows = shared.knows.lock().unwrap();
    if knows.busy > 0 {
        knows.busy -= 1;
        let mut headers = HeaderMap::new();
        headers.insert("tollgate-retry-after-ms", "20".parse().unwrap());
        headers.insert("retry-after", "3600".parse().unwrap());
        return (StatusCode::SERVICE_UNAVAILABLE, headers).into_response();
    }
    match knows.blobs.get(&name) {
        Some(bytes) => Bytes::from(bytes.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn problem(status: StatusCode, code: &str) -> Response {
    (
        status,
        Json(json!({ "code": code, "detail": "the pool is full: 1 of 1 are taken" })),
    )
        .into_response()
}

async fn register(
    State(shared): State<Arc<Shared>>,
    Segments(pool): Segments<String>,
    Json(register): Json<Register>,
) -> Response {
    let mut knows = shared.knows.lock().unwrap();
    let Some(seats) = knows.seats else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let id = register.instance_id.clone();
    if knows.seated.len() >= seats && !knows.seated.contains_key(&id) {
        let mut answer = problem(StatusCode::CONFLICT, "pool_full");
        answer
            .headers_mut()
            .insert("tollgate-retry-after-ms", "50".parse().unwrap());
        return answer;
    }
    knows.seated.insert(id.clone(), register);
    knows.held.remove(&id);
    let live = u32::try_from(knows.seated.len()).unwrap();
    knows.reply.live = live;
    let seat = Seat {
        token: format!("seat of {id}"),
        instance_id: id,
        pool,
        ttl_s: 30,
        live,
        max: None,
    };
    (StatusCode::CREATED, Json(seat)).into_response()
}

async fn heartbeat(
    State(shared): State<Arc<Shared>>,
    Segments(id): Segments<String>,
    Json(beat): Json<Heartbeat>,
) -> Response {
    let mut knows = shared.knows.lock().unwrap();
    if knows.forgetful || !knows.seated.contains_key(&id) || knows.held.contains(&id) {
        return problem(StatusCode::NOT_FOUND, "seat_unknown");
    }
    knows.heartbeats.push(beat);
    Json(knows.reply.clone()).into_response()
}

async fn leave(
    State(shared): State<Arc<Shared>>,
    Segments(id): Segments<String>,
    Query(how): Query<HashMap<String, bool>>,
    headers: HeaderMap,
) -> StatusCode {
    if headers
        .get("x-tollgate-seat")
        .is_none_or(|seat| seat != format!("seat of {id}").as_str())
    {
        return StatusCode::FORBIDDEN;
    }
    let mut knows = shared.knows.lock().unwrap();
    if how.get("may_return") == Some(&true) {
        knows.held.insert(id);
    } else {
        knows.seated.remove(&id);
    }
    StatusCode::NO_CONTENT
}
