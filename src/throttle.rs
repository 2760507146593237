//! Stage 3: route + caller + now → permit.
//!
//! A request demands one unit (or more) of every limit that counts for it. Either all of them are spent or none; what
//! was refused is not counted anywhere. In the steady state nothing here waits and nothing is asked: what may be spent is
//! in memory.
//!
//! - [`window`]: calendar windows, as arithmetic
//! - [`zone`]: time zones, as tables
//! - [`counter`]: a counter of this process alone, as a state machine
//! - [`table`]: the counters of this process, bounded
//! - [`rule`]: a limit, compiled
//! - [`headers`]: what clients are told
//! - [`explain`]: what operators are told
//! - [`heritage`]: counters that another process takes over
//!
//! Counters that many gateways share:
//!
//! - [`terms`]: what governs them, and the bound
//! - [`lease`]: what this gateway holds of one, as a state machine
//! - [`books`]: what is remembered of one between orders
//! - [`exchange`]: the trade with the store, as a state machine
//! - [`shared`]: where requests and exchange meet
//! - [`courier`]: carries orders to Redis and answers back
//! - [`clock`]: the store's time

mod atomic;
pub mod books;
pub mod clock;
pub mod counter;
pub mod courier;
pub mod exchange;
pub mod explain;
pub mod headers;
pub mod heritage;
pub mod identity;
pub mod lease;
pub mod rule;
pub mod shared;
pub mod store_key;
pub mod table;
pub mod terms;
pub mod window;
pub mod zone;

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

pub use explain::Description;
pub use identity::{Identity, Subject};
pub use rule::{Decisions, Place, Rule};
pub use shared::Shared;
pub use terms::Defaults;
pub use window::Time;
pub use zone::Zone;

use counter::{Refusal, State};
use lease::{Lease, Patience};
use shared::Miss;
use table::{Plain, Table};

/// How many demands are judged without taking memory; more are judged too.
pub const DEMANDS_INLINE: usize = 16;

/// A limit, and for whom it is to count the request.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The limit.
    pub rule: &'a Rule,
    /// Who or what the limit's [`scope`](Rule::scope) stands for in this request.
    pub subject: Subject,
}

impl Demand<'_> {
    fn counter(&self) -> Identity {
        self.rule.identity().of_subject(self.subject)
    }
}

/// The request is within its limits, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a request is let on only with its permit"]
pub struct Permit {
    /// The enforced limit with the least left, for the answer's headers. None if no limit is enforced.
    pub tightest: Option<Standing>,
    /// The first limit in shadow mode that would have refused, as an index into the demands; for the log.
    pub would_deny: Option<usize>,
}

/// The request is beyond a limit, and not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The exceeded limit that lasts longest. Its `reset` is `retry_after`.
    pub tightest: Standing,
    /// Whole seconds until none of the exceeded limits refuses any more; at least 1.
    pub retry_after: u64,
    /// Whether that limit is not used up as far as is known, but its store could not be asked.
    pub unasked: bool,
}

impl Exceeded {
    /// By the first limit, for a moment.
    const fn briefly() -> Self {
        Self {
            tightest: Standing {
                rule: 0,
                remaining: 0,
                reset: 1,
            },
            retry_after: 1,
            unasked: true,
        }
    }
}

/// How a request stands with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The limit, as an index into the demands.
    pub rule: usize,
    /// What is left.
    pub remaining: u32,
    /// Whole seconds until there is more, rounded up.
    pub reset: u64,
}

/// The stage: the counters, and who they are shared with.
pub struct Throttle {
    counters: Counters,
    /// What was spent of counters that another process has taken over.
    ledger: heritage::Ledger,
}

enum Counters {
    /// This process owns every quota whole.
    Own(Table<Plain>),
    /// Many gateways share them.
    Shared(Arc<Shared>),
}

/// Why a request is not let in, yet.
enum Hold {
    /// It is beyond a limit.
    Exceeded(Exceeded),
    /// The store has to answer about this lease first.
    Short(Arc<Lease>),
}

impl Hold {
    fn refused(self) -> Exceeded {
        match self {
            Self::Exceeded(exceeded) => exceeded,
            // Only who waits is told to.
            Self::Short(_) => Exceeded::briefly(),
        }
    }
}

impl Throttle {
    /// A stage that owns every quota whole, with room for so many counters (a million is a good number).
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self {
            counters: Counters::Own(Table::new(max_entries)),
            ledger: heritage::Ledger::default(),
        }
    }

    /// A stage whose counters are shared.
    #[must_use]
    pub fn shared(shared: Arc<Shared>) -> Self {
        Self {
            counters: Counters::Shared(shared),
            ledger: heritage::Ledger::default(),
        }
    }

    /// Counts a request of this cost with every limit it demands, or with none.
    ///
    /// Ready at once, unless a shared counter is cold and its limit too small for credit: then the request waits for the
    /// store's answer, no longer than it may.
    ///
    /// # Errors
    /// When an enforced limit is exceeded.
    pub async fn admit(&self, demands: &[Demand<'_>], cost: u32, now: Time) -> Result<Permit, Exceeded> {
        match self.decide(demands, cost, now, Patience::Waits) {
            Ok(permit) => Ok(permit),
            Err(Hold::Exceeded(exceeded)) => Err(exceeded),
            // Boxed: requests that do not wait do not carry the room for it along.
            Err(Hold::Short(lease)) => Box::pin(self.wait(lease, demands, cost, now)).await,
        }
    }

    /// Like [`admit`](Self::admit), for who can not wait.
    ///
    /// # Errors
    /// When an enforced limit is exceeded, or can not be asked about in time and says that this is a refusal.
    #[inline]
    pub fn try_admit(&self, demands: &[Demand<'_>], cost: u32, now: Time) -> Result<Permit, Exceeded> {
        self.decide(demands, cost, now, Patience::None).map_err(Hold::refused)
    }

    /// The time that counts for a request which arrived at `arrived`; `wall` is what this host's clock said then. Shared
    /// counters go by the store's time.
    #[inline]
    #[must_use]
    pub fn time(&self, arrived: std::time::Instant, wall: Time) -> Time {
        match &self.counters {
            Counters::Own(_) => wall,
            Counters::Shared(shared) => shared.clock().at(arrived),
        }
    }

    /// Removes counters that are finished, a part of the table at a time. To be called about once a second.
    pub fn sweep(&self, now: Time) -> usize {
        match &self.counters {
            Counters::Own(table) => table.sweep(now),
            Counters::Shared(shared) => shared.sweep(now),
        }
    }

    /// The counters that are shared; none if this process counts alone.
    #[must_use]
    pub fn sharing(&self) -> Option<&Shared> {
        match &self.counters {
            Counters::Own(_) => None,
            Counters::Shared(shared) => Some(shared),
        }
    }

    /// How many counters there are.
    #[must_use]
    pub fn entries(&self) -> usize {
        match &self.counters {
            Counters::Own(table) => table.len(),
            Counters::Shared(shared) => shared.table().len(),
        }
    }

    /// How many live counters were let go for want of room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        match &self.counters {
            Counters::Own(table) => table.evictions(),
            Counters::Shared(shared) => shared.table().evictions(),
        }
    }

    /// Limits are spent in order. At the first enforced refusal what was spent is given back, and the limits that are
    /// left are asked (not spent), so that `Retry-After` covers all of them. For the moment between, a limit
    /// may look tighter to others than it is; it never looks looser. Apart from that, what a window has left
    /// never grows before it ends, unless the limit is raised.
    #[inline]
    fn decide(&self, demands: &[Demand<'_>], cost: u32, now: Time, patience: Patience) -> Result<Permit, Hold> {
        let mut spent: SmallVec<[Option<State>; DEMANDS_INLINE]> = SmallVec::new();
        let mut tightest: Option<(usize, State)> = None;
        let mut would_deny = None;
        for (position, demand) in demands.iter().enumerate() {
            // Nobody waits for a limit that only watches.
            let patience = if demand.rule.enforced() {
                patience
            } else {
                Patience::None
            };
            match self.spend(demand, cost, now, patience) {
                Ok(state) => {
                    if demand.rule.enforced() && tightest.is_none_or(|(_, least)| is_tighter(&state, &least)) {
                        tightest = Some((position, state));
                    }
                    spent.push(Some(state));
                }
                Err(_) if !demand.rule.enforced() => {
                    would_deny = would_deny.or(Some(position));
                    spent.push(None);
                }
                Err(miss) => {
                    self.give_back(demands, &spent, cost, now);
                    return Err(match miss {
                        Miss::Refused(refusal) => Hold::Exceeded(self.exceeded(demands, position, refusal, cost, now)),
                        Miss::Short(lease) => Hold::Short(lease),
                    });
                }
            }
        }
        for (demand, state) in demands.iter().zip(&spent) {
            let decisions = demand.rule.decisions();
            match state {
                Some(_) => decisions.allow.inc(),
                None => decisions.would_deny.inc(),
            }
        }
        Ok(Permit {
            tightest: tightest.map(|(rule, state)| Standing {
                rule,
                remaining: state.remaining,
                reset: now.seconds_until(state.reset),
            }),
            would_deny,
        })
    }

    /// Asks again whenever the store has answered about what was short, until the request may wait no longer.
    async fn wait(
        &self,
        mut short: Arc<Lease>,
        demands: &[Demand<'_>],
        cost: u32,
        now: Time,
    ) -> Result<Permit, Exceeded> {
        let Counters::Shared(shared) = &self.counters else {
            return self.try_admit(demands, cost, now);
        };
        let began = Instant::now();
        let until = began + shared.settings().max_wait;
        let later = |now: Time| now.plus(u64::try_from(began.elapsed().as_nanos()).unwrap_or(0));
        let mut patience = Patience::None;
        let decided = loop {
            let lease = Arc::clone(&short);
            let answer = lease.answered.notified();
            tokio::pin!(answer);
            // From here on no answer is missed.
            answer.as_mut().enable();
            let waiting = shared.wait_for(&lease, cost);
            match self.decide(demands, cost, later(now), Patience::Waits) {
                Err(Hold::Short(other)) if Arc::ptr_eq(&other, &lease) => {}
                Err(Hold::Short(other)) if Instant::now() < until => {
                    short = other;
                    continue;
                }
                Err(Hold::Short(_)) => break None,
                decided => break Some(decided),
            }
            let answered = timeout_at(until, answer).await;
            drop(waiting);
            if answered.is_err() {
                break None;
            }
            // The store does answer: what others took is gone, and no share of it is left to take.
            patience = Patience::Outrun;
        };
        let meters = shared.meters();
        meters.wait_seconds.observe(began.elapsed().as_secs_f64());
        let (result, decided) = match decided {
            Some(Ok(permit)) => ("served", Ok(permit)),
            Some(Err(hold)) => ("refused", Err(hold.refused())),
            None => (
                "expired",
                self.decide(demands, cost, later(now), patience).map_err(Hold::refused),
            ),
        };
        meters.waits.with_label_values(&[result]).inc();
        decided
    }

    #[inline]
    fn spend(&self, demand: &Demand<'_>, cost: u32, now: Time, patience: Patience) -> Result<State, Miss> {
        match &self.counters {
            Counters::Own(table) => {
                let (identity, quota) = (demand.counter(), demand.rule.quota());
                let spend = |counter: &Plain, cut: bool| {
                    let answer = counter::spend(&counter.word, quota, quota.whole(), cost, now);
                    if cut && let Ok(state) = &answer {
                        self.note(table, demand, i64::from(cost), state.window, now);
                    }
                    answer
                };
                let (answer, _) = table.with_told(identity, now, |_| Plain::new(quota.shape()), spend);
                answer.map_err(Miss::Refused)
            }
            Counters::Shared(shared) => shared.spend(demand, cost, now, patience),
        }
    }

    /// What [`spend`](Self::spend) would answer. A counter that is not there is an empty one.
    fn peek(&self, demand: &Demand<'_>, cost: u32, now: Time) -> Result<State, Refusal> {
        match &self.counters {
            Counters::Own(table) => {
                let quota = demand.rule.quota();
                let look = |counter: &Plain| counter::peek(&counter.word, quota, quota.whole(), cost, now);
                table
                    .look(demand.counter(), look)
                    .unwrap_or_else(|| look(&Plain::new(quota.shape())))
            }
            Counters::Shared(shared) => shared.peek(demand, cost, now),
        }
    }

    /// Another process counts this too.
    #[cold]
    fn note(&self, table: &Table<Plain>, demand: &Demand<'_>, cost: i64, window: u32, now: Time) {
        let most = heritage::most_noted(table);
        (self.ledger).note(demand.counter(), demand.rule.quota(), cost, window, now, most);
    }

    #[cold]
    fn give_back(&self, demands: &[Demand<'_>], spent: &[Option<State>], cost: u32, now: Time) {
        for (demand, state) in demands.iter().zip(spent) {
            let Some(state) = state else { continue };
            match &self.counters {
                // A counter that was evicted meanwhile has forgotten the request anyway.
                Counters::Own(table) => {
                    table.find_told(demand.counter(), |counter, cut| {
                        counter::give_back(&counter.word, demand.rule.quota(), cost, state.window);
                        if cut {
                            self.note(table, demand, -i64::from(cost), state.window, now);
                        }
                    });
                }
                Counters::Shared(shared) => shared.give_back(demand, cost, state.window, now),
            }
        }
    }

    /// What to tell about a request that the limit at `first` refused; those before it have admitted it.
    #[cold]
    fn exceeded(&self, demands: &[Demand<'_>], first: usize, refusal: Refusal, cost: u32, now: Time) -> Exceeded {
        let mut longest = (first, refusal);
        for (position, demand) in demands.iter().enumerate().skip(first) {
            if !demand.rule.enforced() {
                continue;
            }
            let refused = if position == first {
                Some(refusal)
            } else {
                self.peek(demand, cost, now).err()
            };
            if let Some(refusal) = refused {
                demand.rule.decisions().deny.inc();
                if refusal.retry_at > longest.1.retry_at {
                    longest = (position, refusal);
                }
            }
        }
        let (rule, refusal) = longest;
        let retry_after = now.seconds_until(refusal.retry_at).max(1);
        Exceeded {
            tightest: Standing {
                rule,
                remaining: refusal.remaining,
                reset: retry_after,
            },
            retry_after,
            unasked: refusal.unasked,
        }
    }
}

/// Less is left; or as much, for longer.
fn is_tighter(state: &State, than: &State) -> bool {
    (state.remaining, than.reset) < (than.remaining, state.reset)
}

#[cfg(test)]
#[path = "throttle/tests.rs"]
pub(crate) mod tests;

#[cfg(all(test, feature = "loom"))]
mod loom_tests;

#[cfg(test)]
mod model_tests;
