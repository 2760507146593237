//! Certificates for tests.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::CertificateFiles;
use crate::document::Place;

/// Somebody who issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// When a certificate is valid, in days from now.
#[derive(Clone, Copy)]
pub(crate) struct Days {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "tests");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_for(names, Days { from: -1, to: 365 })
    }

    /// With names as revisions write them; without a prefix a host name.
    pub(crate) fn issue_for(&self, names: &[&str], days: Days) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.split_once(':') {
                Some(("uri", uri)) => SanType::URI(uri.try_into().unwrap()),
                Some(("email", email)) => SanType::Rfc822Name(email.try_into().unwrap()),
                Some(("ip", address)) => SanType::IpAddress(address.parse().unwrap()),
                _ => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let at = |days: i64| {
            let distance = day * u32::try_from(days.unsigned_abs()).unwrap();
            if days < 0 { now - distance } else { now + distance }
        };
        params.not_before = at(days.from).into();
        params.not_after = at(days.to).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
            certificate: certificate.pem() + &self.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Issued {
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

/// Writes it down as `NAME.crt` and `NAME.key`.
pub(crate) fn files(directory: &Path, name: &str, issued: &Issued) -> CertificateFiles {
    let files = CertificateFiles {
        certificate: directory.join(format!("{name}.crt")),
        key: directory.join(format!("{name}.key")),
        place: Place::default(),
    };
    std::fs::write(&files.certificate, &issued.certificate).unwrap();
    std::fs::write(&files.key, &issued.key).unwrap();
    files
}
