//! What an API or a route says about requests and answers beyond where they go and who may send them: compiled once, read
//! by requests that meet it, and absent for all others.
//!
//! A route's own word stands beside its API's: addresses and the bound of a body replace what the API says, changes of
//! header fields come after the API's.

pub mod addresses;
pub mod cors;
pub mod fields;
pub mod local_answer;
pub mod target;

use crate::revision;
use addresses::Addresses;
use cors::Cors;
use fields::FieldEdits;
use local_answer::{Redirect, Respond};
use target::Target;

/// What an API says.
#[derive(Debug, Default)]
pub struct ApiEdits {
    /// Which client addresses are let in.
    pub addresses: Option<Addresses>,
    /// What browsers are told.
    pub cors: Option<Cors>,
    /// Changes of fields on the way to the upstream.
    pub request: FieldEdits,
    /// Changes of fields on the way to the client.
    pub response: FieldEdits,
    /// Largest body of a request.
    pub body_bytes: Option<u64>,
}

/// What a route says.
#[derive(Debug, Default)]
pub struct RouteEdits {
    /// Which client addresses are let in, instead of the API's.
    pub addresses: Option<Addresses>,
    /// Changes of fields on the way to the upstream, after the API's.
    pub request: FieldEdits,
    /// Changes of fields on the way to the client, after the API's.
    pub response: FieldEdits,
    /// Largest body of a request, instead of the API's.
    pub body_bytes: Option<u64>,
    /// What happens to a request that is let in.
    pub action: Action,
}

/// What happens to a request that is let in.
#[derive(Debug, Default)]
pub enum Action {
    /// It goes to the upstream under the path that was matched.
    #[default]
    Forward,
    /// It goes to the upstream under another path.
    Rewrite(Target),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The gateway answers.
    Respond(Respond),
}

impl ApiEdits {
    /// Compiles what an API says.
    #[must_use]
    pub fn compile(api: &revision::Api) -> Self {
        Self {
            addresses: api.addresses.as_ref().map(Addresses::compile),
            cors: api.cors.as_ref().map(Cors::compile),
            request: FieldEdits::compile(&api.headers.request),
            response: FieldEdits::compile(&api.headers.response),
            body_bytes: api.body_bytes,
        }
    }
}

impl RouteEdits {
    /// Compiles what a route says; `None` when it says nothing.
    #[must_use]
    pub fn compile(rule: &revision::RouteRule) -> Option<Box<Self>> {
        let edits = rule.edits.as_ref()?;
        Some(Box::new(Self {
            addresses: edits.addresses.as_ref().map(Addresses::compile),
            request: FieldEdits::compile(&edits.headers.request),
            response: FieldEdits::compile(&edits.headers.response),
            body_bytes: edits.body_bytes,
            action: match &edits.action {
                revision::Action::Forward { rewrite: None } => Action::Forward,
                revision::Action::Forward { rewrite: Some(target) } => {
                    Action::Rewrite(Target::compile(&rule.path, target))
                }
                revision::Action::Redirect { to, status } => Action::Redirect(Redirect {
                    to: Target::compile(&rule.path, to),
                    status: *status,
                }),
                revision::Action::Respond(respond) => Action::Respond(Respond::compile(respond)),
            },
        }))
    }
}
