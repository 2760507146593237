//! What listeners show to clients: loaded at the start, looked at by `check`, replaced while they serve.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Config};
use crate::document::{Mistake, Place, Severity, Source};
use crate::telemetry::metrics::TransportMetrics;
use crate::transport::accept::Listener;
use crate::transport::certificate::{self, Certificate, Unusable};
use crate::transport::tls::{Found, Tls};
use crate::watched_file::{Again, WatchedFile};

/// How often the files are looked at. A change is used once two looks in a row see the same file.
const LOOK: Duration = Duration::from_millis(100);

/// How often a certificate that ends soon is mentioned.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// The listeners' side of every connection, and who looks after their files.
pub struct Loaded {
    /// In the order of the configuration.
    pub listeners: Vec<Arc<Listener>>,
    /// Replaces what they show; none if all of them are plain.
    pub watch: Option<Watch>,
}

/// Replaces certificates and authorities when their files change.
pub struct Watch {
    watched: Vec<Watched>,
    metrics: TransportMetrics,
}

struct Watched {
    tls: Arc<Tls>,
    files: Vec<WatchedFile>,
    try_again: Again,
    found: Found,
}

/// Loads what the listeners show.
///
/// # Errors
/// The first file that can not be used.
pub fn load(config: &Config, metrics: TransportMetrics) -> Result<Loaded, Unusable> {
    let mut listeners = Vec::with_capacity(config.listeners.len());
    let mut watched = Vec::new();
    for listener in &config.listeners {
        let tls = match &listener.tls {
            None => None,
            Some(settings) => {
                // Before they are read, so that no change is missed.
                let files = files(settings).map(|path| WatchedFile::new(path.to_owned())).collect();
                let (tls, found) = Tls::load(settings, listener.http2, now())?;
                let tls = Arc::new(tls);
                watched.push(Watched {
                    tls: Arc::clone(&tls),
                    files,
                    try_again: Again::default(),
                    found,
                });
                Some(tls)
            }
        };
        listeners.push(Arc::new(Listener {
            proxy_protocol: listener.proxy_protocol,
            tls,
            http2: listener.http2,
        }));
    }
    for watched in &watched {
        watched.tell_ends(&metrics);
        watched.complain();
    }
    Ok(Loaded {
        listeners,
        watch: (!watched.is_empty()).then_some(Watch { watched, metrics }),
    })
}

/// What is wrong with the files that listeners name; `name` is what the user calls the configuration.
#[must_use]
pub fn findings(config: &Config, name: &Path) -> Vec<Mistake> {
    let source = Source::new(&name.display().to_string());
    let mut mistakes = Vec::new();
    let mut found = |place: Place, severity, message: String| {
        mistakes.push(source.mistake(place, severity, message));
    };
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        let now = now();
        let loaded: Vec<_> = (tls.certificates.iter())
            .map(|files| (files.place, Certificate::load(files)))
            .collect();
        let is_valid = |loaded: &Result<Certificate, _>| loaded.as_ref().is_ok_and(|one| one.expired(now).is_none());
        let serves = loaded.iter().any(|(_, loaded)| is_valid(loaded));
        for (place, loaded) in &loaded {
            let certificate = match loaded {
                Ok(certificate) => certificate,
                Err(unusable) => {
                    found(*place, Severity::Error, unusable.to_string());
                    continue;
                }
            };
            if let Some(unusable) = certificate.expired(now) {
                match serves {
                    true => found(*place, Severity::Warning, left_out(&unusable)),
                    false => found(*place, Severity::Error, unusable.to_string()),
                }
            } else if let Some(warning) = certificate.warning(now) {
                found(*place, Severity::Warning, format!("{}: {warning}", certificate.label));
            }
        }
        if let Some(client) = &tls.client {
            let verifier = certificate::read(&client.ca)
                .and_then(|text| certificate::client_verifier(&client.ca, &text, client.required));
            if let Err(unusable) = verifier {
                found(client.place, Severity::Error, unusable.to_string());
            }
        }
    }
    mistakes
}

impl Watch {
    /// Replaces what has changed until `stopped` says so. Blocks its thread.
    pub fn run(mut self, stopped: &dyn Fn() -> bool) {
        let mut remind = Instant::now() + REMIND;
        while !stopped() {
            std::thread::sleep(LOOK);
            for watched in &mut self.watched {
                watched.look(&self.metrics);
            }
            if Instant::now() >= remind {
                remind += REMIND;
                self.watched.iter().for_each(Watched::remind);
            }
        }
    }
}

impl Watched {
    fn look(&mut self, metrics: &TransportMetrics) {
        // All of them are looked at: a certificate and its key change together.
        let mut changed = false;
        for file in &mut self.files {
            changed |= file.has_settled_change();
        }
        if changed {
            self.try_again = Again::start(!self.reload(metrics));
        } else if self.try_again.is_due() {
            self.try_again = self.try_again.next(!self.reload(metrics));
        }
    }

    /// Whether the files could be used.
    fn reload(&mut self, metrics: &TransportMetrics) -> bool {
        match self.tls.reload(now()) {
            Ok(found) => {
                self.found = found;
                self.tell_ends(metrics);
                for certificate in &self.found.used {
                    log::info!("certificate {} is used from now on", certificate.label);
                }
                self.remind();
                metrics.reloads.inc();
                true
            }
            Err(unusable) => {
                log::error!("{unusable}; what was used before is used on");
                metrics.reloads_refused.inc();
                false
            }
        }
    }

    /// Those that are not used stand beside those that are: whoever looks at when they end has to see them.
    fn tell_ends(&self, metrics: &TransportMetrics) {
        for certificate in self.found.used.iter().chain(&self.found.expired) {
            metrics.expires(&certificate.label, certificate.not_after);
        }
    }

    /// About those that are not used because their time is over.
    fn complain(&self) {
        for unusable in (self.found.expired.iter()).filter_map(|certificate| certificate.expired(now())) {
            log::error!("{}", left_out(&unusable));
        }
    }

    fn remind(&self) {
        self.complain();
        let now = now();
        for certificate in &self.found.used {
            if let Some(unusable) = certificate.expired(now) {
                log::error!("{unusable}");
            } else if let Some(warning) = certificate.warning(now) {
                log::warn!("{}: {warning}", certificate.label);
            }
        }
    }
}

/// What is said of a certificate that has expired while others of its listener have not.
fn left_out(unusable: &Unusable) -> String {
    format!("{unusable}; until then the other certificates of this listener are used")
}

/// Every file that a listener's TLS is made of.
fn files(settings: &config::Tls) -> impl Iterator<Item = &Path> {
    let certificates = settings.certificates.iter();
    certificates
        .flat_map(|files| [files.certificate.as_path(), files.key.as_path()])
        .chain(settings.client.iter().map(|client| client.ca.as_path()))
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
