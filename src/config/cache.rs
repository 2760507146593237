//! Where answers are kept: `cache`, resolved.

use std::time::Duration;

use super::Redis;

/// Where answers are kept that policies of APIs and routes let be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// What kept answers may take of this process's memory, in bytes; at least 1 MiB. Default 256 MiB.
    pub memory: u64,
    /// Where several gateways share what they keep.
    pub redis: Option<CacheRedis>,
}

/// How kept answers are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRedis {
    /// Where it is, and how it is talked to.
    pub redis: Redis,
    /// How long a request may wait for it; 1 to 100 ms. Default 5 ms.
    pub budget: Duration,
    /// The largest record that is written, in bytes; 1 KiB to 8 MiB. Default 256 KiB.
    pub object_bytes: u64,
    /// For how long one gateway fetches an answer while the others wait; 100 ms to 30 s. None: each fetches it.
    pub lease: Option<Duration>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            redis: None,
        }
    }
}
