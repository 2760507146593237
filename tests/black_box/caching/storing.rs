//! What is kept at all (RFC 9111 section 3), and with which fields (section 3.1).

use super::*;

#[track_caller]
fn is_kept(fields: &str) -> bool {
    let fields = fields.to_owned();
    Scene::of(move |_, _| reply(200, &fields)).keeps("/a")
}

#[test]
fn without_a_policy_nothing_is_kept() {
    let scene = Scene::serving(service(|_, _| fresh(60, "")), |setup| setup, "");
    assert!(!scene.keeps("/a"));
    let answer = scene.get("/a").send().expect(200);
    assert_eq!(answer.header("cache-status"), None);
    assert_eq!(answer.header("age"), None);
}

#[test]
fn what_the_origin_wants_not_to_be_kept_is_not() {
    for fields in [
        "Cache-Control: no-store\r\n",
        "Cache-Control: nO-StOrE\r\n",
        "Cache-Control: max-age=60, no-store\r\n",
        "Cache-Control: max-age=60\r\nCache-Control: no-store\r\n",
        "Cache-Control: private\r\n",
        "Cache-Control: private, max-age=60\r\n",
        "Cache-Control: max-age=60\r\nVary: *\r\n",
        "Cache-Control: no-cache\r\n",
        "Cache-Control: No-CaChE, max-age=60\r\n",
    ] {
        assert!(!is_kept(fields), "{fields}");
    }
}

#[test]
fn a_status_that_is_not_understood_is_not_kept_where_that_is_asked_for() {
    let kept = |status: u16| {
        Scene::of(move |_, _| Reply {
            status,
            ..fresh(60, "Cache-Control: must-understand, no-store\r\n")
        })
        .keeps("/a")
    };
    assert!(
        kept(200),
        "no-store is for those who do not know must-understand (RFC 9111 section 5.2.2.3)"
    );
    assert!(!kept(299));
}

#[test]
fn answers_to_credentials_are_kept_only_if_the_origin_says_so() {
    let kept = |fields: &str| {
        let fields = fields.to_owned();
        let scene = Scene::of(move |_, _| reply(200, &fields));
        let ask = || scene.get("/a").header("Authorization", "Basic YTpi");
        scene.nth(ask()) == scene.nth(ask())
    };
    assert!(!kept("Cache-Control: max-age=60\r\n"));
    assert!(!kept(&format!("Expires: {}\r\n", date(60))));
    assert!(!kept(""));
    assert!(kept("Cache-Control: max-age=60, public\r\n"));
    assert!(kept("Cache-Control: s-maxage=60\r\n"));
    assert!(kept("Cache-Control: max-age=60, must-revalidate\r\n"));
}

#[test]
fn whoever_comes_with_credentials_gets_what_is_kept_for_everybody() {
    let scene = Scene::of(|_, _| fresh(60, ""));
    assert_eq!(scene.nth(scene.get("/a")), 1);
    assert_eq!(scene.nth(scene.get("/a").header("Authorization", "Basic YTpi")), 1);
}

#[test]
fn a_cookie_is_kept_where_the_origin_says_how_long_and_never_by_default() {
    assert!(is_kept("Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n"));
    assert!(!is_kept("Set-Cookie: session=secret\r\n"));
    assert!(!is_kept(&format!(
        "Last-Modified: {}\r\nSet-Cookie: session=secret\r\n",
        date(-36_000)
    )));
    let careful = Scene::with("{ set_cookie: false }", |_, _| fresh(60, "Set-Cookie: a=b\r\n"));
    assert!(!careful.keeps("/a"));
}

#[test]
fn fields_of_the_answer_are_kept_and_fields_of_the_connection_are_not() {
    let scene = Scene::of(|_, _| {
        fresh(
            60,
            "Content-Type: text/x-a\r\nContent-Language: de\r\nX-Own: 1\r\nX-Own: 2\r\nSet-Cookie: a=b\r\n\
             Content-Security-Policy: default-src 'self'\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authenticate: Basic\r\nProxy-Authentication-Info: a=1\r\nProxy-Connection: x\r\nTE: trailers\r\n",
        )
    });
    scene.get("/a").send().expect(200);
    let kept = scene.get("/a").send().expect(200);
    assert_eq!(kept.text(), "1");
    assert_eq!(kept.header("content-type"), Some("text/x-a"));
    assert_eq!(kept.header("content-language"), Some("de"));
    assert_eq!(kept.all("x-own"), ["1", "2"]);
    assert_eq!(kept.header("set-cookie"), Some("a=b"));
    assert_eq!(kept.header("content-security-policy"), Some("default-src 'self'"));
    for gone in [
        "x-hop",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-connection",
        "te",
    ] {
        assert_eq!(kept.header(gone), None, "{gone}");
    }
}

#[test]
fn fields_that_are_for_one_reader_are_not_kept() {
    let scene = Scene::of(|_, _| {
        reply(
            200,
            "Cache-Control: max-age=60, private=\"X-Mine\", no-cache=\"X-Ask\"\r\nX-Mine: 1\r\nX-Ask: 2\r\nX-All: 3\r\n",
        )
    });
    let first = scene.get("/a").send().expect(200);
    assert_eq!(first.header("x-mine"), Some("1"));
    let kept = scene.get("/a").send().expect(200);
    assert_eq!((kept.text().as_str(), kept.header("x-all")), ("1", Some("3")));
    assert_eq!((kept.header("x-mine"), kept.header("x-ask")), (None, None));
}

#[test]
fn an_answer_that_is_too_large_passes_and_is_not_kept() {
    let scene = Scene::with("{ body_bytes: 1KiB }", |_, nth| {
        fresh(60, "").with_body(&nth.to_string().repeat(2000))
    });
    for nth in 1..=3 {
        assert_eq!(scene.get("/a").send().expect(200).text(), nth.to_string().repeat(2000));
    }
    // One whose length is not known beforehand.
    let origin = Origin::start(|exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for _ in 0..8 {
            exchange.send_chunk(&[b'x'; 1000])?;
        }
        exchange.send(b"0\r\n\r\n")
    });
    let scene = Scene::serving(origin, |setup| setup, "cache: { body_bytes: 1KiB }");
    for _ in 0..3 {
        assert_eq!(scene.get("/a").send().expect(200).text().len(), 8000);
    }
    assert_eq!(scene.origin.requests(), 3);
}

#[test]
fn an_answer_that_breaks_off_is_not_kept() {
    let origin = Origin::start({
        let count = std::sync::atomic::AtomicUsize::new(0);
        move |exchange: &mut Exchange| {
            exchange.read_body()?;
            if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
                exchange.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhalf")?;
                exchange.close();
                return Ok(());
            }
            exchange.respond(200, "Cache-Control: max-age=60\r\n", b"all of it!")
        }
    });
    let scene = Scene::serving(origin, |setup| setup, "cache: {}");
    let mut connection = scene.gateway.raw();
    connection.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(
        connection.try_answer(false).is_err(),
        "the client sees that it broke off"
    );
    assert_eq!(scene.get("/a").send().expect(200).text(), "all of it!");
    assert_eq!(scene.get("/a").send().expect(200).text(), "all of it!");
    assert_eq!(scene.origin.requests(), 2);
}

#[test]
fn chunked_answers_are_kept_whole() {
    let scene = Scene::serving(
        Origin::start(|exchange: &mut Exchange| {
            exchange.read_body()?;
            exchange.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            exchange.send_chunk(b"one, ")?;
            exchange.send_chunk(b"two")?;
            exchange.send(b"0\r\n\r\n")
        }),
        |setup| setup,
        "cache: {}",
    );
    for _ in 0..3 {
        assert_eq!(scene.get("/a").send().expect(200).text(), "one, two");
    }
    assert_eq!(scene.origin.requests(), 1);
}

#[test]
fn an_answer_without_content_is_kept_as_such() {
    let scene = Scene::of(|_, _| Reply {
        status: 204,
        ..fresh(60, "X-Nth: 1\r\n")
    });
    for _ in 0..2 {
        let answer = scene.get("/a").send().expect(204);
        assert_eq!((answer.text().as_str(), answer.header("x-nth")), ("", Some("1")));
    }
    assert_eq!(scene.origin.requests(), 1);
}
