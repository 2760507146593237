//! How keys are to be kept, and on what. Pure.

use crate::config::KeysMode;
use crate::distribution::{BlobRef, KeysHead};

/// Up to so many keys, all of them are kept: about 100 MB.
const PUSH_MOST: u64 = 2_000_000;

/// Below so many, a gateway with a filter goes back to keeping all of them: not at the same number, so that one key more or
/// less does not make a fleet fetch everything.
const PUSH_AGAIN: u64 = 1_800_000;

/// Keys beside the filter, as a part of all of them or at least, from which on a newer filter is worth fetching.
const BESIDE_MOST: u64 = 10_000;

/// What is to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// All keys up to a place in the log; none if the log holds everything.
    All(Option<(u64, BlobRef)>),
    /// A filter of them.
    Filter(u64, BlobRef),
}

impl Want {
    /// The place in the log from which it is read on.
    pub(super) fn seq(&self) -> u64 {
        match self {
            Self::All(base) => base.map_or(0, |(seq, _)| seq),
            Self::Filter(seq, _) => *seq,
        }
    }
}

/// What a gateway stands on best.
pub(super) fn wanted(head: &KeysHead, mode: KeysMode, has_filter: bool) -> Want {
    let most = if has_filter { PUSH_AGAIN } else { PUSH_MOST };
    let filtered = match mode {
        KeysMode::Push => false,
        KeysMode::Filter => true,
        KeysMode::Auto => head.count > most,
    };
    match head.filter {
        Some(filter) if filtered => Want::Filter(filter.seq, filter.blob),
        // Without a filter there are few keys, or all of them are in the log.
        _ => Want::All(head.base.map(|base| (base.seq, base.blob))),
    }
}

/// Whether a gateway that stands on something already should fetch it.
pub(super) fn is_worth_it(head: &KeysHead, want: &Want, has_filter: bool, foundation: u64, beside: u64) -> bool {
    let is_newer = want.seq() > foundation;
    match want {
        // The same keys come by the log.
        Want::All(_) if !has_filter => false,
        Want::All(_) => is_newer,
        Want::Filter(..) if !has_filter => want.seq() >= foundation,
        Want::Filter(..) => is_newer && beside > BESIDE_MOST.max(head.count / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::ContentHash;
    use crate::distribution::manifest::KeysBlob;

    fn blob(size: u64) -> BlobRef {
        BlobRef {
            sha256: ContentHash([0; 32]),
            size,
            raw_size: size,
        }
    }

    fn head(count: u64) -> KeysHead {
        let blob = |seq, size| KeysBlob { seq, blob: blob(size) };
        KeysHead {
            epoch: 1,
            count,
            base: Some(blob(10, 1)),
            filter: Some(blob(20, 2)),
            revoked: None,
        }
    }

    #[test]
    fn many_keys_are_filtered_few_are_kept_and_the_configuration_is_obeyed() {
        let (all, filter) = (Want::All(Some((10, blob(1)))), Want::Filter(20, blob(2)));
        for (count, mode, has_filter, expected) in [
            (2_000_000, KeysMode::Auto, false, all),
            (2_000_001, KeysMode::Auto, false, filter),
            (1_900_000, KeysMode::Auto, true, filter),
            (1_800_000, KeysMode::Auto, true, all),
            (9_000_000, KeysMode::Push, true, all),
            (1, KeysMode::Filter, false, filter),
        ] {
            assert_eq!(wanted(&head(count), mode, has_filter), expected, "{count} {mode:?}");
        }
        let nothing = KeysHead {
            base: None,
            filter: None,
            ..head(5)
        };
        assert_eq!(wanted(&nothing, KeysMode::Filter, false), Want::All(None));
        assert_eq!(Want::All(None).seq(), 0);
    }

    #[test]
    fn what_stands_well_is_left_standing() {
        let head = head(1_000_000);
        let (all, filter) = (Want::All(Some((10, blob(1)))), Want::Filter(20, blob(2)));
        let is_worth_it =
            |want, has_filter, foundation, beside| is_worth_it(&head, want, has_filter, foundation, beside);
        assert!(!is_worth_it(&all, false, 5, 0), "the log brought the same");
        assert!(is_worth_it(&all, true, 5, 0));
        assert!(
            !is_worth_it(&all, true, 10, 0),
            "a base from before the filter misses what was revoked between"
        );
        assert!(is_worth_it(&filter, false, 20, 0));
        assert!(!is_worth_it(&filter, false, 21, 0));
        assert!(!is_worth_it(&filter, true, 5, 100_000));
        assert!(is_worth_it(&filter, true, 5, 100_001));
        assert!(!is_worth_it(&filter, true, 20, 100_001));
    }
}
