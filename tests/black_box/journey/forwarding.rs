//! What the origin is told about a request, and what it is not.

use crate::harness::*;

#[test]
fn the_origin_is_told_who_calls_and_from_where() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let call = |key: &str| {
        let request = gateway.client().get("/orders").host("api.example.com").key(key);
        request.send().expect(200).echo()
    };
    let seen = call(KEY);
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("api.example.com"));
    assert_eq!(seen.header("host"), Some("api.example.com"));
    assert_eq!(seen.header("x-application"), Some("mobile"));
    assert_eq!(seen.header("x-key-type"), Some("production"));
    assert_eq!(call(SANDBOX_KEY).header("x-key-type"), Some("sandbox"));
}

#[test]
fn a_stranger_can_not_say_who_he_is() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut request = gateway.client().get("/open").host("api.example.com");
    let forged = [
        ("X-Application", "admin"),
        ("x-key-type", "production"),
        ("X_Application", "admin"),
        ("X-Consumer-Username", "admin"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "bank.example.com"),
        ("Forwarded", "for=1.2.3.4"),
        ("X-Real-IP", "1.2.3.4"),
        ("X-Original-URL", "/admin"),
        ("X-HTTP-Method-Override", "DELETE"),
    ];
    for (name, value) in forged {
        request = request.header(name, value);
    }
    let seen = request.send().expect(200).echo();
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["api.example.com"]);
    assert!(seen.header("x-request-id").is_some());
    for name in [
        "x-application",
        "x_application",
        "x-key-type",
        "x-consumer-username",
        "forwarded",
        "x-real-ip",
        "x-original-url",
        "x-http-method-override",
    ] {
        assert!(seen.all(name).is_empty(), "{name}: {:?}", seen.all(name));
    }
}

#[test]
fn a_client_can_not_have_fields_dropped_that_the_gateway_sets() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    for name in ["X-Forwarded-For", "X-Application", "X-Request-Id", "X-API-Key", "Host"] {
        let request = gateway
            .client()
            .get("/open")
            .header("Connection", &format!("close, {name}"));
        request.send().expect_refusal(400, "bad_request");
    }
    assert_eq!(origin.bytes(), 0);
}

#[test]
fn a_trusted_proxy_is_believed_and_added_to_the_chain() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("trusted_proxies: [\"127.0.0.0/8\"]")
        .start();
    let answer = gateway
        .client()
        .get("/open")
        .header("X-Request-Id", "through-a-proxy")
        .header("X-Forwarded-For", "198.51.100.4")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "api.example.com")
        .send();
    let seen = answer.expect(200).echo();
    assert_eq!(seen.header("x-forwarded-for"), Some("198.51.100.4, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("api.example.com"));
    assert_eq!(gateway.access_record("through-a-proxy")["client"], "198.51.100.4");
}

#[test]
fn other_fields_pass_in_order_with_duplicates_and_values_as_they_were() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let request = gateway
        .client()
        .get("/open")
        .header("X-Multi", "one")
        .header("Accept", "text/html;q=0.9, */*")
        .header("X-Multi", "two")
        .header("X-Empty", "")
        .header("Cookie", "a=b; c=\"d\"");
    let seen = request.send().expect(200).echo();
    assert_eq!(seen.all("x-multi"), ["one", "two"]);
    assert_eq!(seen.header("accept"), Some("text/html;q=0.9, */*"));
    assert_eq!(seen.header("x-empty"), Some(""));
    assert_eq!(seen.header("cookie"), Some("a=b; c=\"d\""));
}

#[test]
fn hop_by_hop_fields_end_at_the_gateway() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let request = gateway
        .client()
        .get("/open")
        .header("Connection", "keep-alive, X-Only-Here")
        .header("X-Only-Here", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "trailers")
        .header("Proxy-Authorization", "Basic Og==");
    let seen = request.send().expect(200).echo();
    for name in [
        "x-only-here",
        "keep-alive",
        "proxy-connection",
        "te",
        "proxy-authorization",
    ] {
        assert!(seen.all(name).is_empty(), "{name}: {:?}", seen.all(name));
    }
}

#[test]
fn every_answer_has_a_request_id_refusals_too() {
    let origin = Origin::start(closes_early());
    let revision = revision(&origin)
        .plan("{ name: tight, limits: [{ name: day, rate: 1/d }] }")
        .api("{ name: tight, base_path: /tight, auth: none, upstream: origin, limits: [{ name: day, rate: 1/d }] }");
    let gateway = Gateway::with(revision).start();
    let client = gateway.client();
    client.get("/tight").send().expect(502);
    for (status, request) in [
        (400, client.get("/%00")),
        (401, client.get("/orders")),
        (404, client.get("/nothing")),
        (429, client.get("/tight")),
        (502, client.get("/open")),
    ] {
        let answer = request.header("X-Request-Id", "mine-7_a.B").send().expect(status);
        assert_eq!(answer.header("x-request-id"), Some("mine-7_a.B"));
        assert_eq!(answer.json()["request_id"], "mine-7_a.B");
    }
    // A message that is not even HTTP gets an id of its own.
    let answer = gateway.raw().send("NONSENSE\r\n\r\n").answer().expect(400);
    assert_eq!(answer.json()["request_id"], answer.header("x-request-id").unwrap());
}

#[test]
fn a_well_formed_request_id_is_kept_and_any_other_replaced() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let ids = |given: &str| {
        let answer = gateway
            .client()
            .get("/open")
            .header("X-Request-Id", given)
            .send()
            .expect(200);
        let told = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(
            answer.echo().header("x-request-id"),
            Some(told.as_str()),
            "one id for all"
        );
        told
    };
    let long = "x".repeat(128);
    for good in ["order-7", "A.b_c-9", &long] {
        assert_eq!(ids(good), good);
    }
    let too_long = "x".repeat(129);
    for bad in ["", "a b", "a\"b", "a;b", "<script>", &too_long] {
        let fresh = ids(bad);
        assert_eq!(fresh.len(), 32, "{bad:?} became {fresh:?}");
    }
    let twice = gateway
        .client()
        .get("/open")
        .header("X-Request-Id", "one")
        .header("X-Request-Id", "two")
        .send();
    assert_eq!(twice.all("x-request-id").len(), 1);
    assert_eq!(twice.echo().all("x-request-id").len(), 1);
}

#[test]
fn the_origins_own_request_id_does_not_hide_ours() {
    let origin = Origin::start(|exchange: &mut Exchange| exchange.respond(200, "X-Request-Id: other\r\n", b""));
    let gateway = Gateway::with(revision(&origin)).start();
    let answer = gateway.client().get("/open").header("X-Request-Id", "ours").send();
    assert_eq!(answer.all("x-request-id"), ["ours"]);
}

#[test]
fn a_trace_is_continued_or_started() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let parent = |request: Request| {
        request
            .send()
            .expect(200)
            .echo()
            .header("traceparent")
            .unwrap()
            .to_owned()
    };
    let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    let continued = parent(gateway.client().get("/open").header("traceparent", given));
    assert_eq!(continued.len(), 55);
    assert!(
        continued.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"),
        "{continued}"
    );
    assert!(continued.ends_with("-01"), "{continued}");
    assert_ne!(continued, given, "the gateway is the parent now");

    for request in [
        gateway.client().get("/open"),
        gateway.client().get("/open").header("traceparent", "00-garbage"),
    ] {
        let started = parent(request);
        assert_eq!(started.len(), 55);
        assert!(!started.contains("4bf92f35"));
    }
}

#[test]
fn the_credential_stays_at_the_gateway() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        Revision::of(&origin)
            .api("{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }")
            .api(
                "{ name: renamed, base_path: /renamed, auth: [api_key], upstream: origin,
                   credentials: { key_header: X-Token, key_query: api_key } }",
            )
            .mobile(&["orders", "renamed"]),
    )
    .start();
    let client = gateway.client();

    let seen = client.get("/orders?a=1").key(KEY).send().expect(200).echo();
    assert!(seen.all("x-api-key").is_empty());
    assert!(seen.all("authorization").is_empty());
    assert_eq!(seen.target, "/orders?a=1");

    let seen = client.get("/renamed").header("X-Token", KEY).send().expect(200).echo();
    assert!(seen.all("x-token").is_empty());

    for (query, left) in [
        (format!("api_key={KEY}"), "/renamed"),
        (format!("a=1&api_key={KEY}&b=2"), "/renamed?a=1&b=2"),
        (format!("a=1&%61pi_key={KEY}"), "/renamed?a=1"),
    ] {
        let seen = client.get(&format!("/renamed?{query}")).send().expect(200).echo();
        assert_eq!(seen.target, left);
    }
    assert!(!format!("{:?}", origin.received()).contains(KEY));
    assert!(!gateway.log().contains(KEY));
}

#[test]
fn an_api_may_ask_for_the_credential_to_be_passed_on() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        Revision::of(&origin)
            .api(
                "{ name: orders, base_path: /orders, auth: [api_key], upstream: origin,
                   credentials: { key_query: api_key, forward: true } }",
            )
            .mobile(&["orders"]),
    )
    .start();
    let seen = gateway.client().get("/orders").key(KEY).send().expect(200).echo();
    assert_eq!(seen.header("x-api-key"), Some(KEY));
    let target = format!("/orders?api_key={KEY}&b=2");
    let seen = gateway.client().get(&target).send().expect(200).echo();
    assert_eq!(seen.target, target);
}

#[test]
fn the_endpoints_share_the_requests_by_weight() {
    let (heavy, light) = (Origin::start(answer(200, "")), Origin::start(answer(200, "")));
    let gateway = Gateway::with(
        Revision::empty()
            .upstream(&format!(
                "{{ name: both, endpoints: [{{ address: \"{}\", weight: 3 }}, {{ address: \"{}\" }}] }}",
                heavy.address(),
                light.address()
            ))
            .api("{ name: a, base_path: /a, auth: none, upstream: both }"),
    )
    .start();
    let mut connection = gateway.raw();
    for _ in 0..40 {
        gateway.client().get("/a").send_on(&mut connection).expect(200);
    }
    assert_eq!((heavy.requests(), light.requests()), (30, 10));
}
