//! What an environment consists of: the document that was published to it, the revisions of APIs that are deployed to it,
//! and the plans and applications that subscribe to them. Pure; the store is elsewhere.
//!
//! What comes out is checked by the very code of `tollgate check`, so that nothing is published that a gateway can not
//! compile.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::authoring::application::Application;
use super::authoring::plan::Plan;
use super::secrets::{self, HIDDEN};
use crate::distribution::{Content, ContentError, Kind};
use crate::document::{Environment, Mistake, Mistakes, Severity, is_credential, quote};
use crate::revision::{self, Loaded};
use crate::snapshot;

/// What is an environment's own. Stored as [`ObjectKind::Source`](super::store::ObjectKind::Source).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The document that was published to it, as a plain value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Value>,
    /// Which revision of which API is deployed to it.
    #[serde(default)]
    pub deployments: BTreeMap<String, u32>,
}

/// What a [`Source`] was, told in names: together with the content of its revision it can be restored. Stored with every
/// revision, where the document itself would take its whole size a second time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// What of the content came from the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<BTreeMap<Kind, Vec<String>>>,
    /// Which revision of which API was deployed.
    #[serde(default)]
    pub deployments: BTreeMap<String, u32>,
}

/// Where an object of a content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The document that was published.
    Document,
    /// A revision of an API.
    Revision(String, u32),
    /// A plan, authored.
    Plan(String),
    /// An application, authored.
    Application(String),
}

/// The documents of API revisions, by API and number.
pub type Fragments = BTreeMap<(String, u32), Value>;

/// A content of which nobody knows yet whether it can be published.
#[derive(Debug, Default)]
pub struct Composed {
    /// What there is.
    pub content: Content,
    origins: BTreeMap<(Kind, String), Origin>,
    mistakes: Vec<String>,
}

/// What is known of a content that can be published.
#[derive(Debug)]
pub struct Checked {
    /// Routes in it.
    pub routes: u64,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

/// Puts together what an environment consists of.
#[must_use]
pub fn compose<'a>(
    source: &Source,
    fragments: &Fragments,
    plans: impl Fn(&str) -> Option<&'a Plan>,
    applications: impl Iterator<Item = (&'a str, &'a Application)>,
) -> Composed {
    let mut composed = Composed::default();
    if let Some(document) = &source.document {
        composed.add_document(document, &Origin::Document);
    }
    for (api, number) in &source.deployments {
        let origin = Origin::Revision(api.clone(), *number);
        match fragments.get(&(api.clone(), *number)) {
            Some(fragment) => composed.add_document(fragment, &origin),
            None => composed.mistakes.push(format!(
                "{origin} is deployed here, but it is not there any more; undeploy it"
            )),
        }
    }
    for (name, application) in applications {
        let subscriptions: Vec<&_> = (application.subscriptions.iter())
            .filter(|subscription| composed.content.get(Kind::Api, &subscription.api).is_some())
            .collect();
        if subscriptions.is_empty() {
            continue;
        }
        for subscription in &subscriptions {
            if let Some(plan) = plans(&subscription.plan) {
                let value = json!({ "name": subscription.plan, "limits": plan.limits });
                let origin = Origin::Plan(subscription.plan.clone());
                composed.add(Kind::Plan, &subscription.plan, &value, origin);
            }
        }
        let mut value = json!({ "name": name, "subscriptions": subscriptions });
        if !application.certificates.is_empty() {
            value["certificates"] = json!(application.certificates);
        }
        composed.add(Kind::Application, name, &value, Origin::Application(name.to_owned()));
    }
    composed
}

impl Composed {
    fn add_document(&mut self, document: &Value, origin: &Origin) {
        for kind in Kind::ALL {
            let items = document.get(kind.list()).and_then(Value::as_array);
            for item in items.into_iter().flatten() {
                match item.get("name").and_then(Value::as_str) {
                    Some(name) => self.add(kind, name, item, origin.clone()),
                    None => self.mistakes.push(format!(
                        "{origin}: the name of an item of \"{}\" is not a text; write it in quotes",
                        kind.list()
                    )),
                }
            }
        }
    }

    /// The same name with the same content is one object, with another content a mistake.
    fn add(&mut self, kind: Kind, name: &str, value: &Value, origin: Origin) {
        let key = (kind, name.to_owned());
        let text = value.to_string();
        match self.content.get(kind, name) {
            Some(there) if there == text => {}
            Some(_) => {
                let other = self.origins.get(&key).map(ToString::to_string).unwrap_or_default();
                self.mistakes.push(format!(
                    "{} {} is one thing in {other} and another one in {origin}; make them equal, or give one of them \
                     another name",
                    kind.as_str(),
                    quote(name)
                ));
            }
            None => {
                self.content.insert(kind, name, value);
                self.origins.insert(key, origin);
            }
        }
    }

    /// Whether gateways can compile it.
    ///
    /// # Errors
    /// Every mistake; they name objects, because there is no file in which they have a place.
    pub fn check(&self, environment: &str) -> Result<Checked, Vec<String>> {
        let (text, lines) = self.document();
        let checked = parsed(&text, environment);
        let told = |mistake: &Mistake| {
            let origin = lines
                .get(&mistake.line)
                .map(|origin| format!("{origin}: "))
                .unwrap_or_default();
            let message = with_origins(&mistake.message, &lines);
            format!("environment {}: {origin}{message}", quote(environment))
        };
        let clashes = self
            .mistakes
            .iter()
            .map(|mistake| format!("environment {}: {mistake}", quote(environment)));
        match checked {
            Ok(loaded) if self.mistakes.is_empty() => {
                let routes = loaded.revision.apis.iter().map(|api| api.routes.len() as u64).sum();
                let mut warnings: Vec<String> = loaded.warnings.iter().map(told).collect();
                warnings.extend(self.secrets_in_clear());
                Ok(Checked { routes, warnings })
            }
            Ok(_) => Err(clashes.collect()),
            Err(mistakes) => Err(clashes.chain(errors(&mistakes).map(told)).collect()),
        }
    }

    /// The revision document, one object a line, and what stands in which line. Dollars are doubled: the references have
    /// been looked at when the parts came in, and what is left of them stands for itself.
    fn document(&self) -> (String, BTreeMap<u32, String>) {
        let mut text = "{\"version\": 1".to_owned();
        let mut lines = BTreeMap::new();
        let mut line = 1;
        let mut list = None;
        for (kind, name, value) in self.content.iter() {
            if list == Some(kind) {
                text.push_str(",\n");
                line += 1;
            } else {
                let end = if list.is_some() { "]" } else { "" };
                text.push_str(&format!("{end},\n\"{}\": [\n", kind.list()));
                line += 2;
                list = Some(kind);
            }
            let origin = match self.origins.get(&(kind, name.to_owned())) {
                Some(origin @ (Origin::Document | Origin::Revision(..))) => {
                    format!("{} {} of {origin}", kind.as_str(), quote(name))
                }
                Some(origin) => origin.to_string(),
                None => format!("{} {}", kind.as_str(), quote(name)),
            };
            lines.insert(line, origin);
            text.push_str(&with_doubled_dollars(value));
        }
        text.push_str(if list.is_some() { "]}\n" } else { "}\n" });
        (text, lines)
    }

    fn secrets_in_clear(&self) -> impl Iterator<Item = String> {
        self.content.iter().filter_map(|(kind, name, value)| {
            let mut value: Value = serde_json::from_str(value).ok()?;
            let place = secrets::hide(&mut value).into_iter().next()?;
            Some(format!(
                "{} {}: the secret in {place} is stored and sent to gateways in clear; write ${{cred:name}} and give each \
                 gateway the credential",
                kind.as_str(),
                quote(name)
            ))
        })
    }
}

impl Recipe {
    /// What this source is.
    #[must_use]
    pub fn of(source: &Source) -> Self {
        let names = |document: &Value| {
            let list = |kind: Kind| -> Vec<String> {
                let items = document.get(kind.list()).and_then(Value::as_array);
                let names = items
                    .into_iter()
                    .flatten()
                    .filter_map(|item| item.get("name").and_then(Value::as_str));
                names.map(str::to_owned).collect()
            };
            Kind::ALL
                .into_iter()
                .map(|kind| (kind, list(kind)))
                .filter(|(_, names)| !names.is_empty())
                .collect()
        };
        Self {
            document: source.document.as_ref().map(names),
            deployments: source.deployments.clone(),
        }
    }

    /// The source as it was, given the content that it had become. What was deployed and is not authored any more, as
    /// `authored` tells, becomes a part of the document, so that nothing of the content is lost.
    #[must_use]
    pub fn restore(&self, content: &Content, authored: &Fragments) -> Source {
        let value = |kind, name: &str| {
            content
                .get(kind, name)
                .and_then(|text| serde_json::from_str::<Value>(text).ok())
        };
        let mut taken: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
        for (kind, names) in self.document.iter().flatten() {
            taken.entry(*kind).or_default().extend(names.iter().cloned());
        }
        let mut deployments = BTreeMap::new();
        let mut elsewhere = Composed::default();
        for (api, number) in &self.deployments {
            let fragment = authored.get(&(api.clone(), *number));
            let unchanged = |fragment: &&Value| {
                let mut part = Composed::default();
                part.add_document(fragment, &Origin::Document);
                part.content
                    .iter()
                    .all(|(kind, name, value)| content.get(kind, name) == Some(value))
            };
            if let Some(fragment) = fragment.filter(unchanged) {
                deployments.insert(api.clone(), *number);
                elsewhere.add_document(fragment, &Origin::Document);
            }
        }
        if deployments.len() < self.deployments.len() {
            for (kind, name, _) in content.iter() {
                let authored = matches!(kind, Kind::Plan | Kind::Application);
                if !authored && elsewhere.content.get(kind, name).is_none() {
                    taken.entry(kind).or_default().insert(name.to_owned());
                }
            }
        }
        let document = (self.document.is_some() || !taken.is_empty()).then(|| {
            let mut document = json!({ "version": 1 });
            for (kind, names) in taken {
                document[kind.list()] = names.iter().filter_map(|name| value(kind, name)).collect();
            }
            document
        });
        Source { document, deployments }
    }
}

/// Checks a document by itself, so that its mistakes have the places of the file; gives it as a plain value.
///
/// # Errors
/// Every mistake.
pub fn check_document(text: &str, name: &str) -> Result<Value, Vec<String>> {
    let told = |mistakes: Mistakes| errors(&mistakes).map(ToString::to_string).collect::<Vec<_>>();
    parsed(text, name).map_err(told)?;
    let value = revision::plain(text, name, &publishing()).map_err(told)?;
    let shown = taken_from_an_answer(&value, name);
    if !shown.is_empty() {
        return Err(shown);
    }
    Content::of_document(&value).map_err(|error| vec![unusual(name, &error)])?;
    Ok(value)
}

/// Checks a document that holds one API and what it brings along. Upstreams and issuers that it does not bring may come
/// from elsewhere when it is deployed.
///
/// # Errors
/// Every mistake.
pub fn check_fragment(text: &str, name: &str, api: &str) -> Result<Value, Vec<String>> {
    let told = |mistakes: &Mistakes| errors(mistakes).map(ToString::to_string).collect::<Vec<_>>();
    let value = revision::plain(text, name, &publishing()).map_err(|mistakes| told(&mistakes))?;
    let mut mistakes = misshapen(&value, name, api);
    mistakes.extend(taken_from_an_answer(&value, name));
    let (complete, missing) = with_what_is_elsewhere(&value);
    match parsed(text, name) {
        Ok(_) => {}
        Err(found) => {
            // The complete document decides; the text only has the better places.
            if let Err(others) = parsed(&with_doubled_dollars(&complete.to_string()), name) {
                let known = mistakes.len();
                mistakes.extend(
                    told(&found)
                        .into_iter()
                        .filter(|told| !missing.iter().any(|text| told.contains(text))),
                );
                if mistakes.len() == known {
                    mistakes.extend(told(&others));
                }
            }
        }
    }
    if mistakes.is_empty() {
        Content::of_document(&value).map_err(|error| vec![unusual(name, &error)])?;
        Ok(value)
    } else {
        Err(mistakes)
    }
}

/// Answers hide secrets. What they show instead must not become the secret.
fn taken_from_an_answer(value: &Value, name: &str) -> Vec<String> {
    let told = |path| {
        format!("{name}: {path} is only shown as \"{HIDDEN}\"; write the secret itself or, better, ${{cred:name}}")
    };
    secrets::stand_ins(value).into_iter().map(told).collect()
}

fn misshapen(value: &Value, name: &str, api: &str) -> Vec<String> {
    let mut mistakes = Vec::new();
    let items = |list: &str| value.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for list in ["plans", "applications"] {
        if !items(list).is_empty() {
            mistakes.push(format!(
                "{name}: a revision of an API has no \"{list}\"; they are authored by themselves, at /v1/{list}"
            ));
        }
    }
    match items("apis") {
        [one] if one.get("name").and_then(Value::as_str) == Some(api) => {}
        [one] if one.get("name").is_some_and(Value::is_string) => mistakes.push(format!(
            "{name}: this is API {}, and not {}",
            one.get("name").and_then(Value::as_str).map(quote).unwrap_or_default(),
            quote(api)
        )),
        [_] => {}
        others => mistakes.push(format!(
            "{name}: a revision of API {} holds exactly one API, and here are {}",
            quote(api),
            others.len()
        )),
    }
    mistakes
}

/// The document with something in the place of what it does not bring, and how the absence of it is told.
fn with_what_is_elsewhere(value: &Value) -> (Value, Vec<String>) {
    let mut complete = value.clone();
    let mut missing = Vec::new();
    if let Some(document) = complete.as_object_mut()
        && !document.contains_key("version")
    {
        document.insert("version".to_owned(), json!(1));
        missing.push("the file has no \"version\"".to_owned());
    }
    let mut bring = |list: &str, noun: &str, name: &str, stand_in: Value| {
        let Some(document) = complete.as_object_mut() else {
            return;
        };
        let items = document.entry(list).or_insert_with(|| json!([]));
        let Some(items) = items.as_array_mut() else { return };
        if !items
            .iter()
            .any(|item| item.get("name").and_then(Value::as_str) == Some(name))
        {
            missing.push(format!(": {noun} {} does not exist", quote(name)));
            items.push(stand_in);
        }
    };
    for api in value.get("apis").and_then(Value::as_array).into_iter().flatten() {
        let split = api.get("upstreams").and_then(Value::as_array).into_iter().flatten();
        let named = ["upstream", "sandbox_upstream"].map(|key| api.get(key));
        let upstreams = named.into_iter().chain(split.map(|share| share.get("name")));
        for name in upstreams.filter_map(|name| name?.as_str()) {
            let stand_in = json!({ "name": name, "endpoints": [{ "address": "elsewhere.invalid:1" }] });
            bring("upstreams", "upstream", name, stand_in);
        }
        for way in api.get("auth").and_then(Value::as_array).into_iter().flatten() {
            let named = |way_in: &str| way.get(way_in).and_then(Value::as_str);
            let tokens = json!({
                "name": named("jwt"),
                "issuer": "https://elsewhere.invalid",
                "audience": ["elsewhere"],
                "algorithms": ["ES256"],
                "jwks": { "url": "https://elsewhere.invalid/jwks.json" },
            });
            let opaque = json!({
                "name": named("introspection"),
                "introspection": { "url": "https://elsewhere.invalid/", "token": "elsewhere" },
            });
            for (way_in, stand_in) in [("jwt", tokens), ("introspection", opaque)] {
                if let Some(name) = named(way_in) {
                    bring("issuers", "issuer", name, stand_in);
                }
            }
        }
    }
    (complete, missing)
}

/// Everything that `check` looks at.
fn parsed(text: &str, name: &str) -> Result<Loaded, Mistakes> {
    let loaded = revision::parse(text, name, Path::new(""), &publishing())?;
    let (_, conflicts) = snapshot::route_table(&loaded);
    loaded.with(conflicts)
}

fn publishing() -> Environment {
    Environment::of_process().for_publishing()
}

fn errors(mistakes: &Mistakes) -> impl Iterator<Item = &Mistake> {
    mistakes.iter().filter(|mistake| mistake.severity == Severity::Error)
}

/// What the checks let pass and a content can not hold: a name that YAML reads as a number.
fn unusual(name: &str, error: &ContentError) -> String {
    format!("{name}: {error}; names that look like numbers are written in quotes")
}

/// `(line 7)` and `in line 7` in a message, told by what stands there.
fn with_origins(message: &str, lines: &BTreeMap<u32, String>) -> String {
    let mut told = String::with_capacity(message.len());
    let mut rest = message;
    while let Some((before, after)) = rest.split_once("line ") {
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, behind) = after.split_at(digits);
        told.push_str(before);
        match number.parse().ok().and_then(|line: u32| lines.get(&line)) {
            Some(origin) => told.push_str(origin),
            None => {
                told.push_str("line ");
                told.push_str(number);
            }
        }
        rest = behind;
    }
    told.push_str(rest);
    told
}

/// The JSON with every dollar that is no reference to a credential written twice.
fn with_doubled_dollars(json: &str) -> String {
    fn walk(value: &mut Value) {
        match value {
            Value::String(text) if text.contains('$') && !is_credential(text) => *text = text.replace('$', "$$"),
            Value::Array(items) => items.iter_mut().for_each(walk),
            Value::Object(members) => members.values_mut().for_each(walk),
            _ => {}
        }
    }
    if !json.contains('$') {
        return json.to_owned();
    }
    match serde_json::from_str(json) {
        Ok(mut value) => {
            walk(&mut value);
            value.to_string()
        }
        Err(_) => json.to_owned(),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document => f.write_str("the published document"),
            Self::Revision(api, number) => write!(f, "revision {number} of API {}", quote(api)),
            Self::Plan(name) => write!(f, "plan {}", quote(name)),
            Self::Application(name) => write!(f, "application {}", quote(name)),
        }
    }
}
