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
