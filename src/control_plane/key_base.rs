//! The key base: all keys that let in, written down at one place of the log, so that a gateway without any does not have
//! to read the whole log, and the log can be cut.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::plane::Plane;
use super::store::{KeyHead, StoreError, StoreResult};
use crate::distribution::manifest::KeysBlob;
use crate::distribution::{BlobRef, ContentHash, KeyEntry, KeyHash};

/// The name of the setting that says where the newest base is.
const SETTING: &str = "key_base";

/// Beyond so many keys there is a base, however young the log.
const WORTH_A_BASE: u64 = 10_000;

/// Records that stay in the log although they are in the base: for gateways that were away for a while.
const KEPT: u64 = 200_000;

/// Keys that are read at a time.
const PAGE: usize = 10_000;

/// Half of what is written are hashes, which do not compress: trying hard would only take long.
const LEVEL: i32 = 3;

/// Where keys begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBase {
    /// Of which log.
    pub epoch: u64,
    /// The keys, as lines of [`KeyEntry`].
    pub base: KeysBlob,
    /// The same keys as a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<KeysBlob>,
    /// Blobs of the base before: somebody may just be fetching them.
    #[serde(default)]
    before: Vec<ContentHash>,
}

impl KeyBase {
    /// Every blob that is still in use.
    pub fn blobs(&self) -> impl Iterator<Item = ContentHash> + '_ {
        let own = [Some(self.base), self.filter];
        own.into_iter()
            .flatten()
            .map(|keys| keys.blob.sha256)
            .chain(self.before.iter().copied())
    }
}

/// The base that was made last, here or on another node.
///
/// # Errors
/// When the store fails.
pub async fn stored(plane: &Plane) -> StoreResult<Option<KeyBase>> {
    let text = plane.store.setting(SETTING, "").await?;
    if text.is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(&text) {
        Ok(base) => Ok(Some(base)),
        Err(error) => {
            // Another one is made when it is due.
            log::error!("setting {SETTING}: {error}");
            Ok(None)
        }
    }
}

/// Makes a new base if the log has grown enough, puts it into manifests, and cuts the log. Tells whether there is one.
///
/// # Errors
/// When the store fails. What was made until then is made again.
pub async fn renew(plane: &Plane) -> StoreResult<bool> {
    let head = plane.store.key_head().await?;
    let known = plane.delivery.manifests.key_base();
    if !is_due(
        &head,
        known.as_deref(),
        u64::from(plane.delivery.settings.keys.base_every),
    ) {
        return Ok(false);
    }
    // Another node may have been faster.
    let stored_before = stored(plane).await?;
    if !is_due(
        &head,
        stored_before.as_ref(),
        u64::from(plane.delivery.settings.keys.base_every),
    ) {
        plane.delivery.manifests.set_key_base(stored_before);
        return Ok(true);
    }
    let packed = pack_all(plane).await?;
    let base = packed.keep(plane, &head, stored_before.as_ref()).await?;
    let text = serde_json::to_string(&base).map_err(|error| StoreError::Failed(error.to_string()))?;
    plane.store.set_setting(SETTING, Some(&text)).await?;
    // A node that was just pruning did not know that these are in use.
    packed.put(plane).await?;
    log::info!("keys: {} in a new base, up to record {}", packed.keys, head.seq);
    plane.delivery.manifests.set_key_base(Some(base));
    plane.store.trim_key_log(head.seq.saturating_sub(KEPT)).await?;
    Ok(true)
}

/// Whether the log is so much longer than the base that a new one is worth its making.
fn is_due(head: &KeyHead, base: Option<&KeyBase>, every: u64) -> bool {
    match base.filter(|base| base.epoch == head.epoch) {
        Some(base) => head.seq.saturating_sub(base.base.seq) >= every,
        None => head.live > WORTH_A_BASE || head.seq >= every,
    }
}

/// All keys, ready to be stored.
struct Packed {
    keys: u64,
    base: (BlobRef, Vec<u8>),
    filter: Option<(BlobRef, Vec<u8>)>,
}

/// Reads all keys that let in. The place in the log is that from before the reading: what happens meanwhile is in the log
/// once more, which changes nothing.
async fn pack_all(plane: &Plane) -> StoreResult<Packed> {
    let mut packer = Packer::new().map_err(|error| failed(&error))?;
    let mut after: Option<KeyHash> = None;
    loop {
        let page = plane.store.live_keys(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.hash);
        packer = blocking(move || packer.with(&page)).await?;
    }
    blocking(move || packer.finish()).await
}

impl Packed {
    async fn put(&self, plane: &Plane) -> StoreResult<()> {
        for (blob, bytes) in [Some(&self.base), self.filter.as_ref()].into_iter().flatten() {
            plane.store.put_blob(&blob.sha256, bytes).await?;
        }
        Ok(())
    }

    async fn keep(&self, plane: &Plane, head: &KeyHead, before: Option<&KeyBase>) -> StoreResult<KeyBase> {
        self.put(plane).await?;
        let keys = |(blob, _): &(BlobRef, Vec<u8>)| KeysBlob {
            seq: head.seq,
            blob: *blob,
        };
        let own = before.map(|before| [Some(before.base), before.filter]);
        Ok(KeyBase {
            epoch: head.epoch,
            base: keys(&self.base),
            filter: self.filter.as_ref().map(keys),
            before: own
                .into_iter()
                .flatten()
                .flatten()
                .map(|keys| keys.blob.sha256)
                .collect(),
        })
    }
}

/// Writes lines into a blob as they come, so that they are never all in memory unpacked.
struct Packer {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    raw_size: u64,
    keys: u64,
    /// What the filter is made of: the first 64 bits of each hash.
    heads: Vec<u64>,
}

impl Packer {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            encoder: zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?,
            raw_size: 0,
            keys: 0,
            heads: Vec::new(),
        })
    }

    fn with(mut self, page: &[KeyEntry]) -> std::io::Result<Self> {
        for entry in page {
            let mut line = serde_json::to_vec(entry)?;
            line.push(b'\n');
            self.encoder.write_all(&line)?;
            self.raw_size += line.len() as u64;
            self.keys += 1;
            if let Some(head) = entry.hash.0.first_chunk::<8>() {
                self.heads.push(u64::from_be_bytes(*head));
            }
        }
        Ok(self)
    }

    fn finish(self) -> std::io::Result<Packed> {
        let bytes = self.encoder.finish()?;
        let base = BlobRef {
            sha256: ContentHash::of(&bytes),
            size: bytes.len() as u64,
            raw_size: self.raw_size,
        };
        Ok(Packed {
            keys: self.keys,
            base: (base, bytes),
            filter: None,
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> StoreResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(error) => Err(StoreError::Failed(format!("key base: {error}"))),
    }
}

fn failed(error: &std::io::Error) -> StoreError {
    StoreError::Failed(format!("key base: {error}"))
}
