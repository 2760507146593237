//! Upstreams as they are written.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::grammar::{Address, Header, ServiceName};
use crate::document::{At, Name, Secret, Text};
use crate::units::Ratio;

/// A named group of endpoints that can answer the same requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawUpstream {
    /// Unique among upstreams.
    #[schemars(required)]
    pub(in crate::revision) name: Option<At<Text<Name>>>,
    /// How an endpoint is chosen. Default `round_robin`. Weights count in all.
    pub(in crate::revision) balance: Option<At<RawBalance>>,
    /// What `balance: consistent_hash` hashes. Default `client_ip`.
    pub(in crate::revision) hash: Option<At<RawHashKey>>,
    /// At least one.
    #[serde(default)]
    #[schemars(required, length(min = 1))]
    pub(in crate::revision) endpoints: Vec<At<RawEndpoint>>,
    /// How the gateway's own zone is preferred, for endpoints that say theirs.
    pub(in crate::revision) zones: Option<RawZones>,
    /// How long an endpoint that comes back gets less than its share, growing from a tenth to all of it. Default 10s; `0s`
    /// gives it all at once.
    pub(in crate::revision) slow_start: Option<At<Text<Duration>>>,
    /// Below this share of usable endpoints, by weight, those of the next `priority` are used. If there are none that could
    /// be, the state of these is no longer believed and all of them are used: overloading the few that look healthy would
    /// take them down too. Default 25%; `0%` never does.
    pub(in crate::revision) panic_threshold: Option<At<Text<Ratio>>>,
    /// Asks endpoints how they are. Absent: only the traffic tells.
    pub(in crate::revision) health_check: Option<At<RawHealthCheck>>,
    /// When the traffic tells that an endpoint is not to be used.
    pub(in crate::revision) breaker: Option<RawBreaker>,
    /// Deadlines towards the endpoints.
    pub(in crate::revision) timeouts: Option<RawUpstreamTimeouts>,
    /// What happens when a try fails.
    pub(in crate::revision) retries: Option<RawRetries>,
    /// Connections to each endpoint.
    pub(in crate::revision) pool: Option<RawPool>,
    /// What is spoken with the endpoints. Default `http1`.
    pub(in crate::revision) protocol: Option<At<RawProtocol>>,
    /// TLS towards the endpoints. Absent: plain text. Certificates are always verified.
    pub(in crate::revision) tls: Option<At<RawUpstreamTls>>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(in crate::revision) enum RawBalance {
    /// In turn, by weight; heavy endpoints are spread over the turn.
    RoundRobin,
    /// The one of two drawn endpoints that has fewer requests in flight.
    LeastConnections,
    /// The one of two drawn endpoints that is expected to answer sooner.
    LeastResponseTime,
    /// The same key always goes to the same endpoint, as long as that is there.
    ConsistentHash,
    /// Drawn by weight.
    Random,
}

/// What is hashed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::revision) enum RawHashKey {
    /// The client's address.
    ClientIp,
    /// Who calls: key, else subject of the token, else the client's address.
    Caller,
    /// The value of this request header; without it the client's address.
    Header(At<Text<Header>>),
    /// The value of this cookie; without it the client's address.
    #[schemars(with = "String")]
    Cookie(At<String>),
}

/// One address of an upstream, or a name that stands for several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawEndpoint {
    /// Host and port: `10.0.0.1:8080`, `orders.internal:8080` or `[2001:db8::1]:8080`. Every address of a name is an
    /// endpoint, looked up again when its time to live is over.
    pub(in crate::revision) address: Option<At<Text<Address>>>,
    /// Instead of `address`: a service in DNS, `_http._tcp.orders.internal`, whose SRV records say host, port, priority and
    /// weight.
    pub(in crate::revision) srv: Option<At<Text<ServiceName>>>,
    /// Share of the traffic relative to the other endpoints, 1 to 1000. Default 1.
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::revision) weight: Option<At<u32>>,
    /// Where the endpoint stands, to be compared with `gateway.zone`.
    pub(in crate::revision) zone: Option<At<Text<Name>>>,
    /// Used only while those of smaller numbers can not carry the traffic: none of them can be used, or fewer than
    /// `panic_threshold`. 0 to 15, default 0. With `srv` it is added to what the record says.
    #[schemars(range(min = 0, max = 15))]
    pub(in crate::revision) priority: Option<At<u32>>,
}

/// How the gateway's own zone is preferred.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawZones {
    /// What an answer from another zone counts more (`least_response_time`). Default 5ms.
    pub(in crate::revision) penalty: Option<At<Text<Duration>>>,
    /// With the other ways to choose, other zones get nothing while this share of the own zone's endpoints can be used,
    /// and what is missing below it. Default 70%; `0%` never sends anything elsewhere while one can be used.
    pub(in crate::revision) spill: Option<At<Text<Ratio>>>,
}

/// Asks endpoints how they are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawHealthCheck {
    /// What is got. Absent: it is enough that a TCP connection stands.
    pub(in crate::revision) path: Option<At<String>>,
    /// The `Host` to ask with. Default: the endpoint's name or address.
    pub(in crate::revision) host: Option<At<String>>,
    /// Answers with these statuses are good. Default 200 to 399.
    pub(in crate::revision) statuses: Option<At<Vec<At<u16>>>>,
    /// How often. Default 30s, at least 1s.
    pub(in crate::revision) interval: Option<At<Text<Duration>>>,
    /// How long an answer may take. Default 5s, less than the interval.
    pub(in crate::revision) timeout: Option<At<Text<Duration>>>,
    /// How many good checks in a row bring an endpoint back. Default 2.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::revision) healthy: Option<At<u32>>,
    /// How many failed checks in a row take it out. Default 3.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::revision) unhealthy: Option<At<u32>>,
    /// How many good checks in a row endpoints need before traffic returns to their `priority`. Default 5.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::revision) failback: Option<At<u32>>,
}

/// When the traffic tells that an endpoint is not to be used. A failure is: no connection, no answer in time, a
/// connection that breaks before the answer, an answer with status 500, 502, 503 or 504.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawBreaker {
    /// So many failures in a row. Default 5; 0 does not count them.
    #[schemars(range(min = 0, max = 1000))]
    pub(in crate::revision) consecutive: Option<At<u32>>,
    /// Such a share of the requests of a `window`. Default 50%; `0%` does not look at it.
    pub(in crate::revision) error_rate: Option<At<Text<Ratio>>>,
    /// Not before so many requests in the window. Default 20.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::revision) minimum: Option<At<u32>>,
    /// Over what time the share is taken. Default 10s, 1s to 10m.
    pub(in crate::revision) window: Option<At<Text<Duration>>>,
    /// How long nothing is sent then; twice as long after each time that the next try fails, at most 5m. Default 10s.
    pub(in crate::revision) open: Option<At<Text<Duration>>>,
    /// How many requests have to succeed, one at a time, before it is used again. Default 3.
    #[schemars(range(min = 1, max = 100))]
    pub(in crate::revision) probes: Option<At<u32>>,
    /// At most this share of the endpoints is taken out by this at a time, of two or more at least one. Default 50%.
    pub(in crate::revision) max_ejected: Option<At<Text<Ratio>>>,
}

/// Deadlines towards the endpoints.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawUpstreamTimeouts {
    /// Until the connection stands, with TLS. Default 5s.
    pub(in crate::revision) connect: Option<At<Text<Duration>>>,
    /// Longest silence of an endpoint that has the whole request. Default 30s.
    pub(in crate::revision) read: Option<At<Text<Duration>>>,
    /// Longest silence while writing a request. Default 30s.
    pub(in crate::revision) write: Option<At<Text<Duration>>>,
    /// How long an unused connection is kept; keep it below the endpoint's own. Default 50s.
    pub(in crate::revision) idle: Option<At<Text<Duration>>>,
    /// Longest silence of one try, when it is to be shorter than `read` because another endpoint can be tried. Absent: as
    /// `read`.
    pub(in crate::revision) per_try: Option<At<Text<Duration>>>,
    /// Until the answer begins, all tries together. Absent: `server.timeouts.request` of the gateway bounds it alone.
    pub(in crate::revision) total: Option<At<Text<Duration>>>,
    /// How long a WebSocket, or a gRPC call whose client is still sending, may be silent both ways. Default 1h.
    pub(in crate::revision) tunnel: Option<At<Text<Duration>>>,
}

/// What happens when a try fails. When no connection stands, the next endpoint is tried whatever the request. When a
/// connection breaks, an endpoint is silent or answers 502, 503 or 504, only requests go to the next one that may arrive
/// twice: GET, HEAD, OPTIONS, TRACE, PUT, DELETE, and those with `Idempotency-Key`; with a body of at most 64 KiB; and
/// never after the client got a part of an answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawRetries {
    /// How often a request is tried in all, 1 to 10; each time at another endpoint. Default 2.
    #[schemars(range(min = 1, max = 10))]
    pub(in crate::revision) attempts: Option<At<u32>>,
    /// How many requests may be repeated, as a share of all in ten seconds; ten a second always may. Default 20%.
    pub(in crate::revision) budget: Option<At<Text<Ratio>>>,
}

/// Connections to each endpoint.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawPool {
    /// Most requests that an endpoint is sent at a time; over HTTP/1 each has a connection. Absent: no bound of its own.
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::revision) max_connections: Option<At<u32>>,
    /// Most unused connections that are kept. Absent: no bound of its own.
    #[schemars(range(min = 0, max = 100_000))]
    pub(in crate::revision) max_idle: Option<At<u32>>,
    /// How long a connection is used at most, counted from its first request. Absent: as long as it works.
    pub(in crate::revision) max_age: Option<At<Text<Duration>>>,
    /// How many requests may wait when all connections are in use. Default 1000.
    #[schemars(range(min = 0, max = 100_000))]
    pub(in crate::revision) queue: Option<At<u32>>,
    /// How long they wait; then 503. Default 1s.
    pub(in crate::revision) queue_timeout: Option<At<Text<Duration>>>,
}

/// What is spoken with the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(in crate::revision) enum RawProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: with `tls` by ALPN, without it by prior knowledge. gRPC needs it.
    Http2,
    /// HTTP/2 if the endpoint offers it, else HTTP/1.1; only with `tls`.
    Auto,
}

/// TLS towards the endpoints.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawUpstreamTls {
    /// The name that is asked for (SNI) and has to be in the certificate. Default: the endpoint's own name or address.
    pub(in crate::revision) server_name: Option<At<String>>,
    /// Certificates (PEM) that are trusted instead of the host's, best as a reference: `${file:/etc/tollgate/orders-ca.pem}`.
    pub(in crate::revision) ca: Option<At<String>>,
    /// The certificate (PEM, with intermediates) that the gateway shows; with `key`.
    pub(in crate::revision) certificate: Option<At<String>>,
    /// Its private key (PEM), best as a reference: `${cred:orders-key}`.
    pub(in crate::revision) key: Option<At<Secret>>,
}
