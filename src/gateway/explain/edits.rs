//! What APIs and routes say about a request and its answer, told.

use serde::Serialize;

use super::Question;
use crate::auth::Caller;
use crate::edit::cors::Verdict;
use crate::edit::fields::FieldEdits;
use crate::edit::local_answer::LocalAnswer;
use crate::gateway::edits;
use crate::revision::Sticky;
use crate::snapshot::{Api, Route};
use crate::upstream::split::{Choice, Split, Why};

/// What API and route say about the client's address.
#[derive(Debug, Serialize)]
pub struct AddressFacts {
    /// The address.
    pub client: String,
    /// Whether it is let in.
    pub allowed: bool,
    /// The range that decided; absent when the address is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
}

/// What a browser is told about the origin of a script.
#[derive(Debug, Serialize)]
pub struct CorsFacts {
    /// The origin, if the request names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// `allowed`, `refused`, or `not_asked` when the request names none.
    pub verdict: &'static str,
    /// Whether it is a preflight, which the gateway answers.
    pub preflight: bool,
}

/// Changes of header fields, in the order in which they are made. Without the values, which may be credentials.
#[derive(Debug, Default, Serialize)]
pub struct HeaderFacts {
    /// On the way to the upstream.
    pub request: Vec<String>,
    /// On the way to the client.
    pub response: Vec<String>,
}

/// An answer of the gateway itself that is no refusal.
#[derive(Debug, Serialize)]
pub struct LocalFacts {
    /// `preflight`, `redirect` or `respond`.
    pub by: &'static str,
    /// Status.
    pub status: u16,
    /// Where a redirect leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// How requests are split between upstreams.
#[derive(Debug, Serialize)]
pub struct SplitFacts {
    /// Why this one: `sandbox`, `named`, `sticky` or `drawn`.
    pub chosen_by: &'static str,
    /// What a request is kept on its upstream by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// All upstreams with their part in percent.
    pub shares: Vec<ShareFacts>,
}

/// A part of a split.
#[derive(Debug, Serialize)]
pub struct ShareFacts {
    /// The upstream.
    pub upstream: String,
    /// Its part in percent.
    pub share_percent: f64,
}

impl HeaderFacts {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    pub(super) fn of(route: &Route, api: &Api) -> Self {
        let told = |edits: [Option<&FieldEdits>; 2]| edits.into_iter().flatten().flat_map(FieldEdits::told).collect();
        Self {
            request: told(edits::of_request(route, api)),
            response: told(edits::of_response(route, api)),
        }
    }
}

impl LocalFacts {
    pub(super) fn of(by: &'static str, answer: &LocalAnswer) -> Self {
        let location = answer.headers.get(http::header::LOCATION);
        Self {
            by,
            status: answer.status.as_u16(),
            location: location.map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned()),
        }
    }
}

/// Absent where every address may come.
pub(super) fn addresses(route: &Route, api: &Api, question: &Question<'_>) -> Option<AddressFacts> {
    let verdict = edits::addresses(route, api)?.verdict(Some(question.client));
    Some(AddressFacts {
        client: question.client.to_string(),
        allowed: verdict.allowed,
        range: verdict.by.map(|range| range.to_string()),
    })
}

/// Absent where the API says nothing to browsers.
pub(super) fn cors(api: &Api, question: &Question<'_>, preflight: bool) -> Option<CorsFacts> {
    let verdict = api.edits.cors.as_ref()?.verdict(question.headers);
    let origin = question.headers.get(http::header::ORIGIN);
    Some(CorsFacts {
        origin: origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned()),
        verdict: match verdict {
            Verdict::NotAsked => "not_asked",
            Verdict::Refused => "refused",
            Verdict::Allowed(_) => "allowed",
        },
        preflight,
    })
}

/// The upstream that is chosen, and how; for what is drawn, one of those that it may be.
pub(super) fn chosen(api: &Api, caller: &Caller, question: &Question<'_>) -> Option<(usize, Option<SplitFacts>)> {
    let split = api.split.as_ref()?;
    let asker = edits::asker(caller, Some(question.client), question.headers);
    // Nothing is drawn here: the same question has the same answer.
    let choice = split.choose(&asker, || 0)?;
    Some((choice.upstream, split_facts(split, choice)))
}

fn split_facts(split: &Split, choice: Choice) -> Option<SplitFacts> {
    let chosen_by = match choice.why {
        Why::Only => return None,
        Why::Sandbox => "sandbox",
        Why::Named => "named",
        Why::Sticky => "sticky",
        Why::Drawn => "drawn",
    };
    Some(SplitFacts {
        chosen_by,
        sticky: split.sticky().map(|sticky| match sticky {
            Sticky::Caller => "caller".to_owned(),
            Sticky::ClientIp => "client_ip".to_owned(),
            Sticky::Header(name) => format!("header {name}"),
            Sticky::Cookie(name) => format!("cookie {name}"),
        }),
        shares: split
            .shares()
            .map(|(upstream, percent)| ShareFacts {
                upstream: upstream.to_string(),
                share_percent: (percent * 10.0).round() / 10.0,
            })
            .collect(),
    })
}
