//! The hash that requests and endpoints meet by. Every gateway has to find the same endpoint for the same key, so it is
//! fixed: FNV-1a of 64 bits, stirred so that short keys that differ in their last byte do not stay close together.

/// The hash of some bytes, the same in every process.
#[must_use]
pub fn of(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    stir(folded)
}

/// Spreads a number over all bits (the finalizer of SplitMix64).
#[must_use]
pub fn stir(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
