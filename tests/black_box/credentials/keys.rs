//! Keys of applications.

use crate::harness::*;

/// A revision with everything that can be wrong with a key.
fn strict(origin: &Origin) -> Revision {
    Revision::of(origin)
        .api("{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }")
        .api("{ name: other, base_path: /other, auth: [api_key], upstream: origin }")
        .api(
            "{ name: renamed, base_path: /renamed, auth: [api_key], upstream: origin,
               credentials: { key_header: X-Token } }",
        )
        .api(
            "{ name: query, base_path: /query, auth: [api_key], upstream: origin, credentials: { key_query: api_key } }",
        )
        .mobile(&["orders", "renamed", "query"])
        .application(&format!(
            "{{ name: late, subscriptions: [{{ api: orders, plan: free }}], keys: [{}] }}",
            key_record("late-1", OTHER_KEY, "type: production, expires: 2020-01-01T00:00:00Z")
        ))
}

/// A well-formed key that nobody was given.
fn unknown_key() -> String {
    let output = tollgate(["key", "new", "--application", "nobody", "--output", "json"]);
    let made: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    made["key"].as_str().unwrap().to_owned()
}

#[test]
fn only_a_known_key_gets_in_and_nothing_of_the_others_reaches_the_origin() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(strict(&origin)).start();
    let orders = || gateway.client().get("/orders");
    let mut mistyped = KEY.to_owned();
    mistyped.replace_range(20..21, if KEY.as_bytes()[20] == b'x' { "y" } else { "x" });

    orders().send().expect_refusal(401, "credential_missing");
    for wrong in [
        mistyped.as_str(),
        &unknown_key(),
        "short",
        &"x".repeat(257),
        "with space",
        "",
    ] {
        orders().key(wrong).send().expect_refusal(401, "credential_invalid");
    }
    orders().key(OTHER_KEY).send().expect_refusal(401, "credential_expired");
    assert_eq!(origin.bytes(), 0);

    orders().key(KEY).send().expect(200);
}

#[test]
fn an_application_calls_only_what_it_is_subscribed_to() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(strict(&origin)).start();
    gateway
        .client()
        .get("/other")
        .key(KEY)
        .send()
        .expect_refusal(403, "subscription_missing");
    gateway.client().get("/orders").key(KEY).send().expect(200);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn the_environment_decides_which_key_types_are_let_in() {
    let origin = Origin::start(echo());
    for (environment_type, production, sandbox) in
        [("hybrid", 200, 200), ("production", 200, 403), ("sandbox", 403, 200)]
    {
        let gateway = Gateway::with(revision(&origin))
            .gateway(&format!("environment_type: {environment_type}"))
            .start();
        for (key, expected) in [(KEY, production), (SANDBOX_KEY, sandbox)] {
            let answer = gateway.client().get("/orders").key(key).send();
            assert_eq!(answer.status, expected, "{environment_type}: {answer:?}");
            if expected == 403 {
                answer.expect_refusal(403, "key_type_mismatch");
            }
        }
        gateway.client().get("/orders").key(&unknown_key()).send().expect(401);
    }
}

#[test]
fn a_renamed_header_takes_the_place_of_the_usual_one() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(strict(&origin)).start();
    let renamed = || gateway.client().get("/renamed");
    renamed().header("x-token", KEY).send().expect(200);
    renamed().key(KEY).send().expect_refusal(401, "credential_missing");
}

#[test]
fn a_key_in_the_query_counts_only_where_the_api_says_so() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(strict(&origin)).start();
    let get = |target: &str| gateway.client().get(&format!("{target}?api_key={KEY}")).send();
    get("/query").expect(200);
    get("/orders").expect_refusal(401, "credential_missing");
}

#[test]
fn more_than_one_credential_is_no_credential() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(strict(&origin)).start();
    let get = |target: &str| gateway.client().get(target).key(KEY);
    for request in [
        get("/orders").key(KEY),
        get("/orders").key(OTHER_KEY),
        get("/orders").token(&RSA.token()),
        get(&format!("/query?api_key={KEY}")),
        gateway.client().get(&format!("/query?api_key={KEY}&api_key={KEY}")),
    ] {
        let bytes = String::from_utf8(request.bytes()).unwrap();
        let answer = request.send();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "credential_invalid"),
            "{bytes}"
        );
    }
    assert_eq!(origin.bytes(), 0);
}

#[test]
fn a_refusal_is_a_problem_document_that_says_what_to_present() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(strict(&origin)).start();
    let answer = gateway
        .client()
        .get("/orders")
        .header("X-Request-Id", "id-1")
        .send()
        .expect(401);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.json(),
        serde_json::json!({
            "type": "urn:tollgate:problem:credential_missing",
            "title": "Unauthorized",
            "status": 401,
            "detail": "this API needs a credential",
            "code": "credential_missing",
            "request_id": "id-1",
        })
    );
    assert_eq!(
        answer.header("www-authenticate"),
        Some("ApiKey realm=\"orders\", header=\"x-api-key\"")
    );

    let answer = gateway.client().get("/orders").key("wrong-key").send().expect(401);
    assert!(answer.header("www-authenticate").unwrap().starts_with("ApiKey "));
    let answer = gateway.client().get("/other").key(KEY).send().expect(403);
    assert_eq!(answer.header("www-authenticate"), None);
}

#[test]
fn every_wrong_key_is_told_the_same() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(strict(&origin)).start();
    let told = |key: &str| {
        let answer = gateway
            .client()
            .get("/orders")
            .key(key)
            .header("X-Request-Id", "same")
            .send();
        let challenge = answer.header("www-authenticate").map(str::to_owned);
        (answer.status, answer.text(), challenge)
    };
    let unknown = told(&unknown_key());
    assert_eq!(unknown.0, 401);
    assert_eq!(told("tg_live_mistyped"), unknown);
    assert_eq!(told("foreign-but-well-formed"), unknown);
    assert_eq!(told("short"), unknown);
}

#[test]
fn a_key_that_is_taken_out_of_the_revision_is_dead_at_once() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    let mut call = || gateway.client().get("/orders").key(KEY).send_on(&mut connection).status;
    assert_eq!(call(), 200);
    gateway.apply(Revision::of(&origin).api("{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }"));
    assert_eq!(call(), 401);
}

#[test]
fn an_open_api_asks_for_nothing_and_passes_an_authorization_that_is_not_its_own() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let seen = gateway
        .client()
        .get("/open")
        .header("Authorization", "Basic dXNlcjpwYXNz")
        .send()
        .expect(200)
        .echo();
    assert!(seen.header("x-application").is_none());
    assert_eq!(seen.header("authorization"), Some("Basic dXNlcjpwYXNz"));
    let seen = gateway.client().get("/open").key(KEY).send().expect(200).echo();
    assert_eq!(seen.header("x-api-key"), None, "a key is only ever for the gateway");
}
