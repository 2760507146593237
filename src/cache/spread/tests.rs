//! The stories of invalidations that travel, with a real server.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::super::marks::{Invalidation, MarkId};
use super::stream::{Spread, Stream};
use super::{Channel, Spreading};
use crate::redis::tests::server::{PATIENCE, Server};
use crate::redis::{Redis, Settings};
use crate::telemetry::{CacheSharedMetrics, Metrics};

const ENVIRONMENT: &str = "Default";

/// A gateway, as far as it spreads invalidations.
struct Gateway {
    spread: Arc<Spread>,
    metrics: CacheSharedMetrics,
    applied: Arc<Mutex<Vec<(Invalidation, u64)>>>,
}

impl Gateway {
    fn start(server: &Server) -> Self {
        Self::start_in(server, ENVIRONMENT)
    }

    fn start_in(server: &Server, environment: &str) -> Self {
        let settings = Settings {
            connect_timeout: PATIENCE,
            response_timeout: PATIENCE,
            slow_after: PATIENCE,
            ..Settings::new(vec![server.url().parse().unwrap()])
        };
        let metrics = Metrics::new().unwrap().cache_shared();
        let redis = Redis::new(&settings, metrics.fill_store.clone()).unwrap();
        redis.start(&Handle::current());
        let applied: Arc<Mutex<Vec<(Invalidation, u64)>>> = Arc::default();
        let list = Arc::clone(&applied);
        let apply = Arc::new(move |what: &Invalidation, at_ms| list.lock().push((what.clone(), at_ms)));
        let spread = Arc::new(Spread::start(
            redis,
            environment,
            metrics.clone(),
            apply,
            &Handle::current(),
        ));
        Self {
            spread,
            metrics,
            applied,
        }
    }

    async fn started(server: &Server) -> Self {
        let gateway = Self::start(server);
        until("a first look", || gateway.spread.is_current()).await;
        gateway
    }

    /// What was applied since the last call.
    fn news(&self) -> Vec<Invalidation> {
        let news = std::mem::take(&mut *self.applied.lock());
        news.into_iter().map(|(what, _)| what).collect()
    }

    fn has(&self, what: &Invalidation) -> bool {
        self.applied.lock().iter().any(|(applied, _)| applied == what)
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "still waiting for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn tag(text: &str) -> Invalidation {
    Invalidation::Mark(MarkId::tag(text))
}

#[tokio::test]
async fn what_one_invalidates_reaches_the_others_and_does_not_come_back() {
    let server = Server::start();
    let (one, two) = (Gateway::started(&server).await, Gateway::started(&server).await);
    // A beginner takes what was before the stream for invalid.
    assert_eq!(
        (one.news(), two.news()),
        (vec![Invalidation::All], vec![Invalidation::All])
    );

    let all = Spreading::new(vec![Arc::clone(&one.spread) as Arc<dyn Channel>]);
    assert!(!all.is_alone());
    let prefix = Invalidation::Prefix {
        host: Some("api.example".into()),
        path: "/a".into(),
    };
    for what in [tag("news"), prefix.clone(), Invalidation::All] {
        one.spread.publish(&what, 0);
    }
    assert!(one.spread.flush(PATIENCE).await);
    until("the last one", || two.has(&Invalidation::All)).await;
    assert_eq!(two.news(), [tag("news"), prefix, Invalidation::All]);
    assert_eq!(two.metrics.invalidations_received.get(), 3);
    assert_eq!(one.metrics.invalidations_sent.get(), 3);

    // What comes from the other shows that its own was passed by.
    two.spread.publish(&tag("back"), 0);
    until("the answer", || one.has(&tag("back"))).await;
    assert_eq!(one.news(), [tag("back")]);
    assert_eq!(one.metrics.gaps.get() + two.metrics.gaps.get(), 0);
}

#[tokio::test]
async fn who_begins_later_reads_back_what_was_invalidated_with_its_time() {
    let server = Server::start();
    let one = Gateway::started(&server).await;
    for number in 0..200 {
        one.spread.publish(&tag(&number.to_string()), 0);
        if number % 50 == 0 {
            assert!(one.spread.flush(PATIENCE).await);
        }
    }
    assert!(one.spread.flush(PATIENCE).await);
    drop(one);

    let two = Gateway::started(&server).await;
    let applied = two.applied.lock().clone();
    assert_eq!(applied.len(), 201);
    assert_eq!(applied[0].0, Invalidation::All);
    assert_eq!(applied[200].0, tag("199"));
    assert!(applied.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{applied:?}");
    assert!(applied[0].1 > 0);
}

#[tokio::test]
async fn after_a_gap_everything_counts_as_invalidated_and_then_it_goes_on() {
    let server = Server::start();
    let (one, two) = (Gateway::started(&server).await, Gateway::started(&server).await);
    two.news();
    // As if the stream had been evicted, or cut beyond where they are.
    let stream = Stream::of(ENVIRONMENT).name;
    for (gaps, command) in [(1, &["DEL", &stream][..]), (2, &["XTRIM", &stream, "MAXLEN", "0"][..])] {
        server.cli(command);
        until("both to notice", || {
            one.metrics.gaps.get() >= gaps && two.metrics.gaps.get() >= gaps
        })
        .await;
        assert!(two.has(&Invalidation::All));
        // Who begins now knows of no gap by itself, and of no time before which everything is invalid but this one.
        let three = Gateway::started(&server).await;
        let told = three.applied.lock().clone();
        assert!(
            told.iter().filter(|(what, _)| *what == Invalidation::All).count() > 1,
            "the gap is told: {told:?}"
        );
        let what = tag(&gaps.to_string());
        one.spread.publish(&what, 0);
        until("the next one", || two.has(&what)).await;
    }
}

#[tokio::test]
async fn what_is_invalidated_while_the_server_is_away_is_told_when_it_is_back() {
    let mut server = Server::start();
    let (one, two) = (Gateway::started(&server).await, Gateway::started(&server).await);
    two.news();
    server.kill();
    one.spread.publish(&tag("meanwhile"), 0);
    assert!(!one.spread.flush(Duration::from_millis(50)).await);
    until("nobody to rely on it", || !two.spread.is_current()).await;
    server.run();
    assert!(one.spread.flush(PATIENCE).await);
    assert_eq!(one.metrics.invalidations_sent.get(), 1);
    // It is another server as far as anybody knows, so that more is invalidated than was told.
    until("the gap to be seen", || two.metrics.gaps.get() >= 1).await;
    assert!(two.has(&Invalidation::All));
    until("to rely on it again", || two.spread.is_current()).await;
    one.spread.publish(&tag("later"), 0);
    until("the news", || two.has(&tag("later"))).await;
}

#[tokio::test]
async fn what_can_not_be_read_counts_as_everything() {
    let server = Server::start();
    let gateway = Gateway::started(&server).await;
    gateway.news();
    let stream = Stream::of(ENVIRONMENT).name;
    server.cli(&["XADD", &stream, "*", "n", "other", "i", "[{\"planet\":1}]"]);
    until("it", || gateway.has(&Invalidation::All)).await;
    gateway.news();
    server.cli(&["XADD", &stream, "*", "unknown", "field"]);
    until("it", || gateway.has(&Invalidation::All)).await;
}

#[tokio::test]
async fn environments_do_not_hear_of_each_other() {
    let server = Server::start();
    let (one, other) = (Gateway::started(&server).await, Gateway::start_in(&server, "staging"));
    until("a first look", || other.spread.is_current()).await;
    let same = Gateway::started(&server).await;
    other.news();
    same.news();
    one.spread.publish(&tag("news"), 0);
    until("those of the same one to hear", || same.has(&tag("news"))).await;
    // Its own stream is read to the end meanwhile.
    one.spread.publish(&tag("more"), 0);
    until("those of the same one to hear", || same.has(&tag("more"))).await;
    assert!(other.news().is_empty());
}

#[tokio::test]
async fn a_record_is_never_large() {
    let server = Server::start();
    let (one, two) = (Gateway::started(&server).await, Gateway::started(&server).await);
    one.news();
    two.news();
    // What JSON makes six times as long.
    let path = "\u{1}".repeat(10_000);
    one.spread.publish(&Invalidation::Prefix { host: None, path }, 0);
    until("everything to be invalid", || two.has(&Invalidation::All)).await;
    let stream = Stream::of(ENVIRONMENT).name;
    let longest = server.cli(&["XREVRANGE", &stream, "+", "-", "COUNT", "1"]).len();
    assert!(longest < 1_000, "{longest}");
}
