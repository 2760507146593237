//! Limits that are strict although an overrun is allowed: their size, shared out among all gateways, leaves none of them
//! credit for even one request. A cold request then waits for Redis. Nothing is wrong with that, but nobody wrote it.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::document::{Mistake, Place, Severity};
use crate::revision::{Limit, Loaded, Mode};
use crate::server::sharing;
use crate::throttle::counter::Quota;
use crate::throttle::terms::Terms;
use crate::units::Ratio;

/// Limits that are named; of more only how many there are.
const NAMED: usize = 5;

/// One warning for each overrun that is too small for some limits.
pub fn findings(config: &Config, loaded: &Loaded) -> Vec<Mistake> {
    if config.redis.is_none() {
        return Vec::new();
    }
    let defaults = sharing::defaults(config);
    let instances = config.throttle.instances;
    let mut strict: BTreeMap<Ratio, Vec<String>> = BTreeMap::new();
    for (name, limit) in limits(loaded) {
        // What a limit is called in Redis makes no difference here. Nobody waits for a limit in shadow mode.
        let terms = Terms::new([0; 8], Quota::new(limit.rate, limit.window), limit.sharing, &defaults);
        if limit.mode == Mode::Enforce && terms.max_overrun > Ratio::ZERO && terms.credit(instances) == 0 {
            strict.entry(terms.max_overrun).or_default().push(name);
        }
    }
    let told = strict
        .into_iter()
        .map(|(overrun, names)| told(overrun, &names, instances, config));
    told.map(|text| loaded.source.mistake(Place::default(), Severity::Warning, text))
        .collect()
}

fn told(overrun: Ratio, names: &[String], instances: u32, config: &Config) -> String {
    let mut list: Vec<String> = names.iter().take(NAMED).cloned().collect();
    if names.len() > NAMED {
        list.push(format!("{} more", names.len() - NAMED));
    }
    // The smallest limit of which the allowed part is a request for each gateway.
    let smallest = (u64::from(instances) * 1_000_000).div_ceil(u64::from(overrun.parts_per_million().max(1)));
    format!(
        "{overrun} of these limits is less than one request for each of {instances} gateways, so that they are strict and \
         a cold request waits up to {:?} for Redis: {}; from {smallest} on there is credit",
        config.throttle.max_wait,
        list.join(", "),
    )
}

/// Every limit with its name.
fn limits(loaded: &Loaded) -> impl Iterator<Item = (String, &Limit)> {
    let revision = &loaded.revision;
    let of_plans = revision.plans.iter().flat_map(|plan| {
        let named = plan.limits.iter();
        named.map(move |limit| (format!("plan/{}/{}", plan.name, limit.name), limit))
    });
    let of_apis = revision.apis.iter().flat_map(|api| {
        let named = api.limits.iter();
        named.map(move |limit| (format!("api/{}/{}", api.name, limit.name), limit))
    });
    of_plans.chain(of_apis)
}
