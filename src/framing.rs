//! Where each HTTP/1.1 request on a connection ends, decided before the proxy engine sees a byte of it.
//!
//! Request smuggling needs two parsers that disagree. The engine's parser is lenient: it takes bare LF line ends,
//! several `Content-Length` fields, an empty chunk-size line as the last chunk. So the connection runs every byte
//! through this module first, hands on exactly one message at a time, and nothing that could be read in two ways.
//! Whatever passes here means the same to every parser that follows the RFCs, and no byte behind the current message
//! ever reaches the engine.
//!
//! The module is pure: bytes in, verdict out. No I/O, no clock, no allocation. A connection uses it like this:
//!
//! ```text
//! loop over reads into a buffer:
//!     find_head_end(buffer, already_searched)
//!         None  → overrun(buffer, limits)  → refuse, or read more
//!         Some  → inspect(&buffer[..end], limits) → Head
//!     MessageBody::begin(head.body, limit)
//!     loop: advance(bytes) → hand on exactly `consumed` of them, until is_complete()
//! ```
//!
//! Nothing is repaired and no byte is rewritten: what is handed on is what came in, or nothing. Repairing was rejected
//! because a repaired message hides the attack from the log and still depends on guessing what the client meant.

mod body;
mod chunked;
mod field;
mod head;
mod http2;

pub use body::{BodyError, BodyFault, MessageBody, Progress};
pub use chunked::Chunked;
pub use head::{Body, Head, HeadError, HeadLimits, Malformed, Span, find_head_end, inspect, overrun};
pub use http2::{Http2Head, inspect_http2};

#[cfg(test)]
mod tests;
