//! `/v1/applications`: who calls, and what under which plan.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::exchange::{Answer, Asked, List, Named, Node, Page, Preconditions, Sent, Written};
use super::exchange::{answer, bounded, created, name, object, or_empty, order, same_name};
use crate::clock::unix_ms;
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::{self, Done, Draft, stored};
use crate::control_plane::store::{KeyQuery, KeyWrite, ObjectKind};
use crate::distribution::Kind;
use crate::document::{Grammar, Name, did_you_mean, quote};
use crate::revision::KeyType;
use crate::san::San;

/// How many APIs an application may subscribe to.
const MOST: usize = 10_000;

/// How many certificates it may have.
const CERTIFICATES: usize = 1000;

/// How many scopes may be granted to it, and how long each may be.
const SCOPES: usize = 100;
const SCOPE: usize = 128;

/// A client program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Unique; in the grammar of the names in revision documents.
    #[serde(default)]
    pub name: String,
    /// For people.
    #[serde(default, deserialize_with = "or_empty")]
    pub description: String,
    /// What it may call, and under which plan; at most one for each API.
    #[serde(default)]
    pub subscriptions: Vec<Subscription>,
    /// Its client certificates, by a name in them; absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
    /// The scopes that its access tokens may have; absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

/// Certificates that let an application in: all with this name that an authority of a listener has issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The public name, for logs; unique among all keys and certificates of an environment.
    pub id: String,
    /// A subject alternative name, such as `uri:spiffe://example.org/mobile`, `dns:mobile.example.org`,
    /// `email:ops@example.org` or `ip:192.0.2.1`; it belongs to one application.
    pub san: String,
    /// What it may be used for; production if absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub key_type: Option<KeyType>,
    /// When it ends, RFC 3339; as the certificate says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// The right to call an API under a plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// The name of the API.
    pub api: String,
    /// The name of the plan.
    pub plan: String,
}

/// The plan of a subscription.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionPlan {
    /// The name of the plan.
    pub plan: String,
}

pub(super) fn missing(name: &str) -> Problem {
    Problem::NotFound(format!(
        "there is no application {}; create it with POST /v1/applications",
        quote(name)
    ))
}

/// Lists applications in the order of their names.
#[utoipa::path(get, path = "/v1/applications", tag = "applications", params(Page),
    responses((status = 200, body = List<Application>)))]
pub(super) async fn list(node: Node, caller: Caller, Asked(page): Asked<Page>) -> Answer {
    caller.need(Scope::Read)?;
    let limit = page.limit()?;
    let objects = node
        .store
        .objects(ObjectKind::Application, page.after.as_deref(), limit + 1)
        .await?;
    let applications = objects.iter().map(stored).collect::<Result<Vec<Application>, _>>()?;
    let list = List::of(applications, limit, |application| application.name.clone());
    Ok(answer(StatusCode::OK, &list))
}

/// Creates an application.
#[utoipa::path(post, path = "/v1/applications", tag = "applications", request_body = Application,
    responses((status = 201, body = Written<Application>, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn create(node: Node, caller: Caller, sent: Sent) -> Answer {
    caller.need(Scope::Applications)?;
    let application: Application = sent.json().await?;
    let name = application.name.clone();
    let named = name.clone();
    let only_new = move |version: Option<u64>| match version {
        Some(_) => Err(Problem::Conflict(format!(
            "the application {} is there already",
            quote(&named)
        ))),
        None => Ok(()),
    };
    let replaced = move |_: Application| Ok(application.clone());
    write(&node, &caller, &name, only_new, replaced).await
}

/// Shows an application.
#[utoipa::path(get, path = "/v1/applications/{name}", tag = "applications",
    params(("name" = String, Path, description = "Which one.")),
    responses((status = 200, body = Application, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn get(node: Node, caller: Caller, Named(name): Named<String>) -> Answer {
    caller.need(Scope::Read)?;
    let found = node
        .store
        .object(ObjectKind::Application, &name)
        .await?
        .ok_or_else(|| missing(&name))?;
    let application: Application = stored(&found)?;
    Ok(object(StatusCode::OK, Some(found.version), &application))
}

/// Creates or replaces an application. Every environment that it concerns gets a new revision, or nothing happens.
#[utoipa::path(put, path = "/v1/applications/{name}", tag = "applications", request_body = Application,
    params(("name" = String, Path, description = "Which one.")),
    responses(
        (status = 200, body = Written<Application>, headers(("ETag" = String, description = "Its version."))),
        (status = 201, body = Written<Application>, headers(("ETag" = String, description = "Its version."))),
    ))]
pub(super) async fn put(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    preconditions: Preconditions,
    sent: Sent,
) -> Answer {
    caller.need(Scope::Applications)?;
    let application: Application = sent.json().await?;
    same_name(&name, &application.name)?;
    let what = format!("the application {}", quote(&name));
    let replaced = move |_: Application| Ok(application.clone());
    write(
        &node,
        &caller,
        &name,
        move |version| preconditions.check(version, &what),
        replaced,
    )
    .await
}

/// Subscribes an application to an API, or changes the plan.
#[utoipa::path(put, path = "/v1/applications/{name}/subscriptions/{api}", tag = "applications",
    request_body = SubscriptionPlan,
    params(("name" = String, Path, description = "Which application."), ("api" = String, Path, description = "Which API.")),
    responses((status = 200, body = Written<Application>, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn subscribe(
    node: Node,
    caller: Caller,
    Named((name, api)): Named<(String, String)>,
    preconditions: Preconditions,
    sent: Sent,
) -> Answer {
    caller.need(Scope::Applications)?;
    let SubscriptionPlan { plan } = sent.json().await?;
    let subscribed = move |mut application: Application| {
        match application.subscriptions.iter_mut().find(|one| one.api == api) {
            Some(subscription) => subscription.plan.clone_from(&plan),
            None => application.subscriptions.push(Subscription {
                api: api.clone(),
                plan: plan.clone(),
            }),
        }
        Ok(application)
    };
    write(&node, &caller, &name, existing(&name, preconditions), subscribed).await
}

/// Ends a subscription.
#[utoipa::path(delete, path = "/v1/applications/{name}/subscriptions/{api}", tag = "applications",
    params(("name" = String, Path, description = "Which application."), ("api" = String, Path, description = "Which API.")),
    responses((status = 200, body = Written<Application>, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn unsubscribe(
    node: Node,
    caller: Caller,
    Named((name, api)): Named<(String, String)>,
    preconditions: Preconditions,
) -> Answer {
    caller.need(Scope::Applications)?;
    let ended = move |mut application: Application| {
        let before = application.subscriptions.len();
        application.subscriptions.retain(|one| one.api != api);
        if application.subscriptions.len() == before {
            return Err(Problem::NotFound(format!(
                "the application {} is not subscribed to the API {}",
                quote(&application.name),
                quote(&api)
            )));
        }
        Ok(application)
    };
    write(&node, &caller, &name, existing(&name, preconditions), ended).await
}

/// Lets through who changes a part of something that is there.
fn existing(
    name: &str,
    preconditions: Preconditions,
) -> impl Fn(Option<u64>) -> Result<(), Problem> + Send + Sync + 'static {
    let name = name.to_owned();
    move |version| {
        preconditions.check(version, &format!("the application {}", quote(&name)))?;
        version.map(drop).ok_or_else(|| missing(&name))
    }
}

async fn write(
    node: &Node,
    caller: &Caller,
    name: &str,
    may: impl Fn(Option<u64>) -> Result<(), Problem> + Send + Sync + 'static,
    become_: impl Fn(Application) -> Result<Application, Problem> + Send + Sync + 'static,
) -> Answer {
    self::name("an application", name)?;
    let (named, by) = (name.to_owned(), caller.clone());
    let edit = move |draft: &mut Draft| {
        let before = draft.applications.version(&named);
        may(before)?;
        let old = draft.applications.get(&named).cloned().unwrap_or_default();
        let mut new = become_(old.clone())?;
        new.name.clone_from(&named);
        bounded("a description", &new.description)?;
        let mut mistakes = mistakes(draft, &old, &new);
        mistakes.extend(wrong_scopes(&new));
        mistakes.extend(wrong_certificates(&new));
        if !mistakes.is_empty() {
            return Err(Problem::Refused(mistakes));
        }
        draft.applications.put(&named, new.clone());
        publish_where_concerned(draft, &by, &[&old, &new])?;
        Ok((before, new))
    };
    let done: Done<(Option<u64>, Application)> =
        publish::change(node, order(caller, &format!("application {name}"))?, edit).await?;
    let version = done.version(ObjectKind::Application, name).or(done.value.0);
    let (before, application) = done.value;
    let written = Written {
        object: application,
        published: done.published,
        warnings: done.warnings,
    };
    Ok(match before {
        Some(_) => object(StatusCode::OK, version, &written),
        None => created(object(StatusCode::CREATED, version, &written), "/v1/applications", name),
    })
}

/// Deletes an application and revokes all its keys.
#[utoipa::path(delete, path = "/v1/applications/{name}", tag = "applications",
    params(("name" = String, Path, description = "Which one.")),
    responses((status = 204, description = "It is deleted, and its keys are revoked.")))]
pub(super) async fn delete(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    preconditions: Preconditions,
) -> Answer {
    caller.need(Scope::Applications)?;
    let (named, by) = (name.clone(), caller.clone());
    let edit = move |draft: &mut Draft| {
        let version = draft.applications.version(&named).ok_or_else(|| missing(&named))?;
        preconditions.check(Some(version), &format!("the application {}", quote(&named)))?;
        let old = draft.applications.get(&named).cloned().unwrap_or_default();
        draft.applications.remove(&named);
        publish_where_concerned(draft, &by, &[&old])
    };
    let deleted = publish::change(&node, order(&caller, &format!("application {name}"))?, edit).await;
    match deleted {
        Ok(_) => {}
        // Somebody may have deleted it and have gone away before its keys were revoked: they must not wait for the next
        // application of this name. What a document has, however, has its keys by right.
        Err(Problem::NotFound(_))
            if has_live_keys(&node, &name).await? && !super::key::is_known(&node, &name).await? => {}
        Err(problem) => return Err(problem),
    }
    let head = node
        .store
        .write_keys(&[KeyWrite::RevokeApplication(name)], unix_ms())
        .await?;
    node.heads.keys_written(head);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn has_live_keys(node: &Node, application: &str) -> Result<bool, Problem> {
    let mut query = KeyQuery {
        application: Some(application.to_owned()),
        limit: 1000,
        ..KeyQuery::default()
    };
    loop {
        let keys = node.store.keys(&query).await?;
        if keys.iter().any(|key| key.revoked_ms.is_none()) {
            return Ok(true);
        }
        match keys.last().filter(|_| keys.len() == query.limit) {
            Some(last) => query.after = Some(last.entry.id.clone()),
            None => return Ok(false),
        }
    }
}

/// Environments that have one of the APIs which the application was or is subscribed to.
fn publish_where_concerned(draft: &mut Draft, by: &Caller, states: &[&Application]) -> Result<(), Problem> {
    let unchanged = match states {
        [old, new] => old.subscriptions == new.subscriptions && old.certificates == new.certificates,
        _ => false,
    };
    if unchanged {
        return Ok(());
    }
    let apis: BTreeSet<String> = states
        .iter()
        .flat_map(|state| &state.subscriptions)
        .map(|subscription| subscription.api.clone())
        .collect();
    for environment in draft.environments_with(&apis) {
        by.need_in(Scope::Applications, &environment)?;
        draft.publish(&environment);
    }
    Ok(())
}

/// What is wrong with scopes: each is a scope-token of RFC 6749 §3.3, so that it can be asked for.
fn wrong_scopes(application: &Application) -> Vec<String> {
    let whose = format!("application {}", quote(&application.name));
    if application.scopes.len() > SCOPES {
        let count = application.scopes.len();
        return vec![format!("{whose} may have {SCOPES} scopes at most, not {count}")];
    }
    let fits = |c: char| matches!(c, '!' | '#'..='[' | ']'..='~');
    let mut seen = BTreeSet::new();
    let mut mistakes = Vec::new();
    for (position, scope) in application.scopes.iter().enumerate() {
        if scope.is_empty() || scope.len() > SCOPE || !scope.chars().all(fits) {
            mistakes.push(format!(
                "{whose}: scopes[{position}] has to be 1 to {SCOPE} visible ASCII characters without spaces, quotes and \
                 backslashes"
            ));
        } else if !seen.insert(scope) {
            mistakes.push(format!("{whose}: the scope {} is there twice", quote(scope)));
        }
    }
    mistakes
}

/// What is wrong with certificates by themselves; whether another application has the same is seen where both are
/// published.
fn wrong_certificates(application: &Application) -> Vec<String> {
    let whose = format!("application {}", quote(&application.name));
    if application.certificates.len() > CERTIFICATES {
        let count = application.certificates.len();
        return vec![format!(
            "{whose} may have {CERTIFICATES} certificates at most, not {count}"
        )];
    }
    let mut mistakes = Vec::new();
    for (position, certificate) in application.certificates.iter().enumerate() {
        let Certificate { id, san, expires, .. } = certificate;
        if let Err(why) = <Name as Grammar>::read(id) {
            mistakes.push(format!("{whose}: the id of certificates[{position}]: {why}"));
        }
        if let Err(why) = San::parse(san) {
            mistakes.push(format!("{whose}: the san of certificates[{position}]: {why}"));
        }
        if expires
            .as_ref()
            .is_some_and(|expires| expires.parse::<Timestamp>().is_err())
        {
            mistakes.push(format!(
                "{whose}: certificates[{position}] expires at no instant; write 2027-01-01T00:00:00Z"
            ));
        }
    }
    mistakes
}

/// What is wrong with new subscriptions. Those that were there before are left alone: an API may have gone meanwhile.
fn mistakes(draft: &Draft, old: &Application, new: &Application) -> Vec<String> {
    let whose = format!("application {}", quote(&new.name));
    if new.subscriptions.len() > MOST {
        return vec![format!(
            "{whose} may have {MOST} subscriptions at most, not {}",
            new.subscriptions.len()
        )];
    }
    let known: BTreeSet<&Subscription> = old.subscriptions.iter().collect();
    let mut mistakes = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let fresh = new
        .subscriptions
        .iter()
        .any(|subscription| !known.contains(subscription));
    let names = |kind| -> BTreeSet<&str> {
        match kind {
            _ if !fresh => BTreeSet::new(),
            Kind::Api => draft
                .apis
                .iter()
                .map(|(name, _)| name)
                .chain(draft.in_documents(kind))
                .collect(),
            _ => draft
                .plans
                .iter()
                .map(|(name, _)| name)
                .chain(draft.in_documents(kind))
                .collect(),
        }
    };
    let (apis, plans) = (names(Kind::Api), names(Kind::Plan));
    for (position, subscription) in new.subscriptions.iter().enumerate() {
        if let Some(first) = seen.insert(&subscription.api, position) {
            mistakes.push(format!(
                "{whose}: subscriptions {first} and {position} are both to API {}; there can be one",
                quote(&subscription.api)
            ));
        }
        if known.contains(subscription) {
            continue;
        }
        for (noun, name, names) in [("API", &subscription.api, &apis), ("plan", &subscription.plan, &plans)] {
            if !names.contains(name.as_str()) {
                let meant = did_you_mean(name, names.iter().copied());
                mistakes.push(format!("{whose}: {noun} {} does not exist{meant}", quote(name)));
            }
        }
    }
    mistakes
}
