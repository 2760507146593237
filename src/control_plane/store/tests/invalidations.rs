//! What gateways are to forget.

use serde_json::json;

use super::*;
use crate::control_plane::store::INVALIDATIONS_KEPT as KEPT;

told_of_both_stores!(
    invalidations_are_numbered_over_all_environments_and_read_by_one,
    of_many_who_invalidate_at_once_each_has_a_number_of_its_own,
    the_oldest_are_forgotten_and_who_needs_them_is_told,
);

async fn write(store: &Arc<dyn Store>, environment: &str, what: &str) -> u64 {
    store.write_invalidation(environment, "me", what, 1_000).await.unwrap()
}

async fn invalidations_are_numbered_over_all_environments_and_read_by_one(place: Place) {
    let store = &place.store;
    assert_eq!(store.invalidation_head().await.unwrap(), 0);
    assert!(store.invalidations("prod", 0, 10).await.unwrap().is_empty());
    let first = write(store, "prod", r#"{"tags":["a"]}"#).await;
    let second = write(store, "test", r#"{"all":true}"#).await;
    let third = write(store, "prod", r#"{"tags":["b"]}"#).await;
    assert_eq!((first, second, third), (1, 2, 3));
    let other = place.another().await;
    assert_eq!(other.invalidation_head().await.unwrap(), 3);
    let read = other.invalidations("prod", 0, 10).await.unwrap();
    let told: Vec<_> = read.iter().map(|record| (record.seq, record.what.clone())).collect();
    assert_eq!(told, [(1, json!({ "tags": ["a"] })), (3, json!({ "tags": ["b"] }))]);
    assert_eq!((read[0].at_ms, read[0].author.as_str()), (1_000, "me"));
    assert_eq!(store.invalidations("prod", 1, 10).await.unwrap().len(), 1);
    assert_eq!(store.invalidations("prod", 0, 1).await.unwrap()[0].seq, 1);
    assert!(store.invalidations("prod", 3, 10).await.unwrap().is_empty());
    let newest = store.newest_invalidations("prod", 1).await.unwrap();
    assert_eq!(newest[0].seq, 3);
}

async fn of_many_who_invalidate_at_once_each_has_a_number_of_its_own(place: Place) {
    let nodes = [Arc::clone(&place.store), place.another().await];
    let tasks: Vec<_> = (0..20_usize)
        .map(|number| {
            let store = Arc::clone(&nodes[number % 2]);
            tokio::spawn(async move { write(&store, "prod", "{}").await })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<u64>>());
}

async fn the_oldest_are_forgotten_and_who_needs_them_is_told(place: Place) {
    let store = &place.store;
    write(store, "test", "{}").await;
    for _ in 0..KEPT + 1 {
        write(store, "prod", "{}").await;
    }
    // The first two are gone, as far as anybody knows.
    for after in [0, 2] {
        not_found(store.invalidations("prod", after, 10).await);
    }
    let kept = store.invalidations("prod", 3, 1000).await.unwrap();
    assert_eq!((kept.len() as u64, kept[0].seq), (KEPT - 1, 4));
    assert_eq!(store.invalidation_head().await.unwrap(), KEPT + 2);
    // A busy environment is no reason to forget what the others were told.
    assert_eq!(store.invalidations("test", 0, 10).await.unwrap().len(), 1);
}
