//! Server-sent events: each arrives when it is sent, whichever protocol carries it.

use crate::harness::*;

const FIRST: &str = "id: 1\ndata: first\n\n";
const SECOND: &str = "id: 2\ndata: second\n\n";

/// A service that sends the second event when the gate opens, and never ends by itself.
fn events(second: &Gate) -> Origin {
    let second = second.clone();
    Origin::start(move |exchange: &mut Exchange| {
        exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
              transfer-encoding: chunked\r\n\r\n",
        )?;
        exchange.send_chunk(FIRST.as_bytes())?;
        second.pass();
        exchange.send_chunk(SECOND.as_bytes())?;
        exchange.wait_for_the_end();
        Ok(())
    })
}

#[test]
fn events_arrive_one_by_one_over_http_1() {
    let second = Gate::closed();
    let origin = events(&second);
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open").bytes());
    let head = connection.head().unwrap();
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
    assert_eq!(connection.chunk().unwrap(), FIRST.as_bytes());
    second.open();
    assert_eq!(connection.chunk().unwrap(), SECOND.as_bytes());
    drop(connection);
    until("nothing is in flight", || {
        gateway.metric("tollgate_requests_in_flight") == 0.0
    });
}

#[test]
fn events_arrive_one_by_one_over_http_2() {
    let second = Gate::closed();
    let origin = events(&second);
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.http2();
    let mut stream = client.get("/open").open();
    stream.finish();
    let head = stream.head();
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
    assert_eq!(stream.data().unwrap().unwrap(), FIRST);
    second.open();
    assert_eq!(stream.data().unwrap().unwrap(), SECOND);
    stream.reset();
    until("nothing is in flight", || {
        gateway.metric("tollgate_requests_in_flight") == 0.0
    });
}
