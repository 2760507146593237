//! Bodies that an API or a route allow less of than the gateway does.

use super::with_api;
use crate::harness::*;

const API: &str = "body_bytes: 1KiB, routes: [ { path: / }, { path: /large, body_bytes: 64KiB } ]";

#[test]
fn an_announced_body_is_refused_before_any_of_it_is_read() {
    let origin = Origin::start(echo());
    let gateway = with_api(&origin, API);
    let mut connection = gateway.raw();
    gateway
        .client()
        .post("/a", vec![b'x'; 1024])
        .send_on(&mut connection)
        .expect(200);
    let refused = gateway
        .client()
        .post("/a", vec![b'x'; 1025])
        .header("X-Request-Id", "large-1");
    refused.send_on(&mut connection).expect_refusal(413, "body_too_large");
    gateway.client().post("/a/large", vec![b'x'; 1025]).send().expect(200);
    gateway
        .client()
        .post("/a/large", vec![b'x'; 65 * 1024])
        .send()
        .expect_refusal(413, "body_too_large");
    assert_eq!(origin.requests(), 2);
    assert_eq!(gateway.access_record("large-1")["code"], "body_too_large");

    let mut waiting = gateway.raw();
    waiting.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\nExpect: 100-continue\r\n\r\n");
    let answer = waiting.answer().expect_refusal(413, "body_too_large");
    assert!(answer.interim.is_empty(), "the body was asked for");
}

#[test]
fn a_body_without_a_length_is_refused_when_it_grows_too_large_and_never_taken_for_complete() {
    let origin = Origin::start(echo());
    let gateway = with_api(&origin, API);
    let chunked = |target: &str, chunks: usize| {
        let mut connection = gateway.raw();
        let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"200\r\n", &[b'x'; 512][..], b"\r\n"].concat();
        let _ = connection.try_send([head.as_bytes(), &chunk.repeat(chunks), b"0\r\n\r\n"].concat());
        connection.answer()
    };
    assert_eq!(chunked("/a", 2).expect(200).echo().body.len(), 1024);
    chunked("/a", 3).expect_refusal(413, "body_too_large");
    chunked("/a", 200).expect_refusal(413, "body_too_large");
    assert_eq!(chunked("/a/large", 100).expect(200).echo().body.len(), 51_200);
    gateway.assert_unharmed(&origin, "/a");
}

#[test]
fn a_body_that_grows_too_large_after_the_service_has_a_part_of_it_is_cut_off_there_too() {
    let origin = Origin::start(echo());
    let gateway = with_api(&origin, API);
    let mut connection = gateway.raw();
    connection.send("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    until("the service has the head", || origin.requests() == 1);
    let rest = [b"800\r\n", &[b'x'; 2048][..], b"\r\n0\r\n\r\n"].concat();
    let _ = connection.try_send(rest);
    connection.answer().expect_refusal(413, "body_too_large");
    gateway.client().get("/a").send().expect(200);
    let received = origin.received();
    let reused = received[1..]
        .iter()
        .any(|later| later.connection == received[0].connection);
    assert!(!reused, "the broken upstream connection was used again");
}

#[test]
fn what_passes_a_tunnel_is_no_body() {
    let origin = Origin::start(|exchange: &mut Exchange| {
        exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")?;
        let got = exchange.read(4096)?;
        exchange.send(&got)?;
        exchange.wait_for_the_end();
        Ok(())
    });
    let gateway = with_api(&origin, API);
    let mut connection = gateway.raw();
    connection.send(
        "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(connection.answer().status, 101);
    for part in [b'x'; 4096].chunks(1000) {
        connection.send(part);
    }
    assert_eq!(connection.take(4096).unwrap(), [b'x'; 4096]);
}
