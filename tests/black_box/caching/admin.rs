//! What an administrator has forgotten.

use serde_json::{Value, json};

use super::*;

const TOKEN: &str = "a-token-that-nobody-guesses";

/// The section that asks for the admin listener.
pub(super) fn admin_section() -> String {
    format!("admin: {{ address: \"127.0.0.1:0\", token: {TOKEN} }}")
}

/// A gateway whose answers are kept for minutes, each with a tag that is its first segment.
fn scene() -> Scene {
    let tagged = service(|request, _| {
        let tag = request.target.split(['/', '?']).nth(1).unwrap_or_default().to_owned();
        fresh(600, &format!("Surrogate-Key: {tag} everything\r\n"))
    });
    Scene::serving(tagged, |setup| setup.section(&admin_section()), "cache: {}")
}

/// Asks the admin listener of a gateway.
pub(super) fn order(gateway: &Gateway, method: &str, target: &str, body: Option<Value>) -> Answer {
    let request = gateway.admin().request(method, target).token(TOKEN);
    match body {
        Some(body) => request.body(body.to_string()).send(),
        None => request.send(),
    }
}

/// Which of these targets are fetched anew after an order; all of them were kept before.
fn fetched_anew<'t>(scene: &Scene, targets: &[&'t str], order: impl FnOnce()) -> Vec<&'t str> {
    let before: Vec<usize> = targets.iter().map(|target| scene.nth(scene.get(target))).collect();
    for (target, before) in targets.iter().zip(&before) {
        assert_eq!(scene.nth(scene.get(target)), *before, "{target} is not kept");
    }
    order();
    let anew = targets.iter().zip(&before);
    anew.filter(|(target, before)| scene.nth(scene.get(target)) != **before)
        .map(|(target, _)| *target)
        .collect()
}

#[test]
fn what_is_named_is_forgotten_and_nothing_else() {
    let scene = scene();
    let host = scene.gateway.address();
    let targets = ["/a/1", "/a/1?q", "/a/2", "/b/1"];
    for (body, expected) in [
        (json!({ "urls": [format!("http://{host}/a/1")] }), &["/a/1"][..]),
        (json!({ "urls": [format!("https://{host}/a/./1?q")] }), &["/a/1?q"]),
        (json!({ "urls": ["http://elsewhere.example/a/1"] }), &[]),
        (json!({ "prefixes": ["/a/"] }), &["/a/1", "/a/1?q", "/a/2"]),
        (json!({ "prefixes": [format!("http://{host}/b")] }), &["/b/1"]),
        (json!({ "prefixes": ["https://elsewhere.example/"] }), &[]),
        (json!({ "tags": ["b"] }), &["/b/1"]),
        (json!({ "tags": ["everything"] }), &targets),
        (json!({ "tags": ["c"] }), &[]),
        (json!({ "apis": ["all"] }), &targets),
        (json!({ "routes": [{ "api": "all", "route": "/*" }] }), &targets),
        (json!({ "all": true }), &targets),
    ] {
        let anew = fetched_anew(&scene, &targets, || {
            order(&scene.gateway, "POST", "/admin/cache/invalidate", Some(body.clone())).expect(200);
        });
        assert_eq!(anew, expected, "{body}");
    }
    for (method, target, expected) in [
        ("POST", "/admin/cache/invalidate/all", &targets[..]),
        ("DELETE", "/admin/cache/routes", &targets),
        ("DELETE", "/admin/cache/routes?api=all", &targets),
        ("DELETE", "/admin/cache/routes?prefix=/a/1", &["/a/1", "/a/1?q"]),
        ("DELETE", "/admin/cache/routes?api=none", &[]),
    ] {
        let anew = fetched_anew(&scene, &targets, || {
            order(&scene.gateway, method, target, None).expect(200);
        });
        assert_eq!(anew, expected, "{method} {target}");
    }
}

#[test]
fn what_was_answered_to_an_application_is_forgotten_by_its_name_or_the_key() {
    let origin = service(|_, _| fresh(600, ""));
    let revision = Revision::of(&origin)
        .api("{ name: a, base_path: /a, auth: [api_key], upstream: origin, cache: { authorized: false } }")
        .mobile(&["a"]);
    let gateway = Gateway::with(revision).section(&admin_section()).start();
    let ask = || gateway.client().get("/a/1").key(KEY).send().expect(200).text();
    let first = ask();
    assert_eq!(ask(), first);
    order(&gateway, "DELETE", "/admin/cache/user/nobody", None).expect(200);
    assert_eq!(ask(), first);
    order(&gateway, "DELETE", "/admin/cache/user/mobile", None).expect(200);
    assert_ne!(ask(), first);
}

#[test]
fn the_answer_says_who_was_told_and_what_is_unknown_here() {
    let scene = scene();
    let body = json!({ "tags": ["a", "b"], "apis": ["ordres"] });
    let told = order(&scene.gateway, "POST", "/admin/cache/invalidate", Some(body)).expect(200);
    let told = told.json();
    assert_eq!(told["invalidated"], json!({ "tag": 2, "api": 1 }));
    assert_eq!(told["spread"], "none");
    assert_eq!(told["unknown_here"], json!(["api ordres"]));
    assert!(told["hint"].as_str().unwrap().contains("ask each of them"), "{told}");

    assert_eq!(scene.nth(scene.get("/a")), 1);
    assert_eq!(scene.nth(scene.get("/a")), 1);
    let look = || order(&scene.gateway, "GET", "/admin/cache", None).expect(200).json();
    // A request is counted when its answer has gone out.
    until("both requests are counted", || look()["requests"]["asked"] == 2);
    let facts = look();
    assert_eq!(facts["memory"]["entries"], 1, "{facts}");
    assert!(facts["memory"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(facts["requests"]["asked"], 2);
    assert_eq!(facts["requests"]["hits"], 1);
    assert_eq!(facts["last_invalidations"][0]["names"][0], "tag a");
    let series = "tollgate_cache_invalidations_total{kind=\"tag\",source=\"admin\"}";
    assert!(scene.gateway.metric(series) >= 2.0);
}

#[test]
fn a_bad_order_forgets_nothing_and_says_what_is_wrong() {
    let scene = scene();
    let before = scene.nth(scene.get("/a"));
    for (body, expected) in [
        (json!({}), "nothing is named"),
        (json!({ "tag": ["a"] }), "unknown field `tag`"),
        (json!({ "tags": ["everything"], "urls": ["/a"] }), "names no host"),
        (json!({ "all": true, "from": "me" }), "is for gateways"),
    ] {
        let answer = order(&scene.gateway, "POST", "/admin/cache/invalidate", Some(body)).expect(400);
        let problem = answer.json();
        assert_eq!(problem["code"], "bad_request");
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{problem}");
    }
    for target in ["/admin/cache/routes?route=/a", "/admin/cache/routes?what=/a"] {
        order(&scene.gateway, "DELETE", target, None).expect(400);
    }
    let stranger = scene.gateway.admin().request("POST", "/admin/cache/invalidate/all");
    stranger.send().expect(401);
    assert_eq!(scene.nth(scene.get("/a")), before);
}

#[test]
fn the_verb_does_the_same() {
    let scene = scene();
    let gateway = format!("http://{}", scene.gateway.admin().server());
    let verb = |arguments: &[&str]| {
        let fixed = ["cache", "--gateway", gateway.as_str(), "--admin-token", TOKEN];
        tollgate(fixed.into_iter().chain(arguments.iter().copied()))
    };
    let anew = fetched_anew(&scene, &["/a", "/b"], || {
        let done = verb(&["invalidate", "--tag", "a", "--prefix", "/nothing"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(done.stdout.contains("none"), "{done:?}");
    });
    assert_eq!(anew, ["/a"]);
    let shown = verb(&["show"]);
    assert!(shown.stdout.contains("hit ratio"), "{shown:?}");
    let wrong = verb(&["invalidate", "--url", "/a"]);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("names no host"), "{wrong:?}");
}
