//! Host names of endpoints become addresses before a revision is applied, never on a request thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use crate::revision::Endpoint;

/// Whether names are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// By the system resolver.
    LookUp,
    /// Not at all: what only explains must not call anybody. A name then stands for the unspecified address.
    Leave,
}

impl Names {
    /// The address of an endpoint.
    ///
    /// # Errors
    /// When a name is looked up and does not resolve.
    pub fn address(self, endpoint: &Endpoint) -> io::Result<SocketAddr> {
        match (self, literal(endpoint)) {
            (_, Some(address)) => Ok(address),
            (Self::LookUp, None) => resolve(endpoint),
            (Self::Leave, None) => Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), endpoint.port)),
        }
    }
}

fn literal(endpoint: &Endpoint) -> Option<SocketAddr> {
    let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, endpoint.port))
}

/// The address of an endpoint. Blocks while the system resolver works: call it where blocking is allowed.
///
/// Of several addresses the first IPv4 one is taken, else the first.
///
/// # Errors
/// When the name does not resolve.
pub fn resolve(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    if let Some(address) = literal(endpoint) {
        return Ok(address);
    }
    let addresses: Vec<SocketAddr> = (endpoint.host.as_str(), endpoint.port).to_socket_addrs()?.collect();
    addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or_else(|| addresses.first())
        .copied()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_they_are_and_names_are_looked_up() {
        let endpoint = |host: &str| Endpoint {
            host: host.into(),
            port: 80,
            weight: 1,
        };
        assert_eq!(
            resolve(&endpoint("10.1.2.3")).unwrap(),
            SocketAddr::from(([10, 1, 2, 3], 80))
        );
        assert_eq!(resolve(&endpoint("[::1]")).unwrap().to_string(), "[::1]:80");
        assert!(resolve(&endpoint("localhost")).unwrap().ip().is_loopback());
        assert!(resolve(&endpoint("no-such-host.invalid")).is_err());
        let left = Names::Leave.address(&endpoint("no-such-host.invalid")).unwrap();
        assert!(left.ip().is_unspecified());
    }
}
