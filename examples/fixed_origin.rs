//! An origin that costs next to nothing: answers every request with the same bytes of body.
//!
//! ```text
//! cargo run --release --example fixed_origin -- 127.0.0.1:9101 [MILLISECONDS [CACHE_CONTROL]]
//! ```
//!
//! With a time, each answer takes that long. The body has 748 bytes; a path that ends in `/bytes/N` gets N of them, at
//! most 1 MiB. Bodies of requests are read to their end and thrown away, with `Content-Length` or chunked.
//!
//! Answers say that they must not be kept; with `CACHE_CONTROL`, for example `max-age=3600`, they say that instead, and
//! were made when the origin was started.
//!
//! For load tests only: heads are read to their empty line, and of a GET or HEAD it believes that there is no body. A
//! real server beside the load generator takes so much of the processor that the proxy between them waits for it.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// What a path without `/bytes/N` gets.
const USUAL: usize = 748;
/// The longest body.
const MOST: usize = 1024 * 1024;
/// Longer heads are the end of the connection.
const HEAD_MOST: usize = 64 * 1024;

static BODY: [u8; MOST] = [b'x'; MOST];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: fixed_origin ADDRESS [MILLISECONDS]");
        return ExitCode::from(2);
    };
    let delay = match std::env::args().nth(2).map(|text| text.parse()) {
        None => Duration::ZERO,
        Some(Ok(millis)) => Duration::from_millis(millis),
        Some(Err(error)) => {
            eprintln!("fixed_origin: milliseconds: {error}");
            return ExitCode::from(2);
        }
    };
    let fields = fields(std::env::args().nth(3).as_deref());
    let listener = match listen(&address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("fixed_origin: {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let fields: &'static str = fields.leak();
    let usual: &'static [u8] = answer(USUAL, fields).leak();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, (usual, fields), delay));
        }
    }
}

/// With room for a flash of connections: those beyond the backlog would try again after a second.
fn listen(address: &str) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.parse().map_err(std::io::Error::other)?)?;
    socket.listen(4096)
}

/// Answers until the other side closes, the connection fails or makes no sense; all are the end of a load test.
async fn serve(mut stream: TcpStream, (usual, fields): (&'static [u8], &'static str), delay: Duration) {
    let _ = stream.set_nodelay(true);
    let mut received = Vec::with_capacity(8 * 1024);
    // The last answer of another length: a client mostly asks for few of them.
    let (mut other, mut other_length) = (Vec::new(), USUAL);
    while matches!(stream.read_buf(&mut received).await, Ok(read) if read > 0) {
        while let Some(end) = memmem::find(&received, b"\r\n\r\n") {
            let Some(head) = received.get(..end) else { return };
            let (length, body) = (wanted(head), body_of(head));
            received.drain(..end + 4);
            if body.read(&mut stream, &mut received).await.is_none() {
                return;
            }
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if length != USUAL && length != other_length {
                other = answer(length, fields);
                other_length = length;
            }
            let bytes = if length == USUAL { usual } else { other.as_slice() };
            if stream.write_all(bytes).await.is_err() {
                return;
            }
        }
        if received.len() > HEAD_MOST {
            return;
        }
    }
}

/// The fields that say how old an answer is and how long it may be kept.
fn fields(cache_control: Option<&str>) -> String {
    match cache_control {
        None => "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nCache-Control: no-store".to_owned(),
        Some(cache_control) => {
            let date = httpdate::fmt_http_date(SystemTime::now());
            format!("Date: {date}\r\nCache-Control: {cache_control}")
        }
    }
}

/// A whole answer.
fn answer(length: usize, fields: &str) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\n{fields}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(BODY.get(..length).unwrap_or(&BODY));
    answer
}

/// How many bytes the target asks for.
fn wanted(head: &[u8]) -> usize {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or(head);
    let Some(at) = memmem::find(line, b"/bytes/") else {
        return USUAL;
    };
    let digits = line
        .iter()
        .skip(at + b"/bytes/".len())
        .take_while(|byte| byte.is_ascii_digit());
    let length = digits.fold(0_usize, |sum, digit| {
        sum.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
    });
    length.min(MOST)
}

/// How the body of a request ends.
enum Body {
    None,
    Length(usize),
    Chunked,
}

fn body_of(head: &[u8]) -> Body {
    if head.starts_with(b"GET ") || head.starts_with(b"HEAD ") {
        return Body::None;
    }
    for line in head.split(|&byte| byte == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let Ok(value) = std::str::from_utf8(value) else {
            continue;
        };
        let value = value.trim_matches([':', ' ', '\r']);
        if name.eq_ignore_ascii_case(b"content-length") {
            return value.parse().map_or(Body::None, Body::Length);
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            return Body::Chunked;
        }
    }
    Body::None
}

impl Body {
    /// Takes the body out of what was received and what still comes. None is the end of the connection.
    async fn read(self, stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::None => Some(()),
            Self::Length(length) => skip(stream, received, length).await,
            Self::Chunked => loop {
                let line = loop {
                    match memmem::find(received, b"\r\n") {
                        Some(end) => break end,
                        None if received.len() > HEAD_MOST => return None,
                        None => more(stream, received).await?,
                    }
                };
                let digits = std::str::from_utf8(received.get(..line)?).ok()?;
                let size = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
                received.drain(..line + 2);
                // Every chunk, the last one too, has an end of line behind it; trailers do not come in load tests.
                skip(stream, received, size.checked_add(2)?).await?;
                if size == 0 {
                    return Some(());
                }
            },
        }
    }
}

/// Throws so many bytes away.
async fn skip(stream: &mut TcpStream, received: &mut Vec<u8>, mut bytes: usize) -> Option<()> {
    loop {
        let here = bytes.min(received.len());
        received.drain(..here);
        bytes -= here;
        if bytes == 0 {
            return Some(());
        }
        more(stream, received).await?;
    }
}

/// Waits for more of it.
async fn more(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<()> {
    matches!(stream.read_buf(received).await, Ok(read) if read > 0).then_some(())
}
