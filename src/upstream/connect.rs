//! Connections to an endpoint: made here, so that they can be counted.
//!
//! Those for plain HTTP/1.1 are kept here too (`kept.rs`) and lent to the engine for one request at a time (`line.rs`).
//! Of the others, the engine keeps the idle ones itself and tells nobody how many. It asks a connector of ours for every
//! new one, and tells its tracer when one is closed; what is between is idle, unless a request is on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{Tracer, Tracing};
use pingora::{Error, ErrorType, Result};
use tokio::net::TcpStream;

use super::kept::Shelves;

/// The connections of one endpoint.
#[derive(Debug, Default)]
pub struct Sockets {
    open: AtomicU32,
    creating: AtomicU32,
    shelves: Shelves,
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

    /// Those that wait for their next request, if they are kept here.
    #[must_use]
    pub fn shelves(&self) -> &Shelves {
        &self.shelves
    }

    /// Closes those that have waited too long or were closed by the endpoint.
    pub fn sweep(&self, now: Instant) {
        if self.open() > 0 {
            self.shelves.sweep(now);
        }
    }

    /// Makes one.
    ///
    /// # Errors
    /// When it does not stand in time.
    pub async fn connect(&self, address: &SocketAddr, timeout: Duration) -> Result<TcpStream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "not an address of the internet");
        };
        let _creating = Creating::begin(self);
        match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            Err(_) => Error::e_explain(ErrorType::ConnectTimedout, "no connection in time"),
            Ok(Err(error)) => Err(refused(error)),
            Ok(Ok(stream)) => Ok(stream),
        }
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
        let stream = self.sockets.connect(address, self.timeout).await?;
        let mut stream = Stream::from(stream);
        let told = Told(Arc::clone(&self.sockets));
        told.on_connected();
        stream.tracer = Some(Tracer(Box::new(told)));
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

/// An open connection; closed when dropped.
#[derive(Debug)]
pub struct Open(Arc<Sockets>);

impl Open {
    /// Counts one.
    #[must_use]
    pub fn count(sockets: &Arc<Sockets>) -> Self {
        sockets.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(sockets))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open connection of the engine, which tells when it is not any more.
#[derive(Debug)]
struct Told(Arc<Sockets>);

impl Tracing for Told {
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
