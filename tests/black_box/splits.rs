//! Several upstreams for one API: by weight, by key, by name, by the type of the key.

use std::collections::BTreeMap;

use crate::harness::*;

/// Services that say who they are.
struct Services {
    stable: Origin,
    next: Origin,
    sandbox: Origin,
}

impl Services {
    fn start() -> Self {
        Self {
            stable: Origin::start(who("stable")),
            next: Origin::start(who("next")),
            sandbox: Origin::start(who("sandbox")),
        }
    }

    /// A revision with one API on `/a` that has these lines.
    fn with(&self, lines: &str) -> Revision {
        Revision::empty()
            .behind("stable", self.stable.address())
            .behind("next", self.next.address())
            .behind("sandbox", self.sandbox.address())
            .api(&format!("{{ name: a, base_path: /a, {lines} }}"))
            .mobile(&["a"])
    }
}

/// Answers with its name and the field in which a client names an upstream, if that came through.
fn who(name: &'static str) -> impl Fn(&mut Exchange) -> std::io::Result<()> + Send + Sync + 'static {
    move |exchange: &mut Exchange| {
        let leaked = exchange.request.header("x-upstream").unwrap_or_default().to_owned();
        exchange.respond(200, "", format!("{name}{leaked}").as_bytes())
    }
}

fn weights(stable: u32, next: u32) -> String {
    format!("upstreams: [{{ name: stable, weight: {stable} }}, {{ name: next, weight: {next} }}]")
}

/// Who answers each of these tenants.
fn answers(gateway: &Gateway, tenants: usize) -> BTreeMap<usize, String> {
    let mut connection = gateway.raw();
    (0..tenants)
        .map(|tenant| {
            let request = gateway
                .client()
                .get("/a")
                .header("X-Tenant", &format!("tenant-{tenant}"));
            (tenant, request.send_on(&mut connection).expect(200).text())
        })
        .collect()
}

#[test]
fn requests_are_drawn_by_weight() {
    let services = Services::start();
    let gateway = Gateway::with(services.with(&format!("auth: none, {}", weights(750, 250)))).start();
    let next = answers(&gateway, 400).values().filter(|name| *name == "next").count();
    // 100 expected, with a deviation of 8.7; a run in a million is outside.
    assert!((50..=150).contains(&next), "{next} of 400 went to the quarter");
    assert_eq!(services.sandbox.bytes(), 0);
    let drawn = |name: &str| {
        gateway.metric(&format!(
            "tollgate_upstream_duration_seconds_count{{upstream=\"{name}\"}}"
        ))
    };
    until("both upstreams have their histogram", || {
        drawn("next") == next as f64 && drawn("stable") == (400 - next) as f64
    });
}

#[test]
fn a_sticky_key_stays_where_it_is_and_a_new_weight_moves_only_those_who_have_to() {
    let services = Services::start();
    let lines = |stable, next| {
        format!(
            "auth: none, {}, split: {{ sticky: {{ header: X-Tenant }} }}",
            weights(stable, next)
        )
    };
    let gateway = Gateway::with(services.with(&lines(90, 10))).start();
    let before = answers(&gateway, 300);
    assert_eq!(before, answers(&gateway, 300), "the same key, another upstream");
    let other = Gateway::with(services.with(&lines(90, 10))).start();
    assert_eq!(before, answers(&other, 300), "another gateway, another upstream");

    gateway.apply(services.with(&lines(50, 50)));
    let after = answers(&gateway, 300);
    let moved: Vec<_> = before.iter().filter(|(tenant, name)| after[tenant] != **name).collect();
    assert!(!moved.is_empty());
    assert!(moved.iter().all(|(_, from)| *from == "stable"), "{moved:?}");

    // Everybody at once, and nobody by weight.
    gateway.apply(services.with(&lines(0, 1)));
    assert!(answers(&gateway, 50).values().all(|name| name == "next"));
}

#[test]
fn a_caller_stays_with_his_upstream() {
    let services = Services::start();
    let lines = format!("auth: [api_key], {}, split: {{ sticky: caller }}", weights(1, 1));
    let gateway = Gateway::with(services.with(&lines)).start();
    let call = || gateway.client().get("/a").key(KEY).send().expect(200).text();
    let first = call();
    assert!((0..20).all(|_| call() == first));
}

#[test]
fn a_client_may_name_an_upstream_of_the_split_and_the_service_never_hears_of_it() {
    let services = Services::start();
    let lines = format!(
        "auth: none, {}, split: {{ override_header: X-Upstream }}",
        weights(1, 0)
    );
    let gateway = Gateway::with(services.with(&lines)).start();
    let naming = |name: &str| {
        gateway
            .client()
            .get("/a")
            .header("X-Upstream", name)
            .send()
            .expect(200)
            .text()
    };
    assert_eq!(naming("next"), "next");
    assert_eq!(naming("stable"), "stable");
    for other in ["sandbox", "nobody", "", "127.0.0.1:1", "NEXT"] {
        assert_eq!(naming(other), "stable", "{other:?}");
    }
    assert_eq!(services.sandbox.bytes(), 0, "an upstream outside the split was reached");
}

#[test]
fn sandbox_keys_have_an_upstream_of_their_own() {
    let services = Services::start();
    let lines = format!(
        "auth: [api_key], {}, split: {{ override_header: X-Upstream }}, sandbox_upstream: sandbox",
        weights(1, 1)
    );
    let gateway = Gateway::with(services.with(&lines)).start();
    let sandbox = gateway
        .client()
        .get("/a")
        .key(SANDBOX_KEY)
        .header("X-Upstream", "stable");
    assert_eq!(
        sandbox.header("X-Request-Id", "sandboxed").send().expect(200).text(),
        "sandbox"
    );
    assert_eq!(gateway.access_record("sandboxed")["upstream"], "sandbox");
    for _ in 0..10 {
        assert_ne!(gateway.client().get("/a").key(KEY).send().expect(200).text(), "sandbox");
    }
}

#[test]
fn a_retry_stays_with_the_upstream_that_was_chosen() {
    let services = Services::start();
    let closed = Planned::new();
    let revision = Revision::empty()
        .behind("stable", services.stable.address())
        .upstream(&format!(
            "{{ name: next, endpoints: [{{ address: \"{}\" }}, {{ address: \"{}\" }}] }}",
            closed.address(),
            services.next.address()
        ))
        .api(&format!(
            "{{ name: a, base_path: /a, auth: none, {}, split: {{ override_header: X-Upstream }} }}",
            weights(1, 0)
        ));
    let gateway = Gateway::with(revision).start();
    for _ in 0..6 {
        assert_eq!(
            gateway
                .client()
                .get("/a")
                .header("X-Upstream", "next")
                .send()
                .expect(200)
                .text(),
            "next"
        );
    }
    assert_eq!(services.stable.bytes(), 0);
}
