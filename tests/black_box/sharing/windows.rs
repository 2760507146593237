//! Where windows begin and end when many gateways share them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

#[test]
fn every_window_lets_in_its_own_and_no_more_over_all_gateways() {
    const LIMIT: usize = 100;
    for kind in ["fixed", "sliding"] {
        let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
        let limit = format!("{{ name: l, rate: 100/s, window: {kind} }}");
        let fleet = Fleet::of(4, open_under(&origin, &limit))
            .redis(&redis, "")
            .throttle(STRICT)
            .start();
        let report = fleet.load("/open").pace(400.0).send(1600).expect_decisions_only();
        let seconds = usize::try_from(report.took.as_secs()).unwrap();
        // The first and the last window were perhaps only touched.
        let (least, most) = (LIMIT * seconds / 4, LIMIT * (seconds + 2));
        let admitted = report.admitted();
        assert!((least..=most).contains(&admitted), "{kind}: {}", report.summary());
    }
}

#[test]
fn a_day_begins_at_midnight_of_the_zone_that_the_limit_names() {
    // Nepal is always 5:45 ahead.
    const AHEAD: u64 = 5 * 3600 + 45 * 60;
    const DAY: u64 = 86_400;
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(
        2,
        open_under(&origin, "{ name: l, rate: 2/d, time_zone: Asia/Kathmandu }"),
    )
    .redis(&redis, "")
    .throttle(STRICT)
    .start();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for gateway in fleet.gateways() {
        let answer = gateway.client().get("/open").send();
        let standing = answer.header("ratelimit").expect("a RateLimit field").to_owned();
        let reset: u64 = standing.rsplit("t=").next().unwrap().parse().unwrap();
        let midnight = (clock() + Duration::from_secs(reset + AHEAD)).as_secs() % DAY;
        assert!(
            !(5..=DAY - 5).contains(&midnight),
            "{standing} ends {midnight} s after midnight"
        );
    }
}

#[test]
fn every_counter_in_redis_ends_by_itself() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let limits = "{ name: a, rate: 100/s, window: fixed }, { name: b, rate: 100/m, window: sliding },
                  { name: c, rate: 100/s, window: token_bucket }, { name: d, rate: 100/month, window: fixed }";
    let fleet = Fleet::of(2, open_under(&origin, limits))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    fleet.let_in(20, |gateway| gateway.client().get("/open"));
    fleet.leave();
    let keys = redis.keys();
    assert!(keys.len() >= 3, "{keys:?}");
    for key in keys {
        let rest: i64 = redis.ask(redis::cmd("PTTL").arg(&key));
        assert_ne!(rest, -1, "{key} stays for ever");
    }
}
