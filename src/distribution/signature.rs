//! Ed25519 (RFC 8032) over what a control plane says. Signed are the bytes as they are sent: nothing has to be brought
//! into a canonical form before it can be checked, so nothing is parsed that is not trusted yet.

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::document::Secret;

/// What a signature is about, so that one thing can not be passed off as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// A [`Manifest`](super::Manifest).
    Manifest,
    /// A [`KeyPage`](super::KeyPage).
    Keys,
    /// A [`CachePage`](super::CachePage).
    Cache,
    /// A seat in a pool.
    Seat,
    /// What is known of keys that were asked for: a [`ResolvedFor`](super::protocol::ResolvedFor).
    Resolved,
}

/// A text and who vouches for it: one JSON object, so that both always come together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// What is vouched for, byte by byte.
    pub signed: String,
    /// The [`PublicKey::id`] that the signature belongs to.
    pub key: String,
    /// The signature in base64.
    pub ed25519: String,
}

/// Why a text is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureError {
    /// Signed with a key that is not among those trusted here.
    UnknownKey,
    /// Not the signature of this text by that key.
    Wrong,
}

/// The key of a control plane.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// The public side of it: what gateways are given to trust. Written in base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

/// A key that can not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadKey;

impl Topic {
    /// What goes before the signed bytes.
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Manifest => b"tollgate manifest 1\n",
            Self::Keys => b"tollgate keys 1\n",
            Self::Cache => b"tollgate cache 1\n",
            Self::Seat => b"tollgate seat 1\n",
            Self::Resolved => b"tollgate resolved 1\n",
        }
    }

    fn message(self, text: &str) -> Vec<u8> {
        [self.prefix(), text.as_bytes()].concat()
    }
}

impl Signed {
    /// Signs a text.
    #[must_use]
    pub fn new(topic: Topic, text: String, key: &SigningKey) -> Self {
        let signature = key.pair.sign(&topic.message(&text));
        Self {
            ed25519: BASE64.encode(signature),
            key: key.public.id(),
            signed: text,
        }
    }

    /// The text, if one of these keys has signed it.
    ///
    /// # Errors
    /// When none of them has.
    pub fn verify(&self, topic: Topic, trusted: &[PublicKey]) -> Result<&str, SignatureError> {
        let signature = BASE64.decode(&self.ed25519).map_err(|_| SignatureError::Wrong)?;
        let key = trusted
            .iter()
            .find(|key| key.id() == self.key)
            .ok_or(SignatureError::UnknownKey)?;
        UnparsedPublicKey::new(&ED25519, &key.0)
            .verify(&topic.message(&self.signed), &signature)
            .map_err(|_| SignatureError::Wrong)?;
        Ok(&self.signed)
    }
}

impl SigningKey {
    /// A new one, and the secret to keep it by.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<(Self, Secret), BadKey> {
        let pair = Ed25519KeyPair::generate().map_err(|_| BadKey)?;
        let seed: Curve25519SeedBin<'_> = pair.seed().and_then(|seed| seed.as_be_bytes()).map_err(|_| BadKey)?;
        let secret = Secret::from(BASE64.encode(seed.as_ref()));
        Ok((Self::of(pair)?, secret))
    }

    /// The one that this secret (a seed of 32 bytes, in base64) stands for.
    ///
    /// # Errors
    /// When it is no such thing.
    pub fn from_secret(secret: &Secret) -> Result<Self, BadKey> {
        let seed = BASE64.decode(secret.expose().trim()).map_err(|_| BadKey)?;
        Self::of(Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| BadKey)?)
    }

    /// Its public side.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs bytes that are not one of our texts, such as a token (RFC 8037).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    fn of(pair: Ed25519KeyPair) -> Result<Self, BadKey> {
        let public = PublicKey(pair.public_key().as_ref().try_into().map_err(|_| BadKey)?);
        Ok(Self { pair, public })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
    }
}

impl PublicKey {
    /// What it is called: the first sixteen hex digits of its SHA-256.
    #[must_use]
    pub fn id(&self) -> String {
        Sha256::digest(self.0)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Whether its private side has made this signature over bytes that are not one of our texts.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }

    /// Its bytes, as RFC 8037 wants them in a JWK.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::str::FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let bytes = BASE64.decode(text.trim()).map_err(|_| BadKey)?;
        bytes.try_into().map(Self).map_err(|_| BadKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key is 32 bytes in base64, which are 44 characters")
    }
}

impl std::error::Error for BadKey {}

impl SignatureError {
    /// One word for logs, metrics and NACKs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_signer",
            Self::Wrong => "signature",
        }
    }
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKey => "it is signed with a key that this gateway does not trust",
            Self::Wrong => "its signature is wrong",
        })
    }
}

impl std::error::Error for SignatureError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_that_was_signed_is_trusted_and_only_for_what_it_was_signed() {
        let (key, secret) = SigningKey::generate().unwrap();
        let (other, _) = SigningKey::generate().unwrap();
        let signed = Signed::new(Topic::Manifest, "seq 1".to_owned(), &key);
        assert_eq!(
            signed.verify(Topic::Manifest, &[other.public(), key.public()]),
            Ok("seq 1")
        );
        assert_eq!(
            signed.verify(Topic::Manifest, &[other.public()]),
            Err(SignatureError::UnknownKey)
        );
        assert_eq!(signed.verify(Topic::Keys, &[key.public()]), Err(SignatureError::Wrong));
        let mut changed = signed.clone();
        changed.signed = "seq 2".to_owned();
        assert_eq!(
            changed.verify(Topic::Manifest, &[key.public()]),
            Err(SignatureError::Wrong)
        );
        let again = SigningKey::from_secret(&secret).unwrap();
        assert_eq!(Signed::new(Topic::Manifest, "seq 1".to_owned(), &again), signed);
    }

    #[test]
    fn a_public_key_is_read_as_it_is_written_and_a_private_one_does_not_show_itself() {
        let (key, secret) = SigningKey::generate().unwrap();
        assert_eq!(key.public().to_string().parse(), Ok(key.public()));
        assert_eq!("short".parse::<PublicKey>(), Err(BadKey));
        assert!(SigningKey::from_secret(&Secret::from("short")).is_err());
        assert!(!format!("{key:?}").contains(secret.expose()));
    }
}
