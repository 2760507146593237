//! Fresh keys, tokens signed with them, and revisions that trust them: for the tests of this stage.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{HeaderMap, HeaderName};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{Authenticator, KeySets, TokenCache};
use crate::revision::{
    Api, Application, AuthMethod, CredentialPlaces, EnvironmentType, HeaderEdits, Issuer, JwksSource, Key, Revision,
    RouteRule, Subscription,
};

/// A key that can sign.
pub(crate) enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// An RSA key that all tests share, because making one takes a while.
pub(crate) static RSA: LazyLock<Signer> =
    LazyLock::new(|| Signer::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()));

impl Signer {
    pub(crate) fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// The public half as a member of a key set.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let parts: PublicKeyComponents<Vec<u8>> = key.public_key().into();
                json!({"kty": "RSA", "kid": kid, "n": base64url(&parts.n), "e": base64url(&parts.e)})
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": base64url(&point[1..33]), "y": base64url(&point[33..])})
            }
            Self::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": base64url(key.public_key().as_ref())})
            }
        }
    }

    /// Every form in which the public half may be mistaken for a shared secret.
    pub(crate) fn public_forms(&self) -> Vec<Vec<u8>> {
        let Self::Rsa(key) = self else {
            panic!("only RSA keys are confused like this")
        };
        let public = key.public_key();
        let parts: PublicKeyComponents<Vec<u8>> = public.into();
        let pkcs1 = public.as_ref().to_vec();
        let spki = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(public)
            .unwrap()
            .as_ref()
            .to_vec();
        let pem = |label: &str, der: &[u8], end: &str| {
            let text = STANDARD.encode(der);
            let lines: Vec<&str> = text
                .as_bytes()
                .chunks(64)
                .map(|line| std::str::from_utf8(line).unwrap())
                .collect();
            format!(
                "-----BEGIN {label}-----\n{}\n-----END {label}-----{end}",
                lines.join("\n")
            )
            .into_bytes()
        };
        vec![
            pem("PUBLIC KEY", &spki, "\n"),
            pem("PUBLIC KEY", &spki, ""),
            pem("RSA PUBLIC KEY", &pkcs1, "\n"),
            spki,
            pkcs1,
            base64url(&parts.n).into_bytes(),
            parts.n,
            self.jwk("rsa").to_string().into_bytes(),
        ]
    }
}

/// A well-formed token, whatever is in it.
pub(crate) fn token(header: &Value, claims: &Value, signer: &Signer) -> String {
    raw_token(&header.to_string(), &claims.to_string(), |message| signer.sign(message))
}

/// A token of any text.
pub(crate) fn raw_token(header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
    let signature = base64url(&sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// A token that the issuer of [`revision`] could have made.
pub(crate) fn good_token(signer: &Signer, kid: &str) -> String {
    token(
        &json!({"alg": signer.algorithm(), "kid": kid, "typ": "JWT"}),
        &good_claims(),
        signer,
    )
}

pub(crate) fn good_claims() -> Value {
    json!({"iss": ISS, "aud": "orders", "sub": "alice", "exp": EXP, "scope": "orders:read orders:write"})
}

pub(crate) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) const ISS: &str = "https://idp.example.com";
/// When good tokens end, in seconds.
pub(crate) const EXP: u64 = 1_800_000_000;
/// A thousand seconds before that, in milliseconds.
pub(crate) const NOW: u64 = (EXP - 1000) * 1000;

pub(crate) fn issuer(jwks: JwksSource) -> Issuer {
    Issuer {
        name: "corp".into(),
        issuer: ISS.to_owned(),
        audience: vec!["orders".to_owned()],
        algorithms: vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
        jwks,
        application_claim: None,
        leeway: Duration::ZERO,
    }
}

pub(crate) fn api(name: &str, auth: Vec<AuthMethod>) -> Api {
    Api {
        labels: Vec::new(),
        name: name.into(),
        hosts: Vec::new(),
        base_path: format!("/{name}"),
        auth,
        credentials: CredentialPlaces {
            key_header: HeaderName::from_static("x-api-key"),
            key_query: None,
            token_header: HeaderName::from_static("authorization"),
            forward: false,
        },
        destinations: None,
        addresses: None,
        cors: None,
        headers: HeaderEdits::default(),
        body_bytes: None,
        cache: None,
        strip_base_path: false,
        limits: Vec::new(),
        routes: vec![RouteRule {
            path: format!("/{name}/*"),
            methods: Default::default(),
            scopes: Vec::new(),
            slash_too: false,
            edits: None,
            cache: Default::default(),
        }],
    }
}

pub(crate) fn application(name: &str, apis: &[usize], keys: Vec<Key>) -> Application {
    let subscriptions = apis.iter().map(|&api| Subscription { api, plan: api + 10 }).collect();
    Application {
        name: name.into(),
        subscriptions,
        keys,
        certificates: Vec::new(),
    }
}

/// One API that takes tokens of one issuer.
pub(crate) fn token_revision(jwks: JwksSource) -> Revision {
    Revision {
        issuers: vec![issuer(jwks)],
        apis: vec![api("orders", vec![AuthMethod::Jwt(0)])],
        ..Revision::default()
    }
}

pub(crate) fn compile(revision: &Revision, sets: &KeySets) -> Authenticator {
    Authenticator::compile(revision, EnvironmentType::Hybrid, sets, Arc::new(TokenCache::default()))
}

pub(crate) fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    headers
}

pub(crate) fn key_header(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", key.parse().unwrap());
    headers
}
