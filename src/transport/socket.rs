//! A client's socket: TCP, with a buffer for what is written that exists only while something is in it.
//!
//! The engine's own stream was passed over: it keeps a write buffer for as long as the connection lives, which for idle
//! connections, and most are, is the greater part of what they cost.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What is gathered before it is sent: the head and body of a small answer, so that both leave in one system call.
const GATHERED: usize = 8 * 1024;

/// Buffers that a thread keeps for the next connection that writes.
const SPARE_MAX: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A client's socket.
pub struct Socket {
    tcp: TcpStream,
    peer: SocketAddr,
    digest: Arc<SocketDigest>,
    /// Written and not sent yet, from `sent` on. Without storage while there is nothing.
    gathered: Vec<u8>,
    sent: usize,
}

impl Socket {
    /// An accepted connection with its other end.
    #[must_use]
    pub fn new(tcp: TcpStream, peer: SocketAddr) -> Self {
        // Answers are gathered here; the kernel is not to wait for more. It fails only when the client has gone.
        let _ = tcp.set_nodelay(true);
        Self {
            digest: Arc::new(SocketDigest::from_raw_fd(tcp.as_raw_fd())),
            tcp,
            peer,
            gathered: Vec::new(),
            sent: 0,
        }
    }

    /// The other end. An IPv4 client of a listener on `[::]` is the client that it is on `0.0.0.0`.
    #[must_use]
    pub fn peer(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// Where it came in.
    ///
    /// # Errors
    /// When the client has gone already.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Sends what was gathered.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let left = self.gathered.get(self.sent..).unwrap_or_default();
            match ready!(Pin::new(&mut self.tcp).poll_write(context, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.let_go();
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer back, with nothing in it.
    fn let_go(&mut self) {
        self.sent = 0;
        if self.gathered.capacity() == 0 {
            return;
        }
        let mut buffer = std::mem::take(&mut self.gathered);
        buffer.clear();
        let _ = SPARE.try_with(|spare| {
            if let Ok(mut spare) = spare.try_borrow_mut()
                && spare.len() < SPARE_MAX
            {
                spare.push(buffer);
            }
        });
    }

    fn gather(&mut self, bytes: &[u8]) {
        if self.gathered.capacity() == 0 {
            let spare = SPARE
                .try_with(|spare| spare.try_borrow_mut().ok()?.pop())
                .ok()
                .flatten();
            self.gathered = spare.unwrap_or_else(|| Vec::with_capacity(GATHERED));
        }
        self.gathered.extend_from_slice(bytes);
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(context, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.gathered.len() + bytes.len() <= GATHERED {
            this.gather(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        // What does not fit goes out behind what was gathered, in one system call if the socket takes it.
        loop {
            let before = this.gathered.len() - this.sent;
            if before == 0 {
                this.let_go();
                return Pin::new(&mut this.tcp).poll_write(context, bytes);
            }
            let pieces = [
                IoSlice::new(this.gathered.get(this.sent..).unwrap_or_default()),
                IoSlice::new(bytes),
            ];
            let written = ready!(Pin::new(&mut this.tcp).poll_write_vectored(context, &pieces))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.sent += written.min(before);
            if written > before {
                this.let_go();
                return Poll::Ready(Ok(written - before));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

impl Drop for Socket {
    /// What was written and never flushed is sent as far as the kernel takes it: the alert that tells a client why there
    /// is no TLS, for one.
    fn drop(&mut self) {
        if let Some(left @ [_, ..]) = self.gathered.get(self.sent..) {
            let _ = self.tcp.try_write(left);
        }
        self.let_go();
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Socket {
    fn id(&self) -> UniqueIDType {
        self.tcp.as_raw_fd()
    }
}

impl Ssl for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        // Nobody reads it.
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

#[async_trait]
impl Peek for Socket {}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, client) = tokio::join!(listener.accept(), client);
        let (tcp, peer) = accepted.unwrap();
        (Socket::new(tcp, peer), client.unwrap())
    }

    #[tokio::test]
    async fn small_pieces_leave_together_when_they_are_flushed_and_the_buffer_is_given_back() {
        let (mut socket, mut client) = pair().await;
        socket.write_all(b"head ").await.unwrap();
        socket.write_all(b"body").await.unwrap();
        assert_eq!(socket.gathered, b"head body");
        socket.flush().await.unwrap();
        assert_eq!(socket.gathered.capacity(), 0, "an idle connection keeps no buffer");
        let mut received = [0; 64];
        let read = client.read(&mut received).await.unwrap();
        assert_eq!(&received[..read], b"head body");
    }

    #[tokio::test]
    async fn what_does_not_fit_goes_out_in_order_however_slowly_it_is_read() {
        let (mut socket, mut client) = pair().await;
        let expected: Vec<u8> = (0..6_000_000_u32).map(|number| (number % 251) as u8).collect();
        let sent = expected.clone();
        let writer = tokio::spawn(async move {
            let mut rest = sent.as_slice();
            for length in [1, 5000, 3191, 1, 20_000, 8192, 8193, 3_000_000].into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, more) = rest.split_at(length.min(rest.len()));
                socket.write_all(piece).await.unwrap();
                rest = more;
            }
            AsyncWriteExt::shutdown(&mut socket).await.unwrap();
        });
        let mut received = Vec::new();
        while client.read_buf(&mut received).await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
        writer.await.unwrap();
        assert!(received == expected);
    }

    #[tokio::test]
    async fn writing_to_a_client_that_has_gone_is_an_error_in_the_end() {
        let (mut socket, client) = pair().await;
        drop(client);
        let mut failed = false;
        for _ in 0..100 {
            failed |= socket.write_all(&[0; 100_000]).await.is_err();
        }
        assert!(failed);
    }
}
