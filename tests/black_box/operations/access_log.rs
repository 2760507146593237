//! One line of JSON for each request.

use std::fs;

use crate::harness::*;

#[test]
fn a_line_says_who_asked_for_what_and_what_became_of_it() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let request = gateway
        .client()
        .post("/orders/7?secret=x", "12345")
        .host("api.example.com")
        .key(KEY);
    let answer = request.header("X-Request-Id", "id-1").send().expect(200);
    let line = gateway.access_record("id-1");
    for (name, value) in [
        ("client", "127.0.0.1"),
        ("method", "POST"),
        ("host", "api.example.com"),
        ("path", "/orders/7"),
        ("api", "orders"),
        ("route", "/orders/*"),
        ("application", "mobile"),
        ("key_id", "mobile-1"),
        ("upstream", "origin"),
        ("endpoint", &origin.address().to_string()),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert_eq!(
        (&line["status"], &line["tries"], &line["bytes_in"]),
        (&200.into(), &1.into(), &5.into())
    );
    assert_eq!(line["bytes_out"], answer.body.len());
    assert!(line["duration_us"].as_u64().unwrap() >= line["upstream_us"].as_u64().unwrap());
    assert!(line["time_ms"].as_u64().unwrap() / 1000 >= now() - 60);
    let traceparent = answer.echo().header("traceparent").unwrap().to_owned();
    assert_eq!(line["trace_id"], traceparent[3..35]);
}

#[test]
fn a_refusal_is_logged_with_its_code_and_more_than_the_client_is_told() {
    let origin = Origin::start(closes_early());
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.client();
    for (id, request, status, code, reason) in [
        ("a", client.get("/orders"), 401, "credential_missing", ""),
        (
            "b",
            client.get("/orders").key("tg_live_typo"),
            401,
            "credential_invalid",
            "mistyped",
        ),
        ("c", client.get("/nothing"), 404, "route_not_found", ""),
        ("d", client.get("/open"), 502, "upstream_failed", "connection_closed"),
    ] {
        request.header("X-Request-Id", id).send().expect(status);
        let line = gateway.access_record(id);
        assert_eq!(
            (&line["status"], &line["code"]),
            (&status.into(), &code.into()),
            "{line}"
        );
        assert_eq!(line["reason"].as_str().unwrap_or_default(), reason, "{line}");
    }
    let answer = gateway
        .raw()
        .send("GET / HTTP/1.1\r\nHost : x\r\n\r\n")
        .answer()
        .expect(400);
    let line = gateway.access_record(answer.header("x-request-id").unwrap());
    assert_eq!((&line["status"], &line["code"]), (&400.into(), &"bad_request".into()));
    assert_eq!(line["client"], "127.0.0.1");
}

#[test]
fn what_an_issuer_writes_into_a_token_does_not_break_a_line() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        Revision::of(&origin)
            .issuer(&format!(
                "{{ name: corp, issuer: \"{ISSUER}\", audience: [{AUDIENCE}], algorithms: [ES256], jwks: {{ keys: [{}] }} }}",
                ec.jwk()
            ))
            .api("{ name: a, base_path: /a, auth: [{ jwt: corp }], upstream: origin }"),
    )
    .start();
    let nasty = "alice\",\"status\":200}\n{\"forged\":true}\r\u{1b}[31m\u{2028}\u{0}\u{1f600}";
    let token = Token::of(&ec).claim("sub", nasty).sign(&ec);
    let request = gateway.client().get("/a/%22%7D%C3%A4'%20").token(&token);
    request.header("X-Request-Id", "nasty").send().expect(200);
    assert_eq!(gateway.access_record("nasty")["subject"], nasty);
    assert_eq!(gateway.access_log_text().lines().count(), 1);
}

#[test]
fn lines_go_to_standard_output_when_the_path_is_a_dash() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).access_log("{ path: \"-\" }").start();
    gateway
        .client()
        .get("/open")
        .header("X-Request-Id", "to-stdout")
        .send()
        .expect(200);
    until("the line is printed", || {
        gateway.stdout().contains("\"request_id\":\"to-stdout\"")
    });
    let line: serde_json::Value = serde_json::from_str(gateway.stdout().trim()).unwrap();
    assert_eq!(line["status"], 200);
}

#[test]
fn a_sampled_log_keeps_what_failed() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .access_log("{ path: \"-\", sample: 0.0 }")
        .start();
    for _ in 0..20 {
        gateway.client().get("/open").send().expect(200);
    }
    gateway.client().get("/nothing").send().expect(404);
    until("the failure is logged", || gateway.stdout().contains("route_not_found"));
    assert_eq!(gateway.stdout().lines().count(), 1, "{}", gateway.stdout());
}

#[test]
fn a_log_that_is_rotated_away_goes_on_in_a_new_file() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    gateway
        .client()
        .get("/open")
        .header("X-Request-Id", "before")
        .send()
        .expect(200);
    gateway.access_record("before");
    let (path, rotated) = (gateway.path().join("access.log"), gateway.path().join("access.log.1"));
    fs::rename(&path, &rotated).unwrap();
    until("there is a new file", || path.exists());
    gateway
        .client()
        .get("/open")
        .header("X-Request-Id", "after")
        .send()
        .expect(200);
    gateway.access_record("after");
    assert!(fs::read_to_string(rotated).unwrap().contains("\"before\""));
}

#[test]
fn everything_is_written_before_the_process_ends() {
    let origin = Origin::start(answer(200, ""));
    let gateway = Gateway::with(revision(&origin)).start();
    let mut connection = gateway.raw();
    for _ in 0..200 {
        gateway.client().get("/open").send_on(&mut connection).expect(200);
    }
    drop(connection);
    gateway.terminate();
    gateway.wait();
    assert_eq!(gateway.access_log().len(), 200);
}
