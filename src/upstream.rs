//! Stage 5: route → a peer.
//!
//! An [`Upstream`] belongs to a snapshot: how endpoints are chosen, and a view of those that can be. What a process knows
//! about an endpoint (requests in flight, latency, health, breaker) belongs to the process and is found by its identity in
//! the [`Registry`], so that a revision resets nothing.

pub mod attempt;
pub mod balance;
pub mod breaker;
pub mod checks;
pub mod connect;
pub mod discovery;
pub mod endpoint;
pub mod hash;
pub mod health;
pub mod heritage;
pub mod kept;
pub mod latency;
pub mod line;
mod moment;
pub mod peer;
pub mod registry;
pub mod resolve;
pub mod retry;
pub mod split;
pub mod upgrade;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::names::UpstreamName;
use crate::revision::{self, Locator};
use crate::telemetry::upstream_metrics::UpstreamCounters;
pub use attempt::Attempt;
pub use balance::{Ask, Member, Tried, View};
pub use endpoint::Endpoint;
pub use moment::Moment;
use peer::Manner;
pub use registry::Registry;
use resolve::Found;

/// An upstream ready to be picked from.
pub struct Upstream {
    terms: revision::Upstream,
    manner: Manner,
    /// Where each endpoint of the revision is. Not for request threads.
    found: Mutex<Places>,
    view: ArcSwap<View>,
    /// What outlives views.
    balance: Arc<balance::Standing>,
    /// What outlives revisions.
    standing: Arc<registry::Standing>,
    registry: Arc<Registry>,
    counters: UpstreamCounters,
}

/// Where endpoints were found.
struct Places {
    found: Vec<Vec<Found>>,
    /// What was made of that, kept for as long as it does not change: views change much more often.
    members: Option<Arc<[Member]>>,
}

impl Upstream {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &UpstreamName {
        &self.terms.name
    }

    /// What the revision says of it.
    #[must_use]
    pub fn terms(&self) -> &revision::Upstream {
        &self.terms
    }

    /// What can be picked from now.
    #[must_use]
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// What outlives revisions.
    #[must_use]
    pub fn standing(&self) -> &Arc<registry::Standing> {
        &self.standing
    }

    /// Its counters.
    #[must_use]
    pub fn counters(&self) -> &UpstreamCounters {
        &self.counters
    }

    /// An endpoint of it came up or went down, opened or closed: whoever keeps views makes a new one soon.
    pub fn changed(&self) {
        self.registry.changed();
    }

    /// The endpoints of the revision with these positions are found there from now on. Not for request threads.
    ///
    /// All that is known at a time comes at once: a view is made of all endpoints, and not once for each that moves.
    pub fn moved(&self, moves: impl IntoIterator<Item = (usize, Vec<Found>)>) {
        let mut places = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for (position, found) in moves {
            if let Some(place) = places.found.get_mut(position).filter(|place| **place != found) {
                *place = found;
                changed = true;
            }
        }
        if changed {
            places.members = None;
            drop(places);
            self.refresh(Moment::now());
        }
    }

    /// What the revision calls whoever is at each address: for `Host` and certificates. Not for request threads.
    #[must_use]
    pub fn hosts(&self) -> HashMap<SocketAddr, String> {
        let places = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hosts = HashMap::new();
        for (definition, found) in self.terms.endpoints.iter().zip(&places.found) {
            for place in found {
                // Two names may stand for one address; the first has it.
                (hosts.entry(place.address)).or_insert_with(|| host(definition, place.address).into_owned());
            }
        }
        hosts
    }

    /// Makes the view anew. Not for request threads.
    pub fn refresh(&self, now: Moment) {
        // Held until the view is stored, so that of two refreshes the one that knows more is the last.
        let mut places = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let members: Arc<[Member]> = match &places.members {
            Some(members) => Arc::clone(members),
            None => self.members(&places.found, now).into(),
        };
        places.members = Some(Arc::clone(&members));
        let view = View::compile(
            &self.terms,
            members,
            Arc::clone(&self.balance),
            self.registry.metrics(),
            now,
        );
        self.view.store(Arc::new(view));
    }

    fn members(&self, found: &[Vec<Found>], now: Moment) -> Vec<Member> {
        let standing = &self.balance;
        // What comes beside others starts slowly; what a gateway begins with does not.
        let joining = standing.is_populated().then_some(now);
        let mut members: Vec<Member> = Vec::new();
        let mut seen = HashSet::new();
        for (definition, found) in self.terms.endpoints.iter().zip(found) {
            for place in found {
                // Two names may stand for one address; the first has it. What was not looked up stands for itself.
                if !seen.insert(place.address) && !place.address.ip().is_unspecified() {
                    continue;
                }
                let endpoint = self.registry.endpoint(&self.terms.name, place.address, joining);
                let peer = self.manner.peer(
                    host(definition, place.address).as_ref(),
                    place.address,
                    endpoint.sockets(),
                );
                members.push(Member {
                    label: label(definition, place.address).into(),
                    weight: place
                        .weight
                        .map_or(definition.weight, |weight| u32::from(weight).max(1)),
                    local: self.registry.is_local(definition.zone.as_deref()),
                    priority: u8::try_from(u16::from(definition.priority).saturating_add(place.priority))
                        .unwrap_or(u8::MAX),
                    peer,
                    endpoint,
                });
            }
        }
        if !members.is_empty() {
            standing.populate();
        }
        members
    }
}

/// What a certificate has to say, when nothing else is written.
fn host(definition: &revision::Endpoint, address: SocketAddr) -> std::borrow::Cow<'_, str> {
    match &definition.locator {
        Locator::Host { host, .. } => host.as_str().into(),
        Locator::Service(_) => address.ip().to_string().into(),
    }
}

/// `host:port` as in the revision, with the address behind it where that is a name.
fn label(definition: &revision::Endpoint, address: SocketAddr) -> String {
    let unknown = address.ip().is_unspecified();
    match &definition.locator {
        Locator::Host { host, port } if host.parse::<std::net::IpAddr>().is_ok() => {
            SocketAddr::new(address.ip(), *port).to_string()
        }
        Locator::Host { host, port } if unknown => format!("{host}:{port}"),
        Locator::Host { host, port } => format!("{host}:{port} ({})", address.ip()),
        Locator::Service(name) if unknown => name.clone(),
        Locator::Service(name) => format!("{name} ({address})"),
    }
}

#[cfg(test)]
mod tests;
