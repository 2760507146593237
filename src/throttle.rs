//! Stage 3: route + caller + now → permit.
//!
//! A request demands one unit (or more) of every limit that counts for it. Either all of them are spent or none; what
//! was refused is not counted anywhere. Nothing here waits: a counter is one atomic word in memory, and what may
//! be spent of it without asking anybody is decided beforehand, in the background ([`store`]).
//!
//! - [`window`]: calendar windows, as arithmetic
//! - [`zone`]: time zones, as tables
//! - [`ticket`]: the state machine of one counter
//! - [`table`]: the counters of this process, bounded
//! - [`store`]: who owns the quota
//! - [`rule`]: a limit, compiled
//! - [`headers`]: what clients are told
//! - [`explain`]: what operators are told

pub mod explain;
pub mod headers;
pub mod identity;
pub mod rule;
pub mod store;
pub mod table;
pub mod ticket;
pub mod window;
pub mod zone;

use smallvec::SmallVec;

pub use explain::Description;
pub use identity::{Identity, Subject};
pub use rule::{Decisions, Place, Rule};
pub use store::{Local, Store};
pub use window::Time;
pub use zone::Zone;

use store::Notice;
use table::Table;
use ticket::{Refusal, State};

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

/// The stage: this process's counters, and where their quota comes from.
pub struct Throttle<S: Store = Local> {
    table: Table,
    store: S,
}

impl Throttle<Local> {
    /// A stage that owns every quota whole, with room for so many counters (a million is a good number).
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self::with_store(max_entries, Local)
    }
}

impl<S: Store> Throttle<S> {
    /// A stage whose counters live on what this store gives them.
    #[must_use]
    pub fn with_store(max_entries: usize, store: S) -> Self {
        Self {
            table: Table::new(max_entries),
            store,
        }
    }

    /// Counts a request of this cost with every limit it demands, or with none.
    ///
    /// Limits are spent in order. At the first enforced refusal what was spent is given back, and the limits that are
    /// left are asked (not spent), so that `Retry-After` covers all of them. For the moment between, a limit
    /// may look tighter to others than it is; it never looks looser. Apart from that, what a fixed window has left
    /// never grows before it ends, unless the limit is raised.
    ///
    /// # Errors
    /// When an enforced limit is exceeded.
    #[inline]
    pub fn admit(&self, demands: &[Demand<'_>], cost: u32, now: Time) -> Result<Permit, Exceeded> {
        let mut spent: SmallVec<[Option<State>; DEMANDS_INLINE]> = SmallVec::new();
        let mut tightest: Option<(usize, State)> = None;
        let mut would_deny = None;
        for (position, demand) in demands.iter().enumerate() {
            match self.spend(demand, cost, now) {
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
                Err(refusal) => {
                    self.give_back(demands, &spent, cost);
                    return Err(self.exceeded(demands, position, refusal, cost, now));
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

    /// Removes counters that are finished, a part of the table at a time. To be called about once a second.
    pub fn sweep(&self, now: Time) -> usize {
        self.table.sweep(now)
    }

    /// How many counters there are.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.table.len()
    }

    /// How many live counters were forgotten for want of room.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.table.evictions()
    }

    #[inline]
    fn spend(&self, demand: &Demand<'_>, cost: u32, now: Time) -> Result<State, Refusal> {
        let quota = demand.rule.quota();
        let counter = demand.counter();
        let allowance = self.store.opening(quota);
        let outcome = self.table.with(counter, quota.shape(), now, |word| {
            ticket::spend(word, quota, allowance, cost, now)
        });
        // Told after the table's lock is free.
        match &outcome {
            Ok(state) => {
                let mark = self.store.low_mark(quota);
                if state.opened {
                    self.store.notice(counter, quota, state.window, Notice::Opened);
                } else if state.remaining < mark && state.remaining.saturating_add(cost) >= mark {
                    self.store.notice(counter, quota, state.window, Notice::Low);
                }
            }
            Err(refusal) => self.store.notice(counter, quota, refusal.window, Notice::Spent),
        }
        outcome
    }

    /// What [`spend`](Self::spend) would answer. A counter that is not there is an empty one.
    fn peek(&self, demand: &Demand<'_>, cost: u32, now: Time) -> Result<State, Refusal> {
        let quota = demand.rule.quota();
        let allowance = self.store.opening(quota);
        let look = |word: &_| ticket::peek(word, quota, allowance, cost, now);
        self.table
            .find(demand.counter(), look)
            .unwrap_or_else(|| look(&std::sync::atomic::AtomicU64::new(0)))
    }

    #[cold]
    fn give_back(&self, demands: &[Demand<'_>], spent: &[Option<State>], cost: u32) {
        for (demand, state) in demands.iter().zip(spent) {
            if let Some(state) = state {
                // A counter that was evicted meanwhile has forgotten the request anyway.
                self.table.find(demand.counter(), |word| {
                    ticket::give_back(word, demand.rule.quota(), cost, state.window);
                });
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
        }
    }
}

/// Less is left; or as much, for longer.
fn is_tighter(state: &State, than: &State) -> bool {
    (state.remaining, than.reset) < (than.remaining, state.reset)
}

#[cfg(test)]
#[path = "throttle/tests.rs"]
mod tests;
