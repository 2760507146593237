//! What an operator asks of a running process.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::channel::{Channel, Frame, Message};

/// How long nothing may be heard. An upgrade that takes longer says so in its configuration.
const SILENCE: Duration = Duration::from_secs(24 * 3600);

/// How long it is waited before a successor is asked instead.
const AGAIN: Duration = Duration::from_millis(100);

/// The process that serves after an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Its number.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// Why it was not done.
#[derive(Debug)]
pub enum Refused {
    /// Nobody is there.
    Nobody(PathBuf, io::Error),
    /// The process says why, and serves as before.
    Failed(String),
    /// The process has hung up, and it is not known what came of it.
    HungUp(io::Error),
}

/// Has the process be followed by a new one. Returns when that one serves. `step` is told what happens.
///
/// # Errors
/// When it was not done. Then the process serves as before.
pub fn upgrade(socket: &Path, program: Option<PathBuf>, step: &mut dyn FnMut(&str)) -> Result<Successor, Refused> {
    let channel = connect(socket)?;
    channel.say(&Message::Upgrade { program }).map_err(Refused::HungUp)?;
    loop {
        match channel.receive(Instant::now() + SILENCE) {
            Ok(Some(Frame::Message(Message::Step { text }, _))) => step(&text),
            Ok(Some(Frame::Message(Message::Done { pid, version }, _))) => return Ok(Successor { pid, version }),
            Ok(Some(Frame::Message(Message::Failed { why }, _))) => return Err(Refused::Failed(why)),
            Ok(_) => {}
            Err(error) => return Err(Refused::HungUp(error)),
        }
    }
}

/// Has the process leave. Returns when it has ended.
///
/// # Errors
/// When it was not asked.
pub fn drain(socket: &Path, step: &mut dyn FnMut(&str)) -> Result<(), Refused> {
    let mut heard = false;
    loop {
        let channel = match connect(socket) {
            Ok(channel) => channel,
            // Whoever was asked has ended, and nobody has taken its place.
            Err(Refused::Nobody(..)) if heard => return Ok(()),
            Err(refused) => return Err(refused),
        };
        if listen(&channel, step)? == HungUp::WhileLeaving {
            return Ok(());
        }
        // It was just being followed, and never read what was asked: its successor is there now.
        heard = true;
        std::thread::sleep(AGAIN);
    }
}

/// When the process that was asked to leave has hung up.
#[derive(PartialEq, Eq)]
enum HungUp {
    WhileLeaving,
    Unheard,
}

/// Asks the process to leave, and listens until it hangs up.
fn listen(channel: &Channel, step: &mut dyn FnMut(&str)) -> Result<HungUp, Refused> {
    let mut hung_up = HungUp::Unheard;
    if channel.say(&Message::Drain).is_err() {
        return Ok(hung_up);
    }
    loop {
        match channel.receive(Instant::now() + SILENCE) {
            Ok(Some(Frame::Message(Message::Step { text }, _))) => {
                hung_up = HungUp::WhileLeaving;
                step(&text);
            }
            Ok(Some(Frame::Message(Message::Failed { why }, _))) => return Err(Refused::Failed(why)),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return Ok(hung_up);
            }
            Err(error) => return Err(Refused::HungUp(error)),
        }
    }
}

fn connect(socket: &Path) -> Result<Channel, Refused> {
    UnixStream::connect(socket)
        .and_then(Channel::new)
        .map_err(|error| Refused::Nobody(socket.to_owned(), error))
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody(path, error) => {
                write!(f, "no gateway can be asked at {}: {error}", path.display())?;
                match error.kind() {
                    ErrorKind::NotFound => {
                        f.write_str("; name its socket with --socket, or its configuration with --config")
                    }
                    ErrorKind::PermissionDenied => f.write_str("; be root, or the user that it runs as"),
                    _ => Ok(()),
                }
            }
            Self::Failed(why) => write!(f, "{why}; the running process serves as before"),
            Self::HungUp(error) => write!(f, "the process has hung up ({error}); its log says what came of it"),
        }
    }
}

impl std::error::Error for Refused {}
