//! A value of a file together with its place.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::mistake::Place;

/// The name by which [`At`] asks the decoder for a place; no Rust type can have it.
pub(super) const AT: &str = "$at";
/// The name by which [`NotAvailable`] makes the decoder refuse its key.
pub(super) const NOT_AVAILABLE: &str = "$not_available";

/// A value and where it stands. In a JSON Schema it is just the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
            type Value = At<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its place")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<At<T>, A::Error> {
                let missing = || serde::de::Error::custom("the decoder gave no place");
                let packed: u64 = access.next_element()?.ok_or_else(missing)?;
                let value = access.next_element()?.ok_or_else(missing)?;
                let place = Place {
                    line: (packed >> 32) as u32,
                    column: (packed & u64::from(u32::MAX)) as u32,
                };
                Ok(At { value, place })
            }
        }

        deserializer.deserialize_newtype_struct(AT, AtVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Something that a later build understands: known, described, and refused here.
///
/// Without this a file for a later build would be told about an "unknown key", which sends its author looking
/// for a typing mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NotAvailable;

impl<'de> Deserialize<'de> for NotAvailable {
    /// Never succeeds: the decoder answers the name with a mistake at the key.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(NOT_AVAILABLE, IgnoredAny)?;
        Ok(Self)
    }
}

impl JsonSchema for NotAvailable {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NotAvailable".into()
    }

    /// Fits nothing, so that an editor marks the key as it is written.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "not": {} })
    }
}
