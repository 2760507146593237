//! `/v1/catalog`: what there is to call, where, under which plans; as far as the caller's roles may see it.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::environment::Environment;
use super::exchange::answer;
use super::exchange::{Answer, Asked, List, Named, Node, Page};
use super::published::{self, KnownApi};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::stored;
use crate::control_plane::store::ObjectKind;
use crate::document::quote;
use crate::revision::EnvironmentType;

/// Where tokens are issued, as a path of this control plane.
const TOKEN_ENDPOINT: &str = "/oauth2/token";
/// How many objects are read at a time.
const PAGE: usize = 1000;

/// An API as its callers see it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// The plans under which one can subscribe to it.
    pub plans: Vec<String>,
    /// Where it is.
    pub environments: Vec<ListedEnvironment>,
}

/// Where an API is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ListedEnvironment {
    /// Which environment.
    pub name: String,
    /// Which key types it lets in.
    pub r#type: EnvironmentType,
    /// For people.
    pub description: String,
    /// What all its paths begin with.
    pub base_path: String,
    /// The hosts that it is published on; empty is every host.
    pub hosts: Vec<String>,
    /// What lets in: `api_key`, `jwt`; empty if everybody is.
    pub auth: Vec<String>,
    /// Where to call it.
    pub urls: Vec<String>,
    /// Where tokens are issued: a path of this control plane. Absent if the environment does not show it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<&'static str>,
}

/// Lists the APIs that the caller may see, in the order of their names.
#[utoipa::path(get, path = "/v1/catalog", tag = "catalogue", params(Page), responses((status = 200, body = List<Listed>)))]
pub(super) async fn list(node: Node, caller: Caller, Asked(page): Asked<Page>) -> Answer {
    caller.need(Scope::Read)?;
    let limit = page.limit()?;
    let mut names: Vec<String> = Vec::new();
    let seen = visible(&node, &caller).await?;
    for (_, known) in &seen {
        names.extend(known.apis.keys().cloned());
    }
    names.sort();
    names.dedup();
    let after = page.after.unwrap_or_default();
    let names = names.into_iter().filter(|name| *name > after).take(limit + 1);
    let plans = plans(&node).await?;
    let mut items = Vec::new();
    for name in names {
        items.extend(listed(&node, &seen, &plans, &name).await?);
    }
    Ok(answer(StatusCode::OK, &List::of(items, limit, |api| api.name.clone())))
}

/// Shows an API that the caller may see.
#[utoipa::path(get, path = "/v1/catalog/{api}", tag = "catalogue",
    params(("api" = String, Path, description = "Which one.")),
    responses((status = 200, body = Listed)))]
pub(super) async fn get(node: Node, caller: Caller, Named(name): Named<String>) -> Answer {
    caller.need(Scope::Read)?;
    let seen = visible(&node, &caller).await?;
    let found = listed(&node, &seen, &plans(&node).await?, &name).await?;
    let missing = || Problem::NotFound(format!("there is no API {} in the catalogue", quote(&name)));
    Ok(answer(StatusCode::OK, &found.ok_or_else(missing)?))
}

type Seen = Vec<(Environment, std::sync::Arc<published::Known>)>;

/// The environments that the caller may see and that show themselves.
async fn visible(node: &Node, caller: &Caller) -> Result<Seen, Problem> {
    let heads = node.store.heads().await?;
    let heads: BTreeMap<&str, _> = heads.iter().map(|head| (head.environment.as_str(), head)).collect();
    let mut seen = Vec::new();
    for found in node.store.objects(ObjectKind::Environment, None, PAGE).await? {
        let environment: Environment = stored(&found)?;
        if !environment.in_catalogue || !environment.is_visible_to(caller) {
            continue;
        }
        if let Some(head) = heads.get(found.name.as_str()) {
            let known = published::known(node, head).await?;
            seen.push((environment, known));
        }
    }
    Ok(seen)
}

/// The names of the plans that are authored.
async fn plans(node: &Node) -> Result<BTreeSet<String>, Problem> {
    let mut names = BTreeSet::new();
    let mut after: Option<String> = None;
    loop {
        let page = node.store.objects(ObjectKind::Plan, after.as_deref(), PAGE).await?;
        let last = page.len() < PAGE;
        after = page.last().map(|plan| plan.name.clone());
        names.extend(page.into_iter().map(|plan| plan.name));
        if last {
            return Ok(names);
        }
    }
}

async fn listed(node: &Node, seen: &Seen, plans: &BTreeSet<String>, name: &str) -> Result<Option<Listed>, Problem> {
    let mut environments = Vec::new();
    let mut plans = plans.clone();
    for (environment, known) in seen {
        if let Some(api) = known.apis.get(name) {
            plans.extend(known.plans.iter().cloned());
            environments.push(shown(environment, api));
        }
    }
    if environments.is_empty() {
        return Ok(None);
    }
    let authored = match node.store.object(ObjectKind::Api, name).await? {
        Some(found) => stored::<super::api::Api>(&found)?.description,
        None => String::new(),
    };
    Ok(Some(Listed {
        name: name.to_owned(),
        description: authored,
        plans: plans.into_iter().collect(),
        environments,
    }))
}

fn shown(environment: &Environment, api: &KnownApi) -> ListedEnvironment {
    let endpoints = [&environment.endpoints.https, &environment.endpoints.http];
    let mut urls: Vec<String> = endpoints
        .into_iter()
        .flatten()
        .flat_map(|endpoint| urls(endpoint, api))
        .collect();
    urls.dedup();
    ListedEnvironment {
        name: environment.name.clone(),
        r#type: environment.r#type,
        description: environment.description.clone(),
        base_path: api.base_path.clone(),
        hosts: api.hosts.clone(),
        auth: api.auth.clone(),
        urls,
        token_endpoint: environment.token_endpoint_shown.then_some(TOKEN_ENDPOINT),
    }
}

/// An API without hosts is at the endpoint itself; one with hosts is at those, on the endpoint's port. A wildcard is no
/// place to call.
fn urls(endpoint: &str, api: &KnownApi) -> Vec<String> {
    let base = api.base_path.trim_end_matches('/');
    if api.hosts.is_empty() {
        return vec![format!("{}{base}", endpoint.trim_end_matches('/'))];
    }
    let Ok(uri) = endpoint.parse::<http::Uri>() else {
        return Vec::new();
    };
    let scheme = uri.scheme_str().unwrap_or("http");
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    let hosts = api.hosts.iter().filter(|host| !host.starts_with('*'));
    hosts.map(|host| format!("{scheme}://{host}{port}{base}")).collect()
}
