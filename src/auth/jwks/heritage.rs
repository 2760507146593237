//! Key sets from one process to the next: so an upgrade asks no issuer, and is not hurt by one that is away.
//!
//! Only what was fetched is handed on. Files and keys of the revision are at hand.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::document;
use super::set::KeySet;
use super::source::Loaded;
use super::{KeySets, SourceId, lock};
use crate::heritage::{Damaged, Format, Reader, Record, Sections, Sink};

/// Documents of key sets, with their ages.
pub const KEY_SETS: Format = Format {
    name: "key-sets",
    version: 1,
};

/// Documents that wait for a revision that names their source: in number, in bytes and in time.
const WAITING_MOST: usize = 1_000;
const WAITING_BYTES: usize = 64 << 20;
const WAITING_LONGEST: Duration = Duration::from_secs(600);

/// What another process knew of key sets that nobody here has asked for yet.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    sets: HashMap<String, Inherited>,
    bytes: usize,
}

/// What another process knew of a key set.
#[derive(Debug)]
pub(super) struct Inherited {
    text: Vec<u8>,
    /// When it was read.
    read_at: Option<Instant>,
    /// When it is to be fetched again.
    due: Instant,
    last_triggered_ms: Option<u64>,
    last_error: Option<String>,
    failures_in_a_row: u32,
    /// When it came here.
    since: Instant,
}

impl KeySets {
    /// Hands on every key set that was fetched. How many.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn hand_on(&self, sink: &mut Sink<'_>) -> io::Result<usize> {
        let sets: Vec<_> = lock(&self.0.sets)
            .iter()
            .filter_map(|(id, set)| match id {
                SourceId::Url(url) => Some((url.clone(), set.upgrade()?)),
                SourceId::File(_) | SourceId::Inline(_) => None,
            })
            .collect();
        let mut sections = Sections::new(KEY_SETS, sink);
        for (url, set) in sets {
            set.hand_on(&url, &mut sections)?;
        }
        sections.end()
    }

    /// Takes key sets over from another process, for revisions that are compiled from now on. How many.
    ///
    /// # Errors
    /// When the bytes are no key sets; then none is taken.
    pub fn inherit(&self, bytes: &[u8]) -> Result<usize, Damaged> {
        let now = Instant::now();
        let longest = self.0.pace.refresh_max.mul_f64(1.1);
        let records = Reader::new(bytes).all(|reader| {
            Ok((
                reader.text()?.to_owned(),
                Inherited {
                    text: reader.bytes()?.to_vec(),
                    read_at: reader.option(Reader::duration)?.and_then(|age| now.checked_sub(age)),
                    due: now + reader.duration()?.min(longest),
                    last_triggered_ms: reader.option(Reader::long)?,
                    last_error: reader.option(|reader| reader.text().map(str::to_owned))?,
                    failures_in_a_row: reader.word()?,
                    since: now,
                },
            ))
        })?;
        let mut inherited = lock(&self.0.inherited);
        Ok(records
            .into_iter()
            .filter_map(|(url, set)| inherited.add(url, set))
            .count())
    }
}

impl Inheritance {
    fn add(&mut self, url: String, set: Inherited) -> Option<()> {
        let bytes = self.bytes + url.len() + set.text.len();
        if bytes > WAITING_BYTES || self.sets.len() >= WAITING_MOST || self.sets.contains_key(&url) {
            return None;
        }
        self.bytes = bytes;
        self.sets.insert(url, set);
        Some(())
    }

    /// What is known of the key set with this URL. What nobody has claimed for long is forgotten.
    pub(super) fn claim(&mut self, url: &str) -> Option<Inherited> {
        if self.sets.is_empty() {
            return None;
        }
        let claimed = self.sets.remove(url);
        self.sets.retain(|_, set| set.since.elapsed() < WAITING_LONGEST);
        self.bytes = self.sets.iter().map(|(url, set)| url.len() + set.text.len()).sum();
        claimed.filter(|set| set.since.elapsed() < WAITING_LONGEST)
    }
}

impl KeySet {
    fn hand_on(&self, url: &str, sections: &mut Sections<'_>) -> io::Result<()> {
        let (text, read_at, due, last_triggered_ms, last_error, failures_in_a_row) = {
            let state = lock(&self.state);
            let Some(text) = state.text.clone() else { return Ok(()) };
            (
                text,
                state.read_at,
                state.due,
                state.last_triggered_ms,
                state.last_error.clone(),
                state.failures_in_a_row,
            )
        };
        sections.add(|record| {
            record.text(url);
            record.bytes(&text);
            record.option(read_at.map(|at| at.elapsed()), Record::duration);
            record.duration(due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now())));
            record.option(last_triggered_ms, Record::long);
            record.option(last_error.as_deref(), Record::text);
            record.word(failures_in_a_row);
        })
    }

    /// Begins with what another process knew. How long it is taken to be fresh; none if it can not be read.
    pub(super) fn inherit(&self, inherited: Inherited) -> Option<Duration> {
        let Inherited {
            text,
            read_at,
            due,
            last_triggered_ms,
            last_error,
            failures_in_a_row,
            since: _,
        } = inherited;
        let document = document::parse(&text).ok()?;
        let loaded = Loaded::Document {
            document,
            text,
            fresh_for: None,
        };
        self.settle(Ok(loaded), true);
        let mut state = lock(&self.state);
        state.fetches = 0;
        state.read_at = read_at;
        state.due = Some(due);
        state.last_triggered_ms = last_triggered_ms;
        state.last_error = last_error;
        state.failures_in_a_row = failures_in_a_row;
        Some(due.saturating_duration_since(Instant::now()))
    }
}
