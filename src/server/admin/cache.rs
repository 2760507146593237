//! `/admin/cache`: what is kept of answers, and what is to be forgotten of it.
//!
//! What is forgotten here, other gateways forget too, as far as there is a way to them. The answer says which.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::{Admin, problem};
use crate::cache::Cache;
use crate::cache::invalidator::{Done, Invalidator, Source};
use crate::cache::order::{Item, Order, RouteName};
use crate::clock::unix_ms;

/// What the admin listener knows of the cache.
pub struct Desk {
    invalidator: Arc<Invalidator>,
    ways: Vec<Way>,
}

/// Tells other gateways what an order was, what of it was forgotten here, and when (unix milliseconds).
pub type Tell = dyn Fn(&Order, &[Item], u64) + Send + Sync;

/// A way to other gateways.
pub struct Way {
    /// `redis` or `control_plane`.
    pub name: &'static str,
    /// Tells them what was forgotten here at this time (unix milliseconds), behind the answer.
    pub tell: Box<Tell>,
    /// Whether what others tell arrives here at the moment.
    pub is_current: Box<dyn Fn() -> bool + Send + Sync>,
}

/// How what was forgotten here reaches other gateways.
#[derive(Debug, Serialize)]
struct Spread {
    by: &'static str,
    /// Whether what others tell arrives here at the moment.
    is_current: bool,
}

/// What the cache looks like.
#[derive(Debug, Serialize)]
struct Facts {
    memory: Memory,
    requests: Requests,
    /// The ways to other gateways; none: what is forgotten here is forgotten here alone.
    spread: Vec<Spread>,
    /// The newest first.
    last_invalidations: Vec<Done>,
}

#[derive(Debug, Serialize)]
struct Memory {
    entries: usize,
    bytes: u64,
    budget_bytes: i64,
    /// What the largest entry may weigh.
    entry_bytes_max: u64,
    evictions: u64,
}

/// Since the start of the process.
#[derive(Debug, Serialize)]
struct Requests {
    asked: u64,
    hits: u64,
    /// Share of the hits; absent as long as nobody has asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    hit_ratio: Option<f64>,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Forgotten {
    /// How many things were named, by what they are.
    invalidated: std::collections::BTreeMap<&'static str, usize>,
    /// `redis`, `control_plane`, both with a `+` between, or `none`.
    spread: String,
    /// Those of them that do not work at the moment: what was forgotten is told there again and again until they do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    late: Vec<&'static str>,
    /// What this gateway's revision does not have: other gateways may.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown_here: Vec<String>,
    /// What to do about gateways that were not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

/// `DELETE /admin/cache/routes`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    api: Option<String>,
    route: Option<String>,
    host: Option<String>,
    prefix: Option<String>,
}

impl Desk {
    /// With these ways to others.
    #[must_use]
    pub fn new(invalidator: Arc<Invalidator>, ways: Vec<Way>) -> Self {
        Self { invalidator, ways }
    }
}

impl Desk {
    /// What is kept.
    #[must_use]
    pub fn kept(&self) -> &Cache {
        self.invalidator.cache()
    }
}

/// The paths of the cache.
pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/admin/cache", get(look))
        .route("/admin/cache/invalidate", post(named))
        .route("/admin/cache/invalidate/all", post(all))
        .route("/admin/cache/routes", delete(routes))
        .route("/admin/cache/user/{*user}", delete(user))
}

/// How much is kept, and how often it was of use.
async fn look(State(admin): State<Arc<Admin>>) -> Response {
    let Some(desk) = &admin.cache else {
        return no_cache();
    };
    let (entries, bytes) = desk.invalidator.cache().size();
    let metrics = desk.invalidator.metrics();
    let totals = metrics.totals();
    #[allow(clippy::cast_precision_loss, reason = "a ratio of counts far below 2^52")]
    let hit_ratio = (totals.asked > 0).then(|| totals.hits as f64 / totals.asked as f64);
    let facts = Facts {
        memory: Memory {
            entries,
            bytes,
            budget_bytes: metrics.budget_bytes().get(),
            entry_bytes_max: desk.invalidator.cache().largest(),
            evictions: totals.evictions,
        },
        requests: Requests {
            asked: totals.asked,
            hits: totals.hits,
            hit_ratio,
        },
        spread: (desk.ways.iter())
            .map(|way| Spread {
                by: way.name,
                is_current: (way.is_current)(),
            })
            .collect(),
        last_invalidations: desk.invalidator.recent(),
    };
    Json(facts).into_response()
}

/// What the body names: an [`Order`].
async fn named(State(admin): State<Arc<Admin>>, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(error) => return problem(error.status(), "bad_request", error.body_text()),
    };
    match serde_json::from_slice::<Order>(&body) {
        Ok(order) => carry_out(&admin, &order),
        Err(error) => {
            let detail = format!(
                "{error}; write what is to be forgotten, such as {{\"urls\": [\"https://host/path\"], \"prefixes\": [\"/path\"], \
                 \"tags\": [\"news\"], \"users\": [\"mobile\"], \"apis\": [\"orders\"]}}"
            );
            problem(StatusCode::BAD_REQUEST, "bad_request", detail)
        }
    }
}

/// Everything.
async fn all(State(admin): State<Arc<Admin>>) -> Response {
    carry_out(&admin, &Order::all())
}

/// All answers of all routes, or of those that the query names.
async fn routes(State(admin): State<Arc<Admin>>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let order = match which {
        Ok(Query(which)) => which.order(),
        Err(error) => Err(error.body_text()),
    };
    match order {
        Ok(order) => carry_out(&admin, &order),
        Err(detail) => problem(StatusCode::BAD_REQUEST, "bad_request", detail),
    }
}

/// What was answered to somebody, and what is remembered of who that is.
async fn user(State(admin): State<Arc<Admin>>, user: Result<Path<String>, PathRejection>) -> Response {
    let Ok(Path(user)) = user else {
        let detail = "the name of a user is UTF-8 when it is percent-decoded";
        return problem(StatusCode::BAD_REQUEST, "bad_request", detail);
    };
    let order = Order {
        users: vec![user],
        ..Order::default()
    };
    carry_out(&admin, &order)
}

fn carry_out(admin: &Admin, order: &Order) -> Response {
    let Some(desk) = &admin.cache else {
        return no_cache();
    };
    if order.from.is_some() {
        let detail = "\"from\" is for gateways, when they tell a control plane what they have done";
        return problem(StatusCode::BAD_REQUEST, "bad_request", detail);
    }
    let now_ms = unix_ms();
    let items = match desk.invalidator.carry_out(order, Source::Admin, now_ms) {
        Ok(items) => items,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, "bad_request", detail),
    };
    for way in &desk.ways {
        (way.tell)(order, &items, now_ms);
    }
    let mut invalidated = std::collections::BTreeMap::new();
    for item in &items {
        *invalidated.entry(item.kind).or_default() += 1;
    }
    let names: Vec<&str> = desk.ways.iter().map(|way| way.name).collect();
    let alone = names.is_empty();
    let is_late = |way: &&Way| !(way.is_current)();
    let late: Vec<_> = desk.ways.iter().filter(is_late).map(|way| way.name).collect();
    let hint = if alone {
        Some(
            "no other gateway was told: they share neither a Redis for answers nor a control plane; ask each of them, or \
             configure one of the two",
        )
    } else if late.is_empty() {
        None
    } else {
        Some(
            "forgotten here; a way to the other gateways does not work at the moment, and they are told as soon as it does: \
             ask each of them if it can not wait",
        )
    };
    log::info!(
        "{} things of the cache are forgotten, says an administrator",
        items.len()
    );
    let forgotten = Forgotten {
        invalidated,
        spread: if alone { "none".to_owned() } else { names.join("+") },
        unknown_here: unknown(admin, order),
        late,
        hint,
    };
    Json(forgotten).into_response()
}

/// APIs and routes that the applied revision does not have. No mistake: an API may be for other gateways, by its labels.
fn unknown(admin: &Admin, order: &Order) -> Vec<String> {
    let Some(snapshot) = admin.revisions.current() else {
        return Vec::new();
    };
    let api = |name: &str| snapshot.apis().iter().position(|api| api.name.as_str() == name);
    let mut unknown: Vec<String> = (order.apis.iter())
        .filter(|name| api(name).is_none())
        .map(|name| format!("api {name}"))
        .collect();
    for RouteName { api: name, route } in &order.routes {
        let known = api(name).is_some_and(|api| {
            let mut routes = snapshot.routes().iter();
            routes.any(|found| found.api == api && *found.pattern == **route)
        });
        if !known {
            unknown.push(format!("route {route} of api {name}"));
        }
    }
    unknown
}

impl Which {
    fn order(self) -> Result<Order, String> {
        let mut order = Order::default();
        match self {
            Self {
                api: None,
                route: None,
                host: None,
                prefix: None,
            } => order.all = true,
            Self {
                api: Some(api),
                route,
                host: None,
                prefix: None,
            } => match route {
                Some(route) => order.routes.push(RouteName { api, route }),
                None => order.apis.push(api),
            },
            Self {
                api: None,
                route: None,
                host,
                prefix,
            } => {
                let path = prefix.unwrap_or_else(|| "/".to_owned());
                if !path.starts_with('/') {
                    return Err(format!("\"prefix\" is a path such as /orders, not {path:?}"));
                }
                order.prefixes.push(match host {
                    Some(host) => format!("https://{host}{path}"),
                    None => path,
                });
            }
            _ => {
                return Err(
                    "write ?api=NAME, ?api=NAME&route=PATTERN, ?prefix=/PATH, ?host=HOST or ?host=HOST&prefix=/PATH; nothing \
                     is all routes"
                        .to_owned(),
                );
            }
        }
        Ok(order)
    }
}

fn no_cache() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "route_not_found",
        "this process keeps no answers",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(query: &str) -> Result<Order, String> {
        let uri: http::Uri = format!("/?{query}").parse().unwrap();
        let Query(which) = Query::<Which>::try_from_uri(&uri).map_err(|error| error.body_text())?;
        which.order()
    }

    #[test]
    fn a_query_says_which_routes_and_none_is_all_of_them() {
        assert_eq!(order(""), Ok(Order::all()));
        assert_eq!(order("api=a").unwrap().apis, ["a"]);
        let route = order("api=a&route=%2Fa%2F%7Bid%7D").unwrap();
        assert_eq!(
            (route.routes[0].api.as_str(), route.routes[0].route.as_str()),
            ("a", "/a/{id}")
        );
        assert_eq!(order("prefix=/a").unwrap().prefixes, ["/a"]);
        assert_eq!(order("host=a.example").unwrap().prefixes, ["https://a.example/"]);
        assert_eq!(
            order("host=a.example&prefix=/b").unwrap().prefixes,
            ["https://a.example/b"]
        );
        for wrong in ["route=/a", "api=a&prefix=/b", "prefix=a", "path=/a"] {
            assert!(order(wrong).is_err(), "{wrong}");
        }
    }
}
