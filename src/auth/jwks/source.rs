//! Where a key set is read from again and again: a URL or a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, CACHE_CONTROL, HeaderMap};
use reqwest::{Client, Response, Url, redirect};
use tokio::io::AsyncReadExt;

use super::document::{self, Document, DocumentError, MAX_BYTES};

/// A source that can change.
#[derive(Debug)]
pub(super) enum Source {
    Url(String),
    File { path: PathBuf, seen: Option<Stamp> },
}

/// What reading a source gave.
pub(super) enum Loaded {
    /// A file that did not change since it was read.
    Unchanged,
    /// A document, what it was read from, and for how long its sender says that it is fresh.
    Document {
        document: Document,
        text: Vec<u8>,
        fresh_for: Option<Duration>,
    },
}

/// Why a source could not be read. The texts name no credentials: URLs are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourceError {
    Client(String),
    Timeout,
    Transport(String),
    Status(u16),
    Io(String),
    Document(DocumentError),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(text) => write!(f, "no HTTP client: {text}"),
            Self::Timeout => write!(f, "no answer in time ({} s)", TOTAL_TIMEOUT.as_secs()),
            Self::Transport(text) | Self::Io(text) => f.write_str(text),
            Self::Status(status) => write!(f, "the answer's status is {status}, not 200"),
            Self::Document(error) => error.fmt(f),
        }
    }
}

impl Source {
    /// Reads the source once.
    pub(super) async fn load(&mut self, http: &Http) -> Result<Loaded, SourceError> {
        match self {
            Self::Url(url) => {
                let (text, fresh_for) = fetch(http.client()?, url).await?;
                loaded(text, fresh_for)
            }
            Self::File { path, seen } => {
                let stamp = Stamp::of(&tokio::fs::metadata(&*path).await.map_err(io)?)?;
                if seen.as_ref() == Some(&stamp) {
                    return Ok(Loaded::Unchanged);
                }
                let mut text = Vec::new();
                let file = tokio::fs::File::open(&*path).await.map_err(io)?;
                file.take(MAX_BYTES as u64 + 1)
                    .read_to_end(&mut text)
                    .await
                    .map_err(io)?;
                // Set only when the file was good: a half-written one is read again even if its stamp stays.
                let loaded = loaded(text, None)?;
                *seen = Some(stamp);
                Ok(loaded)
            }
        }
    }

    /// Whether it costs nothing to look at it often.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }
}

/// Reads a file at once, so that a gateway knows its keys before the first request.
pub(super) fn read_now(path: &Path) -> Result<Loaded, SourceError> {
    use std::io::Read;

    Stamp::of(&std::fs::metadata(path).map_err(io)?)?;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut text).map_err(io)?;
    loaded(text, None)
}

/// A URL that may stand in logs: without user, password, query and fragment.
pub(super) fn label(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return "(not a URL)".to_owned();
    };
    // Fails only for URLs that cannot have a user, which then have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// What tells a changed file from an unchanged one without reading it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// A file that was replaced by renaming has another inode, even within the clock's resolution.
    inode: u64,
}

impl Stamp {
    /// A pipe or a device is refused: opening or reading one can take for ever.
    fn of(metadata: &std::fs::Metadata) -> Result<Self, SourceError> {
        use std::os::unix::fs::MetadataExt;
        if !metadata.is_file() {
            return Err(SourceError::Io("not a regular file".to_owned()));
        }
        Ok(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

/// The one HTTP client of all key sets, made when the first of them needs it.
#[derive(Debug, Default)]
pub(super) struct Http(OnceLock<Result<Client, String>>);

impl Http {
    fn client(&self) -> Result<&Client, SourceError> {
        let made = self.0.get_or_init(|| {
            Client::builder()
                .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(TOTAL_TIMEOUT)
                .redirect(redirect::Policy::custom(follow))
                .build()
                .map_err(|error| chain(&error))
        });
        made.as_ref().map_err(|text| SourceError::Client(text.clone()))
    }
}

/// A few redirects, and never to another scheme: `https` must not become `http`, or the keys are anybody's.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let same_scheme = attempt
        .previous()
        .first()
        .is_some_and(|first| first.scheme() == attempt.url().scheme());
    if !same_scheme {
        attempt.error("redirected to another scheme")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("redirected too often")
    } else {
        attempt.follow()
    }
}

async fn fetch(client: &Client, url: &str) -> Result<(Vec<u8>, Option<Duration>), SourceError> {
    let mut response = client
        .get(url)
        .header(ACCEPT, "application/json")
        .send()
        .await
        .map_err(transport)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(SourceError::Status(response.status().as_u16()));
    }
    let fresh_for = max_age(response.headers());
    let body = read_body(&mut response).await?;
    Ok((body, fresh_for))
}

async fn read_body(response: &mut Response) -> Result<Vec<u8>, SourceError> {
    let too_large = SourceError::Document(DocumentError::TooLarge);
    if response
        .content_length()
        .is_some_and(|length| length > MAX_BYTES as u64)
    {
        return Err(too_large);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(too_large);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `max-age` of `Cache-Control`, if there is one.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|directive| directive.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("max-age"))
        .and_then(|(_, seconds)| seconds.trim_matches('"').parse().ok())
        .map(Duration::from_secs)
}

fn loaded(text: Vec<u8>, fresh_for: Option<Duration>) -> Result<Loaded, SourceError> {
    let document = document::parse(&text).map_err(SourceError::Document)?;
    Ok(Loaded::Document {
        document,
        text,
        fresh_for,
    })
}

fn transport(error: reqwest::Error) -> SourceError {
    if error.is_timeout() {
        SourceError::Timeout
    } else {
        SourceError::Transport(chain(&error.without_url()))
    }
}

#[allow(clippy::needless_pass_by_value)] // fits `map_err`
fn io(error: std::io::Error) -> SourceError {
    SourceError::Io(error.to_string())
}

/// An error and what caused it: the first alone is often only "error sending request".
pub(in crate::auth) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REDIRECTS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_in_the_log_shows_no_password_and_no_query() {
        assert_eq!(
            label("https://user:secret@idp.example/jwks?token=secret#x"),
            "https://idp.example/jwks"
        );
        assert_eq!(label("not a url, secret"), "(not a URL)");
    }

    #[test]
    fn max_age_is_found_among_other_directives() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, text.parse().unwrap());
            max_age(&headers)
        };
        assert_eq!(
            of("public, Max-Age=300, must-revalidate"),
            Some(Duration::from_secs(300))
        );
        assert_eq!(of("max-age=\"60\""), Some(Duration::from_secs(60)));
        for text in [
            "no-store",
            "max-age",
            "max-age=",
            "max-age=-1",
            "s-maxage=5",
            "max-age=1.5",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
