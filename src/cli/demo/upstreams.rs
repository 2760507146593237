//! Two small HTTP servers that say who they are and what they were asked.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Json;

/// They end with this.
pub(super) struct SampleUpstreams {
    pub(super) addresses: [SocketAddr; 2],
    _runtime: tokio::runtime::Runtime,
}

impl SampleUpstreams {
    /// Starts both on free ports.
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sample-upstream")
            .enable_all()
            .build()?;
        let first = runtime.block_on(Self::listen())?;
        let second = runtime.block_on(Self::listen())?;
        let addresses = [first.local_addr()?, second.local_addr()?];
        for (name, listener) in [("first", first), ("second", second)] {
            let app = Router::new().fallback(answer).with_state(name);
            runtime.spawn(async move {
                if let Err(error) = axum::serve(listener, app).await {
                    log::error!("sample upstream {name}: {error}");
                }
            });
        }
        Ok(Self {
            addresses,
            _runtime: runtime,
        })
    }

    async fn listen() -> std::io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
    }
}

async fn answer(State(name): State<&'static str>, request: Request) -> Json<serde_json::Value> {
    let headers: serde_json::Map<String, serde_json::Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    Json(serde_json::json!({
        "upstream": name,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "headers": headers,
    }))
}
