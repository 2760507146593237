//! What is remembered of a lease between orders: its books. The exchange keeps them, and looks for nothing else.

use std::sync::Arc;

use super::terms::Terms;
use super::window::Time;

pub(in crate::throttle) const SECOND: u64 = 1_000_000_000;
pub(in crate::throttle) const MILLISECOND: u64 = 1_000_000;

/// Orders that nobody waits for go out at most once in this time, in nanoseconds: 5 ms. Long enough that a thousand counters wake
/// the exchange two hundred times a second and no oftener; a tenth of the shortest term that makes sense (50 ms), and a quarter of
/// what the low mark leaves until the hand is empty.
pub(in crate::throttle) const GATHER: u64 = 5 * MILLISECOND;

/// What holds for a batch.
#[derive(Debug, Clone, Copy)]
pub struct Market {
    /// How many gateways share the counters at most.
    pub instances: u32,
    /// For how long a batch should last, in nanoseconds; 0 to ask for every request.
    pub term: u64,
    /// How long the node takes to answer, in nanoseconds.
    pub round_trip: u64,
    /// Which data the node has; another number is other data.
    pub data: u32,
    /// A random number, so that gateways do not do things at the same time.
    pub dice: u32,
}

/// What is remembered of a lease between orders. There may be a million of them, so it is kept small.
pub struct Books {
    pub(in crate::throttle) terms: Arc<Terms>,
    /// When the order that is under way was sent, and which data the node had then.
    pub(in crate::throttle) under_way: Alarm,
    pub(in crate::throttle) traded_with: u32,
    pub(in crate::throttle) pages: [Page; 2],
    /// What is spent in a term, as a moving average.
    pub(in crate::throttle) pace: f32,
    pub(in crate::throttle) looked_at: Alarm,
    /// What was spent when last looked: in which window, how much, and what was refused.
    pub(in crate::throttle) looked: (u32, u32, u32),
    /// When a small debt is charged.
    pub(in crate::throttle) flush_at: Alarm,
    /// When tickets go back, unless more than this is spent by then.
    pub(in crate::throttle) idle_at: Alarm,
    pub(in crate::throttle) idle_spent: u32,
    /// When the next window is bought for.
    pub(in crate::throttle) prefetch_at: Alarm,
    /// When there is something in an empty bucket again.
    pub(in crate::throttle) reopen_at: Alarm,
    /// The earliest of these that a timer is set for.
    pub(in crate::throttle) timer: Alarm,
    /// Tokens that came within about a second, and when they were last added up. For buckets.
    pub(in crate::throttle) earned: f32,
    pub(in crate::throttle) earned_at: Alarm,
}

/// An instant, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::throttle) struct Alarm(u64);

impl Alarm {
    pub(in crate::throttle) const OFF: Self = Self(0);

    pub(in crate::throttle) fn at(time: Time) -> Self {
        Self(time.unix_nanos())
    }

    pub(in crate::throttle) fn get(self) -> Option<Time> {
        (self.0 != 0).then_some(Time::from_unix_nanos(self.0))
    }

    /// Whether it was set and its time has come.
    pub(in crate::throttle) fn rings(self, now: Time) -> bool {
        self.0 != 0 && self.0 <= now.unix_nanos()
    }

    /// Sets it, unless it is set.
    pub(in crate::throttle) fn set(&mut self, time: Time) {
        if self.0 == 0 {
            *self = Self::at(time);
        }
    }
}

/// What is remembered of a window.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::throttle) struct Page {
    pub(in crate::throttle) window: u32,
    /// What the store has on account of this gateway: granted and charged, less what was handed back.
    pub(in crate::throttle) own: u32,
    /// The counter when it was last heard, without what was void.
    pub(in crate::throttle) heard: u32,
    /// The counter of the window before, when it was last heard.
    pub(in crate::throttle) previous: u32,
    /// Which data it was traded with.
    pub(in crate::throttle) data: u32,
    /// How often a closed window was asked about in vain.
    pub(in crate::throttle) probes: u8,
    /// Whether the store has answered about it.
    pub(in crate::throttle) known: bool,
    /// Whether the key was told when it ends.
    pub(in crate::throttle) expires: bool,
}

impl Books {
    /// Empty books.
    #[must_use]
    pub fn new(terms: Arc<Terms>) -> Self {
        Self {
            terms,
            under_way: Alarm::OFF,
            traded_with: 0,
            pages: [Page::default(); 2],
            pace: 0.0,
            looked_at: Alarm::OFF,
            looked: (0, 0, 0),
            flush_at: Alarm::OFF,
            idle_at: Alarm::OFF,
            idle_spent: 0,
            prefetch_at: Alarm::OFF,
            reopen_at: Alarm::OFF,
            timer: Alarm::OFF,
            earned: 0.0,
            earned_at: Alarm::OFF,
        }
    }

    /// What governs the counter.
    #[must_use]
    pub fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// From now on the counter is governed by these: the limit was changed.
    pub fn govern(&mut self, terms: &Arc<Terms>) {
        if !Arc::ptr_eq(&self.terms, terms) {
            self.terms = Arc::clone(terms);
        }
    }

    /// The counter in a window when it was last heard.
    #[must_use]
    pub fn heard(&self, window: u32) -> Option<u32> {
        let page = self.pages.get(window as usize & 1)?;
        (page.window == window && page.known).then_some(page.heard)
    }

    /// Whether an order is under way.
    #[must_use]
    pub fn is_trading(&self) -> bool {
        self.under_way != Alarm::OFF
    }

    /// What the store has on account of this gateway in a window: granted and charged, less what was handed back.
    #[must_use]
    pub fn own(&self, window: u32) -> u32 {
        let page = self.pages.get(window as usize & 1);
        page.filter(|page| page.window == window).map_or(0, |page| page.own)
    }

    /// Which data the store had when a window was traded; none if it has not answered about it.
    #[must_use]
    pub fn data(&self, window: u32) -> Option<u32> {
        let page = self.pages.get(window as usize & 1)?;
        (page.window == window && page.known).then_some(page.data)
    }

    /// When the store last answered about a bucket; none if it never did, or if this is no bucket.
    #[must_use]
    pub fn bucket_heard_at(&self) -> Option<Time> {
        self.earned_at.get()
    }

    /// What had been spent when it was last looked at: in which window, how much, and what was refused, as a running
    /// sum. For a bucket: 0, what was asked for as a running sum, 0.
    #[must_use]
    pub fn looked(&self) -> (u32, u32, u32) {
        self.looked
    }

    /// What is spent in a second, if so much was spent since it was last looked at.
    #[must_use]
    pub fn pace_per_second(&self, spent: u32, now: Time, term: u64) -> f64 {
        let market = Market {
            instances: 1,
            term,
            round_trip: 0,
            data: 0,
            dice: 0,
        };
        let mut copy = Self {
            pace: self.pace,
            looked_at: self.looked_at,
            ..Self::new(Arc::clone(&self.terms))
        };
        copy.keep_pace(spent, now, &market);
        f64::from(copy.pace) * SECOND as f64 / term.max(MILLISECOND) as f64
    }

    pub(in crate::throttle) fn page(&mut self, window: u32) -> &mut Page {
        let [even, odd] = &mut self.pages;
        let page = if window.is_multiple_of(2) { even } else { odd };
        if page.window != window {
            *page = Page {
                window,
                ..Page::default()
            };
        }
        page
    }

    /// Brings the pace up to date: so much was spent since it was last looked at. (An exponential average over one term,
    /// of a rate that was even in between.)
    pub(in crate::throttle) fn keep_pace(&mut self, spent: u32, now: Time, market: &Market) {
        let term = market.term.max(MILLISECOND) as f32;
        let spent = spent as f32;
        self.pace = match self.looked_at.get() {
            None => spent,
            Some(then) => {
                let past = now.since(then) as f32 / term;
                if past <= 0.0 {
                    self.pace + spent
                } else {
                    let kept = (-past).exp();
                    self.pace * kept + spent * (1.0 - kept) / past
                }
            }
        };
        self.looked_at = Alarm::at(now);
    }

    /// What the lease needs until the next answer but one.
    pub(in crate::throttle) fn demand(&self, market: &Market) -> u32 {
        if market.term == 0 {
            return 0;
        }
        let ahead = 1.0 + market.round_trip as f32 / market.term as f32;
        (self.pace * ahead).ceil() as u32
    }

    /// With less than this in the hand, more is ordered: what is spent until it comes, and some.
    pub(in crate::throttle) fn low_mark(&self, market: &Market) -> u32 {
        if market.term == 0 || self.pace < 1.0 {
            return 0;
        }
        let until_it_comes = 4.0 * market.round_trip as f32 + GATHER as f32;
        let ahead = (until_it_comes / market.term as f32).max(0.2);
        (self.pace * ahead).ceil() as u32
    }

    /// What has rung and led to nothing is done: else a batch would look at the lease again and again, without end.
    pub(in crate::throttle) fn hush(&mut self, now: Time) {
        for alarm in [
            &mut self.flush_at,
            &mut self.idle_at,
            &mut self.prefetch_at,
            &mut self.reopen_at,
        ] {
            if alarm.rings(now) {
                *alarm = Alarm::OFF;
            }
        }
    }

    pub(in crate::throttle) fn next_time(&self) -> Option<Time> {
        [self.flush_at, self.idle_at, self.prefetch_at, self.reopen_at]
            .into_iter()
            .filter_map(Alarm::get)
            .min()
    }
}
