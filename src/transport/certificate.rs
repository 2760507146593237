//! A certificate with its key, read from files and looked at before it is used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::CertificateFiles;

/// The largest file that is read: a bundle of all well-known authorities is a fifth of it.
const LARGEST: u64 = 1 << 20;

/// From how many days before its end on a certificate is warned about.
const WARN_DAYS: i64 = 14;

/// A certificate that can be shown to clients.
#[derive(Clone)]
pub struct Certificate {
    /// The chain, and the key that proves that it is ours.
    pub key: Arc<CertifiedKey>,
    /// The host names that it is issued for, in lower case; `*.example.org` among them.
    pub names: Vec<String>,
    /// Unix seconds from which on clients refuse it.
    pub not_after: i64,
    /// Unix seconds before which they do.
    pub not_before: i64,
    /// By what it is called in metrics and messages: its file.
    pub label: String,
    /// It names neither hosts nor addresses.
    nameless: bool,
}

/// Why files can not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and the way out.
    pub why: String,
}

impl Unusable {
    /// This file, for this reason.
    #[must_use]
    pub fn new(path: &Path, why: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

/// The one provider of cryptography. It is named wherever it is needed, because the tree has two and none is the default
/// of the process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Certificate {
    /// Reads a chain and its key. Whether it has expired is another question, see [`Self::expired`].
    ///
    /// # Errors
    /// When a file can not be read or holds something else.
    pub fn load(files: &CertificateFiles) -> Result<Self, Unusable> {
        let chain = certificates(&files.certificate, &read(&files.certificate)?)?;
        let key = private_key(&files.key)?;
        let facts = chain
            .first()
            .ok_or("no certificate in it")
            .and_then(|leaf| Facts::of(leaf))
            .map_err(|why| Unusable::new(&files.certificate, why))?;
        let signing = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| Unusable::new(&files.key, format!("this private key can not be used: {error}")))?;
        let key = CertifiedKey::new(chain, signing);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let why = format!(
                    "this key does not belong to the certificate in {}; write the key that it was made for, and put the \
                     server's own certificate first in its file",
                    files.certificate.display()
                );
                return Err(Unusable::new(&files.key, why));
            }
            Err(error) => {
                let why = format!("the certificate can not be used: {error}");
                return Err(Unusable::new(&files.certificate, why));
            }
        }
        Ok(Self {
            key: Arc::new(key),
            names: facts.names,
            not_after: facts.not_after,
            not_before: facts.not_before,
            label: files.certificate.display().to_string(),
            nameless: facts.nameless,
        })
    }

    /// Why clients refuse it from `now` on, in unix seconds, if its time is over.
    #[must_use]
    pub fn expired(&self, now: i64) -> Option<Unusable> {
        (self.not_after <= now).then(|| {
            let end = date(self.not_after);
            let why = format!("the certificate expired at {end}; clients would refuse it, renew it");
            Unusable::new(Path::new(&self.label), why)
        })
    }

    /// What somebody should look at, although it can be used.
    #[must_use]
    pub fn warning(&self, now: i64) -> Option<String> {
        let days = (self.not_after - now) / 86_400;
        if now < self.not_before {
            let begin = date(self.not_before);
            return Some(format!(
                "the certificate is valid from {begin} on, and clients refuse it until then"
            ));
        }
        if days < WARN_DAYS {
            let end = date(self.not_after);
            return Some(format!("the certificate expires at {end}, in {days} days; renew it"));
        }
        self.nameless.then(|| {
            "the certificate names no host (subjectAltName), and clients look nowhere else; have it issued with the \
             names of this gateway"
                .to_owned()
        })
    }
}

/// Who may issue client certificates: the certificates in the text of this file.
///
/// # Errors
/// When it holds something else.
pub fn client_verifier(ca: &Path, text: &[u8], required: bool) -> Result<Arc<dyn ClientCertVerifier>, Unusable> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, text)? {
        roots.add(certificate).map_err(|error| {
            Unusable::new(
                ca,
                format!("a certificate in it can not be used as an authority: {error}"),
            )
        })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let verifier = if required {
        verifier
    } else {
        verifier.allow_unauthenticated()
    };
    verifier
        .build()
        .map_err(|error| Unusable::new(ca, format!("client certificates can not be verified with it: {error}")))
}

/// All certificates of a PEM file; at least one.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| Unusable::new(path, format!("not a certificate in PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(Unusable::new(path, "no certificate in it; a PEM file is expected"));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Unusable> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let why = match error {
            pem::Error::NoItemsFound if contains(&text, b"ENCRYPTED") => {
                "the private key is encrypted, and nobody is there to type its password; decrypt it with \
                 `openssl pkey -in FILE -out FILE`"
                    .to_owned()
            }
            pem::Error::NoItemsFound => "no private key in it; a PEM file is expected".to_owned(),
            // Never the content: an error of another kind may repeat a part of it.
            _ => "not a private key in PEM".to_owned(),
        };
        Unusable::new(path, why)
    })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// The content of a file of certificates or keys.
///
/// # Errors
/// When it can not be read.
pub fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    let broken = |error: std::io::Error| Unusable::new(path, format!("it can not be read: {error}"));
    let metadata = std::fs::metadata(path).map_err(broken)?;
    if !metadata.is_file() {
        return Err(Unusable::new(path, "it is not a file"));
    }
    if metadata.len() > LARGEST {
        return Err(Unusable::new(path, "it is larger than 1 MiB"));
    }
    std::fs::read(path).map_err(broken)
}

/// What is asked of a certificate.
struct Facts {
    names: Vec<String>,
    not_after: i64,
    not_before: i64,
    nameless: bool,
}

impl Facts {
    fn of(leaf: &[u8]) -> Result<Self, &'static str> {
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| "a certificate in it can not be read")?;
        let alternative = certificate
            .subject_alternative_name()
            .map_err(|_| "the names in the certificate can not be read")?;
        let names = alternative.iter().flat_map(|names| &names.value.general_names);
        Ok(Self {
            nameless: names.clone().next().is_none(),
            names: names
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                })
                .collect(),
            not_after: certificate.validity().not_after.timestamp(),
            not_before: certificate.validity().not_before.timestamp(),
        })
    }
}

/// An instant as people write it.
fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "some time".to_owned(), |instant| instant.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, Days, files};
    use super::*;

    const DAY: i64 = 86_400;

    fn now() -> i64 {
        jiff::Timestamp::now().as_second()
    }

    #[test]
    fn a_certificate_is_read_with_its_names_and_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(
            directory.path(),
            "a",
            &Authority::new().issue(&["API.example.com", "*.example.org"]),
        );
        let certificate = Certificate::load(&files).unwrap();
        assert_eq!(certificate.names, ["api.example.com", "*.example.org"]);
        assert!(certificate.not_after > now() + 300 * DAY);
        assert_eq!(certificate.warning(now()), None);
        assert_eq!(certificate.label, files.certificate.display().to_string());
        assert_eq!(certificate.key.cert.len(), 2, "the chain goes along");
    }

    #[test]
    fn one_that_ends_soon_or_begins_later_is_warned_about_and_one_that_has_ended_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let load = |name: &str, days: Days| {
            let files = files(directory.path(), name, &authority.issue_for(&["a.example"], days));
            Certificate::load(&files).unwrap()
        };
        let soon = load("soon", Days { from: -1, to: 10 });
        assert_eq!(soon.expired(now()), None);
        let soon = soon.warning(now()).unwrap();
        assert!(soon.contains("expires at") && soon.contains("days; renew it"), "{soon}");
        let later = load("later", Days { from: 2, to: 300 }).warning(now()).unwrap();
        assert!(later.contains("is valid from"), "{later}");
        let over = load("over", Days { from: -9, to: -2 }).expired(now()).unwrap();
        assert!(over.why.contains("expired at"), "{over}");
        assert!(over.path.ends_with("over.crt"));
    }

    #[test]
    fn files_that_hold_something_else_are_refused_with_the_file_and_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let one = files(directory.path(), "one", &authority.issue(&["one.example"]));
        let other = files(directory.path(), "other", &authority.issue(&["other.example"]));
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let broken = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        let no_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (certificate, key, path, why) in [
            (
                &one.certificate,
                &other.key,
                "other.key",
                "does not belong to the certificate in",
            ),
            (&one.key, &one.key, "one.key", "no certificate in it"),
            (&one.certificate, &one.certificate, "one.crt", "no private key in it"),
            (&directory.path().join("nobody"), &one.key, "nobody", "can not be read"),
            (
                &one.certificate,
                &directory.path().join("nobody"),
                "nobody",
                "can not be read",
            ),
            (&directory.path().to_owned(), &one.key, "", "not a file"),
            (&one.certificate, &write("enc", encrypted), "enc", "is encrypted"),
            (&one.certificate, &write("empty", ""), "empty", "no private key in it"),
            (&write("broken", broken), &one.key, "broken", "not a certificate in PEM"),
            (&write("noder", no_der), &one.key, "noder", "can not be read"),
            (&one.certificate, &write("nokey", no_key), "nokey", "can not be used"),
        ] {
            let files = CertificateFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                ..one.clone()
            };
            let error = Certificate::load(&files).err().unwrap();
            assert!(error.why.contains(why), "{error}");
            assert!(error.path.ends_with(path), "{error}");
        }
    }

    #[test]
    fn authorities_are_read_from_a_bundle() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.crt");
        std::fs::write(&path, [Authority::new().pem(), Authority::new().pem()].concat()).unwrap();
        for required in [false, true] {
            let verifier = client_verifier(&path, &read(&path).unwrap(), required).unwrap();
            assert_eq!(verifier.client_auth_mandatory(), required);
            assert_eq!(verifier.root_hint_subjects().len(), 2);
        }
        let error = client_verifier(&path, b"nothing", true).err().unwrap();
        assert!(error.why.contains("no certificate in it"), "{error}");
    }
}
