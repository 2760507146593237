//! What APIs and routes say about requests and answers, at the places of the journey where it counts.

use http::header::{CONTENT_LENGTH, HeaderMap};
use http::{HeaderValue, Method};

use super::journey::Journey;
use super::refusal::{RATE_LIMIT, RATE_LIMIT_POLICY, Refusal};
use crate::auth::{Caller, credential};
use crate::edit::Action;
use crate::edit::addresses::Addresses;
use crate::edit::cors;
use crate::edit::fields::FieldEdits;
use crate::edit::local_answer::LocalAnswer;
use crate::revision::KeyType;
use crate::snapshot::{Api, Route, Snapshot};
use crate::upstream::split::Asker;

/// The route that a preflight asks about, and the method; `None` for everything that the gateway does not answer itself.
/// The route of OPTIONS may be another one, or none.
#[must_use]
pub fn preflight(
    snapshot: &Snapshot,
    host: &str,
    path: &str,
    (method, headers): (&Method, &HeaderMap),
) -> Option<(u32, Method)> {
    let asked = cors::asked_method(method, headers)?;
    let position = snapshot.find(host, path, &asked).ok()?;
    let (_, api) = snapshot.route_and_api(position)?;
    api.edits.cors.as_ref().map(|_| (position, asked))
}

/// Who may come at all.
#[must_use]
pub fn addresses<'a>(route: &'a Route, api: &'a Api) -> Option<&'a Addresses> {
    let own = route.edits.as_ref().and_then(|edits| edits.addresses.as_ref());
    own.or(api.edits.addresses.as_ref())
}

/// Largest body of a request, when route or API say it.
#[must_use]
pub fn body_bytes(route: &Route, api: &Api) -> Option<u64> {
    let own = route.edits.as_ref().and_then(|edits| edits.body_bytes);
    own.or(api.edits.body_bytes)
}

/// Whether a request announces more content than it may have.
#[must_use]
pub fn announces_more(headers: &HeaderMap, most: u64) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    (length.and_then(|length| length.parse::<u64>().ok())).is_some_and(|length| length > most)
}

/// What is changed on the way to the upstream, the API's changes first.
#[must_use]
pub fn of_request<'a>(route: &'a Route, api: &'a Api) -> [Option<&'a FieldEdits>; 2] {
    [
        Some(&api.edits.request),
        route.edits.as_ref().map(|edits| &edits.request),
    ]
}

/// What is changed on the way to the client, the API's changes first.
#[must_use]
pub fn of_response<'a>(route: &'a Route, api: &'a Api) -> [Option<&'a FieldEdits>; 2] {
    [
        Some(&api.edits.response),
        route.edits.as_ref().map(|edits| &edits.response),
    ]
}

/// What happens to a request that is let in.
#[must_use]
pub fn action(route: &Route) -> &Action {
    const FORWARD: &Action = &Action::Forward;
    route.edits.as_ref().map_or(FORWARD, |edits| &edits.action)
}

/// The answer of the gateway itself to a request that is let in; `None` when the upstream answers.
#[must_use]
pub fn local_answer(route: &Route, api: &Api, path: &str, query: Option<&str>) -> Option<LocalAnswer> {
    match action(route) {
        Action::Forward | Action::Rewrite(_) => None,
        Action::Respond(respond) => Some(respond.answer()),
        Action::Redirect(redirect) => {
            // A key in the query is not sent to another host, which a browser would do.
            let foreign = api
                .credential_parameter
                .as_deref()
                .filter(|_| redirect.to.is_absolute());
            let query = match (query, foreign) {
                (Some(query), Some(name)) => Some(credential::strip_query_parameter(query, name)),
                (query, _) => query.map(std::borrow::Cow::Borrowed),
            };
            Some(redirect.answer(path, query.as_deref()))
        }
    }
}

/// What decides which upstream answers.
#[must_use]
pub fn asker<'a>(caller: &Caller, client: Option<std::net::IpAddr>, headers: &'a HeaderMap) -> Asker<'a> {
    Asker {
        sandbox: caller.key_type() == Some(KeyType::Sandbox),
        caller: caller.subject_hash().or_else(|| caller.key_hash()),
        client,
        headers,
    }
}

impl Journey {
    /// Before anybody asks who it is: whether the address may come and whether the body is one that may come.
    ///
    /// # Errors
    /// When not.
    pub fn screen(&mut self, (route, api): (&Route, &Api), headers: &HeaderMap) -> Result<(), Refusal> {
        self.cors = api.edits.cors.as_ref().map(|cors| cors.verdict(headers));
        if let Some(addresses) = addresses(route, api)
            && !addresses.verdict(self.origin.client).allowed
        {
            return Err(Refusal::AddressDenied);
        }
        self.body_bytes = body_bytes(route, api);
        match self.body_bytes {
            Some(most) if announces_more(headers, most) => Err(Refusal::BodyTooLarge),
            _ => Ok(()),
        }
    }

    /// Makes the changes of API and route to the fields of an answer.
    pub fn edit_response(&self, headers: &mut HeaderMap) {
        let Some((route, api)) = self.route_and_api() else {
            return;
        };
        for edits in of_response(route, api).into_iter().flatten() {
            edits.apply(headers);
        }
    }

    /// Tells the browser which scripts may read an answer, refusals too.
    pub fn tell_browser(&self, headers: &mut HeaderMap) {
        if let Some(verdict) = &self.cors
            && let Some(cors) = self.route_and_api().and_then(|(_, api)| api.edits.cors.as_ref())
        {
            cors.tell(verdict, headers);
        }
    }

    /// Tells the client of an admitted request what its limits have left. Appended, not replaced: what the upstream says
    /// about its own limits stays true.
    pub fn tell_limits(&mut self, headers: &mut HeaderMap) {
        let Some(admission) = &mut self.admission else {
            return;
        };
        let fields: [(_, Option<HeaderValue>); 2] = [
            (RATE_LIMIT, admission.rate_limit.take()),
            (RATE_LIMIT_POLICY, admission.policy.take()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                headers.append(name, value);
            }
        }
    }
}
