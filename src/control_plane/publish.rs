//! Changing what is authored: everything that follows from a change is composed, checked and stored with it as one, or
//! nothing happens.
//!
//! Optimistic: what is stored is read, the change is made to it, and the store takes the result only if nothing else has
//! changed meanwhile. On one node changes wait for each other, so that they do not spoil each other's work.

mod draft;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub use draft::{Draft, Shelf, stored};

use self::draft::{Publish, Stored};
use super::compose::{self, Fragments, Recipe};
use super::diff::{self, Difference};
use super::plane::Plane;
use super::problem::Problem;
use super::store::{Changes, Committed, NewRevision, Object, ObjectKind, PublishedRevision, StoreError};
use crate::clock::unix_ms;
use crate::distribution::{BlobRef, Content, ContentHash};

/// How many revisions of an environment are kept; the background of the server removes older ones.
pub const KEPT: usize = 1000;

/// How often a change is tried that others get in the way of. On one node it never is.
const ATTEMPTS: u32 = 5;

/// How long a change waits for those before it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who changes something, and how.
#[derive(Debug, Clone)]
pub struct Order {
    /// The public id of a token.
    pub author: String,
    /// Why.
    pub note: String,
    /// Nothing is stored.
    pub dry_run: bool,
    /// Whether it is told what changed in environments.
    pub diff: bool,
}

/// What happened to an environment.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Published {
    /// Which one.
    pub environment: String,
    /// The number of its newest revision.
    pub seq: u64,
    /// The root of its content, 64 hex digits.
    pub root: String,
    /// Whether there is a new revision. If not, the content is what it was before.
    pub changed: bool,
    /// What is different from the revision before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<Vec<Difference>>,
}

/// What came of a change.
#[derive(Debug)]
pub struct Done<T> {
    /// What the edit gave.
    pub value: T,
    /// The environments that it concerned.
    pub published: Vec<Published>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    objects: Vec<Object>,
}

impl<T> Done<T> {
    /// The version that an object has now, if it was written.
    #[must_use]
    pub fn version(&self, kind: ObjectKind, name: &str) -> Option<u64> {
        let written = self
            .objects
            .iter()
            .find(|object| object.kind == kind && object.name == name);
        written.map(|object| object.version)
    }
}

/// Makes a change with everything that follows from it. The edit is asked again when somebody else was faster; it must
/// not have effects of its own. Goes on when the caller is gone.
///
/// # Errors
/// What the edit says; [`Problem::Refused`] with every mistake when an environment would become something that gateways
/// can not compile; [`Problem::Conflict`] when others change things all the time.
pub async fn change<T, F>(plane: &Arc<Plane>, order: Order, edit: F) -> Result<Done<T>, Problem>
where
    T: Send + 'static,
    F: Fn(&mut Draft) -> Result<T, Problem> + Send + Sync + 'static,
{
    let plane = Arc::clone(plane);
    let work = tokio::spawn(async move { changed(&plane, order, Arc::new(edit)).await });
    work.await.unwrap_or_else(|error| {
        log::error!("a change: {error}");
        Err(Problem::Internal)
    })
}

async fn changed<T, F>(plane: &Arc<Plane>, order: Order, edit: Arc<F>) -> Result<Done<T>, Problem>
where
    T: Send + 'static,
    F: Fn(&mut Draft) -> Result<T, Problem> + Send + Sync + 'static,
{
    let turn = tokio::time::timeout(PATIENCE, plane.authoring.changes.lock());
    let _turn = turn.await.map_err(|_| Problem::Busy { retry_after_ms: 1000 })?;
    let order = Arc::new(order);
    for attempt in 1..=ATTEMPTS {
        let prepared = prepare(plane, &order, &edit).await?;
        if order.dry_run || prepared.changes.objects.is_empty() && prepared.changes.revisions.is_empty() {
            return Ok(prepared.done(Committed::default()));
        }
        match plane.store.commit(&prepared.changes, unix_ms()).await {
            Ok(committed) => {
                for revision in &committed.revisions {
                    plane.heads.published(revision);
                }
                return Ok(prepared.done(committed));
            }
            Err(StoreError::Conflict(what)) => {
                log::debug!("a change, attempt {attempt}: {what}");
                let jitter = rand::random_range(0..20 << attempt);
                tokio::time::sleep(Duration::from_millis(jitter)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::Conflict(
        "others are changing the same things at the same time; try again".to_owned(),
    ))
}

/// Everything that can be known before it is stored.
struct Prepared<T> {
    value: T,
    published: Vec<Published>,
    warnings: Vec<String>,
    changes: Changes,
}

impl<T> Prepared<T> {
    fn done(self, committed: Committed) -> Done<T> {
        let mut published = self.published;
        for revision in &committed.revisions {
            for told in published
                .iter_mut()
                .filter(|told| told.environment == revision.environment)
            {
                told.seq = revision.seq;
            }
        }
        Done {
            value: self.value,
            published,
            warnings: self.warnings,
            objects: committed.objects,
        }
    }
}

async fn prepare<T, F>(plane: &Arc<Plane>, order: &Arc<Order>, edit: &Arc<F>) -> Result<Prepared<T>, Problem>
where
    T: Send + 'static,
    F: Fn(&mut Draft) -> Result<T, Problem> + Send + Sync + 'static,
{
    let stored = Stored::read(plane.store.as_ref()).await?;
    let edit = Arc::clone(edit);
    let (draft, value) = blocking(move || {
        let mut draft = stored.draft()?;
        let value = edit(&mut draft)?;
        Ok((draft, value))
    })
    .await?;
    let fragments = fragments(plane, draft.needed()).await?;
    let before = if order.diff {
        contents(plane, &draft).await?
    } else {
        BTreeMap::new()
    };
    let order = Arc::clone(order);
    blocking(move || composed(&draft, &fragments, &before, &order, value)).await
}

/// Composes and checks every environment that may have become another one; all mistakes of all of them are told at once.
fn composed<T>(
    draft: &Draft,
    fragments: &Fragments,
    before: &BTreeMap<String, Content>,
    order: &Order,
    value: T,
) -> Result<Prepared<T>, Problem> {
    let mut prepared = Prepared {
        value,
        published: Vec::new(),
        warnings: Vec::new(),
        changes: Changes {
            generation: Some(draft.generation),
            objects: draft.changes()?,
            ..Changes::default()
        },
    };
    let mut mistakes = Vec::new();
    for (environment, publish) in &draft.publish {
        let source = draft.sources.get(environment).cloned().unwrap_or_default();
        let recipe = serde_json::to_string(&Recipe::of(&source)).map_err(internal)?;
        let head = draft.heads.get(environment);
        let mut revision = NewRevision {
            environment: environment.clone(),
            after: head.map_or(0, |head| head.seq),
            root: ContentHash([0; 32]),
            snapshot: ContentHash([0; 32]),
            snapshot_raw_size: 0,
            routes: 0,
            source: recipe,
            author: order.author.clone(),
            note: order.note.clone(),
            rollback_of: None,
        };
        let mut diff = None;
        match publish {
            Publish::Repeated { of, is_rollback } => {
                revision.root = of.root;
                revision.snapshot = of.snapshot;
                revision.snapshot_raw_size = of.snapshot_raw_size;
                revision.routes = of.routes;
                revision.rollback_of = is_rollback.then_some(of.seq);
            }
            Publish::Composed => {
                let composed = compose::compose(
                    &source,
                    fragments,
                    |plan| draft.plans.get(plan),
                    draft.applications.iter(),
                );
                revision.root = composed.content.root();
                if order.diff {
                    let nothing = Content::default();
                    let before = before.get(environment).unwrap_or(&nothing);
                    diff = Some(diff::between(before, &composed.content));
                }
                match composed.check(environment) {
                    Ok(checked) => {
                        revision.routes = checked.routes;
                        prepared.warnings.extend(checked.warnings);
                    }
                    Err(found) => {
                        mistakes.extend(found);
                        continue;
                    }
                }
                if let Some(head) = head.filter(|head| head.root == revision.root) {
                    prepared.published.push(Published {
                        environment: environment.clone(),
                        seq: head.seq,
                        root: head.root.to_string(),
                        changed: false,
                        diff,
                    });
                    continue;
                }
                let (snapshot, bytes) = composed.content.to_snapshot().map_err(internal)?;
                revision.snapshot = snapshot.sha256;
                revision.snapshot_raw_size = snapshot.raw_size;
                if !prepared.changes.blobs.iter().any(|(hash, _)| *hash == snapshot.sha256) {
                    prepared.changes.blobs.push((snapshot.sha256, bytes));
                }
            }
        }
        prepared.published.push(Published {
            environment: environment.clone(),
            seq: revision.after + 1,
            root: revision.root.to_string(),
            changed: true,
            diff,
        });
        prepared.changes.revisions.push(revision);
    }
    if mistakes.is_empty() {
        Ok(prepared)
    } else {
        Err(Problem::Refused(mistakes))
    }
}

impl Draft {
    /// The revisions of APIs that are needed to compose what is to be published.
    fn needed(&self) -> Vec<(String, u32)> {
        let composed = (self.publish.iter()).filter(|(_, publish)| matches!(publish, Publish::Composed));
        let sources = composed.filter_map(|(environment, _)| self.sources.get(environment));
        let mut needed: Vec<(String, u32)> = sources
            .flat_map(|source| source.deployments.iter().map(|(api, number)| (api.clone(), *number)))
            .collect();
        needed.sort();
        needed.dedup();
        needed
    }
}

/// The documents of these revisions of APIs; what is not there is left out.
///
/// # Errors
/// When the store fails.
pub async fn fragments(plane: &Plane, wanted: impl IntoIterator<Item = (String, u32)>) -> Result<Fragments, Problem> {
    let mut fragments = Fragments::new();
    for (api, number) in wanted {
        let name = super::authoring::api::revision_name(&api, number);
        if let Some(object) = plane.store.object(ObjectKind::ApiRevision, &name).await? {
            let revision: super::authoring::api::StoredRevision = stored(&object)?;
            fragments.insert((api, number), revision.document);
        }
    }
    Ok(fragments)
}

async fn contents(plane: &Plane, draft: &Draft) -> Result<BTreeMap<String, Content>, Problem> {
    let mut contents = BTreeMap::new();
    for environment in draft.publish.keys() {
        if let Some(head) = draft.heads.get(environment) {
            contents.insert(environment.clone(), content(plane, head).await?);
        }
    }
    Ok(contents)
}

/// The content of a revision.
///
/// # Errors
/// When the store fails, or does not have what it should.
pub async fn content(plane: &Plane, revision: &PublishedRevision) -> Result<Content, Problem> {
    let snapshot = BlobRef {
        sha256: revision.snapshot,
        size: revision.snapshot_size,
        raw_size: revision.snapshot_raw_size,
    };
    let named = format!("revision {} of \"{}\"", revision.seq, revision.environment);
    let Some(bytes) = plane.store.blob(&revision.snapshot).await? else {
        log::error!("{named}: its snapshot {} is not there", revision.snapshot);
        return Err(Problem::Internal);
    };
    blocking(move || {
        Content::from_snapshot(&snapshot, &bytes).map_err(|error| {
            log::error!("{named}: {error}");
            Problem::Internal
        })
    })
    .await
}

/// Work for the processor, off the threads that answer requests. A panic in it costs this request alone.
///
/// # Errors
/// What the work says; [`Problem::Internal`] when it panics.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        log::error!("a change: {error}");
        Err(Problem::Internal)
    })
}

fn internal(error: impl std::fmt::Display) -> Problem {
    log::error!("a change: {error}");
    Problem::Internal
}

/// The document of a content as it is shown: secrets in it are hidden.
///
/// # Errors
/// When it is no document, which does not happen.
pub fn shown(content: &Content) -> Result<Value, Problem> {
    let mut document = serde_json::from_str(&content.to_document()).map_err(internal)?;
    super::secrets::hide(&mut document);
    Ok(document)
}
