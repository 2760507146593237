//! Keys on disk, so that a gateway that is started again knows them before it asks anybody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::KeyStore;
use crate::auth::key_store::{Place, Saved};
use crate::sync::state_dir::sync_directory;

/// So many records, or this time, and what is on disk is written anew.
const RECORDS: u64 = 10_000;
const EVERY: Duration = Duration::from_secs(180);

/// Where keys are kept: `base` and `log`.
#[derive(Clone)]
pub(super) struct Disk(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    written: Mutex<Written>,
    is_writing: AtomicBool,
}

/// What is on disk.
struct Written {
    place: Option<Place>,
    seq: u64,
    at: Instant,
    is_broken: bool,
}

impl Disk {
    /// Makes the directory, and removes what was left unfinished.
    pub(super) fn open(directory: &Path) -> Result<Self, String> {
        fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        for name in ["base.new", "log.new"] {
            let _ = fs::remove_file(directory.join(name));
        }
        Ok(Self(Arc::new(Inner {
            directory: directory.to_owned(),
            written: Mutex::new(Written {
                place: None,
                seq: 0,
                at: Instant::now(),
                is_broken: false,
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
        let Some(base) = read("base") else { return };
        match store.restore(environment, &base, read("log").as_deref()) {
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
            Err(error) => log::warn!(
                "{}: {error}; the keys are fetched again",
                self.0.directory.join("base").display()
            ),
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
        if base_too {
            self.replace("base", |to| saved.write_base(to))?;
        }
        self.replace("log", |to| saved.write_log(to))
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
