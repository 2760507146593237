//! What gateways are to forget of kept answers, by way of the control plane: told to it, and followed in its log.
//!
//! For gateways that share no Redis for their answers. A gateway that starts keeps nothing yet, so that it asks only where the
//! log ends. Whenever it can not know what it has missed, it forgets everything: too much now and then, too little never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::Notify;

use super::client::{Client, ClientError, segment};
use super::trust::Trust;
use crate::cache::invalidator::{Invalidator, Source};
use crate::cache::marks::Invalidation;
use crate::cache::order::{MOST, Order};
use crate::cache::spread::Channel;
use crate::clock::unix_ms;
use crate::distribution::{CachePage, CacheRecord, Signed, Topic};

/// How long a poll waits for news, in seconds.
const WAIT: u64 = 25;

/// Beside what it waits, a poll may take this long.
const PATIENCE: Duration = Duration::from_secs(15);

/// A hundred records of the largest orders.
const PAGE_MOST: u64 = 128 << 20;

/// A poll that is answered sooner, with nothing new, was not one.
const QUICK: Duration = Duration::from_millis(900);

/// After a failure: up to so long, twice that after each further one.
const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(4);

/// How often somebody is asked who has no such log, in seconds.
const NO_LOG: std::ops::Range<f64> = 20.0..40.0;

/// What is told together comes within this time.
const TOGETHER: Duration = Duration::from_millis(250);

/// Follows the log. One per process.
pub struct Follower {
    client: Client,
    trust: Arc<Trust>,
    environment: String,
    /// Who this gateway is in the log: what it has told itself it has done already.
    name: String,
    invalidator: Arc<Invalidator>,
    is_current: Arc<AtomicBool>,
}

/// Tells the control plane what was forgotten here.
pub struct Teller {
    client: Client,
    environment: String,
    name: String,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    orders: Vec<Order>,
    /// What requests have changed: told together.
    changes: Vec<Invalidation>,
}

/// Orders that may wait. When there are more, they become one of everything.
const ORDERS_MOST: usize = 16;

/// What a round of the follower comes to.
enum Round {
    /// Ask again at once.
    Again,
    /// Ask after this time.
    After(Duration),
    /// Something failed: ask after a time that grows.
    Failed(String),
}

impl Follower {
    /// Of this control plane's log for an environment; `name` tells this gateway from all others.
    #[must_use]
    pub fn new(
        client: Client,
        trust: Arc<Trust>,
        (environment, name): (&str, &str),
        invalidator: Arc<Invalidator>,
    ) -> Self {
        Self {
            client,
            trust,
            environment: environment.to_owned(),
            name: name.to_owned(),
            invalidator,
            is_current: Arc::default(),
        }
    }

    /// Whether the log is known to its end, as far as the control plane has answered.
    #[must_use]
    pub fn is_current(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_current)
    }

    /// Follows until it is dropped.
    pub async fn run(self) {
        let mut after = None;
        let mut failures = 0_u32;
        let mut told = false;
        loop {
            let round = self.round(&mut after).await;
            let is_current = matches!(round, Round::Again) && after.is_some();
            self.is_current.store(is_current, Ordering::Relaxed);
            let pause = match round {
                Round::Again => {
                    (failures, told) = (0, false);
                    continue;
                }
                Round::After(pause) => pause,
                Round::Failed(why) => {
                    if !told {
                        log::warn!(
                            "cache: {why}; what other gateways are told to forget does not count here until then"
                        );
                        told = true;
                    }
                    let most = BACKOFF * 2_u32.saturating_pow(failures.min(10));
                    failures = failures.saturating_add(1);
                    most.min(BACKOFF_MOST).mul_f64(rand::rng().random_range(0.5..1.0))
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&self, after: &mut Option<u64>) -> Round {
        let begun = std::time::Instant::now();
        let environment = segment(&self.environment);
        let path = match after {
            None => format!("/v1/environments/{environment}/cache/log"),
            Some(after) => format!("/v1/environments/{environment}/cache/log?after={after}&wait={WAIT}"),
        };
        let patience = PATIENCE + Duration::from_secs(WAIT + WAIT / 16);
        let answer = match self.client.get(&path, PAGE_MOST, patience).await {
            Ok(answer) => answer,
            Err(error) => return Round::Failed(error.to_string()),
        };
        let pause = |seconds: std::ops::Range<f64>| Duration::from_secs_f64(rand::rng().random_range(seconds));
        match answer.status {
            200 => {}
            304 if begun.elapsed() < QUICK => return Round::After(pause(1.0..2.0)),
            304 => return Round::Again,
            // An older control plane, or a directory.
            404 => return Round::After(pause(NO_LOG)),
            // More was said meanwhile than is kept there.
            410 => {
                *after = None;
                self.missed("the log has forgotten what was said meanwhile");
                return Round::Again;
            }
            429 | 503 => return Round::After(answer.retry_after.unwrap_or(BACKOFF).min(BACKOFF_MOST)),
            status => {
                self.client.turn();
                return Round::Failed(ClientError::Status(status).to_string());
            }
        }
        let page = match answer.json::<Signed>() {
            Ok(signed) => match self.trust.verify(&self.client, Topic::Cache, &signed).await {
                Ok(text) => serde_json::from_str::<CachePage>(text).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        let page = page.and_then(|page| {
            let is_ours = page.environment == self.environment && page.after == *after;
            is_ours
                .then_some(page)
                .ok_or_else(|| "it is the answer to another question".to_owned())
        });
        match page {
            Ok(page) => self.take(page, after),
            Err(why) => {
                self.client.turn();
                return Round::Failed(format!("the log of invalidations: {why}"));
            }
        }
        Round::Again
    }

    fn take(&self, page: CachePage, after: &mut Option<u64>) {
        match page.after {
            // What was kept before the place in the log was known may be what was invalidated then. Nothing of that is in a
            // tier that gateways share, so that it counts here alone.
            None => self.invalidator.forget_all(Source::ControlPlane, 0),
            Some(after) if page.next < after => self.missed("the log ends before what was read of it"),
            Some(_) => page.records.iter().for_each(|record| self.apply(record)),
        }
        *after = Some(page.next);
    }

    fn apply(&self, record: &CacheRecord) {
        let order = serde_json::from_value::<Order>(record.what.clone());
        let order = order.unwrap_or_else(|error| {
            log::warn!(
                "cache: invalidation {} is not understood here ({error}): everything is forgotten",
                record.seq
            );
            Order::all()
        });
        if order.from.as_deref() == Some(&self.name) {
            return;
        }
        let at_ms = record.at_ms;
        if let Err(why) = self.invalidator.carry_out(&order, Source::ControlPlane, at_ms) {
            log::warn!("cache: invalidation {}: {why}: everything is forgotten", record.seq);
            self.invalidator.forget_all(Source::ControlPlane, at_ms);
        }
    }

    fn missed(&self, why: &str) {
        log::warn!("cache: {why}: everything is forgotten");
        self.invalidator.forget_all(Source::ControlPlane, unix_ms());
    }
}

impl Teller {
    /// To this control plane, for an environment; `name` tells this gateway from all others.
    #[must_use]
    pub fn new(client: Client, environment: &str, name: &str) -> Self {
        Self {
            client,
            environment: environment.to_owned(),
            name: name.to_owned(),
            waiting: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// Tells what an administrator has ordered here.
    pub fn pass_on(&self, order: &Order) {
        let mut order = order.clone();
        order.from = Some(self.name.clone());
        self.waiting.lock().put(order);
        self.arrived.notify_one();
    }

    /// Tells until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut failures = 0_u32;
        loop {
            self.arrived.notified().await;
            tokio::time::sleep(TOGETHER).await;
            while let Some(order) = self.next() {
                match self.tell(&order).await {
                    Ok(()) => failures = 0,
                    Err(why) => {
                        if failures == 0 {
                            log::warn!("cache: other gateways were not told what to forget: {why}; it is tried again");
                        }
                        self.waiting.lock().put_back(order);
                        let most = BACKOFF * 2_u32.saturating_pow(failures.min(10));
                        failures = failures.saturating_add(1);
                        tokio::time::sleep(most.min(BACKOFF_MOST)).await;
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Order> {
        let mut order = self.waiting.lock().take()?;
        order.from = Some(self.name.clone());
        Some(order)
    }

    /// Tells one order. What the control plane will never take is dropped, and said.
    async fn tell(&self, order: &Order) -> Result<(), String> {
        let path = format!("/v1/environments/{}/cache/invalidations", segment(&self.environment));
        let answer = self.client.post(&path, order, PATIENCE).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status {
            200..=299 => Ok(()),
            400 | 401 | 403 | 404 | 405 | 413 | 422 => {
                log::error!(
                    "cache: the control plane does not pass on what other gateways are to forget (status {}); is it of this \
                     version, and has the gateway's token the scope \"gateway\"?",
                    answer.status
                );
                Ok(())
            }
            status => Err(ClientError::Status(status).to_string()),
        }
    }
}

impl Channel for Teller {
    /// The control plane says when it was: its clock is the one that all gateways hear.
    fn publish(&self, what: &Invalidation, _at_ms: u64) {
        self.waiting.lock().changed(what);
        self.arrived.notify_one();
    }
}

impl Waiting {
    fn put(&mut self, order: Order) {
        self.orders.push(order);
        self.bound();
    }

    fn put_back(&mut self, order: Order) {
        self.orders.insert(0, order);
        self.bound();
    }

    fn changed(&mut self, what: &Invalidation) {
        // The same resource is changed again and again.
        if !self.changes.contains(what) {
            self.changes.push(what.clone());
        }
        if self.changes.len() > MOST {
            self.changes = vec![Invalidation::All];
        }
    }

    fn bound(&mut self) {
        if self.orders.len() > ORDERS_MOST {
            // What authentication has forgotten here is not told then: it ends by itself, and soon.
            self.orders = vec![Order::all()];
        }
    }

    fn take(&mut self) -> Option<Order> {
        if !self.changes.is_empty() {
            let changes = std::mem::take(&mut self.changes);
            return Some(Order::of(&changes));
        }
        (!self.orders.is_empty()).then(|| self.orders.remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::marks::MarkId;

    fn mark(number: u64) -> Invalidation {
        Invalidation::Mark(MarkId(number))
    }

    #[test]
    fn changes_are_told_together_each_once_and_too_many_as_everything() {
        let mut waiting = Waiting::default();
        for number in [1, 2, 1, 1] {
            waiting.changed(&mark(number));
        }
        let order = waiting.take().unwrap();
        assert_eq!(order.marks, ["0000000000000001", "0000000000000002"]);
        assert_eq!(waiting.take(), None);
        for number in 0..=MOST as u64 {
            waiting.changed(&mark(number));
        }
        assert_eq!(waiting.take(), Some(Order::all()));
    }

    #[test]
    fn orders_are_told_as_they_came_and_too_many_as_everything() {
        let order = |tag: &str| Order {
            tags: vec![tag.to_owned()],
            ..Order::default()
        };
        let mut waiting = Waiting::default();
        waiting.put(order("a"));
        waiting.put(order("b"));
        let first = waiting.take().unwrap();
        waiting.put_back(first);
        assert_eq!(waiting.take(), Some(order("a")), "what was not told comes first");
        assert_eq!(waiting.take(), Some(order("b")));
        for _ in 0..=ORDERS_MOST {
            waiting.put(order("c"));
        }
        assert_eq!((waiting.take(), waiting.take()), (Some(Order::all()), None));
    }
}
