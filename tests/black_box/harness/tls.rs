//! Certificates, and clients that look at them and show some.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::Connection;

/// Somebody who issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its chain, and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// A client that speaks TLS.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

/// A connection whose handshake is done.
pub struct TlsConnection {
    /// For requests.
    pub connection: Connection,
    /// The certificate that the gateway has shown.
    pub certificate: CertificateDer<'static>,
    /// Whether the session is the one of an earlier connection.
    pub is_resumed: bool,
    /// The protocol that was agreed on.
    pub alpn: Option<String>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "black box");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate with these names, written as in revisions; without a prefix they are host names.
    pub fn issue(&self, names: &[&str]) -> Issued {
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
        self.sign(params)
    }

    /// The same, over since long.
    pub fn issue_expired(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
            certificate: certificate.pem() + &self.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A client that trusts it and shows no certificate.
    pub fn client(&self) -> TlsClient {
        TlsClient::new(self, None)
    }

    /// A client that trusts it and shows this certificate.
    pub fn client_with(&self, shown: &Issued) -> TlsClient {
        TlsClient::new(self, Some(shown))
    }
}

impl Issued {
    /// Writes it down as `NAME.crt` and `NAME.key`, at one stroke each.
    pub fn write(&self, directory: &Path, name: &str) {
        for (end, text) in [("crt", &self.certificate), ("key", &self.key)] {
            let fresh = directory.join(format!("{name}.{end}.new"));
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(fresh, directory.join(format!("{name}.{end}"))).unwrap();
        }
    }

    /// What clients see of it.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }
}

impl TlsClient {
    fn new(trusted: &Authority, shown: Option<&Issued>) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(chain.collect::<Result<_, _>>().unwrap(), key)
                    .unwrap()
            }
        };
        Self {
            config: Arc::new(config),
        }
    }

    /// Offers these protocols.
    pub fn offering(self, protocols: &[&str]) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self {
            config: Arc::new(config),
        }
    }

    /// Begins every connection from nothing.
    pub fn forgetful(self) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = rustls::client::Resumption::disabled();
        Self {
            config: Arc::new(config),
        }
    }

    /// Connects and asks for this host.
    pub fn connect(&self, address: SocketAddr, host: &str) -> io::Result<TlsConnection> {
        self.begin(Connection::try_to(address)?, host)
    }

    /// Shakes hands on a connection on which something was sent already.
    pub fn begin(&self, connection: Connection, host: &str) -> io::Result<TlsConnection> {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let mut session = ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let mut facts = None;
        let connection = connection.inside(|mut socket: TcpStream| {
            while session.is_handshaking() {
                session.complete_io(&mut socket)?;
            }
            let chain = session.peer_certificates().expect("the server's certificate");
            facts = Some((
                chain[0].clone().into_owned(),
                session.handshake_kind() == Some(HandshakeKind::Resumed),
                session
                    .alpn_protocol()
                    .map(|name| String::from_utf8_lossy(name).into_owned()),
            ));
            Ok(StreamOwned::new(session, socket))
        })?;
        let (certificate, is_resumed, alpn) = facts.expect("a handshake");
        Ok(TlsConnection {
            connection,
            certificate,
            is_resumed,
            alpn,
        })
    }
}
