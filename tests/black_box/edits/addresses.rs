//! Addresses that are let in and those that are not.

use super::with_api;
use crate::harness::*;

#[test]
fn a_denied_address_is_refused_before_anybody_asks_who_it_is() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        Revision::of(&origin)
            .api(
                "{ name: inner, base_path: /inner, auth: [api_key], upstream: origin, addresses: { allow: [10.0.0.0/8] } }",
            )
            .mobile(&["inner"]),
    )
    .start();
    let client = gateway.client();
    for request in [
        client.get("/inner"),
        client.get("/inner").key(KEY),
        client.get("/inner").key("nonsense"),
    ] {
        let answer = request.header("X-Request-Id", "denied").send();
        let answer = answer.expect_refusal(403, "address_denied");
        assert!(answer.header("www-authenticate").is_none());
        assert!(
            !answer.text().contains("127.0.0.1") && !answer.text().contains("10.0.0.0"),
            "{answer:?}"
        );
    }
    assert_eq!(gateway.access_record("denied")["code"], "address_denied");
    assert_eq!(origin.bytes(), 0);
}

#[test]
fn the_smallest_range_decides_and_a_route_has_its_own_say() {
    let origin = Origin::start(echo());
    let gateway = with_api(
        &origin,
        "addresses: { deny: [127.0.0.0/8], allow: [127.0.0.1] }, routes: [
           { path: / }, { path: /closed, addresses: { deny: [127.0.0.1] } } ]",
    );
    gateway.client().get("/a").send().expect(200);
    let closed = gateway.client().get("/a/closed").send();
    closed.expect_refusal(403, "address_denied");
}

#[test]
fn behind_a_trusted_proxy_the_clients_own_address_counts_and_nobody_else_can_name_another() {
    let origin = Origin::start(echo());
    let api = "{ name: a, base_path: /a, auth: none, upstream: origin, addresses: { allow: [198.51.100.0/24] } }";
    let revision = Revision::of(&origin).api(api);
    let behind = Gateway::with(revision.clone())
        .server("trusted_proxies: [127.0.0.1]")
        .start();
    let from = |gateway: &Gateway, address: &str| gateway.client().get("/a").header("X-Forwarded-For", address).send();
    from(&behind, "198.51.100.7").expect(200);
    from(&behind, "198.51.100.7, 203.0.113.1").expect_refusal(403, "address_denied");

    let in_front = Gateway::with(revision).start();
    from(&in_front, "198.51.100.7").expect_refusal(403, "address_denied");
}
