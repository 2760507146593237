//! An endpoint whose answers say that it is broken gets no requests for a while, and is found out about carefully.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use crate::harness::*;

/// A service whose answers can be changed.
struct Moody {
    origin: Origin,
    status: Arc<AtomicU16>,
    resets: Arc<AtomicBool>,
}

impl Moody {
    fn start() -> Self {
        let (status, resets) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicBool::new(false)));
        let (now, breaks) = (Arc::clone(&status), Arc::clone(&resets));
        let origin = Origin::start(move |exchange: &mut Exchange| {
            exchange.read_body()?;
            if breaks.load(Ordering::SeqCst) {
                exchange.reset();
                return Ok(());
            }
            exchange.respond(now.load(Ordering::SeqCst), "", b"")
        });
        Self { origin, status, resets }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

fn upstream(services: &[&Origin], settings: &str) -> Revision {
    let endpoints: Vec<String> = (services.iter())
        .map(|service| format!("{{ address: \"{}\" }}", service.address()))
        .collect();
    Revision::empty()
        .upstream(&format!(
            "{{ name: orders, endpoints: [{}], {settings} }}",
            endpoints.join(", ")
        ))
        .api("{ name: orders, base_path: /orders, auth: none, upstream: orders }")
}

fn state(gateway: &Gateway, service: &Origin) -> f64 {
    let address = service.address();
    gateway.metric(&format!(
        "tollgate_breaker_state{{endpoint=\"{address}\",upstream=\"orders\"}}"
    ))
}

const OPEN: f64 = 1.0;

#[test]
fn a_failing_endpoint_is_left_out_and_comes_back_when_it_works_again() {
    let (moody, good) = (Moody::start(), Origin::start(echo()));
    let settings = "breaker: { consecutive: 3, open: 500ms, probes: 2 }, slow_start: 0s";
    let gateway = Gateway::with(upstream(&[&moody.origin, &good], settings)).start();
    let client = gateway.client();
    let ask = || client.get("/orders").send().status;
    moody.answers(500);
    let failures = (0..60).filter(|_| ask() == 500).count();
    assert!((3..=8).contains(&failures), "{failures} clients saw it");
    // What is shown is up to half a second old.
    until("it is shown to be out", || state(&gateway, &moody.origin) != 0.0);
    moody.answers(200);
    until("it is asked again", || {
        ask() == 200 && state(&gateway, &moody.origin) == 0.0
    });
    let before = moody.origin.requests();
    (0..20).for_each(|_| assert_eq!(ask(), 200));
    assert!(moody.origin.requests() > before, "it has its share again");
    gateway.logs("fails and gets no requests for a while");
    gateway.logs("is used again");
    assert!(gateway.metric("tollgate_breaker_opened_total{upstream=\"orders\"}") >= 1.0);
}

#[test]
fn a_share_of_failures_among_good_answers_opens_it_too() {
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let flaky = Origin::start(move |exchange: &mut Exchange| {
        let status = if turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            500
        } else {
            200
        };
        exchange.respond(status, "", b"")
    });
    let good = Origin::start(echo());
    let settings = "breaker: { consecutive: 0, error_rate: 40%, minimum: 10, window: 10m, open: 1h }";
    let gateway = Gateway::with(upstream(&[&flaky, &good], settings)).start();
    until("it is open", || {
        gateway.client().get("/orders").send();
        state(&gateway, &flaky) == OPEN
    });
    let before = flaky.requests();
    (0..20).for_each(|_| assert_eq!(gateway.client().get("/orders").send().status, 200));
    assert_eq!(flaky.requests(), before);
}

#[test]
fn no_more_endpoints_are_left_out_than_may_be() {
    let services = [Moody::start(), Moody::start(), Moody::start(), Moody::start()];
    let all: Vec<&Origin> = services.iter().map(|service| &service.origin).collect();
    let settings = "breaker: { consecutive: 2, open: 1h, max_ejected: 50% }, panic_threshold: 0%";
    let gateway = Gateway::with(upstream(&all, settings)).start();
    services.iter().for_each(|service| service.answers(500));
    let open = || all.iter().filter(|service| state(&gateway, service) == OPEN).count();
    until("two are open", || {
        gateway.client().get("/orders").send();
        open() == 2
    });
    (0..40).for_each(|_| assert_eq!(gateway.client().get("/orders").send().status, 500));
    assert_eq!(open(), 2);
    let before: Vec<usize> = all.iter().map(|service| service.requests()).collect();
    (0..20).for_each(|_| assert_eq!(gateway.client().get("/orders").send().status, 500));
    let asked = all
        .iter()
        .zip(before)
        .filter(|(service, before)| service.requests() > *before)
        .count();
    assert_eq!(asked, 2, "the others carry the traffic");
}

#[test]
fn a_revision_that_changes_one_upstream_leaves_the_breakers_of_the_others_as_they_are() {
    let (moody, good) = (Moody::start(), Origin::start(echo()));
    let revision = upstream(&[&moody.origin, &good], "breaker: { consecutive: 2, open: 1h }");
    let gateway = Gateway::with(revision.clone()).start();
    moody.resets.store(true, Ordering::SeqCst);
    until("it is open", || {
        gateway.client().get("/orders").send().expect(200);
        state(&gateway, &moody.origin) == OPEN
    });
    moody.resets.store(false, Ordering::SeqCst);
    let before = moody.origin.requests();
    gateway.apply(
        revision
            .behind("other", good.address())
            .api("{ name: other, base_path: /other, auth: none, upstream: other }"),
    );
    gateway.client().get("/other").send().expect(200);
    (0..20).for_each(|_| assert_eq!(gateway.client().get("/orders").send().status, 200));
    assert_eq!(moody.origin.requests(), before, "it is still left out");
    assert_eq!(state(&gateway, &moody.origin), OPEN);
}

#[test]
fn what_clients_do_wrong_says_nothing_about_the_endpoint() {
    let moody = Moody::start();
    let good = Origin::start(echo());
    let settings = "breaker: { consecutive: 2, open: 1h }";
    let gateway = Gateway::with(upstream(&[&moody.origin, &good], settings)).start();
    for status in [400, 401, 404, 409, 429, 501] {
        moody.answers(status);
        (0..8).for_each(|_| drop(gateway.client().get("/orders").send()));
    }
    let before = moody.origin.requests();
    (0..4).for_each(|_| drop(gateway.client().get("/orders").send()));
    assert_eq!(moody.origin.requests() - before, 2, "it has its share");
    assert_eq!(state(&gateway, &moody.origin), 0.0);
}

#[test]
fn an_endpoint_is_not_blamed_for_the_time_that_its_clients_took() {
    let (hung, good) = (Origin::start(hangs()), Origin::start(echo()));
    let revision = upstream(&[&hung, &good], "breaker: { consecutive: 2, open: 1h }");
    let gateway = Gateway::with(revision).server("timeouts: { request: 1s }").start();
    let late: Vec<_> = (0..8)
        .map(|_| {
            let mut connection = gateway.raw();
            connection.send("POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na");
            connection
        })
        .collect();
    // The rest comes just before the time of the request is over, and no service could answer in what is left.
    std::thread::sleep(std::time::Duration::from_millis(800));
    let statuses: Vec<u16> = late
        .into_iter()
        .map(|mut connection| {
            let _ = connection.try_send("b");
            connection.try_answer(false).map_or(0, |answer| answer.status)
        })
        .collect();
    assert!(
        statuses.iter().any(|status| [408, 504].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(state(&gateway, &hung), 0.0);
    assert_eq!(
        gateway.metric("tollgate_breaker_opened_total{upstream=\"orders\"}"),
        0.0
    );
}

#[test]
fn a_request_finds_out_about_one_endpoint_at_most_and_is_served_by_one_that_works() {
    let services: Vec<Moody> = (0..6).map(|_| Moody::start()).collect();
    let all: Vec<&Origin> = services.iter().map(|service| &service.origin).collect();
    let settings = "breaker: { consecutive: 1, open: 300ms, max_ejected: 80% }, panic_threshold: 0%, \
                    retries: { attempts: 2, budget: 100% }";
    let gateway = Gateway::with(upstream(&all, settings)).start();
    services[..4]
        .iter()
        .for_each(|service| service.resets.store(true, Ordering::SeqCst));
    until("four are left out", || {
        drop(gateway.client().get("/orders").send());
        all.iter().filter(|service| state(&gateway, service) != 0.0).count() == 4
    });
    for _ in 0..40 {
        // Now and then all four are to be found out about.
        std::thread::sleep(std::time::Duration::from_millis(25));
        let answer = gateway.client().get("/orders").send().expect(200);
        let record = gateway.access_record(answer.header("x-request-id").unwrap());
        assert!(record["tries"].as_u64().unwrap() <= 2, "{record}");
    }
}
