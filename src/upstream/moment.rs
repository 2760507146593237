//! Time as endpoints' states keep it: in a word, monotonic.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// When this was first asked for.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The moment of that instant: a day, so that what was before this process has a moment too, and zero can stand for "never".
const BEFORE: u64 = 86_400_000_000;

/// Microseconds since a day before this process began, on the monotonic clock. Never zero for a moment that was read.
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
        let since = match instant.checked_duration_since(*EPOCH) {
            Some(elapsed) => BEFORE.saturating_add(micros(elapsed)),
            None => BEFORE.saturating_sub(micros(EPOCH.saturating_duration_since(instant))),
        };
        Self(since.max(1))
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

    /// Where it lies from now, in microseconds: for a process whose moments have other numbers.
    #[must_use]
    pub fn from_now(self, now: Self) -> i64 {
        self.0.cast_signed().saturating_sub(now.0.cast_signed())
    }

    /// The moment that lies there from now, at most a day away.
    #[must_use]
    pub fn there(from_now: i64, now: Self) -> Self {
        let day = BEFORE.cast_signed();
        Self(now.0.saturating_add_signed(from_now.clamp(-day, day)).max(1))
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
