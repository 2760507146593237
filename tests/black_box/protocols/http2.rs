//! HTTP/2 from clients: the same journey as over HTTP/1.1, with streams instead of connections.

use crate::harness::*;

#[test]
fn a_client_with_prior_knowledge_is_served_on_the_listener_of_http_1() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();
    let client = gateway.http2();
    let answer = client
        .get("/orders/7?a=b")
        .key(KEY)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .send()
        .expect(200);
    let echo = answer.echo();
    assert_eq!((echo.method.as_str(), echo.target.as_str()), ("GET", "/orders/7?a=b"));
    assert_eq!(echo.header("host"), Some(gateway.address().to_string().as_str()));
    assert_eq!(echo.header("cookie"), Some("a=1; b=2"));
    assert_eq!(echo.header("x-application"), Some("mobile"));
    assert_eq!(echo.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(echo.header("x-forwarded-proto"), Some("http"));
    assert_eq!(echo.header("x-api-key"), None);
    let id = answer.header("x-request-id").unwrap();
    let record = gateway.access_record(id);
    assert_eq!(
        (&record["client"], &record["status"]),
        (&"127.0.0.1".into(), &200.into())
    );
    assert_eq!(gateway.client().get("/orders/7").key(KEY).send().status, 200);
}
