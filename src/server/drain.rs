//! Leaving: readiness says 503, answers say `Connection: close`, idle connections are let go, and the process ends as
//! soon as nothing is in flight, at the latest when the drain deadline has passed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;

use super::census::Census;
use crate::gateway::drain::{Drain, Leave};

/// How often the leaving process looks whether it is alone.
const LOOK: Duration = Duration::from_millis(20);

/// Turns signals into the end of the server, after the drain. The engine's own sequence is not used: it sleeps a fixed
/// time, and cuts idle connections at once.
pub struct Signals {
    leave: Arc<Leave>,
    drain: Drain,
    census: Arc<Census>,
    deadline: Duration,
    heard: Mutex<Heard>,
}

/// From when it is made on, none of these signals ends the process.
struct Heard {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    quit: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    /// Drains this long at most. Whoever else begins to leave does as much as a signal. Signals are heard from now on, by
    /// the runtime in whose context this is called: one that comes before the engine asks would otherwise end the process
    /// in the middle of its start.
    #[must_use]
    pub fn new((leave, drain): (Arc<Leave>, Drain), census: Arc<Census>, deadline: Duration) -> Self {
        Self {
            leave,
            drain,
            census,
            deadline,
            heard: Mutex::new(Heard {
                terminate: listen(SignalKind::terminate()),
                interrupt: listen(SignalKind::interrupt()),
                quit: listen(SignalKind::quit()),
                hangup: listen(SignalKind::hangup()),
            }),
        }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let mut heard = self.heard.lock().await;
        let Heard {
            terminate,
            interrupt,
            quit,
            hangup,
        } = &mut *heard;
        let ignored = async {
            loop {
                next(hangup).await;
                log::info!("SIGHUP: nothing to do, the revision and the log are watched");
            }
        };
        let mut drain = self.drain.clone();
        tokio::select! {
            () = ignored => {}
            () = drain.begun() => log::info!("leaving"),
            () = next(terminate) => log::info!("SIGTERM: leaving"),
            () = next(interrupt) => log::info!("interrupted: leaving"),
            () = next(quit) => log::info!("SIGQUIT: leaving"),
        }
        self.leave.begin();
        let alone = async {
            while self.census.open() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = alone => log::info!("nothing is in flight: the end"),
            () = tokio::time::sleep(self.deadline) => {
                log::warn!("{} connections are cut at the drain deadline", self.census.open());
            }
            () = next(terminate) => log::warn!("SIGTERM again: {} connections are cut", self.census.open()),
            () = next(interrupt) => log::warn!("interrupted again: {} connections are cut", self.census.open()),
        }
        ShutdownSignal::FastShutdown
    }
}

fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(|error| log::error!("signal handler: {error}"))
        .ok()
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
