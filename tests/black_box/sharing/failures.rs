//! What happens when Redis, or the way to it, fails in the middle.

use std::time::Duration;

use super::*;

/// No request takes longer, whatever happens to Redis.
const NO_REQUEST_HANGS: Duration = Duration::from_secs(1);

/// Four gateways under load lose their store and get it back.
///
/// Nobody gets anything but a decision, nobody waits long, all together let in twice the limit at most, and in the end
/// they share again.
#[track_caller]
fn survive(redis: &RedisServer, way: Option<&FaultProxy>, fail: impl FnOnce(), recover: impl FnOnce()) {
    const LIMIT: usize = 1000;
    let origin = Origin::start(answer(200, ""));
    let setup = Fleet::of(4, open_under(&origin, "{ name: l, rate: 1000/month, per: ip }"));
    let setup = match way {
        Some(proxy) => setup.redis_behind(proxy.address()),
        None => setup.redis(redis, ""),
    };
    let fleet = setup.throttle("max_wait: 100ms").start();
    let load = fleet.load("/open").header("X-Forwarded-For", ALICE).pace(500.0);
    let mut admitted = 0;
    let report = load.during(|| {
        until("the limit is in use", || origin.requests() >= LIMIT / 4);
        fail();
        until_store_is(false, &fleet);
        until_nobody_is_let_in(&origin);
        admitted = origin.requests();
        recover();
        until_store_is(true, &fleet);
        until_it_trades(&fleet, redis);
    });
    assert_accurate(admitted, LIMIT, 50, 2 * LIMIT);
    let summary = report.summary();
    let report = report.expect_decisions_only();
    assert!(report.admitted() <= 2 * LIMIT, "{summary}");
    assert!(report.slowest() < NO_REQUEST_HANGS, "{summary}");
}

#[test]
fn a_redis_that_hangs_makes_no_request_fail_or_hang() {
    let redis = RedisServer::start();
    survive(&redis, None, || redis.stop(), || redis.resume());
}

#[test]
fn a_redis_that_is_killed_and_comes_back_empty_makes_no_request_fail_or_hang() {
    let redis = RedisServer::start();
    survive(&redis, None, || redis.kill(), || redis.restart());
}

#[test]
fn a_line_to_redis_that_swallows_everything_makes_no_request_fail_or_hang() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::in_front_of(redis.address());
    survive(
        &redis,
        Some(&proxy),
        || proxy.black_hole(true),
        || proxy.black_hole(false),
    );
}

#[test]
fn a_redis_that_refuses_connections_makes_no_request_fail_or_hang() {
    let redis = RedisServer::start();
    let proxy = FaultProxy::in_front_of(redis.address());
    survive(&redis, Some(&proxy), || proxy.refuse(true), || proxy.refuse(false));
}

#[test]
fn connections_that_are_cut_again_and_again_let_nobody_in_beyond_a_strict_limit() {
    const LIMIT: usize = 2000;
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let proxy = FaultProxy::in_front_of(redis.address());
    // Replies that are on their way when the line is cut are lost.
    proxy.set_latency(Duration::ZERO, Duration::from_millis(10));
    // While there is no connection, strict means to refuse: a share of what was left is a guess.
    let limit = "{ name: l, rate: 2000/month, max_overrun: 0%, on_store_down: deny }";
    let fleet = Fleet::of(4, open_under(&origin, limit))
        .redis_behind(proxy.address())
        .throttle(PATIENT)
        .start();
    let report = fleet.load("/open").pace(600.0).during(|| {
        for cut in 1..=10 {
            until("some more are let in", || origin.requests() >= 50 * cut);
            proxy.drop_connections();
        }
        until_nobody_is_let_in(&origin);
    });
    report.expect_decisions_only();
    assert_accurate(origin.requests(), LIMIT, 40, LIMIT);
}

#[test]
fn a_redis_that_forgets_everything_gives_no_second_helping() {
    const LIMIT: usize = 2000;
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(4, open_under(&origin, "{ name: l, rate: 2000/month }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let report = fleet.load("/open").pace(800.0).during(|| {
        until("half of the limit is used", || origin.requests() >= LIMIT / 2);
        redis.flush();
        until_nobody_is_let_in(&origin);
    });
    report.expect_decisions_only();
    // What one gateway was granted and nobody else has heard of is lost.
    assert_accurate(origin.requests(), LIMIT, 80, bound(LIMIT, 4, 5).max(LIMIT * 5 / 4));
}
