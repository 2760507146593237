//! Environments, APIs, plans and applications.

use super::*;

#[tokio::test]
async fn objects_have_versions_and_who_changes_an_old_one_is_told() {
    let node = Node::start().await;
    let created = node
        .post("/v1/plans", json!({ "name": "gold", "limits": [] }))
        .await
        .is(201);
    assert_eq!(created.headers[header::LOCATION], "/v1/plans/gold");
    assert_eq!(created.etag(), "\"1\"");
    node.post("/v1/plans", json!({ "name": "gold", "limits": [] }))
        .await
        .refused(409, "conflict", "there already");
    let limits = json!({ "limits": [{ "name": "minute", "rate": "5/m" }] });
    let put = async |tag: &str, body: &Value| {
        node.ask(Method::PUT, "/v1/plans/gold", &[("if-match", tag)], Some(body))
            .await
    };
    assert_eq!(put("\"1\"", &limits).await.is(200).etag(), "\"2\"");
    put("\"1\"", &limits)
        .await
        .refused(412, "precondition_failed", "it is now \"2\"");
    assert_eq!(
        put("*", &limits).await.is(200).etag(),
        "\"2\"",
        "nothing changed, so it is the same version"
    );
    let read = node.get("/v1/plans/gold").await.is(200);
    assert_eq!(read.etag(), "\"2\"");
    assert_eq!(
        put("\"1\", \"2\"", &json!({ "limits": [] })).await.is(200).etag(),
        "\"3\""
    );

    let only_new = [("if-none-match", "*")];
    node.ask(Method::PUT, "/v1/plans/gold", &only_new, Some(&limits))
        .await
        .refused(412, "precondition_failed", "there already");
    node.ask(Method::PUT, "/v1/plans/tin", &only_new, Some(&limits))
        .await
        .is(201);
    node.ask(Method::PUT, "/v1/plans/lead", &[("if-match", "*")], Some(&limits))
        .await
        .refused(412, "precondition_failed", "not there");
    node.ask(Method::DELETE, "/v1/plans/gold", &[("if-match", "\"1\"")], None)
        .await
        .refused(412, "precondition_failed", "gold");
    node.ask(Method::DELETE, "/v1/plans/gold", &[("if-match", "\"3\"")], None)
        .await
        .is(204);
    node.get("/v1/plans/gold")
        .await
        .refused(404, "not_found", "POST /v1/plans");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let node = Node::start().await;
    for name in ["a", "b", "c"] {
        node.put(&format!("/v1/plans/{name}"), json!({ "limits": [] }))
            .await
            .is(201);
    }
    let first = node.get("/v1/plans?limit=2").await.is(200);
    assert_eq!(
        (names(&first.body["items"]), &first.body["next"]),
        (vec!["a", "b"], &json!("b"))
    );
    let last = node.get("/v1/plans?limit=2&after=b").await.is(200);
    assert_eq!((names(&last.body["items"]), last.body.get("next")), (vec!["c"], None));
}

#[tokio::test]
async fn what_is_wrong_with_an_object_is_told_all_at_once() {
    let node = Node::start().await;
    let environment = json!({
        "name": "x", "endpoints": { "http": "ftp://x", "https": "https://u:p@x" }, "labels": ["ok", " bad"],
    });
    let refused = node
        .post("/v1/environments", environment)
        .await
        .refused(422, "refused", "endpoints.http");
    assert_eq!(refused.body["mistakes"].as_array().unwrap().len(), 3, "{refused:?}");
    node.post("/v1/environments", json!({ "name": "" }))
        .await
        .refused(400, "bad_request", "not a name");
    node.post("/v1/environments", json!({ "name": "a/b" }))
        .await
        .refused(400, "bad_request", "slashes");
    node.put("/v1/plans/x", json!({ "name": "y", "limits": [] }))
        .await
        .refused(400, "bad_request", "names do not change");
    let plan = json!({ "limits": [{ "name": "a", "rate": "5/fortnight" }, { "rate": "5/m" }] });
    let refused = node
        .put("/v1/plans/x", plan)
        .await
        .refused(422, "refused", "no \"name\"");
    assert_eq!(refused.body["mistakes"].as_array().unwrap().len(), 2, "{refused:?}");
    let application = json!({ "subscriptions": [
        { "api": "stok", "plan": "none" }, { "api": "stok", "plan": "none" },
    ] });
    node.stock().await;
    let refused = node
        .put("/v1/applications/m", application)
        .await
        .refused(422, "refused", "did you mean \"stock\"?");
    assert!(refused.text.contains("there can be one"), "{refused:?}");
}

#[tokio::test]
async fn an_environment_goes_unless_gateways_serve_it_and_its_numbers_are_never_used_again() {
    use crate::control_plane::store::SeatRequest;
    let node = Node::with(&["prod"]).await;
    node.publish(&["prod"], FIRST).await.is(200);
    let now_ms = crate::clock::unix_ms();
    let registration = json!({ "instance_id": "i", "name": "gw", "environment": "prod", "version": "1" });
    let seat = SeatRequest {
        id: "i".to_owned(),
        pool: "Default".to_owned(),
        registration: registration.to_string(),
        replaces: None,
        max: None,
        alive_since_ms: 0,
        known_since_ms: 0,
        held_since_ms: 0,
        has_proof: false,
        now_ms,
    };
    node.plane.store.take_seat(&seat).await.unwrap();
    node.delete("/v1/environments/prod")
        .await
        .refused(409, "conflict", "?force=true");
    node.delete("/v1/environments/prod?force=true").await.is(204);
    node.get("/v1/environments/prod")
        .await
        .refused(404, "not_found", "prod");
    node.post("/v1/environments", json!({ "name": "prod" })).await.is(201);
    let next = node.publish(&["prod"], "version: 1").await.is(200);
    assert_eq!(next.published()[0]["seq"], 2);
}

#[tokio::test]
async fn another_type_of_an_environment_is_published_at_once() {
    let node = Node::with(&["prod"]).await;
    let before = node.publish(&["prod"], FIRST).await.is(200);
    let changed = node
        .put("/v1/environments/prod", json!({ "type": "sandbox" }))
        .await
        .is(200);
    assert_eq!(
        (&changed.published()[0]["seq"], &changed.body["revision"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(changed.published()[0]["root"], before.published()[0]["root"]);
    let described = node
        .put(
            "/v1/environments/prod",
            json!({ "type": "sandbox", "description": "d" }),
        )
        .await
        .is(200);
    assert!(described.published().is_empty());
    let read = node.get("/v1/environments/prod").await.is(200);
    node.put("/v1/environments/prod", read.body).await.is(200);
}

#[tokio::test]
async fn revisions_of_an_api_are_numbered_never_change_and_are_checked_by_themselves() {
    let node = Node::with(&["prod", "test"]).await;
    node.post("/v1/apis/stock/revisions", json!({ "document": STOCK }))
        .await
        .refused(404, "not_found", "POST /v1/apis");
    node.stock().await;
    let again = node
        .post("/v1/apis/stock/revisions", json!({ "document": STOCK }))
        .await
        .is(200);
    assert_eq!(again.body["number"], 1);
    let second = STOCK.replace("auth: [api_key]", "auth: none");
    let second = node
        .post(
            "/v1/apis/stock/revisions",
            json!({ "document": second, "note": "open" }),
        )
        .await
        .is(201);
    assert_eq!(second.headers[header::LOCATION], "/v1/apis/stock/revisions/2");
    let list = node.get("/v1/apis/stock/revisions?after=1").await.is(200);
    assert_eq!(
        (&list.body["items"][0]["number"], &list.body["items"][0]["note"]),
        (&json!(2), &json!("open"))
    );
    let one = node.get("/v1/apis/stock/revisions/1").await.is(200);
    assert_eq!(one.body["document"]["apis"][0]["auth"], json!(["api_key"]));
    node.get("/v1/apis/stock/revisions/3")
        .await
        .refused(404, "not_found", "no revision 3");

    for (document, says) in [
        ("apis: []", "exactly one API"),
        (
            "apis: [{ name: other, base_path: /o, auth: none, upstream: u }]",
            "this is API \"other\"",
        ),
        (
            "apis: [{ name: stock, base_path: stock, auth: none, upstream: elsewhere }]",
            "fragment.yaml:1:",
        ),
        (
            &format!("{STOCK}\nplans: [{{ name: p, limits: [] }}]"),
            "has no \"plans\"",
        ),
        (
            "apis: [{ name: stock, base_path: /stock, auth: [{ jwt: corp }], upstream: u, routes: [] }]",
            "routes",
        ),
        ("apis: [", "not valid YAML"),
    ] {
        let body = json!({ "document": document, "name": "fragment.yaml" });
        let refused = node
            .post("/v1/apis/stock/revisions", body)
            .await
            .refused(422, "refused", says);
        assert!(
            !refused.text.contains("elsewhere") && !refused.text.contains("no \\\"version"),
            "{refused:?}"
        );
    }
    assert_eq!(node.get("/v1/apis/stock").await.body["latest"], 2);
}

#[tokio::test]
async fn what_a_revision_does_not_bring_along_may_come_from_elsewhere_when_it_is_deployed() {
    let node = Node::with(&["prod"]).await;
    node.post("/v1/apis", json!({ "name": "stock" })).await.is(201);
    let document = "apis: [{ name: stock, base_path: /stock, auth: none, upstream: orders }]";
    node.post("/v1/apis/stock/revisions", json!({ "document": document }))
        .await
        .is(201);
    let refused = node
        .deploy(1, &["prod"])
        .await
        .refused(422, "refused", "upstream \"orders\" does not exist");
    assert!(refused.text.contains("revision 1 of API"), "{refused:?}");
    node.publish(&["prod"], FIRST).await.is(200);
    node.deploy(1, &["prod"]).await.is(200);
    assert_eq!(names(&node.document("prod").await["apis"]), ["open", "orders", "stock"]);
    node.publish(&["prod"], "version: 1")
        .await
        .refused(422, "refused", "upstream \"orders\" does not exist");
}

#[tokio::test]
async fn what_an_api_says_about_requests_is_checked_published_and_told_apart() {
    let node = Node::with(&["prod"]).await;
    node.post("/v1/apis", json!({ "name": "stock" })).await.is(201);
    let document = |share: u32, to: &str| {
        json!({ "document": format!(
            "apis: [{{ name: stock, base_path: /stock, auth: none, cors: {{ origins: ['https://*.example.org'] }},
               headers: {{ request: {{ set: {{ Authorization: Basic dTpw, X-Tenant: acme }} }} }},
               upstreams: [{{ name: orders, weight: 90 }}, {{ name: stock-next, weight: {share} }}], sandbox_upstream: stock-try,
               routes: [{{ path: /old, redirect: {{ to: {to} }} }}, {{ path: / }}] }}]"
        ) })
    };
    let wrong = json!({ "document": "apis: [{ name: stock, base_path: /s, auth: none, upstreams: [{ name: orders, weight: 0 }] }]" });
    node.post("/v1/apis/stock/revisions", wrong)
        .await
        .refused(422, "refused", "every weight of API");
    node.post("/v1/apis/stock/revisions", document(10, "/new"))
        .await
        .is(201);
    let elsewhere = node.deploy(1, &["prod"]).await;
    let elsewhere = elsewhere.refused(422, "refused", "upstream \"stock-next\" does not exist");
    assert_eq!(elsewhere.body["mistakes"].as_array().unwrap().len(), 3, "{elsewhere:?}");
    let upstream = |name: &str| format!("{{ name: {name}, endpoints: [{{ address: 'h:1' }}] }}");
    let names_of_upstreams = ["orders", "stock-next", "stock-try"].map(upstream).join(", ");
    node.publish(&["prod"], &format!("version: 1\nupstreams: [{names_of_upstreams}]"))
        .await
        .is(200);
    node.deploy(1, &["prod"]).await.is(200);

    // The password of an upstream is shown to nobody.
    let shown = node.document("prod").await;
    let set = &shown["apis"][0]["headers"]["request"]["set"];
    assert_eq!(
        (set["Authorization"].as_str(), set["X-Tenant"].as_str()),
        (Some("(hidden)"), Some("acme")),
        "{shown}"
    );

    node.post("/v1/apis/stock/revisions", document(20, "/newer"))
        .await
        .is(201);
    let deployed = node.deploy(2, &["prod"]).await.is(200);
    let details = deployed.published()[0]["diff"][0]["details"].to_string();
    for expected in [
        "upstream stock-next: weight 10 → weight 20",
        "route * /stock/old: redirect to /new → redirect to /newer",
    ] {
        assert!(details.contains(expected), "{details}");
    }
}

#[tokio::test]
async fn issuers_of_both_kinds_may_come_from_elsewhere_too() {
    let node = Node::with(&["prod"]).await;
    node.post("/v1/apis", json!({ "name": "stock" })).await.is(201);
    let document = "
upstreams: [{ name: stock, endpoints: [{ address: 'stock.internal:80' }] }]
apis: [{ name: stock, base_path: /stock, auth: [{ jwt: corp }, { introspection: other }], upstream: stock }]";
    node.post("/v1/apis/stock/revisions", json!({ "document": document }))
        .await
        .is(201);
    let refused = node
        .deploy(1, &["prod"])
        .await
        .refused(422, "refused", "issuer \"corp\" does not exist");
    assert_eq!(refused.body["mistakes"].as_array().unwrap().len(), 2, "{refused:?}");
    let issuers = "
version: 1
issuers:
  - { name: corp, issuer: 'https://corp', audience: [a], algorithms: [ES256], jwks: { url: 'https://corp/jwks' } }
  - { name: other, introspection: { url: 'https://other/introspect', client_id: me, client_secret: '${cred:other}' } }
";
    node.publish(&["prod"], issuers).await.is(200);
    let deployed = node.deploy(1, &["prod"]).await.is(200);
    let details = &deployed.published()[0]["diff"][1]["details"];
    assert!(
        details.to_string().contains("auth: jwt corp, introspection other"),
        "{deployed:?}"
    );
    // What an answer shows can not be published by mistake.
    let taken = issuers.replace("${cred:other}", "(hidden)");
    node.publish(&["prod"], &taken).await.refused(
        422,
        "refused",
        "issuers[1].introspection.client_secret is only shown",
    );
}

#[tokio::test]
async fn deploying_and_undeploying_publishes_and_a_deployed_api_stays() {
    let node = Node::with(&["prod", "test"]).await;
    node.stock().await;
    let deployed = node.deploy(1, &["test", "prod"]).await.is(200);
    assert_eq!(deployed.published().len(), 2);
    assert_eq!(
        node.get("/v1/apis/stock").await.body["deployed"],
        json!({ "prod": 1, "test": 1 })
    );
    let again = node.deploy(1, &["prod"]).await.is(200);
    assert_eq!(again.published()[0]["changed"], false);
    node.deploy(9, &["prod"])
        .await
        .refused(404, "not_found", "no revision 9");
    node.delete("/v1/apis/stock")
        .await
        .refused(409, "conflict", "deployed to prod, test; undeploy it first");
    let gone = node
        .post("/v1/apis/stock/undeploy", json!({ "environments": ["prod", "test"] }))
        .await
        .is(200);
    assert_eq!(gone.published()[1]["seq"], 2);
    let nothing = node
        .post("/v1/apis/stock/undeploy", json!({ "environments": ["prod"] }))
        .await
        .is(200);
    assert!(nothing.published().is_empty());
    node.delete("/v1/apis/stock").await.is(204);
    node.get("/v1/apis/stock/revisions/1").await.is(404);
    node.stock().await;
    assert_eq!(node.get("/v1/apis/stock").await.body["latest"], 1);
}

#[tokio::test]
async fn applications_are_published_where_their_apis_are_and_plans_where_they_are_used() {
    let node = Node::with(&["prod", "test", "empty"]).await;
    node.stock().await;
    node.deploy(1, &["prod"]).await.is(200);
    node.publish(&["test"], FIRST).await.is(200);
    node.put(
        "/v1/plans/gold",
        json!({ "limits": [{ "name": "minute", "rate": "5000/m" }] }),
    )
    .await
    .is(201);
    let created = node.post("/v1/applications", json!({ "name": "shop" })).await.is(201);
    assert!(created.published().is_empty());
    let subscribed = node
        .put("/v1/applications/shop/subscriptions/stock", json!({ "plan": "gold" }))
        .await
        .is(200);
    assert_eq!(subscribed.published().len(), 1);
    assert_eq!(subscribed.published()[0]["environment"], "prod");
    let document = node.document("prod").await;
    assert_eq!(
        document["applications"],
        json!([{ "name": "shop", "subscriptions": [{ "api": "stock", "plan": "gold" }] }])
    );
    assert_eq!(names(&document["plans"]), ["gold"]);

    let changed = node
        .put(
            "/v1/plans/gold",
            json!({ "limits": [{ "name": "minute", "rate": "9/m" }] }),
        )
        .await
        .is(200);
    assert_eq!(changed.published()[0]["changed"], true);
    assert_eq!(node.document("prod").await["plans"][0]["limits"][0]["rate"], "9/m");
    node.delete("/v1/plans/gold")
        .await
        .refused(409, "conflict", "used by the application \"shop\"");

    // One that is subscribed to an API of a document, under a plan of the same document.
    node.put("/v1/applications/shop/subscriptions/orders", json!({ "plan": "basic" }))
        .await
        .is(200);
    assert_eq!(names(&node.document("test").await["applications"]), ["mobile", "shop"]);
    assert_eq!(
        node.document("prod").await["applications"][0]["subscriptions"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let ended = node.delete("/v1/applications/shop/subscriptions/stock").await.is(200);
    assert_eq!(ended.published()[0]["environment"], "prod");
    assert_eq!(node.document("prod").await.get("applications"), None);
    node.delete("/v1/applications/shop/subscriptions/stock")
        .await
        .refused(404, "not_found", "not subscribed");
    node.delete("/v1/plans/gold").await.is(204);
}

#[tokio::test]
async fn certificates_of_applications_are_published_with_them_and_belong_to_one() {
    let node = Node::with(&["prod"]).await;
    let document = FIRST.replace(
        "    keys:",
        "    certificates: [{ id: mobile-cert, san: 'dns:mobile.example' }]\n    keys:",
    );
    node.publish(&["prod"], &document).await.is(200);
    let mobile = &node.document("prod").await["applications"][0];
    assert_eq!(
        mobile["certificates"],
        json!([{ "id": "mobile-cert", "san": "dns:mobile.example" }])
    );

    let shop = |certificates: Value| {
        let subscriptions = json!([{ "api": "orders", "plan": "basic" }]);
        json!({ "subscriptions": subscriptions, "certificates": certificates })
    };
    let certificates = json!([{ "id": "shop-cert", "san": "uri:spiffe://example.org/shop", "type": "sandbox" }]);
    let created = node
        .put("/v1/applications/shop", shop(certificates.clone()))
        .await
        .is(201);
    assert_eq!(created.published().len(), 1);
    let read = node.get("/v1/applications/shop").await.is(200);
    assert_eq!(read.body["certificates"], certificates);
    assert_eq!(
        node.document("prod").await["applications"][1]["certificates"],
        certificates
    );

    let renamed = json!([{ "id": "shop-cert", "san": "dns:shop.example", "expires": "2030-01-01T00:00:00Z" }]);
    let changed = node.put("/v1/applications/shop", shop(renamed.clone())).await.is(200);
    assert_eq!(changed.published().len(), 1, "gateways have to know");
    assert_eq!(node.document("prod").await["applications"][1]["certificates"], renamed);

    for (wrong, says) in [
        (
            json!([{ "id": "c", "san": "shop.example" }]),
            "a name of a certificate says what it is",
        ),
        (
            json!([{ "id": "", "san": "dns:shop.example" }]),
            "the id of certificates[0]",
        ),
        (
            json!([{ "id": "c", "san": "dns:a.b", "expires": "soon" }]),
            "expires at no instant",
        ),
        (
            json!([{ "id": "c", "san": "dns:mobile.example" }]),
            "a name belongs to one application",
        ),
        (
            json!([{ "id": "mobile-cert", "san": "dns:a.b" }]),
            "is the id of a key or certificate already",
        ),
    ] {
        node.put("/v1/applications/shop", shop(wrong))
            .await
            .refused(422, "refused", says);
    }
}

#[tokio::test]
async fn a_plan_changes_in_all_environments_or_in_none() {
    let node = Node::with(&["prod", "test"]).await;
    node.stock().await;
    node.deploy(1, &["prod", "test"]).await.is(200);
    node.put("/v1/plans/gold", json!({ "limits": [] })).await.is(201);
    node.put(
        "/v1/applications/shop",
        json!({ "subscriptions": [{ "api": "stock", "plan": "gold" }] }),
    )
    .await
    .is(201);
    // From here on, one environment has the plan in its document as well, with the same limits.
    node.publish(&["test"], "version: 1\nplans: [{ name: gold, limits: [] }]")
        .await
        .is(200);
    let before = node.plane.store.heads().await.unwrap();
    let changed = node
        .put(
            "/v1/plans/gold",
            json!({ "limits": [{ "name": "minute", "rate": "9/m" }] }),
        )
        .await;
    changed.refused(
        422,
        "refused",
        "plan \"gold\" is one thing in the published document and another one in plan \"gold\"",
    );
    assert_eq!(
        node.plane.store.heads().await.unwrap(),
        before,
        "prod did not get it either"
    );
    assert_eq!(node.get("/v1/plans/gold").await.body["limits"], json!([]));
    node.publish(&["test"], "version: 1").await.is(200);
    let changed = node
        .put(
            "/v1/plans/gold",
            json!({ "limits": [{ "name": "minute", "rate": "9/m" }] }),
        )
        .await
        .is(200);
    assert_eq!(changed.published().len(), 2);
}

#[tokio::test]
async fn names_with_odd_characters_are_names_like_others() {
    let node = Node::with(&["prod"]).await;
    let name = "https://client.example/a b@2";
    let created = node.post("/v1/applications", json!({ "name": name })).await.is(201);
    let location = created.headers[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(node.get(&location).await.is(200).body["name"], name);
    node.delete(&location).await.is(204);
}
