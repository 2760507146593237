//! Revision files, put together from lines that look as an operator would write them.

use std::fmt;
use std::net::SocketAddr;

use super::{Origin, sha256_hex};

/// A production key of the application `mobile` in [`revision`].
pub const KEY: &str = "tg_live_9DUcO5k07l1DQ3Z3IRBDgFo33qofXvMl0YnonD";
/// A sandbox key of the same application.
pub const SANDBOX_KEY: &str = "tg_test_LUsn5NnxKllRWWjU1lS9DBf8iyrjJfeV00PyIj";
/// A production key that no revision knows unless a test adds it.
pub const OTHER_KEY: &str = "tg_live_jMOOm051MYM5UeID03r9aXMMv871UwZ637vF2O";

/// A revision file. Each part is one item of its list, in YAML's flow style.
#[derive(Clone, Default)]
pub struct Revision {
    upstreams: Vec<String>,
    issuers: Vec<String>,
    plans: Vec<String>,
    apis: Vec<String>,
    applications: Vec<String>,
}

/// What most tests need: the API `orders` on `/orders` for holders of [`KEY`] or [`SANDBOX_KEY`], and the API `open` on
/// `/open` for everybody, both behind the upstream `origin`.
pub fn revision(origin: &Origin) -> Revision {
    Revision::of(origin)
        .api("{ name: orders, base_path: /orders, auth: [api_key], upstream: origin }")
        .api("{ name: open, base_path: /open, auth: none, upstream: origin }")
        .mobile(&["orders"])
}

/// The record of a key as it stands in a revision.
pub fn key_record(id: &str, key: &str, more: &str) -> String {
    format!("{{ id: {id}, sha256: \"{}\", {more} }}", sha256_hex(key))
}

impl Revision {
    /// Nothing but an upstream `origin`, and a plan `free` without limits.
    pub fn of(origin: &Origin) -> Self {
        Self::empty().behind("origin", origin.address())
    }

    /// Nothing but a plan `free` without limits.
    pub fn empty() -> Self {
        Self::default().plan("{ name: free, limits: [] }")
    }

    /// Adds an upstream with this one endpoint.
    pub fn behind(self, name: &str, address: SocketAddr) -> Self {
        self.upstream(&format!(
            "{{ name: {name}, endpoints: [{{ address: \"{address}\" }}] }}"
        ))
    }

    /// Adds an upstream.
    pub fn upstream(mut self, line: &str) -> Self {
        self.upstreams.push(line.to_owned());
        self
    }

    /// Adds an issuer.
    pub fn issuer(mut self, line: &str) -> Self {
        self.issuers.push(line.to_owned());
        self
    }

    /// Adds a plan.
    pub fn plan(mut self, line: &str) -> Self {
        self.plans.push(line.to_owned());
        self
    }

    /// Adds an API.
    pub fn api(mut self, line: &str) -> Self {
        self.apis.push(line.to_owned());
        self
    }

    /// Adds an application.
    pub fn application(mut self, line: &str) -> Self {
        self.applications.push(line.to_owned());
        self
    }

    /// Adds the application `mobile` with [`KEY`] and [`SANDBOX_KEY`], subscribed to these APIs under the plan `free`.
    pub fn mobile(self, apis: &[&str]) -> Self {
        self.mobile_under("free", apis)
    }

    /// The same under another plan.
    pub fn mobile_under(self, plan: &str, apis: &[&str]) -> Self {
        let subscriptions: Vec<String> = apis
            .iter()
            .map(|api| format!("{{ api: {api}, plan: {plan} }}"))
            .collect();
        self.application(&format!(
            "{{ name: mobile, subscriptions: [{}], keys: [{}, {}] }}",
            subscriptions.join(", "),
            key_record("mobile-1", KEY, "type: production"),
            key_record("mobile-2", SANDBOX_KEY, "type: sandbox"),
        ))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("version: 1\n")?;
        for (name, lines) in [
            ("upstreams", &self.upstreams),
            ("issuers", &self.issuers),
            ("plans", &self.plans),
            ("apis", &self.apis),
            ("applications", &self.applications),
        ] {
            if lines.is_empty() {
                continue;
            }
            writeln!(f, "{name}:")?;
            for line in lines {
                writeln!(f, "  - {line}")?;
            }
        }
        Ok(())
    }
}
