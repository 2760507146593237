//! Load balancers that say for whom they connect.

use crate::harness::*;

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 51234 443\r\n";

/// The same in version 2.
fn v2() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend([203, 0, 113, 7, 10, 0, 0, 1, 0xc8, 0x22, 1, 0xbb]);
    bytes
}

/// `LOCAL`: a load balancer's own health check.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn trusting(origin: &Origin) -> Setup {
    Gateway::with(revision(origin)).server("trusted_proxies: [\"127.0.0.0/8\"]")
}

fn counted(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("tollgate_proxy_headers_total{{result=\"{result}\"}}"))
}

#[test]
fn the_client_is_whom_the_header_names_for_everything() {
    let origin = Origin::start(echo());
    let gateway = trusting(&origin).listening("proxy_protocol: true").start();
    for header in [V1.to_vec(), v2()] {
        let mut connection = gateway.raw();
        connection.send(&header);
        for _ in 0..2 {
            // What the client says of itself is not believed: it is not the trusted one.
            let request = gateway.client().get("/open").header("X-Forwarded-For", "1.2.3.4");
            let answer = request.send_on(&mut connection).expect(200);
            assert_eq!(answer.echo().header("x-forwarded-for"), Some("203.0.113.7"));
            let record = gateway.access_record(answer.header("x-request-id").unwrap());
            assert_eq!(record["client"], "203.0.113.7");
        }
    }
    assert_eq!(counted(&gateway, "accepted"), 2.0);
}

#[test]
fn a_header_may_come_in_pieces_and_together_with_the_request() {
    let origin = Origin::start(echo());
    let gateway = trusting(&origin).listening("proxy_protocol: true").start();
    let request = gateway.client().get("/open").bytes();
    for header in [V1.to_vec(), v2()] {
        let mut together = gateway.raw();
        together.send([header.as_slice(), &request].concat());
        let seen = together.answer().expect(200).echo();
        assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.7"));

        let mut pieces = gateway.raw();
        for byte in &header {
            pieces.send([*byte]);
        }
        pieces.send(&request);
        let seen = pieces.answer().expect(200).echo();
        assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.7"));
    }
}

#[test]
fn it_stands_before_tls() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let setup = trusting(&origin);
    authority.issue(&["api.example.com"]).write(setup.path(), "default");
    let gateway = setup
        .listening(
            "proxy_protocol: true, tls: { certificates: [{ certificate: \"DIR/default.crt\", key: \"DIR/default.key\" }] }",
        )
        .start();
    for header in [V1.to_vec(), v2()] {
        let mut connection = gateway.raw();
        connection.send(&header);
        let mut tls = authority.client().begin(connection, "api.example.com").unwrap();
        let seen = gateway
            .client()
            .get("/open")
            .send_on(&mut tls.connection)
            .expect(200)
            .echo();
        assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.7"));
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    }
    assert!(
        authority
            .client()
            .connect(gateway.address(), "api.example.com")
            .is_err(),
        "a handshake is no header"
    );
}

#[test]
fn a_load_balancer_that_speaks_for_itself_is_the_client() {
    let origin = Origin::start(echo());
    let gateway = trusting(&origin).listening("proxy_protocol: true").start();
    let mut connection = gateway.raw();
    connection.send(LOCAL);
    let seen = gateway
        .client()
        .get("/open")
        .send_on(&mut connection)
        .expect(200)
        .echo();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn somebody_without_an_address_is_served_and_not_believed() {
    let origin = Origin::start(echo());
    let guarded = revision(&origin).api(
        "{ name: inside, base_path: /inside, auth: none, upstream: origin, addresses: { allow: [\"127.0.0.0/8\"] } }",
    );
    let gateway = Gateway::with(guarded)
        .server("trusted_proxies: [\"127.0.0.0/8\"]")
        .listening("proxy_protocol: true")
        .start();
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[0; 216]].concat();
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0".to_vec(),
        unix,
    ] {
        let mut connection = gateway.raw();
        connection.send(&header);
        let mut ask = |path: &str| {
            let request = gateway.client().get(path).header("X-Forwarded-For", "127.0.0.1");
            request.send_on(&mut connection)
        };
        let answer = ask("/open").expect(200);
        assert_eq!(answer.echo().header("x-forwarded-for"), None);
        ask("/inside").expect_refusal(403, "address_denied");
    }
    // The load balancer itself may say whom it asks for.
    let mut connection = gateway.raw();
    connection.send(LOCAL);
    let request = gateway.client().get("/inside").header("X-Forwarded-For", "127.0.0.9");
    request.send_on(&mut connection).expect(200);
}

#[test]
fn limits_per_address_count_the_client_and_not_the_load_balancer() {
    let origin = Origin::start(echo());
    let limited = Revision::of(&origin).api(
        "{ name: open, base_path: /open, auth: none, upstream: origin, limits: [{ name: ip, rate: 1/d, per: ip }] }",
    );
    let gateway = Gateway::with(limited)
        .server("trusted_proxies: [\"127.0.0.0/8\"]")
        .listening("proxy_protocol: true")
        .start();
    let ask = |client: &str| {
        let mut connection = gateway.raw();
        connection.send(format!("PROXY TCP4 {client} 10.0.0.1 1 2\r\n"));
        gateway.client().get("/open").send_on(&mut connection)
    };
    ask("203.0.113.7").expect(200);
    ask("203.0.113.8").expect(200);
    ask("203.0.113.7").expect_refusal(429, "rate_limited");
}

#[test]
fn connections_per_address_are_the_clients_too() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("trusted_proxies: [\"127.0.0.0/8\"], limits: { connections: 20, connections_per_address: 1 }")
        .listening("proxy_protocol: true")
        .start();
    let connect = |client: &str| {
        let mut connection = gateway.raw();
        connection.send(format!("PROXY TCP4 {client} 10.0.0.1 1 2\r\n"));
        connection
    };
    let ask = |connection: &mut Connection| gateway.client().get("/open").send_on(connection);
    let mut first = connect("203.0.113.7");
    ask(&mut first).expect(200);
    ask(&mut connect("203.0.113.7")).expect_refusal(503, "overloaded");
    ask(&mut connect("203.0.113.8")).expect(200);
    drop(first);
    until("the seat is free again", || {
        ask(&mut connect("203.0.113.7")).status == 200
    });
}

#[test]
fn what_is_no_header_ends_the_connection_and_is_counted() {
    let origin = Origin::start(echo());
    let gateway = trusting(&origin)
        .server("trusted_proxies: [\"127.0.0.0/8\"], timeouts: { header: 300ms }")
        .listening("proxy_protocol: true")
        .start();
    let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 300]].concat();
    for garbage in [
        b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
        b"PROXY TCP4 203.0.113.777 10.0.0.1 1 2\r\nGET /open HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c000000000000",
        &long,
    ] {
        let mut connection = gateway.raw();
        connection.send(garbage);
        assert_eq!(connection.rest(), b"", "{garbage:?}");
    }
    until("they are counted", || counted(&gateway, "malformed") == 4.0);

    let mut half = gateway.raw();
    half.send(b"PROXY TCP4 203.0").finish();
    assert_eq!(half.rest(), b"");
    until("it is counted", || counted(&gateway, "closed") == 1.0);

    let mut slow = gateway.raw();
    slow.send(b"PROXY TCP4 203.0");
    assert_eq!(slow.rest(), b"");
    until("it is counted", || counted(&gateway, "timeout") == 1.0);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn who_is_not_trusted_can_not_say_who_he_is() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("trusted_proxies: [\"10.0.0.0/8\"]")
        .listening("proxy_protocol: true")
        .start();
    let mut connection = gateway.raw();
    let _ = connection.try_send([V1, &gateway.client().get("/open").bytes()].concat());
    assert_eq!(connection.rest(), b"");
    until("it is counted", || counted(&gateway, "stranger") == 1.0);

    // Where no header is expected, one is no request.
    let gateway = trusting(&origin).start();
    let mut connection = gateway.raw();
    connection.send([V1, &gateway.client().get("/open").bytes()].concat());
    connection.answer().expect_refusal(400, "bad_request");
    assert_eq!(origin.requests(), 0);
}
