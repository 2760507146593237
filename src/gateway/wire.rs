//! What the proxy engine sees of a client connection: exactly one message at a time.
//!
//! The engine's own parser accepts more than a gateway may (bare LF, an empty chunk size, bytes after the message), so
//! it never reads a socket. [`Core`] owns the socket; a [`Wire`] lends it to the engine for one exchange and checks
//! every body byte on its way with `framing`. When the engine is done, for whatever reason (answered, failed,
//! cancelled by a deadline, panicked), dropping the wire brings the core home, and the connection decides there what
//! happens next.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use http::{HeaderMap, HeaderValue};
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::framing::{Body, BodyFault, Head, MessageBody};
use crate::silence::Silence;
use crate::transport::Transport;

/// Bytes of a date: `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_LENGTH: usize = 29;

/// Bytes of a next message that are kept while the current one is being answered.
const AHEAD_MAX: usize = 16 * 1024;

/// How long a client may take nothing of an answer, when the connection does not say it.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);

/// A client connection with everything that is known about its current message.
pub struct Core {
    /// The socket.
    pub io: Stream,
    /// Received and not handed over yet.
    pub buffer: BytesMut,
    /// Where the current message ends.
    pub body: MessageBody,
    /// The current message's head.
    pub head: Option<Head>,
    /// When the current message's head was complete.
    pub arrived: Instant,
    /// Who is at the other end, and by which means.
    pub transport: Arc<Transport>,
    /// The announced body is larger than allowed, which the gateway refuses before anything is read of it.
    pub too_large: bool,
    /// The method has answers without a body.
    pub is_head: bool,
    /// How long the client may take nothing of an answer.
    pub write_patience: Duration,
    stalled: Silence,
    fault: Option<BodyFault>,
    gone: bool,
}

/// What the connection and the exchange tell each other while the engine holds the wire.
#[derive(Default)]
pub struct Home {
    parked: Mutex<Option<Box<Core>>>,
    answered: AtomicBool,
    received: AtomicBool,
    tunnel: AtomicBool,
    keep: AtomicBool,
    /// The time that the client gave it is over.
    out_of_time: AtomicBool,
    /// Bytes passed since somebody looked.
    moved: AtomicBool,
    /// In milliseconds; 0: the engine sees to it.
    silence_ms: AtomicU64,
    watched: AtomicBool,
    tries: AtomicU32,
    tunnel_ms: AtomicU64,
    /// Of a request that the engine did not answer; set when its journey is dropped.
    request_id: Mutex<Option<String>>,
    /// What its answer has to carry besides; left and taken like the id.
    fields: Mutex<Option<HeaderMap>>,
    /// The `Date` of its answer, which the engine replaces by the present one, and where in what is written next it is.
    date: Mutex<Option<(HeaderValue, Option<isize>)>>,
    has_date: AtomicBool,
}

/// How long the connection sees to it that an endpoint is not silent for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Until its answer begins.
    UntilAnswered,
    /// To the end of its answer, which may be a tunnel.
    Always,
}

/// The engine's view of a connection, for one exchange.
pub struct Wire {
    core: Option<Box<Core>>,
    home: Arc<Home>,
}

impl Core {
    /// Takes over a connection, and what came of it already.
    #[must_use]
    pub fn new(io: Stream, received: BytesMut, transport: Arc<Transport>) -> Self {
        Self {
            io,
            buffer: received,
            body: MessageBody::None,
            head: None,
            arrived: Instant::now(),
            transport,
            too_large: false,
            is_head: false,
            write_patience: WRITE_PATIENCE,
            stalled: Silence::default(),
            fault: None,
            gone: false,
        }
    }

    /// Whether the client has sent the whole current message and nothing in it was wrong.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.body.is_complete() && self.fault.is_none()
    }

    /// Whether the client has closed its side.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Starts the next message.
    pub fn begin(&mut self, head: Head, body: MessageBody) {
        self.head = Some(head);
        self.body = body;
        self.fault = None;
    }

    /// Hands body bytes that are here already to the engine.
    fn read_buffered(&mut self, into: &mut ReadBuf<'_>) -> io::Result<()> {
        let available = self.buffer.len().min(into.remaining());
        let consumed = match self.body.advance(&self.buffer[..available]) {
            Ok(progress) => progress.consumed,
            Err(failure) => {
                self.fault = Some(failure.fault);
                if failure.consumed == 0 {
                    return Err(fault_error());
                }
                failure.consumed
            }
        };
        let bytes = self.buffer.split_to(consumed.min(available));
        into.put_slice(&bytes);
        Ok(())
    }

    /// Checks what was just read straight into the engine's buffer, and takes back what belongs to a next message.
    fn check_read(&mut self, into: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        let fresh = &into.filled()[before..];
        let received = fresh.len();
        let (consumed, faulty) = match self.body.advance(fresh) {
            Ok(progress) => (progress.consumed.min(received), None),
            Err(failure) => (failure.consumed.min(received), Some(failure.fault)),
        };
        if faulty.is_some() {
            self.fault = faulty;
            into.set_filled(before + consumed);
            // What was right before the fault still goes on; the next read reports the fault.
            return if consumed == 0 { Err(fault_error()) } else { Ok(()) };
        }
        self.buffer.extend_from_slice(&fresh[consumed..]);
        into.set_filled(before + consumed);
        Ok(())
    }

    /// Writes to the client, which may not take its time for ever. A deadline of the engine would cost a timer for each
    /// write; this one costs something when a client is slow.
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write(context, bytes) {
            Poll::Ready(result) => {
                self.stalled.over();
                Poll::Ready(result)
            }
            Poll::Pending => self.stalled.poll_failed(self.write_patience, context),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(context) {
            Poll::Ready(result) => {
                self.stalled.over();
                Poll::Ready(result)
            }
            Poll::Pending => self.stalled.poll_failed(self.write_patience, context),
        }
    }

    /// The message is complete: what still comes belongs to a next one. Ready only when the client has gone.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.buffer.len() < AHEAD_MAX {
            let mut ahead = [const { MaybeUninit::uninit() }; 2048];
            let mut chunk = ReadBuf::uninit(&mut ahead);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                self.gone = true;
                return Poll::Ready(Ok(()));
            }
            self.buffer.extend_from_slice(chunk.filled());
        }
        // Enough is waiting. Nobody wakes this read; the exchange ends by the answer or by a deadline.
        Poll::Pending
    }
}

impl Home {
    /// Forgets the last exchange.
    pub fn reset(&self) {
        self.answered.store(false, Ordering::Relaxed);
        self.received.store(false, Ordering::Relaxed);
        self.tunnel.store(false, Ordering::Relaxed);
        self.keep.store(false, Ordering::Relaxed);
        self.silence_ms.store(0, Ordering::Relaxed);
        self.watched.store(false, Ordering::Relaxed);
        self.has_date.store(false, Ordering::Relaxed);
    }

    /// The answer was made at this time, whatever the engine writes: a kept one says how old it is by that.
    pub fn is_of(&self, date: &HeaderValue) {
        if date.len() == DATE_LENGTH {
            *lock(&self.date) = Some((date.clone(), None));
            self.has_date.store(true, Ordering::Relaxed);
        }
    }

    /// The head of an answer, or what is left of it, with the date that it is to have, and where that begins: before it, if a
    /// part of it is written already. `None` when there is nothing to be changed.
    fn dated(&self, bytes: &[u8]) -> Option<(Vec<u8>, isize)> {
        if !self.has_date.load(Ordering::Relaxed) || is_interim(bytes) {
            return None;
        }
        let (date, place) = lock(&self.date).clone()?;
        let place = match place {
            Some(place) => place,
            None => {
                let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
                isize::try_from(find_date(bytes.get(..end)?)?).ok()?
            }
        };
        let mut head = bytes.to_vec();
        for (at, byte) in (place..).zip(date.as_bytes()) {
            if let Some(to) = usize::try_from(at).ok().and_then(|at| head.get_mut(at)) {
                *to = *byte;
            }
        }
        Some((head, place))
    }

    /// So many bytes of it are written.
    fn date_is_written(&self, place: isize, written: usize) {
        let left = place.saturating_sub_unsigned(written);
        if left.saturating_add_unsigned(DATE_LENGTH) <= 0 {
            self.has_date.store(false, Ordering::Relaxed);
        } else if let Some((_, place)) = lock(&self.date).as_mut() {
            *place = Some(left);
        }
    }

    /// How long the endpoint may be silent after the end of the request, and how long a tunnel both ways.
    pub fn expect_silence(&self, silence: Duration, tunnel: Duration, watch: Watch) {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1);
        self.silence_ms.store(millis(silence), Ordering::Relaxed);
        self.tunnel_ms.store(millis(tunnel), Ordering::Relaxed);
        self.watched.store(watch == Watch::Always, Ordering::Relaxed);
        self.tries.fetch_add(1, Ordering::Relaxed);
    }

    /// The engine sees to the silence of the endpoint.
    pub fn expect_nothing(&self) {
        self.silence_ms.store(0, Ordering::Relaxed);
        self.tries.fetch_add(1, Ordering::Relaxed);
    }

    /// How often the request was sent.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.tries.load(Ordering::Relaxed)
    }

    /// How long the endpoint may be silent after the end of the request; none while the engine sees to it.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        let millis = self.silence_ms.load(Ordering::Relaxed);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// Whether that holds for the content of an answer too.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// How long a tunnel may be silent.
    #[must_use]
    pub fn tunnel_silence(&self) -> Duration {
        Duration::from_millis(self.tunnel_ms.load(Ordering::Relaxed))
    }

    /// Whether bytes passed the tunnel since this was asked last.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }

    /// Notes that a final answer has begun.
    pub fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Notes that the client has sent its whole message.
    pub fn received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// The time that the client gave the exchange is over: it is taken from the engine.
    pub fn run_out(&self) {
        self.out_of_time.store(true, Ordering::Relaxed);
    }

    /// Whether that is why it ended.
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        self.out_of_time.load(Ordering::Relaxed)
    }

    /// The core, when the wire is gone.
    pub fn take(&self) -> Option<Box<Core>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Leaves the id of a request that ends without an answer of the engine.
    pub fn leave_request_id(&self, id: &str) {
        *self.request_id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_owned());
    }

    /// That id, once.
    pub fn take_request_id(&self) -> Option<String> {
        self.request_id.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Leaves what the answer to such a request has to carry besides.
    pub fn leave_fields(&self, fields: HeaderMap) {
        *self.fields.lock().unwrap_or_else(PoisonError::into_inner) = Some(fields);
    }

    /// That, once.
    pub fn take_fields(&self) -> Option<HeaderMap> {
        self.fields.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether a final answer has begun.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the client has sent its whole message.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the connection became a tunnel.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Whether the gateway answered an error completely, so that the connection can go on although the engine gave up.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.keep.load(Ordering::Relaxed)
    }
}

impl Wire {
    /// Lends a connection to the engine.
    #[must_use]
    pub fn lend(core: Box<Core>, home: &Arc<Home>) -> Self {
        home.received.store(core.body.is_complete(), Ordering::Relaxed);
        Self {
            core: Some(core),
            home: Arc::clone(home),
        }
    }

    /// The wire under an engine session.
    #[must_use]
    pub fn of(stream: &Stream) -> Option<&Self> {
        (**stream).as_any().downcast_ref()
    }

    /// The head of the current message.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        self.core.as_ref().and_then(|core| core.head)
    }

    /// When the current message's head was complete.
    #[must_use]
    pub fn arrived(&self) -> Option<Instant> {
        self.core.as_ref().map(|core| core.arrived)
    }

    /// Who is at the other end.
    #[must_use]
    pub fn transport(&self) -> Option<&Transport> {
        self.core.as_ref().map(|core| &*core.transport)
    }

    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        self.transport().and_then(|transport| transport.peer)
    }

    /// Whether the announced body is larger than allowed.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.too_large)
    }

    /// What was wrong with the body, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<BodyFault> {
        self.core.as_ref().and_then(|core| core.fault)
    }

    /// Whether the client has sent its whole message.
    #[must_use]
    pub fn is_received(&self) -> bool {
        self.home.is_received()
    }

    /// Whether nothing of the current message is waited for: the engine has it, or finds it here without waiting.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let is_here = |core: &Core| {
            let length = core.head.map(|head| head.body);
            matches!(length, Some(Body::Length(length)) if core.buffer.len() as u64 >= length)
        };
        self.is_received() || self.core.as_deref().is_some_and(is_here)
    }

    /// The connection's side of the exchange.
    #[must_use]
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// From the next answer on, bytes pass unchecked both ways. Only for a 101 that the upstream gave.
    pub fn become_tunnel(&self) {
        self.home.tunnel.store(true, Ordering::Relaxed);
    }

    /// The answer is complete although the engine will report a failure: the connection may go on.
    pub fn keep(&self) {
        self.home.keep.store(true, Ordering::Relaxed);
    }

    fn core(&mut self) -> io::Result<&mut Core> {
        self.core
            .as_deref_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        *self.home.parked.lock().unwrap_or_else(PoisonError::into_inner) = self.core.take();
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tunnel = self.home.is_tunnel();
        let core = self.core()?;
        if core.fault.is_some() {
            return Poll::Ready(Err(fault_error()));
        }
        if tunnel {
            if core.buffer.is_empty() {
                ready!(Pin::new(&mut core.io).poll_read(context, into))?;
                self.home.moved.store(true, Ordering::Relaxed);
                return Poll::Ready(Ok(()));
            }
            let available = core.buffer.len().min(into.remaining());
            into.put_slice(&core.buffer.split_to(available));
            return Poll::Ready(Ok(()));
        }
        if core.body.is_complete() {
            return core.poll_gone(context);
        }
        let before = into.filled().len();
        if core.buffer.is_empty() {
            ready!(Pin::new(&mut core.io).poll_read(context, into))?;
            if into.filled().len() == before {
                core.gone = true;
                return Poll::Ready(Ok(()));
            }
            core.check_read(into, before)?;
        } else {
            core.read_buffered(into)?;
        }
        if core.body.is_complete() {
            self.home.received.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.home.is_answered() && !is_interim(bytes) {
            self.home.answered.store(true, Ordering::Relaxed);
        }
        let dated = self.home.dated(bytes);
        let head = dated.as_ref().map_or(bytes, |(head, _)| head);
        let written = ready!(self.core()?.poll_write(context, head))?;
        if let Some((_, place)) = dated {
            self.home.date_is_written(place, written);
        }
        if self.home.is_watched() {
            self.home.moved.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.core()?.poll_flush(context)
    }

    /// Flushes only: whether and how to close is decided when the core is home.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

/// Where the value of `Date` begins in a head, if it is as long as they all are (RFC 9110 section 5.6.7).
fn find_date(head: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = memchr::memmem::find(head.get(from..)?, b"\r\n") {
        let name = from + at + 2;
        let value = name + b"date: ".len();
        if head.get(name..value)?.eq_ignore_ascii_case(b"date: ") {
            let end = head.get(value + DATE_LENGTH..)?;
            return (end.is_empty() || end.starts_with(b"\r\n")).then_some(value);
        }
        from = name;
    }
    None
}

/// Whether an answer begins with `100 Continue` or another 1xx that a final answer follows (101 is final).
fn is_interim(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.1 1") && !bytes.starts_with(b"HTTP/1.1 101")
}

/// Nobody panics while he holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fault_error() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {}
}

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.core.as_ref().map_or(-1, |core| core.io.id())
    }
}

impl Ssl for Wire {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.core.as_ref().and_then(|core| core.io.get_ssl_digest())
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.core.as_ref().and_then(|core| core.io.selected_alpn_proto())
    }
}

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        // Nobody reads it, and the engine would clone a list for every request.
        Vec::new()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<pingora::protocols::raw_connect::ProxyDigest>> {
        self.core.as_ref().and_then(|core| core.io.get_proxy_digest())
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.core.as_ref().and_then(|core| core.io.get_socket_digest())
    }
}

#[async_trait]
impl Peek for Wire {}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}
