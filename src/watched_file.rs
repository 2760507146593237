//! Files that are read again when they change.
//!
//! By polling: `stat` a few times a second costs nothing, needs no kernel resource per file, and sees through renames,
//! symlink swaps and network file systems, each of which makes file notifications miss changes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How soon, and how seldom at last, what was refused is tried again although it did not change.
const AGAIN_FIRST: Duration = Duration::from_secs(2);
const AGAIN_MOST: Duration = Duration::from_secs(60);

/// Enough of a file's metadata to know that it was replaced or rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// A file that is watched. Created before the file is read for the first time, so that no change is missed.
#[derive(Debug)]
pub struct WatchedFile {
    path: PathBuf,
    applied: Option<Stamp>,
    seen: Option<Stamp>,
}

impl WatchedFile {
    /// Notes how the file is now.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let stamp = Stamp::of(&path);
        Self {
            path,
            applied: stamp,
            seen: stamp,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file differs from the applied one and has been the same for two looks: a file that is being written
    /// in place is not read half. What is reported is applied from then on.
    pub fn has_settled_change(&mut self) -> bool {
        let now = Stamp::of(&self.path);
        let settled = now == self.seen;
        self.seen = now;
        if settled && now != self.applied {
            self.applied = now;
            return true;
        }
        false
    }
}

/// When something refused is tried again although it did not change: not every reason is in the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Again(Option<(Instant, Duration)>);

impl Again {
    /// After a first try.
    #[must_use]
    pub fn start(refused: bool) -> Self {
        Self(refused.then(|| (Instant::now() + AGAIN_FIRST, AGAIN_FIRST)))
    }

    /// Whether it is time.
    #[must_use]
    pub fn is_due(self) -> bool {
        self.0.is_some_and(|(at, _)| Instant::now() >= at)
    }

    /// After a further try.
    #[must_use]
    pub fn next(self, refused: bool) -> Self {
        let pause = self.0.map_or(AGAIN_FIRST, |(_, pause)| (pause * 2).min(AGAIN_MOST));
        Self(refused.then(|| (Instant::now() + pause, pause)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_once_and_only_when_the_writer_has_paused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("revision.yaml");
        std::fs::write(&path, "one").unwrap();
        let mut watch = WatchedFile::new(path.clone());
        assert!(!watch.has_settled_change());

        std::fs::write(&path, "half of it").unwrap();
        assert!(!watch.has_settled_change(), "just written");
        std::fs::write(&path, "half of it and the rest").unwrap();
        assert!(!watch.has_settled_change(), "still being written");
        assert!(watch.has_settled_change());
        assert!(!watch.has_settled_change());
    }

    #[test]
    fn a_file_that_is_renamed_over_the_old_one_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("revision.yaml");
        std::fs::write(&path, "same").unwrap();
        let mut watch = WatchedFile::new(path.clone());
        let fresh = directory.path().join("fresh");
        std::fs::write(&fresh, "same").unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert!(!watch.has_settled_change());
        assert!(watch.has_settled_change());
    }
}
