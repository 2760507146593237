//! tests
use super::*;
#[tokio::test(flavor = "multi_thread")]
async fn smoke() {
    let d = tempfile::tempdir().unwrap();
    let store = open(&Location::Sqlite(d.path().join("x/store.db"))).await.unwrap();
    let key = |i: u32| {
        KeyWrite::Create(KeyEntry {
            hash: KeyHash(u128::from(i).to_be_bytes()),
            id: format!("k{i}"),
            application: "a".into(),
            key_type: KeyType::Sandbox,
            expires_ms: (i % 2 == 0).then_some(5),
        })
    };
    let t = std::time::Instant::now();
    let all: Vec<_> = (0..100_000).map(key).collect();
    assert_eq!(store.write_keys(&all, 7).await.unwrap(), 100_000);
    eprintln!("{:?}", t.elapsed());
    println!("{:?}", store.key_head().await.unwrap());
    println!("{:?}", store.key_log(99_998, 10).await.unwrap());
    println!("{:?}", store.write_keys(&[key(5)], 7).await);
}
