//! Handshakes that take their time, are something else, begin again, or are the last before the end.

use std::io::Write;
use std::time::Instant;

use crate::harness::*;

const TLS: &str = "tls: { certificates: [{ certificate: \"DIR/default.crt\", key: \"DIR/default.key\" }] }";

fn setup(origin: &Origin, authority: &Authority) -> Setup {
    let setup = Gateway::with(revision(origin));
    authority.issue(&["api.example.com"]).write(setup.path(), "default");
    setup.listening(TLS)
}

#[test]
fn http_on_a_port_for_tls_is_told_so() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let gateway = setup(&origin, &authority).start();
    let answer = gateway.client().get("/open").send().expect_refusal(400, "bad_request");
    assert!(answer.text().contains("https://"), "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));
    gateway.access_record(answer.header("x-request-id").unwrap());
    assert_eq!(gateway.metric("tollgate_tls_handshakes_total{result=\"not_tls\"}"), 1.0);
}

#[test]
fn tls_on_a_port_for_http_ends_at_once() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    // Long deadlines: it is not they that end it.
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { header: 1h, idle: 1h }")
        .start();
    let error = authority
        .client()
        .connect(gateway.address(), "api.example.com")
        .err()
        .unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    gateway.client().get("/open").send().expect(200);
}

#[test]
fn a_handshake_that_does_not_come_to_its_end_is_cut() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let gateway = setup(&origin, &authority).server("timeouts: { header: 300ms }").start();
    // Silence; a part of a record; a byte now and then.
    let mut silent = gateway.raw();
    let mut partly = gateway.raw();
    partly.send([0x16, 3, 1, 2, 0, 1]);
    let mut dripping = gateway.raw();
    let started = Instant::now();
    let mut stream = dripping.stream().try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        let record = [0x16, 3, 1, 1, 0].into_iter().chain(std::iter::repeat(1));
        for byte in record.take(200) {
            if stream.write_all(&[byte]).is_err() || started.elapsed() > PATIENCE {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    for connection in [&mut silent, &mut partly, &mut dripping] {
        connection.rest();
        assert!(connection.is_closed());
    }
    drip.join().unwrap();
    until("all three are counted", || {
        gateway.metric("tollgate_tls_handshakes_total{result=\"timeout\"}")
            + gateway.metric("tollgate_tls_handshakes_total{result=\"failed\"}")
            >= 3.0
    });
    assert!(gateway.metric("tollgate_tls_handshakes_total{result=\"timeout\"}") >= 2.0);
    until("their seats are free", || {
        gateway.metric("tollgate_connections{state=\"open\"}") == 0.0
    });
}

#[test]
fn garbage_costs_nobody_else_anything() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let gateway = setup(&origin, &authority).start();
    for garbage in [
        &b"\x16\x03\x01\xff\xff"[..],
        b"\x80\x2e\x01\x00\x02",
        b"\0\0\0\0\0\0\0\0",
        b"hello\r\n\r\n",
    ] {
        let mut connection = gateway.raw();
        connection.send(garbage).finish();
        connection.rest();
    }
    let mut tls = authority
        .client()
        .connect(gateway.address(), "api.example.com")
        .unwrap();
    gateway.client().get("/open").send_on(&mut tls.connection).expect(200);
    // A client that does not trust the certificate.
    assert!(
        Authority::new()
            .client()
            .connect(gateway.address(), "api.example.com")
            .is_err()
    );
    until("they are counted", || {
        gateway.metric("tollgate_tls_handshakes_total{result=\"failed\"}") >= 3.0
    });
}

#[test]
fn a_client_that_comes_back_resumes_its_session_also_after_the_certificate_was_replaced() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let gateway = setup(&origin, &authority).start();
    let client = authority.client();
    let visit = || {
        let mut tls = client.connect(gateway.address(), "api.example.com").unwrap();
        // The ticket comes with the answer.
        gateway.client().get("/open").send_on(&mut tls.connection).expect(200);
        tls.is_resumed
    };
    assert!(!visit());
    assert!(visit());
    let renewed = authority.issue(&["api.example.com"]);
    renewed.write(gateway.path(), "default");
    until("the new certificate is shown", || {
        let fresh = authority.client().connect(gateway.address(), "api.example.com");
        fresh.unwrap().certificate == renewed.der()
    });
    assert!(visit(), "the keys of tickets are not the certificate's");
    assert_eq!(gateway.metric("tollgate_tls_handshakes_total{result=\"resumed\"}"), 2.0);
}

#[test]
fn http_1_1_is_agreed_on_and_a_protocol_that_is_not_spoken_is_refused() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let gateway = setup(&origin, &authority).start();
    let agreed = |protocols: &[&str]| {
        let client = authority.client().offering(protocols);
        client.connect(gateway.address(), "api.example.com").map(|tls| tls.alpn)
    };
    assert_eq!(agreed(&["http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(agreed(&[]).unwrap(), None);
    assert!(agreed(&["spdy/3"]).is_err());
}

#[test]
fn a_listener_may_insist_on_the_newest_version() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let setup = Gateway::with(revision(&origin));
    authority.issue(&["api.example.com"]).write(setup.path(), "default");
    let gateway = setup
        .listening(&TLS.replace(" }] }", " }], min_version: 1.3 }"))
        .start();
    assert!(authority.client().connect(gateway.address(), "api.example.com").is_ok());
    // The head of a handshake of version 1.2, without the extension that offers 1.3.
    let mut old = gateway.raw();
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    old.send(&hello);
    let alert = old.rest();
    assert_eq!(alert.first(), Some(&21), "an alert ends it: {alert:?}");
}

#[test]
fn one_gateway_serves_with_tls_and_without_and_each_listener_knows_which() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let setup = Gateway::with(revision(&origin));
    authority.issue(&["api.example.com"]).write(setup.path(), "default");
    let gateway = setup.listening_too(TLS).start();
    let &[plain, tls] = gateway.addresses() else {
        panic!("{:?}", gateway.addresses())
    };
    let seen = Client::of(plain).get("/open").send().expect(200).echo();
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    let mut connection = authority.client().connect(tls, "api.example.com").unwrap().connection;
    let seen = Client::of(tls).get("/open").send_on(&mut connection).expect(200).echo();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    Client::of(tls).get("/open").send().expect_refusal(400, "bad_request");
}

#[test]
fn a_gateway_that_leaves_answers_what_it_has_taken_over_tls_too() {
    let gate = Gate::closed();
    let authority = Authority::new();
    let origin = Origin::start({
        let gate = gate.clone();
        move |exchange: &mut Exchange| {
            gate.pass();
            exchange.respond(200, "", b"late")
        }
    });
    let gateway = setup(&origin, &authority).start();
    let mut busy = authority
        .client()
        .connect(gateway.address(), "api.example.com")
        .unwrap()
        .connection;
    let idle = authority
        .client()
        .connect(gateway.address(), "api.example.com")
        .unwrap();
    busy.send(gateway.client().get("/open").bytes());
    until("the request is in flight", || {
        gateway.metric("tollgate_requests_in_flight") == 1.0
    });
    gateway.terminate();
    gateway.logs("leaving");
    gate.open();
    let answered = busy.answer().expect(200);
    assert_eq!(answered.text(), "late");
    assert_eq!(answered.header("connection"), Some("close"));
    drop(idle);
    assert_eq!(gateway.wait().code(), Some(0));
}
