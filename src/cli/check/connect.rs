//! `tollgate check --connect`: whether what a revision refers to is there.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::auth::{KeySetStatus, KeySets};
use crate::document::{Mistake, Place, Severity};
use crate::revision::{JwksSource, Loaded};
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

/// Whether the source holds at least one usable key, read as a gateway would read it.
fn keys(source: &JwksSource) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
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
