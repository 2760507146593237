//! Who may ask for what; and that no secret gets where it does not belong.

use serde_json::json;

use crate::harness::{Client, ControlPlane, KEY, Origin, Revision, answer, sha256_hex, until};

#[test]
fn nothing_is_told_without_a_token_and_a_token_does_what_it_is_for() {
    let control_plane = ControlPlane::start();
    let stranger = Client::of(control_plane.address());
    for path in [
        "/v1/environments",
        "/v1/gateways",
        "/v1/environments/Default/revision",
        "/v1/keys",
        "/v1/tokens",
    ] {
        let refused = stranger.get(path).send();
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.header("www-authenticate").is_some());
        assert_eq!(
            stranger.get(path).token("tgcp_0123456789_wrong").send().status,
            401,
            "{path}"
        );
    }
    let gateway = control_plane.token_for("gateway");
    assert_eq!(stranger.get("/v1/keys").token(&gateway).send().status, 403);
    let reader = control_plane.token_for("read");
    assert_eq!(stranger.get("/v1/environments").token(&reader).send().status, 200);
    assert_eq!(
        stranger
            .get("/v1/environments/Default/revision?wait=0")
            .token(&reader)
            .send()
            .status,
        403
    );
    let publishing = control_plane.verb_as(&reader, ["environment", "create", "x"]);
    assert_eq!(publishing.code, Some(1));
    assert!(publishing.stderr.contains("environments:write"), "{publishing:?}");
}

#[test]
fn two_who_change_the_same_thing_do_not_overwrite_each_other() {
    let control_plane = ControlPlane::start();
    control_plane
        .post("/v1/plans", &json!({ "name": "gold", "limits": [] }))
        .expect(201);
    let read = control_plane.request("GET", "/v1/plans/gold").send();
    let tag = read.header("etag").unwrap().to_owned();
    let put = |rate: &str| {
        control_plane
            .request("PUT", "/v1/plans/gold")
            .header("content-type", "application/json")
            .header("if-match", &tag)
            .body(json!({ "name": "gold", "limits": [{ "name": "l", "rate": rate }] }).to_string())
            .send()
            .status
    };
    assert_eq!((put("1/s"), put("2/s")), (200, 412));
}

#[test]
fn no_secret_is_in_a_log_an_answer_or_an_export() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    let document = Revision::of(&origin)
        .issuer("{ name: corp, introspection: { url: \"http://127.0.0.1:1/i\", token: hunter2-hunter2 } }")
        .api("{ name: a, base_path: /a, auth: [api_key], upstream: origin }")
        .mobile(&["a"]);
    control_plane.publish("Default", document);
    let (key, id) = control_plane.key("mobile", "production");
    let gateway = control_plane.gateway().start();
    until("the key works", || {
        gateway.client().get("/a").key(&key).send().status == 200
    });
    gateway.client().get("/a").key(KEY).send().expect(200);
    control_plane.verb(["revision", "publish", "-f", "/nowhere", "-e", "Default"]);

    let mut told = Vec::new();
    for path in [
        "/v1/environments/Default/revisions/1",
        "/v1/environments/Default/revisions",
        "/v1/keys",
        &format!("/v1/keys/{id}"),
        "/v1/tokens",
        "/v1/gateways",
        "/v1/applications",
        "/v1/apis",
        "/metrics",
        "/openapi.json",
    ] {
        told.push((
            path.to_owned(),
            control_plane.request("GET", path).send().expect(200).text(),
        ));
    }
    for verb in [
        &["key", "list"][..],
        &["token", "list", "--output", "json"],
        &["revision", "show", "-e", "Default", "1", "--output", "json"],
        &["gateway", "list", "--output", "json"],
    ] {
        let output = control_plane.verb(verb.iter().copied());
        told.push((format!("{verb:?}"), output.stdout + &output.stderr));
    }
    told.push((
        "the gateway's log".to_owned(),
        gateway.log() + &gateway.access_log_text(),
    ));
    told.push(("the control plane's log".to_owned(), control_plane.log()));
    for (place, text) in told {
        for secret in [&key, KEY, "hunter2", control_plane.token()] {
            assert!(!text.contains(secret), "{place} shows {secret}: {text}");
        }
        assert!(
            !text.contains(&sha256_hex(&key)),
            "{place} shows the hash of a key: {text}"
        );
    }
}

#[test]
fn check_tries_the_control_plane_and_says_what_the_key_cache_means() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    control_plane.publish(
        "Default",
        Revision::of(&origin).api("{ name: a, base_path: /a, auth: none, upstream: origin }"),
    );
    let token = control_plane.token_for("gateway");
    let check = |token: &str, environment: &str, more: &str| {
        let config = format!(
            "gateway: {{ environment: {environment} }}\nrevision: {{ control_plane: {{ urls: [\"{}\"], token: \"{token}\", \
             state_dir: \"{}\" }} }}\n{more}\n",
            control_plane.url(),
            control_plane.path().join("state").display()
        );
        let path = control_plane.file("gateway.yaml", config).display().to_string();
        crate::harness::tollgate(["check", "--connect", "--config", &path])
    };
    let good = check(&token, "Default", "");
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(
        good.stdout.contains("revision 1 of the environment \"Default\""),
        "{good:?}"
    );
    assert!(good.stdout.contains("500 questions/s"), "{good:?}");
    let uncached = check(&token, "Default", "key_cache: { location: none, rate: 50 }");
    assert!(
        uncached.stdout.contains("at most 50 of them per second"),
        "{uncached:?}"
    );
    assert!(
        uncached.stdout.contains("location none asks the key service"),
        "{uncached:?}"
    );
    for (token, environment, expected) in [
        ("tgcp_0123456789_wrong", "Default", "does not know the token"),
        (token.as_str(), "Nowhere", "no environment \"Nowhere\""),
    ] {
        let bad = check(token, environment, "");
        assert_eq!(bad.code, Some(78), "{bad:?}");
        assert!(bad.stdout.contains(expected), "{bad:?}");
        assert!(!bad.stdout.contains(token), "{bad:?}");
    }
}
