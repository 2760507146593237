//! What the engine is told about an endpoint: address, protocol, TLS, deadlines.
//!
//! Made once and cloned for each try. Certificates are always verified: against the host's trusted ones, or against those
//! of the upstream alone.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pingora::protocols::ALPN;
use pingora::protocols::tls::CaType;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::connect::{Connector, Sockets};
use crate::revision::{Protocol, Upstream, UpstreamTls};

/// Streams on one HTTP/2 connection; one task drives each connection, so a few of them are better than one.
const H2_STREAMS: usize = 100;

/// An HTTP/2 connection is asked for a sign of life when nothing comes.
const H2_PING: Duration = Duration::from_secs(30);

/// What all endpoints of an upstream have in common.
pub struct Manner {
    protocol: Protocol,
    tls: Option<Tls>,
    timeouts: crate::revision::UpstreamTimeouts,
    /// Connections of one manner are never used for another.
    group: u64,
}

struct Tls {
    server_name: Option<String>,
    ca: Option<Arc<CaType>>,
    client: Option<Arc<CertKey>>,
}

impl Manner {
    /// Reads certificates and keys, which the checks have read before.
    #[must_use]
    pub fn of(upstream: &Upstream) -> Self {
        let mut hasher = DefaultHasher::new();
        // Not by address alone: two upstreams may trust different certificates there.
        upstream.name.hash(&mut hasher);
        upstream.protocol.hash(&mut hasher);
        if let Some(tls) = &upstream.tls {
            (&tls.server_name, &tls.ca).hash(&mut hasher);
            (tls.client.as_ref()).map(|(chain, _)| chain).hash(&mut hasher);
        }
        Self {
            protocol: upstream.protocol,
            tls: upstream.tls.as_ref().map(Tls::of),
            timeouts: upstream.timeouts,
            group: hasher.finish(),
        }
    }

    /// The peer of an endpoint that the revision calls `host`.
    #[must_use]
    pub fn peer(&self, host: &str, address: SocketAddr, sockets: &Arc<Sockets>) -> HttpPeer {
        // From an address, never from a host name: the constructor would resolve it on the request thread.
        let mut peer = match &self.tls {
            None => HttpPeer::new(address, false, String::new()),
            Some(tls) => {
                // Never empty: the engine takes an empty name for "do not verify".
                let name = tls.server_name.as_deref().unwrap_or(host);
                let name = if name.is_empty() {
                    address.ip().to_string()
                } else {
                    name.to_owned()
                };
                let mut peer = HttpPeer::new(address, true, name);
                peer.client_cert_key.clone_from(&tls.client);
                peer.options.ca.clone_from(&tls.ca);
                peer
            }
        };
        peer.group_key = self.group;
        let options = &mut peer.options;
        options.alpn = match self.protocol {
            Protocol::Http1 => ALPN::H1,
            Protocol::Http2 => ALPN::H2,
            Protocol::Auto => ALPN::H2H1,
        };
        if self.protocol != Protocol::Http1 {
            options.max_h2_streams = H2_STREAMS;
            options.h2_ping_interval = Some(H2_PING);
        }
        options.connection_timeout = Some(self.timeouts.connect);
        options.total_connection_timeout = Some(self.timeouts.connect);
        options.read_timeout = Some(self.timeouts.read);
        options.write_timeout = Some(self.timeouts.write);
        options.idle_timeout = Some(self.timeouts.idle);
        options.custom_l4 = Some(Arc::new(Connector::new(Arc::clone(sockets), self.timeouts.connect)));
        peer
    }
}

impl Tls {
    fn of(tls: &UpstreamTls) -> Self {
        Self {
            server_name: tls.server_name.clone(),
            ca: tls.ca.as_ref().map(|pem| {
                let list: Vec<WrappedX509> = (certificates(pem).into_iter())
                    .map(|der| WrappedX509::new(der, parse_x509))
                    .collect();
                // Empty if none can be read, and then nobody is trusted.
                Arc::from(list)
            }),
            client: tls.client.as_ref().and_then(|(chain, key)| {
                let chain = certificates(chain);
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).ok()?;
                (!chain.is_empty()).then(|| Arc::new(CertKey::new(chain, key.secret_der().to_vec())))
            }),
        }
    }
}

/// The certificates that can be read.
fn certificates(pem: &str) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .filter_map(Result::ok)
        .map(|der| der.to_vec())
        // The engine panics over what is none.
        .filter(|der| x509_parser::parse_x509_certificate(der).is_ok())
        .collect()
}
