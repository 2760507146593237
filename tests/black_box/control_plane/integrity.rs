//! What is not what the control plane published is refused, whatever is wrong with it; and everybody can see why.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{ControlPlane, Gateway, Origin, Revision, TamperingProxy, answer, eventually, until};

/// A control plane with one revision, and a gateway behind something that may change what passes.
struct Story {
    origin: Origin,
    control_plane: ControlPlane,
    proxy: TamperingProxy,
    gateway: Gateway,
}

impl Story {
    fn begin() -> Self {
        Self::begin_with("")
    }

    fn begin_with(more: &str) -> Self {
        let origin = Origin::start(answer(200, ""));
        let control_plane = ControlPlane::setup().section("distribution: { spread: 0ms }").start();
        control_plane.publish("Default", open_at(&origin, "/one"));
        let proxy = TamperingProxy::before(&control_plane);
        let gateway = control_plane.gateway_of(&[proxy.url()], more).start();
        until("the first revision is served", || {
            gateway.client().get("/one").send().status == 200
        });
        Self {
            origin,
            control_plane,
            proxy,
            gateway,
        }
    }

    fn publish(&self, path: &str) -> u64 {
        self.control_plane.publish("Default", open_at(&self.origin, path))
    }

    /// The newest revision is refused with this code: the control plane and the gateway itself say so, and what was at
    /// this path is served on.
    #[track_caller]
    fn is_refused(&self, code: &str, served: &str) {
        let refused = eventually(&format!("the gateway says {code}"), || {
            let refused = self.control_plane.gateway_state("gw-test")["refused"].clone();
            (refused["code"] == code).then_some(refused)
        });
        assert!(
            refused["message"].as_str().is_some_and(|message| message.len() > 10),
            "{refused}"
        );
        let listed = self.control_plane.verb(["gateway", "list"]);
        assert!(listed.stdout.contains(code), "{listed:?}");
        let ready = self.gateway.ready();
        assert_eq!(ready["ready"], true);
        assert_eq!(ready["revision"]["refused"]["reason"], code, "{ready}");
        assert!(
            self.gateway
                .metric(&format!("tollgate_revision_refused_total{{reason=\"{code}\"}}"))
                >= 1.0
        );
        self.gateway.client().get(served).send().expect(200);
    }

    /// Once nobody tampers any more, the newest revision is taken.
    #[track_caller]
    fn heals(&self, path: &str) {
        self.proxy.be_honest();
        self.publish(path);
        until("an honest revision is served", || {
            self.gateway.client().get(path).send().status == 200
        });
        until("nothing is refused any more", || {
            self.control_plane.gateway_state("gw-test")["drift"] == "in_sync"
        });
    }
}

fn open_at(origin: &Origin, path: &str) -> Revision {
    Revision::of(origin).api(&format!(
        "{{ name: open, base_path: {path}, auth: none, upstream: origin }}"
    ))
}

fn is_manifest(path: &str) -> bool {
    path.contains("/revision?") || path.ends_with("/revision")
}

fn is_content(path: &str) -> bool {
    path.contains("/blobs/") || path.contains("/delta/")
}

/// Changes what is signed, and leaves the signature as it is.
fn rewrite(body: &mut Vec<u8>, with: impl Fn(&mut Value)) {
    let Ok(mut signed) = serde_json::from_slice::<Value>(body) else {
        return;
    };
    let Some(text) = signed["signed"].as_str() else { return };
    let mut manifest: Value = serde_json::from_str(text).unwrap();
    with(&mut manifest);
    signed["signed"] = json!(manifest.to_string());
    *body = signed.to_string().into_bytes();
}

#[test]
fn flipped_bits_and_cut_ends_are_refused() {
    let story = Story::begin();
    story.proxy.tamper(|path, body| {
        if is_content(path) {
            let middle = body.len() / 2;
            body[middle] ^= 0x10;
        }
    });
    story.publish("/two");
    story.is_refused("hash", "/one");
    story.heals("/three");
    story.proxy.tamper(|path, body| {
        if is_content(path) {
            body.truncate(body.len() - 1);
        }
    });
    story.publish("/four");
    story.is_refused("hash", "/three");
    story.heals("/five");
}

#[test]
fn a_changed_manifest_and_a_foreign_signature_are_refused() {
    let story = Story::begin();
    story.proxy.tamper(|path, body| {
        if is_manifest(path) {
            rewrite(body, |manifest| manifest["routes"] = json!(2));
        }
    });
    story.publish("/two");
    story.is_refused("signature", "/one");
    story.heals("/three");
    let other = ControlPlane::start();
    other.publish("Default", open_at(&story.origin, "/foreign"));
    let foreign = other
        .get("/v1/environments/Default/revision?after=0&wait=0")
        .to_string();
    story.proxy.tamper(move |path, body| {
        if is_manifest(path) {
            *body = foreign.clone().into_bytes();
        }
    });
    story.publish("/four");
    story.is_refused("unknown_signer", "/three");
    story.heals("/five");
}

#[test]
fn an_old_manifest_is_never_new_again() {
    let story = Story::begin();
    let seen: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let first = story
        .control_plane
        .get("/v1/environments/Default/revision?after=0&wait=0")
        .to_string();
    story.publish("/two");
    until("the second revision is served", || {
        story.gateway.client().get("/two").send().status == 200
    });
    *seen.lock().unwrap() = Some(first.into_bytes());
    story.proxy.tamper(move |path, body| {
        if is_manifest(path)
            && let Some(first) = seen.lock().unwrap().clone()
        {
            *body = first;
        }
    });
    story.publish("/three");
    let refused = eventually("the gateway says replayed", || {
        let refused = story.control_plane.gateway_state("gw-test")["refused"].clone();
        (refused["code"] == "replayed").then_some(refused)
    });
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|message| message.contains("revision 2")),
        "{refused}"
    );
    story.gateway.client().get("/two").send().expect(200);
    story.heals("/four");
}

#[test]
fn what_is_larger_than_a_gateway_takes_is_refused_before_it_is_fetched() {
    let story = Story::begin_with("max_routes: 2");
    let fetched = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&fetched);
    story.proxy.tamper(move |path, _| {
        if is_content(path) {
            *counted.lock().unwrap() += 1;
        }
    });
    let mut large = Revision::of(&story.origin);
    for number in 0..5 {
        large = large.api(&format!(
            "{{ name: a{number}, base_path: /a{number}, auth: none, upstream: origin }}"
        ));
    }
    story.control_plane.publish("Default", large);
    story.is_refused("oversized", "/one");
    assert_eq!(*fetched.lock().unwrap(), 0);
    story.heals("/two");
}

#[test]
fn a_gateway_that_was_refused_serves_on_after_a_restart_and_still_says_why() {
    let story = Story::begin();
    story.proxy.tamper(|path, body| {
        if is_content(path) {
            body.clear();
        }
    });
    story.publish("/two");
    story.is_refused("hash", "/one");
    let Story {
        origin: _origin,
        control_plane,
        proxy,
        gateway,
    } = story;
    let directory = gateway.crash();
    let gateway = control_plane
        .gateway_of(&[proxy.url()], "")
        .in_directory(directory)
        .start();
    gateway.client().get("/one").send().expect(200);
    eventually("the gateway says hash again", || {
        let refused = control_plane.gateway_state("gw-test")["refused"].clone();
        (refused["code"] == "hash").then_some(())
    });
}

#[test]
fn a_damaged_copy_on_disk_is_passed_over_for_the_one_before() {
    let story = Story::begin();
    story.publish("/two");
    until("the second revision is served", || {
        story.gateway.client().get("/two").send().status == 200
    });
    let Story {
        origin: _origin,
        mut control_plane,
        proxy: _proxy,
        gateway,
    } = story;
    control_plane.kill();
    let directory = gateway.crash();
    let revisions = directory.path().join("state").join("revisions");
    let mut names: Vec<_> = std::fs::read_dir(&revisions)
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_dir()))
        .collect();
    names.sort();
    let snapshot = names.last().unwrap().join("snapshot");
    let mut bytes = std::fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    let url = control_plane.url();
    let gateway = Gateway::pulling(&format!("urls: [\"{url}\"]"))
        .in_directory(directory)
        .start();
    gateway.client().get("/one").send().expect(200);
    gateway
        .client()
        .get("/two")
        .send()
        .expect_refusal(404, "route_not_found");
    control_plane.restart();
}
