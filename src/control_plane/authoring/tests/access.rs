//! Who may do what.

use super::*;

/// Every route, what it needs, and a body that is understood.
fn routes() -> Vec<(Method, &'static str, Scope, Value)> {
    use Scope::{Apis, Applications, Environments, Keys, Plans, Publish, Read, Tokens};
    let nothing = Value::Null;
    let environments = || json!({ "environments": ["prod"] });
    vec![
        (
            Method::GET,
            "/v1/environments/prod/cache/invalidations",
            Scope::Read,
            Value::Null,
        ),
        (Method::GET, "/v1/environments", Read, nothing.clone()),
        (Method::POST, "/v1/environments", Environments, json!({ "name": "x" })),
        (Method::GET, "/v1/environments/prod", Read, nothing.clone()),
        (Method::PUT, "/v1/environments/prod", Environments, json!({})),
        (
            Method::DELETE,
            "/v1/environments/nowhere",
            Environments,
            nothing.clone(),
        ),
        (Method::GET, "/v1/plans", Read, nothing.clone()),
        (Method::POST, "/v1/plans", Plans, json!({ "name": "x", "limits": [] })),
        (Method::GET, "/v1/plans/gold", Read, nothing.clone()),
        (Method::PUT, "/v1/plans/gold", Plans, json!({ "limits": [] })),
        (Method::DELETE, "/v1/plans/nowhere", Plans, nothing.clone()),
        (Method::GET, "/v1/apis", Read, nothing.clone()),
        (Method::POST, "/v1/apis", Apis, json!({ "name": "x" })),
        (Method::GET, "/v1/apis/stock", Read, nothing.clone()),
        (Method::PUT, "/v1/apis/stock", Apis, json!({})),
        (Method::DELETE, "/v1/apis/nowhere", Apis, nothing.clone()),
        (Method::GET, "/v1/apis/stock/revisions", Read, nothing.clone()),
        (
            Method::POST,
            "/v1/apis/stock/revisions",
            Apis,
            json!({ "document": STOCK }),
        ),
        (Method::GET, "/v1/apis/stock/revisions/1", Read, nothing.clone()),
        (
            Method::POST,
            "/v1/apis/stock/revisions/1/deploy",
            Publish,
            environments(),
        ),
        (Method::POST, "/v1/apis/stock/undeploy", Publish, environments()),
        (Method::GET, "/v1/applications", Read, nothing.clone()),
        (Method::POST, "/v1/applications", Applications, json!({ "name": "x" })),
        (Method::GET, "/v1/applications/mobile", Read, nothing.clone()),
        (Method::PUT, "/v1/applications/mobile", Applications, json!({})),
        (
            Method::DELETE,
            "/v1/applications/nowhere",
            Applications,
            nothing.clone(),
        ),
        (
            Method::PUT,
            "/v1/applications/mobile/subscriptions/stock",
            Applications,
            json!({ "plan": "gold" }),
        ),
        (
            Method::DELETE,
            "/v1/applications/mobile/subscriptions/stock",
            Applications,
            nothing.clone(),
        ),
        (Method::POST, "/v1/applications/mobile/keys", Keys, json!({})),
        (
            Method::POST,
            "/v1/applications/mobile/keys:import",
            Keys,
            json!({ "keys": [] }),
        ),
        (Method::GET, "/v1/keys", Read, nothing.clone()),
        (Method::GET, "/v1/keys/nobody", Read, nothing.clone()),
        (Method::DELETE, "/v1/keys/nobody", Keys, nothing.clone()),
        (
            Method::POST,
            "/v1/revisions",
            Publish,
            json!({ "environments": ["prod"], "document": "version: 1" }),
        ),
        (Method::GET, "/v1/environments/prod/revisions", Read, nothing.clone()),
        (Method::GET, "/v1/environments/prod/revisions/1", Read, nothing.clone()),
        (Method::GET, "/v1/environments/prod/diff?from=1", Read, nothing.clone()),
        (
            Method::POST,
            "/v1/environments/prod/rollback",
            Publish,
            json!({ "to": 1 }),
        ),
        (Method::GET, "/v1/tokens", Read, nothing.clone()),
        (
            Method::POST,
            "/v1/tokens",
            Tokens,
            json!({ "scopes": ["tokens:write"] }),
        ),
        (Method::DELETE, "/v1/tokens/nobody", Tokens, nothing.clone()),
        (Method::GET, "/v1/catalog", Read, nothing.clone()),
        (Method::GET, "/v1/catalog/stock", Read, nothing),
    ]
}

#[tokio::test]
async fn every_route_needs_its_one_scope_and_no_other_opens_it() {
    let node = Node::with(&["prod"]).await;
    node.stock().await;
    node.deploy(1, &["prod"]).await.is(200);
    node.put("/v1/plans/gold", json!({ "limits": [] })).await.is(201);
    node.put("/v1/applications/mobile", json!({})).await.is(201);
    let mut tokens = Vec::new();
    for scope in Scope::ALL {
        tokens.push((scope, format!("Bearer {}", node.token_of(&[scope]).await)));
    }
    for (method, path, needed, body) in routes() {
        let body = Some(&body).filter(|body| !body.is_null());
        for (scope, token) in &tokens {
            let answered = node.ask(method.clone(), path, &[("authorization", token)], body).await;
            let refused = answered.status == StatusCode::FORBIDDEN;
            let open = *scope == needed || *scope == Scope::Admin;
            assert_eq!(refused, !open, "{method} {path} with {scope}: {answered:?}");
            assert!(
                !answered.status.is_server_error(),
                "{method} {path} with {scope}: {answered:?}"
            );
            if refused {
                answered.refused(403, "scope_insufficient", needed.as_str());
            }
        }
        for token in ["Bearer tgcp_0123456789_wrong", "Basic x", ""] {
            let stranger = node.ask(method.clone(), path, &[("authorization", token)], body).await;
            stranger.refused(401, "credential_invalid", "token");
        }
    }
    let described = crate::control_plane::authoring::router().into_openapi();
    let count: usize = described
        .paths
        .paths
        .values()
        .map(|item| {
            [&item.get, &item.put, &item.post, &item.delete]
                .into_iter()
                .flatten()
                .count()
        })
        .sum();
    // Orders to forget are taken from gateways too: that is a story of its own.
    assert_eq!(routes().len() + 1, count, "the table has every route");
}

#[tokio::test]
async fn a_token_for_some_environments_changes_nothing_that_others_have() {
    let node = Node::with(&["prod", "test"]).await;
    node.stock().await;
    node.deploy(1, &["prod", "test"]).await.is(200);
    node.put("/v1/plans/gold", json!({ "limits": [] })).await.is(201);
    let scopes = [Scope::Publish, Scope::Plans, Scope::Applications, Scope::Environments];
    let token = format!("Bearer {}", node.token_with(&scopes, &["test"], &[]).await);
    let as_it = async |method: Method, path: &str, body: Value| {
        node.ask(method, path, &[("authorization", &token)], Some(&body)).await
    };
    let publish = |environment: &str| json!({ "environments": [environment], "document": "version: 1" });
    as_it(Method::POST, "/v1/revisions", publish("test")).await.is(200);
    as_it(Method::POST, "/v1/revisions", publish("prod"))
        .await
        .refused(403, "scope_insufficient", "\"prod\"");
    as_it(Method::POST, "/v1/environments/prod/rollback", json!({ "to": 1 }))
        .await
        .is(403);
    as_it(Method::PUT, "/v1/environments/prod", json!({ "type": "sandbox" }))
        .await
        .is(403);
    as_it(Method::DELETE, "/v1/environments/prod", Value::Null)
        .await
        .is(403);
    let subscribed = json!({ "subscriptions": [{ "api": "stock", "plan": "gold" }] });
    as_it(Method::PUT, "/v1/applications/mobile", subscribed.clone())
        .await
        .refused(403, "scope_insufficient", "\"prod\"");
    node.put("/v1/applications/mobile", subscribed).await.is(201);
    let plan = json!({ "limits": [{ "name": "l", "rate": "1/s" }] });
    as_it(Method::PUT, "/v1/plans/gold", plan)
        .await
        .refused(403, "scope_insufficient", "\"prod\"");
}

#[tokio::test]
async fn roles_decide_who_deploys_where_except_for_administrators() {
    let node = Node::start().await;
    let environment = json!({ "name": "prod", "visibility": { "allow": ["ops"], "deny": ["guest"] } });
    node.post("/v1/environments", environment).await.is(201);
    let body = json!({ "environments": ["prod"], "document": "version: 1" });
    for (roles, status) in [
        (&["ops"][..], 200),
        (&[], 403),
        (&["dev"], 403),
        (&["ops", "guest"], 403),
    ] {
        let token = format!("Bearer {}", node.token_with(&[Scope::Publish], &[], roles).await);
        let answered = node
            .ask(Method::POST, "/v1/revisions", &[("authorization", &token)], Some(&body))
            .await;
        assert_eq!(answered.status.as_u16(), status, "{roles:?}: {answered:?}");
    }
    node.post("/v1/revisions", body).await.is(200);
}

#[tokio::test]
async fn a_token_gives_and_takes_only_what_it_has() {
    let node = Node::with(&["prod"]).await;
    let scopes = [Scope::Tokens, Scope::Read, Scope::Publish];
    let maker = format!("Bearer {}", node.token_with(&scopes, &["prod"], &["ops"]).await);
    let make = async |body: Value| {
        node.ask(Method::POST, "/v1/tokens", &[("authorization", &maker)], Some(&body))
            .await
    };
    let made = make(json!({ "scopes": ["read"], "environments": ["prod"], "note": "ci" }))
        .await
        .is(201);
    assert!(made.body["token"].as_str().unwrap().starts_with("tgcp_"));
    assert_eq!(made.body["roles"], json!(["ops"]), "as its maker");
    for (body, says) in [
        (json!({ "scopes": ["admin"], "environments": ["prod"] }), "admin"),
        (
            json!({ "scopes": ["keys:write"], "environments": ["prod"] }),
            "keys:write",
        ),
        (json!({ "scopes": ["read"] }), "prod only"),
        (json!({ "scopes": ["read"], "environments": ["test"] }), "prod only"),
        (
            json!({ "scopes": ["read"], "environments": ["prod"], "roles": [] }),
            "exactly the roles",
        ),
        (
            json!({ "scopes": ["read"], "environments": ["prod"], "roles": ["ops", "boss"] }),
            "exactly the roles",
        ),
    ] {
        make(body).await.refused(403, "scope_insufficient", says);
    }
    make(json!({ "scopes": [] }))
        .await
        .refused(422, "refused", "without rights");
    let expired = json!({ "scopes": ["read"], "environments": ["prod"], "expires": "2001-01-01T00:00:00Z" });
    make(expired).await.refused(422, "refused", "not in the future");

    // What a token made works until it is revoked, and nobody sees it again.
    let reader = format!("Bearer {}", made.body["token"].as_str().unwrap());
    let list = node
        .ask(Method::GET, "/v1/tokens", &[("authorization", &reader)], None)
        .await
        .is(200);
    assert!(!list.text.contains("sha256") && !list.text.contains(made.body["token"].as_str().unwrap()));
    let id = made.body["id"].as_str().unwrap();
    let admin = list.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|token| token["scopes"] == json!(["admin"]))
        .unwrap();
    let admin = format!("/v1/tokens/{}", admin["id"].as_str().unwrap());
    let revoke = async |path: &str| node.ask(Method::DELETE, path, &[("authorization", &maker)], None).await;
    revoke(&admin).await.refused(403, "scope_insufficient", "admin");
    revoke(&format!("/v1/tokens/{id}")).await.is(204);
    node.ask(Method::GET, "/v1/tokens", &[("authorization", &reader)], None)
        .await
        .is(401);
}

#[tokio::test]
async fn a_token_does_not_outlive_its_maker() {
    let node = Node::start().await;
    let body = json!({ "scopes": ["tokens:write", "read"], "expires": "2090-01-01T00:00:00Z" });
    let maker = node.post("/v1/tokens", body).await.is(201);
    let maker = format!("Bearer {}", maker.body["token"].as_str().unwrap());
    let make = async |body: Value| {
        node.ask(Method::POST, "/v1/tokens", &[("authorization", &maker)], Some(&body))
            .await
    };
    let made = make(json!({ "scopes": ["read"] })).await.is(201);
    assert_eq!(made.body["expires"], "2090-01-01T00:00:00Z");
    let longer = json!({ "scopes": ["read"], "expires": "2090-01-02T00:00:00Z" });
    make(longer).await.refused(403, "scope_insufficient", "outlive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_administrator_stays_also_if_two_revoke_each_other() {
    for _ in 0..5 {
        let node = Node::start().await;
        let path = |token: &str| format!("/v1/tokens/{}", token.split('_').nth(1).unwrap());
        node.delete(&path(&node.token))
            .await
            .refused(409, "conflict", "last token");
        let other = node.token_of(&[Scope::Admin]).await;
        let delete = async |by: &str, whom: &str| {
            let by = format!("Bearer {by}");
            node.ask(Method::DELETE, &path(whom), &[("authorization", &by)], None)
                .await
        };
        let (one, two) = tokio::join!(delete(&node.token, &other), delete(&other, &node.token));
        let gone = [&one, &two]
            .into_iter()
            .filter(|answered| answered.status == StatusCode::NO_CONTENT)
            .count();
        assert_eq!(gone, 1, "{one:?} {two:?}");
        let left = node
            .plane
            .store
            .objects(crate::control_plane::store::ObjectKind::Token, None, 10)
            .await
            .unwrap();
        assert_eq!(left.len(), 1);
    }
}
