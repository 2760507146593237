//! From raw to resolved: every reference exists, every default is filled in, every mistake is reported.
//!
//! Each step gives `None` only after it has reported why, so that a revision without reported errors is
//! complete and its positions are the positions of the file.

mod api;
mod issuer;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::load::ApiPlaces;
use super::raw::{
    RawApplication, RawBalance, RawEndpoint, RawKey, RawKeyType, RawLimit, RawMode, RawPlan, RawRetries, RawRevision,
    RawScope, RawSubscription, RawUpstream, RawUpstreamTimeouts, RawWindow,
};
use super::{
    Application, Endpoint, Key, KeyType, Limit, Mode, Plan, Revision, Scope, Subscription, Upstream, UpstreamTimeouts,
    WindowKind,
};
use crate::document::{At, Dropped, Name, NotAvailable, Place, Report, Text, did_you_mean, quote};
use crate::names::LimitName;
use crate::units::{Period, Rate};

/// The longest deadline that makes sense to anybody; it also keeps sums of durations far from overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The largest count of a sliding window, whose estimate multiplies counts in 32 bits' worth of precision.
const LARGEST_SLIDING: u32 = 16_777_215;

/// What the checks need to know besides the file.
pub(super) struct Surroundings<'a> {
    /// Where the file is, for what it refers to.
    pub(super) directory: &'a Path,
    /// When keys are compared with their expiry.
    pub(super) now: Timestamp,
}

/// Resolves a revision whose outermost mapping is at `place`. What is wrong goes to the report.
pub(super) fn resolve(
    raw: RawRevision,
    place: Place,
    surroundings: &Surroundings<'_>,
    dropped: &Dropped,
    report: &mut Report,
) -> (Revision, Vec<ApiPlaces>) {
    let mut checker = Checker {
        place,
        surroundings,
        dropped,
        report,
    };
    checker.revision(raw)
}

struct Checker<'a> {
    place: Place,
    surroundings: &'a Surroundings<'a>,
    dropped: &'a Dropped,
    report: &'a mut Report,
}

/// The names of one list and their positions in it.
struct Names<'r> {
    noun: &'static str,
    positions: HashMap<&'r str, usize>,
    /// False when the list itself could not be read; then nothing can be said about a reference into it.
    known: bool,
}

impl Checker<'_> {
    fn revision(&mut self, raw: RawRevision) -> (Revision, Vec<ApiPlaces>) {
        let RawRevision {
            version,
            upstreams,
            issuers,
            plans,
            apis,
            applications,
            cache: NotAvailable,
            tls: NotAvailable,
        } = raw;
        if let Some(version) = self.need(self.place, "the file", "version", version.as_ref())
            && version.value != 1
        {
            let message = format!("this build reads version 1 of the format, not {}", version.value);
            self.report.error(version.place, message);
        }
        let upstream_names = self.names("upstream", "upstreams", upstreams.iter().map(|raw| raw.name.as_ref()));
        let issuer_names = self.names("issuer", "issuers", issuers.iter().map(|raw| raw.name.as_ref()));
        let plan_names = self.names("plan", "plans", plans.iter().map(|raw| raw.name.as_ref()));
        let api_names = self.names("API", "apis", apis.iter().map(|raw| raw.name.as_ref()));
        self.names(
            "application",
            "applications",
            applications.iter().map(|raw| raw.name.as_ref()),
        );

        let mut places = Vec::with_capacity(apis.len());
        let mut resolved = Revision {
            digest: String::new(),
            upstreams: upstreams.iter().filter_map(|raw| self.upstream(raw)).collect(),
            issuers: issuers.iter().filter_map(|raw| self.issuer(raw)).collect(),
            plans: plans.iter().filter_map(|raw| self.plan(raw)).collect(),
            apis: Vec::with_capacity(apis.len()),
            applications: Vec::with_capacity(applications.len()),
        };
        let mut keys = KeysSeen::default();
        let mut subscribed = vec![false; apis.len()];
        for raw in &applications {
            let application = self.application(raw, &api_names, &plan_names, &mut keys, &mut subscribed);
            resolved.applications.extend(application);
        }
        for (raw, subscribed) in apis.iter().zip(subscribed) {
            if let Some((api, api_places)) = self.api(raw, &upstream_names, &issuer_names, subscribed) {
                resolved.apis.push(api);
                places.push(api_places);
            }
        }
        (resolved, places)
    }

    fn upstream(&mut self, raw: &At<RawUpstream>) -> Option<Upstream> {
        let RawUpstream {
            name,
            balance,
            endpoints,
            health_check: NotAvailable,
            timeouts,
            retries,
            cache: NotAvailable,
            tls: NotAvailable,
        } = &raw.value;
        let who = who("upstream", name.as_ref());
        let name = self.need(raw.place, &who, "name", name.as_ref());
        if let Some(balance) = balance {
            let other = match balance.value {
                RawBalance::RoundRobin => None,
                RawBalance::LeastConnections => Some("least_connections"),
                RawBalance::LeastResponseTime => Some("least_response_time"),
                RawBalance::ConsistentHash => Some("consistent_hash"),
                RawBalance::Random => Some("random"),
            };
            if let Some(other) = other {
                let message = format!("balance \"{other}\" is not available in this build; there is \"round_robin\"");
                self.report.error(balance.place, message);
            }
        }
        self.not_empty(raw.place, &who, "endpoints", endpoints);
        let mut resolved: Vec<Endpoint> = Vec::with_capacity(endpoints.len());
        for raw in endpoints {
            let Some(endpoint) = self.endpoint(raw, &who) else {
                continue;
            };
            let same = |other: &Endpoint| (&other.host, other.port) == (&endpoint.host, endpoint.port);
            if resolved.iter().any(same) {
                let message = format!("{who} has this endpoint twice; for a larger share, give it a weight");
                self.report.error(raw.place, message);
            }
            resolved.push(endpoint);
        }
        let attempts = retries.as_ref().and_then(|retries| {
            let RawRetries {
                attempts,
                budget: NotAvailable,
            } = retries;
            attempts.as_ref()
        });
        Some(Upstream {
            name: name?.as_str().into(),
            endpoints: resolved,
            timeouts: self.upstream_timeouts(timeouts.as_ref().unwrap_or(&RawUpstreamTimeouts::default())),
            attempts: self.in_range(attempts, "attempts", 1, 10, 2) as usize,
        })
    }

    fn endpoint(&mut self, raw: &At<RawEndpoint>, who: &str) -> Option<Endpoint> {
        let RawEndpoint {
            address,
            weight,
            zone: NotAvailable,
        } = &raw.value;
        let weight = self.in_range(weight.as_ref(), "weight", 1, 1000, 1);
        let who = format!("an endpoint of {who}");
        let address = self.need(raw.place, &who, "address", address.as_ref())?;
        Some(Endpoint {
            host: address.host.clone(),
            port: address.port,
            weight,
        })
    }

    fn upstream_timeouts(&mut self, raw: &RawUpstreamTimeouts) -> UpstreamTimeouts {
        let RawUpstreamTimeouts {
            connect,
            read,
            write,
            idle,
        } = raw;
        UpstreamTimeouts {
            connect: self.timeout(connect.as_ref(), "connect", 5),
            read: self.timeout(read.as_ref(), "read", 30),
            write: self.timeout(write.as_ref(), "write", 30),
            idle: self.timeout(idle.as_ref(), "idle", 50),
        }
    }

    fn timeout(&mut self, raw: Option<&At<Text<Duration>>>, key: &str, default_seconds: u64) -> Duration {
        let Some(raw) = raw else {
            return Duration::from_secs(default_seconds);
        };
        if raw.is_zero() || *raw.get() > LONGEST_TIMEOUT {
            let message = format!(
                "the timeout {} has to be longer than nothing and at most 1d",
                quote(key)
            );
            self.report.error(raw.place, message);
        }
        *raw.get()
    }

    fn plan(&mut self, raw: &At<RawPlan>) -> Option<Plan> {
        let RawPlan { name, limits } = &raw.value;
        let who = who("plan", name.as_ref());
        let name = self.need(raw.place, &who, "name", name.as_ref());
        if limits.is_none() && !self.dropped.contains(raw.place, "limits") {
            let message = format!("{who} has no \"limits\"; write limits: [] if it is meant to be unlimited");
            self.report.error(raw.place, message);
        }
        let limits = self.limits(limits.as_deref().unwrap_or_default(), &who, Scope::Subscription);
        Some(Plan {
            name: name?.as_str().into(),
            limits,
        })
    }

    fn limits(&mut self, raws: &[At<RawLimit>], who: &str, default_scope: Scope) -> Vec<Limit> {
        let mut limits: Vec<Limit> = Vec::with_capacity(raws.len());
        for raw in raws {
            let Some(limit) = self.limit(raw, who, default_scope) else {
                continue;
            };
            if limits.iter().any(|other| other.name == limit.name) {
                let message = format!("{who} has two limits {}", quote(limit.name.as_str()));
                self.report.error(raw.place, message);
            }
            limits.push(limit);
        }
        limits
    }

    fn limit(&mut self, raw: &At<RawLimit>, who: &str, default_scope: Scope) -> Option<Limit> {
        let RawLimit {
            name,
            rate,
            burst,
            window,
            per,
            mode,
        } = &raw.value;
        let whose = format!("a limit of {who}");
        let name = self.need(raw.place, &whose, "name", name.as_ref());
        let rate = self.need(raw.place, &whose, "rate", rate.as_ref());
        let window = self.window(*rate?.get(), rate?.place, window.as_ref(), burst.as_ref());
        Some(Limit {
            name: LimitName::from(name?.as_str()),
            rate: *rate?.get(),
            window,
            scope: per.as_ref().map_or(default_scope, |per| scope(per.value)),
            mode: match mode.unwrap_or(RawMode::Enforce) {
                RawMode::Enforce => Mode::Enforce,
                RawMode::Shadow => Mode::Shadow,
            },
        })
    }

    fn window(
        &mut self,
        rate: Rate,
        rate_place: Place,
        window: Option<&At<RawWindow>>,
        burst: Option<&At<u32>>,
    ) -> WindowKind {
        let kind = match (window.map(|window| window.value), rate.period) {
            (Some(kind), _) => kind,
            (None, Period::Second) => RawWindow::TokenBucket,
            (None, _) => RawWindow::Fixed,
        };
        if let Some(burst) = burst {
            if kind != RawWindow::TokenBucket {
                let message = "\"burst\" belongs to token buckets; add window: token_bucket or remove it \
                               (only rates per second are token buckets of themselves)";
                self.report.error(burst.place, message);
            } else if burst.value == 0 {
                self.report
                    .error(burst.place, "a burst of 0 lets nothing through; it is at least 1");
            }
        }
        match kind {
            RawWindow::Fixed => WindowKind::Fixed,
            RawWindow::Sliding => {
                if rate.count > LARGEST_SLIDING {
                    let message = format!("a sliding window counts to at most {LARGEST_SLIDING}; {rate} is more");
                    self.report.error(rate_place, message);
                }
                WindowKind::Sliding
            }
            RawWindow::TokenBucket => WindowKind::TokenBucket {
                burst: burst.map_or(rate.count, |burst| burst.value),
            },
        }
    }

    fn application(
        &mut self,
        raw: &At<RawApplication>,
        apis: &Names<'_>,
        plans: &Names<'_>,
        keys_seen: &mut KeysSeen,
        subscribed: &mut [bool],
    ) -> Option<Application> {
        let RawApplication {
            name,
            subscriptions,
            keys,
        } = &raw.value;
        let who = who("application", name.as_ref());
        let name = self.need(raw.place, &who, "name", name.as_ref());
        let mut resolved = Vec::with_capacity(subscriptions.len());
        let mut lines: HashMap<usize, u32> = HashMap::with_capacity(subscriptions.len());
        for raw in subscriptions {
            let Some(subscription) = self.subscription(raw, &who, apis, plans) else {
                continue;
            };
            if let Some(line) = lines.insert(subscription.api, raw.place.line) {
                let message = format!("{who} is subscribed to this API already in line {line}");
                self.report.error(raw.place, message);
            }
            if let Some(subscribed) = subscribed.get_mut(subscription.api) {
                *subscribed = true;
            }
            resolved.push(subscription);
        }
        let keys = keys.iter().filter_map(|raw| self.key(raw, &who, keys_seen)).collect();
        Some(Application {
            name: name?.as_str().into(),
            subscriptions: resolved,
            keys,
        })
    }

    fn subscription(
        &mut self,
        raw: &At<RawSubscription>,
        who: &str,
        apis: &Names<'_>,
        plans: &Names<'_>,
    ) -> Option<Subscription> {
        let RawSubscription { api, plan } = &raw.value;
        let whose = format!("a subscription of {who}");
        let api = self.need(raw.place, &whose, "api", api.as_ref());
        let plan = self.need(raw.place, &whose, "plan", plan.as_ref());
        let api = api.and_then(|api| self.look_up(apis, who, api));
        let plan = plan.and_then(|plan| self.look_up(plans, who, plan));
        Some(Subscription { api: api?, plan: plan? })
    }

    fn key(&mut self, raw: &At<RawKey>, who: &str, seen: &mut KeysSeen) -> Option<Key> {
        let RawKey {
            id,
            sha256,
            key_type,
            expires,
        } = &raw.value;
        let whose = format!("a key of {who}");
        let id = self.need(raw.place, &whose, "id", id.as_ref());
        let sha256 = self.need(raw.place, &whose, "sha256", sha256.as_ref());
        if let Some(id) = id
            && let Some(line) = seen.ids.insert(id.as_str().to_owned(), id.place.line)
        {
            let message = format!(
                "key {} is defined twice; the first is in line {line}",
                quote(id.as_str())
            );
            self.report.error(id.place, message);
        }
        if let Some(hash) = sha256
            && let Some(line) = seen.hashes.insert(hash.get().0, hash.place.line)
        {
            let message =
                format!("{whose} has the same hash as the key in line {line}; a key belongs to one application");
            self.report.error(hash.place, message);
        }
        if let Some(expires) = expires
            && expires.get().0 <= self.surroundings.now
        {
            let message = format!(
                "{whose} expired at {} and is refused; remove the record when it is no longer in use",
                expires.get().0
            );
            self.report.warning(expires.place, message);
        }
        Some(Key {
            id: id?.as_str().into(),
            sha256: sha256?.get().0,
            key_type: match key_type.unwrap_or(RawKeyType::Production) {
                RawKeyType::Production => KeyType::Production,
                RawKeyType::Sandbox => KeyType::Sandbox,
            },
            expires: expires.map(|expires| expires.get().0),
        })
    }

    /// A value that has to be there. One that was there and has been reported is not reported as missing.
    fn need<'r, T>(&mut self, item: Place, who: &str, key: &str, value: Option<&'r At<T>>) -> Option<&'r At<T>> {
        if value.is_none() && !self.dropped.contains(item, key) {
            self.report.error(item, format!("{who} has no {}", quote(key)));
        }
        value
    }

    /// A list that has to have an item.
    fn not_empty<T>(&mut self, item: Place, who: &str, key: &str, list: &[T]) {
        if list.is_empty() && !self.dropped.contains(item, key) {
            let message = format!("{who} has no {}; it needs at least one", quote(key));
            self.report.error(item, message);
        }
    }

    fn in_range(&mut self, value: Option<&At<u32>>, key: &str, least: u32, most: u32, default: u32) -> u32 {
        let Some(value) = value else {
            return default;
        };
        if !(least..=most).contains(&value.value) {
            let message = format!("{} has to be from {least} to {most}, not {}", quote(key), value.value);
            self.report.error(value.place, message);
        }
        value.value
    }

    /// Collects the names of a list and reports those that are there twice.
    fn names<'r>(
        &mut self,
        noun: &'static str,
        list: &str,
        names: impl Iterator<Item = Option<&'r At<Text<Name>>>>,
    ) -> Names<'r> {
        let mut positions = HashMap::new();
        let mut lines: HashMap<&str, u32> = HashMap::new();
        for (position, name) in names.enumerate() {
            let Some(name) = name else {
                continue;
            };
            if let Some(line) = lines.get(name.as_str()) {
                let message = format!(
                    "{noun} {} is defined twice; the first is in line {line}",
                    quote(name.as_str())
                );
                self.report.error(name.place, message);
                continue;
            }
            lines.insert(name.as_str(), name.place.line);
            positions.insert(name.as_str(), position);
        }
        Names {
            noun,
            positions,
            known: !self.dropped.contains(self.place, list),
        }
    }

    /// The position of what a name refers to.
    fn look_up(&mut self, names: &Names<'_>, who: &str, name: &At<Text<Name>>) -> Option<usize> {
        let found = names.positions.get(name.as_str()).copied();
        if found.is_none() && names.known {
            let mut candidates: Vec<&str> = names.positions.keys().copied().collect();
            candidates.sort_unstable();
            let meant = did_you_mean(name.as_str(), candidates);
            let message = format!("{who}: {} {} does not exist{meant}", names.noun, quote(name.as_str()));
            self.report.error(name.place, message);
        }
        found
    }
}

/// The keys of all applications so far, with their lines.
#[derive(Default)]
struct KeysSeen {
    ids: HashMap<String, u32>,
    hashes: HashMap<[u8; 32], u32>,
}

/// `api "orders"`, or `an API` as long as it has no name.
fn who(noun: &str, name: Option<&At<Text<Name>>>) -> String {
    match name {
        Some(name) => format!("{noun} {}", quote(name.as_str())),
        None if noun.starts_with(['a', 'i', 'u', 'A']) => format!("an {noun}"),
        None => format!("a {noun}"),
    }
}

fn scope(raw: RawScope) -> Scope {
    match raw {
        RawScope::Global => Scope::Global,
        RawScope::Api => Scope::Api,
        RawScope::Route => Scope::Route,
        RawScope::Application => Scope::Application,
        RawScope::Subscription => Scope::Subscription,
        RawScope::Key => Scope::Key,
        RawScope::Subject => Scope::Subject,
        RawScope::Ip => Scope::Ip,
    }
}
