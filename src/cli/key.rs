//! `tollgate key`

use clap::{Subcommand, ValueEnum};

use super::{DONE, FAILED, Output, USAGE, print_json, print_line};
use crate::auth::key::record_line;
use crate::auth::new_key;
use crate::names::{ApplicationName, KeyId};
use crate::revision::KeyType;

/// Verbs of `key`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a key. It is printed once; only the record, which holds its hash, is to be stored.
    New(New),
}

/// Arguments of `key new`.
#[derive(Debug, clap::Args)]
pub struct New {
    /// The application that the key is for.
    #[arg(long)]
    application: String,
    /// What it may be used for.
    #[arg(long = "type", value_enum, default_value_t = Type::Production)]
    key_type: Type,
    /// Its public name; made from the application's name when absent.
    #[arg(long)]
    id: Option<String>,
    /// Refused from this instant on (RFC 3339, such as 2027-01-01T00:00:00Z).
    #[arg(long)]
    expires: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    Production,
    Sandbox,
}

/// Does what was asked.
pub fn run(verb: &Verb, output: Output) -> u8 {
    let Verb::New(args) = verb;
    let expires = match args.expires.as_deref().map(str::parse::<jiff::Timestamp>).transpose() {
        Ok(expires) => expires,
        Err(error) => {
            eprintln!("--expires: {error}; write an instant such as 2027-01-01T00:00:00Z");
            return USAGE;
        }
    };
    let key_type = match args.key_type {
        Type::Production => KeyType::Production,
        Type::Sandbox => KeyType::Sandbox,
    };
    let application = ApplicationName::from(args.application.as_str());
    let key = match new_key(&application, key_type, args.id.as_deref().map(KeyId::from), expires) {
        Ok(key) => key,
        Err(error) => {
            eprintln!("no key: the operating system gave no randomness: {error}");
            return FAILED;
        }
    };
    let record = record_line(&key.record).to_string();
    if output == Output::Json {
        return print_json(&serde_json::json!({
            "application": application,
            "key": key.text.reveal(),
            "record": {
                "id": key.record.id,
                "sha256": hex(&key.record.sha256),
                "type": key_type.as_str(),
                "expires": key.record.expires.map(|expires| expires.to_string()),
            },
        }));
    }
    print_line(&format_args!(
        "key (shown once, hand it to the client):\n  {}\n",
        key.text.reveal()
    ));
    print_line(&format_args!(
        "record (for applications: {application}: keys: in the revision):\n  - {record}"
    ));
    DONE
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
