//! How long the round trips of the last second took.

use std::time::{Duration, Instant};

/// The second is cut into this many parts, which are forgotten one by one.
const PARTS: usize = 10;
const PART: Duration = Duration::from_millis(100);

/// Fewer round trips than this say nothing about the ninetieth percentile.
const ENOUGH: u32 = 3;

/// Counts of the last second: all round trips, and those that took too long.
#[derive(Debug, Clone)]
pub(super) struct RoundTrips {
    start: Instant,
    slow_after: Duration,
    parts: [Part; PARTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    number: u64,
    all: u32,
    slow: u32,
}

/// What the last second says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    Slow,
    /// There were slow ones, but too few in all.
    Unclear,
}

impl RoundTrips {
    pub(super) fn new(slow_after: Duration, now: Instant) -> Self {
        Self {
            start: now,
            slow_after,
            parts: [Part::default(); PARTS],
        }
    }

    /// Notes a round trip. It belongs to when it was sent, so that a stall is forgotten a second after it began for
    /// what was sent first.
    pub(super) fn note(&mut self, sent: Instant, took: Duration) {
        let number = self.number(sent);
        let Some(part) = self.parts.get_mut(place(number)) else {
            return;
        };
        if part.number < number {
            *part = Part {
                number,
                ..Part::default()
            };
        }
        // What was sent more than a second ago has lost its place to something newer.
        if part.number == number {
            part.all = part.all.saturating_add(1);
            part.slow = part.slow.saturating_add(u32::from(took > self.slow_after));
        }
    }

    /// Slow if the ninetieth percentile is: if more than a tenth took too long.
    pub(super) fn verdict(&self, now: Instant) -> Verdict {
        let newest = self.number(now);
        let recent = self.parts.iter().filter(|part| part.number + PARTS as u64 > newest);
        let (all, slow) = recent.fold((0_u32, 0_u32), |(all, slow), part| {
            (all.saturating_add(part.all), slow.saturating_add(part.slow))
        });
        if u64::from(slow) * 10 <= u64::from(all) {
            Verdict::Fine
        } else if all < ENOUGH {
            Verdict::Unclear
        } else {
            Verdict::Slow
        }
    }

    fn number(&self, at: Instant) -> u64 {
        let parts = at.saturating_duration_since(self.start).as_millis() / PART.as_millis();
        u64::try_from(parts).unwrap_or(u64::MAX)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a remainder of ten")]
fn place(number: u64) -> usize {
    (number % PARTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_millis(21);

    fn trips() -> (RoundTrips, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let trips = RoundTrips::new(Duration::from_millis(20), start);
        (trips, move |ms| start + Duration::from_millis(ms))
    }

    #[test]
    fn more_than_a_tenth_of_slow_round_trips_is_slow() {
        let (mut trips, at) = trips();
        for number in 0..18 {
            trips.note(at(number * 10), FAST);
        }
        trips.note(at(300), LONG);
        trips.note(at(300), LONG);
        assert_eq!(trips.verdict(at(300)), Verdict::Fine);
        trips.note(at(310), LONG);
        assert_eq!(trips.verdict(at(310)), Verdict::Slow);
    }

    #[test]
    fn what_is_older_than_a_second_is_forgotten() {
        let (mut trips, at) = trips();
        for _ in 0..5 {
            trips.note(at(50), LONG);
        }
        assert_eq!(trips.verdict(at(999)), Verdict::Slow);
        assert_eq!(trips.verdict(at(1_000)), Verdict::Fine);
        trips.note(at(1_020), FAST);
        assert_eq!(trips.verdict(at(1_020)), Verdict::Fine);
        // A reply that comes home long after is not mistaken for a new one.
        trips.note(at(20), LONG);
        assert_eq!(trips.verdict(at(1_030)), Verdict::Fine);
    }

    #[test]
    fn one_slow_round_trip_alone_is_no_verdict() {
        let (mut trips, at) = trips();
        assert_eq!(trips.verdict(at(0)), Verdict::Fine);
        trips.note(at(0), LONG);
        assert_eq!(trips.verdict(at(0)), Verdict::Unclear);
        trips.note(at(0), FAST);
        trips.note(at(0), FAST);
        assert_eq!(trips.verdict(at(0)), Verdict::Slow);
    }
}
