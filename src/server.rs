//! Assembly: listeners, the gateway, and what a process does from its start to its end.

pub mod acceptor;
pub mod admin;
mod beside;
pub mod bounds;
pub mod census;
pub mod connection;
pub mod drain;
pub mod http2;
mod invalidating;
pub mod keeping;
pub mod listeners;
pub mod panics;
pub mod sharing;
pub mod sockets;
pub mod status;
pub mod systemd;
pub mod upgrade;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server as Engine};

use crate::auth::{Introspectors, KeySets, TokenCache};
use crate::cache::invalidator::Callers;
use crate::clock::unix_ms;
use crate::config::{Config, LogTarget};
use crate::gateway::Gateway;
use crate::gateway::drain::{self as leaving, Drain, Leave};
use crate::snapshot::Compiler;
use crate::sync::file::Watch;
use crate::sync::remote::{OpenError, Origin, Remote};
use crate::sync::{Refused, Revisions};
use crate::telemetry::Metrics;
use crate::telemetry::access_log::{AccessLog, Target, Writer};
use crate::transport::Listeners;
use crate::transport::certificate::Unusable;
use crate::upstream::Registry;
use crate::upstream::discovery::Discovery;
use crate::upstream::resolve::Names;
use acceptor::{Acceptor, Entrance, Gatekeeper};
use census::Census;
use connection::Connections;
use drain::Signals;
use keeping::Keeping;
use sharing::Sharing;
use sockets::{BindError, Inheritance, Listening};
use systemd::Systemd;
use upgrade::bequest::Bequest;
use upgrade::channel::Role;
use upgrade::successor::Inherited;
use upgrade::warm::{Estate, Tally};
use upgrade::{Ancestors, Predecessor, Program, Successor, predecessor};

/// Verified tokens that are remembered.
const TOKENS_MAX: usize = 10_000;

/// Upstream connections kept for reuse, per thread.
const UPSTREAM_IDLE_PER_THREAD: usize = 1024;

/// How long the end waits for connections that were cut.
const CUT: Duration = Duration::from_secs(1);

/// A gateway with its sockets bound and its first revision applied.
pub struct Server {
    config: Config,
    clients: Vec<Listening>,
    status: Listening,
    admin: Option<Listening>,
    listeners: listeners::Loaded,
    side: tokio::runtime::Runtime,
    metrics: Arc<Metrics>,
    access_log: AccessLog,
    log_writer: Option<Writer>,
    revisions: Arc<Revisions>,
    key_sets: KeySets,
    registry: Arc<Registry>,
    discovery: Arc<Discovery>,
    sharing: Sharing,
    keeping: Keeping,
    watch: Option<Watch>,
    remote: Option<Arc<Remote>>,
    leave: Arc<Leave>,
    drain: Drain,
    program: Program,
    systemd: Systemd,
    ancestors: Arc<Ancestors>,
    /// What the next process takes over beside the sockets, and what it is told from then on.
    estate: Arc<Estate>,
    bequest: Bequest,
}

/// The socket at which a next process is asked for, and the sockets that it is handed.
struct Followable {
    socket: predecessor::Socket,
    sockets: Vec<(Role, Listening)>,
}

/// Sockets of the listeners beside those for clients.
struct Beside {
    status: TcpListener,
    admin: Option<TcpListener>,
}

/// Why a gateway did not start.
#[derive(Debug)]
pub enum StartError {
    /// A port can not be had.
    Socket(BindError),
    /// The revision has mistakes.
    Revision(Vec<String>),
    /// A file of a listener's certificates can not be used.
    Certificate(Unusable),
    /// The pool has no seat for this gateway.
    PoolFull(String),
    /// Something of the machine: threads, files, metrics.
    Machine(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(error) => error.fmt(f),
            Self::Certificate(unusable) => unusable.fmt(f),
            Self::Revision(mistakes) => f.write_str(&mistakes.join("\n")),
            Self::Machine(error) | Self::PoolFull(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a gateway ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// A signal, an operator or the control plane wanted it, or another process has taken over.
    Asked,
    /// The pool has no seat for it; says so for people.
    PoolFull(String),
    /// It was to take over from another process, and did not; says why for people.
    NotFollowing(String),
}

impl Server {
    /// Has its sockets, and applies the first revision. No client ever gets 404 from a gateway that has just started:
    /// connections wait in the backlog until [`Self::run`]. With a control plane the first revision is the last good one
    /// on disk; a gateway that has none starts without, and is not ready. A process that takes over has the sockets of
    /// the one `before`.
    ///
    /// # Errors
    /// When something that is needed from the start can not be had.
    pub fn prepare(config: Config, before: Option<&Successor>) -> Result<Self, StartError> {
        let machine = |what: &str| {
            let what = what.to_owned();
            move |error: &dyn fmt::Display| StartError::Machine(format!("{what}: {error}"))
        };
        let program = Program::of_process().map_err(|error| machine("program")(&error))?;
        let metrics = Arc::new(Metrics::new().map_err(|error| machine("metrics")(&error))?);
        panics::count(&metrics.panics);
        sockets::raise_file_limit();
        let listeners = listeners::load(&config, metrics.transport().clone()).map_err(StartError::Certificate)?;
        if let Some(path) = &config.server.upgrade.socket {
            predecessor::check_directory(path).map_err(|error| machine("server.upgrade.socket")(&error))?;
        }
        // One thread for everything that is not a request, so that neither starves the other.
        let side = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("side")
            .enable_all()
            .build()
            .map_err(|error| machine("side runtime")(&error))?;
        let systemd = Systemd::of_environment();
        let mut inherited = match before {
            Some(before) => before.inherit().map_err(StartError::Machine)?,
            None => Inherited {
                clients: Inheritance::of_service_manager(systemd),
                ..Inherited::default()
            },
        };
        // Before it listens: a gateway for which there is no seat never looks as if it were there.
        let remote = remote(&config, &metrics, &side, inherited.state_lock.take())?;
        let clients: Result<Vec<_>, _> = (config.listeners.iter())
            .map(|listener| inherited.clients.listen(listener.address))
            .collect();
        let clients = clients.map_err(StartError::Socket)?;
        inherited.clients.close_rest(systemd);
        let status = (inherited.status.listen(config.status.address)).map_err(StartError::Socket)?;
        let admin = match &config.admin {
            Some(admin) => Some((inherited.admin.listen(admin.address)).map_err(StartError::Socket)?),
            None => None,
        };
        let (access_log, log_writer) = access_log(&config, &metrics).map_err(|error| machine("access log")(&error))?;

        let sharing = Sharing::start(&config, &metrics, side.handle()).map_err(|error| machine("redis")(&error))?;
        let (leave, drain) = leaving::pair();
        let key_sets = KeySets::new(side.handle().clone(), drain.watch());
        let registry = Arc::new(Registry::new(config.gateway.zone.clone(), metrics.upstreams().clone()));
        let discovery = Discovery::new(&config.dns, side.handle().clone(), metrics.upstreams().lookups());
        let discovery = Arc::new(discovery.map_err(|error| machine("dns")(&error))?);
        let estate = Arc::new(Estate {
            throttle: Arc::clone(&sharing.throttle),
            key_sets: key_sets.clone(),
            tokens: Arc::new(TokenCache::new(TOKENS_MAX)),
            introspectors: Introspectors::new(&config.key_cache).map_err(|error| machine("introspection")(&error))?,
            registry: Arc::clone(&registry),
            discovery: Arc::clone(&discovery),
            tally: Tally::default(),
        });
        let callers = Callers::new(Arc::clone(&estate.tokens), estate.introspectors.clone());
        let keeping = Keeping::start(&config, &metrics, side.handle(), callers, remote.as_deref());
        let keeping = keeping.map_err(|error| machine("redis of the cache")(&error))?;
        // Before anything is compiled: counters are named by what the process before named them by.
        if let Some(before) = before {
            before.warm_up(&estate).map_err(StartError::Machine)?;
        }
        let compiler = Compiler {
            environment_type: config.gateway.environment_type.unwrap_or_default(),
            labels: config.gateway.labels.clone(),
            key_sets: key_sets.clone(),
            tokens: Arc::clone(&estate.tokens),
            introspectors: estate.introspectors.clone(),
            key_store: remote.as_ref().map(|remote| Arc::clone(remote.key_store())),
            names: Names::LookUp(Arc::clone(&discovery)),
            sharing: sharing::defaults(&config),
            registry: Arc::clone(&registry),
            metrics: Arc::clone(&metrics),
        };
        let (revisions, watch) = first_revision(&config, compiler, &metrics, remote.as_deref())?;

        Ok(Self {
            config,
            clients,
            status,
            admin,
            listeners,
            side,
            metrics,
            access_log,
            log_writer,
            revisions,
            key_sets,
            registry,
            discovery,
            sharing,
            keeping,
            watch,
            remote,
            leave: Arc::new(leave),
            drain,
            program,
            systemd,
            ancestors: Ancestors::new(Vec::new()),
            estate,
            bequest: Bequest::default(),
        })
    }

    /// Where clients connect.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.clients.iter().map(|listening| listening.actual)
    }

    /// Where the status is served.
    #[must_use]
    pub fn status_address(&self) -> SocketAddr {
        self.status.actual
    }

    /// Serves until a signal, an operator, the control plane or a next process ends it, and returns when nothing is in
    /// flight and every log line is written. A process that takes over serves from when the one `before` says so.
    pub fn run(mut self, before: Option<Successor>) -> Ending {
        let census = Arc::new(Census::new(
            self.config.server.limits.connections,
            self.config.server.limits.connections_per_address,
            self.config.server.trusted_proxies.clone(),
            self.metrics.connections_open.clone(),
        ));
        let mut engine = Engine::new_with_opt_and_conf(None, engine_conf(&self.config));
        engine.bootstrap();
        let (acceptor, keeper) = match self.acceptor(&engine, &census) {
            Ok((acceptor, keeper)) => (acceptor, Arc::new(keeper)),
            Err(error) => return Ending::NotFollowing(error.to_string()),
        };
        engine.add_service(acceptor);
        let signals = {
            let _side = self.side.enter();
            Signals::new(
                (Arc::clone(&self.leave), self.drain.clone()),
                (Arc::clone(&keeper), Arc::clone(&census)),
                self.config.server.timeouts,
                self.systemd,
                self.ancestors.alive(),
            )
        };
        let mut failed = None;
        std::thread::scope(|scope| {
            let (this, failed, census, keeper) = (&mut self, &mut failed, &census, &keeper);
            // The engine keeps this thread until the end, and what begins has to wait for the engine.
            scope.spawn(move || {
                if let Err(why) = this.begin(keeper, census, before) {
                    *failed = Some(why);
                    // Another process is the service, if there is one: there is nothing to announce, and nobody to wait for.
                    this.leave.hand_over();
                }
            });
            engine.run(RunArgs {
                shutdown_signal: Box::new(signals),
            });
        });
        self.leave.begin();
        wait_until_empty(&census);
        self.bequest.settle(&self.estate);
        self.keeping.settle(self.side.handle());
        self.sharing.settle(self.side.handle());
        let full = self.remote.and_then(|remote| remote.end(self.side.handle()));
        self.side.shutdown_timeout(Duration::from_secs(1));
        drop(self.log_writer);
        match (failed, full) {
            (Some(why), _) => Ending::NotFollowing(why),
            (None, Some(full)) => Ending::PoolFull(full),
            (None, None) => Ending::Asked,
        }
    }

    /// Begins to serve, as soon as the engine does, and the process before lets this one.
    fn begin(
        &mut self,
        keeper: &Arc<Gatekeeper>,
        census: &Arc<Census>,
        before: Option<Successor>,
    ) -> Result<(), String> {
        let entrance = keeper.entrance().ok_or("the process ended before it served")?;
        // Everything that can fail comes before the process before is out of its place.
        let beside = self.share_beside().map_err(|error| error.to_string())?;
        let followable = self.followable()?;
        if let Some(before) = &before {
            let sockets = self.clients.iter().map(|listening| &listening.socket);
            match before.take_over(sockets, &entrance, &self.estate) {
                Ok(ancestors) => ancestors.into_iter().for_each(|channel| self.ancestors.add(channel)),
                Err(why) => {
                    before.give_up(&why);
                    return Err(why);
                }
            }
        }
        keeper.open();
        self.start_side_tasks(&entrance, beside);
        for address in self.addresses() {
            log::info!("listening on {address}");
        }
        log::info!("status on {}", self.status_address());
        sockets::keep(&self.clients, self.systemd);
        self.tell_service_manager(&entrance, census);
        if let Some(followable) = followable
            && self.can_be_followed(followable, keeper, &entrance, census)
            && let Some(before) = &before
        {
            before.is_found();
        }
        if let Some(before) = before {
            self.ancestors.add(before.into_channel());
            let (ancestors, estate) = (Arc::clone(&self.ancestors), Arc::clone(&self.estate));
            let listening = std::thread::Builder::new().name("ancestors".to_owned());
            let listening = listening.spawn(move || {
                ancestors.listen(&|section| {
                    estate.import(section);
                });
            });
            if let Err(error) = listening {
                log::error!("nobody listens to the processes before: {error}");
            }
        }
        Ok(())
    }

    /// The listeners beside those for clients, for who accepts there.
    fn share_beside(&self) -> Result<Beside, BindError> {
        Ok(Beside {
            status: self.status.share()?,
            admin: self.admin.as_ref().map(Listening::share).transpose()?,
        })
    }

    /// What a next process is handed, and the socket at which it is asked for, which nobody finds yet. `None` if this
    /// process can not be followed, as configured.
    fn followable(&self) -> Result<Option<Followable>, String> {
        let Some(path) = &self.config.server.upgrade.socket else {
            return Ok(None);
        };
        let socket = predecessor::Socket::bind(path);
        let socket = socket.map_err(|error| format!("server.upgrade.socket {}: {error}", path.display()))?;
        let named = (self.clients.iter().map(|listening| (Role::Clients, listening)))
            .chain([(Role::Status, &self.status)])
            .chain(self.admin.iter().map(|listening| (Role::Admin, listening)));
        let shared = named.map(|(role, listening)| {
            let socket = listening.share().map_err(|error| error.to_string())?;
            Ok((role, Listening { socket, ..*listening }))
        });
        Ok(Some(Followable {
            socket,
            sockets: shared.collect::<Result<_, String>>()?,
        }))
    }

    /// Accepts clients, once its gate is opened.
    fn acceptor(&self, engine: &Engine, census: &Arc<Census>) -> Result<(Acceptor, Gatekeeper), BindError> {
        let gateway = Gateway::new(
            Arc::clone(&self.revisions),
            (Arc::clone(&self.sharing.throttle), self.keeping.for_requests()),
            (
                self.config.server.trusted_proxies.clone(),
                self.config.server.limits.requests_in_flight,
                self.config.server.timeouts.request,
            ),
            self.drain.clone(),
            (Arc::clone(&self.metrics), self.access_log.clone()),
        );
        let connections = Connections::new(
            Arc::new(http_proxy(&engine.configuration, gateway)),
            (
                Listeners::new(self.addresses().zip(self.listeners.listeners.iter().cloned()).collect()),
                self.config.server.trusted_proxies.clone(),
            ),
            (&self.config.server.limits, &self.config.server.timeouts),
            Arc::clone(census),
            self.drain.clone(),
            (Arc::clone(&self.metrics), self.access_log.clone()),
        );
        let sockets: Result<Vec<_>, _> = self.clients.iter().map(Listening::share).collect();
        Ok(Acceptor::new(
            Arc::new(connections),
            sockets?,
            self.config.server.threads,
        ))
    }

    /// Listens to operators who want another process in this one's place; true when they find it. It serves either way.
    fn can_be_followed(
        &mut self,
        Followable { socket, sockets }: Followable,
        keeper: &Arc<Gatekeeper>,
        entrance: &Entrance,
        census: &Arc<Census>,
    ) -> bool {
        if let Err(error) = socket.publish() {
            log::error!("this process can not be followed: {error}");
            return false;
        }
        let predecessor = Predecessor {
            program: self.program.clone(),
            settings: self.config.server.upgrade.clone(),
            sockets,
            keeper: Arc::clone(keeper),
            entrance: entrance.clone(),
            census: Arc::clone(census),
            leave: Arc::clone(&self.leave),
            drain: self.drain.clone(),
            remote: self.remote.clone(),
            systemd: self.systemd,
            runtime: self.side.handle().clone(),
            ancestors: Arc::clone(&self.ancestors),
            estate: Arc::clone(&self.estate),
            bequest: self.bequest.clone(),
        };
        // What is handed over is what was shared: nothing else may keep a socket open.
        self.clients.clear();
        match predecessor.listen(socket) {
            Ok(()) => true,
            Err(error) => {
                log::error!("this process can not be followed: {error}");
                false
            }
        }
    }
}

/// The control plane, if there is one.
fn remote(
    config: &Config,
    metrics: &Metrics,
    side: &tokio::runtime::Runtime,
    lock: Option<OwnedFd>,
) -> Result<Option<Arc<Remote>>, StartError> {
    let Some(settings) = &config.revision.control_plane else {
        return Ok(None);
    };
    let origin = lock.map_or(Origin::Fresh, Origin::Successor);
    match Remote::open(config, settings, metrics, side.handle(), origin) {
        Ok(remote) => Ok(Some(Arc::new(remote))),
        Err(OpenError::PoolFull(message)) => Err(StartError::PoolFull(message)),
        Err(OpenError::Machine(message)) => Err(StartError::Machine(format!("control plane: {message}"))),
    }
}

/// Applies the first revision. A file is watched from before it is read, so that no change is missed.
fn first_revision(
    config: &Config,
    compiler: Compiler,
    metrics: &Arc<Metrics>,
    remote: Option<&Remote>,
) -> Result<(Arc<Revisions>, Option<Watch>), StartError> {
    let refused = |refused: Refused| StartError::Revision(refused.mistakes);
    let watch = config.revision.file.clone().map(Watch::new);
    let revisions = Revisions::new(compiler, Arc::clone(metrics));
    let Some(remote) = remote else {
        if let Some(file) = &config.revision.file {
            revisions.apply_first(file, unix_ms()).map_err(refused)?;
        }
        return Ok((Arc::new(revisions), watch));
    };
    let revisions = Arc::new(revisions.beside_control_plane(config.revision.skip_list.clone()));
    if let Some(file) = &config.revision.file {
        revisions.read_local(file, unix_ms()).map_err(refused)?;
    }
    remote.boot(&revisions, metrics);
    Ok((revisions, watch))
}

/// The engine ends its threads without waiting for the connections that it cuts, and each of them reports its request
/// when it is dropped: only then is the log complete.
fn wait_until_empty(census: &Census) {
    let until = Instant::now() + CUT;
    while census.open() > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn engine_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.server.threads,
        listener_tasks_per_fd: config.server.threads,
        upstream_keepalive_pool_size: UPSTREAM_IDLE_PER_THREAD,
        // How often a request may be tried is decided in the gateway; this only bounds a mistake there.
        max_retries: 16,
        ..ServerConf::default()
    }
}

fn access_log(config: &Config, metrics: &Metrics) -> std::io::Result<(AccessLog, Option<Writer>)> {
    let settings = &config.telemetry.access_log;
    let target = match &settings.target {
        LogTarget::Off => return Ok((AccessLog::off(), None)),
        LogTarget::Stdout => Target::Stdout,
        LogTarget::File(path) => Target::File(path.clone()),
    };
    let (log, writer) = AccessLog::start(&target, settings.sample, metrics.access_log_dropped.clone())?;
    Ok((log, Some(writer)))
}
