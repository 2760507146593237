//! `control-plane.yaml` as it is written. The doc comments are the descriptions in the JSON Schema.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{At, Secret, Size, Text};

/// How a control plane is set up. A change needs a restart; what is authored and published is in its store.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    /// Where operators and gateways connect.
    #[serde(default)]
    pub(super) listener: RawListener,
    /// The process.
    #[serde(default)]
    pub(super) server: RawServer,
    /// Where everything is kept: `sqlite` or `postgres`. Default: SQLite in `/var/lib/tollgate/control-plane.db`.
    pub(super) store: Option<At<RawStore>>,
    /// An administrator's token that is known from the first start on: at least 16 printable ASCII characters without
    /// spaces. Take it from elsewhere, with `${file:/path}` or `${cred:name}`. Absent: the first start makes one and
    /// prints it once.
    pub(super) bootstrap_token: Option<At<Secret>>,
    /// What vouches for manifests: the 32 bytes of an Ed25519 seed in base64, from elsewhere, with `${file:/path}` or
    /// `${cred:name}`. Absent: the first start makes one and keeps it in the store.
    pub(super) signing_key: Option<At<Secret>>,
    /// How revisions reach gateways.
    #[serde(default)]
    pub(super) distribution: RawDistribution,
    /// Pools of gateways.
    #[serde(default)]
    pub(super) pools: RawPools,
    /// Tokens that are issued here.
    #[serde(default)]
    pub(super) oauth2: RawOAuth2,
    /// Keys of applications.
    #[serde(default)]
    pub(super) keys: RawKeys,
}

/// Where operators and gateways connect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    /// IP address and port; port 0 is any free one. Default 127.0.0.1:9443.
    pub(super) address: Option<At<Text<SocketAddr>>>,
    /// HTTPS. Absent: HTTP, which is for one machine alone, because tokens are sent.
    pub(super) tls: Option<At<RawTls>>,
}

/// A certificate. The files are read again when they change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    /// The certificate and those between it and its authority (PEM). A relative path is relative to the directory in
    /// which the process was started.
    #[schemars(required, length(min = 1))]
    pub(super) certificate: Option<At<String>>,
    /// Its private key (PEM).
    #[schemars(required, length(min = 1))]
    pub(super) key: Option<At<String>>,
}

/// The process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    /// Added to every port of this process, so that several run on one machine. Default 0.
    pub(super) port_offset: Option<At<u16>>,
}

/// Where everything is kept: one of the two.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStore {
    /// A file of SQLite, for one node. It is made if it is not there. A relative path is relative to the directory in
    /// which the process was started.
    #[schemars(length(min = 1))]
    pub(super) sqlite: Option<At<String>>,
    /// A database of PostgreSQL, for one or several nodes: `postgres://user:password@host:5432/database`. Take it from
    /// elsewhere, with `${file:/path}` or `${cred:name}`, if there is a password in it.
    pub(super) postgres: Option<At<Secret>>,
}

/// How revisions reach gateways.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDistribution {
    /// How many gateways fetch something large at a time, 1 to 100000; others are told when to come. Default 256.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) snapshot_slots: Option<At<u32>>,
    /// Bytes per second that leave this host, at least 64KiB: it decides when gateways are told to come. Default 125MiB,
    /// about a link of 1 Gb/s.
    pub(super) bandwidth: Option<At<Text<Size>>>,
    /// How many gateways wait for news at a time, 1 to 1000000; each needs two of them. Default 20000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) polls: Option<At<u32>>,
    /// How long a gateway waits for news until it asks again, 1s to 60s. Default 50s, less than what proxies allow.
    pub(super) wait: Option<At<Text<Duration>>>,
    /// Gateways fetch a new revision within this time and not all at once, 0s to 60s. Default 1s.
    pub(super) spread: Option<At<Text<Duration>>>,
}

/// Pools of gateways.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPools {
    /// How long a seat lasts without a sign of life, 5s to 10m. Default 30s.
    pub(super) seat_ttl: Option<At<Text<Duration>>>,
    /// For how much longer a gateway gets its seat back although its pool is full, 0s to 7d. Default 5m.
    pub(super) reclaim: Option<At<Text<Duration>>>,
}

/// Tokens that are issued here.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOAuth2 {
    /// Who issues them, as gateways know it. Default: the address of the listener as a URL.
    #[schemars(length(min = 1))]
    pub(super) issuer: Option<At<String>>,
    /// How long they last, 1s to 1d. Default 1h.
    pub(super) token_lifetime: Option<At<Text<Duration>>>,
}

/// Keys of applications.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeys {
    /// After so many changes all keys are written down anew, so that a gateway that has none begins there. Default 100000.
    #[schemars(range(min = 1))]
    pub(super) base_every: Option<At<u32>>,
}
