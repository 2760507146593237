use super::*;
use crate::document::Environment;
use crate::revision;
use crate::telemetry::Metrics;
use crate::upstream::resolve::Found;

/// The upstream `orders` at one address, with these settings more.
fn terms(settings: &str) -> revision::Upstream {
    let text = format!(
        "version: 1\nupstreams: [ {{ name: orders, endpoints: [ {{ address: \"10.0.0.1:80\" }} ]{settings} }} ]\n"
    );
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

#[tokio::test]
async fn what_checks_have_shown_is_forgotten_when_a_revision_has_none_any_more() {
    let registry = Arc::new(Registry::new(None, Metrics::new().unwrap().upstreams().clone()));
    let (checked, unchecked) = (terms(", health_check: { path: /health }"), terms(""));
    let place = || vec![vec![Found::at(([10, 0, 0, 1], 80).into())]];
    let mut checks = Checks::new(Arc::clone(&registry));
    let first = registry.compile(&checked, place());
    checks.look(Instant::now()).await;
    assert_eq!(checks.slots.len(), 1);
    let endpoint = Arc::clone(&first.view().members()[0].endpoint);
    let check = checked.health_check.as_ref().unwrap();
    for _ in 0..check.unhealthy {
        endpoint.health().checked(false, check);
    }
    // Another revision with checks takes over what is known.
    let second = registry.compile(&checked, place());
    checks.look(Instant::now()).await;
    assert!(!endpoint.health().is_up());
    let third = registry.compile(&unchecked, place());
    checks.look(Instant::now()).await;
    assert!(checks.slots.is_empty());
    assert!(endpoint.health().is_up(), "nobody asks any more");
    let fourth = registry.compile(&checked, place());
    assert!(Arc::ptr_eq(&endpoint, &fourth.view().members()[0].endpoint));
    assert!(endpoint.health().is_up(), "until it is asked again");
    drop((first, second, third));
}
