//! How connections to the control plane begin: with TLS, if there is a certificate. Its files are read again when they
//! change, because certificates live shorter than processes.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::config::Tls;
use crate::side_http::Accept;

/// How often the files are compared with what was read last.
const LOOK: Duration = Duration::from_secs(3);

/// The longest file that is read as a certificate or key.
const LONGEST: u64 = 1 << 20;

/// Sets connections up.
#[derive(Clone)]
pub enum Acceptor {
    /// HTTP.
    Plain,
    /// HTTPS, with the certificate as it is now.
    Tls(Arc<ArcSwap<ServerConfig>>),
}

/// A certificate that is read again when its files change.
pub struct Certificate {
    files: Tls,
    /// As they were when they were read last, good or bad.
    read: Pem,
    current: Arc<ArcSwap<ServerConfig>>,
}

/// The two files.
#[derive(PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// When a file can not be read, or is not what it should be; says which one.
    pub fn read(files: &Tls) -> Result<Self, String> {
        let read = Pem::read(files)?;
        let current = read.config(files)?;
        Ok(Self {
            files: files.clone(),
            read,
            current: Arc::new(ArcSwap::from_pointee(current)),
        })
    }

    /// What sets connections up with it.
    #[must_use]
    pub fn acceptor(&self) -> Acceptor {
        Acceptor::Tls(Arc::clone(&self.current))
    }

    /// Reads it again whenever it changes. Does not return.
    pub async fn follow(mut self) {
        loop {
            sleep(LOOK).await;
            // Two small files; their reading is over sooner than another thread would have begun with it.
            if let Some(told) = self.look() {
                match told {
                    Ok(()) => log::info!(
                        "TLS: the certificate in {} is used now",
                        self.files.certificate.display()
                    ),
                    Err(error) => log::error!("TLS: {error}; the one from before is used on"),
                }
            }
        }
    }

    /// Looks once. None: nothing has changed.
    fn look(&mut self) -> Option<Result<(), String>> {
        let found = match Pem::read(&self.files) {
            Ok(found) => found,
            // Told once, as what is wrong with contents is.
            Err(error) if self.read != Pem::EMPTY => {
                self.read = Pem::EMPTY;
                return Some(Err(error));
            }
            Err(_) => return None,
        };
        if found == self.read {
            return None;
        }
        let config = found.config(&self.files);
        self.read = found;
        Some(config.map(|config| self.current.store(Arc::new(config))))
    }
}

impl Pem {
    const EMPTY: Self = Self {
        certificate: Vec::new(),
        key: Vec::new(),
    };

    fn read(files: &Tls) -> Result<Self, String> {
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
        })
    }

    fn config(&self, files: &Tls) -> Result<ServerConfig, String> {
        let at = |path: &Path, what: &str| format!("{}: {what}", path.display());
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| at(&files.certificate, &format!("not a certificate in PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(at(&files.certificate, "there is no certificate in it (PEM)"));
        }
        // What is wrong with a key is not said in the words of its reader: they could show a part of it.
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| at(&files.key, "there is no private key in it (PEM, without a password)"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .map_err(|error| {
                format!(
                    "{} and {} do not fit together: {error}",
                    files.certificate.display(),
                    files.key.display()
                )
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let at = |what: String| format!("{}: {what}", path.display());
    let length = std::fs::metadata(path).map_err(|error| at(error.to_string()))?.len();
    if length > LONGEST {
        return Err(at("longer than 1 MiB, which no certificate is".to_owned()));
    }
    std::fs::read(path).map_err(|error| at(error.to_string()))
}

impl Accept for Acceptor {
    type Stream = Stream;

    async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        match self {
            Self::Plain => Ok(Stream::Plain(stream)),
            Self::Tls(config) => {
                let stream = TlsAcceptor::from(config.load_full()).accept(stream).await?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }
}

/// A connection, with TLS or without.
pub enum Stream {
    /// Without.
    Plain(TcpStream),
    /// With.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls the same method on whichever it is.
macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($stream) => $call,
            Self::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
