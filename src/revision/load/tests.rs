//! Whole revisions: what is read, and everything that is said about one with mistakes.

mod caching;
mod edits;

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::Algorithm;
use proptest::prelude::*;

use super::super::{
    AuthMethod, HostPattern, JwksSource, KeyType, Mode, Scope, Share, Sharing, WindowKind, WithoutStore,
};
use super::*;
use crate::units::Ratio;

fn environment() -> Environment {
    Environment::fixed(
        [("ISS", "https://idp.example.com")],
        "2026-06-01T00:00:00Z".parse().unwrap(),
    )
}

fn read(text: &str) -> Result<Loaded, Mistakes> {
    parse(text, "r.yaml", Path::new("conf"), &environment())
}

fn loaded(text: &str) -> Loaded {
    read(text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

fn mistakes(text: &str) -> String {
    match read(text) {
        Ok(loaded) => panic!("accepted with the warnings:\n{}", loaded.warnings),
        Err(mistakes) => mistakes.to_string(),
    }
}

/// A revision with one API to which the tests add.
const BASE: &str = "\
version: 1
upstreams: [{ name: u, endpoints: [{ address: \"127.0.0.1:1\" }] }]
";

/// `BASE` with an API that has these further lines.
fn with_api(lines: &str) -> String {
    format!("{BASE}apis:\n  - name: a\n    base_path: /a\n    upstream: u\n{lines}")
}

const ISSUERS: &str = "\
issuers:
  - name: corp
    issuer: \"${ISS}\"
    audience: [orders]
    algorithms: [RS256, ES256, EdDSA]
    jwks: { url: https://idp.example.com/jwks.json }
    application_claim: azp
    leeway: 5s
";

#[test]
fn the_contracts_example_is_resolved_with_all_references_and_defaults() {
    let text = format!(
        "version: 1
upstreams:
  - name: other
    endpoints: [{{ address: \"other.internal:80\" }}]
  - name: orders
    balance: round_robin
    endpoints:
      - {{ address: \"10.0.0.1:8080\", weight: 2 }}
      - {{ address: \"[2001:db8::1]:8080\" }}
    timeouts: {{ connect: 1s }}
{ISSUERS}plans:
  - name: gold
    limits:
      - {{ name: burst,  rate: 200/s, burst: 400 }}
      - {{ name: minute, rate: 5000/m }}
apis:
  - name: orders
    hosts: [api.example.com, \"*.example.org\"]
    base_path: /orders
    auth: [api_key, {{ jwt: corp }}]
    upstream: orders
    limits: [ {{ name: api, rate: 3000/s }}, {{ name: ip, rate: 10/m, window: sliding, per: ip, mode: shadow }} ]
    routes:
      - {{ path: /, methods: [GET, POST] }}
      - {{ path: \"/{{id}}\", methods: [DELETE], scopes: [\"orders:write\"] }}
      - {{ path: \"/files/*\" }}
  - {{ name: open, base_path: /, auth: none, upstream: other, strip_base_path: true }}
applications:
  - name: mobile
    subscriptions: [ {{ api: orders, plan: gold }} ]
    keys:
      - {{ id: mobile-1, sha256: {hash}, expires: 2027-01-01T00:00:00Z }}
      - {{ id: mobile-2, sha256: {other}, type: sandbox }}
",
        hash = "ab".repeat(32),
        other = "12".repeat(32),
    );
    let Loaded {
        revision,
        places,
        warnings,
        source: _,
    } = loaded(&text);
    assert!(warnings.is_empty(), "{warnings}");
    assert_eq!(revision.digest, hex(&Sha256::digest(text.as_bytes())));

    let orders = &revision.upstreams[1];
    assert_eq!((orders.endpoints[0].weight, orders.endpoints[1].weight), (2, 1));
    assert!(orders.endpoints[1].locator.to_string().starts_with("[2001:db8::1]:"));
    assert_eq!(
        (orders.timeouts.connect, orders.timeouts.idle),
        (Duration::from_secs(1), Duration::from_secs(50))
    );
    assert_eq!(orders.retries.attempts, 2);

    let corp = &revision.issuers[0];
    assert_eq!(corp.issuer, "https://idp.example.com");
    assert_eq!(corp.algorithms, [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
    assert_eq!(corp.jwks, JwksSource::Url("https://idp.example.com/jwks.json".into()));
    assert_eq!(
        (corp.application_claim.as_deref(), corp.leeway),
        (Some("azp"), Duration::from_secs(5))
    );

    let windows: Vec<_> = revision.plans[0]
        .limits
        .iter()
        .map(|l| (l.window, l.scope, l.mode))
        .collect();
    assert_eq!(
        windows,
        [
            (
                WindowKind::TokenBucket { burst: 400 },
                Scope::Subscription,
                Mode::Enforce
            ),
            (WindowKind::Fixed, Scope::Subscription, Mode::Enforce)
        ]
    );

    let [orders, open] = revision.apis.as_slice() else {
        panic!("two APIs")
    };
    assert_eq!(
        orders.hosts,
        [
            HostPattern::Exact("api.example.com".into()),
            HostPattern::Wildcard("example.org".into())
        ]
    );
    assert_eq!(orders.auth, [AuthMethod::ApiKey, AuthMethod::Jwt(0)]);
    assert_eq!(
        orders.destinations.as_ref().unwrap().shares,
        [Share { upstream: 1, weight: 1 }]
    );
    assert_eq!(
        (orders.credentials.key_header.as_str(), orders.credentials.forward),
        ("x-api-key", false)
    );
    assert_eq!(
        (orders.limits[0].window, orders.limits[0].scope),
        (WindowKind::TokenBucket { burst: 3000 }, Scope::Api)
    );
    assert_eq!(
        (orders.limits[1].window, orders.limits[1].scope, orders.limits[1].mode),
        (WindowKind::Sliding, Scope::Ip, Mode::Shadow)
    );
    let paths: Vec<_> = orders.routes.iter().map(|r| (r.path.as_str(), r.slash_too)).collect();
    assert_eq!(
        paths,
        [("/orders", true), ("/orders/{id}", false), ("/orders/files/*", false)]
    );
    assert_eq!(orders.routes[1].scopes, ["orders:write"]);
    assert_eq!(places[0].routes[1], Place { line: 33, column: 17 });

    assert!(open.auth.is_empty() && open.strip_base_path);
    let paths: Vec<_> = open.routes.iter().map(|r| (r.path.as_str(), r.slash_too)).collect();
    assert_eq!(paths, [("/", false), ("/*", false)]);
    assert_eq!(places[1].routes.len(), 2);

    let mobile = &revision.applications[0];
    assert_eq!((mobile.subscriptions[0].api, mobile.subscriptions[0].plan), (0, 0));
    assert_eq!(mobile.keys[0].sha256, [0xab; 32]);
    assert_eq!(mobile.keys[0].expires, Some("2027-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(
        (mobile.keys[0].key_type, mobile.keys[1].key_type),
        (KeyType::Production, KeyType::Sandbox)
    );
}

#[test]
fn one_file_with_eight_mistakes_is_told_all_eight_in_order() {
    let text = format!(
        "version: 1
upstreams:
  - name: orders
    endpoints: [{{ address: 10.0.0.1 }}]
plans:
  - {{ name: gold, limits: [{{ name: m, rate: 5000/fortnight }}] }}
apis:
  - name: orders
    hosts: [API.example.com]
    base_path: /orders/
    auth: [api_key, {{ jwt: crop }}]
    upstrem: orders
    upstream: order
{ISSUERS}applications:
  - name: mobile
    subscriptions: [{{ api: order, plan: gold }}]
"
    );
    assert_eq!(
        mistakes(&text),
        "\
r.yaml:4:28: \"10.0.0.1\" has no port; write host:port, such as 10.0.0.1:8080, orders.internal:8080 or [2001:db8::1]:8080
r.yaml:6:45: \"5000/fortnight\" is not a rate; write a whole number, a slash and s, m, h, d, week or month, such as 100/s or 5000/m
r.yaml:9:13: host \"API.example.com\" has to be lower case: \"api.example.com\"
r.yaml:10:16: base path \"/orders/\" ends in a slash; write \"/orders\"
r.yaml:11:28: API \"orders\": issuer \"crop\" does not exist; did you mean \"corp\"?
r.yaml:12:5: unknown key \"upstrem\" in api; did you mean \"upstream\"?
r.yaml:13:15: API \"orders\": upstream \"order\" does not exist; did you mean \"orders\"?
r.yaml:24:28: application \"mobile\": API \"order\" does not exist; did you mean \"orders\"?"
    );
}

#[test]
fn what_is_required_is_asked_for_at_its_place() {
    assert_eq!(mistakes("{}"), "r.yaml:1:1: the file has no \"version\"");
    assert_eq!(
        mistakes("version: 2"),
        "r.yaml:1:10: this build reads version 1 of the format, not 2"
    );
    assert_eq!(
        mistakes("version: 1\napis: [{}]\nupstreams: [{}]\nplans: [{}]\napplications: [{}]\nissuers: [{}]\n"),
        "\
r.yaml:2:8: an API has no \"name\"
r.yaml:2:8: an API has no \"base_path\"
r.yaml:2:8: an API has no \"auth\"; write a list of api_key, { jwt: ISSUER }, { introspection: ISSUER } and client_certificate, or auth: none if everybody may call it
r.yaml:2:8: an API has no \"upstream\"
r.yaml:3:13: an upstream has no \"name\"
r.yaml:3:13: an upstream has no \"endpoints\"; it needs at least one
r.yaml:4:9: a plan has no \"name\"
r.yaml:4:9: a plan has no \"limits\"; write limits: [] if it is meant to be unlimited
r.yaml:5:16: an application has no \"name\"
r.yaml:6:11: an issuer has no \"name\"
r.yaml:6:11: an issuer has no \"issuer\"
r.yaml:6:11: an issuer has no \"audience\"; it needs at least one
r.yaml:6:11: an issuer has no \"algorithms\"; it needs at least one
r.yaml:6:11: an issuer has no \"jwks\"; write where its keys are, or as \"introspection\" who is asked about its tokens"
    );
}

#[test]
fn an_empty_or_missing_auth_never_means_open() {
    for (lines, expected) in [
        ("", "API \"a\" has no \"auth\"; write"),
        (
            "    auth:\n",
            "r.yaml:7:5: \"auth\" has no value; write one or remove the key",
        ),
        ("    auth: []\n", "r.yaml:7:11: API \"a\" has an empty list of auth"),
        (
            "    auth: {}\n",
            "expected `none` or a list of `api_key`, `{ jwt: ISSUER }`, `{ introspection: ISSUER }` and `client_certificate`, found a mapping",
        ),
        (
            "    auth: false\n",
            "expected `none` or a list of `api_key`, `{ jwt: ISSUER }`, `{ introspection: ISSUER }` and `client_certificate`, found false",
        ),
        (
            "    auth: [none]\n",
            "expected one of api_key, jwt, introspection, client_certificate, found \"none\"",
        ),
        (
            "    auth: \"${NOTHING}\"\n",
            "the environment variable NOTHING is not set",
        ),
        ("    auth: [api_kye]\n", "did you mean \"api_key\"?"),
        ("    auth: [{ jwt: x }]\n", "issuer \"x\" does not exist"),
    ] {
        let found = mistakes(&with_api(lines));
        assert!(found.contains(expected), "{lines} gave {found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
}

#[test]
fn lists_whose_absence_means_everything_cannot_be_empty() {
    for (lines, expected) in [
        ("    hosts: []\n", "for every host, remove \"hosts\""),
        ("    hosts:\n", "\"hosts\" has no value"),
        ("    routes: []\n", "for everything below, remove \"routes\""),
        (
            "    routes: [{ path: /, methods: [] }]\n",
            "for every method, remove \"methods\"",
        ),
    ] {
        let found = mistakes(&with_api(&format!("    auth: none\n{lines}")));
        assert!(
            found.contains(expected) && found.lines().count() == 1,
            "{lines} gave {found}"
        );
    }
}

#[test]
fn what_must_be_unique_is() {
    let hash = "ab".repeat(32);
    let text = format!(
        "version: 1
upstreams:
  - {{ name: u, endpoints: [{{ address: \"h:1\" }}, {{ address: \"H:1\" }}] }}
  - {{ name: u, endpoints: [{{ address: \"h:1\" }}] }}
plans: [{{ name: p, limits: [{{ name: x, rate: 1/s }}, {{ name: x, rate: 2/s }}] }}]
apis:
  - {{ name: a, hosts: [h, h], base_path: /a, auth: [api_key, api_key], upstream: u }}
applications:
  - name: one
    subscriptions: [{{ api: a, plan: p }}, {{ api: a, plan: p }}]
    keys: [{{ id: k, sha256: {hash} }}]
  - name: two
    keys: [{{ id: k, sha256: {hash} }}]
"
    );
    assert_eq!(
        mistakes(&text),
        "\
r.yaml:3:48: upstream \"u\" has this endpoint twice; for a larger share, give it a weight
r.yaml:4:13: upstream \"u\" is defined twice; the first is in line 3
r.yaml:5:53: plan \"p\" has two limits \"x\"
r.yaml:7:27: API \"a\" has this host twice
r.yaml:7:62: API \"a\" has this way in twice
r.yaml:10:42: application \"one\" is subscribed to this API already in line 10
r.yaml:13:18: key \"k\" is defined twice; the first is in line 11
r.yaml:13:29: a key of application \"two\" has the same hash as the key in line 11; a key belongs to one application"
    );
}

#[test]
fn features_of_a_later_build_are_refused_by_name() {
    let text = "\
version: 1
tls: {}
upstreams:
  - name: u
    balance: least_response_time
    health_check: { path: /health }
    retries: { attempts: 1, budget: 20% }
    endpoints: [{ address: \"h:1\", zone: rack-a }]
apis:
  - { name: a, base_path: /a, auth: none, upstream: u, tls: {} }
";
    assert_eq!(
        mistakes(text),
        "\
r.yaml:2:1: \"tls\" is not available in this build
r.yaml:10:56: \"tls\" is not available in this build"
    );
}

#[test]
fn limits_that_contradict_themselves_are_refused() {
    let limit = |limit: &str| {
        mistakes(&format!(
            "version: 1\nplans: [{{ name: p, limits: [{{ name: l, {limit} }}] }}]\n"
        ))
    };
    for (text, expected) in [
        ("rate: 5/m, burst: 9", "\"burst\" belongs to token buckets"),
        (
            "rate: 5/s, window: fixed, burst: 9",
            "\"burst\" belongs to token buckets",
        ),
        ("rate: 5/s, burst: 0", "a burst of 0"),
        ("rate: 0/s", "lets nothing through"),
        ("rate: 16777216/m, window: sliding", "counts to at most 16777215"),
        ("rate: 5/s, window: slidng", "did you mean \"sliding\"?"),
        ("rate: 5/s, per: user", "expected one of global, api, route"),
        ("rate: 5/s, mode: observe", "expected one of enforce, shadow"),
        (
            "rate: 5/s, max_overrun: 5",
            "r.yaml:2:64: \"5\" is not a share; write 0% to 100%",
        ),
        (
            "rate: 5/s, max_overrun: 101%",
            "r.yaml:2:64: \"101%\" is not a share; write 0% to 100%",
        ),
        (
            "rate: 5/s, on_store_down: open",
            "r.yaml:2:66: expected one of share, deny, allow, found \"open\"",
        ),
        ("rate: 5/s, on_timeout: alow", "did you mean \"allow\"?"),
        (
            "rate: 5/h, time_zone: Europe/Berlin",
            "r.yaml:2:62: \"time_zone\" says when days, weeks and months begin; shorter windows are the same everywhere",
        ),
        (
            "rate: 5/d, window: token_bucket, time_zone: Europe/Berlin",
            "r.yaml:2:84: \"time_zone\" says when a window begins, and a token bucket has no windows; add window: fixed",
        ),
        (
            "rate: 5/d, time_zone: Europe/Belrin",
            "r.yaml:2:62: \"Europe/Belrin\" is not a time zone; write its IANA name, such as Europe/Berlin; did you mean \
             \"Europe/Berlin\"?",
        ),
    ] {
        let found = limit(text);
        assert!(
            found.contains(expected) && found.lines().count() == 1,
            "{text} gave {found}"
        );
    }
    loaded("version: 1\nplans: [{ name: p, limits: [{ name: l, rate: 16777215/m, window: sliding }] }]\n");
    let bucket =
        loaded("version: 1\nplans: [{ name: p, limits: [{ name: l, rate: 6/m, window: token_bucket, burst: 2 }] }]\n");
    assert_eq!(
        bucket.revision.plans[0].limits[0].window,
        WindowKind::TokenBucket { burst: 2 }
    );
}

#[test]
fn a_limit_says_how_it_is_shared_and_where_its_days_begin_and_the_rest_is_left_to_the_gateway() {
    let text = "\
version: 1
plans:
  - name: p
    limits:
      - { name: plain, rate: 5/d }
      - { name: strict, rate: 5/d, max_overrun: 0, on_store_down: deny, on_timeout: allow }
      - { name: own, rate: 5/week, window: sliding, max_overrun: 0.5%, on_store_down: share, time_zone: europe/berlin }
      - { name: utc, rate: 5/month, time_zone: UTC }
";
    let limits = loaded(text).revision.plans.remove(0).limits;
    let told: Vec<_> = limits.iter().map(|l| (l.sharing, l.zone.as_deref())).collect();
    assert_eq!(
        told,
        [
            (Sharing::default(), None),
            (
                Sharing {
                    max_overrun: Some(Ratio::ZERO),
                    on_store_down: Some(WithoutStore::Deny),
                    on_timeout: Some(WithoutStore::Allow),
                },
                None
            ),
            (
                Sharing {
                    max_overrun: Some("0.5%".parse().unwrap()),
                    on_store_down: Some(WithoutStore::Share),
                    on_timeout: None,
                },
                Some("Europe/Berlin")
            ),
            (Sharing::default(), None),
        ]
    );
}

#[test]
fn issuers_that_could_be_fooled_are_refused() {
    let issuer = |lines: &str| {
        mistakes(&format!(
            "version: 1\nissuers:\n  - name: i\n    issuer: x\n    audience: [a]\n{lines}\n"
        ))
    };
    for (lines, expected) in [
        (
            "    algorithms: [none]\n    jwks: { url: https://h/j }",
            "nobody has signed",
        ),
        (
            "    algorithms: [HS256]\n    jwks: { url: https://h/j }",
            "not published as a key set",
        ),
        (
            "    algorithms: [HS256]\n    jwks: { file: keys.json }",
            "not published as a key set",
        ),
        (
            "    algorithms: [RS256, HS256]\n    jwks: { url: https://h/j }",
            "mixes algorithms",
        ),
        (
            "    algorithms: [RS256]\n    jwks: { url: ftp://h/j }",
            "not an http: or https: URL",
        ),
        (
            "    algorithms: [RS256]\n    jwks: { url: \"https://u:p@h/j\" }",
            "a user or password",
        ),
        ("    algorithms: [RS256]\n    jwks: { url: h/j }", "is not a URL"),
        (
            "    algorithms: [RS256]\n    jwks: { url: https://h/j, file: x }",
            "exactly one of",
        ),
        ("    algorithms: [RS256]\n    jwks: {}", "exactly one of"),
        ("    algorithms: [RS256]\n    jwks: { keys: [] }", "has no keys"),
        (
            "    algorithms: [RS256]\n    jwks: { keys: [{ kty: oct, k: c2VjcmV0 }] }",
            "HS256, HS384 or HS512 only",
        ),
        (
            "    algorithms: [RS256]\n    jwks: { url: https://h/j }\n    leeway: 1h",
            "at most 5m",
        ),
        (
            "    algorithms: [RS256]\n    jwks: { url: https://h/j }\n    application_claim: \"\"",
            "an empty text",
        ),
    ] {
        let found = issuer(lines);
        assert!(
            found.contains(expected) && found.lines().count() == 1,
            "{lines} gave {found}"
        );
        assert!(!found.contains("u:p") && !found.contains("c2VjcmV0"), "{found}");
    }
}

#[test]
fn a_key_set_file_is_beside_the_revision_and_inline_keys_do_not_show_in_debug_output() {
    let jwks = |jwks: &str, algorithm: &str| {
        let text = format!(
            "version: 1\nissuers:\n  - {{ name: i, issuer: x, audience: [a], algorithms: [{algorithm}], jwks: {jwks} }}\n"
        );
        loaded(&text).revision.issuers.remove(0).jwks
    };
    assert_eq!(
        jwks("{ file: k.json }", "RS256"),
        JwksSource::File("conf/k.json".into())
    );
    assert_eq!(
        jwks("{ file: /etc/k.json }", "RS256"),
        JwksSource::File("/etc/k.json".into())
    );
    let secret = "c2VjcmV0".repeat(8);
    let inline = jwks(&format!("{{ keys: [{{ kty: oct, k: {secret} }}] }}"), "HS256");
    assert_eq!(format!("{inline:?}"), "Inline(1 keys)");
}

#[test]
fn scopes_need_tokens() {
    let found = mistakes(&with_api(
        "    auth: [api_key]\n    routes: [{ path: /, scopes: [s] }]\n",
    ));
    assert!(
        found.contains("r.yaml:8:34: API \"a\" asks for scopes here, which only tokens have"),
        "{found}"
    );
}

#[test]
fn keys_and_tokens_are_read_from_different_headers() {
    let text =
        with_api("    auth: none\n    credentials: { key_header: Authorization, key_query: key, forward: true }\n");
    assert!(mistakes(&text).contains("r.yaml:8:32: API \"a\" reads keys and tokens from the same header"));
    let text =
        with_api("    auth: none\n    credentials: { key_header: X-Key, key_query: key, token_header: X-Token }\n");
    let credentials = loaded(&text).revision.apis.remove(0).credentials;
    assert_eq!(credentials.key_header, "x-key");
    assert_eq!(credentials.token_header, "x-token");
    assert_eq!(credentials.key_query.as_deref(), Some("key"));
}

#[test]
fn a_revision_with_warnings_only_is_accepted() {
    let text = format!(
        "{}    limits: [{{ name: s, rate: 1/s, per: subject }}]\napplications:\n  - {{ name: m, keys: [{{ id: k, sha256: {}, expires: 2026-01-01T00:00:00Z }}] }}\n",
        with_api("    auth: [api_key]\n"),
        "ab".repeat(32)
    );
    assert_eq!(
        loaded(&text).warnings.to_string(),
        "\
r.yaml:4:11: warning: API \"a\" lets in keys only, and no application is subscribed to it
r.yaml:8:41: warning: this limit never counts, because API \"a\" is called without tokens
r.yaml:10:115: warning: a key of application \"m\" expired at 2026-01-01T00:00:00Z and is refused; remove the record when \
             it is no longer in use"
    );
}

#[test]
fn a_secret_from_a_file_is_in_no_message_wherever_it_is_misplaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, "hunter2/\"x\"\n").unwrap();
    let reference = format!("${{file:{}}}", path.display());
    for text in [
        format!("version: 1\nplans: [{{ name: p, limits: [{{ name: l, rate: '{reference}' }}] }}]\n"),
        format!("version: '{reference}'\n"),
        format!("version: 1\nupstreams: '{reference}'\n"),
        format!("{BASE}apis: [{{ name: a, base_path: /a, auth: '{reference}', upstream: '{reference}' }}]\n"),
        format!(
            "{BASE}apis: [{{ name: a, base_path: '{reference}', hosts: ['{reference}'], auth: none, upstream: u }}]\n"
        ),
        format!(
            "version: 1\nissuers: [{{ name: '{reference}', algorithms: ['{reference}'], jwks: {{ url: '{reference}' }} }}]\n"
        ),
        format!(
            "version: 1\napplications: [{{ name: x, keys: [{{ sha256: '{reference}', expires: '{reference}', type: '{reference}' }}] }}]\n"
        ),
    ] {
        let found = mistakes(&text);
        assert!(!found.contains("hunter2"), "{text} gave {found}");
    }
}

#[test]
fn not_even_a_part_of_a_secret_or_its_lower_case_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let reference = format!("${{file:{}}}", path.display());
    for secret in [
        &"Hunter2".repeat(500),
        "/Hunter2/",
        "/{Hunter2}/{Hunter2}",
        "Hunter2.example:80",
        "Hunter2\u{1b}[0m",
    ] {
        std::fs::write(&path, secret).unwrap();
        let found = mistakes(&format!(
            "{BASE}apis: [{{ name: a, base_path: '{reference}', hosts: ['{reference}'], auth: none, upstream: '{reference}', \
             routes: [{{ path: '{reference}', methods: ['{reference}'] }}] }}]\n"
        ));
        assert!(!found.to_ascii_lowercase().contains("hunter2"), "{secret} gave {found}");
        assert!(found.contains("does not fit here"), "{found}");
    }
}

#[test]
fn a_message_is_one_line_of_bounded_length_whatever_it_quotes() {
    let rate = |rate: &str| {
        mistakes(&format!(
            "version: 1\nplans: [{{ name: p, limits: [{{ name: l, rate: \"{rate}\" }}] }}]\n"
        ))
    };
    let found = rate("5\\n\\e[31m/s");
    assert_eq!(found.lines().count(), 1, "{found}");
    assert!(!found.contains('\u{1b}'), "{found}");
    assert!(rate(&"x".repeat(1_000_000)).len() < 5_000);
}

#[test]
fn a_later_check_can_add_to_what_was_found() {
    let text = with_api("    auth: none\n");
    let loaded_once = loaded(&text);
    let place = loaded_once.places[0].base_path;
    let warned = loaded_once
        .with([(place, Severity::Warning, "hides another".to_owned())])
        .unwrap();
    assert_eq!(warned.warnings.to_string(), "r.yaml:5:16: warning: hides another");
    let refused = warned
        .with([(place, Severity::Error, "is the same as another".to_owned())])
        .unwrap_err();
    assert_eq!(refused.len(), 2);
}

#[test]
fn a_list_that_could_not_be_read_does_not_make_every_reference_into_it_a_mistake() {
    let found =
        mistakes("version: 1\nupstreams: { name: u }\napis: [{ name: a, base_path: /, auth: none, upstream: u }]\n");
    assert_eq!(found, "r.yaml:2:12: expected a list, found a mapping");
}

#[test]
fn ten_thousand_routes_are_read_in_one_go() {
    let routes: String = (0..10_000)
        .map(|n| format!("      - {{ path: \"/r{n}/{{id}}\", methods: [GET] }}\n"))
        .collect();
    let text = with_api(&format!("    auth: none\n    routes:\n{routes}"));
    assert_eq!(loaded(&text).revision.apis[0].routes.len(), 10_000);
}

#[test]
fn the_schema_file_is_the_schema_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/schema/revision.schema.json");
    let expected = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == expected,
        "conf/schema/revision.schema.json is out of date; make it again with: tollgate schema revision > conf/schema/revision.schema.json"
    );
}

#[test]
fn the_shipped_revisions_have_no_mistakes_and_no_warnings() {
    for file in ["conf/revision.yaml", "conf/minimal/revision.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let loaded = load(&path, &environment()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        for issuer in &loaded.revision.issuers {
            let JwksSource::File(path) = &issuer.jwks else {
                continue;
            };
            let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            assert!(
                keys.keys
                    .iter()
                    .all(|key| jsonwebtoken::DecodingKey::from_jwk(key).is_ok())
            );
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_damage_to_a_good_file_makes_reading_panic(at in 0usize..6000, length in 0usize..40, with in "\\PC{0,8}") {
        let good = include_str!("../../../conf/revision.yaml");
        let (mut start, mut end) = (at.min(good.len()), (at + length).min(good.len()));
        while !good.is_char_boundary(start) { start -= 1; }
        while !good.is_char_boundary(end) { end -= 1; }
        let damaged = [&good[..start], &with, &good[end.max(start)..]].concat();
        let _ = parse(&damaged, "r.yaml", Path::new("conf"), &Environment::fixed([], Timestamp::UNIX_EPOCH));
    }
}

#[test]
fn an_issuer_has_keys_or_is_asked_and_an_api_says_which() {
    let text = |issuer: &str, auth: &str| {
        format!(
            "version: 1\nupstreams: [{{ name: u, endpoints: [{{ address: \"127.0.0.1:1\" }}] }}]\nissuers:\n  - {{ name: i, {issuer} }}\napis:\n  - {{ name: a, base_path: /, auth: [{auth}], upstream: u }}\n"
        )
    };
    let asked = "introspection: { url: https://idp/introspect, client_id: gw, client_secret: hunter2 }";
    let found = read(&text(asked, "{ introspection: i }")).unwrap().revision;
    assert_eq!(found.introspectors.len(), 1);
    assert_eq!(found.apis[0].auth, [crate::revision::AuthMethod::Introspection(0)]);
    assert!(!format!("{found:?}").contains("hunter2"));

    for (issuer, auth, expected) in [
        (
            asked,
            "{ jwt: i }",
            "r.yaml:6:44: API \"a\": the tokens of issuer \"i\" are asked about; write { introspection: \"i\" }",
        ),
        (
            "introspection: { url: https://idp/i, token: t }, leeway: 1s",
            "{ introspection: i }",
            "\"leeway\" says nothing about tokens that are asked about",
        ),
        (
            "introspection: { url: https://idp/i }",
            "{ introspection: i }",
            "has to say who asks",
        ),
        (
            "introspection: { url: https://idp/i, client_id: a, token: t }",
            "{ introspection: i }",
            "has to say who asks",
        ),
        (
            "introspection: { token: t }",
            "{ introspection: i }",
            "the introspection of issuer \"i\" has no \"url\"",
        ),
        (
            "introspection: { url: \"https://a:b@idp/i\", token: t }",
            "{ introspection: i }",
            "would show them in logs",
        ),
        (
            "introspection: { url: https://idp/i, token: t }, jwks: { url: https://idp/j }",
            "{ introspection: i }",
            "make it two issuers",
        ),
        (
            "introspection: { url: https://idp/i, token: \"a b\" }",
            "{ introspection: i }",
            "printable ASCII",
        ),
    ] {
        let found = read(&text(issuer, auth)).unwrap_err().to_string();
        assert!(found.contains(expected), "{issuer}: {found}");
    }
}
