//! How many requests may be tried again: a share of all, so that an upstream that is down gets no more than that on top.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Moment;
use crate::units::Ratio;

/// Over what time the share is taken.
const WINDOW: Duration = Duration::from_secs(10);

/// So many in a window always may, ten in a second: with little traffic a share of it is nothing.
const ALWAYS: u32 = 100;

/// What was asked and what was repeated in the current window: its number in 16 bits, then 24 bits each.
#[derive(Debug, Default)]
pub struct Budget(AtomicU64);

const COUNT_MAX: u64 = (1 << 24) - 1;

impl Budget {
    /// Counts a request that was sent for the first time.
    pub fn asked(&self, now: Moment) {
        self.update(now, |requests, repeated| {
            Some(((requests + 1).min(COUNT_MAX), repeated))
        });
    }

    /// Takes a repetition out of the budget. False when it is used up.
    #[must_use]
    pub fn take(&self, share: Ratio, now: Moment) -> bool {
        self.update(now, |requests, repeated| {
            let requests_u32 = u32::try_from(requests).unwrap_or(u32::MAX);
            let most = u64::from(share.of(requests_u32).max(ALWAYS));
            (repeated < most).then_some((requests, repeated + 1))
        })
    }

    fn update(&self, now: Moment, next: impl Fn(u64, u64) -> Option<(u64, u64)>) -> bool {
        let number = (now.micros() / u64::try_from(WINDOW.as_micros()).unwrap_or(1)) & 0xffff;
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                let (requests, repeated) = if word >> 48 == number {
                    ((word >> 24) & COUNT_MAX, word & COUNT_MAX)
                } else {
                    (0, 0)
                };
                next(requests, repeated).map(|(requests, repeated)| number << 48 | requests << 24 | repeated)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_requests_may_be_repeated_and_a_hundred_always_may() {
        let budget = Budget::default();
        let now = Moment::from_micros(1);
        let taken = |count: usize| (0..count).filter(|_| budget.take(Ratio::percent(20), now)).count();
        assert_eq!(taken(1000), 100);
        for _ in 0..1000 {
            budget.asked(now);
        }
        assert_eq!(
            taken(1000),
            100,
            "two hundred of a thousand, a hundred of which are gone"
        );
        let later = now.plus(WINDOW);
        assert!(budget.take(Ratio::ZERO, later), "another window");
    }
}
