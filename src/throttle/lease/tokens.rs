//! Tokens of a bucket, in the hand of one gateway.
//!
//! The store keeps the bucket (as GCRA does: one instant at which it is full again) and hands tokens out in lots. A lot is
//! good for [`LIFE`]. What is not spent by then goes back, less what the bucket gained while the lot was out: it might
//! have been full meanwhile, and gained nothing, had the lot not been taken. So after it the bucket is never fuller than
//! if the tokens that went back had never been handed out; and of a bucket that fills fast nothing goes back.
//!
//! There are two places for lots, used in turn. Requests spend the older one first. Adding a new lot to an old one was
//! rejected: either the old tokens live longer than `LIFE`, and the bound grows, or the new ones die early.
//!
//! What was spent on credit is *owed*, and never more than the credit; there is none while the store has said that the
//! bucket is empty ([`closed_until`](Tokens::closed_until)).
//!
//! **Bound.** In any interval of length t the store hands out at most burst + rate · t, debts included, and a token is
//! spent within `LIFE` of its grant. So for every interval: admitted ≤ burst + rate · (t + `LIFE`) + gateways · credit.
//!
//! **A bucket that is far from empty** is asked rarely: a lot of at most [`Terms::kept`] tokens may live for [`KEPT`]. The
//! bound stays, because there are two places for such lots, and two lots less is owed at most
//! ([`Terms::bucket_credit`]). Of what is admitted in an interval, the tokens that were granted more than `LIFE` before
//! it lay in kept lots when it began (an answer that took longer is not kept): 2 · kept for each gateway. Debts that
//! are not charged when it ends: credit − 2 · kept. The store handed out the rest, within t + `LIFE`.
//!
//! **The store away.** The gateway keeps a bucket of its own, of its share of rate and burst. What it lets through is not
//! charged afterwards: by then the shared bucket would have been filled again anyway.

use super::{Conditions, Outcome, Patience, policy};
use crate::redis::Health;
use crate::revision::WithoutStore;
use crate::throttle::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::throttle::counter::{self, Quota, Refusal, State};
use crate::throttle::terms::{KEPT, LIFE, SHARED_MOST, Terms};
use crate::throttle::window::Time;

const MILLISECOND: u64 = 1_000_000;

/// By how much the clock of a request may be behind, in nanoseconds.
const LATE: u64 = 10_000 * MILLISECOND;

/// In [`State::window`], beside the places 0 and 1 of lots: spent on credit.
const ON_CREDIT: u32 = 2;

/// The same: let through without the store. There is nothing to give back.
const ALONE: u32 = 3;

/// The tokens that a gateway holds.
#[derive(Debug, Default)]
pub struct Tokens {
    /// Each: the millisecond at which the lot dies (low half of unix time) · one bit: whether it is kept · tokens left in it.
    lots: [AtomicU64; 2],
    /// Which of the two is the newer one: the lowest bit.
    turn: AtomicU32,
    owed: AtomicU32,
    /// Until when the bucket is known to be empty, in nanoseconds.
    closed_until: AtomicU64,
    /// What the store had left when it last answered.
    left: AtomicU32,
    /// With less than this in the hand, more is ordered.
    low: AtomicU32,
    /// What was asked for, let in or not, as a running sum.
    asked: AtomicU32,
    /// This gateway's part of the rate of late, in millionths; 0 while that is not known.
    share: AtomicU32,
    /// The nanoseconds in which the bucket gained a token when the store last answered; 0 before that.
    interval_heard: AtomicU64,
    /// The bucket of its own, while the store is away.
    alone: AtomicU64,
}

/// An answer of the store about a bucket, worked out.
#[derive(Debug, Clone, Copy)]
pub struct News {
    /// Debts that were charged.
    pub charged: u32,
    /// Tokens that came.
    pub granted: u32,
    /// When they die: [`LIFE`] after they were asked for, or [`KEPT`].
    pub good_until: Time,
    /// Whether they are kept.
    pub kept: bool,
    /// What is left in the store.
    pub left: u32,
    /// Until when there is nothing more; in the past if there is.
    pub closed_until: Time,
    /// With less than this in the hand, more is ordered.
    pub low: u32,
    /// This gateway's part of the rate, in millionths.
    pub share: u32,
    /// The nanoseconds in which the bucket gains a token.
    pub interval: u64,
}

/// Which lots are withdrawn, beside those that have died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lots {
    /// No others.
    Dead,
    /// Those that are kept.
    Kept,
    /// All.
    All,
}

impl Tokens {
    /// Spends a token that is here. With the state comes whether they run low.
    #[inline]
    pub fn spend(&self, quota: &Quota, cost: u32, now: Time) -> Option<(State, bool)> {
        let newer = self.turn.load(Ordering::Acquire) as usize & 1;
        let older_left = self.spend_of(newer ^ 1, cost, now);
        let newer_left = match older_left {
            Some(_) => self.held_in(newer, now),
            None => self.spend_of(newer, cost, now)?,
        };
        self.asked.fetch_add(cost, Ordering::Relaxed);
        let held = older_left.unwrap_or(0).saturating_add(newer_left);
        let low = held < self.low.load(Ordering::Relaxed) && !self.closed(now);
        let place = if older_left.is_some() { newer ^ 1 } else { newer };
        let state = self.state(quota, held, now);
        Some((
            State {
                window: place as u32,
                ..state
            },
            low,
        ))
    }

    /// What a request comes to that found no tokens. A careful lease gives no credit before the store has answered.
    pub fn beyond(
        &self,
        terms: &Terms,
        cost: u32,
        now: Time,
        conditions: Conditions,
        careful: bool,
    ) -> (Outcome, bool) {
        let quota = &terms.quota;
        self.asked.fetch_add(cost, Ordering::Relaxed);
        if cost > terms.limit() {
            return (Outcome::Refused(self.refusal(quota, now)), false);
        }
        if conditions.health != Health::Down {
            if self.closed(now) {
                // A rate that was changed is asked about at once.
                return (Outcome::Refused(self.refusal(quota, now)), !self.heard_of(quota));
            }
            let credit = if careful && self.interval_heard.load(Ordering::Relaxed) == 0 {
                0
            } else {
                terms.bucket_credit(conditions.instances)
            };
            let owed = self.owed.fetch_update(Ordering::Acquire, Ordering::Relaxed, |owed| {
                owed.checked_add(cost).filter(|&after| after <= credit)
            });
            if owed.is_ok() {
                if !self.closed(now) {
                    let state = self.state(quota, 0, now);
                    return (
                        Outcome::Spent(State {
                            window: ON_CREDIT,
                            ..state
                        }),
                        true,
                    );
                }
                // The answer that made room for this credit has also closed the bucket.
                self.pay(cost);
                return (Outcome::Refused(self.refusal(quota, now)), false);
            }
            match conditions.patience {
                // Listed by the request, once it waits.
                Patience::Waits if conditions.health == Health::Up => return (Outcome::Short, false),
                Patience::Outrun if conditions.health == Health::Up => {
                    return (Outcome::Refused(away(now)), true);
                }
                _ => {}
            }
        }
        let outcome = match policy(terms, conditions.health) {
            WithoutStore::Share => {
                let quota = quota.part(self.own_share(conditions.instances));
                match counter::spend(&self.alone, &quota, quota.whole(), cost, now) {
                    Ok(state) => Outcome::Spent(State { window: ALONE, ..state }),
                    Err(refusal) => Outcome::Refused(Refusal {
                        unasked: true,
                        ..refusal
                    }),
                }
            }
            WithoutStore::Deny => Outcome::Refused(away(now)),
            WithoutStore::Allow => Outcome::Spent(State {
                window: ALONE,
                ..self.state(quota, 0, now)
            }),
        };
        (outcome, true)
    }

    /// What a request would come to.
    ///
    /// # Errors
    /// When nothing is left, here and in the store.
    pub fn peek(&self, quota: &Quota, cost: u32, now: Time) -> Result<State, Refusal> {
        let held = self.held(now);
        if held < cost && self.closed(now) {
            return Err(self.refusal(quota, now));
        }
        Ok(self.state(quota, held.saturating_sub(cost), now))
    }

    /// Takes a spent token back to where it came from: [`State::window`] says it. A lot that has died keeps nothing.
    pub fn give_back(&self, cost: u32, from: u32, now: Time) {
        match from {
            ON_CREDIT => return self.pay(cost),
            ALONE => return,
            _ => {}
        }
        let _ = self
            .lot(from as usize)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                let (until, kept, left) = unpack(word);
                let after = left.saturating_add(cost).min(SHARED_MOST);
                alive(until, now).then(|| pack(until, kept, after))
            });
    }

    /// Whether forgetting this changes nothing.
    pub fn finished(&self, now: Time) -> bool {
        self.held(now) == 0
            && self.owed.load(Ordering::Relaxed) == 0
            && !self.closed(now)
            && self.alone.load(Ordering::Relaxed) <= now.unix_nanos()
    }

    /// Whether the store has answered since the rate became what it is.
    #[must_use]
    pub fn heard_of(&self, quota: &Quota) -> bool {
        self.interval_heard.load(Ordering::Relaxed) == quota.interval()
    }

    /// What is in the hand.
    #[must_use]
    pub fn held(&self, now: Time) -> u32 {
        self.held_in(0, now).saturating_add(self.held_in(1, now))
    }

    /// What was spent on credit and not charged.
    #[must_use]
    pub fn owed(&self) -> u32 {
        self.owed.load(Ordering::Relaxed)
    }

    /// Until when the bucket is known to be empty.
    #[must_use]
    pub fn closed_until(&self) -> Time {
        Time::from_unix_nanos(self.closed_until.load(Ordering::Relaxed))
    }

    /// What the store had left when it last answered.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::Relaxed)
    }

    /// With less than this in the hand, more is ordered.
    #[must_use]
    pub fn low(&self) -> u32 {
        self.low.load(Ordering::Relaxed)
    }

    /// The running sum of what was asked for.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// When the lot dies that dies first.
    #[must_use]
    pub fn dies_at(&self, now: Time) -> Option<Time> {
        let ahead = |lot: &AtomicU64| {
            let (until, _, left) = unpack(lot.load(Ordering::Relaxed));
            let ahead = until.wrapping_sub(millisecond(now));
            (left > 0).then(|| {
                if alive(until, now) {
                    u64::from(ahead) * MILLISECOND
                } else {
                    0
                }
            })
        };
        let ahead = self.lots.iter().filter_map(ahead).min()?;
        Some(now.plus(ahead))
    }

    /// Takes what is left out of a lot that has died, or of another one: how many tokens, and how many nanoseconds ago they
    /// were asked for at most. For the exchange alone.
    #[must_use]
    pub fn withdraw(&self, which: Lots, now: Time) -> Option<(u32, u64)> {
        [0, 1].into_iter().find_map(|place| {
            let (until, kept, _) = unpack(self.lot(place).load(Ordering::Relaxed));
            let wanted = match which {
                Lots::Dead => false,
                Lots::Kept => kept,
                Lots::All => true,
            };
            if alive(until, now) && !wanted {
                return None;
            }
            self.empty(place, now)
        })
    }

    fn empty(&self, place: usize, now: Time) -> Option<(u32, u64)> {
        let lot = self.lot(place);
        let (until, kept, left) = unpack(lot.load(Ordering::Relaxed));
        if left == 0 {
            return None;
        }
        let (_, _, left) = unpack(lot.swap(pack(until, kept, 0), Ordering::Relaxed));
        let life = if kept { KEPT } else { LIFE };
        let asked = until.wrapping_sub((life / MILLISECOND) as u32);
        // Both ends are cut to milliseconds.
        let ago = u64::from(
            millisecond(now)
                .wrapping_sub(asked)
                .cast_signed()
                .max(0)
                .cast_unsigned(),
        ) + 2;
        (left > 0).then_some((left, ago * MILLISECOND))
    }

    /// Enters an answer of the store. What was left in the lot that had to make room comes back, as of
    /// [`withdraw`](Self::withdraw). For the exchange alone, one at a time.
    #[must_use]
    pub fn enter(&self, news: &News, now: Time) -> Option<(u32, u64)> {
        self.interval_heard.store(news.interval, Ordering::Relaxed);
        self.low.store(news.low, Ordering::Relaxed);
        self.left.store(news.left, Ordering::Relaxed);
        self.share.store(news.share, Ordering::Relaxed);
        // Before the debt is taken off: else a request could take credit again from a bucket that is empty.
        self.closed_until
            .store(news.closed_until.unix_nanos(), Ordering::Release);
        let mut displaced = None;
        if news.granted > 0 {
            let turn = self.turn.load(Ordering::Relaxed).wrapping_add(1);
            let place = turn as usize & 1;
            displaced = self.empty(place, now);
            self.lot(place).store(
                pack(millisecond(news.good_until), news.kept, news.granted),
                Ordering::Relaxed,
            );
            self.turn.store(turn, Ordering::Release);
        }
        self.pay(news.charged);
        displaced
    }

    /// Takes a debt off. Not below nothing: the exchange may have charged what a request took on credit and is
    /// handing back at this moment. Then it was charged for nothing, and the bucket fills a little later.
    fn pay(&self, paid: u32) {
        let _ = self.owed.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |owed| {
            Some(owed.saturating_sub(paid))
        });
    }

    #[inline]
    fn spend_of(&self, place: usize, cost: u32, now: Time) -> Option<u32> {
        let lot = self.lot(place);
        let mut seen = lot.load(Ordering::Relaxed);
        loop {
            let (until, kept, left) = unpack(seen);
            let after = left.checked_sub(cost).filter(|_| alive(until, now))?;
            match lot.compare_exchange_weak(seen, pack(until, kept, after), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(after),
                Err(now_there) => seen = now_there,
            }
        }
    }

    #[inline]
    fn held_in(&self, place: usize, now: Time) -> u32 {
        let (until, _, left) = unpack(self.lot(place).load(Ordering::Relaxed));
        if alive(until, now) { left } else { 0 }
    }

    #[inline]
    fn lot(&self, place: usize) -> &AtomicU64 {
        let [even, odd] = &self.lots;
        if place == 0 { even } else { odd }
    }

    #[inline]
    fn closed(&self, now: Time) -> bool {
        self.closed_until.load(Ordering::Acquire) > now.unix_nanos()
    }

    #[inline]
    fn state(&self, quota: &Quota, held: u32, now: Time) -> State {
        // A bucket that was never heard of is taken to be full.
        let left = if self.interval_heard.load(Ordering::Relaxed) == 0 {
            quota.whole()
        } else {
            self.left.load(Ordering::Relaxed)
        };
        let remaining = left
            .saturating_add(held)
            .saturating_sub(self.owed.load(Ordering::Relaxed))
            .min(quota.whole());
        State {
            remaining,
            reset: now.plus(quota.time_to_gain(quota.whole() - remaining)),
            window: 0,
            opened: false,
        }
    }

    fn refusal(&self, quota: &Quota, now: Time) -> Refusal {
        Refusal {
            retry_at: self.closed_until().max(now.plus(quota.time_to_gain(1))),
            remaining: self.held(now),
            window: 0,
            unasked: false,
        }
    }

    /// The part of rate and burst that this gateway has for itself: what it had of late, but not less than one of all.
    fn own_share(&self, instances: u32) -> u32 {
        let even = 1_000_000 / instances.max(1);
        self.share.load(Ordering::Relaxed).max(even).min(1_000_000)
    }
}

/// A refusal while the store is away, or was too slow.
fn away(now: Time) -> Refusal {
    Refusal {
        retry_at: now.plus(super::OUTAGE_RETRY),
        remaining: 0,
        window: 0,
        unasked: true,
    }
}

/// A lot has [`SHARED_MOST`] tokens at most, which leaves a bit.
fn pack(until: u32, kept: bool, left: u32) -> u64 {
    u64::from(until) << 32 | u64::from(kept) << 31 | u64::from(left & SHARED_MOST)
}

fn unpack(word: u64) -> (u32, bool, u32) {
    ((word >> 32) as u32, word & 1 << 31 != 0, word as u32 & SHARED_MOST)
}

#[inline]
fn millisecond(time: Time) -> u32 {
    (time.unix_nanos() / MILLISECOND) as u32
}

/// The milliseconds wrap around after 49 days. A lot that lay there for so long would be alive for some seconds again; the
/// table's sweep has removed the lease by then.
#[inline]
fn alive(until: u32, now: Time) -> bool {
    let ahead = until.wrapping_sub(millisecond(now));
    // A request may have read the clock before the order was sent that brought the lot.
    ahead > 0 && u64::from(ahead) <= (KEPT + LATE) / MILLISECOND
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::WindowKind;
    use crate::units::{Period, Rate};

    fn bucket() -> Quota {
        let rate = Rate {
            count: 1,
            period: Period::Minute,
        };
        Quota::new(rate, WindowKind::TokenBucket { burst: 20 })
    }

    fn noon() -> Time {
        Time::from_unix_seconds(1_795_262_400)
    }

    fn lot(granted: u32, asked: Time, quota: &Quota) -> News {
        News {
            charged: 0,
            granted,
            good_until: asked.plus(LIFE),
            kept: false,
            left: 0,
            closed_until: asked,
            low: 0,
            share: 0,
            interval: quota.interval(),
        }
    }

    #[test]
    fn a_request_that_came_before_its_tokens_were_asked_for_may_spend_them() {
        let (tokens, quota) = (Tokens::default(), bucket());
        let arrived = noon();
        let asked = arrived.plus(30 * MILLISECOND);
        assert!(tokens.enter(&lot(1, asked, &quota), asked).is_none());
        assert!(tokens.spend(&quota, 1, arrived).is_some());
    }

    #[test]
    fn what_is_left_of_a_lot_comes_back_when_it_dies_or_has_to_make_room() {
        let (tokens, quota) = (Tokens::default(), bucket());
        let mut now = noon();
        assert!(tokens.enter(&lot(5, now, &quota), now).is_none());
        assert!(tokens.spend(&quota, 1, now).is_some());
        assert_eq!(tokens.withdraw(Lots::Dead, now), None, "it lives");
        assert_eq!(tokens.dies_at(now), Some(now.plus(LIFE)));
        now = now.plus(LIFE);
        assert!(tokens.spend(&quota, 1, now).is_none(), "it is dead");
        let (count, ago) = tokens.withdraw(Lots::Dead, now).unwrap();
        assert_eq!(count, 4);
        assert!((LIFE..=LIFE + 3 * MILLISECOND).contains(&ago), "{ago}");
        assert_eq!(tokens.withdraw(Lots::All, now), None, "once");

        for granted in [1, 2] {
            assert!(tokens.enter(&lot(granted, now, &quota), now).is_none());
        }
        let (displaced, _) = tokens.enter(&lot(3, now, &quota), now).unwrap();
        assert_eq!((displaced, tokens.held(now)), (1, 5));
    }

    #[test]
    fn a_lot_that_is_kept_lives_longer_and_says_how_old_it_is() {
        let (tokens, quota) = (Tokens::default(), bucket());
        let asked = noon();
        let news = News {
            good_until: asked.plus(KEPT),
            kept: true,
            ..lot(5, asked, &quota)
        };
        assert!(tokens.enter(&news, asked).is_none());
        let later = asked.plus(10 * LIFE);
        let (state, _) = tokens.spend(&quota, 1, later).unwrap();
        tokens.give_back(1, state.window, later);
        assert_eq!((tokens.held(later), tokens.withdraw(Lots::Dead, later)), (5, None));
        let (count, ago) = tokens.withdraw(Lots::Kept, later).unwrap();
        assert_eq!(count, 5);
        assert!((10 * LIFE..=10 * LIFE + 3 * MILLISECOND).contains(&ago), "{ago}");
        assert_eq!(tokens.dies_at(later), None);
    }
}
