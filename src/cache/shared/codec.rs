//! What is kept of an answer in Redis: a record that says how long it is, whose it is, and whether it is whole.
//!
//! ```text
//! "tgc1"  checksum u32  kind u8  packing u8  length u32  payload
//! ```
//!
//! Numbers are little-endian. The checksum (CRC-32) is of everything behind it. `length` is that of the payload before it
//! was packed: it is compared with a bound before a byte is unpacked, so that no record takes more memory than it may. The
//! last byte of the first four is the version: a record of another one is not looked at. What can not be read is a miss,
//! whatever is wrong with it; the full key stands inside, and a record under the right name with another key is one too.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Version};
use pingora::http::ResponseHeader;

use super::super::entry::{Entry, Ingredients};
use super::super::freshness::Lifetime;
use super::super::marks::MarkId;

/// Records of this version, and no other.
const MAGIC: [u8; 4] = *b"tgc1";
const HEAD: usize = 14;
/// Where what the checksum is of begins.
const CHECKED: usize = 8;

const VARIES: u8 = 1;
const ENTRY: u8 = 2;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// A payload below this is not worth packing.
const PACK_FROM: usize = 512;
/// Faster than the network, and nearly as good as the levels above it on text.
const LEVEL: i32 = 1;
/// How many times as large as its record an answer may be; what packs better than that is not shared.
const UNPACKED: usize = 16;
/// More fields than this no answer has.
const FIELDS: usize = 4_096;

/// From so many bytes on, packing and unpacking takes longer than who waits on the same thread should.
pub(super) const LARGE: usize = 64 << 10;

/// What stands under a key.
#[derive(Debug)]
pub(super) enum Record {
    /// Answers differ by these fields of the request: look under the key that contains them.
    Varies(Arc<[HeaderName]>),
    /// An answer.
    Entry(Box<Entry>),
}

/// Why there is no record, or nothing can be read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is larger than a record may be.
    TooLarge,
    /// It is of another version, damaged, or cut short.
    Broken,
    /// It is whole, and somebody else's.
    Foreign,
}

/// Whether an answer is larger than any record of at most `most` bytes can hold.
pub(super) fn is_too_large(entry: &Entry, most: usize) -> bool {
    entry.header.headers.len() > FIELDS || entry.body.len() > most.saturating_mul(UNPACKED)
}

/// The record of an answer, of at most `most` bytes.
pub(super) fn entry(entry: &Entry, most: usize) -> Result<Vec<u8>, Unfit> {
    let header = &entry.header;
    if is_too_large(entry, most) {
        return Err(Unfit::TooLarge);
    }
    let mut payload = Writer(Vec::with_capacity(entry.body.len() + 1_024));
    payload.bytes(&entry.key);
    payload.header(header);
    let lifetime = &entry.lifetime;
    payload.time(lifetime.born);
    payload.time(lifetime.fresh_until);
    payload.u32(lifetime.stale_while_revalidate);
    payload.u32(lifetime.stale_if_error);
    payload.u8(u8::from(lifetime.must_revalidate) | u8::from(lifetime.explicit) << 1);
    payload.u64(entry.asked_ms);
    payload.count(entry.marks.len());
    for mark in &entry.marks {
        payload.u64(mark.0);
    }
    payload.bytes(&entry.body);
    sealed(ENTRY, &payload.0, most)
}

/// The record under a key without a variant that says by which fields of the request answers differ.
pub(super) fn varies(base: &[u8], fields: &[HeaderName], most: usize) -> Result<Vec<u8>, Unfit> {
    if fields.len() > FIELDS {
        return Err(Unfit::TooLarge);
    }
    let mut payload = Writer(Vec::with_capacity(base.len() + 64));
    payload.bytes(base);
    payload.count(fields.len());
    for field in fields {
        payload.bytes(field.as_str().as_bytes());
    }
    sealed(VARIES, &payload.0, most)
}

/// How long what a record holds says it is, unpacked.
pub(super) fn length(record: &[u8]) -> usize {
    let length = record.get(HEAD - 4..HEAD).and_then(|bytes| bytes.first_chunk());
    length.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
}

/// What a record under this key says; one larger than `most` is not read. `sequence` is that of this process's marks
/// before the record was asked for.
pub(super) fn read(key: &[u8], record: &[u8], sequence: u64, most: usize) -> Result<Record, Unfit> {
    let (kind, payload) = unsealed(record, most)?;
    let mut reader = Reader(&payload);
    if reader.bytes().ok_or(Unfit::Broken)? != key {
        return Err(Unfit::Foreign);
    }
    let record = match kind {
        VARIES => reader.fields().map(Record::Varies),
        ENTRY => reader.entry(key, sequence).map(Box::new).map(Record::Entry),
        _ => None,
    };
    record.filter(|_| reader.0.is_empty()).ok_or(Unfit::Broken)
}

fn sealed(kind: u8, payload: &[u8], most: usize) -> Result<Vec<u8>, Unfit> {
    let length = u32::try_from(payload.len()).map_err(|_| Unfit::TooLarge)?;
    if payload.len() > most.saturating_mul(UNPACKED) {
        return Err(Unfit::TooLarge);
    }
    // What hardly gets smaller (images, what is packed already) is kept as it is: reading it is then a copy.
    let packed = (payload.len() >= PACK_FROM)
        .then(|| zstd::bulk::compress(payload, LEVEL).ok())
        .flatten()
        .filter(|packed| packed.len() < payload.len() - payload.len() / 8);
    let (packing, kept) = match &packed {
        Some(packed) => (ZSTD, packed.as_slice()),
        None => (PLAIN, payload),
    };
    if HEAD + kept.len() > most {
        return Err(Unfit::TooLarge);
    }
    let mut record = Vec::with_capacity(HEAD + kept.len());
    record.extend_from_slice(&MAGIC);
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&[kind, packing]);
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(kept);
    let checksum = crc32fast::hash(record.get(CHECKED..).unwrap_or_default());
    if let Some(place) = record.get_mut(MAGIC.len()..CHECKED) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
    Ok(record)
}

fn unsealed(record: &[u8], most: usize) -> Result<(u8, Vec<u8>), Unfit> {
    if record.len() > most {
        return Err(Unfit::TooLarge);
    }
    let checked = record.get(CHECKED..).ok_or(Unfit::Broken)?;
    let mut head = Reader(record);
    if head.array() != Some(MAGIC) || head.u32() != Some(crc32fast::hash(checked)) {
        return Err(Unfit::Broken);
    }
    let kind = head.u8().ok_or(Unfit::Broken)?;
    let packing = head.u8().ok_or(Unfit::Broken)?;
    let length = head.u32().ok_or(Unfit::Broken)? as usize;
    if length > most.saturating_mul(UNPACKED) {
        return Err(Unfit::TooLarge);
    }
    let payload = match packing {
        PLAIN => head.0.to_vec(),
        ZSTD => zstd::bulk::decompress(head.0, length).map_err(|_| Unfit::Broken)?,
        _ => return Err(Unfit::Broken),
    };
    if payload.len() == length {
        Ok((kind, payload))
    } else {
        Err(Unfit::Broken)
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn header(&mut self, header: &ResponseHeader) {
        self.u8(version_number(header.version));
        self.u16(header.status.as_u16());
        // Empty: the usual one.
        let phrase = header.get_reason_phrase();
        let own = phrase.filter(|_| phrase != header.status.canonical_reason());
        self.bytes(own.unwrap_or_default().as_bytes());
        self.u8(u8::from(header.has_case()));
        self.count(header.headers.len());
        if header.has_case() {
            for (name, value) in header.case_header_iter() {
                self.bytes(name.as_slice());
                self.bytes(value.as_bytes());
            }
        } else {
            for (name, value) in &header.headers {
                self.bytes(name.as_str().as_bytes());
                self.bytes(value.as_bytes());
            }
        }
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A length. One that does not fit makes a record that is too large in any case.
    fn count(&mut self, value: usize) {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Nanoseconds of unix time, which last for 292 years in either direction; what is beyond is taken for the end.
    fn time(&mut self, time: SystemTime) {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let nanos = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => nanos(after),
            Err(before) => -nanos(before.duration()),
        };
        self.0.extend_from_slice(&nanos.to_le_bytes());
    }
}

/// What is left to be read. Nothing is read beyond the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn entry(&mut self, key: &[u8], sequence: u64) -> Option<Entry> {
        let header = self.header()?;
        let born = self.time()?;
        let fresh_until = self.time()?;
        let stale_while_revalidate = self.u32()?;
        let stale_if_error = self.u32()?;
        let flags = self.u8()?;
        let asked_ms = self.u64()?;
        let marks = (0..self.count()?)
            .map(|_| self.u64().map(MarkId))
            .collect::<Option<_>>()?;
        // Copied, so that what is kept is what is counted, and not all of the record beside it.
        let body = Bytes::copy_from_slice(self.bytes()?);
        Some(Entry::new(Ingredients {
            key: Bytes::copy_from_slice(key),
            header: &header,
            body,
            lifetime: Lifetime {
                born,
                fresh_until,
                stale_while_revalidate,
                stale_if_error,
                must_revalidate: flags & 1 != 0,
                explicit: flags & 2 != 0,
            },
            marks,
            sequence,
            asked_ms,
        }))
    }

    fn header(&mut self) -> Option<ResponseHeader> {
        let version = version(self.u8()?)?;
        let status = self.u16()?;
        let phrase = self.text()?;
        let has_case = self.u8()? != 0;
        let fields = self.count()?;
        let built = if has_case {
            ResponseHeader::build(status, Some(fields))
        } else {
            ResponseHeader::build_no_case(status, Some(fields))
        };
        let mut header = built.ok()?;
        header.set_version(version);
        if !phrase.is_empty() {
            header.set_reason_phrase(Some(phrase)).ok()?;
        }
        for _ in 0..fields {
            let name = self.text()?;
            let value = HeaderValue::from_bytes(self.bytes()?).ok()?;
            header.append_header(name.to_owned(), value).ok()?;
        }
        Some(header)
    }

    fn fields(&mut self) -> Option<Arc<[HeaderName]>> {
        let fields = self.count()?;
        (0..fields)
            .map(|_| HeaderName::from_bytes(self.bytes()?).ok())
            .collect()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// How many follow. No more than a record may have: room is made for them before they are read.
    fn count(&mut self) -> Option<usize> {
        self.u32().map(|count| count as usize).filter(|count| *count <= FIELDS)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn time(&mut self) -> Option<SystemTime> {
        let nanos = i64::from_le_bytes(self.array()?);
        let distance = Duration::from_nanos(nanos.unsigned_abs());
        if nanos < 0 {
            UNIX_EPOCH.checked_sub(distance)
        } else {
            UNIX_EPOCH.checked_add(distance)
        }
    }
}

/// As in `HTTP/1.1`, times ten.
fn version_number(version: Version) -> u8 {
    match version {
        Version::HTTP_09 => 9,
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        Version::HTTP_3 => 30,
        _ => 11,
    }
}

fn version(number: u8) -> Option<Version> {
    Some(match number {
        9 => Version::HTTP_09,
        10 => Version::HTTP_10,
        11 => Version::HTTP_11,
        20 => Version::HTTP_2,
        30 => Version::HTTP_3,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 1 << 20;

    fn build(
        key: Vec<u8>,
        (status, phrase, fields): (u16, Option<String>, Vec<(String, String)>),
        lifetime: Lifetime,
        (marks, asked_ms): (Vec<u64>, u64),
        body: Vec<u8>,
    ) -> Entry {
        let mut header = ResponseHeader::build(status, None).unwrap();
        if let Some(phrase) = &phrase {
            header.set_reason_phrase(Some(phrase)).unwrap();
        }
        for (name, value) in fields {
            header.append_header(name, value).unwrap();
        }
        Entry::new(Ingredients {
            key: key.into(),
            header: &header,
            body: body.into(),
            lifetime,
            marks: marks.into_iter().map(MarkId).collect(),
            sequence: 7,
            asked_ms,
        })
    }

    fn time() -> impl Strategy<Value = SystemTime> {
        any::<i32>().prop_map(|seconds| {
            let distance = Duration::new(u64::from(seconds.unsigned_abs()), 5);
            if seconds < 0 {
                UNIX_EPOCH - distance
            } else {
                UNIX_EPOCH + distance
            }
        })
    }

    fn lifetime() -> impl Strategy<Value = Lifetime> {
        (time(), time(), any::<[u32; 2]>(), any::<[bool; 2]>()).prop_map(
            |(born, fresh_until, [stale_while_revalidate, stale_if_error], [must_revalidate, explicit])| Lifetime {
                born,
                fresh_until,
                stale_while_revalidate,
                stale_if_error,
                must_revalidate,
                explicit,
            },
        )
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        (
            prop::collection::vec(any::<u8>(), 0..80),
            (
                100_u16..600,
                prop::option::of("[A-Za-z]{1,9}"),
                prop::collection::vec(("[A-Za-z][A-Za-z-]{0,12}", "[!-~]{0,30}"), 0..12),
            ),
            lifetime(),
            (prop::collection::vec(any::<u64>(), 0..9), any::<u64>()),
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3_000),
                (any::<u8>(), 0_usize..9_000).prop_map(|(byte, length)| vec![byte; length]),
            ],
        )
            .prop_map(|(key, head, lifetime, marks, body)| build(key, head, lifetime, marks, body))
    }

    fn same(one: &Entry, other: &Entry) -> bool {
        let wire = |entry: &Entry| {
            let mut wire = Vec::new();
            entry.header.header_to_h1_wire(&mut wire);
            let head = (entry.header.status, entry.header.version);
            (wire, head, entry.header.get_reason_phrase().map(str::to_owned))
        };
        (&one.key, &one.body, wire(one), one.weight()) == (&other.key, &other.body, wire(other), other.weight())
            && (one.lifetime, &one.marks, one.asked_ms) == (other.lifetime, &other.marks, other.asked_ms)
    }

    proptest! {
        #[test]
        fn every_entry_comes_back_as_it_was(entry in any_entry()) {
            let record = super::entry(&entry, MOST).unwrap();
            let Ok(Record::Entry(back)) = read(&entry.key, &record, 42, MOST) else {
                panic!("not read");
            };
            prop_assert!(same(&entry, &back), "{entry:?} became {back:?}");
            prop_assert_eq!(back.sequence, 42);
        }

        #[test]
        fn a_record_in_which_any_byte_is_another_or_missing_is_a_miss(
            entry in any_entry(), at in any::<prop::sample::Index>(), flip in 1..=255_u8, cut in any::<bool>()
        ) {
            let mut record = super::entry(&entry, MOST).unwrap();
            let at = at.index(record.len());
            if cut { record.truncate(at) } else { record[at] ^= flip }
            prop_assert!(read(&entry.key, &record, 0, MOST).is_err());
        }

        #[test]
        fn bytes_that_pass_for_a_record_are_read_without_a_panic(
            kind in 0..4_u8, payload in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let record = sealed(kind, &payload, MOST).unwrap();
            let key = payload.get(4..).unwrap_or_default();
            let _ = read(key, &record, 0, MOST);
            let _ = read(b"", &payload, 0, MOST);
        }

        #[test]
        fn fields_come_back_as_they_were(names in prop::collection::vec("[a-z][a-z-]{0,20}", 0..10)) {
            let names: Vec<HeaderName> = names.iter().map(|name| name.parse().unwrap()).collect();
            let record = varies(b"key", &names, MOST).unwrap();
            let Ok(Record::Varies(back)) = read(b"key", &record, 0, MOST) else {
                panic!("not read");
            };
            prop_assert_eq!(&back[..], &names[..]);
        }
    }

    fn plain(body: Vec<u8>) -> Entry {
        let lifetime = Lifetime {
            born: UNIX_EPOCH,
            fresh_until: UNIX_EPOCH,
            stale_while_revalidate: 0,
            stale_if_error: 0,
            must_revalidate: false,
            explicit: true,
        };
        build(b"key".to_vec(), (200, None, vec![]), lifetime, (vec![], 1), body)
    }

    #[test]
    fn the_record_of_another_key_is_a_miss_although_it_is_whole() {
        let record = entry(&plain(b"body".to_vec()), MOST).unwrap();
        assert!(matches!(read(b"other", &record, 0, MOST), Err(Unfit::Foreign)));
        let record = varies(b"key", &[], MOST).unwrap();
        assert!(matches!(read(b"kez", &record, 0, MOST), Err(Unfit::Foreign)));
    }

    #[test]
    fn a_record_of_another_version_is_a_miss() {
        let mut record = entry(&plain(b"body".to_vec()), MOST).unwrap();
        record[3] = b'2';
        assert!(matches!(read(b"key", &record, 0, MOST), Err(Unfit::Broken)));
    }

    #[test]
    fn text_is_packed_and_noise_is_not() {
        let text = "a story that is told again and again. ".repeat(1_000).into_bytes();
        assert!(entry(&plain(text.clone()), MOST).unwrap().len() < text.len() / 5);
        let noise: Vec<u8> = (0..40_000).map(|_| rand::random()).collect();
        let record = entry(&plain(noise.clone()), MOST).unwrap();
        assert_eq!(record[9], PLAIN);
        assert!(record.len() > noise.len());
    }

    #[test]
    fn what_is_too_large_is_neither_written_nor_unpacked() {
        let noise: Vec<u8> = (0..4_000).map(|_| rand::random()).collect();
        assert_eq!(entry(&plain(noise), 3_000).unwrap_err(), Unfit::TooLarge);
        // It packs to next to nothing, and would be a bomb.
        let zeros = plain(vec![0; 100_000]);
        assert_eq!(entry(&zeros, 4_000).unwrap_err(), Unfit::TooLarge);
        let record = entry(&zeros, MOST).unwrap();
        assert!(record.len() < 1_000);
        assert!(matches!(read(b"key", &record, 0, 4_000), Err(Unfit::TooLarge)));
        assert!(matches!(
            read(b"key", &record, 0, record.len() - 1),
            Err(Unfit::TooLarge)
        ));
        assert!(read(b"key", &record, 0, 10_000).is_ok());
    }

    #[test]
    fn a_record_that_lies_about_its_length_is_a_miss() {
        let mut record = entry(&plain(vec![b'a'; 5_000]), MOST).unwrap();
        record[10..14].copy_from_slice(&4_000_u32.to_le_bytes());
        let checksum = crc32fast::hash(&record[CHECKED..]);
        record[4..8].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(read(b"key", &record, 0, MOST), Err(Unfit::Broken)));
    }
}
