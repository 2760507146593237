//! Who may do what: bearer tokens with scopes. Only hashes of tokens are stored; the text is shown once.
//!
//! A token is `tgcp_`, its public id, `_`, and 32 random characters. The id finds the record, so that only one hash has to
//! be compared, in constant time.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::plane::Plane;
use super::problem::Problem;
use super::store::{Expected, ObjectChange, ObjectKind, Store, StoreError, StoreResult};
use crate::clock::unix_ms;
use crate::document::Secret;

/// Tokens that are remembered: a thousand gateways share a few.
const REMEMBERED: usize = 1024;

/// For how long. A token that is revoked through another node is refused at most so much later.
const MEMORY: Duration = Duration::from_secs(2);

const PREFIX: &str = "tgcp_";
const ID: usize = 10;
const RANDOM: usize = 32;

/// A right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Scope {
    /// Everything.
    #[serde(rename = "admin")]
    Admin,
    /// See everything that is authored, published and running. No secret is among it.
    #[serde(rename = "read")]
    Read,
    /// Create and change environments.
    #[serde(rename = "environments:write")]
    Environments,
    /// Create APIs and their revisions.
    #[serde(rename = "apis:write")]
    Apis,
    /// Create and change plans.
    #[serde(rename = "plans:write")]
    Plans,
    /// Create and change applications and subscriptions.
    #[serde(rename = "applications:write")]
    Applications,
    /// Create and revoke keys.
    #[serde(rename = "keys:write")]
    Keys,
    /// Publish to environments, deploy to them, roll them back.
    #[serde(rename = "revisions:publish")]
    Publish,
    /// Create and change pools.
    #[serde(rename = "pools:write")]
    Pools,
    /// Drain and forget gateways.
    #[serde(rename = "gateways:write")]
    Gateways,
    /// Create and revoke tokens.
    #[serde(rename = "tokens:write")]
    Tokens,
    /// Be a gateway: fetch revisions and keys, take a seat.
    #[serde(rename = "gateway")]
    Gateway,
    /// Ask what a token or key is worth (RFC 7662).
    #[serde(rename = "introspect")]
    Introspect,
}

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of the whole text in hex.
    pub sha256: String,
    /// What it is for.
    #[serde(default)]
    pub note: String,
    /// Its rights.
    pub scopes: Vec<Scope>,
    /// What it may publish to and fetch from; empty is every environment.
    #[serde(default)]
    pub environments: Vec<String>,
    /// The roles of who holds it, for what environments show to whom.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Unix milliseconds from which on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// Who asks: a handler that takes one answers 401 to everybody else.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The public id of the token: the author of what is changed.
    pub id: Arc<str>,
    record: Arc<TokenRecord>,
}

/// The tokens of a control plane.
pub struct Tokens {
    store: Arc<dyn Store>,
    remembered: Cache<[u8; 32], (Instant, Caller)>,
}

impl Tokens {
    /// Those in this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            remembered: Cache::new(REMEMBERED),
        }
    }

    /// Makes a token and gives its id and text. The text is nowhere else.
    ///
    /// # Errors
    /// When the store or the operating system's randomness fails.
    pub async fn create(&self, record: impl FnOnce(String) -> TokenRecord) -> StoreResult<(String, Secret)> {
        let random =
            |length| crate::auth::key::random_text(length).map_err(|error| StoreError::Failed(error.to_string()));
        let id = random(ID)?;
        let text = format!("{PREFIX}{id}_{}", random(RANDOM)?);
        self.put(&id, &text, record).await?;
        Ok((id, Secret::from(text)))
    }

    /// Stores a token that somebody else has thought up, under this id, once: one that is there already stays, and one that
    /// was revoked is not taken again, however often it is read from a file. Tells whether it is there now.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn adopt(&self, text: &Secret, record: impl FnOnce(String) -> TokenRecord) -> StoreResult<bool> {
        let id = id_of(text.expose());
        let adopted = format!("adopted_token_{id}");
        if self.store.object(ObjectKind::Token, &id).await?.is_none() {
            if !self.store.setting(&adopted, "").await?.is_empty() {
                return Ok(false);
            }
            match self.put(&id, text.expose(), record).await {
                // Another node that starts at the same time has adopted it.
                Ok(()) | Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.store.set_setting(&adopted, Some("1")).await?;
        Ok(true)
    }

    /// Who presents this text.
    ///
    /// # Errors
    /// [`Problem::Unauthorized`] when nobody does.
    pub async fn identify(&self, text: &str) -> Result<Caller, Problem> {
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if let Some((at, caller)) = self.remembered.get(&digest)
            && at.elapsed() < MEMORY
        {
            return caller.valid(unix_ms());
        }
        let id = id_of(text);
        let object = self
            .store
            .object(ObjectKind::Token, &id)
            .await?
            .ok_or(Problem::Unauthorized)?;
        let record: TokenRecord = serde_json::from_str(&object.value).map_err(|error| {
            log::error!("token {id}: {error}");
            Problem::Internal
        })?;
        if !bool::from(record.sha256.as_bytes().ct_eq(hex(&digest).as_bytes())) {
            return Err(Problem::Unauthorized);
        }
        let caller = Caller {
            id: Arc::from(id),
            record: Arc::new(record),
        };
        self.remembered.insert(digest, (Instant::now(), caller.clone()));
        caller.valid(unix_ms())
    }

    /// Forgets what is remembered: after a token was revoked here.
    pub fn forget(&self) {
        self.remembered.clear();
    }

    async fn put(&self, id: &str, text: &str, record: impl FnOnce(String) -> TokenRecord) -> StoreResult<()> {
        let record = record(hex(&Sha256::digest(text.as_bytes()).into()));
        let value = serde_json::to_string(&record).map_err(|error| StoreError::Failed(error.to_string()))?;
        let change = ObjectChange {
            kind: ObjectKind::Token,
            name: id.to_owned(),
            expected: Expected::Absent,
            value: Some(value),
        };
        let changes = super::store::Changes {
            objects: vec![change],
            ..Default::default()
        };
        self.store.commit(&changes, unix_ms()).await.map(drop)
    }
}

impl Caller {
    /// Whether it has a right.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        let scopes = &self.record.scopes;
        scopes.contains(&scope) || scopes.contains(&Scope::Admin)
    }

    /// Asks for a right.
    ///
    /// # Errors
    /// [`Problem::Forbidden`] without it.
    pub fn need(&self, scope: Scope) -> Result<(), Problem> {
        if self.may(scope) {
            Ok(())
        } else {
            Err(Problem::Forbidden(format!("this needs a token with the scope {scope}")))
        }
    }

    /// Asks for a right in an environment.
    ///
    /// # Errors
    /// [`Problem::Forbidden`] without it, or if the token is for other environments.
    pub fn need_in(&self, scope: Scope, environment: &str) -> Result<(), Problem> {
        self.need(scope)?;
        let environments = &self.record.environments;
        if environments.is_empty() || environments.iter().any(|other| other == environment) {
            Ok(())
        } else {
            Err(Problem::Forbidden(format!(
                "this token is not for the environment \"{environment}\""
            )))
        }
    }

    /// The roles of who holds the token.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        &self.record.roles
    }

    /// The environments that the token is for; empty is every one.
    #[must_use]
    pub fn environments(&self) -> &[String] {
        &self.record.environments
    }

    /// Unix milliseconds from which on the token is refused.
    #[must_use]
    pub fn expires_ms(&self) -> Option<u64> {
        self.record.expires_ms
    }

    fn valid(self, now_ms: u64) -> Result<Self, Problem> {
        match self.record.expires_ms {
            Some(expires) if now_ms >= expires => Err(Problem::Unauthorized),
            _ => Ok(self),
        }
    }
}

impl FromRequestParts<Arc<Plane>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, Problem> {
        let mut fields = parts.headers.get_all(AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return Err(Problem::Unauthorized);
        };
        let text = field.to_str().map_err(|_| Problem::Unauthorized)?;
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(Problem::Unauthorized),
        };
        plane.tokens.identify(token).await
    }
}

/// What finds the record of a token: the id in it, or a part of its hash if it is not one of ours.
fn id_of(text: &str) -> String {
    let ours = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
    match ours {
        Some((id, _)) if id.len() == ID && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => id.to_owned(),
        _ => {
            let mut id = hex(&Sha256::digest(text.as_bytes()).into());
            id.truncate(16);
            id
        }
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Admin,
        Self::Read,
        Self::Environments,
        Self::Apis,
        Self::Plans,
        Self::Applications,
        Self::Keys,
        Self::Publish,
        Self::Pools,
        Self::Gateways,
        Self::Tokens,
        Self::Gateway,
        Self::Introspect,
    ];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Read => "read",
            Self::Environments => "environments:write",
            Self::Apis => "apis:write",
            Self::Plans => "plans:write",
            Self::Applications => "applications:write",
            Self::Keys => "keys:write",
            Self::Publish => "revisions:publish",
            Self::Pools => "pools:write",
            Self::Gateways => "gateways:write",
            Self::Tokens => "tokens:write",
            Self::Gateway => "gateway",
            Self::Introspect => "introspect",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| {
                let all: Vec<&str> = Self::ALL.iter().map(|scope| scope.as_str()).collect();
                format!("\"{text}\" is no scope; there are {}", all.join(", "))
            })
    }
}
