//! Host names of endpoints become addresses before a revision is applied, never on a request thread.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::revision::Endpoint;

/// The address of an endpoint. Blocks while the system resolver works: call it where blocking is allowed.
///
/// Of several addresses the first IPv4 one is taken, else the first.
///
/// # Errors
/// When the name does not resolve.
pub fn resolve(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    let host = endpoint.host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, endpoint.port));
    }
    let addresses: Vec<SocketAddr> = (host, endpoint.port).to_socket_addrs()?.collect();
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
    }
}
