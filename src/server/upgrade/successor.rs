//! The side of the new process: it takes over from the one that started it.

use std::env;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::SOCKET_VARIABLE;
use super::channel::{Channel, Frame, Message, Role, VERSION};
use super::probe::probe;
use super::warm::Estate;
use crate::server::acceptor::Entrance;
use crate::server::sockets::Inheritance;

/// How long the process before may take to say what it says without waiting for anybody.
const ANSWER: Duration = Duration::from_secs(30);

/// A process that takes over from another.
pub struct Successor {
    channel: Channel,
}

/// What the process before hands over first.
#[derive(Default)]
pub struct Inherited {
    /// Sockets for clients.
    pub clients: Inheritance,
    /// For health and metrics.
    pub status: Inheritance,
    /// For administration.
    pub admin: Inheritance,
    /// The lock of the state directory.
    pub state_lock: Option<OwnedFd>,
}

impl Successor {
    /// If this process was started to take over.
    ///
    /// # Errors
    /// When it was, and the process before can not be reached.
    pub fn of_environment() -> Result<Option<Self>, String> {
        let Some(path) = env::var_os(SOCKET_VARIABLE) else {
            return Ok(None);
        };
        let told = |error: io::Error| format!("the process before, at {}: {error}", path.display());
        let channel = UnixStream::connect(&path).and_then(Channel::new).map_err(told)?;
        Ok(Some(Self { channel }))
    }

    /// Says that this process can not take over. The one before serves on.
    pub fn give_up(&self, why: &str) {
        // It ends this process when it has heard; if it does not hear, it sees that this process ends.
        let _ = self.channel.say(&Message::GiveUp { why: why.to_owned() });
    }

    /// Introduces itself, and takes the sockets.
    ///
    /// # Errors
    /// When the process before hands over in another way, or does not.
    pub fn inherit(&self) -> Result<Inherited, String> {
        let hello = Message::Hello {
            protocol: VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        self.say(&hello)?;
        let mut inherited = Inherited::default();
        loop {
            match self.next()? {
                Frame::Message(Message::Socket { role, wanted }, Some(socket)) => {
                    let socket = TcpListener::from(socket);
                    match role {
                        Role::Clients => inherited.clients.add(wanted, socket),
                        Role::Status => inherited.status.add(wanted, socket),
                        Role::Admin => inherited.admin.add(wanted, socket),
                        Role::Unknown => {}
                    }
                }
                Frame::Message(Message::StateLock, lock) => inherited.state_lock = lock,
                Frame::Message(Message::End, _) => return Ok(inherited),
                Frame::Message(Message::Failed { why }, _) => return Err(why),
                Frame::Message(..) | Frame::Section(_) => {}
            }
        }
    }

    /// Takes over what the process before has learnt. Before anything is compiled.
    ///
    /// # Errors
    /// When it does not say all of it; never for what it says.
    pub fn warm_up(&self, estate: &Estate) -> Result<(), String> {
        self.say(&Message::WantState)?;
        loop {
            match self.next()? {
                Frame::Section(section) => {
                    estate.import(&section);
                }
                Frame::Message(Message::End, _) => break,
                Frame::Message(Message::Failed { why }, _) => return Err(why),
                Frame::Message(..) => {}
            }
        }
        log::info!(
            "upgrade: {} records of the process before were taken over, {} parts were left out",
            estate.tally.taken(),
            estate.tally.left_out()
        );
        Ok(())
    }

    /// Says that everything is loaded, tries the sockets once nobody else accepts, and returns when this process is the
    /// one that serves: with the processes that were followed before and have not ended.
    ///
    /// # Errors
    /// When it is not going to be.
    pub fn take_over<'a>(
        &self,
        sockets: impl Iterator<Item = &'a TcpListener>,
        entrance: &Entrance,
        estate: &Estate,
    ) -> Result<Vec<Channel>, String> {
        self.say(&Message::Loaded)?;
        let mut ancestors = Vec::new();
        loop {
            match self.next()? {
                Frame::Message(Message::Probe, _) => break,
                Frame::Message(Message::Ancestor, Some(end)) => {
                    ancestors.extend(Channel::new(UnixStream::from(end)));
                }
                Frame::Message(Message::Failed { why }, _) => return Err(why),
                Frame::Section(section) => {
                    estate.import(&section);
                }
                Frame::Message(..) => {}
            }
        }
        for socket in sockets {
            let mut stray = |connection: TcpStream| self.channel.give(&Message::Stray, connection.as_fd());
            probe(socket, entrance, &mut stray).map_err(|error| {
                let address = socket.local_addr().map(|address| address.to_string());
                format!("{} does not answer its probe: {error}", address.unwrap_or_default())
            })?;
        }
        self.say(&Message::Serving)?;
        loop {
            match self.channel.receive(Instant::now() + ANSWER) {
                Ok(Some(Frame::Message(Message::Go, _))) => return Ok(ancestors),
                Ok(Some(Frame::Message(Message::Failed { why }, _))) => return Err(why),
                Ok(Some(_)) => {}
                // It is there and says nothing: it serves, and ends this process.
                Ok(None) => return Err(late()),
                // This process is the only one that is left, and has proved that it serves.
                Err(error) if is_end(&error) => {
                    log::warn!("the process before has ended without a word: this one serves");
                    return Ok(ancestors);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Tells the process before that operators find this one from now on.
    pub fn is_found(&self) {
        // It waits for this, but not for long.
        let _ = self.channel.say(&Message::Listening);
    }

    /// The connection to the process before, which has not ended.
    #[must_use]
    pub fn into_channel(self) -> Channel {
        self.channel
    }

    fn say(&self, message: &Message) -> Result<(), String> {
        (self.channel.say(message)).map_err(|error| format!("the process before does not listen: {error}"))
    }

    fn next(&self) -> Result<Frame, String> {
        match self.channel.receive(Instant::now() + ANSWER) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(late()),
            Err(error) => Err(format!("the process before has hung up: {error}")),
        }
    }
}

fn late() -> String {
    format!("the process before has said nothing for {ANSWER:?}")
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}
