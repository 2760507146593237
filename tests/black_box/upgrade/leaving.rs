//! Leaving without a successor: announced, asked for by operators, and with long-lived streams.

use std::time::{Duration, Instant};

use crate::harness::*;

#[test]
fn readiness_says_no_before_anybody_is_told_to_go() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { announce: 2s }")
        .start();
    let mut kept = gateway.raw();
    gateway.client().get("/open").send_on(&mut kept).expect(200);
    let asked = Instant::now();
    gateway.terminate();
    until("it is not ready", || {
        gateway.status().get("/status/ready").send().status == 503
    });
    let meanwhile = gateway.client().get("/open").send_on(&mut kept).expect(200);
    if asked.elapsed() < Duration::from_secs(2) {
        assert_ne!(
            meanwhile.header("connection"),
            Some("close"),
            "load balancers have not noticed yet"
        );
    }
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(asked.elapsed() >= Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
fn an_operator_can_have_it_leave_and_is_told_when_it_has() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).upgradable().start();
    until("it can be asked", || gateway.upgrade_socket().exists());
    let socket = gateway.upgrade_socket().display().to_string();
    let output = tollgate(["drain", "--socket", &socket]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout, "the gateway has ended\n");
    assert_eq!(gateway.wait().code(), Some(0));
    let nobody = tollgate(["drain", "--socket", &socket]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("no gateway can be asked"), "{}", nobody.stderr);
}

#[test]
fn an_administrator_can_have_it_leave() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .section("admin: { address: \"127.0.0.1:0\", token: \"a-token-of-the-stories\" }")
        .start();
    gateway.admin().request("POST", "/admin/drain").send().expect(401);
    gateway.client().get("/open").send().expect(200);
    let asked = gateway.admin().request("POST", "/admin/drain");
    asked
        .header("Authorization", "Bearer a-token-of-the-stories")
        .send()
        .expect(202);
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn streams_have_a_deadline_of_their_own() {
    let sockets = EchoSocket::start();
    let described = Revision::empty()
        .behind("sockets", sockets.address())
        .api("{ name: sockets, base_path: /sockets, auth: none, upstream: sockets }");
    let gateway = Gateway::with(described)
        .server("timeouts: { drain: 100ms, drain_streams: 3s }")
        .start();
    let mut socket = Sockets::to(gateway.address()).open("/sockets", None).unwrap();
    socket.echoes("before");
    let asked = Instant::now();
    gateway.terminate();
    std::thread::sleep(Duration::from_millis(600));
    if asked.elapsed() < Duration::from_millis(2500) {
        socket.echoes("long after the deadline of requests");
    }
    gateway.wait();
    assert!(asked.elapsed() >= Duration::from_secs(3), "{:?}", asked.elapsed());
    gateway.logs("1 connections are cut at the drain deadline");
}
