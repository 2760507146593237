//! A request's way through the gateway and back.

use crate::harness::*;

#[test]
fn a_request_with_a_key_reaches_the_origin() {
    let origin = Origin::start(echo());
    let gateway = Gateway::with(revision(&origin)).start();

    let answer = gateway.client().get("/orders").key(KEY).send().expect(200);

    assert_eq!(answer.echo().method, "GET");
    assert_eq!(answer.echo().target, "/orders");
}
