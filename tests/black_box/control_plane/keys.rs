//! Keys that are made at the control plane: every gateway knows them soon, and forgets them as soon.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{ControlPlane, Gateway, Origin, Revision, answer, eventually, until};

fn published(origin: &Origin) -> Revision {
    Revision::of(origin)
        .api("{ name: a, base_path: /a, auth: [api_key], upstream: origin }")
        .mobile(&["a"])
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.client().get("/a").key(key).send().status
}

#[test]
fn a_key_works_soon_after_it_was_made_and_stops_soon_after_it_was_revoked_on_every_gateway() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    control_plane.publish("Default", published(&origin));
    let gateways: Vec<Gateway> = (0..3)
        .map(|number| control_plane.gateway().id(&format!("gw-{number}")).start())
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let (key, id) = control_plane.key("mobile", "production");
        until("every gateway lets it in", || {
            gateways.iter().all(|gateway| status(gateway, &key) == 200)
        });
        let revoked = control_plane.verb(["key", "revoke", &id]);
        assert_eq!(revoked.code, Some(0), "{revoked:?}");
        let at = Instant::now();
        until("every gateway refuses it", || {
            gateways.iter().all(|gateway| status(gateway, &key) == 401)
        });
        slowest = slowest.max(at.elapsed());
    }
    // Measured elsewhere; here only that it does not wait for something that comes round now and then.
    assert!(slowest < Duration::from_secs(8), "{slowest:?}");
}

#[test]
fn keys_survive_a_restart_of_the_gateway_without_the_control_plane_and_so_do_revocations() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    control_plane.publish("Default", published(&origin));
    let gateway = control_plane.gateway().start();
    let (kept, _) = control_plane.key("mobile", "production");
    let (revoked, id) = control_plane.key("mobile", "production");
    until("both work", || {
        status(&gateway, &kept) == 200 && status(&gateway, &revoked) == 200
    });
    control_plane.request("DELETE", &format!("/v1/keys/{id}")).send();
    until("one is refused", || status(&gateway, &revoked) == 401);
    let url = control_plane.url();
    control_plane.kill();
    let directory = gateway.leave();
    let gateway = Gateway::pulling(&format!("urls: [\"{url}\"]"))
        .in_directory(directory)
        .start();
    assert_eq!((status(&gateway, &kept), status(&gateway, &revoked)), (200, 401));
}

#[test]
fn gateways_that_do_not_keep_all_keys_ask_for_those_that_are_used() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::setup().section("keys: { base_every: 1000 }").start();
    control_plane.publish("Default", published(&origin));
    // Enough for a base with a filter.
    let imported: Vec<_> = (0..10_000)
        .map(|number| {
            let key = format!("imported-key-{number:06}");
            json!({ "id": format!("i{number}"), "sha256": crate::harness::sha256_hex(&key), "type": "production" })
        })
        .collect();
    control_plane
        .post(
            "/v1/applications/mobile/keys:import",
            &json!({ "keys": imported[..5000] }),
        )
        .expect(201);
    control_plane
        .post(
            "/v1/applications/mobile/keys:import",
            &json!({ "keys": imported[5000..] }),
        )
        .expect(201);
    let gateway = control_plane.gateway_of(&[control_plane.url()], "keys: filter").start();
    until("an old key is let in", || {
        status(&gateway, "imported-key-004711") == 200
    });
    assert_eq!(status(&gateway, "imported-key-999999"), 401);
    let revoked = control_plane.verb(["key", "revoke", "i4711"]);
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    until("it is refused", || status(&gateway, "imported-key-004711") == 401);
    let (new, _) = control_plane.key("mobile", "production");
    until("a new key is let in", || status(&gateway, &new) == 200);
}

#[test]
fn the_control_plane_is_a_key_manager_that_gives_tokens_and_says_what_they_are_worth() {
    let origin = Origin::start(answer(200, ""));
    let control_plane = ControlPlane::start();
    let url = control_plane.url();
    let token = control_plane.token_for("introspect");
    let document = Revision::of(&origin)
        .issuer(&format!(
            "{{ name: asked, introspection: {{ url: \"{url}/oauth2/introspect\", token: \"{token}\" }}, application_claim: client_id }}"
        ))
        .issuer(&format!(
            "{{ name: signed, issuer: \"{url}\", audience: [\"{url}\"], algorithms: [EdDSA], application_claim: client_id, jwks: {{ url: \"{url}/oauth2/jwks.json\" }} }}"
        ))
        .api("{ name: a, base_path: /a, auth: [{ introspection: asked }], upstream: origin }")
        .api("{ name: b, base_path: /b, auth: [{ jwt: signed }], upstream: origin }")
        .mobile(&["a", "b"]);
    control_plane.publish("Default", document);
    let gateway = control_plane.gateway().start();
    let (secret, id) = control_plane.key("mobile", "production");
    let issued = crate::harness::Client::of(control_plane.address())
        .post(
            "/oauth2/token",
            format!("grant_type=client_credentials&client_id=mobile&client_secret={secret}"),
        )
        .header("content-type", "application/x-www-form-urlencoded")
        .send()
        .expect(200)
        .json();
    let access = issued["access_token"].as_str().unwrap();
    for path in ["/a", "/b"] {
        until("the token is let in", || {
            gateway.client().get(path).token(access).send().status == 200
        });
        gateway
            .client()
            .get(path)
            .token("nonsense")
            .send()
            .expect_refusal(401, "credential_invalid");
    }
    // A key may be shown as a token too: then the key manager is asked.
    gateway.client().get("/a").token(&secret).send().expect(200);
    control_plane.request("DELETE", &format!("/v1/keys/{id}")).send();
    eventually("a revoked key gives no tokens", || {
        let refused = crate::harness::Client::of(control_plane.address())
            .post(
                "/oauth2/token",
                format!("grant_type=client_credentials&client_id=mobile&client_secret={secret}"),
            )
            .header("content-type", "application/x-www-form-urlencoded")
            .send();
        (refused.status == 401 && refused.json()["error"] == "invalid_client").then_some(())
    });
}
