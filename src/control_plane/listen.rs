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

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use reqwest::{Client, StatusCode};

    use super::*;
    use crate::control_plane::testing::{Node, PATIENCE};

    /// A certificate for 127.0.0.1 that vouches for itself. Made on the spot, because one in the repository would expire
    /// one day.
    fn make(directory: &Path, name: &str) -> Tls {
        let files = Tls {
            certificate: directory.join("tls.crt"),
            key: directory.join("tls.key"),
        };
        // Without a configuration of our own, openssl makes an authority, which must not speak for a host.
        let config = directory.join("openssl.cnf");
        let text = format!(
            "[req]\ndistinguished_name = name\nx509_extensions = host\nprompt = no\n[name]\nCN = {name}\n\
             [host]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = critical, CA:FALSE\n"
        );
        std::fs::write(&config, text).unwrap();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .arg("-config")
            .arg(&config)
            .arg("-keyout")
            .arg(&files.key)
            .arg("-out")
            .arg(&files.certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        files
    }

    /// One that trusts this certificate alone, and connects anew each time.
    fn client(files: &Tls) -> Client {
        let trusted = reqwest::Certificate::from_pem(&std::fs::read(&files.certificate).unwrap()).unwrap();
        Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .pool_max_idle_per_host(0)
            .tls_certs_only([trusted])
            .build()
            .unwrap()
    }

    #[tokio::test]
    async fn a_certificate_is_used_and_so_is_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let files = make(directory.path(), "first");
        let first = client(&files);
        let text = format!(
            "listener: {{ address: \"127.0.0.1:0\", tls: {{ certificate: \"{}\", key: \"{}\" }} }}\n\
             store: {{ sqlite: \"{}\" }}\n",
            files.certificate.display(),
            files.key.display(),
            directory.path().join("cp.db").display()
        );
        let node = Node::of(&text, "https", first.clone()).await;
        let health = format!("{}/healthz", node.url);
        assert_eq!(first.get(&health).send().await.unwrap().status(), StatusCode::OK);
        let plain = health.replace("https:", "http:");
        assert!(first.get(&plain).send().await.is_err(), "there is no HTTP beside it");

        make(directory.path(), "second");
        let second = client(&files);
        let begun = Instant::now();
        while second.get(&health).send().await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "the new certificate is never used");
            sleep(Duration::from_millis(100)).await;
        }
        assert!(
            first.get(&health).send().await.is_err(),
            "and the old one is not any more"
        );
        node.stop().await;
    }

    #[tokio::test]
    async fn a_client_that_does_not_go_on_with_its_handshake_keeps_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let files = make(directory.path(), "cp");
        let text = format!(
            "listener: {{ address: \"127.0.0.1:0\", tls: {{ certificate: \"{}\", key: \"{}\" }} }}\n\
             store: {{ sqlite: \"{}\" }}\n",
            files.certificate.display(),
            files.key.display(),
            directory.path().join("cp.db").display()
        );
        let node = Node::of(&text, "https", client(&files)).await;
        let address = node.url.strip_prefix("https://").unwrap();
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(node.get("/healthz").await.status(), StatusCode::OK);
        node.stop().await;
    }

    #[test]
    fn what_does_not_fit_together_is_told_once_and_the_one_before_stays() {
        let directory = tempfile::tempdir().unwrap();
        let files = make(directory.path(), "cp");
        let mut certificate = Certificate::read(&files).unwrap();
        let before = certificate.current.load_full();
        assert!(certificate.look().is_none());

        let key = std::fs::read_to_string(&files.key).unwrap();
        std::fs::write(
            &files.key,
            "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n",
        )
        .unwrap();
        let told = certificate.look().unwrap().unwrap_err();
        assert!(told.contains("tls.key") && !told.contains("hunter2"), "{told}");
        assert!(certificate.look().is_none(), "told once");
        std::fs::remove_file(&files.key).unwrap();
        assert!(certificate.look().unwrap().unwrap_err().contains("tls.key"));
        assert!(certificate.look().is_none(), "told once");
        assert!(Arc::ptr_eq(&before, &certificate.current.load_full()));

        std::fs::write(&files.key, key).unwrap();
        certificate.look().unwrap().unwrap();
        assert!(!Arc::ptr_eq(&before, &certificate.current.load_full()));

        let other = tempfile::tempdir().unwrap();
        let others = make(other.path(), "other");
        std::fs::copy(&others.key, &files.key).unwrap();
        assert!(certificate.look().unwrap().unwrap_err().contains("do not fit together"));
        assert!(Certificate::read(&files).is_err(), "at the start it is an error");
    }
}
