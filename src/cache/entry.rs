//! An answer that is kept: once written, it is shared by all who are given it, and nothing of it is copied for them.

use std::mem::size_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::ResponseHeader;
use smallvec::SmallVec;

use super::freshness::Lifetime;
use super::marks::MarkId;

/// For how long an answer is kept that is past every use but can be validated: a 304 is cheaper than a body.
const GRACE_WITH_VALIDATOR: Duration = Duration::from_secs(3600);

/// The same for one that cannot: only a client's `max-stale` could still ask for it.
const GRACE: Duration = Duration::from_secs(60);

/// An answer that is kept.
#[derive(Debug)]
pub struct Entry {
    /// The whole framed key, with the variant.
    pub key: Bytes,
    /// Status and header fields as they are kept, packed into one allocation.
    pub header: ResponseHeader,
    /// The body, in an allocation of exactly its size.
    pub body: Bytes,
    /// How long it may be given.
    pub lifetime: Lifetime,
    /// What it can be invalidated by.
    pub marks: SmallVec<[MarkId; 4]>,
    /// The clock of the marks when its request was sent (see [`super::Marks`]).
    pub sequence: u64,
    /// When its request was sent, in milliseconds since 1970, for other processes.
    pub asked_ms: u64,
    hits: AtomicU32,
    /// Up to which number invalidations by prefix are known not to concern it.
    settled: AtomicU64,
    weight: u64,
}

/// What an entry is made of.
#[derive(Debug, Clone)]
pub struct Ingredients<'a> {
    /// The whole framed key, with the variant.
    pub key: Bytes,
    /// Status and header fields to be kept. They are copied: those of an answer that has just arrived are slices of the
    /// buffer that it was read into.
    pub header: &'a ResponseHeader,
    /// The body, in an allocation of exactly its size: see [`exactly`].
    pub body: Bytes,
    /// How long it may be given.
    pub lifetime: Lifetime,
    /// What it can be invalidated by.
    pub marks: SmallVec<[MarkId; 4]>,
    /// The clock of the marks when its request was sent. For an entry that another process has made: when *we* began to
    /// look for it, before it was held to the marks.
    pub sequence: u64,
    /// When its request was sent, in milliseconds since 1970.
    pub asked_ms: u64,
}

impl Entry {
    /// An entry that nobody has been given yet.
    #[must_use]
    pub fn new(of: Ingredients) -> Self {
        let header = packed(of.header);
        let weight = weight_of(&of.key, &header, &of.body, &of.marks);
        Self {
            key: of.key,
            header,
            body: of.body,
            lifetime: of.lifetime,
            marks: of.marks,
            sequence: of.sequence,
            asked_ms: of.asked_ms,
            hits: AtomicU32::new(0),
            settled: AtomicU64::new(of.sequence),
            weight,
        }
    }

    /// What it costs in memory, in bytes, with everything that belongs to it alone. Never changes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// How often it was found.
    #[must_use]
    pub fn hits(&self) -> u32 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Until when it is of any use to anybody: its lifetime, the windows in which it may be given stale, and an hour for
    /// validation if it has a validator, else a minute.
    #[must_use]
    pub fn useful_until(&self) -> SystemTime {
        let lifetime = &self.lifetime;
        let window = lifetime.stale_while_revalidate.max(lifetime.stale_if_error);
        let headers = &self.header.headers;
        let grace = if headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED) {
            GRACE_WITH_VALIDATOR
        } else {
            GRACE
        };
        let end = lifetime.fresh_until.max(lifetime.born);
        // A lifetime that cannot be written as a moment has no end.
        end.checked_add(Duration::from_secs(window.into()) + grace)
            .unwrap_or(end)
    }

    pub(super) fn count_hit(&self) {
        // Wraps after four thousand million, and is hot then all the same.
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    pub(super) fn settle(&self, sequence: u64) {
        self.settled.fetch_max(sequence, Ordering::Relaxed);
    }
}

/// A body in an allocation of exactly its size. What comes off a connection is a slice of a read buffer, which would be
/// kept whole; a vector that has grown, or was made smaller, may keep twice of what it shows.
#[must_use]
pub fn exactly(body: Vec<u8>) -> Bytes {
    if body.capacity() == body.len() {
        Bytes::from(body)
    } else {
        // Not `shrink_to_fit`: the allocator leaves a block where it is as long as half of it is in use.
        Bytes::copy_from_slice(&body)
    }
}

/// What an allocation of so many bytes costs. mimalloc has four classes of sizes in every doubling above 64 bytes, and
/// gives out whole slices of 64 KiB above 512 KiB; others are no worse.
#[must_use]
pub(super) fn allocated(bytes: usize) -> u64 {
    const SLICE: u64 = 64 * 1024;
    const HUGE: u64 = 512 * 1024;
    let bytes = bytes as u64;
    match bytes {
        0 => 0,
        1..=64 => bytes.next_multiple_of(16),
        65..=HUGE => {
            let words = bytes.div_ceil(8) - 1;
            let step = 1_u64 << (words.ilog2() - 2);
            (words / step + 1) * step * 8
        }
        _ => bytes.next_multiple_of(SLICE) + SLICE,
    }
}

/// A place in the table: of its slab and its hash table, both of which grow by doubling, and of the keys remembered that
/// are not there any more.
pub(super) const PLACE: u64 = 160;

/// Header fields, each with its value, in one allocation. Values that came with an answer are slices of the buffer that
/// its head was read into, names in unusual case too; and what is copied one by one costs an allocation each.
fn packed(header: &ResponseHeader) -> ResponseHeader {
    let has_case = header.has_case() && !writes_the_same_without_case(header);
    let mut text = Vec::with_capacity(length(header, has_case));
    if has_case {
        for (name, _) in header.case_header_iter() {
            text.extend_from_slice(name.as_slice());
        }
    }
    for value in header.headers.values() {
        text.extend_from_slice(value.as_bytes());
    }
    let mut text = Bytes::from(text);

    let fields = header.headers.len();
    let built = if has_case {
        ResponseHeader::build(header.status, Some(fields))
    } else {
        ResponseHeader::build_no_case(header.status, Some(fields))
    };
    let Ok(mut packed) = built else {
        // A status is a status, so this does not happen; an entry that weighs more would be no harm.
        return header.clone();
    };
    packed.set_version(header.version);
    if header.get_reason_phrase() != header.status.canonical_reason() {
        let _ = packed.set_reason_phrase(header.get_reason_phrase());
    }
    if has_case {
        let names: Vec<Bytes> = header
            .case_header_iter()
            .map(|(name, _)| text.split_to(name.as_slice().len()))
            .collect();
        for (name, value) in names.into_iter().zip(header.headers.values()) {
            let value = slice(&mut text, value);
            if packed.append_header(name, value).is_err() {
                return header.clone();
            }
        }
    } else {
        for (name, value) in &header.headers {
            let value = slice(&mut text, value);
            if packed.append_header(name, value).is_err() {
                return header.clone();
            }
        }
    }
    packed
}

/// Takes a value's copy from the front of the packed text.
fn slice(text: &mut Bytes, value: &HeaderValue) -> HeaderValue {
    let copy = text.split_to(value.len());
    match HeaderValue::from_maybe_shared(copy) {
        Ok(mut copy) => {
            copy.set_sensitive(value.is_sensitive());
            copy
        }
        // Its bytes are those of a value, so this does not happen.
        Err(_) => value.clone(),
    }
}

/// Whether a client sees no difference if the case of names is not kept. Then it is not: the second map makes every hit
/// dearer.
fn writes_the_same_without_case(header: &ResponseHeader) -> bool {
    let mut with = Vec::new();
    header.header_to_h1_wire(&mut with);
    let mut without = Vec::with_capacity(with.len());
    let mut plain = Vec::with_capacity(with.len());
    for (name, value) in &header.headers {
        plain.push((name.clone(), value.clone()));
    }
    let Ok(mut bare) = ResponseHeader::build_no_case(header.status, Some(plain.len())) else {
        return false;
    };
    for (name, value) in plain {
        if bare.append_header(name, value).is_err() {
            return false;
        }
    }
    bare.header_to_h1_wire(&mut without);
    with == without
}

fn length(header: &ResponseHeader, has_case: bool) -> usize {
    let values: usize = header.headers.values().map(HeaderValue::len).sum();
    let names: usize = if has_case {
        header.case_header_iter().map(|(name, _)| name.as_slice().len()).sum()
    } else {
        0
    };
    values + names
}

/// The whole of an entry: itself, its key and its body with the words that count who has them, and the header.
fn weight_of(key: &Bytes, header: &ResponseHeader, body: &Bytes, marks: &SmallVec<[MarkId; 4]>) -> u64 {
    /// What `Arc` adds to what it holds.
    const COUNTS: usize = 16;
    /// What `Bytes` keeps beside its bytes once they are shared.
    const SHARED: usize = 24;
    let marks = if marks.spilled() {
        allocated(marks.capacity() * size_of::<MarkId>())
    } else {
        0
    };
    let bytes = |length: usize| {
        if length == 0 {
            0
        } else {
            allocated(length) + allocated(SHARED)
        }
    };
    allocated(size_of::<Entry>() + COUNTS)
        + bytes(key.len())
        + bytes(body.len())
        + bytes(length(header, header.has_case()))
        + map_weight(&header.headers, header.has_case())
        + marks
        + PLACE
}

/// The maps of header fields: their tables, and the names that are not standard.
fn map_weight(headers: &HeaderMap, has_case: bool) -> u64 {
    /// One place of the table of positions.
    const POSITION: usize = 4;
    /// One field: its name, its value, its hash and links.
    const FIELD: usize = size_of::<HeaderName>() + size_of::<HeaderValue>() + 32;
    let capacity = headers.capacity();
    // The table of positions has a third more places than there may be fields, as a power of two.
    let positions = (capacity + capacity / 3).next_power_of_two();
    let more = headers.len().saturating_sub(headers.keys_len());
    let one =
        allocated(positions * POSITION) + allocated(capacity * FIELD) + allocated(more.next_power_of_two() * FIELD);
    let names: u64 = headers
        .keys()
        .filter(|name| !is_standard(name))
        .map(|name| allocated(name.as_str().len()) + allocated(24))
        .sum();
    if has_case { 2 * one + names } else { one + names }
}

/// Whether a name is one that the `http` crate has a number for. It does not tell, so this asks for the names that answers
/// mostly have; another one is counted as if it were copied, which errs to the safe side.
fn is_standard(name: &HeaderName) -> bool {
    use http::header as h;
    matches!(
        *name,
        h::CONTENT_TYPE
            | h::CONTENT_LENGTH
            | h::CACHE_CONTROL
            | h::DATE
            | h::ETAG
            | h::LAST_MODIFIED
            | h::EXPIRES
            | h::VARY
            | h::SERVER
            | h::CONTENT_ENCODING
            | h::ACCEPT_RANGES
            | h::LOCATION
            | h::LINK
    )
}

/// Entries for tests of others.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An entry under this key that was never fresh.
    pub fn entry(key: &[u8]) -> std::sync::Arc<Entry> {
        let never = SystemTime::UNIX_EPOCH;
        let header = ResponseHeader::build(200, None).expect("a status");
        std::sync::Arc::new(Entry::new(Ingredients {
            key: Bytes::copy_from_slice(key),
            header: &header,
            body: Bytes::new(),
            lifetime: Lifetime {
                born: never,
                fresh_until: never,
                stale_while_revalidate: 0,
                stale_if_error: 0,
                must_revalidate: false,
                explicit: true,
            },
            marks: SmallVec::new(),
            sequence: 0,
            asked_ms: 0,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetime(fresh_s: u64, windows: u32) -> Lifetime {
        let born = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        Lifetime {
            born,
            fresh_until: born + Duration::from_secs(fresh_s),
            stale_while_revalidate: windows,
            stale_if_error: 0,
            must_revalidate: false,
            explicit: true,
        }
    }

    fn entry(header: &ResponseHeader, body: &[u8], lifetime: Lifetime) -> Entry {
        Entry::new(Ingredients {
            key: Bytes::from_static(b"key"),
            header,
            body: Bytes::copy_from_slice(body),
            lifetime,
            marks: SmallVec::new(),
            sequence: 0,
            asked_ms: 0,
        })
    }

    fn wire(header: &ResponseHeader) -> String {
        let mut wire = Vec::new();
        header.header_to_h1_wire(&mut wire);
        String::from_utf8(wire).expect("text")
    }

    #[test]
    fn a_packed_header_writes_what_the_header_wrote() {
        let mut header = ResponseHeader::build(203, None).expect("a status");
        header.set_reason_phrase(Some("Changed on the way")).expect("a phrase");
        for (name, value) in [
            ("Content-Type", "text/plain"),
            ("X-ODD-case", "1"),
            ("etag", "\"v\""),
            ("ETag", "\"w\""),
        ] {
            header.append_header(name, value).expect("a field");
        }
        let kept = entry(&header, b"body", lifetime(10, 0)).header;
        assert_eq!(wire(&kept), wire(&header));
        assert!(wire(&kept).contains("X-ODD-case: 1"), "{}", wire(&kept));
        assert_eq!(kept.status, 203);
        assert_eq!(kept.get_reason_phrase(), Some("Changed on the way"));
    }

    #[test]
    fn names_in_usual_case_are_kept_without_a_second_map() {
        let mut header = ResponseHeader::build(200, None).expect("a status");
        header.append_header("Content-Type", "text/plain").expect("a field");
        header.append_header("x-lower", "1").expect("a field");
        let kept = entry(&header, b"", lifetime(10, 0)).header;
        assert!(!kept.has_case());
        assert_eq!(wire(&kept), wire(&header));
    }

    #[test]
    fn nothing_of_a_read_buffer_is_kept() {
        let buffer = Bytes::from(vec![b'a'; 4096]);
        let mut header = ResponseHeader::build(200, None).expect("a status");
        let value = HeaderValue::from_maybe_shared(buffer.slice(..8)).expect("a value");
        header.append_header("x-slice", value).expect("a field");
        let kept = entry(&header, b"", lifetime(10, 0));
        drop(header);
        assert_eq!(kept.header.headers["x-slice"], "aaaaaaaa");
        assert!(buffer.is_unique(), "the entry holds the buffer");
    }

    #[test]
    fn a_body_that_has_grown_is_copied_and_one_of_exact_size_is_not() {
        let mut grown = Vec::with_capacity(1000);
        grown.extend_from_slice(b"short");
        let from = grown.as_ptr();
        assert_ne!(exactly(grown).as_ptr(), from);
        let exact = b"exact".to_vec();
        let exact = exact.into_boxed_slice().into_vec();
        let from = exact.as_ptr();
        assert_eq!(exactly(exact).as_ptr(), from);
    }

    #[test]
    fn an_allocation_costs_at_least_what_was_asked_for_and_never_a_quarter_more() {
        for bytes in (1..2000_usize).chain([4096, 4097, 5000, 65_535, 65_536, 65_537, 400_000, 524_288]) {
            let cost = allocated(bytes);
            assert!(cost >= bytes as u64, "{bytes}: {cost}");
            assert!(
                cost <= (bytes as u64 + 15).max(bytes as u64 * 5 / 4 + 16),
                "{bytes}: {cost}"
            );
        }
        assert_eq!(allocated(1024), 1024);
        assert_eq!(allocated(1025), 1280);
        assert_eq!(allocated(0), 0);
    }

    #[test]
    fn an_entry_is_of_use_through_its_windows_and_longer_when_it_can_be_validated() {
        let mut header = ResponseHeader::build(200, None).expect("a status");
        let plain = entry(&header, b"", lifetime(10, 30));
        let since = |until: SystemTime, life: &Lifetime| until.duration_since(life.born).expect("later").as_secs();
        assert_eq!(since(plain.useful_until(), &plain.lifetime), 10 + 30 + 60);
        header.append_header("ETag", "\"v\"").expect("a field");
        let tagged = entry(&header, b"", lifetime(10, 30));
        assert_eq!(since(tagged.useful_until(), &tagged.lifetime), 10 + 30 + 3600);
    }
}
