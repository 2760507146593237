//! Whose certificate a client has shown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;
use smallvec::SmallVec;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::san::San;

/// How many names of a certificate are looked at; one is usual.
const NAMES_MAX: usize = 32;

/// The names in a client's certificate. It was verified: some authority of the listener has issued it, and the client
/// has its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientIdentity {
    /// In the order of the certificate; empty if it has none.
    pub names: SmallVec<[San; 1]>,
    /// Unix milliseconds from which on it is expired. A connection may live longer, and so may its session's ticket.
    pub not_after_ms: u64,
}

impl ClientIdentity {
    /// Reads the certificate that a client has shown. One that can not be read has no names and has expired, so that it
    /// lets nobody in.
    #[must_use]
    pub fn of(leaf: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
            return Self::default();
        };
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let names = alternative.iter().flat_map(|names| &names.value.general_names);
        Self {
            names: names.take(NAMES_MAX).filter_map(name).collect(),
            not_after_ms: u64::try_from(certificate.validity().not_after.timestamp())
                .unwrap_or(0)
                .saturating_mul(1000),
        }
    }

    /// Who would have shown a certificate with this name: for explanations.
    #[must_use]
    pub fn with_name(name: San) -> Self {
        Self {
            names: SmallVec::from_iter([name]),
            not_after_ms: u64::MAX,
        }
    }
}

fn name(name: &GeneralName<'_>) -> Option<San> {
    match name {
        GeneralName::URI(value) => San::uri(value),
        GeneralName::DNSName(value) => San::dns(value),
        GeneralName::RFC822Name(value) => San::email(value),
        GeneralName::IPAddress(bytes) => address(bytes).map(San::ip),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, Days};
    use super::*;

    #[test]
    fn the_names_of_a_certificate_are_read_as_they_are_written_in_revisions() {
        let issued = Authority::new().issue_for(
            &[
                "uri:spiffe://example.org/mobile",
                "Mobile.Example.org",
                "email:ops@example.org",
                "ip:192.0.2.1",
                "ip:2001:db8::1",
            ],
            Days { from: -1, to: 30 },
        );
        let identity = ClientIdentity::of(&issued.der());
        let names: Vec<&str> = identity.names.iter().map(San::as_str).collect();
        assert_eq!(
            names,
            [
                "uri:spiffe://example.org/mobile",
                "dns:mobile.example.org",
                "email:ops@example.org",
                "ip:192.0.2.1",
                "ip:2001:db8::1",
            ]
        );
        let in_days = |days: u64| crate::clock::unix_ms() + days * 86_400_000;
        assert!((in_days(29)..in_days(31)).contains(&identity.not_after_ms));
    }

    #[test]
    fn what_can_not_be_read_is_nobody_and_has_expired() {
        let identity = ClientIdentity::of(&CertificateDer::from(vec![1, 2, 3]));
        assert!(identity.names.is_empty());
        assert_eq!(identity.not_after_ms, 0);
    }
}
