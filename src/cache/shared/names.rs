//! What things are called in the shared Redis.
//!
//! `tollgate:{FINGERPRINT}:c1` is a record, `tollgate:{FINGERPRINT}:c1:lease` says who fetches it. The fingerprint, 32 hex
//! digits of the full key, is the hash tag of Redis Cluster: both lie on one node.

use super::super::key::fingerprint;
use crate::redis::Slot;

/// The names of a record, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) record: String,
    pub(super) slot: Slot,
}

impl Name {
    /// Of what has this full key.
    pub(super) fn of(key: &[u8]) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digits = fingerprint(key).0;
        let digit = |half: u8| HEX.get(usize::from(half & 15)).copied().map_or('0', char::from);
        let mut tag = String::with_capacity(32);
        for byte in digits {
            tag.push(digit(byte >> 4));
            tag.push(digit(byte));
        }
        Self {
            record: ["tollgate:{", &tag, "}:c1"].concat(),
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
    use super::*;

    #[test]
    fn a_record_and_its_lease_have_the_fingerprint_as_hash_tag() {
        let name = Name::of(b"key");
        let tag = name.record.strip_prefix("tollgate:{").unwrap();
        let tag = tag.strip_suffix("}:c1").unwrap();
        assert_eq!(tag.len(), 32);
        assert!(
            tag.bytes()
                .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
        );
        assert_eq!(name.slot, Slot::of_tag(tag.as_bytes()));
        assert_eq!(name.lease(), format!("{}:lease", name.record));
        assert_eq!(name, Name::of(b"key"));
        assert_ne!(name, Name::of(b"kez"));
    }
}
