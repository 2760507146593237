//! What is never answered from the cache, and the protocols that are.

use super::*;

#[test]
fn tunnels_pass() {
    let service = EchoSocket::start();
    let revision = Revision::empty()
        .behind("origin", service.address())
        .api("{ name: all, base_path: /, auth: none, upstream: origin, cache: {} }");
    let gateway = Gateway::with(revision).start();
    let sockets = Sockets::to(gateway.address());
    for _ in 0..2 {
        let mut socket = sockets.open("/echo", None).expect("a socket");
        socket.echoes("hello");
    }
}

#[test]
fn an_upgrade_is_not_answered_with_what_is_kept_for_others() {
    let scene = Scene::of(|_, _| fresh(600, ""));
    assert_eq!(scene.nth(scene.get("/a")), 1);
    let ask = || {
        scene
            .get("/a")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
    };
    assert_eq!(scene.nth(ask()), 2);
    assert_eq!(scene.nth(ask()), 3);
    assert_eq!(scene.nth(scene.get("/a")), 1);
}

#[test]
fn calls_are_never_kept() {
    let service = GrpcService::start();
    let revision = Revision::empty()
        .upstream(&format!(
            "{{ name: words, protocol: http2, endpoints: [{{ address: \"{}\" }}] }}",
            service.address()
        ))
        .api("{ name: words, base_path: /tollgate.test.Words, auth: none, upstream: words, cache: {} }");
    let gateway = Gateway::with(revision).start();
    let client = GrpcClient::to(gateway.address());
    for count in 1..=3 {
        assert_eq!(client.say("hello", None).expect("a word").into_inner().text, "hello");
        assert_eq!(service.calls(), count);
    }
}

#[test]
fn a_request_with_content_is_passed_on_whole_and_the_connection_goes_on() {
    let scene = Scene::of(|request, nth| fresh(600, "").with_body(&format!("{nth} {}", request.body)));
    assert_eq!(scene.get("/a").send().expect(200).text(), "1 ");
    let mut connection = scene.gateway.raw();
    // What would be a request of its own to whoever forgets to read the content.
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for nth in 2..4 {
        connection.send(format!(
            "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        ));
        assert_eq!(connection.answer().expect(200).text(), format!("{nth} {smuggled}"));
    }
    connection.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    // Another host than the first one's, so another answer; and the next one is that.
    let first = connection.answer().expect(200).text();
    connection.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.answer().expect(200).text(), first);
    assert!(scene.origin.received().iter().all(|request| request.target == "/a"));
}

#[test]
fn http_2_and_http_1_share_what_is_kept() {
    let scene = Scene::of(|_, _| fresh(600, "ETag: \"a\"\r\n"));
    let host = scene.gateway.address().to_string();
    let first = scene.gateway.http2().get("/a").host(&host).send().expect(200);
    assert_eq!(first.text(), "1");
    assert_eq!(scene.nth(scene.get("/a").host(&host)), 1);
    let again = scene.gateway.http2().get("/a").host(&host).send().expect(200);
    assert_eq!(again.text(), "1");
    assert!(again.header("age").is_some());
    let client = scene.gateway.http2();
    let conditional = client.get("/a").host(&host).header("if-none-match", "\"a\"");
    conditional.send().expect(304);
    assert_eq!(scene.origin.requests(), 1);
}

#[test]
fn what_a_client_of_http_2_asks_for_is_fetched_anew_in_the_background() {
    let scene = Scene::of(|_, _| fresh(60, "Age: 90\r\nCache-Control: stale-while-revalidate=600\r\n"));
    let ask = || {
        scene
            .gateway
            .http2()
            .get("/a?x=1")
            .header("x-mine", "kept")
            .send()
            .expect(200)
            .text()
    };
    assert_eq!(ask(), "1");
    assert_eq!(ask(), "1");
    until("it was fetched anew", || ask() != "1");
    let refresh = &scene.origin.received()[1];
    assert_eq!(
        (refresh.target.as_str(), refresh.header("x-mine")),
        ("/a?x=1", Some("kept"))
    );
}

#[test]
fn methods_that_are_not_asked_for_are_passed_on() {
    let scene = Scene::with("{ methods: [GET] }", |_, _| fresh(600, ""));
    assert_eq!(scene.nth(scene.get("/a")), 1);
    scene.gateway.client().request("HEAD", "/a").send().expect(200);
    scene.gateway.client().request("OPTIONS", "/a").send().expect(200);
    assert_eq!(scene.origin.requests(), 3);
    let methods: Vec<_> = scene
        .origin
        .received()
        .iter()
        .map(|request| request.method.clone())
        .collect();
    assert_eq!(methods, ["GET", "HEAD", "OPTIONS"]);
}

#[test]
fn the_log_and_cache_status_say_what_the_cache_did() {
    let scene = Scene::of(|request, nth| match (request.header("if-none-match"), nth) {
        (Some(_), _) => reply(304, "Cache-Control: max-age=600\r\n"),
        (None, _) => fresh(600, "ETag: \"a\"\r\nCache-Status: upstream; hit\r\n"),
    });
    let first = scene.get("/a").send().expect(200);
    assert_eq!(first.all("cache-status")[0], "upstream; hit");
    assert!(
        status_of(&first).starts_with("tollgate; fwd=uri-miss; fwd-status=200; stored"),
        "{first:?}"
    );
    let hit = scene.get("/a").send().expect(200);
    assert!(status_of(&hit).starts_with("tollgate; hit; ttl="), "{hit:?}");
    let validated = scene.get("/a").header("Cache-Control", "no-cache").send().expect(200);
    assert!(
        status_of(&validated).starts_with("tollgate; fwd=request; fwd-status=304; stored"),
        "{validated:?}"
    );
    let posted = scene.gateway.client().post("/a", "x").send().expect(200);
    assert!(status_of(&posted).starts_with("tollgate; fwd=method"), "{posted:?}");

    let quiet = Scene::with("{ cache_status: false }", |_, _| fresh(600, ""));
    quiet.get("/a").send().expect(200);
    assert_eq!(quiet.get("/a").send().expect(200).header("cache-status"), None);
}

#[test]
fn content_over_http_2_needs_no_announcement() {
    let scene = Scene::of(|request, _| fresh(600, "").with_body(&request.body));
    let client = scene.gateway.http2();
    for content in ["AAA", "BBB"] {
        let mut stream = client.request("GET", "/a").open();
        stream.send(content).finish();
        let (answer, _) = stream.answer();
        assert_eq!(answer.expect(200).text(), content);
    }
}

#[test]
fn what_connection_takes_away_from_the_origin_selects_nothing() {
    let scene = Scene::of(|request, _| {
        let language = request.header("x-lang").unwrap_or("none").to_owned();
        fresh(600, "Vary: X-Lang\r\n").with_body(&language)
    });
    let hidden = scene
        .get("/a")
        .header("X-Lang", "de")
        .header("Connection", "keep-alive, X-Lang");
    assert_eq!(hidden.send().expect(200).text(), "none");
    let ask = || scene.get("/a").header("X-Lang", "de").send().expect(200).text();
    assert_eq!((ask().as_str(), ask().as_str()), ("de", "de"));
    assert_eq!(scene.origin.requests(), 2);
}
