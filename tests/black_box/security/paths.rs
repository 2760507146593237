//! Ways to write a protected path so that the gateway and the service disagree about it.

use crate::harness::*;

/// A protected API and an open one, each with a service of its own.
struct Realm {
    gateway: Gateway,
    protected: Origin,
    open: Origin,
}

impl Realm {
    fn new() -> Self {
        let (protected, open) = (Origin::start(echo()), Origin::start(echo()));
        let revision = Revision::of(&open)
            .upstream(&format!(
                "{{ name: protected, endpoints: [{{ address: \"{}\" }}] }}",
                protected.address()
            ))
            .api("{ name: admin, base_path: /admin, auth: [api_key], upstream: protected }")
            .api("{ name: public, base_path: /public, auth: none, upstream: origin }")
            .mobile(&["admin"]);
        Self {
            gateway: Gateway::with(revision).start(),
            protected,
            open,
        }
    }

    #[track_caller]
    fn is_unharmed(&self) {
        self.gateway.assert_unharmed(&self.open, "/public/last");
    }
}

/// Every other way to write `/admin/users`.
const SAME: [&str; 22] = [
    "/admin/users",
    "/%61dmin/users",
    "/%61%64%6d%69%6e/users",
    "/%61%64%6D%69%6E/users",
    "/admi%6e/users",
    "/admin/%75sers",
    "//admin/users",
    "///admin///users",
    "/admin//users",
    "/./admin/users",
    "/admin/./users",
    "/%2e/admin/users",
    "/public/../admin/users",
    "/public/%2e%2e/admin/users",
    "/public/%2E%2E/admin/users",
    "/public/.%2e/admin/users",
    "/public/%2e./admin/users",
    "/public//../admin/users",
    "/public/x/../../admin/users",
    "/public/./../admin/users",
    "/admin/x/../users",
    "/nowhere/../admin/users",
];

/// What can be read in more than one way.
const AMBIGUOUS: [&str; 36] = [
    "/..",
    "/../admin/users",
    "/public/../../admin/users",
    "/%2e%2e/admin/users",
    "/admin%2fusers",
    "/admin%2Fusers",
    "/%2fadmin/users",
    "/public%2f..%2fadmin/users",
    "/public/..%2fadmin/users",
    "/public/%2e%2e%2fadmin/users",
    "/public/..%5cadmin/users",
    "/public/..\\admin/users",
    "/public\\..\\admin/users",
    "/\\admin/users",
    "/%5cadmin/users",
    "/%2561dmin/users",
    "/%252e%252e/admin/users",
    "/public/%252e%252e/admin/users",
    "/public/%252e%252e%252fadmin/users",
    "/public/%25%32%65%25%32%65/admin/users",
    "/public/..;/admin/users",
    "/public;x/../admin/users",
    "/admin;x=1/users",
    "/admin;/users",
    "/admin/users;jsessionid=1",
    "/admin%00/users",
    "/public%00/../admin/users",
    "/admin%0a/users",
    "/admin%0d%0aX:y/users",
    "/admin%/users",
    "/admin%6/users",
    "/admin%zz/users",
    "/%u0061dmin/users",
    "/%c0%ae%c0%ae/admin/users",
    "/public/%c0%ae%c0%ae/admin/users",
    "/%ef%bc%8fadmin%c0%afusers",
];

#[test]
fn every_writing_of_a_protected_path_needs_its_key_or_is_refused() {
    let realm = Realm::new();
    let client = realm.gateway.client();
    for path in SAME {
        for suffix in ["", "?a=b", "?/../public"] {
            let target = format!("{path}{suffix}");
            let answer = client.get(&target).send();
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "credential_missing"),
                "{target}"
            );
        }
    }
    for path in AMBIGUOUS {
        let answer = client.get(path).send();
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{path}");
    }
    assert_eq!(realm.protected.bytes(), 0, "a request without key got through");
    assert_eq!(realm.open.bytes(), 0, "a request went to the wrong service");
    realm.is_unharmed();
}

#[test]
fn with_the_key_the_service_sees_the_path_that_was_matched() {
    let realm = Realm::new();
    let client = realm.gateway.client();
    for path in SAME {
        let answer = client.get(path).key(KEY).send();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.echo().target, "/admin/users", "{path}");
    }
    let seen = realm.protected.requests();
    for path in AMBIGUOUS {
        client.get(path).key(KEY).send().expect_refusal(400, "bad_request");
    }
    assert_eq!(realm.protected.requests(), seen, "an ambiguous path got through");
    realm.is_unharmed();
}

#[test]
fn a_path_that_only_looks_like_a_protected_one_is_another_path() {
    let realm = Realm::new();
    for path in [
        "/Admin/users",
        "/ADMIN/users",
        "/administrator",
        "/admin.",
        "/admin%20/users",
        "/admin/../users",
        "/.",
    ] {
        let answer = realm.gateway.client().get(path).key(KEY).send();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "route_not_found"),
            "{path}"
        );
    }
    for path in [
        "/public/admin/users",
        "/public/a/../admin/users",
        "/admin/../public/users",
        "/public/...",
        "/public/%3Badmin",
    ] {
        let answer = realm.gateway.client().get(path).send();
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.echo().target.starts_with("/public/"), "{path}");
    }
    assert_eq!(realm.protected.bytes(), 0);
    realm.is_unharmed();
}

#[test]
fn fields_that_claim_another_path_or_method_change_nothing() {
    let realm = Realm::new();
    for name in [
        "X-Original-URL",
        "X-Rewrite-URL",
        "X_Original_URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X_HTTP_Method_Override",
    ] {
        let client = realm.gateway.client();
        let echo = client
            .get("/public")
            .header(name, "/admin/users")
            .send()
            .expect(200)
            .echo();
        assert_eq!(
            (echo.method.as_str(), echo.target.as_str()),
            ("GET", "/public"),
            "{name}"
        );
        assert!(echo.all(name).is_empty(), "{name} reached the service");
        client
            .get("/admin")
            .header(name, "/public")
            .send()
            .expect_refusal(401, "credential_missing");
    }
    assert_eq!(realm.protected.bytes(), 0);
    realm.is_unharmed();
}

#[test]
fn a_request_with_content_where_none_is_expected_is_one_request() {
    let realm = Realm::new();
    let mut connection = realm.gateway.raw();
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let hidden = "GET /admin/users HTTP/1.1\r\nHost: a\r\n\r\n";
        let answer = realm
            .gateway
            .client()
            .request(method, "/public/fat")
            .body(hidden)
            .send_on(&mut connection);
        assert_eq!(answer.status, 200, "{method}");
        if method != "HEAD" {
            assert_eq!(answer.echo().body, hidden, "{method}");
        }
    }
    drop(connection);
    assert_eq!(realm.protected.bytes(), 0);
    realm.is_unharmed();
}
