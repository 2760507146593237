//! One HTTP/2 client connection, from its preface to its end.
//!
//! ```text
//! preface → [ accept a stream → a task of its own → answer ]* → GOAWAY → close
//! ```
//!
//! What RFC 9113 leaves to an implementation is decided here; every wait has a deadline and everything that a client can
//! make grow has a bound:
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | preface and settings | `timeouts.header` | close |
//! | streams at a time | `limits.streams` | refused by the library |
//! | a connection without streams | `timeouts.idle` | GOAWAY |
//! | the head of a request | `limits.header_bytes`, 100 fields | 431 |
//! | the body, and the head of the answer | `timeouts.request` | 408 or 504 |
//! | a gRPC call with a timeout | that, answer included | status 4, or the stream is reset |
//! | the client of a gRPC call to go on | `timeouts.request` or the upstream's `tunnel` | status 4, or the stream is reset |
//! | the client to read the answer | `timeouts.idle` per write | the stream is reset |
//! | received and not read yet | 256 KiB a stream, 1 MiB in all | the client has to wait |
//! | frames that move nothing | see [`meter`] | close |
//! | heads that are refused, streams that are opened to be reset | see [`Conduct`] | GOAWAY |

mod meter;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request};
use pingora::apps::HttpServerApp;
use pingora::protocols::Stream as Socket;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::task::JoinSet;
use tokio::time::Instant as Moment;

use super::bounds::Bounds;
use super::census::Seat;
use super::connection::{Deadline, head_refusal};
use crate::framing::{HeadLimits, inspect_http2};
use crate::gateway::drain::Drain;
use crate::gateway::refusal::Refusal;
use crate::gateway::stream::{Exchange, Stream};
use crate::gateway::wire::Home;
use crate::gateway::{Gateway, grpc, request_id};
use crate::transport::Transport;
use meter::Metered;

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection that began with these bytes may be one of HTTP/2; there is at least one.
#[must_use]
pub fn may_be_preface(received: &[u8]) -> bool {
    let length = received.len().min(PREFACE.len());
    length > 0 && received[..length] == PREFACE[..length]
}

/// What a client may send on one stream, and on all together, before it is read: enough for a fast link, and little
/// enough for many connections.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What the library keeps of one stream's answer until the client takes it.
const SEND_BUFFER: usize = 64 * 1024;

/// What the header list counts for a field beside its bytes (RFC 9113 section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Streams that the client has reset before they were looked at: a burst of more ends the connection
/// (CVE-2023-44487).
const UNSEEN_RESETS_MAX: usize = 20;

/// Streams that were reset by this side and are remembered, for how long, and how many the client may provoke by breaking
/// rules (CVE-2025-8671).
const OWN_RESETS_MAX: usize = 50;
const OWN_RESETS_KEPT: Duration = Duration::from_secs(5);
const PROVOKED_RESETS_MAX: usize = 100;

/// How long a call is let be that something else bounds.
const UNBOUNDED: Duration = Duration::from_secs(24 * 3600);

/// How long a connection that was told to go may take.
const LINGER: Duration = Duration::from_secs(2);

/// Serves HTTP/2 connections.
pub struct Http2 {
    proxy: Arc<HttpProxy<Gateway>>,
    bounds: Arc<Bounds>,
    head_limits: HeadLimits,
    options: H2Options,
    drain: Drain,
}

/// How a stream ended, as far as the connection cares.
enum Ended {
    Served,
    /// The head was refused.
    Malformed,
    /// The client gave it up right after it had begun it.
    Abandoned,
}

impl Http2 {
    /// Serves with this proxy, inside these bounds.
    #[must_use]
    pub fn new(proxy: Arc<HttpProxy<Gateway>>, bounds: Arc<Bounds>, head_limits: HeadLimits, drain: Drain) -> Self {
        Self {
            options: options(&bounds, &head_limits),
            proxy,
            bounds,
            head_limits,
            drain,
        }
    }

    /// Serves a connection, of which this was received already.
    pub async fn serve(
        self: &Arc<Self>,
        (socket, received): (Socket, BytesMut),
        transport: Arc<Transport>,
        seat: Seat,
        shutdown: &ShutdownWatch,
    ) {
        let handshake = self.options.handshake(Metered::new(socket, received));
        let Ok(Ok(connection)) = tokio::time::timeout(self.bounds.timeouts.header, handshake).await else {
            return;
        };
        let streams = Streams {
            http2: Arc::clone(self),
            transport,
            seat: Arc::new(seat),
            shutdown: shutdown.clone(),
            tasks: JoinSet::new(),
            conduct: Conduct::default(),
        };
        self.accept(connection, streams).await;
    }

    /// Accepts streams until the connection ends. Polling for the next one is also what moves every frame.
    async fn accept(&self, mut connection: Connection<Metered, Bytes>, mut streams: Streams) {
        let mut drain = self.drain.clone();
        let mut begun = pin!(drain.begun());
        let idle = self.bounds.timeouts.idle;
        let mut quiet = pin!(tokio::time::sleep(idle));
        let mut idle_gauge = Some(self.bounds.idle());
        let mut leaving = false;
        let mut going = false;
        // Once the client has misbehaved, how many of its streams are still told that they were not looked at.
        let mut refusable = None;
        loop {
            // Streams that the client has reset hold none of its places any more, but their tasks may not be over.
            let is_full = streams.tasks.len() >= self.bounds.limits.streams.saturating_mul(2) || refusable == Some(0);
            tokio::select! {
                biased;
                () = &mut begun, if !leaving => {
                    leaving = true;
                    going = true;
                    connection.graceful_shutdown();
                    quiet.as_mut().reset(Moment::now() + LINGER);
                }
                ended = streams.tasks.join_next(), if !streams.tasks.is_empty() => {
                    if streams.tasks.is_empty() {
                        idle_gauge = Some(self.bounds.idle());
                        quiet.as_mut().reset(Moment::now() + if going { LINGER } else { idle });
                    }
                    if !streams.conduct.allows(ended.and_then(Result::ok)) && refusable.is_none() {
                        // Behind a load balancer the other streams are other people's: they are served to their end,
                        // and only new ones are not.
                        refusable = Some(self.bounds.limits.streams);
                        going = true;
                        connection.graceful_shutdown();
                        quiet.as_mut().reset(Moment::now() + LINGER);
                    }
                }
                () = &mut quiet, if streams.tasks.is_empty() => {
                    if going {
                        break;
                    }
                    going = true;
                    connection.graceful_shutdown();
                    quiet.as_mut().reset(Moment::now() + LINGER);
                }
                accepted = next(&mut connection, is_full) => match accepted {
                    Some(Ok((request, respond))) => match &mut refusable {
                        None => {
                            idle_gauge = None;
                            streams.begin(request, respond);
                        }
                        Some(left) => {
                            *left = left.saturating_sub(1);
                            refuse_unseen(respond);
                        }
                    },
                    Some(Err(_)) | None => break,
                },
            }
        }
        drop(idle_gauge);
        drop(connection);
        // They notice that their client has gone, and report it themselves.
        streams.tasks.detach_all();
    }
}

/// The next stream; none while there is no room for its task. Either way the connection goes on.
async fn next(
    connection: &mut Connection<Metered, Bytes>,
    is_full: bool,
) -> Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>> {
    if !is_full {
        return connection.accept().await;
    }
    match std::future::poll_fn(|context| connection.poll_closed(context)).await {
        Ok(()) => None,
        Err(error) => Some(Err(error)),
    }
}

/// Says that nothing was done for a stream, so that it may be asked again on another connection (RFC 9113 section 8.7).
fn refuse_unseen(mut respond: SendResponse<Bytes>) {
    respond.send_reset(Reason::REFUSED_STREAM);
}

fn options(bounds: &Bounds, head_limits: &HeadLimits) -> H2Options {
    let to_u32 = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(to_u32(bounds.limits.streams))
        .max_header_list_size(to_u32(
            head_limits
                .bytes
                .saturating_add(head_limits.fields.saturating_mul(FIELD_OVERHEAD)),
        ))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
        .max_concurrent_reset_streams(OWN_RESETS_MAX)
        .reset_stream_duration(OWN_RESETS_KEPT)
        .max_local_error_reset_streams(Some(PROVOKED_RESETS_MAX));
    options
}

/// How a client behaves: what it makes the gateway do for nothing. Each is borne a number of times, and from then on as
/// long as it is at most half of what the client asks for: on a connection of a load balancer one client among many
/// stays far below.
#[derive(Debug, Default)]
struct Conduct {
    streams: u64,
    malformed: u64,
    abandoned: u64,
}

impl Conduct {
    /// Heads that were refused: a broken client or a probe.
    const MALFORMED_MAX: u64 = 100;

    /// Streams that were given up at once. Callers that do so now and then, such as those that ask twice and take the
    /// faster answer, stay below the half.
    const ABANDONED_MAX: u64 = 200;

    /// Takes note of a stream that has ended. False when the connection has to take no more.
    fn allows(&mut self, ended: Option<Ended>) -> bool {
        self.streams += 1;
        match ended {
            Some(Ended::Malformed) => self.malformed += 1,
            Some(Ended::Abandoned) => self.abandoned += 1,
            Some(Ended::Served) | None => return true,
        }
        let is_borne = |count: u64, most: u64| count < most || count * 2 < self.streams;
        is_borne(self.malformed, Self::MALFORMED_MAX) && is_borne(self.abandoned, Self::ABANDONED_MAX)
    }
}

/// A stream that is given up sooner was never meant to be answered.
const ABANDONED_WITHIN: Duration = Duration::from_secs(1);

/// The streams of one connection.
struct Streams {
    http2: Arc<Http2>,
    transport: Arc<Transport>,
    /// Held until the last stream is over, so that nobody believes the connection gone before.
    seat: Arc<Seat>,
    shutdown: ShutdownWatch,
    tasks: JoinSet<Ended>,
    conduct: Conduct,
}

impl Streams {
    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let http2 = Arc::clone(&self.http2);
        let transport = Arc::clone(&self.transport);
        let seat = Arc::clone(&self.seat);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let ended = http2.exchange(request, respond, transport, &shutdown).await;
            drop(seat);
            ended
        });
    }
}

impl Http2 {
    /// Serves one stream.
    async fn exchange(
        &self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        transport: Arc<Transport>,
        shutdown: &ShutdownWatch,
    ) -> Ended {
        let arrived = Instant::now();
        let (mut parts, body) = request.into_parts();
        let without_body = parts.method == Method::HEAD;
        let head = inspect_http2(&mut parts, &self.head_limits).map_err(head_refusal);
        let call = grpc::Call::of(&parts.method, &parts.headers).map_err(|error| Refusal::BadRequest(error.as_str()));
        let (head, call) = match (head, call) {
            (Ok(head), Ok(call)) => (head, call),
            (Err(refusal), call) => {
                let as_http = matches!(call, Ok(None));
                self.refuse(&transport, respond, &refusal, as_http, without_body);
                return Ended::Malformed;
            }
            (Ok(_), Err(refusal)) => {
                self.refuse(&transport, respond, &refusal, false, without_body);
                return Ended::Malformed;
            }
        };
        let exchange = Arc::new(Exchange::begin(
            transport,
            head,
            call,
            arrived,
            self.bounds.limits.body_bytes,
        ));
        let mut stream = Stream::lend(parts, body, respond, &exchange);
        stream.set_read_timeout(Some(self.bounds.timeouts.request));
        stream.set_write_timeout(Some(self.bounds.timeouts.idle));
        let session = ServerSession::new_custom(Box::new(stream));

        let refusal = {
            // A panic in a phase costs this request alone.
            let mut engine = pin!(AssertUnwindSafe(self.proxy.process_new_http(session, shutdown)).catch_unwind());
            tokio::select! {
                biased;
                served = &mut engine => served.err().map(|_| Refusal::Internal),
                refusal = self.out_of_time(&exchange) => {
                    // Before the engine is dropped, because the journey reports what it finds here.
                    if exchange.grpc().is_some() {
                        exchange.home().run_out();
                    }
                    Some(refusal)
                }
            }
        };
        if let Some(refusal) = refusal
            && let Some(respond) = exchange.take_response()
        {
            // The journey has reported what happened under this id; this only tells the client.
            let request_id = match exchange.home().take_request_id() {
                Some(request_id) => request_id,
                None => request_id::new(),
            };
            let mut answer = match exchange.grpc() {
                Some(_) => refusal.grpc_answer(&request_id),
                None => refusal.answer(&request_id),
            };
            let fields = exchange.home().take_fields();
            answer.headers_mut().extend(fields.unwrap_or_default());
            write(respond, answer.into_stream_response(), without_body);
        }
        if exchange.is_reset() && arrived.elapsed() < ABANDONED_WITHIN {
            Ended::Abandoned
        } else {
            Ended::Served
        }
    }

    /// Waits until a request has to be given up, and says what its client is told if it was not answered.
    async fn out_of_time(&self, exchange: &Exchange) -> Refusal {
        let home = exchange.home();
        if let Some(call) = exchange.grpc() {
            return self.out_of_call_time(exchange, call.timeout).await;
        }
        let mut deadline = Deadline::new();
        deadline.set(exchange.arrived().into(), self.bounds.timeouts.request);
        deadline.expired_before_answer(home).await;
        match home.is_received() {
            true => Refusal::UpstreamTimeout,
            false => Refusal::RequestTimeout,
        }
    }

    /// A call's own time bounds all of it. Beside that it may stream messages both ways for as long as it likes, and is
    /// only ended by silence.
    async fn out_of_call_time(&self, exchange: &Exchange, timeout: Option<Duration>) -> Refusal {
        let end = timeout.map(|timeout| exchange.arrived() + timeout);
        let mut deadline = Deadline::new();
        // Asked again whenever something happens, because what may be silent how long changes with it.
        std::future::poll_fn(|context| {
            let silent = exchange.last_active() + silence(exchange.home(), end.is_some(), self.bounds.timeouts.request);
            let until = end.map_or(silent, |end| end.min(silent));
            deadline.set(until.into(), Duration::ZERO);
            deadline.poll_expired(context)
        })
        .await;
        Refusal::UpstreamTimeout
    }

    /// Answers a request that the engine never sees.
    fn refuse(
        &self,
        transport: &Transport,
        respond: SendResponse<Bytes>,
        refusal: &Refusal,
        as_http: bool,
        without_body: bool,
    ) {
        let request_id = request_id::new();
        self.bounds.refused(transport.peer, refusal, &request_id);
        let answer = match as_http {
            true => refusal.answer(&request_id),
            false => refusal.grpc_answer(&request_id),
        };
        write(respond, answer.into_stream_response(), without_body);
    }
}

/// How long nothing may move in a call, either way, as it stands now. `request` is how long a request may take that is no
/// call.
fn silence(home: &Home, has_own_time: bool, request: Duration) -> Duration {
    match (home.is_received(), home.is_answered(), home.silence()) {
        // The service has all of it, and it came piece by piece.
        (true, _, Some(silence)) => silence,
        // It came at once: the engine sees to it.
        (true, true, None) => UNBOUNDED,
        (false, true, _) => home.tunnel_silence(),
        // The call's own time bounds what the service may do with it.
        (true, false, None) if has_own_time => UNBOUNDED,
        // It does not bound the client, who could name any time and then send nothing.
        (false, false, _) if has_own_time => home.tunnel_silence().max(request),
        (_, false, expected) => expected.map_or(request, |silence| silence.max(request)),
    }
}

/// Small enough for the library to keep until the client takes it. What the client still sends is not waited for: it is
/// told to stop (RFC 9113 section 8.1).
fn write(mut respond: SendResponse<Bytes>, (head, body): (http::Response<()>, Bytes), without_body: bool) {
    let over = without_body || body.is_empty();
    if let Ok(mut sender) = respond.send_response(head, over)
        && !over
    {
        let _ = sender.send_data(body, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::wire::Watch;

    #[test]
    fn who_gives_up_now_and_then_may_stay_and_who_does_nothing_else_may_not() {
        let mut conduct = Conduct::default();
        for _ in 0..10_000 {
            assert!(conduct.allows(Some(Ended::Abandoned)));
            assert!(conduct.allows(Some(Ended::Served)));
            assert!(conduct.allows(Some(Ended::Served)));
        }
        let mut conduct = Conduct::default();
        let allowed = (0..1000).take_while(|_| conduct.allows(Some(Ended::Abandoned))).count();
        assert_eq!(allowed as u64, Conduct::ABANDONED_MAX - 1);
    }

    #[test]
    fn no_time_that_a_call_names_lets_its_client_be_silent_for_longer_than_a_request_may_take() {
        let request = Duration::from_secs(60);
        let home = Home::default();
        assert_eq!(silence(&home, true, request), request, "before there is an upstream");
        home.expect_silence(Duration::from_secs(5), Duration::from_secs(90), Watch::UntilAnswered);
        assert_eq!(
            silence(&home, true, request),
            Duration::from_secs(90),
            "the upstream lets tunnels be quiet"
        );
        home.received();
        assert_eq!(
            silence(&home, true, request),
            Duration::from_secs(5),
            "now the service is at it"
        );
    }

    #[test]
    fn a_call_that_came_at_once_has_its_own_time_and_else_that_of_a_request() {
        let request = Duration::from_secs(60);
        let home = Home::default();
        home.received();
        assert_eq!(silence(&home, true, request), UNBOUNDED);
        assert_eq!(silence(&home, false, request), request);
    }

    #[test]
    fn one_who_sends_malformed_heads_among_many_who_do_not_costs_nobody_the_connection() {
        let mut conduct = Conduct::default();
        for _ in 0..10_000 {
            assert!(conduct.allows(Some(Ended::Malformed)));
            assert!(conduct.allows(Some(Ended::Served)));
            assert!(conduct.allows(Some(Ended::Served)));
        }
    }

    #[test]
    fn malformed_heads_are_answered_a_bounded_number_of_times() {
        let mut conduct = Conduct::default();
        let allowed = (0..1000).take_while(|_| conduct.allows(Some(Ended::Malformed))).count();
        assert_eq!(allowed as u64, Conduct::MALFORMED_MAX - 1);
    }
}
