//! What somebody wants to be forgotten of kept answers, as it is written: by an administrator, to a gateway or to a control
//! plane, and on its way from there to gateways.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::marks::{Invalidation, MarkId};
use crate::route::path::normalise;

/// So many things may be asked for at a time.
pub const MOST: usize = 1000;

/// An order may be so long when it is told, in bytes of JSON.
pub const LARGEST: usize = 64 << 10;

/// The longest of them, in bytes.
const LONGEST: usize = 8 << 10;

/// What is to be forgotten. At least one thing, and 1,000 at most; to a control plane, in 64 KiB at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// All variants of these URLs: `https://api.example.com/orders/7?full=1`. The scheme does not count; the query does,
    /// character for character.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Everything whose path begins so: `/orders/` at every host, `https://api.example.com/orders/` at one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// What carries one of these tags in `Cache-Tag` or `Surrogate-Key`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What was answered to these: names of applications, ids of keys, subjects of tokens. What is remembered of tokens with
    /// such a subject or application is forgotten too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// All answers of these APIs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apis: Vec<String>,
    /// All answers of these routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteName>,
    /// The same as gateways tell it each other: 16 hex digits each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<String>,
    /// The gateway that has done it already. Gateways fill it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A route of an API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteName {
    /// Name of the API.
    pub api: String,
    /// The whole pattern, with the base path: `/orders/{id}`.
    pub route: String,
}

/// One thing of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// A word for what it is by: a label of metrics.
    pub kind: &'static str,
    /// What is to be forgotten.
    pub what: Invalidation,
}

impl Order {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// What gateways tell each other.
    #[must_use]
    pub fn of(invalidations: &[Invalidation]) -> Self {
        let mut order = Self::default();
        for what in invalidations {
            match what {
                Invalidation::All => return Self::all(),
                Invalidation::Mark(MarkId(mark)) => order.marks.push(format!("{mark:016x}")),
                Invalidation::User(user) => order.users.push(user.clone()),
                Invalidation::Prefix { host, path } => order.prefixes.push(match host {
                    Some(host) => format!("https://{host}{path}"),
                    None => path.clone(),
                }),
            }
        }
        order
    }

    /// The same, no longer than it may be when it is told: by marks if it is, and as everything if it is even so.
    #[must_use]
    pub fn for_the_way(&self) -> Self {
        let is_short = |order: &Self| serde_json::to_vec(order).is_ok_and(|text| text.len() <= LARGEST);
        if is_short(self) {
            return self.clone();
        }
        let whats: Vec<Invalidation> = match self.items() {
            Ok(items) => items.into_iter().map(|item| item.what).collect(),
            Err(_) => vec![Invalidation::All],
        };
        let short = Self::of(&whats);
        if is_short(&short) { short } else { Self::all() }
    }

    /// How many things it names.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.all)
            + self.urls.len()
            + self.prefixes.len()
            + self.tags.len()
            + self.users.len()
            + self.apis.len()
            + self.routes.len()
            + self.marks.len()
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is to be forgotten, one by one.
    ///
    /// # Errors
    /// When there is nothing, too much, or something that can not be read; says which, and how it is written.
    pub fn items(&self) -> Result<Vec<Item>, String> {
        if self.is_empty() {
            return Err(
                "nothing is named; write what is to be forgotten, such as {\"tags\": [\"news\"]}, or {\"all\": true}"
                    .to_owned(),
            );
        }
        if self.len() > MOST {
            return Err(format!(
                "{} things are named, and {MOST} may be at most; ask several times, or name a prefix, a tag or an API",
                self.len()
            ));
        }
        let mut items = Vec::with_capacity(self.len());
        let mut add = |kind, what| items.push(Item { kind, what });
        if self.all {
            add("all", Invalidation::All);
        }
        for (position, url) in self.urls.iter().enumerate() {
            let (host, target) = read_url(url).map_err(|why| format!("\"urls\", item {}: {why}", position + 1))?;
            add("url", Invalidation::Mark(MarkId::url(&host, &target)));
        }
        for (position, prefix) in self.prefixes.iter().enumerate() {
            let (host, path) =
                read_prefix(prefix).map_err(|why| format!("\"prefixes\", item {}: {why}", position + 1))?;
            add("prefix", Invalidation::Prefix { host, path });
        }
        let tag: fn(&str) -> Invalidation = |name| Invalidation::Mark(MarkId::tag(name));
        let user: fn(&str) -> Invalidation = |name| Invalidation::User(name.to_owned());
        let api: fn(&str) -> Invalidation = |name| Invalidation::Mark(MarkId::api(name));
        for (key, kind, names, what) in [
            ("tags", "tag", &self.tags, tag),
            ("users", "user", &self.users, user),
            ("apis", "api", &self.apis, api),
        ] {
            for (position, name) in names.iter().enumerate() {
                let is_tag = kind == "tag";
                named(name, is_tag).map_err(|why| format!("\"{key}\", item {}: {why}", position + 1))?;
                add(kind, what(name));
            }
        }
        for (position, RouteName { api, route }) in self.routes.iter().enumerate() {
            let at = |why: String| format!("\"routes\", item {}: {why}", position + 1);
            named(api, false).map_err(|why| at(format!("\"api\": {why}")))?;
            named(route, false).map_err(|why| at(format!("\"route\": {why}")))?;
            if !route.starts_with('/') {
                return Err(at(format!(
                    "{route:?} is no pattern of a route; write it whole, with the base path, such as /orders/{{id}}"
                )));
            }
            add("route", Invalidation::Mark(MarkId::route(api, route)));
        }
        for (position, mark) in self.marks.iter().enumerate() {
            let is_hex = mark.len() == 16 && mark.bytes().all(|byte| byte.is_ascii_hexdigit());
            let bits = u64::from_str_radix(mark, 16).ok().filter(|_| is_hex);
            let bits = bits.ok_or_else(|| format!("\"marks\", item {}: 16 hex digits are meant", position + 1))?;
            add("mark", Invalidation::Mark(MarkId(bits)));
        }
        Ok(items)
    }
}

/// A name that something may have.
fn named(name: &str, is_tag: bool) -> Result<(), String> {
    if name.is_empty() || name.len() > LONGEST {
        return Err(format!("a name has 1 to {LONGEST} characters"));
    }
    if is_tag && name.contains([' ', '\t', ',']) {
        return Err(format!(
            "{name:?} are several tags, which stand apart from each other; write each for itself"
        ));
    }
    Ok(())
}

/// Host and normalised path with query of a URL.
fn read_url(url: &str) -> Result<(String, String), String> {
    let (host, target) = split(url)?;
    let host = host.ok_or_else(|| {
        format!(
            "{url:?} names no host; write the whole URL, https://api.example.com/orders/7, or for every host a prefix"
        )
    })?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let mut target = normal(path)?;
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    Ok((host, target))
}

/// Host, if there is one, and beginning of the normalised path.
fn read_prefix(prefix: &str) -> Result<(Option<String>, String), String> {
    let (host, path) = split(prefix)?;
    if path.contains('?') {
        return Err(format!(
            "{prefix:?} has a query, which no prefix reaches into; name the URL instead"
        ));
    }
    Ok((host, normal(path)?))
}

/// Host, if there is one, and what comes after it; a fragment is nobody's business but the client's.
fn split(text: &str) -> Result<(Option<String>, &str), String> {
    if text.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} characters"));
    }
    let text = text.split('#').next().unwrap_or(text);
    if text.starts_with('/') && !text.starts_with("//") {
        return Ok((None, text));
    }
    let wrong =
        || format!("{text:?} is neither a URL such as https://api.example.com/orders nor a path such as /orders");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let port = match scheme.to_ascii_lowercase().as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => return Err(wrong()),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(end);
    if host.is_empty() || host.contains('@') || host.parse::<http::uri::Authority>().is_err() {
        return Err(wrong());
    }
    // Clients leave out the port that the scheme has anyway.
    let host = host.strip_suffix(port).unwrap_or(host).to_ascii_lowercase();
    Ok((Some(host), target))
}

fn normal(path: &str) -> Result<String, String> {
    let path = if path.is_empty() { "/" } else { path };
    let normal = normalise(path).map_err(|error| format!("the path {path:?}: {error}"))?;
    Ok(normal.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Order {
        serde_json::from_str(text).unwrap()
    }

    fn items(text: &str) -> Vec<Item> {
        order(text).items().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    fn marks(text: &str) -> Vec<MarkId> {
        let mark = |item: Item| match item.what {
            Invalidation::Mark(mark) => mark,
            other => panic!("{other:?}"),
        };
        items(text).into_iter().map(mark).collect()
    }

    #[test]
    fn everything_that_can_be_named_is_read() {
        let read = items(
            r#"{"all": true, "urls": ["https://a.example/x"], "prefixes": ["/x"], "tags": ["news"], "users": ["mobile"],
                "apis": ["orders"], "routes": [{"api": "orders", "route": "/orders/{id}"}], "marks": ["00000000000000ff"]}"#,
        );
        let kinds: Vec<&str> = read.iter().map(|item| item.kind).collect();
        assert_eq!(kinds, ["all", "url", "prefix", "tag", "user", "api", "route", "mark"]);
        assert_eq!(read[1].what, Invalidation::Mark(MarkId::url("a.example", "/x")));
        assert_eq!(read[3].what, Invalidation::Mark(MarkId::tag("news")));
        assert_eq!(
            read[6].what,
            Invalidation::Mark(MarkId::route("orders", "/orders/{id}"))
        );
        assert_eq!(read[7].what, Invalidation::Mark(MarkId(255)));
        // Not its mark alone: others forget what they remember of its tokens too.
        assert_eq!(read[4].what, Invalidation::User("mobile".to_owned()));
    }

    #[test]
    fn a_url_means_what_the_gateway_makes_of_the_request_for_it() {
        for (written, host, target) in [
            ("https://API.example/x", "api.example", "/x"),
            ("http://api.example/x", "api.example", "/x"),
            ("HTTPS://api.example:443/x", "api.example", "/x"),
            ("http://api.example:443/x", "api.example:443", "/x"),
            ("http://127.0.0.1:8280/a/./b/../c?d=1&e", "127.0.0.1:8280", "/a/c?d=1&e"),
            ("https://api.example", "api.example", "/"),
            ("https://api.example?", "api.example", "/?"),
            ("https://api.example/%7eme#top", "api.example", "/~me"),
            ("http://[::1]:80/", "[::1]", "/"),
        ] {
            let read = marks(&serde_json::json!({ "urls": [written] }).to_string());
            assert_eq!(read, [MarkId::url(host, target)], "{written}");
        }
    }

    #[test]
    fn a_prefix_is_for_one_host_or_for_all_of_them() {
        let prefix = |written: &str| {
            items(&serde_json::json!({ "prefixes": [written] }).to_string())
                .remove(0)
                .what
        };
        let expected = |host: Option<&str>, path: &str| Invalidation::Prefix {
            host: host.map(str::to_owned),
            path: path.to_owned(),
        };
        assert_eq!(prefix("/orders/"), expected(None, "/orders/"));
        assert_eq!(
            prefix("https://Api.example/a//b"),
            expected(Some("api.example"), "/a/b")
        );
        assert_eq!(prefix("https://api.example"), expected(Some("api.example"), "/"));
    }

    #[test]
    fn what_can_not_be_read_says_where_and_how_it_is_written() {
        let many = serde_json::json!({ "tags": vec!["a"; MOST + 1] }).to_string();
        for (text, expected) in [
            ("{}", "nothing is named"),
            (many.as_str(), "1001 things are named"),
            (r#"{"urls": ["/x"]}"#, "\"urls\", item 1: \"/x\" names no host"),
            (r#"{"urls": ["https://a/", "ftp://a/"]}"#, "\"urls\", item 2:"),
            (r#"{"urls": ["https://user@a/"]}"#, "is neither a URL"),
            (r#"{"urls": ["https:///x"]}"#, "is neither a URL"),
            (r#"{"prefixes": ["//a/b"]}"#, "is neither a URL"),
            (r#"{"prefixes": ["/a?b"]}"#, "has a query"),
            (r#"{"prefixes": ["/a%2fb%00"]}"#, "the path"),
            (r#"{"tags": ["a b"]}"#, "several tags"),
            (r#"{"tags": [""]}"#, "1 to 8192"),
            (r#"{"marks": ["+0000000000000ff"]}"#, "\"marks\", item 1"),
            (r#"{"marks": ["ff"]}"#, "16 hex digits"),
            (
                r#"{"routes": [{"api": "", "route": "/a"}]}"#,
                "\"routes\", item 1: \"api\": a name has",
            ),
            (
                r#"{"routes": [{"api": "a", "route": "/a"}, {"api": "a", "route": "a/{id}"}]}"#,
                "\"routes\", item 2: \"a/{id}\" is no pattern",
            ),
        ] {
            let why = order(text).items().unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
        let unknown = serde_json::from_str::<Order>(r#"{"tag": ["a"]}"#)
            .unwrap_err()
            .to_string();
        assert!(unknown.contains("unknown field"), "{unknown}");
    }

    #[test]
    fn what_gateways_tell_each_other_is_what_arrives() {
        let told = [
            Invalidation::Mark(MarkId::tag("news")),
            Invalidation::Mark(MarkId(0)),
            Invalidation::User("mobile".to_owned()),
            Invalidation::Prefix {
                host: Some("a.example:8280".to_owned()),
                path: "/x".to_owned(),
            },
            Invalidation::Prefix {
                host: None,
                path: "/y".to_owned(),
            },
        ];
        let written = serde_json::to_string(&Order::of(&told)).unwrap();
        let mut read: Vec<Invalidation> = items(&written).into_iter().map(|item| item.what).collect();
        let by_text = |what: &Invalidation| serde_json::to_string(what).unwrap();
        let mut told = told.to_vec();
        told.sort_by_key(by_text);
        read.sort_by_key(by_text);
        assert_eq!(read, told);
        assert_eq!(Order::of(&[told[0].clone(), Invalidation::All]), Order::all());
    }

    #[test]
    fn a_long_order_is_told_by_marks_and_one_that_is_too_long_even_so_as_everything() {
        let short = order(r#"{"tags": ["news"]}"#);
        assert_eq!(short.for_the_way(), short);
        let urls = (0..MOST).map(|number| format!("https://api.example/{number}/{}", "x".repeat(200)));
        let long = Order {
            urls: urls.collect(),
            ..Order::default()
        };
        let told = long.for_the_way();
        assert_eq!((told.urls.len(), told.marks.len()), (0, MOST));
        assert!(serde_json::to_string(&told).unwrap().len() <= LARGEST);
        let whats =
            |order: &Order| -> Vec<Invalidation> { order.items().unwrap().into_iter().map(|item| item.what).collect() };
        assert_eq!(whats(&told), whats(&long));
        let prefixes = (0..MOST).map(|number| format!("/{number}/{}", "x".repeat(200)));
        let longer = Order {
            prefixes: prefixes.collect(),
            ..Order::default()
        };
        assert_eq!(longer.for_the_way(), Order::all());
    }
}
