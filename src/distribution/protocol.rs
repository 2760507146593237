//! What a gateway and a control plane tell each other beside revisions and keys: who is there, and how it is doing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{KeyEntry, KeyHash};

/// `POST /v1/pools/{pool}/instances`: a gateway asks for a seat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Register {
    /// Tells this installation from all others, also after a restart. Kept on the gateway's disk.
    pub instance_id: String,
    /// What its configuration calls it.
    pub name: String,
    /// The environment that it serves.
    pub environment: String,
    /// The labels of the APIs that it takes.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The version of the program.
    pub version: String,
    /// What it knows: compared with what revisions require.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Another instance, whose seat it takes over: for a replacement in a full pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// The [`Seat::token`] that it had before, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<String>,
}

/// A seat in a pool: 201. A full pool answers 409 with the code `pool_full` and `Retry-After`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Seat {
    /// Whose.
    pub instance_id: String,
    /// Where.
    pub pool: String,
    /// Proves the seat to a control plane that has forgotten it: the JSON of a [`Signed`](super::Signed).
    pub token: String,
    /// How long it lasts without a heartbeat, in seconds.
    pub ttl_s: u64,
    /// How many instances of the pool are alive, this one included.
    pub live: u32,
    /// How many there may be; none is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// `POST /v1/instances/{instance_id}/heartbeat`, every ten seconds or so, and at once after a revision was applied or
/// refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Heartbeat {
    /// The [`Seat::token`].
    pub seat: String,
    /// The revision that it serves.
    #[serde(default)]
    pub applied: Option<Applied>,
    /// The newest revision that it refused, unless a later one was applied.
    #[serde(default)]
    pub refused: Option<Nack>,
    /// How far it has read the key log.
    #[serde(default)]
    pub key_seq: u64,
    /// Seconds since it was started.
    #[serde(default)]
    pub uptime_s: u64,
    /// Requests per second since the last heartbeat.
    #[serde(default)]
    pub requests_per_second: f64,
    /// Share of them that ended with 5xx, 0.0 to 1.0.
    #[serde(default)]
    pub errors: f64,
    /// Their 99th percentile in milliseconds, as exactly as the buckets of the histogram are.
    #[serde(default)]
    pub p99_ms: f64,
    /// How its Redis is: `up`, `slow`, `down`; none without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<String>,
    /// Whether it is leaving.
    #[serde(default)]
    pub draining: bool,
}

/// A revision that a gateway serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Its number.
    pub seq: u64,
    /// The root of what is running, computed by the gateway and not repeated from the manifest. 64 hex digits.
    pub root: String,
}

/// A revision that a gateway refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nack {
    /// Its number; 0 if even that is not known.
    pub seq: u64,
    /// One word: `signature`, `unknown_signer`, `replayed`, `too_new`, `unsupported`, `oversized`, `hash`, `malformed`,
    /// `invalid`, `panicked`, `crash`, `environment`, `unavailable`.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
}

/// What a control plane answers to a heartbeat. 404 with the code `seat_unknown`: register again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatReply {
    /// How long the seat lasts from now on, in seconds.
    pub ttl_s: u64,
    /// The newest revision: a gateway that has an older one asks for it, also when its poll was cut.
    pub latest_seq: u64,
    /// The end of the key log.
    pub key_seq: u64,
    /// How many instances of the pool are alive.
    pub live: u32,
    /// How many there may be; none is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// What it should do.
    #[serde(default)]
    pub commands: Vec<Command>,
}

/// What an operator wants of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Leave gracefully.
    Drain,
}

/// `POST /v1/keys:resolve`: keys that a gateway does not keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolve {
    /// At most [`RESOLVE_MOST`].
    pub h: Vec<KeyHash>,
    /// Something that was never said before, at most 64 characters: the answer repeats it, so that it is not the answer to
    /// another question.
    #[serde(default)]
    pub nonce: String,
}

/// The answer, as the text of a [`Signed`](super::Signed): it lets keys in, so that nobody in between may make one up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedFor {
    /// [`Resolve::nonce`].
    pub nonce: String,
    /// What is known.
    #[serde(flatten)]
    pub answer: Resolved,
}

/// What is known of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The end of the key log when this was looked up: what the log says later is newer.
    pub seq: u64,
    /// The keys that let in, in any order; those that are missing do not.
    pub keys: Vec<KeyEntry>,
}

/// The longest [`Resolve::nonce`].
pub const NONCE_MOST: usize = 64;

/// How many keys may be asked for at a time.
pub const RESOLVE_MOST: usize = 1000;

/// How many records a page of the key log has at most.
pub const KEY_PAGE_MOST: usize = 1000;

/// How many records a page has at most for who asks for more than that: a directory that stands in for a control plane
/// holds one page. It stays below the 4 MiB that a gateway reads.
pub const KEY_EXPORT_MOST: usize = 20_000;

/// What this build knows beyond the first release: compared with what revisions require.
pub const CAPABILITIES: &[&str] = &[];
