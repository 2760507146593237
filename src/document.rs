//! Reading a configuration file so that every mistake in it is reported at once, with its place.
//!
//! A file goes through four steps. `Document::parse` turns the text into a tree in which every value knows
//! its line and column, and replaces `${references}`. `Document::decode` makes the raw types of a format out of
//! it; what does not fit is reported, left out, and decoding goes on. The format's own checks report what the
//! types cannot say. `Document::finish` gives the warnings or all the mistakes.
//!
//! Nothing here panics, whatever the file holds, and what it can cost is bounded: 64 MiB of text, 64 levels,
//! 5 million values including those that aliases bring in.

mod at;
mod decode;
mod mistake;
mod reference;
pub(crate) mod schema;
mod secret;
mod suggest;
mod text;
mod tree;

use std::path::Path;

use serde::de::DeserializeOwned;

pub(crate) use at::{At, NotAvailable};
pub(crate) use decode::Dropped;
pub use mistake::{Mistake, Mistakes, Place, Severity, Source};
pub(crate) use mistake::{Report, quote};
pub use reference::Environment;
pub(crate) use reference::is_credential;
pub use secret::Secret;
pub(crate) use suggest::did_you_mean;
pub(crate) use text::{Grammar, Name, Size, Text};

/// The longest file that is read. 100,000 routes are about 6 MiB.
const LONGEST: u64 = 64 << 20;

/// Reads the text of a configuration file.
///
/// # Errors
/// When it is not a readable file of UTF-8 text of at most 64 MiB.
pub fn read(path: &Path) -> Result<String, Mistakes> {
    let source = Source::new(&path.display().to_string());
    let refuse = |place, message: String| Mistakes::new(vec![source.mistake(place, Severity::Error, message)]);
    let bytes = reference::read_regular(path, LONGEST).map_err(|message| refuse(Place::default(), message))?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let good = error.as_bytes().get(..good).unwrap_or_default();
        let line_start = good.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = String::from_utf8_lossy(good.get(line_start..).unwrap_or_default())
            .chars()
            .count()
            + 1;
        let place = Place {
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        };
        refuse(
            place,
            "this byte is not UTF-8; the file has to be UTF-8 text".to_owned(),
        )
    })
}

/// A file that has been parsed, and what has been found wrong with it.
pub(crate) struct Document {
    root: tree::Node,
    pub(crate) report: Report,
}

impl Document {
    /// Parses YAML (or JSON, which is YAML) and replaces the references in it.
    ///
    /// # Errors
    /// When the text is not one YAML document within the bounds.
    pub(crate) fn parse(text: &str, name: &str, environment: &Environment) -> Result<Self, Mistakes> {
        let mut report = Report::new(Source::new(name));
        if text.len() as u64 > LONGEST {
            report.error(Place::default(), "the file is longer than 64 MiB");
            return Err(report.into_mistakes());
        }
        match tree::parse(text, &mut report) {
            Some(mut root) => {
                reference::replace_all(&mut root, environment, &mut report);
                Ok(Self { root, report })
            }
            None => Err(report.into_mistakes()),
        }
    }

    /// Where the outermost mapping begins.
    pub(crate) fn place(&self) -> Place {
        self.root.place
    }

    /// Makes `T` of the document. Mistakes go to the report; `None` when nothing could be made of it.
    pub(crate) fn decode<T: DeserializeOwned>(&mut self) -> (Option<T>, Dropped) {
        decode::decode(&self.root, &mut self.report)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment() -> Environment {
        Environment::fixed([("A", "1")], jiff::Timestamp::UNIX_EPOCH)
    }

    /// Places are worth a reader of our own only if it reads what every other YAML reader reads.
    #[test]
    fn the_shipped_files_mean_the_same_to_serde_yaml() {
        for text in [
            include_str!("../conf/tollgate.yaml"),
            include_str!("../conf/revision.yaml"),
        ] {
            let mut document = Document::parse(text, "conf", &environment()).unwrap();
            let (ours, _) = document.decode::<serde_json::Value>();
            let theirs: serde_json::Value = serde_yaml::from_str(text).unwrap();
            assert_eq!(ours, Some(theirs));
        }
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..5).prop_map(Value::from),
                prop::collection::btree_map("[a-z ]{1,8}", inner, 1..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_yaml_writes_is_read_as_it_was_meant(value in value()) {
            let text = serde_yaml::to_string(&value).unwrap().replace('$', "$$");
            let mut document = Document::parse(&text, "written", &environment()).unwrap();
            prop_assert_eq!(document.decode::<serde_json::Value>().0, Some(value));
        }
    }

    #[test]
    fn what_is_not_a_readable_text_file_is_refused_with_a_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.yaml");
        let refusal = || read(&path).unwrap_err().to_string();
        assert!(refusal().ends_with("x.yaml: there is no such file"));
        std::fs::write(&path, b"a: 1\nb: \xc3\xa9\xff\n").unwrap();
        assert!(
            refusal().contains("x.yaml:2:5: this byte is not UTF-8"),
            "{}",
            refusal()
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(refusal().ends_with("this is a directory, not a file"));
        let file = std::fs::File::create(directory.path().join("long")).unwrap();
        file.set_len(LONGEST + 1).unwrap();
        let found = read(&directory.path().join("long")).unwrap_err().to_string();
        assert!(found.ends_with("the file is longer than 65536 KiB"), "{found}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = Document::parse(&text, "f", &environment());
        }

        #[test]
        fn no_jumble_of_yaml_makes_the_decoder_panic(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "a", "apis", ":", ": ", "- ", "\n", "\n  ", "[", "]", "{", "}", "&x ", "*x", "!t ", "\"", "'",
                "${A}", "${", "|\n", ">", "#", "\t", "? ", ",", "1", "~", "---\n", "\u{feff}", "%", "\\u00",
            ]), 0..60)
        ) {
            if let Ok(mut document) = Document::parse(&pieces.concat(), "f", &environment()) {
                let _ = document.decode::<serde_json::Value>();
                let _ = document.decode::<std::collections::BTreeMap<String, At<String>>>();
            }
        }
    }
}
