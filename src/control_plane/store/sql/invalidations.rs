//! What gateways are to forget of kept answers: a log with one number for all environments.
//!
//! The number is a setting that is counted up in one statement. Whoever writes keeps its row to the end of the transaction,
//! so that records become visible in the order of their numbers, as those of the key log do.

use futures_util::TryStreamExt;
use sqlx::AnyConnection;

use super::row::{Columns, clamped, int, rows};
use crate::control_plane::store::{StoreError, StoreResult};
use crate::distribution::CacheRecord;

/// Records of an environment that are kept. A gateway that has missed more forgets everything, which is right too. Tests fill
/// it.
pub(in crate::control_plane) const KEPT: u64 = if cfg!(test) { 200 } else { 10_000 };

/// Orders that are read together, in bytes, beside the first.
const READ: usize = 1 << 20;

/// Writes one and gives its number.
pub(super) async fn write(
    connection: &mut AnyConnection,
    (environment, author): (&str, &str),
    what: &str,
    now_ms: u64,
) -> StoreResult<u64> {
    let count = "INSERT INTO settings (name, value) VALUES ('cache_invalidations', '1') ON CONFLICT (name) DO UPDATE \
                 SET value = CAST(CAST(settings.value AS BIGINT) + 1 AS TEXT) RETURNING value";
    let counted = sqlx::query(count).fetch_one(&mut *connection).await?.text("value")?;
    let seq: u64 = counted
        .parse()
        .map_err(|_| StoreError::Failed(format!("the number of the last invalidation is not one: {counted}")))?;
    let write = "INSERT INTO cache_invalidations (seq, environment, at_ms, author, what) VALUES ($1, $2, $3, $4, $5)";
    sqlx::query(write)
        .bind(int(seq)?)
        .bind(environment)
        .bind(int(now_ms)?)
        .bind(author)
        .bind(what)
        .execute(&mut *connection)
        .await?;
    // Of this environment alone: those of a busy one are no reason for gateways of another to forget everything.
    let forget = "DELETE FROM cache_invalidations WHERE environment = $1 AND seq <= (SELECT seq FROM cache_invalidations \
                  WHERE environment = $2 ORDER BY seq DESC LIMIT 1 OFFSET $3)";
    sqlx::query(forget)
        .bind(environment)
        .bind(environment)
        .bind(int(KEPT)?)
        .execute(&mut *connection)
        .await?;
    Ok(seq)
}

/// The number of the newest; 0 if there was none.
pub(super) async fn head(connection: &mut AnyConnection) -> StoreResult<u64> {
    let query = sqlx::query("SELECT COALESCE(MAX(seq), 0) AS seq FROM cache_invalidations");
    query.fetch_one(connection).await?.number("seq")
}

/// Those of an environment after a number, the oldest first: as many as were asked for, or as fit.
pub(super) async fn after(
    connection: &mut AnyConnection,
    environment: &str,
    after: u64,
    limit: usize,
) -> StoreResult<Vec<CacheRecord>> {
    let query = sqlx::query(
        "SELECT COALESCE(MIN(seq), 0) AS seq, COUNT(*) AS number FROM cache_invalidations WHERE environment = $1",
    );
    let kept = query.bind(environment).fetch_one(&mut *connection).await?;
    let oldest = kept.number("seq")?;
    // Numbers have gaps, where other environments have theirs. As long as there were never too many, nothing is gone.
    if after < oldest && kept.number("number")? >= KEPT {
        return Err(StoreError::NotFound(format!(
            "invalidations before {oldest} are not kept any more"
        )));
    }
    let query = sqlx::query(
        "SELECT seq, at_ms, author, what FROM cache_invalidations WHERE environment = $1 AND seq > $2 ORDER BY seq LIMIT $3",
    );
    read(
        query.bind(environment).bind(clamped(after)).bind(rows(limit)),
        connection,
    )
    .await
}

/// Those of an environment, the newest first: as many as were asked for, or as fit.
pub(super) async fn newest(
    connection: &mut AnyConnection,
    environment: &str,
    limit: usize,
) -> StoreResult<Vec<CacheRecord>> {
    let query = sqlx::query(
        "SELECT seq, at_ms, author, what FROM cache_invalidations WHERE environment = $1 ORDER BY seq DESC LIMIT $2",
    );
    read(query.bind(environment).bind(rows(limit)), connection).await
}

async fn read<'q>(
    query: sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments<'q>>,
    connection: &mut AnyConnection,
) -> StoreResult<Vec<CacheRecord>> {
    let mut rows = query.fetch(connection);
    let (mut records, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        let what = row.text("what")?;
        bytes += what.len();
        if bytes > READ && !records.is_empty() {
            break;
        }
        records.push(CacheRecord {
            seq: row.number("seq")?,
            at_ms: row.number("at_ms")?,
            author: row.text("author")?,
            what: serde_json::from_str(&what)
                .map_err(|error| StoreError::Failed(format!("an invalidation is not JSON: {error}")))?,
        });
    }
    Ok(records)
}
