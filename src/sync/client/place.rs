//! Where a control plane is; and a directory in its place.

use std::path::{Component, Path, PathBuf};

use reqwest::Method;
use tokio::io::AsyncReadExt;

use super::{Answer, ClientError};

/// Where a control plane is.
pub(super) enum Place {
    /// The URL without a slash at the end.
    Http(String),
    /// Has files where a control plane has paths.
    Directory(PathBuf),
}

impl Place {
    pub(super) fn of(url: &str) -> Self {
        match url.strip_prefix("file://") {
            Some(directory) => Self::Directory(PathBuf::from(decoded(directory))),
            None => Self::Http(url.trim_end_matches('/').to_owned()),
        }
    }
}

/// A name as a segment of a path.
#[must_use]
pub fn segment(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The text that [`segment`] was made of.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match (
            first,
            tail.split_at_checked(2).map(|(digits, after)| (hex(digits), after)),
        ) {
            (b'%', Some((Some(byte), after))) => {
                bytes.push(byte);
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a directory answers. It has files where a control plane has paths.
pub(super) async fn read(directory: &Path, method: &Method, path: &str, most: u64) -> Result<Answer, ClientError> {
    let answer = |status, body: Vec<u8>| Answer {
        status,
        body: body.into(),
        retry_after: None,
    };
    let path = path.split('?').next().unwrap_or_default();
    let mut file = directory.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let part = decoded(part);
        // One step down and nowhere else.
        let mut steps = Path::new(&part).components();
        match (steps.next(), steps.next()) {
            (Some(Component::Normal(_)), None) => file.push(part),
            _ => return Ok(answer(404, Vec::new())),
        }
    }
    if method != Method::GET || !tokio::fs::metadata(&file).await.is_ok_and(|found| found.is_file()) {
        return if tokio::fs::metadata(directory).await.is_ok_and(|found| found.is_dir()) {
            Ok(answer(404, Vec::new()))
        } else {
            let message = format!("{}: there is no such directory", directory.display());
            Err(ClientError::Unreachable(message))
        };
    }
    let failed = |error: std::io::Error| ClientError::Unreachable(format!("{}: {error}", file.display()));
    let mut body = Vec::new();
    let opened = tokio::fs::File::open(&file).await.map_err(failed)?;
    opened
        .take(most.saturating_add(1))
        .read_to_end(&mut body)
        .await
        .map_err(failed)?;
    if body.len() as u64 > most {
        return Err(ClientError::TooLarge { most });
    }
    Ok(answer(200, body))
}
