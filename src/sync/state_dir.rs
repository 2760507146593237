//! The directory in which a gateway keeps what has to outlive it: who it is, its seat, whom it trusts, what it served.
//!
//! One gateway owns it, by a lock. Every file in it is replaced as a whole: written under another name, synced, renamed,
//! and the directory synced, so that after a power cut there is the old one or the new one.
//!
//! During an upgrade two processes of that gateway are here, and both hold the same lock: it belongs to the open file, and
//! the old process hands that on. So there is no moment at which a third one could come in. One of the two writes: the old
//! one until it gives up, the new one from when it takes over.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::{RwLock, RwLockReadGuard};

/// How long a start waits for the process before it, which may still be leaving.
pub const TAKE_OVER: Duration = Duration::from_secs(5);

/// How often the lock is tried.
const LOOK: Duration = Duration::from_millis(50);

const LOCK: &str = "lock";

/// The longest of the small files.
const SMALL: u64 = 64 * 1024;

/// The directory, locked until this is dropped.
pub struct StateDir {
    path: PathBuf,
    /// The lock lasts as long as the file is open, in whatever process.
    lock: File,
    /// Whether this process writes here. Shared by who writes just now.
    writes: RwLock<bool>,
}

/// Held while something is written: meanwhile this process stays the one that writes.
pub struct Writing<'a> {
    _shared: RwLockReadGuard<'a, bool>,
}

impl StateDir {
    /// Makes it if it is not there, for this user alone, and locks it. Waits up to `patience` for who has it.
    ///
    /// # Errors
    /// When it can not be used, or belongs to another gateway; the text names the directory.
    pub fn open(path: &Path, patience: Duration) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("state_dir {}: {error}", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| told(&error))?;
        let lock = private()
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))
            .map_err(|error| told(&error))?;
        let until = Instant::now() + patience;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK),
                Err(TryLockError::WouldBlock) => {
                    return Err(told(
                        &"another gateway uses this directory; give each its own, or stop the other one",
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(told(&error)),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            lock,
            writes: RwLock::new(true),
        })
    }

    /// The directory of the process before this one, with its lock. It is only read until [`Self::take`].
    ///
    /// # Errors
    /// When this is not the lock of this directory, or not one that is held; the text names the directory.
    pub fn inherit(path: &Path, lock: OwnedFd) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("state_dir {}: {error}", path.display());
        let lock = File::from(lock);
        let handed_on = lock.metadata().map_err(|error| told(&error))?;
        let elsewhere = || {
            told(
                &"the running gateway has its state in another directory, and an upgrade keeps it; restart for this one",
            )
        };
        let fresh = private().open(path.join(LOCK)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => elsewhere(),
            _ => told(&error),
        })?;
        let here = fresh.metadata().map_err(|error| told(&error))?;
        if (here.dev(), here.ino()) != (handed_on.dev(), handed_on.ino()) {
            return Err(elsewhere());
        }
        // A lock that is held is refused to everybody but those who have the open file with which it was taken.
        let is_held = matches!(fresh.try_lock(), Err(TryLockError::WouldBlock));
        if !is_held || lock.try_lock().is_err() {
            return Err(told(&"the running gateway does not hold its lock; restart"));
        }
        Ok(Self {
            path: path.to_owned(),
            lock,
            writes: RwLock::new(false),
        })
    }

    /// The lock, for the process that comes after this one.
    #[must_use]
    pub fn lock_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// The same, to be kept.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn try_clone_lock(&self) -> io::Result<OwnedFd> {
        self.lock.as_fd().try_clone_to_owned()
    }

    /// From now on this process writes.
    pub fn take(&self) {
        *self.writes.write() = true;
    }

    /// From now on this process only reads. False if something is still being written after this time: then nothing has
    /// changed. Blocks.
    #[must_use]
    pub fn give_up(&self, patience: Duration) -> bool {
        let writes = self.writes.try_write_for(patience);
        writes.map(|mut writes| *writes = false).is_some()
    }

    /// Whether this process writes here.
    #[must_use]
    pub fn is_written(&self) -> bool {
        *self.writes.read_recursive()
    }

    /// To be held by who writes files here in a way of his own; none if this process only reads, and the other one writes.
    #[must_use]
    pub fn writing(&self) -> Option<Writing<'_>> {
        // Recursive: who writes several files holds it for all of them, and each for itself.
        let shared = self.writes.read_recursive();
        shared.then_some(Writing { _shared: shared })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A small file; None if there is none.
    ///
    /// # Errors
    /// When it can not be read, or is not small.
    pub fn read(&self, name: &str) -> io::Result<Option<String>> {
        let file = match File::open(self.path.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(SMALL + 1).read_to_string(&mut text)?;
        if text.len() as u64 > SMALL {
            return Err(io::Error::other("it is longer than anything that was written here"));
        }
        Ok(Some(text))
    }

    /// Replaces a small file; nothing, if this process only reads.
    ///
    /// # Errors
    /// When it can not be written; the old one is then still there.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let Some(_writing) = self.writing() else { return Ok(()) };
        let fresh = self.path.join(format!("{name}.new"));
        write_synced(&fresh, text.as_bytes())?;
        std::fs::rename(&fresh, self.path.join(name))?;
        sync_directory(&self.path)
    }

    /// Removes a file; it may be gone already. Nothing, if this process only reads.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let Some(_writing) = self.writing() else { return Ok(()) };
        match std::fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => sync_directory(&self.path),
        }
    }

    /// What tells this installation from all others: 32 hex digits, made once.
    ///
    /// # Errors
    /// When it can not be kept, or the system has no randomness.
    pub fn instance_id(&self) -> Result<String, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.path.join("instance").display());
        if let Some(text) = self.read("instance").map_err(|error| told(&error))? {
            let id = text.trim();
            if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(id.to_owned());
            }
            return Err(told(&"these are not 32 hex digits; remove the file for a new identity"));
        }
        if !self.is_written() {
            return Err(told(&"it is gone while the gateway runs; restart"));
        }
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes).map_err(|error| told(&error))?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.write("instance", &id).map_err(|error| told(&error))?;
        Ok(id)
    }
}

/// Writes a file for this user alone, and to the disk.
///
/// # Errors
/// When it can not be written.
pub fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = private().create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes renames in a directory last.
///
/// # Errors
/// When the disk has a fault.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_belongs_to_one_gateway_until_that_one_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let first = StateDir::open(&path, Duration::ZERO).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        let error = StateDir::open(&path, Duration::ZERO).err().unwrap();
        assert!(error.contains("another gateway uses this directory"), "{error}");
        let waiting = {
            let path = path.clone();
            std::thread::spawn(move || StateDir::open(&path, Duration::from_secs(30)).map(|_| ()))
        };
        drop(first);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_lock_that_is_handed_on_is_held_by_both_and_by_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let old = StateDir::open(path, Duration::ZERO).unwrap();
        old.write("seat", "of the old one").unwrap();
        let new = StateDir::inherit(path, old.try_clone_lock().unwrap()).unwrap();
        assert_eq!(new.read("seat").unwrap().as_deref(), Some("of the old one"));
        assert!(StateDir::open(path, Duration::ZERO).is_err());

        // One of them writes.
        new.write("seat", "of the new one").unwrap();
        new.remove("seat").unwrap();
        assert_eq!(old.read("seat").unwrap().as_deref(), Some("of the old one"));
        assert!(new.writing().is_none() && new.instance_id().is_err());
        let writing = old.writing();
        assert!(!old.give_up(Duration::from_millis(10)), "something is being written");
        assert!(old.is_written());
        drop(writing);
        assert!(old.give_up(Duration::from_secs(30)));
        new.take();
        old.write("seat", "of the old one, late").unwrap();
        new.write("seat", "of the new one").unwrap();
        assert_eq!(new.read("seat").unwrap().as_deref(), Some("of the new one"));

        drop(old);
        assert!(
            StateDir::open(path, Duration::ZERO).is_err(),
            "the new one is still there"
        );
        drop(new);
        StateDir::open(path, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_descriptor_that_is_not_the_lock_of_this_directory_is_refused() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _here = StateDir::open(here.path(), Duration::ZERO).unwrap();
        let other = StateDir::open(there.path(), Duration::ZERO).unwrap();
        let refused = |lock: OwnedFd| StateDir::inherit(here.path(), lock).err().unwrap();
        assert!(refused(other.try_clone_lock().unwrap()).contains("in another directory"));
        let another_opening = File::open(here.path().join(LOCK)).unwrap();
        assert!(refused(another_opening.into()).contains("does not hold its lock"));
        drop(other);
        let unlocked = File::open(there.path().join(LOCK)).unwrap();
        let error = StateDir::inherit(there.path(), unlocked.into()).err().unwrap();
        assert!(error.contains("does not hold its lock"), "{error}");
    }

    #[test]
    fn files_are_replaced_whole_and_are_nobody_elses_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path(), Duration::ZERO).unwrap();
        assert_eq!(state.read("seat").unwrap(), None);
        state.write("seat", "one").unwrap();
        state.write("seat", "two").unwrap();
        assert_eq!(state.read("seat").unwrap().as_deref(), Some("two"));
        let mode = std::fs::metadata(directory.path().join("seat"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        state.remove("seat").unwrap();
        state.remove("seat").unwrap();
        assert_eq!(state.read("seat").unwrap(), None);
        std::fs::write(directory.path().join("long"), vec![b'x'; 70_000]).unwrap();
        assert!(state.read("long").is_err());
    }

    #[test]
    fn an_identity_is_made_once_and_a_damaged_one_is_not_taken_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path(), Duration::ZERO).unwrap();
        let id = state.instance_id().unwrap();
        assert_eq!(id.len(), 32);
        assert_eq!(state.instance_id().unwrap(), id);
        std::fs::write(directory.path().join("instance"), "gw").unwrap();
        assert!(state.instance_id().unwrap_err().contains("not 32 hex digits"));
    }
}
