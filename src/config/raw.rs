//! `tollgate.yaml` as it is written. The doc comments are the descriptions in the JSON Schema.

mod cache;
mod dns;
pub(super) mod listener;

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

pub(super) use self::cache::{RawCache, RawCacheRedis};
pub(super) use self::dns::{RawAddresses, RawDns};
use self::listener::RawListener;
use super::{KeysMode, OnPoolFull};
use crate::document::{At, Name, NotAvailable, Secret, Size, Text};
use crate::revision::WithoutStore;
use crate::units::Ratio;

/// How a gateway process is set up. A change needs a restart; what is published stands in the revision.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    /// Which gateway this is.
    #[serde(default)]
    pub(super) gateway: RawGateway,
    /// What the process may use, and how long it waits.
    #[serde(default)]
    pub(super) server: RawServer,
    /// Where clients connect. Default: 127.0.0.1:8280, so that nothing is open to others unless it was said.
    #[schemars(length(min = 1))]
    pub(super) listeners: Option<At<Vec<At<RawListener>>>>,
    /// Health and metrics of this process.
    #[serde(default)]
    pub(super) status: RawStatus,
    /// Administration of this process. Without it, or without its token, there is none.
    pub(super) admin: Option<At<RawAdmin>>,
    /// Where the revision comes from.
    #[schemars(required)]
    pub(super) revision: Option<At<RawRevisionSource>>,
    /// Where counters are shared between gateways: Redis or Valkey. Absent: counters stay in this process.
    pub(super) redis: Option<At<RawRedis>>,
    /// How limits are shared between gateways. A limit can say it for itself, with the keys of the same names.
    pub(super) throttle: Option<At<RawThrottle>>,
    /// How what a key service says about opaque tokens is remembered (issuers with `introspection`).
    pub(super) key_cache: Option<At<RawKeyCache>>,
    /// How host names and services of upstreams are looked up.
    pub(super) dns: Option<At<RawDns>>,
    /// Where answers are kept. Which are kept, and for how long, the revision says (`cache` of an API or a route).
    pub(super) cache: Option<At<RawCache>>,
    /// What is written down about requests.
    #[serde(default)]
    pub(super) telemetry: RawTelemetry,
}

/// Which gateway this is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGateway {
    /// Tells this gateway from all others. Default: `gw-` and 8 hex digits made from the machine id.
    pub(super) id: Option<At<Text<Name>>>,
    /// The environment it serves. Default `Default`.
    pub(super) environment: Option<At<Text<Name>>>,
    /// Which key types are let in. Default: what the control plane says of the environment, without one `hybrid`. A
    /// revision of another type is refused.
    pub(super) environment_type: Option<RawEnvironmentType>,
    /// Which APIs are deployed to it. Default `[Default]`.
    pub(super) labels: Option<Vec<At<Text<Name>>>>,
    /// The pool whose size counts it. Default `default`.
    pub(super) pool: Option<At<Text<Name>>>,
    /// Where it stands, such as a rack.
    pub(super) zone: Option<At<Text<Name>>>,
}

/// Which key types are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawEnvironmentType {
    /// Both.
    Hybrid,
    /// Production keys only.
    Production,
    /// Sandbox keys only.
    Sandbox,
}

/// What the process may use, and how long it waits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    /// `auto` (default) for one thread for each core this process may use, or their number.
    pub(super) threads: Option<At<RawThreads>>,
    /// Added to every port of this process, so that several run on one machine. Default 0.
    pub(super) port_offset: Option<At<u16>>,
    /// Proxies in front of this gateway, whose `X-Forwarded-For` is believed. Default none.
    #[serde(default)]
    pub(super) trusted_proxies: Vec<At<Text<IpNet>>>,
    /// What is refused beyond a size or number.
    #[serde(default)]
    pub(super) limits: RawLimits,
    /// How long clients may take.
    #[serde(default)]
    pub(super) timeouts: RawTimeouts,
    /// How this process hands over to the next one.
    #[serde(default)]
    pub(super) upgrade: RawUpgrade,
}

/// How a process hands over to the next one.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpgrade {
    /// Where `tollgate upgrade` and `tollgate drain` find this process: a path for a Unix socket, in a directory that is
    /// this user's alone. Default: `upgrade.sock` in `$RUNTIME_DIRECTORY`, which systemd sets; without it there is none.
    #[schemars(length(min = 1, max = 107))]
    pub(super) socket: Option<At<String>>,
    /// How long the next process may take until it is ready to serve; then it is ended, and this one goes on. Default 60s.
    pub(super) timeout: Option<At<Text<Duration>>>,
}

/// `auto` or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RawThreads {
    Auto,
    Number(u64),
}

/// What is refused beyond a size or number.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    /// Client connections at a time. Default 10000.
    #[schemars(range(min = 1))]
    pub(super) connections: Option<At<u32>>,
    /// Client connections at a time from one address. Default three quarters of `connections`.
    #[schemars(range(min = 1))]
    pub(super) connections_per_address: Option<At<u32>>,
    /// Head of a request: request line and headers; 1KiB to 1MiB. Default 32KiB.
    pub(super) header_bytes: Option<At<Text<Size>>>,
    /// Body of a request. Default 10MiB. A gRPC call may stream for as long as it likes: for what it does not announce as
    /// `Content-Length` only `body_bytes` of its API or route counts, provided that its upstream speaks HTTP/2.
    pub(super) body_bytes: Option<At<Text<Size>>>,
    /// Requests at a time. Default 10000.
    #[schemars(range(min = 1))]
    pub(super) requests_in_flight: Option<At<u32>>,
    /// Requests at a time on one HTTP/2 connection. Default 100.
    #[schemars(range(min = 1))]
    pub(super) streams: Option<At<u32>>,
}

/// How long clients may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTimeouts {
    /// Until the head of a request has come. Default 10s.
    pub(super) header: Option<At<Text<Duration>>>,
    /// How long a connection may be open without a request. Default 60s.
    pub(super) idle: Option<At<Text<Duration>>>,
    /// From the head of a request until the head of its answer, the request's body included: 408 or 504 after it. Default 60s.
    pub(super) request: Option<At<Text<Duration>>>,
    /// How long requests in flight may go on when the process leaves. Default 60s.
    pub(super) drain: Option<At<Text<Duration>>>,
    /// How long WebSockets, event streams and gRPC calls may go on when the process leaves. Default: as long as `drain` when
    /// it stops, 10m when another process has taken over.
    pub(super) drain_streams: Option<At<Text<Duration>>>,
    /// How long readiness says 503 before clients are told anything, when the process stops: as long as load balancers
    /// take to notice. Default 0s.
    pub(super) announce: Option<At<Text<Duration>>>,
}

/// Health and metrics of this process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStatus {
    /// IP address and port. Default 127.0.0.1:7085. It asks for no credential: keep it private.
    pub(super) address: Option<At<Text<SocketAddr>>>,
}

/// Administration of this process.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    /// IP address and port. Default 127.0.0.1:7086. It is without TLS: keep it on this machine.
    pub(super) address: Option<At<Text<SocketAddr>>>,
    /// What a request has to carry as `Authorization: Bearer`: at least 16 printable ASCII characters without spaces.
    /// Take it from elsewhere, with `${file:/path}` or `${cred:name}`. Absent: nothing listens.
    pub(super) token: Option<At<Secret>>,
}

/// Where counters are shared between gateways.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRedis {
    /// `redis://host:6379`, `rediss://host:6379` for TLS, or `unix:///path` for a socket; a database number may follow, as
    /// in `redis://host:6379/3`. Several are the seed nodes of one Redis Cluster.
    #[schemars(required)]
    pub(super) urls: Option<At<RawUrls<RedisUrls>>>,
    /// As whom to log in (Redis ACL). Default: Redis' default user.
    #[schemars(length(min = 1))]
    pub(super) username: Option<At<String>>,
    /// With which password; take it from elsewhere, with `${cred:name}` or `${file:/path}`. Default: without logging in.
    pub(super) password: Option<At<Secret>>,
    /// A file of certificates (PEM) that are trusted instead of the well-known ones; with `rediss:` only. A relative
    /// path is relative to the directory in which the process was started.
    #[schemars(length(min = 1))]
    pub(super) ca: Option<At<String>>,
    /// Until a connection stands, TLS and login included; at most 1m. Default 1s.
    pub(super) connect_timeout: Option<At<Text<Duration>>>,
    /// How long an answer may take before the connection is given up; at most 1m. Requests do not wait for it longer
    /// than `throttle.max_wait`. Default 250ms.
    pub(super) response_timeout: Option<At<Text<Duration>>>,
}

/// A list of URLs. They may hold passwords, so this has no `Debug` and is in no message.
pub(super) struct RawUrls<E>(pub(super) Vec<At<String>>, PhantomData<E>);

/// What such a list looks like.
pub(super) trait UrlExamples {
    /// One URL.
    const ONE: &'static str;
    /// Two.
    const TWO: [&'static str; 2];
}

/// URLs of Redis.
pub(super) struct RedisUrls;

impl UrlExamples for RedisUrls {
    const ONE: &'static str = "redis://127.0.0.1:6379";
    const TWO: [&'static str; 2] = ["rediss://redis-1:6379", "rediss://redis-2:6379"];
}

/// URLs of a control plane.
pub(super) struct ControlPlaneUrls;

impl UrlExamples for ControlPlaneUrls {
    const ONE: &'static str = "https://127.0.0.1:9443";
    const TWO: [&'static str; 2] = ["https://control-1:9443", "https://control-2:9443"];
}

/// How limits are shared between gateways, where a limit does not say it itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawThrottle {
    /// What all gateways together may let through beyond a limit, as a share of it, 0% to 100%. `0` is strict: nothing,
    /// for one round trip to Redis whenever a counter is cold. Default 5%.
    pub(super) max_overrun: Option<At<Text<Ratio>>>,
    /// How long a request may wait for Redis, 0ms to 1s. Default 20ms.
    pub(super) max_wait: Option<At<Text<Duration>>>,
    /// For how long ahead a gateway takes quota from Redis: 50ms to 5s, or 0ms to ask for every request. Default 250ms.
    pub(super) lease: Option<At<Text<Duration>>>,
    /// What happens while Redis is away. Default `share`.
    pub(super) on_store_down: Option<WithoutStore>,
    /// What happens to a request that has waited for `max_wait`. Default: `deny` where `max_overrun` is 0, elsewhere as
    /// `on_store_down` says.
    pub(super) on_timeout: Option<WithoutStore>,
    /// The most gateways that run at a time and share limits. What may be let through beyond a limit is divided by it,
    /// and so is what is left of a limit while Redis is away. Default 10; write it when there is Redis.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) instances: Option<At<u32>>,
    /// How many counters this process keeps, with or without Redis; 1000 to 100000000. When there is no more room, one is
    /// forgotten for a new one: a finished one, if there is one at hand. Default 1000000.
    #[schemars(range(min = 1_000, max = 100_000_000))]
    pub(super) max_counters: Option<At<u32>>,
}

/// How what a key service says about opaque tokens is remembered, and how often it is asked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKeyCache {
    /// Who remembers. Default `gateway`.
    pub(super) location: Option<RawKeyCacheLocation>,
    /// Answers that this gateway remembers, for each key service. Default 100000.
    #[schemars(range(min = 1_000, max = 10_000_000))]
    pub(super) entries: Option<At<u32>>,
    /// How long a good token is not asked about again, 1s to 1h. Default 60s.
    pub(super) positive: Option<At<Text<Duration>>>,
    /// How long a bad token is not asked about again, at most 5m. Default 5s.
    pub(super) negative: Option<At<Text<Duration>>>,
    /// How long after that a good token goes on while the key service is away, at most 1d. Default 10m.
    pub(super) stale: Option<At<Text<Duration>>>,
    /// Questions per second to each key service; more wait for their turn. Default 500.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) rate: Option<At<u32>>,
}

/// Who remembers what a key service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawKeyCacheLocation {
    /// The gateway.
    Gateway,
    /// The key service: it is asked for every request.
    KeyManager,
    /// Both.
    Both,
    /// Nobody: not recommended.
    None,
}

/// Where the revision comes from: a file, a control plane, or both.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRevisionSource {
    /// A file, watched and applied within a second of a change. A relative path is relative to the directory in
    /// which the process was started, not to this file. Beside a control plane: what stands in it wins over what the
    /// control plane publishes under the same name.
    #[schemars(length(min = 1))]
    pub(super) file: Option<At<String>>,
    /// A control plane, or a directory that `tollgate revision export` has made.
    pub(super) control_plane: Option<At<RawControlPlane>>,
    /// Names that are never taken from the control plane.
    pub(super) skip_list: Option<At<RawSkipList>>,
}

/// A control plane, and how far it is followed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawControlPlane {
    /// `https://host:9443`, `http://host:9443`, or `file:///directory`. Several are asked one after the other.
    #[schemars(required)]
    pub(super) urls: Option<At<RawUrls<ControlPlaneUrls>>>,
    /// The gateways' token; take it from elsewhere, with `${cred:name}` or `${file:/path}`. A directory needs none.
    pub(super) token: Option<At<Secret>>,
    /// A directory of this gateway alone, made if it is not there: its identity, its seat in the pool and the last
    /// good revisions, from which it starts while the control plane is away.
    #[schemars(required, length(min = 1))]
    pub(super) state_dir: Option<At<String>>,
    /// A file of certificates (PEM) that are trusted instead of the well-known ones; with `https:` only.
    #[schemars(length(min = 1))]
    pub(super) ca: Option<At<String>>,
    /// Who may sign revisions: the public keys that `tollgate control-plane` shows. Absent: those that are shown at
    /// first contact, kept in `state_dir`.
    #[serde(default)]
    pub(super) public_keys: Vec<At<String>>,
    /// What happens if the pool has no seat for this gateway: it ends with exit code 75, or waits. Default `exit`.
    pub(super) on_pool_full: Option<OnPoolFull>,
    /// How old a seat may be that lets the gateway start while the control plane is away; at most 365d. Default 7d.
    pub(super) offline_grace: Option<At<Text<Duration>>>,
    /// Whether a gateway that never had a seat may start while the control plane is away. Default false.
    #[serde(default)]
    pub(super) allow_offline_join: bool,
    /// The largest revision that is taken, unpacked; 1MiB to 4096MiB. Default 256MiB.
    pub(super) max_bytes: Option<At<Text<Size>>>,
    /// The most routes that are taken. Default 200000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub(super) max_routes: Option<At<u32>>,
    /// How keys are kept: all of them, or a filter and those that are used. Default `auto`, which goes by their number.
    pub(super) keys: Option<KeysMode>,
}

/// Names that are never taken from the control plane, because they belong to this gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSkipList {
    /// Of upstreams.
    #[serde(default)]
    pub(super) upstreams: Vec<At<String>>,
    /// Of issuers.
    #[serde(default)]
    pub(super) issuers: Vec<At<String>>,
    /// Of plans.
    #[serde(default)]
    pub(super) plans: Vec<At<String>>,
    /// Of APIs.
    #[serde(default)]
    pub(super) apis: Vec<At<String>>,
    /// Of applications.
    #[serde(default)]
    pub(super) applications: Vec<At<String>>,
}

/// What is written down about requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTelemetry {
    /// One line for each request.
    #[serde(default)]
    pub(super) access_log: RawAccessLog,
    /// Traces. Not available in this build.
    #[serde(default)]
    pub(super) traces: NotAvailable,
}

/// One line for each request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccessLog {
    /// `-` (default) for standard output, `off`, or a file.
    #[schemars(length(min = 1))]
    pub(super) path: Option<At<String>>,
    /// Default and only value `json`.
    pub(super) format: Option<RawLogFormat>,
    /// The share of requests that is written, 0.0 to 1.0. Default 1.0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) sample: Option<At<f64>>,
}

/// How a line of the access log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawLogFormat {
    /// One JSON object for each request.
    Json,
}

// A list all the same; but the usual mistake, a single URL without brackets, must not be answered by showing it.
impl<'de, X: UrlExamples> Deserialize<'de> for RawUrls<X> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlsVisitor<X>(PhantomData<X>);

        impl<'de, X: UrlExamples> Visitor<'de> for UrlsVisitor<X> {
            type Value = RawUrls<X>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of URLs such as [{}]", X::ONE)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<RawUrls<X>, E> {
                Err(E::custom(format_args!(
                    "\"urls\" is a list, also of one; write it in brackets: urls: [{}]",
                    X::ONE
                )))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<RawUrls<X>, A::Error> {
                let mut urls: Vec<At<String>> = Vec::new();
                while let Some(url) = access.next_element()? {
                    urls.push(url);
                }
                Ok(RawUrls(urls, PhantomData))
            }

            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<RawUrls<X>, A::Error> {
                Err(A::Error::invalid_type(Unexpected::Map, &self))
            }
        }

        deserializer.deserialize_any(UrlsVisitor(PhantomData))
    }
}

impl<X: UrlExamples> JsonSchema for RawUrls<X> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RawUrls".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "minItems": 1,
            "items": { "type": "string", "minLength": 1 },
            "examples": [[X::ONE], X::TWO]
        })
    }
}

impl<'de> Deserialize<'de> for RawThreads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ThreadsVisitor;

        impl Visitor<'_> for ThreadsVisitor {
            type Value = RawThreads;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`auto` or a whole number")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawThreads, E> {
                match text {
                    "auto" => Ok(RawThreads::Auto),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<RawThreads, E> {
                Ok(RawThreads::Number(number))
            }
        }

        deserializer.deserialize_any(ThreadsVisitor)
    }
}

impl JsonSchema for RawThreads {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RawThreads".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 1024 }] })
    }
}
