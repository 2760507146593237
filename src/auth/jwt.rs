//! Tokens: whether one is genuine, in time and meant for us, and what it says.
//!
//! The cheap checks come first: size, encoding, header, claims, and only then the signature. So a token that could
//! never be accepted costs no public-key arithmetic and makes nobody fetch keys. The order tells an attacker nothing:
//! all refusals look the same from outside.

mod cache;
mod heritage;
pub mod parse;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use sha2::{Digest, Sha256};

pub use self::cache::TokenCache;
pub use self::heritage::TOKENS;

use self::cache::CacheKey;
use self::parse::{Claims, Compact};
use crate::auth::jwks::{KeySet, KeySets, Keys, VerifyingKey};
use crate::auth::keyring::stable_hash;
use crate::auth::{Denial, Invalid};
use crate::revision::{Issuer, KeyType};

/// Checks the tokens of one issuer.
#[derive(Debug)]
pub struct Verifier {
    issuer: String,
    audience: Vec<String>,
    algorithms: Vec<Algorithm>,
    application_claim: Option<String>,
    leeway_ms: u64,
    keys: Arc<KeySet>,
    /// Of all fields above but the keys: two issuers with different rules never share a cached verdict.
    identity: [u8; 16],
}

/// A token as it was presented, with its hash. A secret: there is no `Debug`.
pub struct Presented<'a> {
    compact: Compact<'a>,
    digest: [u8; 32],
}

impl<'a> Presented<'a> {
    /// Cuts the token into its parts and hashes it.
    ///
    /// # Errors
    /// [`Invalid::Malformed`] when it is too long or has not exactly three parts.
    pub fn new(text: &'a str) -> Result<Self, Invalid> {
        let compact = parse::split(text)?;
        Ok(Self {
            compact,
            digest: Sha256::digest(text.as_bytes()).into(),
        })
    }
}

/// Why a token is not accepted, at least not yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// For good.
    Denied(Denial),
    /// Everything else about it is right, but the key that signed it is not known, or no key is.
    KeyNeeded {
        /// The name of that key, if the token gives one.
        kid: Option<Box<str>>,
    },
}

impl From<Invalid> for Obstacle {
    fn from(invalid: Invalid) -> Self {
        Self::Denied(Denial::CredentialInvalid(invalid))
    }
}

impl Verifier {
    /// Prepares the checks of an issuer; its key set is taken over from earlier revisions if they had it.
    #[must_use]
    pub fn compile(issuer: &Issuer, key_sets: &KeySets) -> Self {
        Self {
            issuer: issuer.issuer.clone(),
            audience: issuer.audience.clone(),
            algorithms: issuer.algorithms.clone(),
            application_claim: issuer.application_claim.clone(),
            leeway_ms: millis(issuer.leeway),
            keys: key_sets.get(&issuer.jwks),
            identity: identity(issuer),
        }
    }

    /// What its tokens name as their issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The issuer's keys.
    #[must_use]
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// Whether a token of this issuer has to name an application.
    #[must_use]
    pub fn binds_application(&self) -> bool {
        self.application_claim.is_some()
    }

    /// Checks a token. Never waits and never fetches.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn verify(
        &self,
        token: &Presented<'_>,
        cache: &TokenCache,
        now_ms: u64,
    ) -> Result<Arc<VerifiedToken>, Obstacle> {
        let keys = self.keys.current();
        let key = keys
            .as_deref()
            .map(|keys| CacheKey::new(token.digest, self.identity, keys.fingerprint()));
        if let Some(key) = &key {
            if let Some(known) = cache.verified(key) {
                known.in_time(now_ms)?;
                return Ok(known);
            }
            if cache.is_forged(key) {
                return Err(Invalid::Signature.into());
            }
        }

        let header = parse::header(&parse::decode(token.compact.header)?)?;
        if !self.algorithms.contains(&header.algorithm) {
            return Err(Invalid::Algorithm.into());
        }
        let payload = parse::decode(token.compact.payload)?;
        let verified = self.accept(parse::claims(&payload, self.application_claim.as_deref())?)?;
        verified.in_time(now_ms)?;
        let signature = parse::decode(token.compact.signature)?;

        let (Some(keys), Some(key)) = (keys.as_deref(), key) else {
            return Err(Obstacle::KeyNeeded {
                kid: header.kid.map(Into::into),
            });
        };
        match genuine(
            keys,
            header.kid.as_deref(),
            header.algorithm,
            token.compact.signed,
            &signature,
        ) {
            Ok(true) => {
                let verified = Arc::new(verified);
                cache.remember(key, Arc::clone(&verified));
                Ok(verified)
            }
            Ok(false) => {
                cache.remember_forged(key);
                Err(Invalid::Signature.into())
            }
            Err(Unfit::UnknownKid) => Err(Obstacle::KeyNeeded {
                kid: header.kid.map(Into::into),
            }),
            Err(Unfit::Algorithm) => Err(Invalid::Algorithm.into()),
            Err(Unfit::NoKey) => Err(Invalid::UnknownSigner.into()),
        }
    }

    /// Whether these claims are meant for us. Time and signature are not looked at yet.
    fn accept(&self, claims: Claims) -> Result<VerifiedToken, Invalid> {
        if claims.issuer.as_deref() != Some(self.issuer.as_str()) {
            return Err(Invalid::Issuer);
        }
        if !claims.audience.iter().any(|audience| self.audience.contains(audience)) {
            return Err(Invalid::Audience);
        }
        let expires_ms = claims.expires_ms.ok_or(Invalid::Claims)?;
        let subject_hash = claims
            .subject
            .as_ref()
            .map(|subject| subject_hash(&self.issuer, subject));
        Ok(VerifiedToken {
            subject: claims.subject.map(Into::into),
            subject_hash,
            application: claims.application.map(Into::into),
            scopes: claims.scopes.into_iter().map(Into::into).collect(),
            key_type: claims.key_type,
            until_ms: expires_ms.saturating_add(self.leeway_ms),
            from_ms: claims.not_before_ms.unwrap_or(0).saturating_sub(self.leeway_ms),
        })
    }
}

/// A number for a subject of an issuer that is the same on every gateway and for ever: it names counters.
#[must_use]
pub fn subject_hash(issuer: &str, subject: &str) -> u64 {
    stable_hash("subject", &format!("{issuer}\0{subject}"))
}

/// What a genuine token says. Its subject is personal data: `Debug` does not show it.
pub struct VerifiedToken {
    subject: Option<Box<str>>,
    subject_hash: Option<u64>,
    application: Option<Box<str>>,
    scopes: Box<[Box<str>]>,
    key_type: Option<KeyType>,
    until_ms: u64,
    from_ms: u64,
}

impl VerifiedToken {
    /// What somebody else says of a token who knows it. Without an end it has none here.
    pub(super) fn as_told(claims: Claims, issuer: &str) -> Self {
        let subject = claims.subject.as_ref();
        Self {
            subject_hash: subject.map(|subject| subject_hash(issuer, subject)),
            subject: claims.subject.map(Into::into),
            application: claims.application.map(Into::into),
            scopes: claims.scopes.into_iter().map(Into::into).collect(),
            key_type: claims.key_type,
            until_ms: claims.expires_ms.unwrap_or(u64::MAX),
            from_ms: claims.not_before_ms.unwrap_or(0),
        }
    }

    /// Whether its holder may do real things or only try, if it says so.
    #[must_use]
    pub fn key_type(&self) -> Option<KeyType> {
        self.key_type
    }

    /// `sub`
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Whether its subject or its application is called so.
    #[must_use]
    pub fn is_of(&self, user: &str) -> bool {
        self.subject() == Some(user) || self.application() == Some(user)
    }

    /// A number for issuer and subject that is the same everywhere and for ever.
    #[must_use]
    pub fn subject_hash(&self) -> Option<u64> {
        self.subject_hash
    }

    /// What the application claim says.
    #[must_use]
    pub fn application(&self) -> Option<&str> {
        self.application.as_deref()
    }

    /// Whether the token carries this scope.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|carried| &**carried == scope)
    }

    /// Unix milliseconds from which on the token is refused: `exp` and the issuer's leeway.
    #[must_use]
    pub fn valid_until_ms(&self) -> u64 {
        self.until_ms
    }

    pub(super) fn in_time(&self, now_ms: u64) -> Result<(), Obstacle> {
        if now_ms >= self.until_ms {
            return Err(Obstacle::Denied(Denial::CredentialExpired));
        }
        if now_ms < self.from_ms {
            return Err(Invalid::NotYetValid.into());
        }
        Ok(())
    }

    /// About how many bytes it occupies.
    pub(super) fn weight(&self) -> usize {
        let names = self.subject.as_deref().map_or(0, str::len) + self.application.as_deref().map_or(0, str::len);
        let scopes = self
            .scopes
            .iter()
            .map(|scope| scope.len() + size_of::<Box<str>>())
            .sum::<usize>();
        size_of::<Self>() + names + scopes
    }
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken")
            .field("application", &self.application)
            .field("scopes", &self.scopes)
            .field("until_ms", &self.until_ms)
            .finish_non_exhaustive()
    }
}

/// Why no key can be tried.
enum Unfit {
    UnknownKid,
    Algorithm,
    NoKey,
}

/// Whether one of the keys that the token may mean made the signature.
fn genuine(
    keys: &Keys,
    kid: Option<&str>,
    algorithm: Algorithm,
    signed: &str,
    signature: &[u8],
) -> Result<bool, Unfit> {
    let all = keys.members();
    let named = |key: &&VerifyingKey| kid.is_none() || key.kid() == kid;
    let nameless = |key: &&VerifyingKey| key.kid().is_none();
    // A document whose keys have no names serves tokens that name theirs: there is nothing to compare with.
    let found = if all.iter().any(|key| named(&key)) {
        any_signed(all.iter().filter(named), algorithm, signed, signature)
    } else {
        any_signed(all.iter().filter(nameless), algorithm, signed, signature)
    };
    match found {
        Some(genuine) => Ok(genuine),
        None if kid.is_none() => Err(Unfit::NoKey),
        None if all.iter().any(|key| named(&key)) => Err(Unfit::Algorithm),
        None => Err(Unfit::UnknownKid),
    }
}

/// `None` when no key is for this algorithm.
fn any_signed<'a>(
    keys: impl Iterator<Item = &'a VerifyingKey>,
    algorithm: Algorithm,
    signed: &str,
    signature: &[u8],
) -> Option<bool> {
    let mut tried = None;
    for key in keys.filter(|key| key.admits(algorithm)).take(MAX_TRIES) {
        if is_signed(key, algorithm, signed, signature) {
            return Some(true);
        }
        tried = Some(false);
    }
    tried
}

fn is_signed(key: &VerifyingKey, algorithm: Algorithm, signed: &str, signature: &[u8]) -> bool {
    // The provider is named, not looked up: the crate's lookup panics when features of other crates enable two.
    let Ok(verifier) = (DEFAULT_PROVIDER.verifier_factory)(&algorithm, key.decoding_key()) else {
        return false;
    };
    verifier.verify(signed.as_bytes(), &signature.to_vec()).is_ok()
}

/// How many keys are tried for a token that does not say which one signed it.
const MAX_TRIES: usize = 4;

fn identity(issuer: &Issuer) -> [u8; 16] {
    let Issuer {
        name: _,
        issuer: iss,
        audience,
        algorithms,
        jwks: _,
        application_claim,
        leeway,
    } = issuer;
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(iss.as_bytes());
    part(&(audience.len() as u64).to_le_bytes());
    for audience in audience {
        part(audience.as_bytes());
    }
    part(format!("{algorithms:?}").as_bytes());
    part(format!("{application_claim:?}").as_bytes());
    part(&millis(*leeway).to_le_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut identity = [0; 16];
    identity.copy_from_slice(&digest[..16]);
    identity
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
