//! Changes of header fields, both ways.

use super::with_api;
use crate::harness::*;

#[test]
fn fields_of_the_request_are_removed_set_and_added_by_the_api_and_then_by_the_route() {
    let origin = Origin::start(echo());
    let gateway = with_api(
        &origin,
        r#"headers: { request: { remove: [X-Debug], set: { X-Tenant: acme, Host: orders.internal }, add: { X-Tag: "1" } } },
           routes: [ { path: / }, { path: /own, headers: { request: { set: { X-Tenant: other }, add: { X-Tag: "2" } } } } ]"#,
    );
    let seen = |target: &str| {
        let request = gateway.client().get(target).host("api.example.com");
        let request = request
            .header("X-Debug", "yes")
            .header("X-Tenant", "forged")
            .header("X-Tag", "0");
        request.send().expect(200).echo()
    };
    let at_api = seen("/a");
    assert!(at_api.all("x-debug").is_empty());
    assert_eq!(at_api.all("x-tenant"), ["acme"]);
    assert_eq!(at_api.all("x-tag"), ["0", "1"]);
    assert_eq!(at_api.all("host"), ["orders.internal"]);
    assert_eq!(at_api.header("x-forwarded-host"), Some("api.example.com"));
    let at_route = seen("/a/own");
    assert_eq!(at_route.all("x-tenant"), ["other"]);
    assert_eq!(at_route.all("x-tag"), ["0", "1", "2"]);
}

#[test]
fn fields_of_answers_are_changed_and_those_of_refusals_are_not() {
    let origin = Origin::start(|exchange: &mut Exchange| {
        exchange.respond(
            200,
            "Server: secret/1.0\r\nCache-Control: public\r\nVia: a\r\nSet-Cookie: a=1\r\n",
            b"",
        )
    });
    let gateway = Gateway::with(
        Revision::of(&origin)
            .api(
                r#"{ name: a, base_path: /a, auth: [api_key], upstream: origin, headers: { response:
                     { remove: [Server], set: { Cache-Control: no-store }, add: { Via: b, Set-Cookie: "b=2; Secure" } } } }"#,
            )
            .mobile(&["a"]),
    )
    .start();
    let answer = gateway.client().get("/a").key(KEY).send().expect(200);
    assert!(answer.header("server").is_none());
    assert_eq!(answer.all("cache-control"), ["no-store"]);
    assert_eq!(answer.all("via"), ["a", "b"]);
    assert_eq!(answer.all("set-cookie"), ["a=1", "b=2; Secure"]);
    assert!(answer.header("x-request-id").is_some());
    let refused = gateway.client().get("/a").send().expect(401);
    assert!(refused.header("via").is_none());
}

/// A client that sends what the gateway sets, in whatever way, does not get it past the gateway.
#[test]
fn a_client_can_not_have_a_set_field_dropped_or_doubled() {
    let origin = Origin::start(echo());
    let gateway = with_api(&origin, "headers: { request: { set: { X-Tenant: acme } } }");
    let request = gateway.client().get("/a").header("Connection", "close, X-Tenant");
    let request = request.header("X-Tenant", "forged").header("x-tenant", "twice");
    assert_eq!(request.send().expect(200).echo().all("x-tenant"), ["acme"]);
}
