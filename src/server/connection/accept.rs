//! From a socket to a connection with a seat: PROXY header and TLS, inside one deadline.

use rustls::HandshakeKind;
use tokio::time::{Instant, timeout_at};

use super::super::census::{Seat, Unseated};
use super::Connections;
use crate::gateway::refusal::Refusal;
use crate::gateway::wire::Core;
use crate::transport::accept::Greeted;
use crate::transport::proxy_header::Fault;
use crate::transport::{Accepted, Socket, Unaccepted};

impl Connections {
    /// Makes a connection of a socket on which HTTP can begin, with a seat for it, and whether HTTP/2 may be
    /// spoken there. `None` when it was closed.
    pub(super) async fn accept(&self, socket: Socket) -> Option<(Box<Core>, Seat, bool)> {
        let listener = self.listeners.of(&socket)?;
        let until = Instant::now() + self.timeouts.header;
        let metrics = self.metrics.transport();
        // Whose connection it is may still have to be told by a PROXY header. Until then it counts in all, not for an
        // address: those that bring such headers are trusted.
        let known = (!listener.proxy_protocol).then(|| socket.peer());
        let seat = self.census.seat(known);
        let (greeted, seat) = if listener.proxy_protocol {
            let Ok(mut seat) = seat else {
                self.metrics.connections_refused.inc();
                return None;
            };
            let greeting = Box::pin(listener.greet(socket, &self.trusted_proxies));
            let greeted = match timeout_at(until, greeting).await {
                Ok(Ok(greeted)) => greeted,
                Ok(Err(unaccepted)) => return self.unaccepted(unaccepted).await,
                Err(_) => {
                    metrics.proxy_timeout.inc();
                    return None;
                }
            };
            metrics.proxy_accepted.inc();
            let seated = seat.is_for(greeted.peer);
            (greeted, seated.map(|()| seat))
        } else {
            (Greeted::at_once(socket, known), seat)
        };
        let seat = match seat {
            Ok(seat) => seat,
            Err(Unseated) => {
                self.metrics.connections_refused.inc();
                // Those who find no seat are told so, but not in any number at a time, and not with TLS: a handshake
                // costs more than a refusal may.
                if listener.tls.is_none()
                    && let Ok(_standing) = self.standing.try_acquire()
                {
                    let core = core_of(greeted.accepted());
                    self.refuse(core, &Refusal::Overloaded("connections")).await;
                }
                return None;
            }
        };
        let Some(tls) = &listener.tls else {
            return Some((core_of(greeted.accepted()), seat, listener.http2));
        };
        // Boxed: connections without TLS need not have the room for it.
        match timeout_at(until, Box::pin(greeted.secured(tls))).await {
            Ok(Ok(accepted)) => {
                match accepted.handshake {
                    Some(HandshakeKind::Resumed) => metrics.handshakes_resumed.inc(),
                    _ => metrics.handshakes_full.inc(),
                }
                Some((core_of(accepted), seat, listener.http2))
            }
            Ok(Err(unaccepted)) => self.unaccepted(unaccepted).await,
            Err(_) => {
                metrics.handshakes_timeout.inc();
                None
            }
        }
    }

    /// Counts what did not become a connection, and tells the client where that is possible.
    async fn unaccepted(&self, why: Unaccepted) -> Option<(Box<Core>, Seat, bool)> {
        // Everybody can make it happen, as often as they like: not for the log of a normal day.
        log::debug!("not accepted: {why}");
        let metrics = self.metrics.transport();
        match why {
            Unaccepted::Stranger => metrics.proxy_stranger.inc(),
            Unaccepted::ProxyHeader(Fault::Malformed) => metrics.proxy_malformed.inc(),
            Unaccepted::ProxyHeader(Fault::Closed) => metrics.proxy_closed.inc(),
            Unaccepted::Closed => metrics.handshakes_closed.inc(),
            Unaccepted::ClientCertificate(_) => metrics.handshakes_client_certificate.inc(),
            Unaccepted::Handshake(_) => metrics.handshakes_failed.inc(),
            Unaccepted::NotTls(accepted) => {
                metrics.handshakes_not_tls.inc();
                let refusal = Refusal::BadRequest("this port speaks TLS; write https:// for http://");
                self.refuse(core_of(*accepted), &refusal).await;
            }
        }
        None
    }
}

fn core_of(accepted: Accepted) -> Box<Core> {
    Box::new(Core::new(accepted.stream, accepted.received, accepted.transport))
}
