//! Services in DNS (SRV): hosts, ports, weights and priorities.

use super::*;

#[test]
fn a_service_says_hosts_ports_and_weights_and_is_followed() {
    let dns = DnsServer::start();
    let [heavy, light, later] = [(); 3].map(|()| Origin::start(echo()));
    let port = |origin: &Origin| origin.address().port();
    dns.set("a.internal", ["A 127.0.0.1"]);
    dns.set("b.internal", ["A 127.0.0.1"]);
    let service = |records: &[String]| {
        dns.set("_http._tcp.orders.internal", records.iter().map(String::as_str));
    };
    service(&[
        format!("SRV 10 3 {} a.internal", port(&heavy)),
        format!("SRV 10 1 {} b.internal", port(&light)),
    ]);
    let gateway = Gateway::with(named("orders", "{ srv: _http._tcp.orders.internal }"))
        .section(&dns.section(""))
        .start();
    for _ in 0..40 {
        gateway.client().get("/named").send().expect(200);
    }
    assert_eq!((heavy.requests(), light.requests()), (30, 10));
    service(&[format!("SRV 10 1 {} b.internal", port(&later))]);
    until_asked(&gateway, &later);
    until_spared(&gateway, &heavy);
}

#[test]
fn records_of_a_worse_priority_are_for_when_no_better_one_can_be_used() {
    let dns = DnsServer::start();
    let (planned, spare) = (Planned::new(), Origin::start(echo()));
    dns.set("a.internal", ["A 127.0.0.1"]);
    let (first, second) = (planned.address().port(), spare.address().port());
    // As numbers they are far apart; what counts is their order.
    let records = [
        format!("SRV 100 1 {first} a.internal"),
        format!("SRV 60000 1 {second} a.internal"),
    ];
    dns.set("_http._tcp.orders.internal", records.iter().map(String::as_str));
    let revision = named("orders", "{ srv: _http._tcp.orders.internal }").to_string().replace(
        "{ name: orders, endpoints",
        "{ name: orders, health_check: { interval: 1s, timeout: 900ms, unhealthy: 1, healthy: 1, failback: 1 }, endpoints",
    );
    let gateway = Gateway::with(revision).section(&dns.section("")).start();
    until_asked(&gateway, &spare);
    let origin = planned.start(echo());
    until_asked(&gateway, &origin);
    until_spared(&gateway, &spare);
}

#[test]
fn a_service_that_is_not_offered_is_refused_like_a_name_that_does_not_exist() {
    let dns = DnsServer::start();
    let revision = named("orders", "{ srv: _http._tcp.orders.internal }");
    let start = || Gateway::with(&revision).section(&dns.section("")).run();
    let refused = start();
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("endpoint \"_http._tcp.orders.internal\" does not resolve: there is no such name"),
        "{refused:?}"
    );
    dns.set("_http._tcp.orders.internal", ["SRV 0 0 80 gone.internal"]);
    let refused = start();
    assert!(
        refused
            .stderr
            .contains("its target gone.internal.: there is no such name"),
        "{refused:?}"
    );
}
