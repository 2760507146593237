//! Where revisions come from, and how one becomes the running snapshot.
//!
//! `load → compile → swap`, all off the request threads. Whatever goes wrong changes nothing: the last good revision
//! serves on, and why the new one was refused is logged, counted and shown by `/status/ready`.

pub mod client;
pub mod file;
pub mod keys;
pub mod state_dir;
pub mod trust;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use serde::Serialize;

use crate::document::Environment;
use crate::revision;
use crate::snapshot::{Compiler, Snapshot};
use crate::telemetry::Metrics;

/// The running snapshot and how it came to be. One per process.
pub struct Revisions {
    current: ArcSwapOption<Snapshot>,
    compiler: Compiler,
    metrics: Arc<Metrics>,
    status: Mutex<Status>,
    /// Replaced snapshots, kept until no request holds them, so that no request thread frees a large table.
    replaced: Mutex<Vec<Arc<Snapshot>>>,
}

/// What operators see of revisions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// SHA-256 of the applied revision.
    pub digest: Option<String>,
    /// Unix milliseconds of its application.
    pub applied_at_ms: Option<u64>,
    /// Routes in it.
    pub routes: usize,
    /// Keys in it.
    pub keys: usize,
    /// Why the newest revision was refused; absent when the newest one is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// A revision that was not applied.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// `invalid` or `panicked`: the label of the metric.
    pub reason: &'static str,
    /// Every mistake with its place.
    pub mistakes: Vec<String>,
}

impl Revisions {
    /// Nothing applied yet.
    #[must_use]
    pub fn new(compiler: Compiler, metrics: Arc<Metrics>) -> Self {
        Self {
            current: ArcSwapOption::empty(),
            compiler,
            metrics,
            status: Mutex::default(),
            replaced: Mutex::default(),
        }
    }

    /// The running snapshot, to be pinned by a request.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.current.load_full()
    }

    /// What operators see.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads a revision file and applies it. Blocks: not for a request thread.
    ///
    /// # Errors
    /// The mistakes, when it is refused; the last good revision then still runs.
    pub fn apply_file(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        self.try_file(path, now_ms).inspect_err(|refused| self.note(refused))
    }

    /// The first file of a process: whoever starts it tells the mistakes.
    ///
    /// # Errors
    /// As for [`Self::apply_file`].
    pub fn apply_first(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        self.try_file(path, now_ms)
    }

    /// The same for a file that was refused and did not change: what has been reported is not reported again.
    ///
    /// # Errors
    /// As for [`Self::apply_file`].
    pub fn apply_file_again(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        self.try_file(path, now_ms).inspect_err(|refused| {
            let known = self
                .status()
                .refused
                .is_some_and(|before| before.mistakes == refused.mistakes);
            if !known {
                self.note(refused);
            }
        })
    }

    /// Logs, counts and shows a refusal.
    fn note(&self, refused: &Refused) {
        for mistake in &refused.mistakes {
            log::error!("revision refused: {mistake}");
        }
        self.metrics.revision_refused(refused.reason);
        self.status.lock().unwrap_or_else(PoisonError::into_inner).refused = Some(refused.clone());
    }

    fn try_file(&self, path: &Path, now_ms: u64) -> Result<(), Refused> {
        // A fault of ours in a compiler must not take down a gateway that serves.
        let built = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let loaded = revision::load(path, &Environment::of_process())?;
            self.compiler.compile(loaded)
        }));
        match built {
            Ok(Ok((snapshot, warnings))) => {
                for warning in &warnings {
                    log::warn!("{warning}");
                }
                self.swap(snapshot, now_ms);
                Ok(())
            }
            Ok(Err(mistakes)) => {
                let mistakes = mistakes.iter().map(ToString::to_string).collect();
                Err(Refused {
                    at_ms: now_ms,
                    reason: "invalid",
                    mistakes,
                })
            }
            Err(_) => {
                let mistakes = vec![format!(
                    "{}: the compiler panicked; this is a bug of tollgate",
                    path.display()
                )];
                Err(Refused {
                    at_ms: now_ms,
                    reason: "panicked",
                    mistakes,
                })
            }
        }
    }

    /// Frees replaced snapshots that no request holds any more. Called now and then from a background thread.
    pub fn bury(&self) {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    fn swap(&self, snapshot: Snapshot, now_ms: u64) {
        let fresh = Status {
            digest: Some(snapshot.digest().to_owned()),
            applied_at_ms: Some(now_ms),
            routes: snapshot.route_count(),
            keys: snapshot.key_count(),
            refused: None,
        };
        log::info!(
            "revision {} applied: {} routes, {} keys",
            snapshot.short_digest(),
            fresh.routes,
            fresh.keys
        );
        self.metrics.revision_applied(snapshot.digest(), now_ms);
        let old = self.current.swap(Some(Arc::new(snapshot)));
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        if let Some(old) = old {
            self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        }
        self.bury();
    }
}
