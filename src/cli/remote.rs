//! The client of all verbs that speak to a control plane: one request at a time, with deadlines and bounds, and every
//! "no" of the other side in words for the person who asked.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_MATCH};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url, redirect};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::problem::Problem;
use super::{DONE, FAILED, Output, REFUSED, USAGE, print_json, print_line};
use crate::control_plane::problem::RETRY_AFTER_MS;
use crate::document::Secret;

const DEFAULT_SERVER: &str = "https://127.0.0.1:9443";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest silence. Publishing to many environments takes seconds, not minutes.
const SILENCE: Duration = Duration::from_secs(60);
/// Whatever happens, a verb comes to an end.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(600);

/// How often a blob is asked for while the control plane is busy with others, and the longest wait in between.
const BUSY_TRIES: usize = 10;
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The largest answer that is read. A revision document has at most 64 MiB, and quotes in JSON take two bytes.
const LARGEST: u64 = 160 << 20;

/// Items of a list that are asked for at a time: the most that a control plane gives.
const PAGE: usize = 1000;

/// Where the control plane is, and who asks.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Control plane")]
pub struct Server {
    /// Where it is [default: <https://127.0.0.1:9443>].
    #[arg(long, global = true, env = "TOLLGATE_SERVER", value_name = "URL")]
    server: Option<String>,
    /// An administrator's token. Others on this machine can see a command line: better in the environment.
    #[arg(
        long,
        global = true,
        env = "TOLLGATE_TOKEN",
        hide_env_values = true,
        value_name = "TEXT"
    )]
    token: Option<Secret>,
    /// Certificates (PEM) that are trusted instead of the system's.
    #[arg(long, global = true, env = "TOLLGATE_CA", value_name = "PEM")]
    ca: Option<PathBuf>,
}

/// Which part of a list is shown.
#[derive(Debug, Clone, clap::Args)]
pub struct Part {
    /// Begin after this one.
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
    /// Show at most so many.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

/// A control plane that can be asked.
pub struct Remote {
    runtime: Runtime,
    client: Client,
    base: Url,
    /// The first segment of every path.
    root: &'static str,
    token: Option<Secret>,
}

/// What was answered.
pub struct Answer {
    /// JSON; null when there was nothing to say.
    pub body: Value,
    /// The version of the object, to be given back with a change of it.
    pub etag: Option<HeaderValue>,
}

/// Why a verb did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// It was called wrongly.
    Usage(String),
    /// Something did not work; says what, and the way out.
    Failed(String),
    /// The control plane said no.
    Problem(Problem),
}

/// What a path of the control plane is made of; each part becomes one segment, whatever is in it.
pub type Path<'a> = &'a [&'a str];

impl Server {
    /// The one at this address, for who knows it.
    pub fn at(url: &str, token: &Secret) -> Self {
        Self {
            server: Some(url.to_owned()),
            token: Some(token.clone()),
            ca: None,
        }
    }

    /// Whether a flag or the environment names one.
    pub fn is_named(&self) -> bool {
        self.server.as_ref().is_some_and(|server| !server.is_empty())
    }

    /// The same of a gateway: its admin listener.
    pub fn gateway(&self) -> Result<Remote, Failure> {
        let remote = self.remote()?;
        Ok(Remote {
            root: "admin",
            ..remote
        })
    }

    /// Gets ready to ask. Nothing is sent yet.
    pub fn remote(&self) -> Result<Remote, Failure> {
        // A variable that is set to nothing is meant to be unset.
        let text = self.server.as_deref().filter(|server| !server.is_empty());
        let base = base_url(text.unwrap_or(DEFAULT_SERVER))?;
        if base.scheme() == "http" && !is_loopback(&base) {
            eprintln!(
                "tollgate: warning: {} is not encrypted: whoever is in between can read the token; use https",
                shown(&base)
            );
        }
        // No redirects and no proxies: the token is for this server and nobody else.
        let mut builder = Client::builder()
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE)
            .timeout(TOTAL_TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy();
        if let Some(path) = self.ca.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            builder = builder.tls_certs_only(certificates(path)?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
        Ok(Remote {
            client: builder
                .build()
                .map_err(|error| Failure::Failed(format!("no HTTP client: {}", chain(&error))))?,
            runtime,
            base,
            root: "v1",
            token: self.token.clone().filter(|token| !token.expose().is_empty()),
        })
    }
}

impl Remote {
    /// Where it is.
    pub fn server(&self) -> &str {
        shown(&self.base)
    }

    /// Reads an object.
    pub fn get(&self, path: Path<'_>, query: &[(&str, &str)]) -> Result<Answer, Failure> {
        self.ask(&Method::GET, path, query, None, None)
    }

    /// Creates something, or has something done.
    pub fn post(&self, path: Path<'_>, body: &Value) -> Result<Value, Failure> {
        Ok(self.ask(&Method::POST, path, &[], Some(body), None)?.body)
    }

    /// Replaces an object; only this version of it, if one is given.
    pub fn put(&self, path: Path<'_>, body: &Value, version: Option<&HeaderValue>) -> Result<Value, Failure> {
        Ok(self.ask(&Method::PUT, path, &[], Some(body), version)?.body)
    }

    /// Takes an object away.
    pub fn delete(&self, path: Path<'_>, query: &[(&str, &str)]) -> Result<Value, Failure> {
        Ok(self.ask(&Method::DELETE, path, query, None, None)?.body)
    }

    /// Reads a list, page after page, as `{"items": […], "next": …}`; `next` is there when there is more than was wanted.
    pub fn list(&self, path: Path<'_>, query: &[(&str, &str)], part: &Part) -> Result<Value, Failure> {
        let most = part.limit as usize;
        let mut items: Vec<Value> = Vec::new();
        let mut after = part.after.clone();
        loop {
            let limit = PAGE.min(most - items.len()).to_string();
            let mut query = query.to_vec();
            query.push(("limit", &limit));
            query.extend(after.as_deref().map(|after| ("after", after)));
            let mut page = self.get(path, &query)?.body;
            let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) else {
                return Err(strange("a list without \"items\""));
            };
            let got = more.len();
            items.extend(more);
            let next = match page.get("next") {
                Some(Value::String(next)) => Some(next.clone()),
                Some(Value::Number(next)) => Some(next.to_string()),
                _ => None,
            };
            // An empty page or one that leads nowhere is the end, whatever it says of a next one.
            if next.is_none() || next == after || got == 0 || items.len() >= most {
                items.truncate(most);
                let mut list = Map::from_iter([("items".to_owned(), Value::Array(items))]);
                if let Some(next) = next.filter(|_| got > 0) {
                    list.insert("next".to_owned(), json!(next));
                }
                return Ok(Value::Object(list));
            }
            after = next;
        }
    }

    /// Reads bytes, at most so many. Comes back later when the control plane is busy and says when.
    pub fn bytes(&self, path: Path<'_>, query: &[(&str, &str)], most: u64) -> Result<Vec<u8>, Failure> {
        self.runtime.block_on(async {
            for _ in 0..BUSY_TRIES {
                let response = self.send(&Method::GET, path, query, None, None).await?;
                let status = response.status();
                if status == StatusCode::OK {
                    return self.read(response, most).await;
                }
                let busy = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status);
                let Some(wait) = retry_after(response.headers()).filter(|_| busy) else {
                    let body = self.read(response, LARGEST).await?;
                    return Err(Failure::Problem(Problem::new(status, &body)));
                };
                tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
            }
            Err(Failure::Failed(format!(
                "{} is busy and stays so; try again in a few minutes",
                shown(&self.base)
            )))
        })
    }

    fn ask(
        &self,
        method: &Method,
        path: Path<'_>,
        query: &[(&str, &str)],
        body: Option<&Value>,
        version: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        self.runtime.block_on(async {
            let response = self.send(method, path, query, body, version).await?;
            let status = response.status();
            let etag = response.headers().get(ETAG).cloned();
            let body = self.read(response, LARGEST).await?;
            if !status.is_success() {
                return Err(Failure::Problem(Problem::new(status, &body)));
            }
            if body.is_empty() {
                return Ok(Answer {
                    body: Value::Null,
                    etag,
                });
            }
            match serde_json::from_slice(&body) {
                Ok(body) => Ok(Answer { body, etag }),
                Err(_) => Err(strange("no JSON")),
            }
        })
    }

    async fn send(
        &self,
        method: &Method,
        path: Path<'_>,
        query: &[(&str, &str)],
        body: Option<&Value>,
        version: Option<&HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut request = self.client.request(method.clone(), self.url(path, query)?);
        request = request.header(ACCEPT, "application/json");
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .map_err(|_| Failure::Usage("the token has characters that no token has".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(body) = body {
            let text = serde_json::to_vec(body).map_err(|error| Failure::Failed(error.to_string()))?;
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(text);
        }
        if let Some(version) = version {
            request = request.header(IF_MATCH, version);
        }
        request.send().await.map_err(|error| self.unreachable(error))
    }

    /// The body, as far as it is within bounds.
    async fn read(&self, mut response: Response, most: u64) -> Result<Vec<u8>, Failure> {
        let too_large = || strange(&format!("more than {most} bytes"));
        if response.content_length().is_some_and(|length| length > most) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if (body.len() + chunk.len()) as u64 > most {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn url(&self, path: Path<'_>, query: &[(&str, &str)]) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        if let Some(part) = path.iter().find(|part| ["", ".", ".."].contains(*part)) {
            // As a segment it would vanish, and the request would be about something else.
            return Err(Failure::Usage(format!("\"{part}\" is not a name")));
        }
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(self.root).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        let server = shown(&self.base);
        let timeout = error.is_timeout();
        let connecting = error.is_connect();
        let error = error.without_url();
        // The outermost says no more than that sending failed.
        let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), chain);
        let text = text.trim_start_matches("client error (Connect): ");
        Failure::Failed(if connecting && text.contains("InvalidContentType") {
            format!(
                "{server} does not speak TLS; if it is meant to, check its listener.tls, else say --server http://{}",
                self.base.authority()
            )
        } else if connecting && text.to_ascii_lowercase().contains("certificate") {
            format!("{server}: {text}; name the certificates that you trust with --ca or TOLLGATE_CA")
        } else if connecting {
            format!(
                "{server} can not be reached: {text}; is the control plane running (tollgate control-plane), and is \
                 --server or TOLLGATE_SERVER right?"
            )
        } else if timeout {
            format!(
                "{server} did not answer in time; what was asked may still have been done: look before you repeat it"
            )
        } else {
            format!("{server} broke off: {text}; what was asked may still have been done: look before you repeat it")
        })
    }
}

/// Prints what the control plane said, as JSON or as this text, and tells what the verb exits with.
pub fn show(output: Output, body: &Value, text: impl FnOnce(&Value)) -> u8 {
    if output == Output::Json {
        return print_json(body);
    }
    text(body);
    DONE
}

/// The end of a verb: what it exits with, and in case of failure, what it says.
pub fn finish(result: Result<u8, Failure>, output: Output) -> u8 {
    match result {
        Ok(code) => code,
        Err(Failure::Usage(text)) => {
            eprintln!("tollgate: {text}");
            USAGE
        }
        Err(Failure::Failed(text)) => {
            eprintln!("tollgate: {text}");
            FAILED
        }
        Err(Failure::Problem(problem)) => {
            let refused = problem.is_refused();
            if output == Output::Json {
                print_json(&problem.document());
            } else if refused {
                // On standard output, as `check` does: they are what was asked for.
                problem.mistakes().for_each(|mistake| print_line(&mistake));
            }
            eprintln!("tollgate: {problem}");
            if refused { REFUSED } else { FAILED }
        }
    }
}

/// Something that no control plane of this version says.
pub fn strange(what: &str) -> Failure {
    Failure::Failed(format!(
        "the answer is not what a control plane says ({what}); does --server or TOLLGATE_SERVER name one, of this version?"
    ))
}

/// How long a busy server wants to be left alone.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    number(RETRY_AFTER_MS)
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
}

fn base_url(text: &str) -> Result<Url, Failure> {
    let usage = |why: &str| {
        Failure::Usage(format!(
            "--server or TOLLGATE_SERVER: {why}; write it like {DEFAULT_SERVER}"
        ))
    };
    let url = Url::parse(text).map_err(|error| usage(&error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) || url.host().is_none() {
        return Err(usage("not an http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage("a URL with a user or password; who you are is said by the token"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(usage("a URL with a query or fragment"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn shown(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

fn certificates(path: &std::path::Path) -> Result<Vec<Certificate>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("--ca {}: {error}", path.display()));
    let text = crate::document::read(path).map_err(|error| Failure::Failed(format!("--ca: {error}")))?;
    let found = Certificate::from_pem_bundle(text.as_bytes()).map_err(|error| failed(&error))?;
    if found.is_empty() {
        return Err(failed(
            &"there is no certificate in it; PEM begins with -----BEGIN CERTIFICATE-----",
        ));
    }
    Ok(found)
}

/// An error and what caused it: the first alone is often only "error sending request".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
