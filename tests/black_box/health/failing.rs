//! What makes an endpoint unwell, and well again.

use super::*;

#[test]
fn an_endpoint_whose_checks_fail_gets_no_requests_until_they_are_good_again() {
    let (good, bad) = (Patient::new(), Patient::new());
    let gateway = Gateway::with(checked(&[good.endpoint(), bad.endpoint()], BY_HTTP)).start();
    until("both are used", || {
        all_served(&gateway, 2);
        good.others() > 0 && bad.others() > 0
    });
    bad.says(503);
    until_down(&gateway, bad.origin.address());
    gateway.logs(&format!(
        "upstream \"orders\": endpoint {} is down, its checks fail: status 503",
        bad.origin.address()
    ));
    until_spared(&gateway, &bad);
    let before = bad.others();

    bad.says(204);
    until_up(&gateway, bad.origin.address());
    until("it is used again", || {
        all_served(&gateway, 2);
        bad.others() > before
    });
    gateway.logs("is up, its checks are good again");
    let log = gateway.log();
    assert_eq!(log.matches(" is down, ").count(), 1, "once for each turn");
    assert_eq!(log.matches(" is up, ").count(), 1, "once for each turn");
    let counted = |result: &str| {
        gateway.metric(&format!(
            "tollgate_health_checks_total{{result=\"{result}\",upstream=\"orders\"}}"
        ))
    };
    assert!(counted("failed") >= 2.0 && counted("good") >= 3.0);
}

#[test]
fn an_endpoint_that_hangs_when_it_is_asked_is_down_in_time_and_does_not_keep_others_waiting() {
    let (good, bad) = (Patient::new(), Patient::new());
    bad.says(NOTHING);
    let gateway = Gateway::with(checked(&[good.endpoint(), bad.endpoint()], BY_HTTP)).start();
    until_down(&gateway, bad.origin.address());
    gateway.logs("its checks fail: no answer in 300ms");
    let before = good.checks();
    until("the other one is asked as before", || good.checks() >= before + 2);
    assert!(is_healthy(&gateway, good.origin.address()));
}

#[test]
fn only_the_statuses_that_are_written_are_good() {
    let patient = Patient::new();
    patient.says(404);
    let check = "{ path: /health, interval: 1s, timeout: 900ms, statuses: [200, 404], unhealthy: 1, healthy: 1 }";
    let gateway = Gateway::with(checked(&[patient.endpoint()], check)).start();
    until("it was asked twice", || patient.checks() >= 2);
    assert!(is_healthy(&gateway, patient.origin.address()));
    patient.says(204);
    until_down(&gateway, patient.origin.address());
    gateway.logs("status 204");
}

#[test]
fn a_check_of_the_connection_alone_finds_out_who_listens() {
    let planned = Planned::new();
    let address = planned.address();
    let patient = Patient::new();
    let endpoints = [patient.endpoint(), format!("{{ address: \"{address}\" }}")];
    let check = "{ interval: 1s, timeout: 900ms, healthy: 1, unhealthy: 1 }";
    let gateway = Gateway::with(checked(&endpoints, check)).start();
    until_down(&gateway, address);
    gateway.logs("its checks fail: connection refused");
    all_served(&gateway, 10);
    let origin = planned.start(answer(200, "back"));
    until_up(&gateway, address);
    until("it is used", || {
        all_served(&gateway, 2);
        origin.requests() > 0
    });
    assert_eq!(patient.checks(), 0, "nobody is asked by HTTP");
}

#[test]
fn an_answer_that_is_none_or_never_ends_is_no_good_check_and_does_no_harm() {
    let endless = Origin::start(|exchange: &mut Exchange| {
        if exchange.request.target != "/health" {
            return exchange.respond(200, "", b"served");
        }
        // A head without end.
        exchange.send(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            exchange.send(&[b"x: ", "y".repeat(1000).as_bytes(), b"\r\n"].concat())?;
        }
    });
    let garbage = Origin::start(|exchange: &mut Exchange| exchange.send(b"SSH-2.0-OpenSSH\r\n\r\n"));
    let closes = Origin::start(closes_early());
    let long = Origin::start(huge(1 << 30));
    let endpoints: Vec<String> = [&endless, &garbage, &closes, &long]
        .iter()
        .map(|origin| format!("{{ address: \"{}\" }}", origin.address()))
        .collect();
    let gateway = Gateway::with(checked(&endpoints, BY_HTTP)).start();
    for origin in [&endless, &garbage, &closes] {
        until_down(&gateway, origin.address());
    }
    until("the long answer was begun three times", || long.requests() >= 3);
    assert!(is_healthy(&gateway, long.address()), "its head is enough");
}
