//! Two control planes on one PostgreSQL: either does what the other does, and one may go.

use serde_json::json;

use crate::harness::{ControlPlane, Origin, PostgresServer, Revision, answer, until};

fn open_at(origin: &Origin, path: &str) -> Revision {
    Revision::of(origin).api(&format!(
        "{{ name: open, base_path: {path}, auth: none, upstream: origin }}"
    ))
}

#[test]
fn what_is_published_at_one_node_is_pulled_from_the_other_and_gateways_fail_over() {
    let origin = Origin::start(answer(200, ""));
    let store = format!("postgres: \"{}\"", PostgresServer::shared().database());
    let first = ControlPlane::setup().store(&store).start();
    let second = ControlPlane::setup().store(&store).known_token(first.token()).start();
    let gateway = second.gateway_of(&[second.url(), first.url()], "").start();

    first.publish("Default", open_at(&origin, "/one"));
    until("what the first node published is served", || {
        gateway.client().get("/one").send().status == 200
    });
    let (key, _) = {
        first.post("/v1/applications", &json!({ "name": "mobile" })).expect(201);
        first.key("mobile", "production")
    };
    assert!(!key.is_empty());
    until("both know the gateway", || {
        [&first, &second]
            .iter()
            .all(|node| node.gateway_state("gw-test")["drift"] == "in_sync")
    });

    second.kill();
    first.publish("Default", open_at(&origin, "/two"));
    until("the gateway asks the node that is left", || {
        gateway.client().get("/two").send().status == 200
    });
}

#[test]
fn twenty_publishers_at_two_nodes_make_twenty_revisions() {
    let origin = Origin::start(answer(200, ""));
    let store = format!("postgres: \"{}\"", PostgresServer::shared().database());
    let first = ControlPlane::setup().store(&store).start();
    let second = ControlPlane::setup().store(&store).known_token(first.token()).start();
    std::thread::scope(|scope| {
        for number in 0..20 {
            let node = if number % 2 == 0 { &first } else { &second };
            let document = open_at(&origin, &format!("/{number}"));
            scope.spawn(move || {
                let published = node.try_publish("Default", document);
                // Somebody else may be first too often; then nothing was done.
                assert!(published.status < 300 || published.status == 409, "{published:?}");
            });
        }
    });
    let revisions = first.get("/v1/environments/Default/revisions?limit=100");
    let seqs: Vec<u64> = revisions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["seq"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (1..=seqs.len() as u64).rev().collect();
    assert_eq!(seqs, expected, "no number is missing and none is twice");
    assert!(seqs.len() >= 10, "{seqs:?}");
}
