//! Which certificate a client is shown, and how it is replaced.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::*;

const TLS: &str = "tls: { certificates: [{ certificate: \"DIR/default.crt\", key: \"DIR/default.key\" }] }";

/// Its directory holds `default.crt` and `default.key`.
fn setup(origin: &Origin, issued: &Issued) -> Setup {
    let setup = Gateway::with(revision(origin));
    issued.write(setup.path(), "default");
    setup
}

#[test]
fn a_request_over_tls_is_answered_and_the_origin_is_told_that_it_was() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let gateway = setup(&origin, &authority.issue(&["api.example.com"]))
        .listening(TLS)
        .start();
    let mut tls = authority
        .client()
        .connect(gateway.address(), "api.example.com")
        .unwrap();
    for _ in 0..3 {
        let request = gateway.client().post("/open", "hello").host("api.example.com");
        let answer = request.send_on(&mut tls.connection).expect(200);
        let seen = answer.echo();
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
        gateway.access_record(answer.header("x-request-id").unwrap());
    }
    assert_eq!(gateway.metric("tollgate_tls_handshakes_total{result=\"full\"}"), 1.0);
}

#[test]
fn the_name_that_a_client_asks_for_picks_the_certificate() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let issued = [
        authority.issue(&["default.example"]),
        authority.issue(&["*.example.org"]),
        authority.issue(&["api.example.org", "ip:127.0.0.1"]),
    ];
    let setup = Gateway::with(revision(&origin));
    for (issued, name) in issued.iter().zip(["default", "wild", "exact"]) {
        issued.write(setup.path(), name);
    }
    let lines: Vec<String> = ["default", "wild", "exact"]
        .iter()
        .map(|name| format!("{{ certificate: \"DIR/{name}.crt\", key: \"DIR/{name}.key\" }}"))
        .collect();
    let gateway = setup
        .listening(&format!("tls: {{ certificates: [{}] }}", lines.join(", ")))
        .start();
    for (host, position) in [("default.example", 0), ("www.example.org", 1), ("API.Example.org", 2)] {
        let shown = authority.client().connect(gateway.address(), host).unwrap();
        assert_eq!(shown.certificate, issued[position].der(), "{host}");
    }
    // Nobody's name gets the first one, which a client that looks refuses; so does a client without a name.
    let error = authority
        .client()
        .connect(gateway.address(), "nobody.example")
        .err()
        .unwrap();
    assert!(error.to_string().contains("nobody.example"), "{error}");
    assert!(authority.client().connect(gateway.address(), "127.0.0.1").is_err());
}

#[test]
fn a_hundred_new_certificates_under_load_cost_no_handshake() {
    const SWAPS: usize = 100;
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let gateway = setup(&origin, &authority.issue(&["api.example.com"]))
        .listening(TLS)
        .start();
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = authority.client().forgetful();
    let visit = || {
        let mut tls = client.connect(gateway.address(), "api.example.com").unwrap();
        let request = gateway
            .client()
            .get("/open")
            .host("api.example.com")
            .header("Connection", "close");
        request.send_on(&mut tls.connection).expect(200);
        served.fetch_add(1, Ordering::Relaxed);
        tls.certificate
    };
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        visit();
                    }
                })
            })
            .collect();
        // Also when a swap never comes, so that the scope ends and the test says why.
        let stopping = Stop(&stop);
        for swap in 0..SWAPS {
            let issued = authority.issue(&["api.example.com"]);
            issued.write(gateway.path(), "default");
            until(&format!("certificate {swap} is shown"), || visit() == issued.der());
        }
        drop(stopping);
        for thread in load {
            thread.join().expect("no handshake fails");
        }
    });
    assert!(served.load(Ordering::Relaxed) >= SWAPS);
    for result in ["failed", "timeout", "closed", "client_certificate"] {
        let series = format!("tollgate_tls_handshakes_total{{result=\"{result}\"}}");
        assert_eq!(gateway.metric(&series), 0.0, "{result}");
    }
    assert!(gateway.metric("tollgate_certificate_reloads_total{result=\"replaced\"}") >= SWAPS as f64);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_new_certificate_that_can_not_be_used_leaves_the_old_one_and_the_next_good_one_is_taken() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let first = authority.issue(&["api.example.com"]);
    let gateway = setup(&origin, &first).listening(TLS).start();
    let shown = || {
        let tls = authority
            .client()
            .forgetful()
            .connect(gateway.address(), "api.example.com");
        tls.unwrap().certificate
    };
    let refused = || gateway.metric("tollgate_certificate_reloads_total{result=\"refused\"}");

    let broken = Issued {
        certificate: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        ..first.clone()
    };
    broken.write(gateway.path(), "default");
    until("the broken one is refused", || refused() >= 1.0);
    assert_eq!(shown(), first.der());
    gateway.logs("default.crt: a certificate in it can not be read; what was used before is used on");

    let mismatched = Issued {
        key: authority.issue(&["api.example.com"]).key,
        ..authority.issue(&["api.example.com"])
    };
    mismatched.write(gateway.path(), "default");
    gateway.logs("default.key: this key does not belong to the certificate in");
    assert_eq!(shown(), first.der());

    authority
        .issue_expired(&["api.example.com"])
        .write(gateway.path(), "default");
    gateway.logs("default.crt: the certificate expired at 2021-01-01T00:00:00Z");
    assert_eq!(shown(), first.der());

    let good = authority.issue(&["api.example.com"]);
    good.write(gateway.path(), "default");
    until("the good one is shown", || shown() == good.der());
}

#[test]
fn one_expired_certificate_costs_its_own_names_and_nobody_elses() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let setup = setup(&origin, &authority.issue_expired(&["old.example"]));
    authority.issue(&["api.example.com"]).write(setup.path(), "good");
    let gateway = setup
        .listening(
            "tls: { certificates: [{ certificate: \"DIR/default.crt\", key: \"DIR/default.key\" }, \
             { certificate: \"DIR/good.crt\", key: \"DIR/good.key\" }] }",
        )
        .start();
    gateway.logs("default.crt: the certificate expired at 2021-01-01T00:00:00Z");
    let shown = |host: &str| {
        let tls = authority.client().forgetful().connect(gateway.address(), host);
        tls.map(|tls| tls.certificate)
    };
    assert!(shown("old.example").is_err());

    // The other one is served and replaced all the same.
    let renewed = authority.issue(&["api.example.com"]);
    renewed.write(gateway.path(), "good");
    until("the renewed one is shown", || {
        shown("api.example.com").unwrap() == renewed.der()
    });
    let series = format!(
        "tollgate_certificate_expiry_seconds{{certificate=\"{}\"}}",
        gateway.path().join("default.crt").display()
    );
    assert!(
        gateway.metric(&series) < now() as f64,
        "whoever watches the ends sees it"
    );

    let config = gateway.path().join("tollgate.yaml");
    let output = tollgate(["check", "--config", &config.display().to_string()]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output.stdout.contains("warning: ") && output.stdout.contains("default.crt: the certificate expired at"),
        "{}",
        output.stdout
    );

    // And it comes back when it is renewed.
    let back = authority.issue(&["old.example"]);
    back.write(gateway.path(), "default");
    until("it is shown again", || {
        shown("old.example").is_ok_and(|shown| shown == back.der())
    });
}

#[test]
fn files_that_can_not_be_used_are_a_refused_configuration_for_run_and_for_check() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let output = setup(&origin, &authority.issue_expired(&["api.example.com"]))
        .listening(TLS)
        .run();
    assert_eq!(output.code, Some(78), "{output:?}");
    let place = "tollgate.yaml:3:";
    assert!(output.stderr.contains(place), "{}", output.stderr);
    assert!(
        output.stderr.contains("default.crt: the certificate expired at"),
        "{}",
        output.stderr
    );

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tollgate.yaml");
    authority.issue(&["a.example"]).write(directory.path(), "a");
    authority.issue(&["b.example"]).write(directory.path(), "b");
    let name = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(directory.path().join("r.yaml"), revision(&origin).to_string()).unwrap();
    let config = format!(
        "revision: {{ file: \"{}\" }}\nlisteners:\n- address: 127.0.0.1:0\n  tls:\n    certificates:\n    \
         - {{ certificate: \"{}\", key: \"{}\" }}\n    - {{ certificate: \"{}\", key: \"{}\" }}\n    client: {{ ca: \"{}\" }}\n",
        name("r.yaml"),
        name("a.crt"),
        name("a.key"),
        name("a.crt"),
        name("b.key"),
        name("nothing.crt"),
    );
    std::fs::write(&path, config).unwrap();
    let output = tollgate(["check", "--config", &path.display().to_string()]);
    assert_eq!(output.code, Some(78), "{output:?}");
    for expected in [
        format!(
            "{}:7:7: {}: this key does not belong to the certificate in {}",
            path.display(),
            name("b.key"),
            name("a.crt")
        ),
        format!("{}:8:13: {}: it can not be read", path.display(), name("nothing.crt")),
    ] {
        assert!(output.stdout.contains(&expected), "{expected}\n{}", output.stdout);
    }
    assert_eq!(output.stdout.lines().count(), 2, "{}", output.stdout);
}

#[test]
fn when_certificates_end_is_a_metric() {
    let (origin, authority) = (Origin::start(echo()), Authority::new());
    let gateway = setup(&origin, &authority.issue(&["api.example.com"]))
        .listening(TLS)
        .start();
    let series = format!(
        "tollgate_certificate_expiry_seconds{{certificate=\"{}\"}}",
        gateway.path().join("default.crt").display()
    );
    assert!(gateway.metric(&series) > now() as f64);
}
