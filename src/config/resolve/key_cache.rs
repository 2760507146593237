//! How what a key service says is remembered.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::raw::{RawKeyCache, RawKeyCacheLocation};
use super::super::{KeyCache, KeyCacheLocation};
use super::Resolver;
use crate::document::{At, Text};

/// A revoked token lets in for so long: beyond an hour nobody wants that, below a second nothing is gained.
const POSITIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const NEGATIVE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(300);
const STALE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);

impl Resolver<'_> {
    pub(super) fn key_cache(&mut self, raw: Option<&At<RawKeyCache>>) -> KeyCache {
        let nothing = RawKeyCache::default();
        let RawKeyCache {
            location,
            entries,
            positive,
            negative,
            stale,
            rate,
        } = raw.map_or(&nothing, |raw| &raw.value);
        let default = KeyCache::default();
        KeyCache {
            location: match location {
                None | Some(RawKeyCacheLocation::Gateway) => KeyCacheLocation::Gateway,
                Some(RawKeyCacheLocation::KeyManager) => KeyCacheLocation::KeyManager,
                Some(RawKeyCacheLocation::Both) => KeyCacheLocation::Both,
                Some(RawKeyCacheLocation::None) => KeyCacheLocation::None,
            },
            entries: self.number(entries.as_ref(), "entries", 1_000..=10_000_000, default.entries),
            positive: self.time(
                positive.as_ref(),
                "\"positive\" has to be from 1s to 1h",
                &POSITIVE,
                default.positive,
            ),
            negative: self.time(
                negative.as_ref(),
                "\"negative\" is at most 5m",
                &NEGATIVE,
                default.negative,
            ),
            stale: self.time(stale.as_ref(), "\"stale\" is at most 1d", &STALE, default.stale),
            rate: self.number(rate.as_ref(), "rate", 1..=100_000, default.rate),
        }
    }

    fn time(
        &mut self,
        raw: Option<&At<Text<Duration>>>,
        otherwise: &str,
        range: &RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(raw) = raw else {
            return default;
        };
        if !range.contains(raw.get()) {
            self.report.error(raw.place, otherwise);
        }
        *raw.get()
    }
}
