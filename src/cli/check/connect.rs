//! `tollgate check --connect`: whether what the files refer to is there.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::auth::{KeySetStatus, KeySets};
use crate::config::{self, Config, ControlPlane};
use crate::distribution::{Manifest, PublicKey, Signed, Topic};
use crate::document::{Mistake, Place, Severity, Source};
use crate::redis::{Purpose, probe};
use crate::revision::{JwksSource, Loaded};
use crate::server::sharing;
use crate::sync::client::{Answer, Client, segment};
use crate::telemetry::Metrics;
use crate::upstream::discovery::Discovery;
use crate::upstream::resolve::Found;

/// How long each attempt may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest answer of a control plane that is looked at.
const ANSWER_BYTES: u64 = 1 << 20;

/// Everything that could not be reached. Errors, because `--connect` asks for it.
pub fn findings(loaded: &Loaded, dns: &config::Dns) -> Vec<Mistake> {
    let mistake = |message: String| loaded.source.mistake(Place::default(), Severity::Error, message);
    let names = match Resolver::new(dns) {
        Ok(names) => names,
        Err(error) => return vec![mistake(format!("dns: {error}"))],
    };
    let endpoints = loaded.revision.upstreams.iter().flat_map(|upstream| {
        upstream.endpoints.iter().filter_map(|endpoint| {
            let reached = names.discovery.ask(&endpoint.locator).and_then(|found| {
                found.iter().try_for_each(|Found { address, .. }| {
                    let connected = TcpStream::connect_timeout(address, PATIENCE).map(drop);
                    connected.map_err(|error| format!("{address}: {error}"))
                })
            });
            let error = reached.err()?;
            Some(format!("upstream \"{}\": {}: {error}", upstream.name, endpoint.locator))
        })
    });
    let issuers = loaded.revision.issuers.iter().filter_map(|issuer| {
        let error = keys(&issuer.jwks).err()?;
        Some(format!("issuer \"{}\": {error}", issuer.name))
    });
    endpoints.chain(issuers).map(mistake).collect()
}

/// Who looks names up as a gateway would, and the thread that this takes.
struct Resolver {
    discovery: Discovery,
    _runtime: tokio::runtime::Runtime,
}

impl Resolver {
    fn new(dns: &config::Dns) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| format!("no runtime: {error}"))?;
        let metrics = Metrics::new().map_err(|error| error.to_string())?;
        Ok(Self {
            discovery: Discovery::new(dns, runtime.handle().clone(), metrics.upstreams().lookups())?,
            _runtime: runtime,
        })
    }
}

/// What is known of Redis now, that of the counters and that of kept answers, and what is wrong with it: by the name of the
/// file that says where it is.
pub fn redis(config: &Config, path: &Path) -> (Vec<String>, Vec<Mistake>) {
    let file = Source::new(&path.display().to_string());
    let mistake = |severity, message: String| file.mistake(Place::default(), severity, message);
    let (mut facts, mut mistakes) = (Vec::new(), Vec::new());
    let mut known: Vec<(Purpose, Vec<u64>)> = Vec::new();
    let answers = sharing::answers(config).map(|settings| settings.map(|settings| settings.redis));
    for (purpose, settings) in [
        (Purpose::Counters, sharing::settings(config)),
        (Purpose::Answers, answers),
    ] {
        let probed = match settings {
            Ok(None) => continue,
            Ok(Some(settings)) => runtime().and_then(|runtime| {
                let probed = runtime.block_on(probe(&settings, purpose));
                probed.map_err(|error| error.to_string())
            }),
            Err(error) => Err(error.to_string()),
        };
        match probed {
            Ok(found) => {
                facts.extend(found.facts);
                mistakes.extend(found.warnings.into_iter().map(|text| mistake(Severity::Warning, text)));
                mistakes.extend(found.errors.into_iter().map(|text| mistake(Severity::Error, text)));
                known.push((purpose, found.identities));
            }
            Err(error) => mistakes.push(mistake(Severity::Error, format!("{}: {error}", purpose.section()))),
        }
    }
    if let [(_, counters), (_, answers)] = known.as_slice()
        && answers.iter().any(|server| counters.contains(server))
    {
        let message = "cache.redis: a server that keeps answers keeps the counters too (\"redis\"), whatever it is called \
                       there: counters must not be evicted, and answers must be able to be; give answers a server of \
                       their own, with maxmemory and maxmemory-policy volatile-lfu";
        mistakes.push(mistake(Severity::Warning, message.to_owned()));
    }
    (facts, mistakes)
}

/// What is known of each address of the control plane now, and what is wrong with it. Nothing is registered, and nothing
/// is trusted that was not trusted before.
pub fn control_plane(config: &Config, path: &Path) -> (Vec<String>, Vec<Mistake>) {
    let Some(settings) = &config.revision.control_plane else {
        return (Vec::new(), Vec::new());
    };
    let file = Source::new(&path.display().to_string());
    let (mut facts, mut mistakes) = (Vec::new(), Vec::new());
    for url in &settings.urls {
        let one = ControlPlane {
            urls: vec![url.clone()],
            ..settings.clone()
        };
        let asked = runtime().and_then(|runtime| runtime.block_on(ask(&one, &config.gateway.environment)));
        match asked {
            Ok(fact) => facts.push(format!("control plane {url}: {fact}")),
            Err(error) => mistakes.push(file.mistake(
                Place::default(),
                Severity::Error,
                format!("control_plane: {url}: {error}"),
            )),
        }
    }
    (facts, mistakes)
}

/// Asks one address for what a gateway would ask for.
async fn ask(settings: &ControlPlane, environment: &str) -> Result<String, String> {
    let client = Client::new(settings)?;
    let keys = get(&client, "/v1/signing-keys").await?;
    if keys.status != 200 {
        return Err(format!(
            "/v1/signing-keys: the answer's status is {}, not 200",
            keys.status
        ));
    }
    let shown: SigningKeys = keys.json().map_err(|error| format!("/v1/signing-keys: {error}"))?;
    let keys: Vec<PublicKey> = shown.keys.iter().filter_map(|key| key.parse().ok()).collect();
    if !settings.public_keys.is_empty() && !keys.iter().any(|key| settings.public_keys.contains(key)) {
        return Err("it signs with none of \"public_keys\"".to_owned());
    }
    let target = format!("/v1/environments/{}/revision?after=0&wait=0", segment(environment));
    let manifest = get(&client, &target).await?;
    match manifest.status {
        200 => {}
        304 => return Ok(format!("nothing is published to the environment \"{environment}\" yet")),
        401 => return Err("it does not know the token".to_owned()),
        403 => {
            return Err(format!(
                "the token is not for gateways of the environment \"{environment}\""
            ));
        }
        404 => return Err(format!("there is no environment \"{environment}\"")),
        status => return Err(format!("the answer's status is {status}")),
    }
    let signed: Signed = manifest.json().map_err(|error| error.to_string())?;
    let text = signed
        .verify(Topic::Manifest, &keys)
        .map_err(|error| format!("the manifest: {error}"))?;
    let manifest: Manifest = serde_json::from_str(text).map_err(|error| format!("the manifest: {error}"))?;
    Ok(format!(
        "revision {} of the environment \"{environment}\" ({}), {} routes",
        manifest.seq,
        manifest.root.short(),
        manifest.routes
    ))
}

async fn get(client: &Client, target: &str) -> Result<Answer, String> {
    let answer = client.get(target, ANSWER_BYTES, PATIENCE).await;
    answer.map_err(|error| error.to_string())
}

/// The answer of `/v1/signing-keys`.
#[derive(serde::Deserialize)]
struct SigningKeys {
    keys: Vec<String>,
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))
}

/// Whether the source holds at least one usable key, read as a gateway would read it.
fn keys(source: &JwksSource) -> Result<(), String> {
    runtime()?.block_on(async {
        let (_running, shutdown) = tokio::sync::watch::channel(false);
        let sets = KeySets::new(tokio::runtime::Handle::current(), shutdown);
        let _set = sets.get(source);
        let until = Instant::now() + PATIENCE;
        loop {
            match sets.status().pop() {
                Some(status) if status.keys > 0 => return Ok(()),
                Some(KeySetStatus {
                    source,
                    last_error: Some(error),
                    ..
                }) => return Err(format!("{source}: {error}")),
                _ if Instant::now() > until => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::document::Environment;
    use crate::redis::tests::server::Server;

    fn found(counters: &str, answers: &str) -> (Vec<String>, String) {
        let text = format!(
            "revision: {{ file: r }}\nthrottle: {{ instances: 2 }}\nredis: {{ urls: [{counters:?}] }}\n\
             cache: {{ redis: {{ urls: [{answers:?}] }} }}\n"
        );
        let environment = Environment::fixed([], Timestamp::UNIX_EPOCH);
        let config = config::parse(&text, "t.yaml", &environment, None).unwrap().config;
        let (facts, mistakes) = redis(&config, Path::new("t.yaml"));
        let texts: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        (facts, texts.join("\n"))
    }

    #[test]
    fn answers_with_the_counters_are_found_out_under_another_name_and_two_servers_are_fine() {
        let counters = Server::with(&["--appendonly", "yes"]);
        let answers = Server::with(&["--maxmemory", "64mb", "--maxmemory-policy", "volatile-lfu"]);
        let (facts, mistakes) = found(&counters.url(), &answers.url());
        assert_eq!((facts.len(), mistakes.as_str()), (2, ""));
        assert!(
            facts[0].starts_with("redis 127") && facts[1].starts_with("cache.redis 127"),
            "{facts:?}"
        );

        let (_, mistakes) = found(&counters.url(), &counters.url().replace("127.0.0.1", "localhost"));
        assert!(mistakes.contains("keeps the counters too"), "{mistakes}");
        assert!(mistakes.contains("it has no maxmemory"), "{mistakes}");
    }
}
