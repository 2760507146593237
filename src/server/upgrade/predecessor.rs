//! The side of the process that serves: it listens for operators, starts its successor, and lets it in step by step.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use tokio::runtime::Handle;

use super::bequest::Bequest;
use super::channel::{Channel, Frame, Message, Role, VERSION};
use super::warm::{Estate, Exported};
use super::{Ancestors, Program, SOCKET_VARIABLE, offspring};
use crate::config;
use crate::gateway::drain::{Drain, Leave};
use crate::server::acceptor::{Entrance, Gatekeeper};
use crate::server::census::Census;
use crate::server::sockets::Listening;
use crate::server::systemd::Systemd;
use crate::sync::remote::Remote;

/// How often it is looked whether the successor is still there.
const LOOK: Duration = Duration::from_millis(50);

/// How long an operator may take to say what is wanted.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// How long the successor may probe: so long may clients have to wait at most.
const PROBE: Duration = Duration::from_secs(5);

/// How long it is waited for the status of a process that has hung up: nobody is accepted meanwhile.
const REAPED: Duration = Duration::from_millis(200);

/// How long a successor may take until operators find it.
const LISTENING: Duration = Duration::from_secs(2);

/// How often an operator who wants the process to leave is told how far it is.
const TELL: Duration = Duration::from_millis(500);

/// A process that can be followed by another.
pub struct Predecessor {
    /// How it is started.
    pub program: Program,
    /// Where operators find it, and how long its successor may take.
    pub settings: config::Upgrade,
    /// What it listens on, and what for.
    pub sockets: Vec<(Role, Listening)>,
    /// Lets clients in.
    pub keeper: Arc<Gatekeeper>,
    /// Lets single ones in.
    pub entrance: Entrance,
    /// Who is connected.
    pub census: Arc<Census>,
    /// Begins to leave.
    pub leave: Arc<Leave>,
    /// Whether it leaves.
    pub drain: Drain,
    /// The control plane, for which the two are one gateway.
    pub remote: Option<Arc<Remote>>,
    /// Who is told that another process is the service.
    pub systemd: Systemd,
    /// Where waiting is done.
    pub runtime: Handle,
    /// Those who were followed before and have not ended.
    pub ancestors: Arc<Ancestors>,
    /// What is handed on beside the sockets.
    pub estate: Arc<Estate>,
    /// What the successor is told from then on.
    pub bequest: Bequest,
}

/// The upgrade socket; gone when dropped, unless another process has taken its place.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Of the file, to tell it from one that took its place.
    inode: Option<u64>,
}

/// Why there is no successor.
struct Failure(String);

impl Socket {
    /// Makes it, in a directory that is this user's alone, where nobody finds it yet.
    ///
    /// # Errors
    /// When the directory is open to others, or can not be used.
    pub fn bind(path: &Path) -> io::Result<Self> {
        check_directory(path)?;
        // Under another name first: at every moment there is a socket that answers.
        let fresh = Self::fresh(path);
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh)?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::metadata(&fresh).ok().map(|about| about.ino());
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
        })
    }

    /// Lets operators find it. A socket that is there already is replaced, at one stroke: whoever it belonged to has been
    /// followed, or is gone.
    ///
    /// # Errors
    /// When it has vanished.
    pub fn publish(&self) -> io::Result<()> {
        std::fs::rename(Self::fresh(&self.path), &self.path)
    }

    fn fresh(path: &Path) -> PathBuf {
        path.with_extension(std::process::id().to_string())
    }

    /// Somebody who may be listened to.
    fn accept(&self, until: Instant) -> io::Result<Option<UnixStream>> {
        let mut readable = [PollFd::new(&self.listener, PollFlags::IN)];
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        if poll(&mut readable, Some(&left))? == 0 {
            return Ok(None);
        }
        let (stream, _) = match self.listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let peer = socket_peercred(&stream)?.uid;
        if peer.is_root() || peer == geteuid() {
            return Ok(Some(stream));
        }
        log::warn!("upgrade socket: user {} was turned away", peer.as_raw());
        Ok(None)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        for path in [Self::fresh(&self.path), self.path.clone()] {
            let there = std::fs::metadata(&path).ok().map(|about| about.ino());
            if there.is_some() && there == self.inode {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

impl Predecessor {
    /// Listens to operators on a thread of its own, until it is followed or the process ends.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn listen(self, socket: Socket) -> io::Result<()> {
        std::thread::Builder::new()
            .name("upgrade".to_owned())
            .spawn(move || self.run(socket))?;
        Ok(())
    }

    fn run(mut self, socket: Socket) {
        log::info!("upgrade socket {}", socket.path.display());
        let operator = loop {
            let stream = match socket.accept(Instant::now() + Duration::from_secs(3600)) {
                Ok(Some(stream)) => stream,
                Ok(None) => continue,
                Err(error) => {
                    log::error!("upgrade socket: {error}");
                    std::thread::sleep(LOOK);
                    continue;
                }
            };
            let Ok(channel) = Channel::new(stream) else {
                continue;
            };
            match channel.receive(Instant::now() + FIRST_WORD) {
                Ok(Some(Frame::Message(Message::Upgrade { program }, _))) => {
                    if self.upgrade(&socket, &channel, program.as_deref()) {
                        break channel;
                    }
                }
                Ok(Some(Frame::Message(Message::Drain, _))) => self.drain(channel),
                _ => {
                    let why = "this is not asked here".to_owned();
                    let _ = channel.say(&Message::Failed { why });
                }
            }
        };
        // It is the successor's place from now on.
        drop(socket);
        drop(operator);
        self.bequest.report(&self.estate);
    }

    /// Begins to leave, and says how it goes until the end of the process.
    fn drain(&self, operator: Channel) {
        self.leave.ask();
        let (census, drain) = (Arc::clone(&self.census), self.drain.clone());
        let tell = move || {
            loop {
                let text = match drain.is_begun() {
                    false => "not ready any more; clients are served until load balancers have noticed".to_owned(),
                    true => format!("leaving: {} connections are still open", census.open()),
                };
                if operator.say(&Message::Step { text }).is_err() {
                    return;
                }
                std::thread::sleep(TELL);
            }
        };
        let told = std::thread::Builder::new().name("leaving".to_owned()).spawn(tell);
        if let Err(error) = told {
            log::warn!("nobody is told how the process leaves: {error}");
        }
    }

    /// Starts a successor and hands over. False when that failed, and this process serves as before.
    fn upgrade(&mut self, socket: &Socket, operator: &Channel, program: Option<&Path>) -> bool {
        let program = self.program.or(program);
        let tell = |text: String| {
            log::info!("upgrade: {text}");
            // Who has gone away still wants it.
            let _ = operator.say(&Message::Step { text });
        };
        if self.drain.is_announced() {
            let why = "this process is leaving".to_owned();
            let _ = operator.say(&Message::Failed { why });
            return false;
        }
        tell(format!("starting {}", program.path.display()));
        let mut child = match start(&program, &socket.path) {
            Ok(child) => child,
            Err(error) => {
                let why = format!("{} can not be started: {error}", program.path.display());
                log::error!("upgrade: {why}; this process serves on");
                let _ = operator.say(&Message::Failed { why });
                return false;
            }
        };
        let mut ancestors = Vec::new();
        // Held until the successor has ended, if it fails: one that has proved that it serves takes the end of this connection
        // for the end of this process.
        let mut channel = None;
        match self.hand_over(socket, &mut child, &mut channel, &mut ancestors, &tell) {
            Ok((version, exported)) => {
                let pid = child.id();
                log::info!("process {pid} ({version}) serves from now on; this one drains");
                self.estate.make_way();
                if let Some(successor) = channel {
                    await_listening(&successor);
                    self.bequest.begin(exported, successor);
                }
                let _ = operator.say(&Message::Done { pid, version });
                offspring::mind(child);
                // Last: with nothing in flight this process ends at once.
                self.leave.hand_over();
                true
            }
            Err(Failure(why)) => {
                let _ = child.kill();
                let _ = child.wait();
                self.ancestors.take_back(ancestors);
                self.keeper.open();
                if let Some(remote) = &self.remote {
                    remote.take_back();
                }
                log::error!("upgrade: {why}; this process serves on");
                let _ = operator.say(&Message::Failed { why });
                false
            }
        }
    }

    /// Everything up to `go`.
    fn hand_over(
        &mut self,
        socket: &Socket,
        child: &mut Child,
        channel: &mut Option<Channel>,
        ancestors: &mut Vec<Channel>,
        tell: &dyn Fn(String),
    ) -> Result<(String, Option<Exported>), Failure> {
        let deadline = Instant::now() + self.settings.timeout;
        let channel = &*channel.insert(self.meet(socket, child, deadline)?);
        let version = match self.next(socket, channel, child, deadline)? {
            Frame::Message(Message::Hello { protocol, version }, _) if protocol == VERSION => version,
            Frame::Message(Message::Hello { protocol, version }, _) => {
                return Err(Failure(format!(
                    "version {version} hands over in another way ({protocol}, here it is {VERSION}): restart the service",
                )));
            }
            Frame::Message(Message::GiveUp { why }, _) => return Err(Failure(why)),
            _ => return Err(unexpected()),
        };
        tell(format!(
            "process {} of version {version} has its configuration",
            child.id()
        ));
        for (role, listening) in &self.sockets {
            let message = Message::Socket {
                role: *role,
                wanted: listening.wanted,
            };
            let given = channel.give(&message, listening.socket.as_fd());
            given.map_err(|error| lost(child, &error))?;
        }
        if let Some(remote) = &self.remote {
            let lock = remote.lend().map_err(Failure)?;
            let given = channel.give(&Message::StateLock, lock.as_fd());
            given.map_err(|error| lost(child, &error))?;
        }
        self.say(channel, child, &Message::End)?;
        let mut exported = None;
        loop {
            match self.next(socket, channel, child, deadline)? {
                Frame::Message(Message::WantState, _) => {
                    let told = self.estate.export(&mut |section| channel.section(&section));
                    exported = Some(told.map_err(|error| lost(child, &error))?);
                    self.say(channel, child, &Message::End)?;
                }
                Frame::Message(Message::Loaded, _) => break,
                Frame::Message(Message::GiveUp { why }, _) => return Err(Failure(why)),
                Frame::Message(Message::Unknown, _) => {}
                _ => return Err(unexpected()),
            }
        }
        tell("it is ready to serve; probing".to_owned());
        let shut = self
            .runtime
            .block_on(async { tokio::time::timeout(PROBE, self.keeper.shut()).await });
        shut.map_err(|_| Failure("the threads that accept did not stop in time".to_owned()))?;
        // As late as can be: until they are handed on for good, nobody listens to them.
        *ancestors = self.ancestors.lend();
        for ancestor in &*ancestors {
            let given = channel.give(&Message::Ancestor, ancestor.stream().as_fd());
            given.map_err(|error| lost(child, &error))?;
        }
        if let Some(exported) = &mut exported {
            let told = (self.estate).export_changes(exported, &mut |section| channel.section(&section));
            told.map_err(|error| lost(child, &error))?;
        }
        self.say(channel, child, &Message::Probe)?;
        let deadline = Instant::now() + PROBE;
        loop {
            match self.next(socket, channel, child, deadline)? {
                Frame::Message(Message::Stray, Some(connection)) => self.take_back(connection),
                Frame::Message(Message::Serving, _) => break,
                Frame::Message(Message::GiveUp { why }, _) => return Err(Failure(why)),
                Frame::Message(Message::Unknown, _) => {}
                _ => return Err(unexpected()),
            }
        }
        if let Some(remote) = &self.remote {
            self.runtime.block_on(remote.hand_over()).map_err(Failure)?;
        }
        self.check(child, deadline)?;
        (self.systemd.main_pid(child.id()))
            .map_err(|error| Failure(format!("the service manager could not be told: {error}")))?;
        if channel.say(&Message::Go).is_err() {
            // It has probed a moment ago, and is gone now. The service manager, which believes it to be the service, will
            // start another one: nobody feeds the watchdog in its name.
            return Err(gone(child));
        }
        self.keeper.close();
        self.sockets.clear();
        Ok((version, exported))
    }

    /// Waits for the successor's own connection. Others are told that an upgrade is under way.
    fn meet(&self, socket: &Socket, child: &mut Child, deadline: Instant) -> Result<Channel, Failure> {
        loop {
            self.check(child, deadline)?;
            let Ok(Some(stream)) = socket.accept(Instant::now() + LOOK) else {
                continue;
            };
            let is_child = socket_peercred(&stream)
                .is_ok_and(|peer| u32::try_from(peer.pid.as_raw_nonzero().get()) == Ok(child.id()));
            let Ok(channel) = Channel::new(stream) else {
                continue;
            };
            if is_child {
                return Ok(channel);
            }
            self.other(channel);
        }
    }

    /// Somebody else who wants something while an upgrade is under way. To leave is what may be wanted at any time: the
    /// upgrade is given up for it.
    fn other(&self, other: Channel) {
        if let Ok(Some(Frame::Message(Message::Drain, _))) = other.receive(Instant::now() + LOOK) {
            return self.drain(other);
        }
        let why = "an upgrade is under way".to_owned();
        let _ = other.say(&Message::Failed { why });
    }

    /// What the successor says next.
    fn next(&self, socket: &Socket, channel: &Channel, child: &mut Child, deadline: Instant) -> Result<Frame, Failure> {
        loop {
            match channel.receive(Instant::now() + LOOK) {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(lost(child, &error)),
            }
            self.check(child, deadline)?;
            if let Ok(Some(other)) = socket.accept(Instant::now())
                && let Ok(other) = Channel::new(other)
            {
                self.other(other);
            }
        }
    }

    /// That it lives, and has time left.
    fn check(&self, child: &mut Child, deadline: Instant) -> Result<(), Failure> {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(Failure(ended(child.id(), status)));
        }
        if self.drain.is_announced() {
            return Err(Failure("this process is leaving".to_owned()));
        }
        if Instant::now() > deadline {
            return Err(Failure(format!(
                "process {} was not ready in time (server.upgrade.timeout is {:?}, and {PROBE:?} for the probe)",
                child.id(),
                self.settings.timeout,
            )));
        }
        Ok(())
    }

    fn say(&self, channel: &Channel, child: &mut Child, message: &Message) -> Result<(), Failure> {
        channel.say(message).map_err(|error| lost(child, &error))
    }

    /// Serves a client that the successor has accepted.
    fn take_back(&self, connection: OwnedFd) {
        if let Err(error) = self.entrance.admit(TcpStream::from(connection)) {
            log::debug!("a connection came back that has ended: {error}");
        }
    }
}

/// Makes the directory of the socket if it is not there, and sees that it is this user's alone: who reaches the socket can
/// take over the service.
///
/// # Errors
/// When it is not.
pub fn check_directory(socket: &Path) -> io::Result<()> {
    let directory = socket.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.ok_or_else(|| io::Error::other("the path has to name a directory"))?;
    let told = |error: io::Error| io::Error::other(format!("{}: {error}", directory.display()));
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let about = made.and_then(|()| std::fs::metadata(directory)).map_err(told)?;
    let (mode, owner) = (about.permissions().mode() & 0o777, about.uid());
    if mode & 0o077 == 0 && owner == geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the directory {} has to be this user's alone; it has mode {mode:03o} and belongs to user {owner} (use one of its \
         own, with mode 700)",
        directory.display(),
    )))
}

/// Starts the successor. It has this process's environment, but for what was said to this process alone.
fn start(program: &Program, socket: &Path) -> io::Result<Child> {
    Command::new(&program.path)
        .args(&program.arguments)
        .env(SOCKET_VARIABLE, socket)
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES")
        // Without it, who feeds the watchdog is whoever is the service.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .spawn()
}

/// Why nothing more is to be had from it.
fn lost(child: &mut Child, error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => gone(child),
        _ => Failure(format!("the new process does not listen: {error}")),
    }
}

/// It has hung up, which a process does when it ends.
fn gone(child: &mut Child) -> Failure {
    let until = Instant::now() + REAPED;
    while Instant::now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return Failure(ended(child.id(), status));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Failure(format!("process {} has hung up", child.id()))
}

fn ended(pid: u32, status: ExitStatus) -> String {
    format!("process {pid} has ended ({status}); it tells why in the log of this service")
}

/// Waits until operators find the successor: who is told that an upgrade is done may ask for the next one at once.
fn await_listening(successor: &Channel) {
    let until = Instant::now() + LISTENING;
    while Instant::now() < until {
        match successor.receive(until) {
            Ok(Some(Frame::Message(Message::Listening, _))) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn unexpected() -> Failure {
    Failure("the new process said something that was not its turn".to_owned())
}
