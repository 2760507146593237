//! A revision from a file or a text, with everything that is wrong with it.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::Revision;
use super::raw::RawRevision;
use super::validate::{Surroundings, resolve};
use crate::document::{self, Document, Environment, Mistakes, Place, Severity, Source};

/// A revision and where its parts stand in the file, for checks that come later.
#[derive(Debug)]
pub struct Loaded {
    /// The revision.
    pub revision: Revision,
    /// The places of [`Revision::apis`], in the same order.
    pub places: Vec<ApiPlaces>,
    /// What somebody should look at. Never an error.
    pub warnings: Mistakes,
    /// Makes mistakes about this file: `loaded.source.mistake(place, Severity::Error, "…")`.
    pub source: Source,
}

/// Where the parts of an API stand in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiPlaces {
    /// Its name.
    pub api: Place,
    /// Its base path.
    pub base_path: Place,
    /// The paths of `Api::routes`, in the same order. Routes that nobody wrote have the place of the base path.
    pub routes: Vec<Place>,
}

impl Loaded {
    /// Adds what a later check found, such as routes that hide each other.
    ///
    /// # Errors
    /// All warnings and mistakes in the order of the file, when one of the new ones is an error.
    pub fn with(mut self, more: impl IntoIterator<Item = (Place, Severity, String)>) -> Result<Self, Mistakes> {
        let source = &self.source;
        let more = more
            .into_iter()
            .map(|(place, severity, message)| source.mistake(place, severity, message));
        self.warnings.extend(more);
        if self.warnings.refuse() {
            Err(self.warnings)
        } else {
            Ok(self)
        }
    }
}

/// Reads a revision from a file. What the file refers to by a relative path is relative to its directory.
///
/// # Errors
/// Everything that is wrong with it, at once. A file with warnings only is accepted.
pub fn load(path: &Path, environment: &Environment) -> Result<Loaded, Mistakes> {
    let text = document::read(path)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    parse(&text, &path.display().to_string(), directory, environment)
}

/// Reads a revision from a text that the user knows as `name`.
///
/// # Errors
/// Everything that is wrong with it, at once. A text with warnings only is accepted.
pub fn parse(text: &str, name: &str, directory: &Path, environment: &Environment) -> Result<Loaded, Mistakes> {
    let mut document = Document::parse(text, name, environment)?;
    let (raw, dropped) = document.decode::<RawRevision>();
    let place = document.place();
    let mut report = document.report;
    let surroundings = Surroundings {
        directory: Some(directory).filter(|_| !environment.is_for_publishing()),
        now: environment.now,
    };
    let resolved = raw.map(|raw| resolve(raw, place, &surroundings, &dropped, &mut report));
    let (source, warnings) = report.finish()?;
    // Decoding fails only with a reported error, so the default is never taken.
    let (mut revision, places) = resolved.unwrap_or_default();
    revision.digest = hex(&Sha256::digest(text.as_bytes()));
    Ok(Loaded {
        revision,
        places,
        warnings,
        source,
    })
}

/// The document as a plain value, references replaced as `environment` wants it: for publishing what [`parse`] found
/// free of mistakes.
///
/// # Errors
/// When it is not one document of YAML.
pub fn plain(text: &str, name: &str, environment: &Environment) -> Result<serde_json::Value, Mistakes> {
    let mut document = Document::parse(text, name, environment)?;
    let (value, _) = document.decode();
    document.report.finish()?;
    Ok(value.unwrap_or_default())
}

/// The JSON Schema of the file.
#[must_use]
pub fn schema() -> serde_json::Value {
    document::schema::of::<RawRevision>("tollgate: revision.yaml")
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

#[cfg(test)]
mod tests;
