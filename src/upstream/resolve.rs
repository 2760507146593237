//! Where endpoints are: names become addresses before a revision is applied, never on a request thread.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::discovery::{Discovery, address};
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
#[derive(Clone)]
pub enum Names {
    /// By this.
    LookUp(Arc<Discovery>),
    /// Not at all: what only explains must not call anybody. A name then stands for the unspecified address.
    Leave,
}

impl Names {
    /// The addresses of an endpoint. Blocks while somebody is asked: call it where blocking is allowed.
    ///
    /// # Errors
    /// For a name that is looked up and does not exist: why.
    pub fn find(&self, locator: &Locator) -> Result<Vec<Found>, String> {
        self.find_all(&[locator]).pop().unwrap_or_else(|| Ok(Vec::new()))
    }

    /// The same for many, which are asked for at the same time; in this order.
    #[must_use]
    pub fn find_all(&self, locators: &[&Locator]) -> Vec<Result<Vec<Found>, String>> {
        match self {
            Self::LookUp(discovery) => discovery.find_all(locators),
            Self::Leave => locators.iter().map(|locator| Ok(vec![left(locator)])).collect(),
        }
    }
}

fn left(locator: &Locator) -> Found {
    let port = match locator {
        Locator::Host { port, .. } => *port,
        Locator::Service(_) => 0,
    };
    address(locator).unwrap_or_else(|| Found::at(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_they_are_and_names_are_left() {
        let find = |host: &str| {
            let host = host.into();
            Names::Leave.find(&Locator::Host { host, port: 80 }).unwrap()
        };
        assert_eq!(find("10.1.2.3"), [Found::at(SocketAddr::from(([10, 1, 2, 3], 80)))]);
        assert_eq!(find("::1")[0].address.to_string(), "[::1]:80");
        assert_eq!(find("no-such-host.invalid")[0].address.to_string(), "0.0.0.0:80");
        let service = Locator::Service("_http._tcp.orders.internal".into());
        assert!(Names::Leave.find(&service).unwrap()[0].address.ip().is_unspecified());
    }
}
