//! Changes of header fields.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::revision;

/// Changes of header fields, made in this order: remove, set, add.
#[derive(Debug, Default)]
pub struct FieldEdits {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

impl FieldEdits {
    /// Compiles them.
    #[must_use]
    pub fn compile(edits: &revision::FieldEdits) -> Self {
        Self {
            remove: edits.remove.clone().into(),
            set: edits.set.clone().into(),
            add: edits.add.clone().into(),
        }
    }

    /// Makes them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }

    /// What is done to which field, in words; without the values, which may be credentials.
    pub fn told(&self) -> impl Iterator<Item = String> {
        let told = |verb: &'static str| move |name: &HeaderName| format!("{verb} {name}");
        let removed = self.remove.iter().map(told("removes"));
        let set = self.set.iter().map(|(name, _)| name).map(told("sets"));
        let added = self.add.iter().map(|(name, _)| name).map(told("adds"));
        removed.chain(set).chain(added)
    }
}

#[cfg(test)]
mod tests {
    use http::header::{CACHE_CONTROL, SERVER, VIA};

    use super::*;

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (SERVER, "x"),
            (VIA, "1"),
            (CACHE_CONTROL, "private"),
            (CACHE_CONTROL, "max-age=1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let edits = FieldEdits::compile(&revision::FieldEdits {
            remove: vec![SERVER, VIA],
            set: vec![(CACHE_CONTROL, HeaderValue::from_static("no-store"))],
            add: vec![
                (VIA, HeaderValue::from_static("2")),
                (CACHE_CONTROL, HeaderValue::from_static("no-transform")),
            ],
        });
        edits.apply(&mut headers);
        assert!(!headers.contains_key(SERVER));
        assert!(headers.get_all(VIA).iter().eq(["2"]));
        assert!(headers.get_all(CACHE_CONTROL).iter().eq(["no-store", "no-transform"]));
        let told: Vec<String> = edits.told().collect();
        assert_eq!(
            told,
            [
                "removes server",
                "removes via",
                "sets cache-control",
                "adds via",
                "adds cache-control"
            ]
        );
    }
}
