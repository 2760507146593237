//! Which fields of a request its answer depends on (RFC 9110 section 12.5.5), and their part of a key (RFC 9111 section
//! 4.1).

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, COOKIE, HeaderName, VARY};
use smallvec::SmallVec;

use super::members::{quoted_length, trim};

/// What an answer varies by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// Every request of its URL gets it.
    Nothing,
    /// No second request gets it.
    Everything,
    /// Requests with the same values in these fields get it. They are in order, each once.
    Fields(SmallVec<[HeaderName; 4]>),
}

impl Vary {
    /// Reads `Vary`. A member that is no name of a field makes it everything: what it was to say is not known.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut fields = SmallVec::new();
        for line in headers.get_all(VARY) {
            for member in line.as_bytes().split(|byte| *byte == b',').map(trim) {
                match HeaderName::from_bytes(member) {
                    _ if member.is_empty() => {}
                    // `*` would do as a name.
                    Ok(name) if member != b"*" => fields.push(name),
                    _ => return Self::Everything,
                }
            }
        }
        fields.sort_by(|one: &HeaderName, two| one.as_str().cmp(two.as_str()));
        fields.dedup();
        if fields.is_empty() {
            Self::Nothing
        } else {
            Self::Fields(fields)
        }
    }
}

/// Appends the values of the selecting fields, so that two requests give the same bytes only if they mean the same.
///
/// Every name and value has its length before it, and a field that is absent differs from one that is empty. Several lines
/// of a field are one, which RFC 9111 section 4.1 permits for all of them. White space around commas is alike only where
/// the field is known to be a list; `Accept-Encoding: gzip, br` and `br, gzip` stay two variants, because an origin may
/// take the first that it knows.
pub fn variant(fields: &[HeaderName], request: &HeaderMap, into: &mut Vec<u8>) {
    let mut fields: SmallVec<[&HeaderName; 8]> = fields.iter().collect();
    fields.sort_by(|one, two| one.as_str().cmp(two.as_str()));
    fields.dedup();
    push_length(into, fields.len());
    for name in fields {
        push_length(into, name.as_str().len());
        into.extend_from_slice(name.as_str().as_bytes());
        if !request.contains_key(name) {
            into.push(0);
            continue;
        }
        into.push(1);
        let place = into.len();
        push_length(into, 0);
        let start = into.len();
        push_value(name, request, into);
        let length = length_bytes(into.len() - start);
        if let Some(room) = into.get_mut(place..start) {
            room.copy_from_slice(&length);
        }
    }
}

fn push_value(name: &HeaderName, request: &HeaderMap, into: &mut Vec<u8>) {
    // Lines of cookies are parts of one, with another mark between them (RFC 9113 section 8.2.3).
    let between: &[u8] = if name == COOKIE { b"; " } else { b", " };
    let is_list = [ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name);
    for (count, line) in request.get_all(name).iter().enumerate() {
        if count > 0 {
            into.extend_from_slice(between);
        }
        let value = trim(line.as_bytes());
        if is_list {
            push_list(value, into)
        } else {
            into.extend_from_slice(value)
        }
    }
}

/// The same list with `, ` between its members. What is in quotes stays as it is.
fn push_list(mut rest: &[u8], into: &mut Vec<u8>) {
    while let Some((&byte, behind)) = rest.split_first() {
        match byte {
            b'"' => {
                let (quoted, behind) = rest
                    .split_at_checked(quoted_length(rest).unwrap_or(rest.len()))
                    .unwrap_or((rest, &[]));
                into.extend_from_slice(quoted);
                rest = behind;
            }
            b',' => {
                while into.last().is_some_and(|last| matches!(last, b' ' | b'\t')) {
                    into.pop();
                }
                into.extend_from_slice(b", ");
                rest = trim_start(behind);
            }
            _ => {
                into.push(byte);
                rest = behind;
            }
        }
    }
}

fn trim_start(text: &[u8]) -> &[u8] {
    let space = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    text.get(space..).unwrap_or_default()
}

fn push_length(into: &mut Vec<u8>, length: usize) {
    into.extend_from_slice(&length_bytes(length));
}

/// A request's head is bounded far below this.
fn length_bytes(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::fields;
    use super::*;

    fn of(lines: &[&str]) -> Vec<String> {
        let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
        match Vary::of(&fields(&lines)) {
            Vary::Nothing => vec![],
            Vary::Everything => vec!["*".to_owned()],
            Vary::Fields(names) => names.iter().map(ToString::to_string).collect(),
        }
    }

    fn key(names: &[&'static str], request: &[(&str, &str)]) -> Vec<u8> {
        let names: Vec<_> = names.iter().map(|name| HeaderName::from_static(name)).collect();
        let mut key = Vec::new();
        variant(&names, &fields(request), &mut key);
        key
    }

    /// RFC 9110 section 12.5.5.
    #[test]
    fn names_are_put_in_order_and_anything_that_is_none_is_everything() {
        assert!(of(&[]).is_empty() && of(&[""]).is_empty() && of(&[" , "]).is_empty());
        assert_eq!(of(&["Foo, accept", "ACCEPT,,bar"]), ["accept", "bar", "foo"]);
        for line in [
            "*", "a, *", "*, a", ", *", " * ,", "a b", "a;b", "a:", "\"a\"", "a=*, (", "ä",
        ] {
            assert_eq!(of(&["a", line]), ["*"], "{line}");
        }
    }

    /// RFC 9111 section 4.1.
    #[test]
    fn requests_that_mean_the_same_are_one_variant() {
        for (one, two) in [
            (vec![("a", " 1\t")], vec![("a", "1")]),
            (vec![("a", "1"), ("a", "2")], vec![("a", "1, 2")]),
            (
                vec![("accept-language", "en ,de")],
                vec![("accept-language", "en,\tde")],
            ),
            (
                vec![("accept-language", "en"), ("accept-language", "de")],
                vec![("accept-language", "en,de")],
            ),
            (vec![("cookie", "a=1"), ("cookie", "b=2")], vec![("cookie", "a=1; b=2")]),
            (vec![("a", "1"), ("other", "1")], vec![("a", "1"), ("other", "2")]),
        ] {
            let names = ["a", "accept-language", "cookie"];
            assert_eq!(key(&names, &one), key(&names, &two), "{one:?} {two:?}");
        }
        assert_eq!(
            key(&["b", "a"], &[("a", "1")]),
            key(&["a", "b", "a"], &[("a", "1")]),
            "the order of names is no matter"
        );
    }

    #[test]
    fn requests_that_may_mean_something_else_are_two() {
        for (one, two) in [
            (vec![], vec![("a", "")]),
            (vec![("a", "1")], vec![("b", "1")]),
            (vec![("a", "x")], vec![("a", "X")]),
            (vec![("a", "1,2")], vec![("a", "1, 2")]),
            (vec![("a", "1, 2")], vec![("a", "2, 1")]),
            (vec![("a", "1"), ("b", "")], vec![("a", ""), ("b", "1")]),
            (vec![("accept", "a;x=\"b ,c\"")], vec![("accept", "a;x=\"b, c\"")]),
            (vec![("accept", "a;x=\"\\\" ,c\"")], vec![("accept", "a;x=\"\\\", c\"")]),
            (vec![("accept", "a,b")], vec![("accept", "ab")]),
            (vec![("cookie", "a=1"), ("cookie", "b=2")], vec![("cookie", "a=1, b=2")]),
        ] {
            let names = ["a", "accept", "b", "cookie"];
            assert_ne!(key(&names, &one), key(&names, &two), "{one:?} {two:?}");
        }
    }

    /// The same, said plainly: what a key may forget, and nothing more.
    fn meaning(names: &[&str], request: &[(&str, String)]) -> Vec<(String, Option<String>)> {
        let mut names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names.dedup();
        let value = |name: &String| {
            let lines: Vec<_> = request
                .iter()
                .filter(|line| line.0 == name)
                .map(|line| line.1.trim())
                .collect();
            let joined = lines.join(if name == "cookie" { "; " } else { ", " });
            // No quotes in these, so a comma is a comma.
            let is_list = name.starts_with("accept");
            let joined = if is_list {
                joined.split(',').map(str::trim).collect::<Vec<_>>().join(",")
            } else {
                joined
            };
            (!lines.is_empty()).then_some(joined)
        };
        names
            .into_iter()
            .map(|name| {
                let value = value(&name);
                (name, value)
            })
            .collect()
    }

    fn request() -> impl Strategy<Value = Vec<(&'static str, String)>> {
        let name = proptest::sample::select(vec!["a", "b", "accept", "cookie"]);
        proptest::collection::vec((name, "[ab,; ]{0,4}"), 0..4)
    }

    fn selecting() -> impl Strategy<Value = Vec<&'static str>> {
        proptest::collection::vec(proptest::sample::select(vec!["a", "b", "accept", "cookie"]), 0..4)
    }

    proptest! {
        #[test]
        fn two_keys_are_the_same_just_when_two_requests_mean_the_same(
            names in selecting(), other_names in selecting(), one in request(), two in request(),
        ) {
            let key = |names: &[&'static str], request: &[(&str, String)]| {
                let lines: Vec<_> = request.iter().map(|(name, value)| (*name, value.as_str())).collect();
                key(names, &lines)
            };
            prop_assert_eq!(key(&names, &one) == key(&names, &two), meaning(&names, &one) == meaning(&names, &two));
            prop_assert_eq!(
                key(&names, &one) == key(&other_names, &one),
                meaning(&names, &one) == meaning(&other_names, &one)
            );
        }

        #[test]
        fn any_bytes_have_a_variant(line in proptest::collection::vec(any::<u8>(), 0..40)) {
            if http::HeaderValue::from_bytes(&line).is_ok() {
                let mut key = Vec::new();
                variant(&[ACCEPT, COOKIE], &fields(&[("accept", &line), ("cookie", &line)]), &mut key);
                let _ = Vary::of(&fields(&[("vary", &line)]));
            }
        }
    }
}
