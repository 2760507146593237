//! What is published is what gateways do, and nothing else is.

use serde_json::json;

use crate::harness::{ControlPlane, Gateway, KEY, Origin, Revision, answer, echo, eventually, until};

/// A revision with one open API at this path.
fn open_at(origin: &Origin, path: &str) -> Revision {
    Revision::of(origin).api(&format!(
        "{{ name: open, base_path: {path}, auth: none, upstream: origin }}"
    ))
}

fn status(gateway: &Gateway, target: &str) -> u16 {
    gateway.client().get(target).send().status
}

#[test]
fn a_publish_reaches_a_gateway_and_a_rollback_is_a_new_number_with_the_old_content() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    let gateway = control_plane.gateway().start();
    assert_eq!(gateway.ready()["ready"], false, "{}", gateway.ready());
    assert_eq!(
        gateway.client().get("/one").send().status,
        503,
        "nothing is published yet"
    );

    assert_eq!(control_plane.publish("Default", open_at(&origin, "/one")), 1);
    until("the first revision is served", || status(&gateway, "/one") == 200);
    until("the keys are known too", || gateway.ready()["ready"] == true);

    assert_eq!(control_plane.publish("Default", open_at(&origin, "/two")), 2);
    until("the second revision is served", || status(&gateway, "/two") == 200);
    assert_eq!(status(&gateway, "/one"), 404);

    let diff = control_plane.verb(["revision", "diff", "-e", "Default", "1", "2"]);
    assert!(diff.stdout.contains("/one") && diff.stdout.contains("/two"), "{diff:?}");

    let rolled_back = control_plane.verb(["revision", "rollback", "-e", "Default", "1", "--note", "two was wrong"]);
    assert_eq!(rolled_back.code, Some(0), "{rolled_back:?}");
    until("the first revision is served again", || status(&gateway, "/one") == 200);
    let revisions = control_plane.get("/v1/environments/Default/revisions");
    let newest = &revisions["items"][0];
    assert_eq!(
        (newest["seq"].as_u64(), newest["rollback_of"].as_u64()),
        (Some(3), Some(1))
    );
    assert_eq!(newest["root"], revisions["items"][2]["root"]);

    let in_sync = eventually("the control plane knows what the gateway runs", || {
        let state = control_plane.gateway_state("gw-test");
        (state["drift"] == "in_sync" && state["applied"]["seq"] == 3).then_some(state)
    });
    assert_eq!(in_sync["applied"]["root"], newest["root"]);
}

#[test]
fn a_publish_with_mistakes_is_refused_whole_with_every_mistake_at_its_place() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    control_plane.environment("Other", "hybrid");
    let gateway = control_plane.gateway().start();
    control_plane.publish("Default", open_at(&origin, "/one"));
    until("the first revision is served", || status(&gateway, "/one") == 200);

    let path = control_plane.file(
        "bad.yaml",
        "version: 1\napis:\n  - { name: a, base_path: /a, auth: none, upstream: nowhere }\n  - { name: b, base_path: b }\n",
    );
    let file = path.display().to_string();
    let refused = control_plane.verb(["revision", "publish", "-f", &file, "-e", "Default,Other"]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    let told = format!("{}{}", refused.stdout, refused.stderr);
    for mistake in [
        "bad.yaml:3:",
        "upstream \"nowhere\" does not exist",
        "bad.yaml:4:",
        "no \"auth\"",
    ] {
        assert!(told.contains(mistake), "{mistake}: {told}");
    }
    // The same words as `check` has.
    let reference = control_plane.try_publish(
        "Default",
        "version: 1\nupstreams: [{ name: u, endpoints: [{ address: \"${HOST}:1\" }] }]",
    );
    assert_eq!(reference.status, 422);
    assert_eq!(
        control_plane.get("/v1/environments/Default/revisions")["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        control_plane.get("/v1/environments/Other/revisions")["items"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    assert_eq!(status(&gateway, "/one"), 200);
}

#[test]
fn apis_plans_and_applications_are_authored_one_by_one_and_deployed_to_environments() {
    let origin = Origin::start(echo());
    let control_plane = ControlPlane::start();
    control_plane.environment("Sandbox", "sandbox");
    let gateway = control_plane.gateway().start();
    let sandbox = control_plane
        .gateway()
        .id("gw-sandbox")
        .gateway("environment: Sandbox")
        .start();

    let plan = control_plane.file("plan.yaml", "name: small\nlimits: [{ name: few, rate: 2/d }]\n");
    let api = control_plane.file(
        "orders.yaml",
        format!(
            "upstreams: [{{ name: orders, endpoints: [{{ address: \"{}\" }}] }}]\n\
             apis: [{{ name: orders, base_path: /orders, auth: [api_key], upstream: orders }}]\n",
            origin.address()
        ),
    );
    let (plan, api) = (plan.display().to_string(), api.display().to_string());
    for verb in [
        &["plan", "apply", "-f", &plan][..],
        &["api", "create", "orders"],
        &["api", "publish", "orders", "-f", &api, "--deploy", "Default,Sandbox"],
        &["application", "create", "mobile"],
        &[
            "application",
            "subscribe",
            "mobile",
            "--api",
            "orders",
            "--plan",
            "small",
        ],
    ] {
        let output = control_plane.verb(verb.iter().copied());
        assert_eq!(output.code, Some(0), "{verb:?}: {output:?}");
    }
    let (production_key, _) = control_plane.key("mobile", "production");
    let (sandbox_key, _) = control_plane.key("mobile", "sandbox");
    until("the production key works", || {
        gateway.client().get("/orders/1").key(&production_key).send().status == 200
    });
    until("the sandbox key works", || {
        sandbox.client().get("/orders/1").key(&sandbox_key).send().status == 200
    });
    sandbox
        .client()
        .get("/orders/1")
        .key(&production_key)
        .send()
        .expect_refusal(403, "key_type_mismatch");
    gateway
        .client()
        .get("/orders/1")
        .key(&production_key)
        .send()
        .expect(200);
    gateway
        .client()
        .get("/orders/1")
        .key(&production_key)
        .send()
        .expect_refusal(429, "rate_limited");

    let undeployed = control_plane.verb(["api", "undeploy", "orders", "-e", "Default"]);
    assert_eq!(undeployed.code, Some(0), "{undeployed:?}");
    until("the API is gone", || status(&gateway, "/orders/1") == 404);
    assert_eq!(sandbox.client().get("/orders/1").key(&sandbox_key).send().status, 200);
}

#[test]
fn a_gateway_takes_the_apis_of_its_labels_and_keeps_what_it_owns() {
    let origin = Origin::start(answer(200, "remote"));
    let local = Origin::start(answer(200, "local"));
    let control_plane = ControlPlane::start();
    let document = Revision::of(&origin)
        .api("{ name: inner, base_path: /inner, auth: none, upstream: origin, labels: [inner] }")
        .api("{ name: health, base_path: /health, auth: none, upstream: origin }")
        .api("{ name: banned, base_path: /banned, auth: none, upstream: origin }")
        .api("{ name: open, base_path: /open, auth: none, upstream: origin }");
    control_plane.publish("Default", document);
    let own = Revision::empty()
        .behind("local", local.address())
        .api("{ name: health, base_path: /health, auth: none, upstream: local }");
    let gateway = control_plane
        .gateway()
        .with_own(&own.to_string())
        .revision("skip_list: { apis: [banned] }")
        .start();
    until("the revision is served", || status(&gateway, "/open") == 200);
    assert_eq!(gateway.client().get("/health").send().text(), "local");
    assert_eq!(status(&gateway, "/banned"), 404);
    assert_eq!(status(&gateway, "/inner"), 404);
    let inner = control_plane
        .gateway()
        .id("gw-inner")
        .gateway("labels: [inner]")
        .start();
    until("the other one takes the inner API", || status(&inner, "/inner") == 200);
}

#[test]
fn a_key_in_a_published_document_works_and_is_revoked_like_any_other() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    let document = Revision::of(&origin)
        .api("{ name: a, base_path: /a, auth: [api_key], upstream: origin }")
        .mobile(&["a"]);
    control_plane.publish("Default", document);
    let gateway = control_plane.gateway().start();
    until("the key works", || {
        gateway.client().get("/a").key(KEY).send().status == 200
    });
    let revoked = control_plane.request("DELETE", "/v1/keys/mobile-1").send();
    assert!(revoked.status < 300, "{revoked:?}");
    until("the key is refused", || {
        gateway.client().get("/a").key(KEY).send().status == 401
    });
}

#[test]
fn a_directory_stands_in_for_the_control_plane() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    let document = Revision::of(&origin)
        .api("{ name: a, base_path: /a, auth: [api_key], upstream: origin }")
        .mobile(&["a"]);
    control_plane.publish("Default", document);
    let directory = control_plane.path().join("export").display().to_string();
    let export = || {
        let exported = control_plane.verb(["revision", "export", "-e", "Default", "--to", &directory]);
        assert_eq!(exported.code, Some(0), "{exported:?}");
    };
    export();
    let gateway = Gateway::pulling(&format!("urls: [\"file://{directory}\"]")).start();
    until("the exported revision is served", || {
        gateway.client().get("/a").key(KEY).send().status == 200
    });
    control_plane.publish("Default", open_at(&origin, "/two"));
    export();
    until("the next export is served", || status(&gateway, "/two") == 200);
}

#[test]
fn the_description_of_the_interface_is_served_and_names_every_route() {
    let control_plane = ControlPlane::start();
    let description = control_plane.get("/openapi.json");
    assert!(description["openapi"].as_str().unwrap().starts_with("3."));
    for path in [
        "/v1/environments",
        "/v1/apis/{name}/revisions",
        "/v1/revisions",
        "/v1/environments/{environment}/revision",
        "/v1/pools/{pool}/instances",
        "/v1/gateways",
        "/oauth2/introspect",
        "/oauth2/token",
    ] {
        let known = description["paths"].as_object().unwrap();
        let generic = |path: &str| {
            let mut parts: Vec<String> = path.split('/').map(ToOwned::to_owned).collect();
            parts
                .iter_mut()
                .filter(|part| part.starts_with('{'))
                .for_each(|part| "{}".clone_into(part));
            parts.join("/")
        };
        assert!(
            known.keys().any(|other| generic(other) == generic(path)),
            "{path}: {:?}",
            known.keys().collect::<Vec<_>>()
        );
    }
    assert_eq!(
        control_plane.post("/v1/environments", &json!({ "name": "a/b" })).status / 100,
        4
    );
}
