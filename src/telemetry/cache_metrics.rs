//! What is shown of kept answers. Labels are words of this build, never of a client.

use std::sync::{Arc, OnceLock};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::metrics::register;

/// Series of the cache. A clone is one more reference; no counter of the request path is looked up by its labels.
#[derive(Clone)]
pub struct CacheMetrics(Arc<Series>);

struct Series {
    asked: Asked,
    bypassed: Words,
    not_kept: Words,
    fills: Words,
    refreshes: [Words; 2],
    invalidations: IntCounterVec,
    entries: IntGauge,
    bytes: IntGauge,
    budget_bytes: IntGauge,
    filling_bytes: IntGauge,
    dropped: Words,
    evictions: IntCounter,
}

/// Where an answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// In this process.
    Memory,
    /// In Redis.
    Redis,
    /// Nowhere.
    None,
}

/// What came of a request that may be answered from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A fresh answer was given.
    Hit,
    /// A stale answer was given, because that is allowed.
    Stale,
    /// The answer that another request was fetching was given.
    Collapsed,
    /// What was kept is still good, says the origin.
    Revalidated,
    /// What was kept is no longer good; the origin has answered.
    Expired,
    /// Nothing was kept; the origin's answer is.
    Miss,
    /// The origin's answer may not be kept.
    NotKept,
}

impl Tier {
    const ALL: [Self; 3] = [Self::Memory, Self::Redis, Self::None];

    /// The word for it: a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::None => "none",
        }
    }
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Hit,
        Self::Stale,
        Self::Collapsed,
        Self::Revalidated,
        Self::Expired,
        Self::Miss,
        Self::NotKept,
    ];

    /// The word for it: a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Collapsed => "collapsed",
            Self::Revalidated => "revalidated",
            Self::Expired => "expired",
            Self::Miss => "miss",
            Self::NotKept => "not_kept",
        }
    }

    /// Whether the origin was spared its answer.
    #[must_use]
    pub fn is_hit(self) -> bool {
        matches!(self, Self::Hit | Self::Stale | Self::Collapsed)
    }
}

/// What the cache has done so far, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Requests that may be answered from the cache.
    pub asked: u64,
    /// Those of them that were, without asking the origin first.
    pub hits: u64,
    /// Entries that were given up to make room.
    pub evictions: u64,
}

impl CacheMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let requests = counters(
            "tollgate_cache_requests_total",
            "Requests that may be answered from the cache, by where an answer was found and what came of it",
            &["tier", "result"],
        )?;
        let refreshes = counters(
            "tollgate_cache_refreshes_total",
            "Answers fetched anew in the background: stale ones, and those asked for often ahead of their end",
            &["why", "result"],
        )?;
        let refreshes = |done: bool| {
            let vec = refreshes.clone();
            let result = if done { "done" } else { "failed" };
            Words::new(move |why| vec.with_label_values(&[why, result]))
        };
        let fills = counters(
            "tollgate_cache_fills_total",
            "Answers that were to be kept: stored, or why not",
            &["result"],
        )?;
        let bypassed = counters(
            "tollgate_cache_bypass_total",
            "Requests of routes with a cache that have nothing to do with it, by the reason",
            &["reason"],
        )?;
        let not_kept = counters(
            "tollgate_cache_not_kept_total",
            "Answers of the origin that may not be kept, by the reason",
            &["reason"],
        )?;
        Ok(Self(Arc::new(Series {
            asked: Asked::new(&requests),
            bypassed: Words::of(bypassed),
            not_kept: Words::of(not_kept),
            fills: Words::of(fills),
            refreshes: [refreshes(false), refreshes(true)],
            invalidations: counters(
                "tollgate_cache_invalidations_total",
                "What was made invalid: all, url, prefix, tag, user, api, route; and who said it: admin, unsafe_method, redis, \
                 control_plane",
                &["kind", "source"],
            )?,
            entries: gauge("tollgate_cache_entries", "Answers that are kept in memory")?,
            bytes: gauge("tollgate_cache_bytes", "Memory that they need")?,
            budget_bytes: gauge("tollgate_cache_budget_bytes", "Memory that they may need")?,
            filling_bytes: gauge(
                "tollgate_cache_filling_bytes",
                "Memory of answers that are just arriving",
            )?,
            dropped: Words::of(counters(
                "tollgate_cache_dropped_total",
                "Answers that are not kept any more: past every use, or made invalid",
                &["reason"],
            )?),
            evictions: register(
                registry,
                IntCounter::new(
                    "tollgate_cache_evictions_total",
                    "Answers that were given up to make room for others",
                )?,
            )?,
        })))
    }

    /// Counts a request that may be answered from the cache.
    pub fn asked(&self, tier: Tier, outcome: Outcome) {
        self.0.asked.get(tier, outcome).inc();
    }

    /// Counts a request that has nothing to do with the cache although its route has one.
    pub fn bypassed(&self, reason: &'static str) {
        self.0.bypassed.get(reason).inc();
    }

    /// Counts an answer that may not be kept.
    pub fn not_kept(&self, reason: &'static str) {
        self.0.not_kept.get(reason).inc();
    }

    /// Counts an answer that was to be kept: `stored`, or the reason why it is not.
    pub fn filled(&self, result: &'static str) {
        self.0.fills.get(result).inc();
    }

    /// Counts an answer that was fetched anew in the background.
    pub fn refreshed(&self, why: &'static str, done: bool) {
        self.0.refreshes[usize::from(done)].get(why).inc();
    }

    /// Counts what was made invalid. Looks its series up: not for every request.
    pub fn invalidated(&self, kind: &'static str, source: &'static str) {
        self.0.invalidations.with_label_values(&[kind, source]).inc();
    }

    /// The counter of answers that were to be kept, by what came of it.
    #[must_use]
    pub fn fills(&self, result: &'static str) -> &IntCounter {
        self.0.fills.get(result)
    }

    /// The counter of answers that are not kept any more, by the reason.
    #[must_use]
    pub fn dropped(&self, reason: &'static str) -> &IntCounter {
        self.0.dropped.get(reason)
    }

    /// How much memory answers need that are just arriving.
    #[must_use]
    pub fn filling_bytes(&self) -> &IntGauge {
        &self.0.filling_bytes
    }

    /// How many answers are kept in memory.
    #[must_use]
    pub fn entries(&self) -> &IntGauge {
        &self.0.entries
    }

    /// How much memory they need.
    #[must_use]
    pub fn bytes(&self) -> &IntGauge {
        &self.0.bytes
    }

    /// How much they may need.
    #[must_use]
    pub fn budget_bytes(&self) -> &IntGauge {
        &self.0.budget_bytes
    }

    /// How many were given up to make room.
    #[must_use]
    pub fn evictions(&self) -> &IntCounter {
        &self.0.evictions
    }

    /// What was done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            evictions: self.0.evictions.get(),
            ..Totals::default()
        };
        for tier in Tier::ALL {
            for outcome in Outcome::ALL {
                let count = self.0.asked.get(tier, outcome).get();
                totals.asked += count;
                totals.hits += if outcome.is_hit() { count } else { 0 };
            }
        }
        totals
    }
}

/// Counters by tier and outcome.
struct Asked([[IntCounter; Outcome::ALL.len()]; Tier::ALL.len()]);

impl Asked {
    fn new(requests: &IntCounterVec) -> Self {
        let of = |tier: Tier, outcome: Outcome| requests.with_label_values(&[tier.as_str(), outcome.as_str()]);
        Self(Tier::ALL.map(|tier| Outcome::ALL.map(|outcome| of(tier, outcome))))
    }

    fn get(&self, tier: Tier, outcome: Outcome) -> &IntCounter {
        &self.0[tier as usize][outcome as usize]
    }
}

/// So many words have a counter of their own; there are fewer.
const WORDS: usize = 32;

/// Counters by a word of this build, each looked up by its label once. There is no list of all words here: it would be a
/// second one, beside the enumerations whose words they are.
struct Words {
    make: Box<dyn Fn(&str) -> IntCounter + Send + Sync>,
    known: [OnceLock<(&'static str, IntCounter)>; WORDS],
    others: OnceLock<IntCounter>,
}

impl Words {
    fn of(counters: IntCounterVec) -> Self {
        Self::new(move |word| counters.with_label_values(&[word]))
    }

    fn new(make: impl Fn(&str) -> IntCounter + Send + Sync + 'static) -> Self {
        Self {
            make: Box::new(make),
            known: std::array::from_fn(|_| OnceLock::new()),
            others: OnceLock::new(),
        }
    }

    fn get(&self, word: &'static str) -> &IntCounter {
        for slot in &self.known {
            let (known, counter) = slot.get_or_init(|| (word, (self.make)(word)));
            if *known == word {
                return counter;
            }
        }
        self.others.get_or_init(|| (self.make)("other"))
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn shown(registry: &Registry) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn each_thing_is_counted_under_its_own_words() {
        let registry = Registry::new();
        let metrics = CacheMetrics::new(&registry).unwrap();
        for tier in Tier::ALL {
            for outcome in Outcome::ALL {
                metrics.asked(tier, outcome);
            }
        }
        metrics.asked(Tier::Memory, Outcome::Hit);
        metrics.bypassed("method");
        metrics.bypassed("grpc");
        metrics.bypassed("method");
        metrics.not_kept("no_store");
        metrics.filled("stored");
        metrics.refreshed("stale", true);
        metrics.refreshed("stale", false);
        metrics.refreshed("stale", false);
        metrics.invalidated("tag", "admin");
        metrics.entries().set(3);
        let text = shown(&registry);
        for line in [
            "tollgate_cache_requests_total{result=\"hit\",tier=\"memory\"} 2",
            "tollgate_cache_requests_total{result=\"not_kept\",tier=\"none\"} 1",
            "tollgate_cache_requests_total{result=\"revalidated\",tier=\"redis\"} 1",
            "tollgate_cache_bypass_total{reason=\"method\"} 2",
            "tollgate_cache_bypass_total{reason=\"grpc\"} 1",
            "tollgate_cache_not_kept_total{reason=\"no_store\"} 1",
            "tollgate_cache_fills_total{result=\"stored\"} 1",
            "tollgate_cache_refreshes_total{result=\"done\",why=\"stale\"} 1",
            "tollgate_cache_refreshes_total{result=\"failed\",why=\"stale\"} 2",
            "tollgate_cache_invalidations_total{kind=\"tag\",source=\"admin\"} 1",
            "tollgate_cache_entries 3",
            "tollgate_cache_evictions_total 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        let totals = metrics.totals();
        assert_eq!((totals.asked, totals.hits), (22, 10));
    }

    #[test]
    fn words_beyond_the_bound_are_counted_together() {
        let registry = Registry::new();
        let counters = IntCounterVec::new(Opts::new("words", "Words"), &["word"]).unwrap();
        registry.register(Box::new(counters.clone())).unwrap();
        let words = Words::of(counters);
        for number in 0..WORDS + 5 {
            words.get(Box::leak(number.to_string().into_boxed_str())).inc();
        }
        let text = shown(&registry);
        assert!(text.contains("words{word=\"0\"} 1"), "{text}");
        assert!(text.contains("words{word=\"other\"} 5"), "{text}");
    }
}
