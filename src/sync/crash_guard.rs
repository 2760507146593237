//! Against a revision that takes the process down: after two unclean ends within a minute of its swap it is not taken
//! again. A gateway that starts, swaps, dies and starts again would otherwise do so for ever.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state_dir::StateDir;
use crate::distribution::ContentHash;

/// Who lives this long after a swap was not taken down by it.
pub const PROVEN: Duration = Duration::from_secs(60);

/// How many unclean ends in a row tell.
const ENDS: u32 = 2;

const FILE: &str = "crash-guard.json";

/// What is known of ends. Pure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashGuard {
    /// What was swapped in last and has not been proven.
    suspect: Option<ContentHash>,
    /// Whether a process with it is running.
    running: bool,
    /// Unclean ends with it so far.
    unclean: u32,
    /// What is not taken again.
    refused: Option<ContentHash>,
}

impl CrashGuard {
    /// A process begins. If the one before it did not end cleanly, that counts against what it ran.
    pub fn start(&mut self) {
        if !std::mem::take(&mut self.running) {
            return;
        }
        self.unclean += 1;
        if self.unclean >= ENDS {
            self.refused = self.suspect.take();
            self.unclean = 0;
        }
    }

    /// This root is about to be swapped in.
    pub fn swap(&mut self, root: ContentHash) {
        if self.suspect != Some(root) {
            self.suspect = Some(root);
            self.unclean = 0;
        }
        self.running = true;
    }

    /// It has lived long enough, or the process ends as it should.
    pub fn clear(&mut self) {
        self.suspect = None;
        self.running = false;
        self.unclean = 0;
    }

    /// The newest revision has this root: another one than the refused one ends the matter.
    pub fn newest_is(&mut self, root: ContentHash) {
        if self.refused.is_some_and(|refused| refused != root) {
            self.refused = None;
        }
    }

    /// Whether this root is not taken.
    #[must_use]
    pub fn refuses(&self, root: ContentHash) -> bool {
        self.refused == Some(root)
    }
}

/// The same, on disk.
pub struct Guard {
    state: Arc<StateDir>,
    guard: Mutex<CrashGuard>,
}

impl Guard {
    /// Reads what the process before has left, and starts. One that still runs has not ended, cleanly or not. What can
    /// not be read is no reason not to start.
    #[must_use]
    pub fn open(state: Arc<StateDir>) -> Self {
        let guard = Self {
            guard: Mutex::new(read(&state)),
            state,
        };
        if guard.state.is_written() {
            guard.change(CrashGuard::start);
        }
        guard
    }

    /// The process before has stopped writing, and this one goes on with what it wrote last. What was swapped in here
    /// meanwhile is what will have been running if this process ends.
    pub fn take_over(&self) {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = guard.suspect.filter(|_| guard.running);
        *guard = read(&self.state);
        if let Some(root) = runs {
            guard.swap(root);
        }
        self.write(&guard);
    }

    /// Whether this root is not taken.
    #[must_use]
    pub fn refuses(&self, root: ContentHash) -> bool {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).refuses(root)
    }

    /// Changes it, and writes it down. Blocks for the disk.
    pub fn change(&self, change: impl FnOnce(&mut CrashGuard)) {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *guard;
        change(&mut guard);
        if *guard == before {
            return;
        }
        self.write(&guard);
    }

    fn write(&self, guard: &CrashGuard) {
        let written = serde_json::to_string(guard)
            .map_err(std::io::Error::other)
            .and_then(|text| self.state.write(FILE, &text));
        if let Err(error) = written {
            log::error!("{}: {error}", self.state.path().join(FILE).display());
        }
    }
}

fn read(state: &StateDir) -> CrashGuard {
    let over = |error: &dyn std::fmt::Display| {
        log::warn!("{}: {error}; starting over", state.path().join(FILE).display());
        CrashGuard::default()
    };
    match state.read(FILE) {
        Ok(Some(text)) => serde_json::from_str(&text).unwrap_or_else(|error| over(&error)),
        Ok(None) => CrashGuard::default(),
        Err(error) => over(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: ContentHash = ContentHash([1; 32]);
    const Y: ContentHash = ContentHash([2; 32]);

    fn crash(guard: &mut CrashGuard, root: ContentHash) {
        guard.swap(root);
        guard.start();
    }

    #[test]
    fn two_unclean_ends_after_a_swap_refuse_the_root_until_another_one_is_published() {
        let mut guard = CrashGuard::default();
        crash(&mut guard, X);
        assert!(!guard.refuses(X));
        crash(&mut guard, X);
        assert!(guard.refuses(X) && !guard.refuses(Y));
        guard.newest_is(X);
        assert!(guard.refuses(X));
        // Meanwhile the one before serves, and that it ends uncleanly once is not held against anybody.
        crash(&mut guard, Y);
        assert!(guard.refuses(X) && !guard.refuses(Y));
        guard.newest_is(Y);
        assert!(!guard.refuses(X));
    }

    #[test]
    fn a_minute_of_life_a_clean_end_and_another_root_start_the_count_over() {
        let mut guard = CrashGuard::default();
        crash(&mut guard, X);
        guard.swap(X);
        guard.clear();
        guard.start();
        crash(&mut guard, X);
        assert!(!guard.refuses(X));
        crash(&mut guard, Y);
        crash(&mut guard, X);
        assert!(!guard.refuses(X) && !guard.refuses(Y));
    }

    #[test]
    fn an_upgrade_is_no_end_and_what_the_new_process_runs_is_what_counts_from_then_on() {
        let directory = tempfile::tempdir().unwrap();
        let before = Arc::new(StateDir::open(directory.path(), Duration::ZERO).unwrap());
        let old = Guard::open(Arc::clone(&before));
        old.change(|guard| guard.swap(X));
        let lock = || before.try_clone_lock().unwrap();
        for _ in 0..3 {
            // Handoffs that fail: each of these processes ends, and none of them has written anything.
            let state = Arc::new(StateDir::inherit(directory.path(), lock()).unwrap());
            let new = Guard::open(state);
            new.change(|guard| guard.swap(X));
            assert!(!new.refuses(X));
        }
        let state = Arc::new(StateDir::inherit(directory.path(), lock()).unwrap());
        let new = Guard::open(Arc::clone(&state));
        new.change(|guard| guard.swap(X));
        // Published while the new process was getting ready.
        old.change(|guard| guard.swap(Y));
        assert!(before.give_up(Duration::from_secs(30)));
        state.take();
        new.take_over();
        old.change(CrashGuard::clear);
        assert!(!Guard::open(Arc::clone(&state)).refuses(X), "one unclean end");
        new.change(|guard| guard.swap(X));
        assert!(!Guard::open(Arc::clone(&state)).refuses(Y), "which was of X");
    }

    #[test]
    fn the_count_survives_the_process_and_a_damaged_file_does_not_stop_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::open(directory.path(), Duration::ZERO).unwrap());
        for _ in 0..2 {
            let guard = Guard::open(Arc::clone(&state));
            assert!(!guard.refuses(X));
            guard.change(|guard| guard.swap(X));
        }
        assert!(Guard::open(Arc::clone(&state)).refuses(X));
        assert!(Guard::open(Arc::clone(&state)).refuses(X));
        state.write(FILE, "{").unwrap();
        assert!(!Guard::open(state).refuses(X));
    }
}
