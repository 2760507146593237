//! The bounded HTTP of everything that is not the gateway: of the listeners beside it, for a handful of callers, and of
//! the control plane, for thousands of gateways. Bounded so that no caller can keep the others out. `axum::serve` was
//! rejected, because it has neither a bound on connections nor a deadline for a head.

mod patience;

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use patience::Patient;

/// What a listener allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at a time; more wait in the backlog until one ends, which the deadlines see to.
    pub connections: u32,
    /// Until a connection is set up (TLS) and, after that, until the head of a request has come: on a new connection or
    /// after the last answer.
    pub head: Duration,
    /// How long a connection may last; it ends after the answer that is on its way. None: as long as it is used.
    pub life: Option<Duration>,
    /// How long a caller may take nothing of an answer.
    pub stall: Duration,
    /// How long an answer that is on its way may take when the connection has to end.
    pub last_answer: Duration,
    /// The longest head in bytes.
    pub head_bytes: usize,
    /// How long connections are served as ever when nobody is accepted any more: for what was sent on them already.
    pub linger: Duration,
}

impl Bounds {
    /// For a handful of callers.
    pub const BESIDE: Self = Self {
        connections: 64,
        head: Duration::from_secs(10),
        life: Some(Duration::from_secs(60)),
        stall: Duration::from_secs(30),
        last_answer: Duration::from_secs(10),
        head_bytes: 16 * 1024,
        linger: Duration::from_secs(1),
    };
}

/// What is done with a connection before it is spoken on.
pub trait Accept: Clone + Send + Sync + 'static {
    /// What is spoken on.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Sets a connection up. An error ends it; why is nobody's business but the caller's.
    fn accept(&self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// HTTP without TLS.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Accept for Plain {
    type Stream = TcpStream;

    async fn accept(&self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }
}

/// How long nobody is accepted after the system has refused to accept: it is out of files, for one.
const BREATH: Duration = Duration::from_millis(100);

/// Answers on this listener until `end`. Then nobody is accepted any more, idle connections are closed, and answers that
/// are on their way are finished, in [`Bounds::last_answer`] at most.
///
/// # Errors
/// When the listener can not be used.
pub async fn serve_until(
    listener: TcpListener,
    accept: impl Accept,
    router: Router,
    bounds: Bounds,
    end: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut http = Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(bounds.head_bytes);
    let seats = Arc::new(Semaphore::new(
        usize::try_from(bounds.connections).unwrap_or(usize::MAX),
    ));
    let (leave, leaving) = watch::channel(false);
    let mut end = pin!(end);
    loop {
        let accepted = async {
            // Never closed, so a seat is always given.
            let seat = Arc::clone(&seats).acquire_owned().await.ok();
            (seat, listener.accept().await)
        };
        let (seat, stream) = tokio::select! {
            () = end.as_mut() => break,
            (seat, accepted) = accepted => match accepted {
                Ok((stream, _)) => (seat, stream),
                Err(_) => {
                    sleep(BREATH).await;
                    continue;
                }
            },
        };
        // Answers are small or sent in large pieces: waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let (accept, http, router) = (accept.clone(), http.clone(), router.clone());
        let mut leaving = leaving.clone();
        tokio::spawn(async move {
            let _seat = seat;
            let accepted = tokio::select! {
                accepted = timeout(bounds.head, accept.accept(stream)) => accepted,
                // Who has not said anything yet is not waited for.
                _ = leaving.wait_for(|leaving| *leaving) => return,
            };
            if let Ok(Ok(stream)) = accepted {
                converse(stream, &http, router, bounds, leaving).await;
            }
        });
    }
    drop(listener);
    // Whoever has just been accepted has perhaps asked already, and would be reset.
    sleep(bounds.linger).await;
    leave.send_replace(true);
    // All seats are free when everybody has gone.
    let _ = timeout(bounds.last_answer + BREATH, seats.acquire_many(bounds.connections)).await;
    Ok(())
}

/// Answers on one connection. How it ends is its caller's business.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http: &Builder,
    router: Router,
    bounds: Bounds,
    mut leaving: watch::Receiver<bool>,
) {
    let stream = TokioIo::new(Patient::new(stream, bounds.stall));
    let mut connection = pin!(http.serve_connection(stream, TowerToHyperService::new(router)));
    let life = async {
        match bounds.life {
            Some(life) => sleep(life).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = life => {}
        // Fails when the listener's task is gone, which is the end too.
        _ = leaving.wait_for(|leaving| *leaving) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(bounds.last_answer, connection).await;
}
