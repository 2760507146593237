//! Documents that verbs hand on.

use std::io::Read;
use std::path::Path;

use super::remote::Failure;
use crate::document;

/// The longest text that is taken from standard input; the same as for files.
const LONGEST: u64 = 64 << 20;

/// The name that mistakes are about, and the text of a file; "-" is standard input.
pub fn read(path: &Path) -> Result<(String, String), Failure> {
    if path.as_os_str() != "-" {
        let text = document::read(path).map_err(|mistakes| Failure::Failed(mistakes.to_string()))?;
        return Ok((path.display().to_string(), text));
    }
    let failed = |why: &dyn std::fmt::Display| Failure::Failed(format!("standard input: {why}"));
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    if bytes.len() as u64 > LONGEST {
        return Err(failed(&"longer than 64 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed(&"this is no UTF-8 text"))?;
    Ok(("(standard input)".to_owned(), text))
}
