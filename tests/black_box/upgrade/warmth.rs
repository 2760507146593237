//! What the next process knows from its first moment on: above all, what was spent of limits.

use std::time::Duration;

use crate::harness::*;

fn limited(origin: &Origin, limit: &str) -> Gateway {
    let revision = Revision::of(origin).api(&format!(
        "{{ name: open, base_path: /open, auth: none, upstream: origin, limits: [{limit}] }}"
    ));
    Gateway::with(revision).upgradable().start()
}

/// What an answer says is left.
fn left(answer: &Answer) -> u64 {
    let field = answer.header("ratelimit").expect("the limit");
    let rest = field.split_once(";r=").expect("what is left").1;
    rest.split(';').next().unwrap().parse().unwrap()
}

#[test]
fn a_limit_is_neither_reset_nor_spent_twice_by_upgrades() {
    let origin = Origin::start(answer(200, ""));
    for limit in [
        "{ name: l, rate: 10/month, window: fixed }",
        "{ name: l, rate: 10/month, window: sliding }",
        "{ name: l, rate: 1/month, window: token_bucket, burst: 10 }",
    ] {
        let gateway = limited(&origin, limit);
        for used in 0..10 {
            let answer = gateway.client().get("/open").send().expect(200);
            assert_eq!(left(&answer), 9 - used, "{limit}");
            if used % 3 == 0 {
                gateway.upgrade();
            }
        }
        gateway.client().get("/open").send().expect(429);
        gateway.upgrade();
        gateway.client().get("/open").send().expect(429);
    }
}

#[test]
fn what_is_spent_while_processes_follow_each_other_is_counted_once() {
    const LIMIT: u64 = 4_000_000_000;
    let origin = Origin::start(answer(200, ""));
    let gateway = limited(&origin, "{ name: l, rate: 4000000000/month, window: fixed }");
    let report = gateway.load("/open").connections(4).during(|| {
        for _ in 0..5 {
            gateway.upgrade();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let report = report.expect_decisions_only();
    gateway.first_has_ended();
    let admitted = report.admitted() as u64;
    let mut looked = 0;
    // The last report may be on its way.
    until("everything is counted", || {
        looked += 1;
        let left = left(&gateway.client().get("/open").send().expect(200));
        assert!(
            left >= LIMIT - admitted - looked,
            "spent twice: {left} of {LIMIT} left after {admitted}"
        );
        left == LIMIT - admitted - looked
    });
}
