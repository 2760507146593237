//! The control plane of a demo: in the same process, on SQLite in the demo's directory.

use std::path::Path;
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::directory::Directory;
use crate::cli::remote::{Failure, Remote, Server, strange};
use crate::cli::{FAILED, REFUSED, input};
use crate::control_plane::config;
use crate::control_plane::server::ControlPlane;
use crate::distribution::PublicKey;
use crate::document::{Environment, Secret};

/// What the gateway of the demo serves.
pub(super) const ENVIRONMENT: &str = "Default";

/// A control plane that runs on threads of its own.
pub(super) struct DemoPlane {
    url: String,
    token: Secret,
    public_key: PublicKey,
    /// Dropping it ends the control plane.
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl DemoPlane {
    pub(super) fn start(directory: &Directory, port_offset: Option<u16>) -> Result<Self, (u8, String)> {
        let failed = |error: &dyn std::fmt::Display| (FAILED, format!("starting the control plane: {error}"));
        let text = json!({ "store": { "sqlite": directory.path.join("control-plane.db").display().to_string() } });
        let path = directory
            .write("control-plane.yaml", &format!("{text:#}\n"))
            .map_err(|error| failed(&error))?;
        let config = config::load(&path, &Environment::of_process(), port_offset)
            .map_err(|mistakes| (REFUSED, mistakes.to_string()))?
            .config;
        let control_plane = ControlPlane::prepare(config).map_err(|error| failed(&error))?;
        let token = control_plane
            .first_token()
            .cloned()
            .ok_or_else(|| failed(&"a new store has a token already"))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let url = format!("http://{}", control_plane.address());
        let public_key = control_plane.plane().signing.public();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime.block_on(control_plane.serve(async move {
                let _ = ended.await;
            }));
        });
        Ok(Self {
            url,
            token,
            public_key,
            end,
            thread,
        })
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    /// The administrator's token.
    pub(super) fn token(&self) -> &str {
        self.token.expose()
    }

    /// What its gateway trusts.
    pub(super) fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Does what an operator would do: sees to the environment, publishes the revision, makes a key. Gives the number of
    /// the revision, and the key.
    pub(super) fn author(&self, revision: &Path) -> Result<(u64, String), String> {
        self.authored(revision).map_err(|failure| match failure {
            Failure::Usage(text) | Failure::Failed(text) => text,
            Failure::Problem(problem) => {
                let mistakes: Vec<String> = problem.mistakes().collect();
                format!("{problem}\n{}", mistakes.join("\n")).trim_end().to_owned()
            }
        })
    }

    fn authored(&self, revision: &Path) -> Result<(u64, String), Failure> {
        let remote: Remote = Server::at(&self.url, &self.token).remote()?;
        // A new control plane has it already.
        let environment = json!({ "name": ENVIRONMENT, "type": "hybrid" });
        remote.put(&["environments", ENVIRONMENT], &environment, None)?;
        let (name, document) = input::read(revision)?;
        let answer = remote.post(
            &["revisions"],
            &json!({ "environments": [ENVIRONMENT], "document": document, "name": name, "note": "demo" }),
        )?;
        let seq = answer
            .pointer("/published/0/seq")
            .and_then(Value::as_u64)
            .ok_or_else(|| strange("a publish without a number"))?;
        let made = remote.post(&["applications", "demo", "keys"], &json!({ "type": "production" }))?;
        match made.get("key").and_then(Value::as_str) {
            Some(key) => Ok((seq, key.to_owned())),
            None => Err(strange("a key without its text")),
        }
    }

    /// Ends it, and waits until it has ended: then nobody writes to the directory any more.
    pub(super) fn end(self) {
        drop(self.end);
        if self.thread.join().is_err() {
            log::error!("the control plane of the demo panicked");
        }
    }
}
