//! A world in virtual time: gateways that run the real code, one store, and a network that delays and loses.
//!
//! Everything that the courier does with sockets and clocks happens here with events: an inbox is drained into an
//! [`Exchange`], its orders travel, the store counts them as Redis would, and the answers travel back. A connection keeps
//! its order both ways, as TCP does. One number, the seed, decides everything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::AtomicU8;
use std::sync::{LazyLock, atomic::Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::exchange::{Answer, BATCH, Exchange, Market, Order, What};
use super::super::lease::{Hand, Lease};
use super::super::shared::{Nodes, Settings};
use super::super::store_key;
use super::super::terms::Terms;
use super::super::*;
use crate::redis::{Health, Slot};
use crate::revision::Limit;
use crate::telemetry::{Metrics, SharingMetrics};

pub const SECOND: u64 = 1_000_000_000;
pub const MILLISECOND: u64 = 1_000_000;

/// When the world begins: 2026-11-21T05:42:00Z, a whole minute.
pub const DAWN: u64 = 1_795_239_720 * SECOND;

/// How long a request may take on the wire before the gateway takes it for lost.
const PATIENCE: u64 = 50 * MILLISECOND;

/// What a world is like.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub gateways: usize,
    pub limit: Limit,
    pub max_wait: u64,
    pub term: u64,
    pub max_counters: usize,
    pub network: Network,
    /// Clocks of gateways differ by so much at most.
    pub skew: u64,
    /// Whether finished leases are swept every second.
    pub sweeps: bool,
}

impl Setup {
    pub fn new(seed: u64, gateways: usize, limit: Limit) -> Self {
        Self {
            seed,
            gateways,
            limit,
            max_wait: 20 * MILLISECOND,
            term: 250 * MILLISECOND,
            max_counters: 1_000,
            network: Network::default(),
            skew: 0,
            sweeps: false,
        }
    }
}

/// What the network is like.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// The median of a round trip, in nanoseconds; log-normal with σ = 0.4.
    pub round_trip: u64,
    /// How many round trips take 50 ms more.
    pub tail: f64,
    /// How many pipelines are lost on their way to the store.
    pub lost_requests: f64,
    /// How many are lost on their way back.
    pub lost_replies: f64,
    /// After how long a gateway takes a pipeline for lost.
    pub patience: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            round_trip: 600_000,
            tail: 0.001,
            lost_requests: 0.0,
            lost_replies: 0.0,
            patience: 3_600 * SECOND,
        }
    }
}

impl Network {
    pub fn lossy(requests: f64, replies: f64) -> Self {
        Self {
            lost_requests: requests,
            lost_replies: replies,
            patience: PATIENCE,
            ..Self::default()
        }
    }
}

/// What goes wrong, or changes.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The process ends at once; another one begins with nothing.
    Crash(usize),
    /// The store forgets everything; if it says so, as another server would.
    Flush { says_so: bool },
    /// The store is as it was at the last `Remember`: a replica was promoted that had not heard the rest.
    Stale { says_so: bool },
    /// See `Stale`.
    Remember,
    /// The store does not answer.
    Down,
    /// It answers again.
    Up,
    /// Round trips take so many times longer.
    Slower(u64),
    /// Another process has the gateway's place: it goes on with what it has, and gives back what it can.
    MakeWay(usize),
    /// A revision with another count arrives at the gateways, within a second.
    Limit(Box<Limit>),
}

/// What became of all requests for a counter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    pub offered: u64,
    pub admitted: u64,
}

/// What was sent to the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Commands {
    pub takes: u64,
    pub expiries: u64,
    pub returns: u64,
    pub scripts: u64,
}

impl Commands {
    pub fn all(&self) -> u64 {
        self.takes + self.expiries + self.returns + self.scripts
    }
}

enum Event {
    Request { gateway: usize, subject: u32, cost: u32 },
    Resume { gateway: usize, waiter: u64 },
    Expire { gateway: usize, waiter: u64 },
    Pump { gateway: usize },
    Arrive { pipeline: u64 },
    Reply { pipeline: u64 },
    Timeout { pipeline: u64 },
    Fault(Fault),
    Feel { gateway: usize, health: u8 },
    Revise { gateway: usize, rule: Arc<Rule> },
    Sweep,
}

struct Pipeline {
    gateway: usize,
    incarnation: u32,
    orders: Vec<(Order, bool)>,
    raise: Vec<String>,
    reply_lost: bool,
    replies: Vec<Reply>,
    given_up: bool,
    sent: u64,
}

enum Reply {
    To(Answer),
    Returned(i64),
}

struct Waiter {
    lease: Arc<Lease>,
    subject: u32,
    cost: u32,
    patience: Patience,
}

/// How the gateway sees the store.
struct Seen(AtomicU8);

impl Nodes for Seen {
    fn health_of(&self, _: Slot) -> Health {
        [Health::Up, Health::Slow, Health::Down][self.0.load(Ordering::Relaxed) as usize]
    }
}

const UP: u8 = 0;
const SLOW: u8 = 1;
const DOWN: u8 = 2;

struct Gateway {
    throttle: Throttle,
    shared: Arc<Shared>,
    seen: Arc<Seen>,
    exchange: Exchange,
    rule: Arc<Rule>,
    skew: i64,
    incarnation: u32,
    under_way: usize,
    waiters: BTreeMap<u64, Waiter>,
    /// How many orders to hand back void tickets the exchange has in store.
    voids: usize,
    raise: Vec<String>,
    pump_at: Option<u64>,
    last_out: u64,
    last_back: u64,
    /// What the last permit told was left, by subject: the window, the limit, and the number.
    told: BTreeMap<u32, (u32, u32, u32)>,
}

#[derive(Default, Clone)]
struct Store {
    counters: BTreeMap<String, i64>,
    /// Microseconds at which a bucket is full again.
    buckets: BTreeMap<String, f64>,
    /// Tickets above the limit that were not handed back yet.
    void: BTreeMap<String, i64>,
}

pub struct World {
    pub setup: Setup,
    pub now: u64,
    rng: StdRng,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    what: BTreeMap<u64, Event>,
    serial: u64,
    gateways: Vec<Gateway>,
    store: Store,
    replica: Store,
    data: u32,
    away: bool,
    slower: u64,
    pipelines: BTreeMap<u64, Pipeline>,
    /// By subject and number of the window.
    pub accounts: BTreeMap<(u32, u32), Account>,
    /// When how much was admitted, by subject.
    pub admissions: BTreeMap<u32, Vec<(u64, u32)>>,
    pub commands: Commands,
    pub requests: u64,
    pub waited: u64,
    pub longest_wait: u64,
    pub lost: u64,
    pub crashes: u64,
    pub losses: u64,
    /// Whether the promise about what clients are told is checked.
    pub checks_told: bool,
    /// Whether the proof's step is checked: a grant never lifts what was issued above the limit.
    pub checks_grants: bool,
}

pub fn subject(number: u32) -> Subject {
    Subject::of_number(7, u64::from(number))
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let mut rng = StdRng::seed_from_u64(setup.seed);
        let rule = Arc::new(super::super::tests::rule(&setup.limit));
        let gateways = (0..setup.gateways)
            .map(|_| gateway(&setup, &rule, &mut rng, 0))
            .collect();
        let mut world = Self {
            now: DAWN,
            rng,
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            serial: 0,
            gateways,
            store: Store::default(),
            replica: Store::default(),
            data: 1,
            away: false,
            slower: 1,
            pipelines: BTreeMap::new(),
            accounts: BTreeMap::new(),
            admissions: BTreeMap::new(),
            commands: Commands::default(),
            requests: 0,
            waited: 0,
            longest_wait: 0,
            lost: 0,
            crashes: 0,
            losses: 0,
            checks_told: true,
            checks_grants: true,
            setup,
        };
        if world.setup.sweeps {
            world.at(DAWN + SECOND, Event::Sweep);
        }
        world
    }

    pub fn terms(&self) -> &Terms {
        self.gateways[0].rule.terms()
    }

    /// One gateway's part of the allowed overrun.
    pub fn credit(&self) -> u64 {
        u64::from(self.terms().credit(self.setup.gateways as u32))
    }

    /// A request, so many nanoseconds after dawn.
    pub fn request(&mut self, after: u64, gateway: usize, subject: u32, cost: u32) {
        self.at(DAWN + after, Event::Request { gateway, subject, cost });
    }

    pub fn fault(&mut self, after: u64, fault: Fault) {
        self.at(DAWN + after, Event::Fault(fault));
    }

    /// Requests that come at random from one instant to another, so many a second, to gateways by weight.
    pub fn arrivals(&mut self, from: f64, to: f64, rate: f64, weights: &[f64], subjects: u32, most_cost: u32) {
        let all: f64 = weights.iter().sum();
        let mut at = from;
        loop {
            at -= (1.0 - self.rng.random::<f64>()).ln() / rate;
            if at >= to {
                return;
            }
            let mut point = self.rng.random::<f64>() * all;
            let gateway = weights
                .iter()
                .position(|weight| {
                    point -= weight;
                    point < 0.0
                })
                .unwrap_or(weights.len() - 1);
            let subject = self.rng.random_range(0..subjects);
            let cost = self.rng.random_range(1..=most_cost);
            self.request((at * 1e9) as u64, gateway, subject, cost);
        }
    }

    /// Runs until nothing is left to happen, or until an instant after dawn.
    pub fn run_until(&mut self, after: u64) {
        while let Some(&Reverse((at, serial))) = self.events.peek() {
            if at > DAWN.saturating_add(after) {
                self.now = self.now.max(DAWN + after);
                return;
            }
            self.events.pop();
            self.now = at;
            if let Some(event) = self.what.remove(&serial) {
                self.happen(event);
            }
        }
        if after < u64::MAX / 2 {
            self.now = self.now.max(DAWN + after);
        }
    }

    pub fn run(&mut self) {
        self.setup.sweeps = false;
        self.run_until(u64::MAX / 2);
    }

    /// Every gateway leaves gracefully.
    pub fn close(&mut self) {
        for number in 0..self.gateways.len() {
            self.gateways[number].shared.retire_all();
            self.gateways[number].exchange.close();
            self.pump(number);
        }
        self.run();
    }

    /// What the store counts for a subject in a window; nothing if it does not know it.
    pub fn counted(&self, number: u32, window: u32) -> i64 {
        let key = self.key(number, window);
        self.store.counters.get(&key).copied().unwrap_or(0)
    }

    /// Whether any counter of the store is below zero.
    pub fn has_negative(&self) -> bool {
        self.store.counters.values().any(|&count| count < 0)
    }

    /// Tickets in all hands.
    pub fn held(&self, number: u32) -> u64 {
        self.gateways
            .iter()
            .filter_map(|gateway| {
                let demand = Demand {
                    rule: &gateway.rule,
                    subject: subject(number),
                };
                let lease = gateway.shared.find(&demand)?;
                let window = gateway.rule.quota().shape().window_of(local(gateway, self.now)).index;
                match &lease.hand {
                    Hand::Tickets(tickets) => Some(u64::from(tickets.standing(window).held())),
                    Hand::Tokens(_) => None,
                }
            })
            .sum()
    }

    pub fn evictions(&self) -> u64 {
        self.gateways.iter().map(|gateway| gateway.throttle.evictions()).sum()
    }

    pub fn window_now(&self) -> u32 {
        let now = Time::from_unix_nanos(self.now);
        self.gateways[0].rule.quota().shape().window_of(now).index
    }

    fn key(&self, number: u32, window: u32) -> String {
        let lease = Lease::new(subject(number), self.gateways[0].rule.terms(), false, Arc::default());
        store_key::key(lease.name(), self.terms(), window)
    }

    fn at(&mut self, time: u64, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((time, self.serial)));
        self.what.insert(self.serial, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Request { gateway, subject, cost } => self.arrive_request(gateway, subject, cost),
            Event::Resume { gateway, waiter } => {
                if let Some(mut waiting) = self.gateways[gateway].waiters.remove(&waiter) {
                    leave(&waiting);
                    waiting.patience = Patience::Outrun;
                    self.wait(gateway, waiter, waiting);
                }
            }
            Event::Expire { gateway, waiter } => {
                if let Some(waiting) = self.gateways[gateway].waiters.remove(&waiter) {
                    leave(&waiting);
                    let decided = self.decide(gateway, waiting.subject, waiting.cost, waiting.patience);
                    if let Ok(permit) = decided {
                        self.admitted(gateway, waiting.subject, waiting.cost, permit);
                    }
                    self.longest_wait = self.longest_wait.max(self.setup.max_wait);
                    self.collect(gateway);
                }
            }
            Event::Pump { gateway } => {
                if self.gateways[gateway].pump_at.is_some_and(|at| at <= self.now) {
                    self.gateways[gateway].pump_at = None;
                }
                self.pump(gateway);
            }
            Event::Arrive { pipeline } => self.arrive(pipeline),
            Event::Reply { pipeline } => self.reply(pipeline),
            Event::Timeout { pipeline } => self.time_out(pipeline),
            Event::Fault(fault) => self.strike(fault),
            Event::Feel { gateway, health } => {
                self.gateways[gateway].seen.0.store(health, Ordering::Relaxed);
                self.pump(gateway);
            }
            Event::Revise { gateway, rule } => self.gateways[gateway].rule = rule,
            Event::Sweep => {
                for gateway in &self.gateways {
                    gateway.throttle.sweep(local(gateway, self.now));
                }
                if self.setup.sweeps {
                    self.at(self.now + SECOND, Event::Sweep);
                }
            }
        }
    }

    // The side of requests: as `Throttle::wait` does it.

    fn decide(&self, gateway: usize, number: u32, cost: u32, patience: Patience) -> Result<Permit, Hold> {
        let gateway = &self.gateways[gateway];
        let demand = Demand {
            rule: &gateway.rule,
            subject: subject(number),
        };
        gateway
            .throttle
            .decide(&[demand], cost, local(gateway, self.now), patience)
    }

    fn arrive_request(&mut self, gateway: usize, number: u32, cost: u32) {
        self.requests += 1;
        let window = self.window_at(gateway);
        self.accounts.entry((number, window)).or_default().offered += u64::from(cost);
        match self.decide(gateway, number, cost, Patience::Waits) {
            Ok(permit) => self.admitted(gateway, number, cost, permit),
            Err(Hold::Exceeded(_)) => {}
            Err(Hold::Short(lease)) => {
                self.waited += 1;
                self.serial += 1;
                let waiter = self.serial;
                self.at(self.now + self.setup.max_wait, Event::Expire { gateway, waiter });
                self.wait(
                    gateway,
                    waiter,
                    Waiter {
                        lease,
                        subject: number,
                        cost,
                        patience: Patience::None,
                    },
                );
            }
        }
        self.collect(gateway);
    }

    fn wait(&mut self, gateway: usize, waiter: u64, mut waiting: Waiter) {
        for _ in 0..10 {
            // Taken off again by `leave`.
            std::mem::forget(self.gateways[gateway].shared.wait_for(&waiting.lease, waiting.cost));
            match self.decide(gateway, waiting.subject, waiting.cost, Patience::Waits) {
                Err(Hold::Short(other)) if Arc::ptr_eq(&other, &waiting.lease) => {
                    self.gateways[gateway].waiters.insert(waiter, waiting);
                    self.collect(gateway);
                    return;
                }
                Err(Hold::Short(other)) => {
                    leave(&waiting);
                    waiting.lease = other;
                }
                Ok(permit) => {
                    leave(&waiting);
                    self.admitted(gateway, waiting.subject, waiting.cost, permit);
                    self.collect(gateway);
                    return;
                }
                Err(Hold::Exceeded(_)) => {
                    leave(&waiting);
                    self.collect(gateway);
                    return;
                }
            }
        }
        panic!("a request finds another lease every time");
    }

    fn admitted(&mut self, gateway: usize, number: u32, cost: u32, permit: Permit) {
        let window = self.window_at(gateway);
        self.accounts.entry((number, window)).or_default().admitted += u64::from(cost);
        self.admissions.entry(number).or_default().push((self.now, cost));
        let limit = self.gateways[gateway].rule.terms().limit();
        let Some(standing) = permit.tightest else { return };
        let told = (window, limit, standing.remaining);
        let before = self.gateways[gateway].told.insert(number, told);
        if let Some((then, under, remaining)) = before
            && self.checks_told
            && (then, under) == (window, limit)
        {
            assert!(
                standing.remaining <= remaining,
                "seed {}: told {remaining} left, then {}",
                self.setup.seed,
                standing.remaining
            );
        }
    }

    fn window_at(&self, gateway: usize) -> u32 {
        let gateway = &self.gateways[gateway];
        let shape = gateway.rule.quota().shape();
        if shape.has_windows() {
            shape.window_of(local(gateway, self.now)).index
        } else {
            0
        }
    }

    // The side of the store: as `courier` does it.

    fn collect(&mut self, number: usize) {
        let leases = self.gateways[number].shared.inbox().take_now();
        if !leases.is_empty() {
            for lease in leases {
                self.gateways[number].exchange.wish(lease);
            }
            self.pump(number);
        }
    }

    fn market(&mut self) -> Market {
        Market {
            instances: self.setup.gateways as u32,
            term: self.setup.term,
            round_trip: self.setup.network.round_trip * self.slower,
            data: self.data,
            dice: self.rng.random(),
        }
    }

    fn pump(&mut self, number: usize) {
        for lease in self.gateways[number].shared.inbox().take_now() {
            self.gateways[number].exchange.wish(lease);
        }
        loop {
            let market = self.market();
            let gateway = &mut self.gateways[number];
            let room = gateway.under_way == 0 || (gateway.under_way < 2 && gateway.exchange.backlog() >= BATCH);
            if !room || gateway.seen.0.load(Ordering::Relaxed) == DOWN {
                return;
            }
            let now = local(gateway, self.now);
            let orders = gateway.exchange.batch(now, market);
            let raise = std::mem::take(&mut gateway.raise);
            if orders.is_empty() && raise.is_empty() {
                break;
            }
            let orders = orders
                .into_iter()
                .map(|order| {
                    let void = match order.what {
                        // They go before anything else that is handed back.
                        What::Return { .. } if gateway.voids > 0 => {
                            gateway.voids -= 1;
                            true
                        }
                        _ => false,
                    };
                    (order, void)
                })
                .collect();
            self.send(number, orders, raise);
        }
        let gateway = &mut self.gateways[number];
        let Some(at) = gateway.exchange.next_time() else { return };
        let now = local(gateway, self.now);
        assert!(
            at > now,
            "seed {}: the exchange has nothing to do, and is in a hurry",
            self.setup.seed
        );
        let at = self.now + at.since(now);
        if gateway.pump_at.is_none_or(|set| at < set) {
            gateway.pump_at = Some(at);
            self.at(at, Event::Pump { gateway: number });
        }
    }

    fn send(&mut self, number: usize, orders: Vec<(Order, bool)>, raise: Vec<String>) {
        for (order, _) in &orders {
            match order.what {
                What::Take { expire, .. } => {
                    self.commands.takes += 1;
                    self.commands.expiries += u64::from(expire);
                }
                What::Return { .. } => self.commands.returns += 1,
                What::Heal { .. } | What::Fill { .. } | What::Restore { .. } => self.commands.scripts += 1,
            }
        }
        let way = self.way();
        let network = self.setup.network;
        let request_lost = self.rng.random_bool(network.lost_requests);
        let reply_lost = self.rng.random_bool(network.lost_replies);
        self.lost += u64::from(request_lost || reply_lost);
        let gateway = &mut self.gateways[number];
        gateway.under_way += 1;
        gateway.last_out = (self.now + way).max(gateway.last_out + 1);
        let (arrival, incarnation) = (gateway.last_out, gateway.incarnation);
        self.serial += 1;
        let pipeline = self.serial;
        self.pipelines.insert(
            pipeline,
            Pipeline {
                gateway: number,
                incarnation,
                orders,
                raise,
                reply_lost,
                replies: Vec::new(),
                given_up: false,
                sent: self.now,
            },
        );
        if !request_lost {
            self.at(arrival, Event::Arrive { pipeline });
        }
        self.at(self.now + network.patience, Event::Timeout { pipeline });
    }

    fn way(&mut self) -> u64 {
        let (a, b): (f64, f64) = (self.rng.random(), self.rng.random());
        let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        let network = self.setup.network;
        let tail = if self.rng.random_bool(network.tail / 2.0) {
            50.0 * MILLISECOND as f64
        } else {
            0.0
        };
        let base = (network.round_trip * self.slower) as f64 / 2.0;
        (base * (0.4 * normal).exp() + tail) as u64
    }

    fn arrive(&mut self, number: u64) {
        if self.away {
            return;
        }
        let Some(mut pipeline) = self.pipelines.remove(&number) else {
            return;
        };
        for key in pipeline.raise.drain(..) {
            let count = self.store.counters.entry(key).or_default();
            *count = (*count).max(0);
        }
        pipeline.replies = pipeline
            .orders
            .iter()
            .map(|(order, void)| self.count(order, *void))
            .collect();
        let (reply_lost, gateway) = (pipeline.reply_lost, pipeline.gateway);
        self.pipelines.insert(number, pipeline);
        if !reply_lost {
            let way = self.way();
            let gateway = &mut self.gateways[gateway];
            gateway.last_back = (self.now + way).max(gateway.last_back + 1);
            let at = gateway.last_back;
            self.at(at, Event::Reply { pipeline: number });
        }
    }

    /// What Redis does.
    fn count(&mut self, order: &Order, void: bool) -> Reply {
        let key = store_key::key(order.lease.name(), &order.terms, order.window);
        let before = store_key::key(order.lease.name(), &order.terms, order.window.saturating_sub(1));
        let previous = if order.terms.quota.shape().slides() {
            self.store.counters.get(&before).copied().unwrap_or(0)
        } else {
            0
        };
        match order.what {
            What::Take { charge, want, .. } => {
                let count = self.store.counters.entry(key.clone()).or_default();
                let was = *count;
                *count += i64::from(charge) + i64::from(want);
                let value = *count;
                let limit = i64::from(order.terms.limit());
                let granted = (limit - was.max(0) - i64::from(charge)).clamp(0, i64::from(want));
                let unreturned = self.store.void.entry(key).or_default();
                *unreturned += i64::from(want) - granted;
                if self.checks_grants && granted > 0 {
                    let issued = value - *unreturned;
                    assert!(
                        issued <= limit,
                        "seed {}: a grant lifted {issued} above {limit}",
                        self.setup.seed
                    );
                }
                Reply::To(Answer::Count {
                    value,
                    previous: Some(previous),
                    expires: true,
                })
            }
            What::Return { count } => {
                if void {
                    *self.store.void.entry(key.clone()).or_default() -= i64::from(count);
                }
                let value = self.store.counters.entry(key).or_default();
                *value -= i64::from(count);
                Reply::Returned(*value)
            }
            What::Restore { count, after } => {
                let interval = order.terms.quota.interval() as f64 / 1_000.0;
                let now = (self.now / 1_000) as f64;
                let full = self.store.buckets.entry(key).or_default();
                *full = full.max(now) - f64::from(count) * interval + after as f64 / 1_000.0;
                Reply::Returned(0)
            }
            What::Heal { seen } => {
                let count = self.store.counters.entry(key).or_default();
                *count = (*count).max(i64::from(seen));
                Reply::To(Answer::Count {
                    value: *count,
                    previous: Some(previous),
                    expires: true,
                })
            }
            What::Fill { charge, want } => {
                let interval = order.terms.quota.interval() as f64 / 1_000.0;
                let now = (self.now / 1_000) as f64;
                let full = self.store.buckets.entry(key).or_default();
                *full = full.max(now) + f64::from(charge) * interval;
                let room = ((now + f64::from(order.terms.limit()) * interval - *full) / interval).floor();
                let granted = room.min(f64::from(want)).max(0.0);
                *full += granted * interval;
                Reply::To(Answer::Bucket {
                    granted: granted as u32,
                    left: (room - granted) as i64,
                })
            }
        }
    }

    fn reply(&mut self, number: u64) {
        let Some(pipeline) = self.pipelines.get(&number) else {
            return;
        };
        if pipeline.given_up {
            self.pipelines.remove(&number);
            return;
        }
        let Some(pipeline) = self.pipelines.remove(&number) else {
            return;
        };
        let index = pipeline.gateway;
        if self.gateways[index].incarnation != pipeline.incarnation {
            return;
        }
        let market = self.market();
        let mut woken = Vec::new();
        let gateway = &mut self.gateways[index];
        gateway.under_way -= 1;
        let now = local(gateway, self.now);
        for ((order, _), reply) in pipeline.orders.iter().zip(&pipeline.replies) {
            match *reply {
                Reply::To(answer) => {
                    let backlog = gateway.exchange.backlog();
                    gateway.exchange.answered(order, answer, now, market);
                    // The lease is listed again; what is more, is void and goes back.
                    gateway.voids += gateway.exchange.backlog() - backlog - 1;
                    let waiters = gateway.waiters.iter();
                    let those = waiters.filter(|(_, waiter)| Arc::ptr_eq(&waiter.lease, &order.lease));
                    woken.extend(those.map(|(&waiter, _)| waiter));
                }
                Reply::Returned(count) if count < 0 => {
                    let key = store_key::key(order.lease.name(), &order.terms, order.window);
                    gateway.raise.push(key);
                }
                Reply::Returned(_) => {}
            }
        }
        // A waiter runs before the next batch, or after it.
        for waiter in woken {
            if self.rng.random_bool(0.5) {
                self.happen(Event::Resume { gateway: index, waiter });
            } else {
                let at = self.now + self.rng.random_range(1..50_000);
                self.at(at, Event::Resume { gateway: index, waiter });
            }
        }
        self.longest_wait = self
            .longest_wait
            .max((self.now - pipeline.sent).min(self.setup.max_wait));
        self.pump(index);
    }

    fn time_out(&mut self, number: u64) {
        let away = self.away;
        let Some(pipeline) = self.pipelines.get_mut(&number) else {
            return;
        };
        pipeline.given_up = true;
        let index = pipeline.gateway;
        let gateway = &mut self.gateways[index];
        if gateway.incarnation != pipeline.incarnation {
            self.pipelines.remove(&number);
            return;
        }
        gateway.under_way -= 1;
        for (order, _) in &pipeline.orders {
            gateway.exchange.failed(order);
        }
        if pipeline.reply_lost && !pipeline.replies.is_empty() {
            self.pipelines.remove(&number);
        }
        if away {
            gateway.seen.0.store(DOWN, Ordering::Relaxed);
        }
        self.pump(index);
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(number) => {
                self.crashes += 1;
                let rule = Arc::clone(&self.gateways[number].rule);
                let next = self.gateways[number].incarnation + 1;
                let health = self.gateways[number].seen.0.load(Ordering::Relaxed);
                self.gateways[number] = gateway(&self.setup, &rule, &mut self.rng, next);
                self.gateways[number].seen.0.store(health, Ordering::Relaxed);
            }
            Fault::Flush { says_so } => {
                self.losses += 1;
                self.store = Store::default();
                self.data += u32::from(says_so);
                self.checks_grants = false;
            }
            Fault::Remember => self.replica = self.store.clone(),
            Fault::Stale { says_so } => {
                self.losses += 1;
                self.store = self.replica.clone();
                self.data += u32::from(says_so);
                self.checks_grants = false;
            }
            Fault::Down => {
                self.away = true;
                for gateway in 0..self.gateways.len() {
                    let at = self.now + self.rng.random_range(50..150) * MILLISECOND;
                    self.at(at, Event::Feel { gateway, health: DOWN });
                }
            }
            Fault::Up => {
                self.away = false;
                for gateway in 0..self.gateways.len() {
                    let at = self.now + self.rng.random_range(151..500) * MILLISECOND;
                    self.at(at, Event::Feel { gateway, health: UP });
                }
            }
            Fault::Slower(times) => {
                self.slower = times;
                let slow = self.setup.network.round_trip * times > self.setup.max_wait;
                for gateway in 0..self.gateways.len() {
                    let at = self.now + self.rng.random_range(0..1_000) * MILLISECOND;
                    self.at(
                        at,
                        Event::Feel {
                            gateway,
                            health: if slow { SLOW } else { UP },
                        },
                    );
                }
            }
            Fault::MakeWay(number) => {
                self.gateways[number].shared.make_way();
                self.gateways[number].exchange.set_thrifty(true);
                self.collect(number);
            }
            Fault::Limit(limit) => {
                let rule = Arc::new(super::super::tests::rule(&limit));
                for gateway in 0..self.gateways.len() {
                    let at = self.now + self.rng.random_range(0..1_000) * MILLISECOND;
                    let rule = Arc::clone(&rule);
                    self.at(at, Event::Revise { gateway, rule });
                }
            }
        }
    }
}

fn gateway(setup: &Setup, rule: &Arc<Rule>, rng: &mut StdRng, incarnation: u32) -> Gateway {
    static METERS: LazyLock<SharingMetrics> = LazyLock::new(|| Metrics::new().unwrap().sharing());
    let seen = Arc::new(Seen(AtomicU8::new(UP)));
    let settings = Settings {
        instances: setup.gateways as u32,
        max_wait: Duration::from_nanos(setup.max_wait),
        term: Duration::from_nanos(setup.term),
        max_counters: setup.max_counters,
    };
    let nodes = Arc::clone(&seen) as Arc<dyn Nodes>;
    let shared = Arc::new(Shared::new(settings, nodes, METERS.clone()));
    let skew = i64::try_from(setup.skew).unwrap();
    Gateway {
        throttle: Throttle::shared(Arc::clone(&shared)),
        shared,
        seen,
        exchange: Exchange::new(|_| ()),
        rule: Arc::clone(rule),
        skew: rng.random_range(-skew..=skew),
        incarnation,
        under_way: 0,
        waiters: BTreeMap::new(),
        voids: 0,
        raise: Vec::new(),
        pump_at: None,
        last_out: 0,
        last_back: 0,
        told: BTreeMap::new(),
    }
}

/// What the gateway's clock shows.
fn local(gateway: &Gateway, now: u64) -> Time {
    Time::from_unix_nanos(now.saturating_add_signed(gateway.skew))
}

/// What dropping `Waiting` does.
fn leave(waiter: &Waiter) {
    waiter.lease.waiting.fetch_sub(waiter.cost, Ordering::SeqCst);
}
