//! Services that fail in every way a service can: the client gets one answer that says so, in time, and the next client
//! gets the right one.

mod breakers;
mod encrypted;
mod pools;
mod survival;
mod tries;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::*;

/// How long the gateway waits for a service in these tests.
const WAIT: &str = "timeouts: { connect: 400ms, read: 400ms, write: 400ms }";

/// A gateway in front of a good service on `/open`, and of a bad one on `/bad`.
struct Trial {
    gateway: Gateway,
    good: Origin,
}

impl Trial {
    /// Of whatever listens at these addresses.
    fn of(bad: &[SocketAddr]) -> Self {
        let good = Origin::start(echo());
        let endpoints: Vec<String> = bad
            .iter()
            .map(|address| format!("{{ address: \"{address}\" }}"))
            .collect();
        let revision = revision(&good)
            .upstream(&format!(
                "{{ name: bad, endpoints: [{}], {WAIT} }}",
                endpoints.join(", ")
            ))
            .api("{ name: bad, base_path: /bad, auth: none, upstream: bad }");
        let gateway = Gateway::with(revision)
            .server("timeouts: { request: 3s }, limits: { body_bytes: 1MiB }")
            .start();
        Self { gateway, good }
    }

    /// Asks the bad service and expects this refusal, and the next request on the same connection to be served.
    #[track_caller]
    fn fails(&self, what: &str, request: Request, status: u16, code: &str) {
        let started = Instant::now();
        let mut connection = self.gateway.raw();
        let answer = request.send_on(&mut connection);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{what}: {answer:?}"
        );
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{what}: {:?}",
            started.elapsed()
        );
        let next = self.gateway.client().get("/open/next").send_on(&mut connection);
        assert_eq!(
            next.status, 200,
            "{what}: the connection of the refused client: {next:?}"
        );
        assert_eq!(next.echo().target, "/open/next", "{what}");
    }

    #[track_caller]
    fn get_fails(&self, what: &str, status: u16, code: &str) {
        self.fails(what, self.gateway.client().get("/bad"), status, code);
    }

    #[track_caller]
    fn leaves_it_unharmed(&self) {
        self.gateway.assert_unharmed(&self.good, "/open");
    }
}

/// A port on which nothing listens, kept so that nothing else gets it.
fn closed_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A port whose backlog is full: the kernel drops every further attempt to connect, as a black hole would.
fn black_hole() -> (Vec<Socket>, SocketAddr) {
    let (listener, address) = closed_port();
    listener.listen(0).unwrap();
    let mut sockets = vec![listener];
    for _ in 0..16 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if socket
            .connect_timeout(&address.into(), Duration::from_millis(100))
            .is_err()
        {
            return (sockets, address);
        }
        sockets.push(socket);
    }
    panic!("the backlog does not fill");
}

#[test]
fn a_service_that_is_down_is_502() {
    let (_port, address) = closed_port();
    let trial = Trial::of(&[address]);
    for _ in 0..3 {
        trial.get_fails("down", 502, "upstream_failed");
    }
    let post = trial.gateway.client().post("/bad", "x".repeat(1000));
    trial.fails("down, with content", post, 502, "upstream_failed");
    trial.leaves_it_unharmed();
}

#[test]
fn a_service_that_swallows_connections_is_504_within_the_connect_timeout() {
    let (_sockets, address) = black_hole();
    let trial = Trial::of(&[address]);
    trial.get_fails("a black hole", 504, "upstream_timeout");
    trial.leaves_it_unharmed();
}

#[test]
fn a_service_that_hangs_is_504_within_the_read_timeout() {
    let bad = Origin::start(hangs());
    let trial = Trial::of(&[bad.address()]);
    trial.get_fails("silence", 504, "upstream_timeout");
    assert_eq!(bad.requests(), 1, "a request that was sent was sent again");
    trial.leaves_it_unharmed();
}

#[test]
fn a_head_that_drips_is_504_within_the_request_timeout() {
    let bad = Origin::start(|exchange: &mut Exchange| {
        for byte in b"HTTP/1.1 200 OK\r\nx: ".iter().chain([b'y'].iter().cycle()) {
            exchange.send(&[*byte])?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    });
    let trial = Trial::of(&[bad.address()]);
    let started = Instant::now();
    let answer = trial.gateway.client().get("/bad").send();
    answer.expect_refusal(504, "upstream_timeout");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    trial.leaves_it_unharmed();
}

/// Ways to send no answer.
#[test]
fn a_service_that_gives_no_answer_is_502_and_is_not_asked_twice() {
    type Way = fn(&mut Exchange) -> io::Result<()>;
    let rows: [(&str, Way); 5] = [
        ("closes", |exchange| {
            exchange.close();
            Ok(())
        }),
        ("resets", |exchange| {
            exchange.reset();
            Ok(())
        }),
        ("closes in its head", |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ncontent-le")?;
            exchange.close();
            Ok(())
        }),
        ("resets in its head", |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ncontent-le")?;
            std::thread::sleep(Duration::from_millis(50));
            exchange.reset();
            Ok(())
        }),
        ("closes after an interim answer", |exchange| {
            exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")?;
            exchange.close();
            Ok(())
        }),
    ];
    for (what, way) in rows {
        let bad = Origin::start(way);
        let trial = Trial::of(&[bad.address()]);
        trial.get_fails(what, 502, "upstream_failed");
        let post = trial.gateway.client().post("/bad", "hello");
        trial.fails(what, post, 502, "upstream_failed");
        let posts = bad.received().iter().filter(|request| request.method == "POST").count();
        assert_eq!(posts, 1, "{what}: a request that is not idempotent was sent again");
        trial.leaves_it_unharmed();
    }
}

#[test]
fn an_answer_that_is_garbage_is_502() {
    let rows: [&'static [u8]; 17] = [
        b"garbage\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx\0: y\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: \0\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"<html>\r\n\r\n",
    ];
    for bytes in rows {
        let bad = Origin::start(garbage(bytes));
        let trial = Trial::of(&[bad.address()]);
        trial.get_fails(&String::from_utf8_lossy(bytes), 502, "upstream_failed");
        trial.leaves_it_unharmed();
    }
}

/// Refused, or passed on with one framing only: never both at once to the client.
#[test]
fn an_answer_that_is_framed_twice_reaches_the_client_framed_once_or_not_at_all() {
    let rows: [&'static [u8]; 8] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
    ];
    for bytes in rows {
        let what = String::from_utf8_lossy(bytes);
        let bad = Origin::start(garbage(bytes));
        let trial = Trial::of(&[bad.address()]);
        let mut connection = trial.gateway.raw();
        connection.send(b"GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = connection.answer();
        let lengths = answer.all("content-length").len();
        let encodings = answer.all("transfer-encoding");
        match answer.status {
            200 => {
                assert!(lengths + encodings.len() <= 1, "{what}: {answer:?}");
                assert!(encodings.is_empty() || encodings == ["chunked"], "{what}: {answer:?}");
                assert_eq!((answer.version, answer.text().as_str()), (1, "hello"), "{what}");
            }
            204 => assert!(encodings.is_empty() && lengths == 0, "{what}: {answer:?}"),
            status => assert_eq!(status, 502, "{what}: {answer:?}"),
        }
        // Whatever follows on this connection is the answer to what is asked next, or nothing.
        let _ = connection.try_send(b"GET /open/next HTTP/1.1\r\nHost: a\r\n\r\n");
        if let Ok(next) = connection.try_answer(false) {
            assert_eq!(next.expect(200).echo().target, "/open/next", "{what}");
        }
        drop(connection);
        trial.leaves_it_unharmed();
    }
}

#[test]
fn a_head_of_an_answer_without_end_is_502() {
    let bad = Origin::start(|exchange: &mut Exchange| {
        exchange.send(b"HTTP/1.1 200 OK\r\n")?;
        for _ in 0..100_000 {
            exchange.send(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")?;
        }
        Ok(())
    });
    let trial = Trial::of(&[bad.address()]);
    trial.get_fails("a head of 8 MB", 502, "upstream_failed");
    trial.leaves_it_unharmed();
}

/// The client has the head already, so the only way to say that the rest is missing is to cut the connection.
#[test]
fn an_answer_that_ends_too_early_is_visibly_cut_off() {
    type Way = fn(&mut Exchange) -> io::Result<()>;
    let rows: [(&str, Way); 6] = [
        ("resets with a length", |exchange| resets_mid_body()(exchange)),
        ("closes with a length", |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")?;
            exchange.close();
            Ok(())
        }),
        ("closes between chunks", |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n")?;
            exchange.close();
            Ok(())
        }),
        ("closes in a chunk", |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n12345")?;
            exchange.close();
            Ok(())
        }),
        ("sends a chunk that is none", |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\nxyz\r\n")?;
            exchange.wait_for_the_end();
            Ok(())
        }),
        ("falls silent", |exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")?;
            exchange.wait_for_the_end();
            Ok(())
        }),
    ];
    for (what, way) in rows {
        let bad = Origin::start(way);
        let trial = Trial::of(&[bad.address()]);
        let mut connection = trial.gateway.raw();
        connection.send(b"GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
        // Either the client sees that something is missing, or it never got a 200.
        match connection.head() {
            Ok(answer) if answer.status == 200 => {
                let rest = connection.rest();
                let rest = String::from_utf8_lossy(&rest);
                assert!(!rest.ends_with("0\r\n\r\n"), "{what}: the end was made up: {rest:?}");
                assert!(rest.len() < 20, "{what}: {rest:?}");
                assert!(
                    rest.starts_with("12345") || rest.starts_with("5\r\n12345") || rest.is_empty(),
                    "{what}: {rest:?}"
                );
            }
            Ok(answer) => assert_eq!(answer.status, 502, "{what}: {answer:?}"),
            Err(error) => panic!("{what}: {error}"),
        }
        drop(connection);
        assert_eq!(bad.requests(), 1, "{what}: asked again after an answer had begun");
        trial.leaves_it_unharmed();
    }
}

#[test]
fn bytes_behind_an_answer_are_nobody_s_answer() {
    for extra in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"[..],
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\npoison",
        b"poison",
        b"\r\n",
    ] {
        let bad = Origin::start(answers_too_much(extra));
        let trial = Trial::of(&[bad.address()]);
        let mut connection = trial.gateway.raw();
        for _ in 0..5 {
            let answer = trial.gateway.client().get("/bad").send_on(&mut connection).expect(200);
            assert_eq!(answer.text(), "right");
            // Time for the extra bytes to arrive late.
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(connection);
        assert_eq!(bad.connections(), 5, "a connection with bytes left over was used again");
        trial.leaves_it_unharmed();
    }
}

#[test]
fn bytes_that_come_long_after_an_answer_are_nobody_s_answer() {
    let bad = Origin::start(|exchange: &mut Exchange| {
        exchange.respond(200, "", b"right")?;
        std::thread::sleep(Duration::from_millis(50));
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
    });
    let trial = Trial::of(&[bad.address()]);
    for _ in 0..3 {
        let answer = trial.gateway.client().get("/bad").send().expect(200);
        assert_eq!(answer.text(), "right");
        std::thread::sleep(Duration::from_millis(100));
    }
    trial.leaves_it_unharmed();
}

#[test]
fn a_connection_that_was_reset_after_its_answer_is_not_an_error_for_the_next_client() {
    for reset in [true, false] {
        let bad = Origin::start(move |exchange: &mut Exchange| {
            exchange.respond(200, "", b"right")?;
            std::thread::sleep(Duration::from_millis(20));
            if reset {
                exchange.reset()
            } else {
                exchange.close()
            }
            Ok(())
        });
        let trial = Trial::of(&[bad.address()]);
        for _ in 0..5 {
            let answer = trial.gateway.client().get("/bad").send().expect(200);
            assert_eq!(answer.text(), "right");
            std::thread::sleep(Duration::from_millis(60));
        }
        trial.leaves_it_unharmed();
    }
}

#[test]
fn an_answer_before_the_content_is_read_arrives_once_and_its_connection_is_not_used_again() {
    let bad = Origin::start(|exchange: &mut Exchange| {
        exchange.respond(200, "", b"early")?;
        exchange.wait_for_the_end();
        Ok(())
    });
    let trial = Trial::of(&[bad.address()]);
    for fields in [
        "Content-Length: 10",
        "Content-Length: 1000000",
        "Transfer-Encoding: chunked",
    ] {
        let mut connection = trial.gateway.raw();
        connection.send(format!("POST /bad HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        let answer = connection.answer().expect(200);
        assert_eq!(answer.text(), "early", "{fields}");
        drop(connection);
        trial.gateway.client().get("/open").send().expect(200);
    }
    let connections: Vec<usize> = bad.received().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1, 2]);
    trial.leaves_it_unharmed();
}

#[test]
fn with_one_endpoint_down_no_client_notices() {
    let (_port, down) = closed_port();
    let up = Origin::start(echo());
    for endpoints in [[down, up.address()], [up.address(), down]] {
        let trial = Trial::of(&endpoints);
        let mut connection = trial.gateway.raw();
        for n in 0..20 {
            let request = if n % 2 == 0 {
                trial.gateway.client().get("/bad")
            } else {
                trial.gateway.client().post("/bad", "hello")
            };
            let echo = request.send_on(&mut connection).expect(200).echo();
            assert_eq!(echo.body, if n % 2 == 0 { "" } else { "hello" });
        }
        drop(connection);
        trial.leaves_it_unharmed();
    }
}

#[test]
fn with_one_endpoint_swallowing_connections_every_client_is_served() {
    let (_sockets, hole) = black_hole();
    let up = Origin::start(echo());
    let trial = Trial::of(&[hole, up.address()]);
    for _ in 0..4 {
        trial.gateway.client().get("/bad").send().expect(200);
    }
    trial.leaves_it_unharmed();
}

#[test]
fn a_service_killed_in_the_middle_of_a_request_is_502_and_served_again_when_it_is_back() {
    // A second gateway is a process that can be killed; what it waits for is behind it.
    let gate = Gate::closed();
    let behind = gate.clone();
    let service = Origin::start(move |exchange: &mut Exchange| {
        behind.pass();
        echo()(exchange)
    });
    let killed =
        Gateway::with(Revision::of(&service).api("{ name: bad, base_path: /bad, auth: none, upstream: origin }"))
            .start();
    let trial = Trial::of(&[killed.address()]);
    // Its answer is not waited for longer than the read timeout, so the kill has to be quick: it is a signal.
    let mut connection = trial.gateway.raw();
    connection.send(b"GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the request is in the middle", || service.requests() == 1);
    killed.kill();
    let answer = connection.answer();
    assert!(matches!(answer.status, 502 | 504), "{answer:?}");
    assert_eq!(service.requests(), 1, "asked again");
    gate.open();
    let mut next = trial.gateway.client().get("/bad").send_on(&mut connection);
    assert_eq!(next.status, 502, "{next:?}");
    next = trial.gateway.client().get("/open").send_on(&mut connection);
    assert_eq!(next.status, 200, "{next:?}");
    drop(connection);
    trial.leaves_it_unharmed();
}

/// 401, 403, 404, 405, 429 and 503 here; 502 and 504 are asserted by every trial above.
#[test]
fn whoever_is_refused_keeps_the_connection() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin = Origin::start(move |exchange: &mut Exchange| {
        if exchange.request.target == "/open/waits" {
            behind.pass();
        }
        echo()(exchange)
    });
    let revision = revision(&origin)
        .api("{ name: once, base_path: /once, auth: none, upstream: origin, limits: [{ name: once, rate: 1/d, per: api }] }")
        .api("{ name: strict, base_path: /strict, auth: none, upstream: origin, routes: [{ path: /, methods: [GET] }] }")
        .application(&format!(
            "{{ name: tablet, subscriptions: [], keys: [{}] }}",
            key_record("tablet-1", OTHER_KEY, "type: production")
        ));
    let gateway = Gateway::with(revision)
        .server("limits: { requests_in_flight: 2 }")
        .start();
    let client = gateway.client();
    let mut connection = gateway.raw();
    for _ in 0..2 {
        client.get("/once").send_on(&mut connection);
    }
    for content in [None, Some("hello")] {
        let request = |target: &str| match content {
            None => client.get(target),
            Some(content) => client.request("PUT", target).body(content),
        };
        for (request, status, code) in [
            (request("/orders"), 401, "credential_missing"),
            (request("/orders").key("tg_live_wrong"), 401, "credential_invalid"),
            (request("/orders").key(OTHER_KEY), 403, "subscription_missing"),
            (request("/nowhere"), 404, "route_not_found"),
            (
                client.request("PUT", "/strict").body(content.unwrap_or_default()),
                405,
                "method_not_allowed",
            ),
            (request("/once"), 429, "rate_limited"),
            (request("/open/%2f"), 400, "bad_request"),
        ] {
            request.send_on(&mut connection).expect_refusal(status, code);
            let next = client.get("/open/next").send_on(&mut connection).expect(200);
            assert_eq!(next.echo().target, "/open/next", "after {code}");
        }
    }
    let mut waiting: Vec<Connection> = (0..2).map(|_| gateway.raw()).collect();
    for connection in &mut waiting {
        connection.send(b"GET /open/waits HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    until("all places are taken", || {
        gateway.metric("tollgate_requests_in_flight") == 2.0
    });
    client
        .get("/open")
        .send_on(&mut connection)
        .expect_refusal(503, "overloaded");
    gate.open();
    for connection in &mut waiting {
        connection.answer().expect(200);
    }
    until("the places are free", || {
        gateway.metric("tollgate_requests_in_flight") == 0.0
    });
    client.get("/open").send_on(&mut connection).expect(200);
    drop((connection, waiting));
    gateway.assert_unharmed(&origin, "/open");
}
