use std::time::Duration;

use proptest::prelude::*;

use super::super::tests::{at, fields};
use super::*;

fn of(line: &str) -> ResponseDirectives {
    ResponseDirectives::of(&fields(&[("cache-control", line)]))
}

fn asked(line: &str) -> RequestDirectives {
    RequestDirectives::of(&fields(&[("cache-control", line)]))
}

/// RFC 9111 section 5.2, and 4.2.1 for what can not be read.
#[test]
fn a_lifetime_is_a_number_and_anything_else_is_no_time() {
    for (line, expected) in [
        ("max-age=100", Some(Seconds::Said(100))),
        ("MAX-AGE=100", Some(Seconds::Said(100))),
        ("a, max-age=100 ,b", Some(Seconds::Said(100))),
        ("max-age=\"100\"", Some(Seconds::Said(100))),
        ("max-age=000100", Some(Seconds::Said(100))),
        ("max-age=0", Some(Seconds::Said(0))),
        ("max-age=2147483649", Some(Seconds::Said(LONGEST))),
        ("max-age=99999999999999999999999999999", Some(Seconds::Said(LONGEST))),
        ("max-age=100, max-age=50", Some(Seconds::Said(50))),
        ("max-age=50, max-age=100", Some(Seconds::Said(50))),
        ("max-age='100'", Some(Seconds::Invalid)),
        ("max-age=-100", Some(Seconds::Invalid)),
        ("max-age=+100", Some(Seconds::Invalid)),
        ("max-age=100.5", Some(Seconds::Invalid)),
        ("max-age=1e3", Some(Seconds::Invalid)),
        ("max-age=100s", Some(Seconds::Invalid)),
        ("max-age", Some(Seconds::Invalid)),
        ("max-age=", Some(Seconds::Invalid)),
        ("max-age=\"\"", Some(Seconds::Invalid)),
        ("max-age=\"100", Some(Seconds::Invalid)),
        ("max-age =100", Some(Seconds::Invalid)),
        ("max-age= 100", Some(Seconds::Invalid)),
        ("max-age=100 200", Some(Seconds::Invalid)),
        ("max-age=100; public", Some(Seconds::Invalid)),
        ("max-age=100, max-age=x", Some(Seconds::Invalid)),
        ("x-max-age=100", None),
        ("extension=\"max-age=3600, x\"", None),
        ("extension=\"a, max-age=3600\"", None),
    ] {
        assert_eq!(of(line).max_age, expected, "{line}");
    }
}

#[test]
fn several_lines_are_one_list() {
    let lines = fields(&[
        ("cache-control", "max-age=5, foo=\"a"),
        ("cache-control", "No-Store, b\""),
    ]);
    let directives = ResponseDirectives::of(&lines);
    assert_eq!(directives.max_age, Some(Seconds::Said(5)));
    // A quote that is open at the end of a line hides nothing on the next.
    assert!(directives.no_store);
}

#[test]
fn what_forbids_is_heard_in_any_spelling_and_what_permits_in_one() {
    for line in [
        "no-store",
        "NO-STORE",
        "no-store=1",
        "no-store x",
        "max-age=1; no-store",
        "x no-store =",
        "no-store=\"a",
    ] {
        assert!(of(line).no_store, "{line}");
    }
    assert!(!of("x-no-store, no-stored, x=\"no-store\"").no_store);
    for line in ["public", "Public", "a,public"] {
        assert!(of(line).public && of(line).permits_authorized, "{line}");
    }
    for line in [
        "public=1",
        "public;",
        "x public",
        "must-revalidate x",
        "s-maxage=x",
        "proxy-revalidate",
        "x=\"public\"",
    ] {
        assert!(!of(line).public && !of(line).permits_authorized, "{line}");
    }
    assert!(of("must-revalidate x").must_revalidate);
}

/// RFC 9111 sections 5.2.2.4 and 5.2.2.7.
#[test]
fn no_cache_and_private_are_said_of_fields_or_of_the_whole_answer() {
    let names = |line: &str| -> Vec<String> { of(line).withheld().map(ToString::to_string).collect() };
    assert_eq!(names("no-cache=\"Set-Cookie, x\", private=y"), ["set-cookie", "x", "y"]);
    for line in [
        "no-cache",
        "no-cache=\"\"",
        "no-cache=\"a b\"",
        "no-cache=\"a\\b\"",
        "no-cache=\"a\", no-cache",
        "no-cache=",
    ] {
        assert!(of(line).no_cache.is_whole(), "{line}");
    }
    assert!(of("private=\"a\", private").private.is_whole());
    assert!(of("private, private=\"a\"").private.is_whole());
}

/// RFC 9213 section 2.1.
#[test]
fn a_field_for_us_replaces_cache_control_unless_it_is_malformed_or_empty() {
    let of = |targeted: &str| {
        ResponseDirectives::of(&fields(&[
            ("cache-control", "no-store"),
            ("cdn-cache-control", targeted),
        ]))
    };
    let directives = of("max-age=60;a=1, private=\"x\", must-revalidate, foo");
    assert!(directives.is_targeted && !directives.no_store && directives.must_revalidate);
    assert_eq!(directives.max_age, Some(Seconds::Said(60)));
    assert_eq!(directives.private.fields(), ["x"]);
    // The last of two members is the one (RFC 8941 section 3.2).
    assert_eq!(of("max-age=1, max-age=60").max_age, Some(Seconds::Said(60)));
    for wrong_type in [
        "max-age=\"60\"",
        "max-age=60.5",
        "max-age=-60",
        "max-age",
        "max-age=(60)",
        "max-age=a",
        "max-age=?0",
    ] {
        assert_eq!(of(wrong_type).max_age, Some(Seconds::Invalid), "{wrong_type}");
    }
    assert!(of("max-age=1, no-store").no_store && of("no-store=1").no_store);
    assert!(!of("max-age=1, no-store=?0").no_store);
    for ignored in [
        "",
        " ",
        "max-age=60,",
        "max-age =60",
        "max-age= 60",
        "MAX-AGE=60",
        "max-age='60'",
        "&&&",
        "max-age=60; &",
    ] {
        let directives = of(ignored);
        assert!(directives.no_store && !directives.is_targeted, "{ignored}");
    }
}

#[test]
fn a_field_for_us_may_stand_on_several_lines() {
    let lines = fields(&[("cdn-cache-control", "max-age=60"), ("cdn-cache-control", "no-store")]);
    assert!(ResponseDirectives::of(&lines).no_store);
}

#[test]
fn pragma_counts_in_requests_without_cache_control_and_in_no_answer() {
    assert!(RequestDirectives::of(&fields(&[("pragma", "foo, No-Cache")])).no_cache);
    assert!(!RequestDirectives::of(&fields(&[("pragma", "foo")])).no_cache);
    assert!(!RequestDirectives::of(&fields(&[("pragma", "no-cache"), ("cache-control", "max-age=1")])).no_cache);
    assert_eq!(
        ResponseDirectives::of(&fields(&[("pragma", "no-cache")])),
        ResponseDirectives::default()
    );
}

/// RFC 9111 section 5.2.1.
#[test]
fn a_client_says_what_it_takes() {
    // Made 20 seconds ago, fresh for 10 more; later stale for 10.
    let lifetime = Lifetime {
        born: at(0),
        fresh_until: at(30),
        stale_while_revalidate: 0,
        stale_if_error: 0,
        must_revalidate: false,
        explicit: true,
    };
    use Acceptance::{AsIs, Stale, Validate};
    for (line, fresh, stale) in [
        ("", AsIs, Validate),
        ("no-cache", Validate, Validate),
        ("no-cache, max-stale", Validate, Validate),
        ("max-age=0", Validate, Validate),
        ("max-age=19", Validate, Validate),
        ("max-age=20", AsIs, Validate),
        ("max-age=x", Validate, Validate),
        ("max-age=50, max-age=1", Validate, Validate),
        ("max-age=39, max-stale", AsIs, Validate),
        ("max-age=40, max-stale", AsIs, Stale),
        ("min-fresh=10", AsIs, Validate),
        ("min-fresh=11", Validate, Validate),
        ("min-fresh=x", Validate, Validate),
        ("max-stale", AsIs, Stale),
        ("max-stale=10", AsIs, Stale),
        ("max-stale=\"10\"", AsIs, Stale),
        ("max-stale=9", AsIs, Validate),
        ("max-stale=x", AsIs, Validate),
        ("max-stale, max-stale=9", AsIs, Validate),
        ("max-stale, min-fresh=1", AsIs, Validate),
    ] {
        assert_eq!(asked(line).accepts(&lifetime, at(20)), fresh, "{line}");
        assert_eq!(asked(line).accepts(&lifetime, at(40)), stale, "{line}, stale");
        let strict = Lifetime {
            must_revalidate: true,
            ..lifetime
        };
        assert_eq!(
            asked(line).accepts(&strict, at(40)),
            Validate,
            "{line}, must-revalidate"
        );
    }
    assert_eq!(
        asked("").accepts(&lifetime, at(30)),
        Validate,
        "fresh is what is younger than its lifetime"
    );
    assert_eq!(asked("").accepts(&lifetime, at(30) - Duration::from_millis(1)), AsIs);
    assert!(asked("only-if-cached").only_if_cached && asked("No-Store").no_store);
}

proptest! {
    #[test]
    fn nothing_beside_no_store_takes_it_away(before in "[ -~]{0,30}", after in "[ !#-~]{0,30}") {
        // Quotes on both sides could be one quoted string with all of it inside, and that has no directives.
        let line = format!("{before},no-store,{after}");
        prop_assert!(of(&line).no_store);
    }

    #[test]
    fn any_bytes_are_read(line in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(value) = HeaderValue::from_bytes(&line) {
            let mut headers = HeaderMap::new();
            headers.append(CACHE_CONTROL, value.clone());
            headers.append(CDN_CACHE_CONTROL, value);
            let _ = (ResponseDirectives::of(&headers), RequestDirectives::of(&headers));
        }
    }
}
