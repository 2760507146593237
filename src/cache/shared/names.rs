//! What things are called in the shared Redis.
//!
//! `tollgate:{FINGERPRINT}:c1:REALM` is a record, `tollgate:{FINGERPRINT}:c1:REALM:lease` says who fetches it. The
//! fingerprint, 32 hex digits of the full key, is the hash tag of Redis Cluster: both lie on one node. The realm, 16 hex
//! digits, stands for the environment: staging and production may have one Redis, and never one answer.

use super::super::key::fingerprint;
use crate::redis::Slot;

/// The names of a record, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) record: String,
    pub(super) slot: Slot,
}

impl Name {
    /// Of what has this full key in this [realm](super::super::key::realm).
    pub(super) fn of(realm: &str, key: &[u8]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digits = fingerprint(key).0;
        let digit = |half: u8| HEX.get(usize::from(half & 15)).copied().map_or('0', char::from);
        let mut tag = String::with_capacity(32);
        for byte in digits {
            tag.push(digit(byte >> 4));
            tag.push(digit(byte));
        }
        Self {
            record: ["tollgate:{", &tag, "}:c1:", realm].concat(),
            slot: Slot::of_tag(tag.as_bytes()),
        }
    }

    /// Who fetches it says so here.
    pub(super) fn lease(&self) -> String {
        [&self.record, ":lease"].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::key::realm;
    use super::*;

    #[test]
    fn a_record_and_its_lease_have_the_fingerprint_as_hash_tag() {
        let realm = realm("Default");
        assert_eq!(realm.len(), 16);
        let name = Name::of(&realm, b"key");
        let tag = name.record.strip_prefix("tollgate:{").unwrap();
        let tag = tag.strip_suffix(&format!("}}:c1:{realm}")).unwrap();
        assert_eq!(tag.len(), 32);
        assert!(
            tag.bytes()
                .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        );
        assert_eq!(name.slot, Slot::of_tag(tag.as_bytes()));
        assert_eq!(name.lease(), format!("{}:lease", name.record));
        assert_eq!(name, Name::of(&realm, b"key"));
        assert_ne!(name, Name::of(&realm, b"kez"));
        assert_ne!(name, Name::of(&self::realm("staging"), b"key"));
    }
}
