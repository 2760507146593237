//! Revisions and blobs.

use serde_json::json;

use super::*;

told_of_both_stores!(
    a_revision_is_read_as_it_was_published,
    twenty_who_publish_at_once_make_twenty_revisions_in_a_row,
    a_revision_without_its_snapshot_is_refused,
    revisions_of_several_environments_are_published_as_one,
    pruning_leaves_what_is_still_referred_to,
    a_publish_never_loses_its_snapshot_to_a_prune,
    a_large_blob_comes_back_whole,
);

async fn a_revision_is_read_as_it_was_published(place: Place) {
    let store = &place.store;
    assert_eq!(store.heads().await.unwrap(), []);
    let first = store
        .commit(&publish("prod", 0, b"one"), 1_000)
        .await
        .unwrap()
        .revisions
        .remove(0);
    let expected = PublishedRevision {
        environment: "prod".to_owned(),
        seq: 1,
        root: ContentHash::of(b"root"),
        snapshot: ContentHash::of(b"one"),
        snapshot_size: 3,
        snapshot_raw_size: 1_000,
        routes: 3,
        source: "{}".to_owned(),
        author: "ada".to_owned(),
        note: "a \"note\"".to_owned(),
        rollback_of: None,
        published_ms: 1_000,
    };
    assert_eq!(first, expected);
    let second = store
        .commit(&publish("prod", 1, b"two"), 2_000)
        .await
        .unwrap()
        .revisions
        .remove(0);
    let late = store.commit(&publish("prod", 1, b"late"), 2_000).await;
    assert_eq!(
        conflict(late),
        "somebody else has published to \"prod\": it is at revision 2, not 1"
    );
    // A rollback: the blob of the first one is there already.
    let mut rollback = revision("prod", 2, first.snapshot);
    rollback.rollback_of = Some(1);
    let changes = Changes {
        revisions: vec![rollback],
        ..Changes::default()
    };
    let third = store.commit(&changes, 3_000).await.unwrap().revisions.remove(0);
    assert_eq!((third.seq, third.snapshot_size, third.rollback_of), (3, 3, Some(1)));

    let store = place.another().await;
    assert_eq!(store.head("prod").await.unwrap().as_ref(), Some(&third));
    assert_eq!(store.heads().await.unwrap(), std::slice::from_ref(&third));
    assert_eq!(store.revision("prod", 1).await.unwrap().as_ref(), Some(&first));
    assert_eq!(store.revision("prod", 4).await.unwrap(), None);
    assert_eq!(store.revisions("prod", None, 2).await.unwrap(), [third, second]);
    assert_eq!(store.revisions("prod", Some(2), 2).await.unwrap(), [first]);
    assert_eq!(store.revisions("test", None, 2).await.unwrap(), []);
}

async fn twenty_who_publish_at_once_make_twenty_revisions_in_a_row(place: Place) {
    let nodes = [Arc::clone(&place.store), place.another().await];
    let tasks: Vec<_> = (0..20_usize)
        .map(|number| {
            let store = Arc::clone(&nodes[number % 2]);
            tokio::spawn(async move {
                let bytes = number.to_be_bytes();
                loop {
                    let after = store.head("prod").await.unwrap().map_or(0, |head| head.seq);
                    match store.commit(&publish("prod", after, &bytes), 1).await {
                        Ok(committed) => return committed.revisions[0].seq,
                        Err(StoreError::Conflict(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<u64>>());
    let stored: Vec<u64> = place
        .store
        .revisions("prod", None, 100)
        .await
        .unwrap()
        .iter()
        .map(|revision| revision.seq)
        .collect();
    assert_eq!(stored, (1..=20).rev().collect::<Vec<u64>>());
}

async fn a_revision_without_its_snapshot_is_refused(place: Place) {
    let changes = Changes {
        revisions: vec![revision("prod", 0, ContentHash::of(b"nowhere"))],
        ..Changes::default()
    };
    let error = place.store.commit(&changes, 1).await.unwrap_err().to_string();
    assert!(error.contains("is not stored") && error.contains("\"prod\""), "{error}");
    assert!(error.contains(&place.store.name()), "{error}");
    assert_eq!(place.store.head("prod").await.unwrap(), None);
}

async fn revisions_of_several_environments_are_published_as_one(place: Place) {
    let store = &place.store;
    store.commit(&publish("b", 0, b"one"), 1).await.unwrap();
    let snapshot = ContentHash::of(b"one");
    let both = |after_a, after_b| Changes {
        revisions: vec![revision("b", after_b, snapshot), revision("a", after_a, snapshot)],
        ..Changes::default()
    };
    conflict(store.commit(&both(0, 0), 1).await);
    assert_eq!(store.head("a").await.unwrap(), None, "not one of the two");
    let committed = store.commit(&both(0, 1), 1).await.unwrap();
    let published: Vec<_> = committed
        .revisions
        .iter()
        .map(|revision| (revision.environment.as_str(), revision.seq))
        .collect();
    assert_eq!(published, [("b", 2), ("a", 1)], "in the order in which they were given");
    let heads = store.heads().await.unwrap();
    let heads: Vec<_> = heads
        .iter()
        .map(|revision| (revision.environment.as_str(), revision.seq))
        .collect();
    assert_eq!(heads, [("a", 1), ("b", 2)]);
}

async fn pruning_leaves_what_is_still_referred_to(place: Place) {
    let store = &place.store;
    for (after, bytes) in [b"one", b"two", b"six", b"two"].iter().enumerate() {
        store.commit(&publish("prod", after as u64, *bytes), 1).await.unwrap();
    }
    store.commit(&publish("test", 0, b"one"), 1).await.unwrap();
    let (delta, base) = (ContentHash::of(b"delta"), ContentHash::of(b"base"));
    store.put_blob(&delta, b"delta").await.unwrap();
    store.put_blob(&base, b"base").await.unwrap();
    store.put_blob(&base, b"base").await.unwrap();

    let named = json!({ "newest": base }).to_string();
    store.set_setting("what is in use", Some(&named)).await.unwrap();

    // All of them were published at 1.
    store.prune("prod", 1, 1).await.unwrap();
    assert_eq!(
        store.revisions("prod", None, 10).await.unwrap().len(),
        4,
        "they are young"
    );
    store.prune("prod", 1, 2).await.unwrap();
    let left: Vec<u64> = store
        .revisions("prod", None, 10)
        .await
        .unwrap()
        .iter()
        .map(|revision| revision.seq)
        .collect();
    assert_eq!(left, [4]);
    for (bytes, there, why) in [
        (&b"one"[..], true, "the other environment has it"),
        (b"two", true, "the newest has it too"),
        (b"six", false, "nothing has it"),
        (b"delta", false, "nothing has it"),
        (b"base", true, "a setting names it"),
    ] {
        let blob = store.blob(&ContentHash::of(bytes)).await.unwrap();
        assert_eq!(blob.as_deref(), there.then_some(bytes), "{why}");
    }
    // The newest one stays, whatever is asked for, and the numbers go on.
    store.prune("prod", 0, u64::MAX).await.unwrap();
    assert_eq!(store.head("prod").await.unwrap().unwrap().seq, 4);
    assert_eq!(
        store.commit(&publish("prod", 4, b"new"), 1).await.unwrap().revisions[0].seq,
        5
    );
    store.prune("nowhere", 3, u64::MAX).await.unwrap();
    // Whoever asks may name any number.
    assert_eq!(store.revision("prod", u64::MAX).await.unwrap(), None);
    assert_eq!(store.revisions("prod", Some(u64::MAX), 10).await.unwrap()[0].seq, 5);
}

async fn a_publish_never_loses_its_snapshot_to_a_prune(place: Place) {
    let (publisher, pruner) = (Arc::clone(&place.store), place.another().await);
    let publishing = tokio::spawn(async move {
        // Two contents in turn: each is pruned and needed again all the time.
        for after in 0..40_u64 {
            let bytes = if after % 2 == 0 { b"even" } else { b"odd_" };
            publisher.commit(&publish("prod", after, bytes), 1).await.unwrap();
            let head = publisher.head("prod").await.unwrap().unwrap();
            assert!(publisher.blob(&head.snapshot).await.unwrap().is_some());
        }
    });
    while !publishing.is_finished() {
        pruner.prune("prod", 1, u64::MAX).await.unwrap();
    }
    publishing.await.unwrap();
    let left = place.store.revisions("prod", None, 100).await.unwrap();
    assert_eq!(left[0].seq, 40);
    for revision in left {
        assert!(
            place.store.blob(&revision.snapshot).await.unwrap().is_some(),
            "{}",
            revision.seq
        );
    }
}

async fn a_large_blob_comes_back_whole(place: Place) {
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|number| ((number * 31) >> 7) as u8).collect();
    let hash = ContentHash::of(&bytes);
    place.store.put_blob(&hash, &bytes).await.unwrap();
    let stored = place.another().await.blob(&hash).await.unwrap().unwrap();
    assert!(stored == bytes);
    let empty = ContentHash::of(b"");
    place.store.put_blob(&empty, b"").await.unwrap();
    assert_eq!(place.store.blob(&empty).await.unwrap(), Some(Vec::new()));
}
