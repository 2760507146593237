//! The store as the log, the control plane and the disk see it.

mod model;
mod stage;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::auth::key::digest;
use crate::distribution::{KeyRecord, decode_filter, encode_filter};
use crate::revision::KeyType;

const NOW: u64 = 1_800_000_000_000;
const LIVE: &str = "live";

/// What the hash of a key's text is.
fn hash(text: &str) -> KeyHash {
    KeyHash::of_digest(&digest(text).0)
}

fn entry(text: &str) -> KeyEntry {
    KeyEntry {
        hash: hash(text),
        id: format!("id-{text}"),
        application: "mobile".to_owned(),
        key_type: KeyType::Production,
        expires_ms: None,
    }
}

fn put(text: &str) -> KeyChange {
    KeyChange::Put(entry(text))
}

fn del(text: &str) -> KeyChange {
    KeyChange::Del { hash: hash(text) }
}

/// The page that comes next.
fn page(store: &KeyStore, changes: impl IntoIterator<Item = KeyChange>) -> KeyPage {
    let after = store.seq();
    let records: Vec<_> = (after + 1..)
        .zip(changes)
        .map(|(seq, change)| KeyRecord {
            seq,
            at_ms: NOW,
            change,
        })
        .collect();
    KeyPage {
        environment: LIVE.to_owned(),
        epoch: store.epoch(),
        after,
        head: after + records.len() as u64,
        records,
    }
}

fn apply(store: &KeyStore, changes: impl IntoIterator<Item = KeyChange>) {
    store.apply(&page(store, changes), LIVE).unwrap();
}

fn all(texts: &[&str]) -> Keys {
    let mut builder = base::Builder::default();
    for text in texts {
        builder.push_entry(&entry(text)).unwrap();
    }
    Keys::All(builder.finish())
}

fn filter(texts: &[&str]) -> Keys {
    let heads: Vec<u64> = texts.iter().map(|text| hash(text).head()).collect();
    Keys::Filter(decode_filter(&encode_filter(&heads)).unwrap())
}

/// A filter that tells nobody: the worst that can come.
fn blind_filter() -> Keys {
    Keys::Filter(decode_filter(&[b"tgkeyf1\n".as_slice(), &[0; 20]].concat()).unwrap())
}

fn store(seq: u64, keys: Keys) -> Arc<KeyStore> {
    let store = Arc::new(KeyStore::new());
    store.start_over(Foundation { epoch: 7, seq, keys });
    store.set_ready();
    store
}

fn find(store: &KeyStore, text: &str) -> Found<String> {
    store.find(&hash(text), NOW, |key| key.id.as_str().to_owned())
}

fn key(text: &str) -> Found<String> {
    Found::Key(format!("id-{text}"))
}

#[test]
fn the_log_goes_before_the_base_and_a_revocation_before_everything() {
    let store = store(10, all(&["a", "b"]));
    assert_eq!((find(&store, "a"), find(&store, "c")), (key("a"), Found::Unknown));
    apply(&store, [put("c"), del("a"), del("stranger")]);
    assert_eq!(store.seq(), 13);
    assert_eq!(find(&store, "a"), Found::Revoked);
    assert_eq!(find(&store, "b"), key("b"));
    assert_eq!(find(&store, "c"), key("c"));
    assert_eq!(find(&store, "stranger"), Found::Revoked, "it may stand in a document");
    assert_eq!(store.size().keys, 2);
    store.merge().unwrap();
    assert_eq!(store.size().overlay, 0);
    assert_eq!(store.size().keys, 2);
    assert_eq!(find(&store, "a"), Found::Revoked, "after the merge too");
    assert_eq!(find(&store, "stranger"), Found::Revoked);
    assert_eq!(find(&store, "c"), key("c"));
}

#[test]
fn before_the_log_was_known_to_its_end_nobody_is_let_in_and_nobody_is_sent_away() {
    let store = KeyStore::new();
    assert_eq!(find(&store, "a"), Found::Unresolved);
    store.start_over(Foundation {
        epoch: 7,
        seq: 3,
        keys: all(&["a"]),
    });
    assert_eq!(find(&store, "a"), Found::Unresolved, "it may have been revoked since");
    apply(&store, [del("b")]);
    assert_eq!(find(&store, "b"), Found::Revoked, "that is certain");
    store.set_ready();
    assert_eq!((find(&store, "a"), find(&store, "c")), (key("a"), Found::Unknown));
}

#[test]
fn a_page_that_does_not_come_next_is_not_applied_at_all() {
    let store = store(10, all(&["a"]));
    let good = page(&store, [put("b"), del("a")]);
    let refused = |change: &dyn Fn(&mut KeyPage)| {
        let mut page = good.clone();
        change(&mut page);
        store.apply(&page, LIVE).unwrap_err()
    };
    assert_eq!(
        refused(&|page| page.environment = "test".to_owned()),
        PageError::Environment
    );
    assert_eq!(refused(&|page| page.epoch = 8), PageError::Epoch);
    assert_eq!(refused(&|page| page.after = 9), PageError::Gap);
    assert_eq!(refused(&|page| page.records[1].seq = 13), PageError::Gap);
    assert_eq!(refused(&|page| page.records[0].seq = 10), PageError::Gap);
    assert_eq!(refused(&|page| page.head = 11), PageError::Gap);
    let shorter = |page: &mut KeyPage| {
        page.records.clear();
        page.head = 9;
    };
    assert_eq!(refused(&shorter), PageError::Restored);
    let long = refused(&|page| {
        page.records[0].change = KeyChange::Put(KeyEntry {
            id: "x".repeat(256),
            ..entry("b")
        });
    });
    assert!(
        long.to_string().contains("record 11: the id of a key has 256 bytes"),
        "{long}"
    );
    assert_eq!(
        (store.seq(), find(&store, "a"), find(&store, "b")),
        (10, key("a"), Found::Unknown)
    );
    store.apply(&good, LIVE).unwrap();
    assert_eq!(store.apply(&good, LIVE), Err(PageError::Gap), "not twice either");
    assert_eq!((find(&store, "a"), find(&store, "b")), (Found::Revoked, key("b")));
}

#[test]
fn an_older_foundation_is_refused_and_a_newer_one_brings_nothing_revoked_back() {
    let store = store(10, all(&["a", "b"]));
    apply(&store, [del("a"), put("c")]);
    let stand_on = |seq, keys| store.stand_on(Foundation { epoch: 7, seq, keys });
    assert_eq!(stand_on(9, all(&["a"])), Err(Unfit::Replayed));
    // Made before the revocation, applied after it.
    stand_on(10, filter(&["a", "b"])).unwrap();
    assert_eq!(
        (store.seq(), find(&store, "a"), find(&store, "c")),
        (12, Found::Revoked, key("c"))
    );
    assert_eq!(find(&store, "b"), Found::Unresolved);
    stand_on(20, all(&["b"])).unwrap();
    assert_eq!(store.seq(), 20);
    assert_eq!(find(&store, "a"), Found::Revoked);
    assert_eq!(find(&store, "b"), key("b"));
    assert_eq!(find(&store, "c"), Found::Unknown, "revoked between 12 and 20");
}

#[test]
fn all_keys_from_before_forgotten_revocations_are_refused_and_a_filter_is_not() {
    let view = View {
        merged: 20,
        floor: 20,
        ..View::start(Foundation {
            epoch: 7,
            seq: 5,
            keys: filter(&["a"]),
        })
    };
    let on = |seq, keys| view.on(Foundation { epoch: 7, seq, keys }).map(|_| ());
    assert_eq!(on(19, all(&["a"])), Err(Unfit::Replayed), "\"a\" may have been revoked");
    assert_eq!(on(19, filter(&["a"])), Ok(()), "who passes it is asked for");
    assert_eq!(on(20, all(&["a"])), Ok(()));
}

#[test]
fn another_log_starts_over() {
    let store = store(10, all(&["a"]));
    apply(&store, [del("b"), put("c")]);
    store.start_over(Foundation {
        epoch: 8,
        seq: 2,
        keys: all(&["b"]),
    });
    assert_eq!((store.seq(), store.epoch()), (2, 8));
    assert_eq!(find(&store, "a"), Found::Unknown);
    assert_eq!(find(&store, "b"), key("b"));
    assert_eq!(find(&store, "c"), Found::Unknown);
}

#[test]
fn a_replaced_view_is_freed_as_soon_as_nobody_reads_it() {
    let store = store(0, all(&["a"]));
    let reader = store.view.load_full();
    apply(&store, [put("b")]);
    store.merge().unwrap();
    let kept = || store.writer().replaced.len();
    assert_eq!(kept(), 1);
    store.bury();
    assert_eq!(kept(), 1, "somebody reads it");
    drop(reader);
    apply(&store, [put("c")]);
    assert_eq!(kept(), 0);
}

#[test]
fn an_overlay_is_merged_when_it_has_grown_and_what_comes_meanwhile_stays_in_it() {
    let store = store(0, all(&[]));
    let texts: Vec<String> = (0..10_001).map(|number| format!("k{number}")).collect();
    for part in texts.chunks(1000) {
        assert!(!store.is_merge_due());
        apply(&store, part.iter().map(|text| put(text)));
    }
    assert!(store.is_merge_due());
    store.merge().unwrap();
    assert!(!store.is_merge_due());
    assert_eq!((store.size().keys, store.size().overlay), (10_001, 0));
    assert!(texts.iter().all(|text| find(&store, text) == key(text)));

    // The slow half and the quick half of a merge, with a record in between.
    apply(&store, [del("k1"), put("new")]);
    let before = store.view.load_full();
    let merged = before.merge(store.seq()).unwrap();
    apply(&store, [del("k2"), del("new")]);
    let after = before.with_base(merged);
    assert_eq!(after.overlay.len(), 2);
    let lets_in = |text| after.lets_in(&hash(text));
    assert_eq!([lets_in("k1"), lets_in("k2"), lets_in("new")], [Some(false); 3]);
    assert_eq!(lets_in("k3"), Some(true));
}

#[test]
fn what_goes_to_disk_comes_back_and_what_is_damaged_does_not() {
    let fresh = store(10, filter(&["a", "b"]));
    apply(&fresh, [put("c"), del("stranger")]);
    fresh.merge().unwrap();
    let sandbox = KeyChange::Put(KeyEntry {
        key_type: KeyType::Sandbox,
        expires_ms: Some(NOW + 500),
        ..entry("d")
    });
    apply(&fresh, [sandbox, del("a")]);
    let saved = fresh.save(LIVE);
    let (mut base, mut log) = (Vec::new(), Vec::new());
    saved.write_base(&mut base).unwrap();
    saved.write_log(&mut log).unwrap();

    let restored = KeyStore::new();
    restored.restore(LIVE, &base, Some(&log)).unwrap();
    assert!(restored.is_ready(), "old, but complete");
    assert_eq!((restored.seq(), restored.epoch()), (14, 7));
    for text in ["a", "b", "c", "d", "stranger", "nobody"] {
        assert_eq!(find(&restored, text), find(&fresh, text), "{text}");
    }
    let expiry = |store: &KeyStore| store.find(&hash("d"), NOW, |key| (key.key_type, key.expires_s));
    assert_eq!(expiry(&restored), expiry(&fresh));
    apply(&restored, [del("d")]);
    assert_eq!(find(&restored, "d"), Found::Revoked);

    let attempt = |base: &[u8], log: Option<&[u8]>| {
        let store = KeyStore::new();
        store.restore(LIVE, base, log).map(|()| store)
    };
    for position in 0..base.len() {
        let mut flipped = base.clone();
        flipped[position] ^= 1;
        assert!(attempt(&flipped, Some(&log)).is_err(), "{position}");
        assert!(attempt(&base[..position], Some(&log)).is_err(), "{position}");
    }
    assert!(KeyStore::new().restore("test", &base, Some(&log)).is_err());
    for damaged in [None, Some(&log[1..]), Some(&log[..log.len() - 1])] {
        let alone = attempt(&base, damaged).unwrap();
        assert_eq!(alone.seq(), 12, "from there on, the log is read again");
        assert_eq!(find(&alone, "c"), key("c"));
        assert_eq!(find(&alone, "stranger"), Found::Revoked);
    }
    fresh.merge().unwrap();
    let mut later = Vec::new();
    fresh.save(LIVE).write_base(&mut later).unwrap();
    assert_eq!(
        attempt(&later, Some(&log)).unwrap().seq(),
        14,
        "the log of the base before"
    );
}

// The clock stands still: who waits gives up after two seconds, which pass on a busy machine.
#[tokio::test(start_paused = true)]
async fn many_who_wait_for_few_keys_make_one_question() {
    let store = store(10, filter(&["a", "b", "c"]));
    let waiting: Vec<_> = (0..300)
        .map(|number| {
            let store = Arc::clone(&store);
            let hash = hash(["a", "b", "c"][number % 3]);
            tokio::spawn(async move { store.resolve(hash, NOW).await })
        })
        .collect();
    let mut asked = std::collections::BTreeSet::new();
    while asked.len() < 3 {
        let question = store.question().await;
        for hash in question.resolve().h {
            assert!(asked.insert(hash), "a key is asked for once");
        }
        let known = question.resolve().h.contains(&hash("a"));
        let answer = Resolved {
            seq: 10,
            keys: known.then(|| entry("a")).into_iter().collect(),
        };
        question.settle(&answer, NOW);
    }
    for (number, answer) in waiting.into_iter().enumerate() {
        let answer = answer.await.unwrap();
        match number % 3 {
            0 => assert!(matches!(answer, Answer::Known { .. })),
            _ => assert_eq!(answer, Answer::Unknown),
        }
    }
    assert_eq!((find(&store, "a"), find(&store, "b")), (key("a"), Found::Unknown));
    assert_eq!(store.size().asked_for, 0);

    let later = |ms| store.find(&hash("a"), NOW + ms, |_| ());
    assert_eq!(later(RESOLVED_MS / 10 * 9 - 1), Found::Key(()));
    assert_eq!(later(RESOLVED_MS / 10 * 11 + 1), Found::Unresolved);
    assert_eq!(store.find(&hash("b"), NOW + ABSENT_MS, |_| ()), Found::Unresolved);
}

#[tokio::test(start_paused = true)]
async fn who_gets_no_answer_waits_two_seconds_and_who_gets_a_bad_one_not_even_that() {
    let store = store(10, blind_filter());
    let begin = tokio::time::Instant::now();
    assert_eq!(store.resolve(hash("a"), NOW).await, Answer::Unavailable);
    assert_eq!(begin.elapsed(), Duration::from_secs(2));

    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.resolve(hash("b"), NOW).await }
    });
    // The first question is "a", still; both go together.
    tokio::task::yield_now().await;
    drop(store.question().await);
    let begin = tokio::time::Instant::now();
    assert_eq!(waiting.await.unwrap(), Answer::Unavailable);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(find(&store, "b"), Found::Unresolved, "nothing is remembered of it");
}

#[tokio::test(start_paused = true)]
async fn as_many_may_wait_as_there_is_room_for() {
    let store = store(10, blind_filter());
    let waiting: Vec<_> = (0..10_001)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.resolve(hash(&format!("k{number}")), NOW).await })
        })
        .collect();
    while store.size().asked_for < 10_000 {
        tokio::task::yield_now().await;
    }
    let first = store.question().await;
    assert_eq!(first.resolve().h.len(), 1000, "a question has so many at most");
    assert_eq!(store.size().asked_for, 10_000);
    let begin = tokio::time::Instant::now();
    assert_eq!(store.resolve(hash("one more"), NOW).await, Answer::Unavailable);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}
