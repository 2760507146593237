//! DNS that is gone takes nothing down with it.

use super::*;

#[test]
fn while_dns_is_gone_or_forgetful_what_was_known_serves_on() {
    let dns = DnsServer::start();
    let [first, second] = on_one_port();
    dns.set("orders.internal", ["A 127.0.0.1"]);
    let gateway = Gateway::with(at_host("orders.internal", first.address().port()))
        .section(&dns.section(""))
        .start();
    let failed = |result: &str| gateway.metric(&format!("tollgate_dns_lookups_total{{result=\"{result}\"}}"));
    for (mood, result) in [
        (Mood::Silent, "failed"),
        (Mood::Failing, "failed"),
        (Mood::Forgetful, "gone"),
    ] {
        let before = failed(result);
        dns.is(mood);
        until("a lookup fails", || failed(result) > before);
        for _ in 0..10 {
            gateway.client().get("/named").send().expect(200);
        }
        dns.is(Mood::Fine);
        let found = failed("found");
        until("a lookup succeeds", || failed("found") > found);
    }
    gateway.logs("it is believed to be at 127.0.0.1:");
    // And it is still followed.
    dns.set("orders.internal", ["A 127.0.0.2"]);
    until_asked(&gateway, &second);
    until_spared(&gateway, &first);
}

#[test]
fn a_gateway_starts_without_dns_serves_what_needs_none_and_finds_the_rest_later() {
    let dns = DnsServer::start();
    dns.is(Mood::Silent);
    let origin = Origin::start(echo());
    dns.set("orders.internal", ["A 127.0.0.1"]);
    let revision = at_host("orders.internal", origin.address().port())
        .behind("origin", origin.address())
        .api("{ name: open, base_path: /open, auth: none, upstream: origin }");
    let gateway = Gateway::with(revision)
        .section(&dns.section(", timeout: 100ms").replace("timeout: 500ms, ", ""))
        .start();
    gateway.client().get("/open").send().expect(200);
    let without = gateway.client().get("/named").send();
    assert!((500..600).contains(&without.status), "{without:?}");
    gateway.logs("it has no endpoints until it is found");
    dns.is(Mood::Fine);
    until("it is found", || gateway.client().get("/named").send().status == 200);
}
