//! Chunked bodies, checked byte by byte and never decoded into another buffer.
//!
//! A state machine over bytes, so that any splitting of the input gives the same verdict and a size line that drips in
//! costs no second look. A line feed is consumed only when its whole line is valid, so nothing behind us ever sees an
//! invalid line completed.

use super::body::{BodyError, BodyFault, Progress};
use super::field;

/// Most bytes of chunk extensions in one message: extensions carry nothing, so many of them are an attack on whoever
/// skips them.
const EXTENSION_BYTES_MAX: u32 = 4096;
/// Most bytes of trailer fields in one message.
const TRAILER_BYTES_MAX: u32 = 8192;
/// Most digits of a chunk size: 16 fill a `u64`, so there is nothing to overflow.
const SIZE_DIGITS_MAX: u8 = 16;

/// Where a chunked body has got to.
#[derive(Debug, Clone)]
pub struct Chunked {
    state: State,
    limit: u64,
    body_bytes: u64,
    extension_bytes: u32,
    trailer_bytes: u32,
    name: TrailerName,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Size { value: u64, digits: u8 },
    ExtensionStart { size: u64 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    LineStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Complete,
    Refused(BodyFault),
}

/// As much of a trailer's name as is needed to tell whether it is allowed.
#[derive(Debug, Clone, Copy, Default)]
struct TrailerName {
    bytes: [u8; field::LONGEST_LISTED + 1],
    length: usize,
}

impl Chunked {
    /// Starts before the first size line; more than `limit` bytes of content are refused.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            state: State::Size { value: 0, digits: 0 },
            limit,
            body_bytes: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            name: TrailerName::default(),
        }
    }

    /// Whether the last CR LF of the message was consumed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Content so far, chunk framing taken off.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Takes the next bytes of the connection, split anywhere.
    ///
    /// # Errors
    /// When the message is refused; every later call says the same.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        let content_before = self.body_bytes;
        let mut at = 0;
        let mut line_start = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Complete => break,
                State::Data { left } => {
                    let here = usize::try_from(left).map_or(bytes.len() - at, |left| left.min(bytes.len() - at));
                    at += here;
                    line_start = at;
                    self.body_bytes += here as u64;
                    self.state = match left - here as u64 {
                        0 => State::DataCr,
                        left => State::Data { left },
                    };
                }
                state => {
                    self.state = self.step(state, byte);
                    if let State::Refused(fault) = self.state {
                        return Err(BodyError {
                            fault,
                            consumed: line_start,
                        });
                    }
                    at += 1;
                    if byte == b'\n' {
                        line_start = at;
                    }
                }
            }
        }
        Ok(Progress {
            consumed: at,
            body_bytes: self.body_bytes - content_before,
        })
    }

    /// One byte of framing.
    fn step(&mut self, state: State, byte: u8) -> State {
        match (state, byte) {
            (State::Size { value, digits }, byte) => self.size(value, digits, byte),
            (State::ExtensionStart { size }, byte) if field::is(byte, field::EXTENSION) => self.extension(size),
            (State::ExtensionStart { .. }, _) => State::Refused(BodyFault::ChunkExtension),
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { size }, byte) if field::is(byte, field::EXTENSION) => self.extension(size),
            (State::Extension { .. }, b'\n') => State::Refused(BodyFault::LineEnd),
            (State::Extension { .. }, _) => State::Refused(BodyFault::ChunkExtension),
            (State::SizeLf { size: 0 }, b'\n') => State::LineStart,
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::LineStart, b'\r') => State::LastLf,
            (State::LineStart, byte) => {
                self.name = TrailerName::default();
                self.trailer(State::TrailerName, byte)
            }
            (State::TrailerName | State::TrailerValue, byte) => self.trailer(state, byte),
            (State::TrailerLf, b'\n') => State::LineStart,
            (State::LastLf, b'\n') => State::Complete,
            (State::Refused(fault), _) => State::Refused(fault),
            // Content and the end are handled by the caller; everything else missed its CR or LF.
            (_, _) => State::Refused(BodyFault::LineEnd),
        }
    }

    fn size(&mut self, value: u64, digits: u8, byte: u8) -> State {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            // An empty line is no size, least of all the size zero.
            _ if digits == 0 => return State::Refused(BodyFault::ChunkSize),
            b'\r' | b';' => {
                // Refused as soon as it is announced, not when it has arrived.
                if self
                    .body_bytes
                    .checked_add(value)
                    .is_none_or(|total| total > self.limit)
                {
                    return State::Refused(BodyFault::TooLarge);
                }
                return if byte == b';' {
                    self.extension_start(value)
                } else {
                    State::SizeLf { size: value }
                };
            }
            b'\n' => return State::Refused(BodyFault::LineEnd),
            _ => return State::Refused(BodyFault::ChunkSize),
        };
        if digits >= SIZE_DIGITS_MAX {
            return State::Refused(BodyFault::ChunkSize);
        }
        State::Size {
            value: value << 4 | u64::from(digit),
            digits: digits + 1,
        }
    }

    fn extension_start(&mut self, size: u64) -> State {
        match self.extension(size) {
            State::Extension { size } => State::ExtensionStart { size },
            refused => refused,
        }
    }

    fn extension(&mut self, size: u64) -> State {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            return State::Refused(BodyFault::ChunkExtensionsTooLong);
        }
        State::Extension { size }
    }

    /// One byte of a trailer line before its CR LF, linted like a header line.
    fn trailer(&mut self, state: State, byte: u8) -> State {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            return State::Refused(BodyFault::TrailersTooLong);
        }
        match (state, byte) {
            (State::TrailerName, b':') if self.name.is_allowed() => State::TrailerValue,
            (State::TrailerName, byte) if field::is(byte, field::TOKEN) => {
                self.name.push(byte);
                State::TrailerName
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, byte) if field::is(byte, field::VALUE) => State::TrailerValue,
            (_, b'\n') => State::Refused(BodyFault::LineEnd),
            _ => State::Refused(BodyFault::Trailer),
        }
    }
}

impl TrailerName {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
    }

    /// A name that filled the buffer is longer than any listed one and can only match by its prefix.
    fn is_allowed(&self) -> bool {
        self.length > 0 && !field::forbidden_in_trailers(&self.bytes[..self.length])
    }
}
