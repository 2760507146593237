//! What another process spent of a counter, and how a counter is described to it.

use super::{Fixed, Kind, Quota, SLIDING_MOST, Shape, Sliding, low_bits, update};
use crate::heritage::{Damaged, Reader, Record};
use crate::throttle::atomic::AtomicU64;
use crate::throttle::window::{Calendar, Time};
use crate::throttle::zone::Zone;
use crate::units::Period;

/// What was spent of one counter, by who can not count in it: in a window, or of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// How the counter is cut into windows.
    pub shape: Shape,
    /// In which window; 0 for a bucket.
    pub window: u32,
    /// Requests; for a bucket, the nanoseconds in which it gains as much. Below zero if more was given back than spent.
    pub amount: i64,
    /// When the last of it was spent.
    pub at: Time,
}

impl Spent {
    /// A cost that was spent, or with a minus given back.
    #[must_use]
    pub fn of(quota: &Quota, cost: i64, window: u32, at: Time) -> Self {
        let amount = match quota.shape.kind {
            Kind::Fixed | Kind::Sliding => cost,
            Kind::TokenBucket => cost.saturating_mul(i64::try_from(quota.interval).unwrap_or(i64::MAX)),
        };
        Self {
            shape: quota.shape,
            window,
            amount,
            at,
        }
    }
}

/// Counts what was spent elsewhere, whatever is left of the quota: it was admitted. A window that is over here is not
/// opened again; one that has not begun here begins.
pub fn add(word: &AtomicU64, spent: &Spent) {
    let &Spent {
        shape,
        window,
        amount,
        at,
    } = spent;
    update(word, |seen| {
        let next = match shape.kind {
            Kind::Fixed => Fixed::unpack(seen).with(amount, window).pack(),
            Kind::Sliding => Sliding::unpack(seen).with(amount, window).pack(),
            Kind::TokenBucket => match u64::try_from(amount) {
                Ok(price) => seen.max(at.unix_nanos()).saturating_add(price),
                Err(_) => seen.saturating_sub(amount.unsigned_abs()),
            },
        };
        (next, ())
    });
}

impl Fixed {
    fn with(self, amount: i64, window: u32) -> Self {
        if window < self.index {
            return self;
        }
        let spent = if window == self.index { self.spent } else { 0 };
        match plus(spent, amount, u32::MAX) {
            // Given back of what is not known here.
            0 if window > self.index => self,
            spent => Self { index: window, spent },
        }
    }
}

impl Sliding {
    fn with(self, amount: i64, window: u32) -> Self {
        let ahead = if self.is_empty() {
            // It has seen no window, whatever its number looks like.
            i16::MAX
        } else {
            low_bits(window).wrapping_sub(self.index).cast_signed()
        };
        let (previous, current) = match ahead {
            0 => (self.previous, self.current),
            1 => (self.current, 0),
            2.. => (0, 0),
            -1 => {
                return Self {
                    previous: plus(self.previous, amount, SLIDING_MOST),
                    ..self
                };
            }
            _ => return self,
        };
        match plus(current, amount, SLIDING_MOST) {
            0 if ahead > 0 => self,
            current => Self {
                index: low_bits(window),
                previous,
                current,
            },
        }
    }
}

fn plus(count: u32, amount: i64, most: u32) -> u32 {
    let sum = i64::from(count).saturating_add(amount).clamp(0, i64::from(most));
    u32::try_from(sum).unwrap_or(most)
}

impl Shape {
    /// Describes it to another process, in three bytes and the number of its zone among those that are named there.
    pub fn write(self, record: &mut Record<'_>, zones: &mut Vec<Zone>) {
        record.byte(match self.kind {
            Kind::Fixed => 0,
            Kind::Sliding => 1,
            Kind::TokenBucket => 2,
        });
        record.byte(match self.calendar.period() {
            Period::Second => 0,
            Period::Minute => 1,
            Period::Hour => 2,
            Period::Day => 3,
            Period::Week => 4,
            Period::Month => 5,
        });
        let zone = self.calendar.zone();
        let number = zones.iter().position(|known| *known == zone).unwrap_or_else(|| {
            zones.push(zone);
            zones.len() - 1
        });
        // There are fewer zones in the world.
        record.short(u16::try_from(number).unwrap_or(u16::MAX));
    }

    /// Reads what [`write`](Self::write) wrote. `zones` are those that were named, in their order.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(reader: &mut Reader<'_>, zones: &[Zone]) -> Result<Self, Damaged> {
        let kind = match reader.byte()? {
            0 => Kind::Fixed,
            1 => Kind::Sliding,
            2 => Kind::TokenBucket,
            _ => return Err(Damaged),
        };
        let period = match reader.byte()? {
            0 => Period::Second,
            1 => Period::Minute,
            2 => Period::Hour,
            3 => Period::Day,
            4 => Period::Week,
            5 => Period::Month,
            _ => return Err(Damaged),
        };
        let zone = *zones.get(usize::from(reader.short()?)).ok_or(Damaged)?;
        let calendar = match kind {
            Kind::Fixed | Kind::Sliding => Calendar::new(period, zone),
            Kind::TokenBucket => Calendar::utc(period),
        };
        Ok(Self { kind, calendar })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::WindowKind;
    use crate::throttle::counter::{give_back, peek, spend};
    use crate::units::Rate;
    use proptest::prelude::*;

    fn quota(kind: usize) -> Quota {
        let rate = Rate {
            count: 1_000,
            period: Period::Minute,
        };
        let kinds = [
            WindowKind::Fixed,
            WindowKind::Sliding,
            WindowKind::TokenBucket { burst: 1_000 },
        ];
        Quota::new(rate, kinds[kind % 3])
    }

    fn noon() -> Time {
        Time::from_unix_seconds(1_795_262_400)
    }

    fn left(word: &AtomicU64, quota: &Quota, now: Time) -> u32 {
        peek(word, quota, quota.whole(), 0, now).map_or(0, |state| state.remaining)
    }

    proptest! {
        /// Whoever counts, here or elsewhere, and however it is mixed: the counter comes to the same.
        #[test]
        fn what_was_spent_elsewhere_counts_as_if_it_had_been_spent_here(
            kind in 0_usize..3,
            steps in prop::collection::vec((1_u32..20, 0_u64..20, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let quota = quota(kind);
            let (here, all) = (AtomicU64::new(0), AtomicU64::new(0));
            let mut now = noon();
            for (cost, seconds, elsewhere, back) in steps {
                now = now.plus(seconds * 1_000_000_000);
                let Ok(state) = spend(&all, &quota, quota.whole(), cost, now) else { continue };
                if elsewhere {
                    add(&here, &Spent::of(&quota, cost.into(), state.window, now));
                } else {
                    prop_assert!(spend(&here, &quota, quota.whole(), cost, now).is_ok());
                }
                if back {
                    give_back(&all, &quota, cost, state.window);
                    add(&here, &Spent::of(&quota, -i64::from(cost), state.window, now));
                }
                prop_assert_eq!(left(&here, &quota, now), left(&all, &quota, now));
            }
        }
    }

    #[test]
    fn what_was_spent_in_a_window_that_is_over_opens_nothing() {
        for kind in 0..2 {
            let quota = quota(kind);
            let word = AtomicU64::new(0);
            let old = quota.shape().window_of(noon()).index;
            let later = noon().plus(180 * 1_000_000_000);
            spend(&word, &quota, quota.whole(), 10, later).unwrap();
            add(&word, &Spent::of(&quota, 500, old, noon()));
            assert_eq!(left(&word, &quota, later), 990);
        }
    }

    #[test]
    fn of_a_sliding_limit_the_window_before_is_added_to() {
        let quota = quota(1);
        let word = AtomicU64::new(0);
        let start = quota.shape().window_of(noon()).start;
        let before = quota.shape().window_of(start).index - 1;
        spend(&word, &quota, quota.whole(), 10, start).unwrap();
        add(&word, &Spent::of(&quota, 100, before, start));
        assert_eq!(left(&word, &quota, start), 890, "all of it still counts");
    }
}
