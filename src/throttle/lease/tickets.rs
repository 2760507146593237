//! Tickets of calendar windows, in the hand of one gateway.
//!
//! The store counts the tickets that were issued in a window. What this gateway does with its own:
//!
//! | word      | value                                                       | written by             |
//! |-----------|-------------------------------------------------------------|------------------------|
//! | `spent`   | what was admitted, and what was handed back                 | requests, the exchange |
//! | `granted` | tickets that came, charged debts included; closed or open   | the exchange           |
//! | `total`   | what clients are told is left, plus what was spent          | the exchange           |
//!
//! Each word carries the number of its window, and there are two of each: for the window with an even number and for
//! that with an odd one. So a window ends without anybody resetting anything, an answer that comes late is entered where
//! it belongs, and tickets for the next window can be bought before it begins. A word of another window counts as zero.
//!
//! `spent ≤ granted` is paid for. `spent > granted` is a debt: requests that were let in on credit, before or
//! without asking, and that the exchange charges. One compare-and-swap on `spent` decides between any two requests, and
//! between a request and the exchange that hands tickets back.
//!
//! **The proof's rule.** Credit is given only while the window is *open*: as long as the store has not said that nothing
//! is left. That bit lies in the same word as `granted`. So a request that has seen an answer's tickets has seen its
//! bit too, and can not take credit on top of what the last answer brought. The first simulation of this algorithm gave
//! credit again after each charge: it let 6.4 times the limit through.

use super::{Alone, Conditions, Outcome, Patience, alone, away, policy};
use crate::redis::Health;
use crate::throttle::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::throttle::counter::{Quota, Refusal, Shape, State};
use crate::throttle::terms::{SHARED_MOST, Terms};
use crate::throttle::window::{Time, Window, lateness};

/// In the value of `granted`: nothing is left in the store, so there is no credit.
const CLOSED: u32 = 1 << 31;

/// A million parts: a whole.
const WHOLE: u32 = 1_000_000;

/// The tickets that a gateway holds.
#[derive(Debug, Default)]
pub struct Tickets {
    spent: [AtomicU64; 2],
    granted: [AtomicU64; 2],
    total: [AtomicU64; 2],
    /// When a closed window may be asked about again, in nanoseconds.
    probe_at: AtomicU64,
    /// The limit when the store last answered.
    limit_heard: AtomicU32,
    /// With less than this in the hand, more is ordered.
    low: AtomicU32,
    /// This gateway's part of what was admitted of late, in millionths; 0 while that is not known.
    share: AtomicU32,
    /// What was refused, as a running sum: demand that `spent` does not show.
    refused: AtomicU32,
}

/// How a window stands, for the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Admitted or handed back.
    pub spent: u32,
    /// Paid for.
    pub granted: u32,
    /// Whether the store may have more.
    pub open: bool,
}

impl Standing {
    /// Tickets in the hand.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.granted.saturating_sub(self.spent)
    }

    /// Admitted and not paid for.
    #[must_use]
    pub fn debt(&self) -> u32 {
        self.spent.saturating_sub(self.granted)
    }
}

/// An answer of the store about a window, worked out.
#[derive(Debug, Clone, Copy)]
pub struct News {
    /// Tickets that came, and debts that were charged.
    pub granted: u32,
    /// What is left in the store.
    pub left: u32,
    /// The limit it was worked out with.
    pub limit: u32,
    /// When to ask again if nothing is left.
    pub probe_at: Time,
    /// With less than this in the hand, more is ordered.
    pub low: u32,
    /// This gateway's part of what was admitted, in millionths.
    pub share: u32,
}

impl Tickets {
    /// Spends tickets that are here. With the state comes whether they run low.
    #[inline]
    pub fn spend(&self, quota: &Quota, cost: u32, now: Time) -> Option<(State, bool)> {
        let window = self.window(quota.shape(), now)?;
        let granted = read(&self.granted, window.index);
        let tickets = granted & !CLOSED;
        let spent = self.count(window.index, tickets, cost).ok()?;
        let low = granted & CLOSED == 0 && tickets - spent < self.low.load(Ordering::Relaxed);
        Some((self.state(quota, &window, spent, cost), low))
    }

    /// What a request comes to that found no tickets. A careful lease gives no credit before the store has answered.
    pub fn beyond(
        &self,
        terms: &Terms,
        cost: u32,
        now: Time,
        conditions: Conditions,
        careful: bool,
    ) -> (Outcome, bool) {
        let quota = &terms.quota;
        let Some(window) = self.window(quota.shape(), now) else {
            return (Outcome::Astray, false);
        };
        let granted = read(&self.granted, window.index);
        let (tickets, open) = (granted & !CLOSED, granted & CLOSED == 0);
        if cost > terms.limit() {
            // Never passes, whoever is asked.
            return (Outcome::Refused(self.refusal(quota, &window, cost)), false);
        }
        if !open {
            self.refused.fetch_add(cost, Ordering::Relaxed);
            let due = now.unix_nanos() >= self.probe_at.load(Ordering::Relaxed)
                || self.limit_heard.load(Ordering::Relaxed) != terms.limit();
            return (
                Outcome::Refused(self.refusal(quota, &window, cost)),
                due && conditions.health != Health::Down,
            );
        }
        let credit = if careful && seen(&self.total, window.index).is_none() {
            0
        } else {
            terms.credit(conditions.instances)
        };
        if conditions.health != Health::Down {
            if let Ok(spent) = self.count(window.index, tickets.saturating_add(credit), cost) {
                let debt = spent.saturating_sub(tickets);
                // The first of a debt sets a timer, half of the credit an order; and so does the second where some are taken ahead.
                let wish = debt <= cost
                    || u64::from(debt) * 2 >= u64::from(credit)
                    || (debt <= cost.saturating_mul(2) && terms.ahead(terms.limit(), conditions.instances) > 0);
                return (Outcome::Spent(self.state(quota, &window, spent, cost)), wish);
            }
            match conditions.patience {
                // Listed by the request, once it waits.
                Patience::Waits if conditions.health == Health::Up => return (Outcome::Short, false),
                Patience::Outrun if conditions.health == Health::Up => {
                    return (Outcome::Refused(away(&window, now)), true);
                }
                _ => {}
            }
        }
        let own = || tickets.saturating_add(credit.max(self.own_share(terms, &window, tickets, conditions.instances)));
        let outcome = match alone(policy(terms, conditions.health), own) {
            Alone::Within(allowance) => match self.count(window.index, allowance, cost) {
                Ok(spent) => Outcome::Spent(self.state(quota, &window, spent, cost)),
                Err(_) => Outcome::Refused(away(&window, now)),
            },
            Alone::Refused => Outcome::Refused(away(&window, now)),
        };
        if matches!(outcome, Outcome::Refused(_)) {
            self.refused.fetch_add(cost, Ordering::Relaxed);
        }
        // Listed while the store is away too: so it is asked, and charged, as soon as it is back.
        (outcome, true)
    }

    /// What a request would come to.
    ///
    /// # Errors
    /// When nothing is left, here and in the store.
    pub fn peek(&self, quota: &Quota, cost: u32, now: Time) -> Result<State, Refusal> {
        let window = self
            .window(quota.shape(), now)
            .unwrap_or_else(|| quota.shape().window_of(now));
        let standing = self.standing(window.index);
        let paid_for = standing.spent.saturating_add(cost) <= standing.granted;
        if paid_for || standing.open {
            return Ok(self.state(quota, &window, standing.spent.saturating_add(cost), cost));
        }
        Err(self.refusal(quota, &window, cost))
    }

    /// Takes back what was spent in `window`, unless it is over.
    pub fn give_back(&self, cost: u32, window: u32) {
        let _ = self.update(window, |spent| Ok::<_, ()>(spent.saturating_sub(cost)));
    }

    /// Whether forgetting this changes nothing: nothing is held, and nothing is owed in a window that still counts.
    pub fn finished(&self, shape: Shape, now: Time) -> bool {
        let now = now.minus(lateness(shape.period()));
        let current = shape.window_of(now).index;
        self.spent.iter().chain(&self.granted).all(|word| {
            let (window, value) = unpack(word.load(Ordering::Relaxed));
            value & !CLOSED == 0 || window.saturating_add(1) < current || {
                let standing = self.standing(window);
                window < current && standing.debt() == 0
            }
        })
    }

    /// How a window stands.
    #[must_use]
    pub fn standing(&self, window: u32) -> Standing {
        let (at, value) = unpack(word(&self.granted, window).load(Ordering::Acquire));
        if at > window {
            // Tickets for a later window have taken the place. What was paid for here is not known any more: so nothing
            // is owed, or all that was spent would be charged again and again.
            return Standing {
                spent: 0,
                granted: 0,
                open: false,
            };
        }
        let granted = if at == window { value } else { 0 };
        Standing {
            spent: read(&self.spent, window),
            granted: granted & !CLOSED,
            open: granted & CLOSED == 0,
        }
    }

    /// The running sum of what was refused.
    #[must_use]
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    /// With less than this in the hand, more is ordered.
    #[must_use]
    pub fn low(&self) -> u32 {
        self.low.load(Ordering::Relaxed)
    }

    /// When a closed window may be asked about again.
    #[must_use]
    pub fn probe_at(&self) -> Time {
        Time::from_unix_nanos(self.probe_at.load(Ordering::Relaxed))
    }

    /// The limit when the store last answered.
    #[must_use]
    pub fn limit_heard(&self) -> u32 {
        self.limit_heard.load(Ordering::Relaxed)
    }

    /// Enters an answer of the store, unless it comes so late that a later window has taken the place. For the exchange
    /// alone, one at a time.
    pub fn enter(&self, window: u32, news: &News) {
        if unpack(word(&self.granted, window).load(Ordering::Relaxed)).0 > window {
            return;
        }
        let before = self.standing(window);
        let granted = before.granted.saturating_add(news.granted).min(SHARED_MOST);
        let total = granted.saturating_add(news.left);
        // What clients are told never grows inside a window, unless the limit does.
        let total = match seen(&self.total, window) {
            Some(told) if self.limit_heard.load(Ordering::Relaxed) == news.limit => total.min(told),
            _ => total,
        };
        write(&self.total, window, total);
        self.limit_heard.store(news.limit, Ordering::Relaxed);
        self.probe_at.store(news.probe_at.unix_nanos(), Ordering::Relaxed);
        self.low.store(news.low, Ordering::Relaxed);
        self.share.store(news.share, Ordering::Relaxed);
        write(&self.granted, window, granted | if news.left == 0 { CLOSED } else { 0 });
    }

    /// Takes all tickets out of the hand, to be handed back: how many they were. For the exchange alone.
    #[must_use]
    pub fn withdraw(&self, window: u32) -> u32 {
        let granted = self.standing(window).granted;
        let taken = self.update(window, |spent| {
            let held = granted.saturating_sub(spent);
            if held == 0 { Err(()) } else { Ok(spent + held) }
        });
        match taken {
            Ok((before, after)) => {
                let held = after - before;
                if let Some(total) = seen(&self.total, window) {
                    write(&self.total, window, total.saturating_add(held));
                }
                held
            }
            Err(_) => 0,
        }
    }

    /// The window in which a request at `now` counts; none if the lease has seen one that lies too far ahead.
    #[inline]
    fn window(&self, shape: Shape, now: Time) -> Option<Window> {
        let window = shape.window_of(now);
        let (seen, _) = unpack(word(&self.spent, window.index).load(Ordering::Relaxed));
        if seen <= window.index {
            return Some(window);
        }
        // The caller read the clock two windows ago, or a clock was wrong.
        let ahead = shape.window_at(seen);
        (ahead.start.since(now) <= lateness(shape.period())).then_some(ahead)
    }

    /// Counts, if it stays within the allowance: what is spent after it, or (not counted) before it.
    #[inline]
    fn count(&self, window: u32, allowance: u32, cost: u32) -> Result<u32, u32> {
        self.update(window, |spent| {
            spent.checked_add(cost).filter(|&after| after <= allowance).ok_or(())
        })
        .map(|(_, after)| after)
        .map_err(|spent| spent.unwrap_or(0))
    }

    /// The one place that changes `spent`. Answers the value before and after; an error has the value that was there,
    /// or nothing when the word belongs to a later window already.
    #[inline]
    fn update<E>(&self, window: u32, step: impl Fn(u32) -> Result<u32, E>) -> Result<(u32, u32), Option<u32>> {
        let word = word(&self.spent, window);
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let (at, value) = unpack(seen);
            if at > window {
                return Err(None);
            }
            let spent = if at == window { value } else { 0 };
            let Ok(next) = step(spent) else {
                return Err(Some(spent));
            };
            // `Relaxed`: the word is the whole state. A request that has not seen the newest `granted` spends less.
            match word.compare_exchange_weak(seen, pack(window, next), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok((spent, next)),
                Err(now_there) => seen = now_there,
            }
        }
    }

    #[inline]
    fn state(&self, quota: &Quota, window: &Window, spent: u32, cost: u32) -> State {
        State {
            remaining: self.total(quota, window.index).saturating_sub(spent),
            reset: window.end,
            window: window.index,
            opened: spent == cost,
        }
    }

    fn refusal(&self, quota: &Quota, window: &Window, cost: u32) -> Refusal {
        let standing = self.standing(window.index);
        let probe_at = self.probe_at();
        Refusal {
            // A sliding window has more before it ends, and the exchange has worked out when.
            retry_at: if quota.shape().slides() && probe_at < window.end && cost <= 1 {
                probe_at
            } else {
                window.end
            },
            remaining: standing.held(),
            window: window.index,
            unasked: false,
        }
    }

    #[inline]
    fn total(&self, quota: &Quota, window: u32) -> u32 {
        seen(&self.total, window).unwrap_or_else(|| quota.whole().min(SHARED_MOST))
    }

    /// This gateway's part of what was left when the store was last heard: its own part of what was admitted lately,
    /// but not less than one of all gateways has.
    fn own_share(&self, terms: &Terms, window: &Window, tickets: u32, instances: u32) -> u32 {
        let left = self.total(&terms.quota, window.index).saturating_sub(tickets);
        let even = WHOLE / instances.max(1);
        let share = self.share.load(Ordering::Relaxed).max(even).min(WHOLE);
        u32::try_from(u64::from(left) * u64::from(share) / u64::from(WHOLE)).unwrap_or(left)
    }
}

fn pack(window: u32, value: u32) -> u64 {
    u64::from(window) << 32 | u64::from(value)
}

fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[inline]
fn word(words: &[AtomicU64; 2], window: u32) -> &AtomicU64 {
    let [even, odd] = words;
    if window.is_multiple_of(2) { even } else { odd }
}

/// The value for this window, if there is one.
#[inline]
fn seen(words: &[AtomicU64; 2], window: u32) -> Option<u32> {
    let (at, value) = unpack(word(words, window).load(Ordering::Acquire));
    (at == window).then_some(value)
}

#[inline]
fn read(words: &[AtomicU64; 2], window: u32) -> u32 {
    seen(words, window).unwrap_or(0)
}

/// For words that only the exchange writes.
fn write(words: &[AtomicU64; 2], window: u32, value: u32) {
    word(words, window).store(pack(window, value), Ordering::Release);
}
