//! Metrics of the control plane. No label takes its value from a client: environments are named by operators.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::plane::Plane;

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// What [`render`] asks: each adds what it knows. This is the one place to add to.
const SOURCES: &[Source] = &[delivery];

/// Adds what it knows of a node to a registry.
type Source = fn(&Plane, &Registry) -> prometheus::Result<()>;

/// What is counted about delivery.
#[derive(Debug, Default)]
pub struct Meters {
    /// Polls that wait now.
    pub polls: AtomicU64,
    /// Polls that were turned away because too many wait.
    pub polls_refused: AtomicU64,
    /// What was sent.
    pub sent: [Sent; Kind::ALL.len()],
    /// Times that somebody was told to fetch later.
    pub deferred: AtomicU64,
    /// Bodies that were cut because nobody took them.
    pub cut: AtomicU64,
}

/// What was sent of one kind.
#[derive(Debug, Default)]
pub struct Sent {
    answers: AtomicU64,
    bytes: AtomicU64,
}

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Manifests.
    Manifest,
    /// Snapshots and key bases.
    Blob,
    /// Deltas.
    Delta,
    /// Pages of the key log.
    Keys,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Manifest, Self::Blob, Self::Delta, Self::Keys];

    fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Delta => "delta",
            Self::Keys => "keys",
        }
    }
}

impl Meters {
    /// An answer with so many bytes was begun.
    pub fn sent(&self, kind: Kind, bytes: usize) {
        let [manifest, blob, delta, keys] = &self.sent;
        let sent = match kind {
            Kind::Manifest => manifest,
            Kind::Blob => blob,
            Kind::Delta => delta,
            Kind::Keys => keys,
        };
        sent.answers.fetch_add(1, Ordering::Relaxed);
        sent.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Everything as text. The registry is made for each answer: what is counted are plain numbers, so that nothing can fail
/// before somebody asks.
///
/// # Errors
/// When two sources use one name.
pub fn render(plane: &Plane) -> prometheus::Result<Vec<u8>> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    for source in SOURCES {
        source(plane, &registry)?;
    }
    let mut text = Vec::with_capacity(16 * 1024);
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

/// A gauge that stands at this number.
///
/// # Errors
/// When the name is used twice.
pub fn gauge(registry: &Registry, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(Box::new(gauge))
}

/// Counters that have come to these numbers, by the values of one label.
///
/// # Errors
/// When the name is used twice.
pub fn counters<'a>(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) -> prometheus::Result<()> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    for (value, number) in values {
        counters.with_label_values(&[value]).inc_by(number);
    }
    registry.register(Box::new(counters))
}

fn delivery(plane: &Plane, registry: &Registry) -> prometheus::Result<()> {
    let meters = &plane.delivery.meters;
    let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
    gauge(
        registry,
        "tollgate_cp_polls",
        "Polls that wait for news.",
        load(&meters.polls),
    )?;
    counters(
        registry,
        "tollgate_cp_turned_away_total",
        "Requests that were told to come later, by what they wanted.",
        "what",
        [("poll", load(&meters.polls_refused)), ("blob", load(&meters.deferred))],
    )?;
    let sent = || Kind::ALL.iter().zip(&meters.sent);
    counters(
        registry,
        "tollgate_cp_sent_total",
        "Answers with a body, by what it is.",
        "kind",
        sent().map(|(kind, sent)| (kind.as_str(), load(&sent.answers))),
    )?;
    counters(
        registry,
        "tollgate_cp_sent_bytes_total",
        "Bytes of these bodies.",
        "kind",
        sent().map(|(kind, sent)| (kind.as_str(), load(&sent.bytes))),
    )?;
    counters(
        registry,
        "tollgate_cp_cut_total",
        "Bodies that were cut because they were not taken in time.",
        "kind",
        [("blob", load(&meters.cut))],
    )?;
    let revisions = IntGaugeVec::new(
        Opts::new("tollgate_cp_revision", "The newest revision of each environment."),
        &["environment"],
    )?;
    for (environment, seq) in plane.heads.all() {
        revisions
            .with_label_values(&[environment.as_str()])
            .set(i64::try_from(seq).unwrap_or(i64::MAX));
    }
    registry.register(Box::new(revisions))?;
    gauge(
        registry,
        "tollgate_cp_key_log_seq",
        "The last record of the key log.",
        plane.heads.key_seq(),
    )
}
