//! The access log: one JSON line per request, written by a thread of its own.
//!
//! A request leaves a [`Record`] in a bounded queue and goes on; when the queue is full the record is dropped and
//! counted, because a full disk must slow down no client. JSON is made by the writer, so that whatever a client sends
//! is escaped once, in one place, and a line is always one valid JSON object.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounter;
use serde::Serialize;

use crate::names::{ApiName, ApplicationName, KeyId, UpstreamName};

/// Records that may wait for the writer.
pub const QUEUE_RECORDS_MAX: usize = 16 * 1024;

/// How long the writer lets records gather before it looks again: under load it is never woken per request.
const GATHER: Duration = Duration::from_millis(5);

/// How often an idle writer looks whether it should end or its file was moved.
const LOOK: Duration = Duration::from_millis(100);

/// What is written about one request. Filled as facts appear; absent facts are left out of the line.
#[derive(Debug, Default, Serialize)]
pub struct Record {
    /// Unix time in milliseconds when the request's head was complete.
    pub time_ms: u64,
    /// The request id that the client and the upstream saw too.
    pub request_id: Arc<str>,
    /// W3C trace id.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub trace_id: Arc<str>,
    /// The client: the socket's peer, or what trusted proxies say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Request method.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub method: Option<http::Method>,
    /// Host as the client wrote it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Normalised path; never the query, which may carry credentials.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The API that was matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiName>,
    /// The route pattern that was matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// The application that called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<ApplicationName>,
    /// The id of the key, never the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The token's subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Arc<str>>,
    /// Status sent to the client; 499 when it left first.
    pub status: u16,
    /// Code of the refusal, when the gateway answered itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub code: &'static str,
    /// Why, in more detail than the client is told; never a secret.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    /// The limit that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Arc<str>>,
    /// Whether a limit in shadow mode would have refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub would_deny: bool,
    /// The upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamName>,
    /// Address of the endpoint that answered or failed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Arc<str>>,
    /// Endpoints tried.
    #[serde(skip_serializing_if = "is_zero")]
    pub tries: u32,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
    /// From the request's head to the end of the answer, in microseconds.
    pub duration_us: u64,
    /// From choosing an endpoint to the head of its answer, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_us: Option<u64>,
    /// SHA-256 of the revision that decided, first twelve hex digits.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub revision: Arc<str>,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Appended to a file, which is created when it is missing; reopened when it was renamed away.
    File(PathBuf),
}

/// The request side of the log.
#[derive(Clone)]
pub struct AccessLog {
    queue: Option<SyncSender<Record>>,
    dropped: IntCounter,
    /// One record in `u32::MAX / keep_below` is kept; refusals and failures always are.
    keep_below: u32,
}

/// The writer; dropping it writes out what is queued and ends its thread.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// A log that keeps nothing.
    #[must_use]
    pub fn off(dropped: IntCounter) -> Self {
        Self {
            queue: None,
            dropped,
            keep_below: 0,
        }
    }

    /// Starts the writer. `sample` is the share of undisturbed requests that is written, from 0 to 1.
    ///
    /// # Errors
    /// When the target cannot be opened or the thread not be started.
    pub fn start(target: &Target, sample: f64, dropped: IntCounter) -> io::Result<(Self, Writer)> {
        let sink = Sink::open(target)?;
        let (queue, records) = sync_channel(QUEUE_RECORDS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_until_stopped(&records, sink, &stopped))?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the range of u32"
        )]
        let keep_below = (sample.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
        Ok((
            Self {
                queue: Some(queue),
                dropped,
                keep_below,
            },
            Writer {
                stop,
                thread: Some(thread),
            },
        ))
    }

    /// Whether a record with this outcome is to be kept; `dice` is any number that differs from request to request.
    #[must_use]
    pub fn wants(&self, status: u16, code: &str, dice: u32) -> bool {
        self.queue.is_some() && (dice <= self.keep_below || status >= 500 || !code.is_empty())
    }

    /// Hands over a record. Never blocks; counts what does not fit.
    pub fn push(&self, record: Record) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(record) {
            self.dropped.inc();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("access log: the writer panicked; the last records may be missing");
        }
    }
}

fn write_until_stopped(records: &Receiver<Record>, mut sink: Sink, stop: &AtomicBool) {
    let mut lines = Vec::with_capacity(64 * 1024);
    let mut failing = false;
    let mut turns = 0_u32;
    loop {
        match records.recv_timeout(LOOK) {
            Ok(record) => {
                append(&mut lines, &record);
                for record in records.try_iter().take(QUEUE_RECORDS_MAX) {
                    append(&mut lines, &record);
                }
                let written = sink.write(&lines);
                lines.clear();
                match (&written, failing) {
                    (Err(error), false) => log::error!("access log: {error}; lines are lost until this is mended"),
                    (Ok(()), true) => log::info!("access log: writing again"),
                    _ => {}
                }
                failing = written.is_err();
                turns += 1;
                if turns.is_multiple_of(128) {
                    sink.reopen_if_moved();
                }
                if !stop.load(Ordering::Acquire) {
                    std::thread::sleep(GATHER);
                }
            }
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Acquire) => return,
            Err(RecvTimeoutError::Timeout) => {
                turns += 1;
                if turns.is_multiple_of(8) {
                    sink.reopen_if_moved();
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn append(lines: &mut Vec<u8>, record: &Record) {
    let start = lines.len();
    match serde_json::to_writer(&mut *lines, record) {
        Ok(()) => lines.push(b'\n'),
        Err(error) => {
            lines.truncate(start);
            log::error!("access log: a record could not be written as JSON: {error}");
        }
    }
}

enum Sink {
    Stdout,
    File { path: PathBuf, file: File },
}

impl Sink {
    fn open(target: &Target) -> io::Result<Self> {
        match target {
            Target::Stdout => Ok(Self::Stdout),
            Target::File(path) => Ok(Self::File {
                file: append_to(path)?,
                path: path.clone(),
            }),
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File { file, .. } => file.write_all(lines),
        }
    }

    /// logrotate renames the file away: then a new one is opened under the old name.
    fn reopen_if_moved(&mut self) {
        let Self::File { path, file } = self else { return };
        let same = match (std::fs::metadata(&*path), file.metadata()) {
            (Ok(on_disk), Ok(open)) => {
                use std::os::unix::fs::MetadataExt;
                (on_disk.dev(), on_disk.ino()) == (open.dev(), open.ino())
            }
            _ => false,
        };
        if !same {
            match append_to(path) {
                Ok(fresh) => *file = fresh,
                Err(error) => log::error!("access log: {} could not be opened again: {error}", path.display()),
            }
        }
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn as_text<S: serde::Serializer>(method: &Option<http::Method>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(method.as_ref().map_or("", http::Method::as_str))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    #[test]
    fn every_record_becomes_one_json_line_whatever_the_client_sent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (log, writer) = AccessLog::start(&Target::File(path.clone()), 1.0, counter()).unwrap();
        let nasty = "a\r\n{\"status\":200}\u{1b}[31m\"\\\u{0}";
        for _ in 0..3 {
            log.push(Record {
                path: nasty.into(),
                host: nasty.into(),
                status: 404,
                ..Record::default()
            });
        }
        drop(log);
        drop(writer);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 3);
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["path"], nasty);
            assert_eq!(value["status"], 404);
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts_instead_of_blocking() {
        let dropped = counter();
        let (queue, records) = sync_channel(1);
        let log = AccessLog {
            queue: Some(queue),
            dropped: dropped.clone(),
            keep_below: u32::MAX,
        };
        for _ in 0..5 {
            log.push(Record::default());
        }
        assert_eq!(dropped.get(), 4);
        drop(records);
        log.push(Record::default());
        assert_eq!(dropped.get(), 5);
    }

    #[test]
    fn sampling_keeps_every_refusal_and_failure() {
        let (queue, _records) = sync_channel(1);
        let log = AccessLog {
            queue: Some(queue),
            dropped: counter(),
            keep_below: u32::MAX / 2,
        };
        assert!(log.wants(200, "", 1));
        assert!(!log.wants(200, "", u32::MAX));
        assert!(log.wants(429, "rate_limited", u32::MAX));
        assert!(log.wants(500, "", u32::MAX));
    }

    #[test]
    fn a_log_that_was_renamed_away_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut sink = Sink::open(&Target::File(path.clone())).unwrap();
        sink.write(b"one\n").unwrap();
        std::fs::rename(&path, directory.path().join("access.log.1")).unwrap();
        sink.reopen_if_moved();
        sink.write(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "two\n");
    }
}
