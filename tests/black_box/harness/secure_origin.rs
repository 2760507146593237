//! A service with TLS, HTTP/2 or both: for what an [`Origin`](super::Origin), which writes its bytes itself, can not speak.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::Authority;

/// A running service. Ends when dropped.
pub struct SecureOrigin {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl SecureOrigin {
    /// HTTP/2 without TLS.
    pub fn http2() -> Self {
        Self::start(None)
    }

    /// HTTPS as `name`, with these protocols; whoever asks has to show a certificate of the same authority.
    pub fn https(authority: &Authority, name: &str, protocols: &[&str]) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
            .unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
        let issued = authority.issue(&[name]);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![issued.der()],
                PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self::start(Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked, in order: `HTTP/2.0 GET /health of orders.internal:443 by tollgate-health/0.1.0`.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn start(tls: Option<TlsAcceptor>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let notes = Arc::clone(&seen);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, notes) = (tls.clone(), Arc::clone(&notes));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, true, notes).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                                serve(stream, is_http2, notes).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            seen,
            _runtime: runtime,
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    notes: Arc<Mutex<Vec<String>>>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(told(&request));
        async { Ok::<_, Infallible>(answer()) }
    });
    let stream = TokioIo::new(stream);
    // The end of a connection is nobody's mistake.
    if is_http2 {
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.serve_connection(stream, service).await;
    } else {
        let http = hyper::server::conn::http1::Builder::new();
        let _ = http.serve_connection(stream, service).await;
    }
}

fn answer() -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(b"fine")));
    *answer.status_mut() = StatusCode::OK;
    answer
}

fn told(request: &Request<Incoming>) -> String {
    let field = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = match request.version() {
        Version::HTTP_2 => request.uri().authority().map(ToString::to_string),
        _ => field("host").map(str::to_owned),
    };
    format!(
        "{:?} {} {} of {} by {}",
        request.version(),
        request.method(),
        request.uri().path(),
        host.unwrap_or_default(),
        field("user-agent").unwrap_or_default(),
    )
}
