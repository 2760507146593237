//! The trade with the store: what to ask for a lease, and what its answer means. Pure: time, answers and losses come in as
//! arguments, so that the same code runs against Redis and against a simulated store with virtual time.
//!
//! One [`Exchange`] trades with one node of the store. For each lease at most one [`Order`] is under way; tickets that
//! are handed back are not waited for. How much is asked for:
//!
//! - by demand: what the lease spends in a *term* (250 ms), and what requests wait for;
//! - but not more than the n-th part of what is left, n being twice the number of gateways: so batches shrink as
//!   the end comes near (guided self-scheduling), and little is stranded in hands that do not need it;
//! - nothing, but the debt, where a request now and then rides on credit.
//!
//! Tickets that nobody has spent for a second go back. What the store says is gone is remembered as *closed*, and asked
//! about again after 1, 2, 4 … seconds, if somebody wants it.
//!
//! **A store that forgot.** The store never has less than what this gateway alone was granted and charged. If it does, it
//! has lost the counter (flushed, restarted, or a replica that had not heard of it was promoted). What came with such an
//! answer is not used, and the counter is raised to what was last heard, by a script that takes the greater of the
//! two: so any number of gateways may do it. Every other counter of that node is then *suspect*, and healed in
//! the same way before it is traded again; so it is when the node says that it is another one.

mod bucket;
mod window;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::books::{Alarm, Books, MILLISECOND, Page, SECOND};
use super::lease::{Hand, Lease};
use super::terms::Terms;
use super::window::Time;

pub use super::books::Market;

/// Orders that are sent together at most.
pub const BATCH: usize = 512;

/// After how long without a request tickets go back, in nanoseconds.
const IDLE: u64 = SECOND;

/// After how long tickets go back that a request wanted and did not take, where as little as possible is held.
const THRIFTY_IDLE: u64 = 50 * MILLISECOND;

/// Something to ask of the store.
#[derive(Clone)]
pub struct Order {
    /// For which lease.
    pub lease: Arc<Lease>,
    /// What governs it.
    pub terms: Arc<Terms>,
    /// Of which window; 0 for a bucket.
    pub window: u32,
    /// What.
    pub what: What,
}

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Counts a debt, and more tickets: `INCRBY key charge+want`.
    Take {
        /// What was admitted already.
        charge: u32,
        /// What is wanted on top of it.
        want: u32,
        /// Whether the key has to be told when it ends.
        expire: bool,
    },
    /// Hands tickets back: `DECRBY key count`. Nobody waits for the answer.
    Return {
        /// How many.
        count: u32,
    },
    /// Raises a counter that was lost to what was last heard, by a script.
    Heal {
        /// What the counter is at least.
        seen: u32,
    },
    /// Hands tokens of a bucket back, less what it gained since they were asked for. Nobody waits for the answer.
    Restore {
        /// How many.
        count: u32,
        /// How long ago they were asked for, in nanoseconds.
        after: u64,
    },
    /// Charges a debt to a bucket and takes tokens from it, by a script.
    Fill {
        /// What was admitted already.
        charge: u32,
        /// What is wanted on top of it.
        want: u32,
    },
}

impl What {
    /// Whether somebody waits for the answer.
    #[must_use]
    pub const fn is_waited_for(&self) -> bool {
        !matches!(self, Self::Return { .. } | Self::Restore { .. })
    }
}

/// What the store says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To `Take` and `Heal`.
    Count {
        /// The counter after it.
        value: i64,
        /// For a sliding limit, the counter of the window before; none if that was not answered.
        previous: Option<i64>,
        /// Whether the key was told when it ends, if that was asked for.
        expires: bool,
    },
    /// To `Fill`.
    Bucket {
        /// Tokens that were handed out.
        granted: u32,
        /// Whole tokens that are left after it, below zero if there is a debt.
        left: i64,
    },
}

/// The trade with one node.
pub struct Exchange {
    listed: VecDeque<Arc<Lease>>,
    timers: BinaryHeap<Reverse<Timer>>,
    /// What answers were void of, and what could not be sent back before. It goes first.
    returns: VecDeque<Order>,
    overshoot: Box<dyn Fn(f64) + Send>,
    /// How often this node was found to have lost a counter: makes all others suspect.
    losses: u32,
    closing: bool,
    thrifty: bool,
}

impl Exchange {
    /// An exchange without orders. `overshoot` is told for every debt that is charged what part of it lies beyond the
    /// limit, as a part of the limit.
    #[must_use]
    pub fn new(overshoot: impl Fn(f64) + Send + 'static) -> Self {
        Self {
            listed: VecDeque::new(),
            timers: BinaryHeap::new(),
            returns: VecDeque::new(),
            overshoot: Box::new(overshoot),
            losses: 0,
            closing: false,
            thrifty: false,
        }
    }

    /// Puts a lease on the list. It has to be [listed](Lease::list) by the caller.
    pub fn wish(&mut self, lease: Arc<Lease>) {
        self.listed.push_back(lease);
    }

    /// From now on every lease that is listed gives back what it holds.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether leases buy what requests wait for and no more, and hand back the rest at once.
    pub fn set_thrifty(&mut self, thrifty: bool) {
        self.thrifty = thrifty;
    }

    /// How many leases are on the list.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.listed.len() + self.returns.len()
    }

    /// When there is something to do if nobody wishes anything.
    #[must_use]
    pub fn next_time(&self) -> Option<Time> {
        self.timers.peek().map(|Reverse(timer)| timer.at)
    }

    /// What is to be sent now, at most [`BATCH`] orders.
    pub fn batch(&mut self, now: Time, market: Market) -> Vec<Order> {
        let market = self.suspecting(market);
        let mut orders: Vec<Order> = Vec::new();
        while orders.len() < BATCH
            && let Some(order) = self.returns.pop_front()
        {
            orders.push(order);
        }
        while orders.len() < BATCH
            && let Some(lease) = self.due(now)
        {
            orders.extend(self.visit(&lease, now, &market, true));
        }
        while orders.len() < BATCH
            && let Some(lease) = self.listed.pop_front()
        {
            orders.extend(self.visit(&lease, now, &market, false));
        }
        orders
    }

    /// Enters an answer. The lease is looked at again in the next batch.
    pub fn answered(&mut self, order: &Order, answer: Answer, now: Time, market: Market) {
        let market = self.suspecting(market);
        let lease = &order.lease;
        let mut books = lease.books.lock();
        if order.what.is_waited_for() {
            let sent = books.under_way.get().unwrap_or(now);
            books.under_way = Alarm::OFF;
            match &lease.hand {
                Hand::Tickets(tickets) => {
                    window::settle(self, &mut books, tickets, order, answer, now, &market);
                }
                Hand::Tokens(tokens) => bucket::settle(self, &mut books, tokens, order, answer, (sent, now), &market),
            }
            drop(books);
            lease.answered.notify_waiters();
            self.listed.push_back(Arc::clone(lease));
        }
    }

    /// The order was sent and not answered, or could not be sent. What it asked for counts as lost, on the safe side;
    /// debts are charged again.
    pub fn failed(&mut self, order: &Order) {
        if let Some(lease) = self.take_back(order) {
            self.listed.push_back(lease);
        }
    }

    /// Like [`failed`](Self::failed), but the lease is not put on this list again: it goes back to the caller, still
    /// listed. None if nobody waits for this order.
    #[must_use]
    pub fn take_back(&mut self, order: &Order) -> Option<Arc<Lease>> {
        if !order.what.is_waited_for() {
            return None;
        }
        order.lease.books.lock().under_way = Alarm::OFF;
        Some(Arc::clone(&order.lease))
    }

    /// Every lease that is on the list or waits for its time: for whoever trades with them from now on.
    pub fn take_all(&mut self) -> Vec<Arc<Lease>> {
        let mut leases: Vec<Arc<Lease>> = self.listed.drain(..).collect();
        for Reverse(Timer { lease, .. }) in self.timers.drain() {
            lease.books.lock().timer = Alarm::OFF;
            if lease.list() {
                leases.push(lease);
            }
        }
        leases
    }

    /// The order was not sent, and nobody waits for it: it goes with the next batch.
    pub fn keep(&mut self, order: &Order) {
        if !order.what.is_waited_for() {
            self.returns.push_back(order.clone());
        }
    }

    /// The store does not run the script that heals. What it has forgotten stays forgotten: else every answer would find
    /// the loss again.
    pub fn can_not_heal(&mut self, order: &Order) {
        let mut books = order.lease.books.lock();
        let data = books.traded_with;
        let page = books.page(order.window);
        page.own = 0;
        page.heard = 0;
        page.data = data;
    }

    /// Which data the node has, given what the node itself says: another number is other data.
    #[must_use]
    pub fn data(&self, of_node: u32) -> u32 {
        of_node.wrapping_add(self.losses)
    }

    fn suspecting(&self, market: Market) -> Market {
        Market {
            data: self.data(market.data),
            ..market
        }
    }

    /// The next lease whose time has come.
    fn due(&mut self, now: Time) -> Option<Arc<Lease>> {
        loop {
            if self.timers.peek()?.0.at > now {
                return None;
            }
            let Reverse(Timer { at, lease }) = self.timers.pop()?;
            let mut books = lease.books.lock();
            // A timer that was set anew leaves its old entry behind.
            if books.timer == Alarm::at(at) {
                books.timer = Alarm::OFF;
                drop(books);
                return Some(lease);
            }
        }
    }

    /// Looks at a lease, and says what to ask for it.
    fn visit(&mut self, lease: &Arc<Lease>, now: Time, market: &Market, timer: bool) -> Option<Order> {
        let mut books = lease.books.lock();
        if books.is_trading() {
            // It is looked at again when the answer comes.
            return None;
        }
        // Before anything is read: who finds it unlisted after this hands it in again.
        lease.listed.store(false, Ordering::SeqCst);
        let leaving = self.closing || lease.retired.load(Ordering::Acquire);
        let terms = Arc::clone(&books.terms);
        let visit = Visit {
            now,
            market,
            waiting: lease.waiting.load(Ordering::SeqCst),
            timer,
            leaving,
            thrifty: self.thrifty,
        };
        let ordered = match &lease.hand {
            Hand::Tickets(tickets) => window::visit(&mut books, tickets, &terms, &visit),
            Hand::Tokens(tokens) => bucket::visit(&mut books, tokens, &terms, &visit),
        };
        let order = ordered.map(|(window, what)| Order {
            lease: Arc::clone(lease),
            terms,
            window,
            what,
        });
        match &order {
            Some(order) if !order.what.is_waited_for() => {
                // Nobody waits for the answer, and there may be more to do.
                if lease.list() {
                    self.listed.push_back(Arc::clone(lease));
                }
            }
            Some(_) => {
                books.under_way = Alarm::at(now);
                books.traded_with = market.data;
                // Stays listed until the answer.
                lease.listed.store(true, Ordering::SeqCst);
            }
            None => books.hush(now),
        }
        if !leaving
            && let Some(at) = books.next_time()
            && books.timer.get().is_none_or(|set| at < set)
        {
            books.timer = Alarm::at(at);
            self.timers.push(Reverse(Timer {
                at,
                lease: Arc::clone(lease),
            }));
        }
        order
    }
}

/// What a look at a lease finds around it.
struct Visit<'a> {
    now: Time,
    market: &'a Market,
    /// What the requests cost that wait.
    waiting: u32,
    /// Whether a timer led here, and no request.
    timer: bool,
    /// Whether the lease gives back all it has.
    leaving: bool,
    /// Whether it holds no more than requests wait for.
    thrifty: bool,
}

/// When to look at a lease.
struct Timer {
    at: Time,
    lease: Arc<Lease>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
