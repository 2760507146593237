//! The status listener.

use crate::harness::*;

#[test]
fn liveness_and_readiness_answer_under_all_their_names() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    for target in ["/status", "/healthz"] {
        let live = gateway.status().get(target).send().expect(200).json();
        assert_eq!(
            (&live["status"], &live["gateway"]),
            (&"ok".into(), &"gw-test".into()),
            "{target}"
        );
    }
    for target in ["/status/ready", "/readyz", "/health"] {
        let ready = gateway.status().get(target).send().expect(200).json();
        assert_eq!(
            (&ready["ready"], &ready["gateway"]),
            (&true.into(), &"gw-test".into()),
            "{target}"
        );
        assert_eq!(ready["revision"]["keys"], 2);
    }
    gateway.status().get("/nothing").send().expect(404);
    gateway.status().post("/status", "").send().expect(405);
}

#[test]
fn metrics_have_the_names_that_the_contract_promises() {
    let origin = Origin::start(echo());
    let gateway =
        Gateway::with(revision(&origin).api(
            "{ name: tight, base_path: /tight, auth: none, upstream: origin, limits: [{ name: l, rate: 1/month }] }",
        ))
        .start();
    // One request in 64 has its stages timed.
    let mut connection = gateway.raw();
    for _ in 0..200 {
        gateway
            .client()
            .get("/orders")
            .key(KEY)
            .send_on(&mut connection)
            .expect(200);
    }
    gateway.client().get("/orders").send().expect(401);
    gateway.client().get("/tight").send().expect(200);
    gateway.client().get("/tight").send().expect(429);
    gateway.replace_revision("version: 1\nnonsense: 1\n");
    until("it is refused", || !gateway.ready()["revision"]["refused"].is_null());
    // A request is counted, and then logged, when its answer is out.
    until("everything is counted", || gateway.access_log().len() == 203);
    until("the others have left", || {
        gateway.metric("tollgate_connections{state=\"open\"}") == 1.0
    });

    let answer = gateway.status().get("/metrics").send().expect(200);
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = answer.text();
    for series in [
        "tollgate_requests_total{api=\"orders\",code=\"\",route=\"/orders\",status=\"200\"} 200",
        "tollgate_requests_total{api=\"orders\",code=\"credential_missing\",route=\"/orders\",status=\"401\"} 1",
        "tollgate_requests_total{api=\"tight\",code=\"rate_limited\",route=\"/tight\",status=\"429\"} 1",
        "tollgate_request_duration_seconds_count{api=\"orders\"} 201",
        "tollgate_upstream_duration_seconds_count{upstream=\"origin\"} 201",
        "tollgate_phase_duration_seconds_count{phase=\"route\"} ",
        "tollgate_phase_duration_seconds_count{phase=\"authenticate\"} ",
        "tollgate_phase_duration_seconds_count{phase=\"throttle\"} ",
        "tollgate_connections{state=\"open\"} 1",
        "tollgate_connections{state=\"idle\"} 1",
        "tollgate_throttle_decisions_total{decision=\"allow\",limit=\"api/tight/l\"} 1",
        "tollgate_throttle_decisions_total{decision=\"deny\",limit=\"api/tight/l\"} 1",
        "tollgate_key_lookups_total{result=\"valid\"} 200",
        "tollgate_key_lookups_total{result=\"missing\"} 1",
        "tollgate_revision{digest=\"",
        "tollgate_revision_age_seconds ",
        "tollgate_revision_refused_total{reason=\"invalid\"} 1",
        "tollgate_panics_total 0",
        "tollgate_access_log_dropped_total 0",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(series)),
            "{series} is not in\n{text}"
        );
    }
    // One request in 64 is timed, by chance: two hundred of them may all be passed over.
    until("a request is timed", || {
        gateway.client().get("/orders").key(KEY).send().expect(200);
        gateway.metric("tollgate_phase_duration_seconds_count{phase=\"route\"}") >= 1.0
    });
}
