//! What is shown of connections before HTTP begins on them.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::register;

/// Handshakes, PROXY headers and certificates.
#[derive(Clone)]
pub struct TransportMetrics {
    /// Handshakes that ended with a connection, from nothing.
    pub handshakes_full: IntCounter,
    /// The same, from a ticket of an earlier one.
    pub handshakes_resumed: IntCounter,
    /// Handshakes that took too long.
    pub handshakes_timeout: IntCounter,
    /// Clients that left during the handshake.
    pub handshakes_closed: IntCounter,
    /// HTTP without TLS.
    pub handshakes_not_tls: IntCounter,
    /// Clients whose certificate was not accepted, or who had none.
    pub handshakes_client_certificate: IntCounter,
    /// Handshakes that failed otherwise.
    pub handshakes_failed: IntCounter,
    /// Connections whose PROXY header was read.
    pub proxy_accepted: IntCounter,
    /// Connections from others than trusted proxies, where a header is expected.
    pub proxy_stranger: IntCounter,
    /// Connections that began with something else.
    pub proxy_malformed: IntCounter,
    /// Connections that ended before the header was complete.
    pub proxy_closed: IntCounter,
    /// Connections whose header took too long.
    pub proxy_timeout: IntCounter,
    /// Certificates that were replaced while serving.
    pub reloads: IntCounter,
    /// Certificates that were to be replaced and could not be used.
    pub reloads_refused: IntCounter,
    expiry: IntGaugeVec,
}

impl TransportMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters =
            |name: &str, help: &str| register(registry, IntCounterVec::new(Opts::new(name, help), &["result"])?);
        let handshakes = counters(
            "tollgate_tls_handshakes_total",
            "TLS handshakes with clients, by result",
        )?;
        let proxy = counters("tollgate_proxy_headers_total", "PROXY headers expected, by result")?;
        let reloads = counters(
            "tollgate_certificate_reloads_total",
            "Changes of certificates' files, by result",
        )?;
        let handshake = |result: &str| handshakes.with_label_values(&[result]);
        let header = |result: &str| proxy.with_label_values(&[result]);
        Ok(Self {
            handshakes_full: handshake("full"),
            handshakes_resumed: handshake("resumed"),
            handshakes_timeout: handshake("timeout"),
            handshakes_closed: handshake("closed"),
            handshakes_not_tls: handshake("not_tls"),
            handshakes_client_certificate: handshake("client_certificate"),
            handshakes_failed: handshake("failed"),
            proxy_accepted: header("accepted"),
            proxy_stranger: header("stranger"),
            proxy_malformed: header("malformed"),
            proxy_closed: header("closed"),
            proxy_timeout: header("timeout"),
            reloads: reloads.with_label_values(&["replaced"]),
            reloads_refused: reloads.with_label_values(&["refused"]),
            expiry: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "tollgate_certificate_expiry_seconds",
                        "Unix time at which a certificate expires, by its file",
                    ),
                    &["certificate"],
                )?,
            )?,
        })
    }

    /// Shows when a certificate expires. Its name is from the configuration, so their number is bounded.
    pub fn expires(&self, certificate: &str, not_after: i64) {
        self.expiry.with_label_values(&[certificate]).set(not_after);
    }
}
