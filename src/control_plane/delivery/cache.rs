//! Bytes that are made once and sent to thousands.

use std::future::Future;
use std::hash::Hash;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::control_plane::problem::Problem;

/// Ready bytes by what they are, bounded by their size in all. Who asks for what is just being made waits for it.
pub(super) struct Ready<K: Eq + Hash>(Cache<K, Bytes, Size>);

#[derive(Clone)]
struct Size;

/// What an entry costs beside its bytes.
const ENTRY: u64 = 128;

impl<K> Weighter<K, Bytes> for Size {
    fn weight(&self, _: &K, bytes: &Bytes) -> u64 {
        bytes.len() as u64 + ENTRY
    }
}

impl<K: Eq + Hash + Clone> Ready<K> {
    /// Room for so many bytes, in about so many entries.
    pub(super) fn new(entries: usize, bytes: u64) -> Self {
        // One shard: with several, each has its part of the room, and a snapshot that is larger than that is not kept at
        // all. Nobody holds the lock for longer than it takes to clone a pointer.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(entries)
            .weight_capacity(bytes)
            .build();
        Self(match options {
            Ok(options) => Cache::with_options(
                options,
                Size,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            // Only when one of the options is missing.
            Err(_) => Cache::with_weighter(entries, bytes, Size),
        })
    }

    /// What is there, or else what is made of it now, by one of all that ask for it at the same time. A failure is not
    /// kept: the next one tries again.
    pub(super) async fn get(
        &self,
        key: &K,
        make: impl Future<Output = Result<Bytes, Problem>>,
    ) -> Result<Bytes, Problem> {
        self.0.get_or_insert_async(key, make).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_thousand_at_once_have_it_made_once_and_a_failure_is_tried_again() {
        let ready = Arc::new(Ready::<u64>::new(8, 1 << 20));
        let failed = ready.get(&1, async { Err(Problem::Unavailable) }).await;
        assert!(matches!(failed, Err(Problem::Unavailable)));
        let made = Arc::new(AtomicUsize::new(0));
        let all = (0..1000).map(|_| {
            let (ready, made) = (Arc::clone(&ready), Arc::clone(&made));
            tokio::spawn(async move {
                let make = async {
                    made.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(Bytes::from_static(b"snapshot"))
                };
                ready.get(&1, make).await.unwrap()
            })
        });
        for one in all.collect::<Vec<_>>() {
            assert_eq!(one.await.unwrap(), "snapshot");
        }
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn one_entry_may_take_nearly_all_of_the_room_and_all_together_never_more() {
        let ready = Ready::<u64>::new(8, 1 << 20);
        let large = Bytes::from(vec![0; 700 << 10]);
        for key in 0..10 {
            ready.get(&key, async { Ok(large.clone()) }).await.unwrap();
        }
        assert!(ready.0.weight() <= 1 << 20);
        assert_eq!(ready.0.len(), 1, "the newest is kept although it is large");
    }
}
