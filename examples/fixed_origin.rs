//! An origin that costs next to nothing: answers every request head with the same 748 bytes of body.
//!
//! ```text
//! cargo run --release --example fixed_origin -- 127.0.0.1:9101 [MILLISECONDS]
//! ```
//!
//! With a time, each answer takes that long.
//!
//! For load tests only: it reads heads to their empty line and believes that there is no body. A real server beside
//! the load generator takes so much of the processor that the proxy between them waits for it.

use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const BODY: [u8; 748] = [b'x'; 748];

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
    let listener = match listen(&address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("fixed_origin: {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut answer = b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
        Content-Type: application/json\r\nContent-Length: 748\r\nCache-Control: no-store\r\n\r\n"
        .to_vec();
    answer.extend_from_slice(&BODY);
    let answer: &'static [u8] = answer.leak();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer, delay));
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

/// Answers until the other side closes or the connection fails; both are the end of a load test.
async fn serve(mut stream: TcpStream, answer: &'static [u8], delay: Duration) {
    let _ = stream.set_nodelay(true);
    let mut received = Vec::with_capacity(8 * 1024);
    while matches!(stream.read_buf(&mut received).await, Ok(read) if read > 0) {
        while let Some(end) = memchr::memmem::find(&received, b"\r\n\r\n") {
            received.drain(..end + 4);
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }
}
