//! Answers that were selected by fields of the request (RFC 9111 section 4.1, RFC 9110 section 12.5.5).

use super::*;

/// A service whose answers vary by these fields, and say what they were selected by.
fn varying(vary: &'static str) -> Scene {
    Scene::of(move |_, _| fresh(60, vary))
}

#[test]
fn an_answer_is_given_only_to_requests_with_the_same_fields() {
    let scene = varying("Vary: Foo\r\n");
    let ask = |foo: &str| scene.nth(scene.get("/a").header("Foo", foo));
    assert_eq!(ask("1"), 1);
    assert_eq!(ask("1"), 1);
    assert_eq!(ask("2"), 2);
    assert_eq!(scene.nth(scene.get("/a")), 3, "without the field");
    assert_eq!(ask(""), 4, "an empty one is not none");
    assert_eq!(
        (ask("1"), ask("2"), scene.nth(scene.get("/a"))),
        (1, 2, 3),
        "all are kept"
    );
}

#[test]
fn all_fields_count_in_any_order() {
    let scene = varying("Vary: Foo, Bar\r\nVary: baz\r\n");
    let ask = |fields: &[(&str, &str)]| {
        let request = fields
            .iter()
            .fold(scene.get("/a"), |request, (name, value)| request.header(name, value));
        scene.nth(request)
    };
    assert_eq!(ask(&[("Foo", "1"), ("Bar", "a"), ("Baz", "x")]), 1);
    assert_eq!(ask(&[("Baz", "x"), ("Bar", "a"), ("Foo", "1")]), 1);
    assert_eq!(ask(&[("Foo", "1"), ("Bar", "a"), ("Baz", "y")]), 2);
    assert_eq!(ask(&[("Foo", "1"), ("Bar", "a")]), 3);
    assert_eq!(
        ask(&[("Foo", "a"), ("Bar", "1"), ("Baz", "x")]),
        4,
        "values of other fields"
    );
}

#[test]
fn a_star_anywhere_selects_by_what_nobody_knows() {
    for vary in [
        "Vary: *\r\n",
        "Vary: *, *\r\n",
        "Vary: *\r\nVary: *\r\n",
        "Vary: , *\r\n",
        "Vary: ,\r\nVary: *\r\n",
        "Vary: *, Foo\r\n",
        "Vary: Foo, *\r\n",
    ] {
        assert!(!varying(vary).keeps("/a"), "{vary}");
    }
}

#[test]
fn the_same_list_written_differently_is_the_same() {
    let scene = varying("Vary: Accept-Language\r\n");
    let ask = |value: &str| scene.nth(scene.get("/a").header("Accept-Language", value));
    assert_eq!(ask("de, en"), 1);
    assert_eq!(ask("de,en"), 1);
    assert_eq!(ask(" de ,  en "), 1);
    let two_lines = scene
        .get("/a")
        .header("Accept-Language", "de")
        .header("Accept-Language", "en");
    assert_eq!(scene.nth(two_lines), 1);
    assert_eq!(ask("en, de"), 2, "the order may mean something");
}

#[test]
fn the_newest_answer_says_what_is_selected_by() {
    let scene = Scene::of(|request, _| match request.header("foo") {
        Some("1") => fresh(60, "Vary: Foo\r\n"),
        _ => fresh(60, "Vary: Foo, Bar\r\n"),
    });
    let ask = |foo: &str, bar: &str| scene.nth(scene.get("/a").header("Foo", foo).header("Bar", bar));
    assert_eq!(ask("1", "x"), 1);
    assert_eq!(ask("1", "y"), 1);
    assert_eq!(ask("2", "x"), 2);
    assert_eq!(ask("2", "x"), 2);
    assert_eq!(ask("2", "y"), 3);
}

#[test]
fn a_validation_carries_the_fields_that_select() {
    let scene = Scene::of(|request, _| match request.header("if-none-match") {
        Some(_) => reply(304, "Cache-Control: max-age=60\r\n"),
        None => fresh(0, "Vary: Foo\r\nETag: \"a\"\r\n"),
    });
    assert_eq!(scene.nth(scene.get("/a").header("Foo", "1")), 1);
    assert_eq!(scene.nth(scene.get("/a").header("Foo", "1")), 1);
    let validation = &scene.origin.received()[1];
    assert_eq!(validation.header("if-none-match"), Some("\"a\""));
    assert_eq!(validation.header("foo"), Some("1"));
    assert_eq!(
        scene.nth(scene.get("/a").header("Foo", "2")),
        3,
        "another variant is not validated with this one"
    );
    assert_eq!(scene.origin.received()[2].header("if-none-match"), None);
}

#[test]
fn what_was_selected_by_something_that_the_gateway_says_is_not_given_to_others() {
    for field in ["X-Forwarded-For", "X-Request-Id", "Forwarded", "traceparent"] {
        let scene = Scene::of(move |_, _| fresh(60, &format!("Vary: {field}\r\n")));
        assert!(!scene.keeps("/a"), "{field}");
    }
}
