//! The members of a `Cache-Control` field line (RFC 9111 section 5.2, RFC 9110 section 5.6): `token [ "=" ( token /
//! quoted-string ) ]`, between commas.
//!
//! What keeps to the grammar is taken by its word, so a comma in a quoted string is no comma. What does not is given as
//! it stands, up to the next comma, and what is beside it is still read: a quote that nothing closes must not hide the
//! `no-store` behind it.

/// One member of the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Member<'a> {
    /// A directive after the grammar.
    Directive {
        /// Its name, in the case in which it was written.
        name: &'a [u8],
        /// What stands behind its `=`; a quoted string without its quotes, its escapes still in it.
        argument: Option<&'a [u8]>,
    },
    /// Something else.
    Malformed(&'a [u8]),
}

/// The members of a field line, in their order. Empty ones are left out (RFC 9110 section 5.6.1.2).
pub(super) fn members(line: &[u8]) -> impl Iterator<Item = Member<'_>> {
    let mut rest = line;
    std::iter::from_fn(move || {
        while let [b',' | b' ' | b'\t', behind @ ..] = rest {
            rest = behind;
        }
        if rest.is_empty() {
            return None;
        }
        if let Some((directive, behind)) = directive(rest) {
            rest = behind;
            return Some(directive);
        }
        let (member, behind) = split(rest, rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len()));
        rest = behind;
        Some(Member::Malformed(trim(member)))
    })
}

/// The tokens in a piece of text that is no list.
pub(super) fn tokens(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| !is_token_byte(*byte))
        .filter(|token| !token.is_empty())
}

/// Without optional whitespace at both ends (RFC 9110 section 5.6.3).
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', inner @ ..] | [inner @ .., b' ' | b'\t'] = text {
        text = inner;
    }
    text
}

/// How long the quoted string is that `text` begins with, quotes included; none if it does not end.
pub(super) fn quoted_length(text: &[u8]) -> Option<usize> {
    if text.first() != Some(&b'"') {
        return None;
    }
    let mut is_escaped = false;
    for (place, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(place + 1),
            _ => {}
        }
    }
    None
}

fn directive(text: &[u8]) -> Option<(Member<'_>, &[u8])> {
    let (name, behind) = split(text, token_length(text));
    if name.is_empty() {
        return None;
    }
    let (argument, behind) = match behind {
        [b'=', value @ ..] => {
            if let Some(length) = quoted_length(value) {
                let (quoted, behind) = split(value, length);
                (Some(quoted.get(1..length - 1)?), behind)
            } else {
                let (token, behind) = split(value, token_length(value));
                if token.is_empty() {
                    return None;
                }
                (Some(token), behind)
            }
        }
        _ => (None, behind),
    };
    let space = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let (_, behind) = split(behind, space);
    matches!(behind, [] | [b',', ..]).then_some((Member::Directive { name, argument }, behind))
}

fn token_length(text: &[u8]) -> usize {
    text.iter().take_while(|byte| is_token_byte(**byte)).count()
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn split(text: &[u8], at: usize) -> (&[u8], &[u8]) {
    text.split_at_checked(at).unwrap_or((text, &[]))
}
