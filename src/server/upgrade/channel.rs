//! What is said over the upgrade socket: frames, each with at most one descriptor.
//!
//! ```text
//! kind (1 byte) · length (4 bytes, little endian) · body
//! ```
//!
//! Messages are JSON, so that a process of another version can leave out what it does not know. Sections are state in
//! bulk, and stay as they are.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::warm::Section;

/// Of this protocol. A process that speaks another one is not followed: the service is started anew for that.
pub const VERSION: u32 = 1;

/// The longest body of a frame.
const LONGEST: usize = 1024 * 1024;

/// How long the rest of a frame may take once it has begun.
const FRAME: Duration = Duration::from_secs(10);

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Message {
    /// An operator wants the process to be followed, by this program if one is named.
    Upgrade {
        /// An absolute path.
        program: Option<PathBuf>,
    },
    /// An operator wants the process to leave.
    Drain,
    /// To the operator: what happens.
    Step {
        /// For people.
        text: String,
    },
    /// To the operator: it is done.
    Done {
        /// The process that serves now.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// To the operator: it is not done, and the process serves as before.
    Failed {
        /// For people.
        why: String,
    },
    /// The next process is there.
    Hello {
        /// [`VERSION`].
        protocol: u32,
        /// Of the program.
        version: String,
    },
    /// A listening socket comes with this.
    Socket {
        /// What it is for.
        role: Role,
        /// As the configuration says; the port may be 0.
        wanted: SocketAddr,
    },
    /// The lock of the state directory comes with this.
    StateLock,
    /// The end of a connection to a process that was followed before and has not ended comes with this.
    Ancestor,
    /// The next process wants what was learnt.
    WantState,
    /// That was all of it.
    End,
    /// The next process could serve now.
    Loaded,
    /// Nobody else accepts: try it.
    Probe,
    /// A client's connection comes with this, which was accepted on the way to the probe's.
    Stray,
    /// The probes were answered.
    Serving,
    /// The next process serves from now on.
    Go,
    /// The next process can be followed in its turn: operators find it.
    Listening,
    /// The next process can not.
    GiveUp {
        /// For people.
        why: String,
    },
    /// Something that a later version says.
    #[serde(other)]
    Unknown,
}

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Clients.
    Clients,
    /// Health and metrics.
    Status,
    /// Administration.
    Admin,
    /// Something that a later version has.
    #[serde(other)]
    Unknown,
}

/// What has come.
#[derive(Debug)]
pub enum Frame {
    /// A message, and the descriptor that came with it.
    Message(Message, Option<OwnedFd>),
    /// A part of the state.
    Section(Section),
}

/// One end.
#[derive(Debug)]
pub struct Channel(UnixStream);

const MESSAGE: u8 = 0;
const SECTION: u8 = 1;
const HEAD: usize = 5;

impl Channel {
    /// Over this connection. It is to be a blocking one.
    ///
    /// # Errors
    /// When deadlines can not be set on it.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(FRAME))?;
        stream.set_write_timeout(Some(FRAME))?;
        Ok(Self(stream))
    }

    /// The connection itself.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.0
    }

    /// Says something.
    ///
    /// # Errors
    /// When the other end is gone, or does not listen for too long.
    pub fn say(&self, message: &Message) -> io::Result<()> {
        self.send(MESSAGE, &serde_json::to_vec(message)?, None)
    }

    /// Says something with a descriptor.
    ///
    /// # Errors
    /// Like [`Self::say`].
    pub fn give(&self, message: &Message, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.send(MESSAGE, &serde_json::to_vec(message)?, Some(descriptor))
    }

    /// Sends a part of the state.
    ///
    /// # Errors
    /// Like [`Self::say`]; also when the part is too long.
    pub fn section(&self, section: &Section) -> io::Result<()> {
        let name = section.name.as_bytes();
        let length = u16::try_from(name.len()).map_err(io::Error::other)?;
        let mut body = Vec::with_capacity(4 + name.len() + section.bytes.len());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(name);
        body.extend_from_slice(&section.version.to_le_bytes());
        body.extend_from_slice(&section.bytes);
        self.send(SECTION, &body, None)
    }

    fn send(&self, kind: u8, body: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        if body.len() > LONGEST {
            return Err(io::Error::other("this is too long for the upgrade socket"));
        }
        let mut head = [0; HEAD];
        head[0] = kind;
        head[1..].copy_from_slice(&length.to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("a descriptor does not fit"));
        }
        let sent = rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)
        })?;
        (&self.0).write_all(head.get(sent..).unwrap_or_default())?;
        (&self.0).write_all(body)
    }

    /// Waits until something has come. `None`: nothing has until then, and the other end is still there.
    ///
    /// # Errors
    /// When the other end is gone, or says something that is none of this.
    pub fn receive(&self, until: Instant) -> io::Result<Option<Frame>> {
        let mut readable = [PollFd::new(&self.0, PollFlags::IN)];
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut readable, Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut head = [0; HEAD];
        let (received, descriptor) = self.receive_head(&mut head)?;
        (&self.0).read_exact(head.get_mut(received..).unwrap_or_default())?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        if length > LONGEST {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        (&self.0).read_exact(&mut body)?;
        match kind {
            MESSAGE => Ok(Some(Frame::Message(serde_json::from_slice(&body)?, descriptor))),
            SECTION => section(&body)
                .map(|section| Some(Frame::Section(section)))
                .ok_or_else(invalid),
            _ => Err(invalid()),
        }
    }

    fn receive_head(&self, head: &mut [u8; HEAD]) -> io::Result<(usize, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(head)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        if received.bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut descriptor = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptor = descriptors.last();
            }
        }
        Ok((received.bytes, descriptor))
    }
}

fn section(body: &[u8]) -> Option<Section> {
    let (length, rest) = body.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (version, bytes) = rest.split_first_chunk::<2>()?;
    Some(Section {
        name: std::str::from_utf8(name).ok()?.to_owned().into(),
        version: u16::from_le_bytes(*version),
        bytes: bytes.to_vec(),
    })
}

fn invalid() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "this is not the protocol of the upgrade socket")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn messages_descriptors_and_sections_come_in_the_order_in_which_they_were_sent() {
        let (one, other) = pair();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        one.say(&Message::Loaded).unwrap();
        let message = Message::Socket {
            role: Role::Clients,
            wanted: address,
        };
        one.give(&message, socket.as_fd()).unwrap();
        let section = Section {
            name: "counters".to_owned().into(),
            version: 7,
            bytes: vec![5; 300_000],
        };
        std::thread::scope(|scope| {
            scope.spawn(|| one.section(&section).unwrap());
            let Some(Frame::Message(Message::Loaded, None)) = other.receive(soon()).unwrap() else {
                panic!("the first message");
            };
            let Some(Frame::Message(received, Some(descriptor))) = other.receive(soon()).unwrap() else {
                panic!("the second message");
            };
            assert_eq!(received, message);
            let same = std::net::TcpListener::from(descriptor);
            assert_eq!(same.local_addr().unwrap(), address);
            let Some(Frame::Section(received)) = other.receive(soon()).unwrap() else {
                panic!("the section");
            };
            assert_eq!((&*received.name, received.version), ("counters", 7));
            assert_eq!(received.bytes, section.bytes);
        });
    }

    #[test]
    fn silence_is_not_the_end_and_the_end_is_an_error() {
        let (one, other) = pair();
        assert!(other.receive(Instant::now()).unwrap().is_none());
        drop(one);
        assert_eq!(other.receive(soon()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_a_later_version_says_is_left_out_and_garbage_is_refused() {
        let (one, other) = pair();
        one.send(MESSAGE, br#"{"say":"sing","song":"la"}"#, None).unwrap();
        assert!(matches!(
            other.receive(soon()).unwrap(),
            Some(Frame::Message(Message::Unknown, None))
        ));
        for garbage in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0, 255, 255, 255, 255],
            &[1, 2, 0, 0, 0, 9, 9],
        ] {
            let (one, other) = pair();
            (&one.0).write_all(garbage).unwrap();
            drop(one);
            assert!(other.receive(soon()).is_err(), "{garbage:?}");
        }
    }
}
