//! Clients that take their time, and clients that come in numbers: each is cut off by a deadline or a bound, and nobody
//! else notices.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::harness::*;

/// Sends one byte per interval until the gateway has had enough, and gives what it got instead.
#[track_caller]
fn drip(connection: &mut Connection, text: &[u8], interval: Duration) -> (Answer, usize) {
    connection.stream().set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut seen = [0_u8; 1];
    for byte in text {
        if connection.stream().peek(&mut seen).is_ok() || connection.try_send([*byte]).is_err() {
            break;
        }
        sent += 1;
        std::thread::sleep(interval);
    }
    connection.stream().set_nonblocking(false).unwrap();
    let answer = connection.try_answer(false).expect("an answer to a dripping client");
    assert!(connection.is_closed(), "a dripping client keeps its connection");
    (answer, sent)
}

const INTERVAL: Duration = Duration::from_millis(20);

/// Far more bytes than fit into a deadline.
const LONG: usize = 500;

#[test]
fn a_head_that_drips_is_cut_off_with_408() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { header: 300ms }")
        .start();
    let head = format!("GET /open HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(LONG));
    let (answer, sent) = drip(&mut gateway.raw(), head.as_bytes(), INTERVAL);
    answer.expect_refusal(408, "request_timeout");
    assert!((2..LONG / 2).contains(&sent), "cut off after {sent} bytes");

    // The deadline is for the whole head, on every request of a connection.
    let mut connection = gateway.raw();
    connection
        .send(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n")
        .answer()
        .expect(200);
    let (answer, sent) = drip(&mut connection, head.as_bytes(), INTERVAL);
    answer.expect_refusal(408, "request_timeout");
    assert!((2..LONG / 2).contains(&sent), "cut off after {sent} bytes");
    assert_eq!(origin.requests(), 1);
    drop(connection);
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn a_content_that_drips_is_cut_off_with_408_and_the_service_is_let_go() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { request: 500ms }")
        .start();
    for fields in [
        format!("Content-Length: {LONG}"),
        "Transfer-Encoding: chunked".to_owned(),
    ] {
        let mut connection = gateway.raw();
        connection.send(format!("POST /open HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        let content = if fields.starts_with('C') {
            "x".repeat(LONG)
        } else {
            "1\r\nx\r\n".repeat(LONG / 6)
        };
        let (answer, sent) = drip(&mut connection, content.as_bytes(), INTERVAL);
        answer.expect_refusal(408, "request_timeout");
        assert!((2..LONG / 2).contains(&sent), "cut off after {sent} bytes");
    }
    gateway.assert_unharmed(&origin, "/open");
    let received = origin.received();
    for (at, broken) in received
        .iter()
        .enumerate()
        .filter(|(_, request)| request.method == "POST")
    {
        let reused = received[at + 1..]
            .iter()
            .any(|later| later.connection == broken.connection);
        assert!(!reused, "an upstream connection with half a request was used again");
    }
}

#[test]
fn a_connection_without_a_request_is_closed_without_a_word() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { idle: 300ms }")
        .start();
    let mut silent = gateway.raw();
    let started = Instant::now();
    assert!(silent.rest().is_empty(), "an idle client was told something");
    assert!(started.elapsed() >= Duration::from_millis(250), "closed too early");

    let mut used = gateway.raw();
    used.send(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n").answer().expect(200);
    assert!(
        used.rest().is_empty(),
        "a client that is idle between requests was told something"
    );
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let origin = Origin::start(|exchange: &mut Exchange| match exchange.request.target.as_str() {
        "/open/huge" => huge(64 * 1024 * 1024)(exchange),
        _ => echo()(exchange),
    });
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { idle: 300ms }")
        .start();
    let mut connection = gateway.raw();
    connection.send(b"GET /open/huge HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the answer is under way", || origin.requests() == 1);
    until("the connection is given up", || {
        gateway.metric("tollgate_connections{state=\"open\"}") == 0.0
    });
    // What was on its way arrives; the end of it shows that it is not all.
    assert!(connection.rest().len() < 64 * 1024 * 1024);
    drop(connection);
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    let origin = Origin::start(|exchange: &mut Exchange| match exchange.request.target.as_str() {
        "/open/hangs" => hangs()(exchange),
        _ => echo()(exchange),
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let rows = [
        "",
        "G",
        "GET /open HTTP/1.1\r\nHo",
        "GET /open HTTP/1.1\r\nHost: a\r\n\r",
        "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n",
        "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
        "POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "GET /open/hangs HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for text in rows {
        for half in [true, false] {
            let mut connection = gateway.raw();
            connection.send(text);
            if half {
                connection.finish();
                let rest = String::from_utf8_lossy(&connection.rest()).into_owned();
                assert!(!rest.contains("200 OK"), "half a request was served: {text:?}: {rest}");
            }
        }
    }
    gateway.assert_unharmed(&origin, "/open");
    let posts: Vec<_> = origin
        .received()
        .into_iter()
        .filter(|request| request.method == "POST")
        .collect();
    let later = origin.received();
    for broken in posts {
        let uses = later
            .iter()
            .filter(|request| request.connection == broken.connection)
            .count();
        assert_eq!(uses, 1, "an upstream connection with half a request was used again");
    }
}

/// A connection from another address of this machine.
fn from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::from(address), 0)).into())
        .unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

#[test]
fn connections_are_bounded_in_all_and_for_each_address_and_seats_come_back() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("limits: { connections: 4, connections_per_address: 3 }")
        .start();
    let open = || gateway.metric("tollgate_connections{state=\"open\"}");
    let mine: Vec<Connection> = (0..3).map(|_| gateway.raw()).collect();
    until("three seats are taken", || open() == 3.0);

    let refused = |what: &str| {
        let mut connection = gateway.raw();
        let answer = connection.answer().expect_refusal(503, "overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"), "{what}");
        assert!(connection.is_closed(), "{what}");
    };
    refused("the fourth from one address");
    let other = from([127, 0, 0, 2], gateway.address());
    until("another address has a seat", || open() == 4.0);
    refused("the fifth in all");
    let yet_another = from([127, 0, 0, 3], gateway.address());
    let mut seen = [0; 12];
    std::io::Read::read_exact(&mut &yet_another, &mut seen).unwrap();
    assert_eq!(&seen, b"HTTP/1.1 503", "the fifth in all, from a new address");

    drop((mine, other, yet_another));
    until("the seats are free", || open() == 0.0);
    assert!(gateway.metric("tollgate_connections_refused_total") >= 3.0);
    assert_eq!(origin.bytes(), 0);
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn requests_are_bounded_and_places_come_back() {
    let gate = Gate::closed();
    let behind = gate.clone();
    let origin = Origin::start(move |exchange: &mut Exchange| {
        if exchange.request.target == "/open/waits" {
            behind.pass();
        }
        echo()(exchange)
    });
    let gateway = Gateway::with(revision(&origin))
        .server("limits: { requests_in_flight: 1 }")
        .start();
    let mut waiting = gateway.raw();
    waiting.send(b"GET /open/waits HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the place is taken", || origin.requests() == 1);

    let mut connection = gateway.raw();
    let get = || gateway.client().get("/open");
    for _ in 0..3 {
        let answer = get().send_on(&mut connection).expect_refusal(503, "overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(origin.requests(), 1);
    gate.open();
    waiting.answer().expect(200);
    until("the place is free", || {
        gateway.metric("tollgate_requests_in_flight") == 0.0
    });
    get().send_on(&mut connection).expect(200);
    drop((waiting, connection));
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn hundreds_of_slow_clients_do_not_slow_down_the_others() {
    const SLOW: usize = 300;
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut slow: Vec<Connection> = (0..SLOW).map(|_| gateway.raw()).collect();
    let head = b"GET /open HTTP/1.1\r\nHost: a\r\nX-Slow: ";
    let done = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    let slowest = std::thread::scope(|scope| {
        scope.spawn(|| {
            for byte in head.iter().chain([b'x'].iter().cycle()) {
                for connection in &mut slow {
                    connection.send([*byte]);
                }
                if done.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let mut slowest = Duration::ZERO;
        let mut connection = gateway.raw();
        for _ in 0..100 {
            let started = Instant::now();
            gateway.client().get("/open").send_on(&mut connection).expect(200);
            gateway.client().get("/open").send().expect(200);
            slowest = slowest.max(started.elapsed());
            served.fetch_add(2, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
        slowest
    });
    assert_eq!(served.load(Ordering::SeqCst), 200);
    assert!(
        slowest < Duration::from_secs(2),
        "two requests took {slowest:?} beside slow clients"
    );
    assert!(gateway.metric("tollgate_connections{state=\"open\"}") >= 300.0);
    drop(slow);
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn without_file_descriptors_connections_wait_and_are_served_when_some_are_free() {
    const FILES: u32 = 64;
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).open_files(FILES).start();
    let crowd: Vec<Connection> = (0..FILES + 16).map(|_| gateway.raw()).collect();
    // As many as it can take are taken; the others are in the backlog or were closed.
    let started = Instant::now();
    let patient = std::thread::scope(|scope| {
        let patient = scope.spawn(|| {
            // The status listener has no descriptors left either, so only the data port is asked.
            let get = b"GET /orders HTTP/1.1\r\nHost: a\r\n\r\n";
            let mut connection = gateway.raw();
            let _ = connection.try_send(get);
            connection.try_answer(false).map(|answer| answer.status)
        });
        std::thread::sleep(Duration::from_millis(300));
        drop(crowd);
        patient.join().unwrap()
    });
    // Whoever waited was served, refused or closed, but never let in without a key.
    if let Ok(status) = patient {
        assert!(matches!(status, 401 | 503), "{status}");
    }
    until("it serves again", || {
        let mut connection = gateway.raw();
        let _ = connection.try_send(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n");
        connection.try_answer(false).is_ok_and(|answer| answer.status == 200)
    });
    assert!(started.elapsed() < PATIENCE);
    gateway.assert_recovered(&origin, "/open");
}

#[test]
fn a_full_disk_stops_the_access_log_and_nothing_else() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .access_log("{ path: /dev/full }")
        .start();
    let mut connection = gateway.raw();
    for _ in 0..200 {
        gateway.client().get("/open").send_on(&mut connection).expect(200);
        gateway.client().get("/orders").send_on(&mut connection).expect(401);
    }
    drop(connection);
    gateway.assert_recovered(&origin, "/open");
}

#[test]
fn a_gateway_that_is_asked_to_leave_waits_for_requests_until_the_deadline_and_for_nothing_else() {
    let origin = Origin::start(hangs());
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { header: 300ms, drain: 60s }")
        .start();
    let idle: Vec<Connection> = (0..3).map(|_| gateway.raw()).collect();
    let mut half = gateway.raw();
    half.send(b"GET /open HTTP/1.1\r\nHo");
    let started = Instant::now();
    gateway.terminate();
    assert!(gateway.wait().success());
    assert!(started.elapsed() < PATIENCE, "idle connections held it back");
    drop((idle, half));

    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { drain: 300ms }")
        .start();
    let mut hanging = gateway.raw();
    hanging.send(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n");
    until("the request is at the service", || origin.requests() == 1);
    gateway.terminate();
    let started = Instant::now();
    gateway.wait();
    assert!(started.elapsed() < PATIENCE, "a hanging request held it back");
}

#[test]
fn a_request_that_ran_out_of_time_is_logged_under_the_id_that_the_client_was_told() {
    let origin = Origin::start(hangs());
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { request: 300ms }")
        .start();
    let answer = gateway
        .client()
        .get("/open")
        .send()
        .expect_refusal(504, "upstream_timeout");
    let id = answer.header("X-Request-Id").unwrap().to_owned();
    let record = gateway.access_record(&id);
    assert_eq!(record["code"], "upstream_timeout", "{record}");
    assert_eq!(record["path"], "/open");
}

/// Found in review: the deadline of an idle connection of a leaving process was the deadline of its last request too.
#[test]
fn a_last_request_on_an_idle_connection_of_a_leaving_gateway_has_all_its_time() {
    let origin = Origin::start(|exchange: &mut Exchange| {
        if exchange.request.target == "/open/slow" {
            std::thread::sleep(Duration::from_millis(1500));
        }
        echo()(exchange)
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let mut idle = gateway.raw();
    idle.send(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    gateway.terminate();
    idle.send(b"GET /open/slow HTTP/1.1\r\nHost: a\r\n\r\n");
    let last = idle.answer();
    assert_eq!(last.status, 200, "{last:?}");
    assert!(gateway.wait().success());
}

#[test]
fn an_interim_answer_does_not_stop_the_clock() {
    let origin = Origin::start(|exchange: &mut Exchange| match exchange.request.target.as_str() {
        "/open/interim" => {
            exchange.send(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")?;
            hangs()(exchange)
        }
        _ => echo()(exchange),
    });
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { request: 400ms }")
        .start();
    gateway
        .client()
        .get("/open/interim")
        .send()
        .expect_refusal(504, "upstream_timeout");
    gateway.assert_unharmed(&origin, "/open");
}
