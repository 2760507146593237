//! From a socket to a connection on which HTTP can begin.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use ipnet::IpNet;
use pingora::protocols::Stream;
use rustls::{AlertDescription, HandshakeKind};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use super::proxy_header::{self, Fault};
use super::stream::{Begun, Encrypted};
use super::tls::Tls;
use super::{ClientIdentity, Socket, Transport};

/// First reservation for what a client sends.
const BUFFER: usize = 4096;

/// A listener, running.
pub struct Listener {
    /// Whether every connection begins with a PROXY header.
    pub proxy_protocol: bool,
    /// What handshakes go by; none on plain listeners.
    pub tls: Option<Arc<Tls>>,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
}

/// All listeners, by the addresses that they are bound to.
pub struct Listeners(Vec<(SocketAddr, Arc<Listener>)>);

/// A connection on which HTTP can begin.
pub struct Accepted {
    /// What carries it. It knows which protocol was agreed on (ALPN).
    pub stream: Stream,
    /// What came already.
    pub received: BytesMut,
    /// Who is there.
    pub transport: Arc<Transport>,
    /// How the handshake went; none on plain listeners.
    pub handshake: Option<HandshakeKind>,
}

/// A client whom no PROXY header hides any more.
pub struct Greeted {
    /// The socket.
    pub stream: Stream,
    /// What came already.
    pub received: BytesMut,
    /// The client's address; none when a proxy connects for somebody that has none.
    pub peer: Option<IpAddr>,
}

/// Why there is no connection.
pub enum Unaccepted {
    /// A PROXY header is expected, and this socket's peer is not one that may send it.
    Stranger,
    /// Something else came instead of a PROXY header.
    ProxyHeader(Fault),
    /// HTTP without TLS on a port for TLS. The connection, so that the client can be told.
    NotTls(Box<Accepted>),
    /// The client left during the handshake.
    Closed,
    /// The client's certificate was not accepted, or there was none.
    ClientCertificate(io::Error),
    /// The handshake failed otherwise.
    Handshake(io::Error),
}

impl Listeners {
    /// These, with the addresses that they are bound to.
    #[must_use]
    pub fn new(all: Vec<(SocketAddr, Arc<Listener>)>) -> Self {
        Self(all)
    }

    /// The one at which a connection came in. `None` when the connection is gone already.
    #[must_use]
    pub fn of(&self, socket: &Socket) -> Option<&Arc<Listener>> {
        if let [(_, only)] = self.0.as_slice() {
            return Some(only);
        }
        self.at(socket.local_addr().ok()?)
    }

    /// The one that takes connections to an address: bound to just that one, or to all of the machine.
    fn at(&self, local: SocketAddr) -> Option<&Arc<Listener>> {
        let ip = local.ip().to_canonical();
        let same_port = || self.0.iter().filter(|(bound, _)| bound.port() == local.port());
        let exact = same_port().find(|(bound, _)| bound.ip().to_canonical() == ip);
        let any = |v4: bool| same_port().find(move |(bound, _)| bound.ip().is_unspecified() && bound.is_ipv4() == v4);
        exact
            .or_else(|| any(ip.is_ipv4()))
            // An IPv4 client of [::].
            .or_else(|| any(false))
            .map(|(_, listener)| listener)
    }
}

impl Listener {
    /// A plain one.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            proxy_protocol: false,
            tls: None,
            http2: false,
        }
    }

    /// Reads the PROXY header, if there has to be one: from here on it is known who the client is. Waits for as long as
    /// the proxy takes; whoever calls it sets the deadline.
    ///
    /// # Errors
    /// When there has to be one, and there is none.
    pub async fn greet(&self, mut stream: Socket, trusted: &[IpNet]) -> Result<Greeted, Unaccepted> {
        let peer = Some(stream.peer());
        if !self.proxy_protocol {
            return Ok(Greeted::at_once(stream, peer));
        }
        let mut received = BytesMut::new();
        if !peer.is_some_and(|peer| trusted.iter().any(|net| net.contains(&peer))) {
            return Err(Unaccepted::Stranger);
        }
        let header = proxy_header::read(&mut stream, &mut received)
            .await
            .map_err(Unaccepted::ProxyHeader)?;
        Ok(Greeted {
            stream: Box::new(stream),
            received,
            peer: header.source.peer(peer),
        })
    }
}

impl Greeted {
    /// Somebody who needs no PROXY header.
    #[must_use]
    pub fn at_once(stream: Socket, peer: Option<IpAddr>) -> Self {
        Self {
            stream: Box::new(stream),
            received: BytesMut::new(),
            peer,
        }
    }

    /// Without TLS there is nothing more to agree on.
    #[must_use]
    pub fn accepted(self) -> Accepted {
        Accepted {
            stream: self.stream,
            received: self.received,
            transport: Arc::new(Transport::plain(self.peer)),
            handshake: None,
        }
    }

    /// Shakes hands. Waits for as long as the client takes; whoever calls it sets the deadline.
    ///
    /// # Errors
    /// When there is no agreement.
    pub async fn secured(mut self, tls: &Tls) -> Result<Accepted, Unaccepted> {
        if self.received.is_empty() {
            self.received.reserve(BUFFER);
            match self.stream.read_buf(&mut self.received).await {
                Ok(read) if read > 0 => {}
                _ => return Err(Unaccepted::Closed),
            }
        }
        // A handshake begins with the byte 22; what begins with a capital letter is a request of a client who wrote
        // `http:` for `https:`, and it can be told so.
        if self.received.first().is_some_and(u8::is_ascii_uppercase) {
            return Err(Unaccepted::NotTls(Box::new(self.accepted())));
        }
        let shaken = TlsAcceptor::from(tls.config())
            .accept(Begun::new(self.stream, self.received))
            .await
            .map_err(unaccepted)?;
        let session = shaken.get_ref().1;
        let shown = session.peer_certificates().and_then(|chain| chain.first());
        let transport = Transport {
            is_tls: true,
            server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
            identity: shown.map(|leaf| Arc::new(ClientIdentity::of(leaf))),
            ..Transport::plain(self.peer)
        };
        let handshake = session.handshake_kind();
        Ok(Accepted {
            stream: Box::new(Encrypted::new(shaken)),
            received: BytesMut::new(),
            transport: Arc::new(transport),
            handshake,
        })
    }
}

impl fmt::Display for Unaccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stranger => {
                f.write_str("a PROXY header is expected, and the peer is not among server.trusted_proxies")
            }
            Self::ProxyHeader(Fault::Malformed) => f.write_str("no PROXY header came"),
            Self::ProxyHeader(Fault::Closed) => f.write_str("the connection ended before a PROXY header came"),
            Self::NotTls(_) => f.write_str("HTTP without TLS on a port for TLS"),
            Self::Closed => f.write_str("the client left during the handshake"),
            Self::ClientCertificate(error) => write!(f, "the client's certificate: {error}"),
            Self::Handshake(error) => write!(f, "the handshake: {error}"),
        }
    }
}

fn unaccepted(error: io::Error) -> Unaccepted {
    let kind = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match kind {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Unaccepted::ClientCertificate(error)
        }
        // The client says that it does not like ours, or that it goes.
        Some(rustls::Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled)) => {
            Unaccepted::Closed
        }
        Some(_) => Unaccepted::Handshake(error),
        None => Unaccepted::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_found_by_the_address_that_it_came_in_at() {
        let bound = ["127.0.0.1:80", "0.0.0.0:443", "10.0.0.1:443", "[::]:8443", "[::1]:443"];
        let listeners = Listeners::new(
            bound
                .iter()
                .map(|address| (address.parse().unwrap(), Arc::new(Listener::plain())))
                .collect(),
        );
        for (local, expected) in [
            ("127.0.0.1:80", Some(0)),
            ("10.0.0.9:443", Some(1)),
            ("10.0.0.1:443", Some(2)),
            ("[::ffff:10.0.0.1]:443", Some(2)),
            ("[::ffff:10.0.0.9]:8443", Some(3)),
            ("[2001:db8::1]:8443", Some(3)),
            ("10.0.0.9:8443", Some(3)),
            ("[::1]:443", Some(4)),
            ("10.0.0.9:80", None),
            ("[2001:db8::1]:443", None),
        ] {
            let found = listeners.at(local.parse().unwrap());
            let position = found.map(|found| listeners.0.iter().position(|(_, one)| Arc::ptr_eq(one, found)).unwrap());
            assert_eq!(position, expected, "{local}");
        }
    }
}
