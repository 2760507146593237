//! The text of a token, read strictly. Pure functions of bytes, callable without any setup.
//!
//! Derived deserialisers are too kind for this: they take an array for a struct and `null` for an absent member, and
//! both have been a way around the checks of other gateways (CVE-2026-107723, CVE-2026-25537). So the two objects
//! are read member by member: what is registered must have its type and occur once, everything else is skipped.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::auth::Invalid;
use crate::revision::KeyType;

/// Longest token that is looked at.
pub const MAX_TOKEN: usize = 8192;

/// The three parts of a token, still encoded.
#[derive(Clone, Copy)]
pub struct Compact<'a> {
    /// What was signed: the first two parts and the dot between them.
    pub signed: &'a str,
    /// First part.
    pub header: &'a str,
    /// Second part.
    pub payload: &'a str,
    /// Third part.
    pub signature: &'a str,
}

/// Cuts a token into its three parts.
///
/// # Errors
/// [`Invalid::Malformed`] unless there are exactly three parts, all of them non-empty, in 8192 bytes at most.
pub fn split(token: &str) -> Result<Compact<'_>, Invalid> {
    if token.len() > MAX_TOKEN {
        return Err(Invalid::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Invalid::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(Invalid::Malformed)?;
    let whole = [header, payload, signature]
        .iter()
        .all(|part| !part.is_empty() && !part.contains('.'));
    if whole {
        Ok(Compact {
            signed,
            header,
            payload,
            signature,
        })
    } else {
        Err(Invalid::Malformed)
    }
}

/// Decodes one part. Padding, foreign characters and stray trailing bits are refused, so that no token has two texts.
///
/// # Errors
/// [`Invalid::Malformed`] when the part is not canonical base64url.
pub fn decode(part: &str) -> Result<Vec<u8>, Invalid> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Malformed)
}

/// What is used of a token's header. `jku`, `x5u`, `jwk` and `x5c` are not even read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// How it says that it is signed; whether that is allowed is the issuer's affair.
    pub algorithm: Algorithm,
    /// The name of the signing key.
    pub kid: Option<String>,
}

/// Reads the decoded header.
///
/// # Errors
/// [`Invalid::Critical`], [`Invalid::Algorithm`], [`Invalid::Header`], or [`Invalid::Malformed`] when it is no JSON.
pub fn header(bytes: &[u8]) -> Result<Header, Invalid> {
    let RawHeader {
        alg,
        kid,
        typ,
        critical,
    } = object(bytes, HeaderVisitor, Invalid::Header)?;
    if critical {
        return Err(Invalid::Critical);
    }
    let algorithm = alg
        .and_then(|alg| Algorithm::from_str(&alg).ok())
        .ok_or(Invalid::Algorithm)?;
    if kid.as_ref().is_some_and(|kid| kid.len() > MAX_NAME) || !typ.is_none_or(|typ| is_access_token(&typ)) {
        return Err(Invalid::Header);
    }
    Ok(Header { algorithm, kid })
}

/// What is used of a token's claims; whether it is acceptable is decided by the verifier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// `iss`
    pub issuer: Option<String>,
    /// `sub`
    pub subject: Option<String>,
    /// `aud`, one or many.
    pub audience: Vec<String>,
    /// `exp` in unix milliseconds.
    pub expires_ms: Option<u64>,
    /// `nbf` in unix milliseconds.
    pub not_before_ms: Option<u64>,
    /// `scope`, or `scp` without it.
    pub scopes: Vec<String>,
    /// The claim that names the application.
    pub application: Option<String>,
    /// `key_type`, as tokens of a tollgate control plane say it; of anybody else's meaning of the word nothing is made.
    pub key_type: Option<KeyType>,
}

/// Reads the decoded payload; `application_claim` is the claim that names the application.
///
/// # Errors
/// [`Invalid::Claims`] for a registered claim of the wrong type or twice, [`Invalid::Malformed`] when it is no JSON.
pub fn claims(bytes: &[u8], application_claim: Option<&str>) -> Result<Claims, Invalid> {
    let raw = object(bytes, ClaimsVisitor { application_claim }, Invalid::Claims)?;
    let too_long = |name: &Option<String>| name.as_ref().is_some_and(|name| name.len() > MAX_NAME);
    if too_long(&raw.sub) || too_long(&raw.application) {
        return Err(Invalid::Claims);
    }
    let application = match application_claim {
        Some("sub") => raw.sub.clone(),
        Some("iss") => raw.iss.clone(),
        _ => raw.application,
    };
    let scopes = match (raw.scope, raw.scp) {
        (Some(scope), _) => words(&scope),
        (None, Some(Strings::One(scopes))) => words(&scopes),
        (None, Some(Strings::Many(scopes))) => scopes,
        (None, None) => Vec::new(),
    };
    Ok(Claims {
        issuer: raw.iss,
        subject: raw.sub,
        audience: match raw.aud {
            Some(Strings::One(audience)) => vec![audience],
            Some(Strings::Many(audience)) => audience,
            None => Vec::new(),
        },
        expires_ms: raw.exp.map(|Seconds(ms)| ms),
        not_before_ms: raw.nbf.map(|Seconds(ms)| ms),
        scopes,
        application,
        key_type: raw.key_type.as_ref().and_then(|value| KeyType::deserialize(value).ok()),
    })
}

/// Longest `kid`, `sub` and application name.
const MAX_NAME: usize = 256;

fn words(text: &str) -> Vec<String> {
    text.split(' ')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_access_token(typ: &str) -> bool {
    let prefix = "application/";
    let name = match typ.split_at_checked(prefix.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(prefix) => rest,
        _ => typ,
    };
    name.eq_ignore_ascii_case("jwt") || name.eq_ignore_ascii_case("at+jwt")
}

/// Reads an object and nothing but an object, to the last byte.
fn object<'de, V: Visitor<'de>>(bytes: &'de [u8], visitor: V, wrong: Invalid) -> Result<V::Value, Invalid> {
    // Skipped strings are not checked for UTF-8 by serde_json, so all of it is checked here.
    let text = std::str::from_utf8(bytes).map_err(|_| Invalid::Malformed)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let value = json.deserialize_map(visitor).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => wrong,
        _ => Invalid::Malformed,
    })?;
    json.end().map_err(|_| Invalid::Malformed)?;
    Ok(value)
}

#[derive(Default)]
struct RawHeader {
    alg: Option<String>,
    kid: Option<String>,
    typ: Option<String>,
    critical: bool,
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the header object of a token")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut raw = RawHeader::default();
        while let Some(name) = map.next_key_seed(Name)? {
            match name.as_ref() {
                "alg" => once(&mut raw.alg, map.next_value()?)?,
                "kid" => once(&mut raw.kid, map.next_value()?)?,
                "typ" => once(&mut raw.typ, map.next_value()?)?,
                other => {
                    raw.critical |= other == "crit";
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(raw)
    }
}

#[derive(Default)]
struct RawClaims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Strings>,
    exp: Option<Seconds>,
    nbf: Option<Seconds>,
    iat: Option<Seconds>,
    scope: Option<String>,
    scp: Option<Strings>,
    application: Option<String>,
    key_type: Option<serde_json::Value>,
}

struct ClaimsVisitor<'a> {
    application_claim: Option<&'a str>,
}

impl<'de> Visitor<'de> for ClaimsVisitor<'_> {
    type Value = RawClaims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the claims object of a token")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawClaims, A::Error> {
        let mut raw = RawClaims::default();
        while let Some(name) = map.next_key_seed(Name)? {
            match name.as_ref() {
                "iss" => once(&mut raw.iss, map.next_value()?)?,
                "sub" => once(&mut raw.sub, map.next_value()?)?,
                "aud" => once(&mut raw.aud, map.next_value()?)?,
                "exp" => once(&mut raw.exp, map.next_value()?)?,
                "nbf" => once(&mut raw.nbf, map.next_value()?)?,
                "iat" => once(&mut raw.iat, map.next_value()?)?,
                "scope" => once(&mut raw.scope, map.next_value()?)?,
                "scp" => once(&mut raw.scp, map.next_value()?)?,
                "key_type" if self.application_claim != Some("key_type") => once(&mut raw.key_type, map.next_value()?)?,
                other if Some(other) == self.application_claim => once(&mut raw.application, map.next_value()?)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(raw)
    }
}

/// Keeps a member; the second of the same name is an error, because readers disagree on which one counts.
fn once<T, E: Error>(slot: &mut Option<T>, value: T) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom("twice")),
    }
}

/// The name of a member, borrowed when it contains no escape.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// A string or an array of strings.
enum Strings {
    One(String),
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringsVisitor;

        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: Error>(self, one: &str) -> Result<Strings, E> {
                Ok(Strings::One(one.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strings, A::Error> {
                let mut many = Vec::new();
                while let Some(next) = seq.next_element::<String>()? {
                    many.push(next);
                }
                Ok(Strings::Many(many))
            }
        }

        deserializer.deserialize_any(StringsVisitor)
    }
}

/// A point in time as tokens write it: seconds, whole or not. Held in milliseconds.
struct Seconds(u64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecondsVisitor;

        impl Visitor<'_> for SecondsVisitor {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds since 1970, before the year 10000")
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Seconds, E> {
                if seconds > LAST_SECOND {
                    return Err(E::custom("out of range"));
                }
                Ok(Seconds(seconds * 1000))
            }

            // Negative whole numbers come here; serde's default refuses them, as it should.

            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss
            )]
            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Seconds, E> {
                // Written so that NaN fails too; the product is far below 2^53 and not negative.
                if seconds >= 0.0 && seconds <= LAST_SECOND as f64 {
                    return Ok(Seconds((seconds * 1000.0) as u64));
                }
                Err(E::custom("out of range"))
            }
        }

        deserializer.deserialize_any(SecondsVisitor)
    }
}

/// 9999-12-31T23:59:59Z. Later is a mistake, most often milliseconds.
const LAST_SECOND: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_has_exactly_three_parts() {
        assert!(split("a.b.c").is_ok());
        for token in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.",
            ".b.c",
            "a..c",
            "a.b.c.d",
            "a.b.c.d.e",
            "a.b.c.",
            ".a.b.c",
        ] {
            assert!(split(token).is_err(), "{token}");
        }
        let long = format!("{}.b.c", "a".repeat(MAX_TOKEN - 4));
        assert!(split(&long).is_ok());
        assert!(split(&format!("{long}c")).is_err());
    }

    #[test]
    fn a_part_has_one_encoding_only() {
        assert_eq!(decode("YQ").unwrap(), b"a");
        for part in ["YQ==", "YR", "YQ=", "Y", "Y Q", "YQ\n", "+/+/", "é"] {
            assert_eq!(decode(part), Err(Invalid::Malformed), "{part}");
        }
    }

    #[test]
    fn a_header_is_read_and_foreign_members_are_not() {
        let text = br#" {"alg":"RS256","typ":"at+JWT","kid":"k","jku":"http://evil","jwk":{"kty":"oct"}} "#;
        assert_eq!(
            header(text),
            Ok(Header {
                algorithm: Algorithm::RS256,
                kid: Some("k".to_owned())
            })
        );
        for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt", "Application/JWT"] {
            assert!(
                header(format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#).as_bytes()).is_ok(),
                "{typ}"
            );
        }
    }

    #[test]
    fn a_header_that_is_not_strictly_right_is_refused() {
        let long = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(257));
        for (text, expected) in [
            (r#"{"alg":"none"}"#, Invalid::Algorithm),
            (r#"{"alg":"None"}"#, Invalid::Algorithm),
            (r#"{"alg":"rs256"}"#, Invalid::Algorithm),
            (r#"{"alg":""}"#, Invalid::Algorithm),
            (r"{}", Invalid::Algorithm),
            (r#"{"alg":null}"#, Invalid::Header),
            (r#"{"alg":["RS256"]}"#, Invalid::Header),
            (r#"{"alg":"RS256","alg":"RS256"}"#, Invalid::Header),
            (r#"{"alg":"RS256","\u0061lg":"none"}"#, Invalid::Header),
            (r#"{"alg":"RS256","kid":1}"#, Invalid::Header),
            (r#"{"alg":"RS256","kid":null}"#, Invalid::Header),
            (r#"{"alg":"RS256","typ":"JWE"}"#, Invalid::Header),
            (r#"{"alg":"RS256","typ":"application/"}"#, Invalid::Header),
            (r#"{"alg":"RS256","crit":["exp"]}"#, Invalid::Critical),
            (r#"{"alg":"RS256","crit":[]}"#, Invalid::Critical),
            (r#"{"alg":"RS256","crit":null}"#, Invalid::Critical),
            (r#"["RS256"]"#, Invalid::Header),
            (r#""RS256""#, Invalid::Header),
            (r#"{"alg":"RS256"} x"#, Invalid::Malformed),
            (r#"{"alg":"RS256""#, Invalid::Malformed),
            ("", Invalid::Malformed),
            (long.as_str(), Invalid::Header),
        ] {
            assert_eq!(header(text.as_bytes()), Err(expected), "{text}");
        }
        assert_eq!(header(b"{\"alg\":\"RS256\",\"x\":\"\xff\"}"), Err(Invalid::Malformed));
    }

    #[test]
    fn claims_are_read() {
        let text = br#"{"iss":"i","sub":"s","aud":["a","b"],"exp":1.5,"nbf":1,"iat":0,"scope":"x  y","azp":"app"}"#;
        let expected = Claims {
            issuer: Some("i".to_owned()),
            subject: Some("s".to_owned()),
            audience: vec!["a".to_owned(), "b".to_owned()],
            expires_ms: Some(1500),
            not_before_ms: Some(1000),
            scopes: vec!["x".to_owned(), "y".to_owned()],
            key_type: None,
            application: Some("app".to_owned()),
        };
        assert_eq!(claims(text, Some("azp")), Ok(expected));
        let scp = |text: &str| claims(text.as_bytes(), None).unwrap().scopes;
        assert_eq!(scp(r#"{"scp":["x","y"]}"#), ["x", "y"]);
        assert_eq!(scp(r#"{"scp":"x y"}"#), ["x", "y"]);
        assert_eq!(scp(r#"{"scp":["x"],"scope":"y"}"#), ["y"]);
        assert_eq!(
            claims(br#"{"sub":"s"}"#, Some("sub")).unwrap().application.as_deref(),
            Some("s")
        );
    }

    #[test]
    fn a_claim_of_the_wrong_type_is_refused_and_never_taken_for_absent() {
        let wrong = [
            r#""iss":1"#,
            r#""iss":null"#,
            r#""iss":["i"]"#,
            r#""sub":7"#,
            r#""sub":null"#,
            r#""aud":1"#,
            r#""aud":null"#,
            r#""aud":{"a":1}"#,
            r#""aud":["a",1]"#,
            r#""aud":[["a"]]"#,
            r#""exp":"1""#,
            r#""exp":null"#,
            r#""exp":true"#,
            r#""exp":-1"#,
            r#""exp":-0.5"#,
            r#""exp":1e300"#,
            r#""exp":253402300800"#,
            r#""exp":18446744073709551615"#,
            r#""exp":99999999999999999999"#,
            r#""exp":[1]"#,
            r#""nbf":"1""#,
            r#""nbf":null"#,
            r#""nbf":{}"#,
            r#""iat":"now""#,
            r#""iat":null"#,
            r#""scope":["a"]"#,
            r#""scope":null"#,
            r#""scp":1"#,
            r#""scp":[1]"#,
            r#""azp":1"#,
            r#""azp":null"#,
            r#""exp":1,"exp":2"#,
            r#""exp":1,"\u0065xp":1"#,
            r#""iss":"a","iss":"a""#,
            r#""azp":"a","azp":"a""#,
        ];
        for member in wrong {
            let text = format!("{{{member}}}");
            assert_eq!(claims(text.as_bytes(), Some("azp")), Err(Invalid::Claims), "{text}");
        }
        for text in ["[]", r#"["i","s"]"#, "1", "null", r#""{}""#] {
            assert_eq!(claims(text.as_bytes(), None), Err(Invalid::Claims), "{text}");
        }
        for text in [
            "",
            "{",
            "{}{}",
            r#"{"exp":1e999}"#,
            r#"{"exp":NaN}"#,
            &format!(r#"{{"x":{}1}}"#, "[".repeat(4000)),
        ] {
            assert_eq!(claims(text.as_bytes(), None), Err(Invalid::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = header(&bytes);
            let _ = claims(&bytes, Some("azp"));
        }

        #[test]
        fn any_json_can_be_parsed(text in r#"\{("(alg|kid|crit|iss|aud|exp|scp)":("a"|1|-1|1e9|null|\["a"\]|\{\}),?){0,6}\}"#) {
            let _ = header(text.as_bytes());
            let _ = claims(text.as_bytes(), None);
        }

        #[test]
        fn any_text_can_be_split(text in "[A-Za-z0-9_.=é-]{0,80}") {
            if let Ok(compact) = split(&text) {
                let _ = decode(compact.signature);
                let joined = format!("{}.{}.{}", compact.header, compact.payload, compact.signature);
                prop_assert_eq!(joined, text);
            }
        }
    }
}
