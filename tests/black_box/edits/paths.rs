//! Paths that the service gets instead of those that were matched.

use super::with_api;
use crate::harness::*;

#[test]
fn a_rewritten_path_goes_upstream_with_the_query_as_it_was() {
    let origin = Origin::start(echo());
    let gateway = with_api(
        &origin,
        r#"strip_base_path: true, routes: [ { path: "/v1/{id}", rewrite: "/internal/{id}/full" },
             { path: "/files/*", rewrite: "/store/*" }, { path: "/plain/{x}" }, { path: /fixed, rewrite: / } ]"#,
    );
    let target = |target: &str| gateway.client().get(target).send().expect(200).echo().target;
    assert_eq!(target("/a/v1/7?x=%2F&y"), "/internal/7/full?x=%2F&y");
    assert_eq!(target("/a/v1/a%20b"), "/internal/a%20b/full");
    assert_eq!(target("/a/files/x//y/../z"), "/store/x/z");
    assert_eq!(target("/a/files/"), "/store/");
    assert_eq!(
        target("/a/plain/1"),
        "/plain/1",
        "strip_base_path still counts for other routes"
    );
    assert_eq!(target("/a/fixed?q"), "/?q");
}
