//! Watches a revision file.

use std::path::PathBuf;
use std::time::Duration;

use super::Revisions;
use crate::clock::unix_ms;
use crate::watched_file::{Again, WatchedFile};

/// How often the file is looked at. A change is applied once two looks in a row see the same file, which is at most
/// half a second after the writer is done.
const LOOK: Duration = Duration::from_millis(200);

/// A file that is watched. Created before the file is read for the first time, so that no change is missed.
pub struct Watch {
    file: WatchedFile,
    try_again: Again,
}

impl Watch {
    /// Notes how the file is now.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            file: WatchedFile::new(path),
            try_again: Again::default(),
        }
    }

    /// Applies every change of the file until `stopped` says so. Blocks its thread.
    pub fn run(mut self, revisions: &Revisions, stopped: &dyn Fn() -> bool) {
        while !stopped() {
            std::thread::sleep(LOOK);
            // A refusal is logged, counted and shown where it happens.
            if self.file.has_settled_change() {
                self.try_again = Again::start(revisions.apply_file(self.file.path(), unix_ms()).is_err());
            } else if self.try_again.is_due() {
                // Not every reason is in the file: a name that did not resolve, a file that it refers to.
                let refused = revisions.apply_file_again(self.file.path(), unix_ms()).is_err();
                self.try_again = self.try_again.next(refused);
            }
            revisions.bury();
        }
    }
}
