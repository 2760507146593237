//! Stage 5: route → a peer.
//!
//! An [`Upstream`] belongs to a snapshot: endpoints resolved to addresses, each with the peer that the proxy engine
//! clones. What must outlive a revision (the position of the rotation) lives in [`Rotations`] under the upstream's
//! name.

pub mod balance;
pub mod resolve;
pub mod split;

use std::net::SocketAddr;
use std::sync::Arc;

use pingora::upstreams::peer::HttpPeer;

use crate::names::UpstreamName;
use crate::revision;
pub use balance::{Rotation, Rotations};

/// An upstream ready to be picked from.
pub struct Upstream {
    name: UpstreamName,
    endpoints: Box<[Endpoint]>,
    rotation: Arc<Rotation>,
    schedule: balance::Schedule,
    attempts: usize,
}

/// An endpoint ready to be connected to.
pub struct Endpoint {
    address: SocketAddr,
    label: Arc<str>,
    weight: u32,
    peer: HttpPeer,
}

/// The endpoints that a request has tried already. A bit each: no allocation for up to 64 endpoints, and an upstream
/// with more forgets only that one of the later ones was tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    /// Whether the endpoint at this position was tried.
    #[must_use]
    pub fn contains(self, position: usize) -> bool {
        position < 64 && self.0 & (1 << position) != 0
    }

    /// Notes the endpoint at this position.
    pub fn insert(&mut self, position: usize) {
        if position < 64 {
            self.0 |= 1 << position;
        }
    }

    /// How many endpoints were noted.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }
}

impl Upstream {
    /// Compiles an upstream whose endpoints have been resolved; `addresses` is in the order of its endpoints.
    #[must_use]
    pub fn compile(upstream: &revision::Upstream, addresses: &[SocketAddr], rotation: Arc<Rotation>) -> Self {
        let endpoints: Box<[Endpoint]> = upstream
            .endpoints
            .iter()
            .zip(addresses)
            .map(|(endpoint, address)| Endpoint {
                address: *address,
                label: Arc::from(format!("{}:{}", endpoint.host, endpoint.port)),
                weight: endpoint.weight,
                peer: peer(*address, &upstream.timeouts),
            })
            .collect();
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        Self {
            name: upstream.name.clone(),
            schedule: balance::Schedule::compile(&weights),
            attempts: upstream.attempts.clamp(1, endpoints.len().max(1)),
            endpoints,
            rotation,
        }
    }

    /// The endpoint for the next request, and its position: the next one of the rotation that was not tried yet.
    /// `None` when all were.
    #[must_use]
    pub fn pick(&self, tried: Tried) -> Option<(usize, &Endpoint)> {
        let first = self.schedule.at(self.rotation.next());
        (0..self.endpoints.len())
            .map(|step| (first + step) % self.endpoints.len())
            .find(|position| !tried.contains(*position))
            .and_then(|position| self.endpoints.get(position).map(|endpoint| (position, endpoint)))
    }

    /// The upstream's name.
    #[must_use]
    pub fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// All endpoints, in the order of the revision.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// How many endpoints one request may try.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.attempts
    }
}

impl Endpoint {
    /// The address that is connected to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `host:port` as in the revision.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Share of the traffic.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The peer, to be cloned into the engine.
    #[must_use]
    pub fn peer(&self) -> &HttpPeer {
        &self.peer
    }
}

fn peer(address: SocketAddr, timeouts: &revision::UpstreamTimeouts) -> HttpPeer {
    // From an address, never from a host name: the constructor would resolve it on the request thread.
    let mut peer = HttpPeer::new(address, false, String::new());
    let options = &mut peer.options;
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    options.read_timeout = Some(timeouts.read);
    options.write_timeout = Some(timeouts.write);
    options.idle_timeout = Some(timeouts.idle);
    peer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn upstream(weights: &[u32], attempts: usize) -> Upstream {
        let endpoints = weights
            .iter()
            .enumerate()
            .map(|(position, weight)| revision::Endpoint {
                host: "127.0.0.1".into(),
                port: 9000 + u16::try_from(position).unwrap(),
                weight: *weight,
            })
            .collect::<Vec<_>>();
        let second = Duration::from_secs(1);
        let resolved = revision::Upstream {
            name: "orders".into(),
            timeouts: revision::UpstreamTimeouts {
                connect: second,
                read: second,
                write: second,
                idle: second,
            },
            attempts,
            endpoints,
        };
        let addresses: Vec<SocketAddr> = resolved
            .endpoints
            .iter()
            .map(|e| SocketAddr::from(([127, 0, 0, 1], e.port)))
            .collect();
        Upstream::compile(&resolved, &addresses, Arc::default())
    }

    #[test]
    fn traffic_follows_the_weights() {
        let upstream = upstream(&[5, 2, 1], 1);
        let mut hits = [0; 3];
        for _ in 0..800 {
            hits[upstream.pick(Tried::default()).unwrap().0] += 1;
        }
        assert_eq!(hits, [500, 200, 100]);
    }

    #[test]
    fn a_retry_never_goes_to_an_endpoint_that_was_tried() {
        let upstream = upstream(&[1000, 1, 1], 3);
        for _ in 0..50 {
            let mut tried = Tried::default();
            for _ in 0..3 {
                let (position, _) = upstream.pick(tried).unwrap();
                assert!(!tried.contains(position));
                tried.insert(position);
            }
            assert!(upstream.pick(tried).is_none());
        }
    }

    #[test]
    fn the_rotation_goes_on_across_revisions() {
        let rotations = Rotations::default();
        let name = UpstreamName::from("orders");
        let first = rotations.of(&name);
        first.next();
        assert_eq!(rotations.of(&name).next(), 1);
    }
}
