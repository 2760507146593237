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
