//! Names that certificates are issued for: subject alternative names (RFC 5280 section 4.2.1.6).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The longest name that is compared; a URI of a workload is a tenth of it.
const LONGEST: usize = 2048;

/// One name of a certificate, in the one spelling by which it is compared: `uri:spiffe://example.org/mobile`,
/// `dns:mobile.example.org`, `email:ops@example.org`, `ip:192.0.2.1`. Cheap to clone.
///
/// Host names are in lower case, also behind the `@`, addresses as Rust prints them. URIs are compared byte for byte:
/// whoever may issue certificates for one spelling need not be allowed to for another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct San(Arc<str>);

impl San {
    /// Reads a name as it is written in configuration, with its prefix.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let forms = "uri:spiffe://example.org/mobile, dns:mobile.example.org, email:ops@example.org or ip:192.0.2.1";
        let (kind, value) = text
            .split_once(':')
            .ok_or_else(|| format!("a name of a certificate says what it is; write {forms}"))?;
        let read = match kind {
            "uri" => Self::uri(value),
            "dns" => Self::dns(value),
            "email" => Self::email(value),
            "ip" => value.parse().ok().map(Self::ip),
            _ => return Err(format!("names of certificates are {forms}")),
        };
        read.ok_or_else(|| {
            let what = match kind {
                "uri" => "a URI, which has a scheme and no spaces, such as uri:spiffe://example.org/mobile",
                "dns" => "a host name without wildcard, such as dns:mobile.example.org",
                "email" => "an e-mail address, such as email:ops@example.org",
                _ => "an IP address, such as ip:192.0.2.1",
            };
            format!("this is not {what}")
        })
    }

    /// A name of type `uniformResourceIdentifier`.
    #[must_use]
    pub fn uri(value: &str) -> Option<Self> {
        let scheme = value.split_once(':').map(|(scheme, _)| scheme)?;
        let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let fits = !scheme.is_empty() && scheme.bytes().all(is_scheme) && is_visible(value);
        fits.then(|| Self::of("uri:", value))
    }

    /// A name of type `dNSName`. None for a wildcard, which is no client's name.
    #[must_use]
    pub fn dns(value: &str) -> Option<Self> {
        is_host(value).then(|| Self::of("dns:", &value.to_ascii_lowercase()))
    }

    /// A name of type `rfc822Name`. The part before the `@` is compared as it is (RFC 5280 section 7.5).
    #[must_use]
    pub fn email(value: &str) -> Option<Self> {
        let (local, host) = value.rsplit_once('@')?;
        let fits = !local.is_empty() && is_visible(local) && is_host(host);
        fits.then(|| Self::of("email:", &[local, "@", &host.to_ascii_lowercase()].concat()))
    }

    /// A name of type `iPAddress`.
    #[must_use]
    pub fn ip(address: IpAddr) -> Self {
        Self::of("ip:", &address.to_canonical().to_string())
    }

    /// The name with its prefix.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(prefix: &str, value: &str) -> Self {
        Self(Arc::from([prefix, value].concat()))
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_visible(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Letters, digits, hyphens and underscores between dots, none of them empty.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && (label.bytes()).all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<String> {
        San::parse(text).ok().map(|san| san.to_string())
    }

    #[test]
    fn every_kind_of_name_has_one_spelling() {
        for (text, spelled) in [
            ("uri:spiffe://example.org/mobile", "uri:spiffe://example.org/mobile"),
            ("dns:Mobile.Example.ORG", "dns:mobile.example.org"),
            ("email:Ops@Example.ORG", "email:Ops@example.org"),
            ("ip:192.0.2.1", "ip:192.0.2.1"),
            ("ip:2001:DB8:0::1", "ip:2001:db8::1"),
            ("ip:::ffff:192.0.2.1", "ip:192.0.2.1"),
        ] {
            assert_eq!(read(text).as_deref(), Some(spelled), "{text}");
        }
        assert_ne!(read("uri:spiffe://a/B"), read("uri:spiffe://a/b"));
    }

    #[test]
    fn what_is_no_name_is_refused_and_the_message_says_how_it_is_written() {
        for (text, part) in [
            ("mobile", "write uri:spiffe"),
            ("URI:spiffe://a/b", "are uri:spiffe"),
            ("cn:mobile", "are uri:spiffe"),
            ("uri:mobile", "a scheme"),
            ("uri:spiffe://a b", "no spaces"),
            ("uri:", "a scheme"),
            ("dns:*.example.org", "without wildcard"),
            ("dns:a..b", "a host name"),
            ("dns:", "a host name"),
            ("email:ops", "e-mail"),
            ("email:@example.org", "e-mail"),
            ("ip:1.2.3", "an IP address"),
            ("ip:10.0.0.0/8", "an IP address"),
        ] {
            let error = San::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
