//! What is wrong with a file, and where.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

/// The most mistakes that are kept; a file with more is not read to the end by anybody.
const MOST: usize = 1000;
/// The longest message in characters.
const LONGEST_MESSAGE: usize = 1000;

/// A position in a file; lines and columns count from 1, columns in characters.
///
/// The default, line 0, stands for the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// Line, from 1; 0 when the mistake is about the whole file.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// Whether a file can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted; somebody should look at it.
    Warning,
}

/// One thing that is wrong, in words for the author of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The file as the user named it.
    #[serde(rename = "file")]
    pub path: String,
    /// Line, from 1; 0 when the mistake is about the whole file.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// What is wrong and what was expected; never a secret.
    pub message: String,
}

impl fmt::Display for Mistake {
    /// `conf/revision.yaml:14:9: message`, the form that editors and terminals turn into a link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let note = match self.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        write!(f, ": {note}{}", self.message)
    }
}

/// Everything that is wrong with a file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Puts mistakes into the order of their places.
    #[must_use]
    pub fn new(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by(|a, b| (&a.path, a.line, a.column).cmp(&(&b.path, b.line, b.column)));
        mistakes.dedup();
        Self(mistakes)
    }

    /// Adds mistakes that were found later, and keeps the order.
    pub fn extend(&mut self, more: impl IntoIterator<Item = Mistake>) {
        let mut all = std::mem::take(&mut self.0);
        all.extend(more);
        *self = Self::new(all);
    }

    /// Whether the file has to be refused.
    #[must_use]
    pub fn refuse(&self) -> bool {
        self.0.iter().any(|mistake| mistake.severity == Severity::Error)
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Mistake> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Mistakes {
    /// One per line, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The file that mistakes are about: its name, and what must not be repeated in a message.
#[derive(Clone, Default)]
pub struct Source {
    name: String,
    /// What was read from files, and the reference to show in its stead.
    secrets: Vec<(String, String)>,
    /// Where it went. A message about such a value may show a part of it, or its lower case.
    secret_places: HashMap<Place, String>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// A file by the name that its author knows.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// A mistake at a place of this file. Secrets that the file refers to are taken out of the message, which
    /// becomes one line of bounded length.
    #[must_use]
    pub fn mistake(&self, place: Place, severity: Severity, message: impl Into<String>) -> Mistake {
        let mut message = message.into();
        if let Some(reference) = self.secret_places.get(&place) {
            message = format!("what {reference} holds does not fit here");
        }
        for (secret, reference) in &self.secrets {
            if message.contains(secret.as_str()) {
                message = message.replace(secret.as_str(), reference);
            }
        }
        self.as_it_is(place, severity, &message)
    }

    fn as_it_is(&self, place: Place, severity: Severity, message: &str) -> Mistake {
        Mistake {
            path: self.name.clone(),
            line: place.line,
            column: place.column,
            severity,
            message: one_line(message),
        }
    }

    /// Remembers a text that no message may show, and the place of the value that it went into. `reference` is
    /// shown in its stead.
    pub(super) fn hide(&mut self, secret: &str, reference: &str, place: Place) {
        self.secret_places.insert(place, reference.to_owned());
        for form in [secret.to_owned(), escaped(secret).into_owned()] {
            if !form.is_empty() && !self.secrets.iter().any(|(known, _)| *known == form) {
                self.secrets.push((form, reference.to_owned()));
            }
        }
        // The longest first, so that a secret that contains another one goes as a whole.
        self.secrets.sort_by_key(|(secret, _)| std::cmp::Reverse(secret.len()));
    }
}

/// A source and what has been found wrong with it so far.
#[derive(Debug)]
pub(crate) struct Report {
    source: Source,
    found: Vec<Mistake>,
    failed: bool,
}

impl Report {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            found: Vec::new(),
            failed: false,
        }
    }

    /// Something that makes the file unusable.
    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>) {
        self.failed = true;
        self.add(self.source.mistake(place, Severity::Error, message));
    }

    /// The same about a value that may be a secret, in words that show nothing of it. `error` cannot know that they
    /// do not, and says only that the secret does not fit.
    pub(crate) fn discreet_error(&mut self, place: Place, message: &str) {
        self.failed = true;
        self.add(self.source.as_it_is(place, Severity::Error, message));
    }

    /// Something that somebody should look at.
    pub(crate) fn warning(&mut self, place: Place, message: impl Into<String>) {
        self.add(self.source.mistake(place, Severity::Warning, message));
    }

    /// The same about a value that may be a secret, in words that show nothing of it.
    pub(crate) fn discreet_warning(&mut self, place: Place, message: &str) {
        self.add(self.source.as_it_is(place, Severity::Warning, message));
    }

    pub(super) fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }

    /// Whether what is found from now on is not shown.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MOST
    }

    /// The warnings if the file can be used.
    ///
    /// # Errors
    /// Everything that was found, if one of it is an error.
    pub(crate) fn finish(self) -> Result<(Source, Mistakes), Mistakes> {
        let mistakes = Mistakes::new(self.found);
        if self.failed {
            Err(mistakes)
        } else {
            Ok((self.source, mistakes))
        }
    }

    /// All that was found, when reading has come to its end.
    pub(super) fn into_mistakes(self) -> Mistakes {
        Mistakes::new(self.found)
    }

    fn add(&mut self, mistake: Mistake) {
        if self.found.len() < MOST {
            self.found.push(mistake);
        } else if self.found.len() == MOST {
            let message = format!("more than {MOST} mistakes; the others are not shown");
            self.found
                .push(self.source.mistake(Place::default(), Severity::Error, message));
        }
    }
}

/// A user's text in quotes for a message. It is not cut here, because a part of a secret is not recognised as one.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Control characters would break the line or speak to the terminal.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// A message as it is shown.
fn one_line(message: &str) -> String {
    let mut line = escaped(message).into_owned();
    if let Some((end, _)) = line.char_indices().nth(LONGEST_MESSAGE) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_read_like_compiler_messages_in_the_order_of_the_file() {
        let source = Source::new("conf/a.yaml");
        let mistakes = Mistakes::new(vec![
            source.mistake(Place { line: 14, column: 9 }, Severity::Error, "second"),
            source.mistake(Place { line: 9, column: 30 }, Severity::Warning, "first"),
            source.mistake(Place::default(), Severity::Error, "about the file"),
        ]);
        assert_eq!(
            mistakes.to_string(),
            "conf/a.yaml: about the file\nconf/a.yaml:9:30: warning: first\nconf/a.yaml:14:9: second"
        );
        assert!(mistakes.refuse());
        assert_eq!(
            serde_json::to_value(&mistakes).unwrap()[1],
            serde_json::json!({"file": "conf/a.yaml", "line": 9, "column": 30, "severity": "warning", "message": "first"})
        );
    }

    #[test]
    fn only_warnings_do_not_refuse_a_file() {
        let mut report = Report::new(Source::new("a"));
        report.warning(Place::default(), "hm");
        assert_eq!(report.finish().unwrap().1.len(), 1);
        let mut report = Report::new(Source::new("a"));
        report.warning(Place::default(), "hm");
        report.error(Place::default(), "no");
        assert_eq!(report.finish().unwrap_err().len(), 2);
    }

    #[test]
    fn a_hidden_text_is_replaced_by_its_reference_even_when_it_was_escaped() {
        let mut source = Source::new("a");
        source.hide("se\ncret", "${file:/x}", Place { line: 7, column: 7 });
        for shown in ["se\ncret", &quote("se\ncret")] {
            let message = source.mistake(Place::default(), Severity::Error, shown).message;
            assert!(message.contains("${file:/x}") && !message.contains("cret"), "{message}");
        }
    }

    #[test]
    fn the_number_of_mistakes_is_bounded_and_says_so() {
        let mut report = Report::new(Source::new("a"));
        for line in 1..5000 {
            report.error(Place { line, column: 1 }, "no");
        }
        let mistakes = report.finish().unwrap_err();
        assert_eq!(mistakes.len(), MOST + 1);
        assert!(mistakes.to_string().starts_with("a: more than 1000 mistakes"));
    }
}
