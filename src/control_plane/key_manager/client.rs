//! Who asks for a token: an application, with one of its keys as its secret.

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use quick_cache::sync::Cache;
use subtle::ConstantTimeEq;

use super::super::plane::Plane;
use super::super::store::StoredKey;
use super::form::Parameters;
use super::problem::OAuthProblem;
use crate::auth::key;
use crate::distribution::KeyHash;
use crate::document::Secret;

/// Clients whose wrong secrets are counted.
const CLIENTS: usize = 10_000;

/// Secrets that were right before.
const RIGHT: usize = 10_000;

/// Wrong secrets of a client in a second, before it has to wait.
const WRONG_MOST: u32 = 10;

/// The second over which they are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The longest client id and secret.
const LONGEST: usize = 256;

/// What a client presents.
pub(super) struct Credentials {
    /// The application.
    pub(super) id: String,
    /// One of its keys.
    pub(super) secret: Secret,
}

/// Wrong secrets lately.
pub(super) struct Attempts {
    /// Client → when its window began (Unix milliseconds), and how many were wrong since.
    wrong: Cache<String, (u64, u32)>,
    /// Secrets that were right before are looked up always: who guesses can not lock out who knows.
    right: Cache<KeyHash, ()>,
    /// Counting is reading and writing.
    counting: Mutex<()>,
}

impl Credentials {
    /// What a request presents with HTTP Basic or in its form; none if it presents nothing.
    ///
    /// # Errors
    /// When it presents both, or something else.
    pub(super) fn of_request(headers: &HeaderMap, form: &Parameters) -> Result<Option<Self>, OAuthProblem> {
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let in_form = (form.one("client_id")?, form.secret("client_secret")?);
        let credentials = match (fields.next(), fields.next(), in_form) {
            (None, _, (None, None)) => return Ok(None),
            (None, _, (Some(id), Some(secret))) => Self {
                id: id.to_owned(),
                secret,
            },
            (None, ..) => {
                return Err(OAuthProblem::InvalidRequest(
                    "client_id and client_secret belong together".to_owned(),
                ));
            }
            (Some(field), None, (id, None)) => {
                let basic = field
                    .to_str()
                    .ok()
                    .and_then(Self::of_basic)
                    .ok_or(OAuthProblem::InvalidClient)?;
                if id.is_some_and(|id| id != basic.id) {
                    return Err(OAuthProblem::InvalidRequest(
                        "client_id is not the one of the Authorization header".to_owned(),
                    ));
                }
                basic
            }
            _ => {
                return Err(OAuthProblem::InvalidRequest(
                    "a client authenticates in one way: in the Authorization header, or in the form".to_owned(),
                ));
            }
        };
        if credentials.id.len() > LONGEST || credentials.secret.expose().len() > LONGEST {
            return Err(OAuthProblem::InvalidClient);
        }
        Ok(Some(credentials))
    }

    fn of_basic(field: &str) -> Option<Self> {
        let (scheme, text) = field.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(BASE64.decode(text.trim()).ok()?).ok()?;
        let (id, secret) = text.split_once(':')?;
        // Both are form-encoded first (RFC 6749 §2.3.1).
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text)
                .decode_utf8()
                .ok()
                .map(|text| text.into_owned())
        };
        Some(Self {
            id: decoded(id)?,
            secret: Secret::from(decoded(secret)?),
        })
    }

    /// The key that is the secret, if the client has it and it is live.
    ///
    /// # Errors
    /// When it has not, or when too many were wrong lately. Which of its parts is wrong is not told, and takes as long.
    pub(super) async fn check(&self, plane: &Plane) -> Result<StoredKey, OAuthProblem> {
        let attempts = &plane.key_manager.attempts;
        let hash = hash_of(self.secret.expose());
        let now_ms = plane.now_ms();
        if attempts.right.get(&hash).is_none() && !attempts.may_try(&self.id, now_ms) {
            return Err(OAuthProblem::TooManyAttempts);
        }
        // From the store: a token outlives what is remembered for a minute.
        let key = plane.key_manager.memory.key(plane, &hash, false).await?;
        let key = key.filter(|key| {
            let is_its = bool::from(key.entry.application.as_bytes().ct_eq(self.id.as_bytes()));
            is_its & is_live(key, now_ms)
        });
        match key {
            Some(key) => {
                attempts.right.insert(hash, ());
                Ok(key)
            }
            None => {
                attempts.right.remove(&hash);
                attempts.was_wrong(&self.id, now_ms);
                Err(OAuthProblem::InvalidClient)
            }
        }
    }
}

/// Whether a key lets in at this moment.
pub(super) fn is_live(key: &StoredKey, now_ms: u64) -> bool {
    key.revoked_ms.is_none_or(|revoked_ms| now_ms < revoked_ms)
        && key.entry.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms)
}

/// What a key is found by.
pub(super) fn hash_of(text: &str) -> KeyHash {
    KeyHash::of_digest(&key::digest(text).0)
}

impl Attempts {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            wrong: Cache::new(CLIENTS),
            right: Cache::new(RIGHT),
            counting: Mutex::new(()),
        }
    }

    fn may_try(&self, client: &str, now_ms: u64) -> bool {
        let wrong = self.wrong.get(client);
        wrong.is_none_or(|(since_ms, count)| count < WRONG_MOST || !in_window(since_ms, now_ms))
    }

    fn was_wrong(&self, client: &str, now_ms: u64) {
        let _turn = self.counting.lock();
        let counted = match self.wrong.get(client) {
            Some((since_ms, count)) if in_window(since_ms, now_ms) => (since_ms, count.saturating_add(1)),
            _ => (now_ms, 1),
        };
        self.wrong.insert(client.to_owned(), counted);
    }
}

fn in_window(since_ms: u64, now_ms: u64) -> bool {
    let window_ms = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
    (since_ms..since_ms.saturating_add(window_ms)).contains(&now_ms)
}
