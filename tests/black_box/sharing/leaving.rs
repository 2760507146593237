//! Gateways that leave a fleet in good order.

use super::*;

#[test]
fn a_gateway_that_leaves_gives_back_the_tickets_that_it_did_not_use() {
    const LIMIT: usize = 1000;
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(2, open_under(&origin, "{ name: l, rate: 1000/month }"))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    let mut connection = fleet[0].raw();
    until("it holds more tickets than it has used", || {
        fleet[0].client().get("/open").send_on(&mut connection).expect(200);
        issued(&redis) > as_tickets(origin.requests())
    });
    fleet[0].terminate();
    fleet[0].wait();
    let used = origin.requests();
    assert!(used < LIMIT);
    assert_eq!(issued(&redis), as_tickets(used), "what is issued is what was used");

    let mut connection = fleet[1].raw();
    let mut call = || fleet[1].client().get("/open").send_on(&mut connection).status;
    until("the other gateway lets in the rest", || {
        call();
        origin.requests() >= LIMIT
    });
    for _ in 0..20 {
        assert_eq!(call(), 429);
    }
    assert_eq!(origin.requests(), LIMIT);
}

#[test]
fn a_gateway_that_leaves_pays_its_debts() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    // Each may let in 2500 on credit, and asks for nothing as long as so few call.
    let fleet = Fleet::of(2, open_under(&origin, "{ name: l, rate: 100000/month }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    assert_eq!(fleet.let_in(10, |gateway| gateway.client().get("/open")), 10);
    fleet.leave();
    assert_eq!(issued(&redis), 10);
}

#[test]
fn after_a_fleet_has_left_exactly_what_was_let_in_is_counted() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(4, open_under(&origin, "{ name: l, rate: 5000/month, per: ip }"))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let load = fleet.load("/open").header("X-Forwarded-For", ALICE).pace(800.0);
    let report = load.send(1500).expect_decisions_only();
    assert_eq!(report.admitted(), 1500);
    fleet.leave();
    assert_eq!(issued(&redis), as_tickets(origin.requests()));
}

#[test]
fn a_gateway_leaves_in_time_although_redis_does_not_answer() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let fleet = Fleet::of(1, open_under(&origin, "{ name: l, rate: 1000/month }"))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    until("it has tickets", || {
        fleet.let_in(1, |gateway| gateway.client().get("/open"));
        issued(&redis) > 0
    });
    redis.stop();
    // It fails if they have not left within PATIENCE.
    fleet.leave();
}
