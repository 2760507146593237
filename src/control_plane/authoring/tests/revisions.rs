//! Publishing, comparing, going back.

use super::*;

#[tokio::test]
async fn a_first_document_becomes_revision_one_and_the_same_document_again_becomes_nothing() {
    let node = Node::with(&["prod", "test"]).await;
    let first = node.publish(&["test", "prod"], FIRST).await.is(200);
    let [prod, test] = first.published() else {
        panic!("{first:?}")
    };
    assert_eq!(
        (&prod["environment"], &prod["seq"], &prod["changed"]),
        (&json!("prod"), &json!(1), &json!(true))
    );
    assert_eq!(prod["root"], test["root"], "the same content has the same root");
    let told = &prod["diff"][1];
    assert_eq!(
        (&told["kind"], &told["name"], &told["change"]),
        (&json!("plan"), &json!("basic"), &json!("added"))
    );

    let again = node.publish(&["prod"], FIRST).await.is(200);
    assert_eq!(again.published()[0]["changed"], false);
    assert_eq!(again.published()[0]["seq"], 1);
    assert_eq!(node.plane.heads.seq("prod"), 1, "who waits is told");

    let list = node.get("/v1/environments/prod/revisions").await.is(200);
    assert_eq!(list.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(list.body["items"][0]["routes"], 3);
    assert!(
        list.body["items"][0]["author"].as_str().unwrap().len() == 10,
        "{list:?}"
    );
    let one = node.get("/v1/environments/prod/revisions/1").await.is(200);
    assert_eq!(names(&one.body["document"]["apis"]), ["open", "orders"]);
    let environment = node.get("/v1/environments/prod").await.is(200);
    assert_eq!(environment.body["revision"], 1);
}

#[tokio::test]
async fn a_dry_run_tells_everything_and_does_nothing() {
    let node = Node::with(&["prod"]).await;
    let body = json!({ "environments": ["prod"], "document": FIRST, "dry_run": true });
    let told = node.post("/v1/revisions", body).await.is(200);
    assert_eq!(told.published()[0]["seq"], 1);
    assert_eq!(told.published()[0]["diff"].as_array().unwrap().len(), 5);
    assert!(node.plane.store.heads().await.unwrap().is_empty());
    node.get("/v1/environments/prod/revisions/1")
        .await
        .refused(404, "not_found", "no revision 1");
}

#[tokio::test]
async fn a_document_with_mistakes_is_refused_whole_with_every_mistake_at_its_place() {
    let node = Node::with(&["prod"]).await;
    let bad = "version: 1\napis:\n  - { name: a, base_path: /a, auth: none, upstream: nowhere }\n  - { name: b, base_path: b }\n";
    let refused = node.publish(&["prod"], bad).await.refused(422, "refused", "nowhere");
    let mistakes: Vec<&str> = refused.body["mistakes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect();
    assert!(mistakes.len() >= 4, "{mistakes:?}");
    for place in ["revision.yaml:3:", "revision.yaml:4:"] {
        assert!(
            mistakes.iter().any(|mistake| mistake.starts_with(place)),
            "{place} {mistakes:?}"
        );
    }
    let clash = "
version: 1
upstreams: [{ name: u, endpoints: [{ address: 'u:80' }] }]
apis:
  - { name: a, base_path: /a, auth: none, upstream: u }
  - { name: b, base_path: /a, auth: none, upstream: u }
";
    node.publish(&["prod"], clash)
        .await
        .refused(422, "refused", "revision.yaml:6:");
    let reference = "version: 1\nupstreams: [{ name: u, endpoints: [{ address: '${HOST}:80' }] }]";
    node.publish(&["prod"], reference)
        .await
        .refused(422, "refused", "only ${cred:name} can be published");
    node.publish(&["prod"], "version: [")
        .await
        .refused(422, "refused", "not valid YAML");
    assert!(
        node.plane.store.heads().await.unwrap().is_empty(),
        "nothing was published"
    );
}

#[tokio::test]
async fn all_environments_get_a_document_or_none() {
    let node = Node::with(&["prod", "test"]).await;
    node.stock().await;
    node.deploy(1, &["test"]).await.is(200);
    // The document has another upstream of the name that the deployed API brings.
    let document = FIRST
        .replace("name: orders, endpoints", "name: stock, endpoints")
        .replace("upstream: orders", "upstream: stock");
    let refused = node.publish(&["prod", "test"], &document).await;
    let refused = refused.refused(
        422,
        "refused",
        "upstream \"stock\" is one thing in the published document",
    );
    assert!(refused.text.contains("revision 1 of API"), "{refused:?}");
    assert!(
        refused.text.contains("environment \\\\\\\"test") || refused.text.contains("environment \\\"test"),
        "{refused:?}"
    );
    assert!(node.plane.store.head("prod").await.unwrap().is_none());
    node.publish(&["prod", "nowhere"], FIRST)
        .await
        .refused(404, "not_found", "no environment \"nowhere\"");
    node.publish(&[], FIRST)
        .await
        .refused(400, "bad_request", "from 1 to 100");
}

#[tokio::test]
async fn routes_that_only_collide_when_they_are_composed_are_told_by_the_names_of_the_objects() {
    let node = Node::with(&["prod"]).await;
    node.stock().await;
    node.deploy(1, &["prod"]).await.is(200);
    let document = FIRST.replace("/open", "/stock");
    let refused = node
        .publish(&["prod"], &document)
        .await
        .refused(422, "refused", "environment \"prod\"");
    let mistakes = refused.body["mistakes"].as_array().unwrap();
    assert!(!mistakes.is_empty());
    for mistake in mistakes {
        let mistake = mistake.as_str().unwrap();
        assert!(
            mistake.contains("api \"stock\" of revision 1 of API \"stock\""),
            "{mistake}"
        );
        assert!(mistake.contains("of the published document"), "{mistake}");
        assert!(!mistake.contains("line "), "{mistake}");
    }
}

#[tokio::test]
async fn a_rollback_is_a_new_number_with_the_old_root_and_the_old_snapshot() {
    let node = Node::with(&["prod"]).await;
    node.stock().await;
    node.publish(&["prod"], FIRST).await.is(200);
    node.deploy(1, &["prod"]).await.is(200);
    node.publish(&["prod"], "version: 1").await.is(200);
    node.post("/v1/apis/stock/undeploy", json!({ "environments": ["prod"] }))
        .await
        .is(200);
    assert_eq!(node.get("/v1/apis/stock").await.body["deployed"], json!({}));

    let back = node
        .post(
            "/v1/environments/prod/rollback",
            json!({ "to": 2, "note": "four was wrong" }),
        )
        .await
        .is(200);
    assert_eq!(
        (&back.published()[0]["seq"], &back.published()[0]["changed"]),
        (&json!(5), &json!(true))
    );
    let list = node.get("/v1/environments/prod/revisions").await.is(200);
    let (newest, second) = (&list.body["items"][0], &list.body["items"][3]);
    assert_eq!(
        (&newest["seq"], &newest["rollback_of"], &newest["note"]),
        (&json!(5), &json!(2), &json!("four was wrong"))
    );
    assert_eq!(
        (&newest["root"], &newest["snapshot"]),
        (&second["root"], &second["snapshot"])
    );
    assert_eq!(
        node.get("/v1/apis/stock").await.body["deployed"],
        json!({ "prod": 1 }),
        "what is deployed went back too"
    );
    let same = node.publish(&["prod"], FIRST).await.is(200);
    assert_eq!(same.published()[0]["changed"], false, "the document went back too");
    node.post("/v1/environments/prod/rollback", json!({ "to": 77 }))
        .await
        .refused(404, "not_found", "no revision 77");
}

#[tokio::test]
async fn what_was_deployed_and_then_deleted_comes_back_with_a_rollback_and_can_be_changed_afterwards() {
    let node = Node::with(&["prod"]).await;
    node.stock().await;
    node.deploy(1, &["prod"]).await.is(200);
    node.post("/v1/apis/stock/undeploy", json!({ "environments": ["prod"] }))
        .await
        .is(200);
    node.delete("/v1/apis/stock").await.is(204);
    node.post("/v1/environments/prod/rollback", json!({ "to": 1 }))
        .await
        .is(200);
    assert_eq!(names(&node.document("prod").await["apis"]), ["stock"]);
    // It belongs to the document now: another API of that name would be another thing.
    node.post("/v1/apis", json!({ "name": "other" })).await.is(201);
    let other = STOCK.replace("stock", "other");
    node.post("/v1/apis/other/revisions", json!({ "document": other }))
        .await
        .is(201);
    node.post("/v1/apis/other/revisions/1/deploy", json!({ "environments": ["prod"] }))
        .await
        .is(200);
    assert_eq!(names(&node.document("prod").await["apis"]), ["other", "stock"]);
}

#[tokio::test]
async fn two_revisions_are_compared_in_terms_of_routes_auth_and_limits() {
    let node = Node::with(&["prod"]).await;
    node.publish(&["prod"], FIRST).await.is(200);
    let second = FIRST
        .replace("methods: [GET]", "methods: [GET, POST]")
        .replace("rate: 5000/m", "rate: 100/m")
        .replace("orders.internal", "orders-2.internal")
        .replace("auth: [api_key]", "auth: none")
        .replace("id: mobile-1", "id: mobile-2");
    node.publish(&["prod"], &second).await.is(200);
    let compared = node.get("/v1/environments/prod/diff?from=1&to=2").await.is(200);
    assert_eq!(
        compared.body["differences"],
        json!([
            { "kind": "upstream", "name": "orders", "change": "changed",
              "details": ["endpoint orders-2.internal:80 added", "endpoint orders.internal:80 removed"] },
            { "kind": "plan", "name": "basic", "change": "changed", "details": ["limit minute: 5000/m → 100/m"] },
            { "kind": "api", "name": "orders", "change": "changed",
              "details": ["auth: api_key → none", "route POST /orders added"] },
            { "kind": "application", "name": "mobile", "change": "changed",
              "details": ["key mobile-1 removed", "key mobile-2 added"] },
        ])
    );
    assert!(!compared.text.contains("9f9f"));
    assert_eq!(
        node.get("/v1/environments/prod/diff?from=2").await.is(200).body["differences"],
        json!([])
    );
    node.get("/v1/environments/prod/diff?from=2&to=9")
        .await
        .refused(404, "not_found", "no revision 9");
    node.get("/v1/environments/prod/diff")
        .await
        .refused(400, "bad_request", "from");
}

#[tokio::test]
async fn shared_secrets_are_published_with_a_warning_and_shown_to_nobody() {
    let node = Node::with(&["prod"]).await;
    let secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
    let document = format!(
        "version: 1
upstreams: [{{ name: u, endpoints: [{{ address: 'u:80' }}] }}]
issuers: [{{ name: corp, issuer: 'https://corp', audience: [a], algorithms: [HS256], jwks: {{ keys: [{{ kty: oct, k: {secret} }}] }} }}]
apis: [{{ name: a, base_path: /a, auth: [{{ jwt: corp }}], upstream: u }}]
"
    );
    let published = node.publish(&["prod"], &document).await.is(200);
    assert!(
        published.body["warnings"][0]
            .as_str()
            .unwrap()
            .contains("issuer \"corp\": the secret in jwks.keys[0].k")
    );
    node.publish(
        &["prod"],
        &document.replace(secret, "YW5vdGhlcmFub3RoZXJhbm90aGVyYW5vdGhlcmFub3RoZXI"),
    )
    .await
    .is(200);
    let shown = node.get("/v1/environments/prod/revisions/1").await.is(200);
    assert_eq!(shown.body["document"]["issuers"][0]["jwks"]["keys"][0]["k"], "(hidden)");
    let compared = node.get("/v1/environments/prod/diff?from=1&to=2").await.is(200);
    assert_eq!(compared.body["differences"][0]["details"], json!(["jwks.keys changed"]));
    let wrong = document.replace("HS256", "ES256");
    let refused = node.publish(&["prod"], &wrong).await.is(422);
    for answered in [&published, &shown, &compared, &refused] {
        assert!(!answered.text.contains(secret), "{answered:?}");
        assert!(!answered.text.contains("YW5vdGhlc"), "{answered:?}");
    }
}

#[tokio::test]
async fn dollars_that_stand_for_themselves_still_do_after_composing() {
    let node = Node::with(&["prod"]).await;
    let document = "version: 1
upstreams: [{ name: u, endpoints: [{ address: 'u:80' }] }]
issuers: [{ name: corp, issuer: 'https://corp/$${x}', audience: [a$5], algorithms: [ES256], jwks: { url: 'https://corp/jwks' } }]
apis: [{ name: a, base_path: /a, auth: [{ jwt: corp }], upstream: u }]
";
    node.publish(&["prod"], document).await.is(200);
    let shown = node.document("prod").await;
    assert_eq!(shown["issuers"][0]["issuer"], "https://corp/${x}");
    assert_eq!(shown["issuers"][0]["audience"][0], "a$5");
}

#[tokio::test]
async fn bodies_that_are_too_large_or_no_json_are_refused() {
    let node = Node::with(&["prod"]).await;
    let long = json!({ "name": "x", "description": "y".repeat(1 << 20) });
    node.post("/v1/environments", long)
        .await
        .refused(413, "body_too_large", "1 MiB");
    let document = json!({ "environments": ["prod"], "document": format!("version: 1\n# {}", "y".repeat(2 << 20)) });
    node.post("/v1/revisions", document).await.is(200);
    node.ask(Method::POST, "/v1/revisions", &[], None)
        .await
        .refused(400, "bad_request", "empty");
    node.post("/v1/plans", json!({ "name": "x", "limit": [] }))
        .await
        .refused(400, "bad_request", "unknown field `limit`");
    node.get("/v1/plans?limit=1001")
        .await
        .refused(400, "bad_request", "from 1 to 1000");
    node.get("/v1/plans?limit=x").await.refused(400, "bad_request", "limit");
}

#[tokio::test]
async fn an_environment_that_is_made_anew_does_not_serve_what_the_deleted_one_did() {
    let node = Node::with(&["prod"]).await;
    node.publish(&["prod"], FIRST).await.is(200);
    assert!(node.document("prod").await["apis"].is_array());
    node.delete("/v1/environments/prod").await.is(204);
    let made = node
        .post("/v1/environments", json!({ "name": "prod", "type": "production" }))
        .await
        .is(201);
    assert_eq!(made.body["revision"], 2, "gateways never go back");
    let document = node.document("prod").await;
    assert!(document.get("apis").is_none_or(|apis| apis == &json!([])), "{document}");
    node.publish(&["prod"], FIRST).await.is(200);
    assert!(node.document("prod").await["apis"].is_array());
}

#[tokio::test]
async fn a_shared_secret_of_the_gateways_is_published_as_a_reference() {
    let node = Node::with(&["prod"]).await;
    let document = "version: 1
upstreams: [{ name: u, endpoints: [{ address: 'u:80' }] }]
issuers: [{ name: corp, issuer: 'https://corp', audience: [a], algorithms: [HS256], jwks: { keys: [{ kty: oct, k: '${cred:shared}' }] } }]
apis: [{ name: a, base_path: /a, auth: [{ jwt: corp }], upstream: u }]
";
    let published = node.publish(&["prod"], document).await.is(200);
    assert!(!published.text.contains("in clear"), "{}", published.text);
    let shown = node.document("prod").await;
    assert_eq!(shown["issuers"][0]["jwks"]["keys"][0]["k"], "${cred:shared}");
}
