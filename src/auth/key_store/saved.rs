//! A store as two files: the base, large and seldom written, and the log since, small and often.
//!
//! Both end with a SHA-256 over what goes before, and the log names the base that it belongs to. A file that was cut,
//! damaged or written for another base is told from a good one, and what it held is fetched again.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::base::{Base, Entry};
use super::overlay::{Change, Now};
use super::stored::StoredKey;
use super::view::View;
use crate::distribution::{ContentHash, KeyChange, KeyFilter, KeyHash, decode_filter};
use crate::names::ApplicationName;

/// What a base begins with; the digit is the version of the format.
const MAGIC: &[u8; 8] = b"tgkeys1\n";

/// Bytes of an entry.
const ENTRY: usize = 20;

/// Bytes of a hash at the end.
const SUM: usize = 32;

/// A store, to be written.
pub struct Saved {
    view: Arc<View>,
    changes: Vec<(KeyHash, Change)>,
    place: Place,
    seq: u64,
}

/// Which base. Two bases of the same environment with the same numbers are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    environment: String,
    epoch: u64,
    foundation: u64,
    merged: u64,
    floor: u64,
    filter: bool,
}

/// Why a file is not taken up; says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSaved(String);

/// How a base begins, as one line.
#[derive(Serialize, Deserialize)]
struct Head {
    place: Place,
    keys: usize,
    ids: usize,
    filter: usize,
    applications: Vec<String>,
}

/// How a log begins.
#[derive(Serialize, Deserialize)]
struct LogHead {
    place: Place,
    seq: u64,
}

/// A change in the log.
#[derive(Serialize, Deserialize)]
struct Line {
    seq: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    foreign: bool,
    #[serde(flatten)]
    change: KeyChange,
}

impl Saved {
    pub(super) fn new(view: Arc<View>, seq: u64, environment: &str) -> Self {
        let place = Place::new(&view, environment);
        let changes = view.overlay.sorted(|change| change.seq <= seq);
        Self {
            view,
            changes,
            place,
            seq,
        }
    }

    /// Which base it stands on: one that is written already need not be written again.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How far the log is in it.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Writes the base.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write_base(&self, to: &mut impl Write) -> io::Result<()> {
        let mut to = Summed::new(to);
        let (hashes, entries, ids, applications) = self.view.base.parts();
        let filter = self
            .view
            .filter
            .as_ref()
            .map(|filter| filter.to_bytes())
            .unwrap_or_default();
        let head = serde_json::to_vec(&Head {
            place: self.place.clone(),
            keys: hashes.len(),
            ids: ids.len(),
            filter: filter.len(),
            applications: applications.iter().map(|name| name.as_str().to_owned()).collect(),
        })?;
        to.write_all(MAGIC)?;
        to.write_all(&(head.len() as u64).to_le_bytes())?;
        to.write_all(&head)?;
        for hash in hashes {
            to.write_all(&hash.0)?;
        }
        for entry in entries {
            let [low, high] = entry.stable_hash;
            for number in [entry.application, entry.expires_s, entry.id, low, high] {
                to.write_all(&number.to_le_bytes())?;
            }
        }
        to.write_all(ids.as_bytes())?;
        to.write_all(&filter)?;
        to.finish()
    }

    /// Writes the log.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write_log(&self, to: &mut impl Write) -> io::Result<()> {
        let mut to = Summed::new(to);
        let head = LogHead {
            place: self.place.clone(),
            seq: self.seq,
        };
        serde_json::to_writer(&mut to, &head)?;
        to.write_all(b"\n")?;
        for (hash, change) in &self.changes {
            let (foreign, what) = match &change.now {
                Now::Key(key) => (false, KeyChange::Put(key.entry(*hash))),
                Now::Revoked { foreign } => (*foreign, KeyChange::Del { hash: *hash }),
            };
            let line = Line {
                seq: change.seq,
                foreign,
                change: what,
            };
            serde_json::to_writer(&mut to, &line)?;
            to.write_all(b"\n")?;
        }
        to.finish()
    }
}

impl Place {
    fn new(view: &View, environment: &str) -> Self {
        Self {
            environment: environment.to_owned(),
            epoch: view.epoch,
            foundation: view.foundation,
            merged: view.merged,
            floor: view.floor,
            filter: view.filter.is_some(),
        }
    }

    pub(super) fn is_of(&self, view: &View) -> bool {
        *self == Self::new(view, &self.environment)
    }
}

/// The view that was written, and how far it had read the log.
pub(super) fn restore(environment: &str, base: &[u8], log: Option<&[u8]>) -> Result<(View, u64), NotSaved> {
    let (place, base, filter) = read_base(base)?;
    if place.environment != environment {
        return Err(NotSaved(format!("it is of the environment \"{}\"", place.environment)));
    }
    let log = match log.map(|log| read_log(log, &place)).transpose() {
        Ok(log) => log,
        Err(error) => {
            log::warn!("the log of keys on disk is left aside, {error}; what it held is read again");
            None
        }
    };
    let (seq, changes) = log.unwrap_or((place.merged, Vec::new()));
    let view = View {
        epoch: place.epoch,
        base: Arc::new(base),
        filter: filter.map(Arc::new),
        foundation: place.foundation,
        merged: place.merged,
        floor: place.floor,
        overlay: changes.into_iter().collect(),
    };
    Ok((view, seq))
}

fn read_base(bytes: &[u8]) -> Result<(Place, Base, Option<KeyFilter>), NotSaved> {
    let cut = || NotSaved("it is cut off".to_owned());
    let mut rest = summed(bytes)?
        .strip_prefix(MAGIC)
        .ok_or_else(|| NotSaved("it is of another version".to_owned()))?;
    let mut take = |length: usize| -> Result<&[u8], NotSaved> {
        let (part, after) = rest.split_at_checked(length).ok_or_else(cut)?;
        rest = after;
        Ok(part)
    };
    let length = take(8)?.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    let head: Head = serde_json::from_slice(take(usize::try_from(length).map_err(|_| cut())?)?)
        .map_err(|error| NotSaved(error.to_string()))?;
    let hashes = take(head.keys.saturating_mul(size_of::<KeyHash>()))?;
    let entries = take(head.keys.saturating_mul(ENTRY))?;
    let ids = std::str::from_utf8(take(head.ids)?).map_err(|error| NotSaved(error.to_string()))?;
    let filter = match take(head.filter)? {
        [] => None,
        bytes => Some(decode_filter(bytes).map_err(|error| NotSaved(error.to_string()))?),
    };
    let base = Base::of_parts(
        hashes.as_chunks().0.iter().map(|hash| KeyHash(*hash)).collect(),
        entries.as_chunks().0.iter().map(read_entry).collect(),
        ids.to_owned(),
        head.applications
            .iter()
            .map(|name| ApplicationName::from(name.as_str()))
            .collect(),
    );
    if head.place.filter != filter.is_some() {
        return Err(cut());
    }
    let base = base.ok_or_else(|| NotSaved("its parts do not fit together".to_owned()))?;
    Ok((head.place, base, filter))
}

fn read_entry(bytes: &[u8; ENTRY]) -> Entry {
    let mut numbers = [0; ENTRY / 4];
    for (number, four) in numbers.iter_mut().zip(bytes.as_chunks().0) {
        *number = u32::from_le_bytes(*four);
    }
    let [application, expires_s, id, low, high] = numbers;
    Entry {
        application,
        expires_s,
        id,
        stable_hash: [low, high],
    }
}

fn read_log(bytes: &[u8], place: &Place) -> Result<(u64, Vec<(KeyHash, Change)>), NotSaved> {
    let malformed = |error: serde_json::Error| NotSaved(error.to_string());
    let mut lines = summed(bytes)?
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    let head: LogHead = serde_json::from_slice(lines.next().unwrap_or_default()).map_err(malformed)?;
    if head.place != *place {
        return Err(NotSaved("it belongs to another base".to_owned()));
    }
    let mut changes = Vec::new();
    for line in lines {
        let line: Line = serde_json::from_slice(line).map_err(malformed)?;
        let hash = line.change.hash();
        let now = match &line.change {
            KeyChange::Put(entry) => {
                let application = ApplicationName::from(entry.application.as_str());
                Now::Key(Arc::new(StoredKey::new(entry, application)))
            }
            KeyChange::Del { .. } => Now::Revoked { foreign: line.foreign },
        };
        changes.push((hash, Change { seq: line.seq, now }));
    }
    Ok((head.seq, changes))
}

/// What goes before the sum, if the sum is right.
fn summed(bytes: &[u8]) -> Result<&[u8], NotSaved> {
    let damaged = || NotSaved("its checksum is wrong".to_owned());
    let (body, sum) = bytes.split_last_chunk::<SUM>().ok_or_else(damaged)?;
    if ContentHash::of(body).0 == *sum {
        Ok(body)
    } else {
        Err(damaged())
    }
}

/// Writes, and a sum over it at the end.
struct Summed<'a, W> {
    to: &'a mut W,
    sum: Sha256,
}

impl<'a, W: Write> Summed<'a, W> {
    fn new(to: &'a mut W) -> Self {
        Self { to, sum: Sha256::new() }
    }

    fn finish(self) -> io::Result<()> {
        self.to.write_all(&self.sum.finalize())
    }
}

impl<W: Write> Write for Summed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.sum.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl fmt::Display for NotSaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotSaved {}
