//! Addresses, CORS and header fields.

use std::collections::HashSet;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::super::grammar::FieldName;
use super::super::raw::{Fields, RawAddresses, RawCors, RawFieldEdits, RawHeaders};
use super::super::{AddressRules, AuthMethod, Cors, CredentialPlaces, FieldEdits, HeaderEdits, OriginPattern};
use super::Checker;
use crate::document::{At, Place, Text, quote};

/// The longest time that any browser remembers the answer to a preflight.
const LONGEST_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the upstream.
    Request,
    /// To the client.
    Response,
}

impl Checker<'_> {
    pub(super) fn addresses(&mut self, raw: Option<&At<RawAddresses>>, who: &str) -> Option<AddressRules> {
        let raw = raw?;
        let RawAddresses { allow, deny } = &raw.value;
        if allow.is_none() && deny.is_none() {
            let message =
                format!("{who} has \"addresses\" with neither \"allow\" nor \"deny\"; remove it to let in all");
            self.report.error(raw.place, message);
        }
        let rules = AddressRules {
            allow: self.ranges(raw.place, "allow", allow.as_ref(), who),
            deny: self.ranges(raw.place, "deny", deny.as_ref(), who),
        };
        for range in deny.iter().flat_map(|deny| &deny.value) {
            if rules.allow.contains(range.get()) {
                let message = format!("{who} both allows and denies {}; remove one", range.get());
                self.report.error(range.place, message);
            }
        }
        Some(rules)
    }

    fn ranges(&mut self, item: Place, key: &str, raw: Option<&At<Vec<At<Text<IpNet>>>>>, who: &str) -> Vec<IpNet> {
        let Some(raw) = raw else {
            return Vec::new();
        };
        if raw.is_empty() && !self.dropped.contains(item, key) {
            let message = format!("{who} has an empty list of addresses; remove {}", quote(key));
            self.report.error(raw.place, message);
        }
        let mut ranges = Vec::with_capacity(raw.len());
        let mut seen = HashSet::with_capacity(raw.len());
        for range in &raw.value {
            if !seen.insert(*range.get()) {
                let message = format!("{who} has the range {} twice", range.get());
                self.report.error(range.place, message);
            }
            ranges.push(*range.get());
        }
        ranges
    }

    pub(super) fn cors(
        &mut self,
        raw: Option<&At<RawCors>>,
        who: &str,
        (auth, places): (&[AuthMethod], &CredentialPlaces),
    ) -> Option<Cors> {
        let raw = raw?;
        let RawCors {
            origins,
            methods,
            headers,
            expose,
            credentials,
            max_age,
        } = &raw.value;
        self.not_empty(raw.place, &format!("cors of {who}"), "origins", origins);
        if let Some(methods) = methods {
            self.not_empty(raw.place, &format!("cors of {who}"), "methods", methods);
        }
        let mut seen = HashSet::with_capacity(origins.len());
        for origin in origins {
            if !seen.insert(&origin.get().0) {
                self.report.error(origin.place, format!("{who} has this origin twice"));
            }
            if origin.get().0 == OriginPattern::Any && origins.len() > 1 {
                let message = format!("{who} lets in \"*\", which is every origin; remove it or the others");
                self.report.error(origin.place, message);
            }
        }
        let credentials = credentials.unwrap_or(false);
        if credentials {
            let origins = origins.iter().filter(|origin| origin.get().0 == OriginPattern::Any);
            let methods = methods.iter().flat_map(|methods| &methods.value);
            let headers = headers.iter().flatten().chain(expose);
            let wildcards = (origins.map(|origin| origin.place))
                .chain(
                    methods
                        .filter(|method| method.get().0 == "*")
                        .map(|method| method.place),
                )
                .chain(
                    headers
                        .filter(|header| header.get().0 == "*")
                        .map(|header| header.place),
                );
            for place in wildcards {
                let message = format!(
                    "{who} has \"*\" beside credentials: true, which browsers refuse, because every site could act as \
                     its visitors; list what is meant"
                );
                self.report.error(place, message);
            }
        }
        if let Some(max_age) = max_age
            && *max_age.get() > LONGEST_MAX_AGE
        {
            let message = "\"max_age\" is at most 1d; browsers remember no longer";
            self.report.error(max_age.place, message);
        }
        let default_headers = || {
            let mut names = vec!["content-type".to_owned()];
            if auth.contains(&AuthMethod::ApiKey) {
                names.push(places.key_header.to_string());
            }
            if auth.iter().any(AuthMethod::is_token) {
                names.push(places.token_header.to_string());
            }
            names
        };
        Some(Cors {
            origins: origins.iter().map(|origin| origin.get().0.clone()).collect(),
            methods: methods
                .as_ref()
                .map(|methods| methods.iter().map(|method| method.get().0.clone()).collect()),
            headers: headers.as_ref().map_or_else(default_headers, |headers| {
                headers.iter().map(|header| header.get().0.clone()).collect()
            }),
            expose: expose.iter().map(|header| header.get().0.clone()).collect(),
            credentials,
            max_age: max_age.as_ref().map(|max_age| *max_age.get()),
        })
    }

    pub(super) fn header_edits(&mut self, raw: Option<&RawHeaders>, who: &str, cors: bool) -> HeaderEdits {
        let default = RawHeaders::default();
        let RawHeaders { request, response } = raw.unwrap_or(&default);
        HeaderEdits {
            request: self.field_edits(request.as_ref(), who, Way::Request, cors),
            response: self.field_edits(response.as_ref(), who, Way::Response, cors),
        }
    }

    fn field_edits(&mut self, raw: Option<&RawFieldEdits>, who: &str, way: Way, cors: bool) -> FieldEdits {
        let Some(RawFieldEdits { set, add, remove }) = raw else {
            return FieldEdits::default();
        };
        let mut removed = Vec::with_capacity(remove.len());
        for name in remove {
            let FieldName(field) = name.get();
            if *field == HOST && way == Way::Request {
                let message = format!("{who} removes \"host\", without which no request is whole; set it instead");
                self.report.error(name.place, message);
            } else if let Some(why) = owned(field, way, cors) {
                self.report.error(name.place, told(who, field, why));
            } else if removed.contains(field) {
                let message = format!("{who} removes {} twice", quote(field.as_str()));
                self.report.error(name.place, message);
            }
            if let Some((_, value)) = set.0.iter().find(|(FieldName(other), _)| other == field) {
                let message = format!(
                    "{who} both removes and sets {}; to set it is enough",
                    quote(field.as_str())
                );
                self.report.error(value.place, message);
            }
            removed.push(field.clone());
        }
        FieldEdits {
            remove: removed,
            set: self.fields(set, who, way, cors),
            add: self.added(add, who, way, cors),
        }
    }

    /// Fields with their values, each at most once.
    pub(super) fn fields(&mut self, raw: &Fields, who: &str, way: Way, cors: bool) -> Vec<(HeaderName, HeaderValue)> {
        let mut seen = HashSet::with_capacity(raw.0.len());
        let mut fields = Vec::with_capacity(raw.0.len());
        for (FieldName(field), value) in &raw.0 {
            if let Some(why) = owned(field, way, cors) {
                self.report.error(value.place, told(who, field, why));
            }
            if *field == HOST && !is_authority(&value.get().0) {
                let message = format!("{who} sets \"host\" to what is neither a host nor a host and a port");
                self.report.error(value.place, message);
            }
            if !seen.insert(field) {
                let message = format!(
                    "{who} sets {} twice; header names are the same in upper and lower case",
                    quote(field.as_str())
                );
                self.report.error(value.place, message);
            }
            fields.push((field.clone(), value.get().0.clone()));
        }
        fields
    }

    fn added(&mut self, raw: &Fields, who: &str, way: Way, cors: bool) -> Vec<(HeaderName, HeaderValue)> {
        if let Some((_, value)) = raw
            .0
            .iter()
            .find(|(FieldName(field), _)| *field == HOST && way == Way::Request)
        {
            let message = format!("{who} adds a second \"host\", which no server may accept; set it instead");
            self.report.error(value.place, message);
            return Vec::new();
        }
        self.fields(raw, who, way, cors)
    }
}

/// Why a field can not be changed, if it can not.
fn owned(name: &HeaderName, way: Way, cors: bool) -> Option<&'static str> {
    let framing = "says where a message ends or belongs to one connection, which the gateway takes care of";
    match (name.as_str(), way) {
        (
            "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "content-length"
            | "proxy-authenticate"
            | "proxy-authorization",
            _,
        )
        | ("expect", Way::Request) => Some(framing),
        ("x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host", Way::Request) => {
            Some("says where the request came from, which the gateway finds out itself")
        }
        ("x-application" | "x-key-type", Way::Request) => {
            Some("says who calls, which upstreams have to be able to trust")
        }
        ("x-request-id", _) | ("traceparent", Way::Request) => {
            Some("names the request, in logs of the gateway and of upstreams alike")
        }
        ("ratelimit" | "ratelimit-policy", Way::Response) => Some("says what the limits of the gateway have left"),
        ("date", Way::Response) => Some("is when the gateway answers"),
        (name, Way::Response) if cors && name.starts_with("access-control-") => Some("is what \"cors\" says"),
        _ => None,
    }
}

fn told(who: &str, field: &HeaderName, why: &str) -> String {
    format!("{who} can not change {}: it {why}", quote(field.as_str()))
}

/// Whether this may stand in `Host`.
fn is_authority(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    (text.parse::<http::uri::Authority>()).is_ok_and(|parsed| !parsed.host().is_empty() && !text.contains('@'))
}
