//! What an answer is found by. Two requests have the same key exactly if one may be given the answer of the other.

use std::fmt;

use bytes::Bytes;
use pingora::cache::CacheKey;
use sha2::{Digest, Sha256};

use super::policy::Place;

/// First byte of every key. Changes with the framing, so that what another version has left in Redis is not misread.
const VERSION: u8 = 1;

/// All that an answer may depend on, beside the header fields that it varies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyParts<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host as the client named it, with the port if there was one. Case does not matter.
    pub host: &'a str,
    /// The path, normalised.
    pub path: &'a str,
    /// What follows the question mark. None is not the same as nothing.
    pub query: Option<&'a str>,
    /// The route.
    pub place: &'a Place,
    /// Name of the upstream: the arm of a split.
    pub upstream: &'a str,
    /// Production or trial, if the request had a key.
    pub key_type: Option<&'a str>,
    /// Who may be given the answer.
    pub caller: CallerPart<'a>,
}

/// Who may be given an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerPart<'a> {
    /// Everybody.
    Everyone,
    /// Callers of one application.
    Application(&'a str),
    /// Callers with one key, by its id.
    Key(&'a str),
    /// Callers with one client certificate.
    Certificate(&'a str),
    /// Callers with tokens of one subject.
    Token {
        /// Who issued them.
        issuer: &'a str,
        /// Whom they are about.
        subject: &'a str,
    },
    /// Callers who did not say who they are.
    Anonymous,
}

/// The key of a request, to which the [variant](super::vary::variant) may be appended: it ends where its last part ends,
/// so that nothing that follows can be taken for a part of it.
///
/// Every part is preceded by its length, or by a byte that says which of several it is; nothing is escaped, and nothing
/// can be read in two ways.
#[must_use]
pub fn base(parts: &KeyParts) -> Vec<u8> {
    let place = parts.place;
    let texts = parts.scheme.len() + parts.host.len() + parts.path.len() + parts.query.map_or(0, str::len);
    let mut key = Vec::with_capacity(texts + place.api.len() + place.route.len() + parts.upstream.len() + 96);
    key.push(VERSION);
    // Host and path come first: an invalidation by prefix reads them out of the key (`target`).
    put_lowercase(&mut key, parts.host);
    put(&mut key, parts.path);
    put_lowercase(&mut key, parts.scheme);
    put_option(&mut key, parts.query);
    put(&mut key, &place.api);
    put(&mut key, &place.route);
    put(&mut key, parts.upstream);
    put_option(&mut key, parts.key_type);
    match parts.caller {
        CallerPart::Everyone => key.push(0),
        CallerPart::Application(name) => put_tagged(&mut key, 1, name),
        CallerPart::Key(id) => put_tagged(&mut key, 2, id),
        CallerPart::Certificate(name) => put_tagged(&mut key, 3, name),
        CallerPart::Token { issuer, subject } => {
            put_tagged(&mut key, 4, issuer);
            put(&mut key, subject);
        }
        CallerPart::Anonymous => key.push(5),
    }
    key
}

/// What a key is about, read out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'a> {
    /// The host, in lower case.
    pub host: &'a str,
    /// The normalised path.
    pub path: &'a str,
    /// What follows the question mark.
    pub query: Option<&'a str>,
}

/// Host, path and query of a key; none if these bytes are not a key of this version.
#[must_use]
pub fn target(key: &[u8]) -> Option<Target<'_>> {
    let (version, rest) = key.split_first()?;
    if *version != VERSION {
        return None;
    }
    let (host, rest) = take(rest)?;
    let (path, rest) = take(rest)?;
    let (_scheme, rest) = take(rest)?;
    let query = match rest.split_first()? {
        (0, _) => None,
        (_, rest) => Some(take(rest)?.0),
    };
    Some(Target {
        host: std::str::from_utf8(host).ok()?,
        path: std::str::from_utf8(path).ok()?,
        query: query.map(std::str::from_utf8).transpose().ok()?,
    })
}

/// 128 bits of SHA-256 over a key: what tables and Redis find it by. The same in every process. Whoever finds something by
/// it compares the whole key, so that a collision is a miss and not somebody else's answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

/// The fingerprint of a key.
#[must_use]
pub fn fingerprint(key: &[u8]) -> Fingerprint {
    let digest = Sha256::digest(key);
    let mut bits = [0; 16];
    bits.iter_mut().zip(digest).for_each(|(bit, from)| *bit = from);
    Fingerprint(bits)
}

/// What stands for an environment in names in Redis: 16 hex digits. Gateways of different environments share nothing, also
/// when they share a Redis.
#[must_use]
pub(super) fn realm(environment: &str) -> String {
    let mut digits = format!("{:?}", fingerprint(environment.as_bytes()));
    digits.truncate(16);
    digits
}

impl Fingerprint {
    /// Its two halves as numbers.
    pub(super) fn halves(self) -> [u64; 2] {
        let all = u128::from_le_bytes(self.0);
        #[expect(clippy::cast_possible_truncation, reason = "each is one half")]
        [all as u64, (all >> 64) as u64]
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A whole key with its fingerprint, which is made once: a request asks for its key several times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    bytes: Bytes,
    fingerprint: Fingerprint,
}

impl Key {
    /// The key of these bytes.
    #[must_use]
    pub fn of(bytes: Bytes) -> Self {
        let fingerprint = fingerprint(&bytes);
        Self { bytes, fingerprint }
    }

    /// The key itself.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// As the engine takes it: with our fingerprint, so that it makes none of its own, and without its variance, since our
    /// key contains the variant.
    #[must_use]
    pub fn for_engine(&self) -> CacheKey {
        let mut key = CacheKey::new(self.bytes.to_vec(), String::new());
        key.set_primary_bin_override(self.fingerprint.0);
        key
    }
}

fn put_option(key: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => key.push(0),
        Some(text) => put_tagged(key, 1, text),
    }
}

fn put_tagged(key: &mut Vec<u8>, tag: u8, text: &str) {
    key.push(tag);
    put(key, text);
}

fn put_lowercase(key: &mut Vec<u8>, text: &str) {
    let begin = key.len();
    put(key, text);
    // Lengths have bytes that look like capitals, so only the text itself is folded.
    let text_begins = key.len() - text.len();
    debug_assert!(begin < text_begins);
    if let Some(text) = key.get_mut(text_begins..) {
        text.make_ascii_lowercase();
    }
}

fn put(key: &mut Vec<u8>, text: &str) {
    put_length(key, text.len());
    key.extend_from_slice(text.as_bytes());
}

/// Seven bits in each byte, the lowest first; the eighth says that more follow.
fn put_length(key: &mut Vec<u8>, mut length: usize) {
    loop {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits are left of it")]
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            key.push(low);
            return;
        }
        key.push(low | 0x80);
    }
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (position, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return bytes.get(position + 1..)?.split_at_checked(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use pingora::cache::key::CacheHashKey;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Owned {
        scheme: String,
        host: String,
        path: String,
        query: Option<String>,
        place: Place,
        upstream: String,
        key_type: Option<String>,
        caller: (u8, String, String),
    }

    impl Owned {
        fn base(&self) -> Vec<u8> {
            base(&KeyParts {
                scheme: &self.scheme,
                host: &self.host,
                path: &self.path,
                query: self.query.as_deref(),
                place: &self.place,
                upstream: &self.upstream,
                key_type: self.key_type.as_deref(),
                caller: match self.caller.0 {
                    0 => CallerPart::Everyone,
                    1 => CallerPart::Application(&self.caller.1),
                    2 => CallerPart::Key(&self.caller.1),
                    3 => CallerPart::Certificate(&self.caller.1),
                    4 => CallerPart::Token {
                        issuer: &self.caller.1,
                        subject: &self.caller.2,
                    },
                    _ => CallerPart::Anonymous,
                },
            })
        }

        /// The same for those that mean the same.
        fn meaning(&self) -> Self {
            let mut meaning = self.clone();
            meaning.scheme.make_ascii_lowercase();
            meaning.host.make_ascii_lowercase();
            if meaning.caller.0 != 4 {
                meaning.caller.2.clear();
            }
            if matches!(meaning.caller.0, 0 | 5) {
                meaning.caller.1.clear();
            }
            meaning
        }
    }

    /// Few and short words, with bytes that look like lengths and tags, so that two often nearly agree.
    fn word() -> impl Strategy<Value = String> {
        "[aA/\u{0}\u{1}\u{2}]{0,3}"
    }

    fn parts() -> impl Strategy<Value = Owned> {
        (
            (word(), word(), word(), proptest::option::of(word())),
            (word(), word()),
            (word(), proptest::option::of(word())),
            (0_u8..6, word(), word()),
        )
            .prop_map(
                |((scheme, host, path, query), (api, route), (upstream, key_type), caller)| Owned {
                    scheme,
                    host,
                    path,
                    query,
                    place: Place {
                        api: api.into(),
                        route: route.into(),
                    },
                    upstream,
                    key_type,
                    caller,
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn two_keys_are_equal_exactly_if_their_parts_mean_the_same(one in parts(), other in parts()) {
            prop_assert_eq!(one.base() == other.base(), one.meaning() == other.meaning());
        }

        #[test]
        fn parts_that_move_from_one_to_the_next_make_another_key(
            one in parts(), from in 0_usize..4, split in 0_usize..3,
        ) {
            let mut other = one.clone();
            let texts: [&mut String; 4] =
                [&mut other.host, &mut other.path, &mut other.upstream, &mut other.caller.1];
            let [.., last] = texts;
            let moved: String = last.chars().take(split).collect();
            match from {
                0 => other.host.push_str(&moved),
                1 => other.path.push_str(&moved),
                2 => other.upstream.push_str(&moved),
                _ => other.query = Some(moved),
            }
            prop_assert_eq!(one.base() == other.base(), one.meaning() == other.meaning());
        }

        #[test]
        fn no_key_is_the_beginning_of_another(one in parts(), other in parts()) {
            let (one_key, other_key) = (one.base(), other.base());
            prop_assert!(one_key == other_key || !one_key.starts_with(&other_key));
        }

        #[test]
        fn a_target_is_what_was_put_in(one in parts(), long in "[a-z/]{0,300}") {
            let mut one = one;
            one.path.push_str(&long);
            let key = one.base();
            let target = target(&key).expect("a key");
            prop_assert_eq!(target.host, one.host.to_ascii_lowercase());
            prop_assert_eq!(target.path, one.path.as_str());
            prop_assert_eq!(target.query, one.query.as_deref());
        }

        #[test]
        fn bytes_that_are_no_key_have_no_target_and_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let found = target(&bytes);
            prop_assert!(found.is_none() || bytes.first() == Some(&VERSION));
        }
    }

    #[test]
    fn a_fingerprint_is_the_same_in_every_process() {
        // The test vector of FIPS 180-2, cut in half.
        assert_eq!(format!("{:?}", fingerprint(b"abc")), "ba7816bf8f01cfea414140de5dae2223");
    }

    #[test]
    fn the_engine_finds_by_our_fingerprint_and_shows_the_whole_key() {
        let key = Bytes::from_static(b"\x01a key");
        let engine = Key::of(key.clone()).for_engine();
        assert_eq!(engine.primary_key(), &key);
        assert_eq!(engine.combined_bin(), fingerprint(&key).0);
        assert_eq!(engine.variance_bin(), None);
    }
}
