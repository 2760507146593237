//! Every key of a revision in one immutable table, and what its application may call.
//!
//! The table is open addressing over 4-byte slots beside a dense vector of records: a million keys take about 80 MB,
//! half of what a `HashMap<KeyDigest, Record>` takes, and a lookup touches three cache lines at most. SHA-256 is uniform, so
//! its first bytes are the hash; nobody can choose the digests of the keys that are stored.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::auth::key::KeyDigest;
use crate::names::{ApplicationName, KeyId};
use crate::revision::{KeyType, Revision};
use crate::san::San;

/// Digest → record, application × API → plan. Immutable.
#[derive(Debug, Default)]
pub struct Keyring {
    records: Vec<KeyRecord>,
    /// Position in `records` plus one; zero is free. The length is a power of two and at least twice `records`.
    slots: Vec<u32>,
    /// Sorted by API; the part of an application is `ranges[application]`.
    subscriptions: Vec<Subscribed>,
    ranges: Vec<(u32, u32)>,
    applications: HashMap<ApplicationName, u32>,
    /// By the name in them.
    certificates: HashMap<San, CertificateRecord>,
}

/// What is known about a key.
#[derive(Debug, Clone)]
pub struct KeyRecord {
    digest: KeyDigest,
    /// Its public name.
    pub id: KeyId,
    /// Unix milliseconds from which on it is refused; `u64::MAX` for never.
    pub expires_ms: u64,
    /// The same for the same id in every process and revision: for counters.
    pub stable_hash: u64,
    /// Index into [`Revision::applications`].
    pub application: u32,
    /// What it may be used for.
    pub key_type: KeyType,
}

/// What is known of certificates with one name.
#[derive(Debug, Clone)]
pub struct CertificateRecord {
    /// Its public name.
    pub id: KeyId,
    /// Unix milliseconds from which on it is refused; `u64::MAX` for as the certificate says.
    pub expires_ms: u64,
    /// The same for the same name in every process and revision: for counters.
    pub stable_hash: u64,
    /// Index into [`Revision::applications`].
    pub application: u32,
    /// What it may be used for.
    pub key_type: KeyType,
}

#[derive(Debug, Clone, Copy)]
struct Subscribed {
    api: u32,
    plan: u32,
}

impl Keyring {
    /// Builds the table. A digest that occurs twice keeps its first owner (the revision does not allow it).
    #[must_use]
    pub fn compile(revision: &Revision) -> Self {
        let count = revision
            .applications
            .iter()
            .map(|application| application.keys.len())
            .sum::<usize>();
        let mut ring = Self {
            records: Vec::with_capacity(count),
            slots: vec![0; (count.saturating_mul(2)).next_power_of_two().max(2)],
            ..Self::default()
        };
        for (index, application) in (0_u32..).zip(&revision.applications) {
            ring.applications.insert(application.name.clone(), index);

            let from = position(ring.subscriptions.len());
            ring.subscriptions
                .extend(application.subscriptions.iter().map(|subscription| Subscribed {
                    api: position(subscription.api),
                    plan: position(subscription.plan),
                }));
            let to = position(ring.subscriptions.len());
            if let Some(part) = ring.subscriptions.get_mut(from as usize..) {
                part.sort_by_key(|subscribed| subscribed.api);
            }
            ring.ranges.push((from, to));

            for key in &application.keys {
                ring.insert(KeyRecord {
                    digest: KeyDigest(key.sha256),
                    id: key.id.clone(),
                    expires_ms: key.expires.map_or(u64::MAX, unix_ms),
                    stable_hash: stable_hash("key", key.id.as_str()),
                    application: index,
                    key_type: key.key_type,
                });
            }
            for certificate in &application.certificates {
                let record = CertificateRecord {
                    id: certificate.id.clone(),
                    expires_ms: certificate.expires.map_or(u64::MAX, unix_ms),
                    stable_hash: stable_hash("certificate", certificate.san.as_str()),
                    application: index,
                    key_type: certificate.key_type,
                };
                ring.certificates.entry(certificate.san.clone()).or_insert(record);
            }
        }
        ring
    }

    /// The record of the key with this digest.
    #[must_use]
    pub fn find(&self, digest: &KeyDigest) -> Option<&KeyRecord> {
        let mut slot = self.home(digest);
        // At least half of the slots are free, so the walk ends; the bound is for whoever changes that.
        for _ in 0..self.slots.len() {
            let entry = *self.slots.get(slot)?;
            let record = self.records.get((entry as usize).checked_sub(1)?)?;
            if record.digest.head() == digest.head() && record.digest == *digest {
                return Some(record);
            }
            slot = self.next(slot);
        }
        None
    }

    /// The record of certificates with this name.
    #[must_use]
    pub fn certificate(&self, name: &San) -> Option<&CertificateRecord> {
        self.certificates.get(name)
    }

    /// Every client certificate, in no order.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateRecord> {
        self.certificates.values()
    }

    /// The plan under which the application may call the API, if it may.
    #[must_use]
    pub fn plan(&self, application: u32, api: u32) -> Option<u32> {
        let (from, to) = *self.ranges.get(application as usize)?;
        let part = self.subscriptions.get(from as usize..to as usize)?;
        let found = part.binary_search_by_key(&api, |subscribed| subscribed.api).ok()?;
        part.get(found).map(|subscribed| subscribed.plan)
    }

    /// The index of the application with this name.
    #[must_use]
    pub fn application(&self, name: &str) -> Option<u32> {
        self.applications.get(name).copied()
    }

    /// Every key, in no order that means anything.
    #[must_use]
    pub fn records(&self) -> &[KeyRecord] {
        &self.records
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn insert(&mut self, record: KeyRecord) {
        if self.find(&record.digest).is_some() {
            return;
        }
        let mut slot = self.home(&record.digest);
        while self.slots.get(slot).is_some_and(|entry| *entry != 0) {
            slot = self.next(slot);
        }
        self.records.push(record);
        if let Some(free) = self.slots.get_mut(slot) {
            *free = position(self.records.len());
        }
    }

    fn home(&self, digest: &KeyDigest) -> usize {
        // Only the low bits are used, so that a 32-bit platform may cut the rest off.
        (digest.head() as usize) & self.slots.len().wrapping_sub(1)
    }

    fn next(&self, slot: usize) -> usize {
        (slot + 1) & self.slots.len().wrapping_sub(1)
    }
}

/// A 64-bit number for a name that is the same everywhere and for ever. The kind keeps a key and a subject of the
/// same name apart.
pub(crate) fn stable_hash(kind: &str, name: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(kind.as_bytes());
    hash.update([0]);
    hash.update(name.as_bytes());
    KeyDigest(hash.finalize().into()).head()
}

/// Four bytes are enough: four thousand million keys do not fit the memory of a host.
fn position(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn unix_ms(instant: jiff::Timestamp) -> u64 {
    u64::try_from(instant.as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::revision::{Application, Key, Subscription};

    #[test]
    fn a_key_leads_to_its_application_and_the_application_to_its_plan() {
        let revision = revision(vec![
            application("mobile", &[(3, 1), (0, 2)], vec![key("mobile-1", [1; 32])]),
            application(
                "batch",
                &[(3, 0)],
                vec![key("batch-1", [2; 32]), key("batch-2", [3; 32])],
            ),
        ]);
        let ring = Keyring::compile(&revision);
        assert_eq!(ring.len(), 3);

        let found = ring.find(&KeyDigest([2; 32])).unwrap();
        assert_eq!((found.id.as_str(), found.application), ("batch-1", 1));
        assert!(ring.find(&KeyDigest([9; 32])).is_none());

        assert_eq!(ring.plan(0, 0), Some(2));
        assert_eq!(ring.plan(0, 3), Some(1));
        assert_eq!(ring.plan(1, 3), Some(0));
        assert_eq!(ring.plan(1, 0), None, "the neighbour's subscription is not mine");
        assert_eq!(ring.plan(7, 0), None);
        assert_eq!(ring.application("batch"), Some(1));
        assert_eq!(ring.application("nobody"), None);
    }

    #[test]
    fn digests_that_share_their_first_bytes_are_told_apart() {
        let mut digests = Vec::new();
        for last in 0..20 {
            let mut digest = [7_u8; 32];
            digest[31] = last;
            digests.push(digest);
        }
        let keys = digests
            .iter()
            .enumerate()
            .map(|(n, digest)| key(&format!("k-{n}"), *digest))
            .collect();
        let ring = Keyring::compile(&revision(vec![application("a", &[], keys)]));
        for (n, digest) in digests.iter().enumerate() {
            assert_eq!(ring.find(&KeyDigest(*digest)).unwrap().id.as_str(), format!("k-{n}"));
        }
    }

    #[test]
    fn an_empty_revision_knows_no_key() {
        let ring = Keyring::compile(&Revision::default());
        assert!(ring.is_empty());
        assert!(ring.find(&KeyDigest([0; 32])).is_none());
        assert!(Keyring::default().find(&KeyDigest([0; 32])).is_none());
    }

    #[test]
    fn the_numbers_for_counters_do_not_change_between_versions() {
        assert_eq!(stable_hash("key", "mobile-1"), 3_914_718_518_486_135_761);
        assert_ne!(stable_hash("key", "a"), stable_hash("subject", "a"));
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_hash_map(
            stored in proptest::collection::vec(any::<[u8; 32]>(), 0..200),
            asked in proptest::collection::vec(any::<[u8; 32]>(), 0..50),
            crowded in any::<bool>(),
        ) {
            // Crowded: many digests want the same slot.
            let squeeze = |mut digest: [u8; 32]| { if crowded { digest[..7].fill(0); } digest };
            let mut model = HashMap::new();
            let mut keys = Vec::new();
            for (n, digest) in stored.iter().map(|digest| squeeze(*digest)).enumerate() {
                model.entry(digest).or_insert_with(|| format!("k-{n}"));
                keys.push(key(&format!("k-{n}"), digest));
            }
            let ring = Keyring::compile(&revision(vec![application("a", &[], keys)]));
            prop_assert_eq!(ring.len(), model.len());
            for digest in stored.iter().chain(&asked).map(|digest| squeeze(*digest)) {
                let found = ring.find(&KeyDigest(digest)).map(|record| record.id.as_str().to_owned());
                prop_assert_eq!(found.as_ref(), model.get(&digest));
            }
        }
    }

    fn revision(applications: Vec<Application>) -> Revision {
        Revision {
            applications,
            ..Revision::default()
        }
    }

    fn application(name: &str, subscriptions: &[(usize, usize)], keys: Vec<Key>) -> Application {
        Application {
            name: name.into(),
            subscriptions: subscriptions
                .iter()
                .map(|&(api, plan)| Subscription { api, plan })
                .collect(),
            keys,
            certificates: Vec::new(),
        }
    }

    fn key(id: &str, sha256: [u8; 32]) -> Key {
        Key {
            id: id.into(),
            sha256,
            key_type: KeyType::Production,
            expires: None,
        }
    }
}
