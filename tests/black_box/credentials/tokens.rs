//! Tokens of issuers.

use crate::harness::*;
use serde_json::json;

/// An API for tokens of `corp`, whose keys are written into the revision.
fn trusting(origin: &Origin, signers: &[&Signer], more: &str) -> Revision {
    let keys: Vec<String> = signers.iter().map(|signer| signer.jwk().to_string()).collect();
    Revision::of(origin)
        .issuer(&format!(
            "{{ name: corp, issuer: \"{ISSUER}\", audience: [{AUDIENCE}], algorithms: [RS256, ES256, EdDSA],
                jwks: {{ keys: [{}] }} {more} }}",
            keys.join(", ")
        ))
        .api(
            "{ name: orders, base_path: /orders, auth: [{ jwt: corp }], upstream: origin, routes: [
               { path: / }, { path: /write, scopes: [\"orders:write\", \"orders:read\"] } ] }",
        )
}

#[test]
fn a_token_signed_by_any_of_the_issuers_keys_is_let_in() {
    let (ec, ed) = (Signer::ec("ec"), Signer::ed("ed"));
    let origin = Origin::start(echo());
    let gateway = Gateway::with(trusting(&origin, &[&RSA, &ec, &ed], "")).start();
    for signer in [&*RSA, &ec, &ed] {
        let token = signer.token();
        // Twice: the second time it is remembered.
        for _ in 0..2 {
            let seen = gateway.client().get("/orders").token(&token).send().expect(200).echo();
            assert!(seen.all("authorization").is_empty(), "the token stays here");
        }
    }
}

#[test]
fn a_token_with_anything_wrong_is_refused_and_all_such_refusals_look_the_same() {
    let ec = Signer::ec("ec");
    let stranger = Signer::ec("ec");
    let origin = Origin::start(echo());
    let gateway = Gateway::with(trusting(&origin, &[&RSA, &ec], "")).start();
    let good = Token::of(&ec);
    let told = |token: &str| {
        let request = gateway.client().get("/orders").header("X-Request-Id", "same");
        let answer = request.token(token).send();
        let challenge = answer.header("www-authenticate").map(str::to_owned);
        (answer.status, answer.code(), answer.text(), challenge)
    };
    let reference = told("not-a-token");
    assert_eq!((reference.0, reference.1.as_str()), (401, "credential_invalid"));
    let challenge = reference.3.as_deref().unwrap();
    assert_eq!(challenge, "Bearer realm=\"orders\", error=\"invalid_token\"");

    let whole = good.sign(&ec);
    let (signed, _) = whole.rsplit_once('.').unwrap();
    for (name, token) in [
        ("signed by somebody else", good.sign(&stranger)),
        (
            "changed after signing",
            format!("{}x.{}", signed, whole.rsplit('.').next().unwrap()),
        ),
        ("without a signature", format!("{signed}.")),
        ("two parts", signed.to_owned()),
        ("four parts", format!("{whole}.x")),
        ("not for us", good.clone().claim("aud", "billing").sign(&ec)),
        ("for nobody", good.clone().without("aud").sign(&ec)),
        (
            "of another issuer",
            good.clone().claim("iss", "https://evil.example").sign(&ec),
        ),
        (
            "of an issuer with a slash more",
            good.clone().claim("iss", format!("{ISSUER}/")).sign(&ec),
        ),
        ("of no issuer", good.clone().without("iss").sign(&ec)),
        ("not valid yet", good.clone().claim("nbf", now() + 3600).sign(&ec)),
        ("without an end", good.clone().without("exp").sign(&ec)),
        (
            "with an end that is text",
            good.clone().claim("exp", "2099-01-01").sign(&ec),
        ),
        (
            "alg none",
            good.clone().header("alg", "none").signed_with(|_| Vec::new()),
        ),
        (
            "alg none with a signature",
            good.clone().header("alg", "none").sign(&ec),
        ),
        (
            "alg None",
            good.clone().header("alg", "None").signed_with(|_| b"x".to_vec()),
        ),
        (
            "HS256 with the public RSA key as the secret",
            Token::of(&RSA).header("alg", "HS256").sign_hs256(&RSA.public_pem()),
        ),
        (
            "an RSA token under an EC key's name",
            good.clone().header("alg", "RS256").sign(&RSA),
        ),
        ("a key that is not there", good.clone().header("kid", "gone").sign(&ec)),
        ("crit", good.clone().header("crit", json!(["b64"])).sign(&ec)),
        ("crit that is empty", good.clone().header("crit", json!([])).sign(&ec)),
        (
            "a key that it brings along",
            good.clone().header("jwk", stranger.jwk()).sign(&stranger),
        ),
        (
            "more than 8 KiB",
            good.clone().claim("padding", "x".repeat(8 * 1024)).sign(&ec),
        ),
    ] {
        assert_eq!(told(&token), reference, "{name}");
    }
    assert_eq!(origin.bytes(), 0);
    gateway.client().get("/orders").token(&whole).send().expect(200);
}

#[test]
fn a_token_whose_time_is_over_is_expired_and_leeway_is_granted_when_configured() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let old = Token::of(&ec).claim("exp", now() - 30).sign(&ec);
    let very_old = Token::of(&ec).claim("exp", now() - 600).sign(&ec);
    let early = Token::of(&ec).claim("nbf", now() + 30).sign(&ec);

    let strict = Gateway::with(trusting(&origin, &[&ec], "")).start();
    for token in [&old, &very_old] {
        let answer = strict.client().get("/orders").token(token).send();
        answer.expect_refusal(401, "credential_expired");
    }
    strict.client().get("/orders").token(&early).send().expect(401);

    let lenient = Gateway::with(trusting(&origin, &[&ec], ", leeway: 2m")).start();
    lenient.client().get("/orders").token(&old).send().expect(200);
    lenient.client().get("/orders").token(&early).send().expect(200);
    lenient.client().get("/orders").token(&very_old).send().expect(401);
}

#[test]
fn a_remembered_token_is_forgotten_when_its_time_is_over() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let gateway = Gateway::with(trusting(&origin, &[&ec], "")).start();
    let token = Token::of(&ec).claim("exp", now() + 2).sign(&ec);
    gateway.client().get("/orders").token(&token).send().expect(200);
    let refused = eventually("the token ends", || {
        let answer = gateway.client().get("/orders").token(&token).send();
        (answer.status != 200).then_some(answer)
    });
    refused.expect_refusal(401, "credential_expired");
}

#[test]
fn a_route_that_asks_for_scopes_wants_all_of_them() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let gateway = Gateway::with(trusting(&origin, &[&ec], "")).start();
    let write = |token: &Token| gateway.client().get("/orders/write").token(&token.sign(&ec)).send();
    for scope in ["", "orders:read", "orders:write", "orders:writer orders:reader"] {
        let answer = write(&Token::of(&ec).claim("scope", scope)).expect_refusal(403, "scope_insufficient");
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer error=\"insufficient_scope\", scope=\"orders:write orders:read\"")
        );
    }
    write(&Token::of(&ec)).expect(403);
    write(&Token::of(&ec).claim("scope", "a orders:read b orders:write")).expect(200);
    write(&Token::of(&ec).claim("scp", json!(["orders:write", "orders:read"]))).expect(200);
    assert_eq!(origin.requests(), 2);
}

#[test]
fn a_key_or_a_token_lets_in_where_both_are_accepted_but_not_both_at_once() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        trusting(&origin, &[&ec], "")
            .api(
                "{ name: both, base_path: /both, auth: [api_key, { jwt: corp }], upstream: origin, routes: [
                   { path: / }, { path: /scoped, scopes: [x] } ] }",
            )
            .mobile(&["both"]),
    )
    .start();
    let get = |target: &str| gateway.client().get(target);
    get("/both").key(KEY).send().expect(200);
    get("/both").token(&ec.token()).send().expect(200);
    get("/both")
        .key(KEY)
        .token(&ec.token())
        .send()
        .expect_refusal(401, "credential_invalid");
    get("/both/scoped")
        .key(KEY)
        .send()
        .expect_refusal(403, "scope_insufficient");
    let challenge = get("/both")
        .send()
        .expect(401)
        .header("www-authenticate")
        .unwrap()
        .to_owned();
    assert!(
        challenge.contains("Bearer") && challenge.contains("ApiKey"),
        "{challenge}"
    );
}

#[test]
fn a_token_that_names_its_application_is_bound_to_its_subscriptions() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let revision = trusting(&origin, &[&ec], ", application_claim: azp")
        .api("{ name: other, base_path: /other, auth: [{ jwt: corp }], upstream: origin }")
        .mobile(&["orders"]);
    let gateway = Gateway::with(revision).start();
    let call = |target: &str, token: &Token| gateway.client().get(target).token(&token.sign(&ec)).send();
    let mobile = Token::of(&ec).claim("azp", "mobile");
    assert_eq!(
        call("/orders", &mobile).expect(200).echo().header("x-application"),
        Some("mobile")
    );
    call("/other", &mobile).expect_refusal(403, "subscription_missing");
    call("/orders", &Token::of(&ec).claim("azp", "nobody")).expect_refusal(403, "subscription_missing");
    assert_ne!(call("/orders", &Token::of(&ec)).status, 200);
}

#[test]
fn an_issuer_of_one_api_is_a_stranger_to_another() {
    let (ours, theirs) = (Signer::ec("ours"), Signer::ec("theirs"));
    let origin = Origin::start(echo());
    let issuer = |name: &str, url: &str, signer: &Signer| {
        format!(
            "{{ name: {name}, issuer: \"{url}\", audience: [{AUDIENCE}], algorithms: [ES256], jwks: {{ keys: [{}] }} }}",
            signer.jwk()
        )
    };
    let gateway = Gateway::with(
        Revision::of(&origin)
            .issuer(&issuer("ours", ISSUER, &ours))
            .issuer(&issuer("theirs", "https://partner.example", &theirs))
            .api("{ name: a, base_path: /a, auth: [{ jwt: ours }], upstream: origin }")
            .api("{ name: b, base_path: /b, auth: [{ jwt: theirs }], upstream: origin }"),
    )
    .start();
    let call = |target: &str, token: &str| gateway.client().get(target).token(token).send().status;
    let foreign = Token::of(&theirs).claim("iss", "https://partner.example").sign(&theirs);
    assert_eq!((call("/a", &ours.token()), call("/b", &foreign)), (200, 200));
    assert_eq!((call("/b", &ours.token()), call("/a", &foreign)), (401, 401));
    // Signed with the partner's key, but in our issuer's name.
    assert_eq!(call("/a", &Token::of(&theirs).sign(&theirs)), 401);
}
