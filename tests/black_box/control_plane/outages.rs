//! The control plane is away, or ends in the middle of something: gateways serve on, and nothing is ever half done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{ControlPlane, DnsServer, Gateway, Mood, Origin, Revision, answer, until};

/// Many APIs, all of which say which publish they are of: what is half of one and half of another is seen.
fn numbered(origin: &Origin, number: usize) -> Revision {
    let mut revision = Revision::of(origin);
    for api in 0..60 {
        revision = revision.api(&format!(
            "{{ name: a{api}, base_path: /a{api}, auth: none, upstream: origin, routes: [{{ path: /v{number} }}] }}"
        ));
    }
    revision
}

/// Which publish each API of the gateway is of; all have to be of the same.
#[track_caller]
fn version(gateway: &Gateway, upto: usize) -> Option<usize> {
    let serves = |api: usize, number: usize| gateway.client().get(&format!("/a{api}/v{number}")).send().status == 200;
    (1..=upto).find(|number| serves(0, *number))
}

#[test]
fn killed_in_the_middle_of_a_publish_twenty_times_it_never_shows_half_a_revision() {
    let origin = Origin::start(answer(200, ""));
    let mut control_plane = ControlPlane::setup().section("distribution: { spread: 0ms }").start();
    control_plane.publish("Default", numbered(&origin, 1));
    let gateway = control_plane.gateway().start();
    until("the first revision is served", || version(&gateway, 1) == Some(1));

    let watching = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Some answer has to be there all the time: of an API that every revision has.
            while watching.load(Ordering::Relaxed) {
                let status = gateway.client().get("/a7/none").send().status;
                assert_eq!(status, 404, "the gateway serves on");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        for round in 2..22 {
            let body = json!({
                "environments": ["Default"],
                "document": numbered(&origin, round).to_string(),
                "name": "revision.yaml",
            });
            let request = control_plane
                .request("POST", "/v1/revisions")
                .header("content-type", "application/json")
                .body(body.to_string());
            let bytes = request.bytes();
            let mut connection = crate::harness::Connection::to(control_plane.address());
            connection.send(bytes);
            // Each time a little later: before it was read, while it is checked, while it is written, after that.
            std::thread::sleep(Duration::from_millis(3 * round as u64));
            control_plane.kill();
            control_plane.restart();
            let revisions = control_plane.get("/v1/environments/Default/revisions?limit=1000");
            for revision in revisions["items"].as_array().unwrap() {
                let seq = revision["seq"].as_u64().unwrap();
                let whole = control_plane.get(&format!("/v1/environments/Default/revisions/{seq}"));
                let apis = whole["document"]["apis"].as_array().expect("a whole document").clone();
                assert_eq!(apis.len(), 60, "revision {seq}");
                let first = apis[0]["routes"][0]["path"].clone();
                assert!(
                    apis.iter().all(|api| api["routes"][0]["path"] == first),
                    "revision {seq}"
                );
            }
        }
        watching.store(false, Ordering::Relaxed);
    });
    let seq = control_plane.publish("Default", numbered(&origin, 99));
    until("the last revision is served", || {
        gateway.client().get("/a59/v99").send().status == 200
    });
    assert!(seq >= 2);
}

#[test]
fn gateways_start_without_it_from_what_they_have_on_disk() {
    let origin = Origin::start(answer(200, ""));
    let mut control_plane = ControlPlane::start();
    control_plane.publish("Default", numbered(&origin, 1));
    let gateway = control_plane.gateway().start();
    until("the first revision is served", || version(&gateway, 1) == Some(1));
    let url = control_plane.url();
    control_plane.kill();
    assert_eq!(version(&gateway, 1), Some(1));

    let directory = gateway.leave();
    let gateway = Gateway::pulling(&format!("urls: [\"{url}\"]"))
        .in_directory(directory)
        .start();
    assert_eq!(version(&gateway, 1), Some(1), "at once, without asking anybody");
    assert_eq!(gateway.ready()["ready"], true);
    let directory = gateway.crash();
    control_plane.restart();
    let gateway = control_plane.gateway().in_directory(directory).start();
    control_plane.publish("Default", numbered(&origin, 2));
    until("it goes on where it was", || version(&gateway, 2) == Some(2));
}

#[test]
fn a_gateway_that_has_never_had_a_revision_waits_for_one() {
    let origin = Origin::start(answer(200, ""));
    let mut control_plane = ControlPlane::start();
    control_plane.publish("Default", numbered(&origin, 1));
    let setup = control_plane.gateway();
    control_plane.kill();
    let gateway = setup.start();
    let ready = gateway.status().get("/status/ready").send();
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["ready"], false);
    gateway.client().get("/a0/v1").send().expect(503);
    control_plane.restart();
    until("it gets its first revision", || version(&gateway, 1) == Some(1));
}

#[test]
fn a_name_that_is_gone_while_a_gateway_restarts_does_not_take_down_what_served_before() {
    let (dns, origin) = (DnsServer::start(), Origin::start(answer(200, "")));
    dns.set("orders.internal", ["A 127.0.0.1"]);
    let address = format!("orders.internal:{}", origin.address().port());
    let revision = Revision::of(&origin)
        .upstream(&format!(
            "{{ name: orders, endpoints: [{{ address: \"{address}\" }}] }}"
        ))
        .api("{ name: open, base_path: /open, auth: none, upstream: origin }")
        .api("{ name: named, base_path: /named, auth: none, upstream: orders }");
    let control_plane = ControlPlane::start();
    control_plane.publish("Default", revision);
    let status = |gateway: &Gateway, path: &str| gateway.client().get(path).send().status;
    let gateway = control_plane.gateway().section(&dns.section("")).start();
    until("both are served", || {
        status(&gateway, "/open") == 200 && status(&gateway, "/named") == 200
    });
    let url = control_plane.url();
    control_plane.kill();
    let directory = gateway.leave();
    dns.is(Mood::Forgetful);
    let gateway = Gateway::pulling(&format!("urls: [\"{url}\"]"))
        .section(&dns.section(""))
        .in_directory(directory)
        .start();
    assert_eq!(status(&gateway, "/open"), 200, "it needs no name");
    let without = status(&gateway, "/named");
    assert!((500..600).contains(&without), "{without}");
    gateway.logs("does not resolve");
    gateway.logs("it is looked up again until it does");
    dns.is(Mood::Fine);
    until("it is found", || status(&gateway, "/named") == 200);
}
