//! What the proxy engine sees of an HTTP/2 client: one stream.
//!
//! The counterpart of [`wire`](super::wire). The engine has a session of its own for HTTP/2, and it is not used: it waits
//! for a request's body without a deadline, answers a malformed head with a bare 400, drops interim answers, and takes
//! the only handle through which a request that ran out of time could still be answered. [`Stream`] is a session of
//! ours; when the engine is done with it, for whatever reason, and has not answered, the handle comes home to the
//! [`Exchange`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::Stream as FuturesStream;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, DATE, HeaderName, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::http::v2::write_body;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, Result};

use super::grpc;
use super::wire::Home;
use crate::framing::{BodyFault, Http2Head};
use crate::transport::Transport;

/// Body bytes that are kept for another try, as the engine keeps them of other requests.
const REPLAYED_MAX: usize = 64 * 1024;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What is known about one stream, beside its head; shared by the journey, the engine's session and the connection.
pub struct Exchange {
    transport: Arc<Transport>,
    home: Arc<Home>,
    head: Http2Head,
    grpc: Option<grpc::Call>,
    arrived: Instant,
    body_max: u64,
    /// It is a stream of messages, each of which is handed on as it comes: `body_max` is not for their sum.
    messages: AtomicBool,
    too_large: AtomicBool,
    reset: AtomicBool,
    /// When a body byte last went either way, in milliseconds since the arrival.
    active: AtomicU64,
    /// The means to answer, when the engine ended without an answer.
    parked: Mutex<Option<SendResponse<Bytes>>>,
}

impl Exchange {
    /// A request of this client whose head has just arrived, and whose body may have so many bytes.
    #[must_use]
    pub fn begin(
        transport: Arc<Transport>,
        head: Http2Head,
        grpc: Option<grpc::Call>,
        arrived: Instant,
        body_max: u64,
    ) -> Self {
        Self {
            transport,
            home: Arc::default(),
            head,
            grpc,
            arrived,
            body_max,
            messages: AtomicBool::new(false),
            too_large: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            active: AtomicU64::new(0),
            parked: Mutex::new(None),
        }
    }

    /// Who asks.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What the connection and the engine's side tell each other.
    #[must_use]
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// What its head says.
    #[must_use]
    pub fn head(&self) -> Http2Head {
        self.head
    }

    /// The call, when it is one of gRPC.
    #[must_use]
    pub fn grpc(&self) -> Option<&grpc::Call> {
        self.grpc.as_ref()
    }

    /// How much of the call's own time is left, if it brought any.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let timeout = self.grpc.as_ref()?.timeout?;
        Some(timeout.saturating_sub(self.arrived.elapsed()))
    }

    /// When its head was complete.
    #[must_use]
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// When a body byte last went either way; the arrival before the first.
    #[must_use]
    pub fn last_active(&self) -> Instant {
        self.arrived + Duration::from_millis(self.active.load(Ordering::Relaxed))
    }

    /// Whether the announced body is larger than allowed.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.head.length.is_some_and(|length| length > self.body_max)
    }

    /// Lets the body of a gRPC call be as long as it gets: what is kept of it is bounded by the windows of its stream.
    /// Only for calls whose upstream may speak HTTP/2, without which there is no gRPC, so that the type of a content
    /// alone carries nobody past the bound.
    pub fn carries_messages(&self) {
        if self.grpc.is_some() {
            self.messages.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a body may not have so many bytes.
    fn is_beyond(&self, bytes: u64) -> bool {
        bytes > self.body_max && !self.messages.load(Ordering::Relaxed)
    }

    /// What was wrong with the body, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<BodyFault> {
        self.too_large.load(Ordering::Relaxed).then_some(BodyFault::TooLarge)
    }

    /// Whether the client gave the stream up.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// The means to answer, when the engine ended without an answer.
    #[must_use]
    pub fn take_response(&self) -> Option<SendResponse<Bytes>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Something of the exchange moved.
    pub fn was_active(&self) {
        let since = u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.active.store(since, Ordering::Relaxed);
    }

    /// Notes why reading or writing failed, and tells the engine that it was the client.
    fn failed(&self, kind: ErrorType, error: h2::Error) -> Box<Error> {
        // A reset by the client, or the end of its connection, and not a mistake of ours.
        if error.is_remote() || error.is_io() || error.reason().is_some() {
            self.reset.store(true, Ordering::Relaxed);
        }
        Error::because(kind, "HTTP/2 client", error).into_down()
    }
}

/// The engine's view of one request of an HTTP/2 client.
pub struct Stream {
    request: RequestHeader,
    body: RecvStream,
    /// Taken by the answer's head.
    respond: Option<SendResponse<Bytes>>,
    /// Of an answer that has begun.
    sender: Option<SendStream<Bytes>>,
    /// Of the answer that has begun: its status and nothing else.
    written: Option<Box<ResponseHeader>>,
    /// The answer is complete.
    ended: bool,
    /// The request is complete.
    received: bool,
    bytes_in: usize,
    bytes_out: usize,
    replay: Option<Replay>,
    exchange: Arc<Exchange>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

/// The body so far, for another try.
#[derive(Default)]
struct Replay {
    buffer: BytesMut,
    truncated: bool,
}

impl Stream {
    /// Lends a stream to the engine.
    #[must_use]
    pub fn lend(
        mut parts: http::request::Parts,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        exchange: &Arc<Exchange>,
    ) -> Self {
        parts.extensions.insert(Arc::clone(exchange));
        let received = body.is_end_stream();
        if received {
            exchange.home.received();
        }
        Self {
            request: RequestHeader::from(parts),
            body,
            respond: Some(respond),
            sender: None,
            written: None,
            ended: false,
            received,
            bytes_in: 0,
            bytes_out: 0,
            replay: None,
            exchange: Arc::clone(exchange),
            read_timeout: None,
            write_timeout: None,
            drain_timeout: None,
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.received {
            return Ok(None);
        }
        let data = match self.body.data().await {
            Some(Ok(data)) => data,
            Some(Err(error)) => return Err(self.exchange.failed(ErrorType::ReadError, error)),
            None => {
                // Trailers of a request are dropped, as the engine drops those of HTTP/1. They are taken out, so that
                // the stream does not wait for somebody to read them.
                let _ = self.body.trailers().await;
                self.received = true;
                self.exchange.home.received();
                return Ok(None);
            }
        };
        self.bytes_in = self.bytes_in.saturating_add(data.len());
        if self.exchange.is_beyond(self.bytes_in as u64) {
            self.exchange.too_large.store(true, Ordering::Relaxed);
            return Err(Error::explain(ErrorType::ReadError, "the body is larger than allowed").into_down());
        }
        if let Some(replay) = &mut self.replay {
            replay.keep(&data);
        }
        self.exchange.was_active();
        // Handed on piece by piece, so the client may send as much again.
        let _ = self.body.flow_control().release_capacity(data.len());
        if self.body.is_end_stream() {
            self.received = true;
            self.exchange.home.received();
        }
        Ok(Some(data))
    }

    /// Waits until the client gives the stream up.
    async fn gone(&mut self) -> Box<Error> {
        let reset = std::future::poll_fn(|context| match (&mut self.sender, &mut self.respond) {
            (Some(sender), _) => sender.poll_reset(context),
            (None, Some(respond)) => respond.poll_reset(context),
            (None, None) => std::task::Poll::Pending,
        })
        .await;
        match reset {
            Ok(reason) => self.exchange.failed(ErrorType::H2Error, reason.into()),
            Err(error) => self.exchange.failed(ErrorType::H2Error, error),
        }
    }

    fn write_head(&mut self, mut header: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.ended || self.written.is_some() {
            return Ok(());
        }
        let status = header.status;
        // RFC 9113 section 8.2.2.
        for name in [
            &TRANSFER_ENCODING,
            &CONNECTION,
            &UPGRADE,
            &KEEP_ALIVE,
            &PROXY_CONNECTION,
        ] {
            header.remove_header(name);
        }
        let Some(respond) = &mut self.respond else {
            return Err(Error::explain(ErrorType::InternalError, "an answer after the answer"));
        };
        if status.is_informational() {
            let interim = Response::from_parts((*header).into(), ());
            // Only a hint: the final answer says whether the client is still there.
            if status != StatusCode::SWITCHING_PROTOCOLS {
                let _ = respond.send_informational(interim);
            }
            return Ok(());
        }
        // A kept answer has the date of its making.
        if !header.headers.contains_key(DATE) {
            header.insert_header(DATE, get_cached_date())?;
        }
        let head = Response::from_parts((*header).into(), ());
        let sender = match respond.send_response(head, end) {
            Ok(sender) => sender,
            Err(error) => return Err(self.exchange.failed(ErrorType::WriteError, error)),
        };
        self.exchange.home.answered();
        self.exchange.was_active();
        self.respond = None;
        self.sender = Some(sender);
        self.written = Some(Box::new(ResponseHeader::build(status, Some(0))?));
        self.ended = end;
        Ok(())
    }

    async fn write(&mut self, data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(sender) = &mut self.sender else {
            return Err(Error::explain(ErrorType::InternalError, "a body before its head"));
        };
        let length = data.len();
        if let Err(error) = write_body(sender, data, end, self.write_timeout).await {
            if *error.etype() != ErrorType::WriteTimedout {
                self.exchange.reset.store(true, Ordering::Relaxed);
            }
            return Err(error.into_down());
        }
        self.exchange.was_active();
        self.bytes_out = self.bytes_out.saturating_add(length);
        self.ended = end;
        Ok(())
    }

    fn write_last(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(sender) = &mut self.sender else {
            return Err(Error::explain(ErrorType::InternalError, "trailers before their head"));
        };
        if let Err(error) = sender.send_trailers(trailers) {
            return Err(self.exchange.failed(ErrorType::WriteError, error));
        }
        self.ended = true;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if !self.ended
            && let Some(sender) = &mut self.sender
        {
            if let Err(error) = sender.send_data(Bytes::new(), true) {
                return Err(self.exchange.failed(ErrorType::WriteError, error));
            }
            self.ended = true;
        }
        Ok(())
    }

    fn cut(&mut self, reason: Reason) {
        if self.ended {
            return;
        }
        self.ended = true;
        match (&mut self.sender, &mut self.respond) {
            (Some(sender), _) => sender.send_reset(reason),
            (None, Some(respond)) => respond.send_reset(reason),
            (None, None) => {}
        }
    }
}

impl Drop for Stream {
    /// An answer that has begun and not ended is visibly cut off; one that has not begun can still be given.
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.cut(Reason::INTERNAL_ERROR);
        } else if !self.ended {
            *self.exchange.parked.lock().unwrap_or_else(PoisonError::into_inner) = self.respond.take();
        }
    }
}

impl Replay {
    fn keep(&mut self, data: &Bytes) {
        if self.truncated || self.buffer.len() + data.len() > REPLAYED_MAX {
            self.truncated = true;
            self.buffer = BytesMut::new();
        } else {
            self.buffer.extend_from_slice(data);
        }
    }
}

#[async_trait]
impl Session for Stream {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        // Before the answer the request's own deadline bounds the wait; after it, this does.
        match self.read_timeout.filter(|_| self.ended) {
            Some(patience) => tokio::time::timeout(patience, self.read())
                .await
                .map_err(|_| Error::explain(ErrorType::ReadTimedout, "the rest of a body").into_down())?,
            None => self.read().await,
        }
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let patience = self.drain_timeout;
        let drain = async {
            while self.read().await?.is_some() {}
            Ok(())
        };
        match patience {
            Some(patience) => tokio::time::timeout(patience, drain)
                .await
                .map_err(|_| Error::explain(ErrorType::ReadTimedout, "draining a body").into_down())?,
            None => drain.await,
        }
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.write_head(response, end)
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, end: bool) -> Result<()> {
        self.write_head(Box::new(response.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.write(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.write_last(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut over = false;
        for task in tasks {
            over |= match task {
                HttpTask::Header(header, end) => {
                    self.write_head(header, end)?;
                    end
                }
                HttpTask::Body(data, end) => {
                    // An end without trailers goes with the last piece: one frame less. What follows an end is nothing.
                    match data {
                        Some(data) if end || !data.is_empty() => self.write(data, end).await?,
                        _ => {}
                    }
                    end
                }
                HttpTask::UpgradedBody(..) => {
                    return Err(Error::explain(ErrorType::InternalError, "a tunnel over HTTP/2").into_up());
                }
                HttpTask::Trailer(trailers) => {
                    if let Some(trailers) = trailers {
                        self.write_last(*trailers)?;
                    }
                    true
                }
                HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
            };
        }
        if over {
            self.end()?;
        }
        Ok(over)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain_timeout = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    /// Never the target: it may hold a key.
    fn request_summary(&self) -> String {
        self.request.method.to_string()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, code: u32, _context: &str) {
        self.cut(Reason::from(code));
    }

    async fn abandon(&mut self, _context: &str) {
        self.cut(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.received || self.is_body_empty()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()
    }

    fn is_body_empty(&mut self) -> bool {
        self.bytes_in == 0 && (self.received || self.exchange.head.length == Some(0))
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.is_body_done() {
            return Err(self.gone().await);
        }
        self.read_body_bytes().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.bytes_out
    }

    fn body_bytes_read(&self) -> usize {
        self.bytes_in
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    /// The request as HTTP/1.1 would have it: what fetches a kept answer anew in the background begins with it.
    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        let request = &self.request;
        let mut raw = Vec::with_capacity(512);
        raw.extend_from_slice(request.method.as_str().as_bytes());
        raw.push(b' ');
        raw.extend_from_slice(request.raw_path());
        raw.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &request.headers {
            raw.extend_from_slice(name.as_str().as_bytes());
            raw.extend_from_slice(b": ");
            raw.extend_from_slice(value.as_bytes());
            raw.extend_from_slice(b"\r\n");
        }
        raw.extend_from_slice(b"\r\n");
        raw.into()
    }

    fn enable_retry_buffering(&mut self) {
        self.replay.get_or_insert_default();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| replay.truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        let replay = self.replay.as_ref()?;
        let kept = !replay.truncated && !replay.buffer.is_empty();
        kept.then(|| Bytes::copy_from_slice(&replay.buffer))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn FuturesStream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn FuturesStream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
