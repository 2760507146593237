//! Revisions take over what they say of checks, and reset nothing else.

use super::*;

#[test]
fn a_revision_that_touches_one_upstream_resets_no_other() {
    let (good, bad, seldom) = (Patient::new(), Patient::new(), Patient::new());
    bad.says(500);
    let base = || {
        checked(&[good.endpoint(), bad.endpoint()], BY_HTTP).upstream(&format!(
            "{{ name: seldom, endpoints: [{}], health_check: {{ path: /health, interval: 1h }} }}",
            seldom.endpoint()
        ))
    };
    let gateway = Gateway::with(base()).start();
    until("it was asked", || seldom.checks() == 1);
    until_down(&gateway, bad.origin.address());
    until_spared(&gateway, &bad);
    let requests = bad.others();
    for number in 0..10 {
        gateway.apply(base().upstream(&format!(
            "{{ name: more-{number}, endpoints: [{{ address: \"127.0.0.1:9\" }}] }}"
        )));
        assert!(!is_healthy(&gateway, bad.origin.address()));
        all_served(&gateway, 4);
    }
    assert_eq!(bad.others(), requests, "it is down through all of them");
    assert_eq!(gateway.log().matches(" is down, ").count(), 1);
    assert_eq!(seldom.checks(), 1, "nor is anybody asked anew");
}

#[test]
fn an_interval_that_is_shortened_takes_effect_and_checks_that_are_removed_end() {
    let patient = Patient::new();
    let slowly = BY_HTTP.replace("interval: 1s", "interval: 1h");
    let gateway = Gateway::with(checked(&[patient.endpoint()], &slowly)).start();
    until("the first check is soon", || patient.checks() == 1);
    gateway.apply(checked(&[patient.endpoint()], BY_HTTP));
    until("it is asked often", || patient.checks() >= 4);
    patient.says(500);
    until_down(&gateway, patient.origin.address());

    gateway.apply(
        Revision::empty()
            .behind("orders", patient.origin.address())
            .api("{ name: orders, base_path: /orders, auth: none, upstream: orders }"),
    );
    // What they have shown does not count any more.
    until_up(&gateway, patient.origin.address());
    all_served(&gateway, 5);
    // One may have been under way.
    let asked = patient.checks() + 1;
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(patient.checks() <= asked, "{} checks", patient.checks());
}

#[test]
fn endpoints_that_dns_brings_are_asked_too() {
    let (dns, patient) = (DnsServer::start(), Patient::new());
    dns.set("orders.internal", ["A 127.0.0.9"]);
    let port = patient.origin.address().port();
    let gateway = Gateway::with(checked(
        &[format!("{{ address: \"orders.internal:{port}\" }}")],
        BY_HTTP,
    ))
    .section(&dns.section(""))
    .start();
    until_down(&gateway, format!("orders.internal:{port} (127.0.0.9)"));
    dns.set("orders.internal", ["A 127.0.0.1"]);
    until("it is asked", || patient.checks() > 0);
    let host = format!("orders.internal:{port}");
    assert_eq!(patient.origin.received()[0].header("host"), Some(host.as_str()));
    until_up(&gateway, format!("orders.internal:{port} (127.0.0.1)"));
}
