//! One try of a request at one endpoint: from the choice to the end of the answer.

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use pingora::upstreams::peer::HttpPeer;

use super::breaker::{State, Turn};
use super::endpoint::{Full, InFlight};
use super::line::Line;
use super::{Ask, Endpoint, Moment, Upstream};

/// A try. It is counted as in flight until it is dropped; what it says about the endpoint counts once.
pub struct Attempt {
    upstream: Arc<Upstream>,
    here: InFlight,
    label: Arc<str>,
    probe: bool,
    /// It is in the gate of a half-open breaker.
    in_gate: bool,
    /// Since when the endpoint has all of the request, as far as it is known.
    since: Moment,
    /// How long it may be silent from then on.
    patience: Duration,
    /// Whether the end of the request is still to come.
    uploading: bool,
    settled: bool,
    /// How it gets its connection, if that is one of those that are kept here.
    line: Option<Arc<Line>>,
}

/// Why no try could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// There is no endpoint that could be tried, or none that was not tried yet.
    NoEndpoint,
    /// The endpoint had no room for it.
    Full(Full),
}

impl Attempt {
    /// Chooses an endpoint and takes room there. With it comes what the engine is told.
    ///
    /// # Errors
    /// When there is none to be chosen, or no room.
    pub async fn begin(
        upstream: &Arc<Upstream>,
        ask: &Ask<'_>,
        until: Option<Moment>,
    ) -> Result<(Self, Box<HttpPeer>), Unsent> {
        let (endpoint, label, probe, mut peer) = {
            let view = upstream.view();
            let pick = view.pick(ask).ok_or(Unsent::NoEndpoint)?;
            let member = pick.member;
            (
                Arc::clone(&member.endpoint),
                Arc::clone(&member.label),
                pick.probe,
                Box::new(member.peer.clone()),
            )
        };
        let gate = Gate::taken(probe, &endpoint);
        let mut pool = upstream.terms().pool;
        if let Some(until) = until {
            pool.queue_timeout = pool.queue_timeout.min(until.since(ask.now));
        }
        let waits = pool.max_connections.is_some();
        let here = endpoint.enter(&pool).await.map_err(|full| {
            upstream.counters().queue_refused.inc();
            Unsent::Full(full)
        })?;
        gate.pass();
        adjust(&mut peer, upstream, &endpoint, ask.now);
        let attempt = Self {
            upstream: Arc::clone(upstream),
            here,
            label,
            probe,
            in_gate: probe,
            since: if waits { Moment::now() } else { ask.now },
            patience: upstream.terms().timeouts.read,
            uploading: false,
            settled: false,
            line: None,
        };
        Ok((attempt, peer))
    }

    /// Where it went.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.here.endpoint()
    }

    /// What operators call that.
    #[must_use]
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Whether it finds out if a broken endpoint works again.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// Uses a connection that is kept here, where there are such; to be said when the engine was told everything else.
    pub fn dial(&mut self, peer: &mut HttpPeer, begun: Instant) {
        self.line = Line::lay(peer, self.endpoint().sockets(), begun);
    }

    /// Whether its connection is known to have carried other requests before.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.is_reused())
    }

    /// How long the endpoint may be silent, and whether the end of the request is still to come.
    pub fn give(&mut self, patience: Duration, uploading: bool) {
        self.patience = patience;
        self.uploading = uploading;
    }

    /// The end of the request goes to the endpoint now: what came before was the client's time.
    pub fn sent(&mut self) {
        if std::mem::replace(&mut self.uploading, false) {
            self.since = Moment::now();
        }
    }

    /// It was given up while the endpoint was silent. That is the endpoint's failure if it had its time.
    pub fn given_up(&mut self, now: Moment) {
        // Clocks are read at different moments, so a little less will do.
        if !self.uploading && now.since(self.since) >= self.patience.mul_f64(0.9) {
            self.failed(now);
        } else {
            self.ended();
        }
    }

    /// The head of an answer came.
    pub fn answered(&mut self, status: u16, now: Moment) {
        // What took long failed by itself; what was refused at once says nothing about how long work takes.
        if is_failure(status) {
            self.failed(now);
            return;
        }
        if self.settle() {
            return;
        }
        // An answer before the end of the request says nothing about how long answers take.
        if !self.uploading {
            self.endpoint().latency().observe(now.since(self.since), now);
        }
        self.upstream.counters().answered.inc();
        let breaker = self.endpoint().breaker();
        if !self.counts() {
            return;
        }
        if breaker.succeeded(&self.upstream.terms().breaker, now) == Some(Turn::Closed) {
            self.endpoint().join(now);
            self.upstream.changed();
            log::info!(
                "upstream \"{}\": endpoint {} is used again",
                self.upstream.name(),
                self.label
            );
        }
    }

    /// It failed: no connection, no answer in time, an answer that broke off or that says that the endpoint is broken.
    pub fn failed(&mut self, now: Moment) {
        if self.settle() {
            return;
        }
        self.upstream.counters().failed.inc();
        if !self.counts() {
            return;
        }
        let terms = &self.upstream.terms().breaker;
        let breaker = self.endpoint().breaker();
        let standing = self.upstream.standing();
        let mut opening = None;
        let turn = breaker.failed(terms, now, || {
            // With many that would open and may not, not each failure counts those that are.
            if breaker.is_held() && !standing.may_count(now) {
                return false;
            }
            // One at a time, so that the share of those that are open is what it may be.
            opening = Some(standing.opening.lock().unwrap_or_else(PoisonError::into_inner));
            self.may_open()
        });
        drop(opening);
        if turn == Some(Turn::Opened) {
            self.upstream.counters().opened.inc();
            self.upstream.changed();
            log::warn!(
                "upstream \"{}\": endpoint {} fails and gets no requests for a while",
                self.upstream.name(),
                self.label
            );
        }
    }

    /// Nothing can be said about the endpoint: the client left, or what failed was not the endpoint's fault.
    pub fn ended(&mut self) {
        self.settle();
    }

    /// From here on it has said what it says. Whoever was in the gate leaves it, however long the answer lasts. True if it
    /// had been said before.
    fn settle(&mut self) -> bool {
        let before = std::mem::replace(&mut self.settled, true);
        self.leave_gate();
        before
    }

    fn leave_gate(&mut self) {
        if std::mem::replace(&mut self.in_gate, false) {
            self.endpoint().breaker().leave_gate();
        }
    }

    /// Half-open, only who went through the gate finds out: others were on their way before.
    fn counts(&self) -> bool {
        self.probe || self.endpoint().breaker().state() == State::Closed
    }

    /// Whether so many others are open that this one must not be.
    fn may_open(&self) -> bool {
        let view = self.upstream.view();
        let members = view.members();
        let open = members
            .iter()
            .filter(|member| member.endpoint.breaker().state() != State::Closed)
            .count();
        let share = self.upstream.terms().breaker.max_ejected;
        let total = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let least = u32::from(total > 1 && share.parts_per_million() > 0);
        u32::try_from(open).unwrap_or(u32::MAX) < share.of(total).max(least)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.leave_gate();
    }
}

/// The gate of a half-open breaker while room is waited for: left if nothing comes of it.
struct Gate<'a>(Option<&'a Endpoint>);

impl<'a> Gate<'a> {
    fn taken(probe: bool, endpoint: &'a Endpoint) -> Self {
        Self(probe.then_some(endpoint))
    }

    fn pass(mut self) {
        self.0 = None;
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0 {
            endpoint.breaker().leave_gate();
        }
    }
}

/// Whether an answer says that the endpoint is broken: 501 and the like say something about the request.
#[must_use]
pub fn is_failure(status: u16) -> bool {
    matches!(status, 500 | 502..=504)
}

/// What depends on how the endpoint is now.
fn adjust(peer: &mut HttpPeer, upstream: &Upstream, endpoint: &Endpoint, now: Moment) {
    let pool = &upstream.terms().pool;
    if let Some(max_age) = pool.max_age {
        // Connections of another generation are never taken again. Endpoints do not change theirs at the same time.
        let length = u64::try_from(max_age.as_micros()).unwrap_or(u64::MAX).max(1);
        let shift = u64::from(endpoint.id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) % length;
        let age = now.micros().wrapping_add(shift);
        peer.group_key ^= (age / length).wrapping_mul(0xff51_afd7_ed55_8ccd);
        // Nor are they kept: nobody would find them.
        let left = Duration::from_micros(length - age % length);
        peer.options.idle_timeout = peer.options.idle_timeout.map(|idle| idle.min(left));
    }
    if let Some(max_idle) = pool.max_idle {
        let idle = endpoint.sockets().open().saturating_sub(endpoint.in_flight());
        if idle >= max_idle {
            // Not kept when this request is done: there are enough.
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
    }
}
