//! Connections to an endpoint: how many at a time, who waits, how many are kept, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::*;

fn before(service: &Origin, settings: &str) -> Gateway {
    let address = service.address();
    let revision = Revision::empty()
        .upstream(&format!(
            "{{ name: orders, endpoints: [{{ address: \"{address}\" }}], {settings} }}"
        ))
        .api("{ name: orders, base_path: /orders, auth: none, upstream: orders }");
    Gateway::with(revision).start()
}

/// A service that answers when the gate opens, and the most requests that it had at a time.
fn gated(gate: &Gate) -> (Origin, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (gate, peak) = (gate.clone(), Arc::clone(&most));
    let origin = Origin::start(move |exchange: &mut Exchange| {
        let here = now.fetch_add(1, Ordering::SeqCst) + 1;
        peak.fetch_max(here, Ordering::SeqCst);
        gate.pass();
        now.fetch_sub(1, Ordering::SeqCst);
        exchange.respond(200, "", b"done")
    });
    (origin, most)
}

#[test]
fn an_endpoint_gets_no_more_requests_at_a_time_than_it_may_and_the_others_wait() {
    let gate = Gate::closed();
    let (origin, most) = gated(&gate);
    let gateway = before(&origin, "pool: { max_connections: 2, queue: 10, queue_timeout: 1m }");
    let client = gateway.client();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| client.get("/orders").send().status))
            .collect();
        let pool = |state: &str| {
            gateway.metric(&format!(
                "tollgate_pool_connections{{state=\"{state}\",upstream=\"orders\"}}"
            ))
        };
        until("two are served and four wait", || {
            pool("active") == 2.0 && pool("waiting") == 4.0
        });
        gate.open();
        for answer in asked {
            assert_eq!(answer.join().unwrap(), 200);
        }
    });
    assert_eq!((most.load(Ordering::SeqCst), origin.requests()), (2, 6));
}

#[test]
fn who_waits_too_long_or_finds_the_queue_full_is_told_and_keeps_its_connection() {
    let gate = Gate::closed();
    let (origin, _) = gated(&gate);
    let gateway = before(&origin, "pool: { max_connections: 1, queue: 1, queue_timeout: 5s }");
    let client = gateway.client();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| client.get("/orders").send().status);
        until("it is there", || origin.requests() == 1);
        let late = scope.spawn(|| client.get("/orders").send());
        until("one waits", || {
            gateway.metric("tollgate_pool_connections{state=\"waiting\",upstream=\"orders\"}") == 1.0
        });
        let mut connection = gateway.raw();
        let started = Instant::now();
        let refused = client.get("/orders").send_on(&mut connection);
        refused.expect_refusal(503, "overloaded");
        assert!(started.elapsed() < Duration::from_secs(10));
        let late = late.join().unwrap().expect_refusal(503, "overloaded");
        assert!(late.header("retry-after").is_some());
        gate.open();
        assert_eq!(served.join().unwrap(), 200);
        client.get("/orders").send_on(&mut connection).expect(200);
    });
    assert_eq!(gateway.metric("tollgate_pool_refused_total{upstream=\"orders\"}"), 2.0);
}

#[test]
fn no_more_unused_connections_are_kept_than_may() {
    let gate = Gate::closed();
    let (origin, _) = gated(&gate);
    let gateway = before(&origin, "pool: { max_idle: 1 }");
    let client = gateway.client();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| client.get("/orders").send().status))
            .collect();
        until("all are there", || origin.requests() == 8);
        gate.open();
        for answer in asked {
            assert_eq!(answer.join().unwrap(), 200);
        }
    });
    // Each request that follows finds that there are too many, and gives one up.
    until("one is left", || {
        client.get("/orders").send().expect(200);
        gateway.metric("tollgate_pool_connections{state=\"idle\",upstream=\"orders\"}") <= 1.0
    });
}

#[test]
fn a_connection_is_not_used_beyond_its_age() {
    let origin = Origin::start(answer(200, "done"));
    let gateway = before(&origin, "pool: { max_age: 1s }");
    let client = gateway.client();
    until("there were three generations", || {
        client.get("/orders").send().expect(200);
        origin.connections() >= 3
    });
    let forever = before(&origin, "pool: { max_age: 1h }");
    let before = origin.connections();
    for _ in 0..100 {
        forever.client().get("/orders").send().expect(200);
        std::thread::sleep(Duration::from_millis(20));
    }
    // A request that comes before the connection of the last one was put back gets another; hardly any does.
    let made = origin.connections() - before;
    assert!(made <= 25, "{made} connections for 100 requests");
}

#[test]
fn room_that_a_client_gives_up_is_the_next_ones() {
    let gate = Gate::closed();
    let (origin, _) = gated(&gate);
    let gateway = before(&origin, "pool: { max_connections: 1, queue: 5, queue_timeout: 1m }");
    let client = gateway.client();
    let mut gone = gateway.raw();
    gone.send(client.get("/orders").bytes());
    until("it is there", || origin.requests() == 1);
    drop(gone);
    std::thread::scope(|scope| {
        let next = scope.spawn(|| client.get("/orders").send().status);
        until("its room was given up", || origin.requests() == 2);
        gate.open();
        assert_eq!(next.join().unwrap(), 200);
    });
}
