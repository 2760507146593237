//! Small values of the control plane's own.

use sqlx::AnyConnection;

use super::row::Columns;
use crate::control_plane::store::StoreResult;

pub(super) async fn get(connection: &mut AnyConnection, name: &str) -> StoreResult<Option<String>> {
    let query = sqlx::query("SELECT value FROM settings WHERE name = $1").bind(name);
    let row = query.fetch_optional(connection).await?;
    row.map(|row| row.text("value")).transpose()
}

/// In one statement, so that of two who ask at once both get the same. The update changes nothing: it only makes the
/// value that is there come back.
pub(super) async fn get_or_insert(connection: &mut AnyConnection, name: &str, otherwise: &str) -> StoreResult<String> {
    let query = "INSERT INTO settings (name, value) VALUES ($1, $2) \
                 ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING value";
    let row = sqlx::query(query)
        .bind(name)
        .bind(otherwise)
        .fetch_one(connection)
        .await?;
    row.text("value")
}

pub(super) async fn set(connection: &mut AnyConnection, name: &str, value: Option<&str>) -> StoreResult<()> {
    let query = match value {
        Some(value) => sqlx::query(
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(value),
        None => sqlx::query("DELETE FROM settings WHERE name = $1").bind(name),
    };
    query.execute(connection).await?;
    Ok(())
}
