//! The program under test, as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::upgrade::{Successors, UPGRADE_SOCKET};
use super::{Client, Connection, Http2, eventually, sha256_hex};

/// How long a gateway may take to leave at the end of a test, before it is killed.
const LEAVE: Duration = Duration::from_secs(2);

/// A gateway that is going to be started.
pub struct Setup {
    directory: TempDir,
    id: String,
    gateway: String,
    server: String,
    sections: String,
    revision: String,
    listener: String,
    listening: String,
    more_listeners: Vec<String>,
    access_log: String,
    environment: Vec<(String, String)>,
    open_files: Option<u32>,
    /// How long the next process may take, if there may be one.
    upgradable: Option<String>,
}

/// A running gateway. Ends when dropped, and then tells its log if the test has failed.
pub struct Gateway {
    /// Dropped first: what took over writes where the first process did.
    pub(super) successors: Successors,
    directory: TempDir,
    addresses: Vec<SocketAddr>,
    status_address: SocketAddr,
    process: Process,
}

/// The program in the background. Ends when dropped.
pub struct Process {
    pid: u32,
    child: Mutex<Child>,
    stdout: Stream,
    stderr: Stream,
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
    Output::of(command().args(arguments))
}

/// Starts the program in the background.
pub fn tollgate_in_background<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Process {
    let mut command = command();
    command.args(arguments);
    Process::start(command)
}

/// Runs a line of shell.
pub fn shell(line: &str) -> Output {
    Output::of(Command::new("sh").args(["-c", line]).env("NO_PROXY", "*"))
}

pub(super) fn command() -> Command {
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
    /// Another id than `gw-test`.
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

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

    /// A whole section, such as `throttle: { max_overrun: 0% }`.
    pub fn section(mut self, lines: &str) -> Self {
        self.sections.push_str(lines);
        self.sections.push('\n');
        self
    }

    /// More of the `revision:` section, such as `skip_list: { apis: [health] }`.
    pub fn revision(mut self, lines: &str) -> Self {
        self.revision = format!("{}, {lines}", self.revision);
        self
    }

    /// Beside what it pulls, this revision of its own.
    pub fn with_own(self, revision: &str) -> Self {
        let path = self.directory.path().join("revision.yaml");
        std::fs::write(&path, revision).unwrap();
        self.revision(&format!("file: \"{}\"", path.display()))
    }

    /// Where a gateway that pulls keeps its state, if not in a directory of its own: for one that is started again.
    pub fn in_directory(mut self, directory: TempDir) -> Self {
        let (old, new) = (
            self.directory.path().display().to_string(),
            directory.path().display().to_string(),
        );
        self.revision = self.revision.replace(&old, &new);
        self.directory = directory;
        self
    }

    /// Another address to listen on than any free port.
    pub fn listener(mut self, address: impl ToString) -> Self {
        self.listener = address.to_string();
        self
    }

    /// More of its listener, such as `proxy_protocol: true`. `DIR` stands for the directory with the files of the gateway.
    pub fn listening(mut self, lines: &str) -> Self {
        self.listening = self.in_place(lines);
        self
    }

    /// One more listener on any free port, with these lines; see [`Self::listening`].
    pub fn listening_too(mut self, lines: &str) -> Self {
        let lines = self.in_place(lines);
        self.more_listeners.push(lines);
        self
    }

    fn in_place(&self, lines: &str) -> String {
        lines.replace("DIR", &self.directory.path().display().to_string())
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        self.directory.path()
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

    /// Can be asked to hand over to a next process; see [`Gateway::upgrade`].
    pub fn upgradable(self) -> Self {
        self.upgradable_within("20s")
    }

    /// The same; the next process may take so long.
    pub fn upgradable_within(mut self, timeout: &str) -> Self {
        self.upgradable = Some(timeout.to_owned());
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

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let process = Process::start(self.command());
        let directory = self.directory;
        let said = |what: &'static str| {
            eventually(what, || {
                assert!(process.is_running(), "the gateway ended:\n{}", process.stderr());
                let log = process.stderr();
                let line = log.lines().find(|line| line.contains(what))?;
                line.rsplit(' ').next()?.parse::<SocketAddr>().ok()
            })
        };
        // It is said after where the gateway listens.
        let status_address = said("] status on ");
        let addresses = process
            .stderr()
            .lines()
            .filter_map(|line| line.split_once("] listening on ")?.1.parse().ok())
            .collect();
        Gateway {
            successors: Successors::default(),
            directory,
            addresses,
            status_address,
            process,
        }
    }

    /// Starts it although it is going to end by itself.
    pub fn run(self) -> Output {
        Output::of(&mut self.command())
    }

    fn command(&self) -> Command {
        let directory = self.directory.path();
        let access_log = match self.access_log.as_str() {
            "" => format!("{{ path: \"{}\" }}", directory.join("access.log").display()),
            line => line.to_owned(),
        };
        let revision = match self.revision.as_str() {
            "" => format!("file: \"{}\"", directory.join("revision.yaml").display()),
            line => line.to_owned(),
        };
        let more_listeners: String = (self.more_listeners.iter())
            .map(|lines| format!(", {{ address: \"127.0.0.1:0\", {lines} }}"))
            .collect();
        let upgrade = match &self.upgradable {
            None => String::new(),
            Some(timeout) => format!(
                "upgrade: {{ socket: \"{}\", timeout: {timeout} }}, ",
                directory.join(UPGRADE_SOCKET).display()
            ),
        };
        let config = format!(
            "gateway: {{ id: {}, {} }}\nserver: {{ threads: 2, {upgrade}{} }}\nlisteners: [{{ address: \"{}\", {} }}{more_listeners}]\n\
             status: {{ address: \"127.0.0.1:0\" }}\nrevision: {{ {revision} }}\ntelemetry: {{ access_log: {access_log} }}\n{}",
            self.id, self.gateway, self.server, self.listener, self.listening, self.sections,
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
            id: "gw-test".to_owned(),
            gateway: String::new(),
            server: String::new(),
            sections: String::new(),
            revision: String::new(),
            listener: "127.0.0.1:0".to_owned(),
            listening: String::new(),
            more_listeners: Vec::new(),
            access_log: String::new(),
            environment: Vec::new(),
            open_files: None,
            upgradable: None,
        }
    }

    /// A gateway that pulls its revisions; `section` is what stands in `control_plane:` beside where it keeps its state.
    pub fn pulling(section: &str) -> Setup {
        let mut setup = Self::with("");
        let state = setup.directory.path().join("state");
        setup.revision = format!("control_plane: {{ state_dir: \"{}\", {section} }}", state.display());
        setup
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where each of its listeners listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::of(self.address())
    }

    /// A connection to it that speaks HTTP/2.
    #[track_caller]
    pub fn http2(&self) -> Http2 {
        Http2::to(self.address())
    }

    /// A connection to it, for exact bytes.
    #[track_caller]
    pub fn raw(&self) -> Connection {
        Connection::to(self.address())
    }

    /// A client of its status listener.
    pub fn status(&self) -> Client {
        Client::of(self.status_address)
    }

    /// A client of its admin listener, which its configuration has to ask for.
    #[track_caller]
    pub fn admin(&self) -> Client {
        let address = eventually("the gateway says where its admin listener is", || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("] admin on "))?;
            line.rsplit(' ').next()?.parse::<SocketAddr>().ok()
        });
        Client::of(address)
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

    /// Which process serves: the first, or the last that took over.
    pub fn pid(&self) -> u32 {
        self.successors.newest().unwrap_or(self.process.pid)
    }

    /// How many files and sockets it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// How many bytes of memory it holds.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the state of a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.expect("its memory") * 1024
    }

    /// Where the revision file is.
    pub fn revision_file(&self) -> PathBuf {
        self.directory.path().join("revision.yaml")
    }

    /// Ends it without a warning, and gives the directory with its state.
    pub fn crash(mut self) -> TempDir {
        self.kill();
        self.wait();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    /// Asks it to leave, waits until it has, and gives the directory with its state.
    #[track_caller]
    pub fn leave(mut self) -> TempDir {
        self.terminate();
        self.wait();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
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
        let before = self.ready()["revision"]["refused"].clone();
        self.replace_revision(text);
        eventually("the revision is applied", || {
            let revision = self.ready()["revision"].clone();
            let refused = &revision["refused"];
            assert!(refused.is_null() || *refused == before, "{revision}");
            (revision["digest"] == digest.as_str()).then_some(())
        });
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Everything it has printed.
    pub fn stdout(&self) -> String {
        self.process.stdout()
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

    /// Ends it at once, as a crash would.
    pub fn kill(&self) {
        self.process.signal("KILL");
    }

    /// Asks it to leave.
    pub fn terminate(&self) {
        self.process.signal("TERM");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        self.process.wait()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.successors.end();
        if self.process.is_running() {
            self.terminate();
            let started = Instant::now();
            // What follows its last word is waiting for its own background threads, which no story is about.
            let has_left = || !self.process.is_running() || self.log().contains("nothing is in flight: the end");
            while !has_left() && started.elapsed() < LEAVE {
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

/// What a child writes, as it writes it.
struct Stream {
    text: Arc<Mutex<String>>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Process {
    /// Starts any program.
    pub(super) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting the program");
        Self {
            pid: child.id(),
            stdout: Stream::of(child.stdout.take().unwrap()),
            stderr: Stream::of(child.stderr.take().unwrap()),
            child: Mutex::new(child),
        }
    }

    /// What it has printed.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has complained about, and logged.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// How it ended; none while it runs.
    pub fn status(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().expect("asking for the state of a child")
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        eventually("the program ends", || self.status())
    }

    /// Sends a signal by name, with the shell's own `kill`: the standard library can only send SIGKILL.
    pub fn signal(&self, name: &str) {
        // Only while the child was not waited for, so the number is still its own.
        if self.is_running() {
            let kill = format!("kill -{name} {}", self.pid);
            let _ = Command::new("sh").args(["-c", &kill]).status();
        }
    }

    /// Ends it for sure, and waits for the last that it wrote.
    fn kill(&self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
        drop(child);
        self.stdout.finish();
        self.stderr.finish();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Stream {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let reader = {
            let text = Arc::clone(&text);
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    let mut text = lock(&text);
                    text.push_str(&String::from_utf8_lossy(&line));
                    text.push('\n');
                }
            })
        };
        Self {
            text,
            reader: Mutex::new(Some(reader)),
        }
    }

    fn text(&self) -> String {
        lock(&self.text).clone()
    }

    fn finish(&self) {
        if let Some(reader) = lock(&self.reader).take() {
            let _ = reader.join();
        }
    }
}

impl Output {
    pub(super) fn of(command: &mut Command) -> Self {
        let output = command.output().expect("running a program");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
