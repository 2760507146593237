//! Connections for requests that ask for a tunnel.
//!
//! The engine sends the end of an empty request body and reads the answer in two branches of one wait, in any order. When
//! a service agrees to an upgrade so fast that its 101 is read first, the end of the body that comes second is taken for
//! the end of the tunnel (pingora issue 946), and the tunnel is closed right after it was opened. So on these
//! connections what follows a write is read a moment later: the engine is asked again first, and by then it has done
//! with the body. They are never kept for another request, because those that are would not be of this kind.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora::Result;
use pingora::connectors::L4Connect;
use pingora::protocols::ALPN;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How often a read is put off after a write. Once is enough, unless the engine has used up its share of the thread just
/// then; that share is full again at the next turn.
const TURNS: u8 = 2;

/// A connection that was not upgraded is not kept: its next user would have to be an upgrade too.
const NOT_KEPT: Duration = Duration::from_millis(1);

/// Makes a peer one that agrees to an upgrade as fast as it likes.
pub fn prepare(peer: &mut HttpPeer) {
    // None that is kept, and none that anybody else finds.
    peer.group_key = rand::random();
    peer.options.idle_timeout = Some(NOT_KEPT);
    if peer.options.alpn == ALPN::H2H1 {
        // Only HTTP/1.1 has upgrades.
        peer.options.alpn = ALPN::H1;
    }
    if let Some(connect) = peer.options.custom_l4.take() {
        peer.options.custom_l4 = Some(Arc::new(Unhurried(connect)));
    }
}

/// Connects as another does.
#[derive(Debug)]
struct Unhurried(Arc<dyn L4Connect + Send + Sync>);

#[async_trait]
impl L4Connect for Unhurried {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let mut stream = self.0.connect(address).await?;
        stream.set_nodelay()?;
        let socket = UnhurriedSocket { stream, turns: 0 };
        Ok(Stream::from(VirtualSocketStream::new(Box::new(socket))))
    }
}

/// A socket whose reads are put off after a write.
#[derive(Debug)]
struct UnhurriedSocket {
    stream: Stream,
    /// How often the next read is still put off.
    turns: u8,
}

impl VirtualSocket for UnhurriedSocket {
    /// The real socket has them already.
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for UnhurriedSocket {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turns > 0 {
            self.turns -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for UnhurriedSocket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.turns = TURNS;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_follows_a_write_is_read_after_the_other_side_of_a_wait_had_its_turn() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = Stream::from(TcpStream::connect(address).await.unwrap());
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut socket = UnhurriedSocket { stream, turns: 0 };
        for _ in 0..50 {
            socket.write_all(b"ask").await.unwrap();
            socket.flush().await.unwrap();
            peer.read_exact(&mut [0; 3]).await.unwrap();
            peer.write_all(b"x").await.unwrap();
            // The answer is there before anybody looks.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut byte = [0; 1];
            tokio::select! {
                biased;
                _ = socket.read_exact(&mut byte) => panic!("the answer came first"),
                () = std::future::ready(()) => {}
            }
            socket.read_exact(&mut byte).await.unwrap();
            assert_eq!(&byte, b"x");
        }
    }
}
