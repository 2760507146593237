//! How limits are shared between gateways.

use std::time::Duration;

use super::super::Throttle;
use super::super::raw::RawThrottle;
use super::Resolver;
use crate::document::{At, Place, Text};
use crate::revision::WithoutStore;
use crate::units::Ratio;

/// A request that waits longer than this for a counter has waited too long for anybody.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Shorter ones cost more round trips than they save; longer ones keep quota from other gateways.
const LEASES: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(5);

impl Resolver<'_> {
    /// `redis` is where Redis is configured, if it is.
    pub(super) fn throttle(&mut self, raw: Option<&At<RawThrottle>>, redis: Option<Place>) -> Throttle {
        let nothing = RawThrottle::default();
        let RawThrottle {
            max_overrun,
            max_wait,
            lease,
            on_store_down,
            on_timeout,
            instances,
            max_counters,
        } = raw.map_or(&nothing, |raw| &raw.value);
        let default = Throttle::default();
        let throttle = Throttle {
            max_overrun: max_overrun.as_ref().map_or(default.max_overrun, |share| *share.get()),
            max_wait: self.max_wait(max_wait.as_ref(), default.max_wait),
            lease: self.lease(lease.as_ref(), default.lease),
            on_store_down: on_store_down.unwrap_or(default.on_store_down),
            on_timeout: on_timeout.or(default.on_timeout),
            instances: self.number(instances.as_ref(), "instances", 1..=100_000, default.instances),
            max_counters: self.number(
                max_counters.as_ref(),
                "max_counters",
                1_000..=100_000_000,
                default.max_counters,
            ),
        };
        let dropped = |key| raw.is_some_and(|raw| self.dropped.contains(raw.place, key));
        let reported = dropped("instances") || dropped("max_overrun");
        if let Some(redis) = redis
            && instances.is_none()
            && !reported
        {
            let place = raw.map_or(redis, |raw| raw.place);
            self.report.warning(place, instances_assumed(&throttle));
        }
        throttle
    }

    fn max_wait(&mut self, raw: Option<&At<Text<Duration>>>, default: Duration) -> Duration {
        let Some(raw) = raw else {
            return default;
        };
        if *raw.get() > LONGEST_WAIT {
            self.report.error(raw.place, "\"max_wait\" has to be from 0ms to 1s");
        }
        *raw.get()
    }

    fn lease(&mut self, raw: Option<&At<Text<Duration>>>, default: Duration) -> Duration {
        let Some(raw) = raw else {
            return default;
        };
        if !raw.get().is_zero() && !LEASES.contains(raw.get()) {
            let message = "\"lease\" has to be from 50ms to 5s, or 0ms to ask Redis for every request";
            self.report.error(raw.place, message);
        }
        *raw.get()
    }
}

/// What it means that nobody has said how many gateways there are.
fn instances_assumed(throttle: &Throttle) -> String {
    let Throttle {
        max_overrun,
        instances,
        on_store_down,
        ..
    } = throttle;
    let mut message = format!("\"instances\" is not written, so {instances} gateways are assumed:");
    if *max_overrun > Ratio::ZERO {
        // Below this, the share of one gateway is less than one request.
        let parts = u64::from(Ratio::WHOLE.parts_per_million());
        let smallest = (u64::from(*instances) * parts).div_ceil(u64::from(max_overrun.parts_per_million()));
        message.push_str(&format!(
            " the allowed overrun of {max_overrun} is divided by it, so limits below {smallest} wait for Redis on a \
             cold counter;"
        ));
    }
    if *on_store_down == WithoutStore::Share {
        message.push_str(" while Redis is away, each goes on with its part of what was left;");
    }
    message.push_str(" write throttle: { instances: N } with the most gateways that run at a time");
    message
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::super::{Loaded, parse};
    use super::*;
    use crate::document::{Environment, Mistakes};

    fn read(lines: &str) -> Result<Loaded, Mistakes> {
        let environment = Environment::fixed([], Timestamp::UNIX_EPOCH);
        parse(
            &format!("revision: {{ file: r }}\n{lines}\n"),
            "t.yaml",
            &environment,
            None,
        )
    }

    fn throttle(lines: &str) -> Throttle {
        read(lines)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
            .config
            .throttle
    }

    fn warnings(lines: &str) -> String {
        read(lines)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
            .warnings
            .to_string()
    }

    #[test]
    fn every_key_is_read_and_has_the_default_that_is_promised() {
        assert_eq!(
            throttle(
                "throttle: { max_overrun: 0.5%, max_wait: 0ms, lease: 1s, on_store_down: deny, on_timeout: allow, \
                 instances: 2, max_counters: 1000 }"
            ),
            Throttle {
                max_overrun: "0.5%".parse().unwrap(),
                max_wait: Duration::ZERO,
                lease: Duration::from_secs(1),
                on_store_down: WithoutStore::Deny,
                on_timeout: Some(WithoutStore::Allow),
                instances: 2,
                max_counters: 1000,
            }
        );
        let default = Throttle {
            max_overrun: "5%".parse().unwrap(),
            max_wait: Duration::from_millis(20),
            lease: Duration::from_millis(250),
            on_store_down: WithoutStore::Share,
            on_timeout: None,
            instances: 10,
            max_counters: 1_000_000,
        };
        assert_eq!(throttle(""), default);
        assert_eq!(throttle("throttle: {}"), default);
        assert_eq!(
            throttle("throttle: { max_overrun: 0, lease: 0ms }").lease,
            Duration::ZERO
        );
    }

    #[test]
    fn what_is_out_of_range_is_told_the_range() {
        for (key, expected) in [
            ("max_overrun: 5", "\"5\" is not a share; write 0% to 100%"),
            ("max_overrun: 101%", "\"101%\" is not a share; write 0% to 100%"),
            ("max_overrun: [5%]", "expected a string, found a list"),
            ("max_wait: 1001ms", "\"max_wait\" has to be from 0ms to 1s"),
            ("max_wait: 20", "\"20\" is not a duration"),
            (
                "lease: 49ms",
                "\"lease\" has to be from 50ms to 5s, or 0ms to ask Redis",
            ),
            ("lease: 6s", "\"lease\" has to be from 50ms to 5s, or 0ms to ask Redis"),
            (
                "on_store_down: alow",
                "expected one of share, deny, allow, found \"alow\"; did you mean \"allow\"?",
            ),
            ("on_timeout: wait", "expected one of share, deny, allow, found \"wait\""),
            ("instances: 0", "\"instances\" has to be from 1 to 100000, not 0"),
            ("instances: two", "expected a whole number, found \"two\""),
            (
                "max_counters: 999",
                "\"max_counters\" has to be from 1000 to 100000000, not 999",
            ),
            (
                "max_counters: 100000001",
                "\"max_counters\" has to be from 1000 to 100000000, not 100000001",
            ),
            (
                "max_overun: 5%",
                "unknown key \"max_overun\" in throttle; did you mean \"max_overrun\"?",
            ),
        ] {
            let found = read(&format!("redis: {{ urls: [redis://h] }}\nthrottle: {{ {key} }}"))
                .unwrap_err()
                .iter()
                .filter(|mistake| mistake.severity == crate::document::Severity::Error)
                .map(|mistake| format!("{mistake}\n"))
                .collect::<String>();
            assert!(
                found.contains(expected) && found.starts_with("t.yaml:3:") && found.lines().count() == 1,
                "{key} gave {found}"
            );
        }
    }

    #[test]
    fn who_shares_counters_and_does_not_say_among_how_many_is_warned() {
        let redis = "redis: { urls: [redis://h] }";
        assert_eq!(
            warnings(redis),
            "t.yaml:2:8: warning: \"instances\" is not written, so 10 gateways are assumed: the allowed overrun of 5% is \
             divided by it, so limits below 200 wait for Redis on a cold counter; while Redis is away, each goes on with its \
             part of what was left; write throttle: { instances: N } with the most gateways that run at a time"
        );
        let finer = warnings(&format!("{redis}\nthrottle: {{ max_overrun: 0.3% }}"));
        assert!(
            finer.starts_with("t.yaml:3:11: warning:") && finer.contains("limits below 3334 wait"),
            "{finer}"
        );
        let strict = warnings(&format!("{redis}\nthrottle: {{ max_overrun: 0 }}"));
        assert!(
            !strict.contains("overrun") && strict.contains("what was left"),
            "{strict}"
        );
        assert_eq!(warnings(&format!("{redis}\nthrottle: {{ instances: 2 }}")), "");
        assert_eq!(warnings("throttle: { max_overrun: 5% }"), "");
        let wrong = read(&format!("{redis}\nthrottle: {{ instances: many }}")).unwrap_err();
        assert_eq!(wrong.len(), 1, "{wrong}");
    }
}
