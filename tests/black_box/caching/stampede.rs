//! Many who ask for the same at the same time: one fetch.

use std::sync::Condvar;

use super::*;

/// A service that answers when it is told to.
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn wait(&self) {
        let mut open = self.0.lock().expect("a lock");
        while !*open {
            open = self.1.wait(open).expect("a lock");
        }
    }

    fn open(&self) {
        *self.0.lock().expect("a lock") = true;
        self.1.notify_all();
    }
}

#[test]
fn those_who_ask_for_the_same_wait_for_one_fetch() {
    let gate = Arc::new(Gate(Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let scene = Scene::of(move |_, _| {
        held.wait();
        fresh(600, "")
    });
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| scene.get("/a").send())).collect();
        until("all have asked", || {
            scene.gateway.metric("tollgate_requests_in_flight") >= 20.0
        });
        gate.open();
        asking
            .into_iter()
            .map(|asked| asked.join().expect("an answer"))
            .collect()
    });
    assert!(answers.iter().all(|answer| answer.text() == "1"), "{answers:?}");
    assert_eq!(scene.origin.requests(), 1);
    let collapsed = answers
        .iter()
        .filter(|answer| status_of(answer).contains("collapsed"))
        .count();
    assert!(collapsed >= 10, "{collapsed}");
}

#[test]
fn those_who_wait_for_what_can_not_be_kept_are_let_go_together() {
    let gate = Arc::new(Gate(Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let scene = Scene::of(move |_, nth| {
        if nth == 1 {
            held.wait();
        }
        reply(200, "Cache-Control: no-store\r\n")
    });
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..10)
            .map(|_| scope.spawn(|| scene.get("/a").send().expect(200)))
            .collect();
        until("all have asked", || {
            scene.gateway.metric("tollgate_requests_in_flight") >= 10.0
        });
        gate.open();
        for asked in asking {
            asked.join().expect("an answer");
        }
    });
    assert_eq!(scene.origin.requests(), 10);
    // From now on nobody waits for anybody.
    assert!(!scene.keeps("/a"));
}

#[test]
fn a_stale_answer_is_validated_once_for_all_who_ask() {
    let gate = Arc::new(Gate(Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let scene = Scene::of(move |request, _| match request.header("if-none-match") {
        Some(_) => {
            held.wait();
            reply(304, "Cache-Control: max-age=600\r\n")
        }
        None => fresh(0, "ETag: \"a\"\r\n"),
    });
    assert_eq!(scene.nth(scene.get("/a")), 1);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..10).map(|_| scope.spawn(|| scene.nth(scene.get("/a")))).collect();
        until("all have asked", || {
            scene.gateway.metric("tollgate_requests_in_flight") >= 10.0
        });
        gate.open();
        for asked in asking {
            assert_eq!(asked.join().expect("an answer"), 1);
        }
    });
    assert_eq!(scene.origin.requests(), 2);
}

#[test]
fn whoever_leaves_does_not_take_the_fetch_with_him_that_others_wait_for() {
    let gate = Arc::new(Gate(Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let scene = Scene::of(move |_, _| {
        held.wait();
        fresh(600, "")
    });
    let mut leaver = scene.gateway.raw();
    leaver.send(format!("GET /a HTTP/1.1\r\nHost: {}\r\n\r\n", scene.gateway.address()));
    until("it is asked for", || scene.origin.requests() == 1);
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| scene.get("/a").send().expect(200)))
            .collect();
        until("all have asked", || {
            scene.gateway.metric("tollgate_requests_in_flight") >= 6.0
        });
        drop(leaver);
        gate.open();
        for asked in asking {
            asked.join().expect("an answer");
        }
    });
    // How many times somebody else was elected depends on who was awake; not everybody fetched for himself.
    assert!(scene.origin.requests() < 6, "{}", scene.origin.requests());
}

#[test]
fn those_who_wait_for_something_that_varies_find_it() {
    let gate = Arc::new(Gate(Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let scene = Scene::of(move |request, _| {
        held.wait();
        fresh(600, "Vary: Accept-Language\r\n").with_body(request.header("accept-language").unwrap_or("none"))
    });
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20)
            .map(|number| {
                let language = if number % 2 == 0 { "de" } else { "en" };
                let scene = &scene;
                scope.spawn(move || {
                    let answer = scene.get("/a").header("Accept-Language", language).send().expect(200);
                    assert_eq!(answer.text(), language);
                })
            })
            .collect();
        until("all have asked", || {
            scene.gateway.metric("tollgate_requests_in_flight") >= 20.0
        });
        gate.open();
        for asked in asking {
            asked.join().expect("an answer");
        }
    });
    assert_eq!(scene.origin.requests(), 2, "one for each language");
}
