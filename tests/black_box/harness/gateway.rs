//! The program under test, as a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{Client, Connection, eventually, sha256_hex};

/// How long a gateway may take to leave at the end of a test, before it is killed.
const LEAVE: Duration = Duration::from_secs(2);

/// A gateway that is going to be started.
pub struct Setup {
    directory: TempDir,
    gateway: String,
    server: String,
    access_log: String,
    environment: Vec<(String, String)>,
    open_files: Option<u32>,
}

/// A running gateway. Ends when dropped, and then tells its log if the test has failed.
pub struct Gateway {
    directory: TempDir,
    address: SocketAddr,
    status_address: SocketAddr,
    process: Process,
}

/// What a run of the program left behind.
#[derive(Debug)]
pub struct Output {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs the program to its end.
pub fn tollgate<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Output {
    let output = command().args(arguments).output().expect("running the program");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_remove("TOLLGATE_LOG").stdin(Stdio::null());
    command
}

/// The standard library cannot set a resource limit of a child; a shell can.
fn command_with_open_files(most: u32) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_tollgate"));
    shell.env_remove("TOLLGATE_LOG").stdin(Stdio::null());
    shell
}

impl Setup {
    /// More of the `gateway:` section, such as `environment_type: production`.
    pub fn gateway(mut self, lines: &str) -> Self {
        self.gateway = lines.to_owned();
        self
    }

    /// More of the `server:` section, such as `timeouts: { header: 300ms }`.
    pub fn server(mut self, lines: &str) -> Self {
        self.server = lines.to_owned();
        self
    }

    /// Another access log than the file that [`Gateway::access_log`] reads.
    pub fn access_log(mut self, line: &str) -> Self {
        self.access_log = line.to_owned();
        self
    }

    /// A variable of the environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets it have at most so many files and sockets open.
    pub fn open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    /// A file beside the revision.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        std::fs::write(self.directory.path().join(name), content).unwrap();
        self
    }

    /// The directory with the files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let process = Process::start(self.command());
        let directory = self.directory;
        let said = |what: &'static str| {
            eventually(what, || {
                assert!(process.is_running(), "the gateway ended:\n{}", process.log());
                let log = process.log();
                let line = log.lines().find(|line| line.contains(what))?;
                line.rsplit(' ').next()?.parse::<SocketAddr>().ok()
            })
        };
        let address = said("] listening on ");
        let status_address = said("] status on ");
        Gateway {
            directory,
            address,
            status_address,
            process,
        }
    }

    /// Starts it although it is going to end by itself.
    pub fn run(self) -> Output {
        let output = self.command().output().expect("running the program");
        Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn command(&self) -> Command {
        let directory = self.directory.path();
        let access_log = match self.access_log.as_str() {
            "" => format!("{{ path: \"{}\" }}", directory.join("access.log").display()),
            line => line.to_owned(),
        };
        let config = format!(
            "gateway: {{ id: gw-test, {} }}\nserver: {{ threads: 2, {} }}\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\n\
             status: {{ address: \"127.0.0.1:0\" }}\nrevision: {{ file: \"{}\" }}\ntelemetry: {{ access_log: {access_log} }}\n",
            self.gateway,
            self.server,
            directory.join("revision.yaml").display(),
        );
        let path = directory.join("tollgate.yaml");
        std::fs::write(&path, config).unwrap();
        let mut command = match self.open_files {
            None => command(),
            Some(most) => command_with_open_files(most),
        };
        command.arg("run").arg("--config").arg(path);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Gateway {
    /// A gateway with this revision.
    pub fn with(revision: impl ToString) -> Setup {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("revision.yaml"), revision.to_string()).unwrap();
        Setup {
            directory,
            gateway: String::new(),
            server: String::new(),
            access_log: String::new(),
            environment: Vec::new(),
            open_files: None,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::of(self.address)
    }

    /// A connection to it, for exact bytes.
    #[track_caller]
    pub fn raw(&self) -> Connection {
        Connection::to(self.address)
    }

    /// A client of its status listener.
    pub fn status(&self) -> Client {
        Client::of(self.status_address)
    }

    /// What `/status/ready` says.
    #[track_caller]
    pub fn ready(&self) -> Value {
        self.status().get("/status/ready").send().json()
    }

    /// The value of a series, written as in the exposition format; 0 when it is not there yet.
    #[track_caller]
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.status().get("/metrics").send().expect(200).text();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or_default()
    }

    /// Where the revision file is.
    pub fn revision_file(&self) -> PathBuf {
        self.directory.path().join("revision.yaml")
    }

    /// The directory with its files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Replaces the revision file, at one stroke as editors and deployment tools do.
    pub fn replace_revision(&self, revision: impl ToString) {
        let fresh = self.directory.path().join("revision.yaml.new");
        std::fs::write(&fresh, revision.to_string()).unwrap();
        std::fs::rename(fresh, self.revision_file()).unwrap();
    }

    /// Replaces the revision file and waits until it is applied.
    #[track_caller]
    pub fn apply(&self, revision: impl ToString) {
        let text = revision.to_string();
        let digest = sha256_hex(&text);
        self.replace_revision(text);
        eventually("the revision is applied", || {
            let revision = self.ready()["revision"].clone();
            assert!(revision["refused"].is_null(), "{revision}");
            (revision["digest"] == digest.as_str()).then_some(())
        });
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until it has logged this.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        eventually(&format!("the log says {text:?}"), || {
            self.log().contains(text).then_some(())
        });
    }

    /// The lines of the access log so far.
    #[track_caller]
    pub fn access_log(&self) -> Vec<Value> {
        self.access_log_text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}")))
            .collect()
    }

    /// The access log as it is written: complete lines only, because the last one may be on its way.
    pub fn access_log_text(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("access.log")).unwrap_or_default();
        let mut text = String::from_utf8(bytes).expect("the access log is UTF-8");
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }

    /// Waits for the access log's line about the request with this id.
    #[track_caller]
    pub fn access_record(&self, request_id: &str) -> Value {
        eventually("a line of the access log", || {
            self.access_log()
                .into_iter()
                .find(|line| line["request_id"] == request_id)
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Asks it to leave.
    pub fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        eventually("the gateway ends", || self.process.status())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.process.is_running() {
            self.terminate();
            let started = Instant::now();
            while self.process.is_running() && started.elapsed() < LEAVE {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.process.kill();
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ---\n{log}--- end of the gateway's log ---");
        } else {
            // No test makes it panic on purpose, so every test holds it to this.
            assert!(!log.contains("panicked at"), "the gateway panicked:\n{log}");
        }
    }
}

/// A child whose standard error is being read.
struct Process {
    pid: u32,
    child: Mutex<Child>,
    log: Arc<Mutex<String>>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting the program");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let reader = {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in stderr.split(b'\n').map_while(Result::ok) {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&String::from_utf8_lossy(&line));
                    log.push('\n');
                }
            })
        };
        Self {
            pid: child.id(),
            child: Mutex::new(child),
            log,
            reader: Mutex::new(Some(reader)),
        }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn status(&self) -> Option<ExitStatus> {
        let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
        status.expect("asking for the state of a child")
    }

    fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// The shell's own `kill`: the standard library can only send SIGKILL.
    fn signal(&self, name: &str) {
        // Only while the child was not waited for, so the number is still its own.
        if self.is_running() {
            let kill = format!("kill -{name} {}", self.pid);
            let _ = Command::new("sh").args(["-c", &kill]).status();
        }
    }

    /// Ends it for sure, and waits for the last of its log.
    fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
        drop(child);
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = reader.join();
        }
    }
}
