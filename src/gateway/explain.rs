//! What would happen to a request, and why, told without counting, calling or waiting.
//!
//! The same stages as in `Gateway::admit`, in the same order, asked instead of told. [`counter`] shows one
//! counter alone.

pub mod cache;
pub mod counter;
pub mod edits;

use std::net::IpAddr;

use http::{HeaderMap, Method};
use serde::Serialize;

use self::cache::CacheFacts;
use self::counter::SharedFacts;
use self::edits::{AddressFacts, CorsFacts, HeaderFacts, LocalFacts, SplitFacts};
use super::counter_name::subject_name;
use super::refusal::Refusal;
use super::{denied, missed, upstream_target};
use crate::auth::{Caller, Identity};
use crate::cache::Cache;
use crate::edit::Action;
use crate::route::path::normalise;
use crate::snapshot::{Api, Route, Snapshot};
use crate::throttle::{Throttle, Time};
use crate::transport::ClientIdentity;
use crate::upstream::{Moment, balance};

/// A request to be explained.
pub struct Question<'a> {
    /// Method.
    pub method: &'a Method,
    /// `https` or `http`.
    pub scheme: &'a str,
    /// Value of `Host`.
    pub host: &'a str,
    /// Path as a client would send it.
    pub path: &'a str,
    /// Query, without the question mark.
    pub query: Option<&'a str>,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// Address that it would come from.
    pub client: IpAddr,
    /// Whose certificate the client would show in its handshake.
    pub certificate: Option<&'a ClientIdentity>,
    /// What is kept of answers; absent where nothing is, because nobody serves.
    pub kept: Option<&'a Cache>,
}

/// What would happen.
#[derive(Debug, Default, Serialize)]
pub struct Explanation {
    /// SHA-256 of the revision.
    pub revision: String,
    /// Status that the gateway would answer with; absent when the upstream would answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Code of the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// Why, with more than a client would be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The path that is matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How the route was found, step by step.
    pub route_steps: Vec<String>,
    /// The API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// The route's pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// What is said about the client's address; absent where every address may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressFacts>,
    /// What a browser is told; absent where the API says nothing to browsers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsFacts>,
    /// Largest body in bytes, when API or route say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<u64>,
    /// Who would be calling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerFacts>,
    /// The limits that would count the request, in the order in which they are spent.
    pub limits: Vec<LimitFacts>,
    /// What is changed of its header fields and those of its answer.
    #[serde(skip_serializing_if = "HeaderFacts::is_empty")]
    pub headers: HeaderFacts,
    /// What the gateway would answer itself, without refusing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalFacts>,
    /// What the cache would do; absent where nothing is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheFacts>,
    /// Where it would go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamFacts>,
}

/// Who would be calling.
#[derive(Debug, Serialize)]
pub struct CallerFacts {
    /// `anonymous`, `key`, `token` or `certificate`.
    pub by: &'static str,
    /// Application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// Plan of its subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Public name of the key or certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_type: Option<&'static str>,
    /// Subject of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// A limit that would count the request.
#[derive(Debug, Serialize)]
pub struct LimitFacts {
    /// Its name.
    pub name: String,
    /// The counter.
    pub counter: String,
    /// The configured rate.
    pub rate: String,
    /// What shares the counter.
    pub per: &'static str,
    /// Whether it refuses (`enforce`) or only counts (`shadow`).
    pub mode: &'static str,
    /// What is left for this caller, as far as this process knows; absent if it would have to ask for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// Seconds until there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset_seconds: Option<u64>,
    /// Whether gateways share the counter; else this process counts alone.
    pub shared: bool,
    /// How they do.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<SharedFacts>,
}

/// Where the request would go.
#[derive(Debug, Serialize)]
pub struct UpstreamFacts {
    /// The upstream.
    pub name: String,
    /// Why this one, when there is another.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitFacts>,
    /// Path and query that it would get.
    pub target: String,
    /// How an endpoint would be chosen, the largest share first.
    #[serde(flatten)]
    pub choice: balance::Facts,
}

/// Explains a request against a snapshot and the counters of this process.
#[must_use]
pub fn explain(snapshot: &Snapshot, throttle: &Throttle, question: &Question<'_>, now: Time) -> Explanation {
    let mut explanation = Explanation {
        revision: snapshot.digest().to_owned(),
        ..Explanation::default()
    };
    if let Err((refusal, reason)) = walk(snapshot, throttle, question, now, &mut explanation) {
        explanation.status = Some(refusal.status());
        explanation.code = Some(refusal.code());
        explanation.reason = Some(reason).filter(|reason| !reason.is_empty());
    }
    explanation
}

fn walk(
    snapshot: &Snapshot,
    throttle: &Throttle,
    question: &Question<'_>,
    now: Time,
    explanation: &mut Explanation,
) -> Result<(), (Refusal, String)> {
    let path =
        normalise(question.path).map_err(|error| (Refusal::BadRequest(error.as_str()), error.as_str().to_owned()))?;
    explanation.path = Some(path.clone().into_owned());
    explanation.route_steps = snapshot
        .trace(question.host, &path, question.method)
        .iter()
        .map(ToString::to_string)
        .collect();
    let asked = (question.method, question.headers);
    let preflight = super::edits::preflight(snapshot, question.host, &path, asked);
    let position = match &preflight {
        Some((position, _)) => *position,
        None => snapshot
            .find(question.host, &path, question.method)
            .map_err(|miss| (missed(miss), String::new()))?,
    };
    let (route, api) = snapshot
        .route_and_api(position)
        .ok_or_else(|| (Refusal::Internal, String::new()))?;
    explanation.api = Some(api.name.to_string());
    explanation.route = Some(route.pattern.to_string());

    explanation.address = edits::addresses(route, api, question);
    explanation.cors = edits::cors(api, question, preflight.is_some());
    if explanation.address.as_ref().is_some_and(|address| !address.allowed) {
        return Err((Refusal::AddressDenied, String::new()));
    }
    explanation.body_bytes = super::edits::body_bytes(route, api);
    if let Some(most) = explanation.body_bytes
        && super::edits::announces_more(question.headers, most)
    {
        return Err((Refusal::BodyTooLarge, format!("at most {most} bytes are let in here")));
    }
    if let (Some((_, asked)), Some(cors)) = (&preflight, &api.edits.cors) {
        let answer = cors.preflight(&cors.verdict(question.headers), asked);
        explanation.local = Some(LocalFacts::of("preflight", &answer));
        return Ok(());
    }

    let now_ms = now.unix_nanos() / 1_000_000;
    let caller = snapshot
        .authenticator()
        .examine(
            route.api,
            &route.scopes,
            question.headers,
            question.query,
            question.certificate,
            now_ms,
        )
        .map_err(|denial| {
            let reason = denial.reason().to_owned();
            (denied(denial, api), reason)
        })?;
    explanation.caller = Some(caller_facts(snapshot, &caller));

    let exhausted = limits(
        snapshot,
        throttle,
        (route, api),
        &caller,
        question.client,
        now,
        explanation,
    );
    explanation.headers = HeaderFacts::of(route, api);
    match super::edits::local_answer(route, api, &path, question.query) {
        Some(answer) => {
            let by = match super::edits::action(route) {
                Action::Redirect(_) => "redirect",
                _ => "respond",
            };
            explanation.local = Some(LocalFacts::of(by, &answer));
            explanation.headers.request.clear();
        }
        None => {
            explanation.upstream = upstream_facts(snapshot, (route, api), &caller, question, &path);
            let upstream = explanation.upstream.as_ref().map(|upstream| upstream.name.as_str());
            explanation.cache = CacheFacts::of(snapshot, (route, api), &caller, question, &path, upstream);
        }
    }
    match exhausted {
        Some(name) => Err((Refusal::limited_by(&name), format!("limit \"{name}\" is used up"))),
        None => Ok(()),
    }
}

fn caller_facts(snapshot: &Snapshot, caller: &Caller) -> CallerFacts {
    CallerFacts {
        by: match caller.identity() {
            Identity::Key(_) => "key",
            Identity::Certificate(_) => "certificate",
            Identity::Token(_) => "token",
            Identity::Anonymous => "anonymous",
        },
        application: snapshot.application_of(caller).map(|(name, _)| name.to_string()),
        plan: snapshot.plan_name(caller).map(ToString::to_string),
        key_id: caller.key_id().map(ToString::to_string),
        key_type: caller.key_type().map(crate::revision::KeyType::as_str),
        subject: caller.subject().map(str::to_owned),
    }
}

/// Fills in the limits; the name of an enforced one that has nothing left, if there is one.
fn limits(
    snapshot: &Snapshot,
    throttle: &Throttle,
    (route, api): (&Route, &Api),
    caller: &Caller,
    client: IpAddr,
    now: Time,
    explanation: &mut Explanation,
) -> Option<String> {
    let mut exhausted = None;
    for demand in snapshot.demands(route, api, caller, Some(client)) {
        let scope = demand.rule.scope();
        let subject = subject_name(scope, snapshot, (route, api), caller, client);
        let description = throttle.describe(&demand, &subject, now);
        if description.enforced && description.remaining == 0 {
            exhausted = exhausted.or_else(|| Some(demand.rule.name().to_string()));
        }
        let sharing = description.sharing.as_ref();
        // A process that shares counters and reaches no store knows nothing of what is left.
        let known = sharing.is_none_or(|sharing| sharing.node.is_some());
        explanation.limits.push(LimitFacts {
            name: demand.rule.name().to_string(),
            rate: description.rate.to_string(),
            per: scope.as_str(),
            mode: mode(description.enforced),
            remaining: known.then_some(description.remaining),
            reset_seconds: known.then(|| now.seconds_until(description.reset)),
            shared: sharing.is_some(),
            sharing: sharing.map(|sharing| SharedFacts::of(sharing, description.rate)),
            counter: description.key,
        });
    }
    exhausted
}

/// Whether a limit refuses, in a word.
fn mode(enforced: bool) -> &'static str {
    if enforced { "enforce" } else { "shadow" }
}

fn upstream_facts(
    snapshot: &Snapshot,
    (route, api): (&Route, &Api),
    caller: &Caller,
    question: &Question<'_>,
    path: &str,
) -> Option<UpstreamFacts> {
    let (position, split) = edits::chosen(api, caller, question)?;
    let upstream = snapshot.upstream(position)?;
    let as_sent = || match question.query {
        Some(query) => format!("{}?{query}", question.path),
        None => question.path.to_owned(),
    };
    let target = upstream_target((route, api), question.path, path, question.query)
        .map_or_else(as_sent, |target| String::from_utf8_lossy(&target).into_owned());
    let mut choice = upstream.view().describe(Moment::now());
    let by_share = |a: &balance::MemberFacts, b: &balance::MemberFacts| b.share_percent.total_cmp(&a.share_percent);
    choice.endpoints.sort_by(by_share);
    Some(UpstreamFacts {
        name: upstream.name().to_string(),
        split,
        target,
        choice,
    })
}
