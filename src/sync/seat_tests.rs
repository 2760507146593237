//! A gateway and its seat, over HTTP.

use std::time::Duration;

use super::remote::OpenError;
use super::seat::Standing;
use super::testing::{Gateway, Plane, configured, directory, document, standing, until};
use crate::distribution::protocol::Command;

#[test]
fn a_seat_that_is_too_old_and_no_seat_at_all_do_not_let_a_gateway_start_alone() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    gateway.stop();
    let url = plane.url();
    drop(plane);
    std::thread::sleep(Duration::from_millis(20));
    let urls = [url];
    let start = |more: &str| Gateway::with(&configured(state.path(), &urls, more, "", "")).unwrap();

    let gateway = start("offline_grace: 1ms");
    assert_eq!((gateway.seq(), standing(&gateway)), (None, Standing::Unknown));
    gateway.stop();
    let gateway = start("offline_grace: 1ms, allow_offline_join: true");
    assert_eq!((gateway.seq(), standing(&gateway)), (Some(1), Standing::Offline));
    gateway.stop();

    let fresh = directory();
    let gateway = Gateway::start(fresh.path(), &urls);
    assert_eq!((gateway.seq(), standing(&gateway)), (None, Standing::Unknown));
}

#[test]
fn a_full_pool_refuses_a_new_gateway_and_a_restarted_one_keeps_its_seat() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let first = Gateway::start(state.path(), &[plane.url()]);
    first.serves(1);

    let second = directory();
    let config = |more: &str| configured(second.path(), &[plane.url()], more, "", "");
    let error = Gateway::with(&config("")).err().unwrap();
    let OpenError::PoolFull(message) = error else {
        panic!("{error}")
    };
    assert!(message.contains("this gateway has no seat: the pool is full: 1 of 1 are taken"));

    let waiting = Gateway::with(&config("on_pool_full: wait")).unwrap();
    assert_eq!((waiting.seq(), standing(&waiting)), (None, Standing::Full));
    first.stop();
    let first = Gateway::start(state.path(), &[plane.url()]);
    assert_eq!((first.seq(), standing(&first)), (Some(1), Standing::Seated));
    assert!(waiting.seq().is_none());

    // The first is told to leave, its seat becomes free, and who waited serves.
    plane.knows().reply.commands = vec![Command::Drain];
    plane.publish(2, &document(&["a", "b"]));
    until("the first one leaves", || first.drain.is_begun());
    plane.knows().reply.commands.clear();
    assert_eq!(first.stop(), None);
    waiting.serves(2);
    assert_eq!(standing(&waiting), Standing::Seated);
}

#[test]
fn a_gateway_that_serves_and_has_lost_its_seat_to_others_serves_on_and_takes_the_next_one_that_is_free() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    {
        let mut knows = plane.knows();
        let other = knows.seated.pop_first().unwrap().1;
        knows.seated.insert("another".into(), other);
    }
    plane.publish(2, &document(&["a", "b"]));
    until("it knows", || standing(&gateway) == Standing::OverLimit);
    gateway.serves(2);
    plane.publish(3, &document(&["c"]));
    gateway.serves(3);
    assert!(!gateway.drain.is_begun());
    plane.knows().seated.clear();
    until("it has a seat again", || standing(&gateway) == Standing::Seated);
    assert_eq!(gateway.stop(), None);
}

#[test]
fn a_gateway_that_starts_with_a_seat_that_others_have_taken_does_not_serve() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    gateway.stop();
    {
        let mut knows = plane.knows();
        let other = knows.seated.pop_first().unwrap().1;
        knows.seated.insert("another".into(), other);
    }
    let error = Gateway::with(&configured(state.path(), &[plane.url()], "", "", ""))
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("with control_plane: { on_pool_full: wait }"),
        "{error}"
    );
}

#[test]
fn a_control_plane_that_forgets_every_seat_is_not_asked_without_pause() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.knows().forgetful = true;
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    until("it has registered again", || plane.asked("POST /v1/pools/") >= 2);
    std::thread::sleep(Duration::from_secs(1));
    let asked = plane.asked("POST /v1/pools/");
    assert!(asked <= 20, "{asked} times");
    assert_eq!(standing(&gateway), Standing::Seated);
}

#[test]
fn a_control_plane_that_has_forgotten_a_seat_is_shown_it() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    plane.knows().seated.clear();
    plane.publish(2, &document(&["a", "b"]));
    until("it registers again", || {
        let knows = plane.knows();
        let seated = knows.seated.values().next();
        seated.is_some_and(|register| register.seat == Some(format!("seat of {}", register.instance_id)))
    });
    drop(gateway);
}

#[test]
fn a_gateway_that_is_stopped_says_good_bye_and_gives_up_its_seat_which_its_next_start_finds() {
    let (plane, state) = (Plane::start(), directory());
    plane.knows().seats = Some(1);
    plane.publish(1, &document(&["a"]));
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    gateway.serves(1);
    assert_eq!(gateway.stop(), None);
    let knows = plane.knows();
    assert!(knows.heartbeats.last().unwrap().draining);
    assert_eq!((knows.seated.len(), knows.held.len()), (1, 1));
    drop(knows);
    let gateway = Gateway::start(state.path(), &[plane.url()]);
    assert_eq!((gateway.seq(), standing(&gateway)), (Some(1), Standing::Seated));
    assert!(plane.knows().held.is_empty());
    gateway.stop();

    // A seat that was given up lets it start all the same while nobody can be asked.
    let url = plane.url();
    drop(plane);
    let gateway = Gateway::start(state.path(), &[url]);
    assert_eq!((gateway.seq(), standing(&gateway)), (Some(1), Standing::Remembered));
}
