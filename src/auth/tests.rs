//! The stage as a whole, without a network: keys, tokens, attacks on tokens. Rotation and outages are in `jwks/tests`.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::testing::{
    EXP, ISS, NOW, RSA, Signer, api, application, base64url, bearer, compile, good_claims, good_token, issuer,
    key_header, raw_token, token, token_revision,
};
use super::*;
use crate::names::ApplicationName;
use crate::revision::{JwksSource, Key, KeyType};

// === Keys ===

#[test]
fn a_key_of_a_subscribed_application_is_let_in_and_known() {
    let house = House::new();
    let caller = house.with_key(ORDERS, &house.live).unwrap();
    assert_eq!(caller.application(), Some(0));
    assert_eq!(caller.plan(), Some(10));
    assert_eq!(caller.key_id().unwrap(), "mobile-live");
    assert_eq!(caller.key_type(), Some(KeyType::Production));
    assert_eq!(caller.key_hash(), Some(keyring::stable_hash("key", "mobile-live")));
    assert_eq!(caller.subject(), None);
}

#[test]
fn each_reason_to_refuse_a_key_is_told_apart() {
    let house = House::new();
    let mut mistyped = house.live.clone();
    mistyped.replace_range(20..21, if &mistyped[20..21] == "x" { "y" } else { "x" });
    let foreign = new_key(&ApplicationName::from("other"), KeyType::Production, None, None).unwrap();

    assert_eq!(house.ask(ORDERS, &HeaderMap::new()), Err(Denial::CredentialMissing));
    assert_eq!(house.ask(ORDERS, &key_header(&mistyped)), invalid(Invalid::Mistyped));
    assert_eq!(house.ask(ORDERS, &key_header("short")), invalid(Invalid::Malformed));
    assert_eq!(
        house.ask(ORDERS, &key_header(foreign.text.reveal())),
        invalid(Invalid::UnknownKey)
    );
    assert_eq!(
        house.ask(INVOICES, &key_header(&house.live)),
        Err(Denial::SubscriptionMissing)
    );
}

#[test]
fn a_key_of_somebody_elses_making_works_by_its_hash() {
    let house = House::new();
    assert_eq!(
        house
            .with_key(ORDERS, "legacy-key-of-another-gateway")
            .unwrap()
            .key_id()
            .unwrap(),
        "legacy"
    );
}

#[test]
fn a_key_expires_at_its_millisecond() {
    let house = House::new();
    let at = |now_ms| {
        house
            .authenticator
            .examine(ORDERS, &[], &key_header(&house.expiring), None, None, now_ms)
            .map(drop)
    };
    assert_eq!(at(EXP * 1000 - 1), Ok(()));
    assert_eq!(at(EXP * 1000), Err(Denial::CredentialExpired));
    assert_eq!(at(EXP * 1000 + 1), Err(Denial::CredentialExpired));
}

#[test]
fn a_gateway_lets_in_the_key_types_of_its_environment() {
    for (environment, live, test) in [
        (EnvironmentType::Hybrid, Ok(()), Ok(())),
        (EnvironmentType::Production, Ok(()), Err(Denial::KeyTypeMismatch)),
        (EnvironmentType::Sandbox, Err(Denial::KeyTypeMismatch), Ok(())),
    ] {
        let house = House::in_environment(environment);
        assert_eq!(house.ask(ORDERS, &key_header(&house.live)), live, "{environment:?}");
        assert_eq!(house.ask(ORDERS, &key_header(&house.test)), test, "{environment:?}");
    }
}

#[test]
fn a_key_carries_no_scopes() {
    let house = House::new();
    let scopes = ["orders:write".to_owned()];
    let verdict = house
        .authenticator
        .examine(ORDERS, &scopes, &key_header(&house.live), None, None, NOW)
        .map(drop);
    assert_eq!(
        verdict,
        Err(Denial::ScopeInsufficient {
            required: scopes.to_vec().into()
        })
    );
}

#[test]
fn a_credential_of_a_kind_that_the_api_does_not_take_is_no_credential() {
    let house = House::new();
    assert_eq!(
        house.ask(TOKENS, &key_header(&house.live)),
        Err(Denial::CredentialMissing)
    );
    assert_eq!(
        house.ask(ORDERS, &bearer(&good_token(&RSA, "rsa"))),
        Err(Denial::CredentialMissing)
    );
    assert_eq!(
        house.authenticator.accepted(ORDERS),
        Accepted {
            key: true,
            token: false,
            certificate: false,
        }
    );
    assert_eq!(
        house.authenticator.accepted(TOKENS),
        Accepted {
            key: false,
            token: true,
            certificate: false,
        }
    );
    assert_eq!(
        house.authenticator.accepted(OPEN),
        Accepted {
            key: false,
            token: false,
            certificate: false,
        }
    );
}

#[test]
fn an_open_api_asks_nobody_whatever_is_presented() {
    let house = House::new();
    let mut both = key_header("nonsense-key");
    both.extend(bearer("nonsense"));
    for headers in [HeaderMap::new(), both] {
        let caller = house
            .authenticator
            .examine(OPEN, &[], &headers, None, None, NOW)
            .unwrap();
        assert!(matches!(caller.identity(), Identity::Anonymous));
        assert_eq!(
            (caller.application(), caller.plan(), caller.key_hash()),
            (None, None, None)
        );
    }
}

#[test]
fn an_api_that_does_not_exist_lets_nobody_in() {
    let house = House::new();
    assert_eq!(house.ask(99, &key_header(&house.live)), Err(Denial::CredentialMissing));
    assert_eq!(
        house.ask(usize::MAX, &key_header(&house.live)),
        Err(Denial::CredentialMissing)
    );
}

#[test]
fn two_credentials_are_refused_even_if_both_are_good() {
    let house = House::new();
    let mut headers = key_header(&house.live);
    headers.extend(bearer(&good_token(&RSA, "rsa")));
    assert_eq!(house.ask(BOTH, &headers), Err(Denial::CredentialAmbiguous));
    assert_eq!(house.ask(BOTH, &key_header(&house.live)), Ok(()));
    assert_eq!(house.ask(BOTH, &bearer(&good_token(&RSA, "rsa"))), Ok(()));
}

// === Tokens ===

#[test]
fn tokens_of_each_kind_of_key_are_let_in() {
    let (ec, ed) = (Signer::ec(), Signer::ed());
    let keys = vec![RSA.jwk("rsa"), ec.jwk("ec"), ed.jwk("ed")];
    let authenticator = compile(&token_revision(JwksSource::Inline(keys)), &KeySets::offline());
    for (signer, kid) in [(&*RSA, "rsa"), (&ec, "ec"), (&ed, "ed")] {
        let caller = authenticator
            .examine(0, &[], &bearer(&good_token(signer, kid)), None, None, NOW)
            .unwrap();
        assert_eq!(caller.subject(), Some("alice"));
        assert_eq!((caller.application(), caller.plan()), (None, None));
        assert!(caller.subject_hash().is_some());

        let nameless = token(&json!({"alg": signer.algorithm()}), &good_claims(), signer);
        assert!(
            authenticator
                .examine(0, &[], &bearer(&nameless), None, None, NOW)
                .is_ok(),
            "{kid} without its name"
        );
        let crossed = good_token(signer, if kid == "ed" { "ec" } else { "ed" });
        assert_eq!(ask(&authenticator, &crossed), invalid(Invalid::Algorithm));
    }
}

#[test]
fn a_token_is_in_time_to_the_millisecond_fresh_or_cached() {
    let mut revision = rsa_revision();
    let claims = json!({"iss": ISS, "aud": "orders", "exp": EXP, "nbf": EXP - 100});
    let text = rsa_token(&claims);
    for leeway in [0, 1500] {
        revision.issuers[0].leeway = Duration::from_millis(leeway);
        let cached = compile(&revision, &KeySets::offline());
        for (now_ms, expected) in [
            ((EXP - 100) * 1000 - leeway - 1, invalid(Invalid::NotYetValid)),
            ((EXP - 100) * 1000 - leeway, Ok(())),
            (EXP * 1000 + leeway - 1, Ok(())),
            (EXP * 1000 + leeway, Err(Denial::CredentialExpired)),
            (u64::MAX, Err(Denial::CredentialExpired)),
            // The clock is set back, and the cached verdict with it.
            (0, invalid(Invalid::NotYetValid)),
        ] {
            let fresh = compile(&revision, &KeySets::offline());
            let at = |authenticator: &Authenticator| {
                authenticator
                    .examine(0, &[], &bearer(&text), None, None, now_ms)
                    .map(drop)
            };
            assert_eq!(at(&fresh), expected, "fresh, leeway {leeway}, at {now_ms}");
            assert_eq!(at(&cached), expected, "cached, leeway {leeway}, at {now_ms}");
        }
        assert_eq!(cached.tokens.len(), 1);
    }
}

#[test]
fn a_fraction_of_a_second_counts() {
    let authenticator = compile(&rsa_revision(), &KeySets::offline());
    let text = rsa_token(&json!({"iss": ISS, "aud": "orders", "exp": EXP as f64 + 0.25}));
    let at = |now_ms| {
        authenticator
            .examine(0, &[], &bearer(&text), None, None, now_ms)
            .map(drop)
    };
    assert_eq!(at(EXP * 1000 + 249), Ok(()));
    assert_eq!(at(EXP * 1000 + 250), Err(Denial::CredentialExpired));
}

#[test]
fn claims_that_are_not_meant_for_us_are_refused() {
    let authenticator = compile(&rsa_revision(), &KeySets::offline());
    let with = |name: &str, value: Value| {
        let mut claims = good_claims();
        claims[name] = value;
        ask(&authenticator, &rsa_token(&claims))
    };
    let without = |name: &str| {
        let mut claims = good_claims();
        claims.as_object_mut().unwrap().remove(name);
        ask(&authenticator, &rsa_token(&claims))
    };
    assert_eq!(with("aud", json!(["else", "orders"])), Ok(()));
    assert_eq!(with("aud", json!(["else"])), invalid(Invalid::Audience));
    assert_eq!(with("aud", json!("ORDERS")), invalid(Invalid::Audience));
    assert_eq!(with("aud", json!([])), invalid(Invalid::Audience));
    assert_eq!(without("aud"), invalid(Invalid::Audience));
    assert_eq!(with("iss", json!("https://idp.example.com/")), invalid(Invalid::Issuer));
    assert_eq!(without("iss"), invalid(Invalid::Issuer));
    assert_eq!(without("exp"), invalid(Invalid::Claims));
    assert_eq!(without("sub"), Ok(()));
    assert_eq!(with("sub", json!("s".repeat(256))), Ok(()));
    assert_eq!(with("sub", json!("s".repeat(257))), invalid(Invalid::Claims));
}

#[test]
fn scopes_are_asked_for_all_of_them() {
    let authenticator = compile(&rsa_revision(), &KeySets::offline());
    let ask = |scopes: &[&str]| {
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        authenticator
            .examine(0, &scopes, &bearer(&good_token(&RSA, "rsa")), None, None, NOW)
            .map(drop)
    };
    assert_eq!(ask(&["orders:read"]), Ok(()));
    assert_eq!(ask(&["orders:write", "orders:read"]), Ok(()));
    let required: Box<[String]> = ["orders:read".to_owned(), "orders:admin".to_owned()].into();
    assert_eq!(
        ask(&["orders:read", "orders:admin"]),
        Err(Denial::ScopeInsufficient { required })
    );
}

#[test]
fn a_token_that_names_its_application_needs_its_subscription() {
    let mut revision = rsa_revision();
    revision.issuers[0].application_claim = Some("azp".to_owned());
    revision.applications = vec![
        application("stranger", &[], vec![]),
        application("mobile", &[0], vec![]),
    ];
    let authenticator = compile(&revision, &KeySets::offline());
    let with = |azp: Option<&str>| {
        let mut claims = good_claims();
        if let Some(azp) = azp {
            claims["azp"] = json!(azp);
        }
        authenticator.examine(0, &[], &bearer(&rsa_token(&claims)), None, None, NOW)
    };
    let caller = with(Some("mobile")).unwrap();
    assert_eq!((caller.application(), caller.plan()), (Some(1), Some(10)));
    assert_eq!(caller.subject(), Some("alice"));
    for azp in [None, Some("stranger"), Some("nobody"), Some("")] {
        assert_eq!(with(azp).map(drop), Err(Denial::SubscriptionMissing), "{azp:?}");
    }
}

#[test]
fn one_api_may_trust_several_issuers_and_each_keeps_its_own_rules() {
    let (ours, theirs) = (Signer::ed(), Signer::ed());
    let mut second = issuer(JwksSource::Inline(vec![theirs.jwk("k")]));
    second.name = "partner".into();
    second.issuer = "https://partner.example".to_owned();
    let mut revision = token_revision(JwksSource::Inline(vec![ours.jwk("k")]));
    revision.issuers.push(second);
    revision.apis[0].auth.push(AuthMethod::Jwt(1));
    let authenticator = compile(&revision, &KeySets::offline());

    let mut partner = good_claims();
    partner["iss"] = json!("https://partner.example");
    let header = json!({"alg": "EdDSA", "kid": "k"});
    assert_eq!(ask(&authenticator, &token(&header, &good_claims(), &ours)), Ok(()));
    assert_eq!(ask(&authenticator, &token(&header, &partner, &theirs)), Ok(()));
    assert_eq!(
        ask(&authenticator, &token(&header, &partner, &ours)),
        invalid(Invalid::Signature)
    );
    assert_eq!(
        ask(&authenticator, &token(&header, &good_claims(), &theirs)),
        invalid(Invalid::Signature)
    );
}

#[test]
fn a_verdict_outlives_a_revision_but_not_the_rules_or_keys_it_was_made_with() {
    let sets = KeySets::offline();
    let cache = Arc::new(TokenCache::default());
    let revision = rsa_revision();
    let compile =
        |revision: &Revision| Authenticator::compile(revision, EnvironmentType::Hybrid, &sets, Arc::clone(&cache));
    let text = good_token(&RSA, "rsa");
    let first = compile(&revision);
    assert_eq!(ask(&first, &text), Ok(()));
    assert_eq!(ask(&compile(&revision), &text), Ok(()));
    assert_eq!(cache.len(), 1, "the same rules and keys find the same verdict");

    let mut narrower = revision.clone();
    narrower.issuers[0].audience = vec!["invoices".to_owned()];
    assert_eq!(ask(&compile(&narrower), &text), invalid(Invalid::Audience));
    let mut fewer = revision.clone();
    fewer.issuers[0].algorithms = vec![Algorithm::ES256];
    assert_eq!(ask(&compile(&fewer), &text), invalid(Invalid::Algorithm));
    let mut other_keys = revision.clone();
    other_keys.issuers[0].jwks = JwksSource::Inline(vec![Signer::ed().jwk("rsa")]);
    assert_eq!(ask(&compile(&other_keys), &text), invalid(Invalid::Algorithm));
    assert_eq!(ask(&first, &text), Ok(()));
}

#[test]
fn the_cache_of_verdicts_is_bounded() {
    let signer = Signer::ed();
    let cache = Arc::new(TokenCache::new(20));
    let revision = token_revision(JwksSource::Inline(vec![signer.jwk("k")]));
    let authenticator = Authenticator::compile(
        &revision,
        EnvironmentType::Hybrid,
        &KeySets::offline(),
        Arc::clone(&cache),
    );
    for number in 0..200 {
        let mut claims = good_claims();
        claims["jti"] = json!(number);
        let text = token(&json!({"alg": "EdDSA", "kid": "k"}), &claims, &signer);
        assert_eq!(ask(&authenticator, &text), Ok(()));
    }
    assert!(cache.len() <= 20, "{}", cache.len());
}

#[test]
fn keys_without_names_serve_tokens_that_name_theirs() {
    let mut jwk = RSA.jwk("rsa");
    jwk.as_object_mut().unwrap().remove("kid");
    let authenticator = compile(&token_revision(JwksSource::Inline(vec![jwk])), &KeySets::offline());
    assert_eq!(ask(&authenticator, &good_token(&RSA, "whatever")), Ok(()));
}

#[test]
fn a_key_set_that_is_unreadable_or_empty_is_unavailable_and_not_unauthorised() {
    let missing = JwksSource::File("/nonexistent/jwks.json".into());
    let device = JwksSource::File("/dev/zero".into());
    for source in [
        JwksSource::Inline(vec![]),
        JwksSource::Url("http://127.0.0.1:1/jwks".to_owned()),
        missing,
        device,
    ] {
        let sets = KeySets::offline();
        let authenticator = compile(&token_revision(source.clone()), &sets);
        assert_eq!(
            ask(&authenticator, &good_token(&RSA, "rsa")),
            Err(Denial::KeysUnavailable),
            "{source:?}"
        );
        // What can be refused without keys is refused: an outage is no cover.
        assert_eq!(ask(&authenticator, "a.b.c"), invalid(Invalid::Malformed));
        assert_eq!(sets.status()[0].keys, 0);
    }
}

// === Attacks ===

#[test]
fn no_forged_or_twisted_token_is_let_in() {
    let mut revision = rsa_revision();
    // Even an issuer that is careless enough to allow both families is not confused.
    revision.issuers[0].algorithms.push(Algorithm::HS256);
    let authenticator = compile(&revision, &KeySets::offline());
    let good = good_token(&RSA, "rsa");
    assert_eq!(ask(&authenticator, &good), Ok(()));

    let attacker = Signer::Rsa(aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap());
    let claims = good_claims().to_string();
    let [head, body, tail] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    let signed = |header: &str, payload: &str| raw_token(header, payload, |message| RSA.sign(message));
    let plain = r#"{"alg":"RS256","kid":"rsa"}"#;
    let mut attacks: Vec<(String, String, Invalid)> = Vec::new();
    let mut attack = |name: &str, text: String, reason: Invalid| attacks.push((name.to_owned(), text, reason));

    for none in ["none", "None", "NONE", "nOnE", "", "null"] {
        let header = json!({"alg": none, "kid": "rsa"}).to_string();
        attack("alg none, signature kept", signed(&header, &claims), Invalid::Algorithm);
        attack(
            "alg none, junk signature",
            raw_token(&header, &claims, |_| vec![0]),
            Invalid::Algorithm,
        );
        attack(
            "alg none, no signature",
            raw_token(&header, &claims, |_| vec![]),
            Invalid::Malformed,
        );
    }
    for secret in RSA.public_forms() {
        let header = r#"{"alg":"HS256","kid":"rsa"}"#;
        let text = raw_token(header, &claims, |message| hmac(&secret, message));
        attack("HS256 with the public key", text, Invalid::Algorithm);
        let text = raw_token(r#"{"alg":"HS256"}"#, &claims, |message| hmac(&secret, message));
        attack("HS256 with the public key, no kid", text, Invalid::UnknownSigner);
    }
    for kid in [
        "../../etc/passwd",
        "/dev/null",
        "' OR 1=1 --",
        "rsa\u{0}",
        "RSA",
        "",
        "http://evil.example/",
    ] {
        let text = token(&json!({"alg": "RS256", "kid": kid}), &good_claims(), &attacker);
        attack("kid injection", text, Invalid::UnknownSigner);
    }
    let long_kid = json!({"alg": "RS256", "kid": "k".repeat(257)}).to_string();
    attack("long kid", signed(&long_kid, &claims), Invalid::Header);
    for member in ["jku", "x5u", "jwk", "x5c"] {
        let mut header = json!({"alg": "RS256", "kid": "rsa"});
        header[member] = if member == "jwk" {
            attacker.jwk("rsa")
        } else {
            json!("http://127.0.0.1:1/evil.json")
        };
        attack(member, token(&header, &good_claims(), &attacker), Invalid::Signature);
    }
    attack(
        "crit",
        signed(r#"{"alg":"RS256","crit":["x"],"x":1}"#, &claims),
        Invalid::Critical,
    );
    attack(
        "b64",
        signed(r#"{"alg":"RS256","b64":false,"crit":["b64"]}"#, &claims),
        Invalid::Critical,
    );
    attack(
        "JWE typ",
        signed(r#"{"alg":"RS256","typ":"JWE"}"#, &claims),
        Invalid::Header,
    );
    attack("header is an array", signed(r#"["RS256"]"#, &claims), Invalid::Header);
    attack(
        "two algs",
        signed(r#"{"alg":"none","alg":"RS256"}"#, &claims),
        Invalid::Header,
    );
    attack(
        "algorithm not allowed",
        signed(r#"{"alg":"RS512","kid":"rsa"}"#, &claims),
        Invalid::Algorithm,
    );
    attack(
        "algorithm of another key",
        signed(r#"{"alg":"ES256","kid":"rsa"}"#, &claims),
        Invalid::Algorithm,
    );

    for (name, value) in [
        ("exp", json!("1800000000")),
        ("exp", json!(-1)),
        ("exp", json!(null)),
        ("exp", json!(1e20)),
        ("exp", json!(EXP * 1000)),
        ("nbf", json!("0")),
        ("nbf", json!(null)),
        ("nbf", json!(-1)),
        ("iat", json!("x")),
        ("aud", json!(null)),
        ("aud", json!(["orders", 1])),
        ("iss", json!([ISS])),
        ("scope", json!(["a"])),
        ("sub", json!({})),
    ] {
        let mut claims = good_claims();
        claims[name] = value.clone();
        attack(
            &format!("{name} = {value}"),
            signed(plain, &claims.to_string()),
            Invalid::Claims,
        );
    }
    attack(
        "exp 0",
        signed(plain, &format!("{},\"exp\":0}}", &claims[..claims.len() - 1])),
        Invalid::Claims,
    );
    attack(
        "payload is an array",
        signed(plain, &format!("[{claims}]")),
        Invalid::Claims,
    );
    attack("payload is a string", signed(plain, "\"x\""), Invalid::Claims);
    attack("payload is empty", signed(plain, ""), Invalid::Malformed);
    attack(
        "payload and more",
        signed(plain, &format!("{claims}{{}}")),
        Invalid::Malformed,
    );
    attack(
        "payload is deep",
        signed(plain, &format!("{{\"x\":{}", "[".repeat(3000))),
        Invalid::Malformed,
    );

    attack("padding", format!("{head}.{body}.{tail}=="), Invalid::Malformed);
    attack(
        "standard alphabet",
        format!("{head}.{body}.{}", tail.replace(['-', '_'], "+")),
        Invalid::Malformed,
    );
    attack(
        "trailing bits",
        format!("{head}.{body}.{}", with_stray_bits(tail)),
        Invalid::Malformed,
    );
    for text in [
        format!("{head}.{body}"),
        format!("{head}.{body}."),
        format!("{head}..{tail}"),
        format!(".{body}.{tail}"),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.x.y"),
        format!("{head}.{body}.{tail}.{tail}"),
        format!("{head}.{body}.{tail}%00"),
        "..".to_owned(),
        "x".to_owned(),
    ] {
        attack("stray dots and characters", text, Invalid::Malformed);
    }
    attack(
        "long signature",
        format!("{head}.{body}.{}", "A".repeat(4096)),
        Invalid::Signature,
    );
    attack("short signature", format!("{head}.{body}.AA"), Invalid::Signature);
    attack(
        "64 kB",
        format!("{head}.{body}.{}", "A".repeat(65_536)),
        Invalid::Malformed,
    );
    attack("other key", good_token(&attacker, "rsa"), Invalid::Signature);
    let other_body = base64url(
        json!({"iss": ISS, "aud": "orders", "sub": "root", "exp": EXP})
            .to_string()
            .as_bytes(),
    );
    attack(
        "other payload",
        format!("{head}.{other_body}.{tail}"),
        Invalid::Signature,
    );

    for (name, text, reason) in attacks {
        let verdict = if text.is_ascii() && text.len() < 60_000 {
            ask(&authenticator, &text)
        } else {
            refuse(&text)
        };
        assert_eq!(verdict, invalid(reason), "{name}: {}", &text[..text.len().min(120)]);
        // Neither the first time nor from the memory of the first time.
        assert_eq!(ask(&authenticator, &text), invalid(reason), "{name} again");
    }
    assert_eq!(ask(&authenticator, &good), Ok(()), "and the good one is still good");
}

#[test]
fn a_shared_secret_of_the_revision_works_and_is_no_key_for_anything_else() {
    let secret = [7_u8; 32];
    let jwk = json!({"kty": "oct", "kid": "s", "k": base64url(&secret)});
    let mut revision = token_revision(JwksSource::Inline(vec![jwk]));
    revision.issuers[0].algorithms = vec![Algorithm::HS256, Algorithm::HS512];
    let authenticator = compile(&revision, &KeySets::offline());
    let claims = good_claims().to_string();
    let with = |header: &str| raw_token(header, &claims, |message| hmac(&secret, message));
    assert_eq!(ask(&authenticator, &with(r#"{"alg":"HS256","kid":"s"}"#)), Ok(()));
    assert_eq!(
        ask(&authenticator, &with(r#"{"alg":"HS512","kid":"s"}"#)),
        invalid(Invalid::Algorithm)
    );
}

#[test]
fn nothing_that_may_be_logged_shows_a_subject_or_a_secret() {
    let authenticator = compile(&rsa_revision(), &KeySets::offline());
    let text = good_token(&RSA, "rsa");
    let caller = authenticator.examine(0, &[], &bearer(&text), None, None, NOW).unwrap();
    let shown = format!("{caller:?} {authenticator:?}");
    assert!(!shown.contains("alice") && !shown.contains(&text), "{shown}");
}

// === The house ===

const ORDERS: usize = 0;
const INVOICES: usize = 1;
const OPEN: usize = 2;
const TOKENS: usize = 3;
const BOTH: usize = 4;

/// Five APIs and one application with a key of each kind.
struct House {
    authenticator: Authenticator,
    live: String,
    test: String,
    expiring: String,
}

impl House {
    fn new() -> Self {
        Self::in_environment(EnvironmentType::Hybrid)
    }

    fn in_environment(environment: EnvironmentType) -> Self {
        let mobile = ApplicationName::from("mobile");
        let make = |key_type, id: &str, expires| new_key(&mobile, key_type, Some(id.into()), expires).unwrap();
        let live = make(KeyType::Production, "mobile-live", None);
        let test = make(KeyType::Sandbox, "mobile-test", None);
        let end = jiff::Timestamp::from_second(i64::try_from(EXP).unwrap()).unwrap();
        let expiring = make(KeyType::Production, "mobile-expiring", Some(end));
        let legacy = Key {
            id: "legacy".into(),
            sha256: key::digest("legacy-key-of-another-gateway").0,
            key_type: KeyType::Production,
            expires: None,
        };
        let revision = Revision {
            issuers: vec![issuer(JwksSource::Inline(vec![RSA.jwk("rsa")]))],
            apis: vec![
                api("orders", vec![AuthMethod::ApiKey]),
                api("invoices", vec![AuthMethod::ApiKey]),
                api("open", vec![]),
                api("tokens", vec![AuthMethod::Jwt(0)]),
                api("both", vec![AuthMethod::ApiKey, AuthMethod::Jwt(0)]),
            ],
            applications: vec![application(
                "mobile",
                &[ORDERS, BOTH],
                vec![live.record, test.record, expiring.record, legacy],
            )],
            ..Revision::default()
        };
        Self {
            authenticator: Authenticator::compile(&revision, environment, &KeySets::offline(), Arc::default()),
            live: live.text.reveal().to_owned(),
            test: test.text.reveal().to_owned(),
            expiring: expiring.text.reveal().to_owned(),
        }
    }

    fn ask(&self, api: usize, headers: &HeaderMap) -> Result<(), Denial> {
        self.authenticator.examine(api, &[], headers, None, None, NOW).map(drop)
    }

    fn with_key(&self, api: usize, key: &str) -> Result<Caller, Denial> {
        self.authenticator.examine(api, &[], &key_header(key), None, None, NOW)
    }
}

fn rsa_revision() -> Revision {
    token_revision(JwksSource::Inline(vec![RSA.jwk("rsa")]))
}

fn rsa_token(claims: &Value) -> String {
    token(&json!({"alg": "RS256", "kid": "rsa"}), claims, &RSA)
}

fn ask(authenticator: &Authenticator, token: &str) -> Result<(), Denial> {
    authenticator.examine(0, &[], &bearer(token), None, None, NOW).map(drop)
}

/// What is said of a text before it gets as far as a verifier.
fn refuse(token: &str) -> Result<(), Denial> {
    Presented::new(token).map(drop).map_err(Denial::CredentialInvalid)
}

fn invalid(reason: Invalid) -> Result<(), Denial> {
    Err(Denial::CredentialInvalid(reason))
}

fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    use aws_lc_rs::hmac;
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
        .as_ref()
        .to_vec()
}

/// The same bytes for a careless decoder: the unused bits of the last character are set.
fn with_stray_bits(part: &str) -> String {
    let (rest, last) = part.split_at(part.len() - 1);
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let position = alphabet.iter().position(|digit| *digit == last.as_bytes()[0]).unwrap();
    format!("{rest}{}", char::from(alphabet[position | 1]))
}
