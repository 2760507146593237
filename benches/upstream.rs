//! What the choice of an endpoint costs a request. Budget: 150 ns, and no allocation.
//!
//! Every case is run once more under a counting allocator, and the bench fails if a pick allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tollgate::document::Environment;
use tollgate::revision;
use tollgate::telemetry::Metrics;
use tollgate::upstream::resolve::Names;
use tollgate::upstream::{Ask, Moment, Registry, Upstream, hash};

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

/// An upstream of so many endpoints of different weights and zones, all of which have answered already.
fn upstream(balance: &str, count: usize) -> Arc<Upstream> {
    let mut text = format!("version: 1\nupstreams:\n  - name: orders\n    balance: {balance}\n    endpoints:\n");
    for number in 0..count {
        let (weight, zone) = (1 + number % 3, ["a", "b"][number % 2]);
        let address = format!("10.0.{}.{}:8080", number >> 8, number & 255);
        writeln!(
            text,
            "      - {{ address: \"{address}\", weight: {weight}, zone: {zone} }}"
        )
        .unwrap();
    }
    let environment = Environment::of_process();
    let loaded = revision::parse(&text, "revision", Path::new(""), &environment).unwrap();
    let terms = &loaded.revision.upstreams[0];
    let found: Vec<_> = (terms.endpoints.iter())
        .map(|endpoint| Names::Leave.find(&endpoint.locator).unwrap())
        .collect();
    let metrics = Metrics::new().unwrap();
    let registry = Arc::new(Registry::new(Some("a".to_owned()), metrics.upstreams().clone()));
    let upstream = registry.compile(terms, found);
    for (number, member) in (1..).zip(upstream.view().members()) {
        member
            .endpoint
            .latency()
            .observe(Duration::from_micros(100 * number), Moment::now());
    }
    upstream
}

fn pick(upstream: &Upstream, dice: &mut u64, now: Moment) -> u32 {
    *dice = hash::stir(dice.wrapping_add(1));
    let ask = Ask {
        dice: *dice,
        key: *dice,
        tried: &[],
        repeatable: true,
        now,
    };
    upstream.view().pick(&ask).unwrap().member.endpoint.id()
}

/// The load of the view is in it: every try loads it anew.
fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for balance in [
        "round_robin",
        "least_connections",
        "least_response_time",
        "consistent_hash",
        "random",
    ] {
        for count in [3, 100, 1000] {
            let upstream = upstream(balance, count);
            let mut dice = 1;
            // Averages are young while there is traffic, and old for endpoints without.
            let now = Moment::now().plus(Duration::from_millis(if count == 100 { 5000 } else { 10 }));
            group.bench_function(format!("{balance}/{count}"), |bencher| {
                bencher.iter(|| black_box(pick(&upstream, &mut dice, now)));
            });
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            for _ in 0..10_000 {
                black_box(pick(&upstream, &mut dice, now));
            }
            assert_eq!(
                ALLOCATIONS.load(Ordering::Relaxed),
                before,
                "{balance}/{count} allocates"
            );
        }
    }
    group.finish();
}

/// Off the request threads, but ten times a second while an endpoint is in its slow start.
fn views(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("refresh");
    for balance in ["round_robin", "least_response_time", "consistent_hash"] {
        for count in [3, 1000] {
            let upstream = upstream(balance, count);
            group.bench_function(format!("{balance}/{count}"), |bencher| {
                bencher.iter(|| upstream.refresh(Moment::now()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, picks, views);
criterion_main!(benches);
