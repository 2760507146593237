//! What stands between a socket and HTTP: who is at the other end, and by which means.
//!
//! ```text
//! socket → [ PROXY header ] → [ TLS handshake → client certificate ] → bytes of HTTP
//! ```
//!
//! The engine never listens and never accepts. TLS is accepted here, because a PROXY header may stand before it, because a
//! handshake has a deadline of ours and comes after the census has given a seat, and because the engine's own acceptor
//! offers no session tickets. [`Transport`] is what is known of a connection when HTTP begins; it is the same for every
//! request on it.

pub mod accept;
pub mod certificate;
pub mod certificates;
pub mod client_identity;
pub mod proxy_header;
pub mod socket;
mod stream;
pub mod tls;

#[cfg(test)]
pub(crate) mod testing;

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;

pub use accept::{Accepted, Listeners, Unaccepted};
pub use client_identity::ClientIdentity;
pub use socket::Socket;

/// What is known of a client's connection, whatever HTTP version is spoken on it.
#[derive(Debug, Default)]
pub struct Transport {
    /// The peer: as a PROXY header says, else the socket's. Absent on sockets that have none, and when the header names
    /// nobody: then nothing is known of the client, and nothing that it says of itself is believed.
    pub peer: Option<IpAddr>,
    /// Its address as a header field: upstreams are told it with every request.
    pub peer_field: Option<HeaderValue>,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// The host name that the client asked for in its handshake (SNI), in lower case.
    pub server_name: Option<Box<str>>,
    /// Whose certificate the client has shown, verified.
    pub identity: Option<Arc<ClientIdentity>>,
}

impl Transport {
    /// A plain connection from here.
    #[must_use]
    pub fn plain(peer: Option<IpAddr>) -> Self {
        Self {
            peer,
            peer_field: peer.and_then(|peer| HeaderValue::try_from(peer.to_string()).ok()),
            ..Self::default()
        }
    }

    /// As a URL names it.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}
