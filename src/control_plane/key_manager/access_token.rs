//! Access tokens: JWTs in the profile of RFC 9068, signed with the key of the control plane (RFC 8037).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::problem::Problem;
use crate::auth::jwt::parse;
use crate::auth::key::random_text;
use crate::distribution::{PublicKey, SigningKey};
use crate::document::Secret;
use crate::revision::KeyType;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// Who made it.
    pub(super) iss: String,
    /// Who it is about: the application.
    pub(super) sub: String,
    /// Who asked for it: the application too.
    pub(super) client_id: String,
    /// The same for those who look for it under this name.
    pub(super) azp: String,
    /// Who it is for.
    pub(super) aud: Vec<String>,
    /// When it ends, in Unix seconds.
    pub(super) exp: u64,
    /// When it was made, in Unix seconds.
    pub(super) iat: u64,
    /// Tells it from all others.
    pub(super) jti: String,
    /// What it may be used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scope: Option<String>,
    /// The type of the key that it was got with.
    pub(super) key_type: KeyType,
    /// That key: when it ends, introspection does not call the token active any more.
    pub(super) key_id: String,
}

impl Claims {
    /// A new `jti`.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub(super) fn fresh_id() -> Result<String, Problem> {
        random_text(22).map_err(|error| {
            log::error!("no randomness for a token: {error}");
            Problem::Internal
        })
    }

    /// The token that says so.
    ///
    /// # Errors
    /// When it can not be written, which does not happen to texts and numbers.
    pub(super) fn to_token(&self, key: &SigningKey) -> Result<Secret, Problem> {
        let header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": key.public().id() });
        let claims = serde_json::to_vec(self).map_err(|error| {
            log::error!("a token can not be written: {error}");
            Problem::Internal
        })?;
        let signed = format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims));
        let signature = BASE64URL.encode(key.sign(signed.as_bytes()));
        Ok(Secret::from(format!("{signed}.{signature}")))
    }

    /// What a token says, if this control plane has made it. Whether it is over is not looked at.
    pub(super) fn of_token(token: &str, issuer: &str, key: &SigningKey) -> Option<Self> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            typ: String,
            kid: String,
        }
        let parts = parse::split(token).ok()?;
        let header: Header = serde_json::from_slice(&parse::decode(parts.header).ok()?).ok()?;
        if header.alg != "EdDSA" || header.typ != "at+jwt" || header.kid != key.public().id() {
            return None;
        }
        let signature = parse::decode(parts.signature).ok()?;
        if !key.public().has_signed(parts.signed.as_bytes(), &signature) {
            return None;
        }
        let claims: Self = serde_json::from_slice(&parse::decode(parts.payload).ok()?).ok()?;
        (claims.iss == issuer).then_some(claims)
    }
}

/// The key that verifies tokens, as a member of a key set.
pub(super) fn jwk(key: &PublicKey) -> Value {
    json!({
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": "EdDSA",
        "kid": key.id(),
        "x": BASE64URL.encode(key.bytes()),
    })
}
