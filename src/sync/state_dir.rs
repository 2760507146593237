//! The directory in which a gateway keeps what has to outlive it: who it is, its seat, whom it trusts, what it served.
//!
//! One gateway owns it, by a lock. Every file in it is replaced as a whole: written under another name, synced, renamed,
//! and the directory synced, so that after a power cut there is the old one or the new one.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a start waits for the process before it, which may still be leaving.
pub const TAKE_OVER: Duration = Duration::from_secs(5);

/// How often the lock is tried.
const LOOK: Duration = Duration::from_millis(50);

/// The longest of the small files.
const SMALL: u64 = 64 * 1024;

/// The directory, locked until this is dropped.
pub struct StateDir {
    path: PathBuf,
    /// The lock lasts as long as the file is open.
    _lock: File,
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
            .open(path.join("lock"))
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
            _lock: lock,
        })
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

    /// Replaces a small file.
    ///
    /// # Errors
    /// When it can not be written; the old one is then still there.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let fresh = self.path.join(format!("{name}.new"));
        write_synced(&fresh, text.as_bytes())?;
        std::fs::rename(&fresh, self.path.join(name))?;
        sync_directory(&self.path)
    }

    /// Removes a file; it may be gone already.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self, name: &str) -> io::Result<()> {
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
