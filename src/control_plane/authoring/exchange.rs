//! What all nouns have in common: reading bodies, queries and preconditions, and answering with versions and pages.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control_plane::access::Caller;
use crate::control_plane::plane::Plane;
use crate::control_plane::problem::Problem;
use crate::control_plane::publish::{Order, Published};
use crate::document::{Grammar, Name};

/// What a body may have, in bytes.
const SMALL: usize = 1 << 20;
/// What a body with ten thousand keys may have.
pub(super) const KEYS: usize = 8 << 20;
/// What a body with a document may have.
const DOCUMENT: usize = 64 << 20;

/// How long a small body may take.
const SOON: Duration = Duration::from_secs(30);
/// How long a large one may take, and how long it waits until it is read.
const LATE: Duration = Duration::from_secs(120);

/// The longest note.
const NOTE: usize = 4096;

/// How many items a page has unless the question says otherwise, and at most.
const PAGE: usize = 100;
const MOST: usize = 1000;

/// What a handler answers.
pub(super) type Answer = Result<Response, Problem>;

/// A body that nobody has read yet: it is read when it is clear that its sender may send it.
pub(super) struct Sent(Body);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        Ok(Self(request.into_body()))
    }
}

impl Sent {
    /// A body of at most 1 MiB.
    pub(super) async fn json<T: DeserializeOwned>(self) -> Result<T, Problem> {
        self.json_of(SMALL).await
    }

    /// A body of at most so many bytes.
    pub(super) async fn json_of<T: DeserializeOwned>(self, most: usize) -> Result<T, Problem> {
        parse(&self.read(most, SOON).await?)
    }

    /// A body with a document in it, and leave to check it: few are read and checked at the same time.
    pub(super) async fn document<T: DeserializeOwned>(
        self,
        plane: &Plane,
    ) -> Result<(T, tokio::sync::SemaphorePermit<'_>), Problem> {
        let leave = tokio::time::timeout(LATE, plane.authoring.documents.acquire()).await;
        let Ok(Ok(leave)) = leave else {
            return Err(Problem::Busy { retry_after_ms: 5000 });
        };
        let bytes = self.read(DOCUMENT, LATE).await?;
        Ok((parse(&bytes)?, leave))
    }

    async fn read(self, most: usize, within: Duration) -> Result<Vec<u8>, Problem> {
        let too_slow = || Problem::BadRequest(format!("the body did not come within {} s", within.as_secs()));
        tokio::time::timeout(within, read(self.0, most))
            .await
            .map_err(|_| too_slow())?
    }
}

async fn read(body: Body, most: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| Problem::BadRequest("the body ended before its end".to_owned()))?;
        if bytes.len() + chunk.len() > most {
            return Err(Problem::TooLarge(format!(
                "the body may have {} MiB at most",
                most >> 20
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.is_empty() {
        return Err(Problem::BadRequest("the body is empty; it has to be JSON".to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|error| Problem::BadRequest(format!("the body: {error}")))
}

/// The parts of a path.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(named)) => Ok(Self(named)),
            Err(rejection) => Err(Problem::NotFound(format!(
                "there is no such path: {}",
                rejection.body_text()
            ))),
        }
    }
}

/// The query of a request.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(Problem::BadRequest(rejection.body_text())),
        }
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Begins after this: `next` of the page before.
    pub after: Option<String>,
    /// How many items at most; 100 if it is not said, 1,000 at most.
    pub limit: Option<usize>,
}

impl Page {
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        limit(self.limit)
    }
}

pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked {
        None => Ok(PAGE),
        Some(limit @ 1..=MOST) => Ok(limit),
        Some(limit) => Err(Problem::BadRequest(format!(
            "limit has to be from 1 to {MOST}, not {limit}"
        ))),
    }
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// In order.
    pub items: Vec<T>,
    /// What `after` has to be for the next part; absent if this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> List<T> {
    /// Of one item more than was asked for, to know whether there are more.
    pub(super) fn of(mut items: Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(name);
        Self { items, next }
    }
}

/// An object after it was written, and what followed from that.
#[derive(Debug, Serialize, ToSchema)]
pub struct Written<T> {
    /// The object.
    #[serde(flatten)]
    pub object: T,
    /// What environments have become.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// What somebody should look at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `If-Match` and `If-None-Match`.
#[derive(Debug, Clone, Default)]
pub(super) struct Preconditions {
    matches: Option<String>,
    matches_none: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Preconditions {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self {
            matches: list_of(&parts.headers, header::IF_MATCH)?,
            matches_none: list_of(&parts.headers, header::IF_NONE_MATCH)?,
        })
    }
}

/// All fields of a name as one list.
fn list_of(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<String>, Problem> {
    let mut list: Option<String> = None;
    for field in headers.get_all(&name) {
        let text = field
            .to_str()
            .map_err(|_| Problem::BadRequest(format!("{name} is not ASCII")))?;
        match &mut list {
            Some(list) => {
                list.push(',');
                list.push_str(text);
            }
            None => list = Some(text.to_owned()),
        }
    }
    Ok(list)
}

impl Preconditions {
    /// Whether the version that is there, if any, is one that the caller wants to change.
    pub(super) fn check(&self, version: Option<u64>, what: &str) -> Result<(), Problem> {
        let named = |list: &str| {
            let tag = version.map(etag);
            list.split(',')
                .map(str::trim)
                .any(|one| one == "*" && version.is_some() || tag.as_deref() == Some(one))
        };
        if self.matches.as_deref().is_some_and(|list| !named(list)) {
            let is = version.map_or("it is not there".to_owned(), |version| {
                format!("it is now {}", etag(version))
            });
            return Err(Problem::PreconditionFailed(format!(
                "{what} is not the version that If-Match names; {is}"
            )));
        }
        if self.matches_none.as_deref().is_some_and(named) {
            return Err(Problem::PreconditionFailed(format!("{what} is there already")));
        }
        Ok(())
    }
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// An object with its version.
pub(super) fn object(status: StatusCode, version: Option<u64>, object: &impl Serialize) -> Response {
    let mut answer = (status, Json(object)).into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(tag) = version.and_then(|version| HeaderValue::from_str(&etag(version)).ok()) {
        headers.insert(header::ETAG, tag);
    }
    answer
}

/// Something without a version.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    object(status, None, value)
}

/// Where a new object is: `/v1/plans/` and its name.
pub(super) fn created(mut answer: Response, list: &str, name: &str) -> Response {
    let location = format!("{list}/{}", encoded(name));
    if let Ok(location) = HeaderValue::from_str(&location) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    answer
}

/// A name as a segment of a path.
pub(super) fn encoded(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A text that may be null, which is the same as empty.
pub(super) fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A name in the grammar of documents.
pub(super) fn name(what: &str, text: &str) -> Result<(), Problem> {
    match Name::read(text) {
        Ok(_) => Ok(()),
        Err(why) => Err(Problem::BadRequest(format!("the name of {what}: {why}"))),
    }
}

/// The name in a body, if it is there, has to be the one in the path.
pub(super) fn same_name(path: &str, body: &str) -> Result<(), Problem> {
    if body.is_empty() || body == path {
        Ok(())
    } else {
        Err(Problem::BadRequest(format!(
            "the path names \"{path}\" and the body \"{body}\"; names do not change"
        )))
    }
}

pub(super) fn bounded(what: &str, text: &str) -> Result<(), Problem> {
    if text.len() <= NOTE {
        Ok(())
    } else {
        Err(Problem::BadRequest(format!(
            "{what} may have {NOTE} bytes at most, not {}",
            text.len()
        )))
    }
}

/// A change by this caller.
pub(super) fn order(caller: &Caller, note: &str) -> Result<Order, Problem> {
    bounded("a note", note)?;
    Ok(Order {
        author: caller.id.to_string(),
        note: note.to_owned(),
        dry_run: false,
        diff: false,
    })
}

/// What every handler works with.
pub(super) type Node = axum::extract::State<Arc<Plane>>;
