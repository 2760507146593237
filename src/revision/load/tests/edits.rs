//! What APIs and routes say about requests and answers: what is read, and what is refused.

use std::time::Duration;

use http::StatusCode;

use super::super::super::{Action, OriginPattern, Share, Sticky};
use super::*;

/// A revision with an API of these lines, in flow style, in line 6.
fn with(lines: &str) -> String {
    format!(
        "version: 1
upstreams:
  - {{ name: orders, endpoints: [{{ address: \"127.0.0.1:1\" }}] }}
  - {{ name: orders-next, endpoints: [{{ address: \"127.0.0.1:2\" }}] }}
apis:
  - {{ name: a, base_path: /a, {lines} }}
"
    )
}

/// An open API in front of one upstream, with these lines beside.
fn open(lines: &str) -> String {
    with(&format!("auth: none, upstream: orders, {lines}"))
}

#[track_caller]
fn says(text: &str, expected: &str) {
    let found = mistakes(text);
    assert!(found.contains(expected), "{found}\ndoes not say: {expected}");
    let placed = found.lines().all(|line| line.starts_with("r.yaml:6:"));
    assert!(placed, "{found}\nis somewhere else");
}

#[test]
fn everything_that_can_be_said_is_read() {
    let text = with(
        r#"auth: none,
    cors: { origins: ["https://app.example.com", "https://*.example.org"], methods: [GET, POST], max_age: 10m },
    addresses: { allow: ["10.0.0.0/8"], deny: ["10.9.0.0/16"] },
    headers: { request: { set: { X-A: 1, Host: "orders.internal:81" }, add: { X-B: "2" }, remove: [X-C] } },
    body_bytes: 1MiB,
    upstreams: [ { name: orders, weight: 90 }, { name: orders-next, weight: 10 } ],
    split: { sticky: { cookie: session }, override_header: X-Upstream },
    routes: [
      { path: "/old/*", redirect: { to: "https://new.example.com/*", status: 301 } },
      { path: /ping, respond: { body: pong } },
      { path: "/v1/{id}", rewrite: "/internal/{id}", body_bytes: 2MiB },
      { path: / } ]"#,
    );
    let loaded = loaded(&text);
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let api = &loaded.revision.apis[0];
    let cors = api.cors.as_ref().unwrap();
    assert_eq!(cors.max_age, Some(Duration::from_secs(600)));
    assert_eq!(cors.headers, ["content-type"], "nobody asks for credentials here");
    assert!(matches!(&cors.origins[1], OriginPattern::Subdomains { suffix, .. } if suffix == ".example.org"));
    let fields: Vec<(&str, &str)> = (api.headers.request.set.iter())
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(fields, [("x-a", "1"), ("host", "orders.internal:81")]);
    assert_eq!(api.body_bytes, Some(1 << 20));
    let destinations = api.destinations.as_ref().unwrap();
    let share = |upstream, weight| Share { upstream, weight };
    assert_eq!(destinations.shares, [share(0, 90), share(1, 10)]);
    assert_eq!(destinations.sticky, Some(Sticky::Cookie("session".into())));
    let edits = |route: usize| api.routes[route].edits.as_ref();
    let Action::Redirect { to, status } = &edits(0).unwrap().action else {
        panic!("{:?}", edits(0));
    };
    assert_eq!(
        (to.origin.as_deref(), to.path.as_str()),
        (Some("https://new.example.com"), "/*")
    );
    assert_eq!(*status, StatusCode::MOVED_PERMANENTLY);
    let Action::Respond(respond) = &edits(1).unwrap().action else {
        panic!("{:?}", edits(1));
    };
    assert_eq!((respond.status, respond.body.as_str()), (StatusCode::OK, "pong"));
    assert_eq!(respond.content_type.as_ref().unwrap(), "text/plain; charset=utf-8");
    assert_eq!(edits(2).unwrap().body_bytes, Some(2 << 20));
    assert!(edits(3).is_none());
}

#[test]
fn the_headers_that_carry_credentials_may_be_sent_by_scripts_unless_a_list_says_otherwise() {
    let cors = |more: &str| {
        let text = with(&format!(
            "auth: [api_key], credentials: {{ key_header: X-Key }}, upstream: orders, cors: {{ origins: [\"*\"]{more} }}"
        ));
        loaded(&text).revision.apis[0].cors.clone().unwrap().headers
    };
    assert_eq!(cors(""), ["content-type", "x-key"]);
    assert_eq!(cors(", headers: []"), [""; 0]);
}

#[test]
fn addresses_that_contradict_each_other_are_refused() {
    for (lines, expected) in [
        ("addresses: {}", "neither \"allow\" nor \"deny\""),
        ("addresses: { allow: [] }", "empty list of addresses"),
        (
            "addresses: { allow: [10.0.0.0/8, 10.1.0.0/8] }",
            "the range 10.0.0.0/8 twice",
        ),
        (
            "addresses: { allow: [10.0.0.0/8], deny: [10.0.0.0/8] }",
            "both allows and denies 10.0.0.0/8",
        ),
        ("addresses: { deny: [10.0.0.0/33] }", "not an address range"),
        (
            "routes: [{ path: /, addresses: { allow: [localhost] } }]",
            "not an address range",
        ),
    ] {
        says(&open(lines), expected);
    }
}

#[test]
fn cors_that_no_browser_would_follow_is_refused() {
    for (lines, expected) in [
        ("cors: {}", "no \"origins\""),
        ("cors: { origins: [\"*\"], credentials: true }", "browsers refuse"),
        ("cors: { origins: [\"*\", \"https://a.example\"] }", "every origin"),
        (
            "cors: { origins: [\"https://a.example\", \"https://a.example\"] }",
            "twice",
        ),
        (
            "cors: { origins: [\"https://a.example\"], headers: [\"*\"], credentials: true }",
            "browsers refuse",
        ),
        (
            "cors: { origins: [\"https://a.example\"], methods: [get] }",
            "write \"GET\"",
        ),
        (
            "cors: { origins: [\"https://a.example\"], methods: [] }",
            "no \"methods\"",
        ),
        ("cors: { origins: [\"https://a.example\"], max_age: 2d }", "at most 1d"),
        (
            "cors: { origins: [\"https://a.example\"], expose: [\"a b\"] }",
            "neither a name nor *",
        ),
        ("cors: { origin: [\"https://a.example\"] }", "did you mean \"origins\"?"),
        (
            "cors: { origins: [\"*\"] }, headers: { response: { set: { Access-Control-Max-Age: 1 } } }",
            "it is what \"cors\" says",
        ),
    ] {
        says(&open(lines), expected);
    }
}

#[test]
fn fields_that_are_the_gateways_own_or_said_twice_are_refused() {
    let request = |edits: &str| open(&format!("headers: {{ request: {{ {edits} }} }}"));
    let response = |edits: &str| open(&format!("headers: {{ response: {{ {edits} }} }}"));
    for (name, why) in [
        ("Content-Length", "where a message ends"),
        ("Transfer-Encoding", "where a message ends"),
        ("Connection", "one connection"),
        ("X-Forwarded-For", "where the request came from"),
        ("X-Application", "who calls"),
        ("X-Key-Type", "who calls"),
        ("X-Request-Id", "names the request"),
        ("traceparent", "names the request"),
    ] {
        says(&request(&format!("set: {{ {name}: a }}")), why);
        says(&request(&format!("add: {{ {name}: a }}")), why);
        says(&request(&format!("remove: [{name}]")), why);
    }
    for (text, expected) in [
        (request("remove: [Host]"), "without which no request is whole"),
        (request("add: { Host: b }"), "a second \"host\""),
        (request("set: { Host: \"a b\" }"), "neither a host nor"),
        (request("set: { Host: \"u@h\" }"), "neither a host nor"),
        (request("set: { X-A: 1, x-a: 2 }"), "sets \"x-a\" twice"),
        (request("set: { X-A: 1 }, remove: [X-A]"), "both removes and sets"),
        (request("remove: [X-A, x-a]"), "removes \"x-a\" twice"),
        (request("set: { \"X A\": 1 }"), "not the name of a header"),
        (request("set: { X-A: \"a\\r\\nX-B: 1\" }"), "line break"),
        (request("set: { X-A: [1] }"), "found a list"),
        (response("set: { RateLimit: 1 }"), "limits of the gateway"),
        (response("remove: [X-Request-Id]"), "names the request"),
    ] {
        says(&text, expected);
    }
    // Without cors, an API may say these by hand.
    loaded(&response("set: { Access-Control-Allow-Origin: \"*\", Host: ok }"));
}

#[test]
fn what_a_route_does_instead_of_forwarding_is_checked_against_its_path() {
    let route = |route: &str| open(&format!("routes: [{{ {route} }}]"));
    for (text, expected) in [
        (
            route("path: \"/v1/{id}\", rewrite: \"/x/{ID}\""),
            "takes over {ID}, which the path \"/a/v1/{id}\" of its route does not have; did you mean \"{id}\"?",
        ),
        (route("path: /v1, rewrite: \"/x/*\""), "takes over *"),
        (route("path: /v1, rewrite: x"), "has to start with /"),
        (route("path: /v1, rewrite: /a/../b"), ". or .."),
        (route("path: /v1, rewrite: \"//b\""), "empty segment"),
        (
            route("path: /v1, rewrite: /x, redirect: { to: /y }"),
            "both \"rewrite\" and \"redirect\"",
        ),
        (
            route("path: /v1, respond: {}, redirect: { to: /y }"),
            "both \"redirect\" and \"respond\"",
        ),
        (route("path: /v1, redirect: {}"), "no \"to\""),
        (
            route("path: /v1, redirect: { to: /y, status: 304 }"),
            "has to be 301, 302, 303, 307 or 308",
        ),
        (
            route("path: \"/v1/*\", redirect: { to: \"/a/v1/*\" }"),
            "leads to itself",
        ),
        (
            route("path: \"/{h}\", redirect: { to: \"https://{h}/\" }"),
            "clients choose",
        ),
        (
            route("path: /v1, redirect: { to: \"//evil.example\" }"),
            "empty segment",
        ),
        (route("path: /v1, respond: { status: 100 }"), "from 200 to 599"),
        (route("path: /v1, respond: { status: 204, body: a }"), "has no body"),
        (
            route("path: /v1, respond: { headers: { Content-Type: a } }"),
            "write \"content_type\"",
        ),
        (
            route("path: /v1, respond: { headers: { Content-Length: 1 } }"),
            "where a message ends",
        ),
        (
            route("path: /v1, respond: { status: 302, headers: { Location: /x } }"),
            "write \"redirect\"",
        ),
        (
            route(&format!("path: /v1, respond: {{ body: {} }}", "x".repeat(65 * 1024))),
            "longer than the 64 KiB",
        ),
        (route("path: /v1, body_bytes: 1"), "not a size"),
    ] {
        says(&text, expected);
    }
}

#[test]
fn an_api_needs_an_upstream_unless_all_of_its_routes_answer_by_themselves() {
    loaded(&with(
        "auth: none, routes: [{ path: /, respond: { body: a } }, { path: /b, redirect: { to: /c } }]",
    ));
    for lines in [
        "auth: none",
        "auth: none, sandbox_upstream: orders",
        "auth: none, routes: [{ path: /, respond: { body: a } }, { path: /b }]",
        "auth: none, routes: [{ path: /, respond: { body: a } }], sandbox_upstream: orders",
    ] {
        says(&with(lines), "API \"a\" has no \"upstream\"");
    }
}

#[test]
fn splits_that_can_not_be_meant_are_refused() {
    for (lines, expected) in [
        (
            "upstream: orders, upstreams: [{ name: orders, weight: 1 }]",
            "both \"upstream\" and \"upstreams\"",
        ),
        (
            "upstream: orders, split: { sticky: caller }",
            "no \"upstreams\" between which",
        ),
        ("upstreams: []", "at least one"),
        (
            "upstreams: [{ name: orders, weight: 0 }]",
            "every weight of API \"a\" is 0",
        ),
        ("upstreams: [{ name: orders, weight: 1001 }]", "from 0 to 1000"),
        ("upstreams: [{ name: orders }]", "no \"weight\""),
        ("upstreams: [{ weight: 1 }]", "no \"name\""),
        (
            "upstreams: [{ name: orders, weight: 1 }, { name: orders, weight: 2 }]",
            "has this upstream twice; the first is in line 6",
        ),
        (
            "upstreams: [{ name: order-next, weight: 1 }]",
            "did you mean \"orders-next\"?",
        ),
        (
            "upstream: orders, sandbox_upstream: nope",
            "upstream \"nope\" does not exist",
        ),
        (
            "upstreams: [{ name: orders, weight: 1 }], split: { sticky: callr }",
            "did you mean \"caller\"?",
        ),
        (
            "upstreams: [{ name: orders, weight: 1 }], split: { sticky: { cookie: \"a b\" } }",
            "not the name of a cookie",
        ),
        (
            "upstreams: [{ name: orders, weight: 1 }], split: { override_header: Host }",
            "for a choice",
        ),
    ] {
        says(&with(&format!("auth: none, {lines}")), expected);
    }
    let warned = loaded(&open("sandbox_upstream: orders-next")).warnings.to_string();
    assert!(warned.contains("\"sandbox_upstream\" never answers"), "{warned}");
}
