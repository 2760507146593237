//! Who may fetch something large now, and when the others shall come: by the calendar.
//!
//! A thousand gateways that start at the same time would share the link until all of them time out, and told to come
//! "later" they would come together again. So a bounded number is served at a time, and everybody else gets a place of
//! his own in a queue that exists on paper only: the time at which, at the speed of the link, his turn comes. It asks for
//! no state per client, and each of ten thousand asks about twice. Constant pauses and doubling ones were simulated too:
//! they need five to sixty requests each, and up to twice the time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Nobody is told to come later than this, however long the queue on paper is.
const LATEST: Duration = Duration::from_secs(600);

/// Who is told to come at a time comes a little later, so that not everybody meets the same rounding.
const LEAST_SPREAD: f64 = 0.2;

/// The queue.
pub struct Calendar {
    slots: Arc<Semaphore>,
    total: u32,
    /// Bytes per second of the link.
    bandwidth: u64,
    /// When the last one who was told to come has his turn, as time since some beginning.
    next: Mutex<Duration>,
}

/// A place among those that are served. Free again when dropped.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// Whether somebody is served.
#[derive(Debug)]
pub enum Admission {
    /// Now, as long as he keeps the slot.
    Now(Slot),
    /// After so much time.
    Later(Duration),
}

impl Calendar {
    /// So many at a time, over a link of so many bytes per second.
    #[must_use]
    pub fn new(slots: u32, bandwidth: u64) -> Self {
        let total = slots.max(1);
        Self {
            slots: Arc::new(Semaphore::new(usize::try_from(total).unwrap_or(usize::MAX))),
            total,
            bandwidth: bandwidth.max(1),
            next: Mutex::new(Duration::ZERO),
        }
    }

    /// Whether somebody who wants so many bytes is served. `now` is the time since any beginning, always the same one;
    /// `chance` is a random number from 0 to 1.
    #[must_use]
    pub fn admit(&self, bytes: u64, now: Duration, chance: f64) -> Admission {
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Admission::Now(Slot { _permit: permit });
        }
        let wait = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            // What is on its way now is half done on average when the first of those who wait may come.
            *next = next.max(now + self.stream(bytes) / 2) + self.turn(bytes);
            // Somebody who does not wait, but asks again and again, must not push everybody else into next week.
            *next = next.min(now + LATEST);
            next.saturating_sub(now)
        };
        let spread = (wait.as_secs_f64() * 0.05).max(LEAST_SPREAD);
        Admission::Later(wait + Duration::from_secs_f64(spread * chance.clamp(0.0, 1.0)))
    }

    /// How long a stream of so many bytes takes when all slots are taken.
    #[must_use]
    pub fn stream(&self, bytes: u64) -> Duration {
        self.turn(bytes) * self.total
    }

    /// How long the link needs for so many bytes.
    #[allow(clippy::cast_precision_loss, reason = "sizes and speeds are far below 2^52")]
    fn turn(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64((bytes as f64 / self.bandwidth as f64).min(LATEST.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    enum Event {
        Asks,
        IsDone(Slot),
    }

    /// Everybody comes within two seconds, and again when told to. A stream takes as long as with all slots taken.
    /// Gives when the last one was done, in seconds, and how often one asked on average.
    fn storm(gateways: usize, bytes: u64, bandwidth: u64, seed: u64) -> (f64, f64) {
        let calendar = Calendar::new(256, bandwidth);
        let mut random = StdRng::seed_from_u64(seed);
        let mut queue = BinaryHeap::new();
        let mut events = Vec::new();
        for number in 0..gateways {
            queue.push(Reverse((Duration::from_secs_f64(random.random::<f64>() * 2.0), number)));
            events.push(Some(Event::Asks));
        }
        let (mut requests, mut last) = (0_u32, Duration::ZERO);
        while let Some(Reverse((now, number))) = queue.pop() {
            let (time, event) = match events[number].take().unwrap() {
                Event::Asks => {
                    requests += 1;
                    match calendar.admit(bytes, now, random.random()) {
                        Admission::Now(slot) => (now + calendar.stream(bytes), Event::IsDone(slot)),
                        Admission::Later(wait) => (now + wait, Event::Asks),
                    }
                }
                Event::IsDone(slot) => {
                    drop(slot);
                    last = now;
                    continue;
                }
            };
            queue.push(Reverse((time, events.len())));
            events.push(Some(event));
        }
        (last.as_secs_f64(), f64::from(requests) / gateways as f64)
    }

    #[test]
    fn thousands_that_start_cold_ask_about_twice_and_are_done_when_the_link_allows_it() {
        for (gateways, bytes, bandwidth) in [
            (1_000, 6_000_000, 1_250_000_000),
            (10_000, 6_000_000, 1_250_000_000),
            (1_000, 6_000_000, 125_000_000),
            (10_000, 6_000_000, 125_000_000),
            (10_000, 200_000, 1_250_000_000),
        ] {
            for seed in 0..5 {
                let (last, requests) = storm(gateways, bytes, bandwidth, seed);
                let ideal = gateways as f64 * bytes as f64 / bandwidth as f64;
                // They come within two seconds, so that nobody can be done with all of them sooner.
                let ideal = ideal.max(2.0);
                let slot = Calendar::new(256, bandwidth).stream(bytes).as_secs_f64();
                assert!(
                    last <= 1.2 * ideal + slot && requests <= 2.5,
                    "{gateways} gateways, {bytes} bytes, seed {seed}: {last:.1} s of {ideal:.1}, {requests:.2} requests"
                );
            }
        }
    }

    #[test]
    fn a_slot_is_free_again_when_it_is_dropped() {
        let calendar = Calendar::new(1, 1000);
        let Admission::Now(slot) = calendar.admit(1, Duration::ZERO, 0.0) else {
            panic!("the first one is served");
        };
        assert!(matches!(calendar.admit(1, Duration::ZERO, 0.0), Admission::Later(_)));
        drop(slot);
        assert!(matches!(calendar.admit(1, Duration::ZERO, 0.0), Admission::Now(_)));
    }

    #[test]
    fn somebody_who_does_not_wait_can_not_send_the_others_away_for_ever() {
        let calendar = Calendar::new(1, 1000);
        let _slot = calendar.admit(1, Duration::ZERO, 0.0);
        for _ in 0..10_000 {
            let Admission::Later(wait) = calendar.admit(100_000, Duration::ZERO, 1.0) else {
                panic!("there is one slot");
            };
            assert!(wait <= LATEST.mul_f64(1.05), "{wait:?}");
        }
    }
}
