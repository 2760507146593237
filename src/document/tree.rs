//! A YAML (or JSON) text as a tree in which every value knows its place.
//!
//! The file is read by one parser only. The obvious way, serde_yaml for the values and a second parser for
//! the places, reads every file under two dialects and cannot tell a place from a serde error; it was also
//! slower in measurements. The tree is built without recursion and everything that could grow beyond the file
//! (nesting, aliases) has a bound.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::mistake::{Place, Report, quote};

/// Deepest nesting; the deepest that the formats need is about 8.
const DEEPEST: usize = 64;
/// The most values a document may have, counted after aliases are replaced: some 500,000 routes.
const MOST_VALUES: usize = 5_000_000;
/// The most text that aliases may add.
const MOST_ALIASED_TEXT: usize = 16 << 20;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// Set on a value that has been reported as a mistake: decoding goes on as if it were not there.
    pub(super) dropped: Cell<bool>,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Box<str>, Style),
    List(Vec<Node>),
    /// In the order of the file, every key once.
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: Box<str>,
}

/// How a scalar was written, which decides what it may be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes: text, number, boolean or nothing.
    Plain,
    /// In quotes or as a block: text.
    Quoted,
    /// Nothing but a `${reference}`: text, number or boolean, but never nothing.
    Substituted,
}

impl Node {
    pub(super) fn new(place: Place, value: Value) -> Self {
        Self {
            place,
            value,
            dropped: Cell::new(false),
        }
    }

    /// Whether the value was left out: `key:` or `key: null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(text, Style::Plain)
            if matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What the value is, for messages. Never the value itself.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Scalar(..) if self.is_null() => "nothing",
            Value::Scalar(text, Style::Plain) => match text.as_ref() {
                "true" | "false" => "true or false",
                text if text.parse::<f64>().is_ok() => "a number",
                _ => "a string",
            },
            Value::Scalar(..) => "a string",
        }
    }

    /// How many values and bytes of text a copy of this would add.
    fn weight(&self) -> (usize, usize) {
        match &self.value {
            Value::Scalar(text, _) => (1, text.len()),
            Value::List(items) => items.iter().map(Node::weight).fold((1, 0), add),
            Value::Map(entries) => entries
                .iter()
                .map(|(key, node)| add(node.weight(), (0, key.text.len())))
                .fold((1, 0), add),
        }
    }
}

fn add(a: (usize, usize), b: (usize, usize)) -> (usize, usize) {
    (a.0 + b.0, a.1 + b.1)
}

/// Builds the tree. Duplicate keys are reported and the first of them is kept; everything else that is wrong
/// with the text ends the reading, because what follows would be guesswork.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    match Builder::default().build(text, report) {
        Ok(Some(root)) => Some(root),
        Ok(None) => {
            report.error(
                Place::default(),
                "the file is empty; see the annotated examples in conf/",
            );
            None
        }
        Err((place, message)) => {
            report.error(place, message);
            None
        }
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    values: usize,
    aliased_text: usize,
}

/// A list or mapping that has not ended.
struct Open {
    place: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        key: Option<Key>,
    },
}

type Refusal = (Place, String);

impl Builder {
    fn build(mut self, text: &str, report: &mut Report) -> Result<Option<Node>, Refusal> {
        let mut documents = 0;
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| syntax(&error))?;
            match event {
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err((
                            start(span),
                            "a second YAML document begins here; the file has to be one".into(),
                        ));
                    }
                }
                Event::Alias(anchor) => self.alias(anchor, start(span))?,
                Event::Scalar(text, style, anchor, tag) => {
                    no_tag(tag.is_some(), span)?;
                    let style = match style {
                        ScalarStyle::Plain => Style::Plain,
                        _ => Style::Quoted,
                    };
                    let node = Node::new(start(span), Value::Scalar(text.into(), style));
                    self.value(node, anchor)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    no_tag(tag.is_some(), span)?;
                    self.begin(span, anchor, Content::List(Vec::new()))?;
                }
                Event::MappingStart(anchor, tag) => {
                    no_tag(tag.is_some(), span)?;
                    let content = Content::Map {
                        entries: Vec::new(),
                        key: None,
                    };
                    self.begin(span, anchor, content)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(report)?,
            }
        }
        // A file of comments is one document with nothing in it.
        Ok(self.root.filter(|root| !root.is_null()))
    }

    fn begin(&mut self, span: Span, anchor: usize, content: Content) -> Result<(), Refusal> {
        let place = start(span);
        if self.open.len() == DEEPEST {
            return Err((
                place,
                format!("nested more than {DEEPEST} levels deep; nothing in this format is"),
            ));
        }
        if let Some(Open {
            content: Content::Map { key: None, .. },
            ..
        }) = self.open.last()
        {
            return Err((place, "a key has to be a plain text, not a list or a mapping".into()));
        }
        self.open.push(Open { place, anchor, content });
        Ok(())
    }

    fn end(&mut self, report: &mut Report) -> Result<(), Refusal> {
        let Some(Open { place, anchor, content }) = self.open.pop() else {
            return Ok(());
        };
        let value = match content {
            Content::List(items) => Value::List(items),
            Content::Map { entries, .. } => Value::Map(without_duplicates(entries, report)),
        };
        self.value(Node::new(place, value), anchor)
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), Refusal> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err((
                place,
                "this alias refers to something that it is itself a part of".into(),
            ));
        };
        let (values, text) = node.weight();
        self.values += values;
        self.aliased_text += text;
        if self.values > MOST_VALUES || self.aliased_text > MOST_ALIASED_TEXT {
            return Err((place, "the aliases of this file add up to more than can be read".into()));
        }
        let node = node.clone();
        self.value(node, 0)
    }

    fn value(&mut self, node: Node, anchor: usize) -> Result<(), Refusal> {
        self.values += 1;
        if anchor != 0 {
            let (values, text) = node.weight();
            self.values += values;
            self.aliased_text += text;
            self.anchors.insert(anchor, node.clone());
        }
        if self.values > MOST_VALUES || self.aliased_text > MOST_ALIASED_TEXT {
            return Err((node.place, format!("the file has more than {MOST_VALUES} values")));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => match node.value {
                    Value::Scalar(text, _) => {
                        *key = Some(Key {
                            place: node.place,
                            text,
                        });
                    }
                    _ => {
                        return Err((
                            node.place,
                            "a key has to be a plain text, not a list or a mapping".into(),
                        ));
                    }
                },
            },
        }
        Ok(())
    }
}

/// Which of two equal keys counts differs between YAML readers, so neither may be silently taken.
fn without_duplicates(mut entries: Vec<(Key, Node)>, report: &mut Report) -> Vec<(Key, Node)> {
    // Nearly every mapping is small; comparing its keys is cheaper than a hash set for each of them.
    const SMALL: usize = 16;
    let distinct = |(index, (key, _)): (usize, &(Key, Node))| entries[..index].iter().all(|(k, _)| k.text != key.text);
    if entries.len() <= SMALL && entries.iter().enumerate().all(distinct) {
        return entries;
    }
    let mut seen: HashMap<Box<str>, u32> = HashMap::with_capacity(entries.len());
    let mut repeated: HashSet<Place> = HashSet::new();
    for (key, _) in &entries {
        if let Some(line) = seen.get(&key.text) {
            report.error(
                key.place,
                format!("{} is written twice; the first is in line {line}", quote(&key.text)),
            );
            repeated.insert(key.place);
        } else {
            seen.insert(key.text.clone(), key.place.line);
        }
    }
    if !repeated.is_empty() {
        entries.retain(|(key, _)| !repeated.contains(&key.place));
    }
    entries
}

fn no_tag(tagged: bool, span: Span) -> Result<(), Refusal> {
    if tagged {
        return Err((
            start(span),
            "YAML tags such as !x or !!str have no meaning here; remove it".into(),
        ));
    }
    Ok(())
}

fn syntax(error: &ScanError) -> Refusal {
    let message = match error.info() {
        "recursion limit exceeded" => format!("nested more than {DEEPEST} levels deep; nothing in this format is"),
        info if info.contains("tabs disallowed") => "a tab cannot indent YAML; use spaces".to_owned(),
        info if info.contains("unknown anchor") => "this alias refers to no anchor before it".to_owned(),
        info => format!("not valid YAML: {info}"),
    };
    (place(*error.marker()), message)
}

fn start(span: Span) -> Place {
    place(span.start)
}

fn place(marker: Marker) -> Place {
    Place {
        line: u32::try_from(marker.line()).unwrap_or(u32::MAX),
        column: u32::try_from(marker.col() + 1).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mistake::Source;
    use super::*;

    fn refusal(text: &str) -> String {
        let mut report = Report::new(Source::new("f"));
        parse(text, &mut report);
        report.finish().unwrap_err().to_string()
    }

    fn read(text: &str) -> Node {
        let mut report = Report::new(Source::new("f"));
        let node = parse(text, &mut report).unwrap();
        report.finish().unwrap();
        node
    }

    #[test]
    fn every_value_knows_where_it_stands() {
        let Value::Map(entries) = read("# note\na:\n  - x: é\n    y: [1, 2]\n").value else {
            panic!("a mapping")
        };
        let Value::List(items) = &entries[0].1.value else {
            panic!("a list")
        };
        assert_eq!(entries[0].0.place, Place { line: 2, column: 1 });
        assert_eq!(items[0].place, Place { line: 3, column: 5 });
        let Value::Map(inner) = &items[0].value else {
            panic!("a mapping")
        };
        assert_eq!(inner[1].1.place, Place { line: 4, column: 8 });
    }

    #[test]
    fn broken_files_are_refused_with_the_place_and_a_reason() {
        for (text, expected) in [
            ("", "f: the file is empty"),
            ("# only a comment\n", "f: the file is empty"),
            ("a: [1, 2\nb: 3\n", "f:2:2: not valid YAML"),
            ("a:\n\tb: 1\n", "f:2:2: a tab cannot indent YAML"),
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3:1: \"a\" is written twice; the first is in line 1",
            ),
            ("a: 1\n---\nb: 2\n", "f:2:1: a second YAML document"),
            ("a: *b\n", "f:1:4: this alias refers to no anchor"),
            (
                "a: &b [*b]\n",
                "f:1:8: this alias refers to something that it is itself",
            ),
            ("a: !x 1\n", "f:1:4: YAML tags"),
            ("[a]: 1\n", "f:1:1: a key has to be"),
            ("a: \"\0\"\n", "f:1:4: not valid YAML"),
        ] {
            let found = refusal(text);
            assert!(found.starts_with(expected), "{text:?} gave {found}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused_without_a_deep_stack() {
        for text in ["[", "- ", "? ", "{a: ", "a:\n "] {
            let found = refusal(&text.repeat(10_000));
            assert!(found.starts_with("f:"), "{text:?} gave {found}");
        }
        assert!(refusal(&"- ".repeat(10_000)).contains("levels deep"));
    }

    #[test]
    fn an_alias_stands_for_its_anchor() {
        let Value::Map(entries) = read("a: &x [1, 2]\nb: *x\n").value else {
            panic!("a mapping")
        };
        assert!(matches!(&entries[1].1.value, Value::List(items) if items.len() == 2));
    }

    #[test]
    fn an_alias_bomb_is_refused_before_it_goes_off() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..20 {
            let below = level - 1;
            let references = vec![format!("*a{below}"); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{references}]\n");
        }
        let found = refusal(&bomb);
        assert!(
            found.contains("aliases of this file") || found.contains("more than"),
            "{found}"
        );

        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(1000));
        assert!(refusal(&long).contains("aliases of this file"));
    }
}
