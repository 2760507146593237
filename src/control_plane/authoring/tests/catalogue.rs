//! What there is to call, for whom.

use super::*;

#[tokio::test]
async fn the_catalogue_shows_apis_where_the_callers_roles_may_see_them() {
    let node = Node::start().await;
    for environment in [
        json!({ "name": "prod", "type": "production", "endpoints": { "http": "http://api.example.com:8280", "https": "https://api.example.com/" } }),
        json!({ "name": "inner", "visibility": { "allow": ["ops"] }, "endpoints": { "http": "http://inner:8280" },
                "token_endpoint_shown": false }),
        json!({ "name": "hidden", "in_catalogue": false }),
    ] {
        node.post("/v1/environments", environment).await.is(201);
    }
    node.post("/v1/apis", json!({ "name": "stock", "description": "What there is." }))
        .await
        .is(201);
    let document = STOCK.replace("base_path", "hosts: [stock.example.com, '*.example.org'], base_path");
    node.post("/v1/apis/stock/revisions", json!({ "document": document }))
        .await
        .is(201);
    node.deploy(1, &["prod", "inner"]).await.is(200);
    node.publish(&["prod", "hidden"], FIRST).await.is(200);
    node.put("/v1/plans/gold", json!({ "limits": [] })).await.is(201);

    let guest = format!("Bearer {}", node.token_of(&[Scope::Read]).await);
    let seen = node
        .ask(Method::GET, "/v1/catalog", &[("authorization", &guest)], None)
        .await
        .is(200);
    assert_eq!(names(&seen.body["items"]), ["open", "orders", "stock"]);
    let stock = &seen.body["items"][2];
    assert_eq!(
        (&stock["description"], &stock["plans"]),
        (&json!("What there is."), &json!(["basic", "gold"]))
    );
    assert_eq!(
        stock["environments"],
        json!([{
            "name": "prod", "type": "production", "description": "", "base_path": "/stock",
            "hosts": ["stock.example.com", "*.example.org"], "auth": ["api_key"],
            "urls": ["https://stock.example.com/stock", "http://stock.example.com:8280/stock"],
            "token_endpoint": "/oauth2/token",
        }])
    );
    assert_eq!(
        seen.body["items"][0]["environments"][0]["urls"],
        json!(["https://api.example.com/open", "http://api.example.com:8280/open"])
    );
    let page = node
        .ask(
            Method::GET,
            "/v1/catalog?limit=1&after=open",
            &[("authorization", &guest)],
            None,
        )
        .await
        .is(200);
    assert_eq!(
        (names(&page.body["items"]), &page.body["next"]),
        (vec!["orders"], &json!("orders"))
    );

    let ops = format!("Bearer {}", node.token_with(&[Scope::Read], &[], &["ops"]).await);
    let seen = node
        .ask(Method::GET, "/v1/catalog/stock", &[("authorization", &ops)], None)
        .await
        .is(200);
    assert_eq!(names(&seen.body["environments"]), ["inner", "prod"]);
    assert_eq!(seen.body["environments"][0].get("token_endpoint"), None);
    node.get("/v1/catalog/nowhere")
        .await
        .refused(404, "not_found", "in the catalogue");
}
