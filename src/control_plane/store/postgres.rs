//! The store in PostgreSQL, for several nodes: connecting, and how nodes wake each other.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AnyConnection, AnyPool, ConnectOptions, Connection, Executor};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::sql::{Dialect, SqlStore, begin_key_log};
use super::{StoreError, StoreResult, Wake};
use crate::document::Secret;

static MIGRATIONS: Migrator = sqlx::migrate!("src/control_plane/store/migrations/postgres");

/// Connections of one node: those that change something, of which all but one may be waiting for a lock, and those that
/// read, who must not stand behind them. A server takes a hundred unless it is told otherwise, and there may be several
/// nodes.
const WRITERS: u32 = 4;
const READERS: u32 = 8;

/// How long telling the other nodes may take. They look by themselves every two seconds.
const TELL: Duration = Duration::from_secs(1);

/// How long connecting may take, and waiting for a free connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What the server is told about a connection. A node that died in the middle of a transaction must not hold its locks
/// for hours, which is what TCP takes to notice; nobody waits longer for a lock than for an answer.
const SETTINGS: &str = "SET statement_timeout = '90s'; SET lock_timeout = '30s'; \
                        SET idle_in_transaction_session_timeout = '60s'; SET synchronous_commit = on";

/// Where nodes tell each other. A channel belongs to a database.
const CHANNEL: &str = "tollgate";

/// The longest pause between two attempts to listen.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// After so much silence the listener asks whether the server is still there: a connection that was cut off without a
/// word looks like one on which nothing happens.
const SILENCE: Duration = Duration::from_secs(60);

/// Connects, and makes the tables.
pub(super) async fn open(url: &Secret) -> StoreResult<SqlStore> {
    let (options, any) = read_url(url).map_err(StoreError::Failed)?;
    let name = format!(
        "PostgreSQL {}:{}/{}",
        options.get_host(),
        options.get_port(),
        options.get_database().unwrap_or(options.get_username())
    );
    let failed = |why: String| StoreError::Failed(format!("{name}: {why}"));
    // Not through the pool: it tries again until its time is over, and then no longer knows why.
    let mut first = timeout(CONNECT, AnyConnection::connect_with(&any))
        .await
        .map_err(|_| {
            failed(format!(
                "no answer within {} s; see whether the address is right",
                CONNECT.as_secs()
            ))
        })?
        .map_err(|error| failed(format!("{error}; see whether the server is up and whom it lets in")))?;
    super::open::migrate(&MIGRATIONS, &mut first).await.map_err(&failed)?;
    begin_key_log(&mut first)
        .await
        .map_err(|error| failed(error.to_string()))?;
    first.close().await.map_err(|error| failed(error.to_string()))?;

    let pool = |size: u32| {
        AnyPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(CONNECT)
            .after_connect(|connection, _| Box::pin(set_up(connection)))
            .connect_lazy_with(any.clone())
    };
    Ok(SqlStore {
        dialect: Dialect::Postgres,
        writer: pool(WRITERS),
        reader: pool(READERS),
        wakes: Some(Wakes::new(options)),
        name,
    })
}

async fn set_up(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    connection.execute(SETTINGS).await?;
    Ok(())
}

/// What a URL says. What is wrong with it is said without repeating it: it may hold a password.
fn read_url(url: &Secret) -> Result<(PgConnectOptions, AnyConnectOptions), String> {
    const FORM: &str = "postgres://USER:PASSWORD@HOST:PORT/DATABASE";
    let url = url.expose();
    if !["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        return Err(format!("the URL of the database is not of the form {FORM}"));
    }
    let options = PgConnectOptions::from_str(url);
    let any = AnyConnectOptions::from_str(url);
    match (options, any) {
        (Ok(options), Ok(any)) => Ok((options, any.disable_statement_logging())),
        _ => Err(format!(
            "the URL of the database can not be read; it has the form {FORM}, with %XX for characters like / and @ in \
             the password"
        )),
    }
}

/// How the nodes on one database wake each other.
pub(super) struct Wakes {
    /// Tells this node's own messages from those of others.
    node: String,
    options: PgConnectOptions,
    listener: Mutex<Listener>,
}

#[derive(Default)]
struct Listener {
    connected: Option<PgListener>,
    /// Before the next attempt.
    pause: Duration,
}

impl Wakes {
    fn new(options: PgConnectOptions) -> Self {
        Self {
            node: format!("{:016x}", rand::random::<u64>()),
            options,
            listener: Mutex::default(),
        }
    }

    /// Tells the other nodes.
    pub(super) async fn tell(&self, pool: &AnyPool, wake: &Wake) -> Result<(), sqlx::Error> {
        let text = match wake {
            Wake::Revision(environment) => Cow::from(format!("{} revision {environment}", self.node)),
            Wake::Keys => Cow::from(format!("{} keys", self.node)),
            Wake::Invalidations => Cow::from(format!("{} invalidations", self.node)),
            Wake::Unknown => Cow::from(format!("{} unknown", self.node)),
        };
        let query = sqlx::query("SELECT pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(text.as_ref());
        match timeout(TELL, query.execute(pool)).await {
            Ok(told) => told.map(drop),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// The next thing that another node tells. May be dropped at any time.
    pub(super) async fn next(&self) -> Wake {
        let mut listener = self.listener.lock().await;
        loop {
            let Listener { connected, pause } = &mut *listener;
            let Some(connection) = connected else {
                sleep(*pause).await;
                // Kept for the next attempt also if this one is dropped half way.
                *pause = (*pause * 2).clamp(Duration::from_millis(100), LONGEST_PAUSE);
                match self.listen().await {
                    Ok(listening) => {
                        *connected = Some(listening);
                        *pause = Duration::ZERO;
                        // Whatever was told before is lost.
                        return Wake::Unknown;
                    }
                    Err(error) => log::debug!("listening for other nodes: {error}"),
                }
                continue;
            };
            match timeout(SILENCE, connection.try_recv()).await {
                Ok(Ok(Some(message))) => {
                    if let Some(wake) = self.read(message.payload()) {
                        return wake;
                    }
                }
                // Lost. Not left to the listener's own attempts: they have no pause.
                Ok(Ok(None) | Err(_)) => *connected = None,
                Err(_) => {
                    let asked = sqlx::query("SELECT 1").execute(&mut *connection);
                    if !matches!(timeout(CONNECT, asked).await, Ok(Ok(_))) {
                        *connected = None;
                    }
                }
            }
        }
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        // A pool for each attempt: a connection that hangs comes back to its pool never, and nobody else waits for it.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    /// What a message says; none for this node's own.
    fn read(&self, text: &str) -> Option<Wake> {
        let (node, what) = text.split_once(' ').unwrap_or(("", text));
        if node == self.node {
            return None;
        }
        Some(match what.split_once(' ') {
            Some(("revision", environment)) => Wake::Revision(environment.to_owned()),
            None if what == "keys" => Wake::Keys,
            None if what == "invalidations" => Wake::Invalidations,
            _ => Wake::Unknown,
        })
    }
}
