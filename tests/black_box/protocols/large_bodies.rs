//! Bodies far larger than what the gateway may keep of them.

use std::io;

use crate::harness::*;

const SIZE: usize = 100 << 20;

/// Far less than a body.
const GROWTH_MAX: u64 = 64 << 20;

const PIECE: usize = 64 * 1024;

/// A service that reads everything and tells how much it was, and sends as much to who asks with GET.
fn sink_and_source() -> Origin {
    Origin::start(|exchange: &mut Exchange| {
        if exchange.request.method == "GET" && exchange.request.target == "/open/large" {
            return huge(SIZE)(exchange);
        }
        let read = read_away(exchange)?;
        exchange.respond(200, "", read.to_string().as_bytes())
    })
}

fn read_away(exchange: &mut Exchange) -> io::Result<usize> {
    if exchange.request.header("transfer-encoding").is_some() {
        let mut read = 0;
        loop {
            let chunk = exchange.read_chunk()?;
            if chunk.is_empty() {
                return Ok(read);
            }
            read += chunk.len();
        }
    }
    let length: usize = exchange
        .request
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut left = length;
    while left > 0 {
        left -= exchange.read(left.min(PIECE))?.len();
    }
    exchange.has_read_the_body();
    Ok(length)
}

fn gateway(origin: &Origin) -> Gateway {
    let gateway = Gateway::with(revision(origin))
        .server("limits: { body_bytes: 200MiB }")
        .start();
    gateway.client().post("/open", "small").send().expect(200);
    gateway
}

#[track_caller]
fn assert_small(gateway: &Gateway, before: u64, what: &str) {
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{what}: it grew by {grown} bytes");
}

#[test]
fn a_large_body_goes_up_and_comes_down_over_http_1() {
    let origin = sink_and_source();
    let gateway = gateway(&origin);
    let before = gateway.memory();

    let mut up = gateway.raw();
    up.send(format!(
        "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
    ));
    let piece = vec![b'x'; PIECE];
    for at in 0..SIZE / PIECE {
        up.send(&piece);
        if at % 400 == 0 {
            assert_small(&gateway, before, "on the way up");
        }
    }
    assert_eq!(up.answer().expect(200).text(), SIZE.to_string());
    assert_small(&gateway, before, "up");

    let mut down = gateway.raw();
    down.send(gateway.client().get("/open/large").bytes());
    assert_eq!(down.head().unwrap().status, 200);
    for at in 0..SIZE / PIECE {
        assert_eq!(down.take(PIECE).unwrap().len(), PIECE);
        if at % 400 == 0 {
            assert_small(&gateway, before, "on the way down");
        }
    }
    assert_small(&gateway, before, "down");
}

#[test]
fn a_large_body_goes_up_and_comes_down_over_http_2() {
    let origin = sink_and_source();
    let gateway = gateway(&origin);
    let before = gateway.memory();
    let client = gateway.http2();

    let mut up = client.request("POST", "/open").open();
    let piece = vec![b'x'; PIECE];
    for at in 0..SIZE / PIECE {
        up.send(piece.clone());
        if at % 400 == 0 {
            assert_small(&gateway, before, "on the way up");
        }
    }
    up.finish();
    assert_eq!(up.answer().0.expect(200).text(), SIZE.to_string());
    assert_small(&gateway, before, "up");

    let mut down = client.get("/open/large").open();
    down.finish();
    assert_eq!(down.head().status, 200);
    let mut received = 0;
    while let Some(data) = down.data().unwrap() {
        received += data.len();
    }
    assert_eq!(received, SIZE);
    assert_small(&gateway, before, "down");
}

#[test]
fn a_client_that_reads_slowly_does_not_make_the_gateway_keep_the_rest() {
    let origin = sink_and_source();
    let gateway = gateway(&origin);
    let before = gateway.memory();
    let client = gateway.http2();
    let mut down = client.get("/open/large").open();
    down.finish();
    assert_eq!(down.head().status, 200);
    // The service has sent what fits on the way and waits; nothing says when, so give it time to do more.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_small(&gateway, before, "while its client waits");
    let mut received = 0;
    while let Some(data) = down.data().unwrap() {
        received += data.len();
    }
    assert_eq!(received, SIZE);
}
