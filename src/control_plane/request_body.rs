//! Bodies of requests that do not come: who has sent a head and then falls silent must not hold a connection for ever,
//! least of all before it has said who it is. And bodies that nobody reads: a connection that is closed while its client
//! still sends is reset, and the client never sees why it was refused. One place for every route, whatever reads the body
//! there.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use super::problem::Problem;

/// How long a body may pause while it is waited for.
const SILENCE: Duration = Duration::from_secs(10);

/// How long it may take in all: a byte now and then is no progress either.
const WHOLE: Duration = Duration::from_secs(120);

/// How much of a body that nobody wanted is read away before the refusal is sent, and for how long.
const REST: usize = 1 << 20;
const REST_TIME: Duration = Duration::from_secs(2);

/// Where a body is left that was not read to its end.
type Left = Arc<Mutex<Option<Body>>>;

/// Lets a request through with a body that ends with an error when it takes too long, and then answers 408, whatever the
/// route has made of the error.
pub async fn bounded(request: Request, next: Next) -> Response {
    let is_late = Arc::new(AtomicBool::new(false));
    let left = Left::default();
    let request = request.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Hurried {
            body,
            silence: None,
            whole: None,
            is_late: Arc::clone(&is_late),
            left: Arc::clone(&left),
        })
    });
    let answer = next.run(request).await;
    if !answer.status().is_client_error() {
        return answer;
    }
    if is_late.load(Ordering::Relaxed) {
        return Problem::TooSlow.into_response();
    }
    let rest = left.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(rest) = rest {
        // Whoever sends more, or slower, may lose the connection before the answer.
        let _ = timeout(REST_TIME, read_away(rest)).await;
    }
    answer
}

async fn read_away(mut body: Body) {
    let mut read = 0_usize;
    while let Some(Ok(frame)) = body.frame().await {
        read = read.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if read > REST {
            return;
        }
    }
}

/// A body with deadlines. They run while it is waited for only.
struct Hurried {
    body: Body,
    silence: Option<Pin<Box<Sleep>>>,
    whole: Option<Pin<Box<Sleep>>>,
    is_late: Arc<AtomicBool>,
    left: Left,
}

impl Drop for Hurried {
    fn drop(&mut self) {
        let body = std::mem::take(&mut self.body);
        if !body.is_end_stream() {
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl hyper::body::Body for Hurried {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_ready() {
            self.silence = None;
            // What is there already is read on, also when the time is over: the next pause ends it.
            return frame;
        }
        let whole = self.whole.get_or_insert_with(|| Box::pin(sleep(WHOLE)));
        let is_over = whole.as_mut().poll(context).is_ready();
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(SILENCE)));
        if silence.as_mut().poll(context).is_pending() && !is_over {
            return Poll::Pending;
        }
        self.is_late.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(axum::Error::new(io::Error::from(io::ErrorKind::TimedOut)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use futures_util::{StreamExt, stream};
    use tokio::time::Instant;
    use tower::ServiceExt;

    use super::*;

    async fn ask(body: Body) -> (StatusCode, Duration) {
        let router = Router::new()
            .route("/", post(async |body: Bytes| body))
            .layer(from_fn(bounded));
        let begun = Instant::now();
        let answer = router
            .oneshot(Request::builder().method("POST").uri("/").body(body).unwrap())
            .await
            .unwrap();
        (answer.status(), begun.elapsed())
    }

    fn piece() -> Result<Bytes, Infallible> {
        Ok(Bytes::from_static(b"x"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_given_up_and_one_that_pauses_is_not() {
        let (status, took) = ask(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())).await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert!(took < SILENCE * 2, "{took:?}");
        let begun = stream::iter([piece()]).chain(stream::pending());
        assert_eq!(ask(Body::from_stream(begun)).await.0, StatusCode::REQUEST_TIMEOUT);

        let slow = stream::iter(0..5).then(async |_| {
            sleep(SILENCE - Duration::from_secs(1)).await;
            piece()
        });
        assert_eq!(ask(Body::from_stream(Box::pin(slow))).await.0, StatusCode::OK);
        assert_eq!(ask(Body::from("at once")).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn what_is_refused_unread_is_read_away_up_to_a_bound() {
        use std::sync::atomic::AtomicUsize;

        for (pieces, expected) in [(10, 10), (1000, 65)] {
            let sent = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&sent);
            let body = stream::iter(0..pieces).map(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Bytes::from(vec![0; 16 << 10]))
            });
            let router = Router::new()
                .route("/", post(async || StatusCode::PAYLOAD_TOO_LARGE))
                .layer(from_fn(bounded));
            let request = Request::builder().method("POST").uri("/");
            let answer = router
                .oneshot(request.body(Body::from_stream(body)).unwrap())
                .await
                .unwrap();
            assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(sent.load(Ordering::Relaxed), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_holds_nothing_for_ever() {
        let drops = stream::iter(0..1000).then(async |_| {
            sleep(SILENCE - Duration::from_secs(1)).await;
            piece()
        });
        let (status, took) = ask(Body::from_stream(Box::pin(drops))).await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert!(took <= WHOLE + SILENCE, "{took:?}");
    }
}
