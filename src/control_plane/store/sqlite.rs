//! The store in one file: what SQLite needs beside SQL.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, AnyPool, ConnectOptions, Connection, Executor};

use super::sql::{Dialect, SqlStore, begin_key_log};
use super::{StoreError, StoreResult};

static MIGRATIONS: Migrator = sqlx::migrate!("src/control_plane/store/migrations/sqlite");

/// Those who read at the same time. More would only wait for the same disk.
const READERS: u32 = 4;

/// How long a transaction waits for its turn. Longer than the longest one takes.
const TURN: Duration = Duration::from_secs(60);

/// Said to every connection. WAL: who reads and who writes do not wait for each other. FULL: what was answered with
/// "done" is on the disk. The timeout is for another process, such as a backup, that has the file open.
const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 10000; \
                       PRAGMA foreign_keys = ON;";

/// Opens the file, or makes it, for its owner only.
pub(super) async fn open(path: &Path) -> StoreResult<SqlStore> {
    let name = format!("SQLite {}", path.display());
    let failed = |why: String| StoreError::Failed(format!("{name}: {why}"));
    let path = path.to_path_buf();
    let options = tokio::task::spawn_blocking(move || prepare_file(&path))
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(format!("{error}; give a file in a directory that this user may write")))?;
    let url = options.to_url_lossy();
    let options = AnyConnectOptions::from_str(url.as_str())
        .map_err(|error| failed(error.to_string()))?
        .disable_statement_logging();

    let mut first = connect(&options).await.map_err(|error| {
        failed(format!(
            "{error}; if this is not a database of tollgate, give another file, and if it is, restore it"
        ))
    })?;
    super::open::migrate(&MIGRATIONS, &mut first).await.map_err(&failed)?;
    begin_key_log(&mut first)
        .await
        .map_err(|error| failed(error.to_string()))?;
    first.close().await.map_err(|error| failed(error.to_string()))?;

    // One connection writes, and those who want to write stand in the pool's queue, each in turn. With several, SQLite
    // would let them try again and again, and who is unlucky runs into the timeout.
    Ok(SqlStore {
        dialect: Dialect::Sqlite,
        writer: pool(1, &options),
        reader: pool(READERS, &options),
        wakes: None,
        name,
    })
}

fn pool(size: u32, options: &AnyConnectOptions) -> AnyPool {
    AnyPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(TURN)
        // Nothing is on the other side of a connection that could have gone away.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .after_connect(|connection, _| Box::pin(set_up(connection)))
        .connect_lazy_with(options.clone())
}

async fn connect(options: &AnyConnectOptions) -> Result<AnyConnection, sqlx::Error> {
    let mut connection = AnyConnection::connect_with(options).await?;
    set_up(&mut connection).await?;
    Ok(connection)
}

async fn set_up(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    connection.execute(PRAGMAS).await?;
    Ok(())
}

/// A file that was there before keeps its mode: somebody may want it so, a group that makes copies for one.
fn warn_if_others_read(file: &File, path: &Path) -> io::Result<()> {
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.display();
        log::warn!(
            "{path}: other users may read or change this database (mode {mode:03o}), in which the signing key is; make it \
             its owner's own: chmod 600 {path}"
        );
    }
    Ok(())
}

/// The file is there afterwards, and nobody else may read it: it holds hashes of tokens and the signing key.
fn prepare_file(path: &Path) -> io::Result<SqliteConnectOptions> {
    let path = std::path::absolute(path)?;
    if path.to_str().is_none() {
        return Err(io::Error::other("the path is not UTF-8"));
    }
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // SQLite gives the files of its log the same mode as this one.
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .and_then(|file| warn_if_others_read(&file, &path))?;
    Ok(SqliteConnectOptions::new().filename(&path))
}
