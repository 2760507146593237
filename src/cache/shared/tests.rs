//! The stories of answers that gateways share, with a real server.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use parking_lot::Mutex;
use pingora::http::ResponseHeader;
use prometheus::{IntCounter, IntGauge};
use smallvec::smallvec;
use tokio::time::sleep;

use super::super::entry::Ingredients;
use super::super::freshness::Lifetime;
use super::super::key::{CallerPart, KeyParts};
use super::super::marks::{Invalidation, MarkId};
use super::super::memory::{Found as InMemory, TierCounters};
use super::super::policy::Place;
use super::super::spread::{Channel, Stream};
use super::*;
use crate::redis::tests::server::{Cluster, PATIENCE, Server};
use crate::telemetry::Metrics;

const ENVIRONMENT: &str = "Default";

/// What this has in Redis.
fn name(key: &[u8]) -> Name {
    Name::of(&key::realm(ENVIRONMENT), key)
}

/// A gateway, as far as it keeps answers.
struct Gateway {
    cache: &'static Cache,
    shared: Shared,
    metrics: CacheSharedMetrics,
    /// Whom others have told it to forget.
    forgotten: Arc<Mutex<Vec<String>>>,
}

/// Settings that a busy machine does not trip over; what a test is about, it sets itself.
fn settings(urls: &[String]) -> Settings {
    Settings {
        environment: ENVIRONMENT.to_owned(),
        redis: crate::redis::Settings {
            connect_timeout: PATIENCE,
            response_timeout: PATIENCE,
            slow_after: PATIENCE,
            ..crate::redis::Settings::new(urls.iter().map(|url| url.parse().unwrap()).collect())
        },
        budget: PATIENCE,
        object_bytes: 256 << 10,
        lease: None,
    }
}

impl Gateway {
    async fn with(settings: Settings) -> Self {
        let gateway = Self::unready(settings);
        until("the server", || gateway.is_ready()).await;
        gateway
    }

    fn unready(settings: Settings) -> Self {
        let counter = || IntCounter::new("counter", "of a test").unwrap();
        let gauge = || IntGauge::new("gauge", "of a test").unwrap();
        let cache = Cache::new(
            8 << 20,
            TierCounters {
                entries: gauge(),
                bytes: gauge(),
                filling: gauge(),
                evicted: counter(),
                refused: counter(),
                truncated: counter(),
                expired: counter(),
                invalidated: counter(),
            },
        );
        let cache: &'static Cache = Box::leak(Box::new(cache));
        let metrics = Metrics::new().unwrap().cache_shared();
        let forgotten: Arc<Mutex<Vec<String>>> = Arc::default();
        let list = Arc::clone(&forgotten);
        let forget = move |user: &str| list.lock().push(user.to_owned());
        let shared = Shared::start(settings, cache, forget, metrics.clone(), &Handle::current()).unwrap();
        Self {
            cache,
            shared,
            metrics,
            forgotten,
        }
    }

    async fn start(server: &Server) -> Self {
        Self::with(settings(&[server.url()])).await
    }

    fn is_ready(&self) -> bool {
        let nodes = self.shared.0.lookups.nodes();
        let up = !nodes.is_empty() && nodes.iter().all(|node| node.health() == Health::Up);
        up && self.shared.spread().is_current()
    }

    /// Keeps an answer as if it had come from the origin, and waits until it is written.
    async fn fill(&self, base: &Bytes, vary: Option<Arc<[HeaderName]>>, entry: Entry) {
        let before = self.metrics.fills.written.get();
        assert!(self.cache.fill(base, vary, Arc::new(entry)));
        until("it to be written", || self.metrics.fills.written.get() > before).await;
        assert_eq!(self.shared.0.queue.waiting(), 0);
    }

    async fn get(&self, base: &Bytes) -> Option<String> {
        let hit = self.shared.get(base, |_| panic!("answers do not differ")).await?;
        assert!(hit.vary.is_none());
        Some(body(&hit.entry))
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "still waiting for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn base(path: &str) -> Bytes {
    let place = Place {
        api: "shop".into(),
        route: "/*".into(),
    };
    key::base(&KeyParts {
        scheme: "https",
        host: "api.example",
        path,
        query: None,
        place: &place,
        upstream: "origin",
        key_type: None,
        caller: CallerPart::Everyone,
    })
    .into()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// Fresh for a minute, and asked for so late that no beginner takes it for older than the stream.
fn entry(key: &Bytes, body: &str) -> Entry {
    entry_of(key, body, 60, now_ms() + 60_000)
}

fn entry_of(key: &Bytes, body: &str, fresh_s: u64, asked_ms: u64) -> Entry {
    let now = SystemTime::now();
    let mut header = ResponseHeader::build(200, None).unwrap();
    header.append_header("content-type", "text/plain").unwrap();
    Entry::new(Ingredients {
        key: key.clone(),
        header: &header,
        body: Bytes::copy_from_slice(body.as_bytes()),
        lifetime: Lifetime {
            born: now,
            fresh_until: now + Duration::from_secs(fresh_s),
            stale_while_revalidate: 0,
            stale_if_error: 0,
            must_revalidate: false,
            explicit: true,
        },
        marks: smallvec![MarkId::tag("news")],
        // Later than whatever is invalidated, so that it is kept in memory.
        sequence: 1 << 32,
        asked_ms,
    })
}

fn body(entry: &Entry) -> String {
    String::from_utf8(entry.body.to_vec()).unwrap()
}

#[tokio::test]
async fn what_one_gateway_is_filled_with_another_one_finds() {
    let server = Server::start();
    let (one, two) = (Gateway::start(&server).await, Gateway::start(&server).await);
    let base = base("/");
    assert_eq!(two.get(&base).await, None);
    one.fill(&base, None, entry(&base, "an answer")).await;
    let hit = two.shared.get(&base, |_| unreachable!()).await.unwrap();
    assert_eq!(body(&hit.entry), "an answer");
    assert_eq!(hit.entry.header.headers["content-type"], "text/plain");
    assert_eq!(hit.entry.sequence, two.cache.marks().sequence());
    let ttl: i64 = server.cli(&["PTTL", &name(&base).record]).parse().unwrap();
    assert!(ttl > 0 && ttl <= 60_000, "{ttl}");

    // What came from there is kept in memory, and does not go back.
    assert!(two.cache.put(&base, None, hit.entry));
    assert!(matches!(two.cache.find(&base), InMemory::Entry(_)));
    two.fill(&self::base("/else"), None, entry(&self::base("/else"), "another"))
        .await;
    assert_eq!(two.metrics.fills.written.get(), 1);
    assert_eq!((two.metrics.lookups.hit.get(), two.metrics.lookups.miss.get()), (1, 1));
}

#[tokio::test]
async fn a_large_answer_is_found_whole_and_one_that_lies_about_its_length_not_at_all() {
    let server = Server::start();
    let (one, two) = (Gateway::start(&server).await, Gateway::start(&server).await);
    let base = base("/large");
    let text = "all the same ".repeat(50_000);
    assert!(text.len() > codec::LARGE);
    one.fill(&base, None, entry(&base, &text)).await;
    let record: usize = server.cli(&["STRLEN", &name(&base).record]).parse().unwrap();
    assert!(record < codec::LARGE, "{record}");
    assert_eq!(two.get(&base).await.as_deref(), Some(text.as_str()));
    assert_eq!(two.shared.0.unpacking.available_permits(), UNPACKED);
    // Its length is in the bytes from ten on.
    server.cli(&["SETRANGE", &name(&base).record, "11", "zz"]);
    assert_eq!(two.get(&base).await, None);
    assert_eq!(two.metrics.lookups.broken.get(), 1);
}

#[tokio::test]
async fn of_answers_that_differ_each_request_finds_its_own() {
    let cluster = Cluster::start();
    let (one, two) = (
        Gateway::with(settings(&cluster.urls())).await,
        Gateway::with(settings(&cluster.urls())).await,
    );
    let base = base("/");
    let fields: Arc<[HeaderName]> = [http::header::ACCEPT_LANGUAGE].into();
    let variant = |language: &str| Bytes::from([base.as_ref(), language.as_bytes()].concat());
    for language in ["de", "en"] {
        let key = variant(language);
        one.fill(&base, Some(Arc::clone(&fields)), entry(&key, language)).await;
    }
    let get = async |language: &str| {
        let hit = two.shared.get(&base, |by| {
            assert_eq!(by, [http::header::ACCEPT_LANGUAGE]);
            variant(language).to_vec()
        });
        let hit = hit.await?;
        assert_eq!(hit.vary.as_deref(), Some(&fields[..]));
        Some(body(&hit.entry))
    };
    assert_eq!(get("de").await.as_deref(), Some("de"));
    assert_eq!(get("en").await.as_deref(), Some("en"));
    assert_eq!(get("fr").await, None);
}

#[tokio::test]
async fn by_what_answers_differ_is_known_for_as_long_as_any_of_them_may_be_there() {
    let server = Server::start();
    let gateway = Gateway::start(&server).await;
    let base = base("/");
    let key = Bytes::from([base.as_ref(), b"de"].concat());
    let fields = Some([http::header::ACCEPT_LANGUAGE].into());
    gateway.fill(&base, fields, entry(&key, "de")).await;
    let ttl = |key: &[u8]| -> i64 { server.cli(&["PTTL", &name(key).record]).parse().unwrap() };
    assert!((1..=60_000).contains(&ttl(&key)));
    // The one after it may be kept for a day.
    assert!(ttl(&base) > 23 * 3_600_000);
}

#[tokio::test]
async fn environments_in_one_redis_share_no_answer() {
    let server = Server::start();
    let one = Gateway::start(&server).await;
    let other = Gateway::with(Settings {
        environment: "staging".to_owned(),
        ..settings(&[server.url()])
    })
    .await;
    let base = base("/");
    one.fill(&base, None, entry(&base, "of production")).await;
    assert_eq!(other.get(&base).await, None);
    other.fill(&base, None, entry(&base, "of staging")).await;
    assert_eq!(one.get(&base).await.as_deref(), Some("of production"));
    assert_eq!(other.get(&base).await.as_deref(), Some("of staging"));
}

#[tokio::test]
async fn who_does_not_know_what_was_invalidated_writes_nothing() {
    let server = Server::start();
    // Something that is not a stream: it can be neither read nor added to.
    server.cli(&["SET", &Stream::of(ENVIRONMENT).name, "something else"]);
    let gateway = Gateway::unready(settings(&[server.url()]));
    let node_is_up = || {
        let nodes = gateway.shared.0.lookups.nodes();
        !nodes.is_empty() && nodes.iter().all(|node| node.health() == Health::Up)
    };
    until("the server", node_is_up).await;
    let base = base("/");
    assert!(gateway.cache.fill(&base, None, Arc::new(entry(&base, "an answer"))));
    let fills = &gateway.metrics.fills;
    assert_eq!((fills.not_current.get(), gateway.shared.0.queue.waiting()), (1, 0));
    server.cli(&["DEL", &Stream::of(ENVIRONMENT).name]);
    until("the stream to be read", || gateway.is_ready()).await;
    assert_eq!(server.cli(&["EXISTS", &name(&base).record]), "0");
    gateway.fill(&base, None, entry(&base, "an answer")).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_miss_and_soon_not_asked() {
    let server = Server::start();
    let mut settings = settings(&[server.url()]);
    settings.budget = Duration::from_millis(5);
    settings.redis.response_timeout = Duration::from_millis(250);
    let gateway = Gateway::with(settings).await;
    let base = base("/");
    gateway.fill(&base, None, entry(&base, "an answer")).await;
    server.freeze();
    let lookups = &gateway.metrics.lookups;
    let begin = Instant::now();
    while lookups.down.get() == 0 {
        assert_eq!(gateway.get(&base).await, None);
        assert!(begin.elapsed() < PATIENCE);
    }
    let node = gateway.shared.0.lookups.nodes().remove(0);
    until("the breaker", || node.health() == Health::Down).await;
    server.thaw();
    let begin = Instant::now();
    while gateway.get(&base).await.is_none() {
        assert!(begin.elapsed() < PATIENCE, "not found again");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn many_who_look_for_the_same_ask_once() {
    let server = Server::start();
    let gateway = Gateway::start(&server).await;
    let base = base("/");
    gateway.fill(&base, None, entry(&base, "an answer")).await;
    server.cli(&["CONFIG", "RESETSTAT"]);
    server.freeze();
    let thaw = async {
        sleep(Duration::from_millis(20)).await;
        server.thaw();
    };
    let (found, ()) = tokio::join!(join_all((0..50).map(|_| gateway.get(&base))), thaw);
    assert!(
        found.iter().all(|found| found.as_deref() == Some("an answer")),
        "{found:?}"
    );
    let stats = server.cli(&["INFO", "commandstats"]);
    assert!(stats.contains("cmdstat_get:calls=1,"), "{stats}");
}

#[tokio::test]
async fn what_another_one_has_invalidated_is_not_found_any_more() {
    let server = Server::start();
    let (one, two) = (Gateway::start(&server).await, Gateway::start(&server).await);
    let base = base("/");
    sleep(Duration::from_millis(20)).await;
    // Later than the beginning of the stream, and not later than the invalidation by more than clocks may differ.
    one.fill(&base, None, entry_of(&base, "old", 60, now_ms() + 5_000))
        .await;
    assert_eq!(two.get(&base).await.as_deref(), Some("old"));
    one.shared
        .spread()
        .publish(&Invalidation::Mark(MarkId::tag("news")), now_ms());
    until("it to be told", || two.metrics.invalidations_received.get() == 1).await;
    assert_eq!(two.get(&base).await, None);
    // Somebody is forgotten with what is remembered of him.
    one.shared
        .spread()
        .publish(&Invalidation::User("mobile".to_owned()), now_ms());
    until("it to be told", || two.metrics.invalidations_received.get() == 2).await;
    assert_eq!(*two.forgotten.lock(), ["mobile"]);
    // Who begins only now knows it too.
    let three = Gateway::start(&server).await;
    assert_eq!(three.get(&base).await, None);
    one.fill(&base, None, entry(&base, "new")).await;
    assert_eq!(two.get(&base).await.as_deref(), Some("new"));
    assert_eq!(three.get(&base).await.as_deref(), Some("new"));
}

#[tokio::test]
async fn after_a_gap_nothing_from_before_is_given_from_memory_either() {
    let server = Server::start();
    let gateway = Gateway::start(&server).await;
    let base = base("/");
    gateway.fill(&base, None, entry(&base, "an answer")).await;
    assert!(matches!(gateway.cache.find(&base), InMemory::Entry(_)));
    server.cli(&["FLUSHALL"]);
    until("the gap to be seen", || gateway.metrics.gaps.get() == 1).await;
    assert!(matches!(gateway.cache.find(&base), InMemory::Nothing));
}

#[tokio::test]
async fn what_can_not_be_read_is_a_miss_and_what_is_another_one_s_too() {
    let server = Server::start();
    let gateway = Gateway::start(&server).await;
    let (one, two) = (base("/1"), base("/2"));
    server.cli(&["SET", &name(&one).record, "something else"]);
    assert_eq!(gateway.get(&one).await, None);
    assert_eq!(gateway.metrics.lookups.broken.get(), 1);
    server.cli(&["DEL", &name(&one).record]);
    server.cli(&["LPUSH", &name(&one).record, "a list"]);
    assert_eq!(gateway.get(&one).await, None);
    assert_eq!(gateway.metrics.lookups.broken.get(), 2);
    // As if two keys had the same fingerprint.
    gateway.fill(&two, None, entry(&two, "of two")).await;
    server.cli(&["DEL", &name(&one).record]);
    server.cli(&["COPY", &name(&two).record, &name(&one).record]);
    assert_eq!(gateway.get(&one).await, None);
    assert_eq!(gateway.metrics.lookups.miss.get(), 1);
    assert_eq!(gateway.get(&two).await.as_deref(), Some("of two"));
}

#[tokio::test]
async fn what_is_too_large_or_gone_too_soon_is_not_written() {
    let server = Server::start();
    let gateway = Gateway::start(&server).await;
    let base = base("/");
    let fills = &gateway.metrics.fills;
    let noise: String = (0..500_000)
        .map(|_| char::from(rand::random_range(b' '..=b'~')))
        .collect();
    gateway.shared.put(&base, None, Arc::new(entry(&base, &noise)));
    until("it to be refused", || fills.too_large.get() == 1).await;
    gateway
        .shared
        .put(&base, None, Arc::new(entry_of(&base, "short", 0, now_ms())));
    until("it to be refused", || fills.too_short.get() == 1).await;
    assert_eq!(server.cli(&["EXISTS", &name(&base).record]), "0");
    assert_eq!((fills.written.get(), fills.failed.get()), (0, 0));
}

#[tokio::test]
async fn what_does_not_fit_into_the_queue_is_dropped_and_counted() {
    let server = Server::start();
    let gateway = Gateway::start(&server).await;
    let base = base("/");
    // Nobody takes anything out of the queue before this test waits for something.
    let entry = Arc::new(entry(&base, &"x".repeat(1 << 20)));
    for _ in 0..20 {
        gateway.shared.put(&base, None, Arc::clone(&entry));
    }
    let fills = &gateway.metrics.fills;
    assert!(fills.dropped.get() >= 4, "{}", fills.dropped.get());
    until("the rest", || fills.dropped.get() + fills.written.get() == 20).await;
    assert_eq!(gateway.shared.0.queue.waiting(), 0);
}

#[tokio::test]
async fn one_gateway_fetches_and_the_other_one_waits_for_it() {
    let server = Server::start();
    let mut settings = settings(&[server.url()]);
    settings.lease = Some(PATIENCE);
    let (one, two) = (Gateway::with(settings.clone()).await, Gateway::with(settings).await);
    let base = base("/");
    let lease = async |gateway: &Gateway| gateway.shared.lease(&base, &base, |_| base.to_vec()).await;
    let Turn::Mine(mine) = lease(&one).await else {
        panic!("nobody else fetches");
    };
    let name = self::name(&base).lease();
    assert_eq!(server.cli(&["EXISTS", &name]), "1");
    let fetch = async {
        sleep(Duration::from_millis(100)).await;
        one.cache.fill(&base, None, Arc::new(entry(&base, "fetched once")));
        drop(mine);
    };
    let (turn, ()) = tokio::join!(lease(&two), fetch);
    let Turn::Filled(hit) = turn else {
        panic!("the other one did not fetch");
    };
    assert_eq!(body(&hit.entry), "fetched once");
    until("the lease to be given back", || server.cli(&["EXISTS", &name]) == "0").await;
    assert_eq!(
        (one.metrics.leases.taken.get(), two.metrics.leases.shared.get()),
        (1, 1)
    );
}

#[tokio::test]
async fn a_lease_under_which_nothing_was_kept_keeps_nobody() {
    let server = Server::start();
    let mut settings = settings(&[server.url()]);
    // Longer than anybody waits.
    settings.lease = Some(PATIENCE * 10);
    let (one, two) = (Gateway::with(settings.clone()).await, Gateway::with(settings).await);
    let base = base("/");
    let lease = async |gateway: &Gateway| gateway.shared.lease(&base, &base, |_| base.to_vec()).await;
    let mine = lease(&one).await;
    assert!(matches!(mine, Turn::Mine(_)));
    let begin = Instant::now();
    let (turn, ()) = tokio::join!(lease(&two), async {
        sleep(Duration::from_millis(50)).await;
        drop(mine);
    });
    assert!(matches!(turn, Turn::Alone));
    assert!(begin.elapsed() < PATIENCE * 9);
    assert_eq!(two.metrics.leases.vain.get(), 1);
}

#[tokio::test]
async fn without_a_lease_or_a_server_everybody_fetches_at_once() {
    let mut server = Server::start();
    let plain = Gateway::start(&server).await;
    let base = base("/");
    let lease = async |gateway: &Gateway| gateway.shared.lease(&base, &base, |_| base.to_vec()).await;
    assert!(matches!(lease(&plain).await, Turn::Alone));
    let mut settings = settings(&[server.url()]);
    settings.lease = Some(PATIENCE);
    let leasing = Gateway::with(settings).await;
    server.kill();
    until("it to be noticed", || !leasing.is_ready()).await;
    assert!(matches!(lease(&leasing).await, Turn::Alone));
}
