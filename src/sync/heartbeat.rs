//! What a gateway tells its control plane every ten seconds, and what it hears: how many there are, what is newest, and
//! whether it is to leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::client::{Client, ClientError, jitter, segment};
use super::keys::KeyFollower;
use super::progress::Progress;
use super::seat::{PATIENCE, Seats, Standing};
use crate::clock::unix_ms;
use crate::distribution::protocol::{Command, Heartbeat, HeartbeatReply};
use crate::redis::{Health, Redis};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Totals;
use crate::throttle::Throttle;

/// How often, give or take a fifth.
const EVERY: Duration = Duration::from_secs(10);

/// Beats that are caused by a change come no faster than this.
const SOONEST: Duration = Duration::from_millis(200);

/// The last beat does not hold up the end.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// Tells the control plane how this gateway is.
pub struct Beats {
    /// The control plane.
    pub client: Client,
    /// The seat that is kept by it.
    pub seats: Arc<Seats>,
    /// What was applied and refused.
    pub progress: Arc<Progress>,
    /// How far the key log was read.
    pub key_seq: watch::Receiver<u64>,
    /// Follows it.
    pub keys: Arc<KeyFollower>,
    /// How busy it is.
    pub metrics: Arc<Metrics>,
    /// Who has to know how many gateways there are.
    pub throttle: Arc<Throttle>,
    /// How that is.
    pub redis: Option<Redis>,
}

/// What a beat led to.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// All is well; says how long the seat lasts.
    Well(Duration),
    /// It has to be asked for a seat again.
    Unknown,
    Drain,
    Nothing(String),
}

impl Beats {
    /// Asks for a seat, and keeps it, until the process leaves; then says so. `on_full` is called when the pool has none, `on_drain`
    /// when the control plane wants this gateway to leave.
    pub async fn run(self, mut leaving: watch::Receiver<bool>, on_full: impl Fn(&str), on_drain: impl Fn()) {
        tokio::select! {
            _ = leaving.wait_for(|leaving| *leaving) => {}
            () = self.beat(&on_full, &on_drain) => {}
        }
        if *self.seats.standing().borrow() == Standing::Seated {
            let farewell = self.heartbeat(&mut (Instant::now(), self.metrics.totals()), true);
            let _ = self.send(&farewell, FAREWELL).await;
        }
    }

    async fn beat(&self, on_full: &impl Fn(&str), on_drain: &impl Fn()) {
        let started = Instant::now();
        let mut reported = self.progress.reported();
        let mut key_seq = self.key_seq.clone();
        let mut load = (started, self.metrics.totals());
        let mut next = phase(self.seats.instance_id());
        let mut told = None;
        let mut was_unknown = false;
        loop {
            if *self.seats.standing().borrow() != Standing::Seated {
                self.seats.ask_until_seated(unix_ms, on_full).await;
                if *self.seats.standing().borrow() == Standing::NotNeeded {
                    // Nobody is there to be told anything.
                    return std::future::pending().await;
                }
            }
            let beat = self.heartbeat(&mut load, false);
            let sent = Instant::now();
            let heard = self.send(&beat, PATIENCE).await;
            // A seat that is given and not known right afterwards, as by two nodes that do not know of each other.
            let again = std::mem::replace(&mut was_unknown, heard == Heard::Unknown) && was_unknown;
            let pause = match heard {
                Heard::Well(ttl) => {
                    told = None;
                    EVERY.min(ttl / 3).mul_f64(jitter(0.8..1.2)).max(SOONEST)
                }
                Heard::Unknown => {
                    if again {
                        tokio::time::sleep(EVERY.mul_f64(jitter(0.0..1.0))).await;
                    }
                    self.seats.ask_until_seated(unix_ms, on_full).await;
                    continue;
                }
                Heard::Drain => {
                    on_drain();
                    return std::future::pending().await;
                }
                Heard::Nothing(why) => {
                    if told.replace(why.clone()) != Some(why.clone()) {
                        log::warn!("heartbeat: {why}");
                    }
                    EVERY.mul_f64(jitter(0.8..1.2))
                }
            };
            let pause = next.take().unwrap_or(pause);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = reported.changed() => tokio::time::sleep(SOONEST.saturating_sub(sent.elapsed())).await,
            }
            // What it says is in the next beat, and no reason for one.
            key_seq.mark_unchanged();
        }
    }

    fn heartbeat(&self, load: &mut (Instant, Totals), draining: bool) -> Heartbeat {
        let totals = self.metrics.totals();
        let since = totals.since(&load.1, load.0.elapsed());
        *load = (Instant::now(), totals);
        let reported = self.progress.reported().borrow().clone();
        Heartbeat {
            seat: self.seats.token(),
            applied: reported.applied,
            refused: reported.refused,
            key_seq: *self.key_seq.borrow(),
            uptime_s: uptime().as_secs(),
            requests_per_second: since.requests_per_second,
            errors: since.errors,
            p99_ms: since.p99_ms,
            redis: self.redis.as_ref().map(|redis| worst(redis).to_owned()),
            draining,
        }
    }

    async fn send(&self, beat: &Heartbeat, patience: Duration) -> Heard {
        let path = format!("/v1/instances/{}/heartbeat", segment(self.seats.instance_id()));
        let answer = match self.client.post(&path, beat, patience).await {
            Ok(answer) => answer,
            Err(error) => return Heard::Nothing(error.to_string()),
        };
        match answer.status {
            200 => {}
            // `seat_unknown`.
            404 => return Heard::Unknown,
            status => return Heard::Nothing(ClientError::Status(status).to_string()),
        }
        let reply: HeartbeatReply = match answer.json() {
            Ok(reply) => reply,
            Err(error) => return Heard::Nothing(error.to_string()),
        };
        self.seats.held(reply.live, unix_ms()).await;
        if let Some(shared) = self.throttle.sharing()
            && reply.live > 0
            && shared.instances() != reply.live
        {
            log::info!("{} gateways share the limits now", reply.live);
            shared.set_instances(reply.live);
        }
        self.progress.newest_is(reply.latest_seq);
        self.keys.newest_is(reply.key_seq);
        if reply.commands.contains(&Command::Drain) {
            return Heard::Drain;
        }
        Heard::Well(Duration::from_secs(reply.ttl_s))
    }
}

/// When the second beat comes: each gateway has its own time, also if all were started in the same moment.
fn phase(instance_id: &str) -> Option<Duration> {
    let [a, b, ..]: [u8; 32] = Sha256::digest(instance_id).into();
    Some(
        EVERY
            .mul_f64(f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX))
            .max(SOONEST),
    )
}

/// The health of the worst of its servers.
fn worst(redis: &Redis) -> &'static str {
    let nodes = redis.nodes();
    let is = |health| nodes.iter().any(|node| node.health() == health);
    if nodes.is_empty() || is(Health::Down) {
        "down"
    } else if is(Health::Slow) {
        "slow"
    } else {
        "up"
    }
}

/// How long this process has been running.
fn uptime() -> Duration {
    static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed()
}
