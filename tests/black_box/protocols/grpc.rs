//! gRPC through the gateway, with a real client and a real service.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::harness::*;

const API: &str = "{ name: words, base_path: /tollgate.test.Words, auth: none, upstream: words }";
const GUARDED: &str = "{ name: words, base_path: /tollgate.test.Words, auth: [api_key], upstream: words }";

/// The service behind an upstream `words` with these timeouts.
fn behind(service: &GrpcService, timeouts: &str) -> Revision {
    Revision::empty().upstream(&format!(
        "{{ name: words, protocol: http2, endpoints: [{{ address: \"{}\" }}], timeouts: {{ {timeouts} }} }}",
        service.address()
    ))
}

#[test]
fn one_word_goes_there_and_one_comes_back_with_what_stands_around_them() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "").api(GUARDED).mobile(&["words"])).start();
    let client = GrpcClient::to(gateway.address())
        .with("x-api-key", KEY)
        .with("x-mine", "kept")
        .with("x-application", "admin");
    let said = client.say("hello", None).unwrap();
    assert_eq!(said.get_ref().text, "hello");
    assert_eq!(said.metadata().get("x-said").unwrap(), "yes");
    assert_eq!(service.seen("x-mine").as_deref(), Some("kept"));
    assert_eq!(service.seen("x-application").as_deref(), Some("mobile"));
    assert_eq!(service.seen("x-api-key"), None);
    assert_eq!(service.seen("te").as_deref(), Some("trailers"));
    let id = said.metadata().get("x-request-id").unwrap().to_str().unwrap();
    let record = gateway.access_record(id);
    assert_eq!(
        (&record["status"], &record["api"], &record["path"]),
        (&200.into(), &"words".into(), &"/tollgate.test.Words/Say".into())
    );

    // Large messages, many at a time on the one connection.
    let large = "x".repeat(1 << 20);
    for _ in 0..3 {
        assert_eq!(client.say(&large, None).unwrap().into_inner().text.len(), 1 << 20);
    }
}

#[test]
fn an_error_of_the_service_arrives_with_its_details() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "").api(API)).start();
    let status = GrpcClient::to(gateway.address()).say("fail", None).unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "as you wish: 100 %")
    );
    assert_eq!(status.details(), b"details in bytes");
    assert_eq!(status.metadata().get("x-why").unwrap(), "it was asked to");
    assert!(status.metadata().contains_key("x-request-id"));
}

#[test]
fn words_stream_from_the_service_one_by_one_and_end_in_trailers() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "").api(API)).start();
    let client = GrpcClient::to(gateway.address());
    let mut words = client.repeat("wait").unwrap();
    assert_eq!(words.hear().unwrap().as_deref(), Some("wait"));
    assert_eq!(words.hear().unwrap().as_deref(), Some("wait"));
    service.release();
    assert_eq!(words.hear().unwrap().as_deref(), Some("wait"));
    assert_eq!(words.hear().unwrap().as_deref(), Some("wait"));
    assert_eq!(words.hear().unwrap(), None);

    let mut words = client.repeat("fail").unwrap();
    for _ in 0..4 {
        assert_eq!(words.hear().unwrap().as_deref(), Some("fail"));
    }
    let status = words.hear().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "after all of them"));
}

#[test]
fn words_stream_to_the_service_for_longer_than_a_request_may_take() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "read: 700ms").api(API))
        .server("timeouts: { request: 700ms }")
        .start();
    let client = GrpcClient::to(gateway.address());
    let words = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let joined = client.join(&words, Duration::from_millis(200)).unwrap();
    assert_eq!(joined.get_ref().text, "abcdefgh");
    assert_eq!(service.cancelled(), 0);
}

#[test]
fn words_pass_both_ways_before_either_side_has_ended() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "read: 300ms").api(API))
        .server("timeouts: { request: 300ms, idle: 300ms }")
        .start();
    let client = GrpcClient::to(gateway.address());
    let mut talk = client.shout(None).unwrap();
    for text in ["one", "two", "three"] {
        talk.say(text);
        assert_eq!(talk.hear().unwrap(), Some(text.to_uppercase()));
    }
    // Longer than a service that has the whole request may be silent: here it is the client that is.
    std::thread::sleep(Duration::from_millis(900));
    talk.say("four");
    assert_eq!(talk.hear().unwrap().as_deref(), Some("FOUR"));
    talk.finish();
    assert_eq!(talk.hear().unwrap(), None);
    assert_eq!((service.calls(), service.cancelled()), (1, 0));
}

#[test]
fn a_call_that_moves_nothing_either_way_is_ended() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "read: 300ms, tunnel: 300ms").api(API))
        .server("timeouts: { request: 300ms }")
        .start();
    let client = GrpcClient::to(gateway.address());
    let mut talk = client.shout(None).unwrap();
    talk.say("one");
    assert_eq!(talk.hear().unwrap().as_deref(), Some("ONE"));
    assert_eq!(service.active(), 1);
    talk.hear().unwrap_err();
    until("the service is let go", || service.active() == 0);
    // And one whose service has everything and says nothing.
    assert_eq!(client.say("hang", None).unwrap_err().code(), Code::DeadlineExceeded);
    until("the service is let go", || service.cancelled() == 1);
}

#[test]
fn the_time_of_a_call_is_its_own_and_what_is_left_of_it_goes_on() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "").api(API)).start();
    let client = GrpcClient::to(gateway.address()).with("x-request-id", "late");
    client.say("hello", Some(Duration::from_secs(20))).unwrap();
    let left = service.seen("grpc-timeout").expect("what is left");
    let micros: u64 = left.strip_suffix('u').expect("microseconds").parse().unwrap();
    assert!((1..20_000_000).contains(&micros), "{left}");

    // The client's own clock would end it too; so the gateway is asked by hand.
    let raw = gateway.http2();
    let hang = [&[0, 0, 0, 0, 6, 10, 4][..], b"hang"].concat();
    let call = |timeout: &str| {
        raw.post("/tollgate.test.Words/Say", hang.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-request-id", "late")
            .header("grpc-timeout", timeout)
    };
    let started = Instant::now();
    let late = call("300m").send().expect(200);
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(late.header("grpc-status"), Some("4"));
    assert!(late.header("grpc-message").is_some());
    assert_eq!(late.header("content-type"), Some("application/grpc"));
    until("the service is let go", || service.cancelled() == 1);
    let record = eventually("its line of the access log", || {
        let lines = gateway.access_log();
        lines.into_iter().find(|line| line["status"] == 504)
    });
    assert_eq!(record["code"], "upstream_timeout");

    let bad = call("soon").send().expect(200);
    assert_eq!(bad.header("grpc-status"), Some("3"));

    // A call that has begun to be answered is cut off.
    let mut talk = client.shout(Some(Duration::from_millis(500))).unwrap();
    talk.say("one");
    assert_eq!(talk.hear().unwrap().as_deref(), Some("ONE"));
    assert_eq!(service.active(), 1);
    talk.hear().unwrap_err();
    until("the service is let go", || service.active() == 0);
}

#[test]
fn a_client_that_names_a_long_time_and_sends_nothing_is_ended_like_any_other() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "tunnel: 300ms").api(API))
        .server("timeouts: { request: 300ms }")
        .start();
    let client = gateway.http2();
    let mut call = client
        .request("POST", "/tollgate.test.Words/Say")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "99999999H")
        .open();
    let late = call.answer().0.expect(200);
    assert_eq!(late.header("grpc-status"), Some("4"));
    drop((call, client));
    until("its place is free", || {
        gateway.metric("tollgate_requests_in_flight") == 0.0
    });
}

#[test]
fn a_stream_of_messages_may_be_longer_than_a_body_unless_its_api_says_how_long() {
    let service = GrpcService::start();
    let origin = Origin::start(echo());
    let revision = |bound: &str| {
        behind(&service, "")
            .upstream(&format!(
                "{{ name: plain, endpoints: [{{ address: \"{}\" }}] }}",
                origin.address()
            ))
            .api(&format!(
                "{{ name: words, base_path: /tollgate.test.Words, auth: none, upstream: words{bound} }}"
            ))
            .api("{ name: plain, base_path: /plain, auth: none, upstream: plain }")
    };
    let gateway = Gateway::with(revision(""))
        .server("limits: { body_bytes: 1KiB }")
        .start();
    let client = GrpcClient::to(gateway.address());
    let word = "x".repeat(400);
    let words = [word.as_str(); 8];
    let joined = client.join(&words, Duration::ZERO).unwrap();
    assert_eq!(joined.get_ref().text.len(), 3200);

    // What only says that it is gRPC, to a service that can not speak it, is a body like any other.
    let raw = gateway.http2();
    let mut claimed = raw
        .request("POST", "/plain")
        .header("content-type", "application/grpc")
        .open();
    let _ = claimed.try_send(vec![b'x'; 1025].into(), true);
    assert_eq!(claimed.answer().0.expect(200).header("grpc-status"), Some("8"));

    gateway.apply(revision(", body_bytes: 1KiB"));
    let refused = client.join(&words, Duration::ZERO).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[test]
fn a_client_that_gives_up_is_given_up_at_the_service() {
    let service = GrpcService::start();
    let gateway = Gateway::with(behind(&service, "").api(API)).start();
    let client = GrpcClient::to(gateway.address());
    let mut words = client.repeat("wait").unwrap();
    assert_eq!(words.hear().unwrap().as_deref(), Some("wait"));
    drop(words);
    until("the service notices", || service.cancelled() == 1);
    let mut talk = client.shout(None).unwrap();
    talk.say("one");
    assert_eq!(talk.hear().unwrap().as_deref(), Some("ONE"));
    assert_eq!(service.active(), 1);
    drop(talk);
    until("the service notices", || service.active() == 0);
    drop(client);
    until("nothing is in flight", || {
        gateway.metric("tollgate_requests_in_flight") == 0.0
    });
}

#[test]
fn refusals_are_told_as_grpc_tells_them_and_logged_as_http() {
    let service = GrpcService::start();
    let gateway = Gateway::with(
        behind(&service, "")
            .api(
                "{ name: words, base_path: /tollgate.test.Words, auth: [api_key], upstream: words, \
                 body_bytes: 1KiB, limits: [{ name: few, rate: 2/h, per: api }] }",
            )
            .mobile(&["words"]),
    )
    .start();
    let code = |client: &GrpcClient| client.say("hello", None).unwrap_err().code();
    let stranger = GrpcClient::to(gateway.address());
    assert_eq!(code(&stranger), Code::Unauthenticated);
    let wrong = GrpcClient::to(gateway.address()).with("x-api-key", OTHER_KEY);
    assert_eq!(code(&wrong), Code::Unauthenticated);
    assert_eq!(stranger.miss().code(), Code::Unimplemented);

    let client = GrpcClient::to(gateway.address()).with("x-api-key", KEY);
    client.say("hello", None).unwrap();
    assert_eq!(
        client.say(&"x".repeat(2000), None).unwrap_err().code(),
        Code::ResourceExhausted,
        "too large"
    );
    let limited = client.say("hello", None).unwrap_err();
    assert_eq!(
        (limited.code(), limited.message()),
        (Code::ResourceExhausted, "limit \"few\" is used up")
    );
    for field in ["retry-after", "ratelimit", "x-request-id"] {
        assert!(limited.metadata().contains_key(field), "{field}");
    }
    let id = limited.metadata().get("x-request-id").unwrap().to_str().unwrap();
    let record = gateway.access_record(id);
    assert_eq!(
        (&record["status"], &record["code"]),
        (&429.into(), &"rate_limited".into())
    );

    // On the wire: one head and nothing else.
    let raw = gateway.http2();
    let (answer, trailers) = raw
        .post("/tollgate.test.Words/Say", "x")
        .header("content-type", "application/grpc")
        .exchange();
    assert_eq!((answer.status, answer.body.len(), trailers.len()), (200, 0, 0));
    assert_eq!(answer.header("grpc-status"), Some("16"));
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    // What is no gRPC is told as ever, and only POST is.
    raw.get("/tollgate.test.Words/Say")
        .header("content-type", "application/grpc")
        .send()
        .expect_refusal(401, "credential_missing");
    raw.post("/tollgate.test.Words/Say", "x")
        .send()
        .expect_refusal(401, "credential_missing");
}

#[test]
fn a_service_that_is_away_is_unavailable() {
    let planned = Planned::new();
    let revision = Revision::empty()
        .upstream(&format!(
            "{{ name: words, protocol: http2, endpoints: [{{ address: \"{}\" }}] }}",
            planned.address()
        ))
        .api(API);
    let gateway = Gateway::with(revision).start();
    let status = GrpcClient::to(gateway.address()).say("hello", None).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}
