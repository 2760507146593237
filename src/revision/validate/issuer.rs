//! Issuers and the sources of their keys.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::Value;

use super::super::raw::{RawIntrospection, RawIssuer, RawJwks};
use super::super::{IntrospectionCredential, Introspector, Issuer, JwksSource};
use super::{Checker, who};
use crate::document::{At, Place, is_credential, quote};

/// More than this is not a difference between clocks but a broken clock.
const LARGEST_LEEWAY: Duration = Duration::from_secs(300);
/// The members of a JWK that are private (RFC 7518 section 6).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

impl Checker<'_> {
    pub(super) fn issuer(&mut self, raw: &At<RawIssuer>) -> Option<Issuer> {
        let RawIssuer {
            name,
            issuer,
            audience,
            algorithms,
            jwks,
            introspection,
            application_claim,
            leeway,
        } = &raw.value;
        let who = who("issuer", name.as_ref());
        if introspection.is_some() {
            if let Some(jwks) = jwks {
                let message = format!(
                    "{who} has \"jwks\" and \"introspection\"; its tokens either say what they are worth, or somebody is \
                     asked: make it two issuers"
                );
                self.report.error(jwks.place, message);
            }
            return None;
        }
        let name = self.need(raw.place, &who, "name", name.as_ref());
        let issuer = self.need(raw.place, &who, "issuer", issuer.as_ref());
        self.not_empty(raw.place, &who, "audience", audience);
        self.not_empty(raw.place, &who, "algorithms", algorithms);
        let texts = audience.iter().chain(issuer).chain(application_claim);
        for empty in texts.filter(|text| text.trim().is_empty()) {
            self.report
                .error(empty.place, "an empty text here would fit any token or none");
        }
        let first = algorithms.first();
        let shared = |algorithm: Algorithm| algorithm.family() == AlgorithmFamily::Hmac;
        if let Some(first) = first
            && let Some(other) = algorithms
                .iter()
                .find(|other| shared(other.get().0) != shared(first.get().0))
        {
            let message = format!(
                "{who} mixes algorithms with shared secrets (HS*) and with public keys; whoever knows a public key \
                 could then sign with it"
            );
            self.report.error(other.place, message);
        }
        if let Some(leeway) = leeway
            && *leeway.get() > LARGEST_LEEWAY
        {
            let message = format!("{who}: \"leeway\" is at most 5m; tokens would outlive their expiry by more");
            self.report.error(leeway.place, message);
        }
        let shared = first.is_some_and(|first| shared(first.get().0));
        if jwks.is_none() && !self.dropped.contains(raw.place, "jwks") {
            let message = format!(
                "{who} has no \"jwks\"; write where its keys are, or as \"introspection\" who is asked about its tokens"
            );
            self.report.error(raw.place, message);
        }
        let jwks = jwks.as_ref();
        let jwks = jwks.and_then(|jwks| self.jwks(jwks, &who, shared));
        Some(Issuer {
            name: name?.as_str().into(),
            issuer: issuer?.value.clone(),
            audience: audience.iter().map(|audience| audience.value.clone()).collect(),
            algorithms: algorithms.iter().map(|algorithm| algorithm.get().0).collect(),
            jwks: jwks?,
            application_claim: application_claim.as_ref().map(|claim| claim.value.clone()),
            leeway: leeway.map_or(Duration::ZERO, |leeway| *leeway.get()),
        })
    }

    /// An issuer whose tokens are asked about.
    pub(super) fn introspector(&mut self, raw: &At<RawIssuer>) -> Option<Introspector> {
        let RawIssuer {
            name,
            issuer,
            audience,
            algorithms,
            jwks: _,
            introspection,
            application_claim,
            leeway,
        } = &raw.value;
        let at = introspection.as_ref()?;
        let who = who("issuer", name.as_ref());
        let unused = [
            (algorithms.first().map(|first| first.place), "algorithms"),
            (leeway.as_ref().map(|leeway| leeway.place), "leeway"),
        ];
        for (place, key) in unused {
            if let Some(place) = place {
                let message = format!(
                    "{who}: {} says nothing about tokens that are asked about; remove it",
                    quote(key)
                );
                self.report.error(place, message);
            }
        }
        for empty in audience
            .iter()
            .chain(issuer)
            .chain(application_claim)
            .filter(|text| text.trim().is_empty())
        {
            self.report
                .error(empty.place, "an empty text here would fit any token or none");
        }
        let RawIntrospection {
            url,
            client_id,
            client_secret,
            token,
        } = &at.value;
        let name = self.need(raw.place, &who, "name", name.as_ref());
        let url = self.need(at.place, &format!("the introspection of {who}"), "url", url.as_ref());
        let url = url.and_then(|url| self.public_url(url, "https://host/introspect"));
        let credential = match (client_id, client_secret, token) {
            (Some(id), Some(secret), None) => Some(IntrospectionCredential::Basic {
                id: id.value.clone(),
                secret: secret.value.clone(),
            }),
            (None, None, Some(token)) => Some(IntrospectionCredential::Bearer(token.value.clone())),
            _ => {
                let dropped = ["client_id", "client_secret", "token"];
                if !dropped.iter().any(|key| self.dropped.contains(at.place, key)) {
                    let message = format!(
                        "the introspection of {who} has to say who asks: \"client_id\" and \"client_secret\", or \"token\""
                    );
                    self.report.error(at.place, message);
                }
                None
            }
        };
        for secret in [client_secret, token].into_iter().flatten() {
            let text = secret.value.expose();
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                let message = "a secret that is sent in a header consists of printable ASCII characters without spaces, \
                               and there has to be one";
                self.report.discreet_error(secret.place, message);
            }
        }
        Some(Introspector {
            name: name?.as_str().into(),
            url: url?,
            credential: credential?,
            issuer: issuer.as_ref().map(|issuer| issuer.value.clone()),
            audience: audience.iter().map(|audience| audience.value.clone()).collect(),
            application_claim: application_claim.as_ref().map(|claim| claim.value.clone()),
        })
    }

    fn jwks(&mut self, raw: &At<RawJwks>, who: &str, shared: bool) -> Option<JwksSource> {
        let RawJwks { url, file, keys } = &raw.value;
        match (url, file, keys) {
            (Some(at), None, None) => {
                self.no_shared_secret(at.place, who, shared);
                self.public_url(at, "https://host/jwks.json").map(JwksSource::Url)
            }
            (None, Some(at), None) => {
                self.no_shared_secret(at.place, who, shared);
                if at.trim().is_empty() {
                    self.report.error(at.place, "an empty text is not a file");
                    return None;
                }
                let Some(directory) = self.surroundings.directory else {
                    let message = format!(
                        "{who}: gateways have no such file; write its keys as \"keys\", or where they are as \"url\""
                    );
                    self.report.error(at.place, message);
                    return None;
                };
                Some(JwksSource::File(directory.join(PathBuf::from(&at.value))))
            }
            (None, None, Some(keys)) => {
                if keys.is_empty() && !self.dropped.contains(raw.place, "keys") {
                    let message = format!("{who} has no keys; nothing it issues could be let in");
                    self.report.error(keys.place, message);
                }
                for key in &keys.value {
                    if let Err(message) = inline_key(key, shared, self.surroundings.directory.is_none()) {
                        self.report.error(key.place, format!("{who}: {message}"));
                    }
                }
                Some(JwksSource::Inline(keys.iter().map(|key| key.value.clone()).collect()))
            }
            _ => {
                // One of them may have been there and been reported.
                if !["url", "file", "keys"]
                    .iter()
                    .any(|key| self.dropped.contains(raw.place, key))
                {
                    let message = format!("{who}: \"jwks\" needs exactly one of \"url\", \"file\" and \"keys\"");
                    self.report.error(raw.place, message);
                }
                None
            }
        }
    }

    fn no_shared_secret(&mut self, place: Place, who: &str, shared: bool) {
        if shared {
            let message = format!(
                "{who} signs with shared secrets (HS*), which are not published as a key set; write them as \"keys\" \
                 with k: \"${{file:/path}}\""
            );
            self.report.error(place, message);
        }
    }

    /// A URL that may stand in logs.
    fn public_url(&mut self, url: &At<String>, example: &str) -> Option<String> {
        let parsed = url.parse::<http::Uri>().ok();
        let scheme = parsed.as_ref().and_then(http::Uri::scheme_str);
        let host = parsed.as_ref().and_then(http::Uri::host).unwrap_or_default();
        let message = match scheme {
            Some("http" | "https") if !host.is_empty() => {
                let authority = parsed.as_ref().and_then(http::Uri::authority);
                if !authority.is_some_and(|authority| authority.as_str().contains('@')) {
                    return Some(url.value.clone());
                }
                // Not repeated: it holds a password.
                "a URL with a user or password would show them in logs".to_owned()
            }
            Some("http" | "https") | None => format!("{} is not a URL such as {example}", quote(url)),
            Some(_) => format!("{} is not an http: or https: URL", quote(url)),
        };
        self.report.error(url.place, message);
        None
    }
}

/// Whether a key written into the revision can verify anything. Its members are never repeated: they may be
/// secret even where they should not be. In a document `for_gateways`, a secret may be a reference to a credential that
/// only they have: they look at it once more.
fn inline_key(key: &Value, shared: bool, for_gateways: bool) -> Result<(), String> {
    let Some(members) = key.as_object() else {
        return Err("a key has to be a mapping of JWK members such as kty, crv, x and y".to_owned());
    };
    let kty = members.get("kty").and_then(Value::as_str).unwrap_or_default();
    match kty {
        "oct" if !shared => {
            return Err("a key of type oct is a shared secret and goes with HS256, HS384 or HS512 only".to_owned());
        }
        "RSA" | "EC" | "OKP" if shared => {
            return Err(
                "HS* needs a key of type oct; a public key as a shared secret is known to everybody".to_owned(),
            );
        }
        "oct" | "RSA" | "EC" | "OKP" => {}
        "" => return Err("the key has no \"kty\"; there are RSA, EC, OKP and oct".to_owned()),
        other => {
            return Err(format!(
                "{} is not a type of key; there are RSA, EC, OKP and oct",
                quote(other)
            ));
        }
    }
    if kty != "oct"
        && let Some(private) = PRIVATE.iter().find(|private| members.contains_key(**private))
    {
        return Err(format!(
            "the key has the private member {}; a gateway needs the public part only, and this key should be replaced",
            quote(private)
        ));
    }
    let is_elsewhere = members.get("k").and_then(Value::as_str).is_some_and(is_credential);
    if kty == "oct" && for_gateways && is_elsewhere {
        return Ok(());
    }
    let incomplete = || format!("the members of this {kty} key are not complete or not base64url");
    let jwk = Jwk::deserialize_value(key).ok_or_else(incomplete)?;
    if let AlgorithmParameters::Other(_) = jwk.algorithm {
        return Err(incomplete());
    }
    DecodingKey::from_jwk(&jwk).map_err(|_| incomplete())?;
    if let AlgorithmParameters::OctetKey(secret) = &jwk.algorithm
        && secret.value.len() * 3 / 4 < 32
    {
        return Err("a shared secret has to have at least 32 bytes (RFC 7518 section 3.2)".to_owned());
    }
    Ok(())
}

/// `serde_json::from_value` without a copy of the key and without its error, which repeats values.
trait DeserializeValue: Sized {
    fn deserialize_value(value: &Value) -> Option<Self>;
}

impl DeserializeValue for Jwk {
    fn deserialize_value(value: &Value) -> Option<Self> {
        serde::Deserialize::deserialize(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    #[test]
    fn an_inline_key_is_public_complete_and_of_the_right_kind() {
        let public = json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y});
        assert_eq!(inline_key(&public, false, false), Ok(()));
        let secret = json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"});
        assert_eq!(inline_key(&secret, true, false), Ok(()));
        let elsewhere = json!({"kty": "oct", "k": "${cred:shared}"});
        assert_eq!(inline_key(&elsewhere, true, true), Ok(()));
        assert!(inline_key(&elsewhere, true, false).is_err(), "here it has to be there");
        assert!(inline_key(&elsewhere, false, true).is_err());
        for (key, shared, expected) in [
            (public.clone(), true, "known to everybody"),
            (secret, false, "HS256, HS384 or HS512 only"),
            (json!({"kty": "oct", "k": "c2hvcnQ"}), true, "at least 32 bytes"),
            (
                json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "d": "hidden"}),
                false,
                "private member \"d\"",
            ),
            (json!({"kty": "EC", "crv": "P-256", "x": X}), false, "not complete"),
            (
                json!({"kty": "EC", "crv": "P-256", "x": "?", "y": "!"}),
                false,
                "not complete",
            ),
            (json!({"kty": "ec"}), false, "not a type of key"),
            (json!({"x": X}), false, "no \"kty\""),
            (json!("text"), false, "has to be a mapping"),
        ] {
            let message = inline_key(&key, shared, false).unwrap_err();
            assert!(message.contains(expected), "{key} gave {message}");
            assert!(!message.contains("hidden") && !message.contains(X), "{message}");
        }
    }
}
