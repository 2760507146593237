//! Objects, versions and generations.

use super::*;

told_of_both_stores!(
    an_object_is_there_after_a_restart_with_a_version_that_grows,
    who_was_late_is_told_which_object_and_which_version,
    changes_happen_all_or_not_at_all,
    a_version_is_never_used_again_for_the_same_name,
    objects_come_in_the_order_of_bytes_and_in_pages,
    a_generation_is_what_revisions_are_composed_of,
    two_who_change_the_same_object_are_never_both_told_done,
);

async fn an_object_is_there_after_a_restart_with_a_version_that_grows(place: Place) {
    let created = objects([put(ObjectKind::Plan, "gold", Expected::Absent, "{\"a\":1}")]);
    let committed = place.store.commit(&created, 1_000).await.unwrap();
    let gold = Object {
        kind: ObjectKind::Plan,
        name: "gold".to_owned(),
        version: 1,
        value: "{\"a\":1}".to_owned(),
        created_ms: 1_000,
        updated_ms: 1_000,
    };
    assert_eq!(committed.objects, std::slice::from_ref(&gold));
    let changed = objects([put(ObjectKind::Plan, "gold", Expected::Version(1), "{\"a\":2}")]);
    let committed = place.store.commit(&changed, 2_000).await.unwrap();
    let gold = Object {
        version: 2,
        value: "{\"a\":2}".to_owned(),
        updated_ms: 2_000,
        ..gold
    };
    assert_eq!(committed.objects, std::slice::from_ref(&gold));

    let after = place.another().await;
    assert_eq!(after.object(ObjectKind::Plan, "gold").await.unwrap(), Some(gold));
    assert_eq!(
        after.object(ObjectKind::Api, "gold").await.unwrap(),
        None,
        "another kind"
    );
}

async fn who_was_late_is_told_which_object_and_which_version(place: Place) {
    let store = &place.store;
    let change = async |change| store.commit(&objects([change]), 1).await;
    let kind = ObjectKind::Api;
    assert_eq!(
        not_found(change(put(kind, "orders", Expected::Version(6), "1")).await),
        "api \"orders\" does not exist"
    );
    assert_eq!(
        not_found(change(remove(kind, "orders", Expected::Present)).await),
        "api \"orders\" does not exist"
    );
    assert_eq!(
        change(remove(kind, "orders", Expected::Anything)).await.unwrap(),
        Committed::default()
    );
    change(put(kind, "orders", Expected::Anything, "1")).await.unwrap();
    change(put(kind, "orders", Expected::Present, "2")).await.unwrap();
    assert_eq!(
        conflict(change(put(kind, "orders", Expected::Absent, "3")).await),
        "api \"orders\" exists already"
    );
    assert_eq!(
        conflict(change(remove(kind, "orders", Expected::Version(1))).await),
        "api \"orders\" was changed by somebody else (version 2, not 1)"
    );
    assert_eq!(store.object(kind, "orders").await.unwrap().unwrap().value, "2");
}

async fn changes_happen_all_or_not_at_all(place: Place) {
    let store = &place.store;
    let before = store.generation().await.unwrap();
    let mut changes = publish("prod", 0, b"content");
    changes.objects = vec![
        put(ObjectKind::Api, "orders", Expected::Absent, "1"),
        put(ObjectKind::Plan, "gold", Expected::Version(3), "1"),
    ];
    not_found(store.commit(&changes, 1).await);
    assert_eq!(store.object(ObjectKind::Api, "orders").await.unwrap(), None);
    assert_eq!(store.head("prod").await.unwrap(), None);
    assert_eq!(store.blob(&ContentHash::of(b"content")).await.unwrap(), None);
    assert_eq!(store.generation().await.unwrap(), before);

    changes.objects.pop();
    let committed = store.commit(&changes, 1).await.unwrap();
    assert_eq!((committed.objects.len(), committed.revisions.len()), (1, 1));
    assert_eq!(
        store.blob(&ContentHash::of(b"content")).await.unwrap().unwrap(),
        b"content"
    );
}

async fn a_version_is_never_used_again_for_the_same_name(place: Place) {
    let store = &place.store;
    let kind = ObjectKind::Token;
    for version in 1..=5 {
        let change = put(kind, "t1", Expected::Anything, "x");
        assert_eq!(
            store.commit(&objects([change]), 1).await.unwrap().objects[0].version,
            version
        );
    }
    store
        .commit(&objects([remove(kind, "t1", Expected::Version(5))]), 1)
        .await
        .unwrap();
    let again = store
        .commit(&objects([put(kind, "t1", Expected::Absent, "y")]), 1)
        .await
        .unwrap();
    assert_eq!(again.objects[0].version, 6);
    let replaced = objects([
        remove(kind, "t1", Expected::Version(6)),
        put(kind, "t1", Expected::Absent, "z"),
        put(kind, "other", Expected::Absent, "z"),
    ]);
    let versions: Vec<u64> = store
        .commit(&replaced, 1)
        .await
        .unwrap()
        .objects
        .iter()
        .map(|object| object.version)
        .collect();
    assert_eq!(versions, [7, 7], "removed and made again in one go");
}

async fn objects_come_in_the_order_of_bytes_and_in_pages(place: Place) {
    let store = &place.store;
    let names = ["b", "a-1", "a", "B", "ä", "a.1", "Z", "a1"];
    let changes: Vec<ObjectChange> = names
        .iter()
        .map(|name| put(ObjectKind::Api, name, Expected::Absent, name))
        .collect();
    store.commit(&objects(changes), 1).await.unwrap();
    store
        .commit(&objects([put(ObjectKind::Plan, "a", Expected::Absent, "1")]), 1)
        .await
        .unwrap();
    let mut expected = names;
    expected.sort_unstable();
    let mut found: Vec<String> = Vec::new();
    loop {
        let after = found.last().cloned();
        let page = store.objects(ObjectKind::Api, after.as_deref(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|object| object.name));
    }
    assert_eq!(found, expected);
    assert_eq!(
        store.objects(ObjectKind::Api, None, usize::MAX).await.unwrap().len(),
        names.len()
    );
}

async fn a_generation_is_what_revisions_are_composed_of(place: Place) {
    let store = &place.store;
    let start = store.generation().await.unwrap();
    for kind in [ObjectKind::Source, ObjectKind::Pool, ObjectKind::Token] {
        store
            .commit(&objects([put(kind, "x", Expected::Absent, "1")]), 1)
            .await
            .unwrap();
        assert_eq!(store.generation().await.unwrap(), start, "{kind:?}");
    }
    let mut expected = start;
    for kind in [
        ObjectKind::Environment,
        ObjectKind::Api,
        ObjectKind::ApiRevision,
        ObjectKind::Plan,
        ObjectKind::Application,
    ] {
        store
            .commit(&objects([put(kind, "x", Expected::Absent, "1")]), 1)
            .await
            .unwrap();
        expected += 1;
        assert_eq!(store.generation().await.unwrap(), expected, "{kind:?}");
    }
    // A publish that was thought up before the last change has to be thought over.
    let mut changes = publish("prod", 0, b"content");
    changes.generation = Some(expected - 1);
    assert!(conflict(store.commit(&changes, 1).await).contains("somebody else"));
    assert_eq!(store.head("prod").await.unwrap(), None);
    changes.generation = Some(expected);
    store.commit(&changes, 1).await.unwrap();
    assert_eq!(
        store.generation().await.unwrap(),
        expected,
        "a publish changes nothing that it is made of"
    );
    // And a change that says what it was decided on makes the next generation.
    let mut changes = objects([put(ObjectKind::Plan, "y", Expected::Absent, "1")]);
    changes.generation = Some(expected);
    store.commit(&changes, 1).await.unwrap();
    assert_eq!(store.generation().await.unwrap(), expected + 1);
}

async fn two_who_change_the_same_object_are_never_both_told_done(place: Place) {
    let kind = ObjectKind::Application;
    place
        .store
        .commit(&objects([put(kind, "mobile", Expected::Absent, "0")]), 1)
        .await
        .unwrap();
    let nodes = [Arc::clone(&place.store), place.another().await];
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let store = Arc::clone(&nodes[number % 2]);
            tokio::spawn(async move {
                let change = put(kind, "mobile", Expected::Version(1), &number.to_string());
                let created = put(kind, "once", Expected::Absent, &number.to_string());
                let changed = store.commit(&objects([change]), 1).await;
                let made = store.commit(&objects([created]), 1).await;
                for answer in [&changed, &made] {
                    assert!(matches!(answer, Ok(_) | Err(StoreError::Conflict(_))), "{answer:?}");
                }
                (u32::from(changed.is_ok()), u32::from(made.is_ok()))
            })
        })
        .collect();
    let mut done = (0, 0);
    for task in tasks {
        let (changed, made) = task.await.unwrap();
        done = (done.0 + changed, done.1 + made);
    }
    assert_eq!(done, (1, 1));
}
