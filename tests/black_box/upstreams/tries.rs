//! What is sent again, where, and what never is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::*;

/// A gateway whose only API goes to these services, with these settings of the upstream.
fn before(services: &[&Origin], settings: &str) -> Gateway {
    let endpoints: Vec<String> = (services.iter())
        .map(|service| format!("{{ address: \"{}\" }}", service.address()))
        .collect();
    let upstream = format!("{{ name: orders, endpoints: [{}], {settings} }}", endpoints.join(", "));
    let revision = Revision::empty()
        .upstream(&upstream)
        .api("{ name: orders, base_path: /orders, auth: none, upstream: orders }");
    Gateway::with(revision).start()
}

/// No breaker, so that every try is seen.
const PLAIN: &str = "breaker: { consecutive: 0, error_rate: 0% }";

#[test]
fn an_answer_that_says_try_again_is_another_endpoints_chance_when_the_request_may_arrive_twice() {
    for status in [502, 503, 504] {
        let (bad, good) = (Origin::start(answer(status, "no")), Origin::start(echo()));
        let gateway = before(&[&bad, &good], PLAIN);
        let client = gateway.client();
        for _ in 0..6 {
            for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
                assert_eq!(
                    client.request(method, "/orders").send().status,
                    200,
                    "{method} {status}"
                );
            }
            let keyed = client.post("/orders", "once").header("Idempotency-Key", "17").send();
            assert_eq!(keyed.expect(200).echo().body, "once", "what was sent is sent again");
        }
        let (before, tried) = (bad.requests(), good.requests());
        let answers: Vec<u16> = (0..6).map(|_| client.post("/orders", "x").send().status).collect();
        assert_eq!(
            answers.iter().filter(|answer| **answer == status).count(),
            3,
            "a POST gets what the service said: {answers:?}"
        );
        assert_eq!((bad.requests() - before, good.requests() - tried), (3, 3));
    }
}

#[test]
fn an_answer_500_is_the_services_word_and_is_not_asked_for_again() {
    let (bad, good) = (Origin::start(answer(500, "no")), Origin::start(echo()));
    let gateway = before(&[&bad, &good], PLAIN);
    let answers: Vec<u16> = (0..6).map(|_| gateway.client().get("/orders").send().status).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == 500).count(), 3);
    assert_eq!((bad.requests(), good.requests()), (3, 3));
}

#[test]
fn when_all_say_no_the_client_is_told_what_the_last_one_said() {
    let (one, two) = (Origin::start(answer(503, "one")), Origin::start(answer(503, "two")));
    let gateway = before(&[&one, &two], PLAIN);
    let answer = gateway.client().get("/orders").send().expect(503);
    assert!(["one", "two"].contains(&answer.text().as_str()), "{answer:?}");
    assert_eq!((one.requests(), two.requests()), (1, 1));
}

#[test]
fn attempts_are_as_many_as_the_upstream_says() {
    let services: Vec<Origin> = (0..4).map(|_| Origin::start(answer(503, "no"))).collect();
    let all: Vec<&Origin> = services.iter().collect();
    for (attempts, expected) in [(1, 1), (3, 3), (10, 4)] {
        let gateway = before(&all, &format!("{PLAIN}, retries: {{ attempts: {attempts} }}"));
        let before: usize = services.iter().map(Origin::requests).sum();
        let answer = gateway.client().get("/orders").send().expect(503);
        let after: usize = services.iter().map(Origin::requests).sum();
        assert_eq!(after - before, expected, "with {attempts}");
        let record = gateway.access_record(answer.header("x-request-id").unwrap());
        assert_eq!(record["tries"], expected);
    }
}

#[test]
fn a_hung_endpoint_costs_one_try_and_a_post_learns_that_it_took_too_long() {
    let (hung, good) = (Origin::start(hangs()), Origin::start(echo()));
    let gateway = before(&[&hung, &good], &format!("{PLAIN}, timeouts: {{ per_try: 2s }}"));
    let client = gateway.client();
    let answers: Vec<u16> = (0..4).map(|_| client.get("/orders").send().status).collect();
    assert_eq!(answers, [200; 4]);
    let posts: Vec<u16> = (0..4).map(|_| client.post("/orders", "x").send().status).collect();
    assert_eq!(posts.iter().filter(|status| **status == 504).count(), 2, "{posts:?}");
}

#[test]
fn the_total_is_for_all_tries_together() {
    let services = [Origin::start(hangs()), Origin::start(hangs()), Origin::start(hangs())];
    let all: Vec<&Origin> = services.iter().collect();
    let gateway = before(
        &all,
        &format!("{PLAIN}, retries: {{ attempts: 3 }}, timeouts: {{ per_try: 2s, total: 3s }}"),
    );
    let started = Instant::now();
    gateway
        .client()
        .get("/orders")
        .send()
        .expect_refusal(504, "upstream_timeout");
    let sent: usize = services.iter().map(Origin::requests).sum();
    assert_eq!(sent, 2, "there was no time for a third");
    assert!(
        started.elapsed() >= Duration::from_millis(2900),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_connection_that_breaks_before_the_answer_is_tried_elsewhere_unless_it_may_count_twice() {
    let broken = Origin::start(|exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.reset();
        Ok(())
    });
    let good = Origin::start(echo());
    let gateway = before(&[&broken, &good], PLAIN);
    let client = gateway.client();
    let answers: Vec<u16> = (0..6).map(|_| client.get("/orders").send().status).collect();
    assert_eq!(answers, [200; 6]);
    let posts: Vec<u16> = (0..6).map(|_| client.post("/orders", "x").send().status).collect();
    assert_eq!(posts.iter().filter(|status| **status == 502).count(), 3, "{posts:?}");
}

#[test]
fn what_is_larger_than_what_is_kept_is_not_sent_again() {
    let (bad, good) = (
        Origin::start(|exchange: &mut Exchange| {
            exchange.read_body()?;
            exchange.respond(503, "", b"no")
        }),
        Origin::start(echo()),
    );
    let gateway = before(&[&bad, &good], PLAIN);
    let small = "s".repeat(60 * 1024);
    let large = "l".repeat(200 * 1024);
    let put = |body: &str| gateway.client().request("PUT", "/orders").body(body).send();
    for _ in 0..4 {
        assert_eq!(put(&small).expect(200).echo().body.len(), small.len());
    }
    let answers: Vec<u16> = (0..4).map(|_| put(&large).status).collect();
    assert_eq!(
        answers.iter().filter(|status| **status == 503).count(),
        2,
        "{answers:?}"
    );
}

#[test]
fn once_a_part_of_an_answer_is_out_nothing_is_tried_again() {
    let (bad, good) = (Origin::start(resets_mid_body()), Origin::start(echo()));
    let gateway = before(&[&bad, &good], PLAIN);
    for _ in 0..6 {
        let mut connection = gateway.raw();
        connection.send(gateway.client().get("/orders").bytes());
        // Cut, or whole: never a second head behind the first part.
        let bytes = match connection.try_answer(false) {
            Ok(answer) => answer.body.len(),
            Err(_) => 0,
        };
        assert!(bytes < 10_000);
    }
    assert_eq!(bad.requests() + good.requests(), 6);
}

#[test]
fn when_everything_fails_the_budget_keeps_retries_to_a_share_of_the_traffic() {
    let services = [Origin::start(answer(503, "no")), Origin::start(answer(503, "no"))];
    let all: Vec<&Origin> = services.iter().collect();
    let gateway = before(&all, &format!("{PLAIN}, retries: {{ attempts: 2, budget: 10% }}"));
    let client = gateway.client();
    let mut connection = gateway.raw();
    let started = Instant::now();
    for _ in 0..1500 {
        client.get("/orders").send_on(&mut connection).expect(503);
    }
    let sent: usize = services.iter().map(Origin::requests).sum();
    // A tenth, or what each window of ten seconds always gives.
    let windows = usize::try_from(started.elapsed().as_secs()).unwrap() / 10 + 2;
    assert!(
        (1600..=1500 + 150 + 100 * windows).contains(&sent),
        "{sent} tries for 1500 requests"
    );
    let series = "tollgate_upstream_tries_total{result=\"budget_spent\",upstream=\"orders\"}";
    assert!(gateway.metric(series) >= 1.0);
}

#[test]
fn an_upload_that_pauses_for_longer_than_an_answer_may_is_not_the_services_fault() {
    let origin = Origin::start(echo());
    let gateway = before(&[&origin], "timeouts: { read: 400ms }");
    let mut connection = gateway.raw();
    connection.send("POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
    std::thread::sleep(Duration::from_millis(1200));
    connection.send("world");
    assert_eq!(connection.answer().expect(200).echo().body, "helloworld");
}

#[test]
fn a_service_that_has_a_slow_upload_whole_and_says_nothing_is_given_as_long_as_for_any_request() {
    let origin = Origin::start(|exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.wait_for_the_end();
        Ok(())
    });
    let gateway = before(&[&origin], "timeouts: { read: 500ms }");
    let mut connection = gateway.raw();
    connection.send("POST /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
    std::thread::sleep(Duration::from_millis(700));
    let whole = Instant::now();
    connection.send("world");
    connection.answer().expect_refusal(504, "upstream_timeout");
    // The gateway's own deadline for a request is a minute.
    assert!(whole.elapsed() < Duration::from_secs(15), "{:?}", whole.elapsed());
}

#[test]
fn a_retry_keeps_its_identity_and_is_counted_once_against_limits() {
    let seen = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&seen);
    let bad = Origin::start(move |exchange: &mut Exchange| {
        count.fetch_add(1, Ordering::SeqCst);
        exchange.respond(503, "", b"no")
    });
    let good = Origin::start(echo());
    let upstream = format!(
        "{{ name: orders, endpoints: [{{ address: \"{}\" }}, {{ address: \"{}\" }}], {PLAIN} }}",
        bad.address(),
        good.address()
    );
    let revision = Revision::empty().upstream(&upstream).api(
        "{ name: orders, base_path: /orders, auth: none, upstream: orders, limits: [{ name: few, rate: 4/h, window: fixed }] }",
    );
    let gateway = Gateway::with(revision).start();
    let client = gateway.client();
    for number in 0..4 {
        let id = format!("request-number-{number}");
        let answer = client.get("/orders").header("X-Request-Id", &id).send().expect(200);
        assert_eq!(answer.echo().header("x-request-id"), Some(id.as_str()));
    }
    assert!(seen.load(Ordering::SeqCst) >= 1, "some went there first");
    client.get("/orders").send().expect_refusal(429, "rate_limited");
}

#[test]
fn another_endpoint_is_given_as_long_as_the_first_also_when_the_content_came_late() {
    let slow_no = Origin::start(|exchange: &mut Exchange| {
        exchange.read_body()?;
        std::thread::sleep(Duration::from_millis(2500));
        exchange.respond(503, "", b"no")
    });
    let slow_yes = Origin::start(|exchange: &mut Exchange| {
        exchange.read_body()?;
        std::thread::sleep(Duration::from_millis(2500));
        exchange.respond(200, "", b"yes")
    });
    let gateway = before(&[&slow_no, &slow_yes], &format!("{PLAIN}, timeouts: {{ per_try: 4s }}"));
    for _ in 0..2 {
        let mut connection = gateway.raw();
        connection.send("PUT /orders HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello");
        std::thread::sleep(Duration::from_millis(200));
        connection.send("world");
        assert_eq!(connection.answer().expect(200).text(), "yes");
    }
}

#[test]
fn the_total_bounds_the_time_to_connect_too() {
    let (_sockets, address) = super::black_hole();
    let revision = Revision::empty()
        .upstream(&format!(
            "{{ name: orders, endpoints: [{{ address: \"{address}\" }}], timeouts: {{ connect: 1m, total: 400ms }} }}"
        ))
        .api("{ name: orders, base_path: /orders, auth: none, upstream: orders }");
    let gateway = Gateway::with(revision).start();
    let started = Instant::now();
    gateway
        .client()
        .get("/orders")
        .send()
        .expect_refusal(504, "upstream_timeout");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn asking_for_an_upgrade_does_not_let_a_service_be_silent_for_ever() {
    let stalls = Origin::start(|exchange: &mut Exchange| {
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")?;
        exchange.wait_for_the_end();
        Ok(())
    });
    let gateway = before(&[&stalls], &format!("{PLAIN}, timeouts: {{ read: 500ms }}"));
    let handshake =
        "connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for upgrade in ["h2c", "websocket"] {
        let mut connection = gateway.raw();
        connection.send(format!(
            "GET /orders HTTP/1.1\r\nhost: a\r\nupgrade: {upgrade}\r\n{handshake}\r\n"
        ));
        if connection.head().is_ok_and(|head| head.status == 200) {
            assert!(connection.is_closed_within(Duration::from_secs(15)), "{upgrade}");
        }
    }
}
