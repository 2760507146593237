//! What DNS says is what is used, soon after it says it.

use super::*;

#[test]
fn addresses_that_come_and_go_are_followed_without_a_lost_request() {
    let dns = DnsServer::start();
    let [first, second, third] = on_one_port();
    dns.set("orders.internal", ["A 127.0.0.1", "A 127.0.0.2"]);
    let gateway = Gateway::with(at_host("orders.internal", first.address().port()))
        .section(&dns.section(""))
        .start();
    let report = gateway.load("/named").during(|| {
        until("both are used", || first.requests() > 0 && second.requests() > 0);
        dns.set("orders.internal", ["A 127.0.0.2", "A 127.0.0.3"]);
        until("the new one is used", || third.requests() > 0);
        until_spared(&gateway, &first);
        dns.set("orders.internal", ["A 127.0.0.1"]);
        until_spared(&gateway, &third);
        until_asked(&gateway, &first);
    });
    assert_eq!(report.admitted(), report.requests(), "{}", report.summary());
    assert!(gateway.log().contains("dns: orders.internal:"), "a change is told");
}

#[test]
fn dns_is_asked_when_an_answer_is_over_and_never_because_of_requests() {
    let dns = DnsServer::start();
    dns.ttl(3600);
    let origin = Origin::start(echo());
    dns.set("orders.internal", ["A 127.0.0.1"]);
    let gateway = Gateway::with(at_host("orders.internal", origin.address().port()))
        .section(&dns.section(""))
        .start();
    let report = gateway.load("/named").send(500);
    assert_eq!(report.admitted(), 500, "{}", report.summary());
    assert_eq!(dns.asked(), ["A orders.internal"]);
    // What is known is taken as it is, so a revision that changes something else asks nobody either.
    gateway.apply(at_host("orders.internal", origin.address().port()).behind("other", origin.address()));
    gateway.client().get("/named").send().expect(200);
    assert_eq!(dns.asked(), ["A orders.internal"]);
}

#[test]
fn a_name_is_asked_for_once_however_many_upstreams_use_it() {
    let dns = DnsServer::start();
    let origin = Origin::start(echo());
    dns.set("orders.internal", ["A 127.0.0.1"]);
    let endpoint = format!("{{ address: \"orders.internal:{}\" }}", origin.address().port());
    let mut revision = named("orders", &endpoint);
    for number in 0..20 {
        revision = revision.upstream(&format!("{{ name: more-{number}, endpoints: [{endpoint}] }}"));
    }
    let gateway = Gateway::with(revision).section(&dns.section("")).start();
    until("it was asked again", || dns.asked().len() >= 3);
    let found = gateway.metric("tollgate_dns_lookups_total{result=\"found\"}");
    // Twenty-one at a time would be sixty by now.
    assert!(found < 20.0, "{found} lookups");
}

#[test]
fn a_revision_with_a_name_that_does_not_exist_is_refused_and_says_so() {
    let dns = DnsServer::start();
    let origin = Origin::start(echo());
    dns.set("orders.internal", ["A 127.0.0.1"]);
    let port = origin.address().port();
    let refused = Gateway::with(at_host("oders.internal", port))
        .section(&dns.section(""))
        .run();
    let message =
        format!("upstream \"orders\": endpoint \"oders.internal:{port}\" does not resolve: there is no such name");
    assert!(refused.stderr.contains(&message), "{}", refused.stderr);
    assert_eq!(refused.code, Some(78));

    let gateway = Gateway::with(at_host("orders.internal", port))
        .section(&dns.section(""))
        .start();
    gateway.replace_revision(at_host("oders.internal", port));
    gateway.logs(&message);
    gateway.client().get("/named").send().expect(200);
    // It is looked for again with the next try, and not remembered as missing.
    dns.set("oders.internal", ["A 127.0.0.1"]);
    gateway.apply(at_host("oders.internal", port).behind("other", origin.address()));
    gateway.client().get("/named").send().expect(200);
}

#[test]
fn addresses_of_ipv6_are_used_when_there_are_no_others_or_they_are_wanted() {
    let dns = DnsServer::start();
    dns.set("both.internal", ["A 127.0.0.1", "AAAA ::1"]);
    dns.set("six.internal", ["AAAA ::1"]);
    let revision = Revision::empty()
        .upstream("{ name: orders, endpoints: [{ address: \"both.internal:80\" }, { address: \"six.internal:81\" }] }");
    let shows = |section: &str, expected: &[&str]| {
        let gateway = Gateway::with(&revision).section(&dns.section(section)).start();
        until(&format!("{expected:?} are shown"), || {
            let text = gateway.status().get("/metrics").send().text();
            let mut shown: Vec<&str> = (text.lines())
                .filter_map(|line| line.strip_prefix("tollgate_endpoint_healthy{endpoint=\""))
                .filter_map(|rest| Some(rest.split_once('"')?.0))
                .collect();
            shown.sort_unstable();
            shown == expected
        });
    };
    let [four, six, only_six] = [
        "both.internal:80 (127.0.0.1)",
        "both.internal:80 (::1)",
        "six.internal:81 (::1)",
    ];
    shows("", &[four, only_six]);
    shows(", addresses: both", &[four, six, only_six]);
    shows(", addresses: ipv6", &[six, only_six]);
}

#[test]
fn a_name_in_the_hosts_file_is_not_asked_for() {
    let dns = DnsServer::start();
    let origin = Origin::start(echo());
    let gateway = Gateway::with(at_host("localhost", origin.address().port()))
        .section(&dns.section(""))
        .start();
    gateway.client().get("/named").send().expect(200);
    assert!(dns.asked().is_empty(), "{:?}", dns.asked());
}

#[test]
fn a_check_asks_whom_the_gateway_would_ask() {
    let dns = DnsServer::start();
    let origin = Origin::start(echo());
    dns.set("orders.internal", ["A 127.0.0.1"]);
    let check = |host: &str| {
        let revision = at_host(host, origin.address().port());
        let directory = tempfile::tempdir().unwrap();
        let (config, path) = (directory.path().join("t.yaml"), directory.path().join("r.yaml"));
        std::fs::write(&path, revision.to_string()).unwrap();
        let text = format!("revision: {{ file: \"{}\" }}\n{}\n", path.display(), dns.section(""));
        std::fs::write(&config, text).unwrap();
        tollgate(["check", "--connect", "--config", config.to_str().unwrap()])
    };
    let good = check("orders.internal");
    assert_eq!(good.code, Some(0), "{good:?}");
    let bad = check("oders.internal");
    assert_eq!(bad.code, Some(78), "{bad:?}");
    assert!(bad.stdout.contains("there is no such name"), "{bad:?}");
    dns.is(Mood::Failing);
    let failed = check("orders.internal");
    assert_eq!(failed.code, Some(78), "{failed:?}");
    assert!(failed.stdout.contains("Server Failure"), "{failed:?}");
}
