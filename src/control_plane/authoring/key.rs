//! Keys: made here and shown once, or brought along as hashes; revoked for ever.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::exchange::{Answer, Asked, KEYS, List, Named, Node, Sent};
use super::exchange::{answer, created, limit};
use super::published::{self, KnownKey};
use crate::auth::new_key;
use crate::clock::unix_ms;
use crate::control_plane::access::{Caller, Scope};
use crate::control_plane::problem::Problem;
use crate::control_plane::store::{KeyQuery, KeyWrite, ObjectKind, StoredKey};
use crate::distribution::{ContentHash, KeyEntry, KeyHash};
use crate::document::{Grammar, Name, quote};
use crate::names::{ApplicationName, KeyId};
use crate::revision::KeyType;

/// How many keys are brought along at a time.
const MOST: usize = 10_000;

/// How many mistakes are told of them.
const TOLD: usize = 100;

/// A key to be made, or one that was made elsewhere.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// What it may be used for. Default production.
    #[serde(default)]
    pub r#type: Option<KeyType>,
    /// Its public name; unique for ever. Default: the application's and six characters.
    #[serde(default)]
    pub id: Option<String>,
    /// Refused from this instant on: `2027-01-01T00:00:00Z`. Absent: does not expire.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// SHA-256 over the text of a key that was made elsewhere, 64 hex digits. Absent: a key is made.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// A key after it was made: the only time that it is shown.
#[derive(Serialize, ToSchema)]
pub struct MadeKey {
    /// The key; absent if it was made elsewhere. Nobody can show it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is known of it.
    #[serde(flatten)]
    pub record: KeyRecord,
}

/// What is known of a key.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyRecord {
    /// Its public name.
    pub id: String,
    /// Whose it is.
    pub application: String,
    /// What it may be used for.
    pub r#type: KeyType,
    /// Refused from this instant on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// When it was made; absent if it stands in a published document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When it was revoked; absent if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
    /// The environments in whose published documents it stands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
}

/// Keys that were made elsewhere.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// 10,000 at most: all of them, or none.
    pub keys: Vec<ImportedKey>,
}

/// A key that was made elsewhere.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedKey {
    /// Its public name; unique for ever.
    pub id: String,
    /// SHA-256 over its text, 64 hex digits.
    pub sha256: String,
    /// What it may be used for. Default production.
    #[serde(default)]
    pub r#type: Option<KeyType>,
    /// Refused from this instant on.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}

/// How many keys came along.
#[derive(Debug, Serialize, ToSchema)]
pub struct Imported {
    /// All of them.
    pub imported: usize,
}

/// A key that was revoked, and what was not done about it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Revoked {
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

/// Which keys are listed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Keys {
    /// Of this application only.
    pub application: Option<String>,
    /// Of this type only.
    #[param(inline)]
    pub r#type: Option<KeyType>,
    /// Begins after this id: `next` of the page before.
    pub after: Option<String>,
    /// How many items at most; 100 if it is not said, 1,000 at most.
    pub limit: Option<usize>,
}

fn missing(id: &str) -> Problem {
    Problem::NotFound(format!(
        "there is no key {}; GET /v1/keys lists those there are",
        quote(id)
    ))
}

/// Makes a key for an application and shows it, once; or takes in the hash of a key that was made elsewhere.
#[utoipa::path(post, path = "/v1/applications/{name}/keys", tag = "keys", request_body = NewKey,
    params(("name" = String, Path, description = "Which application.")),
    responses((status = 201, body = MadeKey)))]
pub(super) async fn create(node: Node, caller: Caller, Named(application): Named<String>, sent: Sent) -> Answer {
    caller.need(Scope::Keys)?;
    let new: NewKey = sent.json().await?;
    let now_ms = unix_ms();
    let mut mistakes = Vec::new();
    mistakes.extend(new.id.as_deref().and_then(|id| wrong_id(id).err()));
    mistakes.extend(wrong_expiry(new.expires, now_ms));
    let digest = new.sha256.as_deref().map(digest_of).transpose().unwrap_or_else(|why| {
        mistakes.push(why);
        None
    });
    if !mistakes.is_empty() {
        return Err(Problem::Refused(mistakes));
    }
    known_application(&node, &application).await?;
    let key_type = new.r#type.unwrap_or(KeyType::Production);
    let name = ApplicationName::from(application.as_str());
    let made = new_key(&name, key_type, new.id.as_deref().map(KeyId::from), new.expires).map_err(|error| {
        log::error!("the operating system's randomness: {error}");
        Problem::Internal
    })?;
    let entry = KeyEntry {
        hash: KeyHash::of_digest(&digest.unwrap_or(made.record.sha256)),
        id: made.record.id.as_str().to_owned(),
        application,
        key_type,
        expires_ms: new.expires.and_then(milliseconds),
    };
    let head = node
        .store
        .write_keys(&[KeyWrite::Create(entry.clone())], now_ms)
        .await?;
    node.heads.keys_written(head);
    let stored = StoredKey {
        entry,
        created_ms: now_ms,
        revoked_ms: None,
    };
    let shown = MadeKey {
        key: digest.is_none().then(|| made.text.reveal().to_owned()),
        record: KeyRecord::of(&stored),
    };
    let id = shown.record.id.clone();
    Ok(created(answer(StatusCode::CREATED, &shown), "/v1/keys", &id))
}

/// Takes in the hashes of keys that were made elsewhere: all of them, or none.
#[utoipa::path(post, path = "/v1/applications/{name}/keys:import", tag = "keys", request_body = Import,
    params(("name" = String, Path, description = "Which application.")),
    responses((status = 201, body = Imported)))]
pub(super) async fn import(node: Node, caller: Caller, Named(application): Named<String>, sent: Sent) -> Answer {
    caller.need(Scope::Keys)?;
    let Import { keys } = sent.json_of(KEYS).await?;
    if keys.is_empty() || keys.len() > MOST {
        return Err(Problem::BadRequest(format!(
            "\"keys\" has to have from 1 to {MOST} items, not {}",
            keys.len()
        )));
    }
    let now_ms = unix_ms();
    let mut mistakes = Vec::new();
    let mut writes = Vec::with_capacity(keys.len());
    for (position, key) in keys.into_iter().enumerate() {
        let digest = digest_of(&key.sha256);
        let wrong = [
            wrong_id(&key.id).err(),
            wrong_expiry(key.expires, now_ms),
            digest.as_ref().err().cloned(),
        ];
        mistakes.extend(
            wrong
                .into_iter()
                .flatten()
                .map(|why| format!("keys[{position}]: {why}")),
        );
        if let Ok(digest) = digest {
            writes.push(KeyWrite::Create(KeyEntry {
                hash: KeyHash::of_digest(&digest),
                id: key.id,
                application: application.clone(),
                key_type: key.r#type.unwrap_or(KeyType::Production),
                expires_ms: key.expires.and_then(milliseconds),
            }));
        }
    }
    if !mistakes.is_empty() {
        let more = mistakes.len().saturating_sub(TOLD);
        mistakes.truncate(TOLD);
        mistakes.extend((more > 0).then(|| format!("and {more} more")));
        return Err(Problem::Refused(mistakes));
    }
    known_application(&node, &application).await?;
    let head = node.store.write_keys(&writes, now_ms).await?;
    node.heads.keys_written(head);
    Ok(answer(StatusCode::CREATED, &Imported { imported: writes.len() }))
}

/// Lists keys in the order of their ids. Those that stand in published documents are not among them.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(Keys), responses((status = 200, body = List<KeyRecord>)))]
pub(super) async fn list(node: Node, caller: Caller, Asked(asked): Asked<Keys>) -> Answer {
    caller.need(Scope::Read)?;
    let limit = limit(asked.limit)?;
    let query = KeyQuery {
        application: asked.application,
        key_type: asked.r#type,
        after: asked.after,
        limit: limit + 1,
    };
    let keys: Vec<KeyRecord> = node.store.keys(&query).await?.iter().map(KeyRecord::of).collect();
    Ok(answer(StatusCode::OK, &List::of(keys, limit, |key| key.id.clone())))
}

/// Shows what is known of a key; never the key.
#[utoipa::path(get, path = "/v1/keys/{id}", tag = "keys",
    params(("id" = String, Path, description = "Which one.")),
    responses((status = 200, body = KeyRecord)))]
pub(super) async fn get(node: Node, caller: Caller, Named(id): Named<String>) -> Answer {
    caller.need(Scope::Read)?;
    if let Some(stored) = node.store.key_by_id(&id).await? {
        return Ok(answer(StatusCode::OK, &KeyRecord::of(&stored)));
    }
    let found = in_documents(&node, &id).await?;
    let Some((_, first)) = found.first() else {
        return Err(missing(&id));
    };
    let revoked = node.store.key_revoked(&first.hash).await?;
    let record = KeyRecord {
        application: first.application.clone(),
        r#type: first.key_type,
        expires: first.expires.clone(),
        created: None,
        revoked: revoked.map(instant),
        environments: found.iter().map(|(environment, _)| environment.clone()).collect(),
        id,
    };
    Ok(answer(StatusCode::OK, &record))
}

/// Revokes a key, for ever: gateways refuse it within a second or two.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys",
    params(("id" = String, Path, description = "Which one.")),
    responses(
        (status = 204, description = "It is revoked."),
        (status = 200, description = "It is revoked, but not every document could be searched for it", body = Revoked)))]
pub(super) async fn revoke(node: Node, caller: Caller, Named(id): Named<String>) -> Answer {
    caller.need(Scope::Keys)?;
    // What is certain comes first: nothing that may be wrong with a document keeps a key alive.
    let is_stored = node.store.key_by_id(&id).await?.is_some();
    if is_stored {
        write(&node, &[KeyWrite::RevokeId(id.clone())]).await?;
    }
    match revoke_in_documents(&node, &id).await {
        Ok(0) if !is_stored => Err(missing(&id)),
        Ok(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(problem) if is_stored => {
            log::error!(
                "key {id} is revoked, but the documents were not searched for another one of this id: {problem:?}"
            );
            let warning = format!(
                "the key {} is revoked; whether a published document has another key of this id could not be looked up, \
                 so try again",
                quote(&id)
            );
            Ok(answer(
                StatusCode::OK,
                &Revoked {
                    warnings: vec![warning],
                },
            ))
        }
        Err(problem) => Err(problem),
    }
}

/// The same id may be another key in a document. All of them are meant. Gives how many there are.
async fn revoke_in_documents(node: &Node, id: &str) -> Result<usize, Problem> {
    let mut writes: Vec<KeyWrite> = Vec::new();
    for (_, key) in in_documents(node, id).await? {
        let write = KeyWrite::RevokeHash(key.hash);
        if !writes.contains(&write) {
            writes.push(write);
        }
    }
    if !writes.is_empty() {
        write(node, &writes).await?;
    }
    Ok(writes.len())
}

async fn write(node: &Node, writes: &[KeyWrite]) -> Result<(), Problem> {
    let head = node.store.write_keys(writes, unix_ms()).await?;
    node.heads.keys_written(head);
    Ok(())
}

/// Keys of this id in the newest revisions, with their environments.
async fn in_documents(node: &Node, id: &str) -> Result<Vec<(String, KnownKey)>, Problem> {
    let mut found = Vec::new();
    for head in node.store.heads().await? {
        if let Some(key) = published::known(node, &head).await?.keys.get(id) {
            found.push((head.environment.clone(), key.clone()));
        }
    }
    Ok(found)
}

async fn known_application(node: &Node, name: &str) -> Result<(), Problem> {
    let authored = node.store.object(ObjectKind::Application, name).await?.is_some();
    if authored || is_known(node, name).await? {
        Ok(())
    } else {
        Err(super::application::missing(name))
    }
}

/// Whether an application is in the newest revision of an environment.
pub(super) async fn is_known(node: &Node, application: &str) -> Result<bool, Problem> {
    for head in node.store.heads().await? {
        let known = published::known(node, &head).await?;
        if known.applications.iter().any(|name| name == application) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl KeyRecord {
    fn of(stored: &StoredKey) -> Self {
        Self {
            id: stored.entry.id.clone(),
            application: stored.entry.application.clone(),
            r#type: stored.entry.key_type,
            expires: stored.entry.expires_ms.map(instant),
            created: Some(instant(stored.created_ms)),
            revoked: stored.revoked_ms.map(instant),
            environments: Vec::new(),
        }
    }
}

fn wrong_id(id: &str) -> Result<(), String> {
    Name::read(id)
        .map(drop)
        .map_err(|why| format!("the id of a key: {why}"))
}

fn wrong_expiry(expires: Option<Timestamp>, now_ms: u64) -> Option<String> {
    let expires = expires?;
    let past = milliseconds(expires).is_none_or(|expires| expires <= now_ms);
    past.then(|| format!("\"expires\" {expires} is not in the future"))
}

fn digest_of(text: &str) -> Result<[u8; 32], String> {
    // The text is not repeated: it may be the key itself.
    let wrong = |_| "\"sha256\" has to be the 64 hex digits of the key's SHA-256, and not the key".to_owned();
    text.parse::<ContentHash>().map(|hash| hash.0).map_err(wrong)
}

fn milliseconds(instant: Timestamp) -> Option<u64> {
    u64::try_from(instant.as_millisecond()).ok()
}

/// Unix milliseconds as RFC 3339.
pub(super) fn instant(ms: u64) -> String {
    let instant = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    instant.unwrap_or(Timestamp::MAX).to_string()
}
