//! What a request with an unsafe method makes invalid (RFC 9111 section 4.4).

use super::*;

/// A service whose GETs are kept, and that answers other methods with this status and these field lines.
fn scene(status: u16, fields: &'static str) -> Scene {
    Scene::of(move |request, _| match request.method.as_str() {
        "GET" | "HEAD" => fresh(600, ""),
        _ => reply(status, fields),
    })
}

/// Whether what was kept for `target` is fetched anew after one request to `/a/1` with this method.
#[track_caller]
fn invalidates(scene: &Scene, method: &str, target: &str) -> bool {
    let before = scene.nth(scene.get(target));
    assert_eq!(scene.nth(scene.get(target)), before);
    scene.gateway.client().request(method, "/a/1").send();
    scene.nth(scene.get(target)) != before
}

#[test]
fn a_successful_change_makes_its_target_invalid() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH"] {
        assert!(invalidates(&scene(200, ""), method, "/a/1"), "{method}");
        assert!(invalidates(&scene(303, ""), method, "/a/1"), "{method}");
        assert!(!invalidates(&scene(404, ""), method, "/a/1"), "{method}");
        assert!(!invalidates(&scene(500, ""), method, "/a/1"), "{method}");
        assert!(!invalidates(&scene(200, ""), method, "/a/2"), "{method}");
    }
    for method in ["OPTIONS", "HEAD"] {
        assert!(!invalidates(&scene(200, ""), method, "/a/1"), "{method}");
    }
}

#[test]
fn places_that_the_answer_names_are_invalid_too_on_this_host_alone() {
    for method in ["POST", "PUT", "DELETE"] {
        assert!(invalidates(&scene(201, "Location: /a/9\r\n"), method, "/a/9"));
        assert!(invalidates(&scene(201, "Location: 9\r\n"), method, "/a/9"));
        assert!(invalidates(&scene(200, "Content-Location: /a/9\r\n"), method, "/a/9"));
        assert!(!invalidates(
            &scene(201, "Location: http://elsewhere.example.com/a/9\r\n"),
            method,
            "/a/9"
        ));
    }
}

#[test]
fn all_variants_are_invalid_at_once() {
    let scene = Scene::of(|request, _| match request.method.as_str() {
        "GET" => fresh(600, "Vary: Foo\r\n"),
        _ => reply(200, ""),
    });
    let ask = |foo: &str| scene.nth(scene.get("/a").header("Foo", foo));
    assert_eq!((ask("1"), ask("2"), ask("1")), (1, 2, 1));
    scene.gateway.client().post("/a", "x").send().expect(200);
    assert_eq!((ask("1"), ask("2")), (4, 5));
}

#[test]
fn an_answer_that_was_on_its_way_when_it_became_invalid_is_not_kept() {
    let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let held = Arc::clone(&gate);
    let scene = Scene::of(move |request, nth| {
        if request.method == "GET" && nth == 1 {
            let (open, changed) = &*held;
            let mut open = open.lock().expect("a lock");
            while !*open {
                open = changed.wait(open).expect("a lock");
            }
        }
        fresh(600, "")
    });
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| scene.nth(scene.get("/a")));
        until("it is asked for", || scene.origin.requests() == 1);
        scene.gateway.client().post("/a", "x").send().expect(200);
        *gate.0.lock().expect("a lock") = true;
        gate.1.notify_all();
        assert_eq!(slow.join().expect("an answer"), 1);
    });
    assert_eq!(scene.nth(scene.get("/a")), 3);
}

#[test]
fn a_change_that_another_endpoint_makes_counts_too() {
    let broken = service(|_, _| reply(503, ""));
    let sound = service(|request, _| match request.method.as_str() {
        "GET" => fresh(600, ""),
        _ => reply(200, ""),
    });
    let revision = Revision::empty()
        .upstream(&format!(
            "{{ name: origin, endpoints: [{{ address: \"{}\" }}, {{ address: \"{}\" }}], retries: {{ attempts: 2, budget: 100% }}, \
             breaker: {{ consecutive: 1000 }} }}",
            broken.address(),
            sound.address()
        ))
        .api("{ name: all, base_path: /, auth: none, upstream: origin, cache: {} }");
    let gateway = Gateway::with(revision).start();
    // Which endpoint is asked first changes from request to request.
    for number in 0..6 {
        let target = format!("/a/{number}");
        let ask = || gateway.client().get(&target).send().expect(200).text();
        let kept = ask();
        assert_eq!(ask(), kept);
        gateway.client().request("DELETE", &target).send().expect(200);
        assert_ne!(ask(), kept, "{target}");
    }
    assert!(broken.requests() > 0);
}
