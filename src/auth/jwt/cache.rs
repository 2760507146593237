//! Verdicts on tokens, remembered: checking a signature costs a hundred times what hashing the token costs.
//!
//! A verdict is filed under the token, the issuer's rules and the fingerprint of its keys. When any of them changes,
//! old verdicts cannot be found any more and fall out in time; there is nothing to invalidate and nothing to forget.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::VerifiedToken;

/// Verdicts on tokens, for all revisions of the process. Bounded in number and bytes.
pub struct TokenCache {
    pub(super) verified: Cache<CacheKey, Arc<VerifiedToken>, Weigh>,
    /// Signatures known to be wrong, so that a repeated forgery costs no arithmetic. It is small: whoever varies the
    /// forgery gets past it, and pushes out no good token.
    forged: Cache<CacheKey, ()>,
}

/// Token, rules and keys of a verdict.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    pub(super) token: [u8; 32],
    pub(super) verifier: [u8; 16],
    pub(super) fingerprint: [u8; 16],
}

impl CacheKey {
    pub(super) fn new(token: [u8; 32], verifier: [u8; 16], fingerprint: [u8; 16]) -> Self {
        Self {
            token,
            verifier,
            fingerprint,
        }
    }
}

impl TokenCache {
    /// A cache of about `entries` tokens, and of no more than 2 KiB for each of them on the average.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        Self {
            verified: Cache::with_weighter(entries, (entries as u64).saturating_mul(BYTES_EACH), Weigh),
            forged: Cache::new(MAX_FORGED),
        }
    }

    /// How many verified tokens are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verified.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verified.is_empty()
    }

    /// Forgets verified tokens of this subject or application. Walks all of them.
    pub fn forget(&self, user: &str) {
        self.verified.retain(|_, token| !token.is_of(user));
    }

    pub(super) fn verified(&self, key: &CacheKey) -> Option<Arc<VerifiedToken>> {
        self.verified.get(key)
    }

    pub(super) fn remember(&self, key: CacheKey, token: Arc<VerifiedToken>) {
        self.verified.insert(key, token);
    }

    pub(super) fn is_forged(&self, key: &CacheKey) -> bool {
        self.forged.get(key).is_some()
    }

    pub(super) fn remember_forged(&self, key: CacheKey) {
        self.forged.insert(key, ());
    }
}

impl Default for TokenCache {
    fn default() -> Self {
        Self::new(DEFAULT_ENTRIES)
    }
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
pub(super) struct Weigh;

impl Weighter<CacheKey, Arc<VerifiedToken>> for Weigh {
    fn weight(&self, _: &CacheKey, token: &Arc<VerifiedToken>) -> u64 {
        // Never less than the share of one entry, so that the number is bounded as well as the bytes.
        ((size_of::<CacheKey>() + token.weight()) as u64).max(BYTES_EACH)
    }
}

const DEFAULT_ENTRIES: usize = 10_000;
const MAX_FORGED: usize = 1_000;
/// The share of one entry.
const BYTES_EACH: u64 = 2_048;
