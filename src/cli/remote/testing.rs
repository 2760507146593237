//! A server to be asked in tests.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;

use super::*;

/// A server on a free port; ends with the test.
pub(in crate::cli) struct Double {
    pub(in crate::cli) address: SocketAddr,
    _runtime: Runtime,
}

impl Double {
    pub(in crate::cli) fn start(app: Router) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            _runtime: runtime,
        }
    }

    pub(in crate::cli) fn remote(&self, path: &str) -> Remote {
        let server = Server {
            server: Some(format!("http://{}{path}", self.address)),
            token: Some(Secret::from("hush")),
            ca: None,
        };
        server.remote().unwrap()
    }
}
