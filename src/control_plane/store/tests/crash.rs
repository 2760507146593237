//! A process that is killed while it writes leaves nothing half done, and nothing undone that it was told is done.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Tells a copy of this test program that it is the one to be killed, and where to write.
const VICTIM: &str = "TOLLGATE_TEST_STORE";

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_leaves_whole_changes_only_in_sqlite() {
    write_if_victim().await;
    let place = Place::sqlite().await;
    let Location::Sqlite(path) = &place.location else {
        unreachable!()
    };
    let test = "a_process_that_is_killed_leaves_whole_changes_only_in_sqlite";
    kill_again_and_again(&place, path.to_str().unwrap(), test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_leaves_whole_changes_only_in_postgres() {
    write_if_victim().await;
    let place = Place::postgres().await;
    let Location::Postgres(url) = &place.location else {
        unreachable!()
    };
    let test = "a_process_that_is_killed_leaves_whole_changes_only_in_postgres";
    kill_again_and_again(&place, url.expose(), test).await;
}

async fn kill_again_and_again(place: &Place, location: &str, test: &str) {
    for round in 1..=5_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg(format!("control_plane::store::tests::crash::{test}"))
            .env(VICTIM, location)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed after some writes, each time somewhere else in the next one.
        let mut done = (0, 0);
        let mut seen = 0;
        while seen < 3 + round {
            let line = lines.next().expect("the victim writes").unwrap();
            if let Some((_, numbers)) = line.split_once("done ") {
                let (seq, keys) = numbers.split_once(' ').unwrap();
                done = (seq.parse().unwrap(), keys.parse().unwrap());
                seen += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(700) * u32::try_from(round).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        check(&place.another().await, done, round as u64).await;
    }
}

async fn write_if_victim() {
    if let Ok(location) = std::env::var(VICTIM) {
        write_for_ever(&location).await;
    }
}

/// Each change is a revision with its blob, and an object that says which revision it belongs to; and then two keys.
async fn write_for_ever(location: &str) -> ! {
    let location = match location.starts_with("postgres://") {
        true => Location::Postgres(location.into()),
        false => Location::Sqlite(location.into()),
    };
    let store = open(&location).await.unwrap();
    let mut seq = store.head("prod").await.unwrap().map_or(0, |head| head.seq);
    loop {
        let mut changes = publish("prod", seq, &seq.to_be_bytes().repeat(10_000));
        seq += 1;
        changes.objects = vec![put(ObjectKind::Source, "prod", Expected::Anything, &seq.to_string())];
        store.commit(&changes, 1).await.unwrap();
        let keys = store.key_head().await.unwrap().seq;
        let number = u32::try_from(keys).unwrap();
        let keys = store
            .write_keys(&[create(number), create(number + 1)], 1)
            .await
            .unwrap();
        println!("done {seq} {keys}");
    }
}

async fn check(store: &Arc<dyn Store>, (done, done_keys): (u64, u64), kills: u64) {
    // A server may still be at work on what the victim sent last. Whoever writes waits for it.
    let change = put(ObjectKind::Token, "barrier", Expected::Anything, "");
    store.commit(&objects([change]), 1).await.unwrap();
    store.write_keys(&[], 1).await.unwrap();

    let head = store.head("prod").await.unwrap().unwrap();
    assert!(head.seq >= done, "{done} was done, and {} is there", head.seq);
    let source = store.object(ObjectKind::Source, "prod").await.unwrap().unwrap();
    assert_eq!(source.value, head.seq.to_string());
    assert_eq!(source.version, head.seq);
    let revisions = store.revisions("prod", None, 10_000).await.unwrap();
    assert_eq!(revisions.len() as u64, head.seq);
    for revision in revisions {
        let blob = store.blob(&revision.snapshot).await.unwrap().unwrap();
        assert_eq!(ContentHash::of(&blob), revision.snapshot);
    }
    let keys = store.key_head().await.unwrap();
    assert!(keys.seq >= done_keys && keys.seq % 2 == 0, "{} keys", keys.seq);
    assert!(
        keys.seq / 2 + kills >= head.seq,
        "each kill comes between a revision and its keys at most once"
    );
    assert_eq!(keys.live, keys.seq);
    let log = store.key_log(0, 10_000).await.unwrap();
    assert!((1..=keys.seq).eq(log.iter().map(|record| record.seq)));
}
