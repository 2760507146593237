//! Counters of this process alone, handed on to the process that comes next.
//!
//! | step                     | what goes over                                         | what the old process does meanwhile        |
//! |--------------------------|--------------------------------------------------------|--------------------------------------------|
//! | [`Throttle::hand_on`]    | every live counter, as its word is                     | serves                                     |
//! | [`Throttle::cut`]        | those that were used since, again as their words are   | serves what it has, accepts nobody         |
//! | [`Legacy::report`]       | what was spent since then, as differences              | finishes; called again and again           |
//!
//! The cut is exact: it is made under the lock of a part of the table, in whose other mode every request spends. So what
//! a request spends is either in the words or in a report, never in both and never in neither.
//!
//! Both processes decide by what they know. What the old one admits after the cut is known to the new one a moment later
//! ([`Throttle::wait_for_spent`]); that moment is by how much the two together can exceed a limit that comes to its end right then.
//! Rejected: the old one asking the new one about each of its last requests, which would be exact but would make
//! requests wait for a process that may hang; and dividing what is left between the two, which refuses requests
//! although something is left.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::counter::{self, Quota, Shape, Spent};
use super::identity::Identity;
use super::table::{Counter, Plain, Table};
use super::window::Time;
use super::zone::Zone;
use super::{Counters, Throttle};
use crate::heritage::{Damaged, Format, Reader, Sections, Sink};

/// Counters as they are.
pub const COUNTERS: Format = Format {
    name: "counters",
    version: 1,
};

/// What was spent of counters since they were handed on.
pub const SPENT: Format = Format {
    name: "spent",
    version: 1,
};

/// How many counters are in one section at most: so many fit.
const AT_ONCE: usize = 8_000;

/// What was spent since the cut, and not reported yet. One entry for each counter and window.
#[derive(Default)]
pub(super) struct Ledger {
    spent: Mutex<HashMap<(Identity, u32), Spent>>,
    changed: Condvar,
}

impl Ledger {
    /// Notes what a request has spent, or with a minus given back. `most` bounds how much is noted: a successor that does
    /// not listen any more is told nothing of what goes beyond.
    #[cold]
    pub(super) fn note(&self, counter: Identity, quota: &Quota, cost: i64, window: u32, now: Time, most: usize) {
        let new = Spent::of(quota, cost, window, now);
        let mut spent = self.spent.lock();
        let full = spent.len() >= most;
        match spent.entry((counter, window)) {
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.amount = known.amount.saturating_add(new.amount);
                known.at = known.at.max(now);
            }
            Entry::Vacant(place) if !full => {
                place.insert(new);
            }
            Entry::Vacant(_) => {}
        }
        drop(spent);
        self.changed.notify_one();
    }
}

/// Counters that another process has too. When it is dropped, this process is on its own again.
pub struct Legacy {
    throttle: Arc<Throttle>,
}

impl Throttle {
    /// Hands every live counter on. How many there were; none if they are shared, for then nobody owns them.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn hand_on(&self, now: Time, sink: &mut Sink<'_>) -> io::Result<usize> {
        let Counters::Own(table) = &self.counters else {
            return Ok(0);
        };
        let mut count = 0;
        let mut batch = Vec::new();
        for part in 0..table.parts() {
            let mut from = Some(usize::MAX);
            while let Some(position) = from {
                from = table.show(part, position, |identity, counter| {
                    if !counter.finished(now) {
                        batch.push(Handed::of(identity, counter));
                    }
                });
                // Nothing is locked here: the other process takes it when it can.
                if batch.len() >= AT_ONCE {
                    count += send(&mut batch, sink)?;
                }
            }
        }
        Ok(count + send(&mut batch, sink)?)
    }

    /// Hands on what was used since [`hand_on`](Self::hand_on). From now on what is spent is for the report.
    ///
    /// # Errors
    /// When the sink takes no more; then nothing is cut.
    pub fn cut(self: &Arc<Self>, sink: &mut Sink<'_>) -> io::Result<Legacy> {
        self.ledger.spent.lock().clear();
        let legacy = Legacy {
            throttle: Arc::clone(self),
        };
        if let Counters::Own(table) = &self.counters {
            let mut batch = Vec::new();
            for part in 0..table.parts() {
                table.cut(part, |identity, counter| batch.push(Handed::of(identity, counter)));
                if batch.len() >= AT_ONCE {
                    send(&mut batch, sink)?;
                }
            }
            send(&mut batch, sink)?;
        }
        Ok(legacy)
    }

    /// Takes counters over from another process, in the place of those that are here. How many.
    ///
    /// # Errors
    /// When the bytes are no counters, or those of a process with another secret; then none is taken.
    pub fn inherit(&self, bytes: &[u8], now: Time) -> Result<usize, Damaged> {
        let (counters, zones) = opened(bytes)?;
        let records = counters.all(|reader| Handed::read(reader, &zones))?;
        let Counters::Own(table) = &self.counters else {
            // Another configuration: Redis knows them, or will.
            return Ok(0);
        };
        let count = records.len();
        for Handed { identity, shape, word } in records {
            table.put(identity, now, Plain::with_word(shape, word));
        }
        Ok(count)
    }

    /// Counts what another process reports. How many counters that concerns.
    ///
    /// # Errors
    /// When the bytes are no report, or that of a process with another secret; then nothing is counted.
    pub fn count_spent(&self, bytes: &[u8], now: Time) -> Result<usize, Damaged> {
        let (report, zones) = opened(bytes)?;
        let records = report.all(|reader| {
            let identity = Identity::from_bytes(reader.array()?);
            let spent = Spent {
                shape: Shape::read(reader, &zones)?,
                window: reader.word()?,
                amount: reader.long()?.cast_signed(),
                at: Time::from_unix_nanos(reader.long()?),
            };
            Ok((identity, spent))
        })?;
        let Counters::Own(table) = &self.counters else {
            return Ok(0);
        };
        let count = records.len();
        for (identity, spent) in records {
            let birth = |_| Plain::new(spent.shape);
            table.with(identity, now, birth, |counter| {
                // The same identity has the same shape; whoever says otherwise is not believed.
                if counter.shape() == spent.shape {
                    counter::add(&counter.word, &spent);
                }
            });
        }
        Ok(count)
    }

    /// Waits until there is something to [`report`](Legacy::report), but no longer than this. Blocks.
    pub fn wait_for_spent(&self, within: Duration) {
        let mut spent = self.ledger.spent.lock();
        (self.ledger.changed).wait_while_for(&mut spent, |spent| spent.is_empty(), within);
    }

    /// From now on as little as possible is held of what many gateways share: what is not spent goes back at once, and what a
    /// request needs is asked for when it comes. For a process that another one has succeeded.
    pub fn make_way(&self) {
        if let Counters::Shared(shared) = &self.counters {
            shared.make_way();
        }
    }
}

impl Legacy {
    /// Reports what was spent since the cut, or since the last report. How many counters that concerns.
    ///
    /// # Errors
    /// When the sink takes no more: there is nobody any more who could count it.
    pub fn report(&mut self, sink: &mut Sink<'_>) -> io::Result<usize> {
        let spent = std::mem::take(&mut *self.throttle.ledger.spent.lock());
        let mut count = 0;
        let mut left: Vec<_> = spent.into_iter().filter(|(_, spent)| spent.amount != 0).collect();
        while !left.is_empty() {
            let rest = left.split_off(left.len().min(AT_ONCE / 2));
            count += send_with_zones(SPENT, sink, |zones, record| {
                for ((identity, window), spent) in &left {
                    record.fixed(&identity.to_bytes());
                    spent.shape.write(record, zones);
                    record.word(*window);
                    record.long(spent.amount.cast_unsigned());
                    record.long(spent.at.unix_nanos());
                }
                left.len()
            })?;
            left = rest;
        }
        Ok(count)
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        if let Counters::Own(table) = &self.throttle.counters {
            table.mend();
        }
        *self.throttle.ledger.spent.lock() = HashMap::new();
    }
}

/// How many counters a ledger notes at most.
pub(super) fn most_noted(table: &Table<Plain>) -> usize {
    table.capacity().saturating_mul(2)
}

/// A counter as it goes over.
struct Handed {
    identity: Identity,
    shape: Shape,
    word: u64,
}

impl Handed {
    fn of(identity: Identity, counter: &Plain) -> Self {
        Self {
            identity,
            shape: counter.shape(),
            word: counter.word.load(super::atomic::Ordering::Relaxed),
        }
    }

    fn read(reader: &mut Reader<'_>, zones: &[Zone]) -> Result<Self, Damaged> {
        Ok(Self {
            identity: Identity::from_bytes(reader.array()?),
            shape: Shape::read(reader, zones)?,
            word: reader.long()?,
        })
    }
}

fn send(batch: &mut Vec<Handed>, sink: &mut Sink<'_>) -> io::Result<usize> {
    let mut count = 0;
    for part in batch.chunks(AT_ONCE) {
        count += send_with_zones(COUNTERS, sink, |zones, record| {
            for counter in part {
                record.fixed(&counter.identity.to_bytes());
                counter.shape.write(record, zones);
                record.long(counter.word);
            }
            part.len()
        })?;
    }
    batch.clear();
    Ok(count)
}

/// One section: how identities are hashed, the zones that are meant, the records.
fn send_with_zones(
    format: Format,
    sink: &mut Sink<'_>,
    write: impl FnOnce(&mut Vec<Zone>, &mut crate::heritage::Record<'_>) -> usize,
) -> io::Result<usize> {
    let (mut zones, mut bytes) = (Vec::new(), Vec::new());
    let count = write(&mut zones, &mut crate::heritage::Record::new(&mut bytes));
    if count == 0 {
        return Ok(0);
    }
    let mut sections = Sections::new(format, sink);
    sections.add(|record| {
        record.fixed(&proof());
        record.short(u16::try_from(zones.len()).unwrap_or(u16::MAX));
        for zone in &zones {
            record.text(zone.name());
        }
        record.fixed(&bytes);
    })?;
    sections.end()?;
    Ok(count)
}

/// Begins to read such a section. Its identities mean something here only if they were hashed as they are here.
fn opened(bytes: &[u8]) -> Result<(Reader<'_>, Vec<Zone>), Damaged> {
    let mut reader = Reader::new(bytes);
    if reader.array()? != proof() {
        return Err(Damaged);
    }
    let zones = (0..reader.short()?)
        .map(|_| {
            let name = reader.text()?;
            // UTC's own name would be looked up like any other.
            let zone = if name == Zone::UTC.name() {
                Some(Zone::UTC)
            } else {
                Zone::named(name)
            };
            zone.ok_or(Damaged)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok((reader, zones))
}

/// What tells whether another process hashes identities as this one does, without telling how.
fn proof() -> [u8; 16] {
    Identity::of_parts(&[b"tollgate", b"how identities are hashed"]).to_bytes()
}

#[cfg(test)]
mod tests;
