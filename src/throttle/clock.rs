//! The window clock: the store's time.
//!
//! Gateways that cut windows at different moments would open the next one at different moments. So all of them go by the
//! time of the same node of the store: the one that keeps the slot of a certain name. Their own clocks need not
//! agree. The bound does not rest on it: tickets belong to a window by its number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::window::Time;

/// The name whose slot tells the node that tells the time.
pub const REFERENCE: &[u8] = b"tg1-clock";

/// How much worse than the best known a measurement may be, before it is not used: half of a round trip is how wrong it
/// may be.
const TOLERANCE: u32 = 2;

/// The store's time, carried on by this host's monotonic clock: setting the host's wall clock does not move it.
#[derive(Debug)]
pub struct Clock {
    anchor: Instant,
    /// The store's time at the anchor, in nanoseconds of unix time.
    base: AtomicU64,
}

impl Default for Clock {
    /// Shows this host's time until the store's is known.
    fn default() -> Self {
        Self {
            anchor: Instant::now(),
            base: AtomicU64::new(Time::from(SystemTime::now()).unix_nanos()),
        }
    }
}

impl Clock {
    /// The store's time at an instant.
    #[inline]
    #[must_use]
    pub fn at(&self, instant: Instant) -> Time {
        Time::from_unix_nanos(self.base.load(Ordering::Relaxed)).plus(nanos(instant, self.anchor))
    }

    /// The store's time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.at(Instant::now())
    }
}

/// Sets a clock by what the store says. One reader of the store's time keeps it.
#[derive(Debug, Default)]
pub struct Disciplined {
    best: Option<Duration>,
}

impl Disciplined {
    /// Takes a measurement: the store's time, and when it was asked for and answered. One that took much longer than the
    /// best so far says less than what is known; but the best is forgotten slowly, because clocks drift.
    pub fn measured(&mut self, clock: &Clock, store: Time, asked: Instant, answered: Instant) {
        let took = answered.saturating_duration_since(asked);
        let good = self.best.is_none_or(|best| took <= best * TOLERANCE);
        self.best = Some(match self.best {
            Some(best) if took > best => best + (took - best) / 8,
            _ => took,
        });
        if good {
            let then = store.minus(nanos(asked + took / 2, clock.anchor));
            clock.base.store(then.unix_nanos(), Ordering::Relaxed);
        }
    }

    /// Another node tells the time now.
    pub fn forget(&mut self) {
        self.best = None;
    }
}

fn nanos(instant: Instant, since: Instant) -> u64 {
    u64::try_from(instant.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(milliseconds: u64) -> Time {
        Time::from_unix_seconds(1_795_239_720).plus(milliseconds * 1_000_000)
    }

    fn after(clock: &Clock, milliseconds: u64) -> Instant {
        clock.anchor + Duration::from_millis(milliseconds)
    }

    fn ask(discipline: &mut Disciplined, clock: &Clock, says: u64, asked: u64, answered: u64) {
        discipline.measured(clock, store(says), after(clock, asked), after(clock, answered));
    }

    #[test]
    fn gateways_whose_clocks_differ_agree_on_the_time_of_the_store() {
        let (one, other) = (Clock::default(), Clock::default());
        // Asking takes 2 ms. They asked at different moments of their lives.
        ask(&mut Disciplined::default(), &one, 10_000, 11_999, 12_001);
        ask(&mut Disciplined::default(), &other, 10_000, 9_499, 9_501);
        assert_eq!(one.at(after(&one, 12_500)), store(10_500));
        assert_eq!(other.at(after(&other, 10_000)), store(10_500));
    }

    #[test]
    fn before_the_store_has_spoken_it_is_the_time_of_this_host() {
        let apart = Clock::default().now().since(Time::from(SystemTime::now()));
        assert!(apart < 1_000_000_000, "{apart}");
    }

    #[test]
    fn a_measurement_that_took_long_does_not_move_the_clock() {
        let (clock, mut discipline) = (Clock::default(), Disciplined::default());
        ask(&mut discipline, &clock, 1_000, 1_000, 1_001);
        let known = clock.at(after(&clock, 5_000));
        // The answer lay about for 400 ms on its way back: half of that would be the error.
        ask(&mut discipline, &clock, 2_000, 2_000, 2_400);
        assert_eq!(clock.at(after(&clock, 5_000)), known);
    }

    #[test]
    fn when_every_answer_is_slow_the_clock_is_set_by_slow_answers() {
        let (clock, mut discipline) = (Clock::default(), Disciplined::default());
        ask(&mut discipline, &clock, 1_000, 1_000, 1_001);
        for second in 2..40 {
            ask(
                &mut discipline,
                &clock,
                second * 1_000 + 500,
                second * 1_000,
                second * 1_000 + 50,
            );
        }
        assert_eq!(clock.at(after(&clock, 50_000)), store(50_475));
    }
}
