//! A gateway of a control plane hands over: it stays the same gateway, with the seat, the revision and the keys it had.

use serde_json::{Value, json};

use crate::harness::*;

fn published(origin: &Origin, version: usize) -> Revision {
    Revision::of(origin)
        .api("{ name: a, base_path: /a, auth: [api_key], upstream: origin }")
        .api(&format!(
            "{{ name: open, base_path: /v{version}, auth: none, upstream: origin }}"
        ))
        .mobile(&["a"])
}

/// A pool with one seat, which this gateway has.
fn seated(control_plane: &ControlPlane) -> Gateway {
    let created = control_plane.verb(["pool", "create", "edge", "--max", "1"]);
    assert_eq!(created.code, Some(0), "{created:?}");
    let gateway = control_plane.gateway().gateway("pool: edge").upgradable().start();
    until("it serves", || serves(&gateway, 1));
    gateway
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.client().get("/a").key(key).send().status
}

fn serves(gateway: &Gateway, version: usize) -> bool {
    gateway.client().get(&format!("/v{version}")).send().status == 200
}

/// Hands over, and waits until the one before has ended and the new one can be followed in turn.
fn upgrade(gateway: &Gateway) {
    let (before, sockets) = (gateway.pid(), socket_count(gateway));
    gateway.upgrade();
    gateway.has_ended(before);
    until("the new process can be followed", || socket_count(gateway) > sockets);
}

fn socket_count(gateway: &Gateway) -> usize {
    gateway.log().matches("upgrade socket ").count()
}

fn state(control_plane: &ControlPlane) -> Value {
    control_plane.gateway_state("gw-test")
}

#[test]
fn three_upgrades_in_a_pool_for_one_keep_the_seat_the_revision_and_the_keys() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    control_plane.publish("Default", published(&origin, 1));
    let gateway = seated(&control_plane);
    let (key, _) = control_plane.key("mobile", "production");
    until("the key lets in", || status(&gateway, &key) == 200);
    let id = state(&control_plane)["id"].clone();
    for version in 1..=3 {
        let (before, since) = (gateway.pid(), state(&control_plane)["since"].clone());
        upgrade(&gateway);
        assert_ne!(gateway.pid(), before);
        assert_eq!(status(&gateway, &key), 200, "known at once");
        assert!(serves(&gateway, version));
        assert_eq!(gateway.ready()["ready"], true);
        let known = eventually("the new process has registered, and serves what is published", || {
            let known = state(&control_plane);
            (known["since"] != since && known["drift"] == "in_sync").then_some(known)
        });
        assert_eq!((&known["id"], &known["state"]), (&id, &json!("alive")));
        let pool = control_plane.get("/v1/pools/edge");
        assert_eq!((&pool["live"], &pool["over_by"]), (&json!(1), &json!(0)), "{pool}");

        control_plane.publish("Default", published(&origin, version + 1));
        until("it follows", || serves(&gateway, version + 1));
    }
    let (later, _) = control_plane.key("mobile", "production");
    until("a new key lets in", || status(&gateway, &later) == 200);

    // The last one is stopped, and gives up the seat.
    shell(&format!("kill -TERM {}", gateway.pid()));
    gateway.has_ended(gateway.pid());
    gateway.logs("pool \"edge\": the seat is given up");
    assert_eq!(control_plane.get("/v1/pools/edge")["live"], 0);
    let log = gateway.log();
    assert_eq!(log.matches("the seat is given up").count(), 1, "only a stop does");
}

#[test]
fn upgrades_need_no_control_plane_and_what_was_revoked_stays_revoked() {
    let origin = Origin::start(answer(200, ""));
    let mut control_plane = ControlPlane::start();
    control_plane.publish("Default", published(&origin, 1));
    let gateway = seated(&control_plane);
    let (kept, _) = control_plane.key("mobile", "production");
    let (revoked, id) = control_plane.key("mobile", "production");
    until("both let in", || {
        status(&gateway, &kept) == 200 && status(&gateway, &revoked) == 200
    });
    // Revoked, and away at once: nobody but the old process can tell the new one.
    control_plane.request("DELETE", &format!("/v1/keys/{id}")).send();
    until("one is refused", || status(&gateway, &revoked) == 401);
    control_plane.kill();
    for _ in 0..3 {
        upgrade(&gateway);
        assert_eq!((status(&gateway, &kept), status(&gateway, &revoked)), (200, 401));
        assert!(serves(&gateway, 1));
        assert_eq!(gateway.ready()["ready"], true, "{}", gateway.ready());
    }
    control_plane.restart();
    control_plane.publish("Default", published(&origin, 2));
    until("it follows", || serves(&gateway, 2));
    eventually("it has its seat", || {
        (state(&control_plane)["state"] == "alive").then_some(())
    });
    assert_eq!(control_plane.get("/v1/pools/edge")["live"], 1);
}

#[test]
fn an_upgrade_that_fails_changes_nothing_for_who_serves() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    control_plane.publish("Default", published(&origin, 1));
    let gateway = seated(&control_plane);
    let (key, _) = control_plane.key("mobile", "production");
    until("the key lets in", || status(&gateway, &key) == 200);
    let before = eventually("it is in sync", || {
        let known = state(&control_plane);
        (known["drift"] == "in_sync").then_some(known)
    });

    // A seat is of one pool: the new process would need another one.
    let path = gateway.path().join("tollgate.yaml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("pool: edge", "pool: core")).unwrap();
    let refused = gateway.try_upgrade(None);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("gateway.pool is \"core\" now"), "{refused:?}");
    let elsewhere = config.replace("/state\"", "/other-state\"");
    assert_ne!(elsewhere, config);
    std::fs::write(&path, elsewhere).unwrap();
    let refused = gateway.try_upgrade(None);
    assert!(refused.stderr.contains("state in another directory"), "{refused:?}");
    assert!(!gateway.path().join("other-state").exists());
    std::fs::write(&path, &config).unwrap();

    assert!(serves(&gateway, 1));
    assert_eq!(status(&gateway, &key), 200);
    let after = state(&control_plane);
    assert_eq!(
        (&after["id"], &after["since"]),
        (&before["id"], &before["since"]),
        "{after}"
    );
    control_plane.publish("Default", published(&origin, 2));
    until("it follows", || serves(&gateway, 2));
    upgrade(&gateway);
    assert!(serves(&gateway, 2));
}
