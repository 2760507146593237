//! The window clock: this host's clock, set by the store's.
//!
//! Gateways that cut windows at different moments would open the next one at different moments. So all of them go by the
//! time of the same node of the store: the one that keeps the slot of a certain name. Their own clocks need not
//! agree. The bound does not rest on it: tickets belong to a window by its number.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::window::Time;

/// The name whose slot tells the node that tells the time.
pub const REFERENCE: &[u8] = b"tg1-clock";

/// How much worse than the best known a measurement may be, before it is not used: half of a round trip is how wrong it
/// may be.
const TOLERANCE: u64 = 2;

/// How far this host's clock is from the store's.
#[derive(Debug, Default)]
pub struct Clock {
    /// Nanoseconds to add to this host's clock.
    offset: AtomicI64,
}

/// Measures the distance. One reader of the store's time keeps it.
#[derive(Debug, Default)]
pub struct Disciplined {
    best: Option<Duration>,
}

impl Clock {
    /// The store's time at an instant of this host's clock.
    #[inline]
    #[must_use]
    pub fn at(&self, local: Time) -> Time {
        let offset = self.offset.load(Ordering::Relaxed);
        if offset >= 0 {
            local.plus(offset.unsigned_abs())
        } else {
            local.minus(offset.unsigned_abs())
        }
    }

    /// How many nanoseconds this host's clock is behind the store's.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }
}

impl Disciplined {
    /// Takes a measurement: the store's time, and this host's before and after it was asked for. One that took much
    /// longer than the best so far says less than what is known; but the best is forgotten slowly, because clocks drift.
    pub fn measured(&mut self, clock: &Clock, store: Time, (before, after): (Time, Time)) {
        let took = Duration::from_nanos(after.since(before));
        let good = self.best.is_none_or(|best| took <= best * TOLERANCE as u32);
        self.best = Some(match self.best {
            Some(best) if took > best => best + (took - best) / 8,
            _ => took,
        });
        if good {
            let here = i128::from(before.unix_nanos()) + i128::from(after.since(before)) / 2;
            let offset = i128::from(store.unix_nanos()) - here;
            clock
                .offset
                .store(i64::try_from(offset).unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Another node tells the time now.
    pub fn forget(&mut self) {
        self.best = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn at(milliseconds: u64) -> Time {
        Time::from_unix_seconds(1_795_239_720).plus(milliseconds * MILLISECOND)
    }

    #[test]
    fn gateways_whose_clocks_differ_agree_on_the_time_of_the_store() {
        let (ahead, behind) = (Clock::default(), Clock::default());
        // The store says 10 000; one host says 12 000, the other 9 500; asking takes 2 ms.
        Disciplined::default().measured(&ahead, at(10_000), (at(11_999), at(12_001)));
        Disciplined::default().measured(&behind, at(10_000), (at(9_499), at(9_501)));
        assert_eq!(ahead.at(at(12_500)), at(10_500));
        assert_eq!(behind.at(at(10_000)), at(10_500));
    }

    #[test]
    fn a_measurement_that_took_long_does_not_move_the_clock() {
        let (clock, mut discipline) = (Clock::default(), Disciplined::default());
        discipline.measured(&clock, at(1_000), (at(1_000), at(1_001)));
        let known = clock.offset();
        // The answer lay about for 400 ms on its way back: half of that would be the error.
        discipline.measured(&clock, at(2_000), (at(2_000), at(2_400)));
        assert_eq!(clock.offset(), known);
    }

    #[test]
    fn when_every_answer_is_slow_the_clock_is_set_by_slow_answers() {
        let (clock, mut discipline) = (Clock::default(), Disciplined::default());
        discipline.measured(&clock, at(1_000), (at(1_000), at(1_001)));
        for second in 2..40 {
            discipline.measured(
                &clock,
                at(second * 1_000 + 500),
                (at(second * 1_000), at(second * 1_000 + 50)),
            );
        }
        assert_eq!(clock.at(at(50_000)), at(50_475));
    }
}
