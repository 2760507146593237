//! HTTP/2 as no well-behaved client writes it: heads that could be read in two ways, and floods that cost the sender
//! nothing.

use std::time::Duration;

use crate::harness::frames::*;
use crate::harness::*;

use super::Siege;

/// More than a gateway may grow under any of the floods.
const GROWTH_MAX: u64 = 50 << 20;

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "a");
const PATH: (&str, &str) = (":path", "/open/smuggled");

#[test]
fn heads_that_break_the_rules_cost_their_stream_and_never_reach_the_service() {
    let siege = Siege::begin();
    let usual = [METHOD, SCHEME, AUTHORITY, PATH];
    let with = |field: (&'static str, &'static str)| [&usual[..], &[field]].concat();
    let target = |path: &'static str| vec![METHOD, SCHEME, AUTHORITY, (":path", path)];
    let authority = |host: &'static str| vec![METHOD, SCHEME, (":authority", host), PATH];
    let long = "x".repeat(9000);
    let rows: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("no method", vec![SCHEME, AUTHORITY, PATH]),
        ("no path", vec![METHOD, SCHEME, AUTHORITY]),
        ("no scheme", vec![METHOD, AUTHORITY, PATH]),
        ("no authority", vec![METHOD, SCHEME, PATH]),
        ("an empty path", target("")),
        ("a path without a slash", target("open/smuggled")),
        ("an absolute path", target("http://b/open/smuggled")),
        ("a star", target("*")),
        ("a space in the path", target("/open/ smuggled")),
        ("a line end in the path", target("/open/smuggled HTTP/1.1\r\nHost: b")),
        ("a byte that has to be encoded", target("/open/`smuggled")),
        (
            "a path that is too long",
            vec![METHOD, SCHEME, AUTHORITY, (":path", &long)],
        ),
        ("two methods", [&[METHOD][..], &usual].concat()),
        ("two paths", [&[PATH][..], &usual].concat()),
        ("two authorities", [&[AUTHORITY][..], &usual].concat()),
        ("an unknown pseudo-header field", with((":odd", "1"))),
        ("a status", with((":status", "200"))),
        ("a pseudo-header field behind a regular one", {
            vec![METHOD, SCHEME, AUTHORITY, ("a", "b"), PATH]
        }),
        ("a name in upper case", with(("X-Upper", "1"))),
        ("an empty name", with(("", "1"))),
        ("a name with a space", with(("a b", "1"))),
        ("a name with a colon", with(("a:b", "1"))),
        ("a line end in a value", with(("a", "1\r\nx-application: admin"))),
        ("a zero in a value", with(("a", "1\0"))),
        ("a space before a value", with(("a", " 1"))),
        ("a space behind a value", with(("a", "1 "))),
        ("connection", with(("connection", "close"))),
        ("transfer-encoding", with(("transfer-encoding", "chunked"))),
        ("upgrade", with(("upgrade", "websocket"))),
        ("keep-alive", with(("keep-alive", "1"))),
        ("proxy-connection", with(("proxy-connection", "close"))),
        ("te other than trailers", with(("te", "gzip"))),
        ("a Host that is not the authority", with(("host", "b"))),
        ("two Hosts", [&with(("host", "a"))[..], &[("host", "a")]].concat()),
        ("a user in the authority", authority("u@a")),
        ("a path in the authority", authority("a/b")),
        ("an authority with two ports", authority("a:1:2")),
        ("an empty authority", authority("")),
        ("two lengths", {
            [&with(("content-length", "0"))[..], &[("content-length", "0")]].concat()
        }),
        ("a length that is no number", with(("content-length", "+0"))),
        ("a length without its body", with(("content-length", "5"))),
        ("CONNECT", vec![(":method", "CONNECT"), AUTHORITY]),
        ("TRACE", vec![(":method", "TRACE"), SCHEME, AUTHORITY, PATH]),
        ("an expectation", with(("expect", "miracles"))),
    ];
    for (what, fields) in rows {
        let before = siege.origin.bytes();
        let mut client = Frames::to(siege.gateway.address(), &[]);
        client.send(request(1, &fields)).unwrap();
        let fate = client.fate(1);
        assert!(!matches!(fate, Fate::Answered(200)), "{what}: {fate:?}");
        assert_eq!(siege.origin.bytes(), before, "{what}: bytes reached the service");
        // Its neighbours do not notice, unless the connection itself can not be read any more.
        if !matches!(fate, Fate::Ended(_)) {
            client.send(get(3, "/open")).unwrap();
            assert_eq!(client.fate(3), Fate::Answered(200), "{what}");
        }
        siege.serves(what);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn what_http_1_would_be_refused_for_is_refused_with_the_same_document() {
    let siege = Siege::begin();
    let client = siege.gateway.http2();
    let long = format!("/open/{}", "x".repeat(9000));
    for (answer, status, code) in [
        (client.request("TRACE", "/open").send(), 501, "method_not_implemented"),
        (client.get(&long).send(), 414, "uri_too_long"),
        (client.get("/open").header("host", "b").send(), 400, "bad_request"),
        (
            client.get("/open").header("expect", "x").send(),
            417,
            "expectation_failed",
        ),
        (client.get("/open/%2f").send(), 400, "bad_request"),
        (client.get("/open/%00").send(), 400, "bad_request"),
    ] {
        let answer = answer.expect_refusal(status, code);
        let id = answer.header("x-request-id").expect("an id");
        let record = siege.gateway.access_record(id);
        assert_eq!((&record["status"], &record["code"]), (&status.into(), &code.into()));
    }
    let mut many = client.get("/open");
    for _ in 0..101 {
        many = many.header("a", "b");
    }
    many.send().expect_refusal(431, "headers_too_large");
    let head = client.request("HEAD", "/open").header("host", "b").send().expect(400);
    assert!(
        head.header("content-length").is_some() && head.body.is_empty(),
        "{head:?}"
    );
    client.get("/open").send().expect(200);
    drop(client);
    siege.leaves_it_unharmed();
}

#[test]
fn malformed_heads_of_one_do_not_cut_off_what_another_asked_for_on_the_same_connection() {
    let gate = Gate::closed();
    let siege = Siege::of(
        Origin::start({
            let gate = gate.clone();
            move |exchange: &mut Exchange| {
                if exchange.request.target == "/open/slow" {
                    gate.pass();
                }
                echo()(exchange)
            }
        }),
        |setup| setup,
    );
    let client = siege.gateway.http2();
    let mut slow = client.get("/open/slow").open();
    slow.finish();
    until("it has arrived", || siege.origin.requests() == 1);
    for _ in 0..100 {
        client.get("/open").header("host", "b").send().expect(400);
    }
    // Longer than a connection may linger that has nothing to do.
    std::thread::sleep(Duration::from_millis(2500));
    gate.open();
    slow.answer().0.expect(200);
    assert_eq!(client.ended(), None, "it is told to go, and nothing is wrong");
    drop(slow);
    siege.leaves_it_unharmed();
}

#[test]
fn floods_end_or_cost_nothing_and_everybody_else_is_served() {
    let siege = Siege::of(Origin::start(echo()), |setup| {
        setup.server("timeouts: { header: 1s, idle: 2s, request: 2s }")
    });
    siege.serves("nothing yet");
    type Flood = (&'static str, fn(u32) -> Vec<u8>);
    // Each piece is sent again and again, until the gateway has had enough.
    let floods: [Flood; 10] = [
        ("pings", |_| frame(PING, 0, 0, &[0; 8]).repeat(100)),
        ("settings", |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0]).repeat(100)),
        ("empty settings", |_| frame(SETTINGS, 0, 0, &[]).repeat(100)),
        ("priorities", |_| frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]).repeat(100)),
        ("unknown frames", |_| frame(99, 0, 0, &[]).repeat(100)),
        ("rapid resets", |round| {
            (0..100)
                .flat_map(|at| {
                    let stream = round * 200 + at * 2 + 1;
                    [get(stream, "/open/flood"), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
                })
                .flatten()
                .collect()
        }),
        ("resets that the gateway is made to send", |round| {
            (0..100)
                .flat_map(|at| {
                    let stream = round * 200 + at * 2 + 1;
                    let open = frame(
                        HEADERS,
                        END_HEADERS,
                        stream,
                        &block(&[
                            (":method", "POST"),
                            (":scheme", "http"),
                            (":authority", "a"),
                            (":path", "/open"),
                        ]),
                    );
                    [open, frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 0])]
                })
                .flatten()
                .collect()
        }),
        ("continuations", |round| {
            let mut flood = Vec::new();
            if round == 0 {
                flood = frame(HEADERS, 0, 1, &block(&[(":method", "GET")]));
            }
            flood.extend(frame(CONTINUATION, 0, 1, &block(&[("a", "b")])).repeat(100));
            flood
        }),
        ("empty data", |round| {
            let mut flood = Vec::new();
            if round == 0 {
                let open = block(&[
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":authority", "a"),
                    (":path", "/open"),
                ]);
                flood = frame(HEADERS, END_HEADERS, 1, &open);
            }
            flood.extend(frame(DATA, 0, 1, &[]).repeat(100));
            flood
        }),
        ("malformed heads", |round| {
            (0..100)
                .flat_map(|at| request(round * 200 + at * 2 + 1, &[METHOD, SCHEME, AUTHORITY, (":path", "x")]))
                .collect()
        }),
    ];
    let before = siege.gateway.memory();
    for (what, flood) in floods {
        let mut client = Frames::to(siege.gateway.address(), &[]);
        let mut rounds = 0;
        while client.send(flood(rounds)).is_ok() {
            rounds += 1;
            assert!(rounds < 20_000, "{what}: nobody puts an end to it");
        }
        siege.serves(what);
        let grown = siege.gateway.memory().saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{what}: it grew by {grown} bytes");
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_list_of_fields_that_unpacks_to_far_more_than_was_sent_is_refused() {
    let siege = Siege::begin();
    let before = siege.gateway.memory();
    // One field of 4000 bytes is remembered, and then named by one byte 10,000 times.
    let mut bomb = block(&[METHOD, SCHEME, AUTHORITY, PATH]);
    bomb.extend([0x40, 1, b'a', 127, 0xa1, 0x1e]);
    bomb.extend(vec![b'x'; 127 + 0x21 + 0x1e * 128]);
    bomb.extend(vec![0xbe; 10_000]);
    let mut client = Frames::to(siege.gateway.address(), &[]);
    client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).unwrap();
    let fate = client.fate(1);
    assert!(!matches!(fate, Fate::Answered(200)), "{fate:?}");
    let grown = siege.gateway.memory().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "it grew by {grown} bytes");
    siege.serves("a bomb");
    siege.leaves_it_unharmed();
}

#[test]
fn clients_that_never_take_their_answers_are_cut_off_and_hold_little() {
    const STREAMS: u32 = 50;
    let siege = Siege::of(
        Origin::start(|exchange: &mut Exchange| match exchange.request.target.as_str() {
            "/open/huge" => huge(8 << 20)(exchange),
            _ => echo()(exchange),
        }),
        |setup| setup.server("timeouts: { idle: 1s, request: 5s }"),
    );
    siege.serves("nothing yet");
    let before = siege.gateway.memory();
    // No byte of any answer is allowed.
    let mut client = Frames::to(siege.gateway.address(), &[(4, 0)]);
    for at in 0..STREAMS {
        client.send(get(at * 2 + 1, "/open/huge")).unwrap();
    }
    let mut given_up = 0;
    while given_up < STREAMS {
        let frame = client.next().expect("the connection outlives its streams");
        assert_ne!(frame.kind, DATA, "nothing of a body was allowed");
        given_up += u32::from(frame.kind == RST_STREAM);
    }
    let grown = siege.gateway.memory().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "it grew by {grown} bytes");
    until("their requests are given up", || {
        siege.gateway.metric("tollgate_requests_in_flight") == 0.0
    });
    siege.serves("clients that do not read");
    drop(client);
    siege.leaves_it_unharmed();
}

#[test]
fn a_client_that_gives_up_everything_it_asks_for_is_sent_away() {
    let gate = Gate::closed();
    let held = gate.clone();
    let siege = Siege::of(
        Origin::start(move |exchange: &mut Exchange| {
            if exchange.request.target == "/open/held" {
                held.pass();
            }
            echo()(exchange)
        }),
        |setup| setup,
    );
    let mut client = Frames::to(siege.gateway.address(), &[]);
    let mut stream = 1;
    // Slowly enough for every request to be begun: what the library's own bound does not see.
    while client.send(get(stream, "/open/held")).is_ok() {
        let begun = siege.gateway.metric("tollgate_requests_in_flight") >= 1.0;
        if client.send(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).is_err() {
            break;
        }
        stream += 2;
        assert!(stream < 4000, "nobody puts an end to it; the last was begun: {begun}");
    }
    gate.open();
    siege.serves("a client that gives up");
    until("nothing of it is left", || {
        siege.gateway.metric("tollgate_requests_in_flight") == 0.0
    });
}
