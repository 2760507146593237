//! Counters by their names, in both directions: what `explain` prints is what the admin listener finds again.
//!
//! A name is `plan/PLAN/LIMIT/SCOPE/SUBJECT/WINDOW`, or `api/API/LIMIT/SCOPE/SUBJECT/WINDOW`. A limit of one counter has
//! no subject, and a bucket no window. The names of plans, APIs, limits and applications may have slashes themselves,
//! and patterns of routes do: so a name is not cut at its slashes, but compared with what there is.

use std::net::IpAddr;

use crate::auth::{Caller, jwt};
use crate::document::{did_you_mean, quote};
use crate::names::IssuerName;
use crate::revision::Scope;
use crate::snapshot::{Api, Route, Snapshot, subject_of_token};
use crate::throttle::{Demand, Rule, Subject};

/// Before the public name of a key.
const KEY: &str = "key:";

/// Before the subject of a token.
const TOKEN: &str = "subject:";

/// The subject of a counter in words. Who lacks what a scope names is counted by the next thing he is known by, as in
/// [`Snapshot::demands`].
#[must_use]
pub fn subject_name(
    scope: Scope,
    snapshot: &Snapshot,
    (route, api): (&Route, &Api),
    caller: &Caller,
    client: IpAddr,
) -> String {
    let application = snapshot.application_of(caller).map(|(name, _)| name.to_string());
    let key = || caller.key_id().map(|id| format!("{KEY}{id}"));
    let token = || {
        let (subject, hash) = (caller.subject()?, caller.subject_hash()?);
        Some(format!("{TOKEN}{}", token_name(snapshot, subject, hash)))
    };
    let anyhow = || key().or_else(token).unwrap_or_else(|| client.to_string());
    match scope {
        Scope::Global => String::new(),
        Scope::Api => api.name.to_string(),
        Scope::Route => format!("{}{}", api.name, route.pattern),
        Scope::Application => application.unwrap_or_else(anyhow),
        Scope::Subscription => application.map_or_else(anyhow, |application| format!("{application}@{}", api.name)),
        Scope::Key => anyhow(),
        Scope::Subject => token().or_else(key).unwrap_or_else(|| client.to_string()),
        Scope::Ip => client.to_string(),
    }
}

/// A counter that was found by its name.
#[derive(Debug)]
pub struct Found<'a> {
    /// The limit, and for whom it counts.
    pub demand: Demand<'a>,
    /// The subject as it was named.
    pub subject_name: &'a str,
}

/// What is not there, and what was perhaps meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound(pub String);

/// The counter with this name, with or without its window. A window at the end is taken off whichever it is: a counter
/// shows the window of now.
///
/// # Errors
/// What of it the revision does not have.
pub fn find<'a>(snapshot: &'a Snapshot, name: &'a str) -> Result<Found<'a>, NotFound> {
    let mut candidates: Vec<(&Rule, Option<usize>, &str)> = rules(snapshot)
        .filter_map(|(api, rule)| Some((rule, api, after(name, rule.key())?)))
        .collect();
    // Of a plan "gold" and a plan "gold/minute", the one that explains more of the name.
    candidates.sort_by_key(|(rule, _, _)| std::cmp::Reverse(rule.key().len()));
    let mut missing = None;
    for (rule, api, rest) in candidates {
        // Without what looks like a window first: so every name with its window is found again.
        let calendar = rule.quota().shape().calendar();
        let without = Some(rest)
            .filter(|_| rule.quota().shape().has_windows())
            .and_then(|rest| calendar.before_stamp(rest));
        for subject_name in without.into_iter().chain([rest]) {
            match subject(snapshot, rule.scope(), api, subject_name) {
                Ok(subject) => {
                    return Ok(Found {
                        demand: Demand { rule, subject },
                        subject_name,
                    });
                }
                Err(error) => missing = missing.or(Some(error)),
            }
        }
    }
    Err(NotFound(missing.unwrap_or_else(|| missing_limit(snapshot, name))))
}

/// Every limit; with the index of its API if it is one's own.
fn rules(snapshot: &Snapshot) -> impl Iterator<Item = (Option<usize>, &Rule)> {
    let of_plans = snapshot
        .plans()
        .flat_map(|(_, rules)| rules.iter().map(|rule| (None, rule)));
    let of_apis = (snapshot.apis().iter().enumerate())
        .flat_map(|(index, api)| api.rules().iter().map(move |rule| (Some(index), rule)));
    of_plans.chain(of_apis)
}

/// The subject with this name, for a limit with this scope. `own` is the API that the limit belongs to, if it does.
fn subject(snapshot: &Snapshot, scope: Scope, own: Option<usize>, name: &str) -> Result<Subject, String> {
    match scope {
        Scope::Global if name.is_empty() => Ok(Subject::none()),
        Scope::Global => Err(format!("this limit has one counter for all; leave {} out", quote(name))),
        _ if name.is_empty() => Err(format!(
            "this limit counts per {}; say which one after it, as explain prints it",
            scope.as_str()
        )),
        Scope::Api => api_subject(snapshot, own, name),
        Scope::Route => route_subject(snapshot, own, name),
        Scope::Application => {
            let mut applications = snapshot.applications().iter();
            let found = applications.find(|application| application.name().as_str() == name);
            match found {
                Some(application) => Ok(application.subject()),
                None => {
                    by_credential_or_address(snapshot, name).unwrap_or_else(|| Err(missing_application(snapshot, name)))
                }
            }
        }
        Scope::Subscription => subscription_subject(snapshot, own, name),
        Scope::Key | Scope::Subject => by_credential_or_address(snapshot, name).unwrap_or_else(|| {
            Err(format!(
                "{} is nobody to count; write {KEY}ID, {TOKEN}NAME or an IP address",
                quote(name)
            ))
        }),
        Scope::Ip => name
            .parse()
            .map(Subject::of_ip)
            .map_err(|_| format!("{} is not an IP address; write 192.0.2.7 or 2001:db8::7", quote(name))),
    }
}

fn api_subject(snapshot: &Snapshot, own: Option<usize>, name: &str) -> Result<Subject, String> {
    let found = snapshot.apis().iter().position(|api| api.name.as_str() == name);
    match (found.and_then(|index| Some((index, snapshot.apis().get(index)?))), own) {
        (Some((index, api)), Some(own)) if index != own => Err(format!(
            "this limit is another API's, and never counts for {}",
            quote(api.name.as_str())
        )),
        (Some((_, api)), _) => Ok(api.subject()),
        (None, _) => Err(missing_api(snapshot, name)),
    }
}

fn route_subject(snapshot: &Snapshot, own: Option<usize>, name: &str) -> Result<Subject, String> {
    let patterns = |api: usize| {
        let routes = snapshot.routes().iter().filter(move |route| route.api == api);
        routes.map(|route| (route, route.pattern.as_ref()))
    };
    let mut missing = None;
    for (index, api) in snapshot.apis().iter().enumerate() {
        if own.is_some_and(|own| own != index) {
            continue;
        }
        let Some(pattern) = name
            .strip_prefix(api.name.as_str())
            .filter(|rest| rest.starts_with('/'))
        else {
            continue;
        };
        if let Some((route, _)) = patterns(index).find(|(_, known)| *known == pattern) {
            return Ok(route.subject());
        }
        missing = Some(format!(
            "api {} has no route {}{}",
            quote(api.name.as_str()),
            quote(pattern),
            did_you_mean(pattern, patterns(index).map(|(_, known)| known))
        ));
    }
    Err(missing.unwrap_or_else(|| missing_api(snapshot, name.split('/').next().unwrap_or_default())))
}

fn subscription_subject(snapshot: &Snapshot, own: Option<usize>, name: &str) -> Result<Subject, String> {
    let mut missing = None;
    // An @ may be a part of either name.
    for (at, _) in name.match_indices('@') {
        let (Some(application_name), Some(api_name)) = (name.get(..at), name.get(at + 1..)) else {
            continue;
        };
        let mut applications = snapshot.applications().iter();
        let application = applications.find(|application| application.name().as_str() == application_name);
        let api = snapshot.apis().iter().position(|api| api.name.as_str() == api_name);
        missing = Some(match (application, api) {
            (None, _) => missing_application(snapshot, application_name),
            (Some(_), None) => missing_api(snapshot, api_name),
            (Some(_), Some(api)) if own.is_some_and(|own| own != api) => {
                format!("this limit is another API's, and never counts for {}", quote(api_name))
            }
            (Some(application), Some(api)) => match application.subscription(api) {
                Some(subject) => return Ok(subject),
                None => format!(
                    "application {} is not subscribed to api {}",
                    quote(application_name),
                    quote(api_name)
                ),
            },
        });
    }
    by_credential_or_address(snapshot, name).unwrap_or_else(|| {
        Err(missing.unwrap_or_else(|| {
            format!(
                "{} is no subscription; write it as application@api, such as mobile@orders",
                quote(name)
            )
        }))
    })
}

/// Who is known by a key, a token or an address. None if the name is of neither form.
fn by_credential_or_address(snapshot: &Snapshot, name: &str) -> Option<Result<Subject, String>> {
    if let Some(id) = name.strip_prefix(KEY) {
        return Some(snapshot.key_subject(id).ok_or_else(|| {
            let known = snapshot.authenticator().keys().iter().map(|record| record.id.as_str());
            format!("there is no key {}{}", quote(id), did_you_mean(id, known))
        }));
    }
    if let Some(token) = name.strip_prefix(TOKEN) {
        return Some(token_of_name(snapshot, token));
    }
    name.parse().ok().map(|address| Ok(Subject::of_ip(address)))
}

/// A subject as tokens name it. Where tokens of several issuers are taken, the issuer goes before it: two of them may
/// have a subject of the same name.
fn token_name(snapshot: &Snapshot, subject: &str, hash: u64) -> String {
    let issuers = distinct_issuers(snapshot);
    let mut its_own = issuers
        .iter()
        .filter(|(_, iss)| jwt::subject_hash(iss, subject) == hash);
    match its_own.next() {
        Some((issuer, _)) if issuers.len() > 1 => format!("{issuer}/{subject}"),
        _ => subject.to_owned(),
    }
}

/// The inverse of [`token_name`].
fn token_of_name(snapshot: &Snapshot, name: &str) -> Result<Subject, String> {
    let issuers = distinct_issuers(snapshot);
    match issuers.as_slice() {
        [] => Err("the revision has no issuer, so that no token is counted".to_owned()),
        [(_, iss)] => Ok(subject_of_token(iss, name)),
        several => {
            // Of an issuer "a" and an issuer "a/b", the one that explains more of the name.
            let mut own: Vec<(&str, &str)> = several
                .iter()
                .filter_map(|(issuer, iss)| Some((*iss, name.strip_prefix(issuer.as_str())?.strip_prefix('/')?)))
                .collect();
            own.sort_by_key(|(_, subject)| subject.len());
            match own.first() {
                Some((iss, subject)) => Ok(subject_of_token(iss, subject)),
                None => {
                    let names: Vec<String> = several.iter().map(|(issuer, _)| quote(issuer.as_str())).collect();
                    Err(format!(
                        "{} may be a subject of several issuers; write {TOKEN}ISSUER/{name} with one of {}",
                        quote(name),
                        names.join(", ")
                    ))
                }
            }
        }
    }
}

/// Issuers whose subjects are counted apart. Two entries with the same `iss` are one: the first one names it.
fn distinct_issuers(snapshot: &Snapshot) -> Vec<(&IssuerName, &str)> {
    let mut distinct: Vec<(&IssuerName, &str)> = Vec::new();
    for (name, iss) in snapshot.issuers() {
        if !distinct.iter().any(|(_, known)| *known == iss) {
            distinct.push((name, iss));
        }
    }
    distinct
}

/// Which part of the name of a limit is not there.
fn missing_limit(snapshot: &Snapshot, name: &str) -> String {
    let (kind, rest) = name.split_once('/').unwrap_or((name, ""));
    let owners: Vec<(&str, &[Rule])> = match kind {
        "plan" => snapshot.plans().map(|(name, rules)| (name.as_str(), rules)).collect(),
        "api" => (snapshot.apis().iter())
            .map(|api| (api.name.as_str(), api.rules()))
            .collect(),
        _ => {
            return format!(
                "the name of a counter begins with plan/ or api/, not with {}; explain prints the names",
                quote(kind)
            );
        }
    };
    let mut own: Vec<(&str, &[Rule], &str)> = owners
        .iter()
        .filter_map(|(owner, rules)| Some((*owner, *rules, after(rest, owner)?)))
        .collect();
    own.sort_by_key(|(owner, _, _)| std::cmp::Reverse(owner.len()));
    let Some((owner, rules, rest)) = own.first() else {
        let owner = rest.split('/').next().unwrap_or_default();
        let known = owners.iter().map(|(owner, _)| *owner);
        return format!("there is no {kind} {}{}", quote(owner), did_you_mean(owner, known));
    };
    let mut named = rules.iter().filter(|rule| after(rest, rule.name().as_str()).is_some());
    match named.next() {
        Some(rule) => format!(
            "limit {} of {kind} {} counts per {}; write {}/…",
            quote(rule.name().as_str()),
            quote(owner),
            rule.scope().as_str(),
            rule.key()
        ),
        None => {
            let limit = rest.split('/').next().unwrap_or_default();
            let known = rules.iter().map(|rule| rule.name().as_str());
            format!(
                "{kind} {} has no limit {}{}",
                quote(owner),
                quote(limit),
                did_you_mean(limit, known)
            )
        }
    }
}

fn missing_api(snapshot: &Snapshot, name: &str) -> String {
    let known = snapshot.apis().iter().map(|api| api.name.as_str());
    format!("there is no api {}{}", quote(name), did_you_mean(name, known))
}

fn missing_application(snapshot: &Snapshot, name: &str) -> String {
    let known = snapshot
        .applications()
        .iter()
        .map(|application| application.name().as_str());
    format!("there is no application {}{}", quote(name), did_you_mean(name, known))
}

/// What stands after a name and a slash; empty if nothing does. None if the text does not begin with the name.
fn after<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let rest = text.strip_prefix(name)?;
    if rest.is_empty() {
        Some(rest)
    } else {
        rest.strip_prefix('/')
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use http::{HeaderMap, HeaderValue, Method};
    use proptest::prelude::*;

    use super::*;
    use crate::auth::{Introspectors, KeySets, TokenCache};
    use crate::document::Environment;
    use crate::revision::{self, EnvironmentType};
    use crate::snapshot::Compiler;
    use crate::telemetry::Metrics;
    use crate::throttle::{Defaults, Throttle, Time};
    use crate::upstream::Registry;
    use crate::upstream::resolve::Names;

    const KEYS: [&str; 2] = [
        "tg_live_9DUcO5k07l1DQ3Z3IRBDgFo33qofXvMl0YnonD",
        "tg_test_LUsn5NnxKllRWWjU1lS9DBf8iyrjJfeV00PyIj",
    ];

    /// Names as awkward as names may be: with slashes, with @, like windows, like addresses.
    fn revision_text(issuers: &str) -> String {
        let every_scope = |more: &str| {
            let scopes = "global api route application subscription key subject ip".split(' ');
            let limits = scopes.map(|scope| format!("{{ name: \"per {scope}{more}\", rate: 9/m, per: {scope} }}"));
            limits.collect::<Vec<_>>().join(", ")
        };
        let hash = |key: &str| {
            let digest = crate::auth::key::digest(key).0;
            digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        format!(
            "version: 1
upstreams: [{{ name: o, endpoints: [{{ address: \"127.0.0.1:9\" }}] }}]
issuers: {issuers}
plans:
  - name: https://plans.example/gold
    limits: [{}, {{ name: burst, rate: 5/s, per: route }}, {{ name: day, rate: 5/d, time_zone: Europe/Berlin }}]
  - {{ name: gold, limits: [{}] }}
apis:
  - {{ name: open, base_path: /open, auth: none, upstream: o, limits: [{}], routes: [{{ path: / }}, {{ path: /2026-11 }}, {{ path: \"/{{id}}/*\" }}] }}
  - {{ name: a@b, base_path: /ab, auth: [api_key], upstream: o, limits: [{}, {{ name: m, rate: 7/month, per: route, window: sliding }}] }}
applications:
  - {{ name: mobile, subscriptions: [{{ api: a@b, plan: gold }}], keys: [{{ id: key/1, sha256: \"{}\" }}] }}
  - {{ name: x@y/z, subscriptions: [{{ api: a@b, plan: https://plans.example/gold }}], keys: [{{ id: \"192.0.2.7\", sha256: \"{}\" }}] }}
",
            every_scope(""),
            every_scope("/x"),
            every_scope(""),
            every_scope(""),
            hash(KEYS[0]),
            hash(KEYS[1]),
        )
    }

    fn snapshot(issuers: &str) -> Snapshot {
        let environment = Environment::fixed([], jiff::Timestamp::UNIX_EPOCH);
        let loaded = revision::parse(&revision_text(issuers), "r.yaml", Path::new(""), &environment);
        let compiler = Compiler {
            environment_type: EnvironmentType::Hybrid,
            labels: Vec::new(),
            key_sets: KeySets::offline(),
            tokens: Arc::new(TokenCache::new(1)),
            introspectors: Introspectors::offline(),
            key_store: None,
            names: Names::Leave,
            sharing: Defaults::default(),
            registry: Arc::new(Registry::new(None, Metrics::new().unwrap().upstreams().clone())),
            metrics: Arc::new(Metrics::new().unwrap()),
        };
        let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
        compiler
            .compile(loaded)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
            .0
    }

    fn issuer(name: &str, iss: &str) -> String {
        format!(
            "{{ name: \"{name}\", issuer: \"{iss}\", audience: [a], algorithms: [RS256], jwks: {{ url: https://idp.example/k }} }}"
        )
    }

    fn error(snapshot: &Snapshot, name: &str) -> String {
        find(snapshot, name)
            .map(|found| found.subject_name.to_owned())
            .unwrap_err()
            .0
    }

    proptest! {
        #[test]
        fn whatever_explain_prints_is_found_again(
            seconds in 0_u64..4_000_000_000,
            octets in any::<[u8; 16]>(),
            v4 in any::<bool>(),
        ) {
            let client = if v4 {
                IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
            } else {
                IpAddr::from(octets)
            };
            let (snapshot, throttle) = (snapshot("[]"), Throttle::new(1));
            let now = Time::from_unix_seconds(seconds);
            for (path, key) in [("/open", None), ("/open/2026-11", None), ("/open/7/x", None), ("/ab", Some(KEYS[0])), ("/ab/c", Some(KEYS[1]))] {
                let position = snapshot.find("x", path, &Method::GET).unwrap();
                let (route, api) = snapshot.route_and_api(position).unwrap();
                let mut headers = HeaderMap::new();
                if let Some(key) = key {
                    headers.insert("x-api-key", HeaderValue::from_static(key));
                }
                let caller = snapshot.authenticator().examine(route.api, &[], &headers, None, None, 0).unwrap();
                let demands = snapshot.demands(route, api, &caller, Some(client));
                prop_assert!(demands.len() >= 8);
                for demand in demands {
                    let subject = subject_name(demand.rule.scope(), &snapshot, (route, api), &caller, client);
                    let name = throttle.describe(&demand, &subject, now).key;
                    let found = find(&snapshot, &name).map_err(|error| TestCaseError::fail(format!("{name}: {}", error.0)))?;
                    prop_assert_eq!(found.demand.subject, demand.subject, "{}", &name);
                    prop_assert_eq!(found.demand.rule.key(), demand.rule.key(), "{}", &name);
                    prop_assert_eq!(found.subject_name, &subject, "{}", &name);
                }
            }
        }

        #[test]
        fn the_subject_of_a_token_is_found_again_whichever_issuer_it_is_of(subject in ".{0,30}", which in 0_usize..3) {
            let issuers = [("corp", "https://a"), ("corp/eu", "https://b"), ("other", "https://c")];
            let one = snapshot(&format!("[{}]", issuer("corp", "https://a")));
            let hash = jwt::subject_hash("https://a", &subject);
            let name = token_name(&one, &subject, hash);
            prop_assert_eq!(&name, &subject, "one issuer need not be named");
            prop_assert_eq!(token_of_name(&one, &name).unwrap(), subject_of_token("https://a", &subject));

            let listed: Vec<String> = issuers.iter().map(|(name, iss)| issuer(name, iss)).collect();
            let several = snapshot(&format!("[{}]", listed.join(", ")));
            let (issuer_name, iss) = issuers[which];
            let name = token_name(&several, &subject, jwt::subject_hash(iss, &subject));
            prop_assert_eq!(&name, &format!("{issuer_name}/{subject}"));
            // A subject "eu/x" of "corp" and a subject "x" of "corp/eu" are written alike.
            prop_assume!(!(which == 0 && subject.starts_with("eu/")));
            prop_assert_eq!(token_of_name(&several, &name).unwrap(), subject_of_token(iss, &subject));
        }
    }

    #[test]
    fn the_window_may_be_left_out_and_may_be_over() {
        let snapshot = snapshot("[]");
        let of = |name: &str| find(&snapshot, name).unwrap().demand.subject;
        let subscription = of("plan/gold/per subscription/x/subscription/mobile@a@b");
        for window in ["/2026-11-21T05:42Z", "/1970-01-01T00:00Z"] {
            let name = format!("plan/gold/per subscription/x/subscription/mobile@a@b{window}");
            assert_eq!(of(&name), subscription);
        }
        assert_eq!(of("plan/gold/per global/x/global"), Subject::none());
        assert_eq!(of("plan/gold/per global/x/global/2026-11-21T05:42Z"), Subject::none());
        let berlin = "plan/https://plans.example/gold/day/subscription/x@y/z@a@b";
        assert_eq!(of(berlin), of(&format!("{berlin}/2026-11-21[Europe/Berlin]")));
        assert_ne!(
            of("api/open/per route/route/open/open/2026-11"),
            of("api/open/per route/route/open/open")
        );
    }

    #[test]
    fn what_is_not_there_is_named_with_what_was_perhaps_meant() {
        let snapshot = snapshot("[]");
        for (name, expected) in [
            ("", "begins with plan/ or api/"),
            ("plans/gold", "begins with plan/ or api/, not with \"plans\""),
            ("plan/golf/minute", "there is no plan \"golf\"; did you mean \"gold\"?"),
            ("api/opem/x", "there is no api \"opem\"; did you mean \"open\"?"),
            ("plan/gold", "plan \"gold\" has no limit \"\""),
            (
                "api/open/per iq/ip/1.2.3.4",
                "api \"open\" has no limit \"per iq\"; did you mean \"per ip\"?",
            ),
            (
                "api/open/per ip/key/key:1",
                "limit \"per ip\" of api \"open\" counts per ip; write api/open/per ip/ip/…",
            ),
            ("api/open/per ip/ip", "this limit counts per ip; say which one"),
            ("api/open/per ip/ip/localhost", "\"localhost\" is not an IP address"),
            ("api/open/per global/global/x", "one counter for all; leave \"x\" out"),
            (
                "api/open/per api/api/a@b",
                "another API's, and never counts for \"a@b\"",
            ),
            (
                "api/open/per route/route/open/opem",
                "api \"open\" has no route \"/opem\"; did you mean \"/open\"?",
            ),
            (
                "plan/gold/per application/x/application/mobil",
                "there is no application \"mobil\"; did you mean \"mobile\"?",
            ),
            (
                "plan/gold/per subscription/x/subscription/mobile@opem",
                "there is no api \"opem\"; did you mean \"open\"?",
            ),
            (
                "plan/gold/per subscription/x/subscription/mobile@open",
                "\"mobile\" is not subscribed to api \"open\"",
            ),
            (
                "plan/gold/per subscription/x/subscription/mobile",
                "write it as application@api",
            ),
            (
                "plan/gold/per key/x/key/key:key/2",
                "there is no key \"key/2\"; did you mean \"key/1\"?",
            ),
            (
                "plan/gold/per key/x/key/mobile",
                "write key:ID, subject:NAME or an IP address",
            ),
            (
                "plan/gold/per subject/x/subject/subject:alice",
                "the revision has no issuer",
            ),
        ] {
            let found = error(&snapshot, name);
            assert!(found.contains(expected), "{name}: {found}");
        }
    }

    #[test]
    fn a_subject_that_may_be_of_several_issuers_has_to_name_its_own() {
        let listed = [issuer("corp", "https://a"), issuer("other", "https://b")].join(", ");
        let snapshot = snapshot(&format!("[{listed}]"));
        let found = error(&snapshot, "plan/gold/per subject/x/subject/subject:alice");
        assert!(
            found.contains("write subject:ISSUER/alice with one of \"corp\", \"other\""),
            "{found}"
        );
    }
}
