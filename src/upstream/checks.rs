//! Asks endpoints how they are: one task for all of them.
//!
//! It knows who is asked when ([`schedule`]), and has a task for a check only while that runs. What an endpoint's checks
//! have shown stays with the endpoint, so that a revision begins nothing anew; only what it says about checks is taken over.

mod probe;
mod schedule;
mod tls;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::task::JoinSet;

use self::probe::{Manner, Question};
use self::schedule::{Schedule, again, first};
use super::health::Turn;
use super::{Endpoint, Member, Moment, Registry, Upstream};
use crate::names::UpstreamName;
use crate::telemetry::upstream_metrics::CheckCounters;

/// Checks at a time. Half of two thousand endpoints may be silent for the five seconds of a check, every ten seconds, and
/// the others are asked on time. Each takes a socket and some ten kilobytes.
const RUNNING_MAX: usize = 512;

/// How often it is looked at who is to be asked, beside when a revision arrives: DNS brings endpoints too.
const LOOK: Duration = Duration::from_secs(1);

/// Who asks endpoints how they are.
pub struct Checks {
    registry: Arc<Registry>,
    upstreams: HashMap<UpstreamName, Known>,
    slots: HashMap<u32, Slot>,
    schedule: Schedule<u32>,
    running: JoinSet<Done>,
    /// Who is being asked, by id.
    asked: HashSet<u32>,
}

/// An upstream whose endpoints are asked.
struct Known {
    /// As the newest revision has it.
    upstream: Weak<Upstream>,
    manner: Arc<Manner>,
    counters: CheckCounters,
    /// It is another one than when its endpoints were looked at last.
    is_new: bool,
}

/// An endpoint that is asked.
struct Slot {
    endpoint: Weak<Endpoint>,
    label: Arc<str>,
    upstream: UpstreamName,
    question: Question,
}

/// A check that is over.
struct Done {
    id: u32,
    started: Instant,
    outcome: Result<(), String>,
}

impl Checks {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            upstreams: HashMap::new(),
            slots: HashMap::new(),
            schedule: Schedule::new(),
            running: JoinSet::new(),
            asked: HashSet::new(),
        }
    }

    /// Asks for as long as the process lives, also while it leaves: requests in flight may have to be tried elsewhere.
    pub async fn run(mut self) {
        let mut look = Instant::now();
        loop {
            let now = Instant::now();
            if look <= now {
                self.look(now).await;
                look = now + LOOK;
            }
            self.start_due(now);
            let has_room = self.running.len() < RUNNING_MAX;
            let next = self.schedule.next().filter(|_| has_room);
            let until = next.map_or(look, |next| next.min(look));
            tokio::select! {
                () = self.registry.arrived() => look = now,
                Some(Ok(done)) = self.running.join_next() => self.note(&done, Instant::now()),
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// Takes over what revisions and DNS have changed.
    async fn look(&mut self, now: Instant) {
        let mut upstreams = self.registry.newest();
        upstreams.retain(|upstream| upstream.terms().health_check.is_some());
        self.learn(&upstreams).await;
        let mut seen = HashSet::with_capacity(self.slots.len());
        for upstream in &upstreams {
            let Some(known) = self.upstreams.get_mut(upstream.name()) else {
                continue;
            };
            let is_new = std::mem::take(&mut known.is_new);
            let manner = Arc::clone(&known.manner);
            let mut hosts = None;
            for member in upstream.view().members() {
                let id = member.endpoint.id();
                if !seen.insert(id) || (!is_new && self.slots.contains_key(&id)) {
                    continue;
                }
                let hosts = hosts.get_or_insert_with(|| upstream.hosts());
                let address = member.endpoint.address();
                let host = hosts.get(&address).cloned();
                let party = manner.party(&host.unwrap_or_else(|| address.ip().to_string()), address);
                let question = Question {
                    manner: Arc::clone(&manner),
                    party: Arc::new(party),
                };
                self.take_in(upstream.name(), member, question, now);
            }
        }
        self.leave_out(&seen);
    }

    /// All others are not asked any more. One may live on without checks, or as long as a request is there.
    fn leave_out(&mut self, seen: &HashSet<u32>) {
        let schedule = &mut self.schedule;
        let mut were_down = false;
        self.slots.retain(|id, slot| {
            let stays = seen.contains(id);
            if !stays {
                schedule.remove(*id);
                were_down |= slot
                    .endpoint
                    .upgrade()
                    .is_some_and(|endpoint| endpoint.health().forget());
            }
            stays
        });
        if were_down {
            self.registry.changed();
        }
    }

    /// What upstreams say of checks, where that is new. Certificates may have to be read, so this is done elsewhere.
    async fn learn(&mut self, upstreams: &[Arc<Upstream>]) {
        let names: HashSet<&UpstreamName> = upstreams.iter().map(|upstream| upstream.name()).collect();
        self.upstreams.retain(|name, _| names.contains(name));
        let changed: Vec<(Arc<Upstream>, Option<Arc<Manner>>)> = (upstreams.iter())
            .filter_map(|upstream| {
                let before = self.upstreams.get(upstream.name());
                let same = before.is_some_and(|before| Weak::as_ptr(&before.upstream) == Arc::as_ptr(upstream));
                let manner = before.map(|before| Arc::clone(&before.manner));
                (!same).then(|| (Arc::clone(upstream), manner))
            })
            .collect();
        if changed.is_empty() {
            return;
        }
        let read = tokio::task::spawn_blocking(move || {
            let manner = |(upstream, before): (Arc<Upstream>, Option<Arc<Manner>>)| {
                let check = upstream.terms().health_check.as_ref()?;
                let manner = Manner::new(upstream.terms(), check, before.as_deref());
                Some((upstream, Arc::new(manner)))
            };
            changed.into_iter().filter_map(manner).collect::<Vec<_>>()
        });
        // What could not be read because of a panic is tried again with the next look.
        for (upstream, manner) in read.await.unwrap_or_default() {
            let known = Known {
                upstream: Arc::downgrade(&upstream),
                manner,
                counters: self.registry.metrics().checks(upstream.name().as_str()),
                is_new: true,
            };
            self.upstreams.insert(upstream.name().clone(), known);
        }
    }

    /// An endpoint is asked from now on, or in another way.
    fn take_in(&mut self, upstream: &UpstreamName, member: &Member, question: Question, now: Instant) {
        let id = member.endpoint.id();
        let interval = question.interval();
        let slot = Slot {
            endpoint: Arc::downgrade(&member.endpoint),
            label: Arc::clone(&member.label),
            upstream: upstream.clone(),
            question,
        };
        let soon = now + first(interval, rand::random());
        match self.slots.insert(id, slot) {
            // Also not while a check runs that began before it went and came back.
            None if !self.asked.contains(&id) => self.schedule.set(id, soon),
            Some(before) if before.question.interval() > interval => self.schedule.hasten(id, soon),
            _ => {}
        }
    }

    /// Asks everybody whose time has come, as long as there is room.
    fn start_due(&mut self, now: Instant) {
        while self.running.len() < RUNNING_MAX {
            let Some(id) = self.schedule.take_due(now) else {
                return;
            };
            let Some(slot) = self.slots.get(&id) else {
                continue;
            };
            self.asked.insert(id);
            let (manner, party) = (Arc::clone(&slot.question.manner), Arc::clone(&slot.question.party));
            self.running.spawn(async move {
                let started = Instant::now();
                let asked = AssertUnwindSafe(manner.ask(&party)).catch_unwind().await;
                Done {
                    id,
                    started,
                    outcome: asked.unwrap_or_else(|_| Err("the check itself failed".to_owned())),
                }
            });
        }
    }

    /// Notes what a check has shown, and when the next one is.
    fn note(&mut self, done: &Done, now: Instant) {
        self.asked.remove(&done.id);
        let Some(slot) = self.slots.get(&done.id) else {
            return;
        };
        let next = done.started + again(slot.question.interval(), rand::random());
        self.schedule.set(done.id, next.max(now));
        let Some(endpoint) = slot.endpoint.upgrade() else {
            return;
        };
        let good = done.outcome.is_ok();
        if let Some(known) = self.upstreams.get(&slot.upstream) {
            let counters = &known.counters;
            if good { &counters.good } else { &counters.failed }.inc();
        }
        let terms = slot.question.manner.check();
        let turn = endpoint.health().checked(good, terms);
        match (turn, &done.outcome) {
            (Some(Turn::WentDown), Err(why)) => log::warn!(
                "upstream \"{}\": endpoint {} is down, its checks fail: {why}",
                slot.upstream,
                slot.label
            ),
            (Some(Turn::CameUp), _) => {
                endpoint.join(Moment::of(now));
                log::info!(
                    "upstream \"{}\": endpoint {} is up, its checks are good again",
                    slot.upstream,
                    slot.label
                );
            }
            _ => {}
        }
        // With so many good ones, traffic may return to its priority, although the endpoint is up already.
        let may_return = good && endpoint.health().good_in_a_row() == terms.failback;
        if turn.is_some() || may_return {
            self.registry.changed();
        }
    }
}

#[cfg(test)]
mod tests;
