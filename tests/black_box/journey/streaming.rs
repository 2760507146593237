//! Bodies: as they come, as large as they are.

use std::io;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::harness::*;

#[test]
fn an_answer_reaches_the_client_while_the_origin_is_still_writing_it() {
    let more = Gate::closed();
    let origin = Origin::start({
        let more = more.clone();
        move |exchange: &mut Exchange| {
            exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            exchange.send_chunk(b"first")?;
            more.pass();
            exchange.send_chunk(b"last")?;
            exchange.send(b"0\r\n\r\n")
        }
    });
    let gateway = Gateway::with(revision(&origin)).start();

    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open").bytes());
    assert_eq!(connection.head().unwrap().status, 200);
    assert_eq!(connection.chunk().unwrap(), b"first");
    more.open();
    assert_eq!(connection.chunk().unwrap(), b"last");
    assert_eq!(connection.chunk().unwrap(), b"");
}

#[test]
fn a_body_reaches_the_origin_while_the_client_is_still_writing_it() {
    let arrived = Gate::closed();
    let origin = Origin::start({
        let arrived = arrived.clone();
        move |exchange: &mut Exchange| {
            let first = exchange.read_chunk()?;
            arrived.open();
            let last = exchange.read_chunk()?;
            exchange.read_body()?;
            exchange.respond(200, "", &[first, last].concat())
        }
    });
    let gateway = Gateway::with(revision(&origin)).start();

    let mut connection = gateway.raw();
    connection.send("POST /open HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    arrived.pass();
    connection.send("4\r\nlast\r\n0\r\n\r\n");
    assert_eq!(connection.answer().expect(200).text(), "firstlast");
}

#[test]
fn an_answer_that_trickles_arrives_whole_although_it_takes_longer_than_one_silence_may() {
    let origin = Origin::start(drips("0123456789", Duration::from_millis(60)));
    let gateway = Gateway::with(
        Revision::empty()
            .upstream(&format!(
                "{{ name: drip, endpoints: [{{ address: \"{}\" }}], timeouts: {{ read: 500ms }} }}",
                origin.address()
            ))
            .api("{ name: a, base_path: /a, auth: none, upstream: drip }"),
    )
    .server("timeouts: { request: 300ms }")
    .start();
    assert_eq!(gateway.client().get("/a").send().expect(200).text(), "0123456789");
}

#[test]
fn large_bodies_pass_both_ways_unharmed() {
    const SIZE: usize = 8 << 20;
    let origin = Origin::start(|exchange: &mut Exchange| {
        let body = exchange.read_body()?;
        exchange.respond(200, "", &body)
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let body: Vec<u8> = (0..SIZE).map(|at| (at * 31 % 251) as u8).collect();
    let expected = Sha256::digest(&body);

    let answer = gateway.client().post("/open", body).send().expect(200);

    assert_eq!(answer.body.len(), SIZE);
    assert_eq!(Sha256::digest(&answer.body), expected);
}

#[test]
fn a_common_http_client_gets_large_and_chunked_answers_on_one_connection() {
    let origin = Origin::start(|exchange: &mut Exchange| match exchange.request.target.as_str() {
        "/open/huge" => huge(5 << 20)(exchange),
        _ => chunks(&["a", "bc", "def"])(exchange),
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::new();
        for _ in 0..3 {
            let url = format!("http://{}/open", gateway.address());
            let mut answer = client.get(format!("{url}/huge")).send().await.unwrap();
            let mut length = 0;
            while let Some(chunk) = answer.chunk().await.unwrap() {
                length += chunk.len();
            }
            assert_eq!(length, 5 << 20);
            let text = client
                .get(format!("{url}/chunks"))
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
            assert_eq!(text, "abcdef");
        }
        assert_eq!(gateway.metric("tollgate_connections{state=\"open\"}"), 1.0);
    });
}

#[test]
fn a_client_that_leaves_ends_the_request_at_the_origin() {
    let gone = Gate::closed();
    let origin = Origin::start({
        let gone = gone.clone();
        move |exchange: &mut Exchange| {
            exchange.wait_for_the_end();
            gone.open();
            Ok(())
        }
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open").header("X-Request-Id", "left").bytes());
    until("the origin has the request", || origin.requests() == 1);
    drop(connection);
    gone.pass();
    assert_eq!(gateway.access_record("left")["status"], 499);
    until("nothing is in flight", || {
        gateway.metric("tollgate_requests_in_flight") == 0.0
    });
}

#[test]
fn an_answer_that_needs_no_content_has_none() -> io::Result<()> {
    let origin = Origin::start(|exchange: &mut Exchange| {
        let status = exchange.request.target.rsplit('/').next().unwrap().to_owned();
        exchange.send(format!("HTTP/1.1 {status} X\r\nETag: \"1\"\r\n\r\n").as_bytes())
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    for status in [204, 304] {
        connection.send(gateway.client().get(&format!("/open/{status}")).bytes());
        let answer = connection.try_answer(false)?;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("etag"), Some("\"1\""));
    }
    Ok(())
}
