//! A gateway that is asked to end.

use std::time::{Duration, Instant};

use crate::harness::*;

/// An origin that answers when the gate opens.
fn waiting(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |exchange: &mut Exchange| {
        if exchange.request.target == "/open/slow" {
            gate.pass();
        }
        exchange.respond(200, "", b"done")
    })
}

#[test]
fn an_idle_gateway_ends_at_once() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    gateway.client().get("/open").send().expect(200);
    let asked = Instant::now();
    gateway.terminate();
    let status = gateway.wait();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn clients_that_keep_an_idle_connection_do_not_hold_it_up() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut used = gateway.raw();
    gateway.client().get("/open").send_on(&mut used).expect(200);
    let mut unused = gateway.raw();
    until("both are connected", || {
        gateway.metric("tollgate_connections{state=\"open\"}") == 2.0
    });
    let asked = Instant::now();
    gateway.terminate();
    assert!(used.is_closed() && unused.is_closed());
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[test]
fn a_request_in_flight_is_finished_while_readiness_says_no() {
    let finish = Gate::closed();
    let origin = waiting(&finish);
    let gateway = Gateway::with(revision(&origin)).start();
    gateway.status().get("/status/ready").send().expect(200);
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open/slow").bytes());
    until("it is in flight", || origin.requests() == 1);

    gateway.terminate();
    let ready = eventually("it says that it leaves", || {
        let answer = gateway.status().get("/status/ready").send();
        (answer.status == 503).then(|| answer.json())
    });
    assert_eq!(
        (&ready["ready"], &ready["why_not"]),
        (&false.into(), &"draining".into())
    );
    gateway.status().get("/status").send().expect(200);
    // Whoever has not heard of it yet is served, and told not to come back on this connection.
    let late = gateway.client().get("/open").send().expect(200);
    assert_eq!(late.header("connection"), Some("close"));
    assert!(gateway.is_running());

    finish.open();
    let answer = connection.answer().expect(200);
    assert_eq!(
        (answer.text().as_str(), answer.header("connection")),
        ("done", Some("close"))
    );
    assert!(connection.is_closed());
    assert_eq!(gateway.wait().code(), Some(0));
    gateway.logs("nothing is in flight: the end");
}

#[test]
fn an_answer_that_is_being_streamed_is_finished() {
    let finish = Gate::closed();
    let origin = Origin::start({
        let finish = finish.clone();
        move |exchange: &mut Exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            exchange.send_chunk(b"first")?;
            finish.pass();
            exchange.send_chunk(b"last")?;
            exchange.send(b"0\r\n\r\n")
        }
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open").bytes());
    connection.head().unwrap();
    assert_eq!(connection.chunk().unwrap(), b"first");
    gateway.terminate();
    until("it leaves", || {
        gateway.status().get("/status/ready").send().status == 503
    });
    finish.open();
    assert_eq!(connection.chunk().unwrap(), b"last");
    assert_eq!(connection.chunk().unwrap(), b"");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn at_the_drain_deadline_the_rest_is_cut_and_logged() {
    let origin = waiting(&Gate::closed());
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { drain: 300ms }")
        .start();
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open/slow").header("X-Request-Id", "cut").bytes());
    until("it is in flight", || origin.requests() == 1);
    gateway.terminate();
    assert!(connection.is_closed());
    gateway.wait();
    gateway.logs("1 connections are cut at the drain deadline");
    assert!(
        gateway.access_log().iter().any(|line| line["request_id"] == "cut"),
        "{:?}",
        gateway.access_log()
    );
}

#[test]
fn a_second_signal_does_not_wait() {
    let origin = waiting(&Gate::closed());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open/slow").bytes());
    until("it is in flight", || origin.requests() == 1);
    gateway.terminate();
    gateway.logs("SIGTERM: leaving");
    gateway.terminate();
    let asked = Instant::now();
    gateway.wait();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}
