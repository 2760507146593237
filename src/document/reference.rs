//! `${ENV}`, `${ENV:-default}`, `${file:/path}` and `${cred:name}` in the values of a file.
//!
//! They are replaced in the tree, before types are checked and never in the text: what a variable holds can
//! then become the value it stands in, but not a new key or a new list item.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use jiff::Timestamp;

use super::mistake::{Place, Report, quote};
use super::tree::{Node, Style, Value};

/// The longest file that a reference may bring in; a token or a key is a few KiB.
const LONGEST_SECRET: u64 = 1 << 20;
/// The most text that all references of a file may bring in.
const MOST_TEXT: usize = 64 << 20;
/// Where systemd puts the credentials of a unit (`LoadCredential=`).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What a file is read against: the process around it, taken once, so that reading is the same every time.
#[derive(Clone)]
pub struct Environment {
    variables: Variables,
    /// When keys are compared with their expiry.
    pub now: Timestamp,
    /// How many threads this process may use at once.
    pub cores: usize,
    /// Something that tells this machine from others, if there is such a thing.
    pub machine: Option<String>,
}

#[derive(Clone)]
enum Variables {
    Process,
    Fixed(BTreeMap<String, String>),
    Refused,
    /// See [`Environment::for_publishing`].
    Publishing,
    /// See [`Environment::of_published`].
    Published,
}

impl fmt::Debug for Environment {
    /// Variables often hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("now", &self.now)
            .field("cores", &self.cores)
            .finish_non_exhaustive()
    }
}

impl Environment {
    /// The environment of this process, now.
    #[must_use]
    pub fn of_process() -> Self {
        let read = |path: &str| {
            let text = fs::read_to_string(path).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        Self {
            variables: Variables::Process,
            now: Timestamp::now(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            machine: read("/etc/machine-id").or_else(|| read("/proc/sys/kernel/hostname")),
        }
    }

    /// An environment with these variables and nothing else.
    #[must_use]
    pub fn fixed<const N: usize>(variables: [(&str, &str); N], now: Timestamp) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            variables: Variables::Fixed(variables.into_iter().map(owned).collect()),
            now,
            cores: 1,
            machine: None,
        }
    }

    /// The same, but every reference is a mistake: for documents that did not come from this machine and
    /// must not read its files.
    #[must_use]
    pub fn without_references(self) -> Self {
        Self {
            variables: Variables::Refused,
            ..self
        }
    }

    /// The same, for a document that is going to be published to gateways: only a value that is nothing but
    /// `${cred:name}` may be a reference, and it stays one, because it is the gateways' credential and not ours.
    #[must_use]
    pub fn for_publishing(self) -> Self {
        Self {
            variables: Variables::Publishing,
            ..self
        }
    }

    /// The same, for a document that has been published: a value that is nothing but `${cred:name}` is this host's
    /// credential, everything else stands for itself. Who publishes can not read this host's files and variables.
    #[must_use]
    pub fn of_published(self) -> Self {
        Self {
            variables: Variables::Published,
            ..self
        }
    }

    /// Whether files that the document names are on other hosts than this one.
    #[must_use]
    pub fn is_for_publishing(&self) -> bool {
        matches!(self.variables, Variables::Publishing)
    }

    /// The directory that systemd made for what this service needs while it runs (`RuntimeDirectory=`); the first, if there
    /// are several.
    #[must_use]
    pub fn runtime_directory(&self) -> Option<PathBuf> {
        let directories = self.variable("RUNTIME_DIRECTORY")?;
        let first = directories.split(':').next().filter(|first| !first.is_empty())?;
        Some(PathBuf::from(first))
    }

    fn variable(&self, name: &str) -> Option<String> {
        match &self.variables {
            Variables::Process | Variables::Published => env::var(name).ok(),
            Variables::Fixed(variables) => variables.get(name).cloned(),
            Variables::Refused | Variables::Publishing => None,
        }
    }
}

/// Replaces all references in the tree and reports those that lead nowhere.
pub(super) fn replace_all(root: &mut Node, environment: &Environment, report: &mut Report) {
    let mut replacer = Replacer {
        environment,
        report,
        files: HashMap::new(),
        budget: MOST_TEXT,
    };
    replacer.node(root);
}

struct Replacer<'a> {
    environment: &'a Environment,
    report: &'a mut Report,
    /// Read once, however often they are referred to.
    files: HashMap<PathBuf, Result<String, String>>,
    budget: usize,
}

impl Replacer<'_> {
    fn node(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::List(items) => items.iter_mut().for_each(|item| self.node(item)),
            Value::Map(entries) => entries.iter_mut().for_each(|(_, node)| self.node(node)),
            Value::Scalar(text, _) if self.stands_for_itself(text) => {}
            Value::Scalar(text, style) if text.contains('$') => match self.replaced(text, node.place) {
                Ok((replaced, whole)) => {
                    *text = replaced.into();
                    *style = if whole { Style::Substituted } else { Style::Quoted };
                }
                Err(message) => {
                    self.report.error(node.place, message);
                    // So that nothing else is said about a value that is not known. An empty text in its place
                    // would be reported again by whoever expected a number.
                    node.dropped.set(true);
                }
            },
            Value::Scalar(..) => {}
        }
    }

    /// Whether nothing in this text is replaced here, although there may be a dollar in it.
    fn stands_for_itself(&self, text: &str) -> bool {
        match self.environment.variables {
            Variables::Publishing => is_credential(text),
            Variables::Published => !is_credential(text),
            Variables::Process | Variables::Fixed(_) | Variables::Refused => false,
        }
    }

    /// The text with its references replaced, and whether it consisted of nothing but one reference.
    fn replaced(&mut self, text: &str, place: Place) -> Result<(String, bool), String> {
        let mut replaced = String::with_capacity(text.len());
        let mut rest = text;
        let mut whole = false;
        while let Some(at) = rest.find('$') {
            let (before, after) = rest.split_at(at);
            replaced.push_str(before);
            if let Some(after) = after.strip_prefix("$$") {
                replaced.push('$');
                rest = after;
            } else if let Some(inside) = after.strip_prefix("${") {
                let Some((reference, after)) = inside.split_once('}') else {
                    return Err("\"${\" without \"}\"; write $${ for the characters themselves".to_owned());
                };
                let value = self.resolve(reference, place)?;
                self.budget = self
                    .budget
                    .checked_sub(value.len())
                    .ok_or("the references of this file bring in more than 64 MiB")?;
                whole = reference.len() + 3 == text.len();
                replaced.push_str(&value);
                rest = after;
            } else {
                replaced.push('$');
                rest = after.get(1..).unwrap_or_default();
            }
        }
        replaced.push_str(rest);
        if self.environment.is_for_publishing() && is_credential(&replaced) {
            return Err(format!("{} would be a reference once it is published", quote(text)));
        }
        Ok((replaced, whole))
    }

    fn resolve(&mut self, reference: &str, place: Place) -> Result<String, String> {
        let shown = format!("${{{reference}}}");
        if self.environment.is_for_publishing() {
            return Err(format!(
                "{} would be looked up on the gateways; of references, only ${{cred:name}} can be published, as the whole \
                 value",
                quote(&shown)
            ));
        }
        if matches!(self.environment.variables, Variables::Refused) {
            return Err(format!("{} cannot be used in a document from elsewhere", quote(&shown)));
        }
        if let Some(path) = reference.strip_prefix("file:") {
            let path = Path::new(path);
            if !path.is_absolute() {
                return Err(format!(
                    "{} needs an absolute path, as in ${{file:/etc/x}}",
                    quote(&shown)
                ));
            }
            return self.secret(path, &shown, place);
        }
        if let Some(name) = reference.strip_prefix("cred:") {
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(format!(
                    "{} is not the name of a credential, as in ${{cred:admin-token}}",
                    quote(&shown)
                ));
            }
            let Some(directory) = self.environment.variable(CREDENTIALS) else {
                return Err(format!(
                    "{} needs ${CREDENTIALS}, which systemd sets for units with LoadCredential=",
                    quote(&shown)
                ));
            };
            return self.secret(&Path::new(&directory).join(name), &shown, place);
        }
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !well_formed {
            return Err(format!(
                "{} is no reference; there are ${{ENV}}, ${{ENV:-default}}, ${{file:/path}} and ${{cred:name}}, \
                 and $${{ for the characters themselves",
                quote(&shown)
            ));
        }
        match (
            self.environment.variable(name).filter(|value| !value.is_empty()),
            default,
        ) {
            (Some(value), _) => Ok(value),
            (None, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(format!(
                "the environment variable {name} is not set; set it or write ${{{name}:-default}}"
            )),
        }
    }

    fn secret(&mut self, path: &Path, shown: &str, place: Place) -> Result<String, String> {
        let read = self.files.entry(path.to_owned()).or_insert_with(|| read_secret(path));
        match read {
            Ok(secret) => {
                self.report.source_mut().hide(secret, shown, place);
                Ok(secret.clone())
            }
            Err(message) => Err(format!("{}: {message}", quote(shown))),
        }
    }
}

/// Whether a text is nothing but a reference to a credential.
pub(crate) fn is_credential(text: &str) -> bool {
    let name = text.strip_prefix("${cred:").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '}', '$']))
}

/// The text of a file without the newline that editors put at its end.
fn read_secret(path: &Path) -> Result<String, String> {
    let bytes = read_regular(path, LONGEST_SECRET)?;
    let mut text = String::from_utf8(bytes).map_err(|_| "the file is not UTF-8 text".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err("the file is empty".to_owned());
    }
    Ok(text)
}

/// Reads a file that has to be a file: opening a pipe would wait for its writer, and a device has no end.
pub(super) fn read_regular(path: &Path, longest: u64) -> Result<Vec<u8>, String> {
    let kind = fs::metadata(path).map_err(|error| why(&error))?;
    if kind.is_dir() {
        return Err("this is a directory, not a file".to_owned());
    }
    if !kind.is_file() {
        return Err("this is not a regular file".to_owned());
    }
    let file = fs::File::open(path).map_err(|error| why(&error))?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that fits exactly from one that goes on.
    file.take(longest + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| why(&error))?;
    if bytes.len() as u64 > longest {
        return Err(format!("the file is longer than {} KiB", longest >> 10));
    }
    Ok(bytes)
}

fn why(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "this process may not read the file".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mistake::Source;
    use super::super::tree;
    use super::*;

    fn environment() -> Environment {
        Environment::fixed(
            [("HOST", "db.local"), ("PORT", "8080"), ("EMPTY", "")],
            Timestamp::UNIX_EPOCH,
        )
    }

    fn value_of(text: &str, environment: &Environment) -> Result<(String, Style), String> {
        let mut report = Report::new(Source::new("f"));
        let mut root = tree::parse(&format!("a: '{text}'\n"), &mut report).unwrap();
        replace_all(&mut root, environment, &mut report);
        report.finish().map_err(|mistakes| mistakes.to_string())?;
        let Value::Map(entries) = root.value else {
            panic!("a mapping")
        };
        let Value::Scalar(text, style) = &entries[0].1.value else {
            panic!("a scalar")
        };
        Ok((text.to_string(), *style))
    }

    #[test]
    fn variables_and_their_defaults_are_filled_in() {
        for (text, expected) in [
            ("${HOST}", "db.local"),
            ("http://${HOST}:${PORT}/", "http://db.local:8080/"),
            ("${NONE:-fallback}", "fallback"),
            ("${EMPTY:-fallback}", "fallback"),
            ("${NONE:-}", ""),
            ("$${HOST} costs $5 $$", "${HOST} costs $5 $"),
            ("$", "$"),
            ("é$é", "é$é"),
        ] {
            assert_eq!(value_of(text, &environment()).unwrap().0, expected, "{text}");
        }
    }

    #[test]
    fn only_a_value_that_is_nothing_but_a_reference_may_become_a_number() {
        assert_eq!(value_of("${PORT}", &environment()).unwrap().1, Style::Substituted);
        assert_eq!(value_of("${PORT}0", &environment()).unwrap().1, Style::Quoted);
        assert_eq!(value_of("$${PORT}", &environment()).unwrap().1, Style::Quoted);
        assert_eq!(value_of("${HOST}${PORT}", &environment()).unwrap().1, Style::Quoted);
    }

    #[test]
    fn of_references_only_credentials_are_published_and_only_gateways_read_them() {
        let publishing = environment().for_publishing();
        for (text, expected) in [("${cred:x}", "${cred:x}"), ("$$5", "$5"), ("costs $5", "costs $5")] {
            assert_eq!(value_of(text, &publishing).unwrap().0, expected);
        }
        for text in [
            "${HOST}",
            "${file:/etc/passwd}",
            "a ${cred:x}",
            "${cred:../x}",
            "$${cred:x}",
        ] {
            value_of(text, &publishing).unwrap_err();
        }
        let published = environment().of_published();
        for text in ["${HOST}", "${file:/etc/passwd}", "$$5", "a ${cred:x}", "${cred:../x}"] {
            assert_eq!(value_of(text, &published).unwrap().0, text, "stands for itself");
        }
        assert!(
            value_of("${cred:x}", &published)
                .unwrap_err()
                .contains("CREDENTIALS_DIRECTORY")
        );
    }

    #[test]
    fn references_that_lead_nowhere_are_mistakes_at_their_place() {
        for (text, expected) in [
            ("${NONE}", "f:1:4: the environment variable NONE is not set"),
            ("${EMPTY}", "f:1:4: the environment variable EMPTY is not set"),
            ("${HOST", "f:1:4: \"${\" without \"}\""),
            ("${vault:x}", "f:1:4: \"${vault:x}\" is no reference"),
            ("${}", "f:1:4: \"${}\" is no reference"),
            ("${file:token}", "f:1:4: \"${file:token}\" needs an absolute path"),
            (
                "${file:/nowhere/x}",
                "f:1:4: \"${file:/nowhere/x}\": there is no such file",
            ),
            ("${file:/}", "f:1:4: \"${file:/}\": this is a directory"),
            (
                "${file:/dev/zero}",
                "f:1:4: \"${file:/dev/zero}\": this is not a regular file",
            ),
            ("${cred:x}", "f:1:4: \"${cred:x}\" needs $CREDENTIALS_DIRECTORY"),
            (
                "${cred:../x}",
                "f:1:4: \"${cred:../x}\" is not the name of a credential",
            ),
        ] {
            let found = value_of(text, &environment()).unwrap_err();
            assert!(found.starts_with(expected), "{text} gave {found}");
        }
    }

    #[test]
    fn files_and_credentials_are_read_without_their_last_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "s3cret\n").unwrap();
        let directory = directory.path().to_str().unwrap();
        let environment = Environment::fixed([(CREDENTIALS, directory)], Timestamp::UNIX_EPOCH);
        let file = format!("${{file:{directory}/token}}");
        assert_eq!(value_of(&file, &environment).unwrap().0, "s3cret");
        assert_eq!(
            value_of("Bearer ${cred:token}", &environment).unwrap().0,
            "Bearer s3cret"
        );
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(
            value_of(&file, &environment)
                .unwrap_err()
                .ends_with("the file is not UTF-8 text")
        );
        fs::write(&path, vec![b'x'; (LONGEST_SECRET + 1) as usize]).unwrap();
        assert!(
            value_of(&file, &environment)
                .unwrap_err()
                .ends_with("longer than 1024 KiB")
        );
    }

    #[test]
    fn a_document_from_elsewhere_cannot_reach_into_this_machine() {
        let environment = environment().without_references();
        for text in ["${HOST}", "${HOST:-x}", "${file:/etc/hostname}", "${cred:x}"] {
            assert!(value_of(text, &environment).unwrap_err().contains("from elsewhere"));
        }
    }
}
