//! What gateways are told to forget by way of their control plane.

use std::time::Instant;

use serde_json::json;

use super::admin::{admin_section, order};
use super::*;

/// A document whose one API keeps answers.
fn document(origin: &Origin) -> Revision {
    Revision::of(origin).api("{ name: all, base_path: /, auth: none, upstream: origin, cache: {} }")
}

fn ask(gateway: &Gateway, target: &str) -> String {
    gateway.client().get(target).send().expect(200).text()
}

/// What is answered now, and kept.
#[track_caller]
fn kept(gateway: &Gateway, target: &str) -> String {
    let answer = ask(gateway, target);
    assert_eq!(ask(gateway, target), answer, "{target} is not kept");
    answer
}

/// Waits until a gateway serves, and hears what others are told.
fn until_current(gateway: &Gateway) {
    until("the gateway has its revision", || {
        gateway.client().get("/ready").send().status == 200
    });
    until("the gateway follows the log of invalidations", || {
        let facts = order(gateway, "GET", "/admin/cache", None).expect(200).json();
        facts["spread"][0]["is_current"] == true
    });
}

#[test]
fn all_gateways_of_an_environment_forget_what_the_control_plane_or_one_of_them_is_told_to() {
    let origin = service(|request, _| {
        let tag = request.target.trim_start_matches('/').to_owned();
        fresh(600, &format!("Cache-Tag: {tag}\r\n"))
    });
    let mut control_plane = ControlPlane::start();
    control_plane.publish("Default", document(&origin));
    let gateways: Vec<Gateway> = (0..2)
        .map(|_| control_plane.gateway().section(&admin_section()).start())
        .collect();
    gateways.iter().for_each(until_current);

    let before: Vec<[String; 2]> = gateways
        .iter()
        .map(|gateway| [kept(gateway, "/news"), kept(gateway, "/sports")])
        .collect();
    let done = control_plane.verb(["cache", "invalidate", "-e", "Default", "--tag", "news"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let started = Instant::now();
    for (gateway, [news, sports]) in gateways.iter().zip(&before) {
        until("the news are fetched anew", || ask(gateway, "/news") != *news);
        assert_eq!(ask(gateway, "/sports"), *sports, "nobody was told to forget them");
    }
    println!(
        "told by the control plane: in force at both gateways after {:?}",
        started.elapsed()
    );

    // Told to one of them, it goes round.
    let sports = kept(&gateways[1], "/sports");
    let told = order(
        &gateways[0],
        "POST",
        "/admin/cache/invalidate",
        Some(json!({ "tags": ["sports"] })),
    );
    let started = Instant::now();
    assert_eq!(told.expect(200).json()["spread"], "control_plane");
    until("the other one has heard of it", || {
        ask(&gateways[1], "/sports") != sports
    });
    println!(
        "told by one gateway: in force at the other one after {:?}",
        started.elapsed()
    );

    // Whoever was away comes back to what was said meanwhile.
    let listed = control_plane.get("/v1/environments/Default/cache/invalidations");
    assert_eq!(listed["items"][1]["what"], json!({ "tags": ["news"] }), "{listed}");
    let news = kept(&gateways[1], "/news");
    control_plane.kill();
    control_plane.restart();
    let body = json!({ "prefixes": ["/news"] });
    control_plane
        .post("/v1/environments/Default/cache/invalidations", &body)
        .expect(202);
    until("the gateway has found back", || ask(&gateways[1], "/news") != news);
}

#[test]
fn what_a_request_changes_at_one_gateway_the_others_forget_also_without_redis() {
    let origin = service(|_, _| fresh(600, ""));
    let control_plane = ControlPlane::start();
    control_plane.publish("Default", document(&origin));
    let gateways: Vec<Gateway> = (0..2)
        .map(|_| control_plane.gateway().section(&admin_section()).start())
        .collect();
    gateways.iter().for_each(until_current);
    let get = |target: &str| {
        let request = gateways[1].client().get(target).host("shop.example");
        request.send().expect(200).text()
    };
    let (changed, other) = (get("/changed"), get("/other"));
    assert_eq!(get("/changed"), changed, "it is not kept");
    let request = gateways[0].client().post("/changed", "news").host("shop.example");
    request.send().expect(200);
    until("the other gateway has heard of it", || get("/changed") != changed);
    assert_eq!(get("/other"), other, "nobody has changed it");
}

#[test]
fn an_order_needs_a_right_an_environment_and_something_to_forget() {
    let control_plane = ControlPlane::start();
    let path = "/v1/environments/Default/cache/invalidations";
    let all = json!({ "all": true });
    for (scope, status) in [
        ("read", 403),
        ("revisions:publish", 403),
        ("gateways:write", 202),
        ("gateway", 202),
    ] {
        let token = control_plane.token_for(scope);
        let request = Client::of(control_plane.address()).request("POST", path).token(&token);
        let answer = request.body(all.to_string()).send();
        assert_eq!(answer.status, status, "{scope}: {answer:?}");
    }
    control_plane
        .post("/v1/environments/none/cache/invalidations", &all)
        .expect(404);
    let problem = control_plane.post(path, &json!({})).expect(400).json();
    assert!(
        problem["detail"].as_str().unwrap().contains("nothing is named"),
        "{problem}"
    );
}
