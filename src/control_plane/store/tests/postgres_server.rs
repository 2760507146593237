//! A real PostgreSQL for the tests, from the system's package: on a free port, in a directory of its own, and gone with
//! the process that started it, however that ends.

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The password of the user `tollgate`: one that shows up wherever it should not, and that a URL has to quote.
pub const PASSWORD: &str = "hunter2/at@home";

/// How long a busy machine may take to start it.
const PATIENCE: Duration = Duration::from_secs(60);

/// PostgreSQL refuses to run as root; then it runs as this user.
const NOBODY: u32 = 65_534;

/// Makes and runs the server, and then watches its own input: a word stops the server; the end of the input, which comes
/// when whoever holds the other end dies, also removes the directory.
const WATCH: &str = r#"
[ -d "$2/data" ] || "$1/initdb" --no-sync --encoding=UTF8 --no-locale --username=tollgate --auth=scram-sha-256 \
    --pwfile="$2/password" "$2/data" || echo "FATAL: no initdb"
"$1/postgres" -D "$2/data" -p "$3" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
    -c full_page_writes=off -c max_connections=500 -c shared_buffers=32MB &
read -r word
kill -QUIT $!
wait $!
[ -n "$word" ] || rm -rf "$2"
"#;

/// A server.
pub struct PostgresServer {
    directory: PathBuf,
    port: u16,
    watch: Option<Child>,
}

impl PostgresServer {
    /// The one that all tests of this process share. It ends with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<PostgresServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// One for a test that wants to stop it.
    pub fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("tollgate-postgres-")
            .tempdir()
            .unwrap()
            .keep();
        if is_root() {
            chown(&directory, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        fs::write(directory.join("password"), PASSWORD).unwrap();
        let mut server = Self {
            directory,
            port: 0,
            watch: None,
        };
        loop {
            server.port = free_port();
            match server.try_run() {
                Ok(()) => return server,
                // Somebody else took the port in the meantime.
                Err(log) => assert!(log.contains("in use"), "postgres: {log}"),
            }
        }
    }

    /// Starts it again after [`Self::stop`], on the same port and with what was in it.
    pub fn run(&mut self) {
        self.try_run().unwrap();
    }

    /// Ends it at once, as a crash would: connections break.
    pub fn stop(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            watch.stdin.take().unwrap().write_all(b"stop\n").unwrap();
            watch.wait().unwrap();
        }
    }

    /// The URL of a new database. Its texts are sorted as in a dictionary, so that who wants the order of bytes has to
    /// say so.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql(
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'"),
        );
        let password = PASSWORD.replace('/', "%2F").replace('@', "%40");
        format!("postgres://tollgate:{password}@127.0.0.1:{}/{name}", self.port)
    }

    /// What `psql` prints for a statement in a database.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let output = Command::new(binaries().join("psql"))
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "tollgate",
                "-d",
                database,
                "-p",
                &self.port.to_string(),
            ])
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .env("PGPASSWORD", PASSWORD)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "psql: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn try_run(&mut self) -> Result<(), String> {
        let log = self.directory.join("log");
        let file = File::create(&log).unwrap();
        let watch = unprivileged(Path::new("sh"))
            .args(["-c", WATCH, "watch"])
            .args([&binaries(), &self.directory])
            .arg(self.port.to_string())
            // Not for the terminal's Ctrl-C: it ends when its input does.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        self.watch = Some(watch);
        let until = Instant::now() + PATIENCE;
        loop {
            let said = fs::read_to_string(&log).unwrap();
            if said.contains("ready to accept connections") {
                return Ok(());
            }
            if said.contains("FATAL") || Instant::now() > until {
                self.stop();
                return Err(said);
            }
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            let _ = watch.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A command, as somebody whom PostgreSQL accepts.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={NOBODY}"))
        .arg(format!("--regid={NOBODY}"))
        .args(["--clear-groups", "--"])
        .arg(program)
        .current_dir("/");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Debian keeps each version in a directory of its own, and none on the PATH.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: scripts/install-tools.sh test");
    let newest = versions
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|directory| directory.join("postgres").exists())
        .max_by_key(|directory| {
            let version = directory.parent().and_then(Path::file_name).unwrap().to_string_lossy();
            version.parse::<u32>().unwrap_or(0)
        });
    newest.expect("PostgreSQL is installed: scripts/install-tools.sh test")
}

/// A port that nobody listens on. Those that the kernel gives to clients are left alone, so that a server finds its port
/// free when it comes back.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 22_100 + u16::try_from(std::process::id() % 500).unwrap() * 20 + step % 20;
        let is_taken = TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !is_taken && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
