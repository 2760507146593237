//! Opening a connection: socket, TLS, credentials, and a look at who answers. Every step has a deadline.
//!
//! The client crate gets a stream that is open already. Its own way to TLS reads the system's roots at every attempt,
//! which blocks, and its own way to authenticate hides what the server said.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Pipeline, RedisConnectionInfo, ServerError, Value};
use futures_util::future::select_ok;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::settings::{Endpoint, Settings, SettingsError};
use crate::document::Secret;

/// The longest wait for a TCP handshake. A lost first packet is sent again by the kernel only after a second; a new
/// attempt reaches a server that just came back sooner.
const HANDSHAKE: Duration = Duration::from_millis(500);

/// How many addresses of one name are tried, all at the same time.
const ADDRESSES: usize = 8;

/// What connections have in common.
pub(super) struct Dial {
    username: Option<String>,
    password: Option<Secret>,
    tls: Option<TlsConnector>,
    database: i64,
    /// Whether the servers are nodes of a cluster.
    pub(super) cluster: bool,
    connect_timeout: Duration,
    pub(super) response_timeout: Duration,
}

/// A connection that a server has answered on.
pub(super) struct Opened {
    pub(super) connection: MultiplexedConnection,
    /// Moves the bytes; ends when the connection does.
    pub(super) driver: Driver,
    pub(super) facts: Facts,
    pub(super) sent: Instant,
    pub(super) received: Instant,
}

/// The task that moves a connection's bytes. Dropping it closes the connection.
pub(super) struct Driver(pub(super) JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a server cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    /// For the operator; without secrets.
    pub(super) text: String,
}

/// What a trouble is counted as, and how soon it is worth to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No connection.
    Connect,
    /// Only an operator can mend it: a wrong password, a certificate that is not trusted.
    Settings,
    /// No answer in time.
    Timeout,
    /// The connection broke.
    Lost,
    /// The server answers, and takes no writes.
    Refused,
}

impl Kind {
    /// The value of the metric's label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Connect | Self::Settings => "connect",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Refused => "refused",
        }
    }

    pub(super) fn because(self, text: impl Into<String>) -> Trouble {
        Trouble {
            kind: self,
            text: text.into(),
        }
    }
}

impl Dial {
    /// Reads the trusted certificates, if there is TLS.
    pub(super) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        let (username, password) = settings.credentials()?;
        let first = settings.urls.first();
        Ok(Self {
            username,
            password,
            tls: if first.is_some_and(|url| url.tls) {
                Some(tls(settings.tls_ca.as_deref())?)
            } else {
                None
            },
            database: first.map_or(0, |url| url.database),
            cluster: settings.urls.len() > 1,
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
        })
    }

    /// Connects, authenticates, and looks at who answers.
    pub(super) async fn open(&self, endpoint: &Endpoint) -> Result<Opened, Trouble> {
        let stream = match timeout(self.connect_timeout, self.stream(endpoint)).await {
            Ok(stream) => stream?,
            Err(_) => {
                return Err(Kind::Connect.because(format!("no connection within {:?}", self.connect_timeout)));
            }
        };
        // Deadlines are kept by whoever sends, to the pipeline as a whole; nothing is sent here yet.
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None);
        let bare = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (mut connection, driver) = MultiplexedConnection::new_with_config(&bare, stream, config)
            .await
            .map_err(|error| Kind::Connect.because(error.to_string()))?;
        let driver = Driver(tokio::spawn(driver));

        let (greeting, look_at) = self.greeting();
        let sent = Instant::now();
        let answer = connection.send_packed_commands(&greeting, 0, greeting.len());
        let values = match timeout(self.response_timeout, answer).await {
            Ok(Ok(values)) => values,
            Ok(Err(error)) => {
                return Err(Kind::Connect.because(format!(
                    "it closed the connection without an answer; it may have too many clients, be in protected mode, \
                     or expect TLS (rediss://): {error}"
                )));
            }
            Err(_) => {
                let text = format!("connected, but no answer within {:?}", self.response_timeout);
                return Err(Kind::Timeout.because(text));
            }
        };
        let received = Instant::now();
        let (setup, inspection) = values.split_at(look_at.min(values.len()));
        self.check_setup(setup)?;
        Ok(Opened {
            connection,
            driver,
            facts: Facts::read(inspection)?,
            sent,
            received,
        })
    }

    async fn stream(&self, endpoint: &Endpoint) -> Result<Box<dyn Stream>, Trouble> {
        let cannot = |error: io::Error| Kind::Connect.because(format!("cannot connect: {error}"));
        let (host, port) = match endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(cannot)?;
                return Ok(Box::new(stream));
            }
            Endpoint::Tcp { host, port } => (host.as_str(), *port),
        };
        let addresses = lookup_host((host, port))
            .await
            .map_err(|error| Kind::Connect.because(format!("the name has no address: {error}")))?;
        let attempts: Vec<_> = addresses
            .take(ADDRESSES)
            .map(|address| {
                Box::pin(async move {
                    timeout(HANDSHAKE.min(self.connect_timeout), TcpStream::connect(address))
                        .await
                        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
                })
            })
            .collect();
        if attempts.is_empty() {
            return Err(Kind::Connect.because("the name has no address"));
        }
        let (stream, _) = select_ok(attempts).await.map_err(cannot)?;
        // Otherwise the second of two pipelines waits for the acknowledgement of the first.
        stream.set_nodelay(true).map_err(cannot)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Kind::Settings.because("the host can not be in a certificate"))?;
        let stream = tls.connect(name, stream).await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Kind::Settings.because(format!(
                "TLS failed: {error}; \"ca\" under \"redis\" has to hold the authority that signed the server's \
                 certificate, and the port has to be the one for TLS"
            )),
            _ => Kind::Connect.because(format!("TLS failed: {error}")),
        })?;
        Ok(Box::new(stream))
    }

    /// The first pipeline of a connection, and how many of its commands come before the [`inspection`].
    fn greeting(&self) -> (Pipeline, usize) {
        let mut pipeline = Pipeline::new();
        if let Some(password) = &self.password {
            pipeline.cmd("AUTH");
            if let Some(username) = &self.username {
                pipeline.arg(username);
            }
            pipeline.arg(password.expose());
        }
        if self.database != 0 {
            pipeline.cmd("SELECT").arg(self.database);
        }
        // For whoever looks at CLIENT LIST; not being allowed to is no harm.
        pipeline.cmd("CLIENT").arg("SETNAME").arg("tollgate");
        let setup = pipeline.len();
        inspect(&mut pipeline, self.cluster);
        (pipeline, setup)
    }

    fn check_setup(&self, values: &[Value]) -> Result<(), Trouble> {
        let mut values = values.iter();
        if self.password.is_some()
            && let Some(Value::ServerError(error)) = values.next()
        {
            // Never more than the code: a server that does not know the command repeats its arguments, and the password
            // may be cut short there, so that looking for it would not find it.
            let code = error.code();
            let hint = match code {
                "WRONGPASS" => "the user or the password is wrong, or the user is disabled",
                "ERR" => "it may have no password for this user, or not know AUTH in this form",
                _ => "its own log may say more",
            };
            return Err(Kind::Settings.because(format!("it refuses the credentials: {code}: {hint}")));
        }
        if self.database != 0
            && let Some(Value::ServerError(error)) = values.next()
        {
            let text = format!("database {} can not be used: {}", self.database, says(error));
            return Err(Kind::Settings.because(text));
        }
        Ok(())
    }
}

/// A byte stream of any kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn tls(ca: Option<&Path>) -> Result<TlsConnector, SettingsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        let broken = |why: String| SettingsError::new(format!("redis: \"ca\" {}: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|error| broken(error.to_string()))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            certificate
                .map_err(|error| error.to_string())
                .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
                .map_err(|error| broken(format!("not a certificate in PEM: {error}")))?;
        }
        if roots.is_empty() {
            return Err(broken("no certificate in it; a PEM bundle is expected".to_owned()));
        }
    } else {
        // What can not be read is left out, as long as something is left.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(SettingsError::new(
                "redis: the system has no trusted certificates; install them, or write \"ca\"".to_owned(),
            ));
        }
    }
    // The provider is named, because the tree has two and none is the default of the process.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SettingsError::new(format!("redis: TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What a server says of itself. What it may not say is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) version: Option<String>,
    pub(super) mode: Option<String>,
    pub(super) role: Option<String>,
    /// Another one means that the data may be other data.
    pub(super) identity: Option<u64>,
    pub(super) cluster_state: Option<String>,
    pub(super) cluster_epoch: Option<u64>,
    /// The answer to PING, if it was an error.
    refusal: Option<String>,
}

/// Adds the commands that [`Facts::read`] reads.
pub(super) fn inspect(pipeline: &mut Pipeline, cluster: bool) {
    pipeline.cmd("PING");
    pipeline.cmd("INFO").arg("server");
    pipeline.cmd("INFO").arg("replication");
    if cluster {
        pipeline.cmd("CLUSTER").arg("INFO");
    }
}

impl Facts {
    /// Reads the answers to [`inspect`].
    pub(super) fn read(values: &[Value]) -> Result<Self, Trouble> {
        let mut facts = Self::default();
        if let Some(Value::ServerError(error)) = values.first() {
            match error.code() {
                "NOAUTH" => return Err(Kind::Settings.because("it asks for a password; write \"password\"")),
                "NOPERM" => return Err(Kind::Settings.because(format!("the user may not PING: {}", says(error)))),
                _ => facts.refusal = Some(says(error)),
            }
        }
        // The sections have no field in common, so that they can be read as one.
        let field = |name: &str| field(values.get(1..).unwrap_or_default(), name);
        facts.version = field("valkey_version").or_else(|| field("redis_version"));
        facts.mode = field("redis_mode").or_else(|| field("server_mode"));
        facts.role = field("role");
        facts.identity = match (field("run_id"), field("master_replid")) {
            (Some(run), Some(replication)) => {
                let mut hasher = DefaultHasher::new();
                (run, replication).hash(&mut hasher);
                // 0 is what a server has that was never reached.
                Some(hasher.finish().max(1))
            }
            _ => None,
        };
        facts.cluster_state = field("cluster_state");
        facts.cluster_epoch = field("cluster_current_epoch").and_then(|epoch| epoch.parse().ok());
        Ok(facts)
    }

    /// Why this server takes no writes, or is not what the settings say.
    pub(super) fn objection(&self, cluster: bool) -> Option<Trouble> {
        let is = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
        if let Some(refusal) = &self.refusal {
            return Some(Kind::Refused.because(format!("it takes no commands: {refusal}")));
        }
        if is(&self.mode, "sentinel") {
            return Some(Kind::Settings.because("it is a Sentinel; write the URL of the server that it watches"));
        }
        if is(&self.mode, "cluster") && !cluster {
            return Some(
                Kind::Settings
                    .because("it is a node of a Redis Cluster; write two nodes of the cluster or more as \"urls\""),
            );
        }
        if is(&self.mode, "standalone") && cluster {
            return Some(Kind::Settings.because(
                "it is not a node of a Redis Cluster; several \"urls\" are for a cluster, a single server has one",
            ));
        }
        if is(&self.role, "slave") {
            return Some(Kind::Refused.because("it is a replica and takes no writes; the master is needed"));
        }
        if cluster && is(&self.cluster_state, "fail") {
            return Some(Kind::Refused.because("it takes no writes, because the cluster is down (cluster_state:fail)"));
        }
        None
    }
}

/// A server's error as the server says it.
pub(super) fn says(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// A field of any of the sections that INFO answered.
pub(super) fn field(sections: &[Value], name: &str) -> Option<String> {
    let mut fields = sections
        .iter()
        .filter_map(text)
        .flat_map(str::lines)
        .filter_map(|line| line.split_once(':'));
    fields
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value.trim().to_owned())
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}
