//! What a limit does while there is no Redis, as its `on_store_down` says.

use super::*;

#[test]
fn a_limit_that_denies_without_its_store_refuses_everybody_until_it_is_back() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let limit = "{ name: l, rate: 100000/month, on_store_down: deny }";
    let fleet = Fleet::of(2, open_under(&origin, limit))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let call = |gateway: &Gateway| gateway.client().get("/open");
    assert!(fleet.let_in(20, call) > 0);
    redis.kill();
    until("everybody is refused", || fleet.let_in(20, call) == 0);
    assert_eq!(fleet.let_in(50, call), 0);
    redis.restart();
    until("everybody is let in again", || fleet.let_in(20, call) == 20);
}

#[test]
fn a_limit_that_allows_without_its_store_lets_everybody_in_and_counts_it_afterwards() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let limit = "{ name: l, rate: 100/month, on_store_down: allow }";
    let fleet = Fleet::of(2, open_under(&origin, limit))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let call = |gateway: &Gateway| gateway.client().get("/open");
    assert!(fleet.let_in(10, call) > 0);
    redis.kill();
    call_until_store_is_missed(&fleet, call);
    assert_eq!(fleet.let_in(300, call), 300, "more than the limit");
    redis.restart();
    until("it was counted", || fleet.let_in(10, call) == 0);
}

#[test]
fn a_limit_without_its_store_is_shared_out_and_no_gateway_gets_more_than_all_may() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    redis.kill();
    let fleet = Fleet::of(4, open_under(&origin, "{ name: l, rate: 100/month }"))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    let report = fleet.load("/open").pace(400.0).send(1600).expect_decisions_only();
    // Nobody has ever heard of the others: each keeps to a fourth.
    assert_accurate(report.admitted(), 100, 90, 100);
    for tally in &report.tallies {
        assert!(tally.admitted.len() <= 25, "{}", report.summary());
    }
}

#[test]
fn gateways_that_start_without_redis_serve_and_share_when_it_comes() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    redis.kill();
    let fleet = Fleet::of(4, open_under(&origin, "{ name: l, rate: 1000/month, per: ip }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let call = |gateway: &Gateway| gateway.client().get("/open").header("X-Forwarded-For", ALICE);
    assert_eq!(fleet.let_in(100, call), 100);
    call_until_store_is_missed(&fleet, call);
    let before = origin.requests();
    for gateway in fleet.gateways() {
        assert_eq!(gateway.ready()["ready"], true, "it can do without");
    }

    redis.restart();
    until_it_trades(&fleet, &redis);
    let load = fleet.load("/open").header("X-Forwarded-For", ALICE).pace(800.0);
    let report = load.during(|| until_nobody_is_let_in(&origin)).expect_decisions_only();
    until_store_is(true, &fleet);
    assert_accurate(before + report.admitted(), 1000, 80, bound(1000, 4, 5));
}
