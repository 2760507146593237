//! Listening sockets: there before anything else starts, so that a port that is taken is an error at the start and not a
//! process that lives without listening. They are bound here, or come from the process before, or from the service manager.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::systemd::Systemd;

/// Connections that may wait to be accepted; the kernel takes less when `net.core.somaxconn` says so.
const BACKLOG: i32 = 65_535;

/// What a socket in the service manager's care is called.
const NAME: &str = "tollgate";

/// A listening socket.
pub struct Listening {
    /// As the configuration says; the port may be 0.
    pub wanted: SocketAddr,
    /// Where it is.
    pub actual: SocketAddr,
    /// The socket.
    pub socket: TcpListener,
}

/// Sockets that were there before this process.
#[derive(Default)]
pub struct Inheritance {
    sockets: Vec<Inherited>,
}

struct Inherited {
    wanted: SocketAddr,
    /// As the service manager calls it; none for those of the process before.
    name: Option<String>,
    socket: TcpListener,
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

impl Listening {
    /// The same socket once more, for who accepts on it.
    ///
    /// # Errors
    /// When this process is out of files.
    pub fn share(&self) -> Result<TcpListener, BindError> {
        self.socket.try_clone().map_err(|error| BindError {
            address: self.actual,
            error,
        })
    }
}

/// Asks the service manager to keep these sockets beyond an unexpected end of this process, and no others: the process
/// before may have had listeners that are not configured any more.
pub fn keep(sockets: &[Listening], systemd: Systemd) {
    systemd.forget(NAME);
    for listening in sockets {
        systemd.keep(NAME, listening.socket.as_fd());
    }
}

impl Inheritance {
    /// What the service manager listens on for this process, and what it kept of one that ended.
    #[must_use]
    pub fn of_service_manager(systemd: Systemd) -> Self {
        let mut sockets: Vec<Inherited> = Vec::new();
        for kept in systemd.sockets() {
            let Ok(wanted) = kept.socket.local_addr() else {
                continue;
            };
            // A unit for sockets and the store may both have it: one is enough, and they are the same socket.
            if sockets.iter().all(|other| other.wanted != wanted) {
                sockets.push(Inherited {
                    wanted,
                    name: Some(kept.name),
                    socket: kept.socket,
                });
            }
        }
        Self { sockets }
    }

    /// Takes in a socket of the process before, which its configuration wanted at this address.
    pub fn add(&mut self, wanted: SocketAddr, socket: TcpListener) {
        self.sockets.push(Inherited {
            wanted,
            name: None,
            socket,
        });
    }

    /// The socket for this address: inherited, or bound now. A port of 0 is any that is free.
    ///
    /// # Errors
    /// When there is none, and it can not be bound.
    pub fn listen(&mut self, wanted: SocketAddr) -> Result<Listening, BindError> {
        let position = self.sockets.iter().position(|inherited| inherited.wanted == wanted);
        let socket = match position.map(|position| self.sockets.remove(position)) {
            Some(inherited) => inherited.socket,
            None => bind(wanted)?,
        };
        let used = |error| BindError { address: wanted, error };
        socket.set_nonblocking(true).map_err(used)?;
        let actual = socket.local_addr().map_err(used)?;
        Ok(Listening { wanted, actual, socket })
    }

    /// Closes what nobody wanted.
    pub fn close_rest(self, systemd: Systemd) {
        for rest in self.sockets {
            log::warn!(
                "{}: no listener is configured there any more; it is closed",
                rest.wanted
            );
            if let Some(name) = rest.name {
                // All of this name; those that are used are given back when the process serves.
                systemd.forget(&name);
            }
        }
    }
}

/// Binds one socket and listens.
fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
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

/// Raises the number of files this process may open to what the kernel lets it: every client and every upstream
/// connection is one.
pub fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => log::debug!("{limit} files may be open"),
        Err(error) => log::warn!("the limit of open files could not be raised: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn what_is_inherited_is_used_and_only_the_rest_is_bound() {
        let mut inheritance = Inheritance::default();
        let (first, second) = (bind(any_port()).unwrap(), bind(any_port()).unwrap());
        let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
        // The process before had two listeners at any port; this one has three.
        inheritance.add(any_port(), first);
        inheritance.add(any_port(), second);
        let listening: Vec<_> = (0..3).map(|_| inheritance.listen(any_port()).unwrap().actual).collect();
        assert_eq!(listening[..2], addresses);
        assert!(!addresses.contains(&listening[2]));
    }

    #[test]
    fn a_socket_that_nobody_wants_is_closed() {
        let socket = bind(any_port()).unwrap();
        let address = socket.local_addr().unwrap();
        let mut inheritance = Inheritance::default();
        inheritance.add(address, socket);
        assert!(bind(address).is_err(), "it is still there");
        inheritance.close_rest(Systemd::of_environment());
        bind(address).unwrap();
    }
}
