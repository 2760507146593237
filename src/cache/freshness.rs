//! How long an answer may be given again.

use std::time::SystemTime;

/// How long an answer may be given again, as moments. An answer that has to be validated before every use has a lifetime
/// that ended before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// When the origin made it, as far as we know: now less this is its current age (RFC 9111 section 4.2.3).
    pub born: SystemTime,
    /// The last moment at which it is fresh.
    pub fresh_until: SystemTime,
    /// For how many seconds after that it may be given while it is fetched anew (RFC 5861 section 3).
    pub stale_while_revalidate: u32,
    /// For how many seconds after that it may be given when the origin fails (RFC 5861 section 4).
    pub stale_if_error: u32,
    /// Whether it may never be given when stale (RFC 9111 section 5.2.2.2).
    pub must_revalidate: bool,
    /// Whether the origin has said so, or else we have assumed it.
    pub explicit: bool,
}
