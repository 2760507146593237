//! A client that speaks HTTP/2 with prior knowledge: one connection, whose streams a test drives step by step.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Uri};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Answer, PATIENCE};

/// One connection.
pub struct Http2 {
    runtime: Arc<Runtime>,
    authority: String,
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A request that is being put together.
pub struct Http2Request<'a> {
    client: &'a Http2,
    method: String,
    target: String,
    authority: String,
    headers: HeaderMap,
    body: Option<Bytes>,
}

/// A stream of it.
pub struct Http2Stream {
    runtime: Arc<Runtime>,
    sender: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
}

impl Http2 {
    /// Connects.
    #[track_caller]
    pub fn to(address: SocketAddr) -> Self {
        Self::with(address, &Builder::new())
    }

    /// The same, with other settings.
    #[track_caller]
    pub fn with(address: SocketAddr, settings: &Builder) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (requests, connection) = runtime.block_on(async {
            let socket = TcpStream::connect(address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            timeout(PATIENCE, settings.handshake(socket))
                .await
                .expect("a handshake")
                .unwrap()
        });
        let connection = runtime.spawn(connection);
        Self {
            runtime: Arc::new(runtime),
            authority: address.to_string(),
            requests,
            connection,
        }
    }

    pub fn get(&self, target: &str) -> Http2Request<'_> {
        self.request("GET", target)
    }

    pub fn post(&self, target: &str, body: impl Into<Bytes>) -> Http2Request<'_> {
        self.request("POST", target).body(body)
    }

    /// Any request.
    pub fn request(&self, method: &str, target: &str) -> Http2Request<'_> {
        Http2Request {
            client: self,
            method: method.to_owned(),
            target: target.to_owned(),
            authority: self.authority.clone(),
            headers: HeaderMap::new(),
            body: None,
        }
    }

    /// Waits until the other side ends the connection, and says why if it was an error.
    #[track_caller]
    pub fn ended(mut self) -> Option<Reason> {
        let ended = self
            .runtime
            .block_on(async { timeout(PATIENCE, &mut self.connection).await })
            .expect("the connection ends")
            .unwrap();
        ended.err().map(|error| error.reason().unwrap_or(Reason::NO_ERROR))
    }

    /// Whether the other side has ended the connection within this time.
    pub fn ends_within(&mut self, patience: Duration) -> bool {
        self.runtime
            .block_on(async { timeout(patience, &mut self.connection).await })
            .is_ok()
    }
}

impl Drop for Http2 {
    /// The connection ends with its client, whatever streams a test still holds.
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Http2Request<'_> {
    /// Adds a field.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    /// Presents a key.
    pub fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    /// Sets the authority; without it, it is the address.
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.authority);
        self
    }

    /// Sets the content.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends the whole request and waits for the whole answer.
    #[track_caller]
    pub fn send(self) -> Answer {
        self.exchange().0
    }

    /// The same, with the trailers.
    #[track_caller]
    pub fn exchange(mut self) -> (Answer, HeaderMap) {
        let body = self.body.take();
        let mut stream = self.begin(body.is_none());
        if let Some(body) = body {
            // An answer may come before everything is sent.
            let _ = stream.try_send(body, true);
        }
        stream.answer()
    }

    /// Sends the head; `is_all` when no body follows.
    #[track_caller]
    pub fn open(self) -> Http2Stream {
        self.begin(false)
    }

    #[track_caller]
    fn begin(self, is_all: bool) -> Http2Stream {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority)
            .path_and_query(self.target)
            .build()
            .unwrap();
        let mut request = http::Request::new(());
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).unwrap();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers;
        let client = self.client;
        let mut requests = client.runtime.block_on(async {
            timeout(PATIENCE, client.requests.clone().ready())
                .await
                .expect("room for a stream")
                .expect("a connection")
        });
        let (response, sender) = requests.send_request(request, is_all).unwrap();
        Http2Stream {
            runtime: Arc::clone(&client.runtime),
            sender,
            response: Some(response),
            body: None,
        }
    }
}

impl Http2Stream {
    /// Sends a piece of the body.
    #[track_caller]
    pub fn send(&mut self, piece: impl Into<Bytes>) -> &mut Self {
        self.try_send(piece.into(), false).expect("sending");
        self
    }

    /// Ends the body.
    #[track_caller]
    pub fn finish(&mut self) -> &mut Self {
        self.try_send(Bytes::new(), true).expect("sending");
        self
    }

    /// Sends a piece as the other side has room for it.
    pub fn try_send(&mut self, mut piece: Bytes, end: bool) -> Result<(), h2::Error> {
        let sender = &mut self.sender;
        self.runtime.block_on(async {
            while !piece.is_empty() {
                sender.reserve_capacity(piece.len());
                let room = timeout(PATIENCE, std::future::poll_fn(|context| sender.poll_capacity(context)))
                    .await
                    .expect("room to send");
                let Some(room) = room.transpose()? else { break };
                let part = piece.split_to(room.min(piece.len()));
                let is_last = end && piece.is_empty();
                sender.send_data(part, is_last)?;
                if is_last {
                    return Ok(());
                }
            }
            if end {
                sender.send_data(Bytes::new(), true)?;
            }
            Ok(())
        })
    }

    /// Gives the stream up.
    pub fn reset(&mut self) {
        self.sender.send_reset(Reason::CANCEL);
    }

    /// The head of the answer, once.
    #[track_caller]
    pub fn head(&mut self) -> Answer {
        self.try_head().unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The same, for when there may be none.
    pub fn try_head(&mut self) -> Result<Answer, h2::Error> {
        let response = self.response.take().expect("the head is taken once");
        let response = self
            .runtime
            .block_on(async { timeout(PATIENCE, response).await })
            .expect("the head of an answer")?;
        let (head, body) = response.into_parts();
        self.body = Some(body);
        Ok(Answer {
            status: head.status.as_u16(),
            version: 2,
            headers: head
                .headers
                .iter()
                .map(|(name, value)| {
                    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    (name.as_str().to_owned(), value)
                })
                .collect(),
            ..Answer::default()
        })
    }

    /// The next piece of the answer; none at its end.
    pub fn data(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let body = self.body.as_mut().expect("the head comes first");
        self.runtime.block_on(async {
            let data = timeout(PATIENCE, body.data()).await.expect("more of the answer");
            if let Some(Ok(data)) = &data {
                let _ = body.flow_control().release_capacity(data.len());
            }
            data.transpose()
        })
    }

    /// What stands behind the answer.
    pub fn trailers(&mut self) -> Result<HeaderMap, h2::Error> {
        let body = self.body.as_mut().expect("the head comes first");
        self.runtime.block_on(async {
            let trailers = timeout(PATIENCE, body.trailers()).await.expect("the end of the answer");
            trailers.map(Option::unwrap_or_default)
        })
    }

    /// The whole answer, with its trailers.
    #[track_caller]
    pub fn answer(&mut self) -> (Answer, HeaderMap) {
        let mut answer = self.head();
        while let Some(data) = self.data().unwrap_or_else(|error| panic!("{error} after {answer:?}")) {
            answer.body.extend_from_slice(&data);
        }
        let trailers = self
            .trailers()
            .unwrap_or_else(|error| panic!("{error} after {answer:?}"));
        (answer, trailers)
    }
}
