//! Tokens that say nothing themselves: somebody is asked what they are worth (RFC 7662), and the answer is remembered.
//!
//! However many requests come with one token at the same time, it is asked about once. How often a gateway asks in all
//! is bounded, so that a key service is never asked to death; what is beyond waits for its turn, and at last for nothing.
//! A service that is away costs a token nothing that was good a moment ago: its last answer serves on, for a while.

mod heritage;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

pub use self::heritage::ANSWERS;

use self::heritage::Inheritance;
use super::jwks::source::chain;
use super::jwt::VerifiedToken;
use super::jwt::parse::{self, MAX_TOKEN};
use super::{Denial, Invalid};
use crate::clock::unix_ms;
use crate::config::{KeyCache, KeyCacheLocation};
use crate::revision::{IntrospectionCredential, Introspector};

/// How long a request waits for an answer, its turn included.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests that may wait for answers of one service at a time.
const WAITING: usize = 10_000;

/// After an answer that did not come nobody asks for so long.
const BREATH_MS: u64 = 1_000;

/// The longest answer.
const ANSWER_BYTES: usize = 64 << 10;

/// The share of one entry of the cache.
const BYTES_EACH: u64 = 1_024;

/// All introspection endpoints of the process, by where they are and who asks: a new revision finds the answers of the
/// old one.
#[derive(Clone)]
pub struct Introspectors(Arc<Registry>);

struct Registry {
    settings: KeyCache,
    http: Option<reqwest::Client>,
    services: Mutex<HashMap<[u8; 32], Weak<Service>>>,
    inherited: Mutex<Inheritance>,
}

/// An introspection endpoint and what it has said.
pub struct Service {
    terms: Introspector,
    http: Option<reqwest::Client>,
    authorization: Option<HeaderValue>,
    settings: KeyCache,
    answers: Cache<[u8; 32], Entry, Weigh>,
    flights: Mutex<HashMap<[u8; 32], watch::Receiver<Landed>>>,
    waiting: Semaphore,
    turn: Mutex<Turn>,
}

/// What is known of a token without asking.
pub enum Known {
    /// This.
    Verdict(Verdict),
    /// Nothing that is fresh enough.
    Nothing,
}

/// What a service says of a token; none if it does not call it active.
pub type Verdict = Result<Arc<VerifiedToken>, Invalid>;

/// What a flight brought: nothing yet, or a verdict, or the news that there is none to be had.
type Landed = Option<Result<Verdict, Away>>;

/// The service gives no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Away;

#[derive(Clone)]
struct Entry {
    verdict: Verdict,
    fresh_until_ms: u64,
    stale_until_ms: u64,
}

/// When the next question may be asked.
struct Turn {
    next: Option<Instant>,
    away_until_ms: u64,
}

enum Flight {
    /// Ours to fly.
    Own(watch::Sender<Landed>),
    /// Somebody else's.
    Other(watch::Receiver<Landed>),
}

impl Introspectors {
    /// Endpoints that are asked.
    ///
    /// # Errors
    /// When there can be no HTTP client, for want of certificates for example.
    pub fn new(settings: &KeyCache) -> Result<Self, String> {
        let client = || {
            reqwest::Client::builder()
                .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(PATIENCE)
                .timeout(PATIENCE)
                .redirect(reqwest::redirect::Policy::none())
        };
        // A host without well-known certificates is no reason not to start: only key services over https need them.
        let http = client().build().or_else(|error| {
            let why = chain(&error);
            log::warn!("introspection over https will not work here (ca-certificates may be missing): {why}");
            client().tls_certs_only([]).build().map_err(|error| chain(&error))
        })?;
        Ok(Self::with(settings, Some(http)))
    }

    /// Endpoints that nobody asks: for explanations.
    #[must_use]
    pub fn offline() -> Self {
        Self::with(&KeyCache::default(), None)
    }

    fn with(settings: &KeyCache, http: Option<reqwest::Client>) -> Self {
        Self(Arc::new(Registry {
            settings: *settings,
            http,
            services: Mutex::default(),
            inherited: Mutex::default(),
        }))
    }

    /// Forgets what services have said of tokens of this subject or application. Walks all of them.
    pub fn forget(&self, user: &str) {
        for service in lock(&self.0.services).values().filter_map(Weak::upgrade) {
            let others = |entry: &Entry| !entry.verdict.as_ref().is_ok_and(|token| token.is_of(user));
            service.answers.retain(|_, entry| others(entry));
        }
    }

    /// The endpoint of this introspector; with what it said before, if an earlier revision had it.
    #[must_use]
    pub fn get(&self, terms: &Introspector) -> Arc<Service> {
        let id = identity(terms);
        let mut services = lock(&self.0.services);
        if let Some(known) = services.get(&id).and_then(Weak::upgrade) {
            return known;
        }
        services.retain(|_, service| service.strong_count() > 0);
        let service = Arc::new(Service::new(terms, self.0.settings, self.0.http.clone()));
        for (digest, entry) in lock(&self.0.inherited).claim(&id) {
            service.answers.insert(digest, entry);
        }
        services.insert(id, Arc::downgrade(&service));
        service
    }
}

impl Service {
    fn new(terms: &Introspector, settings: KeyCache, http: Option<reqwest::Client>) -> Self {
        let authorization = match &terms.credential {
            // RFC 6749 section 2.3.1: form-encoded before they are joined.
            IntrospectionCredential::Basic { id, secret } => {
                let joined = format!("{}:{}", form_encoded(id), form_encoded(secret.expose()));
                format!("Basic {}", BASE64.encode(joined))
            }
            IntrospectionCredential::Bearer(token) => format!("Bearer {}", token.expose()),
        };
        let authorization = HeaderValue::from_str(&authorization).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let entries = usize::try_from(settings.entries).unwrap_or(usize::MAX);
        Self {
            terms: terms.clone(),
            http,
            authorization,
            settings,
            answers: Cache::with_weighter(entries, u64::from(settings.entries) * BYTES_EACH, Weigh),
            flights: Mutex::default(),
            waiting: Semaphore::new(WAITING),
            turn: Mutex::new(Turn {
                next: None,
                away_until_ms: 0,
            }),
        }
    }

    /// Whether tokens have to name an application.
    #[must_use]
    pub fn binds_application(&self) -> bool {
        self.terms.application_claim.is_some()
    }

    /// What is known of a token without asking.
    #[must_use]
    pub fn known(&self, token: &str, now_ms: u64) -> Known {
        if token.len() > MAX_TOKEN {
            return Known::Verdict(Err(Invalid::Malformed));
        }
        if !self.settings.location.is_at_gateway() {
            return Known::Nothing;
        }
        match self.answers.get(&digest(token)) {
            Some(entry) if now_ms < entry.fresh_until_ms => Known::Verdict(entry.verdict),
            _ => Known::Nothing,
        }
    }

    /// Asks, or waits for somebody who asks already; two seconds at most.
    ///
    /// # Errors
    /// [`Denial::KeysUnavailable`] when there is no answer, and no older one that may still serve.
    pub async fn ask(&self, token: &str) -> Result<Verdict, Denial> {
        let digest = digest(token);
        match timeout(PATIENCE, self.answer(token, digest)).await {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(Away)) | Err(_) => self.stale(&digest, unix_ms()).ok_or(Denial::KeysUnavailable),
        }
    }

    async fn answer(&self, token: &str, digest: [u8; 32]) -> Result<Verdict, Away> {
        let _place = self.waiting.try_acquire().map_err(|_| Away)?;
        if !self.settings.location.is_at_gateway() {
            return self.fetch(token).await;
        }
        // Who flew may have been cut off by a client that left: then it is the next one's turn.
        loop {
            match self.flight(digest) {
                Flight::Other(mut landed) => {
                    if let Ok(result) = landed.wait_for(Option::is_some).await
                        && let Some(result) = result.clone()
                    {
                        return result;
                    }
                }
                Flight::Own(landing) => {
                    let _gone = Grounded { service: self, digest };
                    let result = self.fetch(token).await;
                    if let Ok(verdict) = &result {
                        self.remember(digest, verdict, unix_ms());
                    }
                    landing.send_replace(Some(result.clone()));
                    return result;
                }
            }
        }
    }

    /// The flight for a token: one that is in the air, or a new one.
    fn flight(&self, digest: [u8; 32]) -> Flight {
        let mut flights = lock(&self.flights);
        if let Some(other) = flights.get(&digest)
            && other.has_changed().is_ok()
        {
            return Flight::Other(other.clone());
        }
        let (landing, landed) = watch::channel(None);
        flights.insert(digest, landed);
        Flight::Own(landing)
    }

    /// Asks the service, when it is this gateway's turn.
    async fn fetch(&self, token: &str) -> Result<Verdict, Away> {
        let wait = self.turn(unix_ms())?;
        if let Some(until) = wait {
            tokio::time::sleep_until(until).await;
        }
        match self.question(token).await {
            Ok(body) => {
                let verdict = self.read(&body);
                if let Err(invalid) = &verdict
                    && *invalid != Invalid::Inactive
                {
                    log::debug!(
                        "introspection of issuer \"{}\": an answer that does not let in: {}",
                        self.terms.name,
                        invalid.reason()
                    );
                }
                Ok(verdict)
            }
            Err(error) => {
                let mut turn = lock(&self.turn);
                let now_ms = unix_ms();
                if turn.away_until_ms < now_ms {
                    log::warn!("introspection of issuer \"{}\": {error}", self.terms.name);
                }
                turn.away_until_ms = now_ms + BREATH_MS;
                Err(Away)
            }
        }
    }

    /// When this question may be asked; none is at once.
    fn turn(&self, now_ms: u64) -> Result<Option<Instant>, Away> {
        let mut turn = lock(&self.turn);
        if now_ms < turn.away_until_ms {
            return Err(Away);
        }
        let now = Instant::now();
        let at = turn.next.map_or(now, |next| next.max(now));
        if at > now + PATIENCE {
            return Err(Away);
        }
        turn.next = Some(at + Duration::from_secs(1) / self.settings.rate.max(1));
        Ok(Some(at).filter(|at| *at > now))
    }

    async fn question(&self, token: &str) -> Result<Vec<u8>, String> {
        let http = self.http.as_ref().ok_or("nobody is asked here")?;
        let body = format!("token={}&token_type_hint=access_token", form_encoded(token));
        let mut request = http
            .post(&self.terms.url)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if !self.settings.location.is_at_key_manager() {
            request = request.header(CACHE_CONTROL, "no-cache");
        }
        let told = |error: reqwest::Error| error.without_url().to_string();
        let mut answer = request.send().await.map_err(told)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("the answer's status is {}, not 200", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(told)? {
            if body.len() + chunk.len() > ANSWER_BYTES {
                return Err("the answer is longer than 64 KiB".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What an answer says. One that can not be read lets nobody in.
    fn read(&self, body: &[u8]) -> Verdict {
        #[derive(Deserialize)]
        struct Status {
            active: bool,
        }

        let Ok(Status { active }) = serde_json::from_slice(body) else {
            return Err(Invalid::Claims);
        };
        if !active {
            return Err(Invalid::Inactive);
        }
        let claims = parse::claims(body, self.terms.application_claim.as_deref())?;
        if let (Some(wanted), Some(stated)) = (&self.terms.issuer, &claims.issuer)
            && wanted != stated
        {
            return Err(Invalid::Issuer);
        }
        let audience = &self.terms.audience;
        let meant = claims.audience.is_empty() || claims.audience.iter().any(|stated| audience.contains(stated));
        if !audience.is_empty() && !meant {
            return Err(Invalid::Audience);
        }
        let issuer = self.terms.issuer.as_deref().unwrap_or(&self.terms.url);
        Ok(Arc::new(VerifiedToken::as_told(claims, issuer)))
    }

    fn remember(&self, digest: [u8; 32], verdict: &Verdict, now_ms: u64) {
        let (fresh, stale) = match verdict {
            Ok(_) => (self.settings.positive, self.settings.stale),
            // A token may become good, but one that was bad is never served on.
            Err(_) => (self.settings.negative, Duration::ZERO),
        };
        // What was asked for together is not asked for again together.
        let fresh_until_ms = now_ms + millis(fresh.mul_f64(rand::random_range(0.9..=1.1)));
        let end = verdict.as_ref().map_or(u64::MAX, |token| token.valid_until_ms());
        let entry = Entry {
            verdict: verdict.clone(),
            fresh_until_ms: fresh_until_ms.min(end),
            stale_until_ms: fresh_until_ms.saturating_add(millis(stale)).min(end),
        };
        self.answers.insert(digest, entry);
    }

    /// An answer that is not fresh any more, for while there is no other.
    fn stale(&self, digest: &[u8; 32], now_ms: u64) -> Option<Verdict> {
        let entry = self.answers.get(digest)?;
        (now_ms < entry.stale_until_ms).then_some(entry.verdict)
    }
}

/// Ends a flight however it ends.
struct Grounded<'a> {
    service: &'a Service,
    digest: [u8; 32],
}

impl Drop for Grounded<'_> {
    fn drop(&mut self) {
        lock(&self.service.flights).remove(&self.digest);
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.terms.name)
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Weigh;

impl Weighter<[u8; 32], Entry> for Weigh {
    fn weight(&self, _: &[u8; 32], entry: &Entry) -> u64 {
        let token = entry.verdict.as_ref().map_or(0, |token| token.weight());
        ((size_of::<Entry>() + 32 + token) as u64).max(BYTES_EACH)
    }
}

impl KeyCacheLocation {
    fn is_at_gateway(self) -> bool {
        matches!(self, Self::Gateway | Self::Both)
    }

    fn is_at_key_manager(self) -> bool {
        matches!(self, Self::KeyManager | Self::Both)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn identity(terms: &Introspector) -> [u8; 32] {
    let Introspector {
        name: _,
        url,
        credential,
        issuer,
        audience,
        application_claim,
    } = terms;
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    part(url);
    match credential {
        IntrospectionCredential::Basic { id, secret } => [id, secret.expose()].into_iter().for_each(&mut part),
        IntrospectionCredential::Bearer(token) => part(token.expose()),
    }
    part(&format!("{issuer:?}{audience:?}{application_claim:?}"));
    hash.finalize().into()
}

/// `application/x-www-form-urlencoded`
fn form_encoded(text: &str) -> String {
    reqwest::Url::parse_with_params("form:", [("", text)])
        .ok()
        .and_then(|url| url.query().map(|query| query.trim_start_matches('=').to_owned()))
        .unwrap_or_default()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds these locks leaves half a change behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
