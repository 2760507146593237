use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::super::testing::{Log, Node, PATIENCE, TOKEN, client};
use super::*;
use crate::document::Environment;

fn sqlite(directory: &tempfile::TempDir) -> String {
    format!("sqlite: \"{}/cp.db\"", directory.path().display())
}

#[tokio::test]
async fn a_node_says_that_it_lives_is_ready_and_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    let get = async |path: &str| client().get(format!("{}{path}", node.url)).send().await.unwrap();
    assert_eq!(get("/healthz").await.status(), StatusCode::OK);
    assert_eq!(get("/readyz").await.status(), StatusCode::OK);
    let metrics = get("/metrics").await.text().await.unwrap();
    for name in [
        "tollgate_cp_polls 0",
        "tollgate_cp_sent_bytes_total{kind=\"blob\"} 0",
        "process_",
    ] {
        assert!(metrics.contains(name), "{metrics}");
    }
    let description: Value = serde_json::from_slice(&get("/openapi.json").await.bytes().await.unwrap()).unwrap();
    assert!(description["paths"]["/v1/environments/{environment}/revision"]["get"].is_object());
    assert!(description["paths"]["/v1/keys:resolve"]["post"].is_object());
    node.stop().await;
}

#[tokio::test]
async fn whoever_asks_for_nonsense_is_told_so_in_a_problem_document() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    let problem = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(body["status"], status);
        (status, body["code"].as_str().unwrap().to_owned())
    };
    node.environment("prod", "production").await;
    for (path, status, code) in [
        ("/", 404, "not_found"),
        ("/v1/nothing", 404, "not_found"),
        ("/v1/environments/nowhere/revision", 404, "not_found"),
        ("/v1/environments/nowhere/keys/log", 404, "not_found"),
        ("/v1/environments/%ff/revision", 400, "bad_request"),
        ("/v1/environments/prod/revision?after=x", 400, "bad_request"),
        ("/v1/environments/prod/revision?after=-1", 400, "bad_request"),
        ("/v1/environments/prod/revision?afte=1", 400, "bad_request"),
        ("/v1/environments/prod/delta/1/x", 400, "bad_request"),
        ("/v1/environments/prod/delta/1/2", 404, "not_found"),
        ("/v1/blobs/xyz", 400, "bad_request"),
        (&format!("/v1/blobs/{}", "0".repeat(64)), 404, "not_found"),
        ("/v1/keys:resolve", 405, "method_not_allowed"),
    ] {
        assert_eq!(problem(node.asking(path)).await, (status, code.to_owned()), "{path}");
    }
    let hash = "0".repeat(32);
    for (body, status) in [
        (serde_json::json!({ "h": vec![hash.as_str(); 1001] }), 413),
        (serde_json::json!({ "h": vec![hash.as_str(); 5000] }), 413),
        (serde_json::json!({ "h": ["short"] }), 422),
        (serde_json::json!([]), 422),
    ] {
        let (found, _) = problem(node.posting("/v1/keys:resolve", &body)).await;
        assert!(
            found == status || (status == 422 && found == 400),
            "{found} for {status}"
        );
    }
    for token in ["", "wrong", "tgcp_0123456789_aaaa"] {
        let path = format!("{}/v1/environments/prod/revision", node.url);
        assert_eq!(problem(client().get(&path).bearer_auth(token)).await.0, 401);
        assert_eq!(problem(client().get(&path)).await.0, 401);
    }
    // What is not HTTP at all ends the connection and nothing else.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for garbage in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET\r\n\r\n",
        &[0; 1000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(node.url.strip_prefix("http://").unwrap())
            .await
            .unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
    }
    assert_eq!(node.get("/healthz").await.status(), StatusCode::OK);
    node.stop().await;
}

#[tokio::test]
async fn a_scope_that_an_application_is_given_through_the_api_is_in_its_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    let post = async |path: &str, body: Value| {
        let answer = node.posting(path, &body).send().await.unwrap();
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.unwrap();
        (status, serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    for wrong in [
        json!(["a b"]),
        json!(["\""]),
        json!([""]),
        json!(["x", "x"]),
        json!(["ü"]),
    ] {
        let (status, problem) = post("/v1/applications", json!({ "name": "mobile", "scopes": wrong })).await;
        assert_eq!(status, 422, "{problem}");
    }
    let scopes = json!(["orders:read", "orders:write"]);
    let (status, made) = post("/v1/applications", json!({ "name": "mobile", "scopes": scopes })).await;
    assert_eq!((status, &made["scopes"]), (201, &scopes));
    let (_, key) = post("/v1/applications/mobile/keys", json!({})).await;
    let grant = async |scope: &str| -> Value {
        let form = format!(
            "grant_type=client_credentials&client_id=mobile&client_secret={}&scope={scope}",
            key["key"].as_str().unwrap()
        );
        let request = client().post(format!("{}/oauth2/token", node.url));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(form).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    };
    assert_eq!(grant("orders:read").await["scope"], "orders:read");
    assert_eq!(grant("orders:delete").await["error"], "invalid_scope");
    node.stop().await;
}

#[tokio::test]
async fn a_bootstrap_token_that_was_revoked_is_not_taken_from_the_file_again() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let node = Node::start(&sqlite(&directory), "").await;
        assert_eq!(
            node.get("/v1/tokens").await.status(),
            StatusCode::OK,
            "a restart changes nothing"
        );
        node.stop().await;
    }
    let node = Node::start(&sqlite(&directory), "").await;
    // The last one who may make tokens can not be revoked.
    node.plane.tokens.create(admin("another")).await.unwrap();
    let tokens: Value = serde_json::from_slice(&node.get("/v1/tokens").await.bytes().await.unwrap()).unwrap();
    let is_it = |token: &&Value| token["note"] == "bootstrap token";
    let id = tokens["items"].as_array().unwrap().iter().find(is_it).unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let revoked = client()
        .delete(format!("{}/v1/tokens/{id}", node.url))
        .bearer_auth(TOKEN);
    assert_eq!(revoked.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    node.stop().await;

    let log = Log::listen();
    let node = Node::start(&sqlite(&directory), "").await;
    assert_eq!(node.get("/v1/tokens").await.status(), StatusCode::UNAUTHORIZED);
    let told = |line: &String| line.contains("bootstrap_token") && line.contains("revoked");
    assert!(log.lines().iter().any(told));
    node.stop().await;
}

#[tokio::test]
async fn the_first_start_makes_a_token_and_the_second_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "store: {{ {} }}\nlistener: {{ address: \"127.0.0.1:0\" }}\n",
        sqlite(&directory)
    );
    let prepare = |text: &str| {
        let environment = Environment::fixed([], jiff::Timestamp::UNIX_EPOCH);
        let config = crate::control_plane::config::parse(text, "t", &environment, None)
            .unwrap()
            .config;
        tokio::task::spawn_blocking(move || {
            let node = ControlPlane::prepare(config).unwrap_or_else(|error| panic!("{error}"));
            let token = node.first_token().cloned();
            let public = node.plane().signing.public();
            let plane = Arc::clone(node.plane());
            let known = token.clone().map(|token| {
                node.runtime
                    .block_on(async move { plane.tokens.identify(token.expose()).await.unwrap().may(Scope::Admin) })
            });
            (token, known, public)
        })
    };
    let (token, known, public) = prepare(&text).await.unwrap();
    assert!(token.unwrap().expose().starts_with("tgcp_"));
    assert_eq!(known, Some(true));
    let (token, _, again) = prepare(&text).await.unwrap();
    assert!(token.is_none(), "it is shown once");
    assert_eq!(public, again, "the signing key is kept");
    let (token, ..) = prepare(&format!("{text}bootstrap_token: {TOKEN}\n")).await.unwrap();
    assert!(token.is_none());
}

#[tokio::test]
async fn with_a_bootstrap_token_no_other_one_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    let tokens = node.plane.store.objects(ObjectKind::Token, None, 10).await.unwrap();
    assert_eq!(tokens.len(), 1);
    assert!(!tokens[0].value.contains(TOKEN));
    node.stop().await;
    // The same one again changes nothing.
    let node = Node::start(&sqlite(&directory), "").await;
    assert_eq!(
        node.plane
            .store
            .objects(ObjectKind::Token, None, 10)
            .await
            .unwrap()
            .len(),
        1
    );
    node.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_store_that_can_not_be_are_errors_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    let refused = async |text: String| {
        let environment = Environment::fixed([], jiff::Timestamp::UNIX_EPOCH);
        let config = crate::control_plane::config::parse(&text, "t", &environment, None)
            .unwrap()
            .config;
        let prepared = tokio::task::spawn_blocking(move || ControlPlane::prepare(config).err().map(|e| e.to_string()));
        prepared.await.unwrap().unwrap()
    };
    let address = node.url.strip_prefix("http://").unwrap();
    let found = refused(format!(
        "listener: {{ address: \"{address}\" }}\nstore: {{ {} }}",
        sqlite(&directory)
    ))
    .await;
    assert!(found.contains("can not listen on"), "{found}");
    std::fs::write(directory.path().join("file"), "no database").unwrap();
    let path = directory.path().join("file");
    let found = refused(format!(
        "listener: {{ address: \"127.0.0.1:0\" }}\nstore: {{ sqlite: \"{}\" }}",
        path.display()
    ))
    .await;
    assert!(found.contains("file"), "{found}");
    let found =
        refused("listener: { address: \"127.0.0.1:0\", tls: { certificate: /nowhere/a, key: /nowhere/b } }".to_owned())
            .await;
    assert!(found.starts_with("listener.tls: /nowhere/a: "), "{found}");
    node.stop().await;
}

#[tokio::test]
async fn leaving_answers_who_waits_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    node.environment("prod", "production").await;
    let request = node.asking("/v1/environments/prod/revision?wait=60");
    let waiting = tokio::spawn(async move { request.send().await.unwrap().status() });
    while node
        .plane
        .delivery
        .meters
        .polls
        .load(std::sync::atomic::Ordering::Relaxed)
        == 0
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = std::time::Instant::now();
    node.stop().await;
    assert_eq!(waiting.await.unwrap(), StatusCode::NOT_MODIFIED);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn no_token_and_no_key_is_in_any_line_of_the_log() {
    let log = Log::listen();
    let directory = tempfile::tempdir().unwrap();
    let seed = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let node = Node::start(&sqlite(&directory), &format!("signing_key: {seed}")).await;
    node.environment("prod", "production").await;
    node.publish("prod", &crate::control_plane::testing::content(2, "a"))
        .await;
    node.manifest("prod").await;
    let wrong = "tgcp_0123456789_not-a-token-of-anybody";
    let refused = client()
        .get(format!("{}/v1/environments/prod/revision", node.url))
        .bearer_auth(wrong);
    assert_eq!(refused.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    // A record that can not be read is an error in the log, and shows nothing of it.
    let broken = super::super::store::Changes {
        objects: vec![super::super::store::ObjectChange {
            kind: ObjectKind::Token,
            name: "0123456789".to_owned(),
            expected: super::super::store::Expected::Absent,
            value: Some("{\"sha256\": 7}".to_owned()),
        }],
        ..Default::default()
    };
    node.plane.store.commit(&broken, 1).await.unwrap();
    let refused = client()
        .get(format!("{}/v1/environments/prod/revision", node.url))
        .bearer_auth(wrong);
    assert_eq!(
        refused.send().await.unwrap().status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
    node.stop().await;
    let lines = log.lines();
    assert!(
        lines.iter().any(|line| line.contains("control plane on http://")),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|line| line.contains("token 0123456789: ")),
        "{lines:?}"
    );
    for secret in [TOKEN, wrong, "not-a-token-of-anybody", seed] {
        assert!(
            !lines.iter().any(|line| line.contains(secret)),
            "{secret} is in the log"
        );
    }
}

/// A database of a test's own, as a store in a configuration.
async fn postgres() -> String {
    use crate::control_plane::store::tests::postgres_server::PostgresServer;
    let url = tokio::task::spawn_blocking(|| PostgresServer::shared().database())
        .await
        .unwrap();
    format!("postgres: \"{url}\"")
}

#[tokio::test]
async fn what_is_published_on_one_node_is_answered_by_the_other_one() {
    let store = postgres().await;
    let (one, other) = (Node::start(&store, "").await, Node::start(&store, "").await);
    assert_eq!(
        one.plane.signing.public(),
        other.plane.signing.public(),
        "one key for all nodes"
    );
    one.environment("prod", "production").await;
    let content = |edition: &str| crate::control_plane::testing::content(3, edition);
    one.publish("prod", &content("a")).await;
    let begun = std::time::Instant::now();
    while other.plane.heads.seq("prod") == 0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let manifests = (one.manifest("prod").await, other.manifest("prod").await);
    assert_eq!(manifests.0, manifests.1);

    let polls = ["revision?after=1&wait=60", "keys/log?after=0&wait=60"].map(|path| {
        let request = other.asking(&format!("/v1/environments/prod/{path}"));
        tokio::spawn(async move { request.send().await.unwrap().status() })
    });
    while other
        .plane
        .delivery
        .meters
        .polls
        .load(std::sync::atomic::Ordering::Relaxed)
        < 2
    {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let published = std::time::Instant::now();
    one.publish("prod", &content("b")).await;
    let revoked = super::super::store::KeyWrite::RevokeHash(crate::distribution::KeyHash([7; 16]));
    one.plane
        .store
        .write_keys(&[revoked], crate::clock::unix_ms())
        .await
        .unwrap();
    for poll in polls {
        assert_eq!(poll.await.unwrap(), StatusCode::OK);
    }
    // Two seconds at the most are promised; a busy machine may need some more.
    assert!(
        published.elapsed() < Duration::from_secs(15),
        "{:?}",
        published.elapsed()
    );
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn of_nodes_that_start_for_the_first_time_together_one_makes_the_token() {
    let text = format!(
        "store: {{ {} }}\nlistener: {{ address: \"127.0.0.1:0\" }}\n",
        postgres().await
    );
    let environment = Environment::fixed([], jiff::Timestamp::UNIX_EPOCH);
    let config = crate::control_plane::config::parse(&text, "t", &environment, None)
        .unwrap()
        .config;
    let nodes: Vec<_> = (0..3)
        .map(|_| {
            let config = config.clone();
            tokio::task::spawn_blocking(move || {
                let node = ControlPlane::prepare(config).unwrap_or_else(|error| panic!("{error}"));
                (node.first_token().is_some(), node.plane().signing.public())
            })
        })
        .collect();
    let (mut tokens, mut keys) = (0, std::collections::HashSet::new());
    for node in nodes {
        let (token, key) = node.await.unwrap();
        tokens += usize::from(token);
        keys.insert(key);
    }
    assert_eq!((tokens, keys.len()), (1, 1));
}
