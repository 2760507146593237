//! All keys of a log as a filter: nine bits a key say "never heard of it", or "maybe".
//!
//! A binary fuse filter over the first 64 bits of each key's hash. About one unknown key in 256 passes it; a known one
//! always does. Written as bytes: what it is, four numbers, and one fingerprint byte for each place.

use std::fmt;

use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter as _, FilterRef};

use super::KeyHash;

/// What the bytes begin with; the digit is the version of the format.
const MAGIC: &[u8; 8] = b"tgkeyf1\n";

/// Seed, segment length, its mask, and the length of all segments but the last two.
const DESCRIPTOR: usize = <BinaryFuse8 as DmaSerializable>::DESCRIPTOR_LEN;

/// Tells unknown keys from those that may be known.
#[derive(Clone)]
pub struct KeyFilter {
    descriptor: [u8; DESCRIPTOR],
    /// None: too odd a set for a filter, so that every key may be known.
    fingerprints: Box<[u8]>,
}

/// Bytes that are not a filter; says what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAFilter(&'static str);

/// The bytes of a filter over [`KeyHash::head`] of keys, in any order. Takes about 60 bytes of memory a key meanwhile.
#[must_use]
pub fn encode_filter(heads: &[u64]) -> Vec<u8> {
    let mut heads = heads.to_vec();
    heads.sort_unstable();
    // The construction does not end with keys that occur twice.
    heads.dedup();
    let mut bytes = MAGIC.to_vec();
    // It tries a thousand seeds, each with a good chance. Should that ever fail, nothing is known of any key, which is
    // slow and not wrong.
    if let Ok(filter) = BinaryFuse8::try_from(&heads) {
        let mut descriptor = [0; DESCRIPTOR];
        filter.dma_copy_descriptor_to(&mut descriptor);
        bytes.extend(descriptor);
        bytes.extend(filter.dma_fingerprints());
    } else {
        bytes.extend([0; DESCRIPTOR]);
    }
    bytes
}

/// The filter that these bytes are.
///
/// # Errors
/// When they are none: what is asked of the result never reaches beyond its end.
pub fn decode_filter(bytes: &[u8]) -> Result<KeyFilter, NotAFilter> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or(NotAFilter("it does not begin like a filter of this version"))?;
    let (descriptor, fingerprints) = rest
        .split_first_chunk::<DESCRIPTOR>()
        .ok_or(NotAFilter("it is cut off"))?;
    if !fits(descriptor, fingerprints.len()) {
        return Err(NotAFilter("its numbers do not fit its length"));
    }
    Ok(KeyFilter {
        descriptor: *descriptor,
        fingerprints: fingerprints.into(),
    })
}

impl KeyFilter {
    /// Whether a key may be known. `false` is certain.
    #[must_use]
    pub fn may_know(&self, hash: &KeyHash) -> bool {
        self.fingerprints.is_empty()
            || BinaryFuse8Ref::from_dma(&self.descriptor, &self.fingerprints).contains(&hash.head())
    }

    /// The bytes that [`decode_filter`] reads.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [MAGIC.as_slice(), &self.descriptor, &self.fingerprints].concat()
    }

    /// Memory in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.fingerprints.len()
    }
}

/// Whether every place that the numbers can lead to is there.
fn fits(descriptor: &[u8; DESCRIPTOR], places: usize) -> bool {
    let number = |at: usize| {
        let four = descriptor.get(at..at + 4).and_then(<[u8]>::first_chunk::<4>);
        four.map_or(0, |four| u64::from(u32::from_le_bytes(*four)))
    };
    let (segment, mask, all_but_two) = (number(8), number(12), number(16));
    if places == 0 {
        return descriptor.iter().all(|byte| *byte == 0);
    }
    segment.is_power_of_two()
        && mask == segment - 1
        && all_but_two > 0
        && all_but_two.is_multiple_of(segment)
        && all_but_two + 2 * segment == places as u64
        && u32::try_from(places).is_ok()
}

impl fmt::Debug for KeyFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFilter").field("bytes", &self.bytes()).finish()
    }
}

impl fmt::Display for NotAFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a filter of keys: {}", self.0)
    }
}

impl std::error::Error for NotAFilter {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::ContentHash;

    fn hash(number: u32) -> KeyHash {
        KeyHash::of_digest(&ContentHash::of(&number.to_le_bytes()).0)
    }

    #[test]
    fn every_key_passes_and_few_others_do_in_little_room() {
        for count in [0_u32, 1, 2, 3, 10, 1000, 50_000] {
            let mut heads: Vec<u64> = (0..count).map(|number| hash(number).head()).collect();
            heads.extend(heads.clone());
            let bytes = encode_filter(&heads);
            let filter = decode_filter(&bytes).unwrap();
            assert_eq!(filter.to_bytes(), bytes);
            assert!((0..count).all(|number| filter.may_know(&hash(number))), "{count}");
            let strangers = (1_000_000..1_020_000)
                .filter(|number| filter.may_know(&hash(*number)))
                .count();
            assert!(strangers < 200, "{strangers} of 20,000 pass a filter of {count}");
            if count == 50_000 {
                let bits = filter.bytes() as f64 * 8.0 / f64::from(count);
                assert!(bits < 10.5, "{bits} bits a key");
            }
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_and_never_reaches_beyond_its_end() {
        let bytes = encode_filter(&(0..100).map(|number| hash(number).head()).collect::<Vec<_>>());
        for length in 0..bytes.len() {
            assert!(decode_filter(&bytes[..length]).is_err(), "{length}");
        }
        assert!(decode_filter(&[bytes.clone(), vec![0]].concat()).is_err());
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x41;
            if let Ok(filter) = decode_filter(&flipped) {
                (0..1000).for_each(|number| {
                    let _ = filter.may_know(&hash(number));
                });
            }
        }
    }

    #[test]
    fn a_set_that_no_filter_could_be_made_of_rules_out_nobody() {
        let filter = decode_filter(&[MAGIC.as_slice(), &[0; DESCRIPTOR]].concat()).unwrap();
        assert!((0..100).all(|number| filter.may_know(&hash(number))));
    }
}
