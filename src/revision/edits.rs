//! What is changed on the way, resolved: who may come, what browsers are told, header fields, answers that need no
//! upstream, and which upstream is meant.

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

/// Which client addresses are let in. Of all ranges that hold an address, the smallest decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressRules {
    /// Let in. If there are any, nobody else is.
    pub allow: Vec<IpNet>,
    /// Refused. No range is in both lists.
    pub deny: Vec<IpNet>,
}

/// What browsers are told about scripts of other origins (the CORS protocol of the Fetch standard).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Never empty.
    pub origins: Vec<OriginPattern>,
    /// Methods beyond the simple ones; `None`: those that a route answers.
    pub methods: Option<Vec<String>>,
    /// Header fields that a script may send.
    pub headers: Vec<String>,
    /// Header fields of answers that a script may read.
    pub expose: Vec<String>,
    /// Whether cookies and HTTP authentication may be sent along. Never with `*` in any list.
    pub credentials: bool,
    /// How long browsers may remember the answer to a preflight.
    pub max_age: Option<Duration>,
}

/// Origins whose scripts may read answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OriginPattern {
    /// All of them.
    Any,
    /// This one, as browsers send it; `null` is one.
    Exact(String),
    /// What begins and ends so and has labels of a host between.
    Subdomains {
        /// `https://`
        prefix: String,
        /// `.example.org`, with a port if it is not the scheme's own.
        suffix: String,
    },
}

/// Changes to the header fields of requests and answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderEdits {
    /// On the way to the upstream.
    pub request: FieldEdits,
    /// On the way to the client.
    pub response: FieldEdits,
}

/// Changes to header fields, made in this order: remove, set, add.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldEdits {
    /// Taken away, all lines of them.
    pub remove: Vec<HeaderName>,
    /// Replaced by one line each.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// One more line each.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl FieldEdits {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// What a route has of its own, beyond where it is and who may use it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteEdits {
    /// Instead of the API's.
    pub addresses: Option<AddressRules>,
    /// After the API's.
    pub headers: HeaderEdits,
    /// Largest body of a request, instead of the API's.
    pub body_bytes: Option<u64>,
    /// What happens to a request that is let in.
    pub action: Action,
}

/// What happens to a request that is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It goes to the upstream, under this path if there is one.
    Forward {
        /// The whole path; `None`: the one that was matched.
        rewrite: Option<Target>,
    },
    /// The client is sent elsewhere.
    Redirect {
        /// Where.
        to: Target,
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
    },
    /// The gateway answers.
    Respond(Respond),
}

impl Default for Action {
    fn default() -> Self {
        Self::Forward { rewrite: None }
    }
}

/// A path that is made for a request, with `{parameters}` and `*` that the route's pattern has too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `https://new.example.com`; `None`: the same host.
    pub origin: Option<String>,
    /// `/new/{id}`
    pub path: String,
}

/// An answer of the gateway itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    /// 200 to 599.
    pub status: StatusCode,
    /// What the body is; `None` where there can be none.
    pub content_type: Option<HeaderValue>,
    /// Content, at most 64 KiB.
    pub body: String,
    /// More header fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Which upstream answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destinations {
    /// Never empty; at least one weight is not zero, and no upstream is there twice.
    pub shares: Vec<Share>,
    /// What goes to the same upstream every time; `None`: every request is drawn.
    pub sticky: Option<Sticky>,
    /// A field in which a client may name one of the upstreams.
    pub override_header: Option<HeaderName>,
    /// Where callers with a sandbox key go instead: index into [`super::Revision::upstreams`].
    pub sandbox: Option<usize>,
}

/// A part of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Index into [`super::Revision::upstreams`].
    pub upstream: usize,
    /// Relative to the others; 0 to 1000.
    pub weight: u32,
}

/// What goes to the same upstream every time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// The caller: the subject of a token, else the key, else the client address.
    Caller,
    /// The client address.
    ClientIp,
    /// The value of this field; a request without it is drawn.
    Header(HeaderName),
    /// The value of this cookie; a request without it is drawn.
    Cookie(String),
}
