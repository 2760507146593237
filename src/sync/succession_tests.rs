//! Two processes of one gateway, one after the other, with a control plane.

use std::collections::BTreeMap;
use std::path::Path;

use http::StatusCode;

use super::remote::OpenError;
use super::seat::Standing;
use super::testing::{Gateway, Plane, configured, directory, document, standing, until};
use crate::config::Config;
use crate::distribution::protocol::Register;

fn config(state: &Path, plane: &Plane) -> Config {
    configured(state, &[plane.url()], "", "", "")
}

/// Hands over to the successor, which begins.
fn take_over(old: &Gateway, new: &Gateway) {
    old.hand_over().unwrap();
    new.go();
}

/// Everything in the state directory but what the lending itself leaves there.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if !path.ends_with("predecessor.json") {
            files.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    files
}

fn seated(plane: &Plane) -> Vec<Register> {
    plane.knows().seated.values().cloned().collect()
}

#[test]
fn three_upgrades_in_a_full_pool_keep_the_seat_and_the_revision() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let config = config(state.path(), &plane);
    let mut old = Gateway::with(&config).unwrap();
    old.serves(1);
    let id = seated(&plane)[0].instance_id.clone();
    for upgrade in 1..=3 {
        until("the old one has its seat", || standing(&old) == Standing::Seated);
        let (asked, beats) = (plane.asked("POST /v1/pools/"), plane.knows().heartbeats.len());
        let new = old.successor(&config).unwrap();
        assert_eq!((new.seq(), standing(&new)), (Some(upgrade), Standing::Remembered));
        assert_eq!(plane.asked("POST /v1/pools/"), asked, "it asks nobody");

        take_over(&old, &new);
        until("the new one is registered, and beats", || {
            standing(&new) == Standing::Seated && plane.knows().heartbeats.len() > beats
        });
        assert_eq!(old.stop(), None);
        assert!(
            plane.knows().heartbeats.iter().all(|beat| !beat.draining),
            "nobody leaves"
        );
        assert_eq!(plane.asked("DELETE"), 0);
        let seated = seated(&plane);
        assert_eq!((seated.len(), &seated[0].instance_id), (1, &id));
        assert!(seated[0].seat.is_some());

        plane.publish(upgrade + 1, &document(&["a", &format!("b{upgrade}")]));
        new.serves(upgrade + 1);
        old = new;
    }
    assert_eq!(old.stop(), None);
    assert_eq!(plane.knows().held.len(), 1, "only the last one gives up the seat");
}

#[test]
fn upgrades_need_no_control_plane() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let config = config(state.path(), &plane);
    let mut old = Gateway::with(&config).unwrap();
    old.serves(1);
    drop(plane);
    for _ in 0..3 {
        let new = old.successor(&config).unwrap();
        assert_eq!((new.seq(), standing(&new)), (Some(1), Standing::Remembered));
        take_over(&old, &new);
        assert!(new.publishes("/a"));
        assert_eq!(old.stop(), None);
        old = new;
    }
}

#[test]
fn what_never_had_a_seat_and_what_has_lost_it_serves_on_as_before() {
    let (plane, state) = (Plane::start(), directory());
    plane.publish(1, &document(&["a"]));
    let config = config(state.path(), &plane);
    let old = Gateway::with(&config).unwrap();
    old.serves(1);
    assert_eq!(standing(&old), Standing::NotNeeded);
    let new = old.successor(&config).unwrap();
    assert_eq!((new.seq(), standing(&new)), (Some(1), Standing::NotNeeded));
    take_over(&old, &new);
    old.stop();
    new.stop();

    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let config = self::config(state.path(), &plane);
    let old = Gateway::with(&config).unwrap();
    old.serves(1);
    {
        let mut knows = plane.knows();
        let other = knows.seated.pop_first().unwrap().1;
        knows.seated.insert("another".into(), other);
    }
    plane.publish(2, &document(&["a", "b"]));
    until("it knows", || standing(&old) == Standing::OverLimit);
    old.serves(2);
    let new = old.successor(&config).unwrap();
    assert_eq!((new.seq(), standing(&new)), (Some(2), Standing::OverLimit));
    take_over(&old, &new);
    old.stop();
    plane.publish(3, &document(&["c"]));
    new.serves(3);
    assert_eq!(standing(&new), Standing::OverLimit);
    plane.knows().seated.clear();
    until("it has a seat again", || standing(&new) == Standing::Seated);
}

#[test]
fn a_successor_that_fails_leaves_no_trace() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let config = config(state.path(), &plane);
    let old = Gateway::with(&config).unwrap();
    old.serves(1);
    until("it has its seat", || standing(&old) == Standing::Seated);
    until("everything is on disk", || state.path().join("current").exists());
    let before = files(state.path());
    for _ in 0..3 {
        let new = old.successor(&config).unwrap();
        assert!(new.publishes("/a"));
        drop(new);
    }
    assert_eq!(files(state.path()), before);
    plane.publish(2, &document(&["a", "b"]));
    old.serves(2);
    assert_eq!(old.stop(), None);
    assert_eq!(plane.knows().held.len(), 1);
}

#[test]
fn who_has_handed_over_in_vain_takes_everything_back() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let config = config(state.path(), &plane);
    let old = Gateway::with(&config).unwrap();
    old.serves(1);
    let new = old.successor(&config).unwrap();
    old.hand_over().unwrap();
    let beats = plane.knows().heartbeats.len();
    plane.publish(2, &document(&["a", "b"]));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(
        (old.seq(), plane.knows().heartbeats.len()),
        (Some(1), beats),
        "it is quiet"
    );

    drop(new);
    old.remote.as_ref().unwrap().take_back();
    old.serves(2);
    until("it beats", || plane.knows().heartbeats.len() > beats);
    until("and writes", || {
        let names = state.path().join("revisions").read_dir().unwrap();
        names
            .into_iter()
            .any(|name| name.unwrap().file_name().to_string_lossy().starts_with("2-"))
    });
    assert_eq!(old.stop(), None);
    assert_eq!(plane.knows().held.len(), 1);
}

#[test]
fn what_came_while_the_new_one_was_getting_ready_is_found_on_disk() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let config = config(state.path(), &plane);
    let old = Gateway::with(&config).unwrap();
    old.serves(1);
    let new = old.successor(&config).unwrap();
    plane.publish(2, &document(&["a", "b"]));
    old.serves(2);
    until("it is kept", || {
        std::fs::read_to_string(state.path().join("current")).is_ok_and(|name| name.starts_with("2-"))
    });
    assert_eq!(new.seq(), Some(1));
    plane.knows().broken = Some(StatusCode::SERVICE_UNAVAILABLE);
    take_over(&old, &new);
    new.serves(2);
    old.stop();
}

#[test]
fn an_upgrade_that_would_change_who_the_gateway_is_is_refused() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let old = Gateway::with(&config(state.path(), &plane)).unwrap();
    old.serves(1);
    let refused = |config: &Config| match old.successor(config).err() {
        Some(OpenError::Machine(message)) => message,
        other => panic!("{other:?}"),
    };
    let message = refused(&configured(state.path(), &[plane.url()], "", "pool: edge", ""));
    assert!(message.contains("gateway.pool is \"edge\" now"), "{message}");
    let elsewhere = directory();
    std::fs::write(elsewhere.path().join("lock"), "").unwrap();
    let message = refused(&config(elsewhere.path(), &plane));
    assert!(message.contains("state in another directory"), "{message}");
    let message = refused(&config(&elsewhere.path().join("none"), &plane));
    assert!(message.contains("state in another directory"), "{message}");
    assert_eq!(old.seq(), Some(1));
}
