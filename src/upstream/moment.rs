//! Time as endpoints' states keep it: in a word, monotonic.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Before every moment of this process, so that zero can stand for "never".
static EPOCH: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
});

/// Microseconds since this process began, on the monotonic clock. Never zero for a moment that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// The moment that is now.
    #[must_use]
    pub fn now() -> Self {
        Self::of(Instant::now())
    }

    /// The moment of an instant.
    #[must_use]
    pub fn of(instant: Instant) -> Self {
        let elapsed = instant.saturating_duration_since(*EPOCH);
        Self(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1))
    }

    /// The moment with this number of microseconds, as [`Self::micros`] gave it.
    #[must_use]
    pub fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// As a number, for an atomic.
    #[must_use]
    pub fn micros(self) -> u64 {
        self.0
    }

    /// So much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// How long ago the other moment was; zero if it is yet to come.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
