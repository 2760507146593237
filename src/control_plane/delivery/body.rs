//! A body that is sent in pieces and holds its slot until the last one is taken.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::control_plane::admission::Slot;

/// With one piece, the connection would take everything at once into its queue, and the slot would be free long before
/// the link is.
const PIECE: usize = 64 * 1024;

/// Bytes on their way.
pub(super) struct Paced {
    rest: Bytes,
    until: Instant,
    _slot: Slot,
}

impl Paced {
    /// These bytes, in a slot; the connection is cut if they have not been taken by then.
    pub(super) fn new(bytes: Bytes, slot: Slot, until: Instant) -> Self {
        Self {
            rest: bytes,
            until,
            _slot: slot,
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        // Asked with every piece, and the connection sees to it that pieces are taken: who takes one byte now and then
        // does not hold a slot for ever.
        if Instant::now() > self.until {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let most = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(most);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::poll_fn;

    use super::*;
    use crate::control_plane::admission::{Admission, Calendar};

    fn slot(calendar: &Calendar) -> Slot {
        match calendar.admit(1, Duration::ZERO, 0.0) {
            Admission::Now(slot) => slot,
            Admission::Later(wait) => panic!("{wait:?}"),
        }
    }

    #[tokio::test]
    async fn it_comes_in_pieces_and_the_slot_is_free_when_it_is_dropped() {
        let calendar = Calendar::new(1, 1000);
        let bytes = Bytes::from(vec![7; PIECE * 2 + 1]);
        let mut body = Paced::new(bytes.clone(), slot(&calendar), Instant::now() + Duration::from_secs(60));
        let mut taken = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE);
            taken.extend_from_slice(&piece);
        }
        assert_eq!(taken, bytes);
        assert!(matches!(calendar.admit(1, Duration::ZERO, 0.0), Admission::Later(_)));
        drop(body);
        slot(&calendar);
    }

    #[tokio::test]
    async fn who_takes_too_long_is_cut() {
        let calendar = Calendar::new(1, 1000);
        let mut body = Paced::new(Bytes::from_static(b"x"), slot(&calendar), Instant::now());
        std::thread::sleep(Duration::from_millis(2));
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        assert_eq!(frame.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
