//! What key services said of tokens, from one process to the next: so an upgrade asks nobody again. Tokens are hashes here.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Entry, Introspectors, lock};
use crate::auth::Invalid;
use crate::auth::jwt::VerifiedToken;
use crate::heritage::{Damaged, Format, Reader, Sections, Sink};

/// What key services said of tokens, each under who was asked and the token's hash.
pub const ANSWERS: Format = Format {
    name: "introspections",
    version: 1,
};

/// Key services whose answers wait for a revision that names them, and for how long.
const WAITING_MOST: usize = 100;
const WAITING_LONGEST: Duration = Duration::from_secs(600);

/// What services said that nobody here has asked for yet; of each as much as one that is in use would remember.
#[derive(Default)]
pub(super) struct Inheritance(HashMap<[u8; 32], Waiting>);

struct Waiting {
    since: Instant,
    answers: Vec<([u8; 32], Entry)>,
}

impl Inheritance {
    /// What this service said. What nobody has claimed for long is forgotten.
    pub(super) fn claim(&mut self, service: &[u8; 32]) -> Vec<([u8; 32], Entry)> {
        self.0.retain(|_, waiting| waiting.since.elapsed() < WAITING_LONGEST);
        self.0
            .remove(service)
            .map(|waiting| waiting.answers)
            .unwrap_or_default()
    }

    fn add(&mut self, service: [u8; 32], digest: [u8; 32], entry: Entry, most: u32) {
        if self.0.len() >= WAITING_MOST && !self.0.contains_key(&service) {
            return;
        }
        let waiting = self.0.entry(service).or_insert_with(|| Waiting {
            since: Instant::now(),
            answers: Vec::new(),
        });
        if waiting.answers.len() < most as usize {
            waiting.answers.push((digest, entry));
        }
    }
}

impl Introspectors {
    /// Hands on what is remembered and may still serve. How many answers.
    ///
    /// # Errors
    /// When the sink takes no more.
    pub fn hand_on(&self, now_ms: u64, sink: &mut Sink<'_>) -> io::Result<usize> {
        let services: Vec<_> = lock(&self.0.services)
            .iter()
            .filter_map(|(id, service)| Some((*id, service.upgrade()?)))
            .collect();
        let mut sections = Sections::new(ANSWERS, sink);
        for (id, service) in services {
            for (digest, entry) in service.answers.iter() {
                // Why a token is bad is for the log of the one who asked: as "inactive" it is as good.
                if entry.stale_until_ms > now_ms {
                    sections.add(|record| {
                        record.fixed(&id);
                        record.fixed(&digest);
                        record.option(entry.verdict.as_ref().ok(), |record, token| token.write(record));
                        record.long(entry.fresh_until_ms);
                        record.long(entry.stale_until_ms);
                    })?;
                }
            }
        }
        sections.end()
    }

    /// Takes answers over from another process. How many.
    ///
    /// # Errors
    /// When the bytes are no answers; then none is taken.
    pub fn inherit(&self, bytes: &[u8]) -> Result<usize, Damaged> {
        let records = Reader::new(bytes).all(|reader| {
            let (service, digest) = (reader.array()?, reader.array()?);
            let verdict = reader.option(VerifiedToken::read)?.map(Arc::new);
            let entry = Entry {
                verdict: verdict.ok_or(Invalid::Inactive),
                fresh_until_ms: reader.long()?,
                stale_until_ms: reader.long()?,
            };
            Ok((service, digest, entry))
        })?;
        let count = records.len();
        let services = lock(&self.0.services);
        let mut inherited = lock(&self.0.inherited);
        for (service, digest, entry) in records {
            match services.get(&service).and_then(Weak::upgrade) {
                Some(known) => known.answers.insert(digest, entry),
                None => inherited.add(service, digest, entry, self.0.settings.entries),
            }
        }
        Ok(count)
    }
}
