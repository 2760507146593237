//! Host, path and method: which API answers, and what of the path the origin sees.

use crate::harness::*;

/// Origins that answer with their name, and a revision that has each of them as an upstream.
fn named<const N: usize>(names: [&'static str; N]) -> ([Origin; N], Revision) {
    let origins = names.map(|name| Origin::start(answer(200, name)));
    let revision = names
        .iter()
        .zip(&origins)
        .fold(Revision::empty(), |revision, (name, origin)| {
            revision.behind(name, origin.address())
        });
    (origins, revision)
}

#[test]
fn the_most_specific_path_answers_whatever_the_order_in_the_file() {
    let lines = [
        "{ name: wild, base_path: /shop, auth: none, upstream: wildcard, routes: [{ path: \"/*\" }] }",
        "{ name: para, base_path: /shop, auth: none, upstream: parameter, routes: [{ path: \"/{id}\" }] }",
        "{ name: lite, base_path: /shop, auth: none, upstream: literal, routes: [{ path: /new }] }",
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let (_origins, revision) = named(["wildcard", "parameter", "literal"]);
        let gateway = Gateway::with(order.iter().fold(revision, |revision, line| revision.api(lines[*line]))).start();
        let who = |target: &str| gateway.client().get(target).send().expect(200).text();
        assert_eq!(who("/shop/new"), "literal");
        assert_eq!(who("/shop/7"), "parameter");
        assert_eq!(who("/shop/newer"), "parameter");
        assert_eq!(who("/shop/new/deep"), "wildcard");
    }
}

#[test]
fn an_exact_host_goes_before_a_wildcard_and_a_wildcard_before_any() {
    let (_origins, revision) = named(["exact", "wildcard", "any"]);
    let revision = revision
        .api("{ name: any, base_path: /a, auth: none, upstream: any }")
        .api("{ name: wildcard, base_path: /a, auth: none, upstream: wildcard, hosts: [\"*.example.org\"] }")
        .api("{ name: exact, base_path: /a, auth: none, upstream: exact, hosts: [api.example.org] }");
    let gateway = Gateway::with(revision).start();
    let who = |host: &str| gateway.client().get("/a").host(host).send().expect(200).text();
    assert_eq!(who("api.example.org"), "exact");
    assert_eq!(who("API.Example.ORG:8280"), "exact", "case and port do not matter");
    assert_eq!(who("shop.example.org"), "wildcard");
    assert_eq!(who("a.b.example.org"), "wildcard");
    assert_eq!(who("example.org"), "any", "the wildcard is for hosts below it");
    assert_eq!(who("example.com"), "any");
}

#[test]
fn what_is_not_published_is_404_and_the_origin_hears_nothing_of_it() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    for target in ["/", "/order", "/orders2", "/ORDERS", "/nothing/orders"] {
        let answer = gateway.client().get(target).key(KEY).send();
        answer.expect_refusal(404, "route_not_found");
    }
    assert_eq!(origin.bytes(), 0);
}

#[test]
fn a_wrong_method_is_405_and_allow_lists_the_right_ones() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(Revision::of(&origin).api(
        "{ name: orders, base_path: /orders, auth: none, upstream: origin, routes: [
            { path: /, methods: [GET, POST] }, { path: \"/{id}\", methods: [GET] }, { path: \"/{id}\", methods: [DELETE] } ] }",
    ))
    .start();
    let client = gateway.client();
    let allow = |method: &str, target: &str| {
        let answer = client
            .request(method, target)
            .send()
            .expect_refusal(405, "method_not_allowed");
        let mut methods: Vec<String> = answer.header("allow").unwrap().split(", ").map(str::to_owned).collect();
        methods.sort();
        methods.join(" ")
    };
    assert_eq!(allow("PUT", "/orders"), "GET HEAD POST");
    assert_eq!(allow("PATCH", "/orders/7"), "DELETE GET HEAD");
    client.request("DELETE", "/orders/7").send().expect(200);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn head_is_answered_where_get_is_and_has_no_content() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        Revision::of(&origin)
            .api("{ name: a, base_path: /a, auth: none, upstream: origin, routes: [{ path: /, methods: [GET] }] }"),
    )
    .start();
    let mut connection = gateway.raw();
    let answer = gateway
        .client()
        .request("HEAD", "/a")
        .send_on(&mut connection)
        .expect(200);
    assert!(answer.body.is_empty());
    assert!(answer.header("content-length").unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(origin.received()[0].method, "HEAD");
    // No stray content either: the same connection goes on with the next answer.
    assert_eq!(
        gateway
            .client()
            .get("/a")
            .send_on(&mut connection)
            .expect(200)
            .echo()
            .target,
        "/a"
    );
}

#[test]
fn the_origin_sees_the_path_that_was_matched() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    for (sent, seen) in [
        ("/open", "/open"),
        ("/open/", "/open/"),
        ("/open/a%20b", "/open/a%20b"),
        ("/open//a///b", "/open/a/b"),
        ("/open/./a/../b", "/open/b"),
        ("/orders/../open/x", "/open/x"),
        ("/%6fpen/%7Euser/%c3%a4", "/open/~user/%C3%A4"),
        ("/open/a?b=c//d/../e%2f&f", "/open/a?b=c//d/../e%2f&f"),
        ("/open?", "/open?"),
    ] {
        let answer = gateway.client().get(sent).send().expect(200);
        assert_eq!(answer.echo().target, seen, "{sent}");
    }
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_400_and_the_origin_hears_nothing_of_it() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    for target in [
        "/open/a%2Fb",
        "/open/a%2fb",
        "/open/%00",
        "/open/a\\b",
        "/open/%5c..",
        "/open/%252e%252e/x",
        "/open/a;b=c",
        "/open/%zz",
        "/open/%2",
        "/open/../..",
        "/open/%ff",
    ] {
        let answer = gateway.client().get(target).send();
        answer.expect_refusal(400, "bad_request");
    }
    assert_eq!(origin.bytes(), 0);
}

#[test]
fn a_base_path_is_cut_off_when_the_api_says_so() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        Revision::of(&origin)
            .api("{ name: cut, base_path: /v1/shop, auth: none, upstream: origin, strip_base_path: true }")
            .api("{ name: root, base_path: /, auth: none, upstream: origin, strip_base_path: true }"),
    )
    .start();
    for (sent, seen) in [
        ("/v1/shop", "/"),
        ("/v1/shop/", "/"),
        ("/v1/shop?a=1", "/?a=1"),
        ("/v1/shop/a/b?c", "/a/b?c"),
        ("/v1//shop/./a", "/a"),
        ("/v1/shopping", "/v1/shopping"),
        ("/x/y", "/x/y"),
    ] {
        let answer = gateway.client().get(sent).send().expect(200);
        assert_eq!(answer.echo().target, seen, "{sent}");
    }
}

#[test]
fn an_api_with_routes_answers_only_those_and_its_base_path_with_and_without_slash() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(Revision::of(&origin).api(
        "{ name: a, base_path: /a, auth: none, upstream: origin, routes: [{ path: / }, { path: /b }, { path: \"/files/*\" }] }",
    ))
    .start();
    let status = |target: &str| gateway.client().get(target).send().status;
    for target in ["/a", "/a/", "/a/b", "/a/files/x", "/a/files/x/y"] {
        assert_eq!(status(target), 200, "{target}");
    }
    for target in ["/a/c", "/a/b/c", "/ab"] {
        assert_eq!(status(target), 404, "{target}");
    }
}
