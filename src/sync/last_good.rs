//! The last good revisions on disk, from which a gateway starts before it asks anybody.
//!
//! `revisions/{seq}-{root12}/{manifest.json, snapshot}`. A directory is complete or not there: it is written under another
//! name, synced, renamed. What vouches for it at the next start is the signature over the manifest, and the root in the
//! manifest over the snapshot: no checksum of our own is needed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::state_dir::{StateDir, sync_directory, write_synced};
use super::verify::{Expected, Highest, believe};
use super::{Published, Remembered};
use crate::distribution::{Content, ContentHash, Manifest, PublicKey, Signed};

/// How many are kept.
const KEPT: usize = 3;

const DIRECTORY: &str = "revisions";
const CURRENT: &str = "current";
const SEEN: &str = "seen";
const SNAPSHOT: &str = "snapshot";
const MANIFEST: &str = "manifest.json";
const MANIFEST_MOST: u64 = 1 << 20;

/// The last good revisions of one gateway.
pub struct LastGood {
    state: Arc<StateDir>,
    root: PathBuf,
}

impl LastGood {
    /// Makes the directory and removes what a process before has left unfinished, unless it is that one that writes.
    ///
    /// # Errors
    /// When it can not be made.
    pub fn open(state: Arc<StateDir>) -> Result<Self, String> {
        let root = state.path().join(DIRECTORY);
        let Some(writing) = state.writing() else {
            return Ok(Self { state, root });
        };
        std::fs::create_dir_all(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        for name in names(&root).filter(|name| name.ends_with(".new")) {
            let _ = std::fs::remove_dir_all(root.join(name));
        }
        drop(writing);
        Ok(Self { state, root })
    }

    /// Keeps a revision, makes it the current one, and removes the oldest. What is there already is written anew if it
    /// is damaged, or signed by a key from before. Nothing, if another process writes here.
    ///
    /// # Errors
    /// When the disk does not take it; then what was kept before still is.
    pub fn keep(&self, revision: &Remembered) -> io::Result<()> {
        let Some(_writing) = self.state.writing() else {
            return Ok(());
        };
        let name = directory(revision.manifest());
        let place = self.root.join(&name);
        let signed = serde_json::to_vec(&revision.signed)?;
        if !place.is_dir() {
            let fresh = self.root.join(format!("{name}.new"));
            let _ = std::fs::remove_dir_all(&fresh);
            std::fs::create_dir(&fresh)?;
            write_synced(&fresh.join(SNAPSHOT), &packed(revision)?)?;
            write_synced(&fresh.join(MANIFEST), &signed)?;
            sync_directory(&fresh)?;
            std::fs::rename(&fresh, &place)?;
            sync_directory(&self.root)?;
        } else if !self.holds(&name, revision, &signed) {
            // One by one, the snapshot first: at no time is there less than there was.
            replace(&place, SNAPSHOT, &packed(revision)?)?;
            replace(&place, MANIFEST, &signed)?;
        }
        self.choose(revision.manifest())
    }

    /// Makes a revision that was read from here the current one, and removes the oldest. Nothing, if another process
    /// writes here.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn choose(&self, manifest: &Manifest) -> io::Result<()> {
        let Some(_writing) = self.state.writing() else {
            return Ok(());
        };
        let name = directory(manifest);
        self.state.write(CURRENT, &name)?;
        self.forget_all_but(&name);
        Ok(())
    }

    /// What is kept and holds, the current one first, then the newest; what does not hold is logged and left out.
    /// Nothing is read before it is asked for.
    pub fn revisions<'a>(
        &'a self,
        trusted: &'a [PublicKey],
        expected: &'a Expected,
    ) -> impl Iterator<Item = Remembered> + 'a {
        let current = self.state.read(CURRENT).ok().flatten();
        let mut found: Vec<(bool, u64, String)> = names(&self.root)
            .filter_map(|name| Some((current.as_deref() == Some(&*name), number(&name)?, name)))
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().filter_map(move |(_, _, name)| {
            self.read(&name, trusted, expected)
                .inspect_err(|why| log::error!("{}: {why}; it is not used", self.root.join(&name).display()))
                .ok()
        })
    }

    /// Whether this is the one that served last.
    #[must_use]
    pub fn is_current(&self, manifest: &Manifest) -> bool {
        let current = self.state.read(CURRENT).ok().flatten();
        current.is_some_and(|current| current == directory(manifest))
    }

    /// The content with this root, if it is kept: a rollback needs no network.
    #[must_use]
    pub fn content(&self, root: ContentHash, most: u64) -> Option<Content> {
        let end = format!("-{}", root.short());
        let name = names(&self.root).find(|name| name.ends_with(&end))?;
        let content = self.snapshot(&name, most).ok()?;
        (content.root() == root).then_some(content)
    }

    /// The newest manifest that was ever believed.
    ///
    /// # Errors
    /// When what was written down can not be read.
    pub fn highest(&self) -> Result<Option<Highest>, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.state.path().join(SEEN).display());
        let Some(text) = self.state.read(SEEN).map_err(|error| told(&error))? else {
            return Ok(None);
        };
        let read = || {
            let (seq, root) = text.trim().split_once(' ')?;
            Some(Highest {
                seq: seq.parse().ok()?,
                root: root.parse().ok()?,
            })
        };
        read().map(Some).ok_or_else(|| told(&"this is no number and root"))
    }

    /// Writes down the newest manifest that is believed.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn set_highest(&self, highest: Highest) -> io::Result<()> {
        self.state.write(SEEN, &format!("{} {}\n", highest.seq, highest.root))
    }

    fn read(&self, name: &str, trusted: &[PublicKey], expected: &Expected) -> Result<Remembered, String> {
        let place = self.root.join(name);
        let text = read_file(&place.join(MANIFEST), MANIFEST_MOST)?;
        let signed: Signed = serde_json::from_slice(&text).map_err(|error| format!("manifest.json: {error}"))?;
        let manifest = believe(&signed, trusted, expected).map_err(|refusal| refusal.to_string())?;
        let content = self.snapshot(name, expected.max_bytes)?;
        if !manifest.is_of(&content) {
            return Err("snapshot: it is damaged".to_owned());
        }
        Ok(Remembered {
            signed,
            snapshot: None,
            published: Arc::new(Published { manifest, content }),
        })
    }

    /// Whether exactly this is kept there.
    fn holds(&self, name: &str, revision: &Remembered, signed: &[u8]) -> bool {
        let manifest = revision.manifest();
        // Another build may pack or write the same content in other bytes: what counts is its root.
        let most = manifest.snapshot.size.max(manifest.snapshot.raw_size).saturating_mul(2);
        read_file(&self.root.join(name).join(MANIFEST), MANIFEST_MOST).is_ok_and(|kept| kept == signed)
            && self.snapshot(name, most).is_ok_and(|content| manifest.is_of(&content))
    }

    fn snapshot(&self, name: &str, most: u64) -> Result<Content, String> {
        let packed = read_file(&self.root.join(name).join(SNAPSHOT), most)?;
        // All objects are what makes a content of an empty one.
        Content::default()
            .with_delta(&packed, most)
            .map_err(|error| format!("snapshot: {error}"))
    }

    /// Keeps this one and the newest others.
    fn forget_all_but(&self, current: &str) {
        let mut old: Vec<(u64, String)> = names(&self.root)
            .filter(|name| name != current)
            .filter_map(|name| Some((number(&name)?, name)))
            .collect();
        old.sort_unstable_by(|a, b| b.cmp(a));
        for (_, name) in old.iter().skip(KEPT - 1) {
            if let Err(error) = std::fs::remove_dir_all(self.root.join(name)) {
                log::warn!("{}: {error}", self.root.join(name).display());
            }
        }
    }
}

fn directory(manifest: &Manifest) -> String {
    format!("{}-{}", manifest.seq, manifest.root.short())
}

fn packed(revision: &Remembered) -> io::Result<Vec<u8>> {
    match &revision.snapshot {
        Some(bytes) => Ok(bytes.clone()),
        None => Ok(revision.published.content.to_snapshot()?.1),
    }
}

fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = directory.join(format!("{name}.new"));
    write_synced(&fresh, bytes)?;
    std::fs::rename(&fresh, directory.join(name))?;
    sync_directory(directory)
}

fn number(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok().filter(|_| !name.ends_with(".new"))
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let name = path.file_name().unwrap_or_default().display();
    let told = |error: io::Error| format!("{name}: {error}");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(told)?;
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(told)?;
    if bytes.len() as u64 > most {
        return Err(format!("{name}: it is longer than {most} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::testing::{Author, expected};
    use super::*;

    fn open(directory: &Path) -> LastGood {
        LastGood::open(Arc::new(StateDir::open(directory, Duration::ZERO).unwrap())).unwrap()
    }

    fn kept(last_good: &LastGood, author: &Author) -> Vec<u64> {
        let (trusted, expected) = ([author.public()], expected());
        let revisions = last_good.revisions(&trusted, &expected);
        revisions.map(|revision| revision.manifest().seq).collect()
    }

    fn revision(author: &Author, seq: u64) -> Remembered {
        author.remembered(seq, &[("orders", json!({ "name": "orders", "seq": seq }))])
    }

    #[test]
    fn three_are_kept_the_current_one_first_and_their_contents_are_found_by_root() {
        let directory = tempfile::tempdir().unwrap();
        let (author, last_good) = (Author::somebody(), open(directory.path()));
        assert!(kept(&last_good, &author).is_empty());
        for seq in 8..=12 {
            last_good.keep(&revision(&author, seq)).unwrap();
        }
        assert_eq!(kept(&last_good, &author), [12, 11, 10]);
        let eleven = revision(&author, 11);
        let root = eleven.manifest().root;
        assert_eq!(last_good.content(root, 1 << 20), Some(eleven.published.content.clone()));
        assert_eq!(last_good.content(root, 3), None);
        last_good.keep(&eleven).unwrap();
        assert_eq!(
            kept(&last_good, &author),
            [11, 12, 10],
            "the current one is the one that ran"
        );
        assert!(
            kept(&last_good, &Author::somebody()).is_empty(),
            "signed by somebody else"
        );
    }

    #[test]
    fn what_is_damaged_or_unfinished_is_left_out_and_the_one_before_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let (author, last_good) = (Author::somebody(), open(directory.path()));
        for seq in 1..=3 {
            last_good.keep(&revision(&author, seq)).unwrap();
        }
        let file = |seq, name: &str| {
            last_good
                .root
                .join(self::directory(revision(&author, seq).manifest()))
                .join(name)
        };
        let snapshot = std::fs::read(file(3, "snapshot")).unwrap();
        for position in 0..snapshot.len() {
            let mut damaged = snapshot.clone();
            damaged[position] ^= 1;
            std::fs::write(file(3, "snapshot"), &damaged).unwrap();
            // A bit of a frame's header may mean nothing; then the content is the same, and as good.
            let found = kept(&last_good, &author);
            assert!(found == [2, 1] || found == [3, 2, 1], "{found:?}");
            std::fs::write(file(3, "snapshot"), &snapshot[..position]).unwrap();
            assert_eq!(kept(&last_good, &author), [2, 1], "cut at {position}");
        }
        let manifest = std::fs::read_to_string(file(2, "manifest.json")).unwrap();
        std::fs::write(file(2, "manifest.json"), manifest.replace("prod", "test")).unwrap();
        assert_eq!(kept(&last_good, &author), [1]);
        let unfinished = last_good.root.join("9-abcdef.new");
        std::fs::create_dir(&unfinished).unwrap();
        assert_eq!(kept(&last_good, &author), [1]);
        let root = last_good.root.clone();
        drop(last_good);
        assert_eq!(kept(&open(directory.path()), &author), [1]);
        assert!(!root.join("9-abcdef.new").exists());
    }

    #[test]
    fn what_is_kept_damaged_or_signed_by_a_key_from_before_is_written_anew_and_what_holds_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (author, heir, last_good) = (Author::somebody(), Author::somebody(), open(directory.path()));
        let one = revision(&author, 1);
        last_good.keep(&one).unwrap();
        let file = |name: &str| last_good.root.join(self::directory(one.manifest())).join(name);
        let written = |name: &str| std::fs::metadata(file(name)).unwrap().modified().unwrap();
        let before = written(SNAPSHOT);
        last_good.keep(&one).unwrap();
        assert_eq!(written(SNAPSHOT), before);
        for name in [SNAPSHOT, MANIFEST] {
            std::fs::write(file(name), "damaged").unwrap();
            assert!(kept(&last_good, &author).is_empty());
            last_good.keep(&one).unwrap();
            assert_eq!(kept(&last_good, &author), [1], "{name}");
        }
        last_good.keep(&revision(&heir, 1)).unwrap();
        assert_eq!(kept(&last_good, &heir), [1]);
    }

    #[test]
    fn the_newest_number_is_written_down() {
        let directory = tempfile::tempdir().unwrap();
        let last_good = open(directory.path());
        assert_eq!(last_good.highest(), Ok(None));
        let highest = Highest {
            seq: 7,
            root: ContentHash([3; 32]),
        };
        last_good.set_highest(highest).unwrap();
        assert_eq!(last_good.highest(), Ok(Some(highest)));
        std::fs::write(directory.path().join(SEEN), "7").unwrap();
        assert!(last_good.highest().unwrap_err().contains("no number and root"));
    }
}
