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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        members(line.as_bytes())
            .map(|member| match member {
                Member::Directive { name, argument: None } => text(name),
                Member::Directive {
                    name,
                    argument: Some(argument),
                } => format!("{}:{}", text(name), text(argument)),
                Member::Malformed(junk) => format!("?{}", text(junk)),
            })
            .collect()
    }

    #[test]
    fn a_list_has_members_between_commas_that_are_not_in_quotes() {
        for (line, expected) in [
            ("", &[][..]),
            (" , ,\t,", &[]),
            ("no-store", &["no-store"]),
            ("a,b ,\tc=1 ", &["a", "b", "c:1"]),
            (r#"x="max-age=3600, y", z"#, &["x:max-age=3600, y", "z"]),
            (r#"x="a\", b", c"#, &[r#"x:a\", b"#, "c"]),
            (r#"x="" , c"#, &["x:", "c"]),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_directive_ends_at_the_next_comma() {
        for (line, expected) in [
            (r#"x="a, no-store"#, &[r#"?x="a"#, "no-store"][..]),
            (r#"x="a" b", no-store"#, &[r#"?x="a" b""#, "no-store"]),
            (r#"x="\", no-store"#, &[r#"?x="\""#, "no-store"]),
            ("max-age =1, a", &["?max-age =1", "a"]),
            ("max-age= 1, a", &["?max-age= 1", "a"]),
            ("max-age=, a", &["?max-age=", "a"]),
            ("max-age=1; no-store, a", &["?max-age=1; no-store", "a"]),
            ("=1,\"a\",a", &["?=1", "?\"a\"", "a"]),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn nothing_in_front_of_a_directive_hides_it(junk in r#"[a-f"=, \\;0-9]{0,20}"#) {
            let line = format!("{junk},no-store");
            let last = members(line.as_bytes()).last().unwrap();
            prop_assert_eq!(last, Member::Directive { name: b"no-store", argument: None });
        }

        #[test]
        fn any_bytes_have_an_end(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(members(&line).count() <= line.len());
        }
    }
}
