//! Opening a store.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::AnyConnection;
use sqlx::migrate::{MigrateError, Migrator};

use super::{Store, StoreResult, postgres, sqlite};
use crate::document::Secret;

/// Where the control plane's database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file. It is made if it is missing, its directory too.
    Sqlite(PathBuf),
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. The database has to exist, and the user has to be allowed to make
    /// tables in it.
    Postgres(Secret),
}

/// Opens a store, makes its tables, or brings them up to date.
///
/// # Errors
/// When the file or the server can not be used; says which, why, and what to do. No message holds a password.
pub async fn open(location: &Location) -> StoreResult<Arc<dyn Store>> {
    // sqlx looks up the database behind a connection in this list.
    static DRIVERS: std::sync::Once = std::sync::Once::new();
    DRIVERS.call_once(sqlx::any::install_default_drivers);
    Ok(Arc::new(match location {
        Location::Sqlite(path) => sqlite::open(path).await?,
        Location::Postgres(url) => postgres::open(url).await?,
    }))
}

/// Brings the tables up to date. PostgreSQL has a lock for it: of nodes that start together one does it, and the others
/// wait.
pub(super) async fn migrate(migrations: &Migrator, connection: &mut AnyConnection) -> Result<(), String> {
    migrations.run_direct(connection).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => {
            format!("its tables were made by a newer tollgate (step {version}); run that one, or restore a backup")
        }
        other => format!("its tables could not be brought up to date: {other}"),
    })
}
