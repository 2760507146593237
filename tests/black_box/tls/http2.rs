//! HTTP/2 that was agreed on in the handshake.

use crate::harness::*;

const TLS: &str = "tls: { certificates: [{ certificate: \"DIR/default.crt\", key: \"DIR/default.key\" }] }";

#[test]
fn it_is_offered_unless_the_listener_says_no() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let agreed = |listener: &str| {
        let setup = Gateway::with(revision(&origin));
        authority.issue(&["api.example.com"]).write(setup.path(), "default");
        let gateway = setup.listening(listener).start();
        let client = authority.client().offering(&["h2", "http/1.1"]);
        client.connect(gateway.address(), "api.example.com").unwrap().alpn
    };
    assert_eq!(agreed(TLS).as_deref(), Some("h2"));
    assert_eq!(agreed(&format!("{TLS}, http2: false")).as_deref(), Some("http/1.1"));
}

#[test]
fn a_common_client_agrees_on_it_and_the_service_is_told_https() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let setup = Gateway::with(revision(&origin));
    authority.issue(&["api.example.com"]).write(setup.path(), "default");
    let gateway = setup.listening(TLS).start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let trusted = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let client = reqwest::Client::builder()
            .tls_certs_only([trusted])
            .resolve("api.example.com", gateway.address())
            .no_proxy()
            .build()
            .unwrap();
        let url = format!("https://api.example.com:{}/open/common", gateway.address().port());
        // Until it knows which protocol it is, this client opens a connection for each request.
        client.get(&url).send().await.unwrap();
        let requests = (0..20).map(|at| client.post(&url).body(format!("{at}")).send());
        for (at, answer) in futures_util::future::join_all(requests).await.into_iter().enumerate() {
            let answer = answer.unwrap();
            assert_eq!(answer.version(), reqwest::Version::HTTP_2);
            let echo: Received = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            assert_eq!(echo.body, at.to_string());
            assert_eq!(echo.header("x-forwarded-proto"), Some("https"));
            assert_eq!(echo.header("x-forwarded-for"), Some("127.0.0.1"));
        }
    });
    assert_eq!(gateway.metric("tollgate_tls_handshakes_total{result=\"full\"}"), 1.0);
}

#[test]
fn a_listener_without_it_takes_the_preface_for_what_it_is_not() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).listening("http2: false").start();
    let answer = gateway.raw().send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").answer();
    assert_eq!(answer.status, 505);
    gateway.client().get("/open").send().expect(200);
}
