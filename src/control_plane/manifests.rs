//! The manifest of each environment as ready, signed bytes: made once, sent to everybody who waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::http::HeaderValue;
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::key_base::KeyBase;
use super::plane::Plane;
use super::problem::Problem;
use super::store::{ObjectKind, PublishedRevision};
use crate::distribution::{BlobRef, KeysHead, Manifest, SCHEMA, Signed, Topic};
use crate::revision::EnvironmentType;

/// The manifests of a node.
#[derive(Default)]
pub struct Manifests {
    slots: RwLock<HashMap<String, Arc<Slot>>>,
    /// Where keys begin.
    key_base: ArcSwapOption<KeyBase>,
    /// Grows when what is in manifests beside revisions changes: they are made anew when somebody asks, and nobody is
    /// woken for it.
    generation: AtomicU64,
}

/// The place of one environment.
#[derive(Default)]
struct Slot {
    ready: ArcSwapOption<Ready>,
    /// Held by the one who makes it.
    making: Mutex<()>,
}

/// A manifest that can be sent.
#[derive(Debug)]
pub struct Ready {
    /// The revision.
    pub seq: u64,
    /// `"seq-root12"`.
    pub etag: HeaderValue,
    /// [`Signed`] as JSON.
    pub body: Bytes,
    /// The newest revision as it was known before this was made.
    known: u64,
    generation: u64,
}

/// What is read of an environment here.
#[derive(Deserialize)]
struct Environment {
    #[serde(rename = "type", default)]
    environment_type: Option<EnvironmentType>,
}

impl Manifests {
    /// The manifest of an environment; none if nothing is published to it, or if it does not exist.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, plane: &Plane, environment: &str) -> Result<Option<Arc<Ready>>, Problem> {
        let slot = self.slot(environment);
        if let Some(ready) = self.current(&slot, plane, environment) {
            return Ok(Some(ready));
        }
        let _making = slot.making.lock().await;
        // Who held the lock before may have made it.
        if let Some(ready) = self.current(&slot, plane, environment) {
            return Ok(Some(ready));
        }
        let (known, generation) = (plane.heads.seq(environment), self.generation.load(Ordering::Acquire));
        let Some(revision) = plane.store.head(environment).await? else {
            slot.ready.store(None);
            return Ok(None);
        };
        let Some(object) = plane.store.object(ObjectKind::Environment, environment).await? else {
            slot.ready.store(None);
            return Ok(None);
        };
        let Environment { environment_type } = serde_json::from_str(&object.value).map_err(|error| {
            log::error!("environment {environment}: {error}");
            Problem::Internal
        })?;
        plane.heads.published(&revision);
        let text = self
            .text(plane, &revision, environment_type.unwrap_or_default())
            .await?;
        let ready = Arc::new(Ready {
            seq: revision.seq,
            etag: etag(&revision)?,
            body: signed(plane, Topic::Manifest, text)?,
            known: known.max(revision.seq),
            generation,
        });
        slot.ready.store(Some(Arc::clone(&ready)));
        Ok(Some(ready))
    }

    /// The key base that manifests name.
    #[must_use]
    pub fn key_base(&self) -> Option<Arc<KeyBase>> {
        self.key_base.load_full()
    }

    /// There is another key base.
    pub fn set_key_base(&self, base: Option<KeyBase>) {
        self.key_base.store(base.map(Arc::new));
        self.renew();
    }

    /// Something that is in manifests has changed, such as the type of an environment.
    pub fn renew(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn current(&self, slot: &Slot, plane: &Plane, environment: &str) -> Option<Arc<Ready>> {
        slot.ready.load_full().filter(|ready| {
            ready.known >= plane.heads.seq(environment) && ready.generation == self.generation.load(Ordering::Acquire)
        })
    }

    async fn text(
        &self,
        plane: &Plane,
        revision: &PublishedRevision,
        environment_type: EnvironmentType,
    ) -> Result<String, Problem> {
        let head = plane.store.key_head().await?;
        // A base of another log is none.
        let base = self.key_base().filter(|base| base.epoch == head.epoch);
        let settings = &plane.delivery.settings.distribution;
        let manifest = Manifest {
            environment: revision.environment.clone(),
            environment_type,
            seq: revision.seq,
            schema: SCHEMA,
            requires: Vec::new(),
            published_at_ms: revision.published_ms,
            root: revision.root,
            snapshot: snapshot(revision),
            routes: revision.routes,
            keys: KeysHead {
                epoch: head.epoch,
                count: head.live,
                base: base.as_ref().map(|base| base.base),
                filter: base.as_ref().and_then(|base| base.filter),
                revoked: base.as_ref().and_then(|base| base.revoked),
            },
            spread_ms: milliseconds(settings.spread),
            wait_s: settings.wait.as_secs(),
        };
        serde_json::to_string(&manifest).map_err(|error| {
            log::error!("manifest of {}: {error}", revision.environment);
            Problem::Internal
        })
    }

    fn slot(&self, environment: &str) -> Arc<Slot> {
        let known = {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            slots.get(environment).cloned()
        };
        known.unwrap_or_else(|| {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(environment.to_owned()).or_default())
        })
    }
}

/// What a manifest says of the snapshot of a revision.
#[must_use]
pub fn snapshot(revision: &PublishedRevision) -> BlobRef {
    BlobRef {
        sha256: revision.snapshot,
        size: revision.snapshot_size,
        raw_size: revision.snapshot_raw_size,
    }
}

/// A text with this node's signature, as it is sent.
///
/// # Errors
/// Never, as far as anybody knows: writing texts as JSON does not fail.
pub fn signed(plane: &Plane, topic: Topic, text: String) -> Result<Bytes, Problem> {
    let signed = Signed::new(topic, text, &plane.signing);
    serde_json::to_vec(&signed).map(Bytes::from).map_err(|error| {
        log::error!("signing: {error}");
        Problem::Internal
    })
}

fn etag(revision: &PublishedRevision) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(&format!("\"{}-{}\"", revision.seq, revision.root.short())).map_err(|_| Problem::Internal)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
