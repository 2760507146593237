//! Key sets: the public keys of token issuers, kept fresh in the background for as long as the process uses them.
//!
//! An issuer that is away costs nothing as long as it was there once: the last good keys serve on, the log says so
//! once, the age is shown. Only an issuer that was never there makes requests fail, and then with "unavailable", never
//! with "unauthorised".
//!
//! When a token names a key that is not known, the set is fetched out of turn, because that is how a rotation looks.
//! It is also how an attack looks, so: one fetch at a time for all that wait, one such fetch in ten seconds, and names
//! that a fetch did not bring are not asked for again for a minute.

mod document;
mod heritage;
mod set;
mod source;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use self::document::{Document, DocumentError, Secrets, Skipped, Unusable, VerifyingKey, parse, read};
pub use self::heritage::KEY_SETS;
pub use self::set::KeySet;

use self::heritage::Inheritance;
use self::source::Http;
use crate::revision::JwksSource;

/// All key sets of the process, by where they come from: a new revision finds the keys of the old one.
#[derive(Debug, Clone)]
pub struct KeySets(Arc<Registry>);

#[derive(Debug)]
struct Registry {
    sets: Mutex<HashMap<SourceId, Weak<KeySet>>>,
    inherited: Mutex<Inheritance>,
    background: Option<Background>,
    pace: Pace,
}

/// Where the refreshing tasks live and what ends them.
#[derive(Debug, Clone)]
struct Background {
    runtime: Handle,
    shutdown: watch::Receiver<bool>,
    http: Arc<Http>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SourceId {
    Url(String),
    File(PathBuf),
    Inline([u8; 32]),
}

impl KeySets {
    /// Key sets that are refreshed on this runtime until `shutdown` says so.
    #[must_use]
    pub fn new(runtime: Handle, shutdown: watch::Receiver<bool>) -> Self {
        Self::with_pace(
            Some(Background {
                runtime,
                shutdown,
                http: Arc::default(),
            }),
            Pace::default(),
        )
    }

    /// Key sets that are never fetched: files and inline keys are read once, URLs have no keys. For explanations.
    #[must_use]
    pub fn offline() -> Self {
        Self::with_pace(None, Pace::default())
    }

    fn with_pace(background: Option<Background>, pace: Pace) -> Self {
        Self(Arc::new(Registry {
            sets: Mutex::default(),
            inherited: Mutex::default(),
            background,
            pace,
        }))
    }

    /// The key set of this source; made, and kept fresh from then on, if there is none.
    #[must_use]
    pub fn get(&self, source: &JwksSource) -> Arc<KeySet> {
        let id = SourceId::of(source);
        let mut sets = lock(&self.0.sets);
        if let Some(known) = sets.get(&id).and_then(Weak::upgrade) {
            return known;
        }
        sets.retain(|_, set| set.strong_count() > 0);
        let inherited = match source {
            JwksSource::Url(url) => lock(&self.0.inherited).claim(url),
            JwksSource::File(_) | JwksSource::Inline(_) => None,
        };
        let set = KeySet::start(source, self.0.background.as_ref(), self.0.pace, inherited);
        sets.insert(id, Arc::downgrade(&set));
        set
    }

    /// How every key set in use is doing.
    #[must_use]
    pub fn status(&self) -> Vec<KeySetStatus> {
        let sets: Vec<_> = lock(&self.0.sets).values().filter_map(Weak::upgrade).collect();
        sets.iter().map(|set| set.status()).collect()
    }
}

impl SourceId {
    fn of(source: &JwksSource) -> Self {
        match source {
            JwksSource::Url(url) => Self::Url(url.clone()),
            JwksSource::File(path) => Self::File(path.clone()),
            JwksSource::Inline(members) => {
                let mut hash = Sha256::new();
                for member in members {
                    hash.update(member.to_string().as_bytes());
                    hash.update([0]);
                }
                Self::Inline(hash.finalize().into())
            }
        }
    }
}

/// Keys that belong together. Immutable.
#[derive(Debug)]
pub struct Keys {
    fingerprint: [u8; 16],
    members: Vec<VerifyingKey>,
}

impl Keys {
    /// Names the document that they were read from, whoever reads it: what was verified with these keys is filed under it.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// The keys.
    #[must_use]
    pub fn members(&self) -> &[VerifyingKey] {
        &self.members
    }
}

/// How a key set is doing, for status and metrics.
#[derive(Debug, Clone)]
pub struct KeySetStatus {
    /// Where it comes from, without passwords.
    pub source: String,
    /// How many keys it has.
    pub keys: usize,
    /// How many members of the document could not be used.
    pub skipped: usize,
    /// Time since the source was last read successfully; none if it never was.
    pub age: Option<Duration>,
    /// Why the last attempt failed; none if it did not.
    pub last_error: Option<String>,
    /// How often the source was read.
    pub fetches: u64,
    /// How often that failed.
    pub failures: u64,
    /// How many of the reads were asked for by a request.
    pub triggered: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks leaves half a change behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often what happens. Fixed in production; tests are faster.
#[derive(Debug, Clone, Copy)]
struct Pace {
    refresh: Duration,
    refresh_min: Duration,
    refresh_max: Duration,
    retry_min: Duration,
    retry_max: Duration,
    poll: Duration,
    between_triggered: Duration,
    unknown_for: Duration,
    patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(600),
            refresh_min: Duration::from_secs(60),
            refresh_max: Duration::from_secs(3_600),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            poll: Duration::from_secs(5),
            between_triggered: Duration::from_secs(10),
            unknown_for: Duration::from_secs(60),
            patience: Duration::from_secs(2),
        }
    }
}

#[cfg(test)]
mod tests;
