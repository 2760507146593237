//! Keys and their log.

use super::*;
use crate::distribution::KeyChange;
use crate::revision::KeyType;

told_of_both_stores!(
    a_key_is_read_as_it_was_written,
    what_happens_to_keys_is_in_the_log_in_order,
    a_hash_or_id_is_never_used_twice,
    a_hash_can_be_revoked_before_anybody_stored_it,
    all_keys_of_an_application_are_revoked_at_once,
    keys_are_listed_by_application_and_type_and_in_pages,
    live_keys_come_in_the_order_of_hashes_without_the_revoked,
    what_was_revoked_without_being_a_key_is_listed_by_itself,
    the_log_is_trimmed_and_says_so,
    a_hundred_thousand_keys_are_written_at_once,
    two_nodes_that_write_at_once_make_one_log_without_gaps,
    a_reader_never_sees_a_gap_while_others_write,
);

async fn a_key_is_read_as_it_was_written(place: Place) {
    let store = &place.store;
    let start = store.key_head().await.unwrap();
    assert_eq!((start.seq, start.trimmed, start.live), (0, 0, 0));
    assert!(start.epoch > 0);
    assert_eq!(store.write_keys(&[create(1), create(4)], 1_000).await.unwrap(), 2);
    let stored = |number, revoked_ms| StoredKey {
        entry: key_entry(number),
        created_ms: 1_000,
        revoked_ms,
    };

    let store = place.another().await;
    assert_eq!(store.key_by_id("key-1").await.unwrap(), Some(stored(1, None)));
    assert_eq!(store.key_by_hash(&key_hash(4)).await.unwrap(), Some(stored(4, None)));
    assert_eq!(store.key_by_id("key-2").await.unwrap(), None);
    assert_eq!(store.key_by_hash(&key_hash(2)).await.unwrap(), None);
    store
        .write_keys(&[KeyWrite::RevokeId("key-4".to_owned())], 2_000)
        .await
        .unwrap();
    assert_eq!(store.key_by_id("key-4").await.unwrap(), Some(stored(4, Some(2_000))));
    let (head, resolved) = store
        .resolve_keys(&[key_hash(4), key_hash(1), key_hash(9)])
        .await
        .unwrap();
    assert_eq!((head, resolved), (3, vec![key_entry(1)]));
    assert_eq!(store.resolve_keys(&[]).await.unwrap(), (3, Vec::new()));
    let end = store.key_head().await.unwrap();
    assert_eq!(
        end,
        KeyHead {
            epoch: start.epoch,
            seq: 3,
            trimmed: 0,
            live: 1
        }
    );
}

async fn what_happens_to_keys_is_in_the_log_in_order(place: Place) {
    let store = &place.store;
    let writes = [
        create(1),
        KeyWrite::RevokeId("key-1".to_owned()),
        create(2),
        create(3),
        KeyWrite::RevokeId("key-1".to_owned()),
        KeyWrite::RevokeHash(key_hash(3)),
    ];
    assert_eq!(
        store.write_keys(&writes, 7).await.unwrap(),
        5,
        "revoking twice makes one record"
    );
    let expected = [
        KeyChange::Put(key_entry(1)),
        KeyChange::Del { hash: key_hash(1) },
        KeyChange::Put(key_entry(2)),
        KeyChange::Put(key_entry(3)),
        KeyChange::Del { hash: key_hash(3) },
    ];
    let expected: Vec<KeyRecord> = (1..)
        .zip(expected)
        .map(|(seq, change)| KeyRecord { seq, at_ms: 7, change })
        .collect();
    assert_eq!(store.key_log(0, 100).await.unwrap(), expected);
    assert_eq!(store.key_log(2, 2).await.unwrap(), expected[2..4]);
    assert_eq!(store.key_log(5, 2).await.unwrap(), []);
    let missing = store
        .write_keys(&[create(5), KeyWrite::RevokeId("nobody".to_owned())], 7)
        .await;
    assert_eq!(not_found(missing), "key \"nobody\" does not exist");
    assert_eq!(store.key_by_id("key-5").await.unwrap(), None, "all or nothing");
    assert_eq!(
        store.write_keys(&[], 7).await.unwrap(),
        5,
        "the number of what failed is used again"
    );
}

async fn a_hash_or_id_is_never_used_twice(place: Place) {
    let store = &place.store;
    let many: Vec<KeyWrite> = (0..600).map(create).collect();
    store.write_keys(&many, 1).await.unwrap();
    store
        .write_keys(&[KeyWrite::RevokeId("key-7".to_owned())], 1)
        .await
        .unwrap();
    let same_id = KeyEntry {
        hash: key_hash(1_000),
        ..key_entry(8)
    };
    let same_hash = KeyEntry {
        id: "another".to_owned(),
        ..key_entry(9)
    };
    for (entry, id) in [(key_entry(7), "key-7"), (same_id, "key-8"), (same_hash, "another")] {
        // Among many others, and in none of the first statement's rows.
        let mut writes: Vec<KeyWrite> = (2_000..2_300).map(create).collect();
        writes.push(KeyWrite::Create(entry));
        let said = conflict(store.write_keys(&writes, 2).await);
        assert!(said.starts_with(&format!("key \"{id}\" exists already")), "{said}");
    }
    let said = conflict(store.write_keys(&[create(3_000), create(3_000)], 2).await);
    assert!(said.starts_with("key \"key-3000\" exists already"), "{said}");
    let head = store.key_head().await.unwrap();
    assert_eq!((head.seq, head.live), (601, 599));
    assert_eq!(store.key_log(0, 10_000).await.unwrap().len(), 601);
}

async fn a_hash_can_be_revoked_before_anybody_stored_it(place: Place) {
    let store = &place.store;
    let revoke = [KeyWrite::RevokeHash(key_hash(1))];
    assert_eq!(store.write_keys(&revoke, 1).await.unwrap(), 1);
    assert_eq!(store.write_keys(&revoke, 2).await.unwrap(), 1, "once");
    let log = store.key_log(0, 10).await.unwrap();
    assert_eq!(
        log,
        [KeyRecord {
            seq: 1,
            at_ms: 1,
            change: KeyChange::Del { hash: key_hash(1) }
        }]
    );
    conflict(store.write_keys(&[create(1)], 3).await);
    // It is no key that anybody could see.
    assert_eq!(store.key_by_hash(&key_hash(1)).await.unwrap(), None);
    assert_eq!(store.live_keys(None, 10).await.unwrap(), []);
    assert_eq!(
        store
            .keys(&KeyQuery {
                limit: 10,
                ..KeyQuery::default()
            })
            .await
            .unwrap(),
        []
    );
    assert_eq!(store.resolve_keys(&[key_hash(1)]).await.unwrap(), (1, Vec::new()));
    assert_eq!(store.key_head().await.unwrap().live, 0);
}

async fn all_keys_of_an_application_are_revoked_at_once(place: Place) {
    let store = &place.store;
    let many: Vec<KeyWrite> = (0..900).map(create).collect();
    store.write_keys(&many, 1).await.unwrap();
    store
        .write_keys(&[KeyWrite::RevokeId("key-3".to_owned())], 1)
        .await
        .unwrap();
    let revoke = [KeyWrite::RevokeApplication("app-0".to_owned())];
    assert_eq!(store.write_keys(&revoke, 2).await.unwrap(), 901 + 299);
    assert_eq!(store.write_keys(&revoke, 2).await.unwrap(), 901 + 299);
    assert_eq!(store.key_head().await.unwrap().live, 600);
    let log = store.key_log(901, 1_000).await.unwrap();
    let mut revoked: Vec<KeyHash> = log.iter().map(|record| record.change.hash()).collect();
    revoked.sort_unstable();
    let mut expected: Vec<KeyHash> = (0..900)
        .filter(|number| number % 3 == 0 && *number != 3)
        .map(key_hash)
        .collect();
    expected.sort_unstable();
    assert!(revoked == expected);
    assert!(log.iter().all(|record| matches!(record.change, KeyChange::Del { .. })));
}

async fn keys_are_listed_by_application_and_type_and_in_pages(place: Place) {
    let store = &place.store;
    store
        .write_keys(&(0..20).map(create).collect::<Vec<_>>(), 1)
        .await
        .unwrap();
    let ids = async |query: KeyQuery| -> Vec<String> {
        store
            .keys(&query)
            .await
            .unwrap()
            .into_iter()
            .map(|key| key.entry.id)
            .collect()
    };
    let all = KeyQuery {
        limit: 100,
        ..KeyQuery::default()
    };
    let mut expected: Vec<String> = (0..20).map(|number| format!("key-{number}")).collect();
    expected.sort_unstable();
    assert_eq!(ids(all.clone()).await, expected);
    let after = KeyQuery {
        after: Some("key-11".to_owned()),
        limit: 2,
        ..KeyQuery::default()
    };
    assert_eq!(ids(after).await, ["key-12", "key-13"]);
    let of_one = KeyQuery {
        application: Some("app-1".to_owned()),
        key_type: Some(KeyType::Sandbox),
        ..all.clone()
    };
    assert_eq!(ids(of_one).await, ["key-1", "key-13", "key-19", "key-7"]);
    let of_type = KeyQuery {
        key_type: Some(KeyType::Production),
        ..all
    };
    assert_eq!(ids(of_type).await.len(), 10);
}

async fn live_keys_come_in_the_order_of_hashes_without_the_revoked(place: Place) {
    let store = &place.store;
    store
        .write_keys(&(0..50).map(create).collect::<Vec<_>>(), 1)
        .await
        .unwrap();
    let revoked: Vec<KeyWrite> = (0..10).map(|number| KeyWrite::RevokeHash(key_hash(number))).collect();
    store.write_keys(&revoked, 1).await.unwrap();
    let mut expected: Vec<KeyEntry> = (10..50).map(key_entry).collect();
    expected.sort_by_key(|entry| entry.hash);
    let mut found: Vec<KeyEntry> = Vec::new();
    loop {
        let after = found.last().map(|entry| entry.hash);
        let page = store.live_keys(after.as_ref(), 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, expected);
}

async fn what_was_revoked_without_being_a_key_is_listed_by_itself(place: Place) {
    let store = &place.store;
    let mut writes: Vec<KeyWrite> = (0..5).map(create).collect();
    writes.extend((3..20).map(|number| KeyWrite::RevokeHash(key_hash(number))));
    store.write_keys(&writes, 1).await.unwrap();
    let mut expected: Vec<KeyHash> = (5..20).map(key_hash).collect();
    expected.sort();
    let mut found: Vec<KeyHash> = Vec::new();
    loop {
        let page = store.revoked_unknown(found.last(), None, 4).await.unwrap();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, expected);
    let part = store
        .revoked_unknown(Some(&expected[2]), Some(&expected[5]), 100)
        .await
        .unwrap();
    assert_eq!(part, expected[3..=5]);
}

async fn the_log_is_trimmed_and_says_so(place: Place) {
    let store = &place.store;
    store
        .write_keys(&(0..10).map(create).collect::<Vec<_>>(), 1)
        .await
        .unwrap();
    store.trim_key_log(4).await.unwrap();
    assert_eq!(store.key_head().await.unwrap().trimmed, 4);
    let seqs = async |after| -> Vec<u64> {
        store
            .key_log(after, 100)
            .await
            .unwrap()
            .iter()
            .map(|record| record.seq)
            .collect()
    };
    assert_eq!(seqs(4).await, [5, 6, 7, 8, 9, 10]);
    assert!(
        not_found(store.key_log(3, 100).await).contains("after 3"),
        "a gap would pass for a whole page"
    );
    for beyond in [10, 11, i64::MAX as u64 + 1, u64::MAX] {
        assert_eq!(seqs(beyond).await, [0; 0], "{beyond}");
    }
    store.trim_key_log(2).await.unwrap();
    assert_eq!(store.key_head().await.unwrap().trimmed, 4, "nothing comes back");
    store.trim_key_log(u64::MAX).await.unwrap();
    let head = store.key_head().await.unwrap();
    assert_eq!(
        (head.trimmed, head.seq, head.live),
        (10, 10, 10),
        "never more than there is"
    );
    assert_eq!(seqs(10).await, [0_u64; 0]);
    not_found(store.key_log(9, 100).await);
    assert_eq!(store.write_keys(&[create(10)], 1).await.unwrap(), 11);
    assert_eq!(seqs(10).await, [11]);
}

async fn a_hundred_thousand_keys_are_written_at_once(place: Place) {
    let store = &place.store;
    let many: Vec<KeyWrite> = (0..100_000).map(create).collect();
    assert_eq!(store.write_keys(&many, 1).await.unwrap(), 100_000);
    let head = store.key_head().await.unwrap();
    assert_eq!((head.seq, head.live), (100_000, 100_000));
    let log = store.key_log(99_990, 100).await.unwrap();
    assert_eq!(log.len(), 10);
    assert_eq!(log[9].change, KeyChange::Put(key_entry(99_999)));
    let hashes: Vec<KeyHash> = (0..1_000).map(|number| key_hash(number * 200)).collect();
    let (_, resolved) = store.resolve_keys(&hashes).await.unwrap();
    assert_eq!(resolved.len(), 500);
}

async fn two_nodes_that_write_at_once_make_one_log_without_gaps(place: Place) {
    let nodes = [Arc::clone(&place.store), place.another().await];
    let tasks: Vec<_> = (0..10_u32)
        .map(|task| {
            let store = Arc::clone(&nodes[task as usize % 2]);
            tokio::spawn(async move {
                for round in 0..10 {
                    let number = task * 100 + round * 2;
                    store
                        .write_keys(&[create(number), create(number + 1)], 1)
                        .await
                        .unwrap();
                    // Fails, and must not leave a hole.
                    conflict(store.write_keys(&[create(10_000 + number), create(number)], 1).await);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let head = nodes[1].key_head().await.unwrap();
    assert_eq!((head.seq, head.live), (200, 200));
    let log = nodes[0].key_log(0, 1_000).await.unwrap();
    let seqs: Vec<u64> = log.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=200).collect::<Vec<u64>>());
    assert_eq!(
        nodes[0].key_head().await.unwrap().epoch,
        head.epoch,
        "one log, one number"
    );
}

async fn a_reader_never_sees_a_gap_while_others_write(place: Place) {
    let writers: Vec<_> = (0..4_u32)
        .map(|task| {
            let store = Arc::clone(&place.store);
            tokio::spawn(async move {
                for round in 0..25 {
                    store.write_keys(&[create(task * 100 + round)], 1).await.unwrap();
                }
            })
        })
        .collect();
    let reader = place.another().await;
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut last = 0;
    while last < 100 {
        assert!(tokio::time::Instant::now() < until, "at {last}");
        for record in reader.key_log(last, 1_000).await.unwrap() {
            // A record that became visible later than the one after it would be missed for ever.
            assert_eq!(record.seq, last + 1);
            last = record.seq;
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}
