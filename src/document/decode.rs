//! From the tree to the types of a file format, without stopping at the first mistake.
//!
//! Serde gives up at the first value that does not fit. So a value that does not fit is reported, marked as
//! dropped, and the whole is decoded again as if that value were not there, until it succeeds. A key that is
//! missing because its value was dropped is not reported a second time; `Dropped` is how checks that come
//! later know.

mod error;

use std::cell::RefCell;
use std::collections::HashSet;

use serde::de::value::{StrDeserializer, U64Deserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::at::{AT, NOT_AVAILABLE};
use super::mistake::{Place, Report, quote};
use super::tree::{Key, Node, Style, Value};
use error::{Error, Reason, listed};

/// How often decoding starts again. Each round finds one mistake; more than this nobody corrects at a time.
const ROUNDS: usize = 100;

/// The keys whose values, or items in them, were reported and dropped, by the place of their mapping.
#[derive(Debug, Default)]
pub(crate) struct Dropped(HashSet<(Place, Box<str>)>);

impl Dropped {
    /// Whether the mapping at this place had this key with a value, or a list with an item, that has been
    /// reported already: what is missing now may have been there.
    pub(crate) fn contains(&self, mapping: Place, key: &str) -> bool {
        !self.0.is_empty() && self.0.contains(&(mapping, Box::from(key)))
    }
}

/// Decodes the tree; every mistake goes to the report. `None` when nothing could be made of it.
pub(super) fn decode<T: DeserializeOwned>(root: &Node, report: &mut Report) -> (Option<T>, Dropped) {
    let dropped = RefCell::new(Dropped::default());
    for _ in 0..ROUNDS {
        let decoder = Decoder {
            node: root,
            owner: None,
            dropped: &dropped,
        };
        match T::deserialize(decoder) {
            Ok(value) => return (Some(value), dropped.into_inner()),
            Err(error) => {
                let (place, settled) = match error.place {
                    Some(place) => (place, false),
                    None => (root.place, true),
                };
                if !error.known(root, &dropped.borrow()) {
                    report.error(place, error.to_string());
                }
                if settled || report.is_full() {
                    return (None, dropped.into_inner());
                }
            }
        }
    }
    report.error(
        Place::default(),
        format!("after {ROUNDS} mistakes the rest of the file was not looked at"),
    );
    (None, dropped.into_inner())
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    /// The mapping and the key that this is the value of.
    owner: Option<(Place, &'a str)>,
    dropped: &'a RefCell<Dropped>,
}

impl<'a> Decoder<'a> {
    fn at(self, node: &'a Node, owner: Option<(Place, &'a str)>) -> Self {
        Self { node, owner, ..self }
    }

    fn drop_part(self, owner: Option<(Place, &str)>, part: &Node) {
        part.dropped.set(true);
        if let Some((mapping, key)) = owner {
            self.dropped.borrow_mut().0.insert((mapping, key.into()));
        }
    }

    fn unexpected(self, expected: &'static str) -> Error {
        if self.node.is_null() {
            return Error::new(Reason::Nothing);
        }
        let found = match &self.node.value {
            Value::Scalar(text, _) => quote(text),
            Value::List(_) | Value::Map(_) => self.node.kind().to_owned(),
        };
        Error::new(Reason::Text(format!("expected {expected}, found {found}")))
    }

    fn scalar(self, expected: &'static str) -> Result<&'a str, Error> {
        match &self.node.value {
            Value::Scalar(text, _) if !self.node.is_null() => Ok(text),
            _ if self.node.is_null() => Err(Error::new(Reason::Nothing)),
            _ => Err(Error::new(Reason::Text(format!(
                "expected {expected}, found {}",
                self.node.kind()
            )))),
        }
    }

    /// A number or boolean: written without quotes, or brought in by a reference.
    fn bare(self, expected: &'static str) -> Result<&'a str, Error> {
        match &self.node.value {
            Value::Scalar(text, Style::Plain | Style::Substituted) if !self.node.is_null() => Ok(text),
            Value::Scalar(text, Style::Quoted) => Err(Error::new(Reason::Text(format!(
                "expected {expected}, found the string {}; remove the quotes",
                quote(text)
            )))),
            _ => Err(self.unexpected(expected)),
        }
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $type:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let text = self.bare("a whole number")?;
            match text.parse::<$type>() {
                Ok(number) => visitor.$visit(number),
                Err(_) if text.parse::<i128>().is_ok() => Err(Error::new(Reason::Text(format!(
                    "{text} is out of range; expected a whole number from {} to {}", $type::MIN, $type::MAX
                )))),
                Err(_) => Err(self.unexpected("a whole number")),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Decoder<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar(text, Style::Quoted) => visitor.visit_str(text),
            Value::Scalar(..) if self.node.is_null() => visitor.visit_unit(),
            Value::Scalar(text, _) => {
                if let Ok(truth) = text.parse::<bool>() {
                    visitor.visit_bool(truth)
                } else if let Ok(number) = text.parse::<u64>() {
                    visitor.visit_u64(number)
                } else if let Ok(number) = text.parse::<i64>() {
                    visitor.visit_i64(number)
                } else {
                    // `inf` and `nan` are words here; what starts like a number and is one, is a number.
                    match text.parse::<f64>() {
                        Ok(number) if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
                            visitor.visit_f64(number)
                        }
                        _ => visitor.visit_str(text),
                    }
                }
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.bare("true or false")?.parse() {
            Ok(truth) => visitor.visit_bool(truth),
            Err(_) => Err(self.unexpected("true or false")),
        }
    }

    whole_numbers! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.bare("a number")?.parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(self.unexpected("a number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    /// Every scalar may be text: nobody should have to quote a name because it consists of digits.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.scalar("a string")?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    /// Only a key that is not there is absent. `key:` without a value is a mistake, because somebody who
    /// comments out the items of `hosts:` does not mean "every host".
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        if name == AT {
            return visitor.visit_seq(PlaceThenValue {
                decoder: self,
                given: 0,
            });
        }
        if name == NOT_AVAILABLE {
            return Err(Error::new(Reason::NotAvailable));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(Items {
                decoder: self,
                rest: items.iter(),
            }),
            _ => Err(self.unexpected("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Map(entries) => visitor.visit_map(Entries {
                decoder: self,
                context: name,
                rest: entries.iter(),
                value: None,
            }),
            _ => Err(self.unexpected("a mapping (keys and values)")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Scalar(text, _) if !self.node.is_null() => {
                visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(text.as_ref()))
            }
            Value::Map(entries) => match entries.as_slice() {
                [(key, node)] => visitor.visit_enum(Variant {
                    key,
                    decoder: self.at(node, None),
                }),
                _ => Err(Error::new(Reason::Text(format!(
                    "expected one of {}, alone or as the only key of a mapping",
                    listed(variants)
                )))),
            },
            Value::Scalar(..) => Err(Error::new(Reason::Nothing)),
            Value::List(_) => Err(Error::new(Reason::Text(format!(
                "expected one of {}, found a list",
                listed(variants)
            )))),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Items<'a> {
    decoder: Decoder<'a>,
    rest: std::slice::Iter<'a, Node>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let node = loop {
            match self.rest.next() {
                None => return Ok(None),
                // Perhaps dropped before decoding began: a reference that leads nowhere.
                Some(node) if node.dropped.get() => self.decoder.drop_part(self.decoder.owner, node),
                Some(node) => break node,
            }
        };
        match seed.deserialize(self.decoder.at(node, None)) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.place.is_some() => Err(error),
            Err(error) => {
                self.decoder.drop_part(self.decoder.owner, node);
                Err(error.at(node.place, node))
            }
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Entries<'a> {
    decoder: Decoder<'a>,
    /// The name of the Rust type, from which the noun for messages is made.
    context: &'static str,
    rest: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a (Key, Node)>,
}

impl<'a> Entries<'a> {
    fn owner(&self, key: &'a Key) -> Option<(Place, &'a str)> {
        Some((self.decoder.node.place, &key.text))
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let entry = loop {
            match self.rest.next() {
                None => return Ok(None),
                Some((key, node)) if node.dropped.get() => self.decoder.drop_part(self.owner(key), node),
                Some(entry) => break entry,
            }
        };
        let (key, node) = entry;
        self.value = Some(entry);
        match seed.deserialize(StrDeserializer::<Error>::new(&key.text)) {
            Ok(value) => Ok(Some(value)),
            Err(mut error) => {
                self.decoder.drop_part(self.owner(key), node);
                if let Reason::UnknownKey { context, .. } = &mut error.reason {
                    *context = self.context;
                }
                Err(error.at(key.place, node))
            }
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        match seed.deserialize(self.decoder.at(node, self.owner(key))) {
            Ok(value) => Ok(value),
            Err(error) if error.place.is_some() => Err(error),
            Err(error) => {
                self.decoder.drop_part(self.owner(key), node);
                // Here the mistake is the key, not what is or is not written after it.
                let place = match error.reason {
                    Reason::Nothing | Reason::NotAvailable => key.place,
                    _ => node.place,
                };
                Err(error.named(&key.text).at(place, node))
            }
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// Hands a place and then the value at it to `At`.
struct PlaceThenValue<'a> {
    decoder: Decoder<'a>,
    given: u8,
}

impl<'de> SeqAccess<'de> for PlaceThenValue<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.given += 1;
        let place = self.decoder.node.place;
        match self.given {
            1 => {
                let packed = u64::from(place.line) << 32 | u64::from(place.column);
                seed.deserialize(U64Deserializer::<Error>::new(packed)).map(Some)
            }
            2 => seed.deserialize(self.decoder).map(Some),
            _ => Ok(None),
        }
    }
}

/// `{ jwt: corp }`: the name of a variant and what it holds.
struct Variant<'a> {
    key: &'a Key,
    decoder: Decoder<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Decoder<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Decoder<'a>), Error> {
        let value = seed.deserialize(StrDeserializer::<Error>::new(&self.key.text))?;
        Ok((value, self.decoder))
    }
}

impl<'de> de::VariantAccess<'de> for Decoder<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Err(Error::new(Reason::Text(
            "this stands alone, without a value".to_owned(),
        )))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_seq(self, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_map(self, visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::mistake::Source;
    use super::super::tree;
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct RawShop {
        name: String,
        #[serde(default)]
        open: bool,
        #[serde(default)]
        shelves: Vec<RawShelf>,
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct RawShelf {
        width: u8,
        label: String,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Bakery,
        Chain(String),
    }

    fn shop(text: &str) -> Result<RawShop, String> {
        let mut report = Report::new(Source::new("f"));
        let tree = tree::parse(text, &mut report);
        let shop = tree.and_then(|tree| decode(&tree, &mut report).0);
        match report.finish() {
            Ok(_) => Ok(shop.unwrap()),
            Err(mistakes) => Err(mistakes.to_string()),
        }
    }

    #[test]
    fn what_fits_is_decoded() {
        let text = "name: 007\nopen: true\nshelves: [{width: 5, label: \"a\"}]\nkind: {chain: Ü}\n";
        assert_eq!(
            shop(text),
            Ok(RawShop {
                name: "007".into(),
                open: true,
                shelves: vec![RawShelf {
                    width: 5,
                    label: "a".into()
                }],
                kind: Some(Kind::Chain("Ü".into())),
            })
        );
        assert_eq!(
            shop("{\n\t\"name\": \"x\",\n\t\"kind\": \"bakery\"\n}").unwrap().kind,
            Some(Kind::Bakery)
        );
    }

    #[test]
    fn all_values_that_do_not_fit_are_reported_in_one_go() {
        let text = "\
nam: x
open: yes
shelves:
  - {width: 300, label: a}
  - {width: \"3\", label: [a], depth: 4}
  - wide
kind: bakry
";
        assert_eq!(
            shop(text).unwrap_err(),
            "\
f:1:1: unknown key \"nam\" in shop; did you mean \"name\"?
f:1:1: \"name\" is missing
f:2:7: expected true or false, found \"yes\"
f:4:13: 300 is out of range; expected a whole number from 0 to 255
f:5:13: expected a whole number, found the string \"3\"; remove the quotes
f:5:25: expected a string, found a list
f:5:30: unknown key \"depth\" in shelf; known here: width, label
f:6:5: expected a mapping (keys and values), found \"wide\"
f:7:7: expected one of bakery, chain, found \"bakry\"; did you mean \"bakery\"?"
        );
    }

    #[test]
    fn a_missing_key_is_reported_once_and_not_when_its_value_was_wrong() {
        assert_eq!(
            shop("name: x\nshelves: [{width: 1}, {label: a, width: -1}]\n").unwrap_err(),
            "f:2:11: \"label\" is missing\nf:2:41: -1 is out of range; expected a whole number from 0 to 255"
        );
        assert_eq!(
            shop("name: [x]\n").unwrap_err(),
            "f:1:7: expected a string, found a list"
        );
    }

    #[test]
    fn a_key_without_a_value_is_not_the_same_as_no_key() {
        assert_eq!(
            shop("name: x\nkind:\nshelves: ~\n").unwrap_err(),
            "f:2:1: \"kind\" has no value; write one or remove the key\n\
             f:3:1: \"shelves\" has no value; write one or remove the key"
        );
    }

    #[test]
    fn mistakes_without_end_end() {
        let items = "wide, ".repeat(10_000);
        let found = shop(&format!("name: x\nshelves: [{items}]\n")).unwrap_err();
        assert!(found.starts_with("f: after 100 mistakes"), "{found}");
    }
}
