//! Why a value does not fit, in the words of the file's author.

use std::fmt;

use serde::de;

use super::Dropped;
use crate::document::mistake::{Place, quote};
use crate::document::suggest::did_you_mean;
use crate::document::tree::Node;

/// Why a value does not fit, in the words of the file's author.
#[derive(Debug)]
pub(crate) struct Error {
    pub(super) reason: Reason,
    /// Set by the innermost value that the error belongs to.
    pub(super) place: Option<Place>,
    /// The mapping of a missing key: its own place, not the place to report.
    mapping: Option<Place>,
    key: Option<Box<str>>,
}

/// What is wrong with it.
#[derive(Debug)]
pub(crate) enum Reason {
    Text(String),
    Nothing,
    NotAvailable,
    UnknownKey {
        key: String,
        context: &'static str,
        expected: &'static [&'static str],
    },
    UnknownValue {
        value: String,
        expected: &'static [&'static str],
    },
    Missing(&'static str),
}

impl Error {
    pub(super) fn new(reason: Reason) -> Self {
        Self {
            reason,
            place: None,
            mapping: None,
            key: None,
        }
    }

    pub(super) fn at(mut self, place: Place, node: &Node) -> Self {
        self.place = Some(place);
        self.mapping = Some(node.place);
        self
    }

    pub(super) fn named(mut self, key: &str) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Whether this only follows from a value that has been reported already.
    pub(super) fn known(&self, root: &Node, dropped: &Dropped) -> bool {
        match self.reason {
            Reason::Missing(key) => dropped.contains(self.mapping.unwrap_or(root.place), key),
            _ => false,
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Text(text) => f.write_str(text),
            Reason::Nothing => match &self.key {
                Some(key) => write!(f, "{} has no value; write one or remove the key", quote(key)),
                None => f.write_str("an item without a value; write one or remove it"),
            },
            Reason::NotAvailable => {
                let key = self.key.as_deref().unwrap_or_default();
                write!(f, "{} is not available in this build", quote(key))
            }
            Reason::UnknownKey { key, context, expected } => {
                write!(f, "unknown key {}{}", quote(key), within(context))?;
                let meant = did_you_mean(key, expected.iter().copied());
                if !meant.is_empty() {
                    f.write_str(&meant)
                } else if key == "<<" {
                    f.write_str("; merge keys are not part of YAML 1.2")
                } else {
                    write!(f, "; known here: {}", expected.join(", "))
                }
            }
            Reason::UnknownValue { value, expected } => {
                write!(f, "expected one of {}, found {}", listed(expected), quote(value))?;
                f.write_str(&did_you_mean(value, expected.iter().copied()))
            }
            Reason::Missing(key) => write!(f, "{} is missing", quote(key)),
        }
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Reason::Text(message.to_string()))
    }

    /// Only what a visitor of ours expects comes here; the shapes of structures and lists are checked above.
    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Bool(truth) => truth.to_string(),
            de::Unexpected::Unsigned(number) => number.to_string(),
            de::Unexpected::Signed(number) => number.to_string(),
            de::Unexpected::Float(number) => number.to_string(),
            de::Unexpected::Str(text) => quote(text),
            de::Unexpected::Unit => return Self::new(Reason::Nothing),
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Map => "a mapping".to_owned(),
            _ => "something else".to_owned(),
        };
        Self::new(Reason::Text(format!("expected {expected}, found {found}")))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(value: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Reason::UnknownValue {
            value: value.to_owned(),
            expected,
        })
    }

    fn unknown_field(key: &str, expected: &'static [&'static str]) -> Self {
        Self::new(Reason::UnknownKey {
            key: key.to_owned(),
            context: "",
            expected,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Reason::Missing(key))
    }
}

pub(super) fn listed(names: &[&str]) -> String {
    names.join(", ")
}

/// ` in health check` from `RawHealthCheck`.
fn within(type_name: &str) -> String {
    let mut noun = String::new();
    for character in type_name.strip_prefix("Raw").unwrap_or_default().chars() {
        if character.is_ascii_uppercase() {
            noun.push(' ');
        }
        noun.push(character.to_ascii_lowercase());
    }
    if noun.is_empty() { noun } else { format!(" in{noun}") }
}
