use proptest::prelude::*;

use super::super::tests::{answer, at, before, fields, policy, written};
use super::*;

/// What becomes of an answer that was asked for and arrived at once.
fn judged<V: AsRef<[u8]>>(status: u16, lines: &[(&str, V)], policy: &Policy) -> Result<Lifetime, WhyNot> {
    judged_for(&HeaderMap::new(), status, lines, policy)
}

fn judged_for<V: AsRef<[u8]>>(
    request: &HeaderMap,
    status: u16,
    lines: &[(&str, V)],
    policy: &Policy,
) -> Result<Lifetime, WhyNot> {
    let asked = Asked {
        method: &Method::GET,
        headers: request,
        at: at(0),
        is_authorized: request.contains_key("authorization"),
    };
    storability(&asked, &answer(status, lines), at(0), policy, 0.5)
}

/// Seconds for which an answer is fresh from its arrival on.
fn fresh<V: AsRef<[u8]>>(lines: &[(&str, V)]) -> i64 {
    judged(200, lines, &policy()).unwrap().remaining(at(0))
}

/// RFC 9111 section 4.2.1.
#[test]
fn the_first_that_says_how_long_an_answer_is_fresh_is_heard() {
    let expires = written(at(40));
    let date = written(at(0));
    let lines = |cache_control: &'static str| {
        fresh(&[
            ("cache-control", cache_control),
            ("expires", expires.as_str()),
            ("date", date.as_str()),
        ])
    };
    assert_eq!(lines("max-age=20, s-maxage=10"), 10);
    assert_eq!(lines("s-maxage=20, max-age=10"), 20);
    assert_eq!(lines("max-age=20"), 20);
    assert_eq!(lines("foo"), 40);
    assert_eq!(fresh::<&str>(&[]), 300);
    assert_eq!(
        fresh(&[
            ("cdn-cache-control", "max-age=7"),
            ("cache-control", "no-store"),
            ("expires", "0")
        ]),
        7
    );
    assert_eq!(
        fresh(&[
            ("cdn-cache-control", "foo"),
            ("cache-control", "no-store"),
            ("expires", "0")
        ]),
        300
    );
    assert_eq!(fresh(&[("pragma", "no-cache"), ("cache-control", "max-age=9")]), 9);
    assert_eq!(
        fresh(&[("expires", expires.as_str())]),
        40,
        "without a date, from its arrival on"
    );
    assert_eq!(fresh(&[("expires", expires.as_str()), ("date", "x")]), 40);
}

#[test]
fn an_answer_that_is_stale_at_once_is_kept_where_it_can_be_validated() {
    let date = written(at(0));
    let past = written(before(1));
    for said in [
        ("cache-control", "max-age=0"),
        ("cache-control", "s-maxage=0, max-age=10"),
        ("cache-control", "max-age=x"),
        ("cache-control", "no-cache"),
        ("cache-control", "no-cache, max-age=10"),
        ("expires", "0"),
        ("expires", past.as_str()),
        ("expires", date.as_str()),
        (
            "expires",
            "Thu, 01 Dec 1994 16:00:00 GMT, Thu, 01 Dec 1994 16:00:00 GMT",
        ),
    ] {
        let lines = [said, ("date", date.as_str())];
        assert_eq!(judged(200, &lines, &policy()), Err(WhyNot::NeverFresh), "{said:?}");
        for validator in [("etag", "\"a\""), ("last-modified", past.as_str())] {
            let kept = judged(200, &[said, ("date", date.as_str()), validator], &policy()).unwrap();
            assert!(!kept.is_fresh(at(0)), "{said:?} {validator:?}");
        }
    }
    let twice = [
        ("expires", "Thu, 01 Dec 1994 16:00:00 GMT"),
        ("expires", "Thu, 01 Dec 1994 16:00:00 GMT"),
    ];
    assert_eq!(judged(200, &twice, &policy()), Err(WhyNot::NeverFresh));
    let windowed = [("cache-control", "max-age=0, stale-while-revalidate=5")];
    assert_eq!(judged(200, &windowed, &policy()).unwrap().stale_while_revalidate, 5);
}

/// RFC 9111 section 4.2.3.
#[test]
fn the_age_is_the_larger_of_what_is_said_and_what_the_date_shows() {
    let age = |lines: &[(&str, &str)], took: u64| {
        let headers = HeaderMap::new();
        let asked = Asked {
            method: &Method::GET,
            headers: &headers,
            at: at(0),
            is_authorized: false,
        };
        let mut all = vec![("cache-control", "max-age=1000")];
        all.extend(lines);
        let kept = storability(&asked, &answer(200, &all), at(took), &policy(), 0.0).unwrap();
        (kept.age(at(took)).as_secs(), kept.remaining(at(took)))
    };
    let old = written(before(50));
    let older = written(before(60));
    let ahead = written(at(50));
    assert_eq!(age(&[], 0), (0, 1000));
    assert_eq!(
        age(&[], 3),
        (3, 997),
        "the time that it took, it may have been under way"
    );
    assert_eq!(age(&[("age", "30")], 3), (33, 967));
    assert_eq!(age(&[("age", "0030")], 0), (30, 970));
    assert_eq!(age(&[("date", old.as_str())], 3), (53, 947));
    assert_eq!(age(&[("date", old.as_str()), ("age", "52")], 3), (55, 945));
    assert_eq!(
        age(&[("date", old.as_str()), ("date", older.as_str())], 0),
        (60, 940),
        "the oldest of two dates"
    );
    assert_eq!(age(&[("date", ahead.as_str())], 0), (0, 1000));
    let (seconds, left) = age(&[("age", "99999999999999999999"), ("etag", "\"a\"")], 0);
    assert!(seconds >= 784_000_000 && left < 0, "{seconds} {left}");
}

/// RFC 9111 section 5.1.
#[test]
fn of_several_ages_the_first_counts_and_one_that_is_no_age_is_ignored() {
    let age = |values: &[&'static str]| {
        let mut lines = vec![("cache-control", "max-age=100")];
        lines.extend(values.iter().map(|value| ("age", *value)));
        judged(200, &lines, &policy()).unwrap().age(at(0)).as_secs()
    };
    for value in [
        "x", "-50", "+50", "50.0", "50s", "", "'50'", "\"50\"", "5 0", "50;a=b", "x, 50",
    ] {
        assert_eq!(age(&[value]), 0, "{value}");
    }
    assert_eq!(age(&["50, 0"]), 50);
    assert_eq!(age(&["0, 50"]), 0);
    assert_eq!(age(&["50", "0"]), 50);
    assert_eq!(age(&["0", "50"]), 0);
    assert_eq!(age(&["50", "x"]), 50);
}

/// RFC 9111 section 4.2.2, RFC 9110 section 15.1.
#[test]
fn what_says_nothing_is_fresh_for_as_long_as_the_operator_says_where_its_status_allows_it() {
    for (status, seconds) in [
        (200, Ok(300)),
        (203, Ok(300)),
        (204, Ok(300)),
        (300, Ok(300)),
        (301, Ok(300)),
        (308, Ok(300)),
        (404, Ok(10)),
        (405, Ok(10)),
        (410, Ok(10)),
        (414, Ok(10)),
        (501, Ok(10)),
        (201, Err(WhyNot::Status)),
        (206, Err(WhyNot::Partial)),
        (299, Err(WhyNot::Status)),
        (302, Err(WhyNot::Status)),
        (304, Err(WhyNot::Partial)),
        (307, Err(WhyNot::Status)),
        (400, Err(WhyNot::Status)),
        (403, Err(WhyNot::Status)),
        (500, Err(WhyNot::Status)),
        (503, Err(WhyNot::Status)),
    ] {
        let seen = judged::<&str>(status, &[], &policy()).map(|kept| kept.remaining(at(0)));
        assert_eq!(seen, seconds, "{status}");
    }
}

#[test]
fn what_has_not_changed_for_long_is_fresh_for_a_tenth_of_that() {
    let date = written(at(0));
    let modified = |time: SystemTime| fresh(&[("date", date.as_str()), ("last-modified", written(time).as_str())]);
    assert_eq!(modified(before(1_000)), 100);
    assert_eq!(modified(before(1_000_000)), 300);
    assert!(modified(at(100)) <= 0, "a change that is still to come");
    assert_eq!(fresh(&[("last-modified", "yesterday")]), 300);
}

#[test]
fn any_final_answer_is_kept_that_says_how_long_except_parts_and_validations() {
    for status in [
        200, 201, 203, 204, 299, 301, 302, 307, 399, 400, 403, 404, 410, 416, 499, 500, 502, 503, 504, 599,
    ] {
        for line in [("cache-control", "max-age=20"), ("cache-control", "s-maxage=20")] {
            assert_eq!(
                judged(status, &[line], &policy()).unwrap().remaining(at(0)),
                20,
                "{status}"
            );
        }
        assert!(
            judged(status, &[("cache-control", "public")], &policy()).is_ok(),
            "{status}"
        );
        assert!(
            judged(status, &[("expires", written(at(9)))], &policy()).is_ok(),
            "{status}"
        );
    }
    for status in [206, 304, 600, 999] {
        assert_eq!(
            judged(status, &[("cache-control", "max-age=20")], &policy()),
            Err(WhyNot::Partial),
            "{status}"
        );
    }
    assert_eq!(
        judged(302, &[("expires", "0"), ("etag", "\"a\"")], &policy()),
        Err(WhyNot::Status)
    );
}

/// RFC 9111 section 5.2.2.3.
#[test]
fn who_must_understand_keeps_what_it_understands_in_spite_of_no_store() {
    let line = [("cache-control", "max-age=20, no-store, must-understand")];
    assert!(judged(200, &line, &policy()).is_ok() && judged(404, &line, &policy()).is_ok());
    assert_eq!(judged(299, &line, &policy()), Err(WhyNot::NotUnderstood));
    assert_eq!(judged(599, &line, &policy()), Err(WhyNot::NotUnderstood));
}

#[test]
fn what_is_forbidden_is_not_kept() {
    let fresh = ("cache-control", "max-age=20");
    for (lines, why) in [
        (vec![("cache-control", "max-age=20, no-store")], WhyNot::NoStore),
        (vec![fresh, ("cache-control", "NO-STORE")], WhyNot::NoStore),
        (vec![("cache-control", "private, max-age=20")], WhyNot::Private),
        (vec![("cache-control", "private, s-maxage=20")], WhyNot::Private),
        (vec![fresh, ("vary", "*")], WhyNot::Vary),
        (vec![fresh, ("vary", "a, *")], WhyNot::Vary),
        (vec![fresh, ("vary", "a b")], WhyNot::Vary),
        (vec![fresh, ("set-cookie", "a=b")], WhyNot::SetCookie),
    ] {
        assert_eq!(judged(200, &lines, &policy()), Err(why), "{lines:?}");
    }
    let headers = HeaderMap::new();
    for method in [Method::HEAD, Method::POST, Method::PUT, Method::OPTIONS] {
        let asked = Asked {
            method: &method,
            headers: &headers,
            at: at(0),
            is_authorized: false,
        };
        assert_eq!(
            storability(&asked, &answer(200, &[fresh]), at(0), &policy(), 0.0),
            Err(WhyNot::Method)
        );
    }
}

#[test]
fn a_client_that_says_no_store_is_heard_where_clients_are() {
    let request = fields(&[("cache-control", "no-store")]);
    let mut policy = policy();
    assert_eq!(
        judged_for::<&str>(&request, 200, &[], &policy),
        Err(WhyNot::RequestNoStore)
    );
    policy.client_directives = false;
    assert!(judged_for::<&str>(&request, 200, &[], &policy).is_ok());
}

#[test]
fn an_answer_to_a_failed_condition_is_for_its_request_alone() {
    let lines = [("cache-control", "max-age=20")];
    let conditional = fields(&[("if-none-match", "*")]);
    assert_eq!(
        judged_for(&conditional, 412, &lines, &policy()),
        Err(WhyNot::Conditional)
    );
    assert!(judged_for(&conditional, 200, &lines, &policy()).is_ok());
    assert_eq!(
        judged_for(&fields(&[("range", "bytes=9-")]), 416, &lines, &policy()),
        Err(WhyNot::Conditional)
    );
}

/// RFC 9111 section 3.5.
#[test]
fn what_a_caller_was_given_with_authorization_is_kept_only_where_that_is_said() {
    let request = fields(&[("authorization", "Bearer a")]);
    let judged = |cache_control: &str, policy: &Policy| {
        judged_for(&request, 200, &[("cache-control", cache_control)], policy).map(|_| ())
    };
    for line in [
        "max-age=20",
        "max-age=20, proxy-revalidate",
        "max-age=20, must-revalidate=1",
        "s-maxage=x, max-age=20",
    ] {
        assert_eq!(judged(line, &policy()), Err(WhyNot::Authorization), "{line}");
    }
    for line in ["max-age=20, public", "s-maxage=20", "max-age=20, must-revalidate"] {
        assert_eq!(judged(line, &policy()), Ok(()), "{line}");
    }
    let mut policy = policy();
    policy.authorized = true;
    assert_eq!(
        judged("max-age=20", &policy),
        Err(WhyNot::Authorization),
        "shared by everyone"
    );
    policy.share = Share::Application;
    assert_eq!(
        judged("max-age=20", &policy),
        Err(WhyNot::Authorization),
        "shared by an application"
    );
    policy.share = Share::Caller;
    assert_eq!(judged("max-age=20", &policy), Ok(()));
}

#[test]
fn a_cookie_is_kept_only_where_the_operator_and_the_origin_want_it() {
    let mut policy = policy();
    let named = [
        ("cache-control", "max-age=20, no-cache=\"Set-Cookie\""),
        ("set-cookie", "a=b"),
    ];
    assert!(judged(200, &named, &policy).is_ok(), "it is not kept, the rest is");
    policy.set_cookie = true;
    assert!(judged(200, &[("cache-control", "max-age=20"), ("set-cookie", "a=b")], &policy).is_ok());
    for lines in [
        vec![("set-cookie", "a=b")],
        vec![("cache-control", "max-age=x"), ("set-cookie", "a=b")],
    ] {
        assert_eq!(judged(200, &lines, &policy), Err(WhyNot::SetCookie));
    }
}

/// RFC 9111 section 4.2.4, RFC 5861.
#[test]
fn stale_use_is_what_the_origin_says_or_else_the_operator_and_some_directives_forbid_it() {
    let mut policy = policy();
    policy.stale_while_revalidate = Duration::from_secs(7);
    policy.stale_if_error = Duration::from_secs(8);
    let windows = |line: &str| {
        let kept = judged(200, &[("cache-control", line), ("etag", "\"a\"")], &policy).unwrap();
        (kept.stale_while_revalidate, kept.stale_if_error, kept.must_revalidate)
    };
    assert_eq!(windows("max-age=1"), (7, 8, false));
    assert_eq!(
        windows("max-age=1, stale-while-revalidate=3, stale-if-error=4"),
        (3, 4, false)
    );
    assert_eq!(
        windows("max-age=1, stale-while-revalidate=0, stale-if-error=x"),
        (0, 0, false)
    );
    assert_eq!(
        windows("max-age=0"),
        (0, 8, false),
        "the operator's first window is for what was fresh once"
    );
    for strict in [
        "must-revalidate",
        "proxy-revalidate",
        "s-maxage=5",
        "no-cache",
        "s-maxage=x",
    ] {
        let line = format!("max-age=1, stale-while-revalidate=3, stale-if-error=4, {strict}");
        assert_eq!(windows(&line), (0, 0, true), "{strict}");
    }
}

#[test]
fn a_lifetime_has_a_ceiling_and_jitter_that_never_makes_longer_what_the_origin_said() {
    let mut policy = policy();
    policy.jitter = 0.1;
    let left = |line: &str, dice: f64, policy: &Policy| {
        let headers = HeaderMap::new();
        let asked = Asked {
            method: &Method::GET,
            headers: &headers,
            at: at(0),
            is_authorized: false,
        };
        let lines = [("cache-control", line), ("etag", "\"a\"")];
        storability(&asked, &answer(200, &lines), at(0), policy, dice)
            .unwrap()
            .remaining(at(0))
    };
    assert_eq!(
        [
            left("x", 0.0, &policy),
            left("x", 0.5, &policy),
            left("x", 1.0, &policy)
        ],
        [270, 300, 330]
    );
    assert_eq!(
        [left("max-age=100", 0.0, &policy), left("max-age=100", 1.0, &policy)],
        [100, 90]
    );
    assert_eq!(
        [left("max-age=9999", 0.0, &policy), left("max-age=9999", 1.0, &policy)],
        [3_600, 3_240]
    );
    assert_eq!(
        [left("max-age=1", 1.0, &policy), left("max-age=0", 1.0, &policy)],
        [1, 0]
    );
    policy.ttl_max = Duration::ZERO;
    assert_eq!(left("max-age=100", 0.0, &policy), 0);
    assert_eq!(left("x", 1.0, &policy), 0);
}

/// Lines that no directive, date or name of a field can be read from.
fn junk() -> impl Strategy<Value = (&'static str, String)> {
    let name = proptest::sample::select(vec![
        "cache-control",
        "cdn-cache-control",
        "age",
        "expires",
        "date",
        "vary",
        "pragma",
    ]);
    (name, r#"[a-f"=, \\;\-.]{0,16}"#)
}

fn sound() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let lines = [
        ("cache-control", "max-age=100"),
        ("cache-control", "no-store"),
        ("cache-control", "private"),
        ("cache-control", "s-maxage=50, stale-if-error=9"),
        ("cache-control", "stale-while-revalidate=9"),
        ("cache-control", "must-revalidate"),
        ("cache-control", "no-cache"),
        ("cdn-cache-control", "max-age=70"),
        ("age", "10"),
        ("date", "Sun, 06 Nov 1994 08:49:30 GMT"),
        ("expires", "Sun, 06 Nov 1994 09:49:30 GMT"),
        ("last-modified", "Sun, 06 Nov 1994 07:49:30 GMT"),
        ("vary", "accept"),
        ("set-cookie", "a=b"),
        ("etag", "\"a\""),
    ];
    let lines = lines.map(|(name, value)| (name, value.to_owned())).to_vec();
    proptest::sample::subsequence(lines, 0..=6)
}

proptest! {
    #[test]
    fn junk_never_makes_an_answer_easier_to_use(
        sound in sound(),
        junk in junk(),
        in_front in any::<bool>(),
        status in proptest::sample::select(vec![200_u16, 302, 404, 503, 599]),
    ) {
        // A dictionary that is well formed, or is no longer, changes which fields count: that is its sense.
        let is_sound_dictionary = sfv::Parser::parse_dictionary(junk.1.as_bytes()).is_ok_and(|read| !read.is_empty());
        let has_dictionary = sound.iter().any(|line| line.0 == "cdn-cache-control");
        prop_assume!(junk.0 != "cdn-cache-control" || !(is_sound_dictionary || has_dictionary));
        // Of several ages the first counts, and is ignored if it is none (RFC 9111 section 5.1).
        prop_assume!(junk.0 != "age" || !in_front);
        let policy = policy();
        let without = judged(status, &sound, &policy);
        let mut lines = sound.clone();
        lines.insert(if in_front { 0 } else { lines.len() }, junk);
        match (without, judged(status, &lines, &policy)) {
            (_, Err(_)) => {}
            (Ok(without), Ok(with)) => {
                prop_assert!(with.fresh_until <= without.fresh_until);
                prop_assert!(with.born <= without.born);
                prop_assert!(with.must_revalidate >= without.must_revalidate);
                prop_assert!(with.stale_while_revalidate <= without.stale_while_revalidate);
                prop_assert!(with.stale_if_error <= without.stale_if_error);
            }
            (Err(why), Ok(_)) => return Err(TestCaseError::fail(format!("was not kept because of {why:?}"))),
        }
    }

    #[test]
    fn no_store_stands_whatever_is_beside_it(before in "[ -~]{0,30}", after in "[ !#-~]{0,30}") {
        prop_assume!(!format!("{before}{after}").to_ascii_lowercase().contains("must-understand"));
        let line = format!("{before},no-store,{after}");
        prop_assert!(judged(200, &[("cache-control", line)], &policy()).is_err());
    }

    #[test]
    fn an_age_never_goes_back(
        age in "[0-9a-f,]{0,12}",
        date in 0_u64..2_000_000_000,
        took in 0_u64..100,
        moments in proptest::collection::vec(0_u64..100_000, 2..6),
    ) {
        let date = written(SystemTime::UNIX_EPOCH + Duration::from_secs(date));
        let headers = HeaderMap::new();
        let asked = Asked { method: &Method::GET, headers: &headers, at: at(0), is_authorized: false };
        let lines = [("age", age.as_str()), ("date", date.as_str()), ("cache-control", "max-age=9"), ("etag", "\"a\"")];
        let kept = storability(&asked, &answer(200, &lines), at(took), &policy(), 0.0).unwrap();
        prop_assert!(kept.age(at(took)) >= Duration::from_secs(took), "it is as old as its way was long");
        let mut moments = moments;
        moments.sort_unstable();
        for pair in moments.windows(2) {
            prop_assert!(kept.age(at(took + pair[0])) <= kept.age(at(took + pair[1])));
            prop_assert!(kept.remaining(at(took + pair[0])) >= kept.remaining(at(took + pair[1])));
            prop_assert!(kept.is_fresh(at(took + pair[0])) || !kept.is_fresh(at(took + pair[1])), "stale stays stale");
        }
    }

    #[test]
    fn any_bytes_are_judged(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 8), dice in any::<f64>()) {
        let names = ["cache-control", "cdn-cache-control", "age", "expires", "date", "last-modified", "vary", "set-cookie"];
        let headers = HeaderMap::new();
        let asked = Asked { method: &Method::GET, headers: &headers, at: at(0), is_authorized: true };
        let lines: Vec<_> = names
            .into_iter()
            .zip(values)
            .filter(|(_, value)| http::HeaderValue::from_bytes(value).is_ok())
            .collect();
        let _ = storability(&asked, &answer(200, &lines), at(0), &policy(), dice);
    }
}
