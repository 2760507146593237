//! A counter as an operator wants to see it. Changes nothing, and does not make a counter that is not there.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::counter::Quota;
use super::lease::{Hand, Lease};
use super::rule::period_word;
use super::shared::Shared;
use super::store_key;
use super::terms::LIFE;
use super::terms::{Promise, Terms};
use super::window::Time;
use super::zone::Zone;
use super::{Counters, Demand, Rule, Throttle};
use crate::redis::{Health, Slot};
use crate::revision::WithoutStore;
use crate::units::Rate;

/// After how long the debt of a bucket is charged that nobody is in a hurry about.
const BUCKET_FLUSH: Duration = Duration::from_secs(1);

/// How a limit stands for a subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The counter: limit, subject, window; `plan/gold/minute/subscription/mobile@orders/2026-11-21T05:42Z`.
    pub key: String,
    /// The configured rate.
    pub rate: Rate,
    /// The most that can be spent at once: the rate's count, or the burst.
    pub limit: u32,
    /// What is left, as far as this process knows.
    pub remaining: u32,
    /// When there is more, by this host's clock: the end of the window, or when the bucket is full.
    pub reset: Time,
    /// Whether the limit refuses, or only counts.
    pub enforced: bool,
    /// How it is shared; none if this process counts alone.
    pub sharing: Option<SharingFacts>,
}

/// How a counter is shared by many gateways, and what this one holds of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SharingFacts {
    /// Its key in the store, in this window.
    pub store_key: String,
    /// The node that keeps it; none if no node does, or if the store is not asked.
    pub node: Option<String>,
    /// How that node is.
    pub health: Health,
    /// What is promised.
    pub promise: Promise,
    /// What happens while the store is away.
    pub on_store_down: WithoutStore,
    /// What happens to a request that has waited for the store as long as it may.
    pub on_timeout: WithoutStore,
    /// After how long a small debt is charged.
    pub flush_after: Duration,
    /// What this gateway holds.
    pub lease: LeaseFacts,
}

/// What a gateway holds of a shared counter.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseFacts {
    /// What requests live on.
    pub state: LeaseState,
    /// What may be spent without asking.
    pub held: u32,
    /// What was spent and not yet paid for.
    pub debt: u32,
    /// What this gateway has admitted in this window; none for a bucket, which has no windows.
    pub spent_here: Option<u32>,
    /// The store's counter when it was last heard in this window; none if it was not, or for a bucket.
    pub heard: Option<u32>,
    /// When the store last answered about a bucket, by the store's clock.
    pub bucket_heard_at: Option<Time>,
    /// What is asked for in a second, of late.
    pub pace_per_second: f64,
    /// What the requests cost that wait for the store.
    pub waiting: u32,
    /// Whether the store is being asked.
    pub order_under_way: bool,
}

/// What requests that meet a shared counter live on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Credit, or an answer that they wait for: the store has not been heard yet.
    Cold,
    /// What is held.
    Leased,
    /// Credit, charged now and then: too few come to hold anything.
    Thin,
    /// Nothing: it is known to be used up.
    Spent,
    /// What the policy says: the store is away.
    Fallback,
    /// As before; but the store has other data than it was traded with, and is told what is known before it is asked
    /// again.
    Suspect,
}

impl LeaseState {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Leased => "leased",
            Self::Thin => "thin",
            Self::Spent => "spent",
            Self::Fallback => "fallback",
            Self::Suspect => "suspect",
        }
    }
}

impl Rule {
    /// Its period in a word: `minute`.
    #[must_use]
    pub fn period_word(&self) -> &'static str {
        period_word(self.rate().period)
    }

    /// How it cuts time, as written in configuration: `fixed`, `sliding` or `token_bucket`.
    #[must_use]
    pub fn window_word(&self) -> &'static str {
        let shape = self.quota().shape();
        match (shape.has_windows(), shape.slides()) {
            (true, false) => "fixed",
            (true, true) => "sliding",
            (false, _) => "token_bucket",
        }
    }

    /// The time zone of its windows, if it makes a difference.
    #[must_use]
    pub fn zone_name(&self) -> Option<&'static str> {
        let zone = self.quota().shape().calendar().zone();
        (zone != Zone::UTC).then(|| zone.name())
    }
}

impl Throttle {
    /// How a limit stands for a subject, without counting anything. A subject is a hash here, so its name for people
    /// (`mobile@orders`, `192.0.2.7`) comes from the caller; empty for [`Subject::none`](super::Subject::none).
    #[must_use]
    pub fn describe(&self, demand: &Demand<'_>, subject_name: &str, now: Time) -> Description {
        let rule = demand.rule;
        let shape = rule.quota().shape();
        let mut key = String::from(rule.key());
        if !subject_name.is_empty() {
            key.push('/');
            key.push_str(subject_name);
        }
        if shape.has_windows() {
            let calendar = shape.calendar();
            // Writing to a string does not fail.
            let _ = write!(key, "/{}", calendar.stamp(&calendar.window_of(now)));
        }
        let sharing = match &self.counters {
            Counters::Own(_) => None,
            Counters::Shared(shared) => Some(sharing_facts(shared, demand, now)),
        };
        // A cost of nothing shows how the counter stands; it is refused where a lowered limit is overspent.
        let (remaining, reset) = match (self.peek(demand, 0, now), &sharing) {
            (Ok(state), Some(sharing)) if !shape.has_windows() => {
                let remaining = left_in_bucket(rule.quota(), state.remaining, &sharing.lease, now);
                (
                    remaining,
                    now.plus(rule.quota().time_to_gain(rule.quota().whole() - remaining)),
                )
            }
            (Ok(state), _) => (state.remaining, state.reset),
            (Err(refusal), _) => (refusal.remaining, refusal.retry_at),
        };
        Description {
            key,
            rate: rule.rate(),
            limit: rule.quota().whole(),
            remaining,
            reset,
            enforced: rule.enforced(),
            sharing,
        }
    }
}

/// What a shared bucket has left: what was heard, and what it has gained since. One that was never heard is full, but
/// for what was spent on credit.
fn left_in_bucket(quota: &Quota, heard: u32, lease: &LeaseFacts, now: Time) -> u32 {
    let whole = quota.whole();
    match lease.bucket_heard_at {
        None => whole.saturating_sub(lease.debt),
        Some(then) => {
            let gained = u32::try_from(quota.gained_in(now.since(then))).unwrap_or(u32::MAX);
            heard.saturating_add(gained).min(whole)
        }
    }
}

fn sharing_facts(shared: &Shared, demand: &Demand<'_>, now: Time) -> SharingFacts {
    let terms = demand.rule.terms();
    let shape = terms.quota.shape();
    let window = if shape.has_windows() {
        shape.window_of(now).index
    } else {
        0
    };
    let name = demand.subject.name();
    let slot = Slot::of_tag(&store_key::tag(name));
    let node = shared.name_of(slot);
    let health = shared.health_of(slot);
    let data = node.as_deref().and_then(|node| shared.data_of(node));
    let lease = match shared.find(demand) {
        Some(lease) => {
            let term = u64::try_from(shared.settings().term.as_nanos()).unwrap_or(u64::MAX);
            lease_facts(&lease, terms, window, now, (health, data, term))
        }
        None => LeaseFacts::none(health, shape.has_windows()),
    };
    SharingFacts {
        store_key: store_key::key(name, terms, window),
        node,
        health,
        promise: terms.promise(shared.instances()),
        on_store_down: terms.on_store_down,
        on_timeout: terms.on_timeout,
        flush_after: if shape.has_windows() {
            Duration::from_nanos(terms.flush_after())
        } else {
            BUCKET_FLUSH
        },
        lease,
    }
}

impl LeaseFacts {
    /// There is no lease: nobody has asked yet.
    fn none(health: Health, has_windows: bool) -> Self {
        Self {
            state: if health == Health::Down {
                LeaseState::Fallback
            } else {
                LeaseState::Cold
            },
            held: 0,
            debt: 0,
            spent_here: has_windows.then_some(0),
            heard: None,
            bucket_heard_at: None,
            pace_per_second: 0.0,
            waiting: 0,
            order_under_way: false,
        }
    }
}

fn lease_facts(
    lease: &Lease,
    terms: &Terms,
    window: u32,
    now: Time,
    (health, data, term): (Health, Option<u32>, u64),
) -> LeaseFacts {
    // While the books are open nothing is granted or handed back: what is read here belongs together, but for what
    // requests spend meanwhile.
    let books = lease.books.lock();
    let (looked_in, looked_spent, looked_refused) = books.looked();
    let (heard, bucket_heard_at) = (books.heard(window), books.bucket_heard_at());
    let suspect = match (books.data(window), data) {
        (Some(traded_with), Some(data)) => traded_with != data,
        _ => false,
    };
    let (held, debt, spent_here, closed, pace) = match &lease.hand {
        Hand::Tickets(tickets) => {
            let standing = tickets.standing(window);
            // What was handed back was taken out of the hand as if it were spent.
            let handed_back = standing.granted.saturating_sub(books.own(window));
            let spent = if looked_in == window {
                standing.spent.saturating_sub(looked_spent)
            } else {
                standing.spent
            };
            let asked = spent.saturating_add(tickets.refused().wrapping_sub(looked_refused));
            (
                standing.held(),
                standing.debt(),
                Some(standing.spent.saturating_sub(handed_back)),
                !standing.open && tickets.limit_heard() == terms.limit(),
                books.pace_per_second(asked, now, term),
            )
        }
        Hand::Tokens(tokens) => (
            tokens.held(now),
            tokens.owed(),
            None,
            now < tokens.closed_until(),
            // Lots are bought for half of their life at most.
            books.pace_per_second(tokens.asked().wrapping_sub(looked_spent), now, term.min(LIFE / 2)),
        ),
    };
    let state = if closed && held == 0 {
        LeaseState::Spent
    } else if health == Health::Down {
        LeaseState::Fallback
    } else if suspect {
        LeaseState::Suspect
    } else if held > 0 {
        LeaseState::Leased
    } else if heard.is_some() || bucket_heard_at.is_some() {
        LeaseState::Thin
    } else {
        LeaseState::Cold
    };
    LeaseFacts {
        state,
        held,
        debt,
        spent_here,
        heard,
        bucket_heard_at,
        pace_per_second: pace,
        waiting: lease.waiting.load(Ordering::Relaxed),
        order_under_way: books.is_trading(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus::Registry;

    use super::super::exchange::{Answer, Exchange, Market, Order};
    use super::super::shared::{Nodes, Settings};
    use super::super::tests::{limit, rule};
    use super::*;
    use crate::revision::WindowKind;
    use crate::telemetry::SharingMetrics;
    use crate::throttle::Subject;

    const MARKET: Market = Market {
        instances: 2,
        term: 250_000_000,
        round_trip: 1_000_000,
        data: 7,
        dice: 0,
    };

    /// One node, whose health the story says.
    struct OneNode(parking_lot::Mutex<Health>);

    impl Nodes for OneNode {
        fn health_of(&self, _: Slot) -> Health {
            *self.0.lock()
        }

        fn name_of(&self, _: Slot) -> Option<String> {
            Some("redis".to_owned())
        }
    }

    /// A gateway, and a store that has issued so many tickets.
    struct World {
        node: Arc<OneNode>,
        shared: Arc<Shared>,
        throttle: Throttle,
        exchange: Exchange,
        issued: i64,
    }

    impl World {
        fn new() -> Self {
            let node = Arc::new(OneNode(parking_lot::Mutex::new(Health::Up)));
            let settings = Settings {
                instances: MARKET.instances,
                max_wait: Duration::ZERO,
                term: Duration::from_nanos(MARKET.term),
                max_counters: 100,
            };
            let nodes = Arc::clone(&node) as Arc<dyn Nodes>;
            let meters = SharingMetrics::new(&Registry::new()).unwrap();
            let shared = Arc::new(Shared::new(settings, nodes, meters));
            shared.note_data("redis", Some(MARKET.data));
            Self {
                node,
                throttle: Throttle::shared(Arc::clone(&shared)),
                shared,
                exchange: Exchange::new(|_| ()),
                issued: 0,
            }
        }

        /// The store is asked what there is to ask; it answers with what it has issued.
        fn trade(&mut self, now: Time) {
            for lease in self.shared.inbox().take_now() {
                self.exchange.wish(lease);
            }
            for _ in 0..3 {
                for order in self.exchange.batch(now, MARKET) {
                    self.answer(&order, now);
                }
            }
        }

        fn answer(&mut self, order: &Order, now: Time) {
            use super::super::exchange::What;
            self.issued += match order.what {
                What::Take { charge, want, .. } => i64::from(charge) + i64::from(want),
                What::Return { count } => -i64::from(count),
                _ => 0,
            };
            let answer = Answer::Count {
                value: self.issued,
                previous: None,
                expires: true,
            };
            self.exchange.answered(order, answer, now, MARKET);
        }
    }

    #[test]
    fn a_lease_is_seen_in_each_of_its_states_and_looking_changes_none() {
        let mut world = World::new();
        let rule = rule(&limit("day", "400/d", WindowKind::Fixed));
        let demand = Demand {
            rule: &rule,
            subject: Subject::of_pair("orders", "mobile"),
        };
        // 2026-11-21T05:42:00Z
        let start = Time::from_unix_seconds(1_795_239_720);
        let look = |world: &World, now| {
            let first = world.throttle.describe(&demand, "", now);
            assert_eq!(
                first,
                world.throttle.describe(&demand, "", now),
                "looking changes nothing"
            );
            first
        };
        let lease = |world: &World, now| look(world, now).sharing.unwrap().lease;
        let spend = |world: &World, now, count: u32| {
            let admitted = (0..count).filter(|_| world.throttle.try_admit(&[demand], 1, now).is_ok());
            u32::try_from(admitted.count()).unwrap()
        };

        assert_eq!(lease(&world, start).state, LeaseState::Cold);
        assert_eq!((world.throttle.entries(), look(&world, start).remaining), (0, 400));

        // 5 % of 400 for two gateways: ten each, on credit.
        assert_eq!(spend(&world, start, 3), 3);
        let cold = lease(&world, start);
        assert_eq!(
            (cold.state, cold.debt, cold.spent_here, cold.heard),
            (LeaseState::Cold, 3, Some(3), None)
        );
        spend(&world, start, 5);
        world.trade(start);
        let paid = lease(&world, start);
        assert_eq!((paid.debt, paid.spent_here), (0, Some(8)));
        assert_eq!(paid.heard.map(i64::from), Some(world.issued));
        assert_eq!(paid.held > 0, paid.state == LeaseState::Leased, "{paid:?}");
        assert_eq!(look(&world, start).remaining, 392);

        // What nobody spends goes back after a second, and does not count as spent here.
        let later = start.plus(3_000_000_000);
        world.trade(later);
        let thin = lease(&world, later.plus(1));
        assert_eq!(
            (thin.state, thin.held, thin.spent_here),
            (LeaseState::Thin, 0, Some(8)),
            "{thin:?}"
        );
        assert_eq!(world.issued, 8);

        world.shared.note_data("redis", Some(MARKET.data + 1));
        assert_eq!(lease(&world, later).state, LeaseState::Suspect);
        *world.node.0.lock() = Health::Down;
        assert_eq!(lease(&world, later).state, LeaseState::Fallback);
        *world.node.0.lock() = Health::Up;
        world.shared.note_data("redis", Some(MARKET.data));

        // Another gateway takes the rest.
        world.issued = 400;
        spend(&world, later, 10);
        world.trade(later);
        let spent = look(&world, later);
        let held = spent.sharing.unwrap().lease;
        assert_eq!(
            (held.state, held.held, spent.remaining),
            (LeaseState::Spent, 0, 0),
            "{held:?}"
        );
        assert_eq!(
            held.spent_here,
            Some(18),
            "what was on credit is charged beyond the limit"
        );
    }
}
