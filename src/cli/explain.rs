//! `tollgate explain`

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::{DONE, FAILED, Output, REFUSED, USAGE, print_json, print_line};
use crate::auth::{Introspectors, KeySets, TokenCache};
use crate::config;
use crate::document::Environment;
use crate::gateway::explain::cache::CacheFacts;
use crate::gateway::explain::counter::SharedFacts;
use crate::gateway::explain::edits::SplitFacts;
use crate::gateway::explain::{Explanation, Question, explain};
use crate::revision;
use crate::san::San;
use crate::snapshot::Compiler;
use crate::telemetry::Metrics;
use crate::throttle::Time;
use crate::transport::ClientIdentity;
use crate::upstream::Registry;
use crate::upstream::resolve::Names;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bootstrap file.
    #[arg(long, default_value = "conf/tollgate.yaml")]
    config: PathBuf,
    /// Revision file; the one that the bootstrap file names when absent.
    #[arg(long)]
    revision: Option<PathBuf>,
    /// Method.
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// A header field, such as 'X-API-Key: …'; may be repeated.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// The client's address.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// A name in the client's certificate, such as uri:spiffe://example.org/mobile.
    #[arg(long, value_parser = San::parse)]
    client_certificate: Option<San>,
    /// The URL that the client would use, such as <http://api.example.com/orders/7>.
    url: String,
}

/// Explains one request.
pub fn run(args: &Args, output: Output) -> u8 {
    match explained(args) {
        Ok(explanation) if output == Output::Json => print_json(&explanation),
        Ok(explanation) => {
            print(&explanation);
            DONE
        }
        Err((code, error)) => {
            eprintln!("{error}");
            code
        }
    }
}

fn explained(args: &Args) -> Result<Explanation, (u8, String)> {
    let usage = |error: String| (USAGE, error);
    let method =
        Method::from_bytes(args.method.as_bytes()).map_err(|_| usage(format!("-X {}: not a method", args.method)))?;
    let url: Uri = args
        .url
        .parse()
        .map_err(|error| usage(format!("{}: {error}", args.url)))?;
    let headers = headers(&args.headers).map_err(usage)?;
    let given = headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let host = given
        .or_else(|| url.authority().map(http::uri::Authority::as_str))
        .unwrap_or_default();

    let environment = Environment::of_process();
    let config = config::load(&args.config, &environment, None)
        .map_err(|mistakes| (REFUSED, mistakes.to_string()))?
        .config;
    let file = args
        .revision
        .as_ref()
        .or(config.revision.file.as_ref())
        .ok_or_else(|| {
            let file = args.config.display();
            usage(format!("{file} names no revision file; write --revision FILE"))
        })?;
    let metrics = Arc::new(Metrics::new().map_err(|error| (FAILED, error.to_string()))?);
    let compiler = Compiler {
        environment_type: config.gateway.environment_type.unwrap_or_default(),
        labels: config.gateway.labels.clone(),
        key_sets: KeySets::offline(),
        tokens: Arc::new(TokenCache::new(1)),
        introspectors: Introspectors::offline(),
        key_store: None,
        names: Names::Leave,
        sharing: crate::server::sharing::defaults(&config),
        registry: Arc::new(Registry::new(config.gateway.zone.clone(), metrics.upstreams().clone())),
        metrics: Arc::clone(&metrics),
    };
    let (snapshot, _) = revision::load(file, &environment)
        .and_then(|loaded| compiler.compile(loaded))
        .map_err(|mistakes| (REFUSED, mistakes.to_string()))?;
    let certificate = args.client_certificate.clone().map(ClientIdentity::with_name);
    let question = Question {
        method: &method,
        scheme: url.scheme_str().unwrap_or("http"),
        host,
        path: url.path(),
        query: url.query(),
        headers: &headers,
        client: args.client,
        certificate: certificate.as_ref(),
        kept: None,
    };
    Ok(explain(
        &snapshot,
        &crate::server::sharing::unconnected(&config, &metrics),
        &question,
        Time::from(SystemTime::now()),
    ))
}

fn headers(fields: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for field in fields {
        let wrong = || format!("-H '{field}': write a name, a colon and a value");
        let (name, value) = field.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn split_told(split: &SplitFacts) -> String {
    let why = match split.chosen_by {
        "sandbox" => "because the caller has a sandbox key".to_owned(),
        "named" => "because the client names it".to_owned(),
        "sticky" => {
            let sticky = split.sticky.as_deref().unwrap_or_default();
            format!("always, for this {sticky}")
        }
        _ => "or another one: it is drawn for each request".to_owned(),
    };
    let shares: Vec<String> = (split.shares.iter())
        .map(|share| format!("{} {} %", share.upstream, share.share_percent))
        .collect();
    format!("{why} (split: {})", shares.join(", "))
}

fn print(explanation: &Explanation) {
    let row = |label: &str, text: &str| print_line(&format_args!("{label:<10} {text}"));
    row("revision", &explanation.revision);
    if let Some(path) = &explanation.path {
        row("path", path);
    }
    for (position, step) in explanation.route_steps.iter().enumerate() {
        row(if position == 0 { "matching" } else { "" }, step);
    }
    if let (Some(api), Some(route)) = (&explanation.api, &explanation.route) {
        row("route", &format!("{route} of api \"{api}\""));
    }
    if let Some(address) = &explanation.address {
        let verdict = if address.allowed { "let in" } else { "denied" };
        let by = match &address.range {
            Some(range) => format!("by {range}"),
            None => "because no range holds it".to_owned(),
        };
        row("address", &format!("{} is {verdict} {by}", address.client));
    }
    if let Some(cors) = &explanation.cors {
        let what = if cors.preflight { "preflight of " } else { "" };
        let told = match &cors.origin {
            Some(origin) => format!("{what}origin {origin} is {}", cors.verdict),
            None => "the request names no origin".to_owned(),
        };
        row("cors", &told);
    }
    if let Some(most) = explanation.body_bytes {
        row("body", &format!("at most {most} bytes"));
    }
    if let Some(caller) = &explanation.caller {
        let known_by = [
            caller
                .application
                .as_ref()
                .map(|name| format!("application \"{name}\"")),
            caller.plan.as_ref().map(|name| format!("plan \"{name}\"")),
            (caller.key_id.as_ref()).map(|id| match caller.by {
                "certificate" => format!("certificate \"{id}\""),
                _ => format!("key \"{id}\""),
            }),
            caller.key_type.map(|kind| format!("type {kind}")),
            caller.subject.as_ref().map(|subject| format!("subject \"{subject}\"")),
        ];
        let facts: Vec<String> = known_by.into_iter().flatten().collect();
        row("caller", &[&[caller.by.to_owned()], &facts[..]].concat().join(", "));
    }
    for limit in &explanation.limits {
        let shadow = if limit.mode == "shadow" {
            " (shadow: only counts)"
        } else {
            ""
        };
        row(
            "limit",
            &format!(
                "{} {} per {}{shadow}, counter {}",
                limit.name, limit.rate, limit.per, limit.counter
            ),
        );
        for sentence in limit.sharing.iter().flat_map(SharedFacts::sentences) {
            row("", &sentence);
        }
    }
    match explanation.limits.first() {
        None => {}
        Some(limit) if limit.shared => row(
            "",
            "explain counts and calls nothing, so it cannot say what is left in Redis; GET /admin/throttle/COUNTER of a \
             gateway can",
        ),
        Some(_) => row("", "counted in this process alone"),
    }
    for (way, changes) in [
        ("request", &explanation.headers.request),
        ("answer", &explanation.headers.response),
    ] {
        if !changes.is_empty() {
            row("headers", &format!("of the {way}: {}", changes.join(", ")));
        }
    }
    let cache = explanation.cache.iter().flat_map(CacheFacts::sentences);
    for (position, sentence) in cache.enumerate() {
        row(if position == 0 { "cache" } else { "" }, &sentence);
    }
    if let Some(upstream) = &explanation.upstream {
        row("upstream", &format!("{} gets {}", upstream.name, upstream.target));
        if let Some(split) = &upstream.split {
            row("", &split_told(split));
        }
        let choice = &upstream.choice;
        row("", &format!("by {}", choice.balance));
        for endpoint in &choice.endpoints {
            let because = match endpoint.because.join("; ") {
                reasons if reasons.is_empty() => String::new(),
                reasons => format!(": {reasons}"),
            };
            row(
                "",
                &format!("{} ({} %){because}", endpoint.address, endpoint.share_percent),
            );
        }
    }
    match (explanation.status, explanation.code, &explanation.local) {
        (Some(status), Some(code), _) => {
            let reason = explanation
                .reason
                .as_ref()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            row("answer", &format!("{status} {code}{reason}"));
        }
        (_, _, Some(local)) => {
            let to = (local.location.as_ref()).map_or_else(String::new, |location| format!(" to {location}"));
            row("answer", &format!("{} by the gateway ({}){to}", local.status, local.by));
        }
        _ => row("answer", "the upstream's"),
    }
}
