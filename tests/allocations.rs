//! The way of a request from its parsed head to the chosen peer takes memory at most eight times.
//!
//! Counted, not timed: the stages are run as the gateway runs them, over a snapshot with two limits and a hashed key.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use pingora::http::RequestHeader;
use tollgate::auth::{Introspectors, KeySets, TokenCache};
use tollgate::document::Environment;
use tollgate::gateway::edits;
use tollgate::gateway::forward::{self, Origin};
use tollgate::gateway::journey::{Admission, Journey};
use tollgate::gateway::request_id::Ids;
use tollgate::revision::{self, EnvironmentType};
use tollgate::route::path::normalise;
use tollgate::snapshot::Compiler;
use tollgate::telemetry::{AccessLog, Metrics};
use tollgate::throttle::{Defaults, Throttle};
use tollgate::upstream::resolve::Names;
use tollgate::upstream::{Ask, Moment, Registry};

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
        labels: Vec::new(),
        key_sets: KeySets::offline(),
        tokens: Arc::new(TokenCache::new(16)),
        introspectors: Introspectors::offline(),
        key_store: None,
        names: Names::Leave,
        sharing: Defaults::default(),
        registry: Arc::new(Registry::new(None, Metrics::new().unwrap().upstreams().clone())),
        metrics: Arc::new(Metrics::new().unwrap()),
    };
    let (snapshot, _) = compiler.compile(loaded).unwrap();
    let throttle = Throttle::new(1000);
    let snapshot = Arc::new(snapshot);
    let metrics = Arc::new(Metrics::new().unwrap());
    let head = || {
        let mut request = RequestHeader::build("GET", b"/orders/7", None).unwrap();
        request.append_header("Host", "api.example.com").unwrap();
        request.append_header("X-API-Key", KEY).unwrap();
        request
    };

    let journey = |request: &mut RequestHeader| {
        let mut journey = Box::new(Journey::begin(
            Some(Arc::clone(&snapshot)),
            Arc::clone(&metrics),
            AccessLog::off(),
        ));
        let headers = &request.headers;
        journey.origin = Origin::find(Some([192, 0, 2, 7].into()), headers, &[]);
        journey.ids = Ids::of(headers);
        forward::forget_spelling(request);
        journey.saw(request, "/orders/7");
        assert!(journey.enter(1));
        let headers = &request.headers;
        let path = normalise("/orders/7").unwrap();
        let position = snapshot.find("api.example.com", &path, &request.method).unwrap();
        journey.matched(position);
        let (route, api) = snapshot.route_and_api(position).unwrap();
        journey.screen((route, api), headers).unwrap();
        let caller = snapshot
            .authenticator()
            .identify(route.api, &route.scopes, headers, None, None, journey.now_ms)
            .now_or_never()
            .unwrap()
            .unwrap();
        let now = journey.now();
        let client = journey.origin.client;
        let caller = &*journey.caller.insert(caller);
        let demands = snapshot.demands(route, api, caller, client);
        assert_eq!(demands.len(), 2);
        let permit = throttle.try_admit(&demands, 1, now).unwrap();
        let standing = permit.tightest.unwrap();
        let rate_limit = demands[standing.rule]
            .rule
            .limit_field(standing.remaining, standing.reset);
        journey.admission = Some(Admission {
            route: position,
            rate_limit: Some(rate_limit),
            policy: snapshot.policy(api, caller).cloned(),
        });
        let asker = edits::asker(caller, client, headers);
        let choice = api.split.as_ref().unwrap().choose(&asker, rand::random).unwrap();
        let view = snapshot.upstream(choice.upstream).unwrap().view();
        let ask = Ask {
            dice: 1,
            key: 0,
            tried: &[],
            repeatable: true,
            now: Moment::now(),
        };
        let pick = view.pick(&ask).unwrap();
        let peer = Box::new(pick.member.peer.clone());
        std::hint::black_box((peer, journey));
    };
    // The first request makes its counters; the second shows what a request takes.
    journey(&mut head());
    let mut request = head();
    let before = COUNT.with(Cell::get);
    journey(&mut request);
    let taken = COUNT.with(Cell::get) - before;
    println!("{taken} allocations from parsed head to chosen peer");
    assert!(taken <= ALLOCATIONS_MAX, "{taken} allocations");
}

#[test]
fn whatever_the_algorithm_a_pick_takes_no_memory() {
    for balance in [
        "round_robin",
        "least_connections",
        "least_response_time",
        "consistent_hash",
        "random",
    ] {
        for count in [1, 3, 30] {
            let mut text =
                format!("version: 1\nupstreams:\n  - name: origin\n    balance: {balance}\n    endpoints:\n");
            for number in 1..=count {
                text.push_str(&format!(
                    "      - {{ address: \"10.0.0.{number}:80\", weight: {number} }}\n"
                ));
            }
            let loaded = revision::parse(&text, "revision", Path::new(""), &Environment::of_process()).unwrap();
            let terms = &loaded.revision.upstreams[0];
            let registry = Arc::new(Registry::new(None, Metrics::new().unwrap().upstreams().clone()));
            let found = terms
                .endpoints
                .iter()
                .map(|endpoint| Names::Leave.find(&endpoint.locator).unwrap());
            let upstream = registry.compile(terms, found.collect());
            let last = upstream.view().members().last().unwrap().endpoint.id();
            // The first that a thread does may take memory for the thread.
            let _ = upstream.view().members().len();
            let before = COUNT.with(Cell::get);
            for number in 0..100 {
                let tried = [last];
                let ask = Ask {
                    dice: number << 40 | number,
                    key: number << 32,
                    tried: if number % 2 == 0 { &tried } else { &[] },
                    repeatable: true,
                    now: Moment::now(),
                };
                std::hint::black_box(upstream.view().pick(&ask).is_some());
            }
            assert_eq!(COUNT.with(Cell::get), before, "{balance} of {count}");
        }
    }
}
