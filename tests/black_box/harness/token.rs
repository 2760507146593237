//! Tokens, good and bad, and the keys that sign them.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

/// The `iss` of a [`Token`] that nobody changed.
pub const ISSUER: &str = "https://idp.example.com";
/// Its `aud`.
pub const AUDIENCE: &str = "orders";

/// An RSA key that all tests share, because making one takes a while.
pub static RSA: LazyLock<Signer> = LazyLock::new(|| Signer {
    kid: "rsa".to_owned(),
    pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
});

/// A key that signs.
pub struct Signer {
    kid: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A token that is being made. Begins as a good one: for an hour, for [`AUDIENCE`], for the subject `alice`.
#[derive(Clone)]
pub struct Token {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl Signer {
    /// A fresh ES256 key with this name.
    pub fn ec(kid: &str) -> Self {
        Self {
            kid: kid.to_owned(),
            pair: Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
        }
    }

    /// A fresh Ed25519 key with this name.
    pub fn ed(kid: &str) -> Self {
        Self {
            kid: kid.to_owned(),
            pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()),
        }
    }

    /// A good token.
    pub fn token(&self) -> String {
        Token::of(self).sign(self)
    }

    /// The public half, as a member of a key set.
    pub fn jwk(&self) -> Value {
        let kid = &self.kid;
        match &self.pair {
            Pair::Rsa(key) => {
                let parts: PublicKeyComponents<Vec<u8>> = key.public_key().into();
                json!({"kty": "RSA", "kid": kid, "n": base64url(&parts.n), "e": base64url(&parts.e)})
            }
            Pair::Ec(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (base64url(&point[1..33]), base64url(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y})
            }
            Pair::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64url(key.public_key().as_ref())})
            }
        }
    }

    /// The public half of an RSA key as a PEM file, which careless verifiers take for a shared secret.
    pub fn public_pem(&self) -> Vec<u8> {
        let Pair::Rsa(key) = &self.pair else {
            panic!("only RSA keys are confused like this")
        };
        let der = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        )
        .into_bytes()
    }

    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

impl Token {
    /// A good token that names this key.
    pub fn of(signer: &Signer) -> Self {
        let Value::Object(header) = json!({"alg": signer.algorithm(), "kid": signer.kid, "typ": "JWT"}) else {
            unreachable!()
        };
        let Value::Object(claims) =
            json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": now() + 3600, "jti": now_nanos()})
        else {
            unreachable!()
        };
        Self { header, claims }
    }

    /// With this claim.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Without this claim.
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// With this member of the header.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Signed by this key, whatever the header says.
    pub fn sign(&self, signer: &Signer) -> String {
        self.signed_with(|message| signer.sign(message))
    }

    /// With HMAC-SHA256 under this secret.
    pub fn sign_hs256(&self, secret: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        self.signed_with(|message| hmac::sign(&key, message).as_ref().to_vec())
    }

    /// With this as its signature.
    pub fn signed_with(&self, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let part = |members: &Map<String, Value>| base64url(Value::Object(members.clone()).to_string().as_bytes());
        let signed = format!("{}.{}", part(&self.header), part(&self.claims));
        let signature = base64url(&sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// A key set document.
pub fn key_set(signers: &[&Signer]) -> String {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Unix time in seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn now_nanos() -> String {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_nanos()
        .to_string()
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
