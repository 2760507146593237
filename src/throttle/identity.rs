//! Which counter: 128 bits from the identity of a limit and of its subject; and the names of both for the store.
//!
//! Both halves are hashes keyed with a secret that this process draws at its start, or takes over from the one it
//! succeeds together with its counters, so that a client cannot choose an address, key or subject whose counter is another client's. SipHash-1-3 is a keyed pseudo-random function;
//! faster hashes (foldhash, `FxHash`) do not claim to be one. Two 64-bit hashes of the same text under different
//! prefixes make the 128 bits: at a million counters the chance that any two collide is below 10⁻²⁶.
//!
//! The secret is this process's own, because its table is. Gateways that share counters name subjects and limits to the
//! store by SHA-256, which needs no secret: nobody can find a second text for a name.

use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;

/// What identities are hashed with; drawn when the first is made.
static SECRET: OnceLock<[u8; 16]> = OnceLock::new();

/// Which counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    high: u64,
    low: u64,
}

impl Identity {
    /// The identity of a text in parts. Where one part ends matters: `("ab", "c")` is not `("a", "bc")`.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let secret = secret();
        let half = |prefix: u64| {
            let mut hasher = SipHasher13::new_with_key(secret);
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

    /// As bytes, for the process that comes next.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        (self.high as u128 | (self.low as u128) << 64).to_le_bytes()
    }

    /// From [`to_bytes`](Self::to_bytes) of a process with the same secret.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self {
            high: both as u64,
            low: (both >> 64) as u64,
        }
    }

    /// The counter that this limit keeps for this subject.
    #[inline]
    #[must_use]
    pub const fn of_subject(self, subject: Subject) -> Self {
        Self {
            high: self.high ^ subject.here.high,
            low: self.low ^ subject.here.low,
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

/// Who or what shares a counter of a limit: the application, the address, the route and so on.
///
/// It is named twice: by a hash that only this process knows, for its own table, and by 16 bytes that every gateway
/// computes alike, for the store. Compute it once where the thing is known (a route, a key, a subscription: when the
/// snapshot is built) and once per request where it is not (an address).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    here: Identity,
    name: [u8; 16],
}

impl Subject {
    /// Everybody: for limits that have one counter.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            here: Identity { high: 0, low: 0 },
            name: [0; 16],
        }
    }

    /// Two names together, such as API and application (a subscription) or API and route.
    #[must_use]
    pub fn of_pair(first: &str, second: &str) -> Self {
        Self::of_parts(&[first.as_bytes(), second.as_bytes()])
    }

    /// A client address. IPv6 counts by /64, because that is what one customer is given at least; an IPv4 address
    /// written as IPv6 is the same client as the IPv4 address. In the store it is named by itself: a hash would hide
    /// nothing, as there are so few addresses, and would cost every request.
    #[must_use]
    pub fn of_ip(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self {
                here: Identity::of_parts(&[&v4.octets()]),
                name: v4.to_ipv6_mapped().octets(),
            },
            IpAddr::V6(v6) => {
                let mut name = v6.octets();
                name[8..].fill(0);
                Self {
                    here: Identity::of_parts(&[&name[..8]]),
                    name,
                }
            }
        }
    }

    /// Something that has a number which is the same everywhere (see `Caller::key_hash`); the tag tells kinds apart.
    #[must_use]
    pub fn of_number(tag: u8, number: u64) -> Self {
        let mut name = [tag; 16];
        name[8..].copy_from_slice(&number.to_be_bytes());
        Self {
            here: Identity::of_parts(&[&name]),
            name,
        }
    }

    /// Anything else that has a name.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::of_parts(&[bytes])
    }

    /// What every gateway calls it.
    #[must_use]
    pub const fn name(self) -> [u8; 16] {
        self.name
    }

    fn of_parts(parts: &[&[u8]]) -> Self {
        Self {
            here: Identity::of_parts(parts),
            name: name_of(parts),
        }
    }
}

/// What identities are hashed with.
#[must_use]
pub fn secret() -> &'static [u8; 16] {
    SECRET.get_or_init(rand::random)
}

/// Hashes identities as another process does, from the first one on. False if one was made already and the secret is
/// another: then that process's counters can not be told apart here.
#[must_use]
pub fn adopt(secret: [u8; 16]) -> bool {
    *SECRET.get_or_init(|| secret) == secret
}

/// A name that every gateway computes alike, and that nobody can choose to be another's: SHA-256 of the parts and their
/// lengths, cut off.
#[must_use]
pub fn name_of<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    const { assert!(N <= 32) };
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let whole: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|position| whole.get(position).copied().unwrap_or_default())
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
    fn a_secret_is_taken_over_before_the_first_identity_or_not_at_all() {
        let identity = Identity::of_parts(&[b"minute"]);
        assert!(adopt(*secret()), "one's own");
        assert!(!adopt(secret().map(|byte| !byte)), "there are identities");
        assert_eq!(Identity::of_parts(&[b"minute"]), identity);
        assert_eq!(Identity::from_bytes(identity.to_bytes()), identity);
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
