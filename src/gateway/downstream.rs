//! Where a request came from, whichever protocol it came by.
//!
//! An HTTP/1 request stands on a wire, which the engine's session can be asked for. A stream of HTTP/2 has none; what is
//! known about it travels with its head, as an extension of the request. Rejected: carrying it in the engine's digest of
//! the connection, which has no room for anything of ours and is shared by all streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::proxy::Session;

use super::stream::Exchange;
use super::wire::{Home, Wire};
use crate::framing::BodyFault;
use crate::transport::Transport;

/// The client's side of a request.
#[derive(Clone, Copy)]
pub enum Downstream<'a> {
    /// The whole connection, until the message is over.
    Http1(&'a Wire),
    /// One stream of it.
    Http2(&'a Arc<Exchange>),
}

impl<'a> Downstream<'a> {
    /// That of an engine session; `None` only for sessions that are not ours.
    #[must_use]
    pub fn of(session: &'a Session) -> Option<Self> {
        match session.as_downstream().stream() {
            Some(stream) => Wire::of(stream).map(Self::Http1),
            None => session.req_header().extensions.get().map(Self::Http2),
        }
    }

    /// When the request's head was complete.
    #[must_use]
    pub fn arrived(self) -> Option<Instant> {
        match self {
            Self::Http1(wire) => wire.arrived(),
            Self::Http2(exchange) => Some(exchange.arrived()),
        }
    }

    /// What is known of the connection.
    #[must_use]
    pub fn transport(self) -> Option<&'a Transport> {
        match self {
            Self::Http1(wire) => wire.transport(),
            Self::Http2(exchange) => Some(exchange.transport()),
        }
    }

    /// Whether the announced body is larger than allowed.
    #[must_use]
    pub fn is_too_large(self) -> bool {
        match self {
            Self::Http1(wire) => wire.is_too_large(),
            Self::Http2(exchange) => exchange.is_too_large(),
        }
    }

    /// What was wrong with the body, if anything.
    #[must_use]
    pub fn fault(self) -> Option<BodyFault> {
        match self {
            Self::Http1(wire) => wire.fault(),
            Self::Http2(exchange) => exchange.fault(),
        }
    }

    /// Whether nothing of the request is waited for: the engine has it, or finds it here without waiting.
    #[must_use]
    pub fn is_whole(self) -> bool {
        match self {
            Self::Http1(wire) => wire.is_whole(),
            Self::Http2(exchange) => exchange.home().is_received(),
        }
    }

    /// Whether the client sent names with underscores.
    #[must_use]
    pub fn has_underscore_names(self) -> bool {
        match self {
            Self::Http1(wire) => wire.head().is_some_and(|head| head.has_underscore_names),
            Self::Http2(exchange) => exchange.head().has_underscore_names,
        }
    }

    /// Whether content may follow that the head says nothing of. Asked when the head has just come.
    #[must_use]
    pub fn has_unannounced_content(self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(exchange) => !exchange.home().is_received(),
        }
    }

    /// Whether it is a gRPC call, whose refusals are told as gRPC.
    #[must_use]
    pub fn is_grpc(self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(exchange) => exchange.grpc().is_some(),
        }
    }

    /// Lets the body be as long as it gets, if it is that of a gRPC call.
    pub fn carries_messages(self) {
        if let Self::Http2(exchange) = self {
            exchange.carries_messages();
        }
    }

    /// How much of a gRPC call's own time is left, if it brought any.
    #[must_use]
    pub fn grpc_time_left(self) -> Option<Duration> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(exchange) => exchange.time_left(),
        }
    }

    /// What the connection and the exchange tell each other.
    #[must_use]
    pub fn home(self) -> &'a Arc<Home> {
        match self {
            Self::Http1(wire) => wire.home(),
            Self::Http2(exchange) => exchange.home(),
        }
    }

    /// The request is sent, perhaps not for the first time: silence counts from now.
    pub fn tried_anew(self) {
        if let Self::Http2(exchange) = self {
            exchange.was_active();
        }
    }

    /// The wire, for what only HTTP/1 has.
    #[must_use]
    pub fn wire(self) -> Option<&'a Wire> {
        match self {
            Self::Http1(wire) => Some(wire),
            Self::Http2(_) => None,
        }
    }
}
