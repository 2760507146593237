//! The tier through the engine's eyes.

use std::time::{Duration, SystemTime};

use super::*;
use crate::cache::key::{CallerPart, Key, KeyParts, base};
use crate::cache::marks::Invalidation;
use crate::cache::memory::TierCounters;
use crate::cache::policy::Place;

fn cache() -> &'static Cache {
    Box::leak(Box::new(Cache::new(8 << 20, TierCounters::unregistered())))
}

fn key() -> Bytes {
    let place = Place {
        api: "api".into(),
        route: "/*".into(),
    };
    Bytes::from(base(&KeyParts {
        scheme: "http",
        host: "api.example",
        path: "/one",
        query: None,
        place: &place,
        upstream: "pool",
        key_type: None,
        caller: CallerPart::Everyone,
    }))
}

fn span() -> SpanHandle {
    pingora::cache::trace::Span::inactive().handle()
}

fn filled(cache: &Cache) -> Filling {
    let now = SystemTime::now();
    Filling {
        base: key(),
        key: key(),
        vary: None,
        marks: SmallVec::from_slice(&[MarkId::tag("news")]),
        sequence: cache.marks().sequence(),
        asked_ms: 1_000_000,
        lifetime: Lifetime {
            born: now - Duration::from_secs(7),
            fresh_until: now + Duration::from_secs(60),
            stale_while_revalidate: 30,
            stale_if_error: 40,
            must_revalidate: false,
            explicit: true,
        },
        body_bytes: 1 << 20,
        confirmed: None,
    }
}

fn header(fields: &[(&'static str, &str)]) -> ResponseHeader {
    let mut header = ResponseHeader::build(200, None).expect("a status");
    for (name, value) in fields {
        header.append_header(*name, *value).expect("a field");
    }
    header
}

fn meta_of(filling: Filling, header: ResponseHeader) -> CacheMeta {
    let life = filling.lifetime;
    let mut meta = CacheMeta::new(life.fresh_until, life.born, 0, 0, header);
    meta.extensions_mut().insert(filling);
    meta
}

async fn begin(cache: &'static Cache, filling: Filling, header: ResponseHeader) -> MissHandler {
    let engine_key = Key::of(filling.key.clone()).for_engine();
    cache
        .get_miss_handler(&engine_key, &meta_of(filling, header), &span())
        .await
        .expect("a handler")
}

async fn fill(cache: &'static Cache, filling: Filling, header: ResponseHeader, parts: &[&str]) {
    let mut handler = begin(cache, filling, header).await;
    for (number, part) in (1..).zip(parts) {
        let bytes = Bytes::copy_from_slice(part.as_bytes());
        handler.write_body(bytes, number == parts.len()).await.expect("room");
    }
    handler.finish().await.expect("is whole");
}

async fn look(cache: &'static Cache) -> Option<(CacheMeta, HitHandler)> {
    cache
        .lookup(&Key::of(key()).for_engine(), &span())
        .await
        .expect("is asked")
}

async fn read(handler: &mut HitHandler) -> String {
    let mut text = Vec::new();
    while let Some(part) = handler.read_body().await.expect("is read") {
        text.extend_from_slice(&part);
    }
    String::from_utf8(text).expect("text")
}

#[tokio::test]
async fn what_was_filled_in_parts_is_found_whole_with_its_header_and_age() {
    let cache = cache();
    fill(
        cache,
        filled(cache),
        header(&[("X-Kept", "yes")]),
        &["one ", "two ", "three"],
    )
    .await;
    let (meta, mut hit) = look(cache).await.expect("is kept");
    assert_eq!(read(&mut hit).await, "one two three");
    assert_eq!(meta.response_header().headers["x-kept"], "yes");
    assert!(meta.age() >= Duration::from_secs(7));
    assert!(meta.is_fresh(SystemTime::now()));
    assert_eq!((meta.stale_while_revalidate_sec(), meta.stale_if_error_sec()), (30, 40));
}

#[tokio::test]
async fn a_hit_shares_the_body_of_its_entry() {
    let cache = cache();
    fill(cache, filled(cache), header(&[]), &["a body"]).await;
    let (_, mut hit) = look(cache).await.expect("is kept");
    let given = hit.read_body().await.expect("is read").expect("a body");
    let hit = hit.as_any().downcast_ref::<Hit>().expect("our handler");
    assert_eq!(given.as_ptr(), hit.entry().body.as_ptr());
}

#[tokio::test]
async fn ranges_are_read_one_after_the_other() {
    let cache = cache();
    fill(cache, filled(cache), header(&[]), &["0123456789"]).await;
    let (_, mut hit) = look(cache).await.expect("is kept");
    assert!(hit.can_seek() && hit.can_seek_multipart());
    hit.seek(2, Some(5)).expect("is inside");
    assert_eq!(read(&mut hit).await, "234");
    hit.seek_multipart(8, Some(100)).expect("is inside");
    assert_eq!(read(&mut hit).await, "89");
    hit.seek(7, None).expect("is inside");
    assert_eq!(read(&mut hit).await, "789");
    assert!(hit.seek(10, None).is_err());
    assert!(hit.seek(5, Some(4)).is_err());
}

#[tokio::test]
async fn a_body_that_ended_early_is_never_an_entry() {
    let cache = cache();
    let mut handler = begin(cache, filled(cache), header(&[("Content-Length", "10")])).await;
    handler
        .write_body(Bytes::from_static(b"01234"), true)
        .await
        .expect("room");
    assert!(handler.finish().await.is_err());
    assert!(look(cache).await.is_none());
    assert_eq!(cache.counters.truncated.get(), 1);
    // Nor is one that is longer than it said.
    let mut handler = begin(cache, filled(cache), header(&[("Content-Length", "3")])).await;
    handler
        .write_body(Bytes::from_static(b"01234"), true)
        .await
        .expect("room");
    assert!(handler.finish().await.is_err());
    assert!(look(cache).await.is_none());
}

#[tokio::test]
async fn a_fill_that_is_dropped_leaves_nothing_behind() {
    let cache = cache();
    let mut handler = begin(cache, filled(cache), header(&[])).await;
    handler
        .write_body(Bytes::from_static(b"01234"), false)
        .await
        .expect("room");
    drop(handler);
    assert!(look(cache).await.is_none());
    cache.sweeper().step(SystemTime::now(), 1);
    assert_eq!(cache.counters.filling.get(), 0);
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_given_up_and_not_an_error_to_the_client() {
    let cache = cache();
    let small = || Filling {
        body_bytes: 8,
        ..filled(cache)
    };
    fill(cache, small(), header(&[]), &["01234567", "8"]).await;
    assert!(look(cache).await.is_none());
    fill(cache, small(), header(&[("Content-Length", "9")]), &["012345678"]).await;
    assert!(look(cache).await.is_none());
    assert_eq!(cache.counters.refused.get(), 2);
    fill(cache, small(), header(&[]), &["0123", "4567"]).await;
    assert!(look(cache).await.is_some());
}

#[tokio::test]
async fn bodies_that_come_in_at_the_same_time_have_a_bound() {
    let cache = cache();
    let length = "100000";
    let mut handlers = Vec::new();
    for _ in 0..100 {
        handlers.push(begin(cache, filled(cache), header(&[("Content-Length", length)])).await);
    }
    let refused = cache.counters.refused.get();
    assert!(refused > 50, "{refused}");
    cache.sweeper().step(SystemTime::now(), 1);
    assert!(
        cache.counters.filling.get() <= 2 << 20,
        "{}",
        cache.counters.filling.get()
    );
    drop(handlers);
    let body = "x".repeat(100_000);
    fill(cache, filled(cache), header(&[("Content-Length", length)]), &[&body]).await;
    assert!(look(cache).await.is_some());
}

#[tokio::test]
async fn a_304_gives_the_confirmed_body_a_new_life_and_copies_nothing() {
    let cache = cache();
    fill(cache, filled(cache), header(&[("ETag", "\"1\"")]), &["a body"]).await;
    let (_, hit) = look(cache).await.expect("is kept");
    let confirmed = Arc::clone(hit.as_any().downcast_ref::<Hit>().expect("our handler").entry());
    // It need not be there any more.
    cache.remove(crate::cache::key::fingerprint(&key()));
    let again = Filling {
        confirmed: Some(Arc::clone(&confirmed)),
        asked_ms: 1_000_001,
        ..filled(cache)
    };
    let updated = header(&[("ETag", "\"1\""), ("X-Updated", "yes")]);
    let meta = meta_of(again, updated);
    assert!(
        cache
            .update_meta(&Key::of(key()).for_engine(), &meta, &span())
            .await
            .expect("is told")
    );
    let (meta, mut hit) = look(cache).await.expect("is kept");
    assert_eq!(meta.response_header().headers["x-updated"], "yes");
    assert_eq!(read(&mut hit).await, "a body");
    let entry = hit.as_any().downcast_ref::<Hit>().expect("our handler").entry();
    assert_eq!(entry.body.as_ptr(), confirmed.body.as_ptr());
    // A 304 to a question that nobody remembers says nothing.
    let unknown = meta_of(filled(cache), header(&[]));
    assert!(
        !cache
            .update_meta(&Key::of(key()).for_engine(), &unknown, &span())
            .await
            .expect("is told")
    );
}

#[tokio::test]
async fn what_must_be_validated_has_no_windows() {
    let cache = cache();
    let mut filling = filled(cache);
    filling.lifetime.must_revalidate = true;
    fill(cache, filling, header(&[]), &["a body"]).await;
    let (meta, _) = look(cache).await.expect("is kept");
    assert_eq!((meta.stale_while_revalidate_sec(), meta.stale_if_error_sec()), (0, 0));
}

#[tokio::test]
async fn an_invalidation_during_a_fill_wins() {
    let cache = cache();
    let mut handler = begin(cache, filled(cache), header(&[])).await;
    handler
        .write_body(Bytes::from_static(b"old"), true)
        .await
        .expect("room");
    cache.invalidate(&Invalidation::Mark(MarkId::tag("news")), 1);
    handler.finish().await.expect("is whole");
    assert!(look(cache).await.is_none());
}

#[tokio::test]
async fn the_engine_can_take_an_entry_away() {
    let cache = cache();
    fill(cache, filled(cache), header(&[]), &["a body"]).await;
    let compact = Key::of(key()).for_engine().to_compact();
    let purge = || {
        cache.purge(
            PurgeTarget::Active(&compact),
            PurgeType::Invalidation,
            Box::leak(Box::new(span())),
        )
    };
    assert_eq!(purge().await.expect("is told"), PurgeOutcome::Purged(None));
    assert_eq!(purge().await.expect("is told"), PurgeOutcome::NotFound);
    assert!(look(cache).await.is_none());
}
