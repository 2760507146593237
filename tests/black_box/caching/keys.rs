//! What makes two requests the same for the cache, and what never does.

use super::*;

#[test]
fn another_target_is_another_answer() {
    let scene = Scene::of(|request, nth| fresh(60, "").with_body(&format!("{} {nth}", request.target)));
    let ask = |target: &str| scene.get(target).send().expect(200).text();
    for target in [
        "/a",
        "/a?",
        "/a?x=1",
        "/a?x=2",
        "/a?x=1&y=2",
        "/a?y=2&x=1",
        "/a/",
        "/a%3Fx=1",
        "/A",
    ] {
        assert_eq!(ask(target), format!("{target} 1"));
        assert_eq!(ask(target), format!("{target} 1"));
    }
}

#[test]
fn the_same_target_written_differently_is_the_same() {
    let scene = Scene::of(|_, _| fresh(60, ""));
    for target in ["/a/b", "/a/./b", "/a/x/../b", "/a//b", "/%61/b"] {
        assert_eq!(scene.nth(scene.get(target)), 1, "{target}");
    }
    assert_eq!(scene.origin.requests(), 1);
}

#[test]
fn another_host_is_another_answer() {
    let scene = Scene::of(|_, _| fresh(60, ""));
    assert_eq!(scene.nth(scene.get("/a").host("one.example.com")), 1);
    assert_eq!(scene.nth(scene.get("/a").host("two.example.com")), 2);
    assert_eq!(scene.nth(scene.get("/a").host("one.example.com:8080")), 3);
    assert_eq!(scene.nth(scene.get("/a").host("ONE.example.com")), 1);
}

#[test]
fn what_a_trusted_proxy_says_of_the_client_s_way_is_a_part_of_the_key() {
    let scene = Scene::serving(
        service(|_, _| fresh(60, "")),
        |setup| setup.server("trusted_proxies: [127.0.0.1/32]"),
        "cache: {}",
    );
    let ask = |proto: &str| scene.nth(scene.get("/a").header("X-Forwarded-Proto", proto));
    assert_eq!((ask("http"), ask("https"), ask("http")), (1, 2, 1));
    // From anybody else it says nothing, and reaches nobody.
    let scene = Scene::of(|_, _| fresh(60, ""));
    let ask = |proto: &str| scene.nth(scene.get("/a").header("X-Forwarded-Proto", proto));
    assert_eq!((ask("http"), ask("https")), (1, 1));
    let ask = |host: &str| scene.nth(scene.get("/a").header("X-Forwarded-Host", host));
    assert_eq!((ask("evil.example.com"), ask("a")), (1, 1));
}

#[test]
fn each_arm_of_a_split_keeps_its_own() {
    let one = service(|_, _| fresh(60, "").with_body("one"));
    let two = service(|_, _| fresh(60, "").with_body("two"));
    let revision = Revision::empty()
        .behind("one", one.address())
        .behind("two", two.address())
        .api(
            "{ name: all, base_path: /, auth: none, upstreams: [ { name: one, weight: 50 }, { name: two, weight: 50 } ], \
             split: { override_header: X-Arm }, cache: {} }",
        );
    let gateway = Gateway::with(revision).start();
    let ask = |arm: &str| {
        gateway
            .client()
            .get("/a")
            .header("X-Arm", arm)
            .send()
            .expect(200)
            .text()
    };
    for _ in 0..3 {
        assert_eq!((ask("one").as_str(), ask("two").as_str()), ("one", "two"));
    }
    assert_eq!((one.requests(), two.requests()), (1, 1));
}

#[test]
fn a_key_in_the_query_is_no_part_of_the_target() {
    let origin = service(|_, _| fresh(60, ""));
    let revision = Revision::of(&origin)
        .api("{ name: all, base_path: /, auth: [api_key], credentials: { key_query: key }, upstream: origin, cache: {} }")
        .mobile(&["all"]);
    let gateway = Gateway::with(revision).start();
    let ask = |target: &str| gateway.client().get(target).send().expect(200).text();
    assert_eq!(ask(&format!("/a?x=1&key={KEY}")), "1");
    assert_eq!(ask(&format!("/a?key={KEY}&x=1")), "1");
}

#[test]
fn a_credential_that_the_origin_is_sent_in_the_url_is_not_forgotten() {
    let origin = service(|request, _| fresh(600, "").with_body(&request.target));
    let revision = Revision::of(&origin).api(
        "{ name: all, base_path: /, auth: none, credentials: { key_query: key, forward: true }, upstream: origin, cache: {} }",
    );
    let gateway = Gateway::with(revision).start();
    let ask = |target: &str| gateway.client().get(target).send().expect(200).text();
    for target in ["/a?key=A", "/a?key=B", "/a?key=A"] {
        assert_eq!(ask(target), target);
    }
}
