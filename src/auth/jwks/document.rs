//! A key set document (RFC 7517) → keys that can verify.
//!
//! One odd member does not spoil the others: what cannot be used is skipped and counted. A document without a single
//! usable key is refused as a whole, because an issuer that has forgotten its keys is more often broken than closed.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// Most bytes that a document may have.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Most keys that a document may have.
pub const MAX_KEYS: usize = 100;

/// One key, and what it may be used for.
pub struct VerifyingKey {
    kid: Option<Box<str>>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl VerifyingKey {
    /// Its name.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether it may verify this algorithm: its type, its curve or size and its own `alg` agree.
    #[must_use]
    pub fn admits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// The key itself.
    #[must_use]
    pub fn decoding_key(&self) -> &DecodingKey {
        &self.key
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("kid", &self.kid)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

/// Whether shared secrets (`kty: oct`) are taken: only from the revision itself, never from a network or a file that
/// is meant to hold public keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// Taken.
    Allowed,
    /// Skipped.
    Refused,
}

/// The usable keys of a document.
#[derive(Debug)]
pub struct Document {
    /// At least one.
    pub keys: Vec<VerifyingKey>,
    /// How many members were not usable, and why the first of them was not.
    pub skipped: Skipped,
}

/// Members that are not usable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: usize,
    /// Why the first of them is not.
    pub first: Option<Unusable>,
}

/// Why a member of a key set is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// A member of it has the wrong type, is missing or is not base64url.
    Shape,
    /// It is for encryption (`use` or `key_ops`).
    Purpose,
    /// A key type or curve that no algorithm here uses.
    Kind,
    /// An `alg` that does not go with the key.
    Algorithm,
    /// RSA below 2048 or above 8192 bits, a bad exponent, a point or secret of the wrong length.
    Size,
    /// A shared secret where public keys belong.
    Secret,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "a member is missing, has the wrong type or is not base64url",
            Self::Purpose => "it is not for signatures",
            Self::Kind => "its type or curve is not supported",
            Self::Algorithm => "its alg does not go with its type",
            Self::Size => "its size is not allowed (RSA takes 2048 to 8192 bits)",
            Self::Secret => "a shared secret is taken only from keys written into the revision",
        })
    }
}

/// Why a document is refused as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentError {
    /// It is larger than 1 MiB.
    TooLarge,
    /// It is no JSON object with an array called `keys`.
    NotAKeySet,
    /// It has more than 100 members.
    TooMany,
    /// None of its members is usable.
    NothingUsable(Skipped),
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "the document is larger than {MAX_BYTES} bytes"),
            Self::NotAKeySet => f.write_str("the document is no JSON object with an array \"keys\""),
            Self::TooMany => write!(f, "the document has more than {MAX_KEYS} keys"),
            Self::NothingUsable(Skipped {
                first: Some(why),
                count,
            }) => {
                write!(f, "none of {count} keys is usable; the first is not because {why}")
            }
            Self::NothingUsable(_) => f.write_str("the document has no keys"),
        }
    }
}

/// Reads a document from outside: `{"keys": [...]}`. Shared secrets are skipped.
///
/// # Errors
/// When it cannot be used as a whole.
pub fn parse(bytes: &[u8]) -> Result<Document, DocumentError> {
    #[derive(Deserialize)]
    struct KeySetObject {
        keys: Vec<Value>,
    }

    if bytes.len() > MAX_BYTES {
        return Err(DocumentError::TooLarge);
    }
    let object: KeySetObject = serde_json::from_slice(bytes).map_err(|_| DocumentError::NotAKeySet)?;
    read(&object.keys, Secrets::Refused)
}

/// Reads the members of a `keys` array.
///
/// # Errors
/// When there are too many or none is usable.
pub fn read(members: &[Value], secrets: Secrets) -> Result<Document, DocumentError> {
    if members.len() > MAX_KEYS {
        return Err(DocumentError::TooMany);
    }
    let mut keys = Vec::with_capacity(members.len());
    let mut skipped = Skipped::default();
    for member in members {
        match verifying_key(member, secrets) {
            Ok(key) => keys.push(key),
            Err(why) => {
                skipped.count += 1;
                skipped.first.get_or_insert(why);
            }
        }
    }
    if keys.is_empty() {
        return Err(DocumentError::NothingUsable(skipped));
    }
    Ok(Document { keys, skipped })
}

/// The members of a key that are looked at. Private parts are not: they have no business here.
#[derive(Deserialize)]
struct Member {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

fn verifying_key(member: &Value, secrets: Secrets) -> Result<VerifyingKey, Unusable> {
    if !member.is_object() {
        return Err(Unusable::Shape);
    }
    let member = Member::deserialize(member).map_err(|_| Unusable::Shape)?;
    let signs = member.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
        && member
            .key_ops
            .as_ref()
            .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    if !signs {
        return Err(Unusable::Purpose);
    }
    let (key, mut algorithms) = match member.kty.as_str() {
        "RSA" => rsa(&member)?,
        "EC" => elliptic(&member)?,
        "OKP" => edwards(&member)?,
        "oct" if secrets == Secrets::Refused => return Err(Unusable::Secret),
        "oct" => shared(&member)?,
        _ => return Err(Unusable::Kind),
    };
    if let Some(alg) = &member.alg {
        // RFC 9864 renamed EdDSA for this curve; key sets use both names.
        let alg = if alg == "Ed25519" { "EdDSA" } else { alg };
        let only: Algorithm = alg.parse().map_err(|_| Unusable::Algorithm)?;
        algorithms.retain(|algorithm| *algorithm == only);
        if algorithms.is_empty() {
            return Err(Unusable::Algorithm);
        }
    }
    Ok(VerifyingKey {
        kid: member.kid.map(Into::into),
        algorithms,
        key,
    })
}

fn rsa(member: &Member) -> Result<(DecodingKey, Vec<Algorithm>), Unusable> {
    use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};

    let modulus = bytes(member.n.as_deref())?;
    let exponent = bytes(member.e.as_deref())?;
    let (modulus, exponent) = (without_zeros(&modulus), without_zeros(&exponent));
    let bits = modulus
        .first()
        .map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    // An exponent of one makes every signature right, an even one none.
    let sound = exponent.len() <= 8 && *exponent != [1] && exponent.last().is_some_and(|last| last % 2 == 1);
    if !(2048..=8192).contains(&bits) || !sound {
        return Err(Unusable::Size);
    }
    let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
    Ok((key, vec![RS256, RS384, RS512, PS256, PS384, PS512]))
}

fn elliptic(member: &Member) -> Result<(DecodingKey, Vec<Algorithm>), Unusable> {
    let (length, algorithm) = match member.crv.as_deref() {
        Some("P-256") => (32, Algorithm::ES256),
        Some("P-384") => (48, Algorithm::ES384),
        _ => return Err(Unusable::Kind),
    };
    let (x, y) = (bytes(member.x.as_deref())?, bytes(member.y.as_deref())?);
    if x.len() != length || y.len() != length {
        return Err(Unusable::Size);
    }
    // The uncompressed point. Whether it lies on the curve is checked with every signature.
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    Ok((DecodingKey::from_ec_der(&point), vec![algorithm]))
}

fn edwards(member: &Member) -> Result<(DecodingKey, Vec<Algorithm>), Unusable> {
    if member.crv.as_deref() != Some("Ed25519") {
        return Err(Unusable::Kind);
    }
    let x = bytes(member.x.as_deref())?;
    if x.len() != 32 {
        return Err(Unusable::Size);
    }
    Ok((DecodingKey::from_ed_der(&x), vec![Algorithm::EdDSA]))
}

/// A secret is at least as long as the hash, as RFC 7518 asks.
fn shared(member: &Member) -> Result<(DecodingKey, Vec<Algorithm>), Unusable> {
    let secret = bytes(member.k.as_deref())?;
    let algorithms: Vec<_> = [(32, Algorithm::HS256), (48, Algorithm::HS384), (64, Algorithm::HS512)]
        .into_iter()
        .filter(|(length, _)| secret.len() >= *length)
        .map(|(_, algorithm)| algorithm)
        .collect();
    if algorithms.is_empty() {
        return Err(Unusable::Size);
    }
    Ok((DecodingKey::from_secret(&secret), algorithms))
}

fn bytes(text: Option<&str>) -> Result<Vec<u8>, Unusable> {
    URL_SAFE_NO_PAD
        .decode(text.ok_or(Unusable::Shape)?)
        .map_err(|_| Unusable::Shape)
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_key_admits_its_algorithms_only() {
        let document = read(
            &[
                json!({"kty": "RSA", "kid": "r", "n": number(256), "e": "AQAB", "use": "sig"}),
                json!({"kty": "RSA", "kid": "ps", "n": number(256), "e": "AQAB", "alg": "PS256"}),
                json!({"kty": "EC", "crv": "P-256", "x": number(32), "y": number(32)}),
                json!({"kty": "EC", "crv": "P-384", "x": number(48), "y": number(48), "key_ops": ["verify"]}),
                json!({"kty": "OKP", "crv": "Ed25519", "x": number(32), "alg": "Ed25519"}),
                json!({"kty": "oct", "k": number(48)}),
            ],
            Secrets::Allowed,
        )
        .unwrap();
        use Algorithm::*;
        let admitted: Vec<Vec<Algorithm>> = document.keys.iter().map(|key| key.algorithms.clone()).collect();
        assert_eq!(
            admitted,
            [
                vec![RS256, RS384, RS512, PS256, PS384, PS512],
                vec![PS256],
                vec![ES256],
                vec![ES384],
                vec![EdDSA],
                vec![HS256, HS384],
            ]
        );
        assert_eq!(document.skipped, Skipped::default());
        assert_eq!(document.keys[0].kid(), Some("r"));
        assert_eq!(document.keys[2].kid(), None);
    }

    #[test]
    fn what_is_not_usable_is_skipped_with_its_reason_and_the_rest_is_kept() {
        let good = json!({"kty": "OKP", "crv": "Ed25519", "x": number(32)});
        for (bad, why) in [
            (json!({"kty": "RSA", "n": number(255), "e": "AQAB"}), Unusable::Size),
            (json!({"kty": "RSA", "n": number(1025), "e": "AQAB"}), Unusable::Size),
            (json!({"kty": "RSA", "n": number(256), "e": "AQ"}), Unusable::Size),
            (json!({"kty": "RSA", "n": number(256), "e": "Ag"}), Unusable::Size),
            (json!({"kty": "RSA", "n": number(256), "e": ""}), Unusable::Size),
            (
                json!({"kty": "RSA", "n": format!("{}=", number(256)), "e": "AQAB"}),
                Unusable::Shape,
            ),
            (
                json!({"kty": "RSA", "n": number(256), "e": "AQAB", "use": "enc"}),
                Unusable::Purpose,
            ),
            (
                json!({"kty": "RSA", "n": number(256), "e": "AQAB", "key_ops": ["encrypt"]}),
                Unusable::Purpose,
            ),
            (
                json!({"kty": "RSA", "n": number(256), "e": "AQAB", "alg": "ES256"}),
                Unusable::Algorithm,
            ),
            (
                json!({"kty": "RSA", "n": number(256), "e": "AQAB", "alg": "RSA-OAEP"}),
                Unusable::Algorithm,
            ),
            (
                json!({"kty": "RSA", "n": number(256), "e": "AQAB", "alg": "HS256"}),
                Unusable::Algorithm,
            ),
            (json!({"kty": "RSA", "e": "AQAB"}), Unusable::Shape),
            (json!({"kty": "RSA", "n": 5, "e": "AQAB"}), Unusable::Shape),
            (
                json!({"kty": "EC", "crv": "secp256k1", "x": number(32), "y": number(32)}),
                Unusable::Kind,
            ),
            (
                json!({"kty": "EC", "crv": "P-256", "x": number(31), "y": number(32)}),
                Unusable::Size,
            ),
            (json!({"kty": "OKP", "crv": "X25519", "x": number(32)}), Unusable::Kind),
            (json!({"kty": "oct", "k": number(64)}), Unusable::Secret),
            (json!({"kty": "AKP"}), Unusable::Kind),
            (json!({}), Unusable::Shape),
            (json!("RSA"), Unusable::Shape),
            (json!(["RSA"]), Unusable::Shape),
            (json!(null), Unusable::Shape),
        ] {
            let document = read(&[bad.clone(), good.clone()], Secrets::Refused).unwrap();
            assert_eq!(document.keys.len(), 1, "{bad}");
            assert_eq!(
                document.skipped,
                Skipped {
                    count: 1,
                    first: Some(why)
                },
                "{bad}"
            );
        }
    }

    #[test]
    fn a_short_secret_is_refused_even_from_the_revision() {
        let short = json!({"kty": "oct", "k": number(31)});
        assert!(matches!(
            read(&[short], Secrets::Allowed),
            Err(DocumentError::NothingUsable(_))
        ));
    }

    #[test]
    fn a_document_that_is_no_key_set_is_refused_as_a_whole() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":null}"#,
            "<html>",
            r#"{"keys":[]"#,
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), DocumentError::NotAKeySet, "{text}");
        }
        let empty = parse(br#"{"keys":[]}"#).unwrap_err();
        assert_eq!(empty, DocumentError::NothingUsable(Skipped::default()));
        let many = json!({ "keys": vec![json!({}); MAX_KEYS + 1] }).to_string();
        assert_eq!(parse(many.as_bytes()).unwrap_err(), DocumentError::TooMany);
        assert_eq!(parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err(), DocumentError::TooLarge);
    }

    /// An odd number of this many bytes.
    fn number(length: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xab_u8; length])
    }
}
