//! What governs a shared counter, and the bound that follows from it.

use crate::revision::{Sharing, WithoutStore};
use crate::throttle::counter::Quota;
use crate::units::{Rate, Ratio};

/// The most that a shared counter counts up to. A greater limit counts as this one.
pub const SHARED_MOST: u32 = u32::MAX >> 1;

/// How long a token of a bucket may be spent after it was asked for, in nanoseconds: 200 ms.
pub const LIFE: u64 = 200_000_000;

/// How long a token may be spent that is kept, in nanoseconds: 30 s (see [`Terms::kept`]).
pub const KEPT: u64 = 30_000_000_000;

/// Into how many parts what is left is cut, for all gateways together, to know how much of it may lie in hands that do not
/// need it yet. A thousandth is less than what anybody who sets a limit knows about it, and with it a counter that is far
/// from its end asks for hundreds of requests at a time.
const FAR: u32 = 1_000;

/// Less than this is not taken ahead of need: it would be asked for as often as is asked today.
const AHEAD_LEAST: u32 = 16;

/// What limits are shared by where they say nothing themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Gateways of different environments do not share counters.
    pub environment: String,
    /// By how much a limit may be overrun by all gateways together.
    pub max_overrun: Ratio,
    /// What happens while the store is away.
    pub on_store_down: WithoutStore,
    /// What happens to a request that has waited for the store as long as it may. None: a strict limit refuses, the
    /// others do as when the store is away.
    pub on_timeout: Option<WithoutStore>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            environment: String::from("Default"),
            max_overrun: Ratio::percent(5),
            on_store_down: WithoutStore::Share,
            on_timeout: None,
        }
    }
}

/// What governs a shared counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The limit as its counters' keys name it: a hash that every gateway computes alike.
    pub name: [u8; 8],
    /// What may be spent.
    pub quota: Quota,
    /// By how much the limit may be overrun by all gateways together, as a part of it. Zero is strict.
    pub max_overrun: Ratio,
    /// What happens while the store is away.
    pub on_store_down: WithoutStore,
    /// What happens to a request that has waited for the store as long as it may.
    pub on_timeout: WithoutStore,
}

/// What gateways that share a counter promise: so much at most, as long as the store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// What may be spent in a window, or the size of the bucket.
    pub limit: u32,
    /// How many gateways share the counter at most.
    pub instances: u32,
    /// What was allowed, as a part of the limit.
    pub max_overrun: Ratio,
    /// What each gateway may spend before it has asked.
    pub credit: u32,
    /// The most that all of them admit together: in a window; of a bucket at once, without what it gains later.
    pub most: u64,
    /// Whether the limit is a bucket.
    pub bucket: bool,
}

impl Promise {
    /// How the most comes about: for people. `rate` is the limit's own.
    #[must_use]
    pub fn formula(&self, rate: Rate) -> String {
        let Self {
            limit,
            instances,
            credit,
            most,
            ..
        } = self;
        if self.bucket {
            let life = LIFE as f64 / 1e9;
            format!("in any time t: {limit} + {rate} × (t + {life} s) + {instances} × {credit}; at once: {most}")
        } else {
            format!("in a window: {limit} + {instances} × {credit} = {most}")
        }
    }
}

impl Terms {
    /// The terms of a limit with this name and quota.
    #[must_use]
    pub fn new(name: [u8; 8], quota: Quota, own: Sharing, defaults: &Defaults) -> Self {
        let max_overrun = own.max_overrun.unwrap_or(defaults.max_overrun);
        let on_store_down = own.on_store_down.unwrap_or(defaults.on_store_down);
        let on_timeout = own.on_timeout.or(defaults.on_timeout).unwrap_or({
            // Who wants no overrun at all would rather have a request refused than a limit exceeded.
            if max_overrun == Ratio::ZERO {
                WithoutStore::Deny
            } else {
                on_store_down
            }
        });
        Self {
            name,
            quota,
            max_overrun,
            on_store_down,
            on_timeout,
        }
    }

    /// The limit: what may be spent in a window, or the size of the bucket.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.quota.whole().min(SHARED_MOST)
    }

    /// What one gateway may spend before it has asked: its part of the allowed overrun, rounded down. Small limits get
    /// none, and are strict.
    #[must_use]
    pub fn credit(&self, instances: u32) -> u32 {
        let allowed = u64::from(self.limit()) * u64::from(self.max_overrun.parts_per_million());
        let each = allowed / (1_000_000 * u64::from(instances.max(1)));
        u32::try_from(each).unwrap_or(u32::MAX)
    }

    /// What one gateway may take of a window ahead of need, whatever its pace, when so much is left: so that a limit that is
    /// far away is rarely asked about. What lies unused at all gateways together is at most a thousandth of what was left.
    /// Nothing of small limits, and nothing near the end.
    #[must_use]
    pub fn ahead(&self, left: u32, instances: u32) -> u32 {
        let each = left / FAR.saturating_mul(instances.max(1));
        if each < AHEAD_LEAST { 0 } else { each }
    }

    /// The size of a lot of tokens that one gateway may keep for longer than [`LIFE`]; it may keep two. They are taken out
    /// of its credit, so that the bound stays what it is: without credit there are none, and none of small limits.
    #[must_use]
    pub fn kept(&self, instances: u32) -> u32 {
        let each = self.ahead(self.limit(), instances).min(self.credit(instances) / 2) / 2;
        if each < AHEAD_LEAST { 0 } else { each }
    }

    /// What one gateway may owe to a bucket: its credit, without what it may keep.
    #[must_use]
    pub fn bucket_credit(&self, instances: u32) -> u32 {
        self.credit(instances)
            .saturating_sub(self.kept(instances).saturating_mul(2))
    }

    /// The most that so many gateways admit together in a window: limit + gateways · credit. For a bucket: beyond what
    /// its rate gives (see `lease::tokens`).
    #[must_use]
    pub fn bound(&self, instances: u32) -> u64 {
        u64::from(self.limit()) + u64::from(instances) * u64::from(self.credit(instances))
    }

    /// The bound in numbers.
    #[must_use]
    pub fn promise(&self, instances: u32) -> Promise {
        let bucket = !self.quota.shape().has_windows();
        Promise {
            limit: self.limit(),
            instances,
            max_overrun: self.max_overrun,
            credit: self.credit(instances),
            most: self.bound(instances) + if bucket { self.quota.gained_in(LIFE) } else { 0 },
            bucket,
        }
    }

    /// After how long a debt is charged that nobody is in a hurry about: a sixtieth of the window, 1 to 30 seconds.
    #[must_use]
    pub fn flush_after(&self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        (super::window::nominal_length(self.quota.shape().period()) / 60).clamp(SECOND, 30 * SECOND)
    }

    /// After how long it is looked at tickets that were taken [ahead](Self::ahead): a twelfth of the window, 1 to 30
    /// seconds. If none was spent they go back; else more are taken, and with the answer comes what is left.
    #[must_use]
    pub fn review_after(&self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        (super::window::nominal_length(self.quota.shape().period()) / 12).clamp(SECOND, 30 * SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::WindowKind;

    fn bucket(burst: u32) -> Terms {
        let quota = Quota::new("1000/s".parse().unwrap(), WindowKind::TokenBucket { burst });
        Terms::new([0; 8], quota, Sharing::default(), &Defaults::default())
    }

    #[test]
    fn of_a_great_limit_a_thousandth_is_taken_ahead_and_of_a_small_one_nothing() {
        let terms = bucket(1_000_000);
        assert_eq!(terms.ahead(1_000_000, 2), 500);
        assert_eq!(terms.ahead(100_000, 2), 50, "of what is left");
        assert_eq!(terms.ahead(31_999, 2), 0, "near the end");
        assert_eq!(bucket(10_000).kept(2), 0);
    }

    #[test]
    fn what_is_kept_of_a_bucket_is_taken_out_of_the_credit() {
        for instances in [1, 2, 10, 50] {
            let terms = bucket(1_000_000);
            let all = terms.bucket_credit(instances) + 2 * terms.kept(instances);
            assert_eq!(all, terms.credit(instances));
        }
        assert_eq!(bucket(1_000_000).kept(2), 250);
    }
}
