//! The bounds of a request: what is as large as allowed is served, one more is refused.

use super::Siege;
use crate::harness::*;

/// A request whose head is exactly so many bytes.
fn head_of(length: usize) -> Vec<u8> {
    let start = "GET /open HTTP/1.1\r\nHost: a\r\nX-Padding: ";
    format!("{start}{}\r\n\r\n", "x".repeat(length - start.len() - 4)).into_bytes()
}

fn fields_of(count: usize) -> Vec<u8> {
    let others: String = (1..count).map(|n| format!("X-{n}: y\r\n")).collect();
    format!("GET /open HTTP/1.1\r\nHost: a\r\n{others}\r\n").into_bytes()
}

fn target_of(length: usize) -> Vec<u8> {
    format!("GET /open/{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 6)).into_bytes()
}

fn query_of(length: usize) -> Vec<u8> {
    format!("GET /open?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length - 6)).into_bytes()
}

fn method_of(length: usize) -> Vec<u8> {
    format!("{} /open HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(length)).into_bytes()
}

#[test]
fn heads_are_served_up_to_each_limit_and_refused_from_one_more() {
    let siege = Siege::begin();
    for (what, request) in [
        ("100 fields", fields_of(100)),
        ("a head of 32 KiB", head_of(32 * 1024)),
        ("a target of 8192 bytes", target_of(8192)),
        ("a query up to 8192 bytes", query_of(8192)),
        ("a method of 32 bytes", method_of(32)),
    ] {
        let mut connection = siege.gateway.raw();
        connection.send(&request);
        let answer = connection.answer();
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
    }
    for (what, request, status) in [
        ("101 fields", fields_of(101), 431),
        ("300 fields", fields_of(300), 431),
        ("a head of 32 KiB and one byte", head_of(32 * 1024 + 1), 431),
        ("a head of 33 KiB", head_of(33 * 1024), 431),
        ("a head of 1 MiB", head_of(1024 * 1024), 431),
        ("a target of 8193 bytes", target_of(8193), 414),
        ("a query up to 8193 bytes", query_of(8193), 414),
        ("a target of 1 MiB", target_of(1024 * 1024), 414),
        ("a method of 33 bytes", method_of(33), 501),
        ("a method of 100 kB", method_of(100_000), 501),
    ] {
        siege.refuses(what, &request, status);
    }
    let name = format!("GET /open HTTP/1.1\r\nHost: a\r\n{}: x\r\n\r\n", "x".repeat(64 * 1024));
    siege.refuses("a name of 64 KiB", name.as_bytes(), 431);
    siege.leaves_it_unharmed();
}

#[test]
fn a_head_without_an_end_is_refused_at_its_limit() {
    let siege = Siege::begin();
    for (what, request, status) in [
        (
            "fields",
            [&b"GET /open HTTP/1.1\r\nHost: a\r\n"[..], &b"X: y\r\n".repeat(8000)].concat(),
            431,
        ),
        (
            "a value",
            [&b"GET /open HTTP/1.1\r\nHost: a\r\nX: "[..], &b"y".repeat(40_000)].concat(),
            431,
        ),
        ("a target", [&b"GET /"[..], &b"y".repeat(40_000)].concat(), 414),
        ("a method", b"G".repeat(40_000), 501),
    ] {
        siege.refuses(what, &request, status);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn contents_are_served_up_to_the_limit_and_refused_from_one_more() {
    let siege = Siege::of(Origin::start(echo()), |setup| {
        setup.server("limits: { body_bytes: 1000B }")
    });
    let post = |body: usize| siege.gateway.client().post("/open", "x".repeat(body));
    assert_eq!(post(1000).send().expect(200).echo().body.len(), 1000);
    let before = siege.origin.bytes();
    post(1001).send().expect_refusal(413, "body_too_large");
    assert_eq!(siege.origin.bytes(), before, "an announced excess reached the service");

    let chunked = |sizes: &[usize]| {
        let mut request = b"POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for size in sizes {
            request.extend(format!("{size:x}\r\n{}\r\n", "x".repeat(*size)).bytes());
        }
        request.extend(b"0\r\n\r\n");
        let mut connection = siege.gateway.raw();
        let _ = connection.try_send(request);
        connection.answer()
    };
    assert_eq!(chunked(&[1000]).expect(200).echo().body.len(), 1000);
    assert_eq!(chunked(&[400, 400, 200]).expect(200).echo().body.len(), 1000);
    chunked(&[1001]).expect_refusal(413, "body_too_large");
    chunked(&[400, 400, 200, 1]).expect_refusal(413, "body_too_large");
    siege.leaves_it_unharmed();
}
