//! What one process leaves to the next, as bytes: sections, each with a name and the version of its format.
//!
//! Both processes run on one machine, but not always the same program: numbers are little endian, a section that is not
//! known is left out, and what can not be read is refused as a whole, section by section. Rejected: JSON, which would
//! be five times as long for a million counters, and a derived binary format, whose bytes are whatever the crate's next
//! version makes of them.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

/// The most bytes of a section. What there is more of comes in several sections of the same name.
pub const SECTION_BYTES: usize = 256 << 10;

/// A part of what is handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What it is about.
    pub name: Cow<'static, str>,
    /// The version of its format.
    pub version: u16,
    /// At most [`SECTION_BYTES`].
    pub bytes: Vec<u8>,
}

/// A kind of section: its name, and the version that this program writes and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// What it is about.
    pub name: &'static str,
    /// Another number for every change of what the bytes mean.
    pub version: u16,
}

/// Where sections go: to the other process. It may block, so nothing is locked while it is called.
pub type Sink<'a> = dyn FnMut(Section) -> io::Result<()> + 'a;

/// A section that can not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damaged;

/// Writes records into sections of one format, none of which is longer than it may be.
pub struct Sections<'a> {
    sink: &'a mut Sink<'a>,
    format: Format,
    bytes: Vec<u8>,
    records: usize,
}

impl<'a> Sections<'a> {
    /// Nothing is sent before there is a record.
    pub fn new(format: Format, sink: &'a mut Sink<'_>) -> Self {
        Self {
            sink,
            format,
            bytes: Vec::new(),
            records: 0,
        }
    }

    /// Adds a record. One that would not fit into a section of its own is left out: what is that long is learnt anew.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn add(&mut self, write: impl FnOnce(&mut Record<'_>)) -> io::Result<()> {
        let before = self.bytes.len();
        write(&mut Record(&mut self.bytes));
        let length = self.bytes.len() - before;
        if length > SECTION_BYTES {
            self.bytes.truncate(before);
            return Ok(());
        }
        self.records += 1;
        if self.bytes.len() > SECTION_BYTES {
            let rest = self.bytes.split_off(before);
            self.send()?;
            self.bytes = rest;
        }
        Ok(())
    }

    /// Sends what is left. How many records there were.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn end(mut self) -> io::Result<usize> {
        if !self.bytes.is_empty() {
            self.send()?;
        }
        Ok(self.records)
    }

    fn send(&mut self) -> io::Result<()> {
        (self.sink)(Section {
            name: Cow::Borrowed(self.format.name),
            version: self.format.version,
            bytes: std::mem::take(&mut self.bytes),
        })
    }
}

/// A record while it is written.
pub struct Record<'a>(&'a mut Vec<u8>);

impl<'a> Record<'a> {
    /// Writes to the end of these bytes.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    /// One byte.
    pub fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes.
    pub fn short(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn word(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn long(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A duration, in microseconds.
    pub fn duration(&mut self, value: Duration) {
        self.long(u64::try_from(value.as_micros()).unwrap_or(u64::MAX));
    }

    /// Bytes whose number the reader knows.
    pub fn fixed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes with their number. So many that they would not fit are cut off, and the record is too long then anyway.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.fixed(bytes);
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Something or nothing.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

/// What is left to read of a section.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// So many bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    /// As many bytes as the array has.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// When there is none.
    pub fn byte(&mut self) -> Result<u8, Damaged> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn short(&mut self) -> Result<u16, Damaged> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn word(&mut self) -> Result<u32, Damaged> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn long(&mut self) -> Result<u64, Damaged> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A duration.
    ///
    /// # Errors
    /// When there is none.
    pub fn duration(&mut self) -> Result<Duration, Damaged> {
        Ok(Duration::from_micros(self.long()?))
    }

    /// Bytes with their number.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let count = self.word()?;
        self.take(usize::try_from(count).map_err(|_| Damaged)?)
    }

    /// A text.
    ///
    /// # Errors
    /// When it is cut off, or no UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damaged)
    }

    /// A yes or no.
    ///
    /// # Errors
    /// When it is neither.
    pub fn flag(&mut self) -> Result<bool, Damaged> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged),
        }
    }

    /// Something or nothing.
    ///
    /// # Errors
    /// When it is neither, or can not be read.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Damaged>) -> Result<Option<T>, Damaged> {
        self.flag()?.then(|| read(self)).transpose()
    }

    /// Every record of a section, or none if one of them can not be read.
    ///
    /// # Errors
    /// When one can not be read.
    pub fn all<T>(mut self, mut read: impl FnMut(&mut Self) -> Result<T, Damaged>) -> Result<Vec<T>, Damaged> {
        let mut records = Vec::new();
        while !self.is_empty() {
            let before = self.0.len();
            records.push(read(&mut self)?);
            // A record without bytes would never end.
            if self.0.len() == before {
                return Err(Damaged);
            }
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format {
        name: "test",
        version: 3,
    };

    #[test]
    fn records_come_back_as_they_were_and_no_section_is_longer_than_it_may_be() {
        let mut sections = Vec::new();
        let mut sink = |section: Section| {
            sections.push(section);
            Ok(())
        };
        let mut out = Sections::new(FORMAT, &mut sink);
        for number in 0..40_000_u32 {
            out.add(|record| {
                record.word(number);
                record.option((number % 2 == 0).then_some("even"), Record::text);
                record.duration(Duration::from_millis(number.into()));
            })
            .unwrap();
        }
        out.add(|record| record.bytes(&vec![0; SECTION_BYTES])).unwrap();
        assert_eq!(out.end().unwrap(), 40_000, "what does not fit is left out");
        assert!(sections.len() > 1);
        let mut numbers = 0..40_000_u32;
        for section in &sections {
            assert!(section.bytes.len() <= SECTION_BYTES);
            assert_eq!((section.name.as_ref(), section.version), ("test", 3));
            let records = Reader::new(&section.bytes).all(|reader| {
                Ok((
                    reader.word()?,
                    reader.option(|reader| reader.text().map(str::to_owned))?,
                    reader.duration()?,
                ))
            });
            for (number, even, duration) in records.unwrap() {
                assert_eq!(Some(number), numbers.next());
                assert_eq!(even.is_some(), number % 2 == 0);
                assert_eq!(duration, Duration::from_millis(number.into()));
            }
        }
        assert_eq!(numbers.next(), None);
    }

    #[test]
    fn a_length_that_promises_more_than_there_is_takes_no_memory() {
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 1, 2]);
        assert_eq!(reader.bytes(), Err(Damaged));
        assert_eq!(
            Reader::new(&[1]).all(|_| Ok(())),
            Err(Damaged),
            "a record without bytes is no record"
        );
    }
}
