//! The content of a manifest: from what is here already, from a delta, or from the whole snapshot.

use std::sync::Arc;
use std::time::Duration;

use super::Published;
use super::client::{Client, ClientError, segment};
use super::last_good::LastGood;
use super::verify::Refusal;
use crate::distribution::{Content, ContentError, Manifest};
use crate::telemetry::metrics::ControlPlaneMetrics;

/// How long a delta may take before the snapshot is fetched instead.
const DELTA: Duration = Duration::from_secs(15);

/// A content, and the snapshot that it came from, if it did.
pub type Fetched = (Content, Option<Vec<u8>>);

/// Where contents come from.
pub struct Sources<'a> {
    /// The control plane.
    pub client: &'a Client,
    /// What is on disk.
    pub last_good: Arc<LastGood>,
    /// What runs.
    pub running: Option<Arc<Published>>,
    /// How large a content may be.
    pub max_bytes: u64,
    /// Counts what is fetched.
    pub metrics: &'a ControlPlaneMetrics,
}

/// The content that a manifest means; its root has been computed and is the manifest's.
///
/// # Errors
/// `hash` and `malformed` when what is there is something else, `unavailable` when nothing is.
pub async fn content(sources: Sources<'_>, manifest: &Manifest) -> Result<Fetched, Refusal> {
    if let Some(running) = &sources.running
        && running.manifest.root == manifest.root
    {
        return Ok((running.content.clone(), None));
    }
    let (last_good, root, most) = (Arc::clone(&sources.last_good), manifest.root, sources.max_bytes);
    let kept = tokio::task::spawn_blocking(move || last_good.content(root, most));
    if let Ok(Some(content)) = kept.await {
        return Ok((content, None));
    }
    if let Some(running) = &sources.running {
        match delta(&sources, running, manifest).await {
            Ok(content) => return Ok((content, None)),
            Err(why) => log::info!("revision {}: no delta ({why}), fetching the snapshot", manifest.seq),
        }
    }
    snapshot(&sources, manifest).await
}

async fn delta(sources: &Sources<'_>, running: &Arc<Published>, manifest: &Manifest) -> Result<Content, String> {
    let path = format!(
        "/v1/environments/{}/delta/{}/{}",
        segment(&manifest.environment),
        running.manifest.seq,
        manifest.seq
    );
    // One that is larger than the snapshot is worth nothing.
    let answer = sources.client.get(&path, manifest.snapshot.size, DELTA).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("the control plane answers {}", answer.status));
    }
    sources.metrics.fetched("delta", answer.body.len());
    let (from, most) = (Arc::clone(running), sources.max_bytes);
    let wanted = manifest.clone();
    let made = tokio::task::spawn_blocking(move || {
        let content = from
            .content
            .with_delta(&answer.body, most)
            .map_err(|error| error.to_string())?;
        if wanted.is_of(&content) {
            Ok(content)
        } else {
            Err("it leads elsewhere".to_owned())
        }
    });
    made.await.unwrap_or_else(|error| Err(error.to_string()))
}

async fn snapshot(sources: &Sources<'_>, manifest: &Manifest) -> Result<Fetched, Refusal> {
    let refusal = |code, why: &dyn std::fmt::Display| {
        let message = format!("the snapshot of revision {}: {why}", manifest.seq);
        Refusal::new(manifest.seq, code, message)
    };
    let fetched = sources.client.blob(&manifest.snapshot, sources.max_bytes).await;
    let bytes = fetched.map_err(|error| match error {
        ClientError::Hash => refusal("hash", &error),
        ClientError::TooLarge { .. } => refusal("oversized", &error),
        _ => refusal("unavailable", &error),
    })?;
    sources.metrics.fetched("snapshot", bytes.len());
    let wanted = manifest.clone();
    let read = tokio::task::spawn_blocking(move || {
        let content = Content::from_snapshot(&wanted.snapshot, &bytes)?;
        if wanted.is_of(&content) {
            Ok((content, bytes))
        } else {
            Err(ContentError::Hash)
        }
    });
    match read.await {
        Ok(Ok((content, bytes))) => Ok((content, Some(bytes))),
        Ok(Err(error)) => Err(refusal(error.reason(), &error)),
        Err(error) => Err(refusal("malformed", &error)),
    }
}
