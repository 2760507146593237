//! From raw to resolved: every reference exists, every default is filled in, every mistake is reported.
//!
//! Each step gives `None` only after it has reported why, so that a revision without reported errors is
//! complete and its positions are the positions of the file.

mod action;
mod api;
mod caching;
mod certificate;
mod destination;
mod edits;
mod issuer;
mod limit;
mod upstream;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::grammar::Expiry;
use super::load::ApiPlaces;
use super::raw::{RawApplication, RawIssuer, RawKey, RawKeyType, RawRevision, RawSubscription};
use super::{Application, AuthMethod, Key, KeyType, Revision, Subscription};
use crate::document::{At, Dropped, Name, NotAvailable, Place, Report, Text, did_you_mean, quote};
use crate::san::San;

/// The longest deadline that makes sense to anybody; it also keeps sums of durations far from overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// What the checks need to know besides the file.
pub(super) struct Surroundings<'a> {
    /// Where the file is, for what it refers to; none if it is going to be somewhere else.
    pub(super) directory: Option<&'a Path>,
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
    /// In the order of the file, so that the same name is suggested every time.
    in_order: Vec<&'r str>,
    /// False when the list itself could not be read; then nothing can be said about a reference into it.
    known: bool,
}

/// The names of issuers, and which of them are asked about their tokens.
struct Issuers<'r> {
    names: Names<'r>,
    /// By position in the file: the way in that the issuer is, with its position among its like.
    methods: Vec<AuthMethod>,
}

impl<'r> Issuers<'r> {
    fn new(names: Names<'r>, raws: &[At<RawIssuer>]) -> Self {
        let (mut issuers, mut introspectors) = (0_usize.., 0_usize..);
        let methods = raws
            .iter()
            .filter_map(|raw| match raw.introspection {
                None => issuers.next().map(AuthMethod::Jwt),
                Some(_) => introspectors.next().map(AuthMethod::Introspection),
            })
            .collect();
        Self { names, methods }
    }
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
            introspectors: issuers.iter().filter_map(|raw| self.introspector(raw)).collect(),
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
        let issuers = Issuers::new(issuer_names, &issuers);
        for (raw, subscribed) in apis.iter().zip(subscribed) {
            if let Some((api, api_places)) = self.api(raw, &upstream_names, &issuers, subscribed) {
                resolved.apis.push(api);
                places.push(api_places);
            }
        }
        (resolved, places)
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
            certificates,
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
        let certificates = certificates.iter();
        let certificates = certificates.filter_map(|raw| self.certificate(raw, &who, keys_seen));
        Some(Application {
            name: name?.as_str().into(),
            subscriptions: resolved,
            keys,
            certificates: certificates.collect(),
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
        Some(Key {
            id: id?.as_str().into(),
            sha256: sha256?.get().0,
            key_type: resolved_type(*key_type),
            expires: self.expiry(expires.as_ref(), &whose),
        })
    }

    /// Until when a credential is good; says so if that is over.
    fn expiry(&mut self, raw: Option<&At<Text<Expiry>>>, whose: &str) -> Option<Timestamp> {
        let raw = raw?;
        let expires = raw.get().0;
        if expires <= self.surroundings.now {
            let message =
                format!("{whose} expired at {expires} and is refused; remove the record when it is no longer in use");
            self.report.warning(raw.place, message);
        }
        Some(expires)
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
        let mut in_order = Vec::new();
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
            in_order.push(name.as_str());
        }
        Names {
            noun,
            positions,
            in_order,
            known: !self.dropped.contains(self.place, list),
        }
    }

    /// The position of what a name refers to.
    fn look_up(&mut self, names: &Names<'_>, who: &str, name: &At<Text<Name>>) -> Option<usize> {
        let found = names.positions.get(name.as_str()).copied();
        // Looking for what was meant costs more than anything else here, so not for what is not shown.
        if found.is_none() && names.known && !self.report.is_full() {
            let meant = did_you_mean(name.as_str(), names.in_order.iter().copied());
            let message = format!("{who}: {} {} does not exist{meant}", names.noun, quote(name.as_str()));
            self.report.error(name.place, message);
        }
        found
    }
}

/// The keys and certificates of all applications so far, with their lines.
#[derive(Default)]
struct KeysSeen {
    ids: HashMap<String, u32>,
    hashes: HashMap<[u8; 32], u32>,
    /// Names in certificates.
    names: HashMap<San, u32>,
}

/// What a credential may be used for; for real traffic unless it says otherwise.
fn resolved_type(raw: Option<RawKeyType>) -> KeyType {
    match raw.unwrap_or(RawKeyType::Production) {
        RawKeyType::Production => KeyType::Production,
        RawKeyType::Sandbox => KeyType::Sandbox,
    }
}

/// `api "orders"`, or `an API` as long as it has no name.
fn who(noun: &str, name: Option<&At<Text<Name>>>) -> String {
    match name {
        Some(name) => format!("{noun} {}", quote(name.as_str())),
        None if noun.starts_with(['a', 'i', 'u', 'A']) => format!("an {noun}"),
        None => format!("a {noun}"),
    }
}
