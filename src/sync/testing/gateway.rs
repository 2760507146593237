//! A gateway without listeners.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Runtime;

use super::super::Revisions;
use super::super::remote::{OpenError, Origin, Remote};
use super::until;
use crate::auth::{Introspectors, KeySets, TokenCache};
use crate::config::{self, Config};
use crate::document::Environment;
use crate::gateway::drain::{self, Drain, Leave};
use crate::revision::EnvironmentType;
use crate::snapshot::Compiler;
use crate::telemetry::Metrics;
use crate::throttle::{Defaults, Throttle};
use crate::upstream::Registry;
use crate::upstream::resolve::Names;

/// A gateway without listeners, until it ends one way or the other.
pub struct Gateway {
    /// What it runs.
    pub revisions: Arc<Revisions>,
    /// What it has to do with the control plane.
    pub remote: Option<Remote>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Whether it leaves.
    pub drain: Drain,
    leave: Arc<Leave>,
    throttle: Arc<Throttle>,
    runtime: Option<Runtime>,
}

/// A configuration with these URLs, and more of the sections `gateway`, `revision` and `control_plane`.
pub fn configured(state: &Path, urls: &[String], more: &str, gateway: &str, revision: &str) -> Config {
    let text = format!(
        "gateway: {{ environment: prod, {gateway} }}\nrevision:\n  {revision}\n  control_plane: {{ urls: {urls:?}, \
         state_dir: {:?}, {more} }}\n",
        state.display().to_string()
    );
    let environment = Environment::fixed([], Timestamp::UNIX_EPOCH);
    let loaded = config::parse(&text, "t.yaml", &environment, None);
    loaded.unwrap_or_else(|mistakes| panic!("{text}{mistakes}")).config
}

impl Gateway {
    /// Starts one with default settings.
    pub fn start(state: &Path, urls: &[String]) -> Self {
        Self::with(&configured(state, urls, "", "", "")).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts one.
    pub fn with(config: &Config) -> Result<Self, OpenError> {
        Self::prepared(config, Origin::Fresh).inspect(Self::go)
    }

    /// The process that is to come after this one, as far as it gets before this one has handed over.
    pub fn successor(&self, config: &Config) -> Result<Self, OpenError> {
        let lock = self.remote.as_ref().unwrap().lend().map_err(OpenError::Machine)?;
        Self::prepared(config, Origin::Successor(lock))
    }

    /// Hands over to that process.
    pub fn hand_over(&self) -> Result<(), String> {
        let runtime = self.runtime.as_ref().unwrap();
        runtime.block_on(self.remote.as_ref().unwrap().hand_over())
    }

    /// Begins with what goes on in the background.
    pub fn go(&self) {
        let remote = self.remote.as_ref().unwrap();
        remote.start(
            self.runtime.as_ref().unwrap().handle(),
            (&self.leave, &self.drain),
            (&self.throttle, None),
            &self.metrics,
        );
    }

    fn prepared(config: &Config, origin: Origin) -> Result<Self, OpenError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let settings = config.revision.control_plane.as_ref().unwrap();
        let remote = Remote::open(config, settings, &metrics, runtime.handle(), origin)?;
        let compiler = Compiler {
            environment_type: EnvironmentType::Hybrid,
            labels: config.gateway.labels.clone(),
            key_sets: KeySets::offline(),
            tokens: Arc::new(TokenCache::new(10)),
            key_store: Some(Arc::clone(remote.key_store())),
            introspectors: Introspectors::offline(),
            names: Names::Leave,
            registry: Arc::new(Registry::new(None, metrics.upstreams().clone())),
            sharing: Defaults::default(),
            metrics: Arc::clone(&metrics),
        };
        let revisions = Revisions::new(compiler, Arc::clone(&metrics));
        let revisions = Arc::new(revisions.beside_control_plane(config.revision.skip_list.clone()));
        if let Some(file) = &config.revision.file {
            revisions.read_local(file, 1).unwrap();
        }
        remote.boot(&revisions, &metrics);
        let (leave, drain) = drain::pair();
        Ok(Self {
            revisions,
            remote: Some(remote),
            metrics,
            drain,
            leave: Arc::new(leave),
            throttle: Arc::new(Throttle::new(64)),
            runtime: Some(runtime),
        })
    }

    /// The number of what runs.
    pub fn seq(&self) -> Option<u64> {
        self.revisions.status().environment_seq
    }

    /// Waits until this number runs.
    pub fn serves(&self, seq: u64) {
        until(&format!("revision {seq} serves"), || self.seq() == Some(seq));
    }

    /// Waits until this is refused.
    pub fn refuses(&self, seq: u64, code: &str) {
        until(&format!("{code} is refused"), || {
            let refused = self.revisions.status().refused;
            refused.is_some_and(|refused| refused.reason == code && refused.environment_seq == Some(seq))
        });
    }

    /// Whether something is published at this path.
    pub fn publishes(&self, path: &str) -> bool {
        let snapshot = self.revisions.current();
        snapshot.is_some_and(|snapshot| snapshot.find("h", path, &http::Method::GET).is_ok())
    }

    /// Ends as a signal makes it end. Gives why, if it was a full pool.
    pub fn stop(mut self) -> Option<String> {
        self.leave.begin();
        let (remote, runtime) = (self.remote.take().unwrap(), self.runtime.take().unwrap());
        let why = remote.end(runtime.handle());
        runtime.shutdown_timeout(Duration::from_secs(2));
        why
    }
}

impl Drop for Gateway {
    /// Ends as a fault makes it end.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}
