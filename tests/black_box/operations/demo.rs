//! The first thing that anybody tries.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::harness::*;

/// An offset with which the demo's three ports are free.
fn free_offset() -> String {
    // Below the ports that the kernel gives to others, different for every call.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 1000 + (std::process::id() % 100) as u16 * 200;
    let offset = (0..100)
        .map(|_| start + NEXT.fetch_add(1, Ordering::Relaxed) % 200)
        .find(|offset| {
            [8280, 7085, 9443]
                .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port + offset)).is_ok())
                .iter()
                .all(|free| *free)
        });
    offset.expect("three free ports").to_string()
}

/// The demo, once it has printed its lines.
fn demo() -> (Process, Vec<(String, String)>) {
    let demo = tollgate_in_background(["demo", "--port-offset", &free_offset()]);
    until("the demo has introduced itself", || {
        assert!(demo.is_running(), "{}", demo.stderr());
        demo.stdout().contains("Ctrl-C ends it.") && demo.stderr().contains("] status on ")
    });
    // Two blanks, a label, two blanks or more, the rest.
    let lines = demo
        .stdout()
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_once("  "))
        .map(|(label, rest)| (label.trim().to_owned(), rest.trim().to_owned()))
        .collect();
    (demo, lines)
}

/// Runs the printed line with this label, as a user would.
#[track_caller]
fn try_line(lines: &[(String, String)], label: &str) -> String {
    let line = lines.iter().find(|(name, _)| name == label);
    let (_, line) = line.unwrap_or_else(|| panic!("no line {label:?} in {lines:#?}"));
    let output = shell(line);
    assert_eq!(output.code, Some(0), "{line}: {output:?}");
    output.stdout
}

#[test]
fn the_four_lines_of_the_demo_do_what_they_say() {
    let (_demo, lines) = demo();

    let allowed = try_line(&lines, "allowed");
    assert!(allowed.starts_with("HTTP/1.1 200 "), "{allowed}");
    assert!(allowed.contains("\"upstream\":"), "{allowed}");
    assert!(!allowed.contains("tg_live_"), "the key does not go upstream: {allowed}");

    let without = try_line(&lines, "without a key");
    assert!(without.starts_with("HTTP/1.1 401 "), "{without}");
    assert!(without.contains("\"code\":\"credential_missing\""), "{without}");

    let wrong = try_line(&lines, "wrong path");
    assert!(wrong.starts_with("HTTP/1.1 404 "), "{wrong}");

    // Three a minute. When the minute ends in between, three more are let in.
    let minute = now() / 60;
    let over = try_line(&lines, "over the limit");
    let statuses: Vec<&str> = over.lines().collect();
    assert_eq!(statuses[..3], ["200"; 3]);
    if now() / 60 == minute {
        assert_eq!(statuses[3..], ["429"; 3]);
    }

    assert!(try_line(&lines, "status").contains("\"ready\":true"));
    assert!(try_line(&lines, "metrics").contains("\ntollgate_requests_total{"));
}

#[test]
fn both_sample_upstreams_of_the_demo_answer() {
    let (_demo, lines) = demo();
    let both = [try_line(&lines, "allowed"), try_line(&lines, "allowed")].concat();
    assert!(both.contains("\"first\"") && both.contains("\"second\""), "{both}");
}

#[test]
fn a_publish_and_a_rollback_of_the_demo_take_effect() {
    let (_demo, lines) = demo();
    assert!(try_line(&lines, "not there yet").starts_with("HTTP/1.1 404 "));
    assert!(try_line(&lines, "publish it").contains("+ api news"));
    until("the new API is there", || {
        try_line(&lines, "now it is").starts_with("HTTP/1.1 200 ")
    });
    assert!(try_line(&lines, "roll back").starts_with("Default: revision 3"));
    until("the new API is gone", || {
        try_line(&lines, "now it is").starts_with("HTTP/1.1 404 ")
    });
    assert!(try_line(&lines, "allowed").starts_with("HTTP/1.1 200 "));
    until("the control plane has heard of it", || {
        try_line(&lines, "who serves what").contains(" in_sync ")
    });
}

#[test]
fn the_revision_of_the_demo_can_be_edited() {
    let (_demo, lines) = demo();
    let (_, line) = lines.iter().find(|(label, _)| label == "the revision").unwrap();
    let file = line.split(" (").next().unwrap();
    let (_, publish) = lines.iter().find(|(label, _)| label == "publish it").unwrap();
    let publish = publish.replace("next.yaml", "revision.yaml");
    let text = std::fs::read_to_string(file).unwrap();

    std::fs::write(file, text.replace("base_path: /hello", "base_path: hello")).unwrap();
    let refused = shell(&publish);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stdout.contains("revision.yaml:"), "{refused:?}");

    std::fs::write(file, text.replace("base_path: /hello", "base_path: /goodbye")).unwrap();
    let published = shell(&publish);
    assert_eq!(published.code, Some(0), "{published:?}");
    until("the change is live", || {
        try_line(&lines, "allowed").starts_with("HTTP/1.1 404 ")
    });
}

#[test]
fn the_demo_ends_with_ctrl_c_and_leaves_nothing_behind() {
    let (demo, lines) = demo();
    let (_, line) = lines.iter().find(|(label, _)| label == "the revision").unwrap();
    let directory = std::path::Path::new(line.split(" (").next().unwrap()).parent().unwrap();
    assert!(directory.is_dir());
    demo.signal("INT");
    assert_eq!(demo.wait().code(), Some(0), "{}", demo.stderr());
    assert!(!directory.exists());
}
