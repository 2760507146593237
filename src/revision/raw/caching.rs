//! What is kept of answers, as it is written.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};

use super::super::CacheShare;
use super::super::grammar::Method;
use crate::document::{At, Size, Text};
use crate::units::Ratio;

/// What is kept of answers, so that the upstream is not asked again: what RFC 9111 lets a shared cache keep, and what is
/// said here where the upstream says nothing. Credentials and limits count for every request, also when its answer was
/// kept. `{}` is the cache with all of its defaults.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawCache {
    /// Which requests are answered from the cache: GET, HEAD. Default both.
    #[schemars(length(min = 1))]
    pub(in crate::revision) methods: Option<At<Vec<At<Text<Method>>>>>,
    /// How long an answer is fresh that does not say it. 0s: only answers that say it are kept. Default 300s.
    pub(in crate::revision) ttl: Option<At<Text<Duration>>>,
    /// The same for answers that say that there is nothing: 404, 405, 410, 414 and 501. Default 10s.
    pub(in crate::revision) negative_ttl: Option<At<Text<Duration>>>,
    /// The longest time that an answer is fresh, whatever it says; at most 30d. Default 3600s.
    pub(in crate::revision) max_ttl: Option<At<Text<Duration>>>,
    /// By what share a lifetime is changed at random, so that what came together does not end together: `0%` to `50%`.
    /// What the upstream says is only ever made shorter. Default 10%.
    pub(in crate::revision) jitter: Option<At<Text<Ratio>>>,
    /// How long after its end an answer is still given while it is fetched anew (RFC 5861), where the upstream does not
    /// say it; at most 7d. Default 0s.
    pub(in crate::revision) stale_while_revalidate: Option<At<Text<Duration>>>,
    /// How long after its end an answer is still given when the upstream fails (RFC 5861), where the upstream does not
    /// say it; at most 7d. Default 0s.
    pub(in crate::revision) stale_if_error: Option<At<Text<Duration>>>,
    /// In which last share of its lifetime an answer that is asked for often is fetched anew, before anybody has to wait
    /// for it: `0%` to `50%`. Default 0%: never.
    pub(in crate::revision) refresh_ahead: Option<At<Text<Ratio>>>,
    /// Largest content of an answer that is kept, at most 64MiB. Default 1MiB.
    pub(in crate::revision) body_bytes: Option<At<Text<Size>>>,
    /// Who may get what was made for somebody. Default `caller`; where `auth: none`, everybody is the same caller and
    /// it is always `everyone`.
    pub(in crate::revision) share: Option<At<CacheShare>>,
    /// Whether answers to requests with `Authorization` are kept although the upstream does not allow it (RFC 9111 section
    /// 3.5). Only with `share: caller`, and where this API reads credentials from that header. Default false.
    pub(in crate::revision) authorized: Option<At<bool>>,
    /// Whether answers with `Set-Cookie` are kept, if they say themselves how long they are fresh. Default true.
    pub(in crate::revision) set_cookie: Option<bool>,
    /// Whether a client's `Cache-Control` and `Pragma` count: `no-cache` fetches anew. Default true.
    pub(in crate::revision) client_directives: Option<bool>,
    /// Whether answers say in `Cache-Status` (RFC 9211) what the cache did. Default true.
    pub(in crate::revision) cache_status: Option<bool>,
}

/// What a route says of it.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "read once per revision, and gone when it is resolved"
)]
pub(in crate::revision) enum RawRouteCache {
    /// Nothing is kept, whatever the API says.
    Off,
    /// This, and nothing of what the API says.
    Own(RawCache),
}

// `off` or a mapping: serde's untagged enums would lose the places and say "did not match any variant".
impl<'de> Deserialize<'de> for RawRouteCache {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CacheVisitor;

        impl<'de> Visitor<'de> for CacheVisitor {
            type Value = RawRouteCache;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off` or a mapping, of which `{}` has all defaults")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawRouteCache, E> {
                match text {
                    "off" => Ok(RawRouteCache::Off),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            /// `off` is this word in YAML 1.1, and programs that write YAML may put it so.
            fn visit_bool<E: Error>(self, truth: bool) -> Result<RawRouteCache, E> {
                match truth {
                    false => Ok(RawRouteCache::Off),
                    true => Err(E::invalid_value(Unexpected::Bool(true), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<RawRouteCache, A::Error> {
                RawCache::deserialize(MapAccessDeserializer::new(access)).map(RawRouteCache::Own)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<RawRouteCache, A::Error> {
                Err(A::Error::invalid_type(Unexpected::Seq, &self))
            }
        }

        deserializer.deserialize_any(CacheVisitor)
    }
}

impl JsonSchema for RawRouteCache {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RawRouteCache".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let own = generator.subschema_for::<RawCache>();
        json_schema!({ "oneOf": [{ "enum": ["off", false] }, own] })
    }
}
