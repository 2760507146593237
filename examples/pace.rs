//! A load generator that keeps a pace: so many requests per second on average, or all at once, over one or several
//! targets.
//!
//! ```text
//! cargo run --release --example pace -- --target 127.0.0.1:8280=9 --target 127.0.0.1:8281 --path /orders \
//!     --rate 2000 --count 60000 --log answers.txt
//! ```
//!
//! Prints one JSON object: answers by target and status, and how long they took. With `--log`, every request gets a
//! line of five numbers: target (from 0), when it was dispatched, written and answered (microseconds of unix time), and
//! the status, 0 for none.
//!
//! It is an open loop: a request is dispatched when its time has come (the gaps are exponential, as between clients that
//! know nothing of each other), whether or not others have been answered. One that finds no free connection waits, and
//! that counts as part of what it took. A request is sent once: what is failed is not tried again, because it may
//! have been counted. Without `--rate` all of them are due at the beginning; then one is dispatched when a connection
//! takes it.
//!
//! One thread beside that, because the programs under test need the others. It reads answers with a `Content-Length` or without a
//! body, which is what gateways and `fixed_origin` send; any other counts as an error.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

/// So that a count that was mistyped does not take the memory away.
const COUNT_MOST: u64 = 20_000_000;
/// By so much the kernel lets a thread sleep longer than it asked for, unless that was changed.
const SLACK: Duration = Duration::from_micros(50);
/// Not worth another sleep.
const SOON: Duration = Duration::from_micros(5);
/// Longer heads are not from what is tested here.
const HEAD_MOST: usize = 64 * 1024;

/// Sends requests at a pace, and prints what came of them.
#[derive(Parser)]
struct Arguments {
    /// Where to: ADDRESS, or ADDRESS=WEIGHT. Several share the requests at random, by weight
    #[arg(long = "target", required = true)]
    targets: Vec<Target>,
    /// Path and query of every request
    #[arg(long, default_value = "/")]
    path: String,
    /// A file with a line for each request: a key, sent as `X-API-Key`, and a path. They are sent in turn, again and
    /// again; instead of --path
    #[arg(long)]
    requests: Option<PathBuf>,
    /// A header field of every request, as `Name: value`
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Requests per second, all targets together. Absent: as fast as the connections allow
    #[arg(long)]
    rate: Option<f64>,
    /// How many requests
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=COUNT_MOST))]
    count: u64,
    /// Connections to each target; they are opened before the first request
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Seconds until an unanswered request has failed
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
    /// Unix time in seconds at which to begin. Absent: at once
    #[arg(long)]
    at: Option<f64>,
    /// Gives every request an `X-Forwarded-For` of its own, counting up from this address
    #[arg(long)]
    forwarded_for: Option<Ipv4Addr>,
    /// Where random numbers begin: the same gives the same gaps and choices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A file for a line per request
    #[arg(long)]
    log: Option<PathBuf>,
}

#[derive(Clone)]
struct Target {
    address: SocketAddr,
    weight: f64,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, weight) = text.split_once('=').unwrap_or((text, "1"));
        let weight: f64 = weight.parse().map_err(|_| format!("{weight:?} is no weight"))?;
        if !weight.is_finite() || weight < 0.0 {
            return Err(format!("a weight is a number from 0, not {weight}"));
        }
        let address = address.parse().map_err(|_| format!("{address:?} is not IP:PORT"))?;
        Ok(Self { address, weight })
    }
}

/// A request that is to be sent.
struct Job {
    number: u64,
    target: usize,
    /// None: when a connection takes it.
    dispatched: Option<Instant>,
}

/// What came of a request.
struct Answer {
    target: usize,
    dispatched: Instant,
    written: Instant,
    answered: Instant,
    result: Result<u16, Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    Connect,
    Broken,
    Closed,
    Timeout,
    Malformed,
}

/// The requests of one target that wait for a connection.
#[derive(Default)]
struct Queue {
    jobs: RefCell<VecDeque<Job>>,
    closed: RefCell<bool>,
    arrived: Notify,
}

/// Everything that a connection needs to know.
struct Plan {
    arguments: Arguments,
    /// Key and path of each request; empty: all are the same.
    requests: Vec<(String, String)>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.targets.iter().all(|target| target.weight == 0.0) || arguments.rate.is_some_and(|rate| rate <= 0.0) {
        eprintln!("pace: weights and rate have to be above 0");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pace: {error}");
            return ExitCode::FAILURE;
        }
    };
    let requests = match arguments.requests.as_deref().map(prepared).transpose() {
        Ok(requests) => requests.unwrap_or_default(),
        Err(message) => {
            eprintln!("pace: {message}");
            return ExitCode::from(2);
        }
    };
    let plan = Rc::new(Plan { arguments, requests });
    match LocalSet::new().block_on(&runtime, run(&plan)) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("pace: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The lines of a file of requests.
fn prepared(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let line = |(number, line): (usize, &str)| match line.split_once(' ') {
        Some((key, path)) if path.starts_with('/') => Ok((key.to_owned(), path.to_owned())),
        _ => Err(format!("{}:{}: expected KEY /PATH", path.display(), number + 1)),
    };
    text.lines().enumerate().map(line).collect()
}

async fn run(plan: &Rc<Plan>) -> Result<Value, String> {
    let arguments = &plan.arguments;
    let answers: Rc<RefCell<Vec<Answer>>> = Rc::default();
    let mut queues: Vec<Rc<Queue>> = Vec::new();
    let mut workers = Vec::new();
    for target in &arguments.targets {
        let queue: Rc<Queue> = Rc::default();
        for _ in 0..arguments.connections.max(1) {
            let stream = connect(target.address)
                .await
                .map_err(|error| format!("{}: {error}", target.address))?;
            workers.push(tokio::task::spawn_local(serve(
                Rc::clone(plan),
                Rc::clone(&queue),
                stream,
                Rc::clone(&answers),
            )));
        }
        queues.push(queue);
    }
    if let Some(at) = arguments.at {
        let now = unix_micros(SystemTime::now()) as f64 / 1e6;
        sleep(Duration::from_secs_f64((at - now).clamp(0.0, 3600.0))).await;
    }
    let (began, began_unix) = (Instant::now(), unix_micros(SystemTime::now()));
    let behind = dispatch(arguments, &queues, began).await;
    for queue in &queues {
        *queue.closed.borrow_mut() = true;
        queue.arrived.notify_waiters();
    }
    for worker in workers {
        worker.await.map_err(|error| error.to_string())?;
    }
    let answers = answers.borrow();
    if let Some(path) = &arguments.log {
        log(path, &answers, began, began_unix).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(report(arguments, &answers, began, began_unix, behind))
}

/// Puts every request into the queue of its target when it is due. Answers by how much the latest was late.
async fn dispatch(arguments: &Arguments, queues: &[Rc<Queue>], began: Instant) -> Duration {
    // The numbers that say which target are others than those that say when.
    let mut random = StdRng::seed_from_u64(!arguments.seed);
    let all: f64 = arguments.targets.iter().map(|target| target.weight).sum();
    let mut due = arguments.rate.map(|rate| metronome(rate, arguments, began));
    let mut behind = Duration::ZERO;
    for number in 0..arguments.count {
        if let Some(due) = &mut due {
            let Some(due) = due.recv().await else {
                break;
            };
            behind = behind.max(due.elapsed());
        }
        let mut choice = random.random::<f64>() * all;
        let chosen = arguments.targets.iter().position(|target| {
            choice -= target.weight;
            choice < 0.0
        });
        let target = chosen.unwrap_or(0);
        if let Some(queue) = queues.get(target) {
            queue.jobs.borrow_mut().push_back(Job {
                number,
                target,
                dispatched: arguments.rate.map(|_| Instant::now()),
            });
            queue.arrived.notify_one();
        }
    }
    behind
}

/// Says when each request is due, at that time.
fn metronome(rate: f64, arguments: &Arguments, began: Instant) -> mpsc::UnboundedReceiver<Instant> {
    let mut random = StdRng::seed_from_u64(arguments.seed);
    let count = arguments.count;
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut due = began;
        for _ in 0..count {
            due += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / rate);
            loop {
                let left = due.saturating_duration_since(Instant::now());
                if left < SOON {
                    break;
                }
                // Never by spinning: what answers may be on the same processor.
                std::thread::sleep(left.saturating_sub(SLACK).max(SOON));
            }
            if sender.send(due).is_err() {
                return;
            }
        }
    });
    receiver
}

/// One connection: takes requests out of the queue until it is closed and empty.
async fn serve(plan: Rc<Plan>, queue: Rc<Queue>, stream: TcpStream, answers: Rc<RefCell<Vec<Answer>>>) {
    let arguments = &plan.arguments;
    let patience = Duration::from_secs_f64(arguments.timeout.clamp(0.001, 3600.0));
    let mut connection = Some(stream);
    let mut received = Vec::with_capacity(4096);
    while let Some(job) = queue.next().await {
        let Some(target) = arguments.targets.get(job.target) else {
            return;
        };
        let request = head(&plan, target, job.number);
        let dispatched = job.dispatched.unwrap_or_else(Instant::now);
        let mut written = Instant::now();
        let mut stream = match connection.take() {
            Some(stream) => Ok(stream),
            None => connect(target.address).await.map_err(|_| Failure::Connect),
        };
        let result = match &mut stream {
            Err(failure) => Err(*failure),
            Ok(stream) => {
                written = Instant::now();
                received.clear();
                timeout(patience, exchange(stream, &request, &mut received))
                    .await
                    .unwrap_or(Err(Failure::Timeout))
            }
        };
        answers.borrow_mut().push(Answer {
            target: job.target,
            dispatched,
            written,
            answered: Instant::now(),
            result: result.map(|(status, _)| status),
        });
        if let (Ok(stream), Ok((_, true))) = (stream, result) {
            connection = Some(stream);
        }
    }
}

impl Queue {
    async fn next(&self) -> Option<Job> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(job) = self.jobs.borrow_mut().pop_front() {
                return Some(job);
            }
            if *self.closed.borrow() {
                return None;
            }
            arrived.await;
        }
    }
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn head(plan: &Plan, target: &Target, number: u64) -> Vec<u8> {
    let arguments = &plan.arguments;
    // The remainder is an index of the list.
    #[expect(clippy::cast_possible_truncation)]
    let prepared = number
        .checked_rem(plan.requests.len() as u64)
        .and_then(|index| plan.requests.get(index as usize));
    let path = prepared.map_or(&arguments.path, |(_, path)| path);
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", target.address);
    if let Some((key, _)) = prepared {
        head.push_str(&format!("X-API-Key: {key}\r\n"));
    }
    if let Some(first) = arguments.forwarded_for {
        // Wraps around: 2³² addresses are all there are.
        #[expect(clippy::cast_possible_truncation)]
        let address = Ipv4Addr::from(u32::from(first).wrapping_add(number as u32));
        head.push_str(&format!("X-Forwarded-For: {address}\r\n"));
    }
    for field in &arguments.headers {
        head.push_str(field);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Sends a request and reads its answer. With the status comes whether the connection can be used again.
async fn exchange(stream: &mut TcpStream, request: &[u8], received: &mut Vec<u8>) -> Result<(u16, bool), Failure> {
    stream.write_all(request).await.map_err(|_| Failure::Broken)?;
    loop {
        if let Some((status, length, keep)) = complete(received)? {
            return if received.len() == length {
                Ok((status, keep))
            } else {
                // More than one answer to one request.
                Err(Failure::Malformed)
            };
        }
        match stream.read_buf(received).await {
            Ok(0) => return Err(Failure::Closed),
            Ok(_) => {}
            Err(_) => return Err(Failure::Broken),
        }
    }
}

/// Status, length and whether the connection goes on, if the whole answer is here.
fn complete(received: &[u8]) -> Result<Option<(u16, usize, bool)>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let head = match response.parse(received) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if received.len() < HEAD_MOST => return Ok(None),
        _ => return Err(Failure::Malformed),
    };
    let (mut body, mut keep) = (None, true);
    for field in response.headers.iter() {
        let value = std::str::from_utf8(field.value).map_err(|_| Failure::Malformed)?;
        if field.name.eq_ignore_ascii_case("content-length") {
            body = Some(value.trim().parse::<usize>().map_err(|_| Failure::Malformed)?);
        } else if field.name.eq_ignore_ascii_case("connection") {
            keep = !value.eq_ignore_ascii_case("close");
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Failure::Malformed);
        }
    }
    let status = response.code.unwrap_or(0);
    let length = head + body.unwrap_or(0);
    if received.len() < length {
        return Ok(None);
    }
    // Without a length a body goes on until the connection ends; what was read of it does not tell.
    let without_body = matches!(status, 204 | 304);
    if body.is_none() && !without_body {
        return Err(Failure::Malformed);
    }
    Ok(Some((status, length, keep)))
}

fn log(path: &PathBuf, answers: &[Answer], began: Instant, began_unix: u64) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let unix = |at: Instant| began_unix + micros(at.duration_since(began));
    for answer in answers {
        writeln!(
            file,
            "{} {} {} {} {}",
            answer.target,
            unix(answer.dispatched),
            unix(answer.written),
            unix(answer.answered),
            answer.result.unwrap_or(0)
        )?;
    }
    file.flush()
}

fn report(arguments: &Arguments, answers: &[Answer], began: Instant, began_unix: u64, behind: Duration) -> Value {
    let mut targets = vec![BTreeMap::<String, u64>::new(); arguments.targets.len()];
    let mut took: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for answer in answers {
        let name = match answer.result {
            Ok(status) => status.to_string(),
            Err(failure) => format!("{failure:?}").to_lowercase(),
        };
        if let Some(target) = targets.get_mut(answer.target) {
            *target.entry(name.clone()).or_default() += 1;
        }
        took.entry(name)
            .or_default()
            .push(micros(answer.answered.duration_since(answer.dispatched)));
    }
    let last = answers.iter().map(|answer| answer.answered).max().unwrap_or(began);
    let addresses = arguments.targets.iter().map(|target| target.address.to_string());
    let targets: Vec<Value> = addresses
        .zip(targets)
        .map(|(address, answers)| json!({ "address": address, "answers": answers }))
        .collect();
    json!({
        "began_unix_us": began_unix,
        "seconds": last.duration_since(began).as_secs_f64(),
        "requests": answers.len(),
        "behind_us": micros(behind),
        "targets": targets,
        "latency_us": took.into_iter().map(|(name, took)| (name, quantiles(took))).collect::<BTreeMap<_, _>>(),
    })
}

fn quantiles(mut took: Vec<u64>) -> Value {
    took.sort_unstable();
    let at = |per_mille: usize| took.get((took.len().saturating_sub(1)) * per_mille / 1000).copied();
    json!({
        "count": took.len(), "p50": at(500), "p90": at(900), "p99": at(990), "p999": at(999), "max": at(1000),
    })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn unix_micros(time: SystemTime) -> u64 {
    micros(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}
