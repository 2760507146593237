//! Where endpoints are: names become addresses before a revision is applied, never on a request thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use crate::revision::Locator;

/// One address of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Where to connect to.
    pub address: SocketAddr,
    /// What DNS says of its share, which then goes instead of the revision's; none for addresses and host names.
    pub weight: Option<u16>,
    /// What DNS says of its priority, beside the revision's.
    pub priority: u16,
}

impl Found {
    /// An address of which nothing else is said.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            weight: None,
            priority: 0,
        }
    }
}

/// Whether names are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// By the system resolver.
    LookUp,
    /// Not at all: what only explains must not call anybody. A name then stands for the unspecified address.
    Leave,
}

impl Names {
    /// The addresses of an endpoint. Blocks while the resolver works: call it where blocking is allowed.
    ///
    /// # Errors
    /// When a name is looked up and does not resolve.
    pub fn find(self, locator: &Locator) -> io::Result<Vec<Found>> {
        let left = |port| vec![Found::at(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))];
        match (locator, self) {
            (Locator::Host { host, port }, names) => match (host.parse::<IpAddr>(), names) {
                (Ok(address), _) => Ok(vec![Found::at(SocketAddr::new(address, *port))]),
                (Err(_), Self::Leave) => Ok(left(*port)),
                (Err(_), Self::LookUp) => look_up(host, *port),
            },
            (Locator::Service(_), Self::Leave) => Ok(left(0)),
            (Locator::Service(_), Self::LookUp) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<Found>> {
    let mut found: Vec<Found> = (host, port).to_socket_addrs()?.map(Found::at).collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_they_are_and_names_are_looked_up() {
        let find = |names: Names, host: &str| {
            names.find(&Locator::Host {
                host: host.into(),
                port: 80,
            })
        };
        let address = SocketAddr::from(([10, 1, 2, 3], 80));
        assert_eq!(find(Names::LookUp, "10.1.2.3").unwrap(), [Found::at(address)]);
        assert_eq!(find(Names::LookUp, "::1").unwrap()[0].address.to_string(), "[::1]:80");
        assert!(find(Names::LookUp, "localhost").unwrap()[0].address.ip().is_loopback());
        assert!(find(Names::LookUp, "no-such-host.invalid").is_err());
        let left = find(Names::Leave, "no-such-host.invalid").unwrap();
        assert!(left[0].address.ip().is_unspecified());
    }
}
