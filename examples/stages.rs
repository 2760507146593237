//! Runs each stage of a request by itself, so often, for whoever counts instructions (`make guard`, which reads the
//! counts of the functions in `measured` out of callgrind).
//!
//! The stages are run as the gateway runs them: over a snapshot of 2,000 routes with a hashed key and two limits, whose
//! answers are kept.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use http::Method;
use pingora::http::{RequestHeader, ResponseHeader};
use prometheus::{IntCounter, IntCounterVec, Opts};
use tollgate::auth::{Introspectors, KeySets, NewKey, TokenCache, key, new_key};
use tollgate::cache::entry::Ingredients;
use tollgate::cache::freshness::Lifetime;
use tollgate::cache::spread::Spreading;
use tollgate::cache::{Cache, Entry, TierCounters};
use tollgate::document::Environment;
use tollgate::gateway::caching::Caching;
use tollgate::gateway::journey::Journey;
use tollgate::names::PlanName;
use tollgate::redis::{Health, Slot};
use tollgate::revision::{self, EnvironmentType, Limit, Mode, Scope, Sharing, WindowKind};
use tollgate::snapshot::{Compiler, Snapshot};
use tollgate::telemetry::access_log::Target;
use tollgate::telemetry::{AccessLog, Metrics, SharingMetrics};
use tollgate::throttle::exchange::{Answer, Exchange, Market, What};
use tollgate::throttle::shared::{Nodes, Settings, Shared};
use tollgate::throttle::{Decisions, Defaults, Demand, Place, Rule, Subject, Throttle, Time};
use tollgate::upstream::Registry;
use tollgate::upstream::resolve::Names;

/// How often each stage runs; `scripts/instructions.py` knows the number too.
const RUNS: u64 = 1200;

const NOON: u64 = 1_795_262_400_000_000_000;

/// What is counted. Never inlined, so that each is a function of its own in the profile.
mod measured {
    use std::hint::black_box;
    use std::sync::Arc;

    use futures_util::FutureExt;
    use http::HeaderMap;
    use http::Method;
    use pingora::cache::storage::Storage;
    use pingora::cache::trace::Span;
    use pingora::http::RequestHeader;
    use tollgate::cache::Cache;
    use tollgate::gateway::caching::Caching;
    use tollgate::gateway::edits;
    use tollgate::gateway::forward::{self, Origin};
    use tollgate::gateway::journey::{Admission, Journey};
    use tollgate::gateway::request_id::Ids;
    use tollgate::route::path::normalise;
    use tollgate::snapshot::Snapshot;
    use tollgate::telemetry::{AccessLog, Metrics};
    use tollgate::throttle::{Demand, Throttle, Time};
    use tollgate::upstream::{Ask, Moment, Upstream};

    #[inline(never)]
    pub fn route_find(snapshot: &Snapshot, path: &str) {
        let path = normalise(path).unwrap();
        black_box(snapshot.find("api.example.com", &path, &Method::GET).is_ok());
    }

    #[inline(never)]
    pub fn key_check(snapshot: &Snapshot, headers: &HeaderMap, position: u32) {
        let (route, _) = snapshot.route_and_api(position).unwrap();
        let identified = snapshot
            .authenticator()
            .identify(route.api, &route.scopes, headers, None, None, 1_795_262_400_000)
            .now_or_never();
        assert!(identified.unwrap().is_ok());
    }

    #[inline(never)]
    pub fn throttle_one(throttle: &Throttle, demands: &[Demand<'_>], now: Time) {
        assert!(throttle.try_admit(demands, 1, now).is_ok());
    }

    #[inline(never)]
    pub fn throttle_two(throttle: &Throttle, demands: &[Demand<'_>], now: Time) {
        assert!(throttle.try_admit(demands, 1, now).is_ok());
    }

    #[inline(never)]
    pub fn throttle_one_shared(throttle: &Throttle, demands: &[Demand<'_>], now: Time) {
        assert!(throttle.try_admit(demands, 1, now).is_ok());
    }

    #[inline(never)]
    pub fn throttle_two_shared(throttle: &Throttle, demands: &[Demand<'_>], now: Time) {
        assert!(throttle.try_admit(demands, 1, now).is_ok());
    }

    #[inline(never)]
    pub fn pick(upstream: &Upstream, dice: u64) {
        choose(upstream, dice);
    }

    #[inline(always)]
    fn choose(upstream: &Upstream, dice: u64) {
        let ask = Ask {
            dice,
            key: dice,
            tried: &[],
            repeatable: true,
            now: Moment::now(),
        };
        black_box(upstream.view().pick(&ask).is_some());
    }

    /// What is kept for a request: its key, what is found by it, and that as the engine takes it.
    #[inline(never)]
    pub fn cache(caching: &Caching, cache: &'static Cache, request: &RequestHeader, path: &str, journey: &mut Journey) {
        let snapshot = Arc::clone(journey.snapshot.as_ref().unwrap());
        let admitted = journey.admission.as_ref().unwrap().route;
        let at = snapshot.route_and_api(admitted).unwrap();
        let entered = caching.enter(request, (path, None), at, journey).now_or_never();
        assert!(entered.is_some());
        let key = Caching::key(journey).unwrap();
        let found = cache.lookup(&key, &Span::inactive().handle()).now_or_never();
        let (meta, hit) = found.unwrap().unwrap().unwrap();
        // The engine copies the header for the client.
        black_box((meta.response_header_copy(), hit));
    }

    /// Counters, and the line of the access log.
    #[inline(never)]
    pub fn record(journey: &mut Journey) {
        journey.report();
    }

    /// From the parsed head to the chosen endpoint, all stages together.
    #[inline(never)]
    pub fn admit(
        snapshot: &Arc<Snapshot>,
        throttle: &Throttle,
        (metrics, access_log): (&Arc<Metrics>, &AccessLog),
        request: &mut RequestHeader,
    ) -> Box<Journey> {
        let mut journey = Box::new(Journey::begin(
            Some(Arc::clone(snapshot)),
            Arc::clone(metrics),
            access_log.clone(),
        ));
        journey.origin = Origin::find(Some([192, 0, 2, 7].into()), &request.headers, &[]);
        journey.ids = Ids::of(&request.headers);
        forward::forget_spelling(request);
        let raw_path = std::str::from_utf8(request.raw_path()).unwrap();
        journey.saw(request, raw_path);
        assert!(journey.enter(1000));
        let path = normalise(raw_path).unwrap();
        let position = snapshot.find("api.example.com", &path, &request.method).ok().unwrap();
        journey.matched(position);
        let (route, api) = snapshot.route_and_api(position).unwrap();
        journey.screen((route, api), &request.headers).ok().unwrap();
        let identified = snapshot
            .authenticator()
            .identify(route.api, &route.scopes, &request.headers, None, None, journey.now_ms)
            .now_or_never();
        let (now, client) = (journey.now(), journey.origin.client);
        let caller = &*journey.caller.insert(identified.unwrap().unwrap());
        let demands = snapshot.demands(route, api, caller, client);
        let permit = throttle.try_admit(&demands, 1, now).ok().unwrap();
        let rate_limit = permit.tightest.map(|standing| {
            let rule = demands[standing.rule].rule;
            rule.limit_field(standing.remaining, standing.reset)
        });
        let policy = snapshot.policy(api, caller).cloned();
        let asker = edits::asker(caller, client, &request.headers);
        let choice = api.split.as_ref().unwrap().choose(&asker, rand::random).unwrap();
        journey.admission = Some(Admission {
            route: position,
            rate_limit,
            policy,
        });
        journey.destination = Some(choice.upstream);
        choose(snapshot.upstream(choice.upstream).unwrap(), journey.dice());
        journey
    }
}

fn main() {
    let directory = std::env::temp_dir().join(format!("tollgate-stages-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let dropped = IntCounter::new("dropped", "dropped").unwrap();
    let (access_log, writer) = AccessLog::start(&Target::File(directory.join("access.log")), 1.0, dropped).unwrap();
    run(&access_log);
    drop((access_log, writer));
    std::fs::remove_dir_all(&directory).unwrap();
}

fn run(access_log: &AccessLog) {
    let fresh = new_key(&"mobile".into(), revision::KeyType::Production, None, None).unwrap();
    let snapshot = snapshot(&fresh);
    let metrics = Arc::new(Metrics::new().unwrap());
    let throttle = Throttle::new(100_000);
    let paths: Vec<String> = (0..RUNS)
        .map(|run| format!("/api-{:02}/items/{run}/part-{:03}", run * 7 % 20, run * 13 % 100))
        .collect();
    let head = |path: &str| {
        let mut request = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
        request.append_header("Host", "api.example.com").unwrap();
        request.append_header("User-Agent", "stages").unwrap();
        request.append_header("X-API-Key", fresh.text.reveal()).unwrap();
        request
    };

    for path in &paths {
        measured::route_find(&snapshot, path);
    }
    let request = head(&paths[0]);
    let position = snapshot.find("api.example.com", &paths[0], &Method::GET).ok().unwrap();
    for _ in &paths {
        measured::key_check(&snapshot, &request.headers, position);
    }
    limits(paths.len() as u64);
    let (_, api) = snapshot.route_and_api(position).unwrap();
    let upstream = api.split.as_ref().unwrap();
    let asker = tollgate::upstream::split::Asker {
        sandbox: false,
        caller: None,
        client: None,
        headers: &request.headers,
    };
    let upstream = snapshot
        .upstream(upstream.choose(&asker, || 1).unwrap().upstream)
        .unwrap();
    for run in 0..paths.len() as u64 {
        measured::pick(upstream, tollgate::upstream::hash::stir(run));
    }
    let cache: &'static Cache = Box::leak(Box::new(Cache::new(64 << 20, TierCounters::unregistered())));
    let caching = Caching::new(cache, None, Spreading::default(), metrics.cache().clone());
    for path in &paths {
        let mut request = head(path);
        let mut journey = measured::admit(&snapshot, &throttle, (&metrics, access_log), &mut request);
        keep(cache, &caching, &request, path, &mut journey);
        measured::cache(&caching, cache, &request, path, &mut journey);
        journey.outcome.status = 200;
        measured::record(&mut journey);
    }
    println!("{} runs", paths.len());
}

/// Has an answer kept for this request.
fn keep(cache: &Cache, caching: &Caching, request: &RequestHeader, path: &str, journey: &mut Journey) {
    let snapshot = Arc::clone(journey.snapshot.as_ref().unwrap());
    let at = snapshot
        .route_and_api(journey.admission.as_ref().unwrap().route)
        .unwrap();
    caching
        .enter(request, (path, None), at, journey)
        .now_or_never()
        .unwrap();
    let visit = journey.visit.take().unwrap();
    let mut header = ResponseHeader::build(200, None).unwrap();
    for (name, value) in [
        ("Content-Type", "application/json"),
        ("Content-Length", "1024"),
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("ETag", "\"0123456789abcdef\""),
        ("Cache-Control", "max-age=300"),
    ] {
        header.append_header(name, value).unwrap();
    }
    let now = SystemTime::now();
    let entry = Entry::new(Ingredients {
        key: visit.base.clone(),
        header: &header,
        body: vec![b'x'; 1024].into(),
        lifetime: Lifetime {
            born: now,
            fresh_until: now + Duration::from_secs(3600),
            stale_while_revalidate: 0,
            stale_if_error: 0,
            must_revalidate: false,
            explicit: true,
        },
        marks: visit.marks(journey.snapshot.as_deref(), journey.caller.as_ref()),
        sequence: visit.sequence,
        asked_ms: visit.asked_ms,
    });
    assert!(cache.put(&visit.base, None, Arc::new(entry)));
}

fn limits(runs: u64) {
    let minute = rule("minute", "2000000000/m", WindowKind::Fixed);
    let burst = rule(
        "burst",
        "1000000000/s",
        WindowKind::TokenBucket { burst: 1_000_000_000 },
    );
    let subject = Subject::of_pair("orders", "mobile");
    let one = [Demand { rule: &minute, subject }];
    let two = [&burst, &minute].map(|rule| Demand { rule, subject });
    let now = |run: u64| Time::from_unix_nanos(NOON + run * 1_000);
    let own = Throttle::new(1000);
    (0..runs).for_each(|run| measured::throttle_one(&own, &one, now(run)));
    (0..runs).for_each(|run| measured::throttle_two(&own, &two, now(run)));
    for both in [false, true] {
        let mut store = Store::new();
        let shared = Throttle::shared(Arc::clone(&store.shared));
        let demands: &[Demand<'_>] = if both { &two } else { &one };
        // Until enough tickets are bought ahead.
        for run in 0..20_000 {
            let _ = shared.try_admit(demands, 1, now(run));
            if run % 64 == 0 {
                store.trade(now(run));
            }
        }
        for run in 20_000..20_000 + runs {
            match both {
                false => measured::throttle_one_shared(&shared, demands, now(run)),
                true => measured::throttle_two_shared(&shared, demands, now(run)),
            }
            if run % 64 == 0 {
                store.trade(now(run));
            }
        }
    }
}

fn snapshot(fresh: &NewKey) -> Arc<Snapshot> {
    let mut text = String::from(
        "version: 1\nupstreams: [ { name: origin, endpoints: [ { address: \"127.0.0.1:9001\" }, { address: \"127.0.0.1:9002\" } ] } ]\n\
         plans: [ { name: gold, limits: [ { name: burst, rate: 100000000/s }, { name: hour, rate: 1000000000/h } ] } ]\napis:\n",
    );
    let mut subscriptions = Vec::new();
    for api in 0..20 {
        let routes: Vec<String> = (0..100)
            .map(|route| format!("{{ path: \"/{{id}}/part-{route:03}\", methods: [GET] }}"))
            .collect();
        writeln!(
            text,
            "  - {{ name: api-{api:02}, base_path: /api-{api:02}/items, auth: [api_key], upstream: origin, cache: {{}}, routes: [ {} ] }}",
            routes.join(", ")
        )
        .unwrap();
        subscriptions.push(format!("{{ api: api-{api:02}, plan: gold }}"));
    }
    writeln!(
        text,
        "applications:\n  - name: mobile\n    subscriptions: [ {} ]\n    keys: [ {} ]",
        subscriptions.join(", "),
        key::record_line(&fresh.record)
    )
    .unwrap();
    let loaded = revision::parse(&text, "revision", Path::new(""), &Environment::of_process()).unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let compiler = Compiler {
        environment_type: EnvironmentType::Hybrid,
        labels: Vec::new(),
        key_sets: KeySets::offline(),
        tokens: Arc::new(TokenCache::new(16)),
        introspectors: Introspectors::offline(),
        key_store: None,
        names: Names::Leave,
        sharing: Defaults::default(),
        registry: Arc::new(Registry::new(None, metrics.upstreams().clone())),
        metrics,
    };
    Arc::new(compiler.compile(loaded).unwrap().0)
}

fn rule(name: &str, rate: &str, window: WindowKind) -> Rule {
    let limit = Limit {
        name: name.into(),
        rate: rate.parse().unwrap(),
        window,
        scope: Scope::Subscription,
        mode: Mode::Enforce,
        sharing: Sharing::default(),
        zone: None,
    };
    let family = IntCounterVec::new(Opts::new("decisions", "stages"), &["limit", "decision"]).unwrap();
    let decisions = Decisions::resolve(&family, name).unwrap();
    let plan = PlanName::from("gold");
    Rule::compile(&limit, Place::Plan(&plan), decisions, &Defaults::default())
}

/// Redis next door that grants everything, and the background task that trades with it.
struct Store {
    shared: Arc<Shared>,
    exchange: Exchange,
    count: i64,
}

struct AllUp;

impl Nodes for AllUp {
    fn health_of(&self, _: Slot) -> Health {
        Health::Up
    }
}

impl Store {
    fn new() -> Self {
        let settings = Settings {
            instances: 1,
            max_wait: Duration::from_millis(20),
            term: Duration::from_millis(250),
            max_counters: 1000,
        };
        let metrics = SharingMetrics::new(&prometheus::Registry::new()).unwrap();
        Self {
            shared: Arc::new(Shared::new(settings, Arc::new(AllUp), metrics)),
            exchange: Exchange::new(|_| ()),
            count: 0,
        }
    }

    fn trade(&mut self, now: Time) {
        for lease in self.shared.inbox().take_now() {
            self.exchange.wish(lease);
        }
        let market = Market {
            instances: 1,
            term: 250_000_000,
            round_trip: 600_000,
            data: 1,
            dice: 7,
        };
        for order in self.exchange.batch(now, market) {
            let answer = match order.what {
                What::Take { charge, want, .. } => {
                    self.count += i64::from(charge) + i64::from(want);
                    Answer::Count {
                        value: self.count,
                        previous: None,
                        expires: true,
                    }
                }
                What::Fill { want, .. } => Answer::Bucket {
                    granted: want,
                    left: 1_000_000,
                },
                What::Return { .. } | What::Heal { .. } | What::Restore { .. } => continue,
            };
            self.exchange.answered(&order, answer, now, market);
        }
    }
}
