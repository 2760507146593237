//! A thousand gateways in one process, as a control plane sees them: each registers, fetches what its environment runs,
//! polls for the next revision, and sends heartbeats. What a real one does with a revision (compiling routes) is left
//! out; what it does with the bytes (signature, hash, unpacking, root) is done.
//!
//! ```text
//! cargo run --release --example gatewaysim -- --server http://127.0.0.1:9443 --token T --gateways 1000
//! ```
//!
//! Prints one JSON line when all of them run a revision, first for the cold start and then for each publish, with how
//! long it took (from the start, or from the moment that the manifest says it was published) and what it cost. Ends on
//! its own after `--seconds`, or when standard input is closed.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};
use tollgate::distribution::protocol::{Applied, Heartbeat, Register, Seat};
use tollgate::distribution::{Content, ContentHash, Manifest, PublicKey, Signed, Topic};

/// More is not a snapshot.
const BODY_MOST: usize = 1 << 30;

/// Plays gateways.
#[derive(Parser)]
struct Arguments {
    /// The control plane: `http://` and an address
    #[arg(long)]
    server: String,
    /// A token with the scope `gateway`
    #[arg(long)]
    token: String,
    /// Whose revisions
    #[arg(long, default_value = "Default")]
    environment: String,
    /// The pool
    #[arg(long, default_value = "simulated")]
    pool: String,
    /// How many
    #[arg(long, default_value_t = 1000)]
    gateways: usize,
    /// They start within so many milliseconds
    #[arg(long, default_value_t = 0)]
    start_within_ms: u64,
    /// End after so many seconds
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

/// What a gateway tells about itself when it runs another revision.
struct Report {
    seq: u64,
    /// Since the start, or since the publish.
    took: Duration,
    snapshots: u32,
    deltas: u32,
    deferred: u32,
    bytes: u64,
    first: bool,
}

struct Fleet {
    address: SocketAddr,
    token: String,
    environment: String,
    pool: String,
    keys: Vec<PublicKey>,
    started: Instant,
    reports: mpsc::UnboundedSender<Report>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| LocalSet::new().block_on(&runtime, play(arguments)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gatewaysim: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn play(arguments: Arguments) -> Result<(), String> {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let address = arguments
        .server
        .strip_prefix("http://")
        .and_then(|address| address.trim_end_matches('/').parse().ok())
        .ok_or("--server is http:// and an address with a port")?;
    let (reports, mut inbox) = mpsc::unbounded_channel();
    let mut fleet = Rc::new(Fleet {
        address,
        token: arguments.token,
        environment: arguments.environment,
        pool: arguments.pool,
        keys: Vec::new(),
        started: Instant::now(),
        reports,
    });
    let keys = signing_keys(&fleet).await?;
    if let Some(fleet) = Rc::get_mut(&mut fleet) {
        fleet.keys = keys;
        fleet.started = Instant::now();
    }
    if fleet.keys.is_empty() {
        return Err("the control plane shows no signing key".to_owned());
    }
    for number in 0..arguments.gateways {
        let fleet = Rc::clone(&fleet);
        let wait = rand::random_range(0..=arguments.start_within_ms);
        tokio::task::spawn_local(async move {
            sleep(Duration::from_millis(wait)).await;
            if let Err(error) = live(&fleet, number).await {
                eprintln!("gatewaysim: gateway {number}: {error}");
            }
        });
    }
    let telling = tell(&mut inbox, arguments.gateways);
    let (open, mut closed) = mpsc::unbounded_channel::<()>();
    std::thread::spawn(move || {
        let _open = open;
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    });
    let end = timeout(Duration::from_secs(arguments.seconds), closed.recv());
    tokio::select! {
        () = telling => Err("every gateway has ended".to_owned()),
        _ = end => Ok(()),
    }
}

/// Prints a line for each revision that all gateways run.
async fn tell(inbox: &mut mpsc::UnboundedReceiver<Report>, gateways: usize) {
    let mut open: std::collections::BTreeMap<u64, Vec<Report>> = std::collections::BTreeMap::new();
    while let Some(report) = inbox.recv().await {
        let seq = report.seq;
        let reports = open.entry(seq).or_default();
        reports.push(report);
        if reports.len() < gateways {
            continue;
        }
        let mut reports = open.remove(&seq).unwrap_or_default();
        reports.sort_by_key(|report| report.took);
        let at = |share: f64| {
            let position = ((reports.len() - 1) as f64 * share) as usize;
            reports[position].took.as_millis() as u64
        };
        let count = reports.len() as f64;
        let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>() as f64 / count;
        let line = json!({
            "seq": seq,
            "cold": reports.iter().all(|report| report.first),
            "gateways": reports.len(),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "last_ms": at(1.0),
            "snapshot_requests": sum(|report| u64::from(report.snapshots)),
            "snapshot_requests_most": reports.iter().map(|report| report.snapshots).max(),
            "deferred": sum(|report| u64::from(report.deferred)),
            "delta_requests": sum(|report| u64::from(report.deltas)),
            "bytes": sum(|report| report.bytes),
        });
        println!("{line}");
    }
}

async fn signing_keys(fleet: &Rc<Fleet>) -> Result<Vec<PublicKey>, String> {
    let mut line = Line::open(fleet).await?;
    let (status, body, _) = line.send(Method::GET, "/v1/signing-keys", None).await?;
    let keys: serde_json::Value = serde_json::from_slice(&body).map_err(|error| format!("{status}: {error}"))?;
    let keys = keys["keys"].as_array().cloned().unwrap_or_default();
    Ok(keys.iter().filter_map(|key| key.as_str()?.parse().ok()).collect())
}

/// One gateway: until the control plane is gone for good.
async fn live(fleet: &Rc<Fleet>, number: usize) -> Result<(), String> {
    let mut line = Line::open(fleet).await?;
    let seat = line.register(number).await?;
    let (sender, applied) = tokio::sync::watch::channel(None);
    tokio::task::spawn_local(beat(Rc::clone(fleet), seat, applied));
    let mut content = Content::default();
    let (mut seq, mut first) = (0, true);
    let mut failures = 0_u32;
    loop {
        let polled = line.poll(seq).await;
        let (manifest, bytes) = match polled {
            Ok(Some(news)) => news,
            Ok(None) => continue,
            Err(error) if failures < 10 => {
                failures += 1;
                eprintln!("gatewaysim: gateway {number}: {error}");
                sleep(Duration::from_millis(rand::random_range(0..500_u64 << failures.min(6)))).await;
                if let Ok(fresh) = Line::open(fleet).await {
                    line = fresh;
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        failures = 0;
        if !first {
            sleep(Duration::from_millis(rand::random_range(0..=manifest.spread_ms))).await;
        }
        let mut report = Report {
            seq: manifest.seq,
            took: Duration::ZERO,
            snapshots: 0,
            deltas: 0,
            deferred: 0,
            bytes,
            first,
        };
        content = line.fetch(&content, seq, &manifest, &mut report).await?;
        report.took = if first {
            fleet.started.elapsed()
        } else {
            now().saturating_sub(Duration::from_millis(manifest.published_at_ms))
        };
        (seq, first) = (manifest.seq, false);
        sender.send_replace(Some(Applied {
            seq,
            root: manifest.root.to_string(),
        }));
        let _ = fleet.reports.send(report);
    }
}

/// Heartbeats of one gateway.
async fn beat(fleet: Rc<Fleet>, seat: Seat, applied: tokio::sync::watch::Receiver<Option<Applied>>) {
    loop {
        sleep(Duration::from_millis(rand::random_range(8_000..12_000))).await;
        let heartbeat = Heartbeat {
            seat: seat.token.clone(),
            applied: applied.borrow().clone(),
            ..Heartbeat::default()
        };
        let Ok(mut line) = Line::open(&fleet).await else {
            continue;
        };
        let path = format!("/v1/instances/{}/heartbeat", seat.instance_id);
        let _ = line
            .send(Method::POST, &path, serde_json::to_vec(&heartbeat).ok())
            .await;
        if applied.has_changed().is_err() {
            return;
        }
    }
}

/// A connection to the control plane.
struct Line {
    fleet: Rc<Fleet>,
    sender: SendRequest<Full<Bytes>>,
}

impl Line {
    async fn open(fleet: &Rc<Fleet>) -> Result<Line, String> {
        let stream = TcpStream::connect(fleet.address)
            .await
            .map_err(|error| error.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(Line {
            fleet: Rc::clone(fleet),
            sender,
        })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes, Option<Duration>), String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.fleet.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.fleet.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| error.to_string())?;
        let told = |error: &dyn std::fmt::Display| format!("{path}: {error}");
        self.sender.ready().await.map_err(|error| told(&error))?;
        let answer = self.sender.send_request(request).await.map_err(|error| told(&error))?;
        let status = answer.status();
        let after = answer
            .headers()
            .get("tollgate-retry-after-ms")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_millis);
        let body = Limited::new(answer.into_body(), BODY_MOST).collect().await;
        let body = body.map_err(|error| told(&error))?.to_bytes();
        Ok((status, body, after))
    }

    async fn register(&mut self, number: usize) -> Result<Seat, String> {
        let register = Register {
            instance_id: format!("{number:032x}"),
            name: format!("sim-{number}"),
            environment: self.fleet.environment.clone(),
            labels: vec!["Default".to_owned()],
            zone: None,
            version: "simulated".to_owned(),
            capabilities: Vec::new(),
            replaces: None,
            seat: None,
        };
        let path = format!("/v1/pools/{}/instances", self.fleet.pool);
        let (status, body, _) = self
            .send(Method::POST, &path, serde_json::to_vec(&register).ok())
            .await?;
        serde_json::from_slice(&body).map_err(|error| format!("no seat: {status}: {error}"))
    }

    /// The next manifest, and how many bytes that took.
    async fn poll(&mut self, seq: u64) -> Result<Option<(Manifest, u64)>, String> {
        let path = format!(
            "/v1/environments/{}/revision?after={seq}&wait=50",
            self.fleet.environment
        );
        let (status, body, after) = self.send(Method::GET, &path, None).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => return Ok(None),
            StatusCode::SERVICE_UNAVAILABLE => {
                sleep(after.unwrap_or(Duration::from_secs(1))).await;
                return Ok(None);
            }
            other => return Err(format!("polling: {other}")),
        }
        let signed: Signed = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let text = signed
            .verify(Topic::Manifest, &self.fleet.keys)
            .map_err(|error| error.to_string())?;
        let manifest: Manifest = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok((manifest.seq > seq).then_some((manifest, body.len() as u64)))
    }

    async fn fetch(
        &mut self,
        content: &Content,
        seq: u64,
        manifest: &Manifest,
        report: &mut Report,
    ) -> Result<Content, String> {
        if seq > 0 {
            report.deltas += 1;
            let path = format!(
                "/v1/environments/{}/delta/{seq}/{}",
                self.fleet.environment, manifest.seq
            );
            let (status, body, _) = self.send(Method::GET, &path, None).await?;
            report.bytes += body.len() as u64;
            if status == StatusCode::OK
                && let Ok(next) = content.with_delta(&body, manifest.snapshot.raw_size)
                && next.root() == manifest.root
            {
                return Ok(next);
            }
        }
        let path = format!("/v1/blobs/{}", manifest.snapshot.sha256);
        loop {
            report.snapshots += 1;
            let (status, body, after) = self.send(Method::GET, &path, None).await?;
            report.bytes += body.len() as u64;
            match status {
                StatusCode::OK => return unpacked(manifest, &body),
                StatusCode::SERVICE_UNAVAILABLE => {
                    report.deferred += 1;
                    let after = after.ok_or("a 503 without a time to come back")?;
                    sleep(after.mul_f64(rand::random_range(1.0..1.1))).await;
                }
                other => return Err(format!("{path}: {other}")),
            }
        }
    }
}

thread_local! {
    /// All gateways are handed the same bytes: what they are is worked out once, or the simulator would be what is
    /// measured. The hash of the bytes is always taken.
    static UNPACKED: std::cell::RefCell<Option<(ContentHash, Content)>> = const { std::cell::RefCell::new(None) };
}

fn unpacked(manifest: &Manifest, bytes: &[u8]) -> Result<Content, String> {
    if ContentHash::of(bytes) != manifest.snapshot.sha256 {
        return Err("the snapshot is not the one that was announced".to_owned());
    }
    UNPACKED.with_borrow_mut(|known| {
        if let Some((hash, content)) = known
            && *hash == manifest.snapshot.sha256
        {
            return Ok(content.clone());
        }
        let content = Content::from_snapshot(&manifest.snapshot, bytes).map_err(|error| error.to_string())?;
        if content.root() != manifest.root {
            return Err("the snapshot has another root than the manifest".to_owned());
        }
        *known = Some((manifest.snapshot.sha256, content.clone()));
        Ok(content)
    })
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
