//! One question at a time about each key: who comes while it is under way waits for the same answer.
//!
//! A question goes on when nobody waits for it any more, because another request may come for it; it has its own end. What
//! asks stands beside the requests, so that no request that goes away takes others with it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Questions that are under way.
pub(super) struct Flights<T> {
    under_way: Mutex<HashMap<Bytes, Landing<T>>>,
    most: usize,
}

/// Where the answer to a question comes.
#[derive(Clone)]
pub(super) struct Landing<T>(watch::Receiver<Option<T>>);

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// No more than `most` at a time.
    pub(super) fn new(most: usize) -> Self {
        Self {
            under_way: Mutex::default(),
            most,
        }
    }

    /// Joins who asks about this key, or asks. None if there is no room for another question.
    pub(super) fn join<F>(
        self: &Arc<Self>,
        key: &[u8],
        runtime: &Handle,
        ask: impl FnOnce(Bytes) -> F,
    ) -> Option<Landing<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.under_way.lock();
        if let Some(landing) = under_way.get(key) {
            return Some(landing.clone());
        }
        if under_way.len() >= self.most {
            return None;
        }
        let key = Bytes::copy_from_slice(key);
        let (answer, landing) = watch::channel(None);
        let landing = Landing(landing);
        under_way.insert(key.clone(), landing.clone());
        drop(under_way);
        let question = ask(key.clone());
        let over = Over {
            flights: Arc::clone(self),
            key,
        };
        runtime.spawn(async move {
            let found = question.await;
            drop(over);
            // Nobody may be there any more.
            let _ = answer.send(Some(found));
        });
        Some(landing)
    }
}

impl<T: Clone> Landing<T> {
    /// The answer, if it comes in time.
    pub(super) async fn wait(mut self, until: Instant) -> Option<T> {
        let landed = timeout_at(until, self.0.wait_for(Option::is_some)).await;
        landed.ok()?.ok()?.clone()
    }
}

/// Takes a question off the list, however it ends.
struct Over<T> {
    flights: Arc<Flights<T>>,
    key: Bytes,
}

impl<T> Drop for Over<T> {
    fn drop(&mut self) {
        self.flights.under_way.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn who_comes_while_a_question_is_under_way_gets_its_answer() {
        let flights = Arc::new(Flights::new(10));
        let gate = Arc::new(Semaphore::new(0));
        let asked = Arc::new(AtomicU32::new(0));
        let join = || {
            let (gate, asked) = (Arc::clone(&gate), Arc::clone(&asked));
            flights
                .join(b"key", &Handle::current(), |_| async move {
                    let _open = gate.acquire().await;
                    asked.fetch_add(1, Ordering::SeqCst) + 1
                })
                .unwrap()
        };
        let landings: Vec<_> = (0..5).map(|_| join()).collect();
        gate.add_permits(1);
        for landing in landings {
            assert_eq!(landing.wait(soon()).await, Some(1));
        }
        // It is over, so the next one asks again.
        gate.add_permits(1);
        assert_eq!(join().wait(soon()).await, Some(2));
    }

    #[tokio::test]
    async fn beyond_the_bound_nobody_is_asked_and_what_is_over_makes_room() {
        let flights = Arc::new(Flights::new(1));
        let gate = Arc::new(Semaphore::new(0));
        let wait = Arc::clone(&gate);
        let first = flights.join(b"one", &Handle::current(), |_| async move {
            drop(wait.acquire().await);
        });
        let second = flights.join(b"two", &Handle::current(), |_| async {});
        assert!(second.is_none());
        gate.add_permits(1);
        assert!(first.unwrap().wait(soon()).await.is_some());
        let third = flights.join(b"two", &Handle::current(), |_| async {});
        assert!(third.unwrap().wait(soon()).await.is_some());
    }

    #[tokio::test]
    async fn a_question_that_panics_or_takes_too_long_is_no_answer() {
        let flights: Arc<Flights<()>> = Arc::new(Flights::new(1));
        let panics = flights.join(b"one", &Handle::current(), |_| async { panic!("no answer") });
        assert!(panics.unwrap().wait(soon()).await.is_none());
        let late = flights.join(b"two", &Handle::current(), |_| std::future::pending());
        let until = Instant::now() + Duration::from_millis(5);
        assert!(late.unwrap().wait(until).await.is_none());
    }
}
