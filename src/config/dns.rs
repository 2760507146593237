//! How host names and services of upstreams are looked up: `dns`, resolved.

use std::net::SocketAddr;
use std::time::Duration;

/// How host names and services of upstreams are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Who is asked, each over UDP and, for long answers, TCP. Empty: those of `/etc/resolv.conf`, with its search list.
    pub servers: Vec<SocketAddr>,
    /// An answer is good for at least so long, whatever it says. Default 1 s.
    pub min_ttl: Duration,
    /// And at most for so long. Default 5 min.
    pub max_ttl: Duration,
    /// How long an answer may take; a question that fails is asked a second time. Default 2 s.
    pub timeout: Duration,
    /// Which addresses of a name are endpoints.
    pub addresses: Addresses,
}

/// Which addresses of a name are endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addresses {
    /// Those of IPv4; of IPv6 only if there are none. A host without a route to IPv6 would otherwise fail half of the time.
    #[default]
    PreferIpv4,
    /// Those of IPv4 alone.
    Ipv4,
    /// Those of IPv6 alone.
    Ipv6,
    /// All of them.
    Both,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(2),
            addresses: Addresses::default(),
        }
    }
}
