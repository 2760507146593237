//! The manifest: what a gateway should run now. The only thing of an environment that changes, about a kilobyte.

use serde::{Deserialize, Serialize};

use super::{Content, ContentHash};
use crate::revision::EnvironmentType;

/// The format of manifests and contents that this build writes and reads. A gateway refuses any other.
pub const SCHEMA: u32 = 1;

/// What the gateways of an environment should run. Sent as the text of a [`Signed`](super::Signed).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Whose revision it is: a manifest of another environment is not for this gateway, whoever signed it.
    pub environment: String,
    /// Which key types the environment lets in.
    pub environment_type: EnvironmentType,
    /// Grows with every publish, also with a rollback. A gateway never goes back.
    pub seq: u64,
    /// The format: [`SCHEMA`].
    pub schema: u32,
    /// What a gateway has to know to do this revision justice. One that does not know all of it refuses: a feature that
    /// is silently ignored may be the one that keeps strangers out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Unix milliseconds of the publish.
    pub published_at_ms: u64,
    /// [`Content::root`] of the revision.
    pub root: ContentHash,
    /// Everything, for who has nothing.
    pub snapshot: BlobRef,
    /// How many routes there are: a gateway refuses more than it takes before it fetches them.
    pub routes: u64,
    /// Where keys begin; what came after is in the key log.
    pub keys: KeysHead,
    /// Gateways wait up to so many milliseconds before they fetch, each as long as it likes.
    pub spread_ms: u64,
    /// How long a poll may wait for news, in seconds.
    pub wait_s: u64,
}

/// An immutable blob: zstd, stored as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 of the bytes as they are sent.
    pub sha256: ContentHash,
    /// How many that are.
    pub size: u64,
    /// How many they become.
    pub raw_size: u64,
}

/// Where keys begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysHead {
    /// Another one means another log: start over.
    pub epoch: u64,
    /// About how many keys there are: decides how a gateway keeps them.
    pub count: u64,
    /// All keys up to a place in the log, as lines of [`KeyEntry`](super::KeyEntry). None: the log holds everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<KeysBlob>,
    /// The same keys as a filter, for gateways that do not keep them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<KeysBlob>,
    /// What a filter can not say: keys that stand in published documents and were revoked, as lines of
    /// [`KeyChange::Del`](super::KeyChange::Del). They are in the base too. None: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<KeysBlob>,
}

/// Keys up to a place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysBlob {
    /// The last record of the log that is in it.
    pub seq: u64,
    /// Where it is.
    pub blob: BlobRef,
}

impl Manifest {
    /// Whether this content is the one meant.
    #[must_use]
    pub fn is_of(&self, content: &Content) -> bool {
        content.root() == self.root
    }
}
