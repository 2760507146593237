//! Objects with versions, and the generation.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Columns, int, rows};
use crate::control_plane::store::{Changes, Expected, Object, ObjectChange, ObjectKind, StoreError, StoreResult};

/// The number of the generation.
pub(super) async fn generation(connection: &mut AnyConnection) -> StoreResult<u64> {
    let query = sqlx::query("SELECT generation FROM store_state WHERE id = 1");
    query.fetch_one(connection).await?.number("generation")
}

/// One object.
pub(super) async fn one(connection: &mut AnyConnection, kind: ObjectKind, name: &str) -> StoreResult<Option<Object>> {
    let query = "SELECT name, version, value, created_ms, updated_ms FROM objects WHERE kind = $1 AND name = $2";
    let row = sqlx::query(query)
        .bind(word(kind))
        .bind(name)
        .fetch_optional(connection)
        .await?;
    row.map(|row| object(kind, &row)).transpose()
}

/// Objects of a kind in the order of their names.
pub(super) async fn list(
    connection: &mut AnyConnection,
    kind: ObjectKind,
    after: Option<&str>,
    limit: usize,
) -> StoreResult<Vec<Object>> {
    // No name is empty, so that all come after the empty one.
    let query = "SELECT name, version, value, created_ms, updated_ms FROM objects \
                 WHERE kind = $1 AND name > $2 ORDER BY name LIMIT $3";
    let query = sqlx::query(query)
        .bind(word(kind))
        .bind(after.unwrap_or(""))
        .bind(rows(limit));
    let found = query.fetch_all(connection).await?;
    found.iter().map(|row| object(kind, row)).collect()
}

/// Makes a new generation if the changes ask for one, and refuses those that were thought up in another one.
///
/// Whoever changes objects locks the state first and keeps it until the end: of two such changes one sees all that the
/// other did. That makes them one queue; they are made by people, and take milliseconds.
pub(super) async fn check_generation(connection: &mut AnyConnection, changes: &Changes) -> StoreResult<()> {
    if changes.generation.is_none() && changes.objects.is_empty() {
        return Ok(());
    }
    let grows = changes.objects.iter().any(|change| makes_generation(change.kind));
    let query = "UPDATE store_state SET generation = generation + $1 WHERE id = 1 RETURNING generation";
    let row = sqlx::query(query).bind(i64::from(grows)).fetch_one(connection).await?;
    let before = row.number("generation")?.saturating_sub(u64::from(grows));
    match changes.generation {
        Some(expected) if expected != before => Err(StoreError::Conflict(
            "what this was decided on was changed by somebody else in the meantime; look again and repeat it"
                .to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Makes the changes, under the lock of the state. Gives what was written.
pub(super) async fn change(
    connection: &mut AnyConnection,
    changes: &[ObjectChange],
    now_ms: u64,
) -> StoreResult<Vec<Object>> {
    let mut written = Vec::new();
    for change in changes {
        let before = one(&mut *connection, change.kind, &change.name).await?;
        check(change, before.as_ref())?;
        match (&change.value, before) {
            (Some(value), Some(before)) => written.push(update(connection, before, value, now_ms).await?),
            (Some(value), None) => written.push(insert(connection, change, value, now_ms).await?),
            (None, Some(before)) => remove(connection, &before).await?,
            (None, None) => {}
        }
    }
    Ok(written)
}

fn check(change: &ObjectChange, before: Option<&Object>) -> StoreResult<()> {
    let what = format!("{} \"{}\"", noun(change.kind), change.name);
    match (change.expected, before) {
        (Expected::Absent, Some(_)) => Err(StoreError::Conflict(format!("{what} exists already"))),
        (Expected::Version(_) | Expected::Present, None) => Err(StoreError::NotFound(format!("{what} does not exist"))),
        (Expected::Version(expected), Some(before)) if before.version != expected => {
            Err(StoreError::Conflict(format!(
                "{what} was changed by somebody else (version {}, not {expected})",
                before.version
            )))
        }
        _ => Ok(()),
    }
}

async fn insert(
    connection: &mut AnyConnection,
    change: &ObjectChange,
    value: &str,
    now_ms: u64,
) -> StoreResult<Object> {
    let query = "INSERT INTO objects (kind, name, version, value, created_ms, updated_ms) \
                 SELECT $1, $2, version_floor + 1, $3, $4, $5 FROM store_state WHERE id = 1 \
                 RETURNING name, version, value, created_ms, updated_ms";
    let query = sqlx::query(query)
        .bind(word(change.kind))
        .bind(&change.name)
        .bind(value)
        .bind(int(now_ms)?)
        .bind(int(now_ms)?);
    object(change.kind, &query.fetch_one(connection).await?)
}

async fn update(connection: &mut AnyConnection, before: Object, value: &str, now_ms: u64) -> StoreResult<Object> {
    let query = "UPDATE objects SET version = version + 1, value = $3, updated_ms = $4 WHERE kind = $1 AND name = $2 \
                 RETURNING name, version, value, created_ms, updated_ms";
    let query = sqlx::query(query)
        .bind(word(before.kind))
        .bind(&before.name)
        .bind(value)
        .bind(int(now_ms)?);
    object(before.kind, &query.fetch_one(connection).await?)
}

async fn remove(connection: &mut AnyConnection, before: &Object) -> StoreResult<()> {
    let query = sqlx::query("DELETE FROM objects WHERE kind = $1 AND name = $2");
    query
        .bind(word(before.kind))
        .bind(&before.name)
        .execute(&mut *connection)
        .await?;
    let query = "UPDATE store_state SET version_floor = $1 WHERE id = 1 AND version_floor < $1";
    sqlx::query(query)
        .bind(int(before.version)?)
        .execute(connection)
        .await?;
    Ok(())
}

fn object(kind: ObjectKind, row: &AnyRow) -> StoreResult<Object> {
    Ok(Object {
        kind,
        name: row.text("name")?,
        version: row.number("version")?,
        value: row.text("value")?,
        created_ms: row.number("created_ms")?,
        updated_ms: row.number("updated_ms")?,
    })
}

/// What revisions are composed of. Sources are what comes out of it; pools and tokens are about who gets it.
fn makes_generation(kind: ObjectKind) -> bool {
    !matches!(kind, ObjectKind::Source | ObjectKind::Pool | ObjectKind::Token)
}

/// As it is stored.
fn word(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Environment => "environment",
        ObjectKind::Source => "source",
        ObjectKind::Api => "api",
        ObjectKind::ApiRevision => "api_revision",
        ObjectKind::Plan => "plan",
        ObjectKind::Application => "application",
        ObjectKind::Pool => "pool",
        ObjectKind::Token => "token",
    }
}

/// As people are told of it.
fn noun(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Source => "the source of environment",
        ObjectKind::ApiRevision => "API revision",
        other => word(other),
    }
}
