//! The key base: all keys that let in, written down at one place of the log, so that a gateway without any does not have
//! to read the whole log, and the log can be cut.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::plane::Plane;
use super::store::{KeyHead, StoreError, StoreResult};
use crate::distribution::key_filter::encode_filter;
use crate::distribution::manifest::KeysBlob;
use crate::distribution::{BlobRef, ContentHash, KeyEntry, KeyHash, content};

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
    filter: (BlobRef, Vec<u8>),
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
        for (blob, bytes) in [&self.base, &self.filter] {
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
            filter: Some(keys(&self.filter)),
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
            self.heads.push(entry.hash.head());
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
            filter: content::pack(&encode_filter(&self.heads))?,
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

#[cfg(test)]
mod tests {
    use super::super::store::KeyWrite;
    use super::super::testing::Node;
    use super::*;
    use crate::clock::unix_ms;
    use crate::distribution::decode_filter;
    use crate::revision::KeyType;

    fn hash(number: u32) -> KeyHash {
        KeyHash::of_digest(&ContentHash::of(&number.to_be_bytes()).0)
    }

    fn create(number: u32) -> KeyWrite {
        KeyWrite::Create(KeyEntry {
            hash: hash(number),
            id: format!("mobile-{number}"),
            application: "mobile".to_owned(),
            key_type: KeyType::Production,
            expires_ms: None,
        })
    }

    #[test]
    fn a_base_is_due_when_the_log_has_grown_or_when_there_are_many_keys_and_none() {
        let head = |seq, live| KeyHead {
            epoch: 7,
            seq,
            trimmed: 0,
            live,
        };
        assert!(!is_due(&head(10_000, 10_000), None, 100_000));
        assert!(is_due(&head(10_001, 10_001), None, 100_000));
        assert!(is_due(&head(100_000, 3), None, 100_000));
        let blob = content::pack(b"").unwrap().0;
        let base = |epoch| KeyBase {
            epoch,
            base: KeysBlob { seq: 50, blob },
            filter: None,
            before: Vec::new(),
        };
        assert!(!is_due(&head(149, 20_000), Some(&base(7)), 100));
        assert!(is_due(&head(150, 20_000), Some(&base(7)), 100));
        assert!(
            is_due(&head(60, 20_000), Some(&base(8)), 100),
            "the base of another log is none"
        );
    }

    #[tokio::test]
    async fn a_base_has_every_key_that_lets_in_and_manifests_name_it_without_waking_anybody() {
        let directory = tempfile::tempdir().unwrap();
        let store = format!("sqlite: \"{}/cp.db\"", directory.path().display());
        let node = Node::start(&store, "keys: { base_every: 3 }").await;
        node.environment("prod", "production").await;
        node.publish("prod", &crate::control_plane::testing::content(2, "a"))
            .await;
        let mut writes: Vec<KeyWrite> = (0..20_500).map(create).collect();
        writes.push(KeyWrite::RevokeId("mobile-7".to_owned()));
        let head = node.plane.store.write_keys(&writes, unix_ms()).await.unwrap();
        // The node's own task may be faster, or has made an earlier one.
        let begun = std::time::Instant::now();
        let keys = loop {
            renew(&node.plane).await.unwrap();
            let keys = node.manifest("prod").await.keys;
            if keys.base.is_some_and(|base| base.seq == head) {
                break keys;
            }
            assert!(begun.elapsed() < crate::control_plane::testing::PATIENCE, "{keys:?}");
        };
        assert_eq!(keys.count, 20_499);
        let fetch = async |blob: BlobRef| {
            let answer = node.get(&format!("/v1/blobs/{}", blob.sha256)).await;
            content::unpack(&blob, &answer.bytes().await.unwrap()).unwrap()
        };
        let lines = fetch(keys.base.unwrap().blob).await;
        let entries: Vec<KeyEntry> = lines
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(entries.len(), 20_499);
        assert!(entries.iter().all(|entry| entry.hash != hash(7)));
        assert!(entries.is_sorted_by_key(|entry| entry.hash));
        let filter = decode_filter(&fetch(keys.filter.unwrap().blob).await).unwrap();
        assert!(
            (0..20_500)
                .filter(|number| *number != 7)
                .all(|number| filter.may_know(&hash(number)))
        );

        // Nobody is woken for it: the revision is the same.
        assert_eq!(node.manifest("prod").await.seq, 1);
        let poll = node.get("/v1/environments/prod/revision?after=1").await;
        assert_eq!(poll.status(), reqwest::StatusCode::NOT_MODIFIED);

        // It outlives the process, and what it names is not forgotten.
        assert!(!renew(&node.plane).await.unwrap());
        let known = stored(&node.plane).await.unwrap().unwrap();
        let used: Vec<ContentHash> = known.blobs().collect();
        node.plane.store.prune("prod", 1, &used).await.unwrap();
        assert!(node.plane.store.blob(&known.base.blob.sha256).await.unwrap().is_some());
        node.stop().await;
        let node = Node::start(&store, "").await;
        assert_eq!(node.manifest("prod").await.keys, keys);
        node.stop().await;
    }
}
