//! Keys that come by the key log: a million on every gateway, or only those that are used, and never one that was
//! revoked. One store for the process; snapshots come and go above it.
//!
//! Readers take one lock-free look at a [`View`]: what the log said lately ([`overlay`]), then everything up to some
//! place in the log ([`base`]). In *push* mode that is all. In *filter* mode the base is a filter that tells strangers at
//! once; who passes it and is not remembered is asked for at the control plane ([`flights`]).
//!
//! A revocation wins over everything: over a key in the base, over one in a published document, and over an answer that
//! was under way when it came. Writers, who are few, take turns under one lock; that is what makes the last part true.

pub mod base;
mod flights;
pub mod overlay;
mod saved;
mod stored;
#[cfg(test)]
mod tests;
pub mod view;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use rand::RngExt;

pub use self::base::TooMany;
pub use self::flights::Answer;
pub use self::saved::{NotSaved, Place, Saved};
pub use self::stored::{KeyName, KeyView, StoredKey};
pub use self::view::{Foundation, Keys, Unfit, View};

use self::base::InBase;
use self::flights::Flights;
use self::overlay::{Change, Now};
use self::view::Merged;
use crate::distribution::protocol::{Resolve, Resolved};
use crate::distribution::{KeyChange, KeyEntry, KeyHash, KeyPage};
use crate::names::ApplicationName;

/// Keys that were asked for and are remembered: about 40 MB.
const RESOLVED_MOST: usize = 200_000;

/// Keys that nobody knew, remembered.
const ABSENT_MOST: usize = 100_000;

/// How long an answer counts, in milliseconds, give or take a tenth: so that a fleet does not ask again all at once.
const RESOLVED_MS: u64 = 3_600_000;

/// How long it counts that nobody knows a key.
const ABSENT_MS: u64 = 30_000;

/// An overlay of this size, or of a tenth of its base, is merged.
const OVERLAY_MOST: usize = 10_000;

/// Longer names than any that can be made would not fit their places.
const NAME_MOST: usize = 255;

/// Names of applications that are shared between keys.
const NAMES_MOST: usize = 100_000;

/// Keys that come by the log.
pub struct KeyStore {
    view: ArcSwap<View>,
    /// The last record of the log that was applied.
    seq: AtomicU64,
    /// Whether the log was once known to its end: before that, nothing is certain.
    ready: AtomicBool,
    /// How many keys let in, as far as it is known here.
    live: AtomicI64,
    merging: AtomicBool,
    resolved: Cache<KeyHash, Remembered>,
    absent: Cache<KeyHash, u64>,
    flights: Flights,
    /// How often everything that was remembered was forgotten. Answers to questions from before are not to be trusted:
    /// a revocation since then may have left no trace here.
    generation: AtomicU64,
    writer: Mutex<Writer>,
}

/// What the store says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<R> {
    /// It lets in; and what was made of it.
    Key(R),
    /// It was revoked: nobody else may let it in either.
    Revoked,
    /// The log does not know it.
    Unknown,
    /// That is not known here and now: [`KeyStore::resolve`].
    Unresolved,
}

/// Why a page of the log was not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageError {
    /// It is of another environment.
    Environment,
    /// It is of another log: start over from the manifest's base.
    Epoch,
    /// The log ends before what was read here: it was restored from an older copy, and what it says from there on may be
    /// something else. Start over too.
    Restored,
    /// It does not begin where this store ends, or has a gap.
    Gap,
    /// A record that can not be kept; says why.
    Malformed(String),
}

/// What operators see of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// `push` or `filter`.
    pub mode: &'static str,
    /// How many keys are known here to let in.
    pub keys: u64,
    /// Changes that are not in the base yet.
    pub overlay: usize,
    /// Keys and revocations that are kept one by one: with a filter, what it does not know.
    pub beside: u64,
    /// Memory of the base and the filter, in bytes.
    pub bytes: usize,
    /// Keys that are being asked for.
    pub asked_for: usize,
}

/// Keys to be asked for. Whatever becomes of it, those who wait get an answer.
pub struct Question {
    store: Arc<KeyStore>,
    generation: u64,
    hashes: Vec<KeyHash>,
}

/// An answer, and until when it counts (Unix milliseconds).
#[derive(Clone)]
struct Remembered {
    key: Arc<StoredKey>,
    until_ms: u64,
}

#[derive(Default)]
struct Writer {
    /// Each name once, however many keys have it.
    names: HashSet<ApplicationName>,
    /// Replaced views, kept until nobody reads them, so that no request's thread frees a large one.
    replaced: Vec<Arc<View>>,
}

impl KeyStore {
    /// A store that knows nothing, and knows that it does.
    #[must_use]
    pub fn new() -> Self {
        Self {
            view: ArcSwap::from_pointee(View::default()),
            seq: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            live: AtomicI64::new(0),
            merging: AtomicBool::new(false),
            resolved: Cache::new(RESOLVED_MOST),
            absent: Cache::new(ABSENT_MOST),
            flights: Flights::default(),
            generation: AtomicU64::new(0),
            writer: Mutex::default(),
        }
    }

    /// Looks for a key, without waiting. What `read` makes of it is given back, also of an expired one.
    pub fn find<R>(&self, hash: &KeyHash, now_ms: u64, read: impl FnOnce(KeyView<'_>) -> R) -> Found<R> {
        let view = self.view.load();
        // Revocations first, whether everything is known or not.
        let known = view.overlay.find(hash);
        let stored = match known {
            Some(_) => None,
            None => view.base.find(hash),
        };
        match (&known, stored) {
            (
                Some(Change {
                    now: Now::Revoked { .. },
                    ..
                }),
                _,
            )
            | (None, Some(InBase::Revoked { .. })) => return Found::Revoked,
            _ if !self.is_ready() => return Found::Unresolved,
            (Some(Change { now: Now::Key(key), .. }), _) => return Found::Key(read(key.view())),
            (None, Some(InBase::Key(key))) => return Found::Key(read(key)),
            (None, None) => {}
        }
        match &view.filter {
            Some(filter) if filter.may_know(hash) => {}
            _ => return Found::Unknown,
        }
        if let Some(remembered) = self.resolved.get(hash)
            && now_ms < remembered.until_ms
        {
            return Found::Key(read(remembered.key.view()));
        }
        match self.absent.get(hash) {
            Some(until_ms) if now_ms < until_ms => Found::Unknown,
            _ => Found::Unresolved,
        }
    }

    /// Asks for a key that could not be found here, with all others that are asked for now, and waits for two seconds at
    /// most. What [`Self::find`] says afterwards goes before the answer: the log may have said something meanwhile, and
    /// then the answer is not even looked at.
    pub async fn resolve(&self, hash: KeyHash, now_ms: u64) -> Answer {
        if !self.is_ready() {
            return Answer::Unavailable;
        }
        let known = || match self.find(&hash, now_ms, |_| ()) {
            Found::Unresolved => None,
            Found::Key(()) | Found::Revoked | Found::Unknown => Some(Answer::Unknown),
        };
        self.flights.wait(hash, known).await
    }

    /// Whether an answer still counts. To be asked after [`Self::find`].
    #[must_use]
    pub fn is_of_now(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Acquire) == generation
    }

    /// The last record of the log that was applied.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Acquire)
    }

    /// Which log it is.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.view.load().epoch
    }

    /// The place in the log of what was last fetched whole.
    #[must_use]
    pub fn foundation(&self) -> u64 {
        self.view.load().foundation
    }

    /// Whether strangers are told by a filter.
    #[must_use]
    pub fn has_filter(&self) -> bool {
        self.view.load().filter.is_some()
    }

    /// Whether the log was once known to its end. Until then no key is let in, and nobody is told that his is unknown.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Notes that the log is known to its end, or that there is none.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// What operators see.
    #[must_use]
    pub fn size(&self) -> Size {
        let view = self.view.load();
        let (mode, more) = match view.filter {
            Some(_) => ("filter", self.resolved.len() as u64),
            None => ("push", 0),
        };
        Size {
            mode,
            keys: u64::try_from(self.live.load(Ordering::Relaxed)).unwrap_or(0) + more,
            overlay: view.overlay.len(),
            beside: (view.overlay.len() + view.base.len()) as u64,
            bytes: view.bytes(),
            asked_for: self.flights.len(),
        }
    }

    /// Applies a page of the log: all of it, or nothing.
    ///
    /// # Errors
    /// When it is not the page that comes next.
    pub fn apply(&self, page: &KeyPage, environment: &str) -> Result<(), PageError> {
        let mut writer = self.writer();
        let view = self.view.load();
        if page.environment != environment {
            return Err(PageError::Environment);
        }
        if page.epoch != view.epoch {
            return Err(PageError::Epoch);
        }
        let seq = self.seq();
        if page.after == seq && page.head < seq && page.records.is_empty() {
            return Err(PageError::Restored);
        }
        let gapless = (1..).zip(&page.records).all(|(n, record)| record.seq == seq + n);
        if page.after != seq || !gapless || page.head < page.records.last().map_or(seq, |last| last.seq) {
            return Err(PageError::Gap);
        }
        for record in &page.records {
            if let KeyChange::Put(entry) = &record.change {
                check(entry).map_err(|why| PageError::Malformed(format!("record {}: {why}", record.seq)))?;
            }
        }
        for record in &page.records {
            let hash = record.change.hash();
            let was = view.lets_in(&hash);
            let now = match &record.change {
                KeyChange::Put(entry) => Now::Key(Arc::new(StoredKey::new(entry, writer.name(&entry.application)))),
                KeyChange::Del { .. } => Now::Revoked {
                    foreign: view.is_foreign(&hash),
                },
            };
            let is = matches!(now, Now::Key(_));
            self.live
                .fetch_add(i64::from(is) - i64::from(was == Some(true)), Ordering::Relaxed);
            view.overlay.insert(hash, Change { seq: record.seq, now });
            // After the overlay: whoever still reads the old answer looked before.
            self.resolved.remove(&hash);
            self.absent.remove(&hash);
            self.seq.store(record.seq, Ordering::Release);
        }
        writer.bury();
        Ok(())
    }

    /// Frees replaced views that nobody reads any more. Called now and then from a background thread.
    pub fn bury(&self) {
        self.writer().bury();
    }

    /// Begins anew with another log, or with the first one.
    pub fn start_over(&self, foundation: Foundation) {
        let mut writer = self.writer();
        let seq = foundation.seq;
        self.put(&mut writer, View::start(foundation));
        self.seq.store(seq, Ordering::Release);
        self.forget();
    }

    /// Stands on something newer of the same log. Takes long for many keys: not for a request's thread, and not while
    /// the log is applied.
    ///
    /// # Errors
    /// When it is older than what is known here.
    pub fn stand_on(&self, foundation: Foundation) -> Result<(), Unfit> {
        let seq = foundation.seq;
        let next = self.view.load().on(foundation)?;
        let mut writer = self.writer();
        self.put(&mut writer, next);
        if seq > self.seq() {
            // What was revoked in between left no trace here.
            self.seq.store(seq, Ordering::Release);
            self.forget();
        }
        Ok(())
    }

    /// Whether [`Self::merge`] is due and not under way.
    #[must_use]
    pub fn is_merge_due(&self) -> bool {
        let view = self.view.load();
        !self.merging.load(Ordering::Acquire) && view.overlay.len() > OVERLAY_MOST.max(view.base.len() / 10)
    }

    /// Moves the overlay into the base. Takes long for many keys: not for a request's thread. The log may be applied
    /// meanwhile. One at a time: a second one does nothing.
    ///
    /// # Errors
    /// When there are more keys than a base can hold.
    pub fn merge(&self) -> Result<(), TooMany> {
        if self.merging.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let done = self.merge_alone();
        self.merging.store(false, Ordering::Release);
        done
    }

    fn merge_alone(&self) -> Result<(), TooMany> {
        // Of one moment: with the place of another log, changes of this one would count as merged.
        let (upto, before) = {
            let _writer = self.writer();
            (self.seq(), self.view.load_full())
        };
        let merged: Merged = before.merge(upto)?;
        let mut writer = self.writer();
        if Arc::ptr_eq(&before, &self.view.load()) {
            let next = before.with_base(merged);
            drop(before);
            self.put(&mut writer, next);
        }
        Ok(())
    }

    /// What is to be written to disk.
    #[must_use]
    pub fn save(&self, environment: &str) -> Saved {
        let _writer = self.writer();
        Saved::new(self.view.load_full(), self.seq(), environment)
    }

    /// Whether it stands on this base: one that is on disk need not be written again.
    #[must_use]
    pub fn is_at(&self, place: &Place) -> bool {
        place.is_of(&self.view.load())
    }

    /// Takes up what was written to disk, before anybody asks. It is old, but it is complete.
    ///
    /// # Errors
    /// When the base is damaged or of another environment. Without a log that fits, the base counts alone.
    pub fn restore(&self, environment: &str, base: &[u8], log: Option<&[u8]>) -> Result<(), NotSaved> {
        let (view, seq) = saved::restore(environment, base, log)?;
        let mut writer = self.writer();
        self.put(&mut writer, view);
        self.seq.store(seq, Ordering::Release);
        self.set_ready();
        self.forget();
        Ok(())
    }

    /// The next keys to ask for. To be called by one task.
    pub async fn question(self: &Arc<Self>) -> Question {
        let hashes = self.flights.next().await;
        Question {
            store: Arc::clone(self),
            generation: self.generation.load(Ordering::Acquire),
            hashes,
        }
    }

    fn settle(&self, question: &mut Question, answer: &Resolved, now_ms: u64) {
        let mut writer = self.writer();
        let view = self.view.load();
        // About another log, or older than what is remembered here: it may know keys that are gone.
        if !self.is_of_now(question.generation) || answer.seq < view.floor {
            return;
        }
        let until_ms = now_ms + RESOLVED_MS / 10 * 9 + rand::rng().random_range(0..RESOLVED_MS / 5);
        let mut keys = std::collections::HashMap::with_capacity(answer.keys.len());
        for entry in answer.keys.iter().filter(|entry| check(entry).is_ok()) {
            keys.insert(entry.hash, entry);
        }
        for hash in std::mem::take(&mut question.hashes) {
            let outcome = match (view.lets_in(&hash), keys.get(&hash)) {
                // What the log has said of it is newer, or says the same: nothing is remembered beside it.
                (Some(_), _) => Answer::Unknown,
                (None, Some(entry)) => {
                    let name = writer.name(&entry.application);
                    let key = Arc::new(StoredKey::new(entry, name));
                    let remembered = Remembered {
                        key: Arc::clone(&key),
                        until_ms,
                    };
                    self.absent.remove(&hash);
                    self.resolved.insert(hash, remembered);
                    Answer::Known {
                        key,
                        generation: question.generation,
                    }
                }
                (None, None) => {
                    self.absent.insert(hash, now_ms + ABSENT_MS);
                    Answer::Unknown
                }
            };
            self.flights.land(&hash, outcome);
        }
    }

    fn put(&self, writer: &mut Writer, view: View) {
        // Keys that are in both are counted twice, until the next merge: they were changed, which is rare.
        let keys = view.base.live() + view.overlay.count(|change| matches!(change.now, Now::Key(_)));
        self.live
            .store(i64::try_from(keys).unwrap_or(i64::MAX), Ordering::Relaxed);
        writer.replaced.push(self.view.swap(Arc::new(view)));
        writer.bury();
        // Names that no key has any more are not kept for ever.
        writer.names.clear();
    }

    /// Forgets every answer: they are older than what is known now.
    fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.resolved.clear();
        self.absent.clear();
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    /// The keys.
    #[must_use]
    pub fn resolve(&self) -> Resolve {
        Resolve {
            h: self.hashes.clone(),
            nonce: String::new(),
        }
    }

    /// Gives the answer to all who wait, and remembers it.
    pub fn settle(mut self, answer: &Resolved, now_ms: u64) {
        let store = Arc::clone(&self.store);
        store.settle(&mut self, answer, now_ms);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        for hash in &self.hashes {
            self.store.flights.land(hash, Answer::Unavailable);
        }
    }
}

impl Writer {
    fn bury(&mut self) {
        self.replaced.retain(|view| Arc::strong_count(view) > 1);
    }

    fn name(&mut self, name: &str) -> ApplicationName {
        if self.names.len() >= NAMES_MOST {
            self.names.clear();
        }
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name = ApplicationName::from(name);
        self.names.insert(name.clone());
        name
    }
}

/// Whether an entry can be kept.
fn check(entry: &KeyEntry) -> Result<(), String> {
    for (what, text) in [
        ("id of a key", &entry.id),
        ("name of an application", &entry.application),
    ] {
        if text.is_empty() || text.len() > NAME_MOST {
            return Err(format!(
                "the {what} has {} bytes; 1 to {NAME_MOST} are possible",
                text.len()
            ));
        }
    }
    Ok(())
}

impl Default for KeyStore {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyStore")
            .field("seq", &self.seq())
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Environment => f.write_str("the page of the key log is of another environment"),
            Self::Epoch => f.write_str("the page is of another key log"),
            Self::Restored => f.write_str("the key log ends before what was read of it"),
            Self::Gap => f.write_str("the page of the key log does not begin where the last one ended, or has a gap"),
            Self::Malformed(why) => write!(f, "the page of the key log is malformed: {why}"),
        }
    }
}

impl std::error::Error for PageError {}
