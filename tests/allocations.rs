//! The way of a request from its parsed head to the chosen peer takes memory at most eight times.
//!
//! Counted, not timed: the stages are run as the gateway runs them, over a snapshot with two limits and a hashed key.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method};
use tollgate::auth::{KeySets, TokenCache};
use tollgate::document::Environment;
use tollgate::revision::{self, EnvironmentType};
use tollgate::route::path::normalise;
use tollgate::snapshot::Compiler;
use tollgate::telemetry::Metrics;
use tollgate::throttle::{Throttle, Time};
use tollgate::upstream::resolve::Names;
use tollgate::upstream::{Rotations, Tried};

/// The most that may be taken, from the architecture's budget.
const ALLOCATIONS_MAX: usize = 8;

struct Counting;

thread_local!(static COUNT: Cell<usize> = const { Cell::new(0) });

// SAFETY: everything is passed on to the system's allocator as it came.
#[allow(unsafe_code, reason = "an allocator that counts can not be written without it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KEY: &str = "a-key-of-somebody-else-that-is-long-enough";
const KEY_SHA256: &str = "914b3a6a26acde04867e257b0fa9b68b510087c70b99b42f11e170e8c84ec5ea";

#[test]
fn from_parsed_head_to_chosen_peer_memory_is_taken_at_most_eight_times() {
    let text = format!(
        r#"
version: 1
upstreams: [ {{ name: origin, endpoints: [ {{ address: "127.0.0.1:9001" }}, {{ address: "127.0.0.1:9002" }} ] }} ]
plans: [ {{ name: gold, limits: [ {{ name: burst, rate: 100000/s }}, {{ name: hour, rate: 1000000/h }} ] }} ]
apis: [ {{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }} ]
applications:
  - name: mobile
    subscriptions: [ {{ api: orders, plan: gold }} ]
    keys: [ {{ id: mobile-1, sha256: "{KEY_SHA256}", type: production }} ]
"#
    );
    let loaded = revision::parse(&text, "revision", Path::new(""), &Environment::of_process()).unwrap();
    let compiler = Compiler {
        environment_type: EnvironmentType::Hybrid,
        key_sets: KeySets::offline(),
        tokens: Arc::new(TokenCache::new(16)),
        names: Names::Leave,
        rotations: Arc::new(Rotations::default()),
        metrics: Arc::new(Metrics::new().unwrap()),
    };
    let (snapshot, _) = compiler.compile(loaded).unwrap();
    let throttle = Throttle::new(1000);
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static(KEY));

    let journey = || {
        let now = SystemTime::now();
        let path = normalise("/orders/7").unwrap();
        let position = snapshot.find("api.example.com", &path, &Method::GET).unwrap();
        let (route, api) = snapshot.route_and_api(position).unwrap();
        let caller = snapshot
            .authenticator()
            .identify(route.api, &route.scopes, &headers, None, 1_800_000_000_000)
            .now_or_never()
            .unwrap()
            .unwrap();
        let demands = snapshot.demands(route, api, &caller, None);
        assert_eq!(demands.len(), 2);
        let permit = throttle.admit(&demands, 1, Time::from(now)).unwrap();
        let standing = permit.tightest.unwrap();
        let field = demands[standing.rule]
            .rule
            .limit_field(standing.remaining, standing.reset);
        let (_, endpoint) = snapshot.upstream_of(api).unwrap().pick(Tried::default()).unwrap();
        let peer = Box::new(endpoint.peer().clone());
        std::hint::black_box((field, peer, snapshot.policy(api, &caller).cloned()));
    };
    // The first request makes its counters; the second shows what a request takes.
    journey();
    let before = COUNT.with(Cell::get);
    journey();
    let taken = COUNT.with(Cell::get) - before;
    println!("{taken} allocations from parsed head to chosen peer");
    assert!(taken <= ALLOCATIONS_MAX, "{taken} allocations");
}
