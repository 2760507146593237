//! Keys and tokens, told through the routes on a real store; and a gateway's own code that takes the tokens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::hash_of;
use crate::auth::key::KeyText;
use crate::auth::testing::{api, application, bearer, compile, issuer};
use crate::auth::{Denial, Introspectors, KeySets};
use crate::config::{KeyCache, KeyCacheLocation};
use crate::control_plane::access::Scope;
use crate::control_plane::pools::testing::{Answer, House, NOW};
use crate::control_plane::store::{Changes, Expected, KeyWrite, ObjectChange, ObjectKind};
use crate::control_plane::testing::Log;
use crate::distribution::KeyEntry;
use crate::document::Secret;
use crate::revision::{AuthMethod, IntrospectionCredential, Introspector, JwksSource, KeyType, Revision};

const ISSUER: &str = "https://cp.example.com";

// === Introspection ===

#[tokio::test]
async fn a_live_key_is_told_with_its_application_and_nothing_is_told_of_any_other() {
    let desk = Desk::new().await;
    let live = desk.key("mobile", "mobile-1", None).await;
    let ending = desk.key("mobile", "mobile-2", Some(NOW + 10_000)).await;
    let revoked = desk.key("mobile", "mobile-3", None).await;
    desk.write(KeyWrite::RevokeId("mobile-3".to_owned())).await;

    let answer = desk.introspect(&live).await;
    assert_eq!(
        answer.json(),
        json!({
            "active": true, "client_id": "mobile", "key_id": "mobile-1", "key_type": "production",
            "token_type": "api_key", "iat": NOW / 1000,
        })
    );
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(desk.introspect(&ending).await.json()["exp"], NOW / 1000 + 10);
    desk.house.wait(10_000);
    for token in [&ending, &revoked, "tg_live_unknown", "a.b.c", "ä", &"x".repeat(20_000)] {
        let answer = desk.introspect(token).await;
        assert_eq!(
            (answer.status, answer.json()),
            (StatusCode::OK, json!({ "active": false })),
            "{token}"
        );
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn a_revoked_key_ends_at_once_though_it_is_remembered_and_a_new_one_is_not_held_for_unknown() {
    let desk = Desk::new().await;
    let text = desk.key("mobile", "mobile-1", None).await;
    assert_eq!(desk.introspect(&text).await.json()["active"], true);
    assert!(desk.house.plane.key_manager.memory.remembers(&hash_of(&text)));

    // A change that this node has not heard of yet is seen by who wants no cached answer.
    let write = KeyWrite::RevokeId("mobile-1".to_owned());
    let seq = desk.house.plane.store.write_keys(&[write], NOW).await.unwrap();
    assert_eq!(desk.introspect(&text).await.json()["active"], true, "from memory");
    assert_eq!(desk.introspect_afresh(&text).await.json()["active"], false);

    let text = desk.key("mobile", "mobile-2", None).await;
    assert_eq!(desk.introspect(&text).await.json()["active"], true);
    desk.house.plane.heads.keys_written(seq);
    desk.write(KeyWrite::RevokeId("mobile-2".to_owned())).await;
    assert_eq!(desk.introspect(&text).await.json()["active"], false, "heard of");

    let text = KeyText::generate(KeyType::Sandbox).unwrap().reveal().to_owned();
    assert_eq!(desk.introspect(&text).await.json()["active"], false);
    desk.add(&text, "mobile", "mobile-3", None).await;
    assert_eq!(desk.introspect(&text).await.json()["active"], true);
}

#[tokio::test]
async fn a_long_change_of_the_key_log_forgets_everything_instead_of_reading_it() {
    let desk = Desk::new().await;
    let text = desk.key("mobile", "mobile-1", None).await;
    assert_eq!(desk.introspect(&text).await.json()["active"], true);
    let mut writes = vec![KeyWrite::RevokeId("mobile-1".to_owned())];
    writes.extend((0..12_000_u128).map(|number| {
        KeyWrite::Create(KeyEntry {
            hash: crate::distribution::KeyHash(number.to_be_bytes()),
            id: format!("bulk-{number}"),
            application: "bulk".to_owned(),
            key_type: KeyType::Sandbox,
            expires_ms: None,
        })
    }));
    let seq = desk.house.plane.store.write_keys(&writes, NOW).await.unwrap();
    desk.house.plane.heads.keys_written(seq);
    assert_eq!(desk.introspect(&text).await.json()["active"], false);
}

#[tokio::test]
async fn a_node_that_starts_after_the_log_was_trimmed_answers_all_the_same() {
    let desk = Desk::new().await;
    let text = desk.key("mobile", "mobile-1", None).await;
    let other = desk.key("mobile", "mobile-2", None).await;
    desk.house.plane.store.trim_key_log(u64::MAX).await.unwrap();
    // Nothing of the log was read before: a new node knows the end of it only.
    assert_eq!(desk.introspect(&text).await.json()["active"], true);
    desk.write(KeyWrite::RevokeId("mobile-1".to_owned())).await;
    assert_eq!(desk.introspect(&text).await.json()["active"], false);
    assert_eq!(desk.introspect(&other).await.json()["active"], true);
}

#[tokio::test]
async fn what_a_slow_lookup_has_found_is_not_kept_when_the_log_went_on() {
    let desk = Desk::new().await;
    let plane = &desk.house.plane;
    let memory = &plane.key_manager.memory;
    let text = desk.key("mobile", "mobile-1", None).await;
    let hash = hash_of(&text);
    desk.introspect("another").await;
    let seq = memory.followed();
    let found = plane.store.key_by_hash(&hash).await.unwrap();
    desk.write(KeyWrite::RevokeId("mobile-1".to_owned())).await;
    desk.introspect("another").await;
    memory.land(&hash, found.clone(), seq);
    assert!(found.is_some() && !memory.remembers(&hash));
    assert_eq!(desk.introspect(&text).await.json()["active"], false);
    memory.land(&hash, None, memory.followed());
    assert!(memory.remembers(&hash));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_under_way_does_not_bring_a_revoked_key_back() {
    let desk = Arc::new(Desk::new().await);
    for round in 0..20 {
        let id = format!("mobile-{round}");
        let text = desk.key("mobile", &id, None).await;
        let (stop, stopped) = watch::channel(false);
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (desk, text, stopped) = (Arc::clone(&desk), text.clone(), stopped.clone());
            asking.spawn(async move {
                while !*stopped.borrow() {
                    desk.introspect_afresh(&text).await;
                    desk.introspect(&text).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        desk.write(KeyWrite::RevokeId(id)).await;
        assert_eq!(desk.introspect(&text).await.json()["active"], false);
        stop.send_replace(true);
        asking.join_all().await;
        assert_eq!(desk.introspect(&text).await.json()["active"], false, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_asks_about_a_key_understands_the_answer() {
    let desk = Desk::new().await;
    let (address, server) = desk.serve().await;
    let revision = Revision {
        introspectors: vec![Introspector {
            name: "keys".into(),
            url: format!("http://{address}/oauth2/introspect"),
            credential: IntrospectionCredential::Bearer(desk.house.gateway.clone()),
            issuer: Some(ISSUER.to_owned()),
            audience: vec![ISSUER.to_owned()],
            application_claim: Some("client_id".to_owned()),
        }],
        apis: vec![api("orders", vec![AuthMethod::Introspection(0)])],
        applications: vec![application("mobile", &[0], Vec::new())],
        ..Revision::default()
    };
    let settings = KeyCache {
        location: KeyCacheLocation::KeyManager,
        ..KeyCache::default()
    };
    let gateway =
        compile(&revision, &KeySets::offline()).with_introspectors(&revision, &Introspectors::new(&settings).unwrap());

    let key = desk.key("mobile", "mobile-1", None).await;
    let caller = gateway.identify(0, &[], &bearer(&key), None, None, NOW).await.unwrap();
    assert_eq!(caller.application(), Some(0));
    desk.write(KeyWrite::RevokeId("mobile-1".to_owned())).await;
    let refused = gateway.identify(0, &[], &bearer(&key), None, None, NOW).await;
    assert!(refused.is_err(), "asked again, because the gateway remembers nothing");
    server.abort();
}

#[tokio::test]
async fn introspection_is_for_who_has_the_right_to_it() {
    let desk = Desk::new().await;
    for scope in Scope::ALL {
        let token = desk.house.token(&[scope], &[]).await;
        let answer = desk
            .post(
                "/oauth2/introspect",
                &[("token", "x")],
                &[("authorization", &bearing(&token))],
            )
            .await;
        let expected = match scope {
            Scope::Admin | Scope::Gateway | Scope::Introspect => StatusCode::OK,
            _ => StatusCode::FORBIDDEN,
        };
        assert_eq!(answer.status, expected, "{scope}");
    }
    let nobody = desk.post("/oauth2/introspect", &[("token", "x")], &[]).await;
    assert_eq!(
        (nobody.status, nobody.header("www-authenticate")),
        (StatusCode::UNAUTHORIZED, "Bearer")
    );
    let empty = desk.introspect("").await;
    assert_eq!(
        (empty.status, &empty.json()["error"]),
        (StatusCode::BAD_REQUEST, &json!("invalid_request"))
    );
}

// === Tokens ===

#[tokio::test]
async fn an_application_gets_a_token_that_introspection_knows_until_it_or_its_key_ends() {
    let desk = Desk::new().await;
    let secret = desk.key("mobile", "mobile-1", None).await;
    let answer = desk.grant("mobile", &secret, &[]).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    let granted = answer.json();
    assert_eq!(
        (&granted["token_type"], &granted["expires_in"]),
        (&json!("Bearer"), &json!(600))
    );
    let token = granted["access_token"].as_str().unwrap();
    let worth = desk.introspect(token).await.json();
    assert_eq!(worth["jti"].as_str().unwrap().len(), 22);
    for (name, value) in [
        ("active", json!(true)),
        ("client_id", json!("mobile")),
        ("sub", json!("mobile")),
        ("iss", json!(ISSUER)),
        ("aud", json!([ISSUER])),
        ("exp", json!(NOW / 1000 + 600)),
        ("iat", json!(NOW / 1000)),
        ("key_type", json!("production")),
        ("key_id", json!("mobile-1")),
        ("token_type", json!("Bearer")),
    ] {
        assert_eq!(worth[name], value, "{name}");
    }

    let signature = token.rfind('.').unwrap() + 1;
    let mut forged = token.to_owned();
    let other = if &token[signature..=signature] == "A" { "B" } else { "A" };
    forged.replace_range(signature..=signature, other);
    assert_eq!(desk.introspect(&forged).await.json(), json!({ "active": false }));
    desk.house.wait(599_999);
    assert_eq!(desk.introspect(token).await.json()["active"], true);
    desk.house.wait(1);
    assert_eq!(desk.introspect(token).await.json(), json!({ "active": false }));

    let granted = desk.grant("mobile", &secret, &[]).await.json();
    let token = granted["access_token"].as_str().unwrap();
    desk.write(KeyWrite::RevokeId("mobile-1".to_owned())).await;
    assert_eq!(
        desk.introspect(token).await.json(),
        json!({ "active": false }),
        "its key was revoked"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_accepts_the_token_by_the_published_key_set() {
    let desk = Desk::new().await;
    let (address, server) = desk.serve().await;

    let mut trusted = issuer(JwksSource::Url(format!("http://{address}/oauth2/jwks.json")));
    trusted.issuer = ISSUER.to_owned();
    trusted.audience = vec!["https://orders.example.com/".to_owned()];
    trusted.algorithms = vec![Algorithm::EdDSA];
    trusted.application_claim = Some("azp".to_owned());
    let revision = Revision {
        issuers: vec![trusted],
        apis: vec![api("orders", vec![AuthMethod::Jwt(0)])],
        applications: vec![application("mobile", &[0], Vec::new())],
        ..Revision::default()
    };
    let (stop, stopped) = watch::channel(false);
    let authenticator = compile(&revision, &KeySets::new(tokio::runtime::Handle::current(), stopped));

    let secret = desk.key("mobile", "mobile-1", None).await;
    let other = desk.key("other", "other-1", None).await;
    let resource = [("resource", "https://orders.example.com/")];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let caller = loop {
        let token = desk.token("mobile", &secret, &resource).await;
        match authenticator.identify(0, &[], &bearer(&token), None, None, NOW).await {
            // The key set may be on its way still.
            Err(Denial::KeysUnavailable) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => break other.unwrap(),
        }
    };
    assert_eq!((caller.application(), caller.subject().unwrap()), (Some(0), "mobile"));
    let refused = [
        desk.token("mobile", &secret, &[]).await,
        desk.token("mobile", &secret, &[("audience", "somebody else")]).await,
        desk.token("other", &other, &resource).await,
    ];
    for token in refused {
        let verdict = authenticator.identify(0, &[], &bearer(&token), None, None, NOW).await;
        assert!(verdict.is_err(), "not for this API, or not subscribed to it");
    }
    let late = desk.token("mobile", &secret, &resource).await;
    let verdict = authenticator
        .identify(0, &[], &bearer(&late), None, None, NOW + 600_000)
        .await;
    assert_eq!(verdict.map(drop), Err(Denial::CredentialExpired));
    stop.send_replace(true);
    server.abort();
}

#[tokio::test]
async fn a_client_shows_its_secret_in_one_of_two_ways_and_each_part_is_decoded() {
    let desk = Desk::new().await;
    let secret = "legacy secret: 100%";
    desk.add(secret, "https://client.example", "legacy", None).await;
    let id = "https%3A%2F%2Fclient.example";
    let basic = format!("Basic {}", BASE64.encode(format!("{id}:legacy+secret%3A%20100%25")));
    let form = [("grant_type", "client_credentials")];
    let answer = desk.post("/oauth2/token", &form, &[("authorization", &basic)]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(
        desk.grant("https://client.example", secret, &[]).await.status,
        StatusCode::OK
    );

    let both = [
        ("grant_type", "client_credentials"),
        ("client_id", "https://client.example"),
        ("client_secret", secret),
    ];
    let refused = desk.post("/oauth2/token", &both, &[("authorization", &basic)]).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]),
        (400, &json!("invalid_request"))
    );
}

#[tokio::test]
async fn each_wrong_secret_gets_the_same_answer_and_no_clue() {
    let desk = Desk::new().await;
    let secret = desk.key("mobile", "mobile-1", None).await;
    let ended = desk.key("mobile", "mobile-2", Some(NOW)).await;
    let revoked = desk.key("mobile", "mobile-3", None).await;
    desk.write(KeyWrite::RevokeId("mobile-3".to_owned())).await;
    let mut texts = Vec::new();
    for (id, secret) in [
        ("mobile", "wrong"),
        ("mobile", &ended),
        ("mobile", &revoked),
        ("other", &secret),
    ] {
        let refused = desk.grant(id, secret, &[]).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]),
            (StatusCode::UNAUTHORIZED, &json!("invalid_client"))
        );
        assert!(refused.header("www-authenticate").starts_with("Basic"));
        assert_eq!(refused.header("cache-control"), "no-store");
        texts.push(refused.text);
    }
    texts.dedup();
    assert_eq!(texts.len(), 1);
}

#[tokio::test]
async fn who_guesses_is_slowed_down_and_who_knows_is_not_locked_out() {
    let desk = Desk::new().await;
    let known = desk.key("mobile", "mobile-1", None).await;
    let fresh = desk.key("mobile", "mobile-2", None).await;
    assert_eq!(desk.grant("mobile", &known, &[]).await.status, StatusCode::OK);
    for number in 0..10 {
        assert_eq!(
            desk.grant("mobile", &format!("guess-{number}"), &[]).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    let refused = desk.grant("mobile", &fresh, &[]).await;
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (StatusCode::TOO_MANY_REQUESTS, "1")
    );
    assert_eq!(
        desk.grant("mobile", &known, &[]).await.status,
        StatusCode::OK,
        "it was right before"
    );
    let other = desk.key("other", "other-1", None).await;
    assert_eq!(desk.grant("other", &other, &[]).await.status, StatusCode::OK);
    desk.house.wait(1000);
    assert_eq!(desk.grant("mobile", &fresh, &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_scope_is_given_to_an_application_that_was_granted_it() {
    let desk = Desk::new().await;
    let secret = desk.key("mobile", "mobile-1", None).await;
    let refused = desk.grant("mobile", &secret, &[("scope", "orders:read")]).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]),
        (400, &json!("invalid_scope"))
    );

    desk.object(
        ObjectKind::Application,
        "mobile",
        r#"{"subscriptions": [], "scopes": ["orders:read", "b"]}"#,
    )
    .await;
    let granted = desk
        .grant("mobile", &secret, &[("scope", "orders:read  orders:read")])
        .await
        .json();
    assert_eq!(granted["scope"], "orders:read");
    let worth = desk.introspect(granted["access_token"].as_str().unwrap()).await.json();
    assert_eq!(worth["scope"], "orders:read");
    let refused = desk
        .grant("mobile", &secret, &[("scope", "orders:read orders:write")])
        .await;
    assert_eq!(refused.json()["error"], "invalid_scope");
}

#[tokio::test]
async fn a_request_that_is_no_client_credentials_grant_is_refused_as_the_rfc_says() {
    let desk = Desk::new().await;
    let secret = desk.key("mobile", "mobile-1", None).await;
    let client = [("client_id", "mobile"), ("client_secret", secret.as_str())];
    for (form, error) in [
        (vec![], "invalid_request"),
        (vec![("grant_type", "password")], "unsupported_grant_type"),
        (vec![("grant_type", "client_credentials"); 2], "invalid_request"),
        (
            vec![("grant_type", "client_credentials"), ("resource", "orders")],
            "invalid_target",
        ),
        (
            vec![("grant_type", "client_credentials"), ("resource", "https://a/#b")],
            "invalid_target",
        ),
        (
            vec![("grant_type", "client_credentials"), ("scope", "a\"b")],
            "invalid_scope",
        ),
    ] {
        let form: Vec<(&str, &str)> = client.into_iter().chain(form).collect();
        let refused = desk.post("/oauth2/token", &form, &[]).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["error"]),
            (400, &json!(error)),
            "{form:?}"
        );
    }
    let wrong_type = Request::post("/oauth2/token").header("content-type", "application/json");
    let refused = desk
        .house
        .send(wrong_type.body(Body::from(secret.clone())).unwrap())
        .await;
    assert_eq!(refused.json()["error"], "invalid_request");
    assert!(!refused.text.contains(&secret));
    let half = [("grant_type", "client_credentials"), ("client_id", "mobile")];
    assert_eq!(
        desk.post("/oauth2/token", &half, &[]).await.json()["error"],
        "invalid_request"
    );
    let nobody = desk.post("/oauth2/token", &half[..1], &[]).await;
    assert_eq!(nobody.json()["error"], "invalid_client");
}

#[tokio::test]
async fn a_token_does_not_outlive_the_key_that_it_was_got_with() {
    let desk = Desk::new().await;
    let secret = desk.key("mobile", "mobile-1", Some(NOW + 60_000)).await;
    assert_eq!(desk.grant("mobile", &secret, &[]).await.json()["expires_in"], 60);
}

// === Revocation ===

#[tokio::test]
async fn an_application_revokes_its_own_keys_and_nobody_elses() {
    let desk = Desk::new().await;
    let (own, spare, other) = (
        desk.key("mobile", "mobile-1", None).await,
        desk.key("mobile", "mobile-2", None).await,
        desk.key("other", "other-1", None).await,
    );
    let revoke = |token: String, secret: String| {
        let desk = &desk;
        async move {
            let form = [
                ("token", token.as_str()),
                ("client_id", "mobile"),
                ("client_secret", &secret),
            ];
            desk.post("/oauth2/revoke", &form, &[]).await
        }
    };
    let refused = revoke(other.clone(), own.clone()).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]),
        (400, &json!("unauthorized_client"))
    );
    assert_eq!(desk.introspect(&other).await.json()["active"], true);
    assert_eq!(revoke("unknown".to_owned(), own.clone()).await.status, StatusCode::OK);
    let token = desk.token("mobile", &own, &[]).await;
    assert_eq!(
        revoke(token, own.clone()).await.json()["error"],
        "unsupported_token_type"
    );

    assert_eq!(desk.introspect(&spare).await.json()["active"], true);
    assert_eq!(revoke(spare.clone(), own.clone()).await.status, StatusCode::OK);
    assert_eq!(desk.introspect(&spare).await.json()["active"], false);
    assert_eq!(
        revoke(own.clone(), own.clone()).await.status,
        StatusCode::OK,
        "by itself"
    );
    assert_eq!(desk.introspect(&own).await.json()["active"], false);
    assert_eq!(
        revoke(other.clone(), own.clone()).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn who_has_the_right_to_keys_revokes_any_of_them() {
    let desk = Desk::new().await;
    let key = desk.key("mobile", "mobile-1", None).await;
    let head = desk.house.plane.heads.key_seq();
    for (scope, expected) in [
        (Scope::Applications, StatusCode::FORBIDDEN),
        (Scope::Keys, StatusCode::OK),
    ] {
        let token = desk.house.token(&[scope], &[]).await;
        let fields = [("authorization", bearing(&token))];
        let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(
            desk.post("/oauth2/revoke", &[("token", &key)], &fields).await.status,
            expected
        );
    }
    assert_eq!(desk.house.plane.heads.key_seq(), head + 1, "gateways are woken");
    assert_eq!(desk.introspect(&key).await.json()["active"], false);
}

// === What everybody may know ===

#[tokio::test]
async fn the_metadata_names_endpoints_that_answer_and_the_key_set_has_no_private_part() {
    let desk = Desk::new().await;
    let read = |path: String| {
        let house = &desk.house;
        async move { house.send(Request::get(path).body(Body::empty()).unwrap()).await }
    };
    let metadata = read("/.well-known/oauth-authorization-server".to_owned()).await.json();
    assert_eq!(metadata["issuer"], ISSUER);
    for name in ["token_endpoint", "introspection_endpoint", "revocation_endpoint"] {
        let path = metadata[name].as_str().unwrap().strip_prefix(ISSUER).unwrap();
        let answer = desk.post(path, &[("x", "y")], &[]).await;
        assert_ne!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    let path = metadata["jwks_uri"].as_str().unwrap().strip_prefix(ISSUER).unwrap();
    let set = read(path.to_owned()).await.json();
    let key = &set["keys"][0];
    assert_eq!(key["kid"], desk.house.plane.signing.public().id());
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"]),
        (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA"))
    );
    assert_eq!(key.get("d"), None);
}

#[tokio::test]
async fn no_secret_is_in_any_answer_or_in_the_log() {
    let logged = Log::listen();
    let desk = Desk::new().await;
    let secret = desk.key("mobile", "mobile-1", None).await;
    let wrong = "a-wrong-secret-of-somebody";
    let mut texts = Vec::new();
    let token = desk.token("mobile", &secret, &[]).await;
    for answer in [
        desk.introspect(&secret).await,
        desk.introspect(&token).await,
        desk.introspect(wrong).await,
        desk.grant("mobile", wrong, &[]).await,
        desk.grant("mobile", &secret, &[("scope", "x")]).await,
        desk.post(
            "/oauth2/token",
            &[("client_secret", &secret), ("client_secret", wrong)],
            &[],
        )
        .await,
        desk.post(
            "/oauth2/revoke",
            &[("token", wrong), ("client_id", "mobile"), ("client_secret", &secret)],
            &[],
        )
        .await,
        desk.post(
            "/oauth2/revoke",
            &[("token", &secret), ("client_id", "mobile"), ("client_secret", &secret)],
            &[],
        )
        .await,
        desk.post(
            "/oauth2/revoke",
            &[("token", wrong)],
            &[("authorization", &format!("Bearer {wrong}"))],
        )
        .await,
    ] {
        texts.push(format!("{:?} {}", answer.headers, answer.text));
    }
    let seat = desk.house.register("a").await.seat();
    let signature: Value = serde_json::from_str(&seat).unwrap();
    let signature = signature["ed25519"].as_str().unwrap().to_owned();
    desk.house.beat("a", &seat).await;
    desk.house.beat("b", &seat).await;
    for path in ["/v1/gateways", "/v1/gateways/a", "/v1/pools", "/v1/pools/default"] {
        texts.push(desk.house.get(path).await.text);
    }
    texts.extend(logged.lines());
    assert!(
        texts.iter().any(|text| text.contains("the key mobile-1 is revoked")),
        "the log is listened to"
    );
    let admin = desk.house.admin.expose();
    for hidden in [
        secret.as_str(),
        wrong,
        &token,
        &hash_of(&secret).to_string(),
        &signature,
        admin,
    ] {
        let found = texts.iter().find(|text| text.contains(hidden));
        assert_eq!(found, None, "{hidden}");
    }
}

/// A control plane with keys, and somebody who asks it.
struct Desk {
    house: House,
    caller: Secret,
}

impl Desk {
    async fn new() -> Self {
        let house = House::new().await;
        let caller = house.token(&[Scope::Introspect], &[]).await;
        Self { house, caller }
    }

    /// Answers on a free port, until the task is aborted.
    async fn serve(&self) -> (SocketAddr, JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (routes, _) = super::router().split_for_parts();
        let routes = routes.with_state(Arc::clone(&self.house.plane));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        (address, server)
    }

    /// Makes a key, and gives its text.
    async fn key(&self, application: &str, id: &str, expires_ms: Option<u64>) -> String {
        let text = KeyText::generate(KeyType::Production).unwrap().reveal().to_owned();
        self.add(&text, application, id, expires_ms).await;
        text
    }

    async fn add(&self, text: &str, application: &str, id: &str, expires_ms: Option<u64>) {
        let entry = KeyEntry {
            hash: hash_of(text),
            id: id.to_owned(),
            application: application.to_owned(),
            key_type: KeyType::Production,
            expires_ms,
        };
        self.write(KeyWrite::Create(entry)).await;
    }

    /// Changes keys through this node.
    async fn write(&self, write: KeyWrite) {
        let plane = &self.house.plane;
        let seq = plane.store.write_keys(&[write], plane.now_ms()).await.unwrap();
        plane.heads.keys_written(seq);
    }

    async fn object(&self, kind: ObjectKind, name: &str, value: &str) {
        let change = ObjectChange {
            kind,
            name: name.to_owned(),
            expected: Expected::Absent,
            value: Some(value.to_owned()),
        };
        let changes = Changes {
            objects: vec![change],
            ..Changes::default()
        };
        self.house.plane.store.commit(&changes, NOW).await.unwrap();
    }

    async fn introspect(&self, token: &str) -> Answer {
        let authorization = bearing(&self.caller);
        self.post(
            "/oauth2/introspect",
            &[("token", token)],
            &[("authorization", &authorization)],
        )
        .await
    }

    async fn introspect_afresh(&self, token: &str) -> Answer {
        let authorization = bearing(&self.caller);
        let fields = [("authorization", authorization.as_str()), ("cache-control", "no-cache")];
        self.post("/oauth2/introspect", &[("token", token)], &fields).await
    }

    /// Asks for a token.
    async fn grant(&self, id: &str, secret: &str, more: &[(&str, &str)]) -> Answer {
        let client = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
        ];
        self.post("/oauth2/token", &[&client, more].concat(), &[]).await
    }

    /// A token that is given.
    async fn token(&self, id: &str, secret: &str, more: &[(&str, &str)]) -> String {
        let answer = self.grant(id, secret, more).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    async fn post(&self, path: &str, form: &[(&str, &str)], fields: &[(&str, &str)]) -> Answer {
        let encoded =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let pairs = form
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
        let body = pairs.collect::<Vec<_>>().join("&");
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.house.send(request.body(Body::from(body)).unwrap()).await
    }
}

fn bearing(token: &Secret) -> String {
    format!("Bearer {}", token.expose())
}
