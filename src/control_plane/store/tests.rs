//! Stories that hold for every store, told of SQLite and of a real PostgreSQL; and what is true of one of them alone.

mod crash;
mod instances;
mod invalidations;
mod keys;
mod nodes;
mod objects;
#[path = "tests/postgres_server.rs"]
pub(in crate::control_plane) mod postgres_server;
mod revisions;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use postgres_server::PostgresServer;

/// How long a busy machine may take for what is expected.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database of a test's own.
struct Place {
    location: Location,
    store: Arc<dyn Store>,
    _directory: Option<tempfile::TempDir>,
}

impl Place {
    async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(directory.path().join("a b?%/store.db"));
        Self {
            store: open(&location).await.unwrap(),
            location,
            _directory: Some(directory),
        }
    }

    async fn postgres() -> Self {
        let url = tokio::task::spawn_blocking(|| PostgresServer::shared().database())
            .await
            .unwrap();
        let location = Location::Postgres(url.into());
        Self {
            store: open(&location).await.unwrap(),
            location,
            _directory: None,
        }
    }

    /// Another node on the same database; or the same one after a restart.
    async fn another(&self) -> Arc<dyn Store> {
        open(&self.location).await.unwrap()
    }
}

/// Makes two tests of each story.
macro_rules! told_of_both_stores {
    ($($story:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(super::Place::sqlite().await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() {
                super::$story(super::Place::postgres().await).await;
            })+
        }
    };
}
use told_of_both_stores;

fn put(kind: ObjectKind, name: &str, expected: Expected, value: &str) -> ObjectChange {
    ObjectChange {
        kind,
        name: name.to_owned(),
        expected,
        value: Some(value.to_owned()),
    }
}

fn remove(kind: ObjectKind, name: &str, expected: Expected) -> ObjectChange {
    ObjectChange {
        kind,
        name: name.to_owned(),
        expected,
        value: None,
    }
}

fn objects(objects: impl Into<Vec<ObjectChange>>) -> Changes {
    Changes {
        objects: objects.into(),
        ..Changes::default()
    }
}

/// A publish of these bytes.
fn publish(environment: &str, after: u64, bytes: &[u8]) -> Changes {
    let snapshot = ContentHash::of(bytes);
    Changes {
        blobs: vec![(snapshot, bytes.to_vec())],
        revisions: vec![revision(environment, after, snapshot)],
        ..Changes::default()
    }
}

fn revision(environment: &str, after: u64, snapshot: ContentHash) -> NewRevision {
    NewRevision {
        environment: environment.to_owned(),
        after,
        root: ContentHash::of(b"root"),
        snapshot,
        snapshot_raw_size: 1_000,
        routes: 3,
        source: "{}".to_owned(),
        author: "ada".to_owned(),
        note: "a \"note\"".to_owned(),
        rollback_of: None,
    }
}

fn key_entry(number: u32) -> KeyEntry {
    KeyEntry {
        hash: key_hash(number),
        id: format!("key-{number}"),
        application: format!("app-{}", number % 3),
        key_type: if number.is_multiple_of(2) {
            crate::revision::KeyType::Production
        } else {
            crate::revision::KeyType::Sandbox
        },
        expires_ms: number.is_multiple_of(4).then_some(1_900_000_000_000),
    }
}

fn key_hash(number: u32) -> KeyHash {
    // Scattered, so that the order of hashes is none of numbers.
    let digest = ContentHash::of(&number.to_be_bytes());
    KeyHash::of_digest(&digest.0)
}

fn create(number: u32) -> KeyWrite {
    KeyWrite::Create(key_entry(number))
}

/// What is said to whoever came too late.
#[track_caller]
fn conflict<T: fmt::Debug>(answer: StoreResult<T>) -> String {
    match answer {
        Err(StoreError::Conflict(what)) => what,
        other => panic!("no conflict: {other:?}"),
    }
}

/// What is said of what is not there.
#[track_caller]
fn not_found<T: fmt::Debug>(answer: StoreResult<T>) -> String {
    match answer {
        Err(StoreError::NotFound(what)) => what,
        other => panic!("found: {other:?}"),
    }
}
