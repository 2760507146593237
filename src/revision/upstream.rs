//! Upstreams, resolved: every number has its unit and every default is filled in.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;

use crate::document::Secret;
use crate::names::UpstreamName;
use crate::units::Ratio;

/// A named group of endpoints that can answer the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Unique among upstreams.
    pub name: UpstreamName,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// How the own zone is preferred.
    pub zones: Zones,
    /// How long an endpoint that comes back gets less than its share. Zero: not at all.
    pub slow_start: Duration,
    /// Below this share of usable endpoints another priority gets the traffic, or else all endpoints are used.
    pub panic_threshold: Ratio,
    /// How endpoints are asked how they are; none: not at all.
    pub health_check: Option<HealthCheck>,
    /// When the traffic tells that an endpoint is not to be used.
    pub breaker: Breaker,
    /// Deadlines towards the endpoints.
    pub timeouts: UpstreamTimeouts,
    /// What happens when a try fails.
    pub retries: Retries,
    /// Connections to each endpoint.
    pub pool: Pool,
    /// What is spoken with them.
    pub protocol: Protocol,
    /// TLS towards them; none: plain text.
    pub tls: Option<UpstreamTls>,
}

/// One address, or a name that stands for several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub locator: Locator,
    /// Share of the traffic relative to the other endpoints; at least 1, at most 1000.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<String>,
    /// Used only while those of smaller numbers can not carry the traffic.
    pub priority: u8,
}

/// Where endpoints are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Locator {
    /// An IP address (IPv6 without brackets) or a host name, whose every address is an endpoint.
    Host {
        /// The address or name, lower case.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A service whose SRV records (RFC 2782) say hosts, ports, priorities and weights.
    Service(String),
}

impl fmt::Display for Locator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Service(name) => f.write_str(name),
        }
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The one of two drawn that has fewer requests in flight.
    LeastConnections,
    /// The one of two drawn that is expected to answer sooner.
    LeastResponseTime,
    /// The same key always goes to the same endpoint.
    ConsistentHash(HashKey),
    /// Drawn by weight.
    Random,
}

impl Balance {
    /// As written in configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::LeastResponseTime => "least_response_time",
            Self::ConsistentHash(_) => "consistent_hash",
            Self::Random => "random",
        }
    }
}

/// What is hashed to find the same endpoint again. What a request lacks is replaced by the client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// Who calls: key, else subject of the token.
    Caller,
    /// The value of a request header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
}

/// How the gateway's own zone is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zones {
    /// What an answer from another zone counts more. Default 5 ms.
    pub penalty: Duration,
    /// Other zones get nothing while this share of the own zone's endpoints can be used. Default 70 %.
    pub spill: Ratio,
}

/// How endpoints are asked how they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// With what.
    pub probe: Probe,
    /// How often; at least 1 s. Default 30 s.
    pub interval: Duration,
    /// How long an answer may take; less than the interval. Default 5 s.
    pub timeout: Duration,
    /// So many good checks in a row bring an endpoint back. Default 2.
    pub healthy: u32,
    /// So many failed checks in a row take it out. Default 3.
    pub unhealthy: u32,
    /// So many good checks in a row bring traffic back to its priority. Default 5.
    pub failback: u32,
}

/// With what an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection that stands.
    Tcp,
    /// A GET.
    Http {
        /// Path and query.
        path: String,
        /// `Host`; none: the endpoint's name or address.
        host: Option<String>,
        /// Good statuses; none: 200 to 399.
        statuses: Vec<u16>,
    },
}

impl Probe {
    /// Statuses that are good where nothing else is written.
    pub const GOOD: RangeInclusive<u16> = 200..=399;

    /// Whether an answer with this status is good.
    #[must_use]
    pub fn is_good(&self, status: u16) -> bool {
        match self {
            Self::Tcp => true,
            Self::Http { statuses, .. } if statuses.is_empty() => Self::GOOD.contains(&status),
            Self::Http { statuses, .. } => statuses.contains(&status),
        }
    }
}

/// When the traffic tells that an endpoint is not to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// So many failures in a row; 0: they are not counted. Default 5.
    pub consecutive: u32,
    /// Such a share of failures; zero: it is not looked at. Default 50 %.
    pub error_rate: Ratio,
    /// Not before so many requests in the window. Default 20.
    pub minimum: u32,
    /// Over what time the share is taken. Default 10 s.
    pub window: Duration,
    /// How long nothing is sent then. Default 10 s.
    pub open: Duration,
    /// So many requests have to succeed before it is used again. Default 3.
    pub probes: u32,
    /// At most this share of the endpoints at a time. Default 50 %.
    pub max_ejected: Ratio,
}

/// Deadlines towards an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// Until the connection stands, with TLS. Default 5 s.
    pub connect: Duration,
    /// Longest silence of an endpoint that has the whole request. Default 30 s.
    pub read: Duration,
    /// Longest silence while writing a request. Default 30 s.
    pub write: Duration,
    /// How long an unused connection is kept; keep it below the endpoint's own. Default 50 s.
    pub idle: Duration,
    /// Longest silence of one try; none: as `read`.
    pub per_try: Option<Duration>,
    /// Until the answer begins, all tries together; none: only the gateway's own deadline.
    pub total: Option<Duration>,
    /// How long a WebSocket may be silent both ways. Default 1 h.
    pub tunnel: Duration,
}

/// What happens when a try fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// How often a request is tried in all; at least 1. Default 2.
    pub attempts: u32,
    /// How many requests may be repeated, as a share of all. Default 20 %.
    pub budget: Ratio,
}

/// Connections to each endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Most requests that an endpoint is sent at a time; none: no bound.
    pub max_connections: Option<u32>,
    /// Most unused connections that are kept; none: no bound of its own.
    pub max_idle: Option<u32>,
    /// How long a connection is used at most; none: as long as it works.
    pub max_age: Option<Duration>,
    /// How many requests may wait when all connections are in use. Default 1000.
    pub queue: u32,
    /// How long they wait. Default 1 s.
    pub queue_timeout: Duration,
}

/// What is spoken with endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2 if the endpoint offers it by ALPN, else HTTP/1.1.
    Auto,
}

/// TLS towards endpoints. There is no way not to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name that is asked for and has to be in the certificate; none: the endpoint's own name or address.
    pub server_name: Option<String>,
    /// Trusted certificates (PEM) instead of the host's.
    pub ca: Option<String>,
    /// What the gateway shows: certificates and key (PEM).
    pub client: Option<(String, Secret)>,
}
