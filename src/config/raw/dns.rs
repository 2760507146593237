//! `dns` as it is written.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{At, Text};

/// How host names and services of upstreams are looked up: before a revision is applied, and again in the background when
/// what was answered is no longer good; never because of a request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawDns {
    /// Who is asked: IP address and port, at most 8. Default: those of `/etc/resolv.conf`, with its search list. Names in
    /// `/etc/hosts` are not asked for.
    #[schemars(length(min = 1, max = 8))]
    pub(in crate::config) servers: Option<At<Vec<At<Text<SocketAddr>>>>>,
    /// An answer is good for at least so long, whatever it says: 100ms to 1h. Default 1s.
    pub(in crate::config) min_ttl: Option<At<Text<Duration>>>,
    /// And at most for so long: 1s to 1d. Default 5m.
    pub(in crate::config) max_ttl: Option<At<Text<Duration>>>,
    /// How long an answer may take, 10ms to 30s; a question that fails is asked a second time. Default 2s.
    pub(in crate::config) timeout: Option<At<Text<Duration>>>,
    /// Which addresses of a name are endpoints. Default `prefer_ipv4`.
    pub(in crate::config) addresses: Option<RawAddresses>,
}

/// Which addresses of a name are endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(in crate::config) enum RawAddresses {
    /// Those of IPv4; of IPv6 only if there are none.
    PreferIpv4,
    /// Those of IPv4 alone.
    Ipv4,
    /// Those of IPv6 alone.
    Ipv6,
    /// All of them.
    Both,
}
