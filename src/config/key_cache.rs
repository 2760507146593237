//! How what a key service says is remembered: `key_cache`, resolved.

use std::time::Duration;

/// How what a key service says about tokens is remembered, and how often it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyCache {
    /// Who remembers.
    pub location: KeyCacheLocation,
    /// Answers that this gateway remembers, for each key service; 1000 to 10,000,000. Default 100,000.
    pub entries: u32,
    /// How long a good token is not asked about again; never beyond its end. Default 60 s.
    pub positive: Duration,
    /// How long a bad one is not. Default 5 s.
    pub negative: Duration,
    /// How long after that a good one goes on while the key service is away. Default 10 minutes.
    pub stale: Duration,
    /// Questions per second to each key service; at least 1. Default 500.
    pub rate: u32,
}

/// Who remembers what a key service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCacheLocation {
    /// The gateway: hardly anybody is asked, and a token that is revoked is refused when its answer is old.
    Gateway,
    /// The key service: it is asked for every request, and knows at once what is revoked.
    KeyManager,
    /// Both.
    Both,
    /// Nobody.
    None,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self {
            location: KeyCacheLocation::Gateway,
            entries: 100_000,
            positive: Duration::from_secs(60),
            negative: Duration::from_secs(5),
            stale: Duration::from_secs(600),
            rate: 500,
        }
    }
}

impl KeyCache {
    /// What it means for a gateway: how many requests with such tokens it can answer.
    #[must_use]
    pub fn ceiling(&self) -> String {
        let Self { positive, rate, .. } = self;
        match self.location {
            KeyCacheLocation::Gateway | KeyCacheLocation::Both => format!(
                "each token is asked about once in {positive:?}, so this gateway serves up to {} tokens at a time ({rate} \
                 questions/s), however often each is used; a token that is revoked lets in for up to {positive:?}",
                u128::from(*rate) * positive.as_millis().max(1) / 1000,
            ),
            KeyCacheLocation::KeyManager | KeyCacheLocation::None => format!(
                "each request with such a token asks its key service, so this gateway serves at most {rate} of them per \
                 second, and none while it is away; a token that is revoked is refused at once{}",
                if self.location == KeyCacheLocation::None {
                    ""
                } else {
                    ", if the key service forgets it at once"
                },
            ),
        }
    }
}
