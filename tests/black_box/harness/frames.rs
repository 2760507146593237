//! HTTP/2 frame by frame, for what no client library would send.

use std::io;
use std::net::SocketAddr;

use super::Connection;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A connection that has greeted the other side and from then on sends what it is told to.
pub struct Frames(Connection);

/// A frame that came.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// Answered, with this status if it is one of those that HPACK knows by heart, else 0.
    Answered(u16),
    /// Reset with this code.
    Reset(u32),
    /// The whole connection ended, perhaps with a GOAWAY of this code.
    Ended(Option<u32>),
}

/// A frame as it goes over the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Header fields as literals that nobody has to remember.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(length as u8);
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// A whole request without a body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    request(
        stream,
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", path),
        ],
    )
}

/// A request without a body that consists of these fields.
pub fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))
}

impl Frames {
    /// Connects, and greets with these settings (identifier and value).
    #[track_caller]
    pub fn to(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut connection = Connection::to(address);
        let mut payload = Vec::new();
        for (identifier, value) in settings {
            payload.extend(identifier.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &payload));
        connection.send(hello);
        Self(connection)
    }

    /// Sends these bytes; an error when the other side has had enough.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.try_send(bytes)
    }

    /// The next frame; an error when there will be none.
    pub fn next(&mut self) -> io::Result<Frame> {
        let head = self.0.take(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        Ok(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
            payload: self.0.take(length as usize)?,
        })
    }

    /// Waits until it is decided what becomes of a stream.
    pub fn fate(&mut self, stream: u32) -> Fate {
        let mut said = None;
        loop {
            let Ok(frame) = self.next() else {
                return Fate::Ended(said);
            };
            match frame.kind {
                HEADERS if frame.stream == stream => return Fate::Answered(known_status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Fate::Reset(code(&frame.payload)),
                GOAWAY => said = Some(code(frame.payload.get(4..).unwrap_or_default())),
                _ => {}
            }
        }
    }
}

fn code(payload: &[u8]) -> u32 {
    payload
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

/// RFC 7541 appendix A.
fn known_status(block: &[u8]) -> u16 {
    match block.first() {
        Some(0x88) => 200,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        Some(0x8e) => 500,
        _ => 0,
    }
}
