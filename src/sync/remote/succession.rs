//! An upgrade: two processes of one gateway, with one identity, one seat and one state directory.
//!
//! The old process lends its lock ([`Remote::lend`]), and goes on as if nothing was. The new one reads what is on disk,
//! writes nothing and asks nobody; so one that fails leaves no trace. When the new one is ready, the old one stops
//! whatever writes and whatever speaks for the gateway ([`Remote::hand_over`]), and only then the new one begins with both
//! ([`Remote::start`]). The control plane sees a gateway that registers again: the seat is its own, and the pool may be
//! full, or the control plane away.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::Remote;
use crate::config::Gateway;
use crate::sync::seat::Standing;
use crate::sync::state_dir::StateDir;
use crate::throttle::{Shared, Throttle};

/// How long a handover waits for what is being written just now.
const QUIET: Duration = Duration::from_secs(2);

const FILE: &str = "predecessor.json";

/// How a process begins.
#[derive(Debug)]
pub enum Origin {
    /// By itself.
    Fresh,
    /// As the successor of one that still serves, with the lock of its state directory ([`Remote::lend`]).
    Successor(OwnedFd),
}

/// What the old process tells the new one beside what is on disk anyway.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Predecessor {
    pool: String,
    environment: String,
    /// A seat that is not needed, or was never there, is nowhere on disk.
    pub(super) standing: Standing,
    /// How many gateways share the limits, as the control plane said last; it may be away now.
    #[serde(default)]
    pub(super) instances: Option<u32>,
}

impl Predecessor {
    /// Who lent the lock of this directory.
    ///
    /// # Errors
    /// When it is another gateway than the configuration says: a seat is of one pool, and what is on disk of one
    /// environment.
    pub(super) fn of(state: &StateDir, gateway: &Gateway) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", state.path().join(FILE).display());
        let text = state.read(FILE).map_err(|error| told(&error))?;
        let text = text.ok_or_else(|| told(&"the running gateway has left nothing here"))?;
        let before: Self = serde_json::from_str(&text).map_err(|error| told(&error))?;
        for (what, was, is) in [
            ("pool", &before.pool, &gateway.pool),
            ("environment", &before.environment, &gateway.environment),
        ] {
            if was != is {
                return Err(format!(
                    "gateway.{what} is \"{is}\" now, and the running gateway has its seat with \"{was}\": an upgrade keeps \
                     the seat; restart to change it"
                ));
            }
        }
        Ok(before)
    }
}

impl Remote {
    /// Lends the lock of the state directory to a process that is to come after this one, for [`Origin::Successor`], with
    /// everything on disk that it needs. Nothing changes for this one, whatever becomes of the other; if it comes to
    /// nothing, that is all. Blocks for the disk.
    ///
    /// # Errors
    /// When the disk does not take it; the text names the file.
    pub fn lend(&self) -> Result<OwnedFd, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.state.path().join(FILE).display());
        let predecessor = Predecessor {
            pool: self.seats.pool().to_owned(),
            environment: self.expected.environment.clone(),
            standing: *self.seats.standing().borrow(),
            instances: (self.company.get())
                .and_then(|company| company.throttle.sharing())
                .map(Shared::instances),
        };
        let text = serde_json::to_string(&predecessor).map_err(|error| told(&error))?;
        self.state.write(FILE, &text).map_err(|error| told(&error))?;
        self.keys.save();
        self.state.try_clone_lock().map_err(|error| told(&error))
    }

    /// Stops what writes the state directory and what speaks for this gateway, and waits until it has; two seconds at
    /// most. From then on [`Self::end`] leaves everything to the other process. The control plane is not told that anybody
    /// leaves: nobody does.
    ///
    /// Who follows the key log goes on, and only reads: requests that are still served here may bring keys that are
    /// revoked now, or that have to be asked for.
    ///
    /// # Errors
    /// When the disk takes too long; then this process goes on as before.
    pub async fn hand_over(&self) -> Result<(), String> {
        let until = Instant::now() + QUIET;
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner).take();
        for task in loops
            .into_iter()
            .flat_map(|loops| loops.pull.into_iter().chain([loops.beats]))
        {
            task.abort();
            // It ends where it waits next, and waits for something soon: what takes time is on other threads.
            let _ = timeout_at(until, task).await;
        }
        let (keys, state) = (Arc::clone(&self.keys), Arc::clone(&self.state));
        let saved = timeout_at(until, tokio::task::spawn_blocking(move || keys.save())).await;
        let is_quiet = match saved {
            Ok(Ok(())) => {
                let patience = until.saturating_duration_since(Instant::now());
                let given = tokio::task::spawn_blocking(move || state.give_up(patience)).await;
                given.unwrap_or(false)
            }
            _ => false,
        };
        if is_quiet {
            self.handed_over.store(true, Ordering::Release);
            return Ok(());
        }
        self.go_on();
        Err(format!(
            "state_dir {}: something is being written there for longer than {} s",
            self.state.path().display(),
            QUIET.as_secs()
        ))
    }

    /// If the other process does not take over after all: everything goes on here. Nothing before [`Self::hand_over`].
    pub fn take_back(&self) {
        if self.handed_over.swap(false, Ordering::AcqRel) {
            self.go_on();
        }
    }

    fn go_on(&self) {
        self.state.take();
        if let Some(company) = self.company.get() {
            self.start_loops(company, false);
        }
    }

    /// The process before this one has handed over: what it wrote since this one has read counts, and this one writes now.
    pub(super) fn take_over(&self, before: &Predecessor, throttle: &Throttle) {
        if let (Some(shared), Some(instances)) = (throttle.sharing(), before.instances) {
            shared.set_instances(instances);
        }
        self.state.take();
        self.seats.read_again();
        self.guard.take_over();
    }
}
