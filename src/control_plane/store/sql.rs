//! The store as SQL: what SQLite and PostgreSQL have in common, which is nearly everything.
//!
//! Both read `$1` placeholders, `ON CONFLICT` and `RETURNING`, so each statement is written once, for sqlx's `Any`
//! driver: only whole numbers, texts and bytes are stored, which it carries without loss. What differs is in
//! [`Dialect`]: how a transaction begins, and three locks.
//!
//! Every change takes its locks in the same order (blobs, the state, environments by name; or the key log; or a pool),
//! so that no two wait for each other.

mod instances;
mod invalidations;
mod keys;
mod objects;
mod revisions;
mod row;
mod settings;

#[cfg(test)]
pub(in crate::control_plane) use invalidations::KEPT as INVALIDATIONS_KEPT;

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Any, AnyConnection, AnyPool, Transaction};

use super::postgres::Wakes;
use super::{
    Changes, Committed, Instance, KeyHead, KeyQuery, KeyWrite, Object, ObjectKind, PublishedRevision, SeatAnswer,
    SeatRequest, SignOfLife, Store, StoreError, StoreResult, StoredKey, Wake,
};
use crate::distribution::{CacheRecord, ContentHash, KeyEntry, KeyHash, KeyRecord};

/// How long a method may take in all. A database that vanished without a word would hold its caller for ever; a hundred
/// thousand keys at once take a few seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// A store in a database that understands SQL.
pub(super) struct SqlStore {
    /// For people, without a password.
    pub(super) name: String,
    pub(super) dialect: Dialect,
    /// Every transaction that changes something.
    pub(super) writer: AnyPool,
    /// Everything else.
    pub(super) reader: AnyPool,
    /// How other nodes are told and heard; none if there can be no other node.
    pub(super) wakes: Option<Wakes>,
}

/// What the two databases say differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// A transaction that changes something. SQLite: the lock at once, because one that is taken later, by a transaction
    /// that has read already, can fail. PostgreSQL: each statement sees what was committed before it, so that who waited
    /// for a lock sees what was done under it.
    fn begin_write(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",
        }
    }

    /// A transaction of which all statements see the same moment.
    fn begin_read(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN DEFERRED",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }
}

impl SqlStore {
    async fn begin_write(&self) -> StoreResult<Transaction<'static, Any>> {
        begin(self.writer.clone(), self.dialect.begin_write()).await
    }

    async fn begin_read(&self) -> StoreResult<Transaction<'static, Any>> {
        begin(self.reader.clone(), self.dialect.begin_read()).await
    }

    /// Bounds a method in time, and says in its errors which database it was. A transaction that is cut off here is
    /// rolled back.
    async fn within<T>(&self, work: impl Future<Output = StoreResult<T>> + Send) -> StoreResult<T> {
        let answer = tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| {
            let seconds = DEADLINE.as_secs();
            Err(StoreError::Failed(format!("no answer within {seconds} s")))
        });
        answer.map_err(|error| match error {
            StoreError::Failed(why) => StoreError::Failed(format!("{}: {why}", self.name)),
            other => other,
        })
    }

    /// Tells the other nodes. Only to wake them, after all is done: they look by themselves too, so that a failure is
    /// worth no more than a line in the log.
    async fn tell(&self, wake: &Wake) {
        let Some(wakes) = &self.wakes else { return };
        if let Err(error) = wakes.tell(&self.reader, wake).await {
            log::warn!("{}: other nodes were not woken: {error}", self.name);
        }
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn generation(&self) -> StoreResult<u64> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            objects::generation(&mut reader).await
        })
        .await
    }

    async fn object(&self, kind: ObjectKind, name: &str) -> StoreResult<Option<Object>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            objects::one(&mut reader, kind, name).await
        })
        .await
    }

    async fn objects(&self, kind: ObjectKind, after: Option<&str>, limit: usize) -> StoreResult<Vec<Object>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            objects::list(&mut reader, kind, after, limit).await
        })
        .await
    }

    async fn commit(&self, changes: &Changes, now_ms: u64) -> StoreResult<Committed> {
        let committed = self
            .within(async {
                let mut transaction = self.begin_write().await?;
                revisions::put_blobs(&mut transaction, &changes.blobs).await?;
                objects::check_generation(&mut transaction, changes).await?;
                let revisions = revisions::publish(&mut transaction, &changes.revisions, now_ms).await?;
                let objects = objects::change(&mut transaction, &changes.objects, now_ms).await?;
                commit(transaction).await?;
                Ok(Committed { objects, revisions })
            })
            .await?;
        for revision in &committed.revisions {
            self.tell(&Wake::Revision(revision.environment.clone())).await;
        }
        Ok(committed)
    }

    async fn heads(&self) -> StoreResult<Vec<PublishedRevision>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            revisions::heads(&mut reader).await
        })
        .await
    }

    async fn head_seqs(&self) -> StoreResult<Vec<(String, u64)>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            revisions::head_seqs(&mut reader).await
        })
        .await
    }

    async fn head(&self, environment: &str) -> StoreResult<Option<PublishedRevision>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            Ok(revisions::list(&mut reader, environment, None, 1).await?.pop())
        })
        .await
    }

    async fn revision(&self, environment: &str, seq: u64) -> StoreResult<Option<PublishedRevision>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            revisions::one(&mut reader, environment, seq).await
        })
        .await
    }

    async fn revisions(
        &self,
        environment: &str,
        before: Option<u64>,
        limit: usize,
    ) -> StoreResult<Vec<PublishedRevision>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            revisions::list(&mut reader, environment, before, limit).await
        })
        .await
    }

    async fn blob(&self, hash: &ContentHash) -> StoreResult<Option<Vec<u8>>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            revisions::blob(&mut reader, hash).await
        })
        .await
    }

    async fn put_blob(&self, hash: &ContentHash, bytes: &[u8]) -> StoreResult<()> {
        self.within(async {
            let mut transaction = self.begin_write().await?;
            revisions::put_blob(&mut transaction, hash, bytes).await?;
            commit(transaction).await
        })
        .await
    }

    async fn prune(&self, environment: &str, keep: usize, before_ms: u64) -> StoreResult<()> {
        self.within(async {
            let mut transaction = self.begin_write().await?;
            revisions::prune(&mut transaction, self.dialect, environment, keep, before_ms).await?;
            commit(transaction).await
        })
        .await
    }

    async fn write_keys(&self, writes: &[KeyWrite], now_ms: u64) -> StoreResult<u64> {
        let (before, head) = self
            .within(async {
                let mut transaction = self.begin_write().await?;
                let written = keys::write(&mut transaction, writes, now_ms).await?;
                commit(transaction).await?;
                Ok(written)
            })
            .await?;
        if head > before {
            self.tell(&Wake::Keys).await;
        }
        Ok(head)
    }

    async fn key_by_hash(&self, hash: &KeyHash) -> StoreResult<Option<StoredKey>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            keys::by_hash(&mut reader, hash).await
        })
        .await
    }

    async fn key_revoked(&self, hash: &KeyHash) -> StoreResult<Option<u64>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            keys::revoked(&mut reader, hash).await
        })
        .await
    }

    async fn key_by_id(&self, id: &str) -> StoreResult<Option<StoredKey>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            keys::by_id(&mut reader, id).await
        })
        .await
    }

    async fn keys(&self, query: &KeyQuery) -> StoreResult<Vec<StoredKey>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            keys::list(&mut reader, query).await
        })
        .await
    }

    async fn resolve_keys(&self, hashes: &[KeyHash]) -> StoreResult<(u64, Vec<KeyEntry>)> {
        self.within(async {
            let mut transaction = self.begin_read().await?;
            let head = keys::head(&mut transaction).await?;
            let entries = keys::resolve(&mut transaction, hashes).await?;
            commit(transaction).await?;
            Ok((head.seq, entries))
        })
        .await
    }

    async fn live_keys(&self, after: Option<&KeyHash>, limit: usize) -> StoreResult<Vec<KeyEntry>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            keys::live(&mut reader, after, limit).await
        })
        .await
    }

    async fn revoked_unknown(
        &self,
        after: Option<&KeyHash>,
        upto: Option<&KeyHash>,
        limit: usize,
    ) -> StoreResult<Vec<KeyHash>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            keys::revoked_unknown(&mut reader, after, upto, limit).await
        })
        .await
    }

    async fn key_head(&self) -> StoreResult<KeyHead> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            keys::head(&mut reader).await
        })
        .await
    }

    async fn key_log(&self, after: u64, limit: usize) -> StoreResult<Vec<KeyRecord>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            keys::log(&mut reader, after, limit).await
        })
        .await
    }

    async fn trim_key_log(&self, upto: u64) -> StoreResult<()> {
        self.within(async {
            let mut transaction = self.begin_write().await?;
            keys::trim(&mut transaction, upto).await?;
            commit(transaction).await
        })
        .await
    }

    async fn write_invalidation(&self, environment: &str, author: &str, what: &str, now_ms: u64) -> StoreResult<u64> {
        let seq = self
            .within(async {
                let mut transaction = self.begin_write().await?;
                let seq = invalidations::write(&mut transaction, (environment, author), what, now_ms).await?;
                commit(transaction).await?;
                Ok(seq)
            })
            .await?;
        self.tell(&Wake::Invalidations).await;
        Ok(seq)
    }

    async fn invalidation_head(&self) -> StoreResult<u64> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            invalidations::head(&mut reader).await
        })
        .await
    }

    async fn invalidations(&self, environment: &str, after: u64, limit: usize) -> StoreResult<Vec<CacheRecord>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            invalidations::after(&mut reader, environment, after, limit).await
        })
        .await
    }

    async fn newest_invalidations(&self, environment: &str, limit: usize) -> StoreResult<Vec<CacheRecord>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            invalidations::newest(&mut reader, environment, limit).await
        })
        .await
    }

    async fn take_seat(&self, request: &SeatRequest) -> StoreResult<SeatAnswer> {
        self.within(async {
            let mut transaction = self.begin_write().await?;
            let answer = instances::take_seat(&mut transaction, self.dialect, request).await?;
            commit(transaction).await?;
            Ok(answer)
        })
        .await
    }

    async fn signs_of_life(&self, signs: &[SignOfLife]) -> StoreResult<()> {
        self.within(async {
            let mut transaction = self.begin_write().await?;
            instances::signs_of_life(&mut transaction, self.dialect, signs).await?;
            commit(transaction).await
        })
        .await
    }

    async fn instance(&self, id: &str) -> StoreResult<Option<Instance>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            instances::one(&mut reader, id).await
        })
        .await
    }

    async fn instances(&self, pool: Option<&str>) -> StoreResult<Vec<Instance>> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            instances::list(&mut reader, pool).await
        })
        .await
    }

    async fn set_drain(&self, id: &str, drain: bool) -> StoreResult<bool> {
        self.within(async {
            let mut writer = self.writer.acquire().await?;
            instances::set_drain(&mut writer, id, drain).await
        })
        .await
    }

    async fn give_up_seat(&self, id: &str, now_ms: u64) -> StoreResult<bool> {
        self.within(async {
            let mut writer = self.writer.acquire().await?;
            instances::give_up(&mut writer, id, now_ms).await
        })
        .await
    }

    async fn remove_instance(&self, id: &str) -> StoreResult<bool> {
        self.within(async {
            let mut writer = self.writer.acquire().await?;
            instances::remove(&mut writer, id).await
        })
        .await
    }

    async fn setting(&self, name: &str, otherwise: &str) -> StoreResult<String> {
        self.within(async {
            let known = settings::get(&mut *self.reader.acquire().await?, name).await?;
            match known {
                Some(value) => Ok(value),
                None => settings::get_or_insert(&mut *self.writer.acquire().await?, name, otherwise).await,
            }
        })
        .await
    }

    async fn set_setting(&self, name: &str, value: Option<&str>) -> StoreResult<()> {
        self.within(async { settings::set(&mut *self.writer.acquire().await?, name, value).await })
            .await
    }

    async fn changed(&self) -> Wake {
        match &self.wakes {
            Some(wakes) => wakes.next().await,
            None => std::future::pending().await,
        }
    }

    async fn ping(&self) -> StoreResult<()> {
        self.within(async {
            let mut reader = self.reader.acquire().await?;
            sqlx::query("SELECT 1").execute(&mut *reader).await?;
            Ok(())
        })
        .await
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// Begins a transaction, in a task of its own: whoever asks may give up at any moment (a client hangs up), and sqlx
/// 0.8.6 leaves SQLite's connection in a transaction that nobody ends if beginning it is given up half way.
async fn begin(pool: AnyPool, statement: &'static str) -> StoreResult<Transaction<'static, Any>> {
    to_the_end(async move { pool.begin_with(statement).await }).await
}

/// Ends a transaction. Once that has begun it is done, whether somebody waits for it or not.
async fn commit(transaction: Transaction<'static, Any>) -> StoreResult<()> {
    to_the_end(transaction.commit()).await
}

async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'static,
) -> StoreResult<T> {
    let done = tokio::spawn(work).await;
    Ok(done.map_err(|error| StoreError::Failed(error.to_string()))??)
}

/// What every new store has to have beside its tables: a key log with a number of its own.
pub(super) async fn begin_key_log(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let epoch: i64 = rand::random_range(1..=i64::MAX);
    let query = "INSERT INTO key_state (id, epoch, seq, trimmed, live) VALUES (1, $1, 0, 0, 0) ON CONFLICT DO NOTHING";
    sqlx::query(query).bind(epoch).execute(connection).await?;
    Ok(())
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(match error {
            sqlx::Error::Database(error) => error.to_string(),
            sqlx::Error::PoolTimedOut => {
                "no free connection in time; see whether the database is up and how many connections it takes"
                    .to_owned()
            }
            other => other.to_string(),
        })
    }
}
