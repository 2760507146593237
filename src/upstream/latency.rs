//! How long an endpoint takes to answer: an average that remembers peaks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Moment;
use crate::heritage::{Damaged, Reader, Record};

/// How fast the average forgets: after this time an old value counts a third.
const FORGETS: Duration = Duration::from_secs(10);

/// An average that is older says nothing.
const STALE: Duration = Duration::from_secs(60);

/// An average that is younger is taken as it is.
const RECENT: Duration = Duration::from_millis(50);

/// Peak EWMA (as in Finagle): a slow answer counts at once and in full, faster ones bring the average down with time.
#[derive(Debug, Default)]
pub struct Latency {
    /// In microseconds; 0 while nothing is known.
    average: AtomicU64,
    /// When it was last told.
    at: AtomicU64,
}

impl Latency {
    /// Notes that an answer took so long.
    pub fn observe(&self, took: Duration, now: Moment) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = Moment::from_micros(self.at.swap(now.micros(), Ordering::Relaxed));
        let average = self.average.load(Ordering::Relaxed);
        let next = if took >= average {
            took
        } else {
            let kept = kept(now.since(before));
            (average as f64 * kept + took as f64 * (1.0 - kept)) as u64
        };
        // Two answers at the same moment: one of them is enough.
        self.average.store(next.max(1), Ordering::Relaxed);
    }

    /// The average in microseconds; none if nothing is known, or nothing recent. It goes down while nobody tells anything:
    /// an endpoint that gets no requests because it was slow is tried again some day.
    #[must_use]
    pub fn micros(&self, now: Moment) -> Option<f64> {
        let at = self.at.load(Ordering::Relaxed);
        let silent = now.since(Moment::from_micros(at));
        if at == 0 || silent > STALE {
            return None;
        }
        let average = self.average.load(Ordering::Relaxed) as f64;
        // With traffic this is so short that there is nothing to work out.
        Some(if silent < RECENT {
            average
        } else {
            average * kept(silent)
        })
    }
}

impl Latency {
    /// Describes it to another process.
    pub(super) fn write(&self, record: &mut Record<'_>, now: Moment) {
        record.long(self.average.load(Ordering::Relaxed));
        super::heritage::write_moment(record, self.at.load(Ordering::Relaxed), now);
    }

    /// Reads what [`write`](Self::write) wrote.
    pub(super) fn read(reader: &mut Reader<'_>, now: Moment) -> Result<Self, Damaged> {
        Ok(Self {
            average: reader.long()?.into(),
            at: super::heritage::read_moment(reader, now)?.into(),
        })
    }

    /// Takes over what another process knew.
    pub(super) fn inherit(&self, other: &Self) {
        self.average
            .store(other.average.load(Ordering::Relaxed), Ordering::Relaxed);
        self.at.store(other.at.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// What part of the old average is left after this time.
fn kept(elapsed: Duration) -> f64 {
    (-(elapsed.as_secs_f64() / FORGETS.as_secs_f64())).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(1).plus(Duration::from_secs(seconds))
    }

    const FAST: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(100);

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_with_time() {
        let latency = Latency::default();
        assert_eq!(latency.micros(at(0)), None);
        latency.observe(FAST, at(1));
        latency.observe(SLOW, at(1));
        assert_eq!(latency.micros(at(1)), Some(100_000.0));
        latency.observe(FAST, at(1));
        assert_eq!(
            latency.micros(at(1)),
            Some(100_000.0),
            "one that is faster changes nothing at the same moment"
        );
        latency.observe(FAST, at(11));
        let after_ten = latency.micros(at(11)).unwrap();
        assert!((37_000.0..38_000.0).contains(&after_ten), "{after_ten}");
    }

    #[test]
    fn what_nobody_asks_any_more_is_expected_to_get_better_and_is_unknown_in_the_end() {
        let latency = Latency::default();
        latency.observe(SLOW, at(1));
        let expected: Vec<f64> = [1, 2, 11, 31]
            .iter()
            .map(|seconds| latency.micros(at(*seconds)).unwrap())
            .collect();
        assert!(expected.windows(2).all(|pair| pair[1] < pair[0]), "{expected:?}");
        assert!(expected[3] < 5_000.0, "{expected:?}");
        assert_eq!(latency.micros(at(62)), None);
    }
}
