//! HTTP/2 from clients: the same journey as over HTTP/1.1, with streams instead of connections.

use std::time::{Duration, Instant};

use crate::harness::*;

/// A service that answers `/open/slow` when the gate opens, and echoes everything else.
fn waiting(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |exchange: &mut Exchange| {
        if exchange.request.target.starts_with("/open/slow") {
            gate.pass();
        }
        echo()(exchange)
    })
}

#[test]
fn a_client_with_prior_knowledge_is_served_on_the_listener_of_http_1() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.http2();
    let answer = client
        .get("/orders/7?a=b")
        .key(KEY)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-application", "admin")
        .header("x_application", "admin")
        .header("x-forwarded-for", "1.1.1.1")
        .send()
        .expect(200);
    let echo = answer.echo();
    assert_eq!((echo.method.as_str(), echo.target.as_str()), ("GET", "/orders/7?a=b"));
    assert_eq!(echo.header("host"), Some(gateway.address().to_string().as_str()));
    assert_eq!(echo.header("cookie"), Some("a=1; b=2"));
    assert_eq!(echo.header("x-application"), Some("mobile"));
    assert_eq!(echo.header("x_application"), None);
    assert_eq!(echo.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(echo.header("x-forwarded-proto"), Some("http"));
    assert_eq!(echo.header("x-api-key"), None);
    let record = gateway.access_record(answer.header("x-request-id").unwrap());
    assert_eq!(
        (&record["client"], &record["status"], &record["application"]),
        (&"127.0.0.1".into(), &200.into(), &"mobile".into())
    );
    assert_eq!(gateway.client().get("/orders/7").key(KEY).send().status, 200);
}

#[test]
fn the_preface_may_come_in_pieces_and_what_only_looks_like_it_is_judged_as_http_1() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let mut slow = gateway.raw();
    for piece in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".chunks(5) {
        slow.send(piece);
        std::thread::sleep(Duration::from_millis(5));
    }
    let settings = slow.take(9).unwrap();
    assert_eq!(settings[3], 4, "the gateway's own settings come first: {settings:?}");

    for (bytes, status) in [
        (&b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..], 505),
        (b"PRI /open HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"PUT /open HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 200),
    ] {
        let answer = gateway.raw().send(bytes).answer();
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(bytes));
    }
    // Only the first message of a connection may be the preface.
    let mut late = gateway.raw();
    late.send(b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n").answer().expect(200);
    late.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").answer().expect(505);
}

#[test]
fn refusals_are_told_on_their_stream_and_the_connection_goes_on() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        revision(&origin)
            .plan("{ name: tiny, limits: [{ name: minute, rate: 1/m }] }")
            .api("{ name: few, base_path: /few, auth: none, upstream: origin, limits: [{ name: api, rate: 1/h, per: api }] }")
            .api("{ name: read, base_path: /read, auth: none, upstream: origin, routes: [{ path: /, methods: [GET] }] }"),
    )
    .server("limits: { body_bytes: 1KiB }")
    .start();
    let client = gateway.http2();
    client.get("/nowhere").send().expect_refusal(404, "route_not_found");
    let missing = client.get("/orders").send().expect_refusal(401, "credential_missing");
    assert!(missing.header("www-authenticate").is_some());
    client
        .get("/orders")
        .key(OTHER_KEY)
        .send()
        .expect_refusal(401, "credential_invalid");
    let denied = client
        .post("/read", "x")
        .send()
        .expect_refusal(405, "method_not_allowed");
    assert_eq!(denied.header("allow"), Some("GET, HEAD"));
    let head = client.request("HEAD", "/nowhere").send().expect(404);
    assert!(head.body.is_empty());
    client.get("/few").send().expect(200);
    let limited = client.get("/few").send().expect_refusal(429, "rate_limited");
    assert!(limited.header("retry-after").is_some() && limited.header("ratelimit").is_some());

    // By its length, and by what comes when there is none.
    let announced = client
        .post("/open", vec![b'x'; 1025])
        .header("content-length", "1025")
        .send();
    announced.expect_refusal(413, "body_too_large");
    let before = origin.requests();
    let mut counted = client.request("POST", "/open").open();
    counted.send(vec![b'x'; 1024]);
    until("the service has the request", || origin.requests() == before + 1);
    let _ = counted.try_send("x".into(), false);
    counted.answer().0.expect_refusal(413, "body_too_large");
    client.post("/open", vec![b'x'; 1024]).send().expect(200);
    drop((counted, client));
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn the_authority_is_the_host_whether_it_is_said_twice_or_once() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.http2();
    for request in [
        client.get("/open").host("api.example.com"),
        client
            .get("/open")
            .host("api.example.com")
            .header("host", "api.example.com"),
    ] {
        let echo = request.send().expect(200).echo();
        assert_eq!(echo.header("host"), Some("api.example.com"));
        assert_eq!(echo.header("x-forwarded-host"), Some("api.example.com"));
    }
    let two = client.get("/open").host("api.example.com").header("host", "b.example");
    two.send().expect_refusal(400, "bad_request");
}

#[test]
fn streams_are_served_side_by_side_and_no_more_than_allowed() {
    let gate = Gate::closed();
    let origin = waiting(&gate);
    let gateway = Gateway::with(revision(&origin))
        .server("limits: { streams: 3 }")
        .start();
    let client = gateway.http2();
    // The bound is told in the settings, and this client keeps to it; it has to have seen them.
    client.get("/open").send().expect(200);
    let mut slow: Vec<Http2Stream> = (0..2)
        .map(|at| {
            let mut stream = client.get(&format!("/open/slow/{at}")).open();
            stream.finish();
            stream
        })
        .collect();
    until("both have arrived", || origin.requests() == 3);
    client.get("/open/quick").send().expect(200);
    gate.open();
    for (at, stream) in slow.iter_mut().enumerate() {
        assert_eq!(stream.answer().0.expect(200).echo().target, format!("/open/slow/{at}"));
    }
    drop(slow);

    let mut rude = frames::Frames::to(gateway.address(), &[]);
    let held = waiting(&Gate::closed());
    gateway.apply(revision(&held));
    for at in 0..4 {
        rude.send(frames::get(at * 2 + 1, "/open/slow")).unwrap();
    }
    assert_eq!(
        rude.fate(7),
        frames::Fate::Reset(7),
        "the fourth is refused, and may be sent again"
    );
}

#[test]
fn bodies_pass_both_ways_with_and_without_a_length() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.http2();
    let told = client
        .post("/open", "hello")
        .header("content-length", "5")
        .send()
        .expect(200);
    assert_eq!(told.echo().header("content-length"), Some("5"));
    assert_eq!(told.echo().body, "hello");
    let untold = client.post("/open", "hello").send().expect(200).echo();
    assert_eq!(
        (untold.header("transfer-encoding"), untold.body.as_str()),
        (Some("chunked"), "hello")
    );
    let empty = client
        .request("POST", "/open")
        .header("content-length", "0")
        .send()
        .expect(200)
        .echo();
    assert_eq!((empty.header("content-length"), empty.body.as_str()), (Some("0"), ""));
    assert!(client.request("HEAD", "/open").send().expect(200).body.is_empty());

    let mut piecewise = client.request("PUT", "/open").open();
    piecewise.send("a").send("b").send("c").finish();
    assert_eq!(piecewise.answer().0.expect(200).echo().body, "abc");
}

#[test]
fn a_request_that_runs_out_of_time_is_answered_and_the_connection_goes_on() {
    let gate = Gate::closed();
    let origin = waiting(&gate);
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { request: 400ms }")
        .start();
    let client = gateway.http2();
    let late = client.get("/open/slow").send().expect_refusal(504, "upstream_timeout");
    let record = gateway.access_record(late.header("x-request-id").unwrap());
    assert_eq!(
        (&record["status"], &record["code"]),
        (&504.into(), &"upstream_timeout".into())
    );

    let mut drip = client.request("POST", "/open").open();
    drip.send("some");
    let late = drip.answer().0.expect_refusal(408, "request_timeout");
    let record = gateway.access_record(late.header("x-request-id").unwrap());
    assert_eq!(
        (&record["status"], &record["code"]),
        (&408.into(), &"request_timeout".into())
    );
    gate.open();
    client.get("/open").send().expect(200);
    drop((drip, client));
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn a_stream_that_is_given_up_is_given_up_at_the_service_too() {
    let gone = Gate::closed();
    let origin = Origin::start({
        let gone = gone.clone();
        move |exchange: &mut Exchange| {
            if exchange.request.target == "/open/slow" {
                exchange.wait_for_the_end();
                gone.open();
                return Ok(());
            }
            echo()(exchange)
        }
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.http2();
    let mut stream = client.get("/open/slow").header("x-request-id", "given-up").open();
    stream.finish();
    until("it has arrived", || origin.requests() == 1);
    stream.reset();
    gone.pass();
    assert_eq!(gateway.access_record("given-up")["status"], 499);
    client.get("/open").send().expect(200);

    // The same when the whole connection goes.
    let mut stream = client.get("/open/slow").header("x-request-id", "gone").open();
    stream.finish();
    until("it has arrived", || origin.requests() == 3);
    drop((stream, client));
    assert_eq!(gateway.access_record("gone")["status"], 499);
    until("nothing is left of it", || {
        gateway.metric("tollgate_connections{state=\"open\"}") == 0.0
    });
}

#[test]
fn an_answer_that_breaks_off_is_visibly_broken() {
    let origin = Origin::start(resets_mid_body());
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.http2();
    let mut stream = client.get("/open").open();
    stream.finish();
    assert_eq!(stream.head().status, 200);
    let end = loop {
        match stream.data() {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_err(), "half an answer looks like a whole one");
}

#[test]
fn a_connection_without_streams_is_ended_and_one_with_a_stream_is_not() {
    let gate = Gate::closed();
    let origin = waiting(&gate);
    let gateway = Gateway::with(revision(&origin))
        .server("timeouts: { idle: 300ms, request: 30s }")
        .start();
    let mut busy = gateway.http2();
    let mut stream = busy.get("/open/slow").open();
    stream.finish();
    until("it has arrived", || origin.requests() == 1);
    let idle = gateway.http2();
    until("both are counted", || {
        gateway.metric("tollgate_connections{state=\"open\"}") == 2.0
    });
    assert_eq!(gateway.metric("tollgate_connections{state=\"idle\"}"), 1.0);
    assert_eq!(idle.ended(), None, "it is told to go, and nothing is wrong");
    assert!(
        !busy.ends_within(Duration::from_millis(600)),
        "a connection was ended under its stream"
    );
    gate.open();
    stream.answer().0.expect(200);
    drop(stream);
    assert_eq!(busy.ended(), None);
    until("nobody is left", || {
        gateway.metric("tollgate_connections{state=\"open\"}") == 0.0
    });
}

#[test]
fn leaving_finishes_what_is_in_flight_and_ends_the_connection() {
    let gate = Gate::closed();
    let origin = waiting(&gate);
    let gateway = Gateway::with(revision(&origin)).start();
    let idle = gateway.http2();
    let client = gateway.http2();
    let mut stream = client.get("/open/slow").open();
    stream.finish();
    until("it has arrived", || origin.requests() == 1);
    gateway.terminate();
    assert_eq!(idle.ended(), None);
    assert!(gateway.is_running());
    gate.open();
    stream.answer().0.expect(200);
    assert_eq!(client.ended(), None);
    let asked = Instant::now();
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(asked.elapsed() < PATIENCE);
    gateway.logs("nothing is in flight: the end");
}

#[test]
fn an_interim_answer_reaches_the_client_and_the_body_follows() {
    let origin = Origin::start(|exchange: &mut Exchange| {
        if exchange.request.header("expect").is_some() {
            exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        echo()(exchange)
    });
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.http2();
    let mut stream = client.request("POST", "/open").header("expect", "100-continue").open();
    stream.send("body").finish();
    assert_eq!(stream.answer().0.expect(200).echo().body, "body");
}

#[test]
fn a_common_client_speaks_it_too() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let url = format!("http://{}/open/common", gateway.address());
    runtime.block_on(async {
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .no_proxy()
            .build()
            .unwrap();
        let requests = (0..50).map(|at| client.post(&url).body(format!("{at}")).send());
        for (at, answer) in futures_util::future::join_all(requests).await.into_iter().enumerate() {
            let answer = answer.unwrap();
            assert_eq!(answer.version(), reqwest::Version::HTTP_2);
            let echo: Received = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            assert_eq!(echo.body, at.to_string());
        }
    });
}
