//! The admin listener.

use serde_json::Value;

use crate::harness::*;

const TOKEN: &str = "a-token-that-nobody-guesses";

/// The section that asks for the listener.
fn admin_section() -> String {
    format!("admin: {{ address: \"127.0.0.1:0\", token: {TOKEN} }}")
}

/// The API `open` on `/open` for everybody, under this limit.
fn open_under(origin: &Origin, limit: &str) -> Revision {
    Revision::of(origin).api(&format!(
        "{{ name: open, base_path: /open, auth: none, upstream: origin, limits: [{limit}] }}"
    ))
}

/// A gateway that shares its limits with nobody else through this Redis.
fn sharing(revision: Revision, redis: &RedisServer, throttle: &str) -> Setup {
    Gateway::with(revision)
        .section(&admin_section())
        .section(&format!("redis: {{ urls: [\"{}\"] }}", redis.url()))
        .section(&format!("throttle: {{ max_wait: 500ms, {throttle} }}"))
}

#[track_caller]
fn ask(gateway: &Gateway, target: &str) -> Answer {
    gateway.admin().get(target).token(TOKEN).send()
}

/// How a counter stands.
#[track_caller]
fn counter(gateway: &Gateway, name: &str) -> Value {
    ask(gateway, &format!("/admin/throttle/{name}")).expect(200).json()
}

/// What is wrong with a name.
#[track_caller]
fn missing(gateway: &Gateway, name: &str) -> String {
    let answer = ask(gateway, &format!("/admin/throttle/{name}")).expect(404);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["code"], "counter_not_found");
    problem["detail"].as_str().unwrap().to_owned()
}

#[test]
fn nobody_gets_anything_without_the_token_and_everybody_is_told_alike() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).section(&admin_section()).start();
    let basic = format!("Basic {TOKEN}");
    let longer = format!("Bearer {TOKEN}x");
    for target in ["/admin/revision", "/admin/throttle/plan/x", "/admin/nothing", "/"] {
        for (credential, code) in [
            (None, "credential_missing"),
            (Some(basic.as_str()), "credential_missing"),
            (Some(TOKEN), "credential_missing"),
            (Some("Bearer another-token"), "credential_invalid"),
            (Some(longer.as_str()), "credential_invalid"),
            (Some("Bearer "), "credential_missing"),
        ] {
            for method in ["GET", "POST"] {
                let request = gateway.admin().request(method, target);
                let request = match credential {
                    Some(credential) => request.header("Authorization", credential),
                    None => request,
                };
                let answer = request.send().expect(401);
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
                assert_eq!(answer.header("content-type"), Some("application/problem+json"));
                let problem = answer.json();
                assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &401.into()));
            }
        }
    }
    let twice = gateway.admin().get("/admin/revision").token(TOKEN).token(TOKEN);
    twice.send().expect(401);
    ask(&gateway, "/admin/revision").expect(200);
    assert!(!gateway.log().contains(TOKEN), "{}", gateway.log());
}

#[test]
fn without_a_token_there_is_no_admin_listener() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .section("admin: { address: \"127.0.0.1:0\" }")
        .start();
    gateway.client().get("/open").send().expect(200);
    gateway.logs("without a \"token\" there is no admin listener");
    assert!(!gateway.log().contains("] admin on "), "{}", gateway.log());
}

#[test]
fn the_revision_is_shown_with_the_one_that_was_refused_after_it() {
    let origin = Origin::start(echo());
    let text = revision(&origin).to_string();
    let gateway = Gateway::with(&text).section(&admin_section()).start();
    let shown = ask(&gateway, "/admin/revision").expect(200).json();
    assert_eq!(shown["digest"], sha256_hex(&text));
    assert!(shown["applied_at_ms"].as_u64().unwrap() > 0);
    assert!(shown["refused"].is_null());
    gateway.replace_revision("version: 1\nnonsense: 1\n");
    until("it is refused", || {
        let shown = ask(&gateway, "/admin/revision").expect(200).json();
        assert_eq!(shown["digest"], sha256_hex(&text));
        shown["refused"]["mistakes"].to_string().contains("nonsense")
    });
}

#[test]
fn what_is_not_there_is_404_and_what_cannot_be_asked_is_refused() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).section(&admin_section()).start();
    for target in ["/", "/admin", "/admin/throttle", "/admin/nothing", "/metrics"] {
        let answer = ask(&gateway, target).expect(404);
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{target}"
        );
    }
    let answer = gateway
        .admin()
        .post("/admin/revision", "")
        .token(TOKEN)
        .send()
        .expect(405);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(answer.header("allow").unwrap().contains("GET"));
    ask(&gateway, "/admin/throttle/api/%ff").expect(400);
    let huge = gateway.admin().get("/admin/revision").token(TOKEN);
    huge.body(vec![b'x'; 100_000]).send().expect(413);
    let long = gateway.admin().get(&format!("/admin/throttle/{}", "x".repeat(20_000)));
    assert!(matches!(long.token(TOKEN).send().status, 414 | 431));
    ask(&gateway, "/admin/revision").expect(200);
}

#[test]
fn callers_that_say_nothing_do_not_keep_others_out_for_long() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).section(&admin_section()).start();
    let address = gateway.admin().get("/").address();
    let mut silent: Vec<Connection> = (0..64).map(|_| Connection::to(address)).collect();
    for connection in &mut silent {
        connection.send("GET /admin/revision HTTP/1.1\r\nHost: x\r\n");
    }
    // In less than the patience of a test client.
    ask(&gateway, "/admin/revision").expect(200);
    gateway.status().get("/status/ready").send().expect(200);
}

#[test]
fn a_counter_of_this_process_alone_is_shown_by_the_name_that_explain_prints() {
    let origin = Origin::start(echo());
    let revision = Revision::of(&origin)
        .plan(
            "{ name: gold, limits: [{ name: quota, rate: 10/month, time_zone: Europe/Berlin }, \
             { name: burst, rate: 5/s, burst: 7, mode: shadow, per: key }] }",
        )
        .api(
            "{ name: orders, base_path: /orders, auth: [api_key], upstream: origin, \
             limits: [{ name: each, rate: 1000/month, per: route }], routes: [{ path: \"/{id}\" }] }",
        )
        .mobile_under("gold", &["orders"]);
    let gateway = Gateway::with(revision).section(&admin_section()).start();
    for _ in 0..3 {
        gateway.client().get("/orders/7").key(KEY).send().expect(200);
    }

    let config = gateway.path().join("tollgate.yaml").display().to_string();
    let key = format!("X-API-Key: {KEY}");
    let output = tollgate([
        "explain",
        "--config",
        &config,
        "--output",
        "json",
        "-H",
        &key,
        "http://x/orders/7",
    ]);
    let explained: Value = serde_json::from_str(&output.stdout).unwrap();
    let limits = explained["limits"].as_array().unwrap();
    assert_eq!(limits.len(), 3);
    for limit in limits {
        assert_eq!(limit["shared"], false);
        let name = limit["counter"].as_str().unwrap();
        let shown = counter(&gateway, name);
        assert_eq!(shown["counter"], name);
        assert_eq!(shown["shared"], false);
        for absent in ["store", "lease", "bound", "on_timeout"] {
            assert!(shown.get(absent).is_none(), "{absent} in {shown}");
        }
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(counter(&gateway, &encoded)["counter"], name);
    }

    let each = counter(&gateway, "api/orders/each/route/orders/orders/{id}");
    assert_eq!(
        (&each["remaining"], &each["limit"]["per"]),
        (&997.into(), &"route".into())
    );
    let quota = counter(&gateway, "plan/gold/quota/subscription/mobile@orders");
    assert_eq!(quota["remaining"], 7);
    assert!(quota["reset_seconds"].as_u64().unwrap() > 0);
    assert_eq!(
        quota["limit"],
        serde_json::json!({ "count": 10, "period": "month", "window": "fixed", "per": "subscription", "mode": "enforce",
            "time_zone": "Europe/Berlin" })
    );
    let burst = counter(&gateway, "plan/gold/burst/key/key:mobile-1");
    assert_eq!(
        burst["limit"],
        serde_json::json!({ "count": 5, "period": "second", "window": "token_bucket", "burst": 7, "per": "key",
            "mode": "shadow" })
    );
    let other = counter(&gateway, "plan/gold/burst/key/key:mobile-2");
    assert_eq!(other["remaining"], 7, "another key, another counter");
}

#[test]
fn looking_counts_nothing_and_makes_no_counter() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(open_under(&origin, "{ name: l, rate: 10/month, per: ip }"))
        .section(&admin_section())
        .start();
    for number in 0..20 {
        assert_eq!(
            counter(&gateway, &format!("api/open/l/ip/192.0.2.{number}"))["remaining"],
            10
        );
    }
    assert_eq!(gateway.metric("tollgate_throttle_counters"), 0.0);
    assert_eq!(origin.bytes(), 0);
}

#[test]
fn a_name_that_leads_nowhere_is_answered_with_what_is_not_there() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        revision(&origin)
            .plan("{ name: gold, limits: [{ name: minute, rate: 10/m }] }")
            .application("{ name: web, subscriptions: [{ api: orders, plan: gold }] }"),
    )
    .section(&admin_section())
    .start();
    for (name, expected) in [
        (
            "plan/golf/minute/subscription/web@orders",
            "there is no plan \"golf\"; did you mean \"gold\"?",
        ),
        (
            "plan/gold/minut/subscription/web@orders",
            "plan \"gold\" has no limit \"minut\"; did you mean \"minute\"?",
        ),
        (
            "plan/gold/minute/subscription/wob@orders",
            "there is no application \"wob\"; did you mean \"web\"?",
        ),
        (
            "plan/gold/minute/subscription/web@order",
            "there is no api \"order\"; did you mean \"orders\"?",
        ),
        ("plan/gold/minute/ip/192.0.2.7", "counts per subscription"),
        ("nonsense", "begins with plan/ or api/"),
    ] {
        let detail = missing(&gateway, name);
        assert!(detail.contains(expected), "{name}: {detail}");
    }
}

#[test]
fn a_shared_counter_is_shown_from_its_first_request_to_its_last() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    // Two gateways may each let in 5 % of 1000 / 2 = 25 before they ask.
    let gateway = sharing(
        open_under(&origin, "{ name: l, rate: 1000/month }"),
        &redis,
        "instances: 2",
    )
    .start();
    let name = "api/open/l/api/open";
    let before = counter(&gateway, name);
    assert_eq!((&before["shared"], &before["remaining"]), (&true.into(), &1000.into()));
    assert_eq!(
        (&before["lease"]["state"], &before["lease"]["spent_here"]),
        (&"cold".into(), &0.into())
    );
    assert_eq!(before["store"]["node"], redis.address().to_string());
    assert_eq!(before["store"]["health"], "up");
    assert_eq!(
        before["bound"],
        serde_json::json!({ "limit": 1000, "instances": 2, "max_overrun": "5%", "credit_per_gateway": 25, "most": 1050,
            "formula": "in a window: 1000 + 2 × 25 = 1050" })
    );
    assert_eq!(
        (&before["when_store_is_away"], &before["on_timeout"]),
        (&"share".into(), &"share".into())
    );
    assert_eq!(before["flush_after_seconds"], 30);
    assert_eq!(redis.keys().len(), 0, "looking asks nobody");

    for _ in 0..100 {
        gateway.client().get("/open").send().expect(200);
    }
    let key = before["store"]["key"].as_str().unwrap();
    until("everything is paid for", || {
        let shown = counter(&gateway, name);
        assert_eq!(shown["lease"]["spent_here"], 100, "{shown}");
        // What is not used goes back: then Redis, this gateway and who looks agree.
        let agree =
            shown["remaining"] == 900 && shown["lease"]["heard"] == 100 && redis.get(key).as_deref() == Some("100");
        agree && shown["lease"]["debt"] == 0 && shown["lease"]["held"] == 0 && shown["lease"]["state"] == "thin"
    });

    until("it is used up", || {
        // Many at a time: a thousand of them, one look each, would be a long story.
        (0..50).for_each(|_| {
            is_let_in(gateway.client().get("/open"));
        });
        counter(&gateway, name)["lease"]["state"] == "spent"
    });
    let after = counter(&gateway, name);
    assert_eq!(after["remaining"], 0);
    assert_eq!(
        after["lease"]["spent_here"].as_u64(),
        Some(origin.requests() as u64),
        "{after}"
    );
    assert!(after["lease"]["waiting"] == 0 && after["lease"]["held"] == 0, "{after}");
}

#[test]
fn a_strict_limit_and_a_bucket_show_their_bounds() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let limits = "{ name: strict, rate: 50/month, on_store_down: deny }, { name: b, rate: 200/s, burst: 400 }";
    let gateway = sharing(open_under(&origin, limits), &redis, "instances: 4").start();
    assert_eq!(
        counter(&gateway, "api/open/b/api/open")["remaining"],
        400,
        "nobody has asked yet"
    );
    gateway.client().get("/open").send().expect(200);
    let strict = counter(&gateway, "api/open/strict/api/open");
    assert_eq!(
        (&strict["bound"]["credit_per_gateway"], &strict["bound"]["most"]),
        (&0.into(), &50.into())
    );
    assert_eq!(
        (&strict["when_store_is_away"], &strict["on_timeout"]),
        (&"deny".into(), &"deny".into())
    );
    let bucket = counter(&gateway, "api/open/b/api/open");
    assert_eq!(
        bucket["bound"]["formula"],
        "in any time t: 400 + 200/s × (t + 0.2 s) + 4 × 5; at once: 460"
    );
    assert_eq!(
        (&bucket["bound"]["most"], &bucket["limit"]["burst"]),
        (&460.into(), &400.into())
    );
    assert!(
        bucket["lease"].get("spent_here").is_none() && bucket["lease"].get("heard").is_none(),
        "{bucket}"
    );
    assert!(
        !bucket["store"]["key"].as_str().unwrap().contains('.'),
        "a bucket has no window"
    );
    until("the bucket is full again", || {
        let bucket = counter(&gateway, "api/open/b/api/open");
        bucket["remaining"] == 400 && bucket["lease"]["state"] == "thin"
    });
}

#[test]
fn without_redis_the_gateway_serves_and_says_that_it_goes_by_its_share() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let gateway = sharing(
        open_under(&origin, "{ name: l, rate: 1000/month }"),
        &redis,
        "instances: 2",
    )
    .start();
    gateway.client().get("/open").send().expect(200);
    assert_eq!(gateway.ready()["redis"][0]["health"], "up");
    redis.stop();
    until("Redis is missed", || {
        gateway.client().get("/open").send().expect(200);
        gateway.ready()["redis"][0]["health"] == "down"
    });
    let ready = gateway.status().get("/status/ready").send().expect(200).json();
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["redis"][0]["node"], redis.address().to_string());
    assert!(ready["redis"][0]["last_error"].is_string(), "{ready}");
    let shown = counter(&gateway, "api/open/l/api/open");
    assert_eq!(
        (&shown["lease"]["state"], &shown["store"]["health"]),
        (&"fallback".into(), &"down".into())
    );
    redis.resume();
    until("it shares again", || {
        gateway.client().get("/open").send().expect(200);
        let shown = counter(&gateway, "api/open/l/api/open");
        shown["lease"]["state"] != "fallback" && shown["store"]["health"] == "up"
    });
}

#[test]
fn sharing_is_shown_in_metrics() {
    let (origin, redis) = (Origin::start(answer(200, "")), RedisServer::start());
    let gateway = sharing(
        open_under(&origin, "{ name: l, rate: 1000/month }"),
        &redis,
        "instances: 7",
    )
    .start();
    gateway.client().get("/open").send().expect(200);
    assert_eq!(gateway.metric("tollgate_throttle_instances"), 7.0);
    let text = gateway.status().get("/metrics").send().expect(200).text();
    // The same host, so the same clock but for what reading it takes.
    assert!(gateway.metric("tollgate_throttle_clock_offset_seconds").abs() < 60.0);
    for series in [
        "tollgate_throttle_clock_offset_seconds ".to_owned(),
        format!("tollgate_throttle_backlog{{node=\"{}\"}} ", redis.address()),
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(&series)),
            "{series} is not in\n{text}"
        );
    }
}
