//! Clients that show certificates.

use crate::harness::*;

const MOBILE: &str = "uri:spiffe://example.org/mobile";

/// APIs `/certificates` for certificates, `/both` for keys too and `/keys` for keys; the application `mobile` has
/// [`MOBILE`] and [`KEY`].
fn revision_with_certificates(origin: &Origin) -> Revision {
    let limits = "limits: [{ name: key, rate: 2/d, per: key }]";
    Revision::of(origin)
        .api("{ name: certificates, base_path: /certificates, auth: [client_certificate], upstream: origin }")
        .api("{ name: both, base_path: /both, auth: [api_key, client_certificate], upstream: origin }")
        .api("{ name: keys, base_path: /keys, auth: [api_key], upstream: origin }")
        .api(&format!(
            "{{ name: limited, base_path: /limited, auth: [client_certificate], upstream: origin, {limits} }}"
        ))
        .api("{ name: foreign, base_path: /foreign, auth: [client_certificate], upstream: origin }")
        .application(&format!(
            "{{ name: mobile, subscriptions: [{}], keys: [{}], certificates: [{}] }}",
            ["certificates", "both", "keys", "limited"]
                .map(|api| format!("{{ api: {api}, plan: free }}"))
                .join(", "),
            key_record("mobile-1", KEY, "type: production"),
            format_args!(
                "{{ id: mobile-cert, san: \"{MOBILE}\" }}, {{ id: trial-cert, san: \"dns:trial.example.org\", type: sandbox }}"
            ),
        ))
}

struct Stage {
    origin: Origin,
    /// Of the gateway's certificate.
    authority: Authority,
    /// Of the clients' certificates.
    clients: Authority,
    gateway: Gateway,
}

impl Stage {
    fn with(client: &str, gateway: &str) -> Self {
        let (origin, authority, clients) = (Origin::start(echo()), Authority::new(), Authority::new());
        let setup = Gateway::with(revision_with_certificates(&origin));
        authority.issue(&["api.example.com"]).write(setup.path(), "default");
        let gateway = setup
            .file("clients.crt", clients.pem())
            .gateway(gateway)
            .listening(&format!(
                "tls: {{ certificates: [{{ certificate: \"DIR/default.crt\", key: \"DIR/default.key\" }}], \
                 client: {{ ca: \"DIR/clients.crt\", {client} }} }}"
            ))
            .start();
        Self {
            origin,
            authority,
            clients,
            gateway,
        }
    }

    fn optional() -> Self {
        Self::with("required: false", "")
    }

    /// What somebody is answered who shows a certificate with these names; without names, none.
    fn ask(&self, names: &[&str], request: Request) -> Answer {
        let client = match names {
            [] => self.authority.client(),
            names => self.authority.client_with(&self.clients.issue(names)),
        };
        let mut tls = client.connect(self.gateway.address(), "api.example.com").unwrap();
        request.send_on(&mut tls.connection)
    }

    fn get(&self, path: &str) -> Request {
        self.gateway.client().get(path)
    }
}

#[test]
fn the_name_in_a_certificate_is_who_calls() {
    let stage = Stage::optional();
    let answer = stage
        .ask(&["dns:unknown.example", MOBILE], stage.get("/certificates"))
        .expect(200);
    let seen = answer.echo();
    assert_eq!(seen.header("x-application"), Some("mobile"));
    assert_eq!(seen.header("x-key-type"), Some("production"));
    let record = stage.gateway.access_record(answer.header("x-request-id").unwrap());
    assert_eq!(record["application"], "mobile");
    assert_eq!(record["key_id"], "mobile-cert");

    let seen = stage
        .ask(&["Trial.example.org"], stage.get("/certificates"))
        .expect(200)
        .echo();
    assert_eq!(seen.header("x-key-type"), Some("sandbox"));
}

#[test]
fn who_is_not_known_or_not_subscribed_or_shows_nothing_is_refused_as_with_keys() {
    let stage = Stage::optional();
    let refused = |names: &[&str], path: &str| stage.ask(names, stage.get(path));
    let missing = refused(&[], "/certificates").expect_refusal(401, "credential_missing");
    assert_eq!(
        missing.header("www-authenticate"),
        Some("ClientCertificate realm=\"certificates\"")
    );
    refused(&["uri:spiffe://example.org/Mobile"], "/certificates").expect_refusal(401, "credential_invalid");
    refused(&[MOBILE], "/foreign").expect_refusal(403, "subscription_missing");
    refused(&[MOBILE], "/keys").expect_refusal(401, "credential_missing");
    assert_eq!(stage.origin.requests(), 0);

    let production = Stage::with("required: false", "environment_type: production");
    production
        .ask(&["trial.example.org"], production.get("/certificates"))
        .expect_refusal(403, "key_type_mismatch");
}

#[test]
fn a_key_beside_the_certificate_is_what_counts_where_keys_are_taken() {
    let stage = Stage::optional();
    let key_id = |names: &[&str], request: Request| {
        let answer = stage.ask(names, request).expect(200);
        let record = stage.gateway.access_record(answer.header("x-request-id").unwrap());
        record["key_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(key_id(&["trial.example.org"], stage.get("/both").key(KEY)), "mobile-1");
    assert_eq!(key_id(&["trial.example.org"], stage.get("/both")), "trial-cert");
    assert_eq!(
        key_id(&[MOBILE], stage.get("/certificates").key(OTHER_KEY)),
        "mobile-cert"
    );
    stage
        .ask(&[MOBILE], stage.get("/both").key(OTHER_KEY))
        .expect_refusal(401, "credential_invalid");
}

#[test]
fn limits_per_key_count_the_name_whichever_certificate_it_is_in() {
    let stage = Stage::optional();
    let ask = |name: &str| stage.ask(&[name], stage.get("/limited"));
    ask(MOBILE).expect(200);
    ask(MOBILE).expect(200);
    ask(MOBILE).expect_refusal(429, "rate_limited");
    ask("trial.example.org").expect(200);
}

#[test]
fn a_certificate_of_another_authority_fails_the_handshake_and_so_does_an_expired_one() {
    let stage = Stage::optional();
    let fails = |shown: &Issued| {
        let client = stage.authority.client_with(shown);
        // In version 1.3 the client has finished before the gateway looks at its certificate.
        let tls = client.connect(stage.gateway.address(), "api.example.com");
        let failed = tls.map_or(true, |mut tls| {
            let _ = tls.connection.try_send(stage.get("/certificates").bytes());
            tls.connection.try_answer(false).is_err()
        });
        assert!(failed);
    };
    fails(&Authority::new().issue(&[MOBILE]));
    fails(&stage.clients.issue_expired(&["trial.example.org"]));
    until("both are counted", || {
        stage
            .gateway
            .metric("tollgate_tls_handshakes_total{result=\"client_certificate\"}")
            == 2.0
    });
    assert_eq!(stage.origin.requests(), 0);
}

#[test]
fn where_a_certificate_is_required_the_handshake_fails_without_one() {
    let stage = Stage::with("required: true", "");
    let tls = stage
        .authority
        .client()
        .connect(stage.gateway.address(), "api.example.com");
    let failed = tls.map_or(true, |mut tls| {
        let _ = tls.connection.try_send(stage.get("/certificates").bytes());
        tls.connection.try_answer(false).is_err()
    });
    assert!(failed);
    stage.ask(&[MOBILE], stage.get("/certificates")).expect(200);
    until("it is counted", || {
        stage
            .gateway
            .metric("tollgate_tls_handshakes_total{result=\"client_certificate\"}")
            == 1.0
    });
}

#[test]
fn an_authority_that_is_replaced_lets_nobody_in_any_more_not_even_by_an_old_session() {
    let stage = Stage::optional();
    let client = stage.authority.client_with(&stage.clients.issue(&[MOBILE]));
    let visit = || {
        let mut tls = client.connect(stage.gateway.address(), "api.example.com").ok()?;
        let _ = tls.connection.try_send(stage.get("/certificates").bytes());
        let answer = tls.connection.try_answer(false).ok()?;
        Some((answer.status, tls.is_resumed))
    };
    assert_eq!(visit(), Some((200, false)));
    assert_eq!(visit(), Some((200, true)), "a session remembers the certificate");

    let others = Authority::new();
    let fresh = stage.gateway.path().join("clients.crt.new");
    std::fs::write(&fresh, others.pem()).unwrap();
    std::fs::rename(fresh, stage.gateway.path().join("clients.crt")).unwrap();
    until("the new authority is trusted", || {
        stage
            .gateway
            .metric("tollgate_certificate_reloads_total{result=\"replaced\"}")
            >= 1.0
    });
    assert_eq!(visit(), None);
    let mut tls = stage
        .authority
        .client_with(&others.issue(&[MOBILE]))
        .connect(stage.gateway.address(), "api.example.com")
        .unwrap();
    stage.get("/certificates").send_on(&mut tls.connection).expect(200);
}

#[test]
fn explain_and_check_know_certificates() {
    let stage = Stage::optional();
    let config = stage.gateway.path().join("tollgate.yaml").display().to_string();
    let explain = |name: &str| {
        tollgate([
            "explain",
            "--config",
            &config,
            "--client-certificate",
            name,
            "https://api.example.com/certificates",
        ])
    };
    let output = explain(MOBILE);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output
            .stdout
            .contains("certificate, application \"mobile\", plan \"free\", certificate \"mobile-cert\""),
        "{}",
        output.stdout
    );
    let output = explain("dns:nobody.example");
    assert!(
        output.stdout.contains("401 credential_invalid: unknown_certificate"),
        "{}",
        output.stdout
    );
    assert_eq!(explain("nobody").code, Some(2));

    let output = tollgate(["check", "--config", &config]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!output.stdout.contains("no listener asks for one"), "{output:?}");
    let text = std::fs::read_to_string(&config).unwrap();
    let unasked = text.replace("client: {", "min_version: 1.3 } }] # {");
    let path = stage.gateway.path().join("unasked.yaml");
    std::fs::write(&path, unasked).unwrap();
    let output = tollgate(["check", "--config", &path.display().to_string()]);
    assert!(output.stdout.contains("no listener asks for one"), "{output:?}");
}
