//! Assembly of the control plane: the store, the listener, and every background task, in one list.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use serde_json::json;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};
use utoipa_axum::router::OpenApiRouter;

use super::access::{Scope, TokenRecord};
use super::config::Config;
use super::listen::{Acceptor, Certificate};
use super::plane::{Plane, Settings};
use super::problem::Problem;
use super::store::{self, ObjectKind, Store, StoreError};
use super::{authoring, background, delivery, key_manager, metrics, openapi, pools, request_body};
use crate::clock::unix_ms;
use crate::distribution::SigningKey;
use crate::document::Secret;
use crate::server::sockets::{self, BindError, Inheritance, Listening};
use crate::server::systemd::Systemd;
use crate::side_http::{self, Bounds};

/// Connections beside those of polls: operators, heartbeats, those that fetch.
const CONNECTIONS: u32 = 10_000;

/// How long the store may take to answer a question after its health.
const PING: Duration = Duration::from_secs(2);

/// How long the store is given to take the last signs of life when the process ends.
const LAST_SIGNS: Duration = Duration::from_secs(10);

/// How long another node that starts at the same time is given to make the first token.
const OTHER_NODE: Duration = Duration::from_secs(10);

/// A control plane with its store open and its socket bound.
pub struct ControlPlane {
    runtime: Runtime,
    plane: Arc<Plane>,
    listening: Listening,
    address: SocketAddr,
    systemd: Systemd,
    acceptor: Acceptor,
    certificate: Option<Certificate>,
    bounds: Bounds,
    first_token: Option<Secret>,
}

/// Why a control plane did not start.
#[derive(Debug)]
pub enum StartError {
    /// The port can not be had.
    Socket(BindError),
    /// The store can not be used.
    Store(StoreError),
    /// The certificate can not be used.
    Tls(String),
    /// Something of the machine: threads, randomness.
    Machine(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Tls(error) => write!(f, "listener.tls: {error}"),
            Self::Machine(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Every route of the control plane. This is the one place where they come together: a module of routes is one line here.
fn routes() -> OpenApiRouter<Arc<Plane>> {
    OpenApiRouter::new()
        .merge(authoring::router())
        .merge(delivery::router())
        .merge(pools::router())
        .merge(key_manager::router())
}

impl ControlPlane {
    /// Opens the store, binds the socket, and makes the first token if there is none. Connections wait in the backlog
    /// until [`Self::run`] or [`Self::serve`].
    ///
    /// It waits, and has threads of its own: not to be called by an asynchronous task.
    ///
    /// # Errors
    /// When something that is needed can not be had.
    pub fn prepare(config: Config) -> Result<Self, StartError> {
        sockets::raise_file_limit();
        let certificate = config.listener.tls.as_ref().map(Certificate::read);
        let certificate = certificate.transpose().map_err(StartError::Tls)?;
        let systemd = Systemd::of_environment();
        let mut inheritance = Inheritance::of_service_manager(systemd);
        let listening = (inheritance.listen(config.listener.address)).map_err(StartError::Socket)?;
        inheritance.close_rest(systemd);
        let address = listening.actual;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("control-plane")
            .enable_all()
            .build()
            .map_err(|error| StartError::Machine(format!("threads: {error}")))?;
        let (plane, first_token) = runtime.block_on(open(&config, address))?;
        Ok(Self {
            runtime,
            plane,
            listening,
            address,
            systemd,
            acceptor: certificate.as_ref().map_or(Acceptor::Plain, Certificate::acceptor),
            certificate,
            bounds: Bounds {
                connections: config.distribution.polls.saturating_add(CONNECTIONS),
                life: None,
                head_bytes: 64 * 1024,
                linger: Duration::ZERO,
                ..Bounds::BESIDE
            },
            first_token,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The administrator's token that this start has made, if it has: it is nowhere else.
    #[must_use]
    pub fn first_token(&self) -> Option<&Secret> {
        self.first_token.as_ref()
    }

    /// The node itself, for who lives in the same process.
    #[must_use]
    pub fn plane(&self) -> &Arc<Plane> {
        &self.plane
    }

    /// Serves until a signal ends it. Prints the first token, if there is one.
    pub fn run(mut self) {
        if let Some(token) = self.first_token.take() {
            use std::io::Write;
            // Not `println!`, which panics when nobody reads.
            let _ = writeln!(std::io::stdout(), "first admin token (shown once): {}", token.expose());
        }
        let handle = self.runtime.handle().clone();
        let ended = {
            let _runtime = handle.enter();
            signals()
        };
        let systemd = self.systemd;
        sockets::keep(std::slice::from_ref(&self.listening), systemd);
        systemd.ready(&format!("control plane on {}", self.address));
        if let Some(patience) = systemd.watchdog() {
            self.runtime.spawn(async move {
                let mut tick = tokio::time::interval(patience / 3);
                loop {
                    tick.tick().await;
                    systemd.alive();
                }
            });
        }
        handle.block_on(self.serve(async move {
            ended.await;
            systemd.stopping("stopping");
        }));
    }

    /// Serves until `shutdown`, on threads of its own. Then who waits for news is answered at once, and answers that are
    /// on their way are finished.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let Self {
            runtime,
            plane,
            listening,
            address,
            systemd: _,
            acceptor,
            certificate,
            bounds,
            first_token: _,
        } = self;
        let scheme = scheme(certificate.is_some());
        log::info!("control plane on {scheme}://{address}, {}", plane.store.name());
        let served = runtime.spawn(async move {
            let mut tasks = background::start(&plane);
            let seats = pools::start(&plane, &Handle::current());
            if let Some(certificate) = certificate {
                tasks.spawn(certificate.follow());
            }
            let end = {
                let plane = Arc::clone(&plane);
                async move {
                    shutdown.await;
                    plane.leave();
                }
            };
            let served = side_http::serve_until(listening.socket, acceptor, router(plane), bounds, end).await;
            if timeout(LAST_SIGNS, seats.finish()).await.is_err() {
                log::warn!("the last signs of life of gateways were not stored in time; they give others");
            }
            served
        });
        match served.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("{address}: {error}"),
            Err(error) => log::error!("control plane: {error}"),
        }
        // Not dropped: that would wait, which a task must not.
        runtime.shutdown_background();
    }
}

/// Opens the store, and finds in it or makes what a node needs.
async fn open(config: &Config, address: SocketAddr) -> Result<(Arc<Plane>, Option<Secret>), StartError> {
    let store = store::open(&config.store).await?;
    authoring::make_first_environment(store.as_ref(), unix_ms()).await?;
    let signing = signing_key(store.as_ref(), config.signing_key.as_ref()).await?;
    let plane = Plane::configured(store, Arc::new(signing), settings(config, address));
    background::refresh(&plane).await?;
    if let Some(token) = &config.bootstrap_token {
        let is_there = plane.tokens.adopt(token, admin("bootstrap token")).await?;
        if !is_there {
            log::warn!("bootstrap_token: this token was revoked and stays so; remove it from the configuration");
        }
    }
    let first_token = first_token(&plane).await?;
    Ok((plane, first_token))
}

/// What the configuration says to each part. An issuer that is not configured is the address that was bound.
fn settings(config: &Config, address: SocketAddr) -> Settings {
    let scheme = scheme(config.listener.tls.is_some());
    let issuer = config
        .oauth2
        .issuer
        .as_deref()
        .map(|issuer| issuer.trim_end_matches('/').to_owned());
    Settings {
        delivery: delivery::Settings {
            distribution: config.distribution,
            keys: config.keys,
        },
        pools: pools::Settings {
            seat_ttl: config.pools.seat_ttl,
            reclaim: config.pools.reclaim,
        },
        key_manager: key_manager::Settings {
            issuer: issuer.unwrap_or_else(|| format!("{scheme}://{address}")),
            token_lifetime: config.oauth2.token_lifetime,
        },
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// The configured key, or the one in the store, which is made when it is not there.
async fn signing_key(store: &dyn Store, configured: Option<&Secret>) -> Result<SigningKey, StartError> {
    let machine = |error: &dyn fmt::Display| StartError::Machine(format!("signing key: {error}"));
    let stored;
    let secret = match configured {
        Some(secret) => secret,
        None => {
            let (_, made) = SigningKey::generate().map_err(|error| machine(&error))?;
            stored = Secret::from(store.setting("signing_key", made.expose()).await?);
            &stored
        }
    };
    SigningKey::from_secret(secret).map_err(|error| machine(&error))
}

/// Makes the first token, if there is none. Of several nodes that start at the same time, one does.
async fn first_token(plane: &Plane) -> Result<Option<Secret>, StartError> {
    let is_there =
        async || -> Result<bool, StartError> { Ok(!plane.store.objects(ObjectKind::Token, None, 1).await?.is_empty()) };
    if is_there().await? {
        return Ok(None);
    }
    let claim = crate::auth::key::random_text(16).map_err(|error| StartError::Machine(error.to_string()))?;
    if plane.store.setting("first_token_by", &claim).await? != claim {
        // Another node is about to make it, or has died over it.
        let wait = async {
            while !is_there().await? {
                sleep(Duration::from_millis(200)).await;
            }
            Ok::<_, StartError>(())
        };
        if let Ok(made) = timeout(OTHER_NODE, wait).await {
            return made.map(|()| None);
        }
    }
    let (_, token) = plane.tokens.create(admin("first token")).await?;
    Ok(Some(token))
}

fn admin(note: &str) -> impl FnOnce(String) -> TokenRecord {
    let note = note.to_owned();
    move |sha256| TokenRecord {
        sha256,
        note,
        scopes: vec![Scope::Admin],
        environments: Vec::new(),
        roles: Vec::new(),
        expires_ms: None,
    }
}

/// All routes with their description, and what every service has beside them.
fn router(plane: Arc<Plane>) -> Router {
    let (router, description) = routes().split_for_parts();
    let description = match openapi::document(description).to_json() {
        Ok(text) => Bytes::from(text),
        Err(error) => {
            log::error!("openapi.json: {error}");
            Bytes::new()
        }
    };
    router
        .route(
            "/openapi.json",
            get(async move || ([(header::CONTENT_TYPE, "application/json")], description)),
        )
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .fallback(async || Problem::NotFound("there is nothing here; /openapi.json says what there is".to_owned()))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(from_fn(request_body::bounded))
        .with_state(plane)
}

/// 200 while the process works.
async fn live() -> Response {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") })).into_response()
}

/// 200 while the store answers.
async fn ready(State(plane): State<Arc<Plane>>) -> Response {
    let why_not = match timeout(PING, plane.store.ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            log::warn!("not ready: {error}");
            Some("the store does not work")
        }
        Err(_) => Some("the store does not answer"),
    };
    let code = match why_not {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(json!({ "ready": why_not.is_none(), "why_not": why_not }))).into_response()
}

async fn render(State(plane): State<Arc<Plane>>) -> Response {
    match metrics::render(&plane) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            log::error!("metrics: {error}");
            Problem::Internal.into_response()
        }
    }
}

/// Returns when somebody wants the process to end. Signals are heard from the call on, not from the first look: before
/// that they would end the process at once.
fn signals() -> impl Future<Output = ()> + Send + 'static {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let next = async |signal: std::io::Result<Signal>| match signal {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            log::error!("signal handler: {error}");
            std::future::pending::<()>().await;
        }
    };
    async move {
        tokio::select! {
            () = next(terminate) => log::info!("SIGTERM: leaving"),
            () = next(interrupt) => log::info!("interrupted: leaving"),
        }
    }
}

#[cfg(test)]
mod tests;
