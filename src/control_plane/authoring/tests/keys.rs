//! Keys are shown once, known by their hashes, and revoked for ever.

use super::*;
use crate::auth::key::digest;
use crate::control_plane::store::{Changes, NewRevision};
use crate::distribution::{ContentHash, KeyChange, KeyHash};

fn hex(text: &str) -> String {
    digest(text).0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_key_is_shown_once_and_its_hash_never() {
    let node = Node::start().await;
    node.post("/v1/applications/mobile/keys", json!({}))
        .await
        .refused(404, "not_found", "no application \"mobile\"");
    node.post("/v1/applications", json!({ "name": "mobile" })).await.is(201);
    let body = json!({ "type": "sandbox", "id": "mobile-7", "expires": "2099-01-01T00:00:00Z" });
    let made = node.post("/v1/applications/mobile/keys", body).await.is(201);
    let key = made.body["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("tg_test_"));
    assert_eq!(made.body["expires"], "2099-01-01T00:00:00Z");
    assert_eq!(made.headers[header::LOCATION], "/v1/keys/mobile-7");
    assert_eq!(node.plane.heads.key_seq(), 1);
    let stored = node
        .plane
        .store
        .key_by_hash(&KeyHash::of_digest(&digest(&key).0))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stored.entry.id, "mobile-7");
    let own = node.post("/v1/applications/mobile/keys", json!({})).await.is(201);
    assert!(own.body["id"].as_str().unwrap().starts_with("mobile-"));
    assert_eq!(own.body["type"], "production");

    let again = node
        .post("/v1/applications/mobile/keys", json!({ "id": "mobile-7" }))
        .await
        .is(409);
    let list = node.get("/v1/keys?application=mobile&type=sandbox").await.is(200);
    assert_eq!(list.body["items"].as_array().unwrap().len(), 1);
    let one = node.get("/v1/keys/mobile-7").await.is(200);
    node.delete("/v1/keys/mobile-7").await.is(204);
    let revoked = node.get("/v1/keys/mobile-7").await.is(200);
    assert!(revoked.body["revoked"].is_string());
    assert_eq!(node.plane.heads.key_seq(), 3);
    for answered in [&again, &list, &one, &revoked] {
        assert!(
            !answered.text.contains(&key) && !answered.text.contains(&hex(&key)[..32]),
            "{answered:?}"
        );
    }
    node.delete("/v1/keys/nobody")
        .await
        .refused(404, "not_found", "no key \"nobody\"");
}

#[tokio::test]
async fn keys_from_elsewhere_come_in_as_hashes_all_or_none() {
    let node = Node::start().await;
    node.post("/v1/applications", json!({ "name": "mobile" })).await.is(201);
    let imported = node
        .post(
            "/v1/applications/mobile/keys",
            json!({ "id": "old", "sha256": hex("an old key") }),
        )
        .await
        .is(201);
    assert_eq!(imported.body.get("key"), None);
    let many: Vec<Value> = (0..10_000)
        .map(|n| json!({ "id": format!("k{n}"), "sha256": hex(&format!("key {n}")) }))
        .collect();
    let done = node
        .post("/v1/applications/mobile/keys:import", json!({ "keys": many }))
        .await
        .is(201);
    assert_eq!(done.body["imported"], 10_000);
    assert_eq!(node.plane.heads.key_seq(), 10_001);

    let half = json!({ "keys": [{ "id": "new", "sha256": hex("new") }, { "id": "k5", "sha256": hex("other") }] });
    node.post("/v1/applications/mobile/keys:import", half).await.is(409);
    node.get("/v1/keys/new").await.is(404);
    let key = "tg_live_0123456789ABCDEFGHIJKLMNOPQRSTUV2ALRRa";
    let wrong = json!({ "keys": [
        { "id": " ", "sha256": key }, { "id": "ok", "sha256": hex("ok"), "expires": "2001-01-01T00:00:00Z" },
    ] });
    let refused =
        node.post("/v1/applications/mobile/keys:import", wrong)
            .await
            .refused(422, "refused", "keys[1]: \"expires\"");
    assert_eq!(refused.body["mistakes"].as_array().unwrap().len(), 3);
    assert!(!refused.text.contains(key));
    node.post("/v1/applications/mobile/keys:import", json!({ "keys": [] }))
        .await
        .refused(400, "bad_request", "1 to 10000");
}

#[tokio::test]
async fn a_key_of_a_published_document_is_known_and_revoked_by_its_hash() {
    let node = Node::with(&["prod"]).await;
    node.publish(&["prod"], FIRST).await.is(200);
    let known = node.get("/v1/keys/mobile-1").await.is(200);
    assert_eq!(
        (&known.body["application"], &known.body["environments"]),
        (&json!("mobile"), &json!(["prod"]))
    );
    assert_eq!(known.body.get("revoked"), None);
    node.delete("/v1/keys/mobile-1").await.is(204);
    let log = node.plane.store.key_log(0, 10).await.unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(
        log[0].change,
        KeyChange::Del {
            hash: KeyHash([0x9f; 16])
        }
    );
    assert!(node.get("/v1/keys/mobile-1").await.is(200).body["revoked"].is_string());
    // More keys for an application that only a document has.
    node.post("/v1/applications/mobile/keys", json!({})).await.is(201);
}

#[tokio::test]
async fn an_application_takes_its_keys_along_also_if_that_was_cut_short() {
    let node = Node::start().await;
    node.post("/v1/applications", json!({ "name": "mobile" })).await.is(201);
    node.post("/v1/applications/mobile/keys", json!({ "id": "one" }))
        .await
        .is(201);
    node.delete("/v1/applications/mobile").await.is(204);
    assert!(node.get("/v1/keys/one").await.body["revoked"].is_string());
    node.delete("/v1/applications/mobile").await.is(404);

    node.post("/v1/applications", json!({ "name": "shop" })).await.is(201);
    node.post("/v1/applications/shop/keys", json!({ "id": "two" }))
        .await
        .is(201);
    let change = crate::control_plane::store::ObjectChange {
        kind: crate::control_plane::store::ObjectKind::Application,
        name: "shop".to_owned(),
        expected: crate::control_plane::store::Expected::Present,
        value: None,
    };
    let changes = crate::control_plane::store::Changes {
        objects: vec![change],
        ..Default::default()
    };
    node.plane.store.commit(&changes, 1).await.unwrap();
    node.delete("/v1/applications/shop").await.is(204);
    assert!(node.get("/v1/keys/two").await.body["revoked"].is_string());
}

#[tokio::test]
async fn a_key_is_revoked_though_a_published_document_can_not_be_read() {
    let node = Node::with(&["prod"]).await;
    node.post("/v1/applications", json!({ "name": "mobile" })).await.is(201);
    node.post("/v1/applications/mobile/keys", json!({ "id": "mobile-7" }))
        .await
        .is(201);
    let junk = b"no snapshot".to_vec();
    let snapshot = ContentHash::of(&junk);
    let revision = NewRevision {
        environment: "prod".to_owned(),
        after: 0,
        root: snapshot,
        snapshot,
        snapshot_raw_size: 1,
        routes: 0,
        source: "{}".to_owned(),
        author: "test".to_owned(),
        note: String::new(),
        rollback_of: None,
    };
    let changes = Changes {
        blobs: vec![(snapshot, junk)],
        revisions: vec![revision],
        ..Changes::default()
    };
    node.plane.store.commit(&changes, 1).await.unwrap();
    let revoked = node.delete("/v1/keys/mobile-7").await.is(200);
    let warning = revoked.body["warnings"][0].as_str().unwrap();
    assert!(warning.contains("the key \"mobile-7\" is revoked"), "{warning}");
    assert!(node.get("/v1/keys/mobile-7").await.is(200).body["revoked"].is_string());
    assert_eq!(node.plane.heads.key_seq(), 2, "whoever waits is woken");
    node.delete("/v1/keys/nobody").await.is(500);
}
