//! Any text is a revision or a list of mistakes, and it is the same one when read again.
#![no_main]

use std::path::Path;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use tollgate::document::Environment;
use tollgate::revision;

fuzz_target!(|text: &str| {
    // No file of this machine may be read because some text asks for it.
    let environment = Environment::fixed([], Timestamp::UNIX_EPOCH).without_references();
    let read = || revision::parse(text, "revision.yaml", Path::new("/nonexistent"), &environment);
    match (read(), read()) {
        (Ok(first), Ok(second)) => assert_eq!(first.revision.digest, second.revision.digest),
        (Err(first), Err(second)) => assert_eq!(first.to_string(), second.to_string()),
        _ => panic!("read in two ways"),
    }
});
