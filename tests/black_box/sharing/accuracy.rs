//! How exactly a limit is kept by all gateways together, whatever the traffic looks like.

use std::time::Duration;

use super::*;

#[test]
fn eight_gateways_keep_a_limit_that_is_called_twice_as_often_and_hardly_ask_redis() {
    // Batches of a second: what is asked for then depends on time and hardly on the machine.
    const LEASE: &str = "max_wait: 500ms, lease: 1s";
    const LIMIT: usize = 10_000;
    const COMMANDS_PER_1000: usize = 15;
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(8, open_under(&origin, "{ name: l, rate: 10000/month }"))
        .redis(&redis, "")
        .throttle(LEASE)
        .start();
    let before = redis.trades();
    let report = fleet.load("/open").pace(2500.0).send(2 * LIMIT);
    let commands = usize::try_from(redis.trades() - before).unwrap();
    let summary = report.summary();
    let report = report.expect_decisions_only();
    assert_eq!(report.admitted(), origin.requests());
    assert_accurate(report.admitted(), LIMIT, 94, bound(LIMIT, 8, 5));
    assert!(commands > 0, "the gateways never asked");
    assert!(
        commands * 1000 <= COMMANDS_PER_1000 * report.requests(),
        "{commands} commands: {:?}\n{summary}",
        redis.commands_processed()
    );
}

#[test]
fn a_flash_on_all_gateways_at_once_does_not_get_in_more_often_than_allowed() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(8, open_under(&origin, "{ name: l, rate: 1000/month }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let report = fleet.load("/open").connections(4).send(5000).expect_decisions_only();
    assert_accurate(origin.requests(), 1000, 90, bound(1000, 8, 5));
    assert!(report.slowest() < PATIENCE, "{}", report.summary());
}

#[test]
fn nine_tenths_of_the_calls_on_one_of_eight_gateways_get_the_whole_limit() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(8, open_under(&origin, "{ name: l, rate: 1000/month }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let report = fleet.load("/open").skewed(0.9).pace(800.0).send(3000);
    let report = report.expect_decisions_only();
    assert_accurate(origin.requests(), 1000, 90, bound(1000, 8, 5));
    assert!(
        report.tallies[0].admitted.len() > 500,
        "the busy gateway is not held to an eighth: {}",
        report.summary()
    );
}

#[test]
fn a_tiny_limit_over_eight_gateways_is_exact() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(8, open_under(&origin, "{ name: l, rate: 10/month }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let report = fleet.load("/open").pace(400.0).send(800).expect_decisions_only();
    assert!(origin.requests() <= 10, "{}", report.summary());
    let call = |gateway: &Gateway| gateway.client().get("/open");
    until("the last ticket is used", || {
        fleet.let_in(8, call);
        origin.requests() >= 10
    });
    assert_eq!(fleet.let_in(80, call), 0);
    assert_eq!(origin.requests(), 10);
}

#[test]
fn a_strict_limit_is_never_exceeded_not_even_when_gateways_are_killed() {
    const LIMIT: usize = 2000;
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(8, open_under(&origin, "{ name: l, rate: 2000/month, max_overrun: 0% }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let report = fleet.load("/open").pace(1200.0).during(|| {
        for number in 0..3 {
            until("some more are let in", || origin.requests() >= 300 * (number + 1));
            fleet[number].kill();
        }
        until_nobody_is_let_in(&origin);
    });
    // What the killed ones held in tickets is lost.
    assert_accurate(origin.requests(), LIMIT, 50, LIMIT);
    for survivor in &report.tallies[3..] {
        assert!(
            survivor.others.is_empty() && survivor.unanswered == 0,
            "{}",
            report.summary()
        );
        assert!(survivor.refused > 0, "{}", report.summary());
    }
}

#[test]
fn what_is_told_to_be_left_never_grows_on_one_gateway() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(4, open_under(&origin, "{ name: l, rate: 1000/month }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let mut left = Vec::new();
    fleet.load("/open").pace(400.0).during(|| {
        let mut connection = fleet[0].raw();
        until("nothing is left", || {
            let answer = fleet[0].client().get("/open").send_on(&mut connection);
            let standing = answer.header("ratelimit").expect("a RateLimit field").to_owned();
            let rest = standing
                .strip_prefix("\"l\";r=")
                .and_then(|rest| rest.split(';').next());
            left.push(rest.and_then(|rest| rest.parse::<u64>().ok()).expect(&standing));
            answer.status == 429
        });
    });
    assert!(left.len() > 10, "{left:?}");
    assert!(left.iter().all(|&left| left < 1000), "{left:?}");
    assert!(left.is_sorted_by(|before, after| before >= after), "{left:?}");
}

#[test]
fn who_is_refused_by_one_limit_costs_the_others_nothing_on_no_gateway() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let limits = "{ name: wide, rate: 1000/month }, { name: tight, rate: 10/month }";
    let fleet = Fleet::of(4, open_under(&origin, limits))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    let call = |gateway: &Gateway| gateway.client().get("/open");
    until("the tight limit is used up", || {
        fleet.let_in(4, call);
        origin.requests() >= 10
    });
    assert_eq!(fleet.let_in(100, call), 0);
    fleet.leave();
    let tickets = tickets(&redis);
    assert_eq!(tickets.len(), 2, "{tickets:?}");
    assert!(tickets.values().all(|&issued| issued == 10), "{tickets:?}");
}

#[test]
fn each_subject_has_the_whole_limit_for_itself() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(4, open_under(&origin, "{ name: l, rate: 12/month, per: ip }"))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    for client in 1..=5 {
        let address = format!("{OTHERS}{client}");
        let call = |gateway: &Gateway| gateway.client().get("/open").header("X-Forwarded-For", &address);
        let before = origin.requests();
        until("it has its whole limit", || {
            fleet.let_in(4, call);
            origin.requests() - before >= 12
        });
        assert_eq!(fleet.let_in(20, call), 0);
        assert_eq!(origin.requests() - before, 12);
    }
    assert_eq!(tickets(&redis).len(), 5);
}

#[test]
fn a_limit_in_shadow_mode_is_shared_and_refuses_nobody() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(2, open_under(&origin, "{ name: trial, rate: 20/month, mode: shadow }"))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    assert_eq!(fleet.let_in(60, |gateway| gateway.client().get("/open")), 60);
    let decided = |decision: &str| -> f64 {
        let series = format!("tollgate_throttle_decisions_total{{decision=\"{decision}\",limit=\"api/open/trial\"}}");
        fleet.gateways().iter().map(|gateway| gateway.metric(&series)).sum()
    };
    let (allowed, denied) = (decided("allow"), decided("would_deny"));
    assert!((allowed + denied - 60.0).abs() < 0.5, "{allowed} and {denied}");
    assert!((1.0..=20.0).contains(&allowed), "both together allow 20: {allowed}");
}

#[test]
fn a_change_of_the_limit_acts_on_all_gateways_and_forgets_nothing() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let with_rate = |rate: &str| open_under(&origin, &format!("{{ name: l, rate: {rate} }}"));
    let fleet = Fleet::of(3, with_rate("30/month"))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    let use_up = |all: usize| {
        until("it is used up", || {
            fleet.let_in(3, |gateway| gateway.client().get("/open"));
            origin.requests() >= all
        });
        assert_eq!(fleet.let_in(30, |gateway| gateway.client().get("/open")), 0);
        assert_eq!(origin.requests(), all);
    };
    use_up(30);
    for gateway in fleet.gateways() {
        gateway.apply(with_rate("50/month"));
    }
    use_up(50);
    for gateway in fleet.gateways() {
        gateway.apply(with_rate("40/month"));
    }
    use_up(50);
}

#[test]
fn a_warm_limit_lets_in_without_waiting_for_a_redis_far_away() {
    const LIMIT: usize = 3000;
    const ONE_WAY: Duration = Duration::from_millis(25);
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let proxy = FaultProxy::in_front_of(redis.address());
    let fleet = Fleet::of(4, open_under(&origin, "{ name: l, rate: 3000/month }"))
        .redis_behind(proxy.address())
        .throttle("max_wait: 400ms")
        .start();
    let some = || fleet.load("/open").pace(200.0).send(400).expect_decisions_only();
    let near = some();
    proxy.set_latency(ONE_WAY, ONE_WAY);
    let far = some();
    assert!(
        far.median() < near.median() + ONE_WAY,
        "near: {}\nfar: {}",
        near.summary(),
        far.summary()
    );
    let rest = fleet.load("/open").pace(1000.0).send(5000).expect_decisions_only();
    assert_accurate(origin.requests(), LIMIT, 80, bound(LIMIT, 4, 5));
    assert!(rest.slowest() < Duration::from_secs(3), "{}", rest.summary());
}
