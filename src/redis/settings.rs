//! Where Redis is and how it is talked to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ::redis::{ConnectionAddr, IntoConnectionInfo};

use crate::document::Secret;

/// The schemes of a server's URL; those of Valkey mean the same.
const SCHEMES: &str = "redis:// (plain), rediss:// (TLS) or unix:// (socket)";

/// How a deployment is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// One server, or several seed nodes of one Redis Cluster.
    pub urls: Vec<ServerUrl>,
    /// The ACL user; none is the default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// A PEM bundle that is trusted instead of the system's roots. Certificates are always verified.
    pub tls_ca: Option<PathBuf>,
    /// For a connection with its TLS handshake.
    pub connect_timeout: Duration,
    /// From sending a pipeline to its whole reply.
    pub response_timeout: Duration,
    /// Round trips above this make a server slow.
    pub slow_after: Duration,
}

impl Settings {
    /// These servers, with everything else as it is by default.
    #[must_use]
    pub fn new(urls: Vec<ServerUrl>) -> Self {
        Self {
            urls,
            username: None,
            password: None,
            tls_ca: None,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(250),
            slow_after: Duration::from_millis(20),
        }
    }

    /// The user and the password, from wherever they are written.
    pub(super) fn credentials(&self) -> Result<(Option<String>, Option<Secret>), SettingsError> {
        let mut found = (self.username.clone(), self.password.clone());
        for url in &self.urls {
            let there = (url.username.clone(), url.password.clone());
            if there == (None, None) || there == found {
                continue;
            }
            if found != (None, None) {
                return Err(SettingsError::new(format!(
                    "redis: the URL of {url} has a user or a password other than what is written elsewhere; write them \
                     once, as \"username\" and \"password\""
                )));
            }
            found = there;
        }
        if found.0.is_some() && found.1.is_none() {
            return Err(SettingsError::new(
                "redis: a user needs a password; add \"password\", or remove the user".to_owned(),
            ));
        }
        Ok(found)
    }

    /// Whether several URLs go together.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let Some(first) = self.urls.first() else {
            return Err(SettingsError::new(
                "redis: no URL; write one for a server, or several nodes of a cluster".to_owned(),
            ));
        };
        for (position, url) in self.urls.iter().enumerate() {
            let because = if self.urls.len() == 1 {
                break;
            } else if matches!(url.endpoint, Endpoint::Unix(_)) {
                "is a socket, which a cluster does not have; several URLs are nodes of one Redis Cluster"
            } else if url.database != 0 {
                "has a database number, which a cluster does not know; several URLs are nodes of one Redis Cluster"
            } else if url.tls != first.tls {
                "differs from the first one in redis:// or rediss://; use one of them for the whole cluster"
            } else if self
                .urls
                .iter()
                .take(position)
                .any(|other| other.endpoint == url.endpoint)
            {
                "is written twice"
            } else {
                continue;
            };
            return Err(SettingsError::new(format!("redis: the URL of {url} {because}")));
        }
        if self.tls_ca.is_some() && !first.tls {
            return Err(SettingsError::new(
                "redis: \"ca\" without TLS; write rediss:// in the URLs, or remove it".to_owned(),
            ));
        }
        for (name, duration) in [
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
            ("max_wait", self.slow_after),
        ] {
            if duration.is_zero() {
                return Err(SettingsError::new(format!("redis: {name} has to be more than 0")));
            }
        }
        Ok(())
    }
}

/// Where one server is: `redis://`, `rediss://` (TLS) or `unix://`. Shown without credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    pub(super) endpoint: Endpoint,
    pub(super) tls: bool,
    pub(super) database: i64,
    username: Option<String>,
    password: Option<Secret>,
}

/// What can be connected to. Shown as `host:port` or the path of the socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl FromStr for ServerUrl {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        // No message shows the text: it may hold a password in a place where it does not belong.
        let error = |what: &str| SettingsError::new(format!("not the URL of a Redis server: {what}"));
        let Some(mut url) = ::redis::parse_redis_url(text) else {
            return Err(error(&format!("it has to begin with {SCHEMES}")));
        };
        let socket = url.scheme().ends_with("unix");
        if url.fragment().is_some() {
            return Err(error(
                "nothing may follow a \"#\", least of all \"insecure\"; write \"ca\" for a private certificate authority",
            ));
        }
        if let Some((name, _)) = url.query_pairs().find(|(name, _)| !(socket && name == "db")) {
            return Err(error(&format!(
                "the parameter {name:?} is not known; the database of a server is written as redis://host:port/1, of \
                 a socket as unix:///path?db=1"
            )));
        }
        if socket && url.host().is_some() {
            return Err(error(
                "the path of a socket begins with a slash, unix:///run/redis.sock",
            ));
        }
        if !socket && url.host_str().is_none_or(str::is_empty) {
            return Err(error("it has no host"));
        }
        let tls = matches!(url.scheme(), "rediss" | "valkeys");
        // TLS is ours (see `connect`), and the parser of a client without it refuses the scheme.
        if tls && url.set_scheme("redis").is_err() {
            return Err(error("its scheme does not go with the rest"));
        }
        let info = url
            .into_connection_info()
            .map_err(|problem| error(problem.detail().unwrap_or(&problem.to_string())))?;
        let settings = info.redis_settings();
        if settings.db() < 0 {
            return Err(error("the number of a database is 0 or more"));
        }
        Ok(Self {
            endpoint: match info.addr() {
                ConnectionAddr::Tcp(host, port) => Endpoint::tcp(host, *port),
                ConnectionAddr::Unix(path) => Endpoint::Unix(path.clone()),
                _ => return Err(error("this kind of address is not known")),
            },
            tls,
            database: settings.db(),
            username: settings.username().map(str::to_owned),
            password: settings.password().filter(|text| !text.is_empty()).map(Secret::from),
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self}{})", if self.tls { ", TLS" } else { "" })
    }
}

impl Endpoint {
    pub(super) fn tcp(host: &str, port: u16) -> Self {
        Self::Tcp {
            host: host.to_owned(),
            port,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What is wrong with the settings, and the way out. Holds no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(String);

impl SettingsError {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<ServerUrl>().unwrap_err().to_string()
    }

    #[test]
    fn a_url_is_a_host_a_port_and_a_database_or_a_socket() {
        assert_eq!(url("redis://127.0.0.1").to_string(), "127.0.0.1:6379");
        assert_eq!(url("rediss://store.example:6380").to_string(), "store.example:6380");
        assert!(url("rediss://store.example").tls);
        assert_eq!(url("redis://[::1]:7000/3").to_string(), "[::1]:7000");
        assert_eq!(url("redis://[::1]:7000/3").database, 3);
        assert_eq!(url("unix:///run/redis.sock?db=2").to_string(), "/run/redis.sock");
        assert_eq!(url("redis+unix:///run/redis.sock?db=2").database, 2);
    }

    #[test]
    fn what_is_not_a_url_of_redis_is_refused_with_the_way_out() {
        assert!(refusal("127.0.0.1:6379").contains("it has to begin with redis://"));
        assert!(refusal("http://127.0.0.1").contains("redis://"));
        assert!(refusal("redis:///1").contains("no host"));
        assert!(
            refusal("redis://a/one").contains("database"),
            "{}",
            refusal("redis://a/one")
        );
        assert!(refusal("redis://a/-1").contains("0 or more"));
        assert!(refusal("rediss://a/#insecure").contains("write \"ca\""));
        assert!(refusal("redis://a/?protocol=resp3").contains("protocol"));
        assert!(refusal("unix://run/redis.sock").contains("begins with a slash"));
    }

    #[test]
    fn credentials_of_a_url_are_used_and_never_shown() {
        let settings = Settings::new(vec![url("redis://gate:s%2Fcret@127.0.0.1")]);
        let (username, password) = settings.credentials().unwrap();
        assert_eq!(username.as_deref(), Some("gate"));
        assert_eq!(password.unwrap().expose(), "s/cret");
        let shown = format!("{settings:?} {}", settings.urls[0]);
        assert!(
            !shown.contains("cret@") && !shown.contains("s/cret") && !shown.contains("gate"),
            "{shown}"
        );
        for broken in [
            "redis://gate:hunter2@a/#x",
            "redis://gate:hunter2@a/x",
            "redis:gate:hunter2@",
        ] {
            assert!(!refusal(broken).contains("hunter2"), "{}", refusal(broken));
        }
    }

    #[test]
    fn settings_that_contradict_themselves_are_refused() {
        let refused = |settings: &Settings| {
            let error = settings.check().and_then(|()| settings.credentials().map(|_| ()));
            error.unwrap_err().to_string()
        };
        let of = |urls: &[&str]| Settings::new(urls.iter().map(|text| url(text)).collect());
        assert!(refused(&of(&[])).contains("no URL"));
        assert!(refused(&of(&["redis://a", "unix:///b"])).contains("/b is a socket"));
        assert!(refused(&of(&["redis://a", "redis://b/1"])).contains("b:6379 has a database"));
        assert!(refused(&of(&["redis://a", "rediss://b"])).contains("differs from the first"));
        assert!(refused(&of(&["redis://a", "redis://a:6379"])).contains("written twice"));
        assert!(refused(&of(&["redis://:one@a", "redis://:two@b"])).contains("other than"));
        assert!(refused(&of(&["redis://gate@a"])).contains("needs a password"));
        assert!(
            refused(&Settings {
                tls_ca: Some("ca.pem".into()),
                ..of(&["redis://a"])
            })
            .contains("\"ca\" without TLS")
        );
        assert!(
            refused(&Settings {
                response_timeout: Duration::ZERO,
                ..of(&["redis://a"])
            })
            .contains("response_timeout")
        );
    }
}
