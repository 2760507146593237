//! Something between gateways and their control plane that does not pass on what it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;

use super::ControlPlane;

/// What is done to a body on its way, by the path and query that it is the answer to.
type Tamper = dyn Fn(&str, &mut Vec<u8>) + Send + Sync;

/// An HTTP proxy in front of a control plane. Honest until it is told otherwise; ends when dropped.
pub struct TamperingProxy {
    address: SocketAddr,
    tamper: Arc<Mutex<Option<Arc<Tamper>>>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Clone)]
struct Between {
    server: String,
    client: reqwest::Client,
    tamper: Arc<Mutex<Option<Arc<Tamper>>>>,
}

impl TamperingProxy {
    /// One in front of this control plane.
    pub fn before(control_plane: &ControlPlane) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let tamper = Arc::new(Mutex::new(None));
        let between = Between {
            server: control_plane.url(),
            client: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(70))
                .build()
                .unwrap(),
            tamper: Arc::clone(&tamper),
        };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let app = Router::new().fallback(pass_on).with_state(between);
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            address,
            tamper,
            _runtime: runtime,
        }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it does from now on to the bodies of good answers.
    pub fn tamper(&self, with: impl Fn(&str, &mut Vec<u8>) + Send + Sync + 'static) {
        *self.tamper.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(with));
    }

    /// It passes on what it gets.
    pub fn be_honest(&self) {
        *self.tamper.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

async fn pass_on(State(between): State<Between>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str())
        .to_owned();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return away();
    };
    let mut passed = between
        .client
        .request(parts.method, format!("{}{target}", between.server))
        .body(body);
    for (name, value) in &parts.headers {
        if *name != "host" && *name != "content-length" {
            passed = passed.header(name, value);
        }
    }
    let Ok(answer) = passed.send().await else { return away() };
    let (status, headers) = (answer.status(), answer.headers().clone());
    let Ok(body) = answer.bytes().await.map(Bytes::into) else {
        return away();
    };
    let mut body: Vec<u8> = body;
    let tamper = between.tamper.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if status == StatusCode::OK
        && let Some(tamper) = tamper
    {
        tamper(&target, &mut body);
    }
    let mut told = Response::builder().status(status);
    for (name, value) in &headers {
        if ![
            HeaderName::from_static("content-length"),
            HeaderName::from_static("transfer-encoding"),
        ]
        .contains(name)
        {
            told = told.header(name, value);
        }
    }
    told.body(Body::from(body)).unwrap()
}

fn away() -> Response<Body> {
    Response::builder()
        .status(StatusCode::BAD_GATEWAY)
        .body(Body::empty())
        .unwrap()
}
