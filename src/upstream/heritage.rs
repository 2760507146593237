//! What is known of endpoints, from one process to the next: health, breakers, averages, slow starts.
//!
//! Each process has a clock of its own, so moments go over as distances from now. Requests in flight, connections and the
//! counts of a breaker's window stay where they are.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::breaker::Breaker;
use super::health::Health;
use super::latency::Latency;
use super::{Moment, Registry};
use crate::heritage::{Damaged, Format, Reader, Record, Sections, Sink};
use crate::names::UpstreamName;

/// What is known of endpoints, by upstream and address.
pub const ENDPOINTS: Format = Format {
    name: "endpoints",
    version: 1,
};

/// Endpoints that wait for a revision that has them, in number and in time.
const WAITING_MOST: usize = 100_000;
const WAITING_LONGEST: Duration = Duration::from_secs(600);

/// What another process knew of an endpoint.
pub struct Inherited {
    pub(super) latency: Latency,
    pub(super) health: Health,
    pub(super) breaker: Breaker,
    /// As a moment here; 0: it always had traffic.
    pub(super) joined: u64,
}

/// What another process knew of endpoints that are not here yet.
#[derive(Default)]
pub(super) struct Inheritance {
    endpoints: HashMap<(UpstreamName, SocketAddr), Inherited>,
    since: Option<Instant>,
}

impl Inheritance {
    pub(super) fn add(&mut self, endpoint: (UpstreamName, SocketAddr), inherited: Inherited) {
        if self.endpoints.len() < WAITING_MOST || self.endpoints.contains_key(&endpoint) {
            self.since = Some(Instant::now());
            self.endpoints.insert(endpoint, inherited);
        }
    }

    pub(super) fn claim(&mut self, endpoint: &(UpstreamName, SocketAddr)) -> Option<Inherited> {
        self.endpoints.remove(endpoint)
    }

    /// What nobody has claimed for long is not true any more.
    pub(super) fn forget_old(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() > WAITING_LONGEST) {
            *self = Self::default();
        }
    }
}

impl Registry {
    /// Hands on what is known of endpoints in use. Of how many.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn hand_on(&self, now: Moment, sink: &mut Sink<'_>) -> io::Result<usize> {
        let mut sections = Sections::new(ENDPOINTS, sink);
        for endpoint in self.endpoints() {
            sections.add(|record| {
                record.text(endpoint.upstream().as_str());
                record.text(&endpoint.address().to_string());
                endpoint.write(record, now);
            })?;
        }
        sections.end()
    }

    /// Takes over what another process knew, for endpoints that are here or come soon. Of how many.
    ///
    /// # Errors
    /// When the bytes are not of endpoints; then nothing is taken.
    pub fn inherit(&self, bytes: &[u8], now: Moment) -> Result<usize, Damaged> {
        let records = Reader::new(bytes).all(|reader| {
            let upstream = UpstreamName::from(reader.text()?);
            let address = reader.text()?.parse().map_err(|_| Damaged)?;
            let inherited = Inherited {
                latency: Latency::read(reader, now)?,
                health: Health::read(reader)?,
                breaker: Breaker::read(reader, now)?,
                joined: read_moment(reader, now)?,
            };
            Ok((upstream, address, inherited))
        })?;
        let count = records.len();
        for (upstream, address, inherited) in records {
            self.bequeath(upstream, address, inherited);
        }
        self.changed();
        Ok(count)
    }
}

/// Writes a moment as its distance from now; 0 is none.
pub(super) fn write_moment(record: &mut Record<'_>, micros: u64, now: Moment) {
    let moment = (micros > 0).then(|| Moment::from_micros(micros).from_now(now));
    record.option(moment, |record, distance| record.long(distance.cast_unsigned()));
}

/// Reads what [`write_moment`] wrote, as a moment of this process.
pub(super) fn read_moment(reader: &mut Reader<'_>, now: Moment) -> Result<u64, Damaged> {
    let distance = reader.option(Reader::long)?;
    Ok(distance.map_or(0, |distance| Moment::there(distance.cast_signed(), now).micros()))
}

#[cfg(test)]
mod tests;
