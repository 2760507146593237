//! `/v1/tokens`: who may do what. A token can give, and take away, only what it has itself.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::exchange::{Answer, Asked, List, Named, Node, Page, Sent};
use super::exchange::{answer, bounded, created, or_empty};
use super::key::instant;
use crate::clock::unix_ms;
use crate::control_plane::access::{Caller, Scope, TokenRecord};
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::stored;
use crate::control_plane::store::{Changes, Expected, Object, ObjectChange, ObjectKind, StoreError};
use crate::document::{Grammar, Name, quote};

/// How many environments or roles a token may name.
const MOST: usize = 100;
/// How often a revocation is tried that others get in the way of.
const ATTEMPTS: usize = 5;
/// How many tokens are read at a time.
const PAGE: usize = 1000;

/// A token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for.
    #[serde(default, deserialize_with = "or_empty")]
    pub note: String,
    /// Its rights: some of those of its maker.
    pub scopes: Vec<Scope>,
    /// What it may publish to and fetch from; empty is every environment.
    #[serde(default)]
    pub environments: Vec<String>,
    /// The roles of who holds it. Absent: those of its maker. Others only an administrator can give.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
    /// Refused from this instant on. Absent: as its maker.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
}

/// A token after it was made: the only time that it is shown.
#[derive(Serialize, ToSchema)]
pub struct MadeToken {
    /// The token. Nobody can show it again.
    pub token: String,
    /// What is known of it.
    #[serde(flatten)]
    pub record: TokenView,
}

/// What is known of a token.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenView {
    /// Its public id: the author of what was changed with it.
    pub id: String,
    /// What it is for.
    pub note: String,
    /// Its rights.
    pub scopes: Vec<Scope>,
    /// What it may publish to and fetch from; empty is every environment.
    pub environments: Vec<String>,
    /// The roles of who holds it.
    pub roles: Vec<String>,
    /// Refused from this instant on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl TokenView {
    fn of(id: &str, record: TokenRecord) -> Self {
        Self {
            id: id.to_owned(),
            note: record.note,
            scopes: record.scopes,
            environments: record.environments,
            roles: record.roles,
            expires: record.expires_ms.map(instant),
        }
    }
}

/// Lists tokens in the order of their ids; never the tokens.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", params(Page), responses((status = 200, body = List<TokenView>)))]
pub(super) async fn list(node: Node, caller: Caller, Asked(page): Asked<Page>) -> Answer {
    caller.need(Scope::Read)?;
    let limit = page.limit()?;
    let objects = node
        .store
        .objects(ObjectKind::Token, page.after.as_deref(), limit + 1)
        .await?;
    let view = |found: &Object| stored(found).map(|record| TokenView::of(&found.name, record));
    let tokens = objects.iter().map(view).collect::<Result<Vec<_>, _>>()?;
    Ok(answer(
        StatusCode::OK,
        &List::of(tokens, limit, |token| token.id.clone()),
    ))
}

/// Makes a token and shows it, once.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, body = MadeToken)))]
pub(super) async fn create(node: Node, caller: Caller, sent: Sent) -> Answer {
    caller.need(Scope::Tokens)?;
    let new: NewToken = sent.json().await?;
    let now_ms = unix_ms();
    bounded("a note", &new.note)?;
    refuse_odd(&new, now_ms)?;
    let roles = roles(&caller, new.roles)?;
    may_give(&caller, &new.scopes, &new.environments)?;
    let asked = new
        .expires
        .and_then(|expires| u64::try_from(expires.as_millisecond()).ok());
    let expires_ms = match (asked, caller.expires_ms()) {
        (Some(asked), Some(own)) if asked > own => {
            return Err(Problem::Forbidden(format!(
                "a token can not outlive the one that makes it, which expires at {}",
                instant(own)
            )));
        }
        (asked, own) => asked.or(own),
    };
    let record = TokenRecord {
        sha256: String::new(),
        note: new.note,
        scopes: new.scopes,
        environments: new.environments,
        roles,
        expires_ms,
    };
    let stored = record.clone();
    let (id, text) = node.tokens.create(|sha256| TokenRecord { sha256, ..stored }).await?;
    let made = MadeToken {
        token: text.expose().to_owned(),
        record: TokenView::of(&id, record),
    };
    Ok(created(answer(StatusCode::CREATED, &made), "/v1/tokens", &id))
}

fn refuse_odd(new: &NewToken, now_ms: u64) -> Result<(), Problem> {
    let mut mistakes = Vec::new();
    if new.scopes.is_empty() {
        mistakes.push("\"scopes\" is empty; a token without rights is none".to_owned());
    }
    let roles = new.roles.as_deref().unwrap_or_default();
    for (member, names) in [("environments", new.environments.as_slice()), ("roles", roles)] {
        if names.len() > MOST {
            mistakes.push(format!(
                "\"{member}\" may have {MOST} items at most, not {}",
                names.len()
            ));
            continue;
        }
        mistakes.extend(
            names
                .iter()
                .filter_map(|name| Name::read(name).err())
                .map(|why| format!("{member}: {why}")),
        );
    }
    if let Some(expires) = new.expires
        && u64::try_from(expires.as_millisecond()).unwrap_or(0) <= now_ms
    {
        mistakes.push(format!("\"expires\" {expires} is not in the future"));
    }
    if mistakes.is_empty() {
        Ok(())
    } else {
        Err(Problem::Refused(mistakes))
    }
}

/// Roles open environments and close them: who is not an administrator can neither add nor drop one.
fn roles(caller: &Caller, asked: Option<Vec<String>>) -> Result<Vec<String>, Problem> {
    let own = || caller.roles().to_vec();
    let Some(asked) = asked else { return Ok(own()) };
    let same = asked.iter().all(|role| caller.roles().contains(role))
        && caller.roles().iter().all(|role| asked.contains(role));
    if same || caller.may(Scope::Admin) {
        Ok(asked)
    } else {
        Err(Problem::Forbidden(
            "a token gives exactly the roles that it has; leave \"roles\" out".to_owned(),
        ))
    }
}

/// Whether these rights are among those of the caller.
fn may_give(caller: &Caller, scopes: &[Scope], environments: &[String]) -> Result<(), Problem> {
    for scope in scopes {
        if !caller.may(*scope) {
            return Err(Problem::Forbidden(format!(
                "a token gives and takes only rights that it has; this one has not {scope}"
            )));
        }
    }
    let own = caller.environments();
    let inside = environments.iter().all(|environment| own.contains(environment)) && !environments.is_empty();
    if own.is_empty() || inside {
        Ok(())
    } else {
        Err(Problem::Forbidden(format!(
            "this token is for the environments {} only, and gives and takes nothing beyond",
            own.join(", ")
        )))
    }
}

/// Revokes a token. The last one with all rights stays.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Which one.")),
    responses((status = 204, description = "It is revoked.")))]
pub(super) async fn revoke(node: Node, caller: Caller, Named(id): Named<String>) -> Answer {
    caller.need(Scope::Tokens)?;
    for _ in 0..ATTEMPTS {
        let found = node.store.object(ObjectKind::Token, &id).await?;
        let found = found.ok_or_else(|| Problem::NotFound(format!("there is no token {}", quote(&id))))?;
        let record: TokenRecord = stored(&found)?;
        may_give(&caller, &record.scopes, &record.environments)?;
        let mut objects = vec![ObjectChange {
            kind: ObjectKind::Token,
            name: id.clone(),
            expected: Expected::Version(found.version),
            value: None,
        }];
        if is_admin(&record, unix_ms()) {
            // The one that is left is written as it is: two that revoke each other at the same time then collide.
            let other = another_admin(&node, &id).await?.ok_or_else(|| {
                Problem::Conflict("this is the last token with the scope admin; make another one first".to_owned())
            })?;
            objects.push(ObjectChange {
                kind: ObjectKind::Token,
                name: other.name,
                expected: Expected::Version(other.version),
                value: Some(other.value),
            });
        }
        let changes = Changes {
            objects,
            ..Changes::default()
        };
        match node.store.commit(&changes, unix_ms()).await {
            Ok(_) => {
                node.tokens.forget();
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            Err(StoreError::Conflict(_) | StoreError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Problem::Conflict(
        "others change tokens at the same time; try again".to_owned(),
    ))
}

async fn another_admin(node: &Node, id: &str) -> Result<Option<Object>, Problem> {
    let mut after: Option<String> = None;
    let mut expiring = None;
    loop {
        let page = node.store.objects(ObjectKind::Token, after.as_deref(), PAGE).await?;
        let last = page.len() < PAGE;
        after = page.last().map(|token| token.name.clone());
        for token in page.into_iter().filter(|token| token.name != id) {
            let record: TokenRecord = stored(&token)?;
            match record.expires_ms {
                _ if !is_admin(&record, unix_ms()) => {}
                None => return Ok(Some(token)),
                Some(_) => expiring = Some(token),
            }
        }
        if last {
            return Ok(expiring);
        }
    }
}

fn is_admin(record: &TokenRecord, now_ms: u64) -> bool {
    record.scopes.contains(&Scope::Admin)
        && record.environments.is_empty()
        && record.expires_ms.is_none_or(|expires| expires > now_ms)
}
