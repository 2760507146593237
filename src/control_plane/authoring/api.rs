//! `/v1/apis`: what is published, its numbered revisions, and where they are deployed.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::exchange::{Answer, Asked, List, Named, Node, Page, Preconditions, Sent, Written};
use super::exchange::{answer, bounded, created, encoded, name, object, or_empty, order, same_name};
use crate::clock::unix_ms;
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::{self, Draft, Order, Published, blocking, stored};
use crate::control_plane::store::{Expected, ObjectChange, ObjectKind};
use crate::control_plane::{compose, secrets};
use crate::distribution::Content;
use crate::document::quote;

/// How many environments may be deployed to in one go.
const MOST: usize = 100;
/// How often others may be faster with a revision of the same API.
const RACES: usize = 5;

/// Something that is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// Unique; in the grammar of the names in revision documents.
    #[serde(default)]
    pub name: String,
    /// For people.
    #[serde(default, deserialize_with = "or_empty")]
    pub description: String,
    /// The number of its newest revision; 0 if there is none. Read only.
    #[serde(default)]
    pub latest: u32,
    /// Which revision is deployed to which environment. Read only.
    #[serde(default)]
    pub deployed: BTreeMap<String, u32>,
}

/// A revision of an API, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredRevision {
    /// The API and what it brings along, as a plain value.
    pub document: Value,
    /// Why it was made.
    #[serde(default, deserialize_with = "or_empty")]
    pub note: String,
    /// Who made it: the public id of a token.
    #[serde(default)]
    pub author: String,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// A revision of an API: it never changes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ApiRevision {
    /// Which API.
    pub api: String,
    /// Its number: 1, 2, …
    pub number: u32,
    /// Why it was made.
    pub note: String,
    /// Who made it: the public id of a token.
    pub author: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// The API and what it brings along; secrets in it are hidden. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Value>,
}

/// A new revision of an API.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiRevision {
    /// A part of a revision document, YAML or JSON: exactly one API of this name, and the upstreams and issuers that it
    /// brings along. What it does not bring may come from elsewhere when it is deployed.
    pub document: String,
    /// What the document is called in mistakes, such as the name of a file.
    #[serde(default = "unnamed")]
    pub name: String,
    /// Why.
    #[serde(default, deserialize_with = "or_empty")]
    pub note: String,
}

/// Where something is deployed to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// The names of environments: all of them get it, or none.
    pub environments: Vec<String>,
    /// Why.
    #[serde(default, deserialize_with = "or_empty")]
    pub note: String,
}

/// What environments have become.
#[derive(Debug, Serialize, ToSchema)]
pub struct Publications {
    /// In the order of names.
    pub published: Vec<Published>,
    /// What somebody should look at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What a revision of an API is stored as.
#[must_use]
pub fn revision_name(api: &str, number: u32) -> String {
    format!("{api}@{number}")
}

pub(super) fn unnamed() -> String {
    "document".to_owned()
}

fn missing(name: &str) -> Problem {
    Problem::NotFound(format!("there is no API {}; create it with POST /v1/apis", quote(name)))
}

/// Lists APIs in the order of their names.
#[utoipa::path(get, path = "/v1/apis", tag = "apis", params(Page), responses((status = 200, body = List<Api>)))]
pub(super) async fn list(node: Node, caller: Caller, Asked(page): Asked<Page>) -> Answer {
    caller.need(Scope::Read)?;
    let limit = page.limit()?;
    let objects = node
        .store
        .objects(ObjectKind::Api, page.after.as_deref(), limit + 1)
        .await?;
    let apis = objects.iter().map(stored).collect::<Result<Vec<Api>, _>>()?;
    Ok(answer(StatusCode::OK, &List::of(apis, limit, |api| api.name.clone())))
}

/// Creates an API, yet without a revision.
#[utoipa::path(post, path = "/v1/apis", tag = "apis", request_body = Api,
    responses((status = 201, body = Written<Api>, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn create(node: Node, caller: Caller, sent: Sent) -> Answer {
    caller.need(Scope::Apis)?;
    let api: Api = sent.json().await?;
    let name = api.name.clone();
    let named = name.clone();
    let only_new = move |version: Option<u64>| match version {
        Some(_) => Err(Problem::Conflict(format!("the API {} is there already", quote(&named)))),
        None => Ok(()),
    };
    write(&node, &caller, &name, api, only_new).await
}

/// Shows an API.
#[utoipa::path(get, path = "/v1/apis/{name}", tag = "apis",
    params(("name" = String, Path, description = "Which one.")),
    responses((status = 200, body = Api, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn get(node: Node, caller: Caller, Named(name): Named<String>) -> Answer {
    caller.need(Scope::Read)?;
    let found = node
        .store
        .object(ObjectKind::Api, &name)
        .await?
        .ok_or_else(|| missing(&name))?;
    let api: Api = stored(&found)?;
    Ok(object(StatusCode::OK, Some(found.version), &api))
}

/// Creates an API, or changes what is said of it.
#[utoipa::path(put, path = "/v1/apis/{name}", tag = "apis", request_body = Api,
    params(("name" = String, Path, description = "Which one.")),
    responses(
        (status = 200, body = Written<Api>, headers(("ETag" = String, description = "Its version."))),
        (status = 201, body = Written<Api>, headers(("ETag" = String, description = "Its version."))),
    ))]
pub(super) async fn put(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    preconditions: Preconditions,
    sent: Sent,
) -> Answer {
    caller.need(Scope::Apis)?;
    let api: Api = sent.json().await?;
    same_name(&name, &api.name)?;
    let what = format!("the API {}", quote(&name));
    write(&node, &caller, &name, api, move |version| {
        preconditions.check(version, &what)
    })
    .await
}

async fn write(
    node: &Node,
    caller: &Caller,
    name: &str,
    api: Api,
    may: impl Fn(Option<u64>) -> Result<(), Problem> + Send + Sync + 'static,
) -> Answer {
    self::name("an API", name)?;
    bounded("a description", &api.description)?;
    let named = name.to_owned();
    let edit = move |draft: &mut Draft| {
        let before = draft.apis.version(&named);
        may(before)?;
        let mut written = draft.apis.get(&named).cloned().unwrap_or_default();
        written.name.clone_from(&named);
        written.description.clone_from(&api.description);
        draft.apis.put(&named, written.clone());
        Ok((before, written))
    };
    let done = publish::change(node, order(caller, "")?, edit).await?;
    let version = done.version(ObjectKind::Api, name).or(done.value.0);
    let (before, api) = done.value;
    let written = Written {
        object: api,
        published: done.published,
        warnings: done.warnings,
    };
    Ok(match before {
        Some(_) => object(StatusCode::OK, version, &written),
        None => created(object(StatusCode::CREATED, version, &written), "/v1/apis", name),
    })
}

/// Deletes an API that is deployed nowhere, with all its revisions.
#[utoipa::path(delete, path = "/v1/apis/{name}", tag = "apis",
    params(("name" = String, Path, description = "Which one.")),
    responses((status = 204, description = "It is deleted.")))]
pub(super) async fn delete(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    preconditions: Preconditions,
) -> Answer {
    caller.need(Scope::Apis)?;
    let edit = move |draft: &mut Draft| {
        let version = draft.apis.version(&name).ok_or_else(|| missing(&name))?;
        preconditions.check(Some(version), &format!("the API {}", quote(&name)))?;
        let api = draft.apis.get(&name).cloned().unwrap_or_default();
        if !api.deployed.is_empty() {
            let environments: Vec<&str> = api.deployed.keys().map(String::as_str).collect();
            return Err(Problem::Conflict(format!(
                "the API {} is deployed to {}; undeploy it first",
                quote(&name),
                environments.join(", ")
            )));
        }
        draft.apis.remove(&name);
        for number in 1..=api.latest {
            draft.change(ObjectChange {
                kind: ObjectKind::ApiRevision,
                name: revision_name(&name, number),
                expected: Expected::Anything,
                value: None,
            });
        }
        Ok(())
    };
    publish::change(&node, order(&caller, "")?, edit).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Lists the revisions of an API in the order of their numbers.
#[utoipa::path(get, path = "/v1/apis/{name}/revisions", tag = "apis",
    params(("name" = String, Path, description = "Which API."), Page),
    responses((status = 200, body = List<ApiRevision>)))]
pub(super) async fn revisions(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    Asked(page): Asked<Page>,
) -> Answer {
    caller.need(Scope::Read)?;
    let limit = page.limit()?;
    let found = node
        .store
        .object(ObjectKind::Api, &name)
        .await?
        .ok_or_else(|| missing(&name))?;
    let api: Api = stored(&found)?;
    let after: u32 = match &page.after {
        None => 0,
        Some(after) => {
            let wrong = |_| Problem::BadRequest(format!("after has to be a number, not {}", quote(after)));
            after.parse().map_err(wrong)?
        }
    };
    let mut items = Vec::new();
    for number in after.saturating_add(1)..=api.latest {
        if items.len() > limit {
            break;
        }
        if let Some(found) = node
            .store
            .object(ObjectKind::ApiRevision, &revision_name(&name, number))
            .await?
        {
            items.push(shown(&name, number, stored(&found)?, false));
        }
    }
    Ok(answer(
        StatusCode::OK,
        &List::of(items, limit, |revision| revision.number.to_string()),
    ))
}

/// Shows a revision of an API.
#[utoipa::path(get, path = "/v1/apis/{name}/revisions/{number}", tag = "apis",
    params(("name" = String, Path, description = "Which API."), ("number" = u32, Path, description = "Which revision.")),
    responses((status = 200, body = ApiRevision)))]
pub(super) async fn revision(node: Node, caller: Caller, Named((name, number)): Named<(String, u32)>) -> Answer {
    caller.need(Scope::Read)?;
    let found = node
        .store
        .object(ObjectKind::ApiRevision, &revision_name(&name, number))
        .await?;
    let found = found.ok_or_else(|| no_revision(&name, number))?;
    Ok(answer(StatusCode::OK, &shown(&name, number, stored(&found)?, true)))
}

fn no_revision(api: &str, number: u32) -> Problem {
    Problem::NotFound(format!(
        "the API {} has no revision {number}; GET /v1/apis/{api}/revisions lists those there are",
        quote(api)
    ))
}

fn shown(api: &str, number: u32, revision: StoredRevision, with_document: bool) -> ApiRevision {
    let mut document = with_document.then_some(revision.document);
    if let Some(document) = &mut document {
        secrets::hide(document);
    }
    ApiRevision {
        api: api.to_owned(),
        number,
        note: revision.note,
        author: revision.author,
        created_ms: revision.created_ms,
        document,
    }
}

/// Makes a revision of an API. The same content as that of the newest one is the newest one (200).
#[utoipa::path(post, path = "/v1/apis/{name}/revisions", tag = "apis", request_body = NewApiRevision,
    params(("name" = String, Path, description = "Which API.")),
    responses((status = 200, body = ApiRevision), (status = 201, body = ApiRevision)))]
pub(super) async fn create_revision(node: Node, caller: Caller, Named(name): Named<String>, sent: Sent) -> Answer {
    caller.need(Scope::Apis)?;
    let (new, leave) = sent.document::<NewApiRevision>(&node).await?;
    bounded("the name of a document", &new.name)?;
    let by = order(&caller, &new.note)?;
    let api = name.clone();
    let (document, root) = blocking(move || {
        let document = compose::check_fragment(&new.document, &new.name, &api).map_err(Problem::Refused)?;
        let root = root(&document);
        Ok((document, root))
    })
    .await?;
    drop(leave);

    let revision = StoredRevision {
        document,
        note: by.note.clone(),
        author: by.author.clone(),
        created_ms: unix_ms(),
    };
    let value = serde_json::to_string(&revision).map_err(|error| {
        log::error!("a revision: {error}");
        Problem::Internal
    })?;
    for _ in 0..RACES {
        // The newest one is compared outside of the change, which then insists that it still is the newest one.
        let found = node
            .store
            .object(ObjectKind::Api, &name)
            .await?
            .ok_or_else(|| missing(&name))?;
        let latest = stored::<Api>(&found)?.latest;
        if let Some(newest) = node
            .store
            .object(ObjectKind::ApiRevision, &revision_name(&name, latest))
            .await?
        {
            let newest: StoredRevision = stored(&newest)?;
            if self::root(&newest.document) == root {
                return Ok(answer(StatusCode::OK, &shown(&name, latest, newest, true)));
            }
        }
        let (named, value) = (name.clone(), value.clone());
        let edit = move |draft: &mut Draft| {
            let mut api = draft.apis.get(&named).cloned().ok_or_else(|| missing(&named))?;
            if api.latest != latest {
                return Ok(None);
            }
            api.latest += 1;
            draft.change(ObjectChange {
                kind: ObjectKind::ApiRevision,
                name: revision_name(&named, api.latest),
                expected: Expected::Absent,
                value: Some(value.clone()),
            });
            let number = api.latest;
            draft.apis.put(&named, api);
            Ok(Some(number))
        };
        if let Some(number) = publish::change(&node, by.clone(), edit).await?.value {
            let list = format!("/v1/apis/{}/revisions", encoded(&name));
            let shown = shown(&name, number, revision, true);
            return Ok(created(answer(StatusCode::CREATED, &shown), &list, &number.to_string()));
        }
    }
    Err(Problem::Conflict(format!(
        "others make revisions of the API {} at the same time; try again",
        quote(&name)
    )))
}

fn root(document: &Value) -> Option<crate::distribution::ContentHash> {
    Content::of_document(document).ok().map(|content| content.root())
}

/// Deploys a revision of an API to environments: to all of them, or to none.
#[utoipa::path(post, path = "/v1/apis/{name}/revisions/{number}/deploy", tag = "apis", request_body = Deployment,
    params(("name" = String, Path, description = "Which API."), ("number" = u32, Path, description = "Which revision.")),
    responses((status = 200, body = Publications)))]
pub(super) async fn deploy(
    node: Node,
    caller: Caller,
    Named((name, number)): Named<(String, u32)>,
    sent: Sent,
) -> Answer {
    caller.need(Scope::Publish)?;
    let deployment: Deployment = sent.json().await?;
    deployed(&node, &caller, name, Some(number), deployment).await
}

/// Takes an API away from environments: from all of them, or from none.
#[utoipa::path(post, path = "/v1/apis/{name}/undeploy", tag = "apis", request_body = Deployment,
    params(("name" = String, Path, description = "Which API.")),
    responses((status = 200, body = Publications)))]
pub(super) async fn undeploy(node: Node, caller: Caller, Named(name): Named<String>, sent: Sent) -> Answer {
    caller.need(Scope::Publish)?;
    let deployment: Deployment = sent.json().await?;
    deployed(&node, &caller, name, None, deployment).await
}

async fn deployed(node: &Node, caller: &Caller, name: String, number: Option<u32>, deployment: Deployment) -> Answer {
    let Deployment { environments, note } = deployment;
    some_environments(&environments)?;
    let note = match (note.is_empty(), number) {
        (false, _) => note,
        (true, Some(number)) => format!("revision {number} of API {name} is deployed"),
        (true, None) => format!("API {name} is not deployed any more"),
    };
    let by = caller.clone();
    let edit = move |draft: &mut Draft| {
        let latest = draft
            .apis
            .get(&name)
            .map(|api| api.latest)
            .ok_or_else(|| missing(&name))?;
        if let Some(number) = number.filter(|number| !(1..=latest).contains(number)) {
            return Err(no_revision(&name, number));
        }
        for environment in &environments {
            draft.open_to(&by, Scope::Publish, environment)?;
            let mut source = draft.sources.get(environment).cloned().unwrap_or_default();
            match number {
                Some(number) => {
                    source.deployments.insert(name.clone(), number);
                }
                None if source.deployments.remove(&name).is_none() => continue,
                None => {}
            }
            draft.set_source(environment, Some(source));
            draft.publish(environment);
        }
        Ok(())
    };
    let order = Order {
        diff: true,
        ..order(caller, &note)?
    };
    let done = publish::change(node, order, edit).await?;
    let publications = Publications {
        published: done.published,
        warnings: done.warnings,
    };
    Ok(answer(StatusCode::OK, &publications))
}

/// Environments that are named in a body.
pub(super) fn some_environments(environments: &[String]) -> Result<(), Problem> {
    if (1..=MOST).contains(&environments.len()) {
        Ok(())
    } else {
        Err(Problem::BadRequest(format!(
            "\"environments\" has to name from 1 to {MOST} environments, not {}",
            environments.len()
        )))
    }
}
