//! How often somebody may call. Most limits here are per month: no test is there when one ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::*;

/// A gateway with an open API under this limit, and behind what it takes for a trusted proxy, so that a test can choose
/// the client's address.
fn limited(origin: &Origin, limit: &str) -> Gateway {
    Gateway::with(open_under(origin, limit))
        .server("trusted_proxies: [\"127.0.0.0/8\"]")
        .start()
}

fn open_under(origin: &Origin, limits: &str) -> Revision {
    Revision::of(origin).api(&format!(
        "{{ name: open, base_path: /open, auth: none, upstream: origin, limits: [{limits}] }}"
    ))
}

/// How many of so many requests are let in; all others have to be 429.
fn let_in(count: usize, request: impl Fn() -> Request) -> usize {
    (0..count)
        .filter(|_| {
            let answer = request().send();
            assert!(matches!(answer.status, 200 | 429), "{answer:?}");
            answer.status == 200
        })
        .count()
}

#[test]
fn every_kind_of_window_lets_in_so_many_and_no_more() {
    let origin = Origin::start(answer(200, ""));
    for (limit, admitted) in [
        ("{ name: l, rate: 4/month, window: fixed }", 4),
        ("{ name: l, rate: 4/month, window: sliding }", 4),
        ("{ name: l, rate: 4/month, window: token_bucket }", 4),
        ("{ name: l, rate: 4/month, window: token_bucket, burst: 6 }", 6),
        ("{ name: l, rate: 4/month }", 4),
    ] {
        let gateway = limited(&origin, limit);
        assert_eq!(let_in(8, || gateway.client().get("/open")), admitted, "{limit}");
    }
    assert_eq!(origin.requests(), 22, "what is refused does not reach the origin");
}

#[test]
fn every_kind_of_window_lets_in_again_when_its_time_has_come() {
    let origin = Origin::start(answer(200, ""));
    let kinds = ["fixed", "sliding", "token_bucket"];
    let revision = kinds.iter().fold(Revision::of(&origin), |revision, kind| {
        revision.api(&format!(
            "{{ name: {kind}, base_path: /{kind}, auth: none, upstream: origin,
                limits: [{{ name: l, rate: 2/s, window: {kind} }}] }}"
        ))
    });
    let gateway = Gateway::with(revision).start();
    let status = |kind: &str| gateway.client().get(&format!("/{kind}")).send().status;
    for kind in kinds {
        until("it is used up", || status(kind) == 429);
    }
    for kind in kinds {
        until("it is there again", || status(kind) == 200);
        until("it is used up again", || status(kind) == 429);
    }
}

#[test]
fn clients_are_told_where_they_stand_before_and_after_they_are_refused() {
    let origin = Origin::start(answer(200, ""));
    let gateway = limited(
        &origin,
        "{ name: monthly, rate: 2/month }, { name: roomy, rate: 1000/month }",
    );
    let call = || gateway.client().get("/open").header("X-Request-Id", "id-1").send();
    let policy = "\"monthly\";q=2;w=2592000, \"roomy\";q=1000;w=2592000";
    for left in ["1", "0"] {
        let answer = call().expect(200);
        assert_eq!(answer.header("ratelimit-policy"), Some(policy));
        let standing = answer.header("ratelimit").unwrap();
        assert!(standing.starts_with(&format!("\"monthly\";r={left};t=")), "{standing}");
    }

    let answer = call().expect_refusal(429, "rate_limited");
    assert_eq!(answer.header("ratelimit-policy"), Some(policy));
    let standing = answer.header("ratelimit").unwrap();
    assert!(standing.starts_with("\"monthly\";r=0;t="), "{standing}");
    let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31 * 86_400).contains(&retry_after), "{retry_after}");
    assert_eq!(standing.rsplit("t=").next().unwrap(), retry_after.to_string());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["violated-policies"], serde_json::json!(["monthly"]));
    assert_eq!(answer.json()["request_id"], "id-1");
}

#[test]
fn an_answer_keeps_what_the_origin_says_about_its_own_limits() {
    let origin =
        Origin::start(|exchange: &mut Exchange| exchange.respond(200, "RateLimit: \"theirs\";r=7;t=1\r\n", b""));
    let gateway = limited(&origin, "{ name: ours, rate: 2/month }");
    let answer = gateway.client().get("/open").send();
    let all = answer.all("ratelimit").join(", ");
    assert!(all.contains("\"theirs\";r=7") && all.contains("\"ours\";r=1"), "{all}");
}

#[test]
fn an_answer_without_limits_says_nothing_about_limits() {
    let origin = Origin::start(answer(200, ""));
    let gateway = Gateway::with(revision(&origin)).start();
    for request in [gateway.client().get("/open"), gateway.client().get("/orders").key(KEY)] {
        let answer = request.send().expect(200);
        assert_eq!(
            (answer.header("ratelimit"), answer.header("ratelimit-policy")),
            (None, None)
        );
    }
}

#[test]
fn a_limit_per_address_counts_each_client_for_itself() {
    let origin = Origin::start(answer(200, ""));
    let gateway = limited(&origin, "{ name: l, rate: 2/month, per: ip }");
    let from = |address: &str| let_in(4, || gateway.client().get("/open").header("X-Forwarded-For", address));
    assert_eq!(from("198.51.100.1"), 2);
    assert_eq!(from("198.51.100.2"), 2);
    assert_eq!(from("2001:db8::1"), 2);
    assert_eq!(from("198.51.100.1"), 0);
    // What stands further left was written by the client: it does not help.
    assert_eq!(from("203.0.113.9, 198.51.100.1"), 0);
}

#[test]
fn a_limit_per_address_is_not_fooled_by_a_stranger() {
    let origin = Origin::start(answer(200, ""));
    let gateway = Gateway::with(open_under(&origin, "{ name: l, rate: 2/month, per: ip }")).start();
    let turn = AtomicUsize::new(0);
    let disguised = || {
        let address = format!("198.51.100.{}", turn.fetch_add(1, Ordering::Relaxed));
        gateway.client().get("/open").header("X-Forwarded-For", &address)
    };
    assert_eq!(let_in(5, disguised), 2);
}

#[test]
fn a_limit_per_key_counts_each_key_and_a_limit_per_application_all_of_them() {
    let origin = Origin::start(answer(200, ""));
    for (per, first, second) in [("key", 3, 3), ("application", 3, 0), ("subscription", 3, 0)] {
        let gateway = Gateway::with(
            Revision::of(&origin)
                .plan(&format!(
                    "{{ name: tight, limits: [{{ name: l, rate: 3/month, per: {per} }}] }}"
                ))
                .api("{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }")
                .mobile_under("tight", &["orders"]),
        )
        .start();
        let with = |key: &str| let_in(5, || gateway.client().get("/orders").key(key));
        assert_eq!((with(KEY), with(SANDBOX_KEY)), (first, second), "per {per}");
    }
}

#[test]
fn a_plan_counts_each_api_for_itself_unless_it_is_per_application() {
    let origin = Origin::start(answer(200, ""));
    for (per, second) in [("subscription", 3), ("application", 0)] {
        let gateway = Gateway::with(
            Revision::of(&origin)
                .plan(&format!(
                    "{{ name: tight, limits: [{{ name: l, rate: 3/month, per: {per} }}] }}"
                ))
                .api("{ name: a, base_path: /a, auth: [api_key], upstream: origin }")
                .api("{ name: b, base_path: /b, auth: [api_key], upstream: origin }")
                .mobile_under("tight", &["a", "b"]),
        )
        .start();
        let to = |target: &str| let_in(5, || gateway.client().get(target).key(KEY));
        assert_eq!((to("/a"), to("/b")), (3, second), "per {per}");
    }
}

#[test]
fn a_limit_per_subject_counts_each_subject_of_tokens() {
    let ec = Signer::ec("ec");
    let origin = Origin::start(answer(200, ""));
    let gateway = Gateway::with(
        Revision::of(&origin)
            .issuer(&format!(
                "{{ name: corp, issuer: \"{ISSUER}\", audience: [{AUDIENCE}], algorithms: [ES256], jwks: {{ keys: [{}] }} }}",
                ec.jwk()
            ))
            .api(
                "{ name: a, base_path: /a, auth: [{ jwt: corp }], upstream: origin,
                   limits: [{ name: l, rate: 2/month, per: subject }] }",
            ),
    )
    .start();
    let by = |subject: &str| {
        let_in(4, || {
            gateway
                .client()
                .get("/a")
                .token(&Token::of(&ec).claim("sub", subject).sign(&ec))
        })
    };
    assert_eq!((by("alice"), by("bob"), by("alice")), (2, 2, 0));
}

#[test]
fn a_limit_per_route_counts_each_route_and_a_limit_per_api_all_of_them() {
    let origin = Origin::start(answer(200, ""));
    for (per, other_route) in [("route", 3), ("api", 0)] {
        let limit = format!("{{ name: l, rate: 3/month, per: {per} }}");
        let api = |name: &str| {
            format!(
                "{{ name: {name}, base_path: /{name}, auth: none, upstream: origin, limits: [{limit}],
                    routes: [{{ path: /x }}, {{ path: \"/{{id}}\" }}] }}"
            )
        };
        let gateway = Gateway::with(Revision::of(&origin).api(&api("a")).api(&api("b"))).start();
        let to = |target: &str| let_in(5, || gateway.client().get(target));
        assert_eq!(to("/a/1"), 3, "per {per}");
        assert_eq!(to("/a/2"), 0, "per {per}: the same route");
        assert_eq!(to("/a/x"), other_route, "per {per}: another route");
        assert_eq!(to("/b/1"), 3, "per {per}: another API");
    }
}

#[test]
fn a_global_limit_of_a_plan_counts_everybody_who_has_the_plan() {
    let origin = Origin::start(answer(200, ""));
    let gateway = Gateway::with(
        Revision::of(&origin)
            .plan("{ name: shared, limits: [{ name: l, rate: 3/month, per: global }] }")
            .api("{ name: a, base_path: /a, auth: [api_key], upstream: origin }")
            .api("{ name: b, base_path: /b, auth: [api_key], upstream: origin }")
            .mobile_under("shared", &["a"])
            .application(&format!(
                "{{ name: web, subscriptions: [{{ api: a, plan: shared }}, {{ api: b, plan: free }}], keys: [{}] }}",
                key_record("web-1", OTHER_KEY, "type: production")
            )),
    )
    .start();
    let to = |target: &str, key: &str| let_in(4, || gateway.client().get(target).key(key));
    assert_eq!(to("/a", KEY), 3);
    assert_eq!(to("/a", OTHER_KEY), 0, "another application under the same plan");
    assert_eq!(to("/b", OTHER_KEY), 4, "another plan");
}

#[test]
fn of_two_limits_each_can_refuse_and_the_tighter_one_is_told() {
    let origin = Origin::start(answer(200, ""));
    let gateway = Gateway::with(
        Revision::of(&origin)
            .plan("{ name: tight, limits: [{ name: per-key, rate: 2/month, per: key }] }")
            .api(
                "{ name: orders, base_path: /orders, auth: [api_key], upstream: origin,
                   limits: [{ name: per-api, rate: 3/month, per: api }] }",
            )
            .mobile_under("tight", &["orders"]),
    )
    .start();
    let call = |key: &str| gateway.client().get("/orders").key(key).send();
    let violated = |answer: &Answer| answer.json()["violated-policies"][0].clone();

    let first = call(KEY).expect(200);
    assert!(
        first.header("ratelimit").unwrap().starts_with("\"per-key\";r=1;"),
        "{first:?}"
    );
    call(KEY).expect(200);
    // Five refusals by one limit, none of which counts in the other.
    for _ in 0..5 {
        assert_eq!(violated(&call(KEY).expect(429)), "per-key");
    }
    call(SANDBOX_KEY).expect(200);
    for _ in 0..5 {
        assert_eq!(violated(&call(SANDBOX_KEY).expect(429)), "per-api");
    }
    assert_eq!(origin.requests(), 3);
}

#[test]
fn requests_that_are_not_let_in_for_another_reason_do_not_count() {
    let origin = Origin::start(answer(200, ""));
    let gateway = Gateway::with(
        Revision::of(&origin)
            .api(
                "{ name: orders, base_path: /orders, auth: [api_key], upstream: origin,
                   limits: [{ name: l, rate: 2/month }, { name: ip, rate: 2/month, per: ip }],
                   routes: [{ path: /, methods: [GET] }] }",
            )
            .mobile(&["orders"]),
    )
    .start();
    for _ in 0..5 {
        gateway.client().get("/orders").send().expect(401);
        gateway.client().get("/orders").key(OTHER_KEY).send().expect(401);
        gateway.client().post("/orders", "").key(KEY).send().expect(405);
    }
    assert_eq!(let_in(4, || gateway.client().get("/orders").key(KEY)), 2);
}

#[test]
fn a_limit_in_shadow_mode_refuses_nobody_and_says_what_it_would_have_done() {
    let origin = Origin::start(answer(200, ""));
    let gateway = limited(&origin, "{ name: trial, rate: 2/month, mode: shadow }");
    for number in 0..5 {
        let request = gateway
            .client()
            .get("/open")
            .header("X-Request-Id", &format!("id-{number}"));
        let answer = request.send().expect(200);
        assert_eq!(answer.header("ratelimit"), None, "a limit on trial promises nothing");
    }
    let decisions = |decision: &str| {
        gateway.metric(&format!(
            "tollgate_throttle_decisions_total{{decision=\"{decision}\",limit=\"api/open/trial\"}}"
        ))
    };
    assert_eq!(
        (decisions("allow"), decisions("would_deny"), decisions("deny")),
        (2.0, 3.0, 0.0)
    );
    assert_eq!(gateway.access_record("id-4")["would_deny"], true);
    assert!(gateway.access_record("id-0")["would_deny"].is_null());
}

#[test]
fn what_was_used_up_stays_used_up_when_a_new_revision_changes_the_limit() {
    let origin = Origin::start(answer(200, ""));
    let with_rate = |rate: &str| open_under(&origin, &format!("{{ name: l, rate: {rate} }}"));
    let gateway = Gateway::with(with_rate("3/month")).start();
    let admitted = || let_in(6, || gateway.client().get("/open"));
    assert_eq!(admitted(), 3);
    gateway.apply(with_rate("5/month"));
    assert_eq!(admitted(), 2, "three of five were used before");
    gateway.apply(with_rate("4/month"));
    assert_eq!(admitted(), 0);
    gateway.apply(with_rate("6/month").api("{ name: more, base_path: /more, auth: none, upstream: origin }"));
    assert_eq!(admitted(), 1);
}

#[test]
fn many_at_once_get_exactly_what_the_limit_allows() {
    let origin = Origin::start(answer(200, ""));
    for window in ["fixed", "sliding", "token_bucket"] {
        let gateway = limited(&origin, &format!("{{ name: l, rate: 100/month, window: {window} }}"));
        let admitted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut connection = gateway.raw();
                    for _ in 0..50 {
                        let answer = gateway.client().get("/open").send_on(&mut connection);
                        admitted.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 100, "{window}");
    }
}
