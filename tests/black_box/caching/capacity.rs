//! A cache that is smaller than what is asked for.

use super::*;

/// So many different answers are asked for: several times what there is room for.
const COLD: usize = 5_000;

/// The smallest cache there is, in front of a service whose answers are about a kilobyte and say what they are for.
fn smallest() -> Scene {
    let origin = service(|request, nth| fresh(600, "").with_body(&body(&request.target, nth)));
    Scene::serving(origin, |setup| setup.section("cache: { memory: 1MiB }"), "cache: {}")
}

fn body(target: &str, nth: usize) -> String {
    format!("{target} {nth} {}", sha256_hex(target).repeat(16))
}

/// Asks on a connection of its own after the other; the answer has to be this fetch of this target, or an earlier one.
#[track_caller]
fn ask(scene: &Scene, target: &str) -> usize {
    let answer = scene.get(target).send().expect(200).text();
    let nth = answer
        .split(' ')
        .nth(1)
        .and_then(|nth| nth.parse().ok())
        .expect("the number of a fetch");
    assert_eq!(answer, body(target, nth));
    nth
}

/// Asks for each of the cold ones once, with four clients at a time, and does something else in between now and then.
fn scan(scene: &Scene, round: usize, in_between: impl Fn() + Sync) {
    const CLIENTS: usize = 4;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let in_between = &in_between;
            scope.spawn(move || {
                for number in (client..COLD).step_by(CLIENTS) {
                    assert!(ask(scene, &format!("/cold/{number}")) <= round);
                    if client == 0 && number % 25 == 0 {
                        in_between();
                    }
                }
            });
        }
    });
}

#[test]
fn what_there_is_no_room_for_is_fetched_again_and_all_answers_are_right() {
    let scene = smallest();
    let metric = |name: &str| scene.gateway.metric(&format!("tollgate_cache_{name}"));
    for round in 1..=2 {
        scan(&scene, round, || {
            assert!(metric("bytes") <= 1_048_576.0, "{}", metric("bytes"));
        });
    }
    let (entries, bytes) = (metric("entries"), metric("bytes"));
    assert!(
        entries > 50.0 && entries < 1024.0,
        "{entries} answers of a kilobyte in 1 MiB"
    );
    assert!(
        bytes > entries * 1024.0 && bytes <= 1_048_576.0,
        "{bytes} for {entries}"
    );
    assert_eq!(metric("budget_bytes"), 1_048_576.0);
    let evicted = metric("evictions_total");
    assert!(evicted > 3_000.0, "{evicted} made room");
}

#[test]
fn what_is_asked_for_often_survives_a_scan_of_what_is_asked_for_once() {
    let scene = smallest();
    for _ in 0..50 {
        assert_eq!(ask(&scene, "/hot"), 1);
    }
    scan(&scene, 1, || {
        ask(&scene, "/hot");
    });
    assert_eq!(ask(&scene, "/hot"), 1, "it was fetched once");
    assert!(scene.gateway.metric("tollgate_cache_evictions_total") > 3_000.0);
    let answer = scene.get("/hot").send();
    assert!(status_of(&answer).contains("; hit"), "{}", status_of(&answer));
}
