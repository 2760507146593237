//! Counts the frames of a client that move nothing: pings, settings, resets, priorities, unknown ones, empty data.
//!
//! The library answers each of them in constant memory, and would do so for ever: a client that sends nothing else
//! keeps a core busy. So they are counted on their way in, from nine bytes each, and have a budget that time and work
//! give back. Some libraries ping for every answer to measure the link, which is why work counts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;

/// The most frames that can be saved up, how many a second gives, and how many bytes sent to the client give one.
const BUDGET_MAX: u64 = 10_000;
const PER_SECOND: u64 = 1_000;
const BYTES_FOR_ONE: u64 = 64;

const HEAD_LENGTH: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// A client's socket, behind what was received of it already.
pub struct Metered {
    socket: Stream,
    received: BytesMut,
    frames: Frames,
    budget: Budget,
}

impl Metered {
    /// A connection of which this was received already; its preface, at least in part.
    pub fn new(socket: Stream, received: BytesMut) -> Self {
        Self {
            socket,
            received,
            frames: Frames::behind(PREFACE.len()),
            budget: Budget::new(Instant::now()),
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if self.received.is_empty() {
            ready!(Pin::new(&mut self.socket).poll_read(context, into))?;
        } else {
            let length = self.received.len().min(into.remaining());
            into.put_slice(&self.received[..length]);
            self.received.advance(length);
        }
        let idle = self.frames.count(into.filled().get(before..).unwrap_or_default());
        if idle > 0 && !self.budget.spend(idle, Instant::now) {
            log::debug!("an HTTP/2 client was cut off: it sends frames that move nothing");
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(context, bytes))?;
        self.budget.earn(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// Where the frames of a byte stream begin.
#[derive(Debug)]
struct Frames {
    /// Bytes until the next frame.
    rest: usize,
    head: [u8; HEAD_LENGTH],
    /// How much of that is there.
    have: usize,
}

impl Frames {
    fn behind(bytes: usize) -> Self {
        Self {
            rest: bytes,
            head: [0; HEAD_LENGTH],
            have: 0,
        }
    }

    /// Takes the next bytes, split anywhere, and says how many frames that move nothing began in them.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut idle = 0;
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEAD_LENGTH - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_LENGTH {
                self.have = 0;
                let [high, middle, low, kind, flags, ..] = self.head;
                self.rest = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                idle += u64::from(is_idle(kind, flags, self.rest));
            }
        }
        idle
    }
}

/// Window updates are not among them: a download needs one for every frame.
fn is_idle(kind: u8, flags: u8, length: usize) -> bool {
    match kind {
        DATA => length == 0 && flags & END_STREAM == 0,
        HEADERS | WINDOW_UPDATE => false,
        CONTINUATION => length == 0,
        _ => true,
    }
}

/// How many of them are still accepted.
#[derive(Debug)]
struct Budget {
    left: u64,
    /// Bytes sent since the last frame that they gave.
    sent: u64,
    filled: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: BUDGET_MAX,
            sent: 0,
            filled: now,
        }
    }

    fn earn(&mut self, bytes: u64) {
        self.sent += bytes;
        self.left = (self.left + self.sent / BYTES_FOR_ONE).min(BUDGET_MAX);
        self.sent %= BYTES_FOR_ONE;
    }

    /// False when there is not enough left. The time is only asked for when it could help.
    fn spend(&mut self, frames: u64, now: impl FnOnce() -> Instant) -> bool {
        if self.left < frames {
            let now = now();
            let seconds = now.duration_since(self.filled).as_secs();
            if seconds > 0 {
                self.filled = now;
                self.left = self
                    .left
                    .saturating_add(seconds.saturating_mul(PER_SECOND))
                    .min(BUDGET_MAX);
            }
        }
        match self.left.checked_sub(frames) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    #[test]
    fn frames_are_counted_wherever_the_bytes_are_split() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, &[]));
        bytes.extend(frame(HEADERS, 4, b"12345"));
        bytes.extend(frame(DATA, 0, b"abc"));
        bytes.extend(frame(DATA, 0, &[]));
        bytes.extend(frame(DATA, END_STREAM, &[]));
        bytes.extend(frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]));
        bytes.extend(frame(6, 0, &[0; 8]));
        bytes.extend(frame(3, 0, &[0; 4]));
        bytes.extend(frame(200, 0, &[6; 30]));
        for piece in 1..bytes.len() {
            let mut frames = Frames::behind(PREFACE.len());
            let counted: u64 = bytes.chunks(piece).map(|piece| frames.count(piece)).sum();
            assert_eq!(counted, 5, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_flood_ends_and_a_client_that_pings_for_every_answer_does_not() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let spent = (0..BUDGET_MAX * 2).take_while(|_| budget.spend(1, || start)).count();
        assert_eq!(spent as u64, BUDGET_MAX);
        assert!(budget.spend(PER_SECOND, || start + Duration::from_secs(1)));
        assert!(!budget.spend(1, || start + Duration::from_secs(1)));

        let mut budget = Budget::new(start);
        for _ in 0..BUDGET_MAX * 10 {
            budget.earn(100);
            assert!(budget.spend(1, || start));
        }
    }
}
