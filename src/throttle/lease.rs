//! What this gateway holds of a shared counter.
//!
//! The counter itself is a number in the store. A gateway buys a batch of it ahead of need, in the background, and
//! spends that from memory; small *credit* lets it admit a few requests before it has asked. What is spent, what is
//! held and what is known are atomics here, changed by requests; the *books* are for the background exchange alone, which
//! trades for one lease at a time (see [`exchange`](super::exchange)).
//!
//! The bound, for any arrival process, as long as the store answers: admitted ≤ limit + gateways · credit. The
//! proof is in ARCHITECTURE.md; what it needs of this file is stated where it is done.

pub mod tickets;
pub mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::books::Books;
use super::counter::{Quota, Refusal, State};
use super::identity::Subject;
use super::table::{CHANGED, Counter};
use super::terms::Terms;
use super::window::{Time, Window};
use crate::redis::{Health, Slot};
use crate::revision::WithoutStore;
use tickets::Tickets;
use tokens::Tokens;

/// How long a client is told to stay away when the limit itself does not say it: the store may be back by then.
pub const OUTAGE_RETRY: u64 = 1_000_000_000;

/// One shared counter, as far as this gateway holds of it.
pub struct Lease {
    name: [u8; 16],
    slot: Slot,
    /// Whether there is no credit before the store has answered: this lease may be one of several that one counter had,
    /// because the table was too full to keep them.
    careful: bool,
    alive: Arc<AtomicUsize>,
    /// What is held.
    pub(super) hand: Hand,
    /// Whether the exchange has it on its list, or an order for it is under way. Cleared when the exchange looks at it, so
    /// it is on the list twice at most: once for a request, once while a timer's look clears the mark.
    pub(super) listed: AtomicBool,
    /// What the requests that wait for it cost together.
    pub(super) waiting: AtomicU32,
    marks: AtomicU8,
    /// Whether the table has let go of it: the exchange gives back what it holds, and is done with it.
    pub(super) retired: AtomicBool,
    /// Woken with every answer of the store.
    pub(super) answered: Notify,
    pub(super) books: Mutex<Books>,
}

/// What is held, by kind of limit.
pub enum Hand {
    /// Tickets of calendar windows.
    Tickets(Tickets),
    /// Tokens of a bucket.
    Tokens(Tokens),
}

/// What a request meets.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// How many gateways share the counter at most.
    pub instances: u32,
    /// How the store is.
    pub health: Health,
    /// What the request does if nothing is held.
    pub patience: Patience,
}

/// What a request does that finds nothing to spend while the store may have some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// It waits for the store, if that answers in time.
    Waits,
    /// It has waited as long as it may, and the store has answered meanwhile: others were faster. It is refused.
    Outrun,
    /// It does not wait: what the limit says about a store that is late applies.
    None,
}

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Counted.
    Spent(State),
    /// Not counted.
    Refused(Refusal),
    /// Not counted: nothing is held, and the store may have some. To be asked again when it has answered.
    Short,
    /// The lease has seen a time that lies far ahead: a clock was wrong. It has to be replaced by a new one.
    Astray,
}

impl Lease {
    /// A lease that holds nothing. A careful one gives no credit before the store has answered. `alive` counts it until it
    /// is dropped.
    #[must_use]
    pub fn new(subject: Subject, terms: &Arc<Terms>, careful: bool, alive: Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        let name = subject.name();
        Self {
            name,
            careful,
            alive,
            slot: Slot::of_tag(&super::store_key::tag(name)),
            hand: if terms.quota.shape().has_windows() {
                Hand::Tickets(Tickets::default())
            } else {
                Hand::Tokens(Tokens::default())
            },
            listed: AtomicBool::new(false),
            waiting: AtomicU32::new(0),
            marks: AtomicU8::new(CHANGED),
            retired: AtomicBool::new(false),
            answered: Notify::new(),
            books: Mutex::new(Books::new(Arc::clone(terms))),
        }
    }

    /// The subject, as the counter's key names it.
    #[must_use]
    pub fn name(&self) -> [u8; 16] {
        self.name
    }

    /// Where the store keeps it.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Spends what is held: the whole of it in the steady state. With the state comes whether the exchange should look.
    #[inline]
    pub fn spend(&self, quota: &Quota, cost: u32, now: Time) -> Option<(State, bool)> {
        match &self.hand {
            Hand::Tickets(tickets) => tickets.spend(quota, cost, now),
            Hand::Tokens(tokens) => tokens.spend(quota, cost, now),
        }
    }

    /// What a request comes to that found nothing to spend. With the outcome comes whether the exchange should look.
    #[cold]
    pub fn beyond(&self, terms: &Terms, cost: u32, now: Time, conditions: Conditions) -> (Outcome, bool) {
        match &self.hand {
            Hand::Tickets(tickets) => tickets.beyond(terms, cost, now, conditions, self.careful),
            Hand::Tokens(tokens) => tokens.beyond(terms, cost, now, conditions, self.careful),
        }
    }

    /// What [`spend`](Self::spend) and [`beyond`](Self::beyond) would come to; changes nothing, and takes what the
    /// store might have for certain.
    ///
    /// # Errors
    /// When the limit is known to be used up.
    pub fn peek(&self, quota: &Quota, cost: u32, now: Time) -> Result<State, Refusal> {
        match &self.hand {
            Hand::Tickets(tickets) => tickets.peek(quota, cost, now),
            Hand::Tokens(tokens) => tokens.peek(quota, cost, now),
        }
    }

    /// Takes back what was spent in `window` (see [`State::window`]).
    pub fn give_back(&self, cost: u32, window: u32, now: Time) {
        match &self.hand {
            Hand::Tickets(tickets) => tickets.give_back(cost, window),
            Hand::Tokens(tokens) => tokens.give_back(cost, window, now),
        }
    }

    /// Whether there is something here that the store should know of: tickets of this window, or a debt.
    #[must_use]
    pub fn holds(&self, now: Time) -> bool {
        match &self.hand {
            Hand::Tickets(tickets) => {
                let window = self.books.lock().terms().quota.shape().window_of(now).index;
                let standing = tickets.standing(window);
                standing.held() > 0 || standing.debt() > 0
            }
            Hand::Tokens(tokens) => tokens.owed() > 0,
        }
    }

    /// Puts the lease on the list. Whether the caller has to hand it to the exchange: false when it is there already. What
    /// the exchange is to see is written before.
    #[must_use]
    pub fn list(&self) -> bool {
        !self.listed.swap(true, Ordering::SeqCst)
    }

    /// Whether it seems to be on the list: to be looked at where [`list`](Self::list) would write to a lease with every
    /// request, and the next request asks again.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counter for Arc<Lease> {
    fn finished(&self, now: Time) -> bool {
        if self.listed.load(Ordering::Relaxed) {
            return false;
        }
        let shape = self.books.lock().terms().quota.shape();
        match &self.hand {
            Hand::Tickets(tickets) => tickets.finished(shape, now),
            Hand::Tokens(tokens) => tokens.finished(now),
        }
    }

    #[inline]
    fn marks(&self) -> &AtomicU8 {
        &self.marks
    }
}

/// What a request gets that the store can not answer in time.
pub(super) enum Alone {
    /// So much may be spent without asking.
    Within(u32),
    /// Nothing.
    Refused,
}

/// What may be spent alone, by policy; `share` is this gateway's.
pub(super) fn alone(policy: WithoutStore, share: impl FnOnce() -> u32) -> Alone {
    match policy {
        WithoutStore::Share => Alone::Within(share()),
        WithoutStore::Deny => Alone::Refused,
        WithoutStore::Allow => Alone::Within(super::terms::SHARED_MOST),
    }
}

/// Which policy counts: that for a store that is away, or that for one that is late.
pub(super) fn policy(terms: &Terms, health: Health) -> WithoutStore {
    match health {
        Health::Down => terms.on_store_down,
        Health::Up | Health::Slow => terms.on_timeout,
    }
}

/// A refusal while the store is away: the window may have more, so the client may come again soon.
pub(super) fn away(window: &Window, now: Time) -> Refusal {
    Refusal {
        retry_at: window.end.min(now.plus(OUTAGE_RETRY)),
        remaining: 0,
        window: window.index,
        unasked: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be a million of them. The table adds about 40 bytes for each.
    #[test]
    fn a_lease_is_small() {
        assert!(size_of::<Lease>() <= 312, "{}", size_of::<Lease>());
    }
}
