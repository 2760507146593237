//! A revision is replaced while the gateway serves: good ones at once, bad ones not at all.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::*;

/// The usual revision, and one more API: a different text for each name.
fn with_extra(origin: &Origin, name: &str) -> Revision {
    revision(origin).api(&format!(
        "{{ name: {name}, base_path: /{name}, auth: none, upstream: origin }}"
    ))
}

/// Does this to the revision file, and holds the gateway to it that nothing changes but what operators see: the log,
/// the metric, the status, each with the place of the mistake.
#[track_caller]
fn refused(spoil: impl FnOnce(&Gateway, &Origin), place: &str, message: &str) {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let digest = gateway.ready()["revision"]["digest"].clone();

    spoil(&gateway, &origin);
    let mistakes = eventually("the revision is refused", || {
        gateway.ready()["revision"]["refused"]["mistakes"].as_array().cloned()
    });

    let place = format!("{}{place}", gateway.revision_file().display());
    let mistake = mistakes
        .iter()
        .filter_map(|mistake| mistake.as_str())
        .find(|mistake| mistake.starts_with(&place) && mistake.contains(message))
        .unwrap_or_else(|| panic!("{place:?} and {message:?} are not among {mistakes:#?}"));
    gateway.logs(&format!("revision refused: {mistake}"));
    assert_eq!(
        gateway.metric("tollgate_revision_refused_total{reason=\"invalid\"}"),
        1.0
    );
    let ready = gateway.status().get("/status/ready").send().expect(200).json();
    assert_eq!(ready["ready"], true);
    assert_eq!(ready["revision"]["digest"], digest);

    gateway.client().get("/orders").key(KEY).send().expect(200);
    gateway.client().get("/orders").send().expect(401);

    let _ = fs::remove_dir(gateway.revision_file());
    gateway.replace_revision(with_extra(&origin, "mended"));
    until("the mended revision is applied", || {
        gateway.client().get("/mended").send().status == 200
    });
    assert!(gateway.ready()["revision"]["refused"].is_null());
}

/// The same for a file with this text.
#[track_caller]
fn refused_text(text: impl AsRef<[u8]>, place: &str, message: &str) {
    refused(
        |gateway, _| fs::write(gateway.revision_file(), text).unwrap(),
        place,
        message,
    );
}

#[test]
fn a_change_is_live_within_a_second() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    // The fastest of three: the machine may be busy with something else.
    let fastest = ["one", "two", "three"].map(|name| {
        gateway.client().get(&format!("/{name}")).send().expect(404);
        gateway.replace_revision(with_extra(&origin, name));
        let written = Instant::now();
        until("it is live", || {
            gateway.client().get(&format!("/{name}")).send().status == 200
        });
        written.elapsed()
    });
    assert!(fastest.iter().min().unwrap() < &Duration::from_secs(1), "{fastest:?}");
    gateway.client().get("/one").send().expect(404);
}

#[test]
fn the_status_and_the_log_name_what_is_applied() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let next = with_extra(&origin, "extra").to_string();
    gateway.apply(&next);
    let digest = sha256_hex(&next);
    let status = gateway.ready()["revision"].clone();
    assert_eq!(status["digest"], digest.as_str());
    assert_eq!(status["keys"], 2);
    assert!(status["applied_at_ms"].as_u64().unwrap() / 1000 >= now() - 60);
    assert_eq!(
        gateway.metric(&format!("tollgate_revision{{digest=\"{digest}\"}}")),
        1.0
    );
    gateway.logs(&format!("revision {} applied", &digest[..12]));
    gateway
        .client()
        .get("/extra")
        .header("X-Request-Id", "after")
        .send()
        .expect(200);
    assert_eq!(gateway.access_record("after")["revision"], &digest[..12]);
}

#[test]
fn a_file_that_is_no_yaml_changes_nothing() {
    refused_text("version: 1\napis: [\n  { name: a\n", ":4:1: ", "not valid YAML");
}

#[test]
fn an_empty_file_changes_nothing() {
    refused_text("", ": ", "");
}

#[test]
fn a_key_that_does_not_exist_changes_nothing() {
    refused_text("version: 1\nupstream: []\n", ":2:1: ", "unknown key \"upstream\"");
}

#[test]
fn a_key_that_is_there_twice_changes_nothing() {
    refused_text("version: 1\napis: []\napis: []\n", ":3:1: ", "");
}

#[test]
fn a_name_that_refers_to_nothing_changes_nothing() {
    let text = "version: 1\napis:\n  - name: a\n    base_path: /a\n    auth: none\n    upstream: gone\n";
    refused_text(text, ":6:15: ", "gone");
}

#[test]
fn two_apis_on_the_same_path_change_nothing() {
    refused(
        |gateway, origin| {
            gateway.replace_revision(
                Revision::of(origin)
                    .api("{ name: a, base_path: /a, auth: none, upstream: origin }")
                    .api("{ name: b, base_path: /a, auth: none, upstream: origin }"),
            );
        },
        ":8:27: ",
        "is published by api \"a\" already (line 7)",
    );
}

#[test]
fn a_file_that_is_not_text_changes_nothing() {
    refused_text(b"version: 1\nname: \xff\xfe\n", ":2:7: ", "this byte is not UTF-8");
}

#[test]
fn a_bomb_of_aliases_changes_nothing() {
    let mut bomb = "version: 1\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    refused_text(bomb, ":8:", "aliases");
}

#[test]
fn a_file_as_large_as_a_disk_changes_nothing() {
    refused(
        |gateway, _| {
            fs::File::create(gateway.revision_file())
                .unwrap()
                .set_len(1 << 36)
                .unwrap()
        },
        ": ",
        "the file is longer than",
    );
}

#[test]
fn a_directory_in_its_place_changes_nothing() {
    refused(
        |gateway, _| {
            fs::remove_file(gateway.revision_file()).unwrap();
            fs::create_dir(gateway.revision_file()).unwrap();
        },
        ": ",
        "this is a directory",
    );
}

#[test]
fn a_pipe_in_its_place_changes_nothing_and_is_not_waited_for() {
    refused(
        |gateway, _| {
            fs::remove_file(gateway.revision_file()).unwrap();
            let made = Command::new("mkfifo").arg(gateway.revision_file()).status().unwrap();
            assert!(made.success());
        },
        "",
        "",
    );
}

#[test]
fn a_file_that_is_written_slowly_ends_up_applied_whole_and_nobody_notices() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let text = with_extra(&origin, "slow").to_string();
    let mut written = String::new();
    for part in text.split_inclusive('\n') {
        written.push_str(part);
        fs::write(gateway.revision_file(), &written).unwrap();
        gateway.client().get("/orders").key(KEY).send().expect(200);
    }
    let digest = sha256_hex(&text);
    until("the whole file is applied", || {
        gateway.ready()["revision"]["digest"] == digest.as_str()
    });
    gateway.client().get("/slow").send().expect(200);
}

#[test]
fn half_a_file_is_refused_and_the_other_half_mends_it() {
    refused(
        |gateway, origin| {
            let whole = with_extra(origin, "whole").to_string();
            fs::write(gateway.revision_file(), &whole[..whole.len() * 2 / 3]).unwrap();
        },
        ":12:1: ",
        "not valid YAML",
    );
}

#[test]
fn a_deleted_file_changes_nothing_and_a_new_one_is_taken() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    fs::remove_file(gateway.revision_file()).unwrap();
    gateway.logs("there is no such file");
    until("it is counted and shown", || {
        gateway.metric("tollgate_revision_refused_total{reason=\"invalid\"}") >= 1.0
            && gateway.ready()["revision"]["refused"]["mistakes"].is_array()
    });
    gateway.status().get("/status/ready").send().expect(200);
    gateway.client().get("/orders").key(KEY).send().expect(200);
    gateway.apply(with_extra(&origin, "back"));
    gateway.client().get("/back").send().expect(200);
}

/// Found in review: a refusal was final until the file changed, although its reason may lie elsewhere.
#[test]
fn a_refused_file_is_tried_again_when_its_reason_may_be_gone() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let missing = gateway.path().join("issuer");
    let late = format!(
        "{{ name: late, issuer: \"${{file:{}}}\", audience: [a], algorithms: [RS256], jwks: {{ url: \"http://127.0.0.1:1/\" }} }}",
        missing.display()
    );
    gateway.replace_revision(revision(&origin).issuer(&late));
    gateway.logs("there is no such file");
    let before = gateway.ready()["revision"]["digest"].clone();
    fs::write(&missing, "https://idp.example.com\n").unwrap();
    until("it is applied without being touched", || {
        gateway.ready()["revision"]["digest"] != before
    });
    let refused = gateway.metric("tollgate_revision_refused_total{reason=\"invalid\"}");
    assert!(
        (refused - 1.0).abs() < f64::EPSILON,
        "the same refusal was counted {refused} times"
    );
}

#[test]
fn a_link_that_is_swapped_is_followed() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let swap = |name: &str| {
        // As Kubernetes does it with a ConfigMap.
        let target = gateway.path().join(format!("{name}.yaml"));
        fs::write(&target, with_extra(&origin, name).to_string()).unwrap();
        let link = gateway.path().join("link");
        symlink(target, &link).unwrap();
        fs::rename(link, gateway.revision_file()).unwrap();
        until("it is live", || {
            gateway.client().get(&format!("/{name}")).send().status == 200
        });
    };
    swap("first");
    swap("second");
}

#[test]
fn a_request_in_flight_is_finished_by_the_revision_it_began_with() {
    let finish = Gate::closed();
    let origin = Origin::start({
        let finish = finish.clone();
        move |exchange: &mut Exchange| {
            if exchange.request.target == "/old/slow" {
                finish.pass();
            }
            exchange.respond(200, "", b"done")
        }
    });
    let gateway = Gateway::with(with_extra(&origin, "old")).start();
    let mut connection = gateway.raw();
    connection.send(gateway.client().get("/old/slow").bytes());
    until("it is in flight", || origin.requests() == 1);

    gateway.apply(revision(&origin));
    gateway.client().get("/old").send().expect(404);
    finish.open();
    assert_eq!(connection.answer().expect(200).text(), "done");
    gateway.client().get("/old").send_on(&mut connection).expect(404);
}

#[test]
fn fifty_changes_of_thousands_of_routes_under_load_cost_no_request() {
    const CHANGES: usize = 50;
    const APIS: usize = 100;
    // 2,000 routes where nothing is optimised, so that the whole suite ends within a minute; 10,000 with --release.
    const ROUTES: usize = if cfg!(debug_assertions) { 20 } else { 100 };
    let origin = Origin::start(answer(200, ""));
    let large = |change: usize| {
        // With every change, another route of each API is gone.
        let routes: Vec<String> = (0..=ROUTES)
            .filter(|route| *route == 0 || *route != change % ROUTES + 1)
            .map(|route| format!("{{ path: \"/r{route}/{{id}}\" }}"))
            .collect();
        let routes = routes.join(", ");
        (0..APIS).fold(revision(&origin), |revision, api| {
            revision.api(&format!(
                "{{ name: api-{api}, base_path: /api-{api}, auth: none, upstream: origin, routes: [{routes}] }}"
            ))
        })
    };
    let gateway = Gateway::with(large(0)).start();
    assert!(gateway.ready()["revision"]["routes"].as_u64().unwrap() >= (APIS * ROUTES) as u64);

    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = |first: usize| {
        let mut connection = gateway.raw();
        let mut number = first;
        while !stop.load(Ordering::Relaxed) {
            let request = match number % 2 {
                0 => gateway.client().get(&format!("/api-{}/r0/{number}", number % APIS)),
                _ => gateway.client().get("/orders").key(KEY),
            };
            request.send_on(&mut connection).expect(200);
            served.fetch_add(1, Ordering::Relaxed);
            number += 1;
            // A load, not a test of how fast it goes: the machine has other tests to run.
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    std::thread::scope(|scope| {
        // Whatever happens below, the clients stop; a client that fails makes the scope fail.
        let _stop = OnDrop(|| stop.store(true, Ordering::Relaxed));
        let clients: Vec<_> = (0..4)
            .map(|first| {
                let load = &load;
                scope.spawn(move || load(first))
            })
            .collect();
        for change in 1..=CHANGES {
            gateway.apply(large(change));
            assert!(!clients.iter().any(|client| client.is_finished()), "a client failed");
        }
    });
    assert!(served.load(Ordering::Relaxed) > 1000);
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
