//! What gateways are to forget.

use super::*;

const PATH: &str = "/v1/environments/prod/cache/invalidations";

#[tokio::test]
async fn an_order_is_written_down_with_its_author_and_listed_the_newest_first() {
    let node = Node::with(&["prod", "test"]).await;
    let tags = json!({ "tags": ["news"] });
    let first = node.post(PATH, tags.clone()).await.is(202).body;
    assert_eq!(first, json!({ "seq": 1, "invalidated": 1, "spread": "control_plane" }));
    node.post("/v1/environments/test/cache/invalidations", json!({ "all": true }))
        .await
        .is(202);
    node.post(PATH, json!({ "urls": ["https://a.example/b"], "apis": ["c"] }))
        .await
        .is(202);
    let listed = node.get(PATH).await.is(200).body;
    let told: Vec<_> = listed["items"].as_array().unwrap().iter().collect();
    assert_eq!((told.len(), &told[0]["seq"], &told[1]["what"]), (2, &json!(3), &tags));
    assert!(!told[1]["by"].as_str().unwrap().is_empty());
    let one = node.get(&format!("{PATH}?limit=1")).await.is(200).body;
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_order_needs_a_right_an_environment_and_something_to_forget() {
    let node = Node::with(&["prod", "test"]).await;
    let all = json!({ "all": true });
    for (scopes, environments, status) in [
        (&[Scope::Read][..], &[][..], 403),
        (&[Scope::Publish], &[], 403),
        (&[Scope::Gateways], &[], 202),
        (&[Scope::Gateway], &["prod"], 202),
        (&[Scope::Gateway], &["test"], 403),
        (&[Scope::Admin], &[], 202),
    ] {
        let token = node.token_with(scopes, environments, &[]).await;
        let bearer = format!("Bearer {token}");
        let answer = node
            .ask(Method::POST, PATH, &[("authorization", &bearer)], Some(&all))
            .await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{scopes:?} {environments:?}: {}",
            answer.text
        );
    }
    node.post("/v1/environments/none/cache/invalidations", all)
        .await
        .refused(404, "not_found", "there is no environment \"none\"");
    for (wrong, says) in [
        (json!({}), "nothing is named"),
        (json!({ "urls": ["/a"] }), "names no host"),
        (json!({ "tag": "a" }), "unknown field"),
        (
            json!({ "routes": [{ "api": "a", "route": "b" }] }),
            "no pattern of a route",
        ),
    ] {
        node.post(PATH, wrong).await.refused(400, "bad_request", says);
    }
    let long = json!({ "tags": vec!["x".repeat(8 << 10); 9] });
    assert_eq!(node.post(PATH, long).await.status.as_u16(), 413);
}
