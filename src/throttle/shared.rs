//! The counters that this process shares with others: its leases, and the way they go to the exchange.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Demand;
use super::books::GATHER;
use super::clock::Clock;
use super::counter::{Refusal, State};
use super::lease::{Conditions, Lease, Outcome, Patience};
use super::table::Table;
use super::window::Time;
use crate::redis::{Health, Slot};
use crate::telemetry::SharingMetrics;

/// Where counters are kept, as requests need to know it.
pub trait Nodes: Send + Sync {
    /// How the node is that keeps this slot. Called where nothing is held any more; may not block.
    fn health_of(&self, slot: Slot) -> Health;

    /// What that node is called; none if there is no such node, or if nobody is asked at all.
    fn name_of(&self, slot: Slot) -> Option<String> {
        let _ = slot;
        None
    }
}

/// No nodes: for a look at limits that are shared, without the store that shares them.
#[derive(Debug, Clone, Copy)]
pub struct Nowhere;

impl Nodes for Nowhere {
    fn health_of(&self, _: Slot) -> Health {
        Health::Down
    }
}

impl Nodes for crate::redis::Redis {
    fn health_of(&self, slot: Slot) -> Health {
        Self::health_of(self, slot)
    }

    fn name_of(&self, slot: Slot) -> Option<String> {
        self.node_of(slot).map(|node| node.name().to_owned())
    }
}

/// Leases that may be listed beside twice as many as the table holds.
const LISTED_BESIDE: usize = 10_000;

/// How counters are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How many gateways share them at most.
    pub instances: u32,
    /// How long a request waits for the store at most.
    pub max_wait: Duration,
    /// For how long a batch of tickets should last.
    pub term: Duration,
    /// How many leases are held at most.
    pub max_counters: usize,
}

/// The counters that this process shares with others.
pub struct Shared {
    table: Table<Arc<Lease>>,
    nodes: Arc<dyn Nodes>,
    instances: AtomicU32,
    settings: Settings,
    inbox: Inbox,
    /// Leases that there are: in the table, and let go by it but still listed.
    alive: Arc<AtomicUsize>,
    clock: Clock,
    meters: SharingMetrics,
    /// Which data each node has, by its name, as those know it who trade with it.
    data: Mutex<HashMap<String, u32>>,
    /// Whether as little as possible is held, because another process has this one's place.
    thrifty: AtomicBool,
}

/// Why a request was not counted.
pub enum Miss {
    /// The limit is used up.
    Refused(Refusal),
    /// It may be let in when the store has answered about this lease.
    Short(Arc<Lease>),
}

/// A request waits for an answer about a lease.
pub struct Waiting<'a> {
    lease: &'a Lease,
    cost: u32,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.lease.waiting.fetch_sub(self.cost, Ordering::SeqCst);
    }
}

/// Leases that the exchange should look at. There are never many more than leases, and of those at most twice as many as
/// the table holds.
///
/// What nobody waits for (more tickets ahead of need, a debt, what goes back) gathers: the exchange is woken for the
/// first, and then at most once in [`GATHER`], or every request to one of many counters would wake it. A request that waits is not made to
/// wait longer by that: it [hurries](Self::hurry) the exchange, and all that has gathered goes with it.
#[derive(Default)]
pub struct Inbox {
    leases: Mutex<Vec<Arc<Lease>>>,
    arrived: Notify,
    hurried: Notify,
}

impl Inbox {
    /// Puts a lease in that was listed by the caller.
    pub fn put(&self, lease: Arc<Lease>) {
        let mut leases = self.leases.lock();
        leases.push(Arc::clone(&lease));
        let first = leases.len() == 1;
        drop(leases);
        if first {
            self.arrived.notify_one();
        }
        // A request that began to wait meanwhile has hurried for what was not here yet.
        if lease.waiting.load(Ordering::SeqCst) > 0 {
            self.hurry();
        }
    }

    /// A request waits for a lease that is here: nothing gathers any longer.
    pub fn hurry(&self) {
        self.hurried.notify_one();
    }

    /// Takes all, waiting for the first; not before `from`, unless somebody hurries.
    pub async fn take(&self, from: Instant) -> Vec<Arc<Lease>> {
        if Instant::now() < from {
            tokio::select! {
                () = sleep_until(from) => {}
                () = self.hurried.notified() => {}
            }
        }
        loop {
            let leases = self.take_now();
            if !leases.is_empty() {
                return leases;
            }
            self.arrived.notified().await;
        }
    }

    /// When to take again what nobody waits for, after having taken now.
    #[must_use]
    pub fn rests_until() -> Instant {
        Instant::now() + Duration::from_nanos(GATHER)
    }

    /// Takes all that are here.
    #[must_use]
    pub fn take_now(&self) -> Vec<Arc<Lease>> {
        std::mem::take(&mut *self.leases.lock())
    }
}

impl Shared {
    /// Counters on these nodes.
    #[must_use]
    pub fn new(settings: Settings, nodes: Arc<dyn Nodes>, meters: SharingMetrics) -> Self {
        Self {
            table: Table::new(settings.max_counters),
            nodes,
            instances: AtomicU32::new(settings.instances.max(1)),
            settings,
            inbox: Inbox::default(),
            alive: Arc::default(),
            clock: Clock::default(),
            meters,
            data: Mutex::default(),
            thrifty: AtomicBool::new(false),
        }
    }

    /// Counts with the lease of a demand, or says why not. `patience` is for when nothing is held.
    #[inline]
    pub fn spend(&self, demand: &Demand<'_>, cost: u32, now: Time, patience: Patience) -> Result<State, Miss> {
        let terms = demand.rule.terms();
        let (answer, evicted) = self.table.with(
            demand.counter(),
            now,
            |careful| Arc::new(Lease::new(demand.subject, terms, careful, Arc::clone(&self.alive))),
            |lease| match lease.spend(&terms.quota, cost, now) {
                Some((state, low)) => {
                    if low && !lease.is_listed() {
                        self.wish(lease, demand);
                    }
                    Ok(state)
                }
                None => self.beyond(lease, demand, cost, now, patience),
            },
        );
        if let Some(lease) = evicted {
            self.retire(lease);
        }
        match answer {
            Err(None) => {
                // A clock was wrong by far. A new lease holds nothing, so nothing is spent twice.
                if let Some(lease) = self.table.remove(demand.counter()) {
                    self.retire(lease);
                }
                self.spend(demand, cost, now, patience)
            }
            Err(Some(miss)) => Err(miss),
            Ok(state) => Ok(state),
        }
    }

    /// What [`spend`](Self::spend) would answer.
    ///
    /// # Errors
    /// When the limit is known to be used up.
    pub fn peek(&self, demand: &Demand<'_>, cost: u32, now: Time) -> Result<State, Refusal> {
        let terms = demand.rule.terms();
        let look = |lease: &Arc<Lease>| lease.peek(&terms.quota, cost, now);
        self.table
            .look(demand.counter(), look)
            .unwrap_or_else(|| look(&Arc::new(Lease::new(demand.subject, terms, false, Arc::default()))))
    }

    /// Takes back what was spent in a window.
    pub fn give_back(&self, demand: &Demand<'_>, cost: u32, window: u32, now: Time) {
        self.table
            .find(demand.counter(), |lease| lease.give_back(cost, window, now));
    }

    /// A request of this cost waits for an answer about a lease, until what is returned is dropped.
    pub fn wait_for<'a>(&self, lease: &'a Arc<Lease>, cost: u32) -> Waiting<'a> {
        lease.waiting.fetch_add(cost, Ordering::SeqCst);
        // After it is known to wait: the exchange may have looked just before.
        if lease.list() {
            self.inbox.put(Arc::clone(lease));
        }
        // Even if it was listed before: it may be gathering.
        self.inbox.hurry();
        Waiting { lease, cost }
    }

    /// The lease of a demand, if there is one.
    #[must_use]
    pub fn find(&self, demand: &Demand<'_>) -> Option<Arc<Lease>> {
        self.table.look(demand.counter(), Arc::clone)
    }

    /// Removes finished leases, a part of the table at a time.
    pub fn sweep(&self, now: Time) -> usize {
        self.table.sweep(now)
    }

    /// Puts every lease on the exchange's list, to give back what it holds.
    pub fn retire_all(&self) {
        self.table.for_each(|lease| {
            lease.retired.store(true, Ordering::Release);
            if lease.list() {
                self.inbox.put(Arc::clone(lease));
            }
        });
    }

    /// Another process has this one's place: what is held goes back at once, and from now on a lease buys what requests
    /// wait for and no more, and charges at once what it gave on credit. Until it ends there is one gateway more than
    /// there are instances, as after a crash.
    pub fn make_way(&self) {
        self.thrifty.store(true, Ordering::Release);
        self.table.for_each(|lease| {
            if lease.list() {
                self.inbox.put(Arc::clone(lease));
            }
        });
    }

    /// Whether as little as possible is held.
    #[must_use]
    pub fn is_thrifty(&self) -> bool {
        self.thrifty.load(Ordering::Acquire)
    }

    /// How many leases hold or owe something that the store does not know of. For after the end of the exchange.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        let now = self.clock.now();
        let unsettled = AtomicUsize::new(0);
        self.table.for_each(|lease| {
            if lease.holds(now) {
                unsettled.fetch_add(1, Ordering::Relaxed);
            }
        });
        unsettled.into_inner()
    }

    /// The leases.
    #[must_use]
    pub fn table(&self) -> &Table<Arc<Lease>> {
        &self.table
    }

    /// What the exchange should look at.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// The window clock: the store's time.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What is counted about sharing.
    #[must_use]
    pub fn meters(&self) -> &SharingMetrics {
        &self.meters
    }

    /// How counters are shared.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many gateways share the counters at most.
    #[must_use]
    pub fn instances(&self) -> u32 {
        self.instances.load(Ordering::Relaxed)
    }

    /// The number of gateways has changed: from now on credit is this part of the allowed overrun.
    pub fn set_instances(&self, instances: u32) {
        self.instances.store(instances.max(1), Ordering::Relaxed);
    }

    /// How the node is that keeps a slot.
    #[must_use]
    pub fn health_of(&self, slot: Slot) -> Health {
        self.nodes.health_of(slot)
    }

    /// What the node is called that keeps a slot; none if there is none.
    #[must_use]
    pub fn name_of(&self, slot: Slot) -> Option<String> {
        self.nodes.name_of(slot)
    }

    /// A node has this data from now on: counters that were traded with other data are suspect. None when nobody trades
    /// with it any more.
    pub fn note_data(&self, node: &str, data: Option<u32>) {
        let mut known = self.data.lock();
        match data {
            Some(data) => known.insert(node.to_owned(), data),
            None => known.remove(node),
        };
    }

    /// Which data a node has; none while nobody trades with it.
    #[must_use]
    pub fn data_of(&self, node: &str) -> Option<u32> {
        self.data.lock().get(node).copied()
    }

    #[cold]
    fn beyond(
        &self,
        lease: &Arc<Lease>,
        demand: &Demand<'_>,
        cost: u32,
        now: Time,
        patience: Patience,
    ) -> Result<State, Option<Miss>> {
        let conditions = Conditions {
            instances: self.instances(),
            health: self.nodes.health_of(lease.slot()),
            patience,
        };
        let (outcome, wish) = lease.beyond(demand.rule.terms(), cost, now, conditions);
        if wish {
            self.wish(lease, demand);
        }
        match outcome {
            Outcome::Spent(state) => Ok(state),
            Outcome::Refused(refusal) => Err(Some(Miss::Refused(refusal))),
            Outcome::Short => {
                // It is listed by the request that waits, which does not know the terms: a limit that was lowered would
                // go on being traded by the old ones.
                lease.books.lock().govern(demand.rule.terms());
                Err(Some(Miss::Short(Arc::clone(lease))))
            }
            Outcome::Astray => Err(None),
        }
    }

    #[cold]
    fn wish(&self, lease: &Arc<Lease>, demand: &Demand<'_>) {
        if self.is_full() {
            return;
        }
        if lease.list() {
            lease.books.lock().govern(demand.rule.terms());
            self.inbox.put(Arc::clone(lease));
        }
    }

    /// Whether so many leases wait for a store that is away that no more are listed: what the table lets go of then is
    /// forgotten, with its debts. Its metric is that of the table, `tollgate_throttle_evictions`.
    fn is_full(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
            > self
                .settings
                .max_counters
                .saturating_mul(2)
                .saturating_add(LISTED_BESIDE)
    }

    /// The table has let go of a lease: what it holds goes back, what it owes is charged.
    #[cold]
    fn retire(&self, lease: Arc<Lease>) {
        lease.retired.store(true, Ordering::Release);
        // Who waits for it has to look for another one.
        lease.answered.notify_waiters();
        if !self.is_full() && lease.list() {
            self.inbox.put(lease);
        }
    }
}
