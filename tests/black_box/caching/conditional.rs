//! Conditional requests, answered from what is kept (RFC 9110 section 13, RFC 9111 section 4.3.2).

use super::*;

fn scene() -> Scene {
    let scene = Scene::of(|_, _| {
        fresh(
            60,
            "ETag: \"a,b\"\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\nX-Own: 1\r\n",
        )
    });
    scene.get("/a").send().expect(200);
    scene
}

#[test]
fn whoever_has_it_is_told_that_it_is_still_good() {
    let scene = scene();
    for tags in [
        "\"a,b\"",
        "W/\"a,b\"",
        "\"x\", \"a,b\"",
        "\"x\" , W/\"a,b\" ,\"y\"",
        "*",
    ] {
        let answer = scene.get("/a").header("If-None-Match", tags).send().expect(304);
        assert_eq!(answer.text(), "", "{tags}");
        assert_eq!(answer.header("etag"), Some("\"a,b\""));
        assert!(answer.header("age").is_some());
        assert_eq!(answer.header("content-length"), None);
    }
    for tags in ["\"a\"", "\"b\"", "\"x\"", "a,b", "\"A,B\""] {
        scene.get("/a").header("If-None-Match", tags).send().expect(200);
    }
    assert_eq!(scene.origin.requests(), 1);
}

#[test]
fn a_date_will_do_where_there_is_no_tag() {
    let scene = scene();
    let ask = |date: &str| scene.get("/a").header("If-Modified-Since", date).send().status;
    assert_eq!(ask("Wed, 01 Jan 2025 00:00:00 GMT"), 304);
    assert_eq!(ask("Thu, 02 Jan 2025 00:00:00 GMT"), 304);
    assert_eq!(ask("Tue, 31 Dec 2024 23:59:59 GMT"), 200);
    assert_eq!(ask("yesterday"), 200);
    assert_eq!(
        ask("Wednesday, 01-Jan-25 00:00:00 GMT"),
        304,
        "an old form of the same date"
    );
    assert_eq!(scene.origin.requests(), 1);
}

#[test]
fn a_tag_goes_before_a_date() {
    let scene = scene();
    let ask = |tag: &str| {
        (scene.get("/a").header("If-None-Match", tag))
            .header("If-Modified-Since", "Thu, 02 Jan 2025 00:00:00 GMT")
            .send()
            .status
    };
    assert_eq!(ask("\"x\""), 200);
    assert_eq!(ask("\"a,b\""), 304);
}

#[test]
fn the_first_to_ask_may_have_it_already() {
    let scene = Scene::of(|request, _| {
        assert_eq!(
            request.header("if-none-match"),
            None,
            "all of it is fetched, to be kept"
        );
        fresh(60, "ETag: \"a\"\r\n")
    });
    scene.get("/a").header("If-None-Match", "\"a\"").send().expect(304);
    assert_eq!(scene.get("/a").send().expect(200).text(), "1");
    assert_eq!(scene.origin.requests(), 1);
}

#[test]
fn conditions_that_only_the_origin_can_judge_are_left_to_it() {
    let scene = scene();
    for (name, value) in [
        ("If-Match", "\"a,b\""),
        ("If-Unmodified-Since", "Wed, 01 Jan 2025 00:00:00 GMT"),
    ] {
        let before = scene.origin.requests();
        scene.get("/a").header(name, value).send().expect(200);
        assert_eq!(scene.origin.requests(), before + 1, "{name}");
        assert_eq!(
            scene
                .origin
                .received()
                .last()
                .and_then(|request| request.header(name).map(str::to_owned))
                .as_deref(),
            Some(value)
        );
    }
}

#[test]
fn a_head_is_answered_from_the_answer_to_a_get() {
    let scene = scene();
    let head = scene.gateway.client().request("HEAD", "/a").send().expect(200);
    assert_eq!((head.text().as_str(), head.header("x-own")), ("", Some("1")));
    assert_eq!(scene.origin.requests(), 1);
    // Nothing is kept here: it is passed on as what it is.
    scene.gateway.client().request("HEAD", "/b").send().expect(200);
    assert_eq!(scene.origin.received()[1].method, "HEAD");
    assert_eq!(scene.nth(scene.get("/b")), 2);
}
