//! Whether a manifest is one to follow: decided before anything else is fetched. Pure.

use std::fmt;

use serde::Deserialize;

use crate::distribution::protocol::{CAPABILITIES, Nack};
use crate::distribution::{ContentHash, Manifest, PublicKey, SCHEMA, Signed, Topic};
use crate::revision::EnvironmentType;

/// What a gateway takes.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Of this environment.
    pub environment: String,
    /// Of this type; None is of any.
    pub environment_type: Option<EnvironmentType>,
    /// At most so many bytes, unpacked.
    pub max_bytes: u64,
    /// At most so many routes.
    pub max_routes: u64,
}

/// The newest manifest that was believed: none goes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Highest {
    /// Its number.
    pub seq: u64,
    /// Its root.
    pub root: ContentHash,
}

/// A revision that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its number; 0 if not even that is known.
    pub seq: u64,
    /// One of the codes of [`Nack::code`].
    pub code: &'static str,
    /// What is wrong, for people; one line or more.
    pub message: String,
}

/// The part of a manifest that every schema has.
#[derive(Deserialize)]
struct Head {
    environment: String,
    seq: u64,
    schema: u32,
}

/// The manifest, if one of these keys has signed it, and it is of this environment and of a format that is known here.
///
/// # Errors
/// Why it is not to be believed.
pub fn believe(signed: &Signed, trusted: &[PublicKey], expected: &Expected) -> Result<Manifest, Refusal> {
    let text = signed
        .verify(Topic::Manifest, trusted)
        .map_err(|error| Refusal::new(0, error.reason(), format!("the manifest: {error}")))?;
    let malformed = |seq, error: serde_json::Error| Refusal::new(seq, "malformed", format!("the manifest: {error}"));
    let head: Head = serde_json::from_str(text).map_err(|error| malformed(0, error))?;
    let refuse = |code, message| Err(Refusal::new(head.seq, code, message));
    if head.environment != expected.environment {
        let message = format!(
            "it is a revision of the environment \"{}\", and this gateway serves \"{}\"",
            head.environment, expected.environment
        );
        return refuse("environment", message);
    }
    if head.schema > SCHEMA {
        let message = format!(
            "its format {} is newer than this build, which reads {SCHEMA}; upgrade the gateway",
            head.schema
        );
        return refuse("too_new", message);
    }
    if head.schema < SCHEMA {
        let message = format!("its format {} is no longer read, only {SCHEMA}", head.schema);
        return refuse("unsupported", message);
    }
    serde_json::from_str(text).map_err(|error| malformed(head.seq, error))
}

/// Whether a manifest that is believed is to be followed, after the one that was the newest.
///
/// # Errors
/// Why not.
pub fn follow(manifest: &Manifest, highest: Option<Highest>, expected: &Expected) -> Result<(), Refusal> {
    let refuse = |code, message| Err(Refusal::new(manifest.seq, code, message));
    if let Some(highest) = highest {
        if manifest.seq < highest.seq {
            let message = format!(
                "it is older than revision {}, which this gateway has seen; if the control plane was restored from a \
                 backup, publish again until it is ahead",
                highest.seq
            );
            return refuse("replayed", message);
        }
        if manifest.seq == highest.seq && manifest.root != highest.root {
            let message = "this number was another revision before; publish again, for a new number".to_owned();
            return refuse("replayed", message);
        }
    }
    if let Some(own) = expected.environment_type
        && own != manifest.environment_type
    {
        let message = format!(
            "the environment is {:?} and this gateway is {own:?}; change or remove gateway.environment_type",
            manifest.environment_type
        );
        return refuse("environment", message.to_lowercase());
    }
    let unknown: Vec<&str> = (manifest.requires.iter().map(String::as_str))
        .filter(|required| !CAPABILITIES.contains(required))
        .collect();
    if !unknown.is_empty() {
        let message = format!(
            "it needs {}, which this build does not know; upgrade the gateway",
            unknown.join(", ")
        );
        return refuse("unsupported", message);
    }
    if manifest.routes > expected.max_routes {
        let message = format!(
            "it has {} routes, and this gateway takes {} (control_plane.max_routes)",
            manifest.routes, expected.max_routes
        );
        return refuse("oversized", message);
    }
    let size = manifest.snapshot.size.max(manifest.snapshot.raw_size);
    if size > expected.max_bytes {
        let message = format!(
            "it has {size} bytes, and this gateway takes {} (control_plane.max_bytes)",
            expected.max_bytes
        );
        return refuse("oversized", message);
    }
    Ok(())
}

impl Refusal {
    /// A revision that is not taken.
    #[must_use]
    pub fn new(seq: u64, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            seq,
            code,
            message: message.into(),
        }
    }

    /// As it is told to the control plane, cut to what people read.
    #[must_use]
    pub fn nack(&self) -> Nack {
        /// In characters.
        const LONGEST: usize = 2000;
        Nack {
            seq: self.seq,
            code: self.code.to_owned(),
            message: self.message.chars().take(LONGEST).collect(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::distribution::SigningKey;

    fn expected() -> Expected {
        Expected {
            environment: "prod".into(),
            environment_type: None,
            max_bytes: 1000,
            max_routes: 10,
        }
    }

    fn manifest(change: impl FnOnce(&mut Value)) -> String {
        let mut value = json!({
            "environment": "prod", "environment_type": "production", "seq": 7, "schema": 1, "published_at_ms": 1,
            "root": "ab".repeat(32), "routes": 10,
            "snapshot": { "sha256": "cd".repeat(32), "size": 100, "raw_size": 1000 },
            "keys": { "epoch": 1, "count": 0 }, "spread_ms": 0, "wait_s": 50,
        });
        change(&mut value);
        value.to_string()
    }

    fn verdict(text: String, highest: Option<Highest>, expected: &Expected) -> Result<(), (u64, &'static str)> {
        let (key, _) = SigningKey::generate().unwrap();
        let signed = Signed::new(Topic::Manifest, text, &key);
        let brief = |refusal: Refusal| (refusal.seq, refusal.code);
        let manifest = believe(&signed, &[key.public()], expected).map_err(brief)?;
        follow(&manifest, highest, expected).map_err(brief)
    }

    fn changed(field: &str, value: Value) -> Result<(), (u64, &'static str)> {
        verdict(manifest(|manifest| manifest[field] = value), None, &expected())
    }

    #[test]
    fn every_reason_to_refuse_has_its_code() {
        assert_eq!(verdict(manifest(|_| {}), None, &expected()), Ok(()));
        assert_eq!(changed("schema", json!(2)), Err((7, "too_new")));
        assert_eq!(changed("schema", json!(0)), Err((7, "unsupported")));
        assert_eq!(changed("environment", json!("test")), Err((7, "environment")));
        assert_eq!(changed("requires", json!(["time-travel"])), Err((7, "unsupported")));
        assert_eq!(changed("routes", json!(11)), Err((7, "oversized")));
        assert_eq!(changed("root", json!("none")), Err((7, "malformed")));
        assert_eq!(changed("seq", json!("seven")), Err((0, "malformed")));
        let blob = |size: u64, raw_size: u64| json!({ "sha256": "cd".repeat(32), "size": size, "raw_size": raw_size });
        assert_eq!(changed("snapshot", blob(1001, 10)), Err((7, "oversized")));
        assert_eq!(changed("snapshot", blob(10, 1001)), Err((7, "oversized")));
        let sandbox = Expected {
            environment_type: Some(EnvironmentType::Sandbox),
            ..expected()
        };
        assert_eq!(verdict(manifest(|_| {}), None, &sandbox), Err((7, "environment")));
    }

    #[test]
    fn a_newer_format_is_told_as_such_whatever_else_it_has_changed() {
        let text = json!({ "environment": "prod", "seq": 9, "schema": 3, "root": { "new": true } }).to_string();
        assert_eq!(verdict(text, None, &expected()), Err((9, "too_new")));
    }

    #[test]
    fn nothing_goes_back_and_a_number_is_one_revision_for_ever() {
        let after = |seq, byte: u8| {
            let highest = Highest {
                seq,
                root: ContentHash([byte; 32]),
            };
            verdict(manifest(|_| {}), Some(highest), &expected())
        };
        assert_eq!(after(6, 0xcc), Ok(()));
        assert_eq!(after(7, 0xab), Ok(()), "the same again");
        assert_eq!(after(7, 0xcc), Err((7, "replayed")));
        assert_eq!(after(8, 0xab), Err((7, "replayed")));
    }

    #[test]
    fn who_signs_has_to_be_trusted_and_nothing_may_be_changed() {
        let (key, _) = SigningKey::generate().unwrap();
        let (other, _) = SigningKey::generate().unwrap();
        let mut signed = Signed::new(Topic::Manifest, manifest(|_| {}), &key);
        assert_eq!(
            believe(&signed, &[other.public()], &expected()).unwrap_err().code,
            "unknown_signer"
        );
        signed.signed = signed.signed.replace("\"seq\":7", "\"seq\":8");
        assert_eq!(
            believe(&signed, &[key.public()], &expected()).unwrap_err().code,
            "signature"
        );
    }
}
