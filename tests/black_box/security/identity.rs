//! Who somebody claims to be: fields that only the gateway may write, and attempts to take them away.

use super::{SMUGGLED, Siege};
use crate::harness::*;

/// Everything that the gateway writes for the service, and what it must say.
const OURS: [(&str, &str); 5] = [
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Host", "api.test"),
    ("X-Application", "mobile"),
    ("X-Key-Type", "production"),
];

/// The fields with a value that changes.
const OURS_TOO: [&str; 2] = ["X-Request-Id", "traceparent"];

#[track_caller]
fn has_ours(what: &str, echo: &Received) {
    for (name, value) in OURS {
        assert_eq!(echo.all(name), [value], "{what}: {name}");
    }
    for name in OURS_TOO {
        assert_eq!(echo.all(name).len(), 1, "{what}: {name}");
        assert!(!echo.all(name)[0].contains("evil"), "{what}: {name}");
    }
}

fn with_key(siege: &Siege) -> Request {
    siege.gateway.client().get("/orders").host("api.test").key(KEY)
}

#[test]
fn no_field_of_the_gateway_can_be_dropped_by_naming_it_in_connection() {
    let siege = Siege::begin();
    let others = [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Authorization",
        "X-API-Key",
        "Cookie",
        "Forwarded",
        "X-Real-IP",
        "X-Consumer-Username",
        "Expect",
    ];
    for name in OURS.iter().map(|(name, _)| *name).chain(OURS_TOO).chain(others) {
        let lower = name.to_ascii_lowercase();
        for list in [
            name.to_owned(),
            lower,
            format!("close, {name}"),
            format!("{name} , keep-alive"),
            format!("x,,{name}"),
        ] {
            let before = siege.origin.bytes();
            let answer = with_key(&siege).header("Connection", &list).send();
            if answer.status == 400 {
                assert_eq!(siege.origin.bytes(), before, "{list}");
            } else {
                has_ours(&list, &answer.expect(200).echo());
            }
        }
        // Two lines are one list.
        let answer = with_key(&siege)
            .header("Connection", "keep-alive")
            .header("connection", name)
            .send();
        if answer.status != 400 {
            has_ours(name, &answer.expect(200).echo());
        }
    }
    siege.leaves_it_unharmed();
}

#[test]
fn what_else_is_named_in_connection_ends_at_the_gateway() {
    let siege = Siege::begin();
    let echo = with_key(&siege)
        .header("Connection", "X-Private, keep-alive, TE")
        .header("X-Private", "1")
        .header("Keep-Alive", "timeout=5")
        .header("TE", "gzip")
        .header("Proxy-Connection", "keep-alive")
        .send()
        .expect(200)
        .echo();
    has_ours("Connection", &echo);
    for name in ["X-Private", "Keep-Alive", "TE", "Proxy-Connection"] {
        assert!(echo.all(name).is_empty(), "{name} reached the service");
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_connection_that_is_no_list_of_names_is_refused() {
    let siege = Siege::begin();
    for value in [
        "\"X-Application\"",
        "X-Application;q=1",
        "@",
        ":authority",
        "x y",
        "(close)",
        "x-a\u{e9}",
    ] {
        let attack = format!("GET /open HTTP/1.1\r\nHost: a\r\nConnection: {value}\r\n\r\n");
        siege.refuses(value, &[attack.as_bytes(), SMUGGLED].concat(), 400);
    }
    siege.leaves_it_unharmed();
}

/// What a stranger says about himself or about the way here.
const CLAIMS: [&str; 25] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "Forwarded",
    "X-Real-IP",
    "X-Client-IP",
    "X-Application",
    "X-Key-Type",
    "X-Consumer-ID",
    "X-Consumer-Custom-ID",
    "X-Consumer-Username",
    "X-Consumer-Groups",
    "X-Credential-Identifier",
    "X-Anonymous-Consumer",
    "X-Authenticated-UserId",
    "X-Authenticated-Scope",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-Request-Id",
    "traceparent",
    "X-API-Key",
];

#[test]
fn whatever_a_stranger_claims_is_dropped_or_overwritten_however_it_is_written() {
    let siege = Siege::begin();
    for name in CLAIMS {
        let underscores = name.replace('-', "_");
        let mixed = name.replacen('-', "_", 1);
        for written in [name.to_owned(), name.to_ascii_uppercase(), underscores, mixed] {
            if written.eq_ignore_ascii_case("x-api-key") {
                continue;
            }
            let echo = with_key(&siege)
                .header(&written, "evil, 6.6.6.6")
                .header(&written, "evil")
                .send()
                .expect(200)
                .echo();
            has_ours(&written, &echo);
            let through = echo
                .headers
                .iter()
                .find(|(_, value)| value.contains("evil") || value.contains("6.6.6.6"));
            assert_eq!(through, None, "{written} reached the service");
        }
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_stranger_without_credential_gets_no_identity() {
    let siege = Siege::begin();
    let echo = siege
        .gateway
        .client()
        .get("/open")
        .header("X-Application", "mobile")
        .header("X-Key-Type", "production")
        .header("X_Application", "mobile")
        .send()
        .expect(200)
        .echo();
    for name in ["X-Application", "X-Key-Type", "X_Application"] {
        assert!(echo.all(name).is_empty(), "{name}");
    }
    siege.leaves_it_unharmed();
}

#[test]
fn a_trusted_proxy_is_believed_and_its_chain_goes_on() {
    let siege = Siege::of(Origin::start(echo()), |setup| {
        setup.server("trusted_proxies: [\"127.0.0.0/8\", \"10.0.0.0/8\"]")
    });
    let answer = siege
        .gateway
        .client()
        .get("/open")
        .header("X-Forwarded-For", "6.6.6.6, 198.51.100.4, 10.1.1.1")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "api.test")
        .header("X-Application", "evil")
        .send()
        .expect(200);
    let echo = answer.echo();
    assert_eq!(
        echo.all("X-Forwarded-For"),
        ["6.6.6.6, 198.51.100.4, 10.1.1.1, 127.0.0.1"]
    );
    assert_eq!(echo.all("X-Forwarded-Proto"), ["https"]);
    assert_eq!(echo.all("X-Forwarded-Host"), ["api.test"]);
    assert!(echo.all("X-Application").is_empty(), "an identity is nobody's to claim");
    let record = siege.gateway.access_record(answer.header("x-request-id").unwrap());
    assert_eq!(record["client"], "198.51.100.4", "the rightmost that is not trusted");
    siege.leaves_it_unharmed();
}

#[test]
fn an_address_from_a_private_range_is_a_stranger_unless_it_is_listed() {
    let siege = Siege::of(Origin::start(echo()), |setup| {
        setup.server("trusted_proxies: [\"10.0.0.0/8\"]")
    });
    let answer = siege
        .gateway
        .client()
        .get("/open")
        .header("X-Forwarded-For", "10.0.0.9")
        .send()
        .expect(200);
    assert_eq!(answer.echo().all("X-Forwarded-For"), ["127.0.0.1"]);
    siege.leaves_it_unharmed();
}

/// Both sides of an hour, in case a test runs across its end.
const TWO_WINDOWS: usize = 20;

#[test]
fn a_thousand_invented_addresses_still_meet_one_limit() {
    let origin = Origin::start(echo());
    let revision = revision(&origin).api(
        "{ name: limited, base_path: /limited, auth: none, upstream: origin, \
         limits: [{ name: each, rate: 10/h, per: ip }] }",
    );
    let gateway = Gateway::with(revision).start();
    let mut connection = gateway.raw();
    let mut admitted = 0;
    for n in 0..1000_u32 {
        let address = std::net::Ipv4Addr::from(n.wrapping_mul(2_654_435_761));
        let answer = gateway
            .client()
            .get("/limited")
            .header("X-Forwarded-For", &address.to_string())
            .header("X-Real-IP", &address.to_string())
            .header("Forwarded", &format!("for={address}"))
            .send_on(&mut connection);
        match answer.status {
            200 => admitted += 1,
            _ => drop(answer.expect_refusal(429, "rate_limited")),
        }
    }
    assert!((10..=TWO_WINDOWS).contains(&admitted), "{admitted} admitted");
    assert_eq!(origin.requests(), admitted);
    drop(connection);
    gateway.assert_unharmed(&origin, "/open");
}

#[test]
fn two_credentials_are_refused_even_when_they_agree() {
    let siege = Siege::begin();
    let request = || siege.gateway.client().get("/orders");
    for request in [
        request().key(KEY).key(KEY),
        request().key(KEY).key(OTHER_KEY),
        request().key(OTHER_KEY).key(KEY),
        request().key(KEY).header("x-api-key", ""),
        request().key(KEY).token("a.b.c"),
        request().token("a.b.c").token("a.b.c"),
    ] {
        request.send().expect_refusal(401, "credential_invalid");
    }
    assert_eq!(siege.origin.bytes(), 0);
    siege.leaves_it_unharmed();
}

#[test]
fn every_wrong_credential_gets_the_same_words() {
    let siege = Siege::begin();
    let mut said = Vec::new();
    let altered = format!("{}X", &KEY[..KEY.len() - 1]);
    let long = "x".repeat(16 * 1024);
    let long_key = format!("{KEY}{long}");
    for key in [
        OTHER_KEY,
        &altered,
        "tg_live_",
        "x",
        "",
        "'; drop table keys --",
        "\u{e9}",
        &long,
        &long_key,
        "Bearer x",
    ] {
        let answer = siege.gateway.client().get("/orders").key(key).send();
        assert_eq!(answer.status, 401, "{key:.60}: {answer:?}");
        let id = answer.header("x-request-id").unwrap_or_default().to_owned();
        said.push((key.to_owned(), answer.text().replace(&id, "")));
    }
    for (key, text) in &said {
        assert_eq!(text, &said[0].1, "{key:.60}");
    }
    assert_eq!(siege.origin.bytes(), 0);
    siege.leaves_it_unharmed();
}

/// A sample only: every attack of the notes is a row in `src/auth`.
#[test]
fn attack_tokens_are_refused_at_once_and_in_the_same_words() {
    let origin = Origin::start(echo());
    let octets = "{ kty: RSA, kid: k1, use: sig, alg: RS256, n: \
        \"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMs\
        tn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbI\
        SD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw\", e: AQAB }";
    let revision = Revision::of(&origin)
        .issuer(&format!(
            "{{ name: corp, issuer: \"https://idp.test\", audience: [orders], algorithms: [RS256], jwks: {{ keys: [{octets}] }} }}"
        ))
        .api("{ name: tokens, base_path: /tokens, auth: [{ jwt: corp }], upstream: origin }")
        .api("{ name: open, base_path: /open, auth: none, upstream: origin }");
    let siege = Siege {
        gateway: Gateway::with(revision).start(),
        origin,
    };
    let b64 = |text: &str| base64_url(text.as_bytes());
    let claims = b64(r#"{"iss":"https://idp.test","aud":"orders","exp":4102444800,"sub":"x"}"#);
    let token = |header: &str| format!("{}.{claims}.{}", b64(header), b64("signature"));
    let none = b64(r#"{"alg":"none"}"#);
    let rs256 = b64(r#"{"alg":"RS256","kid":"k1"}"#);
    let rows = [
        format!("{none}.{claims}."),
        format!("{none}.{claims}"),
        token(r#"{"alg":"None","kid":"k1"}"#),
        token(r#"{"alg":"HS256","kid":"k1"}"#),
        token(r#"{"alg":"RS256","kid":"../../etc/passwd"}"#),
        token(&format!(
            r#"{{"alg":"RS256","jku":"http://{}/open/jwks"}}"#,
            siege.gateway.address()
        )),
        token(&format!(
            r#"{{"alg":"RS256","kid":"new","x5u":"http://{}/open/x5u"}}"#,
            siege.origin.address()
        )),
        token(r#"{"alg":"RS256","kid":"k1","crit":["x"],"x":1}"#),
        format!("{rs256}.{claims}.=="),
        format!("{rs256}.{claims}.."),
        format!(".{rs256}.{claims}."),
        format!("{rs256}.{}.{}", b64("[1]"), b64("signature")),
        "....".to_owned(),
        ".".to_owned(),
        "garbage".to_owned(),
        "x".repeat(20 * 1024),
    ];
    let mut said = Vec::new();
    for row in rows {
        let started = std::time::Instant::now();
        let answer = siege.gateway.client().get("/tokens").token(&row).send();
        assert!(started.elapsed().as_secs() < 2, "{row:.80}");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "credential_invalid"),
            "{row:.80}: {answer:?}"
        );
        let id = answer.header("x-request-id").unwrap_or_default().to_owned();
        said.push(answer.text().replace(&id, ""));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(siege.origin.bytes(), 0, "something was fetched, or let in");
    siege.leaves_it_unharmed();
}

fn base64_url(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
