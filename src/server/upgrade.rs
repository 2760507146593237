//! Hands a running service over to a new process, without a lost request, and so that nothing is lost when it fails.
//!
//! ```text
//! operator            old process                          new process
//!    │ upgrade ──────────▶ │ starts the program ──────────────▶ │ configuration
//!    │                     │ ◀───────────────────────── hello ── │
//!    │                     │ ── listening sockets, state lock ─▶ │ revision, upstreams, limits
//!    │                     │ ── what was learnt ───────────────▶ │
//!    │                     │ ◀──────────────────────── loaded ── │
//!    │                     │ stops accepting                     │
//!    │                     │ ── what changed since · probe ────▶ │ tries every socket
//!    │                     │ ◀─────────────────────── serving ── │
//!    │                     │ tells the service manager           │
//!    │                     │ ── go ────────────────────────────▶ │ accepts, READY=1
//!    │                     │ ◀───────────────────── listening ── │ can be followed
//!    │ ◀── done ────────── │ drains                              │
//! ```
//!
//! Up to `go` the new process can be broken, hang or be killed: the old one ends it, accepts again, and says why. While
//! nobody accepts, which is a few milliseconds long, clients wait in the kernel's queue. A client's connection that the
//! new process accepts on the way to its probe's goes back to the old one at once.
//!
//! The engine's own handoff was passed over: the old process leaves after a fixed time whether there is a new one or not.

mod ancestors;
pub mod bequest;
pub mod channel;
mod offspring;
pub mod operator;
pub mod predecessor;
mod probe;
pub mod successor;
pub mod warm;

use std::path::{Path, PathBuf};

pub use ancestors::Ancestors;
pub use predecessor::Predecessor;
pub use successor::Successor;

/// Where a process that was started to take over finds the one before.
pub const SOCKET_VARIABLE: &str = "TOLLGATE_UPGRADE_SOCKET";

/// Where the packaged unit has its socket.
pub const PACKAGED_SOCKET: &str = "/run/tollgate/upgrade.sock";

/// How this process was started, to start its successor in the same way.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<std::ffi::OsString>,
}

impl Program {
    /// This process's own. Looked at when it starts: later the file may be another one, which is what an upgrade is about,
    /// or gone.
    ///
    /// # Errors
    /// When it can not be found.
    pub fn of_process() -> std::io::Result<Self> {
        let mut arguments = std::env::args_os();
        let called = arguments.next().map(PathBuf::from).unwrap_or_default();
        // As it was called, not as it is after links were followed: a link may lead to another version by then.
        let path = if called.components().count() > 1 {
            std::path::absolute(called)?
        } else {
            std::env::current_exe()?
        };
        Ok(Self {
            path,
            arguments: arguments.collect(),
        })
    }

    /// Another program, called in the same way.
    #[must_use]
    pub fn or(&self, other: Option<&Path>) -> Self {
        Self {
            path: other.unwrap_or(&self.path).to_owned(),
            arguments: self.arguments.clone(),
        }
    }
}
