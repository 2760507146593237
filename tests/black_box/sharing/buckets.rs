//! Token buckets that many gateways share.

use std::time::Duration;

use super::*;

/// What a bucket of 100 with 100 more per second may let in during so much time: what is in it, what comes in, tickets
/// of the last 200 ms, and the overrun.
fn most_within(time: Duration) -> f64 {
    const GATEWAYS: f64 = 4.0;
    const OVERRUN_OF_EACH: f64 = 1.0;
    100.0 + 100.0 * (time.as_secs_f64() + 0.2) + GATEWAYS * OVERRUN_OF_EACH
}

#[test]
fn a_bucket_over_four_gateways_keeps_its_rate_in_every_stretch_of_time() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let limit = "{ name: l, rate: 100/s, burst: 100, window: token_bucket }";
    let fleet = Fleet::of(4, open_under(&origin, limit))
        .redis(&redis, "")
        .throttle(PATIENT)
        .start();
    let report = fleet.load("/open").pace(500.0).send(2500).expect_decisions_only();
    let admissions = report.admissions_in_order();
    // From when one was sent to when another was answered, everything that was both sent and answered in between was
    // let in.
    for &(from, _) in &admissions {
        let mut within = 0;
        for &(sent, answered) in &admissions {
            if sent >= from {
                within += 1;
                let most = most_within(answered - from);
                assert!(
                    count(within) <= most,
                    "{within} from {from:?} to {answered:?}, at most {most}"
                );
            }
        }
    }
    let least = 0.7 * (100.0 + 100.0 * report.took.as_secs_f64());
    assert!(
        count(admissions.len()) >= least,
        "less than {least}: {}",
        report.summary()
    );
}

#[test]
fn a_full_bucket_is_full_once_and_not_once_for_each_gateway() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    // It gains nothing while the test looks on.
    let limit = "{ name: l, rate: 40/month, burst: 40, window: token_bucket }";
    let fleet = Fleet::of(4, open_under(&origin, limit))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    let admitted = fleet.let_in(400, |gateway| gateway.client().get("/open"));
    // What a gateway takes from the bucket and does not use is lost.
    assert_accurate(admitted, 40, 50, 40);
}

#[test]
fn a_bucket_whose_rate_is_raised_is_not_locked_by_what_it_owed_before() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let with_rate = |rate: &str| {
        open_under(
            &origin,
            &format!("{{ name: l, rate: {rate}, burst: 20, window: token_bucket }}"),
        )
    };
    let fleet = Fleet::of(2, with_rate("1/m"))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    until("it is empty", || {
        fleet.let_in(4, |gateway| gateway.client().get("/open")) == 0 && origin.requests() >= 15
    });
    for gateway in fleet.gateways() {
        gateway.apply(with_rate("6000/m"));
    }
    // Twenty tokens took twenty minutes before; now they take a fifth of a second.
    let before = origin.requests();
    until("it is filled at the new rate", || {
        fleet.let_in(4, |gateway| gateway.client().get("/open"));
        origin.requests() >= before + 40
    });
}

#[test]
fn a_bucket_whose_rate_is_lowered_is_not_full_again() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let with_rate = |rate: &str| {
        open_under(
            &origin,
            &format!("{{ name: l, rate: {rate}, burst: 300, window: token_bucket }}"),
        )
    };
    let fleet = Fleet::of(2, with_rate("600/m"))
        .redis(&redis, "")
        .throttle(STRICT)
        .start();
    fleet.load("/open").send(600).expect_decisions_only();
    for gateway in fleet.gateways() {
        gateway.apply(with_rate("6/m"));
    }
    let before = Instant::now();
    let admitted = fleet.let_in(200, |gateway| gateway.client().get("/open"));
    // What a busy machine gave it time to gain at the old rate counts too.
    let most = 40 + 10 * usize::try_from(before.elapsed().as_secs()).unwrap();
    assert!(admitted <= most, "{admitted} let in after the rate was lowered");
}
