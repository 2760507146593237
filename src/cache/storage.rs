//! The memory tier as the engine's state machine sees it: it looks up, fills and updates entries by whole keys.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderName;
use http::header::CONTENT_LENGTH;
use pingora::cache::key::CacheHashKey;
use pingora::cache::lock::CacheKeyLockImpl;
use pingora::cache::predictor::CacheablePredictor;
use pingora::cache::storage::{
    HandleHit, HandleMiss, HitHandler, MissFinishType, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage,
};
use pingora::cache::trace::SpanHandle;
use pingora::cache::{CacheEntryKey, CacheKey, CacheMeta};
use pingora::http::ResponseHeader;
use pingora::{Error, ErrorType, Result};
use smallvec::SmallVec;

use super::entry::{Entry, Ingredients, exactly};
use super::freshness::Lifetime;
use super::key::Fingerprint;
use super::marks::MarkId;
use super::memory::{Cache, Found, Room};

/// A body of unknown length begins with room for so many bytes.
const FIRST_ROOM: usize = 4096;

/// What the state machine does not know of an answer that is to be kept. Travels in the extensions of its [`CacheMeta`].
#[derive(Debug, Clone)]
pub struct Filling {
    /// The key without a variant.
    pub base: Bytes,
    /// The whole key.
    pub key: Bytes,
    /// What the answer varies by.
    pub vary: Option<Arc<[HeaderName]>>,
    /// What it can be invalidated by.
    pub marks: SmallVec<[MarkId; 4]>,
    /// The clock of the marks when the request was sent.
    pub sequence: u64,
    /// When that was, in milliseconds since 1970.
    pub asked_ms: u64,
    /// How long the answer may be given.
    pub lifetime: Lifetime,
    /// Largest body that is kept, in bytes.
    pub body_bytes: u64,
    /// The entry that the request asked the origin to confirm, if it did: a 304 is about the body of this one, which need
    /// not be in the table any more, or may have been replaced by another one in the meantime. See [`Hit::entry`].
    pub confirmed: Option<Arc<Entry>>,
}

impl Cache {
    /// One fetch at a time for each key, for [`enable`](pingora::cache::HttpCache::enable).
    #[must_use]
    pub fn lock(&'static self) -> &'static CacheKeyLockImpl {
        &self.lock
    }

    /// Remembers keys whose answers were not kept, for the same.
    #[must_use]
    pub fn predictor(&'static self) -> &'static (dyn CacheablePredictor + Sync) {
        &self.predictor
    }
}

#[async_trait]
impl Storage for Cache {
    async fn lookup(&'static self, key: &CacheKey, _: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let hit = |entry: Arc<Entry>| (meta(&entry), Box::new(Hit::new(entry)) as HitHandler);
        if let Some(variance) = key.get_variance_key() {
            // Asked a second time, by the engine that was told what answers vary by.
            let found = self.find_among(Fingerprint(*variance), key.primary_key()).map(hit);
            return Ok(found.map(|(mut meta, hit)| {
                meta.set_variance_key(*variance);
                (meta, hit)
            }));
        }
        Ok(
            match self.find_again(Fingerprint(key.primary_bin()), key.primary_key()) {
                Found::Nothing => None,
                Found::Entry(entry) => Some(hit(entry)),
                Found::Varies(fields) => Some((varies(fields)?, Box::new(Nothing))),
            },
        )
    }

    async fn get_miss_handler(&'static self, _: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<MissHandler> {
        let fill = Fill::begin(self, filling(meta)?.clone(), meta.response_header_copy());
        Ok(Box::new(fill))
    }

    async fn purge(&'static self, target: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        // We give entries no identities, so that nobody can mean one of ours by one.
        if matches!(target, PurgeTarget::Exact(CacheEntryKey::Identified { .. })) {
            return Ok(PurgeOutcome::NotFound);
        }
        Ok(if self.remove(Fingerprint(target.key().primary_bin())) {
            PurgeOutcome::Purged(None)
        } else {
            PurgeOutcome::NotFound
        })
    }

    /// A 304: a new entry with the updated header and the body of the confirmed one, which it shares.
    async fn update_meta(&'static self, _: &CacheKey, meta: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        let filling = filling(meta)?;
        let Some(confirmed) = &filling.confirmed else {
            return Ok(false);
        };
        let entry = entry(filling, meta.response_header(), confirmed.body.clone());
        Ok(self.fill(&filling.base, filling.vary.clone(), Arc::new(entry)))
    }

    fn support_streaming_partial_write(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

/// Stands in the extensions of a [`CacheMeta`] that is no answer: what the answers under this key vary by. Whoever waited
/// for another request's fetch learns it only then.
#[derive(Debug, Clone)]
pub struct Varies(pub Arc<[HeaderName]>);

/// What is read of such a one.
struct Nothing;

#[async_trait]
impl HandleHit for Nothing {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// An answer that is being given.
#[derive(Debug)]
pub struct Hit {
    entry: Arc<Entry>,
    range: Range<usize>,
    is_read: bool,
}

impl Hit {
    /// The entry that it is. Reached from the engine's handler through [`HandleHit::as_any`].
    #[must_use]
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    fn new(entry: Arc<Entry>) -> Self {
        let range = 0..entry.body.len();
        Self {
            entry,
            range,
            is_read: false,
        }
    }
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        if std::mem::replace(&mut self.is_read, true) || self.range.is_empty() {
            return Ok(None);
        }
        // Not a copy: a part of the body that is shared.
        Ok(Some(self.entry.body.slice(self.range.clone())))
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    /// Has the body begin and end elsewhere, and be read anew: ranges come one after the other.
    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let length = self.entry.body.len();
        let end = end.unwrap_or(length).min(length);
        if start >= length || start > end {
            return Error::e_explain(
                ErrorType::InternalError,
                format!("a range from {start} to {end} of a body of {length} bytes"),
            );
        }
        self.range = start..end;
        self.is_read = false;
        Ok(())
    }

    fn should_count_access(&self) -> bool {
        false
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}

/// A body that is coming in. Nobody sees it before it is whole; dropped before it is finished, it leaves nothing behind.
struct Fill {
    cache: &'static Cache,
    filling: Filling,
    header: ResponseHeader,
    body: Vec<u8>,
    /// How long the body should be, if the answer says so.
    expected: Option<u64>,
    room: Room,
    /// It is too large, or there is no room for it; what still comes is not looked at.
    is_given_up: bool,
}

impl Fill {
    fn begin(cache: &'static Cache, filling: Filling, header: ResponseHeader) -> Self {
        let expected = header
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let mut fill = Self {
            cache,
            filling,
            header,
            body: Vec::new(),
            expected,
            room: Room::of(cache),
            is_given_up: false,
        };
        if let Some(expected) = expected {
            // Exactly as much as it will be, so that the body needs no copy at the end.
            fill.reserve(usize::try_from(expected).unwrap_or(usize::MAX));
        }
        fill
    }

    /// Makes room for a body of so many bytes in all.
    fn reserve(&mut self, bytes: usize) {
        let at_most = self.filling.body_bytes.min(self.cache.largest());
        if bytes as u64 > at_most || !self.room.hold(bytes) {
            self.give_up();
            return;
        }
        self.body.reserve_exact(bytes.saturating_sub(self.body.len()));
    }

    fn give_up(&mut self) {
        self.is_given_up = true;
        self.body = Vec::new();
        self.room = Room::of(self.cache);
        self.cache.counters.refused.inc();
    }
}

#[async_trait]
impl HandleMiss for Fill {
    async fn write_body(&mut self, data: Bytes, is_last: bool) -> Result<()> {
        let needed = self.body.len().saturating_add(data.len());
        if !self.is_given_up && needed > self.body.capacity() {
            let wanted = if is_last {
                needed
            } else {
                needed.max(self.body.capacity() * 2).max(FIRST_ROOM)
            };
            // Doubled, but never beyond what could be kept.
            let at_most = usize::try_from(self.filling.body_bytes).unwrap_or(usize::MAX);
            self.reserve(wanted.min(at_most).max(needed));
        }
        if !self.is_given_up {
            self.body.extend_from_slice(&data);
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<MissFinishType> {
        let Self {
            cache,
            filling,
            mut header,
            body,
            expected,
            room,
            is_given_up,
        } = *self;
        if is_given_up {
            // Not an error: those who waited look again, find nothing and ask the origin.
            return Ok(MissFinishType::Created(0));
        }
        let length = body.len();
        if let Some(expected) = expected
            && expected != length as u64
        {
            cache.counters.truncated.inc();
            return Error::e_explain(
                ErrorType::InternalError,
                format!("a body of {expected} bytes was announced and {length} came: it is not kept"),
            );
        }
        if expected.is_none() && !body.is_empty() {
            // It came in chunks, and is known whole now: so parts of it can be given, and its end can be seen.
            header.insert_header(CONTENT_LENGTH, length)?;
        }
        let entry = entry(&filling, &header, exactly(body));
        drop(room);
        cache.fill(&filling.base, filling.vary, Arc::new(entry));
        Ok(MissFinishType::Created(length))
    }
}

fn filling(meta: &CacheMeta) -> Result<&Filling> {
    match meta.extensions().get::<Filling>() {
        Some(filling) => Ok(filling),
        None => Error::e_explain(ErrorType::InternalError, "an answer without a Filling is to be kept"),
    }
}

fn entry(filling: &Filling, header: &ResponseHeader, body: Bytes) -> Entry {
    Entry::new(Ingredients {
        key: filling.key.clone(),
        header,
        body,
        lifetime: filling.lifetime,
        marks: filling.marks.clone(),
        sequence: filling.sequence,
        asked_ms: filling.asked_ms,
    })
}

fn varies(fields: Arc<[HeaderName]>) -> Result<CacheMeta> {
    let long_ago = SystemTime::UNIX_EPOCH;
    // Nobody sees it; and what it stands for is later.
    let mut meta = CacheMeta::new(long_ago, long_ago, 0, 0, ResponseHeader::build(200, Some(0))?);
    meta.extensions_mut().insert(Varies(fields));
    Ok(meta)
}

/// What the engine wants to know of an entry. Its `Age` counts from when it was created, which is when the origin made it.
fn meta(entry: &Entry) -> CacheMeta {
    let lifetime = &entry.lifetime;
    // RFC 9111 section 5.2.2.2: not without asking, whatever the windows say.
    let window = |seconds| if lifetime.must_revalidate { 0 } else { seconds };
    CacheMeta::new(
        lifetime.fresh_until,
        lifetime.born,
        window(lifetime.stale_while_revalidate),
        window(lifetime.stale_if_error),
        entry.header.clone(),
    )
}

#[cfg(test)]
mod tests;
