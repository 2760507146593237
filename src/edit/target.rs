//! Paths that are made for a request: of rewrites and redirects.
//!
//! What is taken over are segments of the path in its normal form, as the route matched it: none of them has a slash, a
//! backslash or a second meaning. So a client can fill in a segment and never add one before it, and what is made of
//! `/*` begins with exactly one slash.

use crate::revision;

/// A target, ready to be filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    parts: Box<[Part]>,
    absolute: bool,
    /// As it was written, for explanations.
    text: Box<str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    /// The segment of the path at this position.
    Segment(usize),
    /// The segments from this position on.
    Rest(usize),
}

impl Target {
    /// Compiles a target for a route with this pattern, which has all of its parameters: that was checked.
    #[must_use]
    pub fn compile(pattern: &str, target: &revision::Target) -> Self {
        let origin = target.origin.as_deref().unwrap_or_default();
        let mut parts = Vec::new();
        let mut literal = origin.to_owned();
        for segment in segments(&target.path) {
            literal.push('/');
            let is_parameter = segment == "*" || segment.starts_with('{');
            match segments(pattern)
                .position(|known| known == segment)
                .filter(|_| is_parameter)
            {
                None => literal.push_str(segment),
                Some(position) => {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                    parts.push(if segment == "*" {
                        Part::Rest(position)
                    } else {
                        Part::Segment(position)
                    });
                }
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Self {
            parts: parts.into(),
            absolute: target.origin.is_some(),
            text: [origin, &target.path].concat().into(),
        }
    }

    /// The target for a path that the pattern has matched.
    #[must_use]
    pub fn fill(&self, path: &str) -> String {
        let mut filled = String::with_capacity(self.text.len() + path.len());
        for part in &self.parts {
            match part {
                Part::Literal(literal) => filled.push_str(literal),
                Part::Segment(position) => filled.push_str(segments(path).nth(*position).unwrap_or_default()),
                Part::Rest(position) => filled.push_str(rest(path, *position)),
            }
        }
        filled
    }

    /// Whether it may lead to another host.
    #[must_use]
    pub fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// What stands behind each slash.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// The segments from this position on.
fn rest(path: &str, position: usize) -> &str {
    let mut rest = path.strip_prefix('/').unwrap_or(path);
    for _ in 0..position {
        rest = rest.split_once('/').map_or("", |(_, rest)| rest);
    }
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::path::normalise;

    fn filled(pattern: &str, origin: Option<&str>, target: &str, path: &str) -> String {
        let target = revision::Target {
            origin: origin.map(str::to_owned),
            path: target.to_owned(),
        };
        Target::compile(pattern, &target).fill(path)
    }

    #[test]
    fn parameters_and_the_rest_are_taken_over_and_everything_else_is_literal() {
        for (pattern, target, path, expected) in [
            ("/v1/{id}", "/internal/{id}", "/v1/7", "/internal/7"),
            ("/old/*", "/new/*", "/old/a/b", "/new/a/b"),
            ("/old/*", "/new/*", "/old/", "/new/"),
            ("/old/*", "/*", "/old/a/", "/a/"),
            ("/{a}/x/{b}", "/{b}/{a}", "/1/x/2", "/2/1"),
            ("/{a}/x/{b}", "/{a}/{a}", "/1/x/2", "/1/1"),
            ("/a", "/", "/a", "/"),
            ("/a/*", "/fixed/", "/a/b", "/fixed/"),
            ("/caf%C3%A9/{id}", "/{id}/%20", "/caf%C3%A9/%3B", "/%3B/%20"),
        ] {
            assert_eq!(
                filled(pattern, None, target, path),
                expected,
                "{pattern} to {target} for {path}"
            );
        }
        let elsewhere = filled("/old/*", Some("https://new.example.com"), "/x/*", "/old/a");
        assert_eq!(elsewhere, "https://new.example.com/x/a");
    }

    proptest! {
        /// `//evil.com` and `/\evil.com` are other hosts to a browser.
        #[test]
        fn no_path_makes_a_target_that_is_another_host(raw in r"[/\\.%a-f0-9:@;?#]{0,40}") {
            let Ok(path) = normalise(&raw) else { return Ok(()) };
            let first = segments(&path).next().unwrap_or_default();
            for (pattern, target) in [("/*", "/*"), ("/{a}", "/{a}"), ("/{a}/*", "/{a}/*"), ("/{a}/*", "/*")] {
                // A parameter matches no empty segment.
                if first.is_empty() && pattern != "/*" {
                    continue;
                }
                let filled = filled(pattern, None, target, &path);
                prop_assert!(filled.starts_with('/') && !filled.starts_with("//"), "{raw:?} became {filled:?}");
                prop_assert!(!filled.contains('\\'));
            }
            let elsewhere = filled("/*", Some("https://new.example.com"), "/*", &path);
            prop_assert!(elsewhere.starts_with("https://new.example.com/"));
        }
    }
}
