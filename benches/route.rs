//! What stage 1 costs: linting a head, normalising its path, finding its route. `cargo bench --bench route`
//!
//! Before anything is timed, each of the three is checked to allocate nothing.
#![allow(missing_docs, unsafe_code)] // an allocator that counts cannot be declared without

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput};
use http::Method;
use tollgate::framing::{self, Chunked, HeadLimits};
use tollgate::revision::HostPattern;
use tollgate::route::path::normalise;
use tollgate::route::{Entry, RouteTable};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_of<T>(work: impl FnOnce() -> T) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    black_box(work());
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// A tenth of the routes on a host of its own API, the others on any host; most with a parameter.
struct Routes {
    hosts: Vec<Option<HostPattern>>,
    patterns: Vec<String>,
    methods: BTreeSet<String>,
}

impl Routes {
    fn new(count: usize) -> Self {
        let host = |n: usize| {
            n.is_multiple_of(10)
                .then(|| HostPattern::Exact(format!("api-{}.example.com", n % 1000)))
        };
        let pattern = |n: usize| match n % 3 {
            0 => format!("/api-{}/orders-{n}/open", n / 20),
            1 => format!("/api-{}/orders-{n}/{{id}}/lines/{{line}}", n / 20),
            _ => format!("/api-{}/files-{n}/*", n / 20),
        };
        Self {
            hosts: (0..count).map(host).collect(),
            patterns: (0..count).map(pattern).collect(),
            methods: BTreeSet::from(["GET".to_owned(), "POST".to_owned()]),
        }
    }

    fn compile(&self) -> RouteTable {
        let entries = self.patterns.iter().enumerate().map(|(at, pattern)| Entry {
            host: self.hosts[at].as_ref(),
            pattern,
            methods: &self.methods,
            slash_too: false,
            target: u32::try_from(at).expect("few enough"),
        });
        let (table, conflicts) = RouteTable::compile(entries);
        assert!(conflicts.is_empty());
        table
    }

    /// Paths that hit routes spread over the whole table, so that no cache holds the answer.
    fn paths(&self, kind: usize) -> Vec<String> {
        let filled = |pattern: &String| {
            pattern
                .replace("{id}", "4711")
                .replace("{line}", "7")
                .replace('*', "2026/report.pdf")
        };
        // Chosen first and thinned out then: a step that shares a factor with the kinds would leave some out.
        let chosen: Vec<&String> = self
            .patterns
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 3 == kind && at % 10 != 0)
            .map(|(_, pattern)| pattern)
            .collect();
        assert!(!chosen.is_empty(), "there is something to look for");
        chosen
            .iter()
            .step_by((chosen.len() / 331).max(1))
            .map(|pattern| filled(pattern))
            .collect()
    }
}

const HEAD: &str = "GET /orders/v1/customers/4711/orders?open=true&limit=50 HTTP/1.1\r\n\
    Host: api.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0)\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip, br\r\n\
    X-API-Key: tg_live_1234567890abcdefghijklmnop\r\n\
    X-Request-Id: 01990f5e-4f9d-7cc2\r\n\
    Connection: keep-alive\r\n\r\n";

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("find");
    for count in [10, 1_000, 10_000, 100_000] {
        let routes = Routes::new(count);
        let started = Instant::now();
        let table = routes.compile();
        eprintln!("{count} routes compiled in {:?}", started.elapsed());
        let misses = |path: &String| path.replace("orders", "odours");
        for (name, paths) in [
            ("literal", routes.paths(0)),
            ("parameter", routes.paths(1)),
            ("rest", routes.paths(2)),
            ("miss", routes.paths(1).iter().map(misses).collect()),
        ] {
            let find = |path: &str| table.find("gateway.example.com:8080", path, &Method::GET);
            assert!(
                paths.iter().all(|path| find(path).is_ok() == (name != "miss")),
                "{name}"
            );
            assert_eq!(
                allocations_of(|| paths.iter().filter(|path| find(path).is_ok()).count()),
                0,
                "{name}"
            );
            let mut next = 0;
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| {
                    next = (next + 1) % paths.len();
                    find(black_box(&paths[next])).is_ok()
                });
            });
        }
    }
    group.finish();
}

fn normal_path(c: &mut Criterion) {
    let mut group = c.benchmark_group("normalise");
    let path = "/orders/v1/customers/4711/orders/2026-09-21/lines";
    assert_eq!(allocations_of(|| normalise(path)), 0);
    group.bench_function("normal", |b| b.iter(|| normalise(black_box(path)).is_ok()));
    group.bench_function("to normalise", |b| {
        b.iter(|| normalise(black_box("/orders//v1/./%63ustomers/../4711")).is_ok())
    });
    group.finish();
}

fn lint(c: &mut Criterion) {
    let limits = HeadLimits::default();
    let head = HEAD.as_bytes();
    let inspect = |head: &[u8]| framing::find_head_end(head, 0).map(|end| framing::inspect(&head[..end], &limits));
    assert!(matches!(inspect(head), Some(Ok(_))));
    assert_eq!(allocations_of(|| inspect(head)), 0);
    let mut group = c.benchmark_group("framing");
    group.throughput(Throughput::Bytes(head.len() as u64));
    group.bench_function("inspect", |b| {
        b.iter(|| framing::inspect(black_box(head), &limits).is_ok())
    });
    group.bench_function("find end and inspect", |b| {
        b.iter(|| inspect(black_box(head)).is_some())
    });
    let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
    let body = [chunk.as_slice(), &chunk, &chunk, &chunk, b"0\r\n\r\n"].concat();
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("64 KiB in chunks", |b| {
        b.iter(|| Chunked::new(u64::MAX).advance(black_box(&body)).is_ok());
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    lint(&mut criterion);
    normal_path(&mut criterion);
    find(&mut criterion);
    criterion.final_summary();
}
