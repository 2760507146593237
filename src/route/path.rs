//! The one place where a path is normalised.
//!
//! Routing, authentication, counters, cache keys and the upstream all see the result, so no two of them can disagree
//! about what was asked for. Whatever servers are known to read in different ways is refused instead of interpreted:
//! `%2F` is a separator to some and a byte to others, `;` starts parameters or does not, `%2541` is decoded once or
//! twice.
//!
//! The order is: escapes, then duplicate slashes, then dot segments. Merging slashes first makes `/a//../b` mean `/b`
//! (as nginx reads it); by the letter of RFC 3986 it would be `/a/b`, but then the empty segment would have to be
//! kept everywhere else too. The slash at the end is kept, it is a different resource.

use std::borrow::Cow;
use std::fmt;

/// Why a path is refused; all of them are 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// Does not start with a slash.
    NotAbsolute,
    /// `%2F`
    EncodedSlash,
    /// A backslash, raw or as `%5C`.
    Backslash,
    /// A control character, raw or as an escape, NUL included.
    Control,
    /// A percent sign without two hexadecimal digits.
    InvalidEscape,
    /// `%25` before two hexadecimal digits: an escape inside an escape.
    DoubleEncoding,
    /// Escaped bytes that occur in no UTF-8 text.
    NotUtf8,
    /// A raw semicolon.
    Parameter,
    /// A byte above ASCII without an escape.
    NotAscii,
    /// Another byte that has to be escaped: a space, `?`, `#`, quotes, brackets and braces, `^`, `|`, a backtick.
    Unescaped,
    /// `..` above the root.
    AboveRoot,
}

impl PathError {
    /// One plain sentence without a full stop; the same for everyone, so it may be shown to the client.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAbsolute => "the path does not start with a slash",
            Self::EncodedSlash => "the path contains an encoded slash",
            Self::Backslash => "the path contains a backslash",
            Self::Control => "the path contains a control character",
            Self::InvalidEscape => "the path contains a percent sign without two hexadecimal digits",
            Self::DoubleEncoding => "the path is percent-encoded twice",
            Self::NotUtf8 => "the path contains escapes that are not UTF-8",
            Self::Parameter => "the path contains a semicolon, which has to be written as %3B",
            Self::NotAscii => "the path contains a byte above ASCII that has to be percent-encoded",
            Self::Unescaped => "the path contains a character that has to be percent-encoded",
            Self::AboveRoot => "the path leads above the root",
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for PathError {}

/// The normal form of a path (without its query).
///
/// What is normal already is borrowed. Normalising twice gives the same as once.
///
/// # Errors
/// When the path could be read in more than one way; see [`PathError`].
pub fn normalise(raw_path: &str) -> Result<Cow<'_, str>, PathError> {
    if is_normal(raw_path.as_bytes()) {
        return Ok(Cow::Borrowed(raw_path));
    }
    let decoded = decode(raw_path.as_bytes())?;
    resolve(&decoded).map(Cow::Owned)
}

/// Whether nothing is to be done; `false` also for everything that is to be refused.
fn is_normal(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        match CLASSES[byte as usize] {
            Class::Plain => {}
            Class::Slash => match &path[at + 1..] {
                [b'/', ..] | [b'.'] | [b'.', b'.'] | [b'.', b'/', ..] | [b'.', b'.', b'/', ..] => return false,
                _ => {}
            },
            Class::Percent => match escape(path, at) {
                Ok(Escape { byte, upper: true }) if !is_unreserved(byte) => {
                    at += 2;
                    // An escape inside an escape. Digits that are escaped themselves stop the scan by themselves.
                    if byte == b'%' && is_hex_pair(path.get(at + 1..at + 3)) {
                        return false;
                    }
                }
                _ => return false,
            },
            Class::Refused(_) => return false,
        }
        at += 1;
    }
    true
}

/// Decodes what needs no escape, writes the other escapes in upper case, and refuses what is ambiguous.
fn decode(path: &[u8]) -> Result<String, PathError> {
    if path.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let mut decoded = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        match CLASSES[byte as usize] {
            Class::Plain | Class::Slash => decoded.push(char::from(byte)),
            Class::Refused(error) => return Err(error),
            Class::Percent => {
                let Escape { byte, .. } = escape(path, at)?;
                if is_unreserved(byte) {
                    decoded.push(char::from(byte));
                } else {
                    decoded.push('%');
                    decoded.push(char::from(HEX[usize::from(byte >> 4)]));
                    decoded.push(char::from(HEX[usize::from(byte & 0xf)]));
                }
                at += 2;
            }
        }
        at += 1;
    }
    // Looked for behind decoding, because the digits may have been escaped themselves: `%25%32%46`.
    let mut escaped_percents = decoded.match_indices("%25");
    let twice = escaped_percents.any(|(at, _)| is_hex_pair(decoded.as_bytes().get(at + 3..at + 5)));
    if twice {
        Err(PathError::DoubleEncoding)
    } else {
        Ok(decoded)
    }
}

/// Merges slashes and removes dot segments.
fn resolve(decoded: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(decoded.len());
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" | "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
            }
            _ => {
                out.push('/');
                out.push_str(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    Ok(out)
}

struct Escape {
    byte: u8,
    /// Whether its digits are written in upper case.
    upper: bool,
}

/// The escape at this place, if it is one that may stand in a path.
fn escape(path: &[u8], at: usize) -> Result<Escape, PathError> {
    let Some(&[b'%', high, low]) = path.get(at..at + 3) else {
        return Err(PathError::InvalidEscape);
    };
    let (Some(high_digit), Some(low_digit)) = (digit(high), digit(low)) else {
        return Err(PathError::InvalidEscape);
    };
    let byte = high_digit << 4 | low_digit;
    match byte {
        b'/' => Err(PathError::EncodedSlash),
        b'\\' => Err(PathError::Backslash),
        0..=0x1f | 0x7f => Err(PathError::Control),
        0xc0 | 0xc1 | 0xf5..=0xff => Err(PathError::NotUtf8),
        // A longer encoding than needed: some decoders see another character in it.
        0xe0 if follows(path, at + 3, 0x80..=0x9f) => Err(PathError::NotUtf8),
        0xf0 if follows(path, at + 3, 0x80..=0x8f) => Err(PathError::NotUtf8),
        _ => Ok(Escape {
            byte,
            upper: !high.is_ascii_lowercase() && !low.is_ascii_lowercase(),
        }),
    }
}

fn follows(path: &[u8], at: usize, range: std::ops::RangeInclusive<u8>) -> bool {
    let Some(&[b'%', high, low]) = path.get(at..at + 3) else {
        return false;
    };
    matches!((digit(high), digit(low)), (Some(high), Some(low)) if range.contains(&(high << 4 | low)))
}

fn is_hex_pair(bytes: Option<&[u8]>) -> bool {
    matches!(bytes, Some([high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 2.3: means the same with and without its escape.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[derive(Clone, Copy)]
enum Class {
    Plain,
    Slash,
    Percent,
    Refused(PathError),
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Refused(PathError::NotAscii); 256];
    let mut byte = 0_u8;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            // RFC 3986 3.3 pchar, without the semicolon.
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => Class::Plain,
            byte if is_unreserved(byte) => Class::Plain,
            b';' => Class::Refused(PathError::Parameter),
            b'\\' => Class::Refused(PathError::Backslash),
            0..=0x1f | 0x7f => Class::Refused(PathError::Control),
            _ => Class::Refused(PathError::Unescaped),
        };
        byte += 1;
    }
    classes
};

const HEX: [u8; 16] = *b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_normal_is_borrowed() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/d",
            "/...",
            "/.a/..b/c.",
            "/a%20b%C3%A4%3B",
            "/!$&'()*+,=:@-._~",
            "/%F0%9F%A6%80",
            "/100%25",
            "/100%25a",
            "/%25/%25%25",
        ] {
            assert!(
                matches!(normalise(path), Ok(Cow::Borrowed(same)) if same == path),
                "{path}"
            );
        }
    }

    #[test]
    fn equal_paths_get_one_form() {
        for (raw, normal) in [
            ("//", "/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a//b///c//", "/a/b/c/"),
            ("/a//../b", "/b"),
            ("/a/b/../../c", "/c"),
            ("/%61dmin", "/admin"),
            ("/%41%2D%2e%5f%7E", "/A-._~"),
            ("/a%3ab%c3%a4", "/a%3Ab%C3%A4"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/.%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/100%25", "/100%25"),
            ("/100%25/x", "/100%25/x"),
            ("/a%3Bb", "/a%3Bb"),
            ("/%E4", "/%E4"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn known_tricks_are_refused() {
        use PathError::*;
        for (raw, error) in [
            ("", NotAbsolute),
            ("admin", NotAbsolute),
            ("*", NotAbsolute),
            ("%2Fadmin", NotAbsolute),
            ("/..", AboveRoot),
            ("/../etc/passwd", AboveRoot),
            ("/a/../../b", AboveRoot),
            ("/%2e%2e/b", AboveRoot),
            ("/.%2e/b", AboveRoot),
            ("//../b", AboveRoot),
            ("/a%2Fb", EncodedSlash),
            ("/a%2fb", EncodedSlash),
            ("/a/..%2fb", EncodedSlash),
            ("/a\\b", Backslash),
            ("/a/..\\b", Backslash),
            ("/a%5Cb", Backslash),
            ("/a%5c..%5cb", Backslash),
            ("/a%00.png", Control),
            ("/a%0d%0aX: 1", Control),
            ("/a%7f", Control),
            ("/a\0", Control),
            ("/a\tb", Control),
            ("/a\u{7f}", Control),
            ("/%", InvalidEscape),
            ("/%4", InvalidEscape),
            ("/%zz", InvalidEscape),
            ("/%4g", InvalidEscape),
            ("/%u002e", InvalidEscape),
            ("/%+1", InvalidEscape),
            ("/a;/../b", Parameter),
            ("/a;jsessionid=1", Parameter),
            ("/..;/b", Parameter),
            ("/%252e%252e/b", DoubleEncoding),
            ("/%252F", DoubleEncoding),
            ("/%25%32%46", DoubleEncoding),
            ("/%25%32f", DoubleEncoding),
            ("/%c0%af", NotUtf8),
            ("/%c1%9c", NotUtf8),
            ("/%c0%ae%c0%ae/", NotUtf8),
            ("/%e0%80%af", NotUtf8),
            ("/%E0%9F%BF", NotUtf8),
            ("/%f0%80%80%af", NotUtf8),
            ("/%f5", NotUtf8),
            ("/%ff", NotUtf8),
            ("/\u{e4}", NotAscii),
            ("/\u{ff0f}", NotAscii),
            ("/a b", Unescaped),
            ("/a?b", Unescaped),
            ("/a#/../b", Unescaped),
            ("/<a>", Unescaped),
            ("/\"a\"", Unescaped),
            ("/{a}", Unescaped),
            ("/a|b", Unescaped),
            ("/a^b", Unescaped),
            ("/a`b", Unescaped),
            ("/[a]", Unescaped),
        ] {
            assert_eq!(normalise(raw), Err(error), "{raw}");
        }
    }

    /// The same rules, written without regard for speed: RFC 3986 5.2.4 to the letter, after decoding byte by byte.
    fn model(raw: &str) -> Result<String, ()> {
        if !raw.starts_with('/') {
            return Err(());
        }
        let mut decoded = String::new();
        let bytes = raw.as_bytes();
        let mut escaped = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] != b'%' {
                let allowed = bytes[at].is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@/".contains(&bytes[at]);
                allowed.then_some(()).ok_or(())?;
                decoded.push(char::from(bytes[at]));
                escaped.push(None);
                at += 1;
                continue;
            }
            let digits = raw
                .get(at + 1..at + 3)
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or(())?;
            let byte = u8::from_str_radix(digits, 16).map_err(|_| ())?;
            if byte < 0x20 || b"/\\\x7f\xc0\xc1".contains(&byte) || byte >= 0xf5 {
                return Err(());
            }
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                decoded.push(char::from(byte));
            } else {
                decoded.push_str(&format!("%{byte:02X}"));
            }
            escaped.push(Some(byte));
            at += 3;
        }
        let overlong =
            |pair: &[Option<u8>]| matches!(pair, [Some(0xe0), Some(0x80..=0x9f)] | [Some(0xf0), Some(0x80..=0x8f)]);
        if escaped.windows(2).any(overlong) {
            return Err(());
        }
        for (at, _) in decoded.match_indices("%25") {
            if decoded[at + 3..].bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2 {
                return Err(());
            }
        }
        while decoded.contains("//") {
            decoded = decoded.replace("//", "/");
        }
        let (mut input, mut output) = (decoded, String::new());
        while !input.is_empty() {
            if input.starts_with("/./") || input == "/." {
                input = format!("/{}", input.get(3..).unwrap_or(""));
            } else if input.starts_with("/../") || input == "/.." {
                input = format!("/{}", input.get(4..).unwrap_or(""));
                output.truncate(output.rfind('/').ok_or(())?);
            } else {
                let end = input[1..].find('/').map_or(input.len(), |end| end + 1);
                output.push_str(&input[..end]);
                input = input[end..].to_owned();
            }
        }
        Ok(output)
    }

    fn tricky() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "/", ".", "..", "a", "b", "%2e", "%2E", "%2f", "%25", "%32", "%41", "%c3", "%A4", "%e0", "%80",
            "%F0", "%3B", "%", "2", "e", "~", ";", "\\", "%5c", "%00", ":", "\u{e4}", " ",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    /// Only what is allowed on its own, so that most of these pass.
    fn harmless() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", ".", "..", "a", "%61", "%2e", "%3a", "%25", "%C3%A4", "%7E",
        ]);
        prop::collection::vec(piece, 0..14).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    fn check(raw: &str) -> Result<(), TestCaseError> {
        let normal = normalise(raw);
        let modelled = model(raw);
        prop_assert_eq!(normal.as_deref().ok(), modelled.as_deref().ok(), "{}", raw);
        let Ok(normal) = normal else { return Ok(()) };
        prop_assert!(
            matches!(normalise(&normal), Ok(Cow::Borrowed(same)) if same == normal),
            "{}",
            normal
        );
        prop_assert!(normal.starts_with('/') && !normal.contains("//"), "{}", normal);
        prop_assert!(
            normal.split('/').all(|segment| segment != "." && segment != ".."),
            "{}",
            normal
        );
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn tricky_paths_agree_with_the_model_and_stay_normal(raw in tricky()) {
            check(&raw)?;
        }

        #[test]
        fn harmless_paths_agree_with_the_model_and_stay_normal(raw in harmless()) {
            check(&raw)?;
        }

        #[test]
        fn arbitrary_strings_agree_with_the_model_and_stay_normal(raw in ".{0,20}") {
            check(&raw)?;
            check(&format!("/{raw}"))?;
        }
    }
}
