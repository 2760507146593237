//! The key base: all keys that let in, written down at one place of the log, so that a gateway without any does not have
//! to read the whole log, and the log can be cut.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::plane::Plane;
use super::store::{KeyHead, StoreError, StoreResult};
use crate::distribution::key_filter::encode_filter;
use crate::distribution::manifest::KeysBlob;
use crate::distribution::protocol::KEY_PAGE_MOST;
use crate::distribution::{BlobRef, ContentHash, KeyChange, KeyEntry, KeyHash, content};

/// The name of the setting that says where the newest base is.
const SETTING: &str = "key_base";

/// Beyond so many keys there is a base, however young the log.
const WORTH_A_BASE: u64 = 10_000;

/// A base that lies behind by more than a page of the log is renewed after this time, so that gateways of a directory,
/// which is one base and one page, get all keys.
const OLD_MS: u64 = 10 * 60 * 1000;

/// With more keys than this it may be that many times older: a base of ten million takes its time.
const SOON_READ: u64 = 100_000;

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
    /// Unix milliseconds at which it was made.
    #[serde(default)]
    made_ms: u64,
    /// The keys, as lines of [`KeyEntry`]; and what was revoked without being a key, as lines of [`KeyChange::Del`].
    pub base: KeysBlob,
    /// The same keys as a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<KeysBlob>,
    /// What was revoked without being a key, for those who take the filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<KeysBlob>,
    /// Blobs of the base before: somebody may just be fetching them.
    #[serde(default)]
    before: Vec<ContentHash>,
}

impl KeyBase {
    /// Its blobs. That they stand in the setting keeps them, and those of the base before.
    fn own(&self) -> impl Iterator<Item = ContentHash> + use<> {
        let own = [Some(self.base), self.filter, self.revoked];
        own.into_iter().flatten().map(|keys| keys.blob.sha256)
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
    let (every, now_ms) = (u64::from(plane.delivery.settings.keys.base_every), plane.now_ms());
    if !is_due(&head, known.as_deref(), every, now_ms) {
        return Ok(false);
    }
    // Another node may have been faster.
    let stored_before = stored(plane).await?;
    if !is_due(&head, stored_before.as_ref(), every, now_ms) {
        plane.delivery.manifests.set_key_base(stored_before);
        return Ok(true);
    }
    let packed = pack_all(plane).await?;
    let base = packed.keep(plane, &head, stored_before.as_ref(), now_ms).await?;
    let text = serde_json::to_string(&base).map_err(|error| StoreError::Failed(error.to_string()))?;
    plane.store.set_setting(SETTING, Some(&text)).await?;
    // A node that was just pruning did not know that these are in use.
    packed.put(plane).await?;
    log::info!("keys: {} in a new base, up to record {}", packed.keys, head.seq);
    plane.delivery.manifests.set_key_base(Some(base));
    plane.store.trim_key_log(head.seq.saturating_sub(KEPT)).await?;
    Ok(true)
}

/// Whether the log is so much longer than the base that a new one is worth its making. No base is as old as can be.
fn is_due(head: &KeyHead, base: Option<&KeyBase>, every: u64, now_ms: u64) -> bool {
    let base = base.filter(|base| base.epoch == head.epoch);
    let beyond = head.seq.saturating_sub(base.map_or(0, |base| base.base.seq));
    let old_ms = OLD_MS.saturating_mul((head.live / SOON_READ).max(1));
    let is_old = base.is_none_or(|base| now_ms.saturating_sub(base.made_ms) >= old_ms);
    let is_missing = base.is_none() && head.live > WORTH_A_BASE;
    beyond >= every || is_missing || (is_old && beyond > KEY_PAGE_MOST as u64)
}

/// All keys, ready to be stored.
struct Packed {
    keys: u64,
    base: (BlobRef, Vec<u8>),
    filter: (BlobRef, Vec<u8>),
    /// None: nothing was revoked that was never a key.
    revoked: Option<(BlobRef, Vec<u8>)>,
}

/// Reads all keys that let in. The place in the log is that from before the reading: what happens meanwhile is in the log
/// once more, which changes nothing.
async fn pack_all(plane: &Plane) -> StoreResult<Packed> {
    let mut packer = Packer::new().map_err(|error| failed(&error))?;
    let mut after: Option<KeyHash> = None;
    loop {
        let page = plane.store.live_keys(after.as_ref(), PAGE).await?;
        let upto = page.last().filter(|_| page.len() == PAGE).map(|last| last.hash);
        let revoked = revoked_unknown(plane, after, upto).await?;
        packer = blocking(move || packer.with(&page, &revoked)).await?;
        if upto.is_none() {
            break;
        }
        after = upto;
    }
    blocking(move || packer.finish()).await
}

/// What was revoked without being a key, in this part of all hashes. Without them a key that stands in a published document
/// would let in again on a gateway that begins with the base.
async fn revoked_unknown(plane: &Plane, after: Option<KeyHash>, upto: Option<KeyHash>) -> StoreResult<Vec<KeyHash>> {
    let mut all: Vec<KeyHash> = Vec::new();
    loop {
        let after = all.last().copied().or(after);
        let part = plane.store.revoked_unknown(after.as_ref(), upto.as_ref(), PAGE).await?;
        let is_last = part.len() < PAGE;
        all.extend(part);
        if is_last {
            return Ok(all);
        }
    }
}

impl Packed {
    async fn put(&self, plane: &Plane) -> StoreResult<()> {
        for (blob, bytes) in [&self.base, &self.filter].into_iter().chain(&self.revoked) {
            plane.store.put_blob(&blob.sha256, bytes).await?;
        }
        Ok(())
    }

    async fn keep(
        &self,
        plane: &Plane,
        head: &KeyHead,
        before: Option<&KeyBase>,
        made_ms: u64,
    ) -> StoreResult<KeyBase> {
        self.put(plane).await?;
        let keys = |(blob, _): &(BlobRef, Vec<u8>)| KeysBlob {
            seq: head.seq,
            blob: *blob,
        };
        Ok(KeyBase {
            epoch: head.epoch,
            made_ms,
            base: keys(&self.base),
            filter: Some(keys(&self.filter)),
            revoked: self.revoked.as_ref().map(keys),
            before: before.into_iter().flat_map(KeyBase::own).collect(),
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
    /// Lines of what was revoked without being a key.
    revoked: Vec<u8>,
}

impl Packer {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            encoder: zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?,
            raw_size: 0,
            keys: 0,
            heads: Vec::new(),
            revoked: Vec::new(),
        })
    }

    /// Both in the order of hashes, as whoever reads the base wants them.
    fn with(mut self, page: &[KeyEntry], revoked: &[KeyHash]) -> std::io::Result<Self> {
        let mut revoked = revoked.iter().peekable();
        for entry in page {
            while let Some(hash) = revoked.next_if(|hash| **hash < entry.hash) {
                self.revoke(*hash)?;
            }
            self.line(serde_json::to_vec(entry)?)?;
            self.keys += 1;
            self.heads.push(entry.hash.head());
        }
        for hash in revoked {
            self.revoke(*hash)?;
        }
        Ok(self)
    }

    fn revoke(&mut self, hash: KeyHash) -> std::io::Result<()> {
        let line = serde_json::to_vec(&KeyChange::Del { hash })?;
        self.revoked.extend_from_slice(&line);
        self.revoked.push(b'\n');
        self.line(line)
    }

    fn line(&mut self, mut line: Vec<u8>) -> std::io::Result<()> {
        line.push(b'\n');
        self.encoder.write_all(&line)?;
        self.raw_size += line.len() as u64;
        Ok(())
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
            revoked: (!self.revoked.is_empty())
                .then(|| content::pack(&self.revoked))
                .transpose()?,
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
        let is_due = |head: &KeyHead, base: Option<&KeyBase>, every| is_due(head, base, every, 1_000_000);
        assert!(!is_due(&head(1000, 1000), None, 100_000));
        assert!(is_due(&head(1001, 3), None, 100_000), "it is more than a page");
        assert!(is_due(&head(1000, 10_001), None, 100_000));
        assert!(is_due(&head(100, 3), None, 100));
        let blob = content::pack(b"").unwrap().0;
        let base = |epoch| KeyBase {
            epoch,
            made_ms: 1_000_000,
            base: KeysBlob { seq: 50, blob },
            filter: None,
            revoked: None,
            before: Vec::new(),
        };
        assert!(!is_due(&head(149, 20_000), Some(&base(7)), 100));
        assert!(is_due(&head(150, 20_000), Some(&base(7)), 100));
        assert!(
            is_due(&head(60, 20_000), Some(&base(8)), 100),
            "the base of another log is none"
        );
    }

    #[test]
    fn a_base_that_is_more_than_a_page_behind_is_renewed_once_it_is_old() {
        let blob = content::pack(b"").unwrap().0;
        let base = KeyBase {
            epoch: 7,
            made_ms: 1_000,
            base: KeysBlob { seq: 50, blob },
            filter: None,
            revoked: None,
            before: Vec::new(),
        };
        for (seq, live, age_ms, expected) in [
            (1051, 5_000, OLD_MS - 1, false),
            (1051, 5_000, OLD_MS, true),
            (1050, 5_000, OLD_MS * 100, false),
            (1051, 1_000_000, OLD_MS * 9, false),
            (1051, 1_000_000, OLD_MS * 10, true),
        ] {
            let head = KeyHead {
                epoch: 7,
                seq,
                trimmed: 0,
                live,
            };
            let due = is_due(&head, Some(&base), 100_000, 1_000 + age_ms);
            assert_eq!(due, expected, "{seq} {live} {age_ms}");
        }
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
        // These stand in documents only.
        writes.extend((30_000..30_100).map(|number| KeyWrite::RevokeHash(hash(number))));
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
        let split = |lines: &[u8]| -> Vec<Vec<u8>> {
            let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.map(<[u8]>::to_vec).collect()
        };
        let (mut entries, mut hashes): (Vec<KeyEntry>, Vec<KeyHash>) = Default::default();
        for line in split(&lines) {
            if let Ok(entry) = serde_json::from_slice::<KeyEntry>(&line) {
                hashes.push(entry.hash);
                entries.push(entry);
            } else {
                hashes.push(serde_json::from_slice::<KeyChange>(&line).unwrap().hash());
            }
        }
        assert_eq!(hashes.len(), 20_599);
        assert!(hashes.is_sorted(), "revocations are among the keys, in order");
        let mut revoked: Vec<KeyHash> = (30_000..30_100).map(hash).collect();
        revoked.sort();
        let told: Vec<KeyHash> = split(&fetch(keys.revoked.unwrap().blob).await)
            .iter()
            .map(|line| serde_json::from_slice::<KeyChange>(line).unwrap().hash())
            .collect();
        assert_eq!(told, revoked);
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
        let poll = node.get("/v1/environments/prod/revision?after=1&wait=1").await;
        assert_eq!(poll.status(), reqwest::StatusCode::NOT_MODIFIED);

        // It outlives the process, and what it names is not forgotten.
        assert!(!renew(&node.plane).await.unwrap());
        let known = stored(&node.plane).await.unwrap().unwrap();
        node.plane.store.prune("prod", 1, u64::MAX).await.unwrap();
        for blob in known.own() {
            assert!(node.plane.store.blob(&blob).await.unwrap().is_some());
        }
        node.stop().await;
        let node = Node::start(&store, "").await;
        assert_eq!(node.manifest("prod").await.keys, keys);
        node.stop().await;
    }
}
