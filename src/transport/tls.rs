//! TLS of one listener: what clients are shown and asked for, and how both are replaced while it serves.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};

use super::certificate::{self, Certificate, Unusable, provider};
use super::certificates::Current;
use crate::config::{Tls as Settings, TlsVersion};

/// Protocols of HTTP as they are named in handshakes (RFC 7301).
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// What handshakes of a listener go by.
pub struct Tls {
    config: ArcSwap<ServerConfig>,
    certificates: Arc<Current>,
    settings: Settings,
    http2: bool,
    /// The authorities for client certificates as they are now; only who reloads looks at it.
    authorities: Mutex<Option<Vec<u8>>>,
}

impl Tls {
    /// Reads everything that the settings name. With `http2` that protocol is offered beside HTTP/1.1. `now` is in unix
    /// seconds. With it come the certificates, for whoever shows when they end.
    ///
    /// # Errors
    /// The first file that can not be used.
    pub fn load(settings: &Settings, http2: bool, now: i64) -> Result<(Self, Vec<Certificate>), Unusable> {
        let found = load_certificates(settings, now)?;
        let authorities = read_authorities(settings)?;
        let certificates = Arc::new(Current::new(&found));
        let config = config(settings, authorities.as_deref(), http2, &certificates)?;
        let tls = Self {
            config: ArcSwap::from_pointee(config),
            certificates,
            settings: settings.clone(),
            http2,
            authorities: Mutex::new(authorities),
        };
        Ok((tls, found))
    }

    /// What the next handshake goes by.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Reads everything again. All of it is used from the next handshake on, or nothing of it.
    ///
    /// # Errors
    /// The first file that can not be used; what was used before is used on.
    pub fn reload(&self, now: i64) -> Result<Vec<Certificate>, Unusable> {
        let found = load_certificates(&self.settings, now)?;
        let authorities = read_authorities(&self.settings)?;
        let mut known = self.authorities.lock();
        if *known != authorities {
            // With other authorities also the keys of tickets are others: a session that began with a certificate of an
            // authority that is not trusted any more can not be resumed.
            let config = config(&self.settings, authorities.as_deref(), self.http2, &self.certificates)?;
            self.config.store(Arc::new(config));
            *known = authorities;
        }
        drop(known);
        self.certificates.replace(&found);
        Ok(found)
    }
}

fn load_certificates(settings: &Settings, now: i64) -> Result<Vec<Certificate>, Unusable> {
    let files = settings.certificates.iter();
    files.map(|files| Certificate::load(files, now)).collect()
}

fn read_authorities(settings: &Settings) -> Result<Option<Vec<u8>>, Unusable> {
    let client = settings.client.as_ref();
    client.map(|client| certificate::read(&client.ca)).transpose()
}

fn config(
    settings: &Settings,
    authorities: Option<&[u8]>,
    http2: bool,
    certificates: &Arc<Current>,
) -> Result<ServerConfig, Unusable> {
    let broken = |error: rustls::Error| {
        let file = settings.certificates.first().map(|files| files.certificate.as_path());
        Unusable::new(file.unwrap_or_else(|| "".as_ref()), format!("TLS: {error}"))
    };
    let versions = match settings.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(broken)?;
    let builder = match (&settings.client, authorities) {
        (Some(client), Some(text)) => {
            builder.with_client_cert_verifier(certificate::client_verifier(&client.ca, text, client.required)?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::<Current>::clone(certificates));
    config.alpn_protocols = match http2 {
        true => vec![HTTP2.to_vec(), HTTP1.to_vec()],
        false => vec![HTTP1.to_vec()],
    };
    // Clients keep their sessions in tickets, whose keys change every six hours. The cache of this side would be a lock in
    // every handshake. The keys are this listener's own, so that what one listener let in is not resumed at another.
    config.ticketer = Ticketer::new().map_err(broken)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
