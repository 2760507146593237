//! The state machine of one counter: one atomic word, changed by compare-and-swap, never locked.
//!
//! | kind         | the word                                                                         |
//! |--------------|----------------------------------------------------------------------------------|
//! | fixed        | number of the window (32 bits) · spent in it (32)                                |
//! | sliding      | number of the window modulo 2¹⁶ (16) · spent in the one before (24) · in it (24) |
//! | token bucket | the instant in nanoseconds at which the bucket is full again (64), as in GCRA    |
//!
//! The quota is not in the word, it is an argument: a limit that changes in the middle of a window acts on the next
//! request, and nothing is reset. Zero is the empty counter of every kind. Only what was admitted is counted.
//!
//! **The allowance** is what the counter may hand out in this window: the whole quota, except where a gateway on its own
//! is to make do with a part of it.
//!
//! **A clock that jumps.** Forwards: the window is a new one. Backwards by less than [`lateness`]: the caller is
//! late, and counts in the window that is open. Backwards by more: the counter follows the clock and *takes along*
//! what it has spent, so that no jump opens a spent window afresh; the refusals that follow last until the end of
//! that window at most. A token bucket that owes more than it ever could is taken to be empty.
//!
//! **Sliding.** The estimate is Cloudflare's: what was spent in the window before, times the share of it that still
//! lies within the last period, plus what was spent in this one; rounded up, so against the caller. What the window
//! before may contribute is held at the allowance, so that a lowered limit does not refuse longer than it must.
//! The number of the window is kept modulo 2¹⁶ and read as the nearest window to now. A counter that nobody used for
//! 2¹⁵ to 2¹⁶ windows may thus be taken for a present one; the harm is bounded (old counts count again for two
//! windows, so the error is strict, never lax), and the table's sweep drops finished counters hundreds of times in
//! the nine hours that 2¹⁵ one-second windows take.

mod heritage;

pub use heritage::{Spent, add};

use super::atomic::{AtomicU64, Ordering};
use super::window::{Calendar, Time, Window, lateness, nominal_length};
use super::zone::Zone;
use crate::revision::WindowKind;
use crate::units::{Period, Rate};

/// The most that a sliding window can count: 24 bits. A greater limit counts as this one.
pub const SLIDING_MOST: u32 = (1 << 24) - 1;

/// The longest that a bucket may take to fill. So an instant, a debt and a cost add up within 64 bits.
const BUCKET_LONGEST: u64 = 1 << 62;

/// A counter's rule of arithmetic: what it counts up to, and how it cuts time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    shape: Shape,
    whole: u32,
    /// Nanoseconds in which a bucket gains one token; unused by windows.
    interval: u64,
}

impl Quota {
    /// A quota from its configured form, in UTC.
    #[must_use]
    pub fn new(rate: Rate, window: WindowKind) -> Self {
        Self::in_zone(rate, window, Zone::UTC)
    }

    /// A quota from its configured form; its days, weeks and months are those of this zone. A token bucket has none.
    ///
    /// A bucket gains a token in a whole number of nanoseconds, rounded up: 1,000,000/s is kept exactly, 3,000,000/s
    /// becomes 2,994,011/s, and nothing above 1,000,000,000/s is possible. A bucket that would take longer than
    /// 146 years to fill holds what it gains in 146 years.
    #[must_use]
    pub fn in_zone(rate: Rate, window: WindowKind, zone: Zone) -> Self {
        let (kind, whole) = match window {
            WindowKind::Fixed => (Kind::Fixed, rate.count),
            WindowKind::Sliding => (Kind::Sliding, rate.count.min(SLIDING_MOST)),
            WindowKind::TokenBucket { burst } => (Kind::TokenBucket, burst),
        };
        let interval = nominal_length(rate.period).div_ceil(u64::from(rate.count.max(1)));
        let whole = match kind {
            Kind::Fixed | Kind::Sliding => whole,
            Kind::TokenBucket => whole.min(u32::try_from(BUCKET_LONGEST / interval).unwrap_or(u32::MAX)),
        };
        let calendar = match kind {
            Kind::Fixed | Kind::Sliding => Calendar::new(rate.period, zone),
            Kind::TokenBucket => Calendar::utc(rate.period),
        };
        Self {
            shape: Shape { kind, calendar },
            whole,
            interval,
        }
    }

    /// The most that can be spent at once: the size of a bucket, else the count of the limit.
    #[must_use]
    pub const fn whole(&self) -> u32 {
        self.whole
    }

    /// How the counter's word is to be read.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// How many nanoseconds a bucket takes to gain so many tokens.
    #[must_use]
    pub const fn time_to_gain(&self, tokens: u32) -> u64 {
        (tokens as u64).saturating_mul(self.interval)
    }

    /// How many nanoseconds a bucket takes to gain one token.
    #[must_use]
    pub const fn interval(&self) -> u64 {
        self.interval
    }

    /// How many tokens a bucket gains in so many nanoseconds.
    #[must_use]
    pub const fn gained_in(&self, nanos: u64) -> u64 {
        nanos / self.interval
    }

    /// So many millionths of a bucket: of its size, but at least one token, and of its rate.
    #[must_use]
    pub fn part(&self, millionths: u32) -> Self {
        let millionths = u64::from(millionths.clamp(1, 1_000_000));
        let whole = u64::from(self.whole) * millionths / 1_000_000;
        let interval = self.interval.saturating_mul(1_000_000) / millionths;
        let longest = BUCKET_LONGEST / interval.max(1);
        Self {
            whole: u32::try_from(whole.clamp(1, longest.max(1))).unwrap_or(self.whole),
            interval,
            ..*self
        }
    }
}

/// How a counter's word is to be read; what the table has to know to tell a finished counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    kind: Kind,
    calendar: Calendar,
}

impl Shape {
    /// How the limit cuts time; for a token bucket, its period.
    #[must_use]
    pub const fn calendar(self) -> Calendar {
        self.calendar
    }

    /// The period of the limit.
    #[must_use]
    pub const fn period(self) -> Period {
        self.calendar.period()
    }

    /// Whether the limit has calendar windows. A token bucket has none.
    #[must_use]
    pub const fn has_windows(self) -> bool {
        matches!(self.kind, Kind::Fixed | Kind::Sliding)
    }

    /// Whether what was spent in the window before counts for a part.
    #[must_use]
    pub const fn slides(self) -> bool {
        matches!(self.kind, Kind::Sliding)
    }

    /// The calendar window that contains an instant.
    #[inline]
    #[must_use]
    pub fn window_of(self, now: Time) -> Window {
        self.calendar.window_of(now)
    }

    /// The calendar window with this number.
    #[inline]
    #[must_use]
    pub fn window_at(self, index: u32) -> Window {
        self.calendar.window_at(index)
    }

    /// Whether a counter with this word is no different from an empty one any more, not even to a caller that is as
    /// late as callers may be: else forgetting the counter would open its last window again.
    #[must_use]
    pub fn finished(self, word: u64, now: Time) -> bool {
        let now = now.minus(lateness(self.period()));
        match self.kind {
            Kind::Fixed => self.calendar.window_of(now).index > Fixed::unpack(word).index,
            Kind::Sliding => {
                let index = self.calendar.window_of(now).index;
                u64::from(index) >= u64::from(Sliding::unpack(word).index_near(index)) + 2
            }
            Kind::TokenBucket => word <= now.unix_nanos(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fixed,
    Sliding,
    TokenBucket,
}

/// How a counter stands after a request was counted (or would be).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// What could be spent at once, now.
    pub remaining: u32,
    /// When there is more again: the end of the window, or when the bucket is full.
    pub reset: Time,
    /// The window that it was counted in; [`give_back`] wants to know. Always 0 for a token bucket.
    pub window: u32,
    /// Whether nothing was spent in the window (or missing in the bucket) before.
    pub opened: bool,
}

/// The counter has not enough left. Nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// When the same request would pass, if nobody else comes. For a cost above the whole quota, which never
    /// passes: when the quota is whole again.
    pub retry_at: Time,
    /// What a smaller request could spend.
    pub remaining: u32,
    /// The window that refused. Always 0 for a token bucket.
    pub window: u32,
    /// Whether more might be left: who counts it could not be asked.
    pub unasked: bool,
}

/// Counts a request of this cost, or refuses it.
///
/// # Errors
/// When the counter has not `cost` left of its allowance.
#[inline]
pub fn spend(word: &AtomicU64, quota: &Quota, allowance: u32, cost: u32, now: Time) -> Result<State, Refusal> {
    update(word, |seen| judge(seen, quota, allowance, cost, now))
}

/// What [`spend`] would answer; changes nothing.
///
/// # Errors
/// When the counter has not `cost` left of its allowance.
#[inline]
pub fn peek(word: &AtomicU64, quota: &Quota, allowance: u32, cost: u32, now: Time) -> Result<State, Refusal> {
    judge(word.load(Ordering::Relaxed), quota, allowance, cost, now).1
}

/// Takes back what [`spend`] counted in `window`. If the window is over, there is nothing to take back: the next one
/// must not gain by it.
pub fn give_back(word: &AtomicU64, quota: &Quota, cost: u32, window: u32) {
    update(word, |seen| {
        let next = match quota.shape.kind {
            Kind::Fixed => Fixed::unpack(seen).without(cost, window).pack(),
            Kind::Sliding => Sliding::unpack(seen).without(cost, window).pack(),
            Kind::TokenBucket => seen.saturating_sub(quota.interval.saturating_mul(u64::from(cost))),
        };
        (next, ())
    });
}

/// The one place that changes a word. `step` is pure: from the word that was seen, to the word that should be and
/// the answer that goes with it.
///
/// `Relaxed` suffices, because the word is the whole state: nothing else is published with it. Where nothing
/// changes nothing is written, so that refusals do not fight over the cache line.
#[inline]
fn update<T>(word: &AtomicU64, step: impl Fn(u64) -> (u64, T)) -> T {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let (next, answer) = step(seen);
        if next == seen {
            return answer;
        }
        match word.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return answer,
            Err(now_there) => seen = now_there,
        }
    }
}

/// The word after a request of this cost, and the answer to the request. A refusal may change the word too: it moves
/// the counter into the window of now, which bounds how long a clock that was set back is felt.
#[inline]
fn judge(word: u64, quota: &Quota, allowance: u32, cost: u32, now: Time) -> (u64, Result<State, Refusal>) {
    match quota.shape.kind {
        Kind::Fixed => judge_fixed(word, quota.shape.calendar, allowance, cost, now),
        Kind::Sliding => judge_sliding(word, quota.shape.calendar, allowance, cost, now),
        Kind::TokenBucket => judge_bucket(word, quota, allowance, cost, now),
    }
}

#[inline]
fn judge_fixed(word: u64, calendar: Calendar, allowance: u32, cost: u32, now: Time) -> (u64, Result<State, Refusal>) {
    let seen = Fixed::unpack(word);
    let window = calendar.counting_window(seen.index, now);
    let spent = if window.index > seen.index { 0 } else { seen.spent };
    let place = |spent| {
        Fixed {
            index: window.index,
            spent,
        }
        .pack()
    };
    match spent.checked_add(cost).filter(|&after| after <= allowance) {
        Some(after) => {
            let state = State {
                remaining: allowance - after,
                reset: window.end,
                window: window.index,
                opened: spent == 0,
            };
            (place(after), Ok(state))
        }
        None => {
            let refusal = Refusal {
                retry_at: window.end,
                remaining: allowance.saturating_sub(spent),
                window: window.index,
                unasked: false,
            };
            (place(spent), Err(refusal))
        }
    }
}

#[inline]
fn judge_sliding(word: u64, calendar: Calendar, allowance: u32, cost: u32, now: Time) -> (u64, Result<State, Refusal>) {
    let allowance = allowance.min(SLIDING_MOST);
    let seen = Sliding::unpack(word);
    let today = calendar.window_of(now);
    let seen_index = seen.index_near(today.index);
    // An empty counter has seen no window, whatever its number looks like.
    let window = if seen_index <= today.index || seen.is_empty() {
        today
    } else {
        calendar.counting_window(seen_index, now)
    };
    let (previous, current) = match window.index.saturating_sub(seen_index) {
        0 => (seen.previous, seen.current),
        1 => (seen.current, 0),
        _ => (0, 0),
    };
    let place = |current| {
        Sliding {
            index: low_bits(window.index),
            previous,
            current,
        }
        .pack()
    };
    let used = current.saturating_add(still_counts(previous.min(allowance), &window, now));
    match used.checked_add(cost).filter(|&after| after <= allowance) {
        Some(after) => {
            let state = State {
                remaining: allowance - after,
                reset: window.end,
                window: window.index,
                opened: current == 0,
            };
            // `current + cost` is within 24 bits: it is at most `after`, which is at most the allowance.
            (place(current + cost), Ok(state))
        }
        None => {
            let refusal = Refusal {
                retry_at: sliding_retry(calendar, &window, previous, current, allowance, cost).max(now),
                remaining: allowance.saturating_sub(used),
                window: window.index,
                unasked: false,
            };
            (place(current), Err(refusal))
        }
    }
}

/// What `previous` requests of the window before still weigh, rounded up.
#[inline]
pub(super) fn still_counts(previous: u32, window: &Window, now: Time) -> u32 {
    if previous == 0 {
        return 0;
    }
    let left = window.end.since(now.max(window.start));
    let weighed = (u128::from(previous) * u128::from(left)).div_ceil(u128::from(window.length().max(1)));
    u32::try_from(weighed).unwrap_or(previous)
}

/// When a refused request would pass: in this window, as soon as the one before weighs little enough, else in the
/// next one, where the same holds for what was spent in this.
#[cold]
fn sliding_retry(calendar: Calendar, window: &Window, previous: u32, current: u32, allowance: u32, cost: u32) -> Time {
    let passes = |window: &Window, previous: u32, room: u32| {
        let weight = u128::from(previous.min(allowance).max(1));
        let length = window.length();
        let may_be_left = u128::from(room) * u128::from(length) / weight;
        window
            .start
            .plus(length.saturating_sub(u64::try_from(may_be_left).unwrap_or(u64::MAX)))
    };
    let next = calendar.window_at(window.index.saturating_add(1));
    match (allowance.checked_sub(current), allowance.checked_sub(cost)) {
        (Some(room), _) if room >= cost => passes(window, previous, room - cost),
        (_, Some(room)) => passes(&next, current, room),
        _ => next.end,
    }
}

#[inline]
fn judge_bucket(word: u64, quota: &Quota, allowance: u32, cost: u32, now: Time) -> (u64, Result<State, Refusal>) {
    let now_nanos = now.unix_nanos();
    let depth = u64::from(allowance.min(quota.whole)) * quota.interval;
    let horizon = now_nanos + depth;
    // Further than this no request takes a bucket: the clock was set back, or the bucket was made smaller.
    let word = if word > horizon.saturating_add(lateness(quota.shape.period())) {
        horizon
    } else {
        word
    };
    let full_at = word.max(now_nanos);
    let price = u64::from(cost).saturating_mul(quota.interval);
    let tokens =
        |missing_until: u64| u32::try_from(horizon.saturating_sub(missing_until) / quota.interval).unwrap_or(u32::MAX);
    match full_at.checked_add(price).filter(|&after| after <= horizon) {
        Some(after) => {
            let state = State {
                remaining: tokens(after),
                reset: now.plus(after - now_nanos),
                window: 0,
                opened: word <= now_nanos,
            };
            (if cost == 0 { word } else { after }, Ok(state))
        }
        None => {
            let wait = full_at.saturating_add(price.min(depth)).saturating_sub(horizon);
            let refusal = Refusal {
                retry_at: now.plus(wait),
                remaining: tokens(full_at),
                window: 0,
                unasked: false,
            };
            (word, Err(refusal))
        }
    }
}

/// The word of a fixed window.
#[derive(Clone, Copy)]
struct Fixed {
    index: u32,
    spent: u32,
}

impl Fixed {
    fn unpack(word: u64) -> Self {
        Self {
            index: (word >> 32) as u32,
            spent: word as u32,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.spent)
    }

    fn without(mut self, cost: u32, window: u32) -> Self {
        if self.index == window {
            self.spent = self.spent.saturating_sub(cost);
        }
        self
    }
}

/// The word of a sliding window.
#[derive(Clone, Copy)]
struct Sliding {
    index: u16,
    previous: u32,
    current: u32,
}

impl Sliding {
    fn unpack(word: u64) -> Self {
        Self {
            index: (word >> 48) as u16,
            previous: (word >> 24) as u32 & SLIDING_MOST,
            current: word as u32 & SLIDING_MOST,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.index) << 48 | u64::from(self.previous) << 24 | u64::from(self.current)
    }

    fn is_empty(self) -> bool {
        self.previous == 0 && self.current == 0
    }

    /// The whole number of the window, taken to be the nearest one to `index`.
    fn index_near(self, index: u32) -> u32 {
        let away = self.index.wrapping_sub(low_bits(index)).cast_signed();
        index.saturating_add_signed(i32::from(away))
    }

    fn without(mut self, cost: u32, window: u32) -> Self {
        match self.index.wrapping_sub(low_bits(window)) {
            0 => self.current = self.current.saturating_sub(cost),
            1 => self.previous = self.previous.saturating_sub(cost),
            _ => {}
        }
        self
    }
}

fn low_bits(index: u32) -> u16 {
    index as u16
}

#[cfg(test)]
#[path = "counter_tests.rs"]
mod tests;
