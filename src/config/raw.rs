//! `tollgate.yaml` as it is written. The doc comments are the descriptions in the JSON Schema.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

use crate::document::{At, Name, NotAvailable, Size, Text};

/// How a gateway process is set up. A change needs a restart; what is published stands in the revision.
#[derive(Debug, Deserialize, JsonSchema)]
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
    /// Administration of this process. Not available in this build.
    #[serde(default)]
    pub(super) admin: NotAvailable,
    /// Where the revision comes from.
    #[schemars(required)]
    pub(super) revision: Option<At<RawRevisionSource>>,
    /// Counters shared between gateways. Not available in this build: counters stay in this process.
    #[serde(default)]
    pub(super) redis: NotAvailable,
    /// How counters are shared. Not available in this build.
    #[serde(default)]
    pub(super) throttle: NotAvailable,
    /// Caching of answers. Not available in this build.
    #[serde(default)]
    pub(super) cache: NotAvailable,
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
    /// Which key types are let in. Default `hybrid`.
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
    /// Body of a request. Default 10MiB.
    pub(super) body_bytes: Option<At<Text<Size>>>,
    /// Requests at a time. Default 10000.
    #[schemars(range(min = 1))]
    pub(super) requests_in_flight: Option<At<u32>>,
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
    /// How long requests in flight may go on when the process is asked to end. Default 60s.
    pub(super) drain: Option<At<Text<Duration>>>,
}

/// Where clients connect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    /// IP address and port; port 0 is any free one.
    #[schemars(required)]
    pub(super) address: Option<At<Text<SocketAddr>>>,
    /// HTTPS. Not available in this build.
    #[serde(default)]
    pub(super) tls: NotAvailable,
}

/// Health and metrics of this process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStatus {
    /// IP address and port. Default 127.0.0.1:7085. It asks for no credential: keep it private.
    pub(super) address: Option<At<Text<SocketAddr>>>,
}

/// Where the revision comes from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRevisionSource {
    /// A file, watched and applied within a second of a change. A relative path is relative to the directory in
    /// which the process was started, not to this file.
    #[schemars(required, length(min = 1))]
    pub(super) file: Option<At<String>>,
    /// A control plane. Not available in this build.
    #[serde(default)]
    pub(super) control_plane: NotAvailable,
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
