use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::document::Environment;
use crate::names::UpstreamName;
use crate::telemetry::Metrics;

/// An upstream whose endpoints, checks and time are the test's.
pub(super) struct Trial {
    pub(super) terms: Terms,
    pub(super) members: Arc<[Member]>,
    pub(super) now: Moment,
    pub(super) metrics: Metrics,
    standing: Arc<Standing>,
    dice: std::cell::Cell<u64>,
}

/// An endpoint of a test; the number is the last part of its address.
#[derive(Clone, Copy)]
pub(super) struct One {
    pub(super) weight: u32,
    pub(super) local: Option<bool>,
    pub(super) priority: u8,
}

pub(super) const ONE: One = One {
    weight: 1,
    local: None,
    priority: 0,
};

impl Trial {
    /// With these settings beside name and endpoints.
    pub(super) fn new(settings: &str, endpoints: &[One]) -> Self {
        let text = format!(
            "version: 1\nupstreams: [ {{ name: orders, endpoints: [ {{ address: \"10.0.0.1:80\" }} ], {settings} }} ]\n"
        );
        let loaded = crate::revision::parse(
            &text,
            "revision.yaml",
            std::path::Path::new("."),
            &Environment::of_process(),
        );
        let terms = loaded
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
            .revision
            .upstreams
            .remove(0);
        let members = (1_u32..).zip(endpoints).map(|(id, one)| {
            let address = std::net::SocketAddr::from(([10, 0, (id >> 8) as u8, id as u8], 80));
            Member {
                endpoint: Arc::new(Endpoint::new(id, UpstreamName::from("orders"), address)),
                label: address.to_string().into(),
                weight: one.weight,
                local: one.local,
                priority: one.priority,
                peer: HttpPeer::new(address, false, String::new()),
            }
        });
        Self {
            terms,
            members: members.collect(),
            now: Moment::from_micros(1_000_000),
            metrics: Metrics::new().unwrap(),
            standing: Arc::default(),
            dice: std::cell::Cell::new(7),
        }
    }

    pub(super) fn view(&self) -> View {
        View::compile(
            &self.terms,
            Arc::clone(&self.members),
            Arc::clone(&self.standing),
            self.metrics.upstreams(),
            self.now,
        )
    }

    /// The endpoint with this number, counted from 1.
    pub(super) fn endpoint(&self, id: u32) -> &Arc<Endpoint> {
        &self.members[id as usize - 1].endpoint
    }

    pub(super) fn ask<'a>(&self, tried: &'a [u32]) -> Ask<'a> {
        self.dice.set(hash::stir(self.dice.get().wrapping_add(1)));
        Ask {
            dice: self.dice.get(),
            key: hash::stir(self.dice.get()),
            tried,
            repeatable: true,
            now: self.now,
        }
    }

    /// Which endpoint a request goes to that was at these.
    fn pick(&self, view: &View, tried: &[u32]) -> Option<u32> {
        view.pick(&self.ask(tried)).map(|pick| pick.member.endpoint.id())
    }

    /// Shares in percent over so many picks, by endpoint.
    fn shares(&self, picks: u32) -> Vec<f64> {
        let view = self.view();
        let mut shares = vec![0.0; self.members.len()];
        for _ in 0..picks {
            let id = self.pick(&view, &[]).unwrap();
            shares[id as usize - 1] += 100.0 / f64::from(picks);
        }
        shares
    }

    fn check(&self, id: u32, good: bool, times: usize) {
        for _ in 0..times {
            let terms = self.terms.health_check.as_ref().unwrap();
            self.endpoint(id).health().checked(good, terms);
        }
    }

    fn open(&self, id: u32) {
        while self.endpoint(id).breaker().state() == State::Closed {
            self.endpoint(id)
                .breaker()
                .failed(&self.terms.breaker, self.now, || true);
        }
    }

    fn half_open(&mut self, id: u32) {
        self.open(id);
        self.now = self.now.plus(self.terms.breaker.open);
        assert!(self.endpoint(id).breaker().tick(self.now));
    }

    fn close(&self, id: u32) {
        while self.endpoint(id).breaker().state() == State::HalfOpen {
            self.endpoint(id).breaker().succeeded(&self.terms.breaker, self.now);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    fn picks_by(&self, by: &str) -> u64 {
        self.metrics.upstreams().picks("orders", by).get()
    }
}

pub(super) fn enter(endpoint: &Arc<Endpoint>, times: usize) -> Vec<crate::upstream::endpoint::InFlight> {
    use futures_util::FutureExt;
    let pool = crate::revision::Pool {
        max_connections: None,
        max_idle: None,
        max_age: None,
        queue: 0,
        queue_timeout: Duration::ZERO,
    };
    (0..times)
        .map(|_| endpoint.enter(&pool).now_or_never().unwrap().unwrap())
        .collect()
}

#[track_caller]
fn close_to(found: &[f64], wanted: &[f64], within: f64) {
    let off = found
        .iter()
        .zip(wanted)
        .any(|(found, wanted)| (found - wanted).abs() > within);
    assert!(!off && found.len() == wanted.len(), "{found:?} instead of {wanted:?}");
}

fn of_weight(weight: u32) -> One {
    One { weight, ..ONE }
}

const NEAR: One = One {
    local: Some(true),
    ..ONE
};
const FAR: One = One {
    local: Some(false),
    ..ONE
};

#[test]
fn round_robin_is_exact_over_a_turn_and_who_is_out_burdens_all_others_alike() {
    let trial = Trial::new("balance: round_robin", &[5, 2, 2, 1].map(of_weight));
    close_to(&trial.shares(1000), &[50.0, 20.0, 20.0, 10.0], 1e-6);
    trial.open(1);
    close_to(&trial.shares(1000), &[0.0, 40.0, 40.0, 20.0], 1e-6);
}

#[test]
fn a_retry_does_not_always_go_to_the_neighbour() {
    let trial = Trial::new("balance: round_robin", &[ONE; 5]);
    let view = trial.view();
    let mut hits = HashMap::<u32, u32>::new();
    for _ in 0..1000 {
        *hits.entry(trial.pick(&view, &[2]).unwrap()).or_default() += 1;
    }
    assert!(!hits.contains_key(&2));
    assert!(hits.values().all(|hits| (200..310).contains(hits)), "{hits:?}");
}

#[test]
fn random_follows_the_weights() {
    let trial = Trial::new("balance: random", &[5, 2, 2, 1].map(of_weight));
    close_to(&trial.shares(100_000), &[50.0, 20.0, 20.0, 10.0], 0.6);
    trial.open(1);
    close_to(&trial.shares(100_000), &[0.0, 40.0, 40.0, 20.0], 0.6);
}

#[test]
fn whatever_the_algorithm_a_request_never_goes_where_it_was_and_finds_all_others() {
    for balance in [
        "round_robin",
        "least_connections",
        "least_response_time",
        "consistent_hash",
        "random",
    ] {
        let trial = Trial::new(
            &format!("balance: {balance}"),
            &[1, 1000, 1, 5, 1, 7, 1, 1, 1, 900, 1, 1].map(of_weight),
        );
        let view = trial.view();
        for _ in 0..20 {
            let mut tried = Tried::new();
            while let Some(id) = trial.pick(&view, &tried) {
                assert!(!tried.contains(&id), "{balance}");
                assert!(view.can_pick(|other| other == id));
                tried.push(id);
            }
            assert_eq!(tried.len(), 12, "{balance}");
            assert!(!view.can_pick(|id| !tried.contains(&id)));
        }
    }
}

#[test]
fn least_connections_takes_the_emptiest_for_its_weight_and_turns_where_there_is_none() {
    let trial = Trial::new("balance: least_connections", &[3, 1, 1].map(of_weight));
    close_to(&trial.shares(1000), &[60.0, 20.0, 20.0], 1e-6);
    assert_eq!(
        (trial.picks_by("round_robin"), trial.picks_by("least_connections")),
        (1000, 0)
    );
    let _three = enter(trial.endpoint(1), 3);
    let view = trial.view();
    for _ in 0..10 {
        assert_ne!(trial.pick(&view, &[]), Some(1), "three of three against none of one");
    }
    let _one = (enter(trial.endpoint(2), 2), enter(trial.endpoint(3), 2));
    for _ in 0..10 {
        assert_eq!(trial.pick(&view, &[]), Some(1), "three of three against two of one");
    }
    assert_eq!(trial.picks_by("least_connections"), 20);
}

#[test]
fn least_response_time_sends_an_endpoint_nobody_knows_one_request_at_a_time() {
    let trial = Trial::new("balance: least_response_time", &[ONE; 3]);
    let view = trial.view();
    close_to(&trial.shares(900), &[33.3, 33.3, 33.3], 0.1);
    assert_eq!(
        trial.picks_by("round_robin"),
        900,
        "nothing is known, and nothing in flight"
    );
    trial
        .endpoint(1)
        .latency()
        .observe(Duration::from_millis(10), trial.now);
    trial
        .endpoint(2)
        .latency()
        .observe(Duration::from_millis(10), trial.now);
    assert!((0..100).any(|_| trial.pick(&view, &[]) == Some(3)));
    let _one = enter(trial.endpoint(3), 1);
    assert!(
        (0..100).all(|_| trial.pick(&view, &[]) != Some(3)),
        "until that is answered"
    );
}

#[test]
fn least_response_time_counts_an_answer_from_another_zone_more() {
    let trial = Trial::new("balance: least_response_time", &[NEAR, FAR]);
    let know = |id, millis| {
        trial
            .endpoint(id)
            .latency()
            .observe(Duration::from_millis(millis), trial.now)
    };
    know(1, 6);
    know(2, 2);
    close_to(&trial.shares(100), &[100.0, 0.0], 1e-6);
    let _two = enter(trial.endpoint(1), 1);
    close_to(&trial.shares(100), &[0.0, 100.0], 1e-6);
}

#[test]
fn who_has_no_room_is_passed_over_unless_nobody_has() {
    for balance in [
        "round_robin",
        "least_connections",
        "least_response_time",
        "consistent_hash",
        "random",
    ] {
        let trial = Trial::new(
            &format!("balance: {balance}, pool: {{ max_connections: 2 }}"),
            &[ONE; 12],
        );
        let view = trial.view();
        let mut inside: Vec<_> = (1..=12)
            .filter(|id| *id != 5)
            .map(|id| enter(trial.endpoint(id), 2))
            .collect();
        for _ in 0..20 {
            assert_eq!(trial.pick(&view, &[]), Some(5), "{balance}");
        }
        inside.push(enter(trial.endpoint(5), 2));
        let picks: std::collections::HashSet<_> = (0..200).map(|_| trial.pick(&view, &[]).unwrap()).collect();
        assert!(
            picks.len() > 6,
            "{balance}: they queue where the algorithm says, {picks:?}"
        );
    }
}

#[test]
fn the_own_zone_gets_everything_until_too_few_can_be_used_and_then_what_it_was_built_for() {
    for balance in ["round_robin", "least_connections", "random"] {
        let trial = Trial::new(
            &format!(
                "balance: {balance}, zones: {{ spill: 80% }}, breaker: {{ max_ejected: 100% }}, panic_threshold: 0%"
            ),
            &[NEAR, NEAR, NEAR, NEAR, FAR, FAR],
        );
        let leaves = || trial.shares(20_000)[4..].iter().sum::<f64>();
        close_to(&[leaves()], &[0.0], 1e-6);
        trial.open(1);
        close_to(&[leaves()], &[100.0 - 75.0 / 0.8], 1.5);
        trial.open(2);
        close_to(&[leaves()], &[100.0 - 50.0 / 0.8], 1.5);
        (trial.open(3), trial.open(4));
        close_to(&[leaves()], &[100.0], 1e-6);
    }
}

#[test]
fn without_anybody_in_the_own_zone_all_are_alike() {
    let trial = Trial::new("balance: round_robin", &[FAR, FAR, ONE]);
    close_to(&trial.shares(300), &[33.3, 33.3, 33.3], 0.1);
}

#[test]
fn room_is_looked_for_in_the_own_zone_first() {
    let trial = Trial::new(
        "balance: round_robin, pool: { max_connections: 1 }",
        &[FAR, NEAR, FAR, NEAR],
    );
    let view = trial.view();
    let _two = enter(trial.endpoint(2), 1);
    assert!((0..20).all(|_| trial.pick(&view, &[]) == Some(4)));
    let _four = enter(trial.endpoint(4), 1);
    assert!((0..20).all(|_| matches!(trial.pick(&view, &[]), Some(1 | 3))));
}

#[test]
fn who_comes_back_gets_a_tenth_of_its_share_first_and_all_of_it_in_the_end() {
    let mut trial = Trial::new("balance: round_robin, slow_start: 10s", &[ONE; 3]);
    assert!(!trial.view().is_moving());
    trial.endpoint(3).join(trial.now);
    let mut seen = Vec::new();
    for round in 0..5 {
        assert_eq!(trial.view().is_moving(), round < 4);
        seen.push(trial.shares(21_000)[2]);
        trial.pass(Duration::from_millis(2500));
    }
    // The fifth was at ten seconds: nothing moves any more.
    close_to(
        &seen[..4],
        &[0.1, 0.25, 0.5, 0.75].map(|part| 100.0 * part / (2.0 + part)),
        0.2,
    );
    close_to(&seen[4..], &[100.0 / 3.0], 0.2);
}

#[test]
fn a_key_stays_where_it_is_and_comes_back_after_an_outage() {
    let mut trial = Trial::new("balance: consistent_hash, slow_start: 10s", &[ONE; 10]);
    let owners = |trial: &Trial| -> Vec<u32> {
        let view = trial.view();
        let owner = |key: u64| {
            let ask = Ask {
                key: hash::stir(key),
                ..trial.ask(&[])
            };
            view.pick(&ask).unwrap().member.endpoint.id()
        };
        (0..5000).map(owner).collect()
    };
    let before = owners(&trial);
    trial.open(4);
    let during = owners(&trial);
    assert!(before.iter().zip(&during).all(|(before, during)| if *before == 4 {
        *during != 4
    } else {
        before == during
    }));
    trial.pass(trial.terms.breaker.open);
    trial.endpoint(4).breaker().tick(trial.now);
    trial.close(4);
    trial.endpoint(4).join(trial.now);
    let mut back = 0;
    while trial.view().is_moving() {
        let now = owners(&trial);
        let returned = now.iter().filter(|owner| **owner == 4).count();
        assert!(returned >= back, "no key goes away again");
        assert!(
            now.iter()
                .zip(&before)
                .all(|(now, before)| *before == 4 || now == before)
        );
        back = returned;
        trial.pass(Duration::from_secs(1));
    }
    assert_eq!(owners(&trial), before);
}

#[test]
fn a_ring_is_made_once_for_all_views_of_the_same_endpoints() {
    let trial = Trial::new("balance: consistent_hash", &[ONE; 10]);
    let ring = |view: &View| match &view.choice {
        Choice::ConsistentHash(ring, _) => Arc::as_ptr(ring),
        _ => panic!("not a ring"),
    };
    let before = trial.view();
    trial.open(3);
    assert_eq!(ring(&before), ring(&trial.view()));
}

/// Two of priority 0, two of priority 1.
const REGIONS: [One; 4] = [ONE, ONE, One { priority: 1, ..ONE }, One { priority: 1, ..ONE }];

#[test]
fn three_failed_checks_move_the_traffic_to_the_next_group_and_five_good_ones_back() {
    let trial = Trial::new(
        "health_check: { path: /, healthy: 2, unhealthy: 3, failback: 5 }",
        &REGIONS,
    );
    close_to(&trial.shares(100), &[50.0, 50.0, 0.0, 0.0], 1e-6);
    let fail = |id| trial.check(id, false, 3);
    fail(1);
    close_to(&trial.shares(100), &[0.0, 100.0, 0.0, 0.0], 1e-6);
    trial.check(2, false, 2);
    close_to(&trial.shares(100), &[0.0, 100.0, 0.0, 0.0], 1e-6);
    fail(2);
    close_to(&trial.shares(100), &[0.0, 0.0, 50.0, 50.0], 1e-6);
    trial.check(1, true, 4);
    assert!(!trial.view().is_moving());
    close_to(&trial.shares(100), &[0.0, 0.0, 50.0, 50.0], 1e-6);
    let view = trial.view();
    trial.check(1, true, 1);
    assert!(view.is_moving(), "nobody says so, it has to be noticed");
    close_to(&trial.shares(100), &[100.0, 0.0, 0.0, 0.0], 1e-6);
}

#[test]
fn without_checks_a_better_group_has_the_traffic_again_as_soon_as_it_can_be_used() {
    let mut trial = Trial::new("breaker: { max_ejected: 100% }", &REGIONS);
    trial.open(1);
    trial.half_open(2);
    let view = trial.view();
    let probe = view.pick(&trial.ask(&[])).unwrap();
    assert_eq!(
        (probe.probe, probe.member.priority),
        (true, 0),
        "nobody else would ever find out"
    );
    for _ in 0..10 {
        let pick = view.pick(&trial.ask(&[])).unwrap();
        assert_eq!((pick.probe, pick.member.priority), (false, 1));
    }
    trial.close(2);
    close_to(&trial.shares(100), &[0.0, 100.0, 0.0, 0.0], 1e-6);
}

#[test]
fn a_request_that_was_at_every_endpoint_of_its_group_goes_to_the_next_group() {
    let trial = Trial::new("balance: round_robin", &REGIONS);
    let view = trial.view();
    assert!(matches!(trial.pick(&view, &[1, 2]), Some(3 | 4)));
    assert!(view.can_pick(|id| id > 2));
    assert_eq!(trial.pick(&view, &[1, 2, 3, 4]), None);
}

#[test]
fn when_too_few_can_be_used_all_are_and_never_with_a_threshold_of_nothing() {
    let all_but_one = |threshold: &str| {
        let trial = Trial::new(
            &format!("panic_threshold: {threshold}, breaker: {{ max_ejected: 100% }}"),
            &[ONE; 5],
        );
        (1..=4).for_each(|id| trial.open(id));
        trial
    };
    let trial = all_but_one("25%");
    close_to(&trial.shares(100), &[20.0; 5], 1e-6);
    assert_eq!((trial.picks_by("panic"), trial.picks_by("round_robin")), (100, 0));
    let trial = all_but_one("20%");
    close_to(&trial.shares(100), &[0.0, 0.0, 0.0, 0.0, 100.0], 1e-6);
    let trial = all_but_one("0%");
    trial.open(5);
    assert_eq!(trial.pick(&trial.view(), &[]), None);
}

#[test]
fn one_request_at_a_time_finds_out_about_a_half_open_endpoint() {
    for balance in [
        "round_robin",
        "least_connections",
        "least_response_time",
        "consistent_hash",
        "random",
    ] {
        let mut trial = Trial::new(&format!("balance: {balance}"), &[ONE; 4]);
        trial.half_open(2);
        let view = trial.view();
        let picks: Vec<(u32, bool)> = (0..20)
            .map(|_| view.pick(&trial.ask(&[])).unwrap())
            .map(|pick| (pick.member.endpoint.id(), pick.probe))
            .collect();
        assert_eq!(picks[0], (2, true), "{balance}");
        assert!(picks[1..].iter().all(|(id, probe)| *id != 2 && !probe), "{balance}");
        trial.endpoint(2).breaker().leave_gate();
        assert_ne!(trial.pick(&view, &[2]), Some(2), "{balance}: it was there");
        let not_again = Ask {
            repeatable: false,
            ..trial.ask(&[])
        };
        assert!(!view.pick(&not_again).unwrap().probe, "{balance}: it may not fail");
        assert_eq!(trial.pick(&view, &[]), Some(2), "{balance}");
        assert_eq!(trial.picks_by("probe"), 2, "{balance}");
    }
}

#[test]
fn people_are_told_who_gets_what_and_why() {
    let mut trial = Trial::new(
        "health_check: { path: / }, slow_start: 10s",
        &[NEAR, NEAR, NEAR, NEAR, FAR, One { priority: 2, ..ONE }],
    );
    trial.half_open(2);
    trial.check(3, false, 3);
    trial.endpoint(4).join(trial.now);
    trial.pass(Duration::from_secs(5));
    let facts = trial.view().describe(trial.now);
    let told = |id: usize| {
        let facts = &facts.endpoints[id - 1];
        (facts.usable, facts.because.join("; "))
    };
    assert_eq!(
        (facts.balance, facts.active_priority, facts.panic),
        ("round_robin", Some(0), false)
    );
    assert_eq!(told(1), (true, String::new()));
    assert!(!told(2).0 && told(2).1.contains("half-open"), "{facts:?}");
    assert!(!told(3).0 && told(3).1.contains("checks fail"), "{facts:?}");
    assert!(told(4).0 && told(4).1.contains("50 %"), "{facts:?}");
    assert!(told(5).0, "half of the own zone is not enough");
    assert!(!told(6).0 && told(6).1.contains("priority 0"), "{facts:?}");
    let total: f64 = facts.endpoints.iter().map(|facts| facts.share_percent).sum();
    assert!((total - 100.0).abs() < 0.3, "{facts:?}");
}
