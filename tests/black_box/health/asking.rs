//! How endpoints are asked.

use super::*;

#[test]
fn a_check_says_who_asks_and_whom_and_does_not_keep_the_connection() {
    let patient = Patient::new();
    let gateway = Gateway::with(checked(&[patient.endpoint()], BY_HTTP)).start();
    until("it was asked twice", || patient.checks() >= 2);
    let asked = patient.origin.received();
    assert!(asked[0].connection != asked[1].connection);
    let check = &asked[0];
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/health"));
    let host = patient.origin.address().to_string();
    assert_eq!(check.header("host"), Some(host.as_str()));
    assert_eq!(check.header("connection"), Some("close"));
    let agent = check.header("user-agent").unwrap();
    assert!(agent.starts_with("tollgate-health/"), "{agent}");

    let another = BY_HTTP.replace("path: /health", "path: \"/health?deep=1\", host: orders.example");
    gateway.apply(checked(&[patient.endpoint()], &another));
    let check = eventually("it is asked in another way", || {
        let asked = patient.origin.received();
        asked.into_iter().find(|check| check.target == "/health?deep=1")
    });
    assert_eq!(check.header("host"), Some("orders.example"));
}

#[test]
fn an_endpoint_that_speaks_http2_is_asked_by_it() {
    let origin = SecureOrigin::http2();
    let port = origin.address().port();
    let revision = checked(&[format!("{{ address: \"localhost:{port}\" }}")], BY_HTTP)
        .to_string()
        .replace("slow_start: 0s", "protocol: http2, slow_start: 0s");
    let gateway = Gateway::with(revision).start();
    let seen = eventually("it is asked", || origin.seen().first().cloned());
    assert!(
        seen.starts_with(&format!("HTTP/2.0 GET /health of localhost:{port} by tollgate-health/")),
        "{seen}"
    );
    until_up(&gateway, format!("localhost:{port} (127.0.0.1)"));
}

#[test]
fn over_tls_a_check_trusts_and_shows_what_requests_do() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let by_http1 = SecureOrigin::https(&ours, "orders.internal", &["http/1.1"]);
    let by_http2 = SecureOrigin::https(&ours, "orders.internal", &["h2", "http/1.1"]);
    let stranger = SecureOrigin::https(&theirs, "orders.internal", &["http/1.1"]);
    let other_name = SecureOrigin::https(&ours, "invoices.internal", &["http/1.1"]);
    let all = [&by_http1, &by_http2, &stranger, &other_name];
    let endpoints: Vec<String> = (all.iter())
        .map(|origin| format!("{{ address: \"{}\" }}", origin.address()))
        .collect();
    let shown = ours.issue(&["gateway.internal"]);
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        format!("\"${{file:{}}}\"", path.display())
    };
    let tls = format!(
        "slow_start: 0s, protocol: auto, tls: {{ server_name: orders.internal, ca: {}, certificate: {}, key: {} }}",
        file("ca.pem", &ours.pem()),
        file("gateway.pem", &shown.certificate),
        file("gateway.key", &shown.key),
    );
    let revision = |check: &str| checked(&endpoints, check).to_string().replace("slow_start: 0s", &tls);
    let gateway = Gateway::with(revision(BY_HTTP)).start();
    for wrong in [&stranger, &other_name] {
        until_down(&gateway, wrong.address());
    }
    gateway.logs("its checks fail: TLS: invalid peer certificate");
    for (right, version) in [(&by_http1, "HTTP/1.1"), (&by_http2, "HTTP/2.0")] {
        let seen = eventually("it is asked", || right.seen().first().cloned());
        assert!(
            seen.starts_with(&format!("{version} GET /health of 127.0.0.1:")),
            "{seen}"
        );
        assert!(is_healthy(&gateway, right.address()));
    }
    assert!(stranger.seen().is_empty() && other_name.seen().is_empty());

    // Without a path, shaking hands is enough and necessary.
    let fresh = revision("{ interval: 1s, timeout: 900ms, healthy: 1, unhealthy: 1 }");
    let asked = by_http1.seen().len();
    gateway.apply(fresh);
    let before = gateway.metric("tollgate_health_checks_total{result=\"good\",upstream=\"orders\"}");
    until("more checks", || {
        gateway.metric("tollgate_health_checks_total{result=\"good\",upstream=\"orders\"}") >= before + 4.0
    });
    assert!(by_http1.seen().len() <= asked + 1, "one may have been under way");
    assert!(is_healthy(&gateway, by_http1.address()));
    assert!(!is_healthy(&gateway, stranger.address()));
}
