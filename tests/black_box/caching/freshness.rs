//! How long an answer is fresh (RFC 9111 section 4.2).

use super::*;

/// Whether an answer with these field lines is given again at once.
#[track_caller]
fn is_kept(fields: &str) -> bool {
    let fields = fields.to_owned();
    Scene::of(move |_, _| reply(200, &fields)).keeps("/a")
}

#[test]
fn an_answer_is_fresh_as_long_as_it_says() {
    assert!(is_kept("Cache-Control: max-age=60\r\n"));
    assert!(is_kept("Cache-Control: s-maxage=60\r\n"));
    assert!(is_kept(&format!("Expires: {}\r\nDate: {}\r\n", date(60), date(0))));
    assert!(is_kept("Cache-Control: MAX-AGE=60\r\n"));
    assert!(is_kept("Cache-Control: max-age=\"60\"\r\n"));
    assert!(is_kept("Cache-Control: max-age=0060\r\n"));
    assert!(is_kept(
        "Cache-Control: foo\r\nCache-Control: max-age=60, bar=\"max-age=0\"\r\n"
    ));
    assert!(is_kept("Cache-Control: max-age=99999999999999999999\r\n"));
}

#[test]
fn an_answer_that_says_that_it_is_stale_is_not_given_again() {
    let stale = [
        "Cache-Control: max-age=0\r\n".to_owned(),
        "Cache-Control: max-age=-1\r\n".to_owned(),
        "Cache-Control: max-age=1.5\r\n".to_owned(),
        "Cache-Control: max-age='60'\r\n".to_owned(),
        "Cache-Control: max-age=60s\r\n".to_owned(),
        "Cache-Control: s-maxage=0, max-age=60\r\n".to_owned(),
        "Cache-Control: max-age=60\r\nCache-Control: s-maxage=0\r\n".to_owned(),
        format!("Cache-Control: max-age=0\r\nExpires: {}\r\n", date(60)),
        format!("Expires: {}\r\n", date(-60)),
        format!("Expires: {}\r\nDate: {}\r\n", date(0), date(0)),
        "Expires: 0\r\n".to_owned(),
        "Expires: soon\r\n".to_owned(),
        // The clock of the origin is fast, and its answer is already old by it.
        format!("Expires: {}\r\nDate: {}\r\n", date(3000), date(3600)),
        "Cache-Control: extension=\"max-age=60\", max-age=0\r\n".to_owned(),
    ];
    for fields in stale {
        assert!(!is_kept(&fields), "{fields}");
    }
}

#[test]
fn s_maxage_goes_before_max_age_and_max_age_before_expires() {
    assert!(is_kept("Cache-Control: max-age=0, s-maxage=60\r\n"));
    assert!(is_kept(&format!(
        "Cache-Control: max-age=60\r\nExpires: {}\r\n",
        date(-60)
    )));
}

#[test]
fn time_spent_in_other_caches_counts() {
    assert!(is_kept("Cache-Control: max-age=60\r\nAge: 30\r\n"));
    assert!(!is_kept("Cache-Control: max-age=60\r\nAge: 60\r\n"));
    assert!(!is_kept("Cache-Control: max-age=60\r\nAge: 7200\r\n"));
    assert!(!is_kept(&format!(
        "Cache-Control: max-age=60\r\nDate: {}\r\n",
        date(-90)
    )));
    assert!(!is_kept(&format!(
        "Expires: {}\r\nDate: {}\r\nAge: 90\r\n",
        date(60),
        date(0)
    )));
}

#[test]
fn of_several_ages_the_first_counts_and_one_that_is_no_age_is_ignored() {
    for age in ["old", "-7200", "7200.0", "0, 7200", "0;x=1"] {
        assert!(is_kept(&format!("Cache-Control: max-age=60\r\nAge: {age}\r\n")), "{age}");
    }
    assert!(is_kept("Cache-Control: max-age=60\r\nAge: 0\r\nAge: 7200\r\n"));
    assert!(!is_kept("Cache-Control: max-age=60\r\nAge: 7200\r\nAge: 0\r\n"));
    assert!(!is_kept("Cache-Control: max-age=60\r\nAge: 7200, 0\r\n"));
    assert!(!is_kept("Cache-Control: max-age=60\r\nAge: 2147483649\r\n"));
}

#[test]
fn a_kept_answer_tells_its_age_and_keeps_its_date() {
    let scene = Scene::of(|_, _| fresh(600, &format!("Age: 100\r\nDate: {}\r\n", date(-20))));
    let first = scene.get("/a").send().expect(200);
    let again = scene.get("/a").send().expect(200);
    assert_eq!(again.header("date"), first.header("date"));
    let age: u64 = again.header("age").expect("an age").parse().expect("seconds");
    assert!((100..200).contains(&age), "{age}");
    assert_eq!(again.all("age").len(), 1);
}

#[test]
fn the_age_grows_and_an_answer_ends_with_its_lifetime() {
    let scene = Scene::with("{ jitter: 0% }", |_, _| fresh(3, ""));
    assert_eq!(scene.nth(scene.get("/a")), 1);
    until("the answer is a second old", || {
        let age = scene.get("/a").send().header("age").map(str::to_owned);
        age.is_some_and(|age| age != "0")
    });
    until("it is fetched anew", || scene.nth(scene.get("/a")) == 2);
    assert_eq!(scene.origin.requests(), 2);
}

#[test]
fn what_says_nothing_is_fresh_for_as_long_as_the_policy_says_if_its_status_allows_that() {
    let kept = |status: u16| Scene::of(move |_, _| reply(status, "")).keeps("/a");
    for status in [200, 203, 300, 301, 308, 404, 405, 410, 414, 501] {
        assert!(kept(status), "{status}");
    }
    for status in [
        201, 202, 302, 303, 307, 400, 401, 403, 429, 500, 502, 503, 504, 299, 599,
    ] {
        let scene = Scene::of(move |_, _| reply(status, "Cache-Control: foo\r\n"));
        scene.get("/a").send().expect(status);
        scene.get("/a").send().expect(status);
        assert!(scene.origin.requests() >= 2, "{status}");
    }
}

#[test]
fn what_says_how_long_is_kept_whatever_its_status() {
    for status in [200, 201, 203, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499] {
        let scene = Scene::of(move |_, _| Reply {
            status,
            ..fresh(60, "")
        });
        assert!(scene.keeps("/a"), "{status}");
        let scene = Scene::of(move |_, _| Reply { status, ..fresh(0, "") });
        assert!(!scene.keeps("/a"), "{status}");
    }
}

#[test]
fn last_modified_gives_a_tenth_of_the_time_since_then() {
    let scene = |changed: i64| {
        Scene::with("{ ttl: 600s }", move |_, _| {
            reply(
                200,
                &format!("Last-Modified: {}\r\nDate: {}\r\n", date(changed), date(0)),
            )
        })
    };
    assert!(scene(-3600).keeps("/a"));
    assert!(!scene(-1).keeps("/a"));
}

#[test]
fn the_ceiling_holds_whatever_the_origin_says() {
    let scene = Scene::with("{ ttl: 1s, max_ttl: 2s, jitter: 0% }", |_, _| fresh(86_400, ""));
    assert_eq!(scene.nth(scene.get("/a")), 1);
    until("it is fetched anew", || scene.nth(scene.get("/a")) == 2);
}

#[test]
fn a_field_for_caches_like_this_one_replaces_what_is_said_to_all() {
    assert!(is_kept("Cache-Control: no-store\r\nCDN-Cache-Control: max-age=60\r\n"));
    assert!(is_kept("Cache-Control: max-age=0\r\nCDN-Cache-Control: max-age=60\r\n"));
    assert!(!is_kept("Cache-Control: max-age=60\r\nCDN-Cache-Control: no-store\r\n"));
    assert!(!is_kept(
        "Cache-Control: max-age=60\r\nCDN-Cache-Control: max-age=0\r\n"
    ));
    assert!(!is_kept(&format!(
        "Expires: {}\r\nCDN-Cache-Control: max-age=0\r\n",
        date(60)
    )));
    // Malformed as a structured field: as if it were not there (RFC 9213 section 2.1).
    assert!(is_kept(
        "Cache-Control: max-age=60\r\nCDN-Cache-Control: max-age=0, &&\r\n"
    ));
}

#[test]
fn what_has_ended_is_validated_and_good_again() {
    let scene = Scene::of(|request, nth| match request.header("if-none-match") {
        Some("\"one\"") => reply(304, "Cache-Control: max-age=60\r\nETag: \"one\"\r\n"),
        _ => fresh(0, "ETag: \"one\"\r\n").with_body(&format!("fetch {nth}")),
    });
    for _ in 0..3 {
        assert_eq!(scene.get("/a").send().expect(200).text(), "fetch 1");
    }
    assert_eq!(scene.origin.requests(), 2, "the third came from the cache");
}
