//! Where clients connect, and what they are shown there.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::document::Place;

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The address to bind; port 0 is any free one.
    pub address: SocketAddr,
    /// Whether every connection begins with a PROXY header, and comes from a trusted proxy.
    pub proxy_protocol: bool,
    /// HTTPS; none is plain HTTP.
    pub tls: Option<Tls>,
    /// Whether clients may speak HTTP/2. Default yes.
    pub http2: bool,
}

impl Listener {
    /// Plain HTTP here.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            proxy_protocol: false,
            tls: None,
            http2: true,
        }
    }
}

/// HTTPS on a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// What clients are shown, by the names in them; the first is for whoever asks for no name or another one. Never
    /// empty.
    pub certificates: Vec<CertificateFiles>,
    /// Certificates of clients; none is that they are not asked for any.
    pub client: Option<ClientCertificates>,
    /// The oldest version that is spoken. Default 1.2.
    pub min_version: TlsVersion,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain (PEM).
    pub certificate: PathBuf,
    /// The private key (PEM).
    pub key: PathBuf,
    /// Where they are written, for whoever finds a mistake in them.
    pub place: Place,
}

/// Certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities whose certificates are accepted (PEM).
    pub ca: PathBuf,
    /// Whether the handshake fails without one.
    pub required: bool,
    /// Where it is written, for whoever finds a mistake in it.
    pub place: Place,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V1_2,
    /// RFC 8446.
    V1_3,
}
