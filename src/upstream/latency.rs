//! How long an endpoint takes to answer: an average that remembers peaks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Moment;

/// How fast the average forgets: after this time an old value counts a third.
const FORGETS: Duration = Duration::from_secs(10);

/// An average that is older says nothing.
const STALE: Duration = Duration::from_secs(60);

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

    /// The average in microseconds; none if nothing is known, or nothing recent.
    #[must_use]
    pub fn micros(&self, now: Moment) -> Option<f64> {
        let at = self.at.load(Ordering::Relaxed);
        if at == 0 || now.since(Moment::from_micros(at)) > STALE {
            return None;
        }
        Some(self.average.load(Ordering::Relaxed) as f64)
    }
}

/// What part of the old average is left after this time.
fn kept(elapsed: Duration) -> f64 {
    (-(elapsed.as_secs_f64() / FORGETS.as_secs_f64())).exp()
}
