//! What is different between two revisions, in the words of who writes them: routes, auth, limits, endpoints,
//! subscriptions. Whatever else changed is named by its path, without values: some are secrets.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::distribution::{Content, Kind};

/// How many details are told of one object.
const MOST: usize = 200;

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Difference {
    /// `upstream`, `issuer`, `plan`, `api` or `application`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What became of it.
    pub change: Change,
    /// In which way: `route POST /orders added`, `limit minute: 5000/m → 100/m`, `auth: api_key → none`.
    pub details: Vec<String>,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was not there before.
    Added,
    /// It is not there any more.
    Removed,
    /// It is another one.
    Changed,
}

/// What is different in `after`; nothing if they are the same.
#[must_use]
pub fn between(before: &Content, after: &Content) -> Vec<Difference> {
    let keys: BTreeSet<(Kind, &str)> = (before.iter().chain(after.iter()))
        .map(|(kind, name, _)| (kind, name))
        .collect();
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let difference = |(kind, name): (Kind, &str)| {
        let (change, details) = match (before.get(kind, name), after.get(kind, name)) {
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) => (Change::Changed, details(kind, &parsed(old), &parsed(new))),
            (None, Some(new)) => (Change::Added, details(kind, &Value::Null, &parsed(new))),
            (Some(old), None) => (Change::Removed, details(kind, &parsed(old), &Value::Null)),
            (None, None) => return None,
        };
        Some(Difference {
            kind: kind.as_str(),
            name: name.to_owned(),
            change,
            details: bounded(details),
        })
    };
    keys.into_iter().filter_map(difference).collect()
}

fn bounded(mut details: Vec<String>) -> Vec<String> {
    let more = details.len().saturating_sub(MOST);
    if more > 0 {
        details.truncate(MOST);
        details.push(format!("and {more} more"));
    }
    details
}

/// What is different between two objects, of which one may be null.
fn details(kind: Kind, old: &Value, new: &Value) -> Vec<String> {
    let mut details = Details {
        old,
        new,
        told: vec!["name"],
        lines: Vec::new(),
    };
    match kind {
        Kind::Upstream => details.items("endpoints", "address", "endpoint", |endpoint| {
            let weight = endpoint.get("weight").and_then(Value::as_u64).unwrap_or(1);
            if weight == 1 {
                String::new()
            } else {
                format!("weight {weight}")
            }
        }),
        Kind::Issuer => {}
        Kind::Plan => details.limits(),
        Kind::Api => {
            details.value("hosts", listed);
            details.value("base_path", text);
            details.value("labels", listed);
            details.value("auth", auth);
            details.value("upstream", |name| {
                name.map_or_else(|| "none".to_owned(), |name| text(Some(name)))
            });
            details.items("upstreams", "name", "upstream", |share| {
                format!("weight {}", text(share.get("weight")))
            });
            details.limits();
            details.routes();
        }
        Kind::Application => {
            details.items("subscriptions", "api", "subscription to", |subscription| {
                format!("plan {}", text(subscription.get("plan")))
            });
            details.items("keys", "id", "key", |key| {
                let member = |name| text(key.get(name));
                let hash = member("sha256");
                // A key with the same id and another hash is another key; its hash is nobody's business.
                format!("{} {}\u{0}{hash}", member("type"), member("expires"))
            });
            details.items("certificates", "id", "certificate", |certificate| {
                let member = |name| text(certificate.get(name));
                format!("{} {} {}", member("san"), member("type"), member("expires"))
            });
        }
    }
    details.others();
    details.lines
}

struct Details<'a> {
    old: &'a Value,
    new: &'a Value,
    /// Members that have been told.
    told: Vec<&'static str>,
    lines: Vec<String>,
}

impl Details<'_> {
    /// A member that is shown before and after.
    fn value(&mut self, name: &'static str, shown: impl Fn(Option<&Value>) -> String) {
        self.told.push(name);
        let (old, new) = (self.old.get(name), self.new.get(name));
        if old == new {
            return;
        }
        self.lines.push(match (self.old.is_null(), self.new.is_null()) {
            (true, _) => format!("{name}: {}", shown(new)),
            (_, true) => format!("{name}: {}", shown(old)),
            _ => format!("{name}: {} → {}", shown(old), shown(new)),
        });
    }

    /// A list of items with names.
    fn items(&mut self, list: &'static str, key: &str, noun: &str, shown: impl Fn(&Value) -> String) {
        self.told.push(list);
        let named = |value: &Value| -> BTreeMap<String, String> {
            let items = value.get(list).and_then(Value::as_array).into_iter().flatten();
            items.map(|item| (text(item.get(key)), shown(item))).collect()
        };
        let (old, new) = (named(self.old), named(self.new));
        self.compared(noun, &old, &new);
    }

    fn compared(&mut self, noun: &str, old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) {
        // What comes after a NUL is compared and not shown.
        let visible = |shown: &str| shown.split('\u{0}').next().unwrap_or_default().trim().to_owned();
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let line = match (old.get(name), new.get(name)) {
                (Some(old), Some(new)) if old == new => continue,
                (Some(old), Some(new)) if visible(old) == visible(new) => format!("{noun} {name} replaced"),
                (Some(old), Some(new)) => {
                    let or_default = |shown: String| if shown.is_empty() { "default".to_owned() } else { shown };
                    format!(
                        "{noun} {name}: {} → {}",
                        or_default(visible(old)),
                        or_default(visible(new))
                    )
                }
                (old, new) => {
                    let verb = if old.is_some() { "removed" } else { "added" };
                    match visible(old.or(new).map_or("", String::as_str)) {
                        shown if shown.is_empty() => format!("{noun} {name} {verb}"),
                        shown => format!("{noun} {name} {verb} ({shown})"),
                    }
                }
            };
            self.lines.push(line);
        }
    }

    fn limits(&mut self) {
        self.items("limits", "name", "limit", |limit| {
            let mut shown = text(limit.get("rate"));
            for (name, value) in limit.as_object().into_iter().flatten() {
                if name != "name" && name != "rate" {
                    shown.push_str(&format!(" {name} {}", text(Some(value))));
                }
            }
            shown
        });
    }

    /// Routes by method and path. What is below another base path is not another route: that was told already.
    fn routes(&mut self) {
        self.told.push("routes");
        let base = |api: &Value| text(api.get("base_path")).trim_end_matches('/').to_owned();
        let moved = !self.old.is_null() && !self.new.is_null() && base(self.old) != base(self.new);
        let routes = |api: &Value| -> BTreeMap<String, String> {
            let base = if moved { String::new() } else { base(api) };
            let mut routes = BTreeMap::new();
            let Some(list) = api.get("routes").and_then(Value::as_array) else {
                if !api.is_null() {
                    routes.insert(format!("* {base}/*"), String::new());
                }
                return routes;
            };
            for route in list {
                let path = text(route.get("path"));
                let path = if path == "/" && !base.is_empty() {
                    base.clone()
                } else {
                    format!("{base}{path}")
                };
                let shown = shown_route(route);
                let methods = route.get("methods").and_then(Value::as_array);
                match methods {
                    Some(methods) => {
                        for method in methods {
                            routes.insert(format!("{} {path}", text(Some(method))), shown.clone());
                        }
                    }
                    None => {
                        routes.insert(format!("* {path}"), shown);
                    }
                }
            }
            routes
        };
        let (old, new) = (routes(self.old), routes(self.new));
        self.compared("route", &old, &new);
    }

    /// Whatever was not told, by its path.
    fn others(&mut self) {
        if self.old.is_null() || self.new.is_null() {
            return;
        }
        let mut paths = Vec::new();
        let empty = serde_json::Map::new();
        let old = self.old.as_object().unwrap_or(&empty);
        let new = self.new.as_object().unwrap_or(&empty);
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names.into_iter().filter(|name| !self.told.contains(&name.as_str())) {
            differing(old.get(name), new.get(name), name, &mut paths);
        }
        self.lines
            .extend(paths.into_iter().map(|path| format!("{path} changed")));
    }
}

fn differing(old: Option<&Value>, new: Option<&Value>, path: &str, paths: &mut Vec<String>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                differing(old.get(name), new.get(name), &format!("{path}.{name}"), paths);
            }
        }
        _ => paths.push(path.to_owned()),
    }
}

/// What a route has beside path and methods: what is worth a word, and behind a NUL what is only compared.
fn shown_route(route: &Value) -> String {
    let mut shown = Vec::new();
    if let Some(scopes) = route.get("scopes").and_then(Value::as_array)
        && !scopes.is_empty()
    {
        shown.push(format!("scopes {}", listed(route.get("scopes"))));
    }
    if let Some(path) = route.get("rewrite") {
        shown.push(format!("rewritten to {}", text(Some(path))));
    }
    if let Some(redirect) = route.get("redirect") {
        shown.push(format!("redirect to {}", text(redirect.get("to"))));
    }
    if route.get("respond").is_some() {
        shown.push("answered by the gateway".to_owned());
    }
    let told = ["path", "methods", "scopes", "rewrite"];
    let others = route.as_object().into_iter().flatten();
    let others: BTreeMap<&String, &Value> = others.filter(|(name, _)| !told.contains(&name.as_str())).collect();
    let compared = if others.is_empty() {
        String::new()
    } else {
        format!("\u{0}{}", serde_json::to_string(&others).unwrap_or_default())
    };
    format!("{}{compared}", shown.join(", "))
}

fn auth(value: Option<&Value>) -> String {
    match value {
        Some(Value::Array(ways)) => {
            let way = |way: &Value| match way.as_object().and_then(|way| way.iter().next()) {
                Some((kind, issuer)) => format!("{kind} {}", text(Some(issuer))),
                None => text(Some(way)),
            };
            ways.iter().map(way).collect::<Vec<_>>().join(", ")
        }
        other => text(other),
    }
}

fn listed(value: Option<&Value>) -> String {
    match value {
        Some(Value::Array(items)) => items.iter().map(|item| text(Some(item))).collect::<Vec<_>>().join(", "),
        None => "all".to_owned(),
        other => text(other),
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}
