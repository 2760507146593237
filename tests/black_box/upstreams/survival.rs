//! Four endpoints under load: one is killed, one hangs, one answers 500, one is slow. Nobody who asks for something that may
//! be asked for twice sees an error once that was noticed, and traffic returns when they work again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::harness::*;

const GOOD: u8 = 0;
const HANGS: u8 = 1;
const FAILS: u8 = 2;
const SLOW: u8 = 3;

/// A service that behaves as it is told.
fn service(mood: &Arc<AtomicU8>) -> Origin {
    let mood = Arc::clone(mood);
    Origin::start(move |exchange: &mut Exchange| {
        match mood.load(Ordering::SeqCst) {
            HANGS => {
                while mood.load(Ordering::SeqCst) == HANGS {
                    std::thread::sleep(Duration::from_millis(5));
                }
                exchange.close();
                return Ok(());
            }
            FAILS => return exchange.respond(500, "", b"broken"),
            SLOW => std::thread::sleep(Duration::from_millis(30)),
            _ => {}
        }
        exchange.respond(200, "", b"good")
    })
}

#[test]
fn with_one_endpoint_killed_one_hung_one_failing_and_one_slow_clients_are_served_once_it_was_noticed() {
    let moods: Vec<Arc<AtomicU8>> = (0..5).map(|_| Arc::new(AtomicU8::new(GOOD))).collect();
    let mut services: Vec<Option<Origin>> = moods.iter().map(|mood| Some(service(mood))).collect();
    let endpoints: Vec<String> = (services.iter().flatten())
        .map(|service| format!("{{ address: \"{}\" }}", service.address()))
        .collect();
    let upstream = format!(
        "{{ name: orders, balance: least_response_time, endpoints: [{}], \
         breaker: {{ consecutive: 3, open: 1s, max_ejected: 80%, probes: 2 }}, panic_threshold: 0%, slow_start: 1s, \
         retries: {{ attempts: 4, budget: 100% }}, timeouts: {{ connect: 1s, per_try: 1500ms }} }}",
        endpoints.join(", ")
    );
    let revision = Revision::empty()
        .upstream(&upstream)
        .api("{ name: orders, base_path: /orders, auth: none, upstream: orders }");
    let fleet = Fleet::of(1, revision).start();
    let gateway = &fleet.gateways()[0];
    let ejected = || {
        let text = gateway.status().get("/metrics").send().expect(200).text();
        (text.lines())
            .filter(|line| line.starts_with("tollgate_breaker_state") && !line.ends_with(" 0"))
            .count()
    };
    // The first failures may show: a 500 is what the service said, and nobody knew.
    let noticing = fleet.load("/orders").connections(6).during(|| {
        services[0] = None;
        moods[1].store(HANGS, Ordering::SeqCst);
        moods[2].store(FAILS, Ordering::SeqCst);
        moods[3].store(SLOW, Ordering::SeqCst);
        until("three are left out", || ejected() >= 3);
    });
    let tally = &noticing.tallies[0];
    assert_eq!(tally.unanswered, 0, "{}", noticing.summary());
    assert!(
        tally.others.keys().all(|status| *status == 500),
        "connections that break and silence are tried elsewhere: {}",
        noticing.summary()
    );
    // Each breaker lets one request at a time find out; what it finds is not what a client is given.
    let report = fleet
        .load("/orders")
        .connections(6)
        .during(|| std::thread::sleep(Duration::from_secs(2)))
        .expect_decisions_only();
    assert!(report.admitted() > 100, "{}", report.summary());

    // They work again.
    for mood in &moods {
        mood.store(GOOD, Ordering::SeqCst);
    }
    let requests = || services[2].as_ref().map_or(0, Origin::requests);
    let before = requests();
    // Two of them are how its breaker finds out; the rest is traffic, little at first (slow start).
    fleet
        .load("/orders")
        .connections(6)
        .during(|| {
            until("all but the killed one are used", || {
                ejected() <= 1 && requests() > before + 10
            })
        })
        .expect_decisions_only();
    fleet.load("/orders").connections(6).send(600).expect_decisions_only();
}
