//! The next process serves, and what the one before has begun is finished there.

use std::os::unix::fs::PermissionsExt;

use crate::harness::*;

#[test]
fn the_next_process_serves_on_the_same_sockets_and_the_one_before_ends() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .listening_too("proxy_protocol: false")
        .section("admin: { address: \"127.0.0.1:0\", token: \"a-token-of-the-stories\" }")
        .upgradable()
        .start();
    let admin = gateway.admin();
    let first = gateway.pid();
    let second = gateway.upgrade();
    assert_ne!(first, second);
    gateway.first_has_ended();
    assert_eq!(
        gateway.wait().code(),
        Some(0),
        "the one before has done what it was asked"
    );
    for &address in gateway.addresses() {
        Client::of(address).get("/open").send().expect(200);
    }
    gateway.status().get("/status/ready").send().expect(200);
    let asked = admin
        .get("/admin/revision")
        .header("Authorization", "Bearer a-token-of-the-stories");
    asked.send().expect(200);

    let third = gateway.upgrade();
    assert!(![first, second].contains(&third));
    gateway.has_ended(second);
    gateway.client().get("/open").send().expect(200);
}

#[test]
fn a_request_in_flight_is_finished_by_the_process_that_has_it_while_readiness_says_yes() {
    let finish = Gate::closed();
    let gate = finish.clone();
    let origin = Origin::start(move |exchange: &mut Exchange| {
        if exchange.request.target == "/open/slow" {
            gate.pass();
        }
        exchange.respond(200, "", b"done")
    });
    let gateway = Gateway::with(revision(&origin)).upgradable().start();
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/open/slow").bytes());
    until("it is in flight", || origin.requests() == 1);
    gateway.upgrade();
    gateway.status().get("/status/ready").send().expect(200);
    gateway.client().get("/open").send().expect(200);
    assert!(gateway.is_running(), "the one before waits for its request");
    finish.open();
    let answer = connection.answer().expect(200);
    assert_eq!(answer.header("connection"), Some("close"));
    gateway.first_has_ended();
}

#[test]
fn a_kept_connection_is_told_with_its_next_answer_that_it_was_the_last() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).upgradable().start();
    let mut kept = gateway.raw();
    let first = gateway.client().get("/open").send_on(&mut kept).expect(200);
    assert_ne!(first.header("connection"), Some("close"));
    gateway.upgrade();
    // It is still listened to for longer than anybody needs to notice.
    std::thread::sleep(std::time::Duration::from_millis(700));
    let last = gateway.client().get("/open").send_on(&mut kept).expect(200);
    assert_eq!(last.header("connection"), Some("close"));
    gateway.first_has_ended();
}

#[test]
fn a_configuration_that_was_changed_holds_from_then_on() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin))
        .server("limits: { body_bytes: 10MiB }")
        .upgradable()
        .start();
    let body = vec![b'x'; 20_000];
    gateway.client().post("/open", body.clone()).send().expect(200);
    let file = gateway.path().join("tollgate.yaml");
    let text = std::fs::read_to_string(&file)
        .unwrap()
        .replace("body_bytes: 10MiB", "body_bytes: 10KiB");
    std::fs::write(&file, text).unwrap();
    gateway.upgrade();
    gateway.client().post("/open", body).send().expect(413);
}

#[test]
fn a_revision_that_is_changed_after_an_upgrade_is_applied() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).upgradable().start();
    gateway.upgrade();
    gateway.first_has_ended();
    gateway.client().get("/later").send().expect(404);
    gateway.apply(revision(&origin).api("{ name: later, base_path: /later, auth: none, upstream: origin }"));
    gateway.client().get("/later").send().expect(200);
}

#[test]
fn the_socket_is_for_this_user_alone() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).upgradable().start();
    until("it can be asked", || gateway.upgrade_socket().exists());
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&gateway.upgrade_socket()), 0o600);
    assert_eq!(mode(gateway.upgrade_socket().parent().unwrap()), 0o700);
}

#[test]
fn a_directory_that_is_open_to_others_is_refused_at_the_start() {
    let origin = Origin::start(echo());
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let socket = directory.path().join("upgrade.sock");
    let output = Gateway::with(revision(&origin))
        .server(&format!("upgrade: {{ socket: \"{}\" }}", socket.display()))
        .run();
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.contains("has to be this user's alone; it has mode 755"),
        "{}",
        output.stderr
    );
}
