//! Revisions of environments: publishing documents, looking back, comparing, and going back.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::api::{Publications, some_environments, unnamed};
use super::exchange::{Answer, Asked, List, Named, Node, Sent};
use super::exchange::{answer, bounded, limit, or_empty, order};
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::compose::{self, Recipe};
use crate::control_plane::diff::{self, Difference};
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::{self, Draft, Order, blocking};
use crate::control_plane::store::PublishedRevision;
use crate::document::quote;

/// A document to be published.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPublication {
    /// The names of environments: all of them get it, or none.
    pub environments: Vec<String>,
    /// A revision document, YAML or JSON. Of references in it, only `${cred:name}` can be published.
    pub document: String,
    /// What the document is called in mistakes, such as the name of a file.
    #[serde(default = "unnamed")]
    pub name: String,
    /// Why.
    #[serde(default, deserialize_with = "or_empty")]
    pub note: String,
    /// Everything is checked and compared, and nothing is stored.
    #[serde(default)]
    pub dry_run: bool,
}

/// A revision of an environment.
#[derive(Debug, Serialize, ToSchema)]
pub struct RevisionView {
    /// Where.
    pub environment: String,
    /// Its number.
    pub seq: u64,
    /// The root of its content, 64 hex digits.
    pub root: String,
    /// SHA-256 of its snapshot, 64 hex digits.
    pub snapshot: String,
    /// Size of the snapshot in bytes, packed.
    pub snapshot_size: u64,
    /// Routes in it.
    pub routes: u64,
    /// Who published it: the public id of a token.
    pub author: String,
    /// Why.
    pub note: String,
    /// The revision whose content it repeats, for a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<u64>,
    /// When, RFC 3339.
    pub published: String,
    /// Which revision of which API was deployed.
    pub deployments: BTreeMap<String, u32>,
    /// Everything in it; secrets are hidden. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Value>,
}

/// Which revisions are listed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Revisions {
    /// Begins with the one before this: `next` of the page before.
    pub after: Option<u64>,
    /// How many items at most; 100 if it is not said, 1,000 at most.
    pub limit: Option<usize>,
}

/// Which revisions are compared.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Compared {
    /// The number of the one.
    pub from: u64,
    /// The number of the other; absent: the newest.
    pub to: Option<u64>,
}

/// What is different between two revisions.
#[derive(Debug, Serialize, ToSchema)]
pub struct Comparison {
    /// Where.
    pub environment: String,
    /// The number of the one.
    pub from: u64,
    /// The number of the other.
    pub to: u64,
    /// What is different in the other; empty if they are the same.
    pub differences: Vec<Difference>,
}

/// Where to go back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The number of a revision of the same environment.
    pub to: u64,
    /// Why.
    #[serde(default, deserialize_with = "or_empty")]
    pub note: String,
}

fn missing(environment: &str, seq: u64) -> Problem {
    Problem::NotFound(format!(
        "the environment {} has no revision {seq}; the newest {} are kept",
        quote(environment),
        publish::KEPT
    ))
}

/// Publishes a document to environments: to all of them, or to none. It takes the place of the document that was there;
/// APIs that are deployed and applications stay.
#[utoipa::path(post, path = "/v1/revisions", tag = "revisions", request_body = NewPublication,
    responses((status = 200, body = Publications)))]
pub(super) async fn publish(node: Node, caller: Caller, sent: Sent) -> Answer {
    caller.need(Scope::Publish)?;
    let (new, leave) = sent.document::<NewPublication>(&node).await?;
    some_environments(&new.environments)?;
    bounded("the name of a document", &new.name)?;
    for environment in &new.environments {
        caller.need_in(Scope::Publish, environment)?;
    }
    let order = Order {
        dry_run: new.dry_run,
        diff: true,
        ..order(&caller, &new.note)?
    };
    let NewPublication {
        environments,
        document,
        name,
        ..
    } = new;
    let document = blocking(move || compose::check_document(&document, &name).map_err(Problem::Refused)).await?;
    let edit = move |draft: &mut Draft| {
        for environment in &environments {
            draft.open_to(&caller, Scope::Publish, environment)?;
            let mut source = draft.sources.get(environment).cloned().unwrap_or_default();
            source.document = Some(document.clone());
            draft.set_source(environment, Some(source));
            draft.publish(environment);
        }
        Ok(())
    };
    let done = publish::change(&node, order, edit).await?;
    drop(leave);
    let publications = Publications {
        published: done.published,
        warnings: done.warnings,
    };
    Ok(answer(StatusCode::OK, &publications))
}

/// Lists the revisions of an environment, the newest first.
#[utoipa::path(get, path = "/v1/environments/{name}/revisions", tag = "revisions",
    params(("name" = String, Path, description = "Which environment."), Revisions),
    responses((status = 200, body = List<RevisionView>)))]
pub(super) async fn list(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    Asked(asked): Asked<Revisions>,
) -> Answer {
    caller.need(Scope::Read)?;
    let limit = limit(asked.limit)?;
    let revisions = node.store.revisions(&name, asked.after, limit + 1).await?;
    if revisions.is_empty() {
        exists(&node, &name).await?;
    }
    let items = revisions.into_iter().map(|revision| view(revision, None)).collect();
    Ok(answer(
        StatusCode::OK,
        &List::of(items, limit, |revision| revision.seq.to_string()),
    ))
}

async fn exists(node: &Node, environment: &str) -> Result<(), Problem> {
    let kind = crate::control_plane::store::ObjectKind::Environment;
    match node.store.object(kind, environment).await? {
        Some(_) => Ok(()),
        None => Err(super::environment::missing(environment)),
    }
}

/// Shows a revision of an environment with its document.
#[utoipa::path(get, path = "/v1/environments/{name}/revisions/{seq}", tag = "revisions",
    params(("name" = String, Path, description = "Which environment."), ("seq" = u64, Path, description = "Which revision.")),
    responses((status = 200, body = RevisionView)))]
pub(super) async fn get(node: Node, caller: Caller, Named((name, seq)): Named<(String, u64)>) -> Answer {
    caller.need(Scope::Read)?;
    let revision = found(&node, &name, seq).await?;
    let content = publish::content(&node, &revision).await?;
    let document = blocking(move || publish::shown(&content)).await?;
    Ok(answer(StatusCode::OK, &view(revision, Some(document))))
}

async fn found(node: &Node, environment: &str, seq: u64) -> Result<PublishedRevision, Problem> {
    match node.store.revision(environment, seq).await? {
        Some(revision) => Ok(revision),
        None => {
            exists(node, environment).await?;
            Err(missing(environment, seq))
        }
    }
}

fn recipe(revision: &PublishedRevision) -> Recipe {
    serde_json::from_str(&revision.source).unwrap_or_else(|error| {
        log::error!("revision {} of \"{}\": {error}", revision.seq, revision.environment);
        Recipe::default()
    })
}

fn view(revision: PublishedRevision, document: Option<Value>) -> RevisionView {
    RevisionView {
        deployments: recipe(&revision).deployments,
        environment: revision.environment,
        seq: revision.seq,
        root: revision.root.to_string(),
        snapshot: revision.snapshot.to_string(),
        snapshot_size: revision.snapshot_size,
        routes: revision.routes,
        author: revision.author,
        note: revision.note,
        rollback_of: revision.rollback_of,
        published: super::key::instant(revision.published_ms),
        document,
    }
}

/// Compares two revisions of an environment in terms of routes, auth, limits, endpoints and subscriptions.
#[utoipa::path(get, path = "/v1/environments/{name}/diff", tag = "revisions",
    params(("name" = String, Path, description = "Which environment."), Compared),
    responses((status = 200, body = Comparison)))]
pub(super) async fn diff(
    node: Node,
    caller: Caller,
    Named(name): Named<String>,
    Asked(asked): Asked<Compared>,
) -> Answer {
    caller.need(Scope::Read)?;
    let from = found(&node, &name, asked.from).await?;
    let to = match asked.to {
        Some(seq) => found(&node, &name, seq).await?,
        None => node.store.head(&name).await?.ok_or_else(|| missing(&name, 0))?,
    };
    let before = publish::content(&node, &from).await?;
    let after = publish::content(&node, &to).await?;
    let differences = blocking(move || Ok(diff::between(&before, &after))).await?;
    let comparison = Comparison {
        environment: name,
        from: from.seq,
        to: to.seq,
        differences,
    };
    Ok(answer(StatusCode::OK, &comparison))
}

/// Goes back: the content of an earlier revision becomes the newest revision, under a new number. What environments are
/// composed of goes back with it; plans and applications that are authored do not, and come in with the next change.
#[utoipa::path(post, path = "/v1/environments/{name}/rollback", tag = "revisions", request_body = Rollback,
    params(("name" = String, Path, description = "Which environment.")),
    responses((status = 200, body = Publications)))]
pub(super) async fn rollback(node: Node, caller: Caller, Named(name): Named<String>, sent: Sent) -> Answer {
    caller.need_in(Scope::Publish, &name)?;
    let Rollback { to, note } = sent.json().await?;
    let note = if note.is_empty() {
        format!("back to revision {to}")
    } else {
        note
    };
    let order = order(&caller, &note)?;
    let target = found(&node, &name, to).await?;
    let content = publish::content(&node, &target).await?;
    let recipe = recipe(&target);
    let fragments = publish::fragments(&node, recipe.deployments.clone()).await?;
    let edit = move |draft: &mut Draft| {
        draft.open_to(&caller, Scope::Publish, &name)?;
        let mut authored = fragments.clone();
        authored.retain(|(api, number), _| draft.apis.get(api).is_some_and(|api| *number <= api.latest));
        draft.set_source(&name, Some(recipe.restore(&content, &authored)));
        draft.repeat(target.clone(), true);
        Ok(())
    };
    let done = publish::change(&node, order, edit).await?;
    let publications = Publications {
        published: done.published,
        warnings: done.warnings,
    };
    Ok(answer(StatusCode::OK, &publications))
}
