//! Objects that belong to this gateway: beside a control plane, the revision file holds them. They win over published
//! ones of the same name, and names of the skip list are not taken from the control plane at all.

use std::path::Path;

use serde_json::Value;

use crate::config::SkipList;
use crate::distribution::{Content, Kind};
use crate::document::{self, Environment, Mistakes, Place, Severity, Source};
use crate::revision;

/// What a document may hold beside its lists.
const OTHER_KEYS: [&str; 1] = ["version"];

/// The objects of a file. References are replaced by what this process has; whether they fit together is found out with
/// the published ones, to which they may refer.
///
/// # Errors
/// When it is no revision file.
pub fn read(path: &Path, environment: &Environment) -> Result<Content, Mistakes> {
    let name = path.display().to_string();
    let refuse = |message: String| {
        let mistake = Source::new(&name).mistake(Place::default(), Severity::Error, message);
        Mistakes::new(vec![mistake])
    };
    let document = revision::plain(&document::read(path)?, &name, environment)?;
    let content = Content::of_document(&document).map_err(|error| refuse(error.to_string()))?;
    let keys = document.as_object().into_iter().flatten();
    let mut items = 0;
    for (key, value) in keys {
        if Kind::ALL.iter().any(|kind| kind.list() == key) {
            items += value.as_array().map_or(0, Vec::len);
        } else if !OTHER_KEYS.contains(&key.as_str()) {
            let known = Kind::ALL.map(Kind::list);
            return Err(refuse(format!(
                "unknown key \"{key}\"{}",
                document::did_you_mean(key, known)
            )));
        }
    }
    if document.get("version") != Some(&Value::from(1)) {
        return Err(refuse("there is no \"version\"; write version: 1".to_owned()));
    }
    if items != content.len() {
        return Err(refuse("two objects of a kind have the same name".to_owned()));
    }
    Ok(content)
}

/// What is published, without what is skipped, and with what is local.
#[must_use]
pub fn merged(published: &Content, local: Option<&Content>, skipped: &SkipList) -> Content {
    let mut content = published.clone();
    for (kind, name) in skipped.iter() {
        content.remove(kind, name);
    }
    for (kind, name, value) in local.into_iter().flat_map(Content::iter) {
        // It came out of a value.
        if let Ok(value) = serde_json::from_str(value) {
            content.insert(kind, name, &value);
        }
    }
    content
}

/// Local objects by kind and name, for people: `api/orders`.
#[must_use]
pub fn names(local: &Content) -> Vec<String> {
    local
        .iter()
        .map(|(kind, name, _)| format!("{}/{name}", kind.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn local(text: &str) -> Result<Content, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("local.yaml");
        std::fs::write(&path, text).unwrap();
        let environment = Environment::fixed([("PORT", "81")], Timestamp::UNIX_EPOCH);
        read(&path, &environment).map_err(|mistakes| mistakes.to_string())
    }

    fn published(document: &Value) -> Content {
        Content::of_document(document).unwrap()
    }

    #[test]
    fn local_objects_win_and_skipped_names_are_not_taken() {
        let remote = published(&json!({
            "upstreams": [{ "name": "a", "at": "remote" }, { "name": "b", "at": "remote" }],
            "plans": [{ "name": "a", "at": "remote" }, { "name": "gold", "at": "remote" }],
        }));
        let own = local("version: 1\nupstreams: [{ name: a, at: \"${PORT}\" }]\n").unwrap();
        assert_eq!(names(&own), ["upstream/a"]);
        let mut skipped = SkipList::default();
        skipped.insert(Kind::Plan, "gold".into());
        skipped.insert(Kind::Upstream, "a".into());
        let found = merged(&remote, Some(&own), &skipped);
        let expected = published(&json!({
            "upstreams": [{ "name": "a", "at": "81" }, { "name": "b", "at": "remote" }],
            "plans": [{ "name": "a", "at": "remote" }],
        }));
        let normal = |content: &Content| content.to_document().replace("\"81\"", "81");
        assert_eq!(normal(&found), normal(&expected));
    }

    #[test]
    fn a_file_that_is_not_a_revision_is_refused() {
        for (text, reason) in [
            (
                "version: 1\napiss: []\n",
                "unknown key \"apiss\"; did you mean \"apis\"?",
            ),
            ("apis: []\n", "write version: 1"),
            ("version: 1\nplans: [{ name: a }, { name: a }]\n", "have the same name"),
            ("version: 1\nplans: [{ limits: [] }]\n", "has no name"),
            ("version: 1\nplans: {}\n", "\"plans\" is not a list"),
        ] {
            let found = local(text).unwrap_err();
            assert!(found.contains(reason), "{found}");
        }
    }
}
