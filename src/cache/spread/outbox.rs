//! Invalidations that wait to be told: bounded, each once, and never silently fewer. When there are too many, `All` takes the
//! place of them all.

use std::collections::HashSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::marks::{Invalidation, MarkId};

/// How many may wait, and how many bytes of text they may have.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 4 << 20;

/// What is told together. Whoever begins reads thousands of records, so that none may be large.
const BATCH: usize = 512;
pub(super) const RECORD_BYTES: usize = 16 << 10;

/// What waits to be told.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    list: Vec<Invalidation>,
    /// The marks of the list: the same resource is changed again and again.
    marks: HashSet<MarkId>,
    bytes: usize,
    /// Some are on their way, and come back if they are not told.
    is_sending: bool,
}

impl Outbox {
    /// Puts one in, unless it waits already: then it is told later than both times it was said. Answers how many were merged
    /// into one of everything.
    pub(super) fn put(&self, what: Invalidation) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.add(what);
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
        let later = waiting.clear();
        batch.into_iter().chain(later).for_each(|what| waiting.add(what));
        waiting.bound()
    }

    /// Whether everything was told.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.list.is_empty() && !waiting.is_sending
    }
}

impl Waiting {
    fn add(&mut self, what: Invalidation) {
        if let Invalidation::Mark(mark) = &what
            && !self.marks.insert(*mark)
        {
            return;
        }
        self.bytes += size(&what);
        self.list.push(what);
    }

    fn bound(&mut self) -> usize {
        let is_too_long = self.list.last().is_some_and(|what| size(what) > RECORD_BYTES);
        if self.list.len() <= MOST && self.bytes <= MOST_BYTES && !is_too_long {
            return 0;
        }
        let merged = self.clear().len();
        self.add(Invalidation::All);
        merged
    }

    fn clear(&mut self) -> Vec<Invalidation> {
        self.marks.clear();
        self.bytes = 0;
        std::mem::take(&mut self.list)
    }

    fn batch(&mut self) -> Vec<Invalidation> {
        let mut bytes = 0;
        let fit = self.list.iter().take(BATCH).take_while(|what| {
            // One goes in any case.
            let fits = bytes == 0 || bytes + size(what) <= RECORD_BYTES;
            bytes += size(what);
            fits
        });
        let fit = fit.count();
        let batch: Vec<Invalidation> = self.list.drain(..fit).collect();
        for what in &batch {
            self.bytes -= size(what);
            if let Invalidation::Mark(mark) = what {
                self.marks.remove(mark);
            }
        }
        self.is_sending = !batch.is_empty();
        batch
    }
}

fn size(what: &Invalidation) -> usize {
    const FRAME: usize = 32;
    match what {
        Invalidation::All | Invalidation::Mark(_) => FRAME,
        Invalidation::User(user) => FRAME + user.len(),
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
        let batch: Vec<_> = (2..MOST as u64 + 1).map(mark).collect();
        assert_eq!(outbox.put(mark(0)) + outbox.put(mark(1)), 0);
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
            assert_eq!(outbox.put(prefix(7_000)), 0);
        }
        assert_eq!(outbox.take().await.len(), 2);
        outbox.told();
        assert_eq!(outbox.take().await.len(), 1);
        outbox.told();
        assert_eq!(outbox.put(prefix(RECORD_BYTES)), 1);
        assert_eq!(outbox.take().await, [Invalidation::All]);
        outbox.told();
        let merged: usize = (0..MOST).map(|_| outbox.put(prefix(2_000))).sum();
        assert!(merged > 0, "four mebibytes of them are too many");
    }

    #[tokio::test]
    async fn what_waits_already_is_told_once_and_what_is_on_its_way_again() {
        let outbox = Outbox::default();
        for number in [1, 2, 1, 1] {
            outbox.put(mark(number));
        }
        let batch = outbox.take().await;
        assert_eq!(batch, [mark(1), mark(2)]);
        // The former may be told before this one was said.
        outbox.put(mark(2));
        outbox.put(mark(3));
        outbox.put_back(batch);
        assert_eq!(outbox.take().await, [mark(1), mark(2), mark(3)]);
        outbox.told();
        assert!(outbox.is_empty());
        outbox.put(mark(1));
        assert_eq!(outbox.take().await, [mark(1)]);
    }
}
