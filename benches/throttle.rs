//! What a limit costs a request. Budget: 100 ns a limit, and no allocation.
//!
//! Every case is run once more under a counting allocator, and the bench fails if `admit` allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use prometheus::{IntCounterVec, Opts, Registry};
use tollgate::names::PlanName;
use tollgate::redis::{Health, Slot};
use tollgate::revision::{Limit, Mode, Scope, Sharing, WindowKind};
use tollgate::telemetry::SharingMetrics;
use tollgate::throttle::exchange::{Answer, Exchange, Market, What};
use tollgate::throttle::shared::{Nodes, Settings, Shared};
use tollgate::throttle::store_key;
use tollgate::throttle::table::{Plain, Table};
use tollgate::throttle::{Decisions, Defaults, Demand, Place, Rule, Subject, Throttle, Time};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOON: u64 = 1_795_262_400_000_000_000;

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
    let family = IntCounterVec::new(Opts::new("decisions", "bench"), &["limit", "decision"]).unwrap();
    let decisions = Decisions::resolve(&family, name).unwrap();
    Rule::compile(
        &limit,
        Place::Plan(&PlanName::from("gold")),
        decisions,
        &Defaults::default(),
    )
}

/// Measures `request`, which is told the number of the call; time passes by a microsecond a call.
fn measure(criterion: &mut Criterion, name: &str, mut request: impl FnMut(u64, Time)) {
    let mut call = 0;
    let mut next = || {
        call += 1;
        request(call, Time::from_unix_nanos(NOON + call * 1_000));
    };
    for _ in 0..20_000 {
        next();
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..20_000 {
        next();
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{name} allocates");
    criterion.bench_function(name, |bencher| bencher.iter(&mut next));
}

fn throttle(criterion: &mut Criterion) {
    let minute = rule("minute", "4000000000/m", WindowKind::Fixed);
    let month = rule("month", "4000000000/month", WindowKind::Fixed);
    let sliding = rule("sliding", "16000000/s", WindowKind::Sliding);
    let burst = rule(
        "burst",
        "1000000000/s",
        WindowKind::TokenBucket { burst: 4_000_000_000 },
    );
    let small = rule("small", "1/month", WindowKind::Fixed);
    let subject = Subject::of_pair("orders", "mobile");
    let stage = Throttle::new(1_000_000);

    for (name, rule) in [
        ("one limit, fixed minute", &minute),
        ("one limit, fixed month", &month),
        ("one limit, sliding", &sliding),
        ("one limit, token bucket", &burst),
        ("one limit, refused", &small),
    ] {
        let demands = [Demand { rule, subject }];
        measure(criterion, name, |_, now| {
            let _ = black_box(stage.try_admit(black_box(&demands), 1, now));
        });
    }

    let demands = [&burst, &minute].map(|rule| Demand { rule, subject });
    measure(criterion, "two limits", |_, now| {
        let _ = black_box(stage.try_admit(black_box(&demands), 1, now));
    });

    let subjects: Vec<Subject> = (0..10_000_u64).map(|n| Subject::of_bytes(&n.to_le_bytes())).collect();
    measure(criterion, "one limit, ten thousand subjects", |call, now| {
        // A stride that is prime to the count, so that neighbours in memory are not neighbours in time.
        let subject = subjects[(call * 7_919 % 10_000) as usize];
        let _ = black_box(stage.try_admit(&[Demand { rule: &minute, subject }], 1, now));
    });
    measure(criterion, "two limits, ten thousand subjects", |call, now| {
        let subject = subjects[(call * 7_919 % 10_000) as usize];
        let demands = [&burst, &minute].map(|rule| Demand { rule, subject });
        let _ = black_box(stage.try_admit(&demands, 1, now));
    });

    criterion.bench_function("subject of an address", |bencher| {
        let address = std::net::IpAddr::from([192, 0, 2, 7]);
        bencher.iter(|| Subject::of_ip(black_box(address)));
    });
    criterion.bench_function("RateLimit field", |bencher| {
        bencher.iter(|| minute.limit_field(black_box(4_999), black_box(42)));
    });
    criterion.bench_function("table lookup alone", |bencher| {
        let table = Table::new(1_000_000);
        let now = Time::from_unix_nanos(NOON);
        let shape = minute.quota().shape();
        let mut call = 0_u64;
        let counters: Vec<_> = subjects
            .iter()
            .map(|&subject| minute.identity().of_subject(subject))
            .collect();
        bencher.iter(|| {
            call += 1;
            let counter = counters[(call * 7_919 % 10_000) as usize];
            let add = |counter: &Plain| counter.word.fetch_add(1, Ordering::Relaxed);
            table.with(counter, now, |_| Plain::new(shape), add)
        });
    });
}

/// Redis next door, and the background task that trades with it.
struct Store {
    shared: Arc<Shared>,
    exchange: Exchange,
    counters: HashMap<String, i64>,
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
            instances: 8,
            max_wait: Duration::from_millis(20),
            term: Duration::from_millis(250),
            max_counters: 1_000_000,
        };
        let metrics = SharingMetrics::new(&Registry::new()).unwrap();
        Self {
            shared: Arc::new(Shared::new(settings, Arc::new(AllUp), metrics)),
            exchange: Exchange::new(|_| ()),
            counters: HashMap::new(),
        }
    }

    fn trade(&mut self, now: Time) {
        for lease in self.shared.inbox().take_now() {
            self.exchange.wish(lease);
        }
        let market = Market {
            instances: 8,
            term: 250_000_000,
            round_trip: 600_000,
            data: 1,
            dice: 7,
        };
        for order in self.exchange.batch(now, market) {
            let key = store_key::key(order.lease.name(), &order.terms, order.window);
            let count = self.counters.entry(key).or_default();
            let answer = match order.what {
                What::Take { charge, want, .. } => {
                    *count += i64::from(charge) + i64::from(want);
                    Answer::Count {
                        value: *count,
                        previous: None,
                        expires: true,
                    }
                }
                What::Return { count: back } => {
                    *count -= i64::from(back);
                    continue;
                }
                What::Heal { .. } | What::Restore { .. } => continue,
                What::Fill { want, .. } => Answer::Bucket {
                    granted: want,
                    left: 1_000_000,
                },
            };
            self.exchange.answered(&order, answer, now, market);
        }
    }
}

/// The same with counters that are shared: what a request pays while a background task buys tickets ahead of it.
fn shared_throttle(criterion: &mut Criterion) {
    let minute = rule("minute", "2000000000/m", WindowKind::Fixed);
    let sliding = rule("sliding", "2000000000/m", WindowKind::Sliding);
    let burst = rule(
        "burst",
        "1000000000/s",
        WindowKind::TokenBucket { burst: 1_000_000_000 },
    );
    let subject = Subject::of_pair("orders", "mobile");
    let mut measure = |name: &str, demands: &[Demand<'_>]| {
        let mut store = Store::new();
        let stage = Throttle::shared(Arc::clone(&store.shared));
        let mut call = 0_u64;
        let mut next = |trade: bool| {
            call += 1;
            let now = Time::from_unix_nanos(NOON + call * 1_000);
            let _ = black_box(stage.try_admit(black_box(demands), 1, now));
            if trade && call.is_multiple_of(256) {
                store.trade(now);
            }
        };
        (0..1_000_000).for_each(|_| next(true));
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..10_000).for_each(|_| next(false));
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{name} allocates");
        criterion.bench_function(name, |bencher| bencher.iter(|| next(true)));
    };
    measure("shared: one limit, fixed minute", &[Demand { rule: &minute, subject }]);
    measure(
        "shared: one limit, sliding",
        &[Demand {
            rule: &sliding,
            subject,
        }],
    );
    measure("shared: one limit, token bucket", &[Demand { rule: &burst, subject }]);
    measure(
        "shared: two limits",
        &[&burst, &minute].map(|rule| Demand { rule, subject }),
    );
}

criterion_group!(benches, throttle, shared_throttle);
criterion_main!(benches);
