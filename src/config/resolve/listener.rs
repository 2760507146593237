//! Listeners.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::super::raw::listener::{RawCertificate, RawClientCertificates, RawListener, RawTls, RawTlsVersion};
use super::super::{CertificateFiles, ClientCertificates, Listener, Tls, TlsVersion};
use super::{GATEWAY_PORT, Resolver};
use crate::document::{At, Place, quote};

impl Resolver<'_> {
    /// `proxies` is whether there are proxies that are trusted.
    pub(super) fn listeners(
        &mut self,
        raw: Option<&At<Vec<At<RawListener>>>>,
        place: Place,
        proxies: bool,
    ) -> Vec<Listener> {
        let Some(raw) = raw else {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, GATEWAY_PORT));
            return vec![Listener::plain(self.address(address, place))];
        };
        if raw.is_empty() && !self.dropped.contains(place, "listeners") {
            self.report.error(
                raw.place,
                "a gateway needs a listener; add one, or remove \"listeners\" for the default",
            );
        }
        raw.iter().filter_map(|item| self.listener(item, proxies)).collect()
    }

    fn listener(&mut self, raw: &At<RawListener>, proxies: bool) -> Option<Listener> {
        let RawListener {
            address,
            proxy_protocol,
            tls,
            http2,
        } = &raw.value;
        if let Some(at) = proxy_protocol.as_ref().filter(|at| at.value)
            && !proxies
        {
            let message = "nobody may send a PROXY header, because \"server.trusted_proxies\" is empty, so that every \
                           connection would be closed; write the addresses of the load balancers there";
            self.report.error(at.place, message);
        }
        let tls = tls.as_ref().map(|tls| self.tls(tls));
        let address = self.need(raw.place, "a listener", "address", address.as_ref())?;
        Some(Listener {
            address: self.address(*address.get(), address.place),
            proxy_protocol: proxy_protocol.as_ref().is_some_and(|at| at.value),
            tls,
            http2: http2.unwrap_or(true),
        })
    }

    fn tls(&mut self, raw: &At<RawTls>) -> Tls {
        let RawTls {
            certificates,
            client,
            min_version,
        } = &raw.value;
        if certificates.is_empty() && !self.dropped.contains(raw.place, "certificates") {
            let message = "\"tls\" has no \"certificates\"; write certificates: [{ certificate: FILE, key: FILE }]";
            self.report.error(raw.place, message);
        }
        Tls {
            certificates: certificates.iter().filter_map(|raw| self.certificate(raw)).collect(),
            client: client.as_ref().and_then(|raw| self.client_certificates(raw)),
            min_version: match min_version {
                None | Some(RawTlsVersion::V1_2) => TlsVersion::V1_2,
                Some(RawTlsVersion::V1_3) => TlsVersion::V1_3,
            },
        }
    }

    fn certificate(&mut self, raw: &At<RawCertificate>) -> Option<CertificateFiles> {
        let RawCertificate { certificate, key } = &raw.value;
        let certificate = self.file(raw.place, "a certificate", "certificate", certificate.as_ref());
        let key = self.file(raw.place, "a certificate", "key", key.as_ref());
        Some(CertificateFiles {
            certificate: certificate?,
            key: key?,
            place: raw.place,
        })
    }

    fn client_certificates(&mut self, raw: &At<RawClientCertificates>) -> Option<ClientCertificates> {
        let RawClientCertificates { ca, required } = &raw.value;
        let ca = self.file(raw.place, "\"client\"", "ca", ca.as_ref())?;
        Some(ClientCertificates {
            ca,
            required: required.unwrap_or(false),
            place: raw.place,
        })
    }

    /// The path of a file that has to be named.
    fn file(&mut self, item: Place, who: &str, key: &str, raw: Option<&At<String>>) -> Option<PathBuf> {
        let path = self.need(item, who, key, raw)?;
        if path.trim().is_empty() {
            let message = format!(
                "an empty text is not a file; write the path of a PEM file as {}",
                quote(key)
            );
            self.report.error(path.place, message);
            return None;
        }
        Some(PathBuf::from(path.as_str()))
    }

    /// A value that has to be there. One that was there and has been reported is not reported as missing.
    fn need<'r, T>(&mut self, item: Place, who: &str, key: &str, value: Option<&'r At<T>>) -> Option<&'r At<T>> {
        if value.is_none() && !self.dropped.contains(item, key) {
            self.report.error(item, format!("{who} has no {}", quote(key)));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::{Config, TlsVersion, parse};
    use crate::document::Environment;

    const REVISION: &str = "revision: { file: r.yaml }\n";

    fn parsed(text: &str) -> Result<Config, String> {
        let environment = Environment::fixed([], jiff::Timestamp::UNIX_EPOCH);
        parse(&format!("{REVISION}{text}"), "t.yaml", &environment, None)
            .map(|loaded| loaded.config)
            .map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn a_listener_says_who_connects_there_and_what_he_is_shown() {
        let config = parsed(
            "server: { trusted_proxies: [10.0.0.0/8] }\n\
             listeners:\n\
             - address: 127.0.0.1:1\n\
             - address: 127.0.0.1:2\n  proxy_protocol: true\n  http2: false\n  tls:\n    min_version: 1.3\n    \
             certificates: [{ certificate: a.crt, key: a.key }, { certificate: b.crt, key: b.key }]\n    \
             client: { ca: ca.crt, required: true }\n",
        )
        .unwrap();
        let [plain, tls] = config.listeners.as_slice() else {
            panic!("{:?}", config.listeners)
        };
        assert!(plain.tls.is_none() && !plain.proxy_protocol && plain.http2);
        assert!(tls.proxy_protocol && !tls.http2);
        let tls = tls.tls.as_ref().unwrap();
        assert_eq!(tls.min_version, TlsVersion::V1_3);
        assert_eq!(tls.certificates[1].key, Path::new("b.key"));
        assert_eq!(tls.certificates[1].place.line, 10);
        let client = tls.client.as_ref().unwrap();
        assert!(client.required && client.ca == Path::new("ca.crt"));
    }

    #[test]
    fn the_version_is_written_with_quotes_or_without() {
        for (version, expected) in [
            ("1.2", TlsVersion::V1_2),
            ("\"1.2\"", TlsVersion::V1_2),
            ("1.3", TlsVersion::V1_3),
            ("\"1.3\"", TlsVersion::V1_3),
        ] {
            let config = parsed(&format!(
                "listeners: [{{ address: \"127.0.0.1:1\", tls: {{ min_version: {version}, certificates: [{{ certificate: a, key: b }}] }} }}]\n"
            ))
            .unwrap();
            assert_eq!(config.listeners[0].tls.as_ref().unwrap().min_version, expected);
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_place() {
        for (tls, expected) in [
            (
                "{}",
                "t.yaml:2:44: \"tls\" has no \"certificates\"; write certificates: [{ certificate: FILE, key: FILE }]",
            ),
            (
                "{ certificates: [{ key: b }] }",
                "t.yaml:2:61: a certificate has no \"certificate\"",
            ),
            (
                "{ certificates: [{ certificate: b }] }",
                "t.yaml:2:61: a certificate has no \"key\"",
            ),
            (
                "{ certificates: [{ certificate: \"\", key: b }] }",
                "t.yaml:2:76: an empty text is not a file; write the path of a PEM file as \"certificate\"",
            ),
            (
                "{ certificates: [{ certificate: a, key: b }], client: {} }",
                "t.yaml:2:98: \"client\" has no \"ca\"",
            ),
        ] {
            let text = format!("listeners: [{{ address: \"127.0.0.1:1\", tls: {tls} }}]\n");
            assert_eq!(parsed(&text).unwrap_err(), expected);
        }
        let old = parsed("listeners: [{ address: \"127.0.0.1:1\", tls: { min_version: 1.1, certificates: [{ certificate: a, key: b }] } }]\n")
            .unwrap_err();
        assert!(old.contains("1.2 or 1.3"), "{old}");
    }

    #[test]
    fn a_proxy_header_from_nobody_is_a_mistake() {
        let error = parsed("listeners: [{ address: \"127.0.0.1:1\", proxy_protocol: true }]\n").unwrap_err();
        assert!(
            error.starts_with("t.yaml:2:") && error.contains("\"server.trusted_proxies\" is empty"),
            "{error}"
        );
    }
}
