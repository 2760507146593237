//! HTTP/1 itself: connections that are used again, several requests at once, old clients, odd targets.

use crate::harness::*;

#[test]
fn one_connection_serves_a_hundred_requests_and_so_does_one_to_the_origin() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    for number in 0..100 {
        let target = format!("/orders/{number}");
        let request = match number % 3 {
            0 => gateway.client().get(&target),
            1 => gateway.client().post(&target, format!("body {number}")),
            _ => gateway.client().post(&target, ""),
        };
        let seen = request.key(KEY).send_on(&mut connection).expect(200).echo();
        assert_eq!(seen.target, target);
    }
    assert_eq!(origin.requests(), 100);
    assert!(
        origin.connections() <= 2,
        "one per thread at most: {}",
        origin.connections()
    );
    assert_eq!(gateway.metric("tollgate_connections{state=\"open\"}"), 1.0);
}

#[test]
fn refusals_do_not_cost_the_connection() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.client();
    let mut connection = gateway.raw();
    for _ in 0..5 {
        client.get("/orders").send_on(&mut connection).expect(401);
        client
            .post("/orders", "a body that nobody wants")
            .send_on(&mut connection)
            .expect(401);
        client.get("/nothing").send_on(&mut connection).expect(404);
        client.get("/open/%00").send_on(&mut connection).expect(400);
        client.get("/orders").key(KEY).send_on(&mut connection).expect(200);
    }
    assert_eq!(origin.requests(), 5);
}

#[test]
fn pipelined_requests_are_all_answered_in_their_order() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.client();
    let mut all = Vec::new();
    for number in 0..10 {
        all.extend(match number % 4 {
            0 => client.get(&format!("/open/{number}")).bytes(),
            1 => client
                .post(&format!("/open/{number}"), "GET / HTTP/1.1\r\n\r\n")
                .bytes(),
            2 => format!(
                "PUT /open/{number} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            )
            .into_bytes(),
            _ => client.get(&format!("/nothing/{number}")).bytes(),
        });
    }
    let mut connection = gateway.raw();
    connection.send(&all);
    for number in 0..10 {
        let answer = connection.answer();
        if number % 4 == 3 {
            answer.expect(404);
        } else {
            assert_eq!(answer.expect(200).echo().target, format!("/open/{number}"));
        }
    }
    assert_eq!(origin.requests(), 8);
}

#[test]
fn an_http_1_0_client_gets_its_answer_whole_and_then_the_end() {
    let origin = Origin::start(chunks(&["one, ", "two, ", "three"]));
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    connection.send("GET /open HTTP/1.0\r\nHost: x\r\n\r\n");
    let head = connection.head().unwrap();
    assert_eq!(head.status, 200);
    assert!(
        head.all("transfer-encoding").is_empty(),
        "1.0 does not know chunks: {head:?}"
    );
    assert_eq!(connection.rest(), b"one, two, three");
}

#[test]
fn an_absolute_target_means_the_same_as_its_path() {
    let origin = Origin::start(echo());
    let revision =
        Revision::of(&origin).api("{ name: a, base_path: /, auth: none, upstream: origin, hosts: [api.example.com] }");
    let gateway = Gateway::with(revision).start();
    let ask = |target: &str| {
        let mut connection = gateway.raw();
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: api.example.com\r\n\r\n"));
        connection.answer()
    };
    assert_eq!(
        ask("http://api.example.com/a/b?c=d").expect(200).echo().target,
        "/a/b?c=d"
    );
    assert_eq!(ask("HTTP://api.example.com/?a").expect(200).echo().target, "/?a");
    assert_eq!(ask("/x").expect(200).echo().header("host"), Some("api.example.com"));
    ask("http://other.example.com/a").expect(400);
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_and_then_its_answer() {
    let origin = Origin::start(|exchange: &mut Exchange| {
        if exchange.request.header("expect").is_some() {
            exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        echo()(exchange)
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    for _ in 0..3 {
        connection.send("POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(connection.head().unwrap().status, 100);
        connection.send("hello");
        let answer = connection.answer().expect(200);
        assert_eq!(answer.echo().body, "hello");
        assert_eq!(answer.header("connection"), Some("keep-alive"), "{answer:?}");
    }
}

#[test]
fn a_client_that_waits_for_100_continue_is_refused_without_it() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    connection.send("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let answer = connection.answer().expect_refusal(401, "credential_missing");
    assert!(answer.interim.is_empty());
    assert_eq!(origin.bytes(), 0);
}

#[test]
fn a_client_that_says_close_is_closed_after_its_answer() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    let request = gateway.client().get("/open").header("Connection", "close");
    assert_eq!(
        request.send_on(&mut connection).expect(200).header("connection"),
        Some("close")
    );
    assert!(connection.is_closed());
}
