//! Where answers are kept, and the Redis in which gateways share them.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::raw::{RawCache, RawCacheRedis};
use super::super::{Cache, CacheRedis, Redis};
use super::Resolver;
use crate::document::{At, Place, Text};

const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;
const BUDGET: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(100);
const OBJECT: RangeInclusive<u64> = 1 << 10..=8 << 20;
const LEASE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);

const DEFAULT_BUDGET: Duration = Duration::from_millis(5);
const DEFAULT_OBJECT: u64 = 256 << 10;

impl Resolver<'_> {
    /// `counters` is where counters are shared: it should be another server.
    pub(super) fn cache(&mut self, raw: Option<At<RawCache>>, counters: Option<&Redis>) -> Cache {
        let default = Cache::default();
        let Some(At {
            value: RawCache { memory, redis },
            ..
        }) = raw
        else {
            return default;
        };
        if let Some(memory) = &memory
            && !MEMORY.contains(&memory.get().0)
        {
            self.report.error(
                memory.place,
                "\"memory\" has to be from 1MiB to 1024GiB; to keep nothing, give no API or route a \"cache\"",
            );
        }
        Cache {
            memory: memory.map_or(default.memory, |memory| memory.get().0),
            redis: redis.and_then(|raw| self.cache_redis(raw, counters)),
        }
    }

    /// `None` only after an error was reported.
    fn cache_redis(&mut self, raw: At<RawCacheRedis>, counters: Option<&Redis>) -> Option<CacheRedis> {
        let place = raw.place;
        let (redis, budget, object_bytes, lease) = raw.value.split();
        let redis = self.redis(At { value: redis, place });
        if let Some(object) = &object_bytes
            && !OBJECT.contains(&object.get().0)
        {
            self.report
                .error(object.place, "\"object_bytes\" has to be from 1KiB to 8MiB");
        }
        let budget = self.cache_time(budget.as_ref(), "\"budget\" has to be from 1ms to 100ms", &BUDGET);
        let lease = self.cache_time(
            lease.as_ref(),
            "\"lease\" has to be from 100ms to 30s; remove it so that each gateway fetches for itself",
            &LEASE,
        );
        let redis = redis?;
        self.two_servers(&redis, counters, place);
        Some(CacheRedis {
            redis,
            budget: budget.unwrap_or(DEFAULT_BUDGET),
            object_bytes: object_bytes.map_or(DEFAULT_OBJECT, |object| object.get().0),
            lease,
        })
    }

    fn cache_time(
        &mut self,
        raw: Option<&At<Text<Duration>>>,
        otherwise: &str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let raw = raw?;
        if !range.contains(raw.get()) {
            self.report.error(raw.place, otherwise);
        }
        Some(*raw.get())
    }

    /// Counters must not be evicted, and answers must be able to be: one server can not do both.
    fn two_servers(&mut self, redis: &Redis, counters: Option<&Redis>, place: Place) {
        let shared = redis.urls.iter().find(|url| {
            let counters = counters.map_or(&[][..], |counters| counters.urls.as_slice());
            counters.iter().any(|other| server(other) == server(url))
        });
        if let Some(url) = shared {
            let message = format!(
                "{} keeps the counters too (\"redis\"), which must not be evicted, while answers must be able to be: a \
                 server has one maxmemory-policy for all of its databases; give answers a server of their own, with \
                 maxmemory and maxmemory-policy volatile-lfu",
                server(url)
            );
            self.report.warning(place, message);
        }
    }
}

/// A resolved URL without its database.
fn server(url: &str) -> &str {
    if url.starts_with("unix://") {
        return url.split_once('?').map_or(url, |(server, _)| server);
    }
    match url.rsplit_once('/') {
        Some((server, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => server,
        _ => url,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::super::{Loaded, parse};
    use super::*;
    use crate::document::{Environment, Mistakes};

    fn read(lines: &str) -> Result<Loaded, Mistakes> {
        let environment = Environment::fixed([], Timestamp::UNIX_EPOCH);
        let text = format!("revision: {{ file: r }}\nthrottle: {{ instances: 2 }}\n{lines}\n");
        parse(&text, "t.yaml", &environment, None)
    }

    fn loaded(lines: &str) -> Loaded {
        read(lines).unwrap_or_else(|mistakes| panic!("{lines}: {mistakes}"))
    }

    #[test]
    fn every_key_is_read_and_has_the_default_that_is_promised() {
        let cache = loaded(
            "cache: { memory: 64MiB, redis: { urls: [\"rediss://answers:6380/2\"], username: gate, password: secret, ca: \
             ca.pem, connect_timeout: 2s, response_timeout: 100ms, budget: 10ms, object_bytes: 1MiB, lease: 2s } }",
        );
        assert!(cache.warnings.is_empty(), "{}", cache.warnings);
        assert_eq!(
            cache.config.cache,
            Cache {
                memory: 64 << 20,
                redis: Some(CacheRedis {
                    redis: Redis {
                        urls: vec!["rediss://answers:6380/2".into()],
                        username: Some("gate".into()),
                        password: Some("secret".to_owned().into()),
                        ca: Some("ca.pem".into()),
                        connect_timeout: Duration::from_secs(2),
                        response_timeout: Duration::from_millis(100),
                    },
                    budget: Duration::from_millis(10),
                    object_bytes: 1 << 20,
                    lease: Some(Duration::from_secs(2)),
                }),
            }
        );
        let default = Cache {
            memory: 256 << 20,
            redis: None,
        };
        assert_eq!(loaded("").config.cache, default);
        assert_eq!(loaded("cache: {}").config.cache, default);
        let redis = loaded("cache: { redis: { urls: [redis://answers] } }")
            .config
            .cache
            .redis;
        let redis = redis.unwrap();
        assert_eq!(redis.redis.urls, ["redis://answers:6379"]);
        assert_eq!(
            (redis.budget, redis.object_bytes, redis.lease),
            (Duration::from_millis(5), 256 << 10, None)
        );
    }

    #[test]
    fn what_can_not_be_meant_is_told_with_the_way_out() {
        let redis = "redis: { urls: [redis://answers], ";
        for (keys, expected) in [
            ("memory: 0", "to keep nothing, give no API or route a \"cache\""),
            ("memory: 0B", "to keep nothing, give no API or route a \"cache\""),
            ("memory: 1023KiB", "\"memory\" has to be from 1MiB to 1024GiB"),
            ("memory: 1025GiB", "\"memory\" has to be from 1MiB to 1024GiB"),
            ("memory: lots", "\"lots\" is not a size"),
            ("size: 1MiB", "unknown key \"size\" in cache"),
            ("redis: {}", "\"redis\" has no \"urls\""),
            (
                &format!("{redis} budget: 0ms }}"),
                "\"budget\" has to be from 1ms to 100ms",
            ),
            (
                &format!("{redis} budget: 1s }}"),
                "\"budget\" has to be from 1ms to 100ms",
            ),
            (
                &format!("{redis} object_bytes: 9MiB }}"),
                "\"object_bytes\" has to be from 1KiB to 8MiB",
            ),
            (
                &format!("{redis} lease: 50ms }}"),
                "\"lease\" has to be from 100ms to 30s; remove it",
            ),
            (
                &format!("{redis} leese: 1s }}"),
                "unknown key \"leese\" in cache redis; did you mean \"lease\"?",
            ),
        ] {
            let found = read(&format!("cache: {{ {keys} }}")).unwrap_err();
            let text = found.to_string();
            assert!(
                found.len() == 1 && text.starts_with("t.yaml:3:") && text.contains(expected),
                "{keys} gave {text}"
            );
        }
    }

    #[test]
    fn one_server_for_counters_and_answers_is_warned_of_whatever_the_database() {
        let warnings = |counters: &str, answers: &str| {
            let text = format!("redis: {{ urls: [{counters:?}] }}\ncache: {{ redis: {{ urls: [{answers:?}] }} }}");
            loaded(&text).warnings.to_string()
        };
        for (counters, answers) in [
            ("redis://one", "redis://one:6379/1"),
            ("redis://one:7000/2", "redis://one:7000"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock?db=1"),
        ] {
            let found = warnings(counters, answers);
            assert!(
                found.starts_with("t.yaml:4:17: warning: ")
                    && found.contains("keeps the counters too")
                    && found.contains("give answers a server of their own"),
                "{found}"
            );
        }
        assert_eq!(warnings("redis://one", "redis://two"), "");
        assert_eq!(warnings("redis://one:6379", "redis://one:6380"), "");
    }
}
