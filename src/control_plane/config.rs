//! The bootstrap configuration of a control plane, `control-plane.yaml`: what its process needs before it knows its
//! store.
//!
//! The file is read once. [`load`] turns the *raw* file (every key optional, every value as it was written) into the
//! *resolved* [`Config`], in which every default is filled in and the port is the one that will be bound.

mod raw;
mod resolve;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::store::Location;
use crate::document::{self, Document, Environment, Mistakes, Secret, Severity};

/// The configuration of a control plane, without mistakes and without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where operators and gateways connect.
    pub listener: Listener,
    /// What was added to the port; the address in [`Config::listener`] has it already.
    pub port_offset: u16,
    /// Where everything is kept.
    pub store: Location,
    /// An administrator's token that is known from the first start on; at least 16 characters, all printable ASCII.
    pub bootstrap_token: Option<Secret>,
    /// What vouches for manifests; none: one is made and kept in the store.
    pub signing_key: Option<Secret>,
    /// How revisions reach gateways.
    pub distribution: Distribution,
    /// Pools of gateways.
    pub pools: Pools,
    /// Tokens that are issued here.
    pub oauth2: OAuth2,
    /// Keys of applications.
    pub keys: Keys,
}

/// Where operators and gateways connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The address to bind; port 0 is any free one.
    pub address: SocketAddr,
    /// HTTPS; none is HTTP.
    pub tls: Option<Tls>,
}

/// A certificate. The files are read again when they change. As written: a relative path is relative to the directory
/// in which the process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate and those between it and its authority, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// How revisions reach gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distribution {
    /// How many gateways fetch something large at a time; at least 1. Default 256.
    pub snapshot_slots: u32,
    /// Bytes per second that leave this host; at least 64 KiB. Default 125 MiB.
    pub bandwidth: u64,
    /// How many polls wait at a time; at least 1. Default 20,000.
    pub polls: u32,
    /// How long gateways are told to wait in a poll; 1 s to 60 s. Default 50 s.
    pub wait: Duration,
    /// Within which time gateways are told to fetch; at most 60 s. Default 1 s.
    pub spread: Duration,
}

/// Pools of gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pools {
    /// How long a seat lasts without a sign of life; 5 s to 10 min. Default 30 s.
    pub seat_ttl: Duration,
    /// For how much longer a gateway gets its seat back although its pool is full; at most 7 days. Default 5 min.
    pub reclaim: Duration,
}

/// Tokens that are issued here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2 {
    /// Who issues them; none: the address of the listener as a URL.
    pub issuer: Option<String>,
    /// How long they last; 1 s to 1 day. Default 1 h.
    pub token_lifetime: Duration,
}

/// Keys of applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// After so many changes all keys are written down anew; at least 1. Default 100,000.
    pub base_every: u32,
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            snapshot_slots: 256,
            bandwidth: 125 << 20,
            polls: 20_000,
            wait: Duration::from_secs(50),
            spread: Duration::from_secs(1),
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self { base_every: 100_000 }
    }
}

/// A configuration, and what somebody should look at.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Never an error.
    pub warnings: Mistakes,
}

/// Reads the configuration. `port_offset` is the one of the command line and goes before the file's.
///
/// # Errors
/// Everything that is wrong with the file, at once. A file with warnings only is accepted.
pub fn load(path: &Path, environment: &Environment, port_offset: Option<u16>) -> Result<Loaded, Mistakes> {
    let text = document::read(path)?;
    parse(&text, &path.display().to_string(), environment, port_offset)
}

/// Reads the configuration from a text that the user knows as `name`.
///
/// # Errors
/// Everything that is wrong with it, at once. A text with warnings only is accepted.
pub fn parse(text: &str, name: &str, environment: &Environment, port_offset: Option<u16>) -> Result<Loaded, Mistakes> {
    let mut document = Document::parse(text, name, environment)?;
    let (raw, dropped) = document.decode::<raw::RawConfig>();
    let place = document.place();
    let mut report = document.report;
    let config = raw.map(|raw| resolve::resolve(raw, port_offset, &dropped, &mut report));
    let (source, warnings) = report.finish()?;
    match config {
        Some(config) => Ok(Loaded { config, warnings }),
        // Nothing was decoded only after an error was reported.
        None => {
            let mut mistakes = warnings;
            mistakes.extend([source.mistake(place, Severity::Error, "the file could not be read")]);
            Err(mistakes)
        }
    }
}

/// The JSON Schema of the file.
#[must_use]
pub fn schema() -> serde_json::Value {
    document::schema::of::<raw::RawConfig>("tollgate: control-plane.yaml")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const SEED: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn environment() -> Environment {
        Environment::fixed([("PORT", "9000")], Timestamp::UNIX_EPOCH)
    }

    fn loaded(text: &str, port_offset: Option<u16>) -> Loaded {
        parse(text, "t.yaml", &environment(), port_offset).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn mistakes(text: &str) -> String {
        parse(text, "t.yaml", &environment(), None).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_says_nothing_gets_a_default_for_everything() {
        let Loaded { config, warnings } = loaded("{}", None);
        assert!(warnings.is_empty(), "{warnings}");
        assert_eq!(
            config,
            Config {
                listener: Listener {
                    address: ([127, 0, 0, 1], 9443).into(),
                    tls: None,
                },
                port_offset: 0,
                store: Location::Sqlite("/var/lib/tollgate/control-plane.db".into()),
                bootstrap_token: None,
                signing_key: None,
                distribution: Distribution::default(),
                pools: Pools {
                    seat_ttl: Duration::from_secs(30),
                    reclaim: Duration::from_secs(300),
                },
                oauth2: OAuth2 {
                    issuer: None,
                    token_lifetime: Duration::from_secs(3600),
                },
                keys: Keys::default(),
            }
        );
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_place() {
        let text = "\
listener: { address: localhost:9443, tls: { certificate: \"\" } }
store: { sqlite: a.db, postgres: \"postgres://u:hunter2@h/d\" }
bootstrap_token: short
signing_key: c2hvcnQ=
distribution: { snapshot_slots: 0, bandwidth: 1KiB, polls: 0, wait: 2m, spread: ten }
pools: { seat_ttl: 1s, reclaim: 8d, seats: 3 }
oauth2: { issuer: cp, token_lifetime: 0s }
keys: { base_every: 0 }
";
        assert_eq!(
            mistakes(text),
            "\
t.yaml:1:22: \"localhost:9443\" is not an IP address and a port; write 127.0.0.1:8280, 0.0.0.0:8280 or [::]:8280
t.yaml:1:43: \"tls\" has no \"key\"; write tls: { certificate: PATH, key: PATH }
t.yaml:1:58: an empty text is not a file
t.yaml:2:34: \"store\" has \"sqlite\" and \"postgres\"; keep one of them
t.yaml:3:18: a token of 5 characters can be guessed; take at least 16, such as those of `openssl rand -hex 32`
t.yaml:4:14: this is not a signing key; it is 32 random bytes in base64, such as those of `openssl rand -base64 32`
t.yaml:5:33: \"snapshot_slots\" has to be from 1 to 100000, not 0
t.yaml:5:47: \"bandwidth\" is what leaves this host in a second, and at least 64KiB
t.yaml:5:60: \"polls\" has to be from 1 to 1000000, not 0
t.yaml:5:69: \"wait\" has to be from 1s to 60s
t.yaml:5:81: \"ten\" is not a duration; write a whole number and ms, s, m, h or d, such as 250ms or 30s
t.yaml:6:20: \"seat_ttl\" has to be from 5s to 10m
t.yaml:6:33: \"reclaim\" has to be from 0s to 7d
t.yaml:6:37: unknown key \"seats\" in pools; known here: seat_ttl, reclaim
t.yaml:7:19: \"cp\" is not an issuer; write a URL without a query, such as https://cp.example.com:9443
t.yaml:7:39: \"token_lifetime\" has to be from 1s to 1d
t.yaml:8:21: \"base_every\" has to be from 1 to 4294967295, not 0"
        );
    }

    #[test]
    fn no_secret_is_in_a_message_or_in_what_is_printed_of_a_configuration() {
        for text in [
            "store: { postgres: \"hunter2\" }",
            "store: { postgres: \"https://u:hunter2@h/d\" }",
            "bootstrap_token: \"hunter2\"",
            "signing_key: \"hunter2\"",
        ] {
            let found = mistakes(text);
            assert!(!found.contains("hunter2") && found.lines().count() == 1, "{found}");
        }
        let text = format!(
            "bootstrap_token: hunter2-hunter2-hunter2\nsigning_key: {SEED}\nstore: {{ postgres: \"postgres://u:hunter2@h/d\" }}\n"
        );
        let config = loaded(&text, None).config;
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(SEED), "{shown}");
        assert_eq!(config.store, Location::Postgres("postgres://u:hunter2@h/d".into()));
    }

    #[test]
    fn a_store_is_one_of_the_two() {
        assert!(mistakes("store: {}").contains("\"store\" says nothing"));
        assert_eq!(
            loaded("store: { sqlite: cp.db }", None).config.store,
            Location::Sqlite("cp.db".into())
        );
    }

    #[test]
    fn the_port_is_shifted_and_the_command_line_goes_first() {
        let text = "server: { port_offset: 2 }\n";
        assert_eq!(loaded(text, None).config.listener.address.port(), 9445);
        assert_eq!(loaded(text, Some(10)).config.listener.address.port(), 9453);
        assert_eq!(
            loaded("listener: { address: \"127.0.0.1:0\" }", Some(10))
                .config
                .listener
                .address
                .port(),
            0
        );
        let found = mistakes("listener: { address: \"127.0.0.1:65535\" }\nserver: { port_offset: 1 }\n");
        assert!(found.contains("add up to more than 65535"), "{found}");
    }

    #[test]
    fn tokens_that_would_be_sent_in_clear_are_warned_of() {
        let warnings = |text: &str| loaded(text, None).warnings.to_string();
        let found = warnings("listener: { address: \"0.0.0.0:9443\" }");
        assert!(
            found.starts_with("t.yaml:1:22: warning: 0.0.0.0:9443 can be reached from elsewhere"),
            "{found}"
        );
        assert_eq!(
            warnings("listener: { address: \"0.0.0.0:9443\", tls: { certificate: a, key: b } }"),
            ""
        );
        assert_eq!(warnings("listener: { address: \"[::1]:9443\" }"), "");
    }

    #[test]
    fn the_schema_file_is_the_schema_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/schema/control-plane.schema.json");
        let expected = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == expected,
            "conf/schema/control-plane.schema.json is out of date; make it again with: \
             tollgate schema control-plane > conf/schema/control-plane.schema.json"
        );
    }

    #[test]
    fn the_annotated_file_says_what_the_defaults_are() {
        let annotated = include_str!("../../conf/control-plane.yaml");
        let Loaded { config, warnings } = loaded(annotated, None);
        assert!(warnings.is_empty(), "{warnings}");
        assert_eq!(config, loaded("{}", None).config);
    }

    #[test]
    fn what_is_commented_out_in_the_annotated_file_works() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("admin-token"), "0123456789abcdef").unwrap();
        std::fs::write(directory.path().join("signing-key"), SEED).unwrap();
        std::fs::write(
            directory.path().join("postgres-url"),
            "postgres://tollgate:pw@db/tollgate",
        )
        .unwrap();
        let text: String = include_str!("../../conf/control-plane.yaml")
            .lines()
            // One of the two stores only.
            .filter(|line| !line.trim_start().starts_with("sqlite:"))
            .map(|line| {
                let indent = line.len() - line.trim_start().len();
                let bare = line.trim_start().strip_prefix("# ").filter(|rest| {
                    ["bootstrap_token:", "signing_key:", "tls:", "postgres:", "issuer:"]
                        .iter()
                        .any(|key| rest.starts_with(key))
                });
                bare.map_or_else(|| line.to_owned(), |rest| format!("{}{rest}", " ".repeat(indent))) + "\n"
            })
            .collect();
        let text = text.replace("/etc/tollgate/", &format!("{}/", directory.path().display()));
        let Loaded { config, warnings } = loaded(&text, None);
        assert!(warnings.is_empty(), "{warnings}");
        assert!(config.listener.tls.is_some() && config.bootstrap_token.is_some() && config.signing_key.is_some());
        assert!(config.oauth2.issuer.is_some());
        assert!(matches!(config.store, Location::Postgres(_)));
    }
}
