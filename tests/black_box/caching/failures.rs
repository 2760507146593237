//! What clients notice of a cache when something around it fails: nothing but what is fetched anew.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::admin::{admin_section, order};
use super::shared::{HOST, Pair, from_redis, open, sharing, until_current};
use super::*;

/// A service whose answers say what they are for and which fetch they are.
pub(super) fn telling(fields: &'static str) -> Origin {
    service(move |request, nth| fresh(600, fields).with_body(&format!("{} {nth}", request.target)))
}

/// Asks through a gateway; the answer has to be one for this target.
#[track_caller]
pub(super) fn ask(gateway: &Gateway, target: &str) -> usize {
    let answer = gateway.client().get(target).host(HOST).send().expect(200).text();
    let (told, nth) = answer.split_once(' ').expect("what it is for");
    assert_eq!(told, target);
    nth.parse().expect("the number of a fetch")
}

/// Asks again and again for what is kept and what is new, with some clients at a time, as long as the story goes on. All
/// answers have to be right.
fn under_load(gateway: &Gateway, story: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..3)
            .map(|client| {
                let over = &over;
                scope.spawn(move || {
                    let mut asked = 0;
                    while !over.load(Ordering::SeqCst) {
                        asked += 1;
                        ask(gateway, &format!("/load/{}", asked % 7));
                        ask(gateway, &format!("/load/{client}/{asked}"));
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    asked
                })
            })
            .collect();
        // Also when the story fails: whoever asks has to come to an end.
        let story = std::panic::catch_unwind(std::panic::AssertUnwindSafe(story));
        over.store(true, Ordering::SeqCst);
        for asked in asking {
            assert!(asked.join().expect("right answers") > 0);
        }
        story.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
}

#[test]
fn whatever_becomes_of_redis_memory_gives_what_it_has_and_the_origin_the_rest() {
    let origin = telling("");
    let revision = open(&origin, "{}");
    let pair = Pair::trusting_for("250ms", origin, &revision, "lease: 500ms");
    pair.shares();
    let gateway = &pair.gateways[0];
    let mut story = 0;
    let mut without = |what: &str, go: &dyn Fn(), come_back: &dyn Fn()| {
        story += 1;
        let kept: Vec<_> = (0..10).map(|nth| format!("/kept/{story}/{nth}")).collect();
        for target in &kept {
            assert_eq!(ask(gateway, target), 1, "{what}");
        }
        under_load(gateway, || {
            go();
            // More than once: before the gateway has noticed, and after.
            for round in 0..5 {
                for target in &kept {
                    assert_eq!(ask(gateway, target), 1, "{what}: it is in memory");
                }
                let new = format!("/new/{story}/{round}");
                assert_eq!([ask(gateway, &new), ask(gateway, &new)], [1, 1], "{what}");
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            come_back();
        });
        for target in &kept {
            assert!(ask(gateway, target) <= 2, "{what}: fetched anew once at most");
        }
        pair.gateways.iter().for_each(until_current);
    };
    without("stopped", &|| pair.redis.stop(), &|| pair.redis.resume());
    without("killed", &|| pair.redis.kill(), &|| pair.redis.restart());
    // What was told meanwhile is gone with what was there: from then on all of it counts as invalid.
    let gaps = || gateway.metric("tollgate_cache_shared_gaps_total");
    until("the gateway has noticed", || gaps() >= 1.0);
    let before = gaps();
    under_load(gateway, || {
        pair.redis.flush();
        until("the gateway has noticed", || gaps() > before);
    });
    pair.shares();
}

#[test]
fn what_is_forgotten_while_redis_is_away_is_told_when_it_is_back() {
    let origin = telling("Surrogate-Key: news\r\n");
    let revision = open(&origin, "{}");
    let pair = Pair::with(origin, &revision, "");
    let [here, there] = &pair.gateways;
    let before = [ask(here, "/a"), ask(there, "/a")];
    assert_eq!([ask(here, "/a"), ask(there, "/a")], before);
    pair.redis.stop();
    until("the gateway has noticed", || {
        order(here, "GET", "/admin/cache", None).expect(200).json()["spread"][0]["is_current"] == false
    });
    let body = json!({ "tags": ["news"] });
    let told = order(here, "POST", "/admin/cache/invalidate", Some(body))
        .expect(200)
        .json();
    assert_eq!(told["late"], json!(["redis"]), "{told}");
    assert!(told["hint"].as_str().unwrap().contains("as soon as"), "{told}");
    assert_ne!(ask(here, "/a"), before[0], "it is forgotten here at once");
    pair.redis.resume();
    until("the other one has heard of it", || ask(there, "/a") != before[1]);
}

#[test]
fn a_gateway_that_leaves_right_after_an_order_tells_it_to_the_others_before() {
    let origin = telling("Surrogate-Key: news\r\n");
    let revision = open(&origin, "{}");
    let pair = Pair::with(origin, &revision, "");
    let [here, there] = &pair.gateways;
    let before = ask(there, "/a");
    assert_eq!(ask(there, "/a"), before);
    let body = json!({ "tags": ["news"] });
    order(here, "POST", "/admin/cache/invalidate", Some(body)).expect(200);
    here.terminate();
    until("the other one has heard of it", || ask(there, "/a") != before);
    assert!(here.wait().success());

    // With nobody there to tell, it leaves all the same.
    pair.redis.stop();
    order(there, "POST", "/admin/cache/invalidate/all", None).expect(200);
    there.terminate();
    assert!(there.wait().success());
}

#[test]
fn a_gateway_hands_over_while_it_keeps_answers_and_the_next_process_finds_them_in_redis() {
    let redis = RedisServer::start();
    let origin = service(|request, nth| {
        let tag = request.target.split('/').nth(1).unwrap_or_default().to_owned();
        fresh(600, &format!("Surrogate-Key: {tag}\r\n")).with_body(&format!("{} {nth}", request.target))
    });
    let setup = Gateway::with(open(&origin, "{}")).section(&admin_section());
    let gateway = setup.section(&sharing(&redis.url(), "")).upgradable().start();
    // What is asked for in the first seconds counts as older than the stream of invalidations.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let kept: Vec<_> = (0..50).map(|nth| format!("/kept/{nth}")).collect();
    for target in kept.iter().map(String::as_str).chain(["/old/1"]) {
        assert_eq!([ask(&gateway, target), ask(&gateway, target)], [1, 1]);
    }
    let old = json!({ "tags": ["old"] });
    order(&gateway, "POST", "/admin/cache/invalidate", Some(old)).expect(200);
    let series = "tollgate_cache_shared_invalidations_sent_total";
    until("it is told", || gateway.metric(series) >= 1.0);
    under_load(&gateway, || {
        gateway.upgrade();
        gateway.first_has_ended();
        let mut kept = kept.iter();
        until("an answer of the first process is given by the next one", || {
            let target = kept.next().expect("one more to try");
            std::thread::sleep(std::time::Duration::from_millis(100));
            ask(&gateway, target) == 1
        });
        assert_eq!(ask(&gateway, "/old/1"), 2, "what was forgotten does not come back");
    });
    assert!(from_redis(&gateway) > 0.0);
}

#[test]
fn a_gateway_hands_over_and_leaves_while_answers_are_fetched_anew_in_the_background() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = service(move |request, nth| {
        if nth > 1 && request.target.starts_with("/stale") {
            held.pass();
        }
        let fields = match request.target.starts_with("/stale") {
            true => "Age: 600\r\n",
            false => "",
        };
        fresh(600, fields).with_body(&format!("{} {nth}", request.target))
    });
    let revision = open(&origin, "{ stale_while_revalidate: 1h }");
    let gateway = Gateway::with(&revision).upgradable().start();
    let stale: Vec<_> = (0..10).map(|nth| format!("/stale/{nth}")).collect();
    for target in &stale {
        assert_eq!([ask(&gateway, target), ask(&gateway, target)], [1, 1]);
    }
    until("they are being fetched anew", || origin.requests() == 20);
    under_load(&gateway, || {
        gateway.upgrade();
        gate.open();
        gateway.first_has_ended();
        for target in &stale {
            ask(&gateway, target);
        }
    });

    let gate = Gate::closed();
    let held = gate.clone();
    let origin = service(move |request, nth| {
        if nth > 1 {
            held.pass();
        }
        fresh(600, "Age: 600\r\n").with_body(&format!("{} {nth}", request.target))
    });
    let gateway = Gateway::with(open(&origin, "{ stale_while_revalidate: 1h }")).start();
    assert_eq!([ask(&gateway, "/a"), ask(&gateway, "/a")], [1, 1]);
    until("it is being fetched anew", || origin.requests() == 2);
    gateway.terminate();
    gate.open();
    assert!(gateway.wait().success());
}

#[test]
fn without_its_control_plane_a_gateway_forgets_what_it_is_told_to_and_says_who_has_not_heard_of_it() {
    let origin = telling("Surrogate-Key: news\r\n");
    let mut control_plane = ControlPlane::start();
    control_plane.publish("Default", open(&origin, "{}"));
    let gateways = [(); 2].map(|()| control_plane.gateway().section(&admin_section()).start());
    for gateway in &gateways {
        until("the gateway has its revision", || {
            gateway.client().get("/ready").send().status == 200
        });
        until_current(gateway);
    }
    let [here, there] = &gateways;
    let before = [ask(here, "/a"), ask(there, "/a")];
    assert_eq!([ask(here, "/a"), ask(there, "/a")], before);
    control_plane.kill();
    until("the gateway has noticed", || {
        order(here, "GET", "/admin/cache", None).expect(200).json()["spread"][0]["is_current"] == false
    });
    let body = json!({ "tags": ["news"] });
    let told = order(here, "POST", "/admin/cache/invalidate", Some(body))
        .expect(200)
        .json();
    assert_eq!(
        (&told["spread"], &told["late"]),
        (&json!("control_plane"), &json!(["control_plane"])),
        "{told}"
    );
    assert!(told["hint"].as_str().unwrap().contains("ask each of them"), "{told}");
    assert_ne!(ask(here, "/a"), before[0]);
    assert_eq!(ask(there, "/a"), before[1], "nobody has told this one");
    control_plane.restart();
    until("the other one has heard of it", || ask(there, "/a") != before[1]);
}
