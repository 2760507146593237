//! What goes on beside the requests: every task of a gateway that runs, in one list, and what its service manager is told.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::acceptor::Entrance;
use super::admin::performance::Performance;
use super::admin::{self, Admin};
use super::census::Census;
use super::status::{self, Status};
use super::{Beside, Server};
use crate::gateway::drain::Drain;
use crate::throttle::Time;
use crate::upstream::checks::Checks;

/// How often finished counters are looked for, and what was replaced and is not in use any more.
const SWEEP: Duration = Duration::from_secs(1);

/// How often people see in `systemctl status` how it goes.
const TELL: Duration = Duration::from_secs(5);

impl Server {
    /// Says that it serves, and from now on how it goes.
    pub(super) fn tell_service_manager(&self, entrance: &Entrance, census: &Arc<Census>) {
        let systemd = self.systemd;
        let (revisions, metrics) = (Arc::clone(&self.revisions), Arc::clone(&self.metrics));
        let census = Arc::clone(census);
        let line = move || {
            let digest = revisions.status().digest;
            let revision = match &digest {
                Some(digest) => format!("revision {}", digest.get(..12).unwrap_or(digest)),
                None => "waiting for a revision".to_owned(),
            };
            let requests = metrics.requests_in_flight.get();
            format!(
                "{revision}, {} connections, {requests} requests in flight",
                census.open()
            )
        };
        systemd.ready(&line());
        let drain = self.drain.clone();
        self.side.spawn(async move {
            let mut tick = tokio::time::interval(TELL);
            loop {
                tick.tick().await;
                if drain.is_announced() {
                    return;
                }
                systemd.status(&line());
            }
        });
        if let Some(patience) = systemd.watchdog() {
            let (drain, runtime) = (self.drain.clone(), entrance.runtime().clone());
            // From the threads that serve: those are what has to be alive.
            entrance.runtime().spawn(async move {
                let mut tick = tokio::time::interval(patience / 3);
                loop {
                    tick.tick().await;
                    if drain.is_followed() {
                        return;
                    }
                    let _ = runtime.spawn(async move { systemd.alive() }).await;
                }
            });
        }
    }

    /// Every task that runs beside the requests. Key sets start theirs when a revision names an issuer.
    pub(super) fn start_side_tasks(&mut self, entrance: &Entrance, beside: Beside) {
        let status = Arc::new(Status {
            gateway: self.config.gateway.clone(),
            revisions: Arc::clone(&self.revisions),
            key_sets: self.key_sets.clone(),
            throttle: Arc::clone(&self.sharing.throttle),
            redis: self.sharing.redis().cloned(),
            standing: self.remote.as_ref().map(|remote| remote.standing()),
            keys: self.remote.as_ref().map(|remote| Arc::clone(remote.keys())),
            metrics: Arc::clone(&self.metrics),
            drain: self.drain.clone(),
        });
        let desk = self.follow_invalidations();
        let (listener, drain) = (beside.status, self.drain.clone());
        self.side.spawn(async move {
            if let Err(error) = status::serve(listener, status, followed(drain)).await {
                log::error!("status listener: {error}");
            }
        });

        if let (Some(listening), Some(listener), Some(settings)) = (&self.admin, beside.admin, &self.config.admin) {
            log::info!("admin on {}", listening.actual);
            let admin = Arc::new(
                Admin::new(&settings.token, Arc::clone(&self.leave), self.performance(entrance)).with_cache(desk),
            );
            let drain = self.drain.clone();
            self.side.spawn(async move {
                if let Err(error) = admin::serve(listener, admin, followed(drain)).await {
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

    /// What `GET /debug/performance` looks at.
    fn performance(&self, entrance: &Entrance) -> Performance {
        Performance {
            started: Instant::now(),
            metrics: Arc::clone(&self.metrics),
            revisions: Arc::clone(&self.revisions),
            throttle: Arc::clone(&self.sharing.throttle),
            registry: Arc::clone(&self.registry),
            tokens: Arc::clone(&self.estate.tokens),
            keys: self.remote.as_ref().map(|remote| Arc::clone(remote.key_store())),
            access_log: self.access_log.clone(),
            runtimes: vec![
                ("requests", entrance.runtime().clone()),
                ("side", self.side.handle().clone()),
            ],
            before: parking_lot::Mutex::new(None),
        }
    }
}

/// Over when another process has taken over, whose listener it is then.
async fn followed(mut drain: Drain) {
    drain.begun().await;
    if !drain.is_followed() {
        std::future::pending::<()>().await;
    }
}
