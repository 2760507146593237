//! What an operator asks of a gateway that runs: what would become of a request, and what the process does.

use serde_json::{Value, json};

use crate::harness::*;

const TOKEN: &str = "a-token-that-nobody-guesses";

fn admin_section() -> String {
    format!("admin: {{ address: \"127.0.0.1:0\", token: {TOKEN} }}")
}

/// The API `orders` for the key of `mobile`, ten times a month.
fn ten_a_month(origin: &Origin) -> Revision {
    Revision::of(origin)
        .plan("{ name: gold, limits: [{ name: quota, rate: 10/month }] }")
        .api("{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }")
        .mobile_under("gold", &["orders"])
}

#[track_caller]
fn explain(gateway: &Gateway, question: &Value) -> Answer {
    let request = gateway.admin().post("/admin/explain", question.to_string());
    request.token(TOKEN).send()
}

#[track_caller]
fn performance(gateway: &Gateway) -> Value {
    let request = gateway.admin().get("/debug/performance").token(TOKEN);
    request.send().expect(200).json()
}

#[test]
fn a_gateway_explains_a_request_with_the_counters_that_it_has_and_counts_nothing() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(ten_a_month(&origin)).section(&admin_section()).start();
    for _ in 0..3 {
        gateway.client().get("/orders/7").key(KEY).send().expect(200);
    }
    let asked_before = origin.bytes();

    let question = json!({ "url": "http://x/orders/7?a=1", "headers": { "X-API-Key": KEY } });
    for _ in 0..20 {
        let told = explain(&gateway, &question).expect(200).json();
        assert_eq!(told["api"], "orders");
        assert_eq!(told["caller"]["application"], "mobile");
        let counter = told["limits"][0]["counter"].as_str().unwrap();
        assert!(
            counter.starts_with("plan/gold/quota/subscription/mobile@orders"),
            "{counter}"
        );
        assert_eq!(told["limits"][0]["remaining"], 7, "what is left here and now");
        assert_eq!(told["upstream"]["target"], "/orders/7?a=1");
        assert!(told["status"].is_null(), "the upstream would answer: {told}");
    }
    assert_eq!(origin.bytes(), asked_before);

    // The verb knows the same facts, but for what only this process has counted.
    let config = gateway.path().join("tollgate.yaml").display().to_string();
    let key = format!("X-API-Key: {KEY}");
    let verb = [
        "explain",
        "--config",
        &config,
        "--output",
        "json",
        "-H",
        &key,
        "http://x/orders/7?a=1",
    ];
    let mut of_verb: Value = serde_json::from_str(&tollgate(verb).stdout).unwrap();
    let mut of_gateway = explain(&gateway, &question).expect(200).json();
    assert_eq!(of_verb["limits"][0]["remaining"], 10);
    for facts in [&mut of_verb, &mut of_gateway] {
        for varying in ["limits", "upstream"] {
            facts.as_object_mut().unwrap().remove(varying);
        }
    }
    assert_eq!(of_verb, of_gateway);
}

#[test]
fn what_would_be_refused_is_explained_with_the_reason_and_a_method_and_several_values_can_be_asked_about() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(ten_a_month(&origin)).section(&admin_section()).start();
    let refused = |question: Value| {
        let told = explain(&gateway, &question).expect(200).json();
        (told["status"].clone(), told["code"].clone())
    };
    assert_eq!(
        refused(json!({ "url": "http://x/nothing" })),
        (404.into(), "route_not_found".into())
    );
    assert_eq!(
        refused(json!({ "url": "/orders" })),
        (401.into(), "credential_missing".into())
    );
    let twice =
        json!({ "method": "DELETE", "url": "/orders", "headers": { "Host": "x", "X-API-Key": [KEY, "another"] } });
    assert_eq!(refused(twice).0, 401);
}

#[test]
fn a_question_that_can_not_be_understood_is_told_what_is_wrong_with_it_and_shows_no_value() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(ten_a_month(&origin)).section(&admin_section()).start();
    let wrong = |body: &str, part: &str| {
        let request = gateway.admin().post("/admin/explain", body);
        let answer = request.token(TOKEN).send().expect(400);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(part), "{detail}");
        assert!(!detail.contains("secret"), "{detail}");
    };
    wrong("", "\"url\"");
    wrong("{}", "missing field `url`");
    wrong(r#"{ "url": "/", "methd": "GET" }"#, "unknown field `methd`");
    wrong(r#"{ "url": "/", "method": "G T" }"#, "is not a method");
    wrong(r#"{ "url": "http://" }"#, "\"url\"");
    wrong(
        r#"{ "url": "/", "headers": { "a b": "secret" } }"#,
        "\"a b\" is not the name of a header field",
    );
    wrong(
        "{ \"url\": \"/\", \"headers\": { \"a\": \"secret\\n\" } }",
        "the value of \"a\" can not be sent",
    );
    wrong(
        r#"{ "url": "/", "client_certificate": "mobile" }"#,
        "\"client_certificate\"",
    );
    let get = gateway.admin().get("/admin/explain").token(TOKEN).send().expect(405);
    assert!(get.header("allow").unwrap().contains("POST"));
}

#[test]
fn the_process_tells_what_it_has_served_and_how_long_that_took() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(ten_a_month(&origin)).section(&admin_section()).start();
    let first = performance(&gateway);
    assert!(
        first.get("since_last_seconds").is_none(),
        "there is nothing to compare with: {first}"
    );
    assert!(
        first["latency_seconds"].get("p50").is_none(),
        "nothing was served yet: {first}"
    );

    for _ in 0..10 {
        gateway.client().get("/orders/7").key(KEY).send().expect(200);
    }
    gateway.client().get("/orders/7").key(KEY).send().expect(429);
    // A request is counted after its answer.
    eventually("all of them are counted", || {
        (performance(&gateway)["requests"]["total"].as_f64()? >= 11.0).then_some(())
    });
    let told = performance(&gateway);
    assert!(told["since_last_seconds"].as_f64().unwrap() > 0.0);
    let latency = &told["latency_seconds"];
    assert_eq!(latency["count"], 11);
    let quantile = |name: &str| latency[name].as_f64().unwrap();
    assert!(quantile("p50") > 0.0 && quantile("p50") <= quantile("p90") && quantile("p90") <= quantile("p99_9"));
    assert_eq!(told["tables"]["counters"], 1);
    assert_eq!(told["tables"]["keys"], 2);
    assert_eq!(told["tables"]["upstreams"], 1);
    assert_eq!(told["requests"]["in_flight"], 0.0);
    let process = &told["process"];
    for positive in ["cpu_seconds", "resident_bytes", "open_descriptors", "descriptor_limit"] {
        assert!(process[positive].as_f64().unwrap() > 0.0, "{positive}: {told}");
    }
    assert!(told["runtimes"]["requests"]["workers"].as_u64().unwrap() >= 1, "{told}");
}
