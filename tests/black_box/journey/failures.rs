//! Origins that fail: the client gets an honest answer, and nobody else notices.

use crate::harness::*;

#[test]
fn an_endpoint_that_can_not_be_reached_is_passed_over_for_any_method() {
    let nobody = Planned::new();
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        Revision::empty()
            .upstream(&format!(
                "{{ name: both, endpoints: [{{ address: \"{}\" }}, {{ address: \"{}\" }}] }}",
                nobody.address(),
                origin.address()
            ))
            .api("{ name: a, base_path: /a, auth: none, upstream: both }"),
    )
    .start();
    for number in 0..10 {
        let body = format!("body {number}");
        let seen = gateway.client().post("/a", body.clone()).send().expect(200).echo();
        assert_eq!((seen.method.as_str(), seen.body), ("POST", body));
    }
    assert_eq!(origin.requests(), 10, "every request was sent once");
}

#[test]
fn an_upstream_of_which_nothing_can_be_reached_is_502_and_the_connection_lives() {
    let nobody = Planned::new();
    let gateway = Gateway::with(
        Revision::empty()
            .behind("nobody", nobody.address())
            .api("{ name: a, base_path: /a, auth: none, upstream: nobody }"),
    )
    .start();
    let mut connection = gateway.raw();
    for _ in 0..3 {
        let answer = gateway.client().get("/a").send_on(&mut connection);
        let answer = answer.expect_refusal(502, "upstream_failed");
        assert!(
            !answer.text().contains(&nobody.address().to_string()),
            "no internal address in {answer:?}"
        );
    }
}

#[test]
fn an_origin_that_closes_without_a_word_is_502() {
    let origin = Origin::start(closes_early());
    let gateway = Gateway::with(revision(&origin)).start();
    let request = gateway.client().post("/open", "once").header("X-Request-Id", "closed");
    request.send().expect_refusal(502, "upstream_failed");
    assert_eq!(origin.requests(), 1, "what was sent is not sent again");
    assert_eq!(gateway.access_record("closed")["code"], "upstream_failed");
}

#[test]
fn an_origin_that_answers_garbage_is_502() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbroken line\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: banana\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let origin = Origin::start(garbage(bytes));
        let gateway = Gateway::with(revision(&origin)).start();
        let answer = gateway.client().get("/open").send();
        assert_eq!(answer.status, 502, "{:?}: {answer:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn an_origin_that_says_nothing_is_504_in_time() {
    let origin = Origin::start(hangs());
    let gateway = Gateway::with(
        Revision::empty()
            .upstream(&format!(
                "{{ name: hang, endpoints: [{{ address: \"{}\" }}], timeouts: {{ read: 200ms }} }}",
                origin.address()
            ))
            .api("{ name: a, base_path: /a, auth: none, upstream: hang }"),
    )
    .start();
    gateway
        .client()
        .get("/a")
        .send()
        .expect_refusal(504, "upstream_timeout");
    gateway
        .client()
        .post("/a", "x")
        .send()
        .expect_refusal(504, "upstream_timeout");
}

#[test]
fn an_answer_that_breaks_off_is_not_passed_for_a_whole_one() {
    let origin = Origin::start(resets_mid_body());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open").header("X-Request-Id", "broken").bytes());
    let head = connection.head().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
    assert_eq!(connection.rest(), b"12345", "what there was, and then the end");
    assert_eq!(gateway.access_record("broken")["code"], "upstream_failed");
}

#[test]
fn bytes_after_an_answer_are_nobodys_answer() {
    let origin = Origin::start(|exchange: &mut Exchange| match exchange.request.target.as_str() {
        "/open/poison" => answers_too_much(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")(exchange),
        _ => answer(200, "clean")(exchange),
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    for _ in 0..10 {
        let answer = gateway.client().get("/open/poison").send_on(&mut connection);
        assert_eq!(answer.expect(200).text(), "right");
        let answer = gateway.client().get("/open/next").send_on(&mut connection);
        assert_eq!(answer.expect(200).text(), "clean");
    }
}

#[test]
fn an_answer_before_the_whole_body_was_read_reaches_the_client() {
    let origin = Origin::start(answers_before_reading(413));
    let gateway = Gateway::with(revision(&origin)).start();
    for size in [10, 100_000, 4 << 20] {
        let answer = gateway.client().post("/open", vec![b'x'; size]).send();
        assert_eq!((answer.status, answer.text().as_str()), (413, "early"), "{size} bytes");
    }
}

#[test]
fn an_origin_that_comes_back_is_used_again() {
    let planned = Planned::new();
    let gateway = Gateway::with(
        Revision::empty()
            .behind("late", planned.address())
            .api("{ name: a, base_path: /a, auth: none, upstream: late }"),
    )
    .start();
    gateway.client().get("/a").send().expect(502);
    let _origin = planned.start(echo());
    gateway.client().get("/a").send().expect(200);
}

#[test]
fn a_kept_connection_that_the_origin_has_closed_costs_no_request() {
    // The origin closes after each answer without saying so; what is left is a dead connection in the pool.
    let origin = Origin::start(|exchange: &mut Exchange| {
        echo()(exchange)?;
        exchange.close();
        Ok(())
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    for number in 0..20 {
        let answer = gateway
            .client()
            .get(&format!("/open/{number}"))
            .send_on(&mut connection);
        assert_eq!(answer.expect(200).echo().target, format!("/open/{number}"));
    }
}
