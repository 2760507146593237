//! The client against servers that do as they should not.

use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, get};
use serde_json::json;

use super::*;
use crate::config::{KeysMode, OnPoolFull};
use crate::distribution::content::pack;
use crate::document::Secret;

const PATIENCE: Duration = Duration::from_secs(20);

/// Serves until the test's runtime ends.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn settings(urls: &[&str]) -> ControlPlane {
    ControlPlane {
        urls: urls.iter().map(|&url| url.to_owned()).collect(),
        token: Some(Secret::from("hunter2")),
        state_dir: "/nowhere".into(),
        ca: None,
        public_keys: Vec::new(),
        on_pool_full: OnPoolFull::Exit,
        offline_grace: Duration::ZERO,
        allow_offline_join: false,
        max_bytes: 1 << 20,
        max_routes: 1,
        keys: KeysMode::Auto,
    }
}

fn client(urls: &[&str]) -> Client {
    Client::new(&settings(urls)).unwrap()
}

async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn nothing_is_read_beyond_the_bound_whatever_is_announced() {
    let endless = || async {
        let chunks = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 1000])));
        Body::from_stream(chunks)
    };
    let router = Router::new()
        .route("/endless", get(endless))
        .route("/long", get(|| async { "x".repeat(101) }))
        .route("/fits", get(|| async { "x".repeat(100) }));
    let client = client(&[&serve(router).await]);
    assert_eq!(client.get("/fits", 100, PATIENCE).await.unwrap().body.len(), 100);
    for path in ["/long", "/endless"] {
        let error = client.get(path, 100, PATIENCE).await.unwrap_err();
        assert_eq!(error, ClientError::TooLarge { most: 100 }, "{path}");
    }
}

#[tokio::test]
async fn no_redirect_is_followed_and_the_token_is_shown_to_the_addresses_alone() {
    let seen = |headers: HeaderMap| async move {
        let location = format!("{}/elsewhere", headers["host"].to_str().unwrap());
        let token = headers["authorization"].to_str().unwrap().to_owned();
        (StatusCode::FOUND, [("location", format!("http://{location}"))], token)
    };
    let client = client(&[&serve(Router::new().route("/", get(seen))).await]);
    let answer = client.get("/", 100, PATIENCE).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (302, &b"Bearer hunter2"[..]));
    let mut unsent = settings(&["http://h"]);
    unsent.token = Some(Secret::from("line\nend"));
    assert!(!Client::new(&unsent).err().unwrap().contains("line"));
    unsent.token = None;
    unsent.ca = Some("/nowhere/ca.pem".into());
    assert!(Client::new(&unsent).err().unwrap().contains("/nowhere/ca.pem"));
}

#[tokio::test]
async fn the_address_that_works_is_kept_until_it_does_not() {
    let named = |name: &'static str| Router::new().route("/", get(move || async move { name }));
    let (one, two) = (serve(named("one")).await, serve(named("two")).await);
    let broken = Router::new().route("/", any(|| async { StatusCode::BAD_GATEWAY }));
    let broken = serve(broken).await;
    let ask = async |client: &Client| client.get("/", 100, PATIENCE).await.map(|answer| answer.body);
    let several = client(&[&nobody().await, &broken, &two, &one]);
    assert_eq!(ask(&several).await.unwrap(), "two");
    assert_eq!(several.0.first.load(Ordering::Relaxed), 2);
    assert_eq!(ask(&several).await.unwrap(), "two");
    several.turn();
    assert_eq!(ask(&several).await.unwrap(), "one");
    // Who is there but does not work says more than nobody.
    let answer = client(&[&broken, &nobody().await]).get("/", 100, PATIENCE).await;
    assert_eq!(answer.unwrap().status, 502);
    assert!(ask(&client(&[&nobody().await])).await.is_err());
    let silent = Router::new().route("/", get(std::future::pending::<()>));
    let slow = client(&[&serve(silent).await, &one]);
    let answer = slow.get("/", 100, Duration::from_millis(200)).await.unwrap();
    assert_eq!(answer.body, "one");
}

#[tokio::test]
async fn that_there_are_no_pools_is_believed_only_if_nobody_is_away() {
    let plain = serve(Router::new()).await;
    let busy = || async { (StatusCode::NOT_FOUND, axum::Json(json!({ "code": "seat_unknown" }))) };
    let plane = serve(Router::new().route("/", any(busy))).await;
    let ask = async |urls: &[&str]| client(urls).post("/", &json!({}), PATIENCE).await;
    let answer = ask(&[&plain, "file:///"]).await.unwrap();
    assert_eq!((answer.status, answer.code()), (404, None));
    assert!(matches!(
        ask(&[&plain, &nobody().await]).await,
        Err(ClientError::Unreachable(_))
    ));
    let answer = ask(&[&plain, &plane]).await.unwrap();
    assert_eq!(answer.code().as_deref(), Some("seat_unknown"));
}

#[tokio::test]
async fn a_blob_is_what_was_asked_for_or_an_error() {
    let (blob, bytes) = pack(&[7; 5000]).unwrap();
    let path = format!("/v1/blobs/{}", blob.sha256);
    let answers = |bytes: Vec<u8>| Router::new().route(&path, get(|| async move { bytes }));
    let mut flipped = bytes.clone();
    flipped[3] ^= 1;
    let (good, bad) = (serve(answers(bytes.clone())).await, serve(answers(flipped)).await);
    let long = serve(answers([bytes.clone(), bytes.clone()].concat())).await;
    let none = serve(Router::new()).await;
    let fetch = async |urls: &[&str], most| client(urls).blob(&blob, most).await;
    assert_eq!(fetch(&[&bad, &long, &none, &good], 1000).await, Ok(bytes));
    assert_eq!(fetch(&[&bad], 1000).await, Err(ClientError::Hash));
    assert_eq!(fetch(&[&long], 1000).await, Err(ClientError::Hash));
    assert_eq!(fetch(&[&none], 1000).await, Err(ClientError::Status(404)));
    assert_eq!(fetch(&[&good], 3).await, Err(ClientError::TooLarge { most: 3 }));
}

#[tokio::test]
async fn milliseconds_are_preferred_and_an_appointment_is_kept_with_who_gave_it() {
    let later = || async {
        let headers = [("tollgate-retry-after-ms", "1500"), ("retry-after", "2")];
        (StatusCode::SERVICE_UNAVAILABLE, headers).into_response()
    };
    let full = || async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response() };
    let busy = serve(Router::new().route("/a", get(later)).route("/b", get(full))).await;
    let client = client(&[&busy, &nobody().await]);
    let told = async |path: &str| client.get(path, 100, PATIENCE).await.unwrap();
    let answer = told("/a").await;
    assert_eq!(
        (answer.status, answer.retry_after),
        (503, Some(Duration::from_millis(1500)))
    );
    assert_eq!(told("/b").await.retry_after, Some(Duration::from_secs(2)));
}

#[tokio::test]
async fn a_directory_gives_its_files_and_nothing_beside_them() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("a b");
    std::fs::create_dir_all(inside.join("v1/environments/my env")).unwrap();
    std::fs::write(directory.path().join("secret"), "secret").unwrap();
    std::fs::write(inside.join("v1/environments/my env/revision"), "signed").unwrap();
    let url = |path: &Path| format!("file://{}", path.display().to_string().replace(' ', "%20"));
    let client = client(&[&url(&inside)]);
    let get = async |path: &str, most| client.get(path, most, PATIENCE).await;
    let path = format!("/v1/environments/{}/revision?after=1&wait=50", segment("my env"));
    assert_eq!(get(&path, 6).await.unwrap().body, "signed");
    assert_eq!(get(&path, 5).await.unwrap_err(), ClientError::TooLarge { most: 5 });
    for path in [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2Fsecret",
        "/v1",
        "/nothing",
        "/",
        "/%2Fetc%2Fpasswd",
    ] {
        assert_eq!(get(path, 100).await.unwrap().status, 404, "{path}");
    }
    assert_eq!(client.post("/v1", &1, PATIENCE).await.unwrap().status, 404);
    assert!(client.is_directory());
    let gone = super::tests::client(&[&url(&directory.path().join("gone"))]);
    assert!(gone.get("/", 1, PATIENCE).await.is_err());
}
