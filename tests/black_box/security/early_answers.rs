//! Answers that come before the request is over: always delivered, and never a way to hide the next request.

use super::{SMUGGLED, Siege};
use crate::harness::*;

/// How the content of a refused request is announced, and how much of it there is.
#[derive(Debug, Clone, Copy)]
enum Content {
    Length(usize),
    Chunked(usize),
}

impl Content {
    const ALL: [Self; 6] = [
        Self::Length(10),
        Self::Length(60 * 1024),
        Self::Length(5 * 1024 * 1024),
        Self::Chunked(10),
        Self::Chunked(60 * 1024),
        Self::Chunked(5 * 1024 * 1024),
    ];

    /// Requests in a row, cut to size.
    fn bytes(self) -> (String, Vec<u8>) {
        let fill = |size: usize| SMUGGLED.iter().copied().cycle().take(size).collect::<Vec<u8>>();
        match self {
            Self::Length(size) => (format!("Content-Length: {size}\r\n"), fill(size)),
            Self::Chunked(size) => {
                let mut body = Vec::new();
                for part in fill(size).chunks(16 * 1024) {
                    body.extend(format!("{:x}\r\n", part.len()).bytes());
                    body.extend(part);
                    body.extend(b"\r\n");
                }
                body.extend(b"0\r\n\r\n");
                ("Transfer-Encoding: chunked\r\n".to_owned(), body)
            }
        }
    }
}

/// Sends the whole request and the next one without waiting, and expects the refusal to arrive whatever the size.
#[track_caller]
fn is_refused(siege: &Siege, line: &str, more: &str, content: Content, status: u16) {
    let what = format!("{line} {content:?}");
    let (fields, body) = content.bytes();
    let head = format!("{line} HTTP/1.1\r\nHost: a\r\n{more}{fields}\r\n");
    let mut connection = siege.gateway.raw();
    let sent = connection
        .try_send(head)
        .and_then(|()| connection.try_send(&body))
        .and_then(|()| connection.try_send(b"GET /open/second HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(sent.is_ok(), "{what}: reset while it was sending: {sent:?}");
    let answer = connection
        .try_answer(false)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    match connection.try_answer(false) {
        Ok(second) => assert_eq!(second.expect(200).echo().target, "/open/second", "{what}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{what}: {error}"),
    }
    siege.serves(&what);
}

fn siege() -> Siege {
    let origin = Origin::start(echo());
    let revision = revision(&origin)
        .plan("{ name: none-left, limits: [{ name: once, rate: 1/d }] }")
        .api("{ name: limited, base_path: /limited, auth: [api_key], upstream: origin }")
        .api(
            "{ name: strict, base_path: /strict, auth: none, upstream: origin, routes: [{ path: /, methods: [GET] }] }",
        )
        .application(&format!(
            "{{ name: tablet, subscriptions: [{{ api: limited, plan: none-left }}], keys: [{}] }}",
            key_record("tablet-1", OTHER_KEY, "type: production")
        ));
    Siege {
        gateway: Gateway::with(revision).start(),
        origin,
    }
}

#[test]
fn a_refusal_with_unread_content_arrives_and_hides_no_request() {
    let siege = siege();
    let key = format!("X-API-Key: {OTHER_KEY}\r\n");
    // Two, in case the day ends between them.
    for _ in 0..2 {
        siege.gateway.client().get("/limited").key(OTHER_KEY).send();
    }
    for content in Content::ALL {
        is_refused(&siege, "POST /orders", "", content, 401);
        is_refused(&siege, "POST /orders", &key, content, 403);
        is_refused(&siege, "POST /nowhere", "", content, 404);
        is_refused(&siege, "POST /strict", "", content, 405);
        is_refused(&siege, "POST /limited", &key, content, 429);
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_content_over_the_limit_gets_its_413_even_while_it_is_still_being_sent() {
    let siege = Siege::of(Origin::start(echo()), |setup| {
        setup.server("limits: { body_bytes: 1KiB }")
    });
    for content in &Content::ALL[1..] {
        if matches!(content, Content::Chunked(10)) {
            continue;
        }
        is_refused(&siege, "POST /open", "", *content, 413);
        is_refused(
            &siege,
            "POST /orders",
            "",
            *content,
            if matches!(content, Content::Length(_)) {
                413
            } else {
                401
            },
        );
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_client_that_waits_for_100_is_refused_before_it_sends() {
    let siege = siege();
    let mut connection = siege.gateway.raw();
    connection.send(b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let answer = connection.answer().expect(401);
    assert!(answer.interim.is_empty(), "the content was asked for");
    // It sends neither content nor anything else: the connection has to be over, or what follows would be ambiguous.
    assert!(connection.is_closed());
    drop(connection);
    siege.leaves_it_unharmed();
}

#[test]
fn a_refused_client_that_never_sends_the_rest_is_not_waited_for_without_end() {
    let siege = siege();
    for content in ["", "12345"] {
        let mut connection = siege.gateway.raw();
        connection.send(format!(
            "POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{content}"
        ));
        connection.answer().expect(401);
        assert!(connection.is_closed());
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_service_that_answers_before_reading_gets_its_answer_through_once() {
    let early = |exchange: &mut Exchange| match exchange.request.target.as_str() {
        "/open/early" => answers_before_reading(413)(exchange),
        _ => echo()(exchange),
    };
    let siege = Siege::of(Origin::start(early), |setup| setup);
    for content in Content::ALL {
        let (fields, body) = content.bytes();
        let mut connection = siege.gateway.raw();
        let head = format!("POST /open/early HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let _ = connection.try_send([head.as_bytes(), &body].concat());
        let answer = connection
            .try_answer(false)
            .unwrap_or_else(|error| panic!("{content:?}: {error}"));
        assert_eq!((answer.status, answer.text().as_str()), (413, "early"), "{content:?}");
        drop(connection);
        siege.serves(&format!("{content:?}"));
    }
    siege.leaves_it_unharmed();
}
