//! A region that fails is left for the next one, and returned to when it is well for a while.

use super::*;

#[test]
fn the_traffic_leaves_a_region_after_three_failed_checks_and_returns_after_five_good_ones() {
    let (near, far) = ([Patient::new(), Patient::new()], Patient::new());
    let mut endpoints: Vec<String> = near.iter().map(Patient::endpoint).collect();
    endpoints.push(format!("{{ address: \"{}\", priority: 1 }}", far.origin.address()));
    // Three and five are what is not written.
    let check = "{ path: /health, interval: 1s, timeout: 900ms }";
    let gateway = Gateway::with(checked(&endpoints, check)).start();
    let report = gateway.load("/orders").pace(100.0).during(|| {
        until("the near region serves", || {
            near.iter().all(|patient| patient.others() > 0)
        });
        assert_eq!(far.others(), 0, "the far one is for when the near one fails");
        near.iter().for_each(|patient| patient.says(503));
        until("the far region serves", || far.others() > 0);
        let near_others = || near.iter().map(Patient::others).sum::<usize>();
        until("the near region gets nothing while the far one serves", || {
            let (left, served) = (near_others(), far.others());
            until("the far region serves more", || far.others() > served + 10);
            near_others() == left
        });

        let asked: Vec<usize> = near.iter().map(Patient::checks).collect();
        let left = near_others();
        near.iter().for_each(|patient| patient.says(200));
        until("the near region serves again", || near_others() > left);
        // One that is not up again by then is not waited for.
        let checks = near.iter().zip(&asked).map(|(patient, asked)| patient.checks() - asked);
        let checks = checks.max().unwrap();
        assert!(checks >= 5, "back after {checks} good checks");
        until("the far region rests", || {
            let before = far.others();
            std::thread::sleep(std::time::Duration::from_millis(100));
            far.others() == before
        });
    });
    assert_eq!(report.admitted(), report.requests(), "{}", report.summary());
}
