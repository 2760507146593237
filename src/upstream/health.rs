//! What active checks say of an endpoint.

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use crate::heritage::{Damaged, Reader, Record};
use crate::revision::HealthCheck;

const UNKNOWN: u8 = 0;
const UP: u8 = 1;
const DOWN: u8 = 2;

/// What an endpoint's checks have shown. Survives revisions with the endpoint. Unknown counts as up: a gateway that starts
/// serves before its first round of checks is over.
#[derive(Debug, Default)]
pub struct Health {
    state: AtomicU8,
    /// Good checks in a row, or failed ones as a negative number.
    streak: AtomicI32,
}

/// What a check changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The endpoint can be used again.
    CameUp,
    /// It can not be used any more.
    WentDown,
}

impl Health {
    /// Notes a check. One task checks an endpoint at a time.
    pub fn checked(&self, good: bool, terms: &HealthCheck) -> Option<Turn> {
        let before = self.streak.load(Ordering::Relaxed);
        let streak = match (good, before) {
            (true, 0..) => before.saturating_add(1),
            (true, _) => 1,
            (false, 1..) => -1,
            (false, _) => before.saturating_sub(1),
        };
        self.streak.store(streak, Ordering::Relaxed);
        let enough = |count: u32| streak.unsigned_abs() >= count;
        match (self.state.load(Ordering::Relaxed), good) {
            (DOWN, true) if enough(terms.healthy) => {
                self.state.store(UP, Ordering::Relaxed);
                Some(Turn::CameUp)
            }
            (UNKNOWN, true) => {
                self.state.store(UP, Ordering::Relaxed);
                None
            }
            (UNKNOWN | UP, false) if enough(terms.unhealthy) => {
                self.state.store(DOWN, Ordering::Relaxed);
                Some(Turn::WentDown)
            }
            _ => None,
        }
    }

    /// Nobody asks it any more: what was known will be wrong some day, and must not count when somebody asks again. True if it
    /// was down.
    pub fn forget(&self) -> bool {
        self.streak.store(0, Ordering::Relaxed);
        self.state.swap(UNKNOWN, Ordering::Relaxed) == DOWN
    }

    /// Whether checks let it be used.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) != DOWN
    }

    /// How many good checks there were since the last failed one.
    #[must_use]
    pub fn good_in_a_row(&self) -> u32 {
        u32::try_from(self.streak.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

impl Health {
    /// Describes it to another process.
    pub(super) fn write(&self, record: &mut Record<'_>) {
        record.byte(self.state.load(Ordering::Relaxed));
        record.word(self.streak.load(Ordering::Relaxed).cast_unsigned());
    }

    /// Reads what [`write`](Self::write) wrote.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            state: match reader.byte()? {
                state @ (UNKNOWN | UP | DOWN) => state.into(),
                _ => return Err(Damaged),
            },
            streak: reader.word()?.cast_signed().into(),
        })
    }

    /// Takes over what another process knew.
    pub(super) fn inherit(&self, other: &Self) {
        self.state.store(other.state.load(Ordering::Relaxed), Ordering::Relaxed);
        self.streak
            .store(other.streak.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Probe;
    use std::time::Duration;

    #[test]
    fn an_endpoint_goes_down_and_comes_up_after_so_many_checks_in_a_row_and_is_up_when_all_is_forgotten() {
        let terms = HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            healthy: 2,
            unhealthy: 3,
            failback: 5,
        };
        let health = Health::default();
        let check = |good| health.checked(good, &terms);
        assert!(health.is_up(), "before anybody has asked");
        assert_eq!([check(false), check(false), check(true)], [None; 3]);
        assert_eq!([check(false), check(false)], [None; 2]);
        assert_eq!(check(false), Some(Turn::WentDown));
        assert!(!health.is_up());
        assert_eq!([check(true), check(false), check(true)], [None; 3]);
        assert_eq!(check(true), Some(Turn::CameUp));
        assert_eq!((health.is_up(), health.good_in_a_row()), (true, 2));
        assert!(!health.forget());
        assert_eq!(health.good_in_a_row(), 0);
        assert_eq!(
            [check(false), check(false)],
            [None; 2],
            "it is counted from the beginning"
        );
        assert_eq!(check(false), Some(Turn::WentDown));
        assert!(health.forget() && health.is_up());
    }
}
