//! Real servers for the tests: `redis-server` processes on free ports, gone when dropped.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a busy machine may take for what is expected.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server with a directory of its own.
pub(crate) struct Server {
    directory: TempDir,
    arguments: Vec<String>,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Server {
    /// A server without anything special.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// A server with more arguments. `DIR` in them is its directory, `PORT` its port.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::in_directory(tempfile::tempdir().unwrap(), arguments)
    }

    pub(crate) fn in_directory(directory: TempDir, arguments: &[&str]) -> Self {
        let mut server = Self {
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            directory,
            port: 0,
            child: None,
        };
        loop {
            server.port = free_port();
            // Somebody else may have taken the port in the meantime.
            match server.try_run() {
                Ok(()) => return server,
                Err(log) => assert!(log.contains("in use"), "redis-server: {log}"),
            }
        }
    }

    /// Starts the process again, on the same port.
    pub(crate) fn run(&mut self) {
        self.try_run().unwrap();
    }

    fn try_run(&mut self) -> Result<(), String> {
        let log = fs::File::create(self.path("log")).unwrap();
        let child = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--repl-diskless-sync-delay",
                "0",
                "--dir",
            ])
            .arg(self.directory.path())
            .args(["--port", &self.port.to_string()])
            .args(self.arguments.iter().map(|argument| {
                argument
                    .replace("DIR", self.directory.path().to_str().unwrap())
                    .replace("PORT", &self.port.to_string())
            }))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        let until = Instant::now() + PATIENCE;
        loop {
            let running = self.is_running();
            let log = fs::read_to_string(self.path("log")).unwrap();
            if log.contains("Ready to accept connections") {
                return Ok(());
            }
            if !running || Instant::now() > until {
                return Err(log);
            }
            sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` prints for a command.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output()
            .expect("redis-cli is installed");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// SIGKILL: the connections break.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP: the connections stay, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("the server runs").id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three masters with a third of the slots each.
pub(crate) struct Cluster(pub(crate) Vec<Server>);

impl Cluster {
    pub(crate) fn start() -> Self {
        let servers: Vec<Server> = (0..3).map(|_| Self::member()).collect();
        for (server, range) in servers
            .iter()
            .zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")])
        {
            assert_eq!(server.cli(&["cluster", "addslotsrange", range.0, range.1]), "OK");
        }
        let cluster = Self(servers);
        for (epoch, server) in cluster.0.iter().enumerate() {
            server.cli(&["cluster", "set-config-epoch", &(epoch + 1).to_string()]);
        }
        for server in &cluster.0[1..] {
            cluster.meet(server);
        }
        for server in &cluster.0 {
            wait_for("a whole cluster", || {
                let info = server.cli(&["cluster", "info"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            });
        }
        cluster
    }

    /// A server that may join a cluster.
    pub(crate) fn member() -> Server {
        Server::with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"])
    }

    pub(crate) fn meet(&self, server: &Server) {
        self.0[0].cli(&["cluster", "meet", "127.0.0.1", &server.port.to_string()]);
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.0.iter().map(Server::url).collect()
    }
}

/// A certificate authority, and a certificate of it for `127.0.0.1`: `ca.pem`, `server.pem`, `server.key`.
pub(crate) fn certificates(directory: &Path) {
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(directory)
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = [
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    openssl(&[&authority[..], &key[..]].concat());
    let request = [
        "req",
        "-subj",
        "/CN=server",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ];
    openssl(&[&request[..], &key[..]].concat());
    fs::write(
        directory.join("names"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-set_serial",
        "1",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ]);
}

/// A port that nobody listens on, with room above it for a cluster's bus. Ports that the kernel gives to clients are
/// left alone, so that a server finds its port free when it comes back.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = u16::try_from(std::process::id() % 400).unwrap() * 20 + step;
        let port = 12_000 + offset % 10_000;
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok() && !is_taken(port);
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}

fn is_taken(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Waits until something is so; fails after a long time.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "still waiting for {what}");
        sleep(Duration::from_millis(5));
    }
}
