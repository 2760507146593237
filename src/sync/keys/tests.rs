//! The loop against a real server that keeps a log, signs pages, and fails when it is told to.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use axum::body::Bytes;
use axum::extract::{Path as Segments, Query, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::runtime::Runtime;

use super::*;
use crate::auth::key::digest;
use crate::auth::key_store::Found;
use crate::config::{ControlPlane, OnPoolFull};
use crate::distribution::content::pack;
use crate::distribution::manifest::KeysBlob;
use crate::distribution::protocol::{Resolve, Resolved, ResolvedFor};
use crate::distribution::{BlobRef, ContentHash, KeyEntry, KeyHash, KeyRecord, PublicKey, SigningKey, encode_filter};
use crate::revision::{EnvironmentType, KeyType};
use crate::sync::state_dir::StateDir;
use crate::sync::testing::until;
use crate::telemetry::Metrics;

const ENVIRONMENT: &str = "prod";

/// What a control plane knows of keys.
struct Plane {
    signer: SigningKey,
    epoch: u64,
    /// The number of the manifest.
    seq: u64,
    trimmed: u64,
    records: Vec<KeyRecord>,
    base: Option<KeysBlob>,
    filter: Option<KeysBlob>,
    revoked: Option<KeysBlob>,
    count: Option<u64>,
    blobs: BTreeMap<String, Vec<u8>>,
    /// What is done to pages before they are sent.
    spoil: Option<fn(&mut KeyPage)>,
    /// Whether pages are signed by somebody else.
    forged: bool,
    is_away: bool,
    resolves: Vec<usize>,
    polls: usize,
}

/// A control plane on a port of its own, until it is dropped.
struct House {
    plane: Arc<Mutex<Plane>>,
    news: Arc<Notify>,
    runtime: Runtime,
    address: SocketAddr,
    public: PublicKey,
    directory: tempfile::TempDir,
}

#[derive(Deserialize)]
struct Poll {
    after: u64,
    wait: u64,
}

type Site = Shared<(Arc<Mutex<Plane>>, Arc<Notify>)>;

fn hash(text: &str) -> KeyHash {
    KeyHash::of_digest(&digest(text).0)
}

fn entry(text: &str) -> KeyEntry {
    KeyEntry {
        hash: hash(text),
        id: format!("id-{text}"),
        application: "mobile".to_owned(),
        key_type: KeyType::Production,
        expires_ms: None,
    }
}

impl Plane {
    fn head(&self) -> u64 {
        self.trimmed + self.records.len() as u64
    }

    fn write(&mut self, change: KeyChange) {
        let record = KeyRecord {
            seq: self.head() + 1,
            at_ms: unix_ms(),
            change,
        };
        self.records.push(record);
    }

    fn keys(&self) -> BTreeMap<KeyHash, KeyEntry> {
        let mut keys = BTreeMap::new();
        for record in &self.records {
            match &record.change {
                KeyChange::Put(entry) => drop(keys.insert(entry.hash, entry.clone())),
                KeyChange::Del { hash } => drop(keys.remove(hash)),
            }
        }
        keys
    }

    fn keep(&mut self, raw: &[u8]) -> BlobRef {
        let (announced, bytes) = pack(raw).unwrap();
        self.blobs.insert(announced.sha256.to_string(), bytes);
        announced
    }

    /// Makes base and filter of what is there now.
    fn make_base(&mut self) {
        let keys = self.keys();
        let lines: Vec<String> = keys
            .values()
            .map(|key| serde_json::to_string(key).unwrap() + "\n")
            .collect();
        let heads: Vec<u64> = keys.keys().map(KeyHash::head).collect();
        let seq = self.head();
        let base = self.keep(lines.concat().as_bytes());
        let filter = self.keep(&encode_filter(&heads));
        self.base = Some(KeysBlob { seq, blob: base });
        self.filter = Some(KeysBlob { seq, blob: filter });
        let put = |hash| {
            let puts = self
                .records
                .iter()
                .filter(|record| matches!(record.change, KeyChange::Put(_)));
            puts.map(|record| record.change.hash()).any(|other| other == hash)
        };
        let foreign = self
            .records
            .iter()
            .map(|record| &record.change)
            .filter(|change| !put(change.hash()));
        let lines: Vec<String> = foreign
            .map(|change| serde_json::to_string(change).unwrap() + "\n")
            .collect();
        if !lines.is_empty() {
            let blob = self.keep(lines.concat().as_bytes());
            self.revoked = Some(KeysBlob { seq, blob });
        }
    }

    fn manifest(&self) -> Signed {
        let nothing = BlobRef {
            sha256: ContentHash([0; 32]),
            size: 0,
            raw_size: 0,
        };
        let manifest = Manifest {
            environment: ENVIRONMENT.to_owned(),
            environment_type: EnvironmentType::Hybrid,
            seq: self.seq,
            schema: 1,
            requires: Vec::new(),
            published_at_ms: 1,
            root: ContentHash([0; 32]),
            snapshot: nothing,
            routes: 0,
            keys: KeysHead {
                epoch: self.epoch,
                count: self.count.unwrap_or(self.keys().len() as u64),
                base: self.base,
                filter: self.filter,
                revoked: self.revoked,
            },
            spread_ms: 0,
            wait_s: 30,
        };
        Signed::new(Topic::Manifest, serde_json::to_string(&manifest).unwrap(), &self.signer)
    }
}

async fn manifest(Shared((plane, _)): Site) -> Response {
    let plane = plane.lock().unwrap();
    if plane.is_away {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    Json(plane.manifest()).into_response()
}

async fn log(Query(poll): Query<Poll>, Shared((plane, news)): Site) -> Response {
    let until = tokio::time::Instant::now() + Duration::from_secs(poll.wait);
    plane.lock().unwrap().polls += 1;
    loop {
        let woken = news.notified();
        {
            let plane = plane.lock().unwrap();
            if plane.is_away {
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
            if poll.after < plane.trimmed {
                return StatusCode::GONE.into_response();
            }
            if poll.after != plane.head() {
                let from = (poll.after - plane.trimmed) as usize;
                let mut page = KeyPage {
                    environment: ENVIRONMENT.to_owned(),
                    epoch: plane.epoch,
                    after: poll.after,
                    head: plane.head(),
                    records: plane.records.iter().skip(from).take(1000).cloned().collect(),
                };
                if let Some(spoil) = plane.spoil {
                    spoil(&mut page);
                }
                let stranger = SigningKey::generate().unwrap().0;
                let signer = if plane.forged { &stranger } else { &plane.signer };
                let text = serde_json::to_string(&page).unwrap();
                return Json(Signed::new(Topic::Keys, text, signer)).into_response();
            }
        }
        if tokio::time::timeout_at(until, woken).await.is_err() {
            return StatusCode::NOT_MODIFIED.into_response();
        }
    }
}

async fn blob(Segments(name): Segments<String>, Shared((plane, _)): Site) -> Response {
    let blob = plane.lock().unwrap().blobs.get(&name).cloned();
    blob.map_or(StatusCode::NOT_FOUND.into_response(), |bytes| bytes.into_response())
}

async fn resolve(Shared((plane, _)): Site, body: Bytes) -> Response {
    let mut plane = plane.lock().unwrap();
    if plane.is_away {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let asked: Resolve = serde_json::from_slice(&body).unwrap();
    plane.resolves.push(asked.h.len());
    let keys = plane.keys();
    let keys = asked.h.iter().filter_map(|hash| keys.get(hash).cloned()).collect();
    let answer = ResolvedFor {
        nonce: asked.nonce,
        answer: Resolved {
            seq: plane.head(),
            keys,
        },
    };
    let text = serde_json::to_string(&answer).unwrap();
    let stranger = SigningKey::generate().unwrap().0;
    let signer = if plane.forged { &stranger } else { &plane.signer };
    Json(Signed::new(Topic::Resolved, text, signer)).into_response()
}

impl House {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let signer = SigningKey::generate().unwrap().0;
        let public = signer.public();
        let plane = Arc::new(Mutex::new(Plane {
            signer,
            epoch: 7,
            seq: 1,
            trimmed: 0,
            records: Vec::new(),
            base: None,
            filter: None,
            revoked: None,
            count: None,
            blobs: BTreeMap::new(),
            spoil: None,
            forged: false,
            is_away: false,
            resolves: Vec::new(),
            polls: 0,
        }));
        let news = Arc::new(Notify::new());
        let router = Router::new()
            .route("/v1/environments/prod/revision", get(manifest))
            .route("/v1/environments/prod/keys/log", get(log))
            .route("/v1/blobs/{sha256}", get(blob))
            .route("/v1/keys:resolve", post(resolve))
            .with_state((Arc::clone(&plane), Arc::clone(&news)));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            plane,
            news,
            runtime,
            address,
            public,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Changes something at the control plane, and wakes who waits for it.
    fn change(&self, change: impl FnOnce(&mut Plane)) {
        change(&mut self.plane.lock().unwrap());
        self.news.notify_waiters();
    }

    fn put(&self, text: &str) {
        self.change(|plane| plane.write(KeyChange::Put(entry(text))));
    }

    fn revoke(&self, text: &str) {
        self.change(|plane| plane.write(KeyChange::Del { hash: hash(text) }));
    }

    fn gateway(&self, mode: KeysMode) -> Gateway {
        self.gateway_of(format!("http://{}", self.address), mode)
    }

    fn gateway_of(&self, url: String, mode: KeysMode) -> Gateway {
        let open = |path: &Path| StateDir::open(path, Duration::from_secs(10));
        self.gateway_with(url, mode, open)
    }

    /// The process that comes after this one.
    fn successor(&self, before: &Gateway) -> Gateway {
        let lock = before.state.try_clone_lock().unwrap();
        let url = format!("http://{}", self.address);
        self.gateway_with(url, KeysMode::Auto, |path| StateDir::inherit(path, lock))
    }

    fn gateway_with(
        &self,
        url: String,
        mode: KeysMode,
        open: impl FnOnce(&Path) -> Result<StateDir, String>,
    ) -> Gateway {
        let settings = ControlPlane {
            urls: vec![url],
            token: None,
            state_dir: self.directory.path().to_owned(),
            ca: None,
            public_keys: vec![self.public],
            on_pool_full: OnPoolFull::Exit,
            offline_grace: Duration::from_secs(1),
            allow_offline_join: true,
            max_bytes: 1 << 20,
            max_routes: 1000,
            keys: mode,
        };
        let state = Arc::new(open(&settings.state_dir).unwrap());
        let manifests = watch::Sender::new(None);
        let metrics = Metrics::new().unwrap();
        let parts = Parts {
            client: Client::new(&settings).unwrap(),
            trust: Arc::new(Trust::open(&settings.public_keys, Arc::clone(&state)).unwrap()),
            store: Arc::new(KeyStore::new()),
            environment: ENVIRONMENT.to_owned(),
            mode,
            manifests: manifests.subscribe(),
            newest_seen: 1,
            metrics: metrics.keys(),
        };
        let store = Arc::clone(&parts.store);
        let follower = Arc::new(KeyFollower::open(parts, Arc::clone(&state)).unwrap());
        Gateway {
            store,
            follower,
            state,
            manifests,
            metrics,
            task: None,
        }
    }

    /// A gateway that has read the log to its end.
    fn running(&self, mode: KeysMode) -> Gateway {
        let mut gateway = self.gateway(mode);
        gateway.start(self);
        until("the log is read", || {
            gateway.store.is_ready() && gateway.store.seq() >= self.plane.lock().unwrap().head()
        });
        gateway
    }
}

struct Gateway {
    store: Arc<KeyStore>,
    follower: Arc<KeyFollower>,
    state: Arc<StateDir>,
    manifests: watch::Sender<Option<Manifest>>,
    metrics: Metrics,
    task: Option<JoinHandle<()>>,
}

impl Gateway {
    fn start(&mut self, house: &House) {
        self.task = Some(house.runtime.spawn(Arc::clone(&self.follower).run()));
    }

    fn find(&self, text: &str) -> Found<String> {
        self.store
            .find(&hash(text), unix_ms(), |key| key.id.as_str().to_owned())
    }

    fn lets_in(&self, text: &str) -> bool {
        self.find(text) == Found::Key(format!("id-{text}"))
    }

    /// Ends as a process does that is asked to; what is on disk is what the next one finds.
    fn end(mut self, house: &House) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = house.runtime.block_on(task);
        }
        self.follower.save();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

#[test]
fn keys_come_by_the_log_and_go_by_it() {
    let house = House::new();
    house.put("a");
    house.put("b");
    let gateway = house.running(KeysMode::Auto);
    assert!(gateway.lets_in("a") && gateway.lets_in("b"));
    assert_eq!(gateway.find("c"), Found::Unknown);
    house.put("c");
    until("a new key lets in", || gateway.lets_in("c"));
    house.revoke("a");
    until("a revoked key does not", || gateway.find("a") == Found::Revoked);
    // Keys act first, then it is told how far the log was read.
    until("the heartbeat is told", || *gateway.follower.told().borrow() == 4);
    let status = gateway.follower.status();
    assert_eq!(
        (status.mode, status.keys, status.seq, status.stale),
        ("push", 2, 4, false)
    );
    until("it is shown", || {
        let text = String::from_utf8(gateway.metrics.render(unix_ms()).unwrap()).unwrap();
        text.contains("tollgate_keys{mode=\"push\"} 2")
            && text.contains("tollgate_key_log_seq 4")
            && text.contains("tollgate_key_revocation_seconds_count 1")
            && text.contains("tollgate_key_log_lag_seconds 0")
    });
}

#[test]
fn a_base_saves_reading_the_log_from_its_beginning() {
    let house = House::new();
    for number in 0..2500 {
        house.put(&format!("k{number}"));
    }
    house.change(Plane::make_base);
    // More than two pages after it.
    for number in 2500..5000 {
        house.put(&format!("k{number}"));
    }
    house.revoke("k7");
    let gateway = house.running(KeysMode::Auto);
    assert!(
        (0..5000)
            .filter(|number| *number != 7)
            .all(|number| gateway.lets_in(&format!("k{number}")))
    );
    assert_eq!(gateway.find("k7"), Found::Revoked);
    let polls = house.plane.lock().unwrap().polls;
    assert!(polls <= 5, "{polls} polls");
}

#[test]
fn a_gateway_that_starts_without_a_control_plane_knows_what_it_knew() {
    let house = House::new();
    house.put("a");
    house.change(Plane::make_base);
    house.put("b");
    house.revoke("a");
    house.running(KeysMode::Auto).end(&house);
    house.change(|plane| plane.is_away = true);

    let mut again = house.gateway(KeysMode::Auto);
    assert!(again.lets_in("b"), "before anybody is asked");
    assert_eq!(again.find("a"), Found::Revoked);
    assert_eq!(again.follower.seq(), 3);
    again.start(&house);
    until("it says what is wrong", || again.follower.status().last_error.is_some());
    assert!(again.lets_in("b"));
    house.change(|plane| {
        plane.is_away = false;
        plane.write(KeyChange::Del { hash: hash("b") });
    });
    until("it goes on where it was", || again.find("b") == Found::Revoked);
    // Keys are applied first, then it is told that they were.
    until("nothing is wrong any more", || {
        again.follower.status().last_error.is_none()
    });
}

#[test]
fn damaged_keys_on_disk_are_fetched_again() {
    let house = House::new();
    house.put("a");
    house.running(KeysMode::Auto).end(&house);
    let base = house.directory.path().join("keys/base");
    let mut bytes = std::fs::read(&base).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&base, bytes).unwrap();
    let mut again = house.gateway(KeysMode::Auto);
    assert_eq!(again.find("a"), Found::Unresolved, "nothing is taken from it");
    again.start(&house);
    until("it is fetched", || again.lets_in("a"));
}

#[test]
fn pages_that_are_forged_mixed_up_or_of_somebody_else_are_not_applied() {
    let house = House::new();
    house.put("a");
    let gateway = house.running(KeysMode::Auto);
    let says = |what: &str| {
        until(what, || {
            gateway
                .follower
                .status()
                .last_error
                .is_some_and(|error| error.contains(what))
        });
        assert!(gateway.lets_in("a"));
        assert_eq!(gateway.store.seq(), 1);
    };
    house.change(|plane| plane.forged = true);
    house.revoke("a");
    says("this gateway does not trust");
    let spoil = |how: fn(&mut KeyPage)| {
        house.change(|plane| {
            plane.forged = false;
            plane.spoil = Some(how);
        });
    };
    spoil(|page| page.environment = "test".to_owned());
    says("another environment");
    spoil(|page| page.records.clear());
    until("an empty page is no news", || {
        gateway.follower.status().last_error.is_none()
    });
    spoil(|page| page.records[0].seq += 1);
    says("has a gap");
    spoil(|page| page.after = 0);
    says("does not begin where the last one ended");
    house.change(|plane| plane.spoil = None);
    until("the true page is", || gateway.find("a") == Found::Revoked);
}

#[test]
fn a_log_that_has_forgotten_too_much_and_a_new_one_lead_back_to_the_base() {
    let house = House::new();
    house.put("a");
    house.put("b");
    house.running(KeysMode::Auto).end(&house);
    // While it is away, much happens: "a" is revoked in a part of the log that is gone.
    house.change(|plane| {
        plane.write(KeyChange::Del { hash: hash("a") });
        plane.write(KeyChange::Put(entry("c")));
        plane.make_base();
        plane.write(KeyChange::Put(entry("d")));
        plane.records.drain(..4);
        plane.trimmed = 4;
    });
    let mut gateway = house.gateway(KeysMode::Auto);
    gateway.start(&house);
    until("it has caught up", || gateway.lets_in("d"));
    assert!(gateway.lets_in("b") && gateway.lets_in("c"));
    assert_eq!(gateway.find("a"), Found::Unknown);

    house.change(|plane| {
        plane.epoch = 8;
        plane.trimmed = 0;
        plane.records.clear();
        plane.write(KeyChange::Put(entry("e")));
        plane.make_base();
        plane.write(KeyChange::Put(entry("f")));
        // Longer than the one before, so that nothing but the epoch tells them apart.
        (0..10).for_each(|number| plane.write(KeyChange::Put(entry(&format!("g{number}")))));
    });
    until("it follows the new log", || {
        gateway.lets_in("e") && gateway.lets_in("g9")
    });
    assert_eq!((gateway.find("b"), gateway.store.epoch()), (Found::Unknown, 8));
}

#[test]
fn a_log_that_was_restored_from_an_older_copy_is_read_anew() {
    let house = House::new();
    house.put("a");
    house.change(Plane::make_base);
    ["b", "c", "d"].iter().for_each(|text| house.put(text));
    let gateway = house.running(KeysMode::Auto);
    // Made before "c", and since then something else has happened.
    house.change(|plane| {
        plane.records.truncate(2);
        plane.write(KeyChange::Put(entry("e")));
    });
    until("it follows what is there now", || gateway.lets_in("e"));
    assert!(gateway.lets_in("a") && gateway.lets_in("b"));
    assert_eq!((gateway.find("c"), gateway.find("d")), (Found::Unknown, Found::Unknown));
    assert_eq!(gateway.store.seq(), 3);
    gateway.end(&house);
    let again = house.gateway(KeysMode::Auto);
    assert!(again.lets_in("e"), "on disk too");
    assert_eq!((again.find("c"), again.store.seq()), (Found::Unknown, 3));
}

#[test]
fn keys_do_not_begin_where_a_manifest_from_before_says() {
    let house = House::new();
    house.put("a");
    house.change(Plane::make_base);
    house.change(|plane| plane.seq = 5);
    let old = serde_json::from_str::<Manifest>(&house.plane.lock().unwrap().manifest().signed).unwrap();
    house.change(|plane| plane.seq = 4);
    let mut gateway = house.gateway(KeysMode::Auto);
    gateway.manifests.send_replace(Some(old));
    gateway.start(&house);
    until("it says why", || {
        let error = gateway.follower.status().last_error;
        error.is_some_and(|error| error.contains("older than revision 5"))
    });
    assert!(!gateway.store.is_ready());
    house.change(|plane| plane.seq = 6);
    until("it begins", || gateway.lets_in("a"));
}

#[test]
fn a_revocation_is_on_disk_soon_also_if_nothing_follows_it() {
    let house = House::new();
    house.put("a");
    let gateway = house.running(KeysMode::Auto);
    let place = house.directory.path().join("keys");
    let on_disk = || {
        let (base, log) = (
            std::fs::read(place.join("base")).ok()?,
            std::fs::read(place.join("log")).ok()?,
        );
        let store = KeyStore::new();
        store.restore(ENVIRONMENT, &base, Some(&log)).ok()?;
        Some(store.find(&hash("a"), unix_ms(), |_| ()))
    };
    until("the key is there", || on_disk() == Some(Found::Key(())));
    house.revoke("a");
    until("it is revoked there", || on_disk() == Some(Found::Revoked));
    drop(gateway);
}

#[test]
fn with_a_filter_strangers_are_told_here_and_others_are_asked_for_together() {
    let house = House::new();
    for number in 0..500 {
        house.put(&format!("k{number}"));
    }
    house.revoke("of-a-document");
    house.change(Plane::make_base);
    let gateway = house.running(KeysMode::Filter);
    assert_eq!(gateway.follower.status().mode, "filter");
    assert_eq!(
        gateway.find("of-a-document"),
        Found::Revoked,
        "a filter could not say so"
    );
    let strangers = (0..2000).filter(|number| gateway.find(&format!("stranger{number}")) == Found::Unknown);
    assert!(strangers.count() > 1900);

    let waiting: Vec<_> = (0..400)
        .map(|number| {
            let store = Arc::clone(&gateway.store);
            let hash = hash(&format!("k{}", number % 200));
            house.runtime.spawn(async move { store.resolve(hash, unix_ms()).await })
        })
        .collect();
    for (number, answer) in waiting.into_iter().enumerate() {
        let answer = house.runtime.block_on(answer).unwrap();
        // Who comes after the answer to another one finds it in the store, which goes before what is answered here.
        assert!(
            matches!(answer, crate::auth::key_store::Answer::Known { .. })
                || gateway.lets_in(&format!("k{}", number % 200)),
            "{answer:?}"
        );
    }
    let resolves = house.plane.lock().unwrap().resolves.clone();
    assert_eq!(resolves.iter().sum::<usize>(), 200, "each once");
    assert!(resolves.len() < 100, "{} questions", resolves.len());
    assert!(gateway.lets_in("k3"));

    house.revoke("k3");
    until("it is revoked", || gateway.find("k3") == Found::Revoked);
    house.put("new");
    until("what is newer than the filter is kept", || gateway.lets_in("new"));

    house.change(|plane| plane.forged = true);
    let answer = house.runtime.block_on(gateway.store.resolve(hash("k300"), unix_ms()));
    assert_eq!(
        answer,
        crate::auth::key_store::Answer::Unavailable,
        "nobody else lets keys in"
    );
    house.change(|plane| {
        plane.forged = false;
        plane.is_away = true;
    });
    let answer = house.runtime.block_on(gateway.store.resolve(hash("k400"), unix_ms()));
    assert_eq!(answer, crate::auth::key_store::Answer::Unavailable);
    assert!(gateway.lets_in("k5"), "what was asked for serves on");
}

#[test]
fn more_keys_than_a_gateway_keeps_are_kept_as_a_filter_and_fewer_whole_again() {
    let house = House::new();
    house.put("a");
    house.put("b");
    let gateway = house.running(KeysMode::Auto);
    let publish = |count| {
        house.change(|plane| {
            plane.make_base();
            plane.count = Some(count);
        });
        let signed = house.plane.lock().unwrap().manifest();
        gateway
            .manifests
            .send_replace(Some(serde_json::from_str(&signed.signed).unwrap()));
        // The poll that is under way does not look.
        house.put(&format!("wake-{count}"));
    };
    house.revoke("b");
    publish(3_000_000);
    until("it has a filter", || gateway.store.has_filter());
    assert_eq!(gateway.find("b"), Found::Revoked);
    assert_ne!(gateway.find("a"), Found::Unknown);
    publish(10);
    until("it has everything", || !gateway.store.has_filter());
    assert!(gateway.lets_in("a"));
    assert_eq!(gateway.find("b"), Found::Revoked);
}

#[test]
fn a_directory_without_a_log_gives_the_keys_of_its_base() {
    let house = House::new();
    house.put("a");
    house.change(Plane::make_base);
    let directory = tempfile::tempdir().unwrap();
    let environment = directory.path().join("v1/environments/prod");
    let blobs = directory.path().join("v1/blobs");
    std::fs::create_dir_all(&environment).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    {
        let plane = house.plane.lock().unwrap();
        std::fs::write(
            environment.join("revision"),
            serde_json::to_vec(&plane.manifest()).unwrap(),
        )
        .unwrap();
        for (name, bytes) in &plane.blobs {
            std::fs::write(blobs.join(name), bytes).unwrap();
        }
    }
    let mut gateway = house.gateway_of(format!("file://{}", directory.path().display()), KeysMode::Auto);
    gateway.start(&house);
    until("it is read", || gateway.lets_in("a"));
    assert_eq!(gateway.find("b"), Found::Unknown);
}

#[test]
fn a_minute_without_an_answer_is_told_once_and_shown_until_there_is_one() {
    let house = House::new();
    house.put("a");
    let gateway = house.running(KeysMode::Auto);
    house.change(|plane| plane.is_away = true);
    until("it has noticed", || gateway.follower.status().last_error.is_some());
    assert!(!gateway.follower.status().stale);
    gateway.follower.contact().since -= Duration::from_secs(61);
    until("it is told", || gateway.follower.contact().told);
    let status = gateway.follower.status();
    assert!(status.stale && status.age_seconds >= Some(61) && gateway.lets_in("a"));
    house.change(|plane| plane.is_away = false);
    until("it is over", || !gateway.follower.status().stale);
    assert!(!gateway.follower.contact().told);
}

#[test]
fn the_process_that_comes_after_knows_the_keys_before_it_asks_and_what_was_revoked_until_it_takes_over() {
    let house = House::new();
    house.put("a");
    house.put("b");
    let old = house.running(KeysMode::Auto);
    old.follower.save();
    let log = house.directory.path().join("keys/log");
    let before = std::fs::read(&log).unwrap();

    // It only reads, whatever it is told.
    let new = house.successor(&old);
    assert!(new.lets_in("a") && new.lets_in("b"));
    new.follower.save();
    assert_eq!(std::fs::read(&log).unwrap(), before);

    house.revoke("a");
    until("the old one knows", || old.find("a") == Found::Revoked);
    old.follower.save();
    assert!(old.state.give_up(Duration::from_secs(30)));
    new.state.take();
    assert!(new.lets_in("a"), "as it was when it was read");
    new.follower.take_over();
    assert_eq!(new.find("a"), Found::Revoked);
    assert!(new.lets_in("b"));

    // The old one follows on for who is still with it, and leaves the disk alone.
    house.revoke("b");
    until("the old one knows", || old.find("b") == Found::Revoked);
    let written = std::fs::read(&log).unwrap();
    old.follower.save();
    assert_eq!(std::fs::read(&log).unwrap(), written);
    let mut new = new;
    new.start(&house);
    until("the new one goes on where it was", || new.find("b") == Found::Revoked);
    new.follower.save();
    assert_ne!(std::fs::read(&log).unwrap(), written);
}

#[test]
fn who_reads_never_finds_a_base_without_the_log_that_goes_with_it() {
    let house = House::new();
    house.put("a");
    let old = house.running(KeysMode::Auto);
    old.follower.save();
    let lock = File::open(house.directory.path().join("keys/lock")).unwrap();
    // As if it was writing: one file is replaced, and the other one not yet.
    lock.lock().unwrap();
    let log = house.directory.path().join("keys/log");
    let text = std::fs::read(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| house.successor(&old).lets_in("a"));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!reading.is_finished(), "it waits");
        std::fs::write(&log, &text).unwrap();
        lock.unlock().unwrap();
        assert!(reading.join().unwrap());
    });
}
