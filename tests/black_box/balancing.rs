//! Which of its endpoints an upstream's requests go to, and what operators are told about it.

use serde_json::Value;

use crate::harness::*;

const TOKEN: &str = "a-token-that-nobody-guesses";

/// A gateway whose API `open` goes to these endpoints, with these settings of the upstream.
fn gateway(endpoints: &[String], settings: &str) -> Gateway {
    let revision = Revision::empty()
        .upstream(&format!(
            "{{ name: several, endpoints: [{}], {settings} }}",
            endpoints.join(", ")
        ))
        .api("{ name: open, base_path: /open, auth: none, upstream: several }");
    Gateway::with(revision)
        .section(&format!("admin: {{ address: \"127.0.0.1:0\", token: {TOKEN} }}"))
        .start()
}

/// How the upstream stands, as the admin listener tells.
fn standing(gateway: &Gateway) -> Value {
    let answer = gateway
        .admin()
        .get("/admin/upstreams")
        .token(TOKEN)
        .send()
        .expect(200)
        .json();
    let upstreams = answer["upstreams"].as_array().unwrap();
    assert_eq!(upstreams.len(), 1, "{answer}");
    assert_eq!(upstreams[0]["name"], "several");
    upstreams[0].clone()
}

#[test]
fn requests_follow_the_weights_exactly() {
    let origins: Vec<Origin> = (0..3).map(|_| Origin::start(echo())).collect();
    let endpoints: Vec<String> = (origins.iter().zip([5, 2, 1]))
        .map(|(origin, weight)| format!("{{ address: \"{}\", weight: {weight} }}", origin.address()))
        .collect();
    let gateway = gateway(&endpoints, "balance: round_robin");
    for _ in 0..80 {
        gateway.client().get("/open").send().expect(200);
    }
    let requests: Vec<usize> = origins.iter().map(Origin::requests).collect();
    assert_eq!(requests, [50, 20, 10]);
    let told = standing(&gateway);
    assert_eq!(
        (&told["balance"], &told["panic"]),
        (&"round_robin".into(), &false.into())
    );
    let shares: Vec<f64> = (told["endpoints"].as_array().unwrap().iter())
        .map(|endpoint| endpoint["share_percent"].as_f64().unwrap())
        .collect();
    assert_eq!(shares, [62.5, 25.0, 12.5]);
}

#[test]
fn the_same_key_finds_the_same_endpoint_and_keys_spread_over_all() {
    let origins: Vec<Origin> = (0..3).map(|_| Origin::start(echo())).collect();
    let endpoints: Vec<String> = (origins.iter())
        .map(|origin| format!("{{ address: \"{}\" }}", origin.address()))
        .collect();
    let gateway = gateway(&endpoints, "balance: consistent_hash, hash: { header: x-user }");
    let user_of = |received: &Received| received.header("x-user").unwrap().to_owned();
    for _ in 0..3 {
        for user in 0..40 {
            let request = gateway.client().get("/open").header("X-User", &format!("user-{user}"));
            request.send().expect(200);
        }
    }
    let mut all = 0;
    for origin in &origins {
        let mut users: Vec<String> = origin.received().iter().map(user_of).collect();
        users.sort_unstable();
        users.dedup();
        assert_eq!(origin.requests(), 3 * users.len(), "all requests of each of its users");
        assert!(!users.is_empty());
        all += users.len();
    }
    assert_eq!(all, 40);
}

#[test]
fn a_region_that_fails_is_left_and_returned_to_without_an_error_for_anybody() {
    let (planned, other) = (Planned::new(), Origin::start(echo()));
    let endpoints = [
        format!("{{ address: \"{}\" }}", planned.address()),
        format!("{{ address: \"{}\", priority: 1 }}", other.address()),
    ];
    let gateway = gateway(
        &endpoints,
        "breaker: { consecutive: 3, open: 1s, probes: 2 }, slow_start: 0s",
    );
    let asked = || gateway.client().get("/open").send().expect(200);
    eventually("the breaker of the region that is down opens", || {
        asked();
        let told = standing(&gateway);
        let first = &told["endpoints"][0];
        let reasons = first["because"].to_string();
        (told["active_priority"] == 1 && first["usable"] == false && reasons.contains("breaker is open")).then_some(())
    });
    assert!(other.requests() >= 3);

    let home = planned.start(echo());
    eventually("the traffic is back", || {
        asked();
        let told = standing(&gateway);
        (told["active_priority"] == 0 && told["endpoints"][0]["share_percent"] == 100.0).then_some(())
    });
    let (before, elsewhere) = (home.requests(), other.requests());
    for _ in 0..10 {
        asked();
    }
    assert_eq!((home.requests(), other.requests()), (before + 10, elsewhere));
}
