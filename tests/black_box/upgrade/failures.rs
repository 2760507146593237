//! Whatever is wrong with the next process: the one that serves goes on, and the operator is told why.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::time::{Duration, Instant};

use tollgate::server::upgrade::SOCKET_VARIABLE;
use tollgate::server::upgrade::channel::{Channel, Frame, Message, VERSION};

use crate::harness::*;

/// Says how far the next process of a story gets, and what it does then.
const FAULT: &str = "TOLLGATE_STORY_FAULT";

/// Not a story: what the gateway starts in the stories below, instead of a next version. It speaks the protocol up to a
/// point, and then hangs or ends.
#[test]
fn the_next_process_of_the_stories() {
    let Ok(fault) = std::env::var(FAULT) else {
        return;
    };
    let (step, end) = fault.split_once(' ').expect("a step and an end");
    let reached = |name: &str| {
        if name == step {
            match end {
                "hangs" => hang(),
                _ => std::process::exit(7),
            }
        }
    };
    reached("start");
    let socket = std::env::var_os(SOCKET_VARIABLE).expect("the socket of the process before");
    let channel = Channel::new(UnixStream::connect(socket).unwrap()).unwrap();
    reached("connected");
    let hello = Message::Hello {
        protocol: VERSION,
        version: "9.9.9".to_owned(),
    };
    channel.say(&hello).unwrap();
    reached("hello");
    loop {
        match next(&channel) {
            Message::End => break,
            Message::Socket { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    reached("inherited");
    channel.say(&Message::Loaded).unwrap();
    reached("loaded");
    while !matches!(next(&channel), Message::Probe) {}
    reached("probing");
    channel
        .say(&Message::GiveUp {
            why: "it was only a story".to_owned(),
        })
        .unwrap();
    hang();
}

/// For as long as who started this is there.
fn hang() {
    let parent = parent_id();
    while parent_id() == parent {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::process::exit(0);
}

fn next(channel: &Channel) -> Message {
    loop {
        match channel.receive(Instant::now() + PATIENCE).unwrap() {
            Some(Frame::Message(message, _)) => return message,
            Some(Frame::Section(_)) => {}
            None => panic!("nothing is said"),
        }
    }
}

/// A next process with this fault.
fn faulty(gateway: &Gateway, fault: &str) -> Program {
    let this = std::env::current_exe().unwrap();
    let name = "upgrade::failures::the_next_process_of_the_stories";
    let line = format!("{FAULT}='{fault}' exec '{}' --exact {name} --nocapture", this.display());
    Program::shell(gateway, &line)
}

/// Has the gateway hand over to that, under load: no request is lost, and it serves on and can be followed later.
#[track_caller]
fn fails(gateway: &Gateway, program: &Program) -> Output {
    let before = gateway.pid();
    let mut output = None;
    let report = gateway
        .load("/open")
        .connections(3)
        .during(|| output = Some(gateway.try_upgrade(Some(program))));
    let output = output.unwrap();
    report.expect_decisions_only();
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stderr.ends_with("; the running process serves as before\n"),
        "{}",
        output.stderr
    );
    assert!(is_alive(before), "the process that served is still there");
    gateway.client().get("/open").send().expect(200);
    output
}

fn gateway(origin: &Origin, timeout: &str) -> Gateway {
    Gateway::with(revision(origin)).upgradable_within(timeout).start()
}

#[test]
fn a_next_process_that_hangs_at_any_step_is_ended_and_nothing_was_lost() {
    let origin = Origin::start(echo());
    let gateway = gateway(&origin, "2s");
    for step in ["start", "connected", "hello", "inherited", "probing"] {
        let output = fails(&gateway, &faulty(&gateway, &format!("{step} hangs")));
        assert!(
            output.stderr.contains("was not ready in time"),
            "{step}: {}",
            output.stderr
        );
    }
    assert!(gateway.upgrade() > 0, "a good one can follow");
}

#[test]
fn a_next_process_that_ends_at_any_step_is_noticed_at_once_and_nothing_was_lost() {
    let origin = Origin::start(echo());
    let gateway = gateway(&origin, "60s");
    for step in ["start", "connected", "hello", "inherited", "loaded", "probing"] {
        let output = fails(&gateway, &faulty(&gateway, &format!("{step} ends")));
        assert!(
            output.stderr.contains("has ended (exit status: 7)"),
            "{step}: {}",
            output.stderr
        );
    }
    gateway.upgrade();
}

#[test]
fn a_next_process_that_gives_up_says_why() {
    let origin = Origin::start(echo());
    let gateway = gateway(&origin, "60s");
    let output = fails(&gateway, &faulty(&gateway, "never ends"));
    assert!(output.stderr.contains("it was only a story"), "{}", output.stderr);
}

#[test]
fn a_file_that_is_no_program_and_one_that_is_another_are_told_apart() {
    let origin = Origin::start(echo());
    let gateway = gateway(&origin, "60s");
    let other = fails(&gateway, &Program::shell(&gateway, "exit 3"));
    assert!(other.stderr.contains("has ended (exit status: 3)"), "{}", other.stderr);
    let garbage = Program::shell(&gateway, "#");
    std::fs::File::create(garbage.path())
        .unwrap()
        .write_all(b"\x7fELF garbage")
        .unwrap();
    let output = fails(&gateway, &garbage);
    assert!(output.stderr.contains("can not be started"), "{}", output.stderr);
}

#[test]
fn mistakes_in_the_configuration_and_in_the_revision_are_told_to_the_operator() {
    let origin = Origin::start(echo());
    let gateway = gateway(&origin, "60s");
    let file = gateway.path().join("tollgate.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\nlistners: []\n")).unwrap();
    let output = gateway.try_upgrade(None);
    assert_eq!(output.code, Some(1));
    assert!(
        output.stderr.contains("listners") && output.stderr.contains("tollgate.yaml:"),
        "{}",
        output.stderr
    );
    std::fs::write(&file, &text).unwrap();

    // The process that serves has refused it, and serves what it had; a new one would have nothing.
    gateway.replace_revision("version: 1\napis: [{ name: x, base_path: /x, auth: none, upstream: nowhere }]\n");
    gateway.logs("nowhere");
    let output = gateway.try_upgrade(None);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("nowhere"), "{}", output.stderr);
    gateway.client().get("/open").send().expect(200);
}

#[test]
fn two_operators_do_not_get_two_next_processes() {
    let origin = Origin::start(echo());
    let gateway = gateway(&origin, "60s");
    let first = gateway.begin_upgrade(Some(&faulty(&gateway, "hello hangs")));
    gateway.logs("of version 9.9.9 has its configuration");
    let second = gateway.try_upgrade(None);
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.contains("an upgrade is under way"), "{}", second.stderr);
    drop(first);
    gateway.client().get("/open").send().expect(200);
}

#[test]
fn garbage_on_the_socket_changes_nothing() {
    let origin = Origin::start(echo());
    let gateway = gateway(&origin, "60s");
    until("it can be asked", || gateway.upgrade_socket().exists());
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[255; 100], b""] {
        let mut socket = UnixStream::connect(gateway.upgrade_socket()).unwrap();
        let _ = socket.write_all(garbage);
    }
    gateway.client().get("/open").send().expect(200);
    gateway.upgrade();
}

#[test]
fn who_is_told_to_leave_in_the_middle_of_an_upgrade_gives_it_up_and_leaves() {
    let origin = Origin::start(echo());
    let gateway = gateway(&origin, "60s");
    let upgrade = gateway.begin_upgrade(Some(&faulty(&gateway, "hello hangs")));
    gateway.logs("of version 9.9.9 has its configuration");
    let socket = gateway.upgrade_socket().display().to_string();
    let output = tollgate(["drain", "--socket", &socket]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(gateway.wait().code(), Some(0));
    drop(upgrade);
}

#[test]
fn an_upgrade_that_fails_keeps_what_is_known_of_the_processes_before() {
    let sockets = EchoSocket::start();
    let origin = Origin::start(echo());
    let described = revision(&origin)
        .behind("sockets", sockets.address())
        .api("{ name: sockets, base_path: /sockets, auth: none, upstream: sockets }");
    let gateway = Gateway::with(described).upgradable_within("60s").start();
    let mut socket = Sockets::to(gateway.address()).open("/sockets", None).unwrap();
    gateway.upgrade();
    fails(&gateway, &faulty(&gateway, "probing ends"));
    let newest = gateway.upgrade();
    socket.echoes("through the first process still");
    assert!(gateway.is_running(), "which has not ended");
    // The newest waits for it: as the main process of a service it must not end before.
    gateway.terminate_newest();
    std::thread::sleep(Duration::from_millis(700));
    assert!(is_alive(newest), "it waits");
    drop(socket);
    gateway.first_has_ended();
    gateway.has_ended(newest);
}
