//! Keys, and the log of what happened to them.
//!
//! All who write take the numbers of their records from one row, and with it a lock that they keep until the end of the
//! transaction: records become visible in the order of their numbers, and a number that was taken but not used is given
//! back. A sequence of the database would do neither.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::row::{Columns, clamped, count, int, optional_int, placeholders, rows};
use crate::control_plane::store::{KeyHead, KeyQuery, KeyWrite, StoreError, StoreResult, StoredKey};
use crate::distribution::{KeyChange, KeyEntry, KeyHash, KeyRecord};
use crate::revision::KeyType;

/// Rows that are written, or hashes that are looked for, with one statement. A round trip costs more than a row.
const AT_ONCE: usize = 250;

const KEY_COLUMNS: &str = "hash, id, application, key_type, expires_ms, created_ms, revoked_ms";

/// Writes keys and their records, in the order in which they are given. Gives the end of the log before and after.
pub(super) async fn write(connection: &mut AnyConnection, writes: &[KeyWrite], now_ms: u64) -> StoreResult<(u64, u64)> {
    let query = "UPDATE key_state SET seq = seq WHERE id = 1 RETURNING seq, live";
    let row = sqlx::query(query).fetch_one(&mut *connection).await?;
    let before = row.number("seq")?;
    let mut log = Writer {
        connection,
        now_ms,
        seq: before,
        live: row.number("live")?,
    };
    let mut rest = writes;
    while let Some((first, others)) = rest.split_first() {
        match first {
            KeyWrite::Create(_) => {
                let entries: Vec<&KeyEntry> = rest.iter().map_while(created).take(AT_ONCE).collect();
                log.create(&entries).await?;
                rest = rest.get(entries.len()..).unwrap_or_default();
                continue;
            }
            KeyWrite::RevokeId(id) => log.revoke_id(id).await?,
            KeyWrite::RevokeHash(hash) => log.revoke_hash(*hash).await?,
            KeyWrite::RevokeApplication(application) => log.revoke_application(application).await?,
        }
        rest = others;
    }
    let (after, live) = (log.seq, log.live);
    if after > before {
        let query = sqlx::query("UPDATE key_state SET seq = $1, live = $2 WHERE id = 1");
        query.bind(int(after)?).bind(int(live)?).execute(connection).await?;
    }
    Ok((before, after))
}

fn created(write: &KeyWrite) -> Option<&KeyEntry> {
    match write {
        KeyWrite::Create(entry) => Some(entry),
        _ => None,
    }
}

/// The log while it is being written.
struct Writer<'a> {
    connection: &'a mut AnyConnection,
    now_ms: u64,
    seq: u64,
    live: u64,
}

impl Writer<'_> {
    async fn create(&mut self, entries: &[&KeyEntry]) -> StoreResult<()> {
        let first = self.seq.saturating_add(1);
        let query = format!(
            "INSERT INTO keys (hash, id, application, key_type, expires_ms, created_ms, seq) VALUES {} \
             ON CONFLICT DO NOTHING",
            placeholders(entries.len(), 7)
        );
        let mut query = sqlx::query(&query).persistent(entries.len() == AT_ONCE);
        for (seq, entry) in (first..).zip(entries) {
            query = query
                .bind(&entry.hash.0[..])
                .bind(&entry.id)
                .bind(&entry.application)
                .bind(entry.key_type.as_str())
                .bind(optional_int(entry.expires_ms)?)
                .bind(int(self.now_ms)?)
                .bind(int(seq)?);
        }
        let stored = query.execute(&mut *self.connection).await?.rows_affected();
        let wanted = count(entries.len())?;
        if stored != wanted {
            return Err(self.used_before(first, entries).await?);
        }
        let records: Vec<(KeyHash, Option<&KeyEntry>)> =
            entries.iter().map(|entry| (entry.hash, Some(*entry))).collect();
        self.record(&records).await?;
        self.live = self.live.saturating_add(wanted);
        Ok(())
    }

    /// Which of these keys is not the one that was stored under its number.
    async fn used_before(&mut self, first: u64, entries: &[&KeyEntry]) -> StoreResult<StoreError> {
        for (seq, entry) in (first..).zip(entries) {
            let query = sqlx::query("SELECT seq FROM keys WHERE hash = $1 AND seq = $2");
            let query = query.bind(&entry.hash.0[..]).bind(int(seq)?);
            if query.fetch_optional(&mut *self.connection).await?.is_none() {
                return Ok(StoreError::Conflict(format!(
                    "key \"{}\" exists already: its id or its text was used before, maybe by a key that is revoked",
                    entry.id
                )));
            }
        }
        Ok(StoreError::Failed(
            "keys were stored that were not asked for".to_owned(),
        ))
    }

    async fn revoke_id(&mut self, id: &str) -> StoreResult<()> {
        let Some(key) = by_id(&mut *self.connection, id).await? else {
            return Err(StoreError::NotFound(format!("key \"{id}\" does not exist")));
        };
        if key.revoked_ms.is_none() {
            self.revoke_hash(key.entry.hash).await?;
        }
        Ok(())
    }

    async fn revoke_hash(&mut self, hash: KeyHash) -> StoreResult<()> {
        let query = sqlx::query("UPDATE keys SET revoked_ms = $2 WHERE hash = $1 AND revoked_ms IS NULL");
        let query = query.bind(&hash.0[..]).bind(int(self.now_ms)?);
        let was_live = query.execute(&mut *self.connection).await?.rows_affected() > 0;
        if was_live {
            self.live = self.live.saturating_sub(1);
        } else if !self.remember(hash).await? {
            return Ok(());
        }
        self.record(&[(hash, None)]).await
    }

    /// Remembers a hash that was never stored as revoked; false if it is there already, which means that it is revoked.
    async fn remember(&mut self, hash: KeyHash) -> StoreResult<bool> {
        let query =
            "INSERT INTO keys (hash, created_ms, revoked_ms, seq) VALUES ($1, $2, $2, $3) ON CONFLICT DO NOTHING";
        let query = sqlx::query(query)
            .bind(&hash.0[..])
            .bind(int(self.now_ms)?)
            .bind(int(self.seq.saturating_add(1))?);
        Ok(query.execute(&mut *self.connection).await?.rows_affected() > 0)
    }

    async fn revoke_application(&mut self, application: &str) -> StoreResult<()> {
        let query = "UPDATE keys SET revoked_ms = $2 WHERE application = $1 AND revoked_ms IS NULL RETURNING hash";
        let query = sqlx::query(query).bind(application).bind(int(self.now_ms)?);
        let revoked = query.fetch_all(&mut *self.connection).await?;
        let mut records = Vec::with_capacity(revoked.len());
        for row in &revoked {
            records.push((KeyHash(row.bytes("hash")?), None));
        }
        self.record(&records).await?;
        self.live = self.live.saturating_sub(count(records.len())?);
        Ok(())
    }

    /// Appends records: a key that lets in from now on, or a hash that does not any more.
    async fn record(&mut self, records: &[(KeyHash, Option<&KeyEntry>)]) -> StoreResult<()> {
        for part in records.chunks(AT_ONCE) {
            let query = format!(
                "INSERT INTO key_log (seq, at_ms, hash, id, application, key_type, expires_ms) VALUES {}",
                placeholders(part.len(), 7)
            );
            let mut query = sqlx::query(&query).persistent(part.len() == AT_ONCE || part.len() == 1);
            for (hash, entry) in part {
                self.seq = self.seq.saturating_add(1);
                query = query
                    .bind(int(self.seq)?)
                    .bind(int(self.now_ms)?)
                    .bind(hash.0.to_vec())
                    .bind(entry.map(|entry| entry.id.as_str()))
                    .bind(entry.map(|entry| entry.application.as_str()))
                    .bind(entry.map(|entry| entry.key_type.as_str()))
                    .bind(optional_int(entry.and_then(|entry| entry.expires_ms))?);
            }
            query.execute(&mut *self.connection).await?;
        }
        Ok(())
    }
}

/// The key with this hash.
pub(super) async fn by_hash(connection: &mut AnyConnection, hash: &KeyHash) -> StoreResult<Option<StoredKey>> {
    let query = format!("SELECT {KEY_COLUMNS} FROM keys WHERE hash = $1 AND id IS NOT NULL");
    let row = sqlx::query(&query).bind(&hash.0[..]).fetch_optional(connection).await?;
    row.as_ref().map(stored_key).transpose()
}

/// When the key with this hash was revoked, stored or not.
pub(super) async fn revoked(connection: &mut AnyConnection, hash: &KeyHash) -> StoreResult<Option<u64>> {
    let query = "SELECT revoked_ms FROM keys WHERE hash = $1";
    let row = sqlx::query(query).bind(&hash.0[..]).fetch_optional(connection).await?;
    row.map_or(Ok(None), |row| row.optional_number("revoked_ms"))
}

/// The key with this id.
pub(super) async fn by_id(connection: &mut AnyConnection, id: &str) -> StoreResult<Option<StoredKey>> {
    let query = format!("SELECT {KEY_COLUMNS} FROM keys WHERE id = $1");
    let row = sqlx::query(&query).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(stored_key).transpose()
}

/// Keys in the order of their ids.
pub(super) async fn list(connection: &mut AnyConnection, wanted: &KeyQuery) -> StoreResult<Vec<StoredKey>> {
    // No id is empty, so that all come after the empty one; and a hash that has none comes never.
    let mut query = format!("SELECT {KEY_COLUMNS} FROM keys WHERE id > $1");
    let mut values = vec![wanted.after.as_deref().unwrap_or("")];
    let filters = [
        ("application", wanted.application.as_deref()),
        ("key_type", wanted.key_type.map(KeyType::as_str)),
    ];
    for (column, value) in filters {
        if let Some(value) = value {
            values.push(value);
            query.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    query.push_str(&format!(" ORDER BY id LIMIT ${}", values.len() + 1));
    let query = values
        .into_iter()
        .fold(sqlx::query(&query), |query, value| query.bind(value));
    let found = query.bind(rows(wanted.limit)).fetch_all(connection).await?;
    found.iter().map(stored_key).collect()
}

/// Those of these keys that let in.
pub(super) async fn resolve(connection: &mut AnyConnection, hashes: &[KeyHash]) -> StoreResult<Vec<KeyEntry>> {
    let mut entries = Vec::new();
    for part in hashes.chunks(AT_ONCE) {
        let query = format!(
            "SELECT {KEY_COLUMNS} FROM keys WHERE id IS NOT NULL AND revoked_ms IS NULL AND hash IN {}",
            placeholders(1, part.len())
        );
        let query = sqlx::query(&query).persistent(part.len() == AT_ONCE || part.len() == 1);
        let query = part.iter().fold(query, |query, hash| query.bind(&hash.0[..]));
        for row in query.fetch_all(&mut *connection).await? {
            entries.push(entry(&row)?);
        }
    }
    Ok(entries)
}

/// Keys that let in, in the order of their hashes.
pub(super) async fn live(
    connection: &mut AnyConnection,
    after: Option<&KeyHash>,
    limit: usize,
) -> StoreResult<Vec<KeyEntry>> {
    // Every hash has sixteen bytes, so that all come after no bytes.
    let after = after.map_or(&[][..], |hash| &hash.0[..]);
    let query = format!(
        "SELECT {KEY_COLUMNS} FROM keys WHERE hash > $1 AND id IS NOT NULL AND revoked_ms IS NULL \
         ORDER BY hash LIMIT $2"
    );
    let found = sqlx::query(&query)
        .bind(after)
        .bind(rows(limit))
        .fetch_all(connection)
        .await?;
    found.iter().map(entry).collect()
}

/// Hashes that were revoked without ever having been stored, in their order. The end keeps whoever reads page by page
/// beside [`live`] from looking through the rest of the table each time.
pub(super) async fn revoked_unknown(
    connection: &mut AnyConnection,
    after: Option<&KeyHash>,
    upto: Option<&KeyHash>,
    limit: usize,
) -> StoreResult<Vec<KeyHash>> {
    let after = after.map_or(&[][..], |hash| &hash.0[..]);
    let upto = upto.map_or(&[0xff; 16][..], |hash| &hash.0[..]);
    let query = "SELECT hash FROM keys WHERE hash > $1 AND hash <= $2 AND id IS NULL AND revoked_ms IS NOT NULL \
                 ORDER BY hash LIMIT $3";
    let query = sqlx::query(query).bind(after).bind(upto).bind(rows(limit));
    let found = query.fetch_all(connection).await?;
    found.iter().map(|row| Ok(KeyHash(row.bytes("hash")?))).collect()
}

/// Where the log stands.
pub(super) async fn head(connection: &mut AnyConnection) -> StoreResult<KeyHead> {
    let query = sqlx::query("SELECT epoch, seq, trimmed, live FROM key_state WHERE id = 1");
    let row = query.fetch_one(connection).await?;
    Ok(KeyHead {
        epoch: row.number("epoch")?,
        seq: row.number("seq")?,
        trimmed: row.number("trimmed")?,
        live: row.number("live")?,
    })
}

/// Records after a number. Not found if some of them are forgotten: a page with a gap would pass for a whole one.
pub(super) async fn log(connection: &mut AnyConnection, after: u64, limit: usize) -> StoreResult<Vec<KeyRecord>> {
    let query = "SELECT seq, at_ms, hash, id, application, key_type, expires_ms FROM key_log \
                 WHERE seq > $1 ORDER BY seq LIMIT $2";
    let query = sqlx::query(query).bind(clamped(after)).bind(rows(limit));
    let found = query.fetch_all(&mut *connection).await?;
    let records: Vec<KeyRecord> = found.iter().map(record).collect::<StoreResult<_>>()?;
    let goes_on = records
        .first()
        .is_some_and(|first| first.seq == after.saturating_add(1));
    // Asked afterwards: what is forgotten stays forgotten.
    if !goes_on && limit > 0 && head(connection).await?.trimmed > after {
        return Err(StoreError::NotFound(format!(
            "the records of the key log after {after} are not kept any more"
        )));
    }
    Ok(records)
}

/// Forgets the records up to a number, never more than there are.
pub(super) async fn trim(connection: &mut AnyConnection, upto: u64) -> StoreResult<()> {
    let query = "UPDATE key_state SET trimmed = CASE WHEN seq < $1 THEN seq ELSE $1 END WHERE id = 1 AND trimmed < $1 \
                 RETURNING trimmed";
    let Some(row) = sqlx::query(query)
        .bind(clamped(upto))
        .fetch_optional(&mut *connection)
        .await?
    else {
        return Ok(());
    };
    let query = sqlx::query("DELETE FROM key_log WHERE seq <= $1").bind(int(row.number("trimmed")?)?);
    query.execute(connection).await?;
    Ok(())
}

fn record(row: &AnyRow) -> StoreResult<KeyRecord> {
    let change = match row.optional_text("id")? {
        Some(_) => KeyChange::Put(entry(row)?),
        None => KeyChange::Del {
            hash: KeyHash(row.bytes("hash")?),
        },
    };
    Ok(KeyRecord {
        seq: row.number("seq")?,
        at_ms: row.number("at_ms")?,
        change,
    })
}

fn stored_key(row: &AnyRow) -> StoreResult<StoredKey> {
    Ok(StoredKey {
        entry: entry(row)?,
        created_ms: row.number("created_ms")?,
        revoked_ms: row.optional_number("revoked_ms")?,
    })
}

fn entry(row: &AnyRow) -> StoreResult<KeyEntry> {
    let key_type = match row.text("key_type")?.as_str() {
        "production" => KeyType::Production,
        "sandbox" => KeyType::Sandbox,
        other => return Err(StoreError::Failed(format!("\"{other}\" is not a type of keys"))),
    };
    Ok(KeyEntry {
        hash: KeyHash(row.bytes("hash")?),
        id: row.text("id")?,
        application: row.text("application")?,
        key_type,
        expires_ms: row.optional_number("expires_ms")?,
    })
}
