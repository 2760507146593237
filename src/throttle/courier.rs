//! Carries orders to Redis and answers back: one task for each node, in the background.
//!
//! A task sends what there is as one pipeline as soon as the last answer has come: idle, a single order leaves at once;
//! busy, orders gather while the pipeline is under way; and those that no request waits for gather for 5 ms in any case. A second pipeline goes along only when a whole batch has
//! gathered. While the node is down nothing is sent, and nothing is lost: leases stay listed.
//!
//! Buying tickets needs no script; a script runs only for buckets and for the rare healing. A node that does not know the
//! script yet is sent its text once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus::IntGauge;
use redis::{Cmd, Pipeline, Script, ServerError, Value};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::books::GATHER;
use super::clock::{Disciplined, REFERENCE};
use super::exchange::{Answer, BATCH, Exchange, Market, Order, What};
use super::lease::Lease;
use super::shared::{Inbox, Shared};
use super::store_key;
use super::terms::Terms;
use super::window::{Time, Window, nominal_length};
use crate::redis::{Failure, Health, Node, Redis, Reply, Slot};

/// How often the store is asked for the time.
const TIME_EVERY: Duration = Duration::from_secs(5);

/// How often a node that is down is looked at; it costs nothing but the look.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Between two lines about errors of the store.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// How long an order that the store answered with an error is put off.
const PUT_OFF: Duration = Duration::from_millis(50);

/// How much longer than its window a counter is kept at least, for those who come late: a minute.
const GRACE: u64 = 60_000;

/// How the store says that it does not know a script.
const NO_SCRIPT: &str = "NOSCRIPT";

/// Takes tokens out of a bucket. `full` is the instant at which it is full again, in microseconds; a debt is charged even
/// if the bucket goes below empty by it, and tokens that come back are a debt below zero. Instants below 2⁵³ are exact as numbers of Lua.
const FILL: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, charge, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local full, kept = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%S+)$')
full, kept = tonumber(full) or 0, tonumber(kept) or interval
if full < now then full = now end
if kept ~= interval then full = now + (full - now) / kept * interval end
full = math.min(full, now + 2 * burst * interval) + charge * interval
local room = math.floor((now + burst * interval - full) / interval)
local granted = math.max(0, math.min(want, room))
full = full + granted * interval
if charge + granted ~= 0 or kept ~= interval then
  local text = string.format('%.2f %.6f', full, interval)
  redis.call('SET', KEYS[1], text, 'PX', math.ceil(math.max(0, full - now) / 1000) + 1000)
end
return {granted, room - granted}
";

/// Raises a counter to what is known of it, never lowers it; any number of gateways may do it. Answers the counter, and
/// that of the window before.
const HEAL: &str = r"
local count = tonumber(redis.call('GET', KEYS[1]) or '0') or 0
local seen = tonumber(ARGV[1])
if count < seen then
  count = seen
  redis.call('SET', KEYS[1], string.format('%.0f', count))
end
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return {count, tonumber(redis.call('GET', KEYS[2]) or '0') or 0}
";

/// The tasks that trade with Redis.
pub struct Courier {
    shared: Arc<Shared>,
    close: watch::Sender<bool>,
    tasks: tokio::task::JoinHandle<()>,
}

impl Courier {
    /// Starts them on this runtime.
    #[must_use]
    pub fn start(shared: Arc<Shared>, redis: Redis, runtime: &Handle) -> Self {
        let (close, closing) = watch::channel(false);
        let tasks = runtime.spawn(dispatch(Arc::clone(&shared), redis, closing));
        Self { shared, close, tasks }
    }

    /// Gives back every ticket that is not spent, and charges every debt. To be called when no request is served any
    /// more. False if that was not done in time: then Redis counts more than was admitted, until the windows end.
    pub async fn close(self, within: Duration) -> bool {
        self.shared.retire_all();
        // Nobody listens only if the tasks have ended.
        let _ = self.close.send(true);
        timeout(within, self.tasks).await.is_ok_and(|ended| ended.is_ok()) && self.shared.unsettled() == 0
    }
}

/// Hands leases to the task of the node that keeps them.
async fn dispatch(shared: Arc<Shared>, redis: Redis, mut closing: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    let mut mailboxes: HashMap<String, mpsc::UnboundedSender<Arc<Lease>>> = HashMap::new();
    let mut changed = redis.changed();
    changed.mark_changed();
    let mut from = Instant::now();
    loop {
        // A task ends by itself only if it has panicked; the node gets a new one.
        let before = mailboxes.len();
        mailboxes.retain(|_, mailbox| !mailbox.is_closed());
        if mailboxes.len() < before {
            changed.mark_changed();
        }
        while tasks.try_join_next().is_some() {}
        if changed.has_changed().unwrap_or(false) {
            changed.mark_unchanged();
            let nodes = redis.nodes();
            // The task of a node that is gone ends when it has handed everything back.
            mailboxes.retain(|name, _| nodes.iter().any(|node| node.name() == name));
            for node in nodes {
                mailboxes.entry(node.name().to_owned()).or_insert_with(|| {
                    // Not bounded by itself: it holds listed leases, and those are bounded.
                    let (sender, mailbox) = mpsc::unbounded_channel();
                    let trade = Trade::new(node, Arc::clone(&shared), redis.clone());
                    tasks.spawn(trade.run(mailbox));
                    sender
                });
            }
        }
        let leases = tokio::select! {
            leases = shared.inbox().take(from) => leases,
            more = changed.changed() => {
                if more.is_ok() {
                    changed.mark_changed();
                }
                continue;
            }
            _ = closing.wait_for(|closing| *closing) => break,
        };
        from = Inbox::rests_until();
        let mut homeless = Vec::new();
        for lease in leases {
            let node = redis.node_of(lease.slot());
            let mailbox = node.and_then(|node| mailboxes.get(node.name()));
            if let Some(lease) = match mailbox {
                Some(mailbox) => mailbox.send(lease).err().map(|refused| refused.0),
                None => Some(lease),
            } {
                homeless.push(lease);
            }
        }
        if !homeless.is_empty() {
            redis.refresh();
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                tokio::time::sleep(PUT_OFF).await;
                for lease in homeless {
                    shared.inbox().put(lease);
                }
            });
        }
    }
    for lease in shared.inbox().take_now() {
        if let Some(mailbox) = redis.node_of(lease.slot()).and_then(|node| mailboxes.get(node.name())) {
            // A task that has ended can not charge anything.
            let _ = mailbox.send(lease);
        }
    }
    drop(mailboxes);
    while tasks.join_next().await.is_some() {}
}

/// The trade with one node.
struct Trade {
    node: Arc<Node>,
    shared: Arc<Shared>,
    redis: Redis,
    exchange: Exchange,
    fill: Text,
    heal: Text,
    discipline: Disciplined,
    time_asked: Option<Instant>,
    /// Leases whose orders were answered with an error, with the time to try again.
    put_off: VecDeque<(Instant, Arc<Lease>)>,
    /// Counters that a return has made negative: they were lost, and the return came too late.
    negative: Vec<(String, u64)>,
    complained: Option<Instant>,
    /// After a failure nothing is sent for a moment: a node that is being connected to says so at once, again and again.
    quiet_until: Option<Instant>,
    /// When it was last looked what is to be sent.
    batched: Option<Instant>,
    /// Which data operators were told that the node has.
    told: Option<u32>,
    backlog: IntGauge,
}

/// A script, and whether the node was sent its text.
struct Text {
    text: &'static str,
    hash: String,
    known: bool,
}

impl Text {
    fn new(text: &'static str) -> Self {
        Self {
            text,
            hash: Script::new(text).get_hash().to_owned(),
            known: false,
        }
    }

    /// `EVALSHA`, or the first time `EVAL` with the text, which the node remembers.
    fn command(&mut self) -> Cmd {
        let mut command = Cmd::new();
        if std::mem::replace(&mut self.known, true) {
            command.arg("EVALSHA").arg(&self.hash);
        } else {
            command.arg("EVAL").arg(self.text);
        }
        command
    }
}

/// A pipeline that was sent.
struct Sent {
    orders: Vec<Order>,
    asked_time: bool,
    result: Result<Reply, Failure>,
}

impl Trade {
    fn new(node: Arc<Node>, shared: Arc<Shared>, redis: Redis) -> Self {
        let overshoot = shared.meters().overshoot.clone();
        let backlog = shared.meters().backlog.with_label_values(&[node.name()]);
        Self {
            node,
            shared,
            redis,
            exchange: Exchange::new(move |part| overshoot.observe(part)),
            fill: Text::new(FILL),
            heal: Text::new(HEAL),
            discipline: Disciplined::default(),
            time_asked: None,
            put_off: VecDeque::new(),
            negative: Vec::new(),
            complained: None,
            quiet_until: None,
            batched: None,
            told: None,
            backlog,
        }
    }

    async fn run(mut self, mut mailbox: mpsc::UnboundedReceiver<Arc<Lease>>) {
        let mut under_way = FuturesUnordered::new();
        let mut closed = false;
        loop {
            self.take_up_again();
            self.exchange.set_thrifty(self.shared.is_thrifty());
            let room = under_way.is_empty() || (under_way.len() < 2 && self.exchange.backlog() >= BATCH);
            let quiet = self.quiet_until.is_some_and(|until| Instant::now() < until);
            let up = self.node.health() != Health::Down && !quiet;
            self.tell();
            let open = room && up;
            if open {
                self.batched = Some(Instant::now());
                let batch = self.exchange.batch(self.now(), self.market());
                let (orders, more) = self.keep_own(batch);
                let ask_time = self.wants_time();
                if !orders.is_empty() || ask_time || !self.negative.is_empty() {
                    let pipeline = self.pack(&orders, ask_time);
                    let node = Arc::clone(&self.node);
                    under_way.push(async move {
                        let result = node.send(&pipeline).await;
                        Sent {
                            orders,
                            asked_time: ask_time,
                            result,
                        }
                    });
                    continue;
                }
                if more {
                    continue;
                }
            }
            let down = self.node.health() == Health::Down;
            if closed && under_way.is_empty() && (down || (self.exchange.backlog() == 0 && self.put_off.is_empty())) {
                return;
            }
            let wake = if open {
                self.next_wake()
            } else if under_way.is_empty() {
                Instant::now() + LOOK_EVERY
            } else {
                // What is due is sent when the answer is there.
                Instant::now() + TIME_EVERY
            };
            tokio::select! {
                Some(sent) = under_way.next(), if !under_way.is_empty() => self.unpack(sent),
                lease = mailbox.recv(), if !closed => match lease {
                    Some(lease) => {
                        self.exchange.wish(lease);
                        while let Ok(lease) = mailbox.try_recv() {
                            self.exchange.wish(lease);
                        }
                    }
                    None => {
                        closed = true;
                        self.exchange.close();
                    }
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// The store's time, now.
    fn now(&self) -> Time {
        self.shared.clock().now()
    }

    fn market(&self) -> Market {
        let settings = self.shared.settings();
        Market {
            instances: self.shared.instances(),
            term: nanos(settings.term),
            round_trip: nanos(self.node.round_trip()),
            data: self.data(),
            dice: rand::random(),
        }
    }

    /// Which data the node has, as far as the node knows.
    fn data(&self) -> u32 {
        let identity = self.node.data_identity();
        (identity ^ identity >> 32) as u32
    }

    /// Tells operators how the trade goes.
    fn tell(&mut self) {
        let data = self.exchange.data(self.data());
        if self.told != Some(data) {
            self.told = Some(data);
            self.shared.note_data(self.node.name(), Some(data));
        }
        self.backlog
            .set(i64::try_from(self.exchange.backlog()).unwrap_or(i64::MAX));
    }

    /// Orders for slots that this node does not keep any more go back to the dispatcher. With the rest comes whether there
    /// were any: then there may be more on the list.
    fn keep_own(&mut self, orders: Vec<Order>) -> (Vec<Order>, bool) {
        let own = |order: &Order| {
            self.redis
                .node_of(order.lease.slot())
                .is_some_and(|node| Arc::ptr_eq(&node, &self.node))
        };
        let (own, foreign): (Vec<Order>, Vec<Order>) = orders.into_iter().partition(own);
        let any = !foreign.is_empty();
        for order in foreign {
            if let Some(lease) = self.exchange.take_back(&order) {
                self.shared.inbox().put(lease);
            }
        }
        (own, any)
    }

    fn wants_time(&mut self) -> bool {
        let due = self.time_asked.is_none_or(|asked| asked.elapsed() >= TIME_EVERY);
        if !due {
            return false;
        }
        self.time_asked = Some(Instant::now());
        self.redis
            .node_of(Slot::of_tag(REFERENCE))
            .is_some_and(|node| Arc::ptr_eq(&node, &self.node))
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let mut wake = self.time_asked.map_or(now, |asked| asked + TIME_EVERY);
        if let Some(at) = self.exchange.next_time() {
            // Timers are for what nobody waits for.
            let from = self.batched.map_or(now, |then| then + Duration::from_nanos(GATHER));
            wake = wake.min((now + Duration::from_nanos(at.since(self.now()))).max(from));
        }
        if let Some((at, _)) = self.put_off.front() {
            wake = wake.min(*at);
        }
        wake
    }

    /// Leases that were put off go back to the dispatcher: their slots may have moved.
    fn take_up_again(&mut self) {
        let now = Instant::now();
        while self.put_off.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, lease)) = self.put_off.pop_front() {
                self.shared.inbox().put(lease);
            }
        }
    }

    fn pack(&mut self, orders: &[Order], ask_time: bool) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(orders.len() * 2 + 1);
        let (mut takes, mut returns, mut expiries, mut looks, mut scripts) = (0, 0, 0, 0, 0);
        for order in orders {
            let terms = &order.terms;
            let shape = terms.quota.shape();
            let key = store_key::key(order.lease.name(), terms, order.window);
            let before = || store_key::key(order.lease.name(), terms, order.window.saturating_sub(1));
            match order.what {
                What::Take { charge, want, expire } => {
                    pipeline
                        .cmd("INCRBY")
                        .arg(&key)
                        .arg(u64::from(charge) + u64::from(want));
                    takes += 1;
                    if expire {
                        pipeline.cmd("PEXPIREAT").arg(&key).arg(ends(order));
                        expiries += 1;
                    }
                    if shape.slides() {
                        pipeline.cmd("GET").arg(before());
                        looks += 1;
                    }
                }
                What::Return { count } => {
                    pipeline.cmd("DECRBY").arg(&key).arg(count);
                    returns += 1;
                }
                What::Heal { seen } => {
                    let mut command = self.heal.command();
                    command.arg(2).arg(&key).arg(before()).arg(seen).arg(ends(order));
                    pipeline.add_command(command);
                    scripts += 1;
                    self.shared.meters().healed.inc();
                }
                What::Fill { charge, want } => {
                    pipeline.add_command(self.fill(terms, &key, f64::from(charge), want));
                    scripts += 1;
                }
                What::Restore { count, after } => {
                    let gained = after as f64 / terms.quota.interval() as f64;
                    pipeline.add_command(self.fill(terms, &key, gained - f64::from(count), 0));
                    scripts += 1;
                }
            }
        }
        for (key, end) in self.negative.drain(..) {
            let mut command = Cmd::new();
            command.arg("EVAL").arg(HEAL).arg(2).arg(&key).arg(&key).arg(0).arg(end);
            pipeline.add_command(command).ignore();
            scripts += 1;
        }
        if ask_time {
            pipeline.cmd("TIME");
        }
        let count = |command: &str, number: usize| {
            if number > 0 {
                let counter = self.shared.meters().commands.with_label_values(&[command]);
                counter.inc_by(number as u64);
            }
        };
        count("incrby", takes);
        count("decrby", returns);
        count("pexpireat", expiries);
        count("get", looks);
        count("script", scripts);
        count("time", usize::from(ask_time));
        pipeline
    }

    fn fill(&mut self, terms: &Terms, key: &str, charge: f64, want: u32) -> Cmd {
        let mut command = self.fill.command();
        let micros = terms.quota.interval() as f64 / 1_000.0;
        command
            .arg(1)
            .arg(key)
            .arg(format!("{micros:.6}"))
            .arg(terms.limit())
            .arg(format!("{charge:.6}"))
            .arg(want);
        command
    }

    fn unpack(&mut self, sent: Sent) {
        let reply = match sent.result {
            Ok(reply) => reply,
            Err(failure) => {
                log::debug!("{}: {failure}", self.node.name());
                for order in &sent.orders {
                    self.exchange.failed(order);
                    if failure == Failure::Unavailable {
                        self.exchange.keep(order);
                    }
                }
                self.quiet_until = Some(Instant::now() + LOOK_EVERY);
                // It may come back with another clock.
                self.time_asked = None;
                self.discipline.forget();
                return;
            }
        };
        if sent.asked_time
            && let Some(Ok(Value::Array(time))) = reply.values.last()
            && let [seconds, micros] = time.as_slice()
            && let (Some(seconds), Some(micros)) = (number(seconds), number(micros))
        {
            let store = Time::from_unix_seconds(u64::try_from(seconds).unwrap_or(0))
                .plus(u64::try_from(micros).unwrap_or(0).saturating_mul(1_000));
            self.discipline
                .measured(self.shared.clock(), store, reply.sent, reply.received);
        }
        let market = self.market();
        let mut values = reply.values.into_iter();
        for order in &sent.orders {
            let answer = self.answer(order, &mut values);
            let now = self.now();
            match answer {
                Ok(Some(answer)) => {
                    self.exchange.answered(order, answer, now, market);
                }
                Ok(None) => {}
                Err(error) => self.erred(order, error.as_deref()),
            }
        }
    }

    /// The answer to an order, out of as many values as it sent commands. An error is told with its text, if there is one.
    fn answer(
        &mut self,
        order: &Order,
        values: &mut impl Iterator<Item = Result<Value, ServerError>>,
    ) -> Result<Option<Answer>, Option<String>> {
        let mut next = || match values.next() {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(Some(format!(
                "{} {}",
                error.code(),
                error.details().unwrap_or_default()
            ))),
            None => Err(None),
        };
        match order.what {
            What::Take { expire, .. } => {
                // Every value is taken, whatever one of them says.
                let count = next();
                let expiry = if expire { next() } else { Ok(Value::Nil) };
                let previous = if order.terms.quota.shape().slides() {
                    next()
                } else {
                    Ok(Value::Nil)
                };
                let value = number(&count?).ok_or(None)?;
                // It was counted, so it is entered; what went wrong beside it is asked for again with the next order.
                for error in [&expiry, &previous]
                    .into_iter()
                    .filter_map(|result| result.as_ref().err())
                {
                    self.complain(error.as_deref());
                }
                Ok(Some(Answer::Count {
                    value,
                    previous: match previous {
                        Ok(Value::Nil) => Some(0),
                        Ok(value) => number(&value),
                        Err(_) => None,
                    },
                    expires: expiry.is_ok(),
                }))
            }
            What::Restore { .. } => next().map(|_| None),
            What::Return { .. } => {
                let count = next()?;
                if number(&count).is_some_and(|count| count < 0) {
                    let key = store_key::key(order.lease.name(), &order.terms, order.window);
                    self.negative.push((key, ends(order)));
                }
                Ok(None)
            }
            What::Heal { .. } => match next()? {
                Value::Array(pair) => match pair.as_slice() {
                    [value, previous] => Ok(Some(Answer::Count {
                        value: number(value).ok_or(None)?,
                        previous: number(previous),
                        expires: true,
                    })),
                    _ => Err(None),
                },
                _ => Err(None),
            },
            What::Fill { .. } => match next()? {
                Value::Array(pair) => match pair.as_slice() {
                    [granted, left] => Ok(Some(Answer::Bucket {
                        granted: number(granted)
                            .and_then(|granted| u32::try_from(granted).ok())
                            .ok_or(None)?,
                        left: number(left).ok_or(None)?,
                    })),
                    _ => Err(None),
                },
                _ => Err(None),
            },
        }
    }

    /// The store has answered an order with an error. It is tried again a little later, perhaps elsewhere.
    fn erred(&mut self, order: &Order, error: Option<&str>) {
        let no_script = error.is_some_and(|text| text.starts_with(NO_SCRIPT));
        if no_script {
            // The node was restarted, or its scripts were flushed.
            self.fill.known = false;
            self.heal.known = false;
        } else {
            self.complain(error);
            if matches!(order.what, What::Heal { .. }) {
                self.exchange.can_not_heal(order);
            }
        }
        let Some(lease) = self.exchange.take_back(order) else {
            return;
        };
        if no_script {
            self.shared.inbox().put(lease);
        } else {
            self.put_off.push_back((Instant::now() + PUT_OFF, lease));
        }
    }

    /// Counts an error, and says it now and then.
    fn complain(&mut self, error: Option<&str>) {
        self.shared.meters().errors.inc();
        let now = Instant::now();
        if self.complained.is_none_or(|then| now - then >= SAY_AGAIN) {
            self.complained = Some(now);
            let text = error.unwrap_or("an answer that makes no sense");
            log::warn!("{}: shared counters: {text}", self.node.name());
        }
    }
}

impl Drop for Trade {
    /// The node is gone: whoever keeps its slots now gets what it had on the list.
    fn drop(&mut self) {
        self.shared.note_data(self.node.name(), None);
        // No series for every address that a cluster ever had.
        let _ = self.shared.meters().backlog.remove_label_values(&[self.node.name()]);
        for lease in self.exchange.take_all() {
            self.shared.inbox().put(lease);
        }
        for (_, lease) in self.put_off.drain(..) {
            self.shared.inbox().put(lease);
        }
    }
}

/// When a counter may be forgotten, in milliseconds of unix time: with some grace after the end of its window, and for a
/// sliding limit after the next one, which looks at it.
fn ends(order: &Order) -> u64 {
    let shape = order.terms.quota.shape();
    let window: Window = shape.window_at(order.window);
    let length = nominal_length(shape.period()) / 1_000_000;
    let next = if shape.slides() { length } else { 0 };
    window.end.unix_nanos() / 1_000_000 + next + (length / 10).max(GRACE)
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
