//! `tollgate demo`: everything in one process, to be tried with curl.

mod directory;
mod plane;
mod upstreams;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::StatusCode;

use self::directory::Directory;
use self::plane::{DemoPlane, ENVIRONMENT};
use self::upstreams::SampleUpstreams;
use super::{DONE, FAILED, REFUSED};
use crate::config::{self, Config};
use crate::document::Environment;
use crate::server::Server;

/// The revision of the demo; what is in braces is filled in.
const REVISION: &str = include_str!("demo/revision.yaml");

/// What the next revision has beyond the first.
const NEXT_API: &str = "  - name: news\n    base_path: /news\n    auth: [api_key]\n    upstream: samples\n";
const NEXT_SUBSCRIPTION: &str = "      - { api: news, plan: generous }\n";

/// How long the gateway is given to fetch what was published before the lines are printed all the same.
const PATIENCE: Duration = Duration::from_secs(30);

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
    let upstreams = SampleUpstreams::start().map_err(|error| failed("starting the sample upstreams", &error))?;
    // Removed when this returns; the control plane keeps its store there and is ended before.
    let directory = Directory::create().map_err(|error| failed("making a directory", &error))?;
    let write = |name: &str, api: &str, subscription: &str| {
        let revision = REVISION
            .replace("{first}", &upstreams.addresses[0].to_string())
            .replace("{second}", &upstreams.addresses[1].to_string())
            .replace("{next_api}\n", api)
            .replace("{next_subscription}\n", subscription);
        directory
            .write(name, &revision)
            .map_err(|error| failed("writing the revision", &error))
    };
    let revision = write("revision.yaml", "\n", "")?;
    let next = write("next.yaml", &format!("{NEXT_API}\n"), NEXT_SUBSCRIPTION)?;

    let plane = DemoPlane::start(&directory, args.port_offset)?;
    let (seq, key) = plane
        .author(&revision)
        .map_err(|error| failed("publishing the revision", &error))?;

    let config = gateway_config(&directory, &plane, args).map_err(|error| (REFUSED, error))?;
    let server = Server::prepare(config, None).map_err(|error| (FAILED, error.to_string()))?;
    let introduction = server.addresses().next().map(|gateway| Introduction {
        gateway,
        status: server.status_address(),
        server: plane.url(),
        token: plane.token().to_owned(),
        seq,
        key,
        revision,
        next,
    });
    if let Some(introduction) = introduction {
        std::thread::spawn(move || {
            introduction.wait_until_true();
            introduction.print();
        });
    }
    server.run(None);
    plane.end();
    Ok(())
}

/// The embedded defaults, with a log that does not mix with what is printed here.
fn gateway_config(directory: &Directory, plane: &DemoPlane, args: &Args) -> Result<Config, String> {
    let in_directory = |name: &str| directory.path.join(name).display().to_string();
    let text = serde_json::json!({
        "gateway": { "id": "demo", "environment": ENVIRONMENT },
        "revision": { "control_plane": {
            "urls": [plane.url()], "token": plane.token(), "state_dir": in_directory("gateway"),
            "public_keys": [plane.public_key().to_string()],
        } },
        "telemetry": { "access_log": { "path": in_directory("access.log") } },
    });
    let path = directory
        .write("tollgate.yaml", &format!("{text:#}\n"))
        .map_err(|error| error.to_string())?;
    config::load(&path, &Environment::of_process(), args.port_offset)
        .map(|loaded| loaded.config)
        .map_err(|mistakes| mistakes.to_string())
}

/// What is said to who tries it.
struct Introduction {
    gateway: SocketAddr,
    status: SocketAddr,
    server: String,
    token: String,
    seq: u64,
    key: String,
    revision: PathBuf,
    next: PathBuf,
}

impl Introduction {
    /// Waits until the gateway has fetched the revision and the key, so that the lines do what they say.
    fn wait_until_true(&self) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        let Ok(client) = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(1))
            .build()
        else {
            return;
        };
        let url = format!("http://{}/hello", self.gateway);
        let end = Instant::now() + PATIENCE;
        runtime.block_on(async {
            while Instant::now() < end {
                let answer = client.get(&url).header("X-API-Key", &self.key).send().await;
                if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            log::warn!("the gateway does not serve yet what was published");
        });
    }

    fn print(&self) {
        let Self {
            gateway,
            status,
            server,
            token,
            seq,
            key,
            ..
        } = self;
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("tollgate"));
        let verb = format!("TOLLGATE_SERVER={server} TOLLGATE_TOKEN={token} {}", quoted(&program));
        let text = format!(
            r#"
tollgate demo: the gateway is on http://{gateway}, two sample upstreams are behind it, and the control plane that it
fetches its revision from is on {server}.

  allowed          curl -i -H 'X-API-Key: {key}' http://{gateway}/hello
  without a key    curl -i http://{gateway}/hello
  wrong path       curl -i -H 'X-API-Key: {key}' http://{gateway}/nothing
  over the limit   for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{{http_code}}\n' -H 'X-API-Key: {key}' http://{gateway}/limited; done

  not there yet    curl -i -H 'X-API-Key: {key}' http://{gateway}/news
  publish it       {verb} revision publish -f {next} -e {ENVIRONMENT}
  now it is        curl -i -H 'X-API-Key: {key}' http://{gateway}/news
  roll back        {verb} revision rollback -e {ENVIRONMENT} {seq}

  who serves what  {verb} gateway list
  status           curl http://{status}/status/ready
  metrics          curl http://{status}/metrics
  the revision     {revision} (edit it, and publish it: a change is live within a second)

Ctrl-C ends it.

"#,
            next = quoted(&self.next),
            revision = self.revision.display(),
        );
        // Nobody reads it any more when stdout is closed; the gateway runs all the same.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision;

    #[test]
    fn both_revisions_of_the_demo_are_free_of_mistakes_and_differ_in_one_api() {
        let apis = [("\n", ""), (NEXT_API, NEXT_SUBSCRIPTION)].map(|(api, subscription)| {
            let text = REVISION
                .replace("{first}", "127.0.0.1:1")
                .replace("{second}", "127.0.0.1:2")
                .replace("{next_api}\n", api)
                .replace("{next_subscription}\n", subscription);
            assert!(!text.contains("{next"), "{text}");
            let environment = Environment::of_process().for_publishing();
            let loaded = revision::parse(&text, "demo", Path::new(""), &environment).unwrap();
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
            loaded.revision.apis.len()
        });
        assert_eq!(apis, [2, 3]);
    }

    #[test]
    fn a_shell_takes_a_path_for_what_it_is() {
        assert_eq!(quoted(Path::new("/usr/bin/tollgate")), "/usr/bin/tollgate");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
