//! Whose answers are given to whom: never one caller's to another, unless the operator says that they are the same.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

/// An API for keys of two applications, with this policy; answers say who asked.
fn for_keys(policy: &str) -> Scene {
    let origin = service(|request, nth| {
        let who = request.header("x-application").unwrap_or("nobody").to_owned();
        let kind = request.header("x-key-type").unwrap_or("none").to_owned();
        fresh(600, "").with_body(&format!("{who} {kind} {nth}"))
    });
    let revision = Revision::of(&origin)
        .api(&format!(
            "{{ name: all, base_path: /, auth: [api_key], upstream: origin, cache: {policy} }}"
        ))
        .mobile(&["all"])
        .application(&format!(
            "{{ name: partner, subscriptions: [{{ api: all, plan: free }}], keys: [{}] }}",
            key_record("partner-1", OTHER_KEY, "type: production")
        ));
    let gateway = Gateway::with(revision).start();
    Scene { gateway, origin }
}

fn ask(scene: &Scene, key: &str) -> String {
    scene.get("/a").key(key).send().expect(200).text()
}

#[test]
fn a_caller_is_given_his_own_answers_alone() {
    let scene = for_keys("{}");
    for _ in 0..2 {
        assert_eq!(ask(&scene, KEY), "mobile production 1");
        assert_eq!(ask(&scene, OTHER_KEY), "partner production 2");
        assert_eq!(ask(&scene, SANDBOX_KEY), "mobile sandbox 3");
    }
    assert_eq!(scene.origin.requests(), 3);
}

#[test]
fn an_application_may_share_and_types_of_keys_never_do() {
    let scene = for_keys("{ share: application }");
    for _ in 0..2 {
        assert_eq!(ask(&scene, KEY), "mobile production 1");
        assert_eq!(ask(&scene, OTHER_KEY), "partner production 2");
        assert_eq!(ask(&scene, SANDBOX_KEY), "mobile sandbox 3");
    }
}

#[test]
fn everybody_may_share_where_the_operator_says_so() {
    let scene = for_keys("{ share: everyone }");
    assert_eq!(ask(&scene, KEY), "mobile production 1");
    assert_eq!(ask(&scene, OTHER_KEY), "mobile production 1");
    assert_eq!(
        ask(&scene, SANDBOX_KEY),
        "mobile sandbox 2",
        "types of keys are never shared"
    );
}

#[test]
fn nothing_is_given_from_the_cache_to_those_who_are_not_let_in() {
    let scene = for_keys("{ share: everyone }");
    ask(&scene, KEY);
    scene.get("/a").send().expect_refusal(401, "credential_missing");
    scene
        .get("/a")
        .key("tg_live_nonsense")
        .send()
        .expect_refusal(401, "credential_invalid");
    let conditional = scene
        .get("/a")
        .header("If-None-Match", "*")
        .header("Cache-Control", "only-if-cached");
    conditional.send().expect_refusal(401, "credential_missing");
}

#[test]
fn kept_answers_count_for_limits() {
    let origin = service(|_, _| fresh(600, ""));
    let revision = Revision::of(&origin).api(
        "{ name: all, base_path: /, auth: none, upstream: origin, cache: {}, \
         limits: [ { name: few, rate: 3/h, per: api } ] }",
    );
    let gateway = Gateway::with(revision).start();
    for left in [2, 1, 0] {
        let answer = gateway.client().get("/a").send().expect(200);
        assert!(
            answer
                .header("ratelimit")
                .is_some_and(|limit| limit.contains(&format!("r={left}")))
        );
    }
    gateway.client().get("/a").send().expect_refusal(429, "rate_limited");
    assert_eq!(origin.requests(), 1);
}

/// An API for tokens, with this policy; answers say how often they were fetched.
fn for_tokens(policy: &str, fields: &'static str) -> (Scene, Signer) {
    let signer = Signer::ec("ec");
    let origin = service(move |_, _| reply(200, fields));
    let revision = Revision::of(&origin)
        .issuer(&format!(
            "{{ name: corp, issuer: \"{ISSUER}\", audience: [{AUDIENCE}], algorithms: [ES256], jwks: {{ keys: [{}] }} }}",
            signer.jwk()
        ))
        .api(&format!(
            "{{ name: all, base_path: /, auth: [{{ jwt: corp }}], upstream: origin, cache: {policy} }}"
        ));
    let gateway = Gateway::with(revision).start();
    (Scene { gateway, origin }, signer)
}

#[test]
fn answers_to_tokens_are_kept_where_origin_or_operator_say_so_and_for_one_subject() {
    let token = |signer: &Signer, subject: &str| Token::of(signer).claim("sub", subject).sign(signer);
    let ask = |scene: &Scene, token: &str| scene.nth(scene.get("/a").token(token));

    let (scene, signer) = for_tokens("{}", "Cache-Control: max-age=600\r\n");
    let alice = token(&signer, "alice");
    assert_ne!(
        ask(&scene, &alice),
        ask(&scene, &alice),
        "nobody said so (RFC 9111 section 3.5)"
    );

    for (policy, fields) in [
        ("{}", "Cache-Control: max-age=600, public\r\n"),
        ("{ authorized: true }", "Cache-Control: max-age=600\r\n"),
    ] {
        let (scene, signer) = for_tokens(policy, fields);
        // Two tokens of the same subject, and one of another.
        let (alice, again, bob) = (token(&signer, "alice"), token(&signer, "alice"), token(&signer, "bob"));
        assert_eq!(ask(&scene, &alice), 1);
        assert_eq!(ask(&scene, &again), 1);
        assert_eq!(ask(&scene, &bob), 2);
        assert_eq!(ask(&scene, &alice), 1);
        let nobody = Token::of(&signer).without("sub").sign(&signer);
        assert_ne!(
            ask(&scene, &nobody),
            ask(&scene, &nobody),
            "who has no name shares with nobody"
        );
    }
}

#[test]
fn answers_that_vary_by_the_application_are_not_shared_by_all() {
    let origin = service(|request, _| {
        let who = request.header("x-application").unwrap_or("nobody").to_owned();
        fresh(600, "Vary: X-Application\r\n").with_body(&who)
    });
    let revision = Revision::of(&origin)
        .api("{ name: all, base_path: /, auth: [api_key], upstream: origin, cache: { share: everyone } }")
        .mobile(&["all"])
        .application(&format!(
            "{{ name: partner, subscriptions: [{{ api: all, plan: free }}], keys: [{}] }}",
            key_record("partner-1", OTHER_KEY, "type: production")
        ));
    let gateway = Gateway::with(revision).start();
    let ask = |key: &str| gateway.client().get("/a").key(key).send().expect(200).text();
    assert_eq!(
        (ask(KEY), ask(OTHER_KEY), ask(KEY)),
        ("mobile".into(), "partner".into(), "mobile".into())
    );
}

/// One request of the property below.
#[derive(Debug, Clone)]
struct Asked {
    key: usize,
    host: usize,
    path: usize,
    query: usize,
    selecting: usize,
    unsafe_method: bool,
}

#[test]
fn whatever_is_asked_in_whatever_order_an_answer_is_for_who_asked_what() {
    const KEYS: [&str; 3] = [KEY, SANDBOX_KEY, OTHER_KEY];
    const WHO: [&str; 3] = ["mobile production", "mobile sandbox", "partner production"];
    const HOSTS: [&str; 2] = ["a.example.com", "b.example.com"];
    // Some vary by a field, some by another or several, some by none; and some are public.
    const PATHS: [&str; 4] = ["/plain", "/varied", "/both", "/public"];
    const QUERIES: [&str; 4] = ["", "?x=1", "?x=1&y=2", "?x=1y=2"];
    const SELECTING: [&str; 4] = ["", "1", "1, 2", "2"];

    let origin = service(|request, _| {
        let vary = match request.target.split('?').next() {
            Some("/varied") => "Vary: Foo\r\n",
            Some("/both") => "Vary: Foo, X-Key-Type\r\n",
            Some("/public") => "Cache-Control: public\r\n",
            _ => "",
        };
        let foo = request.header("foo").unwrap_or("-");
        // What is not selected by the field must not say what it was.
        let selected = if vary.starts_with("Vary") { foo } else { "" };
        let body = format!(
            "{} {} {} {} {selected}",
            request.header("x-application").unwrap_or_default(),
            request.header("x-key-type").unwrap_or_default(),
            request.header("host").unwrap_or_default(),
            request.target,
        );
        fresh(600, vary).with_body(&body)
    });
    let revision = Revision::of(&origin)
        .api("{ name: all, base_path: /, auth: [api_key], upstream: origin, cache: {} }")
        .mobile(&["all"])
        .application(&format!(
            "{{ name: partner, subscriptions: [{{ api: all, plan: free }}], keys: [{}] }}",
            key_record("partner-1", OTHER_KEY, "type: production")
        ));
    let gateway = Gateway::with(revision).start();

    let asked = (
        0..KEYS.len(),
        0..HOSTS.len(),
        0..PATHS.len(),
        0..QUERIES.len(),
        0..SELECTING.len(),
        0..20u32,
    );
    let asked = asked.prop_map(|(key, host, path, query, selecting, dice)| Asked {
        key,
        host,
        path,
        query,
        selecting,
        unsafe_method: dice == 0,
    });
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let story = |asks: Vec<Asked>| {
        for asked in asks {
            let target = [PATHS[asked.path], QUERIES[asked.query]].concat();
            let method = if asked.unsafe_method { "DELETE" } else { "GET" };
            let mut request = gateway.client().request(method, &target).key(KEYS[asked.key]);
            request = request.host(HOSTS[asked.host]);
            let foo = SELECTING[asked.selecting];
            if !foo.is_empty() {
                request = request.header("Foo", foo);
            }
            let answer = request.send().expect(200).text();
            let is_selected = matches!(PATHS[asked.path], "/varied" | "/both");
            let selected = match (is_selected, foo) {
                (false, _) => "",
                (true, "") => "-",
                (true, foo) => foo,
            };
            let expected = format!("{} {} {target} {selected}", WHO[asked.key], HOSTS[asked.host]);
            prop_assert_eq!(answer, expected);
        }
        Ok(())
    };
    runner
        .run(&proptest::collection::vec(asked, 1..60), story)
        .unwrap_or_else(|error| panic!("{error}"));
    let fetched = origin.requests();
    let asked = gateway.metric("tollgate_requests_total{api=\"all\",code=\"\",route=\"/*\",status=\"200\"}");
    assert!(
        asked > fetched as f64 * 1.5,
        "of {asked} requests {fetched} were fetched: nothing was kept"
    );
}
