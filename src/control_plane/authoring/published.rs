//! What is known of the newest revision of an environment without reading it again: for the catalogue, and for keys that
//! stand in documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use quick_cache::Weighter;
use serde::Deserialize;
use serde_json::Value;

use super::exchange::Node;
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::{blocking, content};
use crate::control_plane::store::PublishedRevision;
use crate::distribution::{Content, ContentHash, KeyHash, Kind};
use crate::revision::KeyType;

/// How much is remembered, in objects and keys.
const MOST: u64 = 500_000;

/// What is known of snapshots, by their hashes.
pub(super) type Cache = quick_cache::sync::Cache<ContentHash, Arc<Known>, Weight>;

/// What is known of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By name.
    pub(super) apis: BTreeMap<String, KnownApi>,
    /// Names.
    pub(super) plans: Vec<String>,
    /// Names.
    pub(super) applications: Vec<String>,
    /// By id.
    pub(super) keys: BTreeMap<String, KnownKey>,
}

/// What the catalogue shows of an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownApi {
    pub(super) base_path: String,
    pub(super) hosts: Vec<String>,
    pub(super) auth: Vec<String>,
}

/// A key that stands in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownKey {
    pub(super) hash: KeyHash,
    pub(super) application: String,
    pub(super) key_type: KeyType,
    pub(super) expires: Option<String>,
}

/// How much room something takes.
#[derive(Debug, Clone)]
pub(super) struct Weight;

impl Weighter<ContentHash, Arc<Known>> for Weight {
    fn weight(&self, _: &ContentHash, known: &Arc<Known>) -> u64 {
        let Known {
            apis,
            plans,
            applications,
            keys,
        } = known.as_ref();
        (apis.len() + plans.len() + applications.len() + keys.len()) as u64 + 1
    }
}

/// Nothing is known yet.
pub(super) fn cache() -> Cache {
    Cache::with_weighter(64, MOST, Weight)
}

/// What is known of a revision.
pub(super) async fn known(node: &Node, revision: &PublishedRevision) -> Result<Arc<Known>, Problem> {
    if let Some(known) = node.authoring.published.get(&revision.snapshot) {
        return Ok(known);
    }
    let content = content(node, revision).await?;
    let known = blocking(move || Ok(Arc::new(read(&content)))).await?;
    node.authoring.published.insert(revision.snapshot, Arc::clone(&known));
    Ok(known)
}

fn read(content: &Content) -> Known {
    #[derive(Deserialize)]
    struct Api {
        base_path: String,
        #[serde(default)]
        hosts: Vec<String>,
        auth: Value,
    }
    #[derive(Deserialize)]
    struct Application {
        #[serde(default)]
        keys: Vec<Key>,
    }
    #[derive(Deserialize)]
    struct Key {
        id: String,
        sha256: String,
        #[serde(rename = "type")]
        key_type: Option<KeyType>,
        #[serde(default)]
        expires: Option<String>,
    }
    let mut known = Known::default();
    for (kind, name, value) in content.iter() {
        match kind {
            Kind::Api => {
                if let Ok(api) = serde_json::from_str::<Api>(value) {
                    let way = |way: &Value| match way {
                        Value::String(way) => way.clone(),
                        Value::Object(way) => way.keys().cloned().collect::<Vec<_>>().join(" "),
                        _ => String::new(),
                    };
                    let listed = KnownApi {
                        base_path: api.base_path,
                        hosts: api.hosts,
                        auth: api
                            .auth
                            .as_array()
                            .map(|ways| ways.iter().map(way).collect())
                            .unwrap_or_default(),
                    };
                    known.apis.insert(name.to_owned(), listed);
                }
            }
            Kind::Plan => known.plans.push(name.to_owned()),
            Kind::Application => {
                known.applications.push(name.to_owned());
                let application = serde_json::from_str::<Application>(value);
                for key in application.map(|application| application.keys).unwrap_or_default() {
                    let Ok(digest) = key.sha256.parse::<ContentHash>() else {
                        continue;
                    };
                    let entry = KnownKey {
                        hash: KeyHash::of_digest(&digest.0),
                        application: name.to_owned(),
                        key_type: key.key_type.unwrap_or(KeyType::Production),
                        expires: key.expires,
                    };
                    known.keys.insert(key.id, entry);
                }
            }
            Kind::Upstream | Kind::Issuer => {}
        }
    }
    known
}
