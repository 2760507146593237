//! Redirects and answers that stand in the revision.

use super::with_api;
use crate::harness::*;

#[test]
fn a_redirect_takes_over_the_rest_of_the_path_and_the_query() {
    let origin = Origin::start(echo());
    let gateway = with_api(
        &origin,
        r#"routes: [ { path: "/old/*", redirect: { to: "/a/new/*" } },
                     { path: "/users/{id}/{what}", redirect: { to: "https://users.example.com/{what}/{id}", status: 302 } } ]"#,
    );
    let mut connection = gateway.raw();
    let mut location = |target: &str, status: u16| {
        let answer = gateway.client().get(target).send_on(&mut connection).expect(status);
        assert!(answer.body.is_empty());
        assert_eq!(answer.header("content-length"), Some("0"));
        assert!(answer.header("x-request-id").is_some());
        answer.header("location").unwrap().to_owned()
    };
    assert_eq!(location("/a/old/b/c?x=1&y=%2F", 308), "/a/new/b/c?x=1&y=%2F");
    assert_eq!(location("/a/old/", 308), "/a/new/");
    assert_eq!(location("/a/users/7/mail?x", 302), "https://users.example.com/mail/7?x");
    assert_eq!(origin.bytes(), 0);
}

#[test]
fn no_path_of_a_client_leads_a_redirect_to_another_host() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(Revision::of(&origin).api(
        r#"{ name: a, base_path: /, auth: none, upstream: origin, routes: [ { path: "/go/*", redirect: { to: "/*" } },
             { path: "/to/{x}", redirect: { to: "/{x}" } } ] }"#,
    ))
    .start();
    for target in [
        "/go//evil.example",
        "/go///evil.example",
        "/go/%2F%2Fevil.example",
        "/go/%5C%5Cevil.example",
        "/go/\\evil.example",
        "/go/.//evil.example",
        "/go/..//evil.example",
        "/go/%2e%2e//evil.example",
        "/go/%09/evil.example",
        "/to/%2Fevil.example",
        "/to/%5Cevil.example",
        "/go/%0d%0aX-Evil:1",
        "/go/@evil.example",
        "/go/a?//evil.example",
    ] {
        let answer = gateway.client().get(target).send();
        match answer.status {
            308 => {
                let location = answer.header("location").unwrap();
                assert!(location.starts_with('/'), "{target} led to {location}");
                assert!(
                    !location.starts_with("//") && !location.starts_with("/\\"),
                    "{target} led to {location}"
                );
                assert!(answer.header("x-evil").is_none());
            }
            status => assert!([400, 404].contains(&status), "{target}: {answer:?}"),
        }
    }
}

#[test]
fn an_answer_of_the_revision_is_given_as_it_is_written_also_to_head_and_with_a_body_sent() {
    let gateway = Gateway::with(Revision::empty().api(
        r#"{ name: a, base_path: /a, auth: none, headers: { response: { set: { X-Both: "1" } } }, routes: [
             { path: /ping, respond: { content_type: application/json, body: '{"pong":true}', headers: { Cache-Control: no-store } } },
             { path: /gone, respond: { status: 410 } },
             { path: /none, respond: { status: 204 } } ] }"#,
    ))
    .start();
    let mut connection = gateway.raw();
    let client = gateway.client();
    let pong = client
        .get("/a/ping")
        .header("X-Request-Id", "ping-1")
        .send_on(&mut connection);
    let pong = pong.expect(200);
    assert_eq!(pong.text(), r#"{"pong":true}"#);
    assert_eq!(pong.header("content-type"), Some("application/json"));
    assert_eq!(pong.header("cache-control"), Some("no-store"));
    assert_eq!(pong.header("x-both"), Some("1"));
    assert_eq!(pong.header("x-request-id"), Some("ping-1"));
    let head = client.request("HEAD", "/a/ping").send_on(&mut connection).expect(200);
    assert_eq!(head.header("content-length"), Some("13"));
    let posted = client
        .post("/a/ping", "some content")
        .send_on(&mut connection)
        .expect(200);
    assert_eq!(posted.text(), r#"{"pong":true}"#);
    assert_eq!(client.get("/a/gone").send_on(&mut connection).expect(410).text(), "");
    let none = client.get("/a/none").send_on(&mut connection).expect(204);
    assert!(
        none.header("content-length").is_none() && none.header("content-type").is_none(),
        "{none:?}"
    );

    let record = gateway.access_record("ping-1");
    assert_eq!(record["status"], 200);
    assert!(record["code"].is_null(), "{record}");
    assert_eq!(record["route"], "/a/ping");
    assert!(record["upstream"].as_str().is_none_or(str::is_empty), "{record}");
    let series = r#"tollgate_requests_total{api="a",code="",route="/a/ping",status="200"}"#;
    until("the answers are counted", || gateway.metric(series) == 3.0);
}

#[test]
fn credentials_and_limits_of_the_api_count_for_answers_of_its_own_too() {
    let gateway = Gateway::with(
        Revision::empty()
            .plan("{ name: tight, limits: [{ name: day, rate: 2/d }] }")
            .api(
                r#"{ name: a, base_path: /a, auth: [api_key], routes: [ { path: /ping, respond: { body: pong } },
                     { path: /old, redirect: { to: /new } } ] }"#,
            )
            .mobile_under("tight", &["a"]),
    )
    .start();
    let client = gateway.client();
    client.get("/a/ping").send().expect_refusal(401, "credential_missing");
    client.get("/a/old").send().expect_refusal(401, "credential_missing");
    let pong = client.get("/a/ping").key(KEY).send().expect(200);
    assert!(
        pong.header("ratelimit").is_some() && pong.header("ratelimit-policy").is_some(),
        "{pong:?}"
    );
    // Five, in case the day ends between them.
    let limited = (0..5).any(|_| client.get("/a/old").key(KEY).send().status == 429);
    assert!(limited);
}

#[test]
fn a_key_in_the_query_is_not_sent_to_another_host() {
    let gateway = Gateway::with(
        Revision::empty()
            .api(
                r#"{ name: a, base_path: /a, auth: [api_key], credentials: { key_query: api_key }, routes: [
                     { path: /far, redirect: { to: "https://far.example/" } }, { path: /near, redirect: { to: /near } } ] }"#,
            )
            .mobile(&["a"]),
    )
    .start();
    let location = |path: &str| {
        let answer = gateway
            .client()
            .get(&format!("{path}?a=1&api_key={KEY}"))
            .send()
            .expect(308);
        answer.header("location").unwrap().to_owned()
    };
    assert_eq!(location("/a/far"), "https://far.example/?a=1");
    assert_eq!(location("/a/near"), format!("/near?a=1&api_key={KEY}"));
}
