//! The bootstrap configuration, `tollgate.yaml`: what a gateway process needs before it knows any revision.
//!
//! The file is read once. [`load`] turns the *raw* file (every key optional, every value as it was written) into
//! the *resolved* [`Config`], in which every default is filled in and every port is the one that will be bound.

mod cache;
mod control_plane;
mod dns;
mod key_cache;
mod listener;
mod raw;
mod resolve;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::document::{self, Document, Environment, Mistakes, Secret};
use crate::revision::{EnvironmentType, WithoutStore};
use crate::units::Ratio;

pub use self::cache::{Cache, CacheRedis};
pub use self::dns::{Addresses, Dns};
pub use self::key_cache::{KeyCache, KeyCacheLocation};
pub use self::listener::{CertificateFiles, ClientCertificates, Listener, Tls, TlsVersion};
pub use control_plane::{ControlPlane, KeysMode, OnPoolFull, RevisionSource, SkipList};

/// The configuration of a gateway process, without mistakes and without gaps.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which gateway this is.
    pub gateway: Gateway,
    /// What the process may use, and how long it waits.
    pub server: Server,
    /// Where clients connect. Never empty.
    pub listeners: Vec<Listener>,
    /// Health and metrics of this process.
    pub status: Status,
    /// Administration of this process; none without a token.
    pub admin: Option<Admin>,
    /// Where the revision comes from.
    pub revision: RevisionSource,
    /// Where counters are shared; without it they stay in this process.
    pub redis: Option<Redis>,
    /// How limits are shared between gateways, where a limit does not say it itself.
    pub throttle: Throttle,
    /// How what a key service says is remembered.
    pub key_cache: KeyCache,
    /// How host names and services of upstreams are looked up.
    pub dns: Dns,
    /// Where answers are kept.
    pub cache: Cache,
    /// What is written down about requests.
    pub telemetry: Telemetry,
}

/// Which gateway this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Tells this gateway from all others.
    pub id: String,
    /// The environment it serves.
    pub environment: String,
    /// Which key types are let in. None: what the revision's environment says; without a control plane, both.
    pub environment_type: Option<EnvironmentType>,
    /// Which APIs are deployed to it.
    pub labels: Vec<String>,
    /// The pool whose size counts it.
    pub pool: String,
    /// Where it stands, such as a rack.
    pub zone: Option<String>,
}

/// What the process may use, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Threads that serve requests; at least 1.
    pub threads: usize,
    /// What was added to every port; all addresses in [`Config`] have it already.
    pub port_offset: u16,
    /// Proxies in front of this gateway, whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What is refused beyond a size or number.
    pub limits: Limits,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// How this process hands over to the next one.
    pub upgrade: Upgrade,
}

/// What the socket is called in the directory that systemd made for this service.
pub const UPGRADE_SOCKET: &str = "upgrade.sock";

/// How a process hands over to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// Where it can be asked to; none: it can not.
    pub socket: Option<PathBuf>,
    /// How long the next process may take until it is ready to serve.
    pub timeout: Duration,
}

/// What is refused beyond a size or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at a time; at least 1.
    pub connections: usize,
    /// Client connections at a time from one address; at least 1.
    pub connections_per_address: usize,
    /// Head of a request in bytes.
    pub header_bytes: usize,
    /// Body of a request in bytes.
    pub body_bytes: u64,
    /// Requests at a time; at least 1.
    pub requests_in_flight: usize,
    /// Requests at a time on one HTTP/2 connection; at least 1.
    pub streams: usize,
}

/// How long clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the head of a request has come.
    pub header: Duration,
    /// How long a connection may be open without a request.
    pub idle: Duration,
    /// From the head of a request until the head of its answer, the request's body included: 408 or 504 after it.
    pub request: Duration,
    /// How long requests in flight may go on when the process leaves; may be zero.
    pub drain: Duration,
    /// How long streams may go on when the process leaves. None: as long as `drain` when it stops, longer when another
    /// process has taken over.
    pub drain_streams: Option<Duration>,
    /// How long readiness says 503 before anybody else is told that the process stops; may be zero.
    pub announce: Duration,
}

/// Health and metrics of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The address to bind; port 0 is any free one.
    pub address: SocketAddr,
}

/// Administration of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The address to bind; port 0 is any free one.
    pub address: SocketAddr,
    /// What a request has to carry as `Authorization: Bearer`; at least 16 characters, all printable ASCII.
    pub token: Secret,
}

/// Where counters are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is, in one of three forms: `redis://host:port`, `rediss://host:port` (TLS), each with `/N` for a database
    /// other than 0, or `unix:///path`, with `?db=N`. Several are the seed nodes of one cluster, all `redis:` or all
    /// `rediss:`, without databases. Never empty, and never with a user or password: those are taken out.
    pub urls: Vec<String>,
    /// As whom to log in; None is Redis' default user.
    pub username: Option<String>,
    /// With which password; None is without logging in.
    pub password: Option<Secret>,
    /// Certificates (PEM) to trust instead of the well-known ones. With `rediss:` only.
    pub ca: Option<PathBuf>,
    /// Until a connection stands, TLS and login included. Default 1 s.
    pub connect_timeout: Duration,
    /// How long an answer may take before the connection is given up. Default 250 ms.
    pub response_timeout: Duration,
}

/// How limits are shared between gateways, where a limit does not say it itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// What all gateways together may let through beyond a limit, as a share of it. Zero is strict. Default 5%.
    pub max_overrun: Ratio,
    /// How long a request may wait for the shared counter; zero is not at all, at most 1 s. Default 20 ms.
    pub max_wait: Duration,
    /// For how long ahead quota is taken: zero (ask for every request), or 50 ms to 5 s. Default 250 ms.
    pub lease: Duration,
    /// What happens while the shared counter is away. Default [`WithoutStore::Share`].
    pub on_store_down: WithoutStore,
    /// What happens to a request that has waited for `max_wait`. None: refused by limits whose overrun is zero, and as
    /// `on_store_down` says by the others.
    pub on_timeout: Option<WithoutStore>,
    /// How many gateways may share a limit at a time; at least 1. Default 10.
    pub instances: u32,
    /// How many counters this process keeps; 1000 to 100,000,000. Default 1,000,000.
    pub max_counters: u32,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            max_overrun: Ratio::percent(5),
            max_wait: Duration::from_millis(20),
            lease: Duration::from_millis(250),
            on_store_down: WithoutStore::Share,
            on_timeout: None,
            instances: 10,
            max_counters: 1_000_000,
        }
    }
}

/// What is written down about requests.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// One line for each request.
    pub access_log: AccessLog,
}

/// One line for each request.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Where the lines go.
    pub target: LogTarget,
    /// How a line is written.
    pub format: LogFormat,
    /// The share of requests that is written, 0.0 to 1.0.
    pub sample: f64,
}

/// Where the lines of a log go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, to which is appended.
    File(PathBuf),
}

/// How a line of the access log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object for each request.
    Json,
}

/// A configuration, and what somebody should look at.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Never an error.
    pub warnings: Mistakes,
}

/// Reads the bootstrap configuration. `port_offset` is the one of the command line and goes before the file's.
///
/// # Errors
/// Everything that is wrong with the file, at once. A file with warnings only is accepted.
pub fn load(path: &Path, environment: &Environment, port_offset: Option<u16>) -> Result<Loaded, Mistakes> {
    let text = document::read(path)?;
    parse(&text, &path.display().to_string(), environment, port_offset)
}

/// Reads the bootstrap configuration from a text that the user knows as `name`.
///
/// # Errors
/// Everything that is wrong with it, at once. A text with warnings only is accepted.
pub fn parse(text: &str, name: &str, environment: &Environment, port_offset: Option<u16>) -> Result<Loaded, Mistakes> {
    let mut document = Document::parse(text, name, environment)?;
    let (raw, dropped) = document.decode::<raw::RawConfig>();
    let place = document.place();
    let mut report = document.report;
    let config = raw.and_then(|raw| resolve::resolve(raw, place, environment, port_offset, &dropped, &mut report));
    let (source, warnings) = report.finish()?;
    match config {
        Some(config) => Ok(Loaded { config, warnings }),
        // Both give nothing only after they have reported an error.
        None => {
            let mut mistakes = warnings;
            mistakes.extend([source.mistake(place, document::Severity::Error, "the file could not be read")]);
            Err(mistakes)
        }
    }
}

/// Where a bootstrap file says that the revision is, whatever else is wrong with it: so that a check can go on there.
#[must_use]
pub fn revision_file(path: &Path, environment: &Environment) -> Option<PathBuf> {
    let text = document::read(path).ok()?;
    let mut document = Document::parse(&text, &path.display().to_string(), environment).ok()?;
    let (file, _) = document.decode::<serde_json::Value>();
    file?.pointer("/revision/file")?.as_str().map(PathBuf::from)
}

/// The JSON Schema of the file.
#[must_use]
pub fn schema() -> serde_json::Value {
    document::schema::of::<raw::RawConfig>("tollgate: tollgate.yaml")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn environment() -> Environment {
        let mut environment = Environment::fixed([("PORT", "9000"), ("THREADS", "3")], Timestamp::UNIX_EPOCH);
        environment.cores = 6;
        environment.machine = Some("0123456789abcdef".into());
        environment
    }

    fn config(text: &str) -> Config {
        loaded(text, None).config
    }

    fn loaded(text: &str, port_offset: Option<u16>) -> Loaded {
        parse(text, "t.yaml", &environment(), port_offset).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn warnings(text: &str) -> String {
        loaded(text, None).warnings.to_string()
    }

    fn mistakes(text: &str) -> String {
        parse(text, "t.yaml", &environment(), None).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_only_says_where_the_revision_is_gets_a_default_for_everything_else() {
        let config = config("revision: { file: conf/revision.yaml }\n");
        assert_eq!(
            config,
            Config {
                gateway: Gateway {
                    id: config.gateway.id.clone(),
                    environment: "Default".into(),
                    environment_type: None,
                    labels: vec!["Default".into()],
                    pool: "default".into(),
                    zone: None,
                },
                server: Server {
                    threads: 6,
                    port_offset: 0,
                    trusted_proxies: Vec::new(),
                    limits: Limits {
                        connections: 10_000,
                        connections_per_address: 7_500,
                        header_bytes: 32 << 10,
                        body_bytes: 10 << 20,
                        requests_in_flight: 10_000,
                        streams: 100,
                    },
                    timeouts: Timeouts {
                        header: Duration::from_secs(10),
                        idle: Duration::from_secs(60),
                        request: Duration::from_secs(60),
                        drain: Duration::from_secs(60),
                        drain_streams: None,
                        announce: Duration::ZERO,
                    },
                    upgrade: Upgrade {
                        socket: None,
                        timeout: Duration::from_secs(60),
                    },
                },
                listeners: vec![Listener::plain(([127, 0, 0, 1], 8280).into())],
                status: Status {
                    address: ([127, 0, 0, 1], 7085).into()
                },
                admin: None,
                revision: RevisionSource {
                    file: Some("conf/revision.yaml".into()),
                    control_plane: None,
                    skip_list: SkipList::default(),
                },
                redis: None,
                throttle: Throttle::default(),
                key_cache: KeyCache::default(),
                dns: Dns::default(),
                cache: Cache::default(),
                telemetry: Telemetry {
                    access_log: AccessLog {
                        target: LogTarget::Stdout,
                        format: LogFormat::Json,
                        sample: 1.0
                    }
                },
            }
        );
    }

    #[test]
    fn the_default_id_is_stable_tells_processes_apart_and_does_not_show_the_machine_id() {
        let minimal = "revision: { file: r.yaml }\n";
        let id = config(minimal).gateway.id;
        assert_eq!(id.len(), 11);
        assert!(id.starts_with("gw-") && !"0123456789abcdef".contains(&id[3..]));
        assert_eq!(id, config(minimal).gateway.id);
        let beside = loaded(minimal, Some(1)).config;
        assert_ne!(id, beside.gateway.id);
        let mut nameless = environment();
        nameless.machine = None;
        assert!(
            parse(minimal, "t.yaml", &nameless, None)
                .unwrap()
                .config
                .gateway
                .id
                .starts_with("gw-")
        );
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_place() {
        let text = "\
gateway:
  id: \"a\\nb\"
  environment_type: prod
server:
  threads: 0
  treads: 4
  trusted_proxies: [\"10.0.0.0/40\"]
  limits: { connections: 10, connections_per_address: 11, header_bytes: 2MiB, body_bytes: ten }
  timeouts: { header: 0s }
listeners:
  - address: localhost:8280
  - address: 0.0.0.0:8280
  - address: 0.0.0.0:8280
    tls: { certificates: [] }
cache: { memory: 256 }
telemetry: { access_log: { sample: 2 }, traces: {} }
";
        assert_eq!(
            mistakes(text),
            "\
t.yaml:1:1: there is no \"revision\"; write revision: { file: conf/revision.yaml }
t.yaml:2:7: \"a\\nb\" is not a name; write 1 to 128 printable ASCII characters without quotes, backslashes and spaces around it
t.yaml:3:21: expected one of hybrid, production, sandbox, found \"prod\"
t.yaml:5:12: \"threads\" has to be auto or from 1 to 1024, not 0
t.yaml:6:3: unknown key \"treads\" in server; did you mean \"threads\"?
t.yaml:7:21: \"10.0.0.0/40\" is not an address range; write 10.0.0.0/8, 2001:db8::/32 or a single address
t.yaml:8:55: one address cannot have more connections than all together (10)
t.yaml:8:73: \"header_bytes\" has to be from 1KiB to 1MiB
t.yaml:8:91: \"ten\" is not a size; write a whole number and B, KiB, MiB or GiB, such as 32KiB or 10MiB
t.yaml:9:23: the timeout \"header\" has to be longer than nothing and at most 1d
t.yaml:11:14: \"localhost:8280\" is not an IP address and a port; write 127.0.0.1:8280, 0.0.0.0:8280 or [::]:8280
t.yaml:13:14: the address 0.0.0.0:8280 is used by this process already, in line 12
t.yaml:14:10: \"tls\" has no \"certificates\"; write certificates: [{ certificate: FILE, key: FILE }]
t.yaml:15:18: \"256\" is not a size; write a whole number and B, KiB, MiB or GiB, such as 32KiB or 10MiB
t.yaml:16:36: \"sample\" has to be from 0.0 to 1.0, not 2
t.yaml:16:41: \"traces\" is not available in this build"
        );
    }

    #[test]
    fn every_feature_of_a_later_build_is_named_as_such() {
        assert_eq!(
            mistakes("revision: { file: r }\ntelemetry: { traces: { any: [thing] } }\n"),
            "t.yaml:2:14: \"traces\" is not available in this build"
        );
    }

    #[test]
    fn the_port_offset_is_added_to_every_port_and_the_command_line_goes_first() {
        let text = "server: { port_offset: 10 }\nlisteners: [{ address: \"127.0.0.1:8000\" }, { address: \"127.0.0.1:0\" }]\n\
                    revision: { file: r.yaml }\n";
        let ports = |config: &Config| {
            let mut ports: Vec<u16> = config.listeners.iter().map(|l| l.address.port()).collect();
            ports.push(config.status.address.port());
            ports
        };
        assert_eq!(ports(&config(text)), [8010, 0, 7095]);
        let shifted = loaded(text, Some(20)).config;
        assert_eq!(ports(&shifted), [8020, 0, 7105]);
        assert_eq!(shifted.server.port_offset, 20);
        let beyond = parse(text, "t.yaml", &environment(), Some(60_000))
            .unwrap_err()
            .to_string();
        assert!(
            beyond.contains("t.yaml:2:24: port 8000 and the port offset 60000 add up to more"),
            "{beyond}"
        );
    }

    #[test]
    fn two_listeners_on_any_free_port_are_no_mistake_but_status_on_a_listener_is() {
        config("listeners: [{ address: \"127.0.0.1:0\" }, { address: \"127.0.0.1:0\" }]\nrevision: { file: r }\n");
        let found = mistakes("listeners: [{ address: \"127.0.0.1:7085\" }]\nrevision: { file: r }\n");
        assert!(found.contains("the address 127.0.0.1:7085 is used"), "{found}");
    }

    #[test]
    fn a_reference_that_is_the_whole_value_can_be_a_number() {
        let config = config(
            "server: { threads: \"${THREADS}\", port_offset: \"${OFFSET:-5}\" }\n\
             listeners: [{ address: \"127.0.0.1:${PORT}\" }]\nrevision: { file: r }\n",
        );
        assert_eq!(config.server.threads, 3);
        assert_eq!(config.listeners[0].address.port(), 9005);
    }

    #[test]
    fn a_listener_list_or_revision_that_is_empty_is_a_mistake_and_not_a_default() {
        assert!(mistakes("listeners: []\nrevision: { file: r }\n").contains("t.yaml:1:12: a gateway needs a listener"));
        assert!(mistakes("listeners:\nrevision: { file: r }\n").contains("t.yaml:1:1: \"listeners\" has no value"));
        assert!(mistakes("revision: {}\n").contains("\"revision\" has no \"file\""));
        assert!(mistakes("revision: { file: \"\" }\n").contains("t.yaml:1:19: an empty text is not a file"));
        assert!(mistakes("{}").contains("there is no \"revision\""));
        assert!(mistakes("").contains("the file is empty"));
        assert!(mistakes("just text").contains("expected a mapping"));
    }

    #[test]
    fn the_access_log_goes_to_standard_output_a_file_or_nowhere() {
        let target = |path: &str| {
            let text =
                format!("revision: {{ file: r }}\ntelemetry: {{ access_log: {{ path: \"{path}\", sample: 0.5 }} }}\n");
            config(&text).telemetry.access_log.target
        };
        assert_eq!(target("-"), LogTarget::Stdout);
        assert_eq!(target("off"), LogTarget::Off);
        assert_eq!(target("/var/log/x.log"), LogTarget::File("/var/log/x.log".into()));
    }

    #[test]
    fn json_is_read_as_it_is() {
        let text = "{\n\t\"revision\": {\"file\": \"r.json\"},\n\t\"server\": {\"threads\": 2}\n}\n";
        assert_eq!(config(text).server.threads, 2);
    }

    #[test]
    fn the_schema_file_is_the_schema_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/schema/tollgate.schema.json");
        let expected = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == expected,
            "conf/schema/tollgate.schema.json is out of date; make it again with: \
             tollgate schema tollgate > conf/schema/tollgate.schema.json"
        );
    }

    #[test]
    fn the_shipped_files_have_no_mistakes_and_lead_to_revisions() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in ["conf/tollgate.yaml", "conf/minimal/tollgate.yaml"] {
            let loaded = load(&root.join(file), &environment(), None).unwrap_or_else(|mistakes| panic!("{mistakes}"));
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
            let revision = loaded.config.revision.file.unwrap();
            assert!(root.join(revision).is_file(), "{file}");
        }
    }

    #[test]
    fn the_admin_listener_takes_a_port_like_the_others_and_its_token_is_not_shown() {
        let with = |admin: &str| format!("revision: {{ file: r }}\nadmin: {admin}\n");
        let text = with("{ token: 0123456789abcdef }");
        let admin = loaded(&text, Some(10)).config.admin.unwrap();
        assert_eq!(admin.address, ([127, 0, 0, 1], 7096).into());
        assert_eq!(admin.token.expose(), "0123456789abcdef");
        assert!(!format!("{admin:?}").contains("0123456789abcdef"));
        assert_eq!(warnings(&text), "");
        assert_eq!(
            mistakes(&with("{ address: \"127.0.0.1:8280\", token: 0123456789abcdef }")),
            "t.yaml:2:19: the address 127.0.0.1:8280 is used by this process already, in line 1"
        );
    }

    #[test]
    fn without_a_good_token_there_is_no_admin_listener() {
        let with = |admin: &str| format!("revision: {{ file: r }}\nadmin: {admin}\n");
        let nobody = with("{ address: \"127.0.0.1:7086\" }");
        assert_eq!(config(&nobody).admin, None);
        assert_eq!(
            warnings(&nobody),
            "t.yaml:2:8: warning: without a \"token\" there is no admin listener; write token: \"${cred:admin-token}\" or \
             \"${file:/path}\", or remove \"admin\""
        );
        for (token, expected) in [
            ("\"\"", "an empty text is no token, because everybody knows it"),
            (
                "\"${NOTHING:-}\"",
                "an empty text is no token, because everybody knows it",
            ),
            (
                "0123456789abcde",
                "a token of 15 characters can be guessed; take at least 16",
            ),
            ("0123456789 abcdef", "printable ASCII characters without spaces"),
            ("0123456789äbcdef", "printable ASCII characters without spaces"),
            ("", "\"token\" has no value; write one or remove the key"),
            ("[0123456789abcdef]", "expected a string, found a list"),
        ] {
            let found = mistakes(&with(&format!("\n  token: {token}")));
            assert!(
                found.contains(expected) && found.starts_with("t.yaml:3:") && found.lines().count() == 1,
                "{token} gave {found}"
            );
            assert!(!found.contains("0123456789"), "{found}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_token_from_a_file_is_said_without_showing_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "hunter2\n").unwrap();
        let found = mistakes(&format!(
            "revision: {{ file: r }}\nadmin: {{ token: \"${{file:{}}}\" }}\n",
            path.display()
        ));
        assert!(
            found.starts_with("t.yaml:2:17: a token of 7 characters can be guessed"),
            "{found}"
        );
        assert!(!found.contains("hunter2"), "{found}");
    }

    #[test]
    fn an_admin_listener_that_others_can_reach_is_warned_of() {
        let with = |address: &str| {
            warnings(&format!(
                "revision: {{ file: r }}\nadmin: {{ address: \"{address}\", token: 0123456789abcdef }}\n"
            ))
        };
        for address in ["0.0.0.0:7086", "[::]:7086", "10.0.0.1:7086"] {
            let found = with(address);
            assert!(
                found.starts_with(&format!(
                    "t.yaml:2:19: warning: the admin listener on {address} can be reached from elsewhere"
                )),
                "{found}"
            );
        }
        for address in [
            "127.0.0.1:7086",
            "127.1.2.3:7086",
            "[::1]:7086",
            "[::ffff:127.0.0.1]:7086",
        ] {
            assert_eq!(with(address), "");
        }
    }

    /// Takes the comment sign from the blocks that are commented out as a whole.
    fn uncommented(text: &str) -> String {
        let mut inside = false;
        let mut result = String::new();
        for line in text.lines() {
            let (sign, rest) = match line.trim_start().strip_prefix("# ") {
                Some(rest) => (line.len() - rest.len(), rest),
                None => (0, ""),
            };
            inside = match rest {
                "admin:" | "redis:" | "throttle:" | "control_plane:" | "cache:" => true,
                rest => rest.starts_with("skip_list:") || inside && rest.starts_with("  "),
            };
            let indent = &line[..sign.saturating_sub(2)];
            match inside {
                true => result.extend([indent, rest]),
                false => result.push_str(line),
            }
            result.push('\n');
        }
        result
    }

    #[test]
    fn what_is_commented_out_in_the_annotated_file_works_and_says_what_the_defaults_are() {
        let directory = tempfile::tempdir().unwrap();
        let token = "0123456789abcdef0123456789abcdef";
        std::fs::write(directory.path().join("admin-token"), token).unwrap();
        std::fs::write(directory.path().join("control-plane-token"), token).unwrap();
        let text = uncommented(include_str!("../conf/tollgate.yaml"))
            .replace("/etc/tollgate", &directory.path().display().to_string());
        let Loaded { config, warnings } = loaded(&text, None);
        assert!(warnings.is_empty(), "{warnings}");
        let expected = super::tests::config(&format!(
            "revision:\n  file: conf/revision.yaml\n  control_plane: {{ urls: [\"https://control-1:9443\", \
             \"https://control-2:9443\"], token: {token}, state_dir: /var/lib/tollgate }}\n\
             admin: {{ token: {token} }}\nredis: {{ urls: [redis://127.0.0.1] }}\n\
             cache: {{ redis: {{ urls: [\"redis://127.0.0.1:6380\"] }} }}\n"
        ));
        assert!(expected.revision.control_plane.is_some() && expected.admin.is_some() && expected.redis.is_some());
        assert_eq!(config, expected);
    }

    #[test]
    fn the_annotated_file_says_what_the_defaults_are() {
        let annotated = include_str!("../conf/tollgate.yaml");
        assert_eq!(config(annotated), config("revision: { file: conf/revision.yaml }\n"));
    }
}
