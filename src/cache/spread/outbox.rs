//! Invalidations that wait to be told: bounded, and never silently fewer. When there are too many, `All` takes the place of
//! them all.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::marks::Invalidation;

/// How many may wait, and how many bytes of text they may have.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 4 << 20;

/// What is told together.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 256 << 10;

/// What waits to be told.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    list: Vec<Invalidation>,
    bytes: usize,
    /// Some are on their way, and come back if they are not told.
    is_sending: bool,
}

impl Outbox {
    /// Puts one in. Answers how many were merged into one of everything.
    pub(super) fn put(&self, what: Invalidation) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.bytes += size(&what);
        waiting.list.push(what);
        let merged = waiting.bound();
        drop(waiting);
        self.arrived.notify_one();
        merged
    }

    /// Waits until there is something, and takes what is told together.
    pub(super) async fn take(&self) -> Vec<Invalidation> {
        loop {
            let batch = self.waiting.lock().batch();
            if !batch.is_empty() {
                return batch;
            }
            self.arrived.notified().await;
        }
    }

    /// What was taken has been told.
    pub(super) fn told(&self) {
        self.waiting.lock().is_sending = false;
    }

    /// What was taken has not been told. Answers how many were merged into one of everything.
    pub(super) fn put_back(&self, batch: Vec<Invalidation>) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.is_sending = false;
        waiting.bytes += batch.iter().map(size).sum::<usize>();
        let later = std::mem::replace(&mut waiting.list, batch);
        waiting.list.extend(later);
        waiting.bound()
    }

    /// Whether everything was told.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.list.is_empty() && !waiting.is_sending
    }
}

impl Waiting {
    fn bound(&mut self) -> usize {
        if self.list.len() <= MOST && self.bytes <= MOST_BYTES {
            return 0;
        }
        let merged = self.list.len();
        self.list.clear();
        self.list.push(Invalidation::All);
        self.bytes = size(&Invalidation::All);
        merged
    }

    fn batch(&mut self) -> Vec<Invalidation> {
        let mut bytes = 0;
        let fit = self.list.iter().take(BATCH).take_while(|what| {
            // One goes in any case.
            let fits = bytes == 0 || bytes + size(what) <= BATCH_BYTES;
            bytes += size(what);
            fits
        });
        let fit = fit.count();
        let batch: Vec<Invalidation> = self.list.drain(..fit).collect();
        self.bytes -= batch.iter().map(size).sum::<usize>();
        self.is_sending = !batch.is_empty();
        batch
    }
}

fn size(what: &Invalidation) -> usize {
    const FRAME: usize = 32;
    match what {
        Invalidation::All | Invalidation::Mark(_) => FRAME,
        Invalidation::Prefix { host, path } => FRAME + host.as_ref().map_or(0, String::len) + path.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::marks::MarkId;
    use super::*;

    fn mark(number: u64) -> Invalidation {
        Invalidation::Mark(MarkId(number))
    }

    #[tokio::test]
    async fn what_is_put_in_comes_out_in_order_and_what_was_not_told_comes_first() {
        let outbox = Outbox::default();
        for number in 0..600 {
            assert_eq!(outbox.put(mark(number)), 0);
        }
        let batch = outbox.take().await;
        assert_eq!(batch.len(), BATCH);
        assert!(!outbox.is_empty());
        assert_eq!(outbox.put_back(batch), 0);
        let batch = outbox.take().await;
        assert_eq!((&batch[0], &batch[511]), (&mark(0), &mark(511)));
        outbox.told();
        let rest = outbox.take().await;
        assert_eq!((rest.len(), &rest[0]), (88, &mark(512)));
        assert!(!outbox.is_empty());
        outbox.told();
        assert!(outbox.is_empty());
    }

    #[tokio::test]
    async fn too_many_are_told_as_everything() {
        let outbox = Outbox::default();
        let merged: usize = (0..=MOST as u64).map(|number| outbox.put(mark(number))).sum();
        assert_eq!(merged, MOST + 1);
        assert_eq!(outbox.take().await, [Invalidation::All]);
        // Also those that come back to many others.
        let batch: Vec<_> = (0..MOST as u64 - 1).map(mark).collect();
        assert_eq!(outbox.put(mark(1)) + outbox.put(mark(2)), 0);
        assert_eq!(outbox.put_back(batch), MOST + 1);
        assert_eq!(outbox.take().await, [Invalidation::All]);
    }

    #[tokio::test]
    async fn long_texts_are_told_apart_and_too_long_ones_as_everything() {
        let prefix = |length: usize| Invalidation::Prefix {
            host: None,
            path: "/".repeat(length),
        };
        let outbox = Outbox::default();
        for _ in 0..3 {
            assert_eq!(outbox.put(prefix(100_000)), 0);
        }
        assert_eq!(outbox.take().await.len(), 2);
        outbox.told();
        assert_eq!(outbox.take().await.len(), 1);
        outbox.told();
        assert_eq!(outbox.put(prefix(1 << 20)), 0);
        assert_eq!(outbox.take().await.len(), 1);
        assert_eq!(outbox.put(prefix(5 << 20)), 1);
        assert_eq!(outbox.take().await, [Invalidation::All]);
    }
}
