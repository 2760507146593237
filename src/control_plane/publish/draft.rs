//! Everything that is authored, as it was at one moment, and what somebody wants to make of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control_plane::authoring::api::Api;
use crate::control_plane::authoring::application::Application;
use crate::control_plane::authoring::environment::Environment;
use crate::control_plane::authoring::plan::Plan;
use crate::control_plane::compose::Source;
use crate::control_plane::problem::Problem;
use crate::control_plane::store::{Expected, Object, ObjectChange, ObjectKind, PublishedRevision, Store, StoreResult};
use crate::distribution::Kind;

/// How many objects are read at a time.
const PAGE: usize = 1000;

/// What is stored, before anybody has parsed it.
pub(super) struct Stored {
    generation: u64,
    heads: Vec<PublishedRevision>,
    objects: BTreeMap<ObjectKind, Vec<Object>>,
}

/// Everything that is authored, and what is to become of it.
pub struct Draft {
    /// [`Store::generation`] when it was read.
    pub(super) generation: u64,
    /// The newest revision of each environment.
    pub heads: BTreeMap<String, PublishedRevision>,
    /// Environments.
    pub environments: Shelf<Environment>,
    /// APIs, without their revisions.
    pub apis: Shelf<Api>,
    /// Plans.
    pub plans: Shelf<Plan>,
    /// Applications.
    pub applications: Shelf<Application>,
    /// What environments are composed of. Change it through [`Draft::set_source`].
    pub sources: Shelf<Source>,
    /// Changes of other objects.
    pub(super) others: Vec<ObjectChange>,
    pub(super) publish: BTreeMap<String, Publish>,
}

/// What an environment gets.
pub(super) enum Publish {
    /// A new revision if what it is composed of has become another content.
    Composed,
    /// The content of this revision under a new number.
    Repeated { of: PublishedRevision, is_rollback: bool },
}

/// Objects of a kind, by name.
pub struct Shelf<T> {
    kind: ObjectKind,
    items: BTreeMap<String, Item<T>>,
}

struct Item<T> {
    /// As it is stored: version and JSON.
    stored: Option<(u64, String)>,
    /// None: removed.
    value: Option<T>,
}

impl Stored {
    /// Reads everything. What revisions build upon is read first: whoever is faster than the rest of the reading is then
    /// noticed by the number of the revision or the generation.
    pub(super) async fn read(store: &dyn Store) -> StoreResult<Self> {
        let generation = store.generation().await?;
        let heads = store.heads().await?;
        let mut objects = BTreeMap::new();
        for kind in [
            ObjectKind::Environment,
            ObjectKind::Source,
            ObjectKind::Api,
            ObjectKind::Plan,
            ObjectKind::Application,
        ] {
            let mut all: Vec<Object> = Vec::new();
            loop {
                let after = all.last().map(|object| object.name.clone());
                let page = store.objects(kind, after.as_deref(), PAGE).await?;
                let last = page.len() < PAGE;
                all.extend(page);
                if last {
                    break;
                }
            }
            objects.insert(kind, all);
        }
        Ok(Self {
            generation,
            heads,
            objects,
        })
    }

    /// Parses everything.
    pub(super) fn draft(mut self) -> Result<Draft, Problem> {
        Ok(Draft {
            generation: self.generation,
            heads: (self.heads.drain(..))
                .map(|head| (head.environment.clone(), head))
                .collect(),
            environments: self.shelf(ObjectKind::Environment)?,
            apis: self.shelf(ObjectKind::Api)?,
            plans: self.shelf(ObjectKind::Plan)?,
            applications: self.shelf(ObjectKind::Application)?,
            sources: self.shelf(ObjectKind::Source)?,
            others: Vec::new(),
            publish: BTreeMap::new(),
        })
    }

    fn shelf<T: DeserializeOwned>(&mut self, kind: ObjectKind) -> Result<Shelf<T>, Problem> {
        let mut items = BTreeMap::new();
        for object in self.objects.remove(&kind).unwrap_or_default() {
            let item = Item {
                value: Some(stored(&object)?),
                stored: Some((object.version, object.value)),
            };
            items.insert(object.name, item);
        }
        Ok(Shelf { kind, items })
    }
}

/// What a stored object says.
///
/// # Errors
/// [`Problem::Internal`] when the store holds something that this build does not read.
pub fn stored<T: DeserializeOwned>(object: &Object) -> Result<T, Problem> {
    serde_json::from_str(&object.value).map_err(|error| {
        log::error!("stored {:?} \"{}\": {error}", object.kind, object.name);
        Problem::Internal
    })
}

impl<T: Serialize> Shelf<T> {
    /// One of them.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        self.items.get(name).and_then(|item| item.value.as_ref())
    }

    /// The version that is stored.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<u64> {
        let item = self.items.get(name)?;
        item.value.as_ref()?;
        item.stored.as_ref().map(|(version, _)| *version)
    }

    /// All of them in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.items
            .iter()
            .filter_map(|(name, item)| Some((name.as_str(), item.value.as_ref()?)))
    }

    /// Adds or replaces one.
    pub fn put(&mut self, name: &str, value: T) {
        let item = self.items.entry(name.to_owned()).or_insert(Item {
            stored: None,
            value: None,
        });
        item.value = Some(value);
    }

    /// Takes one away.
    pub fn remove(&mut self, name: &str) {
        if let Some(item) = self.items.get_mut(name) {
            item.value = None;
        }
    }

    /// What has to be written. What is as it was before is left alone.
    fn changes(&self) -> Result<Vec<ObjectChange>, Problem> {
        let mut changes = Vec::new();
        for (name, item) in &self.items {
            let value = item
                .value
                .as_ref()
                .map(serde_json::to_string)
                .transpose()
                .map_err(|error| {
                    log::error!("{:?} \"{name}\": {error}", self.kind);
                    Problem::Internal
                })?;
            if value.as_ref() == item.stored.as_ref().map(|(_, text)| text) {
                continue;
            }
            changes.push(ObjectChange {
                kind: self.kind,
                name: name.clone(),
                expected: match &item.stored {
                    Some((version, _)) => Expected::Version(*version),
                    None => Expected::Absent,
                },
                value,
            });
        }
        Ok(changes)
    }
}

impl Draft {
    /// An environment gets a new revision if it has become another content.
    pub fn publish(&mut self, environment: &str) {
        self.publish.entry(environment.to_owned()).or_insert(Publish::Composed);
    }

    /// An environment gets the content of a revision under a new number.
    pub fn repeat(&mut self, of: PublishedRevision, is_rollback: bool) {
        self.publish
            .insert(of.environment.clone(), Publish::Repeated { of, is_rollback });
    }

    /// Says what an environment is composed of, or that it is not any more; APIs remember where they are deployed.
    pub fn set_source(&mut self, environment: &str, source: Option<Source>) {
        let before = self
            .sources
            .get(environment)
            .map(|source| source.deployments.clone())
            .unwrap_or_default();
        let after = source
            .as_ref()
            .map(|source| source.deployments.clone())
            .unwrap_or_default();
        for api in before.keys().chain(after.keys()) {
            let Some(mut found) = self.apis.get(api).cloned() else {
                continue;
            };
            match after.get(api) {
                Some(number) => found.deployed.insert(environment.to_owned(), *number),
                None => found.deployed.remove(environment),
            };
            self.apis.put(api, found);
        }
        match source {
            Some(source) => self.sources.put(environment, source),
            None => self.sources.remove(environment),
        }
    }

    /// Changes an object that is on no shelf.
    pub fn change(&mut self, change: ObjectChange) {
        self.others.push(change);
    }

    /// The environments that have one of these APIs.
    #[must_use]
    pub fn environments_with(&self, apis: &BTreeSet<String>) -> Vec<String> {
        let has = |source: &Source| {
            apis.iter().any(|api| source.deployments.contains_key(api))
                || names(source, Kind::Api).any(|name| apis.contains(name))
        };
        let with = self.sources.iter().filter(|(_, source)| has(source));
        with.map(|(environment, _)| environment.to_owned()).collect()
    }

    /// The names of all objects of a kind that documents brought along.
    pub fn in_documents(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.sources.iter().flat_map(move |(_, source)| names(source, kind))
    }

    pub(super) fn changes(&self) -> Result<Vec<ObjectChange>, Problem> {
        let mut changes = self.environments.changes()?;
        changes.extend(self.apis.changes()?);
        changes.extend(self.plans.changes()?);
        changes.extend(self.applications.changes()?);
        changes.extend(self.sources.changes()?);
        changes.extend(self.others.iter().cloned());
        Ok(changes)
    }
}

fn names(source: &Source, kind: Kind) -> impl Iterator<Item = &str> {
    let items = source.document.as_ref().and_then(|document| document.get(kind.list()));
    let items = items.and_then(serde_json::Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.get("name").and_then(serde_json::Value::as_str))
}
