//! Parts of kept answers (RFC 9110 section 14).

use super::*;

fn scene() -> Scene {
    let scene = Scene::of(|request, _| match request.header("range") {
        Some(_) => reply(
            206,
            "Cache-Control: max-age=60\r\nContent-Range: bytes 0-1/10\r\nX-From: origin\r\n",
        )
        .with_body("01"),
        None => fresh(60, "ETag: \"a\"\r\nAccept-Ranges: bytes\r\n").with_body("0123456789"),
    });
    scene.get("/a").send().expect(200);
    scene
}

#[test]
fn a_part_is_cut_out_of_what_is_kept() {
    let scene = scene();
    for (range, content_range, part) in [
        ("bytes=0-1", "bytes 0-1/10", "01"),
        ("bytes=5-", "bytes 5-9/10", "56789"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=8-100", "bytes 8-9/10", "89"),
    ] {
        let answer = scene.get("/a").header("Range", range).send().expect(206);
        assert_eq!(answer.header("content-range"), Some(content_range));
        assert_eq!(answer.header("content-length"), Some(part.len().to_string().as_str()));
        assert_eq!(answer.header("etag"), Some("\"a\""));
        assert_eq!(answer.text(), part);
    }
    assert_eq!(scene.origin.requests(), 1);
}

#[test]
fn several_parts_come_in_one_answer() {
    let scene = scene();
    let answer = scene.get("/a").header("Range", "bytes=0-1,8-9").send().expect(206);
    let kind = answer.header("content-type").expect("a type").to_owned();
    assert!(kind.starts_with("multipart/byteranges"), "{kind}");
    let text = answer.text();
    assert!(text.contains("bytes 0-1/10") && text.contains("bytes 8-9/10"), "{text}");
}

#[test]
fn a_part_that_is_not_there_is_refused() {
    let scene = scene();
    let answer = scene.get("/a").header("Range", "bytes=20-30").send().expect(416);
    assert_eq!(answer.header("content-range"), Some("bytes */10"));
}

#[test]
fn a_range_that_is_none_is_ignored() {
    let scene = scene();
    for range in ["lines=1-2", "bytes=5-1", "bytes", "bytes=a-b"] {
        let answer = scene.get("/a").header("Range", range).send();
        assert!(answer.status == 200 || answer.status == 416, "{range}: {answer:?}");
    }
    assert_eq!(scene.origin.requests(), 1);
}

#[test]
fn a_part_of_something_else_is_not_given() {
    let scene = scene();
    let ask = |condition: &str| {
        scene
            .get("/a")
            .header("Range", "bytes=0-1")
            .header("If-Range", condition)
            .send()
    };
    assert_eq!(ask("\"a\"").expect(206).text(), "01");
    assert_eq!(ask("\"b\"").expect(200).text(), "0123456789");
    assert_eq!(
        ask("W/\"a\"").expect(200).text(),
        "0123456789",
        "a weak tag says too little"
    );
}

#[test]
fn a_part_of_what_is_not_kept_is_asked_of_the_origin_and_kept_by_nobody() {
    let scene = scene();
    let ask = || scene.get("/b").header("Range", "bytes=0-1").send();
    for _ in 0..2 {
        let answer = ask().expect(206);
        assert_eq!(
            (answer.text().as_str(), answer.header("x-from")),
            ("01", Some("origin"))
        );
    }
    assert_eq!(scene.get("/b").send().expect(200).text(), "0123456789");
    assert_eq!(scene.get("/b").send().expect(200).text(), "0123456789");
    assert_eq!(scene.origin.requests(), 4);
}

#[test]
fn parts_are_for_get_alone() {
    let scene = scene();
    let head = scene
        .gateway
        .client()
        .request("HEAD", "/a")
        .header("Range", "bytes=0-1")
        .send()
        .expect(200);
    assert_eq!(head.header("content-range"), None);
}

#[test]
fn a_weak_tag_is_too_little_even_for_itself() {
    let scene = Scene::of(|_, _| fresh(60, "ETag: W/\"a\"\r\n").with_body("0123456789"));
    scene.get("/a").send().expect(200);
    let ask = scene
        .get("/a")
        .header("Range", "bytes=0-1")
        .header("If-Range", "W/\"a\"");
    assert_eq!(ask.send().expect(200).text(), "0123456789");
}

#[test]
fn what_came_in_chunks_has_parts_too_once_it_is_kept() {
    let origin = Origin::start(|exchange: &mut Exchange| {
        exchange.read_body()?;
        exchange.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        exchange.send_chunk(b"01234")?;
        exchange.send_chunk(b"56789")?;
        exchange.send(b"0\r\n\r\n")
    });
    let scene = Scene::serving(origin, |setup| setup, "cache: {}");
    scene.get("/a").send().expect(200);
    let whole = scene.get("/a").send().expect(200);
    assert_eq!(
        (whole.header("content-length"), whole.text().as_str()),
        (Some("10"), "0123456789")
    );
    let part = scene.get("/a").header("Range", "bytes=4-5").send().expect(206);
    assert_eq!(
        (part.header("content-range"), part.text().as_str()),
        (Some("bytes 4-5/10"), "45")
    );
    let head = scene.gateway.client().request("HEAD", "/a").send().expect(200);
    assert_eq!(head.header("content-length"), Some("10"));
    assert_eq!(scene.origin.requests(), 1);
}
