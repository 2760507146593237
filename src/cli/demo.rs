//! `tollgate demo`: everything in one process, to be tried with curl.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Json;

use super::{DONE, FAILED, REFUSED};
use crate::auth::key::record_line;
use crate::auth::new_key;
use crate::config::{self, Config};
use crate::document::Environment;
use crate::names::ApplicationName;
use crate::revision::KeyType;
use crate::server::Server;

/// The revision of the demo; what is in braces is filled in.
const REVISION: &str = include_str!("demo/revision.yaml");

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Added to every port.
    #[arg(long)]
    port_offset: Option<u16>,
}

/// Runs the demo until it is interrupted.
pub fn run(args: &Args) -> u8 {
    match start(args) {
        Ok(()) => DONE,
        Err((code, error)) => {
            eprintln!("tollgate demo: {error}");
            code
        }
    }
}

fn start(args: &Args) -> Result<(), (u8, String)> {
    let failed = |what: &str, error: &dyn std::fmt::Display| (FAILED, format!("{what}: {error}"));
    let key = new_key(&ApplicationName::from("demo"), KeyType::Production, None, None)
        .map_err(|error| failed("making a key", &error))?;
    let upstreams = SampleUpstreams::start().map_err(|error| failed("starting the sample upstreams", &error))?;

    let directory = Directory::create().map_err(|error| failed("making a directory for the revision", &error))?;
    let revision = REVISION
        .replace("{first}", &upstreams.addresses[0].to_string())
        .replace("{second}", &upstreams.addresses[1].to_string())
        .replace("{key}", &record_line(&key.record).to_string());
    let path = directory
        .write("revision.yaml", &revision)
        .map_err(|error| failed("writing the revision", &error))?;

    let config = demo_config(&directory, &path, args).map_err(|error| (REFUSED, error))?;
    let server = Server::prepare(config).map_err(|error| (FAILED, error.to_string()))?;
    introduce(&server, key.text.reveal(), &path);
    server.run();
    Ok(())
}

/// The embedded defaults, with a log that does not mix with what is printed here.
fn demo_config(directory: &Directory, revision: &Path, args: &Args) -> Result<Config, String> {
    let text = format!(
        "gateway: {{ id: demo }}\nrevision: {{ file: {:?} }}\ntelemetry: {{ access_log: {{ path: {:?} }} }}\n",
        revision.display().to_string(),
        directory.path.join("access.log").display().to_string(),
    );
    let path = directory
        .write("tollgate.yaml", &text)
        .map_err(|error| error.to_string())?;
    config::load(&path, &Environment::of_process(), args.port_offset)
        .map(|loaded| loaded.config)
        .map_err(|mistakes| mistakes.to_string())
}

fn introduce(server: &Server, key: &str, revision: &Path) {
    let Some(gateway) = server.addresses().next() else {
        return;
    };
    let text = format!(
        r#"
tollgate demo: the gateway is on http://{gateway}, two sample upstreams are behind it.

  allowed          curl -i -H 'X-API-Key: {key}' http://{gateway}/hello
  without a key    curl -i http://{gateway}/hello
  wrong path       curl -i -H 'X-API-Key: {key}' http://{gateway}/nothing
  over the limit   for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{{http_code}}\n' -H 'X-API-Key: {key}' http://{gateway}/limited; done

  status           curl http://{status}/status/ready
  metrics          curl http://{status}/metrics
  the revision     {revision} (edit it: a change is live within a second)

Ctrl-C ends it.

"#,
        status = server.status_address(),
        revision = revision.display(),
    );
    // Nobody reads it any more when stdout is closed; the gateway runs all the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Two small HTTP servers that say who they are and what they were asked.
struct SampleUpstreams {
    addresses: [SocketAddr; 2],
    /// Ends with the demo.
    _runtime: tokio::runtime::Runtime,
}

impl SampleUpstreams {
    fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sample-upstream")
            .enable_all()
            .build()?;
        let first = runtime.block_on(Self::listen())?;
        let second = runtime.block_on(Self::listen())?;
        let addresses = [first.local_addr()?, second.local_addr()?];
        for (name, listener) in [("first", first), ("second", second)] {
            let app = Router::new().fallback(answer).with_state(name);
            runtime.spawn(async move {
                if let Err(error) = axum::serve(listener, app).await {
                    log::error!("sample upstream {name}: {error}");
                }
            });
        }
        Ok(Self {
            addresses,
            _runtime: runtime,
        })
    }

    async fn listen() -> std::io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
    }
}

async fn answer(State(name): State<&'static str>, request: Request) -> Json<serde_json::Value> {
    let headers: serde_json::Map<String, serde_json::Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    Json(serde_json::json!({
        "upstream": name,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "headers": headers,
    }))
}

/// A directory of its own, for this user only; removed at the end.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("tollgate-demo-{:016x}", rand::random::<u64>()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    fn write(&self, name: &str, text: &str) -> std::io::Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?
            .write_all(text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
