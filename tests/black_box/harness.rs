//! What the stories are told with: a gateway, the services behind it, and the clients in front of it.

mod client;
mod control_plane;
mod dns;
mod fault_proxy;
mod fleet;
pub mod frames;
mod gateway;
mod grpc;
mod http2;
mod load;
mod oracle;
mod origin;
mod port;
// The store's own tests stop and start it, which no story does.
#[allow(dead_code)]
#[path = "../../src/control_plane/store/tests/postgres_server.rs"]
mod postgres_server;
mod redis;
mod redis_cluster;
mod revision;
mod secure_origin;
mod tampering_proxy;
mod tls;
mod token;
mod upgrade;
mod websocket;

use std::fmt::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

pub use client::{Answer, Client, Connection, Request};
pub use control_plane::ControlPlane;
pub use dns::{DnsServer, Mood};
pub use fault_proxy::FaultProxy;
pub use fleet::{Fleet, is_let_in};
pub use gateway::{Gateway, Output, Process, Setup, shell, tollgate, tollgate_in_background};
pub use grpc::{GrpcClient, GrpcService};
pub use http2::{Http2, Http2Stream};
pub use load::{Load, count};
pub use origin::{
    Exchange, Origin, Planned, Received, answer, answers_before_reading, answers_too_much, chunks, closes_early, drips,
    echo, garbage, hangs, huge, resets_mid_body,
};
pub use postgres_server::PostgresServer;
pub use redis::RedisServer;
pub use redis_cluster::RedisCluster;
pub use revision::{KEY, OTHER_KEY, Revision, SANDBOX_KEY, key_record, revision};
pub use secure_origin::SecureOrigin;
pub use tampering_proxy::TamperingProxy;
pub use tls::{Authority, Issued};
pub use token::{AUDIENCE, ISSUER, RSA, Signer, Token, key_set, now};
pub use upgrade::{Program, is_running as is_alive};
pub use websocket::{EchoSocket, Sockets, WebSocket};

/// How long anything may take before a test gives up: far longer than it takes even on a machine that is busy with
/// something else.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `look` finds something, and gives it.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `holds` does.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// Holds back a part of a story until the test says go: instead of a pause that is sometimes too short.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// A closed one.
    pub fn closed() -> Self {
        Self::default()
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open.
    #[track_caller]
    pub fn pass(&self) {
        let open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, _) = self
            .0
            .1
            .wait_timeout_while(open, PATIENCE, |open| !*open)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(*open, "waited {PATIENCE:?} in vain at a gate");
    }
}

/// SHA-256 in hex.
pub fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}
