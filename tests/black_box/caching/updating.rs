//! What becomes of a kept answer when the origin says that it is still good (RFC 9111 sections 3.2 and 4.3.3).

use super::*;

/// Something stale is kept; its validation is answered with these lines. What clients get then, twice.
fn validated(kept: &str, by: &str) -> [Answer; 2] {
    let (kept, by) = (kept.to_owned(), by.to_owned());
    let scene = Scene::of(move |request, _| match request.header("if-none-match") {
        Some(_) => reply(304, &by),
        None => fresh(0, &format!("ETag: \"a\"\r\n{kept}")),
    });
    scene.get("/a").send().expect(200);
    let answers = [scene.get("/a").send().expect(200), scene.get("/a").send().expect(200)];
    assert!(scene.origin.requests() <= 3);
    answers
}

#[test]
fn fields_of_the_validation_replace_those_that_were_kept() {
    for name in [
        "X-Own",
        "Content-Type",
        "Content-Location",
        "Expires",
        "Set-Cookie",
        "Content-Security-Policy",
    ] {
        let answers = validated(
            &format!("{name}: old\r\n{name}: older\r\nX-Other: 1\r\n"),
            &format!("Cache-Control: max-age=60\r\nETag: \"a\"\r\n{name}: new\r\n"),
        );
        for answer in answers {
            assert_eq!(answer.all(name), ["new"], "{name}");
            assert_eq!(answer.header("x-other"), Some("1"), "what was not said stays");
            assert_eq!(answer.header("cache-control"), Some("max-age=60"));
            assert_eq!(answer.text(), "1");
        }
    }
}

#[test]
fn fields_that_describe_the_content_stay_with_the_content() {
    for (name, value) in [
        ("Content-Encoding", "identity"),
        ("Content-Range", "bytes 0-0/1"),
        ("Content-MD5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
    ] {
        let answers = validated(
            &format!("{name}: {value}\r\n"),
            &format!("Cache-Control: max-age=60\r\nETag: \"a\"\r\n{name}: other\r\n"),
        );
        for answer in answers {
            assert_eq!(answer.all(name), [value], "{name}");
        }
    }
    // Its own length is that of what it would have been (RFC 9110 section 8.6), not of what is kept.
    let origin = Origin::start(
        |exchange: &mut Exchange| match exchange.request.header("if-none-match") {
            Some(_) => exchange.send(
                b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n",
            ),
            None => exchange.respond(200, "Cache-Control: max-age=0\r\nETag: \"a\"\r\n", b"1"),
        },
    );
    let scene = Scene::serving(origin, |setup| setup, "cache: {}");
    for _ in 0..3 {
        let answer = scene.get("/a").send().expect(200);
        assert_eq!(
            (answer.header("content-length"), answer.text().as_str()),
            (Some("1"), "1")
        );
    }
}

#[test]
fn the_age_begins_anew_with_a_validation() {
    for answer in validated("Age: 5000\r\n", "Cache-Control: max-age=60\r\nETag: \"a\"\r\n") {
        let age: u64 = answer.header("age").map_or(0, |age| age.parse().expect("seconds"));
        assert!(age < 60, "{age}");
    }
}

#[test]
fn an_answer_that_is_not_to_be_kept_any_more_is_not() {
    let scene = Scene::of(|request, nth| match (request.header("if-none-match"), nth) {
        (Some(_), 2) => reply(304, "Cache-Control: no-store\r\nETag: \"a\"\r\n"),
        (Some(_), _) => panic!("it is not kept any more"),
        (None, _) => fresh(0, "ETag: \"a\"\r\n"),
    });
    assert_eq!(scene.nth(scene.get("/a")), 1);
    assert_eq!(scene.nth(scene.get("/a")), 1, "this once it was validated");
    assert_eq!(scene.nth(scene.get("/a")), 3);
}

#[test]
fn a_new_answer_replaces_the_kept_one() {
    let scene = Scene::of(|_, nth| match nth {
        1 => fresh(0, "ETag: \"a\"\r\nX-Old: 1\r\n"),
        _ => fresh(60, "ETag: \"b\"\r\nX-New: 1\r\n"),
    });
    assert_eq!(scene.nth(scene.get("/a")), 1);
    for _ in 0..2 {
        let answer = scene.get("/a").send().expect(200);
        assert_eq!(answer.text(), "2");
        assert_eq!((answer.header("x-old"), answer.header("x-new")), (None, Some("1")));
    }
    assert_eq!(scene.origin.received()[1].header("if-none-match"), Some("\"a\""));
}

#[test]
fn the_date_of_last_change_validates_too() {
    let scene = Scene::of(|request, _| match request.header("if-modified-since") {
        Some("Wed, 01 Jan 2025 00:00:00 GMT") => reply(304, "Cache-Control: max-age=60\r\n"),
        Some(other) => panic!("{other}"),
        None => fresh(0, "Last-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n"),
    });
    for _ in 0..3 {
        assert_eq!(scene.nth(scene.get("/a")), 1);
    }
    assert_eq!(scene.origin.requests(), 2);
}

#[test]
fn a_304_with_another_tag_says_nothing_of_what_is_kept() {
    let scene = Scene::of(|request, _| match request.header("if-none-match") {
        Some("\"a\"") => reply(304, "Cache-Control: max-age=600\r\nETag: \"b\"\r\n"),
        _ => fresh(0, "ETag: \"a\"\r\n"),
    });
    assert_eq!(scene.nth(scene.get("/a")), 1);
    scene.get("/a").send().expect(200);
    assert_eq!(scene.nth(scene.get("/a")), 3, "it was fetched anew");
}
