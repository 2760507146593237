//! Asking a control plane, wherever it is: over HTTP, at one of several addresses, or in a directory.
//!
//! The address that answered last is asked first. When it does not work, the next one is asked at once, once around.
//! Nothing is read beyond the bound that the caller gives, whatever an answer says of its length.

mod place;

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::ControlPlane;
use crate::distribution::{BlobRef, ContentHash};
pub use place::segment;
use place::{Place, read};

/// Until a connection stands, TLS included: the next address is tried after it.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest silence inside an answer's body.
const SILENCE: Duration = Duration::from_secs(30);

/// An answer to what is posted is short.
const ANSWER_MOST: u64 = 1 << 20;

/// How often a blob is asked for while the control plane says "later", and how long "later" may be.
const BLOB_TRIES: u32 = 12;
const LATEST: Duration = Duration::from_secs(300);

/// "Later" without a time.
const LATER: Duration = Duration::from_secs(1);

/// Beside the time for connecting, a blob may take as long as it takes at this speed, in bytes per second.
const SLOWEST: u64 = 64 * 1024;

/// In milliseconds and preferred to `Retry-After`, whose seconds are too coarse to spread a thousand gateways.
const RETRY_AFTER_MS: &str = "tollgate-retry-after-ms";

/// A control plane. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    places: Vec<Place>,
    authorization: Option<HeaderValue>,
    /// The place that is asked first.
    first: AtomicUsize,
}

/// What was answered. Every status is an answer, except a 5xx that another address may not give.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status; a directory knows 200 and 404.
    pub status: u16,
    /// The body, within the bound.
    pub body: Bytes,
    /// When to come back, if that was said.
    pub retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// No address could be reached; says why for the last one.
    Unreachable(String),
    /// An answer of another kind than was asked for.
    Status(u16),
    /// More than the caller takes.
    TooLarge {
        /// What the caller takes, in bytes.
        most: u64,
    },
    /// Not the bytes that were asked for.
    Hash,
    /// Nothing that can be read; says what.
    Malformed(String),
}

impl Client {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the certificates can not be read, or the token can not be sent.
    pub fn new(settings: &ControlPlane) -> Result<Self, String> {
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .tcp_keepalive(Duration::from_secs(15))
            .pool_max_idle_per_host(4)
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none());
        if let Some(ca) = &settings.ca {
            let told = |error: &dyn fmt::Display| format!("\"ca\": {}: {error}", ca.display());
            let pem = std::fs::read(ca).map_err(|error| told(&error))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| told(&error))?;
            if certificates.is_empty() {
                return Err(told(&"there is no certificate in it"));
            }
            http = http.tls_certs_only(certificates);
        }
        let authorization = settings.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                .map_err(|_| "\"token\" can not be sent in a header".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        Ok(Self(Arc::new(Inner {
            http: http.build().map_err(|error| chain(&error))?,
            places: settings.urls.iter().map(|url| Place::of(url)).collect(),
            authorization: authorization.transpose()?,
            first: AtomicUsize::new(0),
        })))
    }

    /// Asks for a path, which may have a query. The body may have `most` bytes, and everything may take as long as
    /// `patience` at each address.
    ///
    /// # Errors
    /// When no address gives an answer, or one that is too large.
    pub async fn get(&self, path: &str, most: u64, patience: Duration) -> Result<Answer, ClientError> {
        let ask = |place| self.ask(place, Method::GET, path, None, (most, patience));
        self.around(ask, |answer| !answer.is_failure()).await
    }

    /// Sends something.
    ///
    /// # Errors
    /// When no address gives an answer.
    pub async fn post<T: Serialize + Sync>(
        &self,
        path: &str,
        body: &T,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Malformed(error.to_string()))?;
        let body = Bytes::from(body);
        let ask = |place| self.ask(place, Method::POST, path, Some(body.clone()), (ANSWER_MOST, patience));
        self.around(ask, Answer::is_of_control_plane).await
    }

    /// Removes something.
    ///
    /// # Errors
    /// When no address gives an answer.
    pub async fn delete(&self, path: &str, patience: Duration) -> Result<Answer, ClientError> {
        let ask = |place| self.ask(place, Method::DELETE, path, None, (ANSWER_MOST, patience));
        self.around(ask, Answer::is_of_control_plane).await
    }

    /// An immutable blob of at most `most` bytes. Comes back as often, within bounds, and when it is told to; asks
    /// elsewhere when the bytes are others.
    ///
    /// # Errors
    /// When it is larger, not to be had, or another one at every address. Nothing is asked if it is announced larger.
    pub async fn blob(&self, blob: &BlobRef, most: u64) -> Result<Vec<u8>, ClientError> {
        if blob.size > most {
            return Err(ClientError::TooLarge { most });
        }
        let path = format!("/v1/blobs/{}", blob.sha256);
        let patience = CONNECT + SILENCE + Duration::from_secs(blob.size / SLOWEST);
        let (mut wrong, mut waits) = (0, 0);
        loop {
            let answer = self.get(&path, blob.size, patience).await;
            let problem = match answer {
                Ok(answer) if answer.status == 200 => {
                    if answer.body.len() as u64 == blob.size && ContentHash::of(&answer.body) == blob.sha256 {
                        return Ok(answer.body.into());
                    }
                    ClientError::Hash
                }
                Ok(answer) if matches!(answer.status, 429 | 503) && waits < BLOB_TRIES => {
                    waits += 1;
                    let told = answer.retry_after.unwrap_or(LATER).min(LATEST);
                    tokio::time::sleep(told.mul_f64(jitter(1.0..1.1))).await;
                    continue;
                }
                Ok(answer) => ClientError::Status(answer.status),
                // It is longer than announced, so it is another one.
                Err(ClientError::TooLarge { .. }) => ClientError::Hash,
                Err(error) => return Err(error),
            };
            wrong += 1;
            if wrong >= self.0.places.len() {
                return Err(problem);
            }
            self.turn();
        }
    }

    /// From now on the next address is asked first. For who got an answer that is of no use.
    pub fn turn(&self) {
        self.0.first.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this is a directory, or several: nobody is there who counts gateways.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.0.places.iter().all(|place| matches!(place, Place::Directory(_)))
    }

    /// One address after the other, from the one that worked last, until there is an answer that will do. If there is
    /// none, the one that says most.
    async fn around<'a, F, A>(&'a self, ask: F, will_do: impl Fn(&Answer) -> bool) -> Result<Answer, ClientError>
    where
        F: Fn(&'a Place) -> A,
        A: Future<Output = Result<Answer, ClientError>>,
    {
        // A failure of somebody who is there, then nobody, then a server that is no control plane: that there are no pools
        // is known only if all say so.
        let weight = |found: &Result<Answer, ClientError>| match found {
            Ok(answer) if answer.is_failure() => 2,
            Err(_) => 1,
            Ok(_) => 0,
        };
        let count = self.0.places.len();
        let first = self.0.first.load(Ordering::Relaxed);
        let mut best: Option<Result<Answer, ClientError>> = None;
        for turn in 0..count {
            let at = first.wrapping_add(turn) % count;
            let Some(place) = self.0.places.get(at) else { break };
            match ask(place).await {
                Ok(answer) if will_do(&answer) => {
                    self.0.first.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error @ (ClientError::TooLarge { .. } | ClientError::Malformed(_))) => return Err(error),
                found => {
                    if best.as_ref().is_none_or(|best| weight(&found) > weight(best)) {
                        best = Some(found);
                    }
                }
            }
        }
        best.unwrap_or_else(|| Err(ClientError::Unreachable("there is no address".to_owned())))
    }

    async fn ask(
        &self,
        place: &Place,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        (most, patience): (u64, Duration),
    ) -> Result<Answer, ClientError> {
        let base = match place {
            Place::Http(base) => base,
            Place::Directory(directory) => return read(directory, &method, path, most).await,
        };
        let exchange = async {
            let mut request = self.0.http.request(method, format!("{base}{path}"));
            if let Some(token) = &self.0.authorization {
                request = request.header(AUTHORIZATION, token.clone());
            }
            if let Some(body) = body {
                request = request.header(CONTENT_TYPE, "application/json").body(body);
            }
            let response = request.send().await.map_err(|error| unreachable(base, &error))?;
            let status = response.status().as_u16();
            let retry_after = retry_after(response.headers());
            let body = bounded(base, response, most).await?;
            Ok(Answer {
                status,
                body,
                retry_after,
            })
        };
        tokio::time::timeout(patience, exchange).await.unwrap_or_else(|_| {
            let message = format!("{base}: no answer within {} s", patience.as_secs());
            Err(ClientError::Unreachable(message))
        })
    }
}

impl Answer {
    /// Reads the body.
    ///
    /// # Errors
    /// When it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Malformed(error.to_string()))
    }

    /// Whether something that takes orders has answered. A plain web server and a directory have only files, and say so
    /// without a code.
    #[must_use]
    pub fn is_of_control_plane(&self) -> bool {
        let is_plain = matches!(self.status, 404 | 405 | 501) && self.code().is_none();
        !is_plain && !self.is_failure()
    }

    /// The code of a problem document, if this is one.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Problem {
            code: String,
        }
        self.json::<Problem>().ok().map(|problem| problem.code)
    }

    /// Whether another address may do better. An appointment (503 and when to come back) is kept with who gave it.
    fn is_failure(&self) -> bool {
        self.status >= 500 && self.status != 501 && !(self.status == 503 && self.retry_after.is_some())
    }
}

/// A random factor from a range, so that gateways do not do the same at the same time.
pub(super) fn jitter(range: Range<f64>) -> f64 {
    rand::rng().random_range(range)
}

/// A body, read no further than it may be long.
async fn bounded(base: &str, mut response: reqwest::Response, most: u64) -> Result<Bytes, ClientError> {
    if response.content_length().is_some_and(|length| length > most) {
        return Err(ClientError::TooLarge { most });
    }
    let mut body = Vec::new();
    loop {
        let chunk = tokio::time::timeout(SILENCE, response.chunk()).await;
        let chunk = chunk
            .map_err(|_| ClientError::Unreachable(format!("{base}: silence in the middle of an answer")))?
            .map_err(|error| unreachable(base, &error))?;
        let Some(chunk) = chunk else { return Ok(body.into()) };
        if (body.len() + chunk.len()) as u64 > most {
            return Err(ClientError::TooLarge { most });
        }
        body.extend_from_slice(&chunk);
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse().ok();
    number(RETRY_AFTER_MS)
        .map(Duration::from_millis)
        .or_else(|| number(RETRY_AFTER.as_str()).map(Duration::from_secs))
}

fn unreachable(base: &str, error: &reqwest::Error) -> ClientError {
    ClientError::Unreachable(format!("{base}: {}", chain(error)))
}

/// An error and what caused it: the first alone is often only "error sending request". URLs have no secrets in them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => f.write_str(why),
            Self::Status(401 | 403) => f.write_str("the control plane does not take the \"token\""),
            Self::Status(status) => write!(f, "the control plane answers {status}"),
            Self::TooLarge { most } => write!(f, "the answer is larger than {most} bytes"),
            Self::Hash => f.write_str("its bytes are not those that were asked for"),
            Self::Malformed(how) => write!(f, "the answer can not be read: {how}"),
        }
    }
}

impl std::error::Error for ClientError {}

#[cfg(test)]
mod tests;
