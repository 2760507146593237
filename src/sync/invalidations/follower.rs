//! Follows the log of what is to be forgotten.
//!
//! A gateway that starts asks only where the log ends. In its memory there is nothing yet; of what gateways share in a Redis,
//! nothing counts for it that is older than the last order: nobody may have been there to carry it out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt;

use super::{BACKOFF, BACKOFF_MOST, PATIENCE, backoff};
use crate::cache::invalidator::{Invalidator, Source};
use crate::cache::marks::Invalidation;
use crate::cache::order::Order;
use crate::cache::spread::Channel;
use crate::clock::unix_ms;
use crate::distribution::{CachePage, CacheRecord, Signed, Topic};
use crate::sync::client::{Client, ClientError, segment};
use crate::sync::trust::Trust;

/// How long a poll waits for news, in seconds.
const WAIT: u64 = 25;

/// The largest page: a mebibyte of orders and one more, with everything escaped that can be.
const PAGE_MOST: u64 = 8 << 20;

/// A poll that is answered sooner, with nothing new, was not one.
const QUICK: Duration = Duration::from_millis(900);

/// How often somebody is asked who has no such log, in seconds.
const NO_LOG: std::ops::Range<f64> = 20.0..40.0;

/// Follows the log. One per process.
pub struct Follower {
    client: Client,
    trust: Arc<Trust>,
    reader: Reader,
    is_current: Arc<AtomicBool>,
}

/// What is made of the log.
struct Reader {
    environment: String,
    /// Who this gateway is in the log: what it has told itself it has done already.
    name: String,
    invalidator: Arc<Invalidator>,
    /// The gateways with which this one shares answers, also those that begin later.
    sharing: Option<Arc<dyn Channel>>,
    place: Option<Place>,
}

/// Up to where a log was read, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    after: u64,
    epoch: u64,
}

/// What a round comes to.
enum Round {
    /// Ask again at once.
    Again,
    /// There was nothing new: ask after this time.
    Quiet(Duration),
    /// Nobody tells what is new: ask after this time.
    Away(Duration),
    /// Something failed: ask after a time that grows.
    Failed(String),
}

impl Follower {
    /// Of this control plane's log for an environment; `name` tells this gateway from all others. What an administrator has
    /// ordered there is passed on to those who share answers with this gateway: whoever begins later finds it with them.
    #[must_use]
    pub fn new(
        client: Client,
        trust: Arc<Trust>,
        (environment, name): (&str, &str),
        invalidator: Arc<Invalidator>,
        sharing: Option<Arc<dyn Channel>>,
    ) -> Self {
        Self {
            client,
            trust,
            reader: Reader {
                environment: environment.to_owned(),
                name: name.to_owned(),
                invalidator,
                sharing,
                place: None,
            },
            is_current: Arc::default(),
        }
    }

    /// Whether the log is known to its end, as far as the control plane has answered.
    #[must_use]
    pub fn is_current(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_current)
    }

    /// Follows until it is dropped.
    pub async fn run(mut self) {
        let mut failures = 0_u32;
        let mut told = false;
        loop {
            let round = self.round().await;
            let is_current = round.is_well() && self.reader.place.is_some();
            self.is_current.store(is_current, Ordering::Relaxed);
            let pause = match round {
                Round::Again => {
                    (failures, told) = (0, false);
                    continue;
                }
                Round::Quiet(pause) | Round::Away(pause) => pause,
                Round::Failed(why) => {
                    if !told {
                        log::warn!(
                            "cache: {why}; what other gateways are told to forget does not count here until then"
                        );
                        told = true;
                    }
                    let most = backoff(failures);
                    failures = failures.saturating_add(1);
                    most.mul_f64(rand::rng().random_range(0.5..1.0))
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn round(&mut self) -> Round {
        let begun = Instant::now();
        let path = self.reader.question();
        let patience = PATIENCE + Duration::from_secs(WAIT + WAIT / 16);
        let answer = match self.client.get(&path, PAGE_MOST, patience).await {
            Ok(answer) => answer,
            Err(error) => return Round::Failed(error.to_string()),
        };
        let pause = |seconds: std::ops::Range<f64>| Duration::from_secs_f64(rand::rng().random_range(seconds));
        match answer.status {
            200 => {}
            304 if begun.elapsed() < QUICK => return Round::Quiet(pause(1.0..2.0)),
            304 => return Round::Again,
            // An older control plane, or a directory.
            404 => return Round::Away(pause(NO_LOG)),
            // More was said meanwhile than is kept there.
            410 => {
                self.reader.place = None;
                self.reader.missed("the log has forgotten what was said meanwhile");
                return Round::Again;
            }
            429 | 503 => return Round::Away(answer.retry_after.unwrap_or(BACKOFF).min(BACKOFF_MOST)),
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
            let answers = self.reader.is_answer(&page);
            answers
                .then_some(page)
                .ok_or_else(|| "it is the answer to another question".to_owned())
        });
        match page {
            Ok(page) => self.reader.take(&page),
            Err(why) => {
                self.client.turn();
                return Round::Failed(format!("the log of invalidations: {why}"));
            }
        }
        Round::Again
    }
}

impl Round {
    /// Whether the control plane has said what there is to say.
    fn is_well(&self) -> bool {
        matches!(self, Self::Again | Self::Quiet(_))
    }
}

impl Reader {
    fn question(&self) -> String {
        let log = format!("/v1/environments/{}/cache/log", segment(&self.environment));
        match self.place {
            None => log,
            Some(Place { after, epoch }) => format!("{log}?after={after}&epoch={epoch}&wait={WAIT}"),
        }
    }

    fn is_answer(&self, page: &CachePage) -> bool {
        page.environment == self.environment && page.after == self.place.map(|place| place.after)
    }

    fn take(&mut self, page: &CachePage) {
        match self.place {
            // What was kept before the place in the log was known may be what was invalidated then, and what others have
            // kept since the last order too.
            None => {
                let last_ms = page.quiet_ms.map_or(0, |quiet_ms| unix_ms().saturating_sub(quiet_ms));
                self.invalidator.forget_all(Source::ControlPlane, last_ms);
            }
            Some(place) if page.epoch != place.epoch => self.missed("it is another log than before"),
            Some(place) if page.next < place.after => self.missed("the log ends before what was read of it"),
            Some(_) => page.records.iter().for_each(|record| self.apply(record)),
        }
        self.place = Some(Place {
            after: page.next,
            epoch: page.epoch,
        });
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
        // Answers have the time of gateways, and the control plane's clock may be behind theirs.
        let at_ms = record.at_ms.max(unix_ms());
        let items = self.invalidator.carry_out(&order, Source::ControlPlane, at_ms);
        let whats = match items {
            Ok(items) => items.into_iter().map(|item| item.what).collect(),
            Err(why) => {
                log::warn!("cache: invalidation {}: {why}: everything is forgotten", record.seq);
                self.invalidator.forget_all(Source::ControlPlane, at_ms);
                vec![Invalidation::All]
            }
        };
        // A gateway that says it has told those with whom it shares answers. All who follow the log say it once more, which
        // does no harm: nobody knows who of them will be there in a moment.
        if order.from.is_none() {
            self.pass_on(&whats, at_ms);
        }
    }

    fn missed(&self, why: &str) {
        log::warn!("cache: {why}: everything is forgotten");
        let at_ms = unix_ms();
        self.invalidator.forget_all(Source::ControlPlane, at_ms);
        self.pass_on(&[Invalidation::All], at_ms);
    }

    fn pass_on(&self, whats: &[Invalidation], at_ms: u64) {
        if let Some(sharing) = &self.sharing {
            whats.iter().for_each(|what| sharing.publish(what, at_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::Introspectors;
    use crate::cache::Cache;
    use crate::cache::invalidator::Callers;
    use crate::cache::marks::{MarkId, SKEW_MS};
    use crate::cache::memory::TierCounters;
    use crate::telemetry::Metrics;

    #[derive(Default)]
    struct Told(Mutex<Vec<Invalidation>>);

    impl Channel for Told {
        fn publish(&self, what: &Invalidation, _: u64) {
            self.0.lock().push(what.clone());
        }
    }

    /// Who has just begun, and what he tells those with whom he shares answers.
    fn reader() -> (Reader, Arc<Told>) {
        let metrics = Metrics::new().unwrap();
        let cache: &'static Cache = Box::leak(Box::new(Cache::new(1 << 20, TierCounters::unregistered())));
        let callers = Callers::new(Arc::default(), Introspectors::offline());
        let told = Arc::new(Told::default());
        let reader = Reader {
            environment: "prod".to_owned(),
            name: "me".to_owned(),
            invalidator: Arc::new(Invalidator::new(cache, callers, metrics.cache().clone())),
            sharing: Some(Arc::clone(&told) as Arc<dyn Channel>),
            place: None,
        };
        (reader, told)
    }

    fn page(reader: &Reader, (epoch, next): (u64, u64), records: &[(u64, Value)]) -> CachePage {
        CachePage {
            environment: "prod".to_owned(),
            epoch,
            after: reader.place.map(|place| place.after),
            next,
            quiet_ms: None,
            records: (records.iter().enumerate())
                .map(|(position, (at_ms, what))| CacheRecord {
                    seq: next - (records.len() - 1 - position) as u64,
                    at_ms: *at_ms,
                    author: "somebody".to_owned(),
                    what: what.clone(),
                })
                .collect(),
        }
    }

    /// Whether what another gateway has asked for at this time is believed.
    fn believes(reader: &Reader, tag: &str, asked_ms: u64) -> bool {
        let marks = reader.invalidator.cache().marks();
        marks.is_valid_elsewhere(&[MarkId::tag(tag)], "h", "/", asked_ms)
    }

    fn joined() -> (Reader, Arc<Told>) {
        let (mut reader, told) = reader();
        reader.take(&page(&reader, (7, 10), &[]));
        (reader, told)
    }

    #[test]
    fn an_order_of_an_administrator_is_told_to_those_who_share_answers_and_one_of_a_gateway_is_not() {
        let (mut reader, told) = joined();
        assert!(told.0.lock().is_empty());
        let records = [
            (1, json!({ "tags": ["news"], "users": ["mobile"] })),
            (1, json!({ "tags": ["sports"], "from": "another" })),
            (1, json!({ "tags": ["mine"], "from": "me" })),
        ];
        reader.take(&page(&reader, (7, 13), &records));
        let expected = [
            Invalidation::Mark(MarkId::tag("news")),
            Invalidation::User("mobile".to_owned()),
        ];
        assert_eq!(*told.0.lock(), expected);
        let now = unix_ms();
        assert_eq!(
            ["news", "sports", "mine"].map(|tag| believes(&reader, tag, now)),
            [false, false, true]
        );
        // What nobody understands counts as everything, for them too.
        told.0.lock().clear();
        reader.take(&page(&reader, (7, 14), &[(1, json!({ "planets": ["mars"] }))]));
        assert_eq!(*told.0.lock(), [Invalidation::All]);
    }

    #[test]
    fn an_order_counts_from_when_it_is_heard_whatever_the_control_plane_s_clock_says() {
        let (mut reader, _) = joined();
        let before = unix_ms();
        reader.take(&page(&reader, (7, 11), &[(1, json!({ "tags": ["news"] }))]));
        assert!(!believes(&reader, "news", before + SKEW_MS));
        let later = before + 3_600_000;
        reader.take(&page(&reader, (7, 12), &[(later, json!({ "tags": ["sports"] }))]));
        assert!(!believes(&reader, "sports", later));
    }

    #[test]
    fn who_begins_does_not_believe_what_is_older_than_the_last_order() {
        let (mut reader, told) = reader();
        let now = unix_ms();
        let mut end = page(&reader, (7, 10), &[]);
        end.quiet_ms = Some(60_000);
        reader.take(&end);
        assert!(!believes(&reader, "news", now - 61_000));
        assert!(believes(&reader, "news", now - 30_000));
        assert!(told.0.lock().is_empty(), "the others knew");
        let (reader, _) = joined();
        assert!(believes(&reader, "news", 1), "there was no order");
    }

    #[test]
    fn another_log_or_a_shorter_one_is_one_of_which_something_was_missed() {
        for (epoch, next) in [(8, 12), (7, 9)] {
            let (mut reader, told) = joined();
            reader.take(&page(&reader, (epoch, next), &[]));
            assert!(!believes(&reader, "news", unix_ms()), "{epoch} {next}");
            assert_eq!(*told.0.lock(), [Invalidation::All]);
            assert_eq!(reader.place, Some(Place { after: next, epoch }));
            assert_eq!(
                reader.question(),
                format!("/v1/environments/prod/cache/log?after={next}&epoch={epoch}&wait=25")
            );
        }
    }

    #[test]
    fn a_quiet_log_is_current_and_one_that_nobody_tells_of_is_not() {
        let pause = Duration::ZERO;
        let well = [
            Round::Again,
            Round::Quiet(pause),
            Round::Away(pause),
            Round::Failed(String::new()),
        ];
        assert_eq!(well.map(|round| round.is_well()), [true, true, false, false]);
    }

    #[test]
    fn the_answer_to_another_question_is_none() {
        let (reader, _) = joined();
        let mut page = page(&reader, (7, 11), &[]);
        assert!(reader.is_answer(&page));
        page.after = Some(9);
        assert!(!reader.is_answer(&page));
        (page.after, page.environment) = (Some(10), "test".to_owned());
        assert!(!reader.is_answer(&page));
    }
}
