//! Slow start: an endpoint that comes back gets a tenth of its share at first, and all of it in the end. What it lost while
//! it was away (caches, compiled code, connections of its own) has to be built up again by the traffic itself.

use std::time::Duration;

use super::super::{Endpoint, Moment};

/// What an endpoint gets at least: with less it would learn nothing.
const LEAST: f32 = 0.1;

/// What part of its weight counts now. It joined for this upstream and for those of older revisions at the same time, so
/// nothing is noted when it is over: a moment long ago is as good as none.
pub(super) fn part(endpoint: &Endpoint, slow_start: Duration, now: Moment) -> f32 {
    match endpoint.joined() {
        Some(joined) if now.since(joined) < slow_start => {
            (now.since(joined).as_secs_f32() / slow_start.as_secs_f32()).max(LEAST)
        }
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_all_of_it() {
        let endpoint = Endpoint::new(1, "orders".into(), ([10, 0, 0, 1], 80).into());
        let (start, ten) = (Moment::from_micros(1_000_000), Duration::from_secs(10));
        let after = |millis| part(&endpoint, ten, start.plus(Duration::from_millis(millis)));
        assert_eq!(after(0), 1.0, "it was always there");
        endpoint.join(start);
        let parts = [0, 500, 1000, 2500, 9000, 10_000, 99_000].map(after);
        assert_eq!(parts, [0.1, 0.1, 0.1, 0.25, 0.9, 1.0, 1.0]);
        assert_eq!(part(&endpoint, Duration::ZERO, start), 1.0, "it is switched off");
    }
}
