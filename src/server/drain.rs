//! Leaving: readiness says 503, answers say `Connection: close`, idle connections are let go, and the process ends as
//! soon as nothing is in flight, at the latest when the drain deadline has passed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, watch};

use super::acceptor::Gatekeeper;
use super::census::Census;
use super::systemd::Systemd;
use crate::config::Timeouts;
use crate::gateway::drain::{Drain, Leave};

/// How often the leaving process looks whether it is alone.
const LOOK: Duration = Duration::from_millis(20);

/// How long streams may go on when another process has taken over, if the configuration does not say it. Nobody waits for
/// them, and most clients of streams connect again sooner.
const STREAMS_WHEN_FOLLOWED: Duration = Duration::from_secs(10 * 60);

/// How often the service manager is told that more time is needed, and how much.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTENSION: Duration = Duration::from_secs(20);

/// Turns signals into the end of the server, after the drain. The engine's own sequence is not used: it sleeps a fixed
/// time, and cuts idle connections at once.
pub struct Signals {
    leave: Arc<Leave>,
    drain: Drain,
    keeper: Arc<Gatekeeper>,
    census: Arc<Census>,
    timeouts: Timeouts,
    systemd: Systemd,
    /// True while the process before this one is still there, which must not outlive the service.
    before: watch::Receiver<bool>,
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
    /// Whoever else wants the process to stop does as much as a signal. Signals are heard from now on, by the runtime in
    /// whose context this is called: one that comes before the engine asks would otherwise end the process in the middle
    /// of its start.
    #[must_use]
    pub fn new(
        (leave, drain): (Arc<Leave>, Drain),
        (keeper, census): (Arc<Gatekeeper>, Arc<Census>),
        timeouts: Timeouts,
        systemd: Systemd,
        before: watch::Receiver<bool>,
    ) -> Self {
        Self {
            leave,
            drain,
            keeper,
            census,
            timeouts,
            systemd,
            before,
            heard: Mutex::new(Heard {
                terminate: listen(SignalKind::terminate()),
                interrupt: listen(SignalKind::interrupt()),
                quit: listen(SignalKind::quit()),
                hangup: listen(SignalKind::hangup()),
            }),
        }
    }

    /// Waits until nothing is in flight, or for as long as what is may take.
    async fn alone(&self) {
        let begun = Instant::now();
        let (requests, streams) = self.deadlines();
        let mut before = self.before.clone();
        // A process that is followed accepts nobody any more.
        let mut accepting = !self.drain.is_followed();
        loop {
            let elapsed = begun.elapsed();
            let open = self.census.open();
            if open == 0 && accepting {
                // Whoever came until now is still served. Who comes later waits in the socket, which others may have too:
                // accepted in the moment before the end, he would be lost.
                accepting = false;
                self.keeper.shut().await;
                continue;
            }
            if open == 0 {
                break log::info!("nothing is in flight: the end");
            }
            if elapsed >= requests && (self.drain.streams() == 0 || elapsed >= streams) {
                return log::warn!("{open} connections are cut at the drain deadline");
            }
            tokio::time::sleep(LOOK).await;
        }
        if self.drain.is_followed() {
            return;
        }
        // The service manager ends what is left of a service when its main process ends.
        let left = requests.max(streams).saturating_sub(begun.elapsed());
        let _ = tokio::time::timeout(left, before.wait_for(|before| !before)).await;
    }

    /// Asks the service manager for time, for as long as this process, which is the service, takes to leave.
    async fn ask_for_time(&self) {
        loop {
            tokio::time::sleep(EXTEND_EVERY).await;
            if !self.drain.is_followed() {
                self.systemd.extend(EXTENSION);
                let open = self.census.open();
                self.systemd
                    .status(&format!("stopping: {open} connections are still open"));
            }
        }
    }

    /// How long requests and streams may go on.
    fn deadlines(&self) -> (Duration, Duration) {
        let requests = self.timeouts.drain;
        let streams = match self.timeouts.drain_streams {
            Some(streams) => streams,
            None if self.drain.is_followed() => STREAMS_WHEN_FOLLOWED,
            None => requests,
        };
        (requests, streams)
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
            () = drain.begun() => {}
            () = self.drain.asked() => log::info!("asked to leave"),
            () = next(terminate) => log::info!("SIGTERM: leaving"),
            () = next(interrupt) => log::info!("interrupted: leaving"),
            () = next(quit) => log::info!("SIGQUIT: leaving"),
        }
        let leaving = async {
            if !self.drain.is_followed() {
                self.leave.announce();
                self.systemd.stopping("stopping");
                if !self.timeouts.announce.is_zero() {
                    log::info!(
                        "not ready any more; clients are served for another {:?}",
                        self.timeouts.announce
                    );
                    tokio::time::sleep(self.timeouts.announce).await;
                }
            }
            self.leave.begin();
            self.alone().await;
        };
        tokio::select! {
            () = leaving => {}
            () = self.ask_for_time() => {}
            () = next(terminate) => log::warn!("SIGTERM again: {} connections are cut", self.census.open()),
            () = next(interrupt) => log::warn!("interrupted again: {} connections are cut", self.census.open()),
        }
        self.leave.begin();
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
