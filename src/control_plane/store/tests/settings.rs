//! Small values.

use super::*;

told_of_both_stores!(
    a_setting_is_the_one_that_was_there_first,
    of_many_who_make_a_setting_at_once_all_get_the_same
);

async fn a_setting_is_the_one_that_was_there_first(place: Place) {
    let store = &place.store;
    assert_eq!(store.setting("signing_key", "one").await.unwrap(), "one");
    assert_eq!(
        place.another().await.setting("signing_key", "two").await.unwrap(),
        "one"
    );
    store.set_setting("signing_key", Some("three")).await.unwrap();
    assert_eq!(store.setting("signing_key", "four").await.unwrap(), "three");
    store.set_setting("signing_key", None).await.unwrap();
    store.set_setting("signing_key", None).await.unwrap();
    assert_eq!(store.setting("signing_key", "five").await.unwrap(), "five");
    store.set_setting("other", Some("")).await.unwrap();
    assert_eq!(store.setting("other", "x").await.unwrap(), "", "an empty value is one");
    store.ping().await.unwrap();
}

async fn of_many_who_make_a_setting_at_once_all_get_the_same(place: Place) {
    let nodes = [Arc::clone(&place.store), place.another().await];
    let tasks: Vec<_> = (0..20_usize)
        .map(|number| {
            let store = Arc::clone(&nodes[number % 2]);
            tokio::spawn(async move { store.setting("signing_key", &number.to_string()).await.unwrap() })
        })
        .collect();
    let mut values = Vec::new();
    for task in tasks {
        values.push(task.await.unwrap());
    }
    values.dedup();
    assert_eq!(values.len(), 1, "{values:?}");
}
