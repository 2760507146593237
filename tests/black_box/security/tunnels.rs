//! Upgrades: bytes pass unchecked only after the service itself has agreed.

use std::io;

use super::Siege;
use crate::harness::*;

const UPGRADE: &[u8] = b"GET /open HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A service that never agrees to an upgrade, and notes every byte behind the head of one until its peer goes.
fn refusing(answer: &'static [u8]) -> impl Fn(&mut Exchange) -> io::Result<()> {
    let echo = echo();
    move |exchange: &mut Exchange| {
        if exchange.request.header("upgrade").is_none() {
            return echo(exchange);
        }
        if answer.is_empty() {
            exchange.close();
            return Ok(());
        }
        exchange.send(answer)
    }
}

#[test]
fn without_a_101_nothing_is_tunnelled() {
    let answers: [(&[u8], u16); 5] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", 403),
        (
            b"HTTP/1.1 200 OK\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n",
            200,
        ),
        (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            200,
        ),
        (b"", 502),
    ];
    for (answer, status) in answers {
        let siege = Siege::of(Origin::start(refusing(answer)), |setup| setup);
        // A baseline: how many bytes the upgrade itself is.
        let mut alone = siege.gateway.raw();
        alone.send(UPGRADE);
        assert_eq!(alone.answer().status, status);
        let size = siege.origin.bytes();
        drop(alone);

        for behind in [
            &b"not a request at all, but bytes for a tunnel\r\n\r\n"[..],
            b"GET /orders/smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x81\x05hello",
        ] {
            let before = siege.origin.bytes();
            let mut connection = siege.gateway.raw();
            connection.send([UPGRADE, behind].concat());
            assert_eq!(connection.answer().status, status);
            // What stands behind is a request of its own and judged like any other, or the connection is closed.
            connection.finish();
            let rest = String::from_utf8_lossy(&connection.rest()).into_owned();
            assert!(
                rest.is_empty() || rest.starts_with("HTTP/1.1 400") || rest.starts_with("HTTP/1.1 401"),
                "{rest}"
            );
            assert_eq!(
                siege.origin.bytes() - before,
                size,
                "bytes behind an upgrade reached the service"
            );
        }
        siege.leaves_it_unharmed();
    }
}

/// A service that waits for the gate, agrees, and then sends back in capitals what it gets, five bytes at a time.
fn tunnelling(gate: Gate) -> impl Fn(&mut Exchange) -> io::Result<()> {
    let echo = echo();
    move |exchange: &mut Exchange| {
        if exchange.request.header("upgrade").is_none() {
            return echo(exchange);
        }
        gate.pass();
        exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello")?;
        loop {
            let word = exchange.read(5)?;
            exchange.send(&word.to_ascii_uppercase())?;
        }
    }
}

#[test]
fn after_a_101_bytes_pass_both_ways_and_never_before() {
    let gate = Gate::closed();
    let siege = Siege::of(Origin::start(tunnelling(gate.clone())), |setup| setup);
    let mut connection = siege.gateway.raw();
    connection.send([UPGRADE, b"early"].concat());
    until("the service has the head", || siege.origin.requests() == 1);
    let head = siege.origin.bytes();
    // Time for the early bytes to do harm, if they could.
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(siege.origin.bytes(), head, "bytes passed before the 101");

    gate.open();
    let answer = connection.answer().expect(101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(connection.take(5).unwrap(), b"hello");
    assert_eq!(connection.take(5).unwrap(), b"EARLY");
    for word in [&b"abcde"[..], b"GET /", b"\0\x01\r\n\x02"] {
        connection.send(word);
        assert_eq!(connection.take(5).unwrap(), word.to_ascii_uppercase());
    }
    drop(connection);
    siege.leaves_it_unharmed();
}

#[test]
fn only_a_websocket_can_be_asked_for() {
    let siege = Siege::begin();
    for protocol in [
        "foo",
        "h2c",
        "HTTP/2.0",
        "TLS/1.0",
        "websocket, foo",
        "websocket-not",
        "",
    ] {
        let echo = siege
            .gateway
            .client()
            .get("/open")
            .header("Connection", "Upgrade, HTTP2-Settings")
            .header("Upgrade", protocol)
            .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
            .send()
            .expect(200)
            .echo();
        for name in ["Upgrade", "Connection", "HTTP2-Settings"] {
            assert!(
                echo.all(name).is_empty(),
                "{name} for {protocol:?} reached the service: {echo:?}"
            );
        }
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_101_that_nobody_asked_for_is_no_tunnel() {
    let unasked = |exchange: &mut Exchange| match exchange.request.target.as_str() {
        "/open/unasked" | "/open/other" => {
            exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")?;
            exchange.wait_for_the_end();
            Ok(())
        }
        _ => echo()(exchange),
    };
    let siege = Siege::of(Origin::start(unasked), |setup| {
        setup.server("timeouts: { request: 500ms }")
    });
    let mut connection = siege.gateway.raw();
    connection.send(b"GET /open/unasked HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = connection.answer();
    let before = siege.origin.bytes();
    let _ = connection.try_send(b"bytes for a tunnel");
    connection.finish();
    connection.rest();
    assert_eq!(
        siege.origin.bytes(),
        before,
        "a tunnel that nobody asked for, after {answer:?}"
    );
    drop(connection);
    siege.leaves_it_unharmed();
}
