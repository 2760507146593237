//! What a process leaves to the one that takes its place, beside the sockets: so that it starts warm, and limits are
//! neither reset nor spent twice.
//!
//! | when                                 | the old process            | the new process                              |
//! |--------------------------------------|----------------------------|----------------------------------------------|
//! | it serves; the new one loads         | [`Estate::export`]         | [`Estate::import`] before anything is compiled |
//! | it has stopped accepting             | [`Estate::export_changes`] | [`Estate::import`] before it accepts         |
//! | the new one serves                   | [`Estate::make_way`], then [`Estate::export_spent`] until the end | [`Estate::import`] |
//!
//! Everything here is worth having and nothing is needed: what can not be read is left out, and the new process learns it
//! as any process does. An upgrade that is given up after the second step is undone by dropping [`Exported`].

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::auth::introspection::ANSWERS;
use crate::auth::jwks::KEY_SETS;
use crate::auth::jwt::TOKENS;
use crate::auth::{Introspectors, KeySets, TokenCache};
use crate::clock::unix_ms;
use crate::heritage::{Damaged, Format, Reader, Sections, Sink};
use crate::throttle::heritage::{COUNTERS, Legacy, SPENT};
use crate::throttle::{Throttle, Time, identity};
use crate::upstream::discovery::{Discovery, NAMES};
use crate::upstream::heritage::ENDPOINTS;
use crate::upstream::{Moment, Registry};

pub use crate::heritage::{SECTION_BYTES, Section};

/// What identities of counters are hashed with. It goes first: nothing may be compiled before.
const IDENTITY: Format = Format {
    name: "identity",
    version: 1,
};

/// Kinds of sections of which it was said that they are left out, at most.
const SAID_MOST: usize = 32;

/// Everything of a process that is handed on.
pub struct Estate {
    /// The counters.
    pub throttle: Arc<Throttle>,
    /// Keys of issuers.
    pub key_sets: KeySets,
    /// Verified tokens.
    pub tokens: Arc<TokenCache>,
    /// What key services said.
    pub introspectors: Introspectors,
    /// What is known of endpoints.
    pub registry: Arc<Registry>,
    /// Where names are.
    pub discovery: Arc<Discovery>,
    /// What came of imports.
    pub tally: Tally,
}

/// What was left out of what came, counted.
#[derive(Debug, Default)]
pub struct Tally {
    taken: AtomicU64,
    left_out: AtomicU64,
    said: Mutex<HashSet<Cow<'static, str>>>,
}

/// What was handed on, and what is still owed to the other process. When it is dropped, this process is on its own
/// again, as if nothing had been handed on.
pub struct Exported {
    /// There once the counters were cut.
    legacy: Option<Legacy>,
    /// Records of the export and of what changed since.
    records: usize,
}

/// What came of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// So many records of it are known here now.
    Taken(usize),
    /// This program does not know such a section.
    Unknown,
    /// It is of another version.
    OtherVersion,
    /// It can not be read, or means nothing here.
    Damaged,
}

impl Estate {
    /// Hands everything on, while this process serves. It blocks where the sink does: not for a thread of a runtime.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn export(&self, sink: &mut Sink<'_>) -> io::Result<Exported> {
        let mut secret = Sections::new(IDENTITY, sink);
        secret.add(|record| record.fixed(identity::secret()))?;
        let mut records = secret.end()?;
        let now_ms = unix_ms();
        // Before the counters: what is learnt from others is compiled with, and they change least in the end.
        records += self.key_sets.hand_on(sink)?;
        records += self.tokens.hand_on(now_ms, sink)?;
        records += self.introspectors.hand_on(now_ms, sink)?;
        records += self.registry.hand_on(Moment::now(), sink)?;
        records += self.discovery.hand_on(sink)?;
        records += self.throttle.hand_on(self.now(), sink)?;
        Ok(Exported { legacy: None, records })
    }

    /// Hands on what has changed since. To be called when nobody is accepted any more; what requests spend from now on, those
    /// that are in flight and the last ones on kept connections, is for [`export_spent`](Self::export_spent).
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn export_changes(&self, since: &mut Exported, sink: &mut Sink<'_>) -> io::Result<()> {
        since.records += self.registry.hand_on(Moment::now(), sink)?;
        // Whatever was cut before belongs to nobody any more; and it must not be mended after this.
        drop(since.legacy.take());
        // Last: between this and the other process's first request there should be nothing.
        since.legacy = Some(self.throttle.cut(sink)?);
        Ok(())
    }

    /// Reports what was spent since, or since the last report: whenever [`wait_for_spent`](Self::wait_for_spent) returns,
    /// and once when nothing is in flight any more. How many counters that concerned.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn export_spent(&self, since: &mut Exported, sink: &mut Sink<'_>) -> io::Result<usize> {
        since.legacy.as_mut().map_or(Ok(0), |legacy| legacy.report(sink))
    }

    /// Waits until there is something to report, but no longer than this. Blocks.
    pub fn wait_for_spent(&self, within: Duration) {
        self.throttle.wait_for_spent(within);
    }

    /// Another process serves: what this one holds of shared limits goes back now, and not when it ends.
    pub fn make_way(&self) {
        self.throttle.make_way();
    }

    /// Takes a section in. One that can not be used is left out, said once and counted.
    pub fn import(&self, section: &Section) -> Imported {
        let imported = match self.take(section) {
            Some(imported) => imported,
            None => Imported::Unknown,
        };
        self.tally.count(section, imported);
        imported
    }

    fn take(&self, section: &Section) -> Option<Imported> {
        type Take = fn(&Estate, &[u8]) -> Result<usize, Damaged>;
        let known: [(Format, Take); 8] = [
            (IDENTITY, |_, bytes| adopt(bytes)),
            (KEY_SETS, |estate, bytes| estate.key_sets.inherit(bytes)),
            (TOKENS, |estate, bytes| estate.tokens.inherit(bytes)),
            (ANSWERS, |estate, bytes| estate.introspectors.inherit(bytes)),
            (ENDPOINTS, |estate, bytes| estate.registry.inherit(bytes, Moment::now())),
            (NAMES, |estate, bytes| estate.discovery.inherit(bytes)),
            (COUNTERS, |estate, bytes| estate.throttle.inherit(bytes, estate.now())),
            (SPENT, |estate, bytes| estate.throttle.count_spent(bytes, estate.now())),
        ];
        let (format, take) = known.into_iter().find(|(format, _)| format.name == section.name)?;
        if format.version != section.version {
            return Some(Imported::OtherVersion);
        }
        Some(match take(self, &section.bytes) {
            Ok(count) => Imported::Taken(count),
            Err(Damaged) => Imported::Damaged,
        })
    }

    fn now(&self) -> Time {
        self.throttle.time(Instant::now(), Time::from(SystemTime::now()))
    }
}

impl Exported {
    /// How many records were handed on, beside counters that changed.
    #[must_use]
    pub const fn records(&self) -> usize {
        self.records
    }
}

impl Tally {
    /// Records that were taken in.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Sections that were left out.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn count(&self, section: &Section, imported: Imported) {
        let why = match imported {
            Imported::Taken(count) => {
                self.taken
                    .fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
                return;
            }
            Imported::Unknown => "this program does not know what it is",
            Imported::OtherVersion => "it is of another version",
            Imported::Damaged => "it can not be read, or means nothing here",
        };
        self.left_out.fetch_add(1, Ordering::Relaxed);
        let mut said = self.said.lock();
        if said.len() < SAID_MOST && said.insert(section.name.clone()) {
            // The name came from elsewhere.
            log::warn!("upgrade: {:.40?} of the old process is left out: {why}", section.name);
        }
    }
}

/// From here on identities are hashed as in the old process.
fn adopt(bytes: &[u8]) -> Result<usize, Damaged> {
    let mut reader = Reader::new(bytes);
    let secret = reader.array()?;
    if !reader.is_empty() || !identity::adopt(secret) {
        return Err(Damaged);
    }
    Ok(1)
}

#[cfg(test)]
mod tests;
