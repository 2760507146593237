//! When who is asked. Time comes in; nothing sleeps here.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A new endpoint is asked after this at the latest, so that one that is dead is found early even if the interval is long.
const SOON: Duration = Duration::from_secs(3);

/// Who is asked when: the earliest first.
///
/// A heap with entries that are dead was rejected: an interval that is changed a hundred times would leave a hundred of
/// them behind. Both ways to look into a set of thousands take less than a microsecond.
#[derive(Debug)]
pub(super) struct Schedule<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: HashMap<K, Instant>,
}

impl<K: Copy + Eq + Hash + Ord> Schedule<K> {
    /// Nobody.
    pub(super) fn new() -> Self {
        Self {
            by_time: BTreeSet::new(),
            by_key: HashMap::new(),
        }
    }

    /// This one at that time, and not at any other.
    pub(super) fn set(&mut self, key: K, at: Instant) {
        self.remove(key);
        self.by_time.insert((at, key));
        self.by_key.insert(key, at);
    }

    /// This one not later than then. One that is not in the schedule is being asked, and is told his next time afterwards.
    pub(super) fn hasten(&mut self, key: K, latest: Instant) {
        if self.by_key.get(&key).is_some_and(|at| *at > latest) {
            self.set(key, latest);
        }
    }

    /// This one not at all.
    pub(super) fn remove(&mut self, key: K) {
        if let Some(at) = self.by_key.remove(&key) {
            self.by_time.remove(&(at, key));
        }
    }

    /// The next one whose time has come; it is not in the schedule any more.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.remove(key);
        Some(key)
    }

    /// When somebody's time comes.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

/// How long the first check of an endpoint waits. `dice` is from 0 to 1: thousands that came with one revision are spread
/// evenly.
pub(super) fn first(interval: Duration, dice: f64) -> Duration {
    interval.min(SOON).mul_f64(dice.clamp(0.0, 1.0))
}

/// How long after the start of a check the next one starts: the interval, a tenth more or less, so that gateways that were
/// started together do not ask together for ever.
pub(super) fn again(interval: Duration, dice: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn whoever_is_due_is_taken_in_order_and_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        for (key, seconds) in [(1, 3), (2, 1), (3, 2)] {
            schedule.set(key, start + seconds * SECOND);
        }
        assert_eq!(schedule.next(), Some(start + SECOND));
        assert_eq!(schedule.take_due(start), None);
        let now = start + 2 * SECOND;
        assert_eq!((schedule.take_due(now), schedule.take_due(now)), (Some(2), Some(3)));
        assert_eq!(schedule.take_due(now), None);
        schedule.remove(1);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_shorter_interval_brings_a_check_forward_and_a_longer_one_leaves_it() {
        let start = Instant::now();
        let mut schedule = Schedule::new();
        schedule.set(1, start + 60 * SECOND);
        schedule.hasten(1, start + 90 * SECOND);
        assert_eq!(schedule.next(), Some(start + 60 * SECOND));
        schedule.hasten(1, start + 5 * SECOND);
        assert_eq!(schedule.next(), Some(start + 5 * SECOND));
        // Being asked: not in it, and not put into it a second time.
        assert_eq!(schedule.take_due(start + 5 * SECOND), Some(1));
        schedule.hasten(1, start + 6 * SECOND);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn two_thousand_endpoints_are_asked_once_in_each_interval_and_never_in_a_crowd() {
        let start = Instant::now();
        let interval = 10 * SECOND;
        let mut schedule = Schedule::new();
        let dice = |key: u32, round: u32| {
            f64::from(crate::upstream::hash::stir(u64::from(key) << 32 | u64::from(round)) as u32) / f64::from(u32::MAX)
        };
        let mut rounds: HashMap<u32, u32> = HashMap::new();
        for key in 0..2000 {
            schedule.set(key, start + first(interval, dice(key, 0)));
        }
        let mut busiest = 0;
        // A minute, in steps of ten milliseconds.
        for step in 0..6000 {
            let now = start + step * Duration::from_millis(10);
            let mut asked = 0;
            while let Some(key) = schedule.take_due(now) {
                let round = rounds.entry(key).or_default();
                *round += 1;
                schedule.set(key, now + again(interval, dice(key, *round)));
                asked += 1;
            }
            busiest = busiest.max(asked);
        }
        assert_eq!(rounds.len(), 2000, "all of them were asked");
        assert!(rounds.values().all(|rounds| (5..=7).contains(rounds)), "{rounds:?}");
        // Evenly, it would be seven in a step of the first three seconds.
        assert!(busiest < 30, "{busiest} at the same time");
    }
}
