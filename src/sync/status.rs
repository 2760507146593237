//! What operators see of revisions.

use serde::Serialize;

use crate::document::Mistakes;

/// What operators see of revisions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// SHA-256 of the applied revision; of a control plane's, its root.
    pub digest: Option<String>,
    /// `file` or `control plane`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// The number of the control plane's revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_seq: Option<u64>,
    /// Its root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Unix milliseconds of its application.
    pub applied_at_ms: Option<u64>,
    /// Seconds since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Routes in it.
    pub routes: usize,
    /// Keys in it.
    pub keys: usize,
    /// Why the newest revision was refused; absent when the newest one is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// A revision that was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Unix milliseconds.
    pub at_ms: u64,
    /// `invalid`, `panicked`, or for a control plane's revision another code of a NACK: the label of the metric.
    pub reason: &'static str,
    /// The number of the control plane's revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_seq: Option<u64>,
    /// Every mistake with its place.
    pub mistakes: Vec<String>,
}

impl Refused {
    /// It has these mistakes.
    #[must_use]
    pub fn invalid(mistakes: &Mistakes, now_ms: u64) -> Self {
        Self {
            at_ms: now_ms,
            reason: "invalid",
            environment_seq: None,
            mistakes: mistakes.iter().map(ToString::to_string).collect(),
        }
    }
}
