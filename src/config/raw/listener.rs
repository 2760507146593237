//! Where clients connect, as it is written.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

use crate::document::{At, Text};

/// Where clients connect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawListener {
    /// IP address and port; port 0 is any free one.
    #[schemars(required)]
    pub(in crate::config) address: Option<At<Text<SocketAddr>>>,
    /// Whether every connection begins with a header of the PROXY protocol, version 1 or 2, which says for whom it is
    /// made. Only connections from `server.trusted_proxies` are taken then, others are closed. Default false.
    pub(in crate::config) proxy_protocol: Option<At<bool>>,
    /// HTTPS. Absent: plain HTTP.
    pub(in crate::config) tls: Option<At<RawTls>>,
    /// Whether clients may speak HTTP/2: with TLS offered in the handshake (ALPN), else to clients that begin with it
    /// (prior knowledge). HTTP/1.1 is always spoken. Default true.
    pub(in crate::config) http2: Option<bool>,
}

/// HTTPS on a listener. All files are watched, and used as soon as they are changed and right.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawTls {
    /// What the gateway shows to clients: the certificate that is issued for the host that a client asks for (SNI), exact
    /// names before wildcards; the first one to clients that ask for none, or for another one.
    #[serde(default)]
    #[schemars(required, length(min = 1))]
    pub(in crate::config) certificates: Vec<At<RawCertificate>>,
    /// Certificates of clients. Absent: they are not asked for any. APIs take them with `auth: [client_certificate]`.
    pub(in crate::config) client: Option<At<RawClientCertificates>>,
    /// The oldest version of TLS that is spoken: `1.2` or `1.3`. Default 1.2.
    pub(in crate::config) min_version: Option<RawTlsVersion>,
}

/// A certificate, and its key. Relative paths are relative to the directory in which the process was started.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawCertificate {
    /// A file (PEM): the certificate, and behind it those of the authorities between it and a root.
    #[schemars(required, length(min = 1))]
    pub(in crate::config) certificate: Option<At<String>>,
    /// A file (PEM) with its private key, not encrypted.
    #[schemars(required, length(min = 1))]
    pub(in crate::config) key: Option<At<String>>,
}

/// Certificates of clients.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawClientCertificates {
    /// A file of certificates (PEM): the authorities whose certificates are accepted, and no others.
    #[schemars(required, length(min = 1))]
    pub(in crate::config) ca: Option<At<String>>,
    /// Whether the handshake fails without one. Default false: whether one is needed is for the APIs to say.
    pub(in crate::config) required: Option<bool>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum RawTlsVersion {
    V1_2,
    V1_3,
}

// With quotes and without: `1.2` is a number in YAML.
impl<'de> Deserialize<'de> for RawTlsVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VersionVisitor;

        impl Visitor<'_> for VersionVisitor {
            type Value = RawTlsVersion;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("1.2 or 1.3")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawTlsVersion, E> {
                match text {
                    "1.2" => Ok(RawTlsVersion::V1_2),
                    "1.3" => Ok(RawTlsVersion::V1_3),
                    other => Err(E::invalid_value(Unexpected::Str(other), &self)),
                }
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<RawTlsVersion, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(VersionVisitor)
    }
}

impl JsonSchema for RawTlsVersion {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RawTlsVersion".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["1.2", "1.3", 1.2, 1.3] })
    }
}
