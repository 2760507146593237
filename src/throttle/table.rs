//! This process's counters: a bounded map from identity to a counter.
//!
//! The table lives as long as the process. Revisions come and go; a counter is found by its identity, so it keeps its
//! count when everything around it is compiled anew.
//!
//! 64 shards, each a reader-writer lock around an index and a list of slots. A request for a counter that exists
//! takes the *read* lock of one shard for the length of one lookup and one compare-and-swap, so requests exclude each
//! other only where a counter is born, evicted or swept. Lock, lookup and one atomic addition together were measured
//! at 17 ns over ten thousand counters, uncontended. Lock-free maps (papaya, dashmap's successors) were passed over
//! without a measurement: there is little left to save, and they give no exact bound and no order to evict in.
//!
//! When a shard is full, a new counter takes the place of another: of a finished one (whose absence changes nothing)
//! if the next 64 slots have one, else of one that was not used since the hand came by last (CLOCK).
//! Evicting a live counter is counted, and a request is never refused for it. A counter of this process alone forgets
//! what it spent; of a shared one nothing is lost: who evicted it is handed it, and settles it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::RwLock;

use super::counter::Shape;
use super::identity::Identity;
use super::window::Time;

/// What a table holds.
pub trait Counter {
    /// Whether it is no different from a new one any more.
    fn finished(&self, now: Time) -> bool;

    /// What the table notes of it: set with every use, taken back by who looks for it. [`CHANGED`] to begin with.
    fn marks(&self) -> &AtomicU8;
}

/// The mark of a counter that was used since the hand came by last.
const USED: u8 = 1;

/// The mark of a counter that was used since it was last handed on. Beside the other in one byte, so that a use has as
/// much to look at as it had without.
pub const CHANGED: u8 = 2;

/// A counter of this process alone: one word. With its mark, and the identity beside it, 32 bytes.
pub struct Plain {
    /// What `counter` changes.
    pub word: super::atomic::AtomicU64,
    shape: Shape,
    marks: AtomicU8,
}

impl Plain {
    /// An empty counter.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self::with_word(shape, 0)
    }

    /// A counter as it was in another process.
    #[must_use]
    pub fn with_word(shape: Shape, word: u64) -> Self {
        Self {
            word: super::atomic::AtomicU64::new(word),
            shape,
            marks: AtomicU8::new(CHANGED),
        }
    }

    /// How its word is to be read.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }
}

impl Counter for Plain {
    fn finished(&self, now: Time) -> bool {
        self.shape.finished(self.word.load(Ordering::Relaxed), now)
    }

    #[inline]
    fn marks(&self) -> &AtomicU8 {
        &self.marks
    }
}

/// At most this many shards; a power of two.
const SHARDS_MOST: usize = 64;

/// A table too small to give each shard as many slots as this has fewer shards, for an uneven hash would make a tiny
/// shard evict while the others are empty.
const SHARD_LEAST: usize = 256;

/// How many slots an eviction looks at, twice at most: what it does under the lock is bounded.
const LOOK_AHEAD: usize = 64;

/// How many slots are swept under one lock, and handed on.
const SWEEP_STEP: usize = 256;

/// The counters of this process.
pub struct Table<C = Plain> {
    shards: Box<[Shard<C>]>,
    shard_capacity: usize,
    next_swept: AtomicUsize,
    evictions: AtomicU64,
    /// Whether a live counter was ever let go.
    forgetful: AtomicBool,
}

/// Aligned so that two shards' locks never share a cache line (or the pair that the prefetcher fetches).
#[repr(align(128))]
struct Shard<C>(RwLock<Slots<C>>);

struct Slots<C> {
    /// From the low half of an identity to a position in `slots`. Four bytes an entry; keeping the slots themselves
    /// in the hash table would leave the CLOCK hand and the sweep without an order to walk in.
    index: HashTable<u32>,
    slots: Vec<Slot<C>>,
    hand: usize,
    /// Whether another process has the counters of this shard, so that what is spent here is to be reported.
    cut: bool,
}

struct Slot<C> {
    identity: Identity,
    counter: C,
}

impl<C: Counter> Table<C> {
    /// A table that never holds more than `max_entries` counters (at least one).
    ///
    /// Memory is taken as counters come: 40 to 80 bytes for each [`Plain`] one, and given back when
    /// [`sweep`](Self::sweep) has emptied most of a shard. Shards fill unevenly, so evictions begin a little before the table is full.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        let max_entries = max_entries.clamp(1, u32::MAX as usize);
        let wanted = (max_entries / SHARD_LEAST).clamp(1, SHARDS_MOST);
        let shards = 1 << wanted.ilog2();
        Self {
            shards: (0..shards).map(|_| Shard(RwLock::new(Slots::new()))).collect(),
            shard_capacity: max_entries / shards,
            next_swept: AtomicUsize::new(0),
            evictions: AtomicU64::new(0),
            forgetful: AtomicBool::new(false),
        }
    }

    /// Applies `operation` to the counter with this identity, which is born if it is not there; `birth` is told whether
    /// it may have been there before: whether the table ever had to let go of a live counter. With the answer comes that other one.
    #[inline]
    pub fn with<T>(
        &self,
        identity: Identity,
        now: Time,
        birth: impl FnOnce(bool) -> C,
        operation: impl Fn(&C) -> T,
    ) -> (T, Option<C>) {
        self.with_told(identity, now, birth, |counter, _| operation(counter))
    }

    /// Like [`with`](Self::with). The operation is told whether the counter was [cut](Self::cut), which does not change
    /// while it runs.
    #[inline]
    pub fn with_told<T>(
        &self,
        identity: Identity,
        now: Time,
        birth: impl FnOnce(bool) -> C,
        operation: impl Fn(&C, bool) -> T,
    ) -> (T, Option<C>) {
        match self.find_told(identity, &operation) {
            Some(answer) => (answer, None),
            None => self.with_new(identity, now, birth, &operation),
        }
    }

    /// Applies `operation` to the counter with this identity, if there is one.
    #[inline]
    pub fn find<T>(&self, identity: Identity, operation: impl Fn(&C) -> T) -> Option<T> {
        self.find_told(identity, |counter, _| operation(counter))
    }

    /// Like [`find`](Self::find). The operation is told whether the counter was [cut](Self::cut), which does not change
    /// while it runs.
    #[inline]
    pub fn find_told<T>(&self, identity: Identity, operation: impl Fn(&C, bool) -> T) -> Option<T> {
        let shard = self.shard(identity).0.read();
        let slot = shard.find(identity)?;
        let marks = slot.counter.marks();
        // Looked at before it is written: a counter in heavy use would be dirtied twice by every request.
        if marks.load(Ordering::Relaxed) != USED | CHANGED {
            marks.store(USED | CHANGED, Ordering::Relaxed);
        }
        Some(operation(&slot.counter, shard.cut))
    }

    /// Shows the counter with this identity, if there is one. It does not count as used by that.
    pub fn look<T>(&self, identity: Identity, look: impl Fn(&C) -> T) -> Option<T> {
        let shard = self.shard(identity).0.read();
        shard.find(identity).map(|slot| look(&slot.counter))
    }

    /// Lets go of the counter with this identity, live or not.
    pub fn remove(&self, identity: Identity) -> Option<C> {
        self.forgetful.store(true, Ordering::Relaxed);
        let mut shard = self.shard(identity).0.write();
        let position = shard.position(identity)?;
        shard.remove(position)
    }

    /// Applies `operation` to every counter, a shard at a time.
    pub fn for_each(&self, operation: impl Fn(&C)) {
        for shard in &self.shards {
            for slot in &shard.0.read().slots {
                operation(&slot.counter);
            }
        }
    }

    /// How many parts the table has, for who goes through it part by part.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.shards.len()
    }

    /// Shows counters of a part, from `from` on to the front, and takes their mark back: what is used later is shown by
    /// [`cut`](Self::cut). Answers where to go on, or None at the end. To begin with, `from` is `usize::MAX`.
    ///
    /// The lock is held for a few microseconds; no use runs meanwhile, so none falls between the look and the mark.
    pub fn show(&self, part: usize, from: usize, mut show: impl FnMut(Identity, &C)) -> Option<usize> {
        let slots = self.shards.get(part)?.0.write();
        // From the end to the front, like a sweep: what fills a gap was shown already.
        let end = from.min(slots.slots.len());
        let begin = end.saturating_sub(SWEEP_STEP);
        for slot in slots.slots.get(begin..end).unwrap_or_default() {
            slot.counter.marks().fetch_and(!CHANGED, Ordering::Relaxed);
            show(slot.identity, &slot.counter);
        }
        (begin > 0).then_some(begin)
    }

    /// Shows those counters of a part that were used since they were shown, all under one lock, and cuts the part off:
    /// every operation before it is in what was shown, and every one after it is told.
    pub fn cut(&self, part: usize, mut show: impl FnMut(Identity, &C)) {
        let Some(shard) = self.shards.get(part) else { return };
        let mut slots = shard.0.write();
        slots.cut = true;
        for slot in &slots.slots {
            if slot.counter.marks().load(Ordering::Relaxed) & CHANGED != 0 {
                show(slot.identity, &slot.counter);
            }
        }
    }

    /// Takes [`cut`](Self::cut) back.
    pub fn mend(&self) {
        for shard in &self.shards {
            shard.0.write().cut = false;
        }
    }

    /// Puts a counter in, in the place of the one that has its identity.
    pub fn put(&self, identity: Identity, now: Time, counter: C) {
        let mut shard = self.shard(identity).0.write();
        match shard.position(identity).and_then(|at| shard.slots.get_mut(at)) {
            Some(slot) => slot.counter = counter,
            None => {
                self.make_room(&mut shard, now);
                shard.insert(Slot { identity, counter });
            }
        }
    }

    /// Removes finished counters of the next shard, in steps, so that no request waits long for a lock. Once a second
    /// is right: a full table of a million is walked through in about a minute. Answers how many were removed.
    pub fn sweep(&self, now: Time) -> usize {
        let next = self.next_swept.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let Some(shard) = self.shards.get(next) else {
            return 0;
        };
        let mut removed = 0;
        // From the end to the front: a removal fills the gap with the last slot, which was looked at already.
        let mut position = shard.0.read().slots.len();
        while position > 0 {
            let mut slots = shard.0.write();
            let stop = position.saturating_sub(SWEEP_STEP);
            position = position.min(slots.slots.len());
            while position > stop {
                position -= 1;
                removed += usize::from(slots.remove_if_finished(position, now));
            }
            position = position.min(stop);
        }
        shard.0.write().shrink();
        removed
    }

    /// How many counters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.read().slots.len()).sum()
    }

    /// How many counters there may be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shard_capacity.saturating_mul(self.shards.len())
    }

    /// Whether there is no counter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many live counters were forgotten for want of room, since the process began. If it grows, so should
    /// `max_entries`.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    #[cold]
    fn with_new<T>(
        &self,
        identity: Identity,
        now: Time,
        birth: impl FnOnce(bool) -> C,
        operation: &impl Fn(&C, bool) -> T,
    ) -> (T, Option<C>) {
        let mut shard = self.shard(identity).0.write();
        // Another thread may have been faster.
        if let Some(slot) = shard.find(identity) {
            slot.counter.marks().fetch_or(CHANGED, Ordering::Relaxed);
            return (operation(&slot.counter, shard.cut), None);
        }
        let evicted = self.make_room(&mut shard, now);
        // The operation runs before the slot is in its place: so there is no place to look up again. Not marked as used
        // yet: so a flood of subjects that come once evicts itself, not those who come often.
        let counter = birth(self.forgetful.load(Ordering::Relaxed));
        let answer = operation(&counter, shard.cut);
        shard.insert(Slot { identity, counter });
        (answer, evicted)
    }

    /// Room for one more; with the counter that had to go for it.
    fn make_room(&self, shard: &mut Slots<C>, now: Time) -> Option<C> {
        if shard.slots.len() < self.shard_capacity {
            return None;
        }
        let (counter, live) = shard.evict(now);
        self.evictions.fetch_add(u64::from(live), Ordering::Relaxed);
        self.forgetful.fetch_or(live, Ordering::Relaxed);
        counter
    }

    #[inline]
    fn shard(&self, identity: Identity) -> &Shard<C> {
        // There are a power of two, at least one; the mask keeps the position inside.
        &self.shards[identity.high() as usize & (self.shards.len() - 1)]
    }
}

impl<C: Counter> Slots<C> {
    const fn new() -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            hand: 0,
            cut: false,
        }
    }

    #[inline]
    fn find(&self, identity: Identity) -> Option<&Slot<C>> {
        let at = |&position: &u32| self.slots.get(position as usize);
        self.index
            .find(identity.low(), |position| {
                at(position).is_some_and(|slot| slot.identity == identity)
            })
            .and_then(at)
    }

    fn position(&self, identity: Identity) -> Option<usize> {
        self.index
            .find(identity.low(), |&position| {
                self.slots
                    .get(position as usize)
                    .is_some_and(|slot| slot.identity == identity)
            })
            .map(|&position| position as usize)
    }

    fn insert(&mut self, slot: Slot<C>) {
        // The table holds less than 2³² entries.
        let position = self.slots.len() as u32;
        let hash = slot.identity.low();
        self.slots.push(slot);
        let Self { index, slots, .. } = self;
        index.insert_unique(hash, position, |&position| low_of(slots, position));
    }

    /// Makes room for one: which counter had to go, and whether it was live.
    fn evict(&mut self, now: Time) -> (Option<C>, bool) {
        let len = self.slots.len();
        let ahead = |steps: usize| (self.hand + steps) % len.max(1);
        let look = LOOK_AHEAD.min(len);
        let finished = (0..look)
            .map(ahead)
            .find(|&position| self.slots.get(position).is_some_and(|slot| slot.counter.finished(now)));
        let victim = finished.or_else(|| {
            (0..look).map(ahead).find(|&position| {
                self.slots
                    .get(position)
                    .is_some_and(|slot| slot.counter.marks().fetch_and(!USED, Ordering::Relaxed) & USED == 0)
            })
        });
        // All used of late: the one at the hand has waited longest.
        let victim = victim.unwrap_or_else(|| ahead(0));
        self.hand = (victim + 1) % len.max(1);
        (self.remove(victim), finished.is_none())
    }

    fn remove_if_finished(&mut self, position: usize, now: Time) -> bool {
        let finished = self.slots.get(position).is_some_and(|slot| slot.counter.finished(now));
        if finished {
            self.remove(position);
        }
        finished
    }

    /// Removes a slot and fills the gap with the last one.
    fn remove(&mut self, position: usize) -> Option<C> {
        if position >= self.slots.len() {
            return None;
        }
        let last = self.slots.len() - 1;
        let gone = self.slots.swap_remove(position);
        if let Ok(entry) = self
            .index
            .find_entry(gone.identity.low(), |&entry| entry as usize == position)
        {
            entry.remove();
        }
        if let Some(moved) = self.slots.get(position)
            && let Some(entry) = self
                .index
                .find_mut(moved.identity.low(), |&entry| entry as usize == last)
        {
            *entry = position as u32;
        }
        Some(gone.counter)
    }

    /// Gives memory back after a flood of subjects has passed.
    fn shrink(&mut self) {
        if self.slots.capacity() > 1024 && self.slots.capacity() / 4 > self.slots.len() {
            let keep = self.slots.len() * 2;
            self.slots.shrink_to(keep);
            let Self { index, slots, .. } = self;
            index.shrink_to(keep, |&position| low_of(slots, position));
        }
    }
}

fn low_of<C>(slots: &[Slot<C>], position: u32) -> u64 {
    slots.get(position as usize).map_or(0, |slot| slot.identity.low())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::WindowKind;
    use crate::throttle::counter::{Quota, spend};
    use crate::units::{Period, Rate};

    fn per(period: Period) -> Quota {
        Quota::new(Rate { count: 5_000, period }, WindowKind::Fixed)
    }

    fn counter(number: u64) -> Identity {
        Identity::of_parts(&[&number.to_le_bytes()])
    }

    fn count(table: &Table, number: u64, quota: &Quota, now: Time) -> u32 {
        let birth = |_| Plain::new(quota.shape());
        let spend = |counter: &Plain| spend(&counter.word, quota, quota.whole(), 1, now);
        table
            .with(counter(number), now, birth, spend)
            .0
            .map_or(quota.whole(), |state| quota.whole() - state.remaining)
    }

    fn noon() -> Time {
        Time::from_unix_seconds(1_795_262_400)
    }

    #[test]
    fn a_slot_is_32_bytes() {
        assert_eq!(size_of::<Slot<Plain>>(), 32);
    }

    #[test]
    fn counters_are_kept_apart_and_found_again() {
        let table = Table::new(10_000);
        for round in 1..=3 {
            for number in 0..1_000 {
                assert_eq!(count(&table, number, &per(Period::Minute), noon()), round);
            }
        }
        assert_eq!((table.len(), table.evictions()), (1_000, 0));
        assert!(table.find(counter(5_000), |_| ()).is_none());
    }

    #[test]
    fn ten_times_more_subjects_than_room_are_all_served_and_the_table_keeps_its_bound() {
        for max in [1, 7, 1_000, 20_000] {
            let table = Table::new(max);
            let subjects = 10 * max as u64;
            for number in 0..subjects {
                assert_eq!(count(&table, number, &per(Period::Minute), noon()), 1);
                assert!(table.len() <= max);
            }
            assert_eq!(table.evictions(), subjects - table.len() as u64);
            assert!(table.len() > max * 9 / 10);
        }
    }

    #[test]
    fn an_eviction_takes_a_finished_counter_before_a_live_one() {
        let table = Table::new(60);
        for number in 0..30 {
            count(&table, number, &per(Period::Day), noon());
            count(&table, 100 + number, &per(Period::Minute), noon());
        }
        let later = noon().plus(70_000_000_000);
        for number in 200..230 {
            count(&table, number, &per(Period::Day), later);
        }
        assert_eq!((table.len(), table.evictions()), (60, 0));
        for number in 0..30 {
            assert_eq!(count(&table, number, &per(Period::Day), later), 2, "kept");
        }
    }

    #[test]
    fn a_counter_in_use_outlives_those_that_are_not() {
        let table = Table::new(50);
        count(&table, 0, &per(Period::Day), noon());
        for number in 1..1_000 {
            count(&table, number, &per(Period::Day), noon());
            count(&table, 0, &per(Period::Day), noon());
        }
        assert_eq!(count(&table, 0, &per(Period::Day), noon()), 1_001);
    }

    #[test]
    fn a_sweep_removes_what_is_finished_and_nothing_else() {
        let table = Table::new(100_000);
        for number in 0..20_000 {
            let quota = per(if number % 10 == 0 { Period::Day } else { Period::Minute });
            count(&table, number, &quota, noon());
        }
        let later = noon().plus(70_000_000_000);
        let removed: usize = (0..SHARDS_MOST).map(|_| table.sweep(later)).sum();
        assert_eq!((removed, table.len()), (18_000, 2_000));
        for number in (0..20_000).step_by(10) {
            assert_eq!(count(&table, number, &per(Period::Day), later), 2, "{number}");
        }
        assert_eq!((table.len(), table.evictions()), (2_000, 0));
    }
}
