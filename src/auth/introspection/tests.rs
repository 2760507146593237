//! A key service that is really asked, and what a gateway makes of its answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::*;
use crate::auth::testing::{api, application};
use crate::auth::{Authenticator, Caller, KeySets, TokenCache};
use crate::revision::{AuthMethod, EnvironmentType, Revision};

/// A key service, as it is told to be.
#[derive(Clone, Default)]
struct KeyService {
    asked: Arc<AtomicUsize>,
    away: Arc<AtomicBool>,
    uncached: Arc<AtomicUsize>,
    slow: Arc<AtomicBool>,
}

impl KeyService {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/introspect", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/introspect", post(Self::answer))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    async fn answer(
        State(service): State<Self>,
        headers: HeaderMap,
        Form(form): Form<HashMap<String, String>>,
    ) -> Response {
        if service.away.load(Ordering::SeqCst) {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        // gateway:se%3Acret
        if headers[AUTHORIZATION] != format!("Basic {}", BASE64.encode("gateway:se%3Acret")) {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        service.asked.fetch_add(1, Ordering::SeqCst);
        if headers.get(CACHE_CONTROL).is_some_and(|value| value == "no-cache") {
            service.uncached.fetch_add(1, Ordering::SeqCst);
        }
        if service.slow.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Json(Self::facts(&form["token"])).into_response()
    }

    fn facts(token: &str) -> Value {
        let end = unix_ms() / 1000 + 1000;
        match token {
            "good+/token==" => {
                json!({"active": true, "client_id": "mobile", "sub": "alice", "scope": "a b", "exp": end})
            }
            "trial" => json!({"active": true, "client_id": "mobile", "key_type": "sandbox"}),
            "over" => json!({"active": true, "client_id": "mobile", "exp": 1000}),
            "elsewhere" => json!({"active": true, "client_id": "mobile", "aud": "others"}),
            "twice" => json!({"active": true, "client_id": ["mobile", "mobile"]}),
            "stranger" => json!({"active": true, "client_id": "nobody"}),
            "garbage" => json!(["active"]),
            _ => json!({"active": false}),
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn authenticator(url: &str, settings: &KeyCache) -> Authenticator {
    authenticator_of(url, &Introspectors::new(settings).unwrap())
}

fn authenticator_of(url: &str, introspectors: &Introspectors) -> Authenticator {
    let revision = Revision {
        introspectors: vec![Introspector {
            name: "corp".into(),
            url: url.to_owned(),
            credential: IntrospectionCredential::Basic {
                id: "gateway".to_owned(),
                secret: "se:cret".into(),
            },
            issuer: None,
            audience: vec!["orders".to_owned()],
            application_claim: Some("client_id".to_owned()),
        }],
        apis: vec![api("orders", vec![AuthMethod::Introspection(0)])],
        applications: vec![application("mobile", &[0], Vec::new())],
        ..Revision::default()
    };
    let tokens = Arc::new(TokenCache::new(10));
    Authenticator::compile(&revision, EnvironmentType::Production, &KeySets::offline(), tokens)
        .with_introspectors(&revision, introspectors)
}

async fn identify(authenticator: &Authenticator, token: &str, scopes: &[String]) -> Result<Caller, Denial> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    authenticator.identify(0, scopes, &headers, None, None, unix_ms()).await
}

#[tokio::test]
async fn a_token_is_worth_what_the_service_says_and_it_is_asked_once() {
    let service = KeyService::default();
    let authenticator = authenticator(&service.start().await, &KeyCache::default());
    let scopes = ["a".to_owned()];
    for _ in 0..3 {
        let caller = identify(&authenticator, "good+/token==", &scopes).await.unwrap();
        assert_eq!(
            (caller.application(), caller.subject(), caller.plan()),
            (Some(0), Some("alice"), Some(10))
        );
    }
    assert_eq!(service.asked(), 1);
    assert_eq!(
        service.uncached.load(Ordering::SeqCst),
        1,
        "the gateway remembers, so the service need not"
    );
    let lacking = identify(&authenticator, "good+/token==", &["c".to_owned()])
        .await
        .unwrap_err();
    assert_eq!(lacking.reason(), "scope");

    for (token, expected) in [
        ("unknown", "inactive"),
        ("unknown", "inactive"),
        ("over", "expired"),
        ("elsewhere", "audience"),
        ("twice", "claims"),
        ("garbage", "claims"),
        ("stranger", "subscription"),
        ("trial", "key_type"),
        (&"x".repeat(MAX_TOKEN + 1), "malformed"),
    ] {
        let denial = identify(&authenticator, token, &[]).await.unwrap_err();
        assert_eq!(denial.reason(), expected, "{token}");
    }
    assert_eq!(
        service.asked(),
        8,
        "bad answers are remembered too, and what is too long is not asked about"
    );
}

#[tokio::test]
async fn a_hundred_requests_with_one_token_ask_once() {
    let service = KeyService::default();
    service.slow.store(true, Ordering::SeqCst);
    let authenticator = Arc::new(authenticator(&service.start().await, &KeyCache::default()));
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let authenticator = Arc::clone(&authenticator);
            tokio::spawn(async move { identify(&authenticator, "good+/token==", &[]).await.is_ok() })
        })
        .collect();
    // The first one leaves in the middle: somebody else has to ask in its place.
    asking[0].abort();
    let mut let_in = 0;
    for request in asking.into_iter().skip(1) {
        let_in += usize::from(request.await.unwrap());
    }
    assert_eq!(let_in, 99);
    assert!(service.asked() <= 2, "{}", service.asked());
}

#[tokio::test]
async fn while_the_service_is_away_good_tokens_go_on_and_new_ones_are_neither_let_in_nor_refused() {
    let service = KeyService::default();
    let settings = KeyCache {
        positive: Duration::from_millis(1),
        negative: Duration::from_millis(1),
        ..KeyCache::default()
    };
    let authenticator = authenticator(&service.start().await, &settings);
    identify(&authenticator, "good+/token==", &[]).await.unwrap();
    identify(&authenticator, "unknown", &[]).await.unwrap_err();
    service.away.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(5)).await;
    identify(&authenticator, "good+/token==", &[]).await.unwrap();
    for token in ["unknown", "new"] {
        assert_eq!(
            identify(&authenticator, token, &[]).await.unwrap_err(),
            Denial::KeysUnavailable
        );
    }
    let asked = service.asked();
    service.away.store(false, Ordering::SeqCst);
    identify(&authenticator, "good+/token==", &[]).await.unwrap();
    assert_eq!(service.asked(), asked, "for a moment nobody asks");
}

#[tokio::test]
async fn without_a_cache_at_the_gateway_every_request_asks_and_no_more_of_them_than_may() {
    let service = KeyService::default();
    let settings = KeyCache {
        location: KeyCacheLocation::KeyManager,
        rate: 20,
        ..KeyCache::default()
    };
    let authenticator = authenticator(&service.start().await, &settings);
    let started = std::time::Instant::now();
    for _ in 0..5 {
        identify(&authenticator, "good+/token==", &[]).await.unwrap();
    }
    assert_eq!((service.asked(), service.uncached.load(Ordering::SeqCst)), (5, 0));
    assert!(started.elapsed() >= Duration::from_millis(200), "twenty per second");
}

#[tokio::test]
async fn explanations_ask_nobody() {
    let service = KeyService::default();
    let url = service.start().await;
    let authenticator = authenticator(&url, &KeyCache::default());
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, "Bearer unknown".parse().unwrap());
    let examine = || {
        authenticator
            .examine(0, &[], &headers, None, None, unix_ms())
            .unwrap_err()
    };
    assert_eq!(examine(), Denial::NotAsked);
    identify(&authenticator, "unknown", &[]).await.unwrap_err();
    assert_eq!(examine(), Denial::CredentialInvalid(Invalid::Inactive));
    assert_eq!(service.asked(), 1);
}

#[test]
fn nothing_that_is_logged_shows_a_secret() {
    let authenticator = authenticator("http://127.0.0.1:1/introspect", &KeyCache::default());
    assert!(!format!("{authenticator:?}").contains("se:cret"));
}

#[tokio::test]
async fn the_next_process_knows_what_was_said_and_asks_nobody_again() {
    let service = KeyService::default();
    let url = service.start().await;
    let mut introspectors = Introspectors::new(&KeyCache::default()).unwrap();
    let mut authenticator = authenticator_of(&url, &introspectors);
    identify(&authenticator, "good+/token==", &[]).await.unwrap();
    identify(&authenticator, "unknown", &[]).await.unwrap_err();
    for _ in 0..5 {
        let next = Introspectors::new(&KeyCache::default()).unwrap();
        let handed_on = introspectors.hand_on(unix_ms(), &mut |section| {
            assert!(
                !section.bytes.windows(5).any(|bytes| bytes == b"token"),
                "its hash alone"
            );
            assert_eq!(next.inherit(&section.bytes), Ok(2));
            assert!(next.inherit(&section.bytes[1..]).is_err());
            Ok(())
        });
        assert_eq!(handed_on.unwrap(), 2);
        authenticator = authenticator_of(&url, &next);
        introspectors = next;
        let caller = identify(&authenticator, "good+/token==", &["a".to_owned()])
            .await
            .unwrap();
        assert_eq!((caller.application(), caller.subject()), (Some(0), Some("alice")));
        let denial = identify(&authenticator, "unknown", &[]).await.unwrap_err();
        assert_eq!(denial.reason(), "inactive");
    }
    assert_eq!(service.asked(), 2);
}
