//! The access log: one JSON line per request, written by a thread of its own.
//!
//! A request adds its line to a bounded buffer of its thread and goes on; when the buffer is full the line is dropped
//! and counted, because a full disk must slow down no client. The writer takes whole buffers at a time, so that under
//! load it is never woken per request. Lines of one thread keep their order; those of several are in no order.
//!
//! A line is made where its facts are. Handing records over instead made copies of them, which the writer read and freed
//! on another core, long out of the cache: it cost more than twice as much.

mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::IntCounter;

use crate::thread_number::thread_number;

/// Bytes of lines that may wait for the writer.
pub const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Room that is kept for lines when fewer come.
const KEPT_BYTES: usize = 256 * 1024;

/// How long the writer lets lines gather before it looks again.
const GATHER: Duration = Duration::from_millis(5);

/// How long the end of the process waits for the last lines.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often an idle writer looks whether its file was moved.
const LOOK: Duration = Duration::from_millis(100);

/// What is written about one request. Absent and empty facts are left out of the line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'a> {
    /// Unix time in milliseconds when the request's head was complete.
    pub time_ms: u64,
    /// The request id that the client and the upstream saw too.
    pub request_id: &'a str,
    /// W3C trace id.
    pub trace_id: &'a str,
    /// The client: the socket's peer, or what trusted proxies say.
    pub client: Option<IpAddr>,
    /// Request method.
    pub method: &'a str,
    /// Host as the client wrote it.
    pub host: &'a str,
    /// Normalised path; never the query, which may carry credentials.
    pub path: &'a str,
    /// The API that was matched.
    pub api: &'a str,
    /// The route pattern that was matched.
    pub route: &'a str,
    /// The application that called.
    pub application: &'a str,
    /// The id of the key, never the key.
    pub key_id: &'a str,
    /// The token's subject.
    pub subject: &'a str,
    /// Status sent to the client; 499 when it left first.
    pub status: u16,
    /// Code of the refusal, when the gateway answered itself.
    pub code: &'a str,
    /// Why, in more detail than the client is told; never a secret.
    pub reason: &'a str,
    /// The limit that refused.
    pub limit: &'a str,
    /// Whether a limit in shadow mode would have refused.
    pub would_deny: bool,
    /// What the cache did: `hit`, `stale`, `miss`, `bypass`, … as in `tollgate_cache_requests_total`.
    pub cache: &'a str,
    /// The upstream.
    pub upstream: &'a str,
    /// Address of the endpoint that answered or failed last.
    pub endpoint: &'a str,
    /// Endpoints tried.
    pub tries: u32,
    /// Body bytes received.
    pub bytes_in: u64,
    /// Body bytes sent.
    pub bytes_out: u64,
    /// From the request's head to the end of the answer, in microseconds.
    pub duration_us: u64,
    /// From choosing an endpoint to the head of its answer, in microseconds.
    pub upstream_us: Option<u64>,
    /// SHA-256 of the revision that decided, first twelve hex digits.
    pub revision: &'a str,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Appended to a file, which is created when it is missing; reopened when it was renamed away.
    File(PathBuf),
}

/// The request side of the log. Cheap to clone.
#[derive(Clone)]
pub struct AccessLog(Option<Arc<Shared>>);

struct Shared {
    /// One for each thread that writes, as far as they reach: request threads never wait for each other.
    shards: Box<[Shard]>,
    shard_bytes_max: usize,
    dropped: IntCounter,
    /// One record in `u32::MAX / keep_below` is kept; refusals and failures always are.
    keep_below: u32,
    writer: OnceLock<Thread>,
    /// Nobody writes any more.
    over: AtomicBool,
}

/// Lines that wait for the writer. Apart from its neighbours, so that two threads do not share a cache line.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Vec<u8>>);

/// The writer; dropping it writes out what waits and ends its thread.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// A log that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Starts the writer. `sample` is the share of undisturbed requests that is written, from 0 to 1.
    ///
    /// # Errors
    /// When the target cannot be opened or the thread not be started.
    pub fn start(target: &Target, sample: f64, dropped: IntCounter) -> io::Result<(Self, Writer)> {
        let sink = Sink::open(target)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared::new(sample, dropped, threads, WAITING_BYTES_MAX));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("access-log".into()).spawn({
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            move || write_until_stopped(&shared, sink, &stop)
        })?;
        let _ = shared.writer.set(thread.thread().clone());
        let writer = Writer {
            stop,
            thread: Some(thread),
        };
        Ok((Self(Some(shared)), writer))
    }

    /// Whether a record with this outcome is to be kept; `dice` is any number that differs from request to request.
    #[must_use]
    pub fn wants(&self, status: u16, code: &str, dice: u32) -> bool {
        let keeps = |shared: &Arc<Shared>| dice <= shared.keep_below || status >= 500 || !code.is_empty();
        self.0.as_ref().is_some_and(keeps)
    }

    /// Bytes of lines that wait for the writer.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        let shards = self.0.iter().flat_map(|shared| shared.shards.iter());
        shards.map(|shard| shard.0.lock().len()).sum()
    }

    /// Adds the line of a record. Never waits for the writer; counts what does not fit.
    pub fn push(&self, record: &Record<'_>) {
        if let Some(shared) = &self.0 {
            shared.add(record);
        }
    }
}

impl Shared {
    fn new(sample: f64, dropped: IntCounter, threads: usize, waiting_bytes_max: usize) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the range of u32"
        )]
        let keep_below = (sample.clamp(0.0, 1.0) * f64::from(u32::MAX)) as u32;
        Self {
            shards: (0..threads).map(|_| Shard::default()).collect(),
            shard_bytes_max: waiting_bytes_max / threads.max(1),
            dropped,
            keep_below,
            writer: OnceLock::new(),
            over: AtomicBool::new(false),
        }
    }

    /// The lock is contended only by the writer, every few milliseconds, for as long as it takes to copy a buffer.
    fn add(&self, record: &Record<'_>) {
        let Some(shard) = self.shards.get(thread_number() % self.shards.len().max(1)) else {
            return;
        };
        let mut lines = shard.0.lock();
        let before = lines.len();
        line::append(&mut lines, record);
        if self.over.load(Ordering::Acquire) || lines.len() > self.shard_bytes_max {
            lines.truncate(before);
            drop(lines);
            return self.dropped.inc();
        }
        drop(lines);
        if before == 0
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// All lines that wait.
    fn take(&self, lines: &mut Vec<u8>) {
        for shard in &self.shards {
            let mut waiting = shard.0.lock();
            lines.append(&mut waiting);
            waiting.shrink_to(KEPT_BYTES);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        // Whoever reads standard output may have stopped reading; the end of the process does not wait for that.
        let until = Instant::now() + LAST_WORDS;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        if !thread.is_finished() {
            log::error!("access log: the last lines could not be written in time");
        } else if thread.join().is_err() {
            log::error!("access log: the writer panicked; the last lines may be missing");
        }
    }
}

fn write_until_stopped(shared: &Shared, mut sink: Sink, stop: &AtomicBool) {
    let mut lines = Vec::with_capacity(64 * 1024);
    let mut failing = false;
    let mut turns = 0_u32;
    loop {
        // Read before the lines are taken: what was added before the end is written.
        let stopping = stop.load(Ordering::Acquire);
        shared.take(&mut lines);
        turns = turns.wrapping_add(1);
        if lines.is_empty() {
            if stopping {
                break;
            }
            if turns.is_multiple_of(8) {
                sink.reopen_if_moved();
            }
            std::thread::park_timeout(LOOK);
            continue;
        }
        let written = sink.write(&lines);
        lines.clear();
        lines.shrink_to(KEPT_BYTES);
        match (&written, failing) {
            (Err(error), false) => log::error!("access log: {error}; lines are lost until this is mended"),
            (Ok(()), true) => log::info!("access log: writing again"),
            _ => {}
        }
        failing = written.is_err();
        if turns.is_multiple_of(128) {
            sink.reopen_if_moved();
        }
        if !stopping {
            std::thread::sleep(GATHER);
        }
    }
    // From here on lines are counted as dropped; who added one before that holds or held the lock that `take` needs.
    shared.over.store(true, Ordering::Release);
    shared.take(&mut lines);
    if let Err(error) = sink.write(&lines) {
        log::error!("access log: {error}; the last lines are lost");
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
            log.push(&Record {
                path: nasty,
                host: nasty,
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

    fn log(shared: Shared) -> AccessLog {
        AccessLog(Some(Arc::new(shared)))
    }

    #[test]
    fn a_full_buffer_drops_and_counts_instead_of_blocking() {
        let dropped = counter();
        let record = Record::default();
        let mut line = Vec::new();
        line::append(&mut line, &record);
        let length = line.len();
        let log = log(Shared::new(1.0, dropped.clone(), 1, 2 * length));
        for _ in 0..5 {
            log.push(&record);
        }
        assert_eq!(dropped.get(), 3);
        let mut lines = Vec::new();
        log.0.as_ref().unwrap().take(&mut lines);
        assert_eq!(lines.len(), 2 * length);
        log.push(&record);
        assert_eq!(dropped.get(), 3, "there is room again");
    }

    #[test]
    fn what_comes_after_the_end_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let dropped = counter();
        let (log, writer) = AccessLog::start(&Target::File(path.clone()), 1.0, dropped.clone()).unwrap();
        log.push(&Record::default());
        drop(writer);
        log.push(&Record::default());
        assert_eq!(dropped.get(), 1);
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
    }

    #[test]
    fn many_threads_lose_and_mix_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (log, writer) = AccessLog::start(&Target::File(path.clone()), 1.0, counter()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let log = &log;
                scope.spawn(move || {
                    for time_ms in 0..1000 {
                        log.push(&Record {
                            time_ms,
                            bytes_in: thread,
                            ..Record::default()
                        });
                    }
                });
            }
        });
        drop(writer);
        let mut next = [0_u64; 4];
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let thread = usize::try_from(value["bytes_in"].as_u64().unwrap()).unwrap();
            assert_eq!(value["time_ms"], next[thread]);
            next[thread] += 1;
        }
        assert_eq!(next, [1000; 4]);
    }

    #[test]
    fn sampling_keeps_every_refusal_and_failure() {
        let log = log(Shared::new(0.5, counter(), 1, 0));
        assert!(log.wants(200, "", 1));
        assert!(!log.wants(200, "", u32::MAX));
        assert!(log.wants(429, "rate_limited", u32::MAX));
        assert!(log.wants(500, "", u32::MAX));
        assert!(!AccessLog::off().wants(500, "internal", 0));
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
