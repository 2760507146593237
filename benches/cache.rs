//! What the cache's memory tier costs a request: its key, a hit, a miss, an insert that has to make room, and a hit as the
//! engine asks for it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use pingora::cache::storage::Storage;
use pingora::cache::trace::Span;
use pingora::http::ResponseHeader;
use smallvec::SmallVec;
use tollgate::cache::entry::Ingredients;
use tollgate::cache::freshness::Lifetime;
use tollgate::cache::key::{CallerPart, Key, KeyParts, base, fingerprint};
use tollgate::cache::policy::Place;
use tollgate::cache::{Cache, Entry, MarkId, TierCounters};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEPT: u32 = 10_000;

fn key(place: &Place, path: &str) -> Bytes {
    Bytes::from(base(&KeyParts {
        scheme: "https",
        host: "api.example.com",
        path,
        query: Some("fields=all"),
        place,
        upstream: "catalogue",
        key_type: Some("production"),
        caller: CallerPart::Application("mobile"),
    }))
}

fn entry(key: Bytes) -> Arc<Entry> {
    let now = SystemTime::now();
    let mut header = ResponseHeader::build(200, None).expect("a status");
    for (name, value) in [
        ("Content-Type", "application/json"),
        ("Content-Length", "2000"),
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("ETag", "\"0123456789abcdef\""),
        ("Cache-Control", "max-age=300"),
    ] {
        header.append_header(name, value).expect("a field");
    }
    Arc::new(Entry::new(Ingredients {
        key,
        header: &header,
        body: Bytes::from(vec![b'x'; 2000]),
        lifetime: Lifetime {
            born: now,
            fresh_until: now + Duration::from_secs(3600),
            stale_while_revalidate: 0,
            stale_if_error: 0,
            must_revalidate: false,
            explicit: true,
        },
        marks: SmallVec::from_slice(&[MarkId(1), MarkId(2), MarkId(3)]),
        sequence: 0,
        asked_ms: 0,
    }))
}

fn memory(criterion: &mut Criterion) {
    let place = Place {
        api: "catalogue".into(),
        route: "/items/{id}".into(),
    };
    let cache: &'static Cache = Box::leak(Box::new(Cache::new(64 << 20, TierCounters::unregistered())));
    for number in 0..KEPT {
        let key = key(&place, &format!("/items/{number}"));
        cache.put(&key, None, entry(key.clone()));
    }
    // As in a process in which something was invalidated once.
    cache.invalidate(&tollgate::cache::Invalidation::Mark(MarkId(77)), 1);
    let known = key(&place, "/items/77");
    let unknown = key(&place, "/items/none");

    let mut group = criterion.benchmark_group("cache");
    group.bench_function("key", |b| b.iter(|| key(&place, black_box("/items/77"))));
    group.bench_function("fingerprint", |b| b.iter(|| fingerprint(black_box(&known))));
    group.bench_function("hit", |b| b.iter(|| cache.find(black_box(&known))));
    group.bench_function("miss", |b| b.iter(|| cache.find(black_box(&unknown))));
    let span = Span::inactive().handle();
    let engine = Key::of(known.clone()).for_engine();
    group.bench_function("lookup", |b| {
        b.iter(|| cache.lookup(black_box(&engine), &span).now_or_never());
    });
    let full: &'static Cache = Box::leak(Box::new(Cache::new(8 << 20, TierCounters::unregistered())));
    let mut number = 0_u32;
    group.bench_function("insert_with_eviction", |b| {
        b.iter_batched(
            || {
                number += 1;
                let key = key(&place, &format!("/items/{number}"));
                (key.clone(), entry(key))
            },
            |(key, entry)| full.put(&key, None, entry),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("entry", |b| {
        b.iter_batched(|| known.clone(), entry, BatchSize::SmallInput)
    });
    group.finish();
}

criterion_group!(benches, memory);
criterion_main!(benches);
