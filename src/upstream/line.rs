//! A connection for plain HTTP/1.1, lent to the engine for one request.
//!
//! The engine believes that it connects for every request. What it gets is a socket of ours around a connection that is
//! kept here ([`Kept`]), and when it lets go of the socket, the connection comes home, provided that the engine said
//! that another request may follow. It says so by the way in which it looks whether the other end is still there before
//! it would put a connection into its own pool: with a read of one byte, which it does for no other reason. The socket
//! notes that, and says that the other end has gone, so that the engine lets go of it.
//!
//! The deadlines of reads and writes are here too: they are timers that stay where they are ([`Silence`](crate::silence::Silence)), where the
//! engine makes a new one for every wait.
//!
//! What is written leaves when it is waited for an answer: the head of a request, its content, and the frames of its
//! chunks go out together when they are there together.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::ALPN;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Sockets;
use super::kept::Kept;

/// So much is gathered before it is sent: a head and a short content.
const UNSENT_MAX: usize = 8 * 1024;

/// How one try gets its connection, and what came of that.
#[derive(Debug)]
pub struct Line {
    sockets: Arc<Sockets>,
    terms: Terms,
    connect: Duration,
    /// When the try began.
    begun: Instant,
    reused: AtomicBool,
}

/// What the connection is used under.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// Connections of one group are for each other.
    group: u64,
    /// How long the endpoint may be silent.
    read: Duration,
    /// How long it may take nothing.
    write: Duration,
    /// How long the connection may wait for its next request; zero: not at all.
    idle: Duration,
}

impl Line {
    /// Has the engine use a connection that is kept here, if it would use one for plain HTTP/1.1; the deadlines that it
    /// was told are then seen to here, and it is told none.
    #[must_use]
    pub fn lay(peer: &mut HttpPeer, sockets: &Arc<Sockets>, begun: Instant) -> Option<Arc<Self>> {
        if peer.is_tls() || !matches!(peer.options.alpn, ALPN::H1) {
            return None;
        }
        let options = &mut peer.options;
        // All of them are always set; a line without one of them is left to the engine.
        let line = Arc::new(Self {
            sockets: Arc::clone(sockets),
            terms: Terms {
                group: peer.group_key,
                read: options.read_timeout?,
                write: options.write_timeout?,
                idle: options.idle_timeout?,
            },
            connect: options.total_connection_timeout?,
            begun,
            reused: AtomicBool::new(false),
        });
        options.read_timeout = None;
        options.write_timeout = None;
        options.idle_timeout = None;
        options.connection_timeout = None;
        options.total_connection_timeout = None;
        let connect: Arc<dyn L4Connect + Send + Sync> = Arc::<Self>::clone(&line);
        options.custom_l4 = Some(connect);
        Some(line)
    }

    /// Whether the connection had carried other requests before.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl L4Connect for Line {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let kept = match self.sockets.shelves().take(self.terms.group, self.begun) {
            Some(kept) => {
                self.reused.store(true, Ordering::Relaxed);
                kept
            }
            None => {
                let stream = self.sockets.connect(address, self.connect).await?;
                stream
                    .set_nodelay(true)
                    .map_err(|error| Error::because(ErrorType::ConnectError, "no connection", error))?;
                Box::new(Kept::new(stream, self.terms.group, &self.sockets))
            }
        };
        let lent = Lent {
            kept: Some(kept),
            sockets: Arc::clone(&self.sockets),
            terms: self.terms,
            reusable: false,
            broken: false,
        };
        Ok(Stream::from(VirtualSocketStream::new(Box::new(lent))))
    }
}

/// Whether a deadline of this module is why a try failed. The engine takes it for a connection that broke.
#[must_use]
pub fn timed_out(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    // What the system says has a number: that is a connection that broke.
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut && cause.raw_os_error().is_none())
}

/// What the engine holds.
#[derive(Debug)]
struct Lent {
    /// Taken out when it is dropped, and when the engine closed it.
    kept: Option<Box<Kept>>,
    sockets: Arc<Sockets>,
    terms: Terms,
    /// The engine is done, and another request may follow.
    reusable: bool,
    /// Nothing can be sent any more; there may be an answer all the same.
    broken: bool,
}

impl Lent {
    fn kept(&mut self) -> io::Result<&mut Kept> {
        self.kept
            .as_deref_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Sends what was written.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let patience = self.terms.write;
        let kept = self.kept()?;
        let mut sent = 0;
        let result = loop {
            let rest = kept.unsent.get(sent..).unwrap_or_default();
            if rest.is_empty() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut kept.stream).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    sent += written;
                    kept.writing.over();
                }
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break kept.writing.poll_failed(patience, context),
            }
        };
        if sent == kept.unsent.len() {
            kept.unsent.clear();
        } else {
            kept.unsent.drain(..sent);
        }
        result
    }

    /// The engine looks whether the other end is still there.
    fn is_probe(into: &ReadBuf<'_>) -> bool {
        into.capacity() == 1 && into.initialized().len() == 1
    }
}

impl AsyncRead for Lent {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if Self::is_probe(into) {
            let sent = !self.broken && matches!(self.poll_send(context), Poll::Ready(Ok(())));
            self.reusable = sent && self.kept()?.is_silent();
            // As if the other end had gone: the engine lets go of it.
            return Poll::Ready(Ok(()));
        }
        if self.kept()?.unsent.is_empty() {
            // Nearly always: it was sent when it was first read.
        } else if let Poll::Ready(Err(error)) = self.poll_send(context) {
            if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
                return Poll::Ready(Err(error));
            }
            // An endpoint that does not want all of a request answers and closes; that answer may be there.
            self.broken = true;
            self.kept()?.unsent.clear();
        }
        let patience = self.terms.read;
        let kept = self.kept()?;
        match Pin::new(&mut kept.stream).poll_read(context, into) {
            Poll::Ready(result) => {
                kept.reading.over();
                Poll::Ready(result)
            }
            Poll::Pending => kept.reading.poll_failed(patience, context),
        }
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.kept()?.unsent.len() + bytes.len() > UNSENT_MAX {
            ready!(self.poll_send(context))?;
        }
        let patience = self.terms.write;
        let kept = self.kept()?;
        if bytes.len() <= UNSENT_MAX {
            kept.unsent.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        match Pin::new(&mut kept.stream).poll_write(context, bytes) {
            Poll::Ready(result) => {
                kept.writing.over();
                Poll::Ready(result)
            }
            Poll::Pending => kept.writing.poll_failed(patience, context),
        }
    }

    /// Nothing: the engine flushes a head before the content that it has already, and reads right after.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.kept = None;
        Poll::Ready(Ok(()))
    }
}

impl VirtualSocket for Lent {
    /// The real socket has them already.
    fn set_socket_option(&self, _option: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(mut kept) = self.kept.take().filter(|_| self.reusable && !self.terms.idle.is_zero()) {
            kept.reading.over();
            kept.writing.over();
            let until = Instant::now() + self.terms.idle;
            self.sockets.shelves().put(kept, until);
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora::connectors::http::Connector;
    use pingora::http::RequestHeader;
    use pingora::protocols::http::client::HttpSession;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// The engine's side of one upstream, and the endpoint.
    struct Bench {
        engine: Connector,
        sockets: Arc<Sockets>,
        listener: TcpListener,
    }

    impl Bench {
        async fn new() -> Self {
            Self {
                engine: Connector::new(None),
                sockets: Arc::default(),
                listener: TcpListener::bind(("127.0.0.1", 0)).await.unwrap(),
            }
        }

        fn peer(&self, read: Duration) -> (HttpPeer, Arc<Line>) {
            let mut peer = HttpPeer::new(self.listener.local_addr().unwrap(), false, String::new());
            let options = &mut peer.options;
            options.total_connection_timeout = Some(LONG);
            options.read_timeout = Some(read);
            options.write_timeout = Some(LONG);
            options.idle_timeout = Some(LONG);
            let line = Line::lay(&mut peer, &self.sockets, Instant::now()).unwrap();
            (peer, line)
        }

        /// Sends a request through the engine, takes the answer, and lets the engine do with the connection what it likes.
        /// The endpoint answers on the connection that it has, or on the one that comes.
        async fn exchange(&self, kept: &mut Option<TcpStream>, answer: &[&[u8]]) -> Arc<Line> {
            let (peer, line) = self.peer(LONG);
            let engine = async {
                let (session, reused) = self.engine.get_http_session(&peer).await.unwrap();
                assert!(!reused, "the engine does not know");
                let HttpSession::H1(mut session) = session else {
                    panic!("another protocol");
                };
                session.write_request_header(Box::new(get())).await.unwrap();
                session.read_response().await.unwrap();
                while session.read_body_bytes().await.unwrap().is_some() {}
                self.engine
                    .release_http_session(HttpSession::H1(session), &peer, None)
                    .await;
            };
            let endpoint = async {
                if kept.is_none() {
                    *kept = Some(self.listener.accept().await.unwrap().0);
                }
                let stream = kept.as_mut().unwrap();
                assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
                for part in answer {
                    stream.write_all(part).await.unwrap();
                    // So that it is read apart from what follows.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::join!(engine, endpoint);
            line
        }
    }

    fn get() -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.append_header("Host", "a").unwrap();
        request
    }

    #[tokio::test]
    async fn a_connection_comes_home_and_is_lent_again() {
        let bench = Bench::new().await;
        let mut stream = None;
        // A content of one byte is read like any other.
        let answers: [&[&[u8]]; 3] = [
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", b"x"],
            &[
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"1\r\nx\r\n",
                b"0\r\n",
                b"\r\n",
            ],
            &[b"HTTP/1.1 204 No Content\r\n\r\n"],
        ];
        for (number, answer) in answers.into_iter().enumerate() {
            let line = bench.exchange(&mut stream, answer).await;
            assert_eq!(line.is_reused(), number > 0);
            assert_eq!(
                (bench.sockets.shelves().len(), bench.sockets.open()),
                (1, 1),
                "after {number}"
            );
        }
        bench.sockets.shelves().sweep(Instant::now() + LONG);
        assert_eq!((bench.sockets.shelves().len(), bench.sockets.open()), (0, 0));
    }

    #[tokio::test]
    async fn what_may_not_be_used_again_is_closed() {
        let bench = Bench::new().await;
        for answer in [
            &b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"[..],
            // Bytes that belong to no answer.
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ] {
            bench.exchange(&mut None, &[answer]).await;
            assert_eq!((bench.sockets.shelves().len(), bench.sockets.open()), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_it_waited_is_not_lent() {
        let bench = Bench::new().await;
        let mut stream = None;
        bench.exchange(&mut stream, &[b"HTTP/1.1 204 No Content\r\n\r\n"]).await;
        drop(stream);
        while !bench.sockets.shelves().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            bench.sockets.shelves().sweep(Instant::now());
        }
        let line = bench.exchange(&mut None, &[b"HTTP/1.1 204 No Content\r\n\r\n"]).await;
        assert!(!line.is_reused());
    }

    #[tokio::test]
    async fn an_endpoint_that_is_gone_keeps_no_connection() {
        let bench = Bench::new().await;
        let mut stream = None;
        bench.exchange(&mut stream, &[b"HTTP/1.1 204 No Content\r\n\r\n"]).await;
        assert_eq!(bench.sockets.shelves().len(), 1);
        bench.sockets.shelves().close();
        assert_eq!((bench.sockets.shelves().len(), bench.sockets.open()), (0, 0));
        // Nor one that was lent meanwhile.
        bench.exchange(&mut None, &[b"HTTP/1.1 204 No Content\r\n\r\n"]).await;
        assert_eq!((bench.sockets.shelves().len(), bench.sockets.open()), (0, 0));
    }

    #[tokio::test]
    async fn connections_of_another_group_are_not_lent() {
        let bench = Bench::new().await;
        bench.exchange(&mut None, &[b"HTTP/1.1 204 No Content\r\n\r\n"]).await;
        let shelves = bench.sockets.shelves();
        assert_eq!(shelves.len(), 1);
        assert!(shelves.take(0xdead, Instant::now()).is_none());
        assert_eq!(
            (shelves.len(), bench.sockets.open()),
            (0, 0),
            "nobody will ask for it again"
        );
    }

    #[tokio::test]
    async fn silence_ends_a_wait_and_is_told_apart_from_a_broken_connection() {
        let bench = Bench::new().await;
        for silent in [true, false] {
            let (peer, _line) = bench.peer(if silent { Duration::from_millis(20) } else { LONG });
            let (session, _) = bench.engine.get_http_session(&peer).await.unwrap();
            let HttpSession::H1(mut session) = session else {
                panic!("another protocol");
            };
            let (stream, _) = bench.listener.accept().await.unwrap();
            session.write_request_header(Box::new(get())).await.unwrap();
            let stream = silent.then_some(stream);
            let error = session.read_response().await.unwrap_err();
            assert_eq!(timed_out(&error), silent, "{error}");
            drop(stream);
        }
    }

    #[tokio::test]
    async fn a_head_and_its_content_leave_together() {
        let bench = Bench::new().await;
        let (peer, _line) = bench.peer(LONG);
        let (session, _) = bench.engine.get_http_session(&peer).await.unwrap();
        let HttpSession::H1(mut session) = session else {
            panic!("another protocol");
        };
        let (mut stream, _) = bench.listener.accept().await.unwrap();
        let mut post = get();
        post.set_method(http::Method::POST);
        post.append_header("Content-Length", "7").unwrap();
        session.write_request_header(Box::new(post)).await.unwrap();
        session.write_body(b"content").await.unwrap();
        session.finish_body().await.unwrap();
        let endpoint = async {
            let mut bytes = [0; 1024];
            let read = stream.read(&mut bytes).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            bytes[..read].to_vec()
        };
        let (answer, first) = tokio::join!(session.read_response(), endpoint);
        answer.unwrap();
        assert!(first.ends_with(b"\r\n\r\ncontent"), "{}", first.escape_ascii());
    }
}
