//! A key of the log, as it is kept and as it is read.

use crate::auth::keyring::stable_hash;
use crate::distribution::{KeyEntry, KeyHash};
use crate::names::{ApplicationName, KeyId};
use crate::revision::KeyType;

/// A key that is kept by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Its public name.
    pub id: KeyId,
    /// Whose it is.
    pub application: ApplicationName,
    /// What it may be used for.
    pub key_type: KeyType,
    /// Unix seconds from which on it is refused; 0 for never.
    pub expires_s: u32,
    /// The same for the same id in every process: for counters.
    pub stable_hash: u64,
}

/// A key, wherever it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyView<'a> {
    /// Its public name.
    pub id: KeyName<'a>,
    /// Whose it is.
    pub application: &'a ApplicationName,
    /// What it may be used for.
    pub key_type: KeyType,
    /// Unix seconds from which on it is refused; 0 for never.
    pub expires_s: u32,
    /// The same for the same id in every process: for counters.
    pub stable_hash: u64,
}

/// The public name of a key, to be shared or copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyName<'a> {
    /// Kept by itself.
    Shared(&'a KeyId),
    /// Kept among others.
    Text(&'a str),
}

impl StoredKey {
    /// A key as it travelled.
    #[must_use]
    pub fn new(entry: &KeyEntry, application: ApplicationName) -> Self {
        Self {
            id: KeyId::from(entry.id.as_str()),
            application,
            key_type: entry.key_type,
            expires_s: seconds_up(entry.expires_ms),
            stable_hash: stable_hash("key", &entry.id),
        }
    }

    /// The same, as it travels.
    #[must_use]
    pub fn entry(&self, hash: KeyHash) -> KeyEntry {
        KeyEntry {
            hash,
            id: self.id.as_str().to_owned(),
            application: self.application.as_str().to_owned(),
            key_type: self.key_type,
            expires_ms: (self.expires_s != 0).then(|| u64::from(self.expires_s) * 1000),
        }
    }

    /// The same, to be read.
    #[must_use]
    pub fn view(&self) -> KeyView<'_> {
        KeyView {
            id: KeyName::Shared(&self.id),
            application: &self.application,
            key_type: self.key_type,
            expires_s: self.expires_s,
            stable_hash: self.stable_hash,
        }
    }
}

impl KeyView<'_> {
    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_s != 0 && now_ms >= u64::from(self.expires_s) * 1000
    }
}

impl<'a> KeyName<'a> {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &'a str {
        match self {
            Self::Shared(id) => id.as_str(),
            Self::Text(text) => text,
        }
    }
}

/// Seconds in four bytes, until 2106: a second more than a key was given does no harm, a second less may.
pub(super) fn seconds_up(expires_ms: Option<u64>) -> u32 {
    match expires_ms {
        None => 0,
        Some(ms) => u32::try_from(ms.div_ceil(1000).max(1)).unwrap_or(u32::MAX),
    }
}
