//! Stale answers: while they are fetched anew, and when the origin fails (RFC 5861, RFC 9111 section 4.2.4).

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const GOOD: usize = 200;
const CUT: usize = 0;

/// Something stale is kept; then the origin behaves like this: a status, or [`CUT`].
fn behaving(fields: &'static str, policy: &str) -> (Scene, Arc<AtomicUsize>) {
    let mood = Arc::new(AtomicUsize::new(GOOD));
    let told = Arc::clone(&mood);
    let count = AtomicUsize::new(0);
    let origin = Origin::start(move |exchange: &mut Exchange| {
        exchange.read_body()?;
        let nth = count.fetch_add(1, Ordering::SeqCst) + 1;
        match told.load(Ordering::SeqCst) {
            CUT => {
                exchange.reset();
                Ok(())
            }
            status => exchange.respond(
                u16::try_from(status).expect("a status"),
                fields,
                nth.to_string().as_bytes(),
            ),
        }
    });
    let scene = Scene::serving(origin, |setup| setup, &format!("cache: {policy}"));
    (scene, mood)
}

#[test]
fn a_stale_answer_is_given_while_it_is_fetched_anew() {
    let (scene, _) = behaving(
        "Cache-Control: max-age=60, stale-while-revalidate=600\r\nAge: 90\r\n",
        "{}",
    );
    assert_eq!(scene.nth(scene.get("/a")), 1);
    let stale = scene.get("/a").send().expect(200);
    assert_eq!(stale.text(), "1");
    assert!(status_of(&stale).contains("hit; ttl=-"), "{}", status_of(&stale));
    until("it was fetched anew", || scene.nth(scene.get("/a")) > 1);
    assert!(
        scene
            .gateway
            .metric("tollgate_cache_refreshes_total{result=\"done\",why=\"stale\"}")
            >= 1.0
    );
}

#[test]
fn a_policy_may_allow_that_where_the_origin_says_nothing() {
    let (scene, _) = behaving(
        "Cache-Control: max-age=60\r\nAge: 90\r\n",
        "{ stale_while_revalidate: 600s }",
    );
    assert_eq!(scene.nth(scene.get("/a")), 1);
    assert_eq!(scene.nth(scene.get("/a")), 1);
    until("it was fetched anew", || scene.nth(scene.get("/a")) > 1);
}

#[test]
fn a_stale_answer_is_given_when_the_origin_fails_and_that_is_allowed() {
    for failure in [CUT, 500, 502, 503, 504] {
        let (scene, mood) = behaving("Cache-Control: max-age=60, stale-if-error=600\r\nAge: 90\r\n", "{}");
        assert_eq!(scene.nth(scene.get("/a")), 1);
        mood.store(failure, Ordering::SeqCst);
        let answer = scene.get("/a").send().expect(200);
        assert_eq!(answer.text(), "1", "{failure}");
        assert!(answer.header("age").is_some());
        mood.store(GOOD, Ordering::SeqCst);
        until("it is fetched anew", || scene.nth(scene.get("/a")) > 1);
    }
}

#[test]
fn what_is_not_a_failure_is_given_as_it_is() {
    let (scene, mood) = behaving("Cache-Control: max-age=60, stale-if-error=600\r\nAge: 90\r\n", "{}");
    assert_eq!(scene.nth(scene.get("/a")), 1);
    mood.store(404, Ordering::SeqCst);
    scene.get("/a").send().expect(404);
}

#[test]
fn no_stale_answer_is_given_where_the_origin_forbids_it_or_nobody_allows_it() {
    for (fields, policy) in [
        (
            "Cache-Control: max-age=60, must-revalidate\r\nAge: 90\r\nETag: \"a\"\r\n",
            "{ stale_if_error: 600s, stale_while_revalidate: 600s }",
        ),
        (
            "Cache-Control: max-age=60, proxy-revalidate, stale-if-error=600\r\nAge: 90\r\nETag: \"a\"\r\n",
            "{}",
        ),
        (
            "Cache-Control: s-maxage=60, stale-if-error=600\r\nAge: 90\r\nETag: \"a\"\r\n",
            "{}",
        ),
        (
            "Cache-Control: no-cache, stale-if-error=600\r\nETag: \"a\"\r\n",
            "{ stale_if_error: 600s }",
        ),
        ("Cache-Control: max-age=60\r\nAge: 90\r\nETag: \"a\"\r\n", "{}"),
        (
            "Cache-Control: max-age=60, stale-if-error=10\r\nAge: 90\r\nETag: \"a\"\r\n",
            "{}",
        ),
    ] {
        let (scene, mood) = behaving(fields, policy);
        assert_eq!(scene.nth(scene.get("/a")), 1);
        mood.store(CUT, Ordering::SeqCst);
        scene.get("/a").send().expect(502);
        mood.store(503, Ordering::SeqCst);
        scene.get("/a").send().expect(503);
    }
}

#[test]
fn who_wants_it_validated_is_not_given_a_stale_answer() {
    let (scene, mood) = behaving(
        "Cache-Control: max-age=60, stale-if-error=600, stale-while-revalidate=600\r\n",
        "{}",
    );
    assert_eq!(scene.nth(scene.get("/a")), 1);
    assert_eq!(scene.nth(scene.get("/a").header("Cache-Control", "no-cache")), 2);
    mood.store(CUT, Ordering::SeqCst);
    scene.get("/a").header("Cache-Control", "no-cache").send().expect(502);
    assert_eq!(scene.nth(scene.get("/a")), 2);
}

#[test]
fn what_is_asked_for_often_is_fetched_anew_before_it_ends() {
    let policy = "{ ttl: 20s, max_ttl: 20s, jitter: 0%, refresh_ahead: 50% }";
    let scene = Scene::with(policy, |_, _| reply(200, ""));
    assert_eq!(scene.nth(scene.get("/a")), 1);
    until("it was fetched anew", || scene.nth(scene.get("/a")) == 2);
    assert!(
        scene
            .gateway
            .metric("tollgate_cache_refreshes_total{result=\"done\",why=\"ahead\"}")
            >= 1.0
    );
    assert_eq!(
        scene
            .gateway
            .metric("tollgate_cache_requests_total{result=\"miss\",tier=\"none\"}"),
        1.0
    );
}

#[test]
fn a_failure_takes_nothing_away_that_is_kept() {
    let (scene, mood) = behaving("Cache-Control: max-age=600\r\nETag: \"a\"\r\n", "{}");
    assert_eq!(scene.nth(scene.get("/a")), 1);
    mood.store(500, Ordering::SeqCst);
    scene.get("/a").header("Cache-Control", "no-cache").send().expect(500);
    assert_eq!(scene.nth(scene.get("/a")), 1, "others have what is fresh");
    let cached = scene.get("/a").header("Cache-Control", "only-if-cached");
    assert_eq!(scene.nth(cached), 1);

    let (scene, mood) = behaving(
        "Cache-Control: max-age=60, stale-if-error=600, stale-while-revalidate=1\r\nAge: 90\r\n",
        "{}",
    );
    assert_eq!(scene.nth(scene.get("/a")), 1);
    mood.store(500, Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(scene.nth(scene.get("/a")), 1);
    }
}

#[test]
fn what_could_not_be_fetched_anew_is_not_tried_at_every_request() {
    let (scene, mood) = behaving(
        "Cache-Control: max-age=60, stale-while-revalidate=600\r\nAge: 90\r\n",
        "{}",
    );
    assert_eq!(scene.nth(scene.get("/a")), 1);
    mood.store(500, Ordering::SeqCst);
    until("it was tried", || {
        scene.nth(scene.get("/a"));
        scene.origin.requests() > 1
    });
    let begun = std::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(scene.nth(scene.get("/a")), 1);
    }
    // One more for every second that this took, and those under way.
    let allowed = 4 + begun.elapsed().as_secs();
    assert!(
        scene.origin.requests() as u64 <= allowed,
        "{} of {allowed}",
        scene.origin.requests()
    );
}

#[test]
fn an_answer_that_the_origin_takes_back_is_gone() {
    let scene = Scene::of(|_, nth| match nth {
        1 => fresh(600, "ETag: \"a\"\r\n"),
        _ => reply(200, "Cache-Control: no-store\r\n"),
    });
    assert_eq!(scene.nth(scene.get("/a")), 1);
    assert_eq!(scene.nth(scene.get("/a").header("Cache-Control", "no-cache")), 2);
    assert_eq!(scene.nth(scene.get("/a")), 3);
}
