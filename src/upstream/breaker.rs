//! A breaker for each endpoint: the traffic itself tells that an endpoint is not to be used.
//!
//! ```text
//!           too many failures                time is over              enough good answers
//! closed ──────────────────────▶ open ──────────────────────▶ half-open ─────────────────▶ closed
//!                                  ▲                              │ a failure
//!                                  └──────────────────────────────┘ twice as long
//! ```
//!
//! To eject an endpoint for its failures and to open its breaker are the same thing here. Two machines (an outlier
//! detector and a breaker, as elsewhere) were rejected: they see the same answers, and an operator who asks why an
//! endpoint gets nothing would have to understand how they disagree.
//!
//! Half-open, requests pass a gate one at a time; with nothing but those that may not be repeated, one of them passes
//! after a while too, because otherwise nobody would ever find out.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::Moment;
use super::heritage::{read_moment, write_moment};
use crate::heritage::{Damaged, Reader, Record};
use crate::revision;

/// Nothing is kept open for longer.
const OPEN_MAX: Duration = Duration::from_secs(300);

/// After being closed for so many times as long as it is opened, an endpoint begins with a clean sheet.
const FORGIVEN: u32 = 10;

/// How long the gate is kept for requests that may be repeated.
const PATIENCE: Duration = Duration::from_secs(2);

/// A probe that has not come back after this long does not keep the gate.
const LOST: Duration = Duration::from_secs(60);

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The endpoint is used.
    Closed = 0,
    /// Nothing is sent.
    Open = 1,
    /// One request at a time finds out.
    HalfOpen = 2,
}

impl State {
    /// As operators read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What an answer, or the lack of one, changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It opened.
    Opened,
    /// It closed.
    Closed,
}

/// An endpoint's breaker. Lock-free; what races loses at most a count.
#[derive(Debug, Default)]
pub struct Breaker {
    state: AtomicU8,
    /// Failures since the last success.
    failures: AtomicU32,
    window: Window,
    /// When it may become half-open; half-open: since when.
    at: AtomicU64,
    /// How often it opened since it was last trusted.
    openings: AtomicU32,
    /// When it closed last.
    closed_at: AtomicU64,
    /// When the request that is in the gate entered it; 0: nobody is.
    gate: AtomicU64,
    /// Good answers while half-open.
    passed: AtomicU32,
    /// It would have opened, but too many others were open.
    held: AtomicBool,
}

impl Breaker {
    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Closed,
            1 => State::Open,
            _ => State::HalfOpen,
        }
    }

    /// Whether it had to stay closed although it would have opened.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Notes an answer. Only the traffic of a closed or half-open breaker counts: what was on its way when it opened says
    /// nothing new.
    pub fn succeeded(&self, terms: &revision::Breaker, now: Moment) -> Option<Turn> {
        match self.state() {
            State::Closed => {
                self.failures.store(0, Ordering::Relaxed);
                self.held.store(false, Ordering::Relaxed);
                self.window.count(false, terms.window, now);
                None
            }
            State::Open => None,
            State::HalfOpen => {
                let passed = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
                (passed >= terms.probes && self.turn(State::HalfOpen, State::Closed)).then(|| {
                    self.failures.store(0, Ordering::Relaxed);
                    self.window.forget();
                    self.closed_at.store(now.micros(), Ordering::Relaxed);
                    Turn::Closed
                })
            }
        }
    }

    /// Notes a failure. `may_open` is asked whether the others leave room for it; only when it is about to open.
    pub fn failed(&self, terms: &revision::Breaker, now: Moment, may_open: impl FnOnce() -> bool) -> Option<Turn> {
        match self.state() {
            State::Open => None,
            State::HalfOpen => self.open(State::HalfOpen, terms, now),
            State::Closed => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                let counts = self.window.count(true, terms.window, now);
                let in_a_row = terms.consecutive > 0 && failures >= terms.consecutive;
                let too_many = terms.error_rate.parts_per_million() > 0
                    && counts.requests >= terms.minimum
                    && counts.failed > 0
                    && counts.failed >= terms.error_rate.of(counts.requests);
                if !in_a_row && !too_many {
                    return None;
                }
                if !may_open() {
                    self.held.store(true, Ordering::Relaxed);
                    return None;
                }
                self.open(State::Closed, terms, now)
            }
        }
    }

    /// Makes an open breaker half-open when its time is over. True when it did.
    pub fn tick(&self, now: Moment) -> bool {
        let due = self.at.load(Ordering::Relaxed) <= now.micros();
        due && self.state() == State::Open && {
            self.passed.store(0, Ordering::Relaxed);
            self.gate.store(0, Ordering::Relaxed);
            self.at.store(now.micros(), Ordering::Relaxed);
            self.turn(State::Open, State::HalfOpen)
        }
    }

    /// Takes the gate of a half-open breaker. False: somebody is in it, or the request may not be repeated and others are
    /// waited for.
    #[must_use]
    pub fn enter_gate(&self, repeatable: bool, now: Moment) -> bool {
        if self.state() != State::HalfOpen {
            return false;
        }
        let since = Moment::from_micros(self.at.load(Ordering::Relaxed));
        if !repeatable && now.since(since) < PATIENCE {
            return false;
        }
        let inside = self.gate.load(Ordering::Relaxed);
        if inside != 0 && now.since(Moment::from_micros(inside)) < LOST {
            return false;
        }
        self.gate
            .compare_exchange(inside, now.micros(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Whoever took the gate is done.
    pub fn leave_gate(&self) {
        self.gate.store(0, Ordering::Relaxed);
    }

    fn open(&self, from: State, terms: &revision::Breaker, now: Moment) -> Option<Turn> {
        let trusted = Moment::from_micros(self.closed_at.load(Ordering::Relaxed)).plus(terms.open * FORGIVEN);
        if from == State::Closed && now >= trusted {
            self.openings.store(0, Ordering::Relaxed);
        }
        let times = self.openings.load(Ordering::Relaxed).min(16);
        let pause = terms.open.saturating_mul(1 << times).min(OPEN_MAX.max(terms.open));
        // Before the state says so: who sees it open finds until when.
        self.at.store(now.plus(pause).micros(), Ordering::Relaxed);
        self.turn(from, State::Open).then(|| {
            self.openings.store(times + 1, Ordering::Relaxed);
            self.held.store(false, Ordering::Relaxed);
            Turn::Opened
        })
    }

    /// One of those who see the same reason turns it.
    fn turn(&self, from: State, to: State) -> bool {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}

impl Breaker {
    /// Describes it to another process. The counts of its window do not go over, because windows are cut by each process's own
    /// clock; nor does who is in the gate.
    pub(super) fn write(&self, record: &mut Record<'_>, now: Moment) {
        record.byte(self.state() as u8);
        record.word(self.failures.load(Ordering::Relaxed));
        write_moment(record, self.at.load(Ordering::Relaxed), now);
        record.word(self.openings.load(Ordering::Relaxed));
        write_moment(record, self.closed_at.load(Ordering::Relaxed), now);
        record.word(self.passed.load(Ordering::Relaxed));
        record.byte(u8::from(self.is_held()));
    }

    /// Reads what [`write`](Self::write) wrote.
    pub(super) fn read(reader: &mut Reader<'_>, now: Moment) -> Result<Self, Damaged> {
        Ok(Self {
            state: match reader.byte()? {
                state @ 0..=2 => state.into(),
                _ => return Err(Damaged),
            },
            failures: reader.word()?.into(),
            window: Window::default(),
            at: read_moment(reader, now)?.into(),
            openings: reader.word()?.into(),
            closed_at: read_moment(reader, now)?.into(),
            gate: AtomicU64::default(),
            passed: reader.word()?.into(),
            held: reader.flag()?.into(),
        })
    }

    /// Takes over what another process knew.
    pub(super) fn inherit(&self, other: &Self) {
        let take = |mine: &AtomicU32, other: &AtomicU32| mine.store(other.load(Ordering::Relaxed), Ordering::Relaxed);
        take(&self.failures, &other.failures);
        take(&self.openings, &other.openings);
        take(&self.passed, &other.passed);
        self.at.store(other.at.load(Ordering::Relaxed), Ordering::Relaxed);
        self.closed_at
            .store(other.closed_at.load(Ordering::Relaxed), Ordering::Relaxed);
        self.held.store(other.is_held(), Ordering::Relaxed);
        // Last, as everywhere: who sees it open finds until when.
        self.state.store(other.state() as u8, Ordering::Release);
    }
}

/// Requests and failures of the window that is now, in one word: its number in 16 bits, both counts in 24.
#[derive(Debug, Default)]
struct Window(AtomicU64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    requests: u32,
    failed: u32,
}

const COUNT_MAX: u64 = (1 << 24) - 1;

impl Window {
    fn count(&self, failed: bool, length: Duration, now: Moment) -> Counts {
        let length = u64::try_from(length.as_micros()).unwrap_or(u64::MAX).max(1);
        let number = (now.micros() / length) & 0xffff;
        let next = |word: u64| {
            let (requests, failures) = if word >> 48 == number {
                ((word >> 24) & COUNT_MAX, word & COUNT_MAX)
            } else {
                (0, 0)
            };
            // Full, the share stays as it was; that is seventeen million requests in a window.
            if requests == COUNT_MAX {
                return word;
            }
            number << 48 | (requests + 1) << 24 | (failures + u64::from(failed))
        };
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| Some(next(word)))
            .unwrap_or_default();
        let word = next(before);
        let part = |value: u64| u32::try_from(value & COUNT_MAX).unwrap_or(u32::MAX);
        Counts {
            requests: part(word >> 24),
            failed: part(word),
        }
    }

    fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Ratio;

    const SECOND: Duration = Duration::from_secs(1);

    fn terms() -> revision::Breaker {
        revision::Breaker {
            consecutive: 5,
            error_rate: Ratio::percent(50),
            minimum: 20,
            window: 10 * SECOND,
            open: 10 * SECOND,
            probes: 2,
            max_ejected: Ratio::percent(50),
        }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(1).plus(Duration::from_secs(seconds))
    }

    fn opened(breaker: &Breaker, now: Moment) {
        for _ in 0..4 {
            assert_eq!(breaker.failed(&terms(), now, || true), None);
        }
        assert_eq!(breaker.failed(&terms(), now, || true), Some(Turn::Opened));
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_in_between_does_not_let_it_come_to_that() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            for _ in 0..4 {
                assert_eq!(breaker.failed(&terms(), at(1), || true), None);
            }
            // Half of them would be too many: this is about the row.
            for _ in 0..9 {
                breaker.succeeded(&terms(), at(1));
            }
        }
        opened(&breaker, at(2));
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn half_of_twenty_in_a_window_opens_it_and_half_of_ten_does_not() {
        let breaker = Breaker::default();
        for request in 0..18 {
            match request % 2 {
                0 => assert_eq!(breaker.failed(&terms(), at(1), || true), None),
                _ => assert_eq!(breaker.succeeded(&terms(), at(1)), None),
            }
        }
        assert_eq!(breaker.succeeded(&terms(), at(11)), None, "another window");
        assert_eq!(breaker.failed(&terms(), at(11), || true), None);
        for _ in 0..9 {
            breaker.succeeded(&terms(), at(12));
            breaker.failed(&terms(), at(12), || true);
        }
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn when_too_many_are_open_already_it_stays_closed_and_says_so() {
        let breaker = Breaker::default();
        for _ in 0..20 {
            assert_eq!(breaker.failed(&terms(), at(1), || false), None);
        }
        assert_eq!((breaker.state(), breaker.is_held()), (State::Closed, true));
        assert_eq!(breaker.failed(&terms(), at(1), || true), Some(Turn::Opened));
        assert!(!breaker.is_held());
    }

    #[test]
    fn after_its_time_one_request_at_a_time_finds_out() {
        let breaker = Breaker::default();
        opened(&breaker, at(0));
        assert!(!breaker.enter_gate(true, at(5)));
        assert!(!breaker.tick(at(9)));
        assert!(breaker.tick(at(10)));
        assert!(!breaker.tick(at(10)), "once");
        assert!(!breaker.enter_gate(false, at(10)), "others are waited for");
        assert!(breaker.enter_gate(true, at(10)));
        assert!(!breaker.enter_gate(true, at(11)), "one at a time");
        assert_eq!(breaker.succeeded(&terms(), at(11)), None);
        breaker.leave_gate();
        assert!(breaker.enter_gate(false, at(12)), "nobody else came");
        assert_eq!(breaker.succeeded(&terms(), at(12)), Some(Turn::Closed));
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn each_failed_probe_doubles_the_time_up_to_a_bound_and_good_behaviour_is_forgiven() {
        let breaker = Breaker::default();
        opened(&breaker, at(0));
        let mut now = 0;
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            assert!(!breaker.tick(at(now + pause - 1)));
            assert!(breaker.tick(at(now + pause)), "after {pause} s");
            now += pause;
            assert_eq!(breaker.failed(&terms(), at(now), || true), Some(Turn::Opened));
        }
        assert!(breaker.tick(at(now + 300)));
        now += 300;
        breaker.succeeded(&terms(), at(now));
        assert_eq!(breaker.succeeded(&terms(), at(now)), Some(Turn::Closed));
        opened(&breaker, at(now + 100));
        assert!(breaker.tick(at(now + 110)), "as if it had never happened");
    }

    #[test]
    fn a_probe_that_never_comes_back_does_not_keep_the_gate() {
        let breaker = Breaker::default();
        opened(&breaker, at(0));
        assert!(breaker.tick(at(10)) && breaker.enter_gate(true, at(10)));
        assert!(!breaker.enter_gate(true, at(69)));
        assert!(breaker.enter_gate(true, at(70)));
    }
}
