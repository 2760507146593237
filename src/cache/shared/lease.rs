//! Who fetches an answer that several gateways lack: the first one, for a while, and the others wait for it.
//!
//! It saves the origin work and decides nothing: a lease that is lost, or held by a gateway that is gone, costs those who
//! wait its length at most, and then they fetch for themselves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use rand::RngExt;
use redis::{Pipeline, Value};
use tokio::time::{Instant, sleep, timeout};

use super::names::Name;
use super::{Hit, Shared};
use crate::redis::{Health, Node};

/// How often who waits looks, give or take a half.
const LOOK: Duration = Duration::from_millis(25);

/// What is to be done about an answer that is neither in memory nor in Redis.
pub enum Turn {
    /// Fetch it; the others wait. The lease is over when this is dropped: after the answer was [put](Shared::put), or when
    /// it is known that there is nothing to put.
    Mine(Lease),
    /// Another gateway has fetched it meanwhile.
    Filled(Hit),
    /// Fetch it without a lease: none is configured, Redis is away, or another gateway took too long or kept nothing.
    Alone,
}

/// The right to fetch an answer. Given back when dropped.
pub struct Lease {
    shared: Shared,
    name: Name,
    token: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let queue = &self.shared.0.queue;
        queue.release(self.name.clone(), std::mem::take(&mut self.token));
    }
}

/// What the server says about a lease.
enum Said {
    Ours,
    Theirs,
    Nothing,
}

impl Shared {
    /// [`lease`](Self::lease) once for all requests of this process that want the same at the same time. The lease, if it is
    /// this gateway's, is over when the last of them has dropped it.
    pub async fn turn<V>(&self, key: &[u8], base: &Bytes, variant: V) -> Arc<Turn>
    where
        V: Fn(&[HeaderName]) -> Vec<u8> + Send + Sync + 'static,
    {
        let inner = &self.0;
        let Some(length) = inner.settings.lease else {
            return Arc::new(Turn::Alone);
        };
        let (this, base) = (self.clone(), base.clone());
        let landing = (inner.turns).join(key, &inner.runtime, |key| async move {
            Arc::new(this.lease(&key, &base, variant).await)
        });
        let turn = match landing {
            Some(landing) => landing.wait(Instant::now() + length + inner.settings.budget).await,
            None => None,
        };
        turn.unwrap_or_else(|| Arc::new(Turn::Alone))
    }

    /// Asks whether this gateway is the one to fetch what has this full key, and if it is not, waits for the one that is,
    /// no longer than the lease. `base` and `variant` are those of [`get`](Self::get), by which the answer is looked for.
    pub async fn lease(&self, key: &[u8], base: &[u8], variant: impl Fn(&[HeaderName]) -> Vec<u8>) -> Turn {
        let inner = &self.0;
        let Some(length) = inner.settings.lease else {
            return Turn::Alone;
        };
        if !inner.spread.is_current() {
            return Turn::Alone;
        }
        let name = Name::of(&inner.realm, key);
        let Some(node) = inner.lookups.node_of(name.slot) else {
            return Turn::Alone;
        };
        let token = format!("{:016x}", rand::rng().random::<u64>());
        let until = Instant::now() + length;
        let leases = &inner.metrics.leases;
        match self.take(&node, &name, &token, length).await {
            Said::Ours => {
                leases.taken.inc();
                return Turn::Mine(Lease {
                    shared: self.clone(),
                    name,
                    token,
                });
            }
            Said::Nothing => {
                leases.failed.inc();
                // It may have been taken, and then nobody would fetch under it.
                inner.queue.release(name, token);
                return Turn::Alone;
            }
            Said::Theirs => {}
        }
        while Instant::now() < until {
            let pause = LOOK.mul_f64(rand::rng().random_range(0.5..1.5));
            sleep(pause).await;
            // Asked first: when it is over, what was fetched is there.
            let over = match self.is_over(&node, &name).await {
                Some(over) => over,
                None => break,
            };
            if let Some(hit) = self.look(base, &variant).await
                && hit.entry.lifetime.fresh_until > std::time::SystemTime::now()
            {
                leases.shared.inc();
                return Turn::Filled(hit);
            }
            if over {
                break;
            }
        }
        leases.vain.inc();
        Turn::Alone
    }

    async fn take(&self, node: &Arc<Node>, name: &Name, token: &str, length: Duration) -> Said {
        let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let mut pipeline = Pipeline::new();
        let command = pipeline.cmd("SET").arg(name.lease()).arg(token);
        command.arg("NX").arg("PX").arg(millis);
        match self.ask(node, &pipeline).await {
            Some(Value::Okay) => Said::Ours,
            Some(Value::Nil) => Said::Theirs,
            _ => Said::Nothing,
        }
    }

    /// Whether nobody fetches any more. None: nobody can tell.
    async fn is_over(&self, node: &Arc<Node>, name: &Name) -> Option<bool> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("EXISTS").arg(name.lease());
        match self.ask(node, &pipeline).await {
            Some(Value::Int(number)) => Some(number == 0),
            _ => None,
        }
    }

    /// One answer within the budget.
    async fn ask(&self, node: &Arc<Node>, pipeline: &Pipeline) -> Option<Value> {
        if node.health() != Health::Up {
            return None;
        }
        let reply = timeout(self.0.settings.budget, node.send(pipeline)).await;
        reply.ok()?.ok()?.values.pop()?.ok()
    }
}
