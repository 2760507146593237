//! A service behind the gateway: plain TCP, so that it can behave as badly as it likes, and counts every byte it gets.
//!
//! What it does is a function of one [`Exchange`]; the usual ones have names: [`echo`], [`answer`], [`hangs`], …

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Socket, Type};

/// A running service. Ends, with all its connections, when dropped.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// A service that has its port but is not there yet: connecting to it is refused. The port is held, so that no other
/// test gets it.
pub struct Planned(Socket);

/// What a service does with a request. An error ends the connection, as the end of the peer does.
pub trait Behaviour: Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static {}

impl<F: Fn(&mut Exchange) -> io::Result<()> + Send + Sync + 'static> Behaviour for F {}

/// What arrived. An [`echo`] answers with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Method as written.
    pub method: String,
    /// Target as written.
    pub target: String,
    /// Field lines in order; names as written.
    pub headers: Vec<(String, String)>,
    /// Content, decoded when it was chunked. Empty until it was read.
    pub body: String,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

struct Shared {
    behaviour: Box<dyn Behaviour>,
    stopped: AtomicBool,
    connections: AtomicUsize,
    bytes: AtomicU64,
    received: Mutex<Vec<Received>>,
    streams: Mutex<Vec<TcpStream>>,
}

impl Origin {
    /// Starts a service on a free port.
    pub fn start(behaviour: impl Behaviour) -> Self {
        Planned::new().start(behaviour)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes it got, heads and all.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Every request whose head it got, in order.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// How many those are.
    pub fn requests(&self) -> usize {
        lock(&self.shared.received).len()
    }
}

impl Planned {
    /// Takes a free port.
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket)
    }

    /// Takes this very address.
    pub fn at(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        Self(socket)
    }

    /// Where it is going to listen.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// Starts it.
    pub fn start(self, behaviour: impl Behaviour) -> Origin {
        self.0.listen(1024).unwrap();
        let listener = TcpListener::from(self.0);
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behaviour: Box::new(behaviour),
            stopped: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            received: Mutex::default(),
            streams: Mutex::default(),
        });
        let accepting = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept(&listener, &shared))
        };
        Origin {
            address,
            shared,
            accepting: Some(accepting),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Received {
    /// The value of the only field of this name; none if there is none, or more than one.
    pub fn header(&self, name: &str) -> Option<&str> {
        match *self.all(name) {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The values of all fields of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// One request and the means to answer it.
pub struct Exchange {
    /// The head of the request, and its content once [`Exchange::read_body`] was called.
    pub request: Received,
    shared: Arc<Shared>,
    stream: TcpStream,
    buffer: Vec<u8>,
    body: Option<Body>,
    ended: bool,
}

#[derive(Clone, Copy)]
enum Body {
    Length(usize),
    Chunked,
}

impl Exchange {
    /// Reads the content, once.
    pub fn read_body(&mut self) -> io::Result<Vec<u8>> {
        let body = match self.body.take() {
            None => return Ok(Vec::new()),
            Some(Body::Length(length)) => self.take(length)?,
            Some(Body::Chunked) => self.read_chunks()?,
        };
        self.request.body = String::from_utf8_lossy(&body).into_owned();
        Ok(body)
    }

    /// Reads the next chunk of a chunked content; empty at the end.
    pub fn read_chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| io::Error::other(format!("chunk size {line:?}")))?;
        let chunk = self.take(size)?;
        self.line()?;
        if size == 0 {
            self.body = None;
        }
        Ok(chunk)
    }

    /// Reads exactly so many bytes, whatever they are.
    pub fn read(&mut self, length: usize) -> io::Result<Vec<u8>> {
        self.take(length)
    }

    /// Says that [`Exchange::read`] has taken all of the content, so that nobody looks for it again.
    pub fn has_read_the_body(&mut self) {
        self.body = None;
    }

    /// Sends a complete answer with these field lines (each ending in CRLF).
    pub fn respond(&mut self, status: u16, fields: &str, body: &[u8]) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n{fields}\r\n",
            body.len()
        );
        let content = if self.request.method == "HEAD" { &[][..] } else { body };
        self.send(&[head.as_bytes(), content].concat())
    }

    /// Sends these bytes, whatever they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a chunk of a chunked answer.
    pub fn send_chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
        self.send(&framed)
    }

    /// Waits for the peer to go away, or for the test to end.
    pub fn wait_for_the_end(&mut self) {
        while self.fill().is_ok_and(|read| read > 0) {}
        self.ended = true;
    }

    /// Closes the connection as if nothing was wrong.
    pub fn close(&mut self) {
        self.forget();
        let _ = self.stream.shutdown(Shutdown::Both);
        self.ended = true;
    }

    /// Lets the copy of the socket go, so that a long test does not hold a descriptor for every connection it ever had.
    fn forget(&self) {
        let peer = self.stream.peer_addr().ok();
        lock(&self.shared.streams).retain(|stream| stream.peer_addr().ok() != peer);
    }

    /// Closes the connection with a TCP reset.
    pub fn reset(&mut self) {
        // With nothing to linger for, closing sends a reset; the copies are closed first, because the last close counts.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        self.forget();
        self.ended = true;
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let chunk = self.read_chunk()?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend(chunk);
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill_some()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill_some()?;
        }
    }

    fn fill_some(&mut self) -> io::Result<()> {
        if self.fill()? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        let read = self.stream.read(&mut chunk)?;
        self.shared.bytes.fetch_add(read as u64, Ordering::SeqCst);
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    /// Waits for the next head. `None` when the peer has gone, or sends what is no request.
    fn next_head(&mut self) -> Option<()> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 256];
            let mut head = httparse::Request::new(&mut fields);
            match head.parse(&self.buffer) {
                Ok(httparse::Status::Complete(length)) => {
                    self.request = Received {
                        method: head.method?.to_owned(),
                        target: head.path?.to_owned(),
                        headers: head
                            .headers
                            .iter()
                            .map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned()))
                            .collect(),
                        body: String::new(),
                        connection: self.request.connection,
                    };
                    self.buffer.drain(..length);
                    self.body = self.framing();
                    return Some(());
                }
                Ok(httparse::Status::Partial) => self.fill_some().ok()?,
                Err(_) => return None,
            }
        }
    }

    fn framing(&self) -> Option<Body> {
        if self.request.header("transfer-encoding").is_some() {
            return Some(Body::Chunked);
        }
        let length = self.request.header("content-length")?.parse().ok()?;
        Some(Body::Length(length))
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_nodelay(true);
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        if let Ok(copy) = stream.try_clone() {
            lock(&shared.streams).push(copy);
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || serve(stream, connection, &shared));
    }
}

fn serve(stream: TcpStream, connection: usize, shared: &Arc<Shared>) {
    let mut exchange = Exchange {
        request: Received {
            connection,
            ..Received::default()
        },
        shared: Arc::clone(shared),
        stream,
        buffer: Vec::new(),
        body: None,
        ended: false,
    };
    while exchange.next_head().is_some() {
        lock(&shared.received).push(exchange.request.clone());
        let done = (shared.behaviour)(&mut exchange).and_then(|()| exchange.read_body());
        if done.is_err() || exchange.ended {
            return;
        }
    }
    exchange.close();
}

/// Answers 200 with what it [received](Received), as JSON.
pub fn echo() -> impl Behaviour {
    |exchange: &mut Exchange| {
        exchange.read_body()?;
        let body = serde_json::to_vec(&exchange.request)?;
        exchange.respond(200, "content-type: application/json\r\n", &body)
    }
}

/// Answers always the same.
pub fn answer(status: u16, body: &'static str) -> impl Behaviour {
    move |exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.respond(status, "", body.as_bytes())
    }
}

/// Answers byte by byte.
pub fn drips(body: &'static str, pause: Duration) -> impl Behaviour {
    move |exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes())?;
        for byte in body.as_bytes() {
            std::thread::sleep(pause);
            exchange.send(&[*byte])?;
        }
        Ok(())
    }
}

/// Reads the head and does nothing at all.
pub fn hangs() -> impl Behaviour {
    |exchange: &mut Exchange| {
        exchange.wait_for_the_end();
        Ok(())
    }
}

/// Promises ten bytes, sends five and resets the connection.
pub fn resets_mid_body() -> impl Behaviour {
    |exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")?;
        // Long enough for the bytes to arrive: a reset would overtake them.
        std::thread::sleep(Duration::from_millis(50));
        exchange.reset();
        Ok(())
    }
}

/// Closes the connection instead of answering.
pub fn closes_early() -> impl Behaviour {
    |exchange: &mut Exchange| {
        exchange.close();
        Ok(())
    }
}

/// Answers these bytes and closes.
pub fn garbage(bytes: &'static [u8]) -> impl Behaviour {
    move |exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.send(bytes)?;
        exchange.close();
        Ok(())
    }
}

/// Answers when it has the head, and reads nothing of the content until the peer goes.
pub fn answers_before_reading(status: u16) -> impl Behaviour {
    move |exchange: &mut Exchange| exchange.respond(status, "", b"early")
}

/// Answers 200 with "right", then sends bytes that belong to no answer.
pub fn answers_too_much(extra: &'static [u8]) -> impl Behaviour {
    move |exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.send(&[b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nright", extra].concat())
    }
}

/// Answers chunked, and closes nothing.
pub fn chunks(chunks: &'static [&'static str]) -> impl Behaviour {
    move |exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for chunk in chunks {
            exchange.send_chunk(chunk.as_bytes())?;
        }
        exchange.send(b"0\r\n\r\n")
    }
}

/// Answers with so many bytes.
pub fn huge(bytes: usize) -> impl Behaviour {
    move |exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n").as_bytes())?;
        let block = [b'x'; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            let part = left.min(block.len());
            exchange.send(&block[..part])?;
            left -= part;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
