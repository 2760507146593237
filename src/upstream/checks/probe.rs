//! One check of one endpoint.
//!
//! Each is a connection of its own, closed afterwards. A connection that is kept costs less, and tells less: a process that
//! accepts nobody any more still answers on what it has open.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls;
use crate::revision::{HealthCheck, Probe, Protocol, Upstream as Terms, UpstreamTls};

/// What asks, for the log of whoever is asked.
const ASKS: &str = concat!("tollgate-health/", env!("CARGO_PKG_VERSION"));

/// The longest head of an answer. No body is read beyond what comes with it.
const HEAD_BYTES: usize = 64 * 1024;

/// How the endpoints of an upstream are asked.
pub(super) struct Manner {
    check: HealthCheck,
    protocol: Protocol,
    tls: Option<Tls>,
}

struct Tls {
    terms: UpstreamTls,
    connector: Result<TlsConnector, String>,
}

/// Who is asked.
pub(super) struct Party {
    /// Where it is.
    pub(super) address: SocketAddr,
    /// What stands in `Host`.
    authority: HeaderValue,
    uri: Uri,
    server_name: Option<ServerName<'static>>,
}

impl Manner {
    /// As a revision has it. Reads certificates, the host's too, so it blocks; what the one before has read is kept.
    pub(super) fn new(terms: &Terms, check: &HealthCheck, before: Option<&Self>) -> Self {
        let kept = before.and_then(|before| before.tls.as_ref().map(|tls| (before.protocol, tls)));
        let tls = terms.tls.as_ref().map(|tls| Tls {
            terms: tls.clone(),
            connector: match kept {
                Some((protocol, kept)) if protocol == terms.protocol && kept.terms == *tls => kept.connector.clone(),
                _ => tls::connector(tls, terms.protocol),
            },
        });
        Self {
            check: check.clone(),
            protocol: terms.protocol,
            tls,
        }
    }

    /// What the revision says of checks.
    pub(super) fn check(&self) -> &HealthCheck {
        &self.check
    }

    /// Who is to be asked at an address that the revision calls `host`.
    pub(super) fn party(&self, host: &str, address: SocketAddr) -> Party {
        let (path, wanted) = match &self.check.probe {
            Probe::Tcp => ("/", None),
            Probe::Http { path, host, .. } => (path.as_str(), host.as_deref()),
        };
        let of_the_endpoint = || match host.parse::<std::net::IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, address.port()).to_string(),
            Err(_) => format!("{host}:{}", address.port()),
        };
        let authority = wanted.map_or_else(of_the_endpoint, str::to_owned);
        let server_name = self.tls.as_ref().and_then(|tls| {
            let name = tls.terms.server_name.as_deref().unwrap_or(host);
            ServerName::try_from(name.to_owned()).ok()
        });
        Party {
            address,
            uri: self.uri(path, &authority),
            authority: HeaderValue::try_from(authority).unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            server_name,
        }
    }

    /// Asks. An error says why it is not good.
    pub(super) async fn ask(&self, party: &Party) -> Result<(), String> {
        let patience = self.check.timeout;
        match tokio::time::timeout(patience, self.exchange(party)).await {
            Ok(done) => done,
            Err(_) => Err(format!("no answer in {patience:?}")),
        }
    }

    async fn exchange(&self, party: &Party) -> Result<(), String> {
        let stream = TcpStream::connect(party.address).await.map_err(|error| told(&error))?;
        let Probe::Http { .. } = &self.check.probe else {
            return match &self.tls {
                None => Ok(()),
                // Who speaks TLS is not well if it can not shake hands.
                Some(tls) => tls.connect(party, stream).await.map(drop),
            };
        };
        let status = match &self.tls {
            None if self.protocol == Protocol::Http2 => {
                at_once(&stream);
                self.over_http2(party, stream).await
            }
            None => self.over_http1(party, stream).await,
            Some(tls) => {
                at_once(&stream);
                let stream = tls.connect(party, stream).await?;
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                match (is_http2, self.protocol) {
                    (true, _) => self.over_http2(party, stream).await,
                    (false, Protocol::Http2) => return Err("it does not speak HTTP/2".to_owned()),
                    (false, _) => self.over_http1(party, stream).await,
                }
            }
        }?;
        if self.check.probe.is_good(status.as_u16()) {
            Ok(())
        } else {
            Err(format!("status {}", status.as_u16()))
        }
    }

    async fn over_http1(
        &self,
        party: &Party,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<StatusCode, String> {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| told(&error))?;
        let mut request = party.request();
        // The path alone goes over the wire.
        if let Some(path) = party.uri.path_and_query() {
            *request.uri_mut() = Uri::from(path.clone());
        }
        let headers = request.headers_mut();
        headers.insert(HOST, party.authority.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        driven(connection, sender.send_request(request)).await
    }

    async fn over_http2(
        &self,
        party: &Party,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<StatusCode, String> {
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(HEAD_BYTES.try_into().unwrap_or(u32::MAX))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| told(&error))?;
        driven(connection, sender.send_request(party.request())).await
    }

    /// Over HTTP/1 the path alone goes over the wire; HTTP/2 has the host in the target.
    fn uri(&self, path: &str, authority: &str) -> Uri {
        let path_only = || Uri::try_from(path).unwrap_or_else(|_| Uri::from_static("/"));
        let Ok(authority) = Authority::try_from(authority) else {
            return path_only();
        };
        if self.protocol == Protocol::Http1 {
            return path_only();
        }
        let scheme = if self.tls.is_some() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(path)
            .build()
            .unwrap_or_else(|_| path_only())
    }
}

impl Party {
    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(ASKS));
        request
    }
}

impl Tls {
    async fn connect(
        &self,
        party: &Party,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let connector = self.connector.as_ref().map_err(Clone::clone)?;
        let name = (party.server_name.clone()).ok_or("its name can not be in a certificate; write server_name")?;
        (connector.connect(name, stream).await).map_err(|error| format!("TLS: {}", told(&error)))
    }
}

/// What is written in several parts does not wait for acknowledgements in between. A request of HTTP/1 is one part.
fn at_once(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

/// The head of an answer, while the connection is moved along. What comes after it is not waited for.
async fn driven<B>(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = hyper::Result<http::Response<B>>>,
) -> Result<StatusCode, String> {
    let answered = match select(pin!(answer), pin!(connection)).await {
        Either::Left((answered, _)) => answered,
        // The end of the connection may come together with the answer.
        Either::Right((Ok(()), answer)) => answer.await,
        Either::Right((Err(error), _)) => Err(error),
    };
    answered.map(|answer| answer.status()).map_err(|error| told(&error))
}

/// The reason, without what is around it: a connection error of the operating system in its own short words.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let io = deepest.downcast_ref::<io::Error>();
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => "it closed the connection".to_owned(),
        Some(io::ErrorKind::UnexpectedEof) => "it closed the connection".to_owned(),
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => "no route to it".to_owned(),
        Some(io::ErrorKind::TimedOut) => "no connection in time".to_owned(),
        _ => deepest.to_string(),
    }
}

/// What is asked at an address.
pub(super) struct Question {
    /// How.
    pub(super) manner: Arc<Manner>,
    /// Whom.
    pub(super) party: Arc<Party>,
}

impl Question {
    /// How often.
    pub(super) fn interval(&self) -> Duration {
        self.manner.check.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Environment;
    use crate::revision;

    fn manner(text: &str) -> Manner {
        let text =
            format!("version: 1\nupstreams:\n  - {{ name: orders, endpoints: [{{ address: \"h:1\" }}], {text} }}\n");
        let (environment, directory) = (Environment::of_process(), std::path::Path::new("."));
        let loaded = revision::parse(&text, "revision.yaml", directory, &environment);
        let terms = loaded
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
            .revision
            .upstreams
            .remove(0);
        let check = terms.health_check.clone().unwrap();
        Manner::new(&terms, &check, None)
    }

    #[test]
    fn whom_a_check_asks_for_is_what_the_revision_calls_the_endpoint() {
        let manner = manner("health_check: { path: \"/health?deep=1\" }");
        let v4 = SocketAddr::from(([10, 0, 0, 1], 8080));
        let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 80));
        for (host, address, expected) in [
            ("orders.internal", v4, "orders.internal:8080"),
            ("10.0.0.1", v4, "10.0.0.1:8080"),
            ("2001:db8::1", v6, "[2001:db8::1]:80"),
        ] {
            let party = manner.party(host, address);
            assert_eq!(party.authority, expected);
            assert_eq!(party.uri.to_string(), "/health?deep=1");
            assert_eq!(party.address, address);
        }
    }

    #[test]
    fn over_http2_the_host_is_in_the_target_and_what_is_written_goes_before_the_name() {
        let manner = manner("protocol: http2, health_check: { path: /health, host: orders.example }");
        let party = manner.party("orders.internal", SocketAddr::from(([10, 0, 0, 1], 8080)));
        assert_eq!(party.uri.to_string(), "http://orders.example/health");
    }

    #[tokio::test]
    async fn a_check_of_a_port_on_which_nobody_listens_says_so() {
        let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        nobody.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = nobody.local_addr().unwrap().as_socket().unwrap();
        for check in ["{}", "{ path: /health }"] {
            let manner = manner(&format!("health_check: {check}"));
            let party = manner.party("127.0.0.1", address);
            assert_eq!(manner.ask(&party).await, Err("connection refused".to_owned()));
        }
    }
}
