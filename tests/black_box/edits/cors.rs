//! What browsers are told about scripts of other origins.

use crate::harness::*;

const APP: &str = "https://app.example.com";

const API: &str = r#"{ name: a, base_path: /a, auth: [api_key], upstream: origin,
    cors: { origins: ["https://app.example.com", "https://*.example.org"], headers: [X-Api-Key], expose: [X-Request-Id],
            credentials: true, max_age: 10m },
    limits: [{ name: day, rate: 2/d }],
    routes: [{ path: /, methods: [GET, DELETE] }, { path: /closed, addresses: { deny: [0.0.0.0/0] } }] }"#;

/// A gateway in front of a service that lets in every origin, which is not what the API says.
fn gateway() -> (Gateway, Origin) {
    let origin = Origin::start(|exchange: &mut Exchange| {
        let fields = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: *\r\nVary: Accept\r\n";
        exchange.respond(200, fields, b"")
    });
    let revision = Revision::of(&origin)
        .api(API)
        .api("{ name: silent, base_path: /silent, auth: none, upstream: origin }")
        .mobile(&["a"]);
    (Gateway::with(revision).start(), origin)
}

fn preflight(gateway: &Gateway, target: &str, origin: &str, method: &str) -> Request {
    let request = gateway.client().request("OPTIONS", target).header("Origin", origin);
    request
        .header("Access-Control-Request-Method", method)
        .header("Access-Control-Request-Headers", "x-api-key")
}

#[test]
fn a_preflight_is_answered_without_a_credential_a_limit_or_the_service() {
    let (gateway, origin) = gateway();
    let mut connection = gateway.raw();
    for id in ["p-1", "p-2", "p-3", "p-4"] {
        let request = preflight(&gateway, "/a", APP, "DELETE").header("X-Request-Id", id);
        let answer = request.send_on(&mut connection).expect(204);
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
        assert_eq!(answer.header("access-control-allow-methods"), Some("DELETE"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("X-Api-Key"));
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert!(answer.header("vary").unwrap().contains("Origin"));
        assert_eq!(answer.header("x-request-id"), Some(id));
        assert!(answer.header("content-length").is_none(), "{answer:?}");
        assert!(answer.header("ratelimit").is_none(), "{answer:?}");
    }
    assert_eq!(origin.bytes(), 0);
    let record = gateway.access_record("p-1");
    assert_eq!(record["status"], 204);
    assert!(record["code"].is_null(), "{record}");
    assert_eq!(record["route"], "/a");
}

#[test]
fn a_preflight_of_a_stranger_or_about_nothing_that_exists_says_nothing() {
    let (gateway, _origin) = gateway();
    let stranger = preflight(&gateway, "/a", "https://evil.example", "GET")
        .send()
        .expect(204);
    assert!(stranger.header("access-control-allow-origin").is_none());
    assert!(stranger.header("access-control-allow-methods").is_none());
    for (target, method, status) in [("/a", "PUT", 405), ("/a/none", "GET", 404), ("/nowhere", "GET", 404)] {
        let answer = preflight(&gateway, target, APP, method).send().expect(status);
        assert!(answer.header("access-control-allow-origin").is_none());
    }
    let denied = preflight(&gateway, "/a/closed", APP, "GET").send();
    denied.expect_refusal(403, "address_denied");
}

#[test]
fn an_options_request_that_is_no_preflight_goes_where_it_always_went() {
    let (gateway, origin) = gateway();
    let plain = gateway.client().request("OPTIONS", "/silent").header("Origin", APP);
    plain.send().expect(200);
    preflight(&gateway, "/silent", APP, "GET").send().expect(200);
    assert_eq!(
        origin.requests(),
        2,
        "an API without cors leaves preflights to its service"
    );
    let without_method = gateway.client().request("OPTIONS", "/a").header("Origin", APP);
    without_method.send().expect(405);
}

#[test]
fn answers_carry_what_the_api_says_and_not_what_its_service_says() {
    let (gateway, _origin) = gateway();
    let get = |origin: &str| {
        gateway
            .client()
            .get("/a")
            .key(KEY)
            .header("Origin", origin)
            .send()
            .expect(200)
    };
    let answer = get("https://deep.below.example.org");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://deep.below.example.org")
    );
    assert_eq!(answer.header("access-control-expose-headers"), Some("X-Request-Id"));
    assert!(answer.header("access-control-allow-methods").is_none());
    assert_eq!(answer.all("vary"), ["Accept", "Origin"]);

    let stranger = get("https://evil-example.org");
    assert!(stranger.header("access-control-allow-origin").is_none(), "{stranger:?}");
    assert_eq!(stranger.all("vary"), ["Accept", "Origin"]);
}

#[test]
fn a_browser_can_read_why_it_was_refused() {
    let (gateway, _origin) = gateway();
    let get = || gateway.client().get("/a").header("Origin", APP);
    let told = |answer: Answer| {
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    };
    told(get().send().expect(401));
    told(get().key("nonsense").send().expect(401));
    told(
        gateway
            .client()
            .get("/a/closed")
            .header("Origin", APP)
            .send()
            .expect(403),
    );
    // Five, in case the day ends between them.
    let limited = (0..5).find_map(|_| Some(get().key(KEY).send()).filter(|answer| answer.status == 429));
    told(limited.expect("the limit of two was never reached"));
    let fails = Gateway::with(Revision::empty().behind("origin", Planned::new().address()).api(
        "{ name: a, base_path: /a, auth: none, upstream: origin, cors: { origins: [\"https://app.example.com\"] } }",
    ))
    .start();
    let failed = fails.client().get("/a").header("Origin", APP).send().expect(502);
    assert_eq!(failed.header("access-control-allow-origin"), Some(APP), "{failed:?}");
}

/// The engine has given the request up when its deadline ends it; the browser is told all the same.
#[test]
fn a_browser_can_read_that_its_request_took_too_long() {
    let origin = Origin::start(hangs());
    let api = format!("{{ name: a, base_path: /a, auth: none, upstream: origin, cors: {{ origins: [\"{APP}\"] }} }}");
    let gateway = Gateway::with(Revision::of(&origin).api(&api))
        .server("timeouts: { request: 300ms }")
        .start();
    let answer = gateway.client().get("/a").header("Origin", APP).send();
    let answer = answer.expect_refusal(504, "upstream_timeout");
    assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{answer:?}");
    let stranger = gateway
        .client()
        .get("/a")
        .header("Origin", "https://evil.example")
        .send()
        .expect(504);
    assert!(stranger.header("access-control-allow-origin").is_none(), "{stranger:?}");
}
