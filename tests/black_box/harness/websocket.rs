//! A service and clients that speak WebSocket, both real.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use super::PATIENCE;

/// A service that sends back what it gets, and closes when it is told `close CODE`. Ends when dropped.
pub struct EchoSocket {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    _runtime: Runtime,
}

/// Makes sockets to one address.
pub struct Sockets {
    address: SocketAddr,
    runtime: Arc<Runtime>,
}

/// One of them.
pub struct WebSocket {
    runtime: Arc<Runtime>,
    stream: WebSocketStream<TcpStream>,
}

impl EchoSocket {
    /// Starts it on a free port.
    pub fn start() -> Self {
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (open, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (opened, ended) = (Arc::clone(&open), Arc::clone(&closed));
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let (opened, ended) = (Arc::clone(&opened), Arc::clone(&ended));
                tokio::spawn(async move {
                    if let Ok(socket) = accept_async(stream).await {
                        opened.fetch_add(1, Ordering::SeqCst);
                        let code = echo(socket).await;
                        opened.fetch_sub(1, Ordering::SeqCst);
                        ended.store(code.map_or(0, |code| u16::from(code).into()), Ordering::SeqCst);
                    }
                });
            }
        });
        Self {
            address,
            open,
            closed,
            _runtime: runtime,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many sockets are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// The code with which the last client said goodbye; 0 when it did not.
    pub fn closed_with(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }
}

async fn echo(mut socket: WebSocketStream<TcpStream>) -> Option<CloseCode> {
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Text(text) if text.starts_with("close ") => {
                let code = text.trim_start_matches("close ").parse::<u16>().unwrap();
                let frame = CloseFrame {
                    code: code.into(),
                    reason: "as you wish".into(),
                };
                let _ = socket.close(Some(frame)).await;
            }
            Message::Text(_) | Message::Binary(_) => socket.send(message).await.ok()?,
            Message::Close(frame) => {
                // The library answers it, when it is asked to go on.
                let _ = socket.next().await;
                return frame.map(|frame| frame.code);
            }
            _ => {}
        }
    }
    None
}

impl Sockets {
    /// To this address.
    pub fn to(address: SocketAddr) -> Self {
        Self {
            address,
            runtime: Arc::new(runtime()),
        }
    }

    /// Asks for a socket; the status when there is none.
    #[track_caller]
    pub fn open(&self, target: &str, key: Option<&str>) -> Result<WebSocket, u16> {
        self.runtime.block_on(async {
            let stream = TcpStream::connect(self.address).await.unwrap();
            let mut request = http::Request::builder()
                .uri(format!("ws://{}{target}", self.address))
                .header("host", self.address.to_string())
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", generate_key());
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            let opened = timeout(PATIENCE, client_async(request.body(()).unwrap(), stream))
                .await
                .expect("an answer to the handshake");
            match opened {
                Ok((stream, _)) => Ok(WebSocket {
                    runtime: Arc::clone(&self.runtime),
                    stream,
                }),
                Err(Error::Http(response)) => Err(response.status().as_u16()),
                Err(error) => panic!("no socket: {error}"),
            }
        })
    }
}

impl WebSocket {
    /// Sends a message.
    #[track_caller]
    pub fn send(&mut self, message: impl Into<Message>) {
        self.runtime
            .block_on(self.stream.send(message.into()))
            .expect("sending");
    }

    /// The next message; none when the connection is gone.
    #[track_caller]
    pub fn next(&mut self) -> Option<Message> {
        let next = self
            .runtime
            .block_on(async { timeout(PATIENCE, self.stream.next()).await });
        next.expect("a message, or the end")?.ok()
    }

    /// Sends a text and expects it back.
    #[track_caller]
    pub fn echoes(&mut self, text: &str) {
        self.send(text);
        assert_eq!(self.next(), Some(Message::text(text)));
    }

    /// Says goodbye, and gives what the other side said to it.
    #[track_caller]
    pub fn close(&mut self, code: u16) -> Option<Message> {
        let frame = CloseFrame {
            code: code.into(),
            reason: "enough".into(),
        };
        self.send(Message::Close(Some(frame)));
        self.next()
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
