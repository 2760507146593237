//! `/v1/plans`: sets of limits, to which subscriptions refer.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::exchange::{Answer, Asked, List, Named, Node, Page, Preconditions, Sent, Written};
use super::exchange::{answer, created, name, object, order, same_name};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::compose::check_document;
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::{self, Draft, stored};
use crate::control_plane::store::ObjectKind;
use crate::document::quote;

/// A set of limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Unique; in the grammar of the names in revision documents.
    #[serde(default)]
    pub name: String,
    /// As in `plans` of a revision document: `{"name": "minute", "rate": "5000/m"}`. Empty is unlimited.
    pub limits: Vec<Value>,
}

fn missing(name: &str) -> Problem {
    Problem::NotFound(format!(
        "there is no plan {}; create it with POST /v1/plans",
        quote(name)
    ))
}

/// Lists plans in the order of their names.
#[utoipa::path(get, path = "/v1/plans", tag = "plans", params(Page), responses((status = 200, body = List<Plan>)))]
pub(super) async fn list(node: Node, caller: Caller, Asked(page): Asked<Page>) -> Answer {
    caller.need(Scope::Read)?;
    let limit = page.limit()?;
    let objects = node
        .store
        .objects(ObjectKind::Plan, page.after.as_deref(), limit + 1)
        .await?;
    let plans = objects.iter().map(stored).collect::<Result<Vec<Plan>, _>>()?;
    Ok(answer(
        StatusCode::OK,
        &List::of(plans, limit, |plan| plan.name.clone()),
    ))
}

/// Creates a plan.
#[utoipa::path(post, path = "/v1/plans", tag = "plans", request_body = Plan,
    responses((status = 201, body = Written<Plan>, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn create(node: Node, caller: Caller, sent: Sent) -> Answer {
    caller.need(Scope::Plans)?;
    let plan: Plan = sent.json().await?;
    let name = plan.name.clone();
    let named = name.clone();
    let only_new = move |version: Option<u64>| match version {
        Some(_) => Err(Problem::Conflict(format!(
            "the plan {} is there already",
            quote(&named)
        ))),
        None => Ok(()),
    };
    write(&node, &caller, &name, plan, only_new).await
}

/// Shows a plan.
#[utoipa::path(get, path = "/v1/plans/{name}", tag = "plans",
    params(("name" = String, Path, description = "Which one.")),
    responses((status = 200, body = Plan, headers(("ETag" = String, description = "Its version.")))))]
pub(super) async fn get(node: Node, caller: Caller, Named(name): Named<String>) -> Answer {
    caller.need(Scope::Read)?;
    let found = node
        .store
        .object(ObjectKind::Plan, &name)
        .await?
        .ok_or_else(|| missing(&name))?;
    let plan: Plan = stored(&found)?;
    Ok(object(StatusCode::OK, Some(found.version), &plan))
}

/// Creates or replaces a plan. Every environment that has it gets a new revision, or nothing happens.
#[utoipa::path(put, path = "/v1/plans/{name}", tag = "plans", request_body = Plan,
    params(("name" = String, Path, description = "Which one.")),
    responses(
        (status = 200, body = Written<Plan>, headers(("ETag" = String, description = "Its version."))),
        (status = 201, body = Written<Plan>, headers(("ETag" = String, description = "Its version."))),
    ))]
pub(super) async fn put(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    preconditions: Preconditions,
    sent: Sent,
) -> Answer {
    caller.need(Scope::Plans)?;
    let plan: Plan = sent.json().await?;
    same_name(&name, &plan.name)?;
    let what = format!("the plan {}", quote(&name));
    write(&node, &caller, &name, plan, move |version| {
        preconditions.check(version, &what)
    })
    .await
}

async fn write(
    node: &Node,
    caller: &Caller,
    name: &str,
    plan: Plan,
    may: impl Fn(Option<u64>) -> Result<(), Problem> + Send + Sync + 'static,
) -> Answer {
    self::name("a plan", name)?;
    let plan = checked(name, &plan)?;
    let (named, by) = (name.to_owned(), caller.clone());
    let shown = plan.clone();
    let edit = move |draft: &mut Draft| {
        let before = draft.plans.version(&named);
        may(before)?;
        draft.plans.put(&named, plan.clone());
        for environment in draft.environments_with(&subscribed_by_plan(draft, &named)) {
            by.need_in(Scope::Plans, &environment)?;
            draft.publish(&environment);
        }
        Ok(before)
    };
    let done = publish::change(node, order(caller, &format!("plan {name}"))?, edit).await?;
    let before = done.value;
    let version = done.version(ObjectKind::Plan, name).or(before);
    let written = Written {
        object: shown,
        published: done.published,
        warnings: done.warnings,
    };
    Ok(match before {
        Some(_) => object(StatusCode::OK, version, &written),
        None => created(object(StatusCode::CREATED, version, &written), "/v1/plans", name),
    })
}

/// Deletes a plan that no subscription refers to.
#[utoipa::path(delete, path = "/v1/plans/{name}", tag = "plans",
    params(("name" = String, Path, description = "Which one.")),
    responses((status = 204, description = "It is deleted.")))]
pub(super) async fn delete(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    preconditions: Preconditions,
) -> Answer {
    caller.need(Scope::Plans)?;
    let edit = move |draft: &mut Draft| {
        let version = draft.plans.version(&name).ok_or_else(|| missing(&name))?;
        preconditions.check(Some(version), &format!("the plan {}", quote(&name)))?;
        let users: Vec<&str> = (draft.applications.iter())
            .filter(|(_, application)| application.subscriptions.iter().any(|one| one.plan == name))
            .map(|(user, _)| user)
            .collect();
        if let Some(first) = users.first() {
            let others = match users.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} others"),
            };
            return Err(Problem::Conflict(format!(
                "the plan {} is used by the application {}{others}",
                quote(&name),
                quote(first)
            )));
        }
        draft.plans.remove(&name);
        Ok(())
    };
    publish::change(&node, order(&caller, "")?, edit).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The plan as a document would have it, checked by the same code.
fn checked(name: &str, plan: &Plan) -> Result<Plan, Problem> {
    let document = json!({ "version": 1, "plans": [{ "name": name, "limits": plan.limits }] });
    let value = check_document(&document.to_string(), &format!("plan {name}")).map_err(Problem::Refused)?;
    let limits = value.pointer("/plans/0/limits").and_then(Value::as_array).cloned();
    Ok(Plan {
        name: name.to_owned(),
        limits: limits.unwrap_or_default(),
    })
}

/// The APIs that somebody calls under a plan.
fn subscribed_by_plan(draft: &Draft, plan: &str) -> BTreeSet<String> {
    let subscriptions = draft
        .applications
        .iter()
        .flat_map(|(_, application)| &application.subscriptions);
    let under = subscriptions.filter(|subscription| subscription.plan == plan);
    under.map(|subscription| subscription.api.clone()).collect()
}
