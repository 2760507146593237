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
    /// What is used now; only who reloads looks at it.
    in_use: Mutex<InUse>,
}

struct InUse {
    /// The authorities for client certificates.
    authorities: Option<Vec<u8>>,
    certificates: Vec<Certificate>,
}

/// The certificates of a listener, as its files have them.
pub struct Found {
    /// Those that clients are shown, in the order of the settings.
    pub used: Vec<Certificate>,
    /// Those that are not, because their time is over. Where a file was replaced by such a one, and what was read from it
    /// before is still good, that is used on.
    pub expired: Vec<Certificate>,
}

impl Tls {
    /// Reads everything that the settings name. With `http2` that protocol is offered beside HTTP/1.1. `now` is in unix
    /// seconds. With it come the certificates, for whoever shows when they end.
    ///
    /// # Errors
    /// The first file that can not be used. An expired certificate is one only when all are.
    pub fn load(settings: &Settings, http2: bool, now: i64) -> Result<(Self, Found), Unusable> {
        let found = load_certificates(settings, &[], now)?;
        let authorities = read_authorities(settings)?;
        let certificates = Arc::new(Current::new(&found.used));
        let config = config(settings, authorities.as_deref(), http2, &certificates)?;
        let tls = Self {
            config: ArcSwap::from_pointee(config),
            certificates,
            settings: settings.clone(),
            http2,
            in_use: Mutex::new(InUse {
                authorities,
                certificates: found.used.clone(),
            }),
        };
        Ok((tls, found))
    }

    /// What the next handshake goes by.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Reads everything again. All of it is used from the next handshake on, or nothing of it; but a certificate whose time
    /// is over does not keep the others from being replaced.
    ///
    /// # Errors
    /// The first file that can not be used; what was used before is used on. An expired certificate is one only when all
    /// are.
    pub fn reload(&self, now: i64) -> Result<Found, Unusable> {
        let mut in_use = self.in_use.lock();
        let found = load_certificates(&self.settings, &in_use.certificates, now)?;
        let authorities = read_authorities(&self.settings)?;
        if in_use.authorities != authorities {
            // With other authorities also the keys of tickets are others: a session that began with a certificate of an
            // authority that is not trusted any more can not be resumed.
            let config = config(&self.settings, authorities.as_deref(), self.http2, &self.certificates)?;
            self.config.store(Arc::new(config));
            in_use.authorities = authorities;
        }
        in_use.certificates.clone_from(&found.used);
        self.certificates.replace(&found.used);
        Ok(found)
    }
}

/// An expired certificate is left out, so that for its names one with a wildcard, or another kind of key, takes its place.
fn load_certificates(settings: &Settings, before: &[Certificate], now: i64) -> Result<Found, Unusable> {
    let mut found = Found {
        used: Vec::with_capacity(settings.certificates.len()),
        expired: Vec::new(),
    };
    for files in &settings.certificates {
        let certificate = Certificate::load(files)?;
        if certificate.expired(now).is_none() {
            found.used.push(certificate);
            continue;
        }
        let is_still_good = |known: &&Certificate| known.label == certificate.label && known.expired(now).is_none();
        found.used.extend(before.iter().find(is_still_good).cloned());
        found.expired.push(certificate);
    }
    if found.expired.len() == settings.certificates.len()
        && let Some(unusable) = found.expired.first().and_then(|first| first.expired(now))
    {
        return Err(unusable);
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, Days, files};
    use super::*;

    const GOOD: Days = Days { from: -1, to: 300 };
    const OVER: Days = Days { from: -9, to: -2 };

    fn now() -> i64 {
        jiff::Timestamp::now().as_second()
    }

    /// A listener with two certificates, in this directory.
    fn settings(directory: &std::path::Path, authority: &Authority, (a, b): (Days, Days)) -> Settings {
        Settings {
            certificates: vec![
                files(directory, "a", &authority.issue_for(&["a.example"], a)),
                files(directory, "b", &authority.issue_for(&["b.example"], b)),
            ],
            min_version: TlsVersion::V1_2,
            client: None,
        }
    }

    fn names(certificates: &[Certificate]) -> Vec<&str> {
        let names = certificates.iter().flat_map(|certificate| &certificate.names);
        names.map(String::as_str).collect()
    }

    #[test]
    fn one_expired_certificate_does_not_keep_the_others_from_being_served_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let settings = settings(directory.path(), &authority, (OVER, GOOD));
        let (tls, found) = Tls::load(&settings, false, now()).unwrap();
        assert_eq!(
            (names(&found.used), names(&found.expired)),
            (vec!["b.example"], vec!["a.example"])
        );

        let renewed = authority.issue_for(&["b.example"], GOOD);
        files(directory.path(), "b", &renewed);
        let found = tls.reload(now()).unwrap();
        assert_eq!(names(&found.used), ["b.example"]);
        assert_eq!(found.used[0].key.cert[0], renewed.der());
    }

    #[test]
    fn a_file_that_is_replaced_by_an_expired_one_leaves_what_was_good_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (tls, before) = Tls::load(&settings(directory.path(), &authority, (GOOD, GOOD)), false, now()).unwrap();
        files(directory.path(), "a", &authority.issue_for(&["a.example"], OVER));
        for _ in 0..2 {
            let found = tls.reload(now()).unwrap();
            assert_eq!(names(&found.used), ["a.example", "b.example"]);
            assert!(Arc::ptr_eq(&found.used[0].key, &before.used[0].key));
            assert_eq!(names(&found.expired), ["a.example"]);
        }
        // Once the time of that one is over too, it goes.
        let later = before.used[0].not_after;
        files(
            directory.path(),
            "b",
            &authority.issue_for(&["b.example"], Days { from: -1, to: 600 }),
        );
        let found = tls.reload(later).unwrap();
        assert_eq!(
            (names(&found.used), names(&found.expired)),
            (vec!["b.example"], vec!["a.example"])
        );
    }

    #[test]
    fn nothing_but_expired_certificates_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), &Authority::new(), (OVER, OVER));
        let unusable = Tls::load(&settings, false, now()).err().unwrap();
        assert!(unusable.path.ends_with("a.crt"), "{unusable}");
        assert!(unusable.why.contains("expired at"), "{unusable}");
    }
}
