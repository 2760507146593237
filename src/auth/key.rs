//! The text of a key: how it is made, how a typing mistake is seen without a lookup, how it is hashed.
//!
//! `tg_live_` or `tg_test_`, 32 random base62 characters (190 bits), 6 base62 characters of CRC-32 over all before.
//! The prefix lets secret scanners find a leaked key; the checksum tells a typing mistake from a revoked key without
//! asking anyone. It is no protection: anybody can compute it. What protects is that only the SHA-256 is stored.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::names::{ApplicationName, KeyId};
use crate::revision::{Key, KeyType};

/// The secret text of a key. It is shown once, by [`KeyText::reveal`], and never printed by accident.
pub struct KeyText(String);

impl KeyText {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system has none to give.
    pub fn generate(key_type: KeyType) -> Result<Self, getrandom::Error> {
        let mut text = String::with_capacity(LENGTH);
        text.push_str(prefix(key_type));
        push_random(&mut text, RANDOM)?;
        let sum = checksum(text.as_bytes());
        text.extend(sum.map(char::from));
        Ok(Self(text))
    }

    /// The text itself; the name is long so that every use is seen in a review.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored and looked up instead of the text.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        digest(&self.0)
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(redacted)")
    }
}

/// What a text looks like, before anything is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One of ours, with a valid checksum.
    Ours,
    /// Begins like one of ours, but length, alphabet or checksum are wrong.
    Mistyped,
    /// Made by someone else, which is allowed: only its hash matters.
    Foreign,
    /// No key at all: shorter than 8 or longer than 256 characters, or not visible ASCII.
    Malformed,
}

/// Looks at a text without looking it up.
#[must_use]
pub fn inspect(text: &str) -> Shape {
    let bytes = text.as_bytes();
    if !(MIN_LENGTH..=MAX_LENGTH).contains(&bytes.len()) || !bytes.iter().all(u8::is_ascii_graphic) {
        return Shape::Malformed;
    }
    let ours = [KeyType::Production, KeyType::Sandbox]
        .into_iter()
        .any(|key_type| text.starts_with(prefix(key_type)));
    if !ours {
        return Shape::Foreign;
    }
    match bytes.split_last_chunk::<CHECKSUM>() {
        Some((body, sum)) if bytes.len() == LENGTH && *sum == checksum(body) => Shape::Ours,
        _ => Shape::Mistyped,
    }
}

/// So many random base62 characters, about six bits each: for other secrets than keys.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn random_text(length: usize) -> Result<String, getrandom::Error> {
    let mut text = String::with_capacity(length);
    push_random(&mut text, length)?;
    Ok(text)
}

/// SHA-256 over the whole text.
#[must_use]
pub fn digest(text: &str) -> KeyDigest {
    KeyDigest(Sha256::digest(text.as_bytes()).into())
}

/// The SHA-256 of a key: compared in constant time, hashed by its first eight bytes (it is uniform already).
#[derive(Clone, Copy, Eq)]
pub struct KeyDigest(pub [u8; 32]);

impl KeyDigest {
    /// The first eight bytes as a number: where it belongs in a table.
    #[must_use]
    pub fn head(&self) -> u64 {
        // A digest has four times as many bytes.
        self.0.first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.head());
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(redacted)")
    }
}

/// A fresh key: the text to hand out once, and the record to store.
#[derive(Debug)]
pub struct NewKey {
    /// To be shown once and forgotten.
    pub text: KeyText,
    /// To be stored; [`record_line`] prints it as the revision file wants it.
    pub record: Key,
}

/// Makes a key for an application. Without an `id` it gets one from the application's name and six random characters.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn new_key(
    application: &ApplicationName,
    key_type: KeyType,
    id: Option<KeyId>,
    expires: Option<jiff::Timestamp>,
) -> Result<NewKey, getrandom::Error> {
    let text = KeyText::generate(key_type)?;
    let id = if let Some(id) = id {
        id
    } else {
        let mut id = format!("{application}-");
        push_random(&mut id, 6)?;
        KeyId::from(id.to_ascii_lowercase())
    };
    let record = Key {
        id,
        sha256: text.digest().0,
        key_type,
        expires,
    };
    Ok(NewKey { text, record })
}

/// The record as one line of YAML: `{ id: mobile-1, sha256: "9f86…", type: production }`.
#[must_use]
pub fn record_line(record: &Key) -> impl fmt::Display + '_ {
    RecordLine(record)
}

struct RecordLine<'a>(&'a Key);

impl fmt::Display for RecordLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key {
            id,
            sha256,
            key_type,
            expires,
        } = self.0;
        // Always a quoted scalar where YAML could read a number, a boolean or a comment out of the plain one.
        let plain = id.as_str().contains('-')
            && id.as_str().starts_with(|c: char| c.is_ascii_alphabetic())
            && id
                .as_str()
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if plain {
            write!(f, "{{ id: {id}, ")?;
        } else {
            write!(f, "{{ id: {}, ", serde_json::Value::from(id.as_str()))?;
        }
        f.write_str("sha256: \"")?;
        for byte in sha256 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "\", type: {}", key_type.as_str())?;
        if let Some(expires) = expires {
            write!(f, ", expires: {expires}")?;
        }
        f.write_str(" }")
    }
}

fn prefix(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Production => "tg_live_",
        KeyType::Sandbox => "tg_test_",
    }
}

/// Every character equally likely: bytes from 248 on are thrown away, because 248 = 4 × 62.
fn push_random(text: &mut String, count: usize) -> Result<(), getrandom::Error> {
    let mut left = count;
    let mut pool = [0_u8; 64];
    while left > 0 {
        getrandom::fill(&mut pool)?;
        for digit in pool.iter().filter(|byte| **byte < 248).map(|byte| byte % 62).take(left) {
            text.push(char::from(base62(digit)));
            left -= 1;
        }
    }
    Ok(())
}

/// CRC-32 in six base62 digits, the most significant first (62⁶ > 2³², so nothing is lost).
fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let mut rest = crc32fast::hash(body);
    let mut digits = [b'0'; CHECKSUM];
    for digit in digits.iter_mut().rev() {
        // `rest % 62` fits a byte.
        *digit = base62((rest % 62) as u8);
        rest /= 62;
    }
    digits
}

fn base62(digit: u8) -> u8 {
    match digit {
        0..=9 => b'0' + digit,
        10..=35 => b'A' + (digit - 10),
        _ => b'a' + (digit - 36) % 26,
    }
}

const PREFIX: usize = 8;
const RANDOM: usize = 32;
const CHECKSUM: usize = 6;
const LENGTH: usize = PREFIX + RANDOM + CHECKSUM;
const MIN_LENGTH: usize = 8;
const MAX_LENGTH: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fresh_key_is_ours_and_its_type_can_be_read() {
        for (key_type, begins) in [(KeyType::Production, "tg_live_"), (KeyType::Sandbox, "tg_test_")] {
            let key = KeyText::generate(key_type).unwrap();
            assert!(key.reveal().starts_with(begins));
            assert_eq!(key.reveal().len(), 46);
            assert_eq!(inspect(key.reveal()), Shape::Ours);
        }
    }

    #[test]
    fn the_format_is_frozen_because_keys_outlive_versions() {
        assert_eq!(&checksum(b"tg_live_0123456789ABCDEFGHIJKLMNOPQRSTUV"), b"2ALRRa");
        assert_eq!(inspect("tg_live_0123456789ABCDEFGHIJKLMNOPQRSTUV2ALRRa"), Shape::Ours);
    }

    #[test]
    fn two_keys_never_agree_and_every_digit_occurs() {
        let mut seen = std::collections::BTreeSet::new();
        let mut digits = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let key = KeyText::generate(KeyType::Production).unwrap();
            digits.extend(key.reveal()[8..40].bytes());
            assert!(seen.insert(key.reveal().to_owned()));
        }
        assert_eq!(digits.len(), 62);
    }

    #[test]
    fn keys_of_others_are_let_through_to_the_lookup_and_what_is_no_key_is_not() {
        assert_eq!(inspect("4f3c2b1a-0000-4000-8000-1234567890ab"), Shape::Foreign);
        assert_eq!(inspect("12345678"), Shape::Foreign);
        for text in [
            "",
            "1234567",
            "with a space in it",
            "tab\tseparated",
            "umlaut-schlüssel",
            &"x".repeat(257),
        ] {
            assert_eq!(inspect(text), Shape::Malformed, "{text}");
        }
        assert_eq!(inspect(&"x".repeat(256)), Shape::Foreign);
    }

    #[test]
    fn nothing_that_is_logged_shows_a_secret() {
        let key = new_key(&ApplicationName::from("mobile"), KeyType::Production, None, None).unwrap();
        let logged = format!("{:?} {:?}", key.text, key.text.digest());
        assert_eq!(logged, "KeyText(redacted) KeyDigest(redacted)");
        assert!(!record_line(&key.record).to_string().contains(key.text.reveal()));
    }

    #[test]
    fn a_record_prints_as_the_line_of_the_revision_file() {
        let mut record = Key {
            id: KeyId::from("mobile-1"),
            sha256: [0x9f; 32],
            key_type: KeyType::Production,
            expires: Some("2027-01-01T00:00:00Z".parse().unwrap()),
        };
        let digest = "9f".repeat(32);
        assert_eq!(
            record_line(&record).to_string(),
            format!("{{ id: mobile-1, sha256: \"{digest}\", type: production, expires: 2027-01-01T00:00:00Z }}")
        );
        record.id = KeyId::from("1e5");
        record.expires = None;
        assert_eq!(
            record_line(&record).to_string(),
            format!("{{ id: \"1e5\", sha256: \"{digest}\", type: production }}")
        );
    }

    #[test]
    fn a_key_gets_an_id_from_its_application_unless_it_is_given_one() {
        let mobile = ApplicationName::from("mobile");
        let key = new_key(&mobile, KeyType::Sandbox, None, None).unwrap();
        assert!(key.record.id.as_str().starts_with("mobile-"), "{:?}", key.record.id);
        assert_eq!(key.record.sha256, digest(key.text.reveal()).0);
        let named = new_key(&mobile, KeyType::Sandbox, Some(KeyId::from("first")), None).unwrap();
        assert_eq!(named.record.id.as_str(), "first");
    }

    proptest! {
        #[test]
        fn one_changed_character_is_a_typing_mistake(at in 0_usize..LENGTH, with in "[!-~]") {
            let key = KeyText::generate(KeyType::Production).unwrap();
            let mut text = key.reveal().to_owned();
            prop_assume!(text[at..=at] != with);
            text.replace_range(at..=at, &with);
            // Without our prefix it could be anybody's key; it is then unknown, which is refused as well.
            let expected = if at < PREFIX { Shape::Foreign } else { Shape::Mistyped };
            prop_assert_eq!(inspect(&text), expected);
        }

        #[test]
        fn two_swapped_neighbours_are_a_typing_mistake(at in 0_usize..LENGTH - 1) {
            let key = KeyText::generate(KeyType::Sandbox).unwrap();
            let mut text = key.reveal().as_bytes().to_vec();
            prop_assume!(text[at] != text[at + 1]);
            text.swap(at, at + 1);
            let expected = if at < PREFIX { Shape::Foreign } else { Shape::Mistyped };
            prop_assert_eq!(inspect(std::str::from_utf8(&text).unwrap()), expected);
        }

        #[test]
        fn a_lost_or_doubled_character_is_a_typing_mistake(at in PREFIX..LENGTH) {
            let key = KeyText::generate(KeyType::Production).unwrap();
            let mut shorter = key.reveal().to_owned();
            let lost = shorter.remove(at);
            prop_assert_eq!(inspect(&shorter), Shape::Mistyped);
            let mut longer = key.reveal().to_owned();
            longer.insert(at, lost);
            prop_assert_eq!(inspect(&longer), Shape::Mistyped);
        }

        #[test]
        fn any_text_can_be_inspected(text in ".{0,300}") {
            let _ = inspect(&text);
        }
    }
}
