//! What is kept of answers, resolved.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::units::Ratio;

/// What an API or a route says about keeping its answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caching {
    /// Whether GET is answered from the cache. This or [`Self::head`] is true.
    pub get: bool,
    /// Whether HEAD is.
    pub head: bool,
    /// How long an answer is fresh that does not say it.
    pub ttl: Duration,
    /// The same for answers that say that there is nothing.
    pub negative_ttl: Duration,
    /// The longest time that an answer is fresh, whatever it says. Not shorter than the two above.
    pub max_ttl: Duration,
    /// By what share a lifetime is changed at random; at most one half.
    pub jitter: Ratio,
    /// How long after its end an answer is given while it is fetched anew, where the origin does not say it.
    pub stale_while_revalidate: Duration,
    /// How long after its end an answer is given when the origin fails, where the origin does not say it.
    pub stale_if_error: Duration,
    /// In which last share of its lifetime an answer is fetched anew ahead; at most one half, zero: never.
    pub refresh_ahead: Ratio,
    /// Largest content that is kept, in bytes.
    pub body_bytes: u64,
    /// Who may get what was made for somebody.
    pub share: CacheShare,
    /// Whether answers to requests with `Authorization` are kept although the origin does not allow it. Only with
    /// [`CacheShare::Caller`].
    pub authorized: bool,
    /// Whether answers with `Set-Cookie` are kept that say how long they are fresh.
    pub set_cookie: bool,
    /// Whether a client's `Cache-Control` and `Pragma` count.
    pub client_directives: bool,
    /// Whether answers carry `Cache-Status`.
    pub cache_status: bool,
}

/// Who may get an answer that was made for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum CacheShare {
    /// The same caller: the same key, certificate or subject of tokens.
    Caller,
    /// Every caller of the same application; callers without one only themselves.
    Application,
    /// Everybody who may call: answers do not differ by caller.
    Everyone,
}

impl CacheShare {
    /// As written in configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Application => "application",
            Self::Everyone => "everyone",
        }
    }
}

/// What a route says about keeping its answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RouteCaching {
    /// As the API says, which may be nothing.
    #[default]
    AsApi,
    /// Nothing is kept.
    Off,
    /// This, instead of all that the API says.
    Own(Box<Caching>),
}
