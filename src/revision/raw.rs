//! `revision.yaml` as it is written.
//!
//! The doc comments here are the descriptions in the JSON Schema, so they are addressed to the file's author.
//! Keys that are required are options all the same: a key that is missing is reported by the checks, together
//! with everything else. Nothing but `super::validate` looks at these types.

mod caching;
mod edits;
mod upstream;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use self::upstream::{
    RawBalance, RawBreaker, RawEndpoint, RawHashKey, RawHealthCheck, RawPool, RawProtocol, RawRetries, RawUpstream,
    RawUpstreamTimeouts, RawUpstreamTls, RawZones,
};
use super::WithoutStore;
use super::grammar::{
    AlgorithmName, BasePath, Expiry, Header, HostText, Method, Parameter, RoutePath, ScopeToken, Sha256, TargetPath,
    ZoneName,
};
use crate::document::{At, Name, NotAvailable, Secret, Size, Text};
use crate::san::San;
use crate::units::{Rate, Ratio};

pub(super) use caching::{RawCache, RawRouteCache};
pub(super) use edits::{
    Fields, RawAddresses, RawCors, RawFieldEdits, RawHeaders, RawRedirect, RawRespond, RawShare, RawSplit, RawSticky,
};

/// What a gateway does: what is published, where it goes, who may call it and how often. Watched, checked as a
/// whole and swapped atomically.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRevision {
    /// The version of this format: 1.
    #[schemars(required, range(min = 1, max = 1))]
    pub(super) version: Option<At<u64>>,
    /// Where requests go.
    #[serde(default)]
    pub(super) upstreams: Vec<At<RawUpstream>>,
    /// Who may issue tokens.
    #[serde(default)]
    pub(super) issuers: Vec<At<RawIssuer>>,
    /// Sets of limits, to which subscriptions refer.
    #[serde(default)]
    pub(super) plans: Vec<At<RawPlan>>,
    /// What is published.
    #[serde(default)]
    pub(super) apis: Vec<At<RawApi>>,
    /// Who calls.
    #[serde(default)]
    pub(super) applications: Vec<At<RawApplication>>,
    /// Certificates. Not available in this build.
    #[serde(default)]
    pub(super) tls: NotAvailable,
}

/// An issuer of tokens.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIssuer {
    /// What this file calls the issuer; unique among issuers.
    #[schemars(required)]
    pub(super) name: Option<At<Text<Name>>>,
    /// The `iss` that its tokens carry, character for character. Required with `jwks`.
    #[schemars(length(min = 1))]
    pub(super) issuer: Option<At<String>>,
    /// Accepted `aud` values; a token needs one of them. A token for somebody else is not a token for us. Required with
    /// `jwks`.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) audience: Vec<At<String>>,
    /// The algorithms that this issuer signs with; a token that names another one is refused. Required with `jwks`.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) algorithms: Vec<At<Text<AlgorithmName>>>,
    /// Where the issuer's public keys come from: for tokens that say themselves what they are worth (JWT). APIs name
    /// the issuer as `{ jwt: ISSUER }`.
    pub(super) jwks: Option<At<RawJwks>>,
    /// Who is asked what a token is worth that says nothing itself (RFC 7662), instead of `jwks`. APIs name the issuer as
    /// `{ introspection: ISSUER }`.
    pub(super) introspection: Option<At<RawIntrospection>>,
    /// The claim that names the application, such as `azp`. Absent: tokens are not bound to an application.
    #[schemars(length(min = 1))]
    pub(super) application_claim: Option<At<String>>,
    /// Tolerated difference between the clocks, for `exp` and `nbf`; at most 5m. Default 0s.
    pub(super) leeway: Option<At<Text<Duration>>>,
}

/// An introspection endpoint (RFC 7662), and as whom a gateway asks there: `client_id` and `client_secret`, or `token`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIntrospection {
    /// An `https:` (or `http:`) URL.
    #[schemars(required)]
    pub(super) url: Option<At<String>>,
    /// The user name of HTTP Basic.
    #[schemars(length(min = 1))]
    pub(super) client_id: Option<At<String>>,
    /// The password of HTTP Basic, best as a reference: `${cred:corp}`.
    pub(super) client_secret: Option<At<Secret>>,
    /// A bearer token instead, best as a reference.
    pub(super) token: Option<At<Secret>>,
}

/// Where an issuer's public keys come from: exactly one of the three.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJwks {
    /// Fetched in the background: an `https:` (or `http:`) URL.
    pub(super) url: Option<At<String>>,
    /// Read from this file, and again when it changes; relative to the directory of this revision.
    pub(super) file: Option<At<String>>,
    /// Written here: the members of a JWKS `keys` array.
    pub(super) keys: Option<At<Vec<At<serde_json::Value>>>>,
}

/// A set of limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlan {
    /// Unique among plans.
    #[schemars(required)]
    pub(super) name: Option<At<Text<Name>>>,
    /// All of them count for every request; `[]` is an unlimited plan. Counted per application and API unless
    /// `per` says otherwise.
    #[schemars(required)]
    pub(super) limits: Option<Vec<At<RawLimit>>>,
}

/// One limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimit {
    /// Unique inside its plan or API; clients see it in `RateLimit-Policy`.
    #[schemars(required)]
    pub(super) name: Option<At<Text<Name>>>,
    /// How many requests in which time: s, m, h, d, week or month; in UTC unless `time_zone` says otherwise.
    #[schemars(required)]
    pub(super) rate: Option<At<Text<Rate>>>,
    /// How many may come at once (`window: token_bucket` only). Default: the count of the rate.
    #[schemars(range(min = 1))]
    pub(super) burst: Option<At<u32>>,
    /// How time is cut. Default `token_bucket` for rates per second, `fixed` for the others.
    pub(super) window: Option<At<RawWindow>>,
    /// What shares one counter. Default `subscription` in plans and `api` in APIs.
    pub(super) per: Option<At<RawScope>>,
    /// Whether the limit refuses. Default `enforce`.
    pub(super) mode: Option<RawMode>,
    /// What all gateways together may let through beyond the limit, as a share of it: `5%`; `0` is strict. Default: as
    /// `throttle.max_overrun` of the gateway says.
    pub(super) max_overrun: Option<At<Text<Ratio>>>,
    /// What happens while the shared counter is away. Default: as `throttle.on_store_down` of the gateway says.
    pub(super) on_store_down: Option<WithoutStore>,
    /// What happens to a request that has waited for the shared counter as long as it may. Default: as
    /// `throttle.on_timeout` of the gateway says.
    pub(super) on_timeout: Option<WithoutStore>,
    /// Where the days, weeks and months of the limit begin at midnight, by its IANA name: `Europe/Berlin`. With it a
    /// day can have 23 or 25 hours. Only for `fixed` and `sliding` windows of a day, week or month. Default UTC.
    pub(super) time_zone: Option<At<Text<ZoneName>>>,
}

/// How time is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawWindow {
    /// Calendar windows, full at the start of each; in UTC unless `time_zone` says otherwise.
    Fixed,
    /// The window before now, estimated from two calendar windows.
    Sliding,
    /// Refilled evenly.
    TokenBucket,
}

/// What shares one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawScope {
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

/// Whether a limit refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawMode {
    /// Refuses with 429.
    Enforce,
    /// Counts and logs what it would have refused.
    Shadow,
}

/// A published API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApi {
    /// Unique among APIs.
    #[schemars(required)]
    pub(super) name: Option<At<Text<Name>>>,
    /// Hosts it is published on, lower case, without port; `*.example.org` is every host below example.org.
    /// Absent: every host.
    #[schemars(length(min = 1))]
    pub(super) hosts: Option<At<Vec<At<Text<HostText>>>>>,
    /// `/` or a path without slash at its end; the paths of routes are below it.
    #[schemars(required)]
    pub(super) base_path: Option<At<Text<BasePath>>>,
    /// The labels of the gateways that take this API: those that have one of them. Absent: every gateway.
    #[schemars(length(min = 1))]
    pub(super) labels: Option<At<Vec<At<Text<Name>>>>>,
    /// What lets a request in: `none`, or a list of `api_key`, `{ jwt: ISSUER }`, `{ introspection: ISSUER }` and
    /// `client_certificate` of which any one is enough.
    #[schemars(required)]
    pub(super) auth: Option<At<RawAuth>>,
    /// Where credentials are read from.
    pub(super) credentials: Option<RawCredentials>,
    /// The name of the upstream that answers. Required, unless there are `upstreams` or every route answers by itself.
    pub(super) upstream: Option<At<Text<Name>>>,
    /// Several upstreams, among which requests are split by weight, instead of `upstream`.
    #[schemars(length(min = 1))]
    pub(super) upstreams: Option<At<Vec<At<RawShare>>>>,
    /// How they are split.
    pub(super) split: Option<At<RawSplit>>,
    /// The name of the upstream that answers callers with a sandbox key, whatever the split.
    pub(super) sandbox_upstream: Option<At<Text<Name>>>,
    /// Whether `base_path` is cut off before the request goes upstream. Default false. Routes with `rewrite` say
    /// themselves what goes upstream.
    pub(super) strip_base_path: Option<bool>,
    /// Which client addresses are let in. Absent: all.
    pub(super) addresses: Option<At<RawAddresses>>,
    /// What browsers are told about scripts of other origins. Absent: nothing, and what the upstream says passes.
    pub(super) cors: Option<At<RawCors>>,
    /// Changes to header fields.
    pub(super) headers: Option<RawHeaders>,
    /// Largest body of a request, at most what `server.limits.body_bytes` of the gateway allows. Larger ones get 413.
    /// Absent: as the gateway says. For gRPC calls, all messages of a stream together; absent: no bound.
    pub(super) body_bytes: Option<At<Text<Size>>>,
    /// Limits of the API itself, counted for every request that is let in, whoever calls.
    #[serde(default)]
    pub(super) limits: Vec<At<RawLimit>>,
    /// What is answered. Absent: everything below `base_path`, with every method.
    #[schemars(length(min = 1))]
    pub(super) routes: Option<At<Vec<At<RawRoute>>>>,
    /// What is kept of answers, so that the upstream is not asked again. Absent: nothing.
    pub(super) cache: Option<At<RawCache>>,
    /// Certificates of this API's hosts. Not available in this build.
    #[serde(default)]
    pub(super) tls: NotAvailable,
}

/// One way to be let in.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawAuthMethod {
    /// A key of an application that is subscribed to the API.
    ApiKey,
    /// A token of this issuer, which has `jwks`.
    Jwt(At<Text<Name>>),
    /// A token that this issuer, which has `introspection`, calls active.
    Introspection(At<Text<Name>>),
    /// A certificate that the client shows in its TLS handshake, of an application that is subscribed to the API. Only
    /// where a listener asks for one. A key or token that the API takes too goes before it.
    ClientCertificate,
}

/// What lets a request in.
#[derive(Debug)]
pub(super) enum RawAuth {
    /// Nothing is asked for.
    None,
    /// Any of these.
    Any(Vec<At<RawAuthMethod>>),
}

/// Where credentials are read from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCredentials {
    /// Header that carries a key. Default X-API-Key.
    pub(super) key_header: Option<At<Text<Header>>>,
    /// Query parameter that carries a key. Default none, because URLs end up in logs.
    pub(super) key_query: Option<At<Text<Parameter>>>,
    /// Header that carries `Bearer` and a token. Default Authorization.
    pub(super) token_header: Option<At<Text<Header>>>,
    /// Whether the upstream gets the credential too. Default false.
    pub(super) forward: Option<bool>,
}

/// A path and the methods it answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    /// Path below `base_path`. A segment is a text, `{name}` for exactly one segment, or as the last one `*` for
    /// everything below. `/` is the base path itself.
    #[schemars(required)]
    pub(super) path: Option<At<Text<RoutePath>>>,
    /// Answered methods. Absent: all.
    #[schemars(length(min = 1))]
    pub(super) methods: Option<At<Vec<At<Text<Method>>>>>,
    /// Scopes that a token needs, all of them. Keys carry no scopes and are refused where some are asked for.
    #[serde(default)]
    pub(super) scopes: Vec<At<Text<ScopeToken>>>,
    /// Path that the upstream gets instead of the one that was matched: the whole path (`base_path` is not put before
    /// it), with `*` and `{parameters}` that `path` has too. The query stays.
    pub(super) rewrite: Option<At<Text<TargetPath>>>,
    /// Sends clients elsewhere instead of their requests to the upstream. Credentials and limits of the API count.
    pub(super) redirect: Option<At<RawRedirect>>,
    /// Answers without an upstream. Credentials and limits of the API count.
    pub(super) respond: Option<At<RawRespond>>,
    /// Which client addresses are let in, instead of what the API says.
    pub(super) addresses: Option<At<RawAddresses>>,
    /// Changes to header fields, after those of the API.
    pub(super) headers: Option<RawHeaders>,
    /// Largest body of a request, instead of what the API says; at most what the gateway allows.
    pub(super) body_bytes: Option<At<Text<Size>>>,
    /// What is kept of answers, instead of all that the API says about it; `off`: nothing.
    pub(super) cache: Option<At<RawRouteCache>>,
}

/// A client program.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApplication {
    /// Unique among applications; upstreams get it in `X-Application`.
    #[schemars(required)]
    pub(super) name: Option<At<Text<Name>>>,
    /// What it may call, and under which plan; at most one for each API.
    #[serde(default)]
    pub(super) subscriptions: Vec<At<RawSubscription>>,
    /// Its keys. `tollgate key new` makes one and prints the record for this list.
    #[serde(default)]
    pub(super) keys: Vec<At<RawKey>>,
    /// Its client certificates, by a name in them: any certificate with this name that a listener's authorities have
    /// issued.
    #[serde(default)]
    pub(super) certificates: Vec<At<RawCertificate>>,
}

/// The right to call an API under a plan.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSubscription {
    /// The name of the API.
    #[schemars(required)]
    pub(super) api: Option<At<Text<Name>>>,
    /// The name of the plan.
    #[schemars(required)]
    pub(super) plan: Option<At<Text<Name>>>,
}

/// The record of a key: its hash, never the key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKey {
    /// The public name of the key, for logs; unique among all keys.
    #[schemars(required)]
    pub(super) id: Option<At<Text<Name>>>,
    /// SHA-256 over the whole text of the key, in hex; unique among all keys.
    #[schemars(required)]
    pub(super) sha256: Option<At<Text<Sha256>>>,
    /// What the key may be used for. Default `production`.
    #[serde(rename = "type")]
    pub(super) key_type: Option<RawKeyType>,
    /// Refused from this instant on: `2027-01-01T00:00:00Z`. Absent: does not expire.
    pub(super) expires: Option<At<Text<Expiry>>>,
}

/// The client certificates of an application.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCertificate {
    /// The public name, for logs; unique among all keys and certificates.
    #[schemars(required)]
    pub(super) id: Option<At<Text<Name>>>,
    /// A subject alternative name: `uri:spiffe://example.org/mobile`, `dns:mobile.example.org`, `email:ops@example.org`
    /// or `ip:192.0.2.1`; unique among all certificates.
    #[schemars(required)]
    pub(super) san: Option<At<Text<San>>>,
    /// What it may be used for. Default `production`.
    #[serde(rename = "type")]
    pub(super) key_type: Option<RawKeyType>,
    /// Refused from this instant on, whatever the certificate says. Absent: as the certificate says.
    pub(super) expires: Option<At<Text<Expiry>>>,
}

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawKeyType {
    /// Real traffic.
    Production,
    /// Trials.
    Sandbox,
}

// `none` or a list: serde's untagged enums would lose the places and say "did not match any variant".
mod auth {
    use std::borrow::Cow;
    use std::fmt;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Unexpected, Visitor};

    use super::{At, RawAuth, RawAuthMethod};

    impl<'de> Deserialize<'de> for RawAuth {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct AuthVisitor;

            impl<'de> Visitor<'de> for AuthVisitor {
                type Value = RawAuth;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(
                        "`none` or a list of `api_key`, `{ jwt: ISSUER }`, `{ introspection: ISSUER }` and \
                         `client_certificate`",
                    )
                }

                fn visit_str<E: Error>(self, text: &str) -> Result<RawAuth, E> {
                    match text {
                        "none" => Ok(RawAuth::None),
                        other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                    }
                }

                fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<RawAuth, A::Error> {
                    let mut methods: Vec<At<RawAuthMethod>> = Vec::new();
                    while let Some(method) = access.next_element()? {
                        methods.push(method);
                    }
                    Ok(RawAuth::Any(methods))
                }

                fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<RawAuth, A::Error> {
                    Err(A::Error::invalid_type(Unexpected::Map, &self))
                }
            }

            deserializer.deserialize_any(AuthVisitor)
        }
    }

    impl JsonSchema for RawAuth {
        fn inline_schema() -> bool {
            true
        }

        fn schema_name() -> Cow<'static, str> {
            "RawAuth".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            let method = generator.subschema_for::<RawAuthMethod>();
            json_schema!({ "oneOf": [{ "const": "none" }, { "type": "array", "items": method, "minItems": 1 }] })
        }
    }
}
