//! Which certificate a client is shown: the one that is issued for the name that it asks for (SNI, RFC 6066 section 3).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use smallvec::SmallVec;

use super::certificate::Certificate;

/// The certificates of a listener by the names that they are issued for. Immutable: another one takes its place.
#[derive(Default)]
pub struct ByName {
    keys: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Positions>,
    /// By what stands behind the `*.`.
    wildcard: HashMap<String, Positions>,
}

/// Most names have one certificate; some have one for each kind of key.
type Positions = SmallVec<[usize; 2]>;

impl ByName {
    /// The table. The first certificate is also for whoever asks for nothing, or for a name that is not there.
    #[must_use]
    pub fn new(certificates: &[Certificate]) -> Self {
        let mut table = Self::default();
        for (position, certificate) in certificates.iter().enumerate() {
            table.keys.push(Arc::clone(&certificate.key));
            for name in &certificate.names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(suffix) => (&mut table.wildcard, suffix),
                    None => (&mut table.exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_default().push(position);
            }
        }
        table
    }

    /// The certificate for a name in lower case: exact before wildcard before the first one. Of several for the same
    /// name the first one that this client can verify.
    fn find(&self, name: Option<&str>, fits: impl Fn(&CertifiedKey) -> bool) -> Option<&Arc<CertifiedKey>> {
        let all = |positions: &Positions| {
            positions
                .iter()
                .filter_map(|at| self.keys.get(*at))
                .find(|key| fits(key))
        };
        let named = name.and_then(|name| {
            let exact = self.exact.get(name).and_then(all);
            exact.or_else(|| {
                // A wildcard stands for one label (RFC 6125 section 6.4.3).
                let (_, parent) = name.split_once('.')?;
                self.wildcard.get(parent).and_then(all)
            })
        });
        let default = || self.keys.iter().find(|key| fits(key));
        named.or_else(default).or(self.keys.first())
    }
}

/// The certificates that are valid now. No handshake waits for a lock here, also not while they are replaced.
pub struct Current(ArcSwap<ByName>);

impl Current {
    /// Begins with these.
    #[must_use]
    pub fn new(certificates: &[Certificate]) -> Self {
        Self(ArcSwap::from_pointee(ByName::new(certificates)))
    }

    /// From now on, these. Handshakes that have begun go on with those that they began with.
    pub fn replace(&self, certificates: &[Certificate]) {
        self.0.store(Arc::new(ByName::new(certificates)));
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let lower;
        let name = match hello.server_name() {
            Some(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                lower = name.to_ascii_lowercase();
                Some(lower.as_str())
            }
            name => name,
        };
        let fits = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.load().find(name, fits).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, files};
    use super::*;

    fn table(names: &[&[&str]]) -> (Vec<Certificate>, ByName) {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let certificates: Vec<Certificate> = names
            .iter()
            .map(|names| Certificate::load(&files(directory.path(), "x", &authority.issue(names))).unwrap())
            .collect();
        let table = ByName::new(&certificates);
        (certificates, table)
    }

    #[test]
    fn a_name_is_looked_for_exactly_then_as_wildcard_and_then_there_is_the_first() {
        let (certificates, table) = table(&[
            &["default.example"],
            &["*.example.org"],
            &["api.example.org", "other.example"],
        ]);
        for (name, position) in [
            (Some("api.example.org"), 2),
            (Some("other.example"), 2),
            (Some("www.example.org"), 1),
            (Some("a.b.example.org"), 0),
            (Some("example.org"), 0),
            (Some("nobody.example"), 0),
            (Some(""), 0),
            (None, 0),
        ] {
            let found = table.find(name, |_| true).unwrap();
            assert!(Arc::ptr_eq(found, &certificates[position].key), "{name:?}");
        }
    }

    #[test]
    fn of_two_for_the_same_name_the_one_that_the_client_can_verify_is_taken() {
        let (certificates, table) = table(&[&["a.example"], &["a.example"], &["b.example"]]);
        let second = |key: &CertifiedKey| std::ptr::eq(key, &*certificates[1].key);
        let found = table.find(Some("a.example"), second).unwrap();
        assert!(Arc::ptr_eq(found, &certificates[1].key));
        // None fits: the handshake will fail, and say why.
        let found = table.find(Some("a.example"), |_| false).unwrap();
        assert!(Arc::ptr_eq(found, &certificates[0].key));
    }
}
