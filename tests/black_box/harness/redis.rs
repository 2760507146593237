//! The store that gateways share: a real Redis.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Connection, FromRedisValue, RedisResult};
use tempfile::TempDir;

use super::gateway::shell;
use super::port::Port;
use super::{PATIENCE, Process, eventually};

/// Commands that belong to connecting and looking, and not to the trade in tickets.
const NO_TRADE: [&str; 10] = [
    "auth", "client", "cluster", "command", "config", "hello", "info", "keys", "ping", "role",
];

/// A Redis with nothing in it and nothing on disk. Ends when dropped.
pub struct RedisServer {
    process: Mutex<Process>,
    arguments: Vec<String>,
    scheme: &'static str,
    /// Where its users connect to.
    address: SocketAddr,
    /// Where the test connects to: never encrypted.
    plain: SocketAddr,
    password: Option<String>,
    ca: Option<PathBuf>,
    _ports: Vec<Port>,
    _directory: TempDir,
}

impl RedisServer {
    /// Starts one on a free port.
    #[track_caller]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with more arguments than it needs.
    #[track_caller]
    pub fn start_with(arguments: &[&str]) -> Self {
        Plan::new().arguments(arguments).start()
    }

    /// One that wants this password.
    #[track_caller]
    pub fn with_password(password: &str) -> Self {
        let mut plan = Plan::new().arguments(&["--requirepass", password]);
        plan.password = Some(password.to_owned());
        plan.start()
    }

    /// One that is spoken to over TLS. Its certificate is for 127.0.0.1, from an authority of its own: [`Self::ca`].
    #[track_caller]
    pub fn with_tls() -> Self {
        Plan::new().encrypted().start()
    }

    /// Where users find it.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The address in [`Self::url`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate of the authority that vouches for it, if it speaks TLS.
    pub fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    /// Halts it in the middle of whatever it does. Its connections stay, and nothing on them is answered.
    pub fn stop(&self) {
        self.process().signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process().signal("CONT");
    }

    /// Ends it as a crash would. Its port stays reserved: connecting is refused.
    #[track_caller]
    pub fn kill(&self) {
        let process = self.process();
        process.signal("KILL");
        process.wait();
    }

    /// Starts it again on its port after [`Self::kill`], with nothing in it.
    #[track_caller]
    pub fn restart(&self) {
        let mut process = self.process();
        assert!(!process.is_running(), "it is there already");
        *process = launch(&self.arguments);
        drop(process);
        self.wait_until_it_answers();
    }

    /// Forgets everything.
    #[track_caller]
    pub fn flush(&self) {
        let () = self.ask(redis::cmd("FLUSHALL").arg("SYNC"));
    }

    /// How often each command was called since it was started; a subcommand counts for its command.
    #[track_caller]
    pub fn commands_processed(&self) -> HashMap<String, u64> {
        let text: String = self.ask(redis::cmd("INFO").arg("commandstats"));
        let mut commands = HashMap::new();
        for line in text.lines() {
            // cmdstat_client|setinfo:calls=2,usec=…
            let Some((command, figures)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else {
                continue;
            };
            let command = command.split('|').next().unwrap_or_default();
            let calls = figures.strip_prefix("calls=").and_then(|rest| rest.split(',').next());
            let calls: u64 = calls.and_then(|calls| calls.parse().ok()).expect("a number of calls");
            *commands.entry(command.to_owned()).or_default() += calls;
        }
        commands
    }

    /// How many commands it was given, without those for connecting and looking (and without what the test did, as long
    /// as it only looked).
    #[track_caller]
    pub fn trades(&self) -> u64 {
        self.commands_processed()
            .iter()
            .filter(|(command, _)| !NO_TRADE.contains(&command.as_str()))
            .map(|(_, calls)| calls)
            .sum()
    }

    /// Every key, sorted.
    #[track_caller]
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(redis::cmd("KEYS").arg("*"));
        keys.sort();
        keys
    }

    /// The value of a key. This is a command that counts as a trade.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        self.ask(redis::cmd("GET").arg(key))
    }

    /// Sends it any command.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> T {
        self.try_ask(command)
            .unwrap_or_else(|error| panic!("asking Redis: {error}"))
    }

    /// The same, for when it may be away.
    pub fn try_ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> RedisResult<T> {
        command.query(&mut self.connect(PATIENCE)?)
    }

    /// Whether it answers within so much time.
    pub fn answers_within(&self, time: Duration) -> bool {
        self.connect(time)
            .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection))
            .is_ok()
    }

    fn connect(&self, patience: Duration) -> RedisResult<Connection> {
        let login = self
            .password
            .as_ref()
            .map_or_else(String::new, |password| format!(":{password}@"));
        let client = redis::Client::open(format!("redis://{login}{}", self.plain))?;
        let connection = client.get_connection_with_timeout(patience)?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        Ok(connection)
    }

    #[track_caller]
    fn wait_until_it_answers(&self) {
        eventually("Redis answers", || {
            let process = self.process();
            assert!(process.is_running(), "Redis ended:\n{}", process.stdout());
            self.answers_within(PATIENCE).then_some(())
        });
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that is going to be started.
pub(super) struct Plan {
    directory: TempDir,
    ports: Vec<Port>,
    arguments: Vec<String>,
    tls: bool,
    password: Option<String>,
}

impl Plan {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = Port::free();
        let mut plan = Self {
            arguments: Vec::new(),
            directory,
            ports: Vec::new(),
            tls: false,
            password: None,
        };
        let path = plan.path("").display().to_string();
        plan = plan.arguments(&["--port", &port.number(), "--bind", "127.0.0.1", "--dir", &path]);
        plan = plan.arguments(&["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        plan.ports.push(port);
        plan
    }

    pub(super) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// With a port for what the nodes of a cluster tell each other.
    pub(super) fn clustered(mut self) -> Self {
        let bus = Port::free();
        self = self.arguments(&["--cluster-enabled", "yes", "--cluster-port", &bus.number()]);
        self.ports.push(bus);
        self
    }

    fn encrypted(mut self) -> Self {
        let port = Port::free();
        // Made on the spot, because a certificate in the repository would expire one day.
        let made = shell(&format!(
            "cd '{}' && exec 2>&1 && \
             openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
                 -subj '/CN=tests' -keyout ca.key -out ca.crt && \
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                 -subj '/CN=redis' -keyout redis.key -out redis.csr && \
             echo 'subjectAltName = IP:127.0.0.1' > redis.ext && \
             openssl x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile redis.ext -out redis.crt",
            self.path("").display()
        ));
        assert_eq!(made.code, Some(0), "making certificates: {}", made.stdout);
        let [certificate, key, ca] =
            ["redis.crt", "redis.key", "ca.crt"].map(|name| self.path(name).display().to_string());
        self = self.arguments(&["--tls-port", &port.number(), "--tls-auth-clients", "no"]);
        self = self.arguments(&["--tls-cert-file", &certificate, "--tls-key-file", &key]);
        self = self.arguments(&["--tls-ca-cert-file", &ca]);
        self.ports.push(port);
        self.tls = true;
        self
    }

    #[track_caller]
    pub(super) fn start(self) -> RedisServer {
        let server = RedisServer {
            process: Mutex::new(launch(&self.arguments)),
            scheme: if self.tls { "rediss" } else { "redis" },
            address: self.ports[usize::from(self.tls)].address(),
            plain: self.ports[0].address(),
            password: self.password.clone(),
            ca: self.tls.then(|| self.path("ca.crt")),
            arguments: self.arguments,
            _ports: self.ports,
            _directory: self.directory,
        };
        server.wait_until_it_answers();
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn launch(arguments: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command.args(arguments);
    Process::start(command)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn set(server: &RedisServer, key: &str, value: u32) {
        let () = server.ask(redis::cmd("SET").arg(key).arg(value));
    }

    #[test]
    fn a_redis_keeps_what_it_is_told_and_tells_what_it_was_asked() {
        let server = RedisServer::start();
        assert_eq!((server.keys(), server.trades()), (vec![], 0));
        set(&server, "b", 2);
        set(&server, "a", 1);
        let commands = server.commands_processed();
        assert_eq!((commands["set"], server.trades()), (2, 2), "{commands:?}");
        assert_eq!(server.keys(), ["a", "b"]);
        assert_eq!(server.get("b").as_deref(), Some("2"));
        server.flush();
        assert_eq!((server.keys(), server.get("b")), (vec![], None));
    }

    #[test]
    fn a_stopped_redis_answers_nobody_until_it_is_resumed() {
        let server = RedisServer::start();
        set(&server, "a", 1);
        server.stop();
        assert!(!server.answers_within(Duration::from_millis(100)));
        server.resume();
        assert!(server.answers_within(PATIENCE));
        assert_eq!(server.get("a").as_deref(), Some("1"));
    }

    #[test]
    fn a_killed_redis_refuses_connections_and_comes_back_empty_at_the_same_place() {
        let server = RedisServer::start();
        set(&server, "a", 1);
        let url = server.url();
        for _ in 0..2 {
            server.kill();
            let asked = Instant::now();
            assert!(!server.answers_within(PATIENCE));
            assert!(asked.elapsed() < PATIENCE, "refused, not unanswered");
            server.restart();
            assert_eq!((server.keys(), server.url()), (vec![], url.clone()));
        }
    }

    #[test]
    fn a_redis_with_a_password_lets_in_only_who_knows_it() {
        let server = RedisServer::with_password("a long secret");
        set(&server, "a", 1);
        let stranger = redis::Client::open(server.url()).unwrap().get_connection();
        let answer = stranger.and_then(|mut connection| redis::cmd("GET").arg("a").query::<String>(&mut connection));
        assert!(answer.unwrap_err().to_string().contains("NOAUTH"));
    }

    #[test]
    fn a_redis_with_tls_shows_a_certificate_of_its_own_authority() {
        let server = RedisServer::with_tls();
        assert!(server.url().starts_with("rediss://127.0.0.1:"), "{}", server.url());
        set(&server, "a", 1);
        let shown = shell(&format!(
            "openssl s_client -connect {} -CAfile '{}' -verify_ip 127.0.0.1 -verify_return_error </dev/null 2>&1",
            server.address(),
            server.ca().unwrap().display()
        ));
        assert!(shown.stdout.contains("Verify return code: 0 (ok)"), "{}", shown.stdout);
    }

    #[test]
    fn a_redis_ends_with_the_test() {
        let server = RedisServer::start();
        let address = server.address();
        drop(server);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
