//! Chunked contents that end in more than one place: refused, and the service never takes one for complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{SMUGGLED, Siege};
use crate::harness::*;

/// What is wrong, what stands behind a good first chunk, and the status it gets.
const FAULTS: [(&str, &[u8], u16); 30] = [
    ("an empty size", b"\r\nhello\r\n0\r\n\r\n", 400),
    ("an empty size as the end", b"\r\n\r\n", 400),
    ("a prefix 0x", b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    ("a sign", b"+5\r\nhello\r\n0\r\n\r\n", 400),
    ("a minus", b"-5\r\nhello\r\n0\r\n\r\n", 400),
    ("a space before", b" 5\r\nhello\r\n0\r\n\r\n", 400),
    ("a space behind", b"5 \r\nhello\r\n0\r\n\r\n", 400),
    ("a tab behind", b"5\t\r\nhello\r\n0\r\n\r\n", 400),
    ("an underscore", b"1_0\r\nhello\r\n0\r\n\r\n", 400),
    ("a comma", b"5,5\r\nhello\r\n0\r\n\r\n", 400),
    ("a letter", b"g\r\nhello\r\n0\r\n\r\n", 400),
    ("seventeen digits", b"00000000000000005\r\nhello\r\n0\r\n\r\n", 400),
    ("an overflow", b"10000000000000005\r\nhello\r\n0\r\n\r\n", 400),
    ("the largest size", b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", 413),
    ("a bare line feed", b"5\nhello\r\n0\r\n\r\n", 400),
    ("a bare return", b"5\rhello\r\n0\r\n\r\n", 400),
    ("NUL in a size", b"5\0\r\nhello\r\n0\r\n\r\n", 400),
    ("NUL in an extension", b"5;a=\0\r\nhello\r\n0\r\n\r\n", 400),
    ("an empty extension", b"5;\r\nhello\r\n0\r\n\r\n", 400),
    ("a line feed in an extension", b"5;a\nhello\r\n0\r\n\r\n", 400),
    ("a return in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n", 400),
    ("a chunk longer than its size", b"4\r\nhello\r\n0\r\n\r\n", 400),
    ("a line feed behind a chunk", b"5\r\nhello\n0\r\n\r\n", 400),
    ("a line feed behind the last size", b"0\n\r\n", 400),
    ("a line feed at the end", b"0\r\n\n", 400),
    ("a trailer without a name", b"0\r\n: x\r\n\r\n", 400),
    ("a trailer with a space", b"0\r\nX : x\r\n\r\n", 400),
    ("a folded trailer", b"0\r\nX: x\r\n y\r\n\r\n", 400),
    ("a trailer with framing", b"0\r\nContent-Length: 5\r\n\r\n", 400),
    (
        "a trailer with a credential",
        b"0\r\nAuthorization: Bearer x\r\n\r\n",
        400,
    ),
];

/// Echoes, and counts the requests that arrived whole.
fn counting() -> (Origin, Arc<AtomicUsize>) {
    let whole = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&whole);
    let echo = echo();
    let origin = Origin::start(move |exchange: &mut Exchange| {
        exchange.read_body()?;
        counter.fetch_add(1, Ordering::SeqCst);
        echo(exchange)
    });
    (origin, whole)
}

const HEAD: &[u8] = b"POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Sends one faulty message and checks everything about it; `pause` comes between the good and the bad part.
#[track_caller]
fn is_cut_off(siege: &Siege, whole: &AtomicUsize, (what, fault, status): (&str, &[u8], u16), pause: bool) {
    let (requests, finished) = (siege.origin.requests(), whole.load(Ordering::SeqCst));
    let mut connection = siege.gateway.raw();
    if pause {
        connection.send([HEAD, b"3\r\nabc\r\n"].concat());
        until("the service has the head", || siege.origin.requests() > requests);
        let _ = connection.try_send([fault, SMUGGLED].concat());
    } else {
        let _ = connection.try_send([HEAD, b"3\r\nabc\r\n", fault, SMUGGLED].concat());
    }
    let answer = connection
        .try_answer(false)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    assert!(connection.rest().is_empty(), "{what}: a second answer");
    assert_eq!(whole.load(Ordering::SeqCst), finished, "{what}: taken for complete");
    siege.serves(what);

    let received = siege.origin.received();
    for (at, broken) in received
        .iter()
        .enumerate()
        .filter(|(_, request)| request.method == "POST")
    {
        let reused = received[at + 1..]
            .iter()
            .any(|later| later.connection == broken.connection);
        assert!(!reused, "{what}: the broken upstream connection was used again");
    }
}

#[test]
fn a_faulty_chunk_that_comes_with_the_head_is_never_completed() {
    let (origin, whole) = counting();
    let siege = Siege::of(origin, |setup| setup);
    for row in FAULTS {
        is_cut_off(&siege, &whole, row, false);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_faulty_chunk_behind_a_good_one_aborts_the_upstream_connection() {
    let (origin, whole) = counting();
    let siege = Siege::of(origin, |setup| setup);
    for row in FAULTS {
        is_cut_off(&siege, &whole, row, true);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn chunk_extensions_and_trailers_are_not_carried_without_bound() {
    let (origin, whole) = counting();
    let siege = Siege::of(origin, |setup| setup);
    let long_extension = [b"5;a=", &vec![b'x'; 64 * 1024][..], b"\r\nhello\r\n0\r\n\r\n"].concat();
    let many_extensions = [b"1;a=bcdefghi\r\nx\r\n".repeat(600), b"0\r\n\r\n".to_vec()].concat();
    let long_trailer = [b"0\r\nX: ", &vec![b'x'; 64 * 1024][..], b"\r\n\r\n"].concat();
    let many_trailers = [b"0\r\n".to_vec(), b"X: y\r\n".repeat(3000), b"\r\n".to_vec()].concat();
    for (what, fault) in [
        ("an extension of 64 KiB", &long_extension),
        ("600 extensions", &many_extensions),
        ("a trailer of 64 KiB", &long_trailer),
        ("3000 trailers", &many_trailers),
    ] {
        is_cut_off(&siege, &whole, (what, fault, 400), false);
    }
    siege.leaves_it_unharmed();
}
