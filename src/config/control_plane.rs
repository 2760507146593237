//! Where revisions come from when they do not come from a file: a control plane, or whatever stands in for one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::distribution::{Kind, PublicKey};
use crate::document::Secret;

/// Where the revision comes from: a file, a control plane, or both, in which case the file's objects win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionSource {
    /// As written: a relative path is relative to the directory in which the process was started. None only with a
    /// control plane.
    pub file: Option<PathBuf>,
    /// None only with a file.
    pub control_plane: Option<ControlPlane>,
    /// What is never taken from the control plane.
    pub skip_list: SkipList,
}

/// A control plane, and how far it is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// Where it is: `https://host[:port][/path]`, `http://…`, or `file:///directory`, without a slash at the end and
    /// never with a user, a query or a fragment. Several are asked one after the other. Never empty.
    pub urls: Vec<String>,
    /// What is sent as `Authorization: Bearer`; printable ASCII. None for a directory or an open web server.
    pub token: Option<Secret>,
    /// A directory of this gateway alone: its identity, its seat, the last good revisions.
    pub state_dir: PathBuf,
    /// Certificates (PEM) to trust instead of the well-known ones.
    pub ca: Option<PathBuf>,
    /// Who may sign. Empty: the keys that are shown at first contact, from then on.
    pub public_keys: Vec<PublicKey>,
    /// What a gateway does for which the pool has no seat. Default [`OnPoolFull::Exit`].
    pub on_pool_full: OnPoolFull,
    /// How old a seat may be that lets a gateway start while the control plane is away. Default 7 days.
    pub offline_grace: Duration,
    /// Whether a gateway that never had a seat may start while the control plane is away. Default no.
    pub allow_offline_join: bool,
    /// The largest snapshot that is taken, in bytes when unpacked. Default 256 MiB.
    pub max_bytes: u64,
    /// The most routes that are taken. Default 200,000.
    pub max_routes: u64,
    /// How keys are kept. Default [`KeysMode::Auto`].
    pub keys: KeysMode,
}

/// What a gateway does for which the pool has no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OnPoolFull {
    /// Says so and ends with exit code 75.
    #[default]
    Exit,
    /// Serves nobody and asks again.
    Wait,
}

/// How a gateway keeps the keys of a control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum KeysMode {
    /// `push` as long as they are not too many, then `filter`.
    #[default]
    Auto,
    /// All of them.
    Push,
    /// A filter of all of them, and those that are used.
    Filter,
}

/// Names that belong to this gateway alone: what the control plane publishes under them is not taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkipList {
    names: BTreeSet<(Kind, String)>,
}

impl SkipList {
    /// Adds a name; tells whether it is new.
    pub fn insert(&mut self, kind: Kind, name: String) -> bool {
        self.names.insert((kind, name))
    }

    /// All names, by kind.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &str)> {
        self.names.iter().map(|(kind, name)| (*kind, name.as_str()))
    }
}
