//! The HTTP of the listeners beside the gateway: for a handful of callers, and bounded so that none of them can keep the
//! others out. `axum::serve` was rejected, because it has neither a bound on connections nor a deadline for a head.

use std::io;
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections at a time; more wait in the backlog until one ends, which [`HEAD`] and [`LIFE`] see to.
const CONNECTIONS: usize = 64;

/// Until the head of a request has come, on a new connection or after the last answer.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may last. It ends after the answer that is on its way.
const LIFE: Duration = Duration::from_secs(60);

/// How long that answer may take, to a caller that does not read.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// The longest head.
const HEAD_BYTES: usize = 16 * 1024;

/// How long nobody is accepted after the system has refused to accept: it is out of files, for one.
const BREATH: Duration = Duration::from_millis(100);

/// Answers on this listener until the runtime ends.
///
/// # Errors
/// When the listener can not be used.
pub async fn serve(listener: TcpListener, router: Router) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut http = Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES);
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    // Never closed, so a seat is always given.
    while let Ok(seat) = Arc::clone(&seats).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(BREATH).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _seat = seat;
            let mut connection = pin!(connection);
            // How a connection ends is its caller's business.
            if timeout(LIFE, connection.as_mut()).await.is_err() {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(LAST_ANSWER, connection).await;
            }
        });
    }
    Ok(())
}
