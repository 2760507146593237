//! Seats in pools, and who sits there.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::Dialect;
use super::row::{Columns, int, placeholders};
use crate::control_plane::store::{Instance, SeatAnswer, SeatRequest, SignOfLife, StoreError, StoreResult};

const COLUMNS: &str = "id, pool, registration, heartbeat, since_ms, seen_ms, drain, left_ms";

/// Signs of life that are written with one statement.
const AT_ONCE: usize = 250;

/// Gives a seat, or says that there is none and changes nothing.
pub(super) async fn take_seat(
    connection: &mut AnyConnection,
    dialect: Dialect,
    request: &SeatRequest,
) -> StoreResult<SeatAnswer> {
    // One request of a pool after the other, or two would take the last seat. The whole of SQLite is locked anyway.
    if dialect == Dialect::Postgres {
        let query = "INSERT INTO pool_locks (pool) VALUES ($1) ON CONFLICT (pool) DO UPDATE SET pool = excluded.pool";
        sqlx::query(query).bind(&request.pool).execute(&mut *connection).await?;
    }
    let known = one(&mut *connection, &request.id).await?;
    let mut has_claim = request.has_proof || has_claim(request, known.as_ref());
    if let Some(replaced) = &request.replaces {
        has_claim |= has_claim_of(connection, request, replaced).await?;
    }
    let others = others(&mut *connection, request).await?;
    if !has_claim && request.max.is_some_and(|max| others.alive >= max) {
        return Ok(SeatAnswer::Full {
            live: others.alive,
            oldest_seen_ms: others.oldest_seen_ms,
        });
    }
    sit_down(&mut *connection, request, known.as_ref()).await?;
    sweep(connection, request).await?;
    Ok(SeatAnswer::Seated {
        live: others.alive.saturating_add(1),
    })
}

/// Whether an instance is alive in this pool, or was there lately enough to come back. One that was stopped has said that
/// it goes, and for that it is waited much shorter than for one that fell silent.
fn has_claim(request: &SeatRequest, instance: Option<&Instance>) -> bool {
    let since = request.known_since_ms.min(request.alive_since_ms);
    instance.is_some_and(|instance| {
        let is_held = instance.left_ms == 0 || instance.left_ms >= request.held_since_ms;
        instance.pool == request.pool && instance.seen_ms >= since && is_held
    })
}

async fn has_claim_of(connection: &mut AnyConnection, request: &SeatRequest, id: &str) -> StoreResult<bool> {
    Ok(has_claim(request, one(connection, id).await?.as_ref()))
}

/// Those in the pool who are alive or whose seats are held for them, but for who asks and for whose seat is taken over.
struct Others {
    alive: u32,
    oldest_seen_ms: u64,
}

async fn others(connection: &mut AnyConnection, request: &SeatRequest) -> StoreResult<Others> {
    let query = "SELECT count(*) AS alive, min(seen_ms) AS oldest FROM instances \
                 WHERE pool = $1 AND seen_ms >= $2 AND id <> $3 AND id <> $4 AND (left_ms = 0 OR left_ms >= $5)";
    let query = sqlx::query(query)
        .bind(&request.pool)
        .bind(int(request.alive_since_ms)?)
        .bind(&request.id)
        .bind(request.replaces.as_ref().unwrap_or(&request.id))
        .bind(int(request.held_since_ms)?);
    let row = query.fetch_one(connection).await?;
    Ok(Others {
        alive: u32::try_from(row.number("alive")?)
            .map_err(|_| StoreError::Failed(format!("pool \"{}\" has too many instances", request.pool)))?,
        oldest_seen_ms: row.optional_number("oldest")?.unwrap_or(request.now_ms),
    })
}

/// Writes the seat, and frees the one that is taken over. What the last heartbeat said was about a process that has
/// ended; that an operator wants the instance to leave this pool goes on until he says otherwise.
async fn sit_down(connection: &mut AnyConnection, request: &SeatRequest, known: Option<&Instance>) -> StoreResult<()> {
    let drain = known.is_some_and(|known| known.drain && known.pool == request.pool);
    let query = format!(
        "INSERT INTO instances ({COLUMNS}) VALUES {} ON CONFLICT (id) DO UPDATE SET pool = excluded.pool, \
         registration = excluded.registration, heartbeat = excluded.heartbeat, since_ms = excluded.since_ms, \
         seen_ms = excluded.seen_ms, drain = excluded.drain, left_ms = excluded.left_ms",
        placeholders(1, 8)
    );
    sqlx::query(&query)
        .bind(&request.id)
        .bind(&request.pool)
        .bind(&request.registration)
        .bind("")
        .bind(int(request.now_ms)?)
        .bind(int(request.now_ms)?)
        .bind(i64::from(drain))
        .bind(0_i64)
        .execute(&mut *connection)
        .await?;
    if let Some(replaced) = request.replaces.as_ref().filter(|replaced| **replaced != request.id) {
        let query = sqlx::query("DELETE FROM instances WHERE id = $1 AND pool = $2");
        query.bind(replaced).bind(&request.pool).execute(connection).await?;
    }
    Ok(())
}

/// Forgets those in the pool who have lost every claim, so that the table does not grow for ever.
async fn sweep(connection: &mut AnyConnection, request: &SeatRequest) -> StoreResult<()> {
    let query = "DELETE FROM instances WHERE pool = $1 AND seen_ms < $2 AND id <> $3";
    let query = sqlx::query(query)
        .bind(&request.pool)
        .bind(int(request.known_since_ms.min(request.alive_since_ms))?)
        .bind(&request.id);
    query.execute(connection).await?;
    Ok(())
}

/// Writes signs of life, all or none. An older sign never replaces a newer one, which may have come to another node.
pub(super) async fn signs_of_life(
    connection: &mut AnyConnection,
    dialect: Dialect,
    signs: &[SignOfLife],
) -> StoreResult<()> {
    let mut order: Vec<&SignOfLife> = signs.iter().collect();
    // One sign of each instance, the newest: of several rows for one, a statement would take any.
    order.sort_by(|one, other| one.id.cmp(&other.id).then(other.seen_ms.cmp(&one.seen_ms)));
    order.dedup_by(|later, first| later.id == first.id);
    for part in order.chunks(AT_ONCE) {
        let persistent = part.len() == AT_ONCE || part.len() == 1;
        // In the order of ids, so that two nodes do not wait for each other crosswise.
        if dialect == Dialect::Postgres {
            let ids = placeholders(1, part.len());
            let query = format!("SELECT id FROM instances WHERE id IN {ids} ORDER BY id FOR UPDATE");
            let query = part
                .iter()
                .fold(sqlx::query(&query), |query, sign| query.bind(&sign.id));
            query.persistent(persistent).execute(&mut *connection).await?;
        }
        let query = format!(
            "UPDATE instances SET heartbeat = sign.column2, seen_ms = sign.column3 FROM (VALUES {}) AS sign \
             WHERE instances.id = sign.column1 AND instances.seen_ms <= sign.column3",
            placeholders(part.len(), 3)
        );
        let mut query = sqlx::query(&query).persistent(persistent);
        for sign in part {
            query = query.bind(&sign.id).bind(&sign.heartbeat).bind(int(sign.seen_ms)?);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// One instance.
pub(super) async fn one(connection: &mut AnyConnection, id: &str) -> StoreResult<Option<Instance>> {
    let query = format!("SELECT {COLUMNS} FROM instances WHERE id = $1");
    let row = sqlx::query(&query).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(instance).transpose()
}

/// All instances in the order of pools and ids.
pub(super) async fn list(connection: &mut AnyConnection, pool: Option<&str>) -> StoreResult<Vec<Instance>> {
    let filter = if pool.is_some() { "WHERE pool = $1" } else { "" };
    let query = format!("SELECT {COLUMNS} FROM instances {filter} ORDER BY pool, id");
    let query = pool
        .into_iter()
        .fold(sqlx::query(&query), |query, pool| query.bind(pool));
    query.fetch_all(connection).await?.iter().map(instance).collect()
}

/// Says whether an operator wants an instance to leave.
pub(super) async fn set_drain(connection: &mut AnyConnection, id: &str, drain: bool) -> StoreResult<bool> {
    let query = sqlx::query("UPDATE instances SET drain = $2 WHERE id = $1");
    let done = query.bind(id).bind(i64::from(drain)).execute(connection).await?;
    Ok(done.rows_affected() > 0)
}

/// Notes that an instance was stopped, and gives up its seat.
pub(super) async fn give_up(connection: &mut AnyConnection, id: &str, now_ms: u64) -> StoreResult<bool> {
    let query = sqlx::query("UPDATE instances SET left_ms = $2 WHERE id = $1");
    let done = query.bind(id).bind(int(now_ms)?).execute(connection).await?;
    Ok(done.rows_affected() > 0)
}

/// Frees a seat.
pub(super) async fn remove(connection: &mut AnyConnection, id: &str) -> StoreResult<bool> {
    let query = sqlx::query("DELETE FROM instances WHERE id = $1").bind(id);
    Ok(query.execute(connection).await?.rows_affected() > 0)
}

fn instance(row: &AnyRow) -> StoreResult<Instance> {
    Ok(Instance {
        id: row.text("id")?,
        pool: row.text("pool")?,
        registration: row.text("registration")?,
        heartbeat: row.text("heartbeat")?,
        since_ms: row.number("since_ms")?,
        seen_ms: row.number("seen_ms")?,
        drain: row.number("drain")? != 0,
        left_ms: row.number("left_ms")?,
    })
}
