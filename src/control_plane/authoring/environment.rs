//! `/v1/environments`: where revisions are published to, and for whom.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::exchange::{Answer, Asked, List, Named, Node, Page, Preconditions, Sent, Written};
use super::exchange::{answer, bounded, created, name, object, or_empty, order, same_name};
use crate::clock::unix_ms;
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::compose::Source;
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::{self, Draft, stored};
use crate::control_plane::store::{Changes, Expected, ObjectChange, ObjectKind, Store, StoreError, StoreResult};
use crate::distribution::protocol::Register;
use crate::document::{Grammar, Name, quote};
use crate::revision::EnvironmentType;

/// The environment of gateways that do not say another one.
const FIRST: &str = "Default";
/// How many environments there may be: what is known of each is kept in memory.
const MOST: usize = 1000;
/// How many labels or roles an environment may have.
const MOST_NAMES: usize = 100;
/// A gateway that was heard of in this time is alive.
const ALIVE: Duration = Duration::from_secs(60);

/// Where revisions are published to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Unique; in the grammar of the names in revision documents. In a path it is percent-encoded.
    #[serde(default)]
    pub name: String,
    /// Which key types its gateways let in. Default hybrid.
    #[serde(default)]
    pub r#type: EnvironmentType,
    /// For people.
    #[serde(default, deserialize_with = "or_empty")]
    pub description: String,
    /// Where clients reach its gateways.
    #[serde(default)]
    pub endpoints: Endpoints,
    /// The labels that its gateways have.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Who sees it in the catalogue and may deploy to it.
    #[serde(default)]
    pub visibility: Visibility,
    /// Whether the catalogue shows it. Default true.
    #[serde(default = "yes")]
    pub in_catalogue: bool,
    /// Whether the catalogue shows where tokens are issued. Default true.
    #[serde(default = "yes")]
    pub token_endpoint_shown: bool,
    /// The number of the newest revision; absent before the first. Read only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// Where clients reach the gateways of an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoints {
    /// `http://host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// `https://host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
}

/// Who sees an environment: whoever has a role of `allow`, or any role if that is empty, and none of `deny`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Visibility {
    /// Roles. Empty: everybody.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Roles that do not, whatever else they are.
    #[serde(default)]
    pub deny: Vec<String>,
}

impl Environment {
    /// Whether a caller sees it and may deploy to it, by its roles.
    #[must_use]
    pub fn is_visible_to(&self, caller: &Caller) -> bool {
        let has = |roles: &[String]| roles.iter().any(|role| caller.roles().contains(role));
        let Visibility { allow, deny } = &self.visibility;
        caller.may(Scope::Admin) || !has(deny) && (allow.is_empty() || has(allow))
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (member, scheme, url) in [
            ("endpoints.http", "http", &self.endpoints.http),
            ("endpoints.https", "https", &self.endpoints.https),
        ] {
            let Some(url) = url else { continue };
            let parsed = url.parse::<http::Uri>().ok();
            let good = parsed.as_ref().is_some_and(|parsed| {
                parsed.scheme_str() == Some(scheme)
                    && parsed
                        .authority()
                        .is_some_and(|authority| !authority.as_str().contains('@'))
                    && parsed.query().is_none()
            });
            if !good {
                mistakes.push(format!(
                    "{member}: {} is not a URL such as {scheme}://api.example.com",
                    quote(url)
                ));
            }
        }
        for (member, names) in [
            ("labels", &self.labels),
            ("visibility.allow", &self.visibility.allow),
            ("visibility.deny", &self.visibility.deny),
        ] {
            if names.len() > MOST_NAMES {
                mistakes.push(format!(
                    "{member} may have {MOST_NAMES} items at most, not {}",
                    names.len()
                ));
                continue;
            }
            mistakes.extend(
                names
                    .iter()
                    .filter_map(|name| Name::read(name).err())
                    .map(|why| format!("{member}: {why}")),
            );
        }
        mistakes
    }
}

impl Draft {
    /// An environment that a caller may publish to.
    ///
    /// # Errors
    /// When there is none of this name, or the caller may not.
    pub fn open_to(&self, caller: &Caller, scope: Scope, environment: &str) -> Result<&Environment, Problem> {
        let found = self.environments.get(environment).ok_or_else(|| missing(environment))?;
        caller.need_in(scope, environment)?;
        if found.is_visible_to(caller) {
            Ok(found)
        } else {
            Err(Problem::Forbidden(format!(
                "the environment {} is not open to the roles of this token",
                quote(environment)
            )))
        }
    }
}

pub(super) fn missing(environment: &str) -> Problem {
    Problem::NotFound(format!(
        "there is no environment {}; create it with POST /v1/environments",
        quote(environment)
    ))
}

/// Lists environments in the order of their names.
#[utoipa::path(get, path = "/v1/environments", tag = "environments", params(Page),
    responses((status = 200, body = List<Environment>)))]
pub(super) async fn list(node: Node, caller: Caller, Asked(page): Asked<Page>) -> Answer {
    caller.need(Scope::Read)?;
    let limit = page.limit()?;
    let objects = node
        .store
        .objects(ObjectKind::Environment, page.after.as_deref(), limit + 1)
        .await?;
    let heads = node.store.heads().await?;
    let mut items = Vec::with_capacity(objects.len());
    for found in &objects {
        let mut environment: Environment = stored(found)?;
        environment.revision = heads
            .iter()
            .find(|head| head.environment == found.name)
            .map(|head| head.seq);
        items.push(environment);
    }
    let list = List::of(items, limit, |environment| environment.name.clone());
    Ok(answer(StatusCode::OK, &list))
}

/// Creates an environment. One whose name was used before goes on with its numbers: gateways never go back.
#[utoipa::path(post, path = "/v1/environments", tag = "environments", request_body = Environment,
    responses((status = 201, body = Written<Environment>, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn create(node: Node, caller: Caller, sent: Sent) -> Answer {
    caller.need(Scope::Environments)?;
    let environment: Environment = sent.json().await?;
    let name = environment.name.clone();
    let named = name.clone();
    let only_new = move |version: Option<u64>| match version {
        Some(_) => Err(Problem::Conflict(format!(
            "the environment {} is there already",
            quote(&named)
        ))),
        None => Ok(()),
    };
    write(&node, &caller, &name, environment, only_new).await
}

/// Shows an environment.
#[utoipa::path(get, path = "/v1/environments/{name}", tag = "environments",
    params(("name" = String, Path, description = "Which one.")),
    responses((status = 200, body = Environment, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn get(node: Node, caller: Caller, Named(name): Named<String>) -> Answer {
    caller.need(Scope::Read)?;
    let found = node
        .store
        .object(ObjectKind::Environment, &name)
        .await?
        .ok_or_else(|| missing(&name))?;
    let mut environment: Environment = stored(&found)?;
    environment.revision = node.store.head(&name).await?.map(|head| head.seq);
    Ok(object(StatusCode::OK, Some(found.version), &environment))
}

/// Creates or replaces an environment. Another type is published at once.
#[utoipa::path(put, path = "/v1/environments/{name}", tag = "environments", request_body = Environment,
    params(("name" = String, Path, description = "Which one.")),
    responses(
        (status = 200, body = Written<Environment>, headers(("ETag" = String, description = "Its version."))),
        (status = 201, body = Written<Environment>, headers(("ETag" = String, description = "Its version."))),
    ))]
pub(super) async fn put(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    preconditions: Preconditions,
    sent: Sent,
) -> Answer {
    caller.need(Scope::Environments)?;
    let environment: Environment = sent.json().await?;
    same_name(&name, &environment.name)?;
    let what = format!("the environment {}", quote(&name));
    write(&node, &caller, &name, environment, move |version| {
        preconditions.check(version, &what)
    })
    .await
}

/// Makes the environment that gateways are of unless they say another one, in a store in which nothing was ever authored.
///
/// # Errors
/// When the store fails.
pub async fn make_first(store: &dyn Store, now_ms: u64) -> StoreResult<()> {
    if store.generation().await? > 0 {
        return Ok(());
    }
    let environment = Environment {
        name: FIRST.to_owned(),
        r#type: EnvironmentType::Hybrid,
        description: String::new(),
        endpoints: Endpoints::default(),
        labels: Vec::new(),
        visibility: Visibility::default(),
        in_catalogue: true,
        token_endpoint_shown: true,
        revision: None,
    };
    let value = serde_json::to_string(&environment).map_err(|error| StoreError::Failed(error.to_string()))?;
    let changes = Changes {
        objects: vec![ObjectChange {
            kind: ObjectKind::Environment,
            name: FIRST.to_owned(),
            expected: Expected::Absent,
            value: Some(value),
        }],
        ..Changes::default()
    };
    match store.commit(&changes, now_ms).await {
        // Another node, which has started at the same time, was first.
        Ok(_) | Err(StoreError::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn write(
    node: &Node,
    caller: &Caller,
    name: &str,
    mut environment: Environment,
    may: impl Fn(Option<u64>) -> Result<(), Problem> + Send + Sync + 'static,
) -> Answer {
    self::name("an environment", name)?;
    // Exports have a directory for each.
    if name.contains('/') || name == "." || name == ".." {
        return Err(Problem::BadRequest(format!(
            "the name of an environment: {} could not be the name of a directory; leave slashes out",
            quote(name)
        )));
    }
    bounded("a description", &environment.description)?;
    let mistakes = environment.mistakes();
    if !mistakes.is_empty() {
        return Err(Problem::Refused(mistakes));
    }
    name.clone_into(&mut environment.name);
    environment.revision = None;
    let (named, by) = (name.to_owned(), caller.clone());
    let shown = environment.clone();
    let edit = move |draft: &mut Draft| {
        by.need_in(Scope::Environments, &named)?;
        let before = draft.environments.version(&named);
        may(before)?;
        if before.is_none() && draft.environments.iter().count() >= MOST {
            return Err(Problem::Conflict(format!(
                "there are {MOST} environments already, which is the most"
            )));
        }
        let retyped = (draft.environments.get(&named)).is_some_and(|before| before.r#type != environment.r#type);
        draft.environments.put(&named, environment.clone());
        let head = draft.heads.get(&named).cloned();
        let seq = head.as_ref().map(|head| head.seq);
        if before.is_none() && head.is_some() {
            // One of this name was there before. What it served was deleted with it, and must not come back to gateways.
            draft.set_source(&named, Some(Source::default()));
            draft.publish(&named);
        }
        if let Some(head) = head.filter(|_| retyped) {
            draft.repeat(head, false);
        }
        Ok((before, seq))
    };
    let note = format!("the environment is of type {:?} now", shown.r#type).to_lowercase();
    let done = publish::change(node, order(caller, &note)?, edit).await?;
    let (before, seq) = done.value;
    let version = done.version(ObjectKind::Environment, name).or(before);
    let mut shown = shown;
    shown.revision = done.published.first().map(|published| published.seq).or(seq);
    let written = Written {
        object: shown,
        published: done.published,
        warnings: done.warnings,
    };
    Ok(match before {
        Some(_) => object(StatusCode::OK, version, &written),
        None => created(object(StatusCode::CREATED, version, &written), "/v1/environments", name),
    })
}

/// How an environment is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Deletion {
    /// Also if gateways serve it right now. They go on serving what they have.
    #[serde(default)]
    pub force: bool,
}

/// Deletes an environment. Its gateways go on serving what they have.
#[utoipa::path(delete, path = "/v1/environments/{name}", tag = "environments",
    params(("name" = String, Path, description = "Which one."), Deletion),
    responses((status = 204, description = "It is deleted.")))]
pub(super) async fn delete(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    Asked(deletion): Asked<Deletion>,
    preconditions: Preconditions,
) -> Answer {
    caller.need_in(Scope::Environments, &name)?;
    if !deletion.force && node.store.head(&name).await?.is_some() {
        let since = unix_ms().saturating_sub(u64::try_from(ALIVE.as_millis()).unwrap_or(u64::MAX));
        let instances = node.store.instances(None).await?;
        let serves = |registration: &str| {
            serde_json::from_str::<Register>(registration).is_ok_and(|register| register.environment == name)
        };
        let live = instances
            .iter()
            .filter(|one| one.seen_ms >= since && serves(&one.registration))
            .count();
        if live > 0 {
            return Err(Problem::Conflict(format!(
                "{live} gateways serve the environment {}; stop them first, or delete it with ?force=true",
                quote(&name)
            )));
        }
    }
    let edit = move |draft: &mut Draft| {
        let version = draft.environments.version(&name).ok_or_else(|| missing(&name))?;
        preconditions.check(Some(version), &format!("the environment {}", quote(&name)))?;
        draft.set_source(&name, None);
        draft.environments.remove(&name);
        Ok(())
    };
    publish::change(&node, order(&caller, "")?, edit).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn yes() -> bool {
    true
}
