//! The stories of a connection, with real servers.

pub(crate) mod server;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Pipeline, Value};
use tokio::runtime::Handle;
use tokio::time::sleep;

use self::server::{Cluster, PATIENCE, Server, certificates, wait_for};
use crate::document::Secret;

use super::*;
use crate::telemetry::Metrics;

/// Settings that a busy machine does not trip over; what a test is about, it sets itself.
fn settings(urls: &[impl AsRef<str>]) -> Settings {
    Settings {
        connect_timeout: PATIENCE,
        response_timeout: PATIENCE,
        slow_after: PATIENCE,
        ..Settings::new(urls.iter().map(|url| url.as_ref().parse().unwrap()).collect())
    }
}

fn metrics() -> Metrics {
    Metrics::new().unwrap()
}

async fn started(settings: &Settings) -> Redis {
    let redis = Redis::new(settings, metrics().store()).unwrap();
    redis.start(&Handle::current());
    assert!(redis.ready(PATIENCE).await);
    redis
}

fn only(redis: &Redis) -> Arc<Node> {
    redis.node_of(Slot::of_tag(b"any")).unwrap()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "still waiting for {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

fn pipeline(commands: &[&[&str]]) -> Pipeline {
    let mut pipeline = Pipeline::new();
    for command in commands {
        pipeline.cmd(command[0]).arg(&command[1..]);
    }
    pipeline
}

/// The answers as texts, errors by their code.
async fn ask(node: &Node, commands: &[&[&str]]) -> Result<Vec<String>, Failure> {
    let reply = node.send(&pipeline(commands)).await?;
    assert!(reply.sent <= reply.received);
    Ok(reply
        .values
        .into_iter()
        .map(|value| match value {
            Ok(Value::Okay) => "OK".to_owned(),
            Ok(Value::Int(number)) => number.to_string(),
            Ok(Value::BulkString(bytes)) => String::from_utf8(bytes).unwrap(),
            Ok(value) => format!("{value:?}"),
            Err(error) => error.code().to_owned(),
        })
        .collect())
}

/// Sends the command until it gets through.
async fn ask_until_answered(node: &Node, command: &[&str]) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask(node, &[command]).await {
            Ok(answers) => return answers.concat(),
            Err(failure) => assert!(Instant::now() < until, "{failure}: {:?}", node.trouble()),
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn errors_of_single_commands_stay_inside_the_reply() {
    let server = Server::start();
    let redis = started(&settings(&[server.url()])).await;
    let node = only(&redis);
    until("the server", || node.health() == Health::Up).await;
    assert_eq!(node.trouble(), None);
    assert_eq!(node.name(), format!("127.0.0.1:{}", server.port));
    let answers = ask(
        &node,
        &[
            &["SET", "text", "a"],
            &["INCRBY", "text", "1"],
            &["EVALSHA", "0000000000000000000000000000000000000000", "0"],
            &["NONSENSE"],
            &["INCRBY", "number", "7"],
        ],
    );
    assert_eq!(answers.await.unwrap(), ["OK", "ERR", "NOSCRIPT", "ERR", "7"]);
    assert!(node.send(&Pipeline::new()).await.unwrap().values.is_empty());
    assert!(node.round_trip() > Duration::ZERO);
    assert_ne!(redis.health_of(Slot::of_tag(b"any")), Health::Down);
    assert_eq!(redis.nodes().len(), 1);
}

#[tokio::test]
async fn a_transaction_does_not_mix_up_the_replies_of_the_next_pipeline() {
    let server = Server::start();
    let redis = started(&settings(&[server.url()])).await;
    let mut transaction = pipeline(&[&["INCR", "a"], &["INCR", "a"]]);
    transaction.atomic();
    let values = only(&redis).send(&transaction).await.unwrap().values;
    assert_eq!(
        values.last(),
        Some(&Ok(Value::Array(vec![Value::Int(1), Value::Int(2)])))
    );
    assert_eq!(ask(&only(&redis), &[&["ECHO", "next"]]).await.unwrap(), ["next"]);
}

#[tokio::test]
async fn a_database_other_than_the_first_is_used() {
    let server = Server::start();
    let redis = started(&settings(&[format!("{}/3", server.url())])).await;
    assert_eq!(ask(&only(&redis), &[&["SET", "key", "there"]]).await.unwrap(), ["OK"]);
    assert_eq!(server.cli(&["-n", "3", "get", "key"]), "there");

    let missing = started(&settings(&[format!("{}/99", server.url())])).await;
    assert_eq!(only(&missing).health(), Health::Down);
    assert!(only(&missing).trouble().unwrap().contains("database 99"));
}

#[tokio::test]
async fn a_socket_is_as_good_as_a_port() {
    let server = Server::with(&["--unixsocket", "DIR/socket"]);
    let path = server.path("socket");
    let redis = started(&settings(&[format!("unix://{}", path.display())])).await;
    assert_eq!(ask(&only(&redis), &[&["ECHO", "hello"]]).await.unwrap(), ["hello"]);
    assert_eq!(only(&redis).name(), path.to_str().unwrap());
}

#[tokio::test]
async fn the_right_password_opens_and_a_wrong_one_is_told_without_being_shown() {
    let server = Server::with(&["--requirepass", "sesame"]);
    let with = |password: Option<&str>| Settings {
        password: password.map(Secret::from),
        ..settings(&[server.url()])
    };
    let redis = started(&with(Some("sesame"))).await;
    assert_eq!(ask(&only(&redis), &[&["ECHO", "in"]]).await.unwrap(), ["in"]);
    let redis = started(&settings(&[server.url().replace("//", "//:sesame@")])).await;
    assert_eq!(ask(&only(&redis), &[&["ECHO", "in"]]).await.unwrap(), ["in"]);

    let redis = started(&with(Some("hunter2"))).await;
    let node = only(&redis);
    assert_eq!(node.health(), Health::Down);
    assert_eq!(ask(&node, &[&["PING"]]).await, Err(Failure::Unavailable));
    let trouble = node.trouble().unwrap();
    assert!(trouble.contains("refuses the credentials: WRONGPASS"), "{trouble}");
    assert!(!trouble.contains("hunter2"), "{trouble}");
    assert_eq!(node.data_identity(), 0);

    let redis = started(&with(None)).await;
    assert!(only(&redis).trouble().unwrap().contains("asks for a password"));
}

#[tokio::test]
async fn a_server_that_repeats_a_long_password_only_in_part_makes_nobody_show_that_part() {
    let server = Server::with(&["--rename-command", "AUTH", "LOGIN"]);
    let password = "hunter2".repeat(40);
    let said = server.cli(&["auth", &password]);
    assert!(said.contains("hunter2") && !said.contains(&password), "{said}");

    let redis = started(&Settings {
        password: Some(Secret::from(password.as_str())),
        ..settings(&[server.url()])
    })
    .await;
    let trouble = only(&redis).trouble().unwrap();
    assert!(trouble.contains("refuses the credentials: ERR"), "{trouble}");
    assert!(!trouble.contains("hunter"), "{trouble}");
}

#[tokio::test]
async fn a_user_that_may_not_run_info_can_count_and_each_connection_counts_as_other_data() {
    let directory = tempfile::tempdir().unwrap();
    let users = "user default on nopass ~* +@all
user gate on >sesame ~tg* +@all -@dangerous
";
    fs::write(directory.path().join("users"), users).unwrap();
    let mut server = Server::in_directory(directory, &["--aclfile", "DIR/users"]);
    let redis = started(&Settings {
        username: Some("gate".to_owned()),
        password: Some("sesame".into()),
        ..settings(&[server.url()])
    })
    .await;
    let node = only(&redis);
    let commands: [&[&str]; 2] = [&["INCRBY", "tg1", "5"], &["GET", "other"]];
    assert_eq!(ask(&node, &commands).await.unwrap(), ["5", "NOPERM"]);
    let before = node.data_identity();
    assert_ne!(before, 0);
    server.kill();
    server.run();
    until("a new connection", || {
        node.health() == Health::Up && node.data_identity() != before
    })
    .await;
}

#[tokio::test]
async fn tls_is_used_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let server = Server::in_directory(
        directory,
        &[
            "--tls-cert-file",
            "DIR/server.pem",
            "--tls-key-file",
            "DIR/server.key",
            "--tls-ca-cert-file",
            "DIR/ca.pem",
            "--tls-auth-clients",
            "no",
            "--port",
            "0",
            "--tls-port",
            "PORT",
        ],
    );
    let with = |url: String, ca: &str| Settings {
        tls_ca: Some(server.path(ca)),
        ..settings(&[url])
    };
    let url = server.url().replace("redis://", "rediss://");
    let redis = started(&with(url.clone(), "ca.pem")).await;
    assert_eq!(ask(&only(&redis), &[&["ECHO", "sealed"]]).await.unwrap(), ["sealed"]);

    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    fs::copy(other.path().join("ca.pem"), server.path("other.pem")).unwrap();
    for (url, ca) in [
        (url.clone(), "other.pem"),
        (url.replace("127.0.0.1", "localhost"), "ca.pem"),
    ] {
        let redis = started(&with(url, ca)).await;
        let trouble = only(&redis).trouble().unwrap();
        assert!(trouble.contains("TLS failed: invalid peer certificate"), "{trouble}");
    }

    let plain = started(&settings(&[server.url()])).await;
    assert!(only(&plain).trouble().unwrap().contains("expect TLS"));

    fs::write(server.path("empty.pem"), "nothing").unwrap();
    for (ca, complaint) in [
        ("missing.pem", "missing.pem: No such file"),
        ("empty.pem", "no certificate in it"),
    ] {
        let error = Redis::new(&with(url.clone(), ca), metrics().store())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("redis: \"ca\" ") && error.contains(complaint),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_killed_server_is_noticed_without_traffic_and_used_again_when_it_is_back() {
    let mut server = Server::start();
    let metrics = metrics();
    let redis = Redis::new(&settings(&[server.url()]), metrics.store()).unwrap();
    redis.start(&Handle::current());
    assert!(redis.ready(PATIENCE).await);
    let node = only(&redis);
    let before = node.data_identity();
    assert_eq!(ask(&node, &[&["INCR", "counter"]]).await.unwrap(), ["1"]);

    server.kill();
    until("the breaker", || node.health() == Health::Down).await;
    assert_eq!(ask(&node, &[&["INCR", "counter"]]).await, Err(Failure::Unavailable));
    let text = String::from_utf8(metrics.render(0).unwrap()).unwrap();
    assert!(
        text.contains(&format!("tollgate_store_up{{node=\"{}\"}} 0\n", node.name())),
        "{text}"
    );

    server.run();
    until("the server", || node.health() == Health::Up).await;
    assert_eq!(ask(&node, &[&["INCR", "counter"]]).await.unwrap(), ["1"]);
    assert_ne!(node.data_identity(), before, "the data is gone, and it shows");
    let text = String::from_utf8(metrics.render(0).unwrap()).unwrap();
    assert!(
        text.contains(&format!("tollgate_store_up{{node=\"{}\"}} 1\n", node.name())),
        "{text}"
    );
    assert!(text.contains("tollgate_store_reconnects_total 1\n"), "{text}");
    assert!(
        text.contains("tollgate_store_failures_total{kind=\"lost\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("tollgate_store_failures_total{kind=\"unavailable\"} 1\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_new_connection_to_the_same_data_is_the_same_data() {
    let server = Server::start();
    let redis = started(&settings(&[server.url()])).await;
    let node = only(&redis);
    let before = node.data_identity();
    server.cli(&["client", "kill", "type", "normal", "skipme", "yes"]);
    let client = ask_until_answered(&node, &["CLIENT", "ID"]).await;
    server.cli(&["client", "kill", "type", "normal", "skipme", "yes"]);
    until("another connection", || node.health() != Health::Down).await;
    assert_ne!(ask_until_answered(&node, &["CLIENT", "ID"]).await, client);
    assert_eq!(node.data_identity(), before);
}

#[tokio::test]
async fn a_frozen_server_is_slow_at_once_and_up_again_when_it_goes_on() {
    let server = Server::start();
    let redis = started(&settings(&[server.url()])).await;
    let node = only(&redis);
    server.freeze();
    let asked = tokio::spawn({
        let node = Arc::clone(&node);
        async move { ask(&node, &[&["INCR", "counter"]]).await }
    });
    // Long before the deadline of the reply, which is seconds away.
    until("the watchdog", || node.health() == Health::Slow).await;
    assert!(!asked.is_finished());
    server.thaw();
    assert_eq!(asked.await.unwrap().unwrap(), ["1"]);
    until("the server", || node.health() == Health::Up).await;
}

#[tokio::test]
async fn a_silent_server_costs_a_deadline_and_then_nothing_until_it_answers() {
    let server = Server::start();
    let redis = started(&Settings {
        response_timeout: Duration::from_millis(400),
        ..settings(&[server.url()])
    })
    .await;
    let node = only(&redis);
    until("the server", || node.health() == Health::Up).await;
    let before = node.data_identity();
    server.freeze();
    let asked = Instant::now();
    let failure = ask(&node, &[&["ECHO", "too late"]]).await.unwrap_err();
    assert_ne!(failure, Failure::Unavailable);
    assert!(failure != Failure::Timeout || asked.elapsed() >= Duration::from_millis(400));
    until("the breaker", || node.health() == Health::Down).await;
    assert_eq!(ask(&node, &[&["PING"]]).await, Err(Failure::Unavailable));
    assert!(
        node.trouble().unwrap().contains("no answer within"),
        "{:?}",
        node.trouble()
    );

    server.thaw();
    // A late reply would be the answer to this question.
    assert_eq!(ask_until_answered(&node, &["ECHO", "in time"]).await, "in time");
    until("the server", || node.health() == Health::Up).await;
    assert_eq!(node.data_identity(), before);
}

#[tokio::test]
async fn a_server_whose_round_trips_take_too_long_is_slow_and_still_answers() {
    let server = Server::start();
    let redis = started(&Settings {
        slow_after: Duration::from_nanos(1),
        ..settings(&[server.url()])
    })
    .await;
    let node = only(&redis);
    // Without any traffic but its own.
    until("the verdict", || node.health() == Health::Slow).await;
    assert_eq!(ask(&node, &[&["ECHO", "slow"]]).await.unwrap(), ["slow"]);
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_is_down_until_it_is_a_master_again() {
    let master = Server::start();
    let server = Server::start();
    let redis = started(&settings(&[server.url()])).await;
    let node = only(&redis);
    let before = node.data_identity();
    assert_eq!(server.cli(&["replicaof", "127.0.0.1", &master.port.to_string()]), "OK");
    wait_for("the replication", || {
        server.cli(&["info", "replication"]).contains("master_link_status:up")
    });
    assert_eq!(ask_until_answered(&node, &["INCR", "counter"]).await, "READONLY");
    assert_eq!(node.health(), Health::Down);
    assert_eq!(ask(&node, &[&["INCR", "counter"]]).await, Err(Failure::Unavailable));
    until("the reason", || {
        node.trouble().is_some_and(|trouble| trouble.contains("is a replica"))
    })
    .await;

    assert_eq!(server.cli(&["replicaof", "no", "one"]), "OK");
    until("the master", || node.health() == Health::Up).await;
    assert_ne!(
        node.data_identity(),
        before,
        "the data was replaced without a new connection"
    );
}

/// Sends until the breaker opens. Some replies are wanted first.
async fn ask_until_refused(node: &Node, commands: &[&[&str]], answers: &[&str]) {
    let mut replies = 0;
    let until = Instant::now() + PATIENCE;
    while let Ok(found) = ask(node, commands).await {
        assert_eq!(found, answers);
        assert!(Instant::now() < until, "it is still up after {replies} replies");
        replies += 1;
        sleep(Duration::from_millis(20)).await;
    }
    assert!(replies >= 3, "only {replies}");
    assert_eq!(node.health(), Health::Down);
}

/// Whether it stays as it is for longer than the upkeep leaves it alone.
async fn stays_down(node: &Node) {
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        assert_eq!(node.health(), Health::Down, "a PING is not enough");
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_server_without_memory_is_down_until_it_has_some_though_it_answers() {
    let server = Server::start();
    let redis = started(&settings(&[server.url()])).await;
    let node = only(&redis);
    let take: [&[&str]; 3] = [
        &["INCRBY", "tg1{subject}limit.1", "5"],
        &["PEXPIREAT", "tg1{subject}limit.1", "99999999999999"],
        &["EXISTS", "other"],
    ];
    assert_eq!(ask(&node, &take).await.unwrap(), ["5", "1", "0"]);
    assert_eq!(server.cli(&["config", "set", "maxmemory", "1"]), "OK");
    ask_until_refused(&node, &take, &["OOM", "1", "0"]).await;
    let trouble = node.trouble().unwrap();
    assert!(trouble.contains("takes no writes: OOM"), "{trouble}");
    stays_down(&node).await;
    // Nor is a new connection.
    server.cli(&["client", "kill", "type", "normal", "skipme", "yes"]);
    stays_down(&node).await;

    assert_eq!(server.cli(&["config", "set", "maxmemory", "0"]), "OK");
    until("the server", || node.health() == Health::Up).await;
    assert_eq!(ask(&node, &take).await.unwrap(), ["10", "1", "0"]);
    wait_for("the end of what the trial has left", || server.cli(&["dbsize"]) == "1");
}

#[tokio::test]
async fn a_server_that_wants_more_replicas_than_it_has_is_down() {
    let server = Server::start();
    let redis = started(&settings(&[server.url()])).await;
    let node = only(&redis);
    assert_eq!(server.cli(&["config", "set", "min-replicas-to-write", "1"]), "OK");
    ask_until_refused(&node, &[&["DECRBY", "counter", "1"]], &["NOREPLICAS"]).await;
    stays_down(&node).await;
    assert_eq!(server.cli(&["config", "set", "min-replicas-to-write", "0"]), "OK");
    until("the server", || node.health() == Health::Up).await;
}

#[tokio::test]
async fn a_user_that_may_not_run_scripts_can_count_and_one_that_only_runs_scripts_can_not() {
    let server = Server::start();
    server.cli(&[
        "acl", "setuser", "gate", "on", ">sesame", "~tg1{*", "+@all", "-eval", "-evalsha",
    ]);
    let redis = started(&Settings {
        username: Some("gate".to_owned()),
        password: Some("sesame".into()),
        ..settings(&[server.url()])
    })
    .await;
    let node = only(&redis);
    let script: &[&str] = &["EVAL", "return redis.call('INCRBY', KEYS[1], 5)", "1", "tg1{a}b"];
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        let answers = ask(&node, &[&["INCRBY", "tg1{a}c", "0"], script]).await.unwrap();
        assert_eq!(answers, ["0", "NOPERM"]);
    }
    assert_ne!(node.health(), Health::Down);
    assert_eq!(ask(&node, &[&["INCRBY", "tg1{a}c", "0"]]).await.unwrap(), ["0"]);

    ask_until_refused(&node, &[script], &["NOPERM"]).await;
    stays_down(&node).await;
    assert!(node.trouble().unwrap().contains("NOPERM"), "{:?}", node.trouble());
    server.cli(&["acl", "setuser", "gate", "+eval"]);
    until("the server", || node.health() == Health::Up).await;
    assert_eq!(ask(&node, &[script]).await.unwrap(), ["5"]);
}

#[tokio::test]
async fn a_node_of_a_cluster_without_memory_is_down_and_the_others_are_not() {
    let cluster = Cluster::start();
    let redis = started(&settings(&cluster.urls())).await;
    for (number, server) in cluster.0.iter().enumerate() {
        let is_at = |node: &Node| node.name() == format!("127.0.0.1:{}", server.port);
        let (tag, node) = tags(&redis).into_iter().find(|(_, node)| is_at(node)).unwrap();
        let key = format!("tg1{{{tag}}}limit");
        assert_eq!(ask_until_answered(&node, &["INCRBY", &key, "1"]).await, "1");
        if number == 1 {
            assert_eq!(server.cli(&["config", "set", "maxmemory", "1"]), "OK");
            ask_until_refused(&node, &[&["INCRBY", &key, "1"]], &["OOM"]).await;
            stays_down(&node).await;
        }
    }
    let up = redis
        .nodes()
        .iter()
        .filter(|node| node.health() != Health::Down)
        .count();
    assert_eq!(up, 2);
    assert_eq!(cluster.0[1].cli(&["config", "set", "maxmemory", "0"]), "OK");
    until("all of them", || {
        redis.nodes().iter().all(|node| node.health() == Health::Up)
    })
    .await;
}

#[tokio::test]
async fn a_node_of_a_cluster_is_not_taken_for_a_single_server_nor_the_other_way_round() {
    let member = Cluster::member();
    let redis = started(&settings(&[member.url()])).await;
    assert!(only(&redis).trouble().unwrap().contains("node of a Redis Cluster"));

    let (one, other) = (Server::start(), Server::start());
    let redis = Redis::new(&settings(&[one.url(), other.url()]), metrics().store()).unwrap();
    redis.start(&Handle::current());
    assert!(!redis.ready(Duration::from_millis(200)).await);
    assert_eq!(redis.health_of(Slot::of_tag(b"any")), Health::Down);
    assert!(redis.node_of(Slot::of_tag(b"any")).is_none());
}

#[tokio::test]
async fn the_last_clone_takes_the_connections_with_it() {
    let server = Server::start();
    let redis = started(&settings(&[server.url()])).await;
    let clone = redis.clone();
    let node = only(&redis);
    drop(redis);
    assert_eq!(ask(&node, &[&["ECHO", "still here"]]).await.unwrap(), ["still here"]);
    assert!(server.cli(&["client", "list"]).contains("name=tollgate"));
    drop(clone);
    until("the end", || !server.cli(&["client", "list"]).contains("name=tollgate")).await;
    assert_eq!(ask(&node, &[&["PING"]]).await, Err(Failure::Unavailable));
}

#[test]
fn slots_are_those_of_the_server() {
    let server = Cluster::member();
    for tag in [
        "",
        "a",
        "123456789",
        "user1000",
        "tg",
        "süß",
        "0123456789abcdefghijklmnopqrstuvwxyz",
    ] {
        let slot = Slot::of_tag(tag.as_bytes()).number().to_string();
        assert_eq!(server.cli(&["cluster", "keyslot", tag]), slot, "{tag}");
        if !tag.is_empty() {
            assert_eq!(
                server.cli(&["cluster", "keyslot", &format!("one{{{tag}}}two")]),
                slot,
                "{tag}"
            );
        }
    }
}

/// A tag of each third of the slots.
fn tags(redis: &Redis) -> Vec<(String, Arc<Node>)> {
    let tags = (0..200).map(|number| format!("tag{number}"));
    tags.filter_map(|tag| {
        let node = redis.node_of(Slot::of_tag(tag.as_bytes()))?;
        Some((tag, node))
    })
    .collect()
}

#[tokio::test]
async fn every_slot_of_a_cluster_is_at_the_node_that_has_it_and_follows_when_it_moves() {
    let cluster = Cluster::start();
    // Two seeds are enough to find the third.
    let redis = started(&settings(&cluster.urls()[..2])).await;
    assert_eq!(redis.nodes().len(), 3);
    let before = tags(&redis);
    assert_eq!(before.len(), 200);
    for (tag, node) in &before {
        assert_eq!(
            ask(node, &[&["INCR", &format!("{{{tag}}}")]]).await.unwrap(),
            ["1"],
            "{tag}"
        );
    }

    // One slot moves.
    let mut changed = redis.changed();
    changed.mark_unchanged();
    let is_at = |node: &Node, server: &Server| node.name() == format!("127.0.0.1:{}", server.port);
    let (tag, _) = before.iter().find(|(_, node)| is_at(node, &cluster.0[0])).unwrap();
    let (slot, key) = (Slot::of_tag(tag.as_bytes()), format!("{{{tag}}}"));
    assert_eq!(cluster.0[0].cli(&["del", &key]), "1");
    let target = cluster.0[1].cli(&["cluster", "myid"]);
    for server in [&cluster.0[1], &cluster.0[0], &cluster.0[2]] {
        let number = slot.number().to_string();
        assert_eq!(server.cli(&["cluster", "setslot", &number, "node", &target]), "OK");
    }
    let waiting = Instant::now() + PATIENCE;
    loop {
        let node = redis.node_of(slot).unwrap();
        // The answer alone makes us look again.
        match ask_until_answered(&node, &["INCR", &key]).await.as_str() {
            "MOVED" => assert!(is_at(&node, &cluster.0[0]) && Instant::now() < waiting),
            answer => {
                assert_eq!(answer, "1");
                assert!(is_at(&node, &cluster.0[1]), "{node:?}");
                break;
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(changed.has_changed().unwrap());
    for (other, node) in before.iter().filter(|(other, _)| other != tag) {
        let now = redis.node_of(Slot::of_tag(other.as_bytes())).unwrap();
        assert!(Arc::ptr_eq(&now, node), "{other} stays where it is");
    }
}

#[tokio::test]
async fn a_new_key_of_a_slot_that_is_moving_counts_where_the_slot_moves_to() {
    let cluster = Cluster::start();
    let redis = started(&settings(&cluster.urls())).await;
    until("all of them", || {
        redis.nodes().iter().all(|node| node.health() == Health::Up)
    })
    .await;
    let (source, target) = (&cluster.0[0], &cluster.0[1]);
    let is_at = |node: &Node, server: &Server| node.name() == format!("127.0.0.1:{}", server.port);
    let (tag, node) = tags(&redis).into_iter().find(|(_, node)| is_at(node, source)).unwrap();
    let (slot, number) = (
        Slot::of_tag(tag.as_bytes()),
        Slot::of_tag(tag.as_bytes()).number().to_string(),
    );
    let (old, new) = (format!("tg1{{{tag}}}old"), format!("tg1{{{tag}}}new"));
    assert_eq!(ask(&node, &[&["INCRBY", &old, "1"]]).await.unwrap(), ["1"]);

    let (source_id, target_id) = (source.cli(&["cluster", "myid"]), target.cli(&["cluster", "myid"]));
    let set = |server: &Server, what: &str, id: &str| server.cli(&["cluster", "setslot", &number, what, id]);
    assert_eq!(set(target, "importing", &source_id), "OK");
    assert_eq!(set(source, "migrating", &target_id), "OK");
    let commands: [&[&str]; 7] = [
        &["INCRBY", &old, "1"],
        &["INCRBY", &new, "5"],
        &["PEXPIREAT", &new, "99999999999999"],
        &["ECHO", "between"],
        &["GET", &new],
        // One key is here and the other there.
        &["EVAL", "return 1", "2", &old, &new],
        &["GET", &old],
    ];
    let answers = ask(&node, &commands).await.unwrap();
    assert_eq!(answers, ["2", "5", "1", "between", "5", "TRYAGAIN", "2"]);
    assert_eq!(ask(&node, &[&["INCRBY", &new, "5"]]).await.unwrap(), ["10"]);
    let keys = |server: &Server| server.cli(&["cluster", "countkeysinslot", &number]);
    assert_eq!((keys(source), keys(target)), ("1".to_owned(), "1".to_owned()));
    assert!(
        Arc::ptr_eq(&redis.node_of(slot).unwrap(), &node),
        "it has not moved yet"
    );

    let port = target.port.to_string();
    assert_eq!(source.cli(&["migrate", "127.0.0.1", &port, &old, "0", "5000"]), "OK");
    for server in [target, source, &cluster.0[2]] {
        assert_eq!(set(server, "node", &target_id), "OK");
    }
    redis.refresh();
    until("the slot", || is_at(&redis.node_of(slot).unwrap(), target)).await;
    let node = redis.node_of(slot).unwrap();
    let commands: [&[&str]; 2] = [&["GET", &old], &["GET", &new]];
    assert_eq!(ask(&node, &commands).await.unwrap(), ["2", "10"]);
}

#[tokio::test]
async fn a_slot_that_moves_to_a_server_that_is_not_known_yet_is_an_error_of_the_command() {
    let cluster = Cluster::start();
    let newcomer = Cluster::member();
    cluster.meet(&newcomer);
    let redis = started(&settings(&cluster.urls())).await;
    let source = &cluster.0[0];
    let is_at = |node: &Node| node.name() == format!("127.0.0.1:{}", source.port);
    let (tag, node) = tags(&redis).into_iter().find(|(_, node)| is_at(node)).unwrap();
    let (slot, id) = (
        Slot::of_tag(tag.as_bytes()).number().to_string(),
        newcomer.cli(&["cluster", "myid"]),
    );
    wait_for("the newcomer to be known", || {
        source.cli(&["cluster", "setslot", &slot, "migrating", &id]) == "OK"
    });
    assert_eq!(
        ask_until_answered(&node, &["INCRBY", &format!("{{{tag}}}"), "1"]).await,
        "ASK"
    );
}

#[tokio::test]
async fn a_replica_that_takes_over_gets_the_slots_and_the_others_stay_as_they_are() {
    let mut cluster = Cluster::start();
    let replica = Cluster::member();
    cluster.meet(&replica);
    let master = cluster.0[0].cli(&["cluster", "myid"]);
    for server in cluster.0.iter().chain([&replica]) {
        wait_for("everybody knows everybody", || {
            let nodes = server.cli(&["cluster", "nodes"]);
            nodes.lines().count() == 4 && !nodes.contains("handshake") && !nodes.contains("disconnected")
        });
    }
    wait_for("a replica", || replica.cli(&["cluster", "replicate", &master]) == "OK");
    wait_for("the replication", || {
        replica.cli(&["info", "replication"]).contains("master_link_status:up")
    });

    let redis = started(&settings(&cluster.urls())).await;
    let before = tags(&redis);
    let mut old = redis.nodes();
    old.retain(|node| node.name() == format!("127.0.0.1:{}", cluster.0[0].port));
    let old = old.pop().unwrap();
    cluster.0[0].kill();
    // By command, because an election takes seconds.
    assert_eq!(replica.cli(&["cluster", "failover", "takeover"]), "OK");
    until("the new master", || {
        before.iter().all(|(tag, node)| {
            let slot = Slot::of_tag(tag.as_bytes());
            let now = redis.node_of(slot).unwrap();
            if Arc::ptr_eq(node, &old) {
                now.name() == format!("127.0.0.1:{}", replica.port) && redis.health_of(slot) == Health::Up
            } else {
                Arc::ptr_eq(&now, node)
            }
        })
    })
    .await;
    for (tag, _) in &before {
        let node = redis.node_of(Slot::of_tag(tag.as_bytes())).unwrap();
        let key = format!("{{{tag}}}");
        let mut answer = ask_until_answered(&node, &["INCR", &key]).await;
        // Servers that have not heard of the new master yet take no writes.
        while answer == "CLUSTERDOWN" {
            answer = ask_until_answered(&node, &["INCR", &key]).await;
        }
        assert_eq!(answer, "1");
    }
    assert!(redis.nodes().iter().all(|node| !Arc::ptr_eq(node, &old)));
    assert_eq!(old.health(), Health::Down, "whoever still holds it is told");
}

#[tokio::test]
async fn a_probe_tells_what_is_there_what_is_risky_and_what_is_wrong() {
    let good = Server::with(&["--appendonly", "yes"]);
    let found = probe(&settings(&[good.url()]), Purpose::Counters).await.unwrap();
    assert_eq!((found.warnings, found.errors), (vec![], vec![]));
    assert!(
        found.facts[0].contains("role master, maxmemory-policy noeviction"),
        "{:?}",
        found.facts
    );

    let risky = Server::with(&["--maxmemory-policy", "allkeys-lru", "--requirepass", "sesame"]);
    let found = probe(&settings(&[risky.url().replace("//", "//:sesame@")]), Purpose::Counters)
        .await
        .unwrap();
    assert!(
        found.warnings[0].contains("maxmemory-policy is allkeys-lru"),
        "{:?}",
        found.warnings
    );
    assert!(found.warnings[1].contains("appendonly is off"), "{:?}", found.warnings);
    let found = probe(
        &settings(&[risky.url().replace("//", "//:hunter2@")]),
        Purpose::Counters,
    )
    .await
    .unwrap();
    assert!(
        found.errors[0].contains("refuses the credentials"),
        "{:?}",
        found.errors
    );
    assert!(!found.errors[0].contains("hunter2"), "{:?}", found.errors);

    let counters = found_identities(&good, Purpose::Counters).await;
    assert_eq!(counters, found_identities(&good, Purpose::Answers).await);
    assert_ne!(counters, found_identities(&Server::start(), Purpose::Answers).await);
    let full = Server::with(&["--maxmemory", "64mb"]);
    let found = probe(&settings(&[full.url()]), Purpose::Answers).await.unwrap();
    assert!(
        found.warnings[0].contains("set it to volatile-lfu"),
        "{:?}",
        found.warnings
    );
    let endless = probe(&settings(&[good.url()]), Purpose::Answers).await.unwrap();
    assert!(
        endless.warnings[0].starts_with("cache.redis ") && endless.warnings[0].contains("no maxmemory"),
        "{:?}",
        endless.warnings
    );
    let fit = Server::with(&["--maxmemory", "64mb", "--maxmemory-policy", "volatile-lfu"]);
    let found = probe(&settings(&[fit.url()]), Purpose::Answers).await.unwrap();
    assert_eq!((found.warnings, found.errors), (vec![], vec![]));

    let cluster = Cluster::start();
    let found = probe(&settings(&cluster.urls()[1..]), Purpose::Counters).await.unwrap();
    assert_eq!(found.errors, [""; 0]);
    let first = format!("redis 127.0.0.1:{}: master of the cluster", cluster.0[0].port);
    assert!(found.facts.contains(&first), "{:?}", found.facts);

    let mut gone = Server::start();
    gone.kill();
    let found = probe(&settings(&[gone.url()]), Purpose::Counters).await.unwrap();
    assert!(found.errors[0].contains("cannot connect"), "{:?}", found.errors);
}

async fn found_identities(server: &Server, purpose: Purpose) -> Vec<u64> {
    let found = probe(&settings(&[server.url()]), purpose).await.unwrap();
    assert_eq!(found.identities.len(), 1);
    found.identities
}
