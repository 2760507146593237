//! What a process knows about upstreams, whatever revision they are in, and who keeps views of them up to date.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::balance::{self, View};
use super::heritage::{Inheritance, Inherited};
use super::peer::Manner;
use super::resolve::Found;
use super::retry::Budget;
use super::{Endpoint, Moment, Places, Upstream};
use crate::names::UpstreamName;
use crate::revision;
use crate::telemetry::UpstreamMetrics;
use crate::telemetry::upstream_metrics::{ConnectionGauges, EndpointGauges};

/// How often breakers are looked at whose time may be over, and slow starts moved on.
const TICK: Duration = Duration::from_millis(100);

/// Changes that come together are one round: where a hundred breakers open within a moment, views are not made a hundred
/// times. Whoever waits for a change does not notice this.
const GATHER: Duration = Duration::from_millis(5);

/// How often gauges are set, in ticks.
const SHOW_EVERY: u32 = 5;

/// How often it is counted how many breakers are open, for one that had to stay closed.
const COUNT: Duration = Duration::from_millis(10);

/// What a process knows about upstreams.
pub struct Registry {
    zone: Option<String>,
    metrics: UpstreamMetrics,
    known: Mutex<Known>,
    next_id: AtomicU32,
    dirty: AtomicBool,
    wake: Notify,
    /// A revision brought upstreams, or took some away.
    arrived: Notify,
}

#[derive(Default)]
struct Known {
    /// What another process knew of endpoints that are not here yet.
    inherited: Inheritance,
    endpoints: HashMap<(UpstreamName, SocketAddr), Weak<Endpoint>>,
    standings: HashMap<UpstreamName, Weak<Standing>>,
    /// Of all snapshots that are alive, in the order in which they were compiled.
    upstreams: Vec<Weak<Upstream>>,
}

/// What outlives the revisions of an upstream, beside its endpoints.
#[derive(Debug, Default)]
pub struct Standing {
    /// What is known of the choice of endpoints.
    pub balance: Arc<balance::Lineage>,
    /// How many requests may be repeated.
    pub budget: Budget,
    /// Held by whoever opens a breaker, so that not more open than may.
    pub opening: Mutex<()>,
    /// When it was last counted how many are open.
    counted: AtomicU64,
}

impl Standing {
    /// Whether it may be counted again how many breakers are open, for one that had to stay closed.
    #[must_use]
    pub fn may_count(&self, now: Moment) -> bool {
        let last = self.counted.load(Ordering::Relaxed);
        now.since(Moment::from_micros(last)) > COUNT
            && (self.counted)
                .compare_exchange(last, now.micros(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

impl Registry {
    /// Knows nothing yet. `zone` is where this gateway stands.
    #[must_use]
    pub fn new(zone: Option<String>, metrics: UpstreamMetrics) -> Self {
        Self {
            zone,
            metrics,
            known: Mutex::default(),
            next_id: AtomicU32::new(1),
            dirty: AtomicBool::new(false),
            wake: Notify::new(),
            arrived: Notify::new(),
        }
    }

    /// Compiles an upstream whose endpoints were found; `found` is in the order of its endpoints. Not for request threads.
    #[must_use]
    pub fn compile(self: &Arc<Self>, terms: &revision::Upstream, found: Vec<Vec<Found>>) -> Arc<Upstream> {
        let standing = {
            let mut known = self.known();
            known.standings.retain(|_, standing| standing.strong_count() > 0);
            match known.standings.get(&terms.name).and_then(Weak::upgrade) {
                Some(standing) => standing,
                None => {
                    let standing = Arc::<Standing>::default();
                    known.standings.insert(terms.name.clone(), Arc::downgrade(&standing));
                    standing
                }
            }
        };
        let balance = standing.balance.succeed();
        let empty = View::compile(terms, Vec::new(), Arc::clone(&balance), &self.metrics, Moment::now());
        let upstream = Arc::new(Upstream {
            manner: Manner::of(terms),
            found: Mutex::new(Places { found, members: None }),
            view: ArcSwap::from_pointee(empty),
            balance,
            standing,
            registry: Arc::clone(self),
            counters: self.metrics.counters(terms.name.as_str()),
            terms: terms.clone(),
        });
        upstream.refresh(Moment::now());
        let mut known = self.known();
        known.upstreams.retain(|upstream| upstream.strong_count() > 0);
        known.upstreams.push(Arc::downgrade(&upstream));
        drop(known);
        self.arrived.notify_waiters();
        // What changed since the view was made, and before anybody could see the upstream, is not in it.
        self.changed();
        upstream
    }

    /// Every upstream of every snapshot that is alive, the newest of a name last.
    #[must_use]
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.known().upstreams.iter().filter_map(Weak::upgrade).collect()
    }

    /// The newest upstream of each name: what is checked and looked up.
    #[must_use]
    pub fn newest(&self) -> Vec<Arc<Upstream>> {
        let mut seen = HashSet::new();
        let mut upstreams: Vec<_> = self.upstreams();
        upstreams.reverse();
        upstreams.retain(|upstream| seen.insert(upstream.name().clone()));
        upstreams
    }

    /// Waits for a revision that was compiled. May be late, and may miss one that comes while nobody waits: look at
    /// [`Self::newest`] every now and then too.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// What is shown.
    #[must_use]
    pub fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// An endpoint changed its state: views are made anew in a few milliseconds.
    pub fn changed(&self) {
        self.dirty.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether a zone is the gateway's own; none if either does not say.
    #[must_use]
    pub fn is_local(&self, zone: Option<&str>) -> Option<bool> {
        Some(self.zone.as_deref()? == zone?)
    }

    /// The endpoint of an upstream at an address, as it is known or new. `joining`: a new one starts slowly, from then on.
    #[must_use]
    pub fn endpoint(&self, upstream: &UpstreamName, address: SocketAddr, joining: Option<Moment>) -> Arc<Endpoint> {
        let mut known = self.known();
        let key = (upstream.clone(), address);
        if let Some(endpoint) = known.endpoints.get(&key).and_then(Weak::upgrade) {
            return endpoint;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let endpoint = Arc::new(Endpoint::new(id, upstream.clone(), address));
        match (known.inherited.claim(&key), joining) {
            (Some(inherited), _) => endpoint.inherit(&inherited),
            (None, Some(now)) => endpoint.join(now),
            (None, None) => {}
        }
        known.endpoints.insert(key, Arc::downgrade(&endpoint));
        endpoint
    }

    /// Keeps views up to date for as long as the process lives.
    pub async fn keep(self: Arc<Self>) {
        let mut shown = Shown::default();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for count in 0_u32.. {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.wake.notified() => tokio::time::sleep(GATHER).await,
            }
            let upstreams = self.upstreams();
            self.turn(&upstreams, Moment::now());
            if count.is_multiple_of(SHOW_EVERY) {
                shown.show(&self.metrics, &self.newest());
                self.sweep(std::time::Instant::now());
            }
        }
    }

    /// One round: breakers whose time is over become half-open, and views that are out of date are made anew.
    fn turn(&self, upstreams: &[Arc<Upstream>], now: Moment) {
        let mut dirty = self.dirty.swap(false, Ordering::Acquire);
        for upstream in upstreams {
            for member in upstream.view().members() {
                dirty |= member.endpoint.breaker().tick(now);
            }
        }
        for upstream in upstreams {
            if dirty || upstream.view().is_moving() {
                upstream.refresh(now);
            }
        }
    }

    /// Every endpoint that is in use.
    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.known().endpoints.values().filter_map(Weak::upgrade).collect()
    }

    /// What another process knew of an endpoint: for the one that is here, or for one that comes soon.
    pub(super) fn bequeath(&self, upstream: UpstreamName, address: SocketAddr, inherited: Inherited) {
        let mut known = self.known();
        let key = (upstream, address);
        match known.endpoints.get(&key).and_then(Weak::upgrade) {
            Some(endpoint) => endpoint.inherit(&inherited),
            None => known.inherited.add(key, inherited),
        }
    }

    /// Forgets endpoints that are in no revision, and closes connections that nobody should take any more.
    fn sweep(&self, now: std::time::Instant) {
        let mut endpoints = Vec::new();
        let mut known = self.known();
        known.inherited.forget_old();
        known.endpoints.retain(|_, endpoint| match endpoint.upgrade() {
            Some(endpoint) => {
                endpoints.push(endpoint);
                true
            }
            None => false,
        });
        drop(known);
        // Without the lock: sockets are closed.
        for endpoint in endpoints {
            endpoint.sockets().sweep(now);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is shown, so that it can be hidden when it is gone.
#[derive(Default)]
struct Shown {
    endpoints: HashSet<(UpstreamName, Arc<str>)>,
    upstreams: HashSet<UpstreamName>,
}

impl Shown {
    fn show(&mut self, metrics: &UpstreamMetrics, upstreams: &[Arc<Upstream>]) {
        let mut now = Self::default();
        for upstream in upstreams {
            let checked = upstream.terms().health_check.is_some();
            let mut connections = ConnectionGauges::default();
            for member in upstream.view().members() {
                let endpoint = &member.endpoint;
                let (active, open) = (i64::from(endpoint.in_flight()), i64::from(endpoint.sockets().open()));
                connections.active += active;
                connections.idle += (open - active).max(0);
                connections.creating += i64::from(endpoint.sockets().creating());
                connections.waiting += i64::from(endpoint.waiting());
                let gauges = EndpointGauges {
                    breaker: endpoint.breaker().state() as i64,
                    healthy: !checked || endpoint.health().is_up(),
                };
                metrics.show_endpoint(upstream.name().as_str(), &member.label, gauges);
                now.endpoints
                    .insert((upstream.name().clone(), Arc::clone(&member.label)));
            }
            metrics.show_connections(upstream.name().as_str(), connections);
            now.upstreams.insert(upstream.name().clone());
        }
        for (upstream, label) in self.endpoints.difference(&now.endpoints) {
            metrics.hide_endpoint(upstream.as_str(), label);
        }
        for upstream in self.upstreams.difference(&now.upstreams) {
            metrics.hide_connections(upstream.as_str());
        }
        *self = now;
    }
}
