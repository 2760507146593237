//! Attacks: what must not get through, as exact bytes, each with its verdict.
//!
//! Every table is a list of rows, and after every row the same questions are asked: is the verdict the expected one,
//! did a byte of it reach the service behind the gateway, is the next client served, and, at the end of the table, is
//! the gateway [unharmed](crate::harness::Gateway::assert_unharmed)?

mod bodies;
mod early_answers;
mod framing;
mod http2;
mod identity;
mod limits;
mod paths;
mod secrets;
mod tunnels;

use crate::harness::*;

/// A whole request that must never be taken for one: it stands behind attacks that try to hide it.
const SMUGGLED: &[u8] = b"GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A gateway under attack, and the service that it protects.
struct Siege {
    gateway: Gateway,
    origin: Origin,
}

impl Siege {
    /// Of an echoing service behind the usual revision.
    fn begin() -> Self {
        Self::of(Origin::start(echo()), |setup| setup)
    }

    /// Of this service, with a setup of its own.
    fn of(origin: Origin, set_up: impl FnOnce(Setup) -> Setup) -> Self {
        let gateway = set_up(Gateway::with(revision(&origin))).start();
        Self { gateway, origin }
    }

    /// Sends these bytes on a connection of their own and expects this status, the end of the connection and nothing
    /// else: no second answer, and no byte for the service.
    #[track_caller]
    fn refuses(&self, what: &str, attack: &[u8], status: u16) -> Answer {
        let before = self.origin.bytes();
        let mut connection = self.gateway.raw();
        let _ = connection.try_send(attack);
        let answer = connection
            .try_answer(false)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}: {answer:?}");
        let more = connection.rest();
        assert!(more.is_empty(), "{what}: {:?}", String::from_utf8_lossy(&more));
        assert_eq!(self.origin.bytes(), before, "{what}: bytes reached the service");
        self.serves(what);
        answer
    }

    /// The next client gets what it asks for.
    #[track_caller]
    fn serves(&self, after: &str) {
        let answer = self.gateway.client().get("/open/next").send();
        assert_eq!(answer.status, 200, "after {after}: {answer:?}");
        assert_eq!(answer.echo().target, "/open/next", "after {after}");
    }

    /// The end of a table.
    #[track_caller]
    fn leaves_it_unharmed(&self) {
        let smuggled = self
            .origin
            .received()
            .iter()
            .any(|request| request.target.contains("smuggled"));
        assert!(!smuggled, "a hidden request reached the service");
        self.gateway.assert_unharmed(&self.origin, "/open/last");
    }
}
