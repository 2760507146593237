//! Bodies of requests that do not come: who has sent a head and then falls silent must not hold a connection for ever,
//! least of all before it has said who it is. One place for every route, whatever reads the body there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::problem::Problem;

/// How long a body may pause while it is waited for.
const SILENCE: Duration = Duration::from_secs(10);

/// How long it may take in all: a byte now and then is no progress either.
const WHOLE: Duration = Duration::from_secs(120);

/// Lets a request through with a body that ends with an error when it takes too long, and then answers 408, whatever the
/// route has made of the error.
pub async fn bounded(request: Request, next: Next) -> Response {
    let is_late = Arc::new(AtomicBool::new(false));
    let request = request.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Hurried {
            body,
            silence: None,
            whole: None,
            is_late: Arc::clone(&is_late),
        })
    });
    let answer = next.run(request).await;
    if is_late.load(Ordering::Relaxed) && answer.status().is_client_error() {
        return Problem::TooSlow.into_response();
    }
    answer
}

/// A body with deadlines. They run while it is waited for only.
struct Hurried {
    body: Body,
    silence: Option<Pin<Box<Sleep>>>,
    whole: Option<Pin<Box<Sleep>>>,
    is_late: Arc<AtomicBool>,
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
