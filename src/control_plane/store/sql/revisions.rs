//! Revisions, and the blobs that they refer to.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::Dialect;
use super::row::{Columns, clamped, count, int, optional_int, placeholders, rows};
use crate::control_plane::store::{NewRevision, PublishedRevision, StoreError, StoreResult};
use crate::distribution::ContentHash;

const COLUMNS: &str = "revisions.environment, revisions.seq, root, snapshot, snapshot_size, snapshot_raw_size, routes, \
                       source, author, note, rollback_of, published_ms";

/// Blobs that are removed with one statement.
const REMOVED_AT_ONCE: usize = 500;

/// The newest revision of each environment that has one.
pub(super) async fn heads(connection: &mut AnyConnection) -> StoreResult<Vec<PublishedRevision>> {
    let query = format!(
        "SELECT {COLUMNS} FROM environment_heads JOIN revisions \
         ON revisions.environment = environment_heads.environment AND revisions.seq = environment_heads.seq \
         ORDER BY revisions.environment"
    );
    let found = sqlx::query(&query).fetch_all(connection).await?;
    found.iter().map(revision).collect()
}

/// The same, as numbers only.
pub(super) async fn head_seqs(connection: &mut AnyConnection) -> StoreResult<Vec<(String, u64)>> {
    let query = sqlx::query("SELECT environment, seq FROM environment_heads WHERE seq > 0 ORDER BY environment");
    let found = query.fetch_all(connection).await?;
    found
        .iter()
        .map(|row| Ok((row.text("environment")?, row.number("seq")?)))
        .collect()
}

/// One revision.
pub(super) async fn one(
    connection: &mut AnyConnection,
    environment: &str,
    seq: u64,
) -> StoreResult<Option<PublishedRevision>> {
    // Whoever asks may name any number, and one that no column holds was never published.
    let Ok(seq) = i64::try_from(seq) else { return Ok(None) };
    let query = format!("SELECT {COLUMNS} FROM revisions WHERE environment = $1 AND seq = $2");
    let query = sqlx::query(&query).bind(environment).bind(seq);
    let row = query.fetch_optional(connection).await?;
    row.as_ref().map(revision).transpose()
}

/// Revisions of an environment, the newest first.
pub(super) async fn list(
    connection: &mut AnyConnection,
    environment: &str,
    before: Option<u64>,
    limit: usize,
) -> StoreResult<Vec<PublishedRevision>> {
    let query =
        format!("SELECT {COLUMNS} FROM revisions WHERE environment = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3");
    let query = sqlx::query(&query)
        .bind(environment)
        .bind(before.map_or(i64::MAX, clamped))
        .bind(rows(limit));
    query.fetch_all(connection).await?.iter().map(revision).collect()
}

/// Publishes, environments in the order of their names, each under the lock of its row. Gives the revisions in the order
/// in which they were given.
pub(super) async fn publish(
    connection: &mut AnyConnection,
    revisions: &[NewRevision],
    now_ms: u64,
) -> StoreResult<Vec<PublishedRevision>> {
    let mut order: Vec<(usize, &NewRevision)> = revisions.iter().enumerate().collect();
    order.sort_by(|(_, one), (_, other)| one.environment.cmp(&other.environment));
    let mut published = Vec::with_capacity(revisions.len());
    for (place, revision) in order {
        published.push((place, publish_one(connection, revision, now_ms).await?));
    }
    published.sort_by_key(|(place, _)| *place);
    Ok(published.into_iter().map(|(_, revision)| revision).collect())
}

async fn publish_one(connection: &mut AnyConnection, new: &NewRevision, now_ms: u64) -> StoreResult<PublishedRevision> {
    // Makes the row, or changes nothing in it: either way it is locked until the end of the transaction.
    let query = "INSERT INTO environment_heads (environment, seq) VALUES ($1, 0) \
                 ON CONFLICT (environment) DO UPDATE SET seq = environment_heads.seq RETURNING seq";
    let row = sqlx::query(query)
        .bind(&new.environment)
        .fetch_one(&mut *connection)
        .await?;
    let newest = row.number("seq")?;
    if newest != new.after {
        return Err(StoreError::Conflict(format!(
            "somebody else has published to \"{}\": it is at revision {newest}, not {}",
            new.environment, new.after
        )));
    }
    let query = sqlx::query("SELECT size FROM blobs WHERE hash = $1").bind(&new.snapshot.0[..]);
    let Some(row) = query.fetch_optional(&mut *connection).await? else {
        return Err(StoreError::Failed(format!(
            "the snapshot {} of the revision for \"{}\" is not stored",
            new.snapshot, new.environment
        )));
    };
    let published = PublishedRevision {
        environment: new.environment.clone(),
        seq: newest.saturating_add(1),
        root: new.root,
        snapshot: new.snapshot,
        snapshot_size: row.number("size")?,
        snapshot_raw_size: new.snapshot_raw_size,
        routes: new.routes,
        source: new.source.clone(),
        author: new.author.clone(),
        note: new.note.clone(),
        rollback_of: new.rollback_of,
        published_ms: now_ms,
    };
    insert(connection, &published).await?;
    let query = sqlx::query("UPDATE environment_heads SET seq = $2 WHERE environment = $1");
    query
        .bind(&published.environment)
        .bind(int(published.seq)?)
        .execute(connection)
        .await?;
    Ok(published)
}

async fn insert(connection: &mut AnyConnection, revision: &PublishedRevision) -> StoreResult<()> {
    let query = format!(
        "INSERT INTO revisions (environment, seq, root, snapshot, snapshot_size, snapshot_raw_size, routes, source, \
         author, note, rollback_of, published_ms) VALUES {}",
        placeholders(1, 12)
    );
    sqlx::query(&query)
        .bind(&revision.environment)
        .bind(int(revision.seq)?)
        .bind(&revision.root.0[..])
        .bind(&revision.snapshot.0[..])
        .bind(int(revision.snapshot_size)?)
        .bind(int(revision.snapshot_raw_size)?)
        .bind(int(revision.routes)?)
        .bind(&revision.source)
        .bind(&revision.author)
        .bind(&revision.note)
        .bind(optional_int(revision.rollback_of)?)
        .bind(int(revision.published_ms)?)
        .execute(connection)
        .await?;
    Ok(())
}

/// The bytes of a blob.
pub(super) async fn blob(connection: &mut AnyConnection, hash: &ContentHash) -> StoreResult<Option<Vec<u8>>> {
    let query = sqlx::query_scalar("SELECT bytes FROM blobs WHERE hash = $1").bind(&hash.0[..]);
    Ok(query.fetch_optional(connection).await?)
}

/// Stores blobs in the order of their hashes: two who store the same ones do not wait for each other crosswise.
pub(super) async fn put_blobs(connection: &mut AnyConnection, blobs: &[(ContentHash, Vec<u8>)]) -> StoreResult<()> {
    let mut order: Vec<&(ContentHash, Vec<u8>)> = blobs.iter().collect();
    order.sort_by_key(|(hash, _)| *hash);
    for (hash, bytes) in order {
        put_blob(connection, hash, bytes).await?;
    }
    Ok(())
}

/// Stores a blob, unless it is there.
pub(super) async fn put_blob(connection: &mut AnyConnection, hash: &ContentHash, bytes: &[u8]) -> StoreResult<()> {
    let query = "INSERT INTO blobs (hash, size, bytes) VALUES ($1, $2, $3) ON CONFLICT (hash) DO NOTHING";
    let size = int(count(bytes.len())?)?;
    sqlx::query(query)
        .bind(&hash.0[..])
        .bind(size)
        .bind(bytes)
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes old revisions of an environment, and every blob that is not used any more. The newest revision stays, whatever
/// is asked for: the next one builds on it.
///
/// What settings name is read here and not before: another node may just have made a key base. It writes the blobs of it,
/// then the setting, then the blobs once more, so that it is either seen here or comes after this.
pub(super) async fn prune(
    connection: &mut AnyConnection,
    dialect: Dialect,
    environment: &str,
    keep: usize,
    before_ms: u64,
) -> StoreResult<()> {
    // A publish that has found a blob but not yet referred to it must be over before the blob is judged. Who publishes
    // takes these tables in the same order.
    if dialect == Dialect::Postgres {
        let query = sqlx::query("LOCK TABLE blobs, revisions IN SHARE ROW EXCLUSIVE MODE");
        query.execute(&mut *connection).await?;
    }
    let query = "DELETE FROM revisions WHERE environment = $1 AND seq <= \
                 (SELECT seq FROM environment_heads WHERE environment = $1) - $2 AND published_ms < $3";
    let query = sqlx::query(query)
        .bind(environment)
        .bind(rows(keep.max(1)))
        .bind(clamped(before_ms));
    query.execute(&mut *connection).await?;

    let query = "SELECT hash FROM blobs WHERE NOT EXISTS (SELECT 1 FROM revisions WHERE snapshot = blobs.hash)";
    let found = sqlx::query(query).fetch_all(&mut *connection).await?;
    let settings: Vec<String> = sqlx::query_scalar("SELECT value FROM settings")
        .fetch_all(&mut *connection)
        .await?;
    let mut unused = Vec::new();
    for row in found {
        let hash = ContentHash(row.bytes("hash")?);
        let named = hash.to_string();
        if !settings.iter().any(|setting| setting.contains(&named)) {
            unused.push(hash);
        }
    }
    for part in unused.chunks(REMOVED_AT_ONCE) {
        let query = format!("DELETE FROM blobs WHERE hash IN {}", placeholders(1, part.len()));
        let query = part
            .iter()
            .fold(sqlx::query(&query), |query, hash| query.bind(&hash.0[..]));
        query.persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

fn revision(row: &AnyRow) -> StoreResult<PublishedRevision> {
    Ok(PublishedRevision {
        environment: row.text("environment")?,
        seq: row.number("seq")?,
        root: ContentHash(row.bytes("root")?),
        snapshot: ContentHash(row.bytes("snapshot")?),
        snapshot_size: row.number("snapshot_size")?,
        snapshot_raw_size: row.number("snapshot_raw_size")?,
        routes: row.number("routes")?,
        source: row.text("source")?,
        author: row.text("author")?,
        note: row.text("note")?,
        rollback_of: row.optional_number("rollback_of")?,
        published_ms: row.number("published_ms")?,
    })
}
