//! Stories of real nodes and real clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;

use super::super::store::KeyWrite;
use super::super::testing::{Node, PATIENCE, TOKEN, changes, client, content, verified};
use crate::clock::unix_ms;
use crate::control_plane::store::INVALIDATIONS_KEPT as KEPT;
use crate::distribution::protocol::ResolvedFor;
use crate::distribution::{CachePage, Content, ContentHash, KeyChange, KeyEntry, KeyHash, KeyPage, Topic};
use crate::revision::{EnvironmentType, KeyType};

fn sqlite(directory: &tempfile::TempDir) -> String {
    format!("sqlite: \"{}/cp.db\"", directory.path().display())
}

/// Waits until so many polls wait.
async fn until_polls(node: &Node, polls: u64) {
    let begun = Instant::now();
    while node.plane.delivery.meters.polls.load(Ordering::Relaxed) != polls {
        assert!(begun.elapsed() < PATIENCE, "{polls} polls never waited");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn key(number: u32) -> KeyWrite {
    KeyWrite::Create(KeyEntry {
        hash: hash(number),
        id: format!("mobile-{number}"),
        application: "mobile".to_owned(),
        key_type: KeyType::Production,
        expires_ms: None,
    })
}

fn hash(number: u32) -> KeyHash {
    KeyHash::of_digest(&ContentHash::of(&number.to_be_bytes()).0)
}

/// Writes keys on this node.
async fn write(node: &Node, writes: &[KeyWrite]) -> u64 {
    let head = node.plane.store.write_keys(writes, unix_ms()).await.unwrap();
    node.plane.heads.keys_written(head);
    head
}

#[tokio::test]
async fn a_manifest_says_what_was_published_and_a_snapshot_is_what_it_says() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "distribution: { wait: 20s, spread: 250ms }").await;
    node.environment("prod", "production").await;
    let answer = node.get("/v1/environments/prod/revision").await;
    assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "nothing is published yet");

    let first = content(20, "first");
    let published = node.publish("prod", &first).await;
    let manifest = node.manifest("prod").await;
    assert_eq!((manifest.seq, manifest.root), (1, first.root()));
    assert_eq!(manifest.environment_type, EnvironmentType::Production);
    assert_eq!((manifest.wait_s, manifest.spread_ms, manifest.routes), (20, 250, 20));
    assert_eq!(manifest.published_at_ms, published.published_ms);
    let answer = node.get(&format!("/v1/blobs/{}", manifest.snapshot.sha256)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["cache-control"], "public, max-age=31536000, immutable");
    assert_eq!(answer.headers()["content-type"], "application/zstd");
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(Content::from_snapshot(&manifest.snapshot, &bytes).unwrap(), first);

    // What kind of environment it is may change without a publish.
    node.environment("prod", "hybrid").await;
    let begun = Instant::now();
    while node.manifest("prod").await.environment_type != EnvironmentType::Hybrid {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn a_poll_is_answered_at_once_when_there_is_news_and_not_before_the_end_when_there_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    node.environment("prod", "production").await;
    node.publish("prod", &content(3, "a")).await;
    let path = "/v1/environments/prod/revision";

    let begun = Instant::now();
    let answer = node.get(&format!("{path}?after=1&wait=1")).await;
    assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    let etag = answer.headers()["etag"].clone();
    assert!(etag.to_str().unwrap().starts_with("\"1-"), "{etag:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let begun = Instant::now();
    let answer = node
        .asking(&format!("{path}?wait=1"))
        .header("if-none-match", &etag)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "the tag is as good as the number"
    );
    // Who sets no condition and does not wait wants to see it.
    for plain in [
        format!("{path}?after=1"),
        format!("{path}?after=7&wait=0"),
        path.to_owned(),
    ] {
        assert_eq!(node.get(&plain).await.status(), StatusCode::OK, "{plain}");
    }
    let conditional = node.asking(path).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!(conditional.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(
        node.get(&format!("{path}?after=0&wait=60")).await.status(),
        StatusCode::OK
    );

    let request = node.asking(&format!("{path}?after=1&wait=60"));
    let waiting = tokio::spawn(async move {
        let answer = request.send().await.unwrap();
        (answer.status(), answer.headers()["etag"].clone(), Instant::now())
    });
    until_polls(&node, 1).await;
    let published = Instant::now();
    node.publish("prod", &content(3, "b")).await;
    let (status, etag, answered) = waiting.await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert!(etag.to_str().unwrap().starts_with("\"2-"));
    assert!(
        answered - published < Duration::from_secs(20),
        "{:?}",
        answered - published
    );
    node.stop().await;
}

#[tokio::test]
async fn a_thousand_polls_that_are_woken_at_once_share_one_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    node.environment("prod", "production").await;
    node.publish("prod", &content(3, "a")).await;
    crate::server::sockets::raise_file_limit();
    let mut polls = JoinSet::new();
    for _ in 0..1000 {
        let request = node.asking("/v1/environments/prod/revision?after=1&wait=60");
        polls.spawn(async move {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            answer.bytes().await.unwrap()
        });
    }
    until_polls(&node, 1000).await;
    node.publish("prod", &content(3, "b")).await;
    let mut bodies = Vec::new();
    while let Some(body) = polls.join_next().await {
        bodies.push(body.unwrap());
    }
    assert_eq!(bodies.len(), 1000);
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]));
    // The bytes are those that the node keeps: no copy is made for anybody.
    let (one, other) = tokio::join!(
        node.plane.delivery.manifests.get(&node.plane, "prod"),
        node.plane.delivery.manifests.get(&node.plane, "prod")
    );
    let (one, other) = (one.unwrap().unwrap(), other.unwrap().unwrap());
    assert!(Arc::ptr_eq(&one, &other));
    assert_eq!(one.body, bodies[0]);
    assert_eq!(node.plane.delivery.meters.polls.load(Ordering::Relaxed), 0);
    node.stop().await;
}

#[tokio::test]
async fn polls_are_bounded_and_who_finds_no_place_is_told_when_to_come() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "distribution: { polls: 2 }").await;
    node.environment("prod", "production").await;
    let path = "/v1/environments/prod/revision?after=0&wait=60";
    let mut waiting = JoinSet::new();
    for _ in 0..2 {
        let request = node.asking(path);
        waiting.spawn(async move { request.send().await.unwrap().status() });
    }
    until_polls(&node, 2).await;
    let refused = node.get(path).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds));
    // What is not a poll is served on.
    let published = node.publish("prod", &content(3, "a")).await;
    let blob = node.get(&format!("/v1/blobs/{}", published.snapshot)).await;
    assert_eq!(blob.status(), StatusCode::OK);
    while let Some(status) = waiting.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!(node.get(path).await.status(), StatusCode::OK, "places are free again");
    node.stop().await;
}

#[tokio::test]
async fn who_hangs_up_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    node.environment("prod", "production").await;
    let request = node.asking("/v1/environments/prod/revision?after=0&wait=60");
    let waiting = tokio::spawn(request.send());
    until_polls(&node, 1).await;
    waiting.abort();
    until_polls(&node, 0).await;
    node.stop().await;
}

#[tokio::test]
async fn a_delta_makes_what_the_snapshot_is_and_is_not_there_when_it_is_not_worth_it() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    node.environment("prod", "production").await;
    let (first, second) = (content(300, "first"), content(300, "second"));
    let mut third = second.clone();
    third.remove(crate::distribution::Kind::Api, "api-7");
    for content in [&first, &second, &third, &content(1, "all other")] {
        node.publish("prod", content).await;
    }
    let delta = async |from: u64, to: u64| {
        let answer = node.get(&format!("/v1/environments/prod/delta/{from}/{to}")).await;
        let status = answer.status();
        (status, answer.headers().clone(), answer.bytes().await.unwrap())
    };
    for (from, to, before, after) in [(1, 2, &first, &second), (1, 3, &first, &third), (3, 1, &third, &first)] {
        let (status, headers, bytes) = delta(from, to).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(&before.with_delta(&bytes, 1 << 20).unwrap(), after);
        assert!(bytes.len() < 2000, "{} bytes for one change", bytes.len());
    }
    assert_eq!(delta(3, 4).await.0, StatusCode::NOT_FOUND, "larger than the snapshot");
    assert_eq!(delta(3, 5).await.0, StatusCode::NOT_FOUND, "no such revision");
    node.stop().await;
}

#[tokio::test]
async fn when_all_slots_are_taken_others_are_told_when_to_come_and_everybody_is_served_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(
        &sqlite(&directory),
        "distribution: { snapshot_slots: 2, bandwidth: 20MiB }",
    )
    .await;
    node.environment("prod", "production").await;
    let published = node.publish("prod", &content(8_000, "large")).await;
    assert!(published.snapshot_size > super::SMALL, "{}", published.snapshot_size);
    let path = format!("/v1/blobs/{}", published.snapshot);

    // Two that take their time: they do not read, and what is on its way is more than the kernel takes for them.
    let slots: Vec<_> = (0..2)
        .map(|_| node.plane.delivery.admit(published.snapshot_size).unwrap())
        .collect();
    let refused = node.get(&path).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let whole: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let exact: u64 = refused.headers()["tollgate-retry-after-ms"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(whole, exact.div_ceil(1000));
    assert!(
        node.get("/v1/environments/prod/revision").await.status().is_success(),
        "manifests go on"
    );
    drop(slots);

    let asked = Arc::new(AtomicUsize::new(0));
    let mut gateways = JoinSet::new();
    for _ in 0..60 {
        let (http, url, asked) = (client(), format!("{}{path}", node.url), Arc::clone(&asked));
        gateways.spawn(async move {
            loop {
                asked.fetch_add(1, Ordering::Relaxed);
                let answer = http.get(&url).bearer_auth(TOKEN).send().await.unwrap();
                if answer.status().is_success() {
                    return ContentHash::of(&answer.bytes().await.unwrap());
                }
                let wait = answer.headers()["tollgate-retry-after-ms"]
                    .to_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        });
    }
    while let Some(hash) = gateways.join_next().await {
        assert_eq!(hash.unwrap(), published.snapshot);
    }
    // How often they ask is held to a figure where time is an argument: in `admission`.
    assert!(asked.load(Ordering::Relaxed) >= 60);
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_its_slot_and_gives_it_back_when_it_goes() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "distribution: { snapshot_slots: 1 }").await;
    // More than all buffers in between take.
    let bytes: Vec<u8> = (0..24_u32 << 20)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let hash = ContentHash::of(&bytes);
    node.plane.store.put_blob(&hash, &bytes).await.unwrap();
    let address = node.url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET /v1/blobs/{hash} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let path = format!("/v1/blobs/{hash}");
    assert_eq!(node.get(&path).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(stream);
    let begun = Instant::now();
    while node.get(&path).await.status() != StatusCode::OK {
        assert!(begun.elapsed() < PATIENCE, "the slot is never free again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn the_key_log_comes_in_signed_pages_and_wakes_who_waits() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    node.environment("prod", "production").await;
    let path = "/v1/environments/prod/keys/log";
    let page = async |query: &str| -> KeyPage {
        let answer = node.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        verified(&answer.bytes().await.unwrap(), Topic::Keys, node.plane.signing.public())
    };
    assert_eq!(
        node.get(&format!("{path}?after=0")).await.status(),
        StatusCode::NOT_MODIFIED
    );
    write(&node, &(0..2500).map(key).collect::<Vec<_>>()).await;
    let epoch = node.plane.store.key_head().await.unwrap().epoch;
    let whole = page("after=0&limit=20000").await;
    assert_eq!((whole.records.len(), whole.head), (2500, 2500), "for a directory");
    assert_eq!(page("after=0&limit=7").await.records.len(), 7);
    let mut after = 0;
    for expected in [1000, 1000, 500] {
        let page = page(&format!("after={after}&wait=60")).await;
        assert_eq!((page.records.len(), page.after, page.head), (expected, after, 2500));
        assert_eq!((page.environment.as_str(), page.epoch), ("prod", epoch));
        for (record, seq) in page.records.iter().zip(after + 1..) {
            assert_eq!(record.seq, seq);
        }
        after = page.records.last().unwrap().seq;
    }
    let request = node.asking(&format!("{path}?after=2500&wait=60"));
    let waiting = tokio::spawn(async move { request.send().await.unwrap().bytes().await.unwrap() });
    until_polls(&node, 1).await;
    write(&node, &[KeyWrite::RevokeId("mobile-7".to_owned())]).await;
    let woken: KeyPage = verified(&waiting.await.unwrap(), Topic::Keys, node.plane.signing.public());
    assert_eq!(woken.records.len(), 1);
    assert_eq!(woken.records[0].change, KeyChange::Del { hash: hash(7) });

    // A gateway that has read another log is told which one this is.
    let ahead = page("after=9999&wait=60").await;
    assert_eq!((ahead.epoch, ahead.head, ahead.records.len()), (epoch, 2501, 0));

    let answer = node
        .posting(
            "/v1/keys:resolve",
            &json!({ "h": [hash(6), hash(7), hash(9999)], "nonce": "n1" }),
        )
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let answer = answer.bytes().await.unwrap();
    let ResolvedFor {
        nonce,
        answer: resolved,
    } = verified(&answer, Topic::Resolved, node.plane.signing.public());
    assert_eq!(nonce, "n1");
    assert_eq!(resolved.seq, 2501);
    assert_eq!(resolved.keys.iter().map(|key| key.hash).collect::<Vec<_>>(), [hash(6)]);

    node.plane.store.trim_key_log(1000).await.unwrap();
    assert_eq!(node.get(&format!("{path}?after=998")).await.status(), StatusCode::GONE);
    assert_eq!(page("after=1000").await.records[0].seq, 1001);
    node.stop().await;
}

#[tokio::test]
async fn gateways_see_their_own_environment_only() {
    use crate::control_plane::access::{Scope, TokenRecord};

    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    for name in ["prod", "test"] {
        node.environment(name, "hybrid").await;
        node.publish(name, &content(2, name)).await;
    }
    let token = async |scope, environments: &[&str]| {
        let environments = environments.iter().map(|name| (*name).to_owned()).collect();
        let record = |sha256| TokenRecord {
            sha256,
            note: String::new(),
            scopes: vec![scope],
            environments,
            roles: Vec::new(),
            expires_ms: None,
        };
        node.plane.tokens.create(record).await.unwrap().1
    };
    let status = async |token: &crate::document::Secret, path: &str| {
        let request = client().get(format!("{}{path}", node.url)).bearer_auth(token.expose());
        request.send().await.unwrap().status().as_u16()
    };
    let gateway = token(Scope::Gateway, &["prod"]).await;
    let reader = token(Scope::Read, &[]).await;
    for (path, for_gateway) in [
        ("/v1/environments/prod/revision", 200),
        ("/v1/environments/test/revision", 403),
        ("/v1/environments/test/delta/1/1", 403),
        ("/v1/environments/prod/keys/log", 304),
        ("/v1/environments/test/keys/log", 403),
    ] {
        assert_eq!(status(&gateway, path).await, for_gateway, "{path}");
        assert_eq!(status(&reader, path).await, 403, "{path}");
    }
    let keys = client()
        .get(format!("{}/v1/signing-keys", node.url))
        .send()
        .await
        .unwrap();
    let keys: serde_json::Value = serde_json::from_slice(&keys.bytes().await.unwrap()).unwrap();
    assert_eq!(keys, json!({ "keys": [node.plane.signing.public().to_string()] }));
    node.stop().await;
}

/// Names the database in which [`publishes_until_it_is_killed`] publishes.
const VICTIM: &str = "TOLLGATE_TEST_PUBLISHES_TO";

#[test]
fn a_control_plane_that_is_killed_while_it_publishes_leaves_the_whole_revision_or_none_of_it() {
    use std::io::Read;
    use std::process::{Command, Stdio};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cp.db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut before = 0;
    for round in 0..20_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "control_plane::delivery::tests::publishes_until_it_is_killed",
            ])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It writes a dot after its first publish; before that there is nothing to be killed in.
        let mut output = child.stdout.take().unwrap();
        let mut byte = [0];
        while byte != [b'.'] {
            output.read_exact(&mut byte).unwrap();
        }
        std::thread::sleep(Duration::from_micros(round * 1_777));
        child.kill().unwrap();
        child.wait().unwrap();
        before = runtime.block_on(async {
            let store = super::super::store::open(&super::super::store::Location::Sqlite(path.clone()))
                .await
                .unwrap();
            let head = store.head("prod").await.unwrap().unwrap();
            assert!(head.seq > before, "what was said to be published is there");
            for seq in [head.seq, 1] {
                let revision = store.revision("prod", seq).await.unwrap().unwrap();
                let bytes = store.blob(&revision.snapshot).await.unwrap().unwrap();
                let found = Content::from_snapshot(&super::super::manifests::snapshot(&revision), &bytes).unwrap();
                assert_eq!(found.root(), revision.root);
            }
            assert!(store.revision("prod", head.seq + 1).await.unwrap().is_none());
            head.seq
        });
    }
}

#[test]
#[ignore = "the victim of the test above, which starts it in a process of its own"]
fn publishes_until_it_is_killed() {
    use std::io::Write;

    let path = std::env::var(VICTIM).expect("started by the test above");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = super::super::store::open(&super::super::store::Location::Sqlite(path.into()))
            .await
            .unwrap();
        let mut after = store.head("prod").await.unwrap().map_or(0, |head| head.seq);
        // Ends also when nobody kills it.
        for _ in 0..10_000 {
            let changes = changes("prod", after, &content(500, &after.to_string()));
            after = store.commit(&changes, unix_ms()).await.unwrap().revisions[0].seq;
            print!(".");
            std::io::stdout().flush().unwrap();
        }
    });
}

/// What a poll of the log of invalidations says.
async fn invalidations(node: &Node, query: &str) -> CachePage {
    let answer = node.get(&format!("/v1/environments/prod/cache/log{query}")).await;
    assert_eq!(answer.status(), StatusCode::OK, "{query}");
    verified(
        &answer.bytes().await.unwrap(),
        Topic::Cache,
        node.plane.signing.public(),
    )
}

async fn invalidate(node: &Node, environment: &str, what: &str) {
    let seq = (node.plane.store)
        .write_invalidation(environment, "me", what, unix_ms())
        .await
        .unwrap();
    node.plane.heads.invalidated(seq);
}

#[tokio::test]
async fn the_log_of_invalidations_tells_its_end_then_what_comes_and_wakes_who_waits() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    node.environment("prod", "production").await;
    node.environment("test", "production").await;
    invalidate(&node, "prod", r#"{"tags":["old"]}"#).await;
    let end = invalidations(&node, "").await;
    assert_eq!((end.after, end.next, end.records.len()), (None, 1, 0));
    assert!(end.quiet_ms.is_some_and(|quiet_ms| quiet_ms < 60_000), "{end:?}");
    let epoch = node.plane.store.key_head().await.unwrap().epoch;
    assert_eq!(end.epoch, epoch);
    // Who has read another log does not wait for news of this one.
    let other = invalidations(&node, "?after=1&epoch=1&wait=60").await;
    assert_eq!((other.epoch, other.next, other.records.len()), (epoch, 1, 0));
    let path = "/v1/environments/prod/cache/log";
    let nothing = node.get(&format!("{path}?after=1&wait=0")).await;
    assert_eq!(nothing.status(), StatusCode::NOT_MODIFIED);

    let (asking, begun) = (
        node.asking(&format!("{path}?after=1&epoch={epoch}&wait=60")),
        Instant::now(),
    );
    let waiting = tokio::spawn(async move { asking.send().await.unwrap().bytes().await.unwrap() });
    until_polls(&node, 1).await;
    invalidate(&node, "prod", r#"{"tags":["news"]}"#).await;
    let woken: CachePage = verified(&waiting.await.unwrap(), Topic::Cache, node.plane.signing.public());
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!((woken.after, woken.next), (Some(1), 2));
    assert_eq!(woken.records[0].what, json!({ "tags": ["news"] }));

    // What is for others is passed over.
    invalidate(&node, "test", r#"{"all":true}"#).await;
    let passed = invalidations(&node, "?after=2&wait=0").await;
    assert_eq!((passed.next, passed.records.len()), (3, 0));
    // Who is ahead has read another log.
    let ahead = invalidations(&node, "?after=9&wait=60").await;
    assert_eq!((ahead.next, ahead.records.len()), (3, 0));
    // Who has missed too much is told so.
    for _ in 0..KEPT {
        invalidate(&node, "test", r#"{"all":true}"#).await;
    }
    let quiet = invalidations(&node, "?after=1&wait=0").await;
    assert_eq!(quiet.records.len(), 1, "what others were told is no reason");
    for _ in 0..KEPT {
        invalidate(&node, "prod", r#"{"all":true}"#).await;
    }
    let gone = node.get(&format!("{path}?after=3&wait=0")).await;
    assert_eq!(gone.status(), StatusCode::GONE);
    node.stop().await;
}

#[tokio::test]
async fn a_page_of_invalidations_is_bounded_and_says_where_the_next_one_begins() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&sqlite(&directory), "").await;
    node.environment("prod", "production").await;
    for _ in 0..130 {
        invalidate(&node, "prod", r#"{"all":true}"#).await;
    }
    let first = invalidations(&node, "?after=0").await;
    assert_eq!((first.records.len(), first.next), (100, 100));
    let second = invalidations(&node, "?after=100").await;
    assert_eq!((second.records.len(), second.next), (30, 130));
    // Large ones come on more pages.
    let tag = "x".repeat(60 << 10);
    for _ in 0..20 {
        invalidate(&node, "prod", &json!({ "tags": [tag] }).to_string()).await;
    }
    let large = invalidations(&node, "?after=130").await;
    assert_eq!((large.records.len(), large.next), (17, 147));
    let rest = invalidations(&node, "?after=147").await;
    assert_eq!((rest.records.len(), rest.next), (3, 150));
    let listed = node.plane.store.newest_invalidations("prod", 1000).await.unwrap();
    assert_eq!((listed.len(), listed[0].seq), (17, 150));
    node.stop().await;
}
