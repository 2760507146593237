//! A control plane, as a process, and what is asked of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::gateway::{Output, Process, command};
use super::port::Port;
use super::{Answer, Client, Gateway, Request, Setup, eventually};

/// A control plane that is going to be started.
pub struct ControlPlaneSetup {
    directory: TempDir,
    port: Port,
    store: String,
    sections: String,
    token: Option<String>,
}

/// A running control plane, or one that was killed. Ends when dropped, and then tells its log if the test has failed.
pub struct ControlPlane {
    directory: TempDir,
    port: Port,
    token: String,
    process: Process,
}

impl ControlPlaneSetup {
    /// Another store than SQLite in the control plane's directory, such as `postgres: "postgres://…"`.
    pub fn store(mut self, line: &str) -> Self {
        line.clone_into(&mut self.store);
        self
    }

    /// A whole section, such as `pools: { seat_ttl: 1s }`.
    pub fn section(mut self, lines: &str) -> Self {
        self.sections.push_str(lines);
        self.sections.push('\n');
        self
    }

    /// Another node made the first token already.
    pub fn known_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(self) -> ControlPlane {
        let store = match self.store.as_str() {
            "" => format!(
                "sqlite: \"{}\"",
                self.directory.path().join("control-plane.db").display()
            ),
            line => line.to_owned(),
        };
        let config = format!(
            "listener: {{ address: \"{}\" }}\nstore: {{ {store} }}\n{}",
            self.port.address(),
            self.sections
        );
        std::fs::write(self.directory.path().join("control-plane.yaml"), config).unwrap();
        let process = start(self.directory.path());
        let token = self.token.unwrap_or_else(|| {
            eventually("the control plane prints its first token", || {
                assert!(process.is_running(), "the control plane ended:\n{}", process.stderr());
                let printed = process.stdout();
                let (_, token) = printed.split_once("first admin token (shown once): ")?;
                let (token, _) = token.split_once('\n')?;
                Some(token.trim().to_owned())
            })
        });
        let control_plane = ControlPlane {
            directory: self.directory,
            port: self.port,
            token,
            process,
        };
        control_plane.until_ready();
        control_plane
    }
}

impl ControlPlane {
    /// One on SQLite, on a free port.
    pub fn setup() -> ControlPlaneSetup {
        ControlPlaneSetup {
            directory: tempfile::tempdir().unwrap(),
            port: Port::free(),
            store: String::new(),
            sections: String::new(),
            token: None,
        }
    }

    /// One on SQLite, on a free port, running.
    #[track_caller]
    pub fn start() -> Self {
        Self::setup().start()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Its first token, which may do everything.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The directory with its files.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file beside its own.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A request of an administrator.
    pub fn request(&self, method: &str, target: &str) -> Request {
        Client::of(self.address()).request(method, target).token(&self.token)
    }

    /// What there is at a path.
    #[track_caller]
    pub fn get(&self, target: &str) -> Value {
        self.request("GET", target).send().expect(200).json()
    }

    /// Posts JSON.
    #[track_caller]
    pub fn post(&self, target: &str, body: &Value) -> Answer {
        self.request("POST", target)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
    }

    /// Runs a verb against it as an administrator.
    pub fn verb<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Output {
        self.verb_as(&self.token, arguments)
    }

    /// Runs a verb against it with this token.
    pub fn verb_as<'a>(&self, token: &str, arguments: impl IntoIterator<Item = &'a str>) -> Output {
        let mut command = command();
        command
            .args(arguments)
            .env("TOLLGATE_SERVER", self.url())
            .env("TOLLGATE_TOKEN", token);
        Output::of(&mut command)
    }

    /// Publishes a document to an environment, and gives the number of the revision.
    #[track_caller]
    pub fn publish(&self, environment: &str, document: impl ToString) -> u64 {
        let answer = self.try_publish(environment, document);
        assert!(answer.status < 300, "{answer:?}");
        answer.json()["published"][0]["seq"].as_u64().unwrap()
    }

    /// Tries to.
    #[track_caller]
    pub fn try_publish(&self, environment: &str, document: impl ToString) -> Answer {
        let body = json!({
            "environments": [environment],
            "document": document.to_string(),
            "name": "revision.yaml",
        });
        self.post("/v1/revisions", &body)
    }

    /// A new environment.
    #[track_caller]
    pub fn environment(&self, name: &str, environment_type: &str) {
        self.post("/v1/environments", &json!({ "name": name, "type": environment_type }))
            .expect(201);
    }

    /// A new token with this scope.
    #[track_caller]
    pub fn token_for(&self, scope: &str) -> String {
        let answer = self.post("/v1/tokens", &json!({ "scopes": [scope] })).expect(201);
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// A new key of an application: its text and its id.
    #[track_caller]
    pub fn key(&self, application: &str, key_type: &str) -> (String, String) {
        let answer = self.post(
            &format!("/v1/applications/{application}/keys"),
            &json!({ "type": key_type }),
        );
        let made = answer.expect(201).json();
        let text = |member: &str| made[member].as_str().unwrap().to_owned();
        (text("key"), text("id"))
    }

    /// A gateway that runs what is published to the environment `Default`.
    pub fn gateway(&self) -> Setup {
        self.gateway_of(&[self.url()], "")
    }

    /// The same, asking at these URLs, with more of the section, such as `on_pool_full: wait`.
    pub fn gateway_of(&self, urls: &[String], more: &str) -> Setup {
        let urls: Vec<String> = urls.iter().map(|url| format!("\"{url}\"")).collect();
        Gateway::pulling(&format!(
            "urls: [{}], token: \"{}\", {more}",
            urls.join(", "),
            self.token_for("gateway")
        ))
    }

    /// What the control plane knows of a gateway; nothing if it does not know it.
    pub fn gateway_state(&self, name: &str) -> Value {
        let gateways = self.get("/v1/gateways?limit=1000");
        let found = gateways["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|gateway| gateway["name"] == name);
        found.cloned().unwrap_or(Value::Null)
    }

    /// Ends it without a warning.
    pub fn kill(&self) {
        self.process.signal("KILL");
        self.process.wait();
    }

    /// Starts it again, where it was.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process = start(self.directory.path());
        self.until_ready();
    }

    /// Everything it has logged since it was started last.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    #[track_caller]
    fn until_ready(&self) {
        eventually("the control plane is ready", || {
            assert!(self.process.is_running(), "the control plane ended:\n{}", self.log());
            let connection = super::Connection::try_to(self.address()).ok()?;
            drop(connection);
            let answer = Client::of(self.address()).get("/readyz").send();
            (answer.status == 200).then_some(())
        });
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- the control plane's log ---\n{log}--- end of the control plane's log ---");
        } else {
            assert!(!log.contains("panicked at"), "the control plane panicked:\n{log}");
            assert!(!log.contains(&self.token), "a token is in the log:\n{log}");
        }
    }
}

fn start(directory: &Path) -> Process {
    let mut command = command();
    command
        .arg("control-plane")
        .arg("--config")
        .arg(directory.join("control-plane.yaml"));
    Process::start(command)
}
