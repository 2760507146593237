//! Everything at once, for a while: what was used for a request is given back after it. `TOLLGATE_ENDURANCE=600` makes the
//! while ten minutes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::harness::*;

/// How long in all, in seconds, unless the environment says otherwise.
const USUAL: u64 = 12;

/// How much memory may come on after the first third, however long the rest is. What one request leaves behind is seen here
/// when it is left behind often enough; what a process needs for its caches and arenas is not.
const GROWTH_MAX: u64 = 32 << 20;

/// Files and sockets that a process opens once, when it first needs them.
const OPENED_ONCE: usize = 8;

/// Time between two rounds of a client, so that a long run is more of the same and not a test of the machine.
const PACE: Duration = Duration::from_millis(10);

const LARGE: usize = 300_000;

/// What a client does, again and again, until it is told to stop.
type Round = fn(&Gateway);

const CLIENTS: [(&str, Round); 9] = [
    ("requests on a kept connection", on_a_kept_connection),
    ("requests on connections of their own", on_connections_of_their_own),
    ("uploads", uploads),
    ("streams of HTTP/2", streams),
    ("sockets", sockets),
    ("refusals", refusals),
    (
        "clients that leave before their request is complete",
        leaves_before_it_has_asked,
    ),
    (
        "clients that leave before their answer is complete",
        leaves_before_it_is_answered,
    ),
    ("upstreams that break off", upstreams_that_break_off),
];

#[test]
fn under_mixed_load_memory_stays_flat_and_every_descriptor_is_given_back() {
    let origin = origin();
    let echo = EchoSocket::start();
    let gateway = gateway(&origin, &echo);
    let open_before = gateway.descriptors();
    let (warm, whole) = (length() / 3, length());

    let ended = AtomicBool::new(false);
    let rounds: [AtomicUsize; CLIENTS.len()] = Default::default();
    let (before, after) = std::thread::scope(|scope| {
        let end = End(&ended);
        let clients: Vec<_> = (CLIENTS.iter().zip(&rounds))
            .map(|(&(_, round), count)| start(scope, &gateway, round, count, &ended))
            .collect();
        let began = Instant::now();
        // A client that fails ends the story early.
        let wait = |until: Duration| {
            while began.elapsed() < until && !clients.iter().any(|client| client.is_finished()) {
                std::thread::sleep(PACE);
            }
        };
        wait(warm);
        until("everybody had a turn", || {
            clients.iter().any(|client| client.is_finished())
                || rounds.iter().all(|count| count.load(Ordering::SeqCst) > 0)
        });
        let before = gateway.memory();
        wait(whole);
        let after = gateway.memory();
        drop(end);
        for (client, (what, _)) in clients.into_iter().zip(&CLIENTS) {
            assert!(client.join().is_ok(), "{what} did not go as they should");
        }
        (before, after)
    });

    for ((what, _), count) in CLIENTS.iter().zip(&rounds) {
        println!("{what}: {} rounds", count.load(Ordering::SeqCst));
    }
    println!(
        "memory: {before} bytes, then {after}; {} descriptors",
        gateway.descriptors()
    );
    let grown = after.saturating_sub(before);
    assert!(grown <= GROWTH_MAX, "memory grew from {before} by {grown} bytes");
    until("every descriptor is given back", || {
        gateway.descriptors() <= open_before + OPENED_ONCE
    });
    assert!(gateway.metric("tollgate_panics_total").abs() < f64::EPSILON, "a panic");
    // It goes on as if nothing had happened.
    gateway.client().get("/orders/1").key(KEY).send().expect(200);
}

fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    gateway: &'scope Gateway,
    round: Round,
    count: &'scope AtomicUsize,
    ended: &'scope AtomicBool,
) -> std::thread::ScopedJoinHandle<'scope, ()> {
    scope.spawn(move || {
        while !ended.load(Ordering::SeqCst) {
            round(gateway);
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(PACE);
        }
    })
}

/// Ends the load with the story, also when the story ends badly.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn length() -> Duration {
    let said = std::env::var("TOLLGATE_ENDURANCE").ok();
    let seconds = said.map_or(USUAL, |said| {
        let digits = said.strip_suffix('s').unwrap_or(&said);
        digits.parse().expect("TOLLGATE_ENDURANCE is a number of seconds")
    });
    Duration::from_secs(seconds)
}

/// Reads what it is sent and answers with a little, a lot or a part of it, as the path says.
fn origin() -> Origin {
    Origin::start(|exchange: &mut Exchange| {
        // Clients leave in the middle, and the gateway with them: that is the end of a connection and nothing else.
        if answers(exchange).is_err() {
            exchange.close();
        }
        Ok(())
    })
}

fn answers(exchange: &mut Exchange) -> io::Result<()> {
    exchange.read_body()?;
    if exchange.request.target.ends_with("/large") {
        return exchange.respond(200, "", &vec![b'x'; LARGE]);
    }
    if exchange.request.target.ends_with("/broken") {
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf of")?;
        exchange.reset();
        return Ok(());
    }
    exchange.respond(200, "", b"fine")
}

fn gateway(origin: &Origin, echo: &EchoSocket) -> Gateway {
    // Idle connections to the origin are closed soon, or they would still be open when the story counts.
    let upstream = |name: &str, address: std::net::SocketAddr| {
        format!("{{ name: {name}, endpoints: [{{ address: \"{address}\" }}], timeouts: {{ idle: 1s }} }}")
    };
    let revision = Revision::empty()
        .upstream(&upstream("origin", origin.address()))
        .upstream(&format!(
            "{{ name: breaking, endpoints: [{{ address: \"{}\" }}], timeouts: {{ idle: 1s }}, breaker: {{ consecutive: 0, error_rate: 0% }} }}",
            origin.address()
        ))
        .upstream(&upstream("sockets", echo.address()))
        .api("{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }")
        .api("{ name: open, base_path: /open, auth: none, upstream: origin }")
        .api("{ name: breaking, base_path: /breaking, auth: none, upstream: breaking }")
        .api("{ name: sockets, base_path: /sockets, auth: none, upstream: sockets }")
        .api("{ name: few, base_path: /few, auth: none, upstream: origin, limits: [{ name: few, rate: 1/month }] }")
        .mobile(&["orders"]);
    Gateway::with(revision)
        .server("limits: { body_bytes: 1MiB }, timeouts: { idle: 2s }")
        .start()
}

fn on_a_kept_connection(gateway: &Gateway) {
    let client = gateway.client();
    let mut kept = gateway.raw();
    for number in 0..20 {
        let request = client.get(&format!("/orders/{number}")).key(KEY);
        request.send_on(&mut kept).expect(200);
        let request = client.post("/orders", vec![b'x'; 10_000]).key(KEY);
        request.send_on(&mut kept).expect(200);
    }
}

fn on_connections_of_their_own(gateway: &Gateway) {
    gateway.client().get("/orders/7").key(KEY).send().expect(200);
    gateway.client().get("/open/large").send().expect(200);
}

fn uploads(gateway: &Gateway) {
    gateway.client().post("/open", vec![b'x'; LARGE]).send().expect(200);
    let mut chunked = gateway.raw();
    chunked.send("PUT /open/7 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..20 {
        chunked.send(format!("{:x}\r\n{}\r\n", 4096, "x".repeat(4096)));
    }
    chunked.send("0\r\n\r\n").answer().expect(200);
}

fn streams(gateway: &Gateway) {
    let connection = gateway.http2();
    for _ in 0..5 {
        connection.get("/open/7").send().expect(200);
        connection
            .post("/orders", vec![b'x'; 10_000])
            .key(KEY)
            .send()
            .expect(200);
        connection.get("/open/large").open().reset();
    }
}

fn sockets(gateway: &Gateway) {
    let mut socket = Sockets::to(gateway.address()).open("/sockets", None).unwrap();
    for _ in 0..5 {
        socket.echoes("to and fro");
    }
    // Every second one leaves without a word.
    if socket.close(1000).is_some() {
        drop(Sockets::to(gateway.address()).open("/sockets", None).unwrap());
    }
}

fn refusals(gateway: &Gateway) {
    let client = gateway.client();
    client.get("/orders/7").send().expect(401);
    client.get("/orders/7").key(OTHER_KEY).send().expect(401);
    client.get("/nowhere").send().expect(404);
    client.get("/few").send();
    client.get("/few").send().expect(429);
    client.post("/open", vec![b'x'; 2 << 20]).send().expect(413);
    gateway.raw().send("GET / HTTP/1.1\r\n\r\n").answer().expect(400);
}

fn leaves_before_it_has_asked(gateway: &Gateway) {
    drop(gateway.raw());
    gateway.raw().send("GET /open/7 HTTP/1.1\r\nHo");
    gateway
        .raw()
        .send("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\na part of it");
}

fn leaves_before_it_is_answered(gateway: &Gateway) {
    gateway.raw().send("GET /open/large HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut reads_a_little = gateway.raw();
    reads_a_little.send("GET /open/large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        reads_a_little.take(1000).map(|some| some.len()).unwrap_or_default(),
        1000
    );
}

fn upstreams_that_break_off(gateway: &Gateway) {
    let mut connection = gateway.raw();
    connection.send("GET /breaking/broken HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(connection.try_answer(false).is_err(), "half an answer is none");
}
