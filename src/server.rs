//! Assembly: listeners, the gateway, and every background task, in one list.

pub mod admin;
pub mod bounds;
pub mod census;
pub mod connection;
pub mod drain;
pub mod http2;
pub mod listeners;
pub mod panics;
pub mod sharing;
pub mod sockets;
pub mod status;
pub mod upgrade;

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pingora::listeners::L4BufferSettings;
use pingora::listeners::ListenerConfig;
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server as Engine};
use pingora::services::listening::Service;

use crate::auth::{Introspectors, KeySets, TokenCache};
use crate::clock::unix_ms;
use crate::config::{Config, LogTarget};
use crate::gateway::Gateway;
use crate::gateway::drain::{self as leaving, Drain, Leave};
use crate::snapshot::Compiler;
use crate::sync::file::Watch;
use crate::sync::remote::{OpenError, Remote};
use crate::sync::{Refused, Revisions};
use crate::telemetry::Metrics;
use crate::telemetry::access_log::{AccessLog, Target, Writer};
use crate::throttle::Time;
use crate::transport::Listeners;
use crate::transport::certificate::Unusable;
use crate::upstream::Registry;
use crate::upstream::checks::Checks;
use crate::upstream::discovery::Discovery;
use crate::upstream::resolve::Names;
use admin::Admin;
use census::Census;
use connection::Connections;
use drain::Signals;
use sharing::Sharing;
use sockets::{BindError, Sockets};
use status::Status;

/// Verified tokens that are remembered.
const TOKENS_MAX: usize = 10_000;

/// Upstream connections kept for reuse, per thread.
const UPSTREAM_IDLE_PER_THREAD: usize = 1024;

/// Client sockets are read without a buffer in between (the connection has its own), and written through one that holds
/// the head and body of a small answer, so that both leave in one system call.
const WRITE_BUFFER: usize = 8 * 1024;

/// How long the end waits for connections that were cut.
const CUT: Duration = Duration::from_secs(1);

/// How often finished counters are looked for, and what was replaced and is not in use any more.
const SWEEP: Duration = Duration::from_secs(1);

/// A gateway with its sockets bound and its first revision applied.
pub struct Server {
    config: Config,
    sockets: Sockets,
    status_listener: Option<TcpListener>,
    status_address: SocketAddr,
    admin_listener: Option<TcpListener>,
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
    watch: Option<Watch>,
    remote: Option<Remote>,
    leave: Arc<Leave>,
    drain: Drain,
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
    /// A signal or the control plane wanted it.
    Asked,
    /// The pool has no seat for it; says so for people.
    PoolFull(String),
}

impl Server {
    /// Binds the sockets and applies the first revision. No client ever gets 404 from a gateway that has just started:
    /// connections wait in the backlog until [`Self::run`]. With a control plane the first revision is the last good one
    /// on disk; a gateway that has none starts without, and is not ready.
    ///
    /// # Errors
    /// When something that is needed from the start can not be had.
    pub fn prepare(config: Config) -> Result<Self, StartError> {
        let machine = |what: &str| {
            let what = what.to_owned();
            move |error: &dyn fmt::Display| StartError::Machine(format!("{what}: {error}"))
        };
        let metrics = Arc::new(Metrics::new().map_err(|error| machine("metrics")(&error))?);
        panics::count(&metrics.panics);
        sockets::raise_file_limit();
        let listeners = listeners::load(&config, metrics.transport().clone()).map_err(StartError::Certificate)?;
        // One thread for everything that is not a request, so that neither starves the other.
        let side = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("side")
            .enable_all()
            .build()
            .map_err(|error| machine("side runtime")(&error))?;
        // Before it listens: a gateway for which there is no seat never looks as if it were there.
        let remote = remote(&config, &metrics, &side)?;
        let sockets =
            Sockets::bind(config.listeners.iter().map(|listener| listener.address)).map_err(StartError::Socket)?;
        let status_listener = sockets::listen(config.status.address).map_err(StartError::Socket)?;
        let status_address = status_listener
            .local_addr()
            .map_err(|error| machine("status")(&error))?;
        let admin_listener = match &config.admin {
            Some(admin) => Some(sockets::listen(admin.address).map_err(StartError::Socket)?),
            None => None,
        };
        let (access_log, log_writer) = access_log(&config, &metrics).map_err(|error| machine("access log")(&error))?;

        let sharing = Sharing::start(&config, &metrics, side.handle()).map_err(|error| machine("redis")(&error))?;
        let (leave, drain) = leaving::pair();
        let key_sets = KeySets::new(side.handle().clone(), drain.watch());
        let registry = Arc::new(Registry::new(config.gateway.zone.clone(), metrics.upstreams().clone()));
        let discovery = Discovery::new(&config.dns, side.handle().clone(), metrics.upstreams().lookups());
        let discovery = Arc::new(discovery.map_err(|error| machine("dns")(&error))?);
        let compiler = Compiler {
            environment_type: config.gateway.environment_type.unwrap_or_default(),
            labels: config.gateway.labels.clone(),
            key_sets: key_sets.clone(),
            tokens: Arc::new(TokenCache::new(TOKENS_MAX)),
            introspectors: Introspectors::new(&config.key_cache).map_err(|error| machine("introspection")(&error))?,
            key_store: remote.as_ref().map(|remote| Arc::clone(remote.key_store())),
            names: Names::LookUp(Arc::clone(&discovery)),
            sharing: sharing::defaults(&config),
            registry: Arc::clone(&registry),
            metrics: Arc::clone(&metrics),
        };
        let (revisions, watch) = first_revision(&config, compiler, &metrics, remote.as_ref())?;

        Ok(Self {
            config,
            sockets,
            status_listener: Some(status_listener),
            status_address,
            admin_listener,
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
            watch,
            remote,
            leave: Arc::new(leave),
            drain,
        })
    }

    /// Where clients connect.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.sockets.addresses()
    }

    /// Where the status is served.
    #[must_use]
    pub fn status_address(&self) -> SocketAddr {
        self.status_address
    }

    /// Serves until a signal or the control plane ends it, and returns when nothing is in flight and every log line is
    /// written.
    pub fn run(mut self) -> Ending {
        let census = Arc::new(Census::new(
            self.config.server.limits.connections,
            self.config.server.limits.connections_per_address,
            self.config.server.trusted_proxies.clone(),
            self.metrics.connections_open.clone(),
        ));
        let mut engine = Engine::new_with_opt_and_conf(None, engine_conf(&self.config));
        engine.bootstrap();
        let service = self.proxy_service(&engine, &census);
        engine.add_service(self.sockets.give_to(service));
        let signals = {
            let _side = self.side.enter();
            Signals::new(
                (Arc::clone(&self.leave), self.drain.clone()),
                Arc::clone(&census),
                self.config.server.timeouts.drain,
            )
        };
        self.start_side_tasks();
        for address in self.addresses() {
            log::info!("listening on {address}");
        }
        log::info!("status on {}", self.status_address);
        engine.run(RunArgs {
            shutdown_signal: Box::new(signals),
        });
        self.leave.begin();
        wait_until_empty(&census);
        self.sharing.settle(self.side.handle());
        let full = self.remote.and_then(|remote| remote.end(self.side.handle()));
        self.side.shutdown_timeout(Duration::from_secs(1));
        drop(self.log_writer);
        full.map_or(Ending::Asked, Ending::PoolFull)
    }

    fn proxy_service(&self, engine: &Engine, census: &Arc<Census>) -> Service<Connections> {
        let gateway = Gateway::new(
            Arc::clone(&self.revisions),
            Arc::clone(&self.sharing.throttle),
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
        let mut service = Service::new("gateway".to_owned(), connections);
        for name in self.sockets.names() {
            service.add_listener(ListenerConfig::tcp(name).l4_buffer(L4BufferSettings::new(0, WRITE_BUFFER)));
        }
        service
    }

    /// Every task that runs beside the requests. Key sets start theirs when a revision names an issuer.
    fn start_side_tasks(&mut self) {
        if let Some(listener) = self.status_listener.take() {
            let status = Arc::new(Status {
                gateway: self.config.gateway.clone(),
                revisions: Arc::clone(&self.revisions),
                key_sets: self.key_sets.clone(),
                throttle: Arc::clone(&self.sharing.throttle),
                redis: self.sharing.redis().cloned(),
                standing: self.remote.as_ref().map(Remote::standing),
                keys: self.remote.as_ref().map(|remote| Arc::clone(remote.keys())),
                metrics: Arc::clone(&self.metrics),
                drain: self.drain.clone(),
            });
            self.side.spawn(async move {
                if let Err(error) = status::serve(listener, status).await {
                    log::error!("status listener: {error}");
                }
            });
        }

        if let (Some(listener), Some(settings)) = (self.admin_listener.take(), &self.config.admin) {
            match listener.local_addr() {
                Ok(address) => log::info!("admin on {address}"),
                Err(error) => log::error!("admin listener: {error}"),
            }
            let admin = Arc::new(Admin::new(
                &settings.token,
                Arc::clone(&self.revisions),
                Arc::clone(&self.sharing.throttle),
                Arc::clone(&self.registry),
            ));
            self.side.spawn(async move {
                if let Err(error) = admin::serve(listener, admin).await {
                    log::error!("admin listener: {error}");
                }
            });
        }

        self.side.spawn(Arc::clone(&self.registry).keep());
        self.side.spawn(Checks::new(Arc::clone(&self.registry)).run());
        self.side
            .spawn(Arc::clone(&self.discovery).keep(Arc::clone(&self.registry)));

        let throttle = Arc::clone(&self.sharing.throttle);
        let revisions = Arc::clone(&self.revisions);
        let key_store = self.remote.as_ref().map(|remote| Arc::clone(remote.key_store()));
        self.side.spawn(async move {
            let mut tick = tokio::time::interval(SWEEP);
            loop {
                tick.tick().await;
                throttle.sweep(throttle.time(Instant::now(), Time::from(SystemTime::now())));
                let (revisions, key_store) = (Arc::clone(&revisions), key_store.clone());
                // To free a large table takes longer than anything else here may wait.
                let _ = tokio::task::spawn_blocking(move || {
                    revisions.bury();
                    if let Some(store) = key_store {
                        store.bury();
                    }
                })
                .await;
            }
        });

        if let Some(remote) = &self.remote {
            remote.start(
                self.side.handle(),
                (&self.leave, &self.drain),
                (&self.sharing.throttle, self.sharing.redis()),
                &self.metrics,
            );
        }

        if let Some(watch) = self.listeners.watch.take() {
            let drain = self.drain.clone();
            self.side.spawn_blocking(move || watch.run(&|| drain.is_begun()));
        }

        if let Some(watch) = self.watch.take() {
            let revisions = Arc::clone(&self.revisions);
            let drain = self.drain.clone();
            self.side
                .spawn_blocking(move || watch.run(&revisions, &|| drain.is_begun()));
        }
    }
}

/// The control plane, if there is one.
fn remote(config: &Config, metrics: &Metrics, side: &tokio::runtime::Runtime) -> Result<Option<Remote>, StartError> {
    let Some(settings) = &config.revision.control_plane else {
        return Ok(None);
    };
    match Remote::open(config, settings, metrics, side.handle()) {
        Ok(remote) => Ok(Some(remote)),
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
