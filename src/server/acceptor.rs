//! Accepts connections: a few tasks for each listening socket, behind a gate.
//!
//! The engine's own listening service was passed over: it accepts from its start to its end. For a handoff, accepting has
//! to begin late (when the process has proved that it serves), to pause (while the next process tries the same sockets),
//! and to go on if that one fails. While the gate is shut, connections wait in the kernel's queue, which belongs to the
//! socket and so to every process that has it.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::connection::Connections;
use crate::transport::Socket;

/// How long nobody is accepted after the system has refused to accept: it is out of files, for one.
const BREATH: Duration = Duration::from_millis(100);

/// Whether connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Shut,
    Open,
    /// For good: the sockets are closed.
    Gone,
}

/// Accepts for as long as its gate is open. A service of the engine, so that connections run on its threads.
pub struct Acceptor {
    connections: Arc<Connections>,
    sockets: Vec<TcpListener>,
    tasks_per_socket: usize,
    gate: watch::Receiver<Gate>,
    at_work: Arc<watch::Sender<usize>>,
    started: Mutex<Option<oneshot::Sender<Entrance>>>,
}

/// Opens and shuts the gate.
pub struct Gatekeeper {
    gate: watch::Sender<Gate>,
    at_work: watch::Receiver<usize>,
    entrance: Mutex<Option<oneshot::Receiver<Entrance>>>,
}

/// Lets single connections in past the gate.
#[derive(Clone)]
pub struct Entrance {
    connections: Arc<Connections>,
    runtime: Handle,
    shutdown: ShutdownWatch,
    at_work: Arc<watch::Sender<usize>>,
}

impl Acceptor {
    /// Accepts at these sockets once the gate is open. It is shut.
    #[must_use]
    pub fn new(
        connections: Arc<Connections>,
        sockets: Vec<TcpListener>,
        tasks_per_socket: usize,
    ) -> (Self, Gatekeeper) {
        let (gate, watched) = watch::channel(Gate::Shut);
        let (at_work, at_work_watched) = watch::channel(0);
        let (started, entrance) = oneshot::channel();
        let acceptor = Self {
            connections,
            sockets,
            tasks_per_socket: tasks_per_socket.max(1),
            gate: watched,
            at_work: Arc::new(at_work),
            started: Mutex::new(Some(started)),
        };
        let keeper = Gatekeeper {
            gate,
            at_work: at_work_watched,
            entrance: Mutex::new(Some(entrance)),
        };
        (acceptor, keeper)
    }
}

impl Gatekeeper {
    /// Waits until the service runs; then connections can be let in one by one. `None` when it never will, or when it was
    /// asked for before.
    pub fn entrance(&self) -> Option<Entrance> {
        let entrance = self.entrance.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        entrance.blocking_recv().ok()
    }

    /// From now on connections are accepted.
    pub fn open(&self) {
        self.gate.send_replace(Gate::Open);
    }

    /// From now on nobody is accepted. Returns when no task is in the middle of it, and whoever was accepted is counted
    /// among the connections.
    pub async fn shut(&self) {
        self.gate.send_replace(Gate::Shut);
        let mut at_work = self.at_work.clone();
        // Fails when the service is gone, which is as good.
        let _ = at_work.wait_for(|at_work| *at_work == 0).await;
    }

    /// Shuts it for good, and closes this process's sockets.
    pub fn close(&self) {
        self.gate.send_replace(Gate::Gone);
    }
}

impl Entrance {
    /// The threads that serve.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Serves a connection that was accepted elsewhere, or by somebody else.
    ///
    /// # Errors
    /// When it can not be used.
    pub fn admit(&self, stream: std::net::TcpStream) -> io::Result<()> {
        let peer = stream.peer_addr()?;
        stream.set_nonblocking(true)?;
        let _runtime = self.runtime.enter();
        self.begin(TcpStream::from_std(stream)?, peer);
        Ok(())
    }

    fn begin(&self, stream: TcpStream, peer: SocketAddr) {
        let (connections, shutdown) = (Arc::clone(&self.connections), self.shutdown.clone());
        let arriving = AtWork::begin(&self.at_work);
        self.runtime.spawn(async move {
            let mut served = pin!(connections.serve(Socket::new(stream, peer), &shutdown));
            // The first step takes the seat. Until then nothing else tells that somebody is here.
            let first = poll_fn(|context| Poll::Ready(served.as_mut().poll(context))).await;
            drop(arriving);
            if first.is_pending() {
                served.await;
            }
        });
    }
}

#[async_trait]
impl ServiceWithDependents for Acceptor {
    async fn start_service(
        &mut self,
        _engine_fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        let entrance = Entrance {
            connections: Arc::clone(&self.connections),
            runtime: Handle::current(),
            shutdown,
            at_work: Arc::clone(&self.at_work),
        };
        let mut tasks = JoinSet::new();
        for socket in self.sockets.drain(..) {
            let socket = match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => Arc::new(socket),
                Err(error) => {
                    // Every socket was listening before: the system is out of something, and half a gateway is none.
                    log::error!("a listening socket can not be waited for: {error}");
                    std::process::exit(1);
                }
            };
            for _ in 0..self.tasks_per_socket {
                tasks.spawn(accept(Arc::clone(&socket), entrance.clone(), self.gate.clone()));
            }
        }
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(started) = started {
            let _ = started.send(entrance);
        }
        ready.notify_ready();
        tasks.join_all().await;
        // The service ends with its runtime and not before: connections live on it.
        std::future::pending::<()>().await;
    }

    fn name(&self) -> &'static str {
        "gateway"
    }
}

/// Accepts at one socket while the gate is open.
async fn accept(socket: Arc<tokio::net::TcpListener>, entrance: Entrance, mut gate: watch::Receiver<Gate>) {
    loop {
        match gate.wait_for(|gate| *gate != Gate::Shut).await {
            Ok(gate) if *gate == Gate::Open => {}
            _ => return,
        }
        let _at_work = AtWork::begin(&entrance.at_work);
        // Looked at again after it is known that this task is at work: the gate may have been shut in between.
        if *gate.borrow_and_update() != Gate::Open {
            continue;
        }
        loop {
            tokio::select! {
                biased;
                _ = gate.changed() => break,
                accepted = socket.accept() => match accepted {
                    Ok((stream, peer)) => entrance.begin(stream, peer),
                    Err(error) => {
                        log::error!("a connection could not be accepted: {error}");
                        tokio::time::sleep(BREATH).await;
                    }
                },
            }
        }
    }
}

/// A task that may accept, or somebody who was accepted and is not counted yet; over when this is dropped.
struct AtWork(Arc<watch::Sender<usize>>);

impl AtWork {
    fn begin(at_work: &Arc<watch::Sender<usize>>) -> Self {
        at_work.send_modify(|at_work| *at_work += 1);
        Self(Arc::clone(at_work))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.send_modify(|at_work| *at_work = at_work.saturating_sub(1));
    }
}
