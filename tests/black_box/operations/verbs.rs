//! The verbs that answer and end.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::*;

/// A directory with both files, and the arguments that name them.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new(config: &str, revision: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = Self { directory };
        let config = config.replace("REVISION", &files.path("revision.yaml"));
        fs::write(files.path("tollgate.yaml"), config).unwrap();
        fs::write(files.path("revision.yaml"), revision).unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn check(&self, more: &[&str]) -> Output {
        let config = self.path("tollgate.yaml");
        tollgate(["check", "--config", &config].into_iter().chain(more.iter().copied()))
    }
}

const GOOD_REVISION: &str = "\
version: 1
upstreams: [{ name: o, endpoints: [{ address: \"127.0.0.1:9\" }] }]
apis: [{ name: a, base_path: /a, auth: none, upstream: o }]
";

#[test]
fn check_has_nothing_to_say_about_files_without_mistakes() {
    let output = Files::new("revision: { file: REVISION }\n", GOOD_REVISION).check(&[]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "no mistakes\n"));
}

#[test]
fn check_tells_every_mistake_of_both_files_at_once_with_its_place() {
    let files = Files::new(
        "revision: { file: REVISION }\nserver: { threads: 0 }\nlisteners: [{ address: nowhere }]\n",
        "version: 1\nupstreams: [{ name: o, endpoints: [] }]\napis:\n  - { name: a, base_pth: /a, auth: none, upstream: p }\n",
    );
    let output = files.check(&["--revision", &files.path("revision.yaml")]);
    assert_eq!(output.code, Some(78));
    let (config, revision) = (files.path("tollgate.yaml"), files.path("revision.yaml"));
    for place in [
        format!("{config}:2:20: "),
        format!("{config}:3:24: "),
        format!("{revision}:2:13: "),
        format!("{revision}:4:16: "),
        format!("{revision}:4:52: "),
    ] {
        assert!(
            output.stdout.lines().any(|line| line.starts_with(&place)),
            "{place} in {output:#?}"
        );
    }
    assert!(
        output.stdout.contains("did you mean \"base_path\"?"),
        "{}",
        output.stdout
    );
    for line in output.stdout.lines() {
        assert!(line.starts_with(&config) || line.starts_with(&revision), "{line}");
    }
}

#[test]
fn check_speaks_json_too() {
    let files = Files::new("revision: { file: REVISION }\n", "version: 2\n");
    let output = files.check(&["--output", "json"]);
    assert_eq!(output.code, Some(78));
    let mistakes: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(mistakes[0]["file"], files.path("revision.yaml").as_str());
    assert_eq!(
        (&mistakes[0]["line"], &mistakes[0]["severity"]),
        (&1.into(), &"error".into())
    );
    assert!(mistakes[0]["message"].as_str().unwrap().contains("version"));
}

#[test]
fn a_warning_is_told_and_refuses_nothing() {
    let revision = format!(
        "{GOOD_REVISION}applications: [{{ name: m, keys: [{}] }}]\n",
        key_record("m-1", KEY, "expires: 2020-01-01T00:00:00Z")
    );
    let output = Files::new("revision: { file: REVISION }\n", &revision).check(&[]);
    assert_eq!(output.code, Some(0));
    assert!(output.stdout.contains(": warning: "), "{}", output.stdout);
}

#[test]
fn check_connect_tells_which_endpoints_do_not_answer() {
    let origin = Origin::start(echo());
    let nobody = Planned::new();
    let revision = Revision::of(&origin)
        .behind("nobody", nobody.address())
        .api("{ name: a, base_path: /a, auth: none, upstream: origin }")
        .api("{ name: b, base_path: /b, auth: none, upstream: nobody }");
    let output = Files::new("revision: { file: REVISION }\n", &revision.to_string()).check(&["--connect"]);
    assert!(output.stdout.contains(&nobody.address().to_string()), "{output:#?}");
    assert!(!output.stdout.contains(&origin.address().to_string()), "{output:#?}");
    assert_eq!(origin.requests(), 0, "it only connects");
}

#[test]
fn run_refuses_what_check_refuses() {
    let files = Files::new("revision: { file: REVISION }\nserver: { threads: 0 }\n", GOOD_REVISION);
    let output = tollgate(["run", "--config", &files.path("tollgate.yaml")]);
    assert_eq!(output.code, Some(78));
    assert!(output.stderr.contains("tollgate.yaml:2:20: "), "{}", output.stderr);

    let output = Gateway::with("version: 1\napis: [{ name: a }]\n").run();
    assert_eq!(output.code, Some(78));
    assert!(output.stderr.contains("revision.yaml:2:8: "), "{}", output.stderr);

    let output = tollgate(["run", "--config", "/there/is/no/such/file.yaml"]);
    assert_eq!(output.code, Some(78));
    assert!(
        output
            .stderr
            .contains("/there/is/no/such/file.yaml: there is no such file")
    );
}

#[test]
fn values_may_come_from_the_environment_and_from_files() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(
        "version: 1\n\
         upstreams: [{ name: o, endpoints: [{ address: \"${TEST_ORIGIN}\" }] }]\n\
         apis: [{ name: a, base_path: \"${TEST_PATH:-/fallback}\", auth: none, upstream: o }]\n",
    )
    .environment("TEST_ORIGIN", &origin.address().to_string())
    .start();
    gateway.client().get("/fallback").send().expect(200);
}

#[test]
fn a_port_that_is_taken_is_told_and_nothing_starts() {
    let origin = Origin::start(echo());
    let output = Gateway::with(revision(&origin)).listener(origin.address()).run();
    assert_eq!(output.code, Some(1));
    let expected = format!("can not listen on {}: ", origin.address());
    assert!(output.stderr.contains(&expected), "{}", output.stderr);
    assert!(
        output.stderr.contains("another process does, or use --port-offset"),
        "{}",
        output.stderr
    );
    assert_eq!(
        output.stderr.trim().lines().count(),
        1,
        "one line, no backtrace: {}",
        output.stderr
    );
}

#[test]
fn schema_prints_a_schema_of_each_file() {
    for (file, key) in [("tollgate", "listeners"), ("revision", "apis")] {
        let output = tollgate(["schema", file]);
        assert_eq!(output.code, Some(0));
        let schema: Value = serde_json::from_str(&output.stdout).unwrap();
        assert!(schema["properties"][key].is_object(), "{file}");
        assert_eq!(schema["additionalProperties"], false);
    }
    assert_eq!(tollgate(["schema", "nonsense"]).code, Some(2));
}

#[test]
fn output_into_a_pipe_that_nobody_reads_is_no_crash() {
    let program = env!("CARGO_BIN_EXE_tollgate");
    let output = shell(&format!(
        "{program} schema revision | true; {program} key new --application a | true"
    ));
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

#[test]
fn a_new_key_works_as_soon_as_its_record_is_in_the_revision() {
    let origin = Origin::start(echo());
    let output = tollgate(["key", "new", "--application", "mobile"]);
    assert_eq!(output.code, Some(0));
    let lines: Vec<&str> = output.stdout.lines().map(str::trim).collect();
    let key = lines.iter().find(|line| line.starts_with("tg_live_")).unwrap();
    let record = lines.iter().find_map(|line| line.strip_prefix("- ")).unwrap();
    assert!(!record.contains(key), "the record has the hash only");

    let gateway = Gateway::with(
        Revision::of(&origin)
            .api("{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }")
            .application(&format!(
                "{{ name: mobile, subscriptions: [{{ api: orders, plan: free }}], keys: [{record}] }}"
            )),
    )
    .start();
    let seen = gateway.client().get("/orders").key(key).send().expect(200).echo();
    assert_eq!(seen.header("x-application"), Some("mobile"));
    assert_eq!(seen.header("x-key-type"), Some("production"));
}

#[test]
fn a_new_key_as_json_has_what_a_program_needs() {
    let arguments = "key new --application web --type sandbox --id web-7 --expires 2100-01-01T00:00:00Z --output json";
    let output = tollgate(arguments.split(' '));
    assert_eq!(output.code, Some(0));
    let made: Value = serde_json::from_str(&output.stdout).unwrap();
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("tg_test_"), "{key}");
    assert_eq!(made["application"], "web");
    assert_eq!(
        made["record"],
        serde_json::json!({
            "id": "web-7", "sha256": sha256_hex(key), "type": "sandbox", "expires": "2100-01-01T00:00:00Z"
        })
    );
}

#[test]
fn arguments_that_make_no_sense_are_a_usage_error() {
    for arguments in [
        "nonsense",
        "key new",
        "key new --application a --expires tomorrow",
        "key new --application a --type gold",
        "run --port-offset -1",
        "check --nonsense",
    ] {
        let output = tollgate(arguments.split(' '));
        assert_eq!(output.code, Some(2), "{arguments}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments}: {output:?}"
        );
    }
}

#[test]
fn explain_says_what_a_request_would_get_without_counting_or_calling_anything() {
    let origin = Origin::start(echo());
    let revision = revision(&origin)
        .api("{ name: tight, base_path: /tight, auth: none, upstream: origin, limits: [{ name: l, rate: 1/month }] }");
    let gateway = Gateway::with(revision).start();
    let config = gateway.path().join("tollgate.yaml").display().to_string();
    let explain = |more: &[&str]| {
        let output = tollgate(["explain", "--config", &config].into_iter().chain(more.iter().copied()));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!output.stdout.contains(KEY));
        output.stdout
    };
    assert!(explain(&["http://x/nothing"]).contains("404 route_not_found"));
    assert!(explain(&["http://x/orders"]).contains("401 credential_missing"));
    let key = format!("X-API-Key: {KEY}");
    let allowed = explain(&["-H", &key, "http://x/orders/7"]);
    assert!(
        allowed.contains("application \"mobile\"") && allowed.contains("the upstream's"),
        "{allowed}"
    );
    assert!(explain(&["http://x/tight"]).contains("1/month"));
    assert_eq!(origin.bytes(), 0);
    gateway.client().get("/tight").send().expect(200);
}

/// A bootstrap file that shares limits through this Redis.
fn shared_config(url: &str, redis: &str, throttle: &str) -> String {
    format!("revision: {{ file: REVISION }}\nredis: {{ urls: [\"{url}\"], {redis} }}\nthrottle: {{ {throttle} }}\n")
}

fn limited_revision(limits: &str) -> String {
    format!(
        "version: 1\nupstreams: [{{ name: o, endpoints: [{{ address: \"127.0.0.1:9\" }}] }}]\n\
         apis: [{{ name: a, base_path: /a, auth: none, upstream: o, limits: [{limits}] }}]\n"
    )
}

#[test]
fn explain_says_what_gateways_that_share_a_limit_promise_and_asks_redis_nothing() {
    // Nobody is there, and nobody is needed.
    let nobody = Planned::new();
    let url = format!("redis://{}", nobody.address());
    let files = Files::new(
        &shared_config(&url, "", "instances: 4"),
        &limited_revision(
            "{ name: day, rate: 50000/d, on_store_down: allow }, { name: tiny, rate: 10/m, max_overrun: 0% }, \
             { name: burst, rate: 200/s, burst: 400 }",
        ),
    );
    let config = files.path("tollgate.yaml");
    let output = tollgate(["explain", "--config", &config, "http://x/a"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    for expected in [
        "Redis key tg1{",
        "shared by at most 4 gateways, overrun 5%: each may admit 625 before it has asked",
        "at most in a window: 50000 + 4 × 625 = 52500",
        "what was admitted on credit is charged within 30 s",
        "Redis away: allow (lets everything through, and counts it afterwards)",
        "shared by at most 4 gateways, overrun 0%: strict, so that a cold request waits for Redis",
        "at most in a window: 10 + 4 × 0 = 10",
        "Redis away: share",
        "Redis late: deny (refuses)",
        "at most in any time t: 400 + 200/s × (t + 0.2 s) + 4 × 5; at once: 460",
        "explain counts and calls nothing, so it cannot say what is left in Redis",
        "the upstream's",
    ] {
        assert!(
            output.stdout.contains(expected),
            "{expected} is not in\n{}",
            output.stdout
        );
    }

    let output = tollgate(["explain", "--config", &config, "--output", "json", "http://x/a"]);
    let explained: Value = serde_json::from_str(&output.stdout).unwrap();
    let day = &explained["limits"][0];
    assert_eq!(day["shared"], true);
    assert!(day.get("remaining").is_none(), "{day}");
    assert!(day["store"]["key"].as_str().unwrap().starts_with("tg1{"));
    assert!(day["store"].get("health").is_none(), "nobody was asked: {day}");
    assert_eq!(
        (&day["bound"]["most"], &day["bound"]["instances"]),
        (&52500.into(), &4.into())
    );
    assert_eq!(
        (&day["when_store_is_away"], &day["on_timeout"]),
        (&"allow".into(), &"allow".into())
    );
    assert_eq!(day["flush_after_seconds"], 30);
}

#[test]
fn explain_names_the_key_that_gateways_count_under() {
    let (origin, redis) = (Origin::start(echo()), RedisServer::start());
    let revision = Revision::of(&origin).api(
        "{ name: open, base_path: /open, auth: none, upstream: origin, limits: [{ name: l, rate: 10/month, per: ip }] }",
    );
    let gateway = Gateway::with(revision)
        .section(&format!("redis: {{ urls: [\"{}\"] }}", redis.url()))
        .section("throttle: { max_wait: 500ms }")
        .start();
    gateway.client().get("/open").send().expect(200);
    let config = gateway.path().join("tollgate.yaml").display().to_string();
    let output = tollgate(["explain", "--config", &config, "http://x/open"]);
    until("the gateway has asked", || redis.keys().len() == 1);
    let key = redis.keys().remove(0);
    assert!(
        output.stdout.contains(&format!("Redis key {key}\n")),
        "{key} is not in\n{}",
        output.stdout
    );
}

#[test]
fn explain_says_when_a_limit_is_counted_in_this_process_alone() {
    let files = Files::new(
        "revision: { file: REVISION }\n",
        &limited_revision("{ name: m, rate: 10/m }"),
    );
    let output = tollgate(["explain", "--config", &files.path("tollgate.yaml"), "http://x/a"]);
    assert!(
        output.stdout.contains("counted in this process alone"),
        "{}",
        output.stdout
    );
    assert!(!output.stdout.contains("Redis"), "{}", output.stdout);
}

#[test]
fn check_tells_in_one_line_which_limits_are_too_small_for_credit() {
    let limits: Vec<String> = (1..=7).map(|n| format!("{{ name: l{n}, rate: {n}/m }}")).collect();
    let limits = format!(
        "{}, {{ name: large, rate: 200/m }}, {{ name: meant, rate: 5/m, max_overrun: 0% }}, \
         {{ name: watched, rate: 5/m, mode: shadow }}",
        limits.join(", ")
    );
    let revision = limited_revision(&limits);
    let output = Files::new(&shared_config("redis://127.0.0.1:9", "", "instances: 10"), &revision).check(&[]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
    for expected in [
        "revision.yaml: warning: 5% of these limits is less than one request for each of 10 gateways",
        "a cold request waits up to 20ms for Redis: api/a/l1, api/a/l2, api/a/l3, api/a/l4, api/a/l5, 2 more; from 200 on",
    ] {
        assert!(
            output.stdout.contains(expected),
            "{expected} is not in {}",
            output.stdout
        );
    }
    let alone = Files::new("revision: { file: REVISION }\n", &revision).check(&[]);
    assert_eq!(alone.stdout, "no mistakes\n", "nothing is shared");
    let two = Files::new(
        &shared_config("redis://127.0.0.1:9", "", "instances: 1"),
        &limited_revision("{ name: l, rate: 20/m }"),
    );
    assert_eq!(two.check(&[]).stdout, "no mistakes\n", "5 % of 20 is one");
}

#[test]
fn check_connect_looks_at_redis() {
    let origin = Origin::start(echo());
    let revision = Revision::of(&origin)
        .api("{ name: a, base_path: /a, auth: none, upstream: origin }")
        .to_string();
    let connect = |url: &str, redis: &str| Files::new(&shared_config(url, redis, ""), &revision).check(&["--connect"]);

    let redis = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]);
    let output = connect(&redis.url(), "");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output.stdout.contains(&format!("redis {}: version ", redis.address())),
        "{output:?}"
    );
    assert!(
        output.stdout.contains("warning: ") && output.stdout.contains("appendonly is off"),
        "{output:?}"
    );
    assert!(!output.stdout.contains("maxmemory-policy is"), "{output:?}");
    assert_eq!(redis.keys().len(), 0, "it only looks");

    let evicting = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"]);
    let output = connect(&evicting.url(), "");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output.stdout.contains("tollgate.yaml: warning: ") && output.stdout.contains("maxmemory-policy is allkeys-lru"),
        "{output:?}"
    );

    let nobody = Planned::new();
    let output = connect(&format!("redis://{}", nobody.address()), "");
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output
            .stdout
            .contains(&format!("tollgate.yaml: redis {}: ", nobody.address())),
        "{output:?}"
    );

    let closed = RedisServer::with_password("correct-horse");
    let output = connect(&closed.url(), "password: battery-staple");
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stdout.contains(&closed.address().to_string()), "{output:?}");
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(
        !said.contains("battery-staple") && !said.contains("correct-horse"),
        "{said}"
    );
    let output = connect(&closed.url(), "password: correct-horse");
    assert_eq!(output.code, Some(0), "{output:?}");
}
