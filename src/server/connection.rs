//! One client connection, from accept to close: its bounds, its deadlines, and the cut between messages.
//!
//! ```text
//! accept → seat? → PROXY header, TLS → [ wait for a head → inspect → lend to the engine → home again ]* → close
//! ```
//!
//! The engine is handed one complete, inspected request head at a time and never waits for a client on its own; every
//! wait of a connection is here, and every one has a deadline:
//!
//! | waiting for | deadline | then |
//! |---|---|---|
//! | a PROXY header and the TLS handshake, together | `timeouts.header` | close |
//! | a first byte | `timeouts.idle` | close |
//! | the rest of a head | `timeouts.header` | 408 |
//! | the body, and the head of the answer | `timeouts.request` | 408 or 504 |
//! | the client to read the answer | `timeouts.idle` per write | close |

mod accept;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use ipnet::IpNet;
use pingora::apps::HttpServerApp;
use pingora::protocols::ALPN;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

use super::bounds::Bounds;
use super::census::{Census, Seat};
use super::http2::{self, Http2};
use crate::config::{Limits, Timeouts};
use crate::framing::{self, Body, Head, HeadError, HeadLimits, MessageBody};
use crate::gateway::drain::Drain;
use crate::gateway::refusal::Refusal;
use crate::gateway::wire::{Core, Home, Wire};
use crate::gateway::{Gateway, request_id};
use crate::telemetry::{AccessLog, Metrics};
use crate::transport::{Listeners, Socket};

/// First reservation for a request head; most fit.
const HEAD_BUFFER: usize = 4096;

/// Bodies up to this length are read to their end after an early answer, so that the connection can go on.
const DRAINED_BODY_MAX: u64 = 64 * 1024;

/// How long an early answer waits for the rest of such a body.
const DRAIN_BODY: Duration = Duration::from_secs(2);

/// After an answer that ends the connection: how long and how much the client may still send, so that the kernel does
/// not reset the connection under the answer. More than the default limit of a body: most clients send all of theirs
/// before they look for an answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is thrown away is read in pieces of about this size.
const LINGER_BUFFER: usize = 16 * 1024;

/// A TLS handshake begins with it, and no request does (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Connections that are told at a time that there is no room; more are closed without a word.
const STANDING_MAX: usize = 256;

/// How long a refusal may take to be written.
const REFUSE: Duration = Duration::from_secs(2);

/// Serves the connections of all listeners.
pub struct Connections {
    proxy: Arc<HttpProxy<Gateway>>,
    listeners: Listeners,
    trusted_proxies: Vec<IpNet>,
    limits: Limits,
    head_limits: HeadLimits,
    timeouts: Timeouts,
    census: Arc<Census>,
    drain: Drain,
    metrics: Arc<Metrics>,
    bounds: Arc<Bounds>,
    /// Who goes on when a client speaks HTTP/2.
    http2: Arc<Http2>,
    /// Room for connections that are being refused for want of a seat.
    standing: Semaphore,
}

/// What came out of waiting for a request.
enum Next {
    Request(Head),
    /// The client speaks HTTP/2 without having asked (RFC 9113 section 3.3).
    Http2,
    Refuse(Refusal),
    Close,
}

/// How an exchange ended.
enum Ended {
    /// The engine is done; true when it would go on with the connection.
    Served(bool),
    Panicked,
    Expired,
}

impl Connections {
    /// Serves what comes in at these listeners with this proxy, inside these bounds.
    #[must_use]
    pub fn new(
        proxy: Arc<HttpProxy<Gateway>>,
        (listeners, trusted_proxies): (Listeners, Vec<IpNet>),
        (limits, timeouts): (&Limits, &Timeouts),
        census: Arc<Census>,
        drain: Drain,
        (metrics, access_log): (Arc<Metrics>, AccessLog),
    ) -> Self {
        let head_limits = HeadLimits {
            bytes: limits.header_bytes,
            ..HeadLimits::default()
        };
        let bounds = Arc::new(Bounds::new(*limits, *timeouts, Arc::clone(&metrics), access_log));
        let http2 = Http2::new(Arc::clone(&proxy), Arc::clone(&bounds), head_limits, drain.clone());
        Self {
            proxy,
            listeners,
            trusted_proxies,
            limits: *limits,
            head_limits,
            timeouts: *timeouts,
            census,
            drain,
            metrics,
            bounds,
            http2: Arc::new(http2),
            standing: Semaphore::new(STANDING_MAX),
        }
    }

    /// Serves one connection to its end.
    pub async fn serve(&self, socket: Socket, shutdown: &ShutdownWatch) {
        let Some((mut core, seat, http2)) = self.accept(socket).await else {
            return;
        };
        if matches!(core.io.selected_alpn_proto(), Some(ALPN::H2)) {
            return self.go_on_with_http2(core, seat, shutdown).await;
        }
        core.write_patience = self.timeouts.idle;
        let home = Arc::new(Home::default());
        let mut deadline = Deadline::new();
        let mut drain = self.drain.clone();
        let mut leaving = Leaving {
            drain: &self.drain,
            begun: pin!(drain.begun()),
            registered: None,
        };
        // The preface of HTTP/2 can only be the first thing that comes.
        let mut first = http2;
        loop {
            let head = match self.next_head(&mut core, first, &mut deadline, &mut leaving).await {
                Next::Request(head) => head,
                Next::Http2 => return self.go_on_with_http2(core, seat, shutdown).await,
                Next::Refuse(refusal) => return self.refuse(core, &refusal).await,
                Next::Close => return close(core).await,
            };
            core = match self.exchange(core, head, &home, &mut deadline, shutdown).await {
                Some(core) => core,
                None => return,
            };
            first = false;
        }
    }

    /// The client speaks HTTP/2, and has perhaps begun to.
    async fn go_on_with_http2(&self, core: Box<Core>, seat: Seat, shutdown: &ShutdownWatch) {
        let Core {
            io, buffer, transport, ..
        } = *core;
        self.http2.serve((io, buffer), transport, seat, shutdown).await;
    }

    /// Waits for a complete head and inspects it.
    async fn next_head(
        &self,
        core: &mut Core,
        first: bool,
        deadline: &mut Deadline,
        leaving: &mut Leaving<'_, impl Future<Output = ()>>,
    ) -> Next {
        let mut searched = 0;
        let mut begun = !core.buffer.is_empty();
        let mut left = false;
        deadline.set(
            Instant::now(),
            if begun {
                self.timeouts.header
            } else {
                self.timeouts.idle
            },
        );
        self.metrics.connections_idle.inc();
        let _idle = Undo(|| self.metrics.connections_idle.dec());
        loop {
            let preface = first && http2::may_be_preface(&core.buffer);
            if preface && core.buffer.len() >= http2::PREFACE.len() {
                return Next::Http2;
            }
            if !preface && let Some(end) = framing::find_head_end(&core.buffer, searched) {
                return self.inspect(core, end);
            }
            if let Some(error) = framing::overrun(&core.buffer, &self.head_limits) {
                return Next::Refuse(head_refusal(error));
            }
            if core.buffer.first() == Some(&TLS_HANDSHAKE) {
                return Next::Refuse(Refusal::BadRequest("a TLS handshake on a port without TLS"));
            }
            searched = core.buffer.len();
            let waiting = core.buffer.is_empty();
            if !waiting && !begun {
                // Only now: most heads come in one piece, and the clock need not be asked for them.
                begun = true;
                deadline.set(Instant::now(), self.timeouts.header);
            }
            core.buffer.reserve(HEAD_BUFFER);
            tokio::select! {
                biased;
                read = core.io.read_buf(&mut core.buffer) => match read {
                    Ok(read) if read > 0 => {}
                    _ => return Next::Close,
                },
                () = deadline.expired() => {
                    return if waiting { Next::Close } else { Next::Refuse(Refusal::RequestTimeout) };
                }
                () = leaving.begun(), if waiting && !left => {
                    left = true;
                    deadline.set(Instant::now(), self.drain.idle().min(self.timeouts.idle));
                }
            }
        }
    }

    fn inspect(&self, core: &mut Core, end: usize) -> Next {
        let head = match framing::inspect(&core.buffer[..end], &self.head_limits) {
            Ok(head) => head,
            Err(error) => return Next::Refuse(head_refusal(error)),
        };
        core.is_head = head.method.of(&core.buffer) == b"HEAD";
        core.too_large = matches!(head.body, Body::Length(length) if length > self.limits.body_bytes);
        // A body that is too large is refused in the journey, with the request's own id and name.
        let limit = if core.too_large {
            u64::MAX
        } else {
            self.limits.body_bytes
        };
        match MessageBody::begin(head.body, limit) {
            Ok(body) => {
                core.begin(head, body);
                Next::Request(head)
            }
            Err(fault) => Next::Refuse(Refusal::BadRequest(fault.as_str())),
        }
    }

    /// Lends the connection to the engine for one request. `None` when it was closed.
    async fn exchange(
        &self,
        mut core: Box<Core>,
        head: Head,
        home: &Arc<Home>,
        deadline: &mut Deadline,
        shutdown: &ShutdownWatch,
    ) -> Option<Box<Core>> {
        // Split, although most buffers hold one head and nothing else: the storage comes back when the exchange is over,
        // and is read into again. A buffer that is given away costs two allocations for every request.
        let prefix = origin_form(core.buffer.split_to(head.length), &head);
        home.reset();
        let arrived = Instant::now();
        core.arrived = arrived.into_std();
        deadline.set(arrived, self.timeouts.request);

        let ended = {
            let mut session = ServerSession::new_http1(Box::new(Wire::lend(core, home)));
            session.set_pipelined_prefix(prefix);
            session.set_total_drain_timeout(Some(DRAIN_BODY));
            if matches!(head.body, Body::Length(length) if length <= DRAINED_BODY_MAX) && !head.expect_continue {
                session.set_close_on_response_before_downstream_finish(false);
            }
            // A panic in a phase costs this request alone: the wire comes home while unwinding.
            let engine = AssertUnwindSafe(self.proxy.process_new_http(session, shutdown)).catch_unwind();
            tokio::select! {
                biased;
                served = engine => served.map_or(Ended::Panicked, |reusable| Ended::Served(reusable.is_some())),
                () = deadline.expired_before_answer(home) => Ended::Expired,
            }
        };
        let core = home.take()?;
        let refusal = match ended {
            Ended::Served(reusable) if (reusable || home.is_kept()) && core.is_received() && !core.is_gone() => {
                return Some(core);
            }
            Ended::Served(_) => None,
            Ended::Panicked => Some(Refusal::Internal),
            Ended::Expired if home.is_received() => Some(Refusal::UpstreamTimeout),
            Ended::Expired => Some(Refusal::RequestTimeout),
        };
        match refusal.filter(|_| !home.is_answered()) {
            Some(refusal) => {
                // The journey has reported what happened under this id; this only tells the client.
                let request_id = match home.take_request_id() {
                    Some(request_id) => request_id,
                    None => request_id::new(),
                };
                let is_head = core.is_head;
                let mut answer = refusal.answer(&request_id);
                answer.headers_mut().extend(home.take_fields().unwrap_or_default());
                write_and_linger(core, answer.into_closing_bytes(is_head)).await;
            }
            None if core.is_received() || core.is_gone() || home.is_tunnel() => close(core).await,
            None => linger(core).await,
        }
        None
    }

    /// Answers a message that the engine never sees, and closes.
    async fn refuse(&self, core: Box<Core>, refusal: &Refusal) {
        let request_id = request_id::new();
        self.bounds.refused(core.transport.peer, refusal, &request_id);
        write_and_linger(core, refusal.answer(&request_id).into_closing_bytes(false)).await;
    }
}

/// A deadline that moves with every request without touching the timer wheel: the timer is only set again when it
/// fires too early, or when a nearer deadline comes.
pub(super) struct Deadline {
    sleep: Pin<Box<Sleep>>,
    /// Who is woken when the timer fires; absent while that is nobody.
    registered: Option<Waker>,
    armed: Instant,
    at: Instant,
}

impl Deadline {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            sleep: Box::pin(tokio::time::sleep_until(now)),
            registered: None,
            armed: now,
            at: now,
        }
    }

    pub(super) fn set(&mut self, now: Instant, after: Duration) {
        self.at = now + after;
        if self.at < self.armed {
            self.arm();
        }
    }

    /// Like [`Self::set`], if that is sooner than what is set.
    fn set_at_most(&mut self, now: Instant, after: Duration) {
        if now + after < self.at {
            self.set(now, after);
        }
    }

    fn arm(&mut self) {
        self.armed = self.at;
        self.registered = None;
        self.sleep.as_mut().reset(self.at);
    }

    pub(super) fn poll_expired(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            // To poll a timer costs more than to look at it, and a request does it half a dozen times.
            if is_known(self.registered.as_ref(), context) && !self.sleep.is_elapsed() {
                return Poll::Pending;
            }
            if self.sleep.as_mut().poll(context).is_pending() {
                self.registered = Some(context.waker().clone());
                return Poll::Pending;
            }
            if self.at <= self.armed {
                return Poll::Ready(());
            }
            self.arm();
        }
    }

    async fn expired(&mut self) {
        std::future::poll_fn(|context| self.poll_expired(context)).await;
    }

    /// Like [`Self::expired`], but not once an answer has begun: from then on, silence is bounded per read and write, and a
    /// tunnel ends when it is silent both ways. An endpoint that has all of a request which took its time is given as
    /// long as any other, within what is set already; and so is each that the request is sent to.
    pub(super) async fn expired_before_answer(&mut self, home: &Home) {
        let end = self.at;
        let (mut tries, mut sent, mut tunnel) = (home.tries(), false, false);
        std::future::poll_fn(|context| {
            loop {
                if home.is_answered() && !home.is_watched() {
                    return Poll::Pending;
                }
                if tries != home.tries() && !home.is_answered() {
                    tries = home.tries();
                    sent = false;
                    self.at = end;
                }
                if !tunnel && home.is_tunnel() {
                    tunnel = true;
                    self.set(Instant::now(), home.tunnel_silence());
                }
                if let Some(silence) = home.silence().filter(|_| !sent && home.is_received()) {
                    sent = true;
                    self.set_at_most(Instant::now(), silence);
                }
                ready!(self.poll_expired(context));
                if !home.is_answered() {
                    return Poll::Ready(());
                }
                if !home.is_watched() {
                    return Poll::Pending;
                }
                if !home.has_moved() {
                    return Poll::Ready(());
                }
                let silence = home.silence().filter(|_| !home.is_tunnel());
                self.set(Instant::now(), silence.unwrap_or_else(|| home.tunnel_silence()));
            }
        })
        .await;
    }
}

/// The beginning of the drain, waited for once per connection: to join and leave the list of those who wait, twice per
/// request, costs more than to find a head.
struct Leaving<'a, F> {
    drain: &'a Drain,
    begun: Pin<&'a mut F>,
    /// Who is woken when it begins; absent while that is nobody.
    registered: Option<Waker>,
}

impl<F: Future<Output = ()>> Leaving<'_, F> {
    async fn begun(&mut self) {
        std::future::poll_fn(|context| {
            // Asked first, because who is woken finds it true, and the other must not be polled when it is over.
            if self.drain.is_begun() {
                return Poll::Ready(());
            }
            if !is_known(self.registered.as_ref(), context) {
                self.registered = Some(context.waker().clone());
                return self.begun.as_mut().poll(context);
            }
            Poll::Pending
        })
        .await;
    }
}

/// Whether it is the task of this context that is woken.
fn is_known(registered: Option<&Waker>, context: &Context<'_>) -> bool {
    registered.is_some_and(|waker| waker.will_wake(context.waker()))
}

/// Runs when dropped.
struct Undo<F: FnMut()>(F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The head as the engine gets it: without an empty line before it, and with its target in origin form. An absolute
/// target (RFC 9112 section 3.2.2) names the same authority as Host, so nothing is lost.
fn origin_form(mut head_bytes: BytesMut, head: &Head) -> BytesMut {
    if !head.absolute {
        head_bytes.advance(head.start);
        return head_bytes;
    }
    let path = head.path.of(&head_bytes);
    let mut rewritten = BytesMut::with_capacity(head_bytes.len() + 1);
    rewritten.extend_from_slice(&head_bytes[head.start..head.target.start]);
    if !path.starts_with(b"/") {
        rewritten.extend_from_slice(b"/");
    }
    rewritten.extend_from_slice(path);
    rewritten.extend_from_slice(&head_bytes[head.target.end..]);
    rewritten
}

pub(super) fn head_refusal(error: HeadError) -> Refusal {
    match error {
        HeadError::Malformed(malformed) => Refusal::BadRequest(malformed.as_str()),
        HeadError::UriTooLong => Refusal::UriTooLong,
        HeadError::HeadersTooLarge => Refusal::HeadersTooLarge,
        HeadError::MethodNotImplemented => Refusal::MethodNotImplemented,
        HeadError::VersionNotSupported => Refusal::VersionNotSupported,
        HeadError::ExpectationFailed => Refusal::ExpectationFailed,
    }
}

async fn write_and_linger(mut core: Box<Core>, bytes: Vec<u8>) {
    let written = tokio::time::timeout(REFUSE, async {
        core.io.write_all(&bytes).await?;
        core.io.flush().await
    });
    if matches!(written.await, Ok(Ok(()))) {
        linger(core).await;
    }
}

/// Ends our side, then reads what the client still sends, within bounds: closing a socket with unread bytes makes the
/// kernel send a reset, which can overtake the answer.
async fn linger(mut core: Box<Core>) {
    let until = Instant::now() + LINGER;
    let _ = tokio::time::timeout_at(until, core.io.shutdown()).await;
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        core.buffer.clear();
        core.buffer.reserve(LINGER_BUFFER);
        match tokio::time::timeout_at(until, core.io.read_buf(&mut core.buffer)).await {
            Ok(Ok(read)) if read > 0 => left = left.saturating_sub(read),
            _ => return,
        }
    }
}

async fn close(mut core: Box<Core>) {
    let _ = tokio::time::timeout(LINGER, core.io.shutdown()).await;
}
