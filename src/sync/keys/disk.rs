//! Keys on disk, so that a gateway that is started again knows them before it asks anybody.
//!
//! Two files that belong together, and during an upgrade one process reads while another one may be writing: each holds a
//! lock meanwhile. A base without the log that goes with it would let in keys that were revoked after it was made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::KeyStore;
use crate::auth::key_store::{Place, Saved};
use crate::sync::state_dir::{StateDir, sync_directory};

/// So many records, or this time, and what is on disk is written anew.
const RECORDS: u64 = 10_000;
const EVERY: Duration = Duration::from_secs(180);

const DIRECTORY: &str = "keys";

/// Where keys are kept: `base` and `log`.
#[derive(Clone)]
pub(super) struct Disk(Arc<Inner>);

struct Inner {
    state: Arc<StateDir>,
    directory: PathBuf,
    written: Mutex<Written>,
    is_writing: AtomicBool,
}

/// Tells a file from the one that replaces it: inode, and nanoseconds of the last change.
type Stamp = Option<(u64, i64, i64)>;

/// What is on disk.
struct Written {
    place: Option<Place>,
    seq: u64,
    at: Instant,
    is_broken: bool,
    /// The files that were read last.
    read: [Stamp; 2],
}

impl Disk {
    /// Makes the directory, and removes what was left unfinished, unless another process writes there.
    pub(super) fn open(state: Arc<StateDir>) -> Result<Self, String> {
        let directory = state.path().join(DIRECTORY);
        if let Some(_writing) = state.writing() {
            fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
            for name in ["base.new", "log.new"] {
                let _ = fs::remove_file(directory.join(name));
            }
        }
        Ok(Self(Arc::new(Inner {
            state,
            directory,
            written: Mutex::new(Written {
                place: None,
                seq: 0,
                at: Instant::now(),
                is_broken: false,
                read: [None; 2],
            }),
            is_writing: AtomicBool::new(false),
        })))
    }

    /// Takes up what is there. What is damaged is left aside and fetched again.
    pub(super) fn load(&self, store: &KeyStore, environment: &str) {
        let read = |name: &str| match fs::read(self.0.directory.join(name)) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                log::error!("{}: {error}", self.0.directory.join(name).display());
                None
            }
        };
        let (stamps, base, log) = {
            let _quiet = self.0.locked(File::lock_shared);
            (self.0.stamps(), read("base"), read("log"))
        };
        self.0.written.lock().unwrap_or_else(PoisonError::into_inner).read = stamps;
        let Some(base) = base else { return };
        match store.restore(environment, &base, log.as_deref()) {
            Ok(()) => {
                let saved = store.save(environment);
                let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
                (written.place, written.seq) = (Some(saved.place().clone()), saved.seq());
                log::info!(
                    "keys: {} of them on disk, up to record {}",
                    store.size().keys,
                    saved.seq()
                );
            }
            Err(error) => {
                self.0.written.lock().unwrap_or_else(PoisonError::into_inner).place = None;
                log::warn!(
                    "{}: {error}; the keys are fetched again",
                    self.0.directory.join("base").display()
                );
            }
        }
    }

    /// Takes up what the process before has written since this one has read. To be called before anybody follows the log.
    pub(super) fn load_again(&self, store: &KeyStore, environment: &str) {
        let read = self.0.written.lock().unwrap_or_else(PoisonError::into_inner).read;
        if read != self.0.stamps() {
            self.load(store, environment);
        }
    }

    /// Writes in the background, if enough has happened.
    pub(super) fn save_if_due(&self, store: &Arc<KeyStore>, environment: &str) {
        let is_due = {
            // Locked while somebody writes, which takes long.
            let Ok(written) = self.0.written.try_lock() else { return };
            let behind = store.seq().saturating_sub(written.seq);
            let is_other = written.place.as_ref().is_none_or(|place| !store.is_at(place));
            let is_late = written.at.elapsed() > EVERY;
            // A disk that does not take it is not tried with every record.
            store.is_ready()
                && ((is_other || behind >= RECORDS) && !written.is_broken || is_late && (is_other || behind > 0))
        };
        if is_due && !self.0.is_writing.swap(true, Ordering::AcqRel) {
            let (inner, store, environment) = (Arc::clone(&self.0), Arc::clone(store), environment.to_owned());
            tokio::task::spawn_blocking(move || {
                inner.save(&store, &environment);
                inner.is_writing.store(false, Ordering::Release);
            });
        }
    }

    /// Writes what is not written yet, beside the thread that asks. A disk that does not take it is left to
    /// [`Self::save_if_due`].
    pub(super) async fn save_soon(&self, store: &Arc<KeyStore>, environment: &str) {
        let (inner, store, environment) = (Arc::clone(&self.0), Arc::clone(store), environment.to_owned());
        let written = tokio::task::spawn_blocking(move || {
            let is_broken = inner.written.lock().unwrap_or_else(PoisonError::into_inner).is_broken;
            if store.is_ready() && !is_broken {
                inner.save(&store, &environment);
            }
        });
        // A panic has been logged.
        let _ = written.await;
    }

    /// What is on disk is of another log, even if that is called the same. Blocks while somebody writes.
    pub(super) fn is_of_another_log(&self) {
        let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.place = None;
        let Some(_writing) = self.0.state.writing() else { return };
        let _alone = self.0.locked(File::lock);
        // It would seem to belong to the base that is written next.
        let _ = fs::remove_file(self.0.directory.join("log"));
    }

    /// Writes what is not written yet. Blocks.
    pub(super) fn save(&self, store: &KeyStore, environment: &str) {
        if store.is_ready() {
            self.0.save(store, environment);
        }
    }
}

impl Inner {
    fn save(&self, store: &KeyStore, environment: &str) {
        // After an upgrade the process before follows on, for who is still served by it, and writes nothing.
        let Some(_writing) = self.state.writing() else { return };
        // Also keeps two writers apart.
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = store.save(environment);
        let is_other = written.place.as_ref() != Some(saved.place());
        if !is_other && written.seq == saved.seq() {
            return;
        }
        match self.write(&saved, is_other) {
            Ok(()) => {
                (written.place, written.seq) = (Some(saved.place().clone()), saved.seq());
                written.is_broken = false;
            }
            Err(error) => {
                if !written.is_broken {
                    log::error!(
                        "{}: {error}; after a restart the keys are fetched again",
                        self.directory.display()
                    );
                }
                written.is_broken = true;
            }
        }
        written.at = Instant::now();
    }

    /// The base first: with a log of the one before, it counts alone.
    fn write(&self, saved: &Saved, base_too: bool) -> io::Result<()> {
        let _alone = self.locked(File::lock);
        if base_too {
            self.replace("base", |to| saved.write_base(to))?;
        }
        self.replace("log", |to| saved.write_log(to))
    }

    /// Both files are left alone by the other process until the file is dropped that this gives. On a file system without
    /// locks nobody comes here: the whole directory has one.
    fn locked(&self, how: impl FnOnce(&File) -> io::Result<()>) -> Option<File> {
        let path = self.directory.join("lock");
        let file = match self.state.is_written() {
            true => OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path),
            false => File::open(path),
        };
        let file = file.ok()?;
        how(&file).ok()?;
        Some(file)
    }

    fn stamps(&self) -> [Stamp; 2] {
        ["base", "log"].map(|name| {
            let about = fs::metadata(self.directory.join(name)).ok()?;
            Some((about.ino(), about.mtime(), about.mtime_nsec()))
        })
    }

    fn replace(&self, name: &str, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
        let fresh = self.directory.join(format!("{name}.new"));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        let mut file = BufWriter::with_capacity(1 << 16, file);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&fresh, self.directory.join(name))?;
        sync_directory(&self.directory)
    }
}
