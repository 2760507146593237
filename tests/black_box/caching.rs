//! Kept answers, from the outside: what a shared cache must, must not and may do, section by section of its RFCs.
//!
//! Each answer of the origin says in its body which fetch it belongs to, counted per target, so that a story reads as
//! "asked twice, fetched once". Ages are told by the origin (`Age`, `Date`) wherever a story would else have to wait.

mod admin;
mod capacity;
mod conditional;
mod control_plane;
mod directives;
mod failures;
mod freshness;
mod garbage;
mod identity;
mod invalidation;
mod keys;
mod protocols;
mod ranges;
mod revisions;
mod secrets;
mod shared;
mod stale;
mod stampede;
mod storing;
mod updating;
mod vary;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::harness::*;

/// A gateway with a cache in front of a service that answers as it is told.
struct Scene {
    gateway: Gateway,
    origin: Origin,
}

/// What a service answers.
struct Reply {
    status: u16,
    fields: String,
    body: Option<String>,
}

/// An answer with these field lines, each ended by CRLF, whose body says which fetch it is.
fn reply(status: u16, fields: &str) -> Reply {
    Reply {
        status,
        fields: fields.to_owned(),
        body: None,
    }
}

/// A 200 that is fresh for this many seconds, with these field lines beside.
fn fresh(seconds: u32, more: &str) -> Reply {
    reply(200, &format!("Cache-Control: max-age={seconds}\r\n{more}"))
}

impl Reply {
    /// With this body instead of the number of the fetch.
    fn with_body(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }
}

/// A service that answers the `nth` request for a target (counted from 1) with this.
fn service(answer: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Origin {
    let counts: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    Origin::start(move |exchange: &mut Exchange| {
        exchange.read_body()?;
        let nth = {
            let mut counts = counts.lock().expect("nobody panics with it");
            let count = counts.entry(exchange.request.target.clone()).or_default();
            *count += 1;
            *count
        };
        let reply = answer(&exchange.request, nth);
        let body = match (exchange.request.method.as_str(), reply.status) {
            ("HEAD", _) | (_, 304 | 204) => String::new(),
            _ => reply.body.unwrap_or_else(|| nth.to_string()),
        };
        exchange.respond(reply.status, &reply.fields, body.as_bytes())
    })
}

impl Scene {
    /// An open API on `/` with the cache as it is by default.
    fn of(answer: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::with("{}", answer)
    }

    /// The same with this policy.
    fn with(policy: &str, answer: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::serving(service(answer), |setup| setup, &format!("cache: {policy}"))
    }

    /// The same with these lines in the API, and a setup of its own.
    fn serving(origin: Origin, set_up: impl FnOnce(Setup) -> Setup, lines: &str) -> Self {
        let revision = Revision::of(&origin).api(&format!(
            "{{ name: all, base_path: /, auth: none, upstream: origin, {lines} }}"
        ));
        Self {
            gateway: set_up(Gateway::with(revision)).start(),
            origin,
        }
    }

    fn get(&self, target: &str) -> Request {
        self.gateway.client().get(target)
    }

    /// Asks, and says which fetch the answer belongs to.
    #[track_caller]
    fn nth(&self, request: Request) -> usize {
        request.send().text().parse().expect("the number of a fetch")
    }

    /// Asks twice in the same way: whether the second answer was the first one again.
    #[track_caller]
    fn keeps(&self, target: &str) -> bool {
        let first = self.nth(self.get(target));
        self.nth(self.get(target)) == first
    }
}

/// What `Cache-Status` says of this gateway.
fn status_of(answer: &Answer) -> String {
    answer
        .all("cache-status")
        .last()
        .map(|field| (*field).to_owned())
        .unwrap_or_default()
}

/// A time as HTTP writes it, so many seconds from now.
fn date(seconds_from_now: i64) -> String {
    let now = std::time::SystemTime::now();
    let seconds = std::time::Duration::from_secs(seconds_from_now.unsigned_abs());
    let time = if seconds_from_now < 0 {
        now - seconds
    } else {
        now + seconds
    };
    httpdate::fmt_http_date(time)
}
