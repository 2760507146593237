//! The revision: the document that both planes speak.
//!
//! Three types, never mixed: *raw* is the file as it was written (`raw`), *resolved* is this module's
//! [`Revision`], in which nothing is left to doubt (every reference exists, every number has a unit), and
//! *running* is `snapshot::Snapshot`, compiled for speed.

mod caching;
mod edits;
mod grammar;
mod labels;
mod load;
mod raw;
mod upstream;
mod validate;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::Secret;
use crate::names::{ApiName, ApplicationName, IssuerName, KeyId, LimitName, PlanName};
use crate::san::San;
use crate::units::{Rate, Ratio};

pub use caching::{CacheShare, Caching, RouteCaching};
pub use edits::{
    Action, AddressRules, Cors, Destinations, FieldEdits, HeaderEdits, OriginPattern, Respond, RouteEdits, Share,
    Sticky, Target,
};
pub use load::{ApiPlaces, Loaded, load, parse, plain, schema};
pub use upstream::{
    Balance, Breaker, Endpoint, HashKey, HealthCheck, Locator, Pool, Probe, Protocol, Retries, Upstream,
    UpstreamTimeouts, UpstreamTls, Zones,
};

/// A complete revision without mistakes.
#[derive(Debug, Clone, Default)]
pub struct Revision {
    /// SHA-256 of the document's text, in hex: the identity of this revision.
    pub digest: String,
    /// Where requests go.
    pub upstreams: Vec<Upstream>,
    /// Who may issue tokens that say themselves what they are worth.
    pub issuers: Vec<Issuer>,
    /// Who is asked what tokens are worth that say nothing themselves.
    pub introspectors: Vec<Introspector>,
    /// Sets of limits for subscriptions.
    pub plans: Vec<Plan>,
    /// What is published.
    pub apis: Vec<Api>,
    /// Who calls.
    pub applications: Vec<Application>,
}

/// An issuer of tokens.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Unique among issuers.
    pub name: IssuerName,
    /// The `iss` that its tokens carry.
    pub issuer: String,
    /// Accepted `aud` values; at least one of them has to be in the token. Never empty.
    pub audience: Vec<String>,
    /// The algorithms that this issuer signs with, and no others. Never empty.
    pub algorithms: Vec<Algorithm>,
    /// Where its public keys come from.
    pub jwks: JwksSource,
    /// The claim that names the application, such as `azp`. Absent: tokens are not bound to an application.
    pub application_claim: Option<String>,
    /// Tolerated clock difference for `exp` and `nbf`. Default zero.
    pub leeway: Duration,
}

/// A service that says what opaque tokens are worth (RFC 7662).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspector {
    /// Unique among issuers.
    pub name: IssuerName,
    /// Its introspection endpoint.
    pub url: String,
    /// As whom a gateway asks.
    pub credential: IntrospectionCredential,
    /// The `iss` that it has to state, if it states one. None: any.
    pub issuer: Option<String>,
    /// Accepted `aud` values, if it states one; empty: any.
    pub audience: Vec<String>,
    /// The member of its answer that names the application, such as `client_id`. None: tokens are not bound to one.
    pub application_claim: Option<String>,
}

/// As whom a gateway asks about a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntrospectionCredential {
    /// HTTP Basic, the usual one.
    Basic {
        /// User name.
        id: String,
        /// Password.
        secret: Secret,
    },
    /// A bearer token.
    Bearer(Secret),
}

/// Where an issuer's keys come from.
#[derive(Clone, PartialEq)]
pub enum JwksSource {
    /// Fetched in the background from an `http:` or `https:` URL.
    Url(String),
    /// Read from a file and read again when it changes.
    File(PathBuf),
    /// Written into the revision: the members of a JWKS `keys` array.
    Inline(Vec<serde_json::Value>),
}

impl fmt::Debug for JwksSource {
    /// Inline keys may be shared secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Inline(keys) => write!(f, "Inline({} keys)", keys.len()),
        }
    }
}

/// A set of limits.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Unique among plans.
    pub name: PlanName,
    /// All of them count for every request; may be empty (unlimited).
    pub limits: Vec<Limit>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Unique inside its plan or API; shown to clients in `RateLimit-Policy`.
    pub name: LimitName,
    /// How many requests in which time.
    pub rate: Rate,
    /// How the time is cut.
    pub window: WindowKind,
    /// What shares one counter.
    pub scope: Scope,
    /// Whether it refuses or only counts.
    pub mode: Mode,
    /// How it is shared between gateways.
    pub sharing: Sharing,
    /// The IANA name of the time zone in which its days, weeks and months begin, as the time zone database spells
    /// it: `Europe/Berlin`. None is UTC. Never set where it would change nothing: for token buckets and for periods
    /// shorter than a day.
    pub zone: Option<String>,
}

/// How a limit is shared between gateways; what is None is as the gateway's configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sharing {
    /// What all gateways together may let through beyond the limit, as a share of it.
    pub max_overrun: Option<Ratio>,
    /// What happens while the shared counter is away.
    pub on_store_down: Option<WithoutStore>,
    /// What happens to a request that has waited for the shared counter as long as it may.
    pub on_timeout: Option<WithoutStore>,
}

/// What a limit does while the shared counter cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum WithoutStore {
    /// Goes on within this gateway's share of what was left.
    Share,
    /// Refuses.
    Deny,
    /// Lets everything through, and counts it afterwards.
    Allow,
}

impl WithoutStore {
    /// As written in configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }
}

/// How a limit cuts time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    /// Calendar windows in UTC: full at the start of each.
    Fixed,
    /// The window before now, estimated from the current and the previous calendar window.
    Sliding,
    /// Refilled evenly; `burst` is how many may come at once, at least 1.
    TokenBucket {
        /// Size of the bucket in requests.
        burst: u32,
    },
}

/// What shares one counter of a limit (`per:`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything that the limit applies to shares one counter: a whole API, or all subscriptions to a plan.
    Global,
    /// All requests to the API.
    Api,
    /// All requests to the route.
    Route,
    /// All requests of the application, whatever the API.
    Application,
    /// All requests of the application to the API.
    Subscription,
    /// All requests with the key.
    Key,
    /// All requests of the token's subject.
    Subject,
    /// All requests from the client address.
    Ip,
}

impl Scope {
    /// As written in configuration and in counters' names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Api => "api",
            Self::Route => "route",
            Self::Application => "application",
            Self::Subscription => "subscription",
            Self::Key => "key",
            Self::Subject => "subject",
            Self::Ip => "ip",
        }
    }
}

/// Whether a limit refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refuses with 429.
    Enforce,
    /// Counts and logs what it would have refused.
    Shadow,
}

/// A published API.
#[derive(Debug, Clone)]
pub struct Api {
    /// Unique among APIs.
    pub name: ApiName,
    /// Hosts it is published on; empty means every host.
    pub hosts: Vec<HostPattern>,
    /// `/` or a normalised path without trailing slash.
    pub base_path: String,
    /// The labels of the gateways that take it; empty means every gateway.
    pub labels: Vec<String>,
    /// Any of these lets in; empty means `auth: none` was written.
    pub auth: Vec<AuthMethod>,
    /// Where credentials are read from and whether they go upstream.
    pub credentials: CredentialPlaces,
    /// Which upstream answers; `None` only if every route answers by itself.
    pub destinations: Option<Destinations>,
    /// Whether `base_path` is cut off before the request goes upstream.
    pub strip_base_path: bool,
    /// Which client addresses are let in; `None`: all.
    pub addresses: Option<AddressRules>,
    /// What browsers are told about scripts of other origins.
    pub cors: Option<Cors>,
    /// Changes to header fields.
    pub headers: HeaderEdits,
    /// Largest body of a request, if it is not only the gateway that says it.
    pub body_bytes: Option<u64>,
    /// What is kept of answers; `None`: nothing.
    pub cache: Option<Box<Caching>>,
    /// Limits of the API itself, counted for every request that is let in.
    pub limits: Vec<Limit>,
    /// Never empty: an API without `routes` has one for everything below its base path.
    pub routes: Vec<RouteRule>,
}

/// A host as it is matched: lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this host.
    Exact(String),
    /// Any host that ends in `.` and this suffix, at any depth: written `*.example.org`, stored `example.org`.
    Wildcard(String),
}

/// A way to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMethod {
    /// A key of an application that is subscribed to the API.
    ApiKey,
    /// A token of the issuer with this index in [`Revision::issuers`].
    Jwt(usize),
    /// A token that the service with this index in [`Revision::introspectors`] calls active.
    Introspection(usize),
    /// A certificate that the client shows in its TLS handshake, of an application that is subscribed to the API.
    ClientCertificate,
}

impl AuthMethod {
    /// Whether it is by a token.
    #[must_use]
    pub fn is_token(&self) -> bool {
        matches!(self, Self::Jwt(_) | Self::Introspection(_))
    }
}

/// Where an API reads credentials from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialPlaces {
    /// Header that carries a key; lower case. Default `x-api-key`.
    pub key_header: http::HeaderName,
    /// Query parameter that carries a key; none unless the API says so.
    pub key_query: Option<String>,
    /// Header that carries `Bearer` and a token; lower case. Default `authorization`.
    pub token_header: http::HeaderName,
    /// Whether the upstream gets the credential too. Default no.
    pub forward: bool,
}

/// A path and the methods it answers.
#[derive(Debug, Clone)]
pub struct RouteRule {
    /// Full path pattern, base path included: `/orders/{id}`, `/orders/files/*`.
    ///
    /// A segment is literal, `{name}` (exactly one non-empty segment) or, as the last one, `*` (everything
    /// below: `/files/*` matches `/files/` and all under it, not `/files`). The pattern for "the base path and
    /// everything below it" is two rules: the base path and `base/*`.
    pub path: String,
    /// Answered methods; empty means all.
    pub methods: BTreeSet<String>,
    /// Scopes that a token needs, all of them. Keys carry no scopes and are refused where this is not empty.
    pub scopes: Vec<String>,
    /// Whether the path with one more slash at its end is the same route: true for the base path itself.
    pub slash_too: bool,
    /// What it has of its own; most routes have nothing, and there may be 100,000 of them.
    pub edits: Option<Box<RouteEdits>>,
    /// What is kept of answers.
    pub cache: RouteCaching,
}

/// A client program.
#[derive(Debug, Clone)]
pub struct Application {
    /// Unique among applications.
    pub name: ApplicationName,
    /// What it may call, and under which plan; at most one per API.
    pub subscriptions: Vec<Subscription>,
    /// Its keys.
    pub keys: Vec<Key>,
    /// Its client certificates.
    pub certificates: Vec<Certificate>,
}

/// The right of an application to call an API under a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Index into [`Revision::apis`].
    pub api: usize,
    /// Index into [`Revision::plans`].
    pub plan: usize,
}

/// A key record: the hash, never the key.
#[derive(Debug, Clone)]
pub struct Key {
    /// Unique among all keys of the revision.
    pub id: KeyId,
    /// SHA-256 over the whole key text; unique among all keys.
    pub sha256: [u8; 32],
    /// What it may be used for.
    pub key_type: KeyType,
    /// Refused from this instant on.
    pub expires: Option<jiff::Timestamp>,
}

/// Certificates that let an application in: all with this name that an authority of the listener has issued.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Unique among all keys and certificates of the revision.
    pub id: KeyId,
    /// The name; unique among all certificates.
    pub san: San,
    /// What it may be used for.
    pub key_type: KeyType,
    /// Refused from this instant on.
    pub expires: Option<jiff::Timestamp>,
}

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    /// Real traffic.
    Production,
    /// Trials.
    Sandbox,
}

impl KeyType {
    /// As written in configuration and in the `X-Key-Type` header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Sandbox => "sandbox",
        }
    }
}

/// Which key types a gateway lets in (`gateway.environment_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentType {
    /// Both.
    #[default]
    Hybrid,
    /// Production keys only.
    Production,
    /// Sandbox keys only.
    Sandbox,
}

impl EnvironmentType {
    /// Whether a key of this type is let in here.
    #[must_use]
    pub fn admits(self, key_type: KeyType) -> bool {
        match self {
            Self::Hybrid => true,
            Self::Production => key_type == KeyType::Production,
            Self::Sandbox => key_type == KeyType::Sandbox,
        }
    }
}
