//! The key log: keys come and go far more often than revisions, so they travel apart, as numbered records.
//!
//! A key is known by the first 128 bits of its SHA-256. Keys carry that much randomness, so that nobody finds another
//! one with the same; and a million of them take half the room.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::hash::from_hex;
use crate::revision::KeyType;

/// The first 128 bits of the SHA-256 over a key's text. Written as 32 hex digits; not a secret, but not shown either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub [u8; 16]);

/// A text that is not 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAKeyHash;

/// A key that lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// What it is found by.
    #[serde(rename = "h")]
    pub hash: KeyHash,
    /// Its public name.
    pub id: String,
    /// Whose it is.
    #[serde(rename = "app")]
    pub application: String,
    /// What it may be used for.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Unix milliseconds from which on it is refused.
    #[serde(rename = "exp", default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum KeyChange {
    /// It lets in from now on, as this says.
    Put(KeyEntry),
    /// It does not let in any more, whatever else is known of it.
    Del {
        /// Which one.
        #[serde(rename = "h")]
        hash: KeyHash,
    },
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its number: one more than the one before.
    pub seq: u64,
    /// Unix milliseconds at which it was written.
    #[serde(rename = "at")]
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub change: KeyChange,
}

/// A part of the log. Sent as the text of a [`Signed`](super::Signed), about [`Topic::Keys`](super::Topic::Keys).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    /// Whose gateways it is for.
    pub environment: String,
    /// Which log. A gateway that knows another one starts over from the manifest's base.
    pub epoch: u64,
    /// The number after which it begins, as it was asked for.
    pub after: u64,
    /// The last number of the log now: more than the last record's when there are more pages.
    pub head: u64,
    /// The records after `after`, without gaps.
    pub records: Vec<KeyRecord>,
}

impl KeyHash {
    /// The beginning of a SHA-256.
    #[must_use]
    pub fn of_digest(digest: &[u8; 32]) -> Self {
        let mut head = [0; 16];
        head.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
        Self(head)
    }

    /// The first 64 bits as a number: what a [`KeyFilter`](super::KeyFilter) knows keys by. Ordered like the hashes.
    #[must_use]
    pub fn head(&self) -> u64 {
        // A hash has twice as many bytes.
        self.0.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
    }
}

impl KeyChange {
    /// The key that it is about.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        match self {
            Self::Put(entry) => entry.hash,
            Self::Del { hash } => *hash,
        }
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(redacted)")
    }
}

impl fmt::Display for NotAKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the hash of a key is 32 hexadecimal digits")
    }
}

impl std::error::Error for NotAKeyHash {}

impl FromStr for KeyHash {
    type Err = NotAKeyHash;

    fn from_str(text: &str) -> Result<Self, NotAKeyHash> {
        from_hex(text).map(Self).ok_or(NotAKeyHash)
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_short_lines_that_are_read_as_they_are_written() {
        let put = KeyRecord {
            seq: 7,
            at_ms: 1_000,
            change: KeyChange::Put(KeyEntry {
                hash: KeyHash([0xab; 16]),
                id: "mobile-1".to_owned(),
                application: "mobile".to_owned(),
                key_type: KeyType::Sandbox,
                expires_ms: None,
            }),
        };
        let line = serde_json::to_string(&put).unwrap();
        assert_eq!(
            line,
            r#"{"seq":7,"at":1000,"op":"put","h":"abababababababababababababababab","id":"mobile-1","app":"mobile","type":"sandbox"}"#
        );
        assert_eq!(serde_json::from_str::<KeyRecord>(&line).unwrap(), put);
        let del = r#"{"seq":8,"at":1000,"op":"del","h":"abababababababababababababababab"}"#;
        let read: KeyRecord = serde_json::from_str(del).unwrap();
        assert_eq!(read.change.hash(), put.change.hash());
        assert_eq!(serde_json::to_string(&read).unwrap(), del);
        assert!(!format!("{put:?}").contains("abab"));
    }
}
