//! What clients may want of a cache (RFC 9111 section 5.2.1).

use super::*;

/// Something that was kept when it was already this old, and is fresh for ten minutes in all.
fn kept_at(age: u32) -> Scene {
    let scene = Scene::of(move |request, _| match request.header("if-none-match") {
        Some(_) => reply(304, "Cache-Control: max-age=600\r\n"),
        None => fresh(600, &format!("Age: {age}\r\nETag: \"a\"\r\n")),
    });
    assert_eq!(scene.nth(scene.get("/a")), 1);
    scene
}

/// How often the origin was asked after one request with this field.
fn asks(scene: &Scene, directives: &str) -> usize {
    let before = scene.origin.requests();
    scene.get("/a").header("Cache-Control", directives).send().expect(200);
    scene.origin.requests() - before
}

#[test]
fn a_client_may_have_it_validated() {
    for directives in ["no-cache", "max-age=0", "NO-CACHE", "foo, max-age=\"0\""] {
        let scene = kept_at(0);
        assert_eq!(asks(&scene, directives), 1, "{directives}");
        assert_eq!(
            scene.origin.received()[1].header("if-none-match"),
            Some("\"a\""),
            "{directives}"
        );
    }
    let scene = kept_at(0);
    scene.get("/a").header("Pragma", "no-cache").send().expect(200);
    assert_eq!(scene.origin.requests(), 2);
    // Only where nothing newer is said.
    let request = scene
        .get("/a")
        .header("Pragma", "no-cache")
        .header("Cache-Control", "max-stale");
    request.send().expect(200);
    assert_eq!(scene.origin.requests(), 2);
}

#[test]
fn a_client_may_say_how_old_and_how_fresh_it_has_to_be() {
    assert_eq!(asks(&kept_at(300), "max-age=400"), 0);
    assert_eq!(asks(&kept_at(300), "max-age=200"), 1);
    assert_eq!(asks(&kept_at(300), "min-fresh=100"), 0);
    assert_eq!(asks(&kept_at(300), "min-fresh=500"), 1);
}

#[test]
fn a_client_may_take_what_is_stale_unless_the_origin_forbids_it() {
    let stale = |more: &'static str| {
        let scene = Scene::of(move |_, _| fresh(60, &format!("Age: 120\r\nETag: \"a\"\r\n{more}")));
        scene.get("/a").send().expect(200);
        scene
    };
    assert_eq!(asks(&stale(""), "max-stale"), 0);
    assert_eq!(asks(&stale(""), "max-stale=3600"), 0);
    assert_eq!(asks(&stale(""), "max-stale=10"), 1);
    assert_eq!(asks(&stale("Cache-Control: must-revalidate\r\n"), "max-stale"), 1);
    assert_eq!(asks(&stale("Cache-Control: proxy-revalidate\r\n"), "max-stale"), 1);
    assert_eq!(asks(&stale("Cache-Control: s-maxage=60\r\n"), "max-stale"), 1);
}

#[test]
fn a_client_may_want_nothing_kept() {
    let scene = Scene::of(|_, _| fresh(60, ""));
    let ask = || scene.get("/a").header("Cache-Control", "no-store");
    assert_eq!(scene.nth(ask()), 1);
    assert_eq!(scene.nth(scene.get("/a")), 2, "the first was not kept");
    assert_eq!(scene.nth(scene.get("/a")), 2);
}

#[test]
fn a_client_may_want_only_what_is_kept() {
    let scene = Scene::of(|_, _| fresh(60, ""));
    let ask = || scene.get("/a").header("Cache-Control", "only-if-cached");
    ask().send().expect_refusal(504, "not_kept");
    assert_eq!(scene.origin.requests(), 0);
    assert_eq!(scene.nth(scene.get("/a")), 1);
    assert_eq!(scene.nth(ask()), 1);
    // What is stale is not what may be given.
    let stale = Scene::of(|_, _| fresh(0, "ETag: \"a\"\r\n"));
    stale.get("/a").send().expect(200);
    let ask = stale.get("/a").header("Cache-Control", "only-if-cached");
    ask.send().expect_refusal(504, "not_kept");
    assert_eq!(stale.origin.requests(), 1);
}

#[test]
fn a_policy_may_deny_clients_all_that() {
    let scene = Scene::with("{ client_directives: false }", |_, _| fresh(60, ""));
    assert_eq!(scene.nth(scene.get("/a")), 1);
    for directives in ["no-cache", "no-store", "max-age=0", "only-if-cached"] {
        assert_eq!(
            scene.nth(scene.get("/a").header("Cache-Control", directives)),
            1,
            "{directives}"
        );
    }
}
