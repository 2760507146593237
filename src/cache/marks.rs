//! What has been invalidated, told in time that does not depend on how much is kept.
//!
//! An entry has marks: hashes of its URL, its tags, its user, its API and route. An invalidation does not look for entries:
//! it writes into the slot of its mark at what moment it came, and an entry whose request was sent before that is not given
//! any more. What was on its way when the invalidation came is caught by the same rule, since it is the moment of the
//! *request* that counts and not that of the answer.
//!
//! Moments inside this process are numbers of a logical clock that every invalidation advances. Wall time is kept beside
//! it, for entries that other processes have made.
//!
//! Why orders of memory do not matter much here: an invalidation takes effect when [`Marks::apply`] returns. The number in
//! its slot is written before that, with release, and read with acquire; who asks after it has returned sees it. A request
//! that reads the clock while an invalidation is half done gets either the number before, and is invalid, or its number,
//! and was sent after the invalidation began: the origin had changed by then.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::entry::Entry;
use super::key;

/// Slots that marks share. A mark is 64 bits of a hash, and those that meet in a slot are invalidated together: too much
/// is forgotten now and then, too little never.
const SLOTS: usize = 1 << 16;

/// Invalidations by prefix that are remembered one by one. When there is one more, the oldest becomes one of everything.
const PREFIXES: usize = 256;

/// By how much clocks of gateways may differ, in milliseconds. What another process asked for up to so long after an
/// invalidation is refused too.
pub const SKEW_MS: u64 = 5000;

/// Something that entries can be invalidated by. The same in every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MarkId(pub u64);

impl MarkId {
    /// All variants of a URL, whatever route and whoever called: its host, and its normalised path with the query. The port
    /// does not count, as it does not for routes: clients write it or not.
    #[must_use]
    pub fn url(host: &str, path_and_query: &str) -> Self {
        let mut folded: smallvec::SmallVec<[u8; 64]> = smallvec::SmallVec::from_slice(bare(host).as_bytes());
        folded.make_ascii_lowercase();
        Self::of(b'u', &[&folded, path_and_query.as_bytes()])
    }

    /// A tag (surrogate key) that the origin has given.
    #[must_use]
    pub fn tag(tag: &str) -> Self {
        Self::of(b't', &[tag.as_bytes()])
    }

    /// A user, by what callers are known as.
    #[must_use]
    pub fn user(user: &str) -> Self {
        Self::of(b'c', &[user.as_bytes()])
    }

    /// An API.
    #[must_use]
    pub fn api(name: &str) -> Self {
        Self::of(b'a', &[name.as_bytes()])
    }

    /// A route of an API, by its pattern.
    #[must_use]
    pub fn route(api: &str, pattern: &str) -> Self {
        Self::of(b'r', &[api.as_bytes(), pattern.as_bytes()])
    }

    fn of(kind: u8, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update([kind]);
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        Self(digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }
}

/// What is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invalidation {
    /// Everything.
    All,
    /// Everything with this mark.
    Mark(MarkId),
    /// Everything that was answered to somebody, and what is remembered of who that is: names of applications, ids of keys,
    /// subjects of tokens.
    User(String),
    /// Everything whose normalised path begins with this text.
    Prefix {
        /// At this host; else at every host.
        host: Option<String>,
        /// Beginning of the path.
        path: String,
    },
}

/// Everything that was invalidated since this process began.
#[derive(Debug)]
pub struct Marks {
    /// Number of the last invalidation.
    clock: AtomicU64,
    all: Stamp,
    /// 1 MiB, from the first invalidation by mark on.
    slots: OnceLock<Box<[Stamp]>>,
    prefixes: RwLock<Vec<Prefix>>,
    /// Number of the last invalidation by prefix.
    last_prefix: AtomicU64,
}

/// When something was invalidated last; zeros: never.
#[derive(Debug, Default)]
struct Stamp {
    sequence: AtomicU64,
    at_ms: AtomicU64,
}

#[derive(Debug)]
struct Prefix {
    host: Option<Box<str>>,
    path: Box<str>,
    sequence: u64,
    at_ms: u64,
}

impl Default for Marks {
    fn default() -> Self {
        Self::new()
    }
}

impl Marks {
    /// Nothing has been invalidated.
    #[must_use]
    pub fn new() -> Self {
        Self {
            clock: AtomicU64::new(0),
            all: Stamp::default(),
            slots: OnceLock::new(),
            prefixes: RwLock::new(Vec::new()),
            last_prefix: AtomicU64::new(0),
        }
    }

    /// The moment. Read before a request is sent, and written into the entry that its answer becomes.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Invalidates what was asked for up to now. `at_ms`: when it was told to whoever told us, in milliseconds since 1970.
    pub fn apply(&self, what: &Invalidation, at_ms: u64) {
        match what {
            Invalidation::All => self.all.set(self.tick(), at_ms),
            Invalidation::Mark(mark) => self.apply_mark(*mark, at_ms),
            Invalidation::User(user) => self.apply_mark(MarkId::user(user), at_ms),
            Invalidation::Prefix { host, path } => self.apply_prefix(host.as_deref(), path, at_ms),
        }
    }

    /// Whether what this process asked for at `sequence` may still be given.
    #[must_use]
    pub fn is_valid(&self, marks: &[MarkId], host: &str, path: &str, sequence: u64) -> bool {
        self.has_no_later_mark(marks, sequence)
            && (self.last_prefix.load(Ordering::Acquire) <= sequence
                || !self
                    .prefixes
                    .read()
                    .iter()
                    .any(|prefix| prefix.sequence > sequence && prefix.covers(host, path)))
    }

    /// Whether what another process asked for at `asked_ms` may still be given. In doubt not: clocks differ.
    #[must_use]
    pub fn is_valid_elsewhere(&self, marks: &[MarkId], host: &str, path: &str, asked_ms: u64) -> bool {
        let is_older = |at_ms: u64| at_ms > 0 && asked_ms <= at_ms.saturating_add(SKEW_MS);
        if is_older(self.all.at_ms.load(Ordering::Acquire)) {
            return false;
        }
        if let Some(slots) = self.slots.get() {
            let mut stamps = marks.iter().filter_map(|mark| slots.get(position(*mark)));
            if stamps.any(|stamp| is_older(stamp.at_ms.load(Ordering::Acquire))) {
                return false;
            }
        }
        self.last_prefix.load(Ordering::Acquire) == 0
            || !self
                .prefixes
                .read()
                .iter()
                .any(|prefix| is_older(prefix.at_ms) && prefix.covers(host, path))
    }

    /// Whether an entry may still be given. It remembers which prefixes it was held to, so that each is looked at once for
    /// each entry, and not at every hit.
    pub(super) fn admits(&self, entry: &Entry) -> bool {
        if !self.has_no_later_mark(&entry.marks, entry.sequence) {
            return false;
        }
        let last = self.last_prefix.load(Ordering::Acquire);
        let settled = entry.settled();
        if last <= settled {
            return true;
        }
        // A key that cannot be read is nobody's.
        let Some(target) = key::target(&entry.key) else {
            return false;
        };
        let prefixes = self.prefixes.read();
        let is_covered = prefixes
            .iter()
            .any(|prefix| prefix.sequence > settled && prefix.covers(target.host, target.path));
        drop(prefixes);
        if !is_covered {
            // `last` was read before the list, which may have grown since: those are looked at the next time.
            entry.settle(last);
        }
        !is_covered
    }

    fn has_no_later_mark(&self, marks: &[MarkId], sequence: u64) -> bool {
        if self.all.sequence.load(Ordering::Acquire) > sequence {
            return false;
        }
        let Some(slots) = self.slots.get() else {
            return true;
        };
        marks
            .iter()
            .filter_map(|mark| slots.get(position(*mark)))
            .all(|slot| slot.sequence.load(Ordering::Acquire) <= sequence)
    }

    fn apply_mark(&self, mark: MarkId, at_ms: u64) {
        let slots = self
            .slots
            .get_or_init(|| (0..SLOTS).map(|_| Stamp::default()).collect());
        if let Some(slot) = slots.get(position(mark)) {
            slot.set(self.tick(), at_ms);
        }
    }

    fn apply_prefix(&self, host: Option<&str>, path: &str, at_ms: u64) {
        let host = host.map(|host| host.to_ascii_lowercase().into_boxed_str());
        let mut prefixes = self.prefixes.write();
        // Inside the lock, so that the list is in the order of its numbers.
        let sequence = self.tick();
        // The same one again takes the place of the former, and is the youngest then.
        let mut at_ms = at_ms;
        prefixes.retain(|prefix| {
            let is_same = prefix.host == host && *prefix.path == *path;
            if is_same {
                at_ms = at_ms.max(prefix.at_ms);
            }
            !is_same
        });
        if prefixes.len() >= PREFIXES {
            let oldest = prefixes.remove(0);
            self.all.set(oldest.sequence, oldest.at_ms);
        }
        prefixes.push(Prefix {
            host,
            path: path.into(),
            sequence,
            at_ms,
        });
        self.last_prefix.fetch_max(sequence, Ordering::Release);
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::AcqRel) + 1
    }
}

impl Stamp {
    /// Two invalidations may come at the same time; the later one stays.
    fn set(&self, sequence: u64, at_ms: u64) {
        self.at_ms.fetch_max(at_ms, Ordering::Release);
        self.sequence.fetch_max(sequence, Ordering::Release);
    }
}

impl Prefix {
    fn covers(&self, host: &str, path: &str) -> bool {
        path.starts_with(&*self.path)
            && self
                .host
                .as_deref()
                .is_none_or(|own| bare(own).eq_ignore_ascii_case(bare(host)))
    }
}

/// A host without port and final dot.
fn bare(host: &str) -> &str {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|end| end + 2),
        None => host.find(':'),
    };
    let name = host.get(..end.unwrap_or(host.len())).unwrap_or(host);
    name.strip_suffix('.').unwrap_or(name)
}

fn position(mark: MarkId) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bits are left of it")]
    let position = (mark.0 & (SLOTS as u64 - 1)) as usize;
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "api.example";

    fn valid(marks: &Marks, mark: MarkId, path: &str, sequence: u64) -> bool {
        marks.is_valid(&[mark], HOST, path, sequence)
    }

    #[test]
    fn what_was_asked_for_before_an_invalidation_is_invalid_and_what_is_asked_for_after_it_is_not() {
        let marks = Marks::new();
        let (tag, other) = (MarkId::tag("news"), MarkId::tag("sport"));
        let before = marks.sequence();
        assert!(valid(&marks, tag, "/", before));
        marks.apply(&Invalidation::Mark(tag), 1_000_000);
        assert!(!valid(&marks, tag, "/", before));
        assert!(valid(&marks, other, "/", before));
        assert!(valid(&marks, tag, "/", marks.sequence()));
        marks.apply(&Invalidation::All, 1_000_000);
        assert!(!valid(&marks, other, "/", before));
    }

    #[test]
    fn a_prefix_is_of_one_host_or_of_all() {
        let marks = Marks::new();
        let before = marks.sequence();
        let mark = MarkId::tag("t");
        let prefix = |host: Option<&str>, path: &str| Invalidation::Prefix {
            host: host.map(str::to_owned),
            path: path.to_owned(),
        };
        marks.apply(&prefix(Some("OTHER.example"), "/a"), 1);
        assert!(marks.is_valid(&[mark], HOST, "/a/b", before));
        assert!(!marks.is_valid(&[mark], "other.EXAMPLE", "/a/b", before));
        marks.apply(&prefix(None, "/a"), 1);
        assert!(!valid(&marks, mark, "/a/b", before));
        assert!(!valid(&marks, mark, "/a", before));
        assert!(valid(&marks, mark, "/b", before));
        assert!(valid(&marks, mark, "/a", marks.sequence()));
    }

    #[test]
    fn one_prefix_too_many_makes_the_oldest_one_of_everything_before_it() {
        let marks = Marks::new();
        let mark = MarkId::tag("t");
        let first = marks.sequence();
        let apply = |number: usize| {
            marks.apply(
                &Invalidation::Prefix {
                    host: None,
                    path: format!("/{number}/"),
                },
                1,
            );
        };
        apply(0);
        let second = marks.sequence();
        (1..PREFIXES).for_each(apply);
        // The same again needs no room.
        apply(PREFIXES - 1);
        assert!(valid(&marks, mark, "/elsewhere", first));
        apply(PREFIXES);
        assert!(!valid(&marks, mark, "/elsewhere", first));
        assert!(valid(&marks, mark, "/elsewhere", second));
        assert!(!valid(&marks, mark, "/7/x", second));
        assert!(marks.prefixes.read().len() <= PREFIXES);
    }

    #[test]
    fn what_others_asked_for_is_refused_for_as_long_as_clocks_may_differ() {
        let marks = Marks::new();
        let tag = MarkId::tag("news");
        let elsewhere = |path: &str, asked_ms| marks.is_valid_elsewhere(&[tag], HOST, path, asked_ms);
        assert!(elsewhere("/", 0));
        marks.apply(&Invalidation::Mark(tag), 100_000);
        assert!(!elsewhere("/", 99_000));
        assert!(!elsewhere("/", 100_000 + SKEW_MS));
        assert!(elsewhere("/", 100_001 + SKEW_MS));
        // One that is told late does not make the former forgotten.
        marks.apply(&Invalidation::Mark(tag), 50_000);
        assert!(!elsewhere("/", 100_000));
        let prefix = Invalidation::Prefix {
            host: None,
            path: "/a".to_owned(),
        };
        marks.apply(&prefix, 200_000);
        assert!(!elsewhere("/a", 200_000));
        assert!(elsewhere("/b", 200_000));
        marks.apply(&Invalidation::All, 300_000);
        assert!(!elsewhere("/b", 300_000));
    }

    #[test]
    fn marks_are_the_same_in_every_process_and_do_not_run_into_each_other() {
        assert_eq!(MarkId::tag("news"), MarkId(0x26cd_750e_9890_f9dd));
        assert_eq!(MarkId::url("Api.Example", "/A"), MarkId::url("api.example", "/A"));
        assert_ne!(MarkId::url("api.example", "/A"), MarkId::url("api.example", "/a"));
        assert_ne!(MarkId::route("a", "bc"), MarkId::route("ab", "c"));
        assert_ne!(MarkId::tag("x"), MarkId::user("x"));
        assert_ne!(MarkId::tag("x"), MarkId::api("x"));
    }

    #[test]
    fn an_invalidation_travels_as_json() {
        for what in [
            Invalidation::All,
            Invalidation::Mark(MarkId(u64::MAX)),
            Invalidation::User("mobile".to_owned()),
            Invalidation::Prefix {
                host: None,
                path: "/a".to_owned(),
            },
        ] {
            let text = serde_json::to_string(&what).expect("is written");
            assert_eq!(serde_json::from_str::<Invalidation>(&text).expect("is read"), what);
        }
    }

    /// One thread invalidates, and the origin changes before it does; others ask all the time. Whoever asks the marks after
    /// an invalidation has returned is never told that an answer from before it is valid.
    #[test]
    fn a_fill_that_began_before_an_invalidation_is_never_valid_after_it() {
        let marks = Marks::new();
        let mark = MarkId::url(HOST, "/");
        let origin = AtomicU64::new(0);
        let invalidated = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in 1..=20_000 {
                    origin.store(version, Ordering::SeqCst);
                    match version % 3 {
                        0 => marks.apply(&Invalidation::Mark(mark), 1),
                        1 => marks.apply(&Invalidation::All, 1),
                        _ => marks.apply(
                            &Invalidation::Prefix {
                                host: None,
                                path: "/".to_owned(),
                            },
                            1,
                        ),
                    }
                    invalidated.store(version, Ordering::SeqCst);
                }
            });
            for _ in 0..3 {
                scope.spawn(|| {
                    while invalidated.load(Ordering::SeqCst) < 20_000 {
                        let sequence = marks.sequence();
                        let answer = origin.load(Ordering::SeqCst);
                        for _ in 0..3 {
                            let at_least = invalidated.load(Ordering::SeqCst);
                            let is_valid = marks.is_valid(&[mark], HOST, "/", sequence);
                            assert!(!is_valid || answer >= at_least, "{answer} after {at_least}");
                        }
                    }
                });
            }
        });
    }
}
