//! WebSocket through the gateway, with real clients and a real service.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::harness::*;

fn behind(service: &EchoSocket, timeouts: &str) -> Revision {
    Revision::empty()
        .upstream(&format!(
            "{{ name: sockets, endpoints: [{{ address: \"{}\" }}], timeouts: {{ {timeouts} }} }}",
            service.address()
        ))
        .api("{ name: open, base_path: /open, auth: none, upstream: sockets }")
}

#[test]
fn messages_of_every_kind_pass_both_ways() {
    let service = EchoSocket::start();
    let gateway = Gateway::with(behind(&service, "")).start();
    let mut socket = Sockets::to(gateway.address()).open("/open", None).unwrap();
    socket.echoes("hello");
    socket.echoes(&"long ".repeat(100_000));
    let binary = Message::binary((0..=255).collect::<Vec<u8>>());
    socket.send(binary.clone());
    assert_eq!(socket.next(), Some(binary));
    socket.send(Message::Ping(Bytes::from_static(b"there?")));
    assert_eq!(socket.next(), Some(Message::Pong(Bytes::from_static(b"there?"))));
    assert_eq!(gateway.metric("tollgate_connections{state=\"open\"}"), 1.0);
}

#[test]
fn the_handshake_needs_a_key_and_counts_against_limits() {
    let service = EchoSocket::start();
    let gateway = Gateway::with(
        behind(&service, "")
            .api(
                "{ name: guarded, base_path: /guarded, auth: [api_key], upstream: sockets, \
                 limits: [{ name: two, rate: 2/h, per: api }] }",
            )
            .mobile(&["guarded"]),
    )
    .start();
    let sockets = Sockets::to(gateway.address());
    assert_eq!(sockets.open("/guarded", None).err(), Some(401));
    assert_eq!(sockets.open("/guarded", Some(OTHER_KEY)).err(), Some(401));
    let mut first = sockets.open("/guarded", Some(KEY)).unwrap();
    let mut second = sockets.open("/guarded", Some(KEY)).unwrap();
    assert_eq!(sockets.open("/guarded", Some(KEY)).err(), Some(429));
    assert_eq!(sockets.open("/nowhere", None).err(), Some(404));
    // Messages are not counted.
    for _ in 0..5 {
        first.echoes("one");
        second.echoes("two");
    }
    assert_eq!(service.open(), 2);
}

#[test]
fn codes_of_the_end_pass_both_ways() {
    let service = EchoSocket::start();
    let gateway = Gateway::with(behind(&service, "")).start();
    let sockets = Sockets::to(gateway.address());
    let code = |message: Option<Message>| match message {
        Some(Message::Close(Some(frame))) => u16::from(frame.code),
        other => panic!("no goodbye: {other:?}"),
    };

    let mut client_ends = sockets.open("/open", None).unwrap();
    client_ends.echoes("hello");
    assert_eq!(code(client_ends.close(4001)), 4001);
    until("the service has heard it", || service.closed_with() == 4001);
    assert!(client_ends.next().is_none(), "the connection ends");

    let mut service_ends = sockets.open("/open", None).unwrap();
    service_ends.send("close 4002");
    let goodbye = service_ends.next();
    assert!(format!("{goodbye:?}").contains("as you wish"), "{goodbye:?}");
    assert_eq!(code(goodbye), 4002);
    assert!(service_ends.next().is_none(), "the connection ends");
    until("nothing is left", || {
        gateway.metric("tollgate_connections{state=\"open\"}") == 0.0
    });
}

/// A service that agrees at once, with its first message in the same write, and then sends back five bytes at a time.
/// Every other time it does not even wait for the request to be read from its socket.
fn hasty() -> Origin {
    let turn = AtomicUsize::new(0);
    Origin::start(move |exchange: &mut Exchange| {
        let key = exchange.request.header("sec-websocket-key").unwrap_or_default();
        let accept = derive_accept_key(key.as_bytes());
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        )
        .into_bytes();
        answer.extend(b"\x81\x05first");
        if turn.fetch_add(1, Ordering::SeqCst) % 2 == 1 {
            // Two more of them, the last in pieces.
            answer.extend(b"\x81\x05secon\x81\x05th");
            exchange.send(&answer)?;
            exchange.send(b"ird")?;
        } else {
            exchange.send(&answer)?;
        }
        // A masked frame of five bytes of text: head, mask, text.
        let frame = exchange.read(2 + 4 + 5)?;
        let text: Vec<u8> = (0..5).map(|at| frame[6 + at] ^ frame[2 + at % 4]).collect();
        exchange.send(&[b"\x81\x05", &text[..]].concat())?;
        exchange.wait_for_the_end();
        Ok(())
    })
}

#[test]
fn a_service_that_agrees_at_once_and_speaks_at_once_is_heard() {
    let origin = hasty();
    let gateway = Gateway::with(revision(&origin)).start();
    let sockets = Sockets::to(gateway.address());
    for turn in 0..100 {
        let mut socket = sockets.open("/open", None).unwrap();
        assert_eq!(socket.next(), Some(Message::text("first")), "turn {turn}");
        if turn % 2 == 1 {
            assert_eq!(socket.next(), Some(Message::text("secon")), "turn {turn}");
            assert_eq!(socket.next(), Some(Message::text("third")), "turn {turn}");
        }
        socket.echoes("hello");
    }
}

#[test]
fn a_thousand_idle_sockets_stay_and_are_closed_when_the_gateway_leaves() {
    const SOCKETS: usize = 1000;
    let _ = rlimit::increase_nofile_limit(8 * SOCKETS as u64);
    let service = EchoSocket::start();
    let gateway = Gateway::with(behind(&service, "read: 500ms"))
        .server("timeouts: { idle: 500ms, request: 500ms, drain: 1s }, limits: { connections_per_address: 2000 }")
        .start();
    let sockets = Sockets::to(gateway.address());
    let mut first = sockets.open("/open", None).unwrap();
    first.echoes("hello");
    let before = gateway.memory();
    let mut idle: Vec<WebSocket> = (0..SOCKETS).map(|_| sockets.open("/open", None).unwrap()).collect();
    let opened = Instant::now();
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 200 << 20, "{SOCKETS} idle sockets hold {grown} bytes");
    // Longer than anything but a tunnel may be silent.
    std::thread::sleep(Duration::from_millis(1200).saturating_sub(opened.elapsed()));
    assert_eq!(service.open(), SOCKETS + 1);
    for socket in idle.iter_mut().step_by(97) {
        socket.echoes("still there");
    }
    first.echoes("still there");

    gateway.terminate();
    assert_eq!(gateway.wait().code(), Some(0));
    for socket in &mut idle {
        assert!(!matches!(socket.next(), Some(Message::Text(_))));
    }
    until("the service has seen them go", || service.open() == 0);
}

#[test]
fn a_socket_that_is_silent_both_ways_for_too_long_is_ended() {
    let service = EchoSocket::start();
    let gateway = Gateway::with(behind(&service, "tunnel: 400ms"))
        .server("timeouts: { request: 400ms }")
        .start();
    let mut socket = Sockets::to(gateway.address()).open("/open", None).unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(150));
        socket.echoes("not silent");
    }
    assert!(socket.next().is_none(), "a silent socket is kept");
    until("the service has seen it go", || service.open() == 0);
}
