//! Which counter: 128 bits from the identity of a limit and of its subject.
//!
//! Both halves are hashes keyed with a secret that this process draws at its start, so that a client cannot choose
//! an address, key or subject whose counter is another client's. SipHash-1-3 is a keyed pseudo-random function;
//! faster hashes (foldhash, `FxHash`) do not claim to be one. Two 64-bit hashes of the same text under different
//! prefixes make the 128 bits: at a million counters the chance that any two collide is below 10⁻²⁶.
//!
//! The secret is this process's own as long as counters are. Gateways that share counters have to agree on
//! identities; then the secret comes from what they share, and this file is the only one that knows.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::LazyLock;

/// Which counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    high: u64,
    low: u64,
}

impl Identity {
    /// The identity of a text in parts. Where one part ends matters: `("ab", "c")` is not `("a", "bc")`.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let half = |prefix: u64| {
            let mut hasher = SECRET.build_hasher();
            hasher.write_u64(prefix);
            for part in parts {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
            hasher.finish()
        };
        Self {
            high: half(1),
            low: half(2),
        }
    }

    /// The counter that this limit keeps for this subject.
    #[inline]
    #[must_use]
    pub const fn of_subject(self, subject: Subject) -> Self {
        Self {
            high: self.high ^ subject.0.high,
            low: self.low ^ subject.0.low,
        }
    }

    /// Half of the bits; the other half is [`low`](Self::low).
    #[must_use]
    pub const fn high(self) -> u64 {
        self.high
    }

    /// The other half.
    #[must_use]
    pub const fn low(self) -> u64 {
        self.low
    }
}

/// Who or what shares a counter of a limit: the application, the address, the route and so on, as a hash.
///
/// Compute it once where the thing is known (a route, a key, a subscription: when the snapshot is built) and once
/// per request where it is not (an address).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject(Identity);

impl Subject {
    /// Everybody: for limits that have one counter.
    #[must_use]
    pub const fn none() -> Self {
        Self(Identity { high: 0, low: 0 })
    }

    /// Two names together, such as API and application (a subscription) or API and route.
    #[must_use]
    pub fn of_pair(first: &str, second: &str) -> Self {
        Self(Identity::of_parts(&[first.as_bytes(), second.as_bytes()]))
    }

    /// A client address. IPv6 counts by /64, because that is what one customer is given at least; an IPv4 address
    /// written as IPv6 is the same client as the IPv4 address.
    #[must_use]
    pub fn of_ip(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::of_bytes(&v4.octets()),
            IpAddr::V6(v6) => Self::of_bytes(&v6.octets()[..8]),
        }
    }

    /// Anything else that has a name: an application, a key id, a token's subject.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Identity::of_parts(&[bytes]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Subject {
        Subject::of_ip(text.parse().unwrap())
    }

    #[test]
    fn one_customer_is_one_subject_and_two_are_two() {
        assert_eq!(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff::9"));
        assert_ne!(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1"));
        assert_eq!(ip("192.0.2.7"), ip("::ffff:192.0.2.7"));
        assert_ne!(ip("192.0.2.7"), ip("192.0.2.8"));
    }

    #[test]
    fn where_a_name_ends_matters() {
        assert_ne!(
            Subject::of_pair("orders", "mobile"),
            Subject::of_pair("order", "smobile")
        );
        assert_ne!(Subject::of_pair("a", ""), Subject::of_pair("", "a"));
        assert_ne!(Subject::of_bytes(b""), Subject::none());
    }

    #[test]
    fn the_subject_and_the_limit_both_decide_on_the_counter() {
        let (minute, hour) = (Identity::of_parts(&[b"minute"]), Identity::of_parts(&[b"hour"]));
        let (one, other) = (Subject::of_bytes(b"1"), Subject::of_bytes(b"2"));
        assert_ne!(minute.of_subject(one), minute.of_subject(other));
        assert_ne!(minute.of_subject(one), hour.of_subject(one));
        assert_eq!(minute.of_subject(Subject::none()), minute);
        assert_ne!(minute.high(), minute.low());
    }
}
