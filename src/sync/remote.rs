//! Everything of this gateway that has to do with a control plane, put together.

mod succession;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Revisions;
use super::client::Client;
use super::crash_guard::{CrashGuard, Guard};
use super::heartbeat::{Beats, FAREWELL};
use super::keys::{KeyFollower, Parts};
use super::last_good::LastGood;
use super::progress::Progress;
use super::pull::Pull;
use super::seat::{Seats, Standing, Verdict};
use super::state_dir::{StateDir, TAKE_OVER};
use super::trust::Trust;
use super::verify::Expected;
use crate::auth::KeyStore;
use crate::clock::unix_ms;
use crate::config::{Config, ControlPlane};
use crate::distribution::Manifest;
use crate::distribution::protocol::{CAPABILITIES, Register};
use crate::gateway::drain::{Drain, Leave};
use crate::redis::Redis;
use crate::telemetry::Metrics;
use crate::throttle::Throttle;
pub use succession::Origin;
use succession::Predecessor;

/// How long a start waits for an answer about a seat; less with one on disk, which is as good.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
const FIRST_ANSWER_SEATED: Duration = Duration::from_secs(1);

/// How long an end waits until the seat is free.
const FREED: Duration = Duration::from_secs(2);

/// A control plane, as this gateway sees it.
pub struct Remote {
    client: Client,
    trust: Arc<Trust>,
    state: Arc<StateDir>,
    seats: Arc<Seats>,
    guard: Arc<Guard>,
    last_good: Arc<LastGood>,
    progress: Arc<Progress>,
    manifests: watch::Sender<Option<Manifest>>,
    key_store: Arc<KeyStore>,
    keys: Arc<KeyFollower>,
    expected: Expected,
    pull: OnceLock<Arc<Pull>>,
    company: OnceLock<Company>,
    loops: Mutex<Option<Loops>>,
    /// Of the process before this one, from which it takes over when it starts.
    before: Mutex<Option<Predecessor>>,
    /// Whether another process speaks for this gateway now.
    handed_over: AtomicBool,
    full: Arc<OnceLock<String>>,
    drained: Arc<AtomicBool>,
}

/// What the loops work with.
struct Company {
    runtime: Handle,
    leave: Arc<Leave>,
    drain: Drain,
    throttle: Arc<Throttle>,
    redis: Option<Redis>,
    metrics: Arc<Metrics>,
}

/// What speaks for this gateway, and is stopped when another process does. Who follows keys is not among them.
struct Loops {
    pull: Vec<JoinHandle<()>>,
    beats: JoinHandle<()>,
}

/// Why a gateway does not start with its control plane.
#[derive(Debug)]
pub enum OpenError {
    /// Something of the machine or of the configuration.
    Machine(String),
    /// The pool has no seat, and the configuration says that the process is to end then.
    PoolFull(String),
}

impl Remote {
    /// Takes the state directory, and asks for a seat once. Blocks, a few seconds at most. A successor asks for nothing
    /// and writes nothing: it has the seat of the process before it, and waits for nobody.
    ///
    /// # Errors
    /// When something on disk can not be used, or there is no seat.
    pub fn open(
        config: &Config,
        settings: &ControlPlane,
        metrics: &Metrics,
        runtime: &Handle,
        origin: Origin,
    ) -> Result<Self, OpenError> {
        let client = Client::new(settings).map_err(OpenError::Machine)?;
        let succeeds = matches!(origin, Origin::Successor(_));
        let state = match origin {
            Origin::Fresh => StateDir::open(&settings.state_dir, TAKE_OVER),
            Origin::Successor(lock) => StateDir::inherit(&settings.state_dir, lock),
        };
        let state = Arc::new(state.map_err(OpenError::Machine)?);
        let trust = Trust::open(&settings.public_keys, Arc::clone(&state)).map_err(OpenError::Machine)?;
        let last_good = LastGood::open(Arc::clone(&state)).map_err(OpenError::Machine)?;
        let gateway = &config.gateway;
        let register = Register {
            instance_id: state.instance_id().map_err(OpenError::Machine)?,
            name: gateway.id.clone(),
            environment: gateway.environment.clone(),
            labels: gateway.labels.clone(),
            zone: gateway.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: CAPABILITIES.iter().map(|&known| known.to_owned()).collect(),
            replaces: None,
            seat: None,
        };
        let seats = Seats::open(
            client.clone(),
            Arc::clone(&state),
            (gateway.pool.clone(), register),
            settings,
            (metrics.control_plane(), unix_ms()),
        );
        let mut before = None;
        if succeeds {
            let lent = Predecessor::of(&state, gateway).map_err(OpenError::Machine)?;
            seats.succeed(lent.standing);
            before = Some(lent);
        } else {
            first_answer(&seats, &gateway.pool, runtime)?;
        }
        let (trust, manifests, key_store) = (Arc::new(trust), watch::Sender::default(), Arc::new(KeyStore::new()));
        let keys = Parts {
            client: client.clone(),
            trust: Arc::clone(&trust),
            store: Arc::clone(&key_store),
            environment: gateway.environment.clone(),
            mode: settings.keys,
            manifests: manifests.subscribe(),
            // What can not be read is told when revisions are followed.
            newest_seen: last_good.highest().ok().flatten().map_or(0, |newest| newest.seq),
            metrics: metrics.keys(),
        };
        let keys = KeyFollower::open(keys, Arc::clone(&state)).map_err(OpenError::Machine)?;
        Ok(Self {
            expected: Expected {
                environment: gateway.environment.clone(),
                environment_type: gateway.environment_type,
                max_bytes: settings.max_bytes,
                max_routes: settings.max_routes,
            },
            client,
            trust,
            guard: Arc::new(Guard::open(Arc::clone(&state))),
            state,
            seats: Arc::new(seats),
            last_good: Arc::new(last_good),
            progress: Arc::default(),
            manifests,
            key_store,
            keys: Arc::new(keys),
            pull: OnceLock::new(),
            company: OnceLock::new(),
            loops: Mutex::default(),
            before: Mutex::new(before),
            handed_over: AtomicBool::default(),
            full: Arc::default(),
            drained: Arc::default(),
        })
    }

    /// Starts from disk, if this gateway may serve: then it is ready before anybody else is asked. Blocks.
    pub fn boot(&self, revisions: &Arc<Revisions>, metrics: &Metrics) {
        let pull = self.pull.get_or_init(|| {
            Arc::new(Pull {
                expected: self.expected.clone(),
                client: self.client.clone(),
                trust: Arc::clone(&self.trust),
                revisions: Arc::clone(revisions),
                last_good: Arc::clone(&self.last_good),
                guard: Arc::clone(&self.guard),
                progress: Arc::clone(&self.progress),
                manifests: self.manifests.clone(),
                metrics: metrics.control_plane(),
                swaps: Arc::new(AtomicU64::new(0)),
            })
        });
        if self.seats.standing().borrow().may_serve() {
            pull.boot();
        }
    }

    /// Starts everything that goes on in the background. After [`Self::boot`]. In a successor: after the process before
    /// it has handed over, and not earlier; from then on this process writes the state directory.
    pub fn start(
        &self,
        runtime: &Handle,
        (leave, drain): (&Arc<Leave>, &Drain),
        (throttle, redis): (&Arc<Throttle>, Option<&Redis>),
        metrics: &Arc<Metrics>,
    ) {
        let company = self.company.get_or_init(|| Company {
            runtime: runtime.clone(),
            leave: Arc::clone(leave),
            drain: drain.clone(),
            throttle: Arc::clone(throttle),
            redis: redis.cloned(),
            metrics: Arc::clone(metrics),
        });
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).take();
        let succeeds = before.is_some();
        if let Some(before) = before {
            self.take_over(&before, throttle);
        }
        let keys = Arc::clone(&self.keys);
        runtime.spawn(async move {
            if succeeds {
                let keys = Arc::clone(&keys);
                let _ = tokio::task::spawn_blocking(move || keys.take_over()).await;
            }
            keys.run().await;
        });
        self.start_loops(company, succeeds);
    }

    /// Starts what speaks for this gateway.
    fn start_loops(&self, company: &Company, succeeds: bool) {
        let mut pulling = Vec::new();
        if let Some(pull) = self.pull.get() {
            let (follows, standing, leaving) = (Arc::clone(pull), self.seats.standing(), company.drain.watch());
            pulling.push(company.runtime.spawn(async move {
                if succeeds {
                    let pull = Arc::clone(&follows);
                    let _ = tokio::task::spawn_blocking(move || pull.take_over()).await;
                }
                follows.run(standing, leaving).await;
            }));
            pulling.push(company.runtime.spawn(Arc::clone(pull).prove()));
        }
        let beats = Beats {
            client: self.client.clone(),
            seats: Arc::clone(&self.seats),
            progress: Arc::clone(&self.progress),
            key_seq: self.keys.told(),
            keys: Arc::clone(&self.keys),
            metrics: Arc::clone(&company.metrics),
            throttle: Arc::clone(&company.throttle),
            redis: company.redis.clone(),
        };
        let (full, ends, leaves) = (
            Arc::clone(&self.full),
            self.seats.ends_when_full(),
            Arc::clone(&company.leave),
        );
        let on_full = move |message: &str| {
            if ends {
                let _ = full.set(Seats::last_words(message));
                leaves.begin();
            }
        };
        let (drained, leaves) = (Arc::clone(&self.drained), Arc::clone(&company.leave));
        let on_drain = move || {
            log::info!("the control plane wants this gateway to leave");
            drained.store(true, Ordering::Relaxed);
            leaves.begin();
        };
        let beats = company
            .runtime
            .spawn(beats.run(company.drain.watch(), on_full, on_drain));
        *self.loops.lock().unwrap_or_else(PoisonError::into_inner) = Some(Loops { pull: pulling, beats });
    }

    /// Asks the control plane, wherever it is.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Who may sign what comes from it.
    #[must_use]
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Where this gateway keeps what outlives it.
    #[must_use]
    pub fn state(&self) -> &Arc<StateDir> {
        &self.state
    }

    /// Every manifest that is followed, the newest one now; none before the first.
    #[must_use]
    pub fn manifests(&self) -> watch::Receiver<Option<Manifest>> {
        self.manifests.subscribe()
    }

    /// Where keys of the key log are.
    #[must_use]
    pub fn key_store(&self) -> &Arc<KeyStore> {
        &self.key_store
    }

    /// What follows the key log.
    #[must_use]
    pub fn keys(&self) -> &Arc<KeyFollower> {
        &self.keys
    }

    /// Whether this gateway may serve.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.seats.standing()
    }

    /// The end of the process, when it leaves and nothing is served any more. Blocks for a few seconds at most. Why it
    /// ends, if that is a full pool.
    ///
    /// The seat is freed at once if the control plane wanted this gateway to go. After a stop it is given up, so that
    /// another gateway has it soon, and a restart finds it all the same. After an upgrade it is the other process's.
    pub fn end(&self, runtime: &Handle) -> Option<String> {
        if self.handed_over.load(Ordering::Acquire) {
            return None;
        }
        self.guard.change(CrashGuard::clear);
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(loops) = loops {
            // It has been told that the process leaves, and tells the control plane.
            let _ = runtime.block_on(async { tokio::time::timeout(FAREWELL, loops.beats).await });
        }
        self.keys.save();
        if self.drained.load(Ordering::Relaxed) {
            runtime.block_on(self.seats.free(FREED));
        } else if *self.seats.standing().borrow() == Standing::Seated {
            runtime.block_on(self.seats.give_up(FREED));
        }
        self.full.get().cloned()
    }
}

/// Asks for a seat, before anything else is there.
fn first_answer(seats: &Seats, pool: &str, runtime: &Handle) -> Result<(), OpenError> {
    let standing = *seats.standing().borrow();
    if standing == Standing::NotNeeded {
        return Ok(());
    }
    let patience = if standing.may_serve() {
        FIRST_ANSWER_SEATED
    } else {
        FIRST_ANSWER
    };
    match runtime.block_on(seats.ask(unix_ms(), patience)) {
        Verdict::Full(message, _) if seats.ends_when_full() => {
            return Err(OpenError::PoolFull(Seats::last_words(&message)));
        }
        Verdict::Full(message, _) => log::error!("{message}"),
        Verdict::Refused(message) => log::error!("pool \"{pool}\": {message}"),
        Verdict::Away(message) => log::warn!("control plane: {message}"),
        Verdict::Seated | Verdict::NotNeeded => {}
    }
    Ok(())
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(message) | Self::PoolFull(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for OpenError {}
