//! Who is there, in memory: the seats of the store, and signs of life that are newer than what the store has.
//!
//! Heartbeats change this alone; a batch of them is written every few seconds, and what other nodes have written is
//! read at the same pace. So a thousand gateways cost the database a write now and then, and a node knows within one
//! such turn what another one has seen.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::super::store::{Instance, ObjectKind, Store, StoreResult};
use crate::control_plane::store::{SignOfLife, StoreError};
use crate::distribution::protocol::Register;

/// Signs that are written in one batch.
const BATCH: usize = 10_000;

/// Pools that are read at a time.
const PAGE: usize = 1000;

/// For how long a count of live instances is good enough, in milliseconds.
const COUNTED_MS: u64 = 1000;

/// A gateway.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Its seat, with the newest sign of life that is known here.
    pub(super) instance: Arc<Instance>,
    /// What it said when it registered.
    pub(super) about: Arc<Register>,
    /// Whether the sign of life is not in the store yet.
    unflushed: bool,
}

/// Everybody who has a seat, or had one lately.
pub(super) struct Roster {
    started_ms: u64,
    refresh_ms: u64,
    /// The last sign of life that the store had when this node first looked: from then on nobody listened.
    heard_ms: AtomicU64,
    /// Which store this is: another one after it was wiped.
    epoch: AtomicU64,
    state: Mutex<State>,
    /// Whoever changes a seat in the store shares this until it is changed here too; reading all seats needs it alone,
    /// so that a list that was read before the change does not undo it.
    seats: RwLock<()>,
    /// One batch after the other, so that an older sign does not come after a newer one.
    flushing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    members: BTreeMap<String, Member>,
    /// Pools that were created, and their limits.
    limits: HashMap<String, Option<u32>>,
    /// Pool → when its live instances were counted, and how many there were.
    counted: HashMap<String, (u64, u32)>,
    read_ms: Option<u64>,
}

impl Roster {
    /// Empty. `refresh_ms`: after so long it is read again by who needs it.
    pub(super) fn new(started_ms: u64, refresh_ms: u64) -> Self {
        Self {
            started_ms,
            refresh_ms,
            heard_ms: AtomicU64::new(started_ms),
            epoch: AtomicU64::new(0),
            state: Mutex::default(),
            seats: RwLock::new(()),
            flushing: tokio::sync::Mutex::new(()),
        }
    }

    /// The moment before which a sign of life is older than `span_ms`. The time in which no control plane listened is
    /// not held against a gateway until it had a whole span to make itself heard again.
    pub(super) fn horizon_ms(&self, now_ms: u64, span_ms: u64) -> u64 {
        let learning = now_ms < self.started_ms.saturating_add(span_ms);
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        let until_ms = if learning { now_ms.min(heard_ms) } else { now_ms };
        until_ms.saturating_sub(span_ms)
    }

    /// Which store this is, once it was read: a number that is drawn when a store is made.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Whether the store may have lost what was written at this moment: after its last sign of life, and before this node
    /// started on it. So it is with a store that was restored from a backup.
    pub(super) fn may_have_lost(&self, written_ms: u64) -> bool {
        self.heard_ms.load(Ordering::Relaxed) < written_ms && written_ms <= self.started_ms
    }

    /// When nobody is taken for alive any more only because this node has just started.
    pub(super) fn learned_ms(&self, span_ms: u64) -> u64 {
        self.started_ms.saturating_add(span_ms)
    }

    /// Reads the store again if that was too long ago. A store that does not answer is no reason to forget anybody.
    ///
    /// # Errors
    /// When the store fails and nobody was ever read.
    pub(super) async fn fresh(&self, store: &dyn Store, now_ms: u64) -> StoreResult<()> {
        let read_ms = self.state.lock().read_ms;
        // A clock that was set back is no reason to wait until it has caught up.
        if read_ms.is_some_and(|read_ms| (read_ms..read_ms.saturating_add(self.refresh_ms)).contains(&now_ms)) {
            return Ok(());
        }
        match self.refresh(store, now_ms).await {
            Err(error) if read_ms.is_some() => {
                log::warn!("gateways are listed as they were known last: {error}");
                Ok(())
            }
            other => other,
        }
    }

    /// Reads all seats.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn refresh(&self, store: &dyn Store, now_ms: u64) -> StoreResult<()> {
        let _alone = self.seats.write().await;
        if self.state.lock().read_ms.is_some_and(|read_ms| read_ms == now_ms) {
            // Somebody else did, while this one waited.
            return Ok(());
        }
        let instances = store.instances(None).await?;
        let limits = read_limits(store).await?;
        self.epoch.store(store.key_head().await?.epoch, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.read_ms.is_none() {
            // Registrations wait for the first reading, so all of these are from before the start, or from other nodes.
            let newest = instances.iter().map(|instance| instance.seen_ms).max();
            let heard_ms = newest.map_or(self.started_ms, |newest| newest.min(self.started_ms));
            self.heard_ms.store(heard_ms, Ordering::Relaxed);
        }
        let mut before = std::mem::take(&mut state.members);
        state.members = instances
            .into_iter()
            .filter_map(|instance| {
                let known = before.remove(&instance.id);
                let member = merged(instance, known)?;
                Some((member.instance.id.clone(), member))
            })
            .collect();
        state.limits = limits;
        state.counted.clear();
        state.read_ms = Some(now_ms);
        Ok(())
    }

    /// Writes the signs of life that the store does not have.
    ///
    /// # Errors
    /// When the store fails; then they are written the next time.
    pub(super) async fn flush(&self, store: &dyn Store) -> StoreResult<()> {
        let _turn = self.flushing.lock().await;
        let signs: Vec<SignOfLife> = {
            let mut state = self.state.lock();
            let unflushed = state.members.values_mut().filter(|member| member.unflushed);
            unflushed
                .map(|member| {
                    member.unflushed = false;
                    SignOfLife {
                        id: member.instance.id.clone(),
                        heartbeat: member.instance.heartbeat.clone(),
                        seen_ms: member.instance.seen_ms,
                    }
                })
                .collect()
        };
        let mut batches = signs.chunks(BATCH);
        while let Some(batch) = batches.next() {
            if let Err(error) = store.signs_of_life(batch).await {
                let mut state = self.state.lock();
                for sign in std::iter::once(batch).chain(batches).flatten() {
                    if let Some(member) = state.members.get_mut(&sign.id) {
                        member.unflushed = true;
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Changes a seat in the store, and then here: nobody reads a list in between that undoes it here.
    pub(super) async fn change<T>(&self, change: impl Future<Output = StoreResult<T>>) -> StoreResult<T> {
        let _shared = self.seats.read().await;
        change.await
    }

    /// Frees a seat; false if there was none.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn remove(&self, store: &dyn Store, id: &str) -> StoreResult<bool> {
        self.change(async {
            let removed = store.remove_instance(id).await?;
            self.forget(id);
            Ok(removed)
        })
        .await
    }

    /// Notes that a gateway was stopped, and gives up its seat; false if there is no such gateway.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn give_up(&self, store: &dyn Store, id: &str, now_ms: u64) -> StoreResult<bool> {
        self.change(async {
            let is_known = store.give_up_seat(id, now_ms).await?;
            let mut state = self.state.lock();
            state.counted.clear();
            if let Some(member) = state.members.get_mut(id) {
                Arc::make_mut(&mut member.instance).left_ms = now_ms;
            }
            Ok(is_known)
        })
        .await
    }

    /// Takes up a seat that the store has, within [`Self::change`].
    pub(super) fn seat(&self, instance: Instance) {
        let id = instance.id.clone();
        if let Some(member) = merged(instance, None) {
            let mut state = self.state.lock();
            state.counted.clear();
            state.members.insert(id, member);
        }
    }

    /// Does not know a gateway any more, within [`Self::change`].
    pub(super) fn forget(&self, id: &str) {
        let mut state = self.state.lock();
        state.counted.clear();
        state.members.remove(id);
    }

    /// Knows the limit of a pool; the outer none says that nobody created it.
    pub(super) fn limit(&self, pool: &str) -> Option<Option<u32>> {
        self.state.lock().limits.get(pool).copied()
    }

    /// Takes up a limit that was changed through this node.
    pub(super) fn set_limit(&self, pool: &str, limit: Option<Option<u32>>) {
        let mut state = self.state.lock();
        match limit {
            Some(limit) => state.limits.insert(pool.to_owned(), limit),
            None => state.limits.remove(pool),
        };
    }

    /// A gateway, from memory.
    pub(super) fn member(&self, id: &str) -> Option<Member> {
        self.state.lock().members.get(id).cloned()
    }

    /// A gateway, from memory or else from the store.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn member_or_read(&self, store: &dyn Store, id: &str) -> StoreResult<Option<Member>> {
        if let Some(member) = self.member(id) {
            return Ok(Some(member));
        }
        self.change(async {
            if let Some(instance) = store.instance(id).await? {
                self.seat(instance);
            }
            Ok(self.member(id))
        })
        .await
    }

    /// Everybody, in the order of ids.
    pub(super) fn members(&self) -> Vec<Member> {
        self.state.lock().members.values().cloned().collect()
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.state.lock().members.len()
    }

    /// Who gave no sign of life since this moment.
    pub(super) fn silent_since(&self, ms: u64) -> Vec<String> {
        let state = self.state.lock();
        let silent = state.members.values().filter(|member| member.instance.seen_ms < ms);
        silent.map(|member| member.instance.id.clone()).collect()
    }

    /// Notes a sign of life; false if the gateway is not known here.
    pub(super) fn sign(&self, id: &str, heartbeat: String, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        let Some(member) = state.members.get_mut(id) else {
            return false;
        };
        let instance = Arc::make_mut(&mut member.instance);
        instance.heartbeat = heartbeat;
        instance.seen_ms = instance.seen_ms.max(now_ms);
        member.unflushed = true;
        true
    }

    /// Says whether an operator wants it to leave.
    pub(super) fn set_drain(&self, id: &str, drain: bool) {
        if let Some(member) = self.state.lock().members.get_mut(id) {
            Arc::make_mut(&mut member.instance).drain = drain;
        }
    }

    /// How many instances of a pool are alive: seen since this moment.
    pub(super) fn live(&self, pool: &str, alive_since_ms: u64, now_ms: u64) -> u32 {
        let mut state = self.state.lock();
        if let Some((at_ms, live)) = state.counted.get(pool)
            && *at_ms <= now_ms
            && now_ms < at_ms.saturating_add(COUNTED_MS)
        {
            return *live;
        }
        let of_pool = |member: &&Member| member.instance.pool == pool && member.instance.is_alive(alive_since_ms);
        let live = u32::try_from(state.members.values().filter(of_pool).count()).unwrap_or(u32::MAX);
        if state.counted.len() >= PAGE {
            state.counted.clear();
        }
        state.counted.insert(pool.to_owned(), (now_ms, live));
        live
    }
}

/// A seat as the store has it, with a sign of life that it does not have yet.
fn merged(mut instance: Instance, known: Option<Member>) -> Option<Member> {
    let mut unflushed = false;
    let mut about = None;
    if let Some(known) = known {
        if known.instance.seen_ms > instance.seen_ms {
            instance.seen_ms = known.instance.seen_ms;
            instance.heartbeat.clone_from(&known.instance.heartbeat);
            unflushed = known.unflushed;
        }
        if known.instance.registration == instance.registration {
            about = Some(known.about);
        }
    }
    let about = match about {
        Some(about) => about,
        None => match serde_json::from_str(&instance.registration) {
            Ok(about) => Arc::new(about),
            Err(error) => {
                log::error!(
                    "the registration of the gateway {} can not be read: {error}",
                    instance.id
                );
                return None;
            }
        },
    };
    Some(Member {
        instance: Arc::new(instance),
        about,
        unflushed,
    })
}

async fn read_limits(store: &dyn Store) -> StoreResult<HashMap<String, Option<u32>>> {
    let mut limits = HashMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.objects(ObjectKind::Pool, after.as_deref(), PAGE).await?;
        for object in &page {
            limits.insert(object.name.clone(), super::pool::limit_of(object)?);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.name.clone()),
            _ => return Ok(limits),
        }
    }
}

/// A value of the store that this build can not read.
pub(super) fn unreadable(what: &str, error: &serde_json::Error) -> StoreError {
    StoreError::Failed(format!("{what} can not be read: {error}"))
}
