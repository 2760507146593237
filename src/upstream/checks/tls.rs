//! TLS of checks: the same trust and the same certificate as for requests.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::revision::{Protocol, UpstreamTls};

/// Who connects as an upstream says. Blocks when the host's trusted certificates were not read yet.
pub(super) fn connector(tls: &UpstreamTls, protocol: Protocol) -> Result<TlsConnector, String> {
    let roots = match &tls.ca {
        Some(pem) => Arc::new(trusted(pem)?),
        None => of_the_host()?,
    };
    // The provider is named, because the tree has two and none is the default of the process.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots);
    let mut config = match &tls.client {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| format!("the certificate to show: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                .map_err(|_| "the key of the certificate to show can not be read".to_owned())?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("the certificate to show: {error}"))?
        }
    };
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
        Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn trusted(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("the trusted certificates: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("the trusted certificates: {error}"))?;
    }
    Ok(roots)
}

/// Read once: they are hundreds of files.
fn of_the_host() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        // What can not be read is left out, as long as something is left.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        return Err("the host has no trusted certificates; install them, or write \"ca\"".to_owned());
    }
    Ok(Arc::clone(roots))
}
