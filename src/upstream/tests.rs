use super::*;
use crate::document::Environment;
use crate::telemetry::Metrics;

/// An upstream as a revision has it.
fn terms(text: &str) -> revision::Upstream {
    let text = format!("version: 1\nupstreams:\n  - {text}\n");
    let loaded = revision::parse(
        &text,
        "revision.yaml",
        std::path::Path::new("."),
        &Environment::of_process(),
    );
    loaded
        .unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
        .revision
        .upstreams
        .remove(0)
}

fn registry() -> Arc<Registry> {
    Arc::new(Registry::new(None, Metrics::new().unwrap().upstreams().clone()))
}

fn found(terms: &revision::Upstream) -> Vec<Vec<Found>> {
    (terms.endpoints.iter())
        .map(|endpoint| resolve::Names::Leave.find(&endpoint.locator).unwrap())
        .collect()
}

fn ask(tried: &[u32]) -> Ask<'_> {
    Ask {
        dice: 0,
        key: 0,
        tried,
        repeatable: true,
        now: Moment::now(),
    }
}

fn ports(upstream: &Upstream, count: usize) -> Vec<u16> {
    (0..count)
        .map(|_| {
            upstream
                .view()
                .pick(&ask(&[]))
                .unwrap()
                .member
                .endpoint
                .address()
                .port()
        })
        .collect()
}

const THREE: &str = "{ name: orders, endpoints: [ { address: \"10.0.0.1:1\", weight: 5 }, { address: \"10.0.0.1:2\", weight: 2 }, { address: \"10.0.0.1:3\" } ] }";

#[test]
fn traffic_follows_the_weights() {
    let terms = terms(THREE);
    let upstream = registry().compile(&terms, found(&terms));
    let ports = ports(&upstream, 800);
    let hits = [1, 2, 3].map(|port| ports.iter().filter(|other| **other == port).count());
    assert_eq!(hits, [500, 200, 100]);
}

#[test]
fn a_retry_never_goes_to_an_endpoint_that_was_tried() {
    let terms = terms(THREE);
    let upstream = registry().compile(&terms, found(&terms));
    for _ in 0..50 {
        let mut tried = Tried::new();
        for _ in 0..3 {
            let view = upstream.view();
            let id = view.pick(&ask(&tried)).unwrap().member.endpoint.id();
            assert!(!tried.contains(&id));
            tried.push(id);
        }
        assert!(upstream.view().pick(&ask(&tried)).is_none());
    }
}

#[test]
fn a_revision_finds_rotation_and_endpoints_as_they_were() {
    let terms = terms(THREE);
    let registry = registry();
    let first = registry.compile(&terms, found(&terms));
    let ids = |upstream: &Upstream| -> Vec<u32> {
        upstream
            .view()
            .members()
            .iter()
            .map(|member| member.endpoint.id())
            .collect()
    };
    let before = (ids(&first), ports(&first, 3));
    let second = registry.compile(&terms, found(&terms));
    drop(first);
    assert_eq!(ids(&second), before.0);
    assert_ne!(ports(&second, 3), before.1, "it goes on, and does not begin again");
    assert_eq!(registry.newest().len(), 1);
}

#[test]
fn an_endpoint_that_moves_is_found_where_it_is_now() {
    let terms = terms("{ name: orders, endpoints: [ { address: \"orders.internal:80\" } ] }");
    let upstream = registry().compile(&terms, vec![Vec::new()]);
    assert!(upstream.view().pick(&ask(&[])).is_none());
    let place = |last| Found::at(([10, 0, 0, last], 80).into());
    upstream.moved([(0, vec![place(1), place(2)])]);
    let view = upstream.view();
    let labels: Vec<&str> = view.members().iter().map(|member| &*member.label).collect();
    assert_eq!(
        labels,
        ["orders.internal:80 (10.0.0.1)", "orders.internal:80 (10.0.0.2)"]
    );
}

#[test]
fn what_comes_beside_others_starts_slowly_and_what_a_gateway_begins_with_does_not() {
    let terms = terms("{ name: orders, endpoints: [ { address: \"orders.internal:80\" } ] }");
    let upstream = registry().compile(&terms, vec![Vec::new()]);
    let place = |last| Found::at(([10, 0, 0, last], 80).into());
    let is_new = |upstream: &Upstream| -> Vec<bool> {
        let view = upstream.view();
        (view.members().iter())
            .map(|member| member.endpoint.joined().is_some())
            .collect()
    };
    upstream.moved([(0, vec![place(1), place(2)])]);
    assert_eq!(is_new(&upstream), [false, false], "the first that were found");
    assert!(!upstream.view().is_moving());
    upstream.moved([(0, vec![place(1), place(2), place(3)])]);
    assert_eq!(is_new(&upstream), [false, false, true]);
    assert!(upstream.view().is_moving());
    let again = upstream.registry.compile(&terms, vec![vec![place(2), place(4)]]);
    assert_eq!(is_new(&again), [false, true], "by revision as by DNS");
}

#[test]
fn names_that_are_found_together_are_all_what_a_gateway_begins_with() {
    let terms = terms(
        "{ name: orders, endpoints: [ { address: \"a.internal:80\" }, { address: \"b.internal:80\" }, { address: \"c.internal:80\" } ] }",
    );
    let upstream = registry().compile(&terms, vec![Vec::new(); 3]);
    let moves = (0..3_u8).map(|number| (usize::from(number), vec![Found::at(([10, 0, 0, number], 80).into())]));
    upstream.moved(moves);
    let view = upstream.view();
    assert_eq!(view.members().len(), 3);
    assert!(view.members().iter().all(|member| member.endpoint.joined().is_none()));
}

/// Makes sure that a view that is gone is not mistaken for one that came later.
fn current(upstream: &Upstream) -> Arc<View> {
    Arc::clone(&upstream.view())
}

#[tokio::test]
async fn what_changed_while_an_upstream_was_compiled_is_seen_soon() {
    let (terms, registry) = (terms(THREE), registry());
    let upstream = registry.compile(&terms, found(&terms));
    let before = current(&upstream);
    let keeping = tokio::spawn(Arc::clone(&registry).keep());
    let made_anew = async {
        while Arc::ptr_eq(&before, &upstream.view()) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), made_anew).await;
    keeping.abort();
    in_time.expect("a new view, although nobody says that anything changed");
}

#[tokio::test]
async fn changes_that_come_together_make_one_view_and_not_one_each() {
    let (terms, registry) = (terms(THREE), registry());
    let upstream = registry.compile(&terms, found(&terms));
    let keeping = tokio::spawn(Arc::clone(&registry).keep());
    let begun = std::time::Instant::now();
    let mut views = vec![current(&upstream)];
    for _ in 0..1000 {
        registry.changed();
        tokio::task::yield_now().await;
        if views.last().is_none_or(|last| !Arc::ptr_eq(last, &upstream.view())) {
            views.push(current(&upstream));
        }
    }
    keeping.abort();
    // At most one each five milliseconds, and those of the rounds that come by themselves: however slow this machine is.
    let most = begun.elapsed().as_millis() / 5 + begun.elapsed().as_millis() / 100 + 4;
    assert!(views.len() as u128 <= most, "{} views, and not {most}", views.len());
}

#[test]
fn a_view_is_made_anew_of_the_same_members_until_one_moves() {
    let terms = terms(THREE);
    let upstream = registry().compile(&terms, found(&terms));
    let members = |upstream: &Upstream| upstream.view().members().as_ptr();
    let before = members(&upstream);
    upstream.refresh(Moment::now());
    assert_eq!(members(&upstream), before);
    upstream.moved([(0, vec![Found::at(([10, 0, 0, 9], 1).into())])]);
    assert_ne!(members(&upstream), before);
}
