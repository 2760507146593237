//! `cache` as it is written.

use std::time::Duration;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;

use super::{RawRedis, RawUrls, RedisUrls};
use crate::document::{At, Grammar, Secret, Size, Text};

/// Where answers are kept that policies of APIs and routes let be kept.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawCache {
    /// What kept answers may take of this process's memory, their headers and what it takes to find them included: 1MiB to
    /// 1024GiB. Default 256MiB. Nothing is kept where no API or route has a `cache`.
    pub(in crate::config) memory: Option<At<Text<RawMemory>>>,
    /// A Redis or Valkey in which several gateways share what they keep; not the one of the counters, because answers may
    /// be evicted and counters may not. Absent: each gateway keeps its own.
    pub(in crate::config) redis: Option<At<RawCacheRedis>>,
}

/// How kept answers are shared.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawCacheRedis {
    /// `redis://host:6379`, `rediss://host:6379` for TLS, or `unix:///path` for a socket; a database number may follow, as
    /// in `redis://host:6379/3`. Several are the seed nodes of one Redis Cluster.
    #[schemars(required)]
    pub(in crate::config) urls: Option<At<RawUrls<RedisUrls>>>,
    /// As whom to log in (Redis ACL). Default: Redis' default user.
    #[schemars(length(min = 1))]
    pub(in crate::config) username: Option<At<String>>,
    /// With which password; take it from elsewhere, with `${cred:name}` or `${file:/path}`. Default: without logging in.
    pub(in crate::config) password: Option<At<Secret>>,
    /// A file of certificates (PEM) that are trusted instead of the well-known ones; with `rediss:` only. A relative
    /// path is relative to the directory in which the process was started.
    #[schemars(length(min = 1))]
    pub(in crate::config) ca: Option<At<String>>,
    /// Until a connection stands, TLS and login included; at most 1m. Default 1s.
    pub(in crate::config) connect_timeout: Option<At<Text<Duration>>>,
    /// How long an answer may take before the connection is given up; at most 1m. Requests do not wait for it longer
    /// than `budget`. Default 250ms.
    pub(in crate::config) response_timeout: Option<At<Text<Duration>>>,
    /// How long a request may wait for Redis before it goes to the upstream, 1ms to 100ms. Default 5ms.
    pub(in crate::config) budget: Option<At<Text<Duration>>>,
    /// The largest record that is written to Redis: header and body of an answer, compressed; 1KiB to 8MiB. Default
    /// 256KiB.
    pub(in crate::config) object_bytes: Option<At<Text<Size>>>,
    /// For how long one gateway fetches an answer while the others wait for it, 100ms to 30s. Absent: each gateway
    /// fetches it once.
    pub(in crate::config) lease: Option<At<Text<Duration>>>,
}

impl RawCacheRedis {
    /// What it has in common with the Redis of the counters, and the rest: budget, object_bytes, lease.
    #[allow(clippy::type_complexity, reason = "three keys as they were written")]
    pub(in crate::config) fn split(
        self,
    ) -> (
        RawRedis,
        Option<At<Text<Duration>>>,
        Option<At<Text<Size>>>,
        Option<At<Text<Duration>>>,
    ) {
        let Self {
            urls,
            username,
            password,
            ca,
            connect_timeout,
            response_timeout,
            budget,
            object_bytes,
            lease,
        } = self;
        let redis = RawRedis {
            urls,
            username,
            password,
            ca,
            connect_timeout,
            response_timeout,
        };
        (redis, budget, object_bytes, lease)
    }
}

/// A number of bytes. `0` is one without a unit, so that whoever wants to keep nothing is told how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct RawMemory(pub(in crate::config) u64);

impl Grammar for RawMemory {
    const WHAT: &'static str = "a size such as 256MiB";

    fn read(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(0));
        }
        Size::read(text).map(|size| Self(size.0))
    }

    fn schema() -> Schema {
        Size::schema()
    }
}
