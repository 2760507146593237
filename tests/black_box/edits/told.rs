//! What `explain` and `check` say about all of it.

use serde_json::Value;

use crate::harness::*;

/// Files of a gateway that never runs.
fn files(revision: &Revision) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("revision.yaml"), revision.to_string()).unwrap();
    let config = format!(
        "server: {{ limits: {{ body_bytes: 1MiB }} }}\nrevision: {{ file: \"{}\" }}\n",
        path("revision.yaml").display()
    );
    std::fs::write(path("tollgate.yaml"), config).unwrap();
    let config = path("tollgate.yaml").display().to_string();
    (directory, config)
}

fn full() -> Revision {
    let nobody = "127.0.0.1:1".parse().unwrap();
    Revision::empty()
        .behind("orders", nobody)
        .behind("orders-next", nobody)
        .behind("orders-sandbox", nobody)
        .api(
            r#"{ name: a, base_path: /a, auth: [api_key], cors: { origins: ["https://app.example.com"] },
                 addresses: { allow: [10.0.0.0/8], deny: [10.9.0.0/16] }, body_bytes: 1KiB,
                 headers: { request: { remove: [X-Debug], set: { Authorization: "Basic secret" } }, response: { add: { Via: a } } },
                 upstreams: [{ name: orders, weight: 75 }, { name: orders-next, weight: 25 }],
                 split: { sticky: caller, override_header: X-Upstream }, sandbox_upstream: orders-sandbox,
                 routes: [ { path: "/v1/{id}", rewrite: "/internal/{id}" }, { path: "/old/*", redirect: { to: "/a/new/*" } },
                           { path: /ping, respond: { status: 202, body: pong } }, { path: /large, body_bytes: 2MiB } ] }"#,
        )
        .mobile(&["a"])
}

/// Explains a request from 10.1.1.1 with the production key.
fn explain(config: &str, more: &[&str]) -> (String, Value) {
    let key = format!("X-API-Key: {KEY}");
    let said = |output: &str| {
        let common = [
            "explain", "--config", config, "--output", output, "--client", "10.1.1.1",
        ];
        let arguments = common.iter().chain(more).copied();
        let output = tollgate(arguments.chain(["-H", key.as_str()]));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(
            !output.stdout.contains("secret") && !output.stdout.contains(KEY),
            "{output:?}"
        );
        output.stdout
    };
    (said("text"), serde_json::from_str(&said("json")).unwrap())
}

#[test]
fn explain_tells_what_would_be_changed_and_where_the_request_would_go() {
    let (_directory, config) = files(&full());
    let (text, facts) = explain(
        &config,
        &["-H", "Origin: https://app.example.com", "http://h/a/v1/7?x=1"],
    );
    for expected in [
        "10.1.1.1 is let in by 10.0.0.0/8",
        "origin https://app.example.com is allowed",
        "at most 1024 bytes",
        "of the request: removes x-debug, sets authorization",
        "of the answer: adds via",
        "gets /internal/7?x=1",
        "always, for this caller (split: orders 75 %, orders-next 25 %)",
    ] {
        assert!(text.contains(expected), "{text}\ndoes not say: {expected}");
    }
    assert_eq!(facts["upstream"]["chosen_by"], "sticky");
    assert_eq!(facts["upstream"]["target"], "/internal/7?x=1");
    assert_eq!(facts["upstream"]["shares"][1]["share_percent"], 25.0);
    assert_eq!(facts["cors"]["verdict"], "allowed");
    assert_eq!(facts["address"]["range"], "10.0.0.0/8");
    assert_eq!(facts["body_bytes"], 1024);

    let (text, facts) = explain(&config, &["-H", "X-Upstream: orders-next", "http://h/a/v1/7"]);
    assert!(
        text.contains("orders-next gets /internal/7") && text.contains("because the client names it"),
        "{text}"
    );
    assert_eq!(facts["upstream"]["chosen_by"], "named");
}

#[test]
fn explain_tells_what_the_gateway_would_answer_itself() {
    let (_directory, config) = files(&full());
    let (text, facts) = explain(&config, &["http://h/a/old/x?y=1"]);
    assert!(text.contains("308 by the gateway (redirect) to /a/new/x?y=1"), "{text}");
    assert_eq!(facts["local"]["location"], "/a/new/x?y=1");
    assert!(
        facts["upstream"].is_null() && facts["headers"]["request"].as_array().unwrap().is_empty(),
        "{facts}"
    );
    let (text, _) = explain(&config, &["http://h/a/ping"]);
    assert!(text.contains("202 by the gateway (respond)"), "{text}");
    let preflight = [
        "-X",
        "OPTIONS",
        "-H",
        "Origin: https://evil.example",
        "-H",
        "Access-Control-Request-Method: PUT",
    ];
    let (text, facts) = explain(&config, &[&preflight[..], &["http://h/a/ping"]].concat());
    assert!(
        text.contains("preflight of origin https://evil.example is refused"),
        "{text}"
    );
    assert_eq!(
        (&facts["local"]["by"], &facts["local"]["status"]),
        (&"preflight".into(), &204.into())
    );
}

#[test]
fn explain_tells_who_would_be_refused_and_why() {
    let (_directory, config) = files(&full());
    let denied = tollgate([
        "explain",
        "--config",
        &config,
        "--client",
        "10.9.0.1",
        "http://h/a/ping",
    ])
    .stdout;
    assert!(
        denied.contains("10.9.0.1 is denied by 10.9.0.0/16") && denied.contains("403 address_denied"),
        "{denied}"
    );
    let unknown = tollgate([
        "explain",
        "--config",
        &config,
        "--client",
        "192.0.2.1",
        "http://h/a/ping",
    ])
    .stdout;
    assert!(
        unknown.contains("192.0.2.1 is denied because no range holds it"),
        "{unknown}"
    );
    let (text, _) = explain(
        &config,
        &["-X", "POST", "-H", "Content-Length: 1025", "http://h/a/v1/7"],
    );
    assert!(text.contains("413 body_too_large: at most 1024 bytes"), "{text}");
    let sandbox = format!("X-API-Key: {SANDBOX_KEY}");
    let client = [
        "explain",
        "--config",
        &config,
        "--client",
        "10.1.1.1",
        "-H",
        &sandbox,
        "http://h/a/v1/7",
    ];
    let text = tollgate(client).stdout;
    assert!(
        text.contains("orders-sandbox gets /internal/7") && text.contains("has a sandbox key"),
        "{text}"
    );
}

#[test]
fn check_warns_of_a_bound_that_the_gateway_does_not_let_in() {
    let (_directory, config) = files(&full());
    let checked = tollgate(["check", "--config", &config]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let lines: Vec<&str> = checked.stdout.lines().collect();
    assert_eq!(lines.len(), 1, "{checked:?}");
    assert!(
        lines[0].contains("warning: api \"a\": body_bytes of 2097152 bytes never counts"),
        "{lines:?}"
    );
}
