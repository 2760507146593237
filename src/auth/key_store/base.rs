//! Keys up to a place in the log: immutable, sorted by hash, 36 bytes a key and its id.
//!
//! Hashes are uniform, so a key is found by looking where it should be: about three looks among a million keys, where a
//! binary search takes twenty. Revoked keys keep a place, so that nothing else that knows them lets them in.

use std::collections::HashMap;

use super::stored::{KeyName, KeyView};
use crate::auth::keyring::stable_hash;
use crate::distribution::{KeyEntry, KeyHash};
use crate::names::ApplicationName;
use crate::revision::KeyType;

/// Looks by estimate before the distance to the hash is doubled instead.
const ESTIMATES: usize = 3;

/// In `Entry::application`: a sandbox key.
const SANDBOX: u32 = 1 << 31;

/// Instead of an application: the key was revoked, and had come from the log.
const REVOKED_OWN: u32 = u32::MAX;

/// The same for a key that the log had not known: it stands in a published document.
const REVOKED_FOREIGN: u32 = u32::MAX - 1;

/// Immutable keys and revocations.
#[derive(Default)]
pub struct Base {
    hashes: Box<[KeyHash]>,
    /// As many as hashes.
    entries: Box<[Entry]>,
    /// All ids, one after the other, in the order of the hashes.
    ids: Box<str>,
    applications: Box<[ApplicationName]>,
    live: usize,
    revoked_own: usize,
}

/// Twenty bytes, aligned to four.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Position in `applications`, and whether it is a sandbox key.
    pub(super) application: u32,
    /// Unix seconds; 0 for never.
    pub(super) expires_s: u32,
    /// Where its id begins. It ends where the next one begins.
    pub(super) id: u32,
    /// In two halves: a number of eight bytes would make the entry 24 bytes long.
    pub(super) stable_hash: [u32; 2],
}

/// What a base knows of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InBase<'a> {
    /// It lets in.
    Key(KeyView<'a>),
    /// It does not.
    Revoked {
        /// Whether the log had not known it before.
        foreign: bool,
    },
}

/// Makes a base.
#[derive(Default)]
pub struct Builder {
    hashes: Vec<KeyHash>,
    entries: Vec<Entry>,
    ids: String,
    applications: Vec<ApplicationName>,
    positions: HashMap<ApplicationName, u32>,
}

impl Base {
    /// What is known of a key.
    #[must_use]
    pub fn find(&self, hash: &KeyHash) -> Option<InBase<'_>> {
        self.at(self.position(hash)?)
    }

    /// Everything, in the order of hashes.
    pub fn iter(&self) -> impl Iterator<Item = (KeyHash, InBase<'_>)> {
        (0..self.hashes.len()).filter_map(|position| Some((*self.hashes.get(position)?, self.at(position)?)))
    }

    /// How many keys let in.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// How many keys that came from the log are revoked.
    #[must_use]
    pub fn revoked_own(&self) -> usize {
        self.revoked_own
    }

    /// Keys and revocations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Memory in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let names: usize = self.applications.iter().map(|name| name.as_str().len() + 32).sum();
        size_of::<Self>() + size_of_val(&*self.hashes) + size_of_val(&*self.entries) + self.ids.len() + names
    }

    pub(super) fn parts(&self) -> (&[KeyHash], &[Entry], &str, &[ApplicationName]) {
        (&self.hashes, &self.entries, &self.ids, &self.applications)
    }

    /// The base of these parts, if they fit together.
    pub(super) fn of_parts(
        hashes: Vec<KeyHash>,
        entries: Vec<Entry>,
        ids: String,
        applications: Vec<ApplicationName>,
    ) -> Option<Self> {
        let sorted = hashes.is_sorted_by(|one, other| one < other);
        let cuts = entries.is_sorted_by_key(|entry| entry.id)
            && entries.iter().all(|entry| ids.is_char_boundary(entry.id as usize));
        let owned = entries.iter().all(|entry| {
            entry.is_revoked().is_some() || applications.get((entry.application & !SANDBOX) as usize).is_some()
        });
        (hashes.len() == entries.len() && sorted && cuts && owned).then(|| Self::of(hashes, entries, ids, applications))
    }

    fn of(hashes: Vec<KeyHash>, entries: Vec<Entry>, ids: String, applications: Vec<ApplicationName>) -> Self {
        let count = |which: Option<bool>| entries.iter().filter(|entry| entry.is_revoked() == which).count();
        Self {
            live: count(None),
            revoked_own: count(Some(false)),
            hashes: hashes.into(),
            entries: entries.into(),
            ids: ids.into(),
            applications: applications.into(),
        }
    }

    fn at(&self, position: usize) -> Option<InBase<'_>> {
        let entry = self.entries.get(position)?;
        if let Some(foreign) = entry.is_revoked() {
            return Some(InBase::Revoked { foreign });
        }
        let end = match self.entries.get(position + 1) {
            Some(next) => next.id as usize,
            None => self.ids.len(),
        };
        let [low, high] = entry.stable_hash;
        Some(InBase::Key(KeyView {
            id: KeyName::Text(self.ids.get(entry.id as usize..end)?),
            application: self.applications.get((entry.application & !SANDBOX) as usize)?,
            key_type: if entry.application & SANDBOX == 0 {
                KeyType::Production
            } else {
                KeyType::Sandbox
            },
            expires_s: entry.expires_s,
            stable_hash: u64::from(low) | u64::from(high) << 32,
        }))
    }

    /// Where a hash is. Comparing takes a time that depends on the hashes; nobody can choose a key so that its hash
    /// comes near another one's, so that nothing is learned from it.
    fn position(&self, hash: &KeyHash) -> Option<usize> {
        // The hash is in `low..high`, if it is anywhere.
        let (mut low, mut high) = (0, self.hashes.len());
        let mut guess = self.share(hash.head());
        for _ in 0..ESTIMATES {
            if low >= high {
                return None;
            }
            guess = guess.clamp(low, high - 1);
            let found = self.hashes.get(guess)?;
            match found.cmp(hash) {
                std::cmp::Ordering::Equal => return Some(guess),
                std::cmp::Ordering::Less => {
                    low = guess + 1;
                    guess += self.share(hash.head() - found.head()).max(1);
                }
                std::cmp::Ordering::Greater => {
                    high = guess;
                    guess = guess.saturating_sub(self.share(found.head() - hash.head()).max(1));
                }
            }
        }
        // It is near the last guess. Whatever the hashes are, the rest is at most two binary searches.
        let mut step = 4;
        while low < high {
            let (below, above) = (guess.saturating_sub(step), guess.saturating_add(step));
            if below > low && self.hashes.get(below).is_some_and(|found| found <= hash) {
                low = below;
            }
            if above < high && self.hashes.get(above).is_some_and(|found| found > hash) {
                high = above;
            }
            if below <= low && above >= high {
                break;
            }
            step = step.saturating_mul(4);
        }
        let found = self.hashes.get(low..high)?.binary_search(hash).ok()?;
        Some(low + found)
    }

    /// How many of the hashes are expected in a part of the numbers of 64 bits.
    fn share(&self, part: u64) -> usize {
        ((u128::from(part) * self.hashes.len() as u128) >> 64) as usize
    }
}

impl Entry {
    /// Whether it is revoked, and if so, whether the log had not known it.
    fn is_revoked(&self) -> Option<bool> {
        match self.application {
            REVOKED_OWN => Some(false),
            REVOKED_FOREIGN => Some(true),
            _ => None,
        }
    }
}

impl Builder {
    /// Adds a key, in any order of hashes.
    ///
    /// # Errors
    /// When there are more ids or applications than fit.
    pub fn push(&mut self, hash: KeyHash, key: &KeyView<'_>) -> Result<(), TooMany> {
        let application = match self.positions.get(key.application.as_str()) {
            Some(position) => *position,
            None => {
                let position = u32::try_from(self.applications.len()).map_err(|_| TooMany)?;
                if position >= REVOKED_FOREIGN & !SANDBOX {
                    return Err(TooMany);
                }
                self.applications.push(key.application.clone());
                self.positions.insert(key.application.clone(), position);
                position
            }
        };
        let sandbox = if key.key_type == KeyType::Sandbox { SANDBOX } else { 0 };
        let stable_hash = [key.stable_hash as u32, (key.stable_hash >> 32) as u32];
        self.add(hash, application | sandbox, key.expires_s, stable_hash, key.id.as_str())
    }

    /// Adds a key as it travels.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_entry(&mut self, entry: &KeyEntry) -> Result<(), TooMany> {
        let application = match self.positions.get_key_value(entry.application.as_str()) {
            Some((name, _)) => name.clone(),
            None => ApplicationName::from(entry.application.as_str()),
        };
        let key = KeyView {
            id: KeyName::Text(&entry.id),
            application: &application,
            key_type: entry.key_type,
            expires_s: super::stored::seconds_up(entry.expires_ms),
            stable_hash: stable_hash("key", &entry.id),
        };
        self.push(entry.hash, &key)
    }

    /// Adds a revocation.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_revoked(&mut self, hash: KeyHash, foreign: bool) -> Result<(), TooMany> {
        let mark = if foreign { REVOKED_FOREIGN } else { REVOKED_OWN };
        self.add(hash, mark, 0, [0; 2], "")
    }

    /// Adds whatever a base knew.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_known(&mut self, hash: KeyHash, known: &InBase<'_>) -> Result<(), TooMany> {
        match known {
            InBase::Key(key) => self.push(hash, key),
            InBase::Revoked { foreign } => self.push_revoked(hash, *foreign),
        }
    }

    /// The base of everything that was added. Of a hash that was added twice, the first one counts.
    #[must_use]
    pub fn finish(mut self) -> Base {
        if !self.hashes.is_sorted_by(|one, other| one < other) {
            self = self.sorted();
        }
        self.ids.shrink_to_fit();
        Base::of(self.hashes, self.entries, self.ids, self.applications)
    }

    fn add(
        &mut self,
        hash: KeyHash,
        application: u32,
        expires_s: u32,
        stable_hash: [u32; 2],
        id: &str,
    ) -> Result<(), TooMany> {
        let start = u32::try_from(self.ids.len()).map_err(|_| TooMany)?;
        self.ids.push_str(id);
        self.hashes.push(hash);
        self.entries.push(Entry {
            application,
            expires_s,
            id: start,
            stable_hash,
        });
        Ok(())
    }

    fn sorted(self) -> Self {
        let mut order: Vec<usize> = (0..self.hashes.len()).collect();
        order.sort_by_key(|position| self.hashes.get(*position));
        let mut sorted = Self {
            hashes: Vec::with_capacity(order.len()),
            entries: Vec::with_capacity(order.len()),
            ids: String::with_capacity(self.ids.len()),
            ..Self::default()
        };
        for position in order {
            let (Some(hash), Some(entry)) = (self.hashes.get(position), self.entries.get(position)) else {
                continue;
            };
            if sorted.hashes.last() == Some(hash) {
                continue;
            }
            let end = self
                .entries
                .get(position + 1)
                .map_or(self.ids.len(), |next| next.id as usize);
            let id = self.ids.get(entry.id as usize..end).unwrap_or_default();
            // It fitted before.
            let _ = sorted.add(*hash, entry.application, entry.expires_s, entry.stable_hash, id);
        }
        sorted.applications = self.applications;
        sorted
    }
}

/// More keys than a base can hold: ids of 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl std::fmt::Display for TooMany {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more keys than a gateway can keep; set \"keys: filter\"")
    }
}

impl std::error::Error for TooMany {}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base")
            .field("live", &self.live)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::distribution::ContentHash;

    fn entry(hash: KeyHash, id: &str) -> KeyEntry {
        KeyEntry {
            hash,
            id: id.to_owned(),
            application: format!("app-{}", id.len() % 3),
            key_type: if id.len().is_multiple_of(2) {
                KeyType::Sandbox
            } else {
                KeyType::Production
            },
            expires_ms: Some(id.len() as u64 * 1000 + 1),
        }
    }

    #[test]
    fn a_million_keys_take_at_most_64_bytes_each_with_their_ids() {
        let mut builder = Builder::default();
        let count = 1_000_000_u32;
        for number in 0..count {
            // Uniform enough, and much faster than a SHA-256 without optimisation.
            let spread = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let key = KeyView {
                id: KeyName::Text(&format!("mobile-{number:06x}")),
                application: &ApplicationName::from(["mobile", "batch"][number as usize % 2]),
                key_type: KeyType::Production,
                expires_s: 0,
                stable_hash: u64::from(number),
            };
            builder.push(KeyHash(spread.to_be_bytes()), &key).unwrap();
        }
        let base = builder.finish();
        assert_eq!(base.live(), count as usize);
        let each = base.bytes() as f64 / f64::from(count);
        assert!(each <= 64.0, "{each} bytes a key");
        let asked = KeyHash(
            u128::from(777_777_u32)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
                .to_be_bytes(),
        );
        let Some(InBase::Key(key)) = base.find(&asked) else {
            panic!("it is there")
        };
        assert_eq!((key.id.as_str(), key.stable_hash), ("mobile-0bde31", 777_777));
    }

    #[test]
    fn a_key_is_given_back_as_it_was_put_in() {
        let mut builder = Builder::default();
        let hash = |number: u8| KeyHash::of_digest(&ContentHash::of(&[number]).0);
        for number in 0..100 {
            builder
                .push_entry(&entry(hash(number), &"k".repeat(1 + number as usize)))
                .unwrap();
        }
        builder.push_revoked(hash(200), true).unwrap();
        let base = builder.finish();
        assert_eq!((base.live(), base.len()), (100, 101));
        let Some(InBase::Key(key)) = base.find(&hash(41)) else {
            panic!("it is there")
        };
        assert_eq!(key.id.as_str(), "k".repeat(42));
        assert_eq!(key.application.as_str(), "app-0");
        assert_eq!(key.key_type, KeyType::Sandbox);
        assert_eq!(key.expires_s, 43, "rounded up to a whole second");
        assert_eq!(key.stable_hash, stable_hash("key", &"k".repeat(42)));
        assert_eq!(base.find(&hash(200)), Some(InBase::Revoked { foreign: true }));
        assert_eq!(base.find(&hash(201)), None);
        assert_eq!(Base::default().find(&hash(1)), None);
    }

    proptest! {
        #[test]
        fn the_base_agrees_with_a_map_however_its_hashes_lie(
            stored in proptest::collection::vec((any::<u128>(), "[a-z]{0,5}"), 0..300),
            asked in proptest::collection::vec(any::<u128>(), 0..30),
            crowded in 0_u32..3,
        ) {
            // Crowded at the end, in the middle, or not at all: the worst for estimates.
            let place = |number: u128| KeyHash(match crowded {
                0 => number,
                1 => number >> 100,
                _ => (number >> 120 << 120) | (number & 0xf),
            }.to_be_bytes());
            let mut model = BTreeMap::new();
            let mut builder = Builder::default();
            for (number, id) in &stored {
                model.entry(place(*number)).or_insert(id.clone());
                builder.push_entry(&entry(place(*number), id)).unwrap();
            }
            let base = builder.finish();
            prop_assert_eq!(base.len(), model.len());
            for number in stored.iter().map(|(number, _)| number).chain(&asked) {
                for near in [number.wrapping_sub(1), *number, number.wrapping_add(1)] {
                    let found = match base.find(&place(near)) {
                        Some(InBase::Key(key)) => Some(key.id.as_str().to_owned()),
                        _ => None,
                    };
                    prop_assert_eq!(found.as_ref(), model.get(&place(near)));
                }
            }
        }
    }
}
