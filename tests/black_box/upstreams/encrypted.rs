//! TLS towards endpoints: verified, always, against what the upstream trusts; with a certificate of the gateway's own; and
//! HTTP/2 inside. The endpoint is another gateway, with a service behind it.

use crate::harness::*;

/// A gateway that speaks TLS as `127.0.0.1` and `orders.internal`, in front of an echo.
struct Endpoint {
    origin: Origin,
    gateway: Gateway,
    authority: Authority,
}

impl Endpoint {
    /// With these settings of its TLS, and this certificate.
    fn with(authority: Authority, shown: &Issued, tls: &str, clients: &Authority) -> Self {
        let origin = Origin::start(echo());
        let setup = Gateway::with(revision(&origin));
        shown.write(setup.path(), "own");
        let gateway = setup
            .file("clients.crt", clients.pem())
            .listening(&format!(
                "tls: {{ certificates: [{{ certificate: \"DIR/own.crt\", key: \"DIR/own.key\" }}], {tls} }}"
            ))
            .start();
        Self {
            origin,
            gateway,
            authority,
        }
    }

    fn start() -> Self {
        let authority = Authority::new();
        let shown = authority.issue(&["ip:127.0.0.1", "orders.internal"]);
        let nobody = Authority::new();
        Self::with(authority, &shown, "", &nobody)
    }

    /// A gateway before it, that goes by these settings of its upstream; `CA` is the file that holds the authority's.
    fn before(&self, settings: &str) -> Gateway {
        self.before_with(settings, &[])
    }

    fn before_with(&self, settings: &str, files: &[(&str, &str)]) -> Gateway {
        let address = self.gateway.address();
        let setup = Gateway::with("").file("ca.pem", self.authority.pem());
        let setup = (files.iter()).fold(setup, |setup, (name, text)| setup.file(name, text));
        let directory = setup.path().display().to_string();
        let settings = settings.replace("DIR", &directory);
        let revision = Revision::empty()
            .upstream(&format!(
                "{{ name: orders, endpoints: [{{ address: \"{address}\" }}], {settings} }}"
            ))
            .api("{ name: orders, base_path: /open, auth: none, upstream: orders }");
        setup.file("revision.yaml", revision.to_string()).start()
    }
}

/// What the gateway says in its access log of a request that it refused.
#[track_caller]
fn reason(gateway: &Gateway) -> String {
    let answer = gateway
        .client()
        .get("/open")
        .send()
        .expect_refusal(502, "upstream_failed");
    let record = gateway.access_record(answer.header("x-request-id").unwrap());
    record["reason"].as_str().unwrap_or_default().to_owned()
}

const CA: &str = "ca: \"${file:DIR/ca.pem}\"";

#[test]
fn an_endpoint_is_believed_when_its_certificate_is_for_its_address_or_the_name_that_is_asked_for() {
    let endpoint = Endpoint::start();
    let by_address = endpoint.before(&format!("tls: {{ {CA} }}"));
    let echo = by_address.client().get("/open/a").send().expect(200).echo();
    assert_eq!(
        echo.header("x-forwarded-proto"),
        Some("https"),
        "the last hop was encrypted"
    );
    let by_name = endpoint.before(&format!("tls: {{ {CA}, server_name: orders.internal }}"));
    by_name.client().post("/open/b", "content").send().expect(200);
    assert_eq!(endpoint.origin.requests(), 2);
}

#[test]
fn a_certificate_that_is_wrong_is_refused_and_the_log_says_what_is_wrong_with_it() {
    let endpoint = Endpoint::start();
    let stranger = endpoint.before_with(
        "tls: { ca: \"${file:DIR/other.pem}\" }",
        &[("other.pem", &Authority::new().pem())],
    );
    // Another authority of the same name.
    assert_eq!(reason(&stranger), "certificate_badly_signed");
    stranger.logs("no TLS with it");
    let renamed = endpoint.before(&format!("tls: {{ {CA}, server_name: payments.internal }}"));
    assert_eq!(reason(&renamed), "certificate_of_another_name");
    // The host's own trusted certificates do not know the test's authority, or there are none.
    let unsaid = endpoint.before("tls: {}");
    assert_eq!(reason(&unsaid), "certificate_of_unknown_issuer");

    let authority = Authority::new();
    let origin = Origin::start(echo());
    let plain = Endpoint {
        gateway: Gateway::with(revision(&origin)).start(),
        origin,
        authority,
    };
    assert_eq!(reason(&plain.before(&format!("tls: {{ {CA} }}"))), "handshake_failed");
    assert_eq!(endpoint.origin.requests() + plain.origin.requests(), 0);
}

#[test]
fn an_endpoint_that_asks_who_is_there_is_shown_the_upstreams_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let shown = authority.issue(&["ip:127.0.0.1"]);
    let endpoint = Endpoint::with(
        authority,
        &shown,
        "client: { ca: \"DIR/clients.crt\", required: true }",
        &clients,
    );
    let own = clients.issue(&["dns:gateway.internal"]);
    let files = [("own.pem", own.certificate.as_str()), ("own.key", own.key.as_str())];
    let pair = "certificate: \"${file:DIR/own.pem}\", key: \"${file:DIR/own.key}\"";
    let known = endpoint.before_with(&format!("tls: {{ {CA}, {pair} }}"), &files);
    known.client().get("/open").send().expect(200);
    let unknown = endpoint.before(&format!("tls: {{ {CA} }}"));
    unknown
        .client()
        .get("/open")
        .send()
        .expect_refusal(502, "upstream_failed");
    assert_eq!(endpoint.origin.requests(), 1);
}

#[test]
fn upstreams_that_trust_differently_never_share_a_connection() {
    let endpoint = Endpoint::start();
    let address = endpoint.gateway.address();
    let setup = Gateway::with("")
        .file("ca.pem", endpoint.authority.pem())
        .file("other.pem", Authority::new().pem());
    let directory = setup.path().display().to_string();
    let upstream = |name: &str, file: &str| {
        format!(
            "{{ name: {name}, endpoints: [{{ address: \"{address}\" }}], tls: {{ ca: \"${{file:{directory}/{file}}}\" }} }}"
        )
    };
    let revision = Revision::empty()
        .upstream(&upstream("right", "ca.pem"))
        .upstream(&upstream("wrong", "other.pem"))
        .api("{ name: right, base_path: /open, auth: none, upstream: right }")
        .api("{ name: wrong, base_path: /wrong, auth: none, upstream: wrong }");
    let gateway = setup.file("revision.yaml", revision.to_string()).start();
    for _ in 0..5 {
        gateway.client().get("/open").send().expect(200);
        gateway
            .client()
            .get("/wrong")
            .send()
            .expect_refusal(502, "upstream_failed");
    }
}

#[test]
fn http_2_is_spoken_with_endpoints_that_are_told_to_and_with_those_that_offer_it() {
    let endpoint = Endpoint::start();
    for protocol in ["http1", "http2", "auto"] {
        let gateway = endpoint.before(&format!("protocol: {protocol}, tls: {{ {CA} }}"));
        for number in 0..5 {
            let answer = gateway
                .client()
                .post("/open", format!("number {number}"))
                .send()
                .expect(200);
            assert_eq!(answer.echo().body, format!("number {number}"), "{protocol}");
        }
    }
    let origin = Origin::start(echo());
    let plain = Gateway::with(revision(&origin)).start();
    let revision = Revision::empty()
        .upstream(&format!(
            "{{ name: orders, protocol: http2, endpoints: [{{ address: \"{}\" }}] }}",
            plain.address()
        ))
        .api("{ name: orders, base_path: /open, auth: none, upstream: orders }");
    let gateway = Gateway::with(revision).start();
    gateway.client().get("/open").send().expect(200);
}

#[test]
fn what_can_not_be_used_is_a_mistake_with_its_place() {
    let (one, two) = (Authority::new().issue(&["a"]), Authority::new().issue(&["a"]));
    let check = |tls: &str| {
        let setup = Gateway::with("")
            .file("one.pem", &one.certificate)
            .file("two.key", &two.key)
            .file("garbage", "nothing");
        let directory = setup.path().display().to_string();
        let tls = tls.replace("DIR", &directory);
        let revision = Revision::empty().upstream(&format!(
            "{{ name: orders, endpoints: [{{ address: \"127.0.0.1:9\" }}], tls: {{ {tls} }} }}"
        ));
        setup.file("revision.yaml", revision.to_string()).run().stderr
    };
    let pair = check("certificate: \"${file:DIR/one.pem}\", key: \"${file:DIR/two.key}\"");
    assert!(
        pair.contains("revision.yaml:") && pair.contains("can not be used with this key"),
        "{pair}"
    );
    assert!(check("ca: \"${file:DIR/garbage}\"").contains("no certificate in PEM"));
    assert!(check("certificate: \"${file:DIR/one.pem}\"").contains("without its key"));
    assert!(check("verify: false").contains("verify"), "there is no such key");
    assert!(check("server_name: \"not a name\"").contains("is not a name that a certificate can have"));
}
