//! The memory tier: answers that are kept in this process, as many as its budget has room for.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderName;
use pingora::cache::lock::CacheLock;
use pingora::cache::predictor::Predictor;
use prometheus::{IntCounter, IntGauge, Opts};
use quick_cache::sync::{Cache as Table, Iter};
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use super::entry::{Entry, PLACE, allocated};
use super::key::{Fingerprint, fingerprint};
use super::marks::{Invalidation, Marks};
use super::storability;

/// How large a part of the table should be at least. Each part has its own share of the budget and evicts by itself.
const SHARD: u64 = 16 << 20;

/// An entry may take one of so many parts of a shard: a few large ones should not throw out everything else.
const LARGEST: u64 = 4;

/// What pages that are half empty cost with any budget, but never more than a quarter of it.
const PAGES: u64 = 16 << 20;

/// What comes in at the same time may take one of so many parts of the budget.
const FILLING: u64 = 16;

/// What an entry is taken to weigh, for the number of keys that are remembered of those that are gone.
const TYPICAL: u64 = 4096;

/// After this long the others do not wait for a fetch any more.
const LOCK_AGE: Duration = Duration::from_secs(10);

/// An entry that was asked for later than a new one stays, unless it is so much later that the clock was set back.
const OVERTAKEN_MS: u64 = 60_000;

/// What the tier counts.
#[derive(Debug, Clone)]
pub struct TierCounters {
    /// Entries that there are.
    pub entries: IntGauge,
    /// What they weigh, in bytes.
    pub bytes: IntGauge,
    /// Bodies that are just coming in, in bytes.
    pub filling: IntGauge,
    /// Entries that had to make room.
    pub evicted: IntCounter,
    /// Answers that were too large, or came while too many others did.
    pub refused: IntCounter,
    /// Answers whose body ended before it should.
    pub truncated: IntCounter,
    /// Entries that were past every use when the sweep came.
    pub expired: IntCounter,
    /// Entries, and answers that were to become one, that an invalidation made invalid.
    pub invalidated: IntCounter,
}

impl TierCounters {
    /// Counters that nobody sees, for tests and measurements.
    #[must_use]
    pub fn unregistered() -> Self {
        let counter =
            || IntCounter::with_opts(Opts::new("tier", "tier")).unwrap_or_else(|_| unreachable!("a good name"));
        let gauge = || IntGauge::with_opts(Opts::new("tier", "tier")).unwrap_or_else(|_| unreachable!("a good name"));
        Self {
            entries: gauge(),
            bytes: gauge(),
            filling: gauge(),
            evicted: counter(),
            refused: counter(),
            truncated: counter(),
            expired: counter(),
            invalidated: counter(),
        }
    }
}

/// What is kept under the key of a request.
#[derive(Debug, Clone)]
pub enum Found {
    /// Nothing that may be given.
    Nothing,
    /// An answer that does not vary. It may be stale.
    Entry(Arc<Entry>),
    /// Answers that vary by these fields of the request.
    Varies(Arc<[HeaderName]>),
}

/// What is told of new entries: the key without the variant, what they vary by, and themselves.
pub type Filled = dyn Fn(&Bytes, Option<&Arc<[HeaderName]>>, &Arc<Entry>) + Send + Sync;

/// Answers that are kept in this process. Lives as long as it does, since the engine wants it so: leak one of it.
pub struct Cache {
    table: Table<Fingerprint, Slot, Weight, Scatter, Collect>,
    marks: Marks,
    pub(super) counters: TierCounters,
    largest: u64,
    filling: AtomicU64,
    filling_at_most: u64,
    on_filled: OnceLock<Box<Filled>>,
    pub(super) lock: CacheLock,
    pub(super) predictor: Predictor<16>,
}

impl Cache {
    /// An empty one, with a budget in bytes for everything together: entries, what the tier keeps beside them, and what the
    /// allocator cannot use of its pages. Bodies that are coming in are not among it, and have a bound of their own.
    #[must_use]
    pub fn new(memory_bytes: u64, counters: TierCounters) -> Self {
        // A request that is known to have an answer that is not kept does not wait for others. About 64 bytes each.
        let remembered = (memory_bytes / (16 << 10)).clamp(1 << 10, 1 << 16) / 16;
        let capacity = capacity(memory_bytes);
        let threads = std::thread::available_parallelism().map_or(4, std::num::NonZero::get) as u64;
        let shards = 1_u64 << (capacity / SHARD).clamp(1, 4 * threads).ilog2();
        let estimated = usize::try_from(capacity / TYPICAL).unwrap_or(usize::MAX).max(32);
        let options = OptionsBuilder::new()
            .shards(usize::try_from(shards).unwrap_or(1))
            .estimated_items_capacity(estimated)
            .weight_capacity(capacity)
            .build();
        let seed = rand::random();
        let table = match options {
            Ok(options) => Table::with_options(options, Weight, Scatter { seed }, Collect),
            // Only when one of the options is missing.
            Err(_) => Table::with(estimated, capacity, Weight, Scatter { seed }, Collect),
        };
        let largest = table.shard_capacity() / LARGEST;
        Self {
            table,
            marks: Marks::new(),
            counters,
            largest,
            filling: AtomicU64::new(0),
            filling_at_most: (capacity / FILLING).max(largest),
            on_filled: OnceLock::new(),
            lock: CacheLock::new(LOCK_AGE),
            predictor: Predictor::new(
                usize::try_from(remembered).unwrap_or(64),
                Some(storability::is_of_one_request),
            ),
        }
    }

    /// What is kept under the key of a request, without a variant.
    #[must_use]
    pub fn find(&self, base: &[u8]) -> Found {
        self.find_by(fingerprint(base), base)
    }

    /// The same for a key whose fingerprint is known.
    #[must_use]
    pub fn find_by(&self, fingerprint: Fingerprint, base: &[u8]) -> Found {
        let found = self.find_again(fingerprint, base);
        if let Found::Entry(entry) = &found {
            entry.count_hit();
        }
        found
    }

    /// The same for the engine, which looks for what was found, and counted, before.
    pub(super) fn find_again(&self, fingerprint: Fingerprint, key: &[u8]) -> Found {
        match self.table.get(&fingerprint) {
            Some(Slot::Varies(varies)) if varies.base == key => Found::Varies(Arc::clone(&varies.fields)),
            Some(Slot::Entry(entry)) => self
                .admitted(fingerprint, key, entry)
                .map_or(Found::Nothing, Found::Entry),
            _ => Found::Nothing,
        }
    }

    /// What is kept under a key, with a variant or without, for who only wants to know: it is no hit.
    #[must_use]
    pub fn peek(&self, key: &[u8]) -> Found {
        match self.table.peek(&fingerprint(key)) {
            Some(Slot::Varies(varies)) if varies.base == key => Found::Varies(Arc::clone(&varies.fields)),
            Some(Slot::Entry(entry)) if entry.key == key && self.marks.admits(&entry) => Found::Entry(entry),
            _ => Found::Nothing,
        }
    }

    /// One of the answers that vary under `base`, by the fingerprint of its whole key.
    pub(super) fn find_among(&self, fingerprint: Fingerprint, base: &[u8]) -> Option<Arc<Entry>> {
        match self.table.get(&fingerprint) {
            Some(Slot::Entry(entry)) if entry.key.starts_with(base) => {
                let key = entry.key.clone();
                self.admitted(fingerprint, &key, entry)
            }
            _ => None,
        }
    }

    /// The answer that is kept under a whole key. It may be stale.
    #[must_use]
    pub fn find_variant(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.find_variant_by(fingerprint(key), key)
    }

    /// The same for a key whose fingerprint is known.
    #[must_use]
    pub fn find_variant_by(&self, fingerprint: Fingerprint, key: &[u8]) -> Option<Arc<Entry>> {
        match self.find_by(fingerprint, key) {
            Found::Entry(entry) => Some(entry),
            Found::Nothing | Found::Varies(_) => None,
        }
    }

    /// Keeps an entry, unless it is too large, or an invalidation came while it did, or there is one that was asked for
    /// later. `vary`: the fields that `entry.key` has more than `base`; none if they are equal. Whether it is kept.
    ///
    /// The hook of [`Self::on_filled`] is not told: what comes from another tier does not go back there.
    pub fn put(&self, base: &Bytes, vary: Option<Arc<[HeaderName]>>, entry: Arc<Entry>) -> bool {
        debug_assert!(
            vary.is_some() || entry.key == *base,
            "who varies by nothing has no variant"
        );
        if entry.weight() > self.largest {
            self.counters.refused.inc();
            return false;
        }
        if !self.marks.admits(&entry) {
            self.counters.invalidated.inc();
            return false;
        }
        let fingerprint = fingerprint(&entry.key);
        if self.is_overtaken(fingerprint, &entry) {
            return false;
        }
        let until = entry.useful_until();
        self.insert(fingerprint, Slot::Entry(entry));
        // After the variant, so that who learns what to vary by finds it.
        if let Some(fields) = vary {
            self.put_varies(base, fields, until);
        }
        true
    }

    /// Keeps an entry that came from the origin, and tells the hook.
    pub(super) fn fill(&self, base: &Bytes, vary: Option<Arc<[HeaderName]>>, entry: Arc<Entry>) -> bool {
        let is_kept = self.put(base, vary.clone(), Arc::clone(&entry));
        if is_kept && let Some(told) = self.on_filled.get() {
            told(base, vary.as_ref(), &entry);
        }
        is_kept
    }

    /// Has this called with every entry that came from the origin, on the thread of its request: it may not block. False if
    /// there is one already, which stays.
    pub fn on_filled(&self, told: Box<Filled>) -> bool {
        self.on_filled.set(told).is_ok()
    }

    /// Makes invalid what was asked for up to now. Takes the same time however much is kept; what is invalid leaves with
    /// the sweep, or when it is found. `at_ms`: see [`Marks::apply`].
    pub fn invalidate(&self, what: &Invalidation, at_ms: u64) {
        self.marks.apply(what, at_ms);
        if *what == Invalidation::All {
            let gone = self.table.len() as u64;
            self.table.clear();
            self.counters.invalidated.inc_by(gone);
        }
    }

    /// Forgets what is kept under a fingerprint. Whether there was something.
    pub fn remove(&self, fingerprint: Fingerprint) -> bool {
        self.table.remove(&fingerprint).is_some()
    }

    /// What was invalidated.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// What the largest entry may weigh, in bytes.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// How many entries there are, and what they weigh in bytes.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        (self.table.len(), self.table.weight())
    }

    /// A walk over all entries that removes what is of no use any more.
    #[must_use]
    pub fn sweeper(&self) -> Sweeper<'_> {
        Sweeper { cache: self, at: None }
    }

    fn admitted(&self, fingerprint: Fingerprint, key: &[u8], entry: Arc<Entry>) -> Option<Arc<Entry>> {
        if entry.key != key {
            return None;
        }
        if self.marks.admits(&entry) {
            return Some(entry);
        }
        self.remove_this(fingerprint, &Slot::Entry(entry), &self.counters.invalidated);
        None
    }

    /// Removes a slot if it is still this one.
    fn remove_this(&self, fingerprint: Fingerprint, this: &Slot, counter: &IntCounter) {
        if self.table.remove_if(&fingerprint, |slot| slot.is(this)).is_some() {
            counter.inc();
        }
    }

    /// Whether there is an entry that was asked for later, and is as good. Two fetches of the same may overtake each other.
    fn is_overtaken(&self, fingerprint: Fingerprint, by: &Entry) -> bool {
        let Some(Slot::Entry(kept)) = self.table.peek(&fingerprint) else {
            return false;
        };
        let later = kept.asked_ms.saturating_sub(by.asked_ms);
        kept.key == by.key && (1..OVERTAKEN_MS).contains(&later) && self.marks.admits(&kept)
    }

    fn put_varies(&self, base: &Bytes, fields: Arc<[HeaderName]>, until: SystemTime) {
        let fingerprint = fingerprint(base);
        let until_s = unix_s(until);
        if let Some(Slot::Varies(varies)) = self.table.peek(&fingerprint)
            && varies.base == *base
            && varies.fields == fields
        {
            varies.until_s.fetch_max(until_s, Ordering::Relaxed);
            return;
        }
        let varies = Varies {
            base: base.clone(),
            fields,
            until_s: AtomicU64::new(until_s),
        };
        self.insert(fingerprint, Slot::Varies(Arc::new(varies)));
    }

    fn insert(&self, fingerprint: Fingerprint, slot: Slot) {
        let mut gone = Gone::default();
        self.table.insert_with_lifecycle(fingerprint, slot, &mut gone);
        // What was replaced is among them, and did not make room.
        let evicted = gone.0.iter().filter(|(other, _)| *other != fingerprint).count();
        if evicted > 0 {
            self.counters.evicted.inc_by(evicted as u64);
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, bytes) = self.size();
        f.debug_struct("Cache")
            .field("entries", &entries)
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

/// Room for a body that is coming in; given back when it is dropped.
pub(super) struct Room {
    cache: &'static Cache,
    bytes: u64,
}

impl Room {
    /// None yet.
    pub(super) fn of(cache: &'static Cache) -> Self {
        Self { cache, bytes: 0 }
    }

    /// Takes so many bytes in all. False if too much is coming in at the same time.
    pub(super) fn hold(&mut self, bytes: usize) -> bool {
        let more = (bytes as u64).saturating_sub(self.bytes);
        let before = self.cache.filling.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > self.cache.filling_at_most {
            self.cache.filling.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.cache.filling.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A walk over all entries, in steps.
pub struct Sweeper<'a> {
    cache: &'a Cache,
    at: Option<Iter<'a, Fingerprint, Slot, Weight, Scatter, Collect>>,
}

impl Sweeper<'_> {
    /// Looks at so many entries at most and removes those that are past every use or invalid; sets the gauges. Whether the
    /// walk has come to its end: the next step begins it anew. No lock is held for longer than it takes to look at one.
    pub fn step(&mut self, now: SystemTime, at_most: usize) -> bool {
        let cache = self.cache;
        let slots = self.at.get_or_insert_with(|| cache.table.iter());
        let now_s = unix_s(now);
        let mut is_over = true;
        for looked_at in 1.. {
            let Some((fingerprint, slot)) = slots.next() else {
                self.at = None;
                break;
            };
            let counter = match &slot {
                Slot::Entry(entry) if !cache.marks.admits(entry) => Some(&cache.counters.invalidated),
                Slot::Entry(entry) => (entry.useful_until() < now).then_some(&cache.counters.expired),
                Slot::Varies(varies) => {
                    (varies.until_s.load(Ordering::Relaxed) < now_s).then_some(&cache.counters.expired)
                }
            };
            if let Some(counter) = counter {
                cache.remove_this(fingerprint, &slot, counter);
            }
            if looked_at >= at_most {
                is_over = false;
                break;
            }
        }
        let (entries, bytes) = cache.size();
        cache.counters.entries.set(gauge(entries as u64));
        cache.counters.bytes.set(gauge(bytes));
        cache.counters.filling.set(gauge(cache.filling.load(Ordering::Relaxed)));
        is_over
    }
}

/// What is kept under a fingerprint.
#[derive(Debug, Clone)]
enum Slot {
    Entry(Arc<Entry>),
    Varies(Arc<Varies>),
}

/// What answers vary by, found by the key without a variant.
#[derive(Debug)]
struct Varies {
    base: Bytes,
    fields: Arc<[HeaderName]>,
    /// Until when one of them is of use, in seconds since 1970.
    until_s: AtomicU64,
}

impl Slot {
    fn weight(&self) -> u64 {
        match self {
            Self::Entry(entry) => entry.weight(),
            Self::Varies(varies) => {
                let names: u64 = varies.fields.iter().map(|name| allocated(name.as_str().len())).sum();
                allocated(size_of::<Varies>() + 16)
                    + allocated(varies.fields.len() * size_of::<HeaderName>() + 16)
                    + allocated(varies.base.len())
                    + names
                    + PLACE
            }
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Entry(one), Self::Entry(other)) => Arc::ptr_eq(one, other),
            (Self::Varies(one), Self::Varies(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Fingerprint, Slot> for Weight {
    fn weight(&self, _: &Fingerprint, slot: &Slot) -> u64 {
        slot.weight()
    }
}

/// Takes what leaves the table out of the lock: a large body is given back to the system when it is dropped.
#[derive(Clone)]
struct Collect;

#[derive(Default)]
struct Gone(smallvec::SmallVec<[(Fingerprint, Slot); 4]>);

impl Lifecycle<Fingerprint, Slot> for Collect {
    type RequestState = Gone;

    fn on_evict(&self, gone: &mut Gone, fingerprint: Fingerprint, slot: Slot) {
        gone.0.push((fingerprint, slot));
    }
}

/// Where a fingerprint is in the table: both halves multiplied, with a secret. They are bits of SHA-256, but everybody can
/// work out many whose last twenty bits agree; those would all be in the same place.
#[derive(Clone)]
struct Scatter {
    seed: [u64; 2],
}

struct Multiply {
    seed: [u64; 2],
    halves: [u64; 2],
}

impl BuildHasher for Scatter {
    type Hasher = Multiply;

    fn build_hasher(&self) -> Multiply {
        Multiply {
            seed: self.seed,
            halves: [0; 2],
        }
    }
}

impl Hasher for Multiply {
    fn finish(&self) -> u64 {
        let [one, other] = self.halves;
        let [seed, other_seed] = self.seed;
        let product = u128::from(one ^ seed) * u128::from(other ^ other_seed);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let folded = (product >> 64) as u64 ^ product as u64;
        folded
    }

    fn write_u64(&mut self, half: u64) {
        self.halves = [self.halves[1], half];
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let [one, other] = self.halves();
        hasher.write_u64(one);
        hasher.write_u64(other);
    }
}

/// What entries may weigh in all. Blocks of forty sizes that come and go leave pages half empty, of which every thread has
/// its own: that costs about a twelfth of what is in them, and some 14 MiB with any budget (`cargo run --example
/// cache_weight` measures it). The marks and the keys that are remembered come to 2 MiB.
fn capacity(memory_bytes: u64) -> u64 {
    let beside = PAGES.min(memory_bytes / 4);
    (memory_bytes - beside) / 12 * 11
}

fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
