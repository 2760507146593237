//! Pools: so many gateways and no more, and none is thrown out that is in.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{ControlPlane, Gateway, Origin, PATIENCE, Revision, Setup, answer, eventually, until};

fn control_plane(origin: &Origin) -> ControlPlane {
    let control_plane = ControlPlane::start();
    control_plane.publish(
        "Default",
        Revision::of(origin).api("{ name: open, base_path: /, auth: none, upstream: origin }"),
    );
    control_plane
}

fn member(control_plane: &ControlPlane, name: &str, more: &str) -> Setup {
    control_plane
        .gateway_of(&[control_plane.url()], more)
        .id(name)
        .gateway("pool: edge")
}

fn serves(gateway: &Gateway) -> bool {
    gateway.client().get("/").send().status == 200
}

#[test]
fn a_full_pool_refuses_a_new_gateway_with_75_and_lowering_the_limit_stops_nobody() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = control_plane(&origin);
    let created = control_plane.verb(["pool", "create", "edge", "--max", "2"]);
    assert_eq!(created.code, Some(0), "{created:?}");
    let first = member(&control_plane, "gw-1", "").start();
    let second = member(&control_plane, "gw-2", "").start();
    until("both serve", || serves(&first) && serves(&second));

    let refused = member(&control_plane, "gw-3", "").run();
    assert_eq!(refused.code, Some(75), "{refused:?}");
    assert!(
        refused.stderr.contains("edge") && refused.stderr.contains("full"),
        "{refused:?}"
    );

    let lowered = control_plane.verb(["pool", "set-max-instances", "edge", "1"]);
    assert_eq!(lowered.code, Some(0), "{lowered:?}");
    let pool = control_plane.get("/v1/pools/edge");
    assert_eq!(
        (pool["live"].as_u64(), pool["over_by"].as_u64()),
        (Some(2), Some(1)),
        "{pool}"
    );
    assert!(serves(&first) && serves(&second));

    // A restart keeps its seat, although the pool is more than full.
    let directory = second.crash();
    let second = member(&control_plane, "gw-2", "").in_directory(directory).start();
    until("it serves again", || serves(&second));

    let listed = control_plane.verb(["pool", "list", "--output", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert!(listed.to_string().contains("\"edge\""), "{listed}");
}

#[test]
fn a_gateway_may_wait_for_a_seat_and_gets_it_when_another_one_drains() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = control_plane(&origin);
    control_plane
        .post("/v1/pools", &json!({ "name": "edge", "max_instances": 1 }))
        .expect(201);
    let first = member(&control_plane, "gw-1", "").start();
    until("it serves", || serves(&first));
    let waiting = member(&control_plane, "gw-2", "on_pool_full: wait").start();
    eventually("the second one says what it waits for", || {
        let ready = waiting.ready();
        (ready["ready"] == false && ready.to_string().contains("full")).then_some(())
    });
    let drained = control_plane.verb(["gateway", "drain", "gw-1"]);
    assert_eq!(drained.code, Some(0), "{drained:?}");
    first.wait();
    until("the second one has a seat and serves", || {
        waiting.ready()["ready"] == true && serves(&waiting)
    });
}

#[test]
fn gateways_are_listed_with_what_they_run() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = control_plane(&origin);
    let gateway = member(&control_plane, "gw-1", "").start();
    until("it serves", || serves(&gateway));
    let state = eventually("it is in sync", || {
        let state = control_plane.gateway_state("gw-1");
        (state["drift"] == "in_sync").then_some(state)
    });
    assert_eq!(state["pool"], "edge");
    assert_eq!(state["state"], "alive");
    assert_eq!(state["environment"], "Default");
    let table = control_plane.verb(["gateway", "list"]);
    for word in ["gw-1", "edge", "in_sync"] {
        assert!(table.stdout.contains(word), "{table:?}");
    }
}

#[test]
fn a_gateway_that_is_stopped_gives_up_its_seat_long_before_it_would_have_ended_and_one_that_waits_gets_it() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::setup().section("pools: { seat_ttl: 10m }").start();
    control_plane.publish(
        "Default",
        Revision::of(&origin).api("{ name: open, base_path: /, auth: none, upstream: origin }"),
    );
    let created = control_plane.verb(["pool", "create", "edge", "--max", "1"]);
    assert_eq!(created.code, Some(0), "{created:?}");
    let first = member(&control_plane, "gw-1", "").start();
    until("it serves", || serves(&first));

    // Stopped and started, with nobody else there.
    let directory = first.leave();
    until("it is gone", || control_plane.gateway_state("gw-1")["state"] == "gone");
    let first = member(&control_plane, "gw-1", "").in_directory(directory).start();
    until("it serves again", || serves(&first));

    let waiting = member(&control_plane, "gw-2", "on_pool_full: wait").start();
    eventually("the second one says what it waits for", || {
        let ready = waiting.ready();
        (ready["ready"] == false && ready.to_string().contains("full")).then_some(())
    });
    first.terminate();
    first.wait();
    first.logs("pool \"edge\": the seat is given up");
    // It is held for a restart for ten seconds, and who waits asks every five.
    let stopped = Instant::now();
    while waiting.ready()["ready"] != true {
        assert!(stopped.elapsed() < 3 * PATIENCE, "{}", waiting.ready());
        std::thread::sleep(Duration::from_millis(50));
    }
    until("the second one serves", || serves(&waiting));
    assert_eq!(control_plane.get("/v1/pools/edge")["live"], 1);
}
