//! Where the control plane keeps what it knows: one trait, and two real implementations of it.
//!
//! The store knows nothing of APIs and plans. It keeps named objects with versions, published revisions, blobs, the key
//! log and seats, and it makes a set of changes happen as one, or not at all. What may be changed how is decided above.

mod open;
mod postgres;
mod sql;
mod sqlite;
#[cfg(test)]
pub(in crate::control_plane) mod tests;

use async_trait::async_trait;
use std::fmt;

pub use open::{Location, open};
#[cfg(test)]
pub(in crate::control_plane) use sql::INVALIDATIONS_KEPT;

use crate::distribution::{CacheRecord, ContentHash, KeyEntry, KeyHash, KeyRecord};
use crate::revision::KeyType;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// An environment; named by itself.
    Environment,
    /// What an environment is composed of: the document that was published to it, and which APIs are deployed to it.
    /// Named by the environment.
    Source,
    /// An API; named by itself.
    Api,
    /// An immutable revision of an API; named `api@number`.
    ApiRevision,
    /// A plan.
    Plan,
    /// An application with its subscriptions.
    Application,
    /// A pool of gateways.
    Pool,
    /// An administrator's or gateway's token; named by its public id.
    Token,
}

/// An object as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// Unique among objects of its kind.
    pub name: String,
    /// 1 when it is created; one more with each change. Never used again for the same name after a removal: it goes on
    /// from a number that all objects share.
    pub version: u64,
    /// JSON.
    pub value: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds.
    pub updated_ms: u64,
}

/// A change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectChange {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// What has to be there before.
    pub expected: Expected,
    /// What is there afterwards; none removes it.
    pub value: Option<String>,
}

/// What has to be there for a change to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// This version.
    Version(u64),
    /// Any version, but it has to be there.
    Present,
    /// Whatever.
    Anything,
}

/// A revision to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRevision {
    /// Where.
    pub environment: String,
    /// The newest revision there, on which this one builds; 0 if there is none. Any other makes it a conflict.
    pub after: u64,
    /// Root of its content.
    pub root: ContentHash,
    /// The blob of its snapshot, which has to be there or among the blobs of the same changes.
    pub snapshot: ContentHash,
    /// Size of the snapshot, unpacked.
    pub snapshot_raw_size: u64,
    /// Routes in it.
    pub routes: u64,
    /// What it is composed of, as JSON: for a rollback.
    pub source: String,
    /// Who published it.
    pub author: String,
    /// Why.
    pub note: String,
    /// The revision whose content it repeats, for a rollback.
    pub rollback_of: Option<u64>,
}

/// A published revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedRevision {
    /// Where.
    pub environment: String,
    /// Its number: one more than the one before.
    pub seq: u64,
    /// Root of its content.
    pub root: ContentHash,
    /// The blob of its snapshot.
    pub snapshot: ContentHash,
    /// Size of the blob.
    pub snapshot_size: u64,
    /// Size of the snapshot, unpacked.
    pub snapshot_raw_size: u64,
    /// Routes in it.
    pub routes: u64,
    /// What it is composed of, as JSON.
    pub source: String,
    /// Who published it.
    pub author: String,
    /// Why.
    pub note: String,
    /// The revision whose content it repeats.
    pub rollback_of: Option<u64>,
    /// Unix milliseconds.
    pub published_ms: u64,
}

/// Everything that happens as one, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// [`Store::generation`] as it was when the changes were thought up; another one makes them a conflict. None: they
    /// do not depend on what else is stored.
    pub generation: Option<u64>,
    /// Changes of objects. Any of a kind other than source, pool and token makes a new generation.
    pub objects: Vec<ObjectChange>,
    /// Blobs; those that are there already are left alone.
    pub blobs: Vec<(ContentHash, Vec<u8>)>,
    /// Revisions; at most one per environment.
    pub revisions: Vec<NewRevision>,
}

/// What came of changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The objects that were written, in the order of the changes; removed ones are left out.
    pub objects: Vec<Object>,
    /// The revisions, in the order of the changes.
    pub revisions: Vec<PublishedRevision>,
}

/// A key, as it is stored: with what gateways need not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// What gateways know.
    pub entry: KeyEntry,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds from which on it is not let in any more; none while it is.
    pub revoked_ms: Option<u64>,
}

/// A key to be stored or revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyWrite {
    /// A new key. A conflict if its hash or id was ever used.
    Create(KeyEntry),
    /// Revokes the key with this id; not found if there is none, no record if it is revoked already.
    RevokeId(String),
    /// Revokes the key with this hash, whether it is stored or not: it may stand in a published document.
    RevokeHash(KeyHash),
    /// Revokes all keys of an application.
    RevokeApplication(String),
}

/// Where the key log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyHead {
    /// Which log: a random number, drawn when the store was made.
    pub epoch: u64,
    /// The last record; 0 if there is none.
    pub seq: u64,
    /// The oldest record that is still there is the one after this.
    pub trimmed: u64,
    /// How many keys let in, about.
    pub live: u64,
}

/// Which keys are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyQuery {
    /// Of this application only.
    pub application: Option<String>,
    /// Of this type only.
    pub key_type: Option<KeyType>,
    /// Beginning after this id.
    pub after: Option<String>,
    /// How many at most.
    pub limit: usize,
}

/// A seat in a pool, and what its gateway has said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Which gateway.
    pub id: String,
    /// Which pool.
    pub pool: String,
    /// [`Register`](crate::distribution::protocol::Register) as JSON.
    pub registration: String,
    /// [`Heartbeat`](crate::distribution::protocol::Heartbeat) as JSON; empty before the first one.
    pub heartbeat: String,
    /// Unix milliseconds of the registration.
    pub since_ms: u64,
    /// Unix milliseconds of the last sign of life.
    pub seen_ms: u64,
    /// Whether an operator wants it to leave.
    pub drain: bool,
    /// Unix milliseconds at which it gave up its seat; 0 while it has it.
    pub left_ms: u64,
}

impl Instance {
    /// Whether it is there: seen since this moment (Unix milliseconds), and not stopped since.
    #[must_use]
    pub fn is_alive(&self, since_ms: u64) -> bool {
        self.left_ms == 0 && self.seen_ms >= since_ms
    }
}

/// A seat that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatRequest {
    /// Which gateway.
    pub id: String,
    /// Which pool.
    pub pool: String,
    /// [`Register`](crate::distribution::protocol::Register) as JSON.
    pub registration: String,
    /// The instance whose seat it takes.
    pub replaces: Option<String>,
    /// How many may be alive; none is no limit.
    pub max: Option<u32>,
    /// Instances seen before this (Unix milliseconds) are not alive.
    pub alive_since_ms: u64,
    /// Instances seen before this have lost their claim to come back into a full pool.
    pub known_since_ms: u64,
    /// Instances that gave up their seats before this have lost them; those that did so later find them again, and nobody
    /// else sits down there.
    pub held_since_ms: u64,
    /// Whether it has proved that it had a seat which this store has forgotten.
    pub has_proof: bool,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// Whether there was a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeatAnswer {
    /// There was: so many are alive now.
    Seated {
        /// Instances alive, the new one included.
        live: u32,
    },
    /// There was none.
    Full {
        /// Instances alive.
        live: u32,
        /// When the first of them can be gone at the earliest, Unix milliseconds of its last sign of life.
        oldest_seen_ms: u64,
    },
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignOfLife {
    /// Which gateway.
    pub id: String,
    /// [`Heartbeat`](crate::distribution::protocol::Heartbeat) as JSON.
    pub heartbeat: String,
    /// Unix milliseconds.
    pub seen_ms: u64,
}

/// Something that changed, maybe through another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// The revisions of an environment.
    Revision(String),
    /// The key log.
    Keys,
    /// The log of what gateways are to forget.
    Invalidations,
    /// Anything may have changed: the connection to the database was lost for a while.
    Unknown,
}

/// Why a store did not do what was asked.
#[derive(Debug)]
pub enum StoreError {
    /// Somebody else was first, or something is there that should not be; says what.
    Conflict(String),
    /// It is not there; says what.
    NotFound(String),
    /// The database does not work; for the operator's log.
    Failed(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(what) | Self::NotFound(what) => f.write_str(what),
            Self::Failed(why) => write!(f, "the store failed: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// What a store answers.
pub type StoreResult<T> = Result<T, StoreError>;

/// What the control plane knows, kept over restarts. Every method is one transaction.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// A number that grows with every change of what revisions are composed of.
    async fn generation(&self) -> StoreResult<u64>;

    /// One object.
    async fn object(&self, kind: ObjectKind, name: &str) -> StoreResult<Option<Object>>;

    /// Objects of a kind in the order of their names (by bytes), beginning after a name.
    async fn objects(&self, kind: ObjectKind, after: Option<&str>, limit: usize) -> StoreResult<Vec<Object>>;

    /// Makes all these changes, or none. Takes a lock per environment that gets a revision, in the order of names.
    async fn commit(&self, changes: &Changes, now_ms: u64) -> StoreResult<Committed>;

    /// The newest revision of each environment that has one.
    async fn heads(&self) -> StoreResult<Vec<PublishedRevision>>;

    /// The same, as numbers only: asked every two seconds, when what revisions are composed of may be megabytes.
    async fn head_seqs(&self) -> StoreResult<Vec<(String, u64)>> {
        let heads = self.heads().await?;
        Ok(heads.into_iter().map(|head| (head.environment, head.seq)).collect())
    }

    /// The newest revision of an environment.
    async fn head(&self, environment: &str) -> StoreResult<Option<PublishedRevision>>;

    /// One revision.
    async fn revision(&self, environment: &str, seq: u64) -> StoreResult<Option<PublishedRevision>>;

    /// The revisions of an environment, the newest first, beginning before a number.
    async fn revisions(
        &self,
        environment: &str,
        before: Option<u64>,
        limit: usize,
    ) -> StoreResult<Vec<PublishedRevision>>;

    /// The bytes of a blob.
    async fn blob(&self, hash: &ContentHash) -> StoreResult<Option<Vec<u8>>>;

    /// Stores a blob; one that is there already is left alone.
    async fn put_blob(&self, hash: &ContentHash, bytes: &[u8]) -> StoreResult<()>;

    /// Removes revisions of an environment that were published before `before_ms` (Unix milliseconds), but not the newest
    /// `keep` (and never the very newest); and blobs that nothing refers to any more: no revision, and no setting, whose
    /// text names the blobs that are in use by their 64 hex digits.
    async fn prune(&self, environment: &str, keep: usize, before_ms: u64) -> StoreResult<()>;

    /// Writes keys and the records of it, in one go; gives the end of the log.
    async fn write_keys(&self, writes: &[KeyWrite], now_ms: u64) -> StoreResult<u64>;

    /// The key with this hash.
    async fn key_by_hash(&self, hash: &KeyHash) -> StoreResult<Option<StoredKey>>;

    /// When the key with this hash was revoked, stored or not, in Unix milliseconds; none if it was not.
    async fn key_revoked(&self, hash: &KeyHash) -> StoreResult<Option<u64>>;

    /// The key with this id.
    async fn key_by_id(&self, id: &str) -> StoreResult<Option<StoredKey>>;

    /// Keys in the order of their ids.
    async fn keys(&self, query: &KeyQuery) -> StoreResult<Vec<StoredKey>>;

    /// Those of these keys that let in (expired ones included: gateways know the time), and the end of the log at the
    /// same moment.
    async fn resolve_keys(&self, hashes: &[KeyHash]) -> StoreResult<(u64, Vec<KeyEntry>)>;

    /// Keys that let in, in the order of their hashes, beginning after one: for a base.
    async fn live_keys(&self, after: Option<&KeyHash>, limit: usize) -> StoreResult<Vec<KeyEntry>>;

    /// Hashes that were revoked without ever having been stored as keys (they may stand in published documents), in their
    /// order, beginning after one, and ending with another: for a base.
    async fn revoked_unknown(
        &self,
        after: Option<&KeyHash>,
        upto: Option<&KeyHash>,
        limit: usize,
    ) -> StoreResult<Vec<KeyHash>>;

    /// Where the log stands.
    async fn key_head(&self) -> StoreResult<KeyHead>;

    /// Records after a number, without gaps. Not found if some of them were trimmed: start over from
    /// [`live_keys`](Self::live_keys).
    async fn key_log(&self, after: u64, limit: usize) -> StoreResult<Vec<KeyRecord>>;

    /// Forgets the records up to a number.
    async fn trim_key_log(&self, upto: u64) -> StoreResult<()>;

    /// Writes down what the gateways of an environment are to forget of kept answers, as JSON, and who said it; gives its
    /// number.
    async fn write_invalidation(&self, environment: &str, author: &str, what: &str, now_ms: u64) -> StoreResult<u64>;

    /// The number of the last of these records in all environments; 0 if there was none.
    async fn invalidation_head(&self) -> StoreResult<u64>;

    /// Those of an environment after a number, the oldest first. Not found if some after it are not kept any more.
    async fn invalidations(&self, environment: &str, after: u64, limit: usize) -> StoreResult<Vec<CacheRecord>>;

    /// Those of an environment, the newest first.
    async fn newest_invalidations(&self, environment: &str, limit: usize) -> StoreResult<Vec<CacheRecord>>;

    /// Gives a seat, or says that there is none. An instance that is alive, or known since `known_since_ms`, or has proof,
    /// gets its seat back whatever the limit. Those in the pool that have lost every claim are forgotten.
    async fn take_seat(&self, request: &SeatRequest) -> StoreResult<SeatAnswer>;

    /// Writes signs of life, all at once; those of unknown instances are left out.
    async fn signs_of_life(&self, signs: &[SignOfLife]) -> StoreResult<()>;

    /// One instance.
    async fn instance(&self, id: &str) -> StoreResult<Option<Instance>>;

    /// All instances in the order of pools and ids, of one pool or of all.
    async fn instances(&self, pool: Option<&str>) -> StoreResult<Vec<Instance>>;

    /// Says whether an operator wants an instance to leave; false if there is no such instance.
    async fn set_drain(&self, id: &str, drain: bool) -> StoreResult<bool>;

    /// Notes that an instance was stopped, and gives up its seat; false if there is no such instance.
    async fn give_up_seat(&self, id: &str, now_ms: u64) -> StoreResult<bool>;

    /// Frees a seat; false if there is no such instance.
    async fn remove_instance(&self, id: &str) -> StoreResult<bool>;

    /// A small value of the control plane's own, such as its signing key: the one that is there, or else this one, which
    /// is stored.
    async fn setting(&self, name: &str, otherwise: &str) -> StoreResult<String>;

    /// Replaces such a value, or removes it.
    async fn set_setting(&self, name: &str, value: Option<&str>) -> StoreResult<()>;

    /// The next thing that changed through another node. A store that only one node can use waits for ever; the caller
    /// looks every two seconds all the same.
    async fn changed(&self) -> Wake;

    /// Whether the database answers.
    async fn ping(&self) -> StoreResult<()>;

    /// What kind of store it is, for people: `SQLite FILE`, `PostgreSQL host/database`; no password in it.
    fn name(&self) -> String;
}
