//! Texts with a grammar: durations, sizes, addresses, names. They are read as they are decoded, so that what
//! comes out of a file needs no second look.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Visitor};

use super::at::At;
use super::mistake::quote;
use crate::units::{self, Rate, Ratio};

/// A type that is written as a text.
pub(crate) trait Grammar: Sized {
    /// What the text is, for messages: `a duration`.
    const WHAT: &'static str;

    /// Reads the text, or says what was expected instead.
    fn read(text: &str) -> Result<Self, String>;

    /// The JSON Schema of the text.
    fn schema() -> Schema;
}

/// A text that has been read by its grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text<T>(pub(crate) T);

impl<T> Deref for Text<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> At<Text<T>> {
    /// What the text was read as.
    pub(crate) fn get(&self) -> &T {
        &self.value.0
    }
}

impl<'de, T: Grammar> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor<T>(PhantomData<T>);

        impl<T: Grammar> Visitor<'_> for TextVisitor<T> {
            type Value = Text<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::WHAT)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<T>, E> {
                T::read(text).map(Text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

impl<T: Grammar> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::WHAT.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

impl Grammar for Duration {
    const WHAT: &'static str = "a duration such as 250ms or 30s";

    fn read(text: &str) -> Result<Self, String> {
        units::parse_duration(text).map_err(|error| error.to_string())
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^[0-9]+ *(ms|s|m|h|d)$",
            "examples": ["250ms", "30s", "5m"]
        })
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl Grammar for Size {
    const WHAT: &'static str = "a size such as 32KiB or 10MiB";

    fn read(text: &str) -> Result<Self, String> {
        units::parse_size(text).map(Size).map_err(|error| error.to_string())
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^[0-9]+ *(B|KiB|MiB|GiB|KB|MB|GB)$",
            "examples": ["32KiB", "10MiB"]
        })
    }
}

impl Grammar for Rate {
    const WHAT: &'static str = "a rate such as 100/s or 5000/m";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: units::UnitError| error.to_string())
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^[1-9][0-9]* */ *(s|second|m|minute|h|hour|d|day|week|month)$",
            "examples": ["100/s", "5000/m", "1000000/month"]
        })
    }
}

impl Grammar for Ratio {
    const WHAT: &'static str = "a share such as 5% or 0.5%";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: units::UnitError| error.to_string())
    }

    /// Zero needs no unit, and is then a number to whoever reads the schema.
    fn schema() -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "pattern": r"^(0|(100(\.0{1,4})?|[0-9]{1,2}(\.[0-9]{1,4})?) *%)$",
            "minimum": 0,
            "maximum": 0,
            "examples": ["5%", "0.5%", 0]
        })
    }
}

impl Grammar for SocketAddr {
    const WHAT: &'static str = "an address and port such as 127.0.0.1:8280";

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!(
                "{} is not an IP address and a port; write 127.0.0.1:8280, 0.0.0.0:8280 or [::]:8280",
                quote(text)
            )
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:8280", "0.0.0.0:8280", "[::]:8280"] })
    }
}

impl Grammar for IpNet {
    const WHAT: &'static str = "an address range such as 10.0.0.0/8";

    fn read(text: &str) -> Result<Self, String> {
        let address = |text: &str| text.parse::<std::net::IpAddr>().map(IpNet::from);
        text.parse::<IpNet>()
            .or_else(|_| address(text))
            .map(|range| unmapped(range.trunc()))
            .map_err(|_| {
                format!(
                    "{} is not an address range; write 10.0.0.0/8, 2001:db8::/32 or a single address",
                    quote(text)
                )
            })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1"] })
    }
}

/// An IPv4 range that is written as IPv6 addresses have it (`::ffff:203.0.113.0/120`, RFC 4291 section 2.5.5.2). Addresses
/// of clients are canonical when they are looked up, so such a range would never hold one. A shorter prefix than that of
/// the mapping is a range of IPv6.
fn unmapped(range: IpNet) -> IpNet {
    const MAPPING: u8 = 96;
    let IpNet::V6(mapped) = range else {
        return range;
    };
    let (Some(address), Some(length)) = (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(MAPPING))
    else {
        return range;
    };
    Ipv4Net::new(address, length).map_or(range, IpNet::V4)
}

/// The name of something. Names end up in headers, metric labels, log lines and store keys, so what would
/// have to be escaped in one of them is not part of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    /// The name as it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Grammar for Name {
    const WHAT: &'static str = "a name";

    fn read(text: &str) -> Result<Self, String> {
        let allowed = |c: char| matches!(c, ' '..='~') && c != '"' && c != '\\';
        if text.is_empty() || text.len() > 128 || text.trim() != text || !text.chars().all(allowed) {
            return Err(format!(
                "{} is not a name; write 1 to 128 printable ASCII characters without quotes, backslashes and \
                 spaces around it",
                quote(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 128,
            "pattern": r"^[!#-\[\]-~]([ !#-\[\]-~]*[!#-\[\]-~])?$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_into_a_header_and_into_a_structured_field() {
        for name in ["orders", "Orders v2", "https://client.example", "a"] {
            assert!(Name::read(name).is_ok(), "{name}");
        }
        for name in ["", " a", "a ", "a\"b", "a\\b", "a\nb", "Bücher", &"x".repeat(129)] {
            assert!(Name::read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_address_range_may_be_a_single_address_and_loses_its_host_bits() {
        assert_eq!(IpNet::read("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(IpNet::read("::1").unwrap().to_string(), "::1/128");
        assert!(IpNet::read("10.0.0.0/33").is_err());
        assert!(IpNet::read("example.com").is_err());
    }

    #[test]
    fn an_ipv4_range_in_ipv6_clothes_is_the_ipv4_range() {
        for (text, range) in [
            ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
            ("::ffff:203.0.113.9/120", "203.0.113.0/24"),
            ("::ffff:203.0.113.9", "203.0.113.9/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            // Wider than the mapping: a range of IPv6.
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("::/0", "::/0"),
            ("2001:db8::/120", "2001:db8::/120"),
        ] {
            assert_eq!(IpNet::read(text).unwrap().to_string(), range, "{text}");
        }
    }
}
