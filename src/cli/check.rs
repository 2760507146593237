//! `tollgate check`

mod bodies;
mod connect;
mod memory;
mod strict;

use std::path::{Path, PathBuf};

use super::{DONE, Output, REFUSED, print_json, print_line};
use crate::document::{Environment, Mistake, Mistakes, Place, Severity, Source};
use crate::server::listeners;
use crate::{config, revision, snapshot};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Bootstrap file.
    #[arg(long, default_value = "conf/tollgate.yaml")]
    config: PathBuf,
    /// Revision file; the one that the bootstrap file names when absent.
    #[arg(long)]
    revision: Option<PathBuf>,
    /// Also try what the files refer to: Redis, the control plane, endpoints of upstreams, key sets of issuers.
    #[arg(long)]
    connect: bool,
}

/// What it costs that nobody remembers what key services say.
fn uncached(config: &config::Config, path: &Path) -> Option<Mistake> {
    (config.key_cache.location == config::KeyCacheLocation::None).then(|| {
        let message = "key_cache: location none asks the key service for every request, and nobody remembers anything; write \
                       gateway, or key_manager if a revoked token has to be refused at once";
        Source::new(&path.display().to_string()).mistake(Place::default(), Severity::Warning, message)
    })
}

/// An API that lets in client certificates, while no listener asks for any.
fn unasked(config: &config::Config, loaded: &revision::Loaded) -> Option<Mistake> {
    let asks = |listener: &config::Listener| listener.tls.as_ref().is_some_and(|tls| tls.client.is_some());
    if config.listeners.iter().any(asks) {
        return None;
    }
    let mut apis = loaded.revision.apis.iter();
    let api = apis.find(|api| api.auth.contains(&revision::AuthMethod::ClientCertificate))?;
    let message = format!(
        "API \"{}\" lets in client certificates, and no listener asks for one; give a listener tls: {{ client: {{ ca: FILE }} }}",
        api.name
    );
    Some(loaded.source.mistake(Place::default(), Severity::Warning, message))
}

/// Reports everything that is wrong with both files.
pub fn run(args: &Args, output: Output) -> u8 {
    let environment = Environment::of_process();
    let mut mistakes: Vec<Mistake> = Vec::new();
    let mut facts: Vec<String> = Vec::new();
    let config = match config::load(&args.config, &environment, None) {
        Ok(loaded) => {
            mistakes.extend(loaded.warnings.iter().cloned());
            Some(loaded.config)
        }
        Err(found) => {
            mistakes.extend(found.iter().cloned());
            None
        }
    };
    mistakes.extend(
        config
            .iter()
            .flat_map(|config| listeners::findings(config, &args.config)),
    );
    mistakes.extend(config.iter().filter_map(|config| memory::finding(config, &args.config)));
    let dns = config.as_ref().map(|config| config.dns.clone()).unwrap_or_default();
    if args.connect
        && let Some(config) = &config
    {
        for (found, wrong) in [
            connect::redis(config, &args.config),
            connect::control_plane(config, &args.config),
        ] {
            facts.extend(found);
            mistakes.extend(wrong);
        }
    }
    // What a control plane publishes is not known here, and may well have such issuers.
    let mut asks = config
        .as_ref()
        .is_some_and(|config| config.revision.control_plane.is_some());
    let named = match &config {
        Some(config) => config.revision.file.clone(),
        None => config::revision_file(&args.config, &environment),
    };
    let file = args.revision.clone().or(named);
    if let Some(file) = file {
        let checked = revision::load(&file, &environment).and_then(|loaded| {
            let (_, conflicts) = snapshot::route_table(&loaded);
            loaded.with(conflicts)
        });
        match checked {
            Ok(loaded) => {
                mistakes.extend(loaded.warnings.iter().cloned());
                mistakes.extend(config.iter().flat_map(|config| strict::findings(config, &loaded)));
                mistakes.extend(config.iter().flat_map(|config| bodies::findings(config, &loaded)));
                mistakes.extend(config.iter().filter_map(|config| unasked(config, &loaded)));
                asks |= !loaded.revision.introspectors.is_empty();
                if args.connect {
                    mistakes.extend(connect::findings(&loaded, &dns));
                }
            }
            Err(found) => mistakes.extend(found.iter().cloned()),
        }
    }

    if let (Some(config), true) = (&config, asks) {
        facts.push(format!("key_cache: {}", config.key_cache.ceiling()));
        mistakes.extend(uncached(config, &args.config));
    }

    let mistakes = Mistakes::new(mistakes);
    let code = if mistakes.refuse() { REFUSED } else { DONE };
    if output == Output::Json {
        print_json(&mistakes);
    } else {
        facts.iter().for_each(print_line);
        if mistakes.is_empty() {
            print_line(&"no mistakes");
        } else {
            print_line(&mistakes);
        }
    }
    code
}
