//! Paths in the form in which requests are matched.

use schemars::{Schema, json_schema};

use super::hex;
use crate::document::{Grammar, quote};

/// `/` or a literal path without slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct BasePath(pub(in crate::revision) String);

impl Grammar for BasePath {
    const WHAT: &'static str = "a path such as /orders";

    fn read(text: &str) -> Result<Self, String> {
        normal_form(text)?;
        if text.contains(['{', '}', '*']) {
            return Err(format!(
                "base path {} has to be literal; parameters and * belong into the paths of routes",
                quote(text)
            ));
        }
        if text.len() > 1 && text.ends_with('/') {
            return Err(format!(
                "base path {} ends in a slash; write {}",
                quote(text),
                quote(text.trim_end_matches('/'))
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^/([^/{}*?#;\\]+(/[^/{}*?#;\\]+)*)?$",
            "examples": ["/orders", "/"]
        })
    }
}

/// A path pattern below a base path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct RoutePath(pub(in crate::revision) String);

impl Grammar for RoutePath {
    const WHAT: &'static str = "a path such as /{id}";

    fn read(text: &str) -> Result<Self, String> {
        normal_form(text)?;
        let mut parameters: Vec<&str> = Vec::new();
        let mut segments = text.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            if segment == "*" {
                if segments.peek().is_some() {
                    return Err(format!(
                        "* can only be the last segment of {}; for one segment, write {{name}}",
                        quote(text)
                    ));
                }
            } else if segment.contains('*') {
                return Err(format!("* has to be a whole segment in {}", quote(text)));
            } else if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                if !is_parameter_name(name) {
                    return Err(format!(
                        "{} is not the name of a parameter in {}; write letters, digits and _",
                        quote(name),
                        quote(text)
                    ));
                }
                if parameters.contains(&name) {
                    return Err(format!("the parameter {{{name}}} stands twice in {}", quote(text)));
                }
                parameters.push(name);
            } else if segment.contains(['{', '}']) {
                return Err(format!("a parameter has to be a whole segment in {}", quote(text)));
            }
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^/[^?#;\\]*$",
            "examples": ["/", "/{id}", "/files/*"]
        })
    }
}

/// A path that is made for a request: with `{name}` and `*` where the route's pattern has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::revision) struct TargetPath(pub(in crate::revision) String);

impl Grammar for TargetPath {
    const WHAT: &'static str = "a path such as /new/{id}";

    /// A target has the form of a pattern. That its parameters are those of the pattern is checked where both are known.
    fn read(text: &str) -> Result<Self, String> {
        RoutePath::read(text).map(|RoutePath(path)| Self(path))
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^/[^?#;\\]*$",
            "examples": ["/internal/{id}", "/new/*"]
        })
    }
}

fn is_parameter_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Requests are brought into normal form before they are matched, so a path in any other form matches nothing.
fn normal_form(path: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("path {} {why}", quote(path)));
    if !path.starts_with('/') {
        return wrong("has to start with /");
    }
    if path.len() > 2048 {
        return wrong("is longer than 2048 characters");
    }
    if path.contains("//") {
        return wrong("has an empty segment (//)");
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return wrong("has a . or .. segment");
    }
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (bytes.next().and_then(hex), bytes.next().and_then(hex)) else {
                    return wrong("has a % without two upper-case hex digits");
                };
                match high << 4 | low {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        return wrong("escapes a character that needs no escape; write the character");
                    }
                    b'/' | b'\\' | 0 => return wrong("escapes a slash, a backslash or NUL; such requests get 400"),
                    _ => {}
                }
            }
            b'?' | b'#' => return wrong("has a query or a fragment; a path ends before ? and #"),
            b';' | b'\\' => return wrong("has a ; or a backslash, which upstreams read in different ways"),
            b'/' | b'{' | b'}' | b'*' => {}
            _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()+,=:@".contains(&byte) => {}
            _ => return wrong("has a character that has to be percent-encoded"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{accepts, refuses};
    use super::*;

    #[test]
    fn a_path_that_no_request_can_have_in_normal_form_is_refused() {
        accepts::<RoutePath>(&[
            "/",
            "/a",
            "/a/",
            "/{id}",
            "/a/{id}/b/{other}",
            "/files/*",
            "/*",
            "/caf%C3%A9",
            "/a:b@c",
        ]);
        for (text, expected) in [
            ("a", "start with /"),
            ("", "start with /"),
            ("/a//b", "empty segment"),
            ("/a/../b", ". or .."),
            ("/a/.", ". or .."),
            ("/%41", "write the character"),
            ("/%7E", "write the character"),
            ("/%2F", "such requests get 400"),
            ("/%5C", "such requests get 400"),
            ("/%00", "such requests get 400"),
            ("/%c3%a9", "upper-case hex"),
            ("/%4", "upper-case hex"),
            ("/a?b=c", "query"),
            ("/a#b", "fragment"),
            ("/a;b", "different ways"),
            ("/a\\b", "different ways"),
            ("/é", "percent-encoded"),
            ("/a b", "percent-encoded"),
            ("/a\u{0}b", "percent-encoded"),
            ("/*/a", "last segment"),
            ("/a*", "whole segment"),
            ("/{id}x", "whole segment"),
            ("/x{id}", "whole segment"),
            ("/{id}/{id}", "stands twice"),
            ("/{}", "name of a parameter"),
            ("/{*id}", "whole segment"),
            ("/{a-b}", "name of a parameter"),
        ] {
            refuses::<RoutePath>(text, expected);
        }
        refuses::<RoutePath>(&format!("/{}", "a".repeat(3000)), "longer than");
    }

    #[test]
    fn a_base_path_is_literal_and_does_not_end_in_a_slash() {
        accepts::<BasePath>(&["/", "/orders", "/v1/orders"]);
        refuses::<BasePath>("/orders/", "write \"/orders\"");
        refuses::<BasePath>("/{tenant}", "has to be literal");
        refuses::<BasePath>("/a/*", "has to be literal");
        refuses::<BasePath>("orders", "start with /");
    }
}
