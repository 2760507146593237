//! What is changed on the way, as it is written.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::super::grammar::{CookieName, CorsToken, FieldName, FieldValue, Method, OriginText, RedirectTarget};
use crate::document::{At, Grammar, Name, Text};

/// Which client addresses are let in; behind trusted proxies, the client's own counts. Of all ranges that hold an
/// address, the smallest decides; an address in none is let in if `allow` is absent, and refused otherwise. A refused
/// address gets 403 `address_denied` before anybody asks for a credential.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawAddresses {
    /// Ranges that are let in: `10.0.0.0/8`, `2001:db8::/32` or a single address.
    #[schemars(length(min = 1))]
    pub(in crate::revision) allow: Option<At<Vec<At<Text<IpNet>>>>>,
    /// Ranges that are refused.
    #[schemars(length(min = 1))]
    pub(in crate::revision) deny: Option<At<Vec<At<Text<IpNet>>>>>,
}

/// What browsers are told about scripts of other origins (CORS). Preflights are answered by the gateway, before
/// credentials and limits, for routes that exist with the method that is asked about; all other answers of the API carry
/// the fields, refusals too. What the upstream says about CORS is replaced.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawCors {
    /// Origins whose scripts may read answers: `https://app.example.com`, `https://*.example.org` for every host below
    /// example.org (not example.org itself), `null`, or `*` alone for all of them.
    #[serde(default)]
    #[schemars(required, length(min = 1))]
    pub(in crate::revision) origins: Vec<At<Text<OriginText>>>,
    /// Methods that scripts may use. Absent: those that the route answers.
    #[schemars(length(min = 1))]
    pub(in crate::revision) methods: Option<At<Vec<At<Text<CorsMethod>>>>>,
    /// Header fields that scripts may send. Absent: Content-Type and the headers that carry credentials of this API.
    pub(in crate::revision) headers: Option<Vec<At<Text<CorsToken>>>>,
    /// Header fields of answers that scripts may read, beyond the few that they always may. Absent: none.
    #[serde(default)]
    pub(in crate::revision) expose: Vec<At<Text<CorsToken>>>,
    /// Whether cookies and HTTP authentication may be sent along; not with `*` in any of the lists. Default false.
    pub(in crate::revision) credentials: Option<bool>,
    /// How long browsers may remember the answer to a preflight, at most 1d. Absent: as long as they like, usually 5 s.
    pub(in crate::revision) max_age: Option<At<Text<Duration>>>,
}

/// A method in a CORS list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct CorsMethod(pub(in crate::revision) String);

impl Grammar for CorsMethod {
    const WHAT: &'static str = "a method such as GET, or *";

    fn read(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        Method::read(text).map(|Method(method)| Self(method))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^(\*|[A-Z0-9_-]{1,32})$", "examples": ["GET", "*"] })
    }
}

/// Changes to header fields, the API's before the route's. Values are literal. What the gateway itself says about a
/// message (its framing, who calls, ids, limits) can not be changed. Refusals are not changed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawHeaders {
    /// On the way to the upstream.
    pub(in crate::revision) request: Option<RawFieldEdits>,
    /// On the way to the client: of the upstream's answers, of redirects and of answers of the gateway.
    pub(in crate::revision) response: Option<RawFieldEdits>,
}

/// Changes to header fields, made in this order: remove, set, add.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawFieldEdits {
    /// Fields that are replaced, or put there, with their values.
    #[serde(default)]
    pub(in crate::revision) set: Fields,
    /// Fields that get one more line, with its value.
    #[serde(default)]
    pub(in crate::revision) add: Fields,
    /// Fields that are taken away.
    #[serde(default)]
    pub(in crate::revision) remove: Vec<At<Text<FieldName>>>,
}

/// Header fields with their values, in the order of the file.
#[derive(Debug, Default)]
pub(in crate::revision) struct Fields(pub(in crate::revision) Vec<(FieldName, At<Text<FieldValue>>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("header fields with their values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(Text(name)) = access.next_key()? {
                    fields.push((name, access.next_value()?));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl JsonSchema for Fields {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Fields".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": FieldName::schema(),
            "additionalProperties": FieldValue::schema(),
            "examples": [{ "X-Tenant": "acme" }]
        })
    }
}

/// One upstream of a split.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawShare {
    /// The name of the upstream.
    #[schemars(required)]
    pub(in crate::revision) name: Option<At<Text<Name>>>,
    /// Its share relative to the others, 0 to 1000; with 0 it only gets what is sent there by `override_header`.
    #[schemars(required, range(min = 0, max = 1000))]
    pub(in crate::revision) weight: Option<At<u32>>,
}

/// How requests are split between `upstreams`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawSplit {
    /// What goes to the same upstream every time, as long as the weights stay; when they change, only the share moves
    /// that has to. Absent: every request is drawn.
    pub(in crate::revision) sticky: Option<RawSticky>,
    /// A header in which a client may name one of the upstreams of this split; other names are ignored. It is never
    /// passed on. Everybody who may call the API may use it.
    pub(in crate::revision) override_header: Option<At<Text<FieldName>>>,
}

/// What goes to the same upstream every time.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::revision) enum RawSticky {
    /// The caller: the subject of a token, else the key, else the client address.
    Caller,
    /// The client address.
    ClientIp,
    /// The value of this header; a request without it is drawn.
    Header(At<Text<FieldName>>),
    /// The value of this cookie; a request without it is drawn.
    Cookie(At<Text<CookieName>>),
}

/// Sends the client elsewhere, with the query that it came with.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawRedirect {
    /// A whole path (`base_path` is not put before it) or an `http:` or `https:` URL, with `*` and `{parameters}` that
    /// the path of the route has too.
    #[schemars(required)]
    pub(in crate::revision) to: Option<At<Text<RedirectTarget>>>,
    /// 301, 302, 303, 307 or 308. Default 308: for good, with the same method.
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    pub(in crate::revision) status: Option<At<u32>>,
}

/// Answers without an upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::revision) struct RawRespond {
    /// 200 to 599. Default 200.
    #[schemars(range(min = 200, max = 599))]
    pub(in crate::revision) status: Option<At<u32>>,
    /// What the body is. Default `text/plain; charset=utf-8`.
    pub(in crate::revision) content_type: Option<At<Text<FieldValue>>>,
    /// Content, at most 64 KiB. Default nothing.
    #[schemars(length(max = 65536))]
    pub(in crate::revision) body: Option<At<String>>,
    /// More header fields.
    #[serde(default)]
    pub(in crate::revision) headers: Fields,
}
