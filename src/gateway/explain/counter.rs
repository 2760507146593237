//! One counter, as an operator sees it.

use serde::Serialize;

use crate::gateway::counter_name::{self, NotFound};
use crate::redis::Health;
use crate::snapshot::Snapshot;
use crate::throttle::explain::{LeaseFacts, SharingFacts};
use crate::throttle::{Rule, Throttle, Time};
use crate::units::Rate;

/// How a counter stands.
#[derive(Debug, Serialize)]
pub struct CounterFacts {
    /// Its name, with the window of now.
    pub counter: String,
    /// What it counts up to.
    pub limit: CountedLimit,
    /// What is left, as far as this process knows.
    pub remaining: u32,
    /// Seconds until there is more.
    pub reset_seconds: u64,
    /// Whether gateways share it; else this process counts alone.
    pub shared: bool,
    /// How they do.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<SharedFacts>,
    /// What this gateway holds of a shared one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<HeldFacts>,
}

/// A limit in numbers.
#[derive(Debug, Serialize)]
pub struct CountedLimit {
    /// How many requests.
    pub count: u32,
    /// In which time.
    pub period: &'static str,
    /// `fixed`, `sliding` or `token_bucket`.
    pub window: &'static str,
    /// How many may come at once, for a token bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// What shares one counter.
    pub per: &'static str,
    /// Whether it refuses (`enforce`) or only counts (`shadow`).
    pub mode: &'static str,
    /// The time zone of its days, weeks and months, if it is not UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<&'static str>,
}

/// How gateways share a counter.
#[derive(Debug, Serialize)]
pub struct SharedFacts {
    /// Where it is kept.
    pub store: StoreFacts,
    /// What all gateways together admit at most.
    pub bound: BoundFacts,
    /// What happens while the store is away: `share`, `deny` or `allow`.
    pub when_store_is_away: &'static str,
    /// What happens to a request that has waited for the store as long as it may: the same words.
    pub on_timeout: &'static str,
    /// After how long what was admitted on credit is charged at the latest.
    pub flush_after_seconds: u64,
}

/// Where a shared counter is kept.
#[derive(Debug, Serialize)]
pub struct StoreFacts {
    /// Its key in Redis.
    pub key: String,
    /// The server that has it; absent if none has, or if none is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How that server is: `up`, `slow` or `down`; absent if none is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<&'static str>,
}

/// What all gateways together admit at most, as long as Redis answers.
#[derive(Debug, Serialize)]
pub struct BoundFacts {
    /// What may be spent in a window, or at once from a bucket.
    pub limit: u32,
    /// How many gateways share it at most.
    pub instances: u32,
    /// What was allowed beyond the limit, as a part of it.
    pub max_overrun: String,
    /// What each gateway may admit before it has asked. Zero is strict.
    pub credit_per_gateway: u32,
    /// The most that comes of it: in a window; from a bucket at once.
    pub most: u64,
    /// How.
    pub formula: String,
}

/// What this gateway holds of a shared counter.
#[derive(Debug, Serialize)]
pub struct HeldFacts {
    /// What requests live on: `cold`, `leased`, `thin`, `spent`, `fallback` or `suspect`.
    pub state: &'static str,
    /// What may be spent without asking.
    pub held: u32,
    /// What was spent and not yet paid for.
    pub debt: u32,
    /// What this gateway has admitted in this window; absent for a bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spent_here: Option<u32>,
    /// The counter in Redis when it was last heard in this window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard: Option<u32>,
    /// What is asked for in a second, of late.
    pub pace_per_second: f64,
    /// What the requests cost that wait for Redis.
    pub waiting: u32,
    /// Whether Redis is being asked.
    pub order_under_way: bool,
}

/// How the counter with this name stands (see [`counter_name`]). Counts nothing and asks nobody.
///
/// # Errors
/// What of the name the snapshot does not have.
pub fn look(snapshot: &Snapshot, throttle: &Throttle, name: &str, now: Time) -> Result<CounterFacts, NotFound> {
    let found = counter_name::find(snapshot, name)?;
    let description = throttle.describe(&found.demand, found.subject_name, now);
    let sharing = description.sharing.as_ref();
    Ok(CounterFacts {
        limit: CountedLimit::of(found.demand.rule),
        remaining: description.remaining,
        reset_seconds: now.seconds_until(description.reset),
        shared: sharing.is_some(),
        sharing: sharing.map(|sharing| SharedFacts::of(sharing, description.rate)),
        lease: sharing.map(|sharing| HeldFacts::of(&sharing.lease)),
        counter: description.key,
    })
}

impl CountedLimit {
    fn of(rule: &Rule) -> Self {
        Self {
            count: rule.rate().count,
            period: rule.period_word(),
            window: rule.window_word(),
            burst: (!rule.quota().shape().has_windows()).then(|| rule.quota().whole()),
            per: rule.scope().as_str(),
            mode: super::mode(rule.enforced()),
            time_zone: rule.zone_name(),
        }
    }
}

impl SharedFacts {
    /// The facts about a limit of this rate.
    #[must_use]
    pub fn of(sharing: &SharingFacts, rate: Rate) -> Self {
        let promise = &sharing.promise;
        Self {
            store: StoreFacts {
                key: sharing.store_key.clone(),
                health: sharing.node.is_some().then(|| health(sharing.health)),
                node: sharing.node.clone(),
            },
            bound: BoundFacts {
                limit: promise.limit,
                instances: promise.instances,
                max_overrun: promise.max_overrun.to_string(),
                credit_per_gateway: promise.credit,
                most: promise.most,
                formula: promise.formula(rate),
            },
            when_store_is_away: sharing.on_store_down.as_str(),
            on_timeout: sharing.on_timeout.as_str(),
            flush_after_seconds: sharing.flush_after.as_secs(),
        }
    }

    /// The same in sentences, for a terminal.
    #[must_use]
    pub fn sentences(&self) -> [String; 6] {
        let bound = &self.bound;
        let credit = match bound.credit_per_gateway {
            0 => "strict, so that a cold request waits for Redis".to_owned(),
            credit => format!("each may admit {credit} before it has asked"),
        };
        [
            format!("Redis key {}", self.store.key),
            format!(
                "shared by at most {} gateways, overrun {}: {credit}",
                bound.instances, bound.max_overrun
            ),
            format!("at most {}", bound.formula),
            format!(
                "what was admitted on credit is charged within {} s",
                self.flush_after_seconds
            ),
            format!("Redis away: {}", policy(self.when_store_is_away)),
            format!("Redis late: {}", policy(self.on_timeout)),
        ]
    }
}

impl HeldFacts {
    fn of(lease: &LeaseFacts) -> Self {
        Self {
            state: lease.state.as_str(),
            held: lease.held,
            debt: lease.debt,
            spent_here: lease.spent_here,
            heard: lease.heard,
            pace_per_second: (lease.pace_per_second * 100.0).round() / 100.0,
            waiting: lease.waiting,
            order_under_way: lease.order_under_way,
        }
    }
}

/// How a server is, in a word.
#[must_use]
pub fn health(health: Health) -> &'static str {
    match health {
        Health::Up => "up",
        Health::Slow => "slow",
        Health::Down => "down",
    }
}

fn policy(word: &'static str) -> &'static str {
    match word {
        "share" => "share (each gateway goes on within its part of what was left)",
        "deny" => "deny (refuses)",
        "allow" => "allow (lets everything through, and counts it afterwards)",
        other => other,
    }
}
