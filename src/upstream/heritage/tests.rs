use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::heritage::Section;
use crate::revision::{self, HealthCheck, Probe};
use crate::telemetry::Metrics;
use crate::units::Ratio;
use crate::upstream::breaker::State;

const SECOND: Duration = Duration::from_secs(1);

fn registry() -> Registry {
    Registry::new(None, Metrics::new().unwrap().upstreams().clone())
}

fn orders() -> UpstreamName {
    UpstreamName::from("orders")
}

fn address(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

fn breaker() -> revision::Breaker {
    revision::Breaker {
        consecutive: 3,
        error_rate: Ratio::percent(50),
        minimum: 20,
        window: 10 * SECOND,
        open: 10 * SECOND,
        probes: 2,
        max_ejected: Ratio::percent(50),
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval: 10 * SECOND,
        timeout: SECOND,
        healthy: 2,
        unhealthy: 2,
        failback: 5,
    }
}

fn handed_on(registry: &Registry, now: Moment) -> Vec<Section> {
    let mut sections = Vec::new();
    registry
        .hand_on(now, &mut |section| {
            sections.push(section);
            Ok(())
        })
        .unwrap();
    sections
}

/// The clock of the next process begins anew: what is a minute old here may be older than that process.
#[test]
fn the_next_process_knows_endpoints_as_they_were_by_its_own_clock() {
    let (here, there) = (Moment::now(), Moment::from_micros(90_000_000_000));
    let ago = |seconds: i64| Moment::there(-seconds * 1_000_000, here);
    let old = registry();
    let slow = old.endpoint(&orders(), address(1), None);
    slow.latency().observe(Duration::from_millis(80), ago(5));
    let down = old.endpoint(&orders(), address(2), None);
    for _ in 0..2 {
        down.health().checked(false, &check());
    }
    let open = old.endpoint(&orders(), address(3), None);
    for _ in 0..3 {
        open.breaker().failed(&breaker(), ago(4), || true);
    }
    let joining = old.endpoint(&orders(), address(4), Some(ago(30)));
    let sections = handed_on(&old, here);

    let new = registry();
    // One is there already, the others come with the revision.
    let early = new.endpoint(&orders(), address(1), None);
    for section in &sections {
        assert_eq!(new.inherit(&section.bytes, there), Ok(4));
    }
    assert_eq!(early.latency().micros(there), slow.latency().micros(here));
    let later = new.endpoint(&orders(), address(2), None);
    assert!(!later.health().is_up());
    let later = new.endpoint(&orders(), address(3), None);
    assert_eq!(later.breaker().state(), State::Open);
    assert!(!later.breaker().tick(there.plus(Duration::from_millis(5_900))));
    assert!(
        later.breaker().tick(there.plus(6 * SECOND)),
        "ten seconds after it opened"
    );
    // Late, so it would begin slowly; but it did so half a minute ago.
    let later = new.endpoint(&orders(), address(4), Some(there));
    assert_eq!(
        there.since(later.joined().unwrap()),
        here.since(joining.joined().unwrap())
    );
    let stranger = new.endpoint(&orders(), address(5), None);
    assert_eq!(stranger.latency().micros(there), None);
    assert!(stranger.joined().is_none() && stranger.health().is_up());
}

#[test]
fn a_breaker_that_opened_again_and_again_stays_open_as_long_as_it_would_have() {
    let (here, there) = (Moment::now(), Moment::from_micros(90_000_000_000));
    let old = registry();
    let open = old.endpoint(&orders(), address(1), None);
    let mut now = here;
    for pause in [10, 20] {
        for _ in 0..3 {
            open.breaker().failed(&breaker(), now, || true);
        }
        now = now.plus(pause * SECOND);
        assert!(open.breaker().tick(now));
    }
    let new = registry();
    for section in handed_on(&old, now) {
        new.inherit(&section.bytes, there).unwrap();
    }
    let open = new.endpoint(&orders(), address(1), None);
    assert_eq!(open.breaker().state(), State::HalfOpen);
    assert!(open.breaker().enter_gate(true, there), "nobody is in the gate here");
    open.breaker().failed(&breaker(), there, || true);
    assert!(!open.breaker().tick(there.plus(39 * SECOND)));
    assert!(open.breaker().tick(there.plus(40 * SECOND)));
}

proptest! {
    #[test]
    fn whatever_comes_nothing_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cut in 0_usize..200,
        flip in 0_usize..200,
    ) {
        let new = Arc::new(registry());
        let _ = new.inherit(&bytes, Moment::now());
        let old = registry();
        let _kept = old.endpoint(&orders(), address(1), Some(Moment::now()));
        for section in handed_on(&old, Moment::now()) {
            let mut bytes = section.bytes;
            let length = bytes.len();
            bytes[flip % length] ^= 0x55;
            let _ = new.inherit(&bytes, Moment::now());
            prop_assert!(cut % length == 0 || new.inherit(&bytes[..cut % length], Moment::now()).is_err());
        }
        for port in 0..3 {
            let endpoint = new.endpoint(&orders(), address(port), None);
            endpoint.breaker().tick(Moment::now());
            let _ = endpoint.latency().micros(Moment::now());
        }
    }
}
