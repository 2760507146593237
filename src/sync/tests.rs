//! A gateway and its control plane, over HTTP.

use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;

use super::seat::Standing;
use super::testing::{Author, Gateway, Plane, configured, directory, document, standing, until};
use crate::distribution::{ContentHash, Manifest};
use crate::revision::EnvironmentType;

#[test]
fn a_gateway_takes_what_is_published_and_then_only_what_differs() {
    let (plane, state) = (Plane::start(), directory());
    plane.publish(1, &document(&["a"]));
    let config = configured(state.path(), &[plane.url()], "token: hunter2hunter2", "", "");
    let gateway = Gateway::with(&config).unwrap();
    gateway.serves(1);
    assert!(gateway.publishes("/a") && !gateway.publishes("/b"));
    let status = gateway.revisions.status();
    assert_eq!(status.root, status.digest);
    assert_eq!(status.root, Some(document(&["a"]).root().to_string()));
    assert_eq!(status.source, Some("control plane"));

    plane.publish(2, &document(&["a", "b"]));
    gateway.serves(2);
    assert!(gateway.publishes("/a") && gateway.publishes("/b"));
    assert_eq!((plane.asked("/v1/blobs/"), plane.asked("/delta/1/2")), (1, 1));

    // A rollback is on disk.
    plane.publish(3, &document(&["a"]));
    gateway.serves(3);
    assert!(!gateway.publishes("/b"));
    assert_eq!((plane.asked("/v1/blobs/"), plane.asked("/delta/")), (1, 1));
    let knows = plane.knows();
    assert!(
        knows
            .tokens
            .iter()
            .all(|token| token.as_deref() == Some("Bearer hunter2hunter2"))
    );
}

#[test]
fn a_delta_that_is_wrong_or_missing_or_too_large_is_made_up_for_by_the_snapshot() {
    let (plane, state) = (Plane::start(), directory());
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    let elsewhere = document(&["a"]).delta(&document(&["z"])).unwrap();
    plane.knows().deltas.insert((1, 2), elsewhere);
    plane.knows().deltas.insert((2, 3), vec![0; 100_000]);
    plane.publish(2, &document(&["a", "b"]));
    gateway.serves(2);
    plane.publish(3, &document(&["a", "c"]));
    gateway.serves(3);
    plane.knows().without_deltas = true;
    plane.publish(4, &document(&["a", "d"]));
    gateway.serves(4);
    assert_eq!(plane.asked("/v1/blobs/"), 4);
    assert!(gateway.publishes("/d") && !gateway.publishes("/z"));
}

#[test]
fn a_busy_control_plane_is_asked_again_when_it_says() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().busy = 2;
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    assert_eq!(plane.asked("/v1/blobs/"), 3);
}

#[test]
fn what_is_refused_is_told_by_its_code_and_what_served_serves_on_until_something_else_is_published() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(9);
    plane.publish(10, &document(&["a"]));
    let config = configured(state.path(), &[plane.url()], "max_routes: 3, max_bytes: 1MiB", "", "");
    let gateway = Gateway::with(&config).unwrap();
    gateway.serves(10);
    let other = document(&["a", "b"]);
    let refused = |seq, code: &str| {
        gateway.refuses(seq, code);
        until("the control plane hears of it", || {
            plane.nack() == Some((seq, code.to_owned()))
        });
        assert_eq!(gateway.seq(), Some(10), "{code}");
        assert!(gateway.publishes("/a") && !gateway.publishes("/b"), "{code}");
    };

    plane.publish_as(11, &other, |manifest| manifest.schema = 2);
    refused(11, "too_new");
    plane.publish_as(12, &other, |manifest| manifest.requires = vec!["magic".into()]);
    refused(12, "unsupported");
    plane.publish_as(13, &other, |manifest| manifest.routes = 4);
    refused(13, "oversized");
    plane.publish_as(14, &other, |manifest| manifest.snapshot.raw_size = 2 << 20);
    refused(14, "oversized");
    plane.publish_as(15, &other, |manifest| manifest.environment = "test".into());
    refused(15, "environment");
    // The root of something else: neither the delta nor the snapshot leads to it.
    plane.publish_as(16, &other, |manifest| manifest.root = ContentHash([7; 32]));
    refused(16, "hash");
    let broken = |manifest: &mut Manifest| manifest.snapshot.sha256 = ContentHash([9; 32]);
    plane.knows().without_deltas = true;
    plane.publish_as(17, &other, broken);
    plane
        .knows()
        .blobs
        .insert(ContentHash([9; 32]).to_string(), vec![0; 99]);
    refused(17, "hash");
    plane.knows().blobs.clear();
    plane.publish_as(18, &other, broken);
    plane.knows().blobs.clear();
    refused(18, "unavailable");
    let mut invalid = other.clone();
    invalid.remove(crate::distribution::Kind::Upstream, "u");
    plane.publish(19, &invalid);
    refused(19, "invalid");
    plane.publish(9, &other);
    refused(9, "replayed");
    let (manifest, _) = Author::manifest(20, &other);
    plane.publish_signed(20, Author::somebody().sign(&manifest));
    refused(0, "unknown_signer");
    let mut forged = plane.author().sign(&manifest);
    forged.signed = forged.signed.replace("prod", "prod ");
    plane.publish_signed(21, forged);
    refused(0, "signature");

    let beats = plane.knows().heartbeats.last().cloned().unwrap();
    let applied = beats.applied.unwrap();
    assert_eq!((applied.seq, applied.root), (10, document(&["a"]).root().to_string()));

    plane.knows().without_deltas = false;
    plane.publish(22, &other);
    gateway.serves(22);
    assert!(gateway.revisions.status().refused.is_none());
    until("the control plane hears that all is well", || {
        let knows = plane.knows();
        let last = knows.heartbeats.last().unwrap();
        last.refused.is_none() && last.applied.as_ref().is_some_and(|applied| applied.seq == 22)
    });
}

#[test]
fn an_environment_of_another_type_is_refused_where_the_configuration_says_one() {
    let (plane, state) = (Plane::start(), directory());
    plane.publish_as(1, &document(&["a"]), |manifest| {
        manifest.environment_type = EnvironmentType::Production;
    });
    let sandbox = "environment_type: sandbox";
    let gateway = Gateway::with(&configured(state.path(), &[plane.url()], "", sandbox, "")).unwrap();
    gateway.refuses(1, "environment");
    assert!(gateway.revisions.current().is_none());
}

#[test]
fn a_refused_revision_is_not_fetched_again_while_it_is_the_newest() {
    let (plane, state) = (Plane::start(), directory());
    let mut invalid = document(&["a"]);
    invalid.remove(crate::distribution::Kind::Upstream, "u");
    plane.publish(1, &invalid);
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.refuses(1, "invalid");
    // It is compiled again, in case the reason was not in it, and the control plane is not asked.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(plane.asked("/v1/blobs/"), 1);
    // Once also by what follows the keys: they begin where the manifest says.
    assert!(plane.asked("/revision") <= 4, "{:?}", plane.knows().asked);
    plane.publish(2, &document(&["a"]));
    gateway.serves(2);
}

#[test]
fn another_address_is_asked_when_the_first_does_not_answer_or_does_not_work() {
    let (plane, state) = (Plane::start(), directory());
    let broken = Plane::start();
    broken.knows().broken = Some(StatusCode::INTERNAL_SERVER_ERROR);
    let gone = Plane::start().url();
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[gone, broken.url(), plane.url()]);
    gateway.serves(1);
    plane.publish(2, &document(&["b"]));
    gateway.serves(2);
    // It stays where it worked.
    assert_eq!(broken.asked("/blobs/"), 0);
}

#[test]
fn a_gateway_starts_without_its_control_plane_from_what_it_served_last() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    plane.publish(2, &document(&["b"]));
    gateway.serves(2);
    gateway.stop();
    let url = plane.url();
    drop(plane);

    let gateway = Gateway::start(state.path(), std::slice::from_ref(&url));
    assert_eq!(gateway.seq(), Some(2), "ready at once");
    assert_eq!(standing(&gateway), Standing::Remembered);
    gateway.stop();

    damage(&state.path().join("revisions"), "2-");
    let gateway = Gateway::start(state.path(), &[url]);
    assert_eq!(gateway.seq(), Some(1), "the one before");
    assert!(gateway.publishes("/a"));
}

fn damage(revisions: &Path, beginning: &str) {
    for entry in std::fs::read_dir(revisions).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with(beginning) {
            let snapshot = path.join("snapshot");
            let mut bytes = std::fs::read(&snapshot).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(&snapshot, bytes).unwrap();
        }
    }
}

#[test]
fn a_revision_that_takes_the_process_down_twice_is_not_taken_a_third_time() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    let start = || Gateway::start(state.path(), &[plane.url()]);
    plane.publish(1, &document(&["a"]));
    let gateway = start();
    gateway.serves(1);
    gateway.stop();
    let gateway = start();
    plane.publish(2, &document(&["b"]));
    gateway.serves(2);
    until("it is on disk", || {
        state.path().join("revisions").read_dir().unwrap().count() == 2
    });
    drop(gateway);
    let gateway = start();
    assert_eq!(gateway.seq(), Some(2), "once is no reason");
    drop(gateway);

    let gateway = start();
    assert_eq!(gateway.seq(), Some(1), "the one before");
    gateway.refuses(2, "crash");
    until("the control plane hears of it", || {
        plane.nack() == Some((2, "crash".to_owned()))
    });
    assert_eq!(gateway.seq(), Some(1));
    plane.publish(3, &document(&["c"]));
    gateway.serves(3);
}

#[test]
fn a_revision_that_takes_the_process_down_is_taken_again_if_there_is_nothing_else() {
    let (plane, state) = (Plane::start(), directory());
    let revisions = state.path().join("revisions");
    plane.publish(1, &document(&["a"]));
    let start = || Gateway::start(state.path(), &[plane.url()]);
    let gateway = start();
    gateway.serves(1);
    until("it is on disk", || {
        revisions.read_dir().unwrap().count() == 1 && state.path().join("current").exists()
    });
    drop(gateway);
    let gateway = start();
    assert_eq!(gateway.seq(), Some(1));
    drop(gateway);
    let gateway = start();
    assert_eq!(gateway.seq(), Some(1), "a third time, from disk");
    drop(gateway);
    std::fs::remove_dir_all(&revisions).unwrap();
    let gateway = start();
    assert_eq!(gateway.seq(), None);
    gateway.serves(1);
}

#[test]
fn a_number_that_is_another_revision_now_is_refused_and_not_asked_for_without_pause() {
    let (plane, state) = (Plane::start(), directory());
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    // Whoever answers has another number in his address, and never waits.
    let (manifest, _) = Author::manifest(1, &document(&["b"]));
    plane.publish_signed(2, plane.author().sign(&manifest));
    gateway.refuses(1, "replayed");
    let before = plane.asked("/revision");
    std::thread::sleep(Duration::from_secs(1));
    let asked = plane.asked("/revision") - before;
    assert!(asked <= 30, "{asked} times in a second");
    assert!(gateway.publishes("/a") && !gateway.publishes("/b"));
    plane.publish(3, &document(&["c"]));
    gateway.serves(3);
}

#[test]
fn what_is_older_than_what_runs_is_refused_also_when_the_newest_number_was_lost() {
    let (plane, state) = (Plane::start(), directory());
    plane.publish(5, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(5);
    gateway.stop();
    plane.publish(4, &document(&["b"]));
    for damage in [true, false] {
        let seen = state.path().join("seen");
        if damage {
            std::fs::write(&seen, "five").unwrap();
        } else {
            std::fs::remove_file(&seen).unwrap();
        }
        let gateway = Gateway::start(state.path(), &[plane.url()]);
        gateway.refuses(4, "replayed");
        assert_eq!(gateway.seq(), Some(5));
        gateway.stop();
    }
}

#[test]
fn the_files_objects_win_and_a_change_of_the_file_does_not_undo_the_control_planes() {
    let (plane, state) = (Plane::start(), directory());
    let file = state.path().join("local.yaml");
    let own = |path: &str| format!("version: 1\napis: [{{ name: own, base_path: {path}, auth: none, upstream: u }}]\n");
    std::fs::write(&file, own("/mine")).unwrap();
    let revision = format!("file: {:?}\n  skip_list: {{ apis: [b] }}", file.display().to_string());
    plane.publish(1, &document(&["a", "b", "own"]));
    let config = configured(&state.path().join("state"), &[plane.url()], "", "", &revision);
    let gateway = Gateway::with(&config).unwrap();
    gateway.serves(1);
    assert!(gateway.publishes("/a") && gateway.publishes("/mine"));
    assert!(!gateway.publishes("/b") && !gateway.publishes("/own"));
    assert_eq!(gateway.revisions.local(), ["api/own"]);

    std::fs::write(&file, own("/yours")).unwrap();
    gateway.revisions.apply_file(&file, 2).unwrap();
    assert!(gateway.publishes("/a") && gateway.publishes("/yours") && !gateway.publishes("/mine"));
    plane.publish(2, &document(&["c"]));
    gateway.serves(2);
    assert!(gateway.publishes("/c") && gateway.publishes("/yours") && !gateway.publishes("/a"));
    std::fs::write(&file, own("no path")).unwrap();
    assert!(gateway.revisions.apply_file(&file, 3).is_err());
    assert!(gateway.publishes("/c") && gateway.publishes("/yours"));
}

#[test]
fn a_directory_stands_in_for_a_control_plane() {
    let (plane, state, export) = (Plane::start(), directory(), directory());
    let publish = |seq, apis: &[&str]| {
        let (mut manifest, bytes) = Author::manifest(seq, &document(apis));
        manifest.wait_s = 1;
        let place = |path: &str| {
            let path = export.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        std::fs::write(place(&format!("v1/blobs/{}", manifest.snapshot.sha256)), bytes).unwrap();
        let keys = serde_json::json!({ "keys": [plane.author().public().to_string()] });
        std::fs::write(place("v1/signing-keys"), keys.to_string()).unwrap();
        let signed = serde_json::to_vec(&plane.author().sign(&manifest)).unwrap();
        std::fs::write(place("v1/environments/prod/revision"), signed).unwrap();
    };
    publish(1, &["a"]);
    let gateway = Gateway::start(state.path(), &[format!("file://{}", export.path().display())]);
    assert_eq!(standing(&gateway), Standing::NotNeeded);
    gateway.serves(1);
    publish(2, &["b"]);
    gateway.serves(2);
    assert!(gateway.publishes("/b"));
}

#[test]
fn the_keys_of_the_first_contact_are_trusted_and_no_others_later() {
    let (plane, state) = (Plane::start(), directory());
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    gateway.stop();
    let impostor = Plane::start();
    impostor.publish(2, &document(&["b"]));
    let gateway = Gateway::start(state.path(), &[impostor.url()]);
    gateway.refuses(0, "unknown_signer");
    assert_eq!(gateway.seq(), Some(1));
    gateway.stop();
    let known = format!("public_keys: [\"{}\"]", impostor.author().public());
    let gateway = Gateway::with(&configured(state.path(), &[impostor.url()], &known, "", "")).unwrap();
    gateway.serves(2);
}
