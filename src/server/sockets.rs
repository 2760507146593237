//! Listening sockets: bound before anything else starts, so that a port that is taken is an error at the start and not
//! a process that lives without listening.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;

use async_trait::async_trait;
use pingora::server::{Fds, ListenFds, ShutdownWatch};
use pingora::services::{ServiceReadyNotifier, ServiceWithDependents};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted; the kernel takes less when `net.core.somaxconn` says so.
const BACKLOG: i32 = 65_535;

/// Bound sockets of the proxy's listeners, and the table in which the engine looks for them.
pub struct Sockets {
    bound: Vec<(String, SocketAddr)>,
    fds: ListenFds,
}

/// A socket that could not be bound.
#[derive(Debug)]
pub struct BindError {
    address: SocketAddr,
    error: std::io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can not listen on {}: {}", self.address, self.error)?;
        match self.error.kind() {
            std::io::ErrorKind::AddrInUse => f.write_str("; another process does, or use --port-offset"),
            std::io::ErrorKind::PermissionDenied => {
                f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in the unit)")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

impl Sockets {
    /// Binds every address. A port of 0 is replaced by one that is free.
    ///
    /// # Errors
    /// The first address that can not be bound.
    pub fn bind(addresses: impl Iterator<Item = SocketAddr>) -> Result<Self, BindError> {
        let mut fds = Fds::new();
        let mut bound = Vec::new();
        for address in addresses {
            let listener = listen(address)?;
            let actual = listener.local_addr().map_err(|error| BindError { address, error })?;
            fds.add(actual.to_string(), listener.into_raw_fd());
            bound.push((actual.to_string(), actual));
        }
        Ok(Self {
            bound,
            fds: ListenFds::new(fds.into()),
        })
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.bound.iter().map(|(_, address)| *address)
    }

    /// The same, as the engine names them.
    pub fn names(&self) -> impl Iterator<Item = &str> + '_ {
        self.bound.iter().map(|(name, _)| name.as_str())
    }

    /// A service that finds its sockets here.
    #[must_use]
    pub fn give_to<S>(&self, service: S) -> WithSockets<S> {
        WithSockets {
            service,
            fds: ListenFds::clone(&self.fds),
        }
    }
}

/// Binds one socket and listens.
///
/// # Errors
/// When it can not be bound.
pub fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    bound().map_err(|error| BindError { address, error })
}

/// A listening service that takes its sockets from our table instead of the engine's, so that they can come from
/// anywhere: bound here, or inherited.
pub struct WithSockets<S> {
    service: S,
    fds: ListenFds,
}

#[async_trait]
impl<S: ServiceWithDependents> ServiceWithDependents for WithSockets<S> {
    async fn start_service(
        &mut self,
        _engine_fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        self.service
            .start_service(Some(ListenFds::clone(&self.fds)), shutdown, listeners_per_fd, ready)
            .await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        self.service.listen_addresses()
    }
}

/// Raises the number of files this process may open to what the kernel lets it: every client and every upstream
/// connection is one.
pub fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => log::debug!("{limit} files may be open"),
        Err(error) => log::warn!("the limit of open files could not be raised: {error}"),
    }
}
