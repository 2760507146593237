//! What a million keys of the key log cost: memory, and the time to find one, in both ways of keeping them.
//!
//! Budget: 64 bytes a key with its id, and 400 ns for a known caller in all, of which this is a part.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use tollgate::auth::KeyStore;
use tollgate::auth::key_store::base::Builder;
use tollgate::auth::key_store::{Found, Foundation, KeyName, KeyView, Keys};
use tollgate::distribution::protocol::Resolved;
use tollgate::distribution::{
    ContentHash, KeyChange, KeyEntry, KeyHash, KeyPage, KeyRecord, decode_filter, encode_filter,
};
use tollgate::names::ApplicationName;
use tollgate::revision::KeyType;

const KEYS: u32 = 1_000_000;
const OVERLAY: u32 = 50_000;
const NOW: u64 = 1_800_000_000_000;

fn hash(number: u32) -> KeyHash {
    KeyHash::of_digest(&ContentHash::of(&number.to_le_bytes()).0)
}

fn entry(number: u32) -> KeyEntry {
    KeyEntry {
        hash: hash(number),
        id: format!("mobile-{number:06x}"),
        application: format!("application-{}", number % 1000),
        key_type: KeyType::Production,
        expires_ms: None,
    }
}

fn push() -> Arc<KeyStore> {
    let names: Vec<ApplicationName> = (0..1000)
        .map(|number| format!("application-{number}").as_str().into())
        .collect();
    let mut builder = Builder::default();
    for number in 0..KEYS {
        let key = KeyView {
            id: KeyName::Text(&format!("mobile-{number:06x}")),
            application: &names[number as usize % 1000],
            key_type: KeyType::Production,
            expires_s: 0,
            stable_hash: u64::from(number),
        };
        builder.push(hash(number), &key).expect("there is room");
    }
    begin(Keys::All(builder.finish()))
}

fn filter() -> Arc<KeyStore> {
    let heads: Vec<u64> = (0..KEYS).map(|number| hash(number).head()).collect();
    begin(Keys::Filter(decode_filter(&encode_filter(&heads)).expect("a filter")))
}

fn begin(keys: Keys) -> Arc<KeyStore> {
    let store = Arc::new(KeyStore::new());
    store.start_over(Foundation { epoch: 1, seq: 1, keys });
    store.set_ready();
    store
}

/// New keys by the log, so that lookups go through an overlay first.
fn fill_overlay(store: &KeyStore) {
    let after = store.seq();
    for first in (KEYS..KEYS + OVERLAY).step_by(1000) {
        let seq = store.seq();
        let records = (seq + 1..).zip(first..first + 1000).map(|(seq, number)| KeyRecord {
            seq,
            at_ms: NOW,
            change: KeyChange::Put(entry(number)),
        });
        let page = KeyPage {
            environment: "prod".to_owned(),
            epoch: 1,
            after: seq,
            head: after + u64::from(OVERLAY),
            records: records.collect(),
        };
        store.apply(&page, "prod").expect("it comes next");
    }
}

/// Resident memory of this process in bytes, as Linux counts it.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

fn find(store: &KeyStore, hash: &KeyHash) -> Found<u64> {
    store.find(hash, NOW, |key| key.stable_hash)
}

/// Asks for other keys all the time, so that they are not all in the processor's caches.
fn bench(criterion: &mut Criterion, name: &str, store: &KeyStore, asked: &[KeyHash]) {
    let mut turn = asked.iter().cycle();
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| find(store, black_box(turn.next().expect("they go round"))));
    });
}

fn keys(criterion: &mut Criterion) {
    let spread = |from: u32| -> Vec<KeyHash> { (0..100_000).map(|n| hash(from + n * 7 % KEYS)).collect() };
    let (known, strangers) = (spread(0), spread(2 * KEYS));

    let before = resident();
    let store = push();
    let bytes = store.size().bytes as f64 / f64::from(KEYS);
    let grown = resident().saturating_sub(before) as f64 / f64::from(KEYS);
    println!("push: {bytes:.1} bytes a key; resident memory grew by {grown:.1} bytes a key");
    assert!(bytes <= 64.0, "{bytes} bytes a key");
    assert!(matches!(find(&store, &known[1]), Found::Key(_)) && find(&store, &strangers[1]) == Found::Unknown);
    bench(criterion, "keys/push/known of 1,000,000", &store, &known);
    bench(criterion, "keys/push/unknown", &store, &strangers);
    fill_overlay(&store);
    bench(criterion, "keys/push/known, 50,000 changes above", &store, &known);
    let fresh: Vec<KeyHash> = (KEYS..KEYS + OVERLAY).map(hash).collect();
    bench(criterion, "keys/push/one of the 50,000", &store, &fresh);
    drop(store);

    let store = filter();
    let bits = store.size().bytes as f64 * 8.0 / f64::from(KEYS);
    println!("filter: {bits:.1} bits a key");
    let told: Vec<KeyHash> = strangers
        .iter()
        .copied()
        .filter(|hash| find(&store, hash) == Found::Unknown)
        .collect();
    let passed = 100.0 * (1.0 - told.len() as f64 / strangers.len() as f64);
    println!("filter: {passed:.2} % of strangers pass it");
    bench(criterion, "keys/filter/stranger", &store, &told);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let asked: Vec<u32> = (0..1000).collect();
    runtime.block_on(async {
        let waiting: Vec<_> = asked
            .iter()
            .map(|number| {
                let (store, hash) = (Arc::clone(&store), hash(*number));
                tokio::spawn(async move { store.resolve(hash, NOW).await })
            })
            .collect();
        let question = store.question().await;
        let keys = asked.iter().map(|number| entry(*number)).collect();
        question.settle(&Resolved { seq: 1, keys }, NOW);
        for answer in waiting {
            answer.await.expect("an answer");
        }
    });
    let asked: Vec<KeyHash> = asked.into_iter().map(hash).collect();
    assert!(matches!(find(&store, &asked[1]), Found::Key(_)));
    bench(criterion, "keys/filter/remembered", &store, &asked);
}

criterion_group!(benches, keys);
criterion_main!(benches);
