//! A Redis Cluster as the store.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What stands between the braces of a key: all that a cluster hashes.
fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    rest.split_once('}').map(|(tag, _)| tag)
}

#[test]
fn limits_hold_over_three_nodes() {
    const CLIENTS: usize = 9;
    const LIMIT: usize = 40;
    let (origin, cluster) = (Origin::start(answer(200, "")), RedisCluster::start());
    let fleet = Fleet::of(4, open_under(&origin, "{ name: l, rate: 40/month, per: ip }"))
        .cluster(&cluster)
        .throttle(STRICT)
        .start();
    for client in 1..=CLIENTS {
        let address = format!("{OTHERS}{client}");
        let call = |gateway: &Gateway| gateway.client().get("/open").header("X-Forwarded-For", &address);
        let before = origin.requests();
        until("it has its whole limit", || {
            fleet.let_in(4, call);
            origin.requests() - before >= LIMIT
        });
        assert_eq!(fleet.let_in(12, call), 0);
        assert_eq!(origin.requests() - before, LIMIT);
    }
    let keys = cluster.keys();
    let counters: Vec<&String> = keys.keys().filter(|key| hash_tag(key).is_some()).collect();
    assert_eq!(counters.len(), CLIENTS, "{keys:?}");
    let nodes: BTreeSet<usize> = counters.iter().map(|key| keys[*key]).collect();
    assert!(nodes.len() > 1, "the counters are spread: {keys:?}");
}

#[test]
fn all_counters_of_a_subject_are_on_one_node() {
    let (origin, cluster) = (Origin::start(answer(200, "")), RedisCluster::start());
    let limits = "{ name: hour, rate: 1000/h, per: ip }, { name: day, rate: 5000/d, per: ip },
                  { name: month, rate: 50000/month, per: ip }";
    let fleet = Fleet::of(2, open_under(&origin, limits))
        .cluster(&cluster)
        .throttle(STRICT)
        .start();
    for client in 0..20 {
        let address = format!("{OTHERS}{client}");
        let call = |gateway: &Gateway| gateway.client().get("/open").header("X-Forwarded-For", &address);
        assert_eq!(fleet.let_in(4, call), 4);
    }
    let mut by_tag: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let keys = cluster.keys();
    for key in keys.keys() {
        if let Some(tag) = hash_tag(key) {
            by_tag.entry(tag.to_owned()).or_default().insert(cluster.slot(key));
        }
    }
    assert_eq!(by_tag.len(), 20, "{keys:?}");
    assert!(by_tag.values().all(|slots| slots.len() == 1), "{by_tag:?}");
    let of_each = |tag: &String| keys.keys().filter(|key| hash_tag(key) == Some(tag)).count();
    // An hour may have ended meanwhile.
    assert!(by_tag.keys().all(|tag| of_each(tag) >= 3), "{keys:?}");
}

/// Which of the masters has the only counter.
#[track_caller]
fn owner_of_the_counter(cluster: &RedisCluster) -> usize {
    let keys = cluster.keys();
    let mut counters = keys.iter().filter(|(key, _)| hash_tag(key).is_some());
    let (_, &owner) = counters.next().expect("a counter");
    owner
}

#[test]
fn a_master_that_hands_over_loses_nothing() {
    const LIMIT: usize = 2000;
    let (origin, cluster) = (Origin::start(answer(200, "")), RedisCluster::start_with_replicas());
    let limit = "{ name: l, rate: 2000/month, max_overrun: 0%, on_store_down: deny }";
    let fleet = Fleet::of(4, open_under(&origin, limit))
        .cluster(&cluster)
        .throttle(PATIENT)
        .start();
    let report = fleet.load("/open").pace(400.0).during(|| {
        until("the limit is in use", || origin.requests() >= LIMIT / 4);
        cluster.fail_over(owner_of_the_counter(&cluster));
        let before = origin.requests();
        until("the gateways have found the new master", || {
            origin.requests() > before + 200
        });
        until_nobody_is_let_in(&origin);
    });
    report.expect_decisions_only();
    assert_accurate(origin.requests(), LIMIT, 80, LIMIT);
}

#[test]
fn a_master_that_is_killed_is_replaced_and_the_limit_holds() {
    const LIMIT: usize = 2000;
    let (origin, cluster) = (Origin::start(answer(200, "")), RedisCluster::start_with_replicas());
    let fleet = Fleet::of(
        4,
        open_under(&origin, "{ name: l, rate: 2000/month, on_store_down: deny }"),
    )
    .cluster(&cluster)
    .throttle("max_wait: 100ms")
    .start();
    let report = fleet.load("/open").pace(400.0).during(|| {
        until("the limit is in use", || origin.requests() >= LIMIT / 4);
        cluster.kill_master(owner_of_the_counter(&cluster));
        let before = origin.requests();
        until("the gateways have found the new master", || {
            origin.requests() > before + 100
        });
        until_nobody_is_let_in(&origin);
    });
    report.expect_decisions_only();
    // What the master had not passed on to its replica is lost, as far as no gateway has heard of it.
    assert_accurate(origin.requests(), LIMIT, 60, bound(LIMIT, 4, 5) + LIMIT / 20);
}
