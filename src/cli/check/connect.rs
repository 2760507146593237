//! `tollgate check --connect`: whether what the files refer to is there.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::auth::{KeySetStatus, KeySets};
use crate::config::Config;
use crate::document::{Mistake, Place, Severity, Source};
use crate::revision::{JwksSource, Loaded};
use crate::server::sharing;
use crate::upstream::resolve::resolve;

/// How long each attempt may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everything that could not be reached. Errors, because `--connect` asks for it.
pub fn findings(loaded: &Loaded) -> Vec<Mistake> {
    let mistake = |message: String| loaded.source.mistake(Place::default(), Severity::Error, message);
    let endpoints = loaded.revision.upstreams.iter().flat_map(|upstream| {
        upstream.endpoints.iter().filter_map(|endpoint| {
            let reached = resolve(endpoint).and_then(|address| TcpStream::connect_timeout(&address, PATIENCE));
            let error = reached.err()?;
            Some(format!(
                "upstream \"{}\": {}:{}: {error}",
                upstream.name, endpoint.host, endpoint.port
            ))
        })
    });
    let issuers = loaded.revision.issuers.iter().filter_map(|issuer| {
        let error = keys(&issuer.jwks).err()?;
        Some(format!("issuer \"{}\": {error}", issuer.name))
    });
    endpoints.chain(issuers).map(mistake).collect()
}

/// What is known of Redis now, and what is wrong with it: by the name of the file that says where it is.
pub fn redis(config: &Config, path: &Path) -> (Vec<String>, Vec<Mistake>) {
    let file = Source::new(&path.display().to_string());
    let mistake = |severity, message: String| file.mistake(Place::default(), severity, message);
    let failed = |error: String| (Vec::new(), vec![mistake(Severity::Error, format!("redis: {error}"))]);
    let settings = match sharing::settings(config) {
        Ok(None) => return (Vec::new(), Vec::new()),
        Ok(Some(settings)) => settings,
        Err(error) => return failed(error.to_string()),
    };
    let probed = match runtime() {
        Ok(runtime) => runtime.block_on(crate::redis::probe(&settings)),
        Err(error) => return failed(error),
    };
    match probed {
        Ok(found) => {
            let warnings = found.warnings.into_iter().map(|text| mistake(Severity::Warning, text));
            let errors = found.errors.into_iter().map(|text| mistake(Severity::Error, text));
            (found.facts, warnings.chain(errors).collect())
        }
        Err(error) => failed(error.to_string()),
    }
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
