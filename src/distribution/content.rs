//! What a revision says, as a set of named objects: so that two revisions can be told apart, and only the difference
//! travels.
//!
//! An object is one item of the revision document (an upstream, an issuer, a plan, an API, an application) as compact
//! JSON. The *root* is one hash over all of them: two contents with the same root are the same. A *snapshot* is all
//! objects, one line each; a *delta* is what makes one content of another.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{BlobRef, ContentHash};

/// How hard snapshots are compressed: once, for a thousand readers.
const LEVEL: i32 = 9;

/// Buckets of the hash tree. A content and its neighbour differ in a few of them.
const BUCKETS: usize = 1024;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Where requests go.
    Upstream,
    /// Who may issue tokens.
    Issuer,
    /// A set of limits.
    Plan,
    /// What is published.
    Api,
    /// Who calls.
    Application,
}

/// What a revision says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    objects: BTreeMap<(Kind, Arc<str>), Arc<str>>,
}

/// Why bytes are not a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentError {
    /// Not the bytes that were asked for.
    Hash,
    /// More than was announced.
    TooLarge,
    /// Not what this build reads; says what.
    Malformed(String),
}

/// One line of a snapshot or delta.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    kind: Kind,
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    /// Absent in a delta: the object is gone.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
}

impl Kind {
    /// All of them, in the order of a document.
    pub const ALL: [Self; 5] = [Self::Upstream, Self::Issuer, Self::Plan, Self::Api, Self::Application];

    /// One of them.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Issuer => "issuer",
            Self::Plan => "plan",
            Self::Api => "api",
            Self::Application => "application",
        }
    }

    /// Its list in the revision document.
    #[must_use]
    pub fn list(self) -> &'static str {
        match self {
            Self::Upstream => "upstreams",
            Self::Issuer => "issuers",
            Self::Plan => "plans",
            Self::Api => "apis",
            Self::Application => "applications",
        }
    }
}

impl Content {
    /// The objects of a revision document that has been found free of mistakes.
    ///
    /// # Errors
    /// When it has none of the shape that such a document has.
    pub fn of_document(document: &Value) -> Result<Self, ContentError> {
        let mut content = Self::default();
        for kind in Kind::ALL {
            let items = match document.get(kind.list()) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(items)) => items,
                Some(_) => return Err(ContentError::Malformed(format!("\"{}\" is not a list", kind.list()))),
            };
            for item in items {
                let name = item
                    .get("name")
                    .and_then(Value::as_str)
                    .ok_or_else(|| ContentError::Malformed(format!("an item of \"{}\" has no name", kind.list())))?;
                content.insert(kind, name, item);
            }
        }
        Ok(content)
    }

    /// Adds or replaces an object; tells whether there was another one before.
    pub fn insert(&mut self, kind: Kind, name: &str, value: &Value) -> bool {
        let text: Arc<str> = Arc::from(value.to_string());
        let before = self.objects.insert((kind, Arc::from(name)), Arc::clone(&text));
        before.is_some_and(|before| before != text)
    }

    /// Takes an object away; tells whether it was there.
    pub fn remove(&mut self, kind: Kind, name: &str) -> bool {
        self.objects.remove(&(kind, Arc::from(name))).is_some()
    }

    /// The compact JSON of an object.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<&str> {
        self.objects.get(&(kind, Arc::from(name))).map(AsRef::as_ref)
    }

    /// All objects: kind, name and compact JSON; in the order of kinds, then names.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &str, &str)> {
        self.objects
            .iter()
            .map(|((kind, name), value)| (*kind, name.as_ref(), value.as_ref()))
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// One hash over all objects: SHA-256 over the hashes of 1,024 buckets, into which objects fall by their names.
    #[must_use]
    pub fn root(&self) -> ContentHash {
        let mut buckets: Vec<Option<Sha256>> = vec![None; BUCKETS];
        for (kind, name, value) in self.iter() {
            let place = Sha256::new()
                .chain_update(kind.as_str())
                .chain_update([0])
                .chain_update(name)
                .finalize();
            let bucket = usize::from(u16::from_be_bytes([place[0], place[1]])) % BUCKETS;
            // Lengths before texts, so that no text can pretend to be the next object.
            if let Some(slot) = buckets.get_mut(bucket) {
                slot.get_or_insert_with(Sha256::new)
                    .update([place.as_slice(), &(value.len() as u64).to_be_bytes(), value.as_bytes()].concat());
            }
        }
        let mut root = Sha256::new();
        for (bucket, hasher) in (0_u16..).zip(buckets) {
            if let Some(hasher) = hasher {
                root.update(bucket.to_be_bytes());
                root.update(hasher.finalize());
            }
        }
        ContentHash(root.finalize().into())
    }

    /// The revision document as JSON, one object a line, for `revision::parse_published`.
    #[must_use]
    pub fn to_document(&self) -> String {
        let mut text = String::from("{\"version\": 1");
        for kind in Kind::ALL {
            let mut separator = format!(",\n\"{}\": [\n", kind.list());
            for (_, _, value) in self.iter().filter(|(other, ..)| *other == kind) {
                text.push_str(&separator);
                text.push_str(value);
                separator = ",\n".to_owned();
            }
            if separator == ",\n" {
                text.push_str("\n]");
            }
        }
        text.push_str("}\n");
        text
    }

    /// All objects in a blob, and what is said of it in a manifest.
    ///
    /// # Errors
    /// When compressing fails, which is for want of memory.
    pub fn to_snapshot(&self) -> std::io::Result<(BlobRef, Vec<u8>)> {
        let mut raw = Vec::new();
        for (kind, name, value) in self.iter() {
            push_line(&mut raw, kind, name, Some(value))?;
        }
        pack(&raw)
    }

    /// The content of a blob. Nothing beyond what was announced is read or unpacked.
    ///
    /// # Errors
    /// When it is not the blob that was announced, or no snapshot.
    pub fn from_snapshot(announced: &BlobRef, bytes: &[u8]) -> Result<Self, ContentError> {
        let raw = unpack(announced, bytes)?;
        let mut content = Self::default();
        content.apply_lines(&raw)?;
        Ok(content)
    }

    /// What makes `to` of this content, as a blob. No hash of it is signed: who applies it compares the root.
    ///
    /// # Errors
    /// When compressing fails, which is for want of memory.
    pub fn delta(&self, to: &Self) -> std::io::Result<Vec<u8>> {
        let mut raw = Vec::new();
        for ((kind, name), _) in self.objects.iter().filter(|(key, _)| !to.objects.contains_key(*key)) {
            push_line(&mut raw, *kind, name, None)?;
        }
        for ((kind, name), value) in to
            .objects
            .iter()
            .filter(|(key, value)| self.objects.get(*key) != Some(*value))
        {
            push_line(&mut raw, *kind, name, Some(value))?;
        }
        Ok(pack(&raw)?.1)
    }

    /// This content with a delta applied, which may unpack to `most` bytes. Whether it is the one that was meant, its
    /// root tells.
    ///
    /// # Errors
    /// When it is no delta.
    pub fn with_delta(&self, bytes: &[u8], most: u64) -> Result<Self, ContentError> {
        let raw = decompress(bytes, most)?;
        let mut content = self.clone();
        content.apply_lines(&raw)?;
        Ok(content)
    }

    fn apply_lines(&mut self, raw: &[u8]) -> Result<(), ContentError> {
        for (number, line) in raw.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let line: Line<'_> = serde_json::from_slice(line)
                .map_err(|error| ContentError::Malformed(format!("line {}: {error}", number + 1)))?;
            let key = (line.kind, Arc::from(line.name.as_ref()));
            match line.value {
                Some(value) => {
                    self.objects.insert(key, Arc::from(value.get()));
                }
                None => {
                    self.objects.remove(&key);
                }
            }
        }
        Ok(())
    }
}

/// Compresses, and says what became of it.
///
/// # Errors
/// When compressing fails, which is for want of memory.
pub fn pack(raw: &[u8]) -> std::io::Result<(BlobRef, Vec<u8>)> {
    let bytes = zstd::bulk::compress(raw, LEVEL)?;
    let announced = BlobRef {
        sha256: ContentHash::of(&bytes),
        size: bytes.len() as u64,
        raw_size: raw.len() as u64,
    };
    Ok((announced, bytes))
}

/// The contents of the blob that was announced.
///
/// # Errors
/// When it is another one, or larger than announced.
pub fn unpack(announced: &BlobRef, bytes: &[u8]) -> Result<Vec<u8>, ContentError> {
    if bytes.len() as u64 != announced.size || ContentHash::of(bytes) != announced.sha256 {
        return Err(ContentError::Hash);
    }
    let raw = decompress(bytes, announced.raw_size)?;
    if raw.len() as u64 == announced.raw_size {
        Ok(raw)
    } else {
        Err(ContentError::Hash)
    }
}

fn decompress(bytes: &[u8], most: u64) -> Result<Vec<u8>, ContentError> {
    let malformed = |error: std::io::Error| ContentError::Malformed(format!("not zstd: {error}"));
    let mut raw = Vec::new();
    zstd::stream::read::Decoder::new(bytes)
        .map_err(malformed)?
        .take(most.saturating_add(1))
        .read_to_end(&mut raw)
        .map_err(malformed)?;
    if raw.len() as u64 > most {
        return Err(ContentError::TooLarge);
    }
    Ok(raw)
}

fn push_line(raw: &mut Vec<u8>, kind: Kind, name: &str, value: Option<&str>) -> std::io::Result<()> {
    let value = value.map(serde_json::from_str::<&RawValue>).transpose()?;
    let line = Line {
        kind,
        name: name.into(),
        value,
    };
    serde_json::to_writer(&mut *raw, &line)?;
    raw.push(b'\n');
    Ok(())
}

impl ContentError {
    /// One word for logs, metrics and NACKs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::TooLarge => "oversized",
            Self::Malformed(_) => "malformed",
        }
    }
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash => f.write_str("its bytes are not those that the manifest names"),
            Self::TooLarge => f.write_str("it is larger than announced"),
            Self::Malformed(how) => write!(f, "it is malformed: {how}"),
        }
    }
}

impl std::error::Error for ContentError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn sample() -> Content {
        Content::of_document(&json!({
            "version": 1,
            "upstreams": [{ "name": "orders", "endpoints": [{ "address": "10.0.0.1:80" }] }],
            "apis": [
                { "name": "orders", "base_path": "/orders", "auth": ["api_key"], "upstream": "orders" },
                { "name": "open", "base_path": "/open", "auth": "none", "upstream": "orders" },
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_snapshot_gives_back_what_went_into_it_and_the_document_can_be_made_of_it() {
        let content = sample();
        let (announced, bytes) = content.to_snapshot().unwrap();
        let again = Content::from_snapshot(&announced, &bytes).unwrap();
        assert_eq!(again, content);
        assert_eq!(again.root(), content.root());
        let document: Value = serde_json::from_str(&content.to_document()).unwrap();
        assert_eq!(Content::of_document(&document).unwrap(), content);
        assert_eq!(document["apis"][0]["name"], "open", "sorted by name");
        assert_eq!(document.get("plans"), None);
        serde_json::from_str::<Value>(&Content::default().to_document()).unwrap();
    }

    #[test]
    fn flipped_cut_and_blown_up_snapshots_are_refused() {
        let (announced, bytes) = sample().to_snapshot().unwrap();
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1;
            assert_eq!(Content::from_snapshot(&announced, &flipped), Err(ContentError::Hash));
        }
        assert_eq!(
            Content::from_snapshot(&announced, &bytes[..bytes.len() - 1]),
            Err(ContentError::Hash)
        );
        let (mut bomb, bytes) = pack(&vec![b'\n'; 10_000_000]).unwrap();
        bomb.raw_size = 1000;
        assert_eq!(Content::from_snapshot(&bomb, &bytes), Err(ContentError::TooLarge));
        let (announced, bytes) = pack(b"{\"kind\":\"api\"}\n").unwrap();
        assert_eq!(
            Content::from_snapshot(&announced, &bytes).unwrap_err().reason(),
            "malformed"
        );
    }

    fn edits() -> impl Strategy<Value = Vec<(u8, u8, Option<u8>)>> {
        prop::collection::vec((0_u8..5, 0_u8..30, prop::option::of(0_u8..4)), 0..60)
    }

    fn edited(content: &mut Content, edits: &[(u8, u8, Option<u8>)]) {
        for (kind, name, value) in edits {
            let (kind, name) = (Kind::ALL[usize::from(*kind)], format!("n{name}"));
            match value {
                Some(value) => {
                    content.insert(kind, &name, &json!({ "name": name, "value": value }));
                }
                None => {
                    content.remove(kind, &name);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_delta_makes_the_one_content_of_the_other_and_equal_contents_alone_have_equal_roots(
            first in edits(), second in edits()
        ) {
            let mut from = Content::default();
            edited(&mut from, &first);
            let mut to = from.clone();
            edited(&mut to, &second);
            let made = from.with_delta(&from.delta(&to).unwrap(), 1 << 20).unwrap();
            prop_assert_eq!(made.root(), to.root());
            prop_assert_eq!(&made, &to);
            prop_assert_eq!(from.root() == to.root(), from == to);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Content::default().with_delta(&bytes, 1 << 20);
            let (announced, packed) = pack(&bytes).unwrap();
            let _ = Content::from_snapshot(&announced, &packed);
        }
    }
}
