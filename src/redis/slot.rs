//! Hash slots of a Redis Cluster.

/// How many slots a cluster has.
pub const SLOTS: usize = 16_384;

/// Where a Redis Cluster keeps a key: CRC16 of the key's hash tag, modulo 16,384.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// The slot of every key with this hash tag: of `tag` itself and of `...{tag}...`.
    #[must_use]
    pub fn of_tag(tag: &[u8]) -> Self {
        // The upper two bits are masked away, which is the modulo.
        Self(crc16(tag) & 0x3fff)
    }

    /// Its number, below 16,384.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

/// CRC-16/XMODEM. Bit by bit: a tag is a few bytes, and a slot is computed once per counter and batch.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(Slot::of_tag(b"123456789").number(), 0x31c3 & 0x3fff);
        assert_eq!(Slot::of_tag(b"").number(), 0);
    }
}
