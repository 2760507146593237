//! What the service manager is told, and what it keeps for us (sd_notify(3), sd_listen_fds(3)).
//!
//! Nothing happens where there is no service manager. What can not be told is logged and is never a reason to stop: the
//! supervisor has its own deadlines for a service that says nothing.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

/// How long it may take until it has read what it was told.
const HEARD: Duration = Duration::from_secs(2);

/// The most names that are looked at; a unit has `FileDescriptorStoreMax=` of them.
const NAMES_MAX: usize = 1024;

/// The service manager, if there is one.
#[derive(Debug, Clone, Copy)]
pub struct Systemd {
    watchdog: Option<Duration>,
}

/// A listening socket that it kept for us, or listens on for us.
pub struct Kept {
    /// As it is called there.
    pub name: String,
    /// The socket.
    pub socket: TcpListener,
}

impl Systemd {
    /// As the environment of this process says.
    #[must_use]
    pub fn of_environment() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled(),
        }
    }

    /// It serves.
    pub fn ready(self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// What people see in `systemctl status`.
    pub fn status(self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    /// It is about to end.
    pub fn stopping(self, status: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// It needs this much more time than the unit gives it.
    pub fn extend(self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }

    /// It is alive.
    pub fn alive(self) {
        tell(&[NotifyState::Watchdog]);
    }

    /// How often it wants to hear that; `None`: never.
    #[must_use]
    pub fn watchdog(self) -> Option<Duration> {
        self.watchdog
    }

    /// Another process is the service from now on. Returns when the service manager knows: this one may end then without
    /// being taken for the end of the service.
    ///
    /// # Errors
    /// When it can not be told. That it takes long to hear is none: it hears of everything in order, of this before the end
    /// of this process, and could not be told otherwise any more (`NotifyAccess=main`).
    pub fn main_pid(self, pid: u32) -> io::Result<()> {
        sd_notify::notify(&[NotifyState::MainPid(pid)])?;
        if let Err(error) = barrier() {
            log::warn!("{error}");
        }
        Ok(())
    }

    /// Gives it a socket to keep, for the case that this process does not end as it should: who is started next gets it back,
    /// and no client was refused meanwhile. One that it has already is not kept twice.
    pub fn keep(self, name: &str, socket: BorrowedFd<'_>) {
        let told = sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[socket]);
        if let Err(error) = told {
            log::warn!("the service manager does not keep the socket {name}: {error}");
        }
    }

    /// It need not keep the sockets of this name any more.
    pub fn forget(self, name: &str) {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }

    /// The sockets that it hands to this process. Only once; sockets that are no TCP listeners are closed.
    #[must_use]
    pub fn sockets(self) -> Vec<Kept> {
        // Read before the variables are taken away.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned).take(NAMES_MAX);
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..handed.len() {
            let name = names.next().unwrap_or_default();
            match handed.take_tcp_listener(index) {
                Ok(Some(socket)) => sockets.push(Kept { name, socket }),
                Ok(None) => {}
                Err(error) => {
                    log::warn!("the service manager handed over the socket \"{name}\", which can not be used: {error}");
                }
            }
        }
        sockets
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("the service manager could not be told {state:?}: {error}");
    }
}

/// Waits until everything that was told before has been read: the service manager closes what comes with this.
fn barrier() -> io::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(());
    }
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[write.as_fd()])?;
    drop(write);
    let mut closed = [PollFd::new(&read, PollFlags::HUP)];
    let patience = Timespec::try_from(HEARD).map_err(io::Error::other)?;
    match poll(&mut closed, Some(&patience))? {
        0 => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the service manager has not read what it was told",
        )),
        _ => Ok(()),
    }
}
