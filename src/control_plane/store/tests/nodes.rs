//! What is true of one kind of store alone: files and their modes; nodes that wake each other, and servers that go away.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tokio::time::timeout;

use super::*;

async fn next(store: &Arc<dyn Store>) -> Wake {
    timeout(PATIENCE, store.changed()).await.expect("nothing was told")
}

/// Waits until it is so that nobody tells anything, for a moment that is long enough for what was told to arrive.
async fn is_quiet(store: &Arc<dyn Store>) -> bool {
    timeout(Duration::from_millis(300), store.changed()).await.is_err()
}

async fn on_server<T: Send + 'static>(work: impl FnOnce(&PostgresServer) -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(|| work(PostgresServer::shared()))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_woken_by_what_another_one_does_and_not_by_itself() {
    let place = Place::postgres().await;
    let (here, there) = (&place.store, place.another().await);
    assert_eq!(next(here).await, Wake::Unknown, "whatever was told before it listened");
    assert_eq!(next(&there).await, Wake::Unknown);
    there.commit(&publish("prod", 0, b"content"), 1).await.unwrap();
    assert_eq!(next(here).await, Wake::Revision("prod".to_owned()));
    there.write_keys(&[create(1)], 1).await.unwrap();
    assert_eq!(next(here).await, Wake::Keys);
    there.write_keys(&[], 1).await.unwrap();
    conflict(there.commit(&publish("prod", 0, b"content"), 1).await);
    there
        .commit(&objects([put(ObjectKind::Plan, "gold", Expected::Absent, "1")]), 1)
        .await
        .unwrap();
    assert!(is_quiet(here).await, "nothing happened that gateways wait for");
    assert!(is_quiet(&there).await, "its own doings are no news");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_listener_was_cut_off_says_so_and_listens_again() {
    let place = Place::postgres().await;
    let (here, there) = (&place.store, place.another().await);
    assert_eq!(next(here).await, Wake::Unknown);
    let listener = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                    WHERE query LIKE 'LISTEN%' AND datname = ";
    let Location::Postgres(url) = &place.location else {
        unreachable!()
    };
    let database = url.expose().rsplit_once('/').unwrap().1.to_owned();
    let cut = on_server(move |server| server.sql("postgres", &format!("{listener}'{database}'"))).await;
    assert_eq!(cut, "1");
    assert_eq!(next(here).await, Wake::Unknown);
    there.write_keys(&[create(1)], 1).await.unwrap();
    assert_eq!(next(here).await, Wake::Keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_outlives_its_server_and_does_not_hammer_at_it() {
    let mut server = tokio::task::spawn_blocking(PostgresServer::start).await.unwrap();
    let location = Location::Postgres(server.database().into());
    let store = open(&location).await.unwrap();
    assert_eq!(next(&store).await, Wake::Unknown);
    store.write_keys(&[create(1)], 1).await.unwrap();
    tokio::task::block_in_place(|| server.stop());
    let error = store.ping().await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Failed(why) if why.starts_with(&store.name())),
        "{error}"
    );
    assert!(!error.to_string().contains(postgres_server::PASSWORD), "{error}");
    assert!(
        timeout(Duration::from_secs(2), store.changed()).await.is_err(),
        "waits for the server"
    );
    tokio::task::block_in_place(|| server.run());
    assert_eq!(next(&store).await, Wake::Unknown);
    assert_eq!(store.key_head().await.unwrap().seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_nodes_that_start_together_make_the_tables_once() {
    let url = on_server(PostgresServer::database).await;
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let location = Location::Postgres(url.clone().into());
            tokio::spawn(async move { open(&location).await.unwrap().key_head().await.unwrap().epoch })
        })
        .collect();
    let mut epochs = Vec::new();
    for task in tasks {
        epochs.push(task.await.unwrap());
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_in_a_name_or_message() {
    let url = on_server(PostgresServer::database).await;
    let store = open(&Location::Postgres(url.clone().into())).await.unwrap();
    let name = store.name();
    assert!(
        name.starts_with("PostgreSQL 127.0.0.1:") && name.contains("/test_"),
        "{name}"
    );
    let (_, address) = url.rsplit_once('@').unwrap();
    let (host, _) = address.split_once('/').unwrap();
    for (url, says) in [
        (
            format!("postgres://tollgate:hunter3@{address}"),
            "password authentication failed",
        ),
        (format!("postgres://tollgate:hunter3@{host}/nowhere"), host),
        (
            "postgres://tollgate:hunter3@127.0.0.1:1/store".to_owned(),
            "PostgreSQL 127.0.0.1:1/store",
        ),
        ("mysql://tollgate:hunter3@127.0.0.1/store".to_owned(), "postgres://USER"),
        ("postgres://tollgate:hunter3/@127.0.0.1:x/store".to_owned(), "%XX"),
        (format!("{url}?sslmode=hunter3"), "%XX"),
    ] {
        let location = Location::Postgres(url.into());
        let error = open(&location).await.err().expect("no store").to_string();
        assert!(error.contains(says), "{error}");
        assert!(!error.contains("hunter"), "{error}");
        assert!(!format!("{location:?}").contains("hunter"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_is_its_owner_s_alone() {
    let place = Place::sqlite().await;
    let Location::Sqlite(path) = &place.location else {
        unreachable!()
    };
    place.store.write_keys(&[create(1)], 1).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let directory = path.parent().unwrap();
    assert_eq!(mode(directory), 0o700);
    let files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(files.len() > 1, "the log of SQLite is a file too: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(place.store.name(), format!("SQLite {}", path.display()));
    assert!(
        timeout(Duration::from_millis(100), place.store.changed())
            .await
            .is_err(),
        "nobody else is there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let text = "this is a text, and a rather long one, so that it can not pass for a header ".repeat(20);
    std::fs::write(&path, &text).unwrap();
    let error = open(&Location::Sqlite(path.clone()))
        .await
        .err()
        .expect("no store")
        .to_string();
    assert!(
        error.contains(path.to_str().unwrap()) && error.contains("another file"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let error = open(&Location::Sqlite(path.join("below")))
        .await
        .err()
        .expect("no store")
        .to_string();
    assert!(error.contains("below") && error.contains("may write"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_newer_program_are_left_alone() {
    let place = Place::postgres().await;
    let Location::Postgres(url) = &place.location else {
        unreachable!()
    };
    let database = url.expose().rsplit_once('/').unwrap().1.to_owned();
    on_server(move |server| {
        let newer = "INSERT INTO _sqlx_migrations SELECT 999, 'newer', now(), true, '', 1";
        server.sql(&database, newer)
    })
    .await;
    let error = open(&place.location).await.err().expect("no store").to_string();
    assert!(error.contains("a newer tollgate (step 999)"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_given_up_half_way_leaves_nothing_and_blocks_nobody() {
    for place in [Place::sqlite().await, Place::postgres().await] {
        let many: Vec<KeyWrite> = (0..20_000).map(create).collect();
        for micros in [0, 100, 1_000, 10_000, 50_000, 100_000] {
            // Dropped wherever it is, as when a client hangs up.
            let _ = timeout(Duration::from_micros(micros), place.store.write_keys(&many, 1)).await;
        }
        for micros in 0..500 {
            // Short ones are given up while they begin and while they end, too.
            let _ = timeout(Duration::from_micros(micros), place.store.write_keys(&[], 1)).await;
        }
        let head = place.store.key_head().await.unwrap();
        assert_eq!(head.seq % 20_000, 0, "all or nothing");
        let next = place.store.write_keys(&[create(1_000_000)], 1).await.unwrap();
        let log = place.store.key_log(next - 1, 10).await.unwrap();
        assert_eq!(log[0].change.hash(), key_hash(1_000_000));
    }
}
