//! The outside world: requests as exact as a test needs them, one answer at a time.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::{PATIENCE, Received};

/// Makes requests to one address.
#[derive(Clone, Copy)]
pub struct Client {
    address: SocketAddr,
}

/// A request that is being put together.
pub struct Request {
    address: SocketAddr,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// A complete answer.
#[derive(Clone, Default, PartialEq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Minor version of HTTP/1.
    pub version: u8,
    /// Field lines in order; names as sent.
    pub headers: Vec<(String, String)>,
    /// Content, decoded when it was chunked.
    pub body: Vec<u8>,
    /// Status codes of the interim answers before it.
    pub interim: Vec<u16>,
}

/// A connection that sends exactly what it is told to.
pub struct Connection {
    stream: TcpStream,
    /// What its bytes go through, if not just through the socket.
    inside: Option<Box<dyn Bytes>>,
    buffer: Vec<u8>,
}

/// Something that bytes go through, such as TLS.
pub trait Bytes: Read + Write + Send {}
impl<T: Read + Write + Send> Bytes for T {}

impl Client {
    /// Whom it asks.
    pub fn server(&self) -> SocketAddr {
        self.address
    }

    /// A client of this address.
    pub fn of(address: SocketAddr) -> Self {
        Self { address }
    }

    pub fn get(&self, target: &str) -> Request {
        self.request("GET", target)
    }

    pub fn post(&self, target: &str, body: impl Into<Vec<u8>>) -> Request {
        self.request("POST", target).body(body)
    }

    /// Any request.
    pub fn request(&self, method: &str, target: &str) -> Request {
        Request {
            address: self.address,
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }
}

impl Request {
    /// Adds a field line.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Presents a key.
    pub fn key(self, key: &str) -> Self {
        self.header("X-API-Key", key)
    }

    /// Presents a token.
    pub fn token(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Sets the host; without it, it is the address.
    pub fn host(self, host: &str) -> Self {
        self.header("Host", host)
    }

    /// Sets the content, with its length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Where it goes.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends it on a connection of its own and waits for the answer.
    #[track_caller]
    pub fn send(self) -> Answer {
        let mut connection = Connection::to(self.address);
        self.send_on(&mut connection)
    }

    /// Sends it on this connection and waits for the answer.
    #[track_caller]
    pub fn send_on(self, connection: &mut Connection) -> Answer {
        // An answer may come before everything is sent; then writing may fail, and reading tells why.
        let _ = connection.try_send(self.bytes());
        connection.try_answer(self.method == "HEAD").unwrap_or_else(|error| {
            panic!("no answer to {} {}: {error}", self.method, self.target);
        })
    }

    /// What goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let host = ("Host".to_owned(), self.address.to_string());
        let has_host = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
        let length = self
            .body
            .as_ref()
            .map(|body| ("Content-Length".to_owned(), body.len().to_string()));
        for (name, value) in (!has_host)
            .then_some(&host)
            .into_iter()
            .chain(&self.headers)
            .chain(&length)
        {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(self.body.iter().flatten());
        bytes
    }
}

impl Connection {
    /// Connects.
    #[track_caller]
    pub fn to(address: SocketAddr) -> Self {
        Self::try_to(address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    /// The same, for when nobody may be there.
    pub fn try_to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            inside: None,
            buffer: Vec::new(),
        })
    }

    /// The same connection inside what `wrap` makes of its socket.
    pub fn inside<B: Bytes + 'static>(mut self, wrap: impl FnOnce(TcpStream) -> io::Result<B>) -> io::Result<Self> {
        self.inside = Some(Box::new(wrap(self.stream.try_clone()?)?));
        Ok(self)
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).expect("sending to the gateway");
        self
    }

    /// The same, for when the other side may have closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.inside {
            Some(inside) => {
                inside.write_all(bytes.as_ref())?;
                inside.flush()
            }
            None => self.stream.write_all(bytes.as_ref()),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> &mut Self {
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    /// The next complete answer, to anything but HEAD.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.try_answer(false)
            .unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The next complete answer; an error when the connection ends or stays silent before it does.
    pub fn try_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let mut answer = self.head()?;
            if answer.status < 200 && answer.status != 101 {
                interim.push(answer.status);
                continue;
            }
            answer.interim = interim;
            if !to_head && !matches!(answer.status, 101 | 204 | 304) {
                self.read_body(&mut answer)?;
            }
            return Ok(answer);
        }
    }

    /// The head of the next answer, interim ones included, without its content.
    pub fn head(&mut self) -> io::Result<Answer> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 256];
            let mut head = httparse::Response::new(&mut fields);
            match head.parse(&self.buffer) {
                Ok(httparse::Status::Complete(length)) => {
                    let answer = Answer {
                        status: head.code.unwrap_or_default(),
                        version: head.version.unwrap_or_default(),
                        headers: head
                            .headers
                            .iter()
                            .map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned()))
                            .collect(),
                        ..Answer::default()
                    };
                    self.buffer.drain(..length);
                    return Ok(answer);
                }
                Ok(httparse::Status::Partial) => self.fill_some()?,
                Err(error) => {
                    let got = String::from_utf8_lossy(&self.buffer);
                    return Err(io::Error::other(format!("{error} in the answer {got:?}")));
                }
            }
        }
    }

    /// The next chunk of a chunked answer, as it arrives; empty at the end.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|_| io::Error::other(format!("{line:?} is not a chunk size")))?;
        let chunk = self.take(size)?;
        self.line()?;
        Ok(chunk)
    }

    /// Exactly so many bytes.
    pub fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill_some()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Everything until the other side closes; a reset is an end too.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill().is_ok_and(|read| read > 0) {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits until the other side closes, and tells whether it did; false when it sent something or stayed silent.
    pub fn is_closed_within(&mut self, patience: Duration) -> bool {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        let read = self.fill();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match read {
            Ok(read) => read == 0,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }

    /// Waits until the other side closes, and tells whether it did.
    pub fn is_closed(&mut self) -> bool {
        self.is_closed_within(PATIENCE)
    }

    /// The socket itself, for what nothing here foresees.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn read_body(&mut self, answer: &mut Answer) -> io::Result<()> {
        if answer.header("transfer-encoding").is_some() {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    return Ok(());
                }
                answer.body.extend(chunk);
            }
        }
        answer.body = match answer.header("content-length") {
            Some(length) => {
                let length = length
                    .parse()
                    .map_err(|_| io::Error::other(format!("content-length {length:?}")))?;
                self.take(length)?
            }
            None => self.rest(),
        };
        Ok(())
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
            let got = String::from_utf8_lossy(&self.buffer).into_owned();
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed after {got:?}"),
            ));
        }
        Ok(())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        loop {
            let read = match &mut self.inside {
                Some(inside) => inside.read(&mut chunk),
                None => self.stream.read(&mut chunk),
            };
            match read {
                // A socket with a timeout is not read on by itself after a signal.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let read = read?;
                    self.buffer.extend_from_slice(&chunk[..read]);
                    return Ok(read);
                }
            }
        }
    }
}

impl Answer {
    /// Fails the test when the status is another one, showing the whole answer.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// The same for a refusal of the gateway: status and code.
    #[track_caller]
    pub fn expect_refusal(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{self:?}");
        self
    }

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

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The content as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The code of a problem document; empty if it is none.
    pub fn code(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }

    /// What an echoing origin received.
    #[track_caller]
    pub fn echo(&self) -> Received {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: no echo is in {self:?}"))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "HTTP/1.{} {}", self.version, self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {value}")?;
        }
        let text = self.text();
        let shown: String = text.chars().take(2000).collect();
        write!(f, "\n{shown}")
    }
}
