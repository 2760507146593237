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
