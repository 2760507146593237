//! What APIs and routes say about keeping answers: what is read, and what is refused.

use super::super::super::{CacheShare, Caching, RouteCaching};
use super::*;
use crate::cache::Policy;
use crate::cache::policy::{self, Methods};

/// A revision with an API of these lines, in flow style, in lines 5 and 6.
fn with(lines: &str) -> String {
    format!("{ISSUER}{BASE_LINES}  - {{ name: a, base_path: /a, upstream: u, {lines} }}\n")
}

const ISSUER: &str = "version: 1\nissuers: [{ name: corp, issuer: i, audience: [a], algorithms: [ES256], jwks: { url: \"https://i/k\" } }]\n";
const BASE_LINES: &str = "upstreams: [{ name: u, endpoints: [{ address: \"127.0.0.1:1\" }] }]\napis:\n";

/// What is kept of the route at this position.
fn policy(loaded: &Loaded, route: usize) -> Option<Policy> {
    let api = &loaded.revision.apis[0];
    Policy::compile(api, &api.routes[route])
}

#[track_caller]
fn says(lines: &str, expected: &str) {
    let found = mistakes(&with(lines));
    assert!(found.contains(expected), "{found}\ndoes not say: {expected}");
    let placed = found.lines().all(|line| line.starts_with("r.yaml:5:"));
    assert!(placed, "{found}\nis somewhere else");
}

#[test]
fn without_a_word_nothing_is_kept_and_an_empty_mapping_is_the_cache_with_its_defaults() {
    let silent = loaded(&with("auth: none"));
    assert_eq!(silent.revision.apis[0].cache, None);
    assert!(policy(&silent, 0).is_none());

    let default = loaded(&with("auth: none, cache: {}"));
    let expected = Caching {
        get: true,
        head: true,
        ttl: Duration::from_secs(300),
        negative_ttl: Duration::from_secs(10),
        max_ttl: Duration::from_secs(3600),
        jitter: Ratio::percent(10),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        refresh_ahead: Ratio::ZERO,
        body_bytes: 1 << 20,
        share: CacheShare::Everyone,
        authorized: false,
        set_cookie: true,
        client_directives: true,
        cache_status: true,
    };
    assert_eq!(default.revision.apis[0].cache.as_deref(), Some(&expected));
    for route in 0..2 {
        let running = policy(&default, route).unwrap();
        assert_eq!(running.methods, Methods { get: true, head: true });
        assert_eq!(running.share, policy::Share::Everyone);
        assert!((running.jitter - 0.1).abs() < 1e-9);
        assert_eq!(&*running.place.api, "a");
    }
}

#[test]
fn everything_that_can_be_said_of_the_cache_is_read() {
    let read = loaded(&with(
        "auth: [{ jwt: corp }], cache: { methods: [GET], ttl: 1m, negative_ttl: 0s, max_ttl: 2h, jitter: 0, \
         stale_while_revalidate: 10s, stale_if_error: 1d, refresh_ahead: 12.5%, body_bytes: 64MiB, share: caller, \
         authorized: true, set_cookie: false, client_directives: false, cache_status: false }",
    ));
    let expected = Policy {
        methods: Methods { get: true, head: false },
        ttl: Duration::from_secs(60),
        negative_ttl: Duration::ZERO,
        ttl_max: Duration::from_secs(7200),
        jitter: 0.0,
        stale_while_revalidate: Duration::from_secs(10),
        stale_if_error: Duration::from_secs(86_400),
        refresh_ahead: 0.125,
        body_bytes: 64 << 20,
        share: policy::Share::Caller,
        authorized: true,
        set_cookie: false,
        client_directives: false,
        tell: false,
        place: policy::Place {
            api: "a".into(),
            route: "/a".into(),
        },
    };
    assert_eq!(policy(&read, 0), Some(expected));
}

#[test]
fn callers_share_nothing_unless_it_is_said() {
    let share = |lines: &str| policy(&loaded(&with(lines)), 0).unwrap().share;
    assert_eq!(share("auth: [{ jwt: corp }], cache: {}"), policy::Share::Caller);
    assert_eq!(
        share("auth: [{ jwt: corp }], cache: { share: application }"),
        policy::Share::Application
    );
    assert_eq!(
        share("auth: [{ jwt: corp }], cache: { share: everyone }"),
        policy::Share::Everyone
    );
}

#[test]
fn what_a_route_says_replaces_all_that_its_api_says_and_off_is_off() {
    let read = loaded(&with(
        "auth: none, cache: { ttl: 1m, stale_if_error: 1m }, routes: [
        { path: /as-the-api }, { path: /own, cache: { ttl: 5s } }, { path: /off, cache: off }, { path: /no, cache: false },
        { path: /here, respond: { body: a } }, { path: /there, redirect: { to: /b } }, { path: /write, methods: [POST] },
        { path: /read, methods: [GET, POST] }, { path: /head, methods: [HEAD] }, { path: /moved, rewrite: /c } ]",
    ));
    let seconds = |route| {
        policy(&read, route).map(|policy| (policy.ttl.as_secs(), policy.stale_if_error.as_secs(), policy.methods))
    };
    let both = Methods { get: true, head: true };
    assert_eq!(seconds(0), Some((60, 60, both)));
    assert_eq!(seconds(1), Some((5, 0, both)), "nothing is taken over from the API");
    assert_eq!(read.revision.apis[0].routes[2].cache, RouteCaching::Off);
    for nothing in 2..7 {
        assert_eq!(seconds(nothing), None, "{nothing}");
    }
    assert_eq!(
        seconds(7),
        Some((60, 60, both)),
        "a route for GET answers HEAD, and POST is not kept"
    );
    assert_eq!(seconds(8), Some((60, 60, Methods { get: false, head: true })));
    assert_eq!(seconds(9), Some((60, 60, both)));
    assert_eq!(read.warnings.to_string(), "");
}

#[test]
fn a_route_may_keep_what_its_api_does_not() {
    let read = loaded(&with("auth: none, routes: [{ path: /, cache: {} }, { path: /b }]"));
    assert!(policy(&read, 0).is_some());
    assert!(policy(&read, 1).is_none());
}

#[test]
fn caches_that_contradict_themselves_are_refused() {
    for (lines, expected) in [
        (
            "auth: none, cache: { methods: [GET, POST] }",
            "can not keep answers to POST",
        ),
        ("auth: none, cache: { methods: [] }", "empty list of methods"),
        (
            "auth: none, cache: { ttl: 2h }",
            "\"ttl\" is longer than \"max_ttl\", which is 3600 s here",
        ),
        (
            "auth: none, cache: { negative_ttl: 2m, max_ttl: 1m }",
            "\"negative_ttl\" is longer than \"max_ttl\"",
        ),
        ("auth: none, cache: { max_ttl: 31d }", "\"max_ttl\" is at most 30d"),
        ("auth: none, cache: { max_ttl: 0s }", "nothing is kept"),
        ("auth: none, cache: { jitter: 51% }", "\"jitter\" is at most 50%"),
        (
            "auth: none, cache: { refresh_ahead: 60% }",
            "\"refresh_ahead\" is at most 50%",
        ),
        ("auth: none, cache: { stale_if_error: 8d }", "at most 7d"),
        ("auth: none, cache: { stale_while_revalidate: 8d }", "at most 7d"),
        ("auth: none, cache: { body_bytes: 65MiB }", "at most 64MiB"),
        ("auth: none, cache: { body_bytes: 0B }", "at least 1B"),
        ("auth: none, cache: { share: caller }", "asks nobody for a credential"),
        (
            "auth: none, cache: { share: application }",
            "asks nobody for a credential",
        ),
        (
            "auth: none, cache: { share: all }",
            "expected one of caller, application, everyone",
        ),
        (
            "auth: [{ jwt: corp }], cache: { authorized: true, share: everyone }",
            "goes with share: caller only",
        ),
        (
            "auth: [client_certificate], cache: { authorized: true }",
            "reads no credential from Authorization",
        ),
        (
            "auth: [{ jwt: corp }], credentials: { token_header: X-Token }, cache: { authorized: true }",
            "reads no credential from Authorization",
        ),
        ("auth: none, cache: off", "expected a mapping"),
        ("auth: none, cache: { tll: 5s }", "did you mean \"ttl\"?"),
        (
            "auth: none, routes: [{ path: /, cache: { tll: 5s } }]",
            "did you mean \"ttl\"?",
        ),
        (
            "auth: none, routes: [{ path: /, cache: on }]",
            "expected `off` or a mapping",
        ),
        (
            "auth: none, routes: [{ path: /, cache: true }]",
            "expected `off` or a mapping",
        ),
        (
            "auth: none, routes: [{ path: /, cache: [] }]",
            "expected `off` or a mapping",
        ),
        ("auth: none, routes: [{ path: /, cache: { ttl: 5 } }]", "not a duration"),
        (
            "auth: none, routes: [{ path: /, respond: { body: a }, cache: {} }]",
            "both \"cache\" and \"respond\"",
        ),
        (
            "auth: none, routes: [{ path: /, redirect: { to: /b }, cache: {} }]",
            "both \"cache\" and \"redirect\"",
        ),
        (
            "auth: none, routes: [{ path: /, cache: { jitter: 60% } }]",
            "at most 50%",
        ),
    ] {
        says(lines, expected);
    }
}

#[test]
fn a_mistake_beside_the_ways_in_is_not_made_worse_by_the_cache() {
    let found = mistakes(&with(
        "auth: [{ jwt: corpp }], cache: { share: caller, authorized: true }",
    ));
    assert_eq!(found.lines().count(), 1, "{found}");
}

#[test]
fn a_cache_that_keeps_nothing_is_told() {
    for (lines, expected) in [
        (
            "auth: none, routes: [{ path: /, methods: [POST, PUT], cache: {} }]",
            "the route answers none of its methods",
        ),
        (
            "auth: none, routes: [{ path: /, methods: [HEAD], cache: { methods: [GET] } }]",
            "the route answers none of its methods",
        ),
        (
            "auth: none, cache: {}, routes: [{ path: /, cache: off }, { path: /b, respond: {} }, { path: /c, methods: [PUT] }]",
            "counts for none of its routes",
        ),
    ] {
        let warnings = loaded(&with(lines)).warnings.to_string();
        assert!(warnings.contains(expected), "{warnings}\ndoes not say: {expected}");
        assert!(warnings.starts_with("r.yaml:5:"), "{warnings}");
    }
    let quiet = loaded(&with(
        "auth: none, cache: { methods: [HEAD] }, routes: [{ path: /, methods: [GET] }]",
    ));
    assert_eq!(quiet.warnings.to_string(), "", "a route for GET answers HEAD");
}
