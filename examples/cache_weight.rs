//! How honest the cache is about the memory that it takes: fills it with a working set ten times larger than its budget,
//! through the engine's own way, and prints what it counts beside what the process has grown by.
//!
//! `cargo run --release --example cache_weight -- [budget in MiB] [threads] [rounds]`

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use pingora::cache::CacheMeta;
use pingora::cache::storage::Storage;
use pingora::cache::trace::Span;
use pingora::http::ResponseHeader;
use smallvec::SmallVec;
use tollgate::cache::freshness::Lifetime;
use tollgate::cache::key::{CallerPart, Key, KeyParts, base};
use tollgate::cache::policy::Place;
use tollgate::cache::{Cache, Filling, Found, MarkId, TierCounters};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: u64| -> Result<u64, std::num::ParseIntError> {
        arguments.next().map_or(Ok(default), |text| text.parse())
    };
    let budget = next(64)? << 20;
    let threads = next(2)?;
    let rounds = next(2)?;

    let before = resident()?;
    let cache: &'static Cache = Box::leak(Box::new(Cache::new(budget, TierCounters::unregistered())));
    let keys = keys_in(10 * budget);
    let turn = AtomicU64::new(0);
    let largest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (turn, largest) = (&turn, &largest);
            scope.spawn(move || {
                work(cache, thread, keys * rounds / threads, keys, turn);
                largest.fetch_max(resident().unwrap_or(0), Ordering::Relaxed);
            });
        }
    });
    let busy = resident()?;
    tollgate::memory::give_back();
    let idle = resident()?;

    let (entries, counted) = cache.size();
    let mib = |bytes: u64| bytes / 1024 * 100 / 1024;
    let print = |what: &str, bytes: u64| println!("{what:<28}{:>8}.{:02} MiB", mib(bytes) / 100, mib(bytes) % 100);
    println!("working set                 {keys} answers of 200 B to 64 KiB");
    println!("kept                        {entries} entries");
    print("budget", budget);
    print("counted", counted);
    print("resident before", before);
    print("resident at the end", busy);
    print("resident after giving back", idle);
    let ratio = |resident: u64| (resident.saturating_sub(before)) * 1000 / budget;
    println!(
        "grown by, of the budget     {}.{} % at the end, {}.{} % after giving back",
        ratio(busy) / 10,
        ratio(busy) % 10,
        ratio(idle) / 10,
        ratio(idle) % 10
    );
    Ok(())
}

/// Asks for answers at random, a few of them more often than the others, and fills in what is not there.
fn work(cache: &'static Cache, thread: u64, requests: u64, keys: u64, turn: &AtomicU64) {
    let runtime = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(why) => panic!("no runtime: {why}"),
    };
    let mut random = thread + 1;
    let mut sweeper = cache.sweeper();
    for _ in 0..requests {
        // xorshift: the same walk every time.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let number = if random.is_multiple_of(4) {
            (random >> 8) % (keys / 50 + 1)
        } else {
            (random >> 8) % keys
        };
        let key = key(number);
        if matches!(cache.find(&key), Found::Nothing) {
            runtime.block_on(fill(cache, key, number));
        }
        if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(1000) {
            sweeper.step(SystemTime::now(), 1000);
        }
    }
}

async fn fill(cache: &'static Cache, key: Bytes, number: u64) {
    let now = SystemTime::now();
    let filling = Filling {
        base: key.clone(),
        key: key.clone(),
        vary: None,
        marks: SmallVec::from_slice(&[MarkId(number), MarkId(1), MarkId(2)]),
        sequence: cache.marks().sequence(),
        asked_ms: 0,
        lifetime: Lifetime {
            born: now,
            fresh_until: now + Duration::from_secs(300),
            stale_while_revalidate: 0,
            stale_if_error: 0,
            must_revalidate: false,
            explicit: true,
        },
        body_bytes: 1 << 20,
        confirmed: None,
    };
    let length = length(number);
    // As it comes off a connection: values are parts of one read buffer, and so is the body.
    let head =
        Bytes::from(format!("application/json{length:020}Sun, 06 Nov 1994 08:49:37 GMT\"{number:016x}\"").into_bytes());
    let mut header = ResponseHeader::build(200, Some(8)).expect("a status");
    let parts = [
        ("Content-Type", 0..16),
        ("Content-Length", 16..36),
        ("Date", 36..65),
        ("ETag", 65..83),
    ];
    for (name, part) in parts {
        let value = HeaderValue::from_maybe_shared(head.slice(part)).expect("a value");
        header.append_header(name, value).expect("a field");
    }
    let mut meta = CacheMeta::new(filling.lifetime.fresh_until, now, 0, 0, header);
    meta.extensions_mut().insert(filling);
    let span = Span::inactive().handle();
    let mut handler = cache
        .get_miss_handler(&Key::of(key).for_engine(), &meta, &span)
        .await
        .expect("a handler");
    let mut left = length;
    while left > 0 {
        let buffer = Bytes::from(vec![b'x'; 16 << 10]);
        let part = left.min(buffer.len());
        left -= part;
        handler.write_body(buffer.slice(..part), left == 0).await.expect("room");
    }
    handler.finish().await.expect("is whole");
}

fn key(number: u64) -> Bytes {
    let place = Place {
        api: "catalogue".into(),
        route: "/items/{id}".into(),
    };
    Bytes::from(base(&KeyParts {
        scheme: "https",
        host: "api.example.com",
        path: &format!("/items/{number}"),
        query: Some("fields=all"),
        place: &place,
        upstream: "catalogue",
        key_type: Some("production"),
        caller: CallerPart::Application("mobile"),
    }))
}

/// From 200 bytes to 64 KiB, small ones more often: every doubling is as likely as the next.
fn length(number: u64) -> usize {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let doubling = mixed % 8;
    let within = (mixed >> 3) % (200 << doubling);
    usize::try_from(((200 << doubling) + within).min(64 << 10)).unwrap_or(0)
}

fn keys_in(bytes: u64) -> u64 {
    let mut all = 0;
    (0..)
        .find(|number| {
            all += length(*number) as u64;
            all > bytes
        })
        .unwrap_or(0)
}

/// Bytes of this process that are in memory.
fn resident() -> Result<u64, Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .ok_or("statm has no second column")?
        .parse()?;
    Ok(pages * 4096)
}
