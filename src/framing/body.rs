//! How far the body of the current message reaches.

use std::fmt;

use super::chunked::Chunked;
use super::head::Body;

/// The rest of a message behind its head.
#[derive(Debug, Clone)]
pub enum MessageBody {
    /// Nothing follows.
    None,
    /// So many bytes follow.
    Length {
        /// Bytes that are still to come.
        remaining: u64,
    },
    /// Chunks follow.
    Chunked(Chunked),
}

/// What one call of `advance` made of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many of the bytes belong to this message; what lies behind them is the next one.
    pub consumed: usize,
    /// How many of those are content, chunk framing taken off.
    pub body_bytes: u64,
}

/// A body that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyError {
    /// Why.
    pub fault: BodyFault,
    /// How many bytes of the call lie before the offending line; these and no others may still be handed on.
    pub consumed: usize,
}

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// More content than the limit, announced or arrived: 413.
    TooLarge,
    /// A chunk size that is not 1 to 16 hexadecimal digits.
    ChunkSize,
    /// A chunk extension with a control byte, or an empty one.
    ChunkExtension,
    /// More than 4096 bytes of chunk extensions in one message.
    ChunkExtensionsTooLong,
    /// A line of the chunk framing that does not end in CR LF, or a chunk longer than its size.
    LineEnd,
    /// A trailer that is not a header field, or one that may not stand there.
    Trailer,
    /// More than 8 KiB of trailers.
    TrailersTooLong,
}

impl BodyFault {
    /// One plain sentence without a full stop; the same for everyone, so it may be shown to the client.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "the body is larger than allowed",
            Self::ChunkSize => "a chunk size is not a hexadecimal number",
            Self::ChunkExtension => "a chunk extension is malformed",
            Self::ChunkExtensionsTooLong => "the chunk extensions are too long",
            Self::LineEnd => "a chunk does not end where its size says, or a line of it not in CR LF",
            Self::Trailer => "a trailer field is malformed or not allowed",
            Self::TrailersTooLong => "the trailer fields are too long",
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for BodyFault {}

impl MessageBody {
    /// Starts behind a head.
    ///
    /// # Errors
    /// [`BodyFault::TooLarge`] when the announced length is over `limit`: refused before a byte of it is read.
    pub fn begin(body: Body, limit: u64) -> Result<Self, BodyFault> {
        match body {
            Body::None => Ok(Self::None),
            Body::Length(length) if length > limit => Err(BodyFault::TooLarge),
            Body::Length(remaining) => Ok(Self::Length { remaining }),
            Body::Chunked => Ok(Self::Chunked(Chunked::new(limit))),
        }
    }

    /// Takes the next bytes of the connection, split anywhere.
    ///
    /// # Errors
    /// When the message is refused; every later call says the same.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        match self {
            Self::None => Ok(Progress::default()),
            Self::Length { remaining } => {
                let consumed = usize::try_from(*remaining).map_or(bytes.len(), |left| left.min(bytes.len()));
                *remaining -= consumed as u64;
                Ok(Progress {
                    consumed,
                    body_bytes: consumed as u64,
                })
            }
            Self::Chunked(chunked) => chunked.advance(bytes),
        }
    }

    /// Whether the message has ended.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match self {
            Self::None => true,
            Self::Length { remaining } => *remaining == 0,
            Self::Chunked(chunked) => chunked.is_complete(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_ends_at_its_byte_and_leaves_the_next_message_alone() {
        let mut body = MessageBody::begin(Body::Length(5), 5).unwrap();
        assert!(!body.is_complete());
        assert_eq!(
            body.advance(b"he"),
            Ok(Progress {
                consumed: 2,
                body_bytes: 2
            })
        );
        assert_eq!(
            body.advance(b"lloGET / HTTP/1.1"),
            Ok(Progress {
                consumed: 3,
                body_bytes: 3
            })
        );
        assert!(body.is_complete());
        assert_eq!(body.advance(b"GET /"), Ok(Progress::default()));
    }

    #[test]
    fn a_body_of_the_limit_passes_and_one_byte_more_is_refused_unread() {
        assert!(MessageBody::begin(Body::Length(10), 10).is_ok());
        assert_eq!(
            MessageBody::begin(Body::Length(11), 10).unwrap_err(),
            BodyFault::TooLarge
        );
    }

    #[test]
    fn without_a_body_the_message_is_complete_and_takes_nothing() {
        let mut body = MessageBody::begin(Body::None, 0).unwrap();
        assert!(body.is_complete());
        assert_eq!(body.advance(b"smuggled"), Ok(Progress::default()));
    }
}
