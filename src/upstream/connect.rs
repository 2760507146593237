//! Connections to an endpoint: made here, so that they can be counted.
//!
//! The engine keeps idle connections itself and tells nobody how many. It asks a connector of ours for every new one, and
//! tells its tracer when one is closed; what is between is idle, unless a request is on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{Tracer, Tracing};
use pingora::{Error, ErrorType, Result};
use tokio::net::TcpStream;

/// The connections of one endpoint.
#[derive(Debug, Default)]
pub struct Sockets {
    open: AtomicU32,
    creating: AtomicU32,
}

/// Connects to one endpoint.
#[derive(Debug)]
pub struct Connector {
    sockets: Arc<Sockets>,
    timeout: Duration,
}

impl Sockets {
    /// How many are open.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many are being made.
    #[must_use]
    pub fn creating(&self) -> u32 {
        self.creating.load(Ordering::Relaxed)
    }
}

impl Connector {
    /// Connects within this time.
    #[must_use]
    pub fn new(sockets: Arc<Sockets>, timeout: Duration) -> Self {
        Self { sockets, timeout }
    }
}

#[async_trait]
impl L4Connect for Connector {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "not an address of the internet");
        };
        let creating = Creating::begin(&self.sockets);
        let connected = tokio::time::timeout(self.timeout, TcpStream::connect(address)).await;
        drop(creating);
        let stream = match connected {
            Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, "no connection in time"),
            Ok(Err(error)) => return Err(refused(error)),
            Ok(Ok(stream)) => stream,
        };
        let mut stream = Stream::from(stream);
        let open = Open(Arc::clone(&self.sockets));
        open.on_connected();
        stream.tracer = Some(Tracer(Box::new(open)));
        Ok(stream)
    }
}

fn refused(error: std::io::Error) -> Box<Error> {
    let kind = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        std::io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "no connection", error)
}

/// A connection that is being made; over when dropped, also by a request that is given up.
struct Creating<'a>(&'a Sockets);

impl<'a> Creating<'a> {
    fn begin(sockets: &'a Sockets) -> Self {
        sockets.creating.fetch_add(1, Ordering::Relaxed);
        Self(sockets)
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.0.creating.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open connection, told by the engine when it is not any more.
#[derive(Debug)]
struct Open(Arc<Sockets>);

impl Tracing for Open {
    fn on_connected(&self) {
        self.0.open.fetch_add(1, Ordering::Relaxed);
    }

    fn on_disconnected(&self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}
