//! Where names are, from one process to the next, with what is left of the time that DNS gave them.

use std::io;
use std::time::Instant;

use super::dns::PLACES_MAX;
use super::{Discovery, Found, Known, RETRY_MAX, is_name};
use crate::heritage::{Damaged, Format, Reader, Record, Sections, Sink};
use crate::revision::Locator;

/// Names and where they are.
pub const NAMES: Format = Format {
    name: "names",
    version: 1,
};

/// Names that are taken over at most.
const NAMES_MOST: usize = 10_000;

impl Discovery {
    /// Hands on where names are. How many.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn hand_on(&self, sink: &mut Sink<'_>) -> io::Result<usize> {
        let now = Instant::now();
        let known: Vec<_> = (self.known().iter())
            .filter(|(_, known)| !known.places.is_empty())
            .map(|(locator, known)| {
                let left = known.due.saturating_duration_since(now);
                (locator.clone(), known.places.clone(), left, known.failures, known.gone)
            })
            .collect();
        let mut sections = Sections::new(NAMES, sink);
        for (locator, places, left, failures, gone) in known {
            sections.add(|record| {
                write_locator(record, &locator);
                record.duration(left);
                record.word(failures);
                record.byte(u8::from(gone));
                record.word(u32::try_from(places.len()).unwrap_or(u32::MAX));
                for place in &places {
                    record.text(&place.address.to_string());
                    record.option(place.weight, Record::short);
                    record.short(place.priority);
                }
            })?;
        }
        sections.end()
    }

    /// Takes over where another process knew names to be, unless that is known here already. How many.
    ///
    /// # Errors
    /// When the bytes are not of names; then nothing is taken.
    pub fn inherit(&self, bytes: &[u8]) -> Result<usize, Damaged> {
        let now = Instant::now();
        let longest = self.ttl.1.mul_f64(1.1).max(RETRY_MAX);
        let records = Reader::new(bytes).all(|reader| {
            let locator = read_locator(reader)?;
            let known = Known {
                due: now + reader.duration()?.min(longest),
                failures: reader.word()?,
                gone: reader.flag()?,
                places: (0..reader.word()?)
                    .map(|_| read_place(reader))
                    .collect::<Result<_, _>>()?,
                ..Known::nothing(now)
            };
            Ok((locator, known))
        })?;
        let mut all = self.known();
        let mut count = 0;
        for (locator, known) in records {
            let fits = is_name(&locator) && (1..=PLACES_MAX).contains(&known.places.len());
            if fits && all.len() < NAMES_MOST && all.get(&locator).is_none_or(|known| known.places.is_empty()) {
                all.insert(locator, known);
                count += 1;
            }
        }
        Ok(count)
    }
}

fn write_locator(record: &mut Record<'_>, locator: &Locator) {
    match locator {
        Locator::Host { host, port } => {
            record.byte(0);
            record.text(host);
            record.short(*port);
        }
        Locator::Service(name) => {
            record.byte(1);
            record.text(name);
        }
    }
}

fn read_locator(reader: &mut Reader<'_>) -> Result<Locator, Damaged> {
    match reader.byte()? {
        0 => Ok(Locator::Host {
            host: reader.text()?.to_owned(),
            port: reader.short()?,
        }),
        1 => Ok(Locator::Service(reader.text()?.to_owned())),
        _ => Err(Damaged),
    }
}

fn read_place(reader: &mut Reader<'_>) -> Result<Found, Damaged> {
    Ok(Found {
        address: reader.text()?.parse().map_err(|_| Damaged)?,
        weight: reader.option(Reader::short)?,
        priority: reader.short()?,
    })
}
